"""Solvers by name, and the front door ``lowrank_opt.solve``."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from lowrank_opt.core.errors import ParameterError
from lowrank_opt.core.params import did_you_mean, instantiate

if TYPE_CHECKING:
    from lowrank_opt.core.result import Result
    from lowrank_opt.core.solver import Solver

__all__ = ["register_solvers", "registered_solvers", "solve", "solver_class", "solvers_for"]

_SOLVERS: dict[str, str] = {}
_SOLVE_KEYWORDS = ("x0", "state", "callback", "history", "progress", "checkpoint")


def register_solvers(package: str, names: tuple[str, ...]) -> None:
    """Make solver classes known by name; a family calls it from its ``__init__``.

    Parameters
    ----------
    package : str
        Import path from which the names can be had.
    names : tuple of str
        Class names.
    """
    for name in names:
        _SOLVERS[name] = package


def _import_families() -> None:
    from lowrank_opt import FAMILIES

    for family in FAMILIES:
        importlib.import_module(f"lowrank_opt.{family}")


def registered_solvers() -> dict[str, type[Solver]]:
    """Return all registered solver classes; imports every family.

    Returns
    -------
    dict of str to type
        Classes by name, sorted.
    """
    _import_families()
    return {name: solver_class(name) for name in sorted(_SOLVERS)}


def solver_class(name: str) -> type[Solver]:
    """Return the solver class called `name`.

    Parameters
    ----------
    name : str
        Name of the class.

    Returns
    -------
    type
        The class; its family is imported.

    Raises
    ------
    ParameterError
        If there is none; the message suggests the closest name.
    """
    if name not in _SOLVERS:
        _import_families()
    if name not in _SOLVERS:
        raise ParameterError(f"there is no solver {name!r}." + did_you_mean(name, _SOLVERS))
    cls: type[Solver] = getattr(importlib.import_module(_SOLVERS[name]), name)
    return cls


def solvers_for(problem: Any) -> list[str]:
    """Return the names of the registered solvers that can solve a problem.

    Those whose ``requires`` it meets and whose :meth:`Solver.accepts` has no objection.

    Parameters
    ----------
    problem : Problem
        Any problem.

    Returns
    -------
    list of str
        Names, sorted.
    """
    return [
        name
        for name, cls in registered_solvers().items()
        if cls.requires
        and all(isinstance(problem, p) for p in cls.requires)
        and not cls.accepts(problem)
    ]


def solve(problem: Any, solver: str | Solver = "auto", **params: Any) -> Result:
    """Solve any problem of the library.

    Parameters
    ----------
    problem : Problem
        What to solve.
    solver : str or Solver, default="auto"
        A solver's name, an instance, or ``"auto"``: the problem chooses, by the rule in its
        documentation (``problem.auto_solver()``).
    **params
        ``x0``, ``state``, ``callback``, ``history``, ``progress`` and ``checkpoint`` go to
        :meth:`Solver.solve`, everything else to the solver's constructor (for an instance:
        replaces parameters of a copy).

    Returns
    -------
    Result
        The answer with its certificate.

    Raises
    ------
    ParameterError
        Unknown solver name or parameter out of range.
    ProblemError
        Data instead of a problem.
    TypeError
        A keyword that the solver does not take; the message suggests the closest one.
    """
    from lowrank_opt.core.solver import Solver, check_is_problem

    check_is_problem(problem, "lowrank_opt.solve")
    keywords = {name: params.pop(name) for name in _SOLVE_KEYWORDS if name in params}
    if isinstance(solver, Solver):
        chosen = instantiate(
            type(solver), {**solver.get_params(deep=False), **params}, "lowrank_opt.solve"
        )
    elif isinstance(solver, str):
        name, defaults = problem.auto_solver() if solver == "auto" else (solver, {})
        chosen = instantiate(solver_class(name), {**defaults, **params}, "lowrank_opt.solve")
    else:
        raise ParameterError(
            f"solver={solver!r} must be 'auto', a solver's name or a Solver instance"
        )
    return chosen.solve(problem, **keywords)
