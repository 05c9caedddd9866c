"""SparseGLMSolver on data at the edge: odd groups, weights, units and starts."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import scipy.sparse as sp

from lowrank_opt.block_coordinate import (
    CompositeProblem,
    GLMProblem,
    SparseGLMSolver,
    kernels_block_working_set,
    kernels_design,
    kernels_prox_newton,
    kernels_squared,
)
from lowrank_opt.core import Status
from lowrank_opt.core.errors import ProblemError
from lowrank_opt.numerics import L1, Box, GroupL1, WeightedL1


def data(loss="squared", seed=0, n=40, p=12):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, p))
    z = X[:, :5].sum(axis=1)
    noisy = z + rng.logistic(size=n)
    if loss == "poisson":
        return X, rng.poisson(np.exp(0.3 * z))
    if loss == "logistic":
        return X, np.where(noisy > 0, 1.0, -1.0)
    if loss == "softmax":
        return X, np.digitize(noisy, [-1.0, 1.0])
    return X, noisy


@pytest.mark.parametrize("labels", [[1, 1, 4, 4, 4], [4, 0, 2, 1, 3]], ids=["gaps", "permuted"])
@pytest.mark.parametrize("loss", ["squared", "logistic", "softmax"])
def test_numbers_of_groups_are_names(loss, labels):
    X, y = data(loss, p=5)
    X *= [1.0, 0.3, 5.0, 2.0, 0.1]
    glm = GLMProblem(X, y, loss, fit_intercept=True)
    values, places = np.unique(labels, return_inverse=True)
    weights = np.linspace(0.5, 1.5, 5)
    alpha = 0.3 * glm.null_gradient
    named = CompositeProblem(glm, GroupL1(alpha, np.array(labels), weights[: max(labels) + 1]))
    counted = CompositeProblem(glm, GroupL1(alpha, places, weights[values]))
    found, expected = (SparseGLMSolver(tol=1e-9).solve(p) for p in (named, counted))
    assert found.status == Status.CONVERGED
    np.testing.assert_allclose(found.x, expected.x, atol=1e-6)


@pytest.mark.parametrize("loss", ["huber", "logistic", "poisson"])
def test_gaps_stay_finite_whatever_the_weights_round(loss):
    X, y = data(loss)
    for seed in range(20):
        s = np.random.default_rng(seed).random(len(y)) * 3
        glm = GLMProblem(X, y, loss, sample_weight=s)
        problem = CompositeProblem(glm, L1(1.2 * glm.null_gradient))
        state = SparseGLMSolver().init(problem)
        assert state.residual < 1e-12


@pytest.mark.parametrize(("loss", "size"), [("logistic", 1000), ("softmax", 20)])
def test_starts_where_curvature_vanishes_are_left(loss, size):
    X, y = data(loss, n=9)
    problem = CompositeProblem(glm := GLMProblem(X, y, loss), L1(0.5 * glm.null_gradient))
    far = size * np.random.default_rng(1).standard_normal(problem.x_shape)
    result = SparseGLMSolver(newton_phase=False, gram="never").solve(problem, x0=far)
    assert result.status == Status.CONVERGED


@pytest.mark.parametrize("pen", [L1(0.5), GroupL1(0.5, [0, 0])], ids=["newton", "block"])
def test_samples_without_weight_do_not_count_where_their_loss_overflows(pen):
    X, y = np.random.default_rng(0).standard_normal((9, 2)), np.arange(9.0)
    s = np.arange(9) != 4
    rest = CompositeProblem(GLMProblem(X[s], y[s], "poisson"), pen)
    x = SparseGLMSolver().solve(rest).x
    X[4] = 1e5 * np.sign(x)
    problem = CompositeProblem(GLMProblem(X, y, "poisson", sample_weight=s.astype(float)), pen)
    assert problem.objective(x) == pytest.approx(rest.objective(x), rel=1e-12)
    assert SparseGLMSolver().solve(problem).status == Status.CONVERGED


@pytest.mark.parametrize("loss", ["squared", "logistic", "huber", "softmax"])
def test_infinite_weights_fix_coefficients_whatever_their_factor(loss):
    X, y = data(loss, p=6)
    weights = np.array([np.inf, 1.0, 1.0, np.inf, 1.0, 1.0])
    for pen in (WeightedL1(0.0, weights), GroupL1(0.0, np.arange(6), weights)):
        problem = CompositeProblem(GLMProblem(X, y, loss, l2=1.0), pen)
        result = SparseGLMSolver(tol=1e-9).solve(problem)
        left = CompositeProblem(
            GLMProblem(X[:, [1, 2, 4, 5]], y, loss, l2=1.0), GroupL1(0.0, np.arange(4))
        )
        assert result.status == Status.CONVERGED
        assert not result.x[[0, 3]].any()
        expected = SparseGLMSolver(tol=1e-9).solve(left).x
        np.testing.assert_allclose(result.x[[1, 2, 4, 5]], expected, atol=1e-5)


def test_one_column_of_targets_with_features_without_penalty_is_solved():
    X, y = data(p=6)
    weights = np.array([0.0, 1.0, 1.0, 0.0, 1.0, 1.0])
    column, vector = (
        SparseGLMSolver(tol=1e-9).solve(
            CompositeProblem(GLMProblem(X, t, fit_intercept=True), WeightedL1(5.0, weights))
        )
        for t in (y[:, None], y)
    )
    assert column.status == Status.CONVERGED
    np.testing.assert_allclose(column.x[:, 0], vector.x, atol=1e-6)


@pytest.mark.parametrize("pen", [L1(1.0), Box(-1e9, 1e9)], ids=["newton", "block"])
def test_a_start_whose_objective_overflows_is_refused(pen):
    X, y = data("poisson")
    with pytest.raises(ProblemError, match="x0"):
        SparseGLMSolver().solve(
            CompositeProblem(GLMProblem(X, y, "poisson"), pen), x0=np.full(12, 1e6)
        )


@pytest.mark.parametrize("value", [2.5, 0.1, 1e100])
def test_a_lower_bound_is_no_rounding_that_was_scaled_up(value):
    # The optimal value is 0: the intercept, or the features without penalty, explain all.
    X = np.random.default_rng(0).standard_normal((7, 3))
    constant = CompositeProblem(
        GLMProblem(X, np.full(7, value), fit_intercept=True), L1(1e-3 * value)
    )
    weights = np.array([0.0, 1.0, 0.0])
    two = np.array([0.3, -1.7]) * value
    explained = CompositeProblem(
        GLMProblem(X[:2], two, fit_intercept=True), WeightedL1(0.1 * value, weights)
    )
    for problem in (constant, explained):
        for factor in (0.0, 1.0, 1.7):
            point = np.full(problem.x_shape, factor * value)
            assert problem.certificate(point).details["lower_bound"] <= 1e-12 * value**2


@pytest.mark.parametrize("loss", ["squared", "logistic", "poisson"])
def test_a_point_outside_the_bounds_has_a_lower_bound(loss):
    X, y = data(loss)
    problem = CompositeProblem(GLMProblem(X, y, loss), Box(-0.1, 0.1))
    outside = problem.certificate(np.full(12, 0.2))
    assert outside.residual == np.inf
    best = problem.objective(SparseGLMSolver(tol=1e-9).solve(problem).x)
    assert -np.inf < outside.details["lower_bound"] < best


def test_a_point_where_the_loss_overflows_has_an_infinite_residual():
    X, y = data("poisson")
    for problem in (
        GLMProblem(X, y, "poisson"),
        CompositeProblem(GLMProblem(X, y, "poisson"), L1(1.0)),
    ):
        assert problem.certificate(np.full(12, 1e6)).residual == np.inf


def _signatures():
    """What the kernels of the engines are compiled for."""
    return {
        name + " " + " ".join(map(str, types))
        for module in (
            kernels_block_working_set, kernels_design, kernels_prox_newton, kernels_squared,
        )
        for name, kernel in vars(module).items()
        for types in getattr(kernel, "signatures", ())
    }  # fmt: skip


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("loss", ["squared", "logistic"])
@pytest.mark.parametrize("convert", [np.asfortranarray, sp.csc_array])
def test_designs_that_may_not_be_written_are_neither_copied_nor_compiled_for(
    grouped, loss, convert
):
    X, y = data(loss, n=200, p=2000)
    X = convert(X)
    alpha = 0.5 * GLMProblem(X, y, loss).null_gradient
    pen = GroupL1(alpha, np.arange(2000) // 2) if grouped else L1(alpha)
    expected = SparseGLMSolver().solve(CompositeProblem(GLMProblem(X, y, loss), pen)).x
    parts = [X] if isinstance(X, np.ndarray) else [X.data, X.indices, X.indptr]
    for part in parts:
        part.flags.writeable = False
    problem = CompositeProblem(GLMProblem(X, y, loss), pen)
    before = _signatures()  # other tests call kernels themselves
    tracemalloc.start()
    result = SparseGLMSolver().solve(problem)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    np.testing.assert_array_equal(result.x, expected)
    assert peak < 0.8 * sum(part.nbytes for part in parts)
    assert not any(part.flags.writeable for part in parts)
    assert "readonly" not in " ".join(_signatures() - before)


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("seed", [1, 3])
def test_classes_of_correlated_features_are_told_apart(grouped, seed):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((20, 6)) + 3 * rng.standard_normal((20, 1))
    glm = GLMProblem(X, np.arange(20) % 3, "softmax", fit_intercept=True)
    alpha = 1e-3 * glm.null_gradient
    problem = CompositeProblem(glm, GroupL1(alpha, np.arange(6) // 2) if grouped else L1(alpha))
    result = SparseGLMSolver(max_iter=300).solve(problem)
    assert result.status == Status.CONVERGED
    # Newton steps keep to the intercepts of sum 0 that they start from.
    assert abs(result.x[-1].sum() - glm.null_intercept.sum()) < 1e-6


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("size", [1e-75, 1e75, 1e140])
def test_units_do_not_matter(grouped, size):
    X, y = data()
    unit = GLMProblem(X, y, fit_intercept=True)
    other = GLMProblem(X * size, y, fit_intercept=True)
    x = []
    for glm in (unit, other):
        alpha = 0.1 * glm.null_gradient
        pen = GroupL1(alpha, np.arange(12) // 2) if grouped else L1(alpha)
        result = SparseGLMSolver(tol=1e-9).solve(CompositeProblem(glm, pen))
        assert result.status == Status.CONVERGED
        x.append(result.x)
    np.testing.assert_allclose(x[1][:-1] * size, x[0][:-1], atol=1e-6)
    np.testing.assert_allclose(x[1][-1], x[0][-1], atol=1e-6)


@pytest.mark.parametrize("size", [1e-150, 1e-60])
def test_coefficients_whose_squares_overflow_are_found(size):
    X, y = data()
    glm = GLMProblem(X * size, y * 1e140, fit_intercept=True)
    assert (
        SparseGLMSolver().solve(CompositeProblem(glm, L1(0.1 * glm.null_gradient))).status
        == Status.CONVERGED
    )
