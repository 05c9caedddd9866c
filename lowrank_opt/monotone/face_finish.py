"""The active-set finish: from a point near the optimal face to one that is exact on it.

First-order methods for linear programs put variables and multipliers exactly on their bounds, so
the face can be read off without a threshold. On it the optimality conditions are linear: two
least-change corrections, with one factorisation whose fill is bounded beforehand. What the
corrected point violates tells how the face was wrong, so that a few rounds can repair it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp
import scipy.sparse.linalg as spla

from lowrank_opt.monotone.kernels_ordering import minimum_degree

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Values = NDArray[np.float64]

__all__ = ["Attempt", "attempt", "finish"]

REGULARIZATION = 1e-10
REFINEMENTS = 3
ROUNDS = 10
MAX_FILL = 10_000_000
# Operations of a factorisation: so many for every nonzero of the program, and some for free.
FLOPS_FREE, FLOPS_PER_NONZERO = 5e7, 3000.0
LSMR_STEPS = 300
TOGETHER = 1.01  # bounds up to so much further than the next one count as reached
GOOD = 1e-11  # not worth another round


@dataclass
class Attempt:
    """What a finish has found.

    Parameters
    ----------
    candidates : list of (x, y)
        Points for the caller to measure, the most promising first; empty if there are none.
    work : float
        Operations done, counted without a clock: compare with ``4 nnz`` an iteration.
    rounds : int
        Faces tried.
    fill : int
        Nonzeros of the largest factor; 0 where LSMR took its place.
    """

    candidates: list[tuple[Values, Values]] = field(default_factory=list)
    work: float = 0.0
    rounds: int = 0
    fill: int = 0


def finish(
    A: Any, c: Values, constraint_lower: Values, constraint_upper: Values, lower: Values,
    upper: Values, x: Values, y: Values, *, Q: Any = None, rounds: int = ROUNDS,
    max_fill: int = MAX_FILL, max_flops: float | None = None,
) -> tuple[Values, Values] | None:  # fmt: skip
    """Return a primal and a dual point that meet the conditions of the face of (x, y).

    Columns strictly between their bounds may move, rows that are equalities or have a multiplier
    must be met exactly and may change it. The caller measures what comes back, also combined with
    the point it gave, and discards it when it is not better: the face may be wrong.

    Parameters
    ----------
    A : csr_array of shape (m, n)
        Constraints.
    c : ndarray of shape (n,)
        Costs.
    constraint_lower, constraint_upper, lower, upper : ndarray
        Bounds.
    x, y : ndarray
        The point; exactly on the bounds, and 0, where the face is.
    Q : csr_array or None, default=None
        Quadratic term.
    rounds : int, default=10
        How often the face may be corrected and tried again, plus one.
    max_fill : int, default=10000000
        Nonzeros that a factor may have.
    max_flops : float or None, default=None
        Operations that a factorisation may take, and after which there is no further round;
        ``None``: 5e7 and 3000 a nonzero. LSMR with at most 300 steps takes the place of a
        factorisation that would need more.

    Returns
    -------
    tuple of two ndarray, or None
        Corrected points, clipped and with multipliers of allowed signs; ``None`` when there is
        nothing to correct or no finite correction.

    Examples
    --------
    >>> import numpy as np
    >>> import scipy.sparse as sp
    >>> from lowrank_opt.monotone.face_finish import finish
    >>> A, one = sp.csr_array([[1.0, 1.0, 1.0]]), np.ones(1)
    >>> x, y = finish(
    ...     A, np.array([1.0, 2.0, 3.0]), one, one, np.zeros(3), np.full(3, np.inf),
    ...     x=np.array([0.99, 0.0, 0.0]), y=np.array([1.02]),
    ... )
    >>> x.round(12), y.round(12)
    (array([1., 0., 0.]), array([1.]))
    """
    found = attempt(
        A, c, constraint_lower, constraint_upper, lower, upper, x, y, Q=Q, rounds=rounds,
        max_fill=max_fill, max_flops=max_flops,
    )  # fmt: skip
    return found.candidates[0] if found.candidates else None


def attempt(
    A: Any, c: Values, constraint_lower: Values, constraint_upper: Values, lower: Values,
    upper: Values, x: Values, y: Values, *, Q: Any = None, rounds: int = ROUNDS,
    max_fill: int = MAX_FILL, max_flops: float | None = None, tol: float = GOOD,
) -> Attempt:  # fmt: skip
    """Return all candidates of a finish, and the work that it took.

    Parameters
    ----------
    A, c, constraint_lower, constraint_upper, lower, upper, x, y, Q, rounds, max_fill, max_flops
        As for :func:`finish`.
    tol : float, default=1e-11
        No further round below this relative residual.

    Returns
    -------
    Attempt
        Up to three points, the best by the relative residuals first.
    """
    data = _Data(sp.csr_array(A), c, constraint_lower, constraint_upper, lower, upper, Q)
    limit = FLOPS_FREE + FLOPS_PER_NONZERO * data.A.nnz if max_flops is None else max_flops
    result = Attempt()
    x, y = np.clip(x, lower, upper), data.allowed(y)
    start, start_xy = data.residuals(x, y), (x, y)
    best = [(start[0], x), (start[1], y)]
    ranked: list[tuple[float, tuple[Values, Values]]] = []
    free, tight = data.face(x, y)
    side = np.where(y > 0, constraint_lower, constraint_upper)
    side = np.where(data.equal, constraint_lower, side)
    seen = set()
    for _ in range(rounds):
        key = hash((free.tobytes(), tight.tobytes()))
        if key in seen or not (free.any() or tight.any()):
            break
        seen.add(key)
        step = _correct(data, x, y, free, tight, side, max_fill, limit, result)
        result.rounds += 1
        if step is None:
            break
        x_raw, y_raw = step
        x_new, y_new = np.clip(x_raw, lower, upper), data.signed(y_raw, side)
        found = data.residuals(x_new, y_new)
        for k, part in enumerate((x_new, y_new)):
            if found[k] < best[k][0]:
                best[k] = (found[k], part)
        ranked.append((max(found), (x_new, y_new)))
        if max(found) <= tol or result.fill == 0 or result.work > limit:
            break
        x, y, free, tight, side = data.repaired(free, tight, side, x_raw, y_raw)
    if ranked:
        mixed = best[0][1], best[1][1]
        ranked.append((max(data.residuals(*mixed)), mixed))
        ranked.sort(key=lambda entry: entry[0] if math.isfinite(entry[0]) else math.inf)
        x_new, y_new = ranked[0][1]
        result.candidates = [(x_new, y_new), (x_new, start_xy[1]), (start_xy[0], y_new)]
    return result


class _Data:
    """The program, and what is asked of it."""

    def __init__(
        self, A: Any, c: Values, row_lower: Values, row_upper: Values, lower: Values,
        upper: Values, Q: Any,
    ) -> None:  # fmt: skip
        self.A, self.c, self.Q = A, c, Q
        self.row_lower, self.row_upper, self.lower, self.upper = row_lower, row_upper, lower, upper
        self.equal = row_lower == row_upper
        sides = (np.where(np.isfinite(v), np.abs(v), 0.0) for v in (row_lower, row_upper))
        self.row_size = 1.0 + np.maximum(*sides)
        self.side_norm = 1.0 + float(np.linalg.norm(self.row_size - 1.0))
        self.cost_norm = 1.0 + float(np.linalg.norm(c))

    def allowed(self, y: Values) -> Values:
        wrong = ((y > 0) & (self.row_lower == -np.inf)) | ((y < 0) & (self.row_upper == np.inf))
        return np.where(wrong, 0.0, y)

    def gradient(self, x: Values, y: Values) -> Values:
        plain = self.c - self.A.T @ y
        return plain if self.Q is None else plain + self.Q @ x

    def face(self, x: Values, y: Values) -> tuple[Any, Any]:
        """Return masks of the columns between their bounds and of the rows that bind."""
        return (x > self.lower) & (x < self.upper), self.equal | (y != 0)

    def signed(self, y: Values, side: Values) -> Values:
        """Return multipliers whose sign fits the side on which their constraint binds."""
        y = self.allowed(y)
        wrong = ((y > 0) & (side != self.row_lower)) | ((y < 0) & (side != self.row_upper))
        return np.where(wrong, 0.0, y)

    def residuals(self, x: Values, y: Values) -> tuple[float, float]:
        """Return relative residuals: the primal one and the gap; the dual one and the gap."""
        activity, gradient = self.A @ x, self.gradient(x, y)
        rows = activity - np.clip(activity, self.row_lower, self.row_upper)
        down = (gradient > 0) & (self.lower > -np.inf)
        up = (gradient < 0) & (self.upper < np.inf)
        wrong = np.where(down | up, 0.0, gradient)
        half = 0.0 if self.Q is None else 0.5 * float(x @ (self.Q @ x))
        primal = float(self.c @ x) + half
        with np.errstate(invalid="ignore"):
            sides = np.where(y > 0, y * self.row_lower, np.where(y < 0, y * self.row_upper, 0.0))
            bounds = np.where(down, gradient * self.lower, 0.0)
            bounds = np.where(up, gradient * self.upper, bounds)
        dual = float(sides.sum()) + float(bounds.sum()) - half
        gap = abs(primal - dual) / (1.0 + abs(primal) + abs(dual))
        gaps = gap if math.isfinite(gap) else math.inf
        first = float(np.linalg.norm(rows)) / self.side_norm
        second = float(np.linalg.norm(wrong)) / self.cost_norm
        return max(first, gaps), max(second, gaps)

    def repaired(
        self, free: Any, tight: Any, side: Values, x_raw: Values, y_raw: Values
    ) -> tuple[Values, Values, Any, Any, Values]:
        """Return a point and a face without what went too far, with what should not rest.

        Where nothing did, the equations of the face contradict each other: what is left of them
        is a direction of descent (ascent of the dual) along the face, to the next bound.
        """
        x, y = np.clip(x_raw, self.lower, self.upper), self.signed(y_raw, side)
        x_size, z_size = 1e-9 * (1.0 + np.abs(x)), 1e-9 * (1.0 + np.abs(self.c))
        leaving = free & (np.abs(x_raw - x) > x_size)
        dropped = tight & ~self.equal & (np.abs(y_raw - y) > 1e-9 * (1.0 + np.abs(y_raw)))
        gradient, activity = self.gradient(x, y), self.A @ x
        low, high = x <= self.lower, x >= self.upper
        wrong = (low & ~high & (gradient < -z_size)) | (high & ~low & (gradient > z_size))
        below = ~tight & (activity < self.row_lower - 1e-9 * self.row_size)
        above = ~tight & (activity > self.row_upper + 1e-9 * self.row_size)
        new_side = np.where(below, self.row_lower, np.where(above, self.row_upper, side))
        if not leaving.any():
            step = np.where(free, -gradient, 0.0)
            step[np.abs(step) <= z_size] = 0.0
            x, leaving = self._descend(x, step, free)
        gap = np.where(tight, side - activity, 0.0)
        gap[np.abs(gap) <= 1e-9 * self.row_size] = 0.0
        if not dropped.any() and not (wrong & ~free).any() and gap.any():
            y, dropped, entering = self._ascend(y, gap, gradient, free, tight)
            wrong |= entering
        free = (free & ~leaving) | wrong
        tight = (tight & ~dropped) | below | above
        return x, np.where(tight, y, 0.0), free, tight, new_side

    def _descend(self, x: Values, step: Values, free: Any) -> tuple[Values, Any]:
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = np.where(step > 0, (self.upper - x) / step, (self.lower - x) / step)
        ratio = np.where(free & (step != 0), ratio, np.inf)
        length = float(ratio.min(initial=np.inf))
        if not math.isfinite(length):
            return x, np.zeros(len(x), bool)
        leaving = ratio <= TOGETHER * length
        bound = np.where(step > 0, self.upper, self.lower)
        return np.where(leaving, bound, x + length * step), leaving

    def _ascend(
        self, y: Values, step: Values, gradient: Values, free: Any, tight: Any
    ) -> tuple[Values, Any, Any]:
        change = self.A.T @ step
        resting = ~free & (self.lower < self.upper)
        with np.errstate(divide="ignore", invalid="ignore"):
            rows = np.where(tight & ~self.equal & (y * step < 0), -y / step, np.inf)
            columns = np.where(resting & (gradient * change > 0), gradient / change, np.inf)
        length = min(float(rows.min(initial=np.inf)), float(columns.min(initial=np.inf)))
        if not math.isfinite(length):
            return y, np.zeros(len(y), bool), np.zeros(len(free), bool)
        dropped, entering = rows <= TOGETHER * length, columns <= TOGETHER * length
        return np.where(dropped, 0.0, y + length * step), dropped, entering


def _correct(
    data: _Data, x: Values, y: Values, free_mask: Any, tight_mask: Any, side: Values,
    max_fill: int, max_flops: float, result: Attempt,
) -> tuple[Values, Values] | None:  # fmt: skip
    """Return x and y after the two least-change corrections, neither clipped nor projected."""
    free, tight = np.flatnonzero(free_mask), np.flatnonzero(tight_mask)
    face = data.A[tight][:, free]
    gradient = data.gradient(x, y)[free]
    gap = side[tight] - (data.A @ x)[tight]
    if not np.all(np.isfinite(gap)):
        return None
    result.work += 8.0 * data.A.nnz + 20.0 * (len(x) + len(y))
    Q = None if data.Q is None else data.Q[free][:, free]
    # Rows of the face at unit length, so that one regularisation fits all.
    length = np.sqrt(np.asarray(face.multiply(face).sum(axis=1)).ravel())
    unit = 1.0 / np.where(length > 0, length, 1.0)
    scaled = sp.csr_array(sp.diags_array(unit) @ face) if len(tight) else face
    factor = _factor(scaled, Q, max_fill, max_flops, result)
    if factor is not None and Q is not None:
        dx, dy = _saddle(factor, Q, scaled, -gradient, unit * gap)
    elif factor is not None:
        dx, _ = _solve(factor, scaled, np.zeros(len(free)), unit * gap)
        _, dy = _solve(factor, scaled, gradient, np.zeros(len(tight)))
    elif Q is None:
        dx, dy = _least_squares(scaled, gradient, unit * gap, result)
    else:
        return None
    if not (np.all(np.isfinite(dx)) and np.all(np.isfinite(dy))):
        return None
    x_new, y_new = x.copy(), np.where(tight_mask, y, 0.0)
    x_new[free] += dx
    y_new[tight] += unit * dy
    return x_new, y_new


class _Factor:
    """A factorisation of a symmetric matrix in an order chosen beforehand."""

    def __init__(self, K: Any, order: Any) -> None:
        self.order = order
        self.lu = spla.splu(
            sp.csc_array(K[order][:, order]), permc_spec="NATURAL", diag_pivot_thresh=0.0,
            options={"SymmetricMode": True},
        )  # fmt: skip

    def solve(self, right: Values) -> Values:
        solution = np.empty_like(right)
        solution[self.order] = self.lu.solve(right[self.order])
        return solution


def _factor(face: Any, Q: Any, max_fill: int, max_flops: float, result: Attempt) -> _Factor | None:
    """Factor the regularised system of the face, unless that would take too much."""
    r, f = face.shape
    if face.nnz + r + f > max_fill:
        return None
    top = sp.eye_array(f) if Q is None else Q + 1e-8 * sp.eye_array(f)
    below = REGULARIZATION if Q is None else 1e-8
    K = sp.csr_array(sp.block_array([[top, face.T], [face, -below * sp.eye_array(r)]]))
    pattern = sp.csr_array(K - sp.diags_array(K.diagonal()))
    pattern.eliminate_zeros()
    order, fill, flops = minimum_degree(
        pattern.indptr.astype(np.int64), pattern.indices.astype(np.int32), max_fill, max_flops
    )
    result.work += flops + 20.0 * min(fill, max_fill) + 10.0 * K.nnz
    if not len(order) and r + f:
        return None
    try:
        factor = _Factor(K, order)
    except (RuntimeError, MemoryError):
        return None
    result.fill = max(result.fill, int(fill), 1)
    result.work += 16.0 * (fill + r + f) * REFINEMENTS
    return factor


def _solve(factor: _Factor, face: Any, top: Values, bottom: Values) -> tuple[Values, Values]:
    """Solve dx + B'w = top, B dx = bottom, refined against the regularisation.

    With `bottom` 0 the second part is w of least norm with B'w close to `top`.
    """
    r, f = face.shape
    dx, w = np.zeros(f), np.zeros(r)
    for _ in range(REFINEMENTS):
        residual = np.concatenate([top - dx - face.T @ w, bottom - face @ dx])
        step = factor.solve(residual)
        dx += step[:f]
        w += step[f:]
    return dx, w


def _saddle(
    factor: _Factor, Q: Any, face: Any, top: Values, bottom: Values
) -> tuple[Values, Values]:
    """Solve Q dx - B'dy = top, B dx = bottom: the factor's proximal terms are refined away."""
    r, f = face.shape
    dx, dy = np.zeros(f), np.zeros(r)
    for _ in range(2 * REFINEMENTS):
        residual = np.concatenate([top - Q @ dx + face.T @ dy, bottom - face @ dx])
        step = factor.solve(residual)
        dx += step[:f]
        dy -= step[f:]
    return dx, dy


def _least_squares(
    face: Any, gradient: Values, gap: Values, result: Attempt
) -> tuple[Values, Values]:
    """Return both corrections by LSMR [1]_, without a factorisation.

    References
    ----------
    .. [1] D. C.-L. Fong and M. Saunders, "LSMR: an iterative algorithm for sparse least-squares
       problems", SIAM Journal on Scientific Computing 33, 2011.
    """
    limits = {"atol": 1e-13, "btol": 1e-13, "maxiter": LSMR_STEPS}
    primal = spla.lsmr(face, gap, **limits)
    dual = spla.lsmr(sp.csr_array(face.T), gradient, **limits)
    result.work += (4.0 * face.nnz + 10.0 * sum(face.shape)) * (primal[2] + dual[2])
    return primal[0], dual[0]
