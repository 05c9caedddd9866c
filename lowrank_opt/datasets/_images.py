"""Photographs with missing pixels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lowrank_opt.core.errors import MissingDependencyError, ParameterError, ProblemError

if TYPE_CHECKING:
    from lowrank_opt.core.protocols import Array

__all__ = ["ImageObservations", "psnr", "sample_image_observations"]


def psnr(truth: Array, estimate: Array, *, data_range: float = 1.0, mask: Array = None) -> float:
    r"""Peak signal-to-noise ratio in decibels.

    Parameters
    ----------
    truth, estimate : ndarray of the same shape
        Images.
    data_range : float, default=1.0
        Largest possible value, positive.
    mask : ndarray of bool or None, default=None
        Pixels that count; broadcast against a colour image from shape (height, width). ``None``:
        all.

    Returns
    -------
    float
        ``10 log10(data_range**2 / mean squared error)``; infinite for equal images.
    """
    truth, estimate = np.asarray(truth, np.float64), np.asarray(estimate, np.float64)
    if truth.shape != estimate.shape:
        raise ProblemError(f"estimate has shape {estimate.shape}; expected {truth.shape}")
    squared = (truth - estimate) ** 2
    if mask is not None:
        squared = squared[np.asarray(mask, dtype=bool)]
    error = float(squared.mean())
    return math.inf if error == 0.0 else 10.0 * math.log10(data_range**2 / error)


@dataclass(frozen=True, eq=False)
class ImageObservations:
    """An image of which some pixels are missing, and the truth.

    Parameters
    ----------
    observed : ndarray of shape (height, width) or (height, width, 3)
        Image with NaN where a pixel is missing (in all three channels), otherwise in [0, 1] up to
        noise.
    truth : ndarray of the same shape
        The image, in [0, 1].
    mask : ndarray of shape (height, width), bool
        True where the pixel is observed.
    name : str
        Which image.
    outliers : ndarray of the shape of the truth, bool
        True where an observed value is salt or pepper.
    """

    observed: Array
    truth: Array
    mask: Array
    name: str
    outliers: Array

    @property
    def color(self) -> bool:
        """Whether there are three channels."""
        return self.truth.ndim == 3

    @property
    def matrix(self) -> Array:
        """The observed image as one matrix, NaN where missing.

        Returns
        -------
        ndarray of shape (height, width) or (height, 3 * width)
            The channels of a colour image lie side by side: they share the column space.
        """
        if not self.color:
            return self.observed
        return np.concatenate(list(np.moveaxis(self.observed, 2, 0)), axis=1)

    def image(self, matrix: Array) -> Array:
        """Turn a completed matrix back into an image.

        Parameters
        ----------
        matrix : ndarray of the shape of :attr:`matrix`
            Completed matrix.

        Returns
        -------
        ndarray of the shape of the truth
            Image, clipped to [0, 1].
        """
        matrix = np.asarray(matrix)
        if matrix.shape != self.matrix.shape:
            raise ProblemError(f"matrix has shape {matrix.shape}; expected {self.matrix.shape}")
        if self.color:
            matrix = np.stack(np.split(matrix, 3, axis=1), axis=2)
        return np.clip(matrix, 0.0, 1.0)

    def psnr(self, estimate: Array, *, missing_only: bool = False) -> float:
        """Peak signal-to-noise ratio of an estimate in decibels.

        Parameters
        ----------
        estimate : ndarray
            An image of the shape of the truth or a matrix of the shape of :attr:`matrix`; clipped
            to [0, 1].
        missing_only : bool, default=False
            Count the missing pixels only.

        Returns
        -------
        float
            See :func:`psnr`.
        """
        if np.shape(estimate) == self.truth.shape:
            estimate = np.clip(estimate, 0.0, 1.0)
        else:
            estimate = self.image(estimate)
        return psnr(self.truth, estimate, mask=~self.mask if missing_only else None)


def _scratches(rng: np.random.Generator, height: int, width: int, missing: float) -> Array:
    """Mask of thin straight scratches, none of them along an axis."""
    mask = np.ones((height, width), dtype=bool)
    y, x = np.mgrid[:height, :width].astype(np.float64)
    wanted = missing * mask.size
    hidden = 0
    while hidden < wanted:
        angle = rng.uniform(0.1, 0.4) * math.pi * rng.choice([-1.0, 1.0])
        x0, y0 = rng.uniform(0, width), rng.uniform(0, height)
        half_width = rng.uniform(0.5, max(1.0, min(height, width) / 100))
        distance = np.abs((x - x0) * math.sin(angle) - (y - y0) * math.cos(angle))
        hit = np.flatnonzero(mask & (distance <= half_width))
        # The last scratch stops where the wanted number of pixels is reached.
        mask.flat[hit[: round(wanted) - hidden]] = False
        hidden = mask.size - int(np.count_nonzero(mask))
        if hidden >= round(wanted):
            break
    return mask


def sample_image_observations(
    name: str = "china",
    *,
    missing: float = 0.5,
    color: bool = False,
    size: tuple[int, int] | None = None,
    kind: str = "pixels",
    noise: float = 0.0,
    outlier_fraction: float = 0.0,
    dtype: Any = np.float64,
    random_state: Any = None,
) -> ImageObservations:
    """One of scikit-learn's photographs with part of its pixels missing.

    Parameters
    ----------
    name : {"china", "flower"}, default="china"
        Which photograph; 427 x 640 pixels.
    missing : float, default=0.5
        Share of the pixels that are missing, in [0, 1). Every row and every column keeps at least
        one pixel.
    color : bool, default=False
        Keep the three channels; otherwise their luminance (weights 0.299, 0.587, 0.114).
    size : (int, int) or None, default=None
        Height and width to shrink to, by averaging; ``None`` keeps the size.
    kind : {"pixels", "scratches"}, default="pixels"
        Missing pixels at random, or along thin straight lines.
    noise : float, default=0.0
        Standard deviation of Gaussian noise on the observed pixels, whose range is [0, 1].
    outlier_fraction : float, default=0.0
        Share of the observed values (of each channel by itself) that are replaced by 0 or 1, with
        equal chances: salt and pepper. In [0, 1].
    dtype : {float32, float64}, default=float64
        Type of the arrays.
    random_state : int, Generator or None, default=None
        Seed.

    Returns
    -------
    ImageObservations
        Image with holes and truth.

    Raises
    ------
    ParameterError
        A parameter is out of its range.
    MissingDependencyError
        Pillow, which reads the file, is not installed.
    """
    if name not in ("china", "flower"):
        raise ParameterError(f"name is {name!r}; expected 'china' or 'flower'")
    if not 0.0 <= missing < 1.0:
        raise ParameterError(f"missing is {missing!r}; expected a float in [0, 1)")
    if kind not in ("pixels", "scratches"):
        raise ParameterError(f"kind is {kind!r}; expected 'pixels' or 'scratches'")
    if not noise >= 0.0:
        raise ParameterError(f"noise is {noise!r}; expected at least 0")
    if not 0.0 <= outlier_fraction <= 1.0:
        raise ParameterError(
            f"outlier_fraction is {outlier_fraction!r}; expected a float in [0, 1]"
        )
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingDependencyError("pillow", "plot", "reading the sample photographs") from error
    from sklearn.datasets import load_sample_image

    pixels = load_sample_image(f"{name}.jpg")
    if size is not None:
        height, width = (int(v) for v in size)
        if not (1 <= height <= pixels.shape[0] and 1 <= width <= pixels.shape[1]):
            raise ParameterError(f"size is {size!r}; expected at most {pixels.shape[:2]}")
        picture = Image.fromarray(pixels).resize((width, height), Image.Resampling.BOX)
        pixels = np.asarray(picture)
    truth = pixels.astype(np.float64) / 255.0
    if not color:
        truth = truth @ np.array([0.299, 0.587, 0.114])
    truth = truth.astype(np.dtype(dtype))

    height, width = truth.shape[:2]
    holes, disturbance = np.random.default_rng(random_state).spawn(2)
    if kind == "pixels":
        mask = np.ones(height * width, dtype=bool)
        mask[holes.choice(mask.size, round(missing * mask.size), replace=False)] = False
        mask = mask.reshape(height, width)
    else:
        mask = _scratches(holes, height, width, missing)
    empty_rows = np.flatnonzero(~mask.any(axis=1))
    mask[empty_rows, holes.integers(width, size=len(empty_rows))] = True
    empty_cols = np.flatnonzero(~mask.any(axis=0))
    mask[holes.integers(height, size=len(empty_cols)), empty_cols] = True

    observed = truth.copy()
    if noise > 0:
        observed += (noise * disturbance.standard_normal(truth.shape)).astype(truth.dtype)
    outliers = np.zeros(truth.shape, dtype=bool)
    if outlier_fraction > 0:
        seen = np.flatnonzero(
            np.broadcast_to(mask.reshape(*mask.shape, *[1] * (truth.ndim - 2)), truth.shape)
        )
        count = round(outlier_fraction * seen.size)
        bad = disturbance.choice(seen, count, replace=False)
        outliers.flat[bad] = True
        observed.flat[bad] = disturbance.integers(0, 2, count)
    observed[~mask] = np.nan
    return ImageObservations(observed, truth, mask, name, outliers)
