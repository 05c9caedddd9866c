"""Feasible multipliers of a chain in one pass, by which a generic solver's program is scaled."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.linalg import eigvalsh, solve_triangular

from lowrank_opt.lipschitz.lmi_operator import cholesky

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lowrank_opt.lipschitz.forms import Chain

__all__ = ["chain_multipliers"]


def chain_multipliers(chain: Chain) -> NDArray[np.float64]:
    r"""Return one multiplier a layer that keeps every Schur complement definite.

    With Y = W X⁻¹ Wᵀ of the complement X before, λ = c / λ_max(Y). For slopes from zero the
    complement 2λ - λ²Y is definite for c = 1; else 2λ - λ²(1+α)²y/(1 - 2λ|α|y) is for c = 1/4.

    Parameters
    ----------
    chain : Chain
        The network.

    Returns
    -------
    ndarray of shape (N,)
        In the order of the layers, for ρ = 1.
    """
    X = np.eye(chain.widths[0])
    found = []
    for W, alpha in zip(chain.weights[:-1], chain.alpha, strict=True):
        factor = cholesky(X)
        if factor is None:
            break
        T = solve_triangular(factor, W.T, lower=True, check_finite=False)
        top = float(eigvalsh(T.T @ T, check_finite=False)[-1])
        size = (0.25 if np.any(alpha) else 1.0) / top
        found.append(np.full(len(W), size))
        if np.any(alpha):
            factor = cholesky(X + 2.0 * size * (W.T * alpha) @ W)
            if factor is None:
                break
            W = (1.0 + alpha)[:, None] * W
            T = solve_triangular(factor, W.T, lower=True, check_finite=False)
        X = 2.0 * size * np.eye(len(W)) - size**2 * (T.T @ T)
    known = sum(v.size for v in found)
    return np.concatenate([*found, np.full(chain.n_hidden - known, 1e-300)])
