"""Grades of points: duality gaps and distances to subdifferentials, from the data alone.

NumPy in float64, without a kernel of the solvers.

A dual point of a generalised linear model is one number theta a sample (and output). For all of
them at which the conjugates are finite

    sum_i s_i l(y_i, z_i) + h(w)  >=  - sum_i s_i l*(y_i, theta_i) - h*(-X' (s theta)),

the right side being smaller than the optimal value; an unpenalised intercept asks for
``sum_i s_i theta_i = 0``. The derivatives of the losses at a point, moved to where this is finite,
are the theta of here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

from lowrank_opt.block_coordinate.composite import limits_of
from lowrank_opt.block_coordinate.losses import (
    Huber,
    Logistic,
    Poisson,
    Softmax,
    Squared,
    loss_curvature,
    loss_slope,
    total_loss,
    weigh,
)
from lowrank_opt.core.problem import Certificate
from lowrank_opt.numerics.penalties import (
    L1,
    MCP,
    SCAD,
    Box,
    ElasticNet,
    GroupL1,
    NonNegative,
    SquaredL2,
    WeightedL1,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["grade", "lower_bound", "subgradient_distances"]

# Numbers in blocks of columns that are cast, and that are copied.
_BLOCK, _COPIED = 1 << 20, 1 << 17
# Projections of a dual point.
_PASSES = 4
_EPS = float(np.finfo(np.float64).eps)


def grade(smooth: Any, penalty: Any, x: Any, measure: str = "subgradient") -> Certificate:
    """Grade a point of a smooth part and a penalty.

    Parameters
    ----------
    smooth : GLMProblem or QuadraticProblem
        The smooth part.
    penalty : named tuple or None
        The penalty.
    x : array-like
        The point.
    measure : {"subgradient", "gap"}, default="subgradient"
        What the residual is.

    Returns
    -------
    Certificate
        With both in its details where both are known.
    """
    flat = smooth.flat(x)
    m = smooth.n_coefficients
    w = flat[:m].reshape(-1, *smooth.x_shape[1:])
    if measure == "subgradient":
        with np.errstate(over="ignore", invalid="ignore"):  # where the objective is infinite
            objective, gradient = _value_and_gradient(smooth, flat, w)
        kind = "relative gradient" if penalty is None else "relative subgradient"
        if not np.isfinite(objective):
            return Certificate(np.inf, kind, np.inf, None, {"subgradient": np.inf})
        if penalty is not None:
            objective += float(penalty.value(w))
        distances = subgradient_distances(penalty, w, gradient[:m].reshape(w.shape))
        worst = max(float(distances.max(initial=0.0)), float(np.abs(gradient[m:]).max(initial=0.0)))
        return Certificate(
            worst / smooth.null_gradient, kind, objective, None, {"subgradient": worst}
        )
    z = _predictors(smooth, flat, w)
    loss = _loss(smooth, z)
    if not np.isfinite(loss):
        return Certificate(np.inf, "relative duality gap", np.inf, np.inf, {"lower_bound": -np.inf})
    rest = float(penalty.value(w))
    if smooth.l2:
        rest += 0.5 * smooth.l2 * float(np.sum(w * w))
    objective = loss + rest
    bound, size = lower_bound(smooth, penalty, z, w)
    # At a point outside the domain the bound is as good as at any other.
    bound -= 4.0 * _EPS * (abs(loss) + size + (abs(rest) if np.isfinite(rest) else 0.0))
    gap = objective - bound
    details = {"lower_bound": bound}
    return Certificate(
        max(gap, 0.0) / smooth.scale, "relative duality gap", objective, gap, details
    )


def _value_and_gradient(smooth: Any, x: NDArray[Any], w: NDArray[Any]) -> tuple[float, Any]:
    if not hasattr(smooth, "X"):
        product = np.asarray(smooth.A @ x, np.float64)
        return float(x @ (0.5 * product - smooth.b)), product - smooth.b
    z = _predictors(smooth, x, w)
    slope = _slopes(smooth, z)
    g = np.zeros(x.size)
    g[: w.size] = (_adjoint(smooth.X, slope) + smooth.l2 * w).ravel()
    g[w.size :] = slope.sum(axis=0) if smooth.fit_intercept else 0.0
    return _loss(smooth, z) + 0.5 * smooth.l2 * float(np.sum(w * w)), g


def _predictors(problem: Any, x: NDArray[Any], w: NDArray[Any]) -> NDArray[Any]:
    X = problem.X
    z = np.zeros((X.shape[0], *w.shape[1:]))
    used = np.flatnonzero(w.any(axis=1) if w.ndim > 1 else w)
    if sp.issparse(X):
        z += X[:, used].astype(np.float64) @ w[used]
    else:  # few columns at a time: to touch new memory costs more than the products
        width = max(1, _COPIED // X.shape[0])
        for first in range(0, used.size, width):
            part = used[first : first + width]
            z += X.T[part].astype(np.float64, copy=False).T @ w[part]
    if problem.fit_intercept:
        z += x[w.size :] if z.ndim > 1 else x[-1]
    return z


def _adjoint(X: Any, v: NDArray[Any]) -> NDArray[Any]:
    if X.dtype == np.float64 or sp.issparse(X):
        return np.asarray(X.T @ v)
    width = max(1, _BLOCK // X.shape[0])
    return np.concatenate([
        X[:, j : j + width].T.astype(np.float64) @ v for j in range(0, X.shape[1], width)
    ])  # fmt: skip


def _weights(problem: Any) -> Any:
    """Weights of the samples, to be multiplied with arrays of the shape of y."""
    s = problem.sample_weight
    if s is None:
        return 1.0
    return s if problem.y.ndim == 1 else s[:, None]


def _loss(problem: Any, z: NDArray[Any]) -> float:
    return total_loss(problem.loss, problem.y, z, problem.sample_weight)


def _slopes(problem: Any, z: NDArray[Any]) -> NDArray[Any]:
    return weigh(loss_slope(problem.loss, problem.y, z), problem.sample_weight)


# -- duality gaps ----------------------------------------------------------------------------------


def lower_bound(
    problem: Any, penalty: Any, z: NDArray[Any], w: NDArray[Any]
) -> tuple[float, float]:
    """Return a lower bound on the optimal value, from the predictors of a point.

    Parameters
    ----------
    problem : GLMProblem
        The smooth part.
    penalty : named tuple
        A convex penalty.
    z : ndarray of the shape of y
        Predictors of the point.
    w : ndarray of shape (p,) or (p, k)
        Its coefficients; they help to choose a dual point, any would do.

    Returns
    -------
    float, float
        The bound, and the size of the terms that rounding spoils.
    """
    s = _weights(problem)
    theta = _dual_point(problem, penalty, z)
    correlations = _adjoint(problem.X, s * theta)
    mu = problem.l2
    if isinstance(penalty, ElasticNet):
        mu += penalty.alpha * (1 - penalty.l1_ratio)
    if isinstance(penalty, SquaredL2):
        mu += penalty.alpha
    if mu > 0:
        # The ridge term of a dual point: at the solution theta belongs to the ridge term of w.
        shifted = _largest_scale(penalty, correlations + mu * w)
        scales = {1.0, min(shifted, _best_scale(problem, theta, float(mu * np.sum(w * w))))}
    elif isinstance(penalty, Box):
        scales = {1.0}
    else:
        scales = {min(_largest_scale(penalty, correlations), _best_scale(problem, theta, 0.0))}
    best, size = -np.inf, 0.0
    for t in scales:
        terms = s * _conjugate(problem, t * theta)
        rest = _penalty_conjugate(penalty, -t * correlations, mu)
        value = -float(np.sum(terms)) - rest
        if value > best:
            best, size = value, float(np.sum(np.abs(terms))) + abs(rest)
    return best, size


def _dual_point(problem: Any, penalty: Any, z: NDArray[Any]) -> NDArray[Any]:
    """Derivatives of the losses, such that unpenalised variables see nothing of them."""
    free = np.zeros(0, int)
    if isinstance(penalty, WeightedL1) and problem.l2 == 0:
        free = np.flatnonzero(penalty.weights == 0)
    if free.size:  # the squared loss; see CompositeProblem.measure
        return _project_out(problem, problem.X[:, free], z - problem.y)
    if not problem.fit_intercept:
        return _live_slopes(problem, z)
    if isinstance(problem.loss, Squared):
        s = problem.sample_weight
        return _settle(
            z - problem.y,
            lambda v: v - (v.mean(axis=0) if s is None else s @ v / s.sum()),
        )
    z = z + _intercept_shift(problem, z)
    return _balance(problem, _live_slopes(problem, z))


def _live_slopes(problem: Any, z: NDArray[Any]) -> NDArray[Any]:
    """Derivatives of the losses, 0 for samples without weight."""
    s = problem.sample_weight
    return weigh(loss_slope(problem.loss, problem.y, z), None if s is None else np.sign(s))


def _settle(v: NDArray[Any], project: Any) -> NDArray[Any]:
    """Project until hardly anything is taken off; what is rounding alone becomes 0.

    Dual points are scaled up afterwards, and with them what they miss the subspace by.
    """
    for _ in range(_PASSES):
        before, v = np.linalg.norm(v, axis=0), project(v)
        lost = np.linalg.norm(v, axis=0) < 0.5 * before
        if not lost.any():
            return v
    return np.where(lost, 0.0, v)


def _project_out(problem: Any, A: Any, theta: NDArray[Any]) -> NDArray[Any]:
    A = (A.toarray() if sp.issparse(A) else A).astype(np.float64)
    if problem.fit_intercept:
        A = np.hstack([A, np.ones((len(A), 1))])
    s = np.ones(len(A)) if problem.sample_weight is None else problem.sample_weight
    root = np.sqrt(s)
    left, size, _ = np.linalg.svd(A * root[:, None], full_matrices=False)
    left = left[:, size > size.max(initial=0.0) * len(A) * _EPS]
    scaled = _settle(root * theta, lambda v: v - left @ (left.T @ v))
    return np.where(s > 0, scaled / np.where(root > 0, root, 1.0), 0.0)


def _intercept_shift(problem: Any, z: NDArray[Any]) -> Any:
    """Change of the intercepts towards the best ones for these predictors, by Newton's method."""
    shift = np.zeros(problem.n_outputs)
    s = _weights(problem)
    for _ in range(30):
        at = z + (shift if z.ndim > 1 else shift[0])
        slope = np.atleast_1d(np.sum(_slopes(problem, at), axis=0))
        if isinstance(problem.loss, Softmax):
            P = loss_slope(problem.loss, problem.y, at) + problem.y
            H = np.diag(np.sum(s * P, axis=0)) - P.T @ (s * P)
            step = -np.linalg.lstsq(H, slope, rcond=1e-12)[0]
        else:
            curves = loss_curvature(problem.loss, problem.y, at)
            curvature = float(np.sum(weigh(curves, problem.sample_weight)))
            if not curvature > 0:
                break
            step = -slope / curvature
        if not np.isfinite(step).all():
            break
        step = np.clip(step, -5.0, 5.0) if not isinstance(problem.loss, Huber) else step
        before = _loss(problem, at)
        while (
            _loss(problem, at + step) > before + 1e-12 * abs(before) and np.abs(step).max() > 1e-12
        ):
            step = 0.5 * step
        shift = shift + step
        if np.abs(step).max() <= 1e-14 * (1.0 + np.abs(shift).max()):
            break
    return shift if z.ndim > 1 else shift[0]


def _balance(problem: Any, theta: NDArray[Any]) -> NDArray[Any]:
    """Make the weighted sums of theta 0 within the domain of the conjugates."""
    s = _weights(problem)
    if not isinstance(problem.loss, Softmax):
        above = float(np.sum(s * np.maximum(theta, 0.0)))
        below = float(np.sum(s * np.maximum(-theta, 0.0)))
        least = min(above, below)
        up = least / above if above > 0 else 0.0
        down = least / below if below > 0 else 0.0
        return np.where(theta > 0, theta * up, theta * down)
    # theta + y are distributions P over the classes. Mix them with one that is the same for all
    # samples and makes up for what the totals of the classes lack.
    y, P = problem.y, theta + problem.y
    wanted, have = np.sum(s * y, axis=0), np.sum(s * P, axis=0)
    total = wanted.sum()
    ratio = np.max(np.maximum(have - wanted, 0.0) / np.where(wanted > 0, wanted, 1.0))
    t = ratio / (1.0 + ratio)
    if t == 0.0:
        return theta
    common = np.maximum(wanted + (1.0 - t) / t * (wanted - have), 0.0) / total
    mixed: NDArray[Any] = (1.0 - t) * P + t * common - y
    return mixed


def _best_scale(problem: Any, theta: NDArray[Any], ridge: float) -> float:
    """The multiple of theta with the largest dual value, where it has a formula."""
    if not isinstance(problem.loss, Squared):
        return 1.0
    s = _weights(problem)
    below = float(np.sum(s * theta * theta)) + ridge
    return max(-float(np.sum(s * theta * problem.y)) / below, 0.0) if below > 0 else 1.0


def _largest_scale(penalty: Any, correlations: NDArray[Any]) -> float:
    """The largest multiple of the correlations that is in the domain of the penalty's conjugate."""
    u = -correlations
    if isinstance(penalty, GroupL1):
        norms, limits = _group_norms(penalty, u)
    elif isinstance(penalty, WeightedL1):
        norms, limits = np.abs(u), limits_of(penalty.alpha, penalty.weights)
        free = limits == 0  # they see nothing of theta, see _dual_point
        norms, limits = norms[~free], limits[~free]
    elif isinstance(penalty, (L1, ElasticNet, NonNegative)):  # one limit for all
        ratio = penalty.l1_ratio if isinstance(penalty, ElasticNet) else 1.0
        largest = u.max() if isinstance(penalty, NonNegative) else np.abs(u).max()
        norms, limits = np.array([max(largest, 0.0)]), np.array([penalty.alpha * ratio])
    else:
        return np.inf
    with np.errstate(divide="ignore", invalid="ignore"):
        scales = np.where(norms > 0, limits / norms, np.inf)
    return float(scales.min(initial=np.inf))


def _group_norms(penalty: Any, u: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    groups = np.asarray(penalty.groups)
    count = int(groups.max()) + 1
    part = np.maximum(u, 0.0) if penalty.positive else u
    unit = float(np.abs(part).max(initial=0.0)) or 1.0  # so that squares do not overflow
    squares = (part / unit) ** 2
    squares = squares if part.ndim == 1 else squares.sum(axis=1)
    norms = unit * np.sqrt(np.bincount(groups, squares, minlength=count))
    weights = np.ones(count) if penalty.weights is None else np.asarray(penalty.weights, float)
    return norms, limits_of(penalty.alpha, weights)


def _conjugate(problem: Any, theta: NDArray[Any]) -> NDArray[Any]:
    """Conjugates of the losses, entry by entry; infinite outside their domain."""
    loss, y = problem.loss, problem.y
    if isinstance(loss, Squared):
        return theta * (0.5 * theta + y)
    if isinstance(loss, Huber):
        inside = np.abs(theta) <= loss.delta * (1.0 + 4.0 * _EPS)
        return np.where(inside, theta * (0.5 * theta + y), np.inf)
    if isinstance(loss, Poisson):
        return _entropy(theta + y) - (theta + y)
    if isinstance(loss, Logistic):
        q = -y * theta
        return _entropy(q) + _entropy(1.0 - q)
    return _entropy(theta + y)


def _entropy(p: NDArray[Any]) -> NDArray[Any]:
    """``p log p``; infinite below 0, by more than rounding."""
    safe = np.maximum(p, 0.0)
    return np.where(p < -4.0 * _EPS, np.inf, safe * np.log(np.where(safe > 0, safe, 1.0)))


def _penalty_conjugate(penalty: Any, u: NDArray[Any], mu: float) -> float:
    """Conjugate of the penalty, plus ``mu / 2`` times the squared norm, at `u`.

    Without a ridge term it is 0 on its domain, where the caller has made `u` be.
    """
    if isinstance(penalty, Box):
        low, high = penalty.low, penalty.high
        if mu > 0:
            best = np.clip(u / mu, low, high)
            return float(np.sum(u * best - 0.5 * mu * best * best))
        return float(np.sum(np.maximum(low * u, high * u)))
    if mu == 0:
        return 0.0
    if isinstance(penalty, GroupL1):
        norms, limits = _group_norms(penalty, u)
        above = np.maximum(norms - limits, 0.0)
    elif isinstance(penalty, NonNegative):
        above = np.maximum(u - penalty.alpha, 0.0)
    else:
        limit: Any = 0.0
        if isinstance(penalty, WeightedL1):
            limit = limits_of(penalty.alpha, penalty.weights)
        elif isinstance(penalty, ElasticNet):
            limit = penalty.alpha * penalty.l1_ratio
        elif isinstance(penalty, L1):
            limit = penalty.alpha
        above = np.maximum(np.abs(u) - limit, 0.0)
    return float(np.sum(above * above)) / (2.0 * mu)


# -- subdifferentials ------------------------------------------------------------------------------


def subgradient_distances(penalty: Any, w: NDArray[Any], g: NDArray[Any]) -> NDArray[Any]:
    """Return the distances of ``-g`` to the subdifferential of the penalty at `w`.

    Parameters
    ----------
    penalty : named tuple or None
        The penalty; for a non-convex one the limiting subdifferential.
    w, g : ndarray of shape (p,) or (p, k)
        Coefficients, and derivatives of the smooth part.

    Returns
    -------
    ndarray
        One a coefficient; for groups one a group. Infinite where `w` is outside the domain.
    """
    if penalty is None:
        return np.abs(g).ravel()
    if isinstance(penalty, GroupL1):
        return _group_distances(penalty, w, g)
    if isinstance(penalty, (Box, NonNegative)):
        low, high, shift = (
            (penalty.low, penalty.high, 0.0)
            if isinstance(penalty, Box)
            else (0.0, np.inf, penalty.alpha)
        )
        slope = g + shift
        distance = np.abs(slope)
        distance = np.where(w <= low, np.maximum(-slope, 0.0), distance)
        distance = np.where(w >= high, np.maximum(slope, 0.0), distance)
        if low == high:
            distance = np.zeros_like(g)
        return np.where((w < low) | (w > high), np.inf, distance).ravel()
    size, sign = np.abs(w), np.sign(w)
    flat: Any
    corner: Any
    if isinstance(penalty, SquaredL2):
        return np.abs(g + penalty.alpha * w).ravel()
    if isinstance(penalty, ElasticNet):
        corner = penalty.alpha * penalty.l1_ratio
        flat = corner + penalty.alpha * (1 - penalty.l1_ratio) * size
    elif isinstance(penalty, MCP):
        corner = penalty.alpha
        flat = np.maximum(penalty.alpha - size / penalty.gamma, 0.0)
    elif isinstance(penalty, SCAD):
        corner, gamma = penalty.alpha, penalty.gamma
        falling = np.maximum(gamma * corner - size, 0.0) / (gamma - 1.0)
        flat = np.where(size <= corner, corner, falling)
    elif isinstance(penalty, WeightedL1):
        corner = limits_of(penalty.alpha, penalty.weights)
        flat = corner
    else:
        corner = flat = penalty.alpha
    with np.errstate(invalid="ignore"):
        inside = np.abs(g + sign * flat)
        distance = np.where(size > 0, inside, np.maximum(np.abs(g) - corner, 0.0))
    return np.where(np.isnan(distance), np.inf, distance).ravel()


def _group_distances(penalty: Any, w: NDArray[Any], g: NDArray[Any]) -> NDArray[Any]:
    groups = np.asarray(penalty.groups)
    count = int(groups.max()) + 1
    rows = (lambda v: v) if w.ndim == 1 else (lambda v: v.sum(axis=1))
    sizes = np.sqrt(np.bincount(groups, rows(w * w), minlength=count))
    outward, limits = _group_norms(penalty, -g)
    at_zero = np.maximum(outward - limits, 0.0)
    of = groups if w.ndim == 1 else groups[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        slope = g + np.where(limits > 0, limits / sizes, 0.0)[of] * w
    if penalty.positive:
        slope = np.where(w > 0, slope, np.minimum(slope, 0.0))
    elsewhere = np.sqrt(np.bincount(groups, rows(slope * slope), minlength=count))
    distance = np.where(sizes > 0, elsewhere, at_zero)
    if penalty.positive:
        outside = np.bincount(groups, rows((w < 0).astype(float)), minlength=count) > 0
        distance = np.where(outside, np.inf, distance)
    return np.where(np.isnan(distance), np.inf, distance)
