"""RESULTS.md from results.json: tables, targets with verdicts, lost cases."""

from __future__ import annotations

import statistics

from harness import heading, seconds, table, verdict

__all__ = ["SECTIONS", "failures", "markdown"]

TOL = 1e-6 * (1 + 1e-3)
OURS, SOLVER = "ours", "ours, solver"
# The largest share of the best peer's time, by data set, penalty and ratio; 1 for all others.
SHARES = {
    ("dense 500x5000", "l1", 100): 0.2,
    ("dense 500x5000", "l1", 10): 0.45,
    ("dense 20000x500", "l1", 10): 0.45,
    ("dense 20000x500", "l1", 100): 0.45,
    ("dense 100x10000", "l1", 10): 0.45,
    ("dense 100x10000", "l1", 100): 0.45,
    ("sparse 5000x50000", "l1", 10): 0.4,
    ("sparse 5000x50000", "l1", 50): 0.65,
    ("dense 500x5000", "positive", 100): 0.5,
    ("sparse 5000x50000", "positive", 10): 0.5,
    ("dense 500x5000", "elastic net 0.9", 10): 0.5,
    ("dense 500x5000", "elastic net 0.9", 100): 0.5,
    ("dense 500x5000", "elastic net 0.5", 100): 0.5,
    ("sparse 5000x50000", "elastic net 0.9", 10): 0.5,
    ("sparse 5000x50000", "elastic net 0.5", 50): 0.5,
    ("a9a", "l1", 10): 0.7,
    ("a9a", "l1", 100): 0.7,
    ("sparse labels 20000x100000", "l1", 10): 0.7,
}
PATH_SHARES = {"dense 500x5000": 0.25, "sparse 5000x50000": 0.7}
SOLVES = ("dense", "sparse", "penalties", "wide", "logistic", "groups", "threads")


def _runs(results, section):
    """Finished runs of a section."""
    for run in results["runs"]:
        if run["job"]["section"] == section and "answer" in run:
            yield run


def _name(entry) -> str:
    """The text of a case: a list as in the plan, or the name of a data set."""
    if isinstance(entry, str):
        return entry
    data, penalty, ratio, *rest = entry
    text = f"{data}, {penalty}, lambda_max/{ratio:g}"
    return text if not rest or rest[0] else f"{text}, no intercept"


def _groups(results, section):
    """Yield ``(case, seed, threads, {system: row})`` of all solves or paths."""
    found: dict = {}
    for run in _runs(results, section):
        for row in run["answer"]:
            if "seed" not in row:
                continue
            key = _name(row["case"]), row["seed"], run["job"]["threads"]
            found.setdefault(key, (row["case"], {}))[1][row["system"]] = row
    for (_, seed, threads), (case, rows) in found.items():
        yield case, seed, threads, rows


def _certified(row) -> bool:
    return "seconds" in row and row.get("gap") is not None and row["gap"] <= TOL


def _best(rows, clock="seconds"):
    """Fastest peer with a certified answer: ``(seconds, name)``, or None."""
    return min(
        (
            (row[clock]["median"], name)
            for name, row in rows.items()
            if not name.startswith("ours") and _certified(row)
        ),
        default=None,
    )


def _ratio(rows, system=OURS, clock="seconds"):
    """Time of ours over that of the best peer; None where one of them has no answer."""
    best, ours = _best(rows, clock), rows.get(system)
    if best is None or ours is None or not _certified(ours):
        return None
    return ours[clock]["median"] / best[0]


def _bound(rows, system):
    """At most this is the share, where every peer was stopped: by the shortest of their calls."""
    ours = rows.get(system)
    tried = [
        row["tried"] for row in rows.values() if "tried" in row and "seconds" not in row
    ]  # fmt: skip
    if _best(rows) or not tried or ours is None or not _certified(ours):
        return None
    return ours["seconds"]["median"] / min(tried)


def _shares(results, section, goals):
    """Yield ``(case, threads, goal, ratios of the seeds, names of best peers, bounds)``."""
    cases: dict = {}
    for case, _, threads, rows in _groups(results, section):
        # What has no peer among the estimators is the solver's.
        system = OURS if "seconds" in rows.get(OURS, {}) else SOLVER
        found = cases.setdefault((_name(case), threads), (case, [], set(), []))
        if (ratio := _ratio(rows, system)) is not None:
            found[1].append(ratio)
            found[2].add(_best(rows)[1])
        elif (bound := _bound(rows, system)) is not None:
            found[3].append(bound)
    for (_, threads), (case, ratios, names, bounds) in cases.items():
        key = case if isinstance(case, str) else tuple(case[:3])
        yield _name(case), threads, goals.get(key, 1.0), ratios, names, bounds


def _targets(results):
    rows = []

    def row(what, goal, measured, text=None, unit=""):
        shown = "–" if measured is None else text or f"{measured:.3g}{unit}"
        rows.append((what, f"≤ {goal:g}{unit}", shown, verdict(measured, goal, at_most=True)))

    for section in (*SOLVES, "path"):
        goals = SHARES if section != "path" else PATH_SHARES
        for name, threads, goal, ratios, peers, bounds in _shares(results, section, goals):
            ratio = statistics.median(ratios) if ratios else None
            label = f"path of {name}" if section == "path" else name
            more = f", {threads} threads" if threads > 1 else ""
            spread = ""
            if len(ratios) > 1:
                spread = f" (seeds {min(ratios):.2g}–{max(ratios):.2g})"
            text = ratio and f"{ratio:.2g}{spread}; best peer {', '.join(sorted(peers))}"
            if ratio is None and bounds and max(bounds) <= goal:
                ratio = max(bounds)
                text = f"< {ratio:.2g}: all peers were stopped before they had the gap"
            row(f"{label}{more}: ours / best peer", goal, ratio, text)
    for run in _runs(results, "cold"):
        for found in run["answer"]:
            if "error" in found or not found["system"].startswith("ours"):
                continue
            what, goal = ("solver", 0.6) if found["system"] == SOLVER else ("estimator", 1.0)
            name = f"first fit of a process, {_name(run['job']['case'])}, {what}"
            row(name, goal, found["first"]["median"], unit=" s")
            row(f"second fit, {what}", 12, 1e3 * found["second"]["median"], unit=" ms")
    for run in _runs(results, "forest"):
        per_node = {}
        for found in run["answer"]:
            total = found["select"]["median"] + found["solve"]["median"]
            per_node[found["side"]] = total / found["nodes"]
            if found["side"] == 1000:
                row("forest of a lattice of 1000 × 1000: selection and solution", 2, total,
                    unit=" s")  # fmt: skip
        if len(per_node) > 1:
            *_, before, last = sorted(per_node)
            name = f"forest: time per node, lattice of side {last} over side {before}"
            row(name, 2, per_node[last] / per_node[before])
    return rows


def _milliseconds(row, clock="seconds"):
    if row is None:
        return "–"
    if clock in row:
        scaled = {k: 1e3 * v if k != "n" else v for k, v in row[clock].items()}
        return seconds(scaled) + ("" if _certified(row) else " *")
    if row.get("refused"):
        return "cannot"
    if "error" in row:
        return "failed"
    return f"misses: {row['gap']:.0e}" if row.get("gap") is not None else "misses"


def _systems(results, section):
    names: dict = {}
    for _, _, _, rows in _groups(results, section):
        names.update(dict.fromkeys(rows))
    return list(names)


def _solves(results, section):
    names = _systems(results, section)
    out, rows, details = [], [], {}
    for case, seed, threads, found in _groups(results, section):
        ratios = (_ratio(found), _ratio(found, SOLVER), _ratio(found, OURS, "cpu"))
        count = next((r["nonzero"] for r in found.values() if r.get("nonzero") is not None), None)
        rows.append(
            (
                _name(case), seed, threads, "–" if count is None else count,
                *(_milliseconds(found.get(name)) for name in names),
                *("–" if r is None else f"{r:.2f}" for r in ratios),
            )
        )  # fmt: skip
        for name, row in found.items():
            if row.get("tol") is not None:
                details.setdefault((_name(case), name), []).append(row)
    head = (
        "case", "seed", "threads", "not zero", *(f"{name}, ms" for name in names),
        "ours / best peer", "solver / best peer", "ours / best peer, processor time",
    )  # fmt: skip
    out += table(head, rows)
    out += [
        "Tolerances and settings: the loosest that lead to a gap of 1e-6, the fastest setting.",
        "",
    ]
    head = ("case", "system", "setting", "tolerances of the seeds", "largest gap")
    out += table(
        head,
        [
            (
                case, name,
                ", ".join(f"{k}={v}" for k, v in (found[0].get("setting") or {}).items()) or "–",
                ", ".join(f"{row['tol']:.1e}" for row in found),
                _largest_gap(found),
            )
            for (case, name), found in details.items()
            if name != SOLVER
        ],
    )  # fmt: skip
    return out


def _largest_gap(rows):
    gaps = [row["gap"] for row in rows if row.get("gap") is not None]
    return f"{max(gaps):.1e}" if gaps else "–"


def _cold(results):
    rows = []
    for run in _runs(results, "cold"):
        for found in run["answer"]:
            if "error" in found:
                continue
            rows.append(
                (
                    found["system"], seconds(found["import"]), seconds(found["first"]),
                    seconds(found["cpu"]), f"{1e3 * found['second']['median']:.3g}",
                    f"{found['gap']:.1e}",
                )
            )  # fmt: skip
        return [
            f"{_name(run['job']['case'])}. Fresh processes with warm caches on disk. Imports are "
            "those of the library and of NumPy; reading the data and starting Python do not count.",
            "",
            *table(
                (
                    "system", "import, s", "import and first fit, s", "processor, s",
                    "second fit, ms", "gap",
                ),
                rows,
            ),
        ]  # fmt: skip
    return []


def _forest(results):
    rows = []
    for run in _runs(results, "forest"):
        rows += [
            (
                f"{row['side']} × {row['side']}", f"{row['in_forest'] / row['nodes']:.0%}",
                f"{1e3 * row['select']['median']:.3g}", f"{1e3 * row['solve']['median']:.3g}",
                f"{1e9 * (row['select']['median'] + row['solve']['median']) / row['nodes']:.0f}",
                f"{row['residual']:.0e}", row["edges_over_forest"],
                "–" if row.get("splu") is None else f"{1e3 * row['splu']:.3g}",
            )
            for row in run["answer"]
        ]  # fmt: skip
    head = (
        "lattice", "nodes in the forest", "selection, ms", "solution, ms", "ns a node",
        "relative residual", "edges too many", "SciPy splu of the same block, ms",
    )  # fmt: skip
    return [
        "A Laplacian with a random positive diagonal; greedy by the guaranteed decrease of one "
        "coordinate. *Solution* includes the order of elimination.",
        "",
        *table(head, rows),
    ]


def _memory(results):
    rows = [
        (
            _name(found["case"]), found["system"], f"{found['data'] / 2**20:.0f}",
            f"{found['grown'] / 2**20:.0f}", f"{found['grown'] / found['data']:.2f}",
        )
        for run in _runs(results, "memory")
        for found in [run["answer"]]
    ]  # fmt: skip
    head = ("case", "system", "MiB of X", "MiB more while fitting", "over X")
    return [
        "By how much one fit (tolerance 1e-6 of each system's own measure) raises the resident "
        "memory of a process that holds the data.",
        "",
        *table(head, rows),
    ]


SECTIONS = {
    "dense": "Dense data",
    "sparse": "Sparse data",
    "penalties": "Non-negative coefficients and elastic net",
    "wide": "Thousands of coefficients",
    "logistic": "Logistic regression",
    "groups": "Groups and several targets",
    "path": "Paths of 100 penalties",
    "threads": "Two threads",
    "cold": "First fit of a process",
    "forest": "Forests in lattices",
    "memory": "Memory",
}
_WRITERS = {"cold": _cold, "forest": _forest, "memory": _memory}


def _lost(results):
    """What did not go well, found by the program."""
    lines = []
    for section in (*SOLVES, "path"):
        kind = "path, " if section == "path" else ""
        for case, seed, threads, rows in _groups(results, section):
            where = f"{kind}{_name(case)}, seed {seed}, {threads} thread(s)"
            for name in (OURS, SOLVER):
                row = rows.get(name)
                if row and "seconds" in row and not _certified(row):
                    gap = "no" if row["gap"] is None else f"{row['gap']:.1e}"
                    lines.append(f"{where}: {name} is not certified, gap {gap}")
                ratio = _ratio(rows, name)
                if ratio is not None and ratio > 1:
                    lines.append(
                        f"{where}: {_best(rows)[1]} is faster, {name} takes {ratio:.2f} × its time"
                    )
    for run in _runs(results, "cold"):
        times = {r["system"]: r["first"]["median"] for r in run["answer"] if "error" not in r}
        lines += [
            f"first fit: {peer} is faster than {name}, {time:.2f} s against {times[name]:.2f} s"
            for name in (OURS, SOLVER)
            for peer, time in times.items()
            if name in times and not peer.startswith("ours") and time < times[name]
        ]
    grown: dict = {}
    for run in _runs(results, "memory"):
        found = run["answer"]
        grown.setdefault(_name(found["case"]), {})[found["system"]] = found["grown"]
    for case, found in grown.items():
        peers = {n: g for n, g in found.items() if not n.startswith("ours")}
        if OURS in found and peers and found[OURS] > min(peers.values()) + 2**20:
            name = min(peers, key=peers.get)
            lines.append(
                f"memory, {case}: {name} takes {peers[name] / 2**20:.0f} MiB, ours "
                f"{found[OURS] / 2**20:.0f} MiB"
            )
    return lines


def _peers(results):
    """What peers cannot do, or did not reach."""
    lines: dict = {}
    for section in (*SOLVES, "path"):
        for case, _, _, rows in _groups(results, section):
            for name, row in rows.items():
                what = f"path, {_name(case)}" if section == "path" else _name(case)
                if row.get("refused"):
                    lines[f"{name}: {row['refused']} ({what})"] = None
                elif "tried" in row and "seconds" not in row:
                    gap = "none" if row["gap"] is None else f"{row['gap']:.0e}"
                    lines[
                        f"{name}: no gap of 1e-6 within the limit; smallest {gap}, after "
                        f"{row['tried']:.1f} s ({what})"
                    ] = None
    for run in results["runs"]:
        for row in run.get("answer") or ():
            if isinstance(row, dict) and "skipped" in row:
                lines[f"not run, {row['skipped']}: {_name(row['case'])}"] = None
    return list(lines)


def failures(results):
    """Jobs and systems that ended with an error."""
    found = []
    for run in results["runs"]:
        section = run["job"]["section"]
        if "error" in run:
            found.append(f"{section}: {run['error']}")
        answer = run.get("answer") or ()
        for row in [answer] if isinstance(answer, dict) else answer:
            if "error" in row:
                case = f"{_name(row['case'])}, " if "case" in row else ""
                found.append(f"{section}: {case}{row['system']}: {row['error']}")
    return found


def markdown(results):
    """Write the report."""
    out = [
        "# Sparse linear models: measured",
        "",
        "Written by `benchmarks/block_coordinate/run.py` from `results.json`; nothing is edited by "
        "hand.",
        "",
        *heading(results),
        "All times are of whole calls, with intercept unless it says otherwise, to a relative "
        "duality gap of 1e-6 that one function of the benchmark computes for all (in float64, with "
        "the best multiple of the residual). Systems take turns; medians and quartiles in "
        "milliseconds. Peers get their loosest tolerance, of a grid of half decades, that really "
        "leads to the gap, and their fastest setting; ours stops by itself. *: an answer without "
        "that gap. Peers that took three times as long as the best one on the first seed are left "
        "out on the others (–).",
        "",
        "## Targets",
        "",
        "Medians over the seeds.",
        "",
        *table(("what", "target", "measured", ""), _targets(results)),
        "## Lost and failed",
        "",
    ]
    lines = [*_lost(results), *failures(results)]
    out += [f"- {line}" for line in lines] or ["None."]
    out += ["", "## What peers cannot do", ""]
    out += [f"- {line}" for line in _peers(results)] or ["None in this run."]
    out.append("")
    for section, title in SECTIONS.items():
        if any(True for _ in _runs(results, section)):
            write = _WRITERS.get(section)
            body = write(results) if write else _solves(results, section)
            out += [f"## {title}", "", *body]
    return "\n".join(out).rstrip() + "\n"
