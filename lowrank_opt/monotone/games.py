"""Matrix games by an interior-point method."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import scipy.linalg as la
import scipy.sparse as sp

from lowrank_opt.core.solver import Solver
from lowrank_opt.core.state import Status
from lowrank_opt.monotone.operator_solver import OperatorSolver, OperatorState

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Values = NDArray[np.float64]

__all__ = ["GameInteriorPoint", "GameState"]

_MARGIN = 0.1  # of the first slacks, in units of the spread
_STAY = 0.995  # share of the way to the boundary
_CLOSEST = 1e-13  # distance of the bounds at which rounding ends progress


@dataclass
class GameState(OperatorState):
    """State of the interior-point method; see :class:`OperatorState`.

    Parameters
    ----------
    u, v : ndarray or None
        Strategies, positive, of the player who minimises and of the one who maximises, in float64;
        those of the game with payoffs -A' where A has more rows than columns.
    bounds : list of float
        Upper and lower bound of the value, in units of the spread.
    """

    u: Any = None
    v: Any = None
    bounds: Any = None


class GameInteriorPoint(OperatorSolver):
    r"""Primal-dual interior-point method for matrix games.

    With t an upper and v a lower bound of the value, the slacks
    :math:`s = t - A x` and :math:`w = A^\top y - v` are kept positive and :math:`x w`, :math:`y s`
    are driven to zero by Newton's method with Mehrotra's prediction and correction. All iterates
    are feasible, so that t - v is always a gap.

    Parameters
    ----------
    tol : float, default=1e-6
        Stops when the duality gap over the spread of the payoffs is at most `tol`.
    max_iter : int, default=200
        Limit on iterations; 10 to 25 suffice on almost all games.
    max_time : float or None, default=None
        Limit on seconds.
    check_every : int or "auto", default=1
        Iterations between two checks of limits and callback.
    n_threads : int or None, default=None
        Limit on threads of BLAS.

    See Also
    --------
    FastExtraGradient : For games too large for a dense matrix of their smaller side.

    Notes
    -----
    Cost of an iteration for payoffs of shape (m, n), m <= n: m² n flops for the matrix
    :math:`A D A^\top + D'`, m³ / 3 for its factorisation, and m² numbers of memory; the players
    are exchanged if m > n.

    A start ``x0`` is measured, and answers at once when it meets the tolerance; the iterations
    begin at uniform strategies, in the interior.

    References
    ----------
    .. [1] S. Mehrotra, "On the implementation of a primal-dual interior point method", SIAM
       Journal on Optimization 2, 1992.

    Examples
    --------
    >>> from lowrank_opt.monotone import MatrixGame
    >>> from lowrank_opt.monotone.games import GameInteriorPoint
    >>> result = GameInteriorPoint().solve(MatrixGame([[2.0, 0.0], [0.0, 1.0]]))
    >>> print(result.x.x.round(4), round(result.value, 5))
    [0.3333 0.6667] 0.66667
    """

    needs: ClassVar[tuple[str, ...]] = ("A", "spread", "operator")
    citation: ClassVar[str | None] = (
        "@article{mehrotra1992implementation, title={On the implementation of a primal-dual "
        "interior point method}, author={Mehrotra, Sanjay}, journal={SIAM Journal on "
        "Optimization}, volume={2}, pages={575--601}, year={1992}}"
    )
    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {**Solver._parameter_constraints}
    _state: ClassVar[type[OperatorState]] = GameState

    def __init__(
        self,
        *,
        tol: float = 1e-6,
        max_iter: int = 200,
        max_time: float | None = None,
        check_every: int | str = 1,
        n_threads: int | None = None,
    ) -> None:
        self.tol = tol
        self.max_iter = max_iter
        self.max_time = max_time
        self.check_every = check_every
        self.n_threads = n_threads

    def init(self, problem: Any, x0: Any = None) -> OperatorState:
        """Return the state at uniform strategies; see :class:`Solver`."""
        state: Any = super().init(problem, x0)
        A = _payoffs(problem)
        m, n = A.shape
        state.u, state.v = np.full(n, 1.0 / n), np.full(m, 1.0 / m)
        state.bounds = [
            float((A @ state.u).max()) + _MARGIN, float((A.T @ state.v).min()) - _MARGIN,
        ]  # fmt: skip
        state.cache = A
        return state  # type: ignore[no-any-return]

    def advance(self, problem: Any, state: Any) -> None:
        """Do one iteration; see :class:`OperatorSolver`."""
        if state.cache is None:
            state.cache = _payoffs(problem)
        A = state.cache
        x, y, (upper, lower) = state.u, state.v, state.bounds
        s, w = upper - A @ x, A.T @ y - lower
        mu = float(x @ w + y @ s) / (len(x) + len(y))
        solve = _factorise(A, x, y, s, w)
        dx, dy, ds, dw, _, _ = solve(-x * w, -y * s)
        ahead = _length(((x, dx), (y, dy), (s, ds), (w, dw)), 1.0)
        after = float((x + ahead * dx) @ (w + ahead * dw) + (y + ahead * dy) @ (s + ahead * ds))
        target = mu * (max(after, 0.0) / ((len(x) + len(y)) * mu)) ** 3
        dx, dy, ds, dw, up, low = solve(target - x * w - dx * dw, target - y * s - dy * ds)
        step = _length(((x, dx), (y, dy), (s, ds), (w, dw)), _STAY)
        x, y = x + step * dx, y + step * dy
        state.u, state.v = x / x.sum(), y / y.sum()
        # The bounds may be moved by as much as rounding and normalising cost.
        lead, lag = A @ state.u, A.T @ state.v
        upper = max(upper + step * up, _above(float(lead.max())))
        lower = min(lower + step * low, -_above(-float(lag.min())))
        state.bounds = [upper, lower]
        pair = (state.v, state.u) if _exchanged(problem) else (state.u, state.v)
        state.x = np.concatenate(pair).astype(problem.dtype)
        state.count(factorizations=1)

    def terminate(self, problem: Any, state: Any) -> Status | None:
        """Return why to stop: also bounds that rounding keeps from coming closer."""
        status = super().terminate(problem, state)
        if status is None and state.bounds is not None:
            upper, lower = state.bounds
            if upper - lower <= _CLOSEST * max(1.0, abs(upper)):
                state.message = "The bounds meet within rounding; a larger tol can be met"
                return Status.STALLED
        return status


def _exchanged(problem: Any) -> bool:
    m, n = problem.shape
    return bool(m > n)


def _payoffs(problem: Any) -> Any:
    """Return the payoffs over their spread, with at most as many rows as columns, in float64.

    Dense ones about their middle where that is far from 0: the strategies do not change, and the
    level that all payoffs share does not cost digits.
    """
    A = problem.A.astype(np.float64)
    middle = 0.5 * (float(A.max()) + float(A.min()))
    if abs(middle) > problem.spread and not sp.issparse(A):
        A -= middle
    A /= problem.spread or 1.0
    if _exchanged(problem):
        A = -A.T
    return sp.csr_array(A) if sp.issparse(A) else np.asfortranarray(A)


def _above(value: float) -> float:
    """Return a number a little larger, so that slacks stay positive."""
    return value + 1e-14 * max(1.0, abs(value))


def _length(pairs: Any, share: float) -> float:
    """Return a share of the largest step, at most 1, that keeps all vectors positive."""
    longest = 1.0 / share
    for at, move in pairs:
        down = move < 0
        if down.any():
            longest = min(longest, float((at[down] / -move[down]).min()))
    return share * longest


def _factorise(A: Any, x: Values, y: Values, s: Values, w: Values) -> Any:
    """Return the function that solves Newton's equations for right-hand sides of x w and y s.

    With dx = (p - x dw) / w and dw = A'dy - d(lower), what remains for dy is
    (A diag(x/w) A' + diag(s/y)) dy = A (p/w) + q/y + A (x/w) d(lower) - d(upper).
    """
    ratio = x / w
    m = len(y)
    if sp.issparse(A):
        K = np.asarray((A * ratio) @ A.T.toarray()) if m <= 64 else ((A * ratio) @ A.T).toarray()
        K = np.asfortranarray(K)
    else:
        K = la.blas.dsyrk(1.0, A * np.sqrt(ratio), lower=1)
    diagonal = np.diag_indices(m)
    K[diagonal] += s / y
    try:
        factor = la.cho_factor(K, lower=True, overwrite_a=True, check_finite=False)
    except la.LinAlgError:
        if sp.issparse(A):
            K = ((A * ratio) @ A.T).toarray()
        else:
            K = la.blas.dsyrk(1.0, A * np.sqrt(ratio), lower=1)
        K[diagonal] += s / y + 1e-13 * float(np.max(K[diagonal]))
        factor = la.cho_factor(K, lower=True, overwrite_a=True, check_finite=False)
    a = A @ ratio
    sides = la.cho_solve(factor, np.column_stack([a, np.ones(m)]), check_finite=False)
    by_a, by_one = sides[:, 0], sides[:, 1]
    system = np.array([[by_a.sum(), -by_one.sum()], [ratio.sum() - a @ by_a, a @ by_one]])

    def solve(p: Values, q: Values) -> Any:
        scaled = p / w
        h = la.cho_solve(factor, A @ scaled + q / y, check_finite=False)
        low, up = np.linalg.solve(system, [-h.sum(), a @ h - scaled.sum()])
        dy = h + low * by_a - up * by_one
        dw = A.T @ dy - low
        dx = scaled - ratio * dw
        return dx, dy, up - A @ dx, dw, float(up), float(low)

    return solve
