"""The observed entries of a matrix, by row and by column."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import array_api_compat
import numpy as np
import scipy.sparse as sp

from lowrank_opt.core.errors import (
    EfficiencyWarning,
    ParameterError,
    ProblemError,
    ProblemTypeError,
    UnsupportedBackendError,
)
from lowrank_opt.recovery import kernels_observations as kernels

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import ArrayLike, NDArray

    Chunk = tuple[Any, Any, Any, Any]

__all__ = ["Observations"]

# Entries read at a time: conversions of the input then cost some megabytes, whatever its size.
_CHUNK = 1 << 17
# Copies above this many bytes are worth a warning.
_LARGE = 100_000_000
_DUPLICATES = {"sum": 0, "mean": 1, "last": 2}


def _host(value: Any, name: str) -> None:
    """Refuse arrays of other libraries: converting them would move data silently."""
    if array_api_compat.is_array_api_obj(value) and not array_api_compat.is_numpy_array(value):
        library = type(value).__module__.split(".")[0]
        raise UnsupportedBackendError(
            f"{name} is a {library} array; Observations are built from numpy arrays or scipy "
            f"sparse matrices: convert it first (for instance {name}.cpu().numpy() for torch, "
            f"{name}.get() for cupy)"
        )
    if type(value).__module__.startswith(("cupyx", "sparse.")):
        raise UnsupportedBackendError(
            f"{name} is a {type(value).__module__} matrix; expected numpy or scipy.sparse: "
            "convert it first (for instance .get() for cupyx)"
        )


def _value_dtype(dtype: np.dtype[Any], name: str) -> np.dtype[Any]:
    """The type computed in: float32 and float64 stay, float16 becomes float32, others float64."""
    if dtype.kind == "c":
        raise ProblemTypeError(
            f"{name} has complex dtype {dtype}; expected real numbers: recover the real and the "
            "imaginary part separately"
        )
    if dtype.kind not in "fiub":
        raise ProblemTypeError(
            f"{name} has dtype {dtype}; expected real numbers, convert with .astype(float)"
        )
    if dtype.kind == "f" and dtype.itemsize <= 4:
        return np.dtype(np.float32)
    return np.dtype(np.float64)


def _plain(array: Any, dtype: Any) -> NDArray[Any]:
    """Contiguous, native, writable: one compiled version of each kernel serves every input."""
    out = np.ascontiguousarray(array, dtype=dtype)
    return out if out.flags.writeable else out.copy()


def _index_array(value: Any, name: str) -> NDArray[Any]:
    _host(value, name)
    array = np.asarray(value)
    if array.ndim != 1:
        raise ProblemError(f"{name} has shape {array.shape}; expected one dimension")
    if array.size and array.dtype.kind not in "iu":
        raise ProblemTypeError(
            f"{name} has dtype {array.dtype}; expected integer positions starting at 0 "
            "(for arbitrary ids use MatrixCompletion.from_dataframe)"
        )
    return array


def _real_array(value: Any, name: str, size: int) -> NDArray[Any]:
    _host(value, name)
    array = np.asarray(value)
    if array.shape != (size,):
        raise ProblemError(
            f"{name} has shape {array.shape}; expected ({size},), one per observed entry"
        )
    if array.size:
        _value_dtype(array.dtype, name)
    return array


def _check_shape(shape: Any) -> tuple[int, int]:
    try:
        m, n = (int(s) for s in shape)
    except (TypeError, ValueError):
        raise ProblemError(f"shape={shape!r}; expected two positive integers") from None
    if m < 1 or n < 1 or (m, n) != tuple(shape):
        raise ProblemError(f"shape={shape!r}; expected two positive integers")
    return m, n


def _check_finite(name: str, chunk: NDArray[Any], counter: list[int], begin: int) -> None:
    finite = np.isfinite(chunk)
    if not finite.all():
        counter[0] += int(chunk.size - np.count_nonzero(finite))
        if counter[1] < 0:
            counter[1] = begin + int(np.argmin(finite))


def _index_dtype(shape: tuple[int, int]) -> type:
    return np.int32 if max(shape) < 2**31 else np.int64


@dataclass(frozen=True, eq=False)
class Observations:
    """Observed entries of a matrix, sorted by row (CSR) and by column (CSC).

    Build it with `from_coo`, `from_sparse` or `from_dense`, which check everything; the
    constructor itself takes finished arrays and checks nothing. A *stored* entry is observed, a
    stored zero is an observed zero, and whatever is not stored is missing. Entries of weight zero
    are dropped, as if they had not been observed.

    Parameters
    ----------
    shape : tuple of int
        Rows m and columns n.
    indptr : ndarray of shape (m + 1,), int64
        Row i occupies positions ``indptr[i]:indptr[i + 1]``.
    indices : ndarray of shape (N,), int32
        Column of each entry, ascending inside each row (int64 when a side has 2**31 or more).
    values : ndarray of shape (N,), float32 or float64
        Values by rows.
    weights : ndarray of shape (N,) or None
        Positive weights by rows, same dtype as the values.
    csc_indptr : ndarray of shape (n + 1,), int64
        Like `indptr`, for columns.
    csc_indices : ndarray of shape (N,), int32
        Row of each entry, ascending inside each column.
    csc_values : ndarray of shape (N,)
        Values by columns.
    csc_weights : ndarray of shape (N,) or None
        Weights by columns.

    Notes
    -----
    Construction is two or three counting sorts: time linear in N + m + n, no comparison sort, and
    no memory beside the result but a few megabytes. The arrays belong to the object: treat them
    as read-only.
    """

    shape: tuple[int, int]
    indptr: NDArray[Any]
    indices: NDArray[Any]
    values: NDArray[Any]
    weights: NDArray[Any] | None
    csc_indptr: NDArray[Any]
    csc_indices: NDArray[Any]
    csc_values: NDArray[Any]
    csc_weights: NDArray[Any] | None

    # -- construction ---------------------------------------------------------------------------

    @classmethod
    def from_coo(
        cls,
        rows: ArrayLike,
        cols: ArrayLike,
        values: ArrayLike,
        shape: tuple[int, int] | None = None,
        *,
        weights: ArrayLike | None = None,
        duplicates: str = "error",
    ) -> Observations:
        """From positions and values.

        Parameters
        ----------
        rows, cols : array-like of int, shape (N,)
            Zero-based positions in any order; strided, read-only and memory-mapped arrays are
            read in pieces, without a copy of the whole.
        values : array-like of shape (N,)
            Finite real values. float32 and float64 are kept, float16 becomes float32, integers
            and bool become float64.
        shape : tuple of int or None, default=None
            Rows and columns; ``None``: one more than the largest positions.
        weights : array-like of shape (N,) or None, default=None
            Finite and not negative; converted to the dtype of the values.
        duplicates : {"error", "sum", "mean", "last"}, default="error"
            What to do with a position that occurs more than once. With weights, ``"mean"`` is
            the weighted mean and adds the weights (the same fit as keeping both), ``"sum"``
            averages them.

        Returns
        -------
        Observations

        Raises
        ------
        ProblemError
            Lengths differ, no entry, position out of range, values or weights that are not
            finite, negative weights, duplicates.
        ProblemTypeError
            Positions that are not integers; complex, object or text values.
        """
        rows, cols = _index_array(rows, "rows"), _index_array(cols, "cols")
        if rows.shape != cols.shape:
            raise ProblemError(
                f"rows has shape {rows.shape} and cols has shape {cols.shape}; "
                "expected the same length"
            )
        values = _real_array(values, "values", rows.size)
        if weights is not None:
            weights = _real_array(weights, "weights", rows.size)
        if shape is None:
            if rows.size == 0:
                raise ProblemError("no observed entry; expected at least one (is shape given?)")
            shape = (int(rows.max()) + 1, int(cols.max()) + 1)

        def chunks() -> Iterator[Chunk]:
            for a in range(0, rows.size, _CHUNK):
                part = slice(a, a + _CHUNK)
                yield (
                    rows[part],
                    cols[part],
                    values[part],
                    None if weights is None else weights[part],
                )

        dtype = _value_dtype(values.dtype, "values") if values.size else np.dtype(np.float64)
        return cls._build(chunks, shape, dtype, weights is not None, duplicates)

    @classmethod
    def from_sparse(cls, X: Any, *, weights: Any = None, duplicates: str = "error") -> Observations:
        """From a SciPy sparse matrix or array of any format: stored = observed.

        Parameters
        ----------
        X : scipy.sparse matrix or array of shape (m, n)
            Explicitly stored zeros are observed zeros. CSR, CSC and COO are read in pieces;
            other formats are converted to COO first.
        weights : sparse matrix, array-like or None, default=None
            Either one weight per stored entry, in the order of ``X.data`` (CSR, CSC, COO only),
            or a sparse matrix of the same format with the same stored positions.
        duplicates : {"error", "sum", "mean", "last"}, default="error"
            As in `from_coo`.

        Returns
        -------
        Observations

        Raises
        ------
        ProblemError, ProblemTypeError
            As in `from_coo`.

        Warns
        -----
        EfficiencyWarning
            Another format than CSR, CSC and COO, and the COO copy takes over 100 MB.
        """
        _host(X, "X")
        if not sp.issparse(X):
            raise ProblemTypeError(
                f"X is a {type(X).__name__}; expected a scipy.sparse matrix (for a dense array "
                "with NaN where entries are missing use from_dense)"
            )
        if X.ndim != 2:
            raise ProblemError(f"X has shape {X.shape}; expected two dimensions")
        _value_dtype(X.dtype, "X")
        if X.format not in ("csr", "csc", "coo"):
            if weights is not None and not sp.issparse(weights):
                raise ProblemError(
                    f"weights is an array and X has format {X.format!r}, whose order of entries "
                    "is not fixed; convert X to CSR first"
                )
            X = _to_coo(X)
        if sp.issparse(weights):
            weights = _aligned_weights(X, weights)
        if X.format == "coo":
            return cls.from_coo(
                X.row, X.col, X.data, X.shape, weights=weights, duplicates=duplicates
            )
        return cls._from_compressed(X, weights, duplicates)

    @classmethod
    def _from_compressed(cls, X: Any, weights: Any, duplicates: str) -> Observations:
        indptr = np.asarray(X.indptr)
        size = int(indptr[-1])
        values = X.data[:size]
        weights = None if weights is None else _real_array(weights, "weights", size)

        def chunks() -> Iterator[Chunk]:
            for a in range(0, size, _CHUNK):
                b = min(a + _CHUNK, size)
                first = np.searchsorted(indptr, a, side="right") - 1
                last = np.searchsorted(indptr, b, side="left")
                major = np.repeat(
                    np.arange(first, last), np.diff(np.clip(indptr[first : last + 1], a, b))
                )
                minor = X.indices[a:b]
                pair = (major, minor) if X.format == "csr" else (minor, major)
                yield *pair, values[a:b], None if weights is None else weights[a:b]

        dtype = _value_dtype(values.dtype, "X")
        return cls._build(chunks, X.shape, dtype, weights is not None, duplicates)

    @classmethod
    def from_dense(cls, X: ArrayLike, *, weights: ArrayLike | None = None) -> Observations:
        """From a dense array in which NaN (or a mask) says "missing".

        Parameters
        ----------
        X : array-like of shape (m, n)
            Real numbers; NaN is missing, infinite is an error. Entries of a
            ``numpy.ma.MaskedArray`` that are masked are missing.
        weights : array-like of shape (m, n) or None, default=None
            Finite and not negative where `X` is observed.

        Returns
        -------
        Observations

        Raises
        ------
        ProblemError
            Not two-dimensional, no observed entry, infinite values, bad weights.
        ProblemTypeError
            Complex, object or text values.
        UnsupportedBackendError
            An array of another library (torch, cupy, ...).
        """
        _host(X, "X")
        mask = np.ma.getmaskarray(X) if isinstance(X, np.ma.MaskedArray) else None
        if sp.issparse(X):
            raise ProblemTypeError("X is sparse; use from_sparse (stored entries are the observed)")
        X = np.asarray(X)
        if X.ndim != 2:
            raise ProblemError(f"X has shape {X.shape}; expected two dimensions")
        dtype = _value_dtype(X.dtype, "X")
        m, n = X.shape
        if weights is not None:
            _host(weights, "weights")
            weights = np.asarray(weights)
            _value_dtype(weights.dtype, "weights")
            if weights.shape != X.shape:
                raise ProblemError(f"weights has shape {weights.shape}; expected {X.shape}, as X")
        step = max(1, _CHUNK // max(n, 1))

        def chunks() -> Iterator[Chunk]:
            for a in range(0, m, step):
                block = X[a : a + step]
                seen = ~np.isnan(block) if X.dtype.kind == "f" else np.ones(block.shape, bool)
                if mask is not None:
                    seen &= ~mask[a : a + step]
                i, j = np.nonzero(seen)
                w = None if weights is None else weights[a : a + step][i, j]
                yield i + a, j, block[i, j], w

        return cls._build(chunks, (m, n), dtype, weights is not None, "error", dense=True)

    @classmethod
    def _build(
        cls,
        chunks: Callable[[], Iterator[Chunk]],
        shape: Any,
        dtype: np.dtype[Any],
        weighted: bool,
        duplicates: str,
        dense: bool = False,
    ) -> Observations:
        if duplicates not in ("error", *_DUPLICATES):
            raise ParameterError(
                f"duplicates={duplicates!r}; expected 'error', 'sum', 'mean' or 'last'"
            )
        shape = _check_shape(shape)
        m, n = shape
        index = _index_dtype(shape)
        none = np.empty(0, dtype)

        def cleaned() -> Iterator[Chunk]:
            for i, j, v, w in chunks():
                yield (
                    _plain(i, np.int64),
                    _plain(j, np.int64),
                    _plain(v, dtype),
                    none if w is None else _plain(w, dtype),
                )

        # Pass 1: check, and count the entries of each column.
        csc_indptr = np.zeros(n + 1, np.int64)
        _check_chunks(cleaned, shape, csc_indptr, dense)
        np.cumsum(csc_indptr, out=csc_indptr)
        size = int(csc_indptr[-1])
        if size == 0:
            raise ProblemError(
                f"{'X has ' if dense else ''}no observed entry"
                + (" of positive weight" if weighted else "")
                + f"; expected at least one{' that is not NaN' if dense else ''}"
            )

        # Pass 2: into columns, in the order of the input. The input is usually sorted by row
        # already, and then this is the final CSC.
        csc = (np.empty(size, index), np.empty(size, dtype), np.empty(size * weighted, dtype))
        position = csc_indptr.copy()
        ascending = True
        for i, j, v, w in cleaned():
            ascending &= kernels.scatter_by_column(i, j, v, w, csc_indptr, position, *csc)
        del position

        # Pass 3: reading the columns in order writes each row in order; equal pairs are adjacent.
        indptr = np.empty(m + 1, np.int64)
        csr = (np.empty(size, index), np.empty(size, dtype), np.empty(size * weighted, dtype))
        repeated, first_row, first_col = kernels.transpose(csc_indptr, *csc, indptr, *csr)
        if repeated:
            if duplicates == "error":
                raise ProblemError(
                    f"{repeated} repeated (row, column) pair(s), the first is ({first_row}, "
                    f"{first_col}); expected each pair once: merge them first, or choose "
                    "duplicates='sum', 'mean' or 'last' where a problem is made from the data"
                )
            size = kernels.merge_repeated(indptr, *csr, _DUPLICATES[duplicates])
            del csc
            csr = tuple(a[:size].copy() if a.size else a for a in csr)  # type: ignore[assignment]
            csc = tuple(np.empty_like(a) for a in csr)  # type: ignore[assignment]
        if repeated or not ascending:
            kernels.transpose(indptr, *csr, csc_indptr, *csc)
        return cls(
            shape,
            indptr,
            *csr[:2],
            csr[2] if weighted else None,
            csc_indptr,
            *csc[:2],
            csc[2] if weighted else None,
        )

    # -- views ----------------------------------------------------------------------------------

    @property
    def nnz(self) -> int:
        """Number N of observed entries."""
        return int(self.values.size)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the values, float32 or float64."""
        return self.values.dtype

    @property
    def density(self) -> float:
        """Observed fraction ``N / (m n)``."""
        return self.nnz / (self.shape[0] * self.shape[1])

    @property
    def nbytes(self) -> int:
        """Bytes of the CSR and CSC arrays (without `perm`)."""
        arrays = (
            *(self.indptr, self.indices, self.values, self.weights),
            *(self.csc_indptr, self.csc_indices, self.csc_values, self.csc_weights),
        )
        return sum(a.nbytes for a in arrays if a is not None)

    def __repr__(self) -> str:
        m, n = self.shape
        tail = "" if self.weights is None else ", weighted"
        return f"Observations({m} x {n}, {self.nnz} entries, {self.dtype}{tail})"

    @cached_property
    def perm(self) -> NDArray[Any]:
        """Position by rows of each entry by columns: ``csc_values == values[perm]``.

        ndarray of shape (N,), int32 when N < 2**31; made on first use and kept.
        """
        out = np.empty(self.nnz, np.int32 if self.nnz < 2**31 else np.int64)
        kernels.column_order(self.indptr, self.indices, self.csc_indptr, out)
        return out

    @cached_property
    def row_counts(self) -> NDArray[np.int64]:
        """Number of observed entries of each row, ndarray of shape (m,)."""
        return np.diff(self.indptr)

    @cached_property
    def col_counts(self) -> NDArray[np.int64]:
        """Number of observed entries of each column, ndarray of shape (n,)."""
        return np.diff(self.csc_indptr)

    @cached_property
    def row_weights(self) -> NDArray[np.float64]:
        """Sum of the weights of each row (its count without weights), ndarray of shape (m,)."""
        return _segment_sums(self.weights, self.indptr)

    @cached_property
    def col_weights(self) -> NDArray[np.float64]:
        """Sum of the weights of each column, ndarray of shape (n,)."""
        return _segment_sums(self.csc_weights, self.csc_indptr)

    @cached_property
    def total_weight(self) -> float:
        """Sum of all weights (N without weights)."""
        return float(self.nnz if self.weights is None else math.fsum(self.row_weights))

    @cached_property
    def mean(self) -> float:
        """Weighted mean of the values, accumulated in float64."""
        total = 0.0
        for a in range(0, self.nnz, _CHUNK):
            part = self.values[a : a + _CHUNK]
            if self.weights is None:
                total += float(part.sum(dtype=np.float64))
            else:
                w = self.weights[a : a + _CHUNK].astype(np.float64)
                total += float(w @ part.astype(np.float64))
        return total / self.total_weight

    @cached_property
    def n_components(self) -> int:
        """Connected components of the bipartite graph of rows and columns that have entries."""
        return int(kernels.count_components(self.indptr, self.indices, self.shape[1]))

    @cached_property
    def T(self) -> Observations:  # noqa: N802
        """The transpose; shares memory."""
        return Observations(
            self.shape[::-1],
            *(self.csc_indptr, self.csc_indices, self.csc_values, self.csc_weights),
            *(self.indptr, self.indices, self.values, self.weights),
        )

    def rows(self) -> NDArray[Any]:
        """Row of each entry, in the order of `indices`; ndarray of shape (N,), a new array."""
        return np.repeat(np.arange(self.shape[0], dtype=self.indices.dtype), self.row_counts)

    def to_scipy(self) -> sp.csr_array:
        """The observed values as a CSR array; shares `values` and `indices` where SciPy can."""
        return sp.csr_array((self.values, self.indices, self.indptr), shape=self.shape)

    def select(self, mask: ArrayLike) -> Observations:
        """A subset of the entries, in a matrix of the same shape.

        Parameters
        ----------
        mask : array-like of bool, shape (N,)
            Which entries to keep, in the order of `values`.

        Returns
        -------
        Observations

        Raises
        ------
        ProblemError
            The mask has another length, is not boolean, or keeps nothing.
        """
        mask = np.asarray(mask)
        if mask.shape != (self.nnz,) or mask.dtype != bool:
            raise ProblemError(
                f"mask has shape {mask.shape} and dtype {mask.dtype}; expected ({self.nnz},) bool"
            )
        if not mask.any():
            raise ProblemError("mask keeps no entry; expected at least one")
        indptr = np.zeros(self.shape[0] + 1, np.int64)
        rows = np.flatnonzero(self.row_counts)
        indptr[rows + 1] = np.add.reduceat(mask, self.indptr[rows], dtype=np.int64)
        np.cumsum(indptr, out=indptr)
        none = np.empty(0, self.dtype)
        weights = none if self.weights is None else self.weights[mask]
        csr = (self.indices[mask], self.values[mask], weights)
        csc_indptr = np.empty(self.shape[1] + 1, np.int64)
        csc = tuple(np.empty_like(a) for a in csr)
        kernels.transpose(indptr, *csr, csc_indptr, *csc)
        weighted = self.weights is not None
        return Observations(
            self.shape,
            indptr,
            *csr[:2],
            csr[2] if weighted else None,
            csc_indptr,
            *csc[:2],
            csc[2] if weighted else None,
        )


def _segment_sums(weights: NDArray[Any] | None, indptr: NDArray[Any]) -> NDArray[np.float64]:
    counts = np.diff(indptr)
    if weights is None:
        return counts.astype(np.float64)
    out = np.zeros(counts.size)
    # reduceat gives the next value for an empty segment, hence only the others.
    some = np.flatnonzero(counts)
    out[some] = np.add.reduceat(weights, indptr[some], dtype=np.float64)
    return out


def _check_chunks(
    cleaned: Callable[[], Iterator[Chunk]],
    shape: tuple[int, int],
    counts: NDArray[Any],
    dense: bool,
) -> None:
    """Check every chunk and count the entries of each column into ``counts[1:]``."""
    begin = 0
    bad_values, bad_weights = [0, -1], [0, -1]
    negative = [0, -1]
    places: dict[int, str] = {}
    for rows, cols, values, weights in cleaned():
        for name, ids, size in (("row", rows, shape[0]), ("column", cols, shape[1])):
            if ids.size and (ids.min() < 0 or ids.max() >= size):
                bad = (ids < 0) | (ids >= size)
                at = int(np.argmax(bad))
                raise ProblemError(
                    f"observations: {name} index {ids[at]} (entry {begin + at}) is out of range "
                    f"for shape {shape}; indices are zero-based and not negative"
                )
        _check_finite("values", values, bad_values, begin)
        _check_finite("weights", weights, bad_weights, begin)
        below = weights < 0
        if below.any():
            negative[0] += int(np.count_nonzero(below))
            if negative[1] < 0:
                negative[1] = begin + int(np.argmax(below))
        kernels.count_entries(cols, weights, counts)
        if dense:
            for array, found in (
                (values, bad_values), (weights, bad_weights), (weights, negative)
            ):  # fmt: skip
                if found[1] >= begin:
                    at = found[1] - begin
                    places[id(found)] = f"row {rows[at]}, column {cols[at]} ({array[at]})"
        begin += rows.size
    for name, found, what in (
        ("values", bad_values, "not finite"),
        ("weights", bad_weights, "not finite"),
        ("weights", negative, "negative"),
    ):
        number, first = found
        if number and dense:
            name, wanted = (name, "0 or more") if name == "weights" else ("X", "NaN where missing")
            raise ProblemError(
                f"{name}: {number} {what}, the first at {places[id(found)]}; expected finite "
                f"numbers, {wanted}"
            )
        if number:
            raise ProblemError(
                f"{name}: {number} {what}, the first at observed entry {first} of {begin}; "
                "expected finite numbers"
                + (" that are not negative" if name == "weights" else "")
                + ": remove these entries (only from_dense reads NaN as missing)"
            )


def _to_coo(X: Any) -> Any:
    """COO with every stored entry, zeros on stored diagonals included."""
    size = X.nnz * (8 + X.dtype.itemsize)
    if size > _LARGE:
        warnings.warn(
            f"X has sparse format {X.format!r} and is copied to COO ({size / 1e6:.0f} MB); give "
            "CSR, CSC or COO to avoid it",
            EfficiencyWarning,
            stacklevel=4,
        )
    if X.format != "dia":
        return X.tocoo()
    # SciPy drops zeros when it converts diagonals: take the pattern from ones.
    pattern = sp.dia_array((np.ones(X.data.shape), X.offsets), shape=X.shape).tocoo()
    order = np.argsort(X.offsets)
    diagonal = order[np.searchsorted(X.offsets, pattern.col - pattern.row, sorter=order)]
    data = X.data[diagonal, pattern.col]
    return sp.coo_array((data, (pattern.row, pattern.col)), shape=X.shape)


def _aligned_weights(X: Any, weights: Any) -> Any:
    """Data of a sparse matrix of weights, once it is known to have the positions of `X`."""
    weights = weights.asformat(X.format)
    names = ("row", "col") if X.format == "coo" else ("indptr", "indices")
    if weights.shape != X.shape or not all(
        np.array_equal(getattr(weights, name), getattr(X, name)) for name in names
    ):
        raise ProblemError(
            "weights stores other positions than X (or in another order); expected the same "
            "stored positions: give an array in the order of X.data"
        )
    return weights.data
