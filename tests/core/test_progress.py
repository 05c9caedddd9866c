from __future__ import annotations

import logging
import sys

import pytest

from lowrank_opt.core import ParameterError
from lowrank_opt.core.progress import logger, open_progress
from lowrank_opt.testing.example import GradientDescent, make_quadratic


def test_an_object_gets_every_check():
    class Spy:
        def __init__(self):
            self.rows = []

        def update(self, *, nit, max_iter, residual, tol, time):
            self.rows.append((nit, max_iter, residual, tol, time))

    spy = Spy()
    result = GradientDescent(max_iter=50, tol=1e-3).solve(make_quadratic(), progress=spy)
    assert [row[0] for row in spy.rows] == list(range(result.nit + 1))
    assert spy.rows[-1][:4] == (result.nit, 50, result.residual, 1e-3)
    assert 0 < spy.rows[-1][4] <= result.time  # the answer is made after the last check


@pytest.mark.parametrize("progress", [False, None])
def test_silent_by_default(progress, capfd):
    GradientDescent().solve(make_quadratic(), progress=progress)
    assert capfd.readouterr() == ("", "")


def test_a_bar_on_standard_error(capfd):
    pytest.importorskip("rich")
    GradientDescent().solve(make_quadratic(), progress=True)
    out, err = capfd.readouterr()
    assert out == ""
    assert "GradientDescent" in err
    assert "residual" in err


def test_log_lines_without_rich(monkeypatch, capfd):
    for name in [m for m in sys.modules if m == "rich" or m.startswith("rich.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "rich", None)
    before = logger.level, list(logger.handlers)
    result = GradientDescent().solve(make_quadratic(), progress=True)
    assert (logger.level, list(logger.handlers)) == before
    lines = capfd.readouterr().err.splitlines()
    assert lines[0].startswith("GradientDescent: iteration 0 of 1000, residual ")
    assert f"iteration {result.nit} of 1000" in lines[-1]
    assert len(lines) < 10


def test_log_lines_come_once_a_second():
    from lowrank_opt.core.progress import _LogLines

    records = []
    handler = logging.Handler()
    handler.emit = lambda record: records.append(record.getMessage())
    logger.addHandler(handler)
    level = logger.level
    logger.setLevel(logging.INFO)
    try:
        lines = _LogLines("S")
        for i in range(31):
            lines.update(nit=i, max_iter=30, residual=1.0 if i < 30 else 0.0, tol=0.1, time=i / 10)
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
    assert [r.split()[2] for r in records] == ["0", "10", "20", "30"]


def test_the_library_configures_no_logging():
    assert [type(h) for h in logger.handlers] and all(
        isinstance(h, logging.NullHandler) for h in logger.handlers
    )
    assert logger.propagate
    assert logger.level == logging.NOTSET


@pytest.mark.parametrize("progress", ["yes", 1, object()])
def test_other_objects_are_refused(progress):
    with pytest.raises(ParameterError, match=r"progress=.* must be True, False or an object"):
        GradientDescent().solve(make_quadratic(), progress=progress)


def test_the_bar_ends_when_the_run_raises(capfd):
    pytest.importorskip("rich")

    def run():
        with open_progress(True, "S") as bar:
            bar.update(nit=1, max_iter=2, residual=1.0, tol=0.1, time=0.0)
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        run()
    assert "S" in capfd.readouterr().err
