"""Feasible multipliers of a chain, and the equivalent chain in which they are one."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from lowrank_opt.lipschitz.chain_operator import largest_gram
from lowrank_opt.lipschitz.factorisations import cholesky, half_solve

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from lowrank_opt.lipschitz.forms import Chain

__all__ = ["Scaling", "fast_multipliers", "squared_bound"]


def fast_multipliers(chain: Chain, *, per_layer: bool = False) -> tuple[NDArray[np.float64], ...]:
    """Return multipliers in closed form, divided by ρ, layer by layer (ECLipsE-Fast).

    With ``Y = W F⁻¹ Wᵀ``, where F is what elimination has left of the layer before, those of a
    layer are ``1 / ((1 - alpha)² λ_max(Y))``: they are always feasible. One value for the whole
    layer is ``1 / (4 λ_max(η Y η))`` with ``η = (1 - alpha) / 2``.
    """
    result = []
    F = np.eye(chain.widths[0])
    for W, alpha in zip(chain.weights[:-1], chain.alpha, strict=True):
        eta = 0.5 * (1.0 - alpha)
        V = half_solve(_factor(F), W.T)
        if per_layer:
            lam = np.full(len(eta), 0.25 / largest_gram(V * eta))
        else:
            lam = 0.25 / (eta * eta * largest_gram(V))
        result.append(lam)
        if np.any(alpha):
            V = half_solve(_factor(F + np.dot(W.T * (2.0 * alpha * lam), W)), W.T)
        V = V * ((1.0 + alpha) * lam)
        F = np.diag(2.0 * lam) - np.dot(V.T, V)
    return tuple(result)


def _factor(F: NDArray[np.float64]) -> NDArray[np.float64]:
    c = cholesky(F)
    if c is None:  # rounding: the smallest pivots are lost
        c = cholesky(F + np.eye(len(F)) * (1e-12 * np.trace(F)))
    return np.eye(len(F), order="F") if c is None else c


def squared_bound(chain: Chain, multipliers: Sequence[NDArray[np.float64]]) -> float:
    """Return the smallest ρ that multipliers (divided by ρ) prove; inf: none.

    Cost: two triangular solves and a Cholesky factorisation per layer.
    """
    F = np.eye(chain.widths[0])
    for W, alpha, lam in zip(chain.weights[:-1], chain.alpha, multipliers, strict=True):
        if not (np.all(np.isfinite(lam)) and np.all(lam >= 0.0)):
            return np.inf
        if np.any(alpha):
            F = F + np.dot(W.T * (2.0 * alpha * lam), W)
        c = cholesky(F)
        if c is None:
            return np.inf
        V = half_solve(c, W.T * ((1.0 + alpha) * lam))
        F = np.diag(2.0 * lam) - np.dot(V.T, V)
    c = cholesky(F)
    return np.inf if c is None else largest_gram(half_solve(c, chain.weights[-1].T))


class Scaling(NamedTuple):
    """Multipliers that become one, and the squared bound that becomes one.

    The neurons h of layer i are replaced by ``sqrt(Λ_i) h``, so that the optimal multipliers of
    deep networks, which span many orders of magnitude, are all near one.

    Parameters
    ----------
    multipliers : tuple of ndarray of shape (n_i,)
        Positive, divided by ρ.
    rho : float
        Squared bound that they prove.
    """

    multipliers: tuple[NDArray[np.float64], ...]
    rho: float

    def weights(self, chain: Chain) -> list[NDArray[np.float64]]:
        """Return the weights of the equivalent chain; W_L with at most as many rows as columns."""
        roots = [np.ones(chain.widths[0]), *(np.sqrt(lam) for lam in self.multipliers)]
        result = [
            (r[:, None] * W) / before
            for W, before, r in zip(chain.weights[:-1], roots[:-1], roots[1:], strict=True)
        ]
        last = chain.weights[-1] / roots[-1] / np.sqrt(self.rho)
        if last.shape[0] > last.shape[1]:
            last = np.linalg.qr(last, mode="r")
        return [*result, last]

    def original_multipliers(
        self, scaled: Sequence[NDArray[np.float64]], rho: float
    ) -> tuple[NDArray[np.float64], ...]:
        """Return multipliers divided by ρ of the chain itself."""
        return tuple(lam * (s / rho) for lam, s in zip(self.multipliers, scaled, strict=True))

    def original_dual(
        self, X: Sequence[NDArray[np.float64]], X_low: Sequence[NDArray[np.float64]]
    ) -> tuple[NDArray[np.float64], ...]:
        """Return the matrix of the dual program of the chain itself: X_ii, then X_{i-1,i}."""
        roots = [np.ones(len(X[0])), *(1.0 / np.sqrt(lam) for lam in self.multipliers)]
        diagonal = [A * np.multiply.outer(r, r) for A, r in zip(X, roots, strict=True)]
        above = [
            (A * np.multiply.outer(r, s)).T
            for A, r, s in zip(X_low[1:], roots[1:], roots[:-1], strict=True)
        ]
        return (*diagonal, *above)

    def scaled_dual(
        self, dual: Sequence[NDArray[np.float64]]
    ) -> tuple[list[NDArray[np.float64]], list[NDArray[np.float64]]]:
        """Inverse of `original_dual`: X_ii and X_{i,i-1} of the equivalent chain."""
        n = len(self.multipliers) + 1
        roots = [np.ones(len(dual[0])), *(np.sqrt(lam) for lam in self.multipliers)]
        X = [A * np.multiply.outer(r, r) for A, r in zip(dual[:n], roots, strict=True)]
        low = [
            A.T * np.multiply.outer(r, s)
            for A, r, s in zip(dual[n:], roots[1:], roots[:-1], strict=True)
        ]
        return X, [X[0], *low]
