"""How solvers sample an operator that is a sum: by its own terms, or by the columns of a matrix."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

from lowrank_opt.monotone.kernels_games import Columns, Draws, Sets

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Values = NDArray[np.float64]

__all__ = [
    "ColumnTerms",
    "SampledTerms",
    "draw",
    "draw_tables",
    "matrix_columns",
    "term_sizes",
    "terms_of",
]

_LARGEST = 2**32 - 1
_SIZE_PAIRS = 2


class SampledTerms:
    """The terms of a problem's operator, through the problem's own oracles.

    Parameters
    ----------
    problem : object
        Has ``n_terms``, ``operator``, ``sample_difference`` and ``resolvent``.
    probabilities : ndarray of shape (n_terms,) or None, default=None
        With which terms are drawn; ``None``: all the same.

    Attributes
    ----------
    columns : None
        No kernel knows the terms.
    calls : int
        Evaluations of terms that measuring the probabilities took.
    """

    columns: Any = None
    sets: Any = None
    calls: int = 0

    def __init__(self, problem: Any, probabilities: Any = None) -> None:
        self.problem = problem
        self.n_terms = int(problem.n_terms)
        self.probabilities = probabilities
        self.draws = draw_tables([self.n_terms], probabilities)

    def operator(self, z: Values) -> Values:
        """Return the operator at a point, evaluated in full."""
        return np.asarray(self.problem.operator(z), np.float64)

    def resolvent(self, z: Values, step: float) -> Values:
        """Return the resolvent of the other part."""
        return np.asarray(self.problem.resolvent(z, step), np.float64)

    def difference(
        self, rng: np.random.Generator, batch: int, new: Values, old: Values
    ) -> Values:  # fmt: skip
        """Return an estimate of the operator's difference between two points from a batch."""
        index = draw(rng, self.draws, 0, batch)
        return np.asarray(
            self.problem.sample_difference(new, old, index, self.probabilities), np.float64
        )


class ColumnTerms:
    """An affine operator whose terms are the columns of its matrix, in groups.

    Parameters
    ----------
    columns : Columns
        The operator.
    sizes : sequence of int
        Numbers of columns in each group; one of each group makes a term.
    n_terms : int
        How many terms cost as much as the operator.
    sets : Sets
        Where points are projected.
    importance : bool, default=False
        Draw columns with probabilities proportional to their squared norms.

    Attributes
    ----------
    draws : Draws
        Probabilities, for the kernels.
    calls : int
        0: norms are read off.
    """

    calls: int = 0

    def __init__(
        self, columns: Columns, sizes: Sequence[int], n_terms: int, sets: Sets,
        importance: bool = False,
    ) -> None:  # fmt: skip
        self.columns, self.sets, self.n_terms = columns, sets, int(n_terms)
        self.sizes = list(sizes)
        self.draws = draw_tables(sizes, self.squared_norms() if importance else None)

    def squared_norms(self) -> Values:
        """Return the squared Euclidean norm of every column."""
        squares, start = np.square(self.columns.data), self.columns.start.astype(np.int64)
        total = np.concatenate(([0.0], np.cumsum(squares)))
        # Differences of running sums lose digits: only probabilities and bounds come from them.
        sums = np.maximum(total[start[1:]] - total[start[:-1]], 0.0)
        return np.asarray(np.where(np.diff(start) > 0, sums, 0.0))


def draw_tables(sizes: Sequence[int], chances: Any = None) -> Draws:
    """Return alias tables for drawing one index of each group.

    Parameters
    ----------
    sizes : sequence of int
        Numbers of indices in each group.
    chances : array-like or None, default=None
        What probabilities are proportional to, for all groups one after the other; ``None``: all
        the same. An index with chance zero is never drawn; where all are zero, all are the same.

    Returns
    -------
    Draws
        The tables; ``weight`` is one over the probability.

    Notes
    -----
    The construction is Vose's, linear in the number of indices [1]_.

    References
    ----------
    .. [1] M. D. Vose, "A linear algorithm for generating random numbers with a given
       distribution", IEEE Transactions on Software Engineering 17, 1991.
    """
    bounds = np.concatenate(([0], np.cumsum(sizes))).astype(np.int64)
    total = int(bounds[-1])
    keep, alias = np.ones(total), np.arange(total, dtype=np.int64)
    weight = np.empty(total)
    for low, high in itertools.pairwise(bounds):
        size = int(high - low)
        part = None if chances is None else np.asarray(chances, np.float64)[low:high]
        mass = 0.0 if part is None else float(part.sum())
        if part is None or mass <= 0.0:
            weight[low:high] = size
            continue
        share = part * (size / mass)
        with np.errstate(divide="ignore"):
            weight[low:high] = np.where(part > 0, size / share, 0.0)
        small = [i for i in range(size) if share[i] < 1.0]
        large = [i for i in range(size) if share[i] >= 1.0]
        left = share.copy()
        while small and large:
            few, many = small.pop(), large[-1]
            keep[low + few], alias[low + few] = left[few], low + many
            left[many] -= 1.0 - left[few]
            if left[many] < 1.0:
                small.append(large.pop())
        for i in small:  # what rounding leaves over
            if part[i] <= 0.0:
                keep[low + i], alias[low + i] = 0.0, low + int(np.argmax(part))
    return Draws(bounds, keep, alias, weight)


def draw(rng: np.random.Generator, draws: Draws, group: int, count: int) -> NDArray[np.int64]:
    """Return indices of a group, as the kernels draw them.

    Parameters
    ----------
    rng : numpy.random.Generator
        One number is taken for each index.
    draws : Draws
        The tables.
    group : int
        Which group.
    count : int
        How many indices.
    """
    low, high = int(draws.bounds[group]), int(draws.bounds[group + 1])
    place = rng.random(count) * (high - low)
    whole = place.astype(np.int64)
    index = low + np.minimum(whole, high - low - 1)
    other = place - whole >= draws.keep[index]
    return np.where(other, draws.alias[index], index)


def matrix_columns(blocks: Sequence[tuple[Any, float, int]], constant: Any) -> Columns:
    """Store the columns of a matrix, given as blocks of columns one after the other.

    Parameters
    ----------
    blocks : sequence of tuple
        Each a matrix (dense or sparse), its sign, and the row where it begins.
    constant : array-like of shape (d,)
        Constant term.

    Returns
    -------
    Columns
        Dense if all blocks are.
    """
    constant = np.array(constant, np.float64)
    dense = not any(sp.issparse(block) for block, _, _ in blocks)
    data, index, lengths, offsets = [], [], [], []
    for block, sign, row in blocks:
        if dense:
            array = np.asarray(block, np.float64)
            data.append(sign * np.ascontiguousarray(array.T).reshape(-1))
            lengths.append(np.full(array.shape[1], array.shape[0], np.int64))
        else:
            by_columns = sp.csc_array(block, dtype=np.float64)
            by_columns.sum_duplicates()
            data.append(sign * by_columns.data)
            index.append(by_columns.indices.astype(np.int64) + row)
            lengths.append(np.diff(by_columns.indptr).astype(np.int64))
        offsets.append(np.full(block.shape[1], row, np.int64))
    start = np.concatenate(([0], np.cumsum(np.concatenate(lengths))))
    if start[-1] > _LARGEST:
        raise OverflowError("more than 2^32 - 1 entries")
    return Columns(
        np.concatenate(data), (np.concatenate(index) if index else np.empty(0)).astype(np.uint32),
        start.astype(np.uint32), np.concatenate(offsets).astype(np.uint32), constant, dense,
    )  # fmt: skip


def terms_of(problem: Any, sampling: str = "uniform") -> ColumnTerms | SampledTerms:
    """Return the terms by which an operator is sampled.

    Games are sampled by rows and columns, drawn independently; affine operators that are given as
    ``(M, q)`` without terms of their own, and without a prox, by columns of M. Both are done by
    kernels. All others are sampled by the problem's own terms.

    Parameters
    ----------
    problem : object
        A matrix game or an inclusion.
    sampling : {"uniform", "importance", "auto"}, default="uniform"
        Probabilities: all the same; or proportional to the squared norms of rows and columns, for
        the problem's own terms ``problem.importance`` or else measured by :func:`term_sizes`.
        "auto": by importance unless that would have to be measured.

    Returns
    -------
    ColumnTerms or SampledTerms
        The terms.
    """
    importance = sampling != "uniform"
    A = getattr(problem, "A", None)
    try:
        if A is not None:
            m, n = A.shape
            columns = matrix_columns([(A, -1.0, n), (A.T, 1.0, 0)], np.zeros(m + n))
            sets = Sets(np.array([0, n, n + m]), np.ones(2))
            return ColumnTerms(columns, [n, m], max(m, n), sets, importance)
        affine = getattr(problem, "affine", None)
        if affine is not None and problem.components is None and problem.prox is None:
            d = problem.size
            columns = matrix_columns([(affine[0], 1.0, 0)], affine[1])
            return ColumnTerms(
                columns, [d], d, Sets(np.array([0, d]), np.array([-1.0])), importance
            )
    except OverflowError:
        pass  # the kernels' pointers do not reach that far
    chances = getattr(problem, "importance", None) if importance else None
    if sampling == "importance" and chances is None:
        terms = SampledTerms(problem, term_sizes(problem))
        terms.calls = 2 * _SIZE_PAIRS * int(problem.n_terms)
        return terms
    return SampledTerms(problem, chances)


def term_sizes(problem: Any, pairs: int = _SIZE_PAIRS) -> Values:
    """Return probabilities proportional to sampled Lipschitz constants of the terms.

    Parameters
    ----------
    problem : object
        Has ``n_terms``, ``start``, ``resolvent`` and ``sample_operator``.
    pairs : int, default=2
        Pairs of points; each costs two evaluations of every term.

    Returns
    -------
    ndarray of shape (n_terms,)
        Probabilities, at least half as large as those that are all the same.
    """
    rng = np.random.default_rng(0)
    z, n = np.asarray(problem.start(), np.float64), int(problem.n_terms)
    scale = max(1.0, float(np.linalg.norm(z))) / math.sqrt(z.size)
    largest = np.zeros(n)
    for _ in range(pairs):
        u, v = (problem.resolvent(z + scale * rng.standard_normal(z.size), 1.0) for _ in range(2))
        length = float(np.linalg.norm(u - v))
        if length > 0:
            sizes = [
                float(np.linalg.norm(problem.sample_difference(u, v, np.array([i]))))
                for i in range(n)
            ]
            largest = np.maximum(largest, np.asarray(sizes) / length)
    total = float(largest.sum())
    return 0.5 / n + 0.5 * largest / total if total > 0 else np.full(n, 1.0 / n)
