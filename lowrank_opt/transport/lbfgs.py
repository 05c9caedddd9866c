"""One iteration of L-BFGS on a concave function that may have kinks."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Point", "direction", "remember", "search"]

# Sufficient increase; what may be left of the slope.
_INCREASE, _SLOPE = 1e-4, 0.9
# Trial points until the strong condition on the slope, until the search gives up.
_STRONG, _TRIALS = 8, 30
_GROWTH = 4.0
# An increase below this part of the value is rounding.
_ROUNDING = 1e-14


class Point(NamedTuple):
    """A point with the value and the gradient of the function to be maximised.

    Parameters
    ----------
    x : ndarray of float64
        The point.
    value : float
        Value there.
    gradient : ndarray of float64
        A supergradient.
    rest : object
        What the evaluation found besides.
    """

    x: Any
    value: float
    gradient: Any
    rest: Any = None


def direction(gradient: Any, steps: Any, changes: Any, pairs: int) -> Any:
    """Return the ascent direction of the two-loop recursion.

    Parameters
    ----------
    gradient : ndarray of float64, of shape (size,)
        Gradient; zero where a bound holds the variable.
    steps, changes : ndarray of float64, of shape (history, size)
        Steps and decreases of the gradient along them, the last first.
    pairs : int
        How many there are.

    Returns
    -------
    ndarray of shape (size,)
        Direction; the gradient without pairs.

    Notes
    -----
    Cost: ``4 · pairs · size`` flops.
    """
    q = gradient.copy()
    weights = np.zeros(pairs)
    curvatures = np.array([steps[p] @ changes[p] for p in range(pairs)])
    for p in range(pairs):
        weights[p] = (steps[p] @ q) / curvatures[p]
        q -= weights[p] * changes[p]
    if pairs:
        q *= curvatures[0] / (changes[0] @ changes[0])
    for p in reversed(range(pairs)):
        q += (weights[p] - (changes[p] @ q) / curvatures[p]) * steps[p]
    return q


def remember(steps: Any, changes: Any, pairs: int, old: Point, new: Point) -> int:
    """Put the last step in front of the history, in place, if it shows curvature.

    Parameters
    ----------
    steps, changes : ndarray of float64, of shape (history, size)
        The history.
    pairs : int
        How many pairs there are.
    old, new : Point
        Where the step began and ended.

    Returns
    -------
    int
        The new number of pairs.
    """
    s, y = new.x - old.x, old.gradient - new.gradient
    if not s @ y > 1e-12 * np.linalg.norm(s) * np.linalg.norm(y):
        return pairs
    steps[1:], changes[1:] = steps[:-1].copy(), changes[:-1].copy()
    steps[0], changes[0] = s, y
    return min(pairs + 1, len(steps))


def search(
    evaluate: Callable[[Any], Point],
    old: Point,
    towards: Any,
    length: float,
    *,
    bounded: int = 0,
    deadline: float = np.inf,
) -> Point | None:
    """Search along a direction for a point with the strong Wolfe conditions.

    The function is concave, so that its slope only falls along the direction; where it jumps, at
    a kink, no point may have a small slope. After some trials a point with sufficient increase
    beyond the jump is taken, or one before it.

    Parameters
    ----------
    evaluate : callable
        Takes an array and returns its `Point`.
    old : Point
        Where to begin.
    towards : ndarray of shape (size,)
        Direction of ascent.
    length : float
        First step.
    bounded : int, default=0
        So many leading variables are at most 0: points are projected, and only a sufficient
        increase is asked for.
    deadline : float, default=inf
        Time on the clock of `time.perf_counter` to come to an end.

    Returns
    -------
    Point or None
        ``None``: no trial point had a sufficient increase.
    """
    slope = float(old.gradient @ towards)
    if not slope > 0.0:
        return None
    low, low_slope, high, high_slope = 0.0, slope, np.inf, 0.0
    best: Point | None = None
    noise = _ROUNDING * (1.0 + abs(old.value))
    t = length
    for trial in range(_TRIALS):
        x = old.x + t * towards
        x[:bounded] = np.minimum(x[:bounded], 0.0)
        new = evaluate(x)
        gain = new.value - old.value
        if bounded:
            asked = _INCREASE * float(old.gradient @ (new.x - old.x))
        else:
            asked = _INCREASE * t * slope
        finite = bool(np.isfinite(gain)) and bool(np.isfinite(new.gradient).all())
        here = float(new.gradient @ towards) if finite else -np.inf
        enough = finite and (gain >= asked or (gain >= -noise and abs(here) <= _SLOPE * slope))
        if enough and (bounded or abs(here) <= _SLOPE * slope):
            return new
        beyond = here <= 0.0  # the maximum along the direction lies before
        if enough and (beyond or best is None or new.value > best.value):
            best = new
        if enough and not beyond:
            low, low_slope = t, here
        else:
            high, high_slope = t, here
        late = time.perf_counter() >= deadline
        if best is not None and (trial >= _STRONG or late):
            return best
        if late or not x.size or t * float(np.abs(towards).max()) == 0.0:
            return best
        if high == np.inf:
            t *= _GROWTH
            continue
        share = 0.1
        if np.isfinite(high_slope) and low_slope > high_slope:
            share = low_slope / (low_slope - high_slope)
        t = low + min(max(share, 0.1), 0.9) * (high - low)
    return best
