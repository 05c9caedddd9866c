"""Packages whose names load when they are first used."""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

__all__ = ["lazy_names"]


def lazy_names(
    package: str, home: Mapping[str, Sequence[str]]
) -> tuple[list[str], Callable[[str], Any], Callable[[], list[str]]]:
    """Return ``__all__``, ``__getattr__`` and ``__dir__`` for a package (PEP 562).

    A stub beside the package's ``__init__.py`` lists the same names for editors and type checkers.

    Parameters
    ----------
    package : str
        The package's ``__name__``.
    home : mapping of str to sequence of str
        For each module of the package the names that it provides.

    Returns
    -------
    names : list of str
        All names, sorted.
    getattr_, dir_ : callable
        Module-level ``__getattr__`` and ``__dir__``.
    """
    module_of = {name: module for module, names in home.items() for name in names}

    def getattr_(name: str) -> Any:
        if name not in module_of:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(f"{package}.{module_of[name]}"), name)
        setattr(sys.modules[package], name, value)
        return value

    def dir_() -> list[str]:
        return sorted({*vars(sys.modules[package]), *module_of})

    return sorted(module_of), getattr_, dir_
