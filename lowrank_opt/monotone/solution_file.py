"""Files with the answer to a linear or quadratic program."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lowrank_opt.core.errors import ParameterError
from lowrank_opt.core.state import Status

if TYPE_CHECKING:
    from lowrank_opt.core.result import Result
    from lowrank_opt.monotone.programs import ConvexProgram

__all__ = ["SUFFIXES", "check_suffix", "write_solution"]

SUFFIXES = (".sol", ".json", ".csv", ".npz")


def check_suffix(path: str | os.PathLike[str]) -> str:
    """Return the kind of file that a path asks for.

    Parameters
    ----------
    path : str or path-like
        The file.

    Returns
    -------
    str
        Its suffix, in lower case.

    Raises
    ------
    ParameterError
        There is no such kind of file.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in SUFFIXES:
        raise ParameterError(
            f"the solution file {str(path)!r} ends in {suffix!r}; expected one of "
            f"{', '.join(SUFFIXES)}"
        )
    return suffix


def write_solution(problem: ConvexProgram, result: Result, path: str | os.PathLike[str]) -> Path:
    """Write the answer to a program, with the names of its rows and columns.

    Parameters
    ----------
    problem : LinearProgram or QuadraticProgram
        The program.
    result : Result
        The answer, of a solver that gives ``PrimalDual`` points.
    path : str or path-like
        ``.sol``: lines of a column's name and value, as many solvers write and read them;
        ``.json`` and ``.npz``: everything by name; ``.csv``: one line for each row and column.

    Returns
    -------
    Path
        The file.

    Notes
    -----
    Objective and multipliers are those of the program's file: of a maximum, where ``maximize`` is
    set. A multiplier is the derivative of the optimal value by the bound that it belongs to.
    A program that is infeasible or unbounded has the ray that proves it, in ``.json`` and
    ``.npz``, and no values.
    """
    suffix, path = check_suffix(path), Path(path)
    content = _content(problem, result)
    if suffix == ".npz":
        flat: dict[str, Any] = {}
        for name, value in content.items():
            if isinstance(value, dict):
                flat.update({f"{name}_{k}": np.asarray(v) for k, v in value.items()})
            elif value is not None:
                flat[name] = np.asarray(value)
        with path.open("wb") as file:
            np.savez_compressed(file, **flat)
    elif suffix == ".json":
        path.write_text(json.dumps(content, indent=1, default=_plain) + "\n", encoding="utf-8")
    else:
        lines = _sol(content) if suffix == ".sol" else _csv(content)
        path.write_text(lines, encoding="utf-8")
    return path


def _content(problem: ConvexProgram, result: Result) -> dict[str, Any]:
    m, n = problem.shape
    sign = -1.0 if problem.maximize else 1.0
    none = result.x is None or result.status in (Status.INFEASIBLE, Status.UNBOUNDED)
    names = problem.column_names or [f"C{j + 1}" for j in range(n)]
    rows = problem.row_names or [f"R{i + 1}" for i in range(m)]
    content: dict[str, Any] = {
        "problem": problem.name,
        "status": result.status.name,
        "message": result.message,
        "sense": "maximize" if problem.maximize else "minimize",
        "objective": None if none else sign * float(result.fun),
        "residual": None if none else float(result.certificate.residual),
        "certificate": {} if none else dict(result.certificate.details),
    }
    columns: dict[str, Any] = {"name": list(names)}
    constraints: dict[str, Any] = {"name": list(rows)}
    if not none:
        x, y = problem.pair(result.x)
        z = problem.reduced_costs(result.x) if result.get("z") is None else result.z
        columns |= {"value": x, "multiplier": sign * z + 0.0}
        constraints |= {"value": problem.A @ x, "multiplier": sign * y + 0.0}
    ray = result.get("ray")
    return content | {"columns": columns, "rows": constraints, "ray": ray}


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return [v if math.isfinite(v) else None for v in value.tolist()]
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} is no JSON value")


def _sol(content: dict[str, Any]) -> str:
    out = [f"# Status = {content['status']}"]
    if content["objective"] is not None:
        columns = content["columns"]
        out.append(f"# Objective value = {content['objective']!r}")
        pairs = zip(columns["name"], columns["value"].tolist(), strict=True)
        out += [f"{name} {value!r}" for name, value in pairs]
    return "\n".join([*out, ""])


def _csv(content: dict[str, Any]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["kind", "name", "value", "multiplier"])
    for kind in ("columns", "rows"):
        part = content[kind]
        if "value" in part:
            values, multipliers = part["value"].tolist(), part["multiplier"].tolist()
            for line in zip(part["name"], values, multipliers, strict=True):
                writer.writerow([kind.removesuffix("s"), *map(_text, line)])
    return text.getvalue()


def _text(value: Any) -> str:
    return value if isinstance(value, str) else repr(value)
