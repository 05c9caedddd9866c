"""The reproductions: their helper functions, that all can be found, and, slowly, whole runs."""

from __future__ import annotations

import importlib
import inspect

import numpy as np
import pytest

from lowrank_opt.core import History
from lowrank_opt.datasets import make_low_rank_observations
from lowrank_opt.papers import REPRODUCTIONS, reproduce
from lowrank_opt.papers.alternating_minimization import contraction, relative_error
from lowrank_opt.papers.photograph import mean_fill
from lowrank_opt.recovery import LowRankMatrix


@pytest.mark.parametrize("name", REPRODUCTIONS)
def test_every_registered_module_has_reproduce(name):
    module = importlib.import_module(REPRODUCTIONS[name].module)
    parameters = inspect.signature(module.reproduce).parameters
    assert list(parameters) == ["scale", "random_state"]
    assert parameters["random_state"].kind is inspect.Parameter.KEYWORD_ONLY


def test_relative_error_is_that_of_the_dense_matrices():
    data = make_low_rank_observations(30, 20, 3, n_observations=200, random_state=0)
    rng = np.random.default_rng(1)
    x = LowRankMatrix(rng.normal(size=(30, 4)), rng.normal(size=(20, 4)))
    truth = data.U @ data.V.T
    expected = np.linalg.norm(truth - x.U @ x.V.T) / np.linalg.norm(truth)
    np.testing.assert_allclose(relative_error(data, x), expected, rtol=1e-12)
    assert relative_error(data, LowRankMatrix(data.U, data.V)) < 1e-7


def test_mean_fill_is_exact_for_sums_and_ignores_missing_entries():
    rows, cols = np.arange(4.0), np.array([1.0, 5.0, -2.0])
    matrix = rows[:, None] + cols[None, :]
    np.testing.assert_allclose(mean_fill(matrix), matrix, rtol=0, atol=1e-12)
    matrix[0, 0] = np.nan
    expected = np.nanmean(matrix[0]) + np.nanmean(matrix[:, 0]) - np.nanmean(matrix)
    np.testing.assert_allclose(mean_fill(matrix)[0, 0], expected, rtol=1e-12)


def test_contraction_leaves_out_the_first_sweeps():
    # 0.25 from sweep 2 on; what comes before is slower
    residuals = [np.inf, 1.0, 0.9, *(0.9 * 0.25**t for t in range(1, 6))]
    history = History.from_dict({"nit": list(range(8)), "residual": residuals})
    np.testing.assert_allclose(contraction(history), 0.25, rtol=1e-12)


@pytest.mark.parametrize("residuals", [[np.inf, 1.0, 0.5], [np.inf, 1.0, 0.5, 0.0]])
def test_contraction_of_a_run_that_is_over_at_once_is_zero(residuals):
    history = History.from_dict({"nit": list(range(len(residuals))), "residual": residuals})
    assert contraction(history) == 0.0


@pytest.mark.slow
@pytest.mark.parametrize("name", REPRODUCTIONS)
def test_the_small_scale_is_within_its_bands(name):
    report = reproduce(name, "smoke")
    assert [section.error for section in report.sections if section.error] == []
    assert report.ok, report.to_terminal()
    assert any(row.verdict == "within" for section in report.sections for row in section.rows)
