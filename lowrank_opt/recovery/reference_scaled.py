"""The obvious form of `kernels_scaled`, in array operations on coordinate lists."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["drop_largest", "line_thresholds"]


def line_thresholds(lines: Any, n_lines: int, errors: Any, fraction: float) -> Any:
    """The ``floor(fraction * n_i)``-th largest size on every line; infinite for a count of 0."""
    out = np.full(n_lines, np.inf, errors.dtype)
    for i in range(n_lines):
        sizes = np.sort(np.abs(errors[lines == i]))[::-1]
        k = int(np.floor(fraction * sizes.size))
        if k:
            out[i] = sizes[k - 1]
    return out


def drop_largest(rows: Any, cols: Any, errors: Any, row_bound: Any, col_bound: Any) -> Any:
    """Zero for the errors at or above the bounds of both their row and their column."""
    sizes = np.abs(errors)
    return np.where((sizes >= row_bound[rows]) & (sizes >= col_bound[cols]), 0, errors)
