"""Prototype clustering in array-API code: one problem, or many at once along leading axes.

The plain form of the kernels, for tests and for other array libraries. Affinities are dense
(..., N, N) arrays; for numpy also sparse matrices (N, N).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from lowrank_opt.numerics._arrays import device, namespace

__all__ = ["assign", "class_means", "relaxed_objective", "squared_distances"]


def squared_distances(F: Any, prototypes: Any) -> Any:
    """Return |f_p - m_k|^2, of shape (..., N, K), from the differences of coordinates."""
    xp = namespace(F, prototypes)
    step = F[..., :, None, :] - prototypes[..., None, :, :]
    return xp.sum(step * step, axis=-1)


def assign(S: Any, cost: Any, pull: Any, lam: float, shift: Any, temperature: float) -> Any:
    """Return the minimiser over the simplex of the bound of every row.

    Parameters
    ----------
    S, cost, pull : array of shape (..., N, K)
        Assignments, costs, and the product of affinity and assignments.
    lam, temperature : float
        Weights of the affinity and of the entropy.
    shift : array of shape (..., N)
        Added to the diagonal of the affinity.
    """
    xp = namespace(S)
    z = lam * (pull + shift[..., None] * S) - cost
    top = xp.max(z, axis=-1, keepdims=True)
    if temperature == 0.0:
        # Of the best ones the one where the row is now, else the first.
        kind = xp.astype(z == top, S.dtype)
        chosen = xp.argmax(kind * (1.0 + S), axis=-1)
        place = {} if isinstance(S, np.ndarray) else {"device": device(S)}
        clusters = xp.arange(S.shape[-1], dtype=chosen.dtype, **place)
        return xp.astype(chosen[..., None] == clusters, S.dtype)
    weights = xp.exp((z - top) / temperature)
    return weights / xp.sum(weights, axis=-1, keepdims=True)


def class_means(S: Any, F: Any) -> Any:
    """Return the means of the points, weighted by their assignments, of shape (..., K, d)."""
    xp = namespace(S, F)
    mass = xp.sum(S, axis=-2)
    return (xp.matrix_transpose(S) @ F) / mass[..., :, None]


def relaxed_objective(
    S: Any, cost: Any, pull: Any, lam: float, shift: Any, temperature: float
) -> Any:
    """Return entropy, costs and pairwise term of the assignments, of shape (...)."""
    xp = namespace(S)
    logs = xp.where(S > 0, xp.log(xp.where(S > 0, S, xp.ones_like(S))), xp.zeros_like(S))
    row = temperature * S * logs + S * cost - 0.5 * lam * S * (pull + shift[..., None] * S)
    return xp.sum(xp.sum(row, axis=-1), axis=-1)
