"""L1Regressor: against scikit-learn, cvxpy, weighted medians, scikit-learn's checks."""

from __future__ import annotations

import cvxpy as cp
import numpy as np
import pytest
import scipy.sparse as sp
import sklearn
from sklearn.linear_model import QuantileRegressor
from sklearn.utils.estimator_checks import estimator_checks_generator, parametrize_with_checks

from lowrank_opt.core.errors import ConvergenceWarning, ParameterError, ProblemError
from lowrank_opt.monotone.estimators import L1Regressor

N_CHECKS = 60


def data(n=60, d=4, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, d)) + 1.0
    return X, X @ rng.standard_normal(d) + 2.0 + rng.standard_t(2, n)


def objective(model, X, y, alpha, q, s=None):
    r = y - model.predict(X)
    loss = np.average(np.maximum(q * r, (q - 1) * r), weights=s)
    return loss + alpha * np.abs(model.coef_).sum()


@parametrize_with_checks([L1Regressor(), L1Regressor(0.01, quantile=0.3)])
def test_scikit_learn_check(estimator, check):
    check(estimator)


def test_number_of_checks():
    names = [check.func.__name__ for _, check in estimator_checks_generator(L1Regressor())]
    if sklearn.__version__.startswith("1.9."):
        assert len(names) == N_CHECKS
    assert len(names) > N_CHECKS - 10


@pytest.mark.parametrize("method", ["highs", "halpern"])
@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize(("alpha", "q"), [(0.0, 0.5), (0.0, 0.8), (0.05, 0.3)])
def test_it_is_the_quantile_regressor_of_scikit_learn(alpha, q, intercept, method):
    X, y = data()
    s = np.random.default_rng(1).uniform(0.0, 2.0, len(y))
    s[::5] = 0.0
    ours = L1Regressor(alpha, quantile=q, fit_intercept=intercept, method=method, tol=1e-9)
    ours.fit(X, y, sample_weight=s)
    theirs = QuantileRegressor(alpha=alpha, quantile=q, fit_intercept=intercept)
    theirs.fit(X, y, sample_weight=s)
    np.testing.assert_allclose(ours.coef_, theirs.coef_, atol=1e-6)
    assert ours.intercept_ == pytest.approx(theirs.intercept_, abs=1e-6)
    assert objective(ours, X, y, alpha, q, s) <= objective(theirs, X, y, alpha, q, s) + 1e-7
    assert 0 <= ours.dual_gap_ <= 1e-7
    assert ours.result_.success


def test_the_value_is_that_of_cvxpy():
    X, y = data(30, 3, seed=2)
    w, b = cp.Variable(3), cp.Variable()
    value = cp.Problem(cp.Minimize(cp.norm1(y - X @ w - b) / 60)).solve(solver="CLARABEL")
    assert objective(L1Regressor().fit(X, y), X, y, 0.0, 0.5) == pytest.approx(value, rel=1e-6)


def test_without_features_that_vary_it_is_the_weighted_median():
    y, s = np.array([5.0, 1.0, 9.0, 2.0]), np.array([1.0, 1.0, 1.0, 5.0])
    model = L1Regressor().fit(np.zeros((4, 1)), y, sample_weight=s)
    assert model.intercept_ == pytest.approx(2.0)
    assert L1Regressor(quantile=0.7).fit(np.zeros((4, 1)), y).intercept_ == pytest.approx(5.0)
    # One feature, no intercept: the median of the ratios, weighted with |x|.
    x, y = np.array([1.0, -2.0, 4.0, 0.5]), np.array([3.0, 2.0, 4.0, 9.0])
    ratios, order = y / x, np.argsort(y / x)
    share = np.cumsum(np.abs(x[order])) / np.abs(x).sum()
    median = ratios[order][np.searchsorted(share, 0.5)]
    assert L1Regressor(fit_intercept=False).fit(x[:, None], y).coef_[0] == pytest.approx(median)


def test_outliers_do_not_matter():
    X, y = data()
    y = X @ np.arange(4.0) + 1.0
    y[:9] += 1e4
    model = L1Regressor().fit(X, y)
    np.testing.assert_allclose(model.coef_, np.arange(4.0), atol=1e-8)


def test_the_gap_bounds_a_bad_answer():
    X, y = data()
    with pytest.warns(ConvergenceWarning, match="max_iter=10"):
        model = L1Regressor(method="halpern", max_iter=10, tol=1e-12).fit(X, y)
    best = objective(L1Regressor().fit(X, y), X, y, 0.0, 0.5)
    excess = objective(model, X, y, 0.0, 0.5) - best
    assert excess > 0
    assert model.dual_gap_ > 0.1 * excess


def test_more_features_than_samples_give_the_least_norm():
    X, y = data(5, 9)
    model = L1Regressor().fit(X, y)
    np.testing.assert_allclose(model.predict(X), y)
    expected = np.linalg.pinv(X - X.mean(0)) @ (y - y.mean())
    np.testing.assert_allclose(model.coef_, expected)
    assert model.result_ is None
    assert model.dual_gap_ == pytest.approx(0, abs=1e-12)


def test_sparse_data_and_warm_starts():
    X, y = data(80)
    X = np.where(np.abs(X) > 0.8, X, 0.0)
    dense, sparse = L1Regressor().fit(X, y), L1Regressor().fit(sp.csc_array(X), y)
    np.testing.assert_allclose(dense.coef_, sparse.coef_, atol=1e-9)
    model = L1Regressor(method="halpern", warm_start=True).fit(X, y)
    assert model.n_iter_ > 1
    assert model.fit(X, y).n_iter_ == 1


def test_bad_input():
    X, y = data(5, 2)
    for keywords in ({"quantile": 1.0}, {"alpha": -1.0}, {"method": "simplex"}):
        with pytest.raises(ParameterError, match=next(iter(keywords))):
            L1Regressor(**keywords).fit(X, y)
    with pytest.raises(ProblemError, match=r"sample_weight\[0\] is -2"):
        L1Regressor().fit(X, y, sample_weight=[-2, 1, 1, 1, 1])
