"""One job in a process of its own: reads the job as JSON from the command line, prints JSON."""

from __future__ import annotations

import json
import sys
import time
import warnings
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parents[1]))
import harness

from benchmark_utils.data import CASES, load
from benchmark_utils.systems import SYSTEMS


class Curve:
    """Error against seconds of one fit; the clock stands while it looks."""

    def __init__(self, case, *, level=0.0, limit=np.inf, patience=None) -> None:
        self.case, self.level, self.limit, self.patience = case, level, limit, patience
        self.points: list[tuple[float, float]] = []
        self.clock, self.best, self.since = 0.0, np.inf, 0

    def start(self) -> None:
        self.resumed = time.perf_counter()

    def __call__(self, get) -> None:
        self.clock += time.perf_counter() - self.resumed
        low_rank = get()
        self.add(self.clock, self.case.error(low_rank))
        if self.points[-1][1] <= self.level or self.clock > self.limit:
            raise StopIteration
        if self.patience and self.best < 0.5 and self.since > self.patience:
            raise StopIteration
        self.resumed = time.perf_counter()

    def add(self, seconds: float, error: float) -> None:
        self.points.append((seconds, error))
        self.since += 1
        if error < 0.99 * self.best:
            self.best, self.since = error, 0


def _curve(system, *, level=0.0, limit=np.inf, patience=None) -> list[tuple[float, float]]:
    look = Curve(system.case, level=level, limit=limit, patience=patience)
    look.start()
    system.fit(look)
    return look.points


def _thin(points, most=60):
    """At most about `most` points, the first, the last and the best one among them."""
    if len(points) <= most:
        return points
    best = min(range(len(points)), key=lambda i: points[i][1])
    keep = {0, best, len(points) - 1, *np.linspace(0, len(points) - 1, most).astype(int).tolist()}
    return [points[i] for i in sorted(keep)]


def warm_up(systems) -> None:
    """Compile and load: one short fit of each system; whoever fails says so when measured."""
    for name in ("tiny", "tiny missing"):
        case = load(name)
        for system in systems:
            try:
                system.prepare(case)
                _curve(system, limit=1.0)
            except Exception as error:
                print(type(error).__name__, error, file=sys.stderr)


def pca(job):
    """Curves of all systems on some cases; repetitions go round the systems."""
    answer = {}
    level, limit = job["level"], job["limit"]
    for name in job["data"]:
        case = load(name)
        systems = []
        for entry in job["systems"]:
            options = entry.get("options", {})
            options = options.get("missing" if "missing" in name else "full", options)
            systems.append(SYSTEMS[entry["system"]](threads=job["threads"], **options))
        if not answer:
            warm_up(systems)
        found = answer[name] = {}
        spent: dict[str, list[float]] = {}
        curves: dict[str, list] = {}
        for _ in range(job["repetitions"]):
            for system in systems:
                key, ours = system.name, system.name.startswith("ours")
                times = spent.setdefault(key, [])
                if "error" in found.get(key, {}):
                    continue
                if times and sum(times) * (1 + 1 / len(times)) > job["budget"]:
                    continue
                system.prepare(case)
                began = time.perf_counter()
                try:
                    # A peer ends at its best: 25 iterations that bring nothing.
                    points = _curve(
                        system, level=0.0 if ours else level, limit=limit,
                        patience=None if ours else 25,
                    )  # fmt: skip
                except Exception as error:
                    found[key] = {"error": f"{type(error).__name__}: {error}"}
                    continue
                times.append(time.perf_counter() - began)
                curves.setdefault(key, []).append(points)
                if key not in found:
                    found[key] = {"grade": case.grade(system.low_rank()), **_options(system)}
        for key, runs in curves.items():
            length = min(map(len, runs))
            points = [
                {"seconds": harness.quartiles([r[i][0] for r in runs]), "error": runs[0][i][1]}
                for i in range(length)
            ]
            found[key]["iterations"] = length
            found[key]["points"] = _thin_dicts(points)
    return answer


def _thin_dicts(points):
    index = _thin([(i, p["error"]) for i, p in enumerate(points)])
    return [points[i] for i, _ in index]


def _options(system) -> dict:
    return {"options": system.options} if system.options else {}


def oracle(job):
    """Convex solvers at several tolerances, every point a fit from scratch."""
    answer = {}
    for name in job["data"]:
        case = load(name)
        found = answer[name] = {}
        for key in job["systems"]:
            points = []
            try:
                for level in SYSTEMS[key].levels:
                    system = SYSTEMS[key](threads=job["threads"], level=level)
                    system.prepare(case)

                    def once(system=system):
                        system.fit()
                        return system.solver_seconds

                    seconds = harness.repeat(
                        once, repetitions=job["repetitions"], budget=job["budget"]
                    )
                    error = case.error(system.low_rank())
                    points.append({"seconds": harness.quartiles(seconds), "error": error})
                found[key] = {"grade": case.grade(system.low_rank()), "points": points}
            except Exception as error:
                found[key] = {"error": f"{type(error).__name__}: {error}"}
    return answer


def tuning(job):
    """Seconds to a relative error of 1e-6 (or the best error) for each setting of a grid."""
    rows = []
    for name in job["data"]:
        case = load(name)
        system = SYSTEMS[job["system"]]
        warm_up([system(threads=job["threads"])])
        fastest = np.inf
        for options in job["grid"]:
            tried = system(threads=job["threads"], **options)
            tried.prepare(case)
            # No setting needs to be followed for long when another one is there already.
            limit = min(job["limit"], 1.5 * fastest)
            points = _curve(tried, level=1e-6, limit=limit, patience=25)
            reached = points[-1][1] <= 1e-6
            fastest = min(fastest, points[-1][0]) if reached else fastest
            rows.append(
                {
                    "data": name, "options": options, "seconds": points[-1][0],
                    "reached": reached, "best": min(e for _, e in points),
                    "iterations": len(points),
                }
            )  # fmt: skip
    return rows


def large(job):
    """Seconds and memory of one large robust completion."""
    from lowrank_opt.recovery import HuberALS

    small = load("tiny large", dtype=job["dtype"])
    solver = HuberALS(
        tol=job["tol"], max_iter=job["max_iter"], n_threads=job["threads"], random_state=0
    )
    solver.solve(small.problem(small.rank))
    bare = harness.resident()
    case = load(job["data"], dtype=job["dtype"])
    Path("/proc/self/clear_refs").write_text("5")
    before = harness.resident()
    start = time.perf_counter()
    problem = case.problem(case.rank)
    built = time.perf_counter() - start
    look = Curve(case)
    look.start()
    result = solver.solve(problem, callback=lambda r: look(lambda: r.x))
    solved = look.clock + time.perf_counter() - look.resumed
    peak = harness.resident("VmHWM")
    entries = case.entries
    held = sum(a.nbytes for a in (entries.rows, entries.cols, entries.values, entries.U, entries.V))
    return {
        "entries": len(entries), "points": look.points, "build": built, "solve": solved,
        "iterations": result.nit, "status": result.status.name,
        "certificate": result.certificate.residual, "bare": bare, "before": before,
        "input": held, "peak": peak,
    }  # fmt: skip


def rates(job):
    """Errors over seeds."""
    answer = {}
    for entry in job["systems"]:
        make = SYSTEMS[entry["system"]]
        options = entry.get("options", {})
        warm_up([make(threads=job["threads"], **options)])
        rows = []
        seeds = range(job["first_seed"], job["first_seed"] + entry.get("seeds", job["seeds"]))
        for seed in seeds:
            case = load(job["data"], seed)
            system = make(threads=job["threads"], seed=seed, **options)
            system.prepare(case)
            peer = not system.name.startswith("ours")
            look = Curve(case, level=1e-9, limit=job["limit"], patience=25) if peer else None
            start = time.perf_counter()
            try:
                if look:
                    look.start()
                system.fit(look)
                seconds = look.clock if look else time.perf_counter() - start
                rows.append({"seed": seed, "seconds": seconds, **case.grade(system.low_rank())})
            except Exception as error:
                rows.append({"seed": seed, "failure": f"{type(error).__name__}: {error}"})
        answer[entry["system"]] = {"rows": rows, "true_rank": CASES[job["data"]]["rank"]}
    return answer


# -- one step -------------------------------------------------------------------------------------


def _read_pass():
    import numba

    @numba.njit(fastmath=True)
    def read(a):
        total = 0.0
        for i in range(a.size):
            total += a[i]
        return total

    @numba.njit(fastmath=True)
    def read32(a):
        total = np.float32(0.0)
        for i in range(a.size):
            total += a[i]
        return total

    return lambda a: read32(a) if a.dtype == np.float32 else read(a)


def _rounds(functions, repetitions, budget):
    """Seconds of each function, called in turn."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    for function in functions.values():
        function()
    start = time.perf_counter()
    for n in range(1, repetitions + 1):
        for name, function in functions.items():
            times[name].append(harness.timed(function))
        if (time.perf_counter() - start) * (1 + 1 / n) > budget:
            break
    return {name: harness.quartiles(values) for name, values in times.items()}


def dense_steps(job):
    """One fused pass over dense measurements, the two-pass NumPy form, and reading alone."""
    from lowrank_opt.recovery import MatrixSensing

    read = _read_pass()
    rows = []
    for d, n, rank, dtype in job["cases"]:
        rng = np.random.default_rng(0)
        A = rng.standard_normal((n, d * d), dtype)
        truth = rng.standard_normal((d, 3), dtype)
        y = A @ (truth @ truth.T).ravel()
        y[: n // 10] += 10 * rng.standard_normal(n // 10, dtype)
        U = rng.standard_normal((d, rank), dtype)
        problem = MatrixSensing.from_dense(A, y, shape=(d, d), rank=rank, symmetric=True)
        operator, flat = problem.measurements, A.reshape(-1)

        def ours(operator=operator, U=U, y=y):
            return operator.linearize(U, U, y, "l1", symmetric=True, n_threads=job["threads"])

        def two_passes(A=A, U=U, y=y, d=d, n=n):
            e = A @ (U @ U.T).ravel() - y
            Q = (np.sign(e) @ A / n).reshape(d, d)
            Q = (Q + Q.T) / 2
            return float(np.abs(e).mean(dtype=np.float64)), Q @ U, np.linalg.norm(Q)

        def transposed(A=A, U=U, y=y, d=d, n=n):
            e = A @ (U @ U.T).ravel() - y
            Q = (A.T @ np.sign(e) / n).reshape(d, d)
            Q = (Q + Q.T) / 2
            return float(np.abs(e).mean(dtype=np.float64)), Q @ U, np.linalg.norm(Q)

        value, left, norm = two_passes()
        found = ours()
        agreement = max(
            abs(found.value / value - 1), abs(found.norm / norm - 1),
            np.linalg.norm(found.left - left) / np.linalg.norm(left),
        )  # fmt: skip
        vector = (U @ U.T).ravel()
        times = _rounds(
            {
                "ours": ours,
                "NumPy": two_passes,
                "NumPy, A.T": transposed,
                "read: sum": lambda flat=flat: read(flat),
                "read: gemv": lambda A=A, vector=vector: A @ vector,
            },
            job["repetitions"], job["budget"],
        )  # fmt: skip
        rows.append(
            {
                "d": d, "n": n, "rank": rank, "dtype": dtype, "bytes": A.nbytes,
                "agreement": float(agreement), "times": times,
            }
        )  # fmt: skip
        del A, flat, operator, problem, ours, two_passes, transposed, found
    return rows


def entry_steps(job):
    """One step on sampled entries, and the array form with SciPy's sparse products."""
    import scipy.sparse as sp

    from lowrank_opt.datasets import make_low_rank_observations
    from lowrank_opt.recovery import LowRankPlusSparse

    rows = []
    for side, count, rank, dtype in job["cases"]:
        e = make_low_rank_observations(
            side, side, rank, n_observations=count, outlier_fraction=0.05, dtype=dtype,
            random_state=0,
        )  # fmt: skip
        problem = LowRankPlusSparse.from_coo(e.rows, e.cols, e.values, e.shape, rank=rank)
        operator, y = problem.measurements, problem.targets
        rng = np.random.default_rng(1)
        U, V = (rng.standard_normal((side, rank), dtype) for _ in range(2))
        # Both products by rows: of the matrix, and of its transpose through a permutation.
        by_rows = sp.csr_array((e.values, (e.rows, e.cols)), shape=e.shape)
        numbered = sp.csr_array((np.arange(1, count + 1), (e.rows, e.cols)), shape=e.shape)
        by_cols = sp.csr_array(numbered.T)
        order = by_cols.data - 1
        by_cols = sp.csr_array((e.values, by_cols.indices, by_cols.indptr), shape=e.shape)
        del numbered

        def ours(operator=operator, U=U, V=V, y=y):
            return operator.linearize(U, V, y, "l1", n_threads=job["threads"])

        def errors(e=e, U=U, V=V):
            return np.einsum("ij,ij->i", U[e.rows], V[e.cols]) - e.values

        def scipy(e=e, U=U, V=V, count=count, by_rows=by_rows, errors=errors):
            error = errors()
            by_rows.data[:] = np.sign(error)
            left, right = by_rows @ V, by_rows.T @ U
            return float(np.abs(error).mean(dtype=np.float64)), left / count, right / count

        def permuted(
            U=U, V=V, count=count, by_rows=by_rows, by_cols=by_cols, order=order, errors=errors
        ):
            error = errors()
            by_rows.data[:] = np.sign(error)
            by_cols.data[:] = by_rows.data[order]
            left, right = by_rows @ V, by_cols @ U
            return float(np.abs(error).mean(dtype=np.float64)), left / count, right / count

        found = ours()
        agreement = 0.0
        for value, left, right in (scipy(), permuted()):
            agreement = max(
                agreement, abs(found.value / value - 1),
                np.linalg.norm(found.left - left) / np.linalg.norm(left),
                np.linalg.norm(found.right - right) / np.linalg.norm(right),
            )  # fmt: skip
        times = _rounds(
            {"ours": ours, "SciPy": scipy, "SciPy, permuted": permuted},
            job["repetitions"], job["budget"],
        )  # fmt: skip
        rows.append(
            {
                "side": side, "n": count, "rank": rank, "dtype": dtype,
                "agreement": float(agreement), "times": times,
            }
        )  # fmt: skip
    return rows


# -- iterations against condition number ----------------------------------------------------------


def iterations(job):
    """Iterations to relative errors of 1e-3 and 1e-6, for several condition numbers and seeds."""
    from lowrank_opt import recovery
    from lowrank_opt.datasets import make_low_rank_observations

    rows = []
    for name, setting in job["settings"]:
        for kappa in job["kappas"]:
            for seed in range(job["seeds"]):
                # Dense measurements are N times as large as the matrix: a smaller one.
                side = job["side"] if setting != "Gaussian" else min(job["side"], 40)
                e = make_low_rank_observations(
                    side, side, job["rank"], oversampling=job["oversampling"] if side > 40 else 1,
                    condition_number=kappa, random_state=100 + seed,
                    outlier_fraction=job["outliers"] if setting != "completion" else 0.0,
                )  # fmt: skip
                data = e.rows, e.cols, e.values, e.shape
                if setting == "Gaussian":
                    rng = np.random.default_rng(seed)
                    count = job["oversampling"] * job["rank"] * (2 * side - job["rank"])
                    A = rng.standard_normal((count, side * side))
                    y = A @ (e.U @ e.V.T).ravel()
                    wrong = rng.choice(count, round(job["outliers"] * count), replace=False)
                    y[wrong] += 10 * np.std(y) * rng.standard_normal(len(wrong))
                    problem = recovery.MatrixSensing.from_dense(
                        A, y, shape=e.shape, rank=job["rank"]
                    )
                elif setting == "completion":
                    problem = recovery.MatrixCompletion.from_coo(
                        *data, rank=job["rank"], loss="squared"
                    )
                else:
                    problem = recovery.LowRankPlusSparse.from_coo(
                        *data, rank=job["rank"], outlier_fraction=1.5 * job["outliers"]
                    )
                counts: dict[float, int] = {}
                errors = []

                def look(r, e=e, counts=counts, errors=errors):
                    error = e.relative_error(r.x.U, r.x.V)
                    errors.append(error)
                    for level in (1e-3, 1e-6):
                        if error <= level:
                            counts.setdefault(level, r.nit)
                    if error <= 1e-6:
                        raise StopIteration

                solver = getattr(recovery, name)(
                    tol=0.0, max_iter=job["max_iter"], check_every=1, n_threads=job["threads"]
                )
                try:
                    solver.solve(problem, callback=look)
                except Exception as error:
                    return {"error": f"{name}, {setting}: {type(error).__name__}: {error}"}
                rows.append(
                    {
                        "solver": name, "setting": setting, "kappa": kappa, "seed": seed,
                        "to_1e-3": counts.get(1e-3), "to_1e-6": counts.get(1e-6),
                        "error": min(errors),
                    }
                )  # fmt: skip
    return rows


def main() -> None:
    job = json.loads(sys.argv[1])
    harness.pin(job["threads"])
    warnings.simplefilter("ignore")
    answer = globals()[job["measure"]](job)
    # The last line of the output, whatever a library may have printed before.
    print("\n" + json.dumps({"answer": answer}))


if __name__ == "__main__":
    main()
