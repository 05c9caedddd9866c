"""Checks of dual matrices: how small a bound the same relaxation could give at best.

By weak duality a positive semidefinite matrix that meets the dual constraints bounds the optimum
of the semidefinite program from below. Here definiteness is tested by a factorisation and the
constraints by their values, both up to a relative allowance for rounding of 1e-11: these numbers
say how good a bound is, not whether it is one.
"""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING

import numpy as np

from lowrank_opt.lipschitz.rigorous import factors

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from lowrank_opt.lipschitz.forms import Chain, GroupChain, LowRankLMI

    Values = NDArray[np.float64]

__all__ = ["chain_lower", "group_lower", "lmi_lower"]

_ALLOWANCE = 1e-11


def _semidefinite(X: Values) -> bool:
    """Return whether a matrix is positive semidefinite up to the allowance, diagonal scaled."""
    d = np.diagonal(X)
    if not np.all(np.isfinite(X)) or np.any(d < 0):
        return False
    live = d > 0
    if np.any(X[~live]) or np.any(X[:, ~live]):
        return False
    s = 1.0 / np.sqrt(d[live])
    S = X[np.ix_(live, live)] * s[:, None] * s
    S[np.diag_indices(len(S))] += _ALLOWANCE * max(10, len(S))
    return factors(0.5 * (S + S.T))


def chain_lower(chain: Chain, dual: Sequence[Values], *, layers: bool = False) -> float:
    """Return the lower bound of the best sqrt(ρ) that a dual matrix of a chain proves.

    Parameters
    ----------
    chain : Chain
        The network's form.
    dual : sequence of ndarray
        Blocks X_00, X_11, …, X_{L-1,L-1}, then X_01, X_12, …, of shape (n_{i-1}, n_i). The other
        blocks of the matrix do not matter, because the cliques can be completed.
    layers : bool, default=False
        For the program with one multiplier a layer: constraints hold summed over layers.

    Returns
    -------
    float
        Without the scale; 0 if the blocks prove nothing.
    """
    n = [W.shape[1] for W in chain.weights]
    shapes = [(k, k) for k in n] + list(itertools.pairwise(n))
    if [np.shape(X) for X in dual] != shapes:
        return 0.0
    D, off = list(dual[: len(n)]), list(dual[len(n) :])
    total = float(np.trace(D[0]))
    if not total > 0 or not all(np.all(np.isfinite(X)) for X in dual):
        return 0.0
    for i, (W, a) in enumerate(zip(chain.weights[:-1], chain.alpha, strict=True)):
        clique = np.block([[D[i], off[i]], [off[i].T, D[i + 1]]])
        if not _semidefinite(clique):
            return 0.0
        # E (h - a z)(h - z) <= 0 with z = W h_before.
        own = np.diagonal(D[i + 1])
        cross = np.einsum("jk,kj->j", W, off[i])
        before = np.einsum("jk,kl,jl->j", W, D[i], W, optimize=True)
        value = own - (1.0 + a) * cross + a * before
        size = own + (1.0 + np.abs(a)) * np.abs(cross) + before
        if layers:
            value, size = value.sum(), size.sum()
        if np.any(value > _ALLOWANCE * size):
            return 0.0
    W = chain.weights[-1]
    if len(n) == 1 and not _semidefinite(D[0]):
        return 0.0
    energy = float(np.einsum("jk,kl,jl->", W, D[-1], W, optimize=True))
    return math.sqrt(max(energy, 0.0) / total)


def group_lower(chain: GroupChain, dual: Sequence[Values]) -> float:
    """Return the lower bound of the best bound that dual matrices of a chain of groups prove.

    Parameters
    ----------
    chain : GroupChain
        The network's form.
    dual : sequence of ndarray of shape (n_{i-1}, n_{i-1})
        X_1, …, X_L for the inequalities T_{i-1} - W_iᵀ T_i W_i >= 0, each of any scale.

    Returns
    -------
    float
        Without the scale; 0 if the matrices prove nothing.

    Notes
    -----
    With factors f_i for which f_1 tr X_1 <= 1 ("linf": f_1 diag X_1 <= 1) and, on each of the two
    spaces on which T_i is a multiple of the identity in a group, f_{i+1} tr(Π X_{i+1}) <=
    f_i tr(Π W_i X_i W_iᵀ), the number f_L tr(W_L X_L W_Lᵀ) bounds ρ (the square of the bound).
    """
    if [np.shape(X) for X in dual] != [(W.shape[1],) * 2 for W in chain.weights]:
        return 0.0
    if not all(_semidefinite(X) for X in dual):
        return 0.0
    first = np.diagonal(dual[0])
    size = float(first.max() if chain.norm == "linf" else first.sum())
    if not size > 0:
        return 0.0
    log = -math.log(size)
    for W, X, nxt, group in zip(chain.weights[:-1], dual[:-1], dual[1:], chain.groups, strict=True):
        image = W @ X @ W.T
        s, count = group.size, len(W) // group.size
        least = math.inf
        for g in range(count):
            block = slice(g * s, (g + 1) * s)
            v = np.full(s, 1.0 / math.sqrt(s)) if group.direction is None else group.direction[g]
            have, need = image[block, block], nxt[block, block]
            along = float(v @ have @ v), float(v @ need @ v)
            across = float(np.trace(have)) - along[0], float(np.trace(need)) - along[1]
            for have_part, need_part in (along, across) if s > 1 else (along,):
                if need_part > _ALLOWANCE * float(np.trace(need)):
                    least = min(least, max(have_part, 0.0) / need_part)
        if not 0 < least < math.inf:
            return 0.0
        log += math.log(least)
    W = chain.weights[-1]
    energy = float(np.einsum("jk,kl,jl->", W, dual[-1], W, optimize=True))
    return math.exp(0.5 * (log + math.log(energy))) if energy > 0 else 0.0


def lmi_lower(lmi: LowRankLMI, dual: Sequence[Values]) -> float:
    """Return the lower bound of the best bound that a dual matrix of an inequality proves.

    Parameters
    ----------
    lmi : LowRankLMI
        The network's form.
    dual : sequence of one ndarray of shape (d, d)
        X with ⟨A_k, X⟩ <= 0, and 0 for free multipliers.

    Returns
    -------
    float
        ⟨C, X⟩ / ⟨E, X⟩, for "l2" its root; without the scale. 0 if the matrix proves nothing.
    """
    if len(dual) != 1 or np.shape(dual[0]) != (len(lmi.E),) * 2:
        return 0.0
    X = 0.5 * (dual[0] + dual[0].T)
    if not _semidefinite(X):
        return 0.0
    total = float(lmi.E @ np.diagonal(X))
    XQ = X @ lmi.Q
    pairs = 2.0 * np.einsum("im,im->m", lmi.P, XQ)
    d = np.sqrt(np.diagonal(X))
    sizes = 2.0 * (np.abs(lmi.P).T @ d) * (np.abs(lmi.Q).T @ d)
    values, allowed = lmi.M.T @ pairs, _ALLOWANCE * (abs(lmi.M).T @ sizes)
    broken = np.where(lmi.free, np.abs(values), values) > allowed
    if not total > 0 or np.any(broken):
        return 0.0
    value = float(np.vdot(lmi.C, X)) / total
    if value <= 0:
        return 0.0
    return value if lmi.norm == "linf" else math.sqrt(value)
