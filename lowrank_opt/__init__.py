"""lowrank_opt: published optimisation algorithms, certified and fast.

Names and sub-packages load when they are first used, so that ``import lowrank_opt`` costs no more
than a few milliseconds.
"""

from __future__ import annotations

import importlib
import logging
from typing import Any

__version__ = "0.1.0.dev0"

FAMILIES = ("recovery", "transport", "block_coordinate", "lipschitz", "monotone")

_SUBPACKAGES = (
    "core",
    "datasets",
    "numerics",
    "papers",
    "plotting",
    "testing",
    *FAMILIES,
)
_HOME = {
    "complete": "lowrank_opt.recovery",
    "show_versions": "lowrank_opt.core.environment",
    "solve": "lowrank_opt.core",
    "warmup": "lowrank_opt.core",
}

__all__ = [
    "FAMILIES",
    "__version__",
    *sorted((*_SUBPACKAGES, *_HOME)),
]

logging.getLogger("lowrank_opt").addHandler(logging.NullHandler())


def __getattr__(name: str) -> Any:
    if name in _SUBPACKAGES:
        return importlib.import_module(f"lowrank_opt.{name}")
    if name in _HOME:
        value = getattr(importlib.import_module(_HOME[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'lowrank_opt' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
