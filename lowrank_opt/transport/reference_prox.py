"""The prox of the squared k-support norm and the proximal objective, slowly and obviously."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from lowrank_opt.transport.costs import cost_block

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["prox_of_row", "proximal_value", "semidual_value", "support_norm"]


def _bisect(function: Callable[[float], float], low: float, high: float) -> float:
    """Root of an increasing function, to the last bit."""
    for _ in range(2000):
        middle = 0.5 * (low + high)
        if middle in (low, high):
            break
        if function(middle) > 0:
            high = middle
        else:
            low = middle
    return 0.5 * (low + high)


def _zones(w: Any, k: int, rho: float) -> Any:
    """Minimiser over ``t >= 0`` of the prox's objective at w, without a constraint on the sum."""
    positive = w[w > 0]
    if len(positive) <= k or rho == 0.0:
        return np.maximum(w, 0.0) / (1.0 + (rho if len(positive) <= k else 0.0))

    def missing(q: float) -> float:
        return k - float(np.sum(np.clip(rho * (w / q - 1.0), 0.0, 1.0)))

    q = _bisect(missing, 1e-3 * positive.min() * min(rho / (1.0 + rho), 1.0), positive.max())
    return np.where(w <= q, 0.0, np.where(w < q * (1.0 + rho) / rho, w - q, w / (1.0 + rho)))


def prox_of_row(v: Any, k: int, rho: float, total: float | None = None) -> Any:
    """Return the prox of ``rho / 2`` times the squared k-support norm over ``t >= 0``.

    Parameters
    ----------
    v : ndarray of shape (p,)
        Point.
    k : int
        Cap, at least 1.
    rho : float
        Weight, at least 0.
    total : float or None, default=None
        Required sum; ``None``: free.

    Returns
    -------
    ndarray of shape (p,)
        Minimiser.
    """
    v = np.asarray(v, dtype=np.float64)
    if total is None:
        return _zones(v, k, rho)

    def excess(tau: float) -> float:
        return float(np.sum(_zones(v + tau, k, rho))) - total

    span = (1.0 + rho) * total
    tau = _bisect(excess, -v.max() - span, -v.max() + 2.0 * span + len(v) * span)
    return _zones(v + tau, k, rho)


def support_norm(t: Any, k: int) -> float:
    """Return the squared k-support norm by its definition, trying every size of the tail.

    Parameters
    ----------
    t : ndarray of shape (p,)
        Any vector.
    k : int
        Cap, at least 1.

    Returns
    -------
    float
        ``max_s s't - ||largest k entries of s||^2 / 4``, the convex envelope.
    """
    t = np.sort(np.abs(t))[::-1]
    if len(t) <= k:
        return float(t @ t)
    best = -np.inf
    for r in range(k):
        head, tail = t[: k - r - 1], float(np.sum(t[k - r - 1 :]))
        value = float(head @ head) + tail**2 / (r + 1)
        before = head[-1] if len(head) else np.inf
        if before * (1 + 1e-12) >= tail / (r + 1) >= t[k - r - 1] * (1 - 1e-12):
            best = max(best, value)
    return best


def proximal_value(canonical: Any, alpha: Any, mu: float, center: Any) -> tuple[float, Any]:
    """Return the sum of the columns' proximal problems and their solutions.

    Parameters
    ----------
    canonical : Canonical
        The problem.
    alpha : ndarray of shape (m,)
        Potentials.
    mu : float
        Weight of the proximal term is ``1 / mu``.
    center : ndarray of shape (m, n)
        The plan that the proximal term pulls to.

    Returns
    -------
    float, ndarray of shape (m, n)
        Sum of the optimal values, and the plan.
    """
    costs = cost_block(canonical.cost, 0, canonical.n).T
    plan, value = np.zeros(costs.shape), 0.0
    for j in range(canonical.n):
        score = alpha - costs[:, j]
        live = np.isfinite(score)
        v = center[live, j] + mu * score[live]
        t = prox_of_row(v, canonical.k, mu * canonical.gamma, canonical.b[j])
        plan[live, j] = t
        value += float(t @ score[live]) - 0.5 * canonical.gamma * support_norm(t, canonical.k)
        value -= float(np.sum((plan[:, j] - center[:, j]) ** 2)) / (2.0 * mu)
    return value, plan


def semidual_value(canonical: Any, alpha: Any) -> float:
    """Return the sum of the conjugates of the columns in the semi-dual.

    Parameters
    ----------
    canonical : Canonical
        The problem.
    alpha : ndarray of shape (m,)
        Potentials.

    Returns
    -------
    float
        ``sum_j psi_j(alpha)``.
    """
    scores = alpha[:, None] - cost_block(canonical.cost, 0, canonical.n).T
    total = 0.0
    for score, b in zip(scores.T, canonical.b, strict=True):
        kept = np.sort(score)[::-1][: canonical.k]
        kept = kept[np.isfinite(kept)]
        if canonical.gamma == 0:
            total += b * kept[0]
            continue
        goal = canonical.gamma * b
        span = kept[0] - goal, kept[0]
        tau = _bisect(lambda u: goal - np.sum(np.maximum(kept - u, 0.0)), *span)  # noqa: B023
        total += tau * b + np.sum(np.maximum(kept - tau, 0.0) ** 2) / (2.0 * canonical.gamma)
    return float(total)
