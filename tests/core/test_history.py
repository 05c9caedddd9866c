from __future__ import annotations

import pickle
import sys

import numpy as np
import pytest

from lowrank_opt.core import History, MissingDependencyError, ParameterError
from lowrank_opt.testing.example import GradientDescent, make_quadratic


def run(history, nit=20, **params):
    GradientDescent(tol=0.0, max_iter=nit, **params).solve(make_quadratic(), history=history)
    return history


@pytest.mark.parametrize(
    ("every", "check_every", "expected"),
    [
        (1, 1, list(range(21))),
        (5, 1, [0, 5, 10, 15, 20]),
        (7, 1, [0, 7, 14, 20]),  # the last iterate is always there
        (5, 3, [0, 6, 12, 18, 20]),  # the first check at or after
        (1000, 1, [0, 20]),
        (np.int64(10), 1, [0, 10, 20]),
        ("log", 1, [0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 15, 18, 20]),
    ],
)
def test_schedules(every, check_every, expected):
    assert run(History(every), check_every=check_every)["nit"].tolist() == expected


def test_the_log_schedule_grows_by_a_quarter():
    nits = run(History("log", objective=False), 5000)["nit"]
    assert len(nits) < 50
    late = nits[nits > 50][:-1]
    assert np.all(np.diff(late) <= 0.25 * late[:-1] + 1)
    assert np.all(np.diff(late) >= 0.2 * late[:-1] - 1)


def test_columns_come_from_the_problem():
    problem, points = make_quadratic(), []
    history = History(
        certificate=True, extra={"norm": lambda p, x: points.append(x.copy()) or np.abs(x).sum()}
    )
    GradientDescent(max_iter=3).solve(problem, history=history)
    assert set(history.to_dict()) == {
        "nit", "time", "residual", "objective", "certificate", "norm",
    }  # fmt: skip
    for i, x in enumerate(points):
        assert history["objective"][i] == problem.objective(x)
        assert history["certificate"][i] == problem.certificate(x).residual
        assert history["norm"][i] == np.abs(x).sum()
    np.testing.assert_allclose(history["residual"], history["certificate"], rtol=1e-12)
    assert np.all(np.diff(history["time"]) >= 0)
    assert len(history) == 4
    assert repr(history).startswith("History(4 rows: nit, time, residual, objective")


def test_the_point_is_not_built_when_nobody_needs_it():
    class Counting(GradientDescent):
        def point(self, problem, state):
            asked.append(state.nit)
            return super().point(problem, state)

    asked = []
    Counting(max_iter=3).solve(make_quadratic(), history=History(objective=False))
    assert asked == [3]


def test_a_resumed_run_adds_to_its_history_without_repeating_a_row():
    problem, history = make_quadratic(), History(every=4)
    part = GradientDescent(max_iter=8).solve(problem, history=history)
    GradientDescent(max_iter=16).solve(problem, state=part.state, history=history)
    assert history["nit"].tolist() == [0, 4, 8, 12, 16]


def test_dictionaries_and_pickles():
    history = run(History(every=10, extra={"one": lambda problem, x: 1.0}))
    for again in (History.from_dict(history.to_dict()), pickle.loads(pickle.dumps(history))):
        assert again.to_dict() == history.to_dict()
    columns = history.to_dict()
    columns["nit"].clear()
    assert len(history) == 3


def test_to_pandas():
    frame = run(History(every=10)).to_pandas()
    assert list(frame.columns) == ["nit", "time", "residual", "objective"]
    assert frame["nit"].tolist() == [0, 10, 20]


def test_to_pandas_without_pandas(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(MissingDependencyError, match=r"lowrank_opt\[data\]"):
        History().to_pandas()


@pytest.mark.parametrize("every", [0, -1, 1.5, "linear", None])
def test_bad_schedules(every):
    with pytest.raises(ParameterError, match="every="):
        History(every)


def test_errors_of_the_users_function_reach_the_user():
    with pytest.raises(ZeroDivisionError):
        run(History(extra={"bad": lambda problem, x: 1 / 0}))
