"""HalpernPDHG: answers against HiGHS, cvxpy and closed forms; proofs; limits; options."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog as scipy_linprog

from lowrank_opt.core import Checkpoint, ParameterError, Status
from lowrank_opt.monotone import HalpernPDHG, LinearProgram, PrimalDual, QuadraticProgram, rays
from lowrank_opt.monotone import pdhg_run as run
from lowrank_opt.monotone.face_finish import Attempt
from lowrank_opt.monotone.scaling import plain_program

INF = np.inf


def random_program(seed=0, m=12, n=20):
    """Free, half-bounded, boxed and fixed variables; equalities, ranges, one-sided rows."""
    rng = np.random.default_rng(seed)
    A = rng.standard_normal((m, n)) * (rng.random((m, n)) < 0.5)
    x = rng.standard_normal(n)
    activity = A @ x
    low, high = activity - rng.random(m), activity + rng.random(m)
    kind = rng.integers(4, size=m)
    low[kind == 0] = high[kind == 0] = activity[kind == 0]
    low[kind == 1], high[kind == 2] = -INF, INF
    lower, upper = x - rng.random(n), x + rng.random(n)
    kinds = rng.integers(5, size=n)
    lower[kinds == 0], upper[kinds == 0] = -INF, INF
    lower[kinds == 1], upper[kinds == 2] = -INF, INF
    lower[kinds == 3] = upper[kinds == 3] = x[kinds == 3]
    y = np.where(rng.random(m) < 0.7, rng.standard_normal(m), 0.0)
    y = np.where(np.isinf(low), -np.abs(y), np.where(np.isinf(high), np.abs(y), y))
    z = rng.standard_normal(n)
    z = np.where(np.isinf(lower) & np.isinf(upper), 0.0, z)
    z = np.where(np.isinf(lower), -np.abs(z), np.where(np.isinf(upper), np.abs(z), z))
    return LinearProgram(A.T @ y + z, sp.csr_array(A), low, high, lower, upper)


def highs(problem):
    A = problem.A.toarray()
    low, high = problem.constraint_lower, problem.constraint_upper
    equal = low == high
    above, below = ~equal & np.isfinite(high), ~equal & np.isfinite(low)
    return scipy_linprog(
        problem.c, np.vstack([A[above], -A[below]]), np.concatenate([high[above], -low[below]]),
        A[equal], low[equal], np.column_stack([problem.lower, problem.upper]), method="highs",
    )  # fmt: skip


OPTIONS = [
    {},
    {"weight": "pid"},
    {"weight": "fixed", "finish": False},
    {"step_size": "constant"},
    {"reflect": 0.7, "finish": False},
    {"first_phase": "float32"},
    {"first_phase": "float32", "finish": False},
    {"presolve": False, "finish": False},
    {"ruiz_sweeps": 0, "pock_chambolle": False, "rescale": False},
    {"infeasibility": False},
    {"n_threads": 2},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_optimum_is_that_of_highs(options):
    for seed in range(3):
        problem = random_program(seed)
        result = HalpernPDHG(tol=1e-8, max_iter=300_000, **options).solve(problem)
        assert result.success, result.message
        assert problem.certificate(result.x).residual <= 2e-8
        theirs = highs(problem)
        assert result.fun == pytest.approx(theirs.fun, rel=1e-6, abs=1e-6)
        assert np.all((result.x.x >= problem.lower) & (result.x.x <= problem.upper))


@pytest.mark.parametrize("seed", range(10))
def test_all_kinds_of_bounds_against_highs(seed):
    problem = random_program(seed + 10, m=25, n=40)
    result = HalpernPDHG(tol=1e-9).solve(problem)
    assert result.success
    theirs = highs(problem)
    assert result.fun == pytest.approx(theirs.fun, rel=1e-7, abs=1e-7)


def test_multipliers_and_reduced_costs():
    lp = LinearProgram([-1.0, -2.0], [[1.0, 1.0]], None, [4.0], 0.0, [3.0, 3.0])
    result = HalpernPDHG().solve(lp)
    np.testing.assert_allclose(result.x.x, [1.0, 3.0], atol=1e-6)
    np.testing.assert_allclose(result.y, [-1.0], atol=1e-6)
    np.testing.assert_allclose(result.z, [0.0, -1.0], atol=1e-6)
    assert result.ray is None
    assert result.log == []
    x, y = result.x
    assert y is result.x.y
    assert x.dtype == np.float64


def test_without_restart_it_converges_slowly_but_surely():
    problem = random_program(1, m=3, n=5)
    result = HalpernPDHG(
        tol=1e-3, restart=None, finish=False, presolve=False, step_size="constant"
    ).solve(problem)
    assert result.success
    assert result.state.engine.restarts == 0


def test_quadratic_programs_against_cvxpy():
    cvxpy = pytest.importorskip("cvxpy")
    rng = np.random.default_rng(3)
    n, m = 12, 6
    B = rng.standard_normal((n, 5))  # Q has a null space
    Q, A = B @ B.T, rng.standard_normal((m, n))
    b = A @ rng.uniform(-0.5, 0.5, n)
    c = rng.standard_normal(n)
    low = np.where(np.arange(m) < 3, b, -INF)
    problem = QuadraticProgram(Q, c, A, low, b, -1.0, np.where(np.arange(n) < 6, 1.0, 2.0))
    for finish in (True, False):
        result = HalpernPDHG(tol=1e-8, finish=finish).solve(problem)
        assert result.success
    x = cvxpy.Variable(n)
    constraints = [A[:3] @ x == b[:3], A[3:] @ x <= b[3:], x >= -1.0, x <= problem.upper]
    theirs = cvxpy.Problem(
        cvxpy.Minimize(0.5 * cvxpy.quad_form(x, cvxpy.psd_wrap(Q)) + c @ x), constraints
    )
    value = theirs.solve(solver="CLARABEL")
    assert result.fun == pytest.approx(value, rel=1e-6)


def test_quadratic_programs_with_closed_forms():
    q = QuadraticProgram(np.diag([1.0, 4.0]), [-3.0, -4.0])
    result = HalpernPDHG(tol=1e-9).solve(q)
    assert result.success
    np.testing.assert_allclose(result.x.x, [3.0, 1.0], atol=1e-7)
    box = QuadraticProgram(np.eye(2), [-3.0, 0.5], lower=[0.0, 0.0], upper=[1.0, 5.0])
    result = HalpernPDHG(tol=1e-9).solve(box)
    np.testing.assert_allclose(result.x.x, [1.0, 0.0], atol=1e-7)


# -- programs without an answer ----------------------------------------------------------------


def infeasible(seed, m=10, n=20):
    """There is y with A'y <= 0 and b'y = 1."""
    rng = np.random.default_rng(seed)
    A = rng.standard_normal((m, n)) * (rng.random((m, n)) < 0.5)
    y, b = rng.standard_normal(m), rng.standard_normal(m)
    A -= np.outer(y, np.maximum(A.T @ y, 0.0)) / (y @ y)
    b += y * (1.0 - b @ y) / (y @ y)
    return LinearProgram(rng.standard_normal(n), A, b, b, 0.0, None)


def unbounded(seed, m=10, n=20):
    """There are d >= 0 with A d = 0 and c'd = -1, and a feasible point."""
    rng = np.random.default_rng(seed)
    A = rng.standard_normal((m, n)) * (rng.random((m, n)) < 0.5)
    d, c = np.maximum(rng.standard_normal(n), 0.0), rng.standard_normal(n)
    A -= np.outer(A @ d, d) / (d @ d)
    c -= d * (c @ d + 1.0) / (d @ d)
    b = A @ np.maximum(rng.standard_normal(n), 0.0)
    return LinearProgram(c, A, b, b, 0.0, None)


@pytest.mark.parametrize("presolve", [True, False])
@pytest.mark.parametrize("seed", range(4))
def test_infeasible_programs_are_proved_to_be(seed, presolve):
    problem = infeasible(seed)
    result = HalpernPDHG(presolve=presolve).solve(problem)
    assert result.status is Status.INFEASIBLE
    assert not result.success
    y = result.ray
    z = -(problem.A.T @ y)
    assert problem.constraint_lower @ y > 0.0
    assert z.min() >= -1e-7 * np.abs(y).max()


@pytest.mark.parametrize("presolve", [True, False])
@pytest.mark.parametrize("seed", range(4))
def test_unbounded_programs_are_proved_to_be(seed, presolve):
    problem = unbounded(seed)
    result = HalpernPDHG(presolve=presolve).solve(problem)
    assert result.status is Status.UNBOUNDED
    d = result.ray
    assert problem.c @ d < 0.0
    assert d.min() >= 0.0
    assert np.abs(problem.A @ d).max() <= 1e-7 * np.abs(d).max()
    assert np.abs(problem.A @ result.x.x - problem.constraint_lower).max() < 1e-4


@pytest.mark.parametrize("presolve", [True, False])
def test_both_infeasible_and_descending_is_infeasible(presolve):
    """x1 - x2 in [0, 1] and in [2, 3], with descent along (1, 1)."""
    lp = LinearProgram([-1.0, -1.0], [[1.0, -1.0], [1.0, -1.0]], [0.0, 2.0], [1.0, 3.0], 0.0, None)
    assert HalpernPDHG(presolve=presolve).solve(lp).status is Status.INFEASIBLE


def test_contradictory_bounds_need_no_iteration():
    for lp in (
        LinearProgram([1.0, 1.0], [[1.0, 1.0]], [0.0], [1.0], [0.0, 2.0], [1.0, 1.0]),
        LinearProgram([1.0], [[1.0]], [2.0], [1.0]),
    ):
        result = HalpernPDHG().solve(lp)
        assert result.status is Status.INFEASIBLE
        assert result.nit == 0
        assert "contradict" in result.message
        assert np.all(np.isfinite(result.x.x))


def test_rays_that_prove_nothing_are_not_believed(monkeypatch):
    problem = random_program(3)
    m, n = problem.shape

    def wrong(work, state):
        yield "infeasible", np.ones(m)
        yield "unbounded", np.ones(n)
        yield "unbounded", np.zeros(n)

    monkeypatch.setattr(run.rays, "candidates", wrong)
    assert HalpernPDHG(presolve=False, finish=False).solve(problem).success


@pytest.mark.parametrize("seed", range(3))
def test_inexact_rays_are_corrected(seed):
    rng = np.random.default_rng(seed)
    for problem, kind in ((infeasible(seed), rays._Dual), (unbounded(seed), rays._Primal)):
        program = plain_program(problem)
        exact = HalpernPDHG(presolve=False).solve(problem).ray
        noise = rng.standard_normal(len(exact)) * np.abs(exact).max()
        view = kind(program, problem.A)
        found, close = rays._improved(view, exact + 1e-4 * noise)
        assert close
        wrong, value = view.split(found)
        assert value > 0.0
        assert np.linalg.norm(wrong) <= 1e-10 * value
        assert rays._improved(view, noise)[0] is None


def test_detection_can_be_switched_off():
    result = HalpernPDHG(infeasibility=False, presolve=False, max_iter=2000).solve(infeasible(0))
    assert result.status is Status.ITERATION_LIMIT
    assert result.ray is None


@pytest.mark.parametrize("presolve", [True, False])
def test_trivial_programs(presolve):
    solver = HalpernPDHG(presolve=presolve)
    no_rows = solver.solve(LinearProgram([1.0, -1.0, 0.0], None, None, None, -1.0, 2.0))
    assert no_rows.success
    np.testing.assert_array_equal(no_rows.x.x, [-1.0, 2.0, 0.0])
    assert no_rows.y.shape == (0,)
    empty = solver.solve(LinearProgram([1.0], np.zeros((2, 1)), [-1.0, 0.0], [0.0, 1.0], 3.0, 5.0))
    assert empty.success
    np.testing.assert_array_equal(empty.x.x, [3.0])
    bad = solver.solve(LinearProgram([1.0], np.zeros((2, 1)), [-1.0, 1.0], [0.0, 1.0], 3.0, 5.0))
    assert bad.status is Status.INFEASIBLE
    np.testing.assert_array_equal(bad.ray, [0.0, 1.0])
    low = solver.solve(LinearProgram([1.0], np.zeros((1, 1)), [-2.0], [-1.0], 3.0, 5.0))
    np.testing.assert_array_equal(low.ray, [-1.0])
    nothing = solver.solve(LinearProgram(np.zeros(0)))
    assert nothing.success
    assert nothing.x.x.shape == (0,)
    downhill = solver.solve(LinearProgram([1.0, 0.0], lower=[-INF, 0.0]))
    assert downhill.status is Status.UNBOUNDED
    np.testing.assert_array_equal(downhill.ray, [-1.0, 0.0])
    free = solver.solve(LinearProgram([0.0, 1.0], [[1.0, 0.0]], [1.0], [1.0], None, None))
    assert free.status is Status.UNBOUNDED
    assert free.x.x[0] == pytest.approx(1.0)
    start = solver.solve(LinearProgram([-1.0, -1.0], [[1.0, 0.0]], None, [1.0]))
    assert start.status is Status.UNBOUNDED
    np.testing.assert_array_equal(start.ray, [0.0, 1.0])
    shut = solver.solve(LinearProgram([0.0, 1.0], [[1.0, 0.0]], [1.0], [1.0], [2.0, -INF], None))
    assert shut.status is Status.INFEASIBLE


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 10**6),
    costs=st.sampled_from([-8, 0, 8]),
    sides=st.sampled_from([-8, 0, 8]),
    rows=st.sampled_from([-8, 0, 8]),
    columns=st.sampled_from([-8, 0, 8]),
    presolve=st.booleans(),
)
def test_feasible_programs_in_any_units_are_never_called_infeasible(
    seed, costs, sides, rows, columns, presolve
):
    base = random_program(seed, m=6, n=9)
    rng = np.random.default_rng(seed)
    row = 10.0 ** (rows * rng.integers(0, 2, 6))
    column = 10.0 ** (columns * rng.integers(0, 2, 9))
    side, cost = 10.0**sides, 10.0**costs
    problem = LinearProgram(
        base.c * column * cost, base.A * row[:, None] * column[None, :],
        base.constraint_lower * row * side, base.constraint_upper * row * side,
        base.lower / column * side, base.upper / column * side,
    )  # fmt: skip
    result = HalpernPDHG(max_iter=20_000, presolve=presolve).solve(problem)
    assert result.status in (Status.CONVERGED, Status.ITERATION_LIMIT, Status.STALLED)


# -- runs --------------------------------------------------------------------------------------


def test_a_limit_returns_the_best_point_of_the_moment():
    problem = random_program(4)
    start = HalpernPDHG(presolve=False).init(problem).residual
    assert HalpernPDHG(max_iter=40, presolve=False).solve(problem).residual < 0.9 * start
    last = np.inf
    for n in (1, 10, 65, 100, 300):
        result = HalpernPDHG(max_iter=n, finish=False, presolve=False).solve(problem)
        assert result.nit == n
        assert result.residual == pytest.approx(problem.certificate(result.x).residual, rel=1e-6)
        if result.status is Status.ITERATION_LIMIT:
            last = min(last, result.residual)
    assert last < start


@pytest.mark.parametrize("options", [{}, {"first_phase": "float32"}])
def test_resume_across_phases_has_the_same_bits(options, tmp_path):
    problem = random_program(5)
    solver = HalpernPDHG(tol=1e-9, finish=False, random_state=7, **options)
    whole = solver.solve(problem)
    assert whole.success
    for n in (100, 333, whole.nit - 5):
        checkpoint = Checkpoint(tmp_path / "run.npz", every_seconds=1e9)
        part = HalpernPDHG(tol=1e-9, finish=False, random_state=7, max_iter=n, **options).solve(
            problem, checkpoint=checkpoint
        )
        for state in (part.state, copy.deepcopy(part.state)):
            again = solver.solve(problem, state=state)
            np.testing.assert_array_equal(again.x.x, whole.x.x)
            np.testing.assert_array_equal(again.x.y, whole.x.y)
            assert again.nit == whole.nit


@pytest.mark.parametrize("presolve", [True, False])
def test_warm_starts(presolve):
    problem = random_program(6, m=25, n=40)
    solver = HalpernPDHG(presolve=presolve)
    cold = solver.solve(problem)
    again = solver.solve(problem, x0=cold.x)
    assert again.success
    assert again.nit == 0
    close = PrimalDual(cold.x.x + 1e-4, cold.x.y)
    assert solver.solve(problem, x0=close).nit <= cold.nit
    primal_only = solver.solve(problem, x0=cold.x.x)
    assert primal_only.success


def test_the_log_has_rows_of_numbers(capsys):
    problem = random_program(7)
    result = HalpernPDHG(log=1, finish=False, presolve=False).solve(problem)
    assert len(result.log) == result.nit // 64 + 1
    nit, primal, dual, gap, value, bound, weight, step, restarts = result.log[-1]
    assert nit == result.nit
    assert max(primal, dual, gap) <= 1e-6
    assert value == pytest.approx(result.fun)
    assert bound == pytest.approx(result.fun, rel=1e-4)
    assert weight > 0.0 < step
    assert restarts >= 1
    seldom = HalpernPDHG(log=1000, finish=False, presolve=False).solve(problem)
    assert len(seldom.log) <= result.nit // 1000 + 1
    assert capsys.readouterr().out == ""


def test_the_finish_is_more_accurate_and_kept_only_if_it_is():
    problem = random_program(8, m=25, n=40)
    with_finish = HalpernPDHG(tol=1e-5, presolve=False).solve(problem)
    without = HalpernPDHG(tol=1e-5, presolve=False, finish=False).solve(problem)
    assert with_finish.success
    assert without.success
    assert with_finish.residual < 1e-9 < without.residual
    assert with_finish.nit <= without.nit
    assert with_finish.counts["finish_tries"] >= 1


def test_polishing_removes_violations():
    better = 0
    for seed in range(4):
        problem = random_program(seed, m=25, n=40)
        grades = []
        for polish in (False, True):
            solver = HalpernPDHG(tol=1e-4, finish=False, presolve=False, polish=polish)
            result = solver.solve(problem)
            assert result.success
            assert result.residual == pytest.approx(result.certificate.residual, rel=1e-6)
            details = result.certificate.details
            grades.append(np.array([details["primal_residual"], details["dual_residual"]]))
        assert np.all(grades[1] <= grades[0])
        better += bool(np.any(grades[1] < 0.01 * grades[0]))
    assert better >= 3


def test_a_wrong_finish_is_discarded(monkeypatch):
    def wrong(A, c, low, high, lower, upper, x, y, **kw):
        return Attempt([(x + 1.0, y - 1.0)], work=1.0, rounds=0)

    monkeypatch.setattr(run, "attempt", wrong)
    problem = random_program(8)
    residuals = []
    result = HalpernPDHG(presolve=False, check_every=64).solve(
        problem, callback=lambda intermediate_result: residuals.append(intermediate_result.residual)
    )
    assert result.success
    assert np.all(np.diff(residuals) <= 0.0)
    assert result.counts["finish_tries"] > 1
    assert result.fun == pytest.approx(highs(problem).fun, rel=1e-4)


def test_solution_of_a_scaled_problem_maps_back():
    """Rows and columns times powers of ten, tolerance met in the units of the scaled one."""
    base = random_program(9)
    rng = np.random.default_rng(0)
    row, column = 10.0 ** rng.integers(-3, 4, 12), 10.0 ** rng.integers(-2, 3, 20)
    scaled = LinearProgram(
        base.c * column, base.A * row[:, None] * column[None, :], base.constraint_lower * row,
        base.constraint_upper * row, base.lower / column, base.upper / column,
    )  # fmt: skip
    result = HalpernPDHG(tol=1e-9).solve(scaled)
    assert result.success
    mapped = PrimalDual(result.x.x * column, result.x.y * row)
    assert result.fun == pytest.approx(highs(base).fun, rel=1e-6)
    assert base.objective(mapped) == pytest.approx(highs(base).fun, rel=1e-6)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("reflect", 0.0), ("reflect", 1.01), ("weight", "hrp"), ("step_size", "long"),
        ("restart", "never"), ("first_phase", "float16"), ("ruiz_sweeps", -1), ("log", 0),
        ("presolve", 1), ("tol", -1.0),
    ],
)  # fmt: skip
def test_bad_parameters_are_named(name, value):
    with pytest.raises(ParameterError, match=f"{name}="):
        HalpernPDHG(**{name: value}).solve(random_program())
