"""The semidefinite program of a chain, as operations on the blocks of its matrices."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.linalg import lapack

from lowrank_opt.lipschitz.chain_blocks import Direction, factor
from lowrank_opt.lipschitz.factorisations import cholesky, half_solve, solve

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from lowrank_opt.lipschitz.chain_blocks import Blocks, Transfers

__all__ = ["ChainOperator"]


class ChainOperator:
    r"""Constraint matrices of the program, applied without being formed.

    .. math:: \min \rho \quad \text{s.t.} \quad
        S = \rho E_0 + \sum_j \lambda_j (p_j q_j^\top + q_j p_j^\top) - C \succeq 0,
        \quad \lambda \ge 0,

    with ``p_j = e_j - alpha_j w_j``, ``q_j = e_j - w_j``, ``C = W_Lᵀ W_L`` in the last block, and
    with λ equal on each layer for the structure "layer".

    Parameters
    ----------
    weights : sequence of ndarray of shape (n_i, n_{i-1})
        W_1, …, W_L; at least two.
    alpha : sequence of ndarray of shape (n_i,)
        Smallest slopes of the hidden layers.
    structure : {"neuron", "layer"}, default="neuron"
        Whether each neuron or each layer has a multiplier.
    """

    def __init__(
        self,
        weights: Sequence[NDArray[np.float64]],
        alpha: Sequence[NDArray[np.float64]],
        structure: str = "neuron",
    ) -> None:
        self.W = [np.zeros((0, 0)), *(np.ascontiguousarray(W) for W in weights[:-1])]
        self.out = np.ascontiguousarray(weights[-1])
        self.C = np.dot(self.out.T, self.out)
        self.n_layers = len(self.W)
        self.widths = [self.W[1].shape[1], *(len(W) for W in self.W[1:])]
        self.ends = np.concatenate([[0, 0], np.cumsum(self.widths[1:])])
        self.n_hidden = int(self.ends[-1])
        self.per_layer = structure == "layer"
        self.alpha: list[Any] = [None, *(a if np.any(a) else None for a in alpha)]
        self.plain = all(a is None for a in self.alpha)
        self.gain: list[Any] = [1.0, *(1.0 if a is None else 1.0 + a for a in self.alpha[1:])]
        self.minus_gained = [W if i == 0 else -W.T * self.gain[i] for i, W in enumerate(self.W)]
        self.gram = np.dot(self.W[1], self.W[1].T) if self.plain else None
        self.eye = np.eye(self.widths[0])
        self.n_multipliers = self.n_layers - 1 if self.per_layer else self.n_hidden
        self.order = sum(self.widths) + self.n_multipliers  # of the cone, ν

    def layer(self, v: NDArray[np.float64], i: int) -> NDArray[np.float64]:
        """Return the entries of hidden layer i >= 1 of a vector over the neurons."""
        return v[self.ends[i] : self.ends[i + 1]]

    def lift(self, u: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return one multiplier for each neuron."""
        return np.repeat(u, self.widths[1:]) if self.per_layer else u

    def gather(self, v: NDArray[np.float64]) -> NDArray[np.float64]:
        """Transpose of `lift`."""
        return np.add.reduceat(v, self.ends[1:-1]) if self.per_layer else v

    def blocks(
        self, rho: float, u: NDArray[np.float64], *, output: bool = True
    ) -> tuple[Blocks, Blocks]:
        """Return the blocks of S, without C if not `output`: linear in (rho, u) then."""
        lam = self.lift(u)
        diagonal, low = [rho * self.eye], [self.eye]
        for i in range(1, self.n_layers):
            at = self.layer(lam, i)
            low.append((self.minus_gained[i] * at).T)
            D = np.zeros((len(at), len(at)))
            D.flat[:: len(at) + 1] = 2.0 * at
            diagonal.append(D)
            if self.alpha[i] is not None:
                W = self.W[i]
                diagonal[i - 1] += np.dot(W.T * (2.0 * self.alpha[i] * at), W)
        if output:
            diagonal[-1] -= self.C
        low = [low[0], *(np.ascontiguousarray(A) for A in low[1:])]
        return diagonal, low

    def direction(self, rho: float, u: NDArray[np.float64]) -> Direction:
        """Return the part of `blocks` that is linear, with what makes products with it cheap."""
        D, D_low = self.blocks(rho, u, output=False)
        lam = self.lift(u)
        scale = [lam[:0]]
        scale += [self.gain[i] * self.layer(lam, i) for i in range(1, self.n_layers)]
        diagonal = (rho, 2.0 * self.layer(lam, self.n_layers - 1)) if self.plain else None
        return Direction(D, D_low, scale, diagonal)

    def values(self, A: Blocks, A_low: Blocks) -> NDArray[np.float64]:
        """Return ⟨E_0, A⟩ and ⟨A_j, A⟩ (summed over a layer for "layer"), shape (1 + m,)."""
        result = np.empty(1 + self.n_hidden)
        result[0] = np.trace(A[0])
        for i in range(1, self.n_layers):
            W = self.W[i]
            v = A[i].diagonal() - self.gain[i] * np.einsum("ij,ij->i", W, A_low[i])
            if self.alpha[i] is not None:
                v = v + self.alpha[i] * np.einsum("ij,ij->i", np.dot(W, A[i - 1]), W)
            result[1 + self.ends[i] : 1 + self.ends[i + 1]] = 2.0 * v
        if not self.per_layer:
            return result
        return np.concatenate([result[:1], self.gather(result[1:])])

    def output_value(self, A: Blocks) -> float:
        """Return ⟨C, A⟩."""
        return float(np.vdot(np.dot(self.out, A[-1]), self.out))

    def schur(self, t: Transfers, X: Blocks, X_low: Blocks) -> NDArray[np.float64]:
        """Return B with the entries tr(A_j X A_k Z) in its lower triangle, C order.

        Panels of one layer's rows follow from the panel before by two products, so that the
        cost is 4 d² n flops for each of X and Z, and 4 products for each entry of B.
        """
        Z, Z_low = t.inverse.Z, t.inverse.Z_low
        m = self.n_hidden
        B = np.zeros((1 + m, 1 + m)) if self.per_layer else np.empty((1 + m, 1 + m))
        B[0, 0] = np.vdot(X[0], Z[0])
        rows: dict[str, Any] = {"X": (X[0], None, None), "Z": (Z[0], None, None)}
        for j in range(1, self.n_layers):
            s, e = self.ends[j], self.ends[j + 1]
            panels = {}
            for name, A, A_low in (("X", X, X_low), ("Z", Z, Z_low)):
                move = None
                if j > 1:
                    move = t.right[j - 1].T if name == "X" else t.inverse.down[j]
                panels[name], rows[name] = self._panel(j, A, A_low, rows[name], move)
            x, z = panels["X"], panels["Z"]
            B[1 + s : 1 + e, 0] = np.einsum("ij,ij->i", x[0][0], z[0][1])
            B[1 + s : 1 + e, 0] += np.einsum("ij,ij->i", x[0][1], z[0][0])
            for part, columns in ((1, slice(1, 1 + s)), (2, slice(1 + s, 1 + e))):
                if columns.start == columns.stop:
                    continue
                (xpp, xpq, xqp, xqq), (zpp, zpq, zqp, zqq) = x[part], z[part]
                target = B[1 + s : 1 + e, columns]
                np.multiply(xqp, zpq, out=target)
                work = xqq * zpp
                target += work
                target += np.multiply(xpp, zqq, out=work)
                target += np.multiply(xpq, zqp, out=work)
        if not self.per_layer:
            return B
        B = np.tril(B) + np.tril(B, -1).T
        at = np.concatenate([[0], 1 + self.ends[1:-1]])
        return np.add.reduceat(np.add.reduceat(B, at, axis=0), at, axis=1)

    def _panel(self, j: int, A: Blocks, A_low: Blocks, before: Any, move: Any) -> tuple[Any, Any]:
        """Return products with p and q of the neurons of layer j, transposed: rows are theirs.

        The first part pairs them with inputs (p, q), the second with earlier neurons (pp, pq, qp,
        qq: first the earlier neuron's, then theirs), the third with each other. `before` holds
        columns of layer j - 1 of A itself, with rows for inputs and earlier neurons' p and q.
        """
        W, a = self.W[j], self.alpha[j]
        inputs, rows_p, rows_q = before
        n, s = len(W), self.ends[j]

        def combined(
            raw: NDArray[np.float64], R: NDArray[np.float64]
        ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
            """Columns of p and q from the columns of A of layer j and j - 1."""
            WR = np.dot(W, R)
            p = raw if a is None else raw - a[:, None] * WR
            return p, np.subtract(raw, WR, out=WR)

        raw0 = A_low[1] if j == 1 else np.dot(move, inputs)
        first = combined(raw0, inputs)
        next_p = np.empty((n, s + n))
        next_q = np.empty((n, s + n))
        second = None
        if j > 1:
            np.matmul(move, rows_p, out=next_p[:, :s])
            np.matmul(move, rows_q, out=next_q[:, :s])
            second = (*combined(next_p[:, :s], rows_p), *combined(next_q[:, :s], rows_q))
        AW = np.dot(A_low[j], W.T)
        WAW = np.dot(np.dot(W, A[j - 1]), W.T)
        own = A[j]
        q = own - AW
        p = own if a is None else own - AW * a
        if a is None:
            third = (own, q.T, q, q - AW.T + WAW)
        else:
            pq = p - AW.T + WAW * a
            pp = p - a[:, None] * AW.T + a[:, None] * WAW * a
            third = (pp, pq, pq.T, q - AW.T + WAW)
        next_p[:, s:], next_q[:, s:] = p, q
        return (first, second, third), (raw0, next_p, next_q)

    def positive(self, rho: float, u: NDArray[np.float64]) -> bool:
        """Whether S has a Cholesky factor."""
        if not self.plain:
            return factor(*self.blocks(rho, u)) is not None
        lam = self.lift(u)
        at = self.layer(lam, 1)
        F = self.gram * np.multiply.outer(at / -rho, at)
        for i in range(1, self.n_layers):
            F.flat[:: len(F) + 1] += 2.0 * at
            if i == self.n_layers - 1:
                F -= self.C
            c = cholesky(F, overwrite=True)
            if c is None or i == self.n_layers - 1:
                return c is not None
            at = self.layer(lam, i + 1)
            T = half_solve(c, self.minus_gained[i + 1] * at)
            F = np.dot(T.T, T)
            np.negative(F, out=F)
        return True

    def upper(self, rho: float, factors: tuple[Blocks, Blocks], S: Blocks) -> float:
        """Return the smallest ρ that the multipliers prove, from the factors of S."""
        T = factors[1][-1]
        c = cholesky(S[-1] + self.C - np.dot(T.T, T), overwrite=True)
        if c is None:
            return np.inf
        V = half_solve(c, self.out.T)
        return rho * largest_gram(V)

    def lower(self, X: Blocks, X_low: Blocks) -> tuple[float, Blocks, Blocks]:
        """Return a value at most the optimum, and the feasible point of the dual that has it.

        Each hidden layer is scaled so that its constraints hold: D X D is as definite as X.
        """
        if self.plain:
            return self._lower_plain(X, X_low)
        return self._lower_general(X, X_low)

    def _lower_plain(self, X: Blocks, X_low: Blocks) -> tuple[float, Blocks, Blocks]:
        D = np.full(self.widths[0], 1.0 / np.sqrt(np.trace(X[0])))
        new, new_low = [X[0] * D[0] * D[0]], [X[0]]
        for i in range(1, self.n_layers):
            scaled = X_low[i] * D
            q, d = np.einsum("ij,ij->i", self.W[i], scaled), X[i].diagonal()
            if self.per_layer:
                q, d = np.full(len(q), q.sum()), np.full(len(q), d.sum())
            D = np.divide(q, d, out=np.zeros(len(q)), where=(d > 0.0) & (q > 0.0))
            new.append(X[i] * np.multiply.outer(D, D))
            new_low.append(scaled * D[:, None])
        return self.output_value(new), new, new_low

    def _lower_general(self, X: Blocks, X_low: Blocks) -> tuple[float, Blocks, Blocks]:
        """With slopes between a and 1: h' = m W h'_before + s (h - m W h_before), for Gaussian h.

        Its second moments are those of a linear image; s makes E (h' - m z)² = η² E z² hold.
        """
        f = 1.0 / np.trace(X[0])
        new, new_low = [X[0] * f], [X[0]]
        mixed = X[0] * np.sqrt(f)  # E h'_i h_iᵀ
        for i in range(1, self.n_layers):
            W, a = self.W[i], self.alpha[i]
            if a is None:
                a = np.zeros(len(W))
            MW = 0.5 * (1.0 + a)[:, None] * W
            eta2 = 0.25 * (1.0 - a) ** 2
            if i == 1:
                across = np.sqrt(f) * X_low[1].T
            else:
                c = cholesky(X[i - 1])
                if c is None:
                    return 0.0, [], []
                across = np.dot(mixed, solve(c, X_low[i].T))
            u_h = X[i] - np.dot(MW, X_low[i].T)  # E u_i h_iᵀ
            u_prev = across.T - np.dot(MW, mixed.T)  # E u_i h'_{i-1}ᵀ
            u_u = u_h - np.dot(X_low[i] - np.dot(MW, X[i - 1]), MW.T)
            z = eta2 * np.einsum("ij,ij->i", np.dot(W, new[i - 1]), W)
            d = u_u.diagonal()
            if self.per_layer:
                z, d = np.full(len(z), z.sum()), np.full(len(z), d.sum())
            s = np.sqrt(np.divide(z, d, out=np.zeros(len(z)), where=(d > 0.0) & (z > 0.0)))
            Y = np.dot(MW, new[i - 1]) + s[:, None] * u_prev  # E h'_i h'_{i-1}ᵀ
            V = np.dot(u_prev, MW.T) * s[:, None]
            A = np.dot(np.dot(MW, new[i - 1]), MW.T) + V + V.T + u_u * np.multiply.outer(s, s)
            new.append(0.5 * (A + A.T))
            new_low.append(Y)
            mixed = np.dot(MW, across) + s[:, None] * u_h
        return self.output_value(new), new, new_low


def largest_gram(V: NDArray[np.float64]) -> float:
    """Return the largest eigenvalue of Vᵀ V, from the smaller of the two Gram matrices."""
    if min(V.shape) == 1:
        return float(np.vdot(V, V))
    G = np.dot(V.T, V) if V.shape[0] > V.shape[1] else np.dot(V, V.T)
    w, _, info = lapack.dsyevd(G.T, compute_v=0, lower=1, overwrite_a=1)
    return float(w[-1]) if info == 0 else np.inf
