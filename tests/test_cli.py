"""The command ``lowrank-opt``: what it prints, what it writes, and its exit status."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
import types

import pytest

import lowrank_opt
from lowrank_opt import cli, papers
from lowrank_opt.papers import Reproduction, Row, Section


@pytest.fixture
def experiment(monkeypatch):
    """Register one experiment, the function that is given."""

    def register(function):
        module = types.ModuleType("made_up_experiment")
        module.reproduce = function
        monkeypatch.setitem(sys.modules, module.__name__, module)
        entries = {"toy": Reproduction(module.__name__, "A toy")}
        monkeypatch.setattr(papers, "REPRODUCTIONS", entries)

    return register


def test_version(capsys):
    with pytest.raises(SystemExit) as exit_:
        cli.main(["--version"])
    assert exit_.value.code == 0
    assert capsys.readouterr().out.strip() == f"lowrank_opt {lowrank_opt.__version__}"


@pytest.mark.parametrize(
    "arguments",
    [[], ["nonsense"], ["reproduce"], ["reproduce", "all", "--scale", "huge"], ["bench", "none"]],
)
def test_wrong_usage_exits_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as exit_:
        cli.main(arguments)
    assert exit_.value.code == 2
    assert "usage: lowrank-opt" in capsys.readouterr().err


def test_info(capsys):
    assert cli.main(["info"]) == 0
    out = capsys.readouterr().out
    for word in ("python", "processor", "numba", "openblas" if "openblas" in out else "blas"):
        assert word in out
    assert lowrank_opt.__version__ in out


def test_list(capsys):
    assert cli.main(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for family in lowrank_opt.FAMILIES:
        assert family in lines
    for name in papers.REPRODUCTIONS:
        assert any(line.startswith(f"  {name} ") for line in lines)


def test_reproduce_writes_page_and_json(experiment, tmp_path, capsys):
    experiment(lambda scale, random_state: Section("Toy", rows=[Row("a", 1.0, band=(0, 2))]))
    arguments = ["reproduce", "all", "--scale", "paper", "--out", str(tmp_path), "--seed", "4"]
    assert cli.main(arguments) == 0
    captured = capsys.readouterr()
    assert "1 of 1 judged rows within their bands" in captured.out
    assert str(tmp_path / "report.html") in captured.out
    assert "done" in captured.err
    data = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert (data["scale"], data["random_state"], data["ok"]) == ("paper", 4, True)


def test_reproduce_of_one_has_its_own_files(experiment, tmp_path):
    experiment(lambda scale, random_state: Section("Toy"))
    assert cli.main(["reproduce", "toy", "--out", str(tmp_path)]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["toy.html", "toy.json"]


def test_row_out_of_its_band_exits_with_1(experiment, tmp_path, capsys):
    experiment(lambda scale, random_state: Section("Toy", rows=[Row("a", 3.0, band=(0, 2))]))
    assert cli.main(["reproduce", "all", "--out", str(tmp_path)]) == 1
    assert "1 OUT" in capsys.readouterr().out
    assert (tmp_path / "report.html").exists()


def test_failing_experiment_exits_with_1(experiment, tmp_path, capsys):
    def fail(scale, random_state):
        raise RuntimeError("no luck")

    experiment(fail)
    assert cli.main(["reproduce", "all", "--out", str(tmp_path)]) == 1
    assert "FAILED: RuntimeError: no luck" in capsys.readouterr().out


def test_unknown_reproduction_exits_with_2(tmp_path, capsys):
    assert cli.main(["reproduce", "nothing", "--out", str(tmp_path)]) == 2
    assert "there is no reproduction 'nothing'" in capsys.readouterr().err


def test_interrupt_exits_with_130(experiment, tmp_path, capsys):
    def interrupt(scale, random_state):
        raise KeyboardInterrupt

    experiment(interrupt)
    assert cli.main(["reproduce", "all", "--out", str(tmp_path)]) == 130
    assert "interrupted" in capsys.readouterr().err


@pytest.mark.parametrize("family", ["recovery", "robust_recovery"])
def test_bench_runs_the_script_of_the_family(monkeypatch, tmp_path, family):
    folder = tmp_path / "benchmarks" / family
    folder.mkdir(parents=True)
    (folder / "run.py").write_text(
        "import pathlib, sys\n"
        "pathlib.Path('seen').write_text(' '.join(sys.argv[1:]))\n"
        "sys.exit(7)\n"
    )
    monkeypatch.chdir(tmp_path)
    assert cli.main(["bench", family, "--full", "x"]) == 7
    assert (tmp_path / "seen").read_text() == "--full x"


def test_bench_outside_a_checkout(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli, "__file__", str(tmp_path / "lowrank_opt" / "cli.py"))
    assert cli.main(["bench", "recovery"]) == 2
    assert "checkout" in capsys.readouterr().err


def test_warmup_prints_every_kernel(monkeypatch, capsys):
    monkeypatch.setattr("lowrank_opt.core.warmup", lambda families: {"recovery.kernel": 0.25})
    assert cli.main(["warmup"]) == 0
    out = capsys.readouterr().out
    assert "recovery.kernel" in out
    assert out.splitlines()[-1].split() == ["total", "0.250", "s"]


def test_warmup_of_an_unknown_family(capsys):
    assert cli.main(["warmup", "nothing"]) == 2
    assert "nothing" in capsys.readouterr().err


def test_module_and_terminal_without_unicode():
    """``python -m lowrank_opt`` is the command, and an ASCII terminal gets no traceback."""
    result = subprocess.run(
        [sys.executable, "-m", "lowrank_opt", "reproduce", "nothing–"],
        capture_output=True,
        text=True,
        encoding="ascii",
        env={"PYTHONIOENCODING": "ascii", "PYTHONPATH": ":".join(filter(None, sys.path))},
        check=False,
    )
    assert result.returncode == 2
    assert "there is no reproduction 'nothing?'" in result.stderr


def test_console_script_is_declared():
    scripts = importlib.metadata.entry_points(group="console_scripts", name="lowrank-opt")
    if not scripts:
        pytest.skip("the package is imported from its folder, not installed")
    (script,) = {entry.value for entry in scripts}
    assert script == "lowrank_opt.cli:main"
