"""The engine of SparseGLMSolver for least squares with L1 terms."""

import copy
import subprocess
import sys

import numpy as np
import pytest
import scipy.optimize
import scipy.sparse as sp

from lowrank_opt.block_coordinate import CompositeProblem, GLMProblem, SparseGLMSolver
from lowrank_opt.block_coordinate import kernels_squared as kernels
from lowrank_opt.block_coordinate import reference_squared as reference
from lowrank_opt.block_coordinate import squared as engine
from lowrank_opt.core.state import Status
from lowrank_opt.numerics import L1, ElasticNet, NonNegative, WeightedL1

NONE = np.empty(0)


def make(seed, n=40, p=90, density=None, offset=0.0):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, p)) + 0.7 * rng.standard_normal((n, 1)) + offset
    if density is not None:
        X = sp.csc_array(X * (rng.random((n, p)) < density))
    w = np.zeros(p)
    w[rng.permutation(p)[:8]] = rng.standard_normal(8)
    return X, X @ w + 0.3 * rng.standard_normal(n)


def largest(problem):
    """Smallest weight of an L1 term for which all coefficients are 0, from its definition."""
    s = np.ones(problem.n_samples) if problem.sample_weight is None else problem.sample_weight
    r = problem.y - (s @ problem.y / s.sum() if problem.fit_intercept else 0.0)
    return float(np.abs(problem.X.T @ (s * r)).max())


def lasso(seed=0, factor=20.0, penalty=L1, **kwargs):
    names = {"sample_weight", "fit_intercept", "l2"}
    data = {k: v for k, v in kwargs.items() if k not in names}
    X, y = make(seed, **data)
    smooth = GLMProblem(X, y, **{k: v for k, v in kwargs.items() if k in names})
    return CompositeProblem(smooth, penalty(largest(smooth) / factor))


def run(problem, **parameters):
    """The last state of a run, with at most 300 iterations."""
    solver = SparseGLMSolver(**parameters)
    state = engine.init(solver, problem)
    while state.residual > solver.tol and state.nit < 300:
        state = engine.step(solver, problem, state)
    assert state.residual <= solver.tol
    return state


# -- answers ---------------------------------------------------------------------------------------


def test_with_orthonormal_columns_the_answer_is_the_soft_threshold():
    rng = np.random.default_rng(0)
    Q = np.linalg.qr(rng.standard_normal((30, 12)))[0]
    y = rng.standard_normal(30)
    problem = CompositeProblem(GLMProblem(Q, y), L1(0.4))
    expected = np.sign(Q.T @ y) * np.maximum(np.abs(Q.T @ y) - 0.4, 0.0)
    np.testing.assert_allclose(SparseGLMSolver(tol=1e-12).solve(problem).x, expected, atol=1e-7)


@pytest.mark.parametrize("density", [None, 0.3])
@pytest.mark.parametrize("intercept", [False, True])
@pytest.mark.parametrize("ratio", [1.0, 0.6])
@pytest.mark.parametrize("weighted", [False, True])
def test_the_answer_is_that_of_scikit_learn(density, intercept, ratio, weighted):
    linear_model = pytest.importorskip("sklearn.linear_model")
    X, y = make(1, density=density)
    s = np.random.default_rng(2).random(len(y)) if weighted else None
    smooth = GLMProblem(X, y, sample_weight=s, fit_intercept=intercept)
    lam = largest(smooth) / 15
    problem = CompositeProblem(smooth, ElasticNet(lam, ratio))
    x = engine.point(problem, run(problem, tol=1e-12))
    total = len(y) if s is None else s.sum()
    other = linear_model.ElasticNet(
        lam / total, l1_ratio=ratio, fit_intercept=intercept, tol=1e-12, max_iter=100000
    ).fit(X, y, sample_weight=s)
    np.testing.assert_allclose(x[: X.shape[1]], other.coef_, atol=1e-5)
    if intercept:
        np.testing.assert_allclose(x[-1], other.intercept_, atol=1e-5)


@pytest.mark.parametrize("density", [None, 0.4])
def test_without_a_penalty_but_the_sign_the_answer_is_that_of_nnls(density):
    X, y = make(3, n=60, p=25, density=density)
    problem = CompositeProblem(GLMProblem(X, y), NonNegative(0.0))
    expected = scipy.optimize.nnls(X.toarray() if density else X, y)[0]
    x = engine.point(problem, run(problem, tol=1e-10))
    np.testing.assert_allclose(x, expected, atol=1e-7)


@pytest.mark.parametrize("density", [None, 0.4])
@pytest.mark.parametrize("penalty", [L1, lambda a: ElasticNet(a, 0.5)])
def test_without_a_penalty_the_answer_is_least_squares(density, penalty):
    X, y = make(4, n=60, p=25, density=density)
    problem = CompositeProblem(GLMProblem(X, y, fit_intercept=True), penalty(0.0))
    D = np.column_stack([X.toarray() if density else X, np.ones(60)])
    expected = np.linalg.lstsq(D, y, rcond=None)[0]
    np.testing.assert_allclose(engine.point(problem, run(problem)), expected, atol=1e-9)


def test_ridge_regression_has_its_closed_form_whichever_side_is_longer():
    for n, p in ((30, 12), (12, 30)):
        X, y = make(5, n=n, p=p)
        problem = CompositeProblem(GLMProblem(X, y, l2=0.7), L1(0.0))
        expected = np.linalg.solve(X.T @ X + 0.7 * np.eye(p), X.T @ y)
        np.testing.assert_allclose(engine.point(problem, run(problem)), expected, atol=1e-9)


@pytest.mark.parametrize("intercept", [False, True])
def test_free_and_forbidden_coefficients_are_those_of_a_conic_solver(intercept):
    cp = pytest.importorskip("cvxpy")
    X, y = make(6, n=25, p=30)
    weights = np.random.default_rng(7).random(30) + 0.2
    weights[[3, 8]], weights[[1, 5]] = 0.0, np.inf
    problem = CompositeProblem(GLMProblem(X, y, fit_intercept=intercept), WeightedL1(3.0, weights))
    result = SparseGLMSolver(tol=1e-10).solve(problem)
    w, b = cp.Variable(30), cp.Variable()
    rest = np.isfinite(weights)
    objective = 0.5 * cp.sum_squares(y - X @ w - (b if intercept else 0.0)) + 3.0 * cp.sum(
        cp.multiply(weights[rest], cp.abs(w[rest]))
    )
    cp.Problem(cp.Minimize(objective), [w[~rest] == 0]).solve(cp.CLARABEL)
    assert result.status is Status.CONVERGED
    assert (result.x[[1, 5]] == 0).all()
    assert (result.x[[3, 8]] != 0).all()
    np.testing.assert_allclose(result.x[:30], w.value, atol=1e-5)


def test_a_sample_of_weight_zero_does_not_count():
    X, y = make(8)
    s = np.ones(40)
    s[5:9] = 0.0
    for intercept in (False, True):
        smooth = GLMProblem(X, y, sample_weight=s, fit_intercept=intercept)
        other = GLMProblem(X[s > 0], y[s > 0], fit_intercept=intercept)
        x, z = (
            engine.point(p, run(p, tol=1e-12))
            for p in (CompositeProblem(smooth, L1(2.0)), CompositeProblem(other, L1(2.0)))
        )
        np.testing.assert_allclose(x, z, atol=1e-7)


# -- guarantees ------------------------------------------------------------------------------------


@pytest.mark.parametrize("penalty", [L1, NonNegative])
@pytest.mark.parametrize("factor", [2.0, 10.0, 100.0])
def test_newton_steps_end_at_the_exact_solution(penalty, factor):
    problem = lasso(9, factor, penalty, n=60, p=150)
    state = run(problem, tol=1e-12)
    assert problem.certificate(engine.point(problem, state)).residual <= 1e-12
    assert state.nit < 30


@pytest.mark.parametrize("working_set", [True, False])
@pytest.mark.parametrize("screening", ["gap_safe", "none"])
@pytest.mark.parametrize("acceleration", ["anderson", "none"])
@pytest.mark.parametrize("newton_phase", [True, False])
@pytest.mark.parametrize("gram", ["auto", "always", "never"])
def test_parameters_change_the_way_but_not_the_answer(
    working_set, screening, acceleration, newton_phase, gram
):
    parameters = {
        "working_set": working_set, "screening": screening, "acceleration": acceleration,
        "newton_phase": newton_phase, "gram": gram,
    }  # fmt: skip
    for density in (None, 0.2):
        problem = lasso(10, 8.0, density=density, fit_intercept=True)
        state = run(problem, **parameters)
        assert problem.certificate(engine.point(problem, state)).residual <= 1.5e-6
        if gram == "never" or not newton_phase:
            assert state.counts.get("newton", 0) == 0
        if gram == "never":
            assert state.counts.get("support_epochs", 0) == 0
        if screening == "none":
            assert state.active.size == 90


@pytest.mark.parametrize("density", [None, 0.3])
def test_what_is_discarded_is_zero_at_the_solution(density):
    problem = lasso(11, 3.0, density=density)
    exact = engine.point(problem, run(problem, tol=1e-12, screening="none"))
    solver = SparseGLMSolver(tol=1e-10, gram="never", acceleration="none")
    state = engine.init(solver, problem)
    while state.residual > solver.tol:
        state = engine.step(solver, problem, state)
        gone = np.setdiff1d(np.arange(90), state.active)
        np.testing.assert_array_equal(exact[gone], 0.0)
    assert gone.size > 40


def test_from_the_largest_weight_on_no_iteration_is_needed():
    for density in (None, 0.3):
        X, y = make(12, density=density)
        smooth = GLMProblem(X, y, fit_intercept=True)
        for factor in (1.0, 0.3):
            state = run(CompositeProblem(smooth, L1(largest(smooth) / factor * (1 + 1e-12))))
            assert state.nit == 0
            assert not state.w.any()


@pytest.mark.parametrize("unit", [1e-150, 1e-8, 1e8, 1e120])
def test_units_do_not_matter(unit):
    X, y = make(13)
    for a, b in ((1.0, unit), (min(unit, 1e60), 1.0)):
        smooth = GLMProblem(a * X, b * y, fit_intercept=True)
        problem = CompositeProblem(smooth, L1(a * b * 3.0))
        state = run(problem)
        first = run(CompositeProblem(GLMProblem(X, y, fit_intercept=True), L1(3.0)))
        np.testing.assert_allclose(state.w * (a / b), first.w, atol=1e-3)


def test_columns_far_from_zero_do_no_harm_where_there_is_an_intercept():
    X, y = make(14)
    problems = [
        CompositeProblem(GLMProblem(X + shift, y, fit_intercept=True), L1(4.0))
        for shift in (0.0, 1e6)
    ]
    x, z = (run(p, tol=1e-9).w for p in problems)
    np.testing.assert_allclose(x, z, atol=1e-5)


def test_constant_equal_and_empty_columns():
    X, y = make(15)
    X[:, 1] = X[:, 0]
    X[:, 2], X[:, 3] = 0.0, 7.3
    for A in (X, sp.csc_array(X)):
        problem = CompositeProblem(GLMProblem(A, y, fit_intercept=True), L1(1.0))
        state = run(problem, tol=1e-9)
        assert state.w[2] == state.w[3] == 0.0
        assert problem.certificate(engine.point(problem, state)).residual <= 1e-8


def test_targets_of_zero_and_a_single_sample():
    for X, y in ((np.ones((1, 3)), [2.0]), (np.eye(3), np.zeros(3)), (np.ones((4, 1)), np.ones(4))):
        for intercept in (False, True):
            problem = CompositeProblem(GLMProblem(X, y, fit_intercept=intercept), L1(0.5))
            state = run(problem)
            assert problem.certificate(engine.point(problem, state)).residual <= 1e-6


@pytest.mark.parametrize("density", [None, 0.3])
def test_single_precision_data_reach_the_tolerance(density):
    X, y = make(16, density=density)
    problem = CompositeProblem(GLMProblem(X.astype(np.float32), y, fit_intercept=True), L1(3.0))
    x = engine.point(problem, run(problem))
    assert x.dtype == np.float32
    assert problem.certificate(x).residual <= 1e-5
    exact = CompositeProblem(GLMProblem(X, y, fit_intercept=True), L1(3.0))
    np.testing.assert_allclose(x, engine.point(exact, run(exact)), atol=1e-3)


# -- states ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("density", [None, 0.3])
@pytest.mark.parametrize("tol", [1e-6, 1e-10])
def test_a_copied_state_goes_on_with_the_same_bits(density, tol):
    problem = lasso(17, 50.0, density=density, fit_intercept=True)
    solver = SparseGLMSolver(tol=tol, gram="always")
    state = engine.init(solver, problem)
    for _ in range(2):
        state = engine.step(solver, problem, state)
    other = copy.deepcopy(state)
    assert other.cache is None
    for _ in range(2):
        state, other = (engine.step(solver, problem, s) for s in (state, other))
    np.testing.assert_array_equal(state.w, other.w)
    assert state.residual == other.residual


@pytest.mark.parametrize("density", [None, 0.3])
@pytest.mark.parametrize("tol", [1e-6, 1e-10])
def test_every_point_of_a_path_is_a_solution_and_needs_less_work(density, tol):
    X, y = make(18, n=60, p=200, density=density)
    smooth = GLMProblem(X, y, fit_intercept=True)
    solver, previous, iterations, alone = SparseGLMSolver(tol=tol), None, 0, 0
    for lam in largest(smooth) * np.geomspace(1.0, 0.02, 12):
        problem = CompositeProblem(smooth, L1(lam))
        state = engine.init(solver, problem, None, previous)
        while state.residual > tol:
            state = engine.step(solver, problem, state)
        assert problem.certificate(engine.point(problem, state)).residual <= 2 * tol
        iterations += state.nit
        alone += run(problem, tol=tol).nit
        previous = state
    assert iterations < alone


def test_a_path_may_change_the_kind_of_penalty():
    X, y = make(19)
    smooth = GLMProblem(X, y)
    weights = np.ones(90)
    weights[4], weights[7] = 0.0, np.inf
    solver, previous = SparseGLMSolver(), None
    for penalty in (
        L1(2.0), NonNegative(1.0), ElasticNet(2.0, 0.5), WeightedL1(2.0, weights), L1(5.0),
    ):  # fmt: skip
        problem = CompositeProblem(smooth, penalty)
        state = engine.init(solver, problem, None, previous)
        while state.residual > 1e-6:
            state = engine.step(solver, problem, state)
        assert problem.certificate(engine.point(problem, state)).residual <= 1e-5
        previous = state


def test_a_start_at_the_solution_needs_no_iteration():
    problem = lasso(20, fit_intercept=True)
    x = engine.point(problem, run(problem, tol=1e-9))
    assert engine.init(SparseGLMSolver(), problem, x).residual <= 1e-6


def test_more_columns_than_may_be_kept_are_solved_for_without_products(monkeypatch):
    from lowrank_opt.block_coordinate import squared_newton

    monkeypatch.setattr(squared_newton, "_COLUMNS", 10)
    for density in (None, 0.3):
        problem = lasso(21, 50.0, density=density)
        state = run(problem, gram="always")
        assert np.count_nonzero(state.w) > 10
        assert problem.certificate(engine.point(problem, state)).residual <= 2e-6


def test_the_way_to_a_solution_imports_neither_scikit_learn_nor_a_conic_solver():
    code = (
        "import sys, numpy as np\n"
        "from lowrank_opt.block_coordinate import CompositeProblem, GLMProblem, SparseGLMSolver\n"
        "from lowrank_opt.numerics import L1\n"
        "SparseGLMSolver().solve(CompositeProblem(GLMProblem(np.eye(3), [3., 2., 1.]), L1(1.)))\n"
        "print([m for m in ('sklearn', 'cvxpy', 'matplotlib') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


# -- kernels ---------------------------------------------------------------------------------------


def arrays(seed, dtype, weighted, intercept):
    """A design in both forms, and what the kernels take with it."""
    rng = np.random.default_rng(seed)
    X = np.asfortranarray((rng.standard_normal((31, 17)) * (rng.random((31, 17)) < 0.7)), dtype)
    X[:, 4] = 0.0
    s = rng.random(31) if weighted else NONE
    full = s if weighted else np.ones(31)
    A, means, squares = reference.centred(X.astype(float), full)
    if not intercept:
        A, means, squares = X.astype(float), NONE, full @ X.astype(float) ** 2
    y = rng.standard_normal(31)
    u = full * (y - (full @ y / full.sum() if intercept else 0.0))
    C = sp.csc_array(X)
    parts = (C.data, C.indices.astype(np.int32), C.indptr.astype(np.int32))
    return X, parts, s, full, A, means, squares, u


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("intercept", [False, True])
def test_kernels_on_designs_do_what_their_twins_do(dtype, weighted, intercept):
    X, parts, s, full, A, means, squares, u = arrays(22, dtype, weighted, intercept)
    total, active = float(full.sum()), np.arange(16)
    rng = np.random.default_rng(23)
    w = rng.standard_normal(17) * (rng.random(17) < 0.5)
    w[4] = 0.0
    raw = full @ X.astype(float) ** 2
    for setup, data in ((kernels.setup_dense, (X,)), (kernels.setup_csc, parts)):
        out = np.empty((4, 17))
        if intercept:
            setup(*data, u, s, total, *out)
            expected = [raw, means, squares, A.T @ u]
            np.testing.assert_allclose(out, expected, rtol=1e-12, atol=1e-12)
        else:
            setup(*data, u, s, total, out[0], NONE, NONE, out[3])
            np.testing.assert_allclose(out[::3], [raw, A.T @ u], rtol=1e-12, atol=1e-12)
    limits = rng.random(17) * 2
    for positive in (False, True):
        at = np.abs(w) if positive else w
        start = u - full * (A @ at)
        W = np.array([3, 0, 4, 11, 16, 7])
        expected = reference.coordinate_descent(
            A, full, start, at, W, limits, 0.3, positive, sweeps=3
        )
        for sparse in (False, True):
            c, v, x = np.full(17, 5.0), start.copy(), at.copy()
            history = np.empty((3, W.size))
            rest = (x, squares, W, W.size, 1.0, limits, 0.3, positive, 3, history)
            if sparse:
                kernels.pass_csc(*parts, start, active, 8, at, 0.3, c)
                kernels.sweep_csc(*parts, v, s, means, total, *rest)
            else:
                kernels.pass_dense(X, start, means, active, 8, at, 0.3, c)
                kernels.sweep_dense(X, v, s, means, *rest)
            np.testing.assert_allclose(c[:8], (A.T @ start - 0.3 * at)[:8], atol=1e-12)
            np.testing.assert_array_equal(c[8:], 5.0)
            if sparse:  # all columns, which are read without looking at the list
                kernels.pass_csc(*parts, start, np.arange(17), 17, at, 0.3, c)
                np.testing.assert_allclose(c, A.T @ start - 0.3 * at, atol=1e-12)
            np.testing.assert_allclose(v, expected[0], atol=1e-12)
            np.testing.assert_allclose(x, expected[1], atol=1e-12)
            np.testing.assert_allclose(history[2], expected[1][W], atol=1e-12)
    S = np.array([2, 9, 5])
    for sparse in (False, True):
        out = u.copy()
        add = kernels.add_columns_csc if sparse else kernels.add_columns_dense
        add(*(parts if sparse else (X,)), s, means, S, np.array([1.0, 0.0, -2.0]), out)
        np.testing.assert_allclose(out, u + full * (A[:, 2] - 2 * A[:, 5]), atol=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("intercept", [False, True])
def test_products_of_columns_are_those_of_the_centred_matrix(dtype, weighted, intercept):
    X, parts, s, full, A, means, _, _ = arrays(24, dtype, weighted, intercept)
    columns = np.array([8, 1, 4, 13, 2])
    factors = np.array([1.0, 2.0, 0.5, 3.0, 1.0])
    B = A[:, columns] * factors
    expected = B.T @ (full[:, None] * B)
    rows = (np.empty(32, np.int64), np.empty(5 * 31, np.int32), np.empty(5 * 31))
    G = np.zeros((7, 7), order="F")
    for first in (0, 3):
        part = columns[: 3 if first == 0 else 5]
        kernels.rows_of_csc(*parts, part, *rows)
        kernels.gram_csc(*parts, s, means, float(full.sum()), part, factors, first, *rows, G)
    np.testing.assert_allclose(G[:5, :5], expected, atol=1e-5 if dtype == np.float32 else 1e-12)
    Z = np.zeros((31, 6), order="F")
    kernels.cast_columns(X, np.sqrt(s), means, columns, factors, Z, 1)
    np.testing.assert_allclose(Z[:, 1:], np.sqrt(full)[:, None] * B, atol=1e-12)
    out = np.empty((2, 2), order="F")
    kernels.gather(G, np.array([1, 4]), out)
    np.testing.assert_array_equal(out, G[np.ix_([1, 4], [1, 4])])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("positive", [False, True])
def test_descent_on_products_does_what_its_twin_does(dtype, positive):
    rng = np.random.default_rng(25)
    B = rng.standard_normal((20, 9))
    G, q = np.asfortranarray(B.T @ B), B.T @ rng.standard_normal(20)
    limits, w, ridge = np.full(9, 0.8), np.zeros(9), np.full(9, 0.2)
    expected = reference.gram_descent(G, q, w, limits, 0.2, positive, sweeps=4)
    left = q.astype(dtype)
    done = kernels.gram_sweeps(G.astype(dtype), left, w, limits, ridge, positive, 4, 9, 0.0)
    assert done == 4
    tolerance = 1e-5 if dtype == np.float32 else 1e-12
    np.testing.assert_allclose(w, expected[1], atol=tolerance)
    np.testing.assert_allclose(left, expected[0], atol=10 * tolerance)


@pytest.mark.parametrize("positive", [False, True])
@pytest.mark.parametrize("mu", [0.0, 0.4])
def test_gaps_and_screening_do_what_their_twins_do(positive, mu):
    rng = np.random.default_rng(26)
    c, norms, limits = rng.standard_normal(50), rng.random(50) + 0.5, rng.random(50) + 0.1
    w = rng.standard_normal(50) * (rng.random(50) < 0.3)
    w = np.abs(w) if positive else w
    active = np.arange(50)
    found = kernels.measure(c, w, 1.0, limits, mu, positive, active, 50)
    np.testing.assert_allclose(found, reference.gap_terms(c, w, limits, mu, positive), atol=1e-12)
    stay, near = reference.screened(c, w, norms, limits, positive, 0.4, 0.1, 0.5)
    W, priority = np.empty(50, np.int64), np.empty(50)
    left, listed, support = kernels.select(
        c, w, norms, 1.0, limits, positive, 0.4, 0.1, 0.5, active, 50, W, priority
    )
    assert support == np.count_nonzero(w)
    np.testing.assert_array_equal(active[:left], stay)
    np.testing.assert_array_equal(W[:listed], near)


def test_the_line_search_finds_the_minimum_between_kinks():
    rng = np.random.default_rng(27)
    zeros = 0
    for _ in range(200):
        w, d = rng.standard_normal(6), 2 * rng.standard_normal(6)
        limits, curvature = rng.random(6), rng.random() * 5 + 0.1
        slope = -rng.random() * 3
        expected = reference.line_minimum(w, d, limits, slope, curvature)
        t, zero = kernels.line_search(w, d, limits, False, slope, curvature)
        assert t == pytest.approx(expected, abs=1e-9)
        if zero >= 0:
            zeros += 1
            assert w[zero] + t * d[zero] == pytest.approx(0.0, abs=1e-12)
    assert zeros > 5
