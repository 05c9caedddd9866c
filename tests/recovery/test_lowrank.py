"""LowRankMatrix and LowRankSamples against dense arithmetic."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from lowrank_opt.core.errors import ParameterError, ProblemError, ProblemTypeError
from lowrank_opt.core.serialize import decode, encode
from lowrank_opt.recovery import LowRankMatrix, LowRankSamples


@pytest.fixture
def rng():
    return np.random.default_rng(1)


def make(rng, m=7, n=5, k=3, dtype=np.float64, biases=True):
    x = [rng.standard_normal(s).astype(dtype) for s in ((m, k), (n, k), m, n)]
    return LowRankMatrix(x[0], x[1], 0.7, *(x[2:] if biases else ()))


def dense(x):
    out = x.U.astype(float) @ x.V.T.astype(float) + x.offset
    if x.row_bias is not None:
        out += np.add.outer(x.row_bias, x.col_bias).astype(float)
    return out


@pytest.mark.parametrize("biases", [True, False])
@pytest.mark.parametrize(("dtype", "tol"), [(np.float64, 1e-13), (np.float32, 2e-6)])
def test_entries_dense_and_products(dtype, tol, biases, rng):
    x = make(rng, dtype=dtype, biases=biases)
    X = dense(x)
    i, j = np.meshgrid(np.arange(7), np.arange(5), indexing="ij")
    for got in (x.predict(i, j), x.to_dense(), x.predict(np.arange(7)[:, None], np.arange(5))):
        assert got.dtype == dtype
        np.testing.assert_allclose(got, X, rtol=tol, atol=tol)
    np.testing.assert_allclose(x.T.to_dense(), X.T, rtol=tol, atol=tol)
    for B in (rng.standard_normal(5), rng.standard_normal((5, 2))):
        np.testing.assert_allclose(x @ B, X @ B, rtol=10 * tol, atol=10 * tol)
    assert (x.shape, x.rank, x.dtype) == ((7, 5), 3, dtype)
    assert x.nbytes == np.dtype(dtype).itemsize * (12 * 3 + (12 if biases else 0))


def test_scalar_positions(rng):
    x = make(rng)
    assert x.predict(2, 3).shape == ()
    np.testing.assert_allclose(x.predict(2, 3), dense(x)[2, 3], rtol=1e-13)


def test_many_pairs_go_through_chunks(rng, monkeypatch):
    monkeypatch.setattr("lowrank_opt.recovery.lowrank._GATHER", 10)
    x = make(rng)
    i, j = rng.integers(0, 7, 50), rng.integers(0, 5, 50)
    np.testing.assert_allclose(x.predict(i, j), dense(x)[i, j], rtol=1e-12, atol=1e-13)


def test_singular_values_of_the_factor_part(rng):
    x = make(rng, 20, 6, 4)
    expected = np.linalg.svd(x.U @ x.V.T, compute_uv=False)
    np.testing.assert_allclose(x.singular_values(), expected[:4], rtol=1e-12)
    thin = LowRankMatrix(rng.standard_normal((2, 5)), rng.standard_normal((9, 5)))
    np.testing.assert_allclose(
        thin.singular_values(), np.linalg.svd(thin.U @ thin.V.T, compute_uv=False), rtol=1e-12
    )
    assert LowRankMatrix(np.empty((3, 0)), np.empty((4, 0))).singular_values().shape == (0,)


def test_small_singular_values_are_resolved():
    x = LowRankMatrix(np.eye(5, 2), np.eye(4, 2) * [1.0, 1e-12])
    np.testing.assert_allclose(x.singular_values(), [1.0, 1e-12], rtol=1e-12)


def test_rank_zero_is_the_constant_and_the_biases(rng):
    x = LowRankMatrix(np.empty((3, 0)), np.empty((2, 0)), 1.5, np.arange(3.0), np.arange(2.0))
    np.testing.assert_array_equal(x.to_dense(), 1.5 + np.add.outer(np.arange(3), np.arange(2)))
    np.testing.assert_array_equal(x.predict([0, 2], [1, 1]), [2.5, 4.5])


def test_cold_start_policies(rng):
    x = make(rng)
    rows, cols = [1, 99, 1, -1], [2, 2, -5, 5]
    warm = dense(x)[1, 2]
    np.testing.assert_allclose(
        x.predict(rows, cols),
        [warm, 0.7 + x.col_bias[2], 0.7 + x.row_bias[1], 0.7],
        rtol=1e-13,
    )
    got = x.predict(rows, cols, cold="nan")
    np.testing.assert_allclose(got, [warm, np.nan, np.nan, np.nan], rtol=1e-13)
    with pytest.raises(
        ProblemError, match=r"rows: 2 position\(s\) outside 0\.\.6, the first is 99"
    ):
        x.predict(rows, cols, cold="error")
    with pytest.raises(ParameterError, match="cold='median'"):
        x.predict(rows, cols, cold="median")


def test_float_ids_are_refused(rng):
    with pytest.raises(ProblemTypeError, match="rows has dtype float64"):
        make(rng).predict([0.0, 1.0], [0, 1])
    assert make(rng).predict([], []).shape == (0,)


def test_dense_beyond_the_limit_is_refused_before_allocation():
    x = LowRankMatrix(np.ones((200_000, 1)), np.ones((100_000, 1)))
    tracemalloc.start()
    with pytest.raises(MemoryError, match=r"160000000000 bytes \(149 GiB\).*max_bytes=1073741824"):
        x.to_dense()
    assert tracemalloc.get_traced_memory()[1] < 1e6
    tracemalloc.stop()
    small = LowRankMatrix(np.ones((10, 1)), np.ones((10, 1)))
    with pytest.raises(MemoryError, match="800 bytes"):
        small.to_dense(max_bytes=799)
    assert small.to_dense(max_bytes=800).shape == small.to_dense(max_bytes=None).shape == (10, 10)


def test_astype_and_conversions(rng):
    x = make(rng)
    single = x.astype(np.float32)
    assert single.U.dtype == single.V.dtype == single.row_bias.dtype == np.float32
    assert x.astype("float64") is x
    with pytest.raises(ParameterError, match="dtype=int64"):
        x.astype(np.int64)
    assert LowRankMatrix([[1]], [[2]]).dtype == np.float64
    assert LowRankMatrix(np.ones((1, 1), np.float16), np.ones((1, 1))).dtype == np.float32
    assert "7 x 5, rank 3" in repr(x)


def test_wrong_shapes_and_types_are_refused(rng):
    U, V = np.ones((4, 2)), np.ones((3, 2))
    with pytest.raises(ProblemError, match="same number of columns"):
        LowRankMatrix(U, V[:, :1])
    with pytest.raises(ProblemError, match=r"row_bias has shape \(3,\); expected \(4,\)"):
        LowRankMatrix(U, V, row_bias=np.ones(3))
    with pytest.raises(ProblemError, match="U has shape"):
        LowRankMatrix(U[0], V)
    with pytest.raises(ProblemTypeError, match="complex128"):
        LowRankMatrix(U * 1j, V)
    with pytest.raises(ProblemError, match="right operand"):
        LowRankMatrix(U, V) @ np.ones(4)


def test_factors_survive_the_codec_without_pickle(rng):
    for x in (make(rng), make(rng, biases=False), samples(rng)):
        arrays = {}
        back = decode(encode(x, arrays), arrays)
        assert type(back) is type(x)
        assert back.offset == x.offset
        for name in ("U", "V", "row_bias", "col_bias"):
            np.testing.assert_array_equal(getattr(back, name), getattr(x, name))


def samples(rng, S=6, m=7, n=5, k=2, dtype=np.float64):
    shapes = ((S, m, k), (S, n, k), (S, m), (S, n))
    U, V, b, c = (rng.standard_normal(s).astype(dtype) for s in shapes)
    return LowRankSamples(U, V, rng.random(S) + 0.5, 0.3, b, c)


@pytest.mark.parametrize(("dtype", "tol"), [(np.float64, 1e-12), (np.float32, 1e-5)])
def test_posterior_mean_and_predictive_deviation(dtype, tol, rng):
    x = samples(rng, dtype=dtype)
    draws = np.stack([dense(x[s]) for s in range(len(x))])
    i, j = rng.integers(0, 7, 20), rng.integers(0, 5, 20)
    mean, std = x.predict(i, j, return_std=True)
    assert mean.dtype == std.dtype == dtype
    np.testing.assert_allclose(mean, draws.mean(axis=0)[i, j], rtol=tol, atol=tol)
    variance = draws.var(axis=0, ddof=1)[i, j] + np.mean(1 / x.alpha)
    np.testing.assert_allclose(std, np.sqrt(variance), rtol=tol)
    np.testing.assert_allclose(x.predict(i, j), mean, rtol=0)
    np.testing.assert_allclose(x.to_dense(), draws.mean(axis=0), rtol=tol, atol=tol)
    with pytest.raises(MemoryError, match="max_bytes"):
        x.to_dense(max_bytes=10)


def test_samples_checks_and_cold_start(rng):
    x = samples(rng)
    assert (x.n_samples, x.shape, x.rank) == (6, (7, 5), 2)
    np.testing.assert_allclose(x.predict(99, 1), 0.3 + x.col_bias[:, 1].mean(), rtol=1e-12)
    assert np.isnan(x.predict(99, 1, cold="nan"))
    with pytest.raises(ProblemError, match="S, m, k"):
        LowRankSamples(x.U, x.V[:3], x.alpha)
    with pytest.raises(ProblemError, match="alpha"):
        LowRankSamples(x.U, x.V, -x.alpha)
    with pytest.raises(ProblemError, match="row_bias"):
        LowRankSamples(x.U, x.V, x.alpha, row_bias=x.row_bias[:, :2])
