"""A point as orthonormal factors, and the size of a step there: what grades are made of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from lowrank_opt.recovery.certificates import divide

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["UnitFactors", "balanced_exponents", "step_square", "unit_factors"]

_EPS = float(np.finfo(np.float64).eps)
# A point up to this many roundings of the data counts as zero.
_VANISHING = 32.0


class UnitFactors(NamedTuple):
    """Singular value decomposition of a point ``U Vᵀ`` without its vanishing directions.

    Parameters
    ----------
    values : ndarray of shape (k,), float64
        All singular values, descending; infinite where they overflow.
    left, right : ndarray of shape (m, r) and (n, r), float64
        Orthonormal columns of the singular values above ``4 k eps`` of the largest.
    left_turn, right_turn : ndarray of shape (k, r), float64
        ``V @ left_turn`` is `right`, and ``U @ right_turn`` is `left`: a product of a matrix with a
        factor becomes one with the unit columns.
    """

    values: NDArray[np.float64]
    left: NDArray[np.float64]
    right: NDArray[np.float64]
    left_turn: NDArray[np.float64]
    right_turn: NDArray[np.float64]

    def vanishes(self, mean_square: float, value_size: float, eps: float) -> bool:
        """Whether the measurements of the point are at most rounding beside the data.

        Parameters
        ----------
        mean_square : float
            Mean square of an entry of the measurement matrices.
        value_size : float
            Typical size of the data.
        eps : float
            Relative rounding of the data or the point, the larger one.

        Returns
        -------
        bool
        """
        size = float(np.linalg.norm(self.values / value_size)) * mean_square**0.5
        return not size > _VANISHING * eps


def _exponents(F: NDArray[Any]) -> NDArray[Any]:
    """Exponent of the largest number of each column; 0 for zero columns."""
    return np.frexp(np.abs(F).max(axis=0, initial=0.0))[1].astype(np.int64)


def balanced_exponents(U: NDArray[Any], V: NDArray[Any]) -> NDArray[np.int64]:
    """Powers of two that bring the columns of both factors to about the same size.

    Parameters
    ----------
    U, V : ndarray of shape (m, k) and (n, k)
        Factors.

    Returns
    -------
    ndarray of shape (k,)
        h, for ``U * 2^-h`` and ``V * 2^h``: the same point, exactly.
    """
    live = U.any(axis=0) & V.any(axis=0)
    return np.where(live, (_exponents(U) - _exponents(V)) // 2, 0)


def unit_factors(U: NDArray[Any], V: NDArray[Any]) -> UnitFactors:
    """The point ``U Vᵀ`` as orthonormal factors, whatever the scaling of its columns is.

    Parameters
    ----------
    U, V : ndarray of shape (m, k) and (n, k)
        Finite numbers.

    Returns
    -------
    UnitFactors

    Notes
    -----
    Cost: ``8 (m + n) k² + O(k³)`` flops.
    """
    U, V = U.astype(np.float64), V.astype(np.float64)
    k = U.shape[1]
    live = U.any(axis=0) & V.any(axis=0)
    if not live.any():
        none = np.zeros((k, 0))
        return UnitFactors(np.zeros(k), np.zeros((len(U), 0)), np.zeros((len(V), 0)), none, none)
    a, b = _exponents(U), _exponents(V)
    top = int((a + b)[live].max())
    shift = np.where(live, a + b - top, -top)
    with np.errstate(under="ignore", over="ignore"):
        QU, RU = np.linalg.qr(np.where(live, np.ldexp(U, -a), 0.0))
        QV, RV = np.linalg.qr(np.where(live, np.ldexp(np.ldexp(V, -b), shift), 0.0))
        A, s, Bt = np.linalg.svd(RU @ RV.T)
        keep = s > 4 * _EPS * k * s[0]
        A, B = A[:, keep], Bt[keep].T
        return UnitFactors(
            np.ldexp(s, top),
            QU @ A,
            QV @ B,
            np.ldexp(RU.T @ A / s[keep], (a - top)[:, None]),
            np.ldexp(RV.T @ B / s[keep], -a[:, None]),
        )


def step_square(
    g: NDArray[np.float64],
    masses: NDArray[np.float64],
    other: NDArray[np.float64],
    other_masses: NDArray[np.float64],
) -> float:
    """Sum over rows of ``g_i' H_i^-1 g_i`` with ``H_i = masses_i · mean of v v'``.

    Parameters
    ----------
    g : ndarray of shape (m, r)
        Gradient.
    masses : ndarray of shape (m,)
        Weight sums of its rows; rows without weight do not count.
    other : ndarray of shape (n, r)
        Orthonormal columns, with rows v.
    other_masses : ndarray of shape (n,)
        Weights of the mean.

    Returns
    -------
    float
    """
    total = float(other_masses.sum())
    if not total > 0:
        return 0.0
    scales, basis = np.linalg.eigh((other * (other_masses / total)[:, None]).T @ other)
    floor = 4 * _EPS * max(scales.size, 1) * float(scales.max(initial=0.0))
    scales = np.sqrt(np.where(scales > floor, scales, 0.0))
    z = divide(g @ basis, np.multiply.outer(np.sqrt(masses), scales))
    return float(np.vdot(z, z))
