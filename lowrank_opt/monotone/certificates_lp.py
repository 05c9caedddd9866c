"""Grades of primal-dual points and of rays of linear and quadratic programs, in float64."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lowrank_opt.core.problem import Certificate

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Values = NDArray[np.float64]

__all__ = ["RAY_TOLERANCE", "Ray", "farkas_ray", "grade", "recession_ray"]

# How much larger a single backward error may be than the relative norms.
MAX_NORM_FACTOR = 100.0

# Relative violation up to which a ray counts as a proof.
RAY_TOLERANCE = 1e-8


@dataclass(frozen=True)
class Ray:
    """What a ray proves.

    Parameters
    ----------
    value : float
        Increase of the objective along the ray: of the dual objective for a proof that no point is
        feasible, of minus the primal one for a proof that there is no minimum.
    violation : float
        Largest amount by which the ray leaves what it has to stay in.
    ratio : float
        The proof's weakness, free of the units of rows, columns and right-hand sides: the largest
        violation relative to the sum of the absolute terms it was computed from; ``inf`` when
        `value` is not positive beyond cancellation.
    """

    value: float
    violation: float
    ratio: float

    @property
    def proved(self) -> bool:
        """Whether the ray counts as a proof: ``ratio`` up to 1e-8."""
        return self.ratio <= RAY_TOLERANCE


def grade(problem: Any, x: Values, y: Values) -> Certificate:
    """Grade a point by the conditions of Karush, Kuhn and Tucker.

    Parameters
    ----------
    problem : LinearProgram or QuadraticProgram
        The data.
    x : ndarray of shape (n,)
        Primal point.
    y : ndarray of shape (m,)
        Dual point; parts of a sign that no constraint allows are set to 0 first.

    Returns
    -------
    Certificate
        Relative residuals; see :class:`~lowrank_opt.monotone.LinearProgram`.
    """
    A, c, Q = problem.A, problem.c, problem.Q
    with np.errstate(all="ignore"):
        y = allowed(y, problem.constraint_lower, problem.constraint_upper)
        activity = A @ x
        rows = activity - np.clip(activity, problem.constraint_lower, problem.constraint_upper)
        bounds = x - np.clip(x, problem.lower, problem.upper)
        Qx = np.zeros(len(x)) if Q is None else Q @ x
        half = 0.5 * _dot(x, Qx)
        gradient = c + Qx - A.T @ y
        z = allowed(gradient, problem.lower, problem.upper)
        columns = gradient - z
        objective = _dot(c, x) + half
        dual = (
            support(y, problem.constraint_lower, problem.constraint_upper)
            + support(z, problem.lower, problem.upper)
            - half
        )
        gap = objective - dual
        primal_norm = math.hypot(float(np.linalg.norm(rows)), float(np.linalg.norm(bounds)))
        dual_norm = float(np.linalg.norm(columns))
        details = {
            "primal_residual": primal_norm / (1.0 + side_norm(problem)),
            "dual_residual": dual_norm / (1.0 + float(np.linalg.norm(c))),
            "relative_gap": abs(gap) / (1.0 + abs(objective) + abs(dual)),
        }
        size = abs(A)
        largest = finite_size(problem.constraint_lower, problem.constraint_upper)
        row_error = np.abs(rows) / (1.0 + np.maximum(largest, size @ np.abs(x)))
        bound_error = np.abs(bounds) / (1.0 + np.abs(x))
        curvature = np.zeros(len(x)) if Q is None else abs(Q) @ np.abs(x)
        column_error = np.abs(columns) / (1.0 + np.abs(c) + curvature + size.T @ np.abs(y))
        primal_error = max(_largest(row_error), _largest(bound_error))
        details["primal_backward_error"] = primal_error
        details["dual_backward_error"] = _largest(column_error)
        details["primal_infeasibility"] = max(_largest(np.abs(rows)), _largest(np.abs(bounds)))
        details["dual_infeasibility"] = _largest(np.abs(columns))
        details["dual_objective"] = dual + problem.offset
        relative = (
            details["primal_residual"],
            details["dual_residual"],
            details["relative_gap"],
            primal_error / MAX_NORM_FACTOR,
            details["dual_backward_error"] / MAX_NORM_FACTOR,
        )
    residual = math.nan if any(math.isnan(v) for v in relative) else max(relative)
    return Certificate(
        residual=residual,
        kind="relative KKT residual",
        objective=objective + problem.offset,
        gap=gap if not columns.any() else _bounded_gap(problem, gradient, y, objective, half),
        details=details,
    )


def _bounded_gap(
    problem: Any, gradient: Values, y: Values, objective: float, half: float
) -> float | None:
    """Return the objective minus the minimum over the box of the Lagrangian, if that is finite."""
    with np.errstate(all="ignore"):
        corner = np.where(gradient > 0, problem.lower, problem.upper)
        terms = np.where(gradient == 0, 0.0, gradient * corner)
        low = support(y, problem.constraint_lower, problem.constraint_upper) - half
        gap = objective - low - float(terms.sum())
    return gap if math.isfinite(gap) else None


def farkas_ray(problem: Any, y: Values) -> Ray:
    """Grade a dual ray: multipliers that contradict the constraints and bounds.

    With z = -Aᵀy restricted to the signs that finite bounds allow, a feasible x would have
    value <= sum of violations times ``|x|``, where ``value`` is the support of y and z.

    Parameters
    ----------
    problem : LinearProgram or QuadraticProgram
        The data.
    y : ndarray of shape (m,)
        The ray.

    Returns
    -------
    Ray
        What it proves.
    """
    with np.errstate(all="ignore"):
        y = allowed(y, problem.constraint_lower, problem.constraint_upper)
        z_full = -(problem.A.T @ y)
        z = allowed(z_full, problem.lower, problem.upper)
        scale = abs(problem.A).T @ np.abs(y)
        sides = (
            (y, problem.constraint_lower, problem.constraint_upper),
            (z, problem.lower, problem.upper),
        )
        value = sum(support(*side) for side in sides)
        # Rounding of z times a bound of it counts as well.
        terms = sum(support_size(*side) for side in sides)
        terms += _dot(scale, np.where(z != 0, finite_size(problem.lower, problem.upper), 0.0))
        return _ray(value, terms, np.abs(z_full - z), scale)


def recession_ray(problem: Any, d: Values) -> Ray:
    """Grade a primal ray: a direction of descent that never leaves constraints and bounds.

    From a feasible point there is then no minimum.

    Parameters
    ----------
    problem : LinearProgram or QuadraticProgram
        The data.
    d : ndarray of shape (n,)
        The direction; parts that bounds forbid are set to 0 first.

    Returns
    -------
    Ray
        What it proves.
    """
    with np.errstate(all="ignore"):
        d = _receding(d, problem.lower, problem.upper)
        move = problem.A @ d
        stay = _receding(move, problem.constraint_lower, problem.constraint_upper)
        violation, scale = np.abs(move - stay), abs(problem.A) @ np.abs(d)
        if problem.Q is not None:
            violation = np.concatenate([violation, np.abs(problem.Q @ d)])
            scale = np.concatenate([scale, abs(problem.Q) @ np.abs(d)])
        value = -_dot(problem.c, d)
        return _ray(value, _dot(np.abs(problem.c), np.abs(d)), violation, scale)


def _ray(value: float, terms: float, violation: Values, scale: Values) -> Ray:
    worst = _largest(np.divide(violation, scale, out=np.zeros(len(scale)), where=violation > 0))
    good = math.isfinite(value) and value > 1e-9 * terms and value > 0.0
    return Ray(float(value), _largest(violation), worst if good and worst >= 0 else math.inf)


def allowed(v: Values, lower: Values, upper: Values) -> Values:
    """Return multipliers with the parts of a sign that has no finite bound set to 0."""
    bad = ((v > 0) & (lower == -np.inf)) | ((v < 0) & (upper == np.inf))
    return np.where(bad, 0.0, v)


def support(v: Values, lower: Values, upper: Values) -> float:
    """Return the sum of ``lower v⁺ - upper v⁻``, for multipliers of allowed signs."""
    bound = np.where(v > 0, lower, upper)
    return float(np.where(v == 0, 0.0, v * np.where(v == 0, 0.0, bound)).sum())


def support_size(v: Values, lower: Values, upper: Values) -> float:
    """Return the sum of the absolute terms of `support`."""
    bound = np.where(v > 0, lower, upper)
    return float(np.abs(v * np.where(v == 0, 0.0, bound)).sum())


def finite_size(lower: Values, upper: Values) -> Values:
    """Return the larger absolute value of two bounds, infinite ones counting as 0."""
    low = np.where(np.isfinite(lower), np.abs(lower), 0.0)
    high = np.where(np.isfinite(upper), np.abs(upper), 0.0)
    return np.maximum(low, high)


def side_norm(problem: Any) -> float:
    """Return the norm of the right-hand sides: of two finite ones the larger."""
    return float(np.linalg.norm(finite_size(problem.constraint_lower, problem.constraint_upper)))


def _receding(v: Values, lower: Values, upper: Values) -> Values:
    v = np.where((v < 0) & (lower > -np.inf), 0.0, v)
    return np.where((v > 0) & (upper < np.inf), 0.0, v)


def _dot(a: Values, b: Values) -> float:
    return float((a * b).sum())


def _largest(v: Values) -> float:
    return float(v.max(initial=0.0))
