"""Constants of sums against closed forms, and the automatic choice of a method."""

from __future__ import annotations

import logging
import math

import numpy as np
import pytest

from lowrank_opt.core import solver_class
from lowrank_opt.monotone import constants
from lowrank_opt.monotone.fixed_point import FixedPointProblem
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


def boxed(curvature, n=20, seed=0):
    """A variational inequality on a box; the symmetric part has rank n / 2."""
    rng = np.random.default_rng(seed)
    G, S = rng.standard_normal((n, n // 2)) / math.sqrt(n), rng.standard_normal((n, n)) / 5.0
    pair = (curvature * G @ G.T + S - S.T, rng.standard_normal(n))
    return MonotoneInclusion(pair, np.zeros(n), prox=lambda x, step: np.clip(x, -1.0, 1.0))


def lasso(n=300, d=30, seed=0):
    """Means of similar terms with an l1 norm, neither affine nor without a prox."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, d))
    t = X[:, :3].sum(axis=1) + 0.1 * rng.standard_normal(n)

    def components(x, index):
        return X[index] * (X[index] @ x - t[index])[:, None]

    def prox(x, step):
        return np.sign(x) * np.maximum(np.abs(x) - 0.1 * step, 0.0)

    norms = np.linalg.norm(X, axis=1)[:, None]
    return MonotoneInclusion(
        lambda x: X.T @ (X @ x - t) / n, np.zeros(d), components, n, prox,
        float(np.linalg.norm(X, 2) ** 2 / n), float(np.linalg.norm(X * norms, 2) / math.sqrt(n)),
        True,
    )  # fmt: skip


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
            name, params = constants.choose_method(problem)
        assert (name, params) == ("InexactHalpern", {"inner": "exact", "reflect": True})
        assert "exact resolvent" in caplog.text
        assert problem.auto_solver()[0] == "InexactHalpern"

    @pytest.mark.parametrize(
        ("problem", "expected"),
        [
            (similar_terms(20_000, 1.2), "VarianceReducedExtraGradient"),
            (similar_terms(4000, 1.0), "Anderson"),
            (similar_terms(100, 4.0), "Anderson"),
            (similar_terms(400, 1.0, skew=True), "VarianceReducedExtraGradient"),
            (similar_terms(100, 4.0, skew=True), "ExtraGradient"),
            (similar_terms(100, 4.0, skew=True, curvature=0.0), "FastExtraGradient"),
            (boxed(0.2), "ExtraGradient"),
            (boxed(0.005), "FastExtraGradient"),
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

    @pytest.mark.parametrize("problem", [lasso(), boxed(0.2)], ids=["lasso", "boxed"])
    def test_the_choice_against_all_deterministic_methods(self, problem):
        def calls(name, **params):
            return solver_class(name)(**params, tol=1e-4).solve(problem)

        name, params = problem.auto_solver()
        chosen = calls(name, **params)
        assert chosen.success
        spent = chosen.n_oracle + constants.compare_constants(problem).calls
        others = [calls("ExtraGradient"), calls("FastExtraGradient", restart="adaptive")]
        if problem.cocoercive:
            others += [calls("Halpern"), calls("Anderson")]
        best = min(r.n_oracle for r in others if r.success)
        assert spent <= 1.2 * best
        if problem.cocoercive:
            assert spent < 0.5 * others[2].n_oracle  # Halpern iteration

    @pytest.mark.slow
    def test_never_much_worse_than_the_best_on_the_whole_suite(self):
        for name, problem in calibration_suite():
            tol = 1e-2 if hasattr(problem, "A") else 1e-4
            regime = compare_methods(problem, name, tol=tol, seeds=3, max_epochs=2000)
            assert regime.loss <= 1.2, name


def rotations(n=12):
    angles = np.linspace(0.3, 2.8, n)
    c, s = np.cos(angles), np.sin(angles)
    return lambda u: np.concatenate([c * u[:n] - s * u[n:], s * u[:n] + c * u[n:]])


class TestMaps:
    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    def test_halpern_iteration_for_maps_that_keep_distances(self, dtype):
        T = rotations()
        for turned in (T, lambda u: T(u) + 1.0, lambda u: -u):
            problem = FixedPointProblem(lambda u, F=turned: F(u).astype(dtype), np.ones(24, dtype))
            assert problem.auto_solver()[0] == "Halpern"
        for averaged in (lambda u: 0.5 * (u + T(u)), np.abs, lambda u: 0.9 * u, lambda u: u):
            problem = FixedPointProblem(
                lambda u, F=averaged: F(u).astype(dtype), np.ones(24, dtype)
            )
            assert problem.auto_solver()[0] == "Anderson"

    def test_extrapolation_for_others_also_with_kinks(self):
        rng = np.random.default_rng(0)
        A, B = rng.random((40, 25)), rng.standard_normal((12, 40))
        b = A @ np.maximum(rng.standard_normal(25), 0.0)
        inverse, right = np.linalg.pinv(B), B @ np.maximum(rng.standard_normal(40), 0.0)
        L = np.linalg.norm(A, 2) ** 2

        def project(u):
            return u - inverse @ (B @ u - right)

        def split(u):
            y = np.maximum(u, 0.0)
            return u + project(2 * y - u) - y

        maps = {
            "nonnegative least squares": (lambda u: np.maximum(u - A.T @ (A @ u - b) / L, 0), 25),
            "alternating projections": (lambda u: np.maximum(project(u), 0.0), 40),
            "Douglas-Rachford": (split, 40),
        }
        for name, (T, n) in maps.items():
            problem = FixedPointProblem(T, np.full(n, -3.0))
            solver, params = problem.auto_solver()
            chosen = solver_class(solver)(**params).solve(problem)
            other = solver_class("Halpern")().solve(problem)
            assert solver == "Anderson", name
            assert chosen.success, name
            assert chosen.n_oracle <= 1.2 * other.n_oracle, name
