"""Quick benchmark of sparse linear models against their peers, without benchopt.

``python benchmarks/block_coordinate/run.py`` (or ``make bench FAMILY=block_coordinate``) runs every
job in a process of its own with pinned threads and writes ``results.json`` and ``RESULTS.md``
beside this file. ``--only dense,cold`` runs some sections and keeps the other results of
``results.json``; ``--list`` prints the jobs; ``--full`` takes more repetitions, more cases and
longer limits; ``--tiny`` checks the harness on tiny cases and measures nothing.
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
from benchmark_utils import report  # noqa: E402
from benchmark_utils.data import DESCRIPTIONS, TINY, parse, unavailable_data  # noqa: E402
from benchmark_utils.systems import SYSTEMS, unavailable  # noqa: E402

LINEAR = ["ours", "ours, solver", "celer", "skglm", "scikit-learn"]
LOGISTIC = ["ours", "ours, solver", "celer", "skglm", "liblinear"]
SEEDS = [0, 1, 2]
DENSE = [
    [name, "l1", ratio]
    for name in ("dense 500x5000", "dense 100x10000", "dense 20000x500")
    for ratio in (10, 100)
]
SPARSE = [
    [f"{law} 5000x50000", "l1", ratio]
    for law in ("sparse", "correlated sparse")
    for ratio in (10, 50)
]
PENALTIES = [
    ["dense 500x5000", "positive", 100],
    ["sparse 5000x50000", "positive", 10],
    ["dense 500x5000", "elastic net 0.9", 10],
    ["dense 500x5000", "elastic net 0.9", 100],
    ["dense 500x5000", "elastic net 0.5", 100],
    ["sparse 5000x50000", "elastic net 0.9", 10],
    ["sparse 5000x50000", "elastic net 0.5", 50],
]
WIDE = [
    ["sparse, wide support 5000x50000", "l1", 50],
    ["sparse, wide support 5000x50000", "l1", 100],
    ["wide support 3000x6000", "l1", 10],
    ["wide support 3000x6000", "l1", 50],
]
CLASSES = [
    ["a9a", "l1", 10, True],
    ["a9a", "l1", 100, True],
    ["a9a", "l1", 10, False],
    ["a9a", "l1", 100, False],
    ["sparse labels 20000x100000", "l1", 10, True],
    ["sparse labels 20000x100000", "l1", 10, False],
]
GROUPS = [
    ["groups 500x5000", "l1", 10],
    ["groups 500x5000", "l1", 100],
    ["tasks 200x2000", "l1", 10],
    ["tasks 200x2000", "l1", 100],
]


def plan(full: bool) -> list[dict]:
    """List the jobs."""
    jobs: list[dict] = []
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()

    def add(section: str, measure: str, threads: int = 1, **job) -> None:
        jobs.append({"section": section, "measure": measure, "threads": threads, **job})

    solve = {
        "repetitions": 15 if full else 7, "budget": 20.0 if full else 1.5,
        "limit": 120.0 if full else 2.5, "keep": full,
    }  # fmt: skip
    for section, cases, systems in (
        ("dense", DENSE, LINEAR),
        ("sparse", SPARSE, LINEAR),
        ("penalties", PENALTIES, LINEAR),
        ("wide", WIDE, LINEAR),
        ("logistic", CLASSES, [*LOGISTIC, "saga"] if full else LOGISTIC),
        ("groups", GROUPS, LINEAR),
    ):
        # One process a section, because skglm compiles anew in every process. To tune a peer takes
        # minutes where it is a hundred times slower: there one seed has to do.
        slow = section in ("wide", "logistic")
        seeds = SEEDS[:1] if slow and not full else SEEDS
        add(section, "solve", cases=cases, systems=systems, seeds=seeds, **solve)
    add(
        "path", "path", cases=["dense 500x5000", "sparse 5000x50000"],
        systems=[s for s in LINEAR if SYSTEMS[s].has_path], ratio=100, values=100,
        seeds=SEEDS if full else SEEDS[:2], guess=1e-6, repetitions=5 if full else 3,
        budget=60.0 if full else 4.0, limit=120.0 if full else 5.0,
    )  # fmt: skip
    if (cores or 1) > 1:
        cases = [*DENSE, *SPARSE] if full else [DENSE[1], DENSE[5], SPARSE[0]]
        add("threads", "solve", 2, cases=cases, systems=LINEAR, seeds=SEEDS[:1], **solve)
    add(
        "cold", "cold", case=["dense 100x10000", "l1", 10], systems=LINEAR[::-1], tol=1e-6,
        repetitions=9 if full else 5, budget=5.0,
    )  # fmt: skip
    add(
        "forest", "forest", sides=[250, 500, 1000], repetitions=9 if full else 5,
        largest_peer=10**6 if full else 250_000,
    )  # fmt: skip
    for case in (DENSE[4], SPARSE[0]):
        for name in LINEAR:
            add("memory", "memory", case=case, systems=[name])
    return jobs


def shrink(jobs: list[dict]) -> list[dict]:
    """Make the same jobs small: a check of the harness, not a measurement."""

    def tiny(case):
        if isinstance(case, str):
            return TINY.get(parse(case)[0], case)
        name, penalty, _, *rest = case
        return [TINY.get(parse(name)[0], name), penalty, 5, *rest]

    small: list[dict] = []
    for job in jobs:
        job = dict(job)
        for name, value in {"repetitions": 1, "budget": 0.1, "limit": 1.0, "seeds": [0]}.items():
            if name in job:
                job[name] = value
        if "cases" in job:
            made = [tiny(case) for case in job["cases"] if case[0] != "a9a"]
            job["cases"] = [case for i, case in enumerate(made) if case not in made[:i]]
        if "case" in job:
            job["case"] = tiny(job["case"])
        if job["section"] == "path":
            job.update(values=4, ratio=5)
        if job["section"] == "forest":
            job.update(sides=[20], largest_peer=400)
        if job["section"] == "cold":
            job["systems"] = [s for s in job["systems"] if s != "skglm"]
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
            job = {**job, "systems": [s for s in job["systems"] if not reasons[s]]}
            if not job["systems"]:
                continue
        runs.append(
            harness.run_worker(WORKER, job, harness.environment(job["threads"], HERE), 7200)
        )
        load_average.append(os.getloadavg()[0])
        print(
            f"[{time.perf_counter() - start:6.0f} s] {number}/{len(jobs)} {job['section']} "
            f"{job.get('cases') or job.get('case') or ''}: {job['threads']} thread(s), "
            f"{runs[-1]['wall']:.0f} s {runs[-1].get('error', '')}".rstrip(),
            flush=True,
        )
    sections = {job["section"] for job in jobs}
    results["runs"] = [r for r in results["runs"] if r["job"]["section"] not in sections] + runs
    results["machine"] = harness.machine(HERE)
    results["versions"] = {
        cls.package: cls.version() for name, cls in SYSTEMS.items() if not reasons[name]
    }
    results["missing"] = {name: reason for name, reason in reasons.items() if reason}
    if reason := unavailable_data("a9a"):
        results["missing"]["the data set a9a"] = reason
    results["notes"] = {name: cls.note for name, cls in SYSTEMS.items() if cls.note}
    results["data"] = DESCRIPTIONS
    results["load"] = {
        "first": load_average[0],
        "median": statistics.median(load_average),
        "max": max(load_average),
    }
    results["seconds"] = round(time.perf_counter() - start)


if __name__ == "__main__":
    sys.exit(main())
