"""What a reproduction reports: rows with bands, tables, figures; as text, JSON and HTML."""

from __future__ import annotations

import datetime
import importlib.util
import json
import math
import shutil
import struct
import subprocess
import textwrap
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lowrank_opt.core.errors import MissingDependencyError, ParameterError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from matplotlib.figure import Figure as MatplotlibFigure
    from numpy.typing import ArrayLike

__all__ = ["Figure", "Image", "Report", "Row", "Section", "Table", "draw", "pictures"]

# What stands in the column "within?", by the value of Row.verdict.
VERDICTS = {
    "within": "within",
    "out": "OUT",
    "unjudged": "–",
    "not reproduced": "not reproduced",
}


# Text, grid and line colours of figures on light and on dark pages. The lines have Okabe and Ito's
# hues, which the colour-blind can tell apart, without black and without yellow on white.
_PAGES = (
    ("#1f2328", "#d8dee4", ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00")),
    ("#e6edf3", "#343b44", ("#56b4e9", "#e69f00", "#2bbf92", "#e59ac6", "#f0e442", "#ff8a4c")),
)


@dataclass
class Row:
    """One number: ours, beside the paper's and a peer's, and the band that it must lie in.

    Parameters
    ----------
    name : str
        What was measured.
    ours : float, str or None
        Our value. ``None`` says that the row could not be reproduced; `note` must then say why.
    paper : float, str or None, default=None
        The paper's value.
    peer : float, str or None, default=None
        Value of another library in the same run; `note` names it.
    band : tuple of two floats, or None, default=None
        Closed interval that `ours` must lie in; an end that is ``None`` is open. Without a band
        the row is reported, not judged.
    unit : str, default=""
        Unit of the three values.
    certificate : float or None, default=None
        The problem's own residual of the point behind the number.
    seconds : float or None, default=None
        Wall time of the computation behind the number.
    note : str, default=""
        Deviations from the paper, and the reason when there is no value.
    source : str, default=""
        Where the paper prints its value: table, figure or page; or what the band follows from.

    Raises
    ------
    ParameterError
        For a row without a value and without a reason, an empty band, or text with a band.
    """

    name: str
    ours: float | str | None
    paper: float | str | None = None
    peer: float | str | None = None
    band: tuple[float | None, float | None] | None = None
    unit: str = ""
    certificate: float | None = None
    seconds: float | None = None
    note: str = ""
    source: str = ""

    def __post_init__(self) -> None:
        for name in ("ours", "paper", "peer", "certificate", "seconds"):
            value = getattr(self, name)
            if value is not None and not isinstance(value, str):
                setattr(self, name, float(value))
        if self.ours is None and not self.note:
            raise ParameterError(
                f"row {self.name!r}: ours=None needs a note that says why it was not reproduced"
            )
        if self.band is not None:
            low, high = (None if end is None else float(end) for end in self.band)
            if isinstance(self.ours, str):
                raise ParameterError(
                    f"row {self.name!r}: the text {self.ours!r} cannot have a band"
                )
            if (low is None and high is None) or (None not in (low, high) and not low <= high):
                raise ParameterError(f"row {self.name!r}: band={self.band!r} holds no values")
            self.band = (low, high)

    @property
    def verdict(self) -> str:
        """``"within"``, ``"out"``, ``"unjudged"`` (no band) or ``"not reproduced"``."""
        if self.ours is None:
            return "not reproduced"
        if self.band is None:
            return "unjudged"
        low, high = self.band
        above = low is None or self.ours >= low
        below = high is None or self.ours <= high
        return "within" if above and below else "out"


@dataclass
class Table:
    """Free-form table beside the judged rows, for instance all solvers against all measures.

    Parameters
    ----------
    columns : sequence of str
        Headings.
    rows : sequence of sequences
        Cells: numbers, text or ``None``.
    caption : str, default=""
        What the table shows.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    caption: str = ""

    def __post_init__(self) -> None:
        self.columns = list(self.columns)
        self.rows = [[_plain(cell) for cell in row] for row in self.rows]
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ParameterError(f"a row has {len(row)} cells for {len(self.columns)} columns")


@dataclass
class Image:
    """A picture in a file format that browsers show.

    Parameters
    ----------
    data : bytes
        The file.
    mime : {"image/png", "image/svg+xml", "image/jpeg"}, default="image/png"
        Its format.
    label : str, default=""
        Text below this picture.
    dark : bytes or None, default=None
        The same picture for dark pages, in the same format.
    """

    data: bytes
    mime: str = "image/png"
    label: str = ""
    dark: bytes | None = None


@dataclass
class Figure:
    """Pictures side by side under one caption.

    Parameters
    ----------
    images : list of Image
        The pictures.
    caption : str
        What the reader sees in them.
    """

    images: list[Image]
    caption: str


@dataclass
class Section:
    """Everything that one experiment reports.

    Parameters
    ----------
    title : str
        Heading.
    text : str, default=""
        What was done and what it shows; blank lines separate paragraphs.
    rows : list of Row
        Judged and reported numbers.
    tables : list of Table
        Further tables.
    figures : list of Figure
        Figures.
    reference : str, default=""
        The paper: authors, title, venue, year.
    name : str, default=""
        Name of the reproduction; filled in by :func:`lowrank_opt.papers.reproduce`.
    seconds : float or None, default=None
        Wall time; filled in likewise.
    error : str or None, default=None
        Traceback, when the experiment raised.
    """

    title: str
    text: str = ""
    rows: list[Row] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)
    reference: str = ""
    name: str = ""
    seconds: float | None = None
    error: str | None = None

    @property
    def ok(self) -> bool:
        """Whether the experiment ran and no row is out of its band."""
        return self.error is None and all(row.verdict != "out" for row in self.rows)


@dataclass
class Report:
    """Sections, and under which circumstances they came about.

    Parameters
    ----------
    sections : list of Section
        In the order in which they ran.
    scale : str
        Size of the experiments.
    random_state : int
        Seed that every experiment was given.
    seconds : float
        Wall time of all.
    title : str, default="Reproductions"
        Heading.
    environment : mapping
        See :func:`lowrank_opt.show_versions`; the default asks it.
    commit : str
        Commit of the checkout that the package runs from, ``""`` outside a checkout.
    created : str
        Time, UTC.
    notes : list of str
        What the reader must know, for instance that figures are missing.
    """

    sections: list[Section]
    scale: str
    random_state: int
    seconds: float
    title: str = "Reproductions"
    environment: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: _environment())
    commit: str = field(default_factory=lambda: _commit())
    created: str = field(default_factory=lambda: _now())
    notes: list[str] = field(default_factory=lambda: _notes())

    @property
    def ok(self) -> bool:
        """Whether every experiment ran and no row is out of its band."""
        return all(section.ok for section in self.sections)

    @property
    def counts(self) -> dict[str, int]:
        """Number of rows by verdict, and of experiments that raised (``"failed"``)."""
        counts = dict.fromkeys(VERDICTS, 0)
        for section in self.sections:
            for row in section.rows:
                counts[row.verdict] += 1
        counts["failed"] = sum(section.error is not None for section in self.sections)
        return counts

    @property
    def summary(self) -> str:
        """The counts as a sentence."""
        counts = self.counts
        judged = counts["within"] + counts["out"]
        parts = [f"{counts['within']} of {judged} judged rows within their bands"]
        if counts["out"]:
            parts.append(f"{counts['out']} OUT")
        if counts["unjudged"]:
            parts.append(f"{counts['unjudged']} reported without a band")
        if counts["not reproduced"]:
            parts.append(f"{counts['not reproduced']} not reproduced")
        if counts["failed"]:
            parts.append(f"{counts['failed']} FAILED to run")
        return ", ".join(parts)

    def to_json(self) -> str:
        """Return the report as JSON, without the pictures.

        Numbers that JSON lacks are the strings ``"nan"``, ``"inf"`` and ``"-inf"``.
        """
        sections = []
        for section in self.sections:
            rows = [{**vars(row), "verdict": row.verdict} for row in section.rows]
            figures = [
                {"caption": figure.caption, "images": [image.label for image in figure.images]}
                for figure in section.figures
            ]
            tables = [vars(table) for table in section.tables]
            sections.append(
                {
                    **vars(section),
                    "ok": section.ok,
                    "rows": rows,
                    "tables": tables,
                    "figures": figures,
                }
            )
        content = {
            "format": 1,
            "title": self.title,
            "ok": self.ok,
            "summary": self.summary,
            "counts": self.counts,
            "scale": self.scale,
            "random_state": self.random_state,
            "seconds": self.seconds,
            "created": self.created,
            "commit": self.commit,
            "notes": self.notes,
            "environment": {title: dict(part) for title, part in self.environment.items()},
            "sections": sections,
        }
        return json.dumps(_jsonable(content), indent=1, ensure_ascii=False, allow_nan=False) + "\n"

    def to_html(self) -> str:
        """Return the report as one HTML page that needs no other file."""
        from lowrank_opt.papers._html import render

        return render(self)

    def to_terminal(self, width: int = 100) -> str:
        """Return the rows as text.

        Parameters
        ----------
        width : int, default=100
            Number of columns that notes are wrapped to.
        """
        lines: list[str] = []
        for section in self.sections:
            seconds = "" if section.seconds is None else f"  ({format_seconds(section.seconds)})"
            lines += ["", f"{section.title}{seconds}"]
            if section.error is not None:
                lines.append("  FAILED: " + section.error.strip().splitlines()[-1])
            if section.rows:
                cells = [
                    (
                        row.name,
                        format_value(row.ours, row.unit),
                        format_value(row.paper, row.unit),
                        format_value(row.peer, row.unit),
                        format_band(row),
                        VERDICTS[row.verdict],
                    )
                    for row in section.rows
                ]
                lines += _columns([("", "ours", "paper", "peer", "band", "within?"), *cells])
                for row in section.rows:
                    if row.verdict in ("out", "not reproduced") and row.note:
                        lines += textwrap.wrap(
                            f"{row.name}: {row.note}",
                            width,
                            initial_indent="  ! ",
                            subsequent_indent="    ",
                        )
            for table in section.tables:
                lines += ["", "  " + table.caption] if table.caption else [""]
                body = [[format_cell(cell) for cell in row] for row in table.rows]
                lines += _columns([table.columns, *body])
        lines += ["", f"{self.summary}; scale {self.scale}, {format_seconds(self.seconds)}"]
        lines += [f"note: {note}" for note in self.notes]
        return "\n".join(lines).lstrip("\n") + "\n"

    def write(self, folder: str | Path, stem: str = "report") -> tuple[Path, Path]:
        """Write ``stem.html`` and ``stem.json``.

        Parameters
        ----------
        folder : path-like
            Made when it is missing.
        stem : str, default="report"
            Name of the files without the extension.

        Returns
        -------
        tuple of two Path
            The HTML and the JSON file.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        paths = folder / f"{stem}.html", folder / f"{stem}.json"
        for path, text in zip(paths, (self.to_html(), self.to_json()), strict=True):
            path.write_text(text, encoding="utf-8")
        return paths


def pictures(arrays: Mapping[str, ArrayLike], caption: str) -> Figure:
    """Show arrays as pictures side by side; needs no matplotlib.

    Parameters
    ----------
    arrays : mapping of str to array of shape (height, width) or (height, width, 3)
        Pictures by label. Integer arrays hold 0 to 255, others 0 to 1; values outside are cut,
        and NaN is shown black.
    caption : str
        Text below all.

    Returns
    -------
    Figure
        The pictures as PNG.
    """
    return Figure([Image(_png(a), label=label) for label, a in arrays.items()], caption)


def draw(
    plot: Callable[[MatplotlibFigure], None], caption: str, *, size: tuple[float, float] = (7, 3.4)
) -> list[Figure]:
    """Draw a matplotlib figure for light and for dark pages.

    Parameters
    ----------
    plot : callable
        Called with an empty ``matplotlib.figure.Figure``; draws into ``figure.subplots()``. It is
        called once for each background, so it must not draw random numbers.
    caption : str
        Text below the figure.
    size : tuple of two floats, default=(7, 3.4)
        Width and height, inches.

    Returns
    -------
    list of Figure
        One figure, or none when matplotlib is not installed; the report then says so.
    """
    if importlib.util.find_spec("matplotlib") is None:
        return []
    import io

    import matplotlib
    from matplotlib.figure import Figure as MatplotlibFigure

    files = []
    for text, grid, colors in _PAGES:
        style = {
            "font.size": 10,
            "text.color": text,
            "axes.labelcolor": text,
            "axes.edgecolor": text,
            "axes.facecolor": "none",
            "axes.grid": True,
            "axes.axisbelow": True,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.prop_cycle": matplotlib.cycler(color=colors),
            "grid.color": grid,
            "xtick.color": text,
            "ytick.color": text,
            "legend.frameon": False,
            "legend.labelcolor": text,
            "lines.linewidth": 1.8,
            # the same drawing gives the same file
            "svg.hashsalt": "lowrank_opt",
        }
        with matplotlib.rc_context(style):
            figure = MatplotlibFigure(figsize=size, layout="constrained")
            plot(figure)
            file = io.BytesIO()
            figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
        files.append(file.getvalue())
    return [Figure([Image(files[0], mime="image/svg+xml", dark=files[1])], caption)]


def format_value(value: float | str | None, unit: str = "") -> str:
    """Format a number for a reader: four significant digits, and its unit."""
    if value is None:
        return ""
    if not isinstance(value, str):
        value = f"{value:.0f}" if float(value).is_integer() and abs(value) < 1e6 else f"{value:.4g}"
    return f"{value} {unit}" if unit else value


def format_cell(value: float | str | None) -> str:
    """Format a cell of a table: as :func:`format_value`, a dash where there is nothing."""
    return "–" if value is None else format_value(value)


def format_seconds(seconds: float | None) -> str:
    """Format a time for a reader."""
    if seconds is None:
        return ""
    if seconds < 1e-3:
        return f"{seconds * 1e6:.0f} µs"
    if seconds < 1:
        return f"{seconds * 1e3:.3g} ms"
    if seconds < 120:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.3g} min"


def format_band(row: Row) -> str:
    """Format the band of a row as an interval or an inequality."""
    if row.band is None:
        return ""
    low, high = row.band
    if low is None:
        return f"≤ {format_value(high)}"
    if high is None:
        return f"≥ {format_value(low)}"
    return f"{format_value(low)} … {format_value(high)}"


def _columns(cells: Sequence[Sequence[str]]) -> list[str]:
    """Align text; columns without entries below their heading are left out."""
    columns = [
        column for column in zip(*cells, strict=True) if any(column[1:]) or column[0] == "within?"
    ]
    widths = [max(map(len, column)) for column in columns]
    return [
        "  "
        + "  ".join(
            text.ljust(width) if j == 0 else text.rjust(width)
            for j, (text, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in zip(*columns, strict=True)
    ]


def _plain(value: Any) -> Any:
    """Python's own numbers in place of NumPy's."""
    return value.item() if hasattr(value, "item") else value


def _jsonable(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _jsonable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_jsonable(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def _png(array: ArrayLike) -> bytes:
    import numpy as np

    a = np.asarray(array)
    if a.ndim not in (2, 3) or (a.ndim == 3 and a.shape[2] != 3) or a.size == 0:
        raise ParameterError(
            f"a picture has shape {a.shape}; expected (height, width) or (height, width, 3)"
        )
    if not np.issubdtype(a.dtype, np.integer):
        a = np.rint(np.nan_to_num(a.astype(np.float64), posinf=1.0) * 255)
    a = np.clip(a, 0, 255).astype(np.uint8)

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    height, width = a.shape[:2]
    colour = 0 if a.ndim == 2 else 2
    # Filter 2 (difference to the row above) is what halves the size of photographs.
    above = np.zeros_like(a)
    above[1:] = a[:-1]
    lines = (a - above).reshape(height, -1)
    filtered = np.concatenate([np.full((height, 1), 2, dtype=np.uint8), lines], axis=1)
    return b"".join(
        (
            b"\x89PNG\r\n\x1a\n",
            chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0)),
            chunk(b"IDAT", zlib.compress(filtered.tobytes(), 9)),
            chunk(b"IEND", b""),
        )
    )


def _environment() -> dict[str, dict[str, Any]]:
    from lowrank_opt.core.environment import show_versions

    return {title: dict(values) for title, values in show_versions().items()}


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")


def _commit() -> str:
    root = Path(__file__).resolve().parents[2]
    git = shutil.which("git")
    if git is None or not (root / ".git").exists():
        return ""

    def ask(*words: str) -> str:
        answer = subprocess.run(
            [git, "-C", str(root), *words], capture_output=True, text=True, timeout=20, check=False
        )
        return answer.stdout.strip() if answer.returncode == 0 else ""

    commit = ask("rev-parse", "--short=12", "HEAD")
    changed = commit and ask("status", "--porcelain", "--untracked-files=no")
    return f"{commit} with uncommitted changes" if changed else commit


def _notes() -> list[str]:
    if importlib.util.find_spec("matplotlib") is None:
        missing = MissingDependencyError("matplotlib", "plot", "Drawing the figures")
        return [f"Figures are missing. {missing}"]
    return []
