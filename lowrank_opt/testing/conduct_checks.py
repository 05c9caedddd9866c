"""How every solver must behave, whatever its method: one public function per requirement."""

from __future__ import annotations

import contextlib
import copy
import functools
import pickle
import re
import signal
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lowrank_opt.core import (
    Backend,
    Checkpoint,
    History,
    ParameterError,
    ProblemError,
    Result,
    Status,
    UnsupportedProblemError,
)
from lowrank_opt.testing._points import (
    difference,
    leaves,
    map_arrays,
    overwrite,
    snapshot,
    to_host,
)
from lowrank_opt.testing._runs import close, finite, refused, require, run, same, same_run, stop_at

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from lowrank_opt.testing.cases import SolverCase

__all__ = [
    "check_bad_inputs",
    "check_callback_cannot_corrupt",
    "check_clone_and_pickle",
    "check_deterministic",
    "check_does_not_touch_inputs",
    "check_history_excluded_from_time",
    "check_limits",
    "check_repr_roundtrip",
    "check_resume_is_bit_identical",
    "check_solver_unchanged",
]


def check_resume_is_bit_identical(case: SolverCase) -> None:
    """An interrupted run goes on with the same bits: in memory, by pickle, by checkpoint.

    The run is interrupted after the first, a middle, the last but one and the last iteration, by
    the callback and by ``max_iter``; and it must not matter into how many calls of ``step`` the
    iterations are divided.

    Parameters
    ----------
    case : SolverCase
        The solver and its problems.
    """
    full = case.answer()
    with tempfile.TemporaryDirectory() as folder:
        for nit in sorted({1, full.nit // 2, full.nit - 1, full.nit}):
            checkpoint = Checkpoint(Path(folder) / "run.npz", every_seconds=1e9)
            solver, problem = case.new_solver(check_every=1), case.problem()
            part = run(solver, problem, callback=stop_at(nit), checkpoint=checkpoint)
            require(part.nit == nit, f"the callback stopped at {nit}, result.nit is {part.nit}")
            limited = run(case.new_solver(check_every=1, max_iter=nit), problem)
            states = {
                "its state": part.state,
                "its pickled state": pickle.loads(pickle.dumps(part.state)),
                "its checkpoint": checkpoint.load(case.problem(), case.new_solver(check_every=1)),
                "the state of a run with max_iter": limited.state,
            }
            for name, state in states.items():
                before = copy.deepcopy(state)
                resumed = run(case.new_solver(check_every=1), case.problem(), state=state)
                what = f"interrupted after {nit} of {full.nit} iterations, resumed from {name}"
                same_run(resumed, full, what)
                same(state, before, f"{what}: solve must copy the state that it is given")
        nit = full.nit - 1
        whole = run(case.new_solver(check_every=nit, max_iter=nit), case.problem())
        steps = run(case.new_solver(check_every=1, max_iter=nit), case.problem())
        for key in ("x", "nit", "residual"):  # counters may differ: fewer checks, less work
            what = f"step(n={nit}) against {nit} times step(n=1): result.{key}"
            same(whole[key], steps[key], what)


def check_limits(case: SolverCase) -> None:
    """``max_iter``, ``max_time``, callback and Ctrl-C: right status, finite point, usable state.

    Ctrl-C is left out outside the main thread.

    Parameters
    ----------
    case : SolverCase
        The solver and its problems.
    """
    full = case.answer()

    def verify(result: Result, status: Status, nit: int | None, what: str) -> None:
        require(
            result.status is status and not result.success,
            f"{what}: status {result.status.name}, expected {status.name}; {result.message}",
        )
        require(nit is None or result.nit == nit, f"{what}: nit is {result.nit}, expected {nit}")
        finite(result.x, f"{what}: result.x")
        require(bool(np.isfinite(result.fun)), f"{what}: result.fun is {result.fun}")
        resumed = run(case.new_solver(check_every=1), case.problem(), state=result.state)
        require(resumed.success, f"{what}: resuming does not converge: {resumed.message}")
        close(case, resumed.x, full.x, f"{what}: the answer after resuming")

    middle = full.nit // 2
    for nit in sorted({0, 1, middle}):
        limited = run(case.new_solver(max_iter=nit, check_every=10**6), case.problem())
        verify(limited, Status.ITERATION_LIMIT, nit, f"max_iter={nit}")
    late = run(case.new_solver(max_time=0.0), case.problem())
    verify(late, Status.TIME_LIMIT, 0, "max_time=0")
    # Each step is made to outlast the limit; a start that took it all is given more.
    for limit in (0.1, 0.4, 1.6):
        slow = _slowed(
            case.new_solver(max_time=limit, check_every=1), functools.partial(time.sleep, limit)
        )
        late = run(slow, case.problem())
        if late.nit > 0:
            break
    verify(late, Status.TIME_LIMIT, 1, "max_time within the first step")
    stopped = run(case.new_solver(check_every=1), case.problem(), callback=stop_at(middle))
    verify(stopped, Status.STOPPED_BY_CALLBACK, middle, "StopIteration in the callback")
    if threading.current_thread() is not threading.main_thread():
        return
    with _default_interrupt():

        def press(intermediate_result: Result) -> None:
            if intermediate_result.nit == middle:
                signal.raise_signal(signal.SIGINT)

        pressed = run(case.new_solver(check_every=1), case.problem(), callback=press)
        verify(pressed, Status.INTERRUPTED, middle, "Ctrl-C in the callback")
        slow = _slowed(case.new_solver(check_every=1), lambda: signal.raise_signal(signal.SIGINT))
        verify(run(slow, case.problem()), Status.INTERRUPTED, 1, "Ctrl-C within the first step")


def _slowed(solver: Any, action: Callable[[], Any]) -> Any:
    """Do `action` at the beginning of each step."""
    step = solver.step

    def slow(problem: Any, state: Any, n: int = 1) -> Any:
        action()
        return step(problem, state, n)

    solver.step = slow
    return solver


@contextlib.contextmanager
def _default_interrupt() -> Iterator[None]:
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)


def check_callback_cannot_corrupt(case: SolverCase) -> None:
    """Overwriting what callback, history and result hand out changes no run.

    Parameters
    ----------
    case : SolverCase
        The solver and its problems.
    """
    full = case.answer()

    def spoil(intermediate_result: Result) -> None:
        overwrite(intermediate_result.x)
        overwrite(intermediate_result.state)
        intermediate_result.counts.clear()

    def spoil_point(problem: Any, x: Any) -> float:
        overwrite(x)
        return 0.0

    spoiled = run(case.new_solver(check_every=1), case.problem(), callback=spoil)
    same_run(spoiled, full, "the callback overwrote its copies of x and state")
    history = History(objective=False, extra={"spoiled": spoil_point})
    spoiled = run(case.new_solver(check_every=1), case.problem(), history=history)
    same_run(spoiled, full, "the history overwrote the point: point() must return a copy")
    problem = case.problem()
    part = run(case.new_solver(check_every=1), problem, callback=stop_at(full.nit // 2))
    overwrite(part.x)
    resumed = run(case.new_solver(check_every=1), problem, state=part.state)
    same_run(resumed, full, "result.x was overwritten before resuming from result.state")


def check_does_not_touch_inputs(case: SolverCase) -> None:
    """Problem and ``x0`` stay as they are, and may be read-only.

    Parameters
    ----------
    case : SolverCase
        The solver and its problems.
    """
    full = case.answer()
    x0 = case.perturb(full.x, np.random.default_rng(0))
    results = []
    for frozen in (False, True):
        problem, start = case.problem(), copy.deepcopy(x0)
        if frozen:
            for _, leaf in [*leaves(problem), *leaves(start)]:
                if isinstance(leaf, np.ndarray):
                    leaf.flags.writeable = False
        before = snapshot(problem), snapshot(start)
        results.append(run(case.new_solver(), problem, x0=start))
        for name, old, value in zip(("problem", "x0"), before, (problem, start), strict=True):
            new = snapshot(value)
            changed = [path for path in old if new.get(path) != old[path]]
            require(not changed, f"solve changed {name}{', '.join(changed)}")
    same(results[0].x, results[1].x, "read-only inputs change the answer")


def check_solver_unchanged(case: SolverCase) -> None:
    """``solve`` leaves no trace on the solver, and two threads may use one.

    Parameters
    ----------
    case : SolverCase
        The solver and its problems.
    """
    solver = case.new_solver()
    before, params = copy.deepcopy(vars(solver)), solver.get_params()
    seeds = (0, 1) if "seed" in case.keywords else (0, 0)
    alone = [run(solver, case.problem(seed=seed)) for seed in seeds]
    require(
        vars(solver).keys() == before.keys(),
        f"solve added attributes to the solver: {sorted(vars(solver).keys() ^ before.keys())}",
    )
    same(vars(solver), before, "solve changed the solver")
    after = solver.get_params()
    changed = [name for name in params if after[name] is not params[name]]
    require(not changed, f"solve replaced the parameters {', '.join(changed)}")

    together: list[Any] = [None, None]
    barrier = threading.Barrier(2)

    def work(i: int) -> None:
        problem = case.problem(seed=seeds[i])
        barrier.wait()
        try:
            together[i] = run(solver, problem)
        except Exception as error:
            together[i] = error

    threads = [threading.Thread(target=work, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i in range(2):
        if isinstance(together[i], Exception):
            message = f"two threads use one solver: {together[i]!r}"
            raise AssertionError(message) from together[i]  # noqa: TRY004
        same_run(together[i], alone[i], "two threads use one solver")


def check_clone_and_pickle(case: SolverCase) -> None:
    """Solver, result and state survive ``clone``, ``pickle``, ``deepcopy`` and ``save``.

    Parameters
    ----------
    case : SolverCase
        The solver and its problems.
    """
    from sklearn.base import clone

    full = case.answer()
    solver = case.new_solver(check_every=1)
    copies = {
        "clone": clone(solver),
        "pickle": pickle.loads(pickle.dumps(solver)),
        "deepcopy": copy.deepcopy(solver),
    }
    for name, other in copies.items():
        require(type(other) is type(solver), f"{name} gives a {type(other).__name__}")
        same(other.get_params(False), solver.get_params(False), f"{name}: parameters")
    same_run(run(copies["pickle"], case.problem()), full, "a pickled solver")

    result = run(solver, case.problem(), history=History(extra={"zero": lambda problem, x: 0.0}))
    with tempfile.TemporaryDirectory() as folder:
        path = result.save(Path(folder) / "result.npz")
        copies = {
            "pickle": pickle.loads(pickle.dumps(result)),
            "deepcopy": copy.deepcopy(result),
            "save and load": Result.load(path),
        }
    for name, other in copies.items():
        require(other.keys() == result.keys(), f"{name} of a result changes its keys")
        same_run(other, result, f"{name} of a result")
        for key in ("fun", "status", "message", "certificate", "duals", "inner", "time"):
            same(other[key], result[key], f"{name} of a result: {key}")
        require(
            other.history is not None and other.history.to_dict() == result.history.to_dict(),
            f"{name} of a result changes its history",
        )


def check_deterministic(case: SolverCase) -> None:
    """Same seed, same bits; numpy's global generator is not used; threads do not matter.

    One and two threads agree to 1e-10.

    Parameters
    ----------
    case : SolverCase
        The solver and its problems.
    """
    full = case.answer()
    before = repr(np.random.get_state())  # noqa: NPY002
    again = run(case.new_solver(check_every=1), case.problem())
    after = repr(np.random.get_state())  # noqa: NPY002
    same_run(again, full, "a second run")
    require(before == after, "solve draws from numpy's global generator; use state.rng")
    params = case.solver.get_params(deep=False)
    if "random_state" in params:
        source = np.random.default_rng(3)
        before = repr(source.bit_generator.state)
        runs = [run(case.new_solver(random_state=source), case.problem()) for _ in range(2)]
        same_run(
            runs[0], runs[1], "two runs with one Generator as random_state (copy it: make_rng)"
        )
        require(
            repr(source.bit_generator.state) == before,
            "solve draws from the Generator that was given as random_state; copy it (make_rng)",
        )
    if "n_threads" in params:
        one, two = (run(case.new_solver(n_threads=n), case.problem()) for n in (1, 2))
        close(case, one.x, two.x, "1 and 2 threads", 1e-10)
        again = run(case.new_solver(n_threads=2), case.problem())
        same_run(again, two, "a second run with 2 threads")


def check_bad_inputs(case: SolverCase) -> None:
    """Unusable parameters, starts and problems raise the right class and name the culprit.

    Tested for every solver: each parameter has an entry in ``_parameter_constraints``; values
    out of range raise :class:`ParameterError` from ``solve`` and not from the constructor;
    unknown names; ``x0`` of another shape; ``x0`` together with ``state``; a problem without
    oracles. ``case.bad_inputs`` adds to it.

    Parameters
    ----------
    case : SolverCase
        The solver and its problems.
    """
    problem, full = case.problem(), case.answer()
    cls = type(case.solver)
    for name in sorted(cls._signature()):
        require(
            name in cls._constraints(),
            f"the parameter {name} has no entry in _parameter_constraints",
        )
    numbers = {
        "tol": (-1.0, float("nan")), "max_iter": (-1, 1.5), "max_time": (-1.0,),
        "check_every": (0, "never"), "n_threads": (0,), "random_state": (-1, "seed"),
    }  # fmt: skip
    for name in cls._signature():
        for value in (*numbers.get(name, ()), _Strange()):
            try:
                solver = case.new_solver(**{name: value})
            except Exception as error:
                raise AssertionError(
                    f"{name}={value!r}: the constructor raises {type(error).__name__}: {error}; it "
                    "must assign its arguments unchanged and leave validation to solve"
                ) from error
            refused(
                lambda s=solver: run(s, problem),
                ParameterError, f"{name}={re.escape(repr(value))}", f"{name}={value!r}",
            )  # fmt: skip
    solver = case.new_solver()
    some = min(cls._signature(), default="tol")
    refused(
        lambda: solver.set_params(**{f"{some}x": 1}),
        ParameterError, f"{some}x.*{some}", "a misspelt name in set_params",
    )  # fmt: skip
    refused(lambda: cls(**{f"{some}x": 1}), TypeError, f"{some}x", "a misspelt keyword")
    refused(
        lambda: run(solver, problem, x0=full.x, state=full.state),
        ParameterError, "x0.*state", "x0 together with state",
    )  # fmt: skip
    longer = map_arrays(full.x, _longer)
    if difference(longer, full.x) is not None:
        refused(
            lambda: run(solver, problem, x0=longer),
            ProblemError, "shape", "x0 of another shape",
        )  # fmt: skip
    if cls.requires:
        refused(
            lambda: run(solver, object()),
            UnsupportedProblemError, cls.requires[0].__name__, "a problem without oracles",
        )  # fmt: skip
    for bad in case.bad_inputs:
        refused(bad.call, bad.error, bad.match, bad.name)


class _Strange:
    """No constraint admits it."""

    def __repr__(self) -> str:
        return "<strange>"


def _longer(array: Any) -> Any:
    host = to_host(array)
    if host.ndim == 0:
        return array
    return Backend.of(array).asarray(np.pad(host, (0, 1), mode="edge" if host.size else "constant"))


def check_history_excluded_from_time(case: SolverCase) -> None:
    """A slow history, callback or progress object does not change ``result.time``.

    Parameters
    ----------
    case : SolverCase
        The solver and its problems.
    """
    nap = 0.02

    class Slow:
        def update(self, **numbers: Any) -> None:
            time.sleep(nap)

    excess = []
    for _ in range(3):  # another process may take the core for a while
        history = History(objective=False, extra={"slow": lambda problem, x: time.sleep(nap) or 0})
        result = run(
            case.new_solver(check_every=1, max_iter=2), case.problem(), history=history,
            progress=Slow(), callback=lambda intermediate_result: time.sleep(nap),
        )  # fmt: skip
        plain = run(case.new_solver(check_every=1, max_iter=2), case.problem())
        slept = 3 * nap * len(history)
        require(len(history) == result.nit + 1, "history must see every check")
        require(
            history["time"][-1] == result.state.time <= result.time,
            f"history has time {history['time'][-1]}, the state {result.state.time}, the result "
            f"{result.time}",
        )
        excess.append(result.time - plain.time)
        if excess[-1] < 0.5 * slept:
            return
    raise AssertionError(
        f"result.time grows by {min(excess):.3f} s when callback, history and progress sleep for "
        f"{slept:.3f} s"
    )


def check_repr_roundtrip(case: SolverCase) -> None:
    """``eval(repr(solver))`` has the same parameters.

    Parameters
    ----------
    case : SolverCase
        The solver and its problems.
    """
    limits = ({}, {"tol": float("inf")}, {"max_time": 1.5, "max_iter": 7, "tol": 1e-3})
    for changed in limits:
        solver = case.new_solver()
        solver.set_params(**{k: v for k, v in changed.items() if k in solver._signature()})
        names: dict[str, Any] = {"numpy": np, "np": np, "array": np.array}
        for value in (solver, *solver.get_params().values()):
            names[type(value).__name__] = type(value)
        try:
            other = eval(repr(solver), names)
        except Exception as error:
            raise AssertionError(f"eval({solver!r}) raises {error!r}") from error
        require(type(other) is type(solver), f"eval({solver!r}) is a {type(other).__name__}")
        same(other.get_params(False), solver.get_params(False), f"eval({solver!r})")
