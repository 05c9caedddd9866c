"""Sparse logistic regression in scikit-learn's style."""

from __future__ import annotations

from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from sklearn.base import ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import validate_data

from lowrank_opt.block_coordinate.estimators import COMMON, FLOATS, LinearModel, note, start_of
from lowrank_opt.block_coordinate.glm import GLMProblem
from lowrank_opt.block_coordinate.groups import group_labels, group_weights
from lowrank_opt.block_coordinate.penalized import (
    feature_weights,
    mean_one,
    null_strength,
    penalized,
)
from lowrank_opt.core.errors import ParameterError, ProblemError
from lowrank_opt.core.params import Interval, StrOptions
from lowrank_opt.core.sklearn_bridge import run_solver, with_callbacks
from lowrank_opt.numerics._arrays import real_array

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = ["SparseLogisticRegression"]


class SparseLogisticRegression(ClassifierMixin, LinearModel):
    r"""Logistic regression, binary or multinomial, that uses few features.

    .. math:: \min_{W, b}\; \frac1n \sum_i s_i\, \ell(y_i, x_i^\top W + b)
       + \alpha \Bigl(\rho \sum_j c_j |w_j| + \frac{1 - \rho}2 \|W\|^2\Bigr)

    with :math:`\rho` for `l1_ratio`, sample weights :math:`s_i` of mean 1 and weights of features
    :math:`c_j`. For two classes :math:`\ell` is the logistic loss, for more the multinomial one
    with coefficients for every class. **The intercept is fitted by default and never penalised.
    The strength counts for a mean over samples, and large means sparse**: it is
    ``alpha = 1 / (n C)`` for the ``C`` of :class:`sklearn.linear_model.LogisticRegression`, n the
    sum of its sample weights (times its class weights).

    Parameters
    ----------
    alpha : float, default=0.01
        Strength of the penalty, above 0; from ``alpha_max_`` on all coefficients are 0.
    l1_ratio : float, default=1.0
        Share of the absolute values, in [0, 1]; the rest is a ridge term.
    groups : None, int, list of lists of int, or array-like of shape (n_features,), default=None
        Take groups of features into the model or leave them out: :math:`c_g \|W_g\|` takes the
        place of the absolute values, with all classes. See :class:`GroupLasso`.
    weights : array-like of shape (n_features,) or (n_groups,), or None, default=None
        Weights of the features, or of the groups: 0 leaves unpenalised, infinity excludes.
        ``None``: 1 for features, the square root of their number for groups.
    class_weight : dict, "balanced" or None, default=None
        Weights of the classes, by which the sample weights are multiplied; "balanced": in inverse
        proportion to the total weights of their samples. A class that the dict lacks has 1.
    fit_intercept : bool, default=True
        Whether to fit an intercept.
    max_iter : int, default=1000
        Limit on iterations, which read the whole data once each.
    tol : float, default=1e-6
        Largest duality gap relative to the loss of the model without coefficients.
    warm_start : bool, default=False
        Whether to start from the coefficients of the last fit, if they are as many.
    random_state : object, default=None
        Without effect, accepted so that code for scikit-learn works: nothing is random.
    solver : "auto", str or Solver, default="auto"
        See :class:`Lasso`.
    n_threads : int or None, default=1
        Threads of BLAS.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        The classes, sorted; those that only samples of weight 0 have are not among them.
    coef_ : ndarray of shape (1, n_features) or (n_classes, n_features)
        Coefficients; one row for two classes, of the second.
    sparse_coef_ : csr_array
        The same, sparse.
    intercept_ : ndarray of shape (1,) or (n_classes,)
        Intercepts, those of several classes of sum 0 (the sum makes no difference).
    active_set_ : ndarray of int
        Features with a nonzero coefficient for some class.
    dual_gap_ : float
        Duality gap of the objective above, computed from the data independently of the solver;
        NaN where no bound is known.
    alpha_max_ : float
        The smallest strength with which all penalised coefficients are 0; infinite for
        ``l1_ratio=0``, NaN with unpenalised features.
    n_iter_ : int
        Iterations, at least 1 as scikit-learn asks for; ``result_.nit`` may be 0.
    result_ : Result
        Result of the solver, with its certificate, without its state.
    n_features_in_ : int
        Number of features.
    feature_names_in_ : ndarray of str
        Their names, when `X` has some.

    See Also
    --------
    Lasso : Regression.

    Examples
    --------
    >>> import numpy as np
    >>> from lowrank_opt.block_coordinate import SparseLogisticRegression
    >>> X = np.array([[-2.0, 0.1], [-1.0, -0.1], [1.0, -0.1], [2.0, 0.1]])
    >>> model = SparseLogisticRegression(alpha=0.2).fit(X, ["no", "no", "yes", "yes"])
    >>> model.predict([[1.5, 0.0]]), model.active_set_
    (array(['yes'], dtype='<U3'), array([0]))
    """

    _constraints: ClassVar[dict[str, list[Any]]] = {
        **{k: COMMON[k] for k in ("fit_intercept", "max_iter", "tol", "warm_start", "weights")},
        "n_threads": COMMON["n_threads"],
        "alpha": [Interval(Real, 0, None, closed="neither")],
        "l1_ratio": [Interval(Real, 0, 1)],
        "groups": [None, Interval(Integral, 1, None, closed="left"), "array"],
        "class_weight": [None, StrOptions({"balanced"}), dict],
    }
    # By this SelectFromModel knows that any nonzero coefficient counts.
    penalty = "l1"

    def __init__(
        self,
        alpha: float = 0.01,
        *,
        l1_ratio: float = 1.0,
        groups: Any = None,
        weights: Any = None,
        class_weight: Any = None,
        fit_intercept: bool = True,
        max_iter: int = 1000,
        tol: float = 1e-6,
        warm_start: bool = False,
        random_state: Any = None,
        solver: Any = "auto",
        n_threads: int | None = 1,
    ) -> None:
        self.alpha = alpha
        self.l1_ratio = l1_ratio
        self.groups = groups
        self.weights = weights
        self.class_weight = class_weight
        self.fit_intercept = fit_intercept
        self.max_iter = max_iter
        self.tol = tol
        self.warm_start = warm_start
        self.random_state = random_state
        self.solver = solver
        self.n_threads = n_threads

    @with_callbacks
    def fit(
        self, X: ArrayLike, y: ArrayLike, sample_weight: Any = None
    ) -> SparseLogisticRegression:
        """Fit the model.

        Parameters
        ----------
        X : array-like or sparse of shape (n_samples, n_features)
            The data. A Fortran-ordered array or a CSC matrix, of float32 or float64, is not copied.
        y : array-like of shape (n_samples,)
            Classes: numbers or strings.
        sample_weight : array-like of shape (n_samples,), float or None, default=None
            Weights of the samples, at least 0, in any unit: with the class weights they are
            rescaled to a mean of 1.

        Returns
        -------
        SparseLogisticRegression
            Itself.

        Raises
        ------
        ProblemError
            Data or weights that are not finite, negative or of another shape than needed; a single
            class.
        ParameterError
            A parameter out of range.
        """
        self._check_parameters()
        X, y = validate_data(
            self, X, y, accept_sparse="csc", order="F", dtype=FLOATS, ensure_all_finite=False
        )
        check_classification_targets(y)
        n, p = X.shape
        shares = mean_one("sample_weight", sample_weight)
        good = shares is not None and shares.shape == (n,) and shares.min() >= 0
        kept = shares > 0 if good else None
        classes, codes = np.unique(y if kept is None else y[kept], return_inverse=True)
        if len(classes) < 2:
            raise ProblemError(
                f"{type(self).__name__}: y has only one class, {classes.tolist()[0]!r}, among the "
                "samples of positive weight; two are needed"
            )
        if kept is not None:
            # Samples of weight 0 are of any class.
            codes, short = np.zeros(n, codes.dtype), codes
            codes[kept] = short
        shares = self._with_class_weights(classes, codes, shares)
        two = len(classes) == 2
        smooth = GLMProblem(
            X,
            2.0 * codes - 1.0 if two else codes.astype(np.float64),
            "logistic" if two else "softmax",
            sample_weight=shares,
            fit_intercept=self.fit_intercept,
        )
        groups, weights = self._groups(p)
        problem = penalized(smooth, n * self.alpha, self.l1_ratio, weights=weights, groups=groups)
        start, rows = None, 1 if two else len(classes)
        if self.warm_start and np.shape(getattr(self, "coef_", None)) == (rows, p):
            start = start_of(problem, self.coef_, self.intercept_)
        solver = self._make_solver(X.dtype)
        self.result_ = run_solver(self, solver, problem, X=X, x0=start)
        self.alpha_max_ = float("inf")
        if self.l1_ratio > 0:
            largest = null_strength(smooth, weights=weights, groups=groups)
            self.alpha_max_ = largest / (n * self.l1_ratio)
        note(self.result_, self.alpha, self.alpha_max_)
        x = self.result_.x.reshape(p + self.fit_intercept, rows)
        self.classes_ = classes
        self.coef_ = np.ascontiguousarray(x[:p].T)
        intercept = x[p] if self.fit_intercept else np.zeros(rows, x.dtype)
        self.intercept_ = intercept if two else intercept - intercept.mean()
        self.active_set_ = np.flatnonzero(self.coef_.any(axis=0))
        gap = self.result_.certificate.gap
        self.dual_gap_ = np.nan if gap is None else gap / n
        self.n_iter_ = max(1, self.result_.nit)
        return self

    def _with_class_weights(self, classes: Any, codes: Any, shares: Any) -> Any:
        if self.class_weight is None:
            return shares
        ours = np.ones(len(codes)) if shares is None else shares
        if ours.shape != codes.shape:
            return ours  # the problem knows what to say
        if isinstance(self.class_weight, str):
            factors = 1.0 / np.bincount(codes, ours)
        else:
            unknown = [name for name in self.class_weight if name not in set(classes.tolist())]
            if unknown:
                raise ParameterError(
                    f"{type(self).__name__}: class_weight has {unknown[0]!r}, which is none of the "
                    f"classes {classes.tolist()}"
                )
            factors = np.array([self.class_weight.get(name, 1.0) for name in classes.tolist()])
            factors = np.asarray(real_array("class_weight", factors)[0], np.float64)
        return mean_one("sample_weight times class_weight", ours * factors[codes])

    def _groups(self, n_features: int) -> tuple[Any, Any]:
        name = type(self).__name__
        if self.groups is not None:
            groups = group_labels(name, self.groups, n_features)
            return groups, group_weights(name, self.weights, groups)
        if self.weights is None:
            return None, None
        return None, feature_weights(name, self.weights, n_features)

    def decision_function(self, X: ArrayLike) -> NDArray[Any]:
        """Return the linear predictors.

        Parameters
        ----------
        X : array-like or sparse of shape (n_samples, n_features)
            The data.

        Returns
        -------
        ndarray of shape (n_samples,) or (n_samples, n_classes)
            For two classes the log odds of the second.
        """
        z = self._predictors(X)
        return z[:, 0] if z.shape[1] == 1 else z

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """Predict classes.

        Parameters
        ----------
        X : array-like or sparse of shape (n_samples, n_features)
            The data.

        Returns
        -------
        ndarray of shape (n_samples,)
            The most probable classes.
        """
        z = self.decision_function(X)
        best = (z > 0).astype(int) if z.ndim == 1 else z.argmax(axis=1)
        predicted: NDArray[Any] = self.classes_[best]
        return predicted

    def predict_log_proba(self, X: ArrayLike) -> NDArray[Any]:
        """Return logarithms of the probabilities of the classes.

        Parameters
        ----------
        X : array-like or sparse of shape (n_samples, n_features)
            The data.

        Returns
        -------
        ndarray of shape (n_samples, n_classes)
            The logarithms.
        """
        z = self.decision_function(X)
        if z.ndim == 1:
            return -np.logaddexp(0.0, np.column_stack([z, -z]))
        z = z - z.max(axis=1, keepdims=True)
        return z - np.log(np.exp(z).sum(axis=1, keepdims=True))

    def predict_proba(self, X: ArrayLike) -> NDArray[Any]:
        """Return the probabilities of the classes.

        Parameters
        ----------
        X : array-like or sparse of shape (n_samples, n_features)
            The data.

        Returns
        -------
        ndarray of shape (n_samples, n_classes)
            The probabilities.
        """
        return np.exp(self.predict_log_proba(X))
