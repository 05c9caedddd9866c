"""Cholesky factors, triangular solves and inverses straight from LAPACK, in C order outside."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from scipy.linalg import blas, lapack

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["cholesky", "half_solve", "inverse_from", "second_half", "solve"]


def cholesky(A: NDArray[np.float64], *, overwrite: bool = False) -> NDArray[np.float64] | None:
    """Return the lower Cholesky factor in Fortran order, its upper triangle undefined.

    Parameters
    ----------
    A : ndarray of shape (n, n)
        Symmetric, in C order.
    overwrite : bool, default=False
        Whether `A` may be destroyed, which saves a copy.

    Returns
    -------
    ndarray of shape (n, n) or None
        ``None``: not positive definite.
    """
    c, info = lapack.dpotrf(A.T, lower=1, clean=0, overwrite_a=overwrite)
    return c if info == 0 and math.isfinite(float(c.diagonal().sum())) else None


def half_solve(c: NDArray[np.float64], B: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return c⁻¹ B in C order for a lower factor c."""
    return blas.dtrsm(1.0, c, B.T, side=1, lower=1, trans_a=1).T


def solve(c: NDArray[np.float64], B: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return (c cᵀ)⁻¹ B in C order for a lower factor c."""
    T = blas.dtrsm(1.0, c, B.T, side=1, lower=1, trans_a=1)
    return blas.dtrsm(1.0, c, T, side=1, lower=1, overwrite_b=1).T


def second_half(c: NDArray[np.float64], T: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return c⁻ᵀ T in C order."""
    return blas.dtrsm(1.0, c, T.T, side=1, lower=1).T


def inverse_from(c: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return (c cᵀ)⁻¹ from the lower factor."""
    Z, _ = lapack.dpotri(c, lower=1)
    n = len(Z)
    if n > 1:
        upper = np.triu_indices(n, 1) if n < 24 else None
        if upper is not None:
            Z[upper] = Z.T[upper]
        else:
            Z = np.tril(Z)
            Z += np.tril(Z, -1).T
    return Z.T
