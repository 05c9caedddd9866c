"""Grades of plans and potentials, from the data alone, in float64.

Nothing here is used by a solver: columns are treated in blocks with sorts, the k-support norm is
found by its definition, and sums that decide are exact.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from scipy.spatial.distance import cdist

__all__ = [
    "Sides",
    "cost_of_entries",
    "dual_value",
    "grade",
    "independent_cost",
    "support_norms",
]

_EPS = np.finfo(np.float64).eps
# Numbers in a block of costs.
_BLOCK = 1 << 21
# Costs are not known better than to this part of themselves.
_FLOOR = 1e-8


class Sides(NamedTuple):
    """The data of a problem, seen with the cap on the columns; zero masses included.

    Parameters
    ----------
    a, b : ndarray of float64
        Masses.
    C : ndarray, csc_array or None
        Costs of shape (m, n).
    X, Y : ndarray or None
        Points of sources and targets.
    squared : bool
        Metric of the points.
    gamma : float
        Strength of the quadratic term.
    k : int
        Cap.
    kind : {"exact", "upper", "l2", "kl"}
        What ties the row sums to `a`.
    weight : float
        Weight of the penalty.
    """

    a: Any
    b: Any
    C: Any
    X: Any
    Y: Any
    squared: bool
    gamma: float
    k: int
    kind: str
    weight: float

    def block(self, first: int, last: int) -> Any:
        """Costs of columns ``first .. last - 1``, one a row, in float64."""
        if self.C is None:
            metric = "sqeuclidean" if self.squared else "euclidean"
            X, Y = (np.asarray(P, dtype=np.float64) for P in (self.X, self.Y[first:last]))
            return cdist(Y, X, metric)
        if isinstance(self.C, np.ndarray):
            return self.C[:, first:last].T.astype(np.float64)
        block = np.full((last - first, len(self.a)), np.inf)
        for j in range(first, last):
            part = slice(self.C.indptr[j], self.C.indptr[j + 1])
            block[j - first, self.C.indices[part]] = self.C.data[part]
        return block


def cost_of_entries(sides: Sides, T: Any) -> Any:
    """Return the costs of the stored entries of a plan, in the order of ``T.data``.

    Parameters
    ----------
    sides : Sides
        The data.
    T : csc_array of shape (m, n)
        A plan.

    Returns
    -------
    ndarray of float64
        Costs; ``inf`` where the pair is forbidden.
    """
    rows, cols = T.indices, np.repeat(np.arange(T.shape[1]), np.diff(T.indptr))
    if sides.C is None:
        out = np.empty(len(rows))
        for start in range(0, len(rows), _BLOCK):
            part = slice(start, start + _BLOCK)
            step = sides.X[rows[part]].astype(np.float64) - sides.Y[cols[part]]
            out[part] = np.einsum("ij,ij->i", step, step)
        return out if sides.squared else np.sqrt(out)
    if isinstance(sides.C, np.ndarray):
        return sides.C[rows, cols].astype(np.float64)
    # Listed pairs: both lists are sorted by column, then row.
    m = np.int64(len(sides.a))
    listed = np.repeat(np.arange(T.shape[1]), np.diff(sides.C.indptr)) * m + sides.C.indices
    order = np.argsort(listed)
    wanted = cols * m + rows
    place = np.minimum(np.searchsorted(listed[order], wanted), max(len(listed) - 1, 0))
    if not len(listed):
        return np.full(len(wanted), np.inf)
    found = listed[order][place] == wanted
    return np.where(found, sides.C.data[order][place].astype(np.float64), np.inf)


def dual_value(sides: Sides, alpha: Any) -> tuple[float, Any]:
    """Return a proved lower bound on the optimal value, and thresholds of the columns.

    The semi-dual objective at `alpha`, less a bound on the rounding errors of its evaluation.

    Parameters
    ----------
    sides : Sides
        The data.
    alpha : ndarray of float64, of shape (m,)
        Any potentials; for ``kind="upper"`` positive ones count as 0.

    Returns
    -------
    float, ndarray of shape (n,)
        The bound, ``-inf`` when the numbers overflow, and the thresholds tau.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        return _dual_value(sides, np.asarray(alpha, dtype=np.float64))


def _dual_value(sides: Sides, alpha: Any) -> tuple[float, Any]:
    if sides.kind == "upper":
        alpha = np.minimum(alpha, 0.0)
    terms, slack = _row_terms(sides, alpha)
    m, n = len(sides.a), len(sides.b)
    size = float(np.abs(alpha).max(initial=0.0))
    dimension = 1 if sides.X is None else sides.X.shape[1]
    width = max(1, _BLOCK // max(m, 1))
    taus = np.zeros(n)
    for first in range(0, n, width):
        last = min(n, first + width)
        b = sides.b[first:last]
        scores = alpha - sides.block(first, last)
        top = scores.max(axis=1)
        top_finite = np.where(np.isfinite(top), top, 0.0)
        psi, tau, used = _conjugate(scores, top_finite, b, sides.gamma, sides.k)
        if np.any((b > 0) & ~np.isfinite(top)):
            return -math.inf, taus
        psi, taus[first:last] = np.where(b > 0, psi, 0.0), top_finite + tau
        terms.extend(-(top_finite * b))
        terms.extend(-psi)
        room = b * (np.abs(top_finite) + size) + sides.gamma * b**2
        slack += float(np.sum((used + dimension + 12) * room)) * _EPS
    if not (np.isfinite(terms).all() and np.isfinite(slack)):
        return -math.inf, taus
    return math.fsum(terms) - float(slack), taus


def _row_terms(sides: Sides, alpha: Any) -> tuple[list[float], float]:
    ulps: Any = 8.0
    if sides.kind == "l2":
        terms = np.concatenate([sides.a * alpha, -(alpha**2) / (2.0 * sides.weight)])
    elif sides.kind == "kl":
        live = sides.a > 0
        exponent = -alpha[live] / sides.weight
        terms = -sides.weight * sides.a[live] * np.expm1(exponent)
        ulps = 8.0 + np.abs(exponent)  # an error of the exponent is one of the power's digits
    else:
        terms = sides.a * alpha
    return list(terms), _EPS * float(np.sum(ulps * np.abs(terms)))


def _conjugate(scores: Any, top: Any, b: Any, gamma: float, k: int) -> tuple[Any, Any, Any]:
    """Conjugates and thresholds of columns, both relative to the largest score; terms used."""
    if gamma == 0.0:
        zero = np.zeros(len(b))
        return zero, zero, np.ones(len(b))
    mass = gamma * b
    # tau >= top - gamma b: what is not above that bound cannot count.
    rows, cols = np.nonzero(scores > (top - mass)[:, None])
    counts = np.bincount(rows, minlength=len(b))
    v = scores[rows, cols] - top[rows]
    order = np.lexsort((-v, rows))
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    place = np.arange(len(rows)) - starts[rows]
    kept = place < k
    V = np.full((len(b), max(1, int(min(k, counts.max(initial=1))))), -np.inf)
    V[rows[kept], place[kept]] = v[order][kept]
    V[counts == 0, 0] = 0.0
    sums = np.cumsum(np.where(np.isfinite(V), V, 0.0), axis=1)
    index = np.arange(1, V.shape[1] + 1)
    active = V - (sums - mass[:, None]) / index > 0
    active[:, 0] = True
    r = active.shape[1] - np.argmax(active[:, ::-1], axis=1)
    tau = (sums[np.arange(len(b)), r - 1] - mass) / r
    over = np.maximum(np.where(np.isfinite(V), V, -np.inf) - tau[:, None], 0.0)
    return tau * b + np.sum(over**2, axis=1) / (2.0 * gamma), tau, r


def independent_cost(sides: Sides) -> tuple[float, Any]:
    """Return cost and row sums of the plan that does not look at costs: the masses' product.

    It has the sums of the columns. Where pairs are forbidden a column's mass is spread over the
    others.

    Parameters
    ----------
    sides : Sides
        The data.

    Returns
    -------
    float, ndarray of shape (m,)
        Its cost, ``inf`` when numbers overflow, and its row sums.
    """
    a, b = sides.a / np.sum(sides.a), sides.b
    mass = float(np.sum(b))
    with np.errstate(over="ignore", invalid="ignore"):
        if sides.C is None and sides.squared:
            means, spread = [], 0.0
            for points, masses in ((sides.X, a), (sides.Y, b / mass)):
                mean = masses @ points.astype(np.float64)
                spread += float(masses @ np.sum((points - mean) ** 2, axis=1))
                means.append(mean)
            total = mass * (spread + float(np.sum((means[0] - means[1]) ** 2)))
            return (total if np.isfinite(total) else math.inf), mass * a
        total, rows, width = 0.0, np.zeros(len(a)), max(1, _BLOCK // max(len(a), 1))
        for first in range(0, len(b), width):
            block = sides.block(first, min(len(b), first + width))
            allowed = np.isfinite(block)
            weights = allowed @ a
            shares = b[first : first + width] / np.where(weights > 0, weights, 1.0)
            total += float(shares @ (np.where(allowed, block, 0.0) @ a))
            rows += (shares @ allowed) * a
    return (total if np.isfinite(total) else math.inf), rows


def support_norms(T: Any, k: int) -> Any:
    """Return the squared k-support norms of the columns of a non-negative plan.

    By the definition through sorted entries: of the k values of r there is one for which the
    entries split into large ones, which count one by one, and the rest, which counts by its sum.

    Parameters
    ----------
    T : csc_array of shape (m, n)
        Entries at least 0.
    k : int
        At least 1.

    Returns
    -------
    ndarray of float64, of shape (n,)
        Squared norms.
    """
    out = np.zeros(T.shape[1])
    for j in range(T.shape[1]):
        t = np.sort(T.data[T.indptr[j] : T.indptr[j + 1]].astype(np.float64))[::-1]
        t = t[t > 0]
        if len(t) <= k:
            out[j] = float(np.sum(t * t))
            continue
        tails = np.concatenate([np.cumsum(t[::-1])[::-1], [0.0]])
        r = np.arange(k)  # the tail begins at position k - r - 1
        tail = tails[k - r - 1] / (r + 1)
        above = np.where(k - r - 2 >= 0, t[np.maximum(k - r - 2, 0)], np.inf)
        # the largest violation decides, so that ties and rounding cannot leave no choice
        error = np.maximum(tail - above, t[k - r - 1] - tail)
        best = int(np.argmin(error))
        head = t[: k - best - 1]
        out[j] = float(np.sum(head * head) + tails[k - best - 1] ** 2 / (best + 1))
    return out


def grade(
    sides: Sides, T: Any, alpha: Any, threshold: float, independent: tuple[float, Any]
) -> dict[str, float]:
    """Return every residual of a plan with potentials.

    Parameters
    ----------
    sides : Sides
        The data.
    T : csc_array of shape (m, n)
        A plan, in the orientation of `sides`.
    alpha : ndarray of shape (m,)
        Potentials of its rows.
    threshold : float
        Entries up to this part of a column's mass count as zero in ``max_nnz``.
    independent : tuple
        See :func:`independent_cost`.

    Returns
    -------
    dict of str to float
        ``relaxed_value`` (objective with the convex penalty), ``cost``, ``scale`` (the other terms
        of the objective, and what the costs make of the plan: how much less it costs than the
        independent one, or its absolute costs if they are smaller), ``row_residual`` and
        ``col_residual`` (relative to the mass), ``complementarity``, ``violation`` (of signs),
        ``max_nnz``, ``potential_term``. Sums that overflow are ``inf``.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        return _grade(sides, T, alpha, threshold, independent)


def _grade(
    sides: Sides, T: Any, alpha: Any, threshold: float, independent: tuple[float, Any]
) -> dict[str, float]:
    data = T.data.astype(np.float64)
    cols = np.repeat(np.arange(T.shape[1]), np.diff(T.indptr))
    costs = cost_of_entries(sides, T)
    spent = np.where(data == 0.0, 0.0, costs * data)
    rows = np.bincount(T.indices, weights=data, minlength=len(sides.a))
    sums = np.bincount(cols, weights=data, minlength=len(sides.b))
    mass = float(np.sum(sides.b))
    quadratic = 0.5 * sides.gamma * _total(support_norms(T, sides.k))
    penalty = _penalty(sides, rows)
    missing = sides.a - rows
    residual, slackness, potential = float(np.sum(np.abs(missing))), 0.0, 0.0
    if sides.kind == "exact":
        potential = _total(alpha * missing)
    elif sides.kind == "upper":
        residual = float(np.sum(np.maximum(-missing, 0.0)))
        alpha = np.minimum(alpha, 0.0)
        potential = _total(alpha * missing)
        slackness = float(np.sum(np.abs(alpha * missing)))
    # Adding numbers to rows or columns of the costs changes nothing but their rounding errors.
    size = _total(np.abs(spent))
    saved = independent[0] - _total(spent)
    if sides.kind == "exact":
        saved -= float(alpha @ (independent[1] - rows))
    reach = max(min(size, abs(saved)), _FLOOR * size)
    limit = threshold * sides.b[cols]
    counts = np.bincount(cols[np.abs(data) > limit], minlength=len(sides.b))
    return {
        "cost": _total(spent),
        "relaxed_value": _total(spent) + quadratic + penalty,
        "scale": reach + quadratic + abs(penalty),
        "row_residual": residual / mass,
        "col_residual": float(np.sum(np.abs(sums - sides.b))) / mass,
        "violation": float(np.sum(np.maximum(-data, 0.0))) / mass,
        "complementarity": slackness,
        "potential_term": potential,
        "max_nnz": float(counts.max(initial=0)),
    }


def _penalty(sides: Sides, rows: Any) -> float:
    if sides.kind == "l2":
        return 0.5 * sides.weight * _total((rows - sides.a) ** 2)
    if sides.kind == "kl":
        if np.any((sides.a == 0) & (rows > 0)):
            return math.inf
        live = sides.a > 0
        r, a = np.maximum(rows[live], 0.0), sides.a[live]
        with np.errstate(divide="ignore", invalid="ignore"):
            terms = np.where(r > 0, r * np.log(r / a), 0.0) - r + a
        return sides.weight * _total(terms)
    return 0.0


def _total(terms: Any) -> float:
    """Exact sum; ``inf`` when it is not finite."""
    if not np.isfinite(terms).all():
        return math.inf
    try:
        return math.fsum(terms)
    except OverflowError:
        return math.inf
