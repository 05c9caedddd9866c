"""RESULTS.md from results.json: tables, targets with verdicts, lost cases."""

from __future__ import annotations

from harness import heading, seconds, table, verdict

__all__ = ["SECTIONS", "failures", "markdown"]

OURS = "ours"
# Gap in the squared bound that counts as an answer; ours may miss its tolerance by rounding.
GAP = 1e-6 * (1 + 1e-3)
CLARABEL = "cvxpy + Clarabel"
# How many times faster than cvxpy + Clarabel, by case.
SPEED = {
    "digits 64-32-10": 100, "digits 64-32-32-10": 100, "digits 784-50-10": 100,
    "uniform 2-10-30-20-2": 50,
}  # fmt: skip
# At most that many seconds, by section and case.
TIMES = {
    "gauss 4-200-200-200-200-200-1": 15, "gauss 64-200-200-200-200-200-10": 15,
    "gauss 4-500-500-1": 15, "gauss 784-500-500-10": 15, "gauss 30x100": 20, "gauss 64x64": 60,
    "maxmin 18x128 l2": 60, "maxmin 18x128 linf": 60, "published 18x128 l2": 60,
    "published 18x128 linf": 60,
}  # fmt: skip
# Pauli et al., ICLR 2024, table 1: 18 layers of 128 neurons.
PUBLISHED = {"published 18x128 l2": 24271.0, "published 18x128 linf": 1.97e5}
# Certified values of an independent prototype, lower and upper.
REFERENCE = {
    "gauss 2x10, seed 0": (1.12016614, 1.12016622),
    "gauss 10x40, seed 0": (16.3751645, 16.3751675),
    "gauss 5x40, seed 0": (4.47370878, 4.47370929),
    "gauss 20x20, seed 0": (97.7379776, 97.7379867),
    "gauss 30x10, seed 0": (309.81788, 309.817894),
    "gauss 30x20, seed 0": (886.26822, 886.268246),
    "gauss 10x100, seed 0": (22.4477093, 22.4477102),
    "gauss 30x60, seed 0": (6422.30688, 6422.30715),
}


def _runs(results, section):
    """Finished runs of a section."""
    for run in results["runs"]:
        if run["job"]["section"] == section and "answer" in run:
            yield run


def _groups(results, section):
    """``{(case, threads): {system: row}}``."""
    found: dict = {}
    for run in _runs(results, section):
        if run["job"]["measure"] != "solve":
            continue
        for row in run["answer"]:
            found.setdefault((row["case"], row["threads"]), {})[row["system"]] = row
    return found


def _lower(rows):
    """What is proved from below about the program's value, by whichever system; None: nothing."""
    return max((r["lower"] for r in rows.values() if r.get("lower")), default=None)


def _gap(row, low):
    """Gap in the squared bound of what a system's multipliers prove."""
    if low is None or not row.get("proved"):
        return None
    return 1.0 - (low / row["proved"]) ** 2


def _certified(row, low):
    gap = _gap(row, low)
    return gap is not None and gap <= GAP


def _peer(rows, low, start):
    """Fastest certified peer whose name begins so: ``(seconds, name)``, or None."""
    return min(
        (
            (r["seconds"]["median"], name)
            for name, r in rows.items()
            if name.startswith(start) and "seconds" in r and _certified(r, low)
        ),
        default=None,
    )


def _targets(results):
    rows = []

    def row(what, goal, measured, text=None, at_most=True, unit=""):
        sign = "≤" if at_most else "≥"
        shown = "–" if measured is None else text or f"{measured:.3g}{unit}"
        rows.append((what, f"{sign} {goal:g}{unit}", shown, verdict(measured, goal, at_most)))

    for (case, threads), found in _groups(results, "sdp").items():
        low, ours = _lower(found), found.get(OURS)
        if case not in SPEED or not ours or "seconds" not in ours:
            continue
        best = _peer(found, low, CLARABEL)
        ratio = best and best[0] / ours["seconds"]["median"]
        if not _certified(ours, low):
            ratio = None
        where = f"{case}, {threads} thread(s)"
        text = ratio and f"{ratio:.0f}; {best[1]}"
        row(f"{where}: cvxpy + Clarabel / ours", SPEED[case], ratio, text, at_most=False)
        row(f"{where}: certified gap", 1e-6, _gap(ours, low))
        _against_package(row, where, found)
    for (case, threads), found in _groups(results, "eclipse").items():
        _against_package(row, f"{case}, {threads} thread(s)", found)
    grid = [f[OURS] for (c, _), f in _groups(results, "grid").items() if OURS in f]
    if grid:
        done = [r for r in grid if r.get("status") == "CONVERGED" and _certified(r, r["lower"])]
        text = f"{len(done)} of {len(grid)}"
        row("hard grid: converged with gap 1e-6", len(grid), len(done), text, at_most=False)
    for section in ("large", "group_sort"):
        for (case, threads), found in _groups(results, section).items():
            ours = found.get(OURS, {})
            if case in TIMES and "seconds" in ours:
                good = _certified(ours, _lower(found))
                value = ours["seconds"]["median"] if good else None
                row(f"{case}, {threads} thread(s)", TIMES[case], value, unit=" s")
            if case in PUBLISHED and ours.get("claimed"):
                off = abs(ours["claimed"] / PUBLISHED[case] - 1)
                text = f"{off:.1e}: {ours['claimed']:.6g} against {PUBLISHED[case]:.6g}"
                row(f"{case}: relative distance from the published value", 3e-3, off, text)
    for (case, _), found in _groups(results, "eclipse").items():
        fast = found.get("ours, ECLipsE-Fast", {})
        if case == "grid 100x1000" and "seconds" in fast:
            row(f"{case}: ECLipsE-Fast", 20, fast["seconds"]["median"], unit=" s")
    return rows


def _against_package(row, where, found):
    """Ours is never above the package, and takes a fifth of its fastest mode that is as tight."""
    ours = found.get(OURS, {})
    modes = {n: r for n, r in found.items() if n.startswith("eclipse-nn") and r.get("claimed")}
    if not modes or not ours.get("claimed"):
        return
    least = min(r["claimed"] for r in modes.values())
    row(f"{where}: bound of ours / best of eclipse-nn", 1 + 1e-6, ours["claimed"] / least)
    tight = [
        (r["seconds"]["median"], n)
        for n, r in modes.items()
        if r["claimed"] <= ours["claimed"] * (1 + 1e-6)
    ]
    if tight:
        ratio = ours["seconds"]["median"] / min(tight)[0]
        row(f"{where}: ours / eclipse-nn at equal tightness", 0.2, ratio)


def _time(row):
    if row is None:
        return "–"
    if row.get("refused"):
        return "not asked"
    if "skipped" in row:
        return "no file"
    if "error" in row:
        return "failed"
    return seconds(row["seconds"])


def _number(value, form=".8g"):
    return "–" if value is None else f"{value:{form}}"


def _solves(results, section):
    rows = []
    for (case, threads), found in _groups(results, section).items():
        low = _lower(found)
        for name, row in found.items():
            if row.get("refused") or "skipped" in row:
                continue
            gap = _gap(row, low)
            part = (
                f"{row['claimed'] / row['product']:.4g}"
                if row.get("product") and row.get("claimed")
                else "–"
            )
            rows.append(
                (
                    case, threads, name, _time(row), _number(row.get("first"), ".3g"),
                    _number(row.get("claimed")), _number(row.get("proved")),
                    _number(gap, ".1e"), part, row.get("status", "–"), row.get("nit") or "–",
                )
            )  # fmt: skip
    head = (
        "case", "threads", "system", "s", "first call, s", "its bound", "proved", "gap",
        "over product", "status", "iterations",
    )  # fmt: skip
    return table(head, rows)


def _grid(results):
    groups = {c: f for (c, _), f in _groups(results, "grid").items()}
    seeds: dict = {}
    for case, found in groups.items():
        size, _, seed = case.partition(", seed ")
        if OURS in found:
            seeds.setdefault(size, {})[seed] = found[OURS]
    rows = []
    for size, by_seed in seeds.items():
        done = sum(r.get("status") == "CONVERGED" for r in by_seed.values())
        gaps = [g for r in by_seed.values() if (g := _gap(r, r.get("lower"))) is not None]
        times = [r["seconds"]["median"] for r in by_seed.values() if "seconds" in r]
        counts = [r["nit"] for r in by_seed.values() if r.get("nit")]
        first = groups.get(f"{size}, seed 0", {})
        peer = [
            f"{_time(r)} s, {_above(r, _lower(first))}"
            for n, r in first.items()
            if n.startswith(CLARABEL) and "seconds" in r
        ]
        rows.append(
            (
                size.removeprefix("gauss "), f"{done} of {len(by_seed)}",
                _number(max(gaps, default=None), ".1e"),
                "–" if not counts else f"{min(counts)}–{max(counts)}",
                " ".join(f"{t:.3g}" for t in times), "; ".join(peer) or "–",
                _reference(first.get(OURS, {}), f"{size}, seed 0"),
            )
        )  # fmt: skip
    head = (
        "depth x width", "converged", "largest gap", "iterations", "s, by seed",
        "cvxpy + Clarabel, seed 0: one cone; chordal", "seed 0 against the reference",
    )  # fmt: skip
    return [
        "4 inputs, 1 output. What follows the seconds of Clarabel is by how much its own value is "
        "above what is proved from below (it may report an optimum all the same).",
        "",
        *table(head, rows),
    ]


def _above(row, low):
    if row.get("claimed") is None:
        return f"no value ({row.get('status')})"
    return "–" if low is None else f"{row['claimed'] / low - 1:+.1e}"


def _reference(row, case):
    """Whether two brackets of the same number overlap."""
    if case not in REFERENCE or not row.get("claimed") or not row.get("lower"):
        return "–"
    low, high = REFERENCE[case]
    overlap = row["claimed"] >= low and row["lower"] <= high * (1 + 1e-8)
    return "agrees" if overlap else f"**{row['lower']:.9g} to {row['claimed']:.9g}**"


def _memory(results):
    rows = [
        (
            found["case"], found["system"], f"{found['data'] / 2**20:.2f}",
            "not asked" if "grown" not in found else f"{found['grown'] / 2**20:.1f}",
        )
        for run in _runs(results, "memory")
        for found in [run["answer"]]
    ]  # fmt: skip
    return [
        "By how much one call raises the resident memory of a process that holds the weights and "
        "has the libraries loaded.",
        "",
        *table(("case", "system", "MiB of weights", "MiB more"), rows),
    ]


def _cold(results):
    rows = []
    for run in _runs(results, "cold"):
        rows += [
            (r["system"], *(seconds(r[k]) for k in ("import", "first", "second")))
            for r in run["answer"]
            if "error" not in r
        ]
        case = run["job"]["case"]
        return [
            f"{case}. Fresh processes, files in the cache of the system. NumPy is there before the "
            "clock starts.",
            "",
            *table(("system", "import, s", "first call, s", "second call, s"), rows),
        ]
    return []


SECTIONS = {
    "sdp": "Small trained networks and the uniform one",
    "grid": "Hard grid: Gaussian weights",
    "large": "Large networks",
    "group_sort": "MaxMin networks",
    "eclipse": "Random grid of ECLipsE, and its closed form on a wide network",
    "memory": "Memory",
    "cold": "First call of a process",
}
_WRITERS = {"grid": _grid, "memory": _memory, "cold": _cold}


def _lost(results):
    """What did not go well, found by the program."""
    lines = []
    for section in ("sdp", "grid", "large", "group_sort", "eclipse"):
        for (case, threads), found in _groups(results, section).items():
            low, ours = _lower(found), found.get(OURS)
            where = f"{case}, {threads} thread(s)"
            if ours and "seconds" in ours:
                if ours["status"] != "CONVERGED" or not _certified(ours, low):
                    gap = _number(_gap(ours, low), ".1e")
                    lines.append(f"{where}: ours ended with {ours['status']}, gap {gap}")
                if ours.get("proved") and ours["proved"] > ours["claimed"] * (1 + 1e-8):
                    lines.append(
                        f"{where}: ours claims {ours['claimed']:.10g}, its multipliers prove "
                        f"{ours['proved']:.10g} by the benchmark's own recursion"
                    )
                best = _peer(found, low, "cvxpy")
                if best and best[0] < ours["seconds"]["median"]:
                    time = ours["seconds"]["median"]
                    lines.append(
                        f"{where}: {best[1]} is faster, {best[0]:.3g} s, ours {time:.3g} s"
                    )
            for mine, theirs in (("ours, ECLipsE", "eclipse-nn, ECLipsE"),
                                 ("ours, ECLipsE-Fast", "eclipse-nn, Fast")):  # fmt: skip
                a, b = found.get(mine, {}), found.get(theirs, {})
                if not a.get("claimed") or not b.get("claimed"):
                    continue
                if a["claimed"] > b["claimed"] * (1 + 1e-6):
                    lines.append(
                        f"{where}: {theirs} is tighter, {b['claimed']:.7g}, {mine} "
                        f"{a['claimed']:.7g}"
                    )
                if a["seconds"]["median"] > b["seconds"]["median"]:
                    lines.append(
                        f"{where}: {theirs} is faster, {b['seconds']['median']:.3g} s, {mine} "
                        f"{a['seconds']['median']:.3g} s"
                    )
    grown: dict = {}
    for run in _runs(results, "memory"):
        if "grown" in run["answer"]:
            grown.setdefault(run["answer"]["case"], {})[run["answer"]["system"]] = run["answer"]
    for case, found in grown.items():
        peers = {n: r["grown"] for n, r in found.items() if not n.startswith("ours")}
        if OURS in found and peers and found[OURS]["grown"] > min(peers.values()) + 2**20:
            name = min(peers, key=peers.get)
            lines.append(
                f"memory, {case}: {name} takes {peers[name] / 2**20:.1f} MiB, ours "
                f"{found[OURS]['grown'] / 2**20:.1f} MiB"
            )
    for run in _runs(results, "cold"):
        times = {
            r["system"]: r["import"]["median"] + r["first"]["median"]
            for r in run["answer"]
            if "error" not in r
        }
        lines += [
            f"import and first call: {name} takes {time:.2f} s, ours {times[OURS]:.2f} s"
            for name, time in times.items()
            if OURS in times and not name.startswith("ours") and time < times[OURS]
        ]
    return lines


def _peers(results):
    """What peers are not asked, or did not reach."""
    lines: dict = {}
    for section in ("sdp", "grid", "large", "group_sort", "eclipse"):
        for (case, threads), found in _groups(results, section).items():
            low = _lower(found)
            for name, row in found.items():
                if row.get("refused"):
                    lines[f"{name}: {row['refused']} ({case})"] = None
                elif "skipped" in row:
                    lines[f"not run, {row['skipped']}: {case}"] = None
                elif name.startswith("cvxpy") and "seconds" in row and not _certified(row, low):
                    gap = _number(_gap(row, low), ".1e")
                    lines[
                        f"{name}: no gap of 1e-6, but {gap}, status {row['status']} ({case}, "
                        f"{threads} thread(s))"
                    ] = None
                elif row.get("status") == "fell back to Fast":
                    lines[
                        f"{name}: its test of the stages' solutions failed, and it took the closed "
                        f"form ({case})"
                    ] = None
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
                case = f"{row['case']}, " if "case" in row else ""
                found.append(f"{section}: {case}{row['system']}: {row['error']}")
    return found


def markdown(results):
    """Write the report."""
    out = [
        "# Lipschitz bounds: measured",
        "",
        "Written by `benchmarks/lipschitz/run.py` from `results.json`; nothing is edited by hand.",
        "",
        *heading(results),
        "Times are of whole calls, from weights to the answer: building and compiling a model "
        "counts, importing libraries does not. *Its bound* is what a system reports; *proved* is "
        "what its multipliers prove by functions of the benchmark that share no line with a "
        "solver (after mixing in a little of a closed form, which repairs small "
        "violations). *Gap*: 1 minus the squared ratio of the best proved lower bound of the "
        "program's value to *proved*, for all systems the same; an answer has a gap of 1e-6. "
        "Peers get layers divided by their norms and inputs compressed, as ours does inside its "
        "clock. Ours stops by itself, and its time includes the certificate with rounding errors "
        "and the lower bound from samples.",
        "",
        "## Targets",
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
