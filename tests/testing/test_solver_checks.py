"""Each check passes for right solvers and fails for a solver broken on purpose."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

import lowrank_opt.testing as checks
from lowrank_opt.core import (
    Certificate,
    ParameterError,
    State,
    Status,
    UnsupportedBackendError,
    make_rng,
)
from lowrank_opt.core.backend import Backend
from lowrank_opt.testing import SOLVER_CHECKS, SolverCase, check_solver
from lowrank_opt.testing.example import (
    GradientDescent,
    GradientDescentState,
    Quadratic,
    make_quadratic,
)


@pytest.fixture(autouse=True)
def _no_families(monkeypatch):
    """These tests are about the checks; a refused problem need not list the library's solvers."""
    monkeypatch.setattr("lowrank_opt.core.registry._import_families", lambda: None)
    monkeypatch.setattr("lowrank_opt.core.registry._SOLVERS", {})


def exact(problem, solver):
    to_numpy = Backend.of(problem.A).to_numpy
    return np.linalg.solve(to_numpy(problem.A), to_numpy(problem.b))


def permute(problem, rng):
    order = rng.permutation(problem.b.size)
    return Quadratic(problem.A[np.ix_(order, order)], problem.b[order]), lambda x: x[order]


def rescale(problem, rng):
    return Quadratic(problem.A, 7.0 * problem.b), lambda x: 7.0 * x


def gradients(problem, solver, nit):
    return {"gradients": nit + 1}


HOOKS = {
    "reference": exact,
    "degenerate": (lambda: Quadratic(np.array([[2.0]]), np.array([3.0])),),
    "transforms": {"permute": permute, "rescale": rescale},
    "work": gradients,
}


# Solvers that are right.


@dataclass
class CoordinateState(State):
    order: Any = None


class RandomCoordinates(GradientDescent):
    """Exact minimisation along coordinates in random order: random numbers in the state."""

    def __init__(
        self, *, tol=1e-6, max_iter=1000, check_every=1, random_state=None, n_threads=None
    ):
        self.tol = tol
        self.max_iter = max_iter
        self.check_every = check_every
        self.random_state = random_state
        self.n_threads = n_threads

    def init(self, problem, x0=None):
        start = super().init(problem, x0)
        rng = make_rng(self.random_state)
        return CoordinateState(x=start.x, residual=start.residual, counts=start.counts, rng=rng)

    def step(self, problem, state, n=1):
        for _ in range(n):
            state.order = state.rng.permutation(problem.b.size)
            for i in state.order:
                state.x[i] += (problem.b[i] - problem.A[i] @ state.x) / problem.A[i, i]
            state.nit += 1
            state.count(gradients=1)
            gradient = problem.gradient(state.x)
            state.residual = float(np.linalg.norm(gradient) / np.linalg.norm(problem.b))
        return state


class Momentum(GradientDescent):
    """Heavy ball; the residual goes up and down."""

    monotone = False

    def step(self, problem, state, n=1):
        for _ in range(n):
            old = state.x.copy()
            state.x += 0.9 * self.velocity(state) - self.step_size * state.gradient
            self.remember(state, state.x - old)
            state.nit += 1
            self._grade(problem, state)
            if state.residual < state.best_residual:
                state.best, state.best_residual = state.x.copy(), state.residual
        return state

    def velocity(self, state):
        return 0.0 if state.duals is None else state.duals

    def remember(self, state, velocity):
        state.duals = velocity

    def init(self, problem, x0=None):
        start = super().init(problem, x0)
        state = MomentumState(x=start.x, residual=start.residual, counts=start.counts)
        state.gradient = start.gradient
        state.best, state.best_residual = state.x.copy(), state.residual
        return state


@dataclass
class MomentumState(GradientDescentState):
    duals: Any = None


class Refuses(GradientDescent):
    """Numpy only, and says so."""

    def init(self, problem, x0=None):
        if Backend.of(problem.b).name != "numpy":
            raise UnsupportedBackendError("this solver works with numpy arrays")
        return super().init(problem, x0)


@pytest.mark.parametrize(
    "solver", [GradientDescent(), GradientDescent(check_every="auto", tol=1e-9), Refuses()]
)
def test_right_solvers_pass_every_check(solver):
    report = check_solver(solver, make_quadratic, **HOOKS)
    assert set(report.passed) == set(SOLVER_CHECKS)
    assert report.not_applicable == {}


@pytest.mark.parametrize("solver", [RandomCoordinates(), Momentum()])
def test_right_solvers_for_numpy_pass_every_check(solver):
    def numpy_problem(dtype=np.float64, seed=0):
        return make_quadratic(dtype, seed)

    report = check_solver(solver, numpy_problem, **HOOKS)
    assert report.not_applicable == {"backends": "problem_factory has no xp keyword"}


def test_a_factory_without_keywords_is_enough():
    report = check_solver(GradientDescent(), lambda: make_quadratic())
    assert {
        "dtypes",
        "backends",
        "kernel_equals_reference",
        "scale_invariance",
        "work_count",
    } == set(report.not_applicable)
    assert "resume_is_bit_identical" in report.passed


# Solvers that are wrong, by the check that must find them.

BROKEN: list[tuple[str, str, SolverCase]] = []


def broken(check, match, factory=make_quadratic, params=None, **hooks):
    """Enter a solver class as broken in the eyes of `check`."""

    def enter(cls):
        solver = cls(**(params or {}))
        case = SolverCase(solver, factory, name=cls.__name__, **{**HOOKS, **hooks})
        BROKEN.append((check, match, case))
        return cls

    return enter


@broken("certificate_agrees", "Not certified")
class Overconfident(GradientDescent):
    def _grade(self, problem, state):
        super()._grade(problem, state)
        state.residual *= 1e-3
        return state


@broken("certificate_agrees", "residual .* > tol")
class StopsEarly(GradientDescent):
    def terminate(self, problem, state):
        return super().terminate(problem, state) or (
            Status.CONVERGED if state.residual <= 5 * self.tol else None
        )

    def _finalize(self, *args):
        result = super()._finalize(*args)
        result.status, result.success = Status.CONVERGED, True
        return result


@broken("certificate_agrees", "problem's relative gradient")
class MovesTheAnswer(GradientDescent):
    def _finalize(self, *args):
        result = super()._finalize(*args)
        result.x = result.x * 1.01
        return result


@broken("certificate_agrees", r"result\.fun")
class WrongObjective(GradientDescent):
    def _finalize(self, *args):
        result = super()._finalize(*args)
        result.fun += 1e-3
        return result


@broken("certificate_agrees", "must converge")
class NeverConverges(GradientDescent):
    def terminate(self, problem, state):
        return None


class EasilyPleased(Quadratic):
    def certificate(self, x):
        return Certificate(0.0, "nothing", self.objective(x))


def easily_pleased():
    problem = make_quadratic()
    return EasilyPleased(problem.A, problem.b)


@broken("certificate_agrees", "does not tell", easily_pleased)
class WithoutJudge(GradientDescent):
    pass


@broken("monotone_or_documented", "rises from")
class SilentMomentum(Momentum):
    monotone = True


@broken("monotone_or_documented", "had been reached")
class ForgetsBest(Momentum):
    def answer(self, problem, state, status):
        return self.point(problem, state), state.residual


@broken("zero_iterations_at_solution", "takes 1 iterations")
class LooksLater(GradientDescent):
    def init(self, problem, x0=None):
        state = super().init(problem, x0)
        state.residual = np.inf
        return state


@broken("zero_iterations_at_solution", "compute the residual in init")
class IgnoresX0(GradientDescent):
    def init(self, problem, x0=None):
        return super().init(problem, None)


@broken("warm_start_not_worse", "a start near the answer takes")
class SpoilsX0(GradientDescent):
    def init(self, problem, x0=None):
        return super().init(problem, None if x0 is None else 100.0 * x0)


@broken("warm_start_not_worse", "does not converge")
class LosesItself(GradientDescent):
    def init(self, problem, x0=None):
        return super().init(problem, None if x0 is None else 1e200 * x0)


@broken("resume_is_bit_identical", "resumed from its state: result")
class ForgetsVelocity(Momentum):
    def velocity(self, state):
        return 0.0 if state.cache is None else state.cache

    def remember(self, state, velocity):
        state.cache = velocity


@broken("resume_is_bit_identical", "resumed from its state: result")
class RestartsItsSeed(RandomCoordinates):
    def step(self, problem, state, n=1):
        if state.cache is None:
            state.cache, state.rng = True, make_rng(self.random_state)
        return super().step(problem, state, n)


@broken("resume_is_bit_identical", "run with max_iter")
class PlansWithMaxIter(GradientDescent):
    def step(self, problem, state, n=1):
        for _ in range(n):
            state.x -= (1.0 - state.nit / (10.0 * self.max_iter)) * 0.05 * state.gradient
            state.nit += 1
            self._grade(problem, state)
        return state


@broken("resume_is_bit_identical", "times step")
class OncePerCall(GradientDescent):
    def step(self, problem, state, n=1):
        for _ in range(n):
            state.x -= self.step_size * state.gradient
            state.nit += 1
        return self._grade(problem, state)


@broken("resume_is_bit_identical", "cannot be stored")
class KeepsASet(GradientDescent):
    def init(self, problem, x0=None):
        state = super().init(problem, x0)
        state.message = {1, 2}
        return state


@broken("limits", "nit is 10, expected 1")
class OvershootsN(GradientDescent):
    def step(self, problem, state, n=1):
        return super().step(problem, state, 10 * ((n + 9) // 10))


@broken("limits", "without advancing")
class NeverCounts(GradientDescent):
    def step(self, problem, state, n=1):
        nit = state.nit
        super().step(problem, state, n)
        state.nit = nit
        return state

    def terminate(self, problem, state):
        return None


@broken("limits", "not finite")
class StartsNowhere(GradientDescent):
    def point(self, problem, state):
        return np.full_like(state.x, np.nan) if state.nit == 0 else super().point(problem, state)


@broken("limits", "StopIteration in the callback: status CONVERGED")
class DeafToTheCallback(GradientDescent):
    def solve(self, problem, *, callback=None, **keywords):
        def deaf(intermediate_result):
            with contextlib.suppress(StopIteration):
                callback(intermediate_result)

        return super().solve(problem, callback=deaf, **keywords)


@broken("limits", "max_time=0: status CONVERGED")
class HasNoClock(GradientDescent):
    def solve(self, problem, **keywords):
        limit, self.max_time = self.max_time, None
        try:
            return super().solve(problem, **keywords)
        finally:
            self.max_time = limit


@broken("limits", "resuming")
class ReturnsHalfAState(GradientDescent):
    def _finalize(self, *args):
        result = super()._finalize(*args)
        result.state.x = result.state.x * np.nan
        return result


@broken("callback_cannot_corrupt", "the history overwrote")
class HandsOutItsBuffer(GradientDescent):
    def point(self, problem, state):
        return state.x


@broken("callback_cannot_corrupt", r"result\.x was overwritten")
class ResultSharesTheState(GradientDescent):
    def answer(self, problem, state, status):
        return state.x, state.residual


@broken("does_not_touch_inputs", "changed x0")
class WorksInX0(GradientDescent):
    def init(self, problem, x0=None):
        state = super().init(problem, x0)
        if x0 is not None:
            state.x = x0
        return state


@broken("does_not_touch_inputs", r"changed problem\.b")
class NormalisesTheProblem(GradientDescent):
    def init(self, problem, x0=None):
        norm = np.linalg.norm(problem.b)
        problem.b[...] = problem.b / norm * norm * (1.0 + 1e-15)
        return super().init(problem, x0)


@broken("does_not_touch_inputs", "read-only")
class NeedsWritableData(GradientDescent):
    def init(self, problem, x0=None):
        problem.b[...] = problem.b
        return super().init(problem, x0)


@broken("solver_unchanged", "added attributes.*log_")
class KeepsALog(GradientDescent):
    def init(self, problem, x0=None):
        self.log_ = []
        return super().init(problem, x0)


@broken("solver_unchanged", "changed the solver: .*step_size")
class AdaptsItself(GradientDescent):
    def init(self, problem, x0=None):
        self.step_size = 0.9 * self.step_size
        return super().init(problem, x0)


@broken("solver_unchanged", "two threads")
class SharesAWorkspace(GradientDescent):
    work: Any = None

    def step(self, problem, state, n=1):
        for _ in range(n):
            type(self).work = self.step_size * state.gradient
            time.sleep(1e-4)
            state.x -= type(self).work
            state.nit += 1
            self._grade(problem, state)
        return state


@broken("clone_and_pickle", "constructor|Cannot clone")
class ConvertsAParameter(GradientDescent):
    def __init__(self, *, tol=1e-6, max_iter=1000, step_size=0.1):
        self.tol = tol
        self.max_iter = max_iter
        self.step_size = np.float64(step_size).copy()


@broken("clone_and_pickle", "[Pp]ickle")
class HoldsALambda(GradientDescent):
    def _finalize(self, *args):
        result = super()._finalize(*args)
        result.inner = lambda: None
        return result


@broken("clone_and_pickle", "stored")
class CannotBeSaved(GradientDescent):
    def inner_results(self, state):
        return {"inner": {1, 2}}


@broken("deterministic", "a second run")
class FreshEntropy(GradientDescent):
    def init(self, problem, x0=None):
        noise = np.random.default_rng().standard_normal(problem.b.shape)
        return super().init(problem, noise if x0 is None else x0)


@broken("deterministic", "global generator")
class UsesTheGlobalGenerator(GradientDescent):
    def init(self, problem, x0=None):
        np.random.standard_normal()  # noqa: NPY002
        return super().init(problem, x0)


@broken("deterministic", "make_rng", lambda seed=0: make_quadratic(seed=seed))
class ConsumesTheGenerator(RandomCoordinates):
    def init(self, problem, x0=None):
        state = super().init(problem, x0)
        state.rng = np.random.default_rng(self.random_state)
        return state


@broken("deterministic", "1 and 2 threads", lambda seed=0: make_quadratic(seed=seed))
class DependsOnThreads(RandomCoordinates):
    def point(self, problem, state):
        return state.x + 1e-9 * (self.n_threads or 1)


@broken("dtypes", "float32 in, float64 out")
class AlwaysDouble(GradientDescent):
    def init(self, problem, x0=None):
        state = super().init(problem, x0)
        state.x = state.x.astype(np.float64)
        return state


@broken("dtypes", "float32 against float64", params={"tol": 1e-6}, float32_tol=1e-1)
class CoarseInSingle(GradientDescent):
    def init(self, problem, x0=None):
        start = 0.03 * problem.b if problem.b.dtype == np.float32 and x0 is None else x0
        return super().init(problem, start)


@broken("backends", "array_api_strict in, numpy out")
class MovesToTheHost(GradientDescent):
    def _finalize(self, *args):
        result = super()._finalize(*args)
        result.x = Backend.of(result.x).to_numpy(result.x)
        return result


@broken("backends", "AttributeError")
class CrashesOnOthers(GradientDescent):
    def init(self, problem, x0=None):
        problem.b.copy()
        return super().init(problem, x0)


@broken("kernel_equals_reference", "seed 0: reference: distance", params={"tol": 1e-2})
class Imprecise(GradientDescent):
    pass


@broken("kernel_equals_reference", "degenerate 0")
class FailsAtTheEdge(GradientDescent):
    def point(self, problem, state):
        return 1.001 * state.x if state.x.size == 1 else super().point(problem, state)


@broken("bad_inputs", "the parameter momentum has no entry")
class Unchecked(GradientDescent):
    def __init__(self, *, tol=1e-6, max_iter=1000, momentum=0.0):
        self.tol = tol
        self.max_iter = max_iter
        self.step_size = 0.1
        self.momentum = momentum


@broken("bad_inputs", "accepted, expected ParameterError")
class ChecksNothing(GradientDescent):
    def validate_params(self):
        return None


@broken("bad_inputs", "the constructor raises TypeError")
class AssertsInTheConstructor(GradientDescent):
    def __init__(self, *, tol=1e-6, max_iter=1000, max_time=None, check_every=1, step_size=0.1):
        super().__init__(tol=tol, max_iter=max_iter, max_time=max_time, check_every=check_every)
        self.step_size = 1.0 * step_size


@broken("bad_inputs", "x0 of another shape: (accepted|expected ProblemError)")
class TakesAnyShape(GradientDescent):
    def init(self, problem, x0=None):
        return super().init(problem, None if x0 is None else x0[: problem.b.size])


@broken("bad_inputs", "a problem without oracles: expected UnsupportedProblemError")
class AsksForNothing(GradientDescent):
    def check(self, problem):
        self.validate_params()


@broken(
    "bad_inputs", "zero b: the message must contain",
    bad_inputs=(
        checks.BadInput(
            "zero b", lambda: Quadratic(np.eye(2), np.zeros(2)), ValueError, "all entries of b"
        ),
    ),
)  # fmt: skip
class OtherMessage(GradientDescent):
    pass


@broken("scale_invariance", "transform 'permute'", params={"tol": 1e-2})
class PrefersTheFirst(GradientDescent):
    def init(self, problem, x0=None):
        state = super().init(problem, x0)
        state.x[0] += 0.3
        return self._grade(problem, state)


@broken("scale_invariance", "rescale", transforms={"rescale": rescale})
class AbsoluteTolerance(GradientDescent):
    def step(self, problem, state, n=1):
        state = super().step(problem, state, n)
        np.clip(state.x, -2.0, 2.0, out=state.x)
        return state


@broken("history_excluded_from_time", r"result\.time grows|history has time")
class CountsEverything(GradientDescent):
    def solve(self, problem, **keywords):
        start = time.perf_counter()
        result = super().solve(problem, **keywords)
        result.time = time.perf_counter() - start
        if keywords.get("history") is not None:
            keywords["history"]._columns["time"][-1] = result.time
        return result


@broken("work_count", "the formula says")
class CountsTwice(GradientDescent):
    def _grade(self, problem, state):
        state.count(gradients=1)
        return super()._grade(problem, state)


@broken("work_count", "expected an integer")
class CountsInFloats(GradientDescent):
    def _grade(self, problem, state):
        super()._grade(problem, state)
        state.counts["gradients"] = float(state.counts["gradients"])
        return state


@broken("repr_roundtrip", "raises SyntaxError")
class PrettyName(GradientDescent):
    def __repr__(self):
        return "<gradient descent>"


@broken("repr_roundtrip", r"\['max_iter'\] differs")
class ShortName(GradientDescent):
    def __repr__(self):
        return f"{type(self).__name__}(tol=float('{self.tol}'), max_time={self.max_time})"


@pytest.mark.parametrize(
    ("check", "match", "case"), BROKEN, ids=[f"{c}-{case.name}" for c, _, case in BROKEN]
)
def test_check_finds_the_broken_solver(check, match, case):
    with np.errstate(all="ignore"), pytest.raises(AssertionError, match=match) as caught:
        check_solver(case, checks=[check])
    assert f"{case.name} fails 1 of 1 checks" in str(caught.value)
    assert f"\n  {check}: " in str(caught.value)


def test_every_check_has_a_broken_solver():
    assert {check for check, _, _ in BROKEN} == set(SOLVER_CHECKS)


def test_every_check_is_public():
    assert {f.__name__ for f in SOLVER_CHECKS.values()} <= set(checks.__all__)
    assert all(name == f"{f.__name__}".removeprefix("check_") for name, f in SOLVER_CHECKS.items())


def test_all_failures_are_reported_together():
    with pytest.raises(AssertionError) as caught:
        check_solver(KeepsALog(), make_quadratic, checks=["limits", "solver_unchanged"])
    assert "fails 1 of 2" in str(caught.value)
    case = SolverCase(LooksLater(), make_quadratic, work=lambda p, s, nit: {"gradients": 99})
    with pytest.raises(AssertionError, match=r"(?s)zero_iterations_at_solution: .*work_count: "):
        check_solver(case)


def test_not_applicable_is_reported_with_its_reason():
    case = SolverCase(
        LooksLater(), make_quadratic, not_applicable={"zero_iterations_at_solution": "by design"}
    )
    report = check_solver(case, checks=["zero_iterations_at_solution", "limits"])
    assert report.passed == ("limits",)
    assert "not applicable  zero_iterations_at_solution: by design" in str(report)


def test_wrong_use_of_check_solver():
    with pytest.raises(ParameterError, match="problem_factory"):
        check_solver(GradientDescent())
    with pytest.raises(ParameterError, match=r"no check 'limit'.*limits"):
        check_solver(GradientDescent(), make_quadratic, checks=["limit"])
    wrong = SolverCase(GradientDescent(), make_quadratic, not_applicable={"x": "y"})
    with pytest.raises(ParameterError, match="no check 'x'"):
        check_solver(wrong)


def test_a_problem_that_is_too_easy_is_refused():
    with pytest.raises(AssertionError, match="too few"):
        check_solver(GradientDescent(tol=10.0), make_quadratic, checks=["limits"])


def test_case_draws_seeds_and_keywords():
    case = SolverCase(RandomCoordinates(), lambda seed=0: make_quadratic(seed=seed))
    assert case.new_solver().random_state == 0
    assert replace(case, solver=RandomCoordinates(random_state=4)).new_solver().random_state == 4
    assert case.keywords == {"seed"}
    assert SolverCase(GradientDescent(), lambda **kw: None).keywords == {"dtype", "seed", "xp"}
    assert not np.array_equal(case.problem(seed=1, dtype="f4").b, case.problem().b)
