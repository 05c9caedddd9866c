"""One job in a process of its own: reads the job as JSON from the command line, prints JSON."""

from __future__ import annotations

import json
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import scipy.sparse as sp

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parents[1]))
import harness

from benchmark_utils.data import load
from benchmark_utils.systems import SYSTEMS, unavailable


def _clean(value):
    """Numbers as JSON has them; what is not finite becomes text."""
    if isinstance(value, dict):
        return {k: _clean(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_clean(v) for v in value]
    if isinstance(value, (np.floating, float)):
        return float(value) if np.isfinite(value) else None
    if isinstance(value, np.integer):
        return int(value)
    return value


def warm_up(names, threads: int) -> None:
    """Compile and load: short fits of every system, with the samples of the nested start."""
    for k in (1, 2, None):
        case = load("clouds 300", k)
        for name in names:
            system = SYSTEMS[name](threads=threads, limit=2.0)
            system.prepare(case)
            try:
                system.fit()
            except Exception as error:
                print(type(error).__name__, error, file=sys.stderr)


# -- the oracle -----------------------------------------------------------------------------------


def _plain(case):
    """Value and gradient of the semi-dual in plain NumPy: a partition, then a sort of k."""
    a, b, C, gamma, k = case.a, case.b, case.C, case.gamma, case.k
    n = len(b)

    def call(alpha):
        S = alpha[:, None] - C
        if case.capped:
            rows = np.argpartition(S, len(a) - k, axis=0)[len(a) - k :]
            S = np.take_along_axis(S, rows, axis=0)
        order = np.sort(S, axis=0)[::-1]
        thresholds = (np.cumsum(order, axis=0) - gamma * b) / np.arange(1, len(order) + 1)[:, None]
        r = np.count_nonzero(order > thresholds, axis=0)
        tau = thresholds[r - 1, np.arange(n)]
        over = np.maximum(S - tau, 0.0)
        value = alpha @ a - (tau @ b + np.sum(over**2) / (2 * gamma))
        if case.capped:
            sums = np.bincount(rows.ravel(), weights=over.ravel(), minlength=len(a))
        else:
            sums = over.sum(axis=1)
        return value, a - sums / gamma

    return call


def oracle(job):
    """Seconds of one evaluation at potentials near the optimum, that change from call to call."""
    from lowrank_opt.transport.oracle import SemidualOracle

    answer = []
    for n in job["sizes"]:
        for k in job["caps"]:
            case = load(f"clouds {n}", k)
            system = SYSTEMS["ours"](tol=1e-3)
            system.prepare(case)
            system.fit()
            rng = np.random.default_rng(0)
            spread = 1e-3 * float(np.std(system.alpha))
            points = [system.alpha + spread * rng.standard_normal(n) for _ in range(40)]
            near = [system.alpha + 1e-3 * spread * rng.standard_normal(n) for _ in range(40)]
            view = case.problem.canonical
            scan = SemidualOracle(view, screening=False, n_threads=job["threads"])
            lists = SemidualOracle(view, n_threads=job["threads"])
            calls = {
                "ours": (lambda x, o=scan: o.evaluate(x)[:2], points),
                "ours, lists, small steps": (lambda x, o=lists: o.evaluate(x)[:2], near),
                "NumPy": (_plain(case), points),
            }
            if unavailable("POT") is None:
                pot = SYSTEMS["POT"]()
                pot.prepare(case)
                calls["POT"] = pot.evaluation(), points
            row = {"n": n, "k": k, "times": {}}
            reference = calls["NumPy"][0](points[0])
            for name, (call, where) in calls.items():
                found = call(points[0])
                row.setdefault("agreement", {})[name] = max(
                    abs(float(found[0]) - reference[0]) / abs(reference[0]),
                    float(np.abs(found[1] - reference[1]).max()) * n,
                )
                for x in where[:4]:
                    call(x)
                feed = iter(where[4:])
                row["times"][name] = harness.quartiles(
                    harness.repeat(
                        lambda call=call, feed=feed: harness.timed(call, next(feed)),
                        repetitions=30 if name.startswith("ours") else 7, budget=job["budget"],
                    )
                )  # fmt: skip
            answer.append(row)
    return answer


# -- solves ---------------------------------------------------------------------------------------


def _solve(system, case, *, repetitions: int, budget: float) -> dict:
    system.prepare(case)
    try:
        times = harness.repeat(
            lambda: harness.timed(system.fit), repetitions=repetitions, budget=budget
        )
        return {
            "seconds": harness.quartiles(times), **system.claim,
            "grade": case.grade(system.plan, system.alpha),
        }  # fmt: skip
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}


def solve(job):
    """Seconds and grades of all systems on some cases."""
    warm_up([e["system"] for e in job["systems"]], job["threads"])
    answer = []
    for name, k, gamma in job["cases"]:
        case = load(name, k, gamma)
        for entry in job["systems"]:
            system = SYSTEMS[entry["system"]](
                threads=job["threads"], limit=entry["limit"], **entry.get("options", {})
            )
            ours = entry["system"].startswith("ours")
            found = _solve(
                system, case, repetitions=job["repetitions"] if ours else 1, budget=job["budget"]
            )
            answer.append(
                {"case": name, "k": k, "gamma": gamma, "system": entry["system"], **found}
            )
    return answer


def rounding(job):
    """The k-sparse plan that the solver makes of the relaxed one: seconds, status, gap."""
    from lowrank_opt.transport import SparsityConstrainedOT

    warm_up(["ours"], job["threads"])
    SparsityConstrainedOT(tol=1e-6).solve(load("clouds 200", 2).problem)  # compiles the rounding
    answer = []
    for name, k, gamma in job["cases"]:
        case = load(name, k, gamma)
        _ = case.problem.canonical
        row = {"case": name, "k": k, "gamma": gamma}
        for mode in ("none", "qp"):
            solver = SparsityConstrainedOT(
                rounding=mode, max_time=job["limit"], n_threads=job["threads"]
            )
            start = time.perf_counter()
            try:
                result = solver.solve(case.problem)
            except Exception as error:
                row[mode] = {"error": f"{type(error).__name__}: {error}"}
                continue
            relaxed = result.x if result.x.relaxed is None else result.x.relaxed
            counts = np.diff(sp.csc_array(relaxed).indptr)
            row[mode] = {
                "seconds": time.perf_counter() - start, "status": result.status.name,
                "plan_status": result.plan_status, "gap": result.gap, "value": result.value,
                "bound": result.dual_value, "max_nnz": result.max_nnz,
                "row_residual": result.row_residual,
                "above": float(np.mean(counts > case.k)),
            }  # fmt: skip
        answer.append(row)
    return answer


# -- large clouds, plain transport, routing, values -----------------------------------------------


def points(job):
    """Large clouds of points: seconds, memory of the whole process, residual."""
    from lowrank_opt.transport import SparsityConstrainedOT, TransportProblem

    warm = np.random.default_rng(0).random((300, job["d"]))
    SparsityConstrainedOT(rounding="none", tol=1e-3).solve(
        TransportProblem(X=warm, Y=warm + 0.1, max_nnz=4)
    )
    n, d = job["n"], job["d"]
    rng = np.random.default_rng([20251121, n, d])
    X, Y = rng.standard_normal((n, d)), rng.standard_normal((n, d)) + 1.5
    a, b = rng.random(n) + 0.1, rng.random(n) + 0.1
    # The same units as elsewhere: costs of at most about 1.
    scale = float(np.sqrt((np.ptp(np.concatenate([X, Y]), axis=0) ** 2).sum()))
    bare = harness.resident()
    problem = TransportProblem(a / a.sum(), b / b.sum(), X=X / scale, Y=Y / scale, max_nnz=job["k"])
    start = time.perf_counter()
    result = SparsityConstrainedOT(
        rounding=job["rounding"], tol=job["tol"], max_time=job["limit"], n_threads=job["threads"]
    ).solve(problem)
    seconds = time.perf_counter() - start
    details = result.certificate.details
    return {
        "seconds": seconds, "status": result.status.name, "residual": result.certificate.residual,
        "row_residual": details["relaxed_row_residual"],
        "gap": details["lagrangian_gap"] / details["scale"], "value": details["relaxed_value"],
        "bare": bare, "peak": harness.resident("VmHWM"), "matrix": 8 * n * n,
        "iterations": int(result.nit), "counts": {k: int(v) for k, v in result.counts.items()},
        "plan_status": result.plan_status, "plan_gap": result.gap / abs(result.dual_value),
        "plan_row_residual": result.row_residual,
    }  # fmt: skip


def plain(job):
    """Transport without regularisation, against a network simplex and a linear program."""
    from scipy.optimize import linear_sum_assignment, linprog

    from lowrank_opt.transport import SparsityConstrainedOT

    answer = []
    SparsityConstrainedOT(rounding="none").solve(load("clouds 300", None, 0.0).problem)
    for name in job["cases"]:
        case = load(name, None, 0.0)
        a, b, C = case.a, case.b, case.C
        n = len(a)
        row = {"case": name, "systems": {}}

        def record(label, call, row=row):
            try:
                start = time.perf_counter()
                value, claim = call()
                row["systems"][label] = {
                    "seconds": time.perf_counter() - start, "value": float(value), "claim": claim,
                }  # fmt: skip
            except Exception as error:
                row["systems"][label] = {"error": f"{type(error).__name__}: {error}"}

        def ours(case=case):
            # by default the plan of POT would be the start, which is the answer already
            r = SparsityConstrainedOT(
                rounding="none", start="nested", max_time=job["limit"], n_threads=job["threads"]
            ).solve(case.problem)
            return r.relaxed_value, f"{r.status.name}, residual {r.certificate.residual:.1e}"

        _ = case.problem.canonical
        record("ours", ours)
        if unavailable("POT") is None:
            import ot

            def simplex(a=a, b=b, C=C):
                value, log = ot.emd2(a, b, C, numItermax=10_000_000, log=True)[:2]
                return value, str(log.get("warning") or "optimal")

            record("POT emd", simplex)
        if "uniform" in name:

            def assignment(C=C, n=n):
                i, j = linear_sum_assignment(C)
                return C[i, j].sum() / n, "optimal"

            record("SciPy linear_sum_assignment", assignment)
        if n <= job["largest_lp"]:

            def program(a=a, b=b, C=C, n=n):
                A = sp.vstack(
                    [
                        sp.kron(sp.eye_array(n), np.ones((1, n))),
                        sp.kron(np.ones((1, n)), sp.eye_array(n)),
                    ]
                ).tocsr()
                r = linprog(C.ravel(), A_eq=A, b_eq=np.concatenate([a, b]), method="highs")
                return r.fun, r.message.split(".")[0]

            record("SciPy linprog", program)
        answer.append(row)
    return answer


def _numpy_router(logits, capacity, capped):
    """Every token takes its best expert; what an expert cannot take is dropped, in order."""
    gates = np.exp(logits - logits.max(axis=-1, keepdims=True))
    gates /= gates.sum(axis=-1, keepdims=True)
    best = gates.argmax(axis=-1)
    groups, tokens, experts = gates.shape
    taken = np.zeros((groups, tokens, experts), bool)
    np.put_along_axis(taken, best[..., None], True, axis=-1)
    if capped:
        taken &= np.cumsum(taken, axis=1) <= capacity
    return gates, taken


def router(job):
    """Milliseconds a batch, dropped tokens and gates of several ways of routing."""
    from lowrank_opt.transport import TopKRouter, expert_capacity

    groups, tokens, experts = job["shape"]
    rng = np.random.default_rng(20251121)
    logits = rng.standard_normal((groups, tokens, experts)).astype(np.float32)
    logits += 0.5 * rng.standard_normal(experts).astype(np.float32)  # some experts are liked more
    capacity = expert_capacity(tokens, experts, 1.0)
    rows = {}

    def record(label, call, grade):
        call()
        times = harness.repeat(lambda: harness.timed(call), repetitions=5, budget=job["budget"])
        rows[label] = {"seconds": harness.quartiles(times), **grade(call())}

    def of_routing(r):
        return {
            "dropped": float(np.mean(r.dropped)),
            "gates": float(np.sum(r.gate_sum)) / (groups * tokens),
            "load": float(np.max(r.load)) / (tokens / experts),
            "row_residual": None if r.row_residual is None else float(np.mean(r.row_residual)),
        }

    def of_numpy(found):
        gates, taken = found
        return {
            "dropped": float(np.mean(~taken.any(axis=-1))),
            "gates": float(np.sum(gates[taken], dtype=np.float64)) / (groups * tokens),
            "load": float(taken.sum(axis=1).max()) / (tokens / experts), "row_residual": None,
        }  # fmt: skip

    threads = {"n_threads": job["threads"]}
    record("NumPy top-1, capacity drop", lambda: _numpy_router(logits, capacity, True), of_numpy)
    for label, options in (
        ("sparse, experts choose, 20 steps", {"method": "sparse", "n_iter": 20}),
        ("sparse, tokens choose, 20 steps", {"method": "sparse", "choose": "tokens"}),
        ("topk, capacity drop", {"method": "topk"}),
        ("expert_choice", {"method": "expert_choice"}),
        ("sinkhorn, 20 sweeps", {"method": "sinkhorn"}),
    ):
        chooser = TopKRouter(**options, **threads)
        record(f"ours: {label}", lambda c=chooser: c.route(logits), of_routing)
    return rows


def monotone(job):
    """Values over the cap: ours must fall; bounds and values of the peer as it reports them."""
    answer = []
    for k in job["caps"]:
        case = load(job["case"], k, job["gamma"])
        row = {"k": k}
        for entry in job["systems"]:
            system = SYSTEMS[entry["system"]](
                threads=job["threads"], limit=entry["limit"], **entry.get("options", {})
            )
            row[entry["system"]] = _solve(system, case, repetitions=1, budget=1.0)
        answer.append(row)
    return answer


def main() -> None:
    job = json.loads(sys.argv[1])
    harness.pin(job["threads"])
    warnings.simplefilter("ignore")
    answer = globals()[job["measure"]](job)
    # The last line of the output, whatever a library may have printed before.
    print("\n" + json.dumps({"answer": _clean(answer)}))


if __name__ == "__main__":
    main()
