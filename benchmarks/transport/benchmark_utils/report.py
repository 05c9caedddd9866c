"""RESULTS.md from results.json: tables, targets with verdicts, lost cases."""

from __future__ import annotations

import itertools
import math

from harness import heading, seconds, table, verdict

__all__ = ["failures", "markdown"]

# Seconds that a solve to a residual of 1e-6 may take, by size.
LIMITS = {1000: 2.5, 2000: 4.0, 4000: 20.0}
TOL, ROUGH = 1e-6, 1e-4
OURS = ("ours", "ours, lists, small steps")


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


def _cap(k):
    return "none" if k is None else str(k)


def _size(case):
    return int(case.split()[-1])


def _solves(results, section="solve", **match):
    """Yield ``(threads, row)`` of all solves."""
    for run in _runs(results, section, **match):
        for row in run["answer"]:
            yield run["job"]["threads"], row


def _find(results, system, case, k, threads=1):
    for used, row in _solves(results):
        same = (row["system"], row["case"], row["k"]) == (system, case, k)
        if same and used == threads and "grade" in row:
            return row
    return None


def _certified(row):
    return "grade" in row and row["grade"]["residual"] <= TOL


def _targets(results):
    rows = []

    def row(what, goal, measured, text=None, at_most=False, unit=""):
        shown = "–" if measured is None else text or f"{measured:.3g}{unit}"
        sign = "≤" if at_most else "≥"
        rows.append((what, f"{sign} {goal:g}{unit}", shown, verdict(measured, goal, at_most)))

    for run in _runs(results, "oracle", threads=1):
        for found in run["answer"]:
            if found["n"] != 2000:
                continue
            ours = found["times"]["ours"]["median"]
            name = f"oracle, n = m = 2000, k = {_cap(found['k'])}, one thread"
            row(f"{name}: a pass over all costs", 10, 1e3 * ours, at_most=True, unit=" ms")
            if "POT" in found["times"]:
                row(f"{name}: POT / ours", 12, found["times"]["POT"]["median"] / ours)
    for threads, found in _solves(results):
        n = _size(found["case"])
        if threads != 1 or found["system"] != "ours" or n not in LIMITS:
            continue
        time = found["seconds"]["median"] if _certified(found) else math.inf
        row(
            f"{found['case']}, k = {_cap(found['k'])}: rows and gap ≤ 1e-6, one thread",
            LIMITS[n], time, at_most=True, unit=" s",
        )  # fmt: skip
    for threads, found in _solves(results):
        if threads != 1 or found["system"] != "ours":
            continue
        two = _find(results, "ours", found["case"], found["k"], 2)
        if two is not None and _certified(found):
            gain = found["seconds"]["median"] / two["seconds"]["median"]
            name = f"{found['case']}, k = {_cap(found['k'])}: one thread / two threads"
            row(name, 1.0, gain)
    ours, pot = (_find(results, name, "clouds 2000", 4) for name in ("ours", "POT"))
    if ours and pot:
        ratio = pot["seconds"]["median"] / ours["seconds"]["median"]
        short = not _certified(pot)
        row(
            "clouds 2000, k = 4: POT / ours at a certified answer" + (
                f"; POT was stopped with residual {pot['grade']['residual']:.1e}" if short else ""
            ),
            50, ratio, f"{'> ' if short else ''}{ratio:.3g}",
        )  # fmt: skip
    for run in _runs(results, "points"):
        job, found = run["job"], run["answer"]
        name = f"{job['n']} points in d = {job['d']}, k = {job['k']}, {job['threads']} thread(s)"
        row(f"{name}: residual", ROUGH, found["residual"], f"{found['residual']:.1e}", at_most=True)
        row(
            f"{name}: memory of the whole process", 2048, found["peak"] / 2**20,
            f"{found['peak'] / 2**20:.0f} MiB", at_most=True, unit=" MiB",
        )  # fmt: skip
    for run in _runs(results, "monotone"):
        values = [r["ours"]["grade"]["bound"] for r in run["answer"] if "grade" in r["ours"]]
        rise = max((y - x for x, y in itertools.pairwise(values)), default=None)
        row("largest rise of the value from a cap to the next", 1e-7, rise, at_most=True)
    return rows


def _oracle(results):
    out = [
        "Milliseconds of one evaluation of the semi-dual and its gradient at potentials near the "
        "optimum. *lists*: our exact lists of candidates serve small steps, as at the end of a "
        "solve. *agreement*: largest relative difference of values and gradients from NumPy's.",
        "",
    ]
    rows = []
    for run in _runs(results, "oracle"):
        for found in run["answer"]:
            times = {k: v["median"] for k, v in found["times"].items()}
            pot = times.get("POT")
            rows.append(
                (
                    found["n"], _cap(found["k"]), run["job"]["threads"],
                    *(_number(1e3 * times[x]) for x in OURS), _number(1e3 * times["NumPy"]),
                    _number(pot and 1e3 * pot), _number(times["NumPy"] / times["ours"]),
                    _number(pot and pot / times["ours"]),
                    f"{max(found['agreement'].values()):.0e}",
                )
            )  # fmt: skip
    head = (
        "n = m", "k", "threads", "ours", "ours, lists", "NumPy", "POT", "NumPy / ours",
        "POT / ours", "agreement",
    )  # fmt: skip
    return [*out, *table(head, rows)]


def _grades(row):
    if "grade" not in row:
        return ("–",) * 5
    grade = row["grade"]
    return (
        f"{grade['row_residual']:.1e}", f"{grade['gap']:.1e}",
        f"{max(abs(grade['plain']['gap']), grade['plain']['row_residual']):.1e}",
        _number(grade["value"], ".8g"), _number(grade["max_nnz"], ".0f"),
    )  # fmt: skip


def _solve_table(results, section):
    rows = []
    for threads, row in _solves(results, section):
        rows.append(
            (
                row["case"], _cap(row["k"]), f"{row['gamma']:g}", row["system"], threads,
                seconds(row.get("seconds")), *_grades(row),
                row.get("error") or row["status"],
                ", ".join(f"{v} {k.replace('_', ' ')}" for k, v in row.get("counts", {}).items()),
            )
        )  # fmt: skip
    head = (
        "case", "k", "γ", "system", "threads", "seconds", "row residual", "relative gap",
        "plain code", "value", "longest column", "says", "work",
    )  # fmt: skip
    return table(head, rows)


def _solve(results):
    return [
        "Relaxed problem to a tolerance of 1e-6, warm start included. Row residual: sum of "
        "absolute errors of the row sums (total mass 1). Gap: of relaxed value and dual bound, "
        "relative. *Plain code*: the larger of both by dense arrays and whole sorts "
        "that share nothing with the library. POT is stopped at a limit of time; its best "
        "iterate counts.",
        "",
        *_solve_table(results, "solve"),
    ]


def _hard(results):
    return [
        "Ties, equal masses, weak and strong regularisation (a mean column has "
        "γ/n; γ = 100 is a tenth of the range of the costs), one thread.",
        "",
        *_solve_table(results, "hard"),
    ]


def _rounding(results):
    rows = []
    for run in _runs(results, "rounding"):
        for row in run["answer"]:
            found, none = row["qp"], row["none"]
            if "error" in found or "error" in none:
                rows.append((row["case"], _cap(row["k"]), f"{row['gamma']:g}", "–", "–", "–",
                             found.get("error") or none["error"], "–", "–"))  # fmt: skip
                continue
            sparse = found["plan_status"] in ("optimal", "feasible")
            gap = f"{found['gap'] / abs(found['bound']):.1e}" if sparse else "–"
            rows.append(
                (
                    row["case"], _cap(row["k"]), f"{row['gamma']:g}", f"{none['above']:.0%}",
                    _number(none["seconds"]), _number(found["seconds"]), found["plan_status"], gap,
                    f"{found['row_residual']:.1e}",
                )
            )  # fmt: skip
    head = (
        "case", "k", "γ", "relaxed columns above k", "seconds, relaxed", "seconds, with rounding",
        "plan", "proved gap, relative", "row residual",
    )  # fmt: skip
    return [
        "The plan with at most k entries a column that is made of the relaxed one. The gap is that "
        "to the bound of the relaxation: the best such plan may have most of it as well.",
        "",
        *table(head, rows),
    ]


def _points(results):
    rows = []
    for run in _runs(results, "points"):
        job, found = run["job"], run["answer"]
        rows.append(
            (
                job["n"], job["d"], job["k"], job["threads"], f"{found['seconds']:.1f}",
                f"{found['residual']:.1e}", found["status"], f"{found['bare'] / 2**20:.0f}",
                f"{found['peak'] / 2**20:.0f}", f"{found['matrix'] / 2**20:.0f}",
                ", ".join(f"{v} {k.replace('_', ' ')}" for k, v in found["counts"].items()),
            )
        )  # fmt: skip
    head = (
        "points", "d", "k", "threads", "seconds", "residual", "status", "MiB before", "MiB at most",
        "MiB of a cost matrix", "work",
    )  # fmt: skip
    return table(head, rows)


def _plain(results):
    rows = []
    for run in _runs(results, "plain"):
        for row in run["answer"]:
            best = min(s["value"] for s in row["systems"].values() if "value" in s)
            for name, found in row["systems"].items():
                if "error" in found:
                    rows.append((row["case"], name, "–", "–", found["error"]))
                    continue
                rows.append(
                    (
                        row["case"], name, _number(found["seconds"]),
                        f"{found['value'] / best - 1:.1e}", found["claim"],
                    )
                )  # fmt: skip
    head = ("case", "system", "seconds", "value over the best, minus 1", "says")
    return [
        "γ = 0, no cap: plain transport by the same code, which is not its purpose.",
        "",
        *table(head, rows),
    ]


def _router(results):
    rows = []
    for run in _runs(results, "router"):
        groups, tokens, experts = run["job"]["shape"]
        for name, found in run["answer"].items():
            rows.append(
                (
                    f"{groups} × {tokens} × {experts}", name, run["job"]["threads"],
                    _number(1e3 * found["seconds"]["median"]),
                    _number(1e3 * found["seconds"]["median"] / groups), f"{found['dropped']:.2%}",
                    f"{found['gates']:.4f}", f"{found['load']:.2f}",
                    _number(found["row_residual"]),
                )
            )  # fmt: skip
    head = (
        "groups × tokens × experts", "router", "threads", "ms a batch", "ms a group", "dropped",
        "gates a token", "largest load", "row residual",
    )  # fmt: skip
    return [
        "float32 logits, capacity factor 1. *Load*: tokens of the fullest expert over an equal "
        "share; *gates*: softmax weights of the dispatched pairs, per token.",
        "",
        *table(head, rows),
    ]


def _monotone(results):
    rows = []
    for run in _runs(results, "monotone"):
        systems = [s["system"] for s in run["job"]["systems"]]
        for row in run["answer"]:
            cells: list[str] = []
            for name in systems:
                found = row.get(name, {})
                if "grade" not in found:
                    cells += ["–", "–", found.get("error", "–")]
                    continue
                grade = found["grade"]
                cells += [
                    f"{grade['bound']:.8f}", f"{grade['row_residual']:.0e}",
                    str(found["status"]).split(":")[0].lower(),
                ]  # fmt: skip
            rows.append((_cap(row["k"]), *cells))
        head = ["k"]
        for name in systems:
            head += [f"{name}: bound", "row residual", "says"]
        return [
            f"{run['job']['case']}, γ = {run['job']['gamma']:g}. The optimal value does not "
            "increase with the cap, and every dual value is a lower bound: a smaller one at a "
            "smaller cap is a search that ended too early.",
            "",
            *table(head, rows),
        ]
    return []


SECTIONS = {
    "oracle": ("Oracle", _oracle),
    "solve": ("Solves", _solve),
    "hard": ("Hard cases", _hard),
    "rounding": ("Sparse plans", _rounding),
    "points": ("Large clouds of points", _points),
    "plain": ("Plain transport", _plain),
    "router": ("Routing", _router),
    "monotone": ("Values over the cap", _monotone),
}


def _lost(results):
    """What did not go well, found by the program."""
    lines = []
    for section in ("solve", "hard"):
        for threads, row in _solves(results, section):
            if row["system"].startswith("ours") and not _certified(row):
                why = row.get("error")
                why = why or f"{row['status']}, residual {row['grade']['residual']:.1e}"
                lines.append(
                    f"{row['case']}, k = {_cap(row['k'])}, γ = {row['gamma']:g}, {row['system']}, "
                    f"{threads} thread(s): not certified, {why}"
                )
    for threads, row in _solves(results):
        if row["system"] != "POT" or not _certified(row):
            continue
        ours = _find(results, "ours", row["case"], row["k"], threads)
        if ours and ours["seconds"]["median"] > row["seconds"]["median"]:
            lines.append(f"{row['case']}, k = {_cap(row['k'])}: POT is faster")
    for run in _runs(results, "plain"):
        for row in run["answer"]:
            times = {n: s["seconds"] for n, s in row["systems"].items() if "seconds" in s}
            for name, time in times.items():
                if name != "ours" and "ours" in times and time < times["ours"]:
                    ratio = times["ours"] / time
                    lines.append(f"plain transport, {row['case']}: {name} is {ratio:.2g} × as fast")
    for run in _runs(results, "rounding"):
        lines += [
            f"{row['case']}, k = {_cap(row['k'])}, γ = {row['gamma']:g}: no sparse plan found "
            f"({row['qp'].get('plan_status') or row['qp'].get('error')})"
            for row in run["answer"]
            if row["qp"].get("plan_status") not in ("optimal", "feasible")
        ]
    for run in _runs(results, "router"):
        times = {n: f["seconds"]["median"] for n, f in run["answer"].items()}
        plain = times.get("NumPy top-1, capacity drop")
        for name, time in times.items():
            if plain and time > plain:
                lines.append(
                    f"{name}, {run['job']['threads']} thread(s): {time / plain:.2g} × the time of "
                    "the NumPy top-1 router, which does less"
                )
    return lines


def failures(results):
    """Jobs and systems that ended with an error."""
    found = []
    for run in results["runs"]:
        if "error" in run:
            found.append(f"{run['job']['section']}: {run['error']}")
        for row in run.get("answer") or ():
            if not isinstance(row, dict):
                continue
            cells = [row, *(v for v in row.values() if isinstance(v, dict))]
            cells += row.get("systems", {}).values()
            found += [f"{run['job']['section']}: {c['error']}" for c in cells if "error" in c]
    return found


def markdown(results):
    """Write the report."""
    out = [
        "# Sparse transport: measured",
        "",
        "Written by `benchmarks/transport/run.py` from `results.json`; nothing is edited by hand.",
        "",
        *heading(results),
        "## Targets",
        "",
        *table(("what", "target", "measured", ""), _targets(results)),
        "## Lost and failed",
        "",
    ]
    lines = [*_lost(results), *failures(results)]
    out += [f"- {line}" for line in lines] or ["None."]
    out.append("")
    for section, (title, write) in SECTIONS.items():
        if any(True for _ in _runs(results, section)):
            out += [f"## {title}", "", *write(results)]
    return "\n".join(out).rstrip() + "\n"
