"""Leading singular vectors of large matrices by randomised subspace iteration."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from lowrank_opt.core.errors import ParameterError, ProblemError, ProblemTypeError
from lowrank_opt.numerics._arrays import count, device, generator, real_array, sparse_matrix

__all__ = ["SVD", "randomized_svd"]


class SVD(NamedTuple):
    """A truncated singular value decomposition, ``A ~ U @ diag(s) @ Vt``.

    Parameters
    ----------
    U : array of shape (m, rank)
        Orthonormal columns; the entry of largest size in each is positive.
    s : array of shape (rank,)
        Singular values, descending.
    Vt : array of shape (rank, n)
        Orthonormal rows.
    """

    U: Any
    s: Any
    Vt: Any


def randomized_svd(
    A: Any,
    rank: int,
    *,
    n_oversamples: int = 10,
    n_iter: int | str = "auto",
    start: Any = None,
    random_state: Any = None,
) -> SVD:
    """Compute the leading singular triplets of a matrix that need only be multiplied.

    Parameters
    ----------
    A : array, scipy sparse matrix or linear operator of shape (m, n)
        Real and finite. An operator has ``shape``, ``matmat`` and ``rmatmat``, as
        :class:`scipy.sparse.linalg.LinearOperator` has; products are checked for finiteness.
    rank : int
        Number of triplets, between 1 and ``min(m, n)``.
    n_oversamples : int, default=10
        Further columns of the subspace, at least 0; more make the answer more accurate.
    n_iter : int or "auto", default="auto"
        Power iterations, at least 0; "auto": 7 if ``rank < 0.1 * min(m, n)``, else 4.
    start : array of shape (n, j) or None, default=None
        Columns that span a guess of the leading right singular subspace, ``j >= 1``; random
        columns are added. With a good guess ``n_iter=1`` is enough.
    random_state : int, Generator or None, default=None
        Seed; a Generator is advanced.

    Returns
    -------
    SVD
        ``(U, s, Vt)`` in the dtype, library and device of `A`; of numpy for sparse matrices and
        operators. An operator without dtype counts as float64.

    Raises
    ------
    ProblemError
        `A` or `start` is not finite or has a wrong shape.
    ProblemTypeError
        `A` is not a real matrix or operator.
    ParameterError
        `rank`, `n_oversamples` or `n_iter` is out of range.

    Notes
    -----
    With l = rank + n_oversamples columns and q iterations: q + 1 products with `A` and q + 1 with
    its transpose, l columns each, and ``4 q (m + n) l^2`` flops of orthonormalisation. The
    spectral error is expected to be within a factor
    ``(1 + O(sqrt(min(m, n) / rank)))^(1 / (2 q + 1))`` of the best possible [1]_; the singular
    values never exceed the true ones but for rounding. Exact if l >= min(m, n).

    The iteration is our own for dense input too: scikit-learn's function does the same work, and
    its import takes longer than most of the decompositions asked for here.

    References
    ----------
    .. [1] N. Halko, P.-G. Martinsson, J. A. Tropp, "Finding structure with randomness", SIAM
       Review 53, 2011.

    Examples
    --------
    >>> import numpy as np
    >>> from lowrank_opt.numerics import randomized_svd
    >>> A = np.outer([1.0, 2.0], [3.0, 0.0, 4.0])
    >>> U, s, Vt = randomized_svd(A, 1, random_state=0)
    >>> s.round(6)
    array([11.18034])
    """
    multiply, multiply_transpose, shape, dtype, xp, where = _products(A)
    m, n = shape
    rank = count("rank", rank, 1, min(m, n))
    columns = min(rank + count("n_oversamples", n_oversamples, 0), min(m, n))
    if isinstance(n_iter, str):
        if n_iter != "auto":
            raise ParameterError(f'n_iter is {n_iter!r}; an integer >= 0 or "auto" is needed')
        n_iter = 7 if rank < 0.1 * min(m, n) else 4
    n_iter = count("n_iter", n_iter, 0)
    if columns == min(m, n):
        # The subspace is everything; one iteration removes the condition number of the start.
        n_iter = min(n_iter, 1)

    parts = []
    given = 0
    if start is not None:
        like = (
            xp.empty((0,), dtype=dtype, device=where) if where is not None else np.empty(0, dtype)
        )
        start, _ = real_array("start", start, like=like)
        if start.ndim != 2 or start.shape[0] != n or start.shape[1] < 1:
            raise ProblemError(f"start has shape {tuple(start.shape)}; ({n}, j >= 1) is needed")
        given = min(start.shape[1], columns)
        parts.append(start[:, :given])
    noise = generator(random_state).standard_normal((n, columns - given))
    parts.append(
        noise.astype(dtype) if where is None else xp.asarray(noise, dtype=dtype, device=where)
    )

    Q = _orthonormal(multiply(xp.concat(parts, axis=1)), xp)
    for _ in range(n_iter):
        Q = _orthonormal(multiply_transpose(Q), xp)
        Q = _orthonormal(multiply(Q), xp)
    # A ~ Q Z' with Z = A'Q = W R, so the decomposition of the small R' does.
    Z = multiply_transpose(Q)
    _check_products(Z, xp)
    W, R = xp.linalg.qr(Z)
    U, s, Vt = xp.linalg.svd(xp.matrix_transpose(R), full_matrices=False)
    U = Q @ U[:, :rank]
    Vt = Vt[:rank, :] @ xp.matrix_transpose(W)
    top = xp.expand_dims(xp.argmax(xp.abs(U), axis=0), axis=0)
    peak = xp.take_along_axis(U, top, axis=0)
    signs = xp.where(peak < 0, -xp.ones_like(peak), xp.ones_like(peak))
    return SVD(U * signs, s[:rank], Vt * xp.matrix_transpose(signs))


def _orthonormal(Y: Any, xp: Any) -> Any:
    _check_products(Y, xp)
    return xp.linalg.qr(Y)[0]


def _check_products(Y: Any, xp: Any) -> None:
    if not bool(xp.all(xp.isfinite(Y))):
        raise ProblemError(
            "A: a product with it is NaN or infinite; finite data of moderate size are needed: "
            "check the operator, or scale it"
        )


def _products(A: Any) -> tuple[Any, Any, tuple[int, int], Any, Any, Any]:
    """Products with A and with its transpose, shape, dtype, namespace, device (None: numpy)."""
    if hasattr(A, "tocsr"):
        A = sparse_matrix("A", A)
        transpose = A.T
        return (lambda X: A @ X), (lambda X: transpose @ X), A.shape, A.dtype, np, None
    if hasattr(A, "matmat") and hasattr(A, "rmatmat") and hasattr(A, "shape"):
        dtype = np.dtype(np.float64 if getattr(A, "dtype", None) is None else A.dtype)
        if dtype.kind not in "biuf":
            raise ProblemTypeError(f"A has dtype {dtype}; a real operator is needed")
        dtype = np.dtype(np.float32 if dtype in (np.float32, np.float16) else np.float64)
        return (
            (lambda X: np.asarray(A.matmat(X), dtype)),
            (lambda X: np.asarray(A.rmatmat(X), dtype)),
            _matrix_shape(A.shape),
            dtype,
            np,
            None,
        )
    A, xp = real_array("A", A)
    shape = _matrix_shape(A.shape)
    transpose = xp.matrix_transpose(A)
    where = None if xp is np else device(A)
    return (lambda X: A @ X), (lambda X: transpose @ X), shape, A.dtype, xp, where


def _matrix_shape(shape: Any) -> tuple[int, int]:
    if len(shape) != 2 or 0 in shape:
        raise ProblemError(f"A has shape {tuple(shape)}; a matrix that is not empty is needed")
    return int(shape[0]), int(shape[1])
