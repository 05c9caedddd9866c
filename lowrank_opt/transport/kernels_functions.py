"""Kernels of the public functions of this family."""

from __future__ import annotations

import numpy as np
from numba import njit

from lowrank_opt.transport.kernels_prox import sort_down

__all__ = ["project_rows"]


@njit(cache=True, error_model="numpy", nogil=True)
def project_rows(V, k, totals, out):
    """Project every row of `V` on the vectors of at most k nonzeros in a scaled simplex.

    Parameters: `V`, `out` (rows, length) C-ordered with at least one column, `totals` (rows,)
    float64, at least 0. Equal entries count in the order of their indices.

    Cost: two passes over a row, and a sort of its entries within ``totals`` of the largest.
    """
    length = V.shape[1]
    values, order = np.empty(length), np.empty(length, np.int64)
    for row in range(V.shape[0]):
        total = totals[row]
        top = float(V[row, 0])
        for i in range(length):
            top = max(top, float(V[row, i]))
        count = 0
        for i in range(length):
            out[row, i] = 0
            value = float(V[row, i]) - top
            if value > -total:
                values[count], order[count] = value, i
                count += 1
        sort_down(values, order, count)
        kept, tau, running = 0, 0.0, 0.0
        for i in range(min(k, count)):
            running += values[i]
            trial = (running - total) / (i + 1)
            if not values[i] > trial:
                break
            kept, tau = i + 1, trial
        for i in range(kept):
            out[row, order[i]] = values[i] - tau
