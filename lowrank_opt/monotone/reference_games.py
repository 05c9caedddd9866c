"""The kernels of variance-reduced methods, slowly and obviously, for any sampled operator.

The same random numbers in the same order as the kernels; the path for operators that are given by
functions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from lowrank_opt.monotone.operator_terms import draw
from lowrank_opt.numerics import project_simplex

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Values = NDArray[np.float64]

__all__ = [
    "DenseTerms",
    "anchored_steps",
    "extragradient_steps",
    "forward_reflected_steps",
]


class DenseTerms:
    """Columns as a dense matrix, groups and simplices, for comparison with the kernels.

    Parameters
    ----------
    terms : ColumnTerms
        What the kernels work with.
    """

    columns = None

    def __init__(self, terms: Any) -> None:
        columns = terms.columns
        d = columns.constant.size
        self.draws, self.sets, self.q = terms.draws, terms.sets, columns.constant
        self.M = np.zeros((d, d))
        for j in range(d):
            part = slice(int(columns.start[j]), int(columns.start[j + 1]))
            if columns.dense:
                rows = int(columns.offset[j]) + np.arange(part.stop - part.start)
            else:
                rows = columns.index[part].astype(np.int64)
            self.M[rows, j] = columns.data[part]

    def operator(self, z: Values) -> Values:
        """Return the operator at a point."""
        return np.asarray(self.M @ z + self.q)

    def difference(
        self, rng: np.random.Generator, batch: int, new: Values, old: Values
    ) -> Values:  # fmt: skip
        """Return an estimate of the difference between two points from a batch."""
        total = np.zeros(self.q.size)
        for group in range(self.draws.bounds.size - 1):
            index = draw(rng, self.draws, group, batch)
            change = self.draws.weight[index] * (new - old)[index]
            total += self.M[:, index] @ change / batch
        return total

    def resolvent(self, z: Values, step: float) -> Values:
        """Project."""
        out = z.copy()
        for s, total in enumerate(self.sets.total):
            if total >= 0:
                part = slice(int(self.sets.bounds[s]), int(self.sets.bounds[s + 1]))
                out[part] = project_simplex(z[part], float(total))
        return out


def anchored_steps(
    terms: Any, rng: np.random.Generator, u: Values, anchor: Values, g: Values, before: Values,
    k: int, since: int, batch: int, eta: float, refresh: float, root: float, limit: int,
) -> tuple[int, bool]:  # fmt: skip
    """Halpern steps with a recursive estimate of the operator, until it is to be recomputed.

    Parameters
    ----------
    terms : object
        Has ``difference(rng, batch, new, old)`` and ``resolvent(z, step)``.
    rng : numpy.random.Generator
        Source of coins and draws.
    u, anchor, g : ndarray of shape (d,)
        Point and estimate, changed in place, and the anchor.
    before : ndarray of shape (d,)
        Receives the argument of the last resolvent.
    k, since : int
        Steps since the anchor was set, and since the estimate was computed in full.
    batch : int
        Terms in a batch.
    eta : float
        Step size.
    refresh : float
        Probability of a full evaluation; 0: 4 / (k + 5), but at least 4 / (root + 5).
    root : float
        Square root of the number of terms.
    limit : int
        Steps to do.

    Returns
    -------
    done : int
        Steps done.
    full : bool
        Whether the estimate at the new point is to be computed in full.
    """
    for done in range(1, limit + 1):
        lam = 2.0 / (k + 4.0)
        before[:] = lam * anchor + (1.0 - lam) * u - eta * g
        new = terms.resolvent(before, eta)
        p = refresh or (1.0 if k == 0 else 4.0 / (min(float(k), root) + 5.0))
        k += 1
        since += 1
        if rng.random() < p or since >= 10.0 * root:
            u[:] = new
            return done, True
        g += terms.difference(rng, batch, new, u)
        u[:] = new
    return limit, False


def extragradient_steps(
    terms: Any, rng: np.random.Generator, u: Values, w: Values, at_snapshot: Values, batch: int,
    gamma: float, refresh: float, limit: int,
) -> tuple[int, bool]:  # fmt: skip
    """Extragradient steps with a snapshot, until the snapshot moves.

    Parameters
    ----------
    terms : object
        Has ``difference(rng, batch, new, old)`` and ``resolvent(z, step)``.
    rng : numpy.random.Generator
        Source of coins and draws.
    u : ndarray of shape (d,)
        Point, changed in place.
    w, at_snapshot : ndarray of shape (d,)
        Snapshot and the operator there.
    batch : int
        Terms in a batch.
    gamma : float
        Step size.
    refresh : float
        Probability of moving the snapshot.
    limit : int
        Steps to do.

    Returns
    -------
    done : int
        Steps done.
    full : bool
        Whether the snapshot is to move to the point.
    """
    for done in range(1, limit + 1):
        middle = (1.0 - refresh) * u + refresh * w - gamma * at_snapshot
        v = terms.resolvent(middle, gamma)
        coin = rng.random()
        u[:] = terms.resolvent(middle - gamma * terms.difference(rng, batch, v, w), gamma)
        if coin < refresh:
            return done, True
    return limit, False


def forward_reflected_steps(
    terms: Any, rng: np.random.Generator, v: Values, w: Values, last: Values, at_snapshot: Values,
    before: Values, batch: int, eta: float, gamma: float, refresh: float, limit: int,
) -> tuple[int, bool]:  # fmt: skip
    """Forward-reflected-backward steps for ``0 in eta F(v) + v - u + eta G(v)``.

    Parameters
    ----------
    terms : object
        Has ``difference(rng, batch, new, old)`` and ``resolvent(z, step)``.
    rng : numpy.random.Generator
        Source of coins and draws.
    v : ndarray of shape (d,)
        Point, changed in place.
    w, last : ndarray of shape (d,)
        Snapshot, and the one of the last step (changed to `w`).
    at_snapshot : ndarray of shape (d,)
        ``eta F(w) + w - u``.
    before : ndarray of shape (d,)
        Receives the argument of the last resolvent.
    batch : int
        Terms in a batch.
    eta, gamma : float
        Step sizes of the resolvent and of this method.
    refresh : float
        Probability of moving the snapshot.
    limit : int
        Steps to do.

    Returns
    -------
    done : int
        Steps done.
    full : bool
        Whether the snapshot is to move to the point.
    """
    for done in range(1, limit + 1):
        coin = rng.random()
        change = eta * terms.difference(rng, batch, v, last) + v - last
        before[:] = (1.0 - refresh) * v + refresh * w - gamma * (at_snapshot + change)
        v[:] = terms.resolvent(before, gamma * eta)
        last[:] = w
        if coin < refresh:
            return done, True
    return limit, False
