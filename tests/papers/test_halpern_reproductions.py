"""Reproduction of variance-reduced Halpern iteration: data, measures, curves, judged rows."""

from __future__ import annotations

import math

import numpy as np
import pytest

from lowrank_opt.monotone import (
    ExtraGradient,
    FixedPointProblem,
    Halpern,
    MatrixGame,
    MonotoneInclusion,
    VarianceReducedHalpern,
)
from lowrank_opt.papers import halpern as paper


@pytest.mark.parametrize("weights", ["columns", "rows"])
def test_payoffs_entry_by_entry(weights):
    A = paper.policeman_burglar(6, weights)
    # NumPy's legacy generator with seed 1, as printed in many tutorials.
    w = [1.62434536, 0.61175641, 0.52817175, 1.07296862, 0.86540763, 2.3015387]
    for i in range(6):
        for j in range(6):
            weight = w[j] if weights == "columns" else w[i]
            assert A[i, j] == pytest.approx(weight * (1 - math.exp(-0.8 * abs(i - j))), abs=1e-8)


def test_saddle_is_that_of_its_lagrangian():
    """Partial derivatives of x'Hx / 2 - h'x - y'(Ax - b), by differences, from the definition."""
    n = 5
    M, q = paper.ouyang_xu(n)
    B = np.zeros((n, n))
    for i in range(n):  # row i takes differences of neighbours, from the last variable on
        B[i, n - 1 - i] = 1.0
        if i < n - 1:
            B[i, n - 2 - i] = -1.0
    A, h, b = B / 4, np.eye(n)[-1] / 4, np.ones(n) / 4

    def phi(x, y):
        return float(x @ A.T @ A @ x - h @ x - y @ (A @ x - b))

    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((2, n))
    e = 1e-5 * np.eye(n)
    by_x = [(phi(x + d, y) - phi(x - d, y)) / 2e-5 for d in e]
    by_y = [(phi(x, y + d) - phi(x, y - d)) / 2e-5 for d in e]
    np.testing.assert_allclose(M @ np.r_[x, y] + q, [*by_x, *(-g for g in by_y)], atol=1e-9)
    u = paper.exact_saddle(M, q)
    np.testing.assert_allclose(A @ u[:n], b, atol=1e-12)
    np.testing.assert_allclose(A.T @ u[n:], 2 * A.T @ b - h, atol=1e-12)


def test_value_and_residual_of_a_diagonal_game():
    a = np.array([1.0, 2.0, 4.0])
    A = np.diag(a)
    assert paper.game_value(A) == pytest.approx(1 / np.sum(1 / a), abs=1e-9)
    p = (1 / a) / np.sum(1 / a)
    assert paper.natural_residual(A, p, p) < 1e-15
    # From two corners: x moves by the projection of (-1, 0, 0) away from (1, 0, 0).
    e = np.eye(3)[0]
    moved = np.array([0.0, 0.0, 0.0]) + 1 / 3
    expected = math.hypot(np.linalg.norm(e - moved), 0.0)
    assert paper.natural_residual(A, e, e) == pytest.approx(expected)


def test_a_curve_counts_passes_and_stops():
    M = np.kron(np.eye(2), [[0.0, 1.0], [-1.0, 0.0]])  # four terms
    problem = MonotoneInclusion((M, np.zeros(4)), np.array([3.0, 0.0, 4.0, 0.0]))
    step = 0.5
    curve = paper.Curve(
        problem, ExtraGradient(step_size=step, **paper._run(check_every=1)), 21,
        lambda x: float(np.linalg.norm(x)), dense=True,
    )  # fmt: skip
    # u+ = (I - step M + step² M²) u: a factor of the length in every step, two passes each.
    factor = math.hypot(1 - step**2, step)
    np.testing.assert_allclose(curve.values, 5 * factor**curve.nit, rtol=1e-12)
    np.testing.assert_allclose(np.diff(curve.epochs), 2)
    assert 21 <= curve.epochs[-1] <= 23
    assert not curve.diverged


def test_a_curve_says_when_a_run_diverged():
    problem = MonotoneInclusion((np.eye(2), np.zeros(2)), np.ones(2))
    solver = VarianceReducedHalpern(eta=1e3, restart=None, **paper._run(check_every=1))
    curve = paper.Curve(problem, solver, 1e6, lambda x: float(np.linalg.norm(x)))
    assert curve.diverged
    assert curve.values[-2] > 100 * curve.values[0]  # the iterates, not the best point
    same = dict.fromkeys(("EG", "EAG", "VR-EG", "Alg. 1", "Alg. 2"), curve)
    assert [row.verdict for row in paper._order("x", same)] == ["not reproduced"] * 2


def test_bounds_of_theorems_are_within_and_a_false_closed_form_is_not():
    section = paper._theorems({"length": 60, "saddle": 8}, 0)
    assert section.ok
    assert all(row.verdict == "within" for row in section.rows)
    error, ratio = paper._rotation(0.1, 40)
    assert error < 1e-13
    assert ratio < 1.0  # π / 0.1 is not a whole number
    # With restarts the closed form does not hold: the check can fail.
    turn = np.array([[0.8, -0.6], [0.6, 0.8]])
    problem = FixedPointProblem(lambda u: turn @ u, np.ones(2))
    curve = paper.Curve(
        problem, Halpern(**paper._run(check_every=1, max_iter=60)), math.inf,
        lambda u: float(np.linalg.norm(u - turn @ u)), dense=True,
    )  # fmt: skip
    k = curve.nit + 1
    powers = [np.linalg.matrix_power(turn, int(j)) @ np.ones(2) for j in k]
    expected = [np.linalg.norm(np.ones(2) - v) for v in powers]
    assert np.abs(curve.values * k - expected).max() > 1e-3


def test_where_the_snapshot_moves_decides():
    section = paper._snapshots(1)
    assert [row.verdict for row in section.rows] == ["within", "within"]


def test_games_are_bracketed_by_their_bounds():
    section = paper._games({"game": 12, "epochs": 20}, 0)
    judged = [row for row in section.rows if row.band is not None]
    assert [row.ours for row in judged] == [0.0, 0.0]
    A = paper.policeman_burglar(12)
    value = MatrixGame(A).certificate(([1.0, *[0.0] * 11], np.full(12, 1 / 12))).details
    assert value["lower"] <= paper.game_value(A) <= value["upper"]
