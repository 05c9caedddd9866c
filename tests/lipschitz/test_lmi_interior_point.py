"""Interior point method for networks of any topology, against the inequalities of the papers."""

from __future__ import annotations

import copy
import importlib.util
import itertools
import pickle
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg

from lowrank_opt.core.serialize import decode, encode
from lowrank_opt.lipschitz import lmi_interior_point as engine
from lowrank_opt.lipschitz.factorisations import cholesky, inverse_from
from lowrank_opt.lipschitz.forms import Chain, Group
from lowrank_opt.lipschitz.lmi_builders import (
    chain_lmi,
    chain_lmi_linf,
    implicit_lmi,
    local_lmi,
    mixed_lmi,
    residual_lmi,
)
from lowrank_opt.lipschitz.lmi_cuts import ConeSteps
from lowrank_opt.lipschitz.lmi_operator import Operator
from lowrank_opt.lipschitz.lmi_starts import layered_multipliers

_SPEC = importlib.util.spec_from_file_location(
    "lipschitz_raw_inequalities", Path(__file__).with_name("raw_inequalities.py")
)
raw = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(raw)
group_structure, quadratic_optimum = raw.group_structure, raw.quadratic_optimum
implicit_optimum, lipsdp_optimum = raw.implicit_optimum, raw.lipsdp_optimum
largest_over_slopes, sort_patterns = raw.largest_over_slopes, raw.sort_patterns
residual_map, slope_structure = raw.residual_map, raw.slope_structure

RELU = (0.0, 1.0)
TOL = 1e-7


def gaussian(rng, *shape, gain=1.0):
    return gain * rng.standard_normal(shape) / np.sqrt(shape[-1])


def network(dims, seed=0):
    rng = np.random.default_rng(seed)
    return [gaussian(rng, b, a) for a, b in itertools.pairwise(dims)]


def solve(form, limit=60, **options):
    state = engine.start(form, tol=TOL, **options)
    while not state.done and state.nit < limit:
        engine.advance(form, state)
    return state


def solved(form, **options):
    """Solve, and check both bounds against the form by plain linear algebra."""
    state = solve(form, **options)
    assert state.done == "converged", state.message
    assert 1.0 - state.lower / state.upper <= TOL
    M = form.M.toarray()
    terms = [form.P @ np.diag(M[:, k]) @ form.Q.T for k in range(M.shape[1])]
    terms = [A + A.T for A in terms]
    (y,) = state.multipliers
    rho = state.upper if form.norm == "linf" else state.upper**2
    S = np.diag(form.E) + sum((c * A for c, A in zip(y, terms, strict=True)), -form.C / rho)
    assert np.linalg.eigvalsh(S)[0] >= -1e-12 * max(1.0, np.abs(form.C).max() / rho)
    assert np.all(y[~form.free] >= 0.0)
    (X,) = state.dual
    assert np.linalg.eigvalsh(X)[0] >= 0.0
    np.testing.assert_allclose(form.E @ X.diagonal(), 1.0, rtol=1e-12)
    values = np.array([np.vdot(A, X) for A in terms])
    scale = np.abs(X).max()
    assert np.all(values[~form.free] <= 1e-13 * scale)
    assert np.all(np.abs(values[form.free]) <= 1e-12 * scale)
    lower = np.vdot(form.C, X)
    np.testing.assert_allclose(
        state.lower, lower if form.norm == "linf" else np.sqrt(lower), rtol=1e-8
    )
    return state.upper


def close(value, reference, rtol=2e-7):
    np.testing.assert_allclose(value, reference, rtol=rtol, atol=0.0)


# -- feed-forward -----------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [0.0, 0.1, -0.2, -1.0])
def test_chain_is_lipsdp(alpha):
    W = network((3, 6, 7, 2))
    slopes = [np.full(6, alpha), np.full(7, alpha)]
    form = chain_lmi(Chain(tuple(W), tuple(slopes)))
    close(solved(form), lipsdp_optimum(W, slopes, [np.ones(6), np.ones(7)]))


@pytest.mark.parametrize(
    ("depth", "width", "low", "high"),
    [(2, 10, 1.12016614, 1.12016622), (5, 40, 4.47370878, 4.47370929)],
)
def test_published_interval_of_random_networks(depth, width, low, high):
    W = network((4, *[width] * (depth - 1), 1))
    state = solve(chain_lmi(Chain(tuple(W), tuple(np.zeros(len(V)) for V in W[:-1]))))
    assert low * (1.0 - 1e-8) <= state.upper <= high * (1.0 + 1e-8)
    assert state.lower <= high


def test_slopes_of_each_neuron_for_the_largest_entry():
    rng = np.random.default_rng(3)
    W = network((4, 6, 5, 1), seed=1)
    alpha = [rng.uniform(-0.3, 0.2, 6), rng.uniform(-0.3, 0.2, 5)]
    beta = [rng.uniform(0.5, 1.0, 6), rng.uniform(0.5, 1.0, 5)]
    bound = solved(chain_lmi_linf(W[:2], alpha, beta, W[2]))
    close(bound, lipsdp_optimum(W, alpha, beta, "linf"))
    exact = largest_over_slopes(
        lambda s: (
            (W[2] * (alpha[1] + s[6:] * (beta[1] - alpha[1])))
            @ W[1]
            @ ((alpha[0] + s[:6] * (beta[0] - alpha[0]))[:, None] * W[0])
        ),
        11,
        norm=np.inf,
    )
    product = np.prod([np.abs(V).sum(axis=1).max() for V in W])
    assert exact <= bound * (1.0 + 1e-12) <= product


def test_two_neurons_whose_coupling_would_be_wrong():
    # relu(x) - relu(x - 1) has constant 1; a multiplier that couples its neurons would prove 0.
    close(solved(mixed_lmi([np.ones((2, 1)), np.array([[1.0, -1.0]])], [RELU])), 1.0)


def test_no_hidden_layer_is_a_norm():
    W = network((4, 3))[0]
    close(solved(mixed_lmi([W], [])), np.linalg.norm(W, 2))
    close(solved(mixed_lmi([W[:1]], [], norm="linf")), np.abs(W[0]).sum())


# -- local slopes -----------------------------------------------------------------------------


def test_inactive_neurons_are_as_if_deleted_and_an_active_layer_is_merged():
    W = network((3, 6, 5, 2), seed=2)
    on = [np.ones(6), np.ones(5)]
    dead = np.array([0, 2])
    beta = [on[0].copy(), on[1]]
    beta[0][dead] = 0.0
    form = local_lmi(W, [np.zeros(6), np.zeros(5)], beta)
    assert form.free.size == 9
    left = np.delete(np.arange(6), dead)
    small = [W[0][left], W[1][:, left], W[2]]
    reference = lipsdp_optimum(small, [np.zeros(4), np.zeros(5)], [np.ones(4), np.ones(5)])
    close(solved(form), reference)
    form = local_lmi(W, [np.zeros(6), np.ones(5)], on)
    reference = lipsdp_optimum([W[0], W[2] @ W[1]], [np.zeros(6)], [np.ones(6)])
    close(solved(form), reference)


def test_affine_neurons_feed_later_layers_exactly():
    W = network((3, 4, 4, 2), seed=4)
    beta = [np.array([1.0, 0.3, 1.0, 0.0]), np.array([1.0, 1.0, -0.5, 1.0])]
    alpha = [np.array([0.0, 0.3, 1.0, 0.0]), np.array([0.0, 1.0, -0.5, 0.0])]

    def jacobian(s):
        first = np.where(alpha[0] < beta[0], s[:4], beta[0])
        second = np.where(alpha[1] < beta[1], s[4:], beta[1])
        return W[2] @ (second[:, None] * W[1]) @ (first[:, None] * W[0])

    bound = solved(local_lmi(W, alpha, beta))
    exact = largest_over_slopes(jacobian, 8)
    assert exact <= bound * (1.0 + 1e-9)
    # Nearly affine neurons with terms of their own.
    wide = [np.where(a < b, b, b + 1e-5) for a, b in zip(alpha, beta, strict=True)]
    close(bound, lipsdp_optimum(W, alpha, wide), rtol=1e-3)
    everything = solved(local_lmi(W, beta, beta))
    close(
        everything, np.linalg.norm(W[2] @ (beta[1][:, None] * W[1]) @ (beta[0][:, None] * W[0]), 2)
    )


# -- residual ---------------------------------------------------------------------------------


@pytest.mark.parametrize("gain", [0.5, 2.0])
def test_residual_relu_network(gain):
    rng = np.random.default_rng(5)
    W_in, W_out = gaussian(rng, 4, 3), gaussian(rng, 2, 4)
    blocks = [gaussian(rng, 4, 4, gain=gain) for _ in range(3)]
    form = residual_lmi(W_in, [(None, None, W) for W in blocks], [RELU] * 3, W_out)
    bound = solved(form)
    A, B, h = residual_map(W_in, blocks)
    M, constraints = slope_structure(np.zeros(12), np.ones(12))
    close(bound, quadratic_optimum(A, B, M, W_out @ h, constraints), rtol=1e-6)
    product = np.linalg.norm(W_in, 2) * np.linalg.norm(W_out, 2)
    product *= np.prod([1.0 + np.linalg.norm(W, 2) for W in blocks])
    assert bound <= product


def test_general_residual_blocks_reduce_to_feed_forward():
    W = network((3, 5, 6, 2), seed=6)
    blocks = [(np.zeros((5, 3)), np.eye(5), W[0]), (np.zeros((6, 5)), np.eye(6), W[1])]
    form = residual_lmi(np.eye(3), blocks, [RELU] * 2, W[2])
    zeros, one = [np.zeros(5), np.zeros(6)], [np.ones(5), np.ones(6)]
    close(solved(form), lipsdp_optimum(W, zeros, one))
    row = residual_lmi(np.eye(3), blocks, [RELU] * 2, W[2][:1], norm="linf")
    close(solved(row), lipsdp_optimum([*W[:2], W[2][:1]], zeros, one, "linf"))


@pytest.mark.parametrize("kind", ["sort", "householder"])
def test_residual_network_that_rearranges_groups(kind):
    rng = np.random.default_rng(7)
    blocks = [gaussian(rng, 4, 4) for _ in range(3)]
    v = np.array([0.6, 0.8])
    group = Group(2) if kind == "sort" else Group(2, np.tile(v, (2, 1)))
    E = np.ones((2, 2)) if kind == "sort" else np.eye(2) - np.outer(v, v)
    pieces = [(None, None, W) for W in blocks]
    bound = solved(residual_lmi(np.eye(4), pieces, [group] * 3, np.eye(4)))
    A, B, h = residual_map(np.eye(4), blocks)

    def published(with_p):
        T, P = group_structure(6, E, with_p)
        return quadratic_optimum(A, B, [[T, P], [P, -T - 2 * P]], h, [], accuracy=1e-9)

    # The multiplier P of the paper is unbounded at the optimum, so that its value is inexact.
    close(bound, published(True), rtol=2e-3)
    without = published(False)
    assert without > 1.05 * bound
    form = residual_lmi(np.eye(4), pieces, [group] * 3, np.eye(4), identities="multipliers")
    close(solved(form), without, rtol=1e-6)


def test_one_max_min_layer_written_as_residual_relu_is_worse():
    W = np.array([[-1.0, 1.0], [1.0, -1.0]])
    H, G = np.array([[0.0, 1.0], [0.0, 1.0]]), np.array([[-1.0, 0.0], [0.0, 1.0]])
    close(solved(residual_lmi(np.eye(2), [(H, G, W)], [RELU], np.eye(2))), np.sqrt(2.0))
    close(solved(mixed_lmi([np.eye(2), np.eye(2)], [Group(2)])), 1.0)


# -- mixed ------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 1])
def test_sorting_network_is_between_all_patterns_and_the_paper(seed):
    W = network((3, 6, 6, 2), seed=seed)
    bound = solved(mixed_lmi(W, [Group(2)] * 2))
    published = solved(mixed_lmi(W, [Group(2)] * 2, identities="multipliers"))
    A = np.zeros((12, 15))
    A[:6, :3], A[6:, 3:9] = W[0], W[1]
    B = np.hstack([np.zeros((12, 3)), np.eye(12)])
    T, _ = group_structure(6, np.ones((2, 2)), False)
    zero = np.zeros((12, 12))
    output = np.hstack([np.zeros((2, 9)), W[2]])
    close(published, quadratic_optimum(A, B, [[T, zero], [zero, -T]], output, []), rtol=1e-6)
    exact = max(
        np.linalg.norm(W[2] @ D @ W[1] @ F @ W[0], 2)
        for D in sort_patterns(3)
        for F in sort_patterns(3)
    )
    assert exact <= bound * (1.0 + 1e-9) <= published * (1.0 + 1e-6)
    product = np.prod([np.linalg.norm(V, 2) for V in W])
    assert published <= product


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_layers_of_both_kinds(norm):
    W = network((3, 4, 4, 4, 1), seed=8)
    layers = [RELU, Group(2), (np.full(4, 0.1), np.ones(4))]
    bound = solved(mixed_lmi(W, layers, norm=norm))
    published = solved(mixed_lmi(W, layers, norm=norm, identities="multipliers"))
    exact = max(
        largest_over_slopes(
            lambda s, D=D: (
                W[3] @ np.diag(0.1 + 0.9 * s[4:]) @ W[2] @ D @ W[1] @ (s[:4, None] * W[0])
            ),
            8,
            norm=2 if norm == "l2" else np.inf,
        )
        for D in sort_patterns(2)
    )
    assert exact <= bound * (1.0 + 1e-9) <= published * (1.0 + 1e-6)


def test_reflections_keep_what_is_orthogonal_to_them():
    rng = np.random.default_rng(9)
    W = [gaussian(rng, 6, 3), gaussian(rng, 2, 6)]
    v = rng.standard_normal((2, 3))
    v /= np.linalg.norm(v, axis=1, keepdims=True)
    bound = solved(mixed_lmi(W, [Group(3, v)]))
    flips = [(np.eye(3), np.eye(3) - 2.0 * np.outer(u, u)) for u in v]
    exact = 0.0
    for first in flips[0]:
        for second in flips[1]:
            D = np.zeros((6, 6))
            D[:3, :3], D[3:, 3:] = first, second
            exact = max(exact, np.linalg.norm(W[1] @ D @ W[0], 2))
    assert exact <= bound * (1.0 + 1e-9)
    assert bound <= np.linalg.norm(W[0], 2) * np.linalg.norm(W[1], 2)


# -- implicit ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("norm", "alpha"), [("l2", 0.0), ("l2", -0.1), ("linf", 0.0)])
def test_implicit_network(norm, alpha):
    rng = np.random.default_rng(10)
    W, U = gaussian(rng, 5, 5, gain=0.6), gaussian(rng, 5, 3)
    C, D = gaussian(rng, 1, 5), gaussian(rng, 1, 3)
    bound = solved(implicit_lmi(W, U, C, D, alpha, 1.0, norm=norm))
    reference = implicit_optimum(W, U, C, D, np.full(5, alpha), np.ones(5), norm)
    close(bound, reference, rtol=1e-6)


@pytest.mark.parametrize("w", [-3.0, 0.0, 0.5, 0.9])
def test_one_implicit_neuron(w):
    # z = relu(w z + u x): slopes s / (1 - s w) for s in [0, 1].
    u, c = 2.0, 1.5
    form = implicit_lmi(*(np.array([[v]]) for v in (w, u, c)), None, 0.0, 1.0)
    close(solved(form), u * c / (1.0 - w))


@pytest.mark.parametrize("w", [1.0, 1.5])
def test_ill_posed_implicit_network_is_reported(w):
    form = implicit_lmi(*(np.array([[v]]) for v in (w, 2.0, 1.5)), None, 0.0, 1.0)
    state = solve(form)
    assert state.done == "failed"
    assert "no finite bound" in state.message
    assert "proven to rounding" in state.message
    assert state.nit < 30
    assert state.upper == np.inf
    assert state.multipliers == ()


def test_implicit_feasibility_agrees_with_cvxpy():
    rng = np.random.default_rng(11)
    for gain in (0.6, 1.0, 1.4, 2.5):
        W, U = gaussian(rng, 5, 5, gain=gain), gaussian(rng, 5, 2)
        C = gaussian(rng, 2, 5)
        state = solve(implicit_lmi(W, U, C, None, 0.0, 1.0))
        reference = implicit_optimum(W, U, C, np.zeros((2, 2)), np.zeros(5), np.ones(5))
        if np.isfinite(reference):
            close(state.upper, reference, rtol=1e-5)
        else:
            assert state.done == "failed"


# -- behaviour --------------------------------------------------------------------------------


def example():
    W = network((3, 6, 6, 2), seed=12)
    return mixed_lmi(W, [RELU, Group(2)])


def test_an_answer_needs_no_iterations():
    form = example()
    state = solve(form)
    again = engine.start(form, tol=TOL, multipliers=state.multipliers, dual=state.dual)
    assert again.done == "converged"
    assert again.nit == 0
    np.testing.assert_allclose(again.upper, state.upper, rtol=1e-13)
    np.testing.assert_allclose(again.lower, state.lower, rtol=1e-14)


def test_warm_start_from_multipliers_takes_no_more_iterations():
    form = example()
    cold = solve(form)
    warm = solve(form, multipliers=(cold.multipliers[0] * 1.02,))
    assert warm.done == "converged"
    assert warm.nit <= cold.nit


def test_useless_warm_starts_are_ignored():
    form = example()
    cold = solve(form)
    k, d = form.free.size, form.E.size
    starts = [
        {"multipliers": (np.ones(k + 1),), "dual": (np.eye(d + 1),)},
        {"multipliers": (np.full(k, np.nan),), "dual": (np.full((d, d), np.nan),)},
        {"multipliers": (-np.ones(k),), "dual": (-np.eye(d),)},
        {"multipliers": (np.full(k, 1e6),), "dual": (np.zeros((d, d)),)},
    ]
    for options in starts:
        close(solve(form, **options).upper, cold.upper)


@pytest.mark.parametrize("stop", [1, 4, 9])
def test_resume_is_bit_identical(stop):
    form = example()
    straight = solve(form)
    state = engine.start(form, tol=TOL)
    for _ in range(stop):
        engine.advance(form, state)
    arrays = {}
    tree = encode(state, arrays)
    for copied in (copy.deepcopy(state), pickle.loads(pickle.dumps(state)), decode(tree, arrays)):
        assert copied.cache is None
        while not copied.done:
            engine.advance(form, copied)
        assert (copied.upper, copied.lower, copied.nit) == (
            straight.upper,
            straight.lower,
            straight.nit,
        )
        np.testing.assert_array_equal(copied.multipliers[0], straight.multipliers[0])


def test_bounds_are_monotone_and_enclose():
    form = example()
    state = engine.start(form, tol=TOL)
    upper, lower = [], []
    while not state.done:
        engine.advance(form, state)
        upper.append(state.upper)
        lower.append(state.lower)
    assert np.all(np.diff(lower) >= 0.0)
    assert all(b <= a for a, b in itertools.pairwise(upper))
    assert lower[-1] <= upper[-1]


@pytest.mark.parametrize("factor", [1e-9, 1e9])
def test_scale_of_the_output_does_not_matter(factor):
    W = network((3, 6, 6, 1), seed=12)
    first = solved(mixed_lmi(W, [RELU, Group(2)], norm="linf"))
    other = solved(mixed_lmi([*W[:2], factor * W[2]], [RELU, Group(2)], norm="linf"))
    close(other, factor * first)
    close(
        solved(mixed_lmi([*W[:2], factor * W[2]], [RELU, Group(2)])),
        factor * solved(mixed_lmi(W, [RELU, Group(2)])),
    )


def test_constant_output():
    form = mixed_lmi([np.ones((2, 2)), np.zeros((1, 2))], [RELU])
    state = engine.start(form)
    assert state.done == "converged"
    assert state.upper == 0.0
    assert state.multipliers[0].shape == (2,)


def test_repeated_and_useless_neurons_do_no_harm():
    W1 = np.vstack([np.ones((3, 2)), np.zeros((1, 2))])
    W2 = np.array([[1.0, 1.0, 1.0, 5.0]])
    state = solve(mixed_lmi([W1, W2], [RELU]))
    np.testing.assert_allclose(state.upper, 3.0 * np.sqrt(2.0), rtol=1e-6)


def test_a_target_out_of_reach_ends_with_the_best_bound():
    form = example()
    state = engine.start(form, tol=0.0)
    for _ in range(60):
        engine.advance(form, state)
    assert state.done in ("stalled", "converged")
    reference = solve(form)
    np.testing.assert_allclose(state.upper, reference.upper, rtol=2 * TOL)
    assert state.lower <= reference.upper


def test_deep_networks_need_no_scaling_by_the_user():
    gain = 16.0  # a power of two: both networks are the same up to exponents
    W = network((3, *[6] * 8, 1), seed=13)
    big = [gain * V for V in W]
    for layers in ([RELU] * 8, [RELU, Group(2)] * 4):
        first = solved(mixed_lmi(W, layers, norm="linf"))
        close(solved(mixed_lmi(big, layers, norm="linf")), gain**9 * first)
        close(solved(mixed_lmi(big, layers)), gain**9 * solved(mixed_lmi(W, layers)))


def test_dead_neurons_and_groups_are_left_out():
    W = network((3, 6, 6, 2), seed=14)
    W[0][:2] = 0.0
    W[1][2:4] = W[1][2]  # one pair with equal inputs never turns
    form = mixed_lmi(W, [RELU, Group(2)])
    assert form.free.size == 4 + 2
    bound = solved(form)
    pair = np.ones((1, 2))
    small = [W[0][2:], W[1][[0, 1, 4, 5], 2:], W[2][:, [0, 1, 4, 5]]]
    through = W[2][:, 2:4] @ pair.T
    exact = max(
        largest_over_slopes(
            lambda s, D=D: (
                small[2] @ D @ small[1] @ (s[:, None] * small[0])
                + through @ W[1][2:3, 2:] @ (s[:, None] * small[0])
            ),
            4,
        )
        for D in sort_patterns(2)
    )
    assert exact <= bound * (1.0 + 1e-9)
    assert bound <= np.prod([np.linalg.norm(V, 2) for V in W])


def test_substituted_identities_matter_in_deep_sorting_networks():
    W = network((8, *[8] * 11, 8), seed=15)
    bound = solved(mixed_lmi(W, [Group(2)] * 11))
    published = solved(mixed_lmi(W, [Group(2)] * 11, identities="multipliers"))
    rng = np.random.default_rng(0)
    patterns, found = list(sort_patterns(4)), 0.0
    for _ in range(300):
        J = W[0]
        for V in W[1:]:
            J = V @ patterns[rng.integers(16)] @ J
        found = max(found, np.linalg.norm(J, 2))
    assert found <= bound <= 0.6 * published


# -- pieces -----------------------------------------------------------------------------------


def test_schur_matrix_and_maps_against_their_definition():
    rng = np.random.default_rng(16)
    form = mixed_lmi(network((3, 4, 4, 2)), [(0.1, 1.0), Group(2)], identities="multipliers")
    operator = Operator(form)
    M = form.M.toarray()
    terms = [form.P @ np.diag(M[:, k]) @ form.Q.T for k in range(form.free.size)]
    terms = [A + A.T for A in terms]
    X, Z = (R @ R.T for R in rng.standard_normal((2, operator.d, operator.d)))
    both = [np.diag(form.E), *terms]
    expected = np.array([[np.trace(A @ X @ B @ Z) for B in both] for A in both])
    np.testing.assert_allclose(operator.schur(X, Z), expected, rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(
        operator.values(X), [np.vdot(A, X) for A in terms], rtol=1e-9, atol=1e-11
    )
    y = rng.standard_normal(form.free.size)
    total = sum(c * A for c, A in zip(y, terms, strict=True))
    np.testing.assert_allclose(operator.adjoint(y), total, atol=1e-12)
    np.testing.assert_allclose(inverse_from(cholesky(Z)) @ Z, np.eye(operator.d), atol=1e-7)


def test_steps_to_the_boundary_of_the_cone():
    rng = np.random.default_rng(17)
    R = rng.standard_normal((12, 12))
    M = R @ R.T + np.eye(12)
    parts = [S + S.T for S in rng.standard_normal((3, 12, 12))]
    counts = {}
    steps = ConeSteps(M, counts)
    for D in parts:
        steps.add(10.0 * D)
    for s, r in ((0.0, 0.0), (0.3, 0.0), (0.1, 1.0), (1.0, 0.5), (0.7, 0.2)):
        D = 10.0 * (parts[0] + s * parts[1] + r * parts[2])
        exact = -1.0 / scipy.linalg.eigh(D, M, eigvals_only=True)[0]
        assert exact < 1.0
        assert steps.bound(s, r) >= exact * (1.0 - 1e-9)
        assert 0.85 * 0.95 * exact <= steps.length(s, r, np.inf, 0.95) <= 0.95 * exact
        assert not steps.inside(s, r, 1.001 * exact)
    assert counts["factorisations"] < 50


def test_layered_start_is_eclipse_fast():
    W = network((3, 6, 5, 2), seed=18)
    form = chain_lmi(Chain(tuple(W), (np.zeros(6), np.zeros(5))))
    u = layered_multipliers(Operator(form))
    X, expected = np.eye(3), []
    for V in W[:2]:
        Y = V @ np.linalg.solve(X, V.T)
        size = 1.0 / np.linalg.eigvalsh(Y)[-1]
        expected += [size] * len(V)
        X = 2.0 * size * np.eye(len(V)) - size**2 * Y
    np.testing.assert_allclose(u, expected, rtol=1e-10)
    loop = implicit_lmi(np.full((2, 2), 0.1), np.ones((2, 1)), np.ones((1, 2)), None, 0.0, 1.0)
    assert layered_multipliers(Operator(loop)) is None


@pytest.mark.parametrize("kind", ["residual", "mixed", "linf"])
def test_layered_start_is_well_inside(kind):
    rng = np.random.default_rng(19)
    if kind == "residual":
        blocks = [(None, None, gaussian(rng, 6, 6, gain=2.0)) for _ in range(6)]
        form = residual_lmi(np.eye(6), blocks, [RELU, (-0.1, 1.0)] * 3, np.eye(6))
    else:
        W = network((3, *[6] * 6, 1), seed=19)
        norm = "linf" if kind == "linf" else "l2"
        form = mixed_lmi(W, [RELU, Group(3), (-1.0, 1.0)] * 2, norm=norm)
    operator = Operator(form)
    u = layered_multipliers(operator)
    assert np.all(u > 0.0)
    K = operator.adjoint(u) + np.diag(form.E)
    if form.norm == "linf":
        K = K[:-1, :-1]
    scale = 1.0 / np.sqrt(K.diagonal())
    assert np.linalg.eigvalsh(K * np.outer(scale, scale))[0] > 1e-4


def test_lower_bound_needs_every_condition():
    form = example()
    state = solve(form)
    operator, (X,) = Operator(form), state.dual
    rho = state.upper**2
    np.testing.assert_allclose(operator.dual_bound(X, rho), state.lower**2, rtol=1e-12)
    np.testing.assert_allclose(operator.dual_bound(5.0 * X, rho), state.lower**2, rtol=1e-12)
    outside = X.copy()
    outside[-1, -1] *= 1.1  # |h|² grows, its product with the input does not
    assert operator.dual_bound(outside, rho) == 0.0
    indefinite = X - 1.1 * np.linalg.eigvalsh(X)[0] * np.eye(len(X))
    assert operator.dual_bound(indefinite, rho) == 0.0
