"""Forests in the graph of a sparse symmetric matrix: huge blocks that are solved in linear time.

Where the entries of a matrix inside a block form no cycle, elimination from the leaves to the
roots makes no fill: the block is solved as fast as it is read, whatever its size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lowrank_opt.block_coordinate.design import unmarked
from lowrank_opt.block_coordinate.kernels_forests import (
    bounded_elimination,
    color_greedily,
    color_two,
    factor_forest,
    order_forest,
    partition_forests,
    select_forest,
    settle_ties,
    solve_factored,
)
from lowrank_opt.core.errors import ParameterError, ProblemError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = [
    "FactoredForest",
    "Forest",
    "bounded_fill",
    "greedy_forest",
    "is_forest",
    "lattice_checkerboard",
    "lattice_combs",
    "random_forest",
    "red_black",
    "solve_forest",
    "solve_sparse_block",
    "tree_partition",
]


@dataclass(frozen=True, eq=False, repr=False)
class Forest:
    """A block without cycles, ordered for elimination; it serves any values of the matrix.

    Made by :meth:`of`. What it holds depends on the pattern of the matrix only.

    Parameters
    ----------
    nodes : ndarray of int64, of shape (m,)
        The block.
    order : ndarray of int64, of shape (m,)
        Places in `nodes`, children before their parents.
    parents : ndarray of int64, of shape (m,)
        Places in `order` of the parents; -1 for roots.
    edges, diagonal : ndarray of int64, of shape (m,)
        Places in ``A.data`` of the entries that join a node to its parent (-1 for roots), and of
        diagonal entries (-1 where none is stored); both in the order of `order`.

    Examples
    --------
    >>> import numpy as np, scipy.sparse as sp
    >>> from lowrank_opt.block_coordinate.forests import Forest
    >>> A = sp.diags_array([-np.ones(3), np.full(4, 2.0), -np.ones(3)], offsets=(-1, 0, 1))
    >>> forest = Forest.of(A.tocsr(), np.arange(4))
    >>> forest.n_trees, forest.factor(A.tocsr()).solve(np.array([1.0, 0.0, 0.0, 1.0])).round(12)
    (1, array([1., 1., 1., 1.]))
    """

    nodes: NDArray[np.int64]
    order: NDArray[np.int64]
    parents: NDArray[np.int64]
    edges: NDArray[np.int64]
    diagonal: NDArray[np.int64]

    def __len__(self) -> int:
        return self.nodes.size

    @classmethod
    def of(cls, A: Any, nodes: ArrayLike) -> Forest:
        """Order a block of the graph of a matrix.

        Parameters
        ----------
        A : csr_array of shape (n, n)
            Matrix with a symmetric pattern; its stored entries off the diagonal are the edges.
        nodes : array-like of int, of shape (m,)
            The block, each node once, in any order.

        Returns
        -------
        Forest
            The block in the order of elimination.

        Raises
        ------
        ProblemError
            The block has a cycle, or a node twice.
        """
        indptr, indices = _graph(A)
        block = _block(nodes, indptr.size - 1)
        order, parents, edges, diagonal, count = order_forest(indptr, indices, block)
        if count < 0:
            raise ProblemError(f"nodes: {block[-1 - count]} is listed twice; list each node once")
        if count < block.size:
            left = np.ones(block.size, bool)
            left[order[:count]] = False
            raise ProblemError(
                f"nodes: the {block.size} nodes of the block have a cycle (node "
                f"{block[np.argmax(left)]} is on one, or between two); a forest has none: take the "
                "block from greedy_forest or tree_partition, or use an update for blocks of any "
                "pattern"
            )
        return cls(block, order, parents, edges, diagonal)

    @property
    def n_trees(self) -> int:
        """Number of trees."""
        return int(np.count_nonzero(self.parents < 0))

    def factor(self, A: Any) -> FactoredForest:
        """Eliminate with the values of a matrix.

        Parameters
        ----------
        A : csr_array of shape (n, n), or its ``data``
            Values, symmetric, on the pattern that the forest was made for.

        Returns
        -------
        FactoredForest
            What solves any number of right-hand sides.

        Raises
        ------
        numpy.linalg.LinAlgError
            A pivot is not positive: the matrix is not positive definite on the block.

        Notes
        -----
        Cost: ``3 m`` flops for m nodes.
        """
        data = _values(A)
        pivots, multipliers = np.empty(len(self)), np.empty(len(self))
        bad = factor_forest(data, self.parents, self.edges, self.diagonal, pivots, multipliers)
        if bad >= 0:
            raise np.linalg.LinAlgError(_not_definite(self.nodes[self.order[bad]], pivots[bad]))
        return FactoredForest(self, pivots, multipliers)


@dataclass(frozen=True, eq=False, repr=False)
class FactoredForest:
    """A block that is eliminated.

    Made by :meth:`Forest.factor`.

    Parameters
    ----------
    forest : Forest
        The block.
    pivots, multipliers : ndarray of float64, of shape (m,)
        Pivots, and entries to the parents over them, in the order of elimination.
    """

    forest: Forest
    pivots: NDArray[np.float64]
    multipliers: NDArray[np.float64]

    def solve(self, rhs: ArrayLike) -> NDArray[np.float64]:
        """Solve with one right-hand side or several.

        Parameters
        ----------
        rhs : array-like of shape (m,) or (m, k)
            Right-hand sides, in the order of ``forest.nodes``.

        Returns
        -------
        ndarray of float64, of the shape of `rhs`
            Solutions.

        Notes
        -----
        Cost: ``5 m k`` flops.
        """
        given = np.ascontiguousarray(rhs, dtype=np.float64)
        if given.ndim not in (1, 2) or given.shape[0] != len(self.forest):
            raise ProblemError(
                f"rhs has shape {given.shape}; expected ({len(self.forest)},) or "
                f"({len(self.forest)}, k), one row for every node of the block"
            )
        columns = given.reshape(len(self.forest), -1) if given.size else given.reshape(-1, 1)
        out = np.empty_like(columns)
        forest = self.forest
        solve_factored(forest.order, forest.parents, self.pivots, self.multipliers, columns, out)
        return out.reshape(given.shape)


def solve_forest(A: Any, rhs: ArrayLike, nodes: Any) -> NDArray[np.float64]:
    """Solve with the part of a matrix on a block that has no cycle.

    Parameters
    ----------
    A : csr_array of shape (n, n)
        Symmetric matrix, positive definite on the block.
    rhs : array-like of shape (m,) or (m, k)
        Right-hand sides, in the order of `nodes`.
    nodes : array-like of int, of shape (m,), or Forest
        The block. A :class:`Forest` of the same pattern saves ordering it again.

    Returns
    -------
    ndarray of float64, of the shape of `rhs`
        ``x`` with ``A[nodes][:, nodes] @ x = rhs``.

    Raises
    ------
    ProblemError
        The block has a cycle, or the shapes do not match.
    numpy.linalg.LinAlgError
        A pivot is not positive; the message says of which node.

    Notes
    -----
    Gaussian elimination from the leaves of the trees to their roots: what belief propagation
    computes on a tree. Cost: one pass over the rows of the block, ``8 m k`` flops.

    Examples
    --------
    >>> import numpy as np, scipy.sparse as sp
    >>> from lowrank_opt.block_coordinate.forests import solve_forest
    >>> A = sp.csr_array([[2.0, -1.0, 0.0], [-1.0, 2.0, -1.0], [0.0, -1.0, 2.0]])
    >>> solve_forest(A, [0.0, 0.0, 4.0], [0, 1, 2]).round(12)
    array([1., 2., 3.])
    """
    forest = nodes if isinstance(nodes, Forest) else Forest.of(A, nodes)
    return forest.factor(A).solve(rhs)


def is_forest(A: Any, nodes: ArrayLike) -> bool:
    """Whether a block has no cycle.

    Parameters
    ----------
    A : csr_array of shape (n, n)
        Matrix with a symmetric pattern.
    nodes : array-like of int, of shape (m,)
        The block, each node once.

    Returns
    -------
    bool
        True for a forest, single nodes and no nodes at all included.
    """
    indptr, indices = _graph(A)
    block = _block(nodes, indptr.size - 1)
    return bool(order_forest(indptr, indices, block)[4] == block.size)


def greedy_forest(A: Any, scores: ArrayLike, *, skip_zeros: bool = False) -> NDArray[np.int64]:
    """Choose nodes by decreasing score, each unless it would close a cycle.

    Parameters
    ----------
    A : csr_array of shape (n, n)
        Matrix with a symmetric pattern.
    scores : array-like of shape (n,)
        Scores, such as absolute derivatives; of equal ones the lowest index goes first.
    skip_zeros : bool, default=False
        Leave out nodes whose score is 0: they have nothing to gain by themselves, though an exact
        update would move them with the others.

    Returns
    -------
    ndarray of int64
        The nodes, ascending. Each node that is left out has two neighbours in one tree.

    Notes
    -----
    Sorting, then union-find: ``n log n + nnz`` steps.

    Examples
    --------
    >>> import numpy as np, scipy.sparse as sp
    >>> from lowrank_opt.block_coordinate.forests import greedy_forest
    >>> triangle = sp.csr_array(np.full((3, 3), -1.0) + 4 * np.eye(3))
    >>> greedy_forest(triangle, [1.0, 3.0, 2.0])
    array([1, 2])
    """
    indptr, indices = _graph(A)
    keys = _scores(scores, indptr.size - 1)
    order = _descending(keys)
    if skip_zeros:
        order = order[keys[order] != 0.0]
    return np.flatnonzero(select_forest(indptr, indices, order))


def random_forest(A: Any, rng: np.random.Generator) -> NDArray[np.int64]:
    """Choose nodes in random order, each unless it would close a cycle.

    Parameters
    ----------
    A : csr_array of shape (n, n)
        Matrix with a symmetric pattern.
    rng : numpy.random.Generator
        Draws one permutation of the nodes.

    Returns
    -------
    ndarray of int64
        The nodes, ascending.
    """
    indptr, indices = _graph(A)
    return np.flatnonzero(select_forest(indptr, indices, rng.permutation(indptr.size - 1)))


def tree_partition(A: Any, order: ArrayLike | None = None) -> NDArray[np.int64]:
    """Partition all nodes into forests, each node in the first one that stays without a cycle.

    Parameters
    ----------
    A : csr_array of shape (n, n)
        Matrix with a symmetric pattern.
    order : array-like of int, of shape (n,), or None, default=None
        Order in which nodes are placed; ``None``: by decreasing diagonal entry.

    Returns
    -------
    ndarray of int64, of shape (n,)
        Block of every node, numbered from 0. There are at most half the largest degree, rounded
        down, plus 1: 3 on a lattice.

    Notes
    -----
    One union-find serves all forests: ``n + nnz`` steps after sorting.
    """
    indptr, indices = _graph(A)
    return partition_forests(indptr, indices, _order(A, order))


def red_black(
    A: Any, order: ArrayLike | None = None, *, bipartite: bool = True
) -> NDArray[np.int64]:
    """Colour the nodes such that no two of a colour are joined: blocks with a diagonal matrix.

    Parameters
    ----------
    A : csr_array of shape (n, n)
        Matrix with a symmetric pattern.
    order : array-like of int, of shape (n,), or None, default=None
        Order in which nodes are coloured; ``None``: by decreasing diagonal entry.
    bipartite : bool, default=True
        Use two colours where two are enough. The published rule does not look, and may need more
        colours than two on a bipartite graph, depending on the order.

    Returns
    -------
    ndarray of int64, of shape (n,)
        Colour of every node, numbered from 0: the least used one that no neighbour has, a new one
        where all are taken. At most the largest degree plus 1.

    Notes
    -----
    Cost: ``n + nnz`` steps times the number of colours.
    """
    indptr, indices = _graph(A)
    turn = _order(A, order)
    if bipartite:
        labels = color_two(indptr, indices, turn)
        if labels.size == 0 or labels[0] >= 0:
            return labels
    return color_greedily(indptr, indices, turn)


def lattice_checkerboard(r: int, c: int) -> NDArray[np.int64]:
    """Colour an r by c lattice like a chess board.

    Parameters
    ----------
    r, c : int
        Rows and columns, at least 1; nodes are numbered down the columns.

    Returns
    -------
    ndarray of int64, of shape (r * c,)
        0 where row plus column is even, else 1.
    """
    row, column = _lattice(r, c)
    return (row + column) % 2


def lattice_combs(r: int, c: int) -> NDArray[np.int64]:
    """Partition an r by c lattice into two combs, which are trees.

    Parameters
    ----------
    r, c : int
        Rows and columns, at least 1; nodes are numbered down the columns.

    Returns
    -------
    ndarray of int64, of shape (r * c,)
        0 for the first row and the even columns without their last node, 1 for the last row and
        the odd columns without their first node. A single row is a tree: all 0.
    """
    row, column = _lattice(r, c)
    if r == 1:
        return np.zeros(c, np.int64)
    first = (row == 0) | ((column % 2 == 0) & (row < r - 1))
    return np.where(first, 0, 1)


def bounded_fill(A: Any, scores: ArrayLike, max_fill: int) -> NDArray[np.int64]:
    """Choose nodes whose part of the matrix has a sparse Cholesky factor.

    Nodes of least degree are eliminated in turn; where every one left has more than `max_fill`
    neighbours left, that of the lowest score is dropped.

    Parameters
    ----------
    A : csr_array of shape (n, n)
        Matrix with a symmetric pattern.
    scores : array-like of shape (n,)
        Scores; of equal ones the highest index is dropped first.
    max_fill : int
        Entries below the diagonal that a column of the factor may have, at least 0: a bound on
        the tree-width of the block. 0 gives nodes that are not joined, 1 a forest.

    Returns
    -------
    ndarray of int64
        The nodes, ascending; :func:`solve_sparse_block` solves with them.

    Notes
    -----
    A factor of m nodes has at most ``m (max_fill + 1)`` entries and takes ``m max_fill^2`` flops.
    Choosing takes about as many steps. The bound holds for the order of elimination found here;
    a sparse solver that orders the block by itself may fill in somewhat more.
    """
    if isinstance(max_fill, (bool, np.bool_)) or not isinstance(max_fill, (int, np.integer)):
        raise ParameterError(f"max_fill={max_fill!r} must be an integer, at least 0")
    if max_fill < 0:
        raise ParameterError(f"max_fill={max_fill!r} must be at least 0")
    events, kept = _bounded(A, scores, int(max_fill))
    return np.sort(events[kept])


def solve_sparse_block(A: Any, rhs: ArrayLike, nodes: ArrayLike) -> NDArray[np.float64]:
    """Solve with the part of a matrix on any block, by a sparse factorisation.

    Parameters
    ----------
    A : csr_array of shape (n, n)
        Symmetric matrix, positive definite on the block.
    rhs : array-like of shape (m,) or (m, k)
        Right-hand sides, in the order of `nodes`.
    nodes : array-like of int, of shape (m,)
        The block.

    Returns
    -------
    ndarray of float64, of the shape of `rhs`
        ``x`` with ``A[nodes][:, nodes] @ x = rhs``.

    Raises
    ------
    numpy.linalg.LinAlgError
        The matrix is not positive definite on the block.

    Notes
    -----
    By CHOLMOD where scikit-sparse is installed, else by SuperLU with a symmetric ordering of
    least degree and pivots from the diagonal.
    """
    indptr, _ = _graph(A)
    block = _block(nodes, indptr.size - 1)
    given = np.asarray(rhs, dtype=np.float64)
    if given.ndim not in (1, 2) or given.shape[0] != block.size:
        raise ProblemError(
            f"rhs has shape {given.shape}; expected ({block.size},) or ({block.size}, k), one row "
            "for every node of the block"
        )
    if given.size == 0:
        return np.empty(given.shape)
    part = A[block][:, block].tocsc().astype(np.float64)
    try:
        from sksparse import cholmod
    except ImportError:
        return _superlu(part, given, block)
    try:
        # The second form is that of scikit-sparse before 0.5.
        factor = (
            cholmod.cho_factor(part).solve
            if hasattr(cholmod, "cho_factor")
            else cholmod.cholesky(part)
        )
    except cholmod.CholmodError:
        return _superlu(part, given, block)  # which says where the pivot is
    solution: NDArray[np.float64] = factor(given)
    return solution


def _superlu(part: Any, rhs: NDArray[np.float64], block: NDArray[np.int64]) -> Any:
    from scipy.sparse.linalg import splu

    try:
        factor = splu(
            part, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True}
        )
    except RuntimeError as error:  # exactly singular
        raise np.linalg.LinAlgError(f"A is not positive definite on the block: {error}") from error
    pivots = factor.U.diagonal()
    # Pivots taken off the diagonal mean that one on it was 0.
    moved = factor.perm_r != factor.perm_c
    if moved.any():
        node = block[np.argmax(moved)]
        raise np.linalg.LinAlgError(_not_definite(node, 0.0))
    if not (pivots > 0.0).all():
        place = int(np.argmin(pivots > 0.0))
        node = block[np.argsort(factor.perm_c)[place]]
        raise np.linalg.LinAlgError(_not_definite(node, pivots[place]))
    return factor.solve(rhs)


def _bounded(A: Any, scores: ArrayLike, width: int) -> tuple[Any, Any]:
    """Nodes in the order in which they leave, and which of them are eliminated, not dropped."""
    indptr, indices = _graph(A)
    mirrored = A.T.tocsr()
    mirrored.sort_indices()
    same = np.array_equal(mirrored.indptr, indptr)
    if A.has_sorted_indices:
        same = same and np.array_equal(mirrored.indices, indices)
    if not same:
        raise ProblemError("A: its pattern is not symmetric; give a symmetric matrix")
    weakest = _descending(_scores(scores, indptr.size - 1))[::-1].copy()
    return bounded_elimination(indptr, indices, weakest, min(width, max(indptr.size - 1, 0)))


def _not_definite(node: Any, pivot: float) -> str:
    return (
        f"A is not positive definite on the block: the pivot at index {node} is {pivot:g}; add a "
        "multiple of the identity, or leave that variable out"
    )


def _graph(A: Any) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Row pointers and column indices of a matrix, checked and int32."""
    if getattr(A, "format", None) != "csr":
        raise ProblemError(
            f"A is {type(A).__name__}; expected a sparse matrix by rows: scipy.sparse.csr_array(A)"
        )
    if A.shape[0] != A.shape[1]:
        raise ProblemError(f"A has shape {A.shape}; expected a square matrix")
    if A.nnz > np.iinfo(np.int32).max:
        raise ProblemError(
            f"A has {A.nnz} entries; forests are limited to {np.iinfo(np.int32).max}"
        )
    if not (A.has_sorted_indices and A.has_canonical_format):
        seen = A.copy()
        seen.sum_duplicates()
        if seen.nnz != A.nnz:
            raise ProblemError("A has duplicate entries; call A.sum_duplicates() first")
    pointers, indices = (a.astype(np.int32, copy=False) for a in (A.indptr, A.indices))
    return unmarked(pointers), unmarked(indices)


def _values(A: Any) -> NDArray[Any]:
    data = np.ascontiguousarray(getattr(A, "data", A) if hasattr(A, "format") else A)
    return unmarked(data if data.dtype in (np.float32, np.float64) else data.astype(np.float64))


def _block(nodes: ArrayLike, n: int) -> NDArray[np.int64]:
    block = np.asarray(nodes)
    if block.ndim != 1 or (block.size and block.dtype.kind not in "iu"):
        raise ProblemError(
            f"nodes has shape {block.shape} and dtype {block.dtype}; expected a vector of integers"
        )
    block = np.ascontiguousarray(block, dtype=np.int64)
    if block.size and (block.min() < 0 or block.max() >= n):
        bad = block[(block < 0) | (block >= n)][0]
        raise ProblemError(f"nodes: {bad} is out of range for {n} variables, numbered from 0")
    return block


def _scores(scores: ArrayLike, n: int) -> NDArray[np.float64]:
    keys = np.ascontiguousarray(scores, dtype=np.float64)
    if keys.shape != (n,):
        raise ProblemError(f"scores has shape {keys.shape}; expected ({n},), one for every node")
    if np.isnan(keys).any():
        raise ProblemError(
            f"scores[{int(np.argmax(np.isnan(keys)))}] is NaN; scores must be numbers"
        )
    return keys


def _descending(keys: NDArray[np.float64]) -> NDArray[np.int64]:
    """Indices by decreasing key, ties by the lowest index."""
    # Faster than a stable sort: numpy sorts by vector instructions, and there are few ties.
    order = np.argsort(-keys).astype(np.int64, copy=False)
    settle_ties(keys, order)
    return order


def _order(A: Any, order: ArrayLike | None) -> NDArray[np.int64]:
    n = A.shape[0]
    if order is None:
        return _descending(_scores(A.diagonal(), n))
    turn = _block(order, n)
    if turn.size != n or (np.bincount(turn, minlength=n) != 1).any():
        raise ProblemError(f"order must list each of the {n} nodes once")
    return turn


def _lattice(r: int, c: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    for name, size in (("r", r), ("c", c)):
        if not isinstance(size, (int, np.integer)) or size < 1:
            raise ParameterError(f"{name}={size!r} must be an integer, at least 1")
    column, row = np.divmod(np.arange(r * c, dtype=np.int64), r)
    return row, column
