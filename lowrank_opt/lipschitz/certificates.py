"""Checks of multipliers: bounds that hold with rounding, from the form and the numbers alone.

Nothing here knows how the numbers were found. An upper bound is accepted only after a
factorisation of the whole matrix inequality at that bound, with all rounding errors subtracted
(:mod:`lowrank_opt.lipschitz.rigorous`).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import scipy.linalg as la

from lowrank_opt.lipschitz.rigorous import UNIT, gamma, is_psd_safe

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from lowrank_opt.lipschitz.forms import Chain, Group, GroupChain, LowRankLMI

    Values = NDArray[np.float64]

__all__ = ["chain_upper", "group_upper", "lmi_upper"]

_FIRST, _GROWTH, _TRIES = 1e-13, 4.0, 20


def raised_until_proved(value: float, prove: Callable[[float], bool]) -> float:
    """Return the smallest of a geometric sequence of bounds just above `value` that is proved.

    Parameters
    ----------
    value : float
        A bound as computed in floating point.
    prove : callable
        Whether a bound holds with rounding.

    Returns
    -------
    float
        Infinity if none within 10 per cent does.
    """
    if not math.isfinite(value) or value < 0:
        return math.inf
    slack = _FIRST
    for _ in range(_TRIES):
        trial = value * (1.0 + slack)
        if prove(trial):
            return trial
        slack *= _GROWTH
    return math.inf


# ---------------------------------------------------------------- chains of slopes


def chain_upper(
    chain: Chain,
    multipliers: Sequence[Values],
    first: Values | None = None,
    last: Values | None = None,
) -> float:
    """Return a proved bound sqrt(ρ) of a chain for given multipliers.

    Parameters
    ----------
    chain : Chain
        The network's form.
    multipliers : sequence of ndarray of shape (n_i,)
        λ of each hidden layer, divided by ρ; negative numbers count as zero.
    first, last : ndarray or None, default=None
        W_1 and W_L before inputs and outputs were compressed, to be used instead of the chain's.

    Returns
    -------
    float
        In units of the bound, without the scale; infinity if nothing is proved.

    Notes
    -----
    ρ is the largest eigenvalue of W_L X⁻¹ W_Lᵀ, X the last Schur complement of the block
    tridiagonal matrix; the matrix at a slightly larger ρ is then factored with its rounding
    errors subtracted from a diagonal near one. Cost: O(Σ n_i³) for each of a few trials.
    """
    weights = list(chain.weights)
    weights[0] = weights[0] if first is None else first
    weights[-1] = weights[-1] if last is None else last
    if len(multipliers) != len(weights) - 1 or any(
        np.shape(v) != np.shape(a) for v, a in zip(multipliers, chain.alpha, strict=False)
    ):
        return math.inf
    lam = [np.maximum(np.asarray(v, dtype=np.float64), 0.0) for v in multipliers]
    if not all(np.all(np.isfinite(v)) for v in lam):
        return math.inf
    if not lam:
        from lowrank_opt.lipschitz.rigorous import norm_upper

        return norm_upper(weights[0])
    diagonal, below, doubt = _chain_blocks(weights, chain.alpha, lam)
    with np.errstate(all="ignore"):
        X = _last_complement(diagonal, below)
    if X is None:
        return math.inf
    T = la.solve_triangular(X, weights[-1].T, lower=True, check_finite=False)
    small = T.T @ T if T.shape[1] <= T.shape[0] else T @ T.T
    if not np.all(np.isfinite(small)):
        return math.inf
    rho = float(la.eigvalsh(small, subset_by_index=[len(small) - 1] * 2)[0])
    gram = weights[-1].T @ weights[-1]
    bound = raised_until_proved(
        rho, lambda r: _chain_is_psd(diagonal, below, doubt, gram, r, len(weights[-1]))
    )
    return math.sqrt(bound) * (1.0 + 2.0 * UNIT)


def _chain_blocks(
    weights: Sequence[Values], alpha: Sequence[Values], lam: Sequence[Values]
) -> tuple[list[Values], list[Values], list[Values]]:
    """Return diagonal blocks, blocks below them, and the part of diagonals that is rounded."""
    n = [W.shape[1] for W in weights]
    diagonal = [np.eye(n[0])] + [np.diag(2.0 * v) for v in lam]
    doubt = [np.zeros(k) for k in n]
    below = []
    for i, (W, a, v) in enumerate(zip(weights[:-1], alpha, lam, strict=True)):
        if np.any(a):
            diagonal[i] = diagonal[i] + 2.0 * (W.T * (v * a)) @ W
            # |error| of entry (j, k) <= γ (|W|ᵀ |λα| |W|)_jk, below γ times the geometric mean of
            # its diagonal.
            doubt[i] = doubt[i] + 2.0 * gamma(len(W) + 4) * (np.abs(v * a) @ (W * W))
        below.append(-((1.0 + a) * v)[:, None] * W)
    return diagonal, below, doubt


def _last_complement(diagonal: list[Values], below: list[Values]) -> Values | None:
    """Return the Cholesky factor of the last Schur complement, without proof."""
    F = diagonal[0]
    for D, B in zip(diagonal[1:], below, strict=True):
        try:
            R = la.cholesky(F, lower=True, check_finite=True)
        except (la.LinAlgError, ValueError):
            return None
        T = la.solve_triangular(R, B.T, lower=True, check_finite=False)
        F = D - T.T @ T
    try:
        return np.asarray(la.cholesky(F, lower=True, check_finite=True))
    except (la.LinAlgError, ValueError):
        return None


def _chain_is_psd(
    diagonal: list[Values], below: list[Values], doubt: list[Values], gram: Values, rho: float,
    n_out: int,
) -> bool:  # fmt: skip
    """Return whether the block tridiagonal matrix at ρ is proved positive semidefinite."""
    blocks = [*diagonal[:-1], diagonal[-1] - gram / rho]
    unsure = [*doubt[:-1], doubt[-1] + gamma(n_out + 4) * np.diagonal(gram) / rho]
    diag = [np.diagonal(B) for B in blocks]
    if any(np.any(d <= 0) or not np.all(np.isfinite(d)) for d in diag):
        return False
    scale = [np.exp2(-np.round(0.5 * np.log2(d))) for d in diag]  # exact scaling
    size = max(len(d) for d in diag)
    # Rounding of the entries, in scaled units.
    entries = 4.0 * UNIT + max(float((u * s * s).sum()) for u, s in zip(unsure, scale, strict=True))
    off = [B * scale[i + 1][:, None] * scale[i] for i, B in enumerate(below)]
    entries += 8.0 * UNIT * max(float(np.linalg.norm(B)) for B in off)
    # Rounding of the factorisation: at most γ(k) |R|ᵀ|R| with k terms in a sum, each entry below
    # two, in three blocks of a row.
    widest = max(len(B) + B.shape[1] for B in off)
    shift = 1.02 * (2.0 * gamma(widest + 2) * 3.0 * size + entries)
    F = blocks[0] * scale[0][:, None] * scale[0]
    for i in range(len(blocks)):
        if i:
            nxt = blocks[i] * scale[i][:, None] * scale[i]
            T = la.solve_triangular(F, off[i - 1].T, lower=True, check_finite=False)
            nxt = nxt - T.T @ T
            F = nxt
        F = F.copy() if i == 0 else F
        F[np.diag_indices(len(F))] -= shift
        if not np.all(np.isfinite(np.diagonal(F))):
            return False
        F, info = la.lapack.dpotrf(F, lower=1, clean=1, overwrite_a=0)
        if info != 0:
            return False
    return True


# ---------------------------------------------------------------- chains of groups


def group_upper(
    chain: GroupChain, multipliers: Sequence[Values], first: Values | None = None
) -> float:
    """Return a proved bound of a chain of groups for given multipliers.

    Parameters
    ----------
    chain : GroupChain
        The network's form.
    multipliers : sequence of ndarray of shape (2, n_groups)
        Rows λ and γ of each hidden layer; for "linf" preceded by μ of shape (n_0,).
    first : ndarray or None, default=None
        W_1 before inputs were compressed ("l2").

    Returns
    -------
    float
        sqrt(Π c_i), times sqrt(Σ μ) for "linf", with the least c_i that have a proof of
        c_i T_{i-1} - W_iᵀ T_i W_i ≥ 0; without the scale. Infinity if nothing is proved.
    """
    weights = list(chain.weights)
    weights[0] = weights[0] if first is None else first
    given = [np.asarray(v, dtype=np.float64) for v in multipliers]
    if not all(np.all(np.isfinite(v)) for v in given):
        return math.inf
    n_0 = weights[0].shape[1]
    total = 1.0
    if chain.norm == "linf":
        mu, given = given[0], given[1:]
        if mu.shape != (n_0,) or np.any(mu <= 0):
            return math.inf
        total = math.sqrt(float(mu.sum()) * (1.0 + gamma(n_0)))
        T_before = np.diag(mu)
    else:
        T_before = np.eye(n_0)
    if len(given) != len(chain.groups):
        return math.inf
    doubt_before = np.zeros(n_0)
    for W, group, value in zip(weights, [*chain.groups, None], [*given, None], strict=True):
        if group is None or value is None:
            T, size = np.eye(len(W)), np.eye(len(W))
        else:
            if value.shape != (2, len(W) // group.size):
                return math.inf
            T, size = _group_matrix(group, value, len(W))
        M = W.T @ (T @ W)
        # T sums its two terms with three roundings; each product adds as many as it has terms.
        rounded = gamma(len(W) * 2 + 8) * np.einsum("ji,jk,ki->i", np.abs(W), size, np.abs(W))
        c = _least_factor(T_before, doubt_before, 0.5 * (M + M.T), rounded)
        if not math.isfinite(c):
            return math.inf
        total *= math.sqrt(c) * (1.0 + 4.0 * UNIT)
        T_before = T
        doubt_before = gamma(8) * size.sum(axis=1)
    return total


def _group_matrix(group: Group, value: Values, width: int) -> tuple[Values, Values]:
    """Return T = blkdiag(λ I + γ E) and the sum of the absolute values of its terms."""
    s, n = group.size, width // group.size
    T, size = np.zeros((width, width)), np.zeros((width, width))
    for g in range(n):
        E = np.ones((s, s))
        if group.direction is not None:
            v = group.direction[g]
            E = np.eye(s) - np.outer(v, v)
        block = slice(g * s, (g + 1) * s)
        T[block, block] = value[0, g] * np.eye(s) + value[1, g] * E
        size[block, block] = abs(value[0, g]) * np.eye(s) + abs(value[1, g]) * (
            np.abs(E) + np.eye(s)
        )
    return T, size


def _least_factor(T: Values, doubt: Values, M: Values, rounded: Values) -> float:
    """Return the least c with a proof of c T - M >= 0."""
    try:
        R = la.cholesky(T, lower=True)
    except la.LinAlgError:
        return math.inf
    Z = la.solve_triangular(R, M, lower=True)
    Z = la.solve_triangular(R, Z.T, lower=True)
    n = len(M)
    top = float(la.eigvalsh(0.5 * (Z + Z.T), subset_by_index=[n - 1, n - 1])[0])
    if top <= 0:
        return 0.0 if not np.any(M) else math.inf
    d = np.sqrt(np.diagonal(T))

    def prove(c: float) -> bool:
        # Scaled to T's diagonal: errors there are sums over entries.
        A = (c * T - M) / d[:, None] / d
        error = float(((c * doubt + rounded) / (d * d)).sum())
        error += 16.0 * UNIT * float(np.linalg.norm(c * T / d[:, None] / d) + np.linalg.norm(A))
        return is_psd_safe(A, error)

    return raised_until_proved(top, prove)


# ---------------------------------------------------------------- any matrix inequality


def lmi_upper(lmi: LowRankLMI, y: Values) -> float:
    """Return a proved bound of a matrix inequality for given multipliers.

    Parameters
    ----------
    lmi : LowRankLMI
        The network's form.
    y : ndarray of shape (k,)
        Multipliers divided by ρ; negative numbers count as zero unless they are free. For "linf"
        only their ratios matter.

    Returns
    -------
    float
        Without the scale; infinity if nothing is proved.
    """
    y = np.asarray(y, dtype=np.float64)
    if y.shape != lmi.free.shape or not np.all(np.isfinite(y)):
        return math.inf
    y = np.where(lmi.free, y, np.maximum(y, 0.0))
    K = _combination(lmi, y)
    if lmi.norm == "l2":
        K[np.diag_indices(len(K))] += lmi.E
        try:
            R = la.cholesky(K, lower=True)
        except la.LinAlgError:
            return math.inf
        Z = la.solve_triangular(R, lmi.C, lower=True)
        Z = la.solve_triangular(R, Z.T, lower=True)
        n = len(K)
        rho = float(la.eigvalsh(0.5 * (Z + Z.T), subset_by_index=[n - 1, n - 1])[0])
        if rho <= 0:
            return 0.0 if not np.any(lmi.C) else math.inf
        bound = raised_until_proved(rho, lambda r: _lmi_is_psd(lmi, y, r))
        return math.sqrt(bound) * (1.0 + 2.0 * UNIT)
    w = -lmi.C[:-1, -1]
    total = -K[-1, -1]
    try:
        R = la.cholesky(K[:-1, :-1], lower=True)
    except la.LinAlgError:
        return math.inf
    T = la.solve_triangular(R, w, lower=True)
    energy = float(T @ T)
    if total <= 0 or energy <= 0:
        return 0.0 if not np.any(w) else math.inf
    t = math.sqrt(energy / total)
    return raised_until_proved(math.sqrt(total * energy), lambda r: _lmi_is_psd(lmi, t * y, r))


def _combination(lmi: LowRankLMI, y: Values) -> Values:
    """Return Σ y_k A_k."""
    weight = lmi.M @ y
    half = (lmi.P * weight) @ lmi.Q.T
    return np.asarray(half + half.T)


def _lmi_is_psd(lmi: LowRankLMI, y: Values, rho: float) -> bool:
    # "l2": E + Σ y A - C / ρ (divided by ρ); "linf": ρ E + Σ y A - C.
    S = _combination(lmi, y)
    e, c = (1.0, 1.0 / rho) if lmi.norm == "l2" else (rho, 1.0)
    S[np.diag_indices(len(S))] += e * lmi.E
    S -= c * lmi.C
    diag = np.diagonal(S)
    if np.any(diag <= 0) or not np.all(np.isfinite(diag)):
        return False
    s = np.exp2(-np.round(0.5 * np.log2(diag)))
    weight = np.abs(lmi.M) @ np.abs(y)
    P, Q = lmi.P * s[:, None], lmi.Q * s[:, None]
    norms = np.sqrt((P * P).sum(axis=0) * (Q * Q).sum(axis=0))
    error = 2.0 * gamma(lmi.P.shape[1] + lmi.M.shape[1] + 6) * float(weight @ norms)
    error += gamma(8) * float(
        e * (lmi.E * s * s).max() + np.linalg.norm(c * lmi.C * s[:, None] * s)
    )
    return is_psd_safe(S * s[:, None] * s, error)
