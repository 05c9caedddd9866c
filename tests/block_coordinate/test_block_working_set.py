"""Block working sets: other solvers, closed forms, optimality, screening, kernels, paths."""

from __future__ import annotations

import math
import pickle
import warnings

import numpy as np
import pytest
import scipy.optimize
import scipy.sparse as sp

from lowrank_opt.block_coordinate import (
    CompositeProblem,
    GLMProblem,
    SparseGLMSolver,
    block_working_set,
)
from lowrank_opt.block_coordinate import kernels_block_working_set as kernels
from lowrank_opt.block_coordinate import reference_block_working_set as reference
from lowrank_opt.block_coordinate.block_view import make_rule
from lowrank_opt.core import thread_limit
from lowrank_opt.core.state import Status
from lowrank_opt.numerics.penalties import (
    L1,
    MCP,
    SCAD,
    Box,
    ElasticNet,
    GroupL1,
    NonNegative,
    WeightedL1,
)

N, P, K = 24, 12, 3
GROUPS = np.array([0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 2])


def data(seed=0, n=N, p=P):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, p)) + 0.3
    y = X[:, :3] @ [1.5, -2.0, 1.0] + 0.5 * rng.standard_normal(n)
    return X, y, rng


def targets(loss, y):
    if loss == "logistic":
        return np.where(y > np.median(y), 1.0, -1.0)
    if loss == "poisson":
        return np.floor(np.exp(y / 4))
    if loss == "softmax":
        return np.digitize(y, np.quantile(y, [0.4, 0.7]))
    if loss == "multi":
        return np.stack([y, y[::-1], np.sin(y)], axis=1)
    return y


def model(loss, seed=0, intercept=True, sparse=False, weights=False, dtype=float, **sizes):
    X, y, rng = data(seed, **sizes)
    s = rng.uniform(0.5, 2.0, len(X)) if weights else None
    X = X.astype(dtype)
    if sparse:
        X = sp.csc_array(np.where(rng.random(X.shape) < 0.5, X, 0.0))
    kind = {"multi": "squared"}.get(loss, loss)
    return GLMProblem(X, targets(loss, y), kind, sample_weight=s, fit_intercept=intercept)


def solve(problem, **options):
    options.setdefault("tol", 1e-9)
    result = SparseGLMSolver(**options).solve(problem)
    assert result.status is Status.CONVERGED, result.message
    return result


def by_cone(problem):
    """Optimal value by cvxpy and Clarabel."""
    cp = pytest.importorskip("cvxpy")
    smooth, pen = problem.smooth, problem.penalty
    X = smooth.X.toarray() if sp.issparse(smooth.X) else smooth.X
    k = smooth.n_outputs
    w, b = cp.Variable((P, k)), cp.Variable((1, k))
    z = X @ w + (np.ones((len(X), 1)) @ b if smooth.fit_intercept else 0)
    y = smooth.y.reshape(len(X), k)
    s = np.ones(len(X)) if smooth.sample_weight is None else smooth.sample_weight
    name = type(smooth.loss).__name__
    losses = {
        "Squared": lambda: cp.sum(cp.square(z - y), axis=1) / 2,
        "Logistic": lambda: cp.sum(cp.logistic(-cp.multiply(y, z)), axis=1),
        "Huber": lambda: cp.sum(cp.huber(z - y, smooth.loss.delta if name == "Huber" else 1)) / 2,
        "Poisson": lambda: cp.sum(cp.exp(z) - cp.multiply(y, z), axis=1),
        "Softmax": lambda: cp.log_sum_exp(z, axis=1) - cp.sum(cp.multiply(y, z), axis=1),
    }
    loss = losses[name]()
    value = loss if loss.ndim == 0 else s @ loss
    value += smooth.l2 / 2 * cp.sum_squares(w)
    constraints = []
    if isinstance(pen, GroupL1):
        count = GROUPS.max() + 1 if len(set(pen.groups)) < P else P
        weights = np.ones(count) if pen.weights is None else pen.weights
        for g in range(count):
            part = w[np.flatnonzero(pen.groups == g), :]
            if np.isinf(weights[g]):
                constraints.append(part == 0)
            else:
                value += pen.alpha * weights[g] * cp.norm(cp.vec(part, order="C"), 2)
        if pen.positive:
            constraints.append(w >= 0)
    elif isinstance(pen, (L1, ElasticNet)):
        ratio = getattr(pen, "l1_ratio", 1.0)
        value += pen.alpha * (ratio * cp.sum(cp.abs(w)) + (1 - ratio) / 2 * cp.sum_squares(w))
    elif isinstance(pen, Box):
        constraints += [w >= pen.low, w <= pen.high]
    elif isinstance(pen, NonNegative):
        value += pen.alpha * cp.sum(w)
        constraints.append(w >= 0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "may be inaccurate": by more than 1e-8
        return cp.Problem(cp.Minimize(value), constraints).solve(solver="CLARABEL")


def compare(problem, rtol=1e-6, **options):
    result = solve(problem, **options)
    best = by_cone(problem)
    np.testing.assert_allclose(result.fun, best, rtol=rtol, atol=rtol)
    return result


# -- agreement with a conic solver -----------------------------------------------------------------


@pytest.mark.parametrize("loss", ["squared", "logistic", "huber", "poisson", "multi", "softmax"])
@pytest.mark.parametrize("sparse", [False, True])
def test_groups_agree_with_a_conic_solver(loss, sparse):
    smooth = model(loss, sparse=sparse, weights=loss != "huber")
    compare(CompositeProblem(smooth, GroupL1(0.3 * smooth.null_gradient, GROUPS)))


@pytest.mark.parametrize("loss", ["squared", "poisson", "softmax"])
def test_positive_groups_and_weights_agree_with_a_conic_solver(loss):
    smooth = model(loss)
    lam = 0.2 * smooth.null_gradient
    compare(CompositeProblem(smooth, GroupL1(lam, GROUPS, None, True)))
    weights = np.array([1.0, np.inf, 0.0, 0.5])
    result = compare(CompositeProblem(smooth, GroupL1(lam, GROUPS, weights)), rtol=1e-5)
    w = result.x[:P]
    assert not w[GROUPS == 1].any()
    assert w[GROUPS == 2].all()


@pytest.mark.parametrize("intercept", [False, True])
@pytest.mark.parametrize(
    "pen",
    [
        lambda lam: L1(0.2 * lam),
        lambda lam: GroupL1(0.3 * lam, np.arange(P)),
        lambda lam: ElasticNet(0.3 * lam, 0.6),
        lambda lam: NonNegative(0.1 * lam),
        lambda lam: Box(-0.1, 0.3),
    ],
    ids=["l1", "rows", "elastic_net", "nonnegative", "box"],
)
def test_several_outputs_agree_with_a_conic_solver(pen, intercept):
    for loss in ("multi", "softmax"):
        smooth = model(loss, intercept=intercept, weights=True)
        compare(CompositeProblem(smooth, pen(smooth.null_gradient)))


def test_a_ridge_term_of_the_smooth_part_counts():
    for loss in ("softmax", "logistic", "multi"):
        X, y, _ = data()
        kind = "squared" if loss == "multi" else loss
        smooth = GLMProblem(X, targets(loss, y), kind, l2=2.0, fit_intercept=True)
        compare(CompositeProblem(smooth, GroupL1(0.2 * smooth.null_gradient, GROUPS)))


@pytest.mark.parametrize("loss", ["logistic", "huber", "poisson"])
def test_boxes_agree_with_a_conic_solver(loss):
    for box in (Box(-0.2, 0.4), Box(0.0, np.inf), Box(0.1, 0.1)):
        compare(CompositeProblem(model(loss, weights=loss != "huber"), box), rtol=1e-5)


# -- agreement with other libraries ----------------------------------------------------------------


def test_least_squares_in_a_box_is_that_of_scipy():
    X, y, _ = data()
    for low, high in ((-0.3, 0.5), (-np.inf, 0.2), (0.0, np.inf)):
        got = solve(CompositeProblem(GLMProblem(X, y), Box(low, high)), tol=1e-10)
        want = scipy.optimize.lsq_linear(X, y, (low, high), tol=1e-14)
        np.testing.assert_allclose(got.x, want.x, rtol=0, atol=1e-6)
        assert np.all((got.x >= low) & (got.x <= high))


def test_rows_are_those_of_the_multi_task_lasso_of_scikit_learn():
    linear_model = pytest.importorskip("sklearn.linear_model")
    X, y, _ = data(n=40, p=60)
    Y = targets("multi", y)
    smooth = GLMProblem(X, Y, fit_intercept=True)
    alpha = 0.2 * smooth.null_gradient / len(X)
    got = solve(CompositeProblem(smooth, GroupL1(alpha * len(X), np.arange(60))), tol=1e-12)
    want = linear_model.MultiTaskLasso(alpha, tol=1e-12, max_iter=100_000).fit(X, Y)
    np.testing.assert_allclose(got.x[:-1], want.coef_.T, rtol=0, atol=1e-6)
    np.testing.assert_allclose(got.x[-1], want.intercept_, rtol=0, atol=1e-6)


def test_classes_are_those_of_the_logistic_regression_of_scikit_learn():
    linear_model = pytest.importorskip("sklearn.linear_model")
    smooth = model("softmax")
    lam = 0.2 * smooth.null_gradient
    labels = smooth.y.argmax(axis=1)
    want = linear_model.LogisticRegression(
        l1_ratio=1.0, C=1 / lam, solver="saga", tol=1e-9, max_iter=100_000, random_state=0
    ).fit(smooth.X, labels)
    problem = CompositeProblem(smooth, L1(lam))
    theirs = np.vstack([want.coef_.T, want.intercept_])
    got = solve(problem)
    np.testing.assert_allclose(got.fun, problem.objective(theirs), rtol=1e-7)
    np.testing.assert_allclose(got.x[:-1], theirs[:-1], rtol=0, atol=1e-3)


# -- one thing is another --------------------------------------------------------------------------


@pytest.mark.parametrize("loss", ["squared", "logistic", "huber", "poisson"])
def test_groups_of_one_are_the_lasso(loss):
    smooth = model(loss, weights=True)
    lam = 0.2 * smooth.null_gradient
    got = solve(CompositeProblem(smooth, GroupL1(lam, np.arange(P))), tol=1e-12)
    want = solve(CompositeProblem(smooth, L1(lam)), tol=1e-12)
    np.testing.assert_allclose(got.x, want.x, rtol=0, atol=2e-5)
    np.testing.assert_allclose(got.fun, want.fun, rtol=1e-11)


def test_one_output_is_a_vector():
    X, y, _ = data()
    for pen in (GroupL1(5.0, GROUPS), L1(5.0)):
        problem, solver = (
            CompositeProblem(GLMProblem(X, y[:, None]), pen),
            SparseGLMSolver(tol=1e-12),
        )
        *_, state = solver.iterate(problem)
        matrix = solver.point(problem, state)
        vector = solve(CompositeProblem(GLMProblem(X, y), pen), tol=1e-12).x
        assert matrix.shape == (P, 1)
        np.testing.assert_allclose(matrix[:, 0], vector, rtol=0, atol=1e-6)


def test_concave_penalties_become_the_lasso():
    X, y, _ = data()
    smooth = GLMProblem(X, y, fit_intercept=True)
    lam = 0.2 * smooth.null_gradient
    want = solve(CompositeProblem(smooth, L1(lam)), tol=1e-13).x
    for pen in (MCP(lam, 1e9), SCAD(lam, 1e9)):
        got = solve(CompositeProblem(smooth, pen), tol=1e-9).x
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-6)


def test_orthonormal_designs_have_closed_forms():
    rng = np.random.default_rng(3)
    Q = np.linalg.qr(rng.standard_normal((20, 10)))[0]
    y = 3 * rng.standard_normal(20)
    z = Q.T @ y
    # Firm threshold: soft up to gamma alpha, divided by 1 - 1/gamma, then the identity.
    alpha, gamma = 1.0, 2.5
    soft = np.sign(z) * np.maximum(np.abs(z) - alpha, 0)
    firm = np.where(np.abs(z) <= gamma * alpha, soft / (1 - 1 / gamma), z)
    got = solve(CompositeProblem(GLMProblem(Q, y), MCP(alpha, gamma))).x
    np.testing.assert_allclose(got, firm, rtol=0, atol=1e-8)
    middle = ((gamma - 1) * z - np.sign(z) * gamma * alpha) / (gamma - 2)
    scad = np.where(np.abs(z) <= 2 * alpha, soft, np.where(np.abs(z) <= gamma * alpha, middle, z))
    got = solve(CompositeProblem(GLMProblem(Q, y), SCAD(alpha, gamma))).x
    np.testing.assert_allclose(got, scad, rtol=0, atol=1e-8)
    groups = np.arange(10) // 2
    lengths = np.linalg.norm(z.reshape(5, 2), axis=1)
    want = (z.reshape(5, 2) * np.maximum(1 - 2.0 / lengths, 0)[:, None]).ravel()
    got = solve(CompositeProblem(GLMProblem(Q, y), GroupL1(2.0, groups)), tol=1e-12).x
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-6)


def test_nothing_is_used_at_the_largest_penalty():
    smooth = model("multi")
    rows = smooth.gradient(np.vstack([np.zeros((P, K)), smooth.null_intercept]))[:P]
    largest = max(np.linalg.norm(rows[g == GROUPS]) for g in range(4))
    above = solve(CompositeProblem(smooth, GroupL1(1.001 * largest, GROUPS)))
    below = solve(CompositeProblem(smooth, GroupL1(0.999 * largest, GROUPS)), tol=1e-12)
    assert above.nit == 0
    assert not above.x[:P].any()
    assert below.x[:P].any()


def test_weights_of_infinity_and_zero_fix_and_free_entries():
    smooth = model("multi")
    weights = np.ones((P, K))
    weights[0], weights[1, 0], weights[2] = np.inf, np.inf, 0.0
    x = solve(CompositeProblem(smooth, WeightedL1(0.3 * smooth.null_gradient, weights))).x
    assert not x[0].any()
    assert x[1, 0] == 0
    assert x[2].all()
    assert np.abs(smooth.gradient(x)[2]).max() <= 1e-8 * smooth.null_gradient


# -- optimality ------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", ["squared", "logistic", "huber"])
@pytest.mark.parametrize("dense", [True, False])
def test_concave_penalties_reach_stationary_points(loss, dense):
    smooth = model(loss, sparse=not dense, n=40, p=80)
    if loss == "logistic":  # without a ridge term separable classes have no minimiser
        smooth = GLMProblem(smooth.X, smooth.y, loss, l2=0.1, fit_intercept=True)
    lam = 0.4 * smooth.null_gradient
    curvature = 40 * (0.25 if loss == "logistic" else 1.0)
    for pen in (MCP(lam, 6.0 / curvature), SCAD(lam, 3.7)):
        x = solve(CompositeProblem(smooth, pen), tol=1e-8).x
        g, w = smooth.gradient(x), x[:-1]
        size = np.abs(w)
        if isinstance(pen, MCP):
            slope = np.maximum(lam - size / pen.gamma, 0)
        else:
            slope = np.clip((3.7 * lam - size) / 2.7, 0, lam)
        worst = np.where(
            w != 0, np.abs(g[:-1] + np.sign(w) * slope), np.maximum(abs(g[:-1]) - lam, 0)
        )
        assert max(worst.max(), abs(g[-1])) <= 1e-7 * smooth.null_gradient
        assert 0 < np.count_nonzero(w) < 80
        # No coordinate alone improves: the proximal point of its own majoriser is where it is.
        value = CompositeProblem(smooth, pen).objective
        for j in np.flatnonzero(w)[:5]:
            for step in (0.9, 1.1):
                y = x.copy()
                y[j] *= step
                assert value(x) <= value(y) + 1e-9 * abs(value(x))


def test_a_constant_or_empty_column_is_left_alone():
    X, y, _ = data()
    X[:, 4] = 0.0
    X[:, 5] = 2.0
    smooth = GLMProblem(X, y, fit_intercept=True)
    for pen in (GroupL1(2.0, np.arange(P)), GroupL1(2.0, GROUPS), MCP(2.0, 1.0), Box(0.0, 1.0)):
        x = solve(CompositeProblem(smooth, pen)).x
        assert max(abs(x[4]), abs(x[5])) <= 1e-13


def test_float32_data_give_float32_points():
    for sparse in (False, True):
        smooth = model("multi", dtype=np.float32, sparse=sparse)
        got = solve(CompositeProblem(smooth, GroupL1(0.2 * smooth.null_gradient, GROUPS)), tol=1e-6)
        assert got.x.dtype == np.float32
        double = GLMProblem(smooth.X.astype(float), smooth.y, fit_intercept=True)
        want = solve(CompositeProblem(double, GroupL1(0.2 * smooth.null_gradient, GROUPS)))
        np.testing.assert_allclose(got.x, want.x, rtol=0, atol=1e-3)


# -- options ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "option",
    [
        {"acceleration": "none"},
        {"screening": "none"},
        {"working_set": False},
        {"newton_phase": False},
        {"gram": "always"},
        {"gram": "never"},
    ],
    ids=str,
)
def test_options_change_the_way_not_the_answer(option):
    for loss, sparse in (("squared", False), ("multi", True), ("softmax", False)):
        smooth = model(loss, n=40, p=100, sparse=sparse)
        pen = GroupL1(0.1 * smooth.null_gradient, np.arange(100) // 4)
        problem = CompositeProblem(smooth, pen)
        plain, other = solve(problem), solve(problem, **option)
        np.testing.assert_allclose(other.fun, plain.fun, rtol=1e-8)
        np.testing.assert_allclose(other.x, plain.x, rtol=0, atol=1e-3)


def test_screening_never_discards_a_group_that_is_used():
    for loss, seed in (("squared", 0), ("logistic", 1), ("multi", 2), ("softmax", 3)):
        smooth = model(loss, seed, n=40, p=200)
        groups = np.arange(200) // 2
        for part in (0.5, 0.2):
            pen = GroupL1(part * smooth.null_gradient, groups, None, loss == "logistic")
            problem = CompositeProblem(smooth, pen)
            x = solve(problem, tol=1e-10, screening="none").x[:-1].reshape(200, -1)
            used = np.flatnonzero(np.bincount(groups, np.abs(x).sum(axis=1) > 1e-7))
            solver = SparseGLMSolver(tol=1e-10)
            state = solver.init(problem)
            while solver.terminate(problem, state) is None:
                state = solver.step(problem, state)
                assert state.alive[used].all()
            assert not state.alive.all()


def test_extrapolation_saves_sweeps_on_slow_problems():
    rng = np.random.default_rng(5)
    X = rng.standard_normal((60, 1)) + 0.4 * rng.standard_normal((60, 30))  # strongly correlated
    y = X[:, 0] - X[:, 1] + 0.1 * rng.standard_normal(60)
    smooth = GLMProblem(X, np.stack([y, -y], axis=1))
    problem = CompositeProblem(smooth, GroupL1(0.002 * smooth.null_gradient, np.arange(30)))
    runs = [solve(problem, gram="never", acceleration=a, tol=1e-10) for a in ("anderson", "none")]
    np.testing.assert_allclose(runs[0].fun, runs[1].fun, rtol=1e-9)
    assert 1.5 * runs[0].counts["epochs"] < runs[1].counts["epochs"]


def test_newton_steps_end_on_the_stable_support():
    rng = np.random.default_rng(5)
    X = rng.standard_normal((60, 1)) + 0.2 * rng.standard_normal((60, 30))
    smooth = GLMProblem(X, X[:, 0] - X[:, 1] + 0.1 * rng.standard_normal(60), fit_intercept=True)
    problem = CompositeProblem(smooth, GroupL1(1e-3 * smooth.null_gradient, np.arange(30) // 3))
    fast = solve(problem, tol=1e-13)
    slow = solve(problem, tol=1e-13, newton_phase=False, acceleration="none")
    assert fast.counts["newton"] > 0
    assert fast.counts["gram_sweeps"] < slow.counts["gram_sweeps"]


# -- states ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", ["squared", "huber", "softmax"])
def test_a_resumed_run_has_the_same_bits(loss):
    rng = np.random.default_rng(5)
    X = rng.standard_normal((80, 1)) + 0.5 * rng.standard_normal((80, 200))
    y = targets(loss, X[:, 0] - X[:, 10] + X[:, 20] + 0.1 * rng.standard_normal(80))
    smooth = GLMProblem(X, y, loss, fit_intercept=True)
    problem = CompositeProblem(smooth, GroupL1(0.02 * smooth.null_gradient, np.arange(200) // 2))
    solver = SparseGLMSolver(tol=1e-9)
    whole = solver.solve(problem)
    with thread_limit(1):  # as in solve: products have other bits on several threads
        state = solver.init(problem)
        while solver.terminate(problem, state) is None:
            state = pickle.loads(pickle.dumps(solver.step(problem, state)))
    assert state.nit == whole.nit > 2
    if loss == "squared":  # products of columns are stored, not made again in another order
        assert len(state.gram) == state.counts["gram_columns"] > 0
    np.testing.assert_array_equal(solver.point(problem, state), whole.x)


def test_residuals_are_those_of_the_certificate():
    cases = [
        ("squared", GroupL1(6.0, GROUPS)),
        ("squared", MCP(6.0, 1.0)),
        ("multi", ElasticNet(6.0, 0.5)),
        ("softmax", L1(1.0)),
        ("logistic", GroupL1(0.8, GROUPS, None, True)),
        ("poisson", Box(-0.1, 0.2)),
        ("huber", Box(-0.1, np.inf)),
    ]
    for loss, pen in cases:
        problem = CompositeProblem(model(loss, weights=True), pen)
        solver = SparseGLMSolver(screening="none")
        state = solver.init(problem)
        for _ in range(3):
            grade = problem.certificate(solver.point(problem, state)).residual
            np.testing.assert_allclose(state.residual, grade, rtol=1e-5, atol=1e-9)
            state = solver.step(problem, state)


def test_a_start_at_the_solution_takes_no_iteration():
    for loss, pen in (("multi", GroupL1(5.0, GROUPS)), ("squared", MCP(5.0, 1.0))):
        problem = CompositeProblem(model(loss), pen)
        x = solve(problem, tol=1e-9).x
        assert SparseGLMSolver(tol=1e-8).solve(problem, x0=x).nit == 0


def test_starts_outside_the_bounds_are_moved_inside():
    smooth = model("squared")
    x0 = np.full(P + 1, 3.0)
    for pen in (Box(-0.2, 0.3), GroupL1(3.0, GROUPS, None, True)):
        problem = CompositeProblem(smooth, pen)
        start = SparseGLMSolver().init(problem, -x0)
        assert np.isfinite(problem.objective(SparseGLMSolver().point(problem, start)))
        got = SparseGLMSolver(tol=1e-10).solve(problem, x0=-x0)
        np.testing.assert_allclose(got.fun, solve(problem, tol=1e-10).fun, rtol=1e-8)


def test_a_path_goes_on_from_the_state_before():
    smooth = model("multi", n=40, p=100)
    solver = SparseGLMSolver(tol=1e-8)
    state, cold = None, 0
    for part in (0.8, 0.5, 0.3, 0.2, 0.1):
        problem = CompositeProblem(smooth, GroupL1(part * smooth.null_gradient, np.arange(100)))
        state = (
            solver.init(problem) if state is None
            else block_working_set.init(solver, problem, None, state)
        )  # fmt: skip
        while solver.terminate(problem, state) is None:
            state = solver.step(problem, state)
        alone = solver.solve(problem)
        cold += alone.counts["epochs"]
        np.testing.assert_allclose(state.objective, alone.fun, rtol=1e-7)
        assert problem.certificate(solver.point(problem, state)).residual <= 1e-7


# -- kernels and their twins -----------------------------------------------------------------------


RULES = [
    (GroupL1(3.0, GROUPS), 1),
    (GroupL1(2.0, GROUPS, np.array([1.0, 0.0, 2.0, 0.5]), True), 3),
    (L1(3.0), 3),
    (WeightedL1(2.0, np.linspace(0.0, 3.0, P)), 1),
    (NonNegative(2.0), 1),
    (Box(-0.1, 0.2), 3),
    (MCP(3.0, 2.0), 1),
    (SCAD(3.0, 3.0), 3),
]


def setting(pen, k, seed=0):
    rng = np.random.default_rng(seed)
    rule, mu, labels = make_rule(pen, P, k)
    X = np.asfortranarray(np.where(rng.random((N, P)) < 0.7, rng.standard_normal((N, P)), 0.0))
    order = np.argsort(labels, kind="stable").astype(np.int64)
    ptr = np.concatenate([[0], np.cumsum(np.bincount(labels))]).astype(np.int64)
    blocks = [order[ptr[b] : ptr[b + 1]] for b in range(ptr.size - 1)]
    w = rng.standard_normal((P, k)) * (rng.random((P, 1)) < 0.5)
    if rule.positive or rule.kind == kernels.BOX:
        w = np.clip(w, rule.low, rule.high) if rule.kind == kernels.BOX else np.abs(w)
    V = 2 * rng.standard_normal((k, N))
    return rule, mu, X, order, ptr, blocks, w, V, rng


def designs(X):
    S = sp.csc_array(X)
    return [
        kernels.DenseColumns(X),
        kernels.SparseColumns(S.data, S.indices.astype(np.int32), S.indptr.astype(np.int32)),
    ]


@pytest.mark.parametrize(("pen", "k"), RULES, ids=lambda v: str(v)[:12])
@pytest.mark.parametrize("intercept", [False, True])
def test_sweeps_are_those_of_the_reference(pen, k, intercept):
    rule, _, X, order, ptr, blocks, w, V, rng = setting(pen, k)
    h = rng.uniform(0.5, 1.5, N)
    total = h.sum() if intercept else 0.0
    if intercept:
        V -= h * (V.sum(axis=1) / total)[:, None]
    every, mu = np.arange(len(blocks)), 0.3
    places = np.concatenate([[0], np.cumsum(np.diff(ptr) ** 2)[:-1]]).astype(np.int64)
    a = X.T @ h if intercept else np.zeros(P)
    for design in designs(X):
        bounds, grams = np.empty(len(blocks)), np.empty(int((np.diff(ptr) ** 2).sum()))
        kernels.block_bounds(design, every, order, ptr, h, a, total, places, grams, bounds)
        exact = reference.block_bounds(X, blocks, h, total)
        assert np.all(bounds >= exact * (1 - 1e-12))
        assert np.all(bounds <= exact * np.diff(ptr) ** (1 / 32) * (1 + 1e-12))
        want = reference.sweep_model(
            X, blocks, w, V, h, np.empty(0), total, np.empty(0), bounds[:, None], True, rule, mu, 3
        )
        got, slopes, shift = w.copy(), V.copy(), np.zeros(k)
        trail = np.empty((2, P * k))
        kernels.sweep_blocks(
            design, every, order, ptr, got, slopes, h, np.empty((0, 0)), a, total, shift,
            np.empty((0, 0)), bounds[:, None], places, grams, rule, mu, 3, 0.0, trail,
        )  # fmt: skip
        for mine, theirs in zip((got, slopes, shift), want, strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=0, atol=1e-11)
        np.testing.assert_array_equal(trail[1], got[order].ravel())


def test_coupled_sweeps_are_those_of_the_reference():
    for pen in (L1(3.0), GroupL1(3.0, GROUPS)):
        rule, _, X, order, ptr, blocks, w, V, rng = setting(pen, K)
        h = rng.uniform(0.5, 1.5, N)
        probabilities = rng.dirichlet(np.ones(K), N).T.copy()
        W = h * probabilities
        inverse = np.linalg.pinv(np.diag(W.sum(axis=1)) - W @ probabilities.T)
        V -= V.mean(axis=0)
        bounds = 0.5 * reference.block_bounds(X, blocks, h, 0.0)[:, None]
        want = reference.sweep_model(
            X, blocks, w, V, h, probabilities, 0.0, inverse, bounds, False, rule, 0.0, 2
        )
        for design in designs(X):
            got, slopes, shift = w.copy(), V.copy(), np.zeros(K)
            kernels.sweep_blocks(
                design, np.arange(len(blocks)), order, ptr, got, slopes, h, probabilities,
                np.zeros(P), 0.0, shift, inverse, bounds, np.full(len(blocks), -1), np.empty(0),
                rule, 0.0, 2, 0.0, np.empty((0, 0)),
            )  # fmt: skip
            for mine, theirs in zip((got, slopes, shift), want, strict=True):
                np.testing.assert_allclose(mine, theirs, rtol=0, atol=1e-11)


@pytest.mark.parametrize(("pen", "k"), RULES, ids=lambda v: str(v)[:12])
def test_gram_sweeps_are_those_of_the_reference(pen, k):
    rule, _, X, order, ptr, blocks, w, _, rng = setting(pen, k)
    H = np.asfortranarray(X[:, order].T @ X[:, order])
    q, rows = 3 * rng.standard_normal((P, k)), w[order]
    ids, bounds = np.arange(len(blocks)), reference.block_bounds(X, blocks, np.ones(N), 0.0)
    want = reference.sweep_gram(H, q, rows, ids, ptr, bounds, rule, 3, 2)
    kernels.gram_sweeps(H, q, rows, ids, ptr, bounds, rule, 3, 9, 2, 0.0, np.empty((0, P * k)))
    np.testing.assert_allclose(rows, want[0], rtol=0, atol=1e-11)
    np.testing.assert_allclose(q, want[1], rtol=0, atol=1e-11)


@pytest.mark.parametrize(("pen", "k"), RULES, ids=lambda v: str(v)[:12])
def test_grades_are_those_of_the_reference(pen, k):
    rule, _, _, order, ptr, blocks, w, _, rng = setting(pen, k)
    c = 3 * rng.standard_normal((P, k))
    count = len(blocks)
    slack, distance, support = np.empty(count), np.empty(count), np.zeros(count, bool)
    every = np.arange(count)
    kernels.grade_blocks(rule, every, order, ptr, w, c, 0.5, 0.7, slack, distance, support)
    want = reference.distances(rule, blocks, w, c + 0.5 * w)
    np.testing.assert_allclose(distance, want, rtol=1e-5, atol=1e-5)
    got = kernels.penalty_of_blocks(rule, every, ptr, w[order])
    if k == 1 or not isinstance(pen, WeightedL1):
        value = pen.value(w[:, 0] if k == 1 else w)
        np.testing.assert_allclose(got, value, rtol=1e-13, atol=1e-13)
    positive = rule.limits.min() > 0
    if rule.kind != kernels.BOX and positive:
        ratio = kernels.largest_ratio(rule, every, order, ptr, c)
        np.testing.assert_allclose(ratio, reference.largest_ratio(rule, blocks, c), rtol=1e-13)
        # A block of zeros is optimal just when its slack, at t = 1, is not negative.
        kernels.grade_blocks(rule, every, order, ptr, 0 * w, c, 0.5, 1.0, slack, distance, support)
        np.testing.assert_array_equal(slack < 0, distance > 0)
        assert not support.any()
        assert math.isclose(ratio > 1, (slack < 0).any())
