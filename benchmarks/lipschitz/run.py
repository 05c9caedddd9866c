"""Quick benchmark of Lipschitz bounds against their peers, without benchopt.

``python benchmarks/lipschitz/run.py`` (or ``make bench FAMILY=lipschitz``) runs every job in a
process of its own with pinned threads and writes ``results.json`` and ``RESULTS.md`` beside this
file. ``--only sdp,grid`` runs some sections and keeps the other results of ``results.json``;
``--list`` prints the jobs; ``--full`` takes more repetitions, more cases and longer limits;
``--tiny`` checks the harness on tiny cases and measures nothing.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
WORKER = HERE / "benchmark_utils" / "worker.py"
sys.path[:0] = [str(HERE), str(HERE.parent)]
with contextlib.suppress(ImportError):
    import lowrank_opt  # noqa: F401  (installed)
sys.path.append(str(HERE.parents[1]))  # otherwise the checkout that holds this file

import harness  # noqa: E402
from benchmark_utils import data, report  # noqa: E402
from benchmark_utils.systems import SYSTEMS, unavailable  # noqa: E402

OURS, OUR_STAGES, OUR_FAST = "ours", "ours, ECLipsE", "ours, ECLipsE-Fast"
STAGES, STAGES_RAW, FAST = "eclipse-nn, ECLipsE", "eclipse-nn, ECLipsE, raw", "eclipse-nn, Fast"
CONE, CHORDAL, SCS = "cvxpy + Clarabel, one cone", "cvxpy + Clarabel, chordal", "cvxpy + SCS"
SDP = ["digits 64-32-10", "digits 64-32-32-10", "digits 784-50-10", "uniform 2-10-30-20-2"]
LARGE = [
    "gauss 4-200-200-200-200-200-1",
    "gauss 64-200-200-200-200-200-10",
    "gauss 4-500-500-1",
    "gauss 784-500-500-10",
    "gauss 30x100",
    "gauss 64x64",
]


def plan(full: bool) -> list[dict]:
    """List the jobs."""
    jobs: list[dict] = []
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    both = sorted({1, min(2, cores or 1)})
    most = both[-1]
    limit = 900.0 if full else 200.0

    def add(section, measure, threads=most, **job):
        jobs.append({"section": section, "measure": measure, "threads": threads, **job})

    def systems(*names, seconds=limit):
        return [{"system": name, "limit": seconds} for name in names]

    def solve(section, cases, names, threads=most, repetitions=5, budget=5.0, seconds=limit):
        """One job a system, so that they do not share a process."""
        for name in names:
            add(
                section, "solve", threads, cases=cases, systems=systems(name, seconds=seconds),
                repetitions=2 * repetitions if full else repetitions,
                budget=3 * budget if full else budget,
            )  # fmt: skip

    peers = [CONE, f"{CONE}, 1e-6", CHORDAL, f"{CHORDAL}, 1e-6", SCS, STAGES, STAGES_RAW, FAST]
    for threads in both:
        solve("sdp", SDP, [OURS, OUR_STAGES, OUR_FAST], threads, repetitions=9)
        solve("sdp", SDP, peers if threads == most else [CONE, CHORDAL], threads)
    if full:
        seeds = [f"{c}, seed {s}" for c in SDP[:2] for s in (1, 2)]
        solve("sdp", seeds, [OURS, *peers])

    widths, depths = (10, 20, 40, 60, 100), (2, 5, 10, 20, 30)
    for seed in range(3):
        names = [f"gauss {d}x{w}, seed {seed}" for d in depths for w in widths]
        solve("grid", names, [OURS], repetitions=1, budget=0.0)
    few = [f"gauss {d}x{w}, seed 0" for d in (2, 5) for w in (10, 20, 40)] + [
        f"gauss {d}x{w}, seed 0" for d in (10, 20, 30) for w in (10, 20)
    ]
    solve("grid", few, [CONE, CHORDAL], repetitions=1, budget=0.0, seconds=120.0)

    for case in LARGE:
        solve("large", [case], [OURS], repetitions=3 if full else 1, budget=60.0)

    small = [f"maxmin {size}" for size in ("2x16", "2x32", "5x32", "8x32", "18x32")]
    deep = ["maxmin 18x128", "published 18x128"]
    for norm in ("l2", "linf"):
        cases = [f"{name} {norm}" for name in small]
        solve("group_sort", cases, [OURS, CONE, f"{CONE}, 1e-6", SCS], seconds=120.0)
        solve("group_sort", [f"{name} {norm}" for name in deep], [OURS], repetitions=1)
        if full:
            sizes = ((2, 16), (2, 32), (2, 64), (2, 128), (5, 32), (5, 64), (8, 32), (8, 64),
                     (8, 128), (18, 32), (18, 64))  # fmt: skip
            names = [f"published {d}x{w} {norm}" for d, w in sizes]
            solve("group_sort", names, [OURS], repetitions=1)
    grid = [f"grid {d}x{w}" for d in (2, 5, 10, 20) for w in (20, 40, 60)]
    if full:
        grid += [f"grid {d}x{w}" for d in (30, 50, 75, 100) for w in (20, 40, 60, 80, 100)]
    solve("eclipse", grid, [OURS, OUR_STAGES, OUR_FAST, FAST], repetitions=3, budget=1.0)
    solve("eclipse", grid if full else grid[:9], [STAGES], repetitions=1, budget=0.0)
    solve("eclipse", ["grid 100x1000"], [OUR_FAST], repetitions=3, budget=60.0)
    solve("eclipse", ["grid 100x1000"] if full else ["grid 50x200"], [OUR_FAST, FAST],
          repetitions=1, budget=0.0, seconds=1200.0)  # fmt: skip

    for case in SDP[1:3]:
        for name in (OURS, CONE, CHORDAL, SCS, STAGES):
            add("memory", "memory", case=case, system=name, limit=limit)
    for case in ("gauss 5x100", "gauss 30x60", "maxmin 18x128 l2"):
        add("memory", "memory", case=case, system=OURS, limit=limit)

    add(
        "cold", "cold", case=SDP[1], systems=[OURS, CHORDAL, SCS, FAST],
        repetitions=5 if full else 3,
    )  # fmt: skip
    return jobs


def shrink(jobs: list[dict]) -> list[dict]:
    """Make the same jobs small: a check of the harness, not a measurement."""
    small = []
    for job in jobs:
        job = {**job, "threads": 1}
        if "cases" in job:
            kinds = dict.fromkeys((data.parse(c)[0], data.parse(c)[2]) for c in job["cases"])
            job["cases"] = [f"{data.TINY[kind]} {norm}" for kind, norm in kinds]
            job["systems"] = [{**s, "limit": 10.0} for s in job["systems"]]
            job.update(repetitions=2, budget=0.1)
        if job["measure"] == "memory":
            kind, _, norm, _ = data.parse(job["case"])
            job.update(case=f"{data.TINY[kind]} {norm}", limit=10.0)
        if job["measure"] == "cold":
            job.update(case=data.TINY["digits"], repetitions=1)
        if job not in small:
            small.append(job)
    return small


def main() -> int:
    """Run the jobs and write the report."""
    return harness.command_line(__doc__, HERE, plan, shrink, _run, report)


def _run(jobs: list[dict], results: dict) -> None:
    reasons = {name: unavailable(name) for name in SYSTEMS}
    load_average = [os.getloadavg()[0]]
    start = time.perf_counter()
    runs = []
    for number, job in enumerate(jobs, 1):
        if "systems" in job:
            job = {
                **job,
                "systems": [
                    s for s in job["systems"]
                    if not reasons[s["system"] if isinstance(s, dict) else s]
                ],
            }  # fmt: skip
            if not job["systems"]:
                continue
        elif reasons[job["system"]]:
            continue
        runs.append(
            harness.run_worker(WORKER, job, harness.environment(job["threads"], HERE), 7200)
        )
        load_average.append(os.getloadavg()[0])
        names = ", ".join(
            s["system"] if isinstance(s, dict) else s
            for s in job.get("systems", [job.get("system")])
        )
        print(
            f"[{time.perf_counter() - start:6.0f} s] {number}/{len(jobs)} {job['section']} "
            f"{names}: {job['threads']} thread(s), {runs[-1]['wall']:.0f} s "
            f"{runs[-1].get('error', '')}".rstrip(),
            flush=True,
        )
    sections = {job["section"] for job in jobs}
    results["runs"] = [r for r in results["runs"] if r["job"]["section"] not in sections] + runs
    results["machine"] = harness.machine(HERE)
    results["versions"] = {
        cls.package + (f" ({cls.backend})" if hasattr(cls, "backend") else ""): cls.version()
        for name, cls in SYSTEMS.items()
        if not reasons[name]
    }
    results["missing"] = {name: reason for name, reason in reasons.items() if reason}
    results["notes"] = {name: cls.note for name, cls in SYSTEMS.items() if cls.note}
    results["data"] = data.DESCRIPTIONS
    results["load"] = {
        "first": load_average[0],
        "median": statistics.median(load_average),
        "max": max(load_average),
    }
    results["seconds"] = round(time.perf_counter() - start)


if __name__ == "__main__":
    sys.exit(main())
