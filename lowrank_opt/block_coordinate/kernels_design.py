"""Norms of columns. Dense matrices are Fortran-ordered, sparse ones compressed by columns."""

from __future__ import annotations

import numpy as np
from numba import njit

__all__ = ["column_squares_csc", "column_squares_dense"]

_FAST = {"reassoc", "contract", "arcp"}


@njit(cache=True, nogil=True, error_model="numpy", fastmath=_FAST)
def column_squares_dense(X, weights):
    """Sums of (weighted) squares of columns, in float64; no weights: an empty array.

    Cost: 2 n p flops, n p numbers read.
    """
    n, p = X.shape
    out = np.empty(p)
    for j in range(p):
        total = 0.0
        if weights.size == 0:
            for i in range(n):
                v = np.float64(X[i, j])
                total += v * v
        else:
            for i in range(n):
                v = np.float64(X[i, j])
                total += weights[i] * v * v
        out[j] = total
    return out


@njit(cache=True, nogil=True, error_model="numpy", fastmath=_FAST)
def column_squares_csc(data, indices, indptr, weights):
    """As :func:`column_squares_dense`. Cost: 2 nnz flops."""
    p = indptr.size - 1
    out = np.empty(p)
    for j in range(p):
        total = 0.0
        for k in range(indptr[j], indptr[j + 1]):
            v = np.float64(data[k])
            if weights.size == 0:
                total += v * v
            else:
                total += weights[indices[k]] * v * v
        out[j] = total
    return out
