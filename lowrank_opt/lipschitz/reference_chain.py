"""The semidefinite program of a chain written out densely: slow, obvious, what tests compare with.

Nothing here uses that the matrices are block tridiagonal or that their terms have rank two.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import scipy.linalg as la

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lowrank_opt.lipschitz.forms import Chain

__all__ = [
    "best_constant",
    "constraint_matrices",
    "constraint_values",
    "lmi_matrix",
    "output_matrix",
    "schur_matrix",
]


def _offsets(chain: Chain) -> NDArray[np.intp]:
    return np.concatenate([[0], np.cumsum(chain.widths)])


def constraint_matrices(chain: Chain) -> NDArray[np.float64]:
    """Return E_0 and A_j = p_j q_jᵀ + q_j p_jᵀ for every hidden neuron, of shape (1 + N, d, d).

    With the row w_j of the neuron's weights, ``p_j = e_j - alpha_j w_j`` and ``q_j = e_j - w_j``.
    Cost: N d² numbers.
    """
    at, d = _offsets(chain), sum(chain.widths)
    matrices = np.zeros((1 + chain.n_hidden, d, d))
    matrices[0, : at[1], : at[1]] = np.eye(at[1])
    k = 1
    for i, (W, alpha) in enumerate(zip(chain.weights[:-1], chain.alpha, strict=True)):
        for j in range(W.shape[0]):
            e, w = np.zeros(d), np.zeros(d)
            e[at[i + 1] + j] = 1.0
            w[at[i] : at[i + 1]] = W[j]
            p, q = e - alpha[j] * w, e - w
            matrices[k] = np.outer(p, q) + np.outer(q, p)
            k += 1
    return matrices


def output_matrix(chain: Chain) -> NDArray[np.float64]:
    """Return C, which has W_Lᵀ W_L in its last block, of shape (d, d)."""
    d, n = sum(chain.widths), chain.widths[-1]
    C = np.zeros((d, d))
    C[d - n :, d - n :] = chain.weights[-1].T @ chain.weights[-1]
    return C


def lmi_matrix(chain: Chain, rho: float, multipliers: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return S = ρ E_0 + Σ λ_j A_j - C: sqrt(ρ) is a bound if S is positive semidefinite."""
    y = np.concatenate([[rho], multipliers])
    return np.tensordot(y, constraint_matrices(chain), 1) - output_matrix(chain)


def constraint_values(chain: Chain, X: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return ⟨E_0, X⟩ and all ⟨A_j, X⟩, of shape (1 + N,)."""
    return np.tensordot(constraint_matrices(chain), X, 2)


def schur_matrix(
    chain: Chain, X: NDArray[np.float64], Z: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the numbers tr(A_j X A_k Z), of shape (1 + N, 1 + N)."""
    A = constraint_matrices(chain)
    return np.einsum("jab,bc,kcd,da->jk", A, X, A, Z, optimize=True)


def best_constant(chain: Chain, multipliers: NDArray[np.float64]) -> float:
    """Return the smallest L for which multipliers divided by ρ = L² prove a bound; inf: none."""
    M = lmi_matrix(chain, 1.0, multipliers) + output_matrix(chain)
    try:
        return float(np.sqrt(la.eigh(output_matrix(chain), M, eigvals_only=True)[-1]))
    except la.LinAlgError:
        return float("inf")
