"""Extragradient methods: each iteration by hand, bounds, agreement with exact answers."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg as la

from lowrank_opt.core import ParameterError, UnsupportedProblemError
from lowrank_opt.monotone import problems_suite
from lowrank_opt.monotone.extragradient import (
    AnchoredExtraGradient,
    ExtraGradient,
    FastExtraGradient,
    OptimisticGradient,
)
from lowrank_opt.monotone.fixed_point import FixedPointProblem
from lowrank_opt.monotone.inclusion import MonotoneInclusion

EVERY = [ExtraGradient, OptimisticGradient, AnchoredExtraGradient, FastExtraGradient]
ROTATION = np.array([[0.0, 1.0], [-1.0, 0.0]])


def bilinear(n, seed):
    return problems_suite.quadratic_game(n, curvature=0.0, seed=seed)


def iterates(solver, problem, n):
    state = solver.init(problem)
    return [solver.step(problem, state).x.copy() for _ in range(n)]


def boxed(sign=1.0):
    rng = np.random.default_rng(0)
    B = rng.standard_normal((3, 3))
    M, q = np.block([[np.zeros((3, 3)), B.T], [-B, np.zeros((3, 3))]]), rng.standard_normal(6)
    return MonotoneInclusion(
        (M, q), np.full(6, 0.2), prox=lambda x, t: np.clip(x, -1.0, 1.0)
    ), lambda u: M @ u + q


def test_iterations_by_hand():
    problem, F = boxed()
    L, start = problem.lipschitz, problem.start()

    def J(u):
        return np.clip(u, -1.0, 1.0)

    eg, og, before, ec, ev, a = start, start, F(start), start, start, 0.618 / L
    fast, g = start, np.zeros(6)
    n = 6
    found = [
        iterates(ExtraGradient(tol=0.0), problem, n),
        iterates(OptimisticGradient(tol=0.0), problem, n),
        iterates(AnchoredExtraGradient(variant="C", tol=0.0), problem, n),
        iterates(AnchoredExtraGradient(variant="V", tol=0.0), problem, n),
        iterates(FastExtraGradient(tol=0.0), problem, n),
    ]
    for k in range(n):
        t = 0.9 / L
        eg = J(eg - t * F(J(eg - t * F(eg))))
        t = 0.45 / L
        now = F(og)
        og, before = J(og - t * (2 * now - before)), now
        t, p = 0.125 / L, ec + (start - ec) / (k + 2)
        ec = J(p - t * F(J(p - t * F(ec))))
        p = ev + (start - ev) / (k + 2)
        ev = J(p - a * F(J(p - a * F(ev))))
        s = (a * L) ** 2
        a = a / (1 - s) * (1 - (k + 2) ** 2 / ((k + 1) * (k + 3)) * s)
        b = 1.0 / (k + 1)
        p = fast + b * (start - fast)
        moved = p - F(p - (1 - b) / L * (F(fast) + g)) / L
        fast = J(moved)
        g = L * (moved - fast)
        for path, point in zip(found, (eg, og, ec, ev, fast), strict=True):
            assert np.allclose(path[k], point, atol=1e-13)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    ("solver", "square"),
    [
        (AnchoredExtraGradient(variant="C", tol=0.0), lambda k: 260.0 / (k + 1) ** 2),
        (AnchoredExtraGradient(variant="V", tol=0.0), lambda k: 27.0 / ((k + 1) * (k + 2))),
        (FastExtraGradient(tol=0.0), lambda k: 4.0 / k**2),
    ],
    ids=["EAG-C", "EAG-V", "FEG"],
)
def test_bounds_of_anchored_methods(solver, square, seed):
    for problem, answer in (
        bilinear(6, seed), problems_suite.quadratic_game(6, 0.3, seed),
        (MonotoneInclusion((ROTATION, np.zeros(2)), np.ones(2)), np.zeros(2)),
    ):  # fmt: skip
        M, q = problem.affine
        scale = (problem.lipschitz * la.norm(problem.start() - answer)) ** 2
        for k, u in enumerate(iterates(solver, problem, 120), start=1):
            assert la.norm(M @ u + q) ** 2 <= square(k) * scale * (1 + 1e-10)


def test_bound_of_fast_extragradient_with_a_projection():
    problem, F = boxed()
    answer = FastExtraGradient(restart="adaptive", tol=1e-11).solve(problem)
    assert answer.success
    D = la.norm(problem.start() - answer.x)
    states = FastExtraGradient(tol=0.0).iterate(problem)
    for k in range(1, 150):
        state = next(states)
        assert la.norm(F(state.x) + state.element) <= 2 * problem.lipschitz * D / k * (1 + 1e-9)
        inside = np.abs(state.x) < 1.0
        assert np.allclose(state.element[inside], 0.0, atol=1e-10)  # a normal vector of the box
        assert np.all(state.element[~inside] * state.x[~inside] >= 0.0)


def test_anchored_methods_beat_extragradient_on_the_worst_quadratic():
    problem, _ = problems_suite.ouyang_xu(20)
    residual = {
        cls: cls(max_iter=400, tol=0.0).solve(problem).residual
        for cls in (ExtraGradient, FastExtraGradient)
    }
    assert residual[FastExtraGradient] < residual[ExtraGradient]


@pytest.mark.parametrize("cls", EVERY)
def test_exact_answers(cls):
    problem, answer = problems_suite.quadratic_game(5, curvature=1.0)
    extra = {"restart": "adaptive"} if "restart" in cls._signature() else {}
    result = cls(tol=1e-8, **extra).solve(problem)
    assert result.success
    assert np.allclose(result.x, answer, atol=1e-5)


@pytest.mark.parametrize("cls", EVERY)
def test_a_start_outside_the_domain_and_float32(cls):
    problem = MonotoneInclusion(
        (np.diag([1.0, 2.0]).astype(np.float32), np.array([-3.0, 1.0], np.float32)),
        np.array([7.0, 9.0], np.float32), prox=lambda x, t: np.clip(x, 0.0, 1.0),
    )  # fmt: skip
    extra = {"restart": "adaptive"} if "restart" in cls._signature() else {}
    result = cls(tol=1e-4, **extra).solve(problem)
    assert result.success
    assert result.x.dtype == np.float32
    assert np.allclose(result.x, [1.0, 0.0], atol=1e-3)


@pytest.mark.parametrize("cls", EVERY)
def test_maps_without_an_operator_are_refused(cls):
    with pytest.raises(UnsupportedProblemError, match="HasMonotoneOperator"):
        cls().solve(FixedPointProblem(lambda u: -u, np.ones(2)))


@pytest.mark.parametrize("cls", EVERY)
@pytest.mark.parametrize("step_size", [0.0, -1.0, np.nan])
def test_steps_out_of_range(cls, step_size):
    with pytest.raises(ParameterError, match="step_size"):
        cls(step_size=step_size).solve(MonotoneInclusion((ROTATION, np.zeros(2)), np.ones(2)))


@pytest.mark.parametrize("cls", [ExtraGradient, OptimisticGradient])
def test_too_long_steps_end_honestly(cls):
    problem = MonotoneInclusion((ROTATION, np.zeros(2)), np.ones(2))
    result = cls(step_size=3.0, max_iter=2000).solve(problem)
    assert not result.success
    assert np.all(np.isfinite(result.x))
    assert result.residual <= 1.0
