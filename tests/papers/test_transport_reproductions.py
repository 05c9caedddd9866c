"""Helpers of the reproductions of sparse transport: data, comparison methods, routing."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from lowrank_opt.papers import color_transfer, expert_routing
from lowrank_opt.papers import sparse_transport as transport


@pytest.fixture
def case():
    rng = np.random.default_rng(0)
    C = rng.uniform(size=(5, 4))
    a, b = rng.uniform(0.5, 1.5, 5), rng.uniform(0.5, 1.5, 4)
    return C, a / a.sum(), b / b.sum()


def test_bins_are_discretised_gaussians_of_total_one():
    mass = transport.bins(64, (30.0, 4.0))
    x = np.arange(64)
    np.testing.assert_allclose(mass.sum(), 1.0, rtol=1e-14)
    np.testing.assert_allclose(mass @ x, 30.0, rtol=1e-9)
    np.testing.assert_allclose(mass @ (x - 30.0) ** 2, 16.0, rtol=1e-6)
    both = transport.bins(64, (16.0, 2.0), (48.0, 4.0))
    np.testing.assert_allclose(both[:32].sum(), 0.5, atol=1e-4)  # equal weights


def test_squared_distances_by_hand():
    C = transport.squared_distances(np.array([[0.0, 0.0], [1.0, 2.0]]), np.array([[3.0, 4.0]]))
    np.testing.assert_array_equal(C, [[25.0], [8.0]])


@pytest.mark.parametrize("seed", range(5))
def test_monotone_coupling_costs_what_the_linear_program_costs(seed):
    rng = np.random.default_rng(seed)
    x, y = np.sort(rng.uniform(size=(2, 7)), axis=1)
    C = (x[:, None] - y[None, :]) ** 2
    a, b = rng.dirichlet(np.ones(7), 2)
    plan = transport.linear_program(C, a, b)
    np.testing.assert_allclose(plan.sum(axis=1), a, rtol=1e-9)
    np.testing.assert_allclose(plan.sum(axis=0), b, rtol=1e-9)
    assert np.count_nonzero(plan > 1e-12) <= 13  # a vertex
    np.testing.assert_allclose(transport.monotone_cost(C, a, b), np.sum(C * plan), rtol=1e-9)


def test_monotone_coupling_with_equal_masses_is_the_sorted_matching():
    x, y = np.array([0.0, 1.0, 5.0]), np.array([1.0, 4.0, 6.0])
    a = np.full(3, 1 / 3)
    C = (x[:, None] - y[None, :]) ** 2
    np.testing.assert_allclose(transport.monotone_cost(C, a, a), np.mean((x - y) ** 2), rtol=1e-12)


@pytest.mark.parametrize("reg", [1.0, 0.03])
def test_entropic_plan_has_its_form_and_its_marginals(case, reg):
    C, a, b = case
    log_plan, error = transport.sinkhorn(C, a, b, reg, tol=1e-12)
    T = np.exp(log_plan)
    assert error <= 1e-12
    np.testing.assert_allclose(T.sum(axis=1), a, rtol=1e-9)
    np.testing.assert_allclose(T.sum(axis=0), b, rtol=1e-9)
    # C + reg log T is a sum of a function of the row and one of the column
    rest = C + reg * log_plan
    rest = rest - rest[:1] - rest[:, :1] + rest[0, 0]
    np.testing.assert_allclose(rest, 0.0, atol=1e-10)


def test_weak_entropy_comes_to_the_linear_program(case):
    C, a, b = case
    T = np.exp(transport.sinkhorn(C, a, b, 1e-3)[0])
    best = np.sum(C * transport.linear_program(C, a, b))
    assert best - 1e-6 <= np.sum(C * T) <= best + 1e-3 * np.log(20)


def test_conic_value_at_the_two_ends(case):
    pytest.importorskip("cvxpy")
    import cvxpy as cp

    C, a, b = case
    gamma = 0.5
    plan = transport.linear_program(C, a, b)
    closed = np.sum(C * plan) + 0.5 * gamma * b @ b
    np.testing.assert_allclose(transport.conic_value(C, a, b, gamma, 1), closed, rtol=1e-6)
    T = cp.Variable(C.shape, nonneg=True)
    objective = cp.Minimize(cp.sum(cp.multiply(C, T)) + 0.5 * gamma * cp.sum_squares(T))
    quadratic = cp.Problem(objective, [cp.sum(T, axis=1) == a, cp.sum(T, axis=0) == b])
    quadratic.solve(solver=cp.CLARABEL)
    found = transport.conic_value(C, a, b, gamma, 5)
    np.testing.assert_allclose(found, quadratic.value, rtol=1e-6)


def test_nonzeros_are_counted_against_the_mass_of_the_column():
    T = np.array([[1e-3, 1e-20], [1e-30, 1e-13], [0.5, 0.0]])
    np.testing.assert_array_equal(transport.nonzeros(T, np.array([0.5, 1e-13])), [2, 2])


def test_recolouring_moves_pixels_with_their_palette_entry():
    source = color_transfer.Palette(
        np.array([[0.0, 0.0, 0.0], [0.5, 0.5, 0.5], [1.0, 1.0, 1.0]]),
        np.array([0.5, 0.5, 0.0]), np.array([0, 1, 1, 2]),
    )  # fmt: skip
    target = color_transfer.Palette(
        np.array([[0.2, 0.0, 0.0], [0.6, 1.0, 0.0]]), np.array([0.5, 0.5]), None
    )
    T = np.array([[0.25, 0.25], [0.25, 0.25], [0.0, 0.0]])
    picture = np.array([[[0.0, 0.1, 0.0], [0.5, 0.5, 0.5]], [[0.9, 0.5, 0.5], [1.0, 1.0, 1.0]]])
    moved = color_transfer.recolor(picture, source, target, T)
    expected = [[[0.4, 0.6, 0.0], [0.4, 0.5, 0.0]], [[0.8, 0.5, 0.0], [1.0, 1.0, 1.0]]]
    np.testing.assert_allclose(moved, expected, atol=1e-12)


def test_palette_has_the_shares_of_the_pixels():
    picture = np.zeros((4, 4, 3))
    picture[0] = 1.0  # four of sixteen pixels are white
    found = color_transfer.palette(picture, picture[:1], 2, 0)
    np.testing.assert_allclose(np.sort(found.masses), [0.25, 0.75])
    white = np.flatnonzero(found.colors[:, 0] > 0.5)
    np.testing.assert_array_equal(found.labels, np.repeat(white, 4))
    assert color_transfer.photograph("flower", (20, 30)).shape == (20, 30, 3)


def test_assigned_is_the_best_of_all_balanced_assignments():
    gates = np.random.default_rng(0).uniform(size=(6, 2))
    best = max(
        sum(gates[i, int(i not in first)] for i in range(6))
        for first in itertools.combinations(range(6), 3)
    )
    np.testing.assert_allclose(expert_routing.assigned(gates), best, rtol=1e-12)


def test_logits_have_popular_experts_and_their_seed():
    drawn = expert_routing.logits(2000, 8, seed=1)
    np.testing.assert_array_equal(drawn, expert_routing.logits(2000, 8, seed=1))
    chosen = np.bincount(drawn.argmax(axis=1), minlength=8)
    assert chosen.max() > 2 * 2000 / 8
    assert chosen.min() < 0.5 * 2000 / 8


def plane_result(**fields):
    from lowrank_opt.core import Certificate, Result

    certificate = Certificate(residual=1e-9, kind="test", objective=2.0, gap=0.5, details={})
    return Result(certificate=certificate, time=0.1, **fields)


def test_row_of_a_gap_is_judged_only_when_there_is_a_plan():
    found = plane_result(plan_status="feasible", gap=0.5, dual_value=-2.0)
    row = transport._gap_row("case", found)
    assert row.verdict == "within"
    assert row.ours == 0.25
    assert "sanity check" in row.name  # "within" is no praise of the gap
    wrong = plane_result(plan_status="feasible", gap=-0.5, dual_value=2.0)
    assert transport._gap_row("case", wrong).verdict == "out"  # below a proved bound
    for status in ("columns", "relaxed", "none"):
        row = transport._gap_row("case", plane_result(plan_status=status))
        assert row.verdict == "unjudged"
        assert status in row.ours


def test_capped_solves_the_problem_that_the_conic_program_solves(case):
    C, a, b = case
    result = transport.capped(C, a, b, 0.5, 2, tol=1e-8, rounding="none")
    expected = transport.conic_value(C, a, b, 0.5, 2)
    np.testing.assert_allclose(result.dual_value, expected, rtol=1e-6)


def test_line_of_the_table_counts_and_weighs_the_plan():
    T = np.array([[0.25, 0.0], [0.25, 0.5]])
    plan = color_transfer.Plan(T, 1e-3, 2.0, gap=0.1)
    C = np.array([[1.0, 9.0], [2.0, 4.0]])
    cells = plan.cells("name", C, np.array([0.5, 0.5]))
    assert cells == ["name", 0.75, 1.5, 2, 2.75, 1e-3, 0.1, 2.0]
    np.testing.assert_array_equal(plan.turned().T, T.T)
