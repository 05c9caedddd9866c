"""Observed entries of a matrix, and how to draw distinct positions without a dense matrix."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lowrank_opt.core.errors import ParameterError

if TYPE_CHECKING:
    import scipy.sparse

    from lowrank_opt.core.protocols import Array

__all__ = ["ObservedEntries", "draw_cells"]


@dataclass(frozen=True, eq=False)
class ObservedEntries:
    """Observed entries of a matrix, in row-major order, every position at most once.

    Parameters
    ----------
    rows, cols : ndarray of shape (n_observations,), int32
        Zero-based positions.
    values : ndarray of shape (n_observations,), float
        Observed values.
    shape : tuple of int
        Shape ``(n_rows, n_cols)`` of the matrix.
    """

    rows: Array
    cols: Array
    values: Array
    shape: tuple[int, int]

    def __len__(self) -> int:
        return len(self.values)

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({self.shape[0]} x {self.shape[1]}, {len(self)} entries, "
            f"density {self.density:.3g}, {self.values.dtype})"
        )

    @property
    def density(self) -> float:
        """Observed share of the matrix."""
        return len(self) / (self.shape[0] * self.shape[1])

    @property
    def coo(self) -> tuple[Array, Array, Array, tuple[int, int]]:
        """``(rows, cols, values, shape)``, the form that the solvers' front doors accept."""
        return self.rows, self.cols, self.values, self.shape

    def to_sparse(self) -> scipy.sparse.csr_array:
        """Stored entries are the observed ones (an observed zero stays stored).

        Returns
        -------
        scipy.sparse.csr_array of shape (n_rows, n_cols)
            The observed entries. Cost: one copy.
        """
        from scipy.sparse import coo_array, csr_array

        return csr_array(coo_array((self.values, (self.rows, self.cols)), shape=self.shape))

    def select(self, index: Array) -> ObservedEntries:
        """Keep some of the entries.

        Parameters
        ----------
        index : ndarray of int or bool
            Entries to keep. Everything recorded per entry is selected along; the rest is kept.

        Returns
        -------
        ObservedEntries
            An object of the same class.
        """
        changed = {
            f.name: getattr(self, f.name)[index]
            for f in dataclasses.fields(self)
            if f.metadata.get("per_entry") or f.name in ("rows", "cols", "values")
            if getattr(self, f.name) is not None
        }
        return dataclasses.replace(self, **changed)

    def split(
        self, test_fraction: float = 0.1, *, drop_unseen: bool = True, random_state: Any = None
    ) -> tuple[Any, Any]:
        """Split the entries at random into a training and a test part.

        Parameters
        ----------
        test_fraction : float, default=0.1
            Share of the entries in the test part, in (0, 1).
        drop_unseen : bool, default=True
            Leave out of the test part the entries whose row or column has no training entry:
            nothing can be learned about them.
        random_state : int, Generator or None, default=None
            Seed of the split.

        Returns
        -------
        train, test : ObservedEntries
            Two objects of the same class. Cost: one permutation of the entries.
        """
        if not 0.0 < test_fraction < 1.0:
            raise ParameterError(f"test_fraction is {test_fraction!r}; expected a float in (0, 1)")
        in_test = np.zeros(len(self), dtype=bool)
        n_test = round(test_fraction * len(self))
        rng = np.random.default_rng(random_state)
        in_test[rng.choice(len(self), n_test, replace=False)] = True
        train = self.select(~in_test)
        if drop_unseen:
            row_seen = np.zeros(self.shape[0], dtype=bool)
            col_seen = np.zeros(self.shape[1], dtype=bool)
            row_seen[train.rows] = True
            col_seen[train.cols] = True
            in_test &= row_seen[self.rows] & col_seen[self.cols]
        return train, self.select(in_test)


def _draw(rng: np.random.Generator, size: int, length: int, weights: Array | None) -> Array:
    """`size` indices below `length`, independent, exchangeable, with the given weights."""
    if weights is None:
        return rng.integers(length, size=size)
    # Counts first, then a shuffle: several times faster than inverting the distribution function.
    index = np.repeat(np.arange(length), rng.multinomial(size, weights))
    rng.shuffle(index)
    return index


def _distinct(index: Array) -> Array:
    """Sorted distinct values; numpy.unique hashes integers, which is 50 times slower here."""
    index = np.sort(index)
    keep = np.ones(len(index), dtype=bool)
    np.not_equal(index[1:], index[:-1], out=keep[1:])
    return index[keep]


def draw_cells(
    rng: np.random.Generator,
    shape: tuple[int, int],
    size: int,
    row_weights: Array | None = None,
    col_weights: Array | None = None,
    cover: Array | None = None,
) -> tuple[Array, Array]:
    """Draw `size` distinct positions of a matrix.

    Sampling without replacement, as drawing one after the other and skipping what is already
    there; uniform when no weights are given.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of randomness.
    shape : tuple of int
        Shape of the matrix.
    size : int
        Number of positions, at most the number of cells.
    row_weights, col_weights : ndarray or None, default=None
        Probabilities of rows and of columns; ``None`` means equal.
    cover : ndarray of int64 or None, default=None
        Linear positions that must be among the drawn ones.

    Returns
    -------
    rows, cols : ndarray of shape (size,), int32
        Positions in row-major order. Cost: O(size log size) time, O(size) memory.
    """
    m, n = shape
    cells = m * n
    uniform = row_weights is None and col_weights is None
    if uniform and cover is None and size > cells // 2:
        # Few holes: draw the holes. The mask has fewer than two bytes per drawn position.
        keep = np.ones(cells, dtype=bool)
        hole_rows, hole_cols = draw_cells(rng, shape, cells - size)
        keep[hole_rows.astype(np.int64) * n + hole_cols] = False
        chosen = np.flatnonzero(keep)
    else:
        chosen = np.empty(0, np.int64) if cover is None else _distinct(cover)
        accepted = 1.0
        for _ in range(200):
            missing = size - len(chosen)
            if missing <= 0:
                break
            batch = min(int(1.05 * missing / accepted) + 16, 4 * size + 64)
            if uniform:
                fresh = rng.integers(cells, size=batch)
            else:
                fresh = _draw(rng, batch, m, row_weights) * n
                fresh += _draw(rng, batch, n, col_weights)
            fresh = _distinct(fresh)
            if len(chosen):
                place = np.searchsorted(chosen, fresh)
                place[place == len(chosen)] -= 1
                fresh = fresh[chosen[place] != fresh]
            accepted = max(len(fresh) / batch, 1e-3)
            if len(fresh) > missing:
                fresh = np.delete(fresh, rng.choice(len(fresh), len(fresh) - missing, False))
            chosen = np.concatenate([chosen, fresh])
            chosen.sort(kind="stable")  # merges two sorted runs
        else:
            raise ParameterError(
                f"{size} distinct entries of a {m} x {n} matrix could not be drawn with degrees "
                "this uneven; lower the number of observations or the degree exponent"
            )
    rows, cols = np.divmod(chosen, n)
    return rows.astype(np.int32), cols.astype(np.int32)


def power_law(rng: np.random.Generator, length: int, exponent: float) -> Array:
    """Probabilities proportional to rank**-exponent, in random order."""
    weights = np.arange(1, length + 1, dtype=np.float64) ** -exponent
    rng.shuffle(weights)
    return weights / math.fsum(weights)
