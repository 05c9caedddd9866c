"""``lowrank-opt solve``: the table, the solution files, the exit status."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import scipy.optimize

from lowrank_opt import cli
from lowrank_opt.monotone.linear_program import LinearProgram
from lowrank_opt.monotone.mps import read_mps, write_mps
from lowrank_opt.monotone.quadratic_program import QuadraticProgram

NETLIB = Path(__file__).parents[1] / "data" / "netlib"
AFIRO = NETLIB / "afiro.mps.gz"
OPTIMUM = -464.75314285714285


@pytest.fixture
def solve(capsys):
    """Run the command, and return its exit status, its table and what is on standard error."""

    def run(*arguments):
        code = cli.main(["solve", *map(str, arguments)])
        captured = capsys.readouterr()
        lines = captured.out.splitlines()
        return code, {line[:16].strip(): line[18:] for line in lines}, captured.err

    return run


@pytest.fixture
def file(tmp_path):
    """Write a program to a file."""

    def write(*arguments, cls=LinearProgram, **keywords):
        return write_mps(cls(*arguments, **keywords), tmp_path / "program.mps")

    return write


@pytest.mark.parametrize("method", ["auto", "halpern", "highs", "highs-ds", "highs-ipm"])
def test_table(solve, method):
    code, table, err = solve(AFIRO, "--method", method, "--threads", 1)
    assert (code, err) == (0, "")
    assert (table["problem"], table["status"], table["sense"]) == ("AFIRO", "CONVERGED", "minimize")
    assert [table[key] for key in ("rows", "columns", "nonzeros")] == ["27", "32", "83"]
    assert float(table["objective"]) == pytest.approx(OPTIMUM, rel=1e-6)
    for key in ("primal residual", "dual residual", "relative gap", "residual"):
        assert 0 <= float(table[key]) <= 1e-6
    assert table["time"].endswith(" s") and table["reading"].endswith(" s")
    assert ("HalpernPDHG" in table["solver"]) == (method == "halpern")


def test_solution_files(solve, tmp_path):
    lp = read_mps(AFIRO)
    for suffix in ("sol", "json", "csv", "npz"):
        path = tmp_path / f"answer.{suffix}"
        code, table, _ = solve(AFIRO, "--solution", path)
        assert (code, table["solution"]) == (0, str(path))
    lines = (tmp_path / "answer.sol").read_text().splitlines()
    values = dict(line.split() for line in lines if line[0] != "#")
    x = np.array([float(values[name]) for name in lp.column_names])
    assert len(values) == 32
    assert lp.c @ x == pytest.approx(OPTIMUM)
    assert lines[0] == "# Status = CONVERGED"
    assert float(lines[1].removeprefix("# Objective value = ")) == pytest.approx(OPTIMUM)

    data = json.loads((tmp_path / "answer.json").read_text())
    assert data["status"] == "CONVERGED" and data["ray"] is None
    assert data["objective"] == pytest.approx(OPTIMUM)
    assert data["columns"]["name"] == list(lp.column_names)
    assert data["rows"]["name"] == list(lp.row_names)
    np.testing.assert_allclose(data["columns"]["value"], x)
    # The multipliers are those of the certificate: a point without them would not pass.
    y, z = np.array(data["rows"]["multiplier"]), np.array(data["columns"]["multiplier"])
    np.testing.assert_allclose(lp.A.T @ y + z, lp.c, atol=1e-12)
    assert lp.certificate((x, y)).residual <= 1e-9
    np.testing.assert_allclose(data["rows"]["value"], lp.A @ x)

    with (tmp_path / "answer.csv").open() as text:
        rows = list(csv.DictReader(text))
    assert [row["kind"] for row in rows] == ["column"] * 32 + ["row"] * 27
    assert [row["name"] for row in rows] == [*lp.column_names, *lp.row_names]
    np.testing.assert_allclose([float(row["value"]) for row in rows[:32]], x)
    np.testing.assert_allclose([float(row["multiplier"]) for row in rows[32:]], y)

    with np.load(tmp_path / "answer.npz") as arrays:
        np.testing.assert_allclose(arrays["columns_value"], x)
        np.testing.assert_allclose(arrays["rows_multiplier"], y)
        assert arrays["columns_name"].tolist() == list(lp.column_names)
        assert str(arrays["status"]) == "CONVERGED"


def test_maximum_is_reported_as_one(solve, file, tmp_path):
    path = file([-1.0, -2.0], [[1.0, 1.0]], None, 4.0, 0.0, 3.0, offset=-1.0, maximize=True)
    code, table, _ = solve(path, "--solution", tmp_path / "a.json")
    assert (code, table["sense"], float(table["objective"])) == (0, "maximize", 8.0)
    data = json.loads((tmp_path / "a.json").read_text())
    assert (data["sense"], data["objective"]) == ("maximize", 8.0)
    known = scipy.optimize.linprog([-1.0, -2.0], [[1.0, 1.0]], [4.0], bounds=(0, 3))
    assert data["columns"]["value"] == known.x.tolist()
    # Derivatives of the maximum, which are minus SciPy's, of the minimum.
    assert data["rows"]["multiplier"] == (-known.ineqlin.marginals).tolist()
    assert (
        data["columns"]["multiplier"] == (-known.lower.marginals - known.upper.marginals).tolist()
    )


def test_quadratic_program(solve, file):
    path = file([[2.0, 0.0], [0.0, 4.0]], [-2.0, 0.0], [[1.0, 1.0]], 2.0, cls=QuadraticProgram)
    code, table, _ = solve(path, "--tol", 1e-9)
    # The minimum of x² - 2 x + 2 y² on x + y >= 2 is at (5/3, 1/3).
    assert (code, table["quadratic terms"]) == (0, "2")
    assert float(table["objective"]) == pytest.approx(-1 / 3)


@pytest.mark.parametrize("method", ["auto", "halpern"])
def test_no_solution(solve, file, tmp_path, method):
    path = file([1.0, 1.0], [[1.0, 1.0], [-1.0, -1.0]], None, [1.0, -2.0], 0.0)
    answer = tmp_path / "a.json"
    code, table, _ = solve(path, "--method", method, "--solution", answer)
    assert (code, table["status"]) == (3, "INFEASIBLE")
    assert "objective" not in table
    data = json.loads(answer.read_text())
    assert read_mps(path).farkas(data["ray"]).proved
    assert data["objective"] is None and "value" not in data["columns"]
    code, table, _ = solve(path, "--solution", tmp_path / "a.sol")
    assert (tmp_path / "a.sol").read_text() == "# Status = INFEASIBLE\n"

    path = file([-1.0, -1.0], [[1.0, -1.0]], None, 2.0, 0.0)
    code, table, _ = solve(path, "--method", method, "--solution", answer)
    assert (code, table["status"]) == (4, "UNBOUNDED")
    assert read_mps(path).recession(json.loads(answer.read_text())["ray"]).proved


def test_limits(solve):
    adlittle = NETLIB / "adlittle.mps.gz"
    for arguments in (
        ("--max-iter", 1, "--method", "highs-ds"), ("--max-iter", 1, "--method", "halpern"),
        ("--max-time", 0, "--method", "halpern"),
    ):  # fmt: skip
        code, table, _ = solve(adlittle, *arguments)
        assert code == 5
        assert table["status"] in ("ITERATION_LIMIT", "TIME_LIMIT")
        assert float(table["residual"]) > 1e-6


def test_claim_that_is_not_certified_exits_with_6(solve, monkeypatch):
    from lowrank_opt.monotone import highs

    point = highs._Run.point
    monkeypatch.setattr(
        highs._Run, "point", lambda self: point(self)._replace(x=point(self).x + 1.0)
    )
    code, table, _ = solve(AFIRO, "--method", "highs")
    assert (code, table["status"]) == (6, "STALLED")


def test_log(solve):
    code, _, err = solve(NETLIB / "adlittle.mps.gz", "--method", "halpern", "--log", 64)
    assert code == 0
    head, *rows = err.splitlines()
    assert head.split()[:4] == ["iteration", "primal", "dual", "gap"]
    iterations = [int(row.split()[0]) for row in rows]
    assert iterations == sorted(set(iterations)) and len(rows) > 2
    assert all(len(row.split()) == 6 for row in rows)


def test_warnings_of_the_reader_are_shown(solve, tmp_path):
    path = tmp_path / "integer.mps"
    path.write_text(
        "NAME\nROWS\n N c\n G r\nCOLUMNS\n x c 1 r 2\nRHS\n R r 3\nBOUNDS\n UI B x 5\nENDATA\n"
    )
    code, table, err = solve(path)
    assert (code, float(table["objective"])) == (0, 1.5)
    assert "warning" in err and "1 integer variables" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing.mps"], "nothing.mps cannot be read"),
        (["{bad}"], "line 1 "),
        (["{good}", "--tol", "0"], "tol=0.0 must be"),
        (["{good}", "--max-iter", "-1"], "max_iter=-1 must be"),
        (["{good}", "--solution", "a.txt"], "ends in '.txt'; expected one of .sol, .json"),
        (["{good}", "--solution", "/no/such/folder/a.sol"], "does not exist"),
        (["{good}", "--method", "halpern", "--threads", "0"], "n_threads=0"),
    ],
)
def test_wrong_use_exits_with_2(arguments, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    bad = tmp_path / "bad.mps"
    bad.write_text("nonsense\n")
    arguments = [text.format(bad=bad, good=AFIRO) for text in arguments]
    assert cli.main(["solve", *arguments]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.out == ""


def test_wrong_method_exits_with_2(capsys):
    with pytest.raises(SystemExit) as exit_:
        cli.main(["solve", str(AFIRO), "--method", "simplex"])
    assert exit_.value.code == 2
    assert "usage: lowrank-opt solve" in capsys.readouterr().err
