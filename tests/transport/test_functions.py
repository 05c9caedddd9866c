"""Projections, norm and prox: brute force over supports, cvxpy, Moreau, array libraries."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lowrank_opt.core.errors import ParameterError, ProblemError
from lowrank_opt.numerics import project_simplex
from lowrank_opt.transport import reference_functions as reference
from lowrank_opt.transport.functions import (
    expert_capacity,
    k_support_norm,
    prox_k_support,
    sparse_simplex_projection,
)

vectors = hnp.arrays(np.float64, 6, elements=st.floats(-100, 100, width=32))
caps = st.integers(1, 7)
weights = st.sampled_from([0.0, 1e-3, 0.3, 1.0, 40.0, 1e3])


# ---------------------------------------------------------------------------- projection


def brute_force(v, k, z):
    """The closest of the projections on the faces of all supports."""
    best = None
    for support in itertools.combinations(range(len(v)), min(k, len(v))):
        y = np.zeros(len(v))
        y[list(support)] = project_simplex(v[list(support)], z)
        if best is None or np.sum((y - v) ** 2) < np.sum((best - v) ** 2) - 1e-12:
            best = y
    return best


@settings(max_examples=50, deadline=None)
@given(v=vectors, k=caps, z=st.sampled_from([0.0, 0.25, 1.0, 30.0]))
def test_projection_is_as_close_as_the_best_support(v, k, z):
    y = sparse_simplex_projection(v, k, z)
    assert y.min() >= 0 and np.count_nonzero(y) <= k
    assert y.sum() == pytest.approx(z, rel=1e-13, abs=1e-300)
    expected = brute_force(v, k, z)
    np.testing.assert_allclose(np.sum((y - v) ** 2), np.sum((expected - v) ** 2), rtol=1e-9)


def test_equal_entries_of_the_lowest_index_are_kept():
    V = np.array([[1.0, 2.0], [1.0, 0.0], [1.0, 2.0], [0.0, 2.0]])
    expected = np.array([[0.5, 0.5], [0.5, 0.0], [0.0, 0.5], [0.0, 0.0]])
    np.testing.assert_array_equal(sparse_simplex_projection(V, 2), expected)
    np.testing.assert_array_equal(sparse_simplex_projection(V.T, 2, axis=1), expected.T)
    np.testing.assert_array_equal(
        sparse_simplex_projection(V.T, 2, [1.0, 2.0], axis=-1), expected.T * [[1.0], [2.0]]
    )


def test_without_a_binding_cap_it_is_the_projection_on_the_simplex():
    V = np.random.default_rng(0).standard_normal((50, 9))
    for k in (9, 50):
        np.testing.assert_allclose(
            sparse_simplex_projection(V, k, 2.0, axis=1), project_simplex(V, 2.0), atol=1e-14
        )


def test_projection_of_huge_offsets_keeps_its_sum():
    v = 1e12 + np.arange(5.0)
    np.testing.assert_array_equal(sparse_simplex_projection(v, 2, 3.0), [0, 0, 0, 1, 2])


# ---------------------------------------------------------------------------- norm


def norm_by_a_conic_program(t, k):
    """The perspective form: least ``sum t_i^2 / z_i`` with ``z <= 1`` of sum at most k."""
    import cvxpy as cp

    t = np.asarray(t)
    z = cp.Variable(len(t))
    terms = cp.sum([cp.quad_over_lin(t[i], z[i]) for i in range(len(t))])
    problem = cp.Problem(cp.Minimize(terms), [z <= 1, cp.sum(z) <= k])
    problem.solve(solver=cp.CLARABEL, tol_gap_abs=1e-9, tol_gap_rel=1e-9)
    return np.sqrt(problem.value)


@pytest.mark.parametrize("k", [1, 2, 3, 5, 8])
def test_norm_agrees_with_its_perspective_form(k):
    rng = np.random.default_rng(k)
    for t in (rng.standard_normal(7), rng.exponential(size=7) ** 3, np.ones(7)):
        assert k_support_norm(t, k) == pytest.approx(norm_by_a_conic_program(t, k), rel=1e-6)


@settings(max_examples=50, deadline=None)
@given(t=vectors, s=vectors, k=caps, factor=st.floats(-10, 10))
def test_it_is_a_norm_whose_dual_sums_the_k_largest_squares(t, s, k, factor):
    norm = float(k_support_norm(t, k))
    assert float(k_support_norm(factor * t, k)) == pytest.approx(abs(factor) * norm, rel=1e-12)
    assert float(k_support_norm(t + s, k)) <= (norm + float(k_support_norm(s, k))) * (1 + 1e-12)
    dual = np.sqrt(np.sum(np.sort(np.abs(s))[::-1][:k] ** 2))
    assert t @ s <= norm * dual * (1 + 1e-12) + 1e-12
    assert norm >= np.linalg.norm(t) * (1 - 1e-12)
    assert norm >= np.abs(t).sum() / np.sqrt(k) * (1 - 1e-12)
    assert norm <= np.abs(t).sum() * (1 + 1e-12)


def test_norm_for_extreme_caps_and_sizes():
    t = np.array([3.0, -4.0, 0.0])
    assert k_support_norm(t, 1) == 7.0
    assert k_support_norm(t, 2) == k_support_norm(t, 3) == k_support_norm(t, 10) == 5.0
    assert k_support_norm(np.zeros(3), 2) == 0.0
    np.testing.assert_allclose(k_support_norm(1e300 * t, 1), 7e300, rtol=1e-15)
    np.testing.assert_allclose(k_support_norm(1e-300 * t, 1), 7e-300, rtol=1e-15)
    batch = np.stack([t, 2 * t])
    np.testing.assert_allclose(k_support_norm(batch, 1, axis=1), [7.0, 14.0])
    np.testing.assert_allclose(k_support_norm(batch.T, 1), [7.0, 14.0])
    assert k_support_norm(batch, 1, axis=None) == pytest.approx(21.0)


# ---------------------------------------------------------------------------- prox


def prox_by_a_conic_program(v, rho, k, total):
    import cvxpy as cp

    p = len(v)
    t, r, z = cp.Variable(p), cp.Variable(p), cp.Variable(p)
    cones = [cp.SOC(r[i] + z[i], cp.hstack([2 * t[i], r[i] - z[i]])) for i in range(p)]
    cones += [z >= 0, z <= 1, cp.sum(z) <= k]
    if total is not None:
        cones += [t >= 0, cp.sum(t) == total]
    goal = 0.5 * cp.sum_squares(t - v) + 0.5 * rho * cp.sum(r)
    problem = cp.Problem(cp.Minimize(goal), cones)
    problem.solve(solver=cp.CLARABEL, tol_gap_abs=1e-9, tol_gap_rel=1e-9)
    return t.value


@pytest.mark.parametrize("total", [None, 0.7])
@pytest.mark.parametrize("k", [1, 2, 4])
@pytest.mark.parametrize("rho", [0.1, 1.0, 20.0])
def test_prox_agrees_with_a_conic_program(rho, k, total):
    rng = np.random.default_rng(17 * k)
    for v in (rng.standard_normal(6), np.round(2 * rng.standard_normal(6)) / 2):
        expected = prox_by_a_conic_program(v, rho, k, total)
        np.testing.assert_allclose(prox_k_support(v, rho, k, total), expected, atol=1e-4)


def objective(t, v, rho, k):
    return 0.5 * np.sum((t - v) ** 2) + 0.5 * rho * float(k_support_norm(t, k)) ** 2


@settings(max_examples=50, deadline=None)
@given(v=vectors, u=vectors, k=caps, rho=weights, total=st.sampled_from([None, 1e-3, 1.0, 50.0]))
def test_prox_minimises_and_does_not_expand(v, u, k, rho, total):
    """Strong convexity: any other point is worse by at least half the squared distance."""
    t, s = prox_k_support(v, rho, k, total), prox_k_support(u, rho, k, total)
    assert np.linalg.norm(t - s) <= np.linalg.norm(v - u) * (1 + 1e-9) + 1e-9
    if total is not None:
        assert t.min() >= 0
        assert t.sum() == pytest.approx(total, rel=1e-13)
    excess = objective(s, v, rho, k) - objective(t, v, rho, k) - 0.5 * np.sum((s - t) ** 2)
    assert excess >= -1e-10 * (1 + objective(s, v, rho, k))


def prox_of_the_conjugate(v, rho, k):
    """Prox of g, the sum of the k largest squares over ``2 rho``.

    ``v - y`` is ``y / rho`` times weights in [0, 1] that sum to at most k; entries below the k-th
    size have none and those above it have all.
    """
    size = np.abs(v)

    def at(level):  # weights 1 above the level, what is missing to it at the level
        return np.where(size * rho / (1 + rho) > level, size * rho / (1 + rho),
                        np.minimum(size, level))  # fmt: skip

    low, high = 0.0, size.max()
    for _ in range(200):
        level = 0.5 * (low + high)
        y = at(level)
        if level == 0.0 or np.sum(rho * (size - y) / np.maximum(y, 1e-300)) <= k:
            high = level
        else:
            low = level
    return np.sign(v) * at(high)


@settings(max_examples=50, deadline=None)
@given(v=vectors, k=st.integers(1, 5), rho=st.sampled_from([0.1, 1.0, 7.0]))
def test_moreau_identity(v, k, rho):
    """``v = prox f (v) + prox f* (v)``, with f* half the sum of the k largest squares over rho."""
    expected = prox_of_the_conjugate(v, rho, k)
    np.testing.assert_allclose(v - prox_k_support(v, rho, k), expected, atol=1e-7)


def test_prox_closed_forms():
    v = np.array([4.0, -2.0, 0.5])
    np.testing.assert_array_equal(prox_k_support(v, 0.0, 1), v)
    np.testing.assert_allclose(prox_k_support(v, 3.0, 3), v / 4)
    np.testing.assert_allclose(prox_k_support(v, 3.0, 7), v / 4)
    np.testing.assert_allclose(
        prox_k_support(v, 3.0, 3, 1.0), project_simplex(v, 4.0) / 4, atol=1e-15
    )
    np.testing.assert_allclose(prox_k_support(v, 0.0, 1, 5.0), project_simplex(v, 5.0), atol=1e-14)
    # for k = 1 the norm is the sum: on the simplex it is constant
    np.testing.assert_allclose(prox_k_support(v, 9.0, 1, 5.0), project_simplex(v, 5.0), atol=1e-14)
    # equal entries stay equal, however many they are
    np.testing.assert_allclose(prox_k_support(np.ones(8), 5.0, 2, 1.0), np.full(8, 0.125))
    np.testing.assert_array_equal(prox_k_support(v, 1.0, 2, 0.0), np.zeros(3))


# ---------------------------------------------------------------------------- both paths


@pytest.mark.parametrize("length", [1, 2, 5, 60])
def test_kernels_agree_with_their_references(length):
    rng = np.random.default_rng(length)
    for V in (
        rng.standard_normal((8, length)),
        rng.integers(-2, 3, (8, length)) * 1.0,
        np.zeros((8, length)),
        np.repeat(rng.standard_normal((8, 1)), length, axis=1),
        1e6 + rng.standard_normal((8, length)),
    ):
        z = rng.uniform(0.1, 3.0, 8)
        for k in (1, 2, length, length + 3):
            np.testing.assert_allclose(
                sparse_simplex_projection(V, k, z, axis=1),
                reference.sparse_simplex_projection(V, k, z[:, None]), atol=1e-13,
            )  # fmt: skip
            for rho in (0.0, 1e-3, 1.0, 1e3):
                scale = 1 + np.abs(V).max()
                np.testing.assert_allclose(
                    prox_k_support(V, rho, k, z, axis=1),
                    reference.prox_k_support(V, rho, k, z[:, None]), atol=1e-12 * scale,
                )  # fmt: skip
                np.testing.assert_allclose(
                    prox_k_support(V, rho, k, axis=1),
                    reference.prox_k_support(V, rho, k), atol=1e-13 * scale,
                )  # fmt: skip


def test_array_libraries_give_the_same_answers(xp):
    V = np.random.default_rng(5).standard_normal((6, 4))
    z = np.linspace(0.1, 1.0, 4)
    for function, args in [
        (sparse_simplex_projection, (V, 2, z)),
        (sparse_simplex_projection, (V, 2)),
        (k_support_norm, (V, 3)),
        (prox_k_support, (V, 0.5, 2)),
        (prox_k_support, (V, 0.5, 2, z)),
    ]:
        moved = [xp.asarray(x) if isinstance(x, np.ndarray) else x for x in args]
        got = function(*moved)
        assert type(got) is type(moved[0])
        np.testing.assert_allclose(np.asarray(got), function(*args), rtol=0, atol=1e-12)
        singles = [_single(x, xp) for x in moved]
        assert function(*singles).dtype == xp.float32


def _single(value, xp):
    return value if isinstance(value, (int, float)) else xp.astype(value, xp.float32)


@pytest.mark.parametrize("function", [sparse_simplex_projection, prox_k_support])
def test_single_precision_and_other_layouts(function):
    V = np.random.default_rng(6).standard_normal((9, 5))
    args = (2,) if function is sparse_simplex_projection else (0.7, 2, 1.0)
    expected = function(V, *args)
    got = function(V.astype(np.float32), *args)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, expected, atol=1e-6)
    frozen = np.asfortranarray(V)[::-1]
    frozen.flags.writeable = False
    np.testing.assert_array_equal(function(frozen, *args), function(V[::-1].copy(), *args))
    np.testing.assert_array_equal(function(V.T, *args, axis=1), expected.T)
    np.testing.assert_array_equal(
        function((V * 10).astype(int), *args), function(np.trunc(V * 10), *args)
    )


# ---------------------------------------------------------------------------- capacity


@pytest.mark.parametrize(
    ("tokens", "experts", "factor", "multiple", "expected"),
    [
        (196, 32, 1.05, 4, 8),  # 6.43
        (100, 10, 1.1, 1, 11),  # 11 exactly, though 100 * 1.1 / 10 is above it in floating point
        (100, 10, 1.1, 4, 12),
        (4096, 64, 1, 4, 64),
        (4096, 64, 2.0, 4, 128),
        (1, 8, 0.5, 1, 1),
        (7, 2, 1.0, 3, 6),
    ],
)
def test_capacity(tokens, experts, factor, multiple, expected):
    assert expert_capacity(tokens, experts, factor, multiple_of=multiple) == expected
    assert isinstance(expert_capacity(np.int64(tokens), experts, factor), int)


# ---------------------------------------------------------------------------- bad inputs


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: sparse_simplex_projection([1.0, np.nan], 1), ProblemError, r"V\[1\] is NaN"),
        (lambda: sparse_simplex_projection([1.0, 2.0], 0), ParameterError, "k is 0"),
        (lambda: sparse_simplex_projection([1.0, 2.0], 1.5), ParameterError, "k is 1.5"),
        (lambda: sparse_simplex_projection([1.0, 2.0], True), ParameterError, "k is True"),
        (lambda: sparse_simplex_projection([1.0, 2.0], 1, -1.0), ProblemError, "z has a negative"),
        (lambda: sparse_simplex_projection(np.ones((3, 2)), 1, [1.0] * 3), ProblemError, "z has"),
        (lambda: sparse_simplex_projection([1.0], 1, axis=1), ParameterError, "axis is 1"),
        (lambda: sparse_simplex_projection(np.ones((0, 2)), 1), ProblemError, "V is empty"),
        (lambda: k_support_norm([1.0, np.inf], 1), ProblemError, r"t\[1\]"),
        (lambda: k_support_norm([1.0], 0), ParameterError, "k is 0"),
        (lambda: prox_k_support([1.0], -1.0, 1), ParameterError, "rho is -1.0"),
        (lambda: prox_k_support([1.0], 1.0, 0), ParameterError, "k is 0"),
        (lambda: prox_k_support([1.0], 1.0, 1, -2.0), ProblemError, "sum has a negative"),
        (lambda: prox_k_support(np.ones((0, 2)), 1.0, 1), ProblemError, "v is empty"),
        (lambda: expert_capacity(0, 4, 1.0), ParameterError, "num_tokens is 0"),
        (lambda: expert_capacity(4, 2.5, 1.0), ParameterError, "num_experts is 2.5"),
        (lambda: expert_capacity(4, 2, 0.0), ParameterError, "factor is 0.0"),
        (lambda: expert_capacity(4, 2, 1.0, 0), ParameterError, "multiple_of is 0"),
    ],
)
def test_bad_inputs_name_the_argument(call, error, message):
    with pytest.raises(error, match=message):
        call()
