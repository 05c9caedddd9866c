"""A photograph with most of its pixels missing, filled in by every solver."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from lowrank_opt.core import AccuracyWarning
from lowrank_opt.datasets import ImageObservations, psnr, sample_image_observations
from lowrank_opt.papers.report import Figure, Row, Section, Table, pictures
from lowrank_opt.recovery import (
    AlternatingMinimization,
    FactorSGD,
    GibbsFactorization,
    MatrixCompletion,
    SoftImpute,
)

__all__ = ["reproduce"]

_ALL = tuple((missing, color) for color in (False, True) for missing in (0.5, 0.7, 0.8))
_SCALES: dict[str, dict[str, Any]] = {
    "smoke": {
        "size": (214, 320), "rank": 16, "sweeps": 30, "soft_impute": 8,
        "cases": ((0.5, False), (0.8, False), (0.7, True)),
    },
    "medium": {"size": None, "rank": 30, "sweeps": 60, "soft_impute": 20, "cases": _ALL},
    "paper": {"size": None, "rank": 40, "sweeps": 60, "soft_impute": 100, "cases": _ALL},
}  # fmt: skip
_REGS = (0.003, 0.01, 0.03)
# Share of the observed pixels on which the ridge is chosen.
_HELD = 0.1


def reproduce(scale: str, *, random_state: int = 0) -> list[Section]:
    """Complete scikit-learn's photograph of a Chinese temple.

    Parameters
    ----------
    scale : {"smoke", "medium", "paper"}
        "smoke" halves the picture; the others use its 427 × 640 pixels.
    random_state : int, default=0
        Seed of the missing pixels and of the solvers.

    Returns
    -------
    list of Section
        One section with the pictures.
    """
    size = _SCALES[scale]
    rows: list[Row] = []
    cells: list[list[Any]] = []
    figures: list[Figure] = []
    for missing, color in size["cases"]:
        image = sample_image_observations(
            "china", missing=missing, color=color, size=size["size"], random_state=random_state
        )
        _complete(image, missing, size, random_state, rows, cells, figures)
    return [
        Section(
            "A photograph with missing pixels",
            "Pixels are removed at random and filled in from the rest. A colour picture is one "
            "matrix, its channels side by side. Ridges are chosen on a tenth of the observed "
            "pixels, never on the missing ones. The peak signal-to-noise ratio counts missing "
            "pixels only; 3 dB is half the mean squared error. The mean fill knows the mean of "
            "the pixel's row and column.",
            rows,
            [
                Table(
                    ["picture", "solver", "PSNR, dB", "seconds", "iterations", "certificate"],
                    cells,
                    "All solvers; seconds of the final fit with the chosen ridge, compilation "
                    "excluded",
                )
            ],
            figures,
        )
    ]


def mean_fill(matrix: np.ndarray) -> np.ndarray:
    """Return row mean + column mean - mean, for every entry."""
    rows, cols = np.nanmean(matrix, axis=1), np.nanmean(matrix, axis=0)
    return rows[:, None] + cols[None, :] - np.nanmean(matrix)


def _complete(
    image: ImageObservations, missing: float, size: dict[str, Any], seed: int,
    rows: list[Row], cells: list[list[Any]], figures: list[Figure],
) -> None:  # fmt: skip
    matrix, unknown = image.matrix, ~image.mask
    name = f"{'colour' if image.color else 'grey'}, {missing:.0%} missing"
    held = np.random.default_rng(seed).random(matrix.shape) < _HELD

    def quality(filled: np.ndarray) -> float:
        return psnr(image.truth, np.clip(image.image(filled), 0.0, 1.0), mask=unknown)

    base = mean_fill(matrix)
    base_quality = quality(base)
    cells.append([name, "mean fill", base_quality, None, None, None])
    shown = {
        "observed": image.observed,
        f"mean fill, {base_quality:.1f} dB": np.clip(image.image(base), 0.0, 1.0),
    }
    peer: float | None = None
    # SoftImpute first: its quality stands beside those of the others.
    solvers = {
        "SoftImpute": SoftImpute(tol=1e-2, max_iter=size["soft_impute"], random_state=seed),
        "AlternatingMinimization": AlternatingMinimization(
            tol=1e-3, max_iter=size["sweeps"], random_state=seed
        ),
        "FactorSGD": FactorSGD(max_iter=60, random_state=seed),
        "GibbsFactorization": GibbsFactorization(max_iter=60, random_state=seed),
    }
    for label, solver in solvers.items():
        result = _fit(label, solver, matrix, held, size["rank"])
        filled = result.x.to_dense()
        reached = quality(filled)
        cells.append([name, label, reached, result.time, result.nit, result.certificate.residual])
        if label != "FactorSGD":
            shown[f"{label}, {reached:.1f} dB"] = np.clip(image.image(filled), 0.0, 1.0)
        note = "beside: SoftImpute (nuclear norm), this library's"
        if label == "SoftImpute":
            note = f"nuclear norm; tol=1e-2 and at most {size['soft_impute']} iterations"
        rows.append(
            Row(
                f"{name}: {label}", reached, peer=peer, unit="dB",
                band=(base_quality + 2.0, None), certificate=result.certificate.residual,
                seconds=result.time, note=note, source="2 dB above the mean fill",
            )
        )  # fmt: skip
        if label == "SoftImpute":
            peer = reached
    shown["truth"] = image.truth
    figures.append(pictures(shown, f"{name}, missing pixels filled in"))


def _fit(label: str, solver: Any, matrix: np.ndarray, held: np.ndarray, rank: int) -> Any:
    """Choose the ridge on held-out observed pixels and fit all of them with it."""
    training = np.where(held, np.nan, matrix)
    known = held & ~np.isnan(matrix)

    def problem(data: np.ndarray, reg: float) -> MatrixCompletion:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", AccuracyWarning)  # rows without training pixels
            if label == "SoftImpute":
                # In units of the level that a threshold must pass, std * (√m + √n) * √p: far
                # below it the nuclear norm keeps hundreds of directions and is slow.
                m, n = data.shape
                seen = np.count_nonzero(~np.isnan(data)) / data.size
                level = np.nanstd(data) * (np.sqrt(m) + np.sqrt(n)) * np.sqrt(seen)
                return MatrixCompletion.from_dense(
                    data,
                    rank=min(60, *data.shape),
                    reg=min(1.0, 60 * reg) * level,
                    penalty="nuclear",
                    center=True,
                )
            return MatrixCompletion.from_dense(
                data, rank=rank, reg=reg, reg_bias=reg / 10, reg_scaling="count", biases=True
            )

    if label == "GibbsFactorization":  # nothing to choose
        return solver.solve(problem(matrix, 0.01))
    errors = {}
    for reg in _REGS:
        x = solver.solve(problem(training, reg)).x
        errors[reg] = float(np.mean((x.to_dense()[known] - matrix[known]) ** 2))
    return solver.solve(problem(matrix, min(errors, key=errors.__getitem__)))
