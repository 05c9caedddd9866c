"""Grades of points of fixed-point problems, inclusions and games, in float64."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from lowrank_opt.core.problem import Certificate

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Values = NDArray[np.float64]

__all__ = ["grade_fixed_point", "grade_game", "grade_inclusion"]


def grade_fixed_point(problem: Any, z: Values) -> Certificate:
    """Grade a point by its distance to its image, relative to that of the problem's start.

    Parameters
    ----------
    problem : FixedPointProblem
        The problem.
    z : ndarray of shape (d,)
        A point.
    """
    norm = _norm(z - np.asarray(problem.fixed_point_map(z), np.float64))
    start = np.asarray(problem.start(), np.float64)
    unit = _norm(start - np.asarray(problem.fixed_point_map(start), np.float64))
    details = {"residual_norm": norm, "residual_norm_at_start": unit}
    return Certificate(_relative(norm, unit), "relative fixed-point residual", norm, None, details)


def grade_inclusion(problem: Any, z: Values) -> Certificate:
    """Grade a point by how far a forward-backward step moves it, relative to the start.

    Parameters
    ----------
    problem : MonotoneInclusion
        The problem.
    z : ndarray of shape (d,)
        A point.
    """
    step = 1.0 / problem.lipschitz

    def forward_backward(point: Values) -> tuple[Values, Values, float]:
        F = np.asarray(problem.operator(point), np.float64)
        moved = np.asarray(problem.resolvent(point - step * F, step), np.float64)
        return F, moved, _norm(point - moved) / step

    unit = forward_backward(np.asarray(problem.start(), np.float64))[2]
    F, moved, norm = forward_backward(z)
    # An element of (F + G) at the moved point.
    element = np.asarray(problem.operator(moved), np.float64) + (z - step * F - moved) / step
    details = {
        "natural_residual": norm,
        "natural_residual_at_start": unit,
        "inclusion_residual_after_a_step": _norm(element),
        "operator_norm": _norm(F),
    }
    return Certificate(_relative(norm, unit), "relative natural residual", norm, None, details)


def grade_game(problem: Any, x: Values, y: Values) -> Certificate:
    """Grade a pair of strategies by the duality gap, relative to the range of the payoffs.

    Parameters
    ----------
    problem : MatrixGame
        The game.
    x, y : ndarray
        Strategies; what is not a strategy adds its distance from one.
    """
    A = problem.A
    outside = 0.0
    for v in (x, y):
        outside = max(outside, abs(float(v.sum()) - 1.0), float(np.maximum(-v, 0.0).max()))
    to_rows = np.asarray(A @ x, np.float64)
    to_columns = np.asarray(A.T @ y, np.float64)
    upper, lower = float(to_rows.max()), float(to_columns.min())
    gap = upper - lower
    spread = problem.spread
    details = {"upper": upper, "lower": lower, "outside_the_simplex": outside}
    residual = max(gap / spread if spread > 0 else 0.0, outside)
    if math.isnan(gap):
        residual = math.nan
    return Certificate(residual, "relative duality gap", upper, gap, details)


def _norm(v: Values) -> float:
    return float(np.linalg.norm(v))


def _relative(norm: float, unit: float) -> float:
    return norm / unit if unit > 0 else norm
