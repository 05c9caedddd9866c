"""What estimators of linear models share: checks, columns of targets, attributes, prediction."""

from __future__ import annotations

from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import scipy.sparse as sp
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from lowrank_opt.block_coordinate.glm import GLMProblem
from lowrank_opt.block_coordinate.penalized import (
    eliminate,
    feature_weights,
    mean_one,
    needs_least_squares,
    null_strength,
    penalized,
    sibling,
)
from lowrank_opt.block_coordinate.sparse_glm import SparseGLMSolver
from lowrank_opt.core.errors import ProblemTypeError
from lowrank_opt.core.params import COUNT, TOLERANCE, Interval, StrOptions, validate_parameters
from lowrank_opt.core.sklearn_bridge import (
    CallbackSupportMixin,
    open_bridge,
    resolve_solver,
    run_solver,
    with_callbacks,
)

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from lowrank_opt.block_coordinate.composite import CompositeProblem
    from lowrank_opt.core.result import Result
    from lowrank_opt.core.solver import Solver

__all__ = ["COMMON", "FLOATS", "LinearModel", "LinearRegressor", "note", "start_of"]

FLOATS = [np.float64, np.float32]
_CHOICES: dict[str, tuple[str, dict[str, Any]]] = {"auto": ("SparseGLMSolver", {})}
COMMON: dict[str, list[Any]] = {
    "alpha": [Interval(Real, 0, None, closed="left")],
    "fit_intercept": ["boolean"],
    "precompute": ["boolean", StrOptions({"auto"}), "array"],
    "copy_X": ["boolean"],
    "max_iter": [Interval(Integral, 0, None, closed="left")],
    "tol": [TOLERANCE],
    "warm_start": ["boolean"],
    "positive": ["boolean"],
    "selection": [StrOptions({"cyclic", "random"})],
    "weights": [None, "array"],
    "n_threads": [None, COUNT],
}


class LinearModel(CallbackSupportMixin, BaseEstimator):
    """Sparse linear models: how they are run, and what is read off a point.

    The class has ``fit_intercept``, ``solver``, ``tol``, ``max_iter``, ``n_threads`` and
    ``warm_start``.
    """

    _constraints: ClassVar[dict[str, list[Any]]] = {}

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags

    def _check_parameters(self) -> None:
        values = {name: getattr(self, name) for name in self._constraints}
        validate_parameters(type(self).__name__, values, self._constraints)

    def _make_solver(self, dtype: Any) -> Solver:
        params = {
            "tol": self._tolerance(dtype), "max_iter": self.max_iter, "n_threads": self.n_threads
        }  # fmt: skip
        if isinstance(self.solver, str) and self.solver == "auto":
            return SparseGLMSolver(**params)  # without the look-ups, which take half a millisecond
        return resolve_solver(self.solver, choices=_CHOICES, **params)

    def _tolerance(self, dtype: Any) -> float:
        """Tolerance for data of a type."""
        return float(self.tol)

    def _predictors(self, X: Any) -> NDArray[Any]:
        check_is_fitted(self)
        X = validate_data(self, X, accept_sparse="csr", dtype=FLOATS, reset=False)
        return np.asarray(X @ self.coef_.T + self.intercept_)

    @property
    def sparse_coef_(self) -> sp.csr_array:
        """The coefficients as a sparse array of shape (n_targets or 1, n_features)."""
        check_is_fitted(self)
        return sp.csr_array(np.atleast_2d(self.coef_))


class LinearRegressor(RegressorMixin, LinearModel):
    """Regression: one problem for each column of the targets, or one for all of them.

    ``_jointly``: all columns in one problem. ``_squeezes``: a single column of targets gives a
    vector of coefficients, as scikit-learn's ``Lasso`` does.
    """

    _jointly: ClassVar[bool] = False
    _squeezes: ClassVar[bool] = False

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags

    def _penalty(self, n_features: int) -> tuple[float, dict[str, Any]]:
        """Return the strength for a mean over samples, and keywords of :func:`penalized`."""
        weights = self.weights
        if weights is not None:
            weights = feature_weights(type(self).__name__, weights, n_features)
        keywords = {
            "l1_ratio": getattr(self, "l1_ratio", 1.0),
            "weights": weights,
            "positive": bool(self.positive),
        }
        return self.alpha, keywords

    @with_callbacks
    def fit(self, X: ArrayLike, y: ArrayLike, sample_weight: Any = None) -> LinearRegressor:
        """Fit the model.

        Parameters
        ----------
        X : array-like or sparse of shape (n_samples, n_features)
            The data. A Fortran-ordered array or a CSC matrix, of float32 or float64, is not copied.
        y : array-like of shape (n_samples,) or (n_samples, n_targets)
            Targets.
        sample_weight : array-like of shape (n_samples,), float or None, default=None
            Weights of the samples, at least 0, in any unit: they are rescaled to a mean of 1, as
            in scikit-learn. A sample of weight 0 is as good as left out, one of weight 2 as good
            as given twice.

        Returns
        -------
        object
            Itself.

        Raises
        ------
        ProblemError
            Data, weights or groups that are not finite, negative or of another shape than needed.
        ParameterError
            A parameter out of range.
        """
        self._check_parameters()
        X, y = validate_data(
            self, X, y, accept_sparse="csc", order="F", dtype=FLOATS, multi_output=True,
            y_numeric=True, ensure_all_finite=False,
        )  # fmt: skip
        if sp.issparse(y):
            raise ProblemTypeError(
                "y is a sparse matrix; dense targets are needed: use y.toarray()"
            )
        n, p = X.shape
        alpha, keywords = self._penalty(p)
        Y = y.reshape(n, -1)
        columns = [Y] if self._jointly and Y.shape[1] > 1 else list(Y.T)
        weights = mean_one("sample_weight", sample_weight)
        smooth = GLMProblem(X, columns[0], sample_weight=weights, fit_intercept=self.fit_intercept)
        solver, starts = self._make_solver(X.dtype), self._starts(Y.shape[1], p)
        results, largest = [], []
        bridge = open_bridge(self, X)
        for k, column in enumerate(columns):
            if k:
                smooth = sibling(smooth, y=np.array(column, np.float64))
            problem = penalized(smooth, n * alpha, **keywords)
            rows = slice(None) if self._jointly else slice(k, k + 1)
            start = None if starts is None else start_of(problem, *(part[rows] for part in starts))
            start = eliminate(problem) if needs_least_squares(problem) else start
            result = run_solver(self, solver, problem, X=X, bridge=bridge, x0=start)
            results.append(self._settle(problem, result))
            largest.append(self._smallest_null(smooth, keywords))
            note(results[-1], alpha, largest[-1])
        if bridge is not None:
            bridge.close()
        self._read(results, p, vector=y.ndim == 1 or (self._squeezes and Y.shape[1] == 1))
        self.intercept_ = self._intercept(results, p, y.ndim == 1)
        self.dual_gap_ = self.dual_gap_ / n
        if hasattr(self, "alpha"):
            self.alpha_max_ = max(largest)
        return self

    def _settle(self, problem: CompositeProblem, result: Result) -> Result:
        """Return the result to keep, where several points solve the problem."""
        return result

    def _starts(self, n_targets: int, p: int) -> tuple[Any, Any] | None:
        """Coefficients and intercepts of the last fit, one row a target, if they are to be used."""
        if not self.warm_start or not hasattr(self, "coef_"):
            return None
        coef = np.atleast_2d(self.coef_)
        if coef.shape != (n_targets, p):
            return None
        return coef, np.broadcast_to(self.intercept_, n_targets)

    @staticmethod
    def _smallest_null(smooth: GLMProblem, keywords: dict[str, Any]) -> float:
        if keywords["l1_ratio"] == 0:
            return float("inf")
        rest = {name: keywords.get(name) for name in ("weights", "groups")}
        largest = null_strength(smooth, positive=keywords["positive"], **rest)
        return largest / (keywords["l1_ratio"] * smooth.n_samples)

    def _read(self, results: list[Any], p: int, vector: bool) -> None:
        """Set the attributes that come from results, one for each problem."""
        x = np.column_stack([result.x.reshape(len(result.x), -1) for result in results])
        coef = np.ascontiguousarray(x[:p].T)
        gaps = [result.certificate.gap for result in results]
        gaps = [np.nan if gap is None else gap for gap in gaps]
        # scikit-learn wants at least 1 iteration, and 0 is what a start at the answer needs.
        n_iter = [max(1, result.nit) for result in results]
        self.active_set_ = np.flatnonzero(coef.any(axis=0))
        self.coef_ = coef[0] if vector else coef
        one = len(results) == 1
        self.dual_gap_ = gaps[0] if one else np.array(gaps)
        self.n_iter_ = n_iter[0] if one else n_iter
        self.result_ = results[0] if one else results

    def _intercept(self, results: list[Any], p: int, scalar: bool) -> Any:
        if not self.fit_intercept:
            return 0.0
        rows = [np.atleast_1d(result.x[p]) for result in results]
        intercept = np.concatenate(rows)
        return intercept[0] if scalar else intercept

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """Predict targets.

        Parameters
        ----------
        X : array-like or sparse of shape (n_samples, n_features)
            The data.

        Returns
        -------
        ndarray of shape (n_samples,) or (n_samples, n_targets)
            The predictions.
        """
        return self._predictors(X)


def start_of(problem: CompositeProblem, coef: Any, intercept: Any) -> NDArray[Any]:
    """Return a start from rows of coefficients and intercepts; solvers make it feasible.

    Parameters
    ----------
    problem : CompositeProblem
        The problem.
    coef : ndarray of shape (n_outputs, n_features)
        Coefficients.
    intercept : ndarray of shape (n_outputs,)
        Intercepts.
    """
    smooth = problem.smooth
    x = np.zeros((smooth.n_features + smooth.fit_intercept, len(coef)))
    x[: smooth.n_features] = coef.T
    if smooth.fit_intercept:
        x[-1] = intercept
    return x.reshape(problem.x_shape)


def note(result: Result, alpha: float, largest: float) -> None:
    """Make a result fit to be kept: without its state, which has a matrix of products.

    The message says so when the penalty is too strong for anything to happen.

    Parameters
    ----------
    result : Result
        The result.
    alpha, largest : float
        Strength of the penalty, and the smallest one that has this effect.
    """
    result["state"] = None
    if alpha >= largest:
        result["message"] += (
            f" alpha={alpha:.6g} is at least alpha_max_={largest:.6g}: all penalised coefficients "
            "are 0."
        )
