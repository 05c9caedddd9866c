"""Constants of sums against closed forms, and the automatic choice of a method."""

from __future__ import annotations

import logging
import math

import numpy as np
import pytest

from lowrank_opt.monotone import constants
from lowrank_opt.monotone.inclusion import MonotoneInclusion
from lowrank_opt.monotone.matrix_game import MatrixGame
from lowrank_opt.monotone.operator_terms import terms_of
from lowrank_opt.monotone.regimes import calibration_suite, compare_methods, similar_terms


def gradients(n=40, d=4, seed=0, **options):
    rng = np.random.default_rng(seed)
    a, b = rng.standard_normal((n, d)), rng.standard_normal(n)

    def components(x, index):
        return a[index] * (a[index] @ x - b[index])[:, None]

    pair = (a.T @ a / n, -a.T @ b / n)
    return a, MonotoneInclusion(
        pair, np.zeros(d), components=components, n_terms=n, cocoercive=True, **options
    )


class TestMeanLipschitz:
    def test_games(self):
        A = np.random.default_rng(0).standard_normal((7, 5)) * np.arange(1, 6)
        game = MatrixGame(A)
        found = constants.mean_lipschitz(game, terms_of(game, "importance"))
        assert found == (pytest.approx(np.linalg.norm(A), rel=1e-12), 0)
        rows, columns = np.square(A).sum(axis=1), np.square(A).sum(axis=0)
        worst = math.sqrt(max(7 * rows.max(), 5 * columns.max()))
        found = constants.mean_lipschitz(game, terms_of(game, "uniform"))
        assert found == (pytest.approx(worst, rel=1e-12), 0)

    def test_it_bounds_the_second_moment(self):
        # E |F_S(u) - F_S(v)|^2 over all rows and columns, by the tables' probabilities.
        A = np.random.default_rng(0).standard_normal((6, 6)) * np.arange(1, 7)[:, None]
        game = MatrixGame(A)
        rng = np.random.default_rng(1)
        for sampling in ("uniform", "importance"):
            terms = terms_of(game, sampling)
            L, _ = constants.mean_lipschitz(game, terms)
            ratios = []
            for k in range(12 + 200):
                d = np.eye(12)[k] if k < 12 else rng.standard_normal(12)
                norms = np.concatenate([np.square(A).sum(axis=0), np.square(A).sum(axis=1)])
                moment = np.sum(terms.draws.weight * norms * d**2)
                ratios.append(math.sqrt(moment) / np.linalg.norm(d))
            assert max(ratios) == pytest.approx(L, rel=1e-12)

    def test_batches_average_the_deviation(self):
        game = MatrixGame(np.random.default_rng(0).standard_normal((6, 6)))
        terms = terms_of(game, "importance")
        one, _ = constants.mean_lipschitz(game, terms)
        four, _ = constants.mean_lipschitz(game, terms, 4)
        assert four**2 == pytest.approx(0.25 * one**2 + 0.75 * game.lipschitz**2, rel=1e-12)

    def test_measured_for_terms_given_by_functions(self):
        a, problem = gradients()
        squares = np.square(a).sum(axis=1)
        exact = math.sqrt(np.linalg.eigvalsh(a.T @ (squares[:, None] * a) / len(a))[-1])
        L, calls = constants.mean_lipschitz(problem, terms_of(problem, "uniform"))
        assert 0.8 * exact < L < 1.6 * exact
        assert calls > 0
        given = gradients(mean_lipschitz=2.5)[1]
        assert constants.mean_lipschitz(given, terms_of(given, "uniform")) == (2.5, 0)


class TestMeanCocoercivity:
    def test_affine_by_columns(self):
        rng = np.random.default_rng(0)
        B = rng.standard_normal((8, 8))
        M = B @ B.T / 8 + 0.2 * np.eye(8) + 0.1 * (B - B.T)
        problem = MonotoneInclusion((M, np.zeros(8)), np.ones(8), cocoercive=True)
        L, calls = constants.mean_cocoercivity(problem, terms_of(problem, "uniform"))
        second, symmetric = 8 * np.square(M).sum(axis=0), 0.5 * (M + M.T)
        from scipy.linalg import eigh

        exact = eigh(np.diag(second), symmetric, eigvals_only=True)[-1]
        assert abs(L - exact) < 1e-9 * exact
        assert calls == 0

    def test_gradients(self):
        # The largest |a_i|^2 bounds the constant of a mean of a_i (a_i x - b_i).
        a, problem = gradients()
        L, calls = constants.mean_cocoercivity(problem, terms_of(problem, "uniform"))
        assert 0.4 * np.square(a).sum(axis=1).mean() < L < 1.5 * np.square(a).sum(axis=1).max()
        assert calls > 0


class TestChoice:
    def test_exact_resolvents_first(self, caplog):
        problem = MonotoneInclusion((np.array([[0.0, 1.0], [-1.0, 0.0]]), np.ones(2)), np.ones(2))
        with caplog.at_level(logging.INFO, "lowrank_opt"):
            assert constants.choose_method(problem) == ("InexactHalpern", {"inner": "exact"})
        assert "exact resolvent" in caplog.text
        assert problem.auto_solver()[0] == "InexactHalpern"

    @pytest.mark.parametrize(
        ("problem", "expected"),
        [
            (similar_terms(400, 1.0), "VarianceReducedExtraGradient"),
            (similar_terms(100, 4.0), "Halpern"),
            (similar_terms(400, 1.0, skew=True), "VarianceReducedExtraGradient"),
            (similar_terms(100, 4.0, skew=True), "ExtraGradient"),
            (similar_terms(100, 4.0, skew=True, curvature=0.0), "FastExtraGradient"),
        ],
    )
    def test_by_constants(self, problem, expected, caplog):
        with caplog.at_level(logging.INFO, "lowrank_opt"):
            assert constants.choose_method(problem, exact=False)[0] == expected
        assert f"{expected}, for sqrt(n) L_F / L" in caplog.text

    def test_similar_terms_have_the_constants_that_they_claim(self):
        for skew in (False, True):
            problem = similar_terms(60, 2.0, d=4, skew=skew)
            x, y = np.random.default_rng(0).standard_normal((2, 4))
            changes = problem.components(x, np.arange(60)) - problem.components(y, np.arange(60))
            M = problem.affine[0]
            assert np.allclose(changes.mean(axis=0), M @ (x - y), rtol=0, atol=1e-12)
            assert problem.lipschitz == pytest.approx(np.linalg.norm(M, 2))
            moment = math.sqrt(np.mean(np.square(changes).sum(axis=1))) / np.linalg.norm(x - y)
            assert 0.5 * problem.mean_lipschitz < moment <= problem.mean_lipschitz * (1 + 1e-12)
            assert problem.mean_lipschitz == pytest.approx(2.0 * problem.lipschitz, rel=0.05)

    def test_never_much_worse_than_the_best(self):
        names = [name for name, _ in calibration_suite()]
        assert len(set(names)) == 20
        small = [(name, p) for name, p in calibration_suite() if p.n_terms <= 60]
        assert len(small) == 8
        for name, problem in small:
            tol = 1e-2 if hasattr(problem, "A") else 1e-4
            regime = compare_methods(problem, name, tol=tol, seeds=1, max_epochs=500)
            assert regime.loss <= 1.2, name

    @pytest.mark.slow
    def test_never_much_worse_than_the_best_on_the_whole_suite(self):
        for name, problem in calibration_suite():
            tol = 1e-2 if hasattr(problem, "A") else 1e-4
            regime = compare_methods(problem, name, tol=tol, seeds=3, max_epochs=2000)
            assert regime.loss <= 1.2, name
