"""Robust linear regression in scikit-learn's style: absolute deviations, and worst-case weights."""

from __future__ import annotations

import math
import warnings
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import scipy.sparse as sp
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from lowrank_opt.core.errors import ConvergenceWarning, ProblemError
from lowrank_opt.core.params import TOLERANCE, Interval, StrOptions, validate_parameters
from lowrank_opt.monotone.ball_projection import project_weights, worst_weights
from lowrank_opt.monotone.front import solve_program
from lowrank_opt.monotone.linear_program import LinearProgram
from lowrank_opt.monotone.points import PrimalDual

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    Values = NDArray[np.float64]

__all__ = ["L1Regressor", "RobustRegressor"]

_COMMON: dict[str, list[Any]] = {
    "alpha": [Interval(Real, 0, None, closed="left")],
    "fit_intercept": ["boolean"],
    "tol": [TOLERANCE],
    "warm_start": ["boolean"],
}


class _Linear(RegressorMixin, BaseEstimator):
    """Checks of data, and prediction."""

    _constraints: ClassVar[dict[str, list[Any]]] = {}

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags

    def _checked(self, X: Any, y: Any, sample_weight: Any) -> tuple[Any, Values, Values, Any]:
        """Return data and targets of the samples with a weight, the weights, and which they are."""
        values = {name: getattr(self, name) for name in self._constraints}
        validate_parameters(type(self).__name__, values, self._constraints)
        X, y = validate_data(
            self, X, y, accept_sparse="csr", dtype=np.float64, y_numeric=True
        )  # fmt: skip
        y = np.asarray(y, np.float64)
        weights = np.ones(len(y))
        if sample_weight is not None:
            weights = _check_sample_weight(sample_weight, X, dtype=np.float64)
        if weights.min() < 0:
            i = int(np.argmin(weights))
            raise ProblemError(
                f"sample_weight[{i}] is {weights[i]:g}: weights must be at least 0; give 0 to "
                "leave a sample out"
            )
        if not weights.any():
            raise ProblemError("sample_weight is 0 everywhere: no sample is left")
        which = weights > 0
        if which.all():
            return X, y, weights, which
        return X[which], y[which], weights[which], which

    def predict(self, X: ArrayLike) -> Values:
        """Predict targets.

        Parameters
        ----------
        X : array-like or sparse of shape (n_samples, n_features)
            The data.

        Returns
        -------
        ndarray of shape (n_samples,)
            The predictions.
        """
        check_is_fitted(self)
        X = validate_data(self, X, accept_sparse="csr", dtype=np.float64, reset=False)
        return np.asarray(X @ self.coef_ + self.intercept_)

    def _not_solved(self, message: str) -> None:
        warnings.warn(f"{type(self).__name__}: {message}", ConvergenceWarning, stacklevel=3)


class L1Regressor(_Linear):
    r"""Linear regression by least absolute deviations, or of a quantile.

    .. math:: \min_{w, b}\; \frac1{\sum_i s_i} \sum_i s_i\, \rho_q(y_i - x_i^\top w - b)
       + \alpha \|w\|_1, \qquad \rho_q(r) = \max(q r, (q - 1) r)

    with sample weights s. For the median, q = 1/2, it is half of the mean absolute deviation: a
    few targets that are far off do not matter. Objective and meaning of parameters are those of
    :class:`sklearn.linear_model.QuantileRegressor`, **but nothing is penalised by default**.

    Parameters
    ----------
    alpha : float, default=0.0
        Strength of the penalty, at least 0; the intercept is never penalised.
    quantile : float, default=0.5
        The quantile q, in (0, 1), that is predicted.
    fit_intercept : bool, default=True
        Whether to fit an intercept.
    method : {"auto", "highs", "highs-ds", "highs-ipm", "halpern"}, default="auto"
        How the linear program is solved, as in :func:`~lowrank_opt.monotone.linprog`.
    tol : float, default=1e-6
        Largest relative residual of the linear program.
    max_iter : int or None, default=None
        Limit on iterations; ``None``: that of the method.
    max_time : float or None, default=None
        Limit on seconds.
    warm_start : bool, default=False
        Whether to start from the last fit, if there are as many samples and features. Of use with
        "halpern", and when nothing has changed.

    Attributes
    ----------
    coef_ : ndarray of shape (n_features,)
        Coefficients.
    intercept_ : float
        Intercept; 0 without.
    dual_gap_ : float
        How far the objective may be above its smallest value, up to rounding. Computed from the
        data, independently of the solver.
    dual_coef_ : ndarray of shape (n_samples,)
        Multipliers u of the residuals, within ``s (q - 1)`` and ``s q`` over the sum of weights;
        strictly inside only for samples that are met exactly.
    n_iter_ : int
        Iterations, at least 1.
    result_ : Result or None
        Result of the linear program, with its certificate; ``None`` where all samples can be met
        exactly: the coefficients are then those of least norm.
    n_features_in_ : int
        Number of features.
    feature_names_in_ : ndarray of str
        Their names, when `X` has some.

    See Also
    --------
    RobustRegressor : Squared errors under worst-case weights.

    Notes
    -----
    What is solved is the dual program, with one variable a sample and one constraint a feature,

    .. math:: \max_u\; y^\top u \quad\text{subject to}\quad |X^\top u| \le \alpha,\;
       1^\top u = 0,\; (q - 1) s \le u \le q s

    (weights of sum 1), whose multipliers are the coefficients: it has neither the residuals' nor
    the coefficients' positive and negative parts as variables [1]_.

    References
    ----------
    .. [1] R. Koenker, G. Bassett, "Regression quantiles", Econometrica 46, 1978.

    Examples
    --------
    >>> from lowrank_opt.monotone.estimators import L1Regressor
    >>> model = L1Regressor().fit([[0.0], [1.0], [2.0], [3.0]], [1.0, 3.0, 100.0, 7.0])
    >>> model.coef_.round(6), round(float(model.intercept_), 6)
    (array([2.]), 1.0)
    """

    _constraints: ClassVar[dict[str, list[Any]]] = {
        **_COMMON,
        "quantile": [Interval(Real, 0, 1, closed="neither")],
        "method": [StrOptions({"auto", "highs", "highs-ds", "highs-ipm", "halpern"})],
        "max_iter": [None, Interval(Integral, 0, None, closed="left")],
        "max_time": [None, Interval(Real, 0, None)],
    }

    def __init__(
        self,
        alpha: float = 0.0,
        *,
        quantile: float = 0.5,
        fit_intercept: bool = True,
        method: str = "auto",
        tol: float = 1e-6,
        max_iter: int | None = None,
        max_time: float | None = None,
        warm_start: bool = False,
    ) -> None:
        self.alpha = alpha
        self.quantile = quantile
        self.fit_intercept = fit_intercept
        self.method = method
        self.tol = tol
        self.max_iter = max_iter
        self.max_time = max_time
        self.warm_start = warm_start

    def fit(self, X: ArrayLike, y: ArrayLike, sample_weight: Any = None) -> L1Regressor:
        """Fit the model.

        Parameters
        ----------
        X : array-like or sparse of shape (n_samples, n_features)
            The data.
        y : array-like of shape (n_samples,)
            Targets.
        sample_weight : array-like of shape (n_samples,), float or None, default=None
            Weights of the samples, at least 0, in any unit.

        Returns
        -------
        object
            Itself.

        Raises
        ------
        ProblemError
            Weights that are negative or all 0.
        ParameterError
            A parameter out of range.
        """
        X, y, weights, which = self._checked(X, y, sample_weight)
        start = self._start(len(which), X.shape[1])
        weights = weights / weights.sum()
        n, p = X.shape
        u = np.zeros(n)
        result = None
        exact = _interpolated(X, y, self.fit_intercept) if self.alpha == 0 else None
        if exact is not None:
            w, b = exact
        else:
            # Units in which multipliers and costs are about 1.
            unit = float(np.abs(y).max()) or 1.0
            bound = n * weights
            rows = sp.csr_array(X.T)
            side = np.full(p, n * float(self.alpha))
            if self.fit_intercept:
                rows = sp.csr_array(sp.vstack([rows, np.ones((1, n))]))
                side = np.append(side, 0.0)
            program = LinearProgram(
                -y / unit, rows, -side, side, (self.quantile - 1.0) * bound, self.quantile * bound
            )
            if start is not None:
                start = PrimalDual(n * start[0][which], start[1] / -unit)
            result = solve_program(
                program, method=self.method, tol=self.tol, max_iter=self.max_iter,
                max_time=self.max_time, x0=start,
            )  # fmt: skip
            result["state"] = None
            if not result.success:
                self._not_solved(
                    f"{result.message.rstrip('.')}. Raise max_iter, max_time or tol, or look at "
                    "result_."
                )
            u = np.clip(result.x.x, program.lower, program.upper) / n
            w = -unit * result.x.y[:p]
            b = float(-unit * result.x.y[p]) if self.fit_intercept else 0.0
        self.coef_, self.intercept_ = w, b
        self.dual_coef_ = np.zeros(len(which))
        self.dual_coef_[which] = u
        self.dual_gap_ = self._gap(X, y, weights, u)
        self.n_iter_ = max(1, 0 if result is None else result.nit)
        self.result_ = result
        return self

    def _start(self, n: int, p: int) -> tuple[Values, Values] | None:
        """Return multipliers and coefficients of the last fit, if they are to be used."""
        if not self.warm_start or not hasattr(self, "coef_"):
            return None
        if len(self.dual_coef_) != n or len(self.coef_) != p:
            return None
        tail = [self.intercept_] if self.fit_intercept else []
        return self.dual_coef_, np.append(self.coef_, tail)

    def _gap(self, X: Any, y: Values, weights: Values, u: Values) -> float:
        """Return the objective minus the dual one; what u violates counts with coefficients."""
        r = y - X @ self.coef_ - self.intercept_
        loss = float(weights @ np.maximum(self.quantile * r, (self.quantile - 1.0) * r))
        images = X.T @ u
        over = np.abs(images - np.clip(images, -self.alpha, self.alpha))
        penalty = self.alpha * float(np.abs(self.coef_).sum())
        wrong = float(over @ np.abs(self.coef_))
        if self.fit_intercept:
            wrong += abs(float(u.sum()) * self.intercept_)
        return max(0.0, loss + penalty - float(y @ u) + wrong)


class RobustRegressor(_Linear):
    r"""Least squares under worst-case weights: distributionally robust linear regression.

    .. math:: \min_{w, b}\; \max_{p \in P_\rho}\; \sum_i p_i\, \tfrac12 (y_i - x_i^\top w - b)^2
       + \tfrac\alpha2 \|w\|^2, \qquad
       P_\rho = \{p \ge 0,\ \textstyle\sum_i p_i = 1,\ \|n p - 1\|^2 \le 2 \rho\}

    The data are taken for a sample from a distribution that may be off by a chi-square divergence
    of :math:`\rho / n` (half of the mean of :math:`(n p_i - 1)^2`). With :math:`\rho = 0` it is
    least squares; the worst case of small :math:`\rho` adds :math:`\sqrt{2 \rho / n}` times the
    standard deviation of the losses to their mean, a confidence bound on the expected loss [1]_:
    2 is about the 95 % one. From :math:`\rho = n (n - 1) / 2` on all weight may be on one sample:
    the largest error is minimised.

    Parameters
    ----------
    rho : float, default=2.0
        Size of the set of weights, at least 0.
    alpha : float, default=0.0
        Strength of a ridge penalty, at least 0; the intercept is never penalised.
    fit_intercept : bool, default=True
        Whether to fit an intercept.
    tol : float, default=1e-6
        Largest duality gap relative to the loss of the model without coefficients.
    max_iter : int, default=1000
        Limit on iterations, one weighted least-squares problem each.
    warm_start : bool, default=False
        Whether to start from the weights of the last fit, if there are as many samples.

    Attributes
    ----------
    coef_ : ndarray of shape (n_features,)
        Coefficients.
    intercept_ : float
        Intercept; 0 without.
    weights_ : ndarray of shape (n_samples,)
        The worst-case probabilities p.
    dual_gap_ : float
        How far the objective may be above its smallest value: the worst case of the coefficients
        minus the least loss under ``weights_``, exact.
    robust_loss_ : float
        The objective.
    n_iter_ : int
        Iterations, at least 1.
    n_features_in_ : int
        Number of features.
    feature_names_in_ : ndarray of str
        Their names, when `X` has some.

    See Also
    --------
    L1Regressor : When some targets are wrong: there large errors count less, here more.

    Notes
    -----
    A game between coefficients and weights. The best coefficients for given weights are a weighted
    least-squares solution, and so the least loss is a concave smooth function of the weights, of
    which the losses are the gradient: it is maximised by projected gradient steps with
    momentum, restarts and a step found on the way; the projection is exact. The worst weights for
    the losses give the gap.

    Cost of an iteration: about ``n d²`` flops, and a sort of n numbers.

    References
    ----------
    .. [1] J. Duchi, H. Namkoong, "Variance-based regularization with convex objectives", Journal
       of Machine Learning Research 20, 2019.

    Examples
    --------
    >>> from lowrank_opt.monotone.estimators import RobustRegressor
    >>> model = RobustRegressor(rho=100.0).fit([[0.0], [0.0], [0.0]], [0.0, 0.0, 1.0])
    >>> round(float(model.intercept_), 3)  # the middle: the largest error is minimised
    0.5
    """

    _constraints: ClassVar[dict[str, list[Any]]] = {
        **_COMMON,
        "rho": [Interval(Real, 0, None, closed="left")],
        "max_iter": [Interval(Integral, 0, None, closed="left")],
    }

    def __init__(
        self,
        rho: float = 2.0,
        *,
        alpha: float = 0.0,
        fit_intercept: bool = True,
        tol: float = 1e-6,
        max_iter: int = 1000,
        warm_start: bool = False,
    ) -> None:
        self.rho = rho
        self.alpha = alpha
        self.fit_intercept = fit_intercept
        self.tol = tol
        self.max_iter = max_iter
        self.warm_start = warm_start

    def fit(self, X: ArrayLike, y: ArrayLike, sample_weight: Any = None) -> RobustRegressor:
        """Fit the model.

        Parameters
        ----------
        X : array-like or sparse of shape (n_samples, n_features)
            The data.
        y : array-like of shape (n_samples,)
            Targets.
        sample_weight : array-like of shape (n_samples,), float or None, default=None
            How often each sample counts, at least 0: their sum takes the place of n, so that 2 is
            as good as giving a sample twice.

        Returns
        -------
        object
            Itself.

        Raises
        ------
        ProblemError
            Weights that are negative or all 0.
        ParameterError
            A parameter out of range.
        """
        X, y, counts, which = self._checked(X, y, sample_weight)
        n, total = len(y), float(counts.sum())
        fitter = _LeastSquares(X, y, float(self.alpha), self.fit_intercept)
        old = getattr(self, "weights_", None)
        t = np.ones(n)
        if self.warm_start and old is not None and len(old) == len(which):
            t = project_weights(total * old[which] / counts, self.rho, counts)
        center = float(counts @ y) / total if self.fit_intercept else 0.0
        scale = 0.5 * float(counts @ (y - center) ** 2) / total
        # Where a model without coefficients fits exactly, rounding is all that is left.
        enough = max(self.tol, 1e-15) * scale + (1e-14 * float(np.abs(y).max())) ** 2
        best = _ascend(fitter, counts, t, float(self.rho), enough, int(self.max_iter))
        self.coef_, self.intercept_ = best.coef, best.intercept
        self.weights_ = np.zeros(len(which))
        self.weights_[which] = counts * best.weights / total
        self.dual_gap_ = max(0.0, best.upper - best.lower)
        self.robust_loss_ = best.upper
        self.n_iter_ = max(1, best.nit)
        if not self.dual_gap_ <= enough:
            self._not_solved(
                f"iteration limit max_iter={self.max_iter} reached: duality gap "
                f"{self.dual_gap_:.3e}, tol {self.tol:.1e} of {scale:.3e}. Raise max_iter or tol."
            )
        return self


class _Best:
    """The best coefficients and the best weights so far; they need not come together."""

    def __init__(self, n: int, p: int) -> None:
        self.coef: Values = np.zeros(p)
        self.intercept = 0.0
        self.weights: Values = np.ones(n)
        self.upper, self.lower, self.nit = math.inf, -math.inf, 0

    def note(self, fit: Any, t: Values, upper: float) -> None:
        """Take over what is better."""
        if upper < self.upper:
            self.upper, self.coef, self.intercept = upper, fit[0], fit[1]
        if fit[3] > self.lower:
            self.lower, self.weights = fit[3], t


def _ascend(
    fitter: _LeastSquares, counts: Values, t: Values, rho: float, tol: float, max_iter: int
) -> _Best:
    """Maximise the least loss over the weights, until the gap is at most `tol`.

    Accelerated projected gradient steps in the metric of the counts, with a step found by
    backtracking, and a restart whenever the value falls.
    """
    total = float(counts.sum())
    best = _Best(len(t), fitter.X.shape[1])

    def judge(t: Values) -> Any:
        fit = fitter.solve(counts * t / total)
        worst = worst_weights(fit[2], rho, counts)
        upper = float(counts @ (worst * fit[2])) / total + fitter.ridge(fit[0])
        best.note(fit, t, upper)
        return fit

    fit = judge(t)
    losses = fit[2]
    spread = math.sqrt(float(counts @ (losses - losses.mean()) ** 2) / total)
    step = math.sqrt(2.0 * rho / total) / spread if spread > 0 else 1.0
    ahead, momentum = t, 1.0
    ahead_fit = fit
    while best.upper - best.lower > tol and best.nit < max_iter:
        best.nit += 1
        gradient, value = ahead_fit[2], ahead_fit[3]
        for _ in range(60):
            new = project_weights(ahead + step * gradient, rho, counts)
            new_fit = judge(new)
            d = new - ahead
            gain = float(counts @ (d * gradient)) - 0.5 / step * float(counts @ d**2)
            model = value + gain / total
            if new_fit[3] >= model - 1e-13 * abs(value):
                break
            step *= 0.5
        if new_fit[3] < fit[3] and momentum > 1.0:
            ahead, ahead_fit, momentum = t, fit, 1.0
            continue
        following = 0.5 * (1.0 + math.sqrt(1.0 + 4.0 * momentum**2))
        moved = new + (momentum - 1.0) / following * (new - t)
        t, fit, momentum = new, new_fit, following
        step *= 1.2
        if momentum <= 2.0 or (moved < 0).any():
            moved = project_weights(moved, rho, counts)
        ahead, ahead_fit = moved, fitter.solve(counts * moved / total)
    return best


class _LeastSquares:
    """Weighted least squares with a ridge term, again and again on the same data."""

    def __init__(self, X: Any, y: Values, alpha: float, intercept: bool) -> None:
        self.X, self.y, self.alpha, self.intercept = X, y, alpha, intercept
        self.sparse = sp.issparse(X)

    def ridge(self, w: Values) -> float:
        """Return the penalty."""
        return 0.5 * self.alpha * float(w @ w)

    def solve(self, p: Values) -> tuple[Values, float, Values, float]:
        """Return coefficients, intercept, losses of the samples, and the least loss.

        Of several solutions the one of least norm is taken.
        """
        X, y = self.X, self.y
        n, d = X.shape
        mean, middle = np.zeros(d), 0.0
        if self.intercept:
            mean, middle = np.asarray(p @ X).ravel(), float(p @ y)
        w = self._normal(p, mean, middle) if n > d else None
        if w is None:
            root = np.sqrt(p)
            dense = X.toarray() if self.sparse else X
            rows, right = root[:, None] * (dense - mean), root * (y - middle)
            if self.alpha > 0:
                rows = np.vstack([rows, math.sqrt(self.alpha) * np.eye(d)])
                right = np.append(right, np.zeros(d))
            w = np.linalg.lstsq(rows, right, rcond=None)[0]
        b = middle - float(mean @ w)
        losses = 0.5 * (y - X @ w - b) ** 2
        return w, b, losses, float(p @ losses) + self.ridge(w)

    def _normal(self, p: Values, mean: Values, middle: float) -> Values | None:
        """Return the solution of the normal equations, ``None`` where they are near singular."""
        if self.sparse:
            weighted = self.X.multiply(p[:, None]).tocsr()
            gram = (self.X.T @ weighted).toarray() - np.outer(mean, mean)
            right = self.X.T @ (p * self.y) - mean * middle
        else:
            centred = self.X - mean if self.intercept else self.X
            weighted = p[:, None] * centred
            gram, right = centred.T @ weighted, weighted.T @ (self.y - middle)
        gram[np.diag_indices_from(gram)] += self.alpha
        try:
            factor = np.linalg.cholesky(gram)
        except np.linalg.LinAlgError:
            return None
        diagonal = np.abs(np.diag(factor))
        if not diagonal.min() > 1e-5 * np.sqrt(np.diag(gram)).max():
            return None
        return np.linalg.solve(gram, right)


def _interpolated(X: Any, y: Values, intercept: bool) -> tuple[Values, float] | None:
    """Return the model of least norm that meets all samples, if one does.

    Only tried when there are at most as many samples as parameters.
    """
    if X.shape[0] > X.shape[1] + intercept:
        return None
    dense = X.toarray() if sp.issparse(X) else X
    mean = dense.mean(axis=0) if intercept else np.zeros(X.shape[1])
    middle = float(y.mean()) if intercept else 0.0
    w = np.linalg.lstsq(dense - mean, y - middle, rcond=None)[0]
    b = middle - float(mean @ w)
    error = np.abs(y - dense @ w - b).max()
    return (w, b) if error <= 1e-9 * (np.abs(y).max() or 1.0) else None
