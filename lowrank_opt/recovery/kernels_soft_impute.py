"""Compiled passes of `SoftImpute` over the observed entries.

Every pass reads the entries in compressed order and treats its rows independently: nothing is
reduced across rows, so the bits do not depend on the number of threads. Run on the compressed
columns with the factors exchanged, the same function gives the other half. "No weights" is an
array of length 0.

Layout: `indptr` (m + 1,) int64, `indices` (nnz,), `values` (nnz,), `weights` (nnz,) or (0,), all by
the rows of `own` (m, k); `other` (n, k); factors C order and of the dtype of `values`.
"""

from __future__ import annotations

import numpy as np
from numba import njit, prange

_FAST = {"reassoc", "contract", "arcp"}


@njit(cache=True, error_model="numpy", fastmath=_FAST)
def residual_product(indptr, indices, values, weights, own, other, start, stop, res, out, loss):
    """Weighted residual and its product with the other factor, rows ``start:stop``.

    ``res[p] = w (value - own_i . other_j)`` (nnz,), ``out[i] = sum_p res[p] other_j`` (m, k),
    ``loss[i] = sum_p w (value - own_i . other_j)^2`` (m,) float64.

    Cost: 4 nnz k flops; nnz (k + 3) numbers read or written.
    """
    k = own.shape[1]
    for i in range(start, stop):
        for c in range(k):
            out[i, c] = 0.0
        total = 0.0
        for p in range(indptr[i], indptr[i + 1]):
            j = indices[p]
            fit = own.dtype.type(0.0)
            for c in range(k):
                fit += own[i, c] * other[j, c]
            e = values[p] - fit
            r = e
            if weights.size:
                r = weights[p] * e
            res[p] = r
            total += np.float64(r) * np.float64(e)
            for c in range(k):
                out[i, c] += r * other[j, c]
        loss[i] = total


@njit(cache=True, error_model="numpy", fastmath=_FAST)
def product(indptr, indices, data, other, start, stop, out):
    """``out[i] = sum_p data[p] other_j``: a sparse matrix times `other`, rows ``start:stop``.

    Cost: 2 nnz k flops.
    """
    k = other.shape[1]
    if k == 1:  # the inner loop of one turn would cost three times the arithmetic
        for i in range(start, stop):
            total = other.dtype.type(0.0)
            for p in range(indptr[i], indptr[i + 1]):
                total += data[p] * other[indices[p], 0]
            out[i, 0] = total
    else:
        for i in range(start, stop):
            for c in range(k):
                out[i, c] = 0.0
            for p in range(indptr[i], indptr[i + 1]):
                j = indices[p]
                d = data[p]
                for c in range(k):
                    out[i, c] += d * other[j, c]


@njit(cache=True, error_model="numpy", fastmath=_FAST)
def hessian_product(indptr, indices, weights, res, own, other, d_own, d_other, start, stop, out):
    """Second derivative of the loss of the factors along a direction, rows ``start:stop``.

    ``out[i] = sum_p w (own_i . d_other_j + d_own_i . other_j) other_j - res[p] d_other_j``, with
    `res` of `residual_product`. The sampled direction is computed in both halves instead of being
    read through a permutation: the rows it needs are in registers anyway.

    Cost: 8 nnz k flops; nnz (2 k + 2) numbers read.
    """
    k = own.shape[1]
    for i in range(start, stop):
        for c in range(k):
            out[i, c] = 0.0
        for p in range(indptr[i], indptr[i + 1]):
            j = indices[p]
            s = own.dtype.type(0.0)
            for c in range(k):
                s += own[i, c] * d_other[j, c] + d_own[i, c] * other[j, c]
            if weights.size:
                s *= weights[p]
            r = res[p]
            for c in range(k):
                out[i, c] += s * other[j, c] - r * d_other[j, c]


@njit(cache=True, error_model="numpy", fastmath=_FAST)
def line_sums(indptr, indices, weights, res, own, other, d_own, d_other, start, stop, out):
    """Sums that give the loss along a line of the factors exactly, rows ``start:stop``.

    With ``s = own_i . d_other_j + d_own_i . other_j`` and ``q = d_own_i . d_other_j``, `out` (m, 5)
    float64 receives the sums over the row of ``res s``, ``res q``, ``w s^2``, ``w s q``, ``w q^2``.

    Cost: 6 nnz k flops; nnz (2 k + 2) numbers read.
    """
    k = own.shape[1]
    for i in range(start, stop):
        rs = 0.0
        rq = 0.0
        ss = 0.0
        sq = 0.0
        qq = 0.0
        for p in range(indptr[i], indptr[i + 1]):
            j = indices[p]
            s_ = own.dtype.type(0.0)
            q_ = own.dtype.type(0.0)
            for c in range(k):
                s_ += own[i, c] * d_other[j, c] + d_own[i, c] * other[j, c]
                q_ += d_own[i, c] * d_other[j, c]
            s = np.float64(s_)
            q = np.float64(q_)
            w = 1.0
            if weights.size:
                w = np.float64(weights[p])
            r = np.float64(res[p])
            rs += r * s
            rq += r * q
            ss += w * s * s
            sq += w * s * q
            qq += w * q * q
        out[i, 0] = rs
        out[i, 1] = rq
        out[i, 2] = ss
        out[i, 3] = sq
        out[i, 4] = qq


@njit(cache=True, error_model="numpy", parallel=True)
def residual_product_par(indptr, indices, values, weights, own, other, bounds, res, out, loss):
    """`residual_product` of all rows; thread tasks are the ranges between `bounds` (int64)."""
    for t in prange(bounds.size - 1):
        residual_product(
            indptr, indices, values, weights, own, other, bounds[t], bounds[t + 1], res, out, loss
        )


@njit(cache=True, error_model="numpy", parallel=True)
def product_par(indptr, indices, data, other, bounds, out):
    """`product` of all rows; thread tasks are the ranges between `bounds` (int64)."""
    for t in prange(bounds.size - 1):
        product(indptr, indices, data, other, bounds[t], bounds[t + 1], out)


@njit(cache=True, error_model="numpy", parallel=True)
def hessian_product_par(indptr, indices, weights, res, own, other, d_own, d_other, bounds, out):
    """`hessian_product` of all rows; thread tasks are the ranges between `bounds` (int64)."""
    for t in prange(bounds.size - 1):
        hessian_product(
            indptr, indices, weights, res, own, other, d_own, d_other, bounds[t], bounds[t + 1], out
        )


@njit(cache=True, error_model="numpy", parallel=True)
def line_sums_par(indptr, indices, weights, res, own, other, d_own, d_other, bounds, out):
    """`line_sums` of all rows; thread tasks are the ranges between `bounds` (int64)."""
    for t in prange(bounds.size - 1):
        line_sums(
            indptr, indices, weights, res, own, other, d_own, d_other, bounds[t], bounds[t + 1], out
        )
