"""What the tolerance of the solver is compared with: marginals and Lagrangian gap of a plan."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from lowrank_opt.transport.canonical import EXACT, UPPER, row_penalty
from lowrank_opt.transport.kernels_prox import plan_value

if TYPE_CHECKING:
    from lowrank_opt.transport.canonical import Canonical

__all__ = ["gap_and_marginals"]

# Costs are not known better than to this part of themselves.
_FLOOR = 1e-8


def gap_and_marginals(
    canonical: Canonical, alpha: Any, plan: tuple[Any, Any, Any], value: float
) -> tuple[float, float]:
    """Return the relative Lagrangian gap of a plan, and the error of its marginals.

    The gap is relative to what the costs can make of a plan, plus the other terms of the
    objective: adding numbers to the rows or columns of the costs does not change it.

    Parameters
    ----------
    canonical : Canonical
        The problem.
    alpha : ndarray of shape (m,)
        Potentials.
    plan : tuple of ndarray
        ``(indptr, indices, values)``.
    value : float
        The semi-dual objective at `alpha`.

    Returns
    -------
    float, float
        Gap (``inf`` when numbers overflow) and the largest of the sums of absolute errors of
        columns and rows; with upper bounds also of what they contradict `alpha`.
    """
    indptr, indices, values = plan
    a, kind = canonical.a, canonical.row_kind
    rows = np.bincount(indices, weights=values, minlength=canonical.m)
    owner = np.repeat(np.arange(canonical.n), np.diff(indptr))
    columns = np.bincount(owner, weights=values, minlength=canonical.n)
    spent, size, norms = plan_value(canonical.cost, indptr, indices, values, canonical.k)
    penalty = canonical.gamma * norms
    paid = row_penalty(kind, canonical.row_weight, a, rows)
    missing = a - rows
    saved = canonical.independent - spent
    if kind == EXACT:
        others = a if canonical.independent_rows is None else canonical.independent_rows
        saved -= float(alpha @ (others - rows))
    reach = max(min(size, abs(saved)), _FLOOR * size)
    scale = reach + penalty + abs(paid) or 1.0
    gap = spent + penalty + paid - value
    error = float(np.sum(np.abs(columns - canonical.b)))
    if kind == EXACT:
        error = max(error, float(np.sum(np.abs(missing))))
    elif kind == UPPER:
        slackness = float(np.sum(np.abs(alpha * missing))) / scale
        error = max(error, float(np.sum(np.maximum(-missing, 0.0))), slackness)
    if kind in (EXACT, UPPER):
        gap += float(alpha @ missing)
    return (abs(gap) / scale if np.isfinite(gap) else math.inf), error
