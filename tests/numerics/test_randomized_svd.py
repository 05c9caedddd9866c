"""Randomised SVD: against LAPACK and scikit-learn, for every kind of matrix, and bad input."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import scipy.sparse
from scipy.sparse.linalg import LinearOperator, aslinearoperator

from lowrank_opt.core.errors import ParameterError, ProblemError, ProblemTypeError
from lowrank_opt.numerics import randomized_svd


def _matrix(m, n, decay, rng):
    U = np.linalg.qr(rng.standard_normal((m, min(m, n))))[0]
    V = np.linalg.qr(rng.standard_normal((n, min(m, n))))[0]
    return (U * decay ** np.arange(min(m, n))) @ V.T


def _check(A, got, rank, tol):
    U, s, Vt = got
    exact = np.linalg.svd(A, compute_uv=False)
    assert U.shape == (A.shape[0], rank)
    assert Vt.shape == (rank, A.shape[1])
    np.testing.assert_allclose(s, exact[:rank], rtol=tol, atol=tol * exact[0])
    np.testing.assert_allclose(U.T @ U, np.eye(rank), rtol=0, atol=max(tol, 1e-13))
    np.testing.assert_allclose(Vt @ Vt.T, np.eye(rank), rtol=0, atol=max(tol, 1e-13))
    error = np.linalg.norm(A - (U * s) @ Vt)
    best = np.sqrt(np.sum(exact[rank:] ** 2))
    assert error <= best * (1 + tol) + tol * exact[0]
    assert np.all(np.take_along_axis(U, np.argmax(np.abs(U), axis=0)[None], axis=0) > 0)


@pytest.mark.parametrize(("m", "n"), [(120, 80), (60, 150)])
def test_leading_triplets_of_a_dense_matrix(m, n):
    A = _matrix(m, n, 0.7, np.random.default_rng(0))
    _check(A, randomized_svd(A, 6, random_state=0), 6, 1e-10)


@pytest.mark.parametrize(("m", "n", "rank"), [(20, 12, 5), (12, 20, 12), (1, 7, 1), (7, 1, 1)])
def test_small_matrices_are_decomposed_exactly(m, n, rank):
    A = np.random.default_rng(1).standard_normal((m, n))
    _check(A, randomized_svd(A, rank, random_state=0), rank, 1e-12)


def test_a_matrix_of_low_rank_and_the_zero_matrix():
    rng = np.random.default_rng(2)
    A = rng.standard_normal((90, 3)) @ rng.standard_normal((3, 70))
    _check(A, randomized_svd(A, 3, n_iter=0, random_state=0), 3, 1e-12)
    _check(A, randomized_svd(A, 5, random_state=0), 5, 1e-12)
    U, s, _ = randomized_svd(np.zeros((30, 20)), 2, random_state=0)
    np.testing.assert_array_equal(s, 0)
    np.testing.assert_allclose(U.T @ U, np.eye(2), atol=1e-13)


def test_sparse_matrices_and_operators_equal_the_dense_answer():
    rng = np.random.default_rng(3)
    S = scipy.sparse.random_array((150, 90), density=0.1, rng=rng, format="csr")
    want = randomized_svd(S.toarray(), 4, random_state=5)
    for form in (S, scipy.sparse.csc_matrix(S), S.tocoo(), aslinearoperator(S)):
        got = randomized_svd(form, 4, random_state=5)
        for a, b in zip(got, want, strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-10)


def test_agrees_with_scikit_learn():
    extmath = pytest.importorskip("sklearn.utils.extmath")
    A = _matrix(120, 80, 0.8, np.random.default_rng(4))
    theirs = extmath.randomized_svd(A, 4, random_state=0)
    ours = randomized_svd(A, 4, random_state=0)
    np.testing.assert_allclose(ours.s, theirs[1], rtol=1e-6)
    np.testing.assert_allclose(np.abs(np.sum(ours.U * theirs[0], axis=0)), 1, rtol=1e-4)


def test_scikit_learn_is_not_imported():
    code = (
        "import sys, numpy as np; from lowrank_opt.numerics import randomized_svd; "
        "randomized_svd(np.eye(3), 1); "
        "sys.exit(any(m in sys.modules for m in ('sklearn', 'numba', 'scipy.sparse.linalg')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_good_start_needs_fewer_iterations():
    rng = np.random.default_rng(5)
    A = _matrix(200, 100, 0.98, rng)  # slow decay: hard
    V = np.linalg.svd(A)[2][:5].T + 1e-4 * rng.standard_normal((100, 5))
    exact = np.linalg.svd(A, compute_uv=False)[:5]
    cold = randomized_svd(A, 5, n_iter=1, random_state=0).s
    warm = randomized_svd(A, 5, n_iter=1, start=V, random_state=0).s
    assert np.abs(warm - exact).max() < 1e-3 * np.abs(cold - exact).max()


def test_accuracy_grows_with_iterations_and_oversampling():
    A = _matrix(200, 100, 0.95, np.random.default_rng(6))
    exact = np.linalg.svd(A, compute_uv=False)[:5].sum()

    def missing(**options):
        # Never above the truth, but for rounding.
        return exact - randomized_svd(A, 5, random_state=0, **options).s.sum()

    errors = [missing(n_iter=q, n_oversamples=5) for q in (0, 2, 6)]
    assert errors[0] > 3 * errors[1] > 9 * errors[2] > -1e-12
    assert missing(n_iter=0, n_oversamples=40) < 0.3 * errors[0]


def test_every_array_library_gives_the_same_answer(xp):
    A = _matrix(50, 40, 0.5, np.random.default_rng(7))
    got = randomized_svd(xp.asarray(A), 3, random_state=0)
    want = randomized_svd(A, 3, random_state=0)
    for a, b in zip(got, want, strict=True):
        assert type(a) is type(xp.asarray(A))
        np.testing.assert_allclose(np.asarray(a), b, rtol=0, atol=1e-11)
    single = randomized_svd(xp.asarray(A, dtype=xp.float32), 3, random_state=0)
    assert all(part.dtype == xp.float32 for part in single)


def test_dtype_seed_and_read_only_input():
    A = _matrix(50, 40, 0.5, np.random.default_rng(8)).astype(np.float32)
    A.flags.writeable = False
    first, second = (randomized_svd(A, 3, random_state=1) for _ in range(2))
    for a, b in zip(first, second, strict=True):
        assert a.dtype == np.float32
        np.testing.assert_array_equal(a, b)
    np.testing.assert_allclose(first.s, [1, 0.5, 0.25], rtol=1e-5)
    single = randomized_svd(scipy.sparse.csr_array(A), 3, random_state=1)
    assert single.U.dtype == single.s.dtype == single.Vt.dtype == np.float32
    whole = aslinearoperator(np.ones((4, 3), np.int64))
    _check(np.ones((4, 3)), randomized_svd(whole, 1, random_state=1), 1, 1e-12)


def test_bad_input_is_named():
    A = np.ones((5, 4))
    for rank in (0, 5, 1.5):
        with pytest.raises(ParameterError, match="rank is"):
            randomized_svd(A, rank)
    with pytest.raises(ParameterError, match="n_oversamples is -1"):
        randomized_svd(A, 1, n_oversamples=-1)
    for n_iter in (-1, "many"):
        with pytest.raises(ParameterError, match="n_iter is"):
            randomized_svd(A, 1, n_iter=n_iter)
    with pytest.raises(ProblemError, match=r"start has shape \(5, 1\)"):
        randomized_svd(A, 1, start=np.ones((5, 1)))
    with pytest.raises(ProblemError, match="matrix that is not empty"):
        randomized_svd(np.ones((0, 3)), 1)
    with pytest.raises(ProblemError, match="matrix that is not empty"):
        randomized_svd(np.ones(3), 1)
    with pytest.raises(ProblemError, match=r"A\[0, 1\] is NaN"):
        randomized_svd([[1.0, np.nan]], 1)
    with pytest.raises(ProblemError, match="product with it is NaN"):
        randomized_svd(aslinearoperator(np.array([[1.0, np.nan]])), 1)
    with pytest.raises(ProblemTypeError, match="complex"):
        randomized_svd(np.ones((2, 2), complex), 1)
    with pytest.raises(ProblemTypeError, match="real operator"):
        randomized_svd(LinearOperator((2, 2), matvec=lambda v: v, dtype=complex), 1)
