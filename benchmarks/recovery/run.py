"""Quick benchmark of matrix completion against its peers, without benchopt.

``python benchmarks/recovery/run.py`` (or ``make bench FAMILY=recovery``) runs every measurement in
a process of its own with pinned threads and writes ``results.json`` and ``RESULTS.md`` beside this
file. ``--only sweeps,curves`` runs some sections and keeps the other results of ``results.json``;
``--list`` prints the jobs; ``--full`` takes more repetitions and larger cases.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
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

EXACT, CG = "ours exact", "ours CG"
SGD, ADAGRAD, GIBBS = "ours SGD", "ours SGD, AdaGrad", "ours Gibbs"
CHOL, PEER_CG = "cmfrec Cholesky", "cmfrec CG"


def plan(full: bool) -> list[dict]:
    """List the jobs; ours and the peers alternate, so that a drifting machine hits both."""
    jobs: list[dict] = []

    def add(section: str, system: str, measure: str, data: str | None, **job) -> None:
        parameters = job.pop("parameters", {})
        jobs.append(
            {
                "section": section,
                "system": system,
                "measure": measure,
                "data": data,
                "parameters": parameters,
                **job,
            }
        )

    few = {"repetitions": 5, "budget": 60.0 if full else 6.0}
    # Seconds per sweep.
    base = {"biases": True, "dtype": "float32", "threads": 1}
    ranks = [10, 20, 50, 100, 200]
    add("sweeps", EXACT, "sweeps", "S", ranks=ranks, parameters=base, **few)
    add("sweeps", CHOL, "sweeps", "S", ranks=[10, 20, 50], parameters=base, **few)
    add("sweeps", CHOL, "single_fit", "S", ranks=[100, 200], parameters=base)
    add("sweeps", CG, "sweeps", "S", ranks=[50, 100, 200], parameters=base, **few)
    add("sweeps", PEER_CG, "sweeps", "S", ranks=ranks, parameters=base, **few)
    add("sweeps", "implicit ALS-CG", "sweeps", "S", ranks=[50, 100], parameters=base, **few)
    for change in ({"dtype": "float64"}, {"biases": False}, {"threads": 2}):
        parameters = {**base, **change}
        more = [50, 100] if change == {"threads": 2} or full else [50]
        add("sweeps", EXACT, "sweeps", "S", ranks=more, parameters=parameters, **few)
        add("sweeps", CHOL, "sweeps", "S", ranks=[50], parameters=parameters, **few)
        add("sweeps", CG, "sweeps", "S", ranks=more, parameters=parameters, **few)
        add("sweeps", PEER_CG, "sweeps", "S", ranks=more, parameters=parameters, **few)
    plain = {**base, "biases": False}
    large = [10, 50, 100, 200] if full else [50, 100]
    for data in ("L4", "L8"):
        own = large if data == "L4" else [50]
        add("sweeps", EXACT, "sweeps", data, ranks=own, parameters=plain, **few)
        add(
            "sweeps", CHOL, "sweeps", data, ranks=[50], counts=[1, 2], parameters=plain,
            repetitions=3 if full else 1,
        )  # fmt: skip
        add("sweeps", CG, "sweeps", data, ranks=own, parameters=plain, **few)
        add("sweeps", PEER_CG, "sweeps", data, ranks=own, parameters=plain, **few)
    add("sweeps", EXACT, "sweeps", "L4", ranks=[50], parameters={**plain, "threads": 2}, **few)
    if full:
        double = {**plain, "dtype": "float64"}
        for system in (EXACT, CG, PEER_CG):
            add("sweeps", system, "sweeps", "L4", ranks=[50], parameters=double, **few)

    # Error against time, every point a fit from scratch.
    tuned = _tuned()
    short = [1, 2, 3, 4, 6, 8, 12, 16]
    often = {"repetitions": 5, "budget": 20.0 if full else 2.0}

    def curve(system: str, counts: list[int], **parameters) -> None:
        parameters = {**base, **tuned.get(f"{system}, k={parameters['rank']}", {}), **parameters}
        add("curves", system, "curve", "S", counts=counts, parameters=parameters, **often)

    curve(EXACT, short, rank=50)
    curve(SGD, [3, 5, 8, 12, 16, 20, 25], rank=50)
    curve(ADAGRAD, [2, 4, 8, 12, 16, 24], rank=50)
    curve("LIBMF", [5, 10, 20, 40, 60], rank=50)
    curve(CHOL, short if full else [1, 2, 4, 8, 15], rank=50)
    for rank in (50, 100, 200):
        curve(CG, short, rank=rank)
        curve(PEER_CG, short, rank=rank)
    if full:
        curve("Surprise SVD", [5, 10, 20, 40], rank=50)

    # Rating updates per second.
    for data in ("S", "L4"):
        for threads in (1, 2):
            for system in (SGD, ADAGRAD, "LIBMF"):
                add(
                    "updates", system, "sweeps", data, ranks=[50], counts=[2, 12],
                    parameters={**base, "biases": data == "S", "threads": threads}, **few,
                )  # fmt: skip

    # Equal grids on a small set, chosen on a validation part.
    small = "ml-100k" if _has("ml-100k") else "M"
    for system in (EXACT, CHOL):
        grid = [
            {"rank": rank, "reg": reg, "reg_bias": part * reg}
            for rank in (5, 10, 20, 50)
            for reg in (6.0, 9.0, 12.0, 15.0, 18.0)
            for part in (1.0, 0.3)
        ]
        add(
            "search", system, "search", small, grid=grid, counts=[15],
            parameters={**base, "scaled": False},
        )  # fmt: skip
    add(
        "search", GIBBS, "search", small, grid=[{"rank": k} for k in (5, 10, 20)],
        counts=[60, 200], parameters={**base, "reg": 0.0, "scaled": False},
    )  # fmt: skip
    for name in ("ml-1m", "ml-10m") if full else ():
        if _has(name):
            for system in (EXACT, SGD, PEER_CG, "LIBMF"):
                add("curves", system, "curve", name, counts=short, parameters={**base, "rank": 50})

    # Memory: resident peak of a fit, and (ours) allocations traced.
    for system in (EXACT, CG, SGD, CHOL, PEER_CG, "LIBMF"):
        parameters = {**plain, "rank": 50}
        add("memory", system, "memory", "L4", count=1, parameters=parameters)
        if system.startswith("ours"):
            add("memory", system, "memory", "L4", count=1, trace=True, parameters=parameters)

    add(
        "slope", CG, "slope", None, ranks=[50, 100, 200, 400], side=16_000, entries=2_000_000,
        parameters={**plain, "reg": 0.01},
    )  # fmt: skip
    for system, counts in (
        ("ours SoftImpute", [2, 4, 6, 8]),
        ("fancyimpute SoftImpute", [5, 10, 20, 40]),
    ):
        add(
            "nuclear", system, "gap", None, missing=0.5, level=0.01, counts=counts,
            parameters={"dtype": "float64", "threads": 1},
        )  # fmt: skip
    jobs += [{"section": "cold", "system": s, "measure": "cold"} for s in COLD]
    return jobs


def shrink(jobs: list[dict]) -> list[dict]:
    """Make the same jobs small: a check of the harness, not a measurement."""
    small = []
    for job in jobs:
        job = {**job, "repetitions": 1}
        if job.get("data"):
            job["data"] = "M"
        for name in ("ranks", "counts", "grid"):
            if name in job:
                job[name] = job[name][:2]
        if job["measure"] == "slope":
            job.update(ranks=[10, 20], side=2000, entries=50_000)
        small.append(job)
    return small


def tuning_plan() -> list[dict]:
    """List the searches for the ridge of each system, on the validation part of S."""
    jobs = []
    for system, counts, ranks in (
        (EXACT, [8, 15], [50]),
        (CHOL, [8], [50]),
        (CG, [8, 15], [50, 100, 200]),
        (PEER_CG, [8, 15], [50, 100, 200]),
        (SGD, [15, 25], [50]),
        (ADAGRAD, [15, 25], [50]),
        ("LIBMF", [30, 60], [50]),
    ):
        for rank in ranks:
            grid = [{"reg": reg, "rank": rank} for reg in (0.06, 0.08, 0.1, 0.12)]
            jobs.append(
                {
                    "section": "tune", "system": system, "measure": "search", "data": "S",
                    "grid": grid, "counts": counts, "parameters": {"threads": 1}, "repetitions": 1,
                }
            )  # fmt: skip
    return jobs


def _tuned() -> dict[str, dict]:
    path = HERE / "tuned.json"
    return json.loads(path.read_text()) if path.exists() else {}


def _has(name: str) -> bool:
    from lowrank_opt.datasets import find_data

    return any(find_data(f"movielens/{name}{end}") for end in (".zip",))


def environment(threads: int) -> dict[str, str]:
    """Environment of a worker; BLAS of one thread, since every system is parallel over rows."""
    pinned = {
        **os.environ,
        "OMP_NUM_THREADS": str(threads),
        "NUMBA_NUM_THREADS": str(threads),
        "OPENBLAS_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
    }
    pinned.setdefault("NUMBA_CACHE_DIR", str(HERE / ".cache" / "numba"))
    return pinned


def run_job(job: dict) -> dict:
    """Run one job in a process of its own; a failure becomes part of the results."""
    if job["measure"] == "cold":
        return {"job": job, **cold_start(job["system"])}
    return harness.run_worker(WORKER, job, environment(job["parameters"].get("threads", 1)))


# The first solve of a fresh process, import included; the last line is what the process saw.
_MAKE = (
    "import time; t = time.perf_counter(); import numpy as np; rng = np.random.default_rng(0);"
    "c = np.sort(rng.choice(200000, 20000, replace=False)); i = (c // 400).astype(np.int32);"
    "j = (c % 400).astype(np.int32); v = rng.standard_normal(20000).astype(np.float32);"
)
_END = "print('\\n%.6f' % (time.perf_counter() - t))"
COLD = {
    "ours": (
        "from lowrank_opt.recovery import complete;"
        "complete((i, j, v, (500, 400)), rank=5, reg=1.0, max_iter=10);"
    ),
    "ours SGD": (
        "from lowrank_opt.recovery import FactorSGD, MatrixCompletion;"
        "FactorSGD(max_iter=10, random_state=0).solve("
        "MatrixCompletion.from_coo(i, j, v, (500, 400), rank=5, reg=0.1));"
    ),
    "cmfrec": (
        "from scipy.sparse import coo_matrix; from cmfrec import CMF;"
        "CMF(k=5, lambda_=1.0, niter=10, verbose=False, nthreads=1)"
        ".fit(coo_matrix((v, (i, j)), shape=(500, 400)));"
    ),
    "implicit": (
        "from scipy.sparse import csr_matrix; from implicit.als import AlternatingLeastSquares;"
        "AlternatingLeastSquares(factors=5, iterations=10, num_threads=1)"
        ".fit(csr_matrix((v, (i, j)), shape=(500, 400)), show_progress=False);"
    ),
}


def cold_start(name: str) -> dict:
    """Wall seconds of fresh processes: with an empty kernel cache, and with what it left."""
    code = f"{_MAKE}{COLD[name]}{_END}"

    def once(cache: str) -> dict:
        env = {**environment(1), "NUMBA_CACHE_DIR": cache, "NUMBA_DEBUG_CACHE": "1"}
        start = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", code], env=env, capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        wall = time.perf_counter() - start
        if done.returncode:
            raise RuntimeError(done.stderr.strip().splitlines()[-1])
        return {
            "wall": wall,
            "inside": float(done.stdout.strip().splitlines()[-1]),
            "loaded": done.stdout.count("data loaded from"),
            "compiled": done.stdout.count("data saved to"),
        }

    try:
        with tempfile.TemporaryDirectory() as cache:
            first = once(cache)
            later = [once(cache) for _ in range(5)]
    except RuntimeError as error:
        return {"error": str(error)}
    return {
        "answer": {
            "empty_cache": first,
            "wall": harness.quartiles([run["wall"] for run in later]),
            "inside": harness.quartiles([run["inside"] for run in later]),
            "loaded": later[-1]["loaded"],
            "compiled": max(run["compiled"] for run in later),
        }
    }


def _tune() -> None:
    tuned = {}
    for job in tuning_plan():
        result = run_job(job)
        best = result.get("answer", {}).get("best")
        print(job["system"], job["grid"][0]["rank"], best or result.get("error"), flush=True)
        if best:
            tuned[f"{job['system']}, k={best['rank']}"] = {"reg": best["reg"]}
    (HERE / "tuned.json").write_text(json.dumps(tuned, indent=1) + "\n")


def main() -> int:
    """Run the jobs and write the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="sections, separated by commas")
    parser.add_argument("--full", action="store_true", help="more repetitions, larger cases")
    parser.add_argument("--smoke", action="store_true", help="tiny cases, to check the harness")
    parser.add_argument("--list", action="store_true", help="print the jobs and stop")
    parser.add_argument("--tune", action="store_true", help="search the ridge of every system")
    parser.add_argument("--report", action="store_true", help="write RESULTS.md from results.json")
    arguments = parser.parse_args()
    path = HERE / "results.json"
    if arguments.tune:
        _tune()
        return 0
    results = json.loads(path.read_text()) if path.exists() else {"runs": []}
    if not arguments.report:
        only = set(filter(None, arguments.only.split(",")))
        jobs = [j for j in plan(arguments.full) if not only or j["section"] in only]
        if arguments.smoke:
            jobs = shrink(jobs)
            path = Path(tempfile.mkdtemp()) / "results.json"
            results = {"runs": []}
        if arguments.list:
            for job in jobs:
                print(json.dumps(job))
            return 0
        reasons = {name: unavailable(name) for name in SYSTEMS}
        load = [os.getloadavg()[0]]
        start = time.perf_counter()
        runs = []
        for number, job in enumerate(jobs, 1):
            reason = reasons.get(job["system"])
            result = {"job": job, "error": reason} if reason else run_job(job)
            runs.append(result)
            seconds = time.perf_counter() - start
            state = result.get("error", "done")
            print(
                f"[{seconds:6.0f} s] {number}/{len(jobs)} {job['section']}: {job['system']} "
                f"{job.get('data') or ''} {state}",
                flush=True,
            )
            load.append(os.getloadavg()[0])
        sections = {job["section"] for job in jobs}
        results["runs"] = [r for r in results["runs"] if r["job"]["section"] not in sections] + runs
        results["machine"] = harness.machine(HERE)
        results["versions"] = {
            cls.package: cls.version() for name, cls in SYSTEMS.items() if not reasons[name]
        }
        results["missing"] = {name: reason for name, reason in reasons.items() if reason}
        results["notes"] = {name: cls.note for name, cls in SYSTEMS.items() if cls.note}
        results["data"] = DESCRIPTIONS
        results["tuned"] = _tuned()
        results["load"] = {"first": load[0], "median": statistics.median(load), "max": max(load)}
        results["seconds"] = round(time.perf_counter() - start)
        path.write_text(json.dumps(results, indent=1) + "\n")
    path.with_name("RESULTS.md").write_text(report.markdown(results))
    print(path.with_name("RESULTS.md"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
