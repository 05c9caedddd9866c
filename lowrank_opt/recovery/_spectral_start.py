"""What first-order methods of matrix sensing share: scale, spectral start, residual, gap."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import scipy.sparse as sp

from lowrank_opt.numerics import randomized_svd
from lowrank_opt.recovery._balance import balanced_exponents, unit_factors
from lowrank_opt.recovery._samples import sample, typical_size

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "Spectrum",
    "describe",
    "gap_rank",
    "preconditioned",
    "relative_step",
    "robust_size",
    "samples_entries",
    "spectral_factors",
    "spectrum",
    "truncate_at_gap",
]

# Median of the size of a standard normal number.
_NORMAL_MEDIAN = 0.6745
# Up to this side, or from this part of the side on, a full decomposition is as fast.
_DENSE_SIDE, _DENSE_PART = 256, 0.25
_OVERSAMPLES = 10
# Above this number of measurements medians are taken over a part of them.
_SAMPLE = 100_000
# Data whose size is 2 to a larger power than this, or its negative, are scaled for products.
_MODERATE = 20


class Spectrum(NamedTuple):
    """Leading singular triplets of a matrix, or the positive eigenpairs of a symmetric one.

    Parameters
    ----------
    values : ndarray of shape (k,), float64
        Descending; zeros for directions that a symmetric matrix has not.
    left : ndarray of shape (m, k)
        Orthonormal columns.
    right : ndarray of shape (n, k)
        Orthonormal columns; `left` itself for symmetric matrices.
    """

    values: NDArray[np.float64]
    left: NDArray[Any]
    right: NDArray[Any]


def spectrum(Z: Any, k: int, symmetric: bool, seed: int = 0) -> Spectrum:
    """Leading `k` singular triplets, or eigenpairs of the symmetric part.

    Parameters
    ----------
    Z : ndarray, sparse array or linear operator of shape (m, n)
        What ``adjoint`` of a measurement operator returns.
    k : int
        At most min(m, n).
    symmetric : bool
        Whether to decompose ``(Z + Zᵀ) / 2``, and to set negative eigenvalues to 0.
    seed : int, default=0
        Of the random start of the subspace iteration on large matrices.

    Returns
    -------
    Spectrum
        In the dtype of `Z`.
    """
    side = min(Z.shape)
    dense = side <= _DENSE_SIDE or k >= _DENSE_PART * side
    if dense:
        A = Z if isinstance(Z, np.ndarray) else Z.toarray() if sp.issparse(Z) else None
        if A is None:
            A = Z @ np.eye(Z.shape[1], dtype=Z.dtype)
        dtype = A.dtype
        if symmetric:
            values, vectors = np.linalg.eigh((A + A.T) / 2)
            left = np.ascontiguousarray(vectors[:, ::-1][:, :k])
            return Spectrum(np.maximum(values[::-1][:k], 0.0).astype(np.float64), left, left)
        U, s, Vt = np.linalg.svd(A, full_matrices=False)
        return _contiguous(U[:, :k], s[:k], Vt[:k], dtype)
    if not symmetric:
        return _contiguous(*randomized_svd(Z, k, random_state=seed), Z.dtype)
    # Rayleigh-Ritz in the range of the leading directions of either sign.
    S = sp.linalg.LinearOperator(
        Z.shape,
        matvec=lambda v: (Z @ v + Z.T @ v) / 2,
        matmat=lambda V: (Z @ V + Z.T @ V) / 2,
        rmatmat=lambda V: (Z @ V + Z.T @ V) / 2,
        dtype=Z.dtype,
    )
    basis = randomized_svd(S, min(k + _OVERSAMPLES, side), random_state=seed).U
    values, turn = np.linalg.eigh(basis.T @ S.matmat(basis))
    left = np.ascontiguousarray(basis @ turn[:, ::-1][:, :k])
    return Spectrum(np.maximum(values[::-1][:k], 0.0).astype(np.float64), left, left)


def _contiguous(U: Any, s: Any, Vt: Any, dtype: Any) -> Spectrum:
    return Spectrum(
        s.astype(np.float64), np.ascontiguousarray(U, dtype), np.ascontiguousarray(Vt.T, dtype)
    )


def samples_entries(operator: Any) -> bool:
    """Whether the measurements are entries of the matrix: every one sees one row and column."""
    return getattr(operator, "observations", None) is not None


def robust_size(targets: NDArray[Any], mean_square: float) -> float:
    """``median|y| / (0.6745 sqrt(c))``: the Frobenius norm of X when ``y = A(X)`` is normal.

    Parameters
    ----------
    targets : ndarray of shape (N,)
        Measurements.
    mean_square : float
        Mean square of an entry of the measurement matrices.

    Returns
    -------
    float
        Positive unless all targets are 0: where more than half of them are, the median of the
        others stands in.
    """
    median = typical_size(targets) if np.any(targets) else 0.0
    return median / (_NORMAL_MEDIAN * math.sqrt(mean_square)) if mean_square else 0.0


def relative_step(problem: Any, U: NDArray[Any], V: NDArray[Any]) -> float:
    r"""Residual of a sensing problem: the relative size of a (reweighted) Gauss-Newton step.

    Parameters
    ----------
    problem : Problem
        With `measurements`, `targets`, `symmetric`, `loss`, `value_size`, `value_square` and
        `robust_scale`.
    U, V : ndarray of shape (m, k) and (n, k)
        Factors; the same array in a symmetric problem.

    Returns
    -------
    float
        See the certificate of the problem, of which this is the solvers' own computation.

    Notes
    -----
    Cost: two passes over the data; a median, over a random part of them when they are many.
    """
    operator, y, symmetric = problem.measurements, problem.targets, problem.symmetric
    robust, entries = problem.loss == "l1", samples_entries(operator)
    U, V, y, power = _moderate(U, V, y, problem.value_size, symmetric)
    unit = math.ldexp(1.0, power)
    delta, sizes = math.inf, np.zeros(0)
    if robust:
        sizes = np.abs(operator.apply(U, V) - y)
        delta = problem.robust_scale(sample(sizes, _SAMPLE).astype(np.float64) * unit) / unit
    found = operator.reweighted(U, V, y, delta, symmetric)
    left, right = found.left, found.left if found.right is None else found.right
    rows = np.full(problem.shape[0], found.mass * operator.mean_square * problem.shape[1])
    cols = np.full(problem.shape[1], found.mass * operator.mean_square * problem.shape[0])
    if entries:
        # An entry sees one row and one column, and its weight counts for these.
        obs = operator.observations
        rows, cols = obs.row_weights, obs.col_weights
        if robust:
            w = np.minimum(1.0, delta / np.maximum(sizes, delta or 1.0))
            w = w if operator.weights is None else w * operator.weights
            rows = np.bincount(obs.rows(), w, minlength=obs.shape[0]).astype(np.float64)
            cols = np.bincount(obs.indices, w, minlength=obs.shape[1]).astype(np.float64)
        rows, cols = rows / y.size, cols / y.size
        if symmetric:
            rows = cols = (rows + cols) / 2.0
    point = unit_factors(U, V)
    square = _step(left @ point.left_turn, rows, point.right, cols)
    square += _step(right @ point.right_turn, cols, point.left, rows)
    scale = found.mass * (problem.value_square / unit / unit) if robust else found.scale
    residual = math.sqrt(square / (scale or 1.0))
    eps = float(np.finfo(operator.dtype).eps)
    if point.vanishes(operator.mean_square, problem.value_size / unit, eps) and y.any():
        residual = max(residual, 1.0)
    return residual


def _step(
    g: NDArray[Any], masses: NDArray[Any], F: NDArray[Any], other_masses: NDArray[Any]
) -> float:
    """Sum of ``g_i' H_i^-1 g_i`` over the rows, ``H_i = masses_i · mean of f f'``.

    The solvers' own: the certificates, which grade them, have another form of it.
    """
    total = float(other_masses.sum())
    if not total > 0:
        return 0.0
    gram = (F * (other_masses / total)[:, None]).T @ F
    cut = 4 * float(np.finfo(gram.dtype).eps) * max(len(gram), 1)
    inverse = np.linalg.pinv(gram, rcond=cut, hermitian=True)
    rows = np.einsum("ik,ik->i", g @ inverse, g)
    return max(0.0, float(np.divide(rows, masses, out=np.zeros_like(rows), where=masses > 0).sum()))


def _moderate(
    U: NDArray[Any], V: NDArray[Any], y: NDArray[Any], size: float, symmetric: bool
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any], int]:
    """The same point and data over an even power of two, which is repoint, too.

    Columns of both factors get about the same size, and very large or small data a moderate one:
    products do not overflow, and all numbers keep their digits.
    """
    power = 2 * (math.frexp(size)[1] // 2)
    power = power if abs(power) > _MODERATE else 0
    h = 0 if symmetric else balanced_exponents(U, V)
    if not (power or np.any(h)):
        return U, V, y, 0
    with np.errstate(over="ignore", under="ignore"):
        if power:
            limit = np.finfo(y.dtype).max / 4
            y = np.clip(np.ldexp(y, -power), -limit, limit)
        U = np.ldexp(U, -h - power // 2)
        return U, U if symmetric else np.ldexp(V, h - power // 2), y, power


def truncate_at_gap(
    U: NDArray[Any], V: NDArray[Any], alpha: float
) -> tuple[NDArray[Any], NDArray[Any]]:
    r"""Drop the directions that a small start has left near its own level.

    With singular values :math:`s_1 \ge s_2 \ge \dots` of :math:`U V^\top`, the kept rank r is the
    one at the largest gap ``s_r / max(s_{r+1}, alpha s_1)``, with ``s_{k+1} = 0``.

    Parameters
    ----------
    U, V : ndarray of shape (m, k) and (n, k)
        Factors that the sub-gradient method has reached.
    alpha : float
        Its relative size of the start: what the start has not let grow is at about ``alpha s_1``.

    Returns
    -------
    U, V : ndarray of shape (m, r) and (n, r)
        Balanced factors of the leading part: ``Uᵀ U = Vᵀ V``, diagonal.

    Notes
    -----
    Cost: ``4 (m + n) k² + O(k³)`` flops.
    """
    QU, RU = np.linalg.qr(U)
    QV, RV = np.linalg.qr(V)
    A, s, Bt = np.linalg.svd(RU @ RV.T)
    rank = gap_rank(s.astype(np.float64), alpha)
    root = np.sqrt(s[:rank])
    return QU @ (A[:, :rank] * root), QV @ (Bt[:rank].T * root)


def gap_rank(values: NDArray[np.float64], alpha: float) -> int:
    """Rank at the largest gap of descending singular values; see `truncate_at_gap`.

    Parameters
    ----------
    values : ndarray of shape (k,)
        Descending.
    alpha : float
        Relative floor.

    Returns
    -------
    int
        0 when all values are 0.
    """
    if not values.size or not values[0] > 0:
        return 0
    following = np.maximum(np.append(values[1:], 0.0), alpha * values[0])
    return int(np.argmax(values / following)) + 1


def describe(U: NDArray[Any], V: NDArray[Any], alpha: float) -> dict[str, float]:
    """What a user may want to know of factors beside their product.

    Parameters
    ----------
    U, V : ndarray of shape (m, k) and (n, k)
        Factors.
    alpha : float
        See `truncate_at_gap`.

    Returns
    -------
    dict
        ``rank_at_gap``, and ``balance``: ``|U'U - V'V|_F / |U V'|_F``.
    """
    if not (np.isfinite(U).all() and np.isfinite(V).all()):
        return {"rank_at_gap": math.nan, "balance": math.nan}
    U, V = U.astype(np.float64), V.astype(np.float64)
    values = np.linalg.svd(np.linalg.qr(U)[1] @ np.linalg.qr(V)[1].T, compute_uv=False)
    norm = float(np.linalg.norm(values))
    return {
        "rank_at_gap": float(gap_rank(values, alpha)),
        "balance": float(np.linalg.norm(U.T @ U - V.T @ V)) / norm if norm else 0.0,
    }


def preconditioned(
    g: NDArray[Any], other: NDArray[Any], damping: float
) -> tuple[NDArray[Any], float]:
    """``g (F'F + damping I)^-1`` and the squared norm of ``g (F'F + damping I)^(-1/2)``.

    Parameters
    ----------
    g : ndarray of shape (m, k)
        Product of a gradient matrix with F.
    other : ndarray of shape (n, k)
        F; directions in which it vanishes up to rounding get no step.
    damping : float
        Not negative.

    Returns
    -------
    step : ndarray of shape (m, k)
        In the dtype of `g`.
    square : float

    Notes
    -----
    Cost: ``(4 m + 2 n) k²`` flops and an eigendecomposition of order k.
    """
    F = other.astype(np.float64, copy=False)
    values, basis = np.linalg.eigh(F.T @ F)
    floor = np.finfo(np.float64).eps * values.size * max(float(values.max(initial=0.0)), 0.0)
    keep = values + damping > floor
    basis = basis[:, keep]
    scales = values[keep] + damping
    z = g @ basis
    return ((z / scales) @ basis.T).astype(g.dtype), float((z**2 / scales).sum())


def spectral_factors(
    operator: Any, z: NDArray[Any], k: int, symmetric: bool, mass: float = 1.0
) -> tuple[NDArray[Any], NDArray[Any], NDArray[np.float64]]:
    """Balanced factors of the best rank-k approximation of ``A*(z) / (N c mass)``.

    Parameters
    ----------
    operator : object
        Measurements.
    z : ndarray of shape (N,)
        Data, some of them set to 0.
    k : int
        Rank.
    symmetric : bool
        See `spectrum`.
    mass : float, default=1.0
        Mean weight of the measurements.

    Returns
    -------
    U, V : ndarray of shape (m, k) and (n, k)
        In the operator's dtype; the same array in a symmetric problem.
    values : ndarray of shape (k,)
        Singular values of the product, descending.
    """
    scale = z.size * operator.mean_square * mass
    sp = spectrum(operator.adjoint(z / scale if scale else z), k, symmetric)
    root = np.sqrt(sp.values)
    U = (sp.left * root).astype(operator.dtype)
    return U, U if symmetric else (sp.right * root).astype(operator.dtype), sp.values
