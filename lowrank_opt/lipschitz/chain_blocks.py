"""Algebra of symmetric block tridiagonal matrices, of their inverses and of completions.

A block tridiagonal matrix S with L blocks is a pair of lists: diagonal blocks ``S[0], …, S[L-1]``
and blocks below it, ``S_low[i]`` in row i and column i - 1 (``S_low[0]`` is ``None``). Of its
inverse Z, and of a matrix X that stands for its completion of largest determinant (whose inverse
is block tridiagonal), only those blocks are kept too; the others follow from

    Z_ab = Z_a,b-1 P_bᵀ,   X_ab = X_a,b-1 X_b-1⁻¹ X_b-1,b      for a < b,

so that sums such as (X D Z)_ab with a block tridiagonal D obey recursions over the layers. Each
function costs a few dozen products of two blocks per layer; no matrix of the full order is formed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np

from lowrank_opt.lipschitz.factorisations import (
    cholesky,
    half_solve,
    inverse_from,
    second_half,
    solve,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "Blocks",
    "Direction",
    "Product",
    "Transfers",
    "cliques",
    "corrector",
    "factor",
    "invert",
    "product",
    "symmetrised",
    "transfers",
]

Blocks: TypeAlias = "list[NDArray[np.float64]]"


def factor(S: Blocks, S_low: Blocks) -> tuple[Blocks, Blocks] | None:
    """Block Cholesky factorisation from the first block on.

    Parameters
    ----------
    S, S_low : list of ndarray
        Block tridiagonal matrix.

    Returns
    -------
    c, T : list of ndarray, or None
        Lower factors of F_0 = S_0 and ``F_i = S_i - T_iᵀ T_i``, and ``T_i = c_{i-1}⁻¹ S_{i-1,i}``;
        ``None``: not positive definite.
    """
    c = cholesky(S[0])
    if c is None:
        return None
    factors, halves = [c], [c[:0]]
    for i in range(1, len(S)):
        T = half_solve(c, S_low[i].T)
        c = cholesky(S[i] - np.dot(T.T, T), overwrite=True)
        if c is None:
            return None
        factors.append(c)
        halves.append(T)
    return factors, halves


class Inverse(NamedTuple):
    """Blocks of Z = S⁻¹ and what moves along its rows and columns.

    Parameters
    ----------
    Z, Z_low : list of ndarray
        Blocks of the inverse.
    up : list of ndarray
        ``up[i] = -F_{i-1}⁻¹ S_{i-1,i}``: ``Z_{i-1,b} = up[i] Z_{i,b}`` for b >= i.
    down : list of ndarray
        ``Z_{i,b} = down[i] Z_{i-1,b}`` for b < i; kept for i >= 2.
    F_inv : list of ndarray
        Inverses of the Schur complements F_i of what comes before; i < L - 1.
    F_bar : list of ndarray
        Lower factors of the Schur complements of what comes after; i >= 2.
    """

    Z: Blocks
    Z_low: Blocks
    up: Blocks
    down: Blocks
    F_inv: Blocks
    F_bar: Blocks


def invert(S: Blocks, S_low: Blocks, factors: tuple[Blocks, Blocks]) -> Inverse | None:
    """Return the inverse's blocks from the factorisation by `factor`; ``None``: it broke down."""
    c, T = factors
    n = len(S)
    none = c[0][:0]
    up, down, low = [none] * n, [none] * n, [none] * n
    F_inv, F_bar = [none] * n, [none] * n
    Z = [none] * n
    Z[-1] = inverse_from(c[-1])
    for i in range(n - 1, 0, -1):
        up[i] = -second_half(c[i - 1], T[i])
        F_inv[i - 1] = inverse_from(c[i - 1])
        low[i] = np.dot(Z[i], up[i].T)
        Z[i - 1] = F_inv[i - 1] + np.dot(up[i], low[i])
    S_bar = S[-1]
    for i in range(n - 1, 1, -1):
        c_bar = cholesky(S_bar)
        if c_bar is None:
            return None
        U = half_solve(c_bar, S_low[i])
        S_bar = S[i - 1] - np.dot(U.T, U)
        F_bar[i] = c_bar
        down[i] = -second_half(c_bar, U)
    return Inverse(Z, low, up, down, F_inv, F_bar)


def clique(
    A_prev: NDArray[np.float64], A_low: NDArray[np.float64], A_next: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the matrix [[A_prev, A_lowᵀ], [A_low, A_next]]."""
    n, m = len(A_prev), len(A_next)
    K = np.empty((n + m, n + m))
    K[:n, :n] = A_prev
    K[n:, :n] = A_low
    K[:n, n:] = A_low.T
    K[n:, n:] = A_next
    return K


def cliques(A: Blocks, A_low: Blocks) -> Blocks:
    """Return the matrices of neighbouring layers (i-1, i), for i = 1, …, L-1 at index i - 1."""
    return [clique(A[i - 1], A_low[i], A[i]) for i in range(1, len(A))]


class Direction(NamedTuple):
    """A block tridiagonal symmetric D whose blocks below the diagonal are ``-s_i W_i``.

    Parameters
    ----------
    D, D_low : list of ndarray
        Its blocks.
    scale : list of ndarray of shape (n_i,)
        s_i, i >= 1.
    diagonal : tuple of (float, ndarray) or None
        If its first and last block are diagonal: the factor of the identity, the diagonal.
    """

    D: Blocks
    D_low: Blocks
    scale: Blocks
    diagonal: tuple[float, NDArray[np.float64]] | None


class Transfers(NamedTuple):
    """X and Z with all that moves products along the layers.

    Parameters
    ----------
    X_cliques, Z_cliques : list of ndarray
        Matrices of neighbouring layers.
    left : list of ndarray
        ``left[i] = X_i⁻¹ X_{i,i-1}``, 1 <= i <= L-2.
    right : list of ndarray
        ``right[i] = X_i⁻¹ X_{i,i+1}``, 1 <= i <= L-2.
    inverse : Inverse
        Blocks of Z.
    W : list of ndarray
        Weights W_i, i >= 1.
    WZ : list of ndarray
        Products of W_i with rows i - 1 of the matrices of Z, at index i - 1.
    """

    X_cliques: Blocks
    Z_cliques: Blocks
    left: Blocks
    right: Blocks
    inverse: Inverse
    W: Blocks
    WZ: Blocks


def transfers(X: Blocks, X_low: Blocks, inverse: Inverse, W: Blocks) -> Transfers | None:
    """Prepare products with the completion of X and with Z; ``None``: a block is not definite."""
    n = len(X)
    none = X[0][:0]
    left, right = [none] * n, [none] * n
    for i in range(1, n - 1):
        c = cholesky(X[i])
        if c is None:
            return None
        both = solve(c, np.concatenate([X_low[i], X_low[i + 1].T], axis=1))
        split = X_low[i].shape[1]
        left[i], right[i] = both[:, :split], both[:, split:]
    Z_cliques = cliques(inverse.Z, inverse.Z_low)
    WZ = [np.dot(V, K[: V.shape[1]]) for V, K in zip(W[1:], Z_cliques, strict=True)]
    return Transfers(cliques(X, X_low), Z_cliques, left, right, inverse, W, WZ)


class Product(NamedTuple):
    """X D Z on the cliques, with what a second product needs.

    Parameters
    ----------
    before, after : list of ndarray
        With ``M_i = [[before_{i-1}, D_lowᵀ], [D_low, after_i]]``: ``(X D Z)_cc = X_cc M_i Z_cc``
        for the layers c = (i-1, i).
    half : list of ndarray
        ``M Z_cc``.
    full : list of ndarray
        ``X_cc M Z_cc``; zero in a first diagonal block that is that of the layers before.
    """

    before: Blocks
    after: Blocks
    half: Blocks
    full: Blocks


def product(t: Transfers, d: Direction, *, whole: bool) -> Product:
    """Return the blocks of X D Z on the cliques.

    Parameters
    ----------
    t : Transfers
        X and Z.
    d : Direction
        D.
    whole : bool
        Whether diagonal blocks that two cliques share are computed in both.
    """
    D, D_low = d.D, d.D_low
    n = len(D)
    up, down = t.inverse.up, t.inverse.down
    before, after = list(D), list(D)
    for i in range(1, n - 1):
        before[i] = (
            D[i]
            + np.dot(t.left[i], D_low[i].T)
            + np.dot(D_low[i] + np.dot(t.left[i], before[i - 1]), up[i])
        )
    for i in range(n - 2, 0, -1):
        after[i] = (
            D[i]
            + np.dot(t.right[i], D_low[i + 1])
            + np.dot(D_low[i + 1].T + np.dot(t.right[i], after[i + 1]), down[i + 1])
        )
    halves, full = [], []
    for i in range(1, n):
        Z, X, s, k = t.Z_cliques[i - 1], t.X_cliques[i - 1], d.scale[i], len(D[i - 1])
        s = s[:, None]
        half = np.empty_like(Z)
        top, low = half[:k], half[k:]
        np.dot(t.W[i].T, s * Z[k:], out=top)
        if i == 1 and d.diagonal is not None:
            np.subtract(d.diagonal[0] * Z[:k], top, out=top)
        else:
            np.subtract(np.dot(before[i - 1], Z[:k]), top, out=top)
        if i == n - 1 and d.diagonal is not None:
            np.multiply(d.diagonal[1][:, None], Z[k:], out=low)
        else:
            np.dot(after[i], Z[k:], out=low)
        low -= s * t.WZ[i - 1]
        halves.append(half)
        if whole or i == 1:
            full.append(np.dot(X, half))
        else:
            T = np.empty_like(Z)
            T[:k, :k] = 0.0
            np.dot(X[k:], half, out=T[k:])
            np.matmul(X[:k], half[:, k:], out=T[:k, k:])
            full.append(T)
    return Product(before, after, halves, full)


def corrector(t: Transfers, X: Blocks, X_low: Blocks, d: Direction, p: Product) -> Blocks:
    """Return the cliques of sym((-X - sym(X D Z)) D Z), from the whole product p of X, D and Z.

    Their first diagonal blocks are not computed where they are those of the layers before.
    """
    D, D_low = d.D, d.D_low
    n = len(D)
    up, down, F_inv, F_bar = t.inverse.up, t.inverse.down, t.inverse.F_inv, t.inverse.F_bar
    # Of Z D Z, X D Z D Z and Z D X D Z: what lies before a layer, then what lies after it. The
    # last two are differences to products of the first ones, which vanish at the ends.
    zz_before, zz_after = list(D), list(D)
    xz_before, xz_after = [D[0][:0]] * n, [D[0][:0]] * n
    zx_before, zx_after = [D[0][:0]] * n, [D[0][:0]] * n
    for i in range(1, n - 1):
        m, q = p.before[i - 1], up[i]
        right = np.dot(zz_before[i - 1], q) + D_low[i].T
        zz_before[i] = D[i] + np.dot(D_low[i], q) + np.dot(q.T, right)
        delta = np.dot(np.dot(np.dot(t.left[i], m) + D_low[i], F_inv[i - 1]), right)
        mq = np.dot(m, q) + D_low[i].T
        E = X[i - 1] - np.dot(X_low[i].T, t.left[i])
        kappa = np.dot(mq.T, np.dot(E, mq))
        if i > 1:
            delta += np.dot(t.left[i], np.dot(xz_before[i - 1], q))
            kappa += np.dot(q.T, np.dot(zx_before[i - 1], q))
        xz_before[i], zx_before[i] = delta, kappa
    for i in range(n - 2, 0, -1):
        m, q = p.after[i + 1], down[i + 1]
        right = np.dot(zz_after[i + 1], q) + D_low[i + 1]
        zz_after[i] = D[i] + np.dot(D_low[i + 1].T, q) + np.dot(q.T, right)
        delta = np.dot(np.dot(t.right[i], m) + D_low[i + 1].T, solve(F_bar[i + 1], right))
        mq = np.dot(m, q) + D_low[i + 1]
        E = X[i + 1] - np.dot(X_low[i + 1], t.right[i])
        kappa = np.dot(mq.T, np.dot(E, mq))
        if i < n - 2:
            delta += np.dot(t.right[i], np.dot(xz_after[i + 1], q))
            kappa += np.dot(q.T, np.dot(zx_after[i + 1], q))
        xz_after[i], zx_after[i] = delta, kappa
    result = []
    for i in range(1, n):
        k = len(D[i - 1])
        X_c, Z_c, T, s = t.X_cliques[i - 1], t.Z_cliques[i - 1], p.full[i - 1], d.scale[i]
        half = p.half[i - 1]
        A = np.empty_like(Z_c)
        first, last = A[:, :k], A[:, k:]
        np.matmul(T[:, k:] * s, t.W[i], out=first)
        if i == 1 and d.diagonal is not None:
            np.subtract(d.diagonal[0] * T[:, :k], first, out=first)
        else:
            np.subtract(np.dot(T[:, :k], zz_before[i - 1]), first, out=first)
        np.matmul(T[:, :k], t.W[i].T, out=last)
        last *= -s
        last += T[:, k:] * d.diagonal[1] if i == n - 1 and d.diagonal else T[:, k:] @ zz_after[i]
        if i > 1:
            first += np.dot(X_c[:, :k], xz_before[i - 1])
            first += np.dot(Z_c[:, :k], zx_before[i - 1])
        if i < n - 1:
            last += np.dot(X_c[:, k:], xz_after[i])
            last += np.dot(Z_c[:, k:], zx_after[i])
        if i == 1:
            K = np.dot(A, Z_c)
            K += np.dot(half.T, T)
        else:
            K = np.empty_like(Z_c)
            K[:k, :k] = 0.0
            np.dot(A[k:], Z_c, out=K[k:])
            np.matmul(A[:k], Z_c[:, k:], out=K[:k, k:])
            K[k:] += np.dot(half[:, k:].T, T)
            K[:k, k:] += np.dot(half[:, :k].T, T[:, k:])
        K += 2.0 * T
        result.append(symmetrised(K, -0.25, k, whole=i == 1))
    return result


def symmetrised(
    K: NDArray[np.float64], factor: float, k: int, *, whole: bool
) -> NDArray[np.float64]:
    """Return ``factor (K + Kᵀ)`` in place, without the first k rows and columns unless `whole`."""
    if whole:
        K += K.T.copy()
        K *= factor
        return K
    low, diagonal = K[k:, :k], K[k:, k:]
    low += K[:k, k:].T
    low *= factor
    K[:k, k:] = low.T
    diagonal += diagonal.T.copy()
    diagonal *= factor
    return K
