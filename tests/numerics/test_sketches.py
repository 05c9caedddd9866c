"""Sketches: expectation, embedding, equality of all ways to apply them, the Hadamard kernel."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import scipy.sparse

from lowrank_opt.core.errors import ParameterError, ProblemError, ProblemTypeError
from lowrank_opt.numerics import (
    SRHT,
    CountSketch,
    GaussianSketch,
    SparseSignSketch,
    kernels,
    reference,
)

KINDS = {
    "gaussian": GaussianSketch,
    "count": CountSketch,
    "sparse sign": SparseSignSketch,
    "srht": SRHT,
}


@pytest.fixture(params=KINDS)
def kind(request):
    return KINDS[request.param]


def _distortion(sketch, k, rng):
    Q = np.linalg.qr(rng.standard_normal((sketch.shape[1], k)))[0]
    singular = np.linalg.svd(sketch.apply(Q), compute_uv=False)
    return max(singular[0] - 1, 1 - singular[-1])


def test_random_subspaces_are_embedded(kind):
    rng = np.random.default_rng(0)
    # k = 8 and size = 400: theory gives about sqrt(k / size) = 0.14 for each kind.
    worst = max(_distortion(kind(400, 1500, random_state=seed), 8, rng) for seed in range(5))
    assert worst < 0.35


def test_a_coordinate_subspace_is_embedded(kind):
    Q = np.eye(1500)[:, :8]  # the hardest for sampling without mixing
    singular = np.linalg.svd(kind(400, 1500, random_state=3).apply(Q), compute_uv=False)
    assert max(singular[0] - 1, 1 - singular[-1]) < 0.35


def test_the_embedding_check_fails_for_a_map_of_too_few_rows(kind):
    assert _distortion(kind(9, 1500, random_state=0), 8, np.random.default_rng(0)) > 0.35


def test_expectation_of_the_gram_matrix_is_the_identity(kind):
    n, size, trials = 6, 4, 4000
    rng = np.random.default_rng(1)
    mean = np.zeros((n, n))
    for _ in range(trials):
        S = kind(size, n, random_state=rng).to_dense()
        mean += S.T @ S / trials
    # The variance of an entry is at most 3 / size: six standard deviations of the mean.
    np.testing.assert_allclose(mean, np.eye(n), rtol=0, atol=6 * np.sqrt(3 / size / trials))


def test_all_ways_to_apply_a_sketch_agree(kind):
    rng = np.random.default_rng(2)
    n = 45
    S = kind(17, n, random_state=5)
    dense = S.to_dense()
    assert S.shape == dense.shape == (17, n)
    A = rng.standard_normal((n, 70))
    A[rng.random(A.shape) < 0.7] = 0
    want = dense @ A
    np.testing.assert_allclose(S @ A, want, rtol=0, atol=1e-13)
    np.testing.assert_allclose(S.apply(np.asfortranarray(A)), want, rtol=0, atol=1e-13)
    np.testing.assert_allclose(S.apply(A[:, 0]), want[:, 0], rtol=0, atol=1e-13)
    for form in (scipy.sparse.csr_array, scipy.sparse.csc_matrix, scipy.sparse.coo_array):
        got = S.apply(form(A))
        got = got.toarray() if scipy.sparse.issparse(got) else got
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-13)
    assert S.apply(A[:, :0]).shape == (17, 0)
    np.testing.assert_array_equal(S.apply(np.ones((n, 2), int)), S.apply(np.ones((n, 2))))


def test_dtype_is_kept(kind):
    S = kind(8, 30, random_state=0)
    A = np.random.default_rng(0).standard_normal((30, 5))
    single = S.apply(A.astype(np.float32))
    assert single.dtype == np.float32
    np.testing.assert_allclose(single, S.apply(A), rtol=0, atol=1e-5)
    assert S.apply(scipy.sparse.csr_array(A.astype(np.float32))).dtype == np.float32


def test_every_array_library_gives_the_same_answer(kind, xp):
    S = kind(8, 30, random_state=0)
    A = np.random.default_rng(0).standard_normal((30, 5))
    for part in (A, A[:, 0]):
        got = S.apply(xp.asarray(part))
        assert type(got) is type(xp.asarray(A))
        np.testing.assert_allclose(np.asarray(got), S.apply(part), rtol=0, atol=1e-13)
    assert S.apply(xp.asarray(A, dtype=xp.float32)).dtype == xp.float32


def test_seeds(kind):
    same = [kind(8, 30, random_state=seed).to_dense() for seed in (1, 1, np.random.default_rng(1))]
    np.testing.assert_array_equal(same[0], same[1])
    np.testing.assert_array_equal(same[0], same[2])
    rng = np.random.default_rng(1)
    first, second = (kind(8, 30, random_state=rng).to_dense() for _ in range(2))
    assert np.abs(first - second).max() > 0
    assert np.abs(kind(8, 30).to_dense() - kind(8, 30).to_dense()).max() > 0


def test_inputs_are_not_changed(kind):
    A = np.random.default_rng(0).standard_normal((30, 5))
    A.flags.writeable = False
    S = kind(8, 30, random_state=0)
    np.testing.assert_array_equal(S.apply(A), S.apply(A.copy()))


@pytest.mark.parametrize(("size", "s"), [(7, 1), (7, 3), (7, 7), (7, 20), (64, 8)])
def test_sparse_signs_have_distinct_rows_and_unit_columns(size, s):
    S = SparseSignSketch(size, 200, n_nonzeros=s, random_state=0)
    dense = S.to_dense()
    s = min(s, size)
    np.testing.assert_array_equal(np.count_nonzero(dense, axis=0), s)
    np.testing.assert_allclose(np.sum(dense**2, axis=0), 1, rtol=1e-14)
    assert set(np.unique(S.rows)) == set(range(size))
    assert repr(S) == f"SparseSignSketch(size={size}, n=200)"


@pytest.mark.parametrize("width", [1, 3, 16])
@pytest.mark.parametrize("n", [1, 2, 4, 8, 32, 512])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_walsh_hadamard_is_the_hadamard_matrix(n, width, dtype):
    x = np.random.default_rng(n).standard_normal((n, width)).astype(dtype)
    want = scipy.linalg.hadamard(n) @ x.astype(float)
    got = x.copy()
    kernels.walsh_hadamard(got.reshape(-1), width)
    tolerance = (1e-12 if dtype == np.float64 else 1e-5) * n
    np.testing.assert_allclose(got, want, rtol=0, atol=tolerance)
    np.testing.assert_allclose(reference.hadamard(x), got, rtol=0, atol=tolerance)


@pytest.mark.parametrize("log_n", [12, 13, 17])
def test_walsh_hadamard_twice_is_a_multiple_of_the_identity(log_n):
    n = 2**log_n  # beyond the block that stays in cache
    x = np.random.default_rng(0).standard_normal(3 * n)
    y = x.copy()
    kernels.walsh_hadamard(y, 3)
    np.testing.assert_allclose(y.reshape(n, 3)[0], x.reshape(n, 3).sum(axis=0), atol=1e-9)
    kernels.walsh_hadamard(y, 3)
    np.testing.assert_allclose(y / n, x, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_scatter_kernel_agrees_with_its_twin(dtype):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((40, 6)).astype(dtype)
    rows = rng.integers(0, 9, (40, 3))
    signs = (2 * rng.integers(0, 2, (40, 3)) - 1).astype(np.int8)
    out = np.zeros((9, 6), dtype)
    kernels.scatter_rows(rows, signs, x, out)
    twin = reference.scatter_rows(rows, signs, x, 9)
    np.testing.assert_allclose(out, twin, rtol=0, atol=1e-12 if dtype == np.float64 else 1e-5)


def test_bad_input_is_named(kind):
    with pytest.raises(ParameterError, match="size is 0"):
        kind(0, 5)
    with pytest.raises(ParameterError, match="n is -1"):
        kind(3, -1)
    with pytest.raises(ParameterError, match="random_state"):
        kind(3, 5, random_state="seed")
    S = kind(3, 5, random_state=0)
    with pytest.raises(ProblemError, match=r"A has shape \(4, 2\); \(5,\) or \(5, d\)"):
        S.apply(np.ones((4, 2)))
    with pytest.raises(ProblemError, match=r"A\[1, 0\] is NaN or infinite"):
        S.apply([[1.0], [np.inf], [1.0], [1.0], [1.0]])
    with pytest.raises(ProblemError, match=r"A.data\[0\] is NaN"):
        S.apply(scipy.sparse.csr_array(np.diag([np.nan, 1, 1, 1, 1])))
    with pytest.raises(ProblemTypeError, match="complex"):
        S.apply(np.ones(5, complex))


def test_bad_parameters_of_single_kinds():
    with pytest.raises(ParameterError, match="size is 9"):
        SRHT(9, 5)
    with pytest.raises(ParameterError, match="n_nonzeros is 0"):
        SparseSignSketch(3, 5, n_nonzeros=0)
    with pytest.raises(ParameterError, match="float32 is needed"):
        GaussianSketch(3, 5, dtype=int)
    single = GaussianSketch(3, 5, dtype=np.float32, random_state=0)
    assert single.apply(np.ones(5)).dtype == np.float64
