"""The passes of Halpern PDHG in plain array code: what the kernels are tested against."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Values = NDArray[Any]

__all__ = ["face_norm", "halpern_step", "mark_face", "measure_columns", "measure_rows", "pdhg_map"]


def pdhg_map(program: Any, A: Any, x: Values, y: Values, tau: float, sigma: float) -> Any:
    """Return T(x, y), the map of primal-dual hybrid gradient.

    Parameters
    ----------
    program : ScaledProgram
        Costs and bounds (``c``, ``lower``, ``upper``, ``row_lower``, ``row_upper``).
    A : array-like of shape (m, n)
        The constraints.
    x, y : ndarray
        The point.
    tau, sigma : float
        Primal and dual step.

    Returns
    -------
    tuple of two ndarray
        T(x) and T(y).
    """
    x_hat = np.clip(x - tau * (program.c - A.T @ y), program.lower, program.upper)
    v = y / sigma - A @ (2.0 * x_hat - x)
    y_hat = sigma * (v - np.clip(v, -program.row_upper, -program.row_lower))
    return x_hat, y_hat


def halpern_step(z: Values, z_hat: Values, anchor: Values, g: float, k: int) -> Values:
    """Return the next iterate, `k` iterations after the restart at `anchor`.

    Parameters
    ----------
    z, z_hat : ndarray
        The iterate and T of it.
    anchor : ndarray
        Where the epoch began.
    g : float
        Weight of the reflected point 2 T(z) - z against z.
    k : int
        Iterations so far in this epoch.
    """
    mix = (k + 1.0) / (k + 2.0)
    return mix * (g * (2.0 * z_hat - z) + (1.0 - g) * z) + (1.0 - mix) * anchor


def measure_rows(
    A: Any, x: Values, y: Values, lower: Values, upper: Values, unit: Values, size: Values
) -> tuple[float, float, float]:
    """Return squared violations, largest backward error and support of y.

    Parameters
    ----------
    A : ndarray of shape (m, n)
        The constraints.
    x, y : ndarray
        The point.
    lower, upper : ndarray
        Bounds of the constraints.
    unit : ndarray
        What violations are multiplied with.
    size : ndarray
        Sizes of the right-hand sides, after that.
    """
    activity = A @ x
    wrong = (activity - np.clip(activity, lower, upper)) * unit
    error = np.abs(wrong) / (1.0 + np.maximum(size, unit * (np.abs(A) @ np.abs(x))))
    support = sum(t * (lo if t > 0 else up) for t, lo, up in zip(y, lower, upper, strict=True) if t)
    return float(wrong @ wrong), float(error.max(initial=0.0)), float(support)


def measure_columns(
    A: Any, cost: Values, y: Values, x: Values, c: Values, lower: Values, upper: Values,
    unit: Values, size: Values,
) -> tuple[float, float, float, float, float]:  # fmt: skip
    """Return squared dual residuals, largest backward error, support of z, c x and x Q x.

    Parameters
    ----------
    A : ndarray of shape (m, n)
        The constraints.
    cost : ndarray
        c + Q x.
    y, x : ndarray
        The point.
    c : ndarray
        Costs.
    lower, upper : ndarray
        Bounds of the variables.
    unit : ndarray
        What residuals are multiplied with.
    size : ndarray
        Sizes of the costs, after that.
    """
    z = cost - A.T @ y
    bound = np.where(z > 0, lower, upper)
    free = np.isinf(bound)
    wrong = np.where(free, z, 0.0) * unit
    error = np.abs(wrong) / (1.0 + size + unit * (np.abs(A).T @ np.abs(y)))
    support = float((z[~free] * bound[~free]).sum())
    worst = float(error.max(initial=0.0))
    return float(wrong @ wrong), worst, support, float(c @ x), float((cost - c) @ x)


def mark_face(program: Any, x: Values, anchor: Values, y: Values) -> tuple[Values, Values]:
    """Return which columns move or are between their bounds, and which rows are tight.

    Parameters
    ----------
    program : ScaledProgram
        Bounds.
    x, anchor : ndarray
        Primal point, and where the epoch began.
    y : ndarray
        Multipliers.
    """
    columns = (x != anchor) | ((x > program.lower) & (x < program.upper))
    return columns, (y != 0) | (program.row_lower == program.row_upper)


def face_norm(A: Any, columns: Values, rows: Values) -> float:
    """Return the norm of the marked part of A.

    Parameters
    ----------
    A : ndarray of shape (m, n)
        The constraints.
    columns, rows : ndarray of bool
        Marks.
    """
    return float(np.linalg.norm(A[np.ix_(rows, columns)], 2))
