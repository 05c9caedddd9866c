"""A photograph with missing pixels and with wrong ones, restored with and without robust losses."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from lowrank_opt.core import AccuracyWarning
from lowrank_opt.datasets import ImageObservations, psnr, sample_image_observations
from lowrank_opt.papers.photograph import mean_fill
from lowrank_opt.papers.report import Figure, Row, Section, Table, pictures
from lowrank_opt.recovery import (
    AlternatingMinimization,
    HuberALS,
    LowRankPlusSparse,
    MatrixCompletion,
    RobustPCA,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from lowrank_opt.core.result import Result

__all__ = ["reproduce"]

# Share of missing pixels, share of the observed ones that are wrong.
_CASES = ((0.5, 0.05), (0.5, 0.2), (0.3, 0.3))
_SCALES: dict[str, dict[str, Any]] = {
    "smoke": {
        "size": (214, 320), "cases": _CASES[1:2], "sweeps": 30, "color": (False,),
        "ranks": (8, 16), "low_ranks": (4, 8, 12), "regs": (0.01, 0.03),
    },
    "medium": {
        "size": None, "cases": _CASES, "sweeps": 60, "color": (False,),
        "ranks": (8, 16, 30), "low_ranks": (4, 8, 12, 16), "regs": (0.003, 0.01, 0.03, 0.1),
    },
    "paper": {
        "size": None, "cases": _CASES, "sweeps": 60, "color": (False, True),
        "ranks": (8, 16, 30, 40), "low_ranks": (4, 6, 8, 12, 16, 24),
        "regs": (0.003, 0.01, 0.03, 0.1),
    },
}  # fmt: skip
# Share of the observed pixels on which rank and ridge are chosen.
_HELD = 0.1
# Errors above this part of the range of a pixel grow linearly in the Huber loss with a ridge.
_SCALE = 0.05


def reproduce(scale: str, *, random_state: int = 0) -> list[Section]:
    """Restore scikit-learn's photograph of a Chinese temple.

    Parameters
    ----------
    scale : {"smoke", "medium", "paper"}
        "smoke" halves the picture and takes one case; the others use its 427 × 640 pixels.
    random_state : int, default=0
        Seed of the missing pixels, the wrong ones and the solvers.

    Returns
    -------
    list of Section
        One section with the pictures.
    """
    size = _SCALES[scale]
    rows: list[Row] = []
    cells: list[list[Any]] = []
    figures: list[Figure] = []
    for color in size["color"]:
        for missing, wrong in size["cases"]:
            image = sample_image_observations(
                "china", missing=missing, outlier_fraction=wrong, color=color, size=size["size"],
                random_state=random_state,
            )  # fmt: skip
            name = f"{missing:.0%} missing, {wrong:.0%} wrong{', colour' if color else ''}"
            _restore(image, name, size, random_state, rows, cells, figures)
    return [
        Section(
            "A photograph with salt, pepper and missing pixels",
            "Pixels are removed at random, and some of those that are left are replaced by black "
            "or white. Nobody is told which. Rank and ridge are chosen on a tenth of the observed "
            "pixels, by their mean absolute error, wrong ones among them. The peak signal-to-noise "
            "ratio counts the pixels that were missing or wrong.\n\n"
            "A picture is only roughly of low rank: what a low rank leaves is not noise, and many "
            "sound pixels look like gross errors to a method that expects a matrix of exactly low "
            "rank. On such data the Huber loss with a ridge, whose rank may be higher, does "
            "better than rank-constrained robust principal components.",
            rows,
            [
                Table(
                    ["picture", "method", "rank", "PSNR, dB", "all pixels", "seconds"],
                    cells,
                    "Seconds of the final fit with the chosen rank and ridge",
                )
            ],
            figures,
        )
    ]


def _restore(
    image: ImageObservations, name: str, size: dict[str, Any], seed: int,
    rows: list[Row], cells: list[list[Any]], figures: list[Figure],
) -> None:  # fmt: skip
    matrix = image.matrix
    mask = image.mask if not image.color else image.mask[:, :, None]
    damaged = ~mask | image.outliers
    flags = np.concatenate(list(np.moveaxis(image.outliers, 2, 0)), axis=1) \
        if image.color else image.outliers  # fmt: skip
    shown = {"observed": image.observed}

    def add(label: str, filled: np.ndarray, result: Result | None = None) -> float:
        restored = image.image(filled)
        quality = psnr(image.truth, restored, mask=damaged)
        rank = None if result is None else result.x.rank
        seconds = None if result is None else result.time
        cells.append([name, label, rank, quality, image.psnr(restored), seconds])
        shown[f"{label}, {quality:.1f} dB"] = restored
        return quality

    base = add("mean fill", mean_fill(matrix))
    held = np.random.default_rng(seed).random(matrix.shape) < _HELD
    sweeps = size["sweeps"]
    grid = [(rank, reg) for rank in size["ranks"] for reg in size["regs"]]
    fits: dict[str, tuple[Callable[..., Result], Iterable[Any]]] = {
        "squared loss, ridge": (lambda data, k, reg: ridge(data, k, reg, sweeps, seed), grid),
        "Huber loss, ridge": (
            lambda data, k, reg: ridge(data, k, reg, sweeps, seed, loss="huber"), grid
        ),
        "HuberALS": (
            lambda data, k: _quiet(
                HuberALS(tol=1e-3, max_iter=100, random_state=seed),
                lambda: LowRankPlusSparse.from_dense(data, rank=k),
            ),
            [(k,) for k in size["low_ranks"]],
        ),
    }  # fmt: skip
    reached, results = {}, {}
    for label, (fit, choices) in fits.items():
        training = np.where(held, np.nan, matrix)
        errors = {
            choice: float(np.nanmean(np.abs(fit(training, *choice).x.to_dense() - matrix)[held]))
            for choice in choices
        }
        results[label] = fit(matrix, *min(errors, key=errors.__getitem__))
        reached[label] = add(label, results[label].x.to_dense(), results[label])
    pca = RobustPCA("auto", tol=1e-3, max_iter=100, random_state=seed).fit(matrix)
    add("RobustPCA, rank auto", pca.low_rank_.to_dense(), pca.result_)
    told = ridge(np.where(flags, np.nan, matrix), max(size["ranks"]), 0.01, sweeps, seed)
    oracle = add("squared loss, wrong pixels known", told.x.to_dense(), told)
    shown["truth"] = image.truth
    plain = reached["squared loss, ridge"]
    share = float(image.outliers.sum() / np.broadcast_to(mask, image.truth.shape).sum())
    # The more pixels are wrong the more there is to gain: 0.05 and 0.03 dB for each percent.
    for label, gain in (("Huber loss, ridge", 5.0 * share), ("HuberALS", 3.0 * share)):
        result = results[label]
        rows.append(
            Row(
                f"{name}: {label} minus squared loss", reached[label] - plain, unit="dB",
                band=(gain, None), certificate=result.certificate.residual, seconds=result.time,
                note=f"squared loss {plain:.2f} dB, mean fill {base:.2f} dB",
                source="a robust loss must pay on wrong pixels",
            )
        )  # fmt: skip
    rows.append(
        Row(
            f"{name}: Huber loss, ridge minus squared loss with the wrong pixels known",
            reached["Huber loss, ridge"] - oracle, unit="dB", band=(-3.0, None),
            source="half the accuracy of somebody who knows",
        )
    )  # fmt: skip
    figures.append(pictures(shown, f"{name}: restored"))


def ridge(
    data: np.ndarray, rank: int, reg: float, sweeps: int, seed: int, loss: str = "squared"
) -> Result:
    """Complete with biases and a ridge; the Huber loss has less of it, like its slope."""
    options: dict[str, Any] = {}
    if loss == "huber":
        options = {"loss": loss, "loss_scale": _SCALE}
        reg *= 2.0 * _SCALE
    return _quiet(
        AlternatingMinimization(tol=1e-3, max_iter=sweeps, random_state=seed),
        lambda: MatrixCompletion.from_dense(
            data, rank=rank, reg=reg, reg_bias=reg / 10, reg_scaling="count", biases=True, **options
        ),
    )


def _quiet(solver: Any, problem: Callable[[], Any]) -> Result:
    """Solve; rows and columns without pixels, in the training part, are no surprise."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AccuracyWarning)
        return solver.solve(problem())
