"""Inexact Halpern iteration: resolvents, the bound that stops them, rates, and the snapshot."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.sparse as sp

from lowrank_opt.core import ParameterError
from lowrank_opt.monotone import constants
from lowrank_opt.monotone.inclusion import MonotoneInclusion
from lowrank_opt.monotone.inexact import InexactHalpern, inexact_resolvent
from lowrank_opt.monotone.matrix_game import MatrixGame
from lowrank_opt.monotone.operator_terms import terms_of


def saddle(n=20, seed=0, sparse=False):
    """A quadratic saddle: strongly monotone part plus a rotation; solution by one solve."""
    rng = np.random.default_rng(seed)
    B = rng.standard_normal((n, n)) / math.sqrt(n)
    M = 0.1 * np.eye(n) + B - B.T
    q = rng.standard_normal(n)
    return MonotoneInclusion((sp.csr_array(M) if sparse else M, q), np.zeros(n)), M, q


def rotation():
    return MonotoneInclusion((np.array([[0.0, 1.0], [-1.0, 0.0]]), np.zeros(2)), np.array([1.0, 0]))


class TestInnerSolver:
    def setup_method(self):
        A = np.random.default_rng(0).standard_normal((50, 50))
        self.game = MatrixGame(A)
        self.terms = terms_of(self.game, "uniform")
        L, _ = constants.mean_lipschitz(self.game, self.terms)
        self.eta = math.sqrt(50) / L
        p = 1 / 50
        self.gamma = 0.5 * math.sqrt(p * (1 - p)) / (self.eta * L + 1.0)
        self.u = self.game.resolvent(3.0 * np.random.default_rng(1).random(100), 1.0)
        deterministic = 0.5 / (self.eta * self.game.lipschitz + 1.0)
        self.exact = inexact_resolvent(self.game, self.u, self.eta, deterministic)[0]

    def distance(self, length, snapshot):
        v = inexact_resolvent(
            self.game, self.u, self.eta, self.gamma, terms=self.terms, length=length,
            rng=np.random.default_rng(0), share=-1.0, snapshot=snapshot,
        )[0]  # fmt: skip
        return np.linalg.norm(v - self.exact)

    def test_the_snapshot_has_to_be_the_newest_iterate(self):
        # Spec, section 4: 1.7e-3, 1.7e-10 and rounding; with the outer point it does not converge.
        assert np.linalg.norm(self.u - self.exact) > 0.1
        assert self.distance(1000, "newest") < 5e-3
        assert self.distance(5000, "newest") < 1e-8
        assert self.distance(20000, "newest") < 1e-13
        assert self.distance(5000, "outer") > 0.02
        assert self.distance(20000, "outer") > 0.02

    def test_exact_point_is_the_resolvent(self):
        # u - v - eta F(v) is in the normal cone: v is its own projection from there.
        v = self.exact
        moved = self.game.resolvent(self.u - self.eta * self.game.operator(v), 1.0)
        assert np.allclose(moved, v, rtol=0, atol=1e-13)

    @pytest.mark.parametrize("sampled", [True, False])
    @pytest.mark.parametrize("share", [0.3, 1e-2, 1e-5])
    def test_bound_holds_and_stops(self, sampled, share):
        for seed in range(5):
            v, value, bound, counts = inexact_resolvent(
                self.game, self.u, self.eta,
                self.gamma if sampled else 0.5 / (self.eta * self.game.lipschitz + 1.0),
                terms=self.terms if sampled else None, rng=np.random.default_rng(seed),
                share=share, length=10**6,
            )  # fmt: skip
            error = np.linalg.norm(v - self.exact)
            assert error <= bound * (1 + 1e-9)
            assert bound <= share * np.linalg.norm(v - self.u)
            assert np.allclose(value, self.game.operator(v), rtol=0, atol=1e-14)
            full, inner = counts["operator_calls"], counts["inner_iterations"]
            assert counts["component_calls"] == 50 * full + (2 * inner if sampled else 0)

    def test_medians_of_calls_grow_with_accuracy_by_the_logarithm(self):
        def median(share):
            runs = [
                inexact_resolvent(
                    self.game, self.u, self.eta, self.gamma, terms=self.terms, share=share,
                    rng=np.random.default_rng(seed), length=10**6,
                )
                for seed in range(20)
            ]  # fmt: skip
            return np.median([counts["component_calls"] for _, _, _, counts in runs])

        calls = [median(share) for share in (1e-2, 1e-4, 1e-8)]
        assert calls[2] - calls[1] < 3.0 * (calls[1] - calls[0])


class TestHalpern:
    @pytest.mark.parametrize("reflect", [False, True])
    @pytest.mark.parametrize("problem", [saddle()[0], rotation()])
    def test_bound_with_exact_resolvents(self, problem, reflect):
        M, q = problem.affine
        answer = np.linalg.solve(M, -q)
        D = np.linalg.norm(problem.start() - answer)
        eta = 2.0
        solver = InexactHalpern(
            eta=eta, inner="exact", reflect=reflect, restart=None, tol=0.0, max_iter=1
        )
        state = solver.init(problem)
        J = np.linalg.inv(np.eye(len(q)) + eta * M)
        for k in range(60):
            u = state.u.copy()
            v = J @ (u - eta * q)
            assert np.linalg.norm(u - v) <= (1 if reflect else 2) * D / (k + 1) * (1 + 1e-9) + 1e-12
            solver.step(problem, state, 1)
            assert np.allclose(state.x, v, rtol=0, atol=1e-12)  # J u is returned, not u
            # and the residual there is at most |u - v| / eta
            assert np.linalg.norm(M @ state.x + q) <= np.linalg.norm(u - v) / eta * (1 + 1e-9)

    def test_inexact_follows_exact_within_the_bound(self):
        problem, M, q = saddle()
        D = np.linalg.norm(np.linalg.solve(M, q))
        for inner in ("deterministic", "variance_reduced"):
            solver = InexactHalpern(eta=1.0, inner=inner, restart=None, tol=0.0)
            state = solver.init(problem)
            J = np.linalg.inv(np.eye(20) + M)
            for k in range(25):
                u = state.u.copy()
                solver.step(problem, state, 1)
                v = J @ (u - q)
                assert np.linalg.norm(state.x - v) <= state.bound * (1 + 1e-9) + 1e-13
                assert state.bound <= 0.1 * np.linalg.norm(u - state.x) / (k + 2) ** 2 + 1e-12
                assert np.linalg.norm(u - v) <= 2.5 * D / (k + 1)

    @pytest.mark.parametrize("sparse", [False, True])
    def test_exact_finds_the_solution(self, sparse):
        problem, M, q = saddle(sparse=sparse)
        result = InexactHalpern(tol=1e-9).solve(problem)
        assert result.success
        assert result.inner["method"] == "exact"
        assert np.allclose(result.x, -np.linalg.solve(M, q), rtol=0, atol=1e-7)

    def test_twenty_seeds_on_a_game_with_a_known_value(self):
        a = np.arange(1.0, 6.0)
        game = MatrixGame(np.diag(a), start_point=(np.eye(5)[0], np.eye(5)[1]))
        results = [
            InexactHalpern(inner="variance_reduced", tol=1e-3, random_state=s).solve(game)
            for s in range(20)
        ]
        assert all(r.success for r in results)
        value = 1.0 / np.sum(1.0 / a)
        assert np.median([abs(r.value - value) for r in results]) < 1e-2

    def test_reproduction_of_the_scripts_runs_the_first_inner_loop(self):
        # int(0.05 n ln(k + 2)) is 0 for small n: at least one inner iteration.
        game = MatrixGame(np.diag([1.0, 2.0, 3.0]))
        result = InexactHalpern(
            inner="variance_reduced", inner_length=0.05, snapshot="outer", restart=None, tol=0.0,
            max_iter=5,
        ).solve(game)  # fmt: skip
        assert result.counts["inner_iterations"] == 5
        assert result.nit == 5


class TestBadInput:
    @pytest.mark.parametrize(
        ("params", "match"),
        [
            ({"eta": -1.0}, "eta=-1.0"),
            ({"inner": "exakt"}, "Did you mean 'exact'"),
            ({"reflect": 1.5}, "reflect=1.5"),
            ({"snapshot": "old"}, "snapshot='old'"),
            ({"inner_step": 0.0}, "inner_step=0.0"),
            ({"inner_length": 0.0}, "inner_length=0.0"),
            ({"max_inner": 0}, "max_inner=0"),
        ],
    )
    def test_parameters(self, params, match):
        with pytest.raises(ParameterError, match=match):
            InexactHalpern(**params).solve(saddle()[0])

    def test_exact_needs_an_affine_operator(self):
        with pytest.raises(ParameterError, match=r"inner='exact'.*inner='auto'"):
            InexactHalpern(inner="exact").solve(MatrixGame(np.eye(2)))
