"""What a pair costs: a matrix, two clouds of points, or a list of the allowed pairs.

The three kinds are named tuples, so that kernels take any of them (see
:mod:`lowrank_opt.transport.kernels_costs`). They are stored for the problem with a cap on the
columns: target ``j`` is row ``j`` of what is stored, its costs lie side by side.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

__all__ = ["DenseCost", "PointCost", "SparseCost", "cost_block", "cost_shape", "restrict"]


class DenseCost(NamedTuple):
    """A cost matrix, transposed.

    Parameters
    ----------
    C : ndarray of shape (n_targets, n_sources)
        C-contiguous; ``+inf``: the pair is forbidden.
    """

    C: Any


class PointCost(NamedTuple):
    """Distances of two clouds of points, never formed as a matrix.

    Parameters
    ----------
    X : ndarray of shape (dimension, n_sources)
        C-contiguous: a coordinate of all sources lies side by side.
    Y : ndarray of shape (n_targets, dimension)
        C-contiguous.
    squared : bool
        Whether the cost is the squared Euclidean distance, or the distance itself.
    """

    X: Any
    Y: Any
    squared: bool


class SparseCost(NamedTuple):
    """Costs of the allowed pairs; all others are forbidden.

    Parameters
    ----------
    indptr : ndarray of int64, of shape (n_targets + 1,)
        Where the sources of a target begin.
    indices : ndarray of int64, of shape (n_pairs,)
        Sources, ascending for each target.
    data : ndarray of shape (n_pairs,)
        Costs.
    n_sources : int
        Number of sources.
    """

    indptr: Any
    indices: Any
    data: Any
    n_sources: int


def cost_shape(cost: Any) -> tuple[int, int]:
    """Return ``(n_sources, n_targets)`` of a cost.

    Parameters
    ----------
    cost : DenseCost, PointCost or SparseCost
        Any cost.

    Returns
    -------
    tuple of int
        Numbers of sources and targets.
    """
    if isinstance(cost, DenseCost):
        return cost.C.shape[1], cost.C.shape[0]
    if isinstance(cost, PointCost):
        return cost.X.shape[1], cost.Y.shape[0]
    return int(cost.n_sources), len(cost.indptr) - 1


def restrict(cost: Any, sources: Any, targets: Any) -> Any:
    """Return the cost of some of the sources and targets, as a copy.

    Parameters
    ----------
    cost : DenseCost, PointCost or SparseCost
        Any cost.
    sources, targets : ndarray of int
        Which ones, ascending.

    Returns
    -------
    DenseCost, PointCost or SparseCost
        Of the same kind.
    """
    if isinstance(cost, DenseCost):
        return DenseCost(np.ascontiguousarray(cost.C[targets][:, sources]))
    if isinstance(cost, PointCost):
        return PointCost(
            np.ascontiguousarray(cost.X[:, sources]), np.ascontiguousarray(cost.Y[targets]),
            cost.squared,
        )  # fmt: skip
    place = np.full(cost.n_sources, -1, np.int64)
    place[sources] = np.arange(len(sources))
    counts = np.diff(cost.indptr)
    owner = np.repeat(np.arange(len(counts)), counts)
    new_target = np.full(len(counts), -1, np.int64)
    new_target[targets] = np.arange(len(targets))
    keep = (new_target[owner] >= 0) & (place[cost.indices] >= 0)
    indptr = np.zeros(len(targets) + 1, np.int64)
    np.cumsum(np.bincount(new_target[owner[keep]], minlength=len(targets)), out=indptr[1:])
    return SparseCost(indptr, place[cost.indices[keep]], cost.data[keep], len(sources))


def cost_block(cost: Any, first: int, last: int) -> Any:
    """Return the costs of targets ``first .. last - 1`` as a dense block, the obvious way.

    Parameters
    ----------
    cost : DenseCost, PointCost or SparseCost
        Any cost.
    first, last : int
        Range of targets.

    Returns
    -------
    ndarray of float64, of shape (last - first, n_sources)
        Costs; ``+inf`` where the pair is forbidden.
    """
    if isinstance(cost, DenseCost):
        return cost.C[first:last].astype(np.float64)
    if isinstance(cost, PointCost):
        X, Y = cost.X.astype(np.float64), cost.Y[first:last].astype(np.float64)
        squares = np.zeros((last - first, X.shape[1]))
        for coordinate, y in zip(X, Y.T, strict=True):
            squares += (coordinate[None, :] - y[:, None]) ** 2
        return squares if cost.squared else np.sqrt(squares)
    block = np.full((last - first, cost.n_sources), np.inf)
    for j in range(first, last):
        part = slice(cost.indptr[j], cost.indptr[j + 1])
        block[j - first, cost.indices[part]] = cost.data[part]
    return block
