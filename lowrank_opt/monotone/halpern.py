"""Halpern iteration."""

from __future__ import annotations

from numbers import Real
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from lowrank_opt.core.params import Interval, StrOptions
from lowrank_opt.core.protocols import HasCertificate, HasFixedPointMap, HasMonotoneOperator
from lowrank_opt.monotone.maps import missing_for_maps, nonexpansive_map, warn_if_expansive
from lowrank_opt.monotone.operator_solver import OperatorSolver

if TYPE_CHECKING:
    from lowrank_opt.core.problem import Certificate

__all__ = ["Halpern", "MapSolver", "restart_due"]

# Restarts: drop of the residual that suffices, one that does when it rises again, share of all
# iterations, and how often to look.
SUFFICIENT, NECESSARY, LONG, EVERY = 0.2, 0.5, 0.36, 8


def restart_due(state: Any, now: float) -> bool:
    """Return whether the anchor should move, at an iteration whose residual is `now`.

    Parameters
    ----------
    state : OperatorState
        Keeps the first and the last residual of the epoch.
    now : float
        Residual of the iteration, which costs nothing.
    """
    memory, k = state.memory, state.inner
    if k == 0:
        memory["first"] = memory["last"] = now
        return False
    if k % EVERY:
        return False
    first, last = memory["first"], memory["last"]
    memory["last"] = now
    long = k >= LONG * state.nit and state.nit > EVERY
    return bool(now <= SUFFICIENT * first or (now <= NECESSARY * first and now > last) or long)


class MapSolver(OperatorSolver):
    """Base of the methods that iterate a nonexpansive map."""

    requires = (HasCertificate,)
    step_size: float | None = None

    @classmethod
    def accepts(cls, problem: Any) -> list[str]:
        """A map, a cocoercive operator, or an affine monotone one."""
        if not isinstance(problem, (HasFixedPointMap, HasMonotoneOperator)):
            return ["a nonexpansive map or a monotone operator"]
        return missing_for_maps(problem)

    def check(self, problem: Any) -> None:
        """Raise if a parameter is out of range or the problem has no nonexpansive map."""
        super().check(problem)
        step, L = self.step_size, getattr(problem, "lipschitz", None)
        if step is not None and L is not None and problem.cocoercive and step > 2.0 / L:
            from lowrank_opt.core.errors import ParameterError

            raise ParameterError(
                f"{type(self).__name__}: step_size={step} is larger than 2 / lipschitz = "
                f"{2.0 / L:g}: the map would not be nonexpansive"
            )

    def image(self, problem: Any, state: Any, z: Any) -> Any:
        """Return T(z), counted; warn when T is seen to be expansive.

        Parameters
        ----------
        problem : Problem
            What is solved.
        state : OperatorState
            Counts, and keeps the map.
        z : ndarray
            A flat point.
        """
        if state.cache is None:
            state.cache = nonexpansive_map(problem, self.step_size)
        T, calls = state.cache
        value = T(z)
        state.count(map_calls=1, component_calls=calls)
        if isinstance(problem, HasFixedPointMap):
            warn_if_expansive(state, z, value)
        return np.asarray(value, z.dtype)


class Halpern(MapSolver):
    r"""Halpern iteration: a nonexpansive map, drawn back to an anchor less and less.

    .. math:: u_{k+1} = \tfrac{1}{k+2} u_0 + \bigl(1 - \tfrac{1}{k+2}\bigr) T(u_k) .

    For every nonexpansive T with a fixed point at distance D of the anchor

    .. math:: \|u_k - T u_k\| \le \frac{2D}{k+1}

    holds for every k [1]_, the best possible constant; no method that only averages has such a
    rate for its last iterate. Without restarts the limit is the projection of the start onto the
    fixed points.

    Parameters
    ----------
    restart : {"adaptive"} or None, default="adaptive"
        ``"adaptive"``: the anchor moves to the current image when the residual has fallen to a
        fifth since the last time, to a half and rises again, or when the epoch is 0.36 of the run:
        linear convergence where the residual grows in proportion to the distance to the solutions.
        ``None``: the anchor stays.
    step_size : float or None, default=None
        Of the forward-backward map of a cocoercive F, at most 2/L; of the resolvent of an affine
        F. ``None``: 2/L without G, 1/L with it; 1/L.
    tol : float, default=1e-6
        Limit on the certificate's residual.
    max_iter : int, default=100000
        Limit on iterations.
    max_time : float or None, default=None
        Limit on seconds.
    check_every : int or "auto", default=10
        Iterations between two checks.

    See Also
    --------
    KrasnoselskiiMann : Averaging: slower in the worst case, often faster on easy problems.
    Anderson : Extrapolation with a safeguard.
    InexactHalpern : For monotone operators that are not cocoercive.

    Notes
    -----
    Cost of an iteration: one evaluation of the map, three passes over the vectors.
    For maps without a fixed point the residual tends to the length of the shortest displacement,
    and ``result.displacement``, :math:`2 (u_0 - u_k) / k` of the last epoch, to that displacement:
    a proof in the limit that there is none [1]_.

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

    citation = (
        "@article{lieder2021halpern, title={On the convergence rate of the Halpern-iteration}, "
        "author={Lieder, Felix}, journal={Optimization Letters}, volume={15}, pages={405--418}, "
        "year={2021}}"
    )
    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "restart": [None, StrOptions({"adaptive"})],
        "step_size": [None, Interval(Real, 0, None, closed="neither")],
    }

    def __init__(
        self,
        *,
        restart: str | None = "adaptive",
        step_size: float | None = None,
        tol: float = 1e-6,
        max_iter: int = 100_000,
        max_time: float | None = None,
        check_every: int | str = 10,
    ) -> None:
        self.restart = restart
        self.step_size = step_size
        self.tol = tol
        self.max_iter = max_iter
        self.max_time = max_time
        self.check_every = check_every

    def iterate_once(self, problem: Any, state: Any) -> None:
        """Do one step, and move the anchor where that is due."""
        image = self.image(problem, state, state.z)
        if self.restart is not None and restart_due(state, float(np.linalg.norm(state.z - image))):
            state.anchor, state.z, state.inner = image.copy(), image.copy(), -1
            return
        weight = 1.0 / (state.inner + 2.0)
        state.z = np.asarray(weight * state.anchor + (1.0 - weight) * image, state.z.dtype)

    def fields(
        self, problem: Any, state: Any, x: Any, certificate: Certificate | None
    ) -> dict[str, Any]:
        """Return counts, and the displacement of the last epoch."""
        k = max(state.inner, 1)
        displacement = problem.shaped((state.anchor - state.z) * (2.0 / k))
        return {**super().fields(problem, state, x, certificate), "displacement": displacement}
