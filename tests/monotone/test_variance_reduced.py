"""Variance-reduced Halpern and extragradient methods: special cases, expectations, counts."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from lowrank_opt.core import ParameterError, ProblemError, Status
from lowrank_opt.monotone.inclusion import MonotoneInclusion
from lowrank_opt.monotone.matrix_game import MatrixGame
from lowrank_opt.monotone.variance_reduced import (
    VarianceReducedExtraGradient,
    VarianceReducedHalpern,
)
from lowrank_opt.numerics import project_box


def least_squares(n=16, d=3, seed=0, prox=None, same=False, **options):
    rng = np.random.default_rng(seed)
    a, b = rng.standard_normal((n, d)), rng.standard_normal(n)
    if same:
        M, q = a.T @ a / n, -a.T @ b / n

        def components(x, index):
            return np.tile(M @ x + q, (len(index), 1))
    else:

        def components(x, index):
            return a[index] * (a[index] @ x - b[index])[:, None]

    pair = (a.T @ a / n, -a.T @ b / n)
    return MonotoneInclusion(
        pair, np.ones(d), components=components, n_terms=n, prox=prox, **options
    )


def clip(x, step):
    return project_box(x, -0.05, 0.05)


def deterministic_path(problem, eta, steps):
    u0 = problem.start()
    u = u0.copy()
    for k in range(steps):
        lam = 2.0 / (k + 4.0)
        u = problem.resolvent(lam * u0 + (1.0 - lam) * u - eta * problem.operator(u), eta)
    return u


class TestHalpern:
    @pytest.mark.parametrize("options", [{"batch": 16}, {"refresh": 1.0}])
    @pytest.mark.parametrize("prox", [None, clip])
    def test_full_evaluations_are_deterministic_halpern(self, options, prox):
        problem = least_squares(prox=prox)
        solver = VarianceReducedHalpern(eta=0.2, restart=None, tol=0.0, max_iter=37, **options)
        result = solver.solve(problem)
        expected = deterministic_path(problem, 0.2, 37)
        assert np.array_equal(result.state.u, expected)
        assert result.n_oracle == 16 * 38

    def test_equal_terms_make_the_path_deterministic(self):
        problem = least_squares(same=True)
        paths = [
            VarianceReducedHalpern(
                eta=0.2, restart=None, tol=0.0, max_iter=200, batch=2, random_state=seed
            ).solve(problem).state.u
            for seed in range(3)
        ]  # fmt: skip
        expected = deterministic_path(problem, 0.2, 200)
        for path in paths:
            assert np.allclose(path, expected, rtol=0, atol=1e-13)

    def test_recursion_of_the_estimate(self):
        # E[g' - F(u') | past] = (1 - p) (g - F(u)), over all batches of two terms of four.
        problem = least_squares(n=4)
        rng = np.random.default_rng(1)
        u, new = rng.standard_normal((2, 3))
        g = problem.operator(u) + rng.standard_normal(3)
        for probabilities in (None, np.array([0.1, 0.2, 0.3, 0.4])):
            q = np.full(4, 0.25) if probabilities is None else probabilities
            p, mean = 0.3, 0.3 * problem.operator(new)
            for pair in itertools.product(range(4), repeat=2):
                change = problem.sample_difference(new, u, np.array(pair), probabilities)
                mean += (1 - p) * q[pair[0]] * q[pair[1]] * (g + change)
            expected = (1 - p) * (g - problem.operator(u))
            assert np.allclose(mean - problem.operator(new), expected, rtol=0, atol=1e-13)

    def test_probabilities_of_full_evaluations(self):
        # 1 for the first two, then 4/(k+4), at least 4/(sqrt(n)+5): means over 300 runs.
        problem = least_squares(n=16)
        runs, length = 300, 12
        full = np.zeros(length)
        for seed in range(runs):
            solver = VarianceReducedHalpern(
                eta=0.01, refresh="decreasing", restart=None, tol=0.0, random_state=seed
            )
            state = solver.init(problem)
            for k in range(length):
                before = state.counts["operator_calls"]
                solver.step(problem, state, 1)
                full[k] += state.counts["operator_calls"] - before
        expected = np.array(
            [1.0] + [4.0 / (k + 5) if k <= 4 else 4.0 / 9.0 for k in range(1, length)]
        )
        assert full[0] == runs
        assert np.abs(full / runs - expected).max() < 0.1

    def test_oracle_calls_are_exact(self):
        calls = 0
        base = least_squares(n=16)

        def components(x, index):
            nonlocal calls
            calls += len(index)
            return base.components(x, index)

        problem = MonotoneInclusion(
            None, np.ones(3), components=components, n_terms=16, cocoercive=True, lipschitz=5.0
        )
        calls = 0
        result = VarianceReducedHalpern(batch=3, tol=0.0, max_iter=101).solve(problem)
        grading = 2 * 16 * 3  # the certificate's and the objective's evaluations
        assert 0 <= calls - result.n_oracle <= grading
        full = result.counts["operator_calls"]
        measuring = result.n_oracle - 16 * full - 6 * (101 - (full - 1))
        result = VarianceReducedHalpern(batch=3, eta=0.1, tol=0.0, max_iter=101).solve(problem)
        full = result.counts["operator_calls"]
        assert result.n_oracle == 16 * full + 6 * (101 - (full - 1))
        assert measuring > 0
        assert result.n_epochs == result.n_oracle / 16

    def test_full_evaluation_at_least_every_ten_roots(self):
        problem = least_squares(n=16)
        result = VarianceReducedHalpern(
            eta=0.01, refresh=1e-12, restart=None, tol=0.0, max_iter=400
        ).solve(problem)
        assert result.counts["operator_calls"] == 1 + 400 // 40

    def test_converges_from_twenty_seeds(self):
        problem = least_squares(n=100, d=5)
        M, q = problem.affine
        answer = -np.linalg.solve(M, q)
        results = [
            VarianceReducedHalpern(tol=1e-6, random_state=seed).solve(problem) for seed in range(20)
        ]
        assert all(r.success for r in results)
        assert np.median([np.linalg.norm(r.x - answer) for r in results]) < 1e-5
        epochs = np.median([r.n_epochs for r in results])
        plain = np.median(
            [
                VarianceReducedHalpern(
                    tol=1e-6, restart=None, random_state=s, max_iter=3000
                ).solve(problem).residual
                for s in range(5)
            ]
        )  # fmt: skip
        assert plain > 1e-5  # 1/k without restarts
        assert epochs < 3000

    def test_answers_are_at_full_evaluations(self):
        problem = least_squares(n=100, d=5)
        result = VarianceReducedHalpern(tol=0.0, max_iter=57, eta=0.1).solve(problem)
        assert result.status is Status.ITERATION_LIMIT
        assert result.certificate.residual == pytest.approx(result.residual, rel=1e-12)


class TestExtraGradient:
    def test_one_step_is_one_of_all_that_can_be_drawn(self):
        A = np.array([[1.0, -2.0, 0.5]])
        game = MatrixGame(np.vstack([A, -A, 0.3 * A]))
        solver = VarianceReducedExtraGradient(eta=0.3, refresh=1.0, tol=0.0, max_iter=1)
        w = game.start()
        v = game.resolvent(w - 0.3 * game.operator(w), 1.0)
        draws = [
            game.resolvent(w - 0.3 * (game.operator(w) + estimate(game, v - w, i, j)), 1.0)
            for i in range(3) for j in range(3)
        ]  # fmt: skip
        for seed in range(20):
            result = VarianceReducedExtraGradient(
                eta=0.3, refresh=1.0, tol=0.0, max_iter=1, random_state=seed, sampling="uniform"
            ).solve(game)
            assert min(np.abs(result.state.u - d).max() for d in draws) < 1e-14
        assert solver.probability(game) == 1.0

    def test_medians_over_seeds_on_a_game(self):
        A = np.random.default_rng(0).standard_normal((30, 20))
        game = MatrixGame(A)
        results = [
            VarianceReducedExtraGradient(tol=1e-3, random_state=s).solve(game) for s in range(20)
        ]
        assert all(r.success for r in results)
        from scipy.optimize import linprog

        answer = linprog(
            np.r_[np.zeros(20), 1.0], A_ub=np.c_[A, -np.ones(30)], b_ub=np.zeros(30),
            A_eq=np.r_[np.ones(20), 0.0][None], b_eq=[1.0],
            bounds=[(0, None)] * 20 + [(None, None)],
        )  # fmt: skip
        spread = A.max() - A.min()
        errors = [abs(r.value - answer.fun) / spread for r in results]
        assert max(errors) < 1e-3
        for r in results:
            assert r.n_oracle == 30 * r.counts["operator_calls"] + 2 * r.nit

    def test_importance_needs_fewer_calls_where_rows_differ(self):
        rng = np.random.default_rng(0)
        A = rng.standard_normal((40, 40)) * np.where(np.arange(40) < 3, 8.0, 1.0)[:, None]
        game = MatrixGame(A)
        calls = {
            sampling: np.median(
                [
                    VarianceReducedExtraGradient(
                        tol=3e-3, sampling=sampling, random_state=s
                    ).solve(game).n_oracle
                    for s in range(20)
                ]
            )
            for sampling in ("uniform", "importance")
        }  # fmt: skip
        assert calls["importance"] < 0.8 * calls["uniform"]

    def test_sparse_game_is_the_dense_one(self):
        import scipy.sparse as sp

        rng = np.random.default_rng(0)
        A = np.where(rng.random((20, 25)) < 0.3, rng.standard_normal((20, 25)), 0.0)
        results = [
            VarianceReducedExtraGradient(tol=0.0, max_iter=300).solve(MatrixGame(B))
            for B in (A, sp.csr_array(A))
        ]
        assert np.allclose(results[0].state.u, results[1].state.u, rtol=0, atol=1e-11)


def estimate(game, change, i, j):
    """The estimate from row i and column j, drawn uniformly."""
    m, n = game.shape
    return np.concatenate([m * game.A[i] * change[n + i], -n * game.A[:, j] * change[j]])


class TestBadInput:
    @pytest.mark.parametrize(
        ("params", "match"),
        [
            ({"batch": 0}, "batch=0"),
            ({"batch": 17}, "batch=17.*16"),
            ({"eta": 0.0}, "eta=0.0"),
            ({"eta": "large"}, "eta='large'"),
            ({"refresh": 0.0}, "refresh=0.0"),
            ({"refresh": 1.5}, "refresh=1.5"),
            ({"sampling": "importanc"}, "Did you mean 'importance'"),
            ({"tol": -1.0}, "tol=-1.0"),
        ],
    )
    def test_parameters(self, params, match):
        with pytest.raises(ParameterError, match=match):
            VarianceReducedHalpern(**params).solve(least_squares())

    def test_operator_that_is_not_cocoercive(self):
        with pytest.raises(ParameterError, match=r"eta='auto'.*InexactHalpern"):
            VarianceReducedHalpern().solve(MatrixGame(np.eye(3)))
        game = MatrixGame(np.diag([1.0, 2.0, 3.0]))
        result = VarianceReducedHalpern(eta=0.1, max_iter=50, tol=0.0).solve(game)
        assert result.status is Status.ITERATION_LIMIT

    def test_no_mean_constant(self):
        problem = MonotoneInclusion((np.diag([1.0, 0.0]), np.array([1.0, 0.0])), np.ones(2))
        with np.errstate(all="ignore"):
            result = VarianceReducedHalpern(eta=0.5).solve(problem)
        assert result.success
        singular = MonotoneInclusion((np.ones((2, 2)), np.ones(2)), np.ones(2))
        with pytest.raises(ProblemError, match="no constant L"):
            VarianceReducedHalpern(restart=None).solve(singular)
        assert VarianceReducedHalpern().solve(singular).success

    def test_a_step_that_is_too_long_is_halved(self):
        # The constants given are ten times too small.
        problem = least_squares(n=100, d=5, lipschitz=0.2, mean_lipschitz=0.2)
        result = VarianceReducedHalpern(tol=1e-5).solve(problem)
        assert result.success
        assert result.state.step_size < 1.0

    def test_values_that_are_not_numbers(self):
        def components(x, index):
            value = np.where(np.abs(x) > 2.0, np.nan, -(x - 1.0))
            return np.tile(value, (len(index), 1))

        with pytest.warns(match="not monotone"):
            problem = MonotoneInclusion(
                None, np.full(2, 1.5), components=components, n_terms=4, lipschitz=1.0,
                cocoercive=True,
            )  # fmt: skip
        result = VarianceReducedHalpern(eta=1.0).solve(problem)
        assert result.status is Status.DIVERGED
        assert np.all(np.isfinite(result.x))
        assert math.isfinite(result.residual)
