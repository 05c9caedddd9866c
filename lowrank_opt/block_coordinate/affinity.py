"""Graphs of nearest neighbours."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np

from lowrank_opt.core.errors import ParameterError, ProblemError
from lowrank_opt.core.threads import thread_limit
from lowrank_opt.numerics._arrays import count, kernel_input, real_array

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from numpy.typing import ArrayLike, NDArray

__all__ = ["knn_affinity", "nearest_points"]

# Below this dimension a k-d tree is faster than all distances.
TREE_DIMENSION = 16
# Queries and points of a tile of inner products.
_ROWS, _COLUMNS = 256, 1024


def knn_affinity(
    F: ArrayLike, n_neighbors: int = 3, *, symmetrize: bool = True, n_threads: int | None = None
) -> Any:
    """Connect every point with its nearest neighbours, by weights 1.

    Parameters
    ----------
    F : array-like of shape (n, d)
        Points.
    n_neighbors : int, default=3
        Neighbours of a point, itself counted, as in the published experiments: 3 are the point
        and two others. More than there are points means all.
    symmetrize : bool, default=True
        Return ``(A + A') / 2`` instead of the 0/1 matrix A of directed edges.
    n_threads : int or None, default=None
        Threads; ``None``: as many as numba may use. The result is the same.

    Returns
    -------
    csr_array of shape (n, n)
        Weights, float64, with ones on the diagonal.

    Raises
    ------
    ProblemError
        Points that are not a matrix of finite numbers.
    ParameterError
        `n_neighbors` is not a positive integer.

    Notes
    -----
    Below 16 dimensions by a k-d tree, else by all distances, in tiles of matrix products: ``2 n^2
    d`` flops; of points at equal distances those of lowest index are then taken.

    Examples
    --------
    >>> from lowrank_opt.block_coordinate import knn_affinity
    >>> knn_affinity([[0.0], [1.0], [3.0]], 2).toarray().tolist()
    [[1.0, 1.0, 0.0], [1.0, 1.0, 0.5], [0.0, 0.5, 1.0]]
    """
    from scipy import sparse

    k = count("n_neighbors", n_neighbors, 1)
    X, _ = real_array("F", F)
    if X.ndim != 2 or 0 in X.shape:
        raise ProblemError(f"F has shape {X.shape}; points (n, d) are needed, neither of them 0")
    n = len(X)
    others = nearest_points(X, None, min(k, n) - 1, n_threads=n_threads)[0]
    indices = np.empty((n, others.shape[1] + 1), np.int32)
    indices[:, 0], indices[:, 1:] = np.arange(n), others
    indices.sort(axis=1)
    pointers = np.arange(0, indices.size + 1, indices.shape[1], dtype=np.int32)
    A = sparse.csr_array((np.ones(indices.size), indices.ravel(), pointers), shape=(n, n))
    return sparse.csr_array(0.5 * (A + A.T)) if symmetrize else A


def nearest_points(
    X: NDArray[Any], queries: NDArray[Any] | None, k: int, *, n_threads: int | None = None
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Find the k nearest points, in order, ties by the lowest index (of those a k-d tree finds).

    Parameters
    ----------
    X : ndarray of shape (n, d)
        Points, float32 or float64, finite.
    queries : ndarray of shape (m, d) or None
        Whose neighbours; ``None``: those of the points themselves, without the point itself.
    k : int
        How many; at most n, or n - 1 without queries.
    n_threads : int or None, default=None
        Threads; ``None``: as many as numba may use. The result is the same.

    Returns
    -------
    places : ndarray of int64, of shape (m, k)
        Indices of the neighbours.
    distances : ndarray of float64, of shape (m, k)
        Squared distances.
    """
    m = len(X) if queries is None else len(queries)
    if not 0 <= k <= len(X) - (queries is None):
        raise ParameterError(f"k={k} neighbours among {len(X)} points")
    if k == 0 or m == 0:
        return np.zeros((m, k), np.int64), np.zeros((m, k))
    if X.shape[1] < TREE_DIMENSION:
        return _by_tree(X, queries, k)
    return _by_tiles(X, queries, k, n_threads)


def _by_tree(X: Any, queries: Any, k: int) -> tuple[Any, Any]:
    from scipy.spatial import cKDTree

    same = queries is None
    Q = X if same else queries
    wide = k + same
    distances, places = cKDTree(X).query(Q, wide)
    distances, places = distances.reshape(len(Q), wide), places.reshape(len(Q), wide)
    if same:
        distances[places == np.arange(len(X))[:, None]] = np.inf
    order = np.lexsort((places, distances), axis=1)[:, :k]
    return (
        np.take_along_axis(places, order, axis=1),
        np.take_along_axis(distances, order, axis=1) ** 2,
    )


def _by_tiles(X: Any, queries: Any, k: int, n_threads: int | None) -> tuple[Any, Any]:
    from lowrank_opt.block_coordinate.kernels_prototypes import keep_nearest

    same = queries is None
    X = kernel_input(X)
    Q = X if same else kernel_input(queries).astype(X.dtype, copy=False)
    n, d = X.shape
    # In single precision: centred, and scaled to norms of at most 1.
    centre = X.mean(axis=0, dtype=np.float64)
    near = X - centre
    scale = float(np.sqrt(np.max(np.einsum("ij,ij->i", near, near)))) or 1.0
    points = np.empty((n, d + 1), np.float32)
    np.divide(near, scale, out=points[:, :d], casting="same_kind")
    points[:, d] = np.einsum("ij,ij->i", points[:, :d], points[:, :d])
    if same:
        rows = points.copy()
    else:
        rows = np.empty((len(Q), d + 1), np.float32)
        np.divide(Q - centre, scale, out=rows[:, :d], casting="same_kind")
    own = np.einsum("ij,ij->i", rows[:, :d], rows[:, :d], dtype=np.float64)
    rows[:, :d] *= np.float32(-2.0)
    rows[:, d] = 1.0
    # Rounding of the coordinates and of a sum of d + 1 products, doubled.
    margin = own - (d + 8) * 2.0**-23 * (np.sqrt(own) + 1.0) ** 2
    places = np.full((len(Q), k), n, np.int64)
    distances = np.full((len(Q), k), np.inf)
    columns = np.ascontiguousarray(points.T)
    unit = scale * scale

    def search(row: int) -> None:
        for column in range(0, n, _COLUMNS):
            products = rows[row : row + _ROWS] @ columns[:, column : column + _COLUMNS]
            keep_nearest(Q, X, same, products, row, column, margin, unit, places, distances)

    in_threads(search, range(0, len(Q), _ROWS), n_threads)
    return places, distances


def in_threads(work: Callable[[int], Any], items: Iterable[int], n_threads: int | None) -> None:
    """Call `work` for every item, by several threads whose matrix products have one each.

    Parameters
    ----------
    work : callable
        Called with an item; what it writes must not depend on the order of the calls.
    items : iterable of int
        The items.
    n_threads : int or None
        How many; ``None``: as many as numba may use.
    """
    items = list(items)
    if n_threads is None:
        import numba

        n_threads = int(numba.get_num_threads())
    if n_threads == 1 or len(items) < 2:
        for item in items:
            work(item)
        return
    with thread_limit(None, 1), ThreadPoolExecutor(n_threads) as pool:
        for _ in pool.map(work, items):
            pass
