"""Feasibility polishing: violations vanish, the point hardly moves."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

from lowrank_opt.monotone import pdhg_engine as engine
from lowrank_opt.monotone.linear_program import LinearProgram
from lowrank_opt.monotone.points import PrimalDual
from lowrank_opt.monotone.polishing import polish
from lowrank_opt.monotone.quadratic_program import QuadraticProgram
from lowrank_opt.monotone.scaling import scale_program


def planted(seed: int, m: int = 60, n: int = 120) -> tuple[LinearProgram, np.ndarray, np.ndarray]:
    """The optimum is known: complementary x and reduced costs."""
    rng = np.random.default_rng(seed)
    A = sp.random_array((m, n), density=0.1, rng=rng, format="csr")
    A = A + sp.random_array((m, n), density=0.02, rng=rng, format="csr")
    x = np.maximum(rng.standard_normal(n), 0.0)
    y = rng.standard_normal(m)
    lp = LinearProgram(A.T @ y + (x == 0) * rng.random(n), A, A @ x, A @ x, 0.0, None)
    return lp, x, y


def early_point(lp: LinearProgram, tol: float) -> tuple[np.ndarray, np.ndarray, int]:
    scaled = scale_program(lp)
    work = engine.Work(scaled, engine.Options())
    m, n = lp.A.shape
    run = engine.start(work, np.zeros(n), np.zeros(m), np.random.default_rng(0))
    engine.advance(work, run, 50_000, tol=tol)
    return *scaled.to_user(run.x_hat, run.y_hat), run.nit


def test_violations_vanish_long_before_the_iterations_get_there():
    for seed in range(4):
        lp, x_true, _ = planted(seed)
        x, y, _ = early_point(lp, 1e-3)
        before = lp.certificate(PrimalDual(x, y))
        x_new, y_new, info = polish(lp, x, y, tol=1e-9, gap_tol=1e-2)
        after = lp.certificate(PrimalDual(x_new, y_new)).details
        assert after["primal_residual"] <= 1e-9
        assert after["dual_residual"] <= 1e-9
        assert before.details["primal_residual"] > 1e-6
        assert abs(lp.c @ x_new - lp.c @ x_true) < 1e-2 * (1 + abs(lp.c @ x_true))
        # Feasible points enclose the optimum.
        assert lp.constraint_lower @ y_new <= lp.c @ x_true + 1e-6 <= lp.c @ x_new + 1e-5
        assert np.linalg.norm(x_new - x) < 0.1 * np.linalg.norm(x)
        assert info["primal"] == after["primal_residual"]
        _, _, full = early_point(lp, 1e-9)
        assert info["primal_iterations"] + info["dual_iterations"] < full


def test_what_spoils_the_gap_is_not_taken():
    lp, *_ = planted(1)
    x, y, _ = early_point(lp, 1e-3)
    x_new, y_new, info = polish(lp, x, y, tol=1e-9, gap_tol=0.0)
    np.testing.assert_array_equal(x_new, x)
    np.testing.assert_array_equal(y_new, y)
    assert info["residual"] == info["residual_before"]
    assert info["primal_iterations"] > 0


def test_feasible_points_are_left_alone():
    lp, x, y = planted(2)
    x_new, y_new, info = polish(lp, x, y)
    np.testing.assert_array_equal(x_new, x)
    np.testing.assert_array_equal(y_new, y)
    assert info["primal_iterations"] == info["dual_iterations"] == 0.0


def test_limits_are_kept():
    lp, *_ = planted(3)
    x, y, _ = early_point(lp, 1e-2)
    *_, info = polish(lp, x, y, tol=1e-13, max_iter=100)
    assert info["primal_iterations"] == info["dual_iterations"] == 100.0
    *_, info = polish(lp, x, y, tol=1e-13, max_time=0.0)
    assert max(info["primal_iterations"], info["dual_iterations"]) <= engine.CHECK


def test_quadratic_programs_are_polished_in_the_primal_half_only():
    rng = np.random.default_rng(0)
    A = rng.standard_normal((3, 8))
    b = A @ rng.random(8)
    qp = QuadraticProgram(np.eye(8), rng.standard_normal(8), A, b, b, 0.0, None)
    x, y = rng.random(8), rng.standard_normal(3)
    x_new, y_new, info = polish(qp, x, y, tol=1e-10, gap_tol=np.inf)
    assert np.abs(A @ x_new - b).max() < 1e-8
    assert (x_new >= 0).all()
    np.testing.assert_array_equal(y_new, y)
    assert info["dual_iterations"] == 0.0
