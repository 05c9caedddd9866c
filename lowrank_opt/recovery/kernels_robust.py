"""Row-solve kernels of robust completion: weights formed on the fly from the stored residual.

Layout of the data and of the factors as in :mod:`lowrank_opt.recovery.kernels`.  The residual
``values - prediction`` of all observed entries is kept in one array in the order of the rows; the
half sweep over the columns reads and writes it through ``perm``.

A row is improved by the solution ``d`` of its weighted regression of the *residual* on the fixed
factor, ``x ← x + d``: the same answer as a fresh solve, but its rounding errors shrink with the
step, the square of the step's weighted length is a by-product of the factorisation, and a singular
system can be damped without moving the solution.

Held-out entries are chosen by a hash of their position: entry ``p`` (counted by rows) is held out
when ``mix(p + salt) < bound``; ``bound = 0`` holds none.  Held-out entries have no weight; their
residual is refreshed with all others.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numba import njit

from lowrank_opt.numerics.kernels_vector import (
    CHUNK,
    axpy8,
    back_substitute,
    cholesky,
    copy_row,
    dots8,
    gram,
    keep_apart,
    lanes_of,
    prefetch_row,
    scale_row,
)
from lowrank_opt.recovery.kernels import _buffers, _mix, _optional, _pivot_floor, _run

__all__ = ["HalfReport", "Weighting", "clipped_product", "held_out", "refresh", "sweep_rows"]

_PREFETCH = 8
# A system that has no solution of its own is solved with this part of its largest diagonal entry
# added to the diagonal, by size of the number type.
_DAMPING = {4: 1e-4, 8: 1e-9}
# What `sums` holds for every row.
DECREMENT, MASS, DAMPED, FAILED = 0, 1, 2, 3


class Weighting(NamedTuple):
    """How the kernels weight an entry with residual e.

    Parameters
    ----------
    delta : float
        Threshold: the weight is ``min(1, delta / |e|) ** power`` times that of the observation.
    power : int
        1 (Huber) or 2 (redescending).
    kept : int
        Smallest number of entries of a row with full weight; the row's own threshold is doubled
        until so many are below it. 0: no such limit.
    salt, bound : int
        Held-out entries, see the module.
    """

    delta: float
    power: int = 1
    kept: int = 0
    salt: int = 0
    bound: int = 0


class HalfReport(NamedTuple):
    """What a half sweep did.

    Parameters
    ----------
    decrement : float
        Sum of ``w·(change of the prediction)²``: what the reweighted objective lost.
    mass : float
        Sum of ``w``.
    damped, failed : int
        Rows whose system was singular and was damped; rows left alone since that failed as well.
    """

    decrement: float
    mass: float
    damped: int
    failed: int


@njit(cache=True, error_model="numpy")
def _is_held(position, salt, bound):
    return bound > 0 and _mix(np.uint64(position) + salt) < bound


@njit(cache=True, error_model="numpy")
def _row_threshold(residual, perm, start, stop, delta, kept, salt, bound):
    """Double ``delta`` until ``kept`` entries of the row (or all it has) are not above it."""
    permuted = len(perm) > 0
    live = 0
    below = 0
    largest = delta
    for e in range(start, stop):
        p = np.int64(perm[e]) if permuted else e
        if _is_held(p, salt, bound):
            continue
        live += 1
        size = abs(residual[p, 0])
        if size <= delta:
            below += 1
        largest = max(largest, size)
    kept = min(kept, live)
    while below < kept and delta < largest:
        delta *= 2
        below = 0
        for e in range(start, stop):
            p = np.int64(perm[e]) if permuted else e
            if abs(residual[p, 0]) <= delta and not _is_held(p, salt, bound):
                below += 1
    return delta


@njit(cache=True, error_model="numpy")
def _robust_gram(
    indices, weights, perm, residual, start, stop, F, B, G, rank, delta, power, salt, bound
):
    """Form one row's weighted normal equations in ``G``; return the number of its entries."""
    keep_apart()
    width = F.shape[1]
    vectors = width // lanes_of(F)
    weighted = len(weights) > 0
    permuted = len(perm) > 0
    last = len(indices)
    one = residual.dtype.type(1)
    live = 0
    filled = 0
    for e in range(start, stop):
        ahead = e + _PREFETCH
        if ahead < last:
            prefetch_row(F, indices[ahead])
            if permuted:
                prefetch_row(residual, perm[ahead])
        p = np.int64(perm[e]) if permuted else e
        if _is_held(p, salt, bound):
            continue
        target = residual[p, 0]
        size = abs(target)
        root = one
        if size > delta:
            root = delta / size
            if power == 1:
                root = math.sqrt(root)
        row = np.int64(indices[e])
        if weighted:
            root *= math.sqrt(weights[e])
        if root == one:
            copy_row(F, row * width, B, filled * width, vectors)
            B[filled, rank] = target
        else:
            scale_row(F, row * width, B, filled * width, root, vectors)
            B[filled, rank] = root * target
        filled += 1
        if filled == CHUNK:
            gram(B, filled, G, rank, live == 0)
            live += filled
            filled = 0
    if filled > 0:
        gram(B, filled, G, rank, live == 0)
        live += filled
    return live


@njit(cache=True, error_model="numpy", nogil=True)
def half_robust(
    lo, hi, indptr, indices, values, weights, perm, residual, F, X, rank, delta, power, kept, salt,
    bound, damping, apply, sums, work,
):  # fmt: skip
    """Reweighted least-squares step of rows ``lo … hi-1`` of ``X``, residual included.

    With e the stored residual and w the weights of :class:`Weighting`, row ``i`` moves to
    ``x + d``, ``d`` the minimiser of ``Σ w (e - F_e·d)²``, and the residual of all its entries is
    computed anew while the rows of ``F`` are in the cache. Without ``apply`` nothing but ``sums``
    is written.

    Layout: ``residual (N, 1)`` in the order of the rows, read at ``e``, or at ``perm[e]`` when
    ``perm`` is not of size 0; ``weights (N,)`` or size 0; ``sums (rows, 4)`` float64 gets of every
    row ``Σ w (F_e·d)²``, ``Σ w``, whether its system was damped, and whether it was left
    alone because that failed, too. A row with fewer entries than unknowns, or with a pivot below
    its rounding, is damped by ``damping`` times its largest diagonal entry. Rows without entries
    become zero.

    Cost: ``n·k·(k + 5) + k³/3`` flops a row of ``n`` entries.
    """
    width = F.shape[1]
    vectors = width // lanes_of(F)
    B, G, _, L, v = _buffers(work, width)
    floor, inverse, y, d, w8, x = v[0], v[1], v[2], v[3], v[4], v[5]
    weighted = len(weights) > 0
    permuted = len(perm) > 0
    for i in range(lo, hi):
        start = indptr[i]
        stop = indptr[i + 1]
        for c in range(4):
            sums[i, c] = 0.0
        if start == stop:
            if apply:
                X[i] = 0
            continue
        limit = delta
        if kept > 0:
            limit = _row_threshold(residual, perm, start, stop, delta, kept, salt, bound)
        good = False
        for attempt in range(2):
            live = _robust_gram(
                indices, weights, perm, residual, start, stop, F, B, G, rank, limit, power, salt,
                bound,
            )  # fmt: skip
            if live == 0:
                break
            if attempt == 1 or live < rank:
                extra = G[0, 0] * 0
                for c in range(rank):
                    extra = max(extra, G[c, c])
                for c in range(rank):
                    G[c, c] += damping * extra
                sums[i, DAMPED] = 1.0
            _pivot_floor(G, rank, floor)
            good = cholesky(G, rank, floor, L, inverse) < 0
            if good or live < rank:
                break
        total = 0.0
        if good:
            for c in range(rank):
                y[c] = G[c, rank]
                total += np.float64(y[c]) * np.float64(y[c])
            good = math.isfinite(total)
        if good:
            sums[i, DECREMENT] = total
        elif live > 0:
            sums[i, FAILED] = 1.0
        if apply:
            copy_row(X, i * width, x, 0, vectors)
            if good:
                back_substitute(G, rank, y, inverse, w8, d)
                for c in range(rank):
                    x[c] += d[c]
                copy_row(x, 0, X, i * width, vectors)
        mass = 0.0
        for e in range(start, stop, 8):
            if apply:
                dots8(F, indices, e, stop - 1, x, vectors, w8)
            for s in range(min(8, stop - e)):
                p = np.int64(perm[e + s]) if permuted else e + s
                if not _is_held(p, salt, bound):
                    size = abs(residual[p, 0])
                    w = np.float64(1.0)
                    if size > limit:
                        w = np.float64(limit / size)
                        if power == 2:
                            w *= w
                    if weighted:
                        w *= np.float64(weights[e + s])
                    mass += w
                if apply:
                    residual[p, 0] = values[e + s] - w8[s]
        sums[i, MASS] = mass


@njit(cache=True, error_model="numpy", nogil=True)
def half_refresh(lo, hi, indptr, indices, values, F, X, residual, work):
    """Set ``residual = values - prediction`` on the entries of rows ``lo … hi-1``.

    Layout: as :func:`half_robust`, by rows. The same operations, hence the same bits, as there.

    Cost: ``2·n·k`` flops a row of ``n`` entries.
    """
    width = F.shape[1]
    vectors = width // lanes_of(F)
    _, _, _, _, v = _buffers(work, width)
    x, w8 = v[0], v[1]
    last = len(indices)
    for i in range(lo, hi):
        stop = indptr[i + 1]
        copy_row(X, i * width, x, 0, vectors)
        for e in range(indptr[i], stop, 8):
            for s in range(e + 8, min(e + 16, last)):
                prefetch_row(F, indices[s])
            dots8(F, indices, e, stop - 1, x, vectors, w8)
            for s in range(min(8, stop - e)):
                residual[e + s, 0] = values[e + s] - w8[s]


@njit(cache=True, error_model="numpy", nogil=True)
def half_clipped(
    lo, hi, indptr, indices, weights, perm, residual, F, out, delta, salt, bound, work
):
    """Set rows ``lo … hi-1`` of ``out`` to the clipped residual matrix times ``F``.

    Entries are ``w·e·min(1, delta/|e|)``. Layout: as :func:`half_robust`; ``out`` like ``X``.

    Cost: ``2·n·k`` flops a row of ``n`` entries.
    """
    width = F.shape[1]
    vectors = width // lanes_of(F)
    _, _, _, _, v = _buffers(work, width)
    acc, w8 = v[0], v[1]
    weighted = len(weights) > 0
    permuted = len(perm) > 0
    last = len(indices)
    for i in range(lo, hi):
        stop = indptr[i + 1]
        for c in range(width):
            acc[c] = 0
        for e in range(indptr[i], stop, 8):
            for s in range(e + 8, min(e + 16, last)):
                prefetch_row(F, indices[s])
                if permuted:
                    prefetch_row(residual, perm[s])
            live = min(8, stop - e)
            for s in range(live):
                p = np.int64(perm[e + s]) if permuted else e + s
                value = min(max(residual[p, 0], -delta), delta)
                if weighted:
                    value *= weights[e + s]
                if _is_held(p, salt, bound):
                    value = residual.dtype.type(0)
                w8[s] = value
            for s in range(live, 8):
                w8[s] = 0
            axpy8(F, indices, e, stop - 1, w8, acc, vectors)
        copy_row(acc, 0, out, i * width, vectors)


@njit(cache=True, error_model="numpy")
def count_agreeing(indptr, residual, perm, bound, out):
    """Set ``out[i]`` to the number of entries of row ``i`` with ``|residual| <= bound``.

    Layout: ``residual (N,)`` read as in :func:`half_robust`; ``out (rows,)`` int64.

    Cost: one pass over the residual.
    """
    permuted = len(perm) > 0
    for i in range(len(indptr) - 1):
        count = 0
        for e in range(indptr[i], indptr[i + 1]):
            if abs(residual[perm[e] if permuted else e]) <= bound:
                count += 1
        out[i] = count


@njit(cache=True, error_model="numpy")
def mark_held(first, salt, bound, out):
    """Set ``out[p - first]`` to whether entry ``p`` is held out.

    Cost: one hash an entry.
    """
    for p in range(len(out)):
        out[p] = _is_held(first + p, salt, bound)


# --------------------------------------------------------------------------------------------
# What the solver calls
# --------------------------------------------------------------------------------------------


def _scalars(weighting: Weighting, dtype: np.dtype) -> tuple:
    """The weighting in the kernels' number types."""
    return (
        dtype.type(weighting.delta),
        weighting.power,
        weighting.kept,
        np.uint64(weighting.salt),
        np.uint64(weighting.bound),
    )


def sweep_rows(
    indptr: np.ndarray,
    indices: np.ndarray,
    values: np.ndarray,
    residual: np.ndarray,
    F: np.ndarray,
    X: np.ndarray,
    weighting: Weighting,
    *,
    rank: int,
    weights: np.ndarray | None = None,
    perm: np.ndarray | None = None,
    apply: bool = True,
    n_threads: int | None = 1,
    work: np.ndarray | None = None,
) -> HalfReport:
    """Move every row of ``X`` to the minimum of its reweighted regression on ``F``.

    Parameters
    ----------
    indptr, indices, values : ndarray
        Compressed rows (or columns, with `perm`), see :mod:`lowrank_opt.recovery.kernels`.
    residual : ndarray of shape (N,)
        ``values - prediction`` by rows; overwritten.
    F, X : ndarray
        Fixed factor, and the one that moves (overwritten), padded.
    weighting : Weighting
        How the entries are weighted.
    rank : int
        Number of factor columns.
    weights : ndarray of shape (N,), optional
        Observation weights, positive, in the order of ``values``.
    perm : ndarray of shape (N,), optional
        Position by rows of every entry, when ``values`` are by columns.
    apply : bool, default=True
        False: report only what the step would be.
    n_threads : int or None, default=1
        ``None``: numba's current number of threads. Small problems use one.
    work : ndarray, optional
        From :func:`lowrank_opt.recovery.kernels.row_workspace`.

    Returns
    -------
    HalfReport
        Sums over the rows, the same bits for any number of threads.

    Notes
    -----
    Cost: ``N·k·(k + 5) + rows·k³/3`` flops.
    """
    dtype = F.dtype
    sums = np.empty((len(indptr) - 1, 4))
    arguments = (
        indices, values, _optional(weights, dtype), _order(perm, indices), residual[:, None], F, X,
        rank, *_scalars(weighting, dtype), dtype.type(_DAMPING[dtype.itemsize]), apply, sums,
    )  # fmt: skip
    _run(half_robust, indptr, arguments, F, n_threads, work)
    total = sums.sum(axis=0)
    return HalfReport(
        float(total[DECREMENT]), float(total[MASS]), int(total[DAMPED]), int(total[FAILED])
    )


def refresh(
    indptr: np.ndarray,
    indices: np.ndarray,
    values: np.ndarray,
    residual: np.ndarray,
    F: np.ndarray,
    X: np.ndarray,
    *,
    n_threads: int | None = 1,
    work: np.ndarray | None = None,
) -> None:
    """Compute the residual of compressed rows from the factors; arguments as `sweep_rows`."""
    _run(half_refresh, indptr, (indices, values, F, X, residual[:, None]), F, n_threads, work)


def clipped_product(
    indptr: np.ndarray,
    indices: np.ndarray,
    residual: np.ndarray,
    F: np.ndarray,
    weighting: Weighting,
    *,
    weights: np.ndarray | None = None,
    perm: np.ndarray | None = None,
    n_threads: int | None = 1,
    work: np.ndarray | None = None,
) -> np.ndarray:
    """Return the clipped residual matrix times ``F``, padded like ``F``.

    Parameters
    ----------
    indptr, indices, residual, F, weighting, weights, perm, n_threads, work
        As in :func:`sweep_rows`; entries are ``w·clip(e, -delta, delta)``.

    Returns
    -------
    ndarray of shape (rows, width)

    Notes
    -----
    Cost: ``2·N·k`` flops.
    """
    out = np.empty((len(indptr) - 1, F.shape[1]), F.dtype)
    delta, _, _, salt, bound = _scalars(weighting, F.dtype)
    arguments = (
        indices, _optional(weights, F.dtype), _order(perm, indices), residual[:, None], F, out,
        delta, salt, bound,
    )  # fmt: skip
    _run(half_clipped, indptr, arguments, F, n_threads, work)
    return out


def held_out(size: int, salt: int, bound: int, limit: int) -> np.ndarray:
    """Positions, by rows, of held-out entries: all of them, or at most `limit`, evenly chosen.

    Parameters
    ----------
    size : int
        Number of observed entries.
    salt, bound : int
        Choose the entries, see :class:`Weighting`.
    limit : int
        Largest number of positions.

    Returns
    -------
    ndarray of int64
        Ascending.
    """
    parts = []
    for first in range(0, size, 1 << 20):
        mask = np.empty(min(1 << 20, size - first), dtype=np.bool_)
        mark_held(np.int64(first), np.uint64(salt), np.uint64(bound), mask)
        parts.append(first + np.flatnonzero(mask))
    positions = np.concatenate(parts)
    return positions[:: max(1, -(-len(positions) // limit))]


def _order(perm, indices):
    return np.empty(0, np.int32) if perm is None else perm
