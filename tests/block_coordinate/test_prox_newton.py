"""Proximal Newton engine: other solvers, optimality conditions, options, kernels against twins."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import scipy.sparse as sp

from lowrank_opt.block_coordinate import CompositeProblem, GLMProblem, SparseGLMSolver
from lowrank_opt.block_coordinate import kernels_prox_newton as kernels
from lowrank_opt.block_coordinate import reference_prox_newton as reference
from lowrank_opt.block_coordinate.losses import Huber, Logistic, Poisson
from lowrank_opt.block_coordinate.newton_models import Design
from lowrank_opt.core.state import Status
from lowrank_opt.numerics import L1, ElasticNet, NonNegative, WeightedL1

LOSSES = ["logistic", "huber", "poisson"]


def data(loss, n=80, p=40, seed=0, density=1.0, noise=1.0):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, p)) * (rng.random((n, p)) < density)
    w = np.zeros(p)
    w[:5] = 0.7 * rng.choice([-1.0, 1.0], 5)
    z = X @ w + 0.3
    if loss == "logistic":
        y = np.where(z + noise * rng.standard_normal(n) > 0, 1.0, -1.0)
    elif loss == "poisson":
        y = rng.poisson(np.exp(z)).astype(float)
    else:
        y = z + noise * rng.standard_t(2, n)
    return X, y


def problem_of(loss, part=0.1, *, penalty=None, sparse=False, **keywords):
    X, y = data(loss, density=0.3 if sparse else 1.0)
    smooth = GLMProblem(sp.csc_array(X) if sparse else X, y, loss, **keywords)
    return CompositeProblem(smooth, penalty or L1(part * smooth.null_gradient))


def solve(problem, tol=1e-10, **options):
    result = SparseGLMSolver(tol=tol, max_iter=200, **options).solve(problem)
    assert result.status is Status.CONVERGED, result.message
    return result


def violation(problem, x):
    """Largest distance to the subdifferential, from the definition."""
    flat = np.asarray(x, float)
    smooth = problem.smooth
    s = np.ones(smooth.n_samples) if smooth.sample_weight is None else smooth.sample_weight
    w, b = flat[: smooth.n_features], flat[smooth.n_features :]
    z = smooth.X @ w + (b[0] if b.size else 0.0)
    y = smooth.y
    if isinstance(smooth.loss, Logistic):
        slope = -y / (1.0 + np.exp(y * z))
    elif isinstance(smooth.loss, Poisson):
        slope = np.exp(z) - y
    else:
        slope = np.clip(z - y, -smooth.loss.delta, smooth.loss.delta)
    g = smooth.X.T @ (s * slope)
    form = problem.l1_form()
    limits = np.full(w.size, form.lam)
    if form.weights is not None:
        limits = np.where(form.weights == 0, 0.0, form.lam * form.weights)
    u = g + form.mu * w
    off = (-u if form.positive else np.abs(u)) - limits
    distance = np.where(w != 0, np.abs(u + np.where(np.isinf(limits), 0, limits) * np.sign(w)), off)
    worst = max(float(distance.max()), 0.0)
    return max(worst, abs(float((s * slope).sum()))) if b.size else worst


# -- answers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("intercept", [False, True])
@pytest.mark.parametrize("loss", LOSSES)
def test_the_optimum_is_that_of_an_interior_point_method(loss, intercept):
    cp = pytest.importorskip("cvxpy")
    X, y = data(loss, n=40, p=12)
    problem = CompositeProblem(GLMProblem(X, y, loss, fit_intercept=intercept), L1(2.0))
    w, b = cp.Variable(12), cp.Variable()
    z = X @ w + (b if intercept else 0.0)
    value = {
        "logistic": lambda: cp.sum(cp.logistic(cp.multiply(-y, z))),
        "huber": lambda: 0.5 * cp.sum(cp.huber(z - y, 1.35)),
        "poisson": lambda: cp.sum(cp.exp(z) - cp.multiply(y, z)),
    }[loss]()
    best = cp.Problem(cp.Minimize(value + 2.0 * cp.norm1(w))).solve(solver=cp.CLARABEL)
    result = solve(problem)
    assert result.fun == pytest.approx(best, rel=1e-7)
    np.testing.assert_allclose(result.x[:12], w.value, atol=1e-4)


def test_logistic_coefficients_are_those_of_scikit_learn():
    from sklearn.linear_model import LogisticRegression

    X, y = data("logistic", n=200, p=30)
    theirs = LogisticRegression(C=0.2, l1_ratio=1, solver="saga", tol=1e-10, max_iter=20000)
    theirs.fit(X, y)
    ours = solve(CompositeProblem(GLMProblem(X, y, "logistic", fit_intercept=True), L1(5.0)))
    np.testing.assert_allclose(ours.x[:-1], theirs.coef_[0], atol=1e-6)
    assert ours.x[-1] == pytest.approx(theirs.intercept_[0], abs=1e-6)


def test_a_ridge_term_alone_gives_the_poisson_regression_of_scikit_learn():
    from sklearn.linear_model import PoissonRegressor

    X, y = data("poisson", n=200, p=10)
    theirs = PoissonRegressor(alpha=0.1, tol=1e-10, max_iter=1000).fit(X, y)
    smooth = GLMProblem(X, y, "poisson", fit_intercept=True, l2=200 * 0.1)
    ours = solve(CompositeProblem(smooth, L1(0.0)), tol=1e-12)
    np.testing.assert_allclose(ours.x, [*theirs.coef_, theirs.intercept_], atol=1e-6)


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("intercept", [False, True])
@pytest.mark.parametrize("loss", LOSSES)
def test_optimality_conditions_hold_for_every_penalty(loss, intercept, sparse):
    weights = np.ones(40)
    weights[:2], weights[2:4] = 0.0, np.inf
    smooth = problem_of(loss, sparse=sparse, fit_intercept=intercept).smooth
    top = smooth.null_gradient
    for penalty in (
        L1(top / 10), L1(top / 100), ElasticNet(top / 10, 0.5), ElasticNet(top / 10, 0.0),
        NonNegative(top / 20), WeightedL1(top / 10, weights), L1(0.0),
    ):  # fmt: skip
        problem = CompositeProblem(smooth, penalty)
        if isinstance(penalty, L1) and penalty.alpha == 0 and loss == "logistic":
            continue  # these data may be separable
        x = solve(problem, tol=1e-12 if problem.measure == "gap" else 1e-8).x
        assert violation(problem, x) <= 2e-5 * top, penalty
        if isinstance(penalty, WeightedL1):
            assert not x[2:4].any()
        if isinstance(penalty, NonNegative):
            assert x[:40].min() >= 0


@pytest.mark.parametrize("loss", LOSSES)
def test_weights_are_repetitions_of_samples(loss):
    X, y = data(loss)
    s = np.random.default_rng(1).integers(0, 3, y.size)
    weighted = GLMProblem(X, y, loss, sample_weight=s, fit_intercept=True)
    repeated = GLMProblem(np.repeat(X, s, axis=0), np.repeat(y, s), loss, fit_intercept=True)
    a, b = (solve(CompositeProblem(m, L1(1.5)), tol=1e-12) for m in (weighted, repeated))
    np.testing.assert_allclose(a.x, b.x, atol=1e-6)
    assert a.fun == pytest.approx(b.fun, rel=1e-10)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("intercept", [False, True])
def test_a_large_penalty_needs_no_iteration(loss, intercept):
    problem = problem_of(loss, 1.0 + 1e-12, fit_intercept=intercept)
    result = solve(problem)
    assert result.nit == 0
    assert not result.x[:40].any()
    smaller = problem_of(loss, 0.98, fit_intercept=intercept)
    assert np.count_nonzero(solve(smaller).x[:40]) >= 1


def test_one_feature_has_the_optimum_of_a_scalar_equation():
    # Three labels 1, one -1, all at x = 1: 4 s(w) = 3 - lam, where s is the logistic function.
    X, y = np.ones((4, 1)), np.array([1.0, 1.0, 1.0, -1.0])
    x = solve(CompositeProblem(GLMProblem(X, y, "logistic"), L1(0.5)), tol=1e-13).x
    assert x[0] == pytest.approx(np.log((3 - 0.5) / (1 + 0.5)), abs=1e-6)


# -- hard cases ------------------------------------------------------------------------------------


def test_separable_data_end_with_a_small_gradient():
    X, _ = data("logistic")
    y = np.where(X[:, 0] + 0.5 * X[:, 1] > 0, 1.0, -1.0)
    problem = CompositeProblem(GLMProblem(X, y, "logistic", fit_intercept=True), L1(0.0))
    result = solve(problem, tol=1e-6)
    assert (np.sign(problem.smooth.predictor(result.x)) == y).all()


@pytest.mark.parametrize("factor", [1e-30, 1e-9, 1e9, 1e30])
def test_the_scale_of_the_design_does_not_matter(factor):
    X, y = data("logistic")
    expected = solve(CompositeProblem(GLMProblem(X, y, "logistic"), L1(1.0))).x
    x = solve(CompositeProblem(GLMProblem(factor * X, y, "logistic"), L1(factor))).x
    np.testing.assert_allclose(factor * x, expected, atol=1e-4)


@pytest.mark.parametrize("sparse", [False, True])
def test_columns_far_from_the_origin_are_as_good_as_centred_ones(sparse):
    X, y = data("logistic")
    make = sp.csc_array if sparse else np.asarray
    a, b = (
        solve(
            CompositeProblem(GLMProblem(make(Z), y, "logistic", fit_intercept=True), L1(2.0)), tol
        )
        for Z, tol in ((X, 1e-12), (X + 1e3, 1e-9))
    )
    np.testing.assert_allclose(a.x[:-1], b.x[:-1], atol=1e-3)
    assert b.nit <= 12


@pytest.mark.parametrize("delta", [1e-3, 1e-1, 10.0, 1e6])
def test_huber_serves_narrow_and_wide_losses(delta):
    X, y = data("huber")
    smooth = GLMProblem(X, y, Huber(delta), fit_intercept=True)
    result = solve(CompositeProblem(smooth, L1(0.05 * smooth.null_gradient)), tol=1e-8)
    if delta == 1e6:
        squared = GLMProblem(X, y, fit_intercept=True)
        other = solve(CompositeProblem(squared, L1(0.05 * squared.null_gradient)), tol=1e-10)
        np.testing.assert_allclose(result.x, other.x, atol=1e-3)


def test_useless_columns_stay_out_and_equal_ones_do_no_harm():
    X, y = data("logistic")
    X[:, 3], X[:, 4], X[:, 6] = 0.0, X[:, 5], 1.0
    problem = CompositeProblem(GLMProblem(X, y, "logistic", fit_intercept=True), L1(0.5))
    x = solve(problem).x
    assert x[3] == 0.0
    assert x[6] == 0.0
    assert violation(problem, x) <= 1e-3


def test_counts_of_a_million_do_not_overflow():
    X, y = data("poisson")
    smooth = GLMProblem(X, 1e6 * y, "poisson")
    solve(CompositeProblem(smooth, L1(0.05 * smooth.null_gradient)))


@pytest.mark.parametrize("sparse", [False, True])
def test_single_precision_designs_are_solved_to_their_rounding(sparse):
    X, y = data("logistic", density=0.3)
    Z = (sp.csc_array if sparse else np.asarray)(X.astype(np.float32))
    result = solve(CompositeProblem(GLMProblem(Z, y, "logistic"), L1(1.0)), tol=1e-6)
    assert result.x.dtype == np.float32
    expected = solve(CompositeProblem(GLMProblem(X, y, "logistic"), L1(1.0)))
    np.testing.assert_allclose(result.x, expected.x, atol=2e-3)


# -- the run ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"working_set": False}, {"screening": "none"}, {"acceleration": "none"},
        {"newton_phase": False}, {"gram": "always"}, {"gram": "never"},
        {"gram": "never", "acceleration": "none", "newton_phase": False},
    ],
    ids=str,
)  # fmt: skip
def test_options_change_the_way_not_the_answer(options):
    for sparse in (False, True):
        problem = problem_of("logistic", 0.02, sparse=sparse, fit_intercept=True)
        expected, result = solve(problem, tol=1e-12), solve(problem, tol=1e-12, **options)
        np.testing.assert_allclose(result.x, expected.x, atol=1e-5)
        if "newton_phase" in options:
            assert not result.counts.get("factorizations")
        if options.get("gram") == "never":
            assert not result.counts.get("gram_sweeps")
        if options.get("gram") == "always" and sparse:
            assert not result.counts.get("epochs")


def test_screening_discards_columns_that_are_0_at_the_optimum():
    problem = problem_of("logistic", 0.3)
    solver = SparseGLMSolver(tol=1e-9)
    state = solver.init(problem)
    while solver.terminate(problem, state) is None:
        state = solver.step(problem, state)
    optimum = solve(problem, tol=1e-13, screening="none").x
    assert state.alive.size < 20
    assert not np.delete(optimum, state.alive).any()
    without = SparseGLMSolver(tol=1e-9, screening="none")
    assert without.solve(problem).state.alive.size == 40
    counts = problem_of("poisson", 0.3)
    assert SparseGLMSolver(tol=1e-9).solve(counts).state.alive.size == 40


def test_the_objective_falls_and_residuals_are_those_of_the_certificate():
    for loss in LOSSES:
        problem = problem_of(loss, 0.02, fit_intercept=True)
        solver = SparseGLMSolver(tol=1e-10)
        state = solver.init(problem)
        before = np.inf
        while solver.terminate(problem, state) is None:
            x = solver.point(problem, state)
            assert state.objective == pytest.approx(problem.objective(x), rel=1e-12)
            certificate = problem.certificate(x)
            # Both are gaps; the certificate moves the intercept further.
            assert certificate.residual <= 1.1 * state.residual + 1e-12
            assert state.objective <= before + 1e-12 * abs(before) if before < np.inf else True
            before = state.objective
            state = solver.step(problem, state)


@pytest.mark.parametrize("sparse", [False, True])
def test_a_copied_state_goes_on_with_the_same_bits(sparse):
    for loss in LOSSES:
        problem = problem_of(loss, 0.02, sparse=sparse, fit_intercept=True)
        solver = SparseGLMSolver(tol=1e-11)
        state = solver.init(problem)
        for _ in range(2):
            state = solver.step(problem, state)
        other = copy.deepcopy(state)
        for _ in range(3):
            state, other = solver.step(problem, state), solver.step(problem, other)
        np.testing.assert_array_equal(state.w, other.w)
        assert (state.b, state.residual) == (other.b, other.residual)


def test_a_start_at_the_answer_needs_no_iteration():
    for loss in LOSSES:
        problem = problem_of(loss, 0.1, fit_intercept=True)
        x = solve(problem, tol=1e-10).x
        assert SparseGLMSolver(tol=1e-9).solve(problem, x0=x).nit == 0


@pytest.mark.parametrize("loss", LOSSES)
def test_paths_give_the_answers_of_single_runs(loss):
    base = problem_of(loss, 0.5, fit_intercept=True)
    solver = SparseGLMSolver(tol=1e-10)
    state = None
    for part in (0.5, 0.2, 0.05, 0.2):
        problem = base.with_penalty(L1(part * base.smooth.null_gradient))
        state = solver.init(problem) if state is None else solver.follow(problem, state)
        while solver.terminate(problem, state) is None:
            state = solver.step(problem, state)
        expected = solve(problem, tol=1e-12)
        assert problem.objective(solver.point(problem, state)) == pytest.approx(
            expected.fun, rel=1e-9
        )


# -- kernels against twins -------------------------------------------------------------------------


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("loss", [Logistic(), Huber(0.7), Poisson()], ids=LOSSES)
def test_sums_over_samples(loss, weighted):
    rng = np.random.default_rng(0)
    _, y = data(type(loss).__name__.lower())
    n = y.size
    s = rng.integers(0, 3, n).astype(float) if weighted else np.empty(0)
    z, step, out, g, h = rng.standard_normal((5, n))
    total, slopes, curvatures = kernels.sample_terms(loss, y, s, z, step, 0.5, out, g, h)
    twin = reference.sample_terms(loss, y, s, z + 0.5 * step)
    np.testing.assert_allclose([total, slopes, curvatures], [twin[0], twin[1].sum(), twin[2].sum()])
    np.testing.assert_allclose(g, twin[1], rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(h, twin[2], rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(
        kernels.shift_sums(loss, y, s, z, 0.3), reference.shift_sums(loss, y, s, z, 0.3)
    )
    theta = np.empty(n)
    kernels.balance(g, theta)
    np.testing.assert_allclose(theta, reference.balance(g), rtol=1e-12)
    assert theta.sum() == pytest.approx(0.0, abs=1e-12 * np.abs(theta).sum())
    np.testing.assert_allclose(
        kernels.dual_value(loss, y, s, theta, 0.9), reference.dual_value(loss, y, s, theta, 0.9)
    )
    kernels.huber_curvature(y, s, z, 0.7, 0.1, h)
    np.testing.assert_allclose(h, reference.huber_curvature(y, s, z, 0.7, 0.1))


@pytest.mark.parametrize("positive", [False, True])
def test_loops_over_coefficients(positive):
    rng = np.random.default_rng(1)
    p = 30
    c, w = rng.standard_normal(p), rng.standard_normal(p) * (rng.random(p) < 0.3)
    w = np.abs(w) if positive else w
    squares, limits = rng.random(p) + 0.1, rng.random(p) * (rng.random(p) < 0.8)
    alive = np.arange(p)
    np.testing.assert_allclose(
        kernels.scan(c, w, limits, 0.2, positive, alive),
        reference.scan(c, w, limits, 0.2, positive),
    )
    some = np.flatnonzero(rng.random(p) < 0.7)
    expected = reference.screen(c, w, squares, limits, 0.8, 0.1, positive, some)
    kept = some.copy()
    np.testing.assert_array_equal(
        kept[: kernels.screen(c, w, squares, limits, 0.8, 0.1, positive, kept)], expected
    )
    chosen, priority = np.empty(p, np.int64), np.empty(p)
    count = kernels.select(c, w, squares, limits, 0.8, 0.5, positive, some, chosen, priority)
    twin = reference.select(c, w, squares, limits, 0.8, 0.5, positive, some)
    np.testing.assert_array_equal(chosen[:count], twin[0])
    np.testing.assert_allclose(priority[:count], twin[1])
    d = rng.standard_normal(p)
    np.testing.assert_allclose(
        kernels.penalty_along(alive, w, d, limits, 0.2, 0.5),
        reference.penalty_along(w, d, limits, 0.2, 0.5),
    )
    above = np.maximum(0.8 * (-c if positive else np.abs(c)) - limits, 0.0)
    np.testing.assert_allclose(
        kernels.ridge_conjugate(c, limits, 0.8, positive, alive), above @ above
    )


@pytest.mark.parametrize("centre", [False, True])
@pytest.mark.parametrize("positive", [False, True])
def test_sweeps_and_products_of_dense_and_sparse_columns(centre, positive):
    rng = np.random.default_rng(2)
    X, _ = data("logistic", n=50, p=20, density=0.4)
    W = np.sort(rng.choice(20, 12, replace=False))
    h, c, x = rng.random(50), rng.standard_normal(12), rng.random(12)
    limits = 0.5 * rng.random(12)
    root, mu = np.sqrt(h), 0.1
    total = float(h.sum()) if centre else 0.0
    expected = reference.sweep(X[:, W], c, x, limits, mu, positive, h, np.zeros(50), centre)
    H, means = np.full(12, -1.0), np.zeros(12)
    F, sparse = np.asfortranarray(X), sp.csc_array(X)
    arrays = sparse.data, sparse.indices, sparse.indptr
    entries = sparse[:, W].nnz
    compact = np.empty(entries), np.empty(entries, np.int32), np.empty(13, np.int64)
    H2, means2 = np.empty(12), np.empty(12)
    kernels.compact_csc(*arrays, W, root, total, mu, *compact, H2, means2)
    if centre:
        kernels.centre_dense(F, W, root, total, mu, H, means)
    twin = reference.gram(X[:, W], h, mu, centre)
    for columns, kernel, curvature, mean in (
        ((F, W), kernels.sweeps_dense, H, means), (compact, kernels.sweeps_csc, H2, means2),
    ):  # fmt: skip
        new, u = x.copy(), np.zeros(50)
        sums, *_ = kernel(
            *columns, c, new, curvature, mean, limits, mu, positive, root, u, total, 0.0, 1, 0.0
        )
        np.testing.assert_allclose(new, expected[0], rtol=1e-11, atol=1e-13)
        np.testing.assert_allclose(u, expected[1], rtol=1e-10, atol=1e-12)
        if centre:
            assert sums == pytest.approx(root @ u, rel=1e-10)
        np.testing.assert_allclose(curvature, twin[1], rtol=1e-11)
        np.testing.assert_allclose(mean, twin[2], atol=1e-13)
    for design in (Design(F), Design(sparse)):
        G, diagonal, _ = design.gram(W, h, total, mu, (H2, means2), np.float64)
        np.testing.assert_allclose(diagonal, twin[1], rtol=1e-11)
        np.testing.assert_allclose(G, twin[0], rtol=1e-9, atol=1e-12)
        step, d = np.empty(50), rng.standard_normal(12)
        design.expand(W, d, 0.3, step)
        np.testing.assert_allclose(step, X[:, W] @ d + 0.3, atol=1e-12)
        out = np.zeros(20)
        design.correlate(h, W, out)
        np.testing.assert_allclose(out[W], X[:, W].T @ h, atol=1e-12)
    q, v = np.empty(12), rng.standard_normal(50)
    kernels.model_gradient_dense(F, W, v, q)
    np.testing.assert_allclose(q, X[:, W].T @ v, atol=1e-12)
    kernels.model_gradient_csc(*compact, np.arange(12), v, q)
    np.testing.assert_allclose(q, X[:, W].T @ (root * v), atol=1e-12)
    assert kernels.row_work(sparse.indices, sparse.indptr, W, np.empty(50, np.int32)) == (
        reference.row_work(X[:, W])
    )


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("positive", [False, True])
def test_descent_in_gram_form(dtype, positive):
    rng = np.random.default_rng(3)
    G, _, _ = reference.gram(rng.standard_normal((30, 8)), np.ones(30), 0.0, False)
    q, x, limits = rng.standard_normal(8), rng.random(8), 0.3 * rng.random(8)
    expected = reference.gram_descent(G, q, x, limits, positive, 5)
    slope, new = q.astype(dtype), x.copy()
    kernels.gram_descent(G.astype(dtype), slope, new, limits, positive, 5, 9, 0.0)
    accuracy = 1e-5 if dtype == np.float32 else 1e-12
    np.testing.assert_allclose(new, expected[1], atol=accuracy)
    np.testing.assert_allclose(slope, expected[0], atol=accuracy)


def test_what_is_known_of_the_null_model_saves_the_first_look_at_the_design():
    X, y = data("logistic")
    known = GLMProblem(X, y, "logistic", fit_intercept=True)
    alpha = 0.1 * known.null_gradient
    fresh = GLMProblem(X, y, "logistic", fit_intercept=True)
    first, second = (solve(CompositeProblem(smooth, L1(alpha))) for smooth in (known, fresh))
    assert first.counts["passes"] == second.counts["passes"] - 1
    np.testing.assert_allclose(first.x, second.x, atol=1e-6)
    assert violation(CompositeProblem(known, L1(alpha)), first.x) <= 1e-3 * alpha


def test_small_working_sets_of_tall_designs_get_several_steps_before_a_look_at_all():
    X, y = data("logistic", n=400, p=60)
    tall = GLMProblem(X, y, "logistic", fit_intercept=True)
    dense, sparse = (
        solve(CompositeProblem(smooth, L1(0.3 * tall.null_gradient)))
        for smooth in (tall, GLMProblem(sp.csc_array(X), y, "logistic", fit_intercept=True))
    )
    assert dense.counts["newton"] > dense.nit and sparse.counts["newton"] <= sparse.nit
    np.testing.assert_allclose(dense.x, sparse.x, atol=1e-5)
