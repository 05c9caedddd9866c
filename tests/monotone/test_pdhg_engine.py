"""The engine of Halpern PDHG: bounds of the theory, restarts, weights, steps."""

from __future__ import annotations

import copy
import math
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.sparse as sp

from lowrank_opt.monotone import LinearProgram, PrimalDual, QuadraticProgram, pdhg_sleep
from lowrank_opt.monotone import pdhg_engine as engine
from lowrank_opt.monotone.pdhg_restart import hpr_weight, pid_weight, restart_due
from lowrank_opt.monotone.scaling import scale_program, single_precision

INF = np.inf


def planted(seed=0, m=15, n=30):
    """A program and its only solution."""
    rng = np.random.default_rng(seed)
    A = rng.standard_normal((m, n)) * (rng.random((m, n)) < 0.5)
    x, y = np.zeros(n), rng.standard_normal(m)
    x[rng.permutation(n)[:m]] = rng.random(m) + 0.5
    c = A.T @ y + np.where(x > 0, 0.0, rng.random(n) + 0.1)
    return LinearProgram(c, sp.csr_array(A), A @ x, A @ x, 0.0, None), PrimalDual(x, y)


def transport(n=12, seed=0):
    rng = np.random.default_rng(seed)
    a, b = rng.dirichlet(np.ones(n)), rng.dirichlet(np.ones(n))
    A = sp.vstack(
        [sp.kron(sp.eye_array(n), np.ones((1, n))), sp.kron(np.ones((1, n)), sp.eye_array(n))]
    )
    sides = np.concatenate([a, b])
    return LinearProgram(rng.random(n * n), sp.csr_array(A), sides, sides, 0.0, None)


def new_run(problem, *, single=False, x0=None, **options):
    scaled = scale_program(problem)
    program = single_precision(scaled) if single else scaled
    work = engine.Work(program, engine.Options(**options))
    m, n = problem.shape
    start = (np.zeros(n), np.zeros(m)) if x0 is None else scaled.from_user(*x0)
    return work, engine.start(work, *start, np.random.default_rng(0))


def certificate(problem, work, state):
    return problem.certificate(PrimalDual(*work.program.to_user(state.x_hat, state.y_hat)))


@pytest.mark.parametrize("options", [{}, {"weight": "pid"}, {"step": "constant"}, {"reflect": 0.6}])
@pytest.mark.parametrize("seed", [0, 1])
def test_planted_optimum_is_found(options, seed):
    problem, answer = planted(seed)
    work, state = new_run(problem, **options)
    engine.advance(work, state, 40_000, 1e-9)
    assert state.residual <= 1e-9
    assert certificate(problem, work, state).residual == pytest.approx(state.residual, rel=1e-6)
    x, y = work.program.to_user(state.x_hat, state.y_hat)
    np.testing.assert_allclose(x, answer.x, atol=1e-6)
    np.testing.assert_allclose(y, answer.y, atol=1e-6)


def test_error_without_restart_obeys_the_bound():
    """|z - R z| <= 2 |z0 - z*| / (k + 1) for the reflection R, in the norm of the method."""
    problem, answer = planted(2)
    for weight in (0.3, 1.0, 4.0):
        work, state = new_run(problem, restart=False, step="constant", weight="fixed")
        state.weight = weight
        star = work.program.from_user(*answer)
        A = sp.csr_array(
            (
                work.program.rows.val,
                work.program.rows.idx.astype(int),
                work.program.rows.ptr.astype(int),
            ),
            shape=problem.shape,
        )

        def length(dx, dy, A=A, step=state.step, weight=weight):
            square = weight * dx @ dx + dy @ dy / weight + 2.0 * step * dy @ (A @ dx)
            return math.sqrt(max(square, 0.0))

        distance = length(state.x_scaled - star[0], state.y_scaled - star[1])
        worst = 0.0
        for k in range(400):
            hat = engine.mapped(work, state)
            error = 2.0 * length(state.x_scaled - hat[0], state.y_scaled - hat[1])
            worst = max(worst, error * (k + 1) / (2.0 * distance))
            engine.advance(work, state, 1)
        assert worst <= 1.0 + 1e-9
        assert worst > 0.05


def test_restarts_make_it_converge_linearly():
    problem, _ = planted(3)
    plain = new_run(problem, restart=False, step="constant")
    quick = new_run(problem, step="constant")
    logs = []
    for work, state in (plain, quick):
        residuals = []
        for _ in range(100):
            engine.advance(work, state, 64)
            residuals.append(state.residual)
        logs.append(residuals)
    assert min(logs[1]) < 1e-11
    assert min(logs[0]) > 1e4 * min(logs[1])
    assert plain[1].restarts == 0 < quick[1].restarts


@pytest.mark.parametrize("single", [False, True])
def test_steps_can_be_divided_at_will(single):
    problem, _ = planted(4)
    work, whole = new_run(problem, single=single)
    part = copy.deepcopy(whole)
    engine.advance(work, whole, 500)
    rng = np.random.default_rng(0)
    left = 500
    while left:
        n = min(left, int(rng.integers(1, 100)))
        other = engine.Work(work.program, work.options)  # buffers hold nothing that matters
        engine.advance(other, part, n)
        left -= n
    assert (part.nit, part.inner, part.restarts) == (whole.nit, whole.inner, whole.restarts)
    for name in ("x_scaled", "y_scaled", "x_anchor", "y_anchor", "x_hat", "y_hat"):
        np.testing.assert_array_equal(getattr(part, name), getattr(whole, name))
    assert part.residual == whole.residual
    assert part.weight == whole.weight
    assert whole.x_scaled.dtype == (np.float32 if single else np.float64)


def test_epochs_and_iterations_add_up(monkeypatch):
    problem, _ = planted(5)
    lengths = []
    inner = engine.restart

    def counted(work, state, point, tune):
        lengths.append(state.inner)
        inner(work, state, point, tune)

    monkeypatch.setattr(engine, "restart", counted)
    work, state = new_run(problem)
    engine.advance(work, state, 3000)
    assert len(lengths) == state.restarts > 2
    assert sum(lengths) + state.inner == state.nit == 3000


def test_the_best_point_is_kept():
    problem, _ = planted(6)
    work, state = new_run(problem)
    residuals = [state.residual]
    for _ in range(60):
        engine.advance(work, state, 64)
        residuals.append(state.residual)
    assert state.best_residual == min(residuals)
    assert engine.measure(work, *state.best_scaled).worst == state.best_residual
    assert state.best_nit == 64 * int(np.argmin(residuals))


def test_restricted_step_is_longer_and_pays_on_transport():
    problem = transport(40)
    used = {}
    for step in ("restricted", "constant"):
        work, state = new_run(problem, step=step)
        engine.advance(work, state, 50_000, 1e-7)
        assert state.residual <= 1e-7
        assert certificate(problem, work, state).residual <= 1.1e-7
        used[step] = state.nit, state.step / work.safe_step
    assert used["constant"][1] == 1.0
    assert 1.5 < used["restricted"][1] <= 30.0
    assert used["restricted"][0] < 0.7 * used["constant"][0]


def test_the_guard_takes_too_long_a_step_back():
    problem, answer = planted(7)
    work, state = new_run(problem)
    engine.advance(work, state, 64)
    state.step = 60.0 * work.safe_step
    state.first_error = math.inf
    engine.advance(work, state, 256)
    assert state.shrink < 1.0
    engine.advance(work, state, 40_000, 1e-8)
    assert state.residual <= 1e-8
    x, _ = work.program.to_user(state.x_hat, state.y_hat)
    np.testing.assert_allclose(x, answer.x, atol=1e-5)


def test_growing_runs_take_the_constant_step():
    work, state = new_run(transport())
    state.growing = True
    engine.advance(work, state, 640)
    assert state.restarts > 1
    assert state.step == work.safe_step


def test_restart_criteria():
    state = SimpleNamespace(restarts=1, first_error=1.0, last_error=0.5, inner=10, nit=1000)
    assert restart_due(SimpleNamespace(**{**vars(state), "restarts": 0}), 0.9, 10)
    assert restart_due(state, 0.2, 10)
    assert not restart_due(state, 0.21, 10)
    assert restart_due(state, 0.55, 10)
    assert not restart_due(state, 0.65, 10)
    assert not restart_due(SimpleNamespace(**{**vars(state), "last_error": 0.58}), 0.55, 10)
    long = SimpleNamespace(**{**vars(state), "inner": 250})
    assert restart_due(long, 0.9, 10)
    assert not restart_due(long, 0.9, 10**6)
    assert restart_due(SimpleNamespace(**{**vars(state), "inner": 360}), 0.9, 10**6)


def weights_of(**kw):
    return SimpleNamespace(
        **{"weight": 2.0, "best_weight": 2.0, "best_quality": math.inf, "error_sum": 0.0, **kw}
    )


def test_hpr_weight_goes_to_the_ratio_of_moves_and_back_to_the_best():
    state = weights_of()
    new = hpr_weight(state, 1e-3, 1.0, 8.0)
    assert state.best_quality == 1e-3
    f = math.exp(-0.05)
    assert new == pytest.approx(math.exp(f * math.log(8.0) + (1 - f) * math.log(2.0)))
    state.weight = new
    far = hpr_weight(state, 1.0, 1.0, 8.0)  # a thousand times worse: the best weight it is
    assert far == pytest.approx(2.0, rel=1e-6)
    assert hpr_weight(state, 1e-9, 0.0, 1.0) == new  # no move: the weight of the best point


def test_pid_weight_goes_to_the_ratio_of_moves():
    state = weights_of()
    new = pid_weight(state, 1e-3, 1e-3, 1.0, 8.0)
    error = math.log(8.0) - math.log(2.0)
    assert new == pytest.approx(2.0 * math.exp(0.99 * error + 0.01 * error))
    assert state.error_sum == pytest.approx(error)
    again = pid_weight(state, 1e-3, 1e-3, 1.0, 2.0)
    assert again == pytest.approx(2.0 * math.exp(0.01 * 0.3 * error))
    state = weights_of(error_sum=1.0, best_weight=3.0, best_quality=0.0)
    assert pid_weight(state, 1e-3, 1e7, 1.0, 8.0) == 3.0
    assert state.error_sum == 0.0


def test_quadratic_program_with_a_closed_form():
    """Projection onto a hyperplane: x = p - a (a'p - b) / a'a."""
    rng = np.random.default_rng(8)
    a, p, b = rng.standard_normal(6), rng.standard_normal(6), 0.7
    problem = QuadraticProgram(np.eye(6), -p, a[None, :], [b], [b])
    work, state = new_run(problem)
    assert work.reflect == 0.75
    engine.advance(work, state, 20_000, 1e-10)
    assert state.residual <= 1e-10
    x, _ = work.program.to_user(state.x_hat, state.y_hat)
    np.testing.assert_allclose(x, p - a * (a @ p - b) / (a @ a), atol=1e-8)


def sparse_answer(seed=0, m=30, n=200):
    """Bounds of 0 from below and from above, some columns boxed or free; few columns matter."""
    rng = np.random.default_rng(seed)
    A = rng.standard_normal((m, n)) * (rng.random((m, n)) < 0.1)
    x, y = np.zeros(n), rng.standard_normal(m)
    x[rng.permutation(n)[:m]] = rng.standard_normal(m)
    lower = np.where(x > 0, 0.0, np.where(x < 0, -INF, 0.0))
    upper = np.where(x > 0, INF, np.where(x < 0, 0.0, INF))
    flip = (x == 0) & (rng.random(n) < 0.3)
    lower, upper = np.where(flip, -INF, lower), np.where(flip, 0.0, upper)
    z = np.where(x != 0, 0.0, rng.random(n) + 0.1) * np.where(flip, -1.0, 1.0)
    lower[:5], upper[:5] = x[:5] - 1.0, x[:5] + 1.0
    lower[5], upper[5], z[:6] = -INF, INF, 0.0
    return LinearProgram(A.T @ y + z, sp.csr_array(A), A @ x, A @ x, lower, upper)


@pytest.mark.parametrize("single", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_sleeping_columns_change_no_bit(seed, single, monkeypatch):
    problem = sparse_answer(seed)
    states = []
    for small in (10**9, 0):
        monkeypatch.setattr(pdhg_sleep, "SMALL", small)
        work, state = new_run(problem, single=single)
        parts = []
        for n in [64] * 20 + [7, 1, 50] * 30 + [640] * 3:
            engine.advance(work, state, n)
            parts.append(work.sleepers.part)
        states.append(state)
    kept = [len(part.keep) for part in parts if part is not None]
    assert len(kept) > 20
    assert min(kept) < 0.6 * problem.shape[1]
    a, b = states
    for name in ("x_scaled", "y_scaled", "x_anchor", "x_hat", "y_hat"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    assert a.residual == b.residual
    assert a.weight == b.weight


def test_sleepers_wake_when_multipliers_move(monkeypatch):
    monkeypatch.setattr(pdhg_sleep, "SMALL", 0)
    problem = sparse_answer(3)
    work, state = new_run(problem)
    engine.advance(work, state, 1000)
    part = work.sleepers.part
    assert part is not None
    assert work.sleepers.choose(state, state.nit) is part
    state.y_scaled[0] += 3.0 * work.sleepers.radius + 1e-3
    assert work.sleepers.choose(state, state.nit) is not part
    copied = copy.deepcopy(state)
    assert work.sleepers.choose(copied, state.nit) is None  # another run's arrays


def test_threads_are_timed_and_change_no_bit():
    problem, _ = planted(9)
    work, one = new_run(problem)
    two = copy.deepcopy(one)
    other = engine.Work(work.program, work.options)
    other.pace = engine.Pace()
    other.column_borders = engine.borders(work.program.columns.ptr, 2)
    other.row_borders = engine.borders(work.program.rows.ptr, 2)
    engine.advance(work, one, 640)
    engine.advance(other, two, 640)
    assert min(other.pace.calls) >= 2
    np.testing.assert_array_equal(one.x_scaled, two.x_scaled)
    np.testing.assert_array_equal(one.y_scaled, two.y_scaled)


def test_pace_prefers_what_is_faster_and_looks_again():
    pace = engine.Pace()
    assert not pace.best
    pace.note(False, 64, 0.64)
    for seconds in (5.0, 0.008):  # the first time compiles
        assert pace.probe(64) == engine.PROBE
        pace.note(True, 8, seconds)
    assert pace.best
    for _ in range(3):
        pace.note(True, 56, 0.056)
    assert pace.probe(64) == engine.PROBE  # the serial way was seen once
    pace.note(False, 8, 0.08)
    assert pace.probe(64) == 0
    for _ in range(100):
        pace.note(True, 64, 0.064)
    assert pace.probe(64) == engine.PROBE
    assert pace.probe(8) == 0
