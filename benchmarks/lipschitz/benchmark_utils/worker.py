"""One job in a process of its own: reads the job as JSON from the command line, prints JSON."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parents[1]))
import harness

from benchmark_utils import data
from benchmark_utils.systems import SYSTEMS


def _clean(value):
    """Numbers as JSON has them; what is not finite becomes null."""
    if isinstance(value, dict):
        return {k: _clean(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_clean(v) for v in value]
    if isinstance(value, (np.floating, float)):
        return float(value) if np.isfinite(value) else None
    if isinstance(value, (np.bool_, np.integer)):
        return value.item()
    return value


def _clock(function, *arguments):
    """Wall and processor seconds of one call, and what it returned."""
    wall, cpu = time.perf_counter(), time.process_time()
    found = function(*arguments)
    return time.perf_counter() - wall, time.process_time() - cpu, found


def warm_up(name: str, cases) -> None:
    """Load libraries: the bound of a tiny network of every kind that follows."""
    for kind, norm in dict.fromkeys((data.parse(c)[0], data.parse(c)[2]) for c in cases):
        case = data.case(f"{data.TINY[kind]} {norm}")
        if SYSTEMS[name].refuses(case):
            continue
        system = SYSTEMS[name](limit=20.0)
        try:
            system.grade(case, system.bound(case))
        except Exception as error:
            print(type(error).__name__, error, file=sys.stderr)


def solve(job):
    """Seconds and bounds: every system on every case, whole calls, compilation included."""
    answer = []
    for entry in job["systems"]:
        name = entry["system"]
        warm_up(name, job["cases"])
        for text in job["cases"]:
            row = {"case": text, "system": name, "threads": job["threads"]}
            answer.append(row)
            try:
                case = data.case(text)
            except OSError as error:  # a file that is not there
                row["skipped"] = str(error)
                continue
            row["refused"] = SYSTEMS[name].refuses(case)
            if row["refused"]:
                continue
            try:
                row.update(_measure(name, entry, case, job))
            except Exception as error:
                row["error"] = f"{type(error).__name__}: {error}"
    return answer


def _measure(name, entry, case, job):
    system = SYSTEMS[name](limit=entry.get("limit", 600.0), tol=job.get("tol", 1e-6))
    calls = [_clock(system.bound, case)]
    start = time.perf_counter()
    while (
        len(calls) < job["repetitions"]
        and time.perf_counter() - start + calls[-1][0] < job["budget"]
    ):
        calls.append(_clock(system.bound, case))
    # Numbers beyond the first call, where there are any: it may have loaded something.
    counted = calls[1:] or calls
    graded = system.grade(case, calls[-1][2])
    norms = [np.linalg.norm(W, 2) for W in case.weights]
    return {
        "first": calls[0][0],
        "seconds": harness.quartiles([c[0] for c in counted]),
        "cpu": harness.quartiles([c[1] for c in counted]),
        "product": float(np.prod(norms)) if case.norm == "l2" else None,
        **vars(graded),
    }


def memory(job):
    """By how much one call raises the resident memory of a process that holds the weights."""
    case = data.case(job["case"])
    warm_up(job["system"], [job["case"]])
    system = SYSTEMS[job["system"]](limit=job["limit"])
    size = sum(W.nbytes for W in case.weights)
    row = {"case": job["case"], "system": job["system"], "data": size}
    row["refused"] = SYSTEMS[job["system"]].refuses(case)
    if not row["refused"]:
        row["grown"] = harness.peak_memory(lambda: system.bound(case))
    return row


_COLD = """
import sys, time, json
sys.path[:0] = {path!r}
import numpy
from benchmark_utils import data
case = data.case({case!r})
case.prepared()
start = time.perf_counter()
for module in {modules!r}:
    __import__(module)
loaded = time.perf_counter()
from benchmark_utils.systems import SYSTEMS
system = SYSTEMS[{system!r}](limit=60.0)
begin = time.perf_counter()
system.bound(case)
first = time.perf_counter()
system.bound(case)
print(json.dumps([loaded - start, first - begin, time.perf_counter() - first]))
"""


def cold(job):
    """Import, first and second call of a fresh process."""
    modules = {"lowrank_opt": ["lowrank_opt.lipschitz"], "cvxpy": ["cvxpy"]}
    answer = []
    for name in job["systems"]:
        package = SYSTEMS[name].package
        script = _COLD.format(
            path=[p for p in sys.path if p], case=job["case"], system=name,
            modules=modules.get(package, [package.replace("-", "_")]),
        )  # fmt: skip
        times = []
        for _ in range(job["repetitions"]):
            done = subprocess.run(
                [sys.executable, "-c", script], capture_output=True, text=True, check=False
            )
            if done.returncode:
                answer.append({"system": name, "error": done.stderr.strip().splitlines()[-1]})
                break
            times.append(json.loads(done.stdout.strip().splitlines()[-1]))
        else:
            columns = zip(*times, strict=True)
            keys = ("import", "first", "second")
            stats = {k: harness.quartiles(list(c)) for k, c in zip(keys, columns, strict=True)}
            answer.append({"system": name, **stats})
    return answer


def main() -> None:
    job = json.loads(sys.argv[1])
    harness.pin(job["threads"])
    answer = globals()[job["measure"]](job)
    print(json.dumps({"answer": _clean(answer)}))


if __name__ == "__main__":
    main()
