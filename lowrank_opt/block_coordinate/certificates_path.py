"""Duality gaps of all points of a path at once, as products of matrices.

The same formulas as in ``certificates``, for the squared loss with one output. Point by point they
would read the design as often as a whole path does.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp

from lowrank_opt.block_coordinate.glm import GLMProblem
from lowrank_opt.block_coordinate.losses import Squared

__all__ = ["can_grade", "grade_path"]

_EPS = float(np.finfo(np.float64).eps)
# Numbers in a block of correlations, and in a block of columns that is cast to float64.
_BLOCK = 1 << 19


def can_grade(problem: Any) -> bool:
    """Whether the formulas of here hold for a problem.

    Parameters
    ----------
    problem : CompositeProblem
        The problem.
    """
    smooth = problem.smooth
    if not isinstance(smooth, GLMProblem) or not isinstance(smooth.loss, Squared):
        return False
    if smooth.y.ndim > 1 or problem.measure != "gap":
        return False
    form = problem.l1_form()
    return form is not None and (form.weights is None or form.mu > 0 or bool(form.weights.all()))


def grade_path(problems: list[Any], points: list[Any]) -> list[tuple[float, float]]:
    """Return relative and absolute duality gaps of points, one for each problem.

    Parameters
    ----------
    problems : list of CompositeProblem
        Problems of the same data and weights that :func:`can_grade`.
    points : list of PathPoint
        Their points: positions and values of what is not zero.

    Returns
    -------
    list of (float, float)
        Relative and absolute gaps.

    Notes
    -----
    Cost: two products of the design with a matrix of a column for each point; memory of some 8 MB.
    """
    p = problems[0].smooth.n_features
    width = max(1, _BLOCK // p)
    out: list[tuple[float, float]] = []
    for first in range(0, len(problems), width):
        out += _grade_block(problems[first : first + width], points[first : first + width])
    return out


def _grade_block(problems: list[Any], points: list[Any]) -> list[tuple[float, float]]:
    smooth = problems[0].smooth
    n, p = smooth.shape
    forms = [problem.l1_form() for problem in problems]
    lam = np.array([form.lam for form in forms])
    mu = np.array([form.mu for form in forms])
    positive = forms[0].positive
    weights = forms[0].weights
    s = np.ones(n) if smooth.sample_weight is None else smooth.sample_weight
    y = smooth.y[:, None]

    sizes = [point.index.size for point in points]
    x = sp.csc_array(
        (
            np.concatenate([point.values for point in points]).astype(np.float64),
            np.concatenate([point.index for point in points]),
            np.concatenate([[0], np.cumsum(sizes)]),
        ),
        shape=(p + smooth.fit_intercept, len(points)),
    )
    W = x[:p].tocsr()
    theta = _times(smooth.X, W) - y
    if smooth.fit_intercept:
        theta += x[[p]].toarray()
    loss = 0.5 * (s @ (theta * theta))
    if smooth.fit_intercept:
        theta -= s @ theta / s.sum()
    C = _transposed_times(smooth.X, s[:, None] * theta)

    sizes = np.abs(W.data)
    if weights is not None:
        sizes = sizes * np.repeat(weights, np.diff(W.indptr))
    flat = np.bincount(W.indices, sizes, minlength=len(points))
    squares = np.bincount(W.indices, W.data**2, minlength=len(points))
    if positive and (W.data < 0).any():
        outside = np.unique(W.indices[W.data < 0])
        flat[outside] = np.inf
    rest = np.where(flat > 0, lam, 0.0) * flat + 0.5 * mu * squares

    below = s @ (theta * theta) + mu * squares
    linear = (s[:, None] * y).T @ theta
    best = np.maximum(np.where(below > 0, -linear[0] / np.where(below > 0, below, 1.0), 1.0), 0.0)
    ridge = mu > 0
    shifted = C + mu * W.toarray() if ridge.any() else C
    t = np.minimum(_largest_scale(shifted, lam, weights, positive), best)
    terms = (theta, C, lam, weights, mu, s, y, positive)
    bound, size_of_terms = _bound(t, *terms)
    if ridge.any():
        one, other = _bound(np.ones(len(points)), *terms)
        better = ridge & (one > bound)
        bound = np.where(better, one, bound)
        size_of_terms = np.where(better, other, size_of_terms)
    gap = loss + rest - bound + 4.0 * _EPS * (np.abs(loss) + np.abs(rest) + size_of_terms)
    return [(max(float(g), 0.0) / smooth.scale, float(g)) for g in gap]


def _largest_scale(C: Any, lam: Any, weights: Any, positive: bool) -> Any:
    """The largest multiples of correlations that the penalties' conjugates admit."""
    if weights is not None:
        live = weights > 0
        C = C[live] / weights[live, None]
    worst = -C.min(axis=0, initial=0.0)
    if not positive:
        worst = np.maximum(worst, C.max(axis=0, initial=0.0))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(worst > 0, lam / worst, np.inf)


def _bound(
    t: Any, theta: Any, C: Any, lam: Any, weights: Any, mu: Any, s: Any, y: Any, positive: bool
) -> tuple[Any, Any]:
    terms = s[:, None] * (t * theta * (0.5 * t * theta + y))
    rest = np.zeros(len(t))
    if (mu > 0).any():
        u = -t * C
        limits = lam if weights is None else lam * weights[:, None]
        above = np.maximum((u if positive else np.abs(u)) - limits, 0.0)
        rest = np.sum(above * above, axis=0) / np.where(mu > 0, 2.0 * mu, np.inf)
    return -terms.sum(axis=0) - rest, np.abs(terms).sum(axis=0) + np.abs(rest)


def _times(X: Any, W: Any) -> Any:
    """``X @ W`` in float64, only from the columns of nonzero rows."""
    used = np.flatnonzero(np.diff(W.indptr))
    dense = W[used].toarray()
    if sp.issparse(X):
        return np.asarray(X[:, used].astype(np.float64) @ dense)
    out = np.zeros((X.shape[0], W.shape[1]))
    width = max(1, _BLOCK // X.shape[0])
    for first in range(0, used.size, width):
        part = used[first : first + width]
        out += X[:, part].astype(np.float64) @ dense[first : first + width]
    return out


def _transposed_times(X: Any, V: Any) -> Any:
    if X.dtype == np.float64 or sp.issparse(X):
        return np.asarray(X.T @ V)
    width = max(1, _BLOCK // X.shape[0])
    return np.concatenate([
        X[:, j : j + width].T.astype(np.float64) @ V for j in range(0, X.shape[1], width)
    ])  # fmt: skip
