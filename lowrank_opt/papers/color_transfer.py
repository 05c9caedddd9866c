"""The colours of one photograph for another: transport between palettes of 256 colours."""

from __future__ import annotations

import time
from typing import Any, NamedTuple

import numpy as np
from sklearn.cluster import KMeans

from lowrank_opt.datasets import sample_image_observations
from lowrank_opt.papers.report import Row, Section, Table, pictures
from lowrank_opt.papers.sparse_transport import (
    REFERENCE,
    capped,
    keeps_marginals,
    linear_program,
    nonzeros,
    sinkhorn,
    squared_distances,
    with_cap,
)

__all__ = ["reproduce"]

_SCALES: dict[str, dict[str, Any]] = {
    "smoke": {
        "size": (107, 160), "colors": 256, "entropic": (0.02,), "quadratic": (0.1, 1.0),
        "caps": (2, 4), "shown": (214, 320),
    },
    "medium": {
        "size": (214, 320), "colors": 256, "entropic": (0.1, 0.01),
        "quadratic": (0.01, 0.1, 1.0, 10.0), "caps": (1, 2, 4, 8), "shown": (214, 320),
    },
    "paper": {
        "size": None, "colors": 256, "entropic": (0.1, 0.01),
        "quadratic": (0.01, 0.1, 1.0, 10.0, 100.0), "caps": (1, 2, 3, 4, 8, 16), "shown": None,
    },
}  # fmt: skip
_TOL = 1e-7
# Strength with a cap; the quadratic plans have one of the same strength.
_GAMMA = 1.0
_FREE = f"quadratic, γ = {_GAMMA:g}"


class Palette(NamedTuple):
    """The colours of a picture, their shares of the pixels, and which pixel has which."""

    colors: Any
    masses: Any
    labels: Any


def reproduce(scale: str, *, random_state: int = 0) -> list[Section]:
    """Transfer the colours of scikit-learn's two photographs, both ways.

    Parameters
    ----------
    scale : {"smoke", "medium", "paper"}
        "smoke" makes the palettes on pictures of a quarter of the height and width, "medium" of
        half.
    random_state : int, default=0
        Seed of k-means and of the solvers.

    Returns
    -------
    list of Section
        One section with the pictures.
    """
    size = _SCALES[scale]
    names = ("china", "flower")
    shown = {name: photograph(name, size["shown"]) for name in names}
    palettes = {
        name: palette(photograph(name, size["size"]), shown[name], size["colors"], random_state)
        for name in names
    }
    source, target = palettes.values()
    C = squared_distances(source.colors, target.colors)
    plans = _plans(C, source.masses, target.masses, size, random_state)
    capped_plans = {
        names: _capped_plans(C, source.masses, target.masses, size, random_state),
        names[::-1]: _capped_plans(C.T, target.masses, source.masses, size, random_state),
    }
    rows = _rows(C, source.masses, target.masses, plans, capped_plans, size)
    cells, figures = [], []
    for (old, new), own in capped_plans.items():
        turned = old != names[0]  # plans without a cap are the same the other way round
        every = {label: plan.turned() if turned else plan for label, plan in plans.items()} | own
        images = {old: shown[old], new: shown[new]}
        name = f"{old} in the colours of {new}"
        for label, plan in every.items():
            images[label] = recolor(shown[old], palettes[old], palettes[new], plan.T)
            cells.append([name, *plan.cells(label, C.T if turned else C, palettes[new].masses)])
        figures.append(pictures(images, name))
    return [
        Section(
            "Colour transfer between two photographs",
            f"The palette of a photograph is {size['colors']} centres of k-means, with the share "
            "of their pixels as masses; colours are between 0 and 1, costs are squared distances. "
            "A pixel gets its own colour plus the way that its palette entry goes on average. "
            "The entropic plan matches every colour with every colour; a cap decides how many "
            "colours one colour of the target may be mixed from.\n\n"
            f"A plan that keeps all shares serves {2 * size['colors'] - 1} masses in general "
            f"position, and a cap of 2 leaves {2 * size['colors']} places for them: there is "
            "hardly any choice. Where such a plan is found at all its gap to the bound, which "
            "knows nothing of this, is large; it shrinks with a larger cap.",
            rows,
            [
                Table(
                    ["colours", "plan", "nonzero", "mean a column", "longest column", "<C, T>",
                     "marginals", "gap, relative", "seconds"],
                    cells,
                    "Nonzero: share of entries above 1e-12 of the mass of their column. The gap is "
                    "that of the plan to the proved lower bound; the column before it is the error "
                    "of the marginals.",
                )
            ],
            figures,
            REFERENCE,
        )
    ]  # fmt: skip


class Plan(NamedTuple):
    """A plan and how it came about."""

    T: Any
    row_residual: float
    seconds: float
    gap: float | None = None
    result: Any = None

    def turned(self) -> Plan:
        """The plan from target to source."""
        return self._replace(T=self.T.T)

    def cells(self, label: str, C: Any, b: Any) -> list[Any]:
        """A line of the table."""
        counts = nonzeros(self.T, b)
        mean = float(np.mean(counts))
        return [
            label, mean / len(C), mean, int(counts.max()), float(np.sum(C * self.T)),
            self.row_residual, self.gap, self.seconds,
        ]  # fmt: skip


def photograph(name: str, size: tuple[int, int] | None) -> Any:
    """Return one of scikit-learn's photographs as an array of shape (height, width, 3)."""
    return sample_image_observations(name, missing=0.0, color=True, size=size).truth


def palette(small: Any, picture: Any, n_colors: int, seed: int) -> Palette:
    """Find colours on a small picture, and which of them each pixel of another is closest to."""
    model = KMeans(n_colors, n_init=1, max_iter=300, random_state=seed)
    labels = model.fit_predict(small.reshape(-1, 3))
    masses = np.bincount(labels, minlength=n_colors) / len(labels)
    return Palette(model.cluster_centers_, masses, model.predict(picture.reshape(-1, 3)))


def recolor(picture: Any, source: Palette, target: Palette, T: Any) -> Any:
    """Return a picture whose pixels moved as the plan moves their palette entry on average."""
    sums = np.asarray(T.sum(axis=1)).ravel()
    goal = np.asarray(T @ target.colors) / np.where(sums > 0, sums, 1.0)[:, None]
    goal[sums <= 0] = source.colors[sums <= 0]
    moved = picture.reshape(-1, 3) + (goal - source.colors)[source.labels]
    return np.clip(moved, 0.0, 1.0).reshape(picture.shape)


def _plans(C: Any, a: Any, b: Any, size: dict[str, Any], seed: int) -> dict[str, Plan]:
    """Plans without a cap."""
    plans = {}
    clock = time.perf_counter()
    T = linear_program(C, a, b)
    plans["linear program"] = Plan(T, _row_residual(T, a), time.perf_counter() - clock)
    for strength in size["entropic"]:
        clock = time.perf_counter()
        log_plan, error = sinkhorn(C, a, b, strength, tol=_TOL)
        seconds = time.perf_counter() - clock
        plans[f"entropic, {strength:g}"] = Plan(np.exp(log_plan), error, seconds, result=log_plan)
    for gamma in size["quadratic"]:
        result = capped(C, a, b, gamma, None, seed=seed)
        plans[f"quadratic, γ = {gamma:g}"] = _plan(result)
    return plans


def _capped_plans(C: Any, a: Any, b: Any, size: dict[str, Any], seed: int) -> dict[str, Plan]:
    plans = {}
    for k in size["caps"]:
        result = with_cap(C, a, b, _GAMMA, k, seed=seed)
        rows_off = "" if keeps_marginals(result) else ", rows off"
        plans[f"at most {k} a column, γ = {_GAMMA:g}{rows_off}"] = _plan(result)
    return plans


def _plan(result: Any) -> Plan:
    gap = result.gap / abs(result.dual_value) if keeps_marginals(result) else None
    return Plan(result.x.toarray(), result.row_residual, result.time, gap, result)


def _row_residual(T: Any, a: Any) -> float:
    return float(np.sum(np.abs(T.sum(axis=1) - a)))


def _rows(
    C: Any, a: Any, b: Any, plans: dict[str, Plan],
    capped_plans: dict[tuple[str, ...], dict[str, Plan]], size: dict[str, Any],
) -> list[Row]:  # fmt: skip
    lp = plans["linear program"].T
    cheapest = float(np.sum(C * lp))
    quadratic = [plan for label, plan in plans.items() if label.startswith("quadratic")]
    entropic = [plan.result for label, plan in plans.items() if label.startswith("entropic")]
    costs = [float(np.sum(C * plan.T)) for plan in quadratic]
    certificates = [plan.result.certificate.residual for plan in quadratic]
    rows, rises, cheaper = [], [], min(costs) - cheapest
    ways = ((b, C), (a, C.T))
    for ((old, new), own), (masses, way) in zip(capped_plans.items(), ways, strict=True):
        for (label, plan), k in zip(own.items(), size["caps"], strict=True):
            result = plan.result
            certificates.append(result.certificate.residual)
            rows.append(
                Row(
                    f"{old} in the colours of {new}, k = {k}: most nonzeros of a column",
                    int(nonzeros(plan.T, masses).max()), paper=float(k), band=(1, k),
                    certificate=result.certificate.residual, seconds=result.time,
                    source="abstract: at most k nonzeros a column",
                    note=f"plan status {result.plan_status!r}",
                )
            )  # fmt: skip
            if "rows off" not in label:
                cheaper = min(cheaper, float(np.sum(way * plan.T)) - cheapest)
        values = [plan.result.dual_value for plan in (*own.values(), plans[_FREE])]
        rises.append(float(np.max(np.diff(values))))
    return [
        *rows,
        Row(
            "linear program: nonzeros over m + n − 1",
            int(nonzeros(lp, b).sum()) / (len(a) + len(b) - 1), band=(None, 1.0),
            source="theory: a vertex has at most m + n − 1 nonzeros",
        ),
        Row(
            "entropic plan: share of entries that are positive",
            min(float(np.mean(np.isfinite(log_plan))) for log_plan in entropic), paper=1.0,
            band=(1.0, 1.0), source="abstract: entropic plans are fully dense",
            note="by its logarithm; the table counts what is above 1e-12 of a column",
        ),
        Row(
            "sanity check: least cost of a plan with exact marginals minus that of the linear "
            "program", cheaper, band=(-1e-6, None), source="theory: no plan is cheaper",
        ),
        Row(
            "largest residual of the quadratic and capped runs", max(certificates),
            band=(None, 10 * _TOL), source="certificate: marginals and Lagrangian gap",
        ),
        Row(
            "least rise of <C, T> from a quadratic term to the next stronger one",
            float(np.min(np.diff(costs))), band=(-1e-6, None),
            source="theory: the cost of the optimal plan does not fall with γ",
        ),
        Row(
            "largest rise of the optimal value from a cap to the next larger one, or to none",
            max(rises), band=(None, 1e-6), source="theory: the value does not increase with k",
        ),
    ]  # fmt: skip
