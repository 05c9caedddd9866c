"""Presolve and the way back, against HiGHS on the given program and by own arithmetic."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog as scipy_linprog

from lowrank_opt.core.errors import ParameterError
from lowrank_opt.monotone.linear_program import LinearProgram
from lowrank_opt.monotone.points import PrimalDual
from lowrank_opt.monotone.presolve import REDUCTIONS, presolve
from lowrank_opt.monotone.quadratic_program import QuadraticProgram

INF = np.inf


def random_program(rng: np.random.Generator) -> LinearProgram:
    """Small integers, so that every reduction applies and ties are exact; not always solvable."""
    m, n = rng.integers(1, 9), rng.integers(1, 10)
    A = rng.integers(-3, 4, (m, n)) * (rng.random((m, n)) < rng.choice([0.2, 0.4, 0.7]))
    A = A.astype(float)
    if rng.random() < 0.5 and m > 2:
        A[0] = A[1] * rng.choice([-2.0, 1.0, 3.0])
    x = rng.integers(-2, 3, n).astype(float)
    activity, kind, sort = A @ x, rng.integers(0, 5, m), rng.integers(0, 6, n)
    low = np.where(kind == 3, -INF, activity - (kind > 0) * rng.integers(0, 3, m))
    high = np.where(kind == 2, INF, activity + (kind > 0) * rng.integers(0, 3, m))
    lower = np.where((sort == 1) | (sort == 2) | (sort == 5), x - rng.integers(0, 2, n), -INF)
    upper = np.where((sort == 1) | (sort == 3), x + rng.integers(0, 2, n), INF)
    y, z = rng.integers(-2, 3, m).astype(float), rng.integers(-2, 3, n).astype(float)
    y = np.where(((y > 0) & (low == -INF)) | ((y < 0) & (high == INF)), 0.0, y)
    z = np.where(((z > 0) & (lower == -INF)) | ((z < 0) & (upper == INF)), 0.0, z)
    c = A.T @ y + z
    chance = rng.random()
    if chance < 0.15:
        c = rng.integers(-2, 3, n).astype(float)
    elif chance < 0.3:
        low = low + rng.integers(0, 4)
        high = np.maximum(high, low)
    return LinearProgram(c, A, low, high, lower, upper, offset=1.5)


def highs(lp: LinearProgram):
    equal = lp.constraint_lower == lp.constraint_upper
    up = ~equal & np.isfinite(lp.constraint_upper)
    down = ~equal & np.isfinite(lp.constraint_lower)
    A = lp.A.toarray()
    found = scipy_linprog(
        lp.c, np.vstack([A[up], -A[down]]),
        np.concatenate([lp.constraint_upper[up], -lp.constraint_lower[down]]), A[equal],
        lp.constraint_lower[equal], bounds=np.stack([lp.lower, lp.upper], axis=1), method="highs",
        options={"presolve": False},
    )  # fmt: skip
    y = None
    if found.status == 0:
        y = np.zeros(len(A))
        y[equal] = found.eqlin.marginals
        y[up] += found.ineqlin.marginals[: up.sum()]
        y[down] -= found.ineqlin.marginals[up.sum() :]
    return found, y


def kkt_error(lp: LinearProgram, x, y) -> float:
    """Largest absolute violation and the gap, in plain NumPy."""
    A = lp.A.toarray()
    activity, z = A @ x, lp.c - A.T @ y
    wrong = [
        lp.constraint_lower - activity, activity - lp.constraint_upper, lp.lower - x, x - lp.upper,
        y[lp.constraint_lower == -INF], -y[lp.constraint_upper == INF],
        z[lp.lower == -INF], -z[lp.upper == INF],
    ]  # fmt: skip
    dual = 0.0
    for v, low, high in ((y, lp.constraint_lower, lp.constraint_upper), (z, lp.lower, lp.upper)):
        dual += float(v[(v > 0) & (low > -INF)] @ low[(v > 0) & (low > -INF)])
        dual += float(v[(v < 0) & (high < INF)] @ high[(v < 0) & (high < INF)])
    violation = max(float(part.max(initial=0.0)) for part in wrong)
    return max(violation, abs(float(lp.c @ x) - dual))


def check(seed: int, reductions=None) -> str:
    """Presolve, solve what is left with HiGHS, and compare with HiGHS on the given program."""
    lp = random_program(np.random.default_rng(seed))
    found = presolve(lp, reductions=reductions)
    truth, _ = highs(lp)
    if found.status == "infeasible":
        assert truth.status == 2
        check_farkas(lp, found.ray)
    elif found.status == "unbounded":
        assert truth.status in (2, 3, 4)
        check_recession(lp, found.ray)
    elif truth.status == 0 and found.status != "unchanged":
        if found.status == "solved":
            assert found.problem.offset == pytest.approx(truth.fun + 1.5, abs=1e-9)
            x, y = found.postsolve(np.zeros(0), np.zeros(0))
        else:
            left, y_left = highs(found.problem)
            assert left.fun + found.problem.offset == pytest.approx(truth.fun + 1.5, abs=1e-7)
            x, y = found.postsolve(left.x, y_left)
            assert kkt_error(found.problem, left.x, y_left) < 1e-8
        assert kkt_error(lp, x, y) < 1e-8
    return found.status


def check_farkas(lp, y) -> None:
    A = lp.A.toarray()
    z = -A.T @ y
    value = 0.0
    for v, low, high in ((y, lp.constraint_lower, lp.constraint_upper), (z, lp.lower, lp.upper)):
        for entry, a, b in zip(v, low, high, strict=True):
            if abs(entry) > 1e-9:
                assert np.isfinite(a if entry > 0 else b)
                value += entry * (a if entry > 0 else b)
    assert value > 1e-9


def check_recession(lp, d) -> None:
    for v, low, high in (
        (lp.A.toarray() @ d, lp.constraint_lower, lp.constraint_upper),
        (d, lp.lower, lp.upper),
    ):
        assert (v[low > -INF] >= -1e-9).all()
        assert (v[high < INF] <= 1e-9).all()
    assert lp.c @ d < -1e-9


def test_all_reductions_on_many_programs():
    counts: dict[str, int] = {}
    for seed in range(150):
        status = check(seed)
        counts[status] = counts.get(status, 0) + 1
    # The generator reaches everything.
    assert min(counts[name] for name in ("solved", "reduced", "infeasible", "unbounded")) >= 5


@pytest.mark.parametrize("name", REDUCTIONS)
def test_each_reduction_alone(name):
    statuses = [check(1000 + seed, [name]) for seed in range(40)]
    assert statuses.count("unchanged") < 40


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.sets(st.sampled_from(REDUCTIONS)))
def test_any_set_of_reductions(seed, names):
    check(seed, sorted(names))


def test_what_each_reduction_leaves():
    """One small program for each, worked out by hand."""
    lp = LinearProgram(
        [1.0, 1.0, -1.0, 0.0],
        [[2.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 0.0], [0.0, 0.0, 0.0, 0.0], [-2.0, -2.0, -2.0, 0.0]],
        [4.0, 1.0, -1.0, -12.0], [INF, 9.0, 1.0, INF], 0.0, [INF, 3.0, 3.0, 5.0],
    )  # fmt: skip

    def left(*names):
        return presolve(lp, reductions=names)

    assert left("empty_rows").problem.shape == (3, 4)
    bounds = left("singleton_rows").problem
    assert bounds.shape == (3, 4)
    assert bounds.lower[0] == 2.0
    merged = left("parallel_rows").problem
    assert merged.shape == (3, 4)
    assert merged.constraint_upper[1] == 6.0
    assert left("empty_columns").problem.shape == (4, 3)
    assert left("singleton_rows", "redundant_rows").problem.constraint_lower[0] == -INF
    forcing = LinearProgram([1.0, 2.0], [[1.0, -1.0]], 5.0, None, [0.0, 1.0], [6.0, 4.0])
    forced = presolve(forcing, reductions=["forcing_rows"])
    assert forced.status == "solved"
    np.testing.assert_array_equal(forced.postsolve(np.zeros(0), np.zeros(0))[0], [6.0, 1.0])
    slack = LinearProgram([2.0, 1.0], [[1.0, 2.0]], 4.0, 4.0, 0.0, [3.0, INF])
    absorbed = presolve(slack, reductions=["slack_columns"]).problem
    np.testing.assert_allclose(absorbed.constraint_lower, [1.0])  # 2 x_1 >= 4 - 3
    np.testing.assert_allclose(absorbed.constraint_upper, [4.0])
    np.testing.assert_allclose(absorbed.c, [1.0 - 2.0 * 2.0])
    assert absorbed.offset == 8.0
    fixed = LinearProgram([1.0, 1.0], [[1.0, 1.0]], 3.0, 9.0, [2.0, 0.0], [2.0, 9.0], offset=1.0)
    rest = presolve(fixed, reductions=["fixed_columns"]).problem
    assert rest.shape == (1, 1)
    assert (rest.constraint_lower[0], rest.constraint_upper[0], rest.offset) == (1.0, 7.0, 3.0)
    dual = LinearProgram([1.0, -1.0], [[1.0, 1.0], [1.0, 0.5]], None, 4.0, 0.0, 9.0)
    kept = presolve(dual, reductions=["dual_fixing"])
    assert kept.problem.shape == (2, 1)
    assert kept.stack.x_fixed[0] == 0.0


def test_inexact_points_keep_their_errors():
    """The spoiled multipliers and activities of a reduced program are not amplified."""
    worst = 0.0
    for seed in range(2000, 2080):
        lp = random_program(np.random.default_rng(seed))
        found = presolve(lp)
        if found.status != "reduced" or highs(lp)[0].status:
            continue
        left, y = highs(found.problem)
        rng = np.random.default_rng(seed)
        x = left.x + 1e-5 * rng.standard_normal(len(left.x))
        x = np.clip(x, found.problem.lower, found.problem.upper)
        y = y + 1e-5 * rng.standard_normal(len(y)) * (y != 0)
        before = kkt_error(found.problem, x, y)
        after = kkt_error(lp, *found.postsolve(x, y))
        worst = max(worst, after / max(before, 1e-6))
    assert 0 < worst < 20.0


def test_warm_start_round_trip():
    seen = 0
    for seed in range(3000, 3150):
        lp = random_program(np.random.default_rng(seed))
        found = presolve(lp)
        truth, _ = highs(lp)
        if found.status != "reduced" or truth.status:
            continue
        left, y_left = highs(found.problem)
        x, y = found.postsolve(left.x, y_left)
        x_again, y_again = found.restrict(x, y)
        # Multipliers of merged rows may have gone to the other row.
        if not (found.stack.kinds == 4).any():
            np.testing.assert_allclose(x_again, left.x)
            np.testing.assert_allclose(y_again, y_left, atol=1e-9)
            seen += 1
    assert seen > 10


def test_rays_of_reduced_programs_come_back():
    """Infeasible and unbounded parts that presolve does not see are found by HiGHS on the rest."""
    block = np.array([[1.0, 1.0, 0.0], [1.0, 0.0, 1.0], [0.0, 1.0, 1.0]])
    # x1 + x2 <= 1, ... with the sum of all >= 2; a slack with a singleton row on top.
    A = np.zeros((5, 5))
    A[:3, :3] = block
    A[3, :3] = 1.0
    A[3, 3] = -1.0
    A[4, 3] = 2.0
    A[0, 4] = 1.0
    lp = LinearProgram(
        np.ones(5),
        A,
        [-INF, -INF, -INF, 2.0, 0.0],
        [1.0, 1.0, 1.0, 2.0, INF],
        [-5, -5, -5, -5, 0],
        5.0,
    )
    found = presolve(lp)
    assert found.status == "reduced"
    assert highs(lp)[0].status == 2
    # The ray of what is left: the cone program for it, from the definition.
    ray = farkas_by_highs(found.problem)
    check_farkas(found.problem, ray)
    check_farkas(lp, found.postsolve_ray("infeasible", ray))


def farkas_by_highs(lp: LinearProgram) -> np.ndarray:
    """Maximise the value of multipliers in a box."""
    m, n = lp.A.shape
    A = lp.A.toarray()
    parts, values = [], []
    for matrix, low, high in ((A, lp.constraint_lower, lp.constraint_upper),
                              (np.eye(n), lp.lower, lp.upper)):  # fmt: skip
        for sign, side in ((1.0, low), (-1.0, high)):
            finite = np.isfinite(side)
            parts.append(sign * matrix[finite].T)
            values.append(sign * side[finite])
    columns, value = np.hstack(parts), np.concatenate(values)
    found = scipy_linprog(-value, A_eq=columns, b_eq=np.zeros(n), bounds=(0, 1), method="highs")
    y, at = np.zeros(m), 0
    for sign, side in ((1.0, lp.constraint_lower), (-1.0, lp.constraint_upper)):
        finite = np.flatnonzero(np.isfinite(side))
        y[finite] += sign * found.x[at : at + len(finite)]
        at += len(finite)
    return y


def test_directions_of_reduced_programs_come_back():
    # x1 - x2 = slack in [0, 1] : (1, 1, 0) recedes; a fixed column beside it.
    A = [[1.0, -1.0, -1.0, 0.0], [1.0, 1.0, 0.0, 1.0], [2.0, -1.0, 0.0, 0.0]]
    lp = LinearProgram(
        [-1.0, 0.5, 0.0, 3.0], A, [0.0, 0.0, -1.0], [0.0, INF, INF], [0, 0, 0, 2], [INF, INF, 1, 2]
    )
    found = presolve(lp, reductions=["slack_columns", "fixed_columns"])
    assert found.status == "reduced"
    assert found.problem.shape == (3, 2)
    ray = found.postsolve_ray("unbounded", np.array([1.0, 1.0]))
    check_recession(lp, ray)
    np.testing.assert_array_equal(ray, [1.0, 1.0, 0.0, 0.0])


def test_scaled_and_unchanged_programs():
    A = sp.random_array((20, 30), density=0.4, rng=np.random.default_rng(0), format="csr")
    x = np.random.default_rng(1).random(30)
    lp = LinearProgram(np.ones(30), A, A @ x, A @ x, 0.0, None)
    found = presolve(lp)
    assert found.status == "unchanged"
    assert found.problem is lp
    back = found.postsolve(x, np.zeros(20))
    np.testing.assert_array_equal(back[0], x)
    np.testing.assert_array_equal(found.restrict(x, np.zeros(20))[0], x)
    np.testing.assert_array_equal(found.postsolve_ray("infeasible", np.ones(20)), np.ones(20))
    assert found.cost_norm == pytest.approx(np.sqrt(30))
    assert found.side_norm == pytest.approx(np.linalg.norm(A @ x))
    # A feasible program in units of 1e8 is not called infeasible.
    for unit in (1e-8, 1e8):
        big = LinearProgram(np.ones(30), A, unit * (A @ x), unit * (A @ x), 0.0, None)
        assert presolve(big).status == "unchanged"
    # Nearly forcing in small units is not forcing: tolerances are relative.
    tiny = LinearProgram([-1.0, -1.0], [[1.0, 1.0]], None, 5e-10, 0.0, 8e-9)
    assert presolve(tiny, reductions=["forcing_rows"]).status == "unchanged"
    qp = QuadraticProgram(np.eye(1), [1.0], [[2.0]], 4.0, None)
    assert presolve(qp).status == "unchanged"
    conflict = LinearProgram([1.0], None, None, None, 2.0, 1.0)
    assert presolve(conflict).status == "unchanged"
    with pytest.raises(ParameterError, match="reductions has 'magic'"):
        presolve(lp, reductions=["magic"])


def test_names_stay_with_their_rows_and_columns():
    lp = LinearProgram(
        [1.0, 1.0, -1.0], [[1.0, 1.0, 1.0], [1.0, 0.0, 0.0], [1.0, 2.0, 2.5]], [1, 0, 2], [4, 2, 9],
        0.0, 5.0, row_names=["a", "b", "c"], column_names=["u", "v", "w"],
    )  # fmt: skip
    left = presolve(lp, reductions=["singleton_rows"]).problem
    assert list(left.row_names) == ["a", "c"]
    assert list(left.column_names) == ["u", "v", "w"]
    point = PrimalDual(np.zeros(3), np.zeros(2))
    assert left.certificate(point).details["dual_residual"] == 0.0
