"""What solvers of fixed points and inclusions share."""

from __future__ import annotations

import abc
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from lowrank_opt.core.solver import Solver
from lowrank_opt.core.state import State, Status

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lowrank_opt.core.problem import Certificate

__all__ = ["OperatorSolver", "OperatorState"]


@dataclass
class OperatorState(State):
    """State of a run on a flat array.

    Parameters
    ----------
    z : ndarray of shape (size,)
        The iterate.
    anchor : ndarray of shape (size,) or None
        Where the iteration is drawn back to.
    inner : int
        Iterations since the anchor was set.
    memory : dict of str to ndarray or float
        What a method keeps from one iteration to the next.
    best_z : ndarray of shape (size,) or None
        The best iterate seen at a check.
    """

    z: Any = None
    anchor: Any = None
    inner: int = 0
    memory: dict[str, Any] = field(default_factory=dict)
    best_z: Any = None


class OperatorSolver(Solver):
    """Base of the solvers of fixed points, inclusions and games.

    A derived class writes ``begin(problem, state)``, which may put things into ``state.memory``,
    and ``iterate_once(problem, state)``, one iteration on ``state.z``. Both count what they ask of
    the problem through the helpers ``operator``, ``resolvent`` and ``image``. Everything that
    decides the path of the iteration must depend on ``state`` alone, not on when checks happen.

    The residual at a check is ``problem.measure(z)``, in the problem's own precision; the problem's
    certificate computes the same number with other code in float64. The best iterate is kept.

    Results have the fields ``n_oracle`` (evaluations of single terms of the operator, or of the
    map) and ``n_epochs`` (the same over the number of terms), and for games ``value`` and ``gap``.
    Evaluations for checks are not counted: a user who does not look does not pay them.
    """

    monotone = False

    def init(self, problem: Any, x0: Any = None) -> OperatorState:
        """Return the state at a start, with its residual."""
        z = problem.start() if x0 is None else problem.flat(x0)
        state = OperatorState(z=z)
        self.begin(problem, state)
        self.look(problem, state)
        return state

    def begin(self, problem: Any, state: Any) -> None:
        """Prepare ``state.memory`` at the start.

        Parameters
        ----------
        problem : Problem
            What is solved.
        state : OperatorState
            Has ``z``.
        """
        state.anchor = state.z.copy()

    @abc.abstractmethod
    def iterate_once(self, problem: Any, state: Any) -> None:
        """Do one iteration.

        Parameters
        ----------
        problem : Problem
            What is solved.
        state : OperatorState
            Changed in place.
        """

    def step(self, problem: Any, state: Any, n: int = 1) -> Any:
        """Do `n` iterations and measure the point."""
        with np.errstate(all="ignore"):
            for _ in range(n):
                self.iterate_once(problem, state)
                state.nit += 1
                state.inner += 1
            self.look(problem, state)
        return state

    def candidate(self, problem: Any, state: Any) -> NDArray[Any]:
        """Return the flat point that is the answer at a state: the iterate by default."""
        z: NDArray[Any] = state.z
        return z

    def look(self, problem: Any, state: Any) -> None:
        """Measure the point and keep it when it is the best."""
        z = self.candidate(problem, state)
        residual = problem.measure(z) if np.all(np.isfinite(z)) else math.nan
        state.residual = float(residual)
        if residual < state.best_residual:
            state.best_residual, state.best_z = state.residual, np.array(z)

    def terminate(self, problem: Any, state: Any) -> Status | None:
        """Converged when the residual is within the tolerance."""
        if state.memory.get("stalled"):
            return Status.CONVERGED if state.residual <= self.tol else Status.STALLED
        return super().terminate(problem, state)

    def point(self, problem: Any, state: Any) -> Any:
        """Return the answer in the problem's natural form."""
        return problem.shaped(self.candidate(problem, state))

    def answer(self, problem: Any, state: Any, status: Status) -> tuple[Any, float]:
        """Return the last iterate if the run converged, else the best one."""
        if status is Status.CONVERGED or state.best_z is None:
            return self.point(problem, state), state.residual
        return problem.shaped(state.best_z), state.best_residual

    def fields(
        self, problem: Any, state: Any, x: Any, certificate: Certificate | None
    ) -> dict[str, Any]:
        """Return the counts of oracle calls, and value and gap of games."""
        calls = state.counts.get("component_calls", 0)
        fields: dict[str, Any] = {
            "n_oracle": calls, "n_epochs": calls / getattr(problem, "n_terms", 1),
        }  # fmt: skip
        if hasattr(problem, "spread") and certificate is not None:
            upper, lower = certificate.details["upper"], certificate.details["lower"]
            fields["value"], fields["gap"] = 0.5 * (upper + lower), certificate.gap
        return fields

    # -- oracles that count -----------------------------------------------------------------------

    @staticmethod
    def operator(problem: Any, state: Any, z: Any) -> NDArray[Any]:
        """Return F(z), counted as all terms.

        Parameters
        ----------
        problem : Problem
            What is solved.
        state : OperatorState
            Counts.
        z : ndarray
            A flat point.
        """
        state.count(operator_calls=1, component_calls=problem.n_terms)
        value: NDArray[Any] = problem.operator(z)
        return value

    @staticmethod
    def resolvent(problem: Any, state: Any, z: Any, step: float) -> NDArray[Any]:
        """Return the resolvent of G at z, counted.

        Parameters
        ----------
        problem : Problem
            What is solved.
        state : OperatorState
            Counts.
        z : ndarray
            A flat point.
        step : float
            Positive.
        """
        state.count(resolvent_calls=1)
        value: NDArray[Any] = problem.resolvent(z, step)
        return value
