"""Averaged iterations of nonexpansive maps, plain and extrapolated."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from numbers import Integral, Real
from typing import Any, ClassVar

import numpy as np
import scipy.linalg as la

from lowrank_opt.core.params import Interval, StrOptions
from lowrank_opt.core.solver import Solver
from lowrank_opt.monotone.maps import MapSolver, MapState

__all__ = ["Anderson", "KrasnoselskiiMann"]

LARGEST_COEFFICIENT = 1e10
LONGEST_PAUSE = 15


class KrasnoselskiiMann(MapSolver):
    r"""Krasnoselskii-Mann iteration: :math:`u_{k+1} = (1 - a) u_k + a\, T(u_k)`.

    The residual never increases, and :math:`\|u_k - T u_k\| \le D / \sqrt{a(1-a)(k+1)}` for every
    nonexpansive T with a fixed point at distance D of the start [1]_.

    Parameters
    ----------
    relaxation : float, default=0.5
        The number a, in (0, 1).
    step_size : float or None, default=None
        Of the map of an inclusion, see :class:`Halpern`.
    reflect : bool, default=True
        For inclusions, whether T is the longest nonexpansive map; see :class:`Halpern`.
    tol : float, default=1e-6
        Stops when the certificate's residual is at most `tol`, as for :class:`Halpern`.
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
        **Solver._parameter_constraints,
        "relaxation": [Interval(Real, 0, 1, closed="neither")],
        "step_size": [None, Interval(Real, 0, None, closed="neither")],
        "reflect": ["boolean"],
    }

    def __init__(
        self,
        *,
        relaxation: float = 0.5,
        step_size: float | None = None,
        reflect: bool = True,
        tol: float = 1e-6,
        max_iter: int = 100_000,
        max_time: float | None = None,
        check_every: int | str = "auto",
        n_threads: int | None = None,
    ) -> None:
        self.relaxation = relaxation
        self.step_size = step_size
        self.reflect = reflect
        self.tol = tol
        self.max_iter = max_iter
        self.max_time = max_time
        self.check_every = check_every
        self.n_threads = n_threads

    def advance(self, problem: Any, state: Any) -> None:
        """Average the iterate and its image; see :class:`OperatorSolver`."""
        a = self.relaxation
        state.x = np.asarray((1.0 - a) * state.x + a * state.image, problem.dtype)


@dataclass
class AndersonState(MapState):
    """State of Anderson's method; see :class:`OperatorState`.

    Parameters
    ----------
    points, residuals : list of ndarray
        The last accepted points, and T(u) - u there.
    safe : ndarray or None
        The safe point, while a proposal is looked at.
    accepted : float
        Smallest norm of an accepted residual, or of a safe point.
    pause, wait : int
        Iterations without a proposal after a rejection, and those that are left.
    """

    points: list[Any] = field(default_factory=list)
    residuals: list[Any] = field(default_factory=list)
    safe: Any = None
    accepted: float = math.inf
    pause: int = 0
    wait: int = 0


class Anderson(MapSolver):
    r"""Anderson extrapolation of type II, safeguarded by Halpern or averaged steps.

    With residuals :math:`r = T(u) - u`, the last differences :math:`\Delta U, \Delta R`, and
    :math:`\gamma` minimising :math:`\|r_k - \Delta R \gamma\|^2 + \lambda \|\gamma\|^2`, proposes

    .. math:: u_{k+1} = u_k + r_k - (\Delta U + \Delta R) \gamma .

    A proposal counts only when its residual does not exceed any before it; otherwise the
    safe iteration, which runs on unaware of extrapolation since then, takes a step. A rejected
    proposal costs one evaluation of the map; after 1, 2, 3 rejections in a row 1, 3, 7 safe steps,
    then always 15, come before the next proposal.

    Parameters
    ----------
    memory : int, default=8
        Differences kept; 0: the safe iteration alone.
    regularization : float, default=1e-8
        :math:`\lambda` over the squared Frobenius norm of :math:`\Delta R`.
    fallback : {"halpern", "average"}, default="halpern"
        The safe iteration: Halpern's, anchored at the last accepted point, or half steps.
    step_size : float or None, default=None
        Of the map of an inclusion, see :class:`Halpern`.
    reflect : bool, default=True
        For inclusions, whether T is the longest nonexpansive map; see :class:`Halpern`.
    tol : float, default=1e-6
        Stops when the certificate's residual is at most `tol`, as for :class:`Halpern`.
    max_iter : int, default=100_000
        Limit on iterations.
    max_time : float or None, default=None
        Limit on seconds.
    check_every : int or "auto", default="auto"
        Iterations between two checks of limits and callback.
    n_threads : int or None, default=None
        Limit on threads.

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

    _state: ClassVar[type[MapState]] = AndersonState
    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **Solver._parameter_constraints,
        "memory": [Interval(Integral, 0, None, closed="left")],
        "regularization": [Interval(Real, 0, None, closed="left")],
        "fallback": [StrOptions({"halpern", "average"})],
        "step_size": [None, Interval(Real, 0, None, closed="neither")],
        "reflect": ["boolean"],
    }

    def __init__(
        self,
        *,
        memory: int = 8,
        regularization: float = 1e-8,
        fallback: str = "halpern",
        step_size: float | None = None,
        reflect: bool = True,
        tol: float = 1e-6,
        max_iter: int = 100_000,
        max_time: float | None = None,
        check_every: int | str = "auto",
        n_threads: int | None = None,
    ) -> None:
        self.memory = memory
        self.regularization = regularization
        self.fallback = fallback
        self.step_size = step_size
        self.reflect = reflect
        self.tol = tol
        self.max_iter = max_iter
        self.max_time = max_time
        self.check_every = check_every
        self.n_threads = n_threads

    def look(self, problem: Any, state: Any) -> None:
        """Accept a proposal or fall back; see :class:`OperatorSolver`."""
        super().look(problem, state)
        norm = float(np.linalg.norm(state.x - state.image))
        if state.safe is not None:
            if norm <= state.accepted:
                state.count(extrapolations=1)
                state.pause = 0
                # Halpern's iteration begins anew at the accepted point.
                state.anchor, state.inner = state.x.copy(), 0
            else:
                state.x, state.safe = state.safe, None
                state.pause = state.wait = min(2 * state.pause + 1, LONGEST_PAUSE)
                super().look(problem, state)
                norm = float(np.linalg.norm(state.x - state.image))
            state.safe = None
        state.accepted = min(state.accepted, norm)

    def advance(self, problem: Any, state: Any) -> None:
        """Propose a point, with the safe one at hand; see :class:`OperatorSolver`."""
        z, image = state.x, state.image
        state.points.append(z)
        state.residuals.append(image - z)
        del state.points[: -self.memory - 1], state.residuals[: -self.memory - 1]
        if self.fallback == "average":
            safe = 0.5 * (z + image)
        else:
            weight = 1.0 / (state.inner + 2.0)
            safe = weight * state.anchor + (1.0 - weight) * image
        safe = np.asarray(safe, problem.dtype)
        state.inner += 1
        proposal = None
        if state.wait > 0:
            state.wait -= 1
        elif self.memory:
            proposal = self._extrapolated(state.points, state.residuals, image)
        if proposal is None:
            state.x = safe
        else:
            state.x, state.safe = proposal, safe

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
