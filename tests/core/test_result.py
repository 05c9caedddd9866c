from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
from scipy.optimize import OptimizeResult

from lowrank_opt.core import (
    Certificate,
    Checkpoint,
    CheckpointError,
    History,
    Result,
    SolverFailure,
    Status,
)
from lowrank_opt.testing._points import difference
from lowrank_opt.testing.example import GradientDescent, make_quadratic

KEYS = {
    "x", "fun", "success", "status", "message", "nit", "counts", "residual", "certificate", "time",
    "setup_time", "compile_time", "history", "state", "duals", "inner", "solver", "problem",
    "citation",
}  # fmt: skip


@pytest.fixture
def result():
    history = History(every=10, extra={"norm": lambda problem, x: float(np.linalg.norm(x))})
    return GradientDescent().solve(make_quadratic(), history=history)


def test_is_scipys_result_with_all_keys(result):
    assert isinstance(result, OptimizeResult)
    assert set(result) == KEYS
    assert set(Result()) == KEYS
    assert Result(nit=3).x is None
    with pytest.raises(AttributeError):
        _ = result.nonsense


def test_raise_for_status(result):
    assert result.raise_for_status() is result
    failed = GradientDescent(max_iter=2).solve(make_quadratic())
    with pytest.raises(SolverFailure, match="max_iter=2") as caught:
        failed.raise_for_status()
    assert caught.value.result is failed
    again = pickle.loads(pickle.dumps(caught.value))
    assert again.result.nit == 2


@pytest.mark.parametrize("how", ["pickle", "copy", "deepcopy"])
def test_copies(result, how):
    again = {
        "pickle": lambda r: pickle.loads(pickle.dumps(r)),
        "copy": copy.copy,
        "deepcopy": copy.deepcopy,
    }[how](result)
    assert type(again) is Result
    assert set(again) == KEYS
    assert difference(again.x, result.x) is None
    assert again.status is Status.CONVERGED
    assert again.history.to_dict() == result.history.to_dict()


def test_save_and_load(result, tmp_path):
    path = result.save(tmp_path / "result.npz")
    again = Result.load(path)
    assert set(again) == KEYS
    for key in KEYS - {"history"}:
        assert difference(again[key], result[key]) is None, key
    assert again.status is Status.CONVERGED
    assert isinstance(again.certificate, Certificate)
    assert again.history.to_dict() == result.history.to_dict()
    resumed = GradientDescent(tol=1e-9).solve(make_quadratic(), state=again.state)
    straight = GradientDescent(tol=1e-9).solve(make_quadratic())
    assert difference(resumed.x, straight.x) is None


def test_a_checkpoint_is_no_result(tmp_path):
    checkpoint = Checkpoint(tmp_path / "run.npz")
    GradientDescent(max_iter=2).solve(make_quadratic(), checkpoint=checkpoint)
    with pytest.raises(CheckpointError, match="holds a checkpoint, not a result"):
        Result.load(checkpoint.path)


def test_text(result):
    text = repr(result)
    for part in ("status: CONVERGED", "GradientDescent()", "relative gradient", "shape (5,)"):
        assert part in text
    assert "nit" not in repr(Result(x=list(range(100))))
    assert "list (" in repr(Result(x=list(range(100))))


def test_html_is_escaped(result):
    html = result._repr_html_()
    assert html.startswith("<table>")
    assert "CONVERGED" in html
    assert "&lt;b&gt;" in Result(message="<b>")._repr_html_()
    assert "<b>" not in Result(message="<b>")._repr_html_()


def test_citation_is_the_solvers():
    class Cited(GradientDescent):
        citation = "@article{cauchy1847}"

    assert Cited().solve(make_quadratic()).citation == "@article{cauchy1847}"
    assert GradientDescent().solve(make_quadratic()).citation is None


def test_certificate():
    certificate = Certificate(np.float32(0.5), "gap", 2, gap=1, details={"a": 1.0})
    assert (type(certificate.residual), type(certificate.gap)) == (float, float)
    assert certificate.finite
    assert not Certificate(np.nan, "gap", 0.0).finite
    assert str(certificate) == "gap 5.000e-01, objective 2, gap 1.000e+00"
    assert pickle.loads(pickle.dumps(certificate)) == certificate
