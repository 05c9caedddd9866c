"""Matrices of a regression: what a design may be, and products with it in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp

from lowrank_opt.core.backend import Backend
from lowrank_opt.core.errors import ProblemError, UnsupportedBackendError
from lowrank_opt.numerics._arrays import numpy_real

__all__ = [
    "arrays",
    "as_design",
    "check_squares",
    "column_squares",
    "columns",
    "gram",
    "times",
    "transposed_times",
    "unmarked",
]

# Numbers in a block of columns that is cast to float64.
_BLOCK = 1 << 20


def as_design(name: str, X: Any) -> Any:
    """Return a matrix as a Fortran-ordered array or a ``csc_array``; never a copy of a good one.

    Parameters
    ----------
    name : str
        Name of the argument in messages.
    X : array-like or scipy sparse of shape (n, p)
        Integers become float64, float16 becomes float32. Whether all numbers are finite is not
        looked at: :func:`column_squares` does.

    Returns
    -------
    ndarray or csc_array
        float32 or float64; sparse: indices of type int32, sorted, without duplicates.

    Raises
    ------
    ProblemError
        Not two-dimensional, empty, or not of real numbers.
    """
    if sp.issparse(X):
        X = _sparse(name, X)
    else:
        backend = Backend.of(X)
        if backend.name != "numpy":
            raise UnsupportedBackendError(
                f"{name} is an array of {backend.name}; regressions work with NumPy arrays and "
                "SciPy sparse matrices: convert it first"
            )
        X = np.asfortranarray(numpy_real(name, X))
    if X.ndim != 2:
        raise ProblemError(
            f"{name} has shape {X.shape}; a matrix (n_samples, n_features) is needed"
        )
    if 0 in X.shape:
        raise ProblemError(f"{name} has shape {X.shape}; give at least one sample and one feature")
    return X


def _sparse(name: str, X: Any) -> sp.csc_array:
    if X.ndim != 2:
        raise ProblemError(
            f"{name} has shape {X.shape}; a matrix (n_samples, n_features) is needed"
        )
    given, X = X, X if isinstance(X, sp.csc_array) else sp.csc_array(X)
    data = numpy_real(f"{name}.data", X.data)
    if max(X.shape[0], X.nnz) > np.iinfo(np.int32).max:
        raise ProblemError(f"{name} has {X.nnz} entries; at most 2^31 - 1 are supported")
    out = X
    if data is not X.data or X.indices.dtype != np.int32 or X.indptr.dtype != np.int32:
        indices, indptr = (a.astype(np.int32, copy=False) for a in (X.indices, X.indptr))
        out = sp.csc_array((data, indices, indptr), shape=X.shape)
    if not out.has_canonical_format:
        if any(np.shares_memory(a, b) for a, b in _pairs(out, given)):
            out = out.copy()
        out.sum_duplicates()
    return out


def _pairs(out: Any, given: Any) -> Any:
    for part in ("data", "indices"):
        theirs = getattr(given, part, None)
        if isinstance(theirs, np.ndarray):
            yield getattr(out, part), theirs


def arrays(X: Any) -> tuple[np.ndarray, ...]:
    """Return the arrays of a design as kernels take them, which only read: nothing is copied.

    Numba compiles anew, for seconds, for arrays that are marked as read-only, as those of
    ``numpy.memmap`` and joblib are: here their memory comes unmarked.

    Parameters
    ----------
    X : ndarray or csc_array of shape (n, p)
        The design.

    Returns
    -------
    tuple of ndarray
        The matrix, or ``data, indices, indptr``.
    """
    parts = (X.data, X.indices, X.indptr) if sp.issparse(X) else (X,)
    return tuple(map(unmarked, parts))


def unmarked(array: np.ndarray) -> np.ndarray:
    """Return an array that kernels only read, its memory not marked as read-only; no copy."""
    return array if array.flags.writeable else np.asarray(_Unmarked(array))


class _Unmarked:
    """An array's memory for `numpy.asarray`; it lives as long as its views."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array
        interface = array.__array_interface__
        self.__array_interface__ = interface | {"data": (interface["data"][0], False)}


def column_squares(name: str, X: Any, weights: Any = None) -> np.ndarray:
    """Return the (weighted) squared norms of the columns, in float64.

    Parameters
    ----------
    name : str
        Name of the matrix in messages.
    X : ndarray or csc_array of shape (n, p)
        See :func:`as_design`.
    weights : ndarray of shape (n,) or None, default=None
        Weights of the rows.

    Returns
    -------
    ndarray of float64, of shape (p,)
        The sums.

    Raises
    ------
    ProblemError
        The matrix has a NaN or an infinity, or numbers whose squares overflow.
    """
    from lowrank_opt.block_coordinate import kernels_design as kernels

    w = np.empty(0) if weights is None else weights
    if sp.issparse(X):
        squares = kernels.column_squares_csc(*arrays(X), w)
    else:
        squares = kernels.column_squares_dense(*arrays(X), w)
    check_squares(name, X, squares)
    return squares


def check_squares(name: str, X: Any, squares: np.ndarray) -> None:
    """Raise if squared norms of columns show that a matrix has numbers that are not finite.

    Parameters
    ----------
    name : str
        Name of the matrix in messages.
    X : ndarray or csc_array of shape (n, p)
        See :func:`as_design`.
    squares : ndarray of shape (p,)
        The norms.

    Raises
    ------
    ProblemError
        See :func:`column_squares`.
    """
    if np.isfinite(squares.sum()):
        return
    values = X.data if sp.issparse(X) else X
    if np.isfinite(values).all():
        j = int(np.argmax(~np.isfinite(squares)))
        raise ProblemError(f"{name}: the squares of column {j} overflow; rescale the column")
    if sp.issparse(X):
        k = int(np.argmax(~np.isfinite(values)))
        at = [int(X.indices[k]), int(np.searchsorted(X.indptr, k, side="right")) - 1]
    else:
        at = [int(i) for i in np.argwhere(~np.isfinite(values))[0]]
    raise ProblemError(
        f"{name}{at} is NaN or infinite; finite numbers are needed: clean the data first"
    )


def times(X: Any, w: np.ndarray) -> np.ndarray:
    """Return ``X @ w`` in float64; only columns with a nonzero coefficient are read.

    Parameters
    ----------
    X : ndarray or csc_array of shape (n, p)
        The matrix.
    w : ndarray of shape (p,) or (p, k)
        Coefficients.

    Returns
    -------
    ndarray of float64, of shape (n,) or (n, k)
        The product.
    """
    w = np.asarray(w, np.float64)
    used = np.flatnonzero(w if w.ndim == 1 else w.any(axis=1))
    if 4 * used.size < 3 * X.shape[1]:
        X, w = X[:, used], w[used]
    if X.dtype == np.float64 or sp.issparse(X):
        return np.ascontiguousarray(X @ w)
    out = np.zeros((X.shape[0], *w.shape[1:]))
    width = max(1, _BLOCK // X.shape[0])
    for first in range(0, X.shape[1], width):
        out += X[:, first : first + width].astype(np.float64) @ w[first : first + width]
    return out


def transposed_times(X: Any, v: np.ndarray) -> np.ndarray:
    """Return ``X.T @ v`` in float64.

    Parameters
    ----------
    X : ndarray or csc_array of shape (n, p)
        The matrix.
    v : ndarray of shape (n,) or (n, k)
        Numbers of the samples.

    Returns
    -------
    ndarray of float64, of shape (p,) or (p, k)
        The product.
    """
    v = np.asarray(v, np.float64)
    if X.dtype == np.float64 or sp.issparse(X):
        return np.ascontiguousarray(X.T @ v)
    width = max(1, _BLOCK // X.shape[0])
    parts = [
        X[:, first : first + width].astype(np.float64).T @ v
        for first in range(0, X.shape[1], width)
    ]
    return np.concatenate(parts)


def columns(X: Any, rows: np.ndarray, intercept: bool) -> Any:
    """Return the columns of some variables in float64; the variable p is a column of ones.

    Parameters
    ----------
    X : ndarray or csc_array of shape (n, p)
        The matrix.
    rows : ndarray of int
        Variables, of which only the last may be p.
    intercept : bool
        Whether there is a variable p.

    Returns
    -------
    ndarray or csc_array of shape (n, len(rows))
        The columns.
    """
    n, p = X.shape
    last = intercept and rows.size > 0 and rows[-1] == p
    part = X[:, rows[:-1] if last else rows].astype(np.float64)
    if not last:
        return part
    ones = np.ones((n, 1))
    if sp.issparse(part):
        return sp.csc_array(sp.hstack([part, sp.csc_array(ones)], format="csc"))
    return np.hstack([part, ones])


def gram(A: Any, weights: np.ndarray | None, B: Any = None) -> np.ndarray:
    """Return ``A' diag(weights) B`` as a dense array; ``B`` is `A` by default.

    Parameters
    ----------
    A : ndarray or csc_array of shape (n, a)
        Columns.
    weights : ndarray of shape (n,) or None
        Weights of the rows.
    B : ndarray or csc_array of shape (n, b), or None, default=None
        Columns.

    Returns
    -------
    ndarray of shape (a, b)
        The products.
    """
    B = A if B is None else B
    if weights is not None:
        B = B.multiply(weights[:, None]).tocsc() if sp.issparse(B) else B * weights[:, None]
    product = A.T @ B
    return product.toarray() if sp.issparse(product) else product
