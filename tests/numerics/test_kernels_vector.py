"""The vector-register building blocks against numpy, on every width of vector."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from numba import njit

from lowrank_opt.numerics import kernels_vector as kv

TOLERANCE = {np.float32: 2e-5, np.float64: 1e-12}
dtypes = pytest.mark.parametrize("dtype", [np.float32, np.float64])
sizes = pytest.mark.parametrize("k", [1, 3, 7, 8, 9, 16, 23, 50])


@njit
def indexed(F, indices, start, last, p, w8, dots, acc):
    vectors = F.shape[1] // kv.lanes_of(F)
    kv.dots8(F, indices, start, last, p, vectors, dots)
    kv.axpy8(F, indices, start, last, w8, acc, vectors)


@njit
def moves(F, B):
    width = F.shape[1]
    vectors = width // kv.lanes_of(F)
    kv.prefetch_row(F, 2)
    kv.copy_row(F, 2 * width, B, 0, vectors)
    kv.scale_row(F, width, B, width, F[0, 0], vectors)
    kv.copy_row(F, 0, B, 2 * width, vectors)
    kv.add_row(F, width, B, 2 * width, F[0, 1], vectors)
    return kv.dot(F, 0, F, width, vectors)


def system(dtype, k, n=70):
    """A padded matrix with right-hand side, and the work arrays of the solver."""
    rng = np.random.default_rng(k)
    width = kv.padded_width(k, False, dtype)
    B = kv.aligned_zeros((n, width), dtype)
    B[:, : k + 1] = rng.standard_normal((n, k + 1))
    G = kv.aligned_zeros((width, width), dtype)
    vectors = [kv.aligned_zeros(width, dtype) for _ in range(4)]
    return B, G, kv.aligned_zeros((8, 8), dtype), kv.aligned_zeros(8, dtype), vectors


@dtypes
@sizes
def test_gram_factor_and_substitutions_solve_a_regression(dtype, k):
    B, G, L, t, (floor, inverse, y, x) = system(dtype, k)
    kv.gram(B, 40, G, k, True)
    kv.gram(B[40:], 30, G, k, False)
    A, b = B[:, :k].astype(np.float64), B[:, k].astype(np.float64)
    tolerance = {"rtol": 0, "atol": 100 * TOLERANCE[dtype]}
    np.testing.assert_allclose(np.triu(G[:k, :k]), np.triu(A.T @ A), **tolerance)
    np.testing.assert_allclose(G[:k, k], A.T @ b, **tolerance)
    H = A.T @ A + np.eye(k)
    G[np.arange(k), np.arange(k)] += 1
    assert kv.cholesky(G, k, floor, L, inverse) == -1
    U = np.linalg.cholesky(H).T
    tolerance = {"rtol": 0, "atol": 10 * TOLERANCE[dtype] * np.abs(U).max()}
    np.testing.assert_allclose(np.triu(G[:k, :k]), U, **tolerance)
    y[:k] = G[:k, k]
    kv.back_substitute(G, k, y, inverse, t, x)
    expected = np.linalg.solve(H, A.T @ b)
    np.testing.assert_allclose(x[:k], expected, rtol=0, atol=10 * TOLERANCE[dtype])
    assert not x[k:].any()
    y[:k] = A.T @ b
    kv.forward_substitute(G, k, y, inverse, t)
    np.testing.assert_allclose(y[:k], G[:k, k], **tolerance)
    assert not y[k:].any()


@pytest.mark.parametrize("value", [0.0, -1.0, np.nan])
@pytest.mark.parametrize("row", [0, 5, 11])
def test_a_pivot_that_is_not_positive_is_reported(value, row):
    _, G, L, _, (floor, inverse, *_) = system(np.float64, 12)
    G[np.arange(12), np.arange(12)] = 1.0
    G[row, row] = value
    assert kv.cholesky(G, 12, floor, L, inverse) == 8 * (row // 8)


def test_a_pivot_below_its_floor_is_reported():
    _, G, L, _, (floor, inverse, *_) = system(np.float64, 9)
    G[np.arange(9), np.arange(9)] = 1.0
    floor[:9] = 0.5
    assert kv.cholesky(G, 9, floor, L, inverse) == -1
    floor[8] = 1.0
    assert kv.cholesky(G, 9, floor, L, inverse) == 8


@dtypes
@sizes
def test_products_with_indexed_rows_repeat_the_last_one(dtype, k):
    rng = np.random.default_rng(k)
    width = kv.padded_width(k, False, dtype)
    F = rng.standard_normal((20, width)).astype(dtype)
    indices = rng.integers(0, 20, 30).astype(np.int32)
    p, acc, w8 = (rng.standard_normal(n).astype(dtype) for n in (width, width, 8))
    dots, before = np.zeros(8, dtype=dtype), acc.copy()
    indexed(F, indices, 24, 29, p, w8, dots, acc)
    chosen = F[indices[np.minimum(np.arange(24, 32), 29)]].astype(np.float64)
    tolerance = {"rtol": 0, "atol": TOLERANCE[dtype]}
    np.testing.assert_allclose(dots, chosen @ p, **tolerance)
    np.testing.assert_allclose(acc, before + w8 @ chosen, **tolerance)


@dtypes
def test_rows_are_copied_scaled_and_added(dtype):
    F = np.random.default_rng(0).standard_normal((3, 3 * kv.vector_length(dtype))).astype(dtype)
    B = np.zeros_like(F)
    product = moves(F, B)
    tolerance = {"rtol": 0, "atol": TOLERANCE[dtype]}
    np.testing.assert_array_equal(B[0], F[2])
    np.testing.assert_allclose(B[1], F[0, 0] * F[1], **tolerance)
    np.testing.assert_allclose(B[2], F[0] + F[0, 1] * F[1], **tolerance)
    np.testing.assert_allclose(product, F[0].astype(float) @ F[1].astype(float), **tolerance)


@dtypes
def test_padding_holds_the_unknowns_and_the_right_hand_side(dtype):
    lanes = kv.vector_length(dtype)
    assert lanes * np.dtype(dtype).itemsize == kv.VECTOR_BYTES
    for k in range(1, 70):
        for bias in (False, True):
            width = kv.padded_width(k, bias, dtype)
            assert width % lanes == 0
            assert width >= k + bias + 1
            assert width >= kv.padded_rows(k, bias) >= k + bias
            assert width - lanes < max(k + bias + 1, kv.padded_rows(k, bias))


@dtypes
@pytest.mark.parametrize("make", [kv.aligned_zeros, kv.aligned_empty])
def test_aligned_arrays(dtype, make):
    for shape in (5, (3, 7)):
        array = make(shape, dtype)
        assert array.ctypes.data % 64 == 0
        assert array.shape == ((5,) if shape == 5 else shape)
        assert array.flags.c_contiguous
        assert array.dtype == dtype
    assert not kv.aligned_zeros((3, 7), dtype).any()


def run(code, tmp_path, **variables):
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path), **variables}
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )


WIDTH_SCRIPT = """
import numpy as np
from lowrank_opt.numerics import kernels_vector as kv

for k in (3, 8, 13, 37):
    rng = np.random.default_rng(k)
    width = kv.padded_width(k, False, np.float32)
    B = kv.aligned_zeros((50, width), np.float32)
    B[:, : k + 1] = rng.standard_normal((50, k + 1))
    G = kv.aligned_zeros((width, width), np.float32)
    kv.gram(B, 50, G, k, True)
    G[np.arange(k), np.arange(k)] += 1
    L, t = np.zeros((8, 8), np.float32), np.zeros(8, np.float32)
    floor, inverse, y, x = np.zeros((4, width), np.float32)
    assert kv.cholesky(G, k, floor, L, inverse) == -1
    y[:k] = G[:k, k]
    kv.back_substitute(G, k, y, inverse, t, x)
    A, b = B[:, :k].astype(float), B[:, k].astype(float)
    H = A.T @ A + np.eye(k)
    np.testing.assert_allclose(x[:k], np.linalg.solve(H, A.T @ b), rtol=0, atol=2e-5)
    y[:k] = A.T @ b
    kv.forward_substitute(G, k, y, inverse, t)
    np.testing.assert_allclose(y[:k], G[:k, k], rtol=0, atol=2e-4)
print(kv.VECTOR_BYTES)
"""


@pytest.mark.parametrize("width", ["16", "32", "64"])
def test_every_width_of_vector_gives_the_solution(width, tmp_path):
    # LLVM splits vectors that this machine does not have: right, not fast.
    done = run(WIDTH_SCRIPT, tmp_path, LOWRANK_OPT_VECTOR_BYTES=width)
    assert done.stdout.strip() == width, done.stderr


def test_a_machine_without_wide_vectors_or_fused_operations_gives_the_solution(tmp_path):
    done = run(WIDTH_SCRIPT, tmp_path, NUMBA_CPU_NAME="generic")
    assert done.stdout.strip() == "16", done.stderr


def test_a_wrong_width_is_named(tmp_path):
    code = "import lowrank_opt.numerics.kernels_vector"
    done = run(code, tmp_path, LOWRANK_OPT_VECTOR_BYTES="24")
    assert done.returncode != 0
    assert "LOWRANK_OPT_VECTOR_BYTES is '24'; expected 16, 32 or 64" in done.stderr
