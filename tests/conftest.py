"""Command-line switches, skip reasons and fixtures that all tests share."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from types import ModuleType

ROOT = Path(__file__).resolve().parents[1]
OPT_IN = ("slow", "gpu", "paper", "network", "external_data")

# Before numba is imported. The Makefile sets it too; this is for a bare `pytest`. The name has the
# hash of all kernels, because numba does not notice an edited function in another file.
if "NUMBA_CACHE_DIR" not in os.environ:
    _digest = hashlib.sha256()
    _penalties = ROOT / "lowrank_opt" / "numerics" / "penalties.py"  # named tuples in its index
    for _path in [*sorted((ROOT / "lowrank_opt").glob("*/kernels*.py")), _penalties]:
        _digest.update(_path.read_bytes())
    os.environ["NUMBA_CACHE_DIR"] = str(ROOT / ".cache" / f"numba-{_digest.hexdigest()[:10]}")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--run",
        action="append",
        default=[],
        choices=[*OPT_IN, "all"],
        metavar="MARKER",
        help=f"also run the tests with this marker: {', '.join(OPT_IN)} or all (may be repeated)",
    )


def _skip_reasons(config: pytest.Config) -> dict[str, str]:
    """Why tests with an opt-in marker do not run; a marker that is missing here runs."""
    asked = set(config.getoption("--run"))
    if "all" in asked:
        asked.update(OPT_IN)
    reasons = {}
    for marker in ("slow", "paper", "network"):
        if marker not in asked:
            reasons[marker] = f"{marker}: not asked for (--run {marker})"
    if "gpu" not in asked and not _cupy_device():
        reasons["gpu"] = "gpu: CuPy with a CUDA device was not found"
    if not Path(os.environ.get("LOWRANK_OPT_DATA") or "/nonexistent").is_dir():
        reasons["external_data"] = "external_data: LOWRANK_OPT_DATA does not name a folder"
    return reasons


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not any(item.get_closest_marker(name) for item in items for name in OPT_IN):
        return
    reasons = _skip_reasons(config)
    for item in items:
        for marker, reason in reasons.items():
            if item.get_closest_marker(marker):
                item.add_marker(pytest.mark.skip(reason=reason))
                break


def pytest_terminal_summary(terminalreporter) -> None:
    passed = terminalreporter.stats.get("passed", [])
    n_snapshots = sum("snapshot" in report.keywords for report in passed)
    if n_snapshots:
        terminalreporter.write_line(f"{n_snapshots} of the passed tests are snapshots")


def _cupy_device() -> bool:
    if importlib.util.find_spec("cupy") is None:
        return False
    import cupy

    try:
        return cupy.cuda.runtime.getDeviceCount() > 0
    except cupy.cuda.runtime.CUDARuntimeError:
        return False


@pytest.fixture(
    params=["numpy", "array_api_strict", "torch", pytest.param("cupy", marks=pytest.mark.gpu)]
)
def xp(request: pytest.FixtureRequest) -> ModuleType:
    """Array namespaces that can be imported here; the others are skipped, with the reason."""
    pytest.importorskip(request.param, reason=f"{request.param} is not installed")
    if request.param == "array_api_strict":
        return importlib.import_module("array_api_strict")
    return importlib.import_module(f"array_api_compat.{request.param}")
