"""The table of linear programs: its optima against HiGHS, and rows that must fail do."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from lowrank_opt.monotone import LinearProgram, write_mps
from lowrank_opt.papers import linear_programs as paper

SIZE = {
    "planted": (20, 40), "transport": 8, "pagerank": 50, "flow": (8, 24, 2), "markov": (12, 3),
    "l1": (30, 3), "pursuit": (10, 25), "parts": (20, 40, 6), "seconds": 1.0, "iterations": 3000,
    "netlib": ("afiro", "nowhere"),
}  # fmt: skip


def test_highs_with_ranges_bounds_and_an_offset():
    # x + y in [1, 2], x in [0, 1.5], y >= -1: cheapest at x = 0, y = 1.
    lp = LinearProgram([3.0, 1.0], [[1.0, 1.0]], 1.0, 2.0, [0.0, -1.0], [1.5, np.inf], offset=10.0)
    value, seconds = paper.highs_optimum(lp)
    assert value == pytest.approx(11.0, abs=1e-9)
    assert seconds > 0
    infeasible = LinearProgram([1.0], [[1.0]], 2.0, 3.0, 0.0, 1.0)
    assert np.isnan(paper.highs_optimum(infeasible)[0])


def test_optima_by_construction_are_those_of_highs():
    generated = paper.programs(SIZE, 3)
    assert len(generated) == 9
    known = {kind: data for kind, data in generated.items() if data.optimum is not None}
    assert len(known) == 6
    for kind, data in known.items():
        assert paper.highs_optimum(data.problem)[0] == pytest.approx(data.optimum, abs=1e-7), kind


def test_small_programs_are_within_their_bands():
    assert paper._generated(SIZE, 0).ok
    assert paper._without_solution(1).ok


def test_a_wrong_optimum_is_out_of_its_band(monkeypatch):
    generated = paper.programs(SIZE, 0)
    data = generated["planted"]
    wrong = dataclasses.replace(data, optimum=data.optimum * (1 + 1e-3))
    monkeypatch.setattr(paper, "programs", lambda size, seed: {"planted": wrong})
    section = paper._generated(SIZE, 0)
    assert section.rows[0].verdict == "out"


def test_parts_have_a_number_for_every_run_that_was_not_cut_off():
    section = paper._parts(SIZE, 0)
    (table,) = section.tables
    default = table.rows[0]
    assert default[0] == "default"
    assert all(isinstance(v, float | int) for v in default[1:])
    assert section.rows[0].ours > 1


def test_netlib_is_not_reproduced_without_the_files(monkeypatch, tmp_path):
    monkeypatch.setenv("LOWRANK_OPT_DATA", str(tmp_path))
    (row,) = paper._netlib(SIZE).rows
    assert row.verdict == "not reproduced"
    assert str(tmp_path) in row.note


def test_netlib_reads_the_folder(monkeypatch, tmp_path):
    """A planted program under the name of one of Netlib's, once with a wrong optimum."""
    monkeypatch.setenv("LOWRANK_OPT_DATA", str(tmp_path))
    folder = tmp_path / "netlib"
    folder.mkdir()
    data = paper.make_planted_lp(10, 20, random_state=0)
    write_mps(data.problem, folder / "afiro.mps")
    for optimum, wrong in ((data.optimum, 0), (data.optimum + 1.0, 1)):
        (folder / "optima.json").write_text(json.dumps({"afiro": {"objective": optimum}}))
        solved, off, *rest = paper._netlib({**SIZE, "netlib": None}).rows
        assert (solved.ours, off.ours) == (1, wrong)
        assert off.verdict == ("out" if wrong else "within")
        assert len(rest) == 1
    (missing,) = [r for r in paper._netlib(SIZE).rows if r.ours is None]
    assert missing.note == "nowhere"
