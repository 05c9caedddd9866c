"""Linear models with the penalty of an elastic net, as estimators and paths need them."""

from __future__ import annotations

import copy
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

from lowrank_opt.block_coordinate import design
from lowrank_opt.block_coordinate.composite import CompositeProblem
from lowrank_opt.block_coordinate.glm import GLMProblem
from lowrank_opt.block_coordinate.losses import Squared
from lowrank_opt.core.errors import ProblemError
from lowrank_opt.numerics._arrays import real_array
from lowrank_opt.numerics.penalties import L1, ElasticNet, GroupL1, NonNegative, WeightedL1

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "eliminate",
    "feature_weights",
    "least_squares",
    "least_sum",
    "mean_one",
    "needs_least_squares",
    "null_strength",
    "penalized",
    "sibling",
]

# Derivatives up to this part of the largest at the null model count as 0 where solutions are not
# unique; numbers that the columns concerned may have.
_FLAT, _LARGEST = 1e-7, 250_000
# What a problem with another ridge term, or with other targets, has in common with the first.
_DATA = ("X", "y", "loss", "l2", "sample_weight", "fit_intercept", "column_squares")
_KEPT = {"l2": ("null_intercept", "scale", "null_gradient", "null_products"), "y": ()}


def penalized(
    smooth: GLMProblem, strength: float, l1_ratio: float = 1.0, *, weights: Any = None,
    positive: bool = False, groups: Any = None,
) -> CompositeProblem:  # fmt: skip
    """Return a linear model with the penalty of an elastic net, in its most special form.

    Parameters
    ----------
    smooth : GLMProblem
        The loss; its ridge term is set by the penalty.
    strength : float
        Factor of the penalty, in units of a sum over samples.
    l1_ratio : float, default=1.0
        Share of the absolute values, or of the norms of groups.
    weights : ndarray or None, default=None
        Factors of features, or of groups.
    positive : bool, default=False
        Whether coefficients must be at least 0.
    groups : ndarray of shape (n_features,) or None, default=None
        The group of each feature.
    """
    flat, ridge = float(strength * l1_ratio), float(strength * (1.0 - l1_ratio))
    penalty: Any
    if flat == 0 and weights is not None:  # only what is excluded remains of them
        flat, weights = 1.0, np.where(np.isinf(weights), np.inf, 0.0)
    if groups is not None or (positive and weights is not None):
        labels = np.arange(smooth.n_features) if groups is None else groups
        penalty = GroupL1(flat, labels, weights, positive)
    elif positive:
        penalty = NonNegative(flat)
    elif weights is not None:
        penalty = WeightedL1(flat, weights)
    elif ridge > 0:
        return CompositeProblem(sibling(smooth, l2=0.0), ElasticNet(float(strength), l1_ratio))
    else:
        penalty = L1(flat)
    return CompositeProblem(sibling(smooth, l2=ridge), penalty)


def sibling(problem: GLMProblem, **changes: Any) -> GLMProblem:
    """Return a problem with the same design and another ``l2`` or ``y``; nothing is read anew.

    Parameters
    ----------
    problem : GLMProblem
        The problem.
    **changes
        ``l2``, or ``y`` of the same shape, checked by the caller.
    """
    if changes == {"l2": problem.l2}:
        return problem
    kept = set(_DATA).union(*(_KEPT[name] for name in changes))
    if "y" not in changes:
        _ = problem.scale  # so that it is computed once for all
    twin = copy.copy(problem)
    twin.__dict__.clear()
    twin.__dict__.update({k: v for k, v in problem.__dict__.items() if k in kept} | changes)
    return twin


def mean_one(name: str, weights: Any) -> NDArray[Any] | None:
    """Return sample weights with a mean of 1; a single number means equal weights.

    Parameters
    ----------
    name : str
        Name of the argument in messages.
    weights : array-like or None
        The weights.

    Raises
    ------
    ProblemError
        All are zero, or some are not finite.
    """
    if weights is None or isinstance(weights, Real):
        return None
    array = np.asarray(real_array(name, weights)[0], np.float64)
    if array.ndim != 1 or array.size == 0 or (array < 0).any():
        return array  # the problem knows what to say
    if not array.any():
        raise ProblemError(f"{name} is zero for all samples; give some a positive weight")
    array = array / array.max()  # so that the sum does not overflow
    scaled: NDArray[Any] = array * (array.size / array.sum())
    return scaled


def feature_weights(owner: str, weights: Any, size: int, of: str = "features") -> NDArray[Any]:
    """Return weights of a penalty, checked.

    Parameters
    ----------
    owner : str
        Who asks, for messages.
    weights : array-like of shape (size,)
        At least 0, infinite allowed.
    size : int
        How many there must be.
    of : str, default="features"
        Of what.

    Raises
    ------
    ProblemError
        Another shape, a negative number or NaN.
    """
    array = np.array(real_array("weights", weights, finite=False)[0], np.float64)
    if array.shape != (size,):
        raise ProblemError(
            f"{owner}: weights has shape {array.shape}; expected ({size},), one for each of the "
            f"{size} {of}"
        )
    if not (array >= 0).all():
        i = int(np.argmin(array >= 0))
        raise ProblemError(f"{owner}: weights[{i}] = {array[i]:g}; weights must be at least 0")
    return array


def null_strength(
    smooth: GLMProblem, *, weights: Any = None, positive: bool = False, groups: Any = None
) -> float:
    """Return the smallest factor of the penalty at which all penalised coefficients are 0.

    Parameters
    ----------
    smooth : GLMProblem
        The loss.
    weights, positive, groups
        As in :func:`penalized`.

    Returns
    -------
    float
        In units of a sum over samples; NaN where it would have to be found iteratively: with
        unpenalised features and another than the squared loss.
    """
    count = smooth.n_features if groups is None else int(np.max(groups)) + 1
    limits = np.ones(count) if weights is None else np.asarray(weights)
    free = np.flatnonzero((limits == 0) if groups is None else (limits == 0)[groups])
    z: Any = np.broadcast_to(smooth.null_intercept, (smooth.n_samples, smooth.n_outputs))
    z = np.ascontiguousarray(z.reshape(smooth.y.shape))
    if free.size:
        if not isinstance(smooth.loss, Squared):
            return float("nan")
        z = smooth.start(least_squares(smooth, 0.0, free).reshape(-1))
    c = None if free.size else smooth.__dict__.get("null_products")  # a solver may have left it
    if c is None:
        c = -design.transposed_times(smooth.X, smooth.slopes(z))
    sizes = np.maximum(c, 0.0) if positive else np.abs(c)
    if groups is not None:
        squares = sizes * sizes if sizes.ndim == 1 else (sizes * sizes).sum(axis=1)
        sizes = np.sqrt(np.bincount(groups, squares, minlength=count))
    elif sizes.ndim == 2:
        sizes = sizes.max(axis=1)
    live = limits > 0
    return float(np.max(sizes[live] / limits[live], initial=0.0))


def least_squares(smooth: GLMProblem, ridge: float, only: Any = None) -> NDArray[Any]:
    """Return the point of least squares plus ``ridge / 2 |w|^2``; without ridge the shortest one.

    Parameters
    ----------
    smooth : GLMProblem
        With the squared loss.
    ridge : float
        At least 0.
    only : ndarray of int or None, default=None
        The features that may be used.

    Returns
    -------
    ndarray of shape `x_shape`
        The point, in float64.

    Notes
    -----
    Cost, dense: a Cholesky factor of the smaller side; sparse: one pass over the data per
    iteration of LSQR.
    """
    n, p = smooth.shape
    only = np.arange(p) if only is None else only
    s = np.ones(n) if smooth.sample_weight is None else smooth.sample_weight
    X = smooth.X if only.size == p else smooth.X[:, only]
    Y = smooth.y.reshape(n, -1)
    center, offset = np.zeros(only.size), np.zeros(Y.shape[1])
    if smooth.fit_intercept:
        center = design.transposed_times(X, s) / s.sum()
        offset = s @ Y / s.sum()
    root = np.sqrt(s)
    B = root[:, None] * (Y - offset)
    if sp.issparse(X):
        w = _sparse_least_squares(X, root, center, B, ridge)
    else:
        A = root[:, None] * (X.astype(np.float64) - center)
        if ridge == 0:
            w = np.linalg.lstsq(A, B, rcond=None)[0]
        elif only.size <= n:
            w = np.linalg.solve(A.T @ A + ridge * np.eye(only.size), A.T @ B)
        else:
            w = A.T @ np.linalg.solve(A @ A.T + ridge * np.eye(n), B)
    x = np.zeros((p + smooth.fit_intercept, Y.shape[1]))
    x[only] = w
    if smooth.fit_intercept:
        x[p] = offset - center @ w
    return x.reshape(smooth.x_shape)


def _sparse_least_squares(X: Any, root: Any, center: Any, B: Any, ridge: float) -> NDArray[Any]:
    from scipy.sparse.linalg import LinearOperator, lsqr

    operator = LinearOperator(
        X.shape,
        matvec=lambda v: root * (X @ v - center @ v),
        rmatvec=lambda u: X.T @ (root * u) - center * (root @ u),
        dtype=np.float64,
    )
    limit = 10 * min(X.shape) + 100
    return np.column_stack([
        lsqr(operator, b, damp=ridge**0.5, atol=1e-13, btol=1e-13, conlim=0.0, iter_lim=limit)[0]
        for b in B.T
    ])  # fmt: skip


def needs_least_squares(problem: CompositeProblem) -> bool:
    """Whether a problem is one of least squares or ridge, which elimination solves.

    Parameters
    ----------
    problem : CompositeProblem
        The problem.
    """
    smooth, pen = problem.smooth, problem.penalty
    if not isinstance(smooth, GLMProblem) or not isinstance(smooth.loss, Squared):
        return False
    form = pen if isinstance(pen, GroupL1) else problem.l1_form()
    if form is None or form.positive:
        return False
    strength = pen.alpha if isinstance(pen, GroupL1) else form.lam
    weights = form.weights
    return strength == 0 or (
        weights is not None and not np.isin(weights, (0, np.inf), invert=True).any()
    )


def eliminate(problem: CompositeProblem) -> NDArray[Any]:
    """Return the solution of a problem of least squares or ridge; see :func:`least_squares`.

    Parameters
    ----------
    problem : CompositeProblem
        One that :func:`needs_least_squares`.
    """
    form, weights, ridge = problem.l1_form(), None, problem.smooth.l2
    if form is not None:
        weights, ridge = form.weights, form.mu
    elif problem.penalty.weights is not None:
        weights = np.asarray(problem.penalty.weights)[np.asarray(problem.penalty.groups)]
    only = None if weights is None else np.flatnonzero(np.isfinite(weights))
    return least_squares(problem.smooth, ridge, only)


def least_sum(problem: CompositeProblem, result: Any) -> Any:
    """Return the result at the non-negative least-squares solution whose sum is least.

    Solutions have one fit, so they differ by what the columns of vanishing derivative do not see:
    a linear program finds the least sum, and the fit is computed anew on its support.

    Parameters
    ----------
    problem : CompositeProblem
        Squared loss, one output, ``NonNegative(0)``.
    result : Result
        A converged one; others are returned as they are.
    """
    smooth = problem.smooth
    p = smooth.n_features
    x = problem.flat(result.x)
    g = smooth.gradient_at(smooth.start(x), x)[:p]
    face = np.flatnonzero((x[:p] > 0) | (g <= _FLAT * smooth.null_gradient))
    if not result.success or face.size == 0 or face.size * smooth.n_samples > _LARGEST:
        return result
    A = smooth.X[:, face]
    A = (A.toarray() if sp.issparse(A) else A).astype(np.float64)
    root = np.ones(len(A)) if smooth.sample_weight is None else np.sqrt(smooth.sample_weight)
    if smooth.fit_intercept:
        A = A - (root**2 @ A) / np.sum(root**2)
    A = A * root[:, None]
    size = np.linalg.norm(A, axis=0)
    face, A = face[size > 0], A[:, size > 0]
    if face.size == 0 or _independent(A / size[size > 0]):
        return result
    from scipy.optimize import linprog

    unit = np.abs(A).max()
    program = linprog(np.ones(face.size), A_eq=A / unit, b_eq=A @ x[face] / unit)
    if program.x is None:
        return result
    support = face[program.x > 1e-9 * program.x.max(initial=0.0)]
    best = np.zeros_like(x)
    target = smooth.y if not smooth.fit_intercept else smooth.y - np.average(
        smooth.y, weights=root**2
    )  # fmt: skip
    columns = np.searchsorted(face, support)
    best[support] = np.linalg.lstsq(A[:, columns], root * target)[0]
    if (best[support] < 0).any():
        return result
    if smooth.fit_intercept:
        rest = smooth.y - design.times(smooth.X, best[:p])
        best[-1] = np.average(rest, weights=root**2)
    point = problem.shaped(best)
    certificate = problem.certificate(point)
    if not certificate.residual <= max(result.certificate.residual, 1e-12):
        return result
    result["x"], result["fun"], result["certificate"] = point, certificate.objective, certificate
    return result


def _independent(A: NDArray[Any]) -> bool:
    """Whether columns of length 1 are clearly linearly independent."""
    if A.shape[1] > A.shape[0]:
        return False
    try:
        factor = np.linalg.cholesky(A.T @ A)
    except np.linalg.LinAlgError:
        return False
    return float(factor.diagonal().min()) > 1e-5
