"""A recommender on ratings of the shape of MovieLens-1M, and on MovieLens when it is there."""

from __future__ import annotations

import time
import warnings
from typing import Any

import numpy as np

from lowrank_opt.core import AccuracyWarning, History
from lowrank_opt.datasets import fetch_movielens, make_ratings
from lowrank_opt.papers.report import Row, Section, Table, draw
from lowrank_opt.recovery import (
    AlternatingMinimization,
    FactorSGD,
    GibbsFactorization,
    MatrixCompletion,
    Observations,
)

__all__ = ["reproduce"]

_SCALES: dict[str, dict[str, Any]] = {
    "smoke": {"shape": (1510, 926, 120_000), "rank": 10, "movielens": "100k", "draws": 60},
    "medium": {"shape": (6040, 3706, 1_000_000), "rank": 20, "movielens": "1m", "draws": 100},
    "paper": {"shape": (6040, 3706, 1_000_000), "rank": 50, "movielens": "10m", "draws": 200},
}
_REGS = (0.03, 0.06, 0.1)


def reproduce(scale: str, *, random_state: int = 0) -> list[Section]:
    """Fit every solver to ratings and compare test errors.

    Parameters
    ----------
    scale : {"smoke", "medium", "paper"}
        "smoke" keeps an eighth of the ratings.
    random_state : int, default=0
        Seed of ratings, split and solvers.

    Returns
    -------
    list of Section
        Synthetic ratings, then MovieLens.
    """
    size = _SCALES[scale]
    users, items, ratings = size["shape"]
    data = make_ratings(users, items, ratings, random_state=random_state)
    text = (
        f"{ratings:,} synthetic ratings, one to five stars, of {users:,} users on {items:,} items, "
        "with the distribution of activity of MovieLens-1M."
    )
    sections = [_evaluate("Recommender, synthetic ratings", text, data, size, random_state)]
    name = size["movielens"]
    try:
        data = fetch_movielens(name, download=False)
    except Exception as error:  # not fetched: any reason is one to print
        reason = f"MovieLens-{name} is not on this machine ({type(error).__name__}); fetch it with "
        reason += f'lowrank_opt.datasets.fetch_movielens("{name}")'
        rows = [Row(f"MovieLens-{name}, test RMSE", None, note=reason)]
        sections.append(Section("Recommender, MovieLens", rows=rows))
    else:
        text = f"MovieLens-{name}, which GroupLens distributes."
        sections.append(_evaluate("Recommender, MovieLens", text, data, size, random_state))
    return sections


def _evaluate(title: str, text: str, data: Any, size: dict[str, Any], seed: int) -> Section:
    began = time.perf_counter()
    everything = Observations.from_coo(data.rows, data.cols, data.values, data.shape)
    part = np.random.default_rng(seed).random(everything.nnz)
    test, validation = part < 0.1, (part >= 0.1) & (part < 0.2)
    rows_of = everything.rows()

    def rmse(x: Any, mask: np.ndarray) -> float:
        error = x.predict(rows_of[mask], everything.indices[mask]) - everything.values[mask]
        return float(np.sqrt(np.mean(error.astype(np.float64) ** 2)))

    def problem(mask: np.ndarray, rank: int, reg: float) -> MatrixCompletion:
        with warnings.catch_warnings():
            # Items whose ratings are all in another part.
            warnings.simplefilter("ignore", AccuracyWarning)
            return MatrixCompletion(
                everything.select(mask), rank, reg=reg, reg_bias=0.3 * reg, reg_scaling="count",
                biases=True,
            )  # fmt: skip

    training, most = part >= 0.2, part >= 0.1
    constant = float(np.std(everything.values[test] - everything.values[most].mean()))
    cells: list[list[Any]] = [["mean", constant, None, None, None]]
    rows: list[Row] = []
    curves: dict[str, Any] = {}
    rank = size["rank"]
    als = AlternatingMinimization(max_iter=15, tol=1e-3, random_state=seed)
    cg = AlternatingMinimization(inner="cg", max_iter=15, tol=1e-3, random_state=seed)
    gibbs = GibbsFactorization(max_iter=size["draws"], random_state=seed)
    solvers: dict[str, tuple[Any, int, tuple[float, ...]]] = {
        "biases only": (als, 1, (10.0,)),
        "exact ALS": (als, rank, _REGS),
        "CG-ALS": (cg, rank, _REGS),
        "FactorSGD": (FactorSGD(max_iter=20, random_state=seed), rank, _REGS),
        "Gibbs": (gibbs, rank, (0.1,)),
    }
    errors: dict[str, float] = {}
    validated: dict[str, float] = {}
    for name, (solver, k, regs) in solvers.items():
        reg = regs[0]
        if len(regs) > 1:
            scores = {r: rmse(solver.solve(problem(training, k, r)).x, validation) for r in regs}
            reg = min(scores, key=scores.__getitem__)
            validated[name] = scores[reg]
        history = None
        if name != "Gibbs":
            history = History(objective=False, extra={"rmse": lambda _, x: rmse(x, test)})
        result = solver.solve(problem(most, k, reg), history=history)
        errors[name] = rmse(result.x, test)
        if history is not None:
            curves[name] = (history["time"][1:], history["rmse"][1:])
        cells.append([name, errors[name], result.time, result.nit, result.certificate.residual])
        if name != "biases only":
            rows.append(
                Row(
                    f"{name}, test RMSE", errors[name], band=(None, errors["biases only"]),
                    seconds=result.time, certificate=result.certificate.residual,
                    source="better than biases alone",
                    note="" if len(regs) == 1 else f"ridge {reg:g}, chosen on a validation part",
                )
            )  # fmt: skip
    best = min(validated, key=validated.__getitem__)
    rows.append(
        Row(
            f"test RMSE of {best} minus that of Gibbs", errors[best] - errors["Gibbs"],
            band=(0.0, None), source="averaging over the posterior",
            note=f"{best} is the best of the others on the validation part",
        )
    )  # fmt: skip

    def plot(figure: Any) -> None:
        axes = figure.subplots()
        for name in ("exact ALS", "CG-ALS", "FactorSGD"):
            axes.plot(*curves[name], "o-", markersize=3, label=name)
        axes.axhline(errors["Gibbs"], linestyle="--", color="C3", label="Gibbs, at its end")
        axes.set_xlabel("seconds")
        axes.set_ylabel("test RMSE")
        axes.legend(fontsize=8)

    text += (
        " A tenth of the ratings is the test part; ridges, and the model to compare "
        "with, are chosen on another tenth, never on the test part."
    )
    return Section(
        title,
        text,
        rows,
        [Table(["model", "test RMSE", "seconds", "iterations", "certificate"], cells)],
        draw(plot, "Test error against seconds of the final fit."),
        seconds=time.perf_counter() - began,
    )
