"""Kernels of prototype clustering: assignments of rows, and nearest neighbours."""

from __future__ import annotations

import math

import numpy as np
from numba import njit

__all__ = ["BLOCK", "assign_rows", "keep_nearest"]

#: Distances that are looked at together.
BLOCK = 64


@njit(cache=True, error_model="numpy", nogil=True, fastmath={"reassoc", "contract", "arcp"})
def assign_rows(
    indptr, indices, weights, shift, cost, fixed, lam, temperature, S, first, last, out
):
    """Write the next assignments of the rows ``first`` to ``last``; return the largest change.

    Row p of `out` minimises ``t <s, log s> + <s, cost_p> - lam <s, (W S)_p + shift_p S_p>`` over
    the simplex: a softmax at `temperature` t, the best cluster at t = 0 (of equally good ones
    where the row is now, else the first). Rows with a label stay.

    Parameters: CSR matrix W of shape (N, N) with int32 indices; `shift` (N,); `cost`, `S`, `out`
    (N, K) C-ordered float64; `fixed` (N,) int64, -1 for rows without a label. Returns ``inf`` where
    a row is not finite.

    Cost: ``2 K`` flops an entry of W, K exponentials a row.
    """
    K = S.shape[1]
    z = np.empty(K)
    largest = 0.0
    for p in range(first, last):
        if fixed[p] >= 0:
            for k in range(K):
                out[p, k] = S[p, k]
            continue
        own = shift[p]
        for k in range(K):
            z[k] = own * S[p, k]
        for e in range(indptr[p], indptr[p + 1]):
            w, q = weights[e], indices[e]
            for k in range(K):
                z[k] += w * S[q, k]
        for k in range(K):
            z[k] = lam * z[k] - cost[p, k]
        best = 0
        for k in range(1, K):
            if z[k] > z[best] or (temperature == 0.0 and z[k] == z[best] and S[p, k] > S[p, best]):
                best = k
        top = z[best]
        if temperature == 0.0:
            for k in range(K):
                z[k] = 0.0
            z[best] = 1.0
            total = top - top + 1.0
        else:
            total = 0.0
            for k in range(K):
                z[k] = math.exp((z[k] - top) / temperature)
                total += z[k]
        if not math.isfinite(total):
            largest = np.inf
        part = 1.0 / total
        for k in range(K):
            value = z[k] * part
            change = abs(value - S[p, k])
            if change > largest:
                largest = change
            out[p, k] = value
    return largest


@njit(cache=True, error_model="numpy", nogil=True, fastmath={"reassoc", "contract", "arcp"})
def _distance(Q, p, X, q):
    total = 0.0
    for j in range(X.shape[1]):
        step = float(Q[p, j]) - float(X[q, j])
        total += step * step
    return total


@njit(cache=True, error_model="numpy", nogil=True)
def _insert(q, value, places, distances):
    """Insert a point in a list that is ordered by distance, then by index."""
    e = distances.size - 1
    last = distances[e]
    if value > last or (value == last and q >= places[e]):
        return
    while e > 0 and (distances[e - 1] > value or (distances[e - 1] == value and places[e - 1] > q)):
        distances[e] = distances[e - 1]
        places[e] = places[e - 1]
        e -= 1
    distances[e] = value
    places[e] = q


@njit(cache=True, error_model="numpy", nogil=True)
def keep_nearest(Q, X, same, products, row, column, margin, unit, places, distances):
    """Enter a tile of points in the lists of the nearest ones of some queries.

    Distances from inner products are fast and not exact; those that may be among the nearest are
    computed again as they should be.

    Parameters: `Q` (m, d) and `X` (n, d) C-ordered; `same`: Q is X, and a point is not to be in its
    own list; `products` (r, c) C-ordered: squared distances less the query's squared norm, of the
    queries from `row` on and the points from `column` on; `margin` (m,): the squared norm of each
    query less how far its products may be off, both in units of `unit`; `places` (m, k) int64 and
    `distances` (m, k) float64, ascending, ``inf`` where nothing is, are renewed.

    Cost: one pass over the tile, ``3 d`` flops for every distance that may be among the k least.
    """
    r, c = products.shape
    last = distances.shape[1] - 1
    kind = products.dtype.type
    whole = c - c % BLOCK
    for i in range(r):
        p = row + i
        own = products[i]
        limit = kind(distances[p, last] / unit - margin[p])
        for start in range(0, c, BLOCK):
            if start < whole:  # of a fixed length: one compare for several numbers
                part = own[start : start + BLOCK]
                near = np.int32(0)
                for j in range(BLOCK):
                    near += np.int32(part[j] <= limit)
                if near == 0:
                    continue
            for j in range(start, min(start + BLOCK, c)):
                q = column + j
                if own[j] <= limit and not (same and q == p):
                    _insert(q, _distance(Q, p, X, q), places[p], distances[p])
                    limit = kind(distances[p, last] / unit - margin[p])
