"""Statements with rounding: compared with exact arithmetic and with known spectra."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from lowrank_opt.lipschitz.certificates import chain_upper, group_upper, lmi_upper
from lowrank_opt.lipschitz.certificates_dual import chain_lower
from lowrank_opt.lipschitz.forms import Chain, Group, GroupChain
from lowrank_opt.lipschitz.lmi_builders import chain_lmi
from lowrank_opt.lipschitz.rigorous import (
    is_psd_safe,
    largest_eigenvalue_upper,
    norm_lower,
    norm_upper,
)


def _orthogonal(n, rng):
    return np.linalg.qr(rng.standard_normal((n, n)))[0]


def _exact_gram_below(raw, A, bound):
    """Return whether ‖A‖ <= bound, exactly: bound² I - A Aᵀ is semidefinite."""
    F = np.vectorize(Fraction, otypes=[object])
    A = F(A)
    S = -A.dot(A.T)
    for k in range(len(S)):
        S[k, k] += Fraction(bound) ** 2
    return raw.exactly_psd(S)


@pytest.mark.parametrize("shape", [(1, 6), (6, 1), (5, 8), (8, 5), (7, 7)])
@pytest.mark.parametrize("size", [1.0, 1e-200, 1e150])
def test_norms_enclose_the_exact_norm(raw, shape, size):
    rng = np.random.default_rng(3)
    for _ in range(5):
        A = rng.standard_normal(shape) * size
        up, low = norm_upper(A), norm_lower(A)
        short = A if shape[0] <= shape[1] else A.T
        assert _exact_gram_below(raw, short, up)
        assert not _exact_gram_below(raw, short, np.nextafter(low, 0.0) * (1 - 1e-14))
        assert low <= up <= low * (1 + 1e-12)


def test_norms_of_special_matrices():
    assert norm_upper(np.zeros((3, 2))) == norm_lower(np.zeros((3, 2))) == 0.0
    assert norm_upper(np.array([[np.inf]])) == np.inf
    ones = np.ones((4, 9))  # norm 6
    assert 6.0 <= norm_upper(ones) <= 6.0 * (1 + 1e-13)
    rng = np.random.default_rng(0)
    Q = _orthogonal(120, rng)
    assert 1.0 - 1e-14 <= norm_upper(Q) <= 1 + 1e-11
    flat = rng.standard_normal((60, 1)) @ rng.standard_normal((1, 50))
    exact = np.sqrt((flat**2).sum())
    assert exact * (1 - 1e-14) <= norm_upper(flat) <= exact * (1 + 1e-11)


@pytest.mark.parametrize("n", [2, 20, 120])
def test_definiteness_is_never_claimed_wrongly(n):
    rng = np.random.default_rng(n)
    for least in (-1e-15, -1e-13, -1e-8, -1.0):
        Q = _orthogonal(n, rng)
        A = (Q * np.r_[least, rng.uniform(0.5, 1.0, n - 1)]) @ Q.T
        A = 0.5 * (A + A.T)
        assert not is_psd_safe(A)
    for least in (1e-6, 1e-2):
        Q = _orthogonal(n, rng)
        A = (Q * np.r_[least, rng.uniform(0.5, 1.0, n - 1)]) @ Q.T
        scale = np.exp(rng.uniform(-20, 20, n))
        assert is_psd_safe(0.5 * (A + A.T) * scale[:, None] * scale)
        assert not is_psd_safe(0.5 * (A + A.T), error=2 * least)


def test_singular_integer_matrix_has_no_proof():
    v = np.arange(1.0, 8.0)
    assert not is_psd_safe(np.outer(v, v) - 1e-300)
    assert not is_psd_safe(np.outer(v, v))


def test_largest_eigenvalue_is_enclosed():
    rng = np.random.default_rng(1)
    for n in (1, 2, 30):
        A = rng.standard_normal((n, n))
        A = A + A.T
        top = np.linalg.eigvalsh(A)[-1]
        bound = largest_eigenvalue_upper(A)
        assert top - 1e-14 * n <= bound <= top + 1e-10 * np.abs(A).sum()
    assert largest_eigenvalue_upper(np.array([[np.nan]])) == np.inf


@pytest.mark.parametrize("slope", [0.0, 0.3, -0.2])
@pytest.mark.parametrize("seed", range(4))
def test_chain_bound_holds_in_exact_arithmetic(raw, seed, slope):
    rng = np.random.default_rng(seed)
    weights = raw.gaussian(3, 4, 3, 2, seed=seed)
    alpha = tuple(np.full(len(W), slope) for W in weights[:-1])
    chain = Chain(tuple(weights), alpha)
    sizes = [np.linalg.norm(W, 2) for W in weights]
    # Multipliers of a product of norms, disturbed: feasible, not optimal.
    lam, ahead = [], 1.0
    for W, s in zip(weights[:-1], sizes[:-1], strict=True):
        ahead /= s * s
        lam.append(ahead * rng.uniform(0.9, 1.05, len(W)) / (1 + 2 * abs(slope)))
    bound = chain_upper(chain, lam)
    assert np.isfinite(bound)
    assert raw.exactly_psd(raw.exact_chain_matrix(weights, alpha, lam, Fraction(bound) ** 2))
    below = Fraction(bound * (1 - 1e-9)) ** 2
    assert not raw.exactly_psd(raw.exact_chain_matrix(weights, alpha, lam, below))
    # The dense inequality proves the same.
    y = np.concatenate(lam)
    np.testing.assert_allclose(lmi_upper(chain_lmi(chain), y), bound, rtol=1e-9)


def test_multipliers_that_prove_nothing(raw):
    weights = raw.gaussian(3, 4, 2)
    chain = Chain(tuple(weights), (np.zeros(4),))
    assert chain_upper(chain, [np.full(4, 100.0)]) == np.inf  # too large: indefinite
    product = np.prod([np.linalg.norm(W, 2) for W in weights])
    assert chain_upper(chain, [np.zeros(4)]) > 10 * product  # mixed with inner ones: something
    assert chain_upper(chain, [np.full(4, np.nan)]) == np.inf
    assert chain_upper(chain, []) == np.inf
    assert chain_upper(chain, [np.ones(3)]) == np.inf
    group = GroupChain(tuple(weights), (Group(2),))
    assert group_upper(group, [np.array([[1.0, -1.0], [0.0, 0.0]])]) == np.inf
    assert group_upper(group, [np.ones((2, 3))]) == np.inf


@pytest.mark.parametrize("size", [2, 4])
def test_group_bound_is_the_weighted_product_of_norms(size):
    rng = np.random.default_rng(size)
    weights = [
        rng.standard_normal((8, 5)),
        rng.standard_normal((8, 8)),
        rng.standard_normal((3, 8)),
    ]
    groups = (Group(size), Group(size))
    value = [np.array([rng.uniform(1, 2, 8 // size), rng.uniform(-0.2, 1, 8 // size)])] * 2
    product, before = 1.0, np.eye(5)
    for W, v in zip(weights, [*value, None], strict=True):
        T = np.eye(len(W))
        if v is not None:
            T = np.kron(np.diag(v[0]), np.eye(size)) + np.kron(np.diag(v[1]), np.ones((size, size)))
        root = np.linalg.cholesky(T)
        product *= np.linalg.norm(root.T @ W @ np.linalg.inv(np.linalg.cholesky(before)).T, 2)
        before = T
    bound = group_upper(GroupChain(tuple(weights), groups), value)
    assert product * (1 - 1e-13) <= bound <= product * (1 + 1e-10)
    plain = [np.array([np.ones(8 // size), np.zeros(8 // size)])] * 2
    norms = np.prod([np.linalg.norm(W, 2) for W in weights])
    np.testing.assert_allclose(group_upper(GroupChain(tuple(weights), groups), plain), norms)


def test_dual_matrix_must_be_feasible(raw):
    # One hidden layer: X from increments h = z / 2 of the best input is feasible.
    weights = raw.gaussian(3, 4, 2)
    chain = Chain(tuple(weights), (np.zeros(4),))
    X00 = np.eye(3) / 3
    cross = 0.5 * X00 @ weights[0].T
    X11 = 0.25 * weights[0] @ X00 @ weights[0].T
    value = np.sqrt(np.trace(weights[1] @ X11 @ weights[1].T))
    np.testing.assert_allclose(chain_lower(chain, (X00, X11, cross)), value)
    assert chain_lower(chain, (X00, 4.0 * X11, cross)) == 0.0  # breaks h (h - z) <= 0
    assert chain_lower(chain, (X00, 0.5 * X11, cross)) == 0.0  # not semidefinite
    assert chain_lower(chain, (X00, X11)) == 0.0
    # The same energy for any scale of the matrix.
    np.testing.assert_allclose(chain_lower(chain, (9 * X00, 9 * X11, 9 * cross)), value)
