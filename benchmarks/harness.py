"""What the quick harnesses of all families share: clocks, memory, the machine, tables.

The files that benchopt loads do not import this module, so that each benchmark stays complete.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

__all__ = [
    "command_line",
    "environment",
    "heading",
    "machine",
    "peak_memory",
    "pin",
    "quartiles",
    "repeat",
    "resident",
    "run_worker",
    "seconds",
    "table",
    "timed",
    "verdict",
]

# -- measuring ------------------------------------------------------------------------------------


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


def resident(field: str = "VmRSS") -> int:
    """Bytes of the process in memory now, or at its highest (``"VmHWM"``)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return 1024 * int(line.split()[1])
    raise KeyError(field)


def peak_memory(function) -> int:
    """Bytes by which the resident memory of the process rises at its highest during a call."""
    # Writing 5 resets the high-water mark to the present size (Linux).
    Path("/proc/self/clear_refs").write_text("5")
    before = resident()
    function()
    return resident("VmHWM") - before


def pin(threads: int) -> None:
    """Keep the process on as many cores as it has threads."""
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, cores[-threads:])


# -- processes ------------------------------------------------------------------------------------


def run_worker(worker: Path, job: dict, environment: dict[str, str], timeout: float = 1800) -> dict:
    """Run one job in a process of its own; a failure becomes part of the results."""
    start = time.perf_counter()
    answer: dict = {"job": job}
    try:
        done = subprocess.run(
            [sys.executable, str(worker), json.dumps(job)], env=environment, capture_output=True,
            text=True, check=False, timeout=timeout,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return {**answer, "wall": timeout, "error": f"still running after {timeout:g} s"}
    answer["wall"] = time.perf_counter() - start
    if done.returncode == 0:
        answer.update(json.loads(done.stdout.strip().splitlines()[-1]))
    else:
        lines = (done.stderr.strip() or f"exit status {done.returncode}").splitlines()
        answer["error"] = lines[-1]
    return answer


def machine(folder: Path) -> dict:
    """Describe the machine, the interpreter and the state of the checkout that holds `folder`."""
    model, flags = platform.processor(), ""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
            if line.startswith("flags"):
                flags = line
    memory = ""
    with contextlib.suppress(OSError):
        memory = Path("/proc/meminfo").read_text().splitlines()[0].split(":")[1].strip()
    commit = subprocess.run(
        ["git", "-C", str(folder), "describe", "--always", "--dirty"], capture_output=True,
        text=True, check=False,
    ).stdout.strip()  # fmt: skip
    import numba
    import numpy
    import scipy
    from threadpoolctl import threadpool_info

    blas = sorted({f"{i['internal_api']} {i['version']}" for i in threadpool_info()})
    return {
        "cpu": model,
        "vector": next((v for v in ("avx512f", "avx2", "sse2") if v in flags.split()), "unknown"),
        "cores": len(os.sched_getaffinity(0)),
        "memory": memory,
        "system": platform.platform(),
        "python": platform.python_version(),
        "numpy": numpy.__version__,
        "scipy": scipy.__version__,
        "numba": numba.__version__,
        "blas": ", ".join(blas),
        "commit": commit,
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
    }


# -- reports --------------------------------------------------------------------------------------


def table(head, rows) -> list[str]:
    """Lines of a Markdown table, with an empty one at the end."""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(str(c) for c in row) + " |" for row in rows]
    return [*lines, ""]


def seconds(stats: dict | None) -> str:
    """Median, and quartiles when there is more than one repetition."""
    if stats is None:
        return "–"
    text = f"{stats['median']:.3g}"
    if stats["n"] > 1:
        text += f" ({stats['q1']:.3g}–{stats['q3']:.3g})"
    return text


def verdict(measured: float | None, goal: float, at_most: bool = False) -> str:
    """Whether a target is met, in words."""
    if measured is None:
        return "not measured"
    good = measured <= goal if at_most else measured >= goal
    return "met" if good else "**missed**"


def heading(results: dict) -> list[str]:
    """Machine, versions, load and data sets, as Markdown."""
    out = table(("machine", ""), results.get("machine", {}).items())
    out += table(("system", "version"), results.get("versions", {}).items())
    for name, reason in results.get("missing", {}).items():
        out.append(f"- not run: {name} ({reason})")
    for name, note in results.get("notes", {}).items():
        out.append(f"- {name}: {note}")
    load = results.get("load", {})
    if load:
        out.append(
            f"- load average while measuring: {load['first']:.1f} at the start, "
            f"{load['median']:.1f} median, {load['max']:.1f} highest"
        )
    out += ["", "Data sets:", ""]
    out += [f"- **{name}**: {text}" for name, text in results.get("data", {}).items()]
    return [*out, ""]


def environment(threads: int, folder: Path) -> dict[str, str]:
    """Environment of a worker: BLAS, OpenMP and numba get the threads of the job.

    Compiled kernels are kept below `folder` unless the caller's environment says where.
    """
    pinned = {
        **os.environ,
        **dict.fromkeys(
            ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"),
            str(threads),
        ),
        "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
    }
    pinned.setdefault("NUMBA_CACHE_DIR", str(folder / ".cache" / "numba"))
    return pinned


def command_line(description: str | None, folder: Path, plan, shrink, run, report) -> int:
    """Run the jobs of a family's benchmark and write its report; return the exit status.

    Parameters
    ----------
    description : str or None
        What ``--help`` says.
    folder : Path
        Where ``results.json`` and ``RESULTS.md`` lie.
    plan : callable
        ``plan(full) -> jobs``.
    shrink : callable
        ``shrink(jobs) -> jobs`` of tiny size.
    run : callable
        ``run(jobs, results)`` measures and enters.
    report : module
        With ``markdown(results)`` and ``failures(results)``.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--only", default="", help="sections, separated by commas")
    parser.add_argument("--full", action="store_true", help="more repetitions, more cases")
    parser.add_argument("--tiny", action="store_true", help="tiny cases, to check the harness")
    parser.add_argument("--list", action="store_true", help="print the jobs and stop")
    parser.add_argument("--report", action="store_true", help="write RESULTS.md from results.json")
    arguments = parser.parse_args()
    path = folder / "results.json"
    jobs = plan(arguments.full)
    sections = dict.fromkeys(job["section"] for job in jobs)
    only = set(filter(None, arguments.only.split(",")))
    if only - set(sections):
        parser.error(f"--only knows {', '.join(sections)}")
    jobs = [j for j in jobs if not only or j["section"] in only]
    if arguments.tiny:
        jobs = shrink(jobs)
        path = Path(tempfile.mkdtemp()) / "results.json"
    if arguments.list:
        for job in jobs:
            print(json.dumps(job))
        return 0
    results = json.loads(path.read_text()) if path.exists() else {"runs": []}
    if not arguments.report:
        run(jobs, results)
        path.write_text(json.dumps(results, indent=1) + "\n")
    page = path.with_name("RESULTS.md")
    page.write_text(report.markdown(results))
    print(page)
    return 1 if arguments.tiny and report.failures(results) else 0
