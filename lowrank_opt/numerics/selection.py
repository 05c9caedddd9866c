"""The k largest entries, of arrays and of streams. Ties go to the lowest index, always."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from lowrank_opt.core.errors import ParameterError, ProblemError
from lowrank_opt.numerics import reference
from lowrank_opt.numerics._arrays import count, kernel_input, real_array

__all__ = ["StreamingTopK", "TopK", "topk"]


class TopK(NamedTuple):
    """The largest entries and where they are.

    Parameters
    ----------
    values : array of shape (..., k)
        Descending along the axis asked for.
    indices : array of int64, of the same shape
        Positions; equal values have ascending positions.
    """

    values: Any
    indices: Any


def topk(x: Any, k: int, *, axis: int = -1) -> TopK:
    """Return the `k` largest entries along an axis, in descending order, and their positions.

    Parameters
    ----------
    x : array-like of float
        No NaN; infinities are allowed, ``-inf`` marks entries to be taken last.
    k : int
        Between 0 and the length of the axis.
    axis : int, default=-1
        The axis.

    Returns
    -------
    TopK
        ``(values, indices)``, with `k` entries along `axis`. Of equal entries the one with the
        lowest index comes first and is preferred: the answer is unique.

    Raises
    ------
    ProblemError
        `x` has a NaN.
    ParameterError
        `k` or `axis` is out of range.

    Notes
    -----
    numpy: for small `k` one pass with a heap, n comparisons and about ``k ln(n / k)`` insertions
    of O(log k) when the order is random (n insertions at worst); otherwise numpy's partition,
    O(n) expected, and a sort of the `k`. Other libraries: a stable sort, O(n log n).

    Examples
    --------
    >>> from lowrank_opt.numerics import topk
    >>> values, indices = topk([1.0, 3.0, 2.0, 3.0], 2)
    >>> values, indices
    (array([3., 3.]), array([1, 3]))
    """
    x, xp = real_array("x", x, finite=False)
    if x.ndim == 0 or not -x.ndim <= axis < x.ndim:
        raise ParameterError(f"axis is {axis} but x has {x.ndim} dimensions; give an axis of x")
    k = count("k", k, 0, x.shape[axis])
    work = xp.moveaxis(x, axis, -1)
    if xp is not np:
        values, indices = reference.topk(work, k)
    elif k == 0 or work.size == 0:
        values = np.empty((*work.shape[:-1], k), x.dtype)
        indices = np.empty(values.shape, np.int64)
    else:
        rows = kernel_input(work).reshape(-1, work.shape[-1])
        values, indices = (part.reshape(*work.shape[:-1], k) for part in _topk_rows(rows, k))
    return TopK(xp.moveaxis(values, -1, axis), xp.moveaxis(indices, -1, axis))


def _topk_rows(rows: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    from lowrank_opt.numerics import kernels  # numba: only when numpy arrays come

    n = rows.shape[1]
    values = np.empty((rows.shape[0], k), rows.dtype)
    indices = np.empty(values.shape, np.int64)
    # Measured: an insertion costs as much as a partition spends on about 16 entries.
    if k <= 8 or 16 * k * (1 + math.log(n / k)) <= n:
        kernels.topk_rows(rows, values, indices)
        return values, indices
    thresholds = np.partition(rows, n - k, axis=1)[:, n - k].copy()
    kernels.collect_rows(rows, thresholds, values, indices)
    order = np.argsort(-values, axis=1)
    values = np.take_along_axis(values, order, axis=1)
    indices = np.take_along_axis(indices, order, axis=1)
    kernels.order_ties_rows(values, indices)
    return values, indices


class StreamingTopK:
    """The `k` largest entries of each row of a matrix that arrives in blocks of columns.

    The answer does not depend on how the columns were cut into blocks or on their order: of equal
    entries those with the lowest column index stay. One row makes it the top k of a stream.

    Parameters
    ----------
    n_rows : int
        Number of rows, at least 0.
    k : int
        Entries kept for each row, at least 1.
    dtype : {float64, float32}, default=float64
        Of the values.

    Attributes
    ----------
    counts : ndarray of int64, of shape (n_rows,)
        How many of the `k` places are in use.

    Notes
    -----
    Memory: ``n_rows * k`` values and int64 indices. Cost of a block as for
    :func:`~lowrank_opt.numerics.topk`.

    Examples
    --------
    >>> import numpy as np
    >>> from lowrank_opt.numerics import StreamingTopK
    >>> stream = StreamingTopK(1, 2)
    >>> stream.update(np.array([[1.0, 5.0]]))
    >>> stream.update(np.array([[4.0, 2.0]]))
    >>> stream.result()
    TopK(values=array([[5., 4.]]), indices=array([[1, 2]]))
    """

    def __init__(self, n_rows: int, k: int, dtype: Any = np.float64) -> None:
        n_rows, k = count("n_rows", n_rows, 0), count("k", k, 1)
        dtype = np.dtype(dtype)
        if dtype not in (np.dtype(np.float64), np.dtype(np.float32)):
            raise ParameterError(f"dtype is {dtype}; float64 or float32 is needed")
        self._values = np.full((n_rows, k), -np.inf, dtype)
        self._indices = np.full((n_rows, k), -1, np.int64)
        self._next = 0
        self.counts = np.zeros(n_rows, np.int64)

    def update(self, block: Any, first: int | None = None) -> None:
        """Offer a block of columns.

        Parameters
        ----------
        block : array-like of shape (n_rows, width)
            No NaN. Converted to the dtype of the values.
        first : int or None, default=None
            Column index of the block's first column, at least 0; None: where the last block
            ended. No column may be offered twice.

        Raises
        ------
        ProblemError
            The block has another number of rows, or a NaN.
        """
        from lowrank_opt.numerics import kernels

        block, _ = real_array("block", block, finite=False, like=self._values)
        if block.ndim != 2 or block.shape[0] != self._values.shape[0]:
            raise ProblemError(
                f"block has shape {block.shape}; ({self._values.shape[0]}, width) is needed"
            )
        first = self._next if first is None else count("first", first, 0)
        self._next = first + block.shape[1]
        kernels.stream_rows(kernel_input(block), first, self._values, self._indices, self.counts)

    def merge(self, other: StreamingTopK) -> None:
        """Take in what another stream, of other columns of the same rows, has kept.

        Parameters
        ----------
        other : StreamingTopK
            Of the same number of rows and dtype; its `k` may differ, but the result is the top k
            of all columns only if it is not smaller. Unchanged.

        Raises
        ------
        ProblemError
            The number of rows or the dtype differs.
        """
        from lowrank_opt.numerics import kernels

        if other._values.shape[0] != self._values.shape[0] or (
            other._values.dtype != self._values.dtype
        ):
            raise ProblemError(
                f"other keeps {other._values.shape[0]} rows of {other._values.dtype}, this stream "
                f"{self._values.shape[0]} rows of {self._values.dtype}; they must agree"
            )
        kernels.merge_rows(
            other._values, other._indices, other.counts, self._values, self._indices, self.counts
        )
        self._next = max(self._next, other._next)

    def result(self) -> TopK:
        """Return the largest so far, sorted; the stream can go on.

        Returns
        -------
        TopK
            Arrays of shape (n_rows, k). Places not in use have value ``-inf`` and index -1.
        """
        from lowrank_opt.numerics import kernels

        values, indices = self._values.copy(), self._indices.copy()
        kernels.sort_rows(values, indices, self.counts)
        return TopK(values, indices)
