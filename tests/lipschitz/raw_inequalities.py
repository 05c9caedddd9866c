"""The matrix inequalities as the papers print them, for cvxpy; nothing of the library is used.

Networks are lists of weights; increments of inputs and neurons are stacked in one vector.
"""

from __future__ import annotations

import itertools
import warnings

import cvxpy as cp
import numpy as np

__all__ = [
    "group_structure",
    "implicit_optimum",
    "largest_over_slopes",
    "lipsdp_optimum",
    "quadratic_optimum",
    "residual_map",
    "slope_structure",
    "sort_patterns",
]


def _stack(weights):
    """A and B with A h = all inputs of activations, B h = all outputs."""
    widths = [weights[0].shape[1], *(len(W) for W in weights)]
    ends = np.cumsum([0, *widths])
    A = np.zeros((sum(widths[1:]), sum(widths)))
    row = 0
    for i, W in enumerate(weights):
        A[row : row + len(W), ends[i] : ends[i + 1]] = W
        row += len(W)
    B = np.hstack([np.zeros((len(A), widths[0])), np.eye(len(A))])
    return A, B


def quadratic_optimum(A, B, M, output, constraints, norm="l2", accuracy=1e-10):
    """Least bound for [A; B]ᵀ M [A; B] + outputᵀ output <= ρ |inputs|²; M is 2 × 2 blocks."""
    n = B.shape[1] - B.shape[0]
    both = np.vstack([A, B])
    middle = cp.bmat(M)
    body = both.T @ middle @ both
    rho = cp.Variable()
    if norm == "l2":
        selector = np.zeros((n, B.shape[1]))
        selector[:, :n] = np.eye(n)
        S = rho * (selector.T @ selector) - output.T @ output - body
    else:
        mu = cp.Variable(n, nonneg=True)
        pad = np.zeros((B.shape[1], n))
        pad[:n] = np.eye(n)
        inner = pad @ cp.diag(mu) @ pad.T - body
        w = output.reshape(-1, 1)
        S = cp.bmat([[inner, w], [w.T, cp.reshape(2 * rho - cp.sum(mu), (1, 1), order="C")]])
    program = cp.Problem(cp.Minimize(rho), [0.5 * (S + S.T) >> 0, *constraints])
    tolerances = dict.fromkeys(("tol_gap_abs", "tol_gap_rel", "tol_feas"), accuracy)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # callers that expect inexact values allow for them
        program.solve(solver=cp.CLARABEL, **tolerances)
    if program.status not in ("optimal", "optimal_inaccurate"):
        return np.inf
    return float(program.value) if norm == "linf" else float(np.sqrt(program.value))


def slope_structure(alpha, beta):
    """Blocks with a multiplier for each neuron."""
    T = cp.Variable(len(alpha), nonneg=True)
    a, b = np.asarray(alpha), np.asarray(beta)
    blocks = [
        [cp.diag(cp.multiply(-2 * a * b, T)), cp.diag(cp.multiply(a + b, T))],
        [cp.diag(cp.multiply(a + b, T)), cp.diag(-2 * T)],
    ]
    return blocks, []


def lipsdp_optimum(weights, alpha, beta, norm="l2"):
    """LipSDP-Neuron, or its version for the largest entry of the input and one output."""
    A, B = _stack(weights[:-1])
    blocks, constraints = slope_structure(np.concatenate(alpha), np.concatenate(beta))
    output = np.zeros((len(weights[-1]), B.shape[1]))
    output[:, -weights[-1].shape[1] :] = weights[-1]
    return quadratic_optimum(A, B, blocks, output, constraints, norm)


def implicit_optimum(W, U, C, D, alpha, beta, norm="l2"):
    """z = φ(W z + U x), y = C z + D x."""
    A, B = np.hstack([U, W]), np.hstack([np.zeros_like(U), np.eye(len(W))])
    blocks, constraints = slope_structure(alpha, beta)
    return quadratic_optimum(A, B, blocks, np.hstack([D, C]), constraints, norm)


def group_structure(n, projection, with_p):
    """Blocks with T = λ I + γ E, S = 0 and P = ν E or zero, for n groups of one projection E."""
    size = len(projection)
    lam = cp.Variable(n, nonneg=True)
    gamma, nu = cp.Variable(n), cp.Variable(n)
    spread = np.kron(np.eye(n), np.ones((size, 1)))
    E = np.kron(np.eye(n), projection)
    T = cp.diag(spread @ lam) + cp.multiply(
        E, (spread @ gamma).reshape((-1, 1), order="C") @ ones(n * size)
    )
    zero = np.zeros(E.shape)
    P = (
        cp.multiply(E, (spread @ nu).reshape((-1, 1), order="C") @ ones(n * size))
        if with_p
        else zero
    )
    return T, P


def ones(n):
    return np.ones((1, n))


def residual_map(W_in, blocks):
    """Inputs and outputs of all activations, and the last h, of h <- h + φ(W h)."""
    n = W_in.shape[1]
    d = n + sum(len(W) for W in blocks)
    h = np.hstack([W_in, np.zeros((len(W_in), d - n))])
    rows, at = [], n
    for W in blocks:
        rows.append(W @ h)
        new = np.zeros((len(W), d))
        new[:, at : at + len(W)] = np.eye(len(W))
        at += len(W)
        h = h + new
    A = np.vstack(rows)
    return A, np.hstack([np.zeros((len(A), n)), np.eye(len(A))]), h


def largest_over_slopes(jacobian, n, slopes=(0.0, 1.0), norm=2):
    """Largest norm of a Jacobian over all choices of n slopes."""
    return max(
        np.linalg.norm(jacobian(np.array(choice)), norm)
        for choice in itertools.product(slopes, repeat=n)
    )


def sort_patterns(n_groups):
    """Every matrix that sorts pairs of neurons."""
    flip = np.eye(2)[::-1]
    for bits in itertools.product((False, True), repeat=n_groups):
        D = np.zeros((2 * n_groups, 2 * n_groups))
        for g, bit in enumerate(bits):
            D[2 * g : 2 * g + 2, 2 * g : 2 * g + 2] = flip if bit else np.eye(2)
        yield D
