"""Lasso, ElasticNet, GroupLasso, SparseLogisticRegression, NonNegativeLeastSquares."""

from __future__ import annotations

import pickle
import signal

import numpy as np
import pytest
import scipy.sparse as sp
import sklearn
import sklearn.linear_model as sk
from scipy.optimize import linprog, nnls
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.feature_selection import SelectFromModel
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import estimator_checks_generator, parametrize_with_checks

from lowrank_opt.block_coordinate import SparseGLMSolver, estimators, estimators_classification
from lowrank_opt.block_coordinate.estimators_classification import SparseLogisticRegression
from lowrank_opt.block_coordinate.estimators_regression import (
    ElasticNet,
    GroupLasso,
    Lasso,
    NonNegativeLeastSquares,
)
from lowrank_opt.block_coordinate.groups import group_labels
from lowrank_opt.core.errors import ConvergenceWarning, ParameterError, ProblemError

# scikit-learn's check of sample weights compares predictions to 1e-7 on 9 samples of 30 features:
# tolerances are small where these matter, and a ridge term makes non-negative solutions unique.
REGRESSORS = [
    Lasso(), ElasticNet(), GroupLasso(),
    NonNegativeLeastSquares(), NonNegativeLeastSquares(l2=0.01),
    Lasso(0.01, tol=1e-12), ElasticNet(0.01, l1_ratio=0.3, positive=True, tol=1e-12),
    ElasticNet(0.1, l1_ratio=0.0), GroupLasso(0.01, groups=2, l1_ratio=0.9, tol=1e-12),
]  # fmt: skip
CLASSIFIERS = [
    SparseLogisticRegression(), SparseLogisticRegression(groups=2),
    SparseLogisticRegression(0.02, l1_ratio=0.5, class_weight="balanced", tol=1e-9),
]  # fmt: skip
# How many checks scikit-learn 1.9 collects: a tag that hides checks would go unnoticed otherwise.
# One of them, array API input, skips itself unless SCIPY_ARRAY_API is set.
N_CHECKS = {"regressor": 61, "classifier": 64}
TIGHT = {"tol": 1e-13, "max_iter": 100_000}


def regression(n=40, p=70, seed=0, targets=None, dtype=np.float64):
    """Correlated features, few of them used, far from centred."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, p)) + 0.5 * rng.normal(size=(n, 1)) + rng.normal(size=p)
    w = np.zeros((p, targets or 1))
    w[:6] = rng.uniform(1.0, 2.0, (6, targets or 1)) * rng.choice([-1, 1], (6, targets or 1))
    y = X @ w + 0.3 * rng.normal(size=(n, targets or 1)) + 5.0
    return np.asfortranarray(X, dtype), (y if targets else y[:, 0]).astype(dtype)


def classes(k=2, n=90, p=20, seed=0):
    X, _ = regression(n, p, seed)
    rng = np.random.default_rng(seed + 1)
    z = X[:, :3] @ rng.normal(size=(3, k)) + rng.gumbel(size=(n, k))
    return X, z.argmax(axis=1)


def weights_of(n, seed=3):
    """Sample weights; some are 0."""
    s = np.random.default_rng(seed).uniform(0.5, 3.0, n)
    s[::7] = 0.0
    return s


def sparse_of(X):
    """A design with zeros, as CSC."""
    return sp.csc_array(np.where(np.abs(X) > 1.2, X, 0.0))


def objective(model, X, y, alpha, l1_ratio=1.0):
    residual = y - model.predict(X)
    w = model.coef_
    penalty = l1_ratio * np.abs(w).sum() + (1 - l1_ratio) / 2 * (w * w).sum()
    return (residual**2).sum() / (2 * len(y)) + alpha * penalty


def test_the_reference_objective_is_that_of_a_model_without_error():
    model = sk.Lasso().fit([[0.0], [1.0]], [0.0, 0.0])
    model.coef_, model.intercept_ = np.array([2.0]), 0.0
    assert objective(model, np.array([[0.0], [1.0]]), np.array([0.0, 1.0]), 3.0) == 0.25 + 6.0


# -- scikit-learn's checks -----------------------------------------------------------------------


@parametrize_with_checks([*REGRESSORS, *CLASSIFIERS])
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")  # float32 data
def test_scikit_learn_check(estimator, check):
    check(estimator)


@pytest.mark.parametrize("estimator", [*REGRESSORS, *CLASSIFIERS], ids=repr)
def test_number_of_checks(estimator):
    names = [check.func.__name__ for _, check in estimator_checks_generator(estimator)]
    expected = N_CHECKS[estimator.__sklearn_tags__().estimator_type]
    if sklearn.__version__.startswith("1.9."):
        assert len(names) == expected
    assert len(names) > expected - 10
    assert [n for n in names if "array_api" in n] == ["check_array_api_input"]
    tags = estimator.__sklearn_tags__()
    assert tags.input_tags.sparse
    assert not tags.no_validation
    assert not tags.non_deterministic


# -- agreement with scikit-learn -----------------------------------------------------------------


@pytest.mark.parametrize("kind", ["dense", "sparse", "weighted", "sparse weighted"])
@pytest.mark.parametrize("fit_intercept", [True, False])
@pytest.mark.parametrize("positive", [True, False])
@pytest.mark.parametrize("l1_ratio", [1.0, 0.4])
def test_lasso_and_elastic_net_are_those_of_scikit_learn(kind, fit_intercept, positive, l1_ratio):
    X, y = regression()
    X = sparse_of(X) if "sparse" in kind else X
    s = weights_of(len(y)) if "weighted" in kind else None
    common = {"fit_intercept": fit_intercept, "positive": positive}
    for alpha in (0.5, 0.02):
        if l1_ratio == 1.0:
            ours, theirs = Lasso(alpha, tol=1e-12, **common), sk.Lasso(alpha, **TIGHT, **common)
        else:
            common["l1_ratio"] = l1_ratio
            ours = ElasticNet(alpha, tol=1e-12, **common)
            theirs = sk.ElasticNet(alpha, **TIGHT, **common)
        ours.fit(X, y, sample_weight=s)
        theirs.fit(X, y, sample_weight=s)
        np.testing.assert_allclose(ours.coef_, theirs.coef_, atol=1e-5)
        np.testing.assert_allclose(ours.intercept_, theirs.intercept_, atol=1e-5)
        np.testing.assert_allclose(ours.predict(X), theirs.predict(X), atol=1e-5)
        assert abs(ours.score(X, y, s) - theirs.score(X, y, s)) < 1e-6
        assert type(ours.intercept_) is type(theirs.intercept_)
        assert ours.coef_.shape == theirs.coef_.shape
        assert ours.sparse_coef_.shape == theirs.sparse_coef_.shape
        np.testing.assert_array_equal(ours.sparse_coef_.toarray()[0], ours.coef_)
        np.testing.assert_array_equal(ours.active_set_, np.flatnonzero(ours.coef_))


@pytest.mark.parametrize("sparse", [True, False])
@pytest.mark.parametrize("fit_intercept", [True, False])
@pytest.mark.parametrize("shape", [(40, 70), (90, 20)])
def test_without_absolute_values_it_is_ridge_regression(sparse, fit_intercept, shape):
    X, y = regression(*shape)
    X = sparse_of(X) if sparse else X
    s = weights_of(len(y))
    for alpha in (1.0, 1e-3):
        ours = ElasticNet(alpha, l1_ratio=0.0, fit_intercept=fit_intercept).fit(X, y, s)
        theirs = sk.Ridge(alpha * s.sum(), fit_intercept=fit_intercept, tol=1e-12)
        theirs.fit(X, y, s)
        np.testing.assert_allclose(ours.coef_, theirs.coef_, atol=1e-5)
        np.testing.assert_allclose(ours.intercept_, theirs.intercept_, atol=1e-4)
        assert ours.result_.nit == 0  # elimination, not descent
        assert ours.alpha_max_ == np.inf


@pytest.mark.parametrize("shape", [(40, 70), (90, 20)])
@pytest.mark.parametrize("sparse", [True, False])
def test_without_a_penalty_it_is_least_squares(shape, sparse):
    X, y = regression(*shape)
    X = sparse_of(X) if sparse else X
    ours = Lasso(alpha=0.0).fit(X, y)
    theirs = sk.LinearRegression(tol=1e-14).fit(X, y)
    np.testing.assert_allclose(ours.predict(X), theirs.predict(X), atol=1e-5)
    np.testing.assert_allclose(ours.coef_, theirs.coef_, atol=1e-5)  # the shortest one
    assert np.isnan(ours.dual_gap_) == (ours.result_.certificate.gap is None)


@pytest.mark.parametrize(
    ("ours", "theirs"), [(Lasso, sk.lasso_path), (ElasticNet, sk.ElasticNet.path)]
)
def test_paths_of_the_estimators_are_those_of_scikit_learn(ours, theirs):
    X, y = regression(seed=1)
    ours = ours.path(X, y, alphas=[1.0], tol=1e-12)
    theirs = theirs(X, y, alphas=[1.0], tol=1e-12, max_iter=100_000)
    np.testing.assert_allclose(ours[1], theirs[1], atol=1e-5)


@pytest.mark.parametrize("cls", ["Lasso", "ElasticNet"])
def test_several_targets_are_fitted_one_by_one(cls):
    X, y = regression(targets=3)
    ours = globals()[cls](0.05, tol=1e-12).fit(X, y)
    theirs = getattr(sk, cls)(0.05, **TIGHT).fit(X, y)
    np.testing.assert_allclose(ours.coef_, theirs.coef_, atol=1e-5)
    np.testing.assert_allclose(ours.intercept_, theirs.intercept_, atol=1e-5)
    assert ours.dual_gap_.shape == theirs.dual_gap_.shape == (3,)
    assert len(ours.n_iter_) == len(theirs.n_iter_) == len(ours.result_) == 3
    np.testing.assert_array_equal(ours.active_set_, np.flatnonzero(theirs.coef_.any(axis=0)))
    single = globals()[cls](0.05).fit(X, y[:, 1])
    np.testing.assert_allclose(single.coef_, ours.coef_[1], atol=1e-3)
    # One column is not a vector, but has a vector of coefficients.
    ours.fit(X, y[:, :1])
    theirs.fit(X, y[:, :1])
    assert ours.coef_.shape == theirs.coef_.shape == (70,)
    assert ours.intercept_.shape == theirs.intercept_.shape == (1,)
    assert ours.predict(X).shape == theirs.predict(X).shape


@pytest.mark.parametrize("l1_ratio", [1.0, 0.5])
@pytest.mark.parametrize("sparse", [True, False])
def test_group_lasso_of_single_features_is_the_multi_task_lasso(l1_ratio, sparse):
    X, y = regression(targets=3)
    X = sparse_of(X) if sparse else X
    ours = GroupLasso(0.1, l1_ratio=l1_ratio, tol=1e-12).fit(X, y)
    theirs = sk.MultiTaskElasticNet(0.1, l1_ratio=l1_ratio, **TIGHT).fit(X, y)
    np.testing.assert_allclose(ours.coef_, theirs.coef_, atol=1e-5)
    np.testing.assert_allclose(ours.intercept_, theirs.intercept_, atol=1e-5)
    np.testing.assert_allclose(ours.predict(X), theirs.predict(X), atol=1e-5)
    assert np.ndim(ours.dual_gap_) == 0


@pytest.mark.parametrize("positive", [True, False])
def test_group_lasso_of_single_features_and_one_target_is_the_lasso(positive):
    X, y = regression()
    ours = GroupLasso(0.1, positive=positive, tol=1e-12).fit(X, y)
    theirs = Lasso(0.1, positive=positive, tol=1e-12).fit(X, y)
    np.testing.assert_allclose(ours.coef_, theirs.coef_, atol=1e-6)
    assert abs(ours.alpha_max_ - theirs.alpha_max_) < 1e-12


@pytest.mark.parametrize("shape", [(60, 20), (30, 50)])
@pytest.mark.parametrize("sparse", [True, False])
def test_non_negative_least_squares_is_that_of_scipy(shape, sparse):
    X, y = regression(*shape)
    X = sparse_of(X) if sparse else X
    dense = X.toarray() if sparse else X
    ours = NonNegativeLeastSquares(fit_intercept=False).fit(X, y)
    w, norm = nnls(dense, y)
    assert abs(np.linalg.norm(y - ours.predict(X)) - norm) < 1e-7 * np.linalg.norm(y)
    if shape[0] > shape[1]:
        np.testing.assert_allclose(ours.coef_, w, atol=1e-7)
        ours = NonNegativeLeastSquares().fit(X, y)
        theirs = sk.LinearRegression(positive=True).fit(dense, y)
        np.testing.assert_allclose(ours.coef_, theirs.coef_, atol=1e-7)
        assert abs(ours.intercept_ - theirs.intercept_) < 1e-6
    assert (ours.coef_ >= 0).all()


def test_the_ridge_term_of_non_negative_least_squares_is_rows_of_data():
    X, y = regression(30, 50)
    ours = NonNegativeLeastSquares(fit_intercept=False, l2=0.1, tol=1e-12).fit(X, y)
    w, _ = nnls(np.vstack([X, np.sqrt(30 * 0.1) * np.eye(50)]), np.append(y, np.zeros(50)))
    np.testing.assert_allclose(ours.coef_, w, atol=1e-5)
    assert 0 <= ours.dual_gap_ < 1e-6 * y.var()
    several = NonNegativeLeastSquares(l2=0.1).fit(X, np.column_stack([y, -y]))
    one = NonNegativeLeastSquares(l2=0.1).fit(X, -y)
    np.testing.assert_allclose(several.coef_[1], one.coef_, atol=1e-6)
    assert not hasattr(one, "alpha_max_")


@pytest.mark.parametrize("sparse", [True, False])
@pytest.mark.parametrize("l1_ratio", [1.0, 0.5])
def test_binary_logistic_regression_is_that_of_scikit_learn(sparse, l1_ratio):
    X, y = classes()
    s = weights_of(len(y))
    dense = sparse_of(X).toarray() if sparse else X
    theirs = sk.LogisticRegression(
        C=1 / (0.02 * s.sum()), l1_ratio=l1_ratio, solver="saga", random_state=0, **TIGHT
    ).fit(dense, y, s)
    X = sparse_of(X) if sparse else X
    ours = SparseLogisticRegression(0.02, l1_ratio=l1_ratio, tol=1e-12).fit(X, y, s)
    assert ours.coef_.shape == theirs.coef_.shape == (1, 20)
    assert ours.intercept_.shape == theirs.intercept_.shape == (1,)
    np.testing.assert_allclose(ours.coef_, theirs.coef_, atol=1e-5)
    np.testing.assert_allclose(ours.intercept_, theirs.intercept_, atol=1e-5)
    for name in ("decision_function", "predict_proba", "predict_log_proba"):
        expected = getattr(theirs, name)(dense)
        np.testing.assert_allclose(getattr(ours, name)(X), expected, atol=1e-4)
    np.testing.assert_array_equal(ours.predict(X), theirs.predict(dense))
    assert 0 < len(ours.active_set_) < 20 or l1_ratio < 1


def test_binary_logistic_regression_without_intercept_is_that_of_liblinear():
    X, y = classes()
    theirs = sk.LogisticRegression(
        C=1 / (0.02 * len(y)), l1_ratio=1.0, solver="liblinear", fit_intercept=False,
        random_state=0, tol=1e-10, max_iter=10_000,
    ).fit(X, y)  # fmt: skip
    ours = SparseLogisticRegression(0.02, fit_intercept=False, tol=1e-12).fit(X, y)
    np.testing.assert_allclose(ours.coef_, theirs.coef_, atol=1e-5)
    np.testing.assert_array_equal(ours.intercept_, [0.0])


@pytest.mark.parametrize("class_weight", [None, "balanced", {"b": 3.0}])
def test_multinomial_logistic_regression_is_that_of_scikit_learn(class_weight):
    X, codes = classes(3, p=8)
    y = np.array(["a", "b", "c"])[codes]
    total = len(y)
    if isinstance(class_weight, dict):
        total += 2.0 * (y == "b").sum()
    theirs = sk.LogisticRegression(
        C=1 / (0.02 * total), l1_ratio=1.0, solver="saga", class_weight=class_weight,
        random_state=0, tol=1e-9, max_iter=100_000,
    ).fit(X, y)  # fmt: skip
    ours = SparseLogisticRegression(0.02, class_weight=class_weight, tol=1e-12).fit(X, y)
    assert ours.coef_.shape == theirs.coef_.shape == (3, 8)
    np.testing.assert_allclose(ours.coef_, theirs.coef_, atol=1e-5)
    np.testing.assert_allclose(ours.intercept_, theirs.intercept_, atol=1e-5)
    np.testing.assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), atol=1e-5)
    np.testing.assert_allclose(ours.predict_log_proba(X), theirs.predict_log_proba(X), atol=1e-4)
    np.testing.assert_array_equal(ours.predict(X), theirs.predict(X))
    assert list(ours.classes_) == ["a", "b", "c"]
    assert abs(ours.intercept_.sum()) < 1e-12


def test_log_probabilities_of_far_points_do_not_overflow():
    X, y = classes()
    model = SparseLogisticRegression(0.02).fit(X, y)
    log = model.predict_log_proba(1e6 * X)
    assert np.isfinite(log).all()
    assert log.min() < -1000
    np.testing.assert_allclose(np.exp(log).sum(axis=1), 1.0)


def test_classes_that_only_samples_without_weight_have_are_left_out():
    X, y = classes(3)
    s = np.where(y == 1, 0.0, 1.0)
    model = SparseLogisticRegression(0.02, tol=1e-12).fit(X, y, s)
    np.testing.assert_array_equal(model.classes_, [0, 2])
    left = SparseLogisticRegression(0.02, tol=1e-12).fit(X[y != 1], y[y != 1])
    np.testing.assert_allclose(model.coef_, left.coef_, atol=1e-6)


@pytest.mark.parametrize("estimator", [
    Lasso(0.05), ElasticNet(0.05), GroupLasso(0.05, groups=2), NonNegativeLeastSquares(),
], ids=repr)  # fmt: skip
def test_float32_is_kept(estimator):
    X, y = regression(60, 20, dtype=np.float32)
    model = clone(estimator).fit(X, y)
    assert model.coef_.dtype == model.intercept_.dtype == model.predict(X).dtype == np.float32
    double = clone(estimator).fit(X.astype(np.float64), y.astype(np.float64))
    assert double.coef_.dtype == np.float64
    scale = np.abs(double.coef_).max()
    np.testing.assert_allclose(model.coef_, double.coef_, atol=1e-2 * scale)
    np.testing.assert_allclose(model.predict(X), double.predict(X.astype(float)), rtol=1e-2)


def test_float32_classes():
    X, y = classes()
    model = SparseLogisticRegression(0.02).fit(X.astype(np.float32), y)
    assert model.coef_.dtype == model.intercept_.dtype == np.float32
    double = SparseLogisticRegression(0.02).fit(X, y)
    np.testing.assert_allclose(model.coef_, double.coef_, atol=1e-2)


# -- weights -------------------------------------------------------------------------------------


@pytest.mark.parametrize("estimator", [
    Lasso(0.05, tol=1e-12), ElasticNet(0.05, tol=1e-12), GroupLasso(0.05, groups=2, tol=1e-12),
    NonNegativeLeastSquares(l2=0.05, tol=1e-12),
    SparseLogisticRegression(0.05, tol=1e-12),
], ids=repr)  # fmt: skip
def test_whole_weights_are_repetitions_in_any_unit(estimator):
    X, y = regression(60, 20)
    if isinstance(estimator, SparseLogisticRegression):
        y = y > np.median(y)
    s = np.random.default_rng(0).integers(0, 4, 60)
    expected = clone(estimator).fit(np.repeat(X, s, axis=0), np.repeat(y, s))
    for unit in (1, 1e-200, 1e300):
        model = clone(estimator).fit(X, y, sample_weight=s * unit)
        np.testing.assert_allclose(model.coef_, expected.coef_, atol=1e-6)
        np.testing.assert_allclose(model.dual_gap_, expected.dual_gap_, atol=1e-9)
    same = clone(estimator).fit(X, y, sample_weight=2.5)
    np.testing.assert_array_equal(same.coef_, clone(estimator).fit(X, y).coef_)


@pytest.mark.parametrize("positive", [True, False])
def test_weights_of_features_are_units_of_columns(positive):
    X, y = regression()
    c = np.random.default_rng(0).uniform(0.3, 3.0, 70)
    ours = Lasso(0.1, weights=c, positive=positive, tol=1e-12).fit(X, y)
    theirs = sk.Lasso(0.1, positive=positive, **TIGHT).fit(X / c, y)
    np.testing.assert_allclose(ours.coef_, theirs.coef_ / c, atol=1e-6)
    rows = np.vstack([X, np.sqrt(40 * 0.05) * np.eye(70)])  # a ridge term as rows of data
    net = ElasticNet(0.1, l1_ratio=0.5, weights=c, fit_intercept=False, tol=1e-12).fit(X, y)
    theirs = sk.Lasso(0.05 * 40 / 110, fit_intercept=False, **TIGHT)
    theirs.fit(rows / c, np.append(y, np.zeros(70)))
    np.testing.assert_allclose(net.coef_, theirs.coef_ / c, atol=1e-6)


@pytest.mark.parametrize("positive", [True, False])
def test_an_infinite_weight_excludes(positive):
    X, y = regression()
    c = np.ones(70)
    c[[0, 3, 50]] = np.inf
    rest = np.isfinite(c)
    model = Lasso(0.05, weights=c, positive=positive, tol=1e-12).fit(X, y)
    theirs = sk.Lasso(0.05, positive=positive, **TIGHT).fit(X[:, rest], y)
    np.testing.assert_allclose(model.coef_[rest], theirs.coef_, atol=1e-6)
    np.testing.assert_array_equal(model.coef_[~rest], 0.0)
    ridge = ElasticNet(0.05, l1_ratio=0.0, weights=c).fit(X, y)
    theirs = sk.Ridge(0.05 * 40).fit(X[:, rest], y)
    np.testing.assert_allclose(ridge.coef_[rest], theirs.coef_, atol=1e-6)
    np.testing.assert_array_equal(ridge.coef_[~rest], 0.0)


def test_a_weight_of_zero_leaves_a_feature_out_of_the_penalty():
    # Frisch-Waugh: what is free can be projected out of the others and of the target.
    X, y = regression()
    c = np.ones(70)
    c[[1, 40]] = 0.0
    free = np.column_stack([X[:, [1, 40]], np.ones(40)])
    Q = np.linalg.qr(free)[0]
    rest = c > 0
    theirs = sk.Lasso(0.3, fit_intercept=False, **TIGHT)
    theirs.fit((X - Q @ (Q.T @ X))[:, rest], y - Q @ (Q.T @ y))
    model = Lasso(0.3, weights=c, tol=1e-12).fit(X, y)
    np.testing.assert_allclose(model.coef_[rest], theirs.coef_, atol=1e-6)
    fit = np.linalg.lstsq(free, y - X[:, rest] @ theirs.coef_, rcond=None)[0]
    np.testing.assert_allclose([*model.coef_[~rest], model.intercept_], fit, atol=1e-5)
    # alpha_max_ knows of it.
    for factor, empty in ((1.0 + 1e-6, True), (1.0 - 1e-3, False)):
        model.set_params(alpha=factor * model.alpha_max_).fit(X, y)
        assert (not model.coef_[rest].any()) == empty
        assert model.coef_[~rest].all()


@pytest.mark.parametrize("model", [
    Lasso(), Lasso(positive=True), ElasticNet(l1_ratio=0.3), GroupLasso(groups=3),
    Lasso(weights=np.linspace(0.5, 2.0, 70)), Lasso(fit_intercept=False),
    GroupLasso(groups=3, positive=True), SparseLogisticRegression(),
    SparseLogisticRegression(groups=3), SparseLogisticRegression(l1_ratio=0.3),
], ids=repr)  # fmt: skip
@pytest.mark.parametrize("several", [True, False])
def test_alpha_max_is_where_the_first_coefficient_appears(model, several):
    X, y = regression(targets=2)
    y = y if several else y[:, 0]
    if isinstance(model, SparseLogisticRegression):
        y = np.digitize(y.reshape(40, -1)[:, 0], [3.0, 7.0] if several else [5.0])
    model = clone(model).set_params(tol=1e-8)
    largest = model.fit(X, y).alpha_max_
    model.set_params(alpha=largest * (1 + 1e-9)).fit(X, y)
    assert not model.coef_.any()
    results = model.result_ if isinstance(model.result_, list) else [model.result_]
    assert all("is at least alpha_max_=" in r.message for r in results)
    model.set_params(alpha=largest * 0.98).fit(X, y)
    assert model.coef_.any()
    results = model.result_ if isinstance(model.result_, list) else [model.result_]
    assert not all("alpha_max_" in r.message for r in results)


# -- groups --------------------------------------------------------------------------------------


def test_forms_of_groups():
    for groups, expected in (
        (2, [0, 0, 1, 1, 2]),
        (np.int64(9), [0, 0, 0, 0, 0]),
        ([[0, 4], [1], [2, 3]], [0, 1, 2, 2, 0]),
        ([np.array([4]), [0, 1, 2, 3]], [1, 1, 1, 1, 0]),
        ([7, 7, 3, 9, 3], [1, 1, 0, 2, 0]),
        (np.array(["b", "a", "a", "b", "c"]), [1, 0, 0, 1, 2]),
    ):
        np.testing.assert_array_equal(group_labels("x", groups, 5), expected)


def test_groups_of_orthonormal_columns_are_shrunk_by_the_root_of_their_size():
    # n = 8 and X' X = n I: block soft thresholding at alpha * weight.
    X = np.sqrt(8.0) * np.eye(8)
    y = np.arange(8.0) + 1.0
    u = X.T @ y / 8
    for weights in (None, [1.0, 0.5, 2.0]):
        model = GroupLasso(
            0.4, groups=[[0, 5], [1, 2, 3, 4], [6, 7]], weights=weights, fit_intercept=False,
            tol=1e-14,
        ).fit(X, y)  # fmt: skip
        c = np.sqrt([2, 4, 2]) if weights is None else weights
        expected = np.zeros(8)
        for g, members in enumerate(([0, 5], [1, 2, 3, 4], [6, 7])):
            norm = np.linalg.norm(u[members])
            expected[members] = max(0.0, 1 - 0.4 * c[g] / norm) * u[members]
        np.testing.assert_allclose(model.coef_, expected, atol=1e-7)
        np.testing.assert_array_equal(model.groups_, [0, 1, 1, 1, 1, 0, 2, 2])


@pytest.mark.parametrize("k", [2, 3])
def test_groups_of_logistic_regression_enter_together(k):
    X, y = classes(k)
    model = SparseLogisticRegression(groups=4).fit(X, y)
    model.set_params(alpha=0.5 * model.alpha_max_, tol=1e-10).fit(X, y)
    used = model.coef_.any(axis=0).reshape(5, 4)
    assert 0 < used.any(axis=1).sum() < 5
    assert (used.all(axis=1) == used.any(axis=1)).all()
    assert 0 <= model.dual_gap_ < 1e-9


def test_active_groups():
    X, y = regression()
    model = GroupLasso(0.3, groups=5).fit(X, y)
    np.testing.assert_array_equal(
        model.active_groups_, np.flatnonzero(model.coef_.reshape(14, 5).any(axis=1))
    )


# -- what a fit says -----------------------------------------------------------------------------


def test_dual_gap_bounds_the_distance_to_the_best_objective():
    X, y = regression()
    for alpha, ratio in ((0.3, 1.0), (0.05, 1.0), (0.1, 0.5)):
        best = objective(ElasticNet(alpha, l1_ratio=ratio, tol=1e-14).fit(X, y), X, y, alpha, ratio)
        for tol in (1e-1, 1e-3):
            model = ElasticNet(alpha, l1_ratio=ratio, tol=tol).fit(X, y)
            assert objective(model, X, y, alpha, ratio) - best <= model.dual_gap_ + 1e-13
            assert model.dual_gap_ <= tol * 0.5 * y.var() * (1 + 1e-9)


def test_attributes():
    X, y = regression()
    model = Lasso(0.05).fit(X, y)
    assert model.n_features_in_ == 70
    assert model.result_.success
    assert model.n_iter_ == model.result_.nit > 0
    assert model.dual_gap_ == model.result_.certificate.gap / 40
    expected = np.abs((X - X.mean(0)).T @ (y - y.mean())).max() / 40
    assert abs(model.alpha_max_ - expected) < 1e-12 * expected
    assert "alpha_max_" not in model.result_.message


def test_names_of_columns():
    pd = pytest.importorskip("pandas")
    X, y = regression()
    frame = pd.DataFrame(X[:, :3], columns=["u", "v", "w"])
    model = Lasso(0.05).fit(frame, y)
    assert list(model.feature_names_in_) == ["u", "v", "w"]
    with pytest.raises(ValueError, match="feature names"):
        model.predict(frame[["v", "u", "w"]])


def test_a_limit_gives_a_warning_with_the_residual_and_a_cure():
    X, y = regression(targets=2)
    with pytest.warns(ConvergenceWarning, match=r"Lasso: Iteration limit max_iter=1.*residual"):
        model = Lasso(1e-3, max_iter=1, tol=1e-12).fit(X, y[:, 0])
    assert not model.result_.success
    assert np.isfinite(model.coef_).all()
    with pytest.warns(ConvergenceWarning, match="Raise max_iter or tol"):
        GroupLasso(1e-3, max_iter=0).fit(X, y)
    with pytest.warns(ConvergenceWarning, match="SparseLogisticRegression: Iteration limit"):
        SparseLogisticRegression(1e-3, max_iter=0).fit(X, y[:, 0] > 5)


@pytest.mark.parametrize("estimator", [
    Lasso(0.05), Lasso(0.05, positive=True), ElasticNet(0.05), GroupLasso(0.05, groups=2),
    NonNegativeLeastSquares(), ElasticNet(0.05, l1_ratio=0.0),
], ids=repr)  # fmt: skip
@pytest.mark.parametrize("several", [True, False])
def test_a_warm_start_at_the_answer_takes_no_iteration(estimator, several):
    X, y = regression(60, 20, targets=2)
    y = y if several else y[:, 0]
    model = clone(estimator).set_params(warm_start=True).fit(X, y)
    coef, intercept = model.coef_, model.intercept_
    model.fit(X, y)
    results = model.result_ if isinstance(model.result_, list) else [model.result_]
    assert [r.nit for r in results] == [0] * len(results)
    np.testing.assert_allclose(model.coef_, coef, rtol=1e-12)
    np.testing.assert_allclose(model.intercept_, intercept, rtol=1e-12)
    assert np.min(model.n_iter_) == 1


@pytest.mark.parametrize("k", [2, 3])
def test_a_warm_start_of_a_classifier(k):
    X, y = classes(k)
    model = SparseLogisticRegression(0.02, warm_start=True).fit(X, y)
    model.fit(X, y)
    assert model.result_.nit == 0
    X, y = classes(5 - k)
    assert model.fit(X, y).result_.nit > 0  # other classes: from the beginning


def test_a_warm_start_from_what_no_longer_fits():
    X, y = regression()
    model = Lasso(0.05, warm_start=True, tol=1e-12).fit(X, y)
    assert (model.coef_ < 0).any()
    model.set_params(positive=True).fit(X, y)
    theirs = sk.Lasso(0.05, positive=True, **TIGHT).fit(X, y)
    np.testing.assert_allclose(model.coef_, theirs.coef_, atol=1e-6)
    model.set_params(positive=False, weights=np.where(model.coef_ > 0, np.inf, 1.0)).fit(X, y)
    assert model.result_.success
    groups = GroupLasso(0.05, warm_start=True, tol=1e-10).fit(X, y)
    assert (groups.coef_ < 0).any()
    groups.set_params(positive=True).fit(X, y)
    np.testing.assert_allclose(groups.coef_, theirs.coef_, atol=1e-4)
    groups.set_params(weights=np.where(groups.coef_ > 0, np.inf, 1.0)).fit(X, y)
    assert groups.result_.success
    model.set_params(weights=None).fit(X[:, :30], y)  # other features: from the beginning
    assert model.coef_.shape == (30,)
    model.fit(X[:, :30], np.column_stack([y, y]))
    assert model.coef_.shape == (2, 30)


# -- within scikit-learn -------------------------------------------------------------------------


def test_grid_search_reaches_the_strength_and_the_solver():
    X, y = regression(80, 30)
    grid = {"alpha": [1.0, 0.1, 0.01], "solver__tol": [1e-3, 1e-6]}
    search = GridSearchCV(Lasso(solver=SparseGLMSolver()), grid, cv=3).fit(X, y)
    theirs = GridSearchCV(sk.Lasso(), {"alpha": grid["alpha"]}, cv=3).fit(X, y)
    assert search.best_params_["alpha"] == theirs.best_params_["alpha"]
    assert search.best_estimator_.solver.tol in grid["solver__tol"]


def test_solvers_by_name_and_by_instance():
    X, y = regression()
    solver = SparseGLMSolver(tol=1e-3, gram="never")
    model = Lasso(0.05, solver=solver, tol=1e-12).fit(X, y)
    assert "tol=0.001" in model.result_.solver  # the instance keeps its own
    assert "gram='never'" in model.result_.solver
    assert model.solver is solver
    named = Lasso(0.05, solver="SparseGLMSolver", tol=1e-9).fit(X, y)
    assert "SparseGLMSolver(tol=1e-09)" in named.result_.solver
    with pytest.raises(ParameterError, match="solver='cd' is unknown"):
        Lasso(solver="cd").fit(X, y)


@pytest.mark.parametrize("sparse", [True, False])
def test_select_from_model_keeps_what_is_not_zero(sparse):
    X, y = regression()
    X = sparse_of(X) if sparse else X
    for model, target in (
        (Lasso(0.1), y), (GroupLasso(0.1, groups=2), y),
        (SparseLogisticRegression(0.05), y > np.median(y)),
    ):  # fmt: skip
        select = SelectFromModel(model).fit(X, target)
        used = np.flatnonzero(np.abs(select.estimator_.coef_).reshape(70) > 1e-5)
        np.testing.assert_array_equal(select.get_support(indices=True), used)
        assert select.transform(X).shape == (40, len(used))


def test_pipeline_clone_and_pickle():
    X, y = regression()
    model = make_pipeline(StandardScaler(), Lasso(0.05, random_state=0, selection="random"))
    expected = clone(model).fit(X, y).predict(X)
    copy = pickle.loads(pickle.dumps(clone(model).fit(X, y)))
    np.testing.assert_array_equal(copy.predict(X), expected)
    assert copy[-1].result_.certificate.gap is not None
    X, y = regression(300, 600)
    model = Lasso(0.01).fit(X, y)
    assert len(model.active_set_) > 100
    assert len(pickle.dumps(model)) < 20_000  # coefficients, no matrices


def test_keywords_of_scikit_learn_are_accepted_and_have_no_effect():
    X, y = regression()
    plain = Lasso(0.05).fit(X, y)
    given = Lasso(
        0.05, precompute=True, copy_X=False, random_state=3, selection="random"
    ).fit(X, y)  # fmt: skip
    np.testing.assert_array_equal(given.coef_, plain.coef_)
    ours = set(Lasso().get_params())
    assert set(sk.Lasso().get_params()) <= ours
    assert set(sk.ElasticNet().get_params()) <= set(ElasticNet().get_params())
    assert set(sk.MultiTaskElasticNet().get_params()) <= set(GroupLasso().get_params())


def test_progress_bar_of_scikit_learn(capsys):
    callback = pytest.importorskip("sklearn.callback", reason="scikit-learn before 1.9")
    pytest.importorskip("rich")
    X, y = regression(targets=2)
    for target in (y[:, 0], y):
        model = Lasso(0.05).set_callbacks(callback.ProgressBar()).fit(X, target)
        assert np.isfinite(model.coef_).all()
        assert "Lasso" in capsys.readouterr().out


def test_before_a_fit():
    for model in (Lasso(), SparseLogisticRegression()):
        with pytest.raises(NotFittedError):
            model.predict([[1.0]])
        with pytest.raises(NotFittedError):
            _ = model.sparse_coef_


# -- data ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["dense", "float32", "csc"])
def test_good_data_are_not_copied(kind, monkeypatch):
    seen = []

    class Spy(estimators.GLMProblem):
        def __post_init__(self):
            super().__post_init__()
            seen.append(self.X)

    monkeypatch.setattr(estimators, "GLMProblem", Spy)
    monkeypatch.setattr(estimators_classification, "GLMProblem", Spy)
    X, y = regression()
    X = {"dense": X, "float32": X.astype(np.float32), "csc": sparse_of(X)}[kind]
    for model in (Lasso(0.1), GroupLasso(0.1), NonNegativeLeastSquares(l2=0.1)):
        model.fit(X, y)
    SparseLogisticRegression(0.1).fit(X, y > 5)
    assert len(seen) == 4
    for design in seen:
        assert np.shares_memory(design.data if kind == "csc" else design,
                                X.data if kind == "csc" else X)  # fmt: skip
    # A C-ordered array is copied once: the problem takes the copy of the check.
    seen.clear()
    if kind != "csc":
        Lasso(0.1).fit(np.ascontiguousarray(X), y)
        assert seen[0].flags.f_contiguous


def test_data_are_not_changed():
    X, y = regression(targets=2)
    s = weights_of(40)
    for array in (X, y, s):
        array.flags.writeable = False
    kept = X.copy(), y.copy(), s.copy()
    Lasso(0.1, copy_X=False).fit(X, y, s)
    GroupLasso(0.1, copy_X=False).fit(X, y, s)
    for array, before in zip((X, y, s), kept, strict=True):
        np.testing.assert_array_equal(array, before)


@pytest.mark.parametrize("form", [sp.csr_array, sp.csc_matrix, sp.coo_array, sp.csr_matrix])
def test_sparse_forms(form):
    X, y = regression()
    S = sparse_of(X)
    expected = Lasso(0.05).fit(S, y)
    model = Lasso(0.05).fit(form(S), y)
    np.testing.assert_array_equal(model.coef_, expected.coef_)
    np.testing.assert_allclose(model.predict(form(S)), expected.predict(S.toarray()))


def test_constant_targets_and_constant_features():
    X, y = regression()
    model = Lasso(0.05).fit(X, np.full(40, 3.0))
    np.testing.assert_array_equal(model.coef_, 0.0)
    assert model.intercept_ == 3.0
    X[:, 2] = 7.0
    model = Lasso(0.05).fit(X, y)
    assert model.coef_[2] == 0.0
    theirs = sk.Lasso(0.05, **TIGHT).fit(X, y)
    np.testing.assert_allclose(model.predict(X), theirs.predict(X), atol=1e-2)
    zero = Lasso(0.05).fit(np.zeros((40, 3)), y)
    np.testing.assert_array_equal(zero.coef_, 0.0)


@pytest.mark.parametrize(("model", "message"), [
    (Lasso(alpha=-1.0), r"Lasso: alpha=-1\.0 must be"),
    (Lasso(alpha=np.nan), "alpha=nan must be"), (Lasso(alpha="x"), "alpha='x' must be"),
    (Lasso(tol=-1.0), r"tol=-1\.0 must be"), (Lasso(max_iter=-1), "max_iter=-1 must be"),
    (Lasso(fit_intercept="yes"), "fit_intercept='yes' must be True or False"),
    (Lasso(positive=2), "positive=2 must be"), (Lasso(selection="all"), "selection='all'"),
    (Lasso(n_threads=0), "n_threads=0 must be"), (Lasso(weights=3), "weights=3 must be"),
    (ElasticNet(l1_ratio=1.1), r"ElasticNet: l1_ratio=1\.1 must be"),
    (GroupLasso(l1_ratio=0.0), r"l1_ratio=0\.0 must be a number in \(0, 1\]"),
    (GroupLasso(groups=0), "groups=0 must be"), (GroupLasso(groups="a"), "groups='a' must be"),
    (NonNegativeLeastSquares(l2=-1.0), r"l2=-1\.0 must be"),
    (SparseLogisticRegression(alpha=0.0), r"alpha=0\.0 must be a number in \(0, inf\)"),
    (SparseLogisticRegression(class_weight="even"), "class_weight='even' must be"),
    (SparseLogisticRegression(class_weight={7: 1.0}), "class_weight has 7, which is none of"),
])  # fmt: skip
def test_bad_parameters(model, message):
    X, y = classes()
    with pytest.raises(ParameterError, match=message):
        model.fit(X, y)


@pytest.mark.parametrize(("model", "message"), [
    (Lasso(weights=[1.0]), r"Lasso: weights has shape \(1,\); expected \(70,\)"),
    (Lasso(weights=-np.ones(70)), r"weights\[0\] = -1; weights must be at least 0"),
    (Lasso(weights=np.full(70, np.nan)), "weights"),
    (GroupLasso(groups=[0, 1]), r"groups has shape \(2,\); expected a label for each of the 70"),
    (GroupLasso(groups=[[0, 1], [1, 2]]), "feature 1 is in group 1 and in another"),
    (GroupLasso(groups=[[0, 0]]), "feature 0 is in group 0 and in another, or twice in it"),
    (GroupLasso(groups=[[0, 70]]), r"groups\[0\] has feature 70; .* from 0 to 69"),
    (GroupLasso(groups=[[0], [1]]), "feature 2 is in none of the groups"),
    (GroupLasso(groups=[[0], []]), r"groups\[1\]=\[\] must be a list of one or more"),
    (GroupLasso(groups=[[0], [0.5]]), r"groups\[1\]=\[0\.5\] must be"),
    (GroupLasso(groups=np.full(70, np.nan)), r"groups\[0\] is not finite"),
    (GroupLasso(groups=7, weights=[1.0]), r"weights has shape \(1,\); .* each of the 10 groups"),
    (SparseLogisticRegression(weights=[1.0]), "each of the 70 features"),
])  # fmt: skip
def test_bad_weights_and_groups(model, message):
    X, y = regression()
    with pytest.raises(ProblemError, match=message):
        model.fit(X, y > 5 if isinstance(model, SparseLogisticRegression) else y)


@pytest.mark.parametrize(("change", "message"), [
    ({"X": "nan"}, r"X\[0, 3\] is NaN or infinite"), ({"X": "sparse nan"}, "NaN or infinite"),
    ({"y": "nan"}, "contains NaN"), ({"y": "short"}, "inconsistent numbers of samples"),
    ({"s": np.ones(39)}, r"sample_weight has shape \(39,\)"),
    ({"s": -np.ones(40)}, r"sample_weight\[0\] = -1; it must be at least 0"),
    ({"s": np.zeros(40)}, "sample_weight is zero for all samples"),
    ({"s": np.full(40, np.nan)}, "sample_weight"), ({"s": np.ones((40, 1))}, "sample_weight"),
])  # fmt: skip
@pytest.mark.parametrize("model", [Lasso(), GroupLasso(), SparseLogisticRegression()], ids=repr)
def test_bad_data(model, change, message):
    X, y = regression()
    y = (y > 5).astype(float)
    if change.get("X") == "nan":
        X[0, 3] = np.nan
    if change.get("X") == "sparse nan":
        X = sparse_of(X)
        X.data[5] = np.inf
    if change.get("y") == "nan":
        y[2] = np.nan
    if change.get("y") == "short":
        y = y[:-1]
    with pytest.raises(ValueError, match=message):
        model.fit(X, y, sample_weight=change.get("s"))


def test_sparse_targets_are_refused():
    X, y = regression(targets=2)
    with pytest.raises(TypeError, match="y is a sparse matrix; dense targets are needed"):
        Lasso().fit(X, sp.csr_array(y))


def test_bad_classes():
    X, y = classes()
    with pytest.raises(ProblemError, match="y has only one class, 1, among the samples"):
        SparseLogisticRegression().fit(X, np.ones(90, int))
    with pytest.raises(ProblemError, match="only one class"):
        SparseLogisticRegression().fit(X, y, (y == 0).astype(float))
    with pytest.raises(ValueError, match="Unknown label type"):
        SparseLogisticRegression().fit(X, X[:, 0])


# -- non-negative least squares without a unique solution ------------------------------------------


@pytest.mark.parametrize("intercept", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_of_several_solutions_the_one_of_least_sum_is_taken(seed, intercept):
    """What a linear program over all solutions finds, from the data alone."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(8, 25))
    y = X @ rng.exponential(size=25) + 2.0 * intercept  # fits exactly, in many ways
    model = NonNegativeLeastSquares(fit_intercept=intercept).fit(X, y)
    ones = np.ones((8, 1)) if intercept else np.zeros((8, 0))
    best = linprog(
        np.append(np.ones(25), np.zeros(ones.shape[1])), A_eq=np.hstack([X, ones]), b_eq=y,
        bounds=[(0, None)] * 25 + [(None, None)] * ones.shape[1],
    )  # fmt: skip
    np.testing.assert_allclose(model.predict(X), y, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(model.coef_.sum(), best.fun, rtol=1e-9)
    assert model.result_.certificate.residual < 1e-9


def test_a_duplicated_column_is_used_once_and_weights_stand_for_copies():
    rng = np.random.default_rng(3)
    A = np.abs(rng.normal(size=(20, 3)))
    X = np.hstack([A, A[:, :1], 2.0 * A[:, 1:2]])
    y = A @ [1.0, 2.0, 0.5] + 0.1 * rng.normal(size=20)
    model = NonNegativeLeastSquares(fit_intercept=False).fit(X, y)
    alone = nnls(A, y)[0]
    np.testing.assert_allclose(X @ model.coef_, A @ alone, rtol=1e-9)
    assert model.coef_[1] == 0.0  # the longer copy costs half the sum
    assert np.count_nonzero(model.coef_[[0, 3]]) == 1
    weights = rng.integers(0, 3, 20)
    weighted = NonNegativeLeastSquares().fit(X, y, sample_weight=weights)
    rows = np.repeat(np.arange(20), weights)
    repeated = NonNegativeLeastSquares().fit(X[rows], y[rows])
    np.testing.assert_allclose(weighted.coef_, repeated.coef_, rtol=1e-8, atol=1e-10)


def test_an_interrupted_fit_raises(monkeypatch):
    """A search or script around a fit must end too, and not take the model for finished."""
    step = SparseGLMSolver.step

    def interrupted(self, problem, state, n=1):
        signal.raise_signal(signal.SIGINT)
        return step(self, problem, state, n)

    monkeypatch.setattr(SparseGLMSolver, "step", interrupted)
    X, y = regression()
    # A shell starts jobs in the background with the signal ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            Lasso(0.01, tol=1e-12).fit(X, y)
    finally:
        signal.signal(signal.SIGINT, before)


def test_solvers_of_other_libraries_are_refused_with_those_that_there_are():
    X, y = regression()
    with pytest.raises(ParameterError, match=r"saga.*SparseGLMSolver"):
        Lasso(0.1, solver="saga").fit(X, y)
    with pytest.raises(TypeError, match=r"such as SparseGLMSolver\(\)"):
        Lasso(0.1, solver=SparseGLMSolver).fit(X, y)
