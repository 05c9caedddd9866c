"""Random linear maps R^n -> R^size that nearly keep the geometry of subspaces.

Each sketch S draws its random numbers once, when it is made, and then applies from the left to any
number of dense or sparse matrices. Each is an isometry in expectation, ``E[S'S] = I``, and for
large enough `size` an embedding: all singular values of ``S Q`` are within 1 +- eps for an n x k
orthonormal Q, with high probability.

============================  =====================  ==============================
sketch                        size for k, eps         cost for n x d, dense
============================  =====================  ==============================
:class:`GaussianSketch`       O(k / eps^2)           ``2 size n d``
:class:`SRHT`                 O(k log k / eps^2)     ``n d log2 n``
:class:`SparseSignSketch`     O(k log k / eps^2)     ``2 s n d`` (s nonzeros a column)
:class:`CountSketch`          O(k^2 / eps^2)         ``2 n d``
============================  =====================  ==============================
"""

from __future__ import annotations

import abc
from typing import Any

import numpy as np

from lowrank_opt.core.errors import ParameterError, ProblemError
from lowrank_opt.numerics import reference
from lowrank_opt.numerics._arrays import (
    count,
    device,
    generator,
    kernel_input,
    real_array,
    sparse_matrix,
)

__all__ = ["SRHT", "CountSketch", "GaussianSketch", "Sketch", "SparseSignSketch"]


class Sketch(abc.ABC):
    """Base of the sketches: a fixed ``size x n`` matrix S that knows how to multiply fast.

    Parameters
    ----------
    size : int
        Number of rows of S, at least 1.
    n : int
        Number of columns of S, at least 1.

    Attributes
    ----------
    shape : tuple of int
        ``(size, n)``.
    """

    def __init__(self, size: int, n: int) -> None:
        self.shape = (count("size", size, 1), count("n", n, 1))

    def apply(self, A: Any) -> Any:
        """Return ``S @ A``.

        Parameters
        ----------
        A : array-like or scipy sparse matrix of shape (n,) or (n, d)
            Real and finite.

        Returns
        -------
        array of shape (size,) or (size, d)
            In the dtype, library and device of `A`; integers become float64. For sparse `A` a
            numpy array, from :class:`SparseSignSketch` and :class:`CountSketch` a csr_array.

        Raises
        ------
        ProblemError
            `A` is not finite or does not have n rows.
        ProblemTypeError
            `A` is not real.
        """
        if hasattr(A, "tocsr"):
            A = sparse_matrix("A", A)
            self._check_rows(A)
            return self._apply_sparse(A)
        A, xp = real_array("A", A)
        self._check_rows(A)
        if xp is not np:
            return self._apply_reference(A, xp)
        columns = kernel_input(A).reshape(self.shape[1], -1)
        return self._apply_dense(columns).reshape(self.shape[0], *A.shape[1:])

    def __matmul__(self, A: Any) -> Any:
        return self.apply(A)

    def to_dense(self) -> np.ndarray:
        """Return S itself.

        Returns
        -------
        ndarray of shape (size, n)
            float64.
        """
        return self.apply(np.eye(self.shape[1]))

    def __repr__(self) -> str:
        return f"{type(self).__name__}(size={self.shape[0]}, n={self.shape[1]})"

    def _check_rows(self, A: Any) -> None:
        if A.ndim not in (1, 2) or A.shape[0] != self.shape[1]:
            n = self.shape[1]
            raise ProblemError(f"A has shape {tuple(A.shape)}; ({n},) or ({n}, d) is needed")

    @abc.abstractmethod
    def _apply_dense(self, A: np.ndarray) -> np.ndarray:
        """``S @ A`` for a C-ordered numpy matrix."""

    @abc.abstractmethod
    def _apply_sparse(self, A: Any) -> Any:
        """``S @ A`` for a csr_array."""

    @abc.abstractmethod
    def _apply_reference(self, A: Any, xp: Any) -> Any:
        """``S @ A`` for an array of another library."""


class GaussianSketch(Sketch):
    """Independent normal entries of variance ``1 / size``.

    The smallest `size` for a given distortion, and the dearest. Prefer :class:`SparseSignSketch`
    for large inputs.

    Parameters
    ----------
    size, n : int
        Shape of S.
    random_state : int, Generator or None, default=None
        Seed; a Generator is advanced, so that the next sketch made from it is independent.
    dtype : {float64, float32}, default=float64
        In which S is kept; inputs of the other dtype cost a conversion each time.

    Notes
    -----
    Memory: ``size * n`` numbers. Cost: ``2 size n d`` flops, ``2 size nnz`` for sparse input.

    References
    ----------
    .. [1] N. Halko, P.-G. Martinsson, J. A. Tropp, "Finding structure with randomness", SIAM
       Review 53, 2011.

    Examples
    --------
    >>> import numpy as np
    >>> from lowrank_opt.numerics import GaussianSketch
    >>> GaussianSketch(20, 1000, random_state=0).apply(np.ones((1000, 3))).shape
    (20, 3)
    """

    def __init__(
        self, size: int, n: int, *, random_state: Any = None, dtype: Any = np.float64
    ) -> None:
        super().__init__(size, n)
        if np.dtype(dtype) not in (np.dtype(np.float64), np.dtype(np.float32)):
            raise ParameterError(f"dtype is {dtype!r}; float64 or float32 is needed")
        self._matrix = generator(random_state).standard_normal(self.shape, dtype=np.dtype(dtype))
        self._matrix /= np.sqrt(self.shape[0])

    def _apply_dense(self, A: np.ndarray) -> np.ndarray:
        return self._matrix.astype(A.dtype, copy=False) @ A

    def _apply_sparse(self, A: Any) -> np.ndarray:
        return (A.T @ self._matrix.T.astype(A.dtype, copy=False)).T

    def _apply_reference(self, A: Any, xp: Any) -> Any:
        return xp.asarray(self._matrix, dtype=A.dtype, device=device(A)) @ A


class SparseSignSketch(Sketch):
    """Each column of S has `n_nonzeros` entries ``+-1/sqrt(n_nonzeros)`` in random rows.

    The rows are cut into `n_nonzeros` groups of nearly equal size with one nonzero in each group.
    Linear time, works on sparse input as it is, and in practice embeds about as well as a Gaussian
    sketch from 4 to 8 nonzeros on.

    Parameters
    ----------
    size, n : int
        Shape of S.
    n_nonzeros : int, default=8
        Between 1 and `size`; values above `size` count as `size`.
    random_state : int, Generator or None, default=None
        Seed; a Generator is advanced, so that the next sketch made from it is independent.

    Attributes
    ----------
    rows : ndarray of shape (n, n_nonzeros)
        Rows of the nonzeros of each column, int32 (int64 for `size` of 2^31 or more), ascending.
    signs : ndarray of int8, of shape (n, n_nonzeros)
        Their signs.

    Notes
    -----
    Memory: 5 bytes a nonzero. Cost: ``2 n_nonzeros n d`` flops, ``2 n_nonzeros nnz`` for sparse
    input. Sums are accumulated in the dtype of the input.

    References
    ----------
    .. [1] D. M. Kane, J. Nelson, "Sparser Johnson-Lindenstrauss transforms", Journal of the ACM
       61, 2014.
    .. [2] P.-G. Martinsson, J. A. Tropp, "Randomized numerical linear algebra", Acta Numerica 29,
       2020.

    Examples
    --------
    >>> import numpy as np
    >>> from lowrank_opt.numerics import SparseSignSketch
    >>> S = SparseSignSketch(20, 1000, n_nonzeros=4, random_state=0)
    >>> np.unique(np.abs(S.to_dense()))
    array([0. , 0.5])
    """

    def __init__(self, size: int, n: int, *, n_nonzeros: int = 8, random_state: Any = None) -> None:
        super().__init__(size, n)
        size, n = self.shape
        s = min(count("n_nonzeros", n_nonzeros, 1), size)
        rng = generator(random_state)
        bounds = np.arange(s + 1, dtype=np.int64) * size // s
        integer = np.int32 if size < 2**31 else np.int64
        self.rows = rng.integers(bounds[:-1], bounds[1:], size=(n, s)).astype(integer)
        self.signs = rng.integers(0, 2, size=(n, s), dtype=np.int8) * np.int8(2) - np.int8(1)

    @property
    def _scale(self) -> float:
        return self.rows.shape[1] ** -0.5

    def _apply_dense(self, A: np.ndarray) -> np.ndarray:
        from lowrank_opt.numerics import kernels

        out = np.zeros((self.shape[0], A.shape[1]), A.dtype)
        kernels.scatter_rows(self.rows, self.signs, A, out)
        out *= A.dtype.type(self._scale)
        return out

    def _apply_sparse(self, A: Any) -> Any:
        from scipy import sparse

        n, s = self.rows.shape
        values = self.signs.reshape(-1).astype(A.dtype) * A.dtype.type(self._scale)
        pointers = np.arange(0, n * s + 1, s)
        S = sparse.csc_array((values, self.rows.reshape(-1), pointers), shape=self.shape)
        return (S @ A).tocsr()

    def _apply_reference(self, A: Any, xp: Any) -> Any:
        where = device(A)
        rows = xp.asarray(self.rows.astype(np.int64), device=where)
        signs = xp.asarray(self.signs, device=where)
        flat = xp.reshape(A, (A.shape[0], -1))
        out = reference.scatter_rows(rows, signs, flat, self.shape[0]) * self._scale
        return xp.reshape(out, (self.shape[0], *A.shape[1:]))


class CountSketch(SparseSignSketch):
    """One entry +-1 in a random row of each column: the cheapest sketch, with the largest size.

    Parameters
    ----------
    size, n : int
        Shape of S.
    random_state : int, Generator or None, default=None
        Seed; a Generator is advanced, so that the next sketch made from it is independent.

    Notes
    -----
    Memory: 5 n bytes. Cost: ``2 n d`` flops, ``2 nnz`` for sparse input.

    References
    ----------
    .. [1] K. L. Clarkson, D. P. Woodruff, "Low-rank approximation and regression in input
       sparsity time", Journal of the ACM 63, 2017.

    Examples
    --------
    >>> import numpy as np
    >>> from lowrank_opt.numerics import CountSketch
    >>> int(np.abs(CountSketch(20, 1000, random_state=0).to_dense()).sum())
    1000
    """

    def __init__(self, size: int, n: int, *, random_state: Any = None) -> None:
        super().__init__(size, n, n_nonzeros=1, random_state=random_state)


class SRHT(Sketch):
    """Subsampled randomised Hadamard transform: random signs, Walsh-Hadamard, random rows.

    Parameters
    ----------
    size, n : int
        Shape of S. `n` is padded to a power of two, which `size` must not exceed.
    random_state : int, Generator or None, default=None
        Seed; a Generator is advanced, so that the next sketch made from it is independent.

    Attributes
    ----------
    rows : ndarray of int64, of shape (size,)
        Sampled rows of the transform, without repetition, ascending.
    signs : ndarray of int8, of shape (n,)
        Random signs.

    Notes
    -----
    Memory: n + 8 `size` bytes, and a panel of columns. Cost: ``n d log2 n`` additions; sparse
    input is made dense a panel of columns at a time and gains nothing from its zeros.

    References
    ----------
    .. [1] J. A. Tropp, "Improved analysis of the subsampled randomized Hadamard transform",
       Advances in Adaptive Data Analysis 3, 2011.

    Examples
    --------
    >>> import numpy as np
    >>> from lowrank_opt.numerics import SRHT
    >>> S = SRHT(8, 8, random_state=0).to_dense()  # all rows: orthogonal
    >>> bool(np.abs(S @ S.T - np.eye(8)).max() < 1e-15)
    True
    """

    def __init__(self, size: int, n: int, *, random_state: Any = None) -> None:
        super().__init__(size, n)
        self._padded = 1 << (self.shape[1] - 1).bit_length()
        count("size", size, 1, self._padded)
        rng = generator(random_state)
        self.rows = np.sort(rng.choice(self._padded, self.shape[0], replace=False))
        self.signs = rng.integers(0, 2, size=self.shape[1], dtype=np.int8) * np.int8(2)
        self.signs -= np.int8(1)

    def _apply_dense(self, A: np.ndarray) -> np.ndarray:
        return self._apply_panels(A, A.dtype, lambda panel: A[:, panel])

    def _apply_sparse(self, A: Any) -> np.ndarray:
        by_column = A.tocsc()
        return self._apply_panels(A, A.dtype, lambda panel: by_column[:, panel].toarray())

    def _apply_panels(self, A: Any, dtype: np.dtype, columns: Any) -> np.ndarray:
        from lowrank_opt.numerics import kernels

        n = self.shape[1]
        out = np.empty((self.shape[0], A.shape[1]), dtype)
        # A panel: at least a cache line of columns, at most half a megabyte where that suffices.
        most = max(64 // dtype.itemsize, 2**19 // (dtype.itemsize * self._padded))
        signs = self.signs.astype(dtype)[:, np.newaxis]
        for start in range(0, A.shape[1], most):
            panel = slice(start, min(start + most, A.shape[1]))
            width = panel.stop - panel.start
            work = np.zeros((self._padded, width), dtype)
            np.multiply(columns(panel), signs, out=work[:n])
            kernels.walsh_hadamard(work.reshape(-1), width)
            out[:, panel] = work[self.rows]
        out *= dtype.type(self.shape[0] ** -0.5)
        return out

    def _apply_reference(self, A: Any, xp: Any) -> Any:
        where = device(A)
        signs = xp.asarray(self.signs, dtype=A.dtype, device=where)
        work = A * xp.reshape(signs, (-1, *(1 for _ in A.shape[1:])))
        padding = (self._padded - A.shape[0], *A.shape[1:])
        work = xp.concat([work, xp.zeros(padding, dtype=A.dtype, device=where)], axis=0)
        rows = xp.asarray(self.rows, device=where)
        return xp.take(reference.hadamard(work), rows, axis=0) * self.shape[0] ** -0.5
