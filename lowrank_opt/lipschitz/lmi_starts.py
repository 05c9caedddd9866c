"""Feasible multipliers, layer by layer, for inequalities of networks without loops."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp
from scipy.linalg import solve_triangular
from scipy.sparse.linalg import ArpackError, LinearOperator, eigsh

from lowrank_opt.lipschitz.factorisations import cholesky

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lowrank_opt.lipschitz.lmi_operator import Operator

__all__ = ["layered_multipliers"]

_SMALL = 40  # order up to which all eigenvalues are as cheap as one


def layered_multipliers(operator: Operator) -> NDArray[np.float64] | None:
    r"""Return multipliers that keep E + A*(u) definite, equal within each layer.

    The variables of one layer occur in its own terms, and in those of later layers. With the
    inequality K of the layers before and u times the layer's terms A, whose block of the layer
    itself is diagonal, D, definiteness means K ≻ u N with N = A_{12} D⁻¹ A_{21} - A_{11}; u is
    half of what is possible. On a feed-forward ReLU network these are the multipliers of
    ECLipsE-Fast [1]_.

    Parameters
    ----------
    operator : Operator
        The inequality.

    Returns
    -------
    ndarray of shape (k,) or None
        ``None`` if the network has loops, or other terms than activations have.

    Notes
    -----
    Cost: a Cholesky factorisation of the matrix of the layers so far, for each layer.

    References
    ----------
    .. [1] Y. Xu, S. Sivaranjani, "ECLipsE: efficient compositional Lipschitz constant estimation
       for deep neural networks", NeurIPS 2024.
    """
    if operator.free.any():
        return None
    P = operator.Pt.toarray() if sp.issparse(operator.Pt) else operator.Pt
    Q = operator.Qt
    owner = np.arange(len(P)) if operator.M is None else np.asarray(operator.M.argmax(axis=1))
    owner = owner.ravel()
    used = (P != 0.0) | (Q != 0.0)
    n = operator.d
    if operator.norm == "linf":
        border = int(operator.inputs[-1])
        if border != n - 1:
            return None
        n -= 1
        base = np.isin(owner, owner[used[:, border]])
    else:
        base = np.zeros(len(P), bool)
    layers = _layers(used[:, :n], base)
    if layers is None:
        return None
    u = np.zeros(operator.k)
    u[owner[base]] = 1.0
    K = operator.adjoint(u)[:n, :n]
    K.flat[:: n + 1] += operator.E[:n]
    for first, last, pairs in layers:
        A = P[pairs, :last].T @ Q[pairs, :last]
        A = A + A.T
        D = A[first:, first:]
        own = D.diagonal().copy()
        if not np.all(own > 0.0) or np.count_nonzero(D) > own.size:
            return None
        N = (A[:first, first:] / own) @ A[first:, :first] - A[:first, :first]
        top = _relative_norm(K[:first, :first], N)
        if top is None:
            return None
        size = 0.5 / top if top > 0.0 else 1.0
        u[owner[pairs]] = size
        K[:last, :last] += size * A
    return u


def _layers(
    used: NDArray[np.bool_], base: NDArray[np.bool_]
) -> list[tuple[int, int, NDArray[np.intp]]] | None:
    """Return first and last variable, and pairs, of each layer; None if they are not layers."""
    pairs = np.flatnonzero(~base)
    if pairs.size == 0:
        return []
    if not used[pairs].any(axis=1).all():
        return None
    n = used.shape[1]
    last = n - 1 - np.argmax(used[pairs, ::-1], axis=1)  # each pair's own variable
    order = np.argsort(last, kind="stable")
    last, pairs = last[order], pairs[order]
    first = int(last[0])
    if not np.array_equal(last, np.arange(first, n)):
        return None
    layers, start = [], 0
    for i in range(1, pairs.size + 1):
        closed = i == pairs.size or used[pairs[i], first + start : first + i].any()
        if closed:
            layers.append((first + start, first + i, pairs[start:i]))
            start = i
    return layers


def _relative_norm(K: NDArray[np.float64], N: NDArray[np.float64]) -> float | None:
    """Return the largest eigenvalue of N relative to K."""
    factor = cholesky(K)
    if factor is None:
        return None
    n = len(K)

    def apply(v: NDArray[np.float64]) -> NDArray[np.float64]:
        half = solve_triangular(factor, v, lower=True, trans=1, check_finite=False)
        return solve_triangular(factor, N @ half, lower=True, check_finite=False)

    if n > _SMALL:
        start = np.cos(np.arange(n) + 0.5)  # in no special position
        try:
            w = eigsh(
                LinearOperator((n, n), matvec=apply),
                k=1,
                which="LA",
                v0=start,
                tol=1e-2,
                return_eigenvectors=False,
            )
            return float(w[0]) * 1.05
        except ArpackError:
            pass
    S = apply(np.eye(n))
    return float(np.linalg.eigvalsh(0.5 * (S + S.T))[-1])
