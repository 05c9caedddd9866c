"""Linear algebra of the interior point method for groups: blocks, Schur complement, step lengths.

Every layer has one inequality, so matrices are lists with one block for each; the Schur complement
couples the multipliers of neighbouring layers only and is block tridiagonal.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.linalg.lapack import dpotrs

from lowrank_opt.lipschitz.factorisations import cholesky

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from lowrank_opt.lipschitz.group_structure import TiedChain

    Array = NDArray[np.float64]

__all__ = ["Blocks", "longest_step"]

_SHRINK, _BISECTIONS = 0.7, 3


def longest_step(
    blocks: Sequence[Array], steps: Sequence[Array], cap: float, bisections: int = _BISECTIONS
) -> float:
    """Return how far all blocks stay positive definite along their steps, at most `cap`.

    The value is a step that was tested. Small blocks come first, so that large ones are factored
    few times.
    """
    level = cap
    for A, D in sorted(zip(blocks, steps, strict=True), key=lambda pair: len(pair[0])):
        if cholesky(A + level * D) is not None:
            continue
        high, low = level, 0.0
        trial = _SHRINK * level
        while trial > 1e-8:
            if cholesky(A + trial * D) is not None:
                low = trial
                break
            high, trial = trial, _SHRINK * trial
        for _ in range(bisections if low else 0):
            middle = 0.5 * (low + high)
            if cholesky(A + middle * D) is not None:
                low = middle
            else:
                high = middle
        level = low
        if level == 0.0:
            break
    return level


class Blocks:
    """Inequalities of a chain whose weights were scaled by multipliers near the optimum.

    Parameters
    ----------
    chain : TiedChain
        The network.
    weights : sequence of ndarray of shape (n_i, n_{i-1})
        Its scaled weights A_i.
    cost : ndarray of shape (n_runs,)
        Objective c of layer 0.
    """

    def __init__(self, chain: TiedChain, weights: Sequence[Array], cost: Array) -> None:
        self.chain = chain
        self.weights = [np.ascontiguousarray(W) for W in weights]
        self.cost = cost
        self.depth = len(self.weights)
        self.order = sum(W.shape[1] for W in self.weights)

    def matrices(self, y: Sequence[Array], last: float) -> list[Array]:
        """Return diag(t_{i-1}) - A_iᵀ diag(t_i) A_i; `last` is t_L, 1 for points, 0 for steps."""
        out = []
        for i, A in enumerate(self.weights):
            M = np.zeros((A.shape[1], A.shape[1]))
            if i + 1 < self.depth:
                t = self.chain.spread(y[i + 1], i + 1)
                M -= A.T @ (t[:, None] * A)
            elif last:
                M -= last * (A.T @ A)
            M[np.diag_indices(len(M))] += self.chain.spread(y[i], i)
            out.append(M)
        return out

    def adjoint(self, X: Sequence[Array]) -> list[Array]:
        """Return the coefficients of y in the sum of the inner products with the inequalities."""
        out = []
        for i, B in enumerate(X):
            value = self.chain.total(np.diagonal(B).copy(), i)
            if i:
                A = self.weights[i - 1]
                value -= self.chain.total(np.einsum("ij,ij->i", A @ X[i - 1], A), i)
            out.append(value)
        return out

    def schur(self, X: Sequence[Array], Z: Sequence[Array]) -> Schur:
        """Return the factored Schur complement at X with the inverses Z of the inequalities."""
        diagonal: list[Any] = [None] * self.depth
        beside: list[Any] = [None] * self.depth
        P, Q = [], []
        for i, A in enumerate(self.weights):
            own = self._pairs(X[i] * Z[i], i, i)
            diagonal[i] = own if diagonal[i] is None else diagonal[i] + own
            P.append(X[i] @ A.T)
            Q.append(Z[i] @ A.T)
            if i + 1 < self.depth:
                beside[i] = -self._pairs(P[i] * Q[i], i, i + 1)
                diagonal[i + 1] = self._pairs((A @ P[i]) * (A @ Q[i]), i + 1, i + 1)
        return Schur(diagonal, beside, P, Q)

    def _pairs(self, H: Array, rows: int, columns: int) -> Array:
        return self.chain.total(self.chain.total(H, rows).T, columns).T

    def curved(
        self,
        X: Sequence[Array],
        P: Sequence[Array],
        Z: Sequence[Array],
        Q: Sequence[Array],
        dy: Sequence[Array],
    ) -> list[Array]:
        """Return the symmetric parts of X dM Z for dM of `dy`; P = X Aᵀ and Q = Z Aᵀ."""
        out = []
        for i in range(self.depth):
            T = (X[i] * self.chain.spread(dy[i], i)) @ Z[i]
            if i + 1 < self.depth:
                T -= (P[i] * self.chain.spread(dy[i + 1], i + 1)) @ Q[i].T
            T += T.T.copy()
            T *= 0.5
            out.append(T)
        return out


class Schur:
    """Factored block tridiagonal matrix.

    Parameters
    ----------
    diagonal : list of ndarray of shape (n_i, n_i)
        Diagonal blocks.
    beside : list of ndarray of shape (n_i, n_{i+1})
        Blocks above the diagonal; the last is not used.
    P, Q : list of ndarray
        Products X Aᵀ and Z Aᵀ, kept for the directions.

    Attributes
    ----------
    ok : bool
        Whether the factorisation succeeded.
    """

    def __init__(
        self, diagonal: list[Array], beside: list[Array], P: list[Array], Q: list[Array]
    ) -> None:
        self.P, self.Q = P, Q
        n = len(diagonal)
        self.scales = [1.0 / np.sqrt(np.maximum(np.diagonal(D), 1e-300)) for D in diagonal]
        self.factors: list[Any] = [None] * n
        self.links: list[Any] = [None] * n
        self.diagonal, self.beside = diagonal, beside
        self.ok = False
        S = self._scaled(diagonal[-1], n - 1, n - 1)
        for i in range(n - 1, -1, -1):
            factor = None
            for shift in (0.0, 1e-15, 1e-13, 1e-11, 1e-9):
                if shift:
                    S[np.diag_indices(len(S))] += shift
                factor = cholesky(S)
                if factor is not None:
                    break
            if factor is None:
                return
            self.factors[i] = factor
            if i:
                E = self._scaled(beside[i - 1], i - 1, i)
                self.links[i], _ = dpotrs(factor, E.T, lower=1)
                S = self._scaled(diagonal[i - 1], i - 1, i - 1) - E @ self.links[i]
        self.ok = True

    def _scaled(self, B: Array, i: int, j: int) -> Array:
        return np.asarray(B * self.scales[i][:, None] * self.scales[j])

    def _once(self, rhs: Sequence[Array]) -> list[Array]:
        r = [s * a for s, a in zip(self.scales, rhs, strict=True)]
        n = len(r)
        for i in range(n - 1, 0, -1):
            r[i - 1] = r[i - 1] - self.links[i].T @ r[i]
        u: list[Array] = []
        for i in range(n):
            x, _ = dpotrs(self.factors[i], r[i], lower=1)
            if i:
                x = x - self.links[i] @ u[i - 1]
            u.append(x)
        return [s * a for s, a in zip(self.scales, u, strict=True)]

    def _residual(self, rhs: Sequence[Array], u: Sequence[Array]) -> list[Array]:
        out = []
        for i, D in enumerate(self.diagonal):
            r = rhs[i] - D @ u[i]
            if i:
                r -= self.beside[i - 1].T @ u[i - 1]
            if i + 1 < len(u):
                r -= self.beside[i] @ u[i + 1]
            out.append(r)
        return out

    def solve(self, rhs: Sequence[Array], sweeps: int = 2) -> list[Array]:
        """Return the solution, after some steps of iterative refinement."""
        u = self._once(rhs)
        for _ in range(sweeps):
            u = [a + b for a, b in zip(u, self._once(self._residual(rhs, u)), strict=True)]
        return u


def inner(X: Sequence[Array], M: Sequence[Array]) -> float:
    """Return the sum of the inner products of blocks."""
    return math.fsum(float(np.vdot(a, b)) for a, b in zip(X, M, strict=True))
