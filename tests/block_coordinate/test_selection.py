"""Selection rules against brute force, and what the theory says of their order."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import scipy.sparse as sp

from lowrank_opt.block_coordinate import (
    BlockCoordinateDescent,
    CompositeProblem,
    GLMProblem,
    QuadraticProblem,
)
from lowrank_opt.block_coordinate.certificates import subgradient_distances
from lowrank_opt.block_coordinate.selection import (
    block_scores,
    forward_block,
    next_block,
    singles,
    threshold_block,
    variable_scores,
)
from lowrank_opt.core import ParameterError
from lowrank_opt.numerics import L1, MCP, Box, ElasticNet, GroupL1, NonNegative

SEEDS = range(5)


def quadratic(seed=0, n=12, spread=True):
    rng = np.random.default_rng(seed)
    scales = np.exp(rng.uniform(-1, 1, n)) if spread else np.ones(n)
    M = rng.standard_normal((2 * n, n)) * scales
    return QuadraticProblem(M.T @ M, rng.standard_normal(n) * scales)


def logistic(seed=0, n=40, p=12):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, p)) * np.exp(rng.uniform(-1, 1, p))
    return GLMProblem(X, np.sign(rng.standard_normal(n)), "logistic", l2=0.1)


def start(problem, seed=0, x0="random", **options):
    """Plan, state and gradient at a random point."""
    rng = np.random.default_rng(100 + seed)
    if isinstance(x0, str):
        x0 = rng.standard_normal(problem.x_shape)
    state = BlockCoordinateDescent(**options).init(problem, x0)
    plan = state.cache
    return plan, state, plan.smooth.gradient_at(state.work, state.x)


def guaranteed(H, g, block):
    """Decrease that the bound promises, 1/2 g_b' H_b^-1 g_b."""
    return 0.5 * g[block] @ np.linalg.solve(H[np.ix_(block, block)], g[block])


FIXED = {"blocks": "sort", "block_size": 4}


class TestFixedBlocks:
    @pytest.mark.parametrize("make", [quadratic, logistic])
    @pytest.mark.parametrize("seed", SEEDS)
    def test_scores_are_those_of_the_definitions(self, make, seed):
        problem = make(seed)
        for rule in ("gs", "gsl", "gsq", "gsd"):
            plan, state, g = start(problem, seed, selection=rule, bound="rowsum", **FIXED)
            H = [problem.block_bound(b) for b in plan.partition.blocks]
            whole = problem.block_bound(np.arange(12))
            parts = [g[b] for b in plan.partition.blocks]
            expected = {
                "gs": [p @ p for p in parts],
                "gsl": [p @ p / np.linalg.eigvalsh(h)[-1] for h, p in zip(H, parts, strict=True)],
                "gsq": [p @ np.linalg.solve(h, p) for h, p in zip(H, parts, strict=True)],
                "gsd": [
                    np.sum(p**2 / np.abs(whole[b]).sum(axis=1))
                    for b, p in zip(plan.partition.blocks, parts, strict=True)
                ],
            }[rule]
            np.testing.assert_allclose(block_scores(plan, state), expected, rtol=1e-9)
            assert next_block(plan, state)[0] == np.argmax(expected)

    @pytest.mark.parametrize("make", [quadratic, logistic])
    @pytest.mark.parametrize("seed", SEEDS)
    def test_guaranteed_decreases_are_ordered(self, make, seed):
        # Fact 2: gsq >= gsl >= average of a random block; gsd with row sums <= gsq; mi >= all.
        problem = make(seed)
        best = {}
        for rule in ("gsq", "gsl", "gsd", "mi"):
            plan, state, _ = start(problem, seed, selection=rule, bound="rowsum", **FIXED)
            scores = block_scores(plan, state)
            best[rule] = scores.max() * (1.0 if rule == "mi" else 0.5)
            if rule == "gsl":
                average = 0.5 * scores.mean()
        assert best["mi"] >= best["gsq"] * (1 - 1e-12)
        assert best["gsq"] >= best["gsl"] >= average
        assert best["gsq"] >= best["gsd"]

    def test_mi_is_the_decrease_of_the_best_block_solve(self):
        from scipy.optimize import minimize

        problem = logistic(3)
        plan, state, _ = start(problem, 3, selection="mi", **FIXED)
        x = state.x.copy()
        for b, score in zip(plan.partition.blocks, block_scores(plan, state), strict=True):

            def along(d, b=b):
                y = x.copy()
                y[b] += d
                return problem.objective(y), problem.gradient(y)[b]

            found = minimize(along, np.zeros(b.size), jac=True, options={"gtol": 1e-10})
            np.testing.assert_allclose(score, problem.objective(x) - found.fun, rtol=1e-8)
        np.testing.assert_array_equal(state.x, x)

    def test_mi_with_a_penalty_solves_the_block_with_it(self):
        smooth = quadratic(1)
        problem = CompositeProblem(smooth, L1(3.0))
        plan, state, _ = start(problem, 1, selection="mi", update="prox_newton", **FIXED)
        scores = block_scores(plan, state)
        exact = BlockCoordinateDescent(update="exact", selection="cyclic", **FIXED)
        for k in range(3):
            one = exact.init(problem, state.x)
            one.place = k
            exact.step(problem, one)
            decrease = problem.objective(state.x) - problem.objective(one.x)
            np.testing.assert_allclose(scores[k], decrease, rtol=1e-9)

    @pytest.mark.parametrize("blocks", ["auto", "variable"])
    def test_mi_of_single_variables_takes_the_one_that_gains_most(self, blocks):
        problem = quadratic(2)
        solver = BlockCoordinateDescent(block_size=1, blocks=blocks, selection="mi", max_iter=1)
        x = solver.solve(problem).x
        gains = problem.b**2 / (2.0 * problem.A.diagonal())  # at 0 the gradient is -b
        np.testing.assert_array_equal(np.flatnonzero(x), [np.argmax(gains)])

    def test_block_norm_l1_sums_absolute_values(self):
        problem = quadratic()
        plan, state, g = start(problem, selection="gsl", block_norm="l1", **FIXED)
        L = plan.block_lipschitz
        expected = [np.abs(g[b]).sum() / np.sqrt(L[k]) for k, b in enumerate(plan.partition.blocks)]
        np.testing.assert_allclose(block_scores(plan, state), expected, rtol=1e-12)

    @pytest.mark.parametrize("bound", ["lipschitz", "tau", "rowsum"])
    def test_gsd_has_three_diagonals(self, bound):
        problem = quadratic()
        plan, _, _ = start(problem, selection="gsd", bound=bound, **FIXED)
        expected = {
            "lipschitz": np.diag(problem.A),
            "tau": 4 * np.diag(problem.A),
            "rowsum": np.abs(problem.A).sum(axis=1),
        }[bound]
        np.testing.assert_allclose(plan.divisors, expected, rtol=1e-12)
        if bound != "lipschitz":  # valid bounds: D - H is positive semi-definite on a block
            for b in plan.partition.blocks:
                gap = np.diag(expected[b]) - problem.A[np.ix_(b, b)]
                assert np.linalg.eigvalsh(gap)[0] >= -1e-10

    @pytest.mark.parametrize("kind", ["dense", "sparse", "part", "model"])
    def test_constants_of_large_blocks_are_just_above_the_largest_eigenvalue(self, kind):
        rng = np.random.default_rng(0)
        M = rng.standard_normal((300, 420)) * (rng.random((300, 420)) < 0.05)
        A = M.T @ M + np.eye(420)
        problem = {
            "dense": QuadraticProblem(A),
            "sparse": QuadraticProblem(sp.csr_array(A)),
            "part": QuadraticProblem(sp.csr_array(A)),
            "model": GLMProblem(M, np.ones(300), l2=1.0),
        }[kind]
        size = 210 if kind == "part" else 420
        plan, _, _ = start(problem, selection="cyclic", update="gradient", blocks="order",
                           block_size=size)  # fmt: skip
        top = np.linalg.eigvalsh(A[:size, :size])[-1]
        assert top <= plan.block_lipschitz[0] <= 1.001 * top

    def test_singular_blocks_are_scored_by_the_pseudo_inverse(self):
        X = np.random.default_rng(0).standard_normal((30, 4))
        problem = GLMProblem(np.hstack([X, X]), np.arange(30.0))
        blocks = [0, 1, 2, 3, 0, 1, 2, 3]  # duplicated columns share a block
        plan, state, g = start(problem, selection="gsq", blocks=blocks)
        expected = [
            g[b] @ np.linalg.pinv(problem.block_bound(b)) @ g[b] for b in plan.partition.blocks
        ]
        np.testing.assert_allclose(block_scores(plan, state), expected, rtol=1e-8)


class TestVariableBlocks:
    @pytest.mark.parametrize("seed", SEEDS)
    def test_gs_gsl_and_gsd_take_the_largest_scores(self, seed):
        problem = quadratic(seed)
        row_sums = np.abs(problem.A).sum(axis=1)
        diagonal = np.diag(problem.A)
        for rule, D in (("gs", 1.0), ("gsl", row_sums), ("gsd", diagonal)):
            plan, state, g = start(problem, seed, selection=rule, blocks="variable", block_size=5)
            k, block = next_block(plan, state)
            assert k == -1
            expected = np.sort(np.argsort(-(g**2) / D)[:5])
            np.testing.assert_array_equal(block, expected)

    @pytest.mark.parametrize("rule", ["gsl", "gsq", "gsd"])
    def test_of_single_variables_gsl_is_the_rule_of_2015(self, rule):
        problem = quadratic(2)
        plan, state, g = start(problem, 2, selection=rule, blocks="variable", block_size=1)
        assert next_block(plan, state)[1] == np.argmax(np.abs(g) / np.sqrt(np.diag(problem.A)))

    @pytest.mark.parametrize("make", [quadratic, logistic])
    @pytest.mark.parametrize("seed", SEEDS)
    def test_thresholding_never_increases_the_model_and_beats_the_diagonal_step(self, make, seed):
        problem = make(seed)
        plan, _, g = start(
            problem, seed, selection="gsq-iht", blocks="variable", block_size=4, bound="rowsum"
        )
        H = problem.block_bound(np.arange(12))
        first = np.argsort(-(g**2) / plan.divisors)[:4]
        values = []
        for n_steps in range(11):
            block, d = threshold_block(plan, g, first, n_steps)
            assert block.size <= 4
            values.append(g @ d + 0.5 * d @ H @ d)
        assert (np.diff(values) <= 1e-12 * np.abs(values[0])).all()
        assert values[-1] < values[0]
        assert -values[0] >= 0.5 * np.sum(g[first] ** 2 / plan.divisors[first]) * (1 - 1e-12)
        assert guaranteed(H, g, block) >= -values[-1] * (1 - 1e-12)

    @pytest.mark.parametrize("make", [quadratic, logistic])
    @pytest.mark.parametrize("seed", SEEDS)
    def test_forward_selection_adds_the_variable_of_the_largest_gain(self, make, seed):
        problem = make(seed)
        plan, _, g = start(problem, seed, selection="gsq-omp", blocks="variable", block_size=4)
        H = problem.block_bound(np.arange(12))
        chosen = forward_block(plan, g, 4)
        for k in range(4):
            gains = [
                -np.inf if i in chosen[:k] else guaranteed(H, g, np.append(chosen[:k], i))
                for i in range(12)
            ]
            assert chosen[k] == np.argmax(gains)
        best = max(guaranteed(H, g, np.array(c)) for c in itertools.combinations(range(12), 4))
        assert guaranteed(H, g, chosen) >= (1 - np.exp(-1)) * best

    def test_forward_selection_for_several_classes_uses_the_bound_of_all_of_them(self):
        rng = np.random.default_rng(0)
        problem = GLMProblem(
            rng.standard_normal((30, 4)), np.arange(30) % 3, "softmax", l2=0.3, fit_intercept=True
        )
        plan, _, g = start(problem, selection="gsq-omp", blocks="variable", block_size=3)
        H = np.array([problem.bound_matvec(e) for e in np.eye(15)])
        np.testing.assert_allclose(plan.bound_diagonal, np.diag(H), rtol=1e-12)
        gains = [guaranteed(H, g, np.array([i])) for i in range(15)]
        assert forward_block(plan, g, 1)[0] == np.argmax(gains)

    def test_forward_selection_never_takes_a_variable_twice_from_a_singular_bound(self):
        X = np.random.default_rng(0).standard_normal((20, 3))
        problem = GLMProblem(np.hstack([X, X]), np.arange(20.0))
        plan, _, g = start(problem, selection="gsq-omp", blocks="variable", block_size=5)
        chosen = forward_block(plan, g, 5)
        assert sorted(chosen % 3) == [0, 1, 2]

    def test_a_greedy_refresh_takes_several_blocks_from_one_gradient(self):
        problem = quadratic()
        options = {"selection": "gsd", "blocks": "variable", "block_size": 3, "greedy_refresh": 3}
        plan, state, g = start(problem, **options)
        order = np.argsort(-(g**2) / np.diag(problem.A))
        for k in range(3):
            np.testing.assert_array_equal(
                next_block(plan, state)[1], np.sort(order[3 * k : 3 * k + 3])
            )
        assert state.queue.size == 0

    def test_a_greedy_refresh_of_fixed_blocks_takes_the_best_in_order(self):
        problem = quadratic()
        options = {"selection": "gs", "blocks": "order", "block_size": 3, "greedy_refresh": 4}
        plan, state, g = start(problem, **options)
        order = np.argsort(-np.add.reduceat(g**2, [0, 3, 6, 9]))
        assert [next_block(plan, state)[0] for _ in range(4)] == order.tolist()


class TestRandomAndCyclic:
    @staticmethod
    def shares(problem, n_draws, size, **options):
        plan, state, _ = start(problem, **options)
        counts = np.zeros(size)
        for _ in range(n_draws):
            k, b = next_block(plan, state)
            counts[b if k < 0 else k] += 1
        return counts / counts.sum()

    def test_random_is_uniform(self):
        problem = quadratic()
        fixed = self.shares(problem, 4000, 4, selection="random", blocks="sort", block_size=3)
        np.testing.assert_allclose(fixed, 0.25, atol=0.03)
        free = self.shares(problem, 3000, 12, selection="random", blocks="variable", block_size=3)
        np.testing.assert_allclose(free, 1 / 12, atol=0.01)

    def test_lipschitz_draws_in_proportion_to_the_constants(self):
        problem = quadratic()
        options = {"selection": "lipschitz", "blocks": "order", "block_size": 3}
        plan, _, _ = start(problem, **options)
        constants = [np.linalg.eigvalsh(problem.block_bound(b))[-1] for b in plan.partition.blocks]
        fixed = self.shares(problem, 6000, 4, **options)
        np.testing.assert_allclose(fixed, constants / np.sum(constants), atol=0.02)

    def test_lipschitz_draws_single_variables_in_proportion(self):
        problem = quadratic()
        plan, state, _ = start(problem, selection="lipschitz", block_size=1)
        counts = np.bincount(singles(plan, state, 20000), minlength=12) / 20000
        np.testing.assert_allclose(counts, np.diag(problem.A) / np.trace(problem.A), atol=0.015)

    def test_lipschitz_draws_variable_blocks_without_repetition(self):
        problem = quadratic()
        plan, state, _ = start(problem, selection="lipschitz", blocks="variable", block_size=6)
        for _ in range(50):
            assert np.unique(next_block(plan, state)[1]).size == 6

    def test_cyclic_visits_fixed_blocks_in_turn(self):
        plan, state, _ = start(quadratic(), selection="cyclic", blocks="sort", block_size=5)
        assert [next_block(plan, state)[0] for _ in range(7)] == [0, 1, 2, 0, 1, 2, 0]

    def test_cyclic_variable_blocks_are_slices_of_a_new_permutation_each_pass(self):
        plan, state, _ = start(quadratic(), selection="cyclic", blocks="variable", block_size=5)
        passes = [[next_block(plan, state)[1] for _ in range(3)] for _ in range(2)]
        for blocks in passes:
            assert [b.size for b in blocks] == [5, 5, 2]
            np.testing.assert_array_equal(np.sort(np.concatenate(blocks)), np.arange(12))
        assert not np.array_equal(passes[0][0], passes[1][0])

    @pytest.mark.parametrize("rule", ["random", "lipschitz", "cyclic"])
    @pytest.mark.parametrize("blocks", ["order", "variable"])
    def test_runs_of_single_variables_do_not_depend_on_how_they_are_cut(self, rule, blocks):
        options = {"selection": rule, "blocks": blocks, "block_size": 1}
        plan, state, _ = start(quadratic(), **options)
        once = singles(plan, state, 40)
        plan, state, _ = start(quadratic(), **options)
        parts = [singles(plan, state, n) for n in (1, 7, 12, 20)]
        np.testing.assert_array_equal(once, np.concatenate(parts))


class TestPenalties:
    PENALTIES = (L1(2.0), ElasticNet(2.0, 0.7), Box(-0.5, 0.5), NonNegative(1.0), MCP(2.0, 3.0))

    @pytest.mark.parametrize("penalty", PENALTIES, ids=lambda p: type(p).__name__)
    def test_gs_s_is_the_distance_to_the_subdifferential(self, penalty):
        problem = CompositeProblem(quadratic(), penalty)
        x = np.random.default_rng(1).standard_normal(12)
        x[::3] = 0.0
        plan, state, g = start(
            problem, x0=x, selection="gs-s", blocks="variable", block_size=2, update="prox_gradient"
        )
        expected = subgradient_distances(penalty, state.x, g)
        np.testing.assert_allclose(np.sqrt(variable_scores(plan, state.x, g)), expected)

    @pytest.mark.parametrize("penalty", PENALTIES, ids=lambda p: type(p).__name__)
    def test_gs_r_and_gs_q_are_those_of_the_proximal_step(self, penalty):
        problem = CompositeProblem(quadratic(), penalty)
        L = np.diag(quadratic().A)
        for rule in ("gs-r", "gs-q"):
            plan, state, g = start(
                problem, selection=rule, blocks="variable", block_size=2, update="prox_gradient"
            )
            x = state.x
            new = np.array([
                penalty.prox(np.float64(x[i] - g[i] / L[i]), 1 / L[i]) for i in range(12)
            ])  # fmt: skip
            d = new - x
            change = [float(penalty.value(a)) - float(penalty.value(c))
                      for a, c in zip(new, x, strict=True)]  # fmt: skip
            expected = d**2 if rule == "gs-r" else -(g * d + 0.5 * L * d**2 + change)
            np.testing.assert_allclose(
                variable_scores(plan, x, g), expected, atol=1e-12 * np.abs(expected).max()
            )

    def test_gsq_nn_is_gs_q_for_the_nonnegative_penalty(self):
        problem = CompositeProblem(quadratic(), NonNegative(0.7))
        both = []
        for rule in ("gsq-nn", "gs-q"):
            plan, state, g = start(problem, selection=rule, blocks="variable", block_size=3)
            both.append(variable_scores(plan, state.x, g))
        np.testing.assert_allclose(both[0], both[1], atol=1e-12)

    def test_scores_of_groups_are_those_of_whole_groups(self):
        groups = np.arange(12) % 4
        problem = CompositeProblem(quadratic(), GroupL1(3.0, groups))
        x = np.random.default_rng(0).standard_normal(12)
        x[groups == 1] = 0.0
        plan, state, g = start(problem, x0=x, selection="gs-s")
        expected = subgradient_distances(problem.penalty, state.x, g)
        np.testing.assert_allclose(np.sqrt(block_scores(plan, state)), expected)
        plan, state, g = start(problem, x0=x, selection="gs-q")
        for k, b in enumerate(plan.partition.blocks):
            top = np.linalg.eigvalsh(problem.smooth.A[np.ix_(b, b)])[-1]
            v = x[b] - g[b] / top
            norm = np.linalg.norm(v)
            d = v * max(0.0, 1 - 3.0 / top / norm) - x[b]
            h = 3.0 * (np.linalg.norm(x[b] + d) - np.linalg.norm(x[b]))
            expected = -(g[b] @ d + 0.5 * top * d @ d + h)
            np.testing.assert_allclose(block_scores(plan, state)[k], expected)

    @pytest.mark.parametrize("rule", ["gs-s", "gs-q", "gs-r"])
    def test_variables_that_stay_at_a_bound_are_not_chosen_and_free_ones_are(self, rule):
        problem = CompositeProblem(QuadraticProblem(np.eye(4), [5.0, 0.5, -0.2, 2.0]), L1(1.0))
        x = np.array([4.0, 0.0, 0.0, 0.3])  # the first is solved, the last is not
        plan, state, _ = start(problem, x0=x, selection=rule, blocks="variable", block_size=3)
        np.testing.assert_array_equal(next_block(plan, state)[1], [0, 3])

    def test_intercepts_are_scored_without_the_penalty(self):
        rng = np.random.default_rng(0)
        smooth = GLMProblem(rng.standard_normal((9, 3)), 7 + rng.random(9), fit_intercept=True)
        problem = CompositeProblem(smooth, L1(1e3))
        plan, state, g = start(
            problem, x0=np.zeros(4), selection="gs-s", blocks="variable", block_size=1
        )
        scores = variable_scores(plan, state.x, g)
        np.testing.assert_allclose(scores, [0, 0, 0, g[3] ** 2])


class TestCombinations:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"selection": "gsq", "block_size": 3, "blocks": "variable"}, "'gsq-iht' or 'gsq-omp'"),
            ({"selection": "mi", "block_size": 3, "blocks": "variable"}, "NP-hard"),
            ({"selection": "gsq-iht", "block_size": 3, "blocks": "sort"}, "'gsq' is exact"),
            ({"selection": "gsq-omp", "block_size": 3, "blocks": "sort"}, "'gsq' is exact"),
            ({"selection": "gsq-nn"}, "NonNegative"),
            ({"selection": "gsl", "blocks": "greedy_forest"}, "expected 'gs' or 'gsd'"),
            ({"selection": "gs", "blocks": "random_forest"}, "expected 'random'"),
            ({"block_size": 13}, "block_size=13 with 12 variables"),
            ({"block_size": 0}, "block_size=0"),
            ({"selection": "gsp"}, "selection='gsp'"),
            ({"selection": "gsq-omp", "block_size": 2, "greedy_refresh": 2}, "greedy_refresh=2"),
            ({"blocks": [0, 1, 2]}, r"shape \(3,\)"),
            ({"blocks": "sorted"}, "Did you mean 'sort'"),
        ],
    )
    def test_what_does_not_go_together_is_refused(self, options, message):
        with pytest.raises(ParameterError, match=message):
            BlockCoordinateDescent(**options).solve(quadratic())

    def test_rules_for_smooth_problems_are_refused_with_a_penalty(self):
        problem = CompositeProblem(quadratic(), L1(1.0))
        for rule in ("gsq", "gsq-iht", "gsq-omp"):
            with pytest.raises(ParameterError, match="'gs-q', 'gs-r' or 'gs-s'"):
                BlockCoordinateDescent(selection=rule).solve(problem)

    @pytest.mark.parametrize("rule", ["lipschitz", "gsl", "gsd", "gsq-iht", "gs-q", "gs-r"])
    def test_rules_that_need_a_bound_are_refused_for_poisson(self, rule):
        problem = GLMProblem(np.eye(4), np.arange(4.0), "poisson")
        with pytest.raises(ParameterError, match="bound of the Hessian"):
            BlockCoordinateDescent(selection=rule, update="newton", block_size=2).solve(problem)

    def test_groups_are_not_split_into_variable_blocks(self):
        problem = CompositeProblem(quadratic(), GroupL1(1.0, np.arange(12) // 3))
        with pytest.raises(ParameterError, match="blocks='groups'"):
            BlockCoordinateDescent(blocks="variable", block_size=2).solve(problem)
        with pytest.raises(ParameterError, match="split group 0"):
            BlockCoordinateDescent(blocks="order", block_size=2).solve(problem)

    def test_greedy_forests_need_a_graph(self):
        with pytest.raises(ParameterError, match="sparse quadratic"):
            BlockCoordinateDescent(blocks="greedy_forest").solve(quadratic())


class TestForests:
    @staticmethod
    def lattice(rows, columns):
        def chain(n):
            return sp.diags_array([-np.ones(n - 1)] * 2, offsets=(-1, 1), shape=(n, n))

        W = sp.kron(sp.eye_array(columns), chain(rows)) + sp.kron(
            chain(columns), sp.eye_array(rows)
        )
        degrees = -np.asarray(W.sum(axis=1)).ravel()
        rng = np.random.default_rng(0)
        A = sp.csr_array(W + sp.diags_array(degrees + 0.1 + rng.random(rows * columns)))
        return QuadraticProblem(A, rng.standard_normal(rows * columns))

    @pytest.mark.parametrize("rule", ["gs", "gsd"])
    def test_a_greedy_forest_adds_variables_by_their_scores(self, rule):
        problem = self.lattice(5, 6)
        plan, state, g = start(problem, selection=rule, blocks="greedy_forest")
        score = g**2 / (np.diag(problem.A.toarray()) if rule == "gsd" else 1.0)
        dense = problem.A.toarray() != 0
        tree = np.full(30, -1)
        for v in np.argsort(-score):  # the published routine: relabel at every merge
            around = tree[dense[v] & (tree >= 0)]
            if np.unique(around).size == around.size:
                tree[np.isin(tree, around) & (tree >= 0)] = v
                tree[v] = v
        np.testing.assert_array_equal(next_block(plan, state)[1], np.flatnonzero(tree >= 0))

    def test_random_forests_differ_and_have_no_cycle(self):
        from lowrank_opt.block_coordinate.forests import is_forest

        problem = self.lattice(5, 6)
        plan, state, _ = start(problem, blocks="random_forest")
        found = [next_block(plan, state)[1] for _ in range(3)]
        assert all(is_forest(problem.A, b) for b in found)
        assert not np.array_equal(found[0], found[1])
