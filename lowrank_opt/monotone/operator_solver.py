"""What solvers of fixed points, inclusions and games have in common."""

from __future__ import annotations

import abc
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from lowrank_opt.core.solver import Solver
from lowrank_opt.core.state import State, Status

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lowrank_opt.core.problem import Certificate

__all__ = ["OperatorSolver", "OperatorState", "due"]

_POINTS = ("start", "flat", "shaped", "measure")


@dataclass
class OperatorState(State):
    """State of a method on flat arrays; see :class:`~lowrank_opt.core.State`.

    ``x`` is the current iterate and ``best`` the best point so far, flat arrays in the problem's
    dtype.

    Parameters
    ----------
    image : ndarray or None
        The operator (or the map) at ``x``, for the next iteration.
    anchor : ndarray or None
        Where the epoch began.
    inner : int
        Iterations in this epoch.
    restarts : int
        Epochs ended.
    first, last : float
        Fixed-point error at the beginning of the epoch and in the last iteration.
    warned : bool
        Whether a doubt about the problem was reported.
    """

    image: Any = None
    anchor: Any = None
    inner: int = 0
    restarts: int = 0
    first: float = np.inf
    last: float = np.inf
    warned: bool = False


class OperatorSolver(Solver):
    """Base class of methods for fixed points, inclusions and games.

    A method works on flat arrays of the problem's dtype. It writes :meth:`advance`, one iteration
    that replaces ``state.x``, and evaluates operators through :meth:`value` and :meth:`backward`,
    which count. After each iteration :meth:`look` evaluates the operator at the new iterate
    (``state.image``, which the next iteration finds there: measuring costs no evaluation) and
    measures it by ``problem.measure(z, image)``, the certificate's number in the problem's dtype.
    The best point is kept. A method whose answer is not its iterate, or that measures more
    rarely, writes its own :meth:`look` and calls :meth:`keep`.

    Parameters
    ----------
    tol, max_iter, max_time, check_every, n_threads
        See :class:`~lowrank_opt.core.Solver`.

    Notes
    -----
    Counters: ``operator_calls``, ``resolvent_calls``, ``map_calls``, and ``component_calls``, the
    evaluations of single terms: a full evaluation counts ``n_terms``. Results have the fields
    ``n_oracle`` (component calls, or map calls) and ``n_epochs`` (that over the number of terms);
    of a game, ``value`` and ``gap``.
    """

    monotone: ClassVar[bool] = False
    needs: ClassVar[tuple[str, ...]] = ("operator", "resolvent")
    _state: ClassVar[type[OperatorState]] = OperatorState

    @classmethod
    def accepts(cls, problem: Any) -> list[str]:
        """Return the methods that the problem lacks."""
        return [name for name in (*_POINTS, *cls.needs) if not hasattr(problem, name)]

    # -- what methods write -----------------------------------------------------------------------

    @abc.abstractmethod
    def advance(self, problem: Any, state: Any) -> None:
        """Do one iteration: replace ``state.x``.

        Parameters
        ----------
        problem : Problem
            What to solve.
        state : OperatorState
            The state; ``state.image`` belongs to ``state.x``.
        """

    def look(self, problem: Any, state: Any) -> None:
        """Evaluate the operator at the iterate, measure it, and keep the best.

        Parameters
        ----------
        problem : Problem
            What to solve.
        state : OperatorState
            The state.
        """
        state.image = self.value(problem, state, state.x)
        if getattr(problem, "prox", None) is not None:
            state.count(resolvent_calls=1)
        self.keep(state, state.x, float(problem.measure(state.x, state.image)))

    def keep(self, state: Any, z: Any, residual: float) -> None:
        """Note the residual of the present point, and the point when it is the best.

        Parameters
        ----------
        state : OperatorState
            The state.
        z : ndarray
            A flat point.
        residual : float
            Its residual.
        """
        state.residual = residual
        if state.best is None or residual < state.best_residual:
            state.best, state.best_residual = np.array(z), residual

    # -- oracles, counted -------------------------------------------------------------------------

    def value(self, problem: Any, state: Any, z: Any) -> NDArray[Any]:
        """Return the operator at a flat point, and count it.

        Parameters
        ----------
        problem : Problem
            What to solve.
        state : OperatorState
            Where to count.
        z : ndarray
            A point.
        """
        state.count(operator_calls=1, component_calls=getattr(problem, "n_terms", 1))
        return np.asarray(problem.operator(z), problem.dtype)

    def backward(self, problem: Any, state: Any, z: Any, step: float) -> NDArray[Any]:
        """Return the resolvent at a flat point, and count it.

        Parameters
        ----------
        problem : Problem
            What to solve.
        state : OperatorState
            Where to count.
        z : ndarray
            A point.
        step : float
            Step.
        """
        state.count(resolvent_calls=1)
        return np.asarray(problem.resolvent(z, step), problem.dtype)

    # -- the driver's methods ---------------------------------------------------------------------

    def init(self, problem: Any, x0: Any = None) -> OperatorState:
        """Return the first state; see :class:`Solver`."""
        z = problem.start() if x0 is None else problem.flat(x0)
        if hasattr(problem, "admissible"):
            z = problem.admissible(z)
        state = self._state(x=z, anchor=z.copy())
        self.look(problem, state)
        return state

    def step(self, problem: Any, state: Any, n: int = 1) -> OperatorState:
        """Do up to `n` iterations; see :class:`Solver`."""
        with np.errstate(all="ignore"):
            for _ in range(n):
                self.advance(problem, state)
                state.nit += 1
                self.look(problem, state)
                if not state.residual > self.tol:  # converged, or not a number
                    break
        return state  # type: ignore[no-any-return]

    def point(self, problem: Any, state: Any) -> Any:
        """Return the best point in the problem's natural form."""
        return problem.shaped(state.best)

    def answer(self, problem: Any, state: Any, status: Status) -> tuple[Any, float]:
        """Return the best point."""
        return problem.shaped(state.best), state.best_residual

    def fields(
        self, problem: Any, state: Any, x: Any, certificate: Certificate | None
    ) -> dict[str, Any]:
        """Return what the run cost; of a game, its value and the gap."""
        counts = state.counts
        calls = counts.get("component_calls", counts.get("map_calls", 0))
        fields = {"n_oracle": calls, "n_epochs": calls / getattr(problem, "n_terms", 1)}
        if certificate is not None and certificate.gap is not None:
            fields["gap"] = certificate.gap
            fields["value"] = certificate.objective - 0.5 * certificate.gap
        return fields


def due(state: Any, error: float, share: float = 0.36) -> bool:
    """Return whether an epoch ends, and if so begin to count the next one.

    It ends when the error has dropped to a fifth, when it has dropped to a half and now rises, or
    when the epoch makes up `share` of all iterations.

    Parameters
    ----------
    state : OperatorState
        Whose ``first``, ``last``, ``inner``, ``restarts`` are read and set.
    error : float
        Fixed-point error of the present iterate.
    share : float, default=0.36
        Of iterations, after which an epoch ends anyway.

    Notes
    -----
    The rule is that of restarted Halpern PDHG [1]_.

    References
    ----------
    .. [1] H. Lu, Z. Peng, J. Yang, "cuPDLPx", 2025. :arxiv:`2507.14051`
    """
    if state.inner <= 1:
        state.first = error
    last, state.last = state.last, error
    ends = state.inner > 1 and (
        error <= 0.2 * state.first
        or (error <= 0.5 * state.first and error > last)
        or state.inner >= share * (state.nit + 1)
    )
    if ends:
        state.inner, state.restarts, state.last = 0, state.restarts + 1, float("inf")
    return ends
