"""Problems: oracles against differences, bounds against optima that cvxpy finds, bad data."""

from __future__ import annotations

import cvxpy as cp
import numpy as np
import pytest
import scipy.sparse as sp
from scipy.optimize import minimize

from lowrank_opt.block_coordinate import CompositeProblem, GLMProblem, Huber, QuadraticProblem
from lowrank_opt.block_coordinate.certificates import lower_bound
from lowrank_opt.core.errors import ParameterError, ProblemError, UnsupportedBackendError
from lowrank_opt.numerics import (
    L1,
    MCP,
    SCAD,
    Box,
    ElasticNet,
    GroupL1,
    NonNegative,
    SquaredL2,
    WeightedL1,
)
from lowrank_opt.testing import check_problem

LOSSES = ("squared", "multi", "logistic", "softmax", "huber", "poisson")
N, P = 30, 6


def targets(loss, rng, n=N):
    if loss == "squared":
        return rng.standard_normal(n) + 1.0
    if loss == "multi":
        return rng.standard_normal((n, 3)) + 1.0
    if loss == "logistic":
        return np.where(rng.random(n) < 0.4, 1.0, -1.0)
    if loss == "softmax":
        return np.concatenate([[0, 1, 2], rng.integers(0, 3, n - 3)])
    if loss == "huber":
        return 3.0 * rng.standard_normal(n) + 1.0
    return rng.poisson(1.5, n).astype(float)


def make(loss="squared", seed=0, sparse=False, dtype=np.float64, weights=False, **model):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((N, P)).astype(dtype)
    if sparse:
        X = sp.csc_array(np.where(rng.random(X.shape) < 0.6, X, 0.0))
    y = targets(loss, rng)
    s = rng.uniform(0.0, 2.0, N) * (rng.random(N) < 0.9) if weights else None
    name = "squared" if loss == "multi" else loss
    return GLMProblem(X, y, name, sample_weight=s, **model)


def point(problem, seed=1, size=0.3):
    return size * np.random.default_rng(seed).standard_normal(problem.x_shape)


MODELS = [
    {},
    {"fit_intercept": True, "l2": 0.7},
    {"weights": True, "fit_intercept": True},
    {"sparse": True, "fit_intercept": True, "weights": True, "l2": 0.2},
]


# -- every problem ---------------------------------------------------------------------------------


@pytest.mark.parametrize("model", MODELS, ids=str)
@pytest.mark.parametrize("loss", LOSSES)
def test_a_generalised_linear_model_passes_the_checks_of_problems(loss, model):
    problem = make(loss, **model)
    check_problem(problem, point(problem, 1), point(problem, 2), other=make(loss, seed=5, **model))


@pytest.mark.parametrize("kind", ["dense", "sparse"])
def test_a_quadratic_passes_the_checks_of_problems(kind):
    A = np.diag([2.0, 3.0, 4.0]) + np.diag([1.0, -1.0], 1) + np.diag([1.0, -1.0], -1)
    A = sp.csr_array(A) if kind == "sparse" else A
    problem = QuadraticProblem(A, [1.0, 2.0, 3.0])
    check_problem(problem, np.ones(3), np.zeros(3), other=QuadraticProblem(A, [1.0, 2.0, 4.0]))


PENALTIES = {
    "l1": L1(0.8),
    "weighted": WeightedL1(0.8, np.array([1.0, 2.0, 0.5, 1.0, 3.0, 1.0])),
    "elastic net": ElasticNet(0.9, 0.6),
    "ridge": SquaredL2(0.5),
    "box": Box(-0.5, 0.4),
    "non-negative": NonNegative(0.5),
    "groups": GroupL1(0.7, np.array([0, 0, 1, 1, 2, 2]), np.array([1.0, 2.0, 0.7])),
    "positive groups": GroupL1(0.7, np.array([0, 0, 1, 1, 2, 2]), positive=True),
}


@pytest.mark.parametrize("name", [*PENALTIES, "mcp", "scad"])
def test_a_composite_problem_passes_the_checks_of_problems(name):
    pen = {"mcp": MCP(0.5, 3.0), "scad": SCAD(0.5, 3.7)}.get(name) or PENALTIES[name]
    problem = CompositeProblem(make(fit_intercept=True), pen)
    points = [problem.prox(point(problem, seed), 1.0) + 0.0 for seed in (1, 2)]
    checks = None
    if name in ("mcp", "scad"):  # not convex: the prox is not non-expansive
        from lowrank_opt.testing import PROBLEM_CHECKS

        checks = [c for c in PROBLEM_CHECKS if c != "prox"]
    check_problem(
        problem, *points, checks=checks, other=problem.with_penalty(L1(3.0)),
        smooth=problem.smooth.objective,
        nonsmooth=lambda x: problem.penalty_value(np.asarray(x, float).ravel()),
    )  # fmt: skip


# -- oracles by block ------------------------------------------------------------------------------


@pytest.mark.parametrize("model", MODELS, ids=str)
@pytest.mark.parametrize("loss", LOSSES)
def test_oracles_of_blocks_agree_with_the_gradient(loss, model):
    problem = make(loss, **model)
    rng = np.random.default_rng(2)
    x = point(problem).ravel()
    work = problem.start(x)
    g = problem.gradient_at(work, x)
    for _ in range(4):
        b = np.sort(rng.choice(problem.n_variables, 4, replace=False))
        np.testing.assert_allclose(problem.block_gradient(work, x, b), g[b], rtol=1e-10, atol=1e-10)
        d = 1e-2 * rng.standard_normal(4)
        direction = problem.direction(b, d)
        moved, there = x.copy(), work.copy()
        problem.move(there, moved, b, d)
        np.testing.assert_allclose(there, problem.start(moved), rtol=1e-10, atol=1e-12)
        value = problem.value_along(work, x, b, d, direction, 0.7)
        half, at = x.copy(), work.copy()
        problem.move(at, half, b, 0.7 * d)
        np.testing.assert_allclose(value, problem.value_at(at, half), rtol=1e-12)
        # Hessian by central differences of the gradient, except where Huber's bends.
        if loss != "huber":
            H = np.empty((4, 4))
            for column, i in enumerate(b):
                e = np.zeros(x.size)
                e[i] = 1e-5
                ahead, behind = (problem.gradient_at(problem.start(x + t * e), x + t * e)
                                 for t in (1.0, -1.0))  # fmt: skip
                H[:, column] = (ahead - behind)[b] / 2e-5
            found = problem.block_hessian(work, x, b)
            np.testing.assert_allclose(found, H, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("model", MODELS, ids=str)
@pytest.mark.parametrize("loss", ["squared", "multi", "logistic", "softmax", "huber"])
def test_bounds_are_above_every_hessian(loss, model):
    problem = make(loss, **model)
    rng = np.random.default_rng(3)
    everything = np.arange(problem.n_variables)
    whole = problem.block_bound(everything)
    np.testing.assert_allclose(np.abs(whole).sum(axis=1), problem.bound_row_sums, rtol=1e-10)
    v = rng.standard_normal(problem.n_variables)
    np.testing.assert_allclose(problem.bound_matvec(v), whole @ v, rtol=1e-9, atol=1e-9)
    for trial in range(6):
        x = point(problem, trial, 10.0 ** (trial - 3)).ravel()
        b = np.sort(rng.choice(problem.n_variables, 5, replace=False))
        gap = problem.block_bound(b) - problem.block_hessian(problem.start(x), x, b)
        assert np.linalg.eigvalsh(gap).min() >= -1e-9 * np.abs(gap).max()
    for i in range(problem.n_variables):
        one = float(problem.block_bound(np.array([i]))[0, 0])
        np.testing.assert_allclose(problem.lipschitz[i], one, rtol=1e-12)


@pytest.mark.parametrize("loss", ["logistic", "softmax"])
def test_third_order_bounds_the_change_of_the_hessian(loss):
    problem = make(loss, weights=True, fit_intercept=True)
    rng = np.random.default_rng(4)
    worst = 0.0
    for trial in range(40):
        b = np.sort(rng.choice(problem.n_variables, 1 + trial % 4, replace=False))
        x = point(problem, trial, 0.5).ravel()
        d = 10.0 ** rng.uniform(-3, 0.5) * rng.standard_normal(b.size)
        there = x.copy()
        there[b] += d
        change = problem.block_hessian(problem.start(there), there, b) - problem.block_hessian(
            problem.start(x), x, b
        )
        ratio = np.linalg.norm(change, 2) / (problem.third_order(b) * np.linalg.norm(d))
        worst = max(worst, ratio)
    assert 0.02 < worst <= 1.0


def test_the_poisson_loss_has_no_bound():
    problem = make("poisson")
    assert np.isinf(problem.lipschitz).all()
    with pytest.raises(ParameterError, match="Poisson loss has no bound"):
        problem.block_bound(np.array([0, 1]))


@pytest.mark.parametrize("kind", ["dense", "sparse"])
def test_oracles_of_a_quadratic(kind):
    rng = np.random.default_rng(0)
    A = rng.standard_normal((8, 8)) * (rng.random((8, 8)) < 0.5)
    A = A @ A.T + np.eye(8)
    problem = QuadraticProblem(sp.csr_array(A) if kind == "sparse" else A, rng.standard_normal(8))
    x = rng.standard_normal(8)
    work = problem.start(x)
    b, d = np.array([1, 4, 6]), rng.standard_normal(3)
    np.testing.assert_allclose(problem.block_gradient(work, x, b), (A @ x - problem.b)[b])
    np.testing.assert_allclose(problem.block_bound(b), A[np.ix_(b, b)])
    np.testing.assert_allclose(problem.bound_row_sums, np.abs(A).sum(axis=1))
    direction = problem.direction(b, d)
    value = problem.value_along(work, x, b, d, direction, 0.3)
    there = x.copy()
    there[b] += 0.3 * d
    np.testing.assert_allclose(value, problem.objective(there), rtol=1e-12)
    problem.move(work, x, b, d)
    np.testing.assert_allclose(work, A @ x, rtol=1e-12, atol=1e-12)


# -- the null model --------------------------------------------------------------------------------


@pytest.mark.parametrize("weights", [False, True])
@pytest.mark.parametrize("loss", LOSSES)
def test_the_null_model_has_the_best_intercept(loss, weights):
    problem = make(loss, fit_intercept=True, weights=weights)

    def value(b):
        x = np.zeros(problem.x_shape)
        x[-1] = b if problem.n_outputs > 1 else b[0]
        return problem.objective(x)

    found = minimize(value, np.zeros(problem.n_outputs), method="BFGS", options={"gtol": 1e-8})
    np.testing.assert_allclose(value(problem.null_intercept), found.fun, rtol=1e-9)


def test_units_of_gaps_are_the_known_ones():
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((20, 3)), rng.standard_normal(20)
    assert GLMProblem(X, y).scale == pytest.approx(0.5 * y @ y, rel=1e-12)
    centred = y - y.mean()
    assert GLMProblem(X, y, fit_intercept=True).scale == pytest.approx(
        0.5 * centred @ centred, rel=1e-12
    )
    assert GLMProblem(X, np.sign(y), "logistic").scale == pytest.approx(20 * np.log(2), rel=1e-12)
    assert GLMProblem(X, y).null_gradient == pytest.approx(np.abs(X.T @ y).max(), rel=1e-12)


# -- certificates ----------------------------------------------------------------------------------


def cvxpy_loss(problem, Z):
    y, s = problem.y, problem.sample_weight
    s = np.ones(N) if s is None else s
    name = type(problem.loss).__name__
    if name == "Squared":
        weight = s if y.ndim == 1 else np.repeat(s[:, None], y.shape[1], 1)
        return cp.sum(cp.multiply(weight, cp.square(Z - y))) / 2
    if name == "Logistic":
        return s @ cp.logistic(cp.multiply(-y, Z))
    if name == "Softmax":
        return s @ (cp.log_sum_exp(Z, axis=1) - cp.sum(cp.multiply(Z, y), axis=1))
    if name == "Huber":
        return s @ cp.huber(Z - y, problem.loss.delta) / 2
    return s @ (cp.exp(Z) - cp.multiply(y, Z))


def cvxpy_penalty(pen, W):
    if isinstance(pen, L1):
        return pen.alpha * cp.sum(cp.abs(W)), []
    if isinstance(pen, WeightedL1):
        return pen.alpha * cp.sum(cp.multiply(pen.weights, cp.abs(W))), []
    if isinstance(pen, ElasticNet):
        ridge = pen.alpha * (1 - pen.l1_ratio) / 2 * cp.sum_squares(W)
        return pen.alpha * pen.l1_ratio * cp.sum(cp.abs(W)) + ridge, []
    if isinstance(pen, SquaredL2):
        return pen.alpha / 2 * cp.sum_squares(W), []
    if isinstance(pen, Box):
        return 0.0, [pen.low <= W, pen.high >= W]
    if isinstance(pen, NonNegative):
        return pen.alpha * cp.sum(W), [W >= 0]
    total = 0.0
    for g in range(int(pen.groups.max()) + 1):
        rows = W[pen.groups == g]
        weight = 1.0 if pen.weights is None else pen.weights[g]
        total += pen.alpha * weight * cp.norm(cp.vec(rows, order="C"), 2)
    return total, [W >= 0] if pen.positive else []


def optimum(problem):
    """Solution of a convex composite problem by an interior point method."""
    smooth = problem.smooth
    X = smooth.X.toarray() if sp.issparse(smooth.X) else smooth.X
    shape = (P,) if smooth.y.ndim == 1 else (P, smooth.n_outputs)
    W, b = cp.Variable(shape), cp.Variable(shape[1:])
    Z = X @ W
    if smooth.fit_intercept:
        Z = Z + (b if not shape[1:] else np.ones((N, 1)) @ cp.reshape(b, (1, shape[1]), order="C"))
    value, constraints = cvxpy_penalty(problem.penalty, W)
    total = cvxpy_loss(smooth, Z) + value + smooth.l2 / 2 * cp.sum_squares(W)
    program = cp.Problem(cp.Minimize(total), constraints)
    tight = {"tol_gap_abs": 1e-9, "tol_gap_rel": 1e-9, "tol_feas": 1e-9}
    program.solve(solver=cp.CLARABEL, **tight)
    rows = [W.value] + ([b.value[None]] if smooth.fit_intercept else [])
    x = np.concatenate([np.reshape(r, (-1, *shape[1:])) for r in rows])
    return program.value, problem.prox(x, 1e-12) if constraints else x


CONVEX = [
    (loss, name, model)
    for i, loss in enumerate(LOSSES)
    for j, name in enumerate(PENALTIES)
    for k, model in enumerate(MODELS)
    if (i + j + k) % 3 == 0  # a third of them meets every pair
]


@pytest.mark.parametrize(("loss", "name", "model"), CONVEX, ids=str)
def test_the_bound_is_below_the_optimum_and_reaches_it(loss, name, model):
    problem = CompositeProblem(make(loss, **model), PENALTIES[name])
    assert problem.measure == "gap"
    best, solution = optimum(problem)
    unit = problem.scale
    for seed in range(4):
        x = problem.prox(point(problem, seed, 10.0 ** (seed - 2)), 1.0)
        certificate = problem.certificate(x)
        assert certificate.objective - certificate.gap <= best + 1e-7 * unit
        smooth = problem.smooth
        flat = problem.flat(x)
        bound, _ = lower_bound(
            smooth, problem.penalty, smooth.start(flat), problem.coefficients(flat)
        )
        assert np.isfinite(bound)
        # A point that is better has a better bound, somewhere.
        closer = problem.prox(0.999 * solution + 0.001 * x, 1e-12)
        assert problem.certificate(closer).residual <= max(1e-6, certificate.residual)
    assert problem.certificate(solution).residual < 2e-5
    if "huber" not in loss:
        assert problem.certificate(solution).gap >= -1e-9 * unit


@pytest.mark.parametrize("intercept", [False, True])
def test_coefficients_without_penalty_are_projected_out(intercept):
    pen = WeightedL1(2.0, np.array([0.0, 1.0, 1.0, 0.0, 1.0, np.inf]))
    finite = WeightedL1(2.0, np.array([0.0, 1.0, 1.0, 0.0, 1.0, 1e6]))
    smooth = make(fit_intercept=intercept, weights=True)
    problem = CompositeProblem(smooth, pen)
    assert problem.measure == "gap"
    best, x = optimum(CompositeProblem(smooth, finite))
    x[5] = 0.0
    certificate = problem.certificate(x)
    assert certificate.residual < 1e-6
    assert certificate.objective == pytest.approx(best, rel=1e-6)
    wrong = x.copy()
    wrong[0] += 0.5
    assert problem.certificate(wrong).residual > 1e-3
    wrong = x.copy()
    wrong[5] = 0.1
    assert problem.certificate(wrong).residual == np.inf


@pytest.mark.parametrize(
    ("pen", "name"),
    [(NonNegative(0.0), "non-negative"), (Box(0.0, np.inf), "half-line"), (L1(0.0), "none")],
)
def test_subgradients_vanish_at_the_optimum(pen, name):
    problem = CompositeProblem(make("logistic", fit_intercept=True), pen)
    assert problem.measure == "subgradient"
    _, x = optimum(problem)
    x[np.abs(x) < 1e-6] = 0.0  # an interior point is never on a bound
    assert problem.certificate(x).residual < 1e-4
    assert problem.certificate(problem.prox(x + 0.3, 1.0)).residual > 1e-2


@pytest.mark.parametrize("pen", [MCP(0.7, 3.0), SCAD(0.7, 3.7)])
def test_subgradients_of_non_convex_penalties_are_slopes(pen):
    """Between its corners the distance is the absolute derivative, which differences give."""
    problem = CompositeProblem(make(l2=0.1), pen)
    x = np.array([0.3, -0.5, 1.5, -2.0, 5.0, 0.2])
    slopes = []
    for i in range(P):
        e = 1e-6 * np.eye(P)[i]
        slopes.append((problem.objective(x + e) - problem.objective(x - e)) / 2e-6)
    expected = np.abs(slopes).max() / problem.null_gradient
    assert problem.certificate(x).residual == pytest.approx(expected, rel=1e-6)


def test_the_zero_point_is_optimal_from_lambda_max_on():
    for loss in ("squared", "logistic", "huber", "poisson"):
        smooth = make(loss, fit_intercept=True)
        zero = np.zeros(smooth.x_shape)
        zero[-1] = smooth.null_intercept[0]
        at = CompositeProblem(smooth, L1(smooth.null_gradient * 1.0001)).certificate(zero)
        assert at.residual < 1e-9
        below = CompositeProblem(smooth, L1(smooth.null_gradient * 0.9)).certificate(zero)
        assert below.residual > 1e-4


def test_one_column_of_targets_is_graded_as_a_vector():
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((20, 5)), rng.standard_normal(20)
    x = rng.standard_normal(6)
    vector = CompositeProblem(GLMProblem(X, y, fit_intercept=True), L1(0.5))
    column = CompositeProblem(GLMProblem(X, y[:, None], fit_intercept=True), L1(0.5))
    assert column.x_shape == (6, 1)
    expected, found = vector.certificate(x), column.certificate(x[:, None])
    assert found.gap == pytest.approx(expected.gap, rel=1e-12)
    assert found.residual == pytest.approx(expected.residual, rel=1e-12)


def test_float32_data_are_graded_in_float64():
    problem = CompositeProblem(make(dtype=np.float32), L1(0.5))
    double = CompositeProblem(
        GLMProblem(problem.smooth.X.astype(np.float64), problem.smooth.y), L1(0.5)
    )
    x = point(problem).astype(np.float32)
    assert problem.dtype == np.float32
    assert problem.certificate(x).gap == pytest.approx(double.certificate(x).gap, rel=1e-12)


# -- bad data --------------------------------------------------------------------------------------

ONES = np.ones((3, 2))


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: GLMProblem([[1.0, np.nan]], [1.0]), ProblemError, r"X\[0, 1\] is NaN"),
        (lambda: GLMProblem(sp.csc_array([[1.0, np.inf]]), [1.0]), ProblemError, r"X\[0, 1\]"),
        (lambda: GLMProblem([[1e200, 1.0]], [1.0]), ProblemError, "column 0 overflow"),
        (lambda: GLMProblem(ONES, [1.0, 2.0]), ProblemError, r"y has shape \(2,\)"),
        (lambda: GLMProblem(np.ones((0, 2)), []), ProblemError, r"\(0, 2\)"),
        (lambda: GLMProblem(np.ones(3), np.ones(3)), ProblemError, r"\(3,\)"),
        (lambda: GLMProblem(ONES, [1, 2, 1], "logistic"), ProblemError, r"y\[1\] = 2"),
        (lambda: GLMProblem(ONES, [1, 1, 1], "logistic"), ProblemError, "single class"),
        (lambda: GLMProblem(ONES, [1, -1, 2], "poisson"), ProblemError, r"y\[1\] = -1"),
        (lambda: GLMProblem(ONES, [0, 2, 2], "softmax"), ProblemError, "no sample .* class 1"),
        (lambda: GLMProblem(ONES, [0, 0.5, 1], "softmax"), ProblemError, r"y\[1\] = 0.5"),
        (
            lambda: GLMProblem(ONES, [0, 0, 0], "poisson", fit_intercept=True),
            ProblemError,
            "minus infinity",
        ),
        (lambda: GLMProblem(ONES, np.ones(3), "hinge"), ParameterError, "squared, logistic"),
        (lambda: GLMProblem(ONES, np.ones(3), Huber(0.0)), ParameterError, "delta"),
        (lambda: GLMProblem(ONES, np.ones(3), l2=-1.0), ParameterError, "l2"),
        (
            lambda: GLMProblem(ONES, np.ones(3), sample_weight=[1, -1, 1]),
            ProblemError,
            r"sample_weight\[1\]",
        ),
        (lambda: GLMProblem(ONES, np.ones(3), sample_weight=[0, 0, 0]), ProblemError, "0 for all"),
        (lambda: GLMProblem(ONES.astype(complex), np.ones(3)), ProblemError, "complex"),
        (lambda: GLMProblem(ONES.astype(object), np.ones(3)), ProblemError, "object"),
        (lambda: QuadraticProblem([[1.0, 2.0], [0.0, 1.0]]), ProblemError, "not symmetric"),
        (lambda: QuadraticProblem([[1.0, 0.0], [0.0, -1.0]]), ProblemError, r"A\[1, 1\] = -1"),
        (lambda: QuadraticProblem([[0.0, 1.0], [1.0, 1.0]]), ProblemError, "its row is not 0"),
        (lambda: QuadraticProblem(np.ones((2, 3))), ProblemError, "square"),
        (lambda: QuadraticProblem(np.eye(2), [1.0]), ProblemError, "b has shape"),
        (lambda: CompositeProblem(make(), 0.1), ParameterError, "L1"),
        (lambda: CompositeProblem(make(), L1(-1.0)), ParameterError, "alpha"),
        (lambda: CompositeProblem(ONES, L1(1.0)), ProblemError, "GLMProblem"),
        (lambda: CompositeProblem(make(), WeightedL1(1.0, np.ones(2))), ProblemError, r"\(2,\)"),
        (
            lambda: CompositeProblem(make(), GroupL1(1.0, np.array([0, 1]))),
            ProblemError,
            r"groups have shape \(2,\)",
        ),
        (lambda: make().objective(np.ones(3)), ProblemError, r"x has shape \(3,\)"),
        (lambda: make().objective(np.full(P, np.nan)), ProblemError, "NaN"),
    ],
)
def test_bad_data_are_refused(call, error, match):
    with pytest.raises(error, match=match):
        call()


def test_arrays_of_other_libraries_are_refused():
    xp = pytest.importorskip("array_api_strict")
    with pytest.raises(UnsupportedBackendError, match="array_api_strict"):
        GLMProblem(xp.ones((2, 2)), np.ones(2))


def test_data_are_not_copied_where_they_need_not_be():
    X = np.asfortranarray(np.random.default_rng(0).standard_normal((5, 3)))
    y = np.ones(5)
    assert np.shares_memory(GLMProblem(X, y).X, X)
    S = sp.csc_array(X)
    assert np.shares_memory(GLMProblem(S, y).X.data, S.data)
    A = sp.csr_array(np.eye(3))
    assert np.shares_memory(QuadraticProblem(A).A.data, A.data)


def test_unsorted_and_duplicate_entries_are_added_in_a_copy():
    data, rows, indptr = np.array([1.0, 2.0, 3.0]), np.array([2, 0, 2]), np.array([0, 3])
    S = sp.csc_array((data, rows, indptr), shape=(3, 1))
    problem = GLMProblem(S, np.ones(3))
    np.testing.assert_array_equal(problem.X.toarray().ravel(), [2.0, 0.0, 4.0])
    np.testing.assert_array_equal(S.data, [1.0, 2.0, 3.0])
