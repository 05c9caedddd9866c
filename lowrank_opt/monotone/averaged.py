"""Averaged iterations of nonexpansive maps, plain and extrapolated."""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import Any, ClassVar

import numpy as np
import scipy.linalg as la

from lowrank_opt.core.params import COUNT, Interval, StrOptions
from lowrank_opt.monotone.halpern import MapSolver

__all__ = ["Anderson", "KrasnoselskiiMann"]

LARGEST_COEFFICIENT = 1e10


class KrasnoselskiiMann(MapSolver):
    r"""Krasnoselskii-Mann iteration: :math:`u_{k+1} = (1 - a) u_k + a\, T(u_k)`.

    The residual never increases, and :math:`\|u_k - T u_k\| \le D / \sqrt{a(1-a)(k+1)}` for every
    nonexpansive T with a fixed point at distance D of the start [1]_.

    Parameters
    ----------
    relaxation : float, default=0.5
        a, in (0, 1).
    step_size : float or None, default=None
        Of the forward-backward map, see :class:`Halpern`.
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
    Halpern : A faster guarantee.

    References
    ----------
    .. [1] R. Cominetti, J. A. Soto, J. Vaisman, "On the rate of convergence of
       Krasnosel'skii-Mann iterations and their connection with sums of Bernoullis", Israel Journal
       of Mathematics 199, 2014.

    Examples
    --------
    >>> import numpy as np
    >>> from lowrank_opt.monotone import FixedPointProblem, KrasnoselskiiMann
    >>> problem = FixedPointProblem(lambda u: -u, np.ones(2))
    >>> KrasnoselskiiMann().solve(problem).x
    array([0., 0.])
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "relaxation": [Interval(Real, 0, 1, closed="neither")],
        "step_size": [None, Interval(Real, 0, None, closed="neither")],
    }

    def __init__(
        self,
        *,
        relaxation: float = 0.5,
        step_size: float | None = None,
        tol: float = 1e-6,
        max_iter: int = 100_000,
        max_time: float | None = None,
        check_every: int | str = 10,
    ) -> None:
        self.relaxation = relaxation
        self.step_size = step_size
        self.tol = tol
        self.max_iter = max_iter
        self.max_time = max_time
        self.check_every = check_every

    def iterate_once(self, problem: Any, state: Any) -> None:
        """Average the iterate and its image."""
        image = self.image(problem, state, state.z)
        a = self.relaxation
        state.z = np.asarray((1.0 - a) * state.z + a * image, state.z.dtype)


class Anderson(MapSolver):
    r"""Anderson extrapolation of type II, safeguarded by Halpern or averaged steps.

    With residuals :math:`r = T(u) - u`, the last differences :math:`\Delta U, \Delta R`, and
    :math:`\gamma` minimising :math:`\|r_k - \Delta R \gamma\|^2 + \lambda \|\gamma\|^2`, proposes

    .. math:: u_{k+1} = u_k + r_k - (\Delta U + \Delta R) \gamma .

    A proposal counts only when its residual does not exceed the last accepted one; otherwise the
    safe iteration, which runs on unaware of extrapolation since then, takes a step. A rejected
    proposal costs one evaluation of the map.

    Parameters
    ----------
    memory : int, default=8
        Differences kept; 0: the safe iteration alone.
    regularization : float, default=1e-8
        :math:`\lambda` over the squared Frobenius norm of :math:`\Delta R`.
    fallback : {"halpern", "average"}, default="halpern"
        The safe iteration: Halpern's, anchored at the last accepted point, or half steps.
    step_size : float or None, default=None
        Of the forward-backward map, see :class:`Halpern`.
    tol : float, default=1e-6
        Limit on the certificate's residual.
    max_iter : int, default=100000
        Limit on iterations.
    max_time : float or None, default=None
        Limit on seconds.
    check_every : int or "auto", default=10
        Iterations between two checks.

    Notes
    -----
    Accepted residuals never increase. After a rejection Halpern's bound holds from the last
    accepted point on, whatever is proposed in between and rejected.
    Cost of an iteration: one or two evaluations of the map, products with 2 x `memory` vectors.

    References
    ----------
    .. [1] H. F. Walker, P. Ni, "Anderson acceleration for fixed-point iterations", SIAM Journal on
       Numerical Analysis 49, 2011.

    Examples
    --------
    >>> import numpy as np
    >>> from lowrank_opt.monotone import Anderson, FixedPointProblem, Halpern
    >>> M = 0.99 * np.diag(np.linspace(0.0, 1.0, 5))
    >>> problem = FixedPointProblem(lambda u: M @ u + 1.0, np.zeros(5))
    >>> Anderson().solve(problem).nit < Halpern().solve(problem).nit
    True
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "memory": [Interval(Integral, 0, None, closed="left")],
        "regularization": [Interval(Real, 0, None, closed="left")],
        "fallback": [StrOptions({"halpern", "average"})],
        "step_size": [None, Interval(Real, 0, None, closed="neither")],
        "check_every": [COUNT, StrOptions({"auto"})],
    }

    def __init__(
        self,
        *,
        memory: int = 8,
        regularization: float = 1e-8,
        fallback: str = "halpern",
        step_size: float | None = None,
        tol: float = 1e-6,
        max_iter: int = 100_000,
        max_time: float | None = None,
        check_every: int | str = 10,
    ) -> None:
        self.memory = memory
        self.regularization = regularization
        self.fallback = fallback
        self.step_size = step_size
        self.tol = tol
        self.max_iter = max_iter
        self.max_time = max_time
        self.check_every = check_every

    def begin(self, problem: Any, state: Any) -> None:
        """Evaluate the map at the start."""
        super().begin(problem, state)
        state.memory.update(
            {"image": self.image(problem, state, state.z), "points": [], "residuals": []}
        )

    def iterate_once(self, problem: Any, state: Any) -> None:
        """Propose, accept or fall back."""
        memory = state.memory
        image = memory["image"]
        r = image - state.z
        norm = float(np.linalg.norm(r))
        points, residuals = memory["points"], memory["residuals"]
        points.append(state.z)
        residuals.append(r)
        del points[: -self.memory - 1], residuals[: -self.memory - 1]
        proposal = self._extrapolated(points, residuals, image) if self.memory else None
        if proposal is not None:
            there = self.image(problem, state, proposal)
            if float(np.linalg.norm(there - proposal)) <= norm:
                state.count(extrapolations=1)
                state.z, memory["image"] = proposal, there
                # Halpern's iteration begins anew at the accepted point.
                state.anchor, state.inner = proposal.copy(), -1
                return
        if self.fallback == "average":
            state.z = np.asarray(0.5 * (state.z + image), state.z.dtype)
        else:
            weight = 1.0 / (state.inner + 2.0)
            state.z = np.asarray(weight * state.anchor + (1.0 - weight) * image, state.z.dtype)
        memory["image"] = self.image(problem, state, state.z)

    def _extrapolated(self, points: Any, residuals: Any, image: Any) -> Any:
        if len(points) < 2:
            return None
        dR = np.diff(np.stack(residuals), axis=0).astype(np.float64)
        dU = np.diff(np.stack(points), axis=0).astype(np.float64)
        gram = dR @ dR.T
        size = float(np.trace(gram))
        if not 0.0 < size < math.inf:
            return None
        gram[np.diag_indices_from(gram)] += max(self.regularization, 1e-15) * size
        try:
            gamma = la.solve(gram, dR @ residuals[-1], assume_a="pos")
        except (la.LinAlgError, la.LinAlgWarning):
            return None
        if not np.all(np.isfinite(gamma)) or np.linalg.norm(gamma) > LARGEST_COEFFICIENT:
            return None
        return np.asarray(image - gamma @ (dU + dR), image.dtype)
