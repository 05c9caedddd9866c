"""Measurement operators: adjoints, slopes, and what Gaussian measurements do on average."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse.linalg import LinearOperator, aslinearoperator

from lowrank_opt.recovery import Observations
from lowrank_opt.recovery.kernels_sensing import padded
from lowrank_opt.recovery.operators import (
    CallableOperator,
    DenseOperator,
    EntryOperator,
    RankOneOperator,
)
from lowrank_opt.recovery.reference_sensing import linearize

KINDS = ("dense", "rank one", "twins", "entries", "weighted entries", "functions")
kinds = pytest.mark.parametrize("kind", KINDS)
dtypes = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def make(kind, rng, shape=(7, 7), size=29, dtype=np.float64):
    """An operator and its matrices as an array (N, m, n)."""
    m, n = shape
    if kind == "twins":
        m = n
    if "entries" in kind:
        at = np.sort(rng.choice(m * n, min(size, m * n), replace=False))
        weights = rng.random(at.size) + 0.5 if "weighted" in kind else None
        values = np.ones(at.size, dtype)
        A = np.zeros((at.size, m * n))
        A[np.arange(at.size), at] = 1.0
        obs = Observations.from_coo(*divmod(at, n), values, (m, n), weights=weights)
        return EntryOperator(obs), A.reshape(-1, m, n)
    if kind in ("rank one", "twins"):
        a, b = (rng.standard_normal((size, s)).astype(dtype) for s in (m, n))
        b = a if kind == "twins" else b
        operator = RankOneOperator.from_vectors(a, b, dtype)
        return operator, (a[:, :, None] * b[:, None, :]).astype(np.float64)
    A = rng.standard_normal((size, m, n)).astype(dtype)
    if kind == "dense":
        return DenseOperator(padded(A.reshape(size, -1), dtype), (m, n)), A.astype(np.float64)

    def apply(U, V):
        return A.reshape(size, -1) @ (U @ V.T).ravel()

    def adjoint(z):
        return np.einsum("p,pij->ij", z, A)

    operator = CallableOperator(apply, adjoint, (m, n), size, np.dtype(dtype))
    return operator, A.astype(np.float64)


def close(actual, expected, dtype):
    tolerance = 5e-5 if dtype == np.float32 else 1e-12
    scale = max(1.0, float(np.max(np.abs(expected), initial=0.0)))
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * scale)


def factors(rng, operator, k=3, dtype=np.float64):
    return [rng.standard_normal((s, k)).astype(dtype) for s in operator.shape]


@given(
    kind=st.sampled_from(KINDS),
    shape=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    size=st.integers(1, 30),
    k=st.integers(0, 4),
    seed=st.integers(0, 2**16),
)
@settings(max_examples=60, deadline=None)
def test_adjoint_identity(kind, shape, size, k, seed):
    """<A(U Vᵀ), z> = <U, Z V> = <V, Zᵀ U>, and the same for the float64 forms."""
    rng = np.random.default_rng(seed)
    operator, A = make(kind, rng, shape, size)
    U, V = factors(rng, operator, k)
    z = rng.standard_normal(operator.size)
    measured, Z = operator.apply(U, V), operator.adjoint(z)
    np.testing.assert_allclose(measured, np.einsum("pij,ij->p", A, U @ V.T), atol=1e-11)
    expected = float(measured @ z)
    assert abs(np.vdot(U, Z @ V) - expected) < 1e-10
    assert abs(np.vdot(V, Z.T @ U) - expected) < 1e-10
    left, right = operator.exact_products(z, U, V)
    np.testing.assert_allclose(left, Z @ V, atol=1e-11)
    np.testing.assert_allclose(right, Z.T @ U, atol=1e-11)
    y = rng.standard_normal(operator.size)
    np.testing.assert_allclose(operator.exact_errors(U, V, y), measured - y, atol=1e-11)


@kinds
@dtypes
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("loss", ["l1", "squared"])
def test_linearize_is_the_reference(kind, dtype, symmetric, loss):
    rng = np.random.default_rng(1)
    operator, A = make(kind, rng, dtype=dtype)
    U, V = factors(rng, operator, dtype=dtype)
    V = U if symmetric else V
    U8, V8 = U.astype(np.float64), V.astype(np.float64)
    measured = np.einsum("pij,ij->p", A, U8 @ V8.T)
    y = (measured + rng.choice([-1.0, 0.4], measured.size)).astype(dtype)
    weights = operator.weights
    found = operator.linearize(U, V, y, loss, symmetric)
    value, left, right, norm = linearize(
        A, U8, V8, y.astype(np.float64), loss, symmetric=symmetric, weights=weights
    )
    close(found.value, value, dtype)
    close(found.left, left, dtype)
    assert found.left.dtype == dtype
    if symmetric:
        assert found.right is None
    else:
        close(found.right, right, dtype)
    # Rank-one measurements of 7 x 7 matrices: 8 sketch columns are all columns.
    close(found.norm, norm, dtype)


@kinds
@dtypes
@pytest.mark.parametrize("symmetric", [False, True])
def test_reweighted_is_least_squares_with_weights(kind, dtype, symmetric):
    rng = np.random.default_rng(2)
    operator, A = make(kind, rng, dtype=dtype)
    U, V = factors(rng, operator, dtype=dtype)
    V = U if symmetric else V
    y = rng.standard_normal(operator.size).astype(dtype)
    e = np.einsum("pij,ij->p", A, U.astype(float) @ V.T) - y
    w0 = np.ones(e.size) if operator.weights is None else operator.weights
    for delta in (0.7, np.inf):
        w = w0 * np.minimum(1.0, delta / np.abs(e))
        Q = np.einsum("p,pij->ij", w * e, A) / e.size
        Q = (Q + Q.T) / 2 if symmetric else Q
        found = operator.reweighted(U, V, y, delta, symmetric)
        close(found.mass, np.mean(w), dtype)
        close(found.scale, np.mean(w * y.astype(float) ** 2), dtype)
        close(found.left, Q @ V, dtype)
        assert (found.right is None) == symmetric
        if not symmetric:
            close(found.right, Q.T @ U, dtype)


@kinds
def test_reweighted_with_errors_that_are_all_zero(kind):
    rng = np.random.default_rng(3)
    operator, _ = make(kind, rng)
    U = np.zeros((7, 2))
    found = operator.reweighted(U, U, np.zeros(operator.size), 0.0)
    mean = 1.0 if operator.weights is None else operator.weights.mean()
    np.testing.assert_allclose(found.mass, mean, rtol=1e-12)
    assert not found.left.any()


@kinds
def test_subset_measures_some(kind):
    rng = np.random.default_rng(4)
    operator, A = make(kind, rng)
    U, V = factors(rng, operator)
    some = np.sort(rng.choice(operator.size, 11, replace=False))
    for index, rows in ((some, some), (slice(3, 13), np.arange(3, 13))):
        part = operator.subset(index)
        assert part.size == rows.size
        close(part.apply(U, V), np.einsum("pij,ij->p", A[rows], U @ V.T), np.float64)
        z = rng.standard_normal(rows.size)
        close(part.adjoint(z) @ V, np.einsum("p,pij->ij", z, A[rows]) @ V, np.float64)
        y = rng.standard_normal(rows.size)
        weights = None if part.weights is None else operator.weights[rows]
        found = part.linearize(U, V, y, "l1")
        value, left, *_ = linearize(A[rows], U, V, y, "l1", weights=weights)
        close(found.value, value, np.float64)
        close(found.left, left, np.float64)


@kinds
def test_mean_square(kind):
    rng = np.random.default_rng(5)
    operator, A = make(kind, rng, size=40)
    # Functions are probed by 16 random matrices.
    rtol = 0.2 if kind == "functions" else 1e-12
    np.testing.assert_allclose(operator.mean_square, np.mean(A**2), rtol=rtol)
    again, _ = make(kind, np.random.default_rng(5), size=40)
    assert again.mean_square == operator.mean_square


@kinds
def test_masses_are_the_sums_of_squared_entries(kind):
    """Exact for entries; others share their total evenly, as the docstring says."""
    rng = np.random.default_rng(6)
    operator, A = make(kind, rng, size=40)
    w = rng.random(operator.size)
    rows, cols = operator.exact_masses(w)
    if "entries" in kind:
        S = np.einsum("p,pij->ij", w, A**2)
        np.testing.assert_allclose(rows, S.sum(axis=1), rtol=1e-12)
        np.testing.assert_allclose(cols, S.sum(axis=0), rtol=1e-12)
    else:
        total = operator.mean_square * w.sum() * 49
        np.testing.assert_allclose(rows, total / 7, rtol=1e-12)
        np.testing.assert_allclose(cols, total / 7, rtol=1e-12)


@kinds
def test_short_repr_and_copies(kind):
    operator, _ = make(kind, np.random.default_rng(7), size=10)
    assert repr(operator) == f"{type(operator).__name__}(10 x (7 x 7), float64)"
    if kind != "functions":
        copy = pickle.loads(pickle.dumps(operator))
        U = np.ones((7, 1))
        np.testing.assert_array_equal(copy.apply(U, U), operator.apply(U, U))
        if kind == "twins":
            assert copy.A is copy.B


# -- norms that are estimated -------------------------------------------------------------------


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("kind", ["rank one", "twins", "functions"])
def test_estimated_norm(kind, symmetric):
    """30 x 30 with 8 sketch columns: within a third, and the same at every call."""
    rng = np.random.default_rng(8)
    operator, A = make(kind, rng, (30, 30), 400)
    if kind == "functions":
        dense = operator.adjoint_function
        object.__setattr__(operator, "adjoint_function", lambda z: aslinearoperator(dense(z)))
    U, V = factors(rng, operator)
    V = U if symmetric else V
    # One dominant direction, then many: errors of a far and of a near point.
    measured = np.einsum("pij,ij->p", A, U @ V.T)
    for y in (np.zeros(400), measured + rng.standard_normal(400)):
        norms = {operator.linearize(U, V, y, "l1", symmetric).norm for _ in range(3)}
        assert len(norms) == 1
        *_, norm = linearize(A, U, V, y, "l1", symmetric=symmetric)
        assert 2 / 3 < norms.pop() / norm < 4 / 3


@pytest.mark.parametrize("wrap", [np.asarray, sp.csr_array, aslinearoperator])
@pytest.mark.parametrize("symmetric", [False, True])
def test_adjoints_of_any_kind(wrap, symmetric):
    rng = np.random.default_rng(9)
    plain, A = make("functions", rng)
    operator = CallableOperator(
        plain.function, lambda z: wrap(plain.adjoint_function(z)), *(plain.shape, 29, plain.dtype)
    )
    U, V = factors(rng, operator)
    V = U if symmetric else V
    y = rng.standard_normal(29)
    found = operator.linearize(U, V, y, "squared", symmetric)
    value, left, right, norm = linearize(A, U, V, y, "squared", symmetric=symmetric)
    close(found.value, value, np.float64)
    close(found.left, left, np.float64)
    close(found.norm, norm, np.float64)
    if not symmetric:
        close(found.right, right, np.float64)


def test_adjoint_of_rank_one_measurements_is_a_linear_operator():
    rng = np.random.default_rng(10)
    operator, A = make("rank one", rng, (5, 8))
    z = rng.standard_normal(operator.size)
    Z = operator.adjoint(z)
    assert isinstance(Z, LinearOperator)
    dense = np.einsum("p,pij->ij", z, A)
    u, v = rng.standard_normal(5), rng.standard_normal(8)
    close(Z @ v, dense @ v, np.float64)
    close(Z.T @ u, dense.T @ u, np.float64)
    close(Z @ np.eye(8), dense, np.float64)
    close(Z.T @ np.eye(5), dense.T, np.float64)


# -- Gaussian measurements: the mean of Q is a multiple of the direction of the error -----------

N, D = 200_000, 5


def gaussian(seed, symmetric):
    """Measurements, and an error matrix X = P - X* of norm 2 with P the point."""
    rng = np.random.default_rng(seed)
    A = padded(rng.standard_normal((N, D * D)), np.float64)
    # Orthonormal columns: the products with Q are as accurate as the entries of Q.
    U = np.linalg.qr(rng.standard_normal((D, 2)))[0]
    V = U if symmetric else np.linalg.qr(rng.standard_normal((D, 2)))[0]
    X = rng.standard_normal((D, D))
    X = X + X.T if symmetric else X
    X *= 2.0 / np.linalg.norm(X)
    return rng, DenseOperator(A, (D, D)), U, V, X


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("case", ["exact", "outliers", "noise"])
def test_sign_rip_of_gaussian_measurements(case, symmetric):
    r"""``E Q = φ X/|X|_F``: φ = √(2/π) times 1, 1 - p + p E exp(-s²/2|X|²), |X|/√(|X|² + ν²)."""
    rng, operator, U, V, X = gaussian(11, symmetric)
    y = operator.A[:, : D * D] @ (U @ V.T - X).ravel()
    phi = np.sqrt(2.0 / np.pi)
    if case == "outliers":
        p, size = 0.2, 3.0
        bad = rng.random(N) < p
        y[bad] += size * rng.choice([-1.0, 1.0], int(bad.sum()))
        phi *= 1.0 - p + p * np.exp(-(size**2) / (2.0 * 2.0**2))
    elif case == "noise":
        y += 1.5 * rng.standard_normal(N)
        phi *= 2.0 / np.sqrt(2.0**2 + 1.5**2)
    found = operator.linearize(U, V, y, "l1", symmetric)
    close_ = {"rtol": 0, "atol": 1e-2}
    np.testing.assert_allclose(found.left, phi * X @ V / 2.0, **close_)
    np.testing.assert_allclose(found.norm, phi, **close_)
    if not symmetric:
        np.testing.assert_allclose(found.right, phi * X.T @ U / 2.0, **close_)
    if case == "exact":
        np.testing.assert_allclose(found.value, phi * 2.0, **close_)


def test_sign_rip_of_a_symmetric_problem_with_any_measurements():
    """The symmetric part of Q points to X, though the matrices A_i are not symmetric."""
    _, operator, U, _, X = gaussian(12, True)
    y = operator.A[:, : D * D] @ (U @ U.T - X).ravel()
    plain = operator.linearize(U, U, y, "l1")
    symmetric = operator.linearize(U, U, y, "l1", True)
    np.testing.assert_allclose(symmetric.left, (plain.left + plain.right) / 2, rtol=1e-12)
    assert symmetric.norm < plain.norm
