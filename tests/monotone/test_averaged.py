"""Averaged iterations: bounds, the safeguard of extrapolation."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg as la

from lowrank_opt.core import ParameterError, Status
from lowrank_opt.monotone.averaged import Anderson, KrasnoselskiiMann
from lowrank_opt.monotone.fixed_point import FixedPointProblem
from lowrank_opt.monotone.halpern import Halpern
from lowrank_opt.monotone.inclusion import MonotoneInclusion


def turn(angle):
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, -s], [s, c]])


def contraction(n=20, factor=0.99, seed=0):
    rng = np.random.default_rng(seed)
    Q = np.linalg.qr(rng.standard_normal((n, n)))[0]
    M = (Q * np.linspace(-factor, factor, n)) @ Q.T
    b = rng.standard_normal(n)
    return FixedPointProblem(lambda u: M @ u + b, np.zeros(n)), la.solve(np.eye(n) - M, b)


@pytest.mark.parametrize("a", [0.2, 0.5, 0.8])
@pytest.mark.parametrize("angle", [0.05, 1.5, np.pi])
def test_residuals_of_averaging_decrease_below_the_bound(a, angle):
    T = turn(angle)
    problem = FixedPointProblem(lambda u: T @ u, np.ones(2))
    last, D = np.inf, np.sqrt(2.0)
    solver = KrasnoselskiiMann(relaxation=a, tol=1e-300)
    for k, state in zip(range(1, 80), solver.iterate(problem), strict=False):
        residual = la.norm(state.x - T @ state.x)
        assert residual <= last * (1 + 1e-12)
        assert residual <= D / np.sqrt(np.pi * a * (1 - a) * k) * (1 + 1e-12)
        last = residual


def test_averaging_by_hand():
    T = turn(1.0)
    states = KrasnoselskiiMann(relaxation=0.3, tol=0.0).iterate(
        FixedPointProblem(lambda u: T @ u, np.ones(2))
    )
    u = np.ones(2)
    for _ in range(5):
        u = 0.7 * u + 0.3 * T @ u
        assert np.allclose(next(states).x, u, atol=1e-15)


def test_extrapolation_solves_linear_maps_in_as_many_steps_as_variables():
    problem, answer = contraction(n=5)
    result = Anderson(memory=5, regularization=1e-15, tol=1e-8).solve(problem)
    assert result.nit <= 8
    assert np.allclose(result.x, answer, atol=1e-4)


def test_extrapolation_is_much_faster_on_smooth_problems():
    problem, answer = contraction(n=40, factor=0.999)
    quick = Anderson(tol=1e-8).solve(problem)
    slow = Halpern(tol=1e-8, max_iter=100_000).solve(problem)
    assert quick.success
    assert quick.nit < 0.2 * slow.nit
    assert np.allclose(quick.x, answer, atol=1e-3)


@pytest.mark.parametrize("fallback", ["halpern", "average"])
def test_without_memory_only_the_safe_iteration_is_left(fallback):
    T = turn(0.7)
    problem = FixedPointProblem(lambda u: T @ u, np.ones(2))
    safe = {
        "halpern": Halpern(restart=None, tol=0.0), "average": KrasnoselskiiMann(tol=0.0),
    }[fallback]  # fmt: skip
    ours = Anderson(memory=0, fallback=fallback, tol=0.0).iterate(problem)
    for _, state in zip(range(30), safe.iterate(problem), strict=False):
        assert np.array_equal(next(ours).x, state.x)


def test_accepted_residuals_never_increase_and_rejections_are_safe():
    """A map with kinks, on which extrapolation fails now and then."""
    rng = np.random.default_rng(4)
    Q = np.linalg.qr(rng.standard_normal((8, 8)))[0]
    b = rng.standard_normal(8)

    def T(u):
        v = Q @ u
        return np.sign(v) * np.maximum(np.abs(v) - 0.05, 0.0) + 0.02 * b

    problem = FixedPointProblem(T, 3.0 * np.ones(8))
    calls, accepted, last = [], [], np.inf
    for state in Anderson(memory=3, tol=1e-10, max_iter=500).iterate(problem):
        calls.append(state.counts["map_calls"])
        accepted.append(state.counts.get("extrapolations", 0))
        if accepted[-1] > (accepted[-2] if len(accepted) > 1 else 0):
            assert la.norm(state.x - T(state.x)) <= last * (1 + 1e-12)
            last = la.norm(state.x - T(state.x))
    assert max(np.diff(calls)) == 2  # something was rejected
    assert state.residual <= 1e-10


@pytest.mark.parametrize("seed", range(12))
def test_a_safe_step_that_rises_lets_no_worse_proposal_in(seed):
    rng = np.random.default_rng(seed)
    d = rng.integers(2, 8)
    Q, b = la.qr(rng.standard_normal((d, d)))[0], rng.standard_normal(d)

    def T(u):
        return np.abs(Q @ u) - 0.3 * b

    count, last = 0, np.inf
    problem = FixedPointProblem(T, 3.0 * rng.standard_normal(d))
    for state in Anderson(max_iter=300).iterate(problem):
        if state.counts.get("extrapolations", 0) > count:
            count = state.counts["extrapolations"]
            now = la.norm(state.x - T(state.x))
            assert now <= last * (1 + 1e-9)
            last = now


def test_a_proposal_that_is_not_a_number_is_rejected():
    T = turn(0.5)

    def fragile(u):
        return T @ u if la.norm(u) > 0.05 else u * np.nan  # extrapolation jumps to the centre

    problem = FixedPointProblem(fragile, np.ones(2))
    result = Anderson(memory=2, max_iter=5).solve(problem)
    assert np.all(np.isfinite(result.x))
    assert result.status is Status.ITERATION_LIMIT
    assert result.counts["map_calls"] > result.nit + 1  # something was rejected


@pytest.mark.parametrize("cls", [KrasnoselskiiMann, Anderson])
def test_inclusions(cls):
    rng = np.random.default_rng(1)
    B = rng.standard_normal((6, 6))
    M, q = B @ B.T / 6 + 0.1 * np.eye(6), rng.standard_normal(6)
    for reflect in (True, False):
        result = cls(tol=1e-9, reflect=reflect).solve(MonotoneInclusion((M, q), np.zeros(6)))
        assert np.allclose(result.x, la.solve(M, -q), atol=1e-5)
    skew = np.array([[0.0, 1.0], [-1.0, 0.0]])
    result = cls(tol=1e-9).solve(MonotoneInclusion((skew, np.ones(2)), np.zeros(2)))
    assert np.allclose(result.x, [1.0, -1.0], atol=1e-6)


@pytest.mark.parametrize(
    "solver",
    [
        KrasnoselskiiMann(relaxation=0.0), KrasnoselskiiMann(relaxation=1.0),
        Anderson(memory=-1), Anderson(regularization=-1.0), Anderson(fallback="picard"),
    ],
    ids=repr,
)  # fmt: skip
def test_parameters_out_of_range(solver):
    with pytest.raises(ParameterError, match="="):
        solver.solve(contraction()[0])


def test_halpern_begins_anew_at_accepted_points():
    problem, _ = contraction()
    solver = Anderson(memory=3, tol=1e-6)
    state = solver.init(problem)
    before = 0
    while state.residual > 1e-6:
        solver.step(problem, state)
        accepted = state.counts.get("extrapolations", 0)
        if accepted > before:
            assert state.inner == 0
            assert np.array_equal(state.anchor, state.x)
        before = accepted
    assert before > 3


def test_proposals_pause_while_they_are_rejected():
    rng = np.random.default_rng(0)
    A = rng.random((40, 25))
    b = A @ np.maximum(rng.standard_normal(25), 0.0)
    L = la.norm(A, 2) ** 2
    problem = FixedPointProblem(lambda u: np.maximum(u - A.T @ (A @ u - b) / L, 0.0), np.zeros(25))
    solver = Anderson(tol=0.0, fallback="average")
    state = solver.init(problem)
    calls, streak = [], 0
    for _ in range(600):
        accepted, before = state.counts.get("extrapolations", 0), state.counts["map_calls"]
        wait = state.wait
        solver.step(problem, state)
        spent = state.counts["map_calls"] - before
        if wait > 0:
            assert spent == 1
            assert state.counts.get("extrapolations", 0) == accepted
        if spent == 2:
            streak += 1
            assert state.wait == min(2**streak - 1, 15)
        elif state.counts.get("extrapolations", 0) > accepted:
            streak = 0
        calls.append(spent)
    assert 10 < calls.count(2) < 150


def test_an_accepted_proposal_ends_the_pauses():
    rng = np.random.default_rng(4)
    Q = np.linalg.qr(rng.standard_normal((8, 8)))[0]
    b = 0.02 * rng.standard_normal(8)

    def T(u):
        v = Q @ u
        return np.sign(v) * np.maximum(np.abs(v) - 0.05, 0.0) + b

    solver = Anderson(memory=3, tol=1e-10)
    problem = FixedPointProblem(T, 3.0 * np.ones(8))
    state, paused = solver.init(problem), 0
    while state.residual > 1e-10 and state.nit < 1000:
        accepted, pause = state.counts.get("extrapolations", 0), state.pause
        solver.step(problem, state)
        if state.counts.get("extrapolations", 0) > accepted:
            assert state.pause == state.wait == 0
            paused += pause > 0
    assert paused > 0
