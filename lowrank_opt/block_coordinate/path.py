"""Paths: the same data at one penalty after another, each run starting from the last."""

from __future__ import annotations

import time
import warnings
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from lowrank_opt.block_coordinate.certificates_path import can_grade, grade_path
from lowrank_opt.block_coordinate.glm import GLMProblem
from lowrank_opt.block_coordinate.penalized import (
    eliminate,
    feature_weights,
    mean_one,
    needs_least_squares,
    null_strength,
    penalized,
)
from lowrank_opt.block_coordinate.sparse_glm import SparseGLMSolver
from lowrank_opt.core.errors import ParameterError, ProblemError
from lowrank_opt.core.params import COUNT, TOLERANCE, Interval, validate_parameters
from lowrank_opt.core.threads import thread_limit
from lowrank_opt.numerics._arrays import real_array

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import ArrayLike, NDArray

    from lowrank_opt.block_coordinate.composite import CompositeProblem

__all__ = ["lasso_path"]

_CONSTRAINTS: dict[str, list[Any]] = {
    "l1_ratio": [Interval(Real, 0, 1)],
    "eps": [Interval(Real, 0, None, closed="neither")],
    "n_alphas": [COUNT],
    "alphas": [None, COUNT, "array"],
    "fit_intercept": ["boolean"],
    "positive": ["boolean"],
    "tol": [TOLERANCE],
    "max_iter": [Interval(Integral, 0, None, closed="left")],
    "n_threads": [None, COUNT],
    "return_n_iter": ["boolean"],
}
# The smallest alpha of a grid, for targets that nothing explains; scikit-learn's.
_TINY = float(np.finfo(np.float64).resolution)


class PathPoint(NamedTuple):
    """What remains of a point of a path: its nonzero numbers, and how it was reached."""

    index: Any
    values: Any
    residual: float
    nit: int


def lasso_path(
    X: ArrayLike,
    y: ArrayLike,
    *,
    l1_ratio: float = 1.0,
    eps: float = 1e-3,
    n_alphas: int = 100,
    alphas: Any = None,
    fit_intercept: bool = False,
    positive: bool = False,
    weights: Any = None,
    sample_weight: Any = None,
    coef_init: Any = None,
    tol: float = 1e-6,
    max_iter: int = 1000,
    n_threads: int | None = 1,
    return_n_iter: bool = False,
    precompute: Any = "auto",
    Xy: Any = None,
    copy_X: bool = True,
    verbose: Any = False,
) -> tuple[Any, ...]:
    r"""Solve the lasso or elastic net for a sequence of strengths of the penalty.

    .. math:: \min_{w, b}\; \frac1{2n} \|y - Xw - b\|^2
       + \alpha \Bigl(\rho \|w\|_1 + \frac{1 - \rho}2 \|w\|_2^2\Bigr)

    with :math:`\rho` for `l1_ratio`. The signature and what is returned are those of scikit-learn's
    ``lasso_path`` (and, with `l1_ratio`, ``enet_path``). **As there, no intercept is fitted unless
    asked for**: ``fit_intercept=True`` centres implicitly, sparse data included.

    Parameters
    ----------
    X : array-like or scipy sparse of shape (n_samples, n_features)
        The data; float32 is kept. Fortran-ordered arrays and ``csc_array`` are not copied.
    y : array-like of shape (n_samples,) or (n_samples, n_targets)
        Targets. With several, ``|w|_1`` is the sum of the norms of the rows of coefficients: a
        feature is in the model for all targets or for none.
    l1_ratio : float, default=1.0
        Share of the absolute values in the penalty, in [0, 1].
    eps : float, default=1e-3
        Smallest alpha of the automatic grid over its largest.
    n_alphas : int, default=100
        Length of the automatic grid, which begins where all coefficients are 0.
    alphas : array-like, int or None, default=None
        The strengths, at least 0, in any order; an integer is `n_alphas`.
    fit_intercept : bool, default=False
        Whether to fit an intercept, which is never penalised.
    positive : bool, default=False
        Whether the coefficients must be at least 0.
    weights : array-like of shape (n_features,) or None, default=None
        Factor of the absolute value of each coefficient: 0 leaves it unpenalised, an infinite one
        keeps it at 0.
    sample_weight : array-like of shape (n_samples,) or None, default=None
        Weights of the samples, in any unit: they are rescaled to a mean of 1.
    coef_init : array-like of shape (n_features,) or (n_targets, n_features), default=None
        Where to start at the largest alpha.
    tol : float, default=1e-6
        Largest duality gap, relative to that of the model without coefficients, at every alpha.
    max_iter : int, default=1000
        Limit on iterations at each alpha; an iteration reads the whole data once.
    n_threads : int or None, default=1
        Threads of BLAS.
    return_n_iter : bool, default=False
        Whether to return the numbers of iterations.
    precompute : object, default="auto"
        Without effect, as what follows; accepted so that calls of scikit-learn's function work.
    Xy : object, default=None
        Without effect.
    copy_X : bool, default=True
        Without effect: the data are never overwritten.
    verbose : bool or int, default=False
        Without effect: nothing is printed.

    Returns
    -------
    alphas : ndarray of shape (n_alphas,)
        The strengths, falling.
    coefs : ndarray of shape (n_features, n_alphas) or (n_targets, n_features, n_alphas)
        The coefficients.
    dual_gaps : ndarray of shape (n_alphas,)
        Duality gaps in the units of the objective above, computed from the data in float64
        independently of the solver; NaN where no dual bound is known (``alpha=0``).
    intercepts : ndarray of shape (n_alphas,) or (n_targets, n_alphas)
        The intercepts. Only if `fit_intercept`.
    n_iters : list of int
        Iterations at each alpha. Only if `return_n_iter`.

    Raises
    ------
    ProblemError
        Data or weights that are not finite or do not fit, an automatic grid with ``l1_ratio=0``.
    ParameterError
        A parameter out of range.

    Warns
    -----
    ConvergenceWarning
        If some alpha ended above 10 times `tol`.

    See Also
    --------
    lowrank_opt.block_coordinate.Lasso : The model at one alpha.

    Notes
    -----
    Each run goes on from the state of the one before: coefficients, residuals, products of
    columns. The certificates of all points are computed together, as products of matrices.

    Examples
    --------
    >>> import numpy as np
    >>> from lowrank_opt.block_coordinate import lasso_path
    >>> alphas, coefs, gaps = lasso_path(np.eye(2), [2.0, 4.0], alphas=[1.0, 0.5])
    >>> coefs
    array([[0., 1.],
           [2., 3.]])
    """
    given = locals()
    validate_parameters("lasso_path", {name: given[name] for name in _CONSTRAINTS}, _CONSTRAINTS)
    y = real_array("y", y)[0]
    smooth = GLMProblem(
        X, y, sample_weight=mean_one("sample_weight", sample_weight), fit_intercept=fit_intercept
    )
    n, p = smooth.shape
    if weights is not None:
        weights = feature_weights("lasso_path", weights, p)
    many = smooth.y.ndim == 2
    groups = np.arange(p) if many else None
    options = {"weights": weights, "positive": positive, "groups": groups}
    if isinstance(alphas, Integral):
        n_alphas, alphas = int(alphas), None
    if alphas is None:
        if l1_ratio == 0:
            raise ProblemError(
                "lasso_path: l1_ratio=0 has no largest alpha; give the grid as alphas=[...]"
            )
        largest = null_strength(smooth, **options) / (n * l1_ratio)
        grid = (
            np.geomspace(largest, largest * eps, num=n_alphas)
            if largest > _TINY
            else np.full(n_alphas, _TINY)
        )
    else:
        grid = np.sort(np.atleast_1d(real_array("alphas", alphas)[0]).astype(np.float64))[::-1]
        if grid.ndim != 1 or grid.size == 0 or grid[-1] < 0:
            raise ParameterError(
                f"lasso_path: alphas={alphas!r} must be numbers of at least 0, such as "
                "alphas=[1.0, 0.1]"
            )
    problems = [penalized(smooth, n * float(alpha), l1_ratio, **options) for alpha in grid]
    solver = SparseGLMSolver(tol=tol, max_iter=max_iter, n_threads=n_threads)
    x0 = _start(smooth, coef_init)
    points = follow_path(solver, problems, x0)
    certificates = grades(problems, points)
    coefs = np.zeros((p + fit_intercept, *smooth.y.shape[1:], grid.size), smooth.dtype, order="F")
    for i, point in enumerate(points):
        if many:
            coefs[..., i].flat[point.index] = point.values
        else:  # faster than through `flat`
            coefs[point.index, i] = point.values
    missed = sum(residual > 10 * tol for residual, _ in certificates)
    if missed:
        from lowrank_opt.core.errors import ConvergenceWarning

        warnings.warn(
            f"lasso_path: {missed} of {grid.size} points are not accurate to tol={tol:.1e}; the "
            f"worst has residual {max(r for r, _ in certificates):.3e}. Raise max_iter or tol.",
            ConvergenceWarning,
            stacklevel=2,
        )
    gaps = np.array([np.nan if gap is None else gap / n for _, gap in certificates])
    out: list[Any] = [grid, coefs[:p] if not many else coefs[:p].transpose(1, 0, 2), gaps]
    if fit_intercept:
        out.append(coefs[p])
    if return_n_iter:
        out.append([point.nit for point in points])
    return tuple(out)


def _start(smooth: GLMProblem, coef_init: Any) -> NDArray[Any] | None:
    if coef_init is None:
        return None
    w = np.asarray(real_array("coef_init", coef_init)[0], np.float64)
    expected = (smooth.n_features,) if smooth.y.ndim == 1 else (smooth.n_outputs, smooth.n_features)
    if w.shape != expected:
        raise ProblemError(f"coef_init has shape {w.shape}; expected {expected}")
    x0 = np.zeros(smooth.x_shape)
    x0[: smooth.n_features] = w.T
    return x0


# -- the run ---------------------------------------------------------------------------------------


def follow_path(
    solver: Any, problems: Iterable[CompositeProblem], x0: Any = None
) -> list[PathPoint]:
    """Solve problems with the same data in turn, each from the last state of the one before.

    Parameters
    ----------
    solver : Solver
        :class:`SparseGLMSolver`, or any other, which then starts from the last point.
    problems : iterable of CompositeProblem
        The problems; their smooth parts may differ in ``l2``.
    x0 : array-like or None, default=None
        Where the first one starts.

    Returns
    -------
    list of PathPoint
        One for each problem.
    """
    out: list[PathPoint] = []
    state: Any = None
    with thread_limit(solver.n_threads, solver.blas_threads):
        for problem in problems:
            start = time.perf_counter()
            if needs_least_squares(problem):
                x0, state = eliminate(problem), None
            if state is None:
                solver.check(problem)
                state = solver.init(problem, x0)
            elif hasattr(solver, "follow"):
                state = solver.follow(problem, state)
            else:
                state = solver.init(problem, solver.point(problem, state))
            while solver.terminate(problem, state) is None and state.nit < solver.max_iter:
                state = solver.step(problem, state)
                if solver.max_time is not None and time.perf_counter() - start > solver.max_time:
                    break
            x = np.asarray(solver.point(problem, state)).reshape(-1)
            index = np.flatnonzero(x)
            out.append(PathPoint(index, x[index], float(state.residual), int(state.nit)))
    return out


def grades(
    problems: list[CompositeProblem], points: list[PathPoint]
) -> list[tuple[float, float | None]]:
    """Return certificates of the points of a path: residuals, and gaps where they are known.

    Parameters
    ----------
    problems : list of CompositeProblem
        The problems.
    points : list of PathPoint
        Their points.
    """
    out: dict[int, tuple[float, float | None]] = {}
    together = [i for i, problem in enumerate(problems) if can_grade(problem)]
    if together:
        found = grade_path([problems[i] for i in together], [points[i] for i in together])
        out.update(zip(together, found, strict=True))
    for i in set(range(len(problems))) - set(together):
        x = np.zeros(int(np.prod(problems[i].x_shape)), problems[i].dtype)
        x[points[i].index] = points[i].values
        certificate = problems[i].certificate(x.reshape(problems[i].x_shape))
        out[i] = (certificate.residual, certificate.gap)
    return [out[i] for i in range(len(problems))]
