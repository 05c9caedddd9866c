from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import pytest

from lowrank_opt.core import Checkpoint, CheckpointError, Geometric, ParameterError, State
from lowrank_opt.testing._points import difference
from lowrank_opt.testing.example import GradientDescent, Quadratic, make_quadratic


class Other(GradientDescent):
    pass


class Tuned(GradientDescent):
    def __init__(self, *, tol=1e-6, max_iter=1000, rule=None, weights=None, scale=1.0):
        self.tol = tol
        self.max_iter = max_iter
        self.rule = rule
        self.weights = weights
        self.scale = scale

    step_size = 0.1


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.npz"


def test_resume_gives_the_same_bits(path):
    problem = make_quadratic()
    full = GradientDescent().solve(problem)
    part = GradientDescent(max_iter=9).solve(problem, checkpoint=Checkpoint(path))
    assert path.exists()
    state = Checkpoint(path).load(make_quadratic(), GradientDescent(max_iter=500, tol=1e-9))
    assert difference(state, part.state) is None
    resumed = GradientDescent().solve(problem, state=state)
    assert difference(resumed.x, full.x) is None
    assert resumed.nit == full.nit


def test_resume_true_goes_on_from_the_file_and_ignores_x0(path):
    problem = make_quadratic()
    checkpoint = Checkpoint(path, resume=True)
    first = GradientDescent(max_iter=9).solve(problem, x0=np.ones(5), checkpoint=checkpoint)
    assert (first.nit, first.state.counts["gradients"]) == (9, 10)
    again = GradientDescent().solve(problem, x0=np.ones(5), checkpoint=checkpoint)
    full = GradientDescent().solve(problem, x0=np.ones(5))
    assert again.counts["gradients"] == full.nit + 1
    assert difference(again.x, full.x) is None
    assert again.setup_time == 0.0
    state = GradientDescent(max_iter=2).solve(problem).state
    assert GradientDescent(max_iter=3).solve(problem, state=state, checkpoint=checkpoint).nit == 3


def test_resume_false_starts_anew_and_replaces_the_file(path):
    problem = make_quadratic()
    for nit in (9, 4):
        GradientDescent(max_iter=nit).solve(problem, checkpoint=Checkpoint(path))
        assert Checkpoint(path).load(problem, GradientDescent()).nit == nit


def test_files_are_written_at_intervals(path):
    times = []

    class Counting(Checkpoint):
        def save(self, problem, solver, state):
            times.append(state.nit)
            return super().save(problem, solver, state)

    GradientDescent(max_iter=4).solve(make_quadratic(), checkpoint=Counting(path, 0.0))
    assert times == [0, 1, 2, 3, 4]
    times.clear()
    GradientDescent(max_iter=4).solve(make_quadratic(), checkpoint=Counting(path, 1e6))
    assert times == [4]


def test_due_follows_the_clock(path, monkeypatch):
    checkpoint = Checkpoint(path, every_seconds=10.0)
    start = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: start + 5.0)
    assert not checkpoint.due()
    monkeypatch.setattr(time, "monotonic", lambda: start + 11.0)
    assert checkpoint.due()
    checkpoint.save(make_quadratic(), GradientDescent(), State(x=np.ones(1)))
    assert not checkpoint.due()


@pytest.mark.parametrize(
    ("problem", "solver", "match"),
    [
        (make_quadratic(seed=1), GradientDescent(), r"data\.hash is .* in the file"),
        (make_quadratic(dtype=np.float32), GradientDescent(), "float32"),
        (make_quadratic(), Other(), "solver is 'Other' here and 'GradientDescent' in the file"),
        (make_quadratic(), GradientDescent(step_size=0.05),
         r"parameters\.step_size is 0.05 here and 0.1 in the"),
        (type("Renamed", (Quadratic,), {})(make_quadratic().A, make_quadratic().b),
         GradientDescent(), "problem is 'Renamed' here"),
    ],
)  # fmt: skip
def test_files_of_other_runs_are_refused(path, problem, solver, match):
    GradientDescent(max_iter=2).solve(make_quadratic(), checkpoint=Checkpoint(path))
    with pytest.raises(CheckpointError, match=match) as caught:
        Checkpoint(path).load(problem, solver)
    assert str(path) in str(caught.value)
    with pytest.raises(CheckpointError, match=match):
        solver.solve(problem, checkpoint=Checkpoint(path, resume=True))


def test_only_what_differs_is_listed(path):
    GradientDescent(max_iter=2).solve(make_quadratic(), checkpoint=Checkpoint(path))
    with pytest.raises(CheckpointError) as caught:
        Checkpoint(path).load(make_quadratic(seed=1), GradientDescent())
    text = str(caught.value)
    assert text.count(" here and ") == 1
    assert "shape" not in text
    assert len(text.removeprefix(str(path))) < 120


def test_a_state_of_other_data_is_refused():
    part = GradientDescent(max_iter=3).solve(make_quadratic())
    with pytest.raises(CheckpointError, match=r"state belongs to .*data\.hash is") as caught:
        GradientDescent().solve(make_quadratic(seed=1), state=part.state)
    assert "shape" not in str(caught.value)
    with pytest.raises(
        CheckpointError, match=r"data\.shape is \[4, 4\] here and \[5, 5\] in the st"
    ):
        GradientDescent().solve(make_quadratic(n=4), state=part.state)


def test_states_that_know_no_data_are_taken(path):
    problem = make_quadratic()
    part = GradientDescent(max_iter=3).solve(problem)
    part.state.data = None
    assert GradientDescent().solve(make_quadratic(seed=1), state=part.state).success

    class Nameless(Quadratic):
        fingerprint = None

    nameless = Nameless(problem.A, problem.b)
    state = GradientDescent(max_iter=3).solve(nameless).state
    assert state.data is None
    assert GradientDescent().solve(nameless, state=state).success


def test_limits_may_change(path):
    GradientDescent(max_iter=2).solve(make_quadratic(), checkpoint=Checkpoint(path))
    other = GradientDescent(max_iter=5, tol=1e-3, max_time=9.0, check_every=2)
    assert Checkpoint(path).load(make_quadratic(), other).nit == 2


@pytest.mark.parametrize(
    ("changed", "same"),
    [
        ({"rule": Geometric(0.2)}, {"rule": Geometric(0.1)}),
        ({"weights": np.ones(3)}, {"weights": np.array([1.0, 1.0, 2.0])}),
        ({"weights": (1, 2)}, {"weights": (1, 3)}),
        ({"rule": len}, {"rule": max}),
        ({"scale": 2.0}, {"scale": np.float64(1.0)}),
    ],
)
def test_parameters_of_all_kinds_are_compared(path, changed, same):
    problem = make_quadratic()
    Tuned(max_iter=2, **same).solve(problem, checkpoint=Checkpoint(path))
    assert Checkpoint(path).load(problem, Tuned(**same)).nit == 2
    with pytest.raises(CheckpointError, match=r"parameters\.\w+ is"):
        Checkpoint(path).load(problem, Tuned(**{**same, **changed}))


def test_a_numpy_number_equals_the_python_number(path):
    Tuned(max_iter=2, scale=np.float64(3.0)).solve(make_quadratic(), checkpoint=Checkpoint(path))
    assert Checkpoint(path).load(make_quadratic(), Tuned(scale=3.0)).nit == 2


def test_problems_that_cannot_be_named_are_refused_before_the_run(path):
    class Strange(Quadratic):
        def fingerprint(self):
            return {"b": self.b}

    def never(intermediate_result):
        pytest.fail("the run has begun")

    problem = make_quadratic()
    strange = Strange(problem.A, problem.b)
    with pytest.raises(CheckpointError, match=r"Strange\.fingerprint"):
        GradientDescent().solve(strange, checkpoint=Checkpoint(path), callback=never)


def test_problems_without_fingerprint_get_advice(path):
    from lowrank_opt.core import Problem

    class Bare(Quadratic):
        fingerprint = Problem.fingerprint

    problem = make_quadratic()
    with pytest.raises(NotImplementedError, match="Bare has no fingerprint"):
        GradientDescent().solve(Bare(problem.A, problem.b), checkpoint=Checkpoint(path))


def test_a_result_is_no_checkpoint(path):
    GradientDescent(max_iter=2).solve(make_quadratic()).save(path)
    with pytest.raises(CheckpointError, match="holds a result, not a checkpoint"):
        Checkpoint(path).load(make_quadratic(), GradientDescent())


def test_a_crash_while_writing_keeps_the_last_checkpoint(path, monkeypatch):
    problem = make_quadratic()
    GradientDescent(max_iter=2).solve(problem, checkpoint=Checkpoint(path))

    def crash(self, target):
        raise OSError("no space left")

    monkeypatch.setattr(Path, "replace", crash)
    with pytest.raises(OSError, match="no space"):
        GradientDescent(max_iter=5).solve(problem, checkpoint=Checkpoint(path))
    monkeypatch.undo()
    assert Checkpoint(path).load(problem, GradientDescent()).nit == 2
    assert os.listdir(path.parent) == ["run.npz"]  # noqa: PTH208


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"path": "no/such/folder/run.npz"}, "folder no/such/folder of path does not exist"),
        ({"path": "run.npz", "every_seconds": -1.0}, "every_seconds=-1.0"),
        ({"path": "run.npz", "every_seconds": float("nan")}, "every_seconds=nan"),
    ],
)
def test_bad_arguments(arguments, match):
    with pytest.raises(ParameterError, match=match):
        Checkpoint(**arguments)


def test_a_path_is_no_checkpoint(path):
    for given in (str(path), path, True):
        with pytest.raises(ParameterError, match=r"checkpoint=.*expected a .*Checkpoint\('run"):
            GradientDescent().solve(make_quadratic(), checkpoint=given)
