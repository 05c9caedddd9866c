"""Proofs that no plan exists: sources that are too small for the targets they alone can serve."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from lowrank_opt.transport.canonical import EXACT, UPPER
from lowrank_opt.transport.costs import DenseCost, SparseCost

if TYPE_CHECKING:
    from lowrank_opt.transport.canonical import Canonical

__all__ = ["overcharged"]

# So many of the largest gaps between potentials are looked at.
_CUTS = 20


def overcharged(canonical: Canonical, alpha: Any, slack: float) -> tuple[Any, float] | None:
    """Return sources whose total mass is less than that of the targets which only they can serve.

    If there are such sources no plan exists. The potentials of a solver drift apart along them,
    so that they are looked for on one side of the largest gaps.

    Parameters
    ----------
    canonical : Canonical
        The problem.
    alpha : ndarray of shape (m,)
        Potentials of a run that did not converge.
    slack : float
        A difference of masses, of a total of 1, that is no proof.

    Returns
    -------
    tuple or None
        Which sources (ndarray of bool, of shape (m,)), and the mass that is missing; ``None``
        when none were found.
    """
    if canonical.row_kind not in (EXACT, UPPER) or not isinstance(
        canonical.cost, (DenseCost, SparseCost)
    ):
        return None
    order = np.argsort(alpha, kind="stable")
    gaps = np.diff(alpha[order])
    best: tuple[Any, float] | None = None
    for place in np.argsort(-gaps, kind="stable")[:_CUTS]:
        low = np.zeros(canonical.m, bool)
        low[order[: place + 1]] = True
        missing = float(np.sum(canonical.b[_captive(canonical.cost, low)]))
        missing -= float(np.sum(canonical.a[low]))
        if missing > max(slack, 0.0 if best is None else best[1]):
            best = low, missing
    return best


def _captive(cost: Any, low: Any) -> Any:
    """Which targets have all their allowed sources among those given."""
    if isinstance(cost, DenseCost):
        return ~np.isfinite(cost.C[:, ~low]).any(axis=1)
    owner = np.repeat(np.arange(len(cost.indptr) - 1), np.diff(cost.indptr))
    free = ~low[cost.indices]
    return np.bincount(owner[free], minlength=len(cost.indptr) - 1) == 0
