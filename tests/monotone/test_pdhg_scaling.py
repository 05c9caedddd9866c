"""Scaling of programs: sizes, norms, and the way back."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

from lowrank_opt.monotone import LinearProgram, PrimalDual, QuadraticProgram
from lowrank_opt.monotone import pdhg_engine as engine
from lowrank_opt.monotone.scaling import (
    compressed,
    operator_norm,
    plain_program,
    scale_program,
    single_precision,
)


def make_program(seed=0, m=12, n=20, spread=3.0, quadratic=False):
    """Rows and columns of very different sizes; ranges, infinite bounds, an empty row."""
    rng = np.random.default_rng(seed)
    A = rng.standard_normal((m, n)) * (rng.random((m, n)) < 0.3)
    A *= 10.0 ** rng.uniform(-spread, spread, (m, 1)) * 10.0 ** rng.uniform(-spread, spread, n)
    A[1] = 0.0
    low, high = np.sort(rng.standard_normal((2, m)), axis=0)
    low[1], high[2], low[3] = -np.inf, np.inf, -np.inf
    low[4] = high[4]
    lower, upper = np.sort(rng.standard_normal((2, n)), axis=0)
    lower[0], upper[0], upper[1], lower[2] = -np.inf, np.inf, np.inf, -np.inf
    data = (rng.standard_normal(n), sp.csr_array(A), low, high, lower, upper)
    if not quadratic:
        return LinearProgram(*data)
    B = rng.standard_normal((n, n)) * (rng.random((n, n)) < 0.2)
    return QuadraticProgram(sp.csr_array(B @ B.T), *data)


def dense(part, shape):
    return sp.csr_array(
        (part.val, part.idx.astype(int), part.ptr.astype(int)), shape=shape
    ).toarray()


def random_point(problem, seed=0):
    rng = np.random.default_rng(seed)
    m, n = problem.shape
    x = np.clip(rng.standard_normal(n), problem.lower, problem.upper)
    y = rng.standard_normal(m)
    y[(y > 0) & np.isinf(problem.constraint_lower)] = 0.0
    y[(y < 0) & np.isinf(problem.constraint_upper)] = 0.0
    return x, y


@pytest.mark.parametrize("quadratic", [False, True])
@pytest.mark.parametrize(
    "options", [{}, {"ruiz_sweeps": 0, "pock_chambolle": False}, {"rescale": False}]
)
def test_scaled_data_are_the_data_in_other_units(quadratic, options):
    problem = make_program(quadratic=quadratic)
    s = scale_program(problem, **options)
    m, n = problem.shape
    scale = s.row[:, None] * problem.A.toarray() * s.column
    np.testing.assert_allclose(dense(s.rows, (m, n)), scale, rtol=1e-14)
    np.testing.assert_allclose(dense(s.columns, (n, m)), scale.T, rtol=1e-14)
    np.testing.assert_allclose(s.c, problem.c * s.column * s.cost, rtol=1e-14)
    np.testing.assert_allclose(s.row_lower, problem.constraint_lower * s.row * s.side, rtol=1e-14)
    np.testing.assert_allclose(s.upper, problem.upper / s.column * s.side, rtol=1e-14)
    if quadratic:
        Q = s.column[:, None] * problem.Q.toarray() * s.column * s.cost / s.side
        np.testing.assert_allclose(dense(s.quadratic, (n, n)), Q, rtol=1e-13, atol=1e-300)
        assert np.linalg.norm(Q, 2) <= s.quadratic_norm <= 1.5 * np.linalg.norm(Q, 2)


@pytest.mark.parametrize("quadratic", [False, True])
def test_points_map_back_exactly_and_measures_are_the_certificate(quadratic):
    problem = make_program(1, quadratic=quadratic)
    s = scale_program(problem)
    x, y = random_point(problem)
    back = s.to_user(*s.from_user(x, y))
    np.testing.assert_array_equal(back[0], x)
    np.testing.assert_array_equal(back[1], y)
    certificate = problem.certificate(PrimalDual(x, y))
    for program in (s, plain_program(problem)):
        work = engine.Work(program, engine.Options())
        m = engine.measure(work, *program.from_user(x, y))
        d = certificate.details
        assert m.primal == pytest.approx(d["primal_residual"], rel=1e-10)
        assert m.dual == pytest.approx(d["dual_residual"], rel=1e-10)
        assert m.gap == pytest.approx(d["relative_gap"], rel=1e-10)
        worst = max(d["primal_backward_error"], d["dual_backward_error"])
        assert m.backward_error == pytest.approx(worst, rel=1e-10)
        assert m.primal_objective == pytest.approx(certificate.objective, rel=1e-10)
        assert m.dual_objective == pytest.approx(d["dual_objective"], rel=1e-10)
        assert m.worst == pytest.approx(certificate.residual, rel=1e-10)


def test_scaling_makes_rows_and_columns_alike():
    problem = make_program(2)
    A = np.abs(problem.A.toarray())
    scaled = np.abs(dense(scale_program(problem, pock_chambolle=False).rows, problem.shape))
    for axis in (0, 1):
        before, after = A.max(axis), scaled.max(axis)
        assert before[before > 0].max() / before[before > 0].min() > 1e3
        assert 0.25 < after[after > 0].min() <= after.max() < 4.0


@pytest.mark.parametrize("seed", range(4))
def test_the_norm_is_bounded_from_above(seed):
    problem = make_program(seed)
    for options in ({}, {"pock_chambolle": False}, {"ruiz_sweeps": 0}):
        s = scale_program(problem, **options)
        norm = np.linalg.norm(dense(s.rows, problem.shape), 2)
        assert norm <= s.norm <= 1.1 * norm
        if not options:
            assert norm <= 2.0  # sums of powers of two next to the scales of Pock and Chambolle


def test_costs_and_sides_have_norm_one_at_most():
    problem = make_program(3)
    s = scale_program(problem)
    finite = np.where(np.isfinite(s.row_lower), s.row_lower, 0.0)
    assert np.linalg.norm(finite) <= 2.0
    assert np.linalg.norm(s.c) <= 2.0
    plain = scale_program(problem, rescale=False)
    assert plain.side == plain.cost == 1.0


def test_power_iteration_finds_the_norm():
    rng = np.random.default_rng(0)
    A = sp.csr_array(np.diag([3.0, 1.0, 0.5]) @ np.linalg.qr(rng.standard_normal((3, 3)))[0])
    found = operator_norm(compressed(A), compressed(A.T.tocsr()), rng)
    assert found == pytest.approx(3.0, rel=1e-3)
    empty = sp.csr_array((3, 2))
    assert operator_norm(compressed(empty), compressed(empty.T.tocsr()), rng) == 0.0


def test_indices_are_unsigned_and_numbers_single_on_request():
    s = single_precision(scale_program(make_program()))
    assert s.rows.ptr.dtype == s.rows.idx.dtype == s.columns.idx.dtype == np.uint32
    assert s.rows.val.dtype == s.c.dtype == s.row_upper.dtype == np.float32
    assert s.row_unit.dtype == np.float64
