"""Costs inside kernels: all pairs of one target, or one pair, for any kind of cost."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit, types
from numba.extending import overload

from lowrank_opt.transport.costs import DenseCost, PointCost, SparseCost, cost_block

__all__ = ["column_scores", "pair_cost"]


def column_scores(cost: Any, alpha: Any, j: int, out: Any) -> None:
    """Write ``alpha_i - c_ij`` of all sources for target `j`; ``-inf``: a forbidden pair.

    Parameters
    ----------
    cost : DenseCost, PointCost or SparseCost
        Any cost.
    alpha : ndarray of float64, of shape (n_sources,)
        Potentials.
    j : int
        The target.
    out : ndarray of float64, of shape (n_sources,)
        Overwritten.

    Notes
    -----
    Cost: n_sources reads and writes; ``3 d`` flops each for points.
    """
    out[:] = alpha - cost_block(cost, j, j + 1)[0]


def pair_cost(cost: Any, i: int, j: int) -> float:
    """Return the cost of source `i` and target `j` in float64.

    Parameters
    ----------
    cost : DenseCost, PointCost or SparseCost
        Any cost.
    i, j : int
        Source and target.

    Returns
    -------
    float
        The cost; ``+inf`` for a forbidden pair.

    Notes
    -----
    Cost: one read; ``3 d`` flops for points; a bisection for listed pairs.
    """
    return float(cost_block(cost, j, j + 1)[0, i])


@overload(column_scores, jit_options={"error_model": "numpy"}, strict=False)
def _column_scores(cost, alpha, j, out):
    if not isinstance(cost, types.BaseNamedTuple):
        return None
    return {DenseCost: _dense_scores, PointCost: _point_scores, SparseCost: _sparse_scores}.get(
        cost.instance_class
    )


@overload(pair_cost, jit_options={"error_model": "numpy"}, strict=False)
def _pair_cost(cost, i, j):
    if not isinstance(cost, types.BaseNamedTuple):
        return None
    return {DenseCost: _dense_pair, PointCost: _point_pair, SparseCost: _sparse_pair}.get(
        cost.instance_class
    )


def _dense_scores(cost, alpha, j, out):
    row = cost.C[j]
    for i in range(out.size):
        out[i] = alpha[i] - np.float64(row[i])


def _point_scores(cost, alpha, j, out):
    X, y = cost.X, cost.Y[j]
    out[:] = 0.0
    for d in range(y.size):
        row, center = X[d], np.float64(y[d])
        for i in range(out.size):
            e = np.float64(row[i]) - center
            out[i] += e * e
    if cost.squared:
        for i in range(out.size):
            out[i] = alpha[i] - out[i]
    else:
        for i in range(out.size):
            out[i] = alpha[i] - np.sqrt(out[i])


def _sparse_scores(cost, alpha, j, out):
    out[:] = -np.inf
    for e in range(cost.indptr[j], cost.indptr[j + 1]):
        i = cost.indices[e]
        out[i] = alpha[i] - np.float64(cost.data[e])


def _dense_pair(cost, i, j):
    return np.float64(cost.C[j, i])


def _point_pair(cost, i, j):
    square = 0.0
    for d in range(cost.Y.shape[1]):
        e = np.float64(cost.X[d, i]) - np.float64(cost.Y[j, d])
        square += e * e
    return square if cost.squared else np.sqrt(square)


def _sparse_pair(cost, i, j):
    low, high = cost.indptr[j], cost.indptr[j + 1]
    while low < high:
        middle = (low + high) // 2
        if cost.indices[middle] < i:
            low = middle + 1
        else:
            high = middle
    if low < cost.indptr[j + 1] and cost.indices[low] == i:
        return np.float64(cost.data[low])
    return np.inf


@njit(cache=True, error_model="numpy", nogil=True)
def scores_of_targets(cost, alpha, first, last, out):
    """Write the scores of targets ``first .. last - 1`` into the rows of `out`.

    Cost: ``(last - first) * n_sources`` reads and writes.
    """
    for j in range(first, last):
        column_scores(cost, alpha, j, out[j - first])
