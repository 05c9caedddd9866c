"""Reproductions of published experiments, behind the command ``lowrank-opt reproduce``.

A reproduction is a module of this package with a function
``reproduce(scale, *, random_state=0)`` that returns a
:class:`~lowrank_opt.papers.report.Section` or a list of them. It is registered by a line in
``REPRODUCTIONS``, and imported only when it runs.
"""

from __future__ import annotations

import dataclasses
import importlib
import time
import traceback
from typing import TYPE_CHECKING

from lowrank_opt.core.errors import ParameterError
from lowrank_opt.papers.report import Figure, Image, Report, Row, Section, Table, draw, pictures

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = [
    "REPRODUCTIONS",
    "SCALES",
    "Figure",
    "Image",
    "Report",
    "Reproduction",
    "Row",
    "Section",
    "Table",
    "draw",
    "pictures",
    "reproduce",
]

SCALES = ("smoke", "medium", "paper")


@dataclasses.dataclass(frozen=True)
class Reproduction:
    """Where a reproduction is, and what it shows.

    Parameters
    ----------
    module : str
        Import path of the module that has ``reproduce``.
    title : str
        One line for ``lowrank-opt list``.
    """

    module: str
    title: str


REPRODUCTIONS: dict[str, Reproduction] = {
    "alternating_minimization": Reproduction(
        "lowrank_opt.papers.alternating_minimization",
        "Alternating minimisation with sketched regressions: recovery and time against rank",
    ),
    "block_coordinate": Reproduction(
        "lowrank_opt.papers.block_coordinate",
        "Block coordinate descent: greedy rules, message passing, active sets",
    ),
    "color_transfer": Reproduction(
        "lowrank_opt.papers.color_transfer",
        "The colours of one photograph for another, by plans with few colours for every colour",
    ),
    "expert_routing": Reproduction(
        "lowrank_opt.papers.expert_routing",
        "Tokens to experts: what ways of routing dispatch, drop and cost",
    ),
    "few_shot": Reproduction(
        "lowrank_opt.papers.few_shot",
        "Few labels and a graph: transductive episodes and clusters of digits",
    ),
    "group_sort": Reproduction(
        "lowrank_opt.papers.group_sort",
        "Networks that sort: bounds by constraints that keep sums, published and offline weights",
    ),
    "halpern": Reproduction(
        "lowrank_opt.papers.halpern",
        "Variance-reduced Halpern iteration: theorems, games, a saddle, when sampling pays",
    ),
    "interval_propagation": Reproduction(
        "lowrank_opt.papers.interval_propagation",
        "Interval bounds: tightness at the start and along training, certified accuracy",
    ),
    "linear_programs": Reproduction(
        "lowrank_opt.papers.linear_programs",
        "Linear programs by restarted Halpern PDHG: generated, without a solution, Netlib",
    ),
    "lipschitz_sdp": Reproduction(
        "lowrank_opt.papers.lipschitz_sdp",
        "Lipschitz bounds by semidefinite programs: digits, the grid of ECLipsE, hard networks",
    ),
    "photograph": Reproduction(
        "lowrank_opt.papers.photograph",
        "A photograph with most of its pixels missing, filled in by every solver",
    ),
    "recommender": Reproduction(
        "lowrank_opt.papers.recommender",
        "A recommender on ratings of the shape of MovieLens-1M",
    ),
    "salt_and_pepper": Reproduction(
        "lowrank_opt.papers.salt_and_pepper",
        "A photograph with salt, pepper and missing pixels, by robust losses and without",
    ),
    "sparse_transport": Reproduction(
        "lowrank_opt.papers.sparse_transport",
        "Plans with at most k nonzeros a column: on a line, in the plane, methods over caps",
    ),
    "subgradient_recovery": Reproduction(
        "lowrank_opt.papers.subgradient_recovery",
        "Sub-gradient method with a small start: over-parameterisation, outliers, noise",
    ),
}


def reproduce(
    names: str | Sequence[str] = "all",
    scale: str = "smoke",
    *,
    random_state: int = 0,
    progress: Callable[[Section], None] | None = None,
) -> Report:
    """Run reproductions one after the other.

    A reproduction that raises becomes a failed section with its traceback, and the others still
    run.

    Parameters
    ----------
    names : str or sequence of str, default="all"
        Keys of ``REPRODUCTIONS``, or ``"all"``.
    scale : {"smoke", "medium", "paper"}, default="smoke"
        ``"smoke"`` takes at most 20 s each, ``"paper"`` is the size of the paper.
    random_state : int, default=0
        Seed that each of them is given.
    progress : callable or None, default=None
        Called with each section as soon as it is there.

    Returns
    -------
    Report
        Its ``ok`` says whether every experiment ran and no row is out of its band.

    Raises
    ------
    ParameterError
        For a name or a scale that does not exist.
    """
    if isinstance(names, str):
        names = list(REPRODUCTIONS) if names == "all" else [names]
    for name in names:
        if name not in REPRODUCTIONS:
            known = ", ".join(REPRODUCTIONS)
            raise ParameterError(f"there is no reproduction {name!r}; choose from: all, {known}")
    if scale not in SCALES:
        raise ParameterError(f"scale={scale!r} must be one of {', '.join(SCALES)}")
    sections = []
    began = time.perf_counter()
    for name in names:
        for section in _run(name, scale, random_state):
            sections.append(section)
            if progress is not None:
                progress(section)
    title = f"Reproduction: {names[0]}" if len(names) == 1 else "Reproductions"
    seconds = time.perf_counter() - began
    return Report(sections, scale, random_state, seconds=seconds, title=title)


def _run(name: str, scale: str, random_state: int) -> list[Section]:
    entry = REPRODUCTIONS[name]
    began = time.perf_counter()
    try:
        module = importlib.import_module(entry.module)
        sections = module.reproduce(scale, random_state=random_state)
        if isinstance(sections, Section):
            sections = [sections]
        for section in sections:
            section.name = name
    except Exception:  # whatever it is belongs into the report, beside the other experiments
        sections = [Section(entry.title, name=name, error=traceback.format_exc())]
    seconds = time.perf_counter() - began
    if len(sections) == 1 and sections[0].seconds is None:
        sections[0].seconds = seconds
    return sections
