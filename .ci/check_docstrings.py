"""Validate the docstrings of all public classes and functions with numpydoc; `make lint` runs it.

`numpydoc lint` reads files, so it misses constructors that dataclasses write and takes private
helpers for public ones; this asks the packages themselves what is public.
"""

from __future__ import annotations

import enum
import importlib
import inspect
import sys

from numpydoc.validate import validate

import lowrank_opt

PACKAGES = ("core", "numerics", "datasets", "plotting", "testing", "papers", *lowrank_opt.FAMILIES)
IGNORED = {
    "ES01",  # an extended summary where there is something to add
    "EX01",  # examples are for solvers, estimators and front doors
    "SA01",
    "GL01",  # the summary begins on the opening line
    "SS06",  # the length of a line is ruff's business
}
# Messages that are no fault of the docstring.
EXPECTED = {
    # a dataclass field that is not a parameter for users
    "Parameters {'_written'} not documented",
    # numpydoc takes an argument called `cls` for the class itself
    "Unknown parameters {'cls'}",
}
# The base class documents what every solver's constructor takes, and has none itself.
ABSTRACT = ("lowrank_opt.core.Solver",)


def public_objects() -> dict[str, object]:
    """Classes and functions by import path, each once."""
    found = {}
    for package in PACKAGES:
        module = importlib.import_module(f"lowrank_opt.{package}")
        for name in getattr(module, "__all__", ()):
            value = getattr(module, name)
            ours = getattr(value, "__module__", "").startswith("lowrank_opt")
            if ours and (inspect.isclass(value) or inspect.isroutine(value)):
                found[f"{module.__name__}.{name}"] = value
    return found


def main() -> int:
    """Print the faults and return the exit status."""
    failures = 0
    for path, value in sorted(public_objects().items()):
        # Protocols and enumerations are not constructed by their users.
        abstract = (
            path in ABSTRACT
            or getattr(value, "_is_protocol", False)
            or isinstance(value, enum.EnumType)
        )
        for code, message in validate(path)["errors"]:
            if code in IGNORED or (abstract and code.startswith("PR")) or message in EXPECTED:
                continue
            failures += 1
            print(f"{path}: {code} {message}")
    print(f"{len(public_objects())} public docstrings, {failures} faults")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
