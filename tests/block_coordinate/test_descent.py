"""Block coordinate descent as a whole: what theory, closed forms and other solvers say."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import scipy.sparse as sp
from scipy.optimize import minimize, nnls

from lowrank_opt.block_coordinate import (
    BlockCoordinateDescent,
    CompositeProblem,
    GLMProblem,
    QuadraticProblem,
    kernels_descent,
    reference_descent,
)
from lowrank_opt.block_coordinate.identification import (
    active_set,
    descent_identification,
    identification_radius,
    prox_gradient_identification,
)
from lowrank_opt.block_coordinate.losses import Huber, Logistic, Poisson, Squared
from lowrank_opt.core import ParameterError, Status
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
from lowrank_opt.testing import check_solver


def quadratic(seed=0, n=12):
    rng = np.random.default_rng(seed)
    M = rng.standard_normal((3 * n, n)) * np.exp(rng.uniform(-0.7, 0.7, n))
    return QuadraticProblem(M.T @ M, rng.standard_normal(n))


def chain(n=40, seed=0):
    """A sparse quadratic whose graph is a cycle with chords."""
    rng = np.random.default_rng(seed)
    rows, offsets = [-np.ones(n), -0.5 * np.ones(n)], [(1, 1 - n), (7, 7 - n)]
    W = sum(
        sp.diags_array([v[: n - abs(o)] for o in pair], offsets=pair, shape=(n, n))
        for v, pair in zip(rows, offsets, strict=True)
    )
    W = sp.csr_array(W + W.T)
    degrees = -np.asarray(W.sum(axis=1)).ravel()
    return QuadraticProblem(
        sp.csr_array(W + sp.diags_array(degrees + 0.2 + rng.random(n))), rng.standard_normal(n)
    )


def regression(seed=0, n=40, p=15, loss="squared", sparse=False, **options):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, p)) * np.exp(rng.uniform(-0.5, 0.5, p))
    if sparse:
        X[rng.random((n, p)) < 0.6] = 0.0
    z = X[:, :4] @ np.array([1.0, -2.0, 0.5, 1.0])[: min(4, p)]
    y = {
        "squared": z + 0.5 * rng.standard_normal(n),
        "huber": z + rng.standard_t(2, n),
        "logistic": np.sign(z + rng.standard_normal(n)),
        "poisson": rng.poisson(np.exp(np.clip(0.3 * z, -3, 3))).astype(float),
        "softmax": np.argmax(np.column_stack([z, -z, 0 * z]) + rng.gumbel(size=(n, 3)), axis=1),
    }[loss]
    return GLMProblem(sp.csc_array(X) if sparse else X, y, loss, **options)


def solve(problem, **options):
    result = BlockCoordinateDescent(**{"tol": 1e-10, "max_iter": 50_000, **options}).solve(problem)
    assert result.status is Status.CONVERGED, result.message
    return result


class TestTheory:
    @pytest.mark.parametrize("seed", range(3))
    def test_greedy_matrix_descent_has_the_rate_of_the_theorem(self, seed):
        # Fact 3, with the constant bounded below by the average over the blocks.
        problem, size = quadratic(seed), 3
        A = problem.A
        values, vectors = np.linalg.eigh(A)
        root = vectors * np.sqrt(values) @ vectors.T
        P = np.zeros_like(A)
        for first in range(0, 12, size):
            b = slice(first, first + size)
            P[b, b] = np.linalg.inv(A[b, b])
        mu = np.linalg.eigvalsh(root @ P @ root)[0] / (12 // size)
        best = problem.objective(np.linalg.solve(A, problem.b))
        solver = BlockCoordinateDescent(
            blocks="order", block_size=size, selection="gsq", update="matrix"
        )
        state = solver.init(problem, np.ones(12))
        start = problem.objective(state.x) - best
        for k in range(1, 60):
            solver.step(problem, state)
            assert problem.objective(state.x) - best <= (1 - mu) ** k * start + 1e-12

    def test_random_gradient_descent_has_the_rate_of_the_theorem_on_average(self):
        problem, n_seeds, n_steps = quadratic(1), 300, 20
        best = problem.objective(np.linalg.solve(problem.A, problem.b))
        gaps = np.zeros(n_seeds)
        for seed in range(n_seeds):
            solver = BlockCoordinateDescent(
                blocks="sort", block_size=4, selection="random", update="gradient",
                random_state=seed,
            )  # fmt: skip
            state = solver.init(problem, np.ones(12))
            top = state.cache.block_lipschitz.max()
            start = problem.objective(state.x) - best
            solver.step(problem, state, n_steps)
            gaps[seed] = (problem.objective(state.x) - best) / start
        rate = 1 - np.linalg.eigvalsh(problem.A)[0] / (3 * top)
        assert gaps.mean() <= rate**n_steps
        assert gaps.std() / np.sqrt(n_seeds) < 0.1 * rate**n_steps  # the average is not luck

    @pytest.mark.parametrize("update", ["matrix", "exact", "newton", "prox_newton"])
    def test_one_block_of_all_variables_is_one_solve(self, update):
        problem = quadratic()
        result = solve(problem, block_size="all", update=update)
        assert result.nit == 1
        expected = np.linalg.solve(problem.A, problem.b)
        np.testing.assert_allclose(result.x, expected, rtol=1e-9)

    def test_one_block_of_a_sparse_quadratic_is_one_sparse_solve(self):
        problem = chain(400)
        result = solve(problem, block_size="all")
        assert result.nit == 1
        expected = sp.linalg.spsolve(problem.A.tocsc(), problem.b)
        np.testing.assert_allclose(result.x, expected, rtol=1e-9)

    def test_newton_on_all_variables_is_damped_newton(self):
        problem = regression(loss="logistic", l2=0.5)
        x = np.zeros(15)
        solver = BlockCoordinateDescent(block_size="all", update="newton")
        state = solver.init(problem)
        for _ in range(4):
            work = problem.start(x)
            g = problem.gradient_at(work, x)
            H = problem.block_hessian(work, x, np.arange(15))
            x = x - np.linalg.solve(H, g)  # no damping is needed here
            solver.step(problem, state)
            np.testing.assert_allclose(state.x, x, rtol=1e-8, atol=1e-12)

    @pytest.mark.parametrize("make", [quadratic, chain])
    def test_cyclic_exact_updates_of_single_variables_are_gauss_seidel(self, make):
        problem = make()
        A = problem.A if isinstance(problem.A, np.ndarray) else problem.A.toarray()
        n = len(A)
        solver = BlockCoordinateDescent(block_size=1, selection="cyclic", update="exact")
        state = solver.init(problem, np.ones(n))
        x = np.ones(n)
        for _ in range(3):
            x = np.linalg.solve(np.tril(A), problem.b - np.triu(A, 1) @ x)
            solver.step(problem, state, n)
            np.testing.assert_allclose(state.x, x, rtol=1e-10)

    def test_gradient_updates_of_one_block_are_gradient_descent(self):
        problem = regression(loss="logistic")
        L = 0.25 * np.linalg.norm(problem.X, 2) ** 2
        solver = BlockCoordinateDescent(block_size="all", update="gradient")
        state = solver.init(problem)
        x = np.zeros(15)
        for _ in range(5):
            x = x - problem.gradient(x) / L
            solver.step(problem, state)
            np.testing.assert_allclose(state.x, x, rtol=1e-9)


RULES = [
    (selection, blocks, update)
    for selection in ("random", "lipschitz", "cyclic", "gs", "gsl", "gsd", "gsq")
    for blocks in ("order", "avg", "hsort")
    for update in ("gradient", "matrix", "lipschitz_search")
] + [
    (selection, "variable", update)
    for selection in ("random", "lipschitz", "cyclic", "gs", "gsl", "gsd", "gsq-iht", "gsq-omp")
    for update in ("gradient", "matrix", "newton", "cubic")
]


class TestSmoothProblems:
    @pytest.mark.parametrize(("selection", "blocks", "update"), RULES)
    def test_every_pair_of_rules_descends_to_the_minimum(self, selection, blocks, update):
        problem = regression(loss="logistic", p=8, l2=1.0)
        values = []
        result = BlockCoordinateDescent(
            selection=selection, blocks=blocks, update=update, block_size=3, tol=1e-7, check_every=1
        ).solve(problem, callback=lambda r: values.append(r.fun))
        assert result.success, result.message
        assert (np.diff(values) <= 1e-12 * values[0]).all()
        best = minimize(problem.objective, np.zeros(8), jac=problem.gradient, tol=1e-12)
        assert result.fun <= best.fun + 1e-9

    @pytest.mark.parametrize("refresh", [2, 5])
    @pytest.mark.parametrize("blocks", ["sort", "variable"])
    def test_a_greedy_refresh_converges(self, refresh, blocks):
        result = solve(
            quadratic(), selection="gsd", greedy_refresh=refresh, block_size=3, blocks=blocks
        )
        assert result.counts["gradients"] < result.nit

    @pytest.mark.parametrize("loss", ["squared", "logistic", "huber", "poisson"])
    @pytest.mark.parametrize("sparse", [False, True])
    def test_the_optimum_is_that_of_scipy_with_weights_and_intercept(self, loss, sparse):
        weights = np.random.default_rng(1).uniform(0, 2, 40)
        problem = regression(
            loss=loss, p=6, sparse=sparse, l2=0.3, sample_weight=weights, fit_intercept=True
        )
        best = minimize(
            problem.objective, np.zeros(7), jac=problem.gradient, method="BFGS",
            options={"gtol": 1e-9},
        )  # fmt: skip
        for options in ({}, {"block_size": 2, "update": "newton", "selection": "gs"}):
            result = solve(problem, **options)
            np.testing.assert_allclose(result.x, best.x, atol=1e-5)
            assert result.fun <= best.fun * (1 + 1e-12)

    def test_softmax_agrees_with_scikit_learn(self):
        from sklearn.linear_model import LogisticRegression

        problem = regression(loss="softmax", p=5, l2=0.5, fit_intercept=True)
        peer = LogisticRegression(C=2.0, tol=1e-10, max_iter=10000)
        peer.fit(problem.X, np.argmax(problem.y, axis=1))
        for options in (
            {},
            {"block_size": 4, "selection": "gs", "update": "newton"},
            {"block_size": 3, "selection": "cyclic", "update": "matrix", "blocks": "order"},
        ):
            x = solve(problem, tol=1e-8, **options).x
            np.testing.assert_allclose(x[:5].T, peer.coef_, atol=1e-4)
            centred = x[5] - x[5].mean()
            np.testing.assert_allclose(centred, peer.intercept_ - peer.intercept_.mean(), atol=1e-4)

    def test_several_outputs_are_regressions_side_by_side(self):
        rng = np.random.default_rng(0)
        X, Y = rng.standard_normal((30, 6)), rng.standard_normal((30, 3))
        expected = np.linalg.lstsq(X, Y)[0]
        for options in ({}, {"block_size": 1}, {"block_size": 4, "selection": "gsq-omp"}):
            x = solve(GLMProblem(X, Y), **options).x
            np.testing.assert_allclose(x, expected, rtol=1e-6)


class TestMessagePassing:
    @pytest.mark.parametrize(
        "blocks",
        ["forest", "color", "greedy_forest", "random_forest", "bounded_fill", "variable", "order"],
    )
    def test_all_blocks_lead_to_the_solution(self, blocks):
        problem = chain(60)
        result = solve(problem, blocks=blocks, block_size=4)
        expected = sp.linalg.spsolve(problem.A.tocsc(), problem.b)
        np.testing.assert_allclose(result.x, expected, rtol=1e-7)

    def test_a_tree_is_solved_by_one_update(self):
        n = 50
        A = sp.diags_array([-np.ones(n - 1), np.full(n, 2.1), -np.ones(n - 1)], offsets=(-1, 0, 1))
        problem = QuadraticProblem(sp.csr_array(A), np.arange(n) % 5 - 2.0)
        for blocks in ("greedy_forest", "random_forest", "forest"):
            result = solve(problem, blocks=blocks)
            assert result.nit == 1
            expected = np.linalg.solve(A.toarray(), problem.b)
            np.testing.assert_allclose(result.x, expected, rtol=1e-10)

    @pytest.mark.parametrize("blocks", ["color", "forest", "greedy_forest", "bounded_fill"])
    def test_blocks_of_the_graph_work_with_a_penalty(self, blocks):
        problem = CompositeProblem(chain(60), L1(0.3))
        expected = solve(problem, tol=1e-12).x
        np.testing.assert_allclose(solve(problem, blocks=blocks).x, expected, atol=1e-8)

    @pytest.mark.parametrize("update", ["auto", "prox_newton", "exact"])
    def test_variables_of_one_colour_are_minimised_each_by_itself(self, update):
        smooth = chain(60)
        problem = CompositeProblem(smooth, L1(0.3))
        solver = BlockCoordinateDescent(blocks="color", update=update)
        state = solver.init(problem, np.ones(60))
        b = state.cache.partition.blocks[0]
        solver.step(problem, state)
        diagonal = smooth.A.diagonal()[b]
        rest = smooth.b[b] - smooth.A[b] @ np.ones(60) + diagonal
        expected = np.sign(rest) * np.maximum(np.abs(rest) - 0.3, 0.0) / diagonal
        np.testing.assert_allclose(state.x[b], expected, atol=1e-12)

    def test_bounded_fill_lies_between_forests_and_all_variables(self):
        problem = chain(60)
        sizes = []
        for fill in (1, 3, 60):
            plan_state = BlockCoordinateDescent(blocks="bounded_fill", block_size=fill)
            state = plan_state.init(problem, np.ones(60))
            plan_state.step(problem, state)
            sizes.append(np.count_nonzero(state.x != 1.0))
            b = np.flatnonzero(state.x != 1.0)
            np.testing.assert_allclose(problem.gradient(state.x)[b], 0.0, atol=1e-9)
        assert sizes[0] < sizes[1] < sizes[2] == 60

    def test_greedy_trees_need_fewer_updates_than_colours(self):
        problem = chain(200)
        updates = {
            blocks: solve(problem, blocks=blocks).nit for blocks in ("greedy_forest", "color")
        }
        assert updates["greedy_forest"] < updates["color"]

    def test_an_exact_forest_update_is_the_dense_block_solve(self):
        problem = chain(60)
        solver = BlockCoordinateDescent(blocks="greedy_forest", update="exact")
        state = solver.init(problem, np.ones(60))
        before = state.x.copy()
        solver.step(problem, state)
        b = np.flatnonzero(state.x != before)
        g = problem.gradient(before)[b]
        step = -np.linalg.solve(problem.A.toarray()[np.ix_(b, b)], g)
        np.testing.assert_allclose(state.x[b] - before[b], step, rtol=1e-10)


class TestPenalties:
    def test_nonnegative_least_squares_is_that_of_scipy(self):
        for seed in range(3):
            smooth = regression(seed)
            expected, _ = nnls(smooth.X, smooth.y)
            problem = CompositeProblem(smooth, NonNegative())
            for options in (
                {"block_size": 5, "update": "tmp", "selection": "gs-s"},
                {"block_size": 1},
                {"block_size": 5, "blocks": "sort", "update": "prox_newton", "selection": "gsq-nn"},
            ):
                x = solve(problem, **options).x
                np.testing.assert_allclose(x, expected, atol=1e-8)
                np.testing.assert_array_equal(x == 0, expected == 0)

    def test_at_the_largest_penalty_the_lasso_is_exactly_zero(self):
        smooth = regression()
        top = np.abs(smooth.X.T @ smooth.y).max()
        for update in ("prox_gradient", "prox_newton", "tmp", "exact", "lipschitz_search"):
            solver = BlockCoordinateDescent(update=update, block_size=3, tol=1e-12)
            x = solver.solve(CompositeProblem(smooth, L1(top)), x0=np.ones(15)).x
            np.testing.assert_array_equal(x, 0.0)
            x = solver.solve(CompositeProblem(smooth, L1(0.99 * top)), x0=np.ones(15)).x
            assert np.count_nonzero(x) == 1

    def test_orthonormal_columns_are_soft_thresholded_in_one_pass(self):
        Q, _ = np.linalg.qr(np.random.default_rng(0).standard_normal((20, 6)))
        y = np.arange(20.0)
        problem = CompositeProblem(GLMProblem(Q, y), L1(2.0))
        result = solve(problem, selection="cyclic")
        assert result.nit <= 6
        c = Q.T @ y
        expected = np.sign(c) * np.maximum(np.abs(c) - 2.0, 0)
        np.testing.assert_allclose(result.x, expected, atol=1e-12)

    def test_duplicated_columns_have_the_same_objective(self):
        smooth = regression()
        twice = GLMProblem(np.hstack([smooth.X, smooth.X]), smooth.y)
        for update in ("prox_gradient", "tmp", "prox_newton"):
            values = [
                solve(CompositeProblem(s, L1(5.0)), update=update, block_size=4, tol=1e-11).fun
                for s in (smooth, twice)
            ]
            np.testing.assert_allclose(values[0], values[1], rtol=1e-9)

    def test_groups_of_one_are_the_lasso(self):
        smooth = regression()
        lasso = solve(CompositeProblem(smooth, L1(4.0)), tol=1e-13).x
        groups = solve(CompositeProblem(smooth, GroupL1(4.0, np.arange(15))), tol=1e-13).x
        np.testing.assert_allclose(groups, lasso, atol=1e-7)

    def test_infinite_weights_fix_at_zero_and_zero_weights_leave_free(self):
        smooth = regression()
        weights = np.array([0.0, np.inf] + [1e6] * 13)
        problem = CompositeProblem(smooth, WeightedL1(1.0, weights))
        for update in ("prox_gradient", "prox_newton", "tmp", "exact"):
            x = solve(problem, update=update, block_size=3).x
            first = smooth.X[:, 0]
            expected = np.zeros(15)
            expected[0] = first @ smooth.y / (first @ first)
            np.testing.assert_allclose(x, expected, atol=1e-9)

    def test_the_group_lasso_of_several_outputs_agrees_with_scikit_learn(self):
        from sklearn.linear_model import MultiTaskLasso

        rng = np.random.default_rng(0)
        X, Y = rng.standard_normal((30, 8)), rng.standard_normal((30, 3))
        problem = CompositeProblem(GLMProblem(X, Y), GroupL1(6.0, np.arange(8)))
        peer = MultiTaskLasso(alpha=0.2, fit_intercept=False, tol=1e-12, max_iter=10000).fit(X, Y)
        for selection in ("cyclic", "gs-q", "gs-s"):
            x = solve(problem, selection=selection).x
            np.testing.assert_allclose(x, peer.coef_.T, atol=1e-5)

    @pytest.mark.parametrize("positive", [False, True])
    def test_the_group_lasso_agrees_with_a_conic_solver(self, positive):
        import cvxpy as cp

        smooth = regression(loss="logistic")
        groups, weights = np.arange(15) % 5, np.array([1.0, 0.0, 2.0, 0.5, 1.0])
        problem = CompositeProblem(smooth, GroupL1(1.5, groups, weights, positive))
        v = cp.Variable(15)
        loss = cp.sum(cp.logistic(-cp.multiply(smooth.y, smooth.X @ v)))
        norms = sum(1.5 * weights[k] * cp.norm2(v[groups == k]) for k in range(5))
        cp.Problem(cp.Minimize(loss + norms), [v >= 0] if positive else []).solve(cp.CLARABEL)
        for update in ("prox_gradient", "lipschitz_search"):
            result = solve(problem, update=update, tol=1e-9)
            np.testing.assert_allclose(result.x, v.value, atol=1e-4)

    @pytest.mark.parametrize("penalty", [MCP(3.0, 3.0), SCAD(3.0, 3.7)], ids=repr)
    def test_nonconvex_penalties_end_at_a_stationary_point(self, penalty):
        problem = CompositeProblem(regression(), penalty)
        values = []
        result = BlockCoordinateDescent(tol=1e-9).solve(
            problem, x0=np.ones(15), callback=lambda r: values.append(r.fun)
        )
        assert result.success and result.certificate.kind == "relative subgradient"
        assert (np.diff(values) <= 1e-10).all() and 0 < np.count_nonzero(result.x) < 15

    def test_poisson_with_a_penalty_needs_no_bound(self):
        problem = CompositeProblem(regression(loss="poisson", fit_intercept=True), L1(3.0))
        reference = solve(problem, block_size="all", update="tmp", tol=1e-10)
        for options in ({}, {"block_size": 4}, {"update": "lipschitz_search"}):
            result = solve(problem, tol=1e-9, **options)
            np.testing.assert_allclose(result.fun, reference.fun, rtol=1e-8)

    def test_a_start_outside_the_bounds_is_moved_inside(self):
        problem = CompositeProblem(quadratic(), Box(0.0, 0.1))
        result = BlockCoordinateDescent(tol=1e-9).solve(problem, x0=np.full(12, 5.0))
        assert result.success and (result.x >= 0).all() and (result.x <= 0.1).all()

    @pytest.mark.parametrize("penalty", [NonNegative(), GroupL1(1.0, np.arange(12), None, True)])
    def test_a_negative_start_is_moved_to_zero_at_once(self, penalty):
        state = BlockCoordinateDescent().init(CompositeProblem(quadratic(), penalty), -np.ones(12))
        np.testing.assert_array_equal(state.x, 0.0)
        np.testing.assert_array_equal(state.work, 0.0)

    def test_float32_answers_stay_inside_the_bounds(self):
        q = quadratic()
        problem = CompositeProblem(
            QuadraticProblem(q.A.astype(np.float32), 10 * q.b), Box(-0.3, 0.3)
        )
        result = BlockCoordinateDescent(tol=1e-4).solve(problem)
        assert result.x.dtype == np.float32 and np.isfinite(result.fun)
        assert (np.abs(result.x) > 0.29).any()


class TestInvariance:
    OPTIONS = (
        {"selection": "gsd", "block_size": 3, "update": "matrix", "blocks": "variable"},
        {"selection": "gsl", "block_size": 3, "update": "gradient", "blocks": "sort"},
        {"selection": "gsq-omp", "block_size": 3, "update": "newton", "blocks": "variable"},
    )

    @staticmethod
    def trajectory(problem, n=25, **options):
        solver = BlockCoordinateDescent(**options)
        state = solver.init(problem)
        values = []
        for _ in range(n):
            solver.step(problem, state)
            values.append(problem.objective(state.x))
        return np.array(values)

    @pytest.mark.parametrize("options", OPTIONS, ids=lambda o: o["selection"])
    def test_permuting_rows_and_columns_changes_nothing(self, options):
        problem = regression(loss="logistic", l2=0.1)
        rng = np.random.default_rng(0)
        rows, columns = rng.permutation(40), rng.permutation(15)
        moved = GLMProblem(problem.X[rows][:, columns], problem.y[rows], "logistic", l2=0.1)
        np.testing.assert_allclose(
            self.trajectory(moved, **options), self.trajectory(problem, **options), rtol=1e-9
        )

    @pytest.mark.parametrize(
        "options",
        [
            {"selection": "gs-q", "block_size": 3, "update": "tmp"},
            {"selection": "gs-s", "block_size": 3, "update": "prox_newton"},
            {"selection": "cyclic", "block_size": 1},
            {"selection": "gs-r", "block_size": 3, "update": "prox_gradient", "blocks": "sort"},
        ],
        ids=lambda o: o["selection"],
    )
    def test_scaling_targets_and_penalty_scales_the_trajectory(self, options):
        smooth = regression()
        problem = CompositeProblem(smooth, L1(4.0))
        scaled = CompositeProblem(GLMProblem(smooth.X, 1e4 * smooth.y), L1(4e4))
        np.testing.assert_allclose(
            self.trajectory(scaled, **options), 1e8 * self.trajectory(problem, **options), rtol=1e-9
        )


class TestActiveSets:
    def test_margin_and_kinks_are_those_of_the_definitions(self):
        problem = CompositeProblem(regression(), L1(6.0))
        x = solve(problem, tol=1e-14, block_size="all", update="tmp").x
        found = active_set(problem, x)
        np.testing.assert_array_equal(found.at_kink, x == 0)
        g = np.abs(problem.gradient(x))
        np.testing.assert_allclose(found.margin, 6.0 - g[x == 0].max())
        assert found.n_free == np.count_nonzero(x) and not found.degenerate

    def test_margins_of_bounds_and_groups(self):
        problem = CompositeProblem(QuadraticProblem(np.eye(3), [2.0, -1.0, 0.3]), Box(0.0, 1.0))
        found = active_set(problem, np.array([1.0, 0.0, 0.3]))
        np.testing.assert_array_equal(found.at_kink, [True, True, False])
        assert found.margin == 1.0
        smooth = GLMProblem(np.eye(4), [3.0, 4.0, 0.3, 0.4])
        grouped = CompositeProblem(smooth, GroupL1(1.0, np.array([0, 0, 1, 1])))
        found = active_set(grouped, np.array([2.4, 3.2, 0.0, 0.0]))
        np.testing.assert_array_equal(found.at_kink, [False, False, True, True])
        np.testing.assert_allclose(found.margin, 0.5)

    @pytest.mark.parametrize("penalty", [L1(6.0), NonNegative(2.0), Box(-0.2, 0.3)], ids=repr)
    def test_steps_near_the_solution_land_on_every_kink(self, penalty):
        # The identification lemma, at random points just within the radius.
        problem = CompositeProblem(regression(), penalty)
        x = solve(problem, tol=1e-14, block_size="all", update="tmp").x
        L = np.linalg.norm(problem.smooth.X, 2) ** 2
        found = active_set(problem, x)
        radius = identification_radius(found.margin, L)
        solver = BlockCoordinateDescent(block_size="all", update="prox_gradient", blocks="order")
        rng = np.random.default_rng(0)
        for _ in range(50):
            away = rng.standard_normal(15)
            state = solver.init(problem, x + 0.99 * radius * away / np.linalg.norm(away))
            solver.step(problem, state)
            np.testing.assert_array_equal(state.x[found.at_kink], x[found.at_kink])

    def test_identification_takes_no_longer_than_the_bounds(self):
        problem = CompositeProblem(regression(n=60), L1(6.0))
        exact = solve(problem, tol=1e-15, block_size="all", update="tmp")
        x = exact.x
        values = np.linalg.eigvalsh(problem.smooth.X.T @ problem.smooth.X)
        mu, L = values[0], values[-1]
        margin = active_set(problem, x).margin
        start = 2.0 * np.ones(15)
        bound = prox_gradient_identification(L, mu, np.linalg.norm(start - x), margin)
        solver = BlockCoordinateDescent(block_size="all", update="prox_gradient", blocks="order",
                                        selection="cyclic")  # fmt: skip
        state = solver.init(problem, start)
        found = []
        for _ in range(bound):
            solver.step(problem, state)
            found.append(np.array_equal(state.x == 0, x == 0))
        assert found[-1] and not found[0]
        gap = problem.objective(start) - exact.fun
        cyclic = descent_identification(L, mu, gap, margin, 1 - mu / L, n_blocks=15)
        coordinate = BlockCoordinateDescent(block_size=1, selection="cyclic")
        state = coordinate.init(problem, start)
        coordinate.step(problem, state, cyclic)
        np.testing.assert_array_equal(state.x == 0, x == 0)
        assert (
            descent_identification(
                L, mu, gap, margin, 1 - mu / L, n_blocks=15, order="random", failure=0.01
            )
            > cyclic
        )

    def test_bounds_refuse_what_makes_no_sense(self):
        with pytest.raises(ParameterError, match=r"margin=0\.0"):
            identification_radius(0.0, 1.0)
        with pytest.raises(ParameterError, match=r"rate=1\.0"):
            descent_identification(1.0, 1.0, 1.0, 1.0, 1.0, n_blocks=2)
        with pytest.raises(ParameterError, match="order='greedy'"):
            descent_identification(1.0, 1.0, 1.0, 1.0, 0.5, n_blocks=2, order="greedy")

    @pytest.mark.parametrize("penalty", [L1(8.0), NonNegative(), ElasticNet(8.0, 0.9)], ids=repr)
    @pytest.mark.parametrize("update", ["tmp", "prox_newton", "exact"])
    @pytest.mark.parametrize("selection", ["gs-s", "gs-q"])
    def test_least_squares_ends_after_finitely_many_steps(self, penalty, update, selection):
        # Fact 9: blocks of at least as many variables as are free.
        for seed in range(3):
            smooth = regression(seed, n=60, p=30)
            problem = CompositeProblem(smooth, penalty)
            x = solve(problem, tol=1e-13, block_size="all", update="tmp", selection="gs-s").x
            best, below = problem.objective(x), 1e-12 * 0.5 * smooth.y @ smooth.y
            size = int(np.count_nonzero(x)) + 3

            def steps(rule, problem=problem, size=size, best=best, below=below):
                solver = BlockCoordinateDescent(block_size=size, selection=selection, update=rule)
                state = solver.init(problem)
                for k in range(200):
                    solver.step(problem, state)
                    if problem.objective(state.x) - best <= below:
                        return k
                return 200

            assert steps(update) <= 15 < steps("prox_gradient")

    @pytest.mark.parametrize("update", ["tmp", "prox_newton"])
    def test_logistic_regression_converges_superlinearly_in_the_end(self, update):
        problem = CompositeProblem(regression(loss="logistic", n=80, p=30), L1(5.0))
        best = solve(problem, tol=1e-15, block_size="all", update="tmp", selection="gs-s")
        size = int(np.count_nonzero(best.x)) + 4
        solver = BlockCoordinateDescent(block_size=size, selection="gs-s", update=update)
        state = solver.init(problem)
        distances = []
        for _ in range(40):
            solver.step(problem, state)
            distances.append(np.linalg.norm(state.x - best.x))
            if distances[-1] < 1e-9:
                break
        assert distances[-1] < 1e-8
        assert distances[-1] < 1e-2 * distances[-2]


class TestRuns:
    CASES = (
        ({}, quadratic),
        ({"selection": "gsl"}, chain),
        ({"blocks": "greedy_forest"}, chain),
        ({"block_size": 1, "selection": "lipschitz"},
         lambda: CompositeProblem(regression(), L1(4.0))),
        ({"block_size": 4, "update": "lipschitz_search", "greedy_refresh": 2},
         lambda: regression(loss="logistic", l2=0.3)),
        ({"block_size": 4, "blocks": "variable", "selection": "cyclic", "update": "tmp"},
         lambda: CompositeProblem(regression(fit_intercept=True), L1(4.0))),
        ({}, lambda: CompositeProblem(regression(), GroupL1(4.0, np.arange(15) // 3))),
    )  # fmt: skip

    @pytest.mark.parametrize(("options", "make"), CASES)
    def test_runs_resume_with_the_same_bits_and_never_rise(self, options, make):
        check_solver(
            BlockCoordinateDescent(tol=1e-3, **options),
            lambda: make(),
            checks=["resume_is_bit_identical", "monotone_or_documented"],
        )

    def test_products_are_computed_anew_after_many_passes(self):
        problem = CompositeProblem(regression(), L1(4.0))
        for update in ("prox_gradient", "lipschitz_search"):
            solver = BlockCoordinateDescent(update=update, selection="cyclic")
            state = solver.init(problem, np.ones(15))
            state.work = state.work + 1e-3
            state.since = 500 * 15 - 3
            solver.step(problem, state, 2)
            assert np.abs(state.work - problem.smooth.start(state.x)).max() > 5e-4
            solver.step(problem, state, 4)
            expected = problem.smooth.start(state.x)
            np.testing.assert_allclose(state.work, expected, atol=1e-9)
            assert state.since == 3

    def test_a_run_that_cannot_go_on_says_so(self):
        for options in ({}, {"blocks": "sort", "block_size": 4, "selection": "gsq"}):
            result = BlockCoordinateDescent(tol=0.0, **options).solve(quadratic())
            assert result.status is Status.STALLED
            assert "rounding" in result.message

    @pytest.mark.parametrize("update", ["newton", "tmp", "prox_newton"])
    @pytest.mark.parametrize("loss", ["huber", "logistic"])
    def test_starts_where_the_hessian_is_flat_lead_to_the_solution(self, loss, update):
        smooth = regression(loss=loss, n=9, p=12, fit_intercept=True)
        problem = smooth if update == "newton" else CompositeProblem(smooth, L1(1.0))
        far = 300.0 * np.random.default_rng(5).standard_normal(13)
        result = BlockCoordinateDescent(
            block_size="all", selection="cyclic", update=update, tol=1e-7, max_iter=3000
        ).solve(problem, x0=far)
        assert result.success, result.message

    def test_rare_blocks_are_waited_for(self):
        A = np.diag([1e6, 1.0, 1.0])
        solver = BlockCoordinateDescent(selection="lipschitz", block_size=1, max_iter=1000)
        assert solver.solve(QuadraticProblem(A, [1e6, 0.0, 9e5])).status is Status.ITERATION_LIMIT

    def test_a_matrix_that_is_not_definite_is_a_numerical_failure(self):
        A = sp.csr_array(np.array([[1.0, 2.0], [2.0, 1.0]]))
        result = BlockCoordinateDescent(blocks="greedy_forest").solve(QuadraticProblem(A, [1.0, 0]))
        assert result.status is Status.NUMERICAL_ERROR
        assert "pivot" in result.message

    def test_steps_that_grow_without_end_leave_a_point_that_can_be_graded(self):
        # The smallest eigenvalue is -1: coordinate descent doubles the point in every update.
        problem = QuadraticProblem([[1.0, 2.0], [2.0, 1.0]], [1.0, 1.0])
        result = BlockCoordinateDescent(block_size=1).solve(problem)
        assert result.status is Status.NUMERICAL_ERROR
        assert "not bounded below" in result.message
        assert np.isfinite(result.x).all()

    def test_counts_tell_the_work(self):
        problem = quadratic()
        cyclic = BlockCoordinateDescent(selection="cyclic", max_iter=24, tol=0.0).solve(problem)
        assert cyclic.counts["updates"] == 24
        greedy = BlockCoordinateDescent(
            selection="gs", block_size=3, max_iter=8, tol=0.0, check_every=8
        ).solve(problem)
        assert greedy.counts["gradients"] == 8 + 1  # and one for the last residual

    def test_checks_come_once_a_pass_by_default(self):
        seen = []
        BlockCoordinateDescent(selection="cyclic", max_iter=60).solve(
            quadratic(), callback=lambda r: seen.append(r.nit)
        )
        assert seen[:4] == [0, 12, 24, 36]

    def test_the_solver_of_a_smooth_problem_is_found_by_name(self):
        from lowrank_opt.core import solve as solve_by_name

        for problem in (quadratic(), regression(), chain()):
            assert solve_by_name(problem).solver.startswith("BlockCoordinateDescent")


PENALTIES = (
    L1(0.7),
    WeightedL1(1.0, np.r_[0.0, np.inf, np.linspace(0.1, 2, 8)]),
    ElasticNet(0.7, 0.4),
    Box(-0.2, 0.3),
    NonNegative(0.2),
    MCP(0.7, 3.0),
    SCAD(0.7, 3.7),
    SquaredL2(0.0),
)


class TestKernels:
    """Kernels against their plain twins."""

    def setup_method(self):
        rng = np.random.default_rng(0)
        self.X = rng.standard_normal((20, 10))
        self.X[rng.random((20, 10)) < 0.5] = 0.0
        self.A = self.X.T @ self.X + np.eye(10)
        self.b = rng.standard_normal(10)
        self.x = 0.3 * rng.standard_normal(10)
        self.order = rng.integers(0, 10, 25)

    @pytest.mark.parametrize("penalty", PENALTIES, ids=lambda p: type(p).__name__)
    def test_sweeps_of_quadratics(self, penalty):
        A, b, L = self.A, self.b, np.diag(self.A).copy()
        expected = reference_descent.sweep_quadratic(A, b, self.x, L, self.order, penalty, 9)
        S = sp.csr_array(A)
        x, y = self.x.copy(), self.x.copy()
        Ax, Ay = A @ x, A @ y
        kernels_descent.sweep_quadratic_dense(A, b, Ax, x, L, self.order, penalty, 9)
        kernels_descent.sweep_quadratic_csr(
            S.data, S.indices, S.indptr, b, Ay, y, L, self.order, penalty, 9
        )
        for point, work in ((x, Ax), (y, Ay)):
            np.testing.assert_allclose(point, expected, rtol=1e-12, atol=1e-13)
            np.testing.assert_allclose(work, A @ point, rtol=1e-11, atol=1e-12)

    @pytest.mark.parametrize(
        ("loss", "weighted", "dtype"),
        [
            (Squared(), False, np.float64),
            (Squared(), True, np.float32),
            (Logistic(), True, np.float64),
            (Huber(0.7), False, np.float64),
            (Poisson(), False, np.float64),
        ],
        ids=str,
    )
    def test_sweeps_of_linear_models(self, loss, weighted, dtype):
        X = self.X.astype(dtype)
        y = np.where(self.X[:, 0] > 0, 1.0, -1.0) if isinstance(loss, Logistic) else self.X[:, 1]
        y = np.abs(y) if isinstance(loss, Poisson) else y
        weights = np.linspace(0, 2, 20) if weighted else np.empty(0)
        pen, order, L = L1(0.7), np.append(self.order, [10, 3, 10]), np.full(11, 40.0)
        x0 = np.append(self.x, 0.1)
        full = np.hstack([X.astype(float), np.ones((20, 1))])
        expected = reference_descent.sweep_glm(
            full, y, weights if weighted else np.ones(20), x0, L, order, 0.3, loss, pen, 10
        )
        S = sp.csc_array(X)
        for data in ((np.asfortranarray(X),), (S.data, S.indices, S.indptr)):
            x, z = x0.copy(), full @ x0
            run = getattr(kernels_descent, f"sweep_glm_{'dense' if len(data) == 1 else 'csc'}")
            run(*data, y, weights, z, x, L, order, 0.3, loss, pen, 10)
            rtol = 1e-11 if dtype == np.float64 else 1e-5
            np.testing.assert_allclose(x, expected, rtol=rtol, atol=1e-12)
            np.testing.assert_allclose(z, full @ x, rtol=1e-10, atol=1e-12)

    @pytest.mark.parametrize("kind", [0, 1, 2])
    def test_greedy_runs_choose_the_same_variables_from_a_scan_and_from_a_heap(self, kind):
        A, b, L = self.A, self.b, np.diag(self.A).copy()
        pen = SquaredL2(0.0) if kind == 0 else L1(0.2)
        expected, chosen = reference_descent.greedy_quadratic(A, b, self.x, L, L, kind, pen, 10, 40)
        S = sp.csr_array(A)
        for data in ((A,), (S.data, S.indices, S.indptr)):
            x, Ax, found = self.x.copy(), A @ self.x, np.empty(40, np.int64)
            run = getattr(
                kernels_descent, f"greedy_quadratic_{'dense' if len(data) == 1 else 'csr'}"
            )
            run(*data, b, Ax, x, L, L, kind, pen, 10, 40, found)
            np.testing.assert_array_equal(found, chosen)
            np.testing.assert_allclose(x, expected, rtol=1e-11, atol=1e-13)

    def test_the_heap_breaks_ties_by_the_lowest_index(self):
        n = 9
        S = sp.csr_array(sp.eye_array(n))
        x, found = np.zeros(n), np.empty(n, np.int64)
        b = np.array([1.0, 3, 1, 3, 2, 2, 1, 3, 3])
        kernels_descent.greedy_quadratic_csr(
            S.data, S.indices, S.indptr, b, np.zeros(n), x, np.ones(n), np.ones(n), 0,
            SquaredL2(0.0), 0, n, found,
        )  # fmt: skip
        np.testing.assert_array_equal(found, [1, 3, 7, 8, 4, 5, 0, 2, 6])
        np.testing.assert_array_equal(x, b)

    @pytest.mark.parametrize("penalty", PENALTIES[:5], ids=lambda p: type(p).__name__)
    def test_models_of_a_block(self, penalty):
        H = 0.1 * self.A
        H[4] = H[:, 4] = 0.0  # a variable without curvature
        q = self.b.copy()
        q[4] = 0.0
        expected = reference_descent.minimize_model(H, q, self.x, penalty, 9, 7)
        v, slope = self.x.copy(), q.copy()
        kernels_descent.minimize_model(H, slope, v, penalty, 9, 0.0, 7)
        np.testing.assert_allclose(v, expected, rtol=1e-11, atol=1e-13)
        np.testing.assert_allclose(slope, q + H @ (v - self.x), rtol=1e-10, atol=1e-12)


@pytest.mark.slow
def test_coordinate_descent_costs_no_more_than_a_plain_loop():
    """Whole runs against numba loops written for one loss and penalty, timed in turn."""
    import time

    from numba import njit

    @njit(fastmath={"reassoc", "contract", "arcp"})
    def plain(X, r, w, norms, lam, n_passes):
        for _ in range(n_passes):
            for j in range(w.size):
                old = w[j]
                c = old * norms[j]
                for i in range(r.size):
                    c += X[i, j] * r[i]
                new = np.sign(c) * max(abs(c) - lam, 0.0) / norms[j]
                if new != old:
                    w[j] = new
                    for i in range(r.size):
                        r[i] -= (new - old) * X[i, j]

    rng = np.random.default_rng(0)
    X = np.asfortranarray(rng.standard_normal((400, 1000)))
    y = X[:, :20].sum(axis=1) + rng.standard_normal(400)
    problem = CompositeProblem(GLMProblem(X, y), L1(2.0))
    solver = BlockCoordinateDescent(
        selection="cyclic", max_iter=100_000, tol=0.0, check_every=50_000
    )
    norms = (X**2).sum(axis=0)
    times: dict[str, list[float]] = {"plain": [], "ours": []}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(5):
            start = time.process_time()
            w, r = np.zeros(1000), y.copy()
            plain(X, r, w, norms, 2.0, 100)
            times["plain"].append(time.process_time() - start)
            start = time.process_time()
            x = solver.solve(problem).x
            times["ours"].append(time.process_time() - start)
    np.testing.assert_allclose(x, w, atol=1e-10)
    assert min(times["ours"][1:]) <= 2.5 * min(times["plain"][1:])
