"""Weights in a chi-square ball: exact projection and worst case, by one sort."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Values = NDArray[np.float64]

__all__ = ["project_weights", "worst_weights"]


def project_weights(point: Any, rho: float, counts: Any = None) -> Values:
    r"""Project onto the weights of a chi-square ball.

    The set is :math:`t \ge 0`, :math:`\sum_i s_i (t_i - 1) = 0` and
    :math:`\sum_i s_i (t_i - 1)^2 \le 2 \rho`; with probabilities :math:`p = t / n` and counts of 1
    it is :math:`\{p \in \Delta : \|n p - 1\|^2 \le 2 \rho\}`. Distances are
    :math:`\sum_i s_i (t_i - z_i)^2`.

    Parameters
    ----------
    point : array-like of shape (n,)
        The point z.
    rho : float
        Size of the ball, at least 0.
    counts : array-like of shape (n,) or None, default=None
        The numbers s, positive; ``None``: 1.

    Returns
    -------
    ndarray of shape (n,)
        The nearest weights t.

    Examples
    --------
    >>> from lowrank_opt.monotone.ball_projection import project_weights
    >>> project_weights([3.0, 1.0, -1.0], 1.0).round(6)
    array([2., 1., 0.])
    """
    return _family(point, rho, counts, 1.0)


def worst_weights(values: Any, rho: float, counts: Any = None) -> Values:
    r"""Return the weights of the set of :func:`project_weights` with the largest mean of values.

    Parameters
    ----------
    values : array-like of shape (n,)
        Losses.
    rho : float
        Size of the ball, at least 0.
    counts : array-like of shape (n,) or None, default=None
        The numbers s, positive; ``None``: 1.

    Returns
    -------
    ndarray of shape (n,)
        Weights; where the largest values are equal, they share.

    Examples
    --------
    >>> from lowrank_opt.monotone.ball_projection import worst_weights
    >>> worst_weights([0.0, 1.0], 1.0), worst_weights([0.0, 1.0], 0.25).round(6)
    (array([0., 2.]), array([0.5, 1.5]))
    """
    return _family(values, rho, counts, math.inf)


def _family(values: Any, rho: float, counts: Any, largest: float) -> Values:
    """Return the weights ``max(0, 1 + slope (v - level))`` of the largest slope in the ball.

    Both problems have this form, by their optimality conditions: the projection has slope at most
    1. With the k largest values positive, S_k and m_k their count and mean, D_k the sum of squared
    deviations from it, and S the whole count, the divergence is ``slope² D_k + S (S - S_k) / S_k``;
    the k-th value is positive up to ``slope = S / (S_k (m_k - v_k))``, which falls with k.
    """
    v = np.asarray(values, np.float64)
    s = np.ones(len(v)) if counts is None else np.asarray(counts, np.float64)
    budget = 2.0 * float(rho)
    center = float(v.max())
    order = np.argsort(-v, kind="stable")
    u, c = v[order] - center, s[order]
    size = np.cumsum(c)
    mean = np.cumsum(c * u) / size
    total = size[-1]
    # Sums of squared deviations by updates, which do not cancel.
    steps = np.zeros(len(u))
    steps[1:] = c[1:] * (u[1:] - mean[:-1]) * (u[1:] - mean[1:])
    deviations = np.cumsum(np.maximum(steps, 0.0))
    base = total * (total - size) / size
    with np.errstate(divide="ignore", over="ignore"):
        ends = total / np.maximum(size * (mean - u), 0.0)
    # Divergence at the end of each piece, from flat (all positive) to steep.
    with np.errstate(invalid="ignore", over="ignore"):
        spread = np.where(deviations > 0, np.minimum(ends, 1e300) ** 2 * deviations, 0.0)
    reached = (ends >= largest) | (spread + base >= budget)
    k = int(np.flatnonzero(reached)[-1]) if reached.any() else 0
    slope = largest
    if deviations[k] > 0:
        slope = min(largest, math.sqrt(max(budget - base[k], 0.0) / deviations[k]))
    if not math.isfinite(slope):  # only equal values are left
        ties = u == u[k]
        top = np.where(ties, total / c[ties].sum(), 0.0)
    else:
        top = np.maximum(0.0, total / size[k] + slope * (u - mean[k]))
        top[k + 1 :] = 0.0
    weights = np.empty(len(v))
    weights[order] = top
    return weights
