"""Block coordinate descent on quadratic models in plain NumPy, with a dense design.

Twins of the kernels, see there. Arrays are (k, n) and (p, k); blocks are lists of features.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from lowrank_opt.numerics.penalties import L1, MCP, SCAD, Box, GroupL1, NonNegative

__all__ = [
    "block_bounds", "distances", "largest_ratio", "penalty_of", "prox_of", "sweep_gram",
    "sweep_model",
]  # fmt: skip

_TURNS = 8


def penalty_of(rule: Any, index: int, size: int) -> Any:
    """Penalty of a block of `size` numbers (a group), or of the number `index`."""
    limit = float(rule.limits[index if rule.limits.size > 1 else 0])
    if rule.kind == 1:
        return GroupL1(limit, np.zeros(size, int), None, rule.positive)
    if rule.kind == 2:
        return Box(rule.low, rule.high)
    if rule.kind == 3:
        return MCP(limit, rule.gamma)
    if rule.kind == 4:
        return SCAD(limit, rule.gamma)
    return NonNegative(limit) if rule.positive else L1(limit)


def prox_of(rule: Any, b: int, z: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """Prox of block b at `z` (m, k), with the steps of the outputs."""
    if rule.kind == 1:
        flat = penalty_of(rule, b, z.size).prox(z.ravel(), steps[0])
        return flat.reshape(z.shape)
    k = z.shape[1]
    return np.array(
        [[penalty_of(rule, b * k + c, 1).prox(z[0, c], steps[c]) for c in range(k)]], float
    )


def block_bounds(X: Any, blocks: list[Any], h: Any, total: float) -> np.ndarray:
    """Largest eigenvalues of ``X_b' diag(h) X_b``, with centred columns if ``total > 0``."""
    out = []
    for features in blocks:
        A = X[:, features]
        if total > 0:
            A = A - (h @ A) / total
        out.append(np.linalg.eigvalsh((A.T * h) @ A)[-1])
    return np.array(out)


def curve(h: Any, P: Any, U: np.ndarray) -> np.ndarray:
    """``W U``, the change of the slopes for a change of the predictors."""
    if P.size:
        return np.asarray(h * P * (U - np.sum(P * U, axis=0)))
    return np.asarray(h * U)


def sweep_model(
    X: Any, blocks: list[Any], w: Any, V: Any, h: Any, P: Any, total: float, inverse: Any,
    bounds: Any, refined: bool, rule: Any, mu: float, sweeps: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # fmt: skip
    """Return coefficients, slopes and the change of the intercepts after some sweeps."""
    w, V = w.copy(), V.copy()
    k = len(V)
    shift = np.zeros(k)
    for _ in range(sweeps):
        for b, features in enumerate(blocks):
            A = X[:, features]
            steps = 1.0 / (np.broadcast_to(bounds[b], k) + mu)
            centred = A - (h @ A) / total if total > 0 else A
            gradient = A.T @ V.T + mu * w[features]
            old = w[features].copy()
            z = prox_of(rule, b, old - steps * gradient, steps)
            if refined and len(features) > 1:
                H, settled = (centred.T * h) @ centred + mu * np.eye(len(features)), 0.0
                for turn in range(_TURNS):
                    new = prox_of(rule, b, z - steps * (gradient + H @ (z - old)), steps)
                    change, z = np.sum((new - z) ** 2), new
                    settled = 1e-4 * change if turn == 0 else settled
                    if change == 0.0 or (turn > 0 and change <= settled):
                        break
            w[features] = z
            V += curve(h, P, (centred @ (z - old)).T)
            if total > 0:
                shift -= (h @ A) @ (z - old) / total
        if inverse.size:
            step = -inverse @ V.sum(axis=1)
            shift += step
            V += curve(h, P, np.repeat(step[:, None], V.shape[1], axis=1))
    return w, V, shift


def sweep_gram(
    H: Any, q: Any, w: Any, ids: Any, ptr: Any, bounds: Any, rule: Any, sweeps: int, inner: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return coefficients and gradient after some sweeps in Gram form."""
    q, w = q.copy(), w.copy()
    for _ in range(sweeps):
        for i, b in enumerate(ids):
            rows = slice(ptr[i], ptr[i + 1])
            old, step = w[rows].copy(), np.full(w.shape[1], 1.0 / bounds[i])
            z = old
            for _ in range(inner if len(old) > 1 else 1):
                z = prox_of(rule, b, z - step * (q[rows] + H[rows, rows] @ (z - old)), step)
            w[rows] = z
            q += H[:, rows] @ (z - old)
    return w, q


def largest_ratio(rule: Any, blocks: list[Any], c: np.ndarray) -> float:
    """Largest ratio of correlations to limits."""
    u = np.maximum(-c, 0.0) if rule.positive else np.abs(c)
    if rule.kind == 1:
        return max(np.linalg.norm(u[f]) / np.resize(rule.limits, len(blocks))[b]
                   for b, f in enumerate(blocks))  # fmt: skip
    limits = rule.limits.reshape(u.shape) if rule.limits.size > 1 else rule.limits
    return float(np.max(u / limits))


def distances(rule: Any, blocks: list[Any], w: np.ndarray, g: np.ndarray) -> np.ndarray:
    """Distances of ``-g`` to the subdifferentials: limits of steps, ``|w - prox(w - t g)| / t``."""
    t, out = 1e-7, []
    for b, features in enumerate(blocks):
        new = prox_of(rule, b, w[features] - t * g[features], np.full(w.shape[1], t))
        move = np.abs(new - w[features]) / t
        out.append(np.linalg.norm(move) if rule.kind == 1 else move.max())
    return np.array(out)
