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
    return math.sqrt(total / np.sum(w * np.where(seen, X, 0.0) ** 2))


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
    expected = {
        "l1_value": np.sum(W[seen] * E),
        "inlier_fraction": np.mean(E / median <= 3 * 1.4826),
        "numerical_rank": RANK,
        "median_residual": median / np.median(np.abs(X[seen])),
        "huber_delta": HUBER * median,
        "rmse": math.sqrt(np.sum(W[seen] * E**2) / W[seen].sum()),
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
        return (w @ e) ** 2 / w.sum(), (w @ y**2), w, e

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
