"""Matrix games: closed forms, certificates, oracles, the interior-point method against HiGHS."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from scipy.optimize import linprog

from lowrank_opt.core import ProblemError, Status
from lowrank_opt.monotone import problems_suite
from lowrank_opt.monotone.extragradient import FastExtraGradient
from lowrank_opt.monotone.games import GameInteriorPoint
from lowrank_opt.monotone.matrix_game import MatrixGame
from lowrank_opt.monotone.points import PrimalDual
from lowrank_opt.testing import check_problem

RPS = np.array([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]])


def value_by_highs(A):
    m, n = A.shape
    result = linprog(
        np.r_[np.zeros(n), 1.0], np.c_[A, -np.ones(m)], np.zeros(m), [np.r_[np.ones(n), 0.0]],
        [1.0], [(0, None)] * n + [(None, None)],
    )  # fmt: skip
    return result.fun


SOLVERS = [
    GameInteriorPoint(tol=1e-9),
    FastExtraGradient(restart="adaptive", tol=1e-6),
]


@pytest.mark.parametrize("solver", SOLVERS, ids=lambda s: type(s).__name__)
def test_closed_forms(solver):
    rng = np.random.default_rng(0)
    a = rng.random(6) + 0.5
    diagonal = solver.solve(MatrixGame(np.diag(a)))
    assert diagonal.success
    assert diagonal.value == pytest.approx(1.0 / np.sum(1.0 / a), abs=1e-6)
    mixed = (1.0 / a) / np.sum(1.0 / a)
    assert np.allclose(diagonal.x.x, mixed, atol=1e-5)
    assert np.allclose(diagonal.x.y, mixed, atol=1e-5)
    rock = solver.solve(MatrixGame(RPS), x0=PrimalDual(np.eye(3)[0], np.eye(3)[1]))
    assert rock.value == pytest.approx(0.0, abs=1e-6)
    assert np.allclose(rock.x.x, 1 / 3, atol=1e-5)
    B = rng.standard_normal((8, 8))
    skew = solver.solve(MatrixGame(B - B.T))
    assert skew.success
    assert skew.value == pytest.approx(0.0, abs=1e-5)


@pytest.mark.parametrize("shape", [(30, 30), (12, 40), (40, 12), (1, 5), (5, 1), (1, 1)])
def test_interior_point_against_highs(shape):
    A = np.random.default_rng(1).standard_normal(shape)
    result = GameInteriorPoint(tol=1e-10).solve(MatrixGame(A))
    assert result.success
    assert result.value == pytest.approx(value_by_highs(A), abs=1e-8)
    assert result.certificate.details["outside_the_simplex"] <= 1e-14
    assert result.nit <= 30


@pytest.mark.parametrize("orientation", ["columns", "rows"])
def test_policeman_and_burglar(orientation):
    game = problems_suite.policeman_burglar(80, orientation)
    result = GameInteriorPoint(tol=1e-9).solve(game)
    assert result.success
    assert result.gap <= 1e-9 * game.spread * 1.01
    assert result.value == pytest.approx(value_by_highs(game.A), abs=1e-7)
    w = np.abs(np.random.RandomState(1).standard_normal(80))
    expected = w[5 if orientation == "columns" else 2] * (1 - np.exp(-0.8 * 3))
    assert game.A[2, 5] == pytest.approx(expected, rel=1e-14)


def test_degenerate_games():
    signs = np.sign(np.random.default_rng(2).standard_normal((40, 40)))
    saddle = np.add.outer(np.arange(5.0), np.arange(7.0))  # pure: smallest column, largest row
    for A in (signs, saddle, np.ones((3, 4)), np.zeros((2, 2)), np.tile(RPS, (3, 2))):
        result = GameInteriorPoint(tol=1e-8).solve(MatrixGame(A))
        assert result.success
        assert result.value == pytest.approx(value_by_highs(A), abs=1e-6)


@pytest.mark.parametrize("size", [1e-8, 1e8])
def test_scale_does_not_matter(size):
    A = np.random.default_rng(3).standard_normal((15, 10))
    plain = GameInteriorPoint(tol=1e-8).solve(MatrixGame(A))
    scaled = GameInteriorPoint(tol=1e-8).solve(MatrixGame(size * A))
    assert scaled.nit == plain.nit
    assert scaled.value == pytest.approx(size * plain.value, rel=1e-6)


@pytest.mark.parametrize("level", [1e2, 1e6, -1e8])
@pytest.mark.parametrize("shape", [(12, 18), (18, 12)])
def test_a_level_that_payoffs_share_does_not_matter(shape, level):
    A = np.random.default_rng(5).standard_normal(shape)
    plain = GameInteriorPoint(tol=1e-7).solve(MatrixGame(A))
    raised = GameInteriorPoint(tol=1e-7).solve(MatrixGame(level + A))
    assert raised.success
    assert raised.nit <= plain.nit + 1
    assert raised.value - level == pytest.approx(plain.value, abs=1e-6)


@pytest.mark.parametrize("shape", [(12, 20), (90, 60)])
def test_sparse_payoffs_agree_with_dense_ones(shape):
    A = sp.random_array(shape, density=0.3, rng=np.random.default_rng(0), format="coo")
    sparse, dense = (GameInteriorPoint(tol=1e-9).solve(MatrixGame(a)) for a in (A, A.toarray()))
    assert sparse.success
    assert sparse.value == pytest.approx(dense.value, abs=1e-8)
    solver = FastExtraGradient(restart="adaptive", tol=1e-4)
    assert solver.solve(MatrixGame(A)).value == pytest.approx(dense.value, abs=1e-3)


def test_integer_payoffs_and_float32():
    assert MatrixGame([[1, 2], [3, 4]]).dtype == np.float64
    result = GameInteriorPoint(tol=1e-5).solve(MatrixGame(RPS.astype(np.float32)))
    assert result.x.x.dtype == np.float32
    assert result.success


def test_a_tolerance_below_rounding_ends_honestly():
    A = np.random.default_rng(8).standard_normal((20, 20)).astype(np.float32)
    result = GameInteriorPoint(tol=1e-14).solve(MatrixGame(A))
    assert result.status is Status.STALLED
    assert result.residual <= 1e-6
    assert "rounding" in result.message


def test_signs_of_the_operator():
    A = np.arange(6.0).reshape(2, 3)
    game = MatrixGame(A)
    x, y = np.array([0.2, 0.3, 0.5]), np.array([0.6, 0.4])
    F = game.operator(np.concatenate([x, y]))
    assert np.allclose(F, np.concatenate([A.T @ y, -A @ x]))
    pair = game.operator(PrimalDual(x, y))
    assert np.array_equal(pair.x, F[:3])
    assert np.array_equal(pair.y, F[3:])
    out = np.empty(5)
    assert game.operator(np.concatenate([x, y]), out=out) is out
    assert np.array_equal(out, F)


def test_certificate_is_the_duality_gap():
    A = np.random.default_rng(5).standard_normal((4, 3))
    game = MatrixGame(A)
    x, y = np.array([0.2, 0.3, 0.5]), np.array([0.1, 0.2, 0.3, 0.4])
    certificate = game.certificate(PrimalDual(x, y))
    gap = (A @ x).max() - (A.T @ y).min()
    assert certificate.gap == pytest.approx(gap, rel=1e-14)
    assert certificate.residual == pytest.approx(gap / np.ptp(A), rel=1e-14)
    assert game.measure(np.concatenate([x, y])) == pytest.approx(certificate.residual, rel=1e-14)
    off = game.certificate(PrimalDual(2.0 * x, y))
    assert off.residual >= 1.0  # not a strategy


def test_sampled_operators_are_unbiased():
    A = np.random.default_rng(6).standard_normal((4, 3))
    game = MatrixGame(A)
    z = np.random.default_rng(7).standard_normal(7)
    for q in (None, game.importance):
        chance = np.full(4, 0.25) if q is None else q
        each = np.stack([game.sample_operator(z, np.array([i]), q) for i in range(4)])
        assert np.allclose(chance @ each, game.operator(z))
    assert game.importance.sum() == pytest.approx(1.0)


def test_start_and_admissible_points():
    game = MatrixGame(RPS, PrimalDual([1.0, 0.0, 0.0], [0.0, 0.5, 0.5]))
    z = game.start()
    assert np.array_equal(z, [1, 0, 0, 0, 0.5, 0.5])
    assert np.array_equal(game.admissible(z), z)
    moved = game.admissible(1.01 * z)
    assert moved[:3].sum() == pytest.approx(1.0)
    assert moved.min() >= 0


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: MatrixGame(np.ones(3)), "matrix"),
        (lambda: MatrixGame(np.ones((0, 3))), "shape"),
        (lambda: MatrixGame([[1.0, np.nan]]), "A"),
        (lambda: MatrixGame([[1.0, np.inf]]), "A"),
        (lambda: MatrixGame(RPS, PrimalDual(np.ones(3), np.ones(3) / 3)), "sum to 1"),
        (lambda: MatrixGame(RPS, PrimalDual(np.ones(2) / 2, np.ones(3) / 3)), "shape"),
    ],
)
def test_bad_inputs(call, match):
    with pytest.raises(ProblemError, match=match):
        call()


def test_complex_payoffs_and_wrong_points():
    with pytest.raises((ProblemError, TypeError), match="A"):
        MatrixGame(RPS * 1j)
    with pytest.raises(TypeError, match="PrimalDual"):
        MatrixGame(RPS).certificate(np.ones(6))


def test_automatic_solver_by_size():
    assert MatrixGame(RPS).auto_solver()[0] == "GameInteriorPoint"
    large = sp.csr_array(([1.0], ([0], [0])), shape=(5000, 4500))
    assert MatrixGame(large).auto_solver()[0] == "FastExtraGradient"


def test_common_checks():
    points = (
        PrimalDual(np.full(3, 1 / 3), np.array([1.0, 0.0, 0.0])),
        PrimalDual(np.array([0.5, 0.25, 0.25]), np.array([0.25, 0.25, 0.5])),
    )
    check_problem(MatrixGame(RPS), *points, other=MatrixGame(2.0 * RPS))
