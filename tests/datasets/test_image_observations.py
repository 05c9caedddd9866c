from __future__ import annotations

import math
import sys

import numpy as np
import pytest

from lowrank_opt.core.errors import MissingDependencyError, ParameterError, ProblemError
from lowrank_opt.datasets import psnr, sample_image_observations

pytest.importorskip("PIL")


@pytest.mark.parametrize("kind", ["pixels", "scratches"])
@pytest.mark.parametrize("missing", [0.5, 0.8])
def test_share_of_missing_pixels(kind, missing):
    data = sample_image_observations("china", missing=missing, kind=kind, random_state=0)
    assert data.truth.shape == data.mask.shape == (427, 640)
    np.testing.assert_allclose(1 - data.mask.mean(), missing, atol=1e-4)
    np.testing.assert_array_equal(np.isnan(data.observed), ~data.mask)
    np.testing.assert_array_equal(data.observed[data.mask], data.truth[data.mask])
    assert data.truth.min() >= 0.0
    assert data.truth.max() <= 1.0


def test_grey_is_the_luminance_of_the_photograph():
    from sklearn.datasets import load_sample_image

    photo = load_sample_image("flower.jpg")
    grey = sample_image_observations("flower", missing=0.0)
    expected = (0.299 * photo[..., 0] + 0.587 * photo[..., 1] + 0.114 * photo[..., 2]) / 255
    np.testing.assert_allclose(grey.truth, expected, atol=1e-12)
    color = sample_image_observations("flower", missing=0.0, color=True)
    np.testing.assert_allclose(color.truth, photo / 255, atol=1e-12)


def test_colour_matrix_and_image_are_inverse():
    data = sample_image_observations("china", missing=0.3, color=True, size=(40, 60))
    assert data.matrix.shape == (40, 180)
    np.testing.assert_array_equal(data.matrix[:, 60:120], data.observed[..., 1])
    filled = np.nan_to_num(data.matrix, nan=2.0)
    image = data.image(filled)
    assert image.shape == (40, 60, 3)
    np.testing.assert_array_equal(image[data.mask], data.truth[data.mask])
    assert np.all(image[~data.mask] == 1.0)
    with pytest.raises(ProblemError, match="expected \\(40, 180\\)"):
        data.image(np.zeros((40, 60)))


def test_every_row_and_column_keeps_a_pixel():
    data = sample_image_observations("china", missing=0.99, size=(20, 30), random_state=0)
    assert data.mask.any(axis=0).all()
    assert data.mask.any(axis=1).all()


def test_psnr_from_its_definition():
    data = sample_image_observations("china", missing=0.5, size=(30, 40), random_state=0)
    shifted = data.truth * 0.5 + 0.25
    error = (shifted - data.truth) ** 2
    np.testing.assert_allclose(data.psnr(shifted), -10 * math.log10(error.mean()), rtol=1e-12)
    expected = -10 * math.log10(error[~data.mask].mean())
    np.testing.assert_allclose(data.psnr(shifted, missing_only=True), expected, rtol=1e-12)
    assert data.psnr(data.truth) == math.inf
    # An error of one tenth of the range everywhere is 20 dB, whatever the range.
    np.testing.assert_allclose(psnr(np.zeros(9), np.full(9, 25.5), data_range=255.0), 20.0)
    with pytest.raises(ProblemError, match="expected \\(9,\\)"):
        psnr(np.zeros(9), np.zeros(8))


def test_noise_dtype_and_seed():
    clean = sample_image_observations("china", missing=0.5, random_state=0)
    data = sample_image_observations(
        "china", missing=0.5, noise=0.05, dtype=np.float32, random_state=0
    )
    assert data.observed.dtype == data.truth.dtype == np.float32
    np.testing.assert_array_equal(data.mask, clean.mask)
    error = (data.observed - data.truth)[data.mask]
    np.testing.assert_allclose(error.std(), 0.05, rtol=0.02)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "lena"}, "name is 'lena'"),
        ({"missing": 1.0}, "missing is 1.0"),
        ({"kind": "text"}, "kind is 'text'"),
        ({"noise": -1.0}, "noise is -1.0"),
        ({"size": (500, 10)}, "size is"),
    ],
)
def test_bad_parameters_are_named(change, message):
    with pytest.raises(ParameterError, match=message):
        sample_image_observations(**change)


def test_missing_pillow_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(MissingDependencyError, match=r"pillow: pip install \"lowrank_opt\[plot\]"):
        sample_image_observations()


@pytest.mark.parametrize("color", [False, True])
def test_salt_and_pepper(color):
    options = {"missing": 0.4, "color": color, "size": (60, 80), "random_state": 3}
    clean = sample_image_observations("flower", **options)
    dirty = sample_image_observations("flower", outlier_fraction=0.25, **options)
    np.testing.assert_array_equal(dirty.mask, clean.mask)
    assert not dirty.outliers[~dirty.mask].any()
    seen = np.count_nonzero(~np.isnan(clean.observed))
    assert dirty.outliers.sum() == round(0.25 * seen)
    values = dirty.observed[dirty.outliers]
    assert set(np.unique(values)) == {0.0, 1.0}
    assert 0.4 < values.mean() < 0.6
    np.testing.assert_array_equal(dirty.observed[~dirty.outliers], clean.observed[~dirty.outliers])
    assert not clean.outliers.any()


@pytest.mark.parametrize("fraction", [-0.1, 1.1])
def test_share_of_outliers_out_of_range(fraction):
    with pytest.raises(ParameterError, match=f"outlier_fraction is {fraction}"):
        sample_image_observations("china", outlier_fraction=fraction)
