"""The report as one HTML page: style, pictures and data are inside it."""

from __future__ import annotations

import base64
import html
import math
from typing import TYPE_CHECKING

from lowrank_opt.papers import report as r

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_STYLE = """
:root { color-scheme: light dark;
  --page: #f6f7f9; --card: #fff; --text: #1f2328; --soft: #59636e; --line: #d8dee4;
  --good: #1a7f37; --bad: #c62828; --none: #7a5d00; --accent: #0969da;
  --good-bg: #dafbe1; --bad-bg: #ffe3e0; --none-bg: #fff3c4; --soft-bg: #eceff2; }
@media (prefers-color-scheme: dark) { :root {
  --page: #0d1117; --card: #161b22; --text: #e6edf3; --soft: #9aa4af; --line: #30363d;
  --good: #56d364; --bad: #ff8379; --none: #e3b341; --accent: #58a6ff;
  --good-bg: #12341d; --bad-bg: #4a1a1a; --none-bg: #3a2d05; --soft-bg: #21262d; } }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0; background: var(--page); color: var(--text);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
main { max-width: 70rem; margin: 0 auto; padding: 2rem 1.25rem 4rem; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .4rem; }
h2 { font-size: 1.3rem; line-height: 1.3; margin: 0; }
p { margin: .6rem 0; max-width: 46rem; }
.soft { color: var(--soft); font-size: .9rem; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 10px;
  padding: 1.25rem; margin: 1.25rem 0; }
.head { display: flex; flex-wrap: wrap; gap: .4rem .8rem; align-items: baseline; }
.badge { display: inline-block; padding: .05rem .55rem; border-radius: 1rem; font-size: .82rem;
  font-weight: 600; white-space: nowrap; background: var(--soft-bg); color: var(--soft); }
.within { background: var(--good-bg); color: var(--good); }
.out { background: var(--bad-bg); color: var(--bad); }
.missing { background: var(--none-bg); color: var(--none); }
nav { display: flex; flex-wrap: wrap; gap: .5rem; margin: 1rem 0 0; padding: 0; }
nav a { border: 1px solid var(--line); border-radius: 8px; padding: .3rem .7rem; color: var(--text);
  background: var(--card); text-decoration: none; font-size: .92rem; }
nav a:hover { border-color: var(--accent); }
.scroll { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; width: 100%; font-size: .92rem;
  font-variant-numeric: tabular-nums; }
caption { text-align: left; color: var(--soft); padding-bottom: .4rem; }
th { text-align: left; font-weight: 600; color: var(--soft); border-bottom: 1px solid var(--line);
  padding: .35rem .7rem; white-space: nowrap; }
td { padding: .45rem .7rem; border-bottom: 1px solid var(--line); vertical-align: top; }
tr:last-child td { border-bottom: 0; }
.number { text-align: right; white-space: nowrap; }
td.ours { font-weight: 650; }
.note { display: block; color: var(--soft); font-size: .85rem; max-width: 34rem;
  white-space: normal; }
.gauge { display: block; margin: .25rem 0 0 auto; }
figure { margin: 1.4rem 0 .5rem; }
.images { display: grid; gap: .8rem;
  grid-template-columns: repeat(auto-fit, minmax(min(14rem, 45%), 1fr)); }
.images.one { display: block; }
.images img { width: 100%; height: auto; display: block; border-radius: 6px; }
.images.one img { max-width: 46rem; }
.images span { display: block; text-align: center; font-size: .88rem; padding-top: .25rem; }
figcaption { color: var(--soft); font-size: .9rem; margin-top: .5rem; max-width: 46rem; }
pre { overflow-x: auto; background: var(--soft-bg); border-radius: 8px; padding: .8rem;
  font: .82rem/1.45 ui-monospace, Menlo, Consolas, monospace; }
summary { cursor: pointer; font-weight: 600; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1rem; margin: .6rem 0;
  font-size: .9rem; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
@media (max-width: 44rem) {
  main { padding: 1.25rem .8rem 3rem; } .card { padding: 1rem .9rem; }
  table.rows, table.rows tbody, table.rows tr, table.rows td { display: block; width: 100%; }
  table.rows thead { display: none; }
  table.rows tr { padding: .6rem 0; border-bottom: 1px solid var(--line); }
  table.rows tr:last-child { border-bottom: 0; }
  table.rows td { border: 0; padding: .12rem 0; }
  table.rows td[data-label] { display: flex; justify-content: space-between; gap: 1rem;
    text-align: right; }
  table.rows td[data-label]::before { content: attr(data-label); color: var(--soft); }
  table.rows td.empty { display: none; }
  dl { grid-template-columns: 1fr; } dd { margin-bottom: .3rem; }
}
"""

_BADGES = {
    "within": ("within", "within"),
    "out": ("out", "out of band"),
    "unjudged": ("", "reported"),
    "not reproduced": ("missing", "not reproduced"),
}


def render(report: r.Report) -> str:
    """Return the whole page."""
    e = html.escape
    verdict = ("within", "all in band") if report.ok else ("out", "not all in band")
    circumstances = [
        f"scale {report.scale}",
        f"seed {report.random_state}",
        r.format_seconds(report.seconds),
        report.created,
        f"commit {report.commit}" if report.commit else "",
    ]
    machine = [str(report.environment.get("system", {}).get("processor", "")), _threads(report)]
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{e(report.title)}</title><style>{_STYLE}</style></head><body><main>",
        f"<header><h1>{e(report.title)}</h1>",
        f'<p><span class="badge {verdict[0]}">{verdict[1]}</span> {e(report.summary)}.</p>',
        f'<p class="soft">{e(_join(circumstances))}<br>{e(_join(machine))}</p>',
        *(f'<p class="soft">{e(note)}</p>' for note in report.notes),
        "<nav>",
        *(
            f'<a href="#section-{i}">{e(section.title)} {_section_badge(section)}</a>'
            for i, section in enumerate(report.sections)
        ),
        "</nav></header>",
        *(_section(section, i) for i, section in enumerate(report.sections)),
        _environment(report),
        "</main></body></html>",
    ]
    return "\n".join(parts) + "\n"


def _section(section: r.Section, index: int) -> str:
    e = html.escape
    parts = [
        f'<section class="card" id="section-{index}"><div class="head"><h2>{e(section.title)}</h2>',
        _section_badge(section),
    ]
    if section.seconds is not None:
        parts.append(f'<span class="soft">{r.format_seconds(section.seconds)}</span>')
    parts.append("</div>")
    if section.reference:
        parts.append(f'<p class="soft">{e(section.reference)}</p>')
    parts += [f"<p>{e(part.strip())}</p>" for part in section.text.split("\n\n") if part.strip()]
    if section.error is not None:
        parts.append(
            f"<p>The experiment stopped with an error: "
            f"<strong>{e(section.error.strip().splitlines()[-1])}</strong></p>"
            f"<details><summary>Traceback</summary><pre>{e(section.error)}</pre></details>"
        )
    if section.rows:
        parts.append(_rows(section.rows))
    parts += [_figure(figure) for figure in section.figures]
    parts += [_table(table) for table in section.tables]
    return "\n".join([*parts, "</section>"])


def _rows(rows: Sequence[r.Row]) -> str:
    e = html.escape
    optional = {
        "paper": any(row.paper is not None for row in rows),
        "peer": any(row.peer is not None for row in rows),
        "band": any(row.band is not None for row in rows),
        "certificate": any(row.certificate is not None for row in rows),
        "time": any(row.seconds is not None for row in rows),
    }
    columns = ["ours", *(name for name, used in optional.items() if used)]
    heads = "".join(f'<th class="number">{name}</th>' for name in columns)
    lines = [
        f'<div class="scroll"><table class="rows"><thead><tr><th></th>{heads}'
        "<th>within?</th></tr></thead><tbody>"
    ]
    for row in rows:
        cells = {
            "ours": e(r.format_value(row.ours, row.unit)),
            "paper": e(r.format_value(row.paper, row.unit)),
            "peer": e(r.format_value(row.peer, row.unit)),
            "band": e(r.format_band(row)) + _gauge(row),
            "certificate": "" if row.certificate is None else f"{row.certificate:.1e}",
            "time": r.format_seconds(row.seconds),
        }
        notes = "".join(
            f'<span class="note">{e(text)}</span>' for text in (row.source, row.note) if text
        )
        body = "".join(
            f'<td class="number {name}{"" if cells[name] else " empty"}" data-label="{name}">'
            f"<span>{cells[name]}</span></td>"
            for name in columns
        )
        style, text = _BADGES[row.verdict]
        lines.append(
            f"<tr><td>{e(row.name)}{notes}</td>{body}"
            f'<td data-label="within?"><span class="badge {style}">{text}</span></td></tr>'
        )
    return "\n".join([*lines, "</tbody></table></div>"])


def _gauge(row: r.Row) -> str:
    """Draw a closed band as a bar, our value as a dot, the paper's as a tick."""
    if row.band is None or None in row.band or not isinstance(row.ours, float):
        return ""
    low, high = row.band
    if not (math.isfinite(row.ours) and math.isfinite(low) and math.isfinite(high)) or low == high:
        return ""

    def position(value: float) -> float:
        return 4 + 92 * min(max((value - low) / (high - low) * 0.7 + 0.15, 0.0), 1.0)

    colour = "var(--good)" if row.verdict == "within" else "var(--bad)"
    tick = ""
    if isinstance(row.paper, float) and math.isfinite(row.paper):
        x = position(row.paper)
        tick = f'<path d="M{x:.1f} 1V13" stroke="var(--soft)" stroke-width="2"/>'
    a, b = position(low), position(high)
    return (
        '<svg class="gauge" width="100" height="14" aria-hidden="true">'
        f'<rect x="{a:.1f}" y="5" width="{b - a:.1f}" height="4" rx="2" fill="var(--line)"/>{tick}'
        f'<circle cx="{position(row.ours):.1f}" cy="7" r="4" fill="{colour}"/></svg>'
    )


def _table(table: r.Table) -> str:
    e = html.escape
    numeric = [
        all(row[j] is None or isinstance(row[j], (int, float)) for row in table.rows)
        for j in range(len(table.columns))
    ]

    def cells(tag: str, values: Iterable[str]) -> str:
        return "".join(
            f'<{tag} class="number">{e(v)}</{tag}>' if n else f"<{tag}>{e(v)}</{tag}>"
            for v, n in zip(values, numeric, strict=True)
        )

    body = "\n".join(
        f"<tr>{cells('td', (r.format_cell(cell) for cell in row))}</tr>" for row in table.rows
    )
    caption = f"<caption>{e(table.caption)}</caption>" if table.caption else ""
    return (
        f'<div class="scroll"><table>{caption}<thead><tr>{cells("th", table.columns)}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _figure(figure: r.Figure) -> str:
    e = html.escape
    images = []
    for image in figure.images:
        alt = image.label or figure.caption
        picture = f'<img src="{_uri(image.data, image.mime)}" alt="{e(alt)}">'
        if image.dark is not None:
            dark = _uri(image.dark, image.mime)
            source = f'<source media="(prefers-color-scheme: dark)" srcset="{dark}">'
            picture = f"<picture>{source}{picture}</picture>"
        label = f"<span>{e(image.label)}</span>" if image.label else ""
        images.append(f"<div>{picture}{label}</div>")
    one = " one" if len(images) == 1 else ""
    return (
        f'<figure><div class="images{one}">{"".join(images)}</div>'
        f"<figcaption>{e(figure.caption)}</figcaption></figure>"
    )


def _environment(report: r.Report) -> str:
    e = html.escape
    parts = ['<details class="card"><summary>Machine and versions</summary>']
    for title, values in report.environment.items():
        entries = "".join(f"<dt>{e(name)}</dt><dd>{e(str(v))}</dd>" for name, v in values.items())
        parts.append(f'<p class="soft">{e(title)}</p><dl>{entries}</dl>')
    return "".join([*parts, "</details>"])


def _section_badge(section: r.Section) -> str:
    if section.error is not None:
        return '<span class="badge out">failed</span>'
    verdicts = [row.verdict for row in section.rows]
    if "out" in verdicts:
        return f'<span class="badge out">{verdicts.count("out")} out of band</span>'
    n_judged = verdicts.count("within")
    return f'<span class="badge within">{n_judged} within</span>' if n_judged else ""


def _threads(report: r.Report) -> str:
    threads = report.environment.get("threads", {})
    return ", ".join(f"{name} {value}" for name, value in threads.items())


def _join(parts: Iterable[str]) -> str:
    return " · ".join(part for part in parts if part)


def _uri(data: bytes, mime: str) -> str:
    return f"data:{mime};base64,{base64.b64encode(data).decode('ascii')}"
