"""One job in a process of its own: reads the job as JSON from the command line, prints JSON."""

from __future__ import annotations

import json
import statistics
import sys
import time
from functools import partial
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


def _repeated(function, job):
    """Calls until the repetitions or the budget are used up; the first counts only if alone."""
    calls = [function()]
    start = time.perf_counter()
    while len(calls) < job.get("repetitions", 1) and time.perf_counter() - start + calls[-1][
        0
    ] < job.get("budget", 0.0):
        calls.append(function())
    counted = calls[1:] or calls
    return {
        "first": calls[0][0],
        "seconds": harness.quartiles([c[0] for c in counted]),
        "cpu": harness.quartiles([c[1] for c in counted]),
    }, calls[-1][2]


# -- linear programs ------------------------------------------------------------------------------


def solve(job):
    """Seconds and residuals of every system on every case: whole calls."""
    answer = []
    for name in job["systems"]:
        for kind in dict.fromkeys(data.parse(c)[0] for c in job["cases"]):
            case = data.case(data.TINY[kind])
            for threads in (1, job["threads"]):
                SYSTEMS[name](limit=5.0, threads=threads).solve(case)
        for text in job["cases"]:
            row = {
                "case": text, "system": name, "threads": job["threads"], "tol": job["tol"],
                "limit": job["limit"],
            }  # fmt: skip
            answer.append(row)
            try:
                case = data.case(text)
                row["nnz"] = case.nnz
                row.update(_measure(name, case, job))
            except FileNotFoundError as error:
                row["skipped"] = str(error)
            except Exception as error:
                row["error"] = f"{type(error).__name__}: {error}"
    return answer


def _measure(name, case, job):
    """The first tolerance that leads to the wanted residual counts, alone."""
    system = SYSTEMS[name](limit=job["limit"], tol=job["tol"], threads=job["threads"])
    seen = []
    for factor in system.tries:
        timed = _clock(system.solve, case, factor)
        grade = case.grade(timed[2].x, timed[2].y)
        seen.append({"factor": factor, "seconds": timed[0], **grade, "status": timed[2].status})
        good = grade["residual"] is not None and grade["residual"] <= job["tol"]
        if good or timed[0] >= 0.95 * job["limit"]:
            break
    times = {k: {"median": v, "q1": v, "q3": v, "n": 1} for k, v in
             (("seconds", timed[0]), ("cpu", timed[1]))}  # fmt: skip
    if good and job.get("repetitions", 1) > 1 and timed[0] < job["budget"]:
        times, last = _repeated(partial(_clock, system.solve, case, factor), job)
        grade = case.grade(last.x, last.y)
        good = grade["residual"] is not None and grade["residual"] <= job["tol"]
    return {
        **times, **grade, "good": bool(good), "status": timed[2].status, "nit": timed[2].nit,
        "factor": factor, "tries": seen,
    }  # fmt: skip


def auto(job):
    """Time of two functions with SciPy's arguments, taking turns."""
    answer = []
    systems = {name: SYSTEMS[name]() for name in job["systems"]}
    small = data.case(data.TINY["planted"])
    for system in systems.values():
        system.call(system.prepare(small)[0])
    for text in job["cases"]:
        try:
            case = data.case(text)
        except FileNotFoundError as error:
            answer.append({"case": text, "skipped": str(error)})
            continue
        row = {"case": text, "nnz": case.nnz, "times": {}, "residual": {}, "error": {}}
        arguments, groups = next(iter(systems.values())).prepare(case)
        seen = {name: [] for name in systems}
        start = time.perf_counter()
        turns = 0
        while turns < job["repetitions"]:
            order = list(systems.items())
            for name, system in order if turns % 2 else order[::-1]:
                wall, cpu, found = _clock(system.call, arguments)
                seen[name].append((wall, cpu))
                if not turns:
                    grade = case.grade(*system.point(case, groups, found))
                    row["residual"][name] = grade["residual"]
                    row["error"][name] = grade.get("error")
            turns += 1
            if turns > 4 and time.perf_counter() - start > job["budget"]:
                break
        # The least of several: what the machine does beside it only adds.
        row["times"] = {name: min(w for w, _ in v) for name, v in seen.items()}
        row["cpu"] = {name: min(c for _, c in v) for name, v in seen.items()}
        row["medians"] = {name: statistics.median(w for w, _ in v) for name, v in seen.items()}
        row["turns"] = turns
        answer.append(row)
    return answer


# -- the cost of an iteration ---------------------------------------------------------------------


def _bandwidth(threads):
    """Bytes a second of a triad on arrays of 192 MB together, the best of several."""
    import numba

    @numba.njit(parallel=True)
    def triad(a, b, c, s):
        for i in numba.prange(len(a)):
            a[i] = b[i] + s * c[i]

    numba.set_num_threads(threads)
    n = 8_000_000
    a, b, c = np.zeros(n), np.ones(n), np.ones(n)
    triad(a, b, c, 2.0)
    return 24 * n / min(harness.timed(triad, a, b, c, 2.0) for _ in range(15))


def kernel(job):
    """Seconds of an iteration, from two runs of different lengths, beside a triad."""
    from lowrank_opt.monotone import HalpernPDHG, LinearProgram

    answer = []
    for text in job["cases"]:
        case = data.case(text)
        problem = LinearProgram(*case.arrays)
        m, n = case.A.shape

        def run(iterations, problem=problem):
            solver = HalpernPDHG(
                tol=1e-15, max_iter=iterations, presolve=False, finish=False,
                infeasibility=False, n_threads=job["threads"],
            )  # fmt: skip
            return _clock(solver.solve, problem)

        run(64)
        few = 256
        guess = max(1e-9, (run(2 * few)[0] - run(few)[0]) / few)
        many = few + 64 * max(4, round(job["budget"] / guess / 64))
        before, peer = _bandwidth(job["threads"]), None
        pairs = [(run(few), run(many)) for _ in range(job["repetitions"])]
        # The least of each, not of the differences: those would count a slow short run for us.
        counted = pairs[0][1][2].nit - pairs[0][0][2].nit
        gained = min(long[0] for _, long in pairs) - min(short[0] for short, _ in pairs)
        best = gained / counted if counted > 0 and gained > 0 else None
        after = _bandwidth(job["threads"])
        name = job.get("peer")
        if name:
            made = SYSTEMS[name](limit=4 * job["budget"], tol=1e-15, threads=job["threads"])
            seconds, _, found = _clock(made.solve, case)
            peer = seconds / max(found.nit or 1, 1)
        answer.append(
            {
                "case": text, "threads": job["threads"], "nnz": case.nnz, "m": m, "n": n,
                "best": best, "counted": counted, "bandwidth": max(before, after),
                "bandwidths": [before, after], "peer": peer, "peer_name": name,
                "matrix_bytes": 24 * case.nnz,
                "all_bytes": 24 * case.nnz + 8 * (8 * n + 6 * m),
            }
        )  # fmt: skip
    return answer


# -- games and oracle calls -----------------------------------------------------------------------


def games(job):
    """Seconds and gaps of every system on every game."""
    answer = []
    for name in job["systems"]:
        for text in job["cases"]:
            small = data.game(data.TINY[data.parse(text)[0]])
            SYSTEMS[name](limit=5.0, threads=job["threads"]).solve(small)
            A = data.game(text)
            row = {
                "case": text, "system": name, "threads": job["threads"], "tol": job["tol"],
                "limit": job["limit"], "size": A.size,
            }  # fmt: skip
            answer.append(row)
            system = SYSTEMS[name](limit=job["limit"], tol=job["tol"], threads=job["threads"])
            try:
                times, found = _repeated(partial(_clock, system.solve, A), job)
                gap = None if found.x is None else data.game_gap(A, found.x, found.y)
                row.update(times, gap=gap, status=found.status, nit=found.nit, more=found.more)
            except Exception as error:
                row["error"] = f"{type(error).__name__}: {error}"
    return answer


def oracles(job):
    """Oracle calls of the automatic choice and of its alternatives on one problem."""
    from benchmark_utils import problems

    return [problems.measure(name, job) for name in job["cases"]]


def main() -> None:
    job = json.loads(sys.argv[1])
    harness.pin(job["threads"])
    answer = globals()[job["measure"]](job)
    print(json.dumps({"answer": _clean(answer)}))


if __name__ == "__main__":
    main()
