"""Compile, or load from the disk cache, the usual signatures of all kernels."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from lowrank_opt.core.errors import ParameterError
from lowrank_opt.core.params import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["warmup"]


def warmup(families: Iterable[str] | None = None) -> dict[str, float]:
    """Compile the usual kernel signatures on tiny inputs.

    Nothing compiles at import: the first call of a kernel does, and numba keeps the result on
    disk. Call this once after installation, or when building a container image.

    Parameters
    ----------
    families : iterable of str or None, default=None
        Family names such as ``"recovery"``; ``None``: all.

    Returns
    -------
    dict of str to float
        Seconds per kernel, ``"family.kernel"``.
    """
    from lowrank_opt import FAMILIES

    if isinstance(families, str):
        families = [families]
    seconds: dict[str, float] = {}
    for family in FAMILIES if families is None else families:
        if family not in FAMILIES:
            raise ParameterError(
                f"warmup: there is no family {family!r}." + did_you_mean(family, FAMILIES)
            )
        module = importlib.import_module(f"lowrank_opt.{family}")
        for name, value in module.warmup().items():
            seconds[f"{family}.{name}"] = value
    return seconds
