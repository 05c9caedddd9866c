"""Quick benchmark of sparse transport against its peers, without benchopt.

``python benchmarks/transport/run.py`` (or ``make bench FAMILY=transport``) runs every job in a
process of its own with pinned threads and writes ``results.json`` and ``RESULTS.md`` beside this
file. ``--only solve,hard`` runs some sections and keeps the other results of ``results.json``;
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
from benchmark_utils import report  # noqa: E402
from benchmark_utils.data import DESCRIPTIONS  # noqa: E402
from benchmark_utils.systems import SYSTEMS, unavailable  # noqa: E402

OURS, EMD, GRADIENT, POT, DEFAULT = (
    "ours", "ours, EMD start", "ours L-BFGS", "POT", "POT, its defaults",
)  # fmt: skip
HARD = [
    ["uniform 1000", 2, 1.0],
    ["uniform 1000", 4, 100.0],
    ["uniform 1000", 2, 100.0],
    ["clouds 1000", 2, 100.0],
    ["clouds 1000", 4, 100.0],
    ["clouds 1000", 2, 0.01],
    ["clouds 1000", 4, 0.01],
    ["five 1000", 2, 1.0],
    ["five 1000", 5, 1.0],
    ["five 1000", 5, 100.0],
    ["grid 1024", 2, 1.0],
    ["grid 1024", 5, 100.0],
    ["noise 1000", 2, 1.0],
    ["images 1024", 4, 1.0],
    ["images 4096", 4, 10.0],
    ["images 4096", None, 10.0],
]
MORE = [
    ["images 1024", 2, 100.0],
    ["images 4096", 2, 1.0],
    ["uniform 1000", None, 100.0],
    ["uniform 2000", 2, 1.0],
    ["uniform 2000", 2, 100.0],
    ["clouds 1000", None, 100.0],
    ["clouds 2000", 4, 100.0],
    ["clouds 2000", 4, 0.01],
    ["five 1000", 2, 100.0],
    ["five 1000", None, 1.0],
    ["grid 1024", 2, 100.0],
    ["noise 1000", 5, 100.0],
]


def plan(full: bool) -> list[dict]:
    """List the jobs."""
    jobs: list[dict] = []
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    both = sorted({1, min(2, cores or 1)})

    def add(section: str, measure: str, threads: int = 1, **job) -> None:
        jobs.append({"section": section, "measure": measure, "threads": threads, **job})

    for threads in both:
        add(
            "oracle", "oracle", threads, sizes=[500, 1000, 2000] if threads == 1 else [2000],
            caps=[10, None], budget=5.0 if full else 1.5,
        )  # fmt: skip

    caps = [2, 4, 10, None]

    def cases(n, wanted=caps):
        return [[f"clouds {n}", k, 1.0] for k in wanted]

    ours = {"system": OURS, "limit": 300.0 if full else 40.0}
    more = {"repetitions": 5, "budget": 60.0 if full else 8.0}
    for threads in both:
        for n in (1000, 2000, 4000):
            add("solve", "solve", threads, cases=cases(n), systems=[ours], **more)
    for n in (1000, 2000):
        add(
            "solve", "solve", cases=cases(n, caps if full else [2, 4]),
            systems=[{"system": EMD, "limit": 300.0 if full else 20.0}], **more,
        )  # fmt: skip
    add(
        "solve", "solve", cases=cases(1000, caps if full else [4, None]),
        systems=[{"system": GRADIENT, "limit": 120.0 if full else 6.0}], repetitions=1, budget=1.0,
    )  # fmt: skip
    # The peer: long enough to show fifty times our time at n = 2000, k = 4.
    add(
        "solve", "solve", cases=cases(1000), repetitions=1, budget=1.0,
        systems=[{"system": POT, "limit": 600.0 if full else 8.0}],
    )  # fmt: skip
    add(
        "solve", "solve", cases=cases(2000, [4]),
        systems=[{"system": POT, "limit": 1200.0 if full else 75.0}], repetitions=1, budget=1.0,
    )  # fmt: skip
    if full:
        add(
            "solve", "solve", cases=cases(2000, [2, 10, None]),
            systems=[{"system": POT, "limit": 600.0}], repetitions=1, budget=1.0,
        )  # fmt: skip
        add(
            "solve", "solve", cases=cases(1000) + cases(2000),
            systems=[{"system": DEFAULT, "limit": None}], repetitions=1, budget=1.0,
        )  # fmt: skip
    add(
        "hard", "solve", cases=HARD + (MORE if full else []),
        systems=[{"system": OURS, "limit": 120.0 if full else 8.0}],
        repetitions=3 if full else 1, budget=60.0 if full else 1.0,
    )  # fmt: skip
    rounded = cases(1000, [2, 4, 10]) + cases(2000, [2, 4, 10]) + [
        case for case in HARD if case[1] is not None and case[2] < 100.0
    ]  # fmt: skip
    if full:
        rounded += [case for case in [*HARD, *MORE] if case[1] is not None and case[2] >= 100.0]
    add("rounding", "rounding", cases=rounded, limit=120.0 if full else 45.0)
    add(
        "points", "points", n=20_000, d=3, k=4, tol=1e-4, limit=500.0 if full else 90.0,
        rounding="none",
    )  # fmt: skip
    if full and both[-1] > 1:
        add(
            "points", "points", both[-1], n=20_000, d=3, k=4, tol=1e-4, limit=500.0,
            rounding="none",
        )  # fmt: skip
    add(
        "plain", "plain", cases=["clouds 200", "clouds 1000", "uniform 1000"]
        + (["clouds 2000", "uniform 2000", "five 1000"] if full else []),
        limit=120.0 if full else 15.0, largest_lp=200,
    )  # fmt: skip
    for threads in both:
        add("router", "router", threads, shape=[32, 4096, 64], budget=60.0 if full else 3.0)
    add(
        "monotone", "monotone", case="clouds 300", gamma=10.0,
        caps=[1, 2, 3, 4, 6, 10, 20, None],
        systems=[
            {"system": OURS, "limit": 60.0, "options": {"tol": 1e-8}},
            {"system": POT, "limit": 60.0 if full else 3.0},
            {"system": DEFAULT, "limit": None},
        ],
    )  # fmt: skip
    return jobs


def shrink(jobs: list[dict]) -> list[dict]:
    """Make the same jobs small: a check of the harness, not a measurement."""
    small = []
    for job in jobs:
        job = {**job, "repetitions": 1, "budget": 0.1}
        if "limit" in job:
            job["limit"] = 2.0
        if "systems" in job:
            job["systems"] = [{**s, "limit": s["limit"] and 1.0} for s in job["systems"]]
        if job["measure"] in ("solve", "rounding"):
            job["cases"] = [
                [f"{name.split()[0]} 100", k, gamma] for name, k, gamma in job["cases"][:2]
            ]
        if job["section"] == "oracle":
            job["sizes"] = [60]
        if job["section"] == "points":
            job.update(n=300)
        if job["section"] == "plain":
            job.update(cases=["clouds 60", "uniform 60"], largest_lp=60)
        if job["section"] == "router":
            job["shape"] = [2, 64, 8]
        if job["section"] == "monotone":
            job.update(case="clouds 60", caps=[1, 4, None])
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
            job = {**job, "systems": [s for s in job["systems"] if not reasons[s["system"]]]}
            if not job["systems"]:
                continue
        runs.append(
            harness.run_worker(WORKER, job, harness.environment(job["threads"], HERE), 7200)
        )
        load_average.append(os.getloadavg()[0])
        names = ", ".join(s["system"] for s in job.get("systems", []))
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
        cls.package: cls.version() for name, cls in SYSTEMS.items() if not reasons[name]
    }
    results["missing"] = {name: reason for name, reason in reasons.items() if reason}
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
