"""LowRankPlusSparse: its certificate against dense formulas, closed forms and known facts."""

from __future__ import annotations

import dataclasses
import json
import math
import pickle

import cvxpy as cp
import numpy as np
import pytest
import scipy.sparse as sp

from lowrank_opt.core import AccuracyWarning, ParameterError, ProblemError
from lowrank_opt.datasets import make_low_rank_observations
from lowrank_opt.recovery import LowRankMatrix, LowRankPlusSparse, Observations
from lowrank_opt.recovery import robust as module
from lowrank_opt.recovery._spectral_start import relative_step
from lowrank_opt.testing import check_problem

SHAPE, RANK = (14, 11), 2
HUBER = 1.345 * 1.4826


@pytest.fixture
def rng():
    return np.random.default_rng(5)


def masked(rng, p=0.7):
    X = rng.standard_normal(SHAPE) + 0.5
    missing = rng.random(SHAPE) > p
    missing[:, :2], missing[:2, :] = False, False
    X[missing] = np.nan
    return X


def random_point(rng, dtype=np.float64, rank=RANK):
    return LowRankMatrix(*(rng.standard_normal((s, rank)).astype(dtype) for s in SHAPE))


def dense_step(X, W, U, V):
    """The formula of the certificate, with dense arrays and no code of the library."""
    seen = ~np.isnan(X)
    E = np.where(seen, X - U @ V.T, 0.0)
    delta = HUBER * np.median(np.abs(E[seen]))
    w = np.where(seen, W, 0.0) * np.minimum(1.0, delta / np.maximum(np.abs(E), 1e-300))
    total = 0.0
    for A, B, F in ((w * E, w, V), ((w * E).T, w.T, U)):
        mass = B.sum(axis=1)
        t = B.sum(axis=0)
        G = (F * t[:, None]).T @ F / t.sum()
        g = A @ F
        total += sum(g[i] @ np.linalg.solve(mass[i] * G, g[i]) for i in range(len(g)))
    return math.sqrt(total / (w.sum() * data_square(X[seen])))


def data_square(y):
    """Mean square of the data, cut off at ten times their median size."""
    return np.mean(np.minimum(np.abs(y), 10 * np.median(np.abs(y))) ** 2)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("chunk", [None, 8])
def test_certificate_is_the_documented_formula(rng, weighted, chunk, monkeypatch):
    if chunk is not None:
        monkeypatch.setattr(module, "CHUNK", chunk)
    X, x = masked(rng), random_point(rng)
    W = rng.random(SHAPE) + 0.5 if weighted else np.ones(SHAPE)
    problem = LowRankPlusSparse.from_dense(X, rank=RANK, weights=W if weighted else None)
    certificate = problem.certificate(x)
    seen = ~np.isnan(X)
    E = np.abs(X - x.U @ x.V.T)[seen]
    median = np.median(E)
    np.testing.assert_allclose(certificate.residual, dense_step(X, W, x.U, x.V), rtol=1e-12)
    np.testing.assert_allclose(certificate.objective, np.sum(W[seen] * E), rtol=1e-12)
    # The residual is large here: the part for what the point leaves undone is at its cap.
    bound = 3 * 1.4826 * median + 1e-3 * np.median(np.abs(X[seen]))
    expected = {
        "l1_value": np.sum(W[seen] * E),
        "inlier_fraction": np.mean(bound >= E),
        "numerical_rank": RANK,
        "median_residual": median / np.median(np.abs(X[seen])),
        "huber_delta": HUBER * median,
        "rmse": math.sqrt(np.sum(W[seen] * E**2) / W[seen].sum()),
        "size_ratio": math.sqrt(np.mean((x.U @ x.V.T) ** 2) / data_square(X[seen])),
    }
    assert set(certificate.details) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(certificate.details[name], value, rtol=1e-12, err_msg=name)


def outliers(seed=0, dtype=np.float64, **options):
    return make_low_rank_observations(
        60, 50, 3, oversampling=5, outlier_fraction=0.1, dtype=dtype, random_state=seed, **options
    )


def test_truth_has_residual_zero_and_its_outliers():
    data = outliers()
    problem = LowRankPlusSparse.from_coo(data.rows, data.cols, data.values, data.shape, rank=3)
    x = (data.U, data.V)
    certificate = problem.certificate(x)
    assert certificate.residual < 1e-15
    assert certificate.details["median_residual"] < 1e-15
    n_outliers = int(data.outliers.sum())
    assert certificate.details["inlier_fraction"] == 1 - n_outliers / data.values.size
    gross = np.abs(data.values - data.clean_values())[data.outliers].sum()
    np.testing.assert_allclose(certificate.objective, gross, rtol=1e-12)
    S = problem.sparse_part(x)
    found = np.zeros(data.shape, dtype=bool)
    found[S.nonzero()] = True
    truth = np.zeros(data.shape, dtype=bool)
    truth[data.rows[data.outliers], data.cols[data.outliers]] = True
    np.testing.assert_array_equal(found, truth)


def test_residual_is_the_size_of_a_small_error(rng):
    data = outliers()
    problem = LowRankPlusSparse.from_coo(data.rows, data.cols, data.values, data.shape, rank=3)
    noise = rng.standard_normal(data.U.shape)
    for size in (1e-8, 1e-5, 1e-2):
        U = data.U * (1.0 + size * noise)
        error = np.linalg.norm((U - data.U) @ data.V.T) / np.linalg.norm(data.U @ data.V.T)
        residual = problem.certificate((U, data.V)).residual
        assert 0.3 * error < residual < 3.0 * error


def test_stationary_point_of_the_huber_loss_has_residual_zero(rng):
    """The exact minimiser over one row of the loss with its own threshold, by bisection."""
    y = np.concatenate([rng.standard_normal(40), [50.0, 80.0, -60.0]])
    low, high = -5.0, 5.0
    for _ in range(200):
        c = 0.5 * (low + high)
        delta = HUBER * np.median(np.abs(y - c))
        slope = np.clip(y - c, -delta, delta).sum()
        low, high = (c, high) if slope > 0 else (low, c)
    # One row, constant columns: the row is stationary; the columns fit one entry each.
    problem = LowRankPlusSparse.from_dense(y[:, None], rank=1)
    at = problem.certificate((np.ones((43, 1)), np.array([[c]])))
    off = problem.certificate((np.ones((43, 1)), np.array([[c + 0.3]])))

    def column_part(v):
        e = y - v
        delta = HUBER * np.median(np.abs(e))
        w = np.minimum(1.0, delta / np.abs(e))
        return (w @ e) ** 2 / w.sum(), w.sum() * data_square(y), w, e

    for certificate, v in ((at, c), (off, c + 0.3)):
        part, unit, w, e = column_part(v)
        rows = np.sum((w * e * v) ** 2 / (w * v**2))
        np.testing.assert_allclose(certificate.residual**2, (part + rows) / unit, rtol=1e-9)
    assert column_part(c)[0] < 1e-20 < column_part(c + 0.3)[0]


def test_invariances(rng):
    X, x = masked(rng), random_point(rng)
    problem = LowRankPlusSparse.from_dense(X, rank=RANK)
    residual = problem.certificate(x).residual
    G = rng.standard_normal((RANK, RANK))
    rows, cols = rng.permutation(SHAPE[0]), rng.permutation(SHAPE[1])
    same = [
        problem.certificate((x.U @ G, x.V @ np.linalg.inv(G).T)),
        LowRankPlusSparse.from_dense(1e6 * X, rank=RANK).certificate((1e6 * x.U, x.V)),
        LowRankPlusSparse.from_dense(X.T, rank=RANK).certificate((x.V, x.U)),
        LowRankPlusSparse.from_dense(X[np.ix_(rows, cols)], rank=RANK).certificate(
            (x.U[rows], x.V[cols])
        ),
        LowRankPlusSparse.from_dense(
            X, rank=RANK, weights=np.full(SHAPE, 7.0)
        ).certificate(x),
    ]  # fmt: skip
    for certificate in same:
        np.testing.assert_allclose(certificate.residual, residual, rtol=1e-9)


def test_objective_is_minimised_by_an_independent_solver():
    """With one column the problem is convex: the weighted median, by cvxpy."""
    y, w = np.array([1.0, 2.0, 4.0, 30.0, -9.0]), np.array([1.0, 2.0, 1.0, 1.0, 0.5])
    problem = LowRankPlusSparse.from_dense(
        np.tile(y, (1, 1)).T, rank=1, weights=np.tile(w, (1, 1)).T
    )
    c = cp.Variable()
    value = cp.Problem(cp.Minimize(w @ cp.abs(y - c))).solve()
    np.testing.assert_allclose(
        problem.objective((np.ones((5, 1)), np.array([[float(c.value)]]))), value, rtol=1e-6
    )


def test_common_problem_checks(rng):
    X = masked(rng)
    problem = LowRankPlusSparse.from_dense(X, rank=RANK, outlier_fraction=0.2)
    other = LowRankPlusSparse.from_dense(2 * X, rank=RANK)
    check_problem(problem, random_point(rng), random_point(rng, rank=1), other=other)


def test_float32_data_are_graded_in_float64():
    data = outliers(dtype=np.float32)
    problem = LowRankPlusSparse.from_coo(data.rows, data.cols, data.values, data.shape, rank=3)
    assert problem.dtype == np.float32
    certificate = problem.certificate((data.U, data.V))
    assert 0 < certificate.residual < 1e-6
    wide = LowRankPlusSparse.from_coo(
        data.rows, data.cols, data.values.astype(np.float64), data.shape, rank=3
    )
    x = (data.U.astype(np.float64), data.V.astype(np.float64))
    np.testing.assert_allclose(problem.objective((data.U, data.V)), wide.objective(x), rtol=1e-12)


def test_medians_of_long_data_come_from_a_sample(monkeypatch, rng):
    data = make_low_rank_observations(
        80, 70, 2, n_observations=4000, noise=0.1, outlier_fraction=0.1, random_state=0
    )
    build = lambda: LowRankPlusSparse.from_coo(  # noqa: E731
        data.rows, data.cols, data.values, data.shape, rank=2
    )
    whole = build().certificate((data.U, data.V))
    monkeypatch.setattr(module, "sample", lambda array: array[: array.size // 2])
    part = build().certificate((data.U, data.V))
    assert part.details["huber_delta"] != whole.details["huber_delta"]
    np.testing.assert_allclose(
        part.details["huber_delta"], whole.details["huber_delta"], rtol=0.15
    )  # fmt: skip


def test_points_that_are_not_finite_have_an_infinite_residual(rng):
    problem = LowRankPlusSparse.from_dense(masked(rng), rank=RANK)
    x = random_point(rng)
    for value in (np.nan, np.inf):
        U = x.U.copy()
        U[3] = value
        assert problem.certificate((U, x.V)).residual == math.inf


def test_rank_limit_leaves_two_entries_a_degree_of_freedom():
    data = outliers()
    problem = LowRankPlusSparse.from_coo(data.rows, data.cols, data.values, data.shape)
    r, N = problem.rank_limit, data.values.size
    assert r * (110 - r) <= N / 2 < (r + 1) * (110 - r - 1)
    assert not problem.rank_known
    limited = dataclasses.replace(problem, max_rank=2)
    assert limited.rank_limit == 2
    assert dataclasses.replace(problem, rank=4).rank_limit == 4


def test_sparse_part_with_a_threshold(rng):
    X, x = masked(rng), random_point(rng)
    problem = LowRankPlusSparse.from_dense(X, rank=RANK)
    S = problem.sparse_part(x, threshold=1.5)
    E = np.nan_to_num(X - x.U @ x.V.T)
    np.testing.assert_allclose(S.toarray(), np.where(np.abs(E) > 1.5, E, 0.0), rtol=1e-12)
    assert isinstance(S, sp.csr_array)


def test_from_sparse_and_from_dense_are_the_same_problem(rng):
    X = masked(rng)
    rows, cols = np.nonzero(~np.isnan(X))
    values = X[rows, cols]
    problems = [
        LowRankPlusSparse.from_dense(X, rank=2),
        LowRankPlusSparse.from_sparse(sp.coo_array((values, (rows, cols)), SHAPE), rank=2),
        LowRankPlusSparse.from_coo(rows, cols, values, SHAPE, rank=2),
    ]
    prints = {json.dumps(p.fingerprint(), sort_keys=True) for p in problems}
    assert len(prints) == 1
    assert pickle.loads(pickle.dumps(problems[0])).fingerprint() == problems[0].fingerprint()


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"rank": 0}, "rank=0"),
        ({"rank": 12}, "rank=12.*11"),
        ({"rank": 2.5}, r"rank=2\.5"),
        ({"rank": True}, "rank=True"),
        ({"rank": "full"}, "rank='full'.*auto"),
        ({"rank": 2, "max_rank": 3}, "max_rank=3.*auto"),
        ({"max_rank": 0}, "max_rank=0"),
        ({"outlier_fraction": 0.5}, r"outlier_fraction=0\.5.*0\.5"),
        ({"outlier_fraction": -0.1}, r"outlier_fraction=-0\.1"),
        ({"outlier_fraction": "few"}, "outlier_fraction='few'"),
        ({"outlier_fraction": math.nan}, "outlier_fraction=nan"),
    ],
)
def test_parameters_out_of_range(options, match, rng):
    with pytest.raises(ParameterError, match=match):
        LowRankPlusSparse.from_dense(masked(rng), **options)


@pytest.mark.parametrize(
    ("x", "match"),
    [
        (np.ones(3), "expected a LowRankMatrix or a pair"),
        ((np.ones((14, 3)), np.ones((11, 3))), "at most 2"),
        ((np.ones((13, 2)), np.ones((11, 2))), r"\(14, 11\)"),
        (LowRankMatrix(np.ones((14, 1)), np.ones((11, 1)), offset=1.0), "offset"),
        (LowRankMatrix(np.ones((14, 1)), np.ones((11, 1)), 0.0, np.ones(14)), "biases"),
    ],
)
def test_points_of_another_form(x, match, rng):
    problem = LowRankPlusSparse.from_dense(masked(rng), rank=2)
    with pytest.raises(ProblemError, match=match):
        problem.certificate(x)


def test_starts_must_be_finite(rng):
    problem = LowRankPlusSparse.from_dense(masked(rng).astype(np.float32), rank=2)
    U, V = np.ones((14, 2)), np.ones((11, 2))
    assert problem.start((U, V)).dtype == np.float32
    U[3, 1] = 1e60
    with pytest.raises(ProblemError, match=r"x0\.U: 1 not finite in float32.*\(3, 1\)"):
        problem.start((U, V))


def test_warnings_about_data(rng):
    X = masked(rng)
    X[4] = np.nan
    with pytest.raises(ProblemError, match=r"1 row\(s\).*row 4; remove"):
        LowRankPlusSparse.from_dense(X)
    with pytest.warns(AccuracyWarning, match=r"1 row\(s\)"):
        LowRankPlusSparse(Observations.from_dense(X))
    few = make_low_rank_observations(30, 30, 2, n_observations=200, random_state=0)
    with pytest.warns(AccuracyWarning, match=r"fewer observations \(200\).*500"):
        LowRankPlusSparse.from_coo(few.rows, few.cols, few.values, few.shape, rank=10)


# -- data and points at which a grade could be wrong ---------------------------------------------


def low_rank_with_errors(big, seed=0, p=0.7):
    rng = np.random.default_rng(seed)
    U, V = rng.standard_normal((60, 2)), rng.standard_normal((50, 2))
    X = U @ V.T
    bad = rng.random(X.shape) < 0.1
    X[bad] += big * rng.standard_normal(int(bad.sum()))
    X[rng.random(X.shape) > p] = np.nan
    return X, U, V


@pytest.mark.parametrize("big", [1e2, 1e8, 1e14, 1e200])
def test_gross_errors_cannot_shrink_the_residual(big):
    X, U, V = low_rank_with_errors(big)
    problem = LowRankPlusSparse.from_dense(X, rank=2)
    rng = np.random.default_rng(1)
    wrong = (rng.standard_normal(U.shape), rng.standard_normal(V.shape))
    reference = LowRankPlusSparse.from_dense(low_rank_with_errors(100.0)[0], rank=2)
    found = problem.certificate(wrong)
    assert found.residual > 0.3
    np.testing.assert_allclose(found.residual, reference.certificate(wrong).residual, rtol=0.5)
    assert found.details["rmse"] < math.inf
    assert problem.certificate((U, V)).residual < 1e-14


def test_vanishing_points_prove_nothing():
    X, U, V = low_rank_with_errors(10.0)
    problem = LowRankPlusSparse.from_dense(X, rank=2)
    for x in ((0 * U, 0 * V), (0 * U, V), (U[:, :0], V[:, :0]), (1e-300 * U, V), (1e-17 * U, V)):
        assert problem.certificate(x).residual >= 1.0
    zero = LowRankPlusSparse.from_dense(np.zeros((6, 5)), rank=1)
    assert zero.certificate((np.zeros((6, 1)), np.zeros((5, 1)))).residual == 0.0


def test_residual_does_not_depend_on_the_scaling_of_the_columns():
    X, U, V = low_rank_with_errors(10.0)
    problem = LowRankPlusSparse.from_dense(X, rank=2)
    c = 1e-4
    near = np.column_stack([V[:, 0] + c * V[:, 1], V[:, 1]])
    expected = problem.certificate((U, near)).residual
    assert expected > 1e-5
    for t in (1e8, 1e-8, 1e100):
        scales = np.array([1 / t, t])
        found = problem.certificate((U * scales, near / scales)).residual
        np.testing.assert_allclose(found, expected, rtol=1e-8)


@pytest.mark.parametrize("size", [1e-130, 1e-30, 1e30, 1e130])
def test_scales_of_the_data(size):
    X, U, V = low_rank_with_errors(10.0)
    x = (U * (1 + 1e-3 * np.arange(2)), V)
    expected = LowRankPlusSparse.from_dense(X, rank=2).certificate(x)
    found = LowRankPlusSparse.from_dense(X * size, rank=2).certificate((x[0] * size, V))
    np.testing.assert_allclose(found.residual, expected.residual, rtol=1e-8)
    np.testing.assert_allclose(found.objective, size * expected.objective, rtol=1e-12)
    np.testing.assert_allclose(found.details["rmse"], size * expected.details["rmse"], rtol=1e-12)


@pytest.mark.parametrize(
    ("dtype", "size"),
    [(np.float64, 1e-300), (np.float64, 1e154), (np.float32, 1e36), (np.float32, 1e-36)],
)
def test_data_too_large_or_small_are_refused(dtype, size):
    X = (size * low_rank_with_errors(1.0)[0]).astype(dtype)
    with pytest.raises(ProblemError, match=r"typical size of .* divide them by it"):
        LowRankPlusSparse.from_dense(X, rank=2)


def test_sound_entries_are_inliers_before_the_last_digit():
    """An answer of the solver's accuracy leaves errors that are not gross."""
    data = make_low_rank_observations(200, 120, 4, oversampling=5, random_state=0)
    problem = LowRankPlusSparse.from_coo(data.rows, data.cols, data.values, data.shape, rank=4)
    rng = np.random.default_rng(0)
    for size in (1e-6, 1e-9):
        # A few rows are further from convergence than what the median says.
        U = data.U * (1.0 + 0.1 * size * rng.standard_normal((200, 4)))
        U[:20] *= 1.0 + size * rng.standard_normal((20, 4))
        certificate = problem.certificate((U, data.V))
        assert 1e-2 * size < certificate.residual < size
        assert certificate.details["inlier_fraction"] == 1.0
        assert problem.sparse_part((U, data.V)).nnz == 0
    # Far from an answer a thousandth of the data at most is left out.
    gross = data.values.copy()
    gross[::50] += 1e-2 * problem.value_size
    dirty = LowRankPlusSparse.from_coo(data.rows, data.cols, gross, data.shape, rank=4)
    U = data.U.copy()
    U[:20] *= 2.0
    found = dirty.sparse_part((U, data.V))
    truth = dirty.sparse_part((data.U, data.V))
    assert truth.nnz == gross[::50].size
    assert set(zip(*truth.nonzero(), strict=True)) <= set(zip(*found.nonzero(), strict=True))


def test_periodic_data_do_not_alias_with_the_sample():
    """Columns 0, 5, 10, ... without noise: one fifth of the entries, in any sample."""
    rng = np.random.default_rng(0)
    X = 0.1 * rng.standard_normal((1000, 1000))
    X[:, ::5] = 0.0
    problem = LowRankPlusSparse.from_dense(X + 1.0, rank=1)
    part = problem.sparse_part((np.ones((1000, 1)), np.ones((1000, 1))))
    assert part.nnz < 0.05 * X.size
    x = (1.0 + 0.01 * rng.standard_normal((1000, 1)), np.ones((1000, 1)))
    expected = problem.certificate(x).residual
    assert relative_step(problem, *x) == pytest.approx(expected, rel=0.02)


def test_size_ratio_shows_entries_that_the_data_do_not_determine():
    X, U, V = low_rank_with_errors(1.0)
    problem = LowRankPlusSparse.from_dense(X, rank=2)
    assert 0.5 < problem.certificate((U, V)).details["size_ratio"] < 1.5
    seen = np.isnan(X).any(axis=1)
    assert seen.any()
    i, j = np.argwhere(np.isnan(X))[0]
    loose = LowRankPlusSparse.from_dense(X, rank="auto", max_rank=3)
    spike = (np.zeros((60, 1)), np.zeros((50, 1)))
    spike[0][i], spike[1][j] = 1e5, 1.0
    x = tuple(np.hstack([F, more]) for F, more in zip((U, V), spike, strict=True))
    certificate = loose.certificate(x)
    assert certificate.residual < 1e-14
    assert certificate.details["size_ratio"] > 100.0
