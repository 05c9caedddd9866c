"""What a check is given, and what it gives back."""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from lowrank_opt.testing._points import map_arrays, point_distance
from lowrank_opt.testing._runs import run

if TYPE_CHECKING:
    from lowrank_opt.core import Result, Solver

__all__ = ["BadInput", "ProblemCase", "SolverCase"]


@dataclass(frozen=True)
class BadInput:
    """An unusable input and the error that must answer it.

    Parameters
    ----------
    name : str
        What is wrong, for the report.
    call : callable
        Called without arguments; must raise.
    error : type
        Class of the exception.
    match : str, default=""
        Regular expression that the message must contain: the argument, the value.
    """

    name: str
    call: Callable[[], Any]
    error: type[BaseException]
    match: str = ""


def _perturbed(x: Any, rng: np.random.Generator) -> Any:
    """Change every floating-point array by a per cent."""

    def shake(array: Any) -> Any:
        noise = (1.0 + 0.01 * rng.standard_normal(array.shape)).astype(array.dtype)
        return array * noise

    return map_arrays(x, shake)


@dataclass(frozen=True, eq=False)
class SolverCase:
    """A solver, problems that it solves, and what the checks cannot find out by themselves.

    Only the first two fields are needed; a check whose hook is missing is reported as not
    applicable. Keep the problems small: some sixty runs are made of each case.

    Parameters
    ----------
    solver : Solver
        Converges on the factory's problems, in two or more iterations. A ``random_state`` of
        ``None`` is replaced by 0.
    problem_factory : callable
        ``problem_factory(dtype=numpy.float64, seed=0, xp=numpy)`` returns a problem. Keywords
        that it does not have are not passed.
    name : str, default=""
        For reports; the solver's representation by default.
    distance : callable
        ``distance(x, y)``: relative distance of two points in the form of ``Result.x``. The
        default sees arrays, tuples and dataclasses of arrays, and compares ``to_dense()`` where
        points have it.
    accuracy : float, default=1e-4
        How far two converged answers to the same problem may lie apart.
    float32_tol : float, default=1e-5
        The tolerance for problems in float32, when the solver's own is smaller.
    float32_accuracy : float, default=1e-4
        How far the answers in float32 and float64 may lie apart.
    own_dtype : tuple of str, default=()
        Arrays inside ``Result.x`` that need not have the problem's dtype, such as ``".alpha"``.
    perturb : callable
        ``perturb(x, rng)`` returns a point close to `x`; by default every array is multiplied by
        ``1 + 0.01 * normal``.
    reference : callable or None, default=None
        ``reference(problem, solver)`` computes the same answer in another, obvious way (the
        array-API twin of the kernels, a closed form, another library).
    degenerate : sequence of callable, default=()
        Each returns a problem at the edge (a single row, rank one, an empty column) on which the
        reference is compared too.
    bad_inputs : sequence of BadInput, default=()
        Inputs that must be refused, besides those that every solver must refuse.
    transforms : mapping of str to callable, default={}
        ``transform(problem, rng)`` returns another problem (rows permuted, data rescaled) and a
        function that maps an answer of the first to the answer of the second.
    work : callable or None, default=None
        ``work(problem, solver, nit)`` returns the documented counters after `nit` iterations.
    not_applicable : mapping of str to str, default={}
        Checks that do not apply to this solver, each with the reason.

    Examples
    --------
    >>> from lowrank_opt.testing import SolverCase
    >>> from lowrank_opt.testing.example import GradientDescent, make_quadratic
    >>> SolverCase(GradientDescent(tol=1e-8), make_quadratic).label
    'GradientDescent(tol=1e-08)'
    """

    solver: Solver
    problem_factory: Callable[..., Any]
    name: str = ""
    distance: Callable[[Any, Any], float] = point_distance
    accuracy: float = 1e-4
    float32_tol: float = 1e-5
    float32_accuracy: float = 1e-4
    own_dtype: tuple[str, ...] = ()
    perturb: Callable[[Any, np.random.Generator], Any] = _perturbed
    reference: Callable[[Any, Any], Any] | None = None
    degenerate: tuple[Callable[[], Any], ...] = ()
    bad_inputs: tuple[BadInput, ...] = ()
    transforms: Mapping[str, Callable[[Any, np.random.Generator], Any]] = field(
        default_factory=dict
    )
    work: Callable[[Any, Any, int], Mapping[str, int]] | None = None
    not_applicable: Mapping[str, str] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """Name for reports."""
        return self.name or repr(self.solver)

    @functools.cached_property
    def keywords(self) -> frozenset[str]:
        """Keywords of the problem factory among ``dtype``, ``seed`` and ``xp``."""
        parameters = inspect.signature(self.problem_factory).parameters
        if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
            return frozenset({"dtype", "seed", "xp"})
        return frozenset({"dtype", "seed", "xp"} & set(parameters))

    def problem(self, **keywords: Any) -> Any:
        """Return a new problem; keywords that the factory does not have are dropped.

        Parameters
        ----------
        **keywords
            ``dtype``, ``seed``, ``xp``.
        """
        return self.problem_factory(
            **{name: value for name, value in keywords.items() if name in self.keywords}
        )

    def new_solver(self, **params: Any) -> Any:
        """Return a copy of the solver with other parameters, a seed and a fixed ``check_every``.

        Parameters
        ----------
        **params
            Replace parameters.
        """
        values = {k: copy.deepcopy(v) for k, v in self.solver.get_params(deep=False).items()}
        if values.get("random_state", 0) is None:
            values["random_state"] = 0
        if values.get("check_every") == "auto":
            values["check_every"] = 1  # else the clock decides where a run stops
        known = {name: value for name, value in params.items() if name in values}
        solver = type(self.solver)(**{**values, **known})
        for name in params.keys() - known.keys():
            setattr(solver, name, params[name])  # a limit that the constructor does not offer
        return solver

    @functools.cached_property
    def _answer(self) -> Result:
        result = run(self.new_solver(check_every=1), self.problem())
        if not result.success:
            raise AssertionError(
                f"the solver must converge on problem_factory(), for the checks compare answers; "
                f"it says: {result.message}"
            )
        if result.nit < 2:
            raise AssertionError(
                f"the run takes {result.nit} iterations, too few to be interrupted: give a "
                "problem_factory whose problem needs two or more"
            )
        return result

    def answer(self) -> Result:
        """Return a copy of the result of an undisturbed run that checks every iteration."""
        return copy.deepcopy(self._answer)


@dataclass(frozen=True, eq=False)
class ProblemCase:
    """A problem, points of it, and what the checks cannot find out by themselves.

    Parameters
    ----------
    problem : Problem
        What to check.
    points : tuple
        Points in the form of ``Result.x``, not optimal; some checks need two.
    other : Problem or None, default=None
        The same class with other data; its fingerprint must differ.
    smooth : callable or None, default=None
        The smooth part of the objective, of which ``gradient`` is the gradient; by default the
        whole objective, unless the problem has a ``prox``.
    nonsmooth : callable or None, default=None
        The part of the objective that ``prox`` belongs to.
    """

    problem: Any
    points: tuple[Any, ...]
    other: Any = None
    smooth: Callable[[Any], float] | None = None
    nonsmooth: Callable[[Any], float] | None = None
