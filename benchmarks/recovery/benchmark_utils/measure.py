"""Clocks and memory counters."""

from __future__ import annotations

import statistics
import time
from pathlib import Path

__all__ = ["peak_memory", "quartiles", "repeat", "timed"]


def timed(function, *arguments) -> float:
    """Wall seconds of one call."""
    start = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - start


def repeat(function, *, repetitions: int = 5, budget: float = 20.0) -> list[float]:
    """Call `function` (which returns its measurement) up to `repetitions` times.

    Stops early, but not before the first, when `budget` seconds are used up.
    """
    values: list[float] = []
    start = time.perf_counter()
    while len(values) < repetitions:
        values.append(function())
        if (time.perf_counter() - start) * (1 + 1 / len(values)) > budget:
            break
    return values


def quartiles(values: list[float]) -> dict[str, float]:
    """Median, quartiles and number of repetitions."""
    if len(values) < 2:
        low = high = values[0]
    else:
        low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return {"median": statistics.median(values), "q1": low, "q3": high, "n": len(values)}


def _status(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return 1024 * int(line.split()[1])
    raise KeyError(field)


def peak_memory(function) -> int:
    """Bytes by which the resident memory of the process rises at its highest during a call."""
    # Writing 5 resets the high-water mark to the present size (Linux).
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    function()
    return _status("VmHWM") - before
