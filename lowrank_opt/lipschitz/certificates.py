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
# Relative excess of ρ over its value without rounding that is not worth another try; shares of an
# inner point that are tried.
_CLOSE, _LEAST_SHARE, _SHARE_GROWTH = 1e-9, 1e-10, 4.0


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
    The block tridiagonal matrix is factored with all rounding errors subtracted from a diagonal
    near one. ρ is the largest eigenvalue of W_L X⁻¹ W_Lᵀ, X its last Schur complement; at a
    slightly larger ρ, on which the last block alone depends, the factorisation must succeed.
    Cost: O(Σ n_i³) once, and O(n³) for the last block of each trial.
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
    with np.errstate(all="ignore"):
        bound, near = _least_proved(weights, chain.alpha, lam)
        if not near:
            # Optimal multipliers lie on the boundary: the best of them leave no room for rounding.
            # The set of feasible (λ, 1/ρ) is convex, so a share t of an inner point costs at most
            # about t of the bound.
            inner = _inner_multipliers(weights, chain.alpha)
            share = _LEAST_SHARE
            while inner is not None and share < 1e-2 and not near:
                mixed = [(1.0 - share) * v + share * w for v, w in zip(lam, inner, strict=True)]
                trial, near = _least_proved(weights, chain.alpha, mixed)
                bound, near = min(bound, trial), near and trial <= bound
                share *= _SHARE_GROWTH
    return math.sqrt(bound) * (1.0 + 2.0 * UNIT)


def _least_proved(
    weights: Sequence[Values], alpha: Sequence[Values], lam: Sequence[Values]
) -> tuple[float, bool]:
    """Return the least proved ρ, and whether it is close to the one without rounding."""
    matrix = _ChainMatrix(weights, alpha, lam)
    rho = matrix.least_rho()
    bound = raised_until_proved(rho, matrix.is_psd)
    return bound, bound < math.inf and bound <= rho * (1.0 + _CLOSE)


def _inner_multipliers(weights: Sequence[Values], alpha: Sequence[Values]) -> list[Values] | None:
    """Return multipliers well inside the feasible set, the same for all neurons of a layer."""
    F = np.eye(weights[0].shape[1])
    out: list[Values] = []
    for W, a in zip(weights[:-1], alpha, strict=True):
        R = _factor(F)
        if R is None:
            return None
        T = la.solve_triangular(R, W.T, lower=True, check_finite=False)
        Y = T.T @ T
        top = float(la.eigvalsh(Y, subset_by_index=[len(Y) - 1] * 2)[0])
        if not 0 < top < math.inf:
            return None
        level = 1.0 / top
        for _ in range(40):
            X = _next_complement(F, Y, W, a, level)
            if X is not None:
                break
            level *= 0.5
        else:
            return None
        out.append(np.full(len(W), level))
        F = X
    return out


def _next_complement(F: Values, Y: Values, W: Values, a: Values, level: float) -> Values | None:
    """Return the Schur complement after a layer with equal multipliers; ``None`` if indefinite."""
    if np.any(a):
        R = _factor(F + 2.0 * level * (W.T * a) @ W)
        if R is None:
            return None
        T = la.solve_triangular(R, W.T, lower=True, check_finite=False)
        Y = T.T @ T
    X = -(level * level) * (1.0 + a)[:, None] * Y * (1.0 + a)
    X[np.diag_indices(len(X))] += 2.0 * level
    low = float(la.eigvalsh(X, subset_by_index=[0, 0])[0])
    return X if low > 0.1 * level else None


class _ChainMatrix:
    """The block tridiagonal matrix of a chain, whose blocks are made when they are needed.

    Only its last block depends on ρ; what comes before is factored once.
    """

    def __init__(
        self, weights: Sequence[Values], alpha: Sequence[Values], lam: Sequence[Values]
    ) -> None:
        self.weights, self.alpha, self.lam = weights, alpha, lam
        self.size = len(weights)
        self.gram = weights[-1].T @ weights[-1]
        self.diagonals = [self._diagonal(i) for i in range(self.size)]
        self.doubt = [self._doubt(i) for i in range(self.size)]
        self._scale: list[Values] | None = None
        self._doubts = self._offs = 0.0
        self._shift = 0.0
        self._factor: Values | None = None
        self._last: tuple[Values, Values] | None = None

    def block(self, i: int) -> Values:
        """Return a diagonal block at ρ = ∞."""
        n = self.weights[i].shape[1]
        D = np.eye(n) if i == 0 else np.diag(2.0 * self.lam[i - 1])
        if self._has_slopes(i):
            W, slope = self.weights[i], self.lam[i] * self.alpha[i]
            D = D + 2.0 * (W.T * slope) @ W
        return D

    def below(self, i: int) -> Values:
        """Return the block left of the diagonal block i >= 1."""
        return -((1.0 + self.alpha[i - 1]) * self.lam[i - 1])[:, None] * self.weights[i - 1]

    def _has_slopes(self, i: int) -> bool:
        return i < self.size - 1 and bool(np.any(self.alpha[i]))

    def _diagonal(self, i: int) -> Values:
        if self._has_slopes(i):
            return np.diagonal(self.block(i)).copy()
        return np.ones(self.weights[0].shape[1]) if i == 0 else 2.0 * self.lam[i - 1]

    def _doubt(self, i: int) -> Values:
        """Return bounds of the rounding of the block, as a diagonal matrix."""
        W = self.weights[i]
        if not self._has_slopes(i):
            return np.zeros(W.shape[1])
        # |error| of entry (j, k) <= γ (|W|ᵀ |λα| |W|)_jk, below γ times the geometric mean of its
        # diagonal.
        return 2.0 * gamma(len(W) + 4) * (np.abs(self.lam[i] * self.alpha[i]) @ (W * W))

    def least_rho(self) -> float:
        """Return the ρ at which the matrix, less what rounding may have added, is singular."""
        if not self._prepare() or not np.all(self.diagonals[-1] > 0):
            return math.inf
        s = _power_scale(self.diagonals[-1])
        self._shift_for(s, self.doubt[-1])
        F = self._last_complement(s, self.block(self.size - 1))
        R = None if F is None else _factor(F)
        if R is None:
            return math.inf
        T = la.blas.dtrsm(1.0, R, (self.weights[-1] * s).T, lower=1, overwrite_b=1)
        small = T.T @ T if T.shape[1] <= T.shape[0] else T @ T.T
        if not np.all(np.isfinite(small)):
            return math.inf
        return float(la.eigvalsh(small, subset_by_index=[len(small) - 1] * 2)[0])

    def is_psd(self, rho: float) -> bool:
        """Return whether the matrix at ρ is proved positive semidefinite."""
        end = self.diagonals[-1] - np.diagonal(self.gram) / rho
        if np.any(end <= 0) or not np.all(np.isfinite(end)):
            return False
        s = _power_scale(end)
        doubt = self.doubt[-1] + gamma(len(self.weights[-1]) + 4) * np.diagonal(self.gram) / rho
        self._shift_for(s, doubt)
        F = self._last_complement(s, self.block(self.size - 1) - self.gram / rho)
        return F is not None and _factor(F) is not None

    def _shift_for(self, s: Values, doubt: Values) -> None:
        """Shift and factor the blocks before the last anew unless that was done with care."""
        # Rounding of the entries, in scaled units.
        off = float(np.linalg.norm(self._off(self.size - 1, s)))
        entries = 4.0 * UNIT + max(self._doubts, float((doubt * s * s).sum()))
        entries += 8.0 * UNIT * max(self._offs, off)
        # Rounding of the factorisation: at most γ(k) |R|ᵀ|R| with k terms in a sum, each entry
        # below two, in three blocks of a row.
        widest = max(len(W) + W.shape[1] for W in self.weights[:-1])
        order = max(len(d) for d in self.diagonals)
        shift = 1.02 * (2.0 * gamma(widest + 2) * 3.0 * order + entries)
        if not shift <= self._shift <= 2.0 * shift:
            self._shift, self._last = 1.1 * shift, None
            self._factor = self._shifted_factor()

    def _last_complement(self, s: Values, block: Values) -> Values | None:
        """Return the last Schur complement of the shifted matrix with the scale s there."""
        if self._factor is None:
            return None
        if self._last is None or not np.array_equal(self._last[0], s):
            off = self._off(self.size - 1, s)
            T = la.blas.dtrsm(1.0, self._factor, off.T, lower=1, overwrite_b=1)
            self._last = s, T.T @ T
        F = block * s[:, None] * s
        F -= self._last[1]
        F[np.diag_indices(len(F))] -= self._shift
        return F

    def _prepare(self) -> bool:
        """Scale all blocks but the last; return whether their diagonals are positive."""
        inner = self.diagonals[:-1]
        if any(np.any(d <= 0) or not np.all(np.isfinite(d)) for d in inner):
            return False
        self._scale = [_power_scale(d) for d in inner]
        self._doubts = max(
            float((u * s * s).sum()) for u, s in zip(self.doubt, self._scale, strict=False)
        )
        norms = [np.linalg.norm(self._off(i, self._scale[i])) for i in range(1, self.size - 1)]
        self._offs = float(max(norms, default=0.0))
        return True

    def _off(self, i: int, s: Values) -> Values:
        """Return the block left of the diagonal block i, whose own scale is s."""
        assert self._scale is not None
        return self.below(i) * s[:, None] * self._scale[i - 1]

    def _shifted_factor(self) -> Values | None:
        """Return the factor of the last but one Schur complement of the shifted matrix."""
        assert self._scale is not None
        R: Values | None = None
        for i, s in enumerate(self._scale):
            F = self.block(i) * s[:, None] * s
            if R is not None:
                T = la.blas.dtrsm(1.0, R, self._off(i, s).T, lower=1, overwrite_b=1)
                F -= T.T @ T
            F[np.diag_indices(len(F))] -= self._shift
            R = _factor(F)
            if R is None:
                return None
        return R


def _power_scale(diagonal: Values) -> Values:
    """Return powers of two, exact factors that bring a diagonal near one from both sides."""
    return np.exp2(-np.round(0.5 * np.log2(diagonal)))


def _factor(F: Values) -> Values | None:
    """Return the lower Cholesky factor of a matrix in C order; ``None``: there is none."""
    if not np.all(np.isfinite(np.diagonal(F))):
        return None
    R, info = la.lapack.dpotrf(F.T, lower=1, clean=0, overwrite_a=0)
    return R if info == 0 else None


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
