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
from lowrank_opt.papers.sparse_transport import REFERENCE, capped
from lowrank_opt.transport.router import TopKRouter

if TYPE_CHECKING:
    from matplotlib.figure import Figure as MatplotlibFigure

__all__ = ["reproduce"]

_SCALES: dict[str, dict[str, Any]] = {
    "smoke": {"tokens": 512, "experts": 16, "groups": 4, "factors": (1, 2), "exact": 1},
    "medium": {"tokens": 1024, "experts": 32, "groups": 8, "factors": (1, 2), "exact": 2},
    "paper": {"tokens": 4096, "experts": 64, "groups": 8, "factors": (1, 2), "exact": 0},
}
_TOL = 1e-6
# Groups for the balanced assignment, which takes seconds at full size.
_ASSIGNED = 2


def reproduce(scale: str, *, random_state: int = 0) -> list[Section]:
    """Route groups of tokens in several ways.

    Parameters
    ----------
    scale : {"smoke", "medium", "paper"}
        Numbers of tokens, experts and groups; "paper" leaves out the exact solver.
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
    batch = np.stack([logits(m, n, seed=[random_state, g]) for g in range(size["groups"])])
    cells: list[list[Any]] = []
    points: dict[str, list[tuple[float, float]]] = {}
    load, share, below = 0.0, 0.0, np.inf
    for factor in size["factors"]:
        capacity = factor * m // n
        routed: dict[str, Any] = {}
        for label, router in _routers(factor, capacity).items():
            groups = batch[: size["exact"]] if router.method == "exact" else batch
            groups = groups[:_ASSIGNED] if router.method == "balanced" else groups
            if not len(groups):
                continue
            router.route(groups[:1, : 4 * n])  # compile before the clock runs
            clock = time.perf_counter()
            routing = routed[label] = router.route(groups)
            seconds = time.perf_counter() - clock
            gate = routing.gate_sum / m
            best = routed[_CHOICE].gate_sum[: len(groups)] / m
            load = max(load, float(routing.load.max()) / capacity)
            share = max(share, float(np.max(gate / best)))
            dropped = float(np.mean(routing.dropped))
            points.setdefault(label.removesuffix(f" {factor}"), []).append((dropped, gate.mean()))
            cells.append(
                [factor, label, gate.mean(), dropped, float(np.mean(routing.n_experts)),
                 float(routing.load.max()) / capacity, float(np.mean(routing.row_residual)),
                 1e3 * seconds / len(groups)]
            )  # fmt: skip
        if _EXACT in routed:
            optimum, reached = (routed[name].dual_value[0] for name in (_EXACT, _ROUTER))
            below = min(below, (optimum - reached) / m)
    rows = [
        Row(
            "largest load of an expert over its capacity, all ways", load, band=(0.0, 1.0),
            source="theory: the cap is on the tokens of an expert",
        ),
        Row(
            "total gate over that of Expert Choice, largest of all ways", share,
            band=(0.0, 1.0 + 1e-12),
            source="theory: Expert Choice has the largest total gate that the capacity allows",
        ),
        *_closed_forms(softmax(batch[0], axis=1)),
    ]  # fmt: skip
    if np.isfinite(below):
        rows.append(
            Row(
                "sanity check: optimum minus the bound that the router reaches, a token", below,
                band=(-1e-6, None), source="weak duality: no potentials give more than the optimum",
                note="smallest over the capacity factors, one group",
            )
        )  # fmt: skip

    def plot(figure: MatplotlibFigure) -> None:
        axes = figure.subplots()
        for label, own in points.items():
            axes.plot(*zip(*own, strict=True), "o-", label=label)
        axes.set_xlabel("share of tokens that no expert takes")
        axes.set_ylabel("gates dispatched, a token")
        axes.legend(fontsize=8)

    return [
        Section(
            "Routing tokens to experts",
            f"{m} tokens and {n} experts a group, gates by softmax of synthetic logits with "
            "popular and unpopular experts. An expert takes the capacity factor times its share of "
            "the tokens. Transport has a mass of 1 for each token, the same share of the tokens "
            "for each expert, the negative gates as costs, γ = 1, and the capacity as the cap. The "
            "router does 20 steps of Adam on the semi-dual; the exact method solves the problem, "
            "and keeps cap and shares of the experts where it has to round.\n\n"
            "Experts that choose their tokens dispatch the largest gates, and leave tokens "
            "without an expert. Transport asks that every token be served.",
            rows,
            [
                Table(
                    ["capacity factor", "way", "gates a token", "dropped", "experts a token",
                     "largest load / capacity", "error of the tokens' sums", "ms a group"],
                    cells,
                    f"Means over {size['groups']} groups (exact: {size['exact']}, assignment: "
                    f"{_ASSIGNED}); gates that are dispatched are summed and divided by the number "
                    "of tokens",
                )
            ],
            draw(plot, "Gates that are dispatched against dropped tokens; lines join the capacity "
                 f"factors {size['factors'][0]} and {size['factors'][-1]}."),
            REFERENCE,
            seconds=time.perf_counter() - began,
        )
    ]  # fmt: skip


_CHOICE, _ROUTER, _EXACT = "Expert Choice", "router, experts choose", "exact, experts choose"


def _routers(factor: int, capacity: int) -> dict[str, TopKRouter]:
    """The ways to route; Expert Choice comes first, others are compared with it."""
    routers = {
        _CHOICE: TopKRouter("expert_choice", capacity=capacity),
        f"tokens take their top {factor}": TopKRouter(
            "topk", n_chosen=factor, capacity=capacity
        ),
        f"Sinkhorn, top {factor}": TopKRouter("sinkhorn", n_chosen=factor, capacity=capacity),
        _ROUTER: TopKRouter("sparse", capacity=capacity),
        f"router, tokens choose {factor}": TopKRouter(
            "sparse", choose="tokens", n_chosen=factor, capacity=capacity
        ),
    }  # fmt: skip
    if factor == 1:
        routers["balanced assignment"] = TopKRouter("balanced", capacity=capacity)
    routers[_EXACT] = TopKRouter("exact", capacity=capacity)
    return routers


def _closed_forms(gates: Any) -> list[Row]:
    """What transport comes to without a cap, and with the balanced share as the cap."""
    m, n = gates.shape
    best = assigned(gates)
    a, b = np.ones(m), np.full(n, m / n)
    share = capped(-gates, a, b, 1.0, m // n, tol=_TOL, rounding="none")
    plain = capped(-gates, a, b, 0.0, None, tol=_TOL)
    return [
        Row(
            "no cap, γ = 0: relative difference of the value from the best balanced assignment",
            abs(plain.dual_value / -best - 1.0), band=(None, 1e-5),
            certificate=plain.certificate.residual, seconds=plain.time,
            source="theory: plain transport with whole masses has a whole solution",
            note="assignment by SciPy's linear_sum_assignment",
        ),
        Row(
            "cap at the balanced share: relative difference from the assignment + ½ γ m",
            abs(share.dual_value / (0.5 * m - best) - 1.0), band=(None, 1e-5),
            certificate=share.certificate.residual, seconds=share.time,
            source="derived: every plan with the cap is then an assignment, the relaxation tight",
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


def assigned(gates: Any) -> float:
    """Return the largest total gate when every expert gets the same number of tokens."""
    m, n = gates.shape
    places = np.repeat(np.arange(n), m // n)
    rows, chosen = linear_sum_assignment(-gates[:, places])
    return float(np.sum(gates[rows, places[chosen]]))
