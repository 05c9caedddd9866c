"""Tokens to experts: what different ways of routing dispatch, drop and cost.

The paper trains large vision models, which is out of a library's reach. This compares the routing
step itself, on synthetic logits with popular and unpopular experts.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.special import softmax

from lowrank_opt.papers.report import Row, Section, Table, draw
from lowrank_opt.papers.sparse_transport import (
    REFERENCE,
    capped,
    keeps_marginals,
    sinkhorn,
    support,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from matplotlib.figure import Figure as MatplotlibFigure

__all__ = ["reproduce"]

_SCALES: dict[str, dict[str, Any]] = {
    "smoke": {"tokens": 512, "experts": 16, "groups": 2, "factors": (1, 2), "exact": True},
    "medium": {"tokens": 1024, "experts": 32, "groups": 5, "factors": (1, 2), "exact": True},
    "paper": {"tokens": 4096, "experts": 64, "groups": 3, "factors": (1, 2), "exact": False},
}
_STEPS = 20
_REG = 0.02
_TOL = 1e-6


def reproduce(scale: str, *, random_state: int = 0) -> list[Section]:
    """Route groups of tokens in several ways.

    Parameters
    ----------
    scale : {"smoke", "medium", "paper"}
        Numbers of tokens, experts and groups.
    random_state : int, default=0
        Seed of the logits.

    Returns
    -------
    list of Section
        One section.
    """
    began = time.perf_counter()
    size = _SCALES[scale]
    m, n = size["tokens"], size["experts"]
    groups = [softmax(logits(m, n, seed=[random_state, g]), axis=1) for g in range(size["groups"])]
    cells: list[list[Any]] = []
    worst_load, best_share = 0.0, 0.0
    points: dict[tuple[str, int], tuple[float, float]] = {}
    for way in _ways(1, 4, size["exact"]).values():  # compile before the clocks run
        way(groups[0][: 4 * n])
    for factor in size["factors"]:
        capacity = factor * m // n
        ways = _ways(factor, capacity, size["exact"])
        measured: dict[str, list[tuple[float, ...]]] = {}
        for gates in groups:
            limit = float(np.sum(gates[experts_choose(gates, capacity)]))
            for label, way in ways.items():
                clock = time.perf_counter()
                dispatch = way(gates)
                seconds = time.perf_counter() - clock
                load = int(dispatch.sum(axis=0).max())
                gate = float(np.sum(gates[dispatch]))
                worst_load = max(worst_load, load / capacity)
                best_share = max(best_share, gate / limit)
                measured.setdefault(label, []).append(
                    (gate / m, float(np.mean(~dispatch.any(axis=1))),
                     float(dispatch.sum()) / m, load / capacity, 1e3 * seconds)
                )  # fmt: skip
        for label, values in measured.items():
            gate, dropped, experts, load, milliseconds = np.median(values, axis=0)
            points[label, factor] = (dropped, gate)
            cells.append([factor, label, gate, dropped, experts, load, milliseconds])
    rows = [
        Row(
            "largest load of an expert over its capacity, all ways", worst_load, band=(0.0, 1.0),
            source="every way here respects the capacity",
        ),
        Row(
            "total gate over that of Expert Choice, largest of all ways", best_share,
            band=(0.0, 1.0 + 1e-12),
            source="theory: Expert Choice has the largest total gate that the capacity allows",
        ),
        *_closed_forms(groups[0], size),
    ]  # fmt: skip

    def plot(figure: MatplotlibFigure) -> None:
        axes = figure.subplots()
        for label in dict.fromkeys(label for label, _ in points):
            own = [points[label, factor] for factor in size["factors"] if (label, factor) in points]
            axes.plot(*zip(*own, strict=True), "o-", label=label)
        axes.set_xlabel("share of tokens that no expert takes")
        axes.set_ylabel("gate that is dispatched, a token")
        axes.legend(fontsize=8)

    return [
        Section(
            "Routing tokens to experts",
            f"{m} tokens and {n} experts a group, {size['groups']} groups, gates by softmax of "
            "synthetic logits with popular and unpopular experts. An expert takes the capacity "
            "factor times its share of the tokens. Transport has a mass of 1 for each token, the "
            "share of the tokens for each expert, the negative gates as costs, γ = 1, and the "
            f"capacity as the cap; the router does {_STEPS} steps of Adam on the semi-dual, the "
            "exact method solves the problem.\n\n"
            "Experts that choose their tokens dispatch the largest gates, and leave tokens "
            "without an expert. Transport asks that every token be served.",
            rows,
            [
                Table(
                    ["capacity factor", "way", "gate a token", "dropped", "experts a token",
                     "largest load / capacity", "ms a group"],
                    cells, "Medians over the groups; gate a token is the sum of dispatched gates",
                )
            ],
            draw(plot, "Gates that are dispatched against dropped tokens; lines join the capacity "
                 f"factors {size['factors'][0]} and {size['factors'][-1]}."),
            REFERENCE,
            seconds=time.perf_counter() - began,
        )
    ]  # fmt: skip


def _ways(factor: int, capacity: int, exact: bool) -> dict[str, Callable[[Any], Any]]:
    ways: dict[str, Callable[[Any], Any]] = {
        f"top {factor}, overflow dropped": lambda g: tokens_choose(g, factor, capacity),
        "Expert Choice": lambda g: experts_choose(g, capacity),
        "Sinkhorn": lambda g: entropic(g, factor, capacity, _REG),
        "router": lambda g: transported(
            g, capacity, method="adam", step_size=1e-2, max_iter=_STEPS, rounding="columns"
        ),
    }
    if factor == 1:
        ways["balanced assignment"] = balanced
    if exact:
        ways["transport, exact"] = lambda g: transported(g, capacity)
    return ways


def _closed_forms(gates: Any, size: dict[str, Any]) -> list[Row]:
    """What transport comes to when its cap is the balanced share."""
    m, n = gates.shape
    assigned = balanced(gates)
    best = float(np.sum(gates[assigned]))
    a, b = np.ones(m), np.full(n, m / n)
    share = capped(-gates, a, b, 1.0, m // n, tol=_TOL)
    plain = capped(-gates, a, b, 0.0, None, tol=_TOL)
    return [
        Row(
            "no cap, γ = 0: value over that of the balanced assignment, minus 1",
            abs(plain.dual_value / -best - 1.0), band=(None, 1e-5),
            certificate=plain.certificate.residual, seconds=plain.time,
            source="theory: plain transport with whole masses has a whole solution",
        ),
        Row(
            "cap at the balanced share: value over that of the assignment + ½ γ m, minus 1",
            abs(share.dual_value / (0.5 * m - best) - 1.0), band=(None, 1e-5),
            certificate=share.certificate.residual, seconds=share.time,
            source="derived: every sparse plan is then an assignment, and the relaxation is tight",
        ),
    ]  # fmt: skip


def logits(tokens: int, experts: int, *, seed: Any = 0) -> Any:
    """Draw logits of tokens in clusters, for experts of which some are popular.

    Tokens lie around ``2 * experts`` centres in 32 dimensions; an expert's logit is a random
    linear function of the token plus the expert's popularity, of standard deviation 1.
    """
    rng = np.random.default_rng(seed)
    dimension = 32
    centres = rng.standard_normal((2 * experts, dimension))
    X = centres[rng.integers(len(centres), size=tokens)]
    X = X + 0.7 * rng.standard_normal((tokens, dimension))
    W = rng.standard_normal((dimension, experts)) / np.sqrt(dimension)
    return 1.5 * X @ W + rng.standard_normal(experts)


def tokens_choose(gates: Any, n_chosen: int, capacity: int) -> Any:
    """Dispatch every token to its best experts; an expert that is full drops what comes later."""
    m, n = gates.shape
    best = np.argsort(-gates, axis=1, kind="stable")[:, :n_chosen]
    dispatch = np.zeros((m, n), dtype=bool)
    load = np.zeros(n, dtype=np.int64)
    for choice in best.T:  # first choices of all tokens first, in the order of the tokens
        for j in range(n):
            wanted = np.flatnonzero(choice == j)[: capacity - load[j]]
            dispatch[wanted, j] = True
            load[j] += len(wanted)
    return dispatch


def experts_choose(gates: Any, capacity: int) -> Any:
    """Dispatch to every expert the tokens that like it most."""
    best = np.argsort(-gates, axis=0, kind="stable")[:capacity]
    dispatch = np.zeros(gates.shape, dtype=bool)
    dispatch[best, np.arange(gates.shape[1])] = True
    return dispatch


def balanced(gates: Any) -> Any:
    """Dispatch every token to one expert, the same number to each, with the largest total gate."""
    m, n = gates.shape
    places = np.repeat(np.arange(n), m // n)
    rows, chosen = linear_sum_assignment(-gates[:, places])
    dispatch = np.zeros((m, n), dtype=bool)
    dispatch[rows, places[chosen]] = True
    return dispatch


def entropic(gates: Any, n_chosen: int, capacity: int, reg: float, max_iter: int = 200) -> Any:
    """Dispatch every token to the largest entries of its row of the balanced entropic plan."""
    m, n = gates.shape
    plan, _ = sinkhorn(-gates, np.ones(m), np.full(n, m / n), reg, tol=1e-3 * m, max_iter=max_iter)
    return tokens_choose(plan, n_chosen, capacity)


def transported(gates: Any, capacity: int, **options: Any) -> Any:
    """Dispatch where the plan with the capacity as its cap has mass."""
    m, n = gates.shape
    a, b = np.ones(m), np.full(n, m / n)
    result = capped(-gates, a, b, 1.0, capacity, tol=_TOL, **options)
    if "method" not in options and not keeps_marginals(result):
        result = capped(-gates, a, b, 1.0, capacity, tol=_TOL, rounding="columns")
    return support(result.x.toarray(), b)
