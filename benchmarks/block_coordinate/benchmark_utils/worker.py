"""One job in a process of its own: reads the job as JSON from the command line, prints JSON."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import scipy.sparse as sp

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parents[1]))
import harness

from benchmark_utils import data
from benchmark_utils.systems import SYSTEMS

# Ours may miss the tolerance by rounding.
TOL = 1e-6 * (1 + 1e-3)
GRID = [10.0 ** (-k / 2) for k in range(2, 27)]
# The smallest case of every law, for compilation.
SMALL = {"a9a": data.TINY["sparse labels"], **data.TINY}


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


def _clock(function, *arguments) -> tuple[float, float]:
    """Wall and processor seconds of one call."""
    wall, cpu = time.perf_counter(), time.process_time()
    function(*arguments)
    return time.perf_counter() - wall, time.process_time() - cpu


def _make(entry, seed=0):
    name, penalty, ratio, *rest = entry
    return data.case(name, penalty, ratio, seed, *rest)


def _tune(call, grade, prepare, settings, *, limit, guess=None):
    """Search the setting and the loosest tolerance that lead to the gap.

    Returns the setting, the tolerance, seconds of one call and the gap, or, with None for the
    tolerance, the smallest gap of all that were tried. A setting is given up as soon as a call
    takes longer than the best before it, or than `limit`, or when four tolerances changed little.
    """
    best, smallest = None, (np.inf, 0.0)
    for setting in settings:
        prepare(setting)
        first = 0
        if guess is not None:
            first = max(int(np.searchsorted(-np.log10(GRID), -np.log10(guess) - 1e-9)) - 2, 0)

        gaps = []

        def attempt(k):
            wall, _ = _clock(call, GRID[k])
            return wall, grade()

        for k in range(first, len(GRID)):
            wall, found = attempt(k)
            smallest = min(smallest, (found, wall))
            if found <= TOL:
                while k == first and k > 0:  # the guess was too tight
                    looser = attempt(k - 1)
                    if looser[1] > TOL:
                        break
                    (wall, found), first, k = looser, k - 1, k - 1
                if best is None or wall < best[2]:
                    best = setting, GRID[k], wall, found
                break
            gaps.append(found)
            stuck = len(gaps) > 8 and min(gaps[-4:]) > 0.7 * min(gaps[:-4])
            if stuck or wall > limit or (best is not None and wall > best[2]):
                break
    return best or (settings[0], None, smallest[1], smallest[0])


def warm_up(names, kind, penalty, threads, *rest) -> None:
    """Compile and load: fits of the same law and penalty, but small."""
    case = data.case(SMALL[kind], penalty, 10, 0, *rest)
    for name in names:
        cls = SYSTEMS[name]
        if cls.refuses(case):
            continue
        for setting in cls.settings(case):
            system = cls(threads=threads)
            try:
                system.prepare(case, setting)
                system.fit(1e-3)
            except Exception as error:
                print(type(error).__name__, error, file=sys.stderr)


# -- solves ---------------------------------------------------------------------------------------


def solve(job):
    """Seconds to the gap: all systems on some cases and seeds, in turn.

    Every system is searched for its setting and its loosest tolerance on the first seed, and the
    tolerance again on each seed. Systems that were far from the best peer are left out on the
    other seeds, unless the job says ``keep``.
    """
    answer = []
    threads = job["threads"]
    for entry in job["cases"]:
        kind, penalty = data.parse(entry[0])[0], entry[1]
        reason = data.unavailable_data(entry[0])
        if reason:
            answer.append({"case": entry, "skipped": reason})
            continue
        warm_up(job["systems"], kind, penalty, threads, *entry[3:])
        known, out = {}, set()
        for seed in job["seeds"]:
            case = _make(entry, seed)
            runs, limit = [], job["limit"]
            for name in job["systems"]:
                cls = SYSTEMS[name]
                row = {"case": entry, "seed": seed, "system": name}
                if name in out:
                    continue
                answer.append(row)
                row["refused"] = cls.refuses(case)
                if row["refused"]:
                    out.add(name)
                    continue
                system = cls(threads=threads)
                try:
                    _prepare_run(system, case, row, known, limit)
                except Exception as error:
                    row["error"] = f"{type(error).__name__}: {error}"
                    out.add(name)
                    continue
                if row["tol"] is None:
                    out.add(name)
                else:
                    runs.append((system, row, [row.pop("once")]))
                    if not system.tuned:  # enough for a peer to be seen that is half as fast
                        limit = max(limit, 2.0 * runs[-1][2][0][0])
            _take_turns(runs, job["repetitions"], job["budget"])
            for _, row, times in runs:
                row["seconds"] = harness.quartiles([w for w, _ in times])
                row["cpu"] = harness.quartiles([c for _, c in times])
            peers = [
                (r["seconds"]["median"], r["system"])
                for _, r, _ in runs
                if not r["system"].startswith("ours")
            ]
            if peers and not job.get("keep"):
                out |= {name for seconds, name in peers if seconds > 3.0 * min(peers)[0]}
    return answer


def _prepare_run(system, case, row, known, limit):
    """Find setting and tolerance; fill in the row of the results."""
    name = row["system"]
    if not system.tuned:
        system.prepare(case)
        row["tol"], row["setting"] = 1e-6, {}
    else:
        before = known.get(name)
        settings = system.settings(case) if before is None else (before[0],)
        setting, tol, wall, gap = _tune(
            system.fit, lambda: data.gap(case, *system.answer()),
            lambda s: system.prepare(case, s), settings, limit=limit,
            guess=before and before[1],
        )  # fmt: skip
        row["tol"], row["setting"] = tol, setting
        if tol is None:
            row["gap"], row["tried"] = gap, wall
            return
        known[name] = setting, tol
        system.prepare(case, setting)
    row["once"] = _clock(system.fit, row["tol"])
    w, b = system.answer()
    row["gap"] = data.gap(case, w, b)
    row["nonzero"] = np.count_nonzero(w)


def _take_turns(runs, repetitions, budget):
    """Fits of all systems in turn, in another order each time.

    Who comes after a system that has filled the caches with its own data pays for it: in a fixed
    order always the same. The first fit, of the search for a tolerance, may have loaded kernels:
    it does not count where there are others.
    """
    start = time.perf_counter()
    spent = dict.fromkeys(range(len(runs)), 0.0)
    rng = np.random.default_rng(0)
    for round_ in range(1, repetitions + 1):
        for i in rng.permutation(len(runs)):
            system, row, times = runs[i]
            # A slow system must not cost the fast ones their repetitions.
            if spent[i] + min(times)[0] > budget / len(runs) and round_ > 2:
                continue
            times.append(_clock(system.fit, row["tol"]))
            spent[i] += times[-1][0]
        if time.perf_counter() - start > budget:
            break
    for _, _, times in runs:
        if len(times) > 2:
            del times[0]


# -- paths ----------------------------------------------------------------------------------------


def path(job):
    """Seconds of a whole path whose largest gap is small enough."""
    answer = []
    for name in job["cases"]:
        known, out = {}, set()
        small = data.case(SMALL[data.parse(name)[0]], "l1", 1.0)
        for system in job["systems"]:
            warm = SYSTEMS[system](threads=job["threads"])
            warm.prepare(small)
            warm.path(small.alpha * np.geomspace(1.0, 0.05, 5), 1e-3)
        for seed in job["seeds"]:
            case = data.case(name, "l1", 1.0, seed)
            alphas = case.alpha * np.geomspace(1.0, 1.0 / job["ratio"], job["values"])
            runs = []
            for system_name in job["systems"]:
                if system_name in out:
                    continue
                row = {"case": name, "seed": seed, "system": system_name}
                answer.append(row)
                system = SYSTEMS[system_name](threads=job["threads"])
                system.prepare(case)

                def grade(system=system, case=case, alphas=alphas):
                    return float(data.path_gaps(case, alphas, *system.answers()).max())

                def call(tol, system=system, alphas=alphas):
                    system.path(alphas, tol)

                try:
                    if system.tuned:
                        _, row["tol"], wall, row["gap"] = _tune(
                            call, grade, lambda s: None, ({},), limit=job["limit"],
                            guess=known.get(system_name, job["guess"]),
                        )  # fmt: skip
                    else:
                        row["tol"] = 1e-6
                        wall, _ = _clock(call, 1e-6)
                        row["gap"] = grade()
                except Exception as error:
                    row["error"] = f"{type(error).__name__}: {error}"
                    out.add(system_name)
                    continue
                if wall > job["limit"]:
                    out.add(system_name)
                if row["tol"] is None:
                    row["tried"] = wall
                    out.add(system_name)
                    continue
                known[system_name] = row["tol"]
                runs.append((call, row, []))
            for _ in range(job["repetitions"]):
                for call, row, times in runs:
                    if not times or sum(w for w, _ in times) < job["budget"]:
                        times.append(_clock(call, row["tol"]))
            for _, row, times in runs:
                row["seconds"] = harness.quartiles([w for w, _ in times])
                row["cpu"] = harness.quartiles([c for _, c in times])
    return answer


# -- memory, first fit, forests -------------------------------------------------------------------


def memory(job):
    """Bytes by which the process grows during one fit, over those of the data."""
    case = _make(job["case"])
    kind = data.parse(job["case"][0])[0]
    X = case.X
    size = X.nbytes if not case.sparse else X.data.nbytes + X.indices.nbytes + X.indptr.nbytes
    name = job["systems"][0]
    warm_up([name], kind, job["case"][1], job["threads"])
    system = SYSTEMS[name](threads=job["threads"])
    system.prepare(case)
    grown = harness.peak_memory(lambda: system.fit(1e-6))
    gap = data.gap(case, *system.answer())
    return {"case": job["case"], "system": name, "data": size, "grown": grown, "gap": gap}


# What a program does that fits once. It imports as little as its way needs; data come from files.
_FIRST = {
    "ours, solver": (
        "from lowrank_opt.block_coordinate import CompositeProblem, GLMProblem, SparseGLMSolver\n"
        "from lowrank_opt.numerics import L1\n"
        "def fit():\n"
        "    smooth = GLMProblem(X, y, fit_intercept=True)\n"
        "    x = SparseGLMSolver().solve(CompositeProblem(smooth, L1(len(y) * alpha))).x\n"
        "    return x[:-1], x[-1]\n"
    ),
    "ours": "from lowrank_opt.block_coordinate import Lasso\nmodel = Lasso(alpha)\n",
    "celer": "from celer import Lasso\nmodel = Lasso(alpha, tol=tol)\n",
    "skglm": "from skglm import Lasso\nmodel = Lasso(alpha, tol=tol)\n",
    "scikit-learn": (
        "from sklearn.linear_model import Lasso\nmodel = Lasso(alpha, tol=tol, max_iter=1000000)\n"
    ),
}
_PROGRAM = """
import sys, time
folder, alpha, tol = sys.argv[1], float(sys.argv[2]), float(sys.argv[3])
start = time.perf_counter(), time.process_time()
import numpy as np
paused = time.perf_counter(), time.process_time()
X, y = np.load(folder + "/X.npy"), np.load(folder + "/y.npy")
resumed = time.perf_counter(), time.process_time()
start = tuple(s + r - p for s, r, p in zip(start, resumed, paused))
{load}
imported = time.perf_counter(), time.process_time()
{make}
answer = fit()
first = time.perf_counter(), time.process_time()
seconds = []
for _ in range(7):
    again = time.perf_counter()
    fit()
    seconds.append(time.perf_counter() - again)
np.savez(folder + "/answer.npz", w=answer[0], b=answer[1])
print(imported[0] - start[0], first[0] - start[0], first[1] - start[1], sorted(seconds)[3])
"""
_FIT = """
def fit():
    model.fit(X, y)
    return model.coef_, model.intercept_
"""


def cold(job):
    """First fit in fresh processes: import, the whole, and the fits after it."""
    import os
    import tempfile

    case = _make(job["case"])
    with tempfile.TemporaryDirectory() as folder:
        np.save(f"{folder}/X.npy", case.X)
        np.save(f"{folder}/y.npy", case.y)
        answer = []
        for name in job["systems"]:
            code = _FIRST[name]
            make = "" if "def fit" in code else _FIT
            program = _PROGRAM.format(load=code, make=make)
            tol = 1e-6 if name.startswith("ours") else job["tol"]
            command = [sys.executable, "-W", "ignore", "-c", program, folder, str(case.alpha)]
            rows = []
            for number in range(job["repetitions"] + 1):
                # skglm compiles in every process: once is enough
                if number > 1 and rows[-1][1] > job["budget"]:
                    break
                done = subprocess.run(
                    [*command, str(tol)], capture_output=True, text=True, check=False,
                    env=os.environ, timeout=600,
                )  # fmt: skip
                if done.returncode:
                    answer.append({"system": name, "error": done.stderr.strip().splitlines()[-1]})
                    break
                rows.append([float(v) for v in done.stdout.split()])
            else:
                number += 1
            if len(rows) < 2:
                continue
            rows = rows[1:]  # the first fills the caches on disk
            found = np.load(f"{folder}/answer.npz")
            imported, first, cpu, second = (
                harness.quartiles([r[i] for r in rows]) for i in range(4)
            )
            answer.append(
                {
                    "system": name, "tol": tol, "import": imported, "first": first, "cpu": cpu,
                    "second": second, "gap": data.gap(case, found["w"], found["b"]),
                }
            )  # fmt: skip
    return answer


def forest(job):
    """One greedy forest of a lattice, and the solution on it; a sparse factorisation beside."""
    from lowrank_opt.block_coordinate.forests import greedy_forest, solve_forest

    answer = []
    for side in [16, *job["sides"]]:  # the first compiles
        n = side * side
        rng = np.random.default_rng([data.SEED, side])
        line = sp.diags_array([np.ones(side - 1)] * 2, offsets=[-1, 1])
        eye = sp.eye_array(side)
        W = (sp.kron(line, eye) + sp.kron(eye, line)).tocsr()
        A = (sp.diags_array(W.sum(axis=1) + rng.random(n)) - W).tocsr()
        A.indices, A.indptr = A.indices.astype(np.int32), A.indptr.astype(np.int32)
        g = rng.standard_normal(n)
        score = np.abs(g) / np.sqrt(A.diagonal())
        select, solves = [], []
        for _ in range(job["repetitions"]):
            start = time.perf_counter()
            nodes = greedy_forest(A, score)
            middle = time.perf_counter()
            d = solve_forest(A, -g[nodes], nodes)
            select.append(middle - start)
            solves.append(time.perf_counter() - middle)
        block = A[nodes][:, nodes]
        residual = float(np.abs(block @ d + g[nodes]).max() / np.abs(g).max())
        row = {
            "side": side, "nodes": n, "in_forest": len(nodes), "residual": residual,
            "select": harness.quartiles(select), "solve": harness.quartiles(solves),
            "edges_over_forest": int(block.nnz - len(nodes)) // 2 - len(nodes)
            + _components(block),
        }  # fmt: skip
        if n <= job["largest_peer"]:
            from scipy.sparse.linalg import splu

            start = time.perf_counter()
            splu(block.tocsc(), permc_spec="MMD_AT_PLUS_A", options={"SymmetricMode": True}).solve(
                -g[nodes]
            )
            row["splu"] = time.perf_counter() - start
        if side > 16:
            answer.append(row)
    return answer


def _components(A) -> int:
    from scipy.sparse.csgraph import connected_components

    return int(connected_components(A, directed=False)[0])


def main() -> None:
    job = json.loads(sys.argv[1])
    harness.pin(job["threads"])
    warnings.simplefilter("ignore")
    answer = globals()[job["measure"]](job)
    # The last line of the output, whatever a library may have printed before.
    print("\n" + json.dumps({"answer": _clean(answer)}))


if __name__ == "__main__":
    main()
