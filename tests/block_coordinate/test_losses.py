"""Losses: closed forms, derivatives, conjugates, sizes that overflow, kernels against arrays."""

from __future__ import annotations

import numpy as np
import pytest
from numba import njit
from scipy.optimize import minimize_scalar
from scipy.special import expit, log_softmax

from lowrank_opt.block_coordinate.kernels_losses import (
    loss_conjugate,
    loss_curvature,
    loss_slope,
    loss_value,
)
from lowrank_opt.block_coordinate.losses import Huber, Logistic, Poisson, Softmax, Squared

SCALAR = [Squared(), Logistic(), Huber(), Huber(0.1), Poisson()]
NAMES = [repr(loss) for loss in SCALAR]


@njit(error_model="numpy")
def all_four(loss, y, z, theta):
    return (
        loss_value(loss, y, z),
        loss_slope(loss, y, z),
        loss_curvature(loss, y, z),
        loss_conjugate(loss, y, theta),
    )


def targets(loss):
    return (-1.0, 1.0) if isinstance(loss, Logistic) else (0.0, 2.5)


def test_values_are_those_of_their_formulas():
    assert loss_value(Squared(), 1.0, 3.0) == 2.0
    assert loss_value(Logistic(), 1.0, 0.3) == pytest.approx(np.log1p(np.exp(-0.3)))
    assert loss_value(Huber(2.0), 1.0, 2.0) == 0.5
    assert loss_value(Huber(2.0), 1.0, 6.0) == 2.0 * 5.0 - 2.0
    assert loss_value(Poisson(), 3.0, 0.5) == pytest.approx(np.exp(0.5) - 1.5)
    z = np.array([[0.1, -2.0, 3.0], [1e4, 0.0, -1e4]])
    y = np.eye(3)[[1, 0]]
    expected = -np.sum(y * log_softmax(z, axis=1), axis=1)
    np.testing.assert_allclose(loss_value(Softmax(), y, z), expected, rtol=1e-14)


@pytest.mark.parametrize("loss", SCALAR, ids=NAMES)
def test_slopes_and_curvatures_are_derivatives(loss):
    z = np.linspace(-2.12, 2.33, 23)  # no corner of a loss among them
    for y in targets(loss):
        e = 1e-6
        slope = (loss_value(loss, y, z + e) - loss_value(loss, y, z - e)) / (2 * e)
        np.testing.assert_allclose(loss_slope(loss, y, z), slope, rtol=1e-7, atol=1e-8)
        away = np.abs(np.abs(z - y) - getattr(loss, "delta", 1e9)) > 1e-5
        curvature = (loss_slope(loss, y, z + e) - loss_slope(loss, y, z - e)) / (2 * e)
        np.testing.assert_allclose(
            loss_curvature(loss, y, z)[away], curvature[away], rtol=1e-7, atol=1e-8
        )


def test_the_derivative_of_softmax_is_a_distribution_less_the_class():
    z, y = np.array([[0.2, 1.0, -0.5]]), np.eye(3)[[2]]
    p = np.exp(log_softmax(z, axis=1))
    np.testing.assert_allclose(loss_slope(Softmax(), y, z), p - y, rtol=1e-14)
    np.testing.assert_allclose(loss_curvature(Softmax(), y, z), p * (1 - p), rtol=1e-14)


@pytest.mark.parametrize("loss", SCALAR, ids=NAMES)
def test_conjugates_are_suprema(loss):
    for y in targets(loss):
        for z in (-1.7, 0.0, 0.4):
            theta = 0.9 * float(loss_slope(loss, y, z))
            found = minimize_scalar(
                lambda u, y=y, theta=theta: loss_value(loss, y, u) - theta * u,
                bounds=(-30, 30), method="bounded", options={"xatol": 1e-10},
            )  # fmt: skip
            assert loss_conjugate(loss, y, theta) == pytest.approx(-found.fun, rel=1e-8, abs=1e-9)


def test_conjugates_are_infinite_outside_their_domains():
    assert loss_conjugate(Logistic(), 1.0, 0.1) == np.inf
    assert loss_conjugate(Logistic(), 1.0, -1.1) == np.inf
    assert loss_conjugate(Logistic(), 1.0, -1.0) == 0.0
    assert loss_conjugate(Huber(1.0), 0.0, 1.01) == np.inf
    assert loss_conjugate(Poisson(), 2.0, -2.1) == np.inf
    assert loss_conjugate(Poisson(), 2.0, -2.0) == 0.0
    y = np.eye(2)
    theta = np.array([[-0.5, 0.5], [0.1, 0.1]])
    np.testing.assert_allclose(loss_conjugate(Softmax(), y, theta), [np.log(0.5), np.inf])


def test_huge_predictors_neither_overflow_nor_lose_tails():
    z = np.array([-1e6, -800.0, 800.0, 1e6])
    np.testing.assert_array_equal(loss_value(Logistic(), 1.0, z), [1e6, 800.0, 0.0, 0.0])
    np.testing.assert_array_equal(loss_slope(Logistic(), 1.0, z), [-1.0, -1.0, 0.0, 0.0])
    np.testing.assert_array_equal(loss_curvature(Logistic(), 1.0, z), 0.0)
    np.testing.assert_allclose(loss_slope(Logistic(), 1.0, 40.0), -expit(-40.0), rtol=1e-14)
    assert loss_value(Poisson(), 1.0, 1000.0) == np.inf
    assert loss_value(Huber(2.0), 0.0, 1e200) == 2e200
    assert loss_value(Softmax(), np.array([[1.0, 0.0]]), np.array([[-1e8, 1e8]]))[0] == 2e8


@pytest.mark.parametrize("loss", SCALAR, ids=NAMES)
def test_kernels_compute_what_arrays_do(loss):
    for y in targets(loss):
        for z in (-900.0, -3.0, -0.05, 0.0, 0.7, 5.0, 700.0):
            for theta in (-1.0, -0.05, 0.0, 0.05, 2.0):
                twin = [
                    loss_value(loss, y, z),
                    loss_slope(loss, y, z),
                    loss_curvature(loss, y, z),
                    loss_conjugate(loss, y, theta),
                ]
                np.testing.assert_allclose(
                    all_four(loss, y, z, theta), twin, rtol=1e-13, atol=1e-300
                )
