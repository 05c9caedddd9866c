"""MatrixCompletion: oracles against dense formulas, certificates against independent facts."""

from __future__ import annotations

import dataclasses
import json
import pickle
import tracemalloc

import cvxpy as cp
import numpy as np
import pytest
import scipy.sparse as sp

from lowrank_opt.core import Certificate
from lowrank_opt.core.errors import ProblemError
from lowrank_opt.recovery import LowRankMatrix, LowRankSamples, MatrixCompletion, Observations
from lowrank_opt.recovery import certificates as module
from lowrank_opt.recovery.certificates import spectral_norm_bounds
from lowrank_opt.testing import check_problem

M, N, K = 14, 11, 3


@pytest.fixture
def rng():
    return np.random.default_rng(2)


def masked(rng, m=M, n=N, p=0.6, values=None):
    X = rng.standard_normal((m, n)) + 0.5 if values is None else values.copy()
    missing = rng.random((m, n)) > p
    missing[np.arange(m), np.arange(m) % n] = False
    missing[np.arange(n) % m, np.arange(n)] = False
    X[missing] = np.nan
    return X


def random_point(rng, m=M, n=N, k=K, offset=0.0, biases=True, dtype=np.float64):
    U, V, b, c = (rng.standard_normal(s).astype(dtype) for s in ((m, k), (n, k), m, n))
    return LowRankMatrix(U, V, offset, *((b, c) if biases else ()))


def rho(e, loss, delta):
    a = np.abs(e)
    if loss == "squared":
        return e**2
    return a if loss == "l1" else np.where(a <= delta, e**2, 2 * delta * a - delta**2)


def dense_objective(X, W, x, loss, delta, reg, reg_bias, power):
    """The formula of the class docstring, with dense arrays and no code of the library."""
    seen = ~np.isnan(X)
    w = np.where(seen, W, 0.0)
    U, V = x.U.astype(float), x.V.astype(float)
    fit = x.offset + U @ V.T
    s, t = w.sum(axis=1) ** power, w.sum(axis=0) ** power
    total = np.sum(w[seen] * rho((X - fit)[seen], loss, delta)) if x.row_bias is None else 0.0
    if x.row_bias is not None:
        fit = fit + np.add.outer(x.row_bias, x.col_bias).astype(float)
        total = np.sum(w[seen] * rho((X - fit)[seen], loss, delta))
        total += reg_bias * (s @ x.row_bias.astype(float) ** 2 + t @ x.col_bias.astype(float) ** 2)
    return total + reg * (s @ (U**2).sum(axis=1) + t @ (V**2).sum(axis=1))


# -- oracles ------------------------------------------------------------------------------------


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("biases", [False, True])
@pytest.mark.parametrize("loss", ["squared", "huber", "l1"])
@pytest.mark.parametrize(("scaling", "power"), [("none", 0.0), ("count", 1.0), (0.5, 0.5)])
def test_objective_is_the_documented_formula(scaling, power, loss, biases, weighted, rng):
    X = masked(rng)
    W = rng.random(X.shape) + 0.5 if weighted else np.ones(X.shape)
    problem = MatrixCompletion.from_dense(
        X,
        rank=K,
        reg=0.3,
        reg_bias=0.2,
        reg_scaling=scaling,
        loss=loss,
        loss_scale=0.7,
        biases=biases,
        weights=W if weighted else None,
    )
    x = random_point(rng, offset=problem.offset, biases=biases)
    expected = dense_objective(X, W, x, loss, 0.7, 0.3, 0.2, power)
    np.testing.assert_allclose(problem.objective(x), expected, rtol=1e-12)
    np.testing.assert_allclose(problem.certificate(x).objective, expected, rtol=1e-12)
    np.testing.assert_allclose(
        problem.residual(x), (X - x.to_dense())[~np.isnan(X)], rtol=1e-11, atol=1e-12
    )


@pytest.mark.parametrize(
    ("biases", "options"),
    [
        *[(biases, {"loss": "squared", "reg_scaling": "count"}) for biases in (False, True)],
        *[(biases, {"loss": "huber", "loss_scale": 0.8}) for biases in (False, True)],
        *[(biases, {"loss": "l1"}) for biases in (False, True)],
        (False, {"penalty": "nuclear"}),
    ],
)
def test_gradient_is_the_derivative(biases, options, rng):
    X = masked(rng)
    problem = MatrixCompletion.from_dense(
        X, rank=K, reg=0.3, biases=biases, weights=rng.random(X.shape) + 0.5, **options
    )
    x = random_point(rng, offset=problem.offset, biases=biases)
    d = random_point(rng, biases=biases)
    names = ("U", "V", "row_bias", "col_bias") if biases else ("U", "V")

    def f(t):
        moved = LowRankMatrix(
            x.U + t * d.U,
            x.V + t * d.V,
            x.offset,
            *(getattr(x, name) + t * getattr(d, name) for name in names[2:]),
        )
        return problem.objective(moved)

    g = problem.gradient(x)
    assert (g.row_bias is not None) == biases
    slope = sum(np.sum(getattr(g, name) * getattr(d, name)) for name in names)
    np.testing.assert_allclose((f(1e-6) - f(-1e-6)) / 2e-6, slope, rtol=1e-7)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"biases": True},
        {"loss": "huber"},
        {"loss": "l1"},
        {"penalty": "nuclear"},
        {"nonnegative": True},
    ],
)
def test_problem_passes_the_common_checks(options, rng):
    X = masked(rng)
    problem = MatrixCompletion.from_dense(X, rank=K, reg=0.2, **options)
    biases = options.get("biases", False)
    points = [random_point(rng, k=k, offset=problem.offset, biases=biases) for k in (K, 1)]
    other = MatrixCompletion.from_dense(2 * X, rank=K, reg=0.2, **options)
    check_problem(problem, *points, other=other)


def test_oracles_in_blocks_and_in_float32_agree(rng, monkeypatch):
    X = masked(rng).astype(np.float32)
    problem = MatrixCompletion.from_dense(X, rank=K, reg=0.3, biases=True)
    x = random_point(rng, offset=problem.offset, dtype=np.float32)
    whole = problem.certificate(x), problem.gradient(x), problem.residual(x), problem.objective(x)
    monkeypatch.setattr("lowrank_opt.recovery.problems.CHUNK", 4)
    monkeypatch.setattr(module, "CHUNK", 4)
    np.testing.assert_allclose(problem.certificate(x).residual, whole[0].residual, rtol=1e-12)
    np.testing.assert_allclose(problem.gradient(x).U, whole[1].U, rtol=1e-12)
    np.testing.assert_array_equal(problem.residual(x), whole[2])
    np.testing.assert_allclose(problem.objective(x), whole[3], rtol=1e-12)
    double = MatrixCompletion.from_dense(X.astype(float), rank=K, reg=0.3, biases=True)
    np.testing.assert_allclose(
        whole[0].residual, double.certificate(x.astype(float)).residual, rtol=1e-6
    )
    assert problem.gradient(x).dtype == np.float64


def test_a_pair_of_factors_is_a_point(rng):
    problem = MatrixCompletion.from_dense(masked(rng), rank=K, center=True, reg=0.1)
    x = random_point(rng, offset=problem.offset, biases=False)
    assert problem.objective((x.U, x.V)) == problem.objective(x)
    assert problem.certificate((x.U, x.V)).residual == problem.certificate(x).residual


def test_weight_two_is_a_duplicate_and_weight_zero_is_absence(rng):
    X = masked(rng)
    rows, cols = np.nonzero(~np.isnan(X))
    values = X[rows, cols]
    times = rng.integers(0, 3, values.size)
    x = random_point(rng)
    for scaling in ("none", "count"):
        problem = MatrixCompletion.from_coo(
            rows, cols, values, X.shape, rank=K, weights=times, reg=0.2, reg_scaling=scaling
        )
        e = (X - x.to_dense())[rows, cols]
        n_rows, n_cols = np.bincount(rows, times, M), np.bincount(cols, times, N)
        expected = np.sum(np.repeat(e, times) ** 2) + 0.2 * (
            np.sum(n_rows ** (scaling == "count") @ x.U**2)
            + np.sum(n_cols ** (scaling == "count") @ x.V**2)
        )
        # biases of x count in the fit and in the ridge as well
        expected += 0.2 * (
            n_rows ** (scaling == "count") @ x.row_bias**2
            + n_cols ** (scaling == "count") @ x.col_bias**2
        )
        np.testing.assert_allclose(problem.objective(x), expected, rtol=1e-12)


def test_offset_and_huber_threshold_rules(rng):
    X = masked(rng)
    seen = X[~np.isnan(X)]
    make = MatrixCompletion.from_dense
    assert make(X, rank=1).offset == 0.0
    np.testing.assert_allclose(make(X, rank=1, biases=True).offset, seen.mean(), rtol=1e-13)
    assert make(X, rank=1, biases=True, center=False).offset == 0.0
    problem = make(X, rank=1, loss="huber", center=True)
    np.testing.assert_allclose(problem.offset, np.median(seen), rtol=1e-13)
    expected = 1.345 * 1.4826 * np.median(np.abs(seen - np.median(seen)))
    np.testing.assert_allclose(problem.huber_delta, expected, rtol=1e-13)
    assert make(X, rank=1, loss="huber", loss_scale=2).huber_delta == 2.0
    assert make(np.ones((2, 2)), rank=1, loss="huber").huber_delta > 0
    W = rng.random(X.shape)
    weighted = make(X, rank=1, center=True, weights=W)
    np.testing.assert_allclose(
        weighted.offset, np.average(seen, weights=W[~np.isnan(X)]), rtol=1e-12
    )


# -- the first-order certificate ----------------------------------------------------------------


def full_ridge_solution(X, k, reg):
    """Closed form for a fully observed matrix: singular values max(s - reg, 0)."""
    left, s, right = np.linalg.svd(X)
    root = np.sqrt(np.maximum(s[:k] - reg, 0.0))
    return LowRankMatrix(left[:, :k] * root, right[:k].T * root)


def test_certificate_vanishes_at_the_closed_form_and_only_there(rng):
    X = rng.standard_normal((M, N))
    problem = MatrixCompletion.from_dense(X, rank=6, reg=3.5)
    x = full_ridge_solution(X, 6, 3.5)
    assert 0 < problem.certificate(x).details["numerical_rank"] < 6
    assert problem.certificate(x).residual < 1e-14
    for t in (1e-2, 1e-4, 1e-6):
        moved = LowRankMatrix(x.U + t * rng.standard_normal(x.U.shape), x.V)
        assert 0.02 * t < problem.certificate(moved).residual < 10 * t


def test_certificate_does_not_see_directions_that_decay_to_zero(rng):
    """A factor column that the ridge is killing: the residual goes to 0 with it."""
    X = rng.standard_normal((M, N))
    problem = MatrixCompletion.from_dense(X, rank=6, reg=3.5)
    x = full_ridge_solution(X, 6, 3.5)
    dead = np.sum(x.U**2, axis=0) == 0
    assert dead.any()
    found = []
    for t in (1e-3, 1e-6):
        noise = [t * rng.standard_normal(F.shape) * dead for F in (x.U, x.V)]
        moved = LowRankMatrix(x.U + noise[0], x.V + noise[1])
        found.append(problem.certificate(moved).residual)
    assert found[0] < 1e-2
    assert found[1] < 1e-5


@pytest.mark.parametrize("biases", [False, True])
@pytest.mark.parametrize("loss", ["squared", "huber", "l1"])
def test_certificate_has_no_unit(loss, biases, rng):
    X, W = masked(rng), rng.random((M, N)) + 0.5
    x = random_point(rng, biases=biases)

    def grade(c=1.0, w=1.0, rows=None, cols=None):
        power = 0.5
        # M -> c M: reg -> c reg for the quadratic losses; |e| has no square, so reg stays.
        scale = c if loss != "l1" else 1.0
        bias_scale = 1.0 if loss != "l1" else 1.0 / c
        options = {"loss_scale": 0.6 * c} if loss == "huber" else {}
        problem = MatrixCompletion.from_dense(
            (c * X)[rows][:, cols],
            rank=K,
            reg=0.3 * scale * w,
            reg_bias=0.1 * w * bias_scale,
            weights=(w * W)[rows][:, cols],
            loss=loss,
            biases=biases,
            **options,
        )
        root = c**power
        moved = LowRankMatrix(
            root * x.U[rows],
            root * x.V[cols],
            problem.offset,
            *((c * x.row_bias[rows], c * x.col_bias[cols]) if biases else ()),
        )
        return problem.certificate(moved).residual

    everything = (np.arange(M), np.arange(N))
    base = grade(1.0, 1.0, *everything)
    assert 0.1 < base < 100
    for c, w in ((1e3, 1.0), (1e-4, 1.0), (1.0, 7.0), (3.0, 0.01)):
        np.testing.assert_allclose(grade(c, w, *everything), base, rtol=1e-10)
    permuted = grade(1.0, 1.0, rng.permutation(M), rng.permutation(N))
    np.testing.assert_allclose(permuted, base, rtol=1e-10)


def test_certificate_ignores_the_gauge_without_ridge(rng):
    problem = MatrixCompletion.from_dense(masked(rng, p=0.9), rank=K)
    x = random_point(rng, biases=False)
    base = problem.certificate(x).residual
    G = np.diag([30.0, 1.0, 0.03]) @ rng.standard_normal((K, K))
    moved = LowRankMatrix(x.U @ G, x.V @ np.linalg.inv(G).T)
    np.testing.assert_allclose(problem.certificate(moved).residual, base, rtol=1e-7)


def test_certificate_follows_the_relative_residual_on_noiseless_data(rng):
    m, n = 60, 50
    x = random_point(rng, m, n, biases=False)
    problem = MatrixCompletion.from_dense(masked(rng, m, n, 0.5, x.to_dense()), rank=K)
    exact = problem.certificate(x)
    assert exact.residual < 1e-14
    assert exact.details["relative_residual"] < 1e-14
    for t in (1e-1, 1e-3, 1e-6):
        moved = LowRankMatrix(
            x.U + t * rng.standard_normal(x.U.shape), x.V + t * rng.standard_normal(x.V.shape)
        )
        certificate = problem.certificate(moved)
        assert 0.2 < certificate.residual / certificate.details["relative_residual"] < 3.0


def test_square_of_the_certificate_is_about_the_gain_of_a_half_step(rng):
    """Exact row solves, done here with numpy, lower the objective as the docstring says."""
    m, n = 80, 60
    X = masked(rng, m, n, 0.5)
    problem = MatrixCompletion.from_dense(X, rank=K, reg=0.5)
    x = random_point(rng, m, n, biases=False)
    U, V = x.U.copy(), x.V.copy()
    for i in range(m):
        F = V[~np.isnan(X[i])]
        U[i] = np.linalg.solve(F.T @ F + 0.5 * np.eye(K), F.T @ X[i, ~np.isnan(X[i])])
    for j in range(n):
        F = x.U[~np.isnan(X[:, j])]
        V[j] = np.linalg.solve(F.T @ F + 0.5 * np.eye(K), F.T @ X[~np.isnan(X[:, j]), j])
    f = problem.objective
    gain = 2 * f(x) - f(LowRankMatrix(U, x.V)) - f(LowRankMatrix(x.U, V))
    np.testing.assert_allclose(
        problem.certificate(x).residual ** 2, gain / problem.loss_at_zero, rtol=0.25
    )


def test_details(rng):
    X = masked(rng)
    W = rng.random(X.shape) + 0.5
    problem = MatrixCompletion.from_dense(X, rank=K, reg=0.4, center=True, weights=W)
    x = random_point(rng, offset=problem.offset, biases=False)
    details = problem.certificate(x).details
    w, e = W[~np.isnan(X)], problem.residual(x)
    y = X[~np.isnan(X)] - problem.offset
    np.testing.assert_allclose(
        details["relative_residual"], np.sqrt((w @ e**2) / (w @ y**2)), rtol=1e-12
    )
    np.testing.assert_allclose(details["rmse"], np.sqrt(np.average(e**2, weights=w)), rtol=1e-12)
    g = problem.gradient(x)
    np.testing.assert_allclose(details["gradient_norm_rows"], np.linalg.norm(g.U), rtol=1e-12)
    np.testing.assert_allclose(details["gradient_norm_cols"], np.linalg.norm(g.V), rtol=1e-12)
    assert details["numerical_rank"] == K
    flat = LowRankMatrix(x.U * [1, 1, 0], x.V, x.offset)
    assert problem.certificate(flat).details["numerical_rank"] == K - 1


def test_constant_data_have_a_finite_certificate(rng):
    problem = MatrixCompletion.from_dense(np.full((4, 3), 2.0), rank=1, center=True, reg=0.1)
    zero = LowRankMatrix(np.zeros((4, 1)), np.zeros((3, 1)), problem.offset)
    assert problem.certificate(zero).residual == 0.0
    assert problem.certificate(zero).objective == 0.0
    assert np.isfinite(problem.certificate(random_point(rng, 4, 3, 1)).residual)


def test_nonnegative_certificate(rng):
    U, V = np.abs(rng.standard_normal((M, K))), np.abs(rng.standard_normal((N, K)))
    X = masked(rng, values=U @ V.T)
    problem = MatrixCompletion.from_dense(X, rank=K, nonnegative=True)
    assert problem.certificate((U, V)).residual < 1e-14
    assert problem.certificate((U + 0.1, V)).residual > 1e-3
    negative = problem.certificate((-U, -V))  # stationary for the free problem, not feasible
    assert negative.residual > 1e-2
    np.testing.assert_allclose(negative.details["infeasibility"], max(U.max(), V.max()), rtol=1e-12)


def test_nonnegative_certificate_at_a_bound_that_is_active():
    """Minimum of (1 - u)^2 + (-1 - u)^2... : rank one, one column of data is negative."""
    X = np.array([[1.0, -1.0], [2.0, -3.0]])
    problem = MatrixCompletion.from_dense(X, rank=1, nonnegative=True)
    # Best non-negative rank-one fit: the negative column gets v = 0.
    x = (np.array([[1.0], [2.0]]), np.array([[1.0], [0.0]]))
    assert problem.certificate(x).residual < 1e-14
    free = MatrixCompletion.from_dense(X, rank=1)
    assert free.certificate(x).residual > 0.1


# -- the l1 certificate -------------------------------------------------------------------------


def test_l1_certificate_vanishes_at_an_exact_fit_with_outliers(rng):
    m, n = 40, 30
    x = random_point(rng, m, n, 2, biases=False)
    Y = x.to_dense()
    hit = rng.random(Y.shape) < 0.05
    Y[hit] += 10 * rng.standard_normal(hit.sum())
    problem = MatrixCompletion.from_dense(masked(rng, m, n, 0.8, Y), rank=2, loss="l1")
    certificate = problem.certificate(x)
    assert certificate.residual < 1e-6
    assert "sub-differential" in certificate.kind
    moved = LowRankMatrix(x.U + 1e-3 * rng.standard_normal(x.U.shape), x.V)
    assert problem.certificate(moved).residual > 1e-2


@pytest.mark.parametrize("biases", [False, True])
def test_l1_certificate_agrees_with_a_quadratic_program(biases, rng):
    """The best multipliers, found by cvxpy from dense matrices."""
    m, n, k, reg, reg_bias = 6, 5, 2, 0.05, 0.02
    x = random_point(rng, m, n, k, biases=biases)
    Y = x.to_dense()
    hit = rng.random(Y.shape) < 0.3
    Y[hit] += 5.0
    X = masked(rng, m, n, 0.8, Y)
    problem = MatrixCompletion.from_dense(
        X, rank=k, loss="l1", reg=reg, reg_bias=reg_bias, biases=biases, center=False
    )
    seen = ~np.isnan(X)
    S = cp.Variable((m, n))
    constraints = [S[~seen] == 0, S[seen & hit] == 1, cp.abs(S) <= 1]
    curvature = seen.sum() / (2 * np.abs(X[seen]).sum())
    total = 0
    for T, A, B, w, own in (
        (S, x.U, x.V, seen, x.row_bias),
        (S.T, x.V, x.U, seen.T, x.col_bias),
    ):
        d = w.sum(axis=0)
        mean = (B * d[:, None]).T @ B / d.sum()
        for i in range(A.shape[0]):
            g = reg * A[i] - 0.5 * (B.T @ T[i])
            H = curvature * w[i].sum() * mean + reg * np.eye(k)
            total += cp.quad_form(g, np.linalg.inv(H))
            if biases:
                total += cp.square(reg_bias * own[i] - 0.5 * cp.sum(T[i])) / (
                    curvature * w[i].sum() + reg_bias
                )
    best = cp.Problem(cp.Minimize(total), constraints).solve()
    expected = np.sqrt(best / np.abs(X[seen]).sum())
    assert expected > 1e-3
    np.testing.assert_allclose(problem.certificate(x).residual, expected, rtol=1e-4)


# -- the nuclear form ---------------------------------------------------------------------------


def soft_impute(X, reg, steps=6000):
    """Proximal gradient with dense SVDs."""
    seen, Z = ~np.isnan(X), np.zeros(X.shape)
    for _ in range(steps):
        left, s, right = np.linalg.svd(np.where(seen, X, Z), full_matrices=False)
        s = np.maximum(s - reg, 0.0)
        Z = left * s @ right
    root = np.sqrt(s)
    return LowRankMatrix(left * root, right.T * root)


def test_gap_closes_at_the_solution_and_bounds_the_error_elsewhere(rng):
    X = masked(rng)
    problem = MatrixCompletion.from_dense(X, rank=N, reg=1.0, penalty="nuclear")
    x = soft_impute(X, 1.0)
    certificate = problem.certificate(x)
    assert certificate.kind == "relative duality gap"
    assert 0 <= certificate.residual < 1e-10
    optimum = certificate.objective
    for t in (1e-3, 1e-1, 1.0):
        moved = LowRankMatrix(x.U + t * rng.standard_normal(x.U.shape), x.V)
        other = problem.certificate(moved)
        assert other.gap >= other.objective - optimum > 0
        np.testing.assert_allclose(other.residual, other.gap / other.objective, rtol=1e-12)
    zero = LowRankMatrix(np.zeros((M, 1)), np.zeros((N, 1)))
    assert problem.certificate(zero).gap >= problem.objective(zero) - optimum


@pytest.mark.parametrize("weighted", [False, True])
def test_gap_against_cvxpy(weighted, rng):
    X = masked(rng, 8, 6)
    W = rng.random(X.shape) + 0.5 if weighted else np.ones(X.shape)
    seen = ~np.isnan(X)
    Z = cp.Variable(X.shape)
    loss = 0.5 * cp.sum(cp.multiply(W[seen], cp.square(X[seen] - 0.5 - Z[seen])))
    program = cp.Problem(cp.Minimize(loss + 0.8 * cp.normNuc(Z)))
    optimum = program.solve(solver=cp.CLARABEL)
    shifted = MatrixCompletion.from_dense(
        X - 0.5, rank=6, reg=0.8, penalty="nuclear", weights=W if weighted else None
    )
    left, s, right = np.linalg.svd(Z.value, full_matrices=False)
    x = LowRankMatrix(left * s, right.T)
    certificate = shifted.certificate(x)
    np.testing.assert_allclose(certificate.objective, optimum, rtol=1e-6)
    assert certificate.residual < 1e-4
    assert certificate.objective - certificate.gap <= optimum * (1 + 1e-7)


def test_nuclear_objective_is_half_the_ridge_objective_of_balanced_factors(rng):
    X = masked(rng)
    nuclear = MatrixCompletion.from_dense(X, rank=N, reg=1.0, penalty="nuclear")
    ridge = MatrixCompletion.from_dense(X, rank=N, reg=1.0)
    x = soft_impute(X, 1.0)  # balanced: U'U = V'V = diag(s)
    np.testing.assert_allclose(2 * nuclear.objective(x), ridge.objective(x), rtol=1e-12)
    assert ridge.certificate(x).residual < 1e-6  # the same reg has the same solution
    G = rng.standard_normal((N, N))
    unbalanced = LowRankMatrix(x.U @ G, x.V @ np.linalg.inv(G).T)
    np.testing.assert_allclose(nuclear.objective(unbalanced), nuclear.objective(x), rtol=1e-9)
    assert ridge.objective(unbalanced) > 1.01 * ridge.objective(x)


def test_zero_solves_the_nuclear_form_from_the_spectral_norm_on(rng):
    X = masked(rng)
    top = np.linalg.norm(np.nan_to_num(X), 2)
    zero = LowRankMatrix(np.zeros((M, 1)), np.zeros((N, 1)))
    for factor, optimal in ((1.0001, True), (0.9, False)):
        problem = MatrixCompletion.from_dense(X, rank=3, reg=factor * top, penalty="nuclear")
        certificate = problem.certificate(zero)
        assert (certificate.residual < 1e-10) == optimal
        np.testing.assert_allclose(certificate.details["spectral_norm_bound"], top, rtol=1e-10)


@pytest.mark.parametrize("shape", [(30, 80), (80, 30), (1, 9), (50, 50)])
@pytest.mark.parametrize("scale", [1.0, 1e-200, 1e200])
def test_spectral_norm_bounds_enclose_the_norm(shape, scale, rng):
    R = sp.random_array(shape, density=0.4, rng=rng, data_sampler=rng.standard_normal)
    norm = np.linalg.norm(R.toarray(), 2) * scale
    lower, upper, proved = spectral_norm_bounds(R * scale)
    assert proved
    assert lower <= norm * (1 + 1e-14)
    assert norm * (1 - 1e-14) <= upper <= norm * (1 + 1e-9)


def test_spectral_norm_bounds_of_zero():
    assert spectral_norm_bounds(sp.csr_array((3, 4))) == (0.0, 0.0, True)
    stored = sp.csr_array(([0.0], ([1], [2])), shape=(3, 4))
    assert spectral_norm_bounds(stored) == (0.0, 0.0, True)


def test_spectral_norm_bounds_when_the_iteration_fails(rng, monkeypatch):
    import scipy.sparse.linalg as linalg

    def fail(*args, **kwargs):
        raise linalg.ArpackNoConvergence("no convergence", np.empty(0), np.empty((0, 0)))

    monkeypatch.setattr("lowrank_opt.recovery.certificates._GRAM_SIDE", 5)
    monkeypatch.setattr(linalg, "svds", fail)
    R = sp.csr_array(sp.random_array((60, 40), density=0.1, rng=rng))
    lower, upper, proved = spectral_norm_bounds(R)
    assert proved
    assert 0.1 * upper < lower <= np.linalg.norm(R.toarray(), 2) <= upper
    np.testing.assert_allclose(upper, np.linalg.norm(R.data), rtol=1e-12)
    problem = MatrixCompletion.from_sparse(R, rank=2, reg=0.1, penalty="nuclear")
    certificate = problem.certificate((np.zeros((60, 1)), np.zeros((40, 1))))
    assert certificate.gap == pytest.approx(certificate.objective * certificate.residual)
    assert certificate.residual <= 1.0


def test_large_spectral_norms_are_estimates_and_say_so(rng, monkeypatch):
    X = masked(rng, 40, 30)
    x = soft_impute(X, 1.0)
    problem = MatrixCompletion.from_dense(X, rank=30, reg=1.0, penalty="nuclear")
    proved = problem.certificate(x)
    monkeypatch.setattr(module, "_GRAM_SIDE", 5)
    estimated = problem.certificate(x)
    assert proved.gap is not None
    assert estimated.gap is None
    assert estimated.kind == "relative duality gap (estimated)"
    assert estimated.details["gap_estimate"] > 0
    np.testing.assert_allclose(
        estimated.details["spectral_norm"], proved.details["spectral_norm_bound"], rtol=1e-8
    )
    assert estimated.residual < 1e-7


@pytest.mark.parametrize("penalty", ["ridge", "nuclear"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e200])
def test_points_that_are_not_finite_are_graded_infinite(bad, penalty, rng):
    problem = MatrixCompletion.from_dense(masked(rng), rank=K, reg=0.1, penalty=penalty)
    x = random_point(rng, biases=False)
    x.U[2, 1] = bad
    x.V[3, 1] = bad
    assert not problem.certificate(x).residual < 1e100


def test_memory_of_the_oracles_does_not_grow_with_the_data(rng):
    m, n, k = 3000, 2000, 10
    linear = np.unique(rng.integers(0, m * n, 600_000))
    values = rng.standard_normal(linear.size).astype(np.float32)
    problem = MatrixCompletion.from_coo(
        linear // n, linear % n, values, (m, n), rank=k, reg=0.1, biases=True
    )
    x = random_point(rng, m, n, k, problem.offset, dtype=np.float32)
    problem.certificate(x)  # compiles
    fresh = dataclasses.replace(problem)
    tracemalloc.start()
    fresh.certificate(x)
    fresh.objective(x)
    fresh.gradient(x)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 6e6
    assert problem.observations.nbytes > 9e6


# -- draws of a sampler -------------------------------------------------------------------------


def test_certificate_of_draws_is_the_split_half_error(rng):
    X = masked(rng)
    problem = MatrixCompletion.from_dense(X, rank=K, biases=True, reg=0.1)
    S = 7
    U, V, b, c = (rng.standard_normal(s) for s in ((S, M, K), (S, N, K), (S, M), (S, N)))
    x = LowRankSamples(U, V, np.full(S, 4.0), problem.offset, b, c)
    draws = np.einsum("smk,snk->smn", U, V) + b[:, :, None] + c[:, None] + problem.offset
    seen = ~np.isnan(X)
    half = 0.5 * (draws[:3].mean(axis=0) - draws[3:].mean(axis=0))[seen]
    expected = np.sqrt(np.mean(half**2) / np.mean((X[seen] - problem.offset) ** 2))
    certificate = problem.certificate(x)
    np.testing.assert_allclose(certificate.residual, expected, rtol=1e-12)
    assert "Monte Carlo" in certificate.kind
    error = (X - draws.mean(axis=0))[seen]
    np.testing.assert_allclose(certificate.objective, np.sum(error**2), rtol=1e-12)
    np.testing.assert_allclose(problem.objective(x), certificate.objective, rtol=1e-14)
    np.testing.assert_allclose(certificate.details["noise_std"], 0.5, rtol=1e-14)
    one = LowRankSamples(U[:1], V[:1], np.ones(1))
    assert problem.certificate(one).residual == np.inf


# -- construction, identity ---------------------------------------------------------------------


def test_all_class_methods_agree(rng):
    X = masked(rng)
    rows, cols = np.nonzero(~np.isnan(X))
    coo = sp.coo_array((X[rows, cols], (rows, cols)), shape=X.shape)
    frame = {"user": rows + 100, "item": np.array([f"i{j:02d}" for j in cols]), "stars": coo.data}
    x = random_point(rng)
    problems = [
        MatrixCompletion.from_dense(X, rank=K, reg=0.1),
        MatrixCompletion.from_sparse(coo.tocsc(), rank=K, reg=0.1),
        MatrixCompletion.from_coo(rows, cols, coo.data, X.shape, rank=K, reg=0.1),
        MatrixCompletion.from_coo(rows, cols, coo.data, rank=K, reg=0.1),
        MatrixCompletion.from_dataframe(
            frame, row="user", col="item", value="stars", rank=K, reg=0.1
        ),
        MatrixCompletion(Observations.from_dense(X), K, 0.1),
    ]
    for problem in problems:
        assert problem.objective(x) == problems[0].objective(x)
        assert problem.fingerprint() == problems[0].fingerprint()
    np.testing.assert_array_equal(problems[4].row_ids, np.arange(M) + 100)
    np.testing.assert_array_equal(problems[4].col_ids, [f"i{j:02d}" for j in range(N)])


@pytest.mark.parametrize(
    "ids",
    [
        [7, 7, -3, 10**12],
        np.array([250, 1, 250, 3], dtype=np.uint8),
        ["b", "b", "a", "é"],
        np.array(["b", "b", "a", "c"], dtype=object),
        [1.5, 1.5, -2.0, 0.0],
        np.array(["2020-01-02", "2020-01-01", "2021-01-01", "2020-01-02"], dtype="datetime64[D]"),
    ],
)
def test_dataframe_ids_of_any_kind(ids):
    frame = {"r": ids, "c": [0, 1, 0, 1], "v": [1.0, 2.0, 3.0, 4.0], "w": [1, 2, 3, 4]}
    problem = MatrixCompletion.from_dataframe(
        frame, row="r", col="c", value="v", weight="w", rank=1, reg=0.1, duplicates="last"
    )
    ids = np.asarray(ids)
    np.testing.assert_array_equal(problem.row_ids, np.unique(ids))
    obs = problem.observations
    table = {(r, c): v for r, c, v in zip(ids.tolist(), frame["c"], frame["v"], strict=True)}
    found = {
        (
            problem.row_ids[i].item()
            if hasattr(problem.row_ids[i], "item")
            else problem.row_ids[i],
            int(problem.col_ids[j]),
        ): v
        for i, j, v in zip(obs.rows(), obs.indices, obs.values, strict=True)
    }
    assert found == table
    np.testing.assert_array_equal(np.sort(obs.weights), np.sort(obs.values))


def test_pandas_frames(rng):
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame(
        {"r": pd.Categorical(["x", "y", "x"]), "c": ["p", "p", "q"], "v": [1, 2, 3]},
        index=[5, 6, 9],
    )
    problem = MatrixCompletion.from_dataframe(frame, row="r", col="c", value="v", rank=1, reg=0.1)
    assert list(problem.row_ids) == ["x", "y"]
    np.testing.assert_array_equal(problem.observations.to_scipy().toarray(), [[1, 3], [2, 0]])


def test_fingerprint_sees_data_and_parameters(rng):
    X = masked(rng)
    base = MatrixCompletion.from_dense(X, rank=2, reg=0.1).fingerprint()
    changed = X.copy()
    i, j = np.argwhere(~np.isnan(X))[3]
    changed[i, j] += 1e-9
    for other in (
        MatrixCompletion.from_dense(changed, rank=2, reg=0.1),
        MatrixCompletion.from_dense(X, rank=3, reg=0.1),
        MatrixCompletion.from_dense(X, rank=2, reg=0.2),
        MatrixCompletion.from_dense(X, rank=2, reg=0.1, loss="l1"),
        MatrixCompletion.from_dense(X.astype(np.float32), rank=2, reg=0.1),
        MatrixCompletion.from_dense(X, rank=2, reg=0.1, weights=np.full(X.shape, 2.0)),
    ):
        assert other.fingerprint() != base


def test_replacing_a_parameter_makes_the_problem_anew(rng):
    X = masked(rng)
    base = MatrixCompletion.from_dense(X, rank=2, reg=0.1, biases=True)
    assert base.objective(random_point(rng, k=2)) > 0  # fills the caches
    for change in ({"reg": 0.7}, {"biases": False}, {"rank": 1}, {"reg_scaling": 2}):
        direct = MatrixCompletion.from_dense(X, **{"rank": 2, "reg": 0.1, "biases": True, **change})
        replaced = dataclasses.replace(base, **change)
        assert replaced.fingerprint() == direct.fingerprint() != base.fingerprint()
        assert replaced.offset == direct.offset
        np.testing.assert_array_equal(replaced.row_bias_ridge, direct.row_bias_ridge)
    json.dumps(
        dict(dataclasses.replace(base, reg=np.float32(0.5), loss_scale=np.int64(2)).fingerprint())
    )


def test_pickle_and_default_solver(rng):
    problem = MatrixCompletion.from_dense(masked(rng), rank=2, reg=0.1, biases=True)
    x = random_point(rng, k=2)
    again = pickle.loads(pickle.dumps(problem))
    assert again.objective(x) == problem.objective(x)
    assert again.fingerprint() == problem.fingerprint()
    assert problem.auto_solver() == ("AlternatingMinimization", {})
    nuclear = MatrixCompletion.from_dense(masked(rng), rank=2, reg=0.1, penalty="nuclear")
    assert nuclear.auto_solver() == ("SoftImpute", {})
    assert isinstance(problem.certificate(x), Certificate)


def test_points_of_another_shape_are_refused(rng):
    problem = MatrixCompletion.from_dense(masked(rng), rank=2, reg=0.1)
    with pytest.raises(ProblemError, match=r"shape \(14, 11\) and 3 factor columns; expected"):
        problem.objective(random_point(rng))
    with pytest.raises(ProblemError, match=r"x has shape \(11, 14\)"):
        problem.certificate(random_point(rng, N, M, 2))
    with pytest.raises(ProblemError, match="x is a ndarray"):
        problem.gradient(np.ones((M, N)))
    with pytest.raises(ProblemError, match=r"x has shape \(2, 2\)"):
        problem.certificate(LowRankSamples(np.ones((1, 2, 1)), np.ones((1, 2, 1)), np.ones(1)))
