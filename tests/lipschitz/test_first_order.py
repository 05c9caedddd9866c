"""First-order descent over multipliers: gradients, bounds, quality, start of interior points."""

from __future__ import annotations

import copy
import itertools
import pickle

import numpy as np
import pytest

from lowrank_opt.core import ParameterError
from lowrank_opt.lipschitz import first_order
from lowrank_opt.lipschitz.certificates import chain_upper
from lowrank_opt.lipschitz.forms import Chain
from lowrank_opt.lipschitz.limited_memory import direction, line_search, remember
from lowrank_opt.lipschitz.reference_chain import best_constant
from lowrank_opt.lipschitz.slope_recursion import SlopeRecursion

# Bounds of the Gaussian networks 4-w-…-w-1, depth and width: lower and upper, both proved.
REFERENCES = {
    (2, 10): (1.12016614, 1.12016622),
    (5, 40): (4.47370878, 4.47370929),
    (10, 40): (16.3751645, 16.3751675),
    (20, 20): (97.7379776, 97.7379867),
    (30, 20): (886.26822, 886.268246),
}


def chain(*widths, alpha=0.0, seed=0):
    """Gaussian weights of norm one; `alpha` is a number or an interval to draw from."""
    g = np.random.default_rng(seed)
    weights = [g.standard_normal((n, m)) / np.sqrt(m) for m, n in itertools.pairwise(widths)]
    norms = [np.linalg.norm(W, 2) for W in weights]
    low = [
        g.uniform(*alpha, n) if isinstance(alpha, tuple) else np.full(n, alpha)
        for n in widths[1:-1]
    ]
    scaled = tuple(W / s for W, s in zip(weights, norms, strict=True))
    return Chain(scaled, tuple(low), float(np.prod(norms)))


def deep(depth, width):
    return chain(4, *[width] * (depth - 1), 1)


def descend(form, limit=2000, **options):
    state = first_order.start(form, **options)
    while not state.done and state.nit < limit:
        first_order.advance(form, state)
    return state


SLOPES = [0.0, 0.2, -1.0, (-1.0, 0.99)]


@pytest.mark.parametrize("alpha", SLOPES)
@pytest.mark.parametrize("widths", [(4, 7, 6, 5, 3), (4, 5, 5, 1), (3, 12, 4, 9)])
def test_gradient_is_that_of_finite_differences(widths, alpha):
    recursion = SlopeRecursion(chain(*widths, alpha=alpha))
    x = np.random.default_rng(3).standard_normal(recursion.size)
    for k in (1, 4):
        found = recursion.evaluate(x, k)
        h = 1e-5
        expected = [
            (recursion.evaluate(x + h * e, k).value - recursion.evaluate(x - h * e, k).value)
            / (2 * h)
            for e in np.eye(recursion.size)
        ]
        np.testing.assert_allclose(found.gradient, expected, rtol=0, atol=1e-8)


@pytest.mark.parametrize("alpha", SLOPES)
@pytest.mark.parametrize("size", [0.5, 1.5])
def test_every_point_is_feasible_and_its_bound_that_of_the_whole_matrix(alpha, size):
    form = chain(4, 7, 6, 5, 3, alpha=alpha)
    recursion = SlopeRecursion(form)
    g = np.random.default_rng(1)
    for _ in range(10):
        found = recursion.evaluate(size * g.standard_normal(recursion.size), 3)
        lam = np.exp(np.concatenate(found.log_multipliers))
        # The dense eigenvalue problem is accurate to about 1e-16 times the spread of multipliers.
        spread = 1e-13 * lam.max() / lam.min()
        assert best_constant(form, lam) == pytest.approx(
            np.exp(found.log_bound), rel=max(1e-10, spread)
        )
        assert 2 * found.log_bound <= found.value + 1e-12


def test_zero_with_the_spectral_norm_is_the_closed_form():
    form = chain(4, 8, 6, 3)
    recursion = SlopeRecursion(form)
    found = recursion.evaluate(np.zeros(recursion.size), 14)  # Schatten norm of order 16385
    X = np.eye(4)
    for W in form.weights[:-1]:  # the formula of the paper
        Y = W @ np.linalg.inv(X) @ W.T
        ell = 2 / np.linalg.eigvalsh(Y)[-1]
        X = ell * np.eye(len(W)) - ell**2 / 4 * Y
    last = form.weights[-1]
    expected = np.sqrt(np.linalg.eigvalsh(last @ np.linalg.inv(X) @ last.T)[-1])
    assert np.exp(found.log_bound) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("alpha", SLOPES)
def test_point_of_given_multipliers(alpha):
    form = chain(4, 8, 6, 3, alpha=alpha)
    recursion = SlopeRecursion(form)
    x = np.random.default_rng(2).standard_normal(recursion.size)
    found = recursion.evaluate(x, 3)
    multipliers = [np.exp(v) for v in found.log_multipliers]
    again = recursion.evaluate(recursion.locate(multipliers, 6), 6)
    assert again.log_bound == pytest.approx(found.log_bound, rel=1e-12)
    np.testing.assert_allclose(
        np.concatenate(again.log_multipliers), np.concatenate(found.log_multipliers), rtol=1e-10
    )


# (bound / optimum - 1) of p-continuation; the published table has 8.5e-7, 2.7e-4, 9.1e-4, 3.3e-2
# (deeper nets are not in it).
@pytest.mark.parametrize(
    ("cell", "quality"), [((2, 10), 5e-6), ((5, 40), 5e-4), ((10, 40), 2e-3), ((20, 20), 1e-2)]
)
def test_quality(cell, quality):
    form = deep(*cell)
    state = descend(form, 350, tol=1e-6)
    low, high = REFERENCES[cell]
    assert state.upper * form.scale >= low * (1 - 1e-9)
    assert state.upper * form.scale <= high * (1 + quality)


def test_the_two_neuron_network_has_its_constant():
    """f(x) = relu(x) - relu(x - 1): 1, where coupled multipliers would give 0."""
    r = np.sqrt(0.5)
    form = Chain((np.array([[r], [r]]), np.array([[r, -r]])), (np.zeros(2),), 2.0)
    state = descend(form, tol=1e-9)
    assert state.done == "converged"
    assert state.upper * form.scale == pytest.approx(1.0, rel=1e-6)
    assert state.upper * form.scale >= 1.0 - 1e-12


@pytest.mark.parametrize("alpha", [0.0, (-1.0, 0.9)])
def test_bounds_fall_and_multipliers_prove_them(alpha):
    form = chain(3, 6, 5, 2, alpha=alpha)
    state = first_order.start(form, tol=1e-6)
    before = np.inf
    while not state.done:
        assert state.upper <= before
        assert best_constant(form, np.concatenate(state.multipliers)) == pytest.approx(
            state.upper, rel=1e-9
        )
        before = state.upper
        first_order.advance(form, state)
    slopes = itertools.product(*[(a, 1.0) for a in np.concatenate(form.alpha)])
    for d in slopes:  # every pattern of extreme slopes
        D = np.split(np.array(d), [6])
        W = form.weights
        J = W[2] @ (D[1][:, None] * W[1]) @ (D[0][:, None] * W[0])
        assert np.linalg.norm(J, 2) <= state.upper * (1 + 1e-12)


def test_one_layer_is_its_norm():
    W = np.random.default_rng(0).standard_normal((3, 5))
    state = first_order.start(Chain((W,), ()), tol=1e-6)
    assert state.done == "converged"
    assert state.upper == pytest.approx(np.linalg.svd(W)[1][0], rel=1e-14)
    assert first_order.chain_start(Chain((W,), ())) == ()


def test_start_from_the_answer_is_done():
    form = deep(5, 20)
    state = descend(form, tol=1e-5)
    assert state.done == "converged"
    again = first_order.start(form, tol=1e-5, multipliers=state.multipliers)
    assert (again.done, again.nit) == ("converged", 0)
    assert again.upper <= state.upper * (1 + 1e-12)


def test_resume_is_bit_identical():
    form = deep(5, 12)
    state = first_order.start(form, tol=1e-6)
    for _ in range(40):
        first_order.advance(form, state)
    for other in (pickle.loads(pickle.dumps(state)), copy.deepcopy(state)):
        assert other.cache is None
        one = copy.deepcopy(state)
        for _ in range(40):
            first_order.advance(form, one)
            first_order.advance(form, other)
        assert np.array_equal(one.x, other.x)
        assert one.upper == other.upper


@pytest.mark.parametrize("cell", [(5, 40), (20, 20), (30, 20)])
def test_start_of_interior_points(cell):
    form = deep(*cell)
    low, high = REFERENCES[cell]
    values = []
    for quality in ("low", "medium"):
        lam = first_order.chain_start(form, quality=quality)
        assert min(v.min() for v in lam) > 0
        values.append(chain_upper(form, lam) * form.scale)
    assert values[0] >= low
    assert values[1] >= low
    # Published with fixed norms of order 8: 2.5e-2, and 1.1e-1 for the deepest.
    assert values[0] <= high * {5: 1.08, 20: 1.2, 30: 1.35}[cell[0]]
    # Strictly inside: a larger multiple of all multipliers is still feasible.
    assert np.isfinite(chain_upper(form, [1.005 * v for v in lam]))


def test_unknown_effort_is_refused():
    with pytest.raises(ParameterError, match="quality='best'"):
        first_order.chain_start(deep(2, 4), quality="best")


def test_depth_neither_overflows_nor_underflows():
    """Diagonal layers: the network is a product of numbers, and so is the bound."""
    w = np.full(300, 0.5)
    weights = tuple(np.array([[v]]) for v in w)
    form = Chain(weights, (np.zeros(1),) * 299)
    state = first_order.start(form, tol=1e-6)
    assert state.upper == pytest.approx(0.5**300, rel=1e-6)


@pytest.mark.parametrize("factor", [1e-3, 1.0, 1e3])
def test_lbfgs_minimises_the_banana(factor):
    """The valley of Rosenbrock, whose minimum is at (1, 1)."""

    class Point:
        def __init__(self, x):
            a, b = 1 - x[0], x[1] - x[0] ** 2
            self.x, self.value = x, factor * (a * a + 100 * b * b)
            self.gradient = factor * np.array([-2 * a - 400 * x[0] * b, 200 * b])

    point = Point(np.array([-1.2, 1.0]))
    steps, changes, pairs = np.zeros((5, 2)), np.zeros((5, 2)), 0
    for _ in range(80):
        towards = direction(point.gradient, steps, changes, pairs)
        slope = towards @ point.gradient
        if not slope < 0:
            break
        first = 1.0 if pairs else 1.0 / np.linalg.norm(point.gradient)
        found = line_search(Point, point.x, point.value, slope, towards, first)
        if found is None:
            break
        t, new = found
        assert new.value <= point.value + 1e-4 * t * slope
        pairs = remember(steps, changes, pairs, t * towards, new.gradient - point.gradient)
        point = new
    np.testing.assert_allclose(point.x, [1.0, 1.0], atol=1e-5)


def test_line_search_leaves_what_is_not_allowed():
    class Point:
        def __init__(self, x):
            self.value = -np.log(1 - x[0]) - 3 * x[0] if x[0] < 1 else np.inf
            self.gradient = np.array([1 / (1 - x[0]) - 3 if x[0] < 1 else 0.0])

    start = Point(np.zeros(1))
    t, new = line_search(Point, np.zeros(1), start.value, -2.0, np.ones(1), 5.0)
    assert 0 < t < 1
    assert new.value < start.value
