"""Plain twins of the kernels of ``kernels_descent``: the same mathematics, slow and obvious."""

from __future__ import annotations

from typing import Any

import numpy as np

from lowrank_opt.block_coordinate.losses import loss_slope
from lowrank_opt.numerics.penalties import coordinate_penalty

__all__ = ["greedy_quadratic", "minimize_model", "score", "sweep_glm", "sweep_quadratic", "target"]


def target(pen: Any, i: int, n_penalized: int, now: float, slope: float, constant: float) -> float:
    """New value of a variable: a gradient step of length 1 / constant, and its prox."""
    to = now - slope / constant
    if i < n_penalized:
        return float(coordinate_penalty(pen, i).prox(np.float64(to), 1.0 / constant))
    return to


def sweep_quadratic(
    A: Any, b: Any, x: Any, constants: Any, order: Any, pen: Any, n_penalized: int
) -> Any:
    """Return the point after updating the variables of `order` in turn."""
    x = x.copy()
    for i in order:
        x[i] = target(pen, i, n_penalized, x[i], A[i] @ x - b[i], constants[i])
    return x


def sweep_glm(
    X: Any, y: Any, weights: Any, x: Any, constants: Any, order: Any, l2: float, loss: Any,
    pen: Any, n_penalized: int,
) -> Any:  # fmt: skip
    """Return the point after updating the variables of `order` in turn; X has all columns."""
    x = x.copy()
    ridge = np.where(np.arange(x.size) < n_penalized, l2, 0.0)
    for i in order:
        slopes = weights * loss_slope(loss, y, X @ x)
        slope = X[:, i] @ slopes + ridge[i] * x[i]
        x[i] = target(pen, i, n_penalized, x[i], slope, constants[i])
    return x


def score(
    kind: int, pen: Any, i: int, n_penalized: int, now: float, slope: float, divisor: float
) -> float:
    """Score of a variable, see ``greedy_quadratic_dense``."""
    if kind == 0:
        return slope * slope / divisor
    to = target(pen, i, n_penalized, now, slope, divisor)
    d = to - now
    if kind == 1:
        return d * d
    change = slope * d + 0.5 * divisor * d * d
    if i < n_penalized:
        one = coordinate_penalty(pen, i)
        change += float(one.value(np.float64(to))) - float(one.value(np.float64(now)))
    return max(-change, 0.0)


def greedy_quadratic(
    A: Any, b: Any, x: Any, constants: Any, divisors: Any, kind: int, pen: Any, n_penalized: int,
    n_updates: int,
) -> tuple[Any, list[int]]:  # fmt: skip
    """Return the point after updates of the variable of the largest score, and the variables."""
    x, chosen = x.copy(), []
    for _ in range(n_updates):
        g = A @ x - b
        scores = [score(kind, pen, i, n_penalized, x[i], g[i], divisors[i]) for i in range(x.size)]
        i = int(np.argmax(scores))
        chosen.append(i)
        x[i] = target(pen, i, n_penalized, x[i], g[i], constants[i])
    return x, chosen


def minimize_model(H: Any, q: Any, v: Any, pen: Any, n_penalized: int, n_sweeps: int) -> Any:
    """Return the block after sweeps of coordinate descent on the model of its gradient at `v`."""
    start, v = v, v.copy()
    constants = np.maximum(np.diag(H), 1e-30 * np.diag(H).max())
    for _ in range(n_sweeps):
        for i in range(v.size):
            slope = q[i] + H[i] @ (v - start)
            v[i] = target(pen, i, n_penalized, v[i], slope, constants[i])
    return v
