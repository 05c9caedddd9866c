"""The form of the problem that solvers see: cap on the columns, positive masses of total 1."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["EXACT", "KL", "L2", "UPPER", "Canonical", "row_dual", "row_penalty"]

# What ties the row sums r of a plan to the masses a.
EXACT, UPPER, L2, KL = 0, 1, 2, 3


@dataclass(frozen=True, eq=False)
class Canonical:
    r"""Masses, cost, regularisation and cap, in the units of the solvers.

    .. math:: \min_{T \ge 0,\, T^\top 1 = b}\; \langle C, T \rangle + \sum_j \Omega^{**}(t_j)
        + \Phi(T 1)

    with :math:`\sum_j b_j = 1`. :math:`\Omega^{**}` is ``gamma / 2`` times the squared k-support
    norm, :math:`\Phi` the term of :func:`row_penalty`. Potentials are those of the user's
    problem; plans and objective are the user's divided by ``mass``.

    Parameters
    ----------
    a : ndarray of float64, of shape (m,)
        Masses of the sources, positive (``L2``: at least 0); of total 1 when ``row_kind`` is
        ``EXACT``.
    b : ndarray of float64, of shape (n,)
        Masses of the targets, positive, of total 1.
    cost : DenseCost, PointCost or SparseCost
        Costs, target by target.
    gamma : float
        Strength of the quadratic term in these units, at least 0.
    k : int
        Cap on the nonzeros of a column, ``1 <= k <= m``.
    row_kind : int
        ``EXACT``, ``UPPER``, ``L2`` or ``KL``.
    row_weight : float
        Weight of the penalty ``L2`` or ``KL``.
    mass : float
        What plans have to be multiplied by.
    sources, targets : ndarray of int
        Which of the user's rows and columns (in this orientation) are there: those of positive
        mass, and rows of zero mass whose sums are free.
    independent : float
        Cost of the plan that does not look at the costs, ``a b'`` where no pair is forbidden;
        infinite when unknown.
    independent_rows : ndarray of shape (m,) or None
        Row sums of that plan; ``None``: `a`.
    """

    a: Any
    b: Any
    cost: Any
    gamma: float
    k: int
    row_kind: int
    row_weight: float
    mass: float
    sources: Any
    targets: Any
    independent: float = math.inf
    independent_rows: Any = None

    @property
    def m(self) -> int:
        """Number of sources."""
        return len(self.a)

    @property
    def n(self) -> int:
        """Number of targets."""
        return len(self.b)


def row_dual(kind: int, weight: float, a: Any, alpha: Any) -> tuple[float, Any, Any]:
    """Return the term of the row sums in the dual: value, gradient, minus the second derivative.

    The value is ``-conjugate(Phi)(-alpha)``; the gradient is the row sum that the potentials ask
    for.

    Parameters
    ----------
    kind : int
        ``EXACT``, ``UPPER`` (which bounds `alpha` by 0), ``L2`` or ``KL``.
    weight : float
        Weight of the penalty.
    a, alpha : ndarray of shape (m,)
        Masses and potentials.

    Returns
    -------
    float, ndarray, ndarray
        Value, gradient and curvature.
    """
    if kind == L2:
        value = float(a @ alpha - alpha @ alpha / (2.0 * weight))
        return value, a - alpha / weight, np.full(len(a), 1.0 / weight)
    if kind == KL:
        grown = a * np.exp(-alpha / weight)
        value = -weight * float(a @ np.expm1(-alpha / weight))
        return value, grown, grown / weight
    return float(a @ alpha), a.copy(), np.zeros(len(a))


def row_penalty(kind: int, weight: float, a: Any, rows: Any) -> float:
    """Return the penalty of row sums: 0 for constraints, whatever the row sums are.

    Parameters
    ----------
    kind : int
        ``EXACT``, ``UPPER``, ``L2`` or ``KL``.
    weight : float
        Weight of the penalty.
    a, rows : ndarray of shape (m,)
        Masses and row sums.

    Returns
    -------
    float
        Penalty.
    """
    if kind == L2:
        return 0.5 * weight * float(np.sum((rows - a) ** 2))
    if kind == KL:
        ratio = np.where(rows > 0, rows / a, 1.0)
        return weight * float(np.sum(rows * np.log(ratio) - rows + a))
    return 0.0
