"""Kernels of variance-reduced methods for affine operators that are sampled by columns.

``F(z) = sum_j z_j M_j + q`` over the columns of a matrix. A batch draws columns in each group of
columns (the two players of a game, or all variables of a quadratic saddle); a difference of the
operator between two points changes by the columns whose variable has moved. Each kernel runs
until the next full evaluation is due, which the solver does, or until its iterations are spent.
Random numbers come from the state's generator, one for each draw and each coin, so that a run does
not depend on how it is divided into calls.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from numba import njit

from lowrank_opt.numerics.kernels import _project_simplex

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "Columns",
    "Draws",
    "Sets",
    "anchored_steps",
    "extragradient_steps",
    "forward_reflected_steps",
]


class Columns(NamedTuple):
    """A matrix by columns, dense or compressed, and the constant of an affine operator.

    Parameters
    ----------
    data : ndarray of float64
        Entries, column by column.
    index : ndarray of uint32
        Rows of the entries; empty for dense columns.
    start : ndarray of uint32, shape (d + 1,)
        Where each column begins in `data`.
    offset : ndarray of uint32, shape (d,)
        Row of the first entry of each dense column.
    constant : ndarray of float64, shape (d,)
        The constant term.
    dense : bool
        Whether the columns are dense.
    """

    data: NDArray
    index: NDArray
    start: NDArray
    offset: NDArray
    constant: NDArray
    dense: bool


class Draws(NamedTuple):
    """Probabilities of the columns in each group, as alias tables.

    Parameters
    ----------
    bounds : ndarray of int64, shape (g + 1,)
        Where each group of columns begins.
    keep : ndarray of float64, shape (d,)
        Probability of keeping the first choice.
    alias : ndarray of int64, shape (d,)
        The other choice.
    weight : ndarray of float64, shape (d,)
        One over the probability of each column in its group.
    """

    bounds: NDArray
    keep: NDArray
    alias: NDArray
    weight: NDArray


class Sets(NamedTuple):
    """A product of sets on which points are projected.

    Parameters
    ----------
    bounds : ndarray of int64, shape (s + 1,)
        Where each set begins.
    total : ndarray of float64, shape (s,)
        Sum of the simplex; negative: the whole space.
    """

    bounds: NDArray
    total: NDArray


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"})
def _add_column(columns, j, factor, out):
    """Add a multiple of a column."""
    if columns.dense:
        begin, length = columns.start[j], columns.start[j + 1] - columns.start[j]
        source = columns.data[begin : begin + length]
        target = out[columns.offset[j] : columns.offset[j] + length]
        for t in range(source.size):
            target[t] += factor * source[t]
    else:
        for p in range(columns.start[j], columns.start[j + 1]):
            out[columns.index[p]] += factor * columns.data[p]


@njit(cache=True, nogil=True, error_model="numpy")
def _project(sets, z, buffer):
    """Project in place."""
    for s in range(sets.total.size):
        if sets.total[s] >= 0.0:
            part = z[sets.bounds[s] : sets.bounds[s + 1]]
            _project_simplex(part, sets.total[s], part, buffer)


@njit(cache=True, nogil=True, error_model="numpy")
def _add_difference(columns, draws, rng, batch, new, old, scale, out):
    """Add an estimate of ``scale`` times the difference of the operator between two points."""
    for group in range(draws.bounds.size - 1):
        low, high = draws.bounds[group], draws.bounds[group + 1]
        for _ in range(batch):
            place = rng.random() * (high - low)
            j = low + min(int(place), high - low - 1)
            if place - int(place) >= draws.keep[j]:
                j = draws.alias[j]
            change = new[j] - old[j]
            if change != 0.0:
                _add_column(columns, j, scale * draws.weight[j] * change / batch, out)


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"})
def anchored_steps(
    columns, draws, sets, rng, u, anchor, g, before, k, since, batch, eta, refresh, root, limit
):
    """Halpern steps with a recursive estimate of the operator, until it is to be recomputed.

    Parameters
    ----------
    columns, draws, sets : Columns, Draws, Sets
        Operator, probabilities, projection.
    rng : numpy.random.Generator
        Source of coins and draws.
    u, anchor, g : ndarray of float64, shape (d,)
        Point and estimate, changed in place, and the anchor.
    before : ndarray of float64, shape (d,)
        Receives what was projected in the last step.
    k, since : int
        Steps since the anchor was set, and since the estimate was computed in full.
    batch : int
        Draws in each group.
    eta : float
        Step size.
    refresh : float
        Probability of a full evaluation; 0: the decreasing rule of the method.
    root : float
        Square root of the number of terms.
    limit : int
        Steps to do.

    Returns
    -------
    done : int
        Steps done.
    full : bool
        Whether the estimate at the new point is to be computed in full: `g` is then still the old
        one.

    Notes
    -----
    Cost of a step: 2 batch columns, one projection, 6 d flops.
    """
    old, buffer = u.copy(), u.copy()
    for done in range(limit):
        lam = 2.0 / (k + 4.0)
        for i in range(u.size):
            old[i] = u[i]
            before[i] = lam * anchor[i] + (1.0 - lam) * u[i] - eta * g[i]
            u[i] = before[i]
        _project(sets, u, buffer)
        p = refresh
        if p == 0.0:
            p = 1.0 if k == 0 else 4.0 / (min(float(k), root) + 5.0)
        k += 1
        since += 1
        coin = rng.random()
        if coin < p or since >= 10.0 * root:
            return done + 1, True
        _add_difference(columns, draws, rng, batch, u, old, 1.0, g)
    return limit, False


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"})
def extragradient_steps(
    columns, draws, sets, rng, u, w, at_snapshot, batch, gamma, refresh, limit
):  # fmt: skip
    """Extragradient steps with a snapshot, until the snapshot moves.

    Parameters
    ----------
    columns, draws, sets : Columns, Draws, Sets
        Operator, probabilities, projection.
    rng : numpy.random.Generator
        Source of coins and draws.
    u : ndarray of float64, shape (d,)
        Point, changed in place.
    w, at_snapshot : ndarray of float64, shape (d,)
        Snapshot and the operator there.
    batch : int
        Draws in each group.
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

    Notes
    -----
    Cost of a step: 2 batch columns, two projections, 8 d flops.
    """
    v, buffer = u.copy(), u.copy()
    for done in range(limit):
        for i in range(u.size):
            u[i] = (1.0 - refresh) * u[i] + refresh * w[i] - gamma * at_snapshot[i]
            v[i] = u[i]
        _project(sets, v, buffer)
        coin = rng.random()
        _add_difference(columns, draws, rng, batch, v, w, -gamma, u)
        _project(sets, u, buffer)
        if coin < refresh:
            return done + 1, True
    return limit, False


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"})
def forward_reflected_steps(
    columns, draws, sets, rng, v, w, last, at_snapshot, before, batch, eta, gamma, refresh, limit
):
    """Forward-reflected-backward steps for a resolvent, until the snapshot moves.

    Solves ``0 in eta F(v) + v - u + eta G(v)``.

    Parameters
    ----------
    columns, draws, sets : Columns, Draws, Sets
        Operator, probabilities, projection.
    rng : numpy.random.Generator
        Source of coins and draws.
    v : ndarray of float64, shape (d,)
        Point, changed in place.
    w, last : ndarray of float64, shape (d,)
        Snapshot, and the one of the last step (set to `w` after the first step).
    at_snapshot : ndarray of float64, shape (d,)
        ``eta F(w) + w - u``.
    before : ndarray of float64, shape (d,)
        Receives what was projected in the last step.
    batch : int
        Draws in each group.
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

    Notes
    -----
    Cost of a step: 2 batch columns, one projection, 9 d flops.
    """
    buffer = v.copy()
    for done in range(limit):
        for i in range(v.size):
            before[i] = (
                (1.0 - refresh) * v[i] + refresh * w[i]
                - gamma * (at_snapshot[i] + v[i] - last[i])
            )  # fmt: skip
        coin = rng.random()
        _add_difference(columns, draws, rng, batch, v, last, -gamma * eta, before)
        for i in range(v.size):
            v[i] = before[i]
            last[i] = w[i]
        _project(sets, v, buffer)
        if coin < refresh:
            return done + 1, True
    return limit, False
