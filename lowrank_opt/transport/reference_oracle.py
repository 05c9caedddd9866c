"""The semi-dual the obvious way: columns one after the other, with sorts."""

from __future__ import annotations

from typing import Any

import numpy as np

from lowrank_opt.transport.canonical import Canonical, row_dual
from lowrank_opt.transport.costs import cost_block

__all__ = ["dual", "evaluate", "project_capped"]


def project_capped(scores: Any, mass: float, gamma: float, k: int) -> tuple[Any, float]:
    """Return the plan of a column with its threshold.

    Parameters
    ----------
    scores : ndarray of float64, of shape (m,)
        ``alpha - c_j``; ``-inf`` for forbidden pairs.
    mass : float
        Sum of the plan.
    gamma : float
        Strength of the quadratic term.
    k : int
        Cap.

    Returns
    -------
    ndarray of shape (m,), float
        The plan and tau.
    """
    plan = np.zeros(len(scores))
    kept = np.argsort(-scores, kind="stable")[:k]  # of equal scores the lowest index
    kept = kept[np.isfinite(scores[kept])]
    if gamma == 0.0:
        plan[kept[0]] = mass
        return plan, float(scores[kept[0]])
    top = scores[kept[0]]
    v = scores[kept] - top
    index = np.arange(1, len(v) + 1)
    limits = (np.cumsum(v) - gamma * mass) / index
    r = int(index[v > limits][-1])
    plan[kept] = np.maximum(v - limits[r - 1], 0.0) / gamma
    return plan, float(top + limits[r - 1])


def evaluate(view: Canonical, alpha: Any) -> tuple[float, Any, Any, Any]:
    """Return the semi-dual at `alpha`.

    Parameters
    ----------
    view : Canonical
        The problem.
    alpha : ndarray of float64, of shape (m,)
        Potentials.

    Returns
    -------
    float, ndarray of shape (m,), ndarray of shape (n,), ndarray of shape (m, n)
        Value, gradient, thresholds and plan.
    """
    value, wanted, _ = row_dual(view.row_kind, view.row_weight, view.a, alpha)
    scores = alpha - cost_block(view.cost, 0, view.n)
    plan, tau = np.zeros((view.n, view.m)), np.zeros(view.n)
    for j, mass in enumerate(view.b):
        plan[j], tau[j] = project_capped(scores[j], mass, view.gamma, view.k)
        live = plan[j] > 0
        psi = scores[j, live] @ plan[j, live] - 0.5 * view.gamma * np.sum(plan[j] ** 2)
        value -= float(psi)
    return value, wanted - plan.sum(axis=0), tau, plan.T


def dual(view: Canonical, alpha: Any, beta: Any) -> tuple[float, Any, Any, Any]:
    """Return the dual at the potentials of both sides.

    Parameters
    ----------
    view : Canonical
        The problem, with ``gamma > 0``.
    alpha, beta : ndarray of float64, of shapes (m,) and (n,)
        Potentials.

    Returns
    -------
    float, ndarray of shape (m,), ndarray of shape (n,), ndarray of shape (m, n)
        Value, gradient in `alpha` and in `beta`, and plan.
    """
    value, wanted, _ = row_dual(view.row_kind, view.row_weight, view.a, alpha)
    scores = alpha + beta[:, None] - cost_block(view.cost, 0, view.n)
    order = np.argsort(-scores, axis=1, kind="stable")
    rank = np.argsort(order, axis=1, kind="stable")
    plan = np.where(rank < view.k, np.maximum(scores, 0.0), 0.0) / view.gamma
    value += float(beta @ view.b) - 0.5 * view.gamma * float(np.sum(plan**2))
    return value, wanted - plan.sum(axis=0), view.b - plan.sum(axis=1), plan.T
