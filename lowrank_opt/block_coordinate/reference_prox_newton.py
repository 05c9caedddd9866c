"""What the loops of proximal Newton steps compute, in NumPy; see ``kernels_prox_newton``.

Designs are dense here.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from lowrank_opt.block_coordinate.losses import (
    loss_conjugate,
    loss_curvature,
    loss_slope,
    loss_value,
)

__all__ = [
    "balance",
    "dual_value",
    "gram",
    "gram_descent",
    "huber_curvature",
    "penalty_along",
    "row_work",
    "sample_terms",
    "scan",
    "screen",
    "select",
    "shift_sums",
    "sweep",
]


def sample_terms(loss: Any, y: Any, s: Any, at: Any) -> tuple[float, Any, Any]:
    """Weighted value, and first and second derivatives, at the predictors."""
    s = s if s.size else np.ones(y.size)
    value = float(s @ loss_value(loss, y, at))
    return value, s * loss_slope(loss, y, at), s * loss_curvature(loss, y, at)


def shift_sums(loss: Any, y: Any, s: Any, z: Any, shift: float) -> tuple[float, float, float]:
    """Sums of first and second derivatives at ``z + shift``, and of sizes of the first."""
    _, g, h = sample_terms(loss, y, s, z + shift)
    return float(g.sum()), float(h.sum()), float(np.abs(g).sum())


def huber_curvature(y: Any, s: Any, z: Any, delta: float, part: float) -> Any:
    """Curvatures of a model of Huber's loss, `part` of the secant's outside its quadratic part."""
    size = np.abs(z - y)
    weight = s if s.size else np.ones(y.size)
    return weight * np.where(size < delta, 1.0, part * delta / np.where(size > 0, size, 1.0))


def balance(g: Any) -> Any:
    """The larger-signed side shrunk so that the sum is 0."""
    above, below = g[g > 0].sum(), -g[g < 0].sum()
    least = min(above, below)
    up = least / above if above > 0 else 0.0
    down = least / below if below > 0 else 0.0
    return np.where(g > 0, up * g, down * g)


def dual_value(loss: Any, y: Any, s: Any, theta: Any, t: float) -> float:
    """Minus the sum of the conjugates at ``t * theta``, weights being in theta."""
    s = s if s.size else np.ones(y.size)
    live = s > 0
    return -float(s[live] @ loss_conjugate(loss, y[live], t * theta[live] / s[live]))


def scan(
    c: Any, w: Any, limits: Any, mu: float, positive: bool
) -> tuple[float, float, float, float, int]:
    """Ratios to the limits, penalty, distance to the subdifferential, nonzero coefficients."""
    u = c + mu * w
    size = (lambda v: -v) if positive else np.abs
    some = limits > 0
    plain = max(float(np.max(size(c)[some] / limits[some], initial=0.0)), 0.0)
    shifted = max(float(np.max(size(u)[some] / limits[some], initial=0.0)), 0.0)
    penalty = float(limits @ np.abs(w)) + 0.5 * mu * float(w @ w)
    distance = np.where(w != 0, np.abs(u + limits * np.sign(w)), size(u) - limits)
    return plain, shifted, penalty, max(float(distance.max()), 0.0), int(np.count_nonzero(w))


def screen(
    c: Any, w: Any, squares: Any, limits: Any, t: float, radius: float, positive: bool, alive: Any
) -> Any:
    """Columns that are not proved to have coefficient 0."""
    size = t * (-c if positive else np.abs(c))
    keep = (w != 0) | (size + np.sqrt(squares) * radius >= limits)
    return alive[keep[alive]]


def select(
    c: Any, w: Any, squares: Any, limits: Any, t: float, part: float, positive: bool, alive: Any
) -> tuple[Any, Any]:
    """Candidates, and how far they are from moving."""
    size = t * (-c if positive else np.abs(c))
    first = (w != 0) | ((limits == 0) & ((size > 0) | (not positive)))
    chosen = alive[(first | (size >= part * limits))[alive]]
    with np.errstate(invalid="ignore", divide="ignore"):
        priority = np.where(first, -np.inf, (limits - size) / np.sqrt(squares))
    return chosen, priority[chosen]


def sweep(
    X: Any, c: Any, x: Any, limits: Any, mu: float, positive: bool, h: Any, u: Any, centre: bool
) -> tuple[Any, Any]:
    """One sweep of coordinate descent on the model: new coefficients and ``root * (X (x - w))``."""
    x, u, root = x.copy(), u.copy(), np.sqrt(h)
    for j in range(x.size):
        column = X[:, j] - (h @ X[:, j] / h.sum() if centre else 0.0)
        H = float(h @ column**2) + mu
        a = H * x[j] - (c[j] + mu * x[j] + float(column @ (root * u)))
        new = max(abs(a) - limits[j], 0.0) * np.sign(a) / H
        new = max(new, 0.0) if positive else new
        u += (new - x[j]) * root * X[:, j]
        x[j] = new
    return x, u


def gram(X: Any, h: Any, mu: float, centre: bool) -> tuple[Any, Any, Any]:
    """Weighted products of columns scaled to ones in the diagonal, that diagonal, and means."""
    means = h @ X / h.sum() if centre else np.zeros(X.shape[1])
    A = np.sqrt(h)[:, None] * (X - means)
    H = (A * A).sum(axis=0) + mu
    G = A.T @ A / np.sqrt(np.outer(H, H))
    np.fill_diagonal(G, 1.0)
    return G, H, means


def gram_descent(
    G: Any, q: Any, x: Any, limits: Any, positive: bool, sweeps: int
) -> tuple[Any, Any]:
    """Sweeps of coordinate descent on a quadratic with slope q at x; the new slope and x."""
    q, x = q.copy(), x.copy()
    for _ in range(sweeps):
        for k in range(x.size):
            a = x[k] - q[k]
            new = max(abs(a) - limits[k], 0.0) * np.sign(a)
            new = max(new, 0.0) if positive else new
            q += (new - x[k]) * G[k]
            x[k] = new
    return q, x


def penalty_along(w: Any, d: Any, limits: Any, mu: float, t: float) -> float:
    """Change of the penalty for a step ``t * d``."""
    new = w + t * d
    return float(limits @ (np.abs(new) - np.abs(w))) + 0.5 * mu * float(new @ new - w @ w)


def row_work(X: Any) -> tuple[float, int]:
    """Half the sum of squares of the entries in each row, and the entries."""
    counts = np.count_nonzero(X, axis=1)
    return 0.5 * float(counts @ counts), int(counts.sum())
