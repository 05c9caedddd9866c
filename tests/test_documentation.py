"""The Python code in the prose runs, and metadata that is written down twice agrees."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

import lowrank_opt

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize(
    "page",
    [
        "README.md",
        "docs/get_started.md",
        "docs/user_guide/robust_recovery.md",
        "docs/user_guide/sparse_transport.md",
        "docs/user_guide/block_coordinate.md",
        "docs/user_guide/lipschitz.md",
        "docs/user_guide/monotone.md",
    ],
)
def test_python_code_in_the_prose_runs(page):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.S)
    assert blocks
    exec(compile("\n".join(blocks), page, "exec"), {})


def test_links_between_the_pages_lead_somewhere():
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    for page in pages:
        for target in re.findall(r"\]\(([^)#:]+\.md)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_the_citation_has_the_version():
    text = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {lowrank_opt.__version__}\n" in text


def test_pre_commit_runs_the_pinned_versions():
    pins = set(re.findall(r"^(\S+==\S+)$", (ROOT / "constraints.txt").read_text(), re.M))
    used = re.findall(r"[\w-]+==[\w.]+", (ROOT / ".pre-commit-config.yaml").read_text())
    assert used
    assert set(used) <= pins


def test_constraints_cover_the_extras_that_the_makefile_installs():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    pins = set(re.findall(r"^(\S+)==", (ROOT / "constraints.txt").read_text(), re.M))
    wanted = list(project["dependencies"])
    for extra in ("test", "lint", "docs", "bench", "data", "plot", "progress"):
        wanted += extras[extra]
    for requirement in wanted:
        name = re.match(r"[\w.-]+", requirement)[0].lower().replace("_", "-")
        assert name in pins, f"{requirement} has no line in constraints.txt"
