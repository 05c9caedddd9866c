"""The reproductions: their helper functions, that all can be found, and, slowly, whole runs."""

from __future__ import annotations

import importlib
import inspect

import numpy as np
import pytest

from lowrank_opt.core import History
from lowrank_opt.datasets import make_low_rank_observations
from lowrank_opt.papers import REPRODUCTIONS, reproduce, salt_and_pepper
from lowrank_opt.papers import subgradient_recovery as subgradient
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


def test_measured_cases_are_what_they_say():
    data = subgradient.measure(12, 2, 4000, outliers=0.3, seed=0)
    np.testing.assert_allclose(data.truth @ data.truth, data.truth, atol=1e-12)
    np.testing.assert_allclose(np.trace(data.truth), 2.0, rtol=1e-12)
    wrong = np.abs(np.einsum("pij,ij->p", data.A, data.truth) - data.y) > 1e-9
    assert abs(wrong.mean() - 0.3) < 0.03
    # the mean size of a normal number is √(2/π) standard deviations
    expected = 0.3 * 10.0 * np.sqrt(2.0 / np.pi)
    np.testing.assert_allclose(data.loss(data.truth), expected, rtol=0.1)
    noisy = subgradient.measure(12, 2, 4000, noise=2.0, seed=0)
    np.testing.assert_allclose(noisy.loss(noisy.truth), 2.0 * np.sqrt(2.0 / np.pi), rtol=0.05)
    assert data.error(LowRankMatrix(data.truth, np.eye(12))) == 0.0
    np.testing.assert_allclose(data.error(LowRankMatrix(2 * data.truth, np.eye(12))), 1.0)


def test_sub_gradient_is_the_symmetric_mean_of_signed_measurements():
    rng = np.random.default_rng(0)
    A, noise, X = rng.standard_normal((40, 5, 5)), rng.standard_normal(40), np.diag(np.arange(5.0))
    signs = np.sign(np.einsum("pij,ij->p", A, X) - noise)
    Q = np.einsum("p,pij->ij", signs, A) / 40
    found = subgradient.sub_gradient(X, A, noise)
    np.testing.assert_allclose(found, (Q + Q.T) / 2, rtol=1e-12, atol=1e-14)


def test_line_of_points_on_and_off_a_line():
    slope, fit = subgradient.line([1.0, 2.0, 3.0], [5.0, 7.0, 9.0])
    np.testing.assert_allclose([slope, fit], [2.0, 1.0], rtol=1e-12)
    slope, fit = subgradient.line([0.0, 1.0, 2.0], [0.0, 3.0, 0.0])
    np.testing.assert_allclose([slope, fit], [0.0, 0.0], atol=1e-12)


def test_sub_gradient_runs_recover_and_a_smaller_start_takes_longer():
    data = subgradient.measure(8, 1, 240, outliers=0.1, seed=0)
    assert data.error(subgradient.solve(data, 8)) < 1e-3
    assert data.error(subgradient.solve(data, 8, rho=0.8)) > 0.9  # frozen at 0
    early, late = (subgradient.iterations_to(data, 8, 0.3, alpha=a) for a in (1e-2, 1e-6))
    # ln(10) / ln(1.3) = 8.8 iterations a decade for the only direction
    assert 25 <= late - early <= 45


def test_pictures_are_restored_with_a_ridge_that_bears_wrong_pixels():
    rng = np.random.default_rng(0)
    truth = 0.5 + 0.3 * np.outer(np.sin(np.arange(40) / 5), np.cos(np.arange(30) / 4))
    data = np.where(rng.random(truth.shape) < 0.1, 0.0, truth)
    data[rng.random(truth.shape) < 0.3] = np.nan
    errors = {
        loss: np.abs(salt_and_pepper.ridge(data, 1, 0.003, 60, 0, loss).x.to_dense() - truth).max()
        for loss in ("squared", "huber")
    }
    assert errors["huber"] < 0.05
    assert errors["huber"] < 0.2 * errors["squared"]


@pytest.mark.slow
@pytest.mark.parametrize("name", REPRODUCTIONS)
def test_the_small_scale_is_within_its_bands(name):
    report = reproduce(name, "smoke")
    assert [section.error for section in report.sections if section.error] == []
    assert report.ok, report.to_terminal()
    assert any(row.verdict == "within" for section in report.sections for row in section.rows)
