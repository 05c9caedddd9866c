"""Exact constants: closed forms, all patterns, all linear regions, degenerate positions."""

from __future__ import annotations

import itertools
import pickle

import numpy as np
import pytest
from scipy.optimize import linprog

from lowrank_opt.core import Status
from lowrank_opt.core.errors import ParameterError, UnsupportedProblemError
from lowrank_opt.lipschitz import ExactLipschitz, LipschitzProblem
from lowrank_opt.lipschitz.activations import Activation
from lowrank_opt.lipschitz.network import Affine, FeedForward, Residual, ResidualBlock
from lowrank_opt.lipschitz.pattern_checks import covers, pattern_bound
from lowrank_opt.lipschitz.regions import Ball, Box

NORMS = {"l2": 2, "linf": np.inf, "l1": 1}


def net(dims, kind="relu", seed=0, bias=0.3, **options):
    rng = np.random.default_rng(seed)
    layers = []
    for i, (m, n) in enumerate(itertools.pairwise(dims)):
        W = rng.standard_normal((n, m)) / np.sqrt(m)
        layers.append(Affine(W, bias * rng.standard_normal(n)))
        if i < len(dims) - 2:
            layers.append(Activation(kind, **options))
    return FeedForward(tuple(layers))


def affine_layers(network):
    return [a for a in network.layers if isinstance(a, Affine)]


def slopes_of(network):
    phi = next(a for a in network.layers if isinstance(a, Activation))
    return float(phi.derivative(np.array([-1.0]))[0]), float(phi.derivative(np.array([1.0]))[0])


def brute_force(network, norm):
    """Return the largest Jacobian over all patterns of slopes."""
    off, on = slopes_of(network)
    weights = [a.dense for a in affine_layers(network)]
    widths = [len(W) for W in weights[:-1]]
    best = 0.0
    for choice in itertools.product([off, on], repeat=sum(widths)):
        J, at = weights[0], 0
        for W, n in zip(weights[1:], widths, strict=True):
            J = W @ (np.array(choice[at : at + n])[:, None] * J)
            at += n
        best = max(best, np.linalg.norm(J, NORMS[norm]))
    return best


def regions(network, box):
    """Yield the Jacobian of every linear region, found by a linear program for each pattern."""
    off, on = slopes_of(network)
    maps = affine_layers(network)
    n = network.n_inputs
    for choice in itertools.product([0, 1], repeat=sum(network.widths)):
        J, c, at, rows, ends = np.eye(n), np.zeros(n), 0, [], []
        for a in maps[:-1]:
            J, c = a.dense @ J, a.dense @ c + a.bias
            own = np.array(choice[at : at + len(c)])
            at += len(c)
            sign = np.where(own == 1, 1.0, -1.0)
            size = np.linalg.norm(J, axis=1)
            rows.append(np.hstack([-sign[:, None] * J, size[:, None]]))
            ends.append(sign * c)
            s = np.where(own == 1, on, off)
            J, c = s[:, None] * J, s * c
        found = linprog(
            np.r_[np.zeros(n), -1.0], np.vstack(rows), np.concatenate(ends),
            bounds=[*box, (None, 1.0)],
        )  # fmt: skip
        if found.status == 0 and found.x[-1] > 1e-9:  # holds a ball of this radius
            yield maps[-1].dense @ J


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(
    ("dims", "kind", "options"),
    [
        ((3, 5, 4, 2), "relu", {}),
        ((2, 8, 1), "leaky_relu", {"parameter": 0.3}),
        ((4, 5, 5, 3), "relu", {}),
        ((3, 4, 4, 2), "abs", {}),
    ],
)
def test_largest_pattern_is_that_of_brute_force(norm, dims, kind, options):
    network = net(dims, kind, **options)
    expected = brute_force(network, norm)
    problem = LipschitzProblem(network, norm)
    for method in ("enumeration", "branch_and_bound"):
        result = ExactLipschitz(method=method).solve(problem)
        assert result.status is Status.CONVERGED
        np.testing.assert_allclose(result.fun, expected, rtol=1e-11)
        assert result.fun >= expected * (1 - 1e-15)
        assert result.relaxation_bound <= expected * (1 + 1e-14)
        assert result.certified
        assert result.lower_bound <= result.fun


@pytest.mark.parametrize(
    ("kind", "where"),
    [("relu", "box"), ("relu", "everywhere"), ("abs", "box"), ("leaky_relu", "everywhere")],
)
def test_true_constant_is_the_largest_linear_region(kind, where):
    network = net((2, 4, 3, 2), kind, seed=3)
    box = [(-0.4, 0.3), (-0.2, 0.5)] if where == "box" else [(-1e3, 1e3)] * 2
    region = Box([-0.4, -0.2], [0.3, 0.5]) if where == "box" else None
    jacobians = list(regions(network, box))
    for norm, order in NORMS.items():
        expected = max(np.linalg.norm(J, order) for J in jacobians)
        problem = LipschitzProblem(network, norm, region=region)
        result = ExactLipschitz(feasible=True).solve(problem)
        assert result.status is Status.CONVERGED
        np.testing.assert_allclose(result.fun, expected, rtol=1e-10)
        np.testing.assert_allclose(result.lower_bound, expected, rtol=1e-8)
        J = network.jacobian(result.witness)
        np.testing.assert_allclose(np.linalg.norm(J, order), expected, rtol=1e-10)
        largest = ExactLipschitz().solve(LipschitzProblem(network, norm)).fun
        assert result.fun <= largest * (1 + 1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_balls_lie_between_boxes_and_dense_samples(seed):
    network = net((2, 6, 5, 1), seed=seed)
    c, r = np.array([0.2, -0.1]), 0.4
    result = ExactLipschitz(feasible=True).solve(LipschitzProblem(network, region=Ball(c, r)))
    assert result.status is Status.CONVERGED
    outer = ExactLipschitz(feasible=True).solve(LipschitzProblem(network, region=Box(c - r, c + r)))
    s = r / np.sqrt(2)
    inner = ExactLipschitz(feasible=True).solve(LipschitzProblem(network, region=Box(c - s, c + s)))
    assert inner.fun <= result.fun * (1 + 1e-9)
    assert result.fun <= outer.fun * (1 + 1e-9)
    rng = np.random.default_rng(0)
    U = rng.standard_normal((4000, 2))
    X = c + r * np.sqrt(rng.random((4000, 1))) * U / np.linalg.norm(U, axis=1, keepdims=True)
    sampled = max(np.linalg.norm(network.jacobian(x), 2) for x in X)
    assert sampled <= result.fun * (1 + 1e-12)
    assert np.linalg.norm(result.witness - c) <= r


def test_difference_of_two_neurons():
    # relu(x) - relu(x - 1): both constants are 1; the coupled relaxation gives 0.
    f = FeedForward((
        Affine([[1.0], [1.0]], [0.0, -1.0]), Activation("relu"), Affine([[1.0, -1.0]]),
    ))  # fmt: skip
    for norm in NORMS:
        problem = LipschitzProblem(f, norm)
        for feasible in (False, True):
            result = ExactLipschitz(feasible=feasible).solve(problem)
            np.testing.assert_allclose(result.fun, 1.0, rtol=1e-12)
    # With a third neuron all patterns give 2, inputs only 1: the second is on where the third is.
    g = FeedForward((
        Affine(np.ones((3, 1)), [0.0, -1.0, -2.0]), Activation("relu"), Affine([[1.0, -1.0, 1.0]]),
    ))  # fmt: skip
    assert ExactLipschitz().solve(LipschitzProblem(g)).fun == pytest.approx(2.0, rel=1e-12)
    true = ExactLipschitz(feasible=True).solve(LipschitzProblem(g))
    assert true.fun == pytest.approx(1.0, rel=1e-12)
    assert true.lower_bound == pytest.approx(1.0, rel=1e-12)
    below = ExactLipschitz(feasible=True).solve(LipschitzProblem(g, region=Box(-3.0, -1.0)))
    assert below.fun == pytest.approx(0.0, abs=1e-12)


def test_nonnegative_weights_give_the_product_of_the_matrices():
    rng = np.random.default_rng(0)
    weights = [rng.random((6, 3)), rng.random((5, 6)), rng.random((2, 5))]
    product = weights[2] @ weights[1] @ weights[0]
    for norm, order in NORMS.items():
        problem = LipschitzProblem(weights, norm)
        for method in ("enumeration", "branch_and_bound"):
            result = ExactLipschitz(method=method).solve(problem)
            np.testing.assert_allclose(result.fun, np.linalg.norm(product, order), rtol=1e-12)


def test_regions_that_only_touch_do_not_count():
    # Without biases all hyperplanes meet at the origin, which is in the closure of every region.
    network = net((2, 4, 3, 2), bias=0.0, seed=1)
    angles = np.linspace(0, 2 * np.pi, 20001)
    expected = max(np.linalg.norm(network.jacobian([np.cos(a), np.sin(a)]), 2) for a in angles[::4])
    for region in (None, Box(-1.0, 1.0), Ball([0.0, 0.0], 2.0), Box(-1.0, 0.5)):
        problem = LipschitzProblem(network, region=region)
        result = ExactLipschitz(feasible=True).solve(problem)
        assert result.status is Status.CONVERGED
        np.testing.assert_allclose(result.fun, expected, rtol=1e-9)
    # A second neuron that repeats the first with a factor: opposite signs only touch.
    W = np.array([[1.0, 2.0], [-0.5, 1.0]])
    twice = FeedForward((
        Affine(np.vstack([W, 3.0 * W]), [0.25, -0.5, 0.75, -1.5]), Activation("relu"),
        Affine([[1.0, 2.0, -1.0, -1.0]]),
    ))  # fmt: skip
    # Both copies are on together: 1 - 3 and 2 - 3 times the first.
    options = [np.array([p * -2.0, q * -1.0]) @ W for p in (0, 1) for q in (0, 1)]
    expected = max(np.linalg.norm(v) for v in options)
    result = ExactLipschitz(feasible=True).solve(LipschitzProblem(twice))
    np.testing.assert_allclose(result.relaxation_bound, expected, rtol=1e-12)
    # Whether the multipliers that refute touching patterns are found exactly depends on the last
    # bits of the processor's arithmetic; if not, the run says that it stalled.
    assert result.status in (Status.CONVERGED, Status.STALLED)
    if result.success:
        np.testing.assert_allclose(result.fun, expected, rtol=1e-12)
    assert result.fun >= expected * (1 - 1e-12)
    assert ExactLipschitz().solve(LipschitzProblem(twice)).fun > expected * 1.5


def test_neurons_that_are_always_zero_do_not_hide_regions():
    # The third neuron is w·h - w·h = 0 everywhere, in exact arithmetic.
    f = FeedForward((
        Affine([[1.0, 0.5], [1.0, 0.5]], [0.1, 0.1]), Activation("relu"),
        Affine([[1.0, -1.0], [2.0, 1.0]]), Activation("relu"), Affine([[7.0, 1.0]]),
    ))  # fmt: skip
    expected = 3.0 * np.linalg.norm([1.0, 0.5])
    for region in (None, Box(-1.0, 1.0), Ball([0.0, 0.0], 1.0)):
        result = ExactLipschitz(feasible=True).solve(LipschitzProblem(f, region=region))
        assert result.fun >= expected * (1 - 1e-12)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("group_sort", {"group_size": 2}),
        ("group_sort", {"group_size": 3}),
        ("householder", {"direction": [0.6, 0.8]}),
    ],
)
def test_orders_of_sorting_networks(norm, kind, options):
    network = net((3, 6, 6, 2), kind, **options)
    W1, W2, W3 = (a.dense for a in affine_layers(network))
    if kind == "householder":
        v = np.array(options["direction"])
        blocks = [np.eye(2), np.eye(2) - 2 * np.outer(v, v)]
    else:
        size = options["group_size"]
        blocks = [np.eye(size)[list(p)] for p in itertools.permutations(range(size))]
    count = 6 // len(blocks[0])
    layers = []
    for chosen in itertools.product(blocks, repeat=count):
        P = np.zeros((6, 6))
        for g, B in enumerate(chosen):
            own = slice(g * len(B), (g + 1) * len(B))
            P[own, own] = B
        layers.append(P)
    expected = max(
        np.linalg.norm(W3 @ P @ W2 @ Q @ W1, NORMS[norm]) for P in layers for Q in layers
    )
    result = ExactLipschitz().solve(LipschitzProblem(network, norm))
    np.testing.assert_allclose(result.fun, expected, rtol=1e-11)
    assert result.fun >= expected * (1 - 1e-15)
    assert result.lower_bound <= result.fun


def test_smooth_activations_are_bounded_by_their_extreme_slopes():
    network = net((2, 5, 2), "tanh")
    W1, W2 = (a.dense for a in affine_layers(network))
    expected = max(
        np.linalg.norm(W2 @ np.diag(s) @ W1, 2) for s in itertools.product([0, 1], repeat=5)
    )
    result = ExactLipschitz().solve(LipschitzProblem(network))
    np.testing.assert_allclose(result.fun, expected, rtol=1e-11)
    local = ExactLipschitz().solve(LipschitzProblem(network, region=Box(3.0, 3.1)))
    assert local.fun < 0.9 * expected
    assert local.lower_bound <= local.fun


def test_affine_maps_in_a_row_and_margins():
    network = net((3, 5, 4), seed=2)
    rng = np.random.default_rng(5)
    longer = FeedForward((Affine(rng.standard_normal((3, 2))), *network.layers))
    J = [W.dense for W in affine_layers(longer)]
    expected = max(
        np.linalg.norm((J[2][1] - J[2][3]) @ np.diag(s) @ J[1] @ J[0])
        for s in itertools.product([0, 1], repeat=5)
    )
    problem = LipschitzProblem(longer, output=(1, 3))
    for method in ("enumeration", "branch_and_bound"):
        result = ExactLipschitz(method=method).solve(problem)
        np.testing.assert_allclose(result.fun, expected, rtol=1e-11)
    true = ExactLipschitz(feasible=True).solve(problem)
    assert true.status is Status.CONVERGED
    assert true.fun <= expected * (1 + 1e-12)
    no_hidden = LipschitzProblem([J[0], np.eye(3)], activation="identity")
    for feasible in (False, True):
        result = ExactLipschitz(feasible=feasible).solve(no_hidden)
        np.testing.assert_allclose(result.fun, np.linalg.norm(J[0], 2), rtol=1e-12)


def test_held_inputs_do_not_count():
    f = FeedForward((Affine([[3.0, 4.0]], [1.0]), Activation("relu"), Affine([[1.0]])))
    problem = LipschitzProblem(f, region=Box([0.0, 1.0], [1.0, 1.0]))
    result = ExactLipschitz(feasible=True).solve(problem)
    np.testing.assert_allclose(result.fun, 3.0, rtol=1e-12)
    np.testing.assert_allclose(result.lower_bound, 3.0, rtol=1e-12)


@pytest.mark.parametrize("feasible", [False, True])
def test_limits_leave_a_bound_and_a_state_to_go_on_from(feasible):
    network = net((4, 6, 6, 2), seed=7)
    problem = LipschitzProblem(network, region=Box(-1.0, 1.0))
    options = {"feasible": feasible, "method": "branch_and_bound", "check_every": 1}
    whole = ExactLipschitz(**options).solve(problem)
    assert whole.status is Status.CONVERGED
    product = problem.part(0).product
    previous = product
    for cut in (1, 5, 20):
        part = ExactLipschitz(**options, max_iter=cut).solve(problem)
        assert part.status is Status.ITERATION_LIMIT
        assert whole.fun * (1 - 1e-12) <= part.fun <= previous * (1 + 1e-12)
        assert part.relaxation_bound <= whole.fun
        previous = part.fun
    rest = ExactLipschitz(**options).solve(problem, state=pickle.loads(pickle.dumps(part.state)))
    assert rest.fun == whole.fun
    assert rest.nit == whole.nit
    again = ExactLipschitz(**options).solve(problem, x0=whole.x)
    assert again.nit == 0
    np.testing.assert_allclose(again.fun, whole.fun, rtol=1e-13)


def test_enumeration_stops_and_goes_on():
    problem = LipschitzProblem(net((3, 7, 7, 2)), "linf")
    whole = ExactLipschitz(check_every=1).solve(problem)
    assert whole.status is Status.CONVERGED
    part = ExactLipschitz(check_every=1, max_iter=2).solve(problem)
    assert part.status is Status.ITERATION_LIMIT
    assert part.fun == max(problem.part(k).cheap for k in range(2))
    rest = ExactLipschitz(check_every=1).solve(
        problem, state=pickle.loads(pickle.dumps(part.state))
    )
    assert rest.fun == whole.fun
    assert ExactLipschitz().solve(problem, x0=whole.x).nit == 0


def test_proofs_that_prove_nothing_are_refused():
    network = FeedForward((
        Affine(np.ones((3, 1)), [0.0, -1.0, -2.0]), Activation("relu"), Affine([[1.0, -1.0, 1.0]]),
    ))  # fmt: skip
    problem = LipschitzProblem(network)
    result = ExactLipschitz(feasible=True).solve(problem)
    mode, patterns, y, _ = result.x.multipliers
    assert pattern_bound(problem, 0, (mode, patterns, y)) == pytest.approx(1.0, rel=1e-12)
    missing = patterns[1:], y[1:]
    assert pattern_bound(problem, 0, (mode, *missing)) == np.inf  # a leaf is missing
    assert pattern_bound(problem, 0, (mode, patterns, y * 0)) == pytest.approx(2.0, rel=1e-12)
    assert pattern_bound(problem, 0, (mode, patterns, y[:, :-1])) == np.inf
    # Numbers that refute nothing: every leaf counts.
    assert pattern_bound(problem, 0, (mode, patterns, np.ones_like(y))) >= 1.0
    on = np.ones((1, 3), dtype=np.int8)
    assert pattern_bound(problem, 0, (np.array([1]), on, y[:1] * 0)) == np.inf
    whole = np.full((1, 3), 2, dtype=np.int8)
    assert pattern_bound(problem, 0, (mode, whole, np.ones((1, 5)))) >= 2.0


def test_contradictions_in_exact_arithmetic():
    # Neurons x, x - 1 and (1 - 1) x: signs of the first two contradict each other one way only.
    from lowrank_opt.lipschitz.exact_network import domain_of, pattern_network
    from lowrank_opt.lipschitz.pattern_checks import exactly_refuted, integers

    network = FeedForward((
        Affine([[1.0], [1.0], [0.0]], [0.0, -1.0, 0.0]), Activation("relu"),
        Affine([[1.0, 1.0, 1.0]]),
    ))  # fmt: skip
    net_ = pattern_network(network)
    domain, numbers = domain_of(net_, None), integers(net_)

    def refuted(pattern, y):
        proof = np.concatenate([np.array(y, dtype=float), np.zeros(2)])
        return exactly_refuted(net_, numbers, domain, np.array(pattern), proof)

    assert refuted([0, 1, 2], [1, 1, 0])
    assert not refuted([1, 0, 2], [1, 1, 0])  # 0 < x < 1
    assert not refuted([1, 1, 2], [1, 1, 0])
    assert not refuted([1, 2, 2], [1, 0, 0])
    assert not refuted([0, 2, 1], [0, 0, 1])  # zero everywhere: no sign to contradict
    assert not refuted([2, 2, 2], [1, 1, 0])  # nothing chosen


def test_covers():
    def rows(*texts):
        return np.array([[int(c) for c in t] for t in texts], dtype=np.int8)

    assert covers(rows("222"))
    assert covers(rows("022", "122"))
    assert covers(rows("022", "120", "121"))
    assert covers(rows("02", "20", "11"))  # overlapping
    assert not covers(rows("022", "120"))
    assert not covers(rows("00", "01", "10"))
    assert not covers(np.zeros((0, 3), dtype=np.int8))
    rng = np.random.default_rng(0)
    for _ in range(200):
        some = rng.integers(0, 3, (rng.integers(1, 12), 4)).astype(np.int8)
        reached = all(
            np.any(np.all((some == 2) | (some == p), axis=1))
            for p in itertools.product([0, 1], repeat=4)
        )
        assert covers(some) == reached


def test_too_large_networks_are_refused_with_numbers_and_a_cure():
    big = LipschitzProblem(net((3, 20, 10, 1)))
    with pytest.raises(ParameterError, match=r"2\^30 patterns.*max_neurons=20.*branch_and_bound"):
        ExactLipschitz(method="enumeration").solve(big)
    assert ExactLipschitz(max_iter=3).solve(big).fun <= big.part(0).product
    sort = LipschitzProblem(net((3, 60, 1), "group_sort", group_size=2))
    with pytest.raises(ParameterError, match=r"2\^30 patterns.*LipSDPGroupSort"):
        ExactLipschitz().solve(sort)
    full = LipschitzProblem(net((3, 40, 1), "group_sort"))
    with pytest.raises(ParameterError, match="LipSDPGroupSort"):
        ExactLipschitz().solve(full)
    huge = LipschitzProblem(net((3, 2500, 1)))
    with pytest.raises(ParameterError, match=r"2500 hidden neurons.*2000"):
        ExactLipschitz().solve(huge)


def test_what_it_cannot_solve_is_refused():
    with pytest.raises(ParameterError, match=r"feasible=True.*tanh"):
        ExactLipschitz(feasible=True).solve(LipschitzProblem(net((2, 3, 1), "tanh")))
    with pytest.raises(ParameterError, match="branch_and_bound"):
        ExactLipschitz(feasible=True, method="enumeration").solve(LipschitzProblem(net((2, 3, 1))))
    block = Residual([ResidualBlock(np.eye(2))])
    with pytest.raises(UnsupportedProblemError, match="feed-forward"):
        ExactLipschitz().solve(LipschitzProblem(block))


def test_zero_networks_and_dead_layers():
    zero = LipschitzProblem([np.ones((3, 2)), np.zeros((1, 3))])
    for feasible in (False, True):
        assert ExactLipschitz(feasible=feasible).solve(zero).fun == 0.0


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_larger_networks_against_all_regions_of_a_line(seed):
    # One input: kinks on a line can be listed one after the other.
    network = net((1, 12, 10, 3), seed=seed)
    X = np.unique(np.concatenate([np.linspace(-60, 60, 60001), np.linspace(-3, 3, 60001)]))
    Z = np.concatenate(network.preactivations(X[:, None]), axis=1) > 0
    change = np.flatnonzero(np.any(Z[1:] != Z[:-1], axis=1))
    points = X[np.r_[0, change + 1]]
    expected = max(np.linalg.norm(network.jacobian([x]), 2) for x in points)
    result = ExactLipschitz(feasible=True).solve(LipschitzProblem(network))
    assert result.status is Status.CONVERGED
    np.testing.assert_allclose(result.fun, expected, rtol=1e-9)
