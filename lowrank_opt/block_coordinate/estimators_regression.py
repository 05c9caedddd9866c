"""Sparse linear regression in scikit-learn's style."""

from __future__ import annotations

from functools import partial
from numbers import Integral, Real
from typing import Any, ClassVar

import numpy as np

from lowrank_opt.block_coordinate.estimators import COMMON, LinearRegressor
from lowrank_opt.block_coordinate.groups import group_labels, group_weights
from lowrank_opt.block_coordinate.path import lasso_path
from lowrank_opt.block_coordinate.penalized import least_sum
from lowrank_opt.core.params import Interval

__all__ = ["ElasticNet", "GroupLasso", "Lasso", "NonNegativeLeastSquares"]

_RATIO = {"l1_ratio": [Interval(Real, 0, 1)]}


class Lasso(LinearRegressor):
    r"""Linear regression with a penalty of absolute values, which makes coefficients exactly 0.

    .. math:: \min_{w, b}\; \frac1{2n} \sum_i s_i (y_i - x_i^\top w - b)^2
       + \alpha \sum_j c_j |w_j|

    with sample weights :math:`s_i` of mean 1 and weights of features :math:`c_j`. **The intercept b
    is fitted by default and never penalised; the strength counts for a mean over samples.**
    Parameters and attributes are those of :class:`sklearn.linear_model.Lasso`, and more.

    Parameters
    ----------
    alpha : float, default=1.0
        Strength of the penalty, at least 0; from ``alpha_max_`` on all coefficients are 0. With 0
        it is least squares.
    fit_intercept : bool, default=True
        Whether to fit an intercept. The data are centred implicitly: sparse data stay sparse.
    precompute : bool, "auto" or array-like, default=False
        Without effect, accepted so that code for scikit-learn works: products of columns are used
        where they pay.
    copy_X : bool, default=True
        Without effect: the data are never overwritten.
    max_iter : int, default=1000
        Limit on iterations, which read the whole data once each.
    tol : float, default=1e-6
        Largest duality gap relative to that of the model without coefficients,
        :math:`\tfrac12 \sum_i s_i (y_i - \bar y)^2`; scikit-learn's unit is twice as large.
    warm_start : bool, default=False
        Whether to start from the coefficients of the last fit, if they are as many.
    positive : bool, default=False
        Whether coefficients must be at least 0.
    random_state : object, default=None
        Without effect: nothing is random.
    selection : {"cyclic", "random"}, default="cyclic"
        Without effect: the coefficients that matter most come first.
    weights : array-like of shape (n_features,) or None, default=None
        Weights of the features in the penalty: 0 leaves a feature unpenalised, infinity
        excludes it; ``None``: 1 for all.
    solver : "auto", str or Solver, default="auto"
        "auto" is :class:`~lowrank_opt.block_coordinate.SparseGLMSolver`. An instance keeps its own
        ``tol``, ``max_iter`` and ``n_threads``; grid search reaches them as ``solver__tol``.
    n_threads : int or None, default=1
        Threads of BLAS.

    Attributes
    ----------
    coef_ : ndarray of shape (n_features,) or (n_targets, n_features)
        Coefficients.
    sparse_coef_ : csr_array of shape (1, n_features) or (n_targets, n_features)
        The same, sparse.
    intercept_ : float or ndarray of shape (n_targets,)
        Intercept; 0 without.
    active_set_ : ndarray of int
        Features with a nonzero coefficient (for some target).
    dual_gap_ : float or ndarray of shape (n_targets,)
        Duality gap of the objective above: how far it may be above its smallest value.
        Computed from the data, independently of the solver; NaN where no bound is known
        (``alpha=0``).
    alpha_max_ : float
        The smallest strength with which all penalised coefficients are 0 (for all targets).
    n_iter_ : int or list of int
        Iterations, at least 1 as scikit-learn asks for; ``result_.nit`` may be 0.
    result_ : Result or list of Result
        Result of the solver, with its certificate, without its state.
    n_features_in_ : int
        Number of features.
    feature_names_in_ : ndarray of str
        Their names, when `X` has some.

    See Also
    --------
    ElasticNet : With a ridge term.
    GroupLasso : Features in groups; several targets jointly.
    lasso_path : For many strengths.

    Notes
    -----
    Several targets are independent problems, one after the other, as in scikit-learn. To select
    the same features for all of them take :class:`GroupLasso`, of which ``MultiTaskLasso`` is a
    special case.

    Examples
    --------
    >>> import numpy as np
    >>> from lowrank_opt.block_coordinate import Lasso
    >>> model = Lasso(alpha=0.5).fit([[-1.0, 0.0], [0.0, 0.1], [1.0, 0.0]], [-1.0, 0.0, 1.0])
    >>> model.coef_.round(6), model.active_set_
    (array([0.25, 0.  ]), array([0]))
    """

    _constraints: ClassVar[dict[str, list[Any]]] = COMMON
    _squeezes = True
    path = staticmethod(lasso_path)

    def __init__(
        self,
        alpha: float = 1.0,
        *,
        fit_intercept: bool = True,
        precompute: Any = False,
        copy_X: bool = True,
        max_iter: int = 1000,
        tol: float = 1e-6,
        warm_start: bool = False,
        positive: bool = False,
        random_state: Any = None,
        selection: str = "cyclic",
        weights: Any = None,
        solver: Any = "auto",
        n_threads: int | None = 1,
    ) -> None:
        self.alpha = alpha
        self.fit_intercept = fit_intercept
        self.precompute = precompute
        self.copy_X = copy_X
        self.max_iter = max_iter
        self.tol = tol
        self.warm_start = warm_start
        self.positive = positive
        self.random_state = random_state
        self.selection = selection
        self.weights = weights
        self.solver = solver
        self.n_threads = n_threads


class ElasticNet(LinearRegressor):
    r"""Linear regression with a penalty of absolute values and squares.

    .. math:: \min_{w, b}\; \frac1{2n} \sum_i s_i (y_i - x_i^\top w - b)^2
       + \alpha \Bigl(\rho \sum_j c_j |w_j| + \frac{1 - \rho}2 \|w\|^2\Bigr)

    with :math:`\rho` for `l1_ratio`, and sample weights :math:`s_i` of mean 1. **The intercept b is
    fitted by default and never penalised; the strength counts for a mean over samples.**
    Parameters and attributes are those of :class:`sklearn.linear_model.ElasticNet`, and more.

    Parameters
    ----------
    alpha : float, default=1.0
        Strength of the penalty, at least 0; from ``alpha_max_`` on all coefficients are 0. With 0
        it is least squares.
    l1_ratio : float, default=0.5
        Share of the absolute values, in [0, 1]: 1 is :class:`Lasso`, 0 is ridge regression, which
        is solved by elimination.
    fit_intercept : bool, default=True
        Whether to fit an intercept. The data are centred implicitly: sparse data stay sparse.
    precompute : bool, "auto" or array-like, default=False
        Without effect, accepted so that code for scikit-learn works: products of columns are used
        where they pay.
    max_iter : int, default=1000
        Limit on iterations, which read the whole data once each.
    copy_X : bool, default=True
        Without effect: the data are never overwritten.
    tol : float, default=1e-6
        Largest duality gap relative to that of the model without coefficients.
    warm_start : bool, default=False
        Whether to start from the coefficients of the last fit, if they are as many.
    positive : bool, default=False
        Whether coefficients must be at least 0.
    random_state : object, default=None
        Without effect: nothing is random.
    selection : {"cyclic", "random"}, default="cyclic"
        Without effect: the coefficients that matter most come first.
    weights : array-like of shape (n_features,) or None, default=None
        Weights :math:`c_j` of the absolute values: 0 leaves only the ridge term of a feature,
        infinity excludes it; ``None``: 1 for all.
    solver : "auto", str or Solver, default="auto"
        See :class:`Lasso`.
    n_threads : int or None, default=1
        Threads of BLAS.

    Attributes
    ----------
    coef_, sparse_coef_, intercept_, active_set_, dual_gap_, alpha_max_, n_iter_, result_
        As of :class:`Lasso`; ``alpha_max_`` is infinite for ``l1_ratio=0``.
    n_features_in_ : int
        Number of features.
    feature_names_in_ : ndarray of str
        Their names, when `X` has some.

    See Also
    --------
    Lasso : Without the ridge term.

    Examples
    --------
    >>> import numpy as np
    >>> from lowrank_opt.block_coordinate import ElasticNet
    >>> ElasticNet(alpha=0.5).fit([[-1.0], [0.0], [1.0]], [-1.0, 0.0, 1.0]).coef_.round(6)
    array([0.454545])
    """

    _constraints: ClassVar[dict[str, list[Any]]] = {**COMMON, **_RATIO}
    _squeezes = True
    path = staticmethod(partial(lasso_path, l1_ratio=0.5))

    def __init__(
        self,
        alpha: float = 1.0,
        *,
        l1_ratio: float = 0.5,
        fit_intercept: bool = True,
        precompute: Any = False,
        max_iter: int = 1000,
        copy_X: bool = True,
        tol: float = 1e-6,
        warm_start: bool = False,
        positive: bool = False,
        random_state: Any = None,
        selection: str = "cyclic",
        weights: Any = None,
        solver: Any = "auto",
        n_threads: int | None = 1,
    ) -> None:
        self.alpha = alpha
        self.l1_ratio = l1_ratio
        self.fit_intercept = fit_intercept
        self.precompute = precompute
        self.max_iter = max_iter
        self.copy_X = copy_X
        self.tol = tol
        self.warm_start = warm_start
        self.positive = positive
        self.random_state = random_state
        self.selection = selection
        self.weights = weights
        self.solver = solver
        self.n_threads = n_threads


class GroupLasso(LinearRegressor):
    r"""Linear regression that takes groups of features into the model or leaves them out.

    .. math:: \min_{W, b}\; \frac1{2n} \sum_i s_i \|y_i - x_i^\top W - b\|^2
       + \alpha \Bigl(\rho \sum_g c_g \|W_g\| + \frac{1 - \rho}2 \|W\|^2\Bigr)

    with :math:`\rho` for `l1_ratio`, :math:`W_g` the coefficients of the features of a group, for
    all targets, and sample weights :math:`s_i` of mean 1. **The weights** :math:`c_g` **are by
    default the square roots of the numbers of features in the groups** (other libraries take 1:
    give ``weights``). The intercept is fitted by default and never penalised; the strength counts
    for a mean over samples.

    Parameters
    ----------
    alpha : float, default=1.0
        Strength of the penalty, at least 0; from ``alpha_max_`` on all coefficients are 0.
    groups : int, list of lists of int, or array-like of shape (n_features,), default=1
        An integer is the number of consecutive features in a group (the last may have fewer); a
        list of lists has the numbers of the features of each group, every feature once; a vector
        has a label for each feature, and groups are in the order of the sorted labels. With 1 and
        several targets it is ``MultiTaskLasso``.
    l1_ratio : float, default=1.0
        Share of the norms of groups, in (0, 1]; the rest is a ridge term.
    fit_intercept : bool, default=True
        Whether to fit an intercept. The data are centred implicitly: sparse data stay sparse.
    copy_X : bool, default=True
        Without effect, accepted so that code for scikit-learn's ``MultiTaskLasso`` works.
    max_iter : int, default=1000
        Limit on iterations.
    tol : float, default=1e-6
        Largest duality gap relative to that of the model without coefficients.
    warm_start : bool, default=False
        Whether to start from the coefficients of the last fit, if they are as many.
    positive : bool, default=False
        Whether coefficients must be at least 0.
    random_state : object, default=None
        Without effect: nothing is random.
    selection : {"cyclic", "random"}, default="cyclic"
        Without effect: the coefficients that matter most come first.
    weights : array-like of shape (n_groups,) or None, default=None
        Weights of the groups: 0 leaves a group unpenalised, infinity excludes it; ``None``: the
        square root of the number of features of each.
    solver : "auto", str or Solver, default="auto"
        See :class:`Lasso`.
    n_threads : int or None, default=1
        Threads of BLAS.

    Attributes
    ----------
    coef_ : ndarray of shape (n_features,) or (n_targets, n_features)
        Coefficients.
    groups_ : ndarray of shape (n_features,)
        The number of the group of each feature, from 0.
    active_groups_ : ndarray of int
        Groups with a nonzero coefficient.
    sparse_coef_, intercept_, active_set_, dual_gap_, alpha_max_, n_iter_, result_
        As of :class:`Lasso`, but all targets are one problem, with one gap and one result.
    n_features_in_ : int
        Number of features.
    feature_names_in_ : ndarray of str
        Their names, when `X` has some.

    See Also
    --------
    Lasso : Features one by one, targets one by one.

    References
    ----------
    .. [1] M. Yuan, Y. Lin, "Model selection and estimation in regression with grouped variables",
       Journal of the Royal Statistical Society B 68, 2006.

    Examples
    --------
    >>> import numpy as np
    >>> from lowrank_opt.block_coordinate import GroupLasso
    >>> X = np.eye(4)
    >>> y = np.array([3.0, 4.0, 0.1, 0.2])
    >>> model = GroupLasso(0.25, groups=2, weights=[1.0, 1.0], fit_intercept=False).fit(X, y)
    >>> model.coef_.round(6)
    array([2.4, 3.2, 0. , 0. ])
    """

    _constraints: ClassVar[dict[str, list[Any]]] = {
        **{name: rule for name, rule in COMMON.items() if name != "precompute"},
        "l1_ratio": [Interval(Real, 0, 1, closed="right")],
        "groups": [Interval(Integral, 1, None, closed="left"), "array"],
    }
    _jointly = True

    def __init__(
        self,
        alpha: float = 1.0,
        *,
        groups: Any = 1,
        l1_ratio: float = 1.0,
        fit_intercept: bool = True,
        copy_X: bool = True,
        max_iter: int = 1000,
        tol: float = 1e-6,
        warm_start: bool = False,
        positive: bool = False,
        random_state: Any = None,
        selection: str = "cyclic",
        weights: Any = None,
        solver: Any = "auto",
        n_threads: int | None = 1,
    ) -> None:
        self.alpha = alpha
        self.groups = groups
        self.l1_ratio = l1_ratio
        self.fit_intercept = fit_intercept
        self.copy_X = copy_X
        self.max_iter = max_iter
        self.tol = tol
        self.warm_start = warm_start
        self.positive = positive
        self.random_state = random_state
        self.selection = selection
        self.weights = weights
        self.solver = solver
        self.n_threads = n_threads

    def _penalty(self, n_features: int) -> tuple[float, dict[str, Any]]:
        name = type(self).__name__
        self.groups_ = group_labels(name, self.groups, n_features)
        keywords = {
            "l1_ratio": self.l1_ratio,
            "groups": self.groups_,
            "weights": group_weights(name, self.weights, self.groups_),
            "positive": bool(self.positive),
        }
        return self.alpha, keywords

    @property
    def active_groups_(self) -> Any:
        """Groups with a nonzero coefficient."""
        return np.unique(self.groups_[self.active_set_])


class NonNegativeLeastSquares(LinearRegressor):
    r"""Linear regression with coefficients of at least 0.

    .. math:: \min_{w \ge 0,\, b}\; \frac1{2n} \sum_i s_i (y_i - x_i^\top w - b)^2
       + \frac{\lambda_2}2 \|w\|^2

    with sample weights :math:`s_i` of mean 1. The intercept b is fitted by default; it may have any
    sign. Takes the place of ``LinearRegression(positive=True)`` of scikit-learn, for large and
    sparse data too.

    Parameters
    ----------
    fit_intercept : bool, default=True
        Whether to fit an intercept. The data are centred implicitly: sparse data stay sparse.
    l2 : float, default=0.0
        Strength of the ridge term, at least 0.
    copy_X : bool, default=True
        Without effect, accepted so that code for scikit-learn works: the data are never
        overwritten.
    max_iter : int, default=1000
        Limit on iterations, which read the whole data once each.
    tol : float, default=1e-9
        With a ridge term, the largest duality gap relative to that of the model without
        coefficients; without one, the largest violation of the optimality conditions relative to
        the largest derivative of that model. For float32 data it is at least 1e-6, which is where
        their digits end.
    warm_start : bool, default=False
        Whether to start from the coefficients of the last fit, if they are as many.
    solver : "auto", str or Solver, default="auto"
        See :class:`Lasso`.
    n_threads : int or None, default=1
        Threads of BLAS.

    Attributes
    ----------
    coef_ : ndarray of shape (n_features,) or (n_targets, n_features)
        Coefficients.
    sparse_coef_, intercept_, active_set_, n_iter_, result_
        As of :class:`Lasso`.
    dual_gap_ : float or ndarray of shape (n_targets,)
        Duality gap of the objective above; NaN for ``l2=0``, where no bound is known.
    n_features_in_ : int
        Number of features.
    feature_names_in_ : ndarray of str
        Their names, when `X` has some.

    See Also
    --------
    Lasso : ``positive=True`` adds a penalty that makes more coefficients 0.

    Notes
    -----
    Several targets are independent problems, one after the other.

    Where several points fit equally well (more features than samples, duplicated columns), the
    coefficients are those of least sum, for data of up to 250 000 numbers in the features
    concerned; beyond, those that the solver came to.

    Examples
    --------
    >>> from lowrank_opt.block_coordinate import NonNegativeLeastSquares
    >>> model = NonNegativeLeastSquares(fit_intercept=False)
    >>> model.fit([[1.0, 0.0], [0.0, 1.0]], [2.0, -1.0]).coef_.round(6)
    array([2., 0.])
    """

    _constraints: ClassVar[dict[str, list[Any]]] = {
        **{k: COMMON[k] for k in ("fit_intercept", "copy_X", "max_iter", "tol", "warm_start")},
        "l2": COMMON["alpha"],
        "n_threads": COMMON["n_threads"],
    }

    def __init__(
        self,
        *,
        fit_intercept: bool = True,
        l2: float = 0.0,
        copy_X: bool = True,
        max_iter: int = 1000,
        tol: float = 1e-9,
        warm_start: bool = False,
        solver: Any = "auto",
        n_threads: int | None = 1,
    ) -> None:
        self.fit_intercept = fit_intercept
        self.l2 = l2
        self.copy_X = copy_X
        self.max_iter = max_iter
        self.tol = tol
        self.warm_start = warm_start
        self.solver = solver
        self.n_threads = n_threads

    def _settle(self, problem: Any, result: Any) -> Any:
        return result if self.l2 > 0 else least_sum(problem, result)

    def _penalty(self, n_features: int) -> tuple[float, dict[str, Any]]:
        return self.l2, {"l1_ratio": 0.0, "positive": True}

    def _tolerance(self, dtype: Any) -> float:
        return float(self.tol) if dtype == np.float64 else max(float(self.tol), 1e-6)

    @staticmethod
    def _smallest_null(smooth: Any, keywords: dict[str, Any]) -> float:
        return float("inf")  # no strength of a ridge term makes coefficients 0
