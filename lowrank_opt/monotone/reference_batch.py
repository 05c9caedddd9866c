"""The passes for several programs at once, in plain array code: what the kernels are tested with.

Matrices are dense or sparse of shape (m, n); points have one column a program.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Values = NDArray[np.float64]

__all__ = ["halpern_steps", "measured_columns", "measured_rows"]


def halpern_steps(
    A: Any, data: tuple[Values, ...], x: Values, y: Values, x_anchor: Values, y_anchor: Values,
    tau: Values, sigma: Values, g: float, inner: Values, n: int,
) -> tuple[Values, ...]:  # fmt: skip
    """Return x, y after `n` iterations, and T(x), T(y) of the last one's start.

    Parameters
    ----------
    A : array-like of shape (m, n)
        The constraints.
    data : tuple of ndarray
        Costs, lower and upper bounds, lower and upper right-hand sides, one column a program.
    x, y, x_anchor, y_anchor : ndarray
        Points and anchors.
    tau, sigma : ndarray of shape (k,)
        Steps.
    g : float
        Weight of the reflected point.
    inner : ndarray of shape (k,)
        Iterations since the last restart.
    n : int
        Iterations, at least 1.
    """
    cost, lower, upper, row_lower, row_upper = data
    x_hat, y_hat = x, y
    for k in range(n):
        mix = (inner + k + 1.0) / (inner + k + 2.0)
        x_hat = np.clip(x - tau * (cost - A.T @ y), lower, upper)
        v = y / sigma - A @ (2.0 * x_hat - x)
        y_hat = sigma * (v - np.clip(v, -row_upper, -row_lower))
        x = mix * (x + 2.0 * g * (x_hat - x)) + (1.0 - mix) * x_anchor
        y = mix * (y + 2.0 * g * (y_hat - y)) + (1.0 - mix) * y_anchor
    return x, y, x_hat, y_hat


def measured_rows(
    A: Any, x: Values, y: Values, lower: Values, upper: Values, unit: Values, size: Values
) -> Values:
    """Return squared violations, largest backward errors and supports of y, of shape (3, k).

    Parameters
    ----------
    A : array-like of shape (m, n)
        The constraints.
    x, y : ndarray
        Points.
    lower, upper : ndarray of shape (m, k)
        Right-hand sides.
    unit, size : ndarray of shape (m, k)
        Units of violations; sizes of right-hand sides.
    """
    activity = A @ x
    wrong = unit * (activity - np.clip(activity, lower, upper))
    error = np.abs(wrong) / (1.0 + np.maximum(size, unit * (abs(A) @ np.abs(x))))
    bound = np.where(y > 0, lower, np.where(y < 0, upper, 0.0))
    return np.array([(wrong**2).sum(0), error.max(0), (y * bound).sum(0)])


def measured_columns(
    A: Any, cost: Values, x: Values, y: Values, lower: Values, upper: Values, unit: Values,
    size: Values,
) -> Values:  # fmt: skip
    """Return squared parts without a bound, backward errors, supports, and c x: shape (4, k).

    Parameters
    ----------
    A : array-like of shape (m, n)
        The constraints.
    cost, x, y, lower, upper : ndarray
        Costs, points and bounds.
    unit, size : ndarray of shape (n, k)
        Units of reduced costs; sizes of costs.
    """
    z = cost - A.T @ y
    bound = np.where(z > 0, lower, upper)
    free = np.isinf(bound)
    wrong = np.where(free, unit * z, 0.0)
    error = np.abs(wrong) / (1.0 + size + unit * (abs(A).T @ np.abs(y)))
    support = np.where(free | (z == 0), 0.0, z * np.where(free, 0.0, bound))
    return np.array([(wrong**2).sum(0), error.max(0), support.sum(0), (cost * x).sum(0)])
