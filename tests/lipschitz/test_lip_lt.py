"""LipLT and the product of norms: sums over cuts, slopes, rounding, norms of every kind."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest

from lowrank_opt.core import UnsupportedProblemError
from lowrank_opt.lipschitz import (
    Affine,
    FeedForward,
    Implicit,
    LipLT,
    LipschitzProblem,
    LipSDP,
    NormProduct,
    Residual,
    ResidualBlock,
)
from lowrank_opt.lipschitz.forms import Chain
from lowrank_opt.lipschitz.norm_checks import lip_lt_bound


def gaussian(*widths, seed=0):
    g = np.random.default_rng(seed)
    return [g.standard_normal((n, m)) / np.sqrt(m) for m, n in itertools.pairwise(widths)]


def spectral(W):
    return np.linalg.svd(W, compute_uv=False)[0]


def average_over_cuts(weights):
    """The mean over all subsets of hidden layers of the product of norms between them."""
    hidden = range(1, len(weights))
    total, count = 0.0, 0
    for size in range(len(weights)):
        for cuts in itertools.combinations(hidden, size):
            ends = [0, *cuts, len(weights)]
            term = 1.0
            for a, b in itertools.pairwise(ends):
                P = weights[a]
                for W in weights[a + 1 : b]:
                    P = W @ P
                term *= spectral(P)
            total += term
            count += 1
    return total / count


def published_recursion(weights, alpha, beta):
    c, eta = 0.5 * (alpha + beta), 0.5 * (beta - alpha)
    m = [spectral(weights[0])]
    for k in range(1, len(weights)):
        P = weights[k]
        value, power = 0.0, 1.0
        for j in range(k, 0, -1):  # P = W_{k+1} … W_{j+1}
            value += eta * power * spectral(P) * m[j - 1]
            P, power = P @ weights[j - 1], power * c
        m.append(value + power * spectral(P))
    return m[-1]


@pytest.mark.parametrize("widths", [(4, 8, 3), (5, 6, 7, 2), (3, 8, 4, 6, 5, 1)])
def test_equals_the_average_over_all_cuts(widths):
    weights = gaussian(*widths)
    result = LipLT().solve(LipschitzProblem(weights))
    expected = average_over_cuts(weights)
    assert result.success
    assert result.certified
    assert result.fun == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("alpha", [0.0, 0.25, -0.4])
def test_equals_the_published_recursion(alpha):
    weights = gaussian(4, 7, 9, 5, 3)
    form = Chain(tuple(weights), tuple(np.full(len(W), alpha) for W in weights[:-1]))
    assert lip_lt_bound(form) == pytest.approx(published_recursion(weights, alpha, 1.0), rel=1e-11)


def test_bound_holds_for_every_pattern_of_slopes_of_each_neuron():
    g = np.random.default_rng(4)
    weights = gaussian(3, 5, 4, 2)
    alpha = (g.uniform(-1, 0.9, 5), g.uniform(-1, 0.9, 4))
    bound = lip_lt_bound(Chain(tuple(weights), alpha))
    largest = 0.0
    for d in itertools.product(*[(a, 1.0) for a in np.concatenate(alpha)]):
        D = np.array(d)
        J = weights[2] @ (D[5:, None] * weights[1]) @ (D[:5, None] * weights[0])
        largest = max(largest, spectral(J))
    assert largest <= bound
    # One slope range for all neurons is looser.
    worst = np.concatenate(alpha).min()
    assert bound <= published_recursion(weights, worst, 1.0) * (1 + 1e-12)


def test_rounding_is_counted():
    """One neuron in each layer: the bound is the product of the weights, which fractions know."""
    g = np.random.default_rng(0)
    numbers = g.uniform(0.5, 1.5, 30)
    weights = tuple(np.array([[w]]) for w in numbers)
    bound = lip_lt_bound(Chain(weights, (np.zeros(1),) * 29))
    exact = math.prod(Fraction(float(w)) for w in numbers)
    assert exact <= Fraction(bound) <= exact * (1 + Fraction(1, 10**11))


@pytest.mark.parametrize("widths", [(4, 9, 1), (4, 8, 6, 3)])
def test_between_semidefinite_bound_and_product(widths):
    problem = LipschitzProblem(gaussian(*widths))
    low, middle, high = (s.solve(problem).fun for s in (LipSDP(), LipLT(), NormProduct()))
    assert low <= middle * (1 + 1e-6)
    assert middle <= high


def test_warm_start_has_nothing_to_do():
    problem = LipschitzProblem(gaussian(4, 8, 6, 3))
    for solver in (LipLT(), NormProduct()):
        result = solver.solve(problem)
        again = solver.solve(problem, x0=result.x)
        assert (again.success, again.nit, again.fun) == (True, 0, result.fun)


def test_time_limit_leaves_the_product():
    problem = LipschitzProblem(gaussian(4, 8, 6, 3))
    result = LipLT(max_time=0.0).solve(problem)
    assert not result.success
    assert result.fun == pytest.approx(NormProduct().solve(problem).fun, rel=1e-12)


def test_refusals():
    with pytest.raises(UnsupportedProblemError, match="element-wise"):
        LipLT().solve(LipschitzProblem(gaussian(4, 6, 2), activation="maxmin"))
    with pytest.raises(UnsupportedProblemError, match="l2"):
        LipLT().solve(LipschitzProblem(gaussian(4, 6, 2), "l1"))


@pytest.mark.parametrize("activation", ["relu", "maxmin", "tanh"])
@pytest.mark.parametrize(("norm", "order"), [("l2", 2), ("linf", np.inf), ("l1", 1)])
def test_product_of_norms(norm, order, activation):
    weights = gaussian(4, 8, 6, 3)
    result = NormProduct().solve(LipschitzProblem(weights, norm, activation=activation))
    expected = math.prod(np.linalg.norm(W, order) for W in weights)
    assert result.success
    assert result.fun >= expected * (1 - 1e-13)
    assert result.fun == pytest.approx(expected, rel=1e-9)


def test_product_of_a_single_row_in_the_largest_entry():
    weights = gaussian(4, 8, 3)
    problem = LipschitzProblem(weights, "linf", output=(0, 2), activation="maxmin")
    row = weights[1][0] - weights[1][2]
    expected = np.abs(row).sum() * np.abs(weights[0]).sum(axis=1).max()
    assert NormProduct().solve(problem).fun == pytest.approx(expected, rel=1e-12)


def test_product_of_residual_and_implicit_networks():
    g = np.random.default_rng(0)
    first, last, W = (g.standard_normal(s) for s in ((5, 3), (2, 5), (5, 5)))
    network = Residual((ResidualBlock(W),), Affine(first), Affine(last))
    expected = spectral(first) * (1 + spectral(W)) * spectral(last)
    assert NormProduct().solve(LipschitzProblem(network)).fun == pytest.approx(expected, rel=1e-9)
    W = 0.5 * W / spectral(W)
    U, C = first, last
    expected = spectral(C) * spectral(U) / (1 - 0.5)
    result = NormProduct().solve(LipschitzProblem(Implicit(W, U, C)))
    assert result.fun == pytest.approx(expected, rel=1e-9)


def test_one_layer():
    W = gaussian(6, 4)[0]
    for solver in (LipLT(), NormProduct()):
        result = solver.solve(LipschitzProblem(FeedForward((Affine(W),))))
        assert result.fun == pytest.approx(spectral(W), rel=1e-10)
