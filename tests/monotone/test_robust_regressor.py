"""RobustRegressor: against a conic solver, closed forms, scikit-learn's checks."""

from __future__ import annotations

import warnings

import cvxpy as cp
import numpy as np
import pytest
import scipy.sparse as sp
import sklearn
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.utils.estimator_checks import estimator_checks_generator, parametrize_with_checks

from lowrank_opt.core.errors import ConvergenceWarning, ParameterError, ProblemError
from lowrank_opt.monotone.ball_projection import project_weights, worst_weights
from lowrank_opt.monotone.estimators import RobustRegressor

ESTIMATORS = [
    RobustRegressor(), RobustRegressor(0.0), RobustRegressor(1.0, alpha=0.1, tol=1e-13),
]  # fmt: skip
N_CHECKS = 60


def data(n=40, d=3, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, d)) + 1.0
    return X, X @ rng.standard_normal(d) + 2.0 + rng.standard_t(3, n)


def worst_loss(w, b, X, y, rho, alpha=0.0):
    """The objective, by a conic solver."""
    losses = 0.5 * (y - X @ w - b) ** 2
    t = cp.Variable(len(y), nonneg=True)
    ball = [cp.sum(t) == len(y), cp.sum_squares(t - 1) <= 2 * rho]
    value = cp.Problem(cp.Maximize(t @ losses / len(y)), ball).solve(solver="CLARABEL")
    return value + 0.5 * alpha * w @ w


def by_cvxpy(X, y, rho, alpha=0.0):
    """The program with the inner maximum replaced by its conic dual.

    The largest mean of t l is the least of eta + lam rho / n - lam / 2 + (1 / n) sum of
    (l_i - eta + lam)_+^2 / (2 lam), with the sum of squares over lam as a perspective.
    """
    n, d = X.shape
    w, b, eta, lam = cp.Variable(d), cp.Variable(), cp.Variable(), cp.Variable(nonneg=True)
    excess = cp.Variable(n, nonneg=True)
    losses = cp.square(y - X @ w - b) / 2
    value = (
        eta + lam * rho / n - lam / 2 + cp.quad_over_lin(excess, 2 * lam) / n
        + alpha / 2 * cp.sum_squares(w)
    )  # fmt: skip
    problem = cp.Problem(cp.Minimize(value), [excess >= losses - eta + lam])
    return problem.solve(solver="CLARABEL"), w.value, b.value


@parametrize_with_checks(ESTIMATORS)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_scikit_learn_check(estimator, check):
    check(estimator)


def test_number_of_checks():
    names = [check.func.__name__ for _, check in estimator_checks_generator(RobustRegressor())]
    if sklearn.__version__.startswith("1.9."):
        assert len(names) == N_CHECKS
    assert len(names) > N_CHECKS - 10


# -- the ball --------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(8))
def test_projection_and_worst_case_are_those_of_a_conic_solver(seed):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(2, 9))
    v, s = rng.standard_normal(n) * 3, rng.integers(1, 4, n) * 1.0
    v[1] = v[0]
    for rho in (0.02, 0.5, 3.0, 200.0):
        t = cp.Variable(n, nonneg=True)
        ball = [s @ (t - 1) == 0, s @ cp.square(t - 1) <= 2 * rho]
        cp.Problem(cp.Minimize(s @ cp.square(t - v)), ball).solve(solver="CLARABEL")
        near, worst = project_weights(v, rho, s), worst_weights(v, rho, s)
        np.testing.assert_allclose(near, t.value, atol=2e-4)
        most = cp.Problem(cp.Maximize((s * v) @ t), ball).solve(solver="CLARABEL")
        assert (s * v) @ worst == pytest.approx(most, rel=1e-5, abs=1e-5)
        for weights in (near, worst):
            assert weights.min() >= 0
            assert s @ (weights - 1) == pytest.approx(0, abs=1e-10)
            assert s @ (weights - 1) ** 2 <= 2 * rho * (1 + 1e-9)


def test_weights_in_the_set_stay():
    t = worst_weights([0.0, 3.0, 1.0, 1.0], 0.3)
    np.testing.assert_allclose(project_weights(t, 0.3), t, atol=1e-14)
    np.testing.assert_array_equal(worst_weights([0.0, 3.0, 1.0], 0.0), np.ones(3))
    np.testing.assert_array_equal(worst_weights([0.0, 3.0, 3.0], 1e6), [0.0, 1.5, 1.5])


# -- the estimator ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("rho", "alpha"), [(0.5, 0.0), (5.0, 0.0), (30.0, 0.2), (200.0, 0.0)])
def test_the_value_is_that_of_a_conic_solver(rho, alpha):
    X, y = data()
    model = RobustRegressor(rho, alpha=alpha, tol=1e-9).fit(X, y)
    value, w, b = by_cvxpy(X, y, rho, alpha)
    assert model.robust_loss_ == pytest.approx(value, rel=1e-6)
    assert worst_loss(model.coef_, model.intercept_, X, y, rho, alpha) == pytest.approx(
        model.robust_loss_, rel=1e-6
    )
    np.testing.assert_allclose(model.coef_, w, atol=2e-3)
    assert model.intercept_ == pytest.approx(b, abs=2e-3)
    assert 0 <= model.dual_gap_ <= 1e-9 * 0.5 * np.var(y) * 1.01
    p = model.weights_
    assert p.sum() == pytest.approx(1.0)
    assert ((len(y) * p - 1) ** 2).sum() <= 2 * rho * (1 + 1e-9)


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("intercept", [False, True])
def test_without_doubt_it_is_least_squares(intercept, sparse):
    X, y = data()
    X = np.where(np.abs(X) > 0.8, X, 0.0)
    s = np.random.default_rng(1).integers(0, 3, len(y)) * 1.0
    ours = RobustRegressor(0.0, fit_intercept=intercept)
    ours.fit(sp.csr_array(X) if sparse else X, y, sample_weight=s)
    theirs = LinearRegression(fit_intercept=intercept).fit(X, y, sample_weight=s)
    np.testing.assert_allclose(ours.coef_, theirs.coef_, rtol=1e-8, atol=1e-10)
    assert ours.intercept_ == pytest.approx(theirs.intercept_, abs=1e-9)
    ridge = RobustRegressor(0.0, alpha=0.3, fit_intercept=intercept).fit(X, y)
    theirs = Ridge(0.3 * len(y), fit_intercept=intercept).fit(X, y)
    np.testing.assert_allclose(ridge.coef_, theirs.coef_, rtol=1e-7)


def test_with_all_doubt_the_largest_error_is_minimised():
    y = np.array([0.0, 0.2, 0.3, 4.0])
    model = RobustRegressor(100.0, tol=1e-9).fit(np.zeros((4, 1)), y)
    assert model.intercept_ == pytest.approx(2.0, abs=1e-4)
    np.testing.assert_allclose(model.weights_[[0, 3]], 0.5, atol=1e-3)


def test_a_weight_is_a_number_of_copies():
    X, y = data(12, 2)
    s = np.array([2, 1, 0, 3] * 3)
    a = RobustRegressor(3.0, tol=1e-13, max_iter=5000).fit(X, y, sample_weight=s)
    b = RobustRegressor(3.0, tol=1e-13, max_iter=5000).fit(np.repeat(X, s, 0), np.repeat(y, s))
    np.testing.assert_allclose(a.coef_, b.coef_, atol=1e-6)
    assert a.weights_[2] == 0
    merged = np.add.reduceat(b.weights_, np.r_[0, np.cumsum(s[s > 0])[:-1]])
    np.testing.assert_allclose(a.weights_[s > 0], merged, atol=1e-5)


def test_limits_and_warm_starts():
    X, y = data()
    with pytest.warns(ConvergenceWarning, match="max_iter=1"):
        model = RobustRegressor(5.0, max_iter=1, tol=1e-12).fit(X, y)
    assert model.dual_gap_ > 0
    model = RobustRegressor(5.0, warm_start=True).fit(X, y)
    first = model.n_iter_
    assert first > 1
    assert model.fit(X, y).n_iter_ == 1


def test_bad_input():
    X, y = data(5, 2)
    with pytest.raises(ParameterError, match="rho"):
        RobustRegressor(-1.0).fit(X, y)
    with pytest.raises(ProblemError, match=r"sample_weight\[1\] is -1"):
        RobustRegressor().fit(X, y, sample_weight=[1, -1, 1, 1, 1])
    with pytest.raises(ValueError, match=r"0 everywhere|non-zero"):
        RobustRegressor().fit(X, y, sample_weight=np.zeros(5))


@pytest.mark.parametrize("level", [0.0, 1.0, -3e7])
def test_constant_targets_are_fitted_at_once(level):
    X = np.random.default_rng(0).standard_normal((200, 4))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = RobustRegressor().fit(X, np.full(200, level))
    assert model.n_iter_ == 1
    assert model.predict(X) == pytest.approx(np.full(200, level), rel=1e-12)
