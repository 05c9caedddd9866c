"""Halpern iteration."""

from __future__ import annotations

from numbers import Real
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from lowrank_opt.core.params import Interval, StrOptions
from lowrank_opt.core.solver import Solver
from lowrank_opt.core.state import Status
from lowrank_opt.monotone.maps import MapSolver
from lowrank_opt.monotone.operator_solver import due

if TYPE_CHECKING:
    from lowrank_opt.core.problem import Certificate

__all__ = ["Halpern"]

# When there seems to be no fixed point: length of the epoch, and how far the displacement may lie
# from the present residual.
_LONG, _CLOSE = 50, 0.02


class Halpern(MapSolver):
    r"""Halpern iteration: a nonexpansive map, drawn back to an anchor less and less.

    .. math:: u_{k+1} = \lambda_k u_0 + (1 - \lambda_k)\, T(u_k), \qquad \lambda_k = 1 / (k + 2)

    For every nonexpansive T with a fixed point at distance D of the anchor

    .. math:: \|u_k - T(u_k)\| \le 2 D / (k + 1)

    for every k [1]_, with the best possible constant; methods that only average have no such rate.
    Without restarts the limit is the projection of the start on the fixed points.

    Parameters
    ----------
    restart : {"adaptive"} or None, default="adaptive"
        "adaptive": the anchor moves to (u + T(u)) / 2 when the fixed-point error has fallen to a
        fifth since the last time, when it has fallen to a half and rises, or when the epoch is 0.36
        of the run: linear convergence where the error grows in proportion to the distance to the
        solutions. ``None``: the anchor stays.
    reflect : bool, default=True
        For inclusions, whether T is the longest nonexpansive map: I - (2/L) F instead of
        I - F/L; the forward-backward step extrapolated; the resolvent's reflection 2 J - I. The
        guarantee doubles.
    anchoring : float, default=1.0
        The number a in :math:`\lambda_k = a / (k + 2 a)`. The guarantee is that of a = 1; a = 2 is
        the weight of variance-reduced methods.
    step_size : float or None, default=None
        Of the forward-backward map of a cocoercive F, at most 2/L; of the resolvent of an affine F
        that is only monotone. ``None``: 2/L without G, 1/L with it; 1/L.
    tol : float, default=1e-6
        Stops when the certificate's residual is at most `tol`: the fixed-point residual or natural
        residual, relative to that of the problem's start.
    max_iter : int, default=100_000
        Limit on iterations.
    max_time : float or None, default=None
        Limit on seconds.
    check_every : int or "auto", default="auto"
        Iterations between two checks of limits and callback.
    n_threads : int or None, default=None
        Limit on threads.

    See Also
    --------
    KrasnoselskiiMann : Averaging: slower in the worst case, often faster on easy problems.
    Anderson : Extrapolation with a safeguard.
    InexactHalpern : For monotone operators that are not cocoercive.

    Notes
    -----
    Problems: a nonexpansive map; an inclusion whose F is cocoercive; one whose F is affine and
    monotone, given as ``(M, q)``, and whose G is 0: then every iteration solves with the
    factorised matrix. Forward steps on an operator that is only monotone may diverge: such
    problems are refused.

    Cost of an iteration: one evaluation of the map, three passes over the vectors; measuring is
    free. In memory: the anchor, the iterate, its image, the best point.

    For maps without a fixed point the residual tends to the length of the shortest displacement v
    (the infimal displacement), and ``result.displacement``, :math:`(1 + a) (u_0 - u_k) / k` of the
    last epoch, a the anchoring, to v itself. The message then says so; it is no proof, and the
    status is that of the limit.

    References
    ----------
    .. [1] F. Lieder, "On the convergence rate of the Halpern-iteration", Optimization Letters 15,
       2021.

    Examples
    --------
    A rotation by a right angle, on which plain iteration turns for ever:

    >>> import numpy as np
    >>> from lowrank_opt.monotone import FixedPointProblem, Halpern
    >>> problem = FixedPointProblem(lambda u: np.array([-u[1], u[0]]), np.ones(2))
    >>> result = Halpern(restart=None, tol=1e-3).solve(problem)
    >>> result.success, bool(np.linalg.norm(result.x) < 1e-3)
    (True, True)
    """

    citation: ClassVar[str | None] = (
        "@article{lieder2021halpern, title={On the convergence rate of the Halpern-iteration}, "
        "author={Lieder, Felix}, journal={Optimization Letters}, volume={15}, pages={405--418}, "
        "year={2021}}"
    )
    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **Solver._parameter_constraints,
        "restart": [None, StrOptions({"adaptive"})],
        "reflect": ["boolean"],
        "anchoring": [Interval(Real, 0, None, closed="neither")],
        "step_size": [None, Interval(Real, 0, None, closed="neither")],
    }

    def __init__(
        self,
        *,
        restart: str | None = "adaptive",
        reflect: bool = True,
        anchoring: float = 1.0,
        step_size: float | None = None,
        tol: float = 1e-6,
        max_iter: int = 100_000,
        max_time: float | None = None,
        check_every: int | str = "auto",
        n_threads: int | None = None,
    ) -> None:
        self.restart = restart
        self.reflect = reflect
        self.anchoring = anchoring
        self.step_size = step_size
        self.tol = tol
        self.max_iter = max_iter
        self.max_time = max_time
        self.check_every = check_every
        self.n_threads = n_threads

    def advance(self, problem: Any, state: Any) -> None:
        """Do one step, or move the anchor where that is due; see :class:`OperatorSolver`."""
        z, image = state.x, state.image
        if self.restart is not None and due(state, float(np.linalg.norm(z - image))):
            state.x = np.asarray(0.5 * (z + image), problem.dtype)
            state.anchor = state.x.copy()
            return
        weight = self.anchoring / (state.inner + 2.0 * self.anchoring)
        state.x = np.asarray(weight * state.anchor + (1.0 - weight) * image, problem.dtype)
        state.inner += 1

    def answer(self, problem: Any, state: Any, status: Status) -> tuple[Any, float]:
        """Return the best point; say so when there seems to be no fixed point."""
        if status in (Status.ITERATION_LIMIT, Status.TIME_LIMIT) and state.inner >= _LONG:
            v = _displacement(state, self.anchoring)
            r = np.asarray(state.x - state.image, np.float64)
            size = float(np.linalg.norm(v))
            if float(np.linalg.norm(v - r)) <= _CLOSE * size:
                state.message = (
                    "There seems to be no fixed point: the iterates drift by "
                    f"{size:.3e} an iteration, see result.displacement"
                )
        return super().answer(problem, state, status)

    def fields(
        self, problem: Any, state: Any, x: Any, certificate: Certificate | None
    ) -> dict[str, Any]:
        """Return counts, and the displacement of the last epoch."""
        v = problem.shaped(_displacement(state, self.anchoring))
        return {**super().fields(problem, state, x, certificate), "displacement": v}


def _displacement(state: Any, anchoring: float) -> Any:
    scale = (1.0 + anchoring) / max(state.inner, 1)
    return (np.asarray(state.anchor, np.float64) - state.x) * scale
