"""Compiled selection of the largest entries of rows and columns, for `ScaledGD` on robust PCA.

Rows are independent, nothing is reduced across them: the bits do not depend on anything but the
input. Sizes must not be NaN.
"""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(cache=True, error_model="numpy", nogil=True)
def _kth_largest(a, size, k):
    """The k-th largest of ``a[:size]``, 1 <= k <= size; reorders `a`.

    Quickselect with the median of three as pivot.

    Cost: about ``3 size`` comparisons on average.
    """
    low, high, target = 0, size - 1, k - 1
    while low < high:
        first, middle, last = a[low], a[(low + high) // 2], a[high]
        pivot = max(min(first, middle), min(max(first, middle), last))
        i, j = low, high
        while i <= j:
            while a[i] > pivot:
                i += 1
            while a[j] < pivot:
                j -= 1
            if i <= j:
                a[i], a[j] = a[j], a[i]
                i += 1
                j -= 1
        if target <= j:
            high = j
        elif target >= i:
            low = i
        else:
            return a[target]
    return a[target]


@njit(cache=True, error_model="numpy", nogil=True)
def line_thresholds(indptr, order, errors, fraction, out):
    """Size of the last of the largest errors of every row or column.

    ``out[i]`` is the ``floor(fraction * n_i)``-th largest ``|errors[order[p]]|`` over the n_i
    positions p of line i, infinite where that count is 0. `indptr` (lines + 1,) int64; `order`
    (N,), or (0,) for ``order[p] = p``; `errors` (N,), `out` (lines,).

    Cost: N sizes gathered and about 3 N comparisons.
    """
    longest = 0
    for i in range(out.size):
        longest = max(longest, indptr[i + 1] - indptr[i])
    sizes = np.empty(longest, errors.dtype)
    for i in range(out.size):
        begin = indptr[i]
        count = indptr[i + 1] - begin
        k = int(np.floor(fraction * count))
        if k == 0:
            out[i] = np.inf
            continue
        if order.size:
            for p in range(count):
                sizes[p] = abs(errors[order[begin + p]])
        else:
            for p in range(count):
                sizes[p] = abs(errors[begin + p])
        out[i] = _kth_largest(sizes, count, k)


@njit(cache=True, error_model="numpy", nogil=True)
def drop_largest(indptr, indices, errors, row_bound, col_bound, out):
    """Zero for the errors at or above the bounds of both their row and their column.

    By rows: `indptr` (m + 1,) int64, `indices` (N,), `errors` and `out` (N,), `row_bound` (m,),
    `col_bound` (n,). Returns the number of errors dropped that are not 0.

    Cost: N gathers.
    """
    dropped = 0
    for i in range(row_bound.size):
        bound = row_bound[i]
        for p in range(indptr[i], indptr[i + 1]):
            e = errors[p]
            size = abs(e)
            if size >= bound and size >= col_bound[indices[p]]:
                out[p] = 0.0
                if size > 0.0:
                    dropped += 1
            else:
                out[p] = e
    return dropped
