"""Halpern PDHG inside cvxpy, against cvxpy's own solvers."""

from __future__ import annotations

import cvxpy as cp
import numpy as np
import pytest

from lowrank_opt.core.errors import ParameterError, ProblemError
from lowrank_opt.core.history import History
from lowrank_opt.core.result import Result
from lowrank_opt.core.state import Status
from lowrank_opt.monotone.cvxpy_solver import CvxpyHalpernPDHG, from_cvxpy_problem
from lowrank_opt.monotone.highs import solve_with_highs
from lowrank_opt.monotone.linear_program import LinearProgram
from lowrank_opt.monotone.quadratic_program import QuadraticProgram


def least_deviations(rng):
    A, b = rng.standard_normal((12, 4)), rng.standard_normal(12)
    x = cp.Variable(4)
    return cp.Problem(cp.Minimize(cp.norm1(A @ x - b)), [cp.sum(x) == 0.1, x <= 2])


def maximum_with_bounds(rng):
    A = rng.random((5, 8))
    x = cp.Variable(8, bounds=[0, 1])
    y = cp.Variable(2, nonneg=True)
    limits = [A @ x + cp.sum(y) <= A.sum(1) / 3, y[0] - y[1] >= -0.2]
    return cp.Problem(cp.Maximize(rng.random(8) @ x + 0.3 * y[0] + 2), limits)


def matrix_variable(rng):
    C = rng.random((4, 5))
    X = cp.Variable((4, 5), nonneg=True)
    a, b = np.full(4, 0.25), np.full(5, 0.2)
    return cp.Problem(
        cp.Minimize(cp.sum(cp.multiply(C, X))), [cp.sum(X, axis=1) == a, cp.sum(X, axis=0) == b]
    )


def portfolio(rng):
    F = rng.standard_normal((6, 6))
    w = cp.Variable(6)
    budget, floor = cp.sum(w) == 1, w >= 0
    return cp.Problem(cp.Minimize(cp.quad_form(w, F @ F.T + np.eye(6)) - rng.random(6) @ w),
                      [budget, floor])  # fmt: skip


def least_squares(rng):
    A, b = rng.standard_normal((9, 4)), rng.standard_normal(9)
    x = cp.Variable(4)
    return cp.Problem(cp.Minimize(cp.sum_squares(A @ x - b) + 1), [cp.abs(x) <= 0.3, x[0] >= -1])


PROBLEMS = [least_deviations, maximum_with_bounds, matrix_variable, portfolio, least_squares]


@pytest.mark.parametrize("make", PROBLEMS)
def test_values_and_multipliers(make):
    rng = np.random.default_rng(4)
    problem = make(rng)
    known = problem.solve(solver=cp.CLARABEL)
    expected = [v.value for v in problem.variables()]
    duals = [c.dual_value for c in problem.constraints]
    value = problem.solve(solver=CvxpyHalpernPDHG(), tol=1e-8, warm_start=False)
    assert problem.status == cp.OPTIMAL
    assert value == pytest.approx(known, abs=1e-5)
    for variable, x in zip(problem.variables(), expected, strict=True):
        np.testing.assert_allclose(variable.value, x, atol=2e-4)
    if make is not matrix_variable:  # one redundant row: multipliers are not unique
        for constraint, y in zip(problem.constraints, duals, strict=True):
            np.testing.assert_allclose(constraint.dual_value, y, atol=2e-4)
    stats = problem.solver_stats
    assert stats.solver_name == "HALPERN_PDHG"
    assert isinstance(stats.extra_stats, Result)
    assert stats.extra_stats.certificate.residual <= 1e-7
    assert stats.num_iters == stats.extra_stats.nit


def test_infeasible_and_unbounded():
    x = cp.Variable(2)
    problem = cp.Problem(cp.Minimize(cp.sum(x)), [x >= 1, cp.sum(x) <= 1])
    assert problem.solve(solver=CvxpyHalpernPDHG()) == np.inf
    assert problem.status == cp.INFEASIBLE
    result = problem.solver_stats.extra_stats
    assert result.status is Status.INFEASIBLE
    assert from_cvxpy_problem(problem).farkas(result.ray).proved
    problem = cp.Problem(cp.Maximize(cp.sum(x)), [x[0] <= 1, x[1] >= x[0]])
    assert problem.solve(solver=CvxpyHalpernPDHG()) == np.inf
    assert problem.status == cp.UNBOUNDED
    assert x.value is None


def test_infeasible_quadratic_program():
    x = cp.Variable(2)
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x)), [x >= 1, cp.sum(x) <= 1])
    problem.solve(solver=CvxpyHalpernPDHG())
    assert problem.status == cp.INFEASIBLE


def test_limit_gives_the_best_point():
    problem = portfolio(np.random.default_rng(0))
    # cvxpy itself warns that the answer may be inaccurate.
    with pytest.warns(UserWarning, match="may be inaccurate"):
        problem.solve(solver=CvxpyHalpernPDHG(), max_iter=1, finish=False, tol=1e-12)
    assert problem.status == cp.USER_LIMIT
    assert np.isfinite(problem.variables()[0].value).all()


def test_options_reach_the_solver_and_unknown_ones_are_named():
    problem = portfolio(np.random.default_rng(0))
    history, seen = History(), []
    problem.solve(
        solver=CvxpyHalpernPDHG(), tol=1e-4, reflect=0.6, history=history,
        callback=lambda intermediate_result: seen.append(1),
    )  # fmt: skip
    assert "reflect=0.6" in problem.solver_stats.extra_stats.solver
    assert seen
    with pytest.raises(ParameterError, match=r"no option 'reflct'\. Did you mean 'reflect'"):
        problem.solve(solver=CvxpyHalpernPDHG(), reflct=0.5)


def test_warm_start_of_a_changed_parameter():
    rng = np.random.default_rng(1)
    A, b = rng.random((20, 40)), cp.Parameter(20)
    x = cp.Variable(40, nonneg=True)
    problem = cp.Problem(cp.Minimize((1 + rng.random(40)) @ x), [A @ x >= b])
    b.value = A.sum(1)
    problem.solve(solver=CvxpyHalpernPDHG())
    cold = problem.solver_stats.num_iters
    problem.solve(solver=CvxpyHalpernPDHG())
    assert problem.solver_stats.num_iters == 0
    problem.solve(solver=CvxpyHalpernPDHG(), warm_start=False)
    assert problem.solver_stats.num_iters == cold > 0
    b.value = 1.01 * A.sum(1)
    value = problem.solve(solver=CvxpyHalpernPDHG())
    assert value == pytest.approx(problem.solve(solver=cp.CLARABEL), rel=1e-4)


def test_verbose_shows_progress(capsys):
    problem = portfolio(np.random.default_rng(0))
    problem.solve(solver=CvxpyHalpernPDHG(), verbose=True)
    assert "HalpernPDHG" in "".join(capsys.readouterr())


def test_integers_are_refused():
    x = cp.Variable(2, integer=True)
    problem = cp.Problem(cp.Minimize(cp.sum(x)), [x >= 0.5])
    with pytest.raises(cp.error.SolverError, match="mixed-integer"):
        problem.solve(solver=CvxpyHalpernPDHG())


def test_program_of_a_problem():
    problem = maximum_with_bounds(np.random.default_rng(2))
    program = from_cvxpy_problem(problem)
    assert isinstance(program, LinearProgram) and program.maximize
    value = problem.solve(solver=cp.CLARABEL)
    assert solve_with_highs(program).fun == pytest.approx(-value, abs=1e-6)
    assert LinearProgram.from_cvxpy(problem).shape == program.shape
    problem = least_squares(np.random.default_rng(2))
    program = from_cvxpy_problem(problem)
    assert isinstance(program, QuadraticProgram) and not program.maximize
    value = problem.solve(solver=cp.CLARABEL)
    assert solve_with_highs(program).fun == pytest.approx(value, abs=1e-5)


def test_problems_that_are_no_program():
    x = cp.Variable(2)
    for problem, message in (
        (cp.Problem(cp.Minimize(cp.norm(x)), [x >= 1, cp.norm(x) <= 2]), "no linear or convex"),
        (cp.Problem(cp.Minimize(-cp.norm(x))), "no linear or convex"),
        (cp.Problem(cp.Minimize(1)), "no variables"),
        ("text", "cvxpy.Problem is needed"),
        (cp.Problem(cp.Minimize(cp.sum(cp.Variable(2, boolean=True)))), "mixed-integer"),
    ):
        with pytest.raises(ProblemError, match=message):
            from_cvxpy_problem(problem)
