"""Kernels of measured losses against their NumPy form, in both precisions and at odd sizes."""

from __future__ import annotations

import itertools
import time

import numpy as np
import pytest
import scipy.sparse as sp
from threadpoolctl import threadpool_limits

from lowrank_opt.recovery import Observations, kernels
from lowrank_opt.recovery import kernels_sensing as sensing
from lowrank_opt.recovery.reference_sensing import linearize, slopes

LOSSES = {"l1": sensing.L1, "squared": sensing.SQUARED, "clipped": sensing.CLIPPED}
DELTA = 0.6

dtypes = pytest.mark.parametrize("dtype", [np.float32, np.float64])
losses = pytest.mark.parametrize("loss", LOSSES)


def close(actual, expected, dtype, what=""):
    tolerance = 2e-5 if dtype == np.float32 else 1e-12
    scale = max(1.0, float(np.max(np.abs(expected), initial=0.0)))
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * scale, err_msg=what)


def means(y, e, loss, weights=None):
    """Mean loss, weight and weighted square of the data, from their definitions."""
    w = np.ones(e.size) if weights is None else weights
    rho, psi = slopes(e, loss, DELTA)
    factor = w * psi / e if loss == "clipped" else np.zeros(e.size)
    return np.mean(w * rho), np.mean(factor), np.mean(factor * y**2)


def data_near(rng, measured, dtype):
    """Data whose errors are not so small that rounding decides their sign."""
    error = rng.choice([-1.0, 1.0], measured.size) * rng.uniform(0.05, 1.5, measured.size)
    return (measured - error).astype(dtype)


# -- dense measurements -------------------------------------------------------------------------


def dense_case(rng, dtype, shape, size, k):
    A = rng.standard_normal((size, *shape)).astype(dtype)
    U, V = (rng.standard_normal((s, k)).astype(dtype) for s in shape)
    y = data_near(rng, np.einsum("pij,ij->p", A.astype(np.float64), U @ V.T.astype(float)), dtype)
    return A, U, V, y


def dense_pass(A, U, V, y, loss, **options):
    dtype, (size, m, n) = A.dtype, A.shape
    x = sensing.padded((U @ V.T).ravel(), dtype)
    rows = sensing.padded(A.reshape(size, m * n), dtype)
    slope, *means_ = sensing.dense_pass(rows, y, x, LOSSES[loss], delta=DELTA, **options)
    assert not slope[m * n :].any()
    return slope[: m * n].reshape(m, n), means_


def double(*arrays):
    return [None if a is None else a.astype(np.float64) for a in arrays]


@dtypes
@losses
@pytest.mark.parametrize(
    ("shape", "size"), [((1, 1), 1), ((3, 5), 7), ((4, 4), 8), ((7, 9), 9), ((5, 6), 1037)]
)
@pytest.mark.parametrize(("rows", "cached"), [(8, 0), (8, np.inf), (4, 0), (2, 0)])
def test_dense_pass_is_the_reference(monkeypatch, dtype, loss, shape, size, rows, cached):
    """Also with the fewer rows at a time that long rows get, and in the cache."""
    monkeypatch.setattr(sensing, "_CACHED", cached)
    monkeypatch.setattr(sensing, "_EIGHT_ROWS", np.inf if rows == 8 else 0)
    monkeypatch.setattr(sensing, "_FOUR_ROWS", np.inf if rows >= 4 else 0)
    A, U, V, y = dense_case(np.random.default_rng(size), dtype, shape, size, 1)
    Q, found = dense_pass(A, U, V, y, loss)
    A, U, V, y = double(A, U, V, y)
    value, left, right, norm = linearize(A, U, V, y, loss, delta=DELTA)
    close(Q @ V, left, dtype)
    close(Q.T @ U, right, dtype)
    close(np.linalg.norm(Q), norm, dtype)
    close(found[0], value, dtype)
    close(found, means(y, np.einsum("pij,ij->p", A, U @ V.T) - y, loss), dtype)


def test_long_rows_are_read_in_smaller_groups(monkeypatch):
    seen = []

    def spy(kernel, n_chunks, arguments, work, threads):
        seen.append(arguments[3])

    monkeypatch.setattr(sensing, "_each_chunk", spy)
    monkeypatch.setattr(sensing, "add_chunks", lambda sums, out: None)
    for width in (16_384, 32_768, 131_072, 262_144):
        x = np.zeros(width, np.float64)
        with np.errstate(all="ignore"):
            sensing.dense_pass(np.zeros((1, width)), np.zeros(1), x, sensing.SQUARED)
    assert seen == [8, 4, 2, 2]


@dtypes
def test_the_sign_of_zero_is_zero(dtype):
    """Small integers: every error is exact, and many are 0."""
    rng = np.random.default_rng(0)
    A, U, V = (rng.integers(-1, 2, s).astype(dtype) for s in ((500, 3, 4), (3, 2), (4, 2)))
    y = rng.integers(-1, 2, 500).astype(dtype)
    e = np.einsum("pij,ij->p", A, U @ V.T) - y
    assert 20 < np.count_nonzero(e == 0) < 480
    expected = np.einsum("p,pij->ij", np.sign(e), A) / 500
    Q, _ = dense_pass(A, U, V, y, "l1")
    np.testing.assert_allclose(Q, expected, rtol=1e-6)
    a, b = A[:, :, 0].copy(), A[:, 0, :].copy()
    fit = np.einsum("pc,pc->p", a @ U, b @ V)
    left, *_ = rank_one_pass(a, b, y, U, V, "l1")
    np.testing.assert_allclose(left, a.T @ (np.sign(fit - y)[:, None] * (b @ V)) / 500, rtol=1e-6)
    obs = Observations.from_dense(rng.integers(-1, 2, (9, 8)).astype(dtype))
    U, V = (rng.integers(-1, 2, (s, 2)).astype(dtype) for s in (9, 8))
    S = np.sign(U @ V.T - obs.values.reshape(9, 8)).astype(np.float64)
    assert 10 < np.count_nonzero(S == 0) < 62
    left, right, _, norm, *_ = entry_pass(obs, obs.values, U, V, "l1")
    np.testing.assert_allclose(left, S @ V / 72, rtol=1e-6)
    np.testing.assert_allclose(right, S.T @ U / 72, rtol=1e-6)
    np.testing.assert_allclose(norm, np.linalg.norm(S) / 72, rtol=1e-12)


@dtypes
@losses
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_numbers_that_are_not_finite_show(dtype, loss, bad):
    rng = np.random.default_rng(1)
    A, U, V, y = dense_case(rng, dtype, (4, 4), 20, 2)
    U[1, 1] = bad
    with np.errstate(invalid="ignore"):
        assert not np.isfinite(dense_pass(A, U, V, y, loss)[1][0])
    _, _, _, _, value, *_ = rank_one_pass(A[:, 0].copy(), A[:, 1].copy(), y, U, V, loss)
    assert not np.isfinite(value)
    obs = Observations.from_dense(rng.standard_normal((4, 4)).astype(dtype))
    assert not np.isfinite(entry_pass(obs, obs.values, U, V, loss)[2])


# -- rank-one measurements ----------------------------------------------------------------------


def rank_one_pass(a, b, y, U, V, loss, twin=False, **options):
    rows = 8 * -(-len(a) // 8)
    A = sensing.padded(a, a.dtype, rows)
    B = A if twin else sensing.padded(b, a.dtype, rows)
    return sensing.rank_one_pass(A, B, y, U, V, LOSSES[loss], twin=twin, delta=DELTA, **options)


def rank_one_case(rng, dtype, shape, size, k):
    a, b = (rng.standard_normal((size, s)).astype(dtype) for s in shape)
    U, V = (rng.standard_normal((s, k)).astype(dtype) for s in shape)
    measured = np.einsum("pc,pc->p", a.astype(float) @ U, b.astype(float) @ V)
    return a, b, U, V, data_near(rng, measured, dtype)


@dtypes
@losses
@pytest.mark.parametrize(
    ("shape", "size", "k"), [((1, 1), 1, 1), ((3, 5), 7, 2), ((17, 9), 16, 3), ((5, 6), 1037, 5)]
)
def test_rank_one_pass_is_the_reference(dtype, loss, shape, size, k):
    rng = np.random.default_rng(size)
    a, b, U, V, y = rank_one_case(rng, dtype, shape, size, k)
    S, T = (rng.standard_normal((s, 2)).astype(dtype) for s in shape[::-1])
    rows = 8 * -(-size // 8)
    sketch, mirror = (np.zeros((2, rows), dtype) for _ in range(2))
    sketch[:, :size], mirror[:, :size] = (b @ S).T, (a @ T).T
    left, right, sketched, mirrored, *found = rank_one_pass(
        a, b, y, U, V, loss, sketch=sketch, mirror=mirror
    )
    a, b, U, V, y, S, T = double(a, b, U, V, y, S, T)
    A = a[:, :, None] * b[:, None, :]
    value, expected_left, expected_right, _ = linearize(A, U, V, y, loss, delta=DELTA)
    close(left, expected_left, dtype)
    close(right, expected_right, dtype)
    e = np.einsum("pij,ij->p", A, U @ V.T) - y
    close(found, means(y, e, loss), dtype)
    close(found[0], value, dtype)
    Q = np.einsum("p,pij->ij", slopes(e, loss, DELTA)[1], A) / size
    close(sketched, Q @ S, dtype)
    close(mirrored, Q.T @ T, dtype)


@dtypes
@losses
def test_rank_one_twins_take_half_of_the_work(dtype, loss):
    rng = np.random.default_rng(3)
    a, _, U, _, _ = rank_one_case(rng, dtype, (6, 6), 700, 2)
    y = data_near(rng, ((a.astype(float) @ U) ** 2).sum(axis=1), dtype)
    left, right, _, _, *found = rank_one_pass(a, a, y, U, U, loss, twin=True)
    other_left, other_right, _, _, *other_found = rank_one_pass(a, a, y, U, U, loss)
    close(left, other_left, dtype)
    close(right, other_right, dtype)
    close(found, other_found, dtype)
    a, U, y = double(a, U, y)
    value, expected, *_ = linearize(a[:, :, None] * a[:, None, :], U, U, y, loss, delta=DELTA)
    close(left, expected, dtype)
    close(found[0], value, dtype)


# -- entries ------------------------------------------------------------------------------------


def entry_pass(obs, y, U, V, loss, **options):
    none = np.empty(0, obs.dtype)
    weights = none if obs.weights is None else obs.weights
    csc_weights = none if obs.weights is None else obs.csc_weights
    return sensing.entry_pass(
        (obs.indptr, obs.indices, weights), (obs.csc_indptr, obs.csc_indices, csc_weights),
        lambda: obs.perm, y, U, V, LOSSES[loss], delta=DELTA, **options,
    )  # fmt: skip


def entry_case(rng, dtype, shape, k, density, weighted):
    """With an empty row and an empty column where there is more than one."""
    mask = rng.random(shape) < density
    mask[0, 0] = True
    if min(shape) > 2:
        mask[1, :], mask[:, 2] = False, False
    i, j = np.nonzero(mask)
    U, V = (rng.standard_normal((s, k)).astype(dtype) for s in shape)
    y = data_near(rng, (U.astype(float) @ V.T)[i, j], dtype)
    weights = (rng.random(i.size) + 0.5).astype(dtype) if weighted else None
    obs = Observations.from_coo(i, j, y, shape, weights=weights)
    E = np.zeros((i.size, *shape))
    E[np.arange(i.size), i, j] = 1.0
    return obs, U, V, E


@dtypes
@losses
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(
    ("shape", "k", "density"),
    [((1, 1), 1, 1.0), ((5, 7), 2, 0.5), ((19, 18), 17, 0.7), ((40, 9), 8, 0.2)],
)
@pytest.mark.parametrize("passes", [1, 2])
def test_entry_pass_is_the_reference(monkeypatch, dtype, loss, weighted, shape, k, density, passes):
    monkeypatch.setattr(sensing, "_TWO_PASSES", 2 if passes == 1 else 1)
    rng = np.random.default_rng(k)
    obs, U, V, E = entry_case(rng, dtype, shape, k, density, weighted)
    left, right, value, norm, mass, scale = entry_pass(obs, obs.values, U, V, loss)
    assert left.dtype == right.dtype == dtype
    assert left.shape == U.shape
    assert right.shape == V.shape
    U, V, y, w = double(U, V, obs.values, obs.weights)
    expected = linearize(E, U, V, y, loss, weights=w, delta=DELTA)
    for found, want in zip((value, left, right, norm), expected, strict=True):
        close(found, want, dtype)
    e = np.einsum("pij,ij->p", E, U @ V.T) - y
    close((value, mass, scale), means(y, e, loss, w), dtype)


@dtypes
@losses
@pytest.mark.parametrize("weighted", [False, True])
def test_norm_of_the_symmetric_part_of_entries(dtype, loss, weighted):
    """Some entries have a mirror image among the others, some lie on the diagonal."""
    obs, U, _, E = entry_case(np.random.default_rng(4), dtype, (21, 21), 3, 0.6, weighted)
    # Errors away from 0 for the symmetric point.
    y = (U @ U.T)[obs.rows(), obs.indices] + np.tile([0.3, -0.9], obs.nnz)[: obs.nnz].astype(dtype)
    found = entry_pass(obs, y, U, U, loss, symmetric=True)
    U, y, w = double(U, y, obs.weights)
    _, left, _, norm = linearize(E, U, U, y, loss, symmetric=True, weights=w, delta=DELTA)
    close(found[3], norm, dtype)
    close((found[0] + found[1]) / 2, left, dtype)


@dtypes
def test_predicted_entries(dtype):
    obs, U, V, _ = entry_case(np.random.default_rng(5), dtype, (23, 31), 5, 0.4, False)
    found = sensing.predict_entries(obs.indptr, obs.indices, U, V, dtype)
    assert found.dtype == dtype
    close(found, (U.astype(float) @ V.T)[obs.rows(), obs.indices], dtype)


# -- threads, memory ----------------------------------------------------------------------------


@dtypes
def test_threads_do_not_change_a_bit(monkeypatch, dtype):
    """More threads than this machine may have: chunks then wait, which must not matter."""
    monkeypatch.setattr(sensing, "_thread_count", lambda n_threads, size: n_threads)
    monkeypatch.setattr(kernels, "_thread_count", lambda n_threads, size: n_threads)
    rng = np.random.default_rng(6)
    A, U, V, y = dense_case(rng, dtype, (4, 5), 5000, 2)
    a, b, P, R, z = rank_one_case(rng, dtype, (7, 6), 5000, 3)
    for loss, weighted in itertools.product(LOSSES, (False, True)):
        obs, X, Z, _ = entry_case(rng, dtype, (300, 200), 3, 0.02, weighted)
        runs = []
        for threads in (1, 2, 5):
            Q, found = dense_pass(A, U, V, y, loss, n_threads=threads)
            runs.append(
                (
                    *(Q, *found, *rank_one_pass(a, b, z, P, R, loss, n_threads=threads)),
                    *entry_pass(obs, obs.values, X, Z, loss, n_threads=threads),
                )
            )
        for run in runs[1:]:
            for one, other in zip(runs[0], run, strict=True):
                np.testing.assert_array_equal(one, other)


def test_float32_sums_of_many_measurements_are_accurate():
    """The sum of 200 000 equal terms, which plain float32 accumulation gets wrong by 1e-4."""
    A = np.full((200_000, 16), 0.1, np.float32)
    y = np.full(200_000, -1.0, np.float32)
    slope, value, *_ = sensing.dense_pass(A, y, np.zeros(16, np.float32), sensing.L1)
    np.testing.assert_allclose(slope, 0.1, rtol=2e-6)
    assert value == 1.0


def test_padding():
    for dtype in (np.float32, np.float64):
        length = 64 // np.dtype(dtype).itemsize
        out = sensing.padded(np.ones((3, length + 1)), dtype, 8)
        assert out.dtype == dtype
        assert out.shape[0] == 8
        assert out.shape[1] % sensing.vector_length(dtype) == 0
        assert out.ctypes.data % 64 == 0
        assert out.sum() == 3 * (length + 1)
        np.testing.assert_array_equal(out[:3, : length + 1], 1)


# -- speed --------------------------------------------------------------------------------------


def fastest(*functions, rounds=8):
    """Best seconds of the thread of each, taken in turns."""
    best = [np.inf] * len(functions)
    for function in functions:
        function()
    for _ in range(rounds):
        for at, function in enumerate(functions):
            start = time.thread_time()
            function()
            best[at] = min(best[at], time.thread_time() - start)
    return best


@pytest.mark.slow
@dtypes
def test_one_pass_beats_two_passes_of_numpy(dtype):
    rng = np.random.default_rng(7)
    A = sensing.padded(rng.standard_normal((4000, 64 * 64)), dtype)
    x, y = (rng.standard_normal(s).astype(dtype) for s in (64 * 64, 4000))
    with threadpool_limits(1):
        ours, numpy = fastest(
            lambda: sensing.dense_pass(A, y, x, sensing.L1), lambda: A.T @ np.sign(A @ x - y)
        )
    assert ours < numpy / 1.2


@pytest.mark.slow
@dtypes
def test_entries_beat_sparse_products(dtype):
    rng = np.random.default_rng(8)
    at = np.unique(rng.integers(0, 4000**2, 1_000_000))
    obs = Observations.from_coo(*divmod(at, 4000), rng.standard_normal(at.size).astype(dtype))
    U, V = (rng.standard_normal((s, 10)).astype(dtype) for s in obs.shape)
    rows, y = obs.rows(), obs.values

    def sparse():
        e = np.einsum("pk,pk->p", U[rows], V[obs.indices]) - y
        Q = sp.csr_array((np.sign(e), obs.indices, obs.indptr), shape=obs.shape)
        return Q @ V, Q.T @ U

    ours, scipy = fastest(lambda: entry_pass(obs, y, U, V, "l1"), sparse)
    assert ours < scipy / 3.0
