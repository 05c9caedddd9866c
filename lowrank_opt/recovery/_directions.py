"""Directions of a product of factors, and those that a sub-gradient shows beyond them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse.linalg as spl

from lowrank_opt.recovery import _spectral_start as start

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["chance_level", "deflated", "padded", "product_svd", "rank_known", "usable_start"]


def product_svd(
    U: NDArray[Any], V: NDArray[Any]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Singular values of ``U Vᵀ``, descending, and the singular vectors as columns.

    Parameters
    ----------
    U, V : ndarray of shape (m, k) and (n, k)
        Factors, k at most min(m, n).

    Returns
    -------
    values : ndarray of shape (k,)
    left, right : ndarray of shape (m, k) and (n, k)
        All in float64.
    """
    QU, RU = np.linalg.qr(U.astype(np.float64))
    QV, RV = np.linalg.qr(V.astype(np.float64))
    A, values, Bt = np.linalg.svd(RU @ RV.T)
    return values, QU @ A, QV @ Bt.T


def deflated(Z: Any, left: NDArray[Any], right: NDArray[Any]) -> Any:
    """``(I - left leftᵀ) Z (I - right rightᵀ)`` for orthonormal columns.

    Parameters
    ----------
    Z : ndarray, sparse array or linear operator of shape (m, n)
        What ``adjoint`` of a measurement operator returns.
    left, right : ndarray of shape (m, r) and (n, r)
        Orthonormal columns.

    Returns
    -------
    ndarray or LinearOperator
        In the dtype of `Z`.
    """
    left, right = left.astype(Z.dtype), right.astype(Z.dtype)

    def off(Q: NDArray[Any], F: NDArray[Any]) -> NDArray[Any]:
        return F - Q @ (Q.T @ F)

    if isinstance(Z, np.ndarray):
        return off(right, off(left, Z).T).T
    return spl.LinearOperator(
        Z.shape,
        matvec=lambda v: off(left, Z @ off(right, v)),
        matmat=lambda F: off(left, Z @ off(right, F)),
        rmatvec=lambda v: off(right, Z.T @ off(left, v)),
        rmatmat=lambda F: off(right, Z.T @ off(left, F)),
        dtype=Z.dtype,
    )


def chance_level(operator: Any, symmetric: bool) -> float:
    r"""Largest singular value that ``1/N sum ±w_i A_i`` with random signs would have, about.

    Parameters
    ----------
    operator : object
        Measurements.
    symmetric : bool
        Whether the largest eigenvalue of the symmetric part is asked for.

    Returns
    -------
    float
        :math:`(\sqrt m + \sqrt n) \sqrt{c / N}` when the :math:`A_i` have independent entries of
        mean square c, :math:`\sqrt{2 m c / N}` for the symmetric part. For sampled entries the
        fullest row and column count instead of the mean ones.
    """
    m, n = operator.shape
    weights = getattr(operator, "weights", None)
    mass = 1.0 if weights is None else float(np.mean(np.square(weights, dtype=np.float64)))
    observations = getattr(operator, "observations", None)
    if observations is not None:
        rows, cols = np.diff(observations.indptr), np.diff(observations.csc_indptr)
        row, col = math.sqrt(mass * float(rows.max())), math.sqrt(mass * float(cols.max()))
        return (math.hypot(row, col) if symmetric else row + col) / operator.size
    scale = math.sqrt(mass * operator.mean_square / operator.size)
    return scale * (math.sqrt(2.0 * m) if symmetric else math.sqrt(m) + math.sqrt(n))


def rank_known(problem: Any) -> bool:
    """Whether the problem's rank is one that somebody gave, not the limit of a search.

    Parameters
    ----------
    problem : Problem
        Without an attribute `rank_known`, a rank limit that excludes no matrix counts as unknown.

    Returns
    -------
    bool
    """
    side = min(problem.shape)
    return bool(getattr(problem, "rank_known", problem.rank_limit < side or side == 1))


def usable_start(problem: Any, x0: Any) -> Any:
    """The warm start in the problem's form, or ``None`` for one without any direction.

    Parameters
    ----------
    problem : Problem
        What to solve.
    x0 : object or None
        What the user gave.

    Returns
    -------
    LowRankMatrix or None
    """
    if x0 is None:
        return None
    x0 = problem.start(x0)
    return x0 if x0.rank and x0.U.any() and x0.V.any() else None


def padded(
    problem: Any, x0: Any, z: NDArray[Any], mass: float = 1.0
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Factors of a warm start, with columns up to the rank limit from what they leave undone.

    Parameters
    ----------
    problem : Problem
        With `measurements`, `rank_limit` and `symmetric`.
    x0 : LowRankMatrix
        With fewer columns, or as many.
    z : ndarray of shape (N,)
        Data minus predictions, without what is to be left out.
    mass : float, default=1.0
        Mean weight of the measurements.

    Returns
    -------
    U, V : ndarray
        Copies.
    """
    more = problem.rank_limit - x0.rank
    if more <= 0:
        return x0.U.copy(), x0.V.copy()
    U, V, _ = start.spectral_factors(problem.measurements, z, more, problem.symmetric, mass)
    return np.hstack([x0.U, U.astype(x0.U.dtype)]), np.hstack([x0.V, V.astype(x0.V.dtype)])
