"""MatrixSensing: its certificate against dense formulas, known facts, and every bad input."""

from __future__ import annotations

import dataclasses
import json
import math
import pickle
import tracemalloc
import warnings

import numpy as np
import pytest
import scipy.sparse as sp
from scipy.sparse.linalg import aslinearoperator

from lowrank_opt.core import (
    AccuracyWarning,
    EfficiencyWarning,
    HasGradient,
    HasMeasurements,
    HasMonotoneOperator,
    ParameterError,
    ProblemError,
)
from lowrank_opt.core.errors import ProblemTypeError, UnsupportedBackendError
from lowrank_opt.recovery import LowRankMatrix, LowRankPlusSparse, MatrixSensing
from lowrank_opt.recovery import _spectral_start as start
from lowrank_opt.recovery import operators as operators_module
from lowrank_opt.recovery import sensing as module
from lowrank_opt.testing import check_problem

SHAPE, RANK, SIZE = (6, 5), 2, 90
HUBER = 1.345 * 1.4826
KINDS = ("dense", "rank one", "entries", "functions")
kinds = pytest.mark.parametrize("kind", KINDS)
symmetry = pytest.mark.parametrize("symmetric", [False, True])
losses = pytest.mark.parametrize("loss", ["l1", "squared"])


@pytest.fixture
def rng():
    return np.random.default_rng(3)


def matrices(kind, rng, shape=SHAPE, size=SIZE):
    """What the constructor of this kind takes, and the measurement matrices (N, m, n)."""
    m, n = shape
    if kind == "entries":
        at = np.sort(rng.permutation(m * n)[: max(1, 3 * m * n // 4)])
        A = np.zeros((at.size, m * n))
        A[np.arange(at.size), at] = 1.0
        return divmod(at, n), A.reshape(-1, m, n)
    if kind == "rank one":
        a, b = rng.standard_normal((size, m)), rng.standard_normal((size, n))
        return (a, b), a[:, :, None] * b[:, None, :]
    A = rng.standard_normal((size, m, n))
    return (A,), A


def build(kind, data, y, shape, **options):
    if kind == "entries":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", AccuracyWarning)
            return MatrixSensing.from_entries(*data, y, shape, **options)
    if kind == "rank one":
        return MatrixSensing.from_rank_one(*data, y, **{"symmetric": False, **options})
    if kind == "dense":
        return MatrixSensing.from_dense(*data, y, **options)
    return MatrixSensing.from_callable(*Functions(*data).pair, y, shape, **options)


@dataclasses.dataclass
class Functions:
    """A pair of functions that can be pickled."""

    A: np.ndarray

    def apply(self, U, V):
        return np.einsum("pij,ic,jc->p", self.A, U, V)

    def adjoint(self, z):
        return np.einsum("p,pij->ij", z, self.A)

    @property
    def pair(self):
        return self.apply, self.adjoint


def instance(kind, rng, symmetric=False, *, noise=0.3, outliers=0.0, size=SIZE, k=RANK, **options):
    """A problem, the matrices and a true point."""
    shape = (SHAPE[0], SHAPE[0]) if symmetric else SHAPE
    data, A = matrices(kind, rng, shape, size)
    U = rng.standard_normal((shape[0], k))
    V = U if symmetric else rng.standard_normal((shape[1], k))
    y = np.einsum("pij,ij->p", A, U @ V.T) + noise * rng.standard_normal(len(A))
    bad = rng.random(len(A)) < outliers
    y[bad] += 10.0 * rng.standard_normal(int(bad.sum()))
    problem = build(kind, data, y, shape, symmetric=symmetric, **options)
    return problem, A, (U, V), bad


def dense_grade(A, y, U, V, loss, symmetric, entries, weights=1.0):
    """The formula of the certificate, from arrays and no code of the library."""
    e = np.einsum("pij,ij->p", A, U @ V.T) - y
    median = np.median(np.abs(e))
    delta = HUBER * median
    w = weights * (np.minimum(1.0, delta / np.abs(e)) if loss == "l1" else np.ones(e.size))
    Q = np.einsum("p,pij->ij", w * e, A)
    Q = (Q + Q.T) / 2 if symmetric else Q
    total = 0.0
    for G, S, F in (
        (Q @ V, np.einsum("p,pij->ij", w, A**2), V),
        (Q.T @ U, np.einsum("p,pij->ji", w, A**2), U),
    ):
        if not entries:
            S = np.full(S.shape, w.sum() * np.mean(A**2))
        elif symmetric:
            S = (S + S.T) / 2
        mean = (F * S.sum(axis=0)[:, None]).T @ F / S.sum()
        total += sum(
            g @ np.linalg.solve(mass * mean, g)
            for g, mass in zip(G, S.sum(axis=1), strict=True)
            if mass > 0
        )
    size = np.median(np.abs(y))
    square = np.mean(np.minimum(np.abs(y), 10 * size) ** 2)
    unit = w.sum() * square if loss == "l1" else np.sum(w * y**2)
    return math.sqrt(total / unit), e, median, delta


# -- certificate --------------------------------------------------------------------------------


@kinds
@symmetry
@losses
@pytest.mark.parametrize("chunk", [None, 64])
def test_certificate_is_the_documented_formula(kind, symmetric, loss, chunk, rng, monkeypatch):
    if chunk is not None:
        monkeypatch.setattr(operators_module, "CHUNK", chunk)
    problem, A, _, _ = instance(kind, rng, symmetric, outliers=0.2, loss=loss)
    m, n = problem.shape
    U = rng.standard_normal((m, RANK))
    V = U if symmetric else rng.standard_normal((n, RANK))
    y = problem.targets
    if kind == "functions":
        # Their mean square is estimated: take the estimate over.
        object.__setattr__(problem.measurements, "mean_square", np.mean(A**2))
    residual, e, median, delta = dense_grade(A, y, U, V, loss, symmetric, kind == "entries")
    found = problem.certificate((U, V))
    np.testing.assert_allclose(found.residual, residual, rtol=1e-11)
    mean_loss = np.mean(np.abs(e) if loss == "l1" else e**2)
    np.testing.assert_allclose(found.objective, mean_loss, rtol=1e-12)
    np.testing.assert_allclose(problem.objective((U, V)), mean_loss, rtol=1e-12)
    np.testing.assert_allclose(problem.residual((U, V)), e, atol=1e-12)
    expected = {
        # The residual is large here: the part for what the point leaves undone is at its cap.
        "inlier_fraction": np.mean(np.abs(e) <= 3 * 1.4826 * median + 1e-3 * np.median(np.abs(y))),
        "l1_value": np.mean(np.abs(e)),
        "rmse": math.sqrt(np.mean(e**2)),
        "median_residual": median / np.median(np.abs(y)),
        "huber_delta": delta,
        "numerical_rank": RANK,
        "balance": np.linalg.norm(U.T @ U - V.T @ V),
    }
    assert set(found.details) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(found.details[name], value, rtol=1e-11, atol=1e-14, err_msg=name)


@losses
def test_certificate_with_weights_and_as_robust_pca(loss, rng):
    """For entries the l1 residual is that of LowRankPlusSparse."""
    (i, j), A = matrices("entries", rng, (12, 10))
    y, W = rng.standard_normal(len(A)), rng.random(len(A)) + 0.5
    x = tuple(rng.standard_normal((s, RANK)) for s in (12, 10))
    problem = MatrixSensing.from_entries(i, j, y, (12, 10), weights=W, loss=loss)
    residual, e, *_ = dense_grade(A, y, *x, loss, False, True, W)
    found = problem.certificate(x)
    np.testing.assert_allclose(found.residual, residual, rtol=1e-11)
    mean_loss = np.mean(W * (np.abs(e) if loss == "l1" else e**2))
    np.testing.assert_allclose(found.objective, mean_loss, rtol=1e-12)
    if loss == "l1":
        other = LowRankPlusSparse.from_coo(i, j, y, (12, 10), rank=RANK, weights=W)
        np.testing.assert_allclose(found.residual, other.certificate(x).residual, rtol=1e-11)


@kinds
@symmetry
@losses
def test_truth_has_residual_zero_without_noise(kind, symmetric, loss, rng):
    problem, _, x, _ = instance(kind, rng, symmetric, noise=0.0, loss=loss)
    found = problem.certificate(x)
    assert found.residual < 1e-14
    assert found.details["inlier_fraction"] == 1.0
    assert found.details["median_residual"] < 1e-15
    assert found.details["numerical_rank"] == RANK


@kinds
@symmetry
def test_truth_has_residual_zero_with_outliers(kind, symmetric, rng):
    problem, _, x, bad = instance(kind, rng, symmetric, noise=0.0, outliers=0.15, size=200)
    found = problem.certificate(x)
    assert bad.any()
    assert found.residual < 1e-14
    assert found.details["inlier_fraction"] == 1.0 - bad.mean()
    # The squared loss sees the outliers.
    squared = dataclasses.replace(problem, loss="squared")
    assert squared.certificate(x).residual > 1e-2


@kinds
@symmetry
def test_residual_is_about_the_size_of_the_error(kind, symmetric, rng):
    """And therefore not small away from the truth, with outliers as well."""
    outliers = 0.0 if kind == "entries" else 0.15
    problem, _, (U, V), _ = instance(kind, rng, symmetric, noise=0.0, outliers=outliers, size=600)
    noise = rng.standard_normal(U.shape)
    truth = U @ V.T
    for size in (1e-9, 1e-5, 1e-2):
        P = U + size * noise
        point = P @ (P if symmetric else V).T
        error = np.linalg.norm(point - truth) / np.linalg.norm(truth)
        residual = problem.certificate((P, P) if symmetric else (P, V)).residual
        assert 0.2 * error < residual < 5.0 * error
    for _ in range(5):
        P = rng.standard_normal(U.shape)
        x = (P, P) if symmetric else (P, rng.standard_normal(V.shape))
        assert problem.certificate(x).residual > 0.05


def test_more_columns_than_the_rank_at_a_small_level(rng):
    """Over-parameterised factors whose further columns are tiny have a small residual still."""
    problem, _, (U, V), _ = instance("dense", rng, noise=0.0, outliers=0.1, size=600)
    tiny = [1e-9 * rng.standard_normal((s, 2)) for s in problem.shape]
    x = tuple(np.hstack([F, extra]) for F, extra in zip((U, V), tiny, strict=True))
    found = problem.certificate(x)
    assert found.residual < 1e-8
    assert found.details["numerical_rank"] == RANK


@kinds
@symmetry
def test_certificate_does_not_depend_on_scales(kind, symmetric, rng):
    problem, _, _, _ = instance(kind, rng, symmetric, outliers=0.1)
    m, n = problem.shape
    U = rng.standard_normal((m, RANK))
    V = U if symmetric else rng.standard_normal((n, RANK))
    base = problem.certificate((U, V))
    scaled = dataclasses.replace(problem, targets=4.0 * problem.targets).certificate(
        (2.0 * U, 2.0 * V)
    )
    np.testing.assert_allclose(scaled.residual, base.residual, rtol=1e-10)
    np.testing.assert_allclose(scaled.objective, 4.0 * base.objective, rtol=1e-12)
    G = rng.standard_normal((RANK, RANK))
    if symmetric:
        G = np.linalg.qr(G)[0]
    turned = problem.certificate((U @ G, V @ np.linalg.inv(G).T if not symmetric else U @ G))
    np.testing.assert_allclose(turned.residual, base.residual, rtol=1e-8)


def test_points_without_grade(rng):
    problem, _, (U, V), _ = instance("dense", rng)
    bad = U.copy()
    bad[1, 0] = np.nan
    for x in ((bad, V), (1e200 * U, 1e200 * V)):
        found = problem.certificate(x)
        assert found.residual == found.objective == math.inf
        assert found.kind == "point that is not finite"
    for x in ((0 * U, 0 * V), (U, 0 * V), (1e-300 * U, V), (1e-17 * U, V)):
        assert problem.certificate(x).residual >= 1.0  # stationary, but no answer
    empty = problem.certificate((U[:, :0], V[:, :0]))
    assert empty.residual >= 1.0
    assert empty.details["numerical_rank"] == 0.0


def test_targets_that_are_all_zero(rng):
    A = rng.standard_normal((40, 3, 3))
    problem = MatrixSensing.from_dense(A, np.zeros(40))
    assert problem.value_size == 1.0
    assert math.isfinite(problem.certificate((np.ones((3, 1)), np.ones((3, 1)))).residual)
    assert problem.certificate((np.zeros((3, 1)), np.zeros((3, 1)))).residual == 0.0
    assert start.relative_step(problem, np.zeros((3, 1)), np.zeros((3, 1))) == 0.0


@kinds
@pytest.mark.parametrize("big", [1e2, 1e14, 1e200])
def test_gross_errors_cannot_shrink_the_residual(kind, big, rng):
    problem, _, x, _ = instance(kind, rng, noise=0.0, size=300)
    y = problem.targets.copy()
    y[::10] += big
    gross = dataclasses.replace(problem, targets=y)
    wrong = tuple(F + rng.standard_normal(F.shape) for F in x)
    assert gross.certificate(wrong).residual > 0.1
    assert start.relative_step(gross, *wrong) > 0.1
    assert gross.certificate(x).residual < 1e-13


def test_squares_that_overflow_are_refused(rng):
    problem, *_ = instance("dense", rng)
    y = problem.targets.copy()
    y[3] = 1e200
    with pytest.raises(ProblemError, match=r"1\.0e\+200.*square overflows.*l1"):
        dataclasses.replace(problem, targets=y, loss="squared")


@pytest.mark.parametrize("size", [1e-300, 1e154])
def test_targets_too_large_or_small_are_refused(size, rng):
    problem, *_ = instance("dense", rng)
    with pytest.raises(ProblemError, match=r"targets y have a typical size.*divide them by it"):
        dataclasses.replace(problem, targets=size * problem.targets)


@pytest.mark.parametrize(
    ("dtype", "size", "match"),
    [
        (np.float64, 1e-170, "mean square"),
        (np.float64, 1e-90, None),
        (np.float64, 1e170, "mean square"),
        (np.float32, 1e-25, "over the measurement matrices"),
    ],
)
@pytest.mark.parametrize("kind", ["dense", "rank one"])
def test_measurement_matrices_too_large_or_small(kind, dtype, size, match, rng):
    data, _ = matrices(kind, rng)
    y = 1e10 * rng.standard_normal(SIZE)
    data = [(size ** (1 / len(data)) * F).astype(dtype) for F in data]
    if match is None:
        U, V = (rng.standard_normal((s, 1)) for s in SHAPE)
        found = build(kind, data, y * size, SHAPE).certificate((1e10 * U, V)).residual
        plain = matrices(kind, np.random.default_rng(3))[0]
        expected = build(kind, plain, y, SHAPE).certificate((1e10 * U, V)).residual
        np.testing.assert_allclose(found, expected, rtol=1e-9)
    else:
        with pytest.raises(ProblemError, match=match):
            build(kind, data, y, SHAPE)


@kinds
@losses
def test_residual_does_not_depend_on_the_scaling_of_the_columns(kind, loss, rng):
    problem, _, (U, V), _ = instance(kind, rng, noise=0.0, outliers=0.1, size=300, loss=loss)
    V = V + 1e-4 * V[:, ::-1]
    expected = problem.certificate((U, V)).residual
    np.testing.assert_allclose(start.relative_step(problem, U, V), expected, rtol=1e-8)
    for t in (1e8, 1e-8, 1e100):
        x = (U * np.array([1 / t, t]), V * np.array([t, 1 / t]))
        np.testing.assert_allclose(problem.certificate(x).residual, expected, rtol=1e-7)
        np.testing.assert_allclose(start.relative_step(problem, *x), expected, rtol=1e-7)


@losses
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_scales_of_the_data(loss, dtype, rng):
    """The solvers' residual does not under- or overflow where the problem is accepted."""
    problem, A, (U, V), _ = instance("dense", rng, noise=0.0, outliers=0.1, loss=loss)
    U = U * (1 + 1e-2 * np.arange(RANK))
    expected = problem.certificate((U, V)).residual
    sizes = (2.0**-96, 2.0**90) if dtype == np.float32 else (2.0**-460, 2.0**460)
    for size in sizes:
        data = A.astype(dtype), (size * problem.targets).astype(dtype)
        other = MatrixSensing.from_dense(*data, loss=loss)
        root = math.sqrt(size)
        x = tuple((F * root).astype(dtype) for F in (U, V))
        rtol = 1e-3 if dtype == np.float32 else 1e-9
        np.testing.assert_allclose(other.certificate(x).residual, expected, rtol=rtol)
        np.testing.assert_allclose(start.relative_step(other, *x), expected, rtol=rtol)


def test_one_triangle_of_a_symmetric_matrix(rng):
    """Entries (i, j) alone say as much as (i, j) and (j, i): the same residual near the truth."""
    D = 60
    U = rng.standard_normal((D, 2))
    X = U @ U.T
    i, j = np.triu_indices(D)
    upper = MatrixSensing.from_entries(i, j, X[i, j], (D, D), rank=2, symmetric=True)
    i, j = (F.ravel() for F in np.indices((D, D)))
    whole = MatrixSensing.from_entries(i, j, X.ravel(), (D, D), rank=2, symmetric=True)
    point = U * (1 + 1e-6 * rng.standard_normal(U.shape))
    residual = upper.certificate(point).residual
    np.testing.assert_allclose(residual, whole.certificate(point).residual, rtol=0.5)
    assert start.relative_step(upper, point, point) == pytest.approx(residual, rel=1e-6)


@pytest.mark.parametrize("case", ["one entry", "all zero", "a block", "one by one"])
def test_data_that_are_mostly_zero(case):
    X = {"one entry": np.zeros((20, 15)), "all zero": np.zeros((10, 8)),
         "a block": np.zeros((40, 30)), "one by one": np.zeros((1, 1))}[case]  # fmt: skip
    if case == "one entry":
        X[3, 4] = 7.0
    if case == "a block":
        X[:12] = np.outer(np.arange(1, 13), np.linspace(1, 2, 30))
        X[20, 5] = 50.0
    problem = LowRankPlusSparse.from_dense(X, rank=1)
    rng = np.random.default_rng(0)
    for scale in (1e-9, 1.0):
        x = tuple(scale * rng.standard_normal((s, 1)) for s in X.shape)
        found, expected = start.relative_step(problem, *x), problem.certificate(x).residual
        assert math.isfinite(found)
        np.testing.assert_allclose(found, expected, rtol=1e-8)
        if X.any():
            assert found > 1e-3
    if case == "a block":
        # Two matrices of rank one: only the block is one.
        x = (np.r_[np.arange(1.0, 13), np.zeros(28)][:, None], np.linspace(1, 2, 30)[:, None])
        assert start.relative_step(problem, *x) < 1e-14


# -- oracles ------------------------------------------------------------------------------------


@kinds
@losses
def test_common_checks_of_problems(kind, loss, rng):
    problem, _, _, _ = instance(kind, rng, loss=loss)
    other = dataclasses.replace(problem, targets=problem.targets + 1.0)
    x = LowRankMatrix(*(rng.standard_normal((s, RANK)) for s in SHAPE))
    report = check_problem(problem, x, other=other)
    assert {"frozen", "objective", "certificate", "oracles_are_pure", "gradient", "copies"} <= set(
        report.passed
    )
    symmetric, _, _, _ = instance(kind, rng, True, loss=loss)
    assert "gradient" in check_problem(symmetric, rng.standard_normal((SHAPE[0], 3))).passed


@losses
def test_gradient_of_a_symmetric_point_given_as_a_pair(loss, rng):
    problem, _, _, _ = instance("dense", rng, True, loss=loss)
    U = rng.standard_normal((SHAPE[0], RANK))
    alone, pair = problem.gradient(U), problem.gradient((U, U))
    assert isinstance(alone, np.ndarray)
    assert isinstance(pair, LowRankMatrix)
    np.testing.assert_array_equal(alone, pair.U)
    np.testing.assert_array_equal(alone, pair.V)


def test_protocols(rng):
    problem, *_ = instance("dense", rng)
    assert isinstance(problem, HasMeasurements)
    assert isinstance(problem, HasGradient)
    assert not isinstance(problem, HasMonotoneOperator)


@kinds
def test_fields(kind, rng):
    problem, A, _, _ = instance(kind, rng)
    assert problem.shape == SHAPE
    assert problem.rank == problem.rank_limit == min(SHAPE)
    assert problem.dtype == np.float64
    assert problem.measurements.size == problem.targets.size == len(A)
    assert problem.auto_solver() == ("SubgradientMethod", {})
    assert dataclasses.replace(problem, loss="squared").auto_solver() == ("ScaledGD", {})
    assert len(repr(problem)) < 120
    assert instance(kind, rng, rank=3)[0].rank_limit == 3


def test_robust_scale(rng):
    problem, *_ = instance("dense", rng)
    sizes = np.array([1.0, 2.0, 3.0, 1000.0, 1.0])
    np.testing.assert_allclose(problem.robust_scale(sizes), HUBER * 2.0, rtol=1e-14)
    eps = np.finfo(np.float64).eps
    for none in (np.zeros(3), np.zeros(0)):
        assert problem.robust_scale(none) == eps * np.median(np.abs(problem.targets))


@kinds
def test_float32_stays_float32(kind, rng):
    data, A = matrices(kind, rng)
    if kind != "entries":
        data = tuple(F.astype(np.float32) for F in data)
    problem = build(kind, data, rng.standard_normal(len(A)).astype(np.float32), SHAPE)
    assert problem.dtype == problem.targets.dtype == np.float32
    x = problem.start(tuple(rng.standard_normal((s, 2)) for s in SHAPE))
    assert x.dtype == np.float32
    assert problem.measurements.linearize(x.U, x.V, problem.targets, "l1").left.dtype == np.float32
    assert problem.gradient(x).dtype == np.float64


def test_integers_bool_and_float16_are_converted(rng):
    A = rng.integers(-3, 4, (50, 4, 4))
    y = rng.integers(-5, 6, 50)
    problem = MatrixSensing.from_dense(A, y)
    assert problem.dtype == np.float64
    np.testing.assert_array_equal(problem.targets, y.astype(float))
    assert MatrixSensing.from_dense(A > 0, y).dtype == np.float64
    assert MatrixSensing.from_dense(A.astype(np.float16), y).dtype == np.float32
    a, b = A[:, 0].astype(np.float32), A[:, 1].astype(np.float64)
    assert MatrixSensing.from_rank_one(a, b, y).dtype == np.float64  # mixed: promoted


# -- construction -------------------------------------------------------------------------------


def test_two_and_three_dimensions_are_the_same(rng):
    A, y = rng.standard_normal((40, 3, 5)), rng.standard_normal(40)
    x = rng.standard_normal((3, 1)), rng.standard_normal((5, 1))
    whole = MatrixSensing.from_dense(A, y)
    assert MatrixSensing.from_dense(A.reshape(40, 15), y, shape=(3, 5)).objective(
        x
    ) == whole.objective(x)
    assert MatrixSensing.from_dense(A, y, shape=(3, 5)).objective(x) == whole.objective(x)


def test_rank_one_vectors_given_once(rng):
    a, y = rng.standard_normal((40, 4)), rng.standard_normal(40)
    U = rng.standard_normal((4, 2))
    problem = MatrixSensing.from_rank_one(a, None, y)
    assert problem.symmetric
    assert problem.measurements.A is problem.measurements.B
    expected = np.mean(np.abs(((a @ U) ** 2).sum(axis=1) - y))
    np.testing.assert_allclose(problem.objective(U), expected, rtol=1e-13)
    assert not MatrixSensing.from_rank_one(a, None, y, symmetric=False).symmetric
    assert not MatrixSensing.from_rank_one(a, a.copy(), y).symmetric
    assert MatrixSensing.from_rank_one(a, a.copy(), y, symmetric=True).symmetric


@pytest.mark.parametrize(
    "layout", ["F", "strided", "reversed", "read-only", "memmap", "big-endian"]
)
def test_layouts_of_dense_measurements(layout, rng, tmp_path):
    A, y = rng.standard_normal((30, 4, 4)), rng.standard_normal(30)
    given = {
        "F": lambda: np.asfortranarray(A),
        "strided": lambda: np.repeat(A, 2, axis=0)[::2],
        "reversed": lambda: A[::-1].copy()[::-1],
        "read-only": lambda: _read_only(A),
        "memmap": lambda: _memmap(A, tmp_path / "A.dat"),
        "big-endian": lambda: A.astype(">f8"),
    }[layout]()
    x = rng.standard_normal((4, 2)), rng.standard_normal((4, 2))
    problem = MatrixSensing.from_dense(given, y)
    assert problem.objective(x) == MatrixSensing.from_dense(A, y).objective(x)
    # Otherwise the kernels would be compiled once more.
    assert problem.measurements.A.flags.writeable
    assert problem.measurements.linearize(*x, problem.targets, "l1").norm > 0


def _read_only(A):
    A = A.copy()
    A.flags.writeable = False
    return A


def _memmap(A, path):
    out = np.memmap(path, A.dtype, "w+", shape=A.shape)
    out[:] = A
    return np.memmap(path, A.dtype, "r", shape=A.shape)


def test_at_most_one_copy_of_dense_measurements(rng):
    """None for whole registers in C order, one otherwise, and a few megabytes for the checks."""
    y = rng.standard_normal(2000)
    for side, copies in ((48, 0), (47, 1)):
        A = rng.standard_normal((2000, side, side))
        tracemalloc.start()
        problem = MatrixSensing.from_dense(A, y)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert np.shares_memory(problem.measurements.A, A) == (copies == 0)
        assert peak < copies * 1.03 * A.nbytes + 4e6


def test_large_copies_are_told(rng, monkeypatch):
    monkeypatch.setattr(module, "_LARGE", 1000)
    y = rng.standard_normal(40)
    with pytest.warns(EfficiencyWarning, match="A is copied into rows of 16 float64 numbers"):
        MatrixSensing.from_dense(rng.standard_normal((40, 3, 5)), y)
    MatrixSensing.from_dense(rng.standard_normal((40, 4, 4)), y)


def test_few_measurements_are_told(rng):
    A = rng.standard_normal((8, 4, 5))
    with pytest.warns(AccuracyWarning, match=r"fewer measurements \(7\) than degrees of freedom"):
        MatrixSensing.from_dense(A[:7], np.zeros(7))
    MatrixSensing.from_dense(A, np.zeros(8))
    MatrixSensing.from_dense(A[:4, :4, :4], np.zeros(4), symmetric=True)
    with pytest.warns(AccuracyWarning, match="1 row"):
        MatrixSensing.from_entries([0, 0, 2, 2, 1], [0, 1, 0, 1, 1], np.ones(5), (4, 2))


# -- points -------------------------------------------------------------------------------------


def test_points_and_starts(rng):
    problem, _, (U, V), _ = instance("dense", rng, rank=3)
    assert problem.start((U, V)).shape == SHAPE
    for x, message in (
        ((V, U), r"shape \(5, 6\) and 2 factor columns; expected shape \(6, 5\)"),
        ((np.ones((6, 4)), np.ones((5, 4))), "4 factor columns; .* at most 3 columns"),
        (U, r"x is a ndarray; expected a LowRankMatrix or a pair \(U, V\)"),
        (LowRankMatrix(U, V, 1.0), "offset or biases"),
    ):
        with pytest.raises(ProblemError, match=message):
            problem.objective(x)
    bad = U.copy()
    bad[2, 1] = np.nan
    with pytest.raises(ProblemError, match=r"x0.U: 1 not finite in float64, the first at \(2, 1\)"):
        problem.start((bad, V))
    single = MatrixSensing.from_dense(np.ones((30, 6, 5), np.float32), np.ones(30))
    with pytest.raises(ProblemError, match=r"x0.V: .* not finite in float32"):
        single.start((U, 1e300 * V))


def test_points_of_symmetric_problems(rng):
    problem, _, (U, _), _ = instance("dense", rng, True)
    for x in (U, (U, U.copy()), LowRankMatrix(U, U), LowRankMatrix(U, U.copy())):
        found = problem.start(x)
        assert found.U is found.V
        assert problem.objective(x) == problem.objective(U)
    assert problem.start(U.astype(np.float32)).V.dtype == np.float64
    found = problem.start(U.astype(np.float32))
    assert found.U is found.V
    with pytest.raises(ProblemError, match="factors U and V that differ"):
        problem.objective((U, 2.0 * U))
    with pytest.raises(ProblemError, match="or one array U"):
        problem.objective(3.0)


def test_fingerprint(rng):
    seen = set()
    for kind in KINDS:
        for symmetric in (False, True):
            problem, *_ = instance(kind, np.random.default_rng(0), symmetric)
            seen.add(json.dumps(problem.fingerprint(), sort_keys=True))
            for change in ({"loss": "squared"}, {"rank": 1}, {"targets": problem.targets + 1.0}):
                changed = dataclasses.replace(problem, **change)
                seen.add(json.dumps(changed.fingerprint(), sort_keys=True))
            again, *_ = instance(kind, np.random.default_rng(0), symmetric)
            assert again.fingerprint() == problem.fingerprint()
            copy = pickle.loads(pickle.dumps(problem))
            assert copy.fingerprint() == problem.fingerprint()
    assert len(seen) == 4 * 2 * 4
    A, y = rng.standard_normal((40, 4, 4)), rng.standard_normal(40)
    first = MatrixSensing.from_dense(A.copy(), y).fingerprint()
    A[3, 2, 1] += 1.0
    assert MatrixSensing.from_dense(A, y).fingerprint() != first


# -- bad input ----------------------------------------------------------------------------------

A0, Y0 = np.ones((12, 3, 3)), np.ones(12)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite(bad):
    A, y = A0.copy(), Y0.copy()
    A[7, 2, 1] = y[5] = bad
    message = r"A: not finite, the first is -?(nan|inf) at measurement 7, entry \(2, 1\); expected"
    with pytest.raises(ProblemError, match=message):
        MatrixSensing.from_dense(A, Y0)
    with pytest.raises(ProblemError, match=message):
        MatrixSensing.from_dense(A.reshape(12, 9), Y0, shape=(3, 3))
    with pytest.raises(ProblemError, match=r"targets y: not finite, the first is .* measurement 5"):
        MatrixSensing.from_dense(A0, y)
    with pytest.raises(ProblemError, match=r"A: not finite, .* at vector 7, entry 1"):
        MatrixSensing.from_rank_one(A[:, 2], A0[:, 0], Y0)
    with pytest.raises(ProblemError, match=r"B: not finite, .* at vector 7, entry 1"):
        MatrixSensing.from_rank_one(A0[:, 0], A[:, 2], Y0)
    with pytest.raises(ProblemError, match="values: 1 not finite, the first at observed entry 1"):
        MatrixSensing.from_entries([0, 1], [0, 1], [1.0, bad])


def test_position_in_a_later_block(monkeypatch):
    monkeypatch.setattr(module, "CHUNK", 20)
    A = np.ones((12, 16))
    A[9, 5] = np.nan
    for given in (A.reshape(12, 4, 4), np.asfortranarray(A).reshape(12, 4, 4)):
        with pytest.raises(ProblemError, match=r"measurement 9, entry \(1, 1\)"):
            MatrixSensing.from_dense(given, Y0)
    with pytest.raises(ProblemError, match="vector 9, entry 5"):
        MatrixSensing.from_rank_one(A, None, Y0)


def test_targets_too_large_for_float32():
    with pytest.raises(ProblemError, match=r"targets y in float32: .* measurement 1"):
        MatrixSensing.from_dense(A0.astype(np.float32), np.where(np.arange(12) == 1, 1e300, 1.0))


@pytest.mark.parametrize(
    ("A", "y", "shape", "message"),
    [
        (A0.reshape(12, 9), Y0, None, r"A has shape \(12, 9\) and shape=None; give shape=\(m, n\)"),
        (A0.reshape(12, 9), Y0, (3, 4), r"A has shape \(12, 9\) and shape=\(3, 4\); .* 12 numbers"),
        (A0, Y0, (9, 1), r"shape=\(9, 1\) with A of shape \(12, 3, 3\); leave shape out"),
        (A0.ravel(), Y0, None, r"A has shape \(108,\); expected \(N, m, n\)"),
        (A0[:0], Y0[:0], None, r"A has shape \(0, 3, 3\); expected"),
        (A0[:, :0], Y0, None, r"A has shape \(12, 0, 3\); expected"),
        (A0, Y0[:11], None, r"targets y have shape \(11,\); expected \(12,\)"),
        (A0, Y0[:, None], None, r"targets y have shape \(12, 1\); expected \(12,\)"),
        (A0.reshape(12, 9), Y0, (3.5, 3), "expected two positive integers"),
        (A0.reshape(12, 9), Y0, "ab", "expected two positive integers"),
    ],
)
def test_shapes_that_do_not_fit(A, y, shape, message):
    with pytest.raises(ProblemError, match=message):
        MatrixSensing.from_dense(A, y, shape=shape)


@pytest.mark.parametrize("wrong", [object, complex, "U8"])
def test_types_that_cannot_be_used(wrong):
    with pytest.raises(ProblemTypeError, match=r"A has .*dtype"):
        MatrixSensing.from_dense(A0.astype(wrong), Y0)
    with pytest.raises(ProblemTypeError, match=r"targets has .*dtype"):
        MatrixSensing.from_dense(A0, Y0.astype(wrong))
    with pytest.raises(ProblemTypeError, match=r"B has .*dtype"):
        MatrixSensing.from_rank_one(A0[:, 0], A0[:, 0].astype(wrong), Y0)
    with pytest.raises(ProblemTypeError, match=r"y has .*dtype"):
        MatrixSensing.from_callable(*Functions(A0).pair, Y0.astype(wrong), (3, 3))


def test_sparse_measurements_are_refused():
    with pytest.raises(ProblemTypeError, match=r"A is a sparse matrix; .* from_callable"):
        MatrixSensing.from_dense(sp.csr_array(A0.reshape(12, 9)), Y0, shape=(3, 3))


def test_other_libraries_are_refused():
    strict = pytest.importorskip("array_api_strict")
    with pytest.raises(UnsupportedBackendError, match="A is a array_api_strict array"):
        MatrixSensing.from_dense(strict.asarray(A0), Y0)


def test_rank_one_shapes():
    with pytest.raises(ProblemError, match=r"A has shape \(12, 3, 3\); expected \(N, side\)"):
        MatrixSensing.from_rank_one(A0, None, Y0)
    with pytest.raises(ProblemError, match=r"B has shape \(11, 3\); .* measurement, 12 like A"):
        MatrixSensing.from_rank_one(A0[:, 0], A0[:11, 0], Y0)
    with pytest.raises(ProblemError, match=r"A has shape \(0, 3\)"):
        MatrixSensing.from_rank_one(A0[:0, 0], None, Y0[:0])
    with pytest.raises(ProblemError, match="square"):
        MatrixSensing.from_rank_one(A0[:, 0], A0[:, 0, :2], Y0, symmetric=True)


@pytest.mark.parametrize("rank", [0, 4, -1, 2.0, True, "auto"])
def test_ranks_out_of_range(rank):
    message = r"rank=.*; expected an integer from 1 to min\(shape\) = 3 or None"
    with pytest.raises(ParameterError, match=message):
        MatrixSensing.from_dense(A0, Y0, rank=rank)


def test_options_out_of_range():
    with pytest.raises(ParameterError, match="loss='huber'; expected one of 'l1', 'squared'"):
        MatrixSensing.from_dense(A0, Y0, loss="huber")
    with pytest.raises(ParameterError, match="symmetric='yes'; expected True or False"):
        MatrixSensing.from_dense(A0, Y0, symmetric="yes")
    with pytest.raises(ProblemError, match=r"symmetric=True with matrices of shape \(3, 2\)"):
        MatrixSensing.from_dense(A0[:, :, :2], Y0, symmetric=True)


def test_repeated_entries():
    i, j, y = [0, 0, 1, 0], [0, 1, 1, 0], [1.0, 2.0, 3.0, 5.0]
    with pytest.raises(ProblemError, match=r"1 repeated \(row, column\) pair"):
        MatrixSensing.from_entries(i, j, y)
    problem = MatrixSensing.from_entries(i, j, y, duplicates="mean")
    assert problem.targets.tolist() == [3.0, 2.0, 3.0]


@pytest.mark.parametrize(
    ("apply", "adjoint", "error", "message"),
    [
        (None, "good", ProblemTypeError, "apply is a NoneType; expected callable"),
        ("good", 3, ProblemTypeError, "adjoint is a int; expected callable"),
        (lambda U, V: np.ones(11), "good", ProblemError, r"apply\(U, V\) .* shape \(11,\)"),
        (lambda U, V: np.ones((12, 1)), "good", ProblemError, r"\(12, 1\) .* expected 12 real"),
        (lambda U, V: np.ones(12, complex), "good", ProblemError, "dtype complex128"),
        (lambda U, V: np.full(12, np.nan), "good", ProblemError, "not finite for finite factors"),
        ("good", lambda z: None, ProblemError, "NoneType that cannot be used as Z @ V"),
        ("good", lambda z: np.ones((4, 4)), ProblemError, "cannot be used as Z @ V"),
        ("good", lambda z: np.ones(3), ProblemError, r"shape \(2,\)"),
        (
            *("good", lambda z: np.einsum("p,pij->ji", z, LOP)),
            *(ProblemError, "adjoint is not the adjoint of apply"),
        ),
        (
            *("good", lambda z: np.einsum("p,pij->ij", z, LOP) / 12),
            *(ProblemError, "adjoint is not the adjoint of apply"),
        ),
    ],
)
def test_functions_that_do_not_fit(apply, adjoint, error, message):
    good = Functions(LOP)
    apply = good.apply if apply == "good" else apply
    adjoint = good.adjoint if adjoint == "good" else adjoint
    with pytest.raises(error, match=message):
        MatrixSensing.from_callable(apply, adjoint, Y0, (3, 3))


LOP = np.random.default_rng(1).standard_normal((12, 3, 3))


@pytest.mark.parametrize("wrap", [np.asarray, sp.csr_array, aslinearoperator])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_functions_that_fit(wrap, dtype):
    good = Functions(LOP.astype(dtype))
    problem = MatrixSensing.from_callable(
        good.apply, lambda z: wrap(good.adjoint(z)), Y0.astype(dtype), (3, 3)
    )
    assert problem.dtype == dtype
    x = np.ones((3, 1)), np.ones((3, 1))
    expected = MatrixSensing.from_dense(LOP, Y0)
    rtol = 1e-6 if dtype == np.float32 else 1e-12
    np.testing.assert_allclose(problem.objective(x), expected.objective(x), rtol=rtol)
    np.testing.assert_allclose(problem.gradient(x).U, expected.gradient(x).U, atol=1e-6)


def test_one_by_one():
    problem = MatrixSensing.from_dense([[[2.0]], [[3.0]]], [4.0, 6.0])
    assert problem.rank == 1
    assert problem.objective(([[2.0]], [[1.0]])) == 0.0
    with pytest.raises(ProblemError, match="targets y have shape"):
        MatrixSensing.from_callable(lambda U, V: [], lambda z: 0, [], (1, 1))
