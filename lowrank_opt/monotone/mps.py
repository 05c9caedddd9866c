"""Linear and quadratic programs in MPS files."""

from __future__ import annotations

import gzip
import math
import os
import warnings
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import scipy.sparse as sp

from lowrank_opt.core.errors import ProblemError
from lowrank_opt.monotone.linear_program import LinearProgram
from lowrank_opt.monotone.quadratic_program import QuadraticProgram

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["read_mps", "write_mps"]

# From here on a bound is none, as for every common solver.
_INFINITE = 1e20
_SECTIONS = (
    "NAME", "OBJSENSE", "OBJSENSEMAX", "OBJNAME", "ROWS", "COLUMNS", "RHS", "RANGES", "BOUNDS",
    "QUADOBJ", "QMATRIX", "QSECTION", "ENDATA",
)  # fmt: skip
_MAXIMISE, _MINIMISE = ("MAX", "MAXIMIZE", "MAXIMISE"), ("MIN", "MINIMIZE", "MINIMISE")
_NEED_VALUE = ("UP", "LO", "FX", "LI", "UI")
_BOUND_TYPES = (*_NEED_VALUE, "FR", "MI", "PL", "BV")


def read_mps(path: str | os.PathLike[str]) -> LinearProgram | QuadraticProgram:
    """Read a linear or quadratic program from an MPS file.

    Parameters
    ----------
    path : str or path-like
        A file in fixed or free MPS format, compressed by gzip or not; both are recognised by what
        is in the file.

    Returns
    -------
    LinearProgram or QuadraticProgram
        The latter if the file has one of the sections QUADOBJ, QSECTION and QMATRIX. Names of
        rows and columns are kept.

    Raises
    ------
    ProblemError
        The file is not a whole MPS file; the message has the number of the line.

    Warns
    -----
    UserWarning
        Integer variables are read as continuous ones; a negative upper bound frees the lower one.

    See Also
    --------
    write_mps : The other direction.

    Notes
    -----
    Where the dialects of MPS differ, this is the reading:

    - The first row of type N is the objective, or the one that OBJNAME asks for; other rows of
      type N are dropped.
    - An entry of RHS in the objective's row is minus the objective's constant.
    - A range R of a row with the right-hand side b: [b, b + abs(R)] for G, [b - abs(R), b] for L;
      for E, [b, b + R] if R >= 0, and [b + R, b] otherwise.
    - Variables are in [0, inf). A negative upper bound (UP, UI) of a variable without a lower
      bound of its own makes that -inf, with a warning; MI leaves the upper bound alone.
    - Integer variables (MARKER, BV, LI, UI) are relaxed, with a warning; one between
      markers without any bound is in [0, 1]. Semi-continuous variables and ordered sets are errors.
    - Of several vectors in RHS, RANGES or BOUNDS the first counts.
    - Values of 1e20 and beyond are infinite in RHS and BOUNDS.
    - The objective has half of x'Qx; QUADOBJ and QSECTION hold one triangle, QMATRIX both.
    - Two values for the same entry are an error, of bounds the last one counts.
    - "OBJSENSE MAX" negates the objective, and sets ``maximize``.

    Examples
    --------
    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> from lowrank_opt.monotone import LinearProgram, read_mps, write_mps
    >>> problem = LinearProgram([1.0, 2.0], [[1.0, 1.0]], 1.0, name="TINY", lower=0.0)
    >>> with TemporaryDirectory() as folder:
    ...     read_mps(write_mps(problem, Path(folder, "tiny.mps.gz")))
    LinearProgram('TINY': 1 constraints, 2 variables, 2 nonzeros)
    """
    path = Path(path)
    lines = _text(path).splitlines()
    try:
        return _Reader(path, lines, fixed=False).program()
    except _Malformed as error:
        try:
            return _Reader(path, lines, fixed=True).program()
        except _Malformed as other:
            # The reading that came further is the one that was meant.
            raise ProblemError(str(max(error, other, key=lambda e: e.line))) from None


class _Malformed(Exception):
    """A line that one format cannot make sense of."""

    def __init__(self, text: str, line: int) -> None:
        super().__init__(text)
        self.line = line


def _text(path: Path) -> str:
    data = path.read_bytes()
    if data[:2] == b"\x1f\x8b":
        try:
            data = gzip.decompress(data)
        except (OSError, EOFError, zlib.error) as error:
            raise ProblemError(
                f"{path} starts like a gzip file and cannot be decompressed ({error}): the file "
                "is damaged or cut off"
            ) from error
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("latin-1")


class _Reader:
    """One pass over the lines in one of the two formats."""

    def __init__(self, path: Path, lines: list[str], fixed: bool) -> None:
        self.path, self.lines, self.fixed = path, lines, fixed
        self.name, self.maximize, self.wanted = "", False, ""
        self.row_type: list[str] = []
        self.row: dict[str, int] = {}  # among all rows, those of type N included
        self.column: dict[str, int] = {}
        self.integer: set[int] = set()
        self.entries: tuple[list[int], list[int], Any] = ([], [], np.empty(0))
        self.rhs: dict[int, float] = {}
        self.ranges: dict[int, float] = {}
        self.quadratic: list[tuple[int, int, float]] | None = None
        self.full_quadratic = False
        self.freed: list[str] = []
        self.bounded: set[int] = set()

    def fail(self, number: int, text: str) -> NoReturn:
        shown = self.lines[number].strip()[:60] if number < len(self.lines) else "end of file"
        raise _Malformed(f"{self.path}, line {number + 1} ({shown!r}): {text}", number)

    # -- lines --------------------------------------------------------------------------------

    def sections(self) -> Iterator[tuple[str, int, list[str], int, int]]:
        """Yield name, line number and further words of each header, and its lines."""
        lines = self.lines
        heads = [i for i, s in enumerate(lines) if s and s[0] not in " \t*\r\x1a" and s.strip()]
        if not heads:
            self.fail(0, "this is no MPS file: no section starts in the first column")
        for i, head in enumerate(heads):
            words = lines[head].split()
            end = heads[i + 1] if i + 1 < len(heads) else len(lines)
            yield words[0].upper(), head, words[1:], head + 1, end

    def fields(self, start: int, end: int, skip: int) -> Iterator[tuple[int, list[str]]]:
        """Yield number and fields of the lines that have any, without the first `skip` fields."""
        for number in range(start, end):
            line = self.lines[number]
            if self.fixed and "\t" not in line:
                if not line.strip() or line[0] == "*":
                    continue
                words = [
                    line[1:3].strip(), line[4:12].strip(), line[14:22].strip(),
                    line[22:36].strip(), line[39:47].strip(), line[47:61].strip(),
                ]  # fmt: skip
                if words[2].startswith("$") or words[4].startswith("$"):
                    words = words[: 2 if words[2].startswith("$") else 4]
                while words and not words[-1]:
                    words.pop()
                words = words[skip:]
            else:
                words = line.split()
                if words and words[0][0] == "*":
                    continue
                if "$" in line:
                    for i, word in enumerate(words):
                        if word[0] == "$" and i + skip in (2, 4, 6):
                            words = words[:i]
                            break
            if words:
                yield number, words

    def words(self, start: int, end: int) -> list[str]:
        """Return all words, whatever the format."""
        lines = self.lines[start:end]
        return [word for line in lines if line[:1] != "*" for word in line.split()]

    def number(self, line: int, text: str, finite: bool = False) -> float:
        try:
            value = float(text)
        except ValueError:
            try:
                value = float(text.upper().replace("D", "E"))  # Fortran's double precision
            except ValueError:
                self.fail(line, f"{text!r} is no number")
        if math.isnan(value) or (finite and math.isinf(value)):
            self.fail(line, f"the value {text!r} is not finite")
        return value

    # -- sections -------------------------------------------------------------------------------

    def program(self) -> LinearProgram | QuadraticProgram:
        readers: dict[str, Callable[[int, int], None]] = {
            "ROWS": self.read_rows,
            "COLUMNS": self.read_columns,
            "RHS": self.read_rhs,
            "RANGES": self.read_ranges,
            "BOUNDS": self.read_bounds,
        }
        seen: set[str] = set()
        sections = self.sections()
        head = 0
        for section, head, words, start, end in sections:
            if section not in _SECTIONS:
                known = ", ".join(_SECTIONS)
                self.fail(head, f"there is no section {section!r}; known are {known}")
            if section in seen:
                self.fail(head, f"a second section {section}")
            seen.add(section)
            if section == "ENDATA":
                break
            if section in readers:
                if section != "ROWS" and "ROWS" not in seen:
                    self.fail(head, f"{section} comes before ROWS")
                if section in ("RHS", "RANGES", "BOUNDS") and "COLUMNS" not in seen:
                    self.fail(head, f"{section} comes before COLUMNS")
                readers[section](start, end)
            elif section == "NAME":
                self.name = words[0] if words else ""
            elif section.startswith("OBJSENSE"):
                self.read_sense(section, head, words, start, end)
            elif section == "OBJNAME":
                self.wanted = " ".join(words + self.words(start, end))
            else:
                self.read_quadratic(section, start, end)
        if "ENDATA" not in seen:
            self.fail(len(self.lines), "ENDATA is missing: the file is cut off")
        for needed in ("ROWS", "COLUMNS"):
            if needed not in seen:
                self.fail(head, f"there is no section {needed}")
        return self.build(head)

    def read_sense(self, section: str, head: int, words: list[str], start: int, end: int) -> None:
        if section == "OBJSENSEMAX":
            words = ["MAX"]
        sense = " ".join(words + self.words(start, end)).upper()
        if sense not in _MAXIMISE + _MINIMISE:
            self.fail(head, f"OBJSENSE is {sense!r}; expected MAX or MIN")
        self.maximize = sense in _MAXIMISE

    def read_rows(self, start: int, end: int) -> None:
        for line, words in self.fields(start, end, 0):
            if len(words) != 2:
                self.fail(line, f"a row has a type and a name; there are {len(words)} fields")
            kind, name = words
            if kind.upper() not in ("N", "L", "G", "E"):
                self.fail(line, f"there is no type of row {kind!r}; expected N, L, G or E")
            if name in self.row:
                self.fail(line, f"a second row {name!r}")
            self.row[name] = len(self.row)
            self.row_type.append(kind.upper())

    def read_columns(self, start: int, end: int) -> None:
        names, where, rows, values, columns = self.column, [], [], [], []
        previous, j, integer = None, -1, False
        for line, words in self.fields(start, end, 1):
            count = len(words)
            if count != 3 and count != 5:
                self.fail(line, f"expected a column and one or two entries; {count} fields")
            if "'MARKER'" in words:
                if "'INTORG'" not in words and "'INTEND'" not in words:
                    self.fail(line, "a marker that is neither 'INTORG' nor 'INTEND'")
                integer = "'INTORG'" in words
                continue
            name = words[0]
            if name != previous:
                j, previous = names.setdefault(name, len(names)), name
                if integer:
                    self.integer.add(j)
            where.append(line)
            rows.append(words[1])
            values.append(words[2])
            columns.append(j)
            if count == 5:
                where.append(line)
                rows.append(words[3])
                values.append(words[4])
                columns.append(j)
        try:
            index = [self.row[name] for name in rows]
        except KeyError:
            k = next(k for k, name in enumerate(rows) if name not in self.row)
            self.fail(where[k], f"there is no row {rows[k]!r}")
        try:
            numbers = np.array(list(map(float, values)), np.float64)
        except ValueError:
            pairs = zip(where, values, strict=True)
            numbers = np.array([self.number(line, text) for line, text in pairs])
        if not np.isfinite(numbers).all():
            k = int(np.argmin(np.isfinite(numbers)))
            self.fail(where[k], f"the value {values[k]!r} is not finite")
        flat = np.array(index, np.int64) + len(self.row) * np.array(columns, np.int64)
        order = np.argsort(flat, kind="stable")
        twice = np.flatnonzero(np.diff(flat[order]) == 0)
        if twice.size:
            k = int(order[twice + 1].min())
            name = next(s for s, j in names.items() if j == columns[k])
            self.fail(where[k], f"a second value of column {name!r} in row {rows[k]!r}")
        self.entries = (index, columns, numbers)

    def vector(self, start: int, end: int, what: str, *, finite: bool) -> dict[int, float]:
        """Read a section of a right-hand side or of ranges: its first vector."""
        chosen, values = None, {}
        for line, words in self.fields(start, end, 1):
            if len(words) % 2 == 0:  # free format: the vector's name is left out
                words = ["", *words]
            if len(words) not in (3, 5):
                self.fail(line, f"expected one or two pairs of a row and a value in {what}")
            if chosen is None:
                chosen = words[0]
            for name, text in zip(words[1::2], words[2::2], strict=True):
                if name not in self.row:
                    self.fail(line, f"there is no row {name!r}")
                if words[0] != chosen:
                    continue
                if self.row[name] in values:
                    self.fail(line, f"a second value of row {name!r} in {what}")
                values[self.row[name]] = self.number(line, text, finite)
        return values

    def read_rhs(self, start: int, end: int) -> None:
        self.rhs = self.vector(start, end, "RHS", finite=False)

    def read_ranges(self, start: int, end: int) -> None:
        self.ranges = self.vector(start, end, "RANGES", finite=False)

    def read_bounds(self, start: int, end: int) -> None:
        n = len(self.column)
        self.lower, self.upper = np.zeros(n), np.full(n, np.inf)
        has_lower, chosen = set(), None
        for line, words in self.fields(start, end, 0):
            kind = words[0].upper()
            if kind not in _BOUND_TYPES:
                self.fail(line, f"there is no type of bound {kind!r}; known: {_BOUND_TYPES}")
            rest = words[1:]
            valued = kind in _NEED_VALUE
            # Free format: the name of the vector of bounds may be left out.
            if len(rest) == (2 if valued else 1) or (
                not valued and len(rest) == 2 and rest[1] not in self.column
            ):
                rest = ["", *rest]
            if len(rest) < (3 if valued else 2) or len(rest) > 3:
                self.fail(line, f"a bound of type {kind} has a column{' and a value' * valued}")
            if rest[1] not in self.column:
                self.fail(line, f"there is no column {rest[1]!r}")
            chosen = rest[0] if chosen is None else chosen
            if rest[0] != chosen:
                continue
            j = self.column[rest[1]]
            self.bounded.add(j)
            value = self.number(line, rest[2]) if valued else 0.0
            if kind in ("LI", "UI", "BV"):
                self.integer.add(j)
            if kind in ("LO", "LI", "FX", "FR", "MI", "BV"):
                has_lower.add(j)
            if kind in ("UP", "UI"):
                self.upper[j] = value
                if value < 0 and j not in has_lower:
                    self.lower[j] = -np.inf
                    self.freed.append(rest[1])
            elif kind in ("LO", "LI"):
                self.lower[j] = value
            elif kind == "FX":
                self.lower[j] = self.upper[j] = value
            elif kind == "FR":
                self.lower[j], self.upper[j] = -np.inf, np.inf
            elif kind == "MI":
                self.lower[j] = -np.inf
            elif kind == "PL":
                self.upper[j] = np.inf
            else:
                self.lower[j], self.upper[j] = 0.0, 1.0

    def read_quadratic(self, section: str, start: int, end: int) -> None:
        if self.quadratic is not None:
            self.fail(start - 1, "a second section with quadratic terms")
        self.quadratic, self.full_quadratic = [], section == "QMATRIX"
        seen = set()
        for line, words in self.fields(start, end, 1):
            if len(words) not in (3, 5):
                self.fail(line, f"expected two columns and a value; {len(words)} fields")
            for name, text in zip(words[1::2], words[2::2], strict=True):
                for column in (words[0], name):
                    if column not in self.column:
                        self.fail(line, f"there is no column {column!r}")
                i, j = self.column[words[0]], self.column[name]
                key = (i, j) if self.full_quadratic else (min(i, j), max(i, j))
                if key in seen:
                    self.fail(line, f"a second value of {words[0]!r} and {name!r}")
                seen.add(key)
                self.quadratic.append((i, j, self.number(line, text, finite=True)))

    # -- the program ----------------------------------------------------------------------------

    def build(self, last: int) -> LinearProgram | QuadraticProgram:
        types, n = np.array(self.row_type, "U1"), len(self.column)
        free = np.flatnonzero(types == "N")
        if self.wanted:
            if self.row.get(self.wanted, -1) not in free:
                self.fail(last, f"OBJNAME is {self.wanted!r}, and no row of type N has this name")
            objective = self.row[self.wanted]
        else:
            objective = int(free[0]) if free.size else -1
        kept = np.flatnonzero(types != "N")
        place = np.full(len(types) + 1, -1, np.int64)
        place[kept] = np.arange(len(kept))
        rows, columns = np.array(self.entries[0], np.int64), np.array(self.entries[1], np.int64)
        values = self.entries[2]
        c = np.zeros(n)
        costs = rows == objective
        c[columns[costs]] = values[costs]
        inside = place[rows] >= 0
        where = (place[rows[inside]], columns[inside])
        A = sp.coo_array((values[inside], where), shape=(len(kept), n)).tocsr()

        b = np.zeros(len(types))
        for i, value in self.rhs.items():
            b[i] = value
        low = np.where(types == "L", -np.inf, b)
        high = np.where(types == "G", np.inf, b)
        for i, value in self.ranges.items():
            if types[i] == "L" or (types[i] == "E" and value < 0):
                low[i] = b[i] - abs(value)
            else:
                high[i] = b[i] + abs(value)
        if not hasattr(self, "lower"):
            self.lower, self.upper = np.zeros(n), np.full(n, np.inf)
        self.upper[list(self.integer - self.bounded)] = 1.0
        offset = -float(b[objective]) if objective >= 0 else 0.0
        sign = -1.0 if self.maximize else 1.0
        self.warn()
        names = list(self.row)
        arguments: dict[str, Any] = {
            "c": sign * c,
            "A": A,
            "constraint_lower": _infinite(low[kept]),
            "constraint_upper": _infinite(high[kept]),
            "lower": _infinite(self.lower),
            "upper": _infinite(self.upper),
            "offset": sign * offset,
            "maximize": self.maximize,
            "name": self.name,
            "row_names": [names[i] for i in kept],
            "column_names": list(self.column),
        }
        try:
            if self.quadratic is None:
                return LinearProgram(**arguments)
            Q = np.array(self.quadratic, np.float64).reshape(-1, 3)
            if not self.full_quadratic:
                side = Q[Q[:, 0] != Q[:, 1]]
                Q = np.concatenate([Q, side[:, [1, 0, 2]]])
            where = (Q[:, 0].astype(np.int64), Q[:, 1].astype(np.int64))
            quadratic = sp.coo_array((sign * Q[:, 2], where), shape=(n, n)).tocsr()
            return QuadraticProgram(quadratic, **arguments)
        except ProblemError as error:
            raise ProblemError(f"{self.path}: {error}") from error

    def warn(self) -> None:
        if self.integer:
            warnings.warn(
                f"{self.path}: {len(self.integer)} integer variables are read as continuous ones",
                UserWarning,
                stacklevel=4,
            )
        if self.freed:
            warnings.warn(
                f"{self.path}: {len(self.freed)} variables, such as {self.freed[0]!r}, have a "
                "negative upper bound and no lower bound; the lower bound is taken to be -inf",
                UserWarning,
                stacklevel=4,
            )


def _infinite(bounds: Any) -> Any:
    bounds = np.where(bounds >= _INFINITE, np.inf, bounds)
    return np.where(bounds <= -_INFINITE, -np.inf, bounds)


def write_mps(problem: LinearProgram | QuadraticProgram, path: str | os.PathLike[str]) -> Path:
    """Write a linear or quadratic program to an MPS file in free format.

    Parameters
    ----------
    problem : LinearProgram or QuadraticProgram
        The program. Names of rows or columns that free format cannot hold (empty, with blanks,
        twice) are replaced by numbered ones, with a warning.
    path : str or path-like
        The file; one that ends in ``.gz`` is compressed.

    Returns
    -------
    Path
        The file.

    See Also
    --------
    read_mps : Reads the file; numbers come back exactly, except for a rounding error in the
        upper bound of constraints that have two different finite bounds.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from lowrank_opt.monotone import LinearProgram, write_mps
    >>> problem = LinearProgram([1.0], [[2.0]], 1.0, name="TINY")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     print(write_mps(problem, Path(folder, "tiny.mps")).read_text())
    NAME TINY
    ROWS
     N COST
     G R1
    COLUMNS
     C1 COST 1.0
     C1 R1 2.0
    RHS
     RHS R1 1.0
    BOUNDS
     FR BND C1
    ENDATA
    <BLANKLINE>
    """
    path = Path(path)
    m, n = problem.shape
    rows = _names(problem.row_names, m, "R", "row_names")
    columns = _names(problem.column_names, n, "C", "column_names")
    cost = "COST"
    while cost in rows:
        cost += "_"
    sign = -1.0 if problem.maximize else 1.0
    low, high = problem.constraint_lower.tolist(), problem.constraint_upper.tolist()
    out = [f"NAME {'_'.join(problem.name.split())}".rstrip()]
    if problem.maximize:
        out += ["OBJSENSE", " MAX"]
    out += ["ROWS", f" N {cost}"]
    rhs, ranges = [], []
    if problem.offset:
        rhs.append(f" RHS {cost} {-sign * problem.offset!r}")
    for name, a, b in zip(rows, low, high, strict=True):
        if a == b:
            kind, side = "E", a
        elif a == -math.inf:
            # Without any bound: a row of type N would be dropped.
            kind, side = ("G", -1e30) if b == math.inf else ("L", b)
        else:
            kind, side = "G", a
            if a < b < math.inf:
                if a + (b - a) != b and b - (b - a) == a:
                    kind, side = "L", b
                ranges.append(f" RNG {name} {b - a!r}")
            elif b < a:
                raise ProblemError(
                    f"constraint {name} has the bounds [{a:g}, {b:g}], which contradict each "
                    "other; an MPS file cannot say so"
                )
        out.append(f" {kind} {name}")
        if side:
            rhs.append(f" RHS {name} {side!r}")

    out.append("COLUMNS")
    A = problem.A.tocsc()
    A.sort_indices()
    pointers, index, values = A.indptr.tolist(), A.indices.tolist(), A.data.tolist()
    for j, (name, value) in enumerate(zip(columns, (sign * problem.c).tolist(), strict=True)):
        start, end = pointers[j], pointers[j + 1]
        if value or start == end:
            out.append(f" {name} {cost} {value!r}")
        out += [f" {name} {rows[index[k]]} {values[k]!r}" for k in range(start, end)]
    if rhs:
        out += ["RHS", *rhs]
    if ranges:
        out += ["RANGES", *ranges]
    bounds = []
    sides = zip(columns, problem.lower.tolist(), problem.upper.tolist(), strict=True)
    for name, a, b in sides:
        if a == -math.inf and b == math.inf:
            bounds.append(f" FR BND {name}")
        elif a == b:
            bounds.append(f" FX BND {name} {a!r}")
        else:
            if a == -math.inf:
                bounds.append(f" MI BND {name}")
            elif a or b < 0:
                bounds.append(f" LO BND {name} {a!r}")
            if b != math.inf:
                bounds.append(f" UP BND {name} {b!r}")
    if bounds:
        out += ["BOUNDS", *bounds]
    if problem.Q is not None:
        out.append("QUADOBJ")
        Q = sp.triu(problem.Q).tocoo()
        triples = zip(Q.row.tolist(), Q.col.tolist(), (sign * Q.data).tolist(), strict=True)
        out += [f" {columns[i]} {columns[j]} {q!r}" for i, j, q in triples]
    out += ["ENDATA", ""]
    data = "\n".join(out).encode()
    path.write_bytes(gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)
    return path


def _names(given: Any, size: int, letter: str, argument: str) -> list[str]:
    plain = [f"{letter}{i + 1}" for i in range(size)]
    if given is None:
        return plain
    names = [str(name) for name in given]
    if len(set(names)) == size and all(
        len(s.split()) == 1 and s.strip() == s and s[0] not in "$*" and s != "'MARKER'"
        for s in names
    ):
        return names
    warnings.warn(
        f"{argument} has names that are empty, with blanks, or not unique, which the file cannot "
        f"hold; {letter}1, {letter}2, … are written",
        UserWarning,
        stacklevel=3,
    )
    return plain
