"""Solving with positive semi-definite blocks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["check_finite", "factorize", "inverse_root", "solve_factored", "solve_positive"]

# Eigenvalues below minus this part of the largest are no rounding, not even that of float32.
_NEGATIVE = 1e-5


def check_finite(values: NDArray[Any], what: str) -> None:
    """Raise if numbers of a block are not finite, before they spoil the point.

    Parameters
    ----------
    values : ndarray
        Numbers.
    what : str
        What they are, for the message.
    """
    if not np.isfinite(values).all():
        raise np.linalg.LinAlgError(f"{what} of a block is not finite")


def factorize(H: NDArray[Any]) -> tuple[str, Any]:
    """Return a Cholesky factor, or the positive part of the spectrum of a singular matrix.

    Parameters
    ----------
    H : ndarray of shape (m, m)
        Symmetric, positive semi-definite.

    Returns
    -------
    kind, parts
        For :func:`solve_factored`.

    Raises
    ------
    numpy.linalg.LinAlgError
        The matrix is not finite, or has a clearly negative eigenvalue.
    """
    check_finite(H, "the Hessian")
    from scipy.linalg import lapack

    factor, info = lapack.dpotrf(H, lower=1)
    # Relative to the entry of the variable itself, so that units do not matter.
    if info == 0 and (factor.diagonal() ** 2 > 1e-14 * H.shape[0] * H.diagonal()).all():
        return "cholesky", factor
    values, vectors = np.linalg.eigh(H)
    if values[0] < -_NEGATIVE * max(abs(float(values[0])), float(values[-1])):
        raise np.linalg.LinAlgError(
            f"the Hessian of a block is not positive semi-definite: it has the eigenvalue "
            f"{values[0]:g}; the objective has no minimum. Add a multiple of the identity to A"
        )
    kept = values > 1e-13 * H.shape[0] * max(float(values[-1]), 0.0)
    return "spectrum", (values[kept], vectors[:, kept])


def solve_factored(factor: tuple[str, Any], rhs: NDArray[Any]) -> NDArray[Any]:
    """Return the solution, of least norm if the matrix is singular.

    Parameters
    ----------
    factor : tuple
        From :func:`factorize`.
    rhs : ndarray of shape (m,)
        Right-hand side.
    """
    kind, parts = factor
    if kind == "cholesky":
        from scipy.linalg import lapack

        return np.asarray(lapack.dpotrs(parts, rhs, lower=1)[0])
    values, vectors = parts
    return np.asarray(vectors @ ((vectors.T @ rhs) / values))


def solve_positive(H: NDArray[Any], rhs: NDArray[Any]) -> NDArray[Any]:
    """Solve with a positive semi-definite matrix: by Cholesky, or the least-norm solution.

    Parameters
    ----------
    H : ndarray of shape (m, m)
        The matrix.
    rhs : ndarray of shape (m,)
        Right-hand side.
    """
    return solve_factored(factorize(H), rhs)


def inverse_root(H: NDArray[Any]) -> NDArray[Any]:
    """Return R with ``R'R`` the (pseudo-)inverse of a positive semi-definite matrix.

    Parameters
    ----------
    H : ndarray of shape (m, m)
        The matrix.

    Returns
    -------
    ndarray of shape (rank, m)
        The root.
    """
    kind, parts = factorize(H)
    if kind == "cholesky":
        from scipy.linalg import lapack

        return np.asarray(lapack.dtrtri(parts, lower=1)[0])
    values, vectors = parts
    return np.asarray((vectors / np.sqrt(values)).T)
