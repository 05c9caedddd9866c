"""The matrix of the exact penalty form of LipSDP: products, eigenvectors, gradients, repair."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import scipy.linalg as la

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from lowrank_opt.lipschitz.forms import Chain

    Values = NDArray[np.float64]

__all__ = ["Penalty"]

DENSE = 160  # order up to which eigenvectors come from a dense matrix


class Penalty:
    r"""Exact penalty of a chain.

    With increments h of inputs and neurons, u of unit length on the outputs and z = W h,

    .. math:: v^\top C v = 2 u^\top W_L h_{L-1} + \sum_j 2 \lambda_j (h_j - \alpha_j z_j)(z_j - h_j)
        + \kappa_1 (|u|^2 - |h_0|^2) + \sum_j \kappa_{h,j} (m_j |u|^2 - h_j^2) - \kappa_0 |u|^2 ,

    so that half of ``κ_0 + (2 + Σ m_j) max(0, λ_max(C))`` is a bound for all λ, κ >= 0; m_j bounds
    h_j² on the unit ball.

    Parameters
    ----------
    chain : Chain
        The network.

    Attributes
    ----------
    m : list of ndarray of shape (n_i,)
        Bounds of squares.
    total : float
        ``2 + Σ m_j``.
    """

    def __init__(self, chain: Chain) -> None:
        self.chain = chain
        self.W = [np.ascontiguousarray(W) for W in chain.weights]
        self.alpha = chain.alpha
        self.norms = [_norm(W) for W in self.W]
        reach, self.m = 1.0, []
        for W, s in zip(self.W[:-1], self.norms, strict=False):
            self.m.append((W * W).sum(axis=1) * reach)
            reach *= s * s
        self.total = 2.0 + sum(float(m.sum()) for m in self.m)
        self.cuts = np.cumsum([W.shape[1] for W in self.W])[:-1]
        self.order = sum(W.shape[1] for W in self.W) + len(self.W[-1])

    def product_start(self) -> tuple[list[Values], Values]:
        """Return λ and (κ_0, κ_1) at which the penalty is the product of the norms."""
        R = math.prod(self.norms[:-1])
        v = self.norms[-1]
        lam, after = [], 1.0  # the product of the norms between this layer and the last
        for s, a in zip(reversed(self.norms[:-1]), reversed(self.alpha), strict=True):
            lam.append((v / R) * after**2 / (1.0 - a))
            after *= s
        return lam[::-1], np.array([2.0 * R * v, R * v])

    def times(self, lam: Sequence[Values], kappa: Values, v: Values) -> Values:
        """Return C v."""
        h = np.split(v, [*self.cuts, len(v) - len(self.W[-1])])
        u = h.pop()
        ks = self._hidden(kappa)
        corner = kappa[1] - kappa[0] + sum(float(m @ k) for m, k in zip(self.m, ks, strict=True))
        out = [-kappa[1] * h[0], *(-k * x for k, x in zip(ks, h[1:], strict=True))]
        for i, (W, a, s) in enumerate(zip(self.W[:-1], self.alpha, lam, strict=True)):
            z, x = W @ h[i], h[i + 1]
            out[i + 1] += s * ((1.0 + a) * z - 2.0 * x)
            out[i] += W.T @ (s * ((1.0 + a) * x - 2.0 * a * z))
        out[-1] += self.W[-1].T @ u
        return np.concatenate([*out, corner * u + self.W[-1] @ h[-1]])

    def _hidden(self, kappa: Values) -> list[Values]:
        return np.split(kappa[2:], np.cumsum([len(m) for m in self.m])[:-1])

    def matrix(self, lam: Sequence[Values], kappa: Values) -> Values:
        """Return C."""
        ks = self._hidden(kappa)
        corner = kappa[1] - kappa[0] + sum(float(m @ k) for m, k in zip(self.m, ks, strict=True))
        C = np.zeros((self.order, self.order))
        at = [0, *self.cuts, self.order - len(self.W[-1])]
        own = [slice(a, b) for a, b in zip(at, [*at[1:], self.order], strict=True)]
        C[own[0], own[0]] = -kappa[1] * np.eye(self.W[0].shape[1])
        for i, (W, a, s, k) in enumerate(zip(self.W[:-1], self.alpha, lam, ks, strict=True)):
            C[own[i + 1], own[i + 1]] = np.diag(-2.0 * s - k)
            C[own[i + 1], own[i]] = ((1.0 + a) * s)[:, None] * W
            C[own[i], own[i + 1]] = C[own[i + 1], own[i]].T
            if np.any(a):
                C[own[i], own[i]] -= 2.0 * (W.T * (s * a)) @ W
        C[own[-1], own[-1]] = corner * np.eye(len(self.W[-1]))
        C[own[-1], own[-2]] = self.W[-1]
        C[own[-2], own[-1]] = self.W[-1].T
        return C

    def top(
        self, lam: Sequence[Values], kappa: Values, start: Values, steps: int
    ) -> tuple[float, Values]:
        """Return the largest eigenvalue and its unit vector, from a dense matrix or by Lanczos.

        Parameters
        ----------
        lam : sequence of ndarray
            λ.
        kappa : ndarray
            κ.
        start : ndarray of shape (order,)
            First vector for Lanczos.
        steps : int
            Lanczos steps, with full orthogonalisation.
        """
        if self.order <= DENSE:
            n = self.order
            values, V = la.eigh(self.matrix(lam, kappa), subset_by_index=[n - 1, n - 1])
            return float(values[0]), np.asarray(V[:, 0])
        Q = np.zeros((steps, self.order))
        a, b = np.zeros(steps), np.zeros(steps)
        q = start / np.linalg.norm(start)
        used = 0
        for k in range(steps):
            Q[k] = q
            used = k + 1
            r = self.times(lam, kappa, q)
            a[k] = q @ r
            r -= Q[:used].T @ (Q[:used] @ r)
            r -= Q[:used].T @ (Q[:used] @ r)
            b[k] = np.linalg.norm(r)
            if b[k] <= 1e-13 * np.abs(a[:used]).max():
                break
            q = r / b[k]
        values, V = la.eigh_tridiagonal(a[:used], b[: used - 1])
        return float(values[-1]), np.asarray(V[:, -1] @ Q[:used])

    def gradient(self, v: Values) -> tuple[list[Values], Values]:
        """Return the derivatives of the eigenvalue of a unit vector in λ and κ."""
        h = np.split(v, [*self.cuts, len(v) - len(self.W[-1])])
        u = h.pop()
        uu = float(u @ u)
        lam, kappa = [], [-uu, uu - float(h[0] @ h[0])]
        for i, (W, a) in enumerate(zip(self.W[:-1], self.alpha, strict=True)):
            z, x = W @ h[i], h[i + 1]
            lam.append(2.0 * (x - a * z) * (z - x))
        rest = [m * uu - x * x for m, x in zip(self.m, h[1:], strict=True)]
        return lam, np.concatenate([kappa, *rest])

    def least_bound(self, lam: Sequence[Values], k1: float) -> float:
        """Return the smallest κ_0 with C <= 0 for given λ and κ_1, κ_h = 0; infinity if none.

        By the Schur complements of the block tridiagonal matrix. Cost: O(Σ n_i³).
        """
        n = self.W[0].shape[1]
        F = np.zeros((n, n))
        F[np.diag_indices(n)] = k1
        for W, a, s in zip(self.W[:-1], self.alpha, lam, strict=True):
            if np.any(a):
                F = F + 2.0 * (W.T * (s * a)) @ W
            R, info = la.lapack.dpotrf(F, lower=1)
            if info:
                return math.inf
            T = la.solve_triangular(R, W.T * ((1.0 + a) * s), lower=True, check_finite=False)
            F = -(T.T @ T)
            F[np.diag_indices(len(F))] += 2.0 * s
        R, info = la.lapack.dpotrf(F, lower=1)
        if info:
            return math.inf
        T = la.solve_triangular(R, self.W[-1].T, lower=True, check_finite=False)
        G = T.T @ T if T.shape[1] <= T.shape[0] else T @ T.T
        if not np.all(np.isfinite(G)):
            return math.inf
        top = float(la.eigvalsh(G, subset_by_index=[len(G) - 1] * 2)[0])
        return k1 + max(top, 0.0)

    def repair(self, lam: Sequence[Values], k1: float) -> tuple[float, float, float]:
        """Return the best κ_0, κ_1 with C <= 0 for λ and a scale of λ, near a given κ_1.

        Multiplying (λ, κ_1) by t divides what is left for the outputs by t; the sum of both is
        least where they are equal.

        Returns
        -------
        k0, k1, t : float
            ``k0 = inf`` if there is none; λ is to be multiplied by t.
        """
        best = (math.inf, k1, 1.0)
        high = math.log(k1)
        f = self._balanced(lam, k1)
        tries = 0
        while not math.isfinite(f[0]) and tries < 40:  # κ_1 too small for S > 0
            high += 0.5
            tries += 1
            f = self._balanced(lam, math.exp(high))
        if not math.isfinite(f[0]):
            return best
        best = min(best, f)
        # A convex function of κ_1: step down while it falls, then golden section.
        step, at = 0.4, high
        while step > 1e-4:
            moved = False
            for sign in (-1.0, 1.0):
                g = self._balanced(lam, math.exp(at + sign * step))
                if g[0] < best[0]:
                    best, at, moved = g, at + sign * step, True
                    break
            step = 1.5 * step if moved and step < 0.4 else step * (1.0 if moved else 0.3)
        return best

    def _balanced(self, lam: Sequence[Values], k1: float) -> tuple[float, float, float]:
        k0 = self.least_bound(lam, k1)
        rest = k0 - k1
        if not math.isfinite(k0) or rest <= 0.0:
            return math.inf, k1, 1.0
        t = math.sqrt(rest / k1)
        return 2.0 * math.sqrt(rest * k1), k1 * t, t


def _norm(W: Values) -> float:
    G = W @ W.T if W.shape[0] <= W.shape[1] else W.T @ W
    return math.sqrt(max(float(la.eigvalsh(G, subset_by_index=[len(G) - 1] * 2)[0]), 0.0))
