"""Check of exact penalties: a bound that holds with rounding, from the chain and the numbers."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from lowrank_opt.lipschitz.rigorous import (
    UNIT,
    gamma,
    is_psd_safe,
    largest_eigenvalue_upper,
    norm_upper,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from lowrank_opt.lipschitz.forms import Chain

    Values = NDArray[np.float64]

__all__ = ["penalty_bound"]

LARGEST = 8000  # order of the matrix


def penalty_bound(chain: Chain, multipliers: Sequence[Values]) -> float:
    """Return a proved bound of a chain from the multipliers of the exact penalty.

    Parameters
    ----------
    chain : Chain
        The network's form.
    multipliers : sequence of ndarray
        λ_1, …, λ_{L-1} of shape (n_i,), and κ = (κ_0, κ_1, κ_h) of shape (2 + N,); negative
        numbers count as zero.

    Returns
    -------
    float
        In units of the bound, without the scale; infinity if nothing is proved.

    Notes
    -----
    The smallest of a few κ_0' >= κ_0 for which the matrix C is proved negative semidefinite gives
    κ_0' / 2; else an upper bound of its largest eigenvalue gives the penalty. Cost: one or a few
    Cholesky factorisations of the order of the matrix.
    """
    weights = chain.weights
    hidden = weights[:-1]
    if not hidden:
        return norm_upper(weights[0])
    if len(multipliers) != len(weights):
        return math.inf
    lam = [np.asarray(v, dtype=np.float64) for v in multipliers[:-1]]
    kappa = np.asarray(multipliers[-1], dtype=np.float64)
    if any(v.shape != (len(W),) for v, W in zip(lam, hidden, strict=True)):
        return math.inf
    if kappa.shape != (2 + chain.n_hidden,):
        return math.inf
    if not all(np.all(np.isfinite(v)) for v in (*lam, kappa)):
        return math.inf
    lam, kappa = [np.maximum(v, 0.0) for v in lam], np.maximum(kappa, 0.0)
    sizes = [W.shape[1] for W in weights] + [len(weights[-1])]
    if sum(sizes) > LARGEST:
        return math.inf
    # Bounds of the squares of neurons, rounded up, and their sum.
    squares, reach = [], 1.0
    for W in hidden:
        squares.append((W * W).sum(axis=1) * reach * (1.0 + gamma(W.shape[1] + 8)))
        reach *= norm_upper(W) ** 2 * (1.0 + 8.0 * UNIT)
    m = np.concatenate(squares)
    total = (2.0 + float(m.sum())) * (1.0 + gamma(len(m) + 8))
    given = float(m @ kappa[2:]) * (1.0 + gamma(len(m) + 8))
    M, error = _negated(chain, lam, kappa, given)
    end = np.arange(len(M) - sizes[-1], len(M))
    for slack in (0.0, 1e-14, 1e-13, 1e-12, 1e-11, 1e-10, 1e-9, 1e-8, 1e-7):
        k0 = kappa[0] * (1.0 + slack)
        corner = k0 - kappa[1] - given
        M[end, end] = corner - 8.0 * UNIT * (k0 + kappa[1] + given)
        if corner > 0 and _is_psd(M, error):
            return 0.5 * k0 * (1.0 + 4.0 * UNIT)
    M[end, end] = (kappa[0] - kappa[1] - given) - 8.0 * UNIT * (kappa[0] + kappa[1] + given)
    top = largest_eigenvalue_upper(-M, float(error.max()))
    if not math.isfinite(top):
        return math.inf
    return 0.5 * (kappa[0] + total * max(0.0, top)) * (1.0 + 8.0 * UNIT)


def _negated(
    chain: Chain, lam: Sequence[Values], kappa: Values, given: float
) -> tuple[Values, Values]:
    """Return -C, and a diagonal that is at least as large as the rounding of its entries."""
    weights = chain.weights
    sizes = [W.shape[1] for W in weights] + [len(weights[-1])]
    at = np.concatenate([[0], np.cumsum(sizes)])
    M = np.zeros((at[-1], at[-1]))
    error = np.zeros(at[-1])
    M[: sizes[0], : sizes[0]] = kappa[1] * np.eye(sizes[0])
    start = 2
    for i, (W, a, s) in enumerate(zip(weights[:-1], chain.alpha, lam, strict=True)):
        x, y = slice(at[i], at[i + 1]), slice(at[i + 1], at[i + 2])
        if np.any(a):
            M[x, x] += 2.0 * (W.T * (s * a)) @ W
            # |error| of entry (j, k) is below γ (|W|ᵀ |s a| |W|)_jk: a positive semidefinite
            # matrix with nonnegative entries, below its row sums on the diagonal.
            D = np.abs(s * a)
            error[x] += 2.0 * gamma(len(W) + 6) * (np.abs(W).T @ (D * np.abs(W).sum(axis=1)))
            error[x] += 4.0 * UNIT * np.abs(M[x, x]).sum(axis=1)
        own = kappa[start : start + len(W)]
        start += len(W)
        M[y, y] = np.diag(2.0 * s + own)
        error[y] += 2.0 * UNIT * (2.0 * s + own)
        B = ((1.0 + a) * s)[:, None] * W
        M[y, x], M[x, y] = -B, -B.T
        off = 4.0 * UNIT * np.abs(B)  # a symmetric matrix is below its row sums of absolute values
        error[y] += off.sum(axis=1)
        error[x] += off.sum(axis=0)
    x, y = slice(at[-3], at[-2]), slice(at[-2], at[-1])
    M[y, x], M[x, y] = -weights[-1], -weights[-1].T
    del given
    return M, error


def _is_psd(M: Values, error: Values) -> bool:
    shifted = M.copy()
    shifted[np.diag_indices(len(M))] -= error * (1.0 + 4.0 * UNIT) + 2.0 * UNIT * np.diagonal(M)
    return is_psd_safe(shifted)
