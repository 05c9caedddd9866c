"""Quick benchmark of robust low-rank recovery against its peers, without benchopt.

``python benchmarks/robust_recovery/run.py`` (or ``make bench FAMILY=robust_recovery``) runs every
job in a process of its own with pinned threads and writes ``results.json`` and ``RESULTS.md``
beside this file. ``--only pca,large`` runs some sections and keeps the other results of
``results.json``; ``--list`` prints the jobs; ``--full`` takes more repetitions and more cases;
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
from benchmark_utils.data import DESCRIPTIONS, load  # noqa: E402
from benchmark_utils.systems import SYSTEMS, unavailable  # noqa: E402

TENSORLY = "tensorly robust_pca"
ALM, PARTIAL = "inexact ALM, full SVD", "inexact ALM, partial SVD"
HUBER, UNKNOWN = "ours HuberALS", "ours HuberALS, rank unknown"
GRIDS = {
    TENSORLY: [
        {"weight": weight, "mu_init": mu, "learning_rate": rate}
        for weight in (2.0, 1.0)
        for mu in (1.25, 0.0)  # over the spectral norm; 0: the default of the library
        for rate in (1.3, 1.1, 1.2, 1.5)
        if weight == 2.0 or rate == 1.1
    ],
    ALM: [{"learning_rate": rate} for rate in (1.5, 1.2, 1.3, 1.6)],
    PARTIAL: [{"learning_rate": rate} for rate in (1.5, 1.2, 1.3, 1.6)],
}


def plan(full: bool) -> list[dict]:
    """List the jobs."""
    jobs: list[dict] = []
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    both = sorted({1, cores or 1})

    def add(section: str, measure: str, threads: int = 1, **job) -> None:
        jobs.append({"section": section, "measure": measure, "threads": threads, **job})

    for system, grid in GRIDS.items():
        add(
            "tuning", "tuning", system=system, grid=grid, data=["200", "200 missing"],
            limit=60.0 if full else 8.0,
        )  # fmt: skip

    small = ["40", "60", "60 missing"]
    precise = {"tol": 1e-12}
    ours = [
        {"system": UNKNOWN, "options": precise},
        {"system": HUBER, "options": precise},
        {"system": "ours RobustPCA"},
        {"system": "ours ScaledGD", "options": {**precise, "check_every": 5}},
    ]
    peers = [{"system": TENSORLY}, {"system": ALM}, {"system": PARTIAL}]
    more = {"repetitions": 5, "budget": 120.0 if full else 2.0}
    add(
        "oracle", "oracle", data=small, systems=["cvxpy + SCS"], repetitions=5,
        budget=60.0 if full else 1.0,
    )  # fmt: skip
    if full:
        add(
            "oracle", "oracle", data=small[:1], systems=["cvxpy + Clarabel"], repetitions=5,
            budget=300.0,
        )  # fmt: skip
    add("pca", "pca", data=small, systems=ours + peers, level=1e-12, limit=20.0, **more)
    medium = ["400", "400 missing"]
    for threads in both:
        add(
            "pca", "pca", threads, data=medium if full or threads == 1 else medium[1:],
            systems=ours + peers, level=1e-9, limit=600.0 if full else 12.0, **more,
        )  # fmt: skip
    for threads in both if full else (1,):
        add(
            "pca", "pca", threads, data=["800", "800 missing"],
            systems=ours + peers if full else ours[:-1] + peers, level=1e-9,
            limit=900.0 if full else 20.0, **more,
        )  # fmt: skip

    for dtype, threads, tol in (
        ("float32", 1, 2e-7), ("float64", 1, 2e-13), ("float32", cores, 2e-7),
        *((("float64", cores, 2e-13),) if full else ()),
    ):  # fmt: skip
        add("large", "large", threads, data="large", dtype=dtype, tol=tol, max_iter=60)

    seeds = {"seeds": 20, "first_seed": 1000, "limit": 600.0 if full else 10.0}
    exact = {"tol": 1e-11}
    systems = [
        {"system": UNKNOWN, "options": exact},
        {"system": "ours AlternatingMinimization, huber", "seeds": 20 if full else 5},
        {"system": "ours SubgradientMethod", "options": {"tol": 1e-8}, "seeds": 20 if full else 5},
    ]
    slow = [{"system": s, "seeds": 3} for s in (TENSORLY, PARTIAL)] if full else []
    fast = [] if full else [{"system": PARTIAL, "seeds": 1}]
    add("rates", "rates", data="sparse", systems=systems + slow + fast, **seeds)
    seeds["seeds"] = 50 if full else 10
    systems = [s if "seeds" in s else {**s, "options": {**exact, "max_iter": 500}} for s in systems]
    add("rates", "rates", data="hard", systems=systems + slow + fast, **seeds)

    often = {"repetitions": 15, "budget": 30.0 if full else 2.0}
    types = ("float32", "float64")
    add(
        "steps", "dense_steps", **often,
        cases=[[d, n, 5, dtype] for d, n in ((100, 10_000), (64, 4000)) for dtype in types],
    )  # fmt: skip
    cases = [(4000, 10, "float32"), (4000, 30, "float32"), (20_000, 10, "float32")]
    cases += [(20_000, 10, "float64"), (20_000, 30, "float64")]
    if full:
        cases = [(side, rank, t) for side in (4000, 20_000) for rank in (10, 30) for t in types]
    add(
        "steps", "entry_steps", **often,
        cases=[[side, 4_000_000, rank, dtype] for side, rank, dtype in cases],
    )  # fmt: skip

    add(
        "iterations", "iterations", kappas=[1, 2, 5, 10, 20], seeds=5 if full else 1, side=300,
        rank=5, oversampling=10, outliers=0.05, max_iter=2000,
        settings=[
            ["ScaledGD", "completion"],
            ["ScaledGD", "outliers"],
            ["ScaledSubgradientMethod", "outliers"],
            ["ScaledSubgradientMethod", "Gaussian"],
        ],
    )  # fmt: skip
    return jobs


def shrink(jobs: list[dict]) -> list[dict]:
    """Make the same jobs small: a check of the harness, not a measurement."""
    small = []
    for job in jobs:
        job = {**job, "repetitions": 1, "budget": 0.1, "limit": 2.0}
        if job["section"] in ("pca", "oracle", "tuning"):
            job["data"] = ["tiny", "tiny missing"]
        if job["section"] == "tuning":
            job["grid"] = job["grid"][:2]
        if job["section"] == "large":
            job["data"] = "tiny large"
        if job["section"] == "rates":
            job.update(data="tiny missing", seeds=2, systems=[
                {**s, "seeds": 1} if "seeds" in s else s for s in job["systems"]
            ])  # fmt: skip
        if job["measure"] == "dense_steps":
            job["cases"] = [[12, 200, 2, "float32"]]
        if job["measure"] == "entry_steps":
            job["cases"] = [[200, 8000, 3, "float64"]]
        if job["section"] == "iterations":
            job.update(kappas=[1, 5], seeds=1, side=60, rank=2, max_iter=300)
        if job not in small:
            small.append(job)
    return small


def tuned(runs: list[dict]) -> dict[str, dict]:
    """Best setting of every tuned peer, for full and for incomplete data."""
    best: dict[str, dict] = {}
    for run in runs:
        if run["job"]["section"] != "tuning" or "answer" not in run:
            continue
        for kind in ("full", "missing"):
            rows = [r for r in run["answer"] if ("missing" in r["data"]) == (kind == "missing")]
            reached = [r for r in rows if r["reached"]]
            row = (
                min(reached, key=lambda r: r["seconds"])
                if reached
                else min(rows, key=lambda r: r["best"])
            )
            best.setdefault(run["job"]["system"], {})[kind] = row["options"]
    return best


def with_options(job: dict, best: dict[str, dict]) -> dict:
    """Give the tuned peers of a job their settings."""
    if job["section"] not in ("pca", "rates"):
        return job
    systems = []
    for entry in job["systems"]:
        options = best.get(entry["system"])
        if options and job["section"] == "rates":
            options = options["missing"]
        systems.append({**entry, "options": options} if options else entry)
    return {**job, "systems": systems}


def main() -> int:
    """Run the jobs and write the report."""
    return harness.command_line(__doc__, HERE, plan, shrink, _run, report)


def _run(jobs: list[dict], results: dict) -> None:
    reasons = {name: unavailable(name) for name in SYSTEMS}
    # Made by this process, so that no measuring process holds what the making takes.
    for name in dict.fromkeys(j["data"] for j in jobs if j["section"] == "large"):
        load(name)
    load_average = [os.getloadavg()[0]]
    start = time.perf_counter()
    runs = []
    for number, job in enumerate(jobs, 1):
        job = with_options(job, tuned(runs) or tuned(results["runs"]))
        if job["measure"] == "tuning" and reasons[job["system"]]:
            runs.append({"job": job, "error": reasons[job["system"]]})
            continue
        if job["section"] in ("pca", "rates"):
            job = {**job, "systems": [s for s in job["systems"] if not reasons[s["system"]]]}
        if job["section"] == "oracle":
            job = {**job, "systems": [s for s in job["systems"] if not reasons[s]]}
        runs.append(
            harness.run_worker(WORKER, job, harness.environment(job["threads"], HERE), 7200)
        )
        load_average.append(os.getloadavg()[0])
        print(
            f"[{time.perf_counter() - start:6.0f} s] {number}/{len(jobs)} {job['section']}: "
            f"{job.get('system') or job.get('data') or job['measure']}, {job['threads']} "
            f"thread(s) {runs[-1].get('error', '')}".rstrip(),
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
