"""NumPy twins of the kernels of robust completion: the same mathematics, one row at a time.

Slow and obvious; the compiled kernels are tested against them. Arguments are those of
:mod:`lowrank_opt.recovery.kernels_robust`, factors need no padding, and nothing is overwritten.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from lowrank_opt.recovery.kernels_robust import HalfReport, Weighting

__all__ = ["clipped_product", "held_mask", "robust_weights", "sweep_rows"]

Array = Any
_MASK = (1 << 64) - 1


def held_mask(size: int, weighting: Weighting) -> Array:
    """Which of the entries, counted by rows, are held out: the finaliser of splitmix64."""
    out = np.zeros(size, dtype=bool)
    for p in range(size):
        z = (p + weighting.salt) * 0x9E3779B97F4A7C15 & _MASK
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & _MASK
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB & _MASK
        out[p] = (z ^ (z >> 31)) < weighting.bound
    return out


def robust_weights(e: Array, held: Array, weights: Array | None, weighting: Weighting) -> Array:
    """Weights of one row's entries, its own threshold included."""
    size, live = np.abs(e), ~held
    delta = float(weighting.delta)
    kept = min(weighting.kept, np.count_nonzero(live))
    while np.count_nonzero(size[live] <= delta) < kept and delta < size[live].max():
        delta *= 2
    w = np.ones(len(e))
    large = size > delta
    w[large] = (delta / size[large]) ** weighting.power
    w *= 1.0 if weights is None else weights
    return np.where(held, 0.0, w)


def sweep_rows(
    indptr: Array, indices: Array, values: Array, residual: Array, F: Array, X: Array,
    weighting: Weighting, *, rank: int, weights: Array | None = None, perm: Array | None = None,
) -> tuple[Array, Array, HalfReport]:  # fmt: skip
    """Return the new factor, the new residual and the report, in float64."""
    F, X, out = F[:, :rank].astype(float), X[:, :rank].astype(float), residual.astype(float)
    held = held_mask(len(values), weighting)
    decrement = mass = 0.0
    damped = 0
    for i in range(len(indptr) - 1):
        entries = slice(indptr[i], indptr[i + 1])
        places = np.arange(len(values))[entries] if perm is None else perm[entries]
        if len(places) == 0:
            X[i] = 0
            continue
        A, b, e = F[indices[entries]], values[entries].astype(float), out[places]
        w = robust_weights(
            e, held[places], None if weights is None else weights[entries], weighting
        )
        G = A.T @ (w[:, None] * A)
        if np.count_nonzero(~held[places]) < rank:  # the least-norm step, which damping approaches
            damped += 1
            d = np.linalg.pinv(G, rcond=1e-12, hermitian=True) @ (A.T @ (w * e))
        else:
            d = np.linalg.solve(G, A.T @ (w * e))
        X[i] += d
        decrement += float(w @ (A @ d) ** 2)
        mass += float(w.sum())
        out[places] = b - A @ X[i]
    return X, out, HalfReport(decrement, mass, damped, 0)


def clipped_product(
    indptr: Array, indices: Array, residual: Array, F: Array, weighting: Weighting, *,
    weights: Array | None = None, perm: Array | None = None,
) -> Array:  # fmt: skip
    """The clipped residual matrix times ``F``, in float64."""
    order = np.arange(len(residual)) if perm is None else perm
    clipped = np.clip(residual[order].astype(float), -weighting.delta, weighting.delta)
    clipped *= 1.0 if weights is None else weights
    clipped *= ~held_mask(len(residual), weighting)[order]
    out = np.zeros((len(indptr) - 1, F.shape[1]))
    for i in range(len(out)):
        entries = slice(indptr[i], indptr[i + 1])
        out[i] = clipped[entries] @ F[indices[entries]].astype(float)
    return out
