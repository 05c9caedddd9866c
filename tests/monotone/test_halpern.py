"""Halpern iteration: the facts that the literature proves, restarts, maps without fixed points."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import scipy.linalg as la

from lowrank_opt.core import ParameterError, Status, UnsupportedProblemError
from lowrank_opt.core.errors import AccuracyWarning
from lowrank_opt.monotone import problems_suite
from lowrank_opt.monotone.fixed_point import FixedPointProblem
from lowrank_opt.monotone.halpern import Halpern
from lowrank_opt.monotone.inclusion import MonotoneInclusion
from lowrank_opt.monotone.matrix_game import MatrixGame
from lowrank_opt.monotone.operator_solver import OperatorState, due


def path(solver, problem, n):
    """The first n + 1 iterates, also beyond an exact answer."""
    state = solver.init(problem)
    points = [state.x.copy()]
    for _ in range(n):
        solver.step(problem, state)
        points.append(state.x.copy())
    return np.stack(points)


def plain(**parameters):
    return Halpern(restart=None, tol=0.0, check_every=1, **parameters)


def orthogonal(n, seed=0):
    return np.linalg.qr(np.random.default_rng(seed).standard_normal((n, n)))[0]


def turn(angle):
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, -s], [s, c]])


def maps():
    """Nonexpansive maps with a start and a fixed point, the solution nearest to the start."""
    Q = orthogonal(6)
    yield "isometry", lambda u: Q @ u, np.arange(6.0), np.zeros(6)
    yield "half turn", lambda u: -u, np.ones(3), np.zeros(3)
    yield "slow turn", lambda u: turn(0.03) @ u, np.ones(2), np.zeros(2)
    c = np.array([1.0, 2.0])
    yield (
        "ball",
        lambda u: c + (u - c) / max(1.0, la.norm(u - c)),
        np.array([4.0, 6.0]),
        c + np.array([0.6, 0.8]),
    )
    line = np.array([[0.5, 0.5], [0.5, 0.5]])  # projection on a line, then on another
    other = np.array([[1.0, 0.0], [0.0, 0.0]])
    yield "two lines", lambda u: other @ (line @ u), np.array([3.0, 1.0]), np.zeros(2)
    yield "shrinkage", lambda u: np.sign(u) * np.maximum(abs(u) - 0.01, 0), np.ones(2), np.zeros(2)


@pytest.mark.parametrize(
    ("T", "start", "nearest"), [m[1:] for m in maps()], ids=[m[0] for m in maps()]
)
def test_residual_is_at_most_two_distances_over_k(T, start, nearest):
    u = path(plain(), FixedPointProblem(T, start), 60)
    D = la.norm(start - nearest)
    for k, point in enumerate(u):
        assert la.norm(point - T(point)) <= 2.0 * D / (k + 1) * (1 + 1e-12)


def test_half_turn_attains_the_bound():
    u = path(plain(), FixedPointProblem(lambda u: -u, np.ones(1)), 20)[:, 0]
    k = np.arange(21)
    assert np.allclose(u, np.where(k % 2 == 0, 1.0 / (k + 1), 0.0), atol=1e-15)


def test_linear_maps_have_a_closed_form():
    T = 0.99 * orthogonal(5, 1)
    start = np.arange(1.0, 6.0)
    u = path(plain(), FixedPointProblem(lambda u: T @ u, start), 25)
    powers = np.stack([np.linalg.matrix_power(T, j) @ start for j in range(27)])
    for k in range(26):
        assert np.allclose(u[k], powers[: k + 1].mean(axis=0), atol=1e-12)
        assert np.allclose(u[k] - T @ u[k], (start - powers[k + 1]) / (k + 1), atol=1e-12)


def test_cocoercive_operators_have_half_the_bound():
    rng = np.random.default_rng(2)
    B = rng.standard_normal((8, 8))
    M, q = B @ B.T, rng.standard_normal(8)
    problem = MonotoneInclusion((M, q), np.zeros(8))
    D = la.norm(la.solve(M, -q))
    for k, u in enumerate(path(plain(), problem, 80)):
        assert la.norm(M @ u + q) <= problem.lipschitz * D / (k + 1) * (1 + 1e-10)


@pytest.mark.parametrize(("reflect", "factor"), [(True, 1.0), (False, 2.0)])
def test_resolvents_of_monotone_operators_have_the_bound(reflect, factor):
    problem, answer = problems_suite.quadratic_game(5, curvature=0.0)
    step = 1.0 / problem.lipschitz
    D = la.norm(answer)
    solver = plain(reflect=reflect)
    for k, state in zip(range(1, 60), solver.iterate(problem), strict=False):
        M, q = problem.affine
        J = la.solve(np.eye(10) + step * M, state.x - step * q)
        assert la.norm(M @ J + q) <= factor * D / (step * (k + 1)) * (1 + 1e-10)


def test_limit_is_the_projection_of_the_start():
    # Fixed points of both projections: a segment. Averaging ends elsewhere.
    def T(u):
        box = np.clip(u, [0.0, 0.0], [1.0, 1.0])
        return box - max(0.0, (box.sum() - 1.0) / 2.0)  # on x + y <= 1

    start = np.array([3.0, 1.5])
    solver = Halpern(restart=None, tol=0.0, max_iter=20_000)
    u = solver.solve(FixedPointProblem(T, start)).state.x
    assert np.allclose(u, [1.0, 0.0], atol=2e-3)  # the nearest point of the triangle


def test_weight_of_other_anchors():
    start = np.array([1.0, 2.0])
    u = path(plain(anchoring=2.0), FixedPointProblem(lambda u: turn(1.0) @ u, start), 10)
    by_hand = start
    for k in range(10):
        weight = 2.0 / (k + 4.0)
        by_hand = weight * start + (1 - weight) * turn(1.0) @ by_hand
        assert np.allclose(u[k + 1], by_hand, atol=1e-14)


def test_displacement_of_a_translation_is_exact():
    v = np.array([0.3, -0.2])
    result = plain(max_iter=60).solve(FixedPointProblem(lambda u: u - v, np.ones(2)))
    assert result.status is Status.ITERATION_LIMIT
    assert np.allclose(result.displacement, v, atol=1e-14)
    assert "no fixed point" in result.message


@pytest.mark.parametrize("anchoring", [0.5, 2.0, 5.0])
def test_displacement_with_another_weight_of_the_anchor(anchoring):
    v = np.array([0.3, -0.2])
    problem = FixedPointProblem(lambda u: u - v, np.ones(2))
    result = plain(max_iter=3000, anchoring=anchoring).solve(problem)
    assert np.allclose(result.displacement, v, rtol=5e-3)
    assert "no fixed point" in result.message


@pytest.mark.parametrize("restart", [None, "adaptive"])
def test_displacement_of_sets_that_do_not_meet(restart):
    """Alternating projections between a disc and a half-plane at distance 1/2, shifted by it."""

    def T(u):  # Douglas-Rachford: drifts by the gap between the sets
        disc = u / max(1.0, la.norm(u))
        reflected = 2.0 * disc - u
        plane = np.array([max(reflected[0], 1.5), reflected[1]])
        return u + plane - disc

    solver = Halpern(restart=restart, tol=1e-9, max_iter=4000)
    result = solver.solve(FixedPointProblem(T, np.array([0.3, 0.8])))
    assert not result.success
    assert result.status is Status.ITERATION_LIMIT
    assert la.norm(result.displacement) == pytest.approx(0.5, abs=5e-3)
    assert "no fixed point" in result.message


def test_no_such_message_for_maps_with_fixed_points():
    for _, T, start, _ in maps():
        result = plain(max_iter=300).solve(FixedPointProblem(T, start))
        assert "no fixed point" not in result.message


def test_restarts_converge_linearly():
    T = turn(0.3)
    problem = FixedPointProblem(lambda u: T @ u, np.ones(2))
    quick = Halpern(tol=1e-10, max_iter=5000).solve(problem)
    assert quick.success
    assert quick.state.restarts >= 3
    slow = Halpern(tol=1e-10, max_iter=quick.nit, restart=None).solve(problem)
    assert slow.residual > 1e4 * quick.residual


def test_forward_steps_on_rotations_are_refused_with_a_cure():
    for problem in (
        MatrixGame(np.eye(2)),
        MonotoneInclusion(lambda u: np.array([u[1], -u[0]]), np.ones(2)),
    ):
        with pytest.raises(UnsupportedProblemError, match="FastExtraGradient"):
            Halpern().solve(problem)


def test_problems_with_a_prox_end_in_its_domain():
    rng = np.random.default_rng(0)
    B = rng.standard_normal((6, 6))
    M, q = B @ B.T, 3.0 * rng.standard_normal(6)
    problem = MonotoneInclusion((M, q), np.zeros(6), prox=lambda x, t: np.clip(x, 0.0, 1.0))
    for step_size in (None, 0.5 / problem.lipschitz, 2.0 / problem.lipschitz):
        for solver in (Halpern(step_size=step_size), Halpern(step_size=step_size, max_iter=3)):
            result = solver.solve(problem)
            assert result.x.min() >= 0.0
            assert result.x.max() <= 1.0
            assert result.certificate.residual <= result.residual * (1 + 1e-9)


def test_long_steps_are_refused():
    problem = MonotoneInclusion((np.eye(2), np.ones(2)), np.zeros(2))
    with pytest.raises(ParameterError, match=r"step_size=2.5.*2 / lipschitz"):
        Halpern(step_size=2.5).solve(problem)
    with pytest.raises(ParameterError, match="anchoring=0"):
        Halpern(anchoring=0.0).solve(problem)


def test_expansive_maps_warn_once_and_others_do_not():
    problem = FixedPointProblem(lambda u: 1.01 * u, np.ones(2))
    with pytest.warns(AccuracyWarning, match="not nonexpansive") as caught:
        Halpern(max_iter=20).solve(problem)
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _, T, start, _ in maps():
            Halpern(max_iter=200, tol=1e-12).solve(FixedPointProblem(T, start))


def test_nan_later_is_a_divergence_with_a_finite_point():
    calls = []

    def T(u):
        calls.append(1)
        return u * np.nan if len(calls) > 9 else turn(1.0) @ u

    result = Halpern(tol=1e-12).solve(FixedPointProblem(T, np.ones(2)))
    assert result.status is Status.DIVERGED
    assert np.all(np.isfinite(result.x))


def test_counts_of_oracles():
    problem = MonotoneInclusion((np.diag([1.0, 2.0, 3.0]), np.ones(3)), np.zeros(3))
    result = Halpern(max_iter=7, tol=0.0).solve(problem)
    assert result.counts["operator_calls"] == 8
    assert (result.n_oracle, result.n_epochs) == (24, 8.0)


@pytest.mark.parametrize(
    ("errors", "ends"),
    [
        ([1.0, 0.9, 0.21, 0.19], 4),  # to a fifth
        ([1.0, 0.7, 0.45, 0.46], 4),  # to a half, and rising
        ([1.0, 0.7, 0.55, 0.56, 0.49, 0.48], None),
    ],
)
def test_rule_of_restarts(errors, ends):
    state = OperatorState(nit=1000)
    for k, error in enumerate(errors, start=1):
        state.inner = k
        assert due(state, error) == (k == ends)
        if k == ends:
            assert (state.inner, state.restarts) == (0, 1)
    long = OperatorState(nit=99, inner=36, first=1.0, last=1.0)
    assert due(long, 0.9)
