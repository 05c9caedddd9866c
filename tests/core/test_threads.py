from __future__ import annotations

import subprocess
import sys
import threading
import time

import numba
import numpy as np
import pytest
import threadpoolctl

from lowrank_opt.core import thread_limit, threads
from lowrank_opt.core.threads import compile_clock
from lowrank_opt.testing.example import GradientDescent, make_quadratic


def blas_threads():
    """Threads of the BLAS libraries that can have two; some wheels bring one built for one."""
    with threadpoolctl.threadpool_limits(2, user_api="blas"):
        able = {pool["filepath"] for pool in _blas_pools() if pool["num_threads"] == 2}
    return sorted(pool["num_threads"] for pool in _blas_pools() if pool["filepath"] in able)


def _blas_pools():
    return [pool for pool in threadpoolctl.threadpool_info() if pool["user_api"] == "blas"]


@pytest.fixture(autouse=True)
def _two_threads():
    """Start every test with two threads, even under a test runner that allows one."""
    if numba.config.NUMBA_NUM_THREADS < 2:
        pytest.skip("one thread only: NUMBA_NUM_THREADS or the machine")
    np.ones((2, 2)) @ np.ones((2, 2))
    with threadpoolctl.threadpool_limits(2, user_api="blas"):
        yield


def test_limits_numba_and_blas_and_restores_them():
    before = numba.get_num_threads(), blas_threads()
    with thread_limit(1):
        assert numba.get_num_threads() == 1
        assert set(blas_threads()) == {1}
        with thread_limit(2):
            assert numba.get_num_threads() == 2
            assert set(blas_threads()) == {2}
        assert set(blas_threads()) == {1}
    assert (numba.get_num_threads(), blas_threads()) == before


def test_none_changes_nothing():
    before = numba.get_num_threads(), blas_threads()
    with thread_limit(None):
        assert (numba.get_num_threads(), blas_threads()) == before


def test_more_than_there_are_means_all():
    with thread_limit(10_000):
        assert numba.get_num_threads() == numba.config.NUMBA_NUM_THREADS


def test_restored_after_an_error():
    before = numba.get_num_threads(), blas_threads()
    with pytest.raises(RuntimeError, match="stop"), thread_limit(1):
        raise RuntimeError("stop")
    assert (numba.get_num_threads(), blas_threads()) == before


class FakeLimits:
    """A BLAS whose limit belongs to the process, as most do."""

    current = 8

    def __init__(self, limits):
        self.before, FakeLimits.current = FakeLimits.current, limits

    def restore_original_limits(self):
        FakeLimits.current = self.before


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2), (0, 2, 1)])
def test_overlapping_runs_restore_blas(order, monkeypatch):
    """Runs of several threads begin in turn and end in any order."""
    monkeypatch.setattr(threads._blas_limits, "_limit", FakeLimits)
    runs = [thread_limit(n) for n in (1, 2, 3)]
    for i, run in enumerate(runs):
        run.__enter__()
        assert FakeLimits.current == i + 1
    left = {1, 2, 3}
    for i in order:
        runs[i].__exit__(None, None, None)
        left.remove(i + 1)
        assert FakeLimits.current == max(left, default=8)


def test_solve_uses_the_limit_of_its_solver():
    seen = []

    class Limited(GradientDescent):
        def __init__(self, *, tol=1e-6, max_iter=1000, n_threads=None):
            self.tol = tol
            self.max_iter = max_iter
            self.n_threads = n_threads

        step_size = 0.1

        def step(self, problem, state, n=1):
            seen.append((numba.get_num_threads(), *set(blas_threads())))
            return super().step(problem, state, n)

    before = numba.get_num_threads()
    Limited(n_threads=1, max_iter=1).solve(make_quadratic())
    next(Limited(n_threads=1, max_iter=1).iterate(make_quadratic()))
    Limited(max_iter=1).solve(make_quadratic())
    assert seen == [(1, 1), (1, 1), (before, 2)]


def compile_something(constant):
    @numba.njit
    def inner(x):
        return x + constant

    @numba.njit
    def outer(x):
        return 2 * inner(x)

    start = time.perf_counter()
    outer(1.0)
    return time.perf_counter() - start


def test_compile_clock_counts_nested_compilation_once():
    before = compile_clock.read()
    wall = compile_something(1)
    counted = compile_clock.read() - before
    assert 0.2 * wall < counted <= wall


def test_compile_clock_belongs_to_the_thread():
    before = compile_clock.read()
    thread = threading.Thread(target=compile_something, args=(2,))
    thread.start()
    thread.join()
    assert compile_clock.read() == before


def test_compilation_is_not_counted_as_solving():
    class Compiling(GradientDescent):
        def init(self, problem, x0=None):
            compile_something(3)
            return super().init(problem, x0)

        def step(self, problem, state, n=1):
            if state.nit == 0:
                compile_something(4)
            return super().step(problem, state, n)

    start = time.perf_counter()
    result = Compiling(max_iter=3).solve(make_quadratic())
    wall = time.perf_counter() - start
    assert result.compile_time > 0.0
    assert result.time + result.compile_time <= wall
    assert result.setup_time <= result.time


def test_the_clock_does_not_import_numba():
    code = (
        "import sys, lowrank_opt.core.threads as t\n"
        "assert t.compile_clock.read() == 0.0 and 'numba' not in sys.modules\n"
        "with t.thread_limit(None): assert 'numba' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_a_blas_that_is_loaded_later_is_limited_too():
    """The libraries are remembered between runs, but not past an import."""
    code = """if 1:
        from lowrank_opt.core import thread_limit
        from threadpoolctl import threadpool_info, threadpool_limits
        import numpy
        with thread_limit(1):
            pass
        import scipy.linalg  # has a BLAS of its own
        with threadpool_limits(2, user_api="blas"), thread_limit(1):
            print(sorted({p["num_threads"] for p in threadpool_info() if p["user_api"] == "blas"}))
    """
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[1]"
