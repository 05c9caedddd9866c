"""Quick benchmark of linear programs and games against their peers, without benchopt.

``python benchmarks/monotone/run.py`` (or ``make bench FAMILY=monotone``) runs every job in a
process of its own with pinned threads and writes ``results.json`` and ``RESULTS.md`` beside this
file. ``--only lp,netlib`` runs some sections and keeps the other results of ``results.json``;
``--list`` prints the jobs; ``--full`` takes more repetitions, more cases and longer limits;
``--tiny`` checks the harness on tiny cases and measures nothing. Sections: ``lp``, ``large``
(millions of nonzeros), ``direct`` (simplex and interior point on the same), ``netlib``, ``auto``,
``kernel``, ``games``, ``oracles``, ``threads``, ``transport_large``, ``scaled``.
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
from benchmark_utils.problems import CALIBRATION, PROBLEMS  # noqa: E402
from benchmark_utils.systems import GAMES, SYSTEMS, unavailable  # noqa: E402

OURS, PLAIN, PDLP, PRESOLVED = (
    "ours", "ours, iterations only", "OR-tools PDLP", "OR-tools PDLP, presolve"
)  # fmt: skip
HIGHS_PDLP, SIMPLEX, IPM = "HiGHS PDLP", "HiGHS simplex", "HiGHS IPM"
FIRST_ORDER = (OURS, PLAIN, PDLP, HIGHS_PDLP)
LP = [
    "planted 5000x10000/10",
    "planted 20000x40000/25",
    "transport 300",
    "transport 300 plane",
    "transport 700",
    "pagerank 100000",
    "multicommodity 100-600-120",
    "multicommodity 200-1200-280",
]
LP_LARGE = ["planted 100000x200000/20", "planted 200000x400000/25", "pagerank 1000000"]
LP_OTHER = ["markov 20000x10", "l1 5000x50", "basis 500x2000", "assignment 300"]
KERNEL = [
    "planted 20000x40000/25",
    "planted 100000x200000/20",
    "transport 700",
    "multicommodity 200-1200-280",
    "pagerank 200000",
    "l1 20000x100",
]
TRANSPORT = "transport 1000"


def plan(full: bool) -> list[dict]:
    """List the jobs."""
    jobs: list[dict] = []
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    both = sorted({1, min(2, cores or 1)})
    most = both[-1]

    def add(section, measure, threads=most, **job):
        jobs.append({"section": section, "measure": measure, "threads": threads, **job})

    def solve(section, cases, names, limit, threads=most, tol=1e-6, repetitions=5, budget=10.0):
        """One job a system and case: neither memory nor an endless call reaches the others."""
        for case in cases:
            for name in names:
                add(
                    section, "solve", threads, cases=[case], systems=[name], tol=tol, limit=limit,
                    repetitions=repetitions, budget=budget,
                )  # fmt: skip

    seeds = [f"{c}, seed {s}" for c in LP[:6] for s in (1, 2)] if full else []
    solve("lp", [*LP, *LP_OTHER, *seeds], FIRST_ORDER, 300.0)
    solve("large", LP_LARGE, FIRST_ORDER, 600.0, repetitions=1)
    solve("direct", [*LP, *LP_OTHER], (SIMPLEX, IPM), 600.0 if full else 120.0, repetitions=1)
    if full:
        solve("direct", LP_LARGE, (SIMPLEX, IPM), 600.0, repetitions=1)
        solve("lp", LP, FIRST_ORDER, 300.0, threads=1, repetitions=1)

    names = [f"netlib {name}" for name in data.netlib_names()] or ["netlib afiro"]
    for tol in (1e-4, 1e-6):
        for name in (OURS, PRESOLVED, *((PDLP, HIGHS_PDLP) if full else ())):
            add(
                "netlib", "solve", 1, cases=names, systems=[name], tol=tol, limit=60.0,
                repetitions=3, budget=1.0,
            )  # fmt: skip
    for name in (SIMPLEX, *((IPM, PLAIN) if full else ())):
        add(
            "netlib", "solve", 1, cases=names, systems=[name], tol=1e-6, limit=60.0,
            repetitions=3, budget=1.0,
        )  # fmt: skip
    add(
        "auto", "auto", 1, cases=names, systems=["ours, linprog", "SciPy linprog"],
        repetitions=100, budget=4.0 if full else 2.0,
    )  # fmt: skip

    for threads in both:
        for case in KERNEL:
            add(
                "kernel", "kernel", threads, cases=[case], repetitions=7 if full else 5,
                budget=2.0, peer=PDLP,
            )  # fmt: skip

    games = ["burglar 500", "burglar 500 rows", "gaussian 2000x2000", "gaussian 500x500"]
    for case in games:
        for name in GAMES:
            add(
                "games", "games", most, cases=[case], systems=[name], tol=1e-6,
                limit=600.0 if full else 120.0, repetitions=3, budget=5.0,
            )  # fmt: skip

    for name in [*PROBLEMS, *CALIBRATION]:
        add("oracles", "oracles", 1, cases=[name], tol=1e-4, limit=20.0, most=8.0)

    for threads in both:
        solve("threads", [LP[1], LP[4], LP[5], LP[7]], (OURS, PDLP), 300.0, threads, repetitions=3)
    solve("transport_large", [TRANSPORT], (OURS, PLAIN), 90.0, repetitions=3, budget=90.0)
    solve("transport_large", [TRANSPORT], (PDLP, HIGHS_PDLP), 600.0 if full else 150.0)
    solve("transport_large", [TRANSPORT], (SIMPLEX, IPM), 600.0 if full else 150.0)

    small = ["planted 500x1000/10", "transport 60", "multicommodity 40-160-30"]
    factors = [f"{kind} {f}" for kind in "cb" for f in ("1e6", "1e-6")]
    scaled = [f"{case}, {factor}" for case in small for factor in factors]
    for name in (OURS, PDLP):
        add(
            "scaled", "solve", 1, cases=[*small, *scaled], systems=[name], tol=1e-6, limit=20.0,
            repetitions=1, budget=0.0,
        )  # fmt: skip
    return jobs


def shrink(jobs: list[dict]) -> list[dict]:
    """Make the same jobs small: a check of the harness, not a measurement."""
    small = []
    for job in jobs:
        job = {**job, "threads": 1}
        if job["measure"] == "oracles":
            if job["cases"][0] not in ("box", "game: gaussian 50x50"):
                continue
            job.update(tol=0.3, limit=2.0, most=2.0)
        else:
            kinds = dict.fromkeys(data.parse(case)[0] for case in job["cases"])
            job["cases"] = [data.TINY[kind] for kind in kinds]
            if "limit" in job:
                job["limit"] = 5.0
            job.update(repetitions=2, budget=0.02)
        if job not in small:
            small.append(job)
    return small


def main() -> int:
    """Run the jobs and write the report."""
    return harness.command_line(__doc__, HERE, plan, shrink, _run, report)


def _longest(job):
    """Seconds after which a job is ended from outside: some peers overrun their limits."""
    tries = max((len(SYSTEMS[s].tries) for s in job.get("systems", ())), default=1)
    one = job.get("limit", 60.0) * tries + job.get("budget", 60.0)
    return 300.0 + 1.5 * one * len(job["cases"])


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
        if job.get("peer") and reasons[job["peer"]]:
            job = {**job, "peer": None}
        environment = harness.environment(job["threads"], HERE)
        runs.append(harness.run_worker(WORKER, job, environment, _longest(job)))
        load_average.append(os.getloadavg()[0])
        what = ", ".join([*job.get("systems", []), *(job["cases"] if len(job["cases"]) == 1 else
                                                     [f"{len(job['cases'])} cases"])])  # fmt: skip
        print(
            f"[{time.perf_counter() - start:6.0f} s] {number}/{len(jobs)} {job['section']} "
            f"{what}: {job['threads']} thread(s), {runs[-1]['wall']:.0f} s "
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
    results["data"] = data.DESCRIPTIONS
    results["load"] = {
        "first": load_average[0],
        "median": statistics.median(load_average),
        "max": max(load_average),
    }
    results["seconds"] = round(time.perf_counter() - start)


if __name__ == "__main__":
    sys.exit(main())
