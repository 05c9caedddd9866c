"""One iteration of L-BFGS; what it remembers is plain arrays, so that a run can be resumed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

__all__ = ["direction", "line_search", "remember"]

# Sufficient decrease; what may be left of the slope.
_DECREASE, _SLOPE = 1e-4, 0.9
_TRIALS = 12
_GROWTH = 4.0


def direction(
    gradient: NDArray[np.float64],
    steps: NDArray[np.float64],
    changes: NDArray[np.float64],
    pairs: int,
) -> NDArray[np.float64]:
    """Return the descent direction of the two-loop recursion.

    Parameters
    ----------
    gradient : ndarray of shape (size,)
        Gradient.
    steps, changes : ndarray of shape (memory, size)
        Steps and changes of the gradient along them, the last first.
    pairs : int
        How many there are.

    Returns
    -------
    ndarray of shape (size,)
        Direction; minus the gradient without pairs.
    """
    q = -gradient
    weights, curvatures = np.zeros(pairs), np.zeros(pairs)
    for p in range(pairs):
        curvatures[p] = steps[p] @ changes[p]
        weights[p] = (steps[p] @ q) / curvatures[p]
        q -= weights[p] * changes[p]
    if pairs:
        q *= curvatures[0] / (changes[0] @ changes[0])
    for p in reversed(range(pairs)):
        q += (weights[p] - (changes[p] @ q) / curvatures[p]) * steps[p]
    return q


def remember(
    steps: NDArray[np.float64],
    changes: NDArray[np.float64],
    pairs: int,
    step: NDArray[np.float64],
    change: NDArray[np.float64],
) -> int:
    """Put a step in front of the history, in place, if it shows curvature.

    Parameters
    ----------
    steps, changes : ndarray of shape (memory, size)
        The history.
    pairs : int
        How many pairs there are.
    step, change : ndarray of shape (size,)
        The step and the change of the gradient.

    Returns
    -------
    int
        The new number of pairs.
    """
    if not step @ change > 1e-12 * np.linalg.norm(step) * np.linalg.norm(change):
        return pairs
    steps[1:], changes[1:] = steps[:-1].copy(), changes[:-1].copy()
    steps[0], changes[0] = step, change
    return min(pairs + 1, len(steps))


def line_search(
    evaluate: Callable[[NDArray[np.float64]], Any],
    x: NDArray[np.float64],
    value: float,
    slope: float,
    towards: NDArray[np.float64],
    length: float,
) -> tuple[float, Any] | None:
    """Search along a direction for a point with the Wolfe conditions.

    Parameters
    ----------
    evaluate : callable
        Takes a point and returns an object with ``value`` and ``gradient``; ``inf``: not allowed.
    x : ndarray of shape (size,)
        Where to begin.
    value, slope : float
        Value and directional derivative there.
    towards : ndarray of shape (size,)
        Direction.
    length : float
        First step.

    Returns
    -------
    tuple or None
        Step length and the object found there; ``None``: no point with a sufficient decrease.
    """
    low, low_value, low_slope, high = 0.0, value, slope, np.inf
    best = None
    t = length
    for _ in range(_TRIALS):
        new = evaluate(x + t * towards)
        new_slope = float(new.gradient @ towards) if np.isfinite(new.value) else np.inf
        if not new.value <= value + _DECREASE * t * slope:
            high, shrunk = t, 0.5 * (low + t)
            if np.isfinite(new.value):  # minimum of the parabola through both values and a slope
                w = t - low
                curvature = new.value - low_value - low_slope * w
                if curvature > 0.0:
                    shrunk = low - 0.5 * low_slope * w * w / curvature
                shrunk = min(max(shrunk, low + 0.1 * w), low + 0.5 * w)
            t = shrunk
            continue
        if best is None or new.value < best[1].value:
            best = (t, new)
        if new_slope < _SLOPE * slope:  # still steep
            grown = _GROWTH * t
            if low_slope < new_slope:  # secant of the slopes
                grown = min(
                    grown, max(1.5 * t, t + (t - low) * new_slope / (low_slope - new_slope))
                )
            low, low_value, low_slope = t, new.value, new_slope
            t = grown if high == np.inf else 0.5 * (low + high)
            continue
        return best
    return best
