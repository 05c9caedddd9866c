"""ECLipsE: closed forms, programs of the stages, order of the bounds, depth."""

from __future__ import annotations

import copy
import itertools
import pickle

import cvxpy as cp
import numpy as np
import pytest

from lowrank_opt.core import ParameterError, UnsupportedProblemError
from lowrank_opt.lipschitz import ECLipsE, LipschitzProblem, LipSDP, NormProduct, eclipse_stages
from lowrank_opt.lipschitz import chain_interior_point as interior_point
from lowrank_opt.lipschitz.certificates import chain_upper
from lowrank_opt.lipschitz.forms import Chain
from lowrank_opt.lipschitz.reference_chain import best_constant


def gaussian(*widths, seed=0):
    g = np.random.default_rng(seed)
    return [g.standard_normal((n, m)) / np.sqrt(m) for m, n in itertools.pairwise(widths)]


def chain(*widths, alpha=0.0, seed=0):
    weights = [W / np.linalg.norm(W, 2) for W in gaussian(*widths, seed=seed)]
    return Chain(tuple(weights), tuple(np.full(n, alpha) for n in widths[1:-1]))


def published_network(depth, width):
    """A network of the published random grid."""
    np.random.seed(7 * width + 13 * depth)  # noqa: NPY002
    weights = []
    for n_in, n_out in itertools.pairwise([4, *[width] * (depth - 1), 1]):
        t = np.random.uniform(0.4, 1.8)  # noqa: NPY002
        W = np.random.randn(n_out, n_in)  # noqa: NPY002
        weights.append(W * (t / np.linalg.norm(W, 2)))
    return weights


def finished(form, mode, tol=1e-7):
    state = eclipse_stages.start(form, tol=tol, mode=mode)
    while not state.done:
        eclipse_stages.advance(form, state)
    return state


def published_closed_form(weights, alpha=0.0):
    """The paper's recursion, which drops the term with the product of slopes."""
    m = 0.5 * (1 + alpha)
    X = np.eye(weights[0].shape[1])
    for W in weights[:-1]:
        Y = W @ np.linalg.inv(X) @ W.T
        ell = 1 / (2 * m * m * np.linalg.eigvalsh(Y)[-1])
        X = ell * np.eye(len(W)) - ell**2 * m * m * Y
    last = weights[-1]
    return np.sqrt(np.linalg.eigvalsh(last @ np.linalg.inv(X) @ last.T)[-1])


@pytest.mark.parametrize("widths", [(4, 8, 6, 3), (4, 10, 10, 10, 1), (3, 5, 7)])
def test_fast_is_the_published_closed_form(widths):
    weights = gaussian(*widths)
    result = ECLipsE(mode="fast").solve(LipschitzProblem(weights))
    assert result.success
    assert result.certified
    assert result.fun == pytest.approx(published_closed_form(weights), rel=1e-9)


@pytest.mark.parametrize("alpha", [0.1, 0.5])
def test_keeping_the_term_of_both_slopes_is_tighter_in_the_first_stage(alpha):
    weights = gaussian(4, 8, 3)
    form = chain(4, 8, 3, alpha=alpha)
    scale = np.prod([np.linalg.norm(W, 2) for W in weights])
    ours = finished(form, "sdp").upper * scale
    assert ours <= published_closed_form(weights, alpha) * (1 + 1e-9)


@pytest.mark.parametrize(
    "weights",
    [gaussian(4, 12, 1), gaussian(4, 8, 6, 3), gaussian(6, 5, 9, 4), published_network(5, 20)],
    ids=["2 layers", "3 layers", "narrow", "published grid"],
)
def test_order_of_the_bounds(weights):
    problem = LipschitzProblem(weights)
    exact = LipSDP().solve(problem)
    fast, sdp, best = (ECLipsE(mode=m).solve(problem) for m in ("fast", "sdp", "best"))
    product = NormProduct().solve(problem).fun
    low = exact.relaxation_bound
    assert low * (1 - 1e-12) <= best.fun <= sdp.fun * (1 + 1e-12)
    assert sdp.fun <= fast.fun * (1 + 1e-12)
    assert fast.fun <= product * (1 + 1e-12)
    for result in (fast, sdp, best):
        assert result.success
        assert result.gap is None  # nothing is said about the best multipliers
        assert result.lower_bound <= result.fun


@pytest.mark.parametrize("alpha", [0.0, 0.3, -0.2, -1.0])
@pytest.mark.parametrize("widths", [(4, 9, 1), (3, 7, 5)])
def test_two_layers_are_solved_exactly(widths, alpha, raw):
    form = chain(*widths, alpha=alpha)
    state = finished(form, "sdp")
    expected = raw.lip_sdp(list(form.weights), alpha=alpha)
    assert state.upper == pytest.approx(expected, rel=1e-6)
    assert best_constant(form, np.concatenate(state.multipliers)) == pytest.approx(
        state.upper, rel=1e-9
    )


def test_stage_is_the_published_program():
    """max s: [[Λ - s W₂ᵀW₂, Λ K^½], [K^½ Λ, I]] ⪰ 0 with K = Y / 4, first of three layers."""
    form = chain(4, 7, 6, 2)
    W, W_next = form.weights[0], form.weights[1]
    values, vectors = np.linalg.eigh(W @ W.T / 4)
    root = vectors * np.sqrt(np.maximum(values, 0)) @ vectors.T
    ell, s = cp.Variable(7, nonneg=True), cp.Variable()
    D = cp.diag(ell)
    block = cp.bmat([[D - s * (W_next.T @ W_next), D @ root], [root @ D, np.eye(7)]])
    cp.Problem(cp.Maximize(s), [0.5 * (block + block.T) >> 0]).solve(solver="CLARABEL")
    state = eclipse_stages.start(form, tol=1e-8, mode="sdp")
    while state.current == 0:
        eclipse_stages.advance(form, state)
    eclipse_stages.advance(form, state)
    lam = np.exp(state.found[0])
    X = 2 * np.diag(lam) - np.outer(lam, lam) * (W @ W.T)
    ours = 1 / np.linalg.eigvalsh(W_next @ np.linalg.inv(X) @ W_next.T)[-1]
    assert ours == pytest.approx(s.value, rel=1e-5)


@pytest.mark.parametrize("mode", ["fast", "sdp", "best"])
@pytest.mark.parametrize("alpha", [-1.0, -0.3, 0.0, 0.6])
def test_bounds_hold_for_every_pattern_of_extreme_slopes(mode, alpha):
    form = chain(3, 5, 4, 2, alpha=alpha)
    upper = finished(form, mode).upper
    W = form.weights
    largest = 0.0
    for d in itertools.product((alpha, 1.0), repeat=9):
        D = np.array(d)
        J = W[2] @ (D[5:, None] * W[1]) @ (D[:5, None] * W[0])
        largest = max(largest, np.linalg.norm(J, 2))
    assert largest <= upper * (1 + 1e-12)


def test_multipliers_prove_the_bound():
    form = chain(5, 12, 9, 11, 3)
    for mode in ("fast", "sdp", "best"):
        state = finished(form, mode)
        assert chain_upper(form, state.multipliers) == pytest.approx(state.upper, rel=1e-8)


def test_a_program_that_fails_costs_its_own_layer_only(monkeypatch):
    form = chain(4, 8, 8, 8, 1)
    plain = finished(form, "sdp")
    start, calls = interior_point.start, []

    def failing(small, **options):
        state = start(small, **options)
        calls.append(small)
        if len(calls) == 2:
            state.done, state.upper, state.multipliers = "failed", np.inf, ()
        return state

    monkeypatch.setattr(interior_point, "start", failing)
    state = finished(form, "sdp")
    assert len(calls) == 3
    assert "hidden layers 2," in state.message
    assert plain.upper < state.upper <= finished(form, "fast").upper
    assert chain_upper(form, state.multipliers) == pytest.approx(state.upper, rel=1e-8)


@pytest.mark.parametrize("number", [0.9, 0.75])
def test_a_thousand_layers_of_one_neuron_have_their_product(number):
    """One neuron in each layer: the closed form is exact, here down to 1e-125."""
    form = Chain((np.array([[number]]),) * 1000, (np.zeros(1),) * 999)
    state = finished(form, "fast")
    assert state.done == "converged"
    assert state.upper == pytest.approx(number**1000, rel=1e-9)


def test_deep_random_network():
    """200 layers: the bound is 6e-20, and the formula without care for scales still works."""
    form = chain(10, *[10] * 199, 10)
    state = finished(form, "fast")
    assert 0 < state.upper < 1e-18
    assert state.upper == pytest.approx(published_closed_form(form.weights), rel=1e-8)
    assert chain_upper(form, state.multipliers) == pytest.approx(state.upper, rel=1e-8)


def test_state_can_be_copied_at_every_layer():
    form = chain(4, 8, 6, 3)
    whole = finished(form, "best")
    state = eclipse_stages.start(form, tol=1e-7, mode="best")
    while not state.done:
        other = pickle.loads(pickle.dumps(copy.deepcopy(state)))
        eclipse_stages.advance(form, state)
        eclipse_stages.advance(form, other)
        assert other.upper == state.upper
        assert other.layer == state.layer
    assert state.upper == whole.upper


def test_large_matrices_have_the_eigenvalue_of_lapack():
    g = np.random.default_rng(0)
    W = g.standard_normal((300, 300))
    found = eclipse_stages.top_eigenvalue(W @ W.T)
    assert found == pytest.approx(np.linalg.eigvalsh(W @ W.T)[-1], rel=1e-9)


def test_refusals():
    groups = LipschitzProblem(gaussian(4, 6, 2), activation="maxmin")
    with pytest.raises(UnsupportedProblemError, match="element-wise"):
        ECLipsE().solve(groups)
    with pytest.raises(UnsupportedProblemError, match="l2"):
        ECLipsE().solve(LipschitzProblem(gaussian(4, 6, 2), "linf"))
    with pytest.raises(ParameterError, match="mode"):
        ECLipsE(mode="accurate").solve(LipschitzProblem(gaussian(4, 6, 2)))


@pytest.mark.slow
def test_work_is_that_of_three_matrix_operations_for_each_layer():
    """The closed form against one factorisation, one triangular solve, one product per layer."""
    import time

    import scipy.linalg as la

    g = np.random.default_rng(0)
    width = 500
    weights = tuple(g.standard_normal((width, width)) / (2 * np.sqrt(width)) for _ in range(12))
    form = Chain(weights, (np.zeros(width),) * 11)

    def plain():
        X = np.eye(width)
        for W in weights[:-1]:
            T = la.solve_triangular(la.cholesky(X, lower=True), W.T, lower=True)
            X = 2 * np.eye(width) - T.T @ T / la.norm(T, 2) ** 2

    def best(call):
        times = []
        for _ in range(3):
            t = time.process_time()
            call()
            times.append(time.process_time() - t)
        return min(times)

    assert best(lambda: finished(form, "fast")) <= best(plain)
