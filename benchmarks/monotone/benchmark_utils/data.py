"""Linear programs and games to solve, and what grades all answers."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

__all__ = [
    "DESCRIPTIONS",
    "TINY",
    "Case",
    "case",
    "game",
    "game_gap",
    "netlib_names",
    "netlib_optima",
    "parse",
]

DESCRIPTIONS = {
    "planted *m*x*n*/*k*": (
        "equations with k random nonzeros in a column; optimum max(N, 0) with normal N, "
        "multipliers normal"
    ),
    "transport *n*, assignment *n*": (
        "a variable for every pair, uniform costs; *plane*: distances in the unit square; *line*: "
        "squared distances on a line"
    ),
    "pagerank *n*": "PageRank of a graph that grows by preferential attachment, no costs",
    "multicommodity *nodes*-*arcs*-*commodities*": (
        "flows in a random network, capacities that a mixture of two routings needs, ten sinks a "
        "commodity"
    ),
    "markov *states*x*actions*": "values of a Markov decision process, discount 0.95",
    "l1 *samples*x*features*": "least absolute deviations, dense design",
    "basis *m*x*n*": "basis pursuit with a dense matrix",
    "netlib *name*": (
        "from the folder `netlib` in LOWRANK_OPT_DATA, with published optima in `optima.json`"
    ),
    "burglar *n*": (
        "policeman and burglar, A_ij = w_j (1 - exp(-0.8 |i - j|)), w half-normal; *rows*: w_i"
    ),
    "gaussian *m*x*n*": "matrix game with independent normal entries",
}
TINY = {
    "planted": "planted 30x60/5",
    "transport": "transport 8",
    "assignment": "assignment 8",
    "pagerank": "pagerank 50",
    "multicommodity": "multicommodity 8-24-4",
    "markov": "markov 12x3",
    "l1": "l1 30x4",
    "basis": "basis 15x40",
    "netlib": "planted 30x60/5",
    "burglar": "burglar 12",
    "gaussian": "gaussian 10x12",
}

_NUMBER = re.compile(r"\d+")


@dataclass(frozen=True)
class Case:
    """A linear program as arrays, what systems get.

    `optimum` is known for some; `problem` grades answers, and no system is given it.
    """

    name: str
    c: Any
    A: Any
    constraint_lower: Any
    constraint_upper: Any
    lower: Any
    upper: Any
    optimum: float | None = None
    offset: float = 0.0

    @property
    def arrays(self):
        return (
            self.c, self.A, self.constraint_lower, self.constraint_upper, self.lower, self.upper
        )  # fmt: skip

    @property
    def nnz(self) -> int:
        return int(self.A.nnz)

    @property
    def problem(self):
        from lowrank_opt.monotone import LinearProgram

        return LinearProgram(*self.arrays, offset=self.offset)

    def grade(self, x, y) -> dict:
        """Residual of the library's certificate, and the objective; of any system's point."""
        if x is None or y is None or not (np.all(np.isfinite(x)) and np.all(np.isfinite(y))):
            return {"residual": None, "objective": None}
        found = self.problem.certificate((np.array(x, np.float64), np.array(y, np.float64)))
        objective = float(self.c @ x) + self.offset
        error = None
        if self.optimum is not None:
            error = abs(objective - self.optimum) / max(1.0, abs(self.optimum))
        three = ("primal_residual", "dual_residual", "relative_gap")
        return {
            "residual": float(found.residual), "objective": objective, "error": error,
            "relative": max(float(found.details[k]) for k in three),
        }  # fmt: skip


def parse(name: str) -> tuple[str, tuple[int, ...], dict[str, str]]:
    """Kind, sizes and the rest of a case such as ``"planted 20x40/5, seed 2, c 1e6"``.

    The rest: ``seed``, factors ``c`` and ``b`` of costs and of all bounds, and the other words.
    """
    first, *rest = name.split(", ")
    kind, _, size = first.partition(" ")
    if kind not in TINY:
        raise KeyError(name)
    size, _, word = size.partition(" ")
    options = {"word": word, "size": size}
    for part in rest:
        key, _, value = part.partition(" ")
        options[key] = value
    sizes = () if kind == "netlib" else tuple(int(n) for n in _NUMBER.findall(size))
    return kind, sizes, options


@lru_cache(maxsize=2)
def case(name: str) -> Case:
    """Make or read a linear program."""
    from lowrank_opt import datasets

    kind, sizes, options = parse(name)
    seed = {"random_state": int(options.get("seed", 0))}
    if kind == "netlib":
        made = _netlib(options["size"])
    else:
        if kind == "planted":
            data = datasets.make_planted_lp(sizes[0], sizes[1], per_column=sizes[2], **seed)
        elif kind in ("transport", "assignment"):
            data = datasets.make_transport_lp(
                sizes[0], cost=options["word"] or "uniform", assignment=kind == "assignment",
                **seed,
            )  # fmt: skip
        else:
            make = {
                "pagerank": datasets.make_pagerank_lp,
                "multicommodity": datasets.make_multicommodity_lp,
                "markov": datasets.make_markov_decision_lp,
                "l1": datasets.make_l1_regression_lp,
                "basis": datasets.make_basis_pursuit_lp,
            }[kind]
            data = make(*sizes, **seed)
        made = Case(
            name, data.c, data.A, data.constraint_lower, data.constraint_upper, data.lower,
            data.upper, data.optimum,
        )  # fmt: skip
    p, q = float(options.get("c", 1)), float(options.get("b", 1))
    if (p, q) != (1.0, 1.0):
        made = replace(
            made, name=name, c=p * made.c, constraint_lower=q * made.constraint_lower,
            constraint_upper=q * made.constraint_upper, lower=q * made.lower, upper=q * made.upper,
            optimum=None if made.optimum is None else p * q * made.optimum,
        )  # fmt: skip
    return made


# -- Netlib ---------------------------------------------------------------------------------------


def _folder() -> Path:
    folder = Path(os.environ.get("LOWRANK_OPT_DATA", "")) / "netlib"
    if not (folder / "optima.json").exists():
        raise FileNotFoundError("no folder netlib with optima.json in LOWRANK_OPT_DATA")
    return folder


def netlib_optima() -> dict:
    """Published optima by name; nothing when the files are not there."""
    try:
        return json.loads((_folder() / "optima.json").read_text())
    except FileNotFoundError:
        return {}


def netlib_names() -> list[str]:
    """Names of the files that are there, the smallest file first."""
    try:
        folder = _folder()
    except FileNotFoundError:
        return []
    files = sorted(folder.glob("*.mps.gz"), key=lambda path: (path.stat().st_size, path.name))
    return [path.name.removesuffix(".mps.gz") for path in files]


def _netlib(name: str) -> Case:
    from lowrank_opt.monotone import read_mps

    lp = read_mps(_folder() / f"{name}.mps.gz")
    entry = netlib_optima().get(name, {})
    return Case(
        f"netlib {name}", np.array(lp.c), lp.A, np.array(lp.constraint_lower),
        np.array(lp.constraint_upper), np.array(lp.lower), np.array(lp.upper),
        entry.get("objective"), lp.offset,
    )  # fmt: skip


# -- games ----------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def game(name: str) -> np.ndarray:
    """The matrix of a game: min over x, max over y, of ``y @ A @ x`` on simplices."""
    kind, sizes, options = parse(name)
    seed = int(options.get("seed", 1 if kind == "burglar" else 0))
    if kind == "gaussian":
        return np.random.default_rng(seed).standard_normal(sizes)
    (n,) = sizes
    w = np.abs(np.random.RandomState(seed).standard_normal(n))  # the published seed
    i = np.arange(n)
    closeness = 1.0 - np.exp(-0.8 * np.abs(i[:, None] - i))
    return closeness * (w[:, None] if options["word"] == "rows" else w)


def game_gap(A, x, y) -> float:
    """Duality gap of strategies over the range of A, after making them exact strategies."""
    x, y = (np.maximum(np.asarray(v, np.float64), 0.0) for v in (x, y))
    x, y = x / x.sum(), y / y.sum()
    return float((np.max(A @ x) - np.min(y @ A)) / (A.max() - A.min()))
