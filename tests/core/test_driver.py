"""The loop of Solver.solve: statuses, limits, interrupts, callbacks, certificates."""

from __future__ import annotations

import copy
import pickle
import signal
import threading
import time

import numpy as np
import pytest

from lowrank_opt.core import (
    Certificate,
    Checkpoint,
    History,
    ParameterError,
    ProblemError,
    Result,
    Status,
    UnsupportedProblemError,
)
from lowrank_opt.core.serialize import read_npz
from lowrank_opt.testing._points import difference
from lowrank_opt.testing.example import GradientDescent, Quadratic, make_quadratic


def answer(problem):
    return np.linalg.solve(problem.A, problem.b)


class Scripted(GradientDescent):
    """Do something before each step, given the number of iterations done."""

    def __init__(self, *, tol=1e-6, max_iter=1000, max_time=None, check_every=1, script=None):
        self.tol = tol
        self.max_iter = max_iter
        self.max_time = max_time
        self.check_every = check_every
        self.script = script

    step_size = 0.1

    def step(self, problem, state, n=1):
        for _ in range(n):
            self.script(state)
            super().step(problem, state)
        return state


def press(nits, times=1):
    """Ctrl-C at these iterations."""

    def script(state):
        if state.nit in nits:
            for _ in range(times):
                signal.raise_signal(signal.SIGINT)

    return script


@pytest.fixture(autouse=True)
def _python_handler():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    signal.signal(signal.SIGINT, before)


def test_converged_result_has_all_keys_and_the_right_answer():
    problem = make_quadratic()
    result = GradientDescent(tol=1e-10).solve(problem)
    assert result.success
    assert result.status is Status.CONVERGED
    np.testing.assert_allclose(result.x, answer(problem), rtol=1e-8)
    x = answer(problem)
    assert result.fun == pytest.approx(-0.5 * problem.b @ x, rel=1e-12)
    assert result.residual <= 1e-10
    assert result.certificate.residual == pytest.approx(result.residual)
    assert result.counts == {"gradients": result.nit + 1}
    assert f"{result.nit} iterations" in result.message
    assert result.time >= result.setup_time >= 0.0
    assert result.compile_time == 0.0
    assert result.solver == "GradientDescent(tol=1e-10)"
    assert result.problem == repr(problem)
    assert result.keys() == Result().keys()


def test_status_is_stalled_when_the_certificate_disagrees():
    class Strict(Quadratic):
        def certificate(self, x):
            return replace_residual(super().certificate(x), 11.0)

    def replace_residual(certificate, factor):
        return Certificate(factor * 1e-6, "strict measure", certificate.objective)

    problem = make_quadratic()
    result = GradientDescent(tol=1e-6).solve(Strict(problem.A, problem.b))
    assert result.status is Status.STALLED
    assert not result.success
    assert "strict measure 1.100e-05" in result.message
    assert "tol 1.0e-06" in result.message


def test_a_nan_certificate_is_no_confirmation():
    class Nan(Quadratic):
        def certificate(self, x):
            return Certificate(np.nan, "nan", self.objective(x))

    problem = make_quadratic()
    assert GradientDescent().solve(Nan(problem.A, problem.b)).status is Status.STALLED


def test_a_problem_without_certificate_is_trusted():
    class Bare:
        def __init__(self, inner):
            self.b, self.gradient, self.objective = inner.b, inner.gradient, inner.objective

    problem = make_quadratic()
    result = GradientDescent().solve(Bare(problem))
    assert result.success
    assert result.certificate is None
    assert result.fun == problem.objective(result.x)


@pytest.mark.parametrize("nit", [0, 1, 7])
def test_iteration_limit(nit):
    result = GradientDescent(max_iter=nit, check_every=5).solve(make_quadratic())
    assert (result.status, result.nit) == (Status.ITERATION_LIMIT, nit)
    assert f"max_iter={nit}" in result.message


def test_convergence_wins_over_a_limit_reached_at_the_same_time():
    problem = make_quadratic()
    nit = GradientDescent().solve(problem).nit
    assert GradientDescent(max_iter=nit).solve(problem).success
    start = GradientDescent(max_iter=0).solve(problem, x0=answer(problem))
    assert start.success


def test_time_limit_is_kept_within_one_step():
    slow = Scripted(max_time=0.05, script=lambda state: time.sleep(0.02))
    result = slow.solve(make_quadratic())
    assert result.status is Status.TIME_LIMIT
    assert 1 <= result.nit <= 3
    assert "max_time=0.05 s" in result.message


def test_time_limit_counts_this_call_only():
    problem = make_quadratic()
    first = Scripted(max_iter=3, script=lambda state: time.sleep(0.05)).solve(problem)
    assert first.time > 0.15
    again = GradientDescent(max_time=30.0).solve(problem, state=first.state)
    assert again.success


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_divergence(value):
    def spoil(state):
        if state.nit == 3:
            state.gradient = np.full_like(state.gradient, value)

    with np.errstate(all="ignore"):
        result = Scripted(script=spoil).solve(make_quadratic())
    assert result.status is Status.DIVERGED
    assert not result.success
    assert result.nit == 4


def test_divergence_returns_the_best_finite_point_when_it_is_kept():
    class Keeps(Scripted):
        def step(self, problem, state, n=1):
            state.best, state.best_residual = state.x.copy(), state.residual
            return super().step(problem, state, n)

    def spoil(state):
        if state.nit == 3:
            state.gradient = np.full_like(state.gradient, np.nan)

    result = Keeps(script=spoil).solve(make_quadratic())
    assert result.status is Status.DIVERGED
    assert np.isfinite(result.x).all()
    assert np.isfinite(result.residual)
    assert not np.shares_memory(result.x, result.state.best)


@pytest.mark.parametrize("error", [np.linalg.LinAlgError, FloatingPointError, ZeroDivisionError])
def test_numerical_failure_is_a_status_with_its_cause(error):
    def fail(state):
        if state.nit == 2:
            raise error("singular at heart")

    result = Scripted(script=fail).solve(make_quadratic())
    assert result.status is Status.NUMERICAL_ERROR
    assert "singular at heart" in result.message
    assert "cannot be resumed" in result.message
    assert np.isfinite(result.x).all()


def test_other_errors_reach_the_caller():
    def fail(state):
        raise KeyError("a bug")

    with pytest.raises(KeyError, match="a bug"):
        Scripted(script=fail).solve(make_quadratic())


def test_callback_gets_intermediate_results_and_stops():
    problem, seen = make_quadratic(), []

    def callback(intermediate_result):
        seen.append(
            (intermediate_result.nit, intermediate_result.fun, intermediate_result.residual)
        )
        assert intermediate_result.counts["gradients"] == intermediate_result.nit + 1
        assert intermediate_result.message == "running"
        assert intermediate_result.certificate is None
        assert intermediate_result.solver == "GradientDescent()"
        assert not intermediate_result.success
        assert problem.objective(intermediate_result.x) == intermediate_result.fun
        assert intermediate_result.state.nit == intermediate_result.nit
        assert "iteration" in repr(intermediate_result)
        with pytest.raises(AttributeError):
            _ = intermediate_result.nonsense
        if intermediate_result.nit == 4:
            raise StopIteration

    result = GradientDescent().solve(problem, callback=callback)
    assert [row[0] for row in seen] == [0, 1, 2, 3, 4]
    assert result.status is Status.STOPPED_BY_CALLBACK
    assert (result.fun, result.residual) == seen[-1][1:]


def test_callback_sees_the_last_iterate_and_cannot_undo_convergence():
    problem = make_quadratic()

    def stop_at_the_end(intermediate_result):
        if intermediate_result.residual <= 1e-6:
            raise StopIteration

    assert GradientDescent().solve(problem, callback=stop_at_the_end).success


def test_intermediate_results_can_be_copied_inside_but_not_asked_later():
    kept, late = [], []

    def callback(intermediate_result):
        kept.append(pickle.loads(pickle.dumps(intermediate_result)))
        kept.append(copy.deepcopy(intermediate_result))
        late.append(intermediate_result)

    problem = make_quadratic()
    GradientDescent(max_iter=1).solve(problem, callback=callback)
    assert [r.nit for r in kept] == [0, 0, 1, 1]
    np.testing.assert_array_equal(kept[0].x, np.zeros(5))
    assert kept[3].fun == problem.objective(kept[3].x) < kept[0].fun
    fresh = []
    GradientDescent(max_iter=1).solve(problem, callback=fresh.append)
    with pytest.raises(KeyError, match="inside the callback"):
        fresh[0]["x"]
    with pytest.raises(AttributeError):
        _ = fresh[0].x
    assert late[0].x is not None  # asked for by the copy above


def test_check_every_does_not_change_the_iterates():
    problem = make_quadratic()
    one = GradientDescent(max_iter=20, tol=0.0).solve(problem)
    seven = GradientDescent(max_iter=20, tol=0.0, check_every=7).solve(problem)
    assert difference(one.x, seven.x) is None
    seen = []
    GradientDescent(max_iter=20, tol=0.0, check_every=7).solve(
        problem, callback=lambda intermediate_result: seen.append(intermediate_result.nit)
    )
    assert seen == [0, 7, 14, 20]


def test_check_every_auto_grows_while_steps_are_fast():
    seen = []
    GradientDescent(max_iter=300, tol=0.0, check_every="auto").solve(
        make_quadratic(), callback=lambda intermediate_result: seen.append(intermediate_result.nit)
    )
    assert seen[:3] == [0, 1, 3] or len(seen) > 100  # a busy machine may make every step slow
    slow = []
    Scripted(max_iter=5, tol=0.0, check_every="auto", script=lambda state: time.sleep(2e-3)).solve(
        make_quadratic(), callback=lambda intermediate_result: slow.append(1)
    )
    assert len(slow) == 6


def test_ctrl_c_in_the_callback():
    problem = make_quadratic()

    def callback(intermediate_result):
        if intermediate_result.nit == 3:
            signal.raise_signal(signal.SIGINT)

    result = GradientDescent().solve(problem, callback=callback)
    assert (result.status, result.nit) == (Status.INTERRUPTED, 3)
    assert np.isfinite(result.x).all()
    resumed = GradientDescent().solve(problem, state=result.state)
    assert difference(resumed.x, GradientDescent().solve(problem).x) is None


def test_ctrl_c_in_an_oracle_ends_the_run_after_the_step():
    class Pressed(Quadratic):
        def gradient(self, x, out=None):
            if calls.append(1) or len(calls) == 4:
                signal.raise_signal(signal.SIGINT)
            return super().gradient(x)

    calls = []
    problem = make_quadratic()
    pressed = Pressed(problem.A, problem.b)
    result = GradientDescent().solve(pressed)
    assert (result.status, result.nit) == (Status.INTERRUPTED, 3)
    resumed = GradientDescent().solve(pressed, state=result.state)
    assert difference(resumed.x, GradientDescent().solve(problem).x) is None


def test_a_second_ctrl_c_ends_the_run_at_once_and_keeps_the_checkpoint(tmp_path):
    problem = make_quadratic()
    checkpoint = Checkpoint(tmp_path / "run.npz", every_seconds=0.0)
    result = Scripted(script=press({5}, times=2)).solve(problem, checkpoint=checkpoint)
    assert (result.status, result.nit) == (Status.INTERRUPTED, 5)
    assert "cannot be resumed" in result.message
    state = read_npz(checkpoint.path)[1]["state"]
    resumed = GradientDescent().solve(problem, state=state)
    assert state.nit == 5
    assert difference(resumed.x, GradientDescent().solve(problem).x) is None


def test_ctrl_c_that_nobody_waits_for_is_left_to_other_handlers():
    caught = []
    signal.signal(signal.SIGINT, lambda signum, frame: caught.append(signum))
    result = Scripted(script=press({2}), max_iter=4).solve(make_quadratic())
    signal.signal(signal.SIGINT, signal.default_int_handler)
    assert caught == [signal.SIGINT]
    assert result.status is Status.ITERATION_LIMIT


def test_a_handler_that_raises_still_gives_a_result():
    def raising(signum, frame):
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, raising)
    result = Scripted(script=press({2})).solve(make_quadratic())
    signal.signal(signal.SIGINT, signal.default_int_handler)
    assert (result.status, result.nit) == (Status.INTERRUPTED, 2)


def test_the_handler_is_restored_after_an_error():
    def fail(state):
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        Scripted(script=fail).solve(make_quadratic())
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_threads_other_than_the_main_one_install_no_handler():
    results = []

    def work():
        results.append(GradientDescent().solve(make_quadratic()))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert results[0].success


def test_ctrl_c_while_starting_gives_the_starting_point():
    class Pressed(GradientDescent):
        def init(self, problem, x0=None):
            signal.raise_signal(signal.SIGINT)
            return super().init(problem, x0)

    result = Pressed().solve(make_quadratic())
    assert (result.status, result.nit) == (Status.INTERRUPTED, 0)


@pytest.mark.parametrize(
    ("keywords", "match"),
    [
        ({"history": True}, r"history=True is a bool; expected .*History\(every=10\)"),
        ({"history": []}, r"history=\[\] is a list; expected"),
        ({"callback": 1}, "callback=1 is a int; expected a function of one argument"),
        ({"state": {}}, "state is a dict; expected a State"),
        ({"state": Result()}, r"state is a Result; .*state=result\.state"),
    ],
)
def test_keywords_are_checked_before_the_run(keywords, match):
    class Never(GradientDescent):
        def init(self, problem, x0=None):
            pytest.fail("the run has begun")

    with pytest.raises(ParameterError, match=rf"Never\.solve: {match}"):
        Never().solve(make_quadratic(), **keywords)


def test_a_result_is_no_start():
    problem = make_quadratic()
    result = GradientDescent().solve(problem)
    with pytest.raises(ProblemError, match=r"GradientDescent\.solve: x0 is a Result.*x0=result\.x"):
        GradientDescent().solve(problem, x0=result)
    with pytest.raises(TypeError, match=r"GradientDescent\.iterate: x0 is a Result"):
        next(GradientDescent().iterate(problem, x0=result))


def test_x0_and_state_exclude_each_other():
    problem = make_quadratic()
    state = GradientDescent(max_iter=2).solve(problem).state
    with pytest.raises(ParameterError, match=r"x0 .* or state"):
        GradientDescent().solve(problem, x0=np.zeros(5), state=state)


class Polished(GradientDescent):
    """Hands out a better point than its last iterate."""

    offered = 0.0

    def answer(self, problem, state, status):
        x = answer(problem) + self.offered * np.ones(5)
        return x, 1e-12


@pytest.mark.parametrize(
    ("limits", "status"),
    [({"max_iter": 2}, Status.ITERATION_LIMIT), ({"max_time": 0.0}, Status.TIME_LIMIT)],
)
def test_an_answer_within_the_tolerance_at_a_limit_has_converged(limits, status):
    problem = make_quadratic()
    result = Polished(**limits).solve(problem)
    assert result.status is Status.CONVERGED
    assert result.success
    assert result.message.startswith("Converged: residual 1.000e-12")
    assert GradientDescent(**limits).solve(problem).status is status
    wrong = Polished(**limits)
    wrong.offered = 1.0
    result = wrong.solve(problem)  # the certificate does not confirm
    assert (result.status, result.success) == (status, False)

    def stop(intermediate_result):
        raise StopIteration

    stopped = Polished().solve(problem, callback=stop)
    assert stopped.status is Status.STOPPED_BY_CALLBACK


def test_missing_oracles_are_listed():
    with pytest.raises(UnsupportedProblemError, match=r"GradientDescent cannot solve int.*HasGrad"):
        GradientDescent().solve(3)


def test_the_given_state_is_not_changed():
    problem = make_quadratic()
    state = GradientDescent(max_iter=2).solve(problem).state
    before = copy.deepcopy(state)
    GradientDescent().solve(problem, state=state)
    assert difference(state, before) is None


def test_iterate_yields_states():
    problem = make_quadratic()
    full = GradientDescent().solve(problem)
    states = [state.nit for state in GradientDescent().iterate(problem)]
    assert states == list(range(1, full.nit + 1))
    states = [state.nit for state in GradientDescent(max_iter=10).iterate(problem, n=4)]
    assert states == [4, 8, 10]
    assert list(GradientDescent().iterate(problem, x0=full.x)) == []
    with pytest.raises(ParameterError):
        next(GradientDescent(tol=-1.0).iterate(problem))


def test_point_is_a_copy_whatever_its_form():
    solver, problem = GradientDescent(), make_quadratic()
    state = solver.init(problem)
    for x in (state.x, (np.ones(2), np.zeros(1)), {"a": [np.ones(1)]}):
        state.x = x
        point = solver.point(problem, state)
        assert difference(point, x) is None
        arrays = (
            point
            if isinstance(point, np.ndarray)
            else next(iter(point))
            if isinstance(point, tuple)
            else point["a"][0]
        )
        arrays[...] = 7.0
        assert difference(point, x) is not None


def test_clock_leaves_out_callback_history_and_progress():
    class Slow:
        def update(self, **numbers):
            time.sleep(0.02)

    result = GradientDescent(max_iter=3).solve(
        make_quadratic(),
        callback=lambda intermediate_result: time.sleep(0.02),
        history=History(extra={"slow": lambda problem, x: time.sleep(0.02) or 0.0}),
        progress=Slow(),
    )
    assert result.time < 0.1
