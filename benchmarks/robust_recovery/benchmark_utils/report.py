"""RESULTS.md from results.json: tables, targets with verdicts, lost cases."""

from __future__ import annotations

import math
import statistics

from harness import heading, seconds, table, verdict

__all__ = ["failures", "markdown"]

LEVELS = (1e-2, 1e-4, 1e-6, 1e-9)
PEERS = (
    "tensorly robust_pca", "inexact ALM, full SVD", "inexact ALM, partial SVD", "cvxpy + SCS",
    "cvxpy + Clarabel",
)  # fmt: skip
SMALL = ("40", "60", "60 missing", "tiny", "tiny missing")
UNKNOWN = "ours HuberALS, rank unknown"


def _runs(results, section, **match):
    """Finished runs of a section whose job agrees with `match`."""
    for run in results["runs"]:
        job = run["job"]
        if job["section"] != section or "answer" not in run:
            continue
        if all(job.get(name) == value for name, value in match.items()):
            yield run


def _number(value, form=".3g"):
    return "–" if value is None else format(value, form)


def _time_to(points, level):
    """Quartiles of the seconds after which the error is first at most `level`."""
    return next((p["seconds"] for p in points if p["error"] <= level), None)


def _best(points):
    return min(p["error"] for p in points)


def _curves(results):
    """Map (case, threads) to {system: entry}, convex solvers included."""
    cases: dict = {}
    for section in ("pca", "oracle"):
        for run in _runs(results, section):
            for case, found in run["answer"].items():
                cases.setdefault((case, run["job"]["threads"]), {}).update(found)
    return cases


def _comparisons(results):
    """Peer's seconds over ours, at every error that the peer reaches, and at its best one."""
    for (case, threads), found in _curves(results).items():
        ours = found.get(UNKNOWN, {}).get("points")
        if not ours:
            continue
        for peer in PEERS:
            points = found.get(peer, {}).get("points")
            if not points:
                continue
            # The best error, or what is within a twentieth of it.
            last = 1.05 * _best(points)
            rows = []
            for level in (*(v for v in LEVELS if v > last), last):
                theirs, own = _time_to(points, level), _time_to(ours, level)
                rows.append(
                    {
                        "level": level, "theirs": theirs["median"],
                        "own": own["median"] if own else math.inf,
                    }
                )  # fmt: skip
            yield case, threads, peer, rows


def _rate(rows, level):
    return sum(1 for r in rows if r.get("error", math.inf) <= level)


def _spread(counts):
    """Largest part by which a count differs from the middle of the range; 0: all the same."""
    if not counts or None in counts:
        return math.inf
    middle = (max(counts) + min(counts)) / 2
    return max(counts) / middle - 1


def _counts(results):
    """Map (solver, setting) to {kappa: median iterations to 1e-6, or None}."""
    tables: dict = {}
    for run in _runs(results, "iterations"):
        for row in run["answer"] if isinstance(run["answer"], list) else ():
            key = row["solver"], row["setting"]
            tables.setdefault(key, {}).setdefault(row["kappa"], []).append(row)
    return tables


def _middle(rows, name):
    values = [r[name] for r in rows]
    return None if None in values else statistics.median(values)


def _bandwidth(row):
    """Bytes per second of the fastest pass that only reads."""
    times = [t["median"] for name, t in row["times"].items() if name.startswith("read")]
    return row["bytes"] / min(times)


def _targets(results):
    rows = []

    def row(what, goal, measured, text=None, at_most=False, unit=""):
        shown = "–" if measured is None else text or f"{measured:.3g}{unit}"
        sign = "≤" if at_most else "≥"
        rows.append((what, f"{sign} {goal:g}{unit}", shown, verdict(measured, goal, at_most)))

    for run in _runs(results, "rates"):
        found = run["answer"].get(UNKNOWN)
        if not found:
            continue
        errors = found["rows"]
        if run["job"]["data"] == "sparse":
            row(
                f"rank unknown, *sparse*: error ≤ 1e-9, of {len(errors)} seeds", len(errors),
                _rate(errors, 1e-9),
            )  # fmt: skip
        else:
            row(
                f"rank unknown, *{run['job']['data']}*: error ≤ 1e-6, of {len(errors)} seeds",
                math.ceil(0.9 * len(errors)), _rate(errors, 1e-6),
            )  # fmt: skip
    for run in _runs(results, "large"):
        job, answer = run["job"], run["answer"]
        if job["threads"] == 1:
            goal, limit = (1e-6, 12.0) if job["dtype"] == "float32" else (1e-12, 25.0)
            time = next((s for s, e in answer["points"] if e <= goal), None)
            row(
                f"large, {job['dtype']}: seconds of the solve to error {goal:g}", limit,
                math.inf if time is None else time, at_most=True, unit=" s",
            )  # fmt: skip
        row(
            f"large, {job['dtype']}, {job['threads']} thread(s): memory of the whole process, "
            "its input included",
            1024, answer["peak"] / 2**20, f"{answer['peak'] / 2**20:.0f} MiB", at_most=True,
            unit=" MiB",
        )  # fmt: skip
    for run in _runs(results, "steps", measure="dense_steps"):
        for r in run["answer"]:
            name = f"dense step, d={r['d']}, N={r['n']}, {r['dtype']}"
            rate = r["bytes"] / r["times"]["ours"]["median"]
            row(f"{name}: part of the read bandwidth", 0.75, rate / _bandwidth(r))
            numpy = min(r["times"][k]["median"] for k in ("NumPy", "NumPy, A.T"))
            row(f"{name}: two passes of NumPy over ours", 1.6, numpy / r["times"]["ours"]["median"])
    for run in _runs(results, "steps", measure="entry_steps"):
        for r in run["answer"]:
            scipy = min(v["median"] for k, v in r["times"].items() if k != "ours")
            row(
                f"step on entries, {r['side']}², N={r['n']:.0e}, r={r['rank']}, {r['dtype']}: "
                "SciPy over ours",
                6.0, scipy / r["times"]["ours"]["median"],
            )  # fmt: skip
    for case, threads, peer, found in _comparisons(results):
        # Small cases against the convex solvers, the others against the methods made for them.
        if (case in SMALL) != peer.startswith("cvxpy"):
            continue
        good = [r for r in found if r["level"] <= 1e-4] or found[-1:]
        ratio, level = min((r["theirs"] / r["own"], r["level"]) for r in good)
        row(
            f"{case}, {threads} thread(s): {peer} over ours, to the same error (smallest ratio "
            f"below 1e-4: at {level:.0e})",
            5.0, ratio,
        )  # fmt: skip
    for (solver, setting), found in _counts(results).items():
        counts = [_middle(v, "to_1e-6") for v in found.values()]
        row(
            f"{solver}, {setting}: spread of the iterations to 1e-6 over condition numbers",
            0.25, _spread(counts), at_most=True,
        )  # fmt: skip
    return rows


def _lost(results):
    """List every comparison in which a peer is ahead."""
    lines = []
    for case, threads, peer, found in _comparisons(results):
        for r in found:
            if not r["own"] <= r["theirs"]:
                own = "not reached" if math.isinf(r["own"]) else f"{r['own']:.3g} s"
                lines.append(
                    f"{peer} is faster on {case}, {threads} thread(s), to error {r['level']:.1e}: "
                    f"{r['theirs']:.3g} s, ours {own}"
                )
    for run in _runs(results, "rates"):
        own = run["answer"].get(UNKNOWN, {}).get("rows", [])
        for system, found in run["answer"].items():
            seeds = {r["seed"] for r in found["rows"]}
            mine = [r for r in own if r["seed"] in seeds]
            lines += [
                f"{system} reaches {level:g} on {_rate(found['rows'], level)} of {len(seeds)} "
                f"seeds of *{run['job']['data']}*, HuberALS with unknown rank on "
                f"{_rate(mine, level)}"
                for level in (1e-6, 1e-9)
                if _rate(found["rows"], level) > _rate(mine, level)
            ]
    for run in _runs(results, "steps"):
        for r in run["answer"]:
            own = r["times"]["ours"]["median"]
            lines += [
                f"a step of {name} is faster: {r['dtype']}, N={r['n']}"
                for name, t in r["times"].items()
                if not name.startswith(("ours", "read")) and t["median"] < own
            ]
    return lines


def _pca(results):
    cases = _curves(results)
    if not cases:
        return []
    out = [
        "## Robust PCA: seconds to a relative error",
        "",
        "From the dense array, with NaN or a mask, to the low-rank part. All iterates are compared",
        "with the truth by one function while the clock stands; convex solvers: one fit from",
        "scratch for each tolerance. *residual* is the certificate of `LowRankPlusSparse` at the",
        "last iterate, which knows neither truth nor rank. A peer ends when 25 iterations bring it",
        "nothing, at error 1e-9, or at the limit of time of the configuration; rank and share of",
        "gross errors are unknown to the first system and to all peers.",
        "",
    ]
    for (case, threads), found in cases.items():
        out += [f"### {case}, {threads} thread(s)", "", f"{results['data'].get(case, case)}.", ""]
        rows = []
        for system, entry in found.items():
            if "points" not in entry:
                rows.append((system, *["–"] * (len(LEVELS) + 5)))
                continue
            points, grade = entry["points"], entry["grade"]
            rows.append(
                (
                    system, points[0]["seconds"]["n"],
                    *(seconds(_time_to(points, level)) for level in LEVELS),
                    f"{_best(points):.1e}", seconds(points[-1]["seconds"]), grade["rank"],
                    f"{grade['residual']:.0e}",
                )
            )  # fmt: skip
        out += table(
            ("system", "runs", *(f"s to {v:.0e}" for v in LEVELS), "best error", "s in all", "rank",
             "residual"),
            rows,
        )  # fmt: skip
    out += ["### Peer over ours (HuberALS, rank unknown)", ""]
    out += table(
        ("case", "threads", "peer", *(f"at {v:.0e}" for v in LEVELS), "at the peer's best error"),
        [
            (
                case, threads, peer,
                *(
                    next((f"{r['theirs'] / r['own']:.1f}" for r in rows if r["level"] == v), "–")
                    for v in LEVELS
                ),
                f"{rows[-1]['theirs'] / rows[-1]['own']:.1f} ({rows[-1]['level']:.0e})",
            )
            for case, threads, peer, rows in _comparisons(results)
        ],
    )  # fmt: skip
    return out


def _tuning(results):
    runs = list(_runs(results, "tuning"))
    if not runs:
        return []
    out = [
        "## Settings of the peers",
        "",
        "Seconds to error 1e-6, one thread; a setting is left when it takes 1.5 times as long as",
        "the fastest one before it. `mu_init` is over the spectral norm (0: the library's own),",
        "`weight` times 1/sqrt(p max(m, n)). The fastest one for full and for incomplete data is",
        "taken in all other tables.",
        "",
    ]
    rows = [
        (
            run["job"]["system"], r["data"],
            ", ".join(f"{k} {v:g}" for k, v in r["options"].items()),
            f"{r['seconds']:.3g}" if r["reached"] else "–", f"{r['best']:.1e}", r["iterations"],
        )
        for run in runs
        for r in run["answer"]
    ]  # fmt: skip
    return out + table(("system", "data", "setting", "s to 1e-6", "best error", "iterations"), rows)


def _large(results):
    runs = list(_runs(results, "large"))
    if not runs:
        return []
    out = [
        "## Large robust completion",
        "",
        f"{results['data'].get('large', '')}; rank given. No peer does this: tensorly and the",
        "augmented Lagrangian methods hold several dense arrays of 4e8 entries and take singular",
        "values of one in every iteration. *Solve*: `HuberALS.solve` from the built problem;",
        "*build*: index structures from coordinate arrays. Memory is that of a fresh process that",
        "reads its input from a file: bare (interpreter, libraries, compiled kernels), input",
        "(coordinates, values, true factors), rise (everything else at the highest moment).",
        "",
    ]
    rows = []
    for run in runs:
        job, a = run["job"], run["answer"]
        times = [next((s for s, e in a["points"] if e <= v), None) for v in (1e-3, 1e-6, 1e-12)]
        rows.append(
            (
                job["dtype"], job["threads"], f"{a['build']:.3g}", *(_number(t) for t in times),
                f"{a['solve']:.3g}", a["iterations"], f"{min(e for _, e in a['points']):.1e}",
                a["status"], f"{a['certificate']:.0e}", f"{a['bare'] / 2**20:.0f}",
                f"{(a['before'] - a['bare']) / 2**20:.0f}",
                f"{(a['peak'] - a['before']) / 2**20:.0f}", f"{a['peak'] / 2**20:.0f}",
            )
        )  # fmt: skip
    return out + table(
        ("type", "threads", "build, s", "s to 1e-3", "s to 1e-6", "s to 1e-12", "whole solve, s",
         "sweeps", "best error", "status", "residual", "bare, MiB", "input", "rise", "in all"),
        rows,
    )  # fmt: skip


def _rates(results):
    out = []
    for run in _runs(results, "rates"):
        data = run["job"]["data"]
        if not out:
            out = ["## How often the truth is found", ""]
        out += [f"### {data}", "", f"{results['data'].get(data, data)}.", ""]
        rows = []
        for system, found in run["answer"].items():
            done = [r for r in found["rows"] if "error" in r]
            if not done:
                rows.append((system, len(found["rows"]), *["–"] * 7))
                continue
            errors = [r["error"] for r in done]
            times = [r["seconds"] for r in done]
            rows.append(
                (
                    system, len(found["rows"]), _rate(done, 1e-6), _rate(done, 1e-9),
                    sum(r["rank"] == found["true_rank"] for r in done),
                    f"{statistics.median(errors):.1e}", f"{max(errors):.1e}",
                    f"{statistics.median(times):.3g}", f"{max(times):.3g}",
                )
            )  # fmt: skip
        out += table(
            ("system", "seeds", "error ≤ 1e-6", "error ≤ 1e-9", "rank right", "median error",
             "largest error", "median s", "largest s"),
            rows,
        )  # fmt: skip
    return out


def _steps(results):
    out = []
    for run in _runs(results, "steps", measure="dense_steps"):
        out += [
            "## One sub-gradient step, dense Gaussian measurements",
            "",
            "Symmetric, r = 5, one thread: loss, slope times the factor, and its norm; ours in one",
            "pass over the measurements. *Reading*: the fastest pass that only reads the same",
            "array. *Agreement*: largest relative difference of loss, slope and norm from NumPy's.",
            "",
        ]
        rows = []
        for r in run["answer"]:
            t = r["times"]
            own = t["ours"]["median"]
            numpy = min((t["NumPy"], t["NumPy, A.T"]), key=lambda v: v["median"])
            rows.append(
                (
                    r["d"], r["n"], r["dtype"], f"{r['bytes'] / 1e6:.0f}", seconds(t["ours"]),
                    seconds(numpy), f"{numpy['median'] / own:.2f}",
                    f"{r['bytes'] / own / 1e9:.1f}", f"{_bandwidth(r) / 1e9:.1f}",
                    f"{r['bytes'] / own / _bandwidth(r):.0%}", f"{r['agreement']:.0e}",
                )
            )  # fmt: skip
        out += table(
            ("d", "N", "type", "MB", "ours, s", "NumPy, s", "NumPy / ours", "ours, GB/s",
             "reading, GB/s", "part", "agreement"),
            rows,
        )  # fmt: skip
    for run in _runs(results, "steps", measure="entry_steps"):
        out += [
            "## One sub-gradient step, sampled entries",
            "",
            "One thread: loss and both products. SciPy: residual by `einsum`, then two sparse",
            "products, the second with the transpose as it is or with a permuted copy by columns,",
            "whichever is faster. *Agreement*: largest relative difference from them; in float32 a",
            "residual near 0 may change its sign.",
            "",
        ]
        rows = []
        for r in run["answer"]:
            own = r["times"]["ours"]
            scipy = min(
                (v for k, v in r["times"].items() if k != "ours"), key=lambda v: v["median"]
            )
            rows.append(
                (
                    f"{r['side']}²", f"{r['n']:.1e}", r["rank"], r["dtype"], seconds(own),
                    f"{own['median'] / r['n'] * 1e9:.1f}", seconds(scipy),
                    f"{scipy['median'] / own['median']:.1f}", f"{r['agreement']:.0e}",
                )
            )  # fmt: skip
        out += table(
            ("size", "N", "r", "type", "ours, s", "ns an entry", "SciPy, s", "SciPy / ours",
             "agreement"),
            rows,
        )  # fmt: skip
    return out


def _iterations(results):
    counts = _counts(results)
    if not counts:
        return []
    job = next(_runs(results, "iterations"))["job"]
    out = [
        "## Iterations against the condition number",
        "",
        f"{job['side']} x {job['side']}, rank {job['rank']}, {job['oversampling']} x the degrees",
        f"of freedom; *outliers*: {job['outliers']:.0%} of the entries wrong, sizes up to that of",
        "the largest entry; *Gaussian*: 40 x 40, dense measurements, as many of them wrong.",
        f"Iterations to relative error 1e-3 / 1e-6, median of {job['seeds']} seed(s) (–: not",
        "reached on one); *spread*: half the range of the latter over its middle.",
        "",
    ]
    rows = []
    for (solver, setting), found in counts.items():
        rows.append(
            (
                solver, setting,
                *(
                    f"{_number(_middle(v, 'to_1e-3'))} / {_number(_middle(v, 'to_1e-6'))}"
                    for v in found.values()
                ),
                f"{_spread([_middle(v, 'to_1e-6') for v in found.values()]):.0%}"
                if all(_middle(v, "to_1e-6") is not None for v in found.values())
                else "–",
            )
        )  # fmt: skip
    kappas = [f"condition {k:g}" for k in job["kappas"]]
    return out + table(("solver", "data", *kappas, "spread"), rows)


def failures(results) -> list[str]:
    """Jobs, and systems within jobs, that ended with an error."""
    lines = []
    for run in results["runs"]:
        job = run["job"]
        if "error" in run:
            lines.append(f"{job['section']} ({job['measure']}): {run['error']}")
        elif job["section"] in ("pca", "oracle"):
            lines += [
                f"{job['section']}, {case}: {system}: {entry['error']}"
                for case, found in run["answer"].items()
                for system, entry in found.items()
                if "error" in entry
            ]
        elif job["section"] == "rates":
            lines += [
                f"rates, {job['data']}, seed {row['seed']}: {system}: {row['failure']}"
                for system, found in run["answer"].items()
                for row in found["rows"]
                if "failure" in row
            ]
    return lines


def markdown(results) -> str:
    """Write the report."""
    out = [
        "# Robust low-rank recovery against its peers",
        "",
        "Written by `make bench FAMILY=robust_recovery` from `results.json`; how to read it and",
        "how to repeat it is in [`../README.md`](../README.md). One process per job, pinned to as",
        "many cores as threads; inside it the systems take turns. Seconds are wall time, median",
        "(quartiles); compilation excluded.",
        "",
        *heading(results),
        "## Targets",
        "",
        *table(("what", "goal", "measured", ""), _targets(results)),
        "## Cases lost to a peer",
        "",
        *([f"- {line}" for line in _lost(results)] or ["None in this run."]),
        "",
    ]
    for part in (_pca, _tuning, _large, _rates, _steps, _iterations):
        out += part(results)
    failed = failures(results)
    if failed:
        out += ["## Failed", "", *(f"- {line}" for line in failed)]
    return "\n".join(out).rstrip() + "\n"
