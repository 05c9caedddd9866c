"""LipDiff: against LipSDP solved by a conic solver on the raw inequality, the product, theory."""

from __future__ import annotations

import itertools
import pickle

import cvxpy as cp
import numpy as np
import pytest

from lowrank_opt.core import Status
from lowrank_opt.core.errors import ParameterError, UnsupportedProblemError
from lowrank_opt.lipschitz import LipDiff, LipschitzProblem
from lowrank_opt.lipschitz.activations import Activation
from lowrank_opt.lipschitz.forms import Chain
from lowrank_opt.lipschitz.penalty import Penalty
from lowrank_opt.lipschitz.penalty_checks import penalty_bound
from lowrank_opt.lipschitz.proofs import BoundProof


def random_weights(dims, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal((n, m)) / np.sqrt(m) for m, n in itertools.pairwise(dims)]


def lip_sdp(weights, alpha=0.0):
    """Return the optimum of LipSDP-Neuron, from the inequality as it is written in the paper."""
    dims = [W.shape[1] for W in weights]
    N = sum(dims[1:])
    A = np.zeros((N, sum(dims)))
    row, col = 0, 0
    for W in weights[:-1]:
        A[row : row + W.shape[0], col : col + W.shape[1]] = W
        row, col = row + W.shape[0], col + W.shape[1]
    B = np.hstack([np.zeros((N, dims[0])), np.eye(N)])
    lam, rho = cp.Variable(N, nonneg=True), cp.Variable()
    T = cp.diag(lam)
    end = np.zeros((sum(dims), sum(dims)))
    end[-dims[-1] :, -dims[-1] :] = weights[-1].T @ weights[-1]
    E = np.diag(np.r_[np.ones(dims[0]), np.zeros(N)])
    M = (
        -2 * alpha * (A.T @ T @ A) + (1 + alpha) * (A.T @ T @ B + B.T @ T @ A) - 2 * (B.T @ T @ B)
    ) + (end - rho * E)
    cp.Problem(cp.Minimize(rho), [(M + M.T) / 2 << 0]).solve(solver=cp.CLARABEL)
    return float(np.sqrt(rho.value))


@pytest.mark.parametrize(
    ("dims", "alpha"),
    [((3, 8, 1), 0.0), ((4, 7, 6, 1), 0.0), ((3, 6, 5, 2), 0.0), ((4, 7, 5, 1), 0.25)],
)
def test_bound_is_just_above_the_semidefinite_optimum(dims, alpha):
    weights = random_weights(dims)
    kind = Activation("leaky_relu", parameter=alpha) if alpha else "relu"
    optimum = lip_sdp(weights, alpha)
    problem = LipschitzProblem(weights, activation=kind)
    product = np.prod([np.linalg.norm(W, 2) for W in weights])
    for start in ("product", "first_order"):
        result = LipDiff(start=start, n_epochs=600).solve(problem)
        assert result.status is Status.CONVERGED
        assert result.certified
        assert optimum * (1 - 1e-6) <= result.fun <= optimum * 1.01
        assert result.fun < product
        assert result.lower_bound <= result.fun
    published = LipDiff(start="product", repair=False, n_epochs=600).solve(problem)
    assert optimum * (1 - 1e-6) <= published.fun <= min(product, optimum * 1.1)


@pytest.mark.parametrize("kind", ["relu", "abs", "leaky_relu"])
def test_penalty_starts_at_the_product_of_norms(kind):
    problem = LipschitzProblem(random_weights((5, 9, 7, 6, 2)), activation=kind)
    chain = problem.part(0).form
    penalty = Penalty(chain)
    lam, kappa = penalty.product_start()
    product = np.prod([np.linalg.norm(W, 2) for W in chain.weights])
    np.testing.assert_allclose(0.5 * kappa[0], product, rtol=1e-12)
    whole = np.concatenate([kappa, np.zeros(chain.n_hidden)])
    top = np.linalg.eigvalsh(penalty.matrix(lam, whole))[-1]
    assert top <= 1e-12
    bound = penalty_bound(chain, (*lam, whole))
    np.testing.assert_allclose(bound, product, rtol=1e-9)
    assert bound >= product * (1 - 1e-14)


def test_no_steps_give_the_product_at_worst():
    problem = LipschitzProblem(random_weights((4, 8, 8, 1)))
    result = LipDiff(n_epochs=0, start="product", repair=False).solve(problem)
    product = problem.part(0).product
    assert result.fun <= product
    np.testing.assert_allclose(result.fun, product, rtol=1e-12)
    assert LipDiff(n_epochs=0, start="product").solve(problem).fun < result.fun


def test_penalty_is_a_bound_at_every_point():
    # Any λ, κ >= 0: half of κ_0 + (2 + Σ m) max(0, λ_max) is above the largest pattern.
    weights = random_weights((3, 5, 4, 1))
    largest = max(
        np.linalg.norm(weights[2] @ np.diag(q) @ weights[1] @ np.diag(p) @ weights[0])
        for p in itertools.product([0, 1], repeat=5)
        for q in itertools.product([0, 1], repeat=4)
    )
    problem = LipschitzProblem(weights)
    chain, scale = problem.part(0).form, problem.part(0).form.scale
    rng = np.random.default_rng(0)
    values = []
    for _ in range(200):
        size = 10.0 ** rng.uniform(-2, 1)
        lam = [size * rng.exponential(size=len(a)) for a in chain.alpha]
        kappa = size * rng.exponential(size=2 + chain.n_hidden) * np.r_[5, 1, np.full(9, 0.1)]
        values.append(penalty_bound(chain, (*lam, kappa)) * scale)
    assert min(values) >= largest * (1 - 1e-12)
    assert np.all(np.isfinite(values))


def test_check_agrees_with_the_formula_and_refuses_nonsense():
    chain = LipschitzProblem(random_weights((3, 5, 4, 2))).part(0).form
    penalty = Penalty(chain)
    rng = np.random.default_rng(1)
    lam = [rng.random(len(a)) for a in chain.alpha]
    kappa = np.r_[1.0, 0.5, rng.random(9) * 0.1]
    C = penalty.matrix(lam, kappa)
    expected = 0.5 * (1.0 + penalty.total * max(0.0, np.linalg.eigvalsh(C)[-1]))
    np.testing.assert_allclose(penalty_bound(chain, (*lam, kappa)), expected, rtol=1e-9)
    assert penalty_bound(chain, (*lam, kappa)) >= expected
    assert penalty_bound(chain, tuple(lam)) == np.inf
    assert penalty_bound(chain, (lam[0], lam[1][:2], kappa)) == np.inf
    assert penalty_bound(chain, (lam[0] * np.nan, lam[1], kappa)) == np.inf
    v = rng.standard_normal(penalty.order)
    np.testing.assert_allclose(penalty.times(lam, kappa, v), C @ v, atol=1e-12)
    np.testing.assert_allclose(v @ C @ v, _quadratic(chain, penalty.m, lam, kappa, v), rtol=1e-12)


def _quadratic(chain, m, lam, kappa, v):
    """Return the quadratic form as its definition writes it."""
    sizes = [W.shape[1] for W in chain.weights] + [len(chain.weights[-1])]
    *h, u = np.split(v, np.cumsum(sizes)[:-1])
    total = 2 * u @ chain.weights[-1] @ h[-1] - kappa[0] * u @ u + kappa[1] * (u @ u - h[0] @ h[0])
    at = 2
    for W, a, s, b, x, y in zip(
        chain.weights[:-1], chain.alpha, lam, m, h[:-1], h[1:], strict=True
    ):
        z, own = W @ x, kappa[at : at + len(W)]
        total += 2 * s @ ((y - a * z) * (z - y)) + own @ (b * (u @ u) - y * y)
        at += len(W)
    return total


def test_gradient_and_lanczos(monkeypatch):
    from lowrank_opt.lipschitz import penalty as module

    chain = LipschitzProblem(random_weights((4, 9, 7, 1))).part(0).form
    penalty = Penalty(chain)
    rng = np.random.default_rng(1)
    lam = [rng.random(len(a)) for a in chain.alpha]
    kappa = np.r_[0.2, 0.5, rng.random(16) * 0.1]
    start = rng.standard_normal(penalty.order)
    top, v = penalty.top(lam, kappa, start, 5)
    np.testing.assert_allclose(top, np.linalg.eigvalsh(penalty.matrix(lam, kappa))[-1], rtol=1e-12)
    g_lam, g_kappa = penalty.gradient(v)
    h = 1e-6
    for k in range(len(kappa)):
        d = np.zeros(len(kappa))
        d[k] = h
        up, down = (penalty.top(lam, kappa + s * d, start, 5)[0] for s in (1, -1))
        np.testing.assert_allclose((up - down) / (2 * h), g_kappa[k], atol=1e-8)
    for i in range(2):
        for j in range(len(lam[i])):
            sides = []
            for s in (h, -h):
                moved = [a.copy() for a in lam]
                moved[i][j] += s
                sides.append(penalty.top(moved, kappa, start, 5)[0])
            np.testing.assert_allclose((sides[0] - sides[1]) / (2 * h), g_lam[i][j], atol=1e-8)
    monkeypatch.setattr(module, "DENSE", 0)
    np.testing.assert_allclose(penalty.top(lam, kappa, start, penalty.order)[0], top, rtol=1e-12)
    assert penalty.top(lam, kappa, start, 6)[0] <= top + 1e-12


def test_multipliers_of_the_semidefinite_program_are_a_start():
    from lowrank_opt.lipschitz import LipSDP

    problem = LipschitzProblem(random_weights((4, 9, 7, 2)))
    sdp = LipSDP().solve(problem)
    result = LipDiff(n_epochs=0, start="product").solve(problem, x0=sdp.x)
    np.testing.assert_allclose(result.fun, sdp.fun, rtol=1e-5)
    assert result.method == "LipDiff"


def test_larger_networks_use_lanczos():
    problem = LipschitzProblem(random_weights((60, 80, 70, 1)))
    solver = LipDiff(n_epochs=150, start="product")
    result = solver.solve(problem)
    assert result.fun < 0.75 * problem.part(0).product
    assert result.counts["eigenvectors"] == 150
    from lowrank_opt.lipschitz import LipSDP

    assert result.fun >= LipSDP().solve(problem).fun * (1 - 1e-6)


@pytest.mark.parametrize("cut", [1, 37, 149])
def test_resume_is_bit_identical(cut):
    problem = LipschitzProblem(random_weights((4, 8, 6, 1)))
    options = {"n_epochs": 150, "check_every": 1}
    whole = LipDiff(**options).solve(problem)
    part = LipDiff(**options, max_iter=cut).solve(problem)
    assert part.status is Status.ITERATION_LIMIT
    assert part.fun >= whole.fun
    rest = LipDiff(**options).solve(problem, state=pickle.loads(pickle.dumps(part.state)))
    assert rest.fun == whole.fun
    for a, b in zip(rest.x.multipliers, whole.x.multipliers, strict=True):
        np.testing.assert_array_equal(a, b)


def test_warm_start_from_the_answer_takes_no_steps():
    problem = LipschitzProblem(random_weights((4, 8, 6, 1)))
    result = LipDiff(n_epochs=200).solve(problem)
    again = LipDiff(n_epochs=200).solve(problem, x0=result.x)
    assert again.nit == 0
    assert again.fun <= result.fun
    other = LipDiff(n_epochs=5).solve(problem, x0=BoundProof("product"))
    assert other.fun <= problem.part(0).product


def test_single_layers_and_zero_networks():
    W = random_weights((5, 3))[0]
    result = LipDiff().solve(LipschitzProblem([W]))
    np.testing.assert_allclose(result.fun, np.linalg.norm(W, 2), rtol=1e-12)
    zero = LipDiff().solve(LipschitzProblem([W, np.zeros((2, 3))]))
    assert zero.fun == 0.0
    assert zero.nit == 0


def test_what_it_cannot_solve_is_refused_with_a_cure():
    weights = random_weights((4, 6, 2))
    with pytest.raises(UnsupportedProblemError, match="norm='l2'"):
        LipDiff().solve(LipschitzProblem(weights, "linf"))
    with pytest.raises(UnsupportedProblemError, match="element-wise"):
        LipDiff().solve(LipschitzProblem(weights, activation=Activation("maxmin")))
    with pytest.raises(ParameterError, match="step_size"):
        LipDiff(step_size=0.0).solve(LipschitzProblem(weights))


def test_large_networks_are_refused_with_numbers(monkeypatch):
    from lowrank_opt.lipschitz import lip_diff

    monkeypatch.setattr(lip_diff, "LARGEST", 10)
    with pytest.raises(ParameterError, match=r"order 12 .* ECLipsE"):
        LipDiff().solve(LipschitzProblem(random_weights((4, 6, 2))))


def test_hard_input_ends_with_a_bound():
    rng = np.random.default_rng(0)
    weights = random_weights((4, *(12,) * 14, 1))
    weights[3] = weights[3] * 1e-9
    weights[5] = np.outer(rng.standard_normal(12), rng.standard_normal(12)) * 1e6
    result = LipDiff(n_epochs=60).solve(LipschitzProblem(weights))
    assert result.certified
    assert 0 < result.lower_bound <= result.fun <= LipschitzProblem(weights).part(0).product


def test_chain_without_hidden_layers_is_the_norm():
    W = random_weights((3, 4))[0]
    bound = penalty_bound(Chain((W,), ()), ())
    np.testing.assert_allclose(bound, np.linalg.norm(W, 2), rtol=1e-12)
