"""LipSDP against the raw inequality, enumeration, published numbers and invariances."""

from __future__ import annotations

import itertools
import pickle

import numpy as np
import pytest

import lowrank_opt
from lowrank_opt.core import Status
from lowrank_opt.core.errors import ParameterError, UnsupportedProblemError
from lowrank_opt.lipschitz import (
    Activation,
    Affine,
    Ball,
    Box,
    FeedForward,
    Implicit,
    LipschitzProblem,
    LipSDP,
    Residual,
    ResidualBlock,
    lipschitz_bound,
)


def network(weights, activation, seed=0):
    """Feed-forward network with random biases."""
    rng = np.random.default_rng(seed)
    layers = []
    for W in weights[:-1]:
        layers += [Affine(W, 0.3 * rng.standard_normal(len(W))), activation]
    return FeedForward((*layers, Affine(weights[-1])))


def over_patterns(weights, alpha=0.0):
    """Largest Jacobian norm over all patterns of slopes alpha and one."""
    N = sum(len(W) for W in weights[:-1])
    best = 0.0
    for bits in itertools.product((alpha, 1.0), repeat=N):
        J, k = weights[0], 0
        for W in weights[1:]:
            J = W @ (np.array(bits[k : k + len(J)])[:, None] * J)
            k += W.shape[1]
        best = max(best, np.linalg.norm(J, 2))
    return best


def test_two_neurons_and_why_coupled_multipliers_are_refused():
    # f(x) = relu(x) - relu(x - 1) has the constant 1.
    weights = [np.array([[1.0], [1.0]]), np.array([[1.0, -1.0]])]
    net = FeedForward((Affine(weights[0], [0.0, -1.0]), Activation("relu"), Affine(weights[1])))
    result = lipschitz_bound(net)
    np.testing.assert_allclose(result.fun, 1.0, rtol=1e-6)
    np.testing.assert_allclose(result.lower_bound, 1.0, rtol=1e-9)
    # The coupled form proves the bound 0: with T = zeta (e1 - e2)(e1 - e2)', zeta = 1/2, the
    # inequality holds at rho = 0 ...
    e = np.array([[1.0], [-1.0]])
    T = 0.5 * e @ e.T
    A, B = np.hstack([weights[0], np.zeros((2, 2))]), np.hstack([np.zeros((2, 1)), np.eye(2)])
    S = A.T @ T @ B + B.T @ T @ A - 2 * B.T @ T @ B
    S[1:, 1:] += weights[1].T @ weights[1]
    assert np.linalg.eigvalsh(S).max() <= 1e-15
    # ... because the "constraint" behind it is broken by the points x = 0, y = 1.
    z = net.preactivations(np.array([[0.0], [1.0]]))[0]
    dz, dh = np.diff(z, axis=0)[0], np.diff(np.maximum(z, 0), axis=0)[0]
    assert 2 * dz @ T @ dh - 2 * dh @ T @ dh < 0
    for structure in ("network", "network-rand", "network-dec-vars"):
        with pytest.raises(ParameterError, match=r"is not a bound.*structure='neuron'"):
            lipschitz_bound(net, structure=structure)
        with pytest.raises(ValueError, match="relu"):
            LipSDP(structure=structure).solve(LipschitzProblem(net))


@pytest.mark.parametrize(
    ("depth", "width", "lower", "upper"),
    [
        (2, 10, 1.12016614, 1.12016622), (5, 40, 4.47370878, 4.47370929),
        (10, 40, 16.3751645, 16.3751675), (20, 20, 97.7379776, 97.7379867),
        (30, 10, 309.81788, 309.817894),
    ],
)  # fmt: skip
def test_reference_values(raw, depth, width, lower, upper):
    weights = raw.gaussian(4, *[width] * (depth - 1), 1)
    result = LipSDP(tol=5e-7).solve(LipschitzProblem(weights))
    assert result.status is Status.CONVERGED
    assert result.fun >= lower
    assert result.fun <= upper * (1 + 5e-7)
    assert result.relaxation_bound <= upper
    assert result.gap <= 5e-7
    assert result.certified


@pytest.mark.parametrize(
    ("kind", "parameter", "slopes"),
    [
        ("relu", None, (0.0, 1.0)), ("leaky_relu", 0.2, (0.2, 1.0)), ("tanh", None, (0.0, 1.0)),
        ("sigmoid", None, (0.0, 0.25)), ("abs", None, (-1.0, 1.0)),
        ("gelu", None, (-0.12890414518515, 1.12890414518515)),
        ("silu", None, (-0.09983932012887, 1.09983932012887)), ("elu", 2.0, (0.0, 2.0)),
        ("leaky_relu", -0.5, (-0.5, 1.0)), ("leaky_relu", 3.0, (1.0, 3.0)),
    ],
)  # fmt: skip
@pytest.mark.parametrize("widths", [(3, 6, 5, 2), (7, 4, 1)])
def test_equals_the_raw_inequality(raw, kind, parameter, slopes, widths):
    weights = raw.gaussian(*widths, seed=5)
    net = network(weights, Activation(kind, parameter))
    result = lipschitz_bound(net)
    assert result.success
    expected = raw.lip_sdp(weights, *slopes)
    np.testing.assert_allclose(result.fun, expected, rtol=3e-6)
    assert result.lower_bound <= result.fun


@pytest.mark.parametrize("seed", range(3))
def test_layer_structure(raw, seed):
    weights = raw.gaussian(3, 6, 5, 2, seed=seed)
    neuron, layer = lipschitz_bound(weights), lipschitz_bound(weights, structure="layer")
    np.testing.assert_allclose(layer.fun, raw.lip_sdp(weights, structure="layer"), rtol=3e-6)
    product = np.prod([np.linalg.norm(W, 2) for W in weights])
    assert over_patterns(weights) <= neuron.fun <= layer.fun * (1 + 1e-6)
    assert layer.fun <= product * (1 + 1e-9)


@pytest.mark.parametrize("norm", ["linf", "l1"])
@pytest.mark.parametrize(("kind", "slopes"), [("relu", (0.0, 1.0)), ("leaky_relu", (0.01, 1.0))])
def test_other_norms_equal_the_raw_inequality(raw, norm, kind, slopes):
    weights = raw.gaussian(4, 5, 3, seed=2)
    result = lipschitz_bound(network(weights, Activation(kind)), norm=norm, each_output=True)
    chain = weights if norm == "linf" else [W.T for W in reversed(weights)]
    expected = [raw.lip_sdp([*chain[:-1], row[None]], *slopes, norm="linf") for row in chain[-1]]
    np.testing.assert_allclose(result.per_output, expected, rtol=5e-6)
    np.testing.assert_allclose(result.fun, max(expected), rtol=5e-6)
    largest = lipschitz_bound(network(weights, Activation(kind)), norm=norm)
    np.testing.assert_allclose(largest.fun, result.fun, rtol=3e-6)
    assert largest.nit <= result.nit
    assert np.all(largest.per_output >= result.per_output * (1 - 1e-6))


def test_norms_of_an_affine_map():
    W = np.array([[1.0, -2.0], [3.0, 4.0]])
    for norm, expected in (("l2", np.linalg.norm(W, 2)), ("linf", 7.0), ("l1", 6.0)):
        result = lipschitz_bound([W], norm=norm)
        np.testing.assert_allclose(result.fun, expected, rtol=1e-12)
        assert result.fun >= expected * (1 - 1e-15)
        assert result.nit == 0


def test_affine_layers_are_merged_exactly(raw):
    W = raw.gaussian(5, 9, 8, 3, seed=1)
    alone = lipschitz_bound(W, activation="identity")
    np.testing.assert_allclose(alone.fun, np.linalg.norm(W[2] @ W[1] @ W[0], 2), rtol=1e-11)
    mixed = lipschitz_bound(W, activation=["identity", "relu"])
    merged = lipschitz_bound([W[1] @ W[0], W[2]])
    np.testing.assert_allclose(mixed.fun, merged.fun, rtol=2e-6)


def test_invariances(raw):
    rng = np.random.default_rng(4)
    W = raw.gaussian(6, 8, 7, 3, seed=4)
    base = lipschitz_bound(W, tol=1e-7).fun

    def bound(*weights):
        return lipschitz_bound(list(weights), tol=1e-7).fun

    p, q = rng.permutation(8), rng.permutation(7)
    same = [bound(W[0][p], W[1][np.ix_(q, p)], W[2][:, q])]
    Q, R = (np.linalg.qr(rng.standard_normal((n, n)))[0] for n in (6, 3))
    same.append(bound(W[0] @ Q, W[1], R @ W[2]))
    d = np.exp(rng.uniform(-2, 2, 8))
    same.append(bound(d[:, None] * W[0], W[1] / d, W[2]))
    dead = np.vstack([W[0], np.zeros((1, 6))]), np.hstack([W[1], np.ones((7, 1))])
    same.append(bound(*dead, W[2]))
    same.append(bound(1e-30 * W[0], 1e40 * W[1], 1e-10 * W[2]))
    wide = np.hstack([W[0], np.zeros((8, 30))])  # compressed inputs
    same.append(bound(wide @ np.linalg.qr(rng.standard_normal((36, 36)))[0], *W[1:]))
    tall = np.linalg.qr(rng.standard_normal((20, 3)))[0] @ W[2]  # compressed outputs
    same.append(bound(*W[:2], tall))
    np.testing.assert_allclose(same, base, rtol=3e-7)
    np.testing.assert_allclose(bound(-3 * W[0], 2 * W[1], W[2]), 6 * base, rtol=3e-7)
    # Parts one after the other are never tighter than the whole.
    assert base <= bound(W[0], W[1]) * np.linalg.norm(W[2], 2) * (1 + 1e-6)


def test_zero_layers_and_dead_networks(raw):
    W = raw.gaussian(4, 5, 6, 2)
    for k in range(3):
        weights = list(W)
        weights[k] = np.zeros_like(W[k])
        result = lipschitz_bound(weights)
        assert result.fun == 0.0
        assert result.success
    split = [np.vstack([W[0], np.zeros((2, 4))]), np.hstack([np.zeros((6, 5)), np.ones((6, 2))])]
    assert lipschitz_bound([*split, W[2]]).fun == 0.0  # layer 2 reads only dead neurons


def test_nonnegative_weights(raw):
    weights = [np.abs(W) for W in raw.gaussian(1, 6, 5, 1, seed=3)]
    value = float((weights[2] @ weights[1] @ weights[0])[0, 0])  # all neurons on
    result = lipschitz_bound(weights)
    assert result.fun >= value * (1 - 1e-12)
    np.testing.assert_allclose(over_patterns(weights), value)
    assert result.lower_bound <= value * (1 + 1e-12)


@pytest.mark.parametrize("kind", ["relu", "tanh", "gelu"])
@pytest.mark.parametrize("radius", [2.0, 0.3, 0.02])
def test_local_bounds(raw, kind, radius):
    rng = np.random.default_rng(7)
    net = network(raw.gaussian(4, 9, 7, 2, seed=7), Activation(kind))
    centre = rng.standard_normal(4)
    whole = lipschitz_bound(net).fun
    ball = lipschitz_bound(net, region=Ball(centre, radius))
    box = lipschitz_bound(net, region=Box.around(centre, radius))
    assert ball.success
    assert ball.fun <= box.fun * (1 + 2e-6)  # the ball is inside the box
    assert box.fun <= whole * (1 + 2e-6)
    u = rng.standard_normal((2000, 4))
    inside = centre + radius * u / np.linalg.norm(u, axis=1)[:, None] * rng.random((2000, 1)) ** 0.2
    sampled = max(np.linalg.norm(net.jacobian(x), 2) for x in inside[:300])
    a, b = net.forward(inside[::2]), net.forward(inside[1::2])
    steps = np.linalg.norm(inside[::2] - inside[1::2], axis=1)
    quotient = (np.linalg.norm(a - b, axis=1) / steps).max()
    assert max(sampled, quotient) <= ball.fun * (1 + 1e-9)
    assert ball.lower_bound <= ball.fun
    if kind == "relu" and radius == 0.02:  # no neuron changes: affine
        np.testing.assert_allclose(ball.fun, np.linalg.norm(net.jacobian(centre), 2), rtol=1e-6)


def test_a_point_region_gives_the_jacobian(raw):
    net = network(raw.gaussian(4, 9, 7, 2, seed=7), Activation("tanh"))
    x = np.random.default_rng(0).standard_normal(4)
    for norm, order in (("l2", 2), ("linf", np.inf), ("l1", 1)):
        result = lipschitz_bound(net, region=Ball(x, 0.0), norm=norm)
        np.testing.assert_allclose(result.fun, np.linalg.norm(net.jacobian(x), order), rtol=1e-6)


@pytest.mark.parametrize("norm", ["l2", "linf", "l1"])
def test_outputs_and_margins(raw, norm):
    W = raw.gaussian(4, 8, 3, seed=9)
    margin = lipschitz_bound(W, output=(0, 2), norm=norm)
    by_hand = lipschitz_bound([W[0], W[1][:1] - W[1][2:]], norm=norm)
    np.testing.assert_allclose(margin.fun, by_hand.fun, rtol=2e-6)
    one = lipschitz_bound(W, output=1, norm=norm)
    np.testing.assert_allclose(
        one.fun, lipschitz_bound([W[0], W[1][1:2]], norm=norm).fun, rtol=2e-6
    )
    C = np.array([[1.0, 2.0, 0.0], [0.0, 1.0, -1.0]])
    several = lipschitz_bound(W, output=C, norm=norm)
    np.testing.assert_allclose(
        several.fun, lipschitz_bound([W[0], C @ W[1]], norm=norm).fun, rtol=2e-6
    )
    assert one.fun <= lipschitz_bound(W, norm=norm).fun * (1 + 2e-6)


def _residual(rng):
    blocks = [
        ResidualBlock(rng.standard_normal((5, 5)) / 3, "tanh"),
        ResidualBlock(
            rng.standard_normal((7, 5)) / 3, "relu", output=rng.standard_normal((4, 7)) / 3,
            skip=rng.standard_normal((4, 5)) / 2,
        ),
    ]  # fmt: skip
    return Residual(
        blocks, Affine(rng.standard_normal((5, 4))), Affine(rng.standard_normal((3, 4)))
    )


@pytest.mark.parametrize("norm", ["l2", "linf", "l1"])
@pytest.mark.parametrize("kind", ["residual", "implicit", "mixed"])
def test_other_topologies_hold_on_samples(kind, norm):
    rng = np.random.default_rng(11)
    if kind == "residual":
        net = _residual(rng)
    elif kind == "implicit":
        net = Implicit(
            0.15 * rng.standard_normal((6, 6)), rng.standard_normal((6, 4)),
            rng.standard_normal((2, 6)), skip=rng.standard_normal((2, 4)),
        )  # fmt: skip
    else:
        layers = [Affine(rng.standard_normal((8, 4)) / 2), Activation("relu")]
        layers += [Affine(rng.standard_normal((6, 8)) / 3), Activation("maxmin")]
        net = FeedForward((*layers, Affine(rng.standard_normal((3, 6)))))
    problem = LipschitzProblem(net, norm)
    result = lowrank_opt.solve(problem)
    assert result.success
    order = {"l2": 2, "linf": np.inf, "l1": 1}[norm]
    norms = [np.linalg.norm(net.jacobian(x), order) for x in 2 * rng.standard_normal((400, 4))]
    assert max(norms) <= result.fun
    assert result.fun <= problem.part(0).product or problem.n_parts > 1
    assert result.fun <= max(p.product for p in problem.parts)
    assert result.lower_bound >= 0.7 * max(norms)


def test_ill_posed_implicit_network_has_no_bound():
    net = Implicit(2.0 * np.eye(3), np.ones((3, 2)), np.ones((1, 3)))
    result = lipschitz_bound(net)
    assert not result.success
    assert result.fun == np.inf
    assert not result.certified


def test_budgets_give_certified_bounds(raw):
    problem = LipschitzProblem(raw.gaussian(4, *[20] * 9, 1))
    best = LipSDP().solve(problem).fun
    for params in ({"max_iter": 0}, {"max_iter": 2}, {"max_time": 0.0}):
        result = LipSDP(**params).solve(problem)
        assert result.status in (Status.ITERATION_LIMIT, Status.TIME_LIMIT)
        assert result.certified
        assert best * (1 - 1e-5) <= result.fun <= problem.part(0).product
        assert not result.success
    product = lipschitz_bound(raw.gaussian(4, *[20] * 9, 1), max_time=0.0)
    assert product.certified
    assert product.status is Status.TIME_LIMIT


def test_resume_and_warm_start(raw):
    problem = LipschitzProblem(raw.gaussian(5, 9, 8, 3), "linf")
    full = LipSDP(n_threads=1).solve(problem)
    for stop in (1, 5, full.nit - 1):
        part = LipSDP(max_iter=stop, n_threads=1).solve(problem)
        state = pickle.loads(pickle.dumps(part.state))
        rest = LipSDP(n_threads=1).solve(problem, state=state)
        assert rest.fun == full.fun
        assert rest.nit == full.nit
    again = LipSDP(n_threads=1).solve(problem, x0=full.x)
    assert again.nit == 0
    np.testing.assert_allclose(again.fun, full.fun, rtol=1e-14)


def test_first_order_and_conic_methods_agree(raw):
    weights = raw.gaussian(4, 10, 8, 2, seed=6)
    problem = LipschitzProblem(weights)
    best = LipSDP().solve(problem)
    slow = LipSDP(method="first_order").solve(problem)
    assert slow.certified
    assert best.relaxation_bound <= slow.fun <= best.fun * 1.01
    assert slow.gap is None
    conic = LipSDP(method="clarabel").solve(problem)
    np.testing.assert_allclose(conic.fun, best.fun, rtol=1e-5)


def test_who_accepts_what(raw):
    weights = raw.gaussian(4, 6, 4, 2)
    groups = LipschitzProblem(weights, activation="maxmin")
    with pytest.raises(UnsupportedProblemError, match="LipSDPGroupSort"):
        LipSDP().solve(groups)
    with pytest.raises(ParameterError, match="lip_sdp"):
        lipschitz_bound(weights, method="lip_spd")
    with pytest.raises(ParameterError, match="structure"):
        LipSDP(structure="pairs").solve(LipschitzProblem(weights))
    with pytest.raises(ParameterError, match="element-wise"):
        lipschitz_bound(_residual(np.random.default_rng(0)), structure="layer")
