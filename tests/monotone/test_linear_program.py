"""Linear and quadratic programs: data, certificates against SciPy's multipliers, rays."""

from __future__ import annotations

import copy
import pickle

import cvxpy as cp
import numpy as np
import pytest
import scipy.sparse as sp
from scipy.optimize import linprog as scipy_linprog

from lowrank_opt.core.errors import ProblemError, ProblemTypeError
from lowrank_opt.monotone import LinearProgram, PrimalDual, QuadraticProgram

INF = np.inf


def random_program(seed: int) -> LinearProgram:
    """Feasible and bounded, with every kind of row and bound."""
    rng = np.random.default_rng(seed)
    m, n = 12, 20
    A = rng.standard_normal((m, n)) * (rng.random((m, n)) < 0.5)
    x = rng.standard_normal(n)
    activity = A @ x
    kind = rng.integers(0, 4, m)
    low = np.where(kind == 3, -INF, activity - (kind > 0) * rng.random(m))
    high = np.where(kind == 2, INF, activity + (kind > 0) * rng.random(m))
    low = np.where(kind == 0, activity, low)
    high = np.where(kind == 0, activity, high)
    sort = rng.integers(0, 5, n)
    lower = np.where((sort == 1) | (sort == 2), x - rng.random(n), -INF)
    upper = np.where((sort == 1) | (sort == 3), x + rng.random(n), INF)
    lower, upper = np.where(sort == 4, x, lower), np.where(sort == 4, x, upper)
    y = rng.standard_normal(m)
    y = np.where((y > 0) & (low == -INF) | (y < 0) & (high == INF), 0.0, y)
    z = rng.standard_normal(n)
    z = np.where((z > 0) & (lower == -INF) | (z < 0) & (upper == INF), 0.0, z)
    return LinearProgram(A.T @ y + z, A, low, high, lower, upper, offset=2.5)


def scipy_point(lp: LinearProgram) -> tuple[float, PrimalDual]:
    """Solve with HiGHS, rows split as SciPy wants them."""
    equal = lp.constraint_lower == lp.constraint_upper
    up = ~equal & np.isfinite(lp.constraint_upper)
    down = ~equal & np.isfinite(lp.constraint_lower)
    A = lp.A.toarray()
    result = scipy_linprog(
        lp.c, np.vstack([A[up], -A[down]]),
        np.concatenate([lp.constraint_upper[up], -lp.constraint_lower[down]]), A[equal],
        lp.constraint_lower[equal], bounds=np.stack([lp.lower, lp.upper], axis=1), method="highs",
    )  # fmt: skip
    assert result.success
    y = np.zeros(len(A))
    y[equal] = result.eqlin.marginals
    y[up] += result.ineqlin.marginals[: up.sum()]
    y[down] -= result.ineqlin.marginals[up.sum() :]
    return result.fun + lp.offset, PrimalDual(result.x, y)


@pytest.mark.parametrize("seed", range(8))
def test_certificate_of_an_optimum_is_zero_and_of_any_other_point_is_not(seed: int) -> None:
    lp = random_program(seed)
    value, point = scipy_point(lp)
    certificate = lp.certificate(point)
    assert certificate.residual <= 1e-11
    assert certificate.objective == pytest.approx(value, rel=1e-9)
    assert certificate.details["dual_objective"] == pytest.approx(value, rel=1e-9)
    rng = np.random.default_rng(seed)
    for part in range(2):
        moved = [v + 1e-3 * rng.standard_normal(len(v)) * (k == part) for k, v in enumerate(point)]
        assert lp.certificate(PrimalDual(*moved)).residual > 1e-6


@pytest.mark.parametrize("seed", range(4))
def test_gap_bounds_the_distance_to_the_optimal_value(seed: int) -> None:
    rng = np.random.default_rng(seed)
    m, n = 6, 9
    A = rng.standard_normal((m, n))
    x = rng.random(n)
    lp = LinearProgram(rng.standard_normal(n), A, None, A @ x + 0.1, 0.0, 1.0)
    value, _ = scipy_point(lp)
    for _ in range(20):
        y = -rng.random(m) * rng.integers(0, 2, m)
        gap = lp.certificate(PrimalDual(x, y)).gap
        assert gap is not None
        assert lp.objective(x) - gap <= value + 1e-12
    free = LinearProgram(lp.c, A, None, A @ x + 0.1)
    assert free.certificate(PrimalDual(x, y)).gap is None


def test_quadratic_certificate_at_the_optimum_of_cvxpy() -> None:
    rng = np.random.default_rng(3)
    n, m = 10, 4
    B = rng.standard_normal((6, n))
    Q, c, A = B.T @ B + 0.1 * np.eye(n), rng.standard_normal(n), rng.standard_normal((m, n))
    low, high = A @ rng.random(n) - 0.1, np.full(m, INF)
    x = cp.Variable(n)
    rows, positive = A @ x >= low, x >= 0
    cp.Problem(cp.Minimize(0.5 * cp.quad_form(x, cp.psd_wrap(Q)) + c @ x), [rows, positive]).solve(
        solver="CLARABEL", tol_gap_rel=1e-11, tol_gap_abs=1e-11, tol_feas=1e-11
    )
    qp = QuadraticProgram(0.5 * (Q + Q.T), c, A, low, high, lower=0.0)
    point = PrimalDual(np.maximum(x.value, 0.0), rows.dual_value)
    assert qp.certificate(point).residual < 1e-7
    np.testing.assert_allclose(qp.reduced_costs(point), positive.dual_value, atol=1e-5)
    assert qp.certificate(PrimalDual(point.x + 0.1, point.y)).residual > 1e-2


def test_large_data_elsewhere_hide_nothing() -> None:
    lp = LinearProgram([1.0, 1.0], np.eye(2), [1e9, 1.0], [1e9, 1.0])
    certificate = lp.certificate(PrimalDual([1e9, 1.5], [1.0, 1.0]))
    assert certificate.details["primal_residual"] < 1e-9
    assert certificate.residual > 1e-3


def test_rays() -> None:
    # x1 + x2 >= 3 with both at most 1; units of rows and columns do not matter.
    for row, column, side in ((1.0, 1.0, 1.0), (1e8, 1e-6, 1e6), (1e-7, 1e7, 1e-8)):
        A = sp.csr_array(np.array([[row * column, row * column]]))
        lp = LinearProgram(
            [0.0, 0.0], A, 3.0 * row * side, None, 0.0, side / column
        )  # fmt: skip
        ray = lp.farkas([1.0 / row])
        assert ray.proved
        assert ray.value == pytest.approx(side)
        feasible = LinearProgram([0.0, 0.0], A, 1.9 * row * side, None, 0.0, side / column)
        assert not feasible.farkas([1.0 / row]).proved
    unbounded = LinearProgram([-1.0, 0.0], [[1.0, -1.0]], None, 0.0, 0.0, None)
    assert unbounded.recession([1.0, 1.0]).proved
    assert not unbounded.recession([1.0, 0.0]).proved
    bounded = LinearProgram([-1.0, 0.0], [[1.0, -1.0]], None, 0.0, 0.0, [INF, 5.0])
    assert not bounded.recession([1.0, 1.0]).proved
    curved = QuadraticProgram(np.diag([0.0, 1.0]), [-1.0, 0.0], [[1.0, -1.0]], None, 0.0, 0.0)
    assert not curved.recession([1.0, 1.0]).proved
    assert unbounded.recession([np.nextafter(0, 1), 0.0]).ratio > 1e-8


def test_a_nearly_cancelled_value_is_no_proof() -> None:
    # Feasible at x = 1e12: y'b is rounding of two large numbers that cancel.
    lp = LinearProgram([0.0], [[1.0], [-1.0]], [1e12, -1e12 - 1e-4], None, 0.0, None)
    assert not lp.farkas([1.0, 1.0]).proved


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"c": [[1.0]], "A": [[1.0]]}, "c has shape"),
        ({"c": [1.0, 2.0], "A": [[1.0]]}, r"A has shape \(1, 1\) and c has shape \(2,\)"),
        ({"c": [np.nan], "A": [[1.0]]}, r"c\[0\]"),
        ({"c": [INF], "A": [[1.0]]}, r"c\[0\]"),
        ({"c": [1.0], "A": [[INF]]}, "A"),
        ({"c": [1.0], "A": sp.csr_array([[np.nan]])}, r"A\.data"),
        ({"c": [1.0], "A": [[1.0]], "constraint_lower": [1.0, 2.0]}, "constraint_lower has shape"),
        ({"c": [1.0], "A": [[1.0]], "lower": [np.nan]}, r"lower\[0\] is NaN"),
        ({"c": [1.0], "A": [[1.0]], "lower": INF}, r"lower\[0\] is inf"),
        ({"c": [1.0], "A": [[1.0]], "upper": -INF}, r"upper\[0\] is -inf"),
        ({"c": [1.0], "A": [1.0]}, "a matrix"),
        ({"c": [1.0], "A": [[1.0]], "row_names": ["a", "b"]}, "row_names has 2"),
    ],
)
def test_bad_data(arguments: dict, words: str) -> None:
    with pytest.raises(ProblemError, match=words):
        LinearProgram(**arguments)


def test_bad_kinds() -> None:
    with pytest.raises(ProblemTypeError, match="c has dtype complex"):
        LinearProgram([1j])
    with pytest.raises(ProblemError, match="not symmetric"):
        QuadraticProgram([[1.0, 2.0], [0.0, 1.0]], [0.0, 0.0])
    with pytest.raises(ProblemError, match=r"Q\[1, 1\] = -1"):
        QuadraticProgram(np.diag([1.0, -1.0]), [0.0, 0.0])
    with pytest.raises(ProblemError, match="LinearProgram"):
        QuadraticProgram(None, [0.0])
    lp = LinearProgram([1.0], [[1.0]])
    with pytest.raises(ProblemError, match="y has shape"):
        lp.certificate(PrimalDual([1.0], [1.0, 2.0]))
    with pytest.raises(ProblemError, match="x has shape"):
        lp.objective([1.0, 2.0])
    with pytest.raises(ProblemTypeError, match="two parts"):
        lp.certificate(([1.0], [1.0], [0.0]))


def test_forms_of_data_are_the_same_program() -> None:
    A = np.array([[1, 0, 2], [0, 3, 0]])
    forms = [A, A.tolist(), sp.csr_array(A), sp.coo_matrix(A), sp.csc_array(A.astype(np.float32))]
    repeated = sp.coo_array(
        ([1.0, 0.5, 0.5, 1.0, 3.0, 0.0], ([0, 0, 0, 0, 1, 1], [0, 2, 2, 2, 1, 0]))
    )
    prints = {
        str(LinearProgram([1, 2, 3], form, 0, 1).fingerprint()) for form in (*forms, repeated)
    }
    assert len(prints) == 1
    assert LinearProgram([1, 2, 3], repeated).nnz == 3


def test_conflicts_and_empty_programs() -> None:
    lp = LinearProgram([1.0, 1.0], [[1.0, 1.0]], 2.0, 1.0)
    assert "constraint 0: lower 2 > upper 1" in lp.conflicts
    lp = LinearProgram([1.0, 1.0], None, lower=[0.0, 3.0], upper=1.0)
    assert "variable 1: lower 3 > upper 1" in lp.conflicts
    assert LinearProgram([1.0]).conflicts == ""
    empty = LinearProgram([])
    assert empty.shape == (0, 0)
    assert empty.certificate(PrimalDual([], [])).residual == 0.0


def test_programs_are_copied_pickled_and_do_not_change() -> None:
    A = sp.csr_array(np.eye(2))
    c = np.ones(2)
    lp = LinearProgram(c, A, 0.0, 1.0)
    c[0] = 7.0
    assert lp.c[0] == 1.0
    assert pickle.loads(pickle.dumps(lp)).fingerprint() == lp.fingerprint()
    assert copy.deepcopy(lp).fingerprint() == lp.fingerprint()
    with pytest.raises(ValueError, match="read-only"):
        lp.lower[0] = 1.0
