"""Many programs with one matrix: kernels against array code, answers against HiGHS."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from scipy.optimize import linprog

from lowrank_opt.core.errors import ParameterError, ProblemError, ProblemTypeError
from lowrank_opt.core.state import Status
from lowrank_opt.monotone import LinearProgram, PrimalDual, QuadraticProgram
from lowrank_opt.monotone import kernels_batch as kernels
from lowrank_opt.monotone import reference_batch as reference
from lowrank_opt.monotone.batch import solve_batch
from lowrank_opt.monotone.scaling import compressed

INF = np.inf


def scaled_data(k=8, m=7, n=11, seed=0):
    """A small matrix by rows and by columns, and data of k programs with every kind of bound."""
    rng = np.random.default_rng(seed)
    A = sp.csr_array(rng.standard_normal((m, n)) * (rng.random((m, n)) < 0.6))
    cost = rng.standard_normal((n, k))
    lower = np.where(rng.random((n, k)) < 0.6, -rng.random((n, k)), -INF)
    upper = np.where(rng.random((n, k)) < 0.6, rng.random((n, k)), INF)
    row_lower = np.where(rng.random((m, k)) < 0.6, rng.standard_normal((m, k)), -INF)
    row_upper = np.where(rng.random((m, k)) < 0.6, np.maximum(row_lower, 0.3), INF)
    return A, compressed(A), compressed(A.T.tocsr()), (cost, lower, upper, row_lower, row_upper)


def feasible_batch(k, m=12, n=20, seed=0):
    """Programs with one matrix whose answers exist; rows of all kinds."""
    rng = np.random.default_rng(seed)
    A = rng.standard_normal((m, n)) * (rng.random((m, n)) < 0.6)
    X, Y = np.maximum(rng.standard_normal((k, n)), 0.0), rng.standard_normal((k, m))
    Y[:, : m // 2] = np.maximum(Y[:, : m // 2], 0.0)
    C = Y @ A + rng.random((k, n)) * (X == 0)
    B = X @ A.T
    slack = np.where(Y == 0, rng.random((k, m)), 0.0)
    high = np.where(np.arange(m) < m // 2, INF, B)
    return LinearProgram(C[0], A, B[0], B[0], 0.0), C, B - slack, high, (C * X).sum(1)


def highs(program):
    equal = program.constraint_lower == program.constraint_upper
    low, high = np.isfinite(program.constraint_lower), np.isfinite(program.constraint_upper)
    A = program.A.toarray()
    return linprog(
        program.c,
        A_ub=np.vstack([A[high & ~equal], -A[low & ~equal]]),
        b_ub=np.r_[
            program.constraint_upper[high & ~equal], -program.constraint_lower[low & ~equal]
        ],
        A_eq=A[equal],
        b_eq=program.constraint_lower[equal],
        bounds=np.column_stack([program.lower, program.upper]),
    )


# -- kernels ---------------------------------------------------------------------------------------


def test_iterations_are_those_of_array_code():
    A, rows, columns, data = scaled_data()
    (n, k), m = data[0].shape, A.shape[0]
    rng = np.random.default_rng(1)
    x, x0 = np.clip(rng.standard_normal((2, n, k)), data[1], data[2])
    y, y0 = rng.standard_normal((2, m, k))
    tau, sigma, inner = rng.random(k) + 0.1, rng.random(k) + 0.1, np.arange(k) * 1.0
    expected = reference.halpern_steps(A, data, x, y, x0, y0, tau, sigma, 0.9, inner, 5)
    reflected, x_hat = np.empty((2, n, k))
    y_hat, move = np.empty((2, m, k))
    mix, sums = np.empty((2, k))
    kernels.iterate_batch(
        *columns.parts, *rows.parts, *data, x, y, x0, y0, reflected, x_hat, y_hat, move, tau,
        sigma, mix, sums, 0.9, inner, 5, True,
    )  # fmt: skip
    for ours, theirs in zip((x, y, x_hat, y_hat), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-11, atol=1e-11)


def test_measures_are_those_of_array_code():
    A, rows, columns, (cost, lower, upper, low, high) = scaled_data()
    (n, k), m = cost.shape, A.shape[0]
    rng = np.random.default_rng(2)
    x = np.clip(rng.standard_normal((n, k)), lower, upper)
    y = rng.standard_normal((m, k))
    y[((y > 0) & (low == -INF)) | ((y < 0) & (high == INF))] = 0.0
    unit_m, unit_n, side, scale = rng.random(m), rng.random(n), rng.random(k), rng.random(k)
    size_m, size_n = rng.random((m, k)), rng.random((n, k))
    out, sums, sizes = np.empty((4, k)), np.empty(k), np.empty(k)
    kernels.measure_rows(*rows.parts, x, y, low, high, unit_m, side, size_m, sums, sizes, out[:3])
    unit = np.outer(unit_m, side)
    expected = reference.measured_rows(A, x, y, low, high, unit, size_m)
    np.testing.assert_allclose(out[:3], expected, rtol=1e-12)
    kernels.measure_columns(
        *columns.parts, cost, y, x, lower, upper, unit_n, scale, size_n, sums, sizes, out
    )
    unit = np.outer(unit_n, scale)
    expected = reference.measured_columns(A, cost, x, y, lower, upper, unit, size_n)
    np.testing.assert_allclose(out, expected, rtol=1e-12, atol=1e-14)


def test_products_and_moves():
    A, rows, _, _ = scaled_data()
    points, out, norms = (
        np.random.default_rng(3).standard_normal((11, 8)),
        np.empty((7, 8)),
        np.ones(8),
    )
    kernels.products(*rows.parts, points, out)
    np.testing.assert_allclose(out, A @ points, rtol=1e-12, atol=1e-14)
    kernels.column_moves(points, 0.5 * points, norms)
    np.testing.assert_allclose(norms, 0.25 * (points**2).sum(0))


# -- answers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("k", "finish"), [(1, True), (6, False), (9, True)])
def test_answers_have_the_planted_values(k, finish):
    program, C, low, high, values = feasible_batch(k, seed=k)
    results = solve_batch(
        program, c=C, constraint_lower=low, constraint_upper=high, finish=finish, tol=1e-7
    )
    assert len(results) == k
    for q, result in enumerate(results):
        assert result.status is Status.CONVERGED
        assert result.certificate.residual <= 1e-6
        assert result.fun == pytest.approx(values[q], rel=1e-5, abs=1e-5)
        single = LinearProgram(C[q], program.A, low[q], high[q], 0.0)
        assert result.certificate.residual == single.certificate(result.x).residual
        np.testing.assert_allclose(result.z, single.reduced_costs(result.x) * (result.z != 0))
    assert highs(LinearProgram(C[0], program.A, low[0], high[0], 0.0)).fun == pytest.approx(
        values[0], rel=1e-6
    )


def test_bounds_of_variables_differ():
    program, _, _, _, _ = feasible_batch(1)
    program = LinearProgram(program.c, program.A, program.constraint_lower - 1.0)
    rng = np.random.default_rng(0)
    lower, upper = -rng.random((5, 20)) - 1, rng.random((5, 20)) + 3
    for q, result in enumerate(solve_batch(program, lower=lower, upper=upper, tol=1e-8)):
        single = LinearProgram(
            program.c, program.A, program.constraint_lower, None, lower[q], upper[q]
        )
        assert result.fun == pytest.approx(highs(single).fun, rel=1e-5)


def test_programs_without_an_answer_do_not_hold_up_the_others():
    lp = LinearProgram(
        [-1.0, -1.0, 0.5], [[1.0, 1.0, 0.0], [1.0, -1.0, 1.0]], None, [4.0, 2.0], 0.0
    )
    sides = np.array([[4.0, 2.0], [-1.0, 2.0], [3.0, 2.0], [3.0, 1.0]])
    upper = np.full((4, 3), INF)
    upper[3] = [-1.0, 1.0, 1.0]  # contradicts the lower bounds
    results = solve_batch(lp, constraint_upper=sides, upper=upper)
    names = [result.status.name for result in results]
    assert names == ["CONVERGED", "INFEASIBLE", "CONVERGED", "INFEASIBLE"]
    assert [r.fun for r in results[::2]] == pytest.approx([-4.0, -3.0], rel=1e-5)
    infeasible = LinearProgram(lp.c, lp.A, None, sides[1], 0.0)
    assert infeasible.farkas(results[1].ray).proved


def test_unbounded_ones_are_proved():
    lp = LinearProgram([1.0, 1.0], [[1.0, -1.0]], -1.0, 1.0, 0.0)
    costs = [[1.0, 1.0], [-1.0, -1.0], [2.0, -1.0]]
    results = solve_batch(lp, c=costs)
    assert [r.status.name for r in results] == ["CONVERGED", "UNBOUNDED", "CONVERGED"]
    assert LinearProgram(costs[1], lp.A, -1.0, 1.0, 0.0).recession(results[1].ray).proved
    assert results[2].fun == pytest.approx(-1.0)


def test_threads_and_starts():
    program, C, low, high, values = feasible_batch(7, seed=2)
    given = {"c": C, "constraint_lower": low, "constraint_upper": high}
    first = solve_batch(program, **given, n_threads=2, tol=1e-8)
    assert [r.fun for r in first] == pytest.approx(values, rel=1e-5)
    again = solve_batch(program, **given, x0=[r.x for r in first], tol=1e-7)
    assert [r.nit for r in again] == [0] * 7
    one = solve_batch(program, **given, x0=first[0].x, tol=1e-7)
    assert one[0].nit == 0
    assert [r.fun for r in one] == pytest.approx(values, rel=1e-5)


def test_limits_return_the_best_point():
    program, C, low, high, _ = feasible_batch(5)
    given = {"c": C, "constraint_lower": low, "constraint_upper": high}
    for result in solve_batch(program, **given, max_iter=10, finish=False):
        assert result.status is Status.ITERATION_LIMIT
        assert result.nit == 10
        assert not result.success
        assert result.residual == pytest.approx(result.certificate.residual, rel=1e-6)
    late = solve_batch(program, **given, max_time=1e-9, finish=False, tol=1e-12)
    assert {result.status for result in late} == {Status.TIME_LIMIT}
    assert "max_time" in late[0].message


def test_the_order_is_kept_when_programs_leave_at_different_times():
    program, C, low, high, values = feasible_batch(13, m=30, n=60, seed=5)
    results = solve_batch(
        program, c=C, constraint_lower=low, constraint_upper=high, finish=False, tol=1e-7
    )
    assert len({result.nit for result in results}) > 3
    assert [r.fun for r in results] == pytest.approx(values, rel=1e-5)


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({}, "none of constraint_lower"),
        ({"c": [1.0, 2.0]}, r"c has shape \(2,\); expected \(k, 2\)"),
        ({"constraint_upper": [[1.0, 2.0]]}, r"expected \(k, 1\)"),
        ({"c": [[1.0, 2.0]], "upper": np.ones((2, 2))}, "c has 1, upper has 2"),
        ({"c": [[1.0, np.nan]]}, "NaN|nan|finite"),
        ({"c": np.ones((2, 2)), "x0": [PrimalDual(np.zeros(2), np.zeros(1))]}, "1 points for 2"),
    ],
)
def test_bad_arrays(keywords, message):
    lp = LinearProgram([1.0, 1.0], [[1.0, 1.0]], 1.0, None, 0.0)
    with pytest.raises(ProblemError, match=message):
        solve_batch(lp, **keywords)


def test_bad_parameters_and_problems():
    lp = LinearProgram([1.0, 1.0], [[1.0, 1.0]], 1.0, None, 0.0)
    with pytest.raises(ParameterError, match="tol"):
        solve_batch(lp, c=[[1.0, 1.0]], tol=-1.0)
    with pytest.raises(ProblemTypeError, match="QuadraticProgram"):
        solve_batch(QuadraticProgram(np.eye(2), [1.0, 1.0]), c=[[1.0, 1.0]])
