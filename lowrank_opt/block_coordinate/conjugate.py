"""Conjugate gradients for quadratics: where blocks are too slow and a factor too large."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from lowrank_opt.core.protocols import HasSmoothPart
from lowrank_opt.core.solver import Solver
from lowrank_opt.core.state import State, Status

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["ConjugateGradients", "ConjugateState"]

# Iterations after which the gradient is computed anew, against drift.
_FRESH = 50
# Fresh gradients in a row that are no better than the best one.
_PATIENCE = 10


@dataclass
class ConjugateState(State):
    """State of conjugate gradients.

    Parameters
    ----------
    x : ndarray of float64, of shape (n,)
        The point.
    r, p : ndarray of float64, of shape (n,)
        Minus the gradient, and the direction.
    rho : float
        ``r' D^-1 r``.
    lowest : float
        Lowest residual of a gradient that was computed anew.
    idle : int
        Gradients computed anew since then.
    """

    r: Any = None
    p: Any = None
    rho: float = 0.0
    lowest: float = np.inf
    idle: int = 0


class ConjugateGradients(Solver):
    r"""Conjugate gradients with the diagonal as preconditioner.

    Solves :math:`\min_x \tfrac12 x^\top A x - b^\top x` for a
    :class:`~lowrank_opt.block_coordinate.QuadraticProblem` by one product with A an iteration.

    Parameters
    ----------
    tol : float, default=1e-6
        Stops when the largest absolute derivative is at most `tol` times ``null_gradient``.
    max_iter : int, default=10_000
        Limit on iterations.
    max_time : float or None, default=None
        Limit on seconds.
    check_every : int or "auto", default=10
        Iterations between two checks of limits.

    Notes
    -----
    Guarantee: the error in the norm of A falls by ``(sqrt(k) - 1) / (sqrt(k) + 1)`` an iteration,
    for the condition k of the matrix scaled to a unit diagonal; block descent has ``k`` in the
    place of its root.
    """

    requires: ClassVar[tuple[type, ...]] = (HasSmoothPart,)
    blas_threads: ClassVar[int | None] = 1  # inner products: waking threads costs more

    def __init__(
        self,
        *,
        tol: float = 1e-6,
        max_iter: int = 10_000,
        max_time: float | None = None,
        check_every: int | str = 10,
    ) -> None:
        self.tol = tol
        self.max_iter = max_iter
        self.max_time = max_time
        self.check_every = check_every

    @classmethod
    def accepts(cls, problem: Any) -> list[str]:
        """Return what a problem lacks; see :class:`Solver`."""
        quadratic = problem.penalty is None and hasattr(problem.smooth, "A")
        return [] if quadratic else ["a quadratic objective without penalty"]

    def init(self, problem: Any, x0: Any = None) -> ConjugateState:
        """Return the first state; see :class:`Solver`."""
        smooth = problem.smooth
        x = np.zeros(smooth.n_variables) if x0 is None else problem.flat(x0)
        state = ConjugateState(x=x, p=np.zeros_like(x))
        self._refresh(smooth, state)
        self._turn(smooth, state)
        return state

    def step(self, problem: Any, state: Any, n: int = 1) -> ConjugateState:
        """Do up to `n` iterations; see :class:`Solver`."""
        smooth = problem.smooth
        for _ in range(n):
            if state.rho == 0.0:
                break
            q = smooth.start(state.p)
            curvature = float(state.p @ q)
            if not curvature > 0.0:
                raise np.linalg.LinAlgError(
                    f"A is not positive definite: a direction has the curvature {curvature:g}; "
                    "add a multiple of the identity"
                )
            t = state.rho / curvature
            state.x += t * state.p
            state.r -= t * q
            state.nit += 1
            state.count(products=1)
            state.residual = _size(smooth, state.r)
            if state.residual <= self.tol or state.nit % _FRESH == 0:
                self._refresh(smooth, state)
            self._turn(smooth, state)
            if state.residual <= self.tol or state.idle >= _PATIENCE:
                break
        return state

    def _refresh(self, smooth: Any, state: Any) -> None:
        """Compute the gradient anew: what the recurrence says is not what is certified."""
        state.r = smooth.b - smooth.start(state.x)
        state.count(products=1)
        state.residual = _size(smooth, state.r)
        state.idle = 0 if state.residual < state.lowest else state.idle + 1
        state.lowest = min(state.lowest, state.residual)

    def _turn(self, smooth: Any, state: Any) -> None:
        """Make the next direction conjugate to the last one."""
        diagonal = smooth.lipschitz
        z = np.divide(state.r, diagonal, out=state.r.copy(), where=diagonal > 0)
        rho = float(state.r @ z)
        state.p = z + (rho / state.rho if state.rho else 0.0) * state.p
        state.rho = rho

    def terminate(self, problem: Any, state: Any) -> Status | None:
        """Return why to stop; ``STALLED`` where rounding limits the accuracy."""
        status = super().terminate(problem, state)
        if status is None and state.idle >= _PATIENCE:
            state.message = "The gradient no longer falls: rounding limits the accuracy"
            return Status.STALLED
        return status

    def point(self, problem: Any, state: Any) -> NDArray[Any]:
        """Return the point in the dtype of the problem."""
        shaped: NDArray[Any] = problem.smooth.shaped(state.x)
        return shaped


def _size(smooth: Any, r: NDArray[Any]) -> float:
    return float(np.abs(r).max()) / float(smooth.null_gradient)
