"""RESULTS.md from results.json: tables, targets with verdicts, lost cases."""

from __future__ import annotations

import math

from harness import heading, seconds, table, verdict

__all__ = ["SECTIONS", "failures", "markdown"]

OURS, PLAIN = "ours", "ours, iterations only"
PDLP, PRESOLVED, HIGHS_PDLP = "OR-tools PDLP", "OR-tools PDLP, presolve", "HiGHS PDLP"
SIMPLEX, IPM = "HiGHS simplex", "HiGHS IPM"
OUR_LINPROG, SCIPY = "ours, linprog", "SciPy linprog"
OUR_GAMES = ("ours, game", "ours, game's LP")
# Sections that are one table.
PROGRAMS = ("lp", "large", "direct")
# Kinds of linear programs that the targets are about.
KINDS = ("planted", "transport", "pagerank", "multicommodity")


def _runs(results, section):
    """Finished runs of a section."""
    for run in results["runs"]:
        if run["job"]["section"] == section and "answer" in run:
            yield run


def _rows(results, section):
    return [row for run in _runs(results, section) for row in run["answer"]]


def _groups(results, *sections):
    """``{(case, threads, tol): {system: row}}``; jobs that were ended from outside included."""
    found: dict = {}
    for run in results["runs"]:
        job = run["job"]
        if job["section"] not in sections or job["measure"] not in ("solve", "games"):
            continue
        if "answer" in run:
            rows = run["answer"]
        else:
            rows = [
                {"case": case, "system": system, "threads": job["threads"], "tol": job["tol"],
                 "limit": job["limit"], "error": run["error"]}
                for case in job["cases"] for system in job["systems"]
            ]  # fmt: skip
        for row in rows:
            key = (row["case"], row["threads"], row["tol"])
            found.setdefault(key, {})[row["system"]] = row
    return found


def _good(row):
    return bool(row) and bool(row.get("good"))


def _median(row):
    return row["seconds"]["median"]


def _geometric(values):
    values = list(values)
    return math.exp(sum(map(math.log, values)) / len(values)) if values else None


def _ratio(groups, peer):
    """Geometric mean of our time over the peer's, and on how many; limits stand for no answer.

    A peer without an answer counts with the time after which it stopped, which favours it.
    """
    ratios = []
    for found in groups.values():
        ours, theirs = found.get(OURS), found.get(peer)
        if not ours or not theirs or "skipped" in theirs:
            continue
        time = _median(ours) if _good(ours) else ours["limit"]
        ratios.append(time / (_median(theirs) if "seconds" in theirs else theirs["limit"]))
    return _geometric(ratios), len(ratios)


def _lp_targets(row, results):
    groups = {
        key: found
        for key, found in _groups(results, "lp", "large").items()
        if key[0].split()[0] in KINDS and OURS in found
    }
    if not groups:
        return
    done = sum(_good(found[OURS]) for found in groups.values())
    row(
        "planted, transport, PageRank, multicommodity: solved to 1e-6", len(groups), done,
        f"{done} of {len(groups)}", at_most=False,
    )  # fmt: skip
    for peer, goal in ((PDLP, 0.4), (HIGHS_PDLP, 0.3)):
        ratio, count = _ratio(groups, peer)
        text = ratio and f"{ratio:.3g} on {count}"
        row(f"the same: time of ours / {peer}, geometric mean", goal, ratio, text)


def _limit(results, section):
    """Limits on the seconds of a call, in words."""
    rows = [row for found in _groups(results, section).values() for row in found.values()]
    limits = sorted({row["limit"] for row in rows if "limit" in row})
    return " or ".join(f"{limit:g} s" for limit in limits) or "no limit"


def _netlib_targets(row, results):
    by_tol: dict = {}
    for (case, _, tol), found in _groups(results, "netlib").items():
        by_tol.setdefault(tol, {})[case] = found
    for tol, cases in sorted(by_tol.items(), reverse=True):
        counted = {
            c: f for c, f in cases.items()
            if {OURS, PRESOLVED} <= set(f) and "skipped" not in f[OURS]
        }  # fmt: skip
        if not counted:
            continue
        mine = sum(_good(f[OURS]) for f in counted.values())
        theirs = sum(_good(f[PRESOLVED]) for f in counted.values())
        text = f"{mine} of {len(counted)}, PDLP {theirs}"
        row(
            f"Netlib: solved to {tol:g} in {_limit(results, 'netlib')}",
            theirs,
            mine,
            text,
            at_most=False,
        )
        ratio = _geometric(
            _counted(f[OURS]) / _counted(f[PRESOLVED]) for f in counted.values()
        )  # fmt: skip
        row(f"Netlib, {tol:g}: time of ours / PDLP, geometric mean", 1, ratio)
        if tol <= 1e-6:
            errors = [
                f[OURS]["error"]
                for f in counted.values()
                if _good(f[OURS]) and f[OURS].get("error") is not None
            ]
            row("Netlib: largest error of the objective where 1e-6 is claimed", 1e-5,
                max(errors, default=None))  # fmt: skip
            exact = sum(_good(f[OURS]) and f[OURS]["residual"] <= 1e-9 for f in counted.values())
            row("Netlib: residual at most 1e-9", len(counted) / 2, exact,
                f"{exact} of {len(counted)}", at_most=False)  # fmt: skip


def _counted(row):
    """Seconds; the limit for no answer."""
    return _median(row) if _good(row) else row["limit"]


def _auto_ratios(results):
    return {
        r["case"]: r["times"][OUR_LINPROG] / r["times"][SCIPY]
        for r in _rows(results, "auto")
        if {OUR_LINPROG, SCIPY} <= set(r.get("times", ()))
    }


def _cpu_ratio(row):
    cpu = row.get("cpu", {})
    return cpu[OUR_LINPROG] / cpu[SCIPY] if {OUR_LINPROG, SCIPY} <= set(cpu) else None


def _oracle_ratio(row, group="alternatives"):
    """Calls of the automatic choice over those of the best method; None: nobody got there.

    The calls that measure constants count for the automatic choice.
    """
    best = min((m["calls"] for m in row[group].values() if m["good"]), default=None)
    if not row["auto"]["good"]:
        return None if best is None else math.inf
    return 1.0 if best is None else row["auto"]["calls"] / max(best, 1)


def _targets(results):
    rows = []

    def row(what, goal, measured, text=None, at_most=True, unit=""):
        sign = "≤" if at_most else "≥"
        shown = "–" if measured is None else text or f"{measured:.3g}{unit}"
        rows.append((what, f"{sign} {goal:g}{unit}", shown, verdict(measured, goal, at_most)))

    for r in _rows(results, "kernel"):
        if r.get("best"):
            for what, size in (("24 nnz", "matrix_bytes"), ("24 nnz and vectors", "all_bytes")):
                floor = r[size] / r["bandwidth"]
                row(
                    f"iteration, {r['case']}, {r['threads']} thread(s) / ({what} at the bandwidth "
                    "of a triad)", 1.5, r["best"] / floor,
                )  # fmt: skip
    _lp_targets(row, results)
    for (case, threads, _), found in _groups(results, "transport_large").items():
        ours = found.get(OURS)
        if ours:
            value = _median(ours) if _good(ours) else None
            row(f"{case}, 10^6 variables to 1e-6, {threads} thread(s)", 90, value, unit=" s")
    _netlib_targets(row, results)
    ratios = _auto_ratios(results)
    if ratios:
        worst = max(ratios, key=ratios.get)
        text = f"{ratios[worst]:.3g}, {worst}; geometric mean {_geometric(ratios.values()):.3g}"
        row("Netlib, `linprog`: time of ours / SciPy's, the worst", 1.2, ratios[worst], text)
    for (case, threads, _), found in _groups(results, "games").items():
        gaps = {n: found[n]["gap"] for n in OUR_GAMES if found.get(n, {}).get("gap") is not None}
        if gaps:
            best = min(gaps, key=gaps.get)
            text = f"{gaps[best]:.1e}, {best}"
            row(f"game {case}, {threads} thread(s): relative gap", 1e-6, gaps[best], text)
    for what, mark in (("the suite", False), ("the problems it was calibrated on", True)):
        oracle = [
            r for r in _rows(results, "oracles")
            if _oracle_ratio(r) is not None and r["case"].startswith("calibration") == mark
        ]  # fmt: skip
        if oracle:
            worst = max(oracle, key=_oracle_ratio)
            text = f"{_oracle_ratio(worst):.3g}, {worst['case']}, on {len(oracle)} problems"
            row(
                f"oracle calls of the automatic choice / the best alternative, the worst of {what}",
                1.2, _oracle_ratio(worst), text,
            )  # fmt: skip
    return rows


# -- tables ---------------------------------------------------------------------------------------


def _time(row):
    if "skipped" in row:
        return "no file"
    if "error" in row and "seconds" not in row:
        return "ended" if "still running" in str(row["error"]) else "failed"
    return seconds(row["seconds"])


def _number(value, form=".3g"):
    return "–" if value is None else f"{value:{form}}"


def _solves(results, section):
    rows = []
    sections = PROGRAMS if section == "lp" else (section,)
    for (case, threads, tol), found in _groups(results, *sections).items():
        for name, row in found.items():
            cpu = row["cpu"]["median"] if "cpu" in row else None
            rows.append(
                (
                    case, _number(row.get("nnz"), ".1e"), threads, f"{tol:g}", name, _time(row),
                    _number(cpu), _number(row.get("residual"), ".1e"),
                    _number(row.get("relative"), ".1e"), _error(row),
                    row.get("nit") or "–", row.get("status", "–"), row.get("factor", "–"),
                )
            )  # fmt: skip
    head = (
        "case", "nnz", "threads", "wanted", "system", "s", "CPU s", "residual", "relative norms",
        "objective's error", "iterations", "its status", "tolerance given, times",
    )  # fmt: skip
    return table(head, rows)


def _error(row):
    value = row.get("error")
    return f"{value:.1e}" if isinstance(value, float) else "–"


def _netlib(results):
    groups = _groups(results, "netlib")
    systems = dict.fromkeys((tol, s) for (_, _, tol), f in groups.items() for s in f)
    rows = []
    for tol, name in systems:
        found = [f[name] for (_, _, t), f in groups.items() if t == tol and name in f]
        found = [r for r in found if "skipped" not in r]
        if not found:
            continue
        good = [r for r in found if _good(r)]
        loose = sum((r.get("relative") or math.inf) <= tol for r in found)
        rows.append(
            (
                f"{tol:g}", name, f"{len(good)} of {len(found)}", loose,
                _number(_geometric(_counted(r) for r in found)),
                _number(sum(_counted(r) for r in found)),
                sum(r["residual"] <= 1e-9 for r in good),
                _number(max((r["error"] for r in good if r.get("error") is not None),
                            default=None), ".1e"),
            )
        )  # fmt: skip
    head = (
        "wanted", "system", "solved", "by the relative norms alone", "geometric mean, s",
        "sum, s", "residual at most 1e-9", "largest error of the objective of those solved",
    )  # fmt: skip
    out = [
        f"An LP that is not solved counts with the limit of {_limit(results, 'netlib')}.",
        "",
        *table(head, rows),
    ]
    names = list(dict.fromkeys(s for _, s in systems))
    detail = []
    for (case, _, tol), found in groups.items():
        if tol <= 1e-6:
            cells = []
            for name in names:
                row = found.get(name)
                if row is None:
                    cells.append("–")
                elif _good(row):
                    cells.append(f"{_median(row):.3g}, {row['residual']:.0e}")
                else:
                    at = _number(row.get("residual"), ".0e")
                    cells.append(f"**{_time(row)}**, {at}")
            detail.append((case.removeprefix("netlib "), *cells))
    return [
        *out,
        "Seconds and residuals for 1e-6; bold: not solved.",
        "",
        *table(("LP", *names), detail),
    ]


def _auto(results):
    rows = []
    for r in _rows(results, "auto"):
        if "times" not in r:
            continue
        a, b = r["times"].get(OUR_LINPROG), r["times"].get(SCIPY)
        rows.append(
            (
                r["case"].removeprefix("netlib "), *(_number(v and 1e3 * v) for v in (a, b)),
                _number(a / b if a and b else None), _number(_cpu_ratio(r)), r["turns"],
                *(_number(r["residual"].get(n), ".0e") for n in (OUR_LINPROG, SCIPY)),
            )
        )  # fmt: skip
    head = (
        "LP", "ours, ms", "SciPy, ms", "ratio", "of CPU times", "turns", "residual, ours",
        "residual, SciPy",
    )  # fmt: skip
    return ["The least of many calls that take turns.", "", *table(head, rows)]


def _kernel(results):
    rows = []
    for r in _rows(results, "kernel"):
        floor = r["matrix_bytes"] / r["bandwidth"]
        whole = r["all_bytes"] / r["bandwidth"]
        best = r.get("best")
        rows.append(
            (
                r["case"], f"{r['nnz']:.1e}", r["threads"], _number(best and 1e3 * best),
                f"{1e3 * floor:.3g}", f"{1e3 * whole:.3g}", _number(best and best / floor),
                _number(best and best / whole), f"{r['bandwidth'] / 1e9:.3g}",
                _number(r["peer"] and 1e3 * r["peer"]),
            )
        )  # fmt: skip
    head = (
        "case", "nnz", "threads", "iteration, ms", "24 nnz, ms", "with vectors, ms", "ratio",
        "ratio with vectors", "triad, GB/s", f"{PDLP}: seconds / iterations, ms",
    )  # fmt: skip
    return [
        "From the difference of two runs without presolve and finish, checks included, each the "
        "fastest of several. Columns that provably stay at 0 are left out of iterations, so that a "
        "ratio may be below 1. Triad: arrays of 192 MB together, in the same process. *With "
        "vectors*: 24 nnz + 8 (8 n + 6 m) bytes.",
        "",
        *table(head, rows),
    ]


def _games(results):
    rows = []
    for (case, threads, _), found in _groups(results, "games").items():
        for name, row in found.items():
            more = row.get("more") or {}
            rows.append(
                (
                    case, threads, name, _time(row), _number(row.get("gap"), ".1e"),
                    row.get("nit") or "–", more.get("oracle") or "–", row.get("status", "–"),
                )
            )  # fmt: skip
    head = ("game", "threads", "system", "s", "gap", "iterations", "oracle calls", "its status")
    return [
        "Gap over the range of the matrix, of strategies that were made exact.",
        "",
        *table(head, rows),
    ]


def _oracles(results):
    rows, map_rows = [], []
    for r in _rows(results, "oracles"):
        auto, others = r["auto"], {}
        for group in ("alternatives", "methods"):
            good = {n: m["calls"] for n, m in r[group].items() if m["good"]}
            others[group] = ", ".join(
                f"{n} {c:.4g}" for n, c in sorted(good.items(), key=lambda i: i[1])
            )
        rows.append(
            (
                r["case"], r["n_terms"], r["chosen"],
                f"{auto['calls']:.4g}" + ("" if auto["good"] else f" ({auto['status']})"),
                _number(_oracle_ratio(r)), others["alternatives"] or "–", others["methods"] or "–",
            )
        )  # fmt: skip
        calls = [r["alternatives"].get(n, {}) for n in r["alternatives"]]
        if len(calls) == 2 and all(m.get("good") for m in calls):
            gain = calls[0]["calls"] / calls[1]["calls"]
        else:
            gain = None
        map_rows.append(
            (
                r["case"], r["n_terms"], _number(r["mean_lipschitz"] / r["lipschitz"]),
                _number(r["n_terms"] ** 0.5 * r["lipschitz"] / r["mean_lipschitz"]),
                _number(gain), r["chosen"],
            )
        )  # fmt: skip
    map_rows.sort(key=lambda m: float(m[3]))
    head = (
        "problem", "terms", "chosen", "calls", "over the best alternative",
        "alternatives that got there", "methods with their defaults that got there",
    )  # fmt: skip
    return [
        "Evaluations of single terms until the certificate's residual is reached, measuring of "
        "constants included. Alternatives: the deterministic and the variance-reduced method that "
        "the rule chooses between. Methods with a seed: the median of three. A method is ended "
        "after eight times the calls of the automatic choice.",
        "",
        *table(head, rows),
        "Where sampling pays: L_F is the Lipschitz constant of F, L that of its terms on average "
        "(taken as L_F where the number of terms alone decides).",
        "",
        *table(
            ("problem", "terms", "L / L_F", "√n L_F / L", "gain of sampling, calls", "chosen"),
            map_rows,
        ),
    ]


SECTIONS = {
    "lp": "Large linear programs",
    "transport_large": "Transport with a million variables",
    "kernel": "Cost of an iteration",
    "netlib": "Netlib",
    "auto": "linprog on Netlib",
    "games": "Matrix games",
    "oracles": "Automatic choice among methods for inclusions and games",
    "threads": "Threads",
    "scaled": "Costs and bounds in other units",
}
_WRITERS = {
    "netlib": _netlib, "auto": _auto, "kernel": _kernel, "games": _games, "oracles": _oracles,
}  # fmt: skip


def _lost(results):
    """What did not go well, found by the program."""
    lines = []
    for section in ("lp", "transport_large", "threads", "scaled", "netlib"):
        sections = PROGRAMS if section == "lp" else (section,)
        for (case, threads, tol), found in _groups(results, *sections).items():
            ours = found.get(OURS)
            if not ours or "skipped" in ours:
                continue
            where = f"{case}, {threads} thread(s), {tol:g}"
            if not _good(ours):
                at = _number(ours.get("residual"), ".1e")
                lines.append(f"{where}: ours ended with {ours.get('status')}, residual {at}")
                if ours.get("status") == "CONVERGED":
                    lines[-1] += ", **which it calls converged**"
            error = ours.get("error")
            if _good(ours) and isinstance(error, float) and error > 100 * tol:
                lines.append(f"{where}: the objective of ours is off by {error:.1e}")
            if section == "netlib":
                continue
            time = _counted(ours)
            for name, row in found.items():
                if not name.startswith("ours") and _good(row) and _median(row) < time:
                    lines.append(
                        f"{where}: {name} is faster, {_median(row):.3g} s, ours {time:.3g} s"
                    )
    lines += [
        f"{case}: `linprog` of ours takes {ratio:.3g} times SciPy's time"
        for case, ratio in _auto_ratios(results).items()
        if ratio > 1.2
    ]
    for (case, threads, tol), found in _groups(results, "games").items():
        mine = [
            _median(found[n]) for n in OUR_GAMES
            if found.get(n, {}).get("gap") is not None and found[n]["gap"] <= tol
        ]  # fmt: skip
        for name, row in found.items():
            if name in OUR_GAMES or row.get("gap") is None or row["gap"] > tol:
                continue
            if not mine or _median(row) < min(mine):
                own = f"ours {min(mine):.3g} s" if mine else "ours did not get there"
                lines.append(
                    f"game {case}, {threads} thread(s): {name} is faster, {_median(row):.3g} s, "
                    f"{own}"
                )
    for r in _rows(results, "oracles"):
        ratio = _oracle_ratio(r)
        if ratio is None:
            lines.append(f"{r['case']}: no method reached the residual")
        elif ratio > 1.2:
            lines.append(
                f"{r['case']}: the automatic choice {r['chosen']} needs {ratio:.3g} times the "
                "calls of the best method"
            )
    return lines


def failures(results):
    """Jobs and systems that ended with an error."""
    found = []
    for run in results["runs"]:
        section, job = run["job"]["section"], run["job"]
        if "error" in run:
            what = ", ".join([*job.get("systems", []), *job.get("cases", [])[:1]])
            found.append(f"{section}: {what}: {run['error']}")
        found += [
            f"{section}: {row['case']}, {row['system']}: {row['error']}"
            for row in run.get("answer") or ()
            if isinstance(row.get("error"), str)
        ]
    return found


def markdown(results):
    """Write the report."""
    out = [
        "# Linear programs, games and inclusions: measured",
        "",
        "Written by `benchmarks/monotone/run.py` from `results.json`; nothing is edited by hand.",
        "",
        *heading(results),
        "Times are of whole calls, from the arrays of a program to the point: building a model "
        "counts, and so do presolve and set-up. *Residual* is that of the certificate of "
        "`LinearProgram`, computed for every system from the point and the multipliers that it "
        "returns: the largest of the relative primal and dual residual, of the relative gap "
        "(*relative norms*), and of a hundredth of the largest backward error of a single row or "
        "column. First-order peers are given the wanted tolerance; where the point misses it, a "
        "smaller one, and only that run counts. A peer that is stopped by its limit counts in "
        "ratios with the time at which it stopped.",
        "",
        "## Targets",
        "",
        *table(("what", "target", "measured", ""), _targets(results)),
        "## Lost and failed",
        "",
    ]
    lines = [*_lost(results), *failures(results)]
    out += [f"- {line}" for line in lines] or ["None."]
    out.append("")
    for section, title in SECTIONS.items():
        parts = PROGRAMS if section == "lp" else (section,)
        if any(True for part in parts for _ in _runs(results, part)):
            write = _WRITERS.get(section)
            body = write(results) if write else _solves(results, section)
            out += [f"## {title}", "", *body]
    return "\n".join(out).rstrip() + "\n"
