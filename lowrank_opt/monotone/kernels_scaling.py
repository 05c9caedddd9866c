"""Sizes of rows and columns of sparse matrices, in one pass over the numbers."""

from __future__ import annotations

import numpy as np
from numba import njit

__all__ = ["divide_by_roots", "row_sizes", "scaled_values"]


@njit(cache=True, nogil=True, error_model="numpy")
def row_sizes(ptr, idx, val, row, column, power, row_out, column_out):
    """Write sizes of the rows and columns of diag(row) A diag(column).

    The largest absolute value for `power` 0, the sum of absolute values otherwise.
    """
    row_out[:] = 0.0
    column_out[:] = 0.0
    for i in range(row_out.size):
        best = 0.0
        for k in range(ptr[i], ptr[i + 1]):
            j = idx[k]
            v = abs(val[k]) * row[i] * column[j]
            if power == 0:
                best = max(best, v)
                column_out[j] = max(column_out[j], v)
            else:
                best += v
                column_out[j] += v
        row_out[i] = best


@njit(cache=True, nogil=True, error_model="numpy")
def divide_by_roots(sizes, scale):
    """Divide `scale` by the square roots of `sizes` (0 counts as 1)."""
    for i in range(sizes.size):
        if sizes[i] > 0.0:
            scale[i] /= np.sqrt(sizes[i])


@njit(cache=True, nogil=True, error_model="numpy")
def scaled_values(ptr, idx, val, row, column, out):
    """Write the numbers of diag(row) A diag(column)."""
    for i in range(ptr.size - 1):
        for k in range(ptr[i], ptr[i + 1]):
            out[k] = val[k] * row[i] * column[idx[k]]
