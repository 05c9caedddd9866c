"""The problem and its parts: networks, activations, bad inputs, fingerprints."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import scipy.sparse as sp

import lowrank_opt
from lowrank_opt.core.errors import AccuracyWarning, ProblemError
from lowrank_opt.lipschitz import (
    Activation,
    Affine,
    Ball,
    BoundProof,
    Box,
    FeedForward,
    Implicit,
    LipschitzProblem,
    LipSDP,
    Residual,
    ResidualBlock,
    lipschitz_bound,
)
from lowrank_opt.lipschitz.forms import Chain, GroupChain, LowRankLMI

KINDS = [
    Activation("identity"), Activation("relu"), Activation("leaky_relu", 0.3),
    Activation("leaky_relu", 2.0), Activation("abs"), Activation("hardtanh"), Activation("tanh"),
    Activation("sigmoid"), Activation("softplus", 2.0), Activation("elu", 0.5),
    Activation("elu", 3.0), Activation("silu"), Activation("gelu"),
]  # fmt: skip
GROUPS = [
    Activation("maxmin"), Activation("group_sort", group_size=3), Activation("group_sort"),
    Activation("householder", direction=[0.6, 0.8]),
    Activation("householder", direction=[[0.6, 0.8], [1.0, 0.0], [0.8, -0.6]]),
]  # fmt: skip


@pytest.mark.parametrize("phi", KINDS, ids=repr)
def test_slopes_and_intervals_enclose_the_function(phi):
    rng = np.random.default_rng(0)
    centre, half = 3 * rng.standard_normal(300), rng.exponential(size=300)
    low, high = centre - half, centre + half
    least, most = phi.slopes(300)
    alpha, beta = phi.local_slopes(low, high)
    assert np.all(least <= alpha + 1e-15)
    assert np.all(beta <= most + 1e-15)
    bottom, top = phi.interval(low, high)
    reached = np.full(300, np.inf), np.full(300, -np.inf)
    for _ in range(300):
        a, b = low + (high - low) * rng.random((2, 300))
        fa, fb = phi.apply(a), phi.apply(b)
        quotient = (fa - fb) / (a - b)
        assert np.all(quotient >= alpha - 1e-9)
        assert np.all(quotient <= beta + 1e-9)
        assert np.all(fa >= bottom - 1e-12)
        assert np.all(fa <= top + 1e-12)
        reached = np.minimum(reached[0], quotient), np.maximum(reached[1], quotient)
    # Not much wider than what occurs.
    assert np.median(reached[0] - alpha) < 0.1
    assert np.median(beta - reached[1]) < 0.1
    # The global slopes are reached (in the limit for saturating functions).
    z = np.linspace(-40, 40, 400001)
    slope = np.diff(phi.apply(z)) / np.diff(z)
    np.testing.assert_allclose([slope.min(), slope.max()], [least[0], most[0]], atol=4e-4)


@pytest.mark.parametrize("phi", KINDS + GROUPS, ids=repr)
@pytest.mark.parametrize("outputs", [2, 9])
def test_jacobians_by_differences(phi, outputs):
    rng = np.random.default_rng(1)
    shapes = ((6, 4), (6, 6), (outputs, 6))
    W = [Affine(rng.standard_normal(s), rng.standard_normal(s[0])) for s in shapes]
    net = FeedForward((W[0], phi, W[1], phi, W[2]))
    x = rng.standard_normal(4)
    steps = 1e-6 * np.eye(4)
    numeric = (net.forward(x + steps) - net.forward(x - steps)).T / 2e-6
    np.testing.assert_allclose(net.jacobian(x), numeric, atol=1e-6)
    z = net.preactivations(x)[0][0]
    eye = np.eye(6)
    np.testing.assert_allclose(phi.pull(z, eye), phi.push(z, eye), atol=1e-15)


@pytest.mark.parametrize("phi", GROUPS, ids=repr)
def test_groups_are_one_lipschitz_and_keep_a_linear_part(phi):
    rng = np.random.default_rng(2)
    a, b = rng.standard_normal((2, 500, 6))
    da, dp = a - b, phi.apply(a) - phi.apply(b)
    assert np.all(np.linalg.norm(dp, axis=1) <= np.linalg.norm(da, axis=1) * (1 + 1e-12))
    size = phi.size_in(6)
    v = phi.directions(6)
    da, dp = da.reshape(500, -1, size), dp.reshape(500, -1, size)
    if v is None:
        np.testing.assert_allclose(da.sum(-1), dp.sum(-1), atol=1e-12)
    else:
        keep = np.eye(size) - v[:, :, None] * v[:, None, :]
        same = np.einsum("gij,ngj->ngi", keep, da - dp)
        np.testing.assert_allclose(same, 0.0, atol=1e-12)
    low, high = phi.interval(np.minimum(a, b), np.maximum(a, b))
    for t in rng.random((50, 1, 1)):
        value = phi.apply(a + t[0] * (b - a))
        assert np.all(value >= low - 1e-12)
        assert np.all(value <= high + 1e-12)


def test_implicit_and_residual_networks_by_differences():
    rng = np.random.default_rng(3)
    implicit = Implicit(
        0.2 * rng.standard_normal((6, 6)), rng.standard_normal((6, 4)),
        rng.standard_normal((2, 6)), skip=rng.standard_normal((2, 4)),
        bias=rng.standard_normal(6), activation="tanh",
    )  # fmt: skip
    x = rng.standard_normal((5, 4))
    z = implicit.equilibrium(x)
    np.testing.assert_allclose(np.tanh(implicit.preactivations(x)[0]), z, atol=1e-11)
    residual = Residual(
        [ResidualBlock(rng.standard_normal((4, 4)), phi) for phi in ("tanh", "relu")],
        last=Affine(rng.standard_normal((3, 4))),
    )  # fmt: skip
    for net in (implicit, residual):
        steps = 1e-6 * np.eye(4)
        numeric = (net.forward(x[0] + steps) - net.forward(x[0] - steps)).T / 2e-6
        np.testing.assert_allclose(net.jacobian(x[0]), numeric, atol=1e-6)
        C = rng.standard_normal((2, net.n_outputs))
        np.testing.assert_allclose(net.followed_by(C).forward(x), net.forward(x) @ C.T, atol=1e-12)


def test_forms_of_the_parts(raw):
    W = raw.gaussian(4, 6, 6, 3)
    relu, maxmin = Activation("relu"), Activation("maxmin")
    assert isinstance(LipschitzProblem(W).part(0).form, Chain)
    assert isinstance(LipschitzProblem(W, activation="maxmin").part(0).form, GroupChain)
    mixed = LipschitzProblem(W, activation=[relu, maxmin])
    assert isinstance(mixed.part(0).form, LowRankLMI)
    assert mixed.family == "mixed"
    assert [p.label for p in LipschitzProblem(W, "linf").parts] == [0, 1, 2]
    assert LipschitzProblem(W, "l1").n_parts == 4
    wide = LipschitzProblem([np.ones((3, 50)), np.ones((40, 3))])
    assert wide.part(0).form.weights[0].shape == (3, 3)
    assert wide.part(0).form.weights[1].shape == (3, 3)
    sizes = [
        np.linalg.norm(M, 2)
        for M in LipschitzProblem([1e9 * W[0], W[1], W[2]]).part(0).form.weights
    ]
    assert all(0.5 < s < 2 for s in sizes)
    sparse = LipschitzProblem([sp.csr_array(W[0]), W[1], W[2]])
    np.testing.assert_array_equal(
        sparse.part(0).form.weights[0], LipschitzProblem(W).part(0).form.weights[0]
    )


def test_certificate_refuses_what_proves_nothing(raw):
    problem = LipschitzProblem(raw.gaussian(4, 6, 3))
    result = LipSDP().solve(problem)
    good = problem.certificate(result.x)
    assert good.residual <= 1e-6
    assert good.objective == result.fun
    product = problem.certificate(BoundProof("product"))
    np.testing.assert_allclose(product.objective, problem.part(0).product)
    # Numbers that prove nothing are worth no more than the product of norms.
    for wrong in (1e3, np.nan, 0.0):
        proof = BoundProof("multipliers", tuple(wrong * v for v in result.x.multipliers))
        assert problem.objective(proof) == problem.part(0).product
    # A dual matrix of another network is no lower bound.
    other = LipSDP().solve(LipschitzProblem(raw.gaussian(4, 6, 3, seed=1)))
    mixed = BoundProof("multipliers", result.x.multipliers, other.x.dual)
    graded = problem.certificate(mixed)
    assert graded.details.get("relaxation_bound", 0.0) <= result.relaxation_bound * (1 + 1e-9)
    with pytest.raises(ProblemError, match="1 parts; the problem has 3"):
        LipschitzProblem(raw.gaussian(4, 6, 3), "linf").objective(result.x)


def test_pickle_fingerprint_and_repr(raw):
    W = raw.gaussian(4, 6, 3)
    problem = LipschitzProblem(W, "linf", output=(0, 1), region=Ball(np.zeros(4), 1.0))
    again = pickle.loads(pickle.dumps(problem))
    assert again.fingerprint() == problem.fingerprint()
    assert LipschitzProblem(W).fingerprint() != problem.fingerprint()
    other = [W[0].copy(), W[1]]
    other[0][0, 0] += 1e-9
    assert LipschitzProblem(other).fingerprint() != LipschitzProblem(W).fingerprint()
    assert repr(problem) == (
        "LipschitzProblem(FeedForward(4-6-3, relu), norm='linf', output=(0, 1), region=Ball)"
    )
    before = [w.copy() for w in W]
    lipschitz_bound(W)
    for a, b in zip(W, before, strict=True):
        np.testing.assert_array_equal(a, b)


def _weights():
    return [np.ones((4, 3)), np.ones((2, 4))]


BAD = {
    "columns": (lambda: [np.ones((4, 3)), np.ones((2, 5))], {}, r"layer.*\(2, 5\).*4 values"),
    "nan": (lambda: [np.full((4, 3), np.nan), np.ones((2, 4))], {}, "NaN"),
    "complex": (lambda: [np.ones((4, 3)) * 1j, np.ones((2, 4))], {}, "complex"),
    "object": (lambda: [np.array([["a"]], dtype=object)], {}, "object"),
    "empty layer": (lambda: [np.ones((0, 3)), np.ones((2, 0))], {}, "empty"),
    "no layers": (list, {}, "empty|at least one|no "),
    "vector": (lambda: [np.ones(3)], {}, "matrix|dimension"),
    "norm": (_weights, {"norm": "l3"}, "norm='l3'"),
    "output": (_weights, {"output": 2}, "outputs 0 to 1"),
    "pair": (_weights, {"output": (1, 1)}, "differ"),
    "output matrix": (_weights, {"output": np.ones((1, 3))}, r"\(k, 2\)"),
    "output bool": (_weights, {"output": True}, "output=True"),
    "activation": (_weights, {"activation": "rleu"}, "Did you mean 'relu'"),
    "softmax": (_weights, {"activation": "softmax"}, "softmax"),
    "groups": (_weights, {"activation": Activation("group_sort", group_size=3)}, "multiple of"),
    "region": (_weights, {"region": (0, 1)}, "Ball"),
    "region size": (_weights, {"region": Ball(np.zeros(2), 1.0)}, "3 inputs"),
    "slopes count": (
        _weights, {"activation": Activation("slopes", lower=[0, 0], upper=[1, 1])}, "4 neurons",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", sorted(BAD))
def test_bad_input_is_named(case):
    make, params, match = BAD[case]
    with pytest.raises(ProblemError, match=match):
        lipschitz_bound(make(), **params)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: Activation("slopes", lower=1.0, upper=0.0), "exceeds upper"),
        (lambda: Activation("slopes"), "needs lower and upper"),
        (lambda: Activation("householder", direction=[1.0, 1.0]), "unit vectors"),
        (lambda: Activation("householder", direction=[0.0, 0.0]), "zero vector"),
        (lambda: Activation("householder"), "needs direction"),
        (lambda: Activation("maxmin", group_size=3), "must be 2"),
        (lambda: Activation("relu", lower=0.0), "belong to"),
        (lambda: Activation("elu", -1.0), "positive"),
        (lambda: Ball(np.zeros(3), -1.0), "radius=-1"),
        (lambda: Ball(np.array([np.nan]), 1.0), "NaN"),
        (lambda: Box([0.0, 2.0], [1.0, 1.0]), "input 1: 2 > 1"),
        (lambda: Box([0.0, 2.0], [1.0, 1.0, 1.0]), "same"),
        (lambda: Box.around(np.zeros(3), -0.1), "eps=-0.1"),
        (lambda: Box(-np.inf, np.inf), "region=None"),
        (lambda: FeedForward((Activation("relu"),)), "first layer"),
        (lambda: FeedForward((Affine(np.eye(2)), "relu")), "layer 1 is a str"),
        (lambda: Affine(np.eye(2), np.ones(3)), "3 entries"),
        (lambda: Residual([]), "at least one"),
        (lambda: ResidualBlock(np.ones((3, 2))), "do not fit"),
        (lambda: Implicit(np.eye(3), np.eye(2), np.eye(3)), "do not fit"),
        (
            lambda: LipschitzProblem(
                Residual([ResidualBlock(np.eye(2))]), region=Ball(np.zeros(2), 1.0)
            ),
            "feed-forward",
        ),
    ],
)
def test_bad_parts_are_named(make, match):
    with pytest.raises(ProblemError, match=match):
        make()


def test_householder_nearly_unit_is_normalised_with_a_warning():
    with pytest.warns(AccuracyWarning, match="normalised"):
        phi = Activation("householder", direction=[0.6 + 1e-8, 0.8])
    np.testing.assert_allclose(np.linalg.norm(phi.direction), 1.0, rtol=1e-15)


def test_integers_and_single_precision(raw):
    W = [np.array([[1, 2], [3, 4]]), np.array([[1, -1]])]
    exact = lipschitz_bound([w.astype(float) for w in W])
    assert lipschitz_bound(W).fun == exact.fun
    half = [w.astype(np.float32) for w in raw.gaussian(4, 6, 2)]
    np.testing.assert_allclose(
        lipschitz_bound(half).fun, lipschitz_bound([w.astype(float) for w in half]).fun, rtol=1e-14
    )


def test_slopes_alone_need_no_values(raw):
    W = raw.gaussian(4, 6, 2)
    only = lipschitz_bound(W, activation=Activation("slopes", lower=0.0, upper=1.0))
    np.testing.assert_allclose(only.fun, lipschitz_bound(W).fun, rtol=1e-6)
    assert only.lower_bound == 0.0
    with pytest.raises(ProblemError, match="no values"):
        LipschitzProblem(W, activation=Activation("slopes", lower=0.0, upper=1.0)).network.forward(
            np.zeros(4)
        )


def test_front_door_of_the_library(raw):
    result = lowrank_opt.solve(LipschitzProblem(raw.gaussian(4, 6, 2)))
    assert result.success
    assert "LipSDP" in result.solver


@pytest.mark.parametrize("first", ["sigmoid", "elu", "tanh", "silu", "leaky_relu"])
@pytest.mark.parametrize("region", [Ball, Box])
def test_slopes_on_a_region_hold_after_activations_of_any_slope(first, region):
    # The regions behind an activation of slopes far from one were too small.
    from lowrank_opt.lipschitz.local_slopes import slopes_on

    rng = np.random.default_rng(3)
    parameter = {"elu": 2.5, "leaky_relu": 2.0}.get(first)
    for radius in [0.3, 2.0] * 10:
        layers = []
        for kind in (Activation(first, parameter), Activation("sigmoid"), Activation("tanh")):
            W = rng.standard_normal((4, layers[-2].n_outputs if layers else 2))
            layers += [Affine(W, rng.standard_normal(4)), kind]
        network = FeedForward((*layers, Affine(np.ones((1, 4)))))
        where = Ball(np.zeros(2), radius) if region is Ball else Box(-radius * np.ones(2), radius)
        u = rng.standard_normal((300, 2))
        u *= radius * rng.random((300, 1)) ** 0.3 / np.linalg.norm(u, axis=1, keepdims=True)
        for z, (alpha, beta), phi in zip(
            network.preactivations(u), slopes_on(network, where), layers[1::2], strict=True
        ):
            d = phi.derivative(z)
            assert (d >= alpha - 1e-12).all()
            assert (d <= beta + 1e-12).all()


@pytest.mark.parametrize("norm", ["l2", "linf", "l1"])
def test_partial_products_do_not_underflow(norm):
    W = [np.array([[s]]) for s in [1e-120] * 3 + [1e120] * 3]
    for weights in (W, W[::-1]):
        result = lipschitz_bound(weights, norm=norm)
        assert 1.0 <= result.fun <= 1.0 + 1e-9
    with pytest.raises(ProblemError, match="below the range"):
        lipschitz_bound([1e-150 * np.eye(2)] * 3, norm=norm)
