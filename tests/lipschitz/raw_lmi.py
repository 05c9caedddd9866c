"""Published matrix inequalities, written down entry by entry, for cvxpy and Clarabel."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

import numpy as np


def gaussian(*widths, seed=0):
    """Return Gaussian weights W_i / sqrt(n_{i-1}), the generator of the reference values."""
    g = np.random.default_rng(seed)
    return [g.standard_normal((n, m)) / np.sqrt(m) for m, n in pairwise(widths)]


def selectors(weights):
    """Return A, B with A x = pre-activations and B x = values of all hidden neurons."""
    n = [W.shape[1] for W in weights]
    starts = np.concatenate([[0], np.cumsum(n)])
    A, B = np.zeros((sum(n[1:]), sum(n))), np.zeros((sum(n[1:]), sum(n)))
    for i, W in enumerate(weights[:-1]):
        rows = slice(starts[i + 1] - n[0], starts[i + 2] - n[0])
        A[rows, starts[i] : starts[i + 1]] = W
        B[rows, starts[i + 1] : starts[i + 2]] = np.eye(len(W))
    return A, B


def lip_sdp(weights, alpha=0.0, beta=1.0, norm="l2", structure="neuron"):
    """Return the bound of the unscaled matrix inequality by cvxpy and Clarabel."""
    import cvxpy as cp

    A, B = selectors(weights)
    N, d = A.shape
    n0, last = weights[0].shape[1], weights[-1]
    alpha, beta = np.broadcast_to(alpha, N), np.broadcast_to(beta, N)
    lam = cp.Variable(N, nonneg=True)
    constraints = []
    if structure == "layer":
        k = 0
        for W in weights[:-1]:
            constraints.append(lam[k : k + len(W)] == lam[k])
            k += len(W)
    P, Q = B - alpha[:, None] * A, B - beta[:, None] * A
    body = P.T @ cp.diag(lam) @ Q + Q.T @ cp.diag(lam) @ P
    rho = cp.Variable()
    if norm == "l2":
        inputs = np.diag(np.r_[np.ones(n0), np.zeros(d - n0)])
        C = np.zeros((d, d))
        C[d - last.shape[1] :, d - last.shape[1] :] = last.T @ last
        S = rho * inputs + body - C
        bound = cp.sqrt
    else:
        mu = cp.Variable(n0, nonneg=True)
        w = np.r_[np.zeros(d - last.shape[1]), last[0]][:, None]
        inputs = cp.diag(cp.hstack([mu, np.zeros(d - n0)]))
        S = cp.bmat([[inputs + body, w], [w.T, cp.reshape(2 * rho - cp.sum(mu), (1, 1), "C")]])
        bound = None
    problem = cp.Problem(cp.Minimize(rho), [*constraints, 0.5 * (S + S.T) >> 0])
    problem.solve(solver="CLARABEL")
    value = float(problem.value)
    return value if bound is None else np.sqrt(value)


def exactly_psd(S):
    """Return whether a matrix of fractions is positive semidefinite, in exact arithmetic."""
    S = [list(row) for row in S]
    n = len(S)
    for k in range(n):
        pivot = S[k][k]
        if pivot < 0:
            return False
        if pivot == 0:
            if any(S[k][j] != 0 for j in range(k + 1, n)):
                return False
            continue
        for i in range(k + 1, n):
            factor = S[i][k] / pivot
            if factor:
                for j in range(k + 1, n):
                    S[i][j] -= factor * S[k][j]
    return True


def exact_chain_matrix(weights, alpha, multipliers, rho):
    """Return E + Σ λ A - W_Lᵀ W_L / ρ in exact arithmetic."""
    A, B = selectors(weights)
    lam = np.concatenate(list(multipliers)) if len(weights) > 1 else np.zeros(0)
    alpha = np.concatenate(list(alpha)) if len(weights) > 1 else np.zeros(0)
    F = np.vectorize(Fraction, otypes=[object])
    A, B, lam, alpha, rho = F(A), F(B), F(lam), F(alpha), Fraction(rho)
    d = A.shape[1]
    n0, last = weights[0].shape[1], F(weights[-1])
    S = np.full((d, d), Fraction(0), dtype=object)
    for k in range(n0):
        S[k, k] = Fraction(1)
    P, Q = B - alpha[:, None] * A, B - A
    half = (P.T * lam).dot(Q)
    S = S + half + half.T
    m = last.shape[1]
    S[d - m :, d - m :] -= last.T.dot(last) / rho
    return S
