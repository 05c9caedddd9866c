"""The active-set finish: from a point on the optimal face to a vertex-like accuracy.

First-order methods for linear programs put variables and multipliers exactly on their bounds, so
the face can be read off without a threshold. On it the optimality conditions are linear: two
least-change corrections, with one factorisation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp
import scipy.sparse.linalg as spla

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Values = NDArray[np.float64]

__all__ = ["finish", "worth_trying"]

REGULARIZATION = 1e-10
LARGEST_SIZE, LARGEST_NNZ = 60_000, 500_000
REFINEMENTS = 3


def worth_trying(n_free: int, n_tight: int, nnz: int) -> bool:
    """Return whether the face is small enough for a factorisation whose fill is not known.

    Parameters
    ----------
    n_free, n_tight : int
        Columns and rows of the face.
    nnz : int
        Nonzeros between them.
    """
    return n_free + n_tight <= LARGEST_SIZE and nnz <= LARGEST_NNZ


def finish(
    A: Any, c: Values, constraint_lower: Values, constraint_upper: Values, lower: Values,
    upper: Values, x: Values, y: Values, *, Q: Any = None,
) -> tuple[Values, Values] | None:  # fmt: skip
    """Return a primal and a dual point that meet the conditions of the face of (x, y).

    Columns strictly between their bounds may move, rows that are equalities or have a multiplier
    must be met exactly and may change it. The caller measures what comes back and discards it
    when it is not better: the face may be wrong.

    Parameters
    ----------
    A : csr_array of shape (m, n)
        Constraints.
    c : ndarray of shape (n,)
        Costs.
    constraint_lower, constraint_upper, lower, upper : ndarray
        Bounds.
    x, y : ndarray
        The point; exactly on the bounds, and 0, where the face is.
    Q : csr_array or None, default=None
        Quadratic term.

    Returns
    -------
    tuple of two ndarray, or None
        Corrected points, clipped and with multipliers of allowed signs; ``None`` when the face is
        empty, too large or its system singular.
    """
    free = np.flatnonzero((x > lower) & (x < upper))
    equal = constraint_lower == constraint_upper
    tight = np.flatnonzero(equal | (y != 0))
    if not len(free) and not len(tight):
        return None
    target = np.where(y > 0, constraint_lower, constraint_upper)[tight]
    target = np.where(equal[tight], constraint_lower[tight], target)
    face = A[tight][:, free]
    if not worth_trying(len(free), len(tight), face.nnz):
        return None
    gradient = c - A.T @ y if Q is None else c + Q @ x - A.T @ y
    primal_gap = target - (A @ x)[tight]
    # A_RF dx = primal_gap and A_RF' dy = gradient_F, each with the smallest change.
    try:
        factor = _factor(face)
    except (RuntimeError, MemoryError):
        return None
    if Q is None:
        dx, _ = _solve(factor, face, np.zeros(len(free)), primal_gap)
        _, dy = _solve_dual(factor, face, gradient[free])
    else:
        corrections = _quadratic(Q[free][:, free], face, gradient[free], primal_gap)
        if corrections is None:
            return None
        dx, dy = corrections
    if not (np.all(np.isfinite(dx)) and np.all(np.isfinite(dy))):
        return None
    x_new, y_new = x.copy(), y.copy()
    x_new[free] = np.clip(x[free] + dx, lower[free], upper[free])
    y_tight = y[tight] + dy
    wrong = ((y_tight > 0) & (constraint_lower[tight] == -np.inf)) | (
        (y_tight < 0) & (constraint_upper[tight] == np.inf)
    )
    one_sided = ~equal[tight] & (y_tight * y[tight] < 0)
    y_new[tight] = np.where(wrong | one_sided, 0.0, y_tight)
    return x_new, y_new


def _factor(face: Any) -> Any:
    r, f = face.shape
    # Least change: [[I, B'], [B, -delta I]], quasi-definite in any order.
    K = sp.block_array(
        [[sp.eye_array(f), face.T], [face, -REGULARIZATION * sp.eye_array(r)]], format="csc"
    )
    return spla.splu(
        K, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True}
    )


def _solve(factor: Any, face: Any, top: Values, bottom: Values) -> tuple[Values, Values]:
    """Solve dx + B'w = top, B dx = bottom, refined against the regularisation."""
    r, f = face.shape
    dx, w = np.zeros(f), np.zeros(r)
    for _ in range(REFINEMENTS):
        residual = np.concatenate([top - dx - face.T @ w, bottom - face @ dx])
        step = factor.solve(residual)
        dx += step[:f]
        w += step[f:]
    return dx, w


def _solve_dual(factor: Any, face: Any, target: Values) -> tuple[Values, Values]:
    """Return dy of least norm with B'dy close to `target`: it is w of u + B'w = target, B u = 0."""
    return _solve(factor, face, target, np.zeros(face.shape[0]))


def _quadratic(Q: Any, face: Any, gradient: Values, gap: Values) -> tuple[Values, Values] | None:
    """Solve Q dx - B'dy = -gradient, B dx = gap, with a proximal term that refinement removes."""
    r, f = face.shape
    K = sp.block_array([[Q, -face.T], [-face, None]], format="csr")
    if not r:
        K = sp.csr_array(Q)
    shift = sp.block_diag([1e-8 * sp.eye_array(f), -1e-8 * sp.eye_array(r)], format="csr")
    try:
        factor = spla.splu(
            sp.csc_array(K + shift), permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0,
            options={"SymmetricMode": True},
        )  # fmt: skip
    except (RuntimeError, MemoryError):
        return None
    right, point = np.concatenate([-gradient, -gap]), np.zeros(f + r)
    for _ in range(REFINEMENTS + 3):
        point += factor.solve(right - K @ point)
    return point[:f], point[f:]
