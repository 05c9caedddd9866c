"""Benchmarks: the plans name systems that exist, and a report can be written from any results."""

import importlib
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
ROBUST = BENCHMARKS / "robust_recovery"


@pytest.fixture
def robust(monkeypatch):
    """Modules of ``benchmarks/robust_recovery``; another folder has modules of the same names."""
    if not ROBUST.exists():
        pytest.skip("the benchmarks are in the repository only")
    for name in [n for n in sys.modules if n.partition(".")[0] in ("benchmark_utils", "run")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "path", [str(ROBUST), str(BENCHMARKS), *sys.path])
    yield importlib.import_module
    for name in [n for n in sys.modules if n.partition(".")[0] in ("benchmark_utils", "run")]:
        del sys.modules[name]


@pytest.mark.parametrize("full", [False, True])
def test_plan_names_what_exists(robust, full):
    run, data = robust("run"), robust("benchmark_utils.data")
    systems, worker = robust("benchmark_utils.systems"), robust("benchmark_utils.worker")
    report = robust("benchmark_utils.report")
    for job in run.plan(full):
        json.dumps(job)
        assert callable(getattr(worker, job["measure"]))
        names = job.get("data", [])
        assert set([names] if isinstance(names, str) else names) <= set(data.CASES)
        entries = [*job.get("systems", []), *([job["system"]] if "system" in job else [])]
        names = {s if isinstance(s, str) else s["system"] for s in entries}
        assert names <= set(systems.SYSTEMS)
        assert {n for n in names if not n.startswith("ours")} <= set(report.PEERS)
        assert len(run.shrink([job])) == 1


@pytest.mark.parametrize("name", ["tiny", "tiny missing"])
def test_error_of_factors_and_of_the_dense_matrix_agree(robust, name):
    data = robust("benchmark_utils.data")
    case = data.load(name)
    e = case.entries
    assert np.isnan(case.dense).any() == ("missing" in name)
    off = 1.01 * e.U, e.V
    assert case.error(off) == pytest.approx(0.01, rel=1e-9)
    assert case.error(off[0] @ off[1].T) == pytest.approx(0.01, rel=1e-9)
    U, V = data.pair(off[0] @ off[1].T)
    assert U.shape[1] == case.rank
    np.testing.assert_allclose(U @ V.T, off[0] @ off[1].T, atol=1e-12)


@pytest.mark.parametrize(
    ("system", "name"),
    [
        ("inexact ALM, full SVD", "tiny"),
        ("inexact ALM, full SVD", "60 missing"),
        ("inexact ALM, partial SVD", "200 missing"),
    ],
)
def test_augmented_lagrangian_peer_finds_the_truth(robust, system, name):
    """A peer that fails because of our own code would flatter us."""
    case = robust("benchmark_utils.data").load(name)
    peer = robust("benchmark_utils.systems").SYSTEMS[system](learning_rate=1.2)
    peer.prepare(case)
    seen = []
    with threadpool_limits(1):
        peer.fit(lambda get: seen.append(case.error(get())))
    assert seen[-1] < 1e-9
    assert case.grade(peer.low_rank())["rank"] == case.rank


def test_curve_stands_still_while_it_looks(robust):
    worker, data = robust("benchmark_utils.worker"), robust("benchmark_utils.data")
    case = data.load("tiny")
    curve = worker.Curve(case, level=1e-3)
    curve.start()
    curve(lambda: worker.time.sleep(0.3) or (0.5 * case.entries.U, case.entries.V))
    with pytest.raises(StopIteration):
        curve(lambda: (case.entries.U, case.entries.V))
    assert [e for _, e in curve.points] == pytest.approx([0.5, 0.0], abs=1e-12)
    assert curve.points[-1][0] < 0.2


def _results():
    """One run of every section, with an error here and there."""

    def stats(x):
        return {"median": x, "q1": x, "q3": x, "n": 1}

    def points(*pairs):
        return [{"seconds": stats(s), "error": e} for s, e in pairs]

    grade = {"error": 1e-9, "residual": 1e-9, "inlier_fraction": 1.0, "l1_value": 1.0, "rank": 5}
    ours = {"points": points((0.1, 1e-3), (0.2, 1e-12)), "grade": grade, "iterations": 2}
    slow = {"points": points((0.3, 1e-2), (0.8, 1e-7)), "grade": grade, "iterations": 2}
    fast = {"points": points((0.01, 1e-10)), "grade": grade, "iterations": 1}
    times = {name: stats(1.0) for name in ("NumPy", "NumPy, A.T", "read: sum", "read: gemv")}
    jobs = [
        (
            {"section": "pca", "measure": "pca", "threads": 1},
            {
                "400": {
                    "ours HuberALS, rank unknown": ours,
                    "tensorly robust_pca": slow,
                    "inexact ALM, partial SVD": fast,
                    "ours ScaledGD": {"error": "Broken: here"},
                }
            },
        ),
        (
            {"section": "large", "measure": "large", "threads": 1, "dtype": "float32"},
            {
                "entries": 10, "points": [[1.0, 1e-2], [13.0, 5e-7]], "build": 1.0, "solve": 14.0,
                "iterations": 2, "status": "CONVERGED", "certificate": 1e-7, "bare": 2**28,
                "before": 2**29, "input": 1, "peak": 2**30,
            },
        ),
        (
            {"section": "rates", "measure": "rates", "threads": 1, "data": "sparse"},
            {
                "ours HuberALS, rank unknown": {
                    "true_rank": 5,
                    "rows": [{"seed": 0, "seconds": 1.0, **grade}, {"seed": 1, "failure": "No: 1"}],
                }
            },
        ),
        (
            {"section": "steps", "measure": "dense_steps", "threads": 1},
            [
                {
                    "d": 4, "n": 10, "rank": 2, "dtype": "float32", "bytes": 10, "agreement": 0.0,
                    "times": {**times, "ours": stats(1.25)},
                }
            ],
        ),
        (
            {
                "section": "iterations", "measure": "iterations", "threads": 1, "kappas": [1, 20],
                "side": 5, "rank": 1, "oversampling": 2, "outliers": 0.1, "seeds": 1,
            },
            [
                {
                    "solver": "ScaledGD", "setting": "completion", "kappa": kappa, "seed": 0,
                    "to_1e-3": 5, "to_1e-6": count, "error": 1e-7,
                }
                for kappa, count in ((1, 8), (20, 12))
            ],
        ),
    ]  # fmt: skip
    runs = [{"job": job, "answer": answer} for job, answer in jobs]
    lost = {"section": "oracle", "measure": "oracle", "threads": 1}
    return {"runs": [*runs, {"job": lost, "error": "Lost: there"}], "data": {}}


def test_report_has_verdicts_losses_and_failures(robust):
    report = robust("benchmark_utils.report")
    lines = report.markdown(_results()).splitlines()

    def row(start):
        (found,) = [line for line in lines if line.startswith(f"| {start}")]
        return [cell.strip() for cell in found.strip("|").split("|")][1:]

    # 0.8 s to 1e-7 (within a twentieth) over our 0.2 s to the same.
    assert row("400, 1 thread(s): tensorly robust_pca over ours")[1:] == ["4", "**missed**"]
    assert row("large, float32: seconds")[1:] == ["13 s", "**missed**"]
    assert row("large, float32, 1 thread(s): memory")[1:] == ["1024 MiB", "met"]
    assert row("rank unknown, *sparse*") == ["≥ 2", "1", "**missed**"]
    assert row("dense step, d=4, N=10, float32: part of") == ["≥ 0.75", "0.8", "met"]
    assert row("ScaledGD, completion: spread") == ["≤ 0.25", "0.2", "met"]
    text = "\n".join(lines)
    assert re.search(r"- inexact ALM, partial SVD is faster on 400, .* 0.01 s, ours 0.2 s", text)
    assert "tensorly robust_pca is faster" not in text
    assert report.failures(_results()) == [
        "pca, 400: ours ScaledGD: Broken: here",
        "rates, sparse, seed 1: ours HuberALS, rank unknown: No: 1",
        "oracle (oracle): Lost: there",
    ]


def test_report_of_nothing(robust):
    text = robust("benchmark_utils.report").markdown({"runs": []})
    assert "None in this run." in text
    assert "## Failed" not in text
