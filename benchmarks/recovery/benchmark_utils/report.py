"""RESULTS.md from results.json: tables, targets with verdicts, lost cases."""

from __future__ import annotations

import math

from harness import heading, seconds, table, verdict

__all__ = ["markdown"]

# Two errors closer than this count as the same quality.
SAME = 0.0005


def _runs(results, section, **match):
    """Finished runs of a section whose job agrees with `match`."""
    for run in results["runs"]:
        job = run["job"]
        if job["section"] != section or "answer" not in run:
            continue
        values = {**job, **job.get("parameters", {})}
        if all(values.get(name) == value for name, value in match.items()):
            yield run


def _case(run):
    p = run["job"]["parameters"]
    return run["job"]["data"], p["dtype"], p["biases"], p["threads"]


def _sweep_cases(results):
    """Map (data, dtype, biases, threads, rank) to {system: quartiles of seconds per sweep}."""
    cases: dict = {}
    for run in _runs(results, "sweeps"):
        for row in run["answer"]:
            # A whole fit of one sweep, set-up included, is an upper bound.
            stats = row.get("sweep") or {**row["fit"], "bound": True}
            cases.setdefault((*_case(run), row["rank"]), {})[run["job"]["system"]] = stats
    return dict(sorted(cases.items()))


def _ratio(cases, key, peer, ours):
    found = cases.get(key, {})
    own = [found[name]["median"] for name in ours if name in found]
    if peer not in found or not own:
        return None
    return found[peer]["median"] / min(own)


def _best(points, part="valid"):
    points = [p for p in points if p[part] is not None and math.isfinite(p[part])]
    return min(points, key=lambda p: p[part]) if points else None


def _time_to(points, level, part="valid"):
    times = [p["seconds"]["median"] for p in points if p[part] is not None and p[part] <= level]
    return min(times) if times else None


def _curves(results, data="S"):
    return {
        (run["job"]["system"], run["job"]["parameters"]["rank"]): run["answer"]
        for run in _runs(results, "curves", data=data)
    }


def _targets(results):
    rows = []

    def row(what, goal, measured, text=None, at_most=False):
        shown = "–" if measured is None else text or f"{measured:.3g}"
        sign = "≤" if at_most else "≥"
        rows.append((what, f"{sign} {goal:g}", shown, verdict(measured, goal, at_most)))

    cases = _sweep_cases(results)
    for key in cases:
        data, dtype, biases, threads, rank = key
        if rank != 50:
            continue
        name = f"{data}, k=50, {dtype}, {'biases' if biases else 'no biases'}, {threads} thread(s)"
        for peer, goal in (("cmfrec Cholesky", 9.0), ("cmfrec CG", 2.0)):
            ratio = _ratio(cases, key, peer, ["ours exact"])
            if ratio is not None:
                row(f"exact sweep against {peer}: {name}", goal, ratio)
        if threads == 2:
            one = cases.get((data, dtype, biases, 1, rank), {}).get("ours exact")
            two = cases[key].get("ours exact")
            if one and two:
                row(f"exact, two threads against one: {data}", 1.8, one["median"] / two["median"])
    curves = _curves(results)
    exact, peer = (_best(curves.get((s, 50), [])) for s in ("ours exact", "cmfrec Cholesky"))
    if exact and peer:
        row(
            "exact ALS, test RMSE minus that of cmfrec Cholesky (each at its best point)", SAME,
            exact["test"] - peer["test"], f"{exact['test']:.5f} - {peer['test']:.5f}", at_most=True,
        )  # fmt: skip
    for rank in (100, 200):
        theirs = curves.get(("cmfrec CG", rank), [])
        best = _best(theirs)
        if best and ("ours CG", rank) in curves:
            level = best["valid"] + SAME
            own, other = (_time_to(c, level) for c in (curves["ours CG", rank], theirs))
            row(
                f"CG, k={rank}: time to validation RMSE {level:.4f} over cmfrec CG's", 0.5,
                own / other if own else math.inf, f"{own or math.inf:.3g} s / {other:.3g} s",
                at_most=True,
            )  # fmt: skip
    best = _best(curves.get(("ours exact", 50), []))
    if best and ("ours SGD", 50) in curves:
        level = best["valid"] + SAME
        own, other = (_time_to(curves[s, 50], level) for s in ("ours SGD", "ours exact"))
        row(
            f"SGD: time to the validation RMSE of ALS ({level:.4f}) over ALS's", 0.6,
            own / other if own else math.inf, f"{own or math.inf:.3g} s / {other:.3g} s",
            at_most=True,
        )  # fmt: skip
    for run in _runs(results, "slope"):
        # A difference of two fits that is not positive is noise of the machine, not a time.
        timed = [r for r in run["answer"] if r["sweep"]["median"] > 0]
        points = [(math.log(r["rank"]), math.log(r["sweep"]["median"])) for r in timed]
        mean_x = sum(x for x, _ in points) / len(points)
        mean_y = sum(y for _, y in points) / len(points)
        slope = sum((x - mean_x) * (y - mean_y) for x, y in points)
        slope /= sum((x - mean_x) ** 2 for x, _ in points)
        ranks = ", ".join(str(r["rank"]) for r in timed)
        row(
            f"CG: exponent of k in seconds per sweep, N and N/(nk) fixed, k = {ranks}", 1.15, slope,
            at_most=True,
        )  # fmt: skip
    for system, goal in (("ours SGD, AdaGrad", 60.0), ("ours SGD", 100.0)):
        for data in ("S", "L4"):
            rate = _updates(results).get((data, 1), {}).get(system)
            row(f"{system}: million updates per second and core, {data}", goal, rate)
    found = {run["job"]["system"]: run["answer"] for run in _runs(results, "search")}
    baselines = [found[s]["test"] for s in ("ours exact", "cmfrec Cholesky") if s in found]
    if "ours Gibbs" in found and baselines:
        row(
            "Gibbs: test RMSE below the best ALS, equal grids", 0.005,
            min(baselines) - found["ours Gibbs"]["test"],
            f"{min(baselines):.4f} - {found['ours Gibbs']['test']:.4f}",
        )  # fmt: skip
    for run in _runs(results, "memory"):
        if run["job"]["system"].startswith("ours"):
            kind = "traced" if run["job"].get("trace") else "resident"
            answer = run["answer"]
            row(
                f"{run['job']['system']}: {kind} peak of a fit over CSR + CSC + factors, L4", 2.5,
                answer["peak"] / answer["least"], at_most=True,
            )  # fmt: skip
    for run in _runs(results, "cold"):
        if run["job"]["system"].startswith("ours"):
            wall = run["answer"]["wall"]["median"]
            row(
                f"{run['job']['system']}: first solve of a second process, s",
                1.5,
                wall,
                at_most=True,
            )
            row(
                f"{run['job']['system']}: kernels compiled in a second process", 0,
                run["answer"]["compiled"], at_most=True,
            )  # fmt: skip
    return rows


def _updates(results):
    """Map (data, threads) to {system: million updates per second}."""
    rates: dict = {}
    for run in _runs(results, "updates"):
        data, _, _, threads = _case(run)
        for row in run["answer"]:
            rate = row["entries"] / row["sweep"]["median"] / 1e6 / threads
            rates.setdefault((data, threads), {})[run["job"]["system"]] = rate
    return rates


def _lost(results):
    """List every comparison in which a peer is ahead."""
    lines = []
    cases = _sweep_cases(results)
    for key, found in cases.items():
        own = {s: v["median"] for s, v in found.items() if s.startswith("ours")}
        data, dtype, biases, threads, rank = key
        for peer, stats in found.items():
            if peer.startswith(("ours", "implicit")) or not own:
                continue
            if stats["median"] < min(own.values()):
                lines.append(
                    f"a sweep of {peer} is faster than ours on {data}, k={rank}, {dtype}, "
                    f"{'biases' if biases else 'no biases'}, {threads} thread(s): "
                    f"{stats['median']:.3g} s against {min(own.values()):.3g} s"
                )
    curves = _curves(results)
    own = [p for (s, _), c in curves.items() if s.startswith("ours") for p in c]
    for (system, rank), points in curves.items():
        if system.startswith("ours"):
            continue
        for point in points:
            if point["valid"] is None or not math.isfinite(point["valid"]):
                continue
            mine = _time_to(own, point["valid"] + SAME)
            if mine is None or mine > point["seconds"]["median"]:
                lines.append(
                    f"{system}, k={rank}, reaches validation RMSE {point['valid']:.4f} in "
                    f"{point['seconds']['median']:.3g} s, ours "
                    + ("not at all" if mine is None else f"in {mine:.3g} s")
                )
    for (data, threads), rates in _updates(results).items():
        lines += [
            f"LIBMF does more updates per second than {system}: {data}, {threads} thread(s)"
            for system in ("ours SGD", "ours SGD, AdaGrad")
            if rates.get("LIBMF", 0) > rates.get(system, math.inf)
        ]
    memory = {
        run["job"]["system"]: run["answer"]["peak"]
        for run in _runs(results, "memory")
        if not run["job"].get("trace")
    }
    least = min((v for s, v in memory.items() if s.startswith("ours")), default=math.inf)
    lines += [
        f"a fit of {s} needs less memory than ours: {v / 1e6:.0f} MB against {least / 1e6:.0f} MB"
        for s, v in memory.items()
        if not s.startswith("ours") and v < least
    ]
    cold = {r["job"]["system"]: r["answer"]["wall"]["median"] for r in _runs(results, "cold")}
    lines += [
        f"the first solve of a process is faster with {s}: {v:.2f} s against {cold['ours']:.2f} s"
        for s, v in cold.items()
        if not s.startswith("ours") and "ours" in cold and v < cold["ours"]
    ]
    return lines


def markdown(results) -> str:
    """Write the report."""
    out = [
        "# Matrix completion against its peers: quick configuration",
        "",
        "Written by `make bench FAMILY=recovery` from `results.json`; how to read it and how to",
        "repeat it is in [`../README.md`](../README.md). One process per measurement, pinned to as",
        "many cores as threads; seconds are wall time, median (quartiles); compilation excluded",
        "except under *Cold start*. Errors are computed in float64 by one code for all systems.",
        "",
    ]
    out += heading(results)
    out += ["## Targets", ""]
    out += table(("what", "goal", "measured", ""), _targets(results))
    out += ["## Cases lost to a peer", ""]
    out += [f"- {line}" for line in _lost(results)] or ["None in this run."]

    cases = _sweep_cases(results)
    systems = list(dict.fromkeys(s for found in cases.values() for s in found))
    out += [
        "",
        "## Seconds per sweep",
        "",
        "Both sides; from the difference of fits of 3 and 1 (large Cholesky: 2 and 1) sweeps, so",
        "that set-up cancels; `≤` marks a whole fit of one sweep. Ours checks once, at the end, as",
        "the peers do. The last columns: the peer's time over ours (exact; the better of ours).",
        "",
    ]
    rows = []
    for key, found in cases.items():
        data, dtype, biases, threads, rank = key
        cells = [
            ("≤ " if found.get(s, {}).get("bound") else "") + seconds(found.get(s)) for s in systems
        ]
        ratios = [
            _ratio(cases, key, "cmfrec Cholesky", ["ours exact"]),
            _ratio(cases, key, "cmfrec CG", ["ours exact"]),
            _ratio(cases, key, "cmfrec CG", ["ours exact", "ours CG"]),
        ]
        cells += ["–" if r is None else f"{r:.1f}" for r in ratios]
        rows.append((data, dtype, "yes" if biases else "no", threads, rank, *cells))
    ratios = ("Cholesky / exact", "CG / exact", "CG / better")
    out += table(("data", "type", "biases", "threads", "k", *systems, *ratios), rows)

    out += ["## Error against time", "", "Every point is a fit from scratch, set-up included.", ""]
    for data in dict.fromkeys(r["job"]["data"] for r in _runs(results, "curves")):
        curves = _curves(results, data)
        best = min(p["valid"] for c in curves.values() for p in c if p["valid"] is not None)
        levels = [best + step for step in (0.0005, 0.002, 0.005, 0.02)]
        rows = []
        for (system, rank), points in curves.items():
            end = _best(points)
            times = [_time_to(points, level) for level in levels]
            ridge = next(_runs(results, "curves", data=data, system=system, rank=rank))
            rows.append(
                (
                    system, rank, ridge["job"]["parameters"].get("reg", 0.08),
                    f"{end['valid']:.4f}" if end else "–", f"{end['test']:.4f}" if end else "–",
                    *("–" if t is None else f"{t:.3g}" for t in times),
                )
            )  # fmt: skip
        head = (f"{data}: system", "k", "ridge", "best validation RMSE", "its test RMSE")
        out += table((*head, *(f"s to {level:.4f}" for level in levels)), rows)

    rates = _updates(results)
    if rates:
        out += ["## Million rating updates per second and core, k=50, float32", ""]
        names = list(dict.fromkeys(s for r in rates.values() for s in r))
        out += table(
            ("data", "threads", *names),
            [
                (*key, *(f"{r[s]:.0f}" if s in r else "–" for s in names))
                for key, r in sorted(rates.items())
            ],
        )
    found = list(_runs(results, "search"))
    if found:
        out += [
            "## Small data: settings chosen on a validation part",
            "",
            f"Data: {results['data'][found[0]['job']['data']]}. Best setting by validation error,",
            "refitted on training and validation, graded once on the test part.",
            "",
        ]
        out += table(
            ("system", "settings tried", "best", "validation", "test RMSE", "s of the fit"),
            [
                (
                    r["job"]["system"], r["answer"]["settings"], r["answer"]["best"],
                    f"{r['answer']['valid']:.4f}", f"{r['answer']['test']:.4f}",
                    seconds(r["answer"]["seconds"]),
                )
                for r in found
            ],
        )  # fmt: skip
    found = list(_runs(results, "memory"))
    if found:
        out += [
            "## Peak memory of a fit",
            "",
            "L4, k=50, float32, no biases: rise of the resident memory over the process with its",
            "input loaded; *traced*: highest sum of allocations (tracemalloc).",
            "",
        ]
        out += table(
            ("system", "how", "MB", "over CSR + CSC + factors"),
            [
                (
                    r["job"]["system"], "traced" if r["job"].get("trace") else "resident",
                    f"{r['answer']['peak'] / 1e6:.0f}",
                    f"{r['answer']['peak'] / r['answer']['least']:.2f}",
                )
                for r in found
            ],
        )  # fmt: skip
    found = list(_runs(results, "cold"))
    if found:
        out += [
            "## Cold start",
            "",
            "A fresh process that imports the library and solves 500 x 400, 20 000 entries, k=5.",
            "",
        ]
        rows = []
        for r in found:
            a = r["answer"]
            rows.append(
                (
                    r["job"]["system"], f"{a['empty_cache']['wall']:.2f}", seconds(a["wall"]),
                    seconds(a["inside"]), a["loaded"], a["compiled"],
                )
            )  # fmt: skip
        out += table(
            ("system", "empty kernel cache, s", "warm cache, s", "of it after interpreter start",
             "kernels loaded", "compiled"), rows,
        )  # fmt: skip
    for run in _runs(results, "slope"):
        out += ["## CG: seconds per sweep against rank", "", "N = 2e6, N/(nk) = 2.5, float32.", ""]
        out += table(
            ("k", "rows = columns", "s"),
            [(r["rank"], r["side"], seconds(r["sweep"])) for r in run["answer"]],
        )
    found = list(_runs(results, "nuclear"))
    if found:
        out += [
            "## Nuclear norm: photograph with half of its pixels missing",
            "",
            "427 x 640, float64; the duality gap is the problem's certificate for every system.",
            "",
        ]
        rows = [
            (
                r["job"]["system"],
                p["n"],
                seconds(p["seconds"]),
                f"{p['gap']:.1e}",
                f"{p['psnr']:.2f}",
            )
            for r in found
            for p in r["answer"]
        ]
        out += table(("system", "iterations", "s", "relative gap", "PSNR, missing pixels"), rows)
    failed = [r for r in results["runs"] if "error" in r and "answer" not in r]
    if failed:
        out += ["## Failed", ""]
        out += [
            f"- {r['job']['section']}: {r['job']['system']} {r['job'].get('data') or ''}: "
            f"{r['error']}"
            for r in failed
        ]
    return "\n".join(out).rstrip() + "\n"
