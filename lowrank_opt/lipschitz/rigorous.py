"""Statements about matrices that hold with rounding: positive definiteness and norms.

A floating-point Cholesky factorisation that succeeds proves that the matrix is positive definite
up to a small shift [1]_; everything here is that statement and its consequences.

References
----------
.. [1] S. M. Rump, "Verification of positive definiteness", BIT Numerical Mathematics 46, 2006.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import scipy.linalg as la

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Matrix = NDArray[np.float64]

__all__ = ["gamma", "is_psd_safe", "largest_eigenvalue_upper", "norm_lower", "norm_upper"]

UNIT = 2.0**-53
_LANCZOS = 250  # order above which the largest eigenvalue is not computed from all of the matrix


def gamma(n: float) -> float:
    """Return n u / (1 - n u): relative error of a sum of `n` products, u the unit roundoff."""
    return n * UNIT / (1.0 - n * UNIT)


def is_psd_safe(A: Matrix, error: float = 0.0) -> bool:
    """Return whether a symmetric matrix is proved positive semidefinite.

    Parameters
    ----------
    A : ndarray of shape (n, n)
        Only the lower triangle is read.
    error : float, default=0.0
        Bound of the spectral norm of what is unknown about `A`.

    Returns
    -------
    bool
        ``True``: every symmetric matrix within `error` of `A` is positive semidefinite.
        ``False``: not proved.

    Notes
    -----
    The matrix is scaled to a diagonal near one by powers of two, which is exact, shifted down by
    the bound of the factorisation's own error, and factored. Cost: n³/3 flops.
    """
    n = len(A)
    diagonal = np.diagonal(A)
    if n == 0:
        return True
    if not np.all(np.isfinite(diagonal)) or np.any(diagonal <= error):
        return bool(n and error == 0.0 and not np.any(A))
    scale = np.exp2(-np.round(0.5 * np.log2(diagonal)))
    S = A * scale[:, None] * scale
    # Rump's criterion, with the diagonal between 1/2 and 2; the shift covers rounding of itself.
    shift = 1.01 * gamma(n + 2) * float(np.diagonal(S).sum()) + 4.0 * UNIT
    S[np.diag_indices(n)] -= shift + error * scale * scale * (1.0 + 8.0 * UNIT)
    return factors(S)


def factors(S: Matrix) -> bool:
    """Return whether LAPACK's Cholesky factorisation of the lower triangle succeeds."""
    if not np.all(np.isfinite(np.diagonal(S))):
        return False
    _, info = la.lapack.dpotrf(S, lower=1, clean=0, overwrite_a=0)
    return bool(info == 0)


def largest_eigenvalue_upper(A: Matrix, error: float = 0.0) -> float:
    """Return a proved upper bound of the largest eigenvalue of a symmetric matrix.

    Parameters
    ----------
    A : ndarray of shape (n, n)
        Symmetric.
    error : float, default=0.0
        Bound of the spectral norm of what is unknown about `A`.

    Returns
    -------
    float
        Within about 1e-12 relative for well scaled matrices, 1e-9 above order 250; for matrices
        without a proof, a bound from row sums.
    """
    n = len(A)
    rows = float(np.abs(A).sum(axis=1).max()) * (1.0 + gamma(n)) + error
    if not math.isfinite(rows):
        return math.inf
    for estimate in (_largest_by_lanczos, _largest_dense) if n > _LANCZOS else (_largest_dense,):
        top = estimate(A)
        if not math.isfinite(top):
            continue
        unit = max(abs(top), UNIT * rows, 1e-300)
        slack = 8.0 * gamma(n + 2) * max(1.0, rows / unit)
        if estimate is _largest_by_lanczos:  # below the value by the square of its residual
            slack = max(8.0 * slack, 3e-10)
        for _ in range(12 if estimate is _largest_dense else 3):
            trial = top + slack * unit + error
            if trial >= rows:
                return rows
            M = -A
            M[np.diag_indices(n)] += trial * (1.0 - 4.0 * UNIT)
            # The subtraction rounds each diagonal entry.
            if is_psd_safe(M, error + 2.0 * UNIT * max(rows, abs(trial))):
                return trial
            slack *= 4.0
    return rows


def _largest_dense(A: Matrix) -> float:
    """Return LAPACK's largest eigenvalue; NaN: it failed."""
    n = len(A)
    try:
        return float(la.eigvalsh(A, subset_by_index=[n - 1, n - 1])[0])
    except (la.LinAlgError, ValueError):
        return math.nan


def _largest_by_lanczos(A: Matrix) -> float:
    """Return the largest eigenvalue from Lanczos iterations; NaN: they failed."""
    from scipy.sparse.linalg import ArpackError, eigsh

    start = 1.0 + 0.5 * np.sin(np.arange(1.0, len(A) + 1.0))
    try:
        value = eigsh(A, k=1, which="LA", v0=start, tol=1e-6, ncv=30, return_eigenvectors=False)
    except (ArpackError, ValueError):
        return math.nan
    return float(value[0])


def norm_upper(A: Matrix) -> float:
    """Return a proved upper bound of the spectral norm of a matrix.

    Parameters
    ----------
    A : ndarray of shape (m, n)
        Dense and finite.

    Returns
    -------
    float
        Within about 1e-12 relative; 0 for a zero matrix.

    Notes
    -----
    From the Gram matrix of the shorter side, whose rounding error is bounded by that of its
    products. Cost: m n min(m, n) flops for the products and min(m, n)³ for the eigenvalue.
    """
    A = np.asarray(A, dtype=np.float64)
    top = float(np.abs(A).max()) if A.size else 0.0
    if top == 0.0:
        return 0.0
    if not math.isfinite(top):
        return math.inf
    unit = 2.0 ** round(math.log2(top))
    A = A / unit
    if min(A.shape) == 1:
        return math.sqrt(float((A * A).sum()) * (1.0 + gamma(A.size + 2))) * unit * (1 + 4 * UNIT)
    short = A if A.shape[0] <= A.shape[1] else A.T
    gram = short @ short.T
    # |error| of entry (i, j) <= gamma(k) |a_i|.|a_j| <= gamma(k) ‖a_i‖ ‖a_j‖: rank one, norm below
    # gamma(k) times the trace.
    error = gamma(short.shape[1] + 1) * float(np.trace(gram)) * 1.01
    value = largest_eigenvalue_upper(gram, error)
    frobenius = float(np.trace(gram)) * (1.0 + gamma(A.size + 2))
    return math.sqrt(min(value, frobenius)) * unit * (1.0 + 4.0 * UNIT)


def norm_lower(A: Matrix) -> float:
    """Return a proved lower bound of the spectral norm of a matrix: ‖A v‖ / ‖v‖.

    Parameters
    ----------
    A : ndarray of shape (m, n)
        Dense and finite.

    Returns
    -------
    float
        Within about 1e-12 relative.
    """
    A = np.asarray(A, dtype=np.float64)
    top = float(np.abs(A).max()) if A.size else 0.0
    if top == 0.0 or not math.isfinite(top):
        return 0.0
    unit = 2.0 ** round(math.log2(top))
    A = A / unit
    short = A if A.shape[0] >= A.shape[1] else A.T  # columns: the shorter side
    n = short.shape[1]
    _, V = la.eigh(short.T @ short, subset_by_index=[n - 1, n - 1])
    v = V[:, 0]
    image = short @ v
    # Each entry of the image is off by at most gamma(n) |a_i|.|v| <= gamma(n) ‖a_i‖ ‖v‖.
    size = float(np.linalg.norm(v)) * (1.0 + gamma(n + 2))
    rounding = gamma(n + 1) * float(np.linalg.norm(short)) * size
    value = float(np.linalg.norm(image)) * (1.0 - gamma(len(image) + 2)) - rounding
    return max(0.0, value / size * (1.0 - 4.0 * UNIT)) * unit
