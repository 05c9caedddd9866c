"""Tightness of propagation: closed forms, invariances, agreement with Jacobians and intervals."""

import itertools

import numpy as np
import pytest
import scipy.linalg as la
import scipy.sparse as sp
from scipy.special import gammaln

from lowrank_opt.core.errors import ParameterError, ProblemError
from lowrank_opt.lipschitz.activations import Activation
from lowrank_opt.lipschitz.intervals import interval_bounds
from lowrank_opt.lipschitz.network import Affine, FeedForward, Implicit, Residual, ResidualBlock
from lowrank_opt.lipschitz.tightness import propagation_tightness


def network_of(weights, kind="relu", biases=None, **options):
    layers = []
    for k, W in enumerate(weights):
        layers.append(Affine(W, None if biases is None else biases[k]))
        if k < len(weights) - 1:
            layers.append(Activation(kind, **options))
    return FeedForward(tuple(layers))


def gaussian(dims, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal((b, a)) / np.sqrt(a) for a, b in itertools.pairwise(dims)]


def expected_of_two_layers(d):
    """Ratio of expectations for Gaussian weights and d hidden neurons."""
    return np.sqrt(np.pi) * np.exp(gammaln((d + 1) / 2) - gammaln(d / 2)) / d


# -- closed forms --------------------------------------------------------------------------------


def test_the_formula_has_the_published_values():
    assert expected_of_two_layers(10) == pytest.approx(0.38656, abs=5e-6)
    assert expected_of_two_layers(100) == pytest.approx(0.12502, abs=5e-6)


@pytest.mark.parametrize("d", [10, 100])
def test_gaussian_weights_have_the_expected_tightness(d):
    W1, W2 = gaussian((1000, d, 2000), seed=d)
    tau = propagation_tightness(network_of([W1, W2]), mode="linear", per_output=True)
    sizes = np.abs(W2) @ np.abs(W1).sum(axis=1)
    assert (tau * sizes).sum() / sizes.sum() == pytest.approx(expected_of_two_layers(d), rel=0.01)


def test_active_neurons_of_a_fresh_relu_network_give_the_factor_of_sqrt_two():
    Ws = gaussian((100, 200, 50))
    X = np.random.default_rng(1).standard_normal((40, 100))
    local = propagation_tightness(network_of(Ws), X)
    linear = propagation_tightness(network_of(Ws), mode="linear")
    assert local / linear == pytest.approx(np.sqrt(2.0), rel=0.02)


@pytest.mark.parametrize("mode", ["linear", "local"])
def test_paths_of_the_same_sign_lose_nothing(mode):
    rng = np.random.default_rng(2)
    Ws = [np.abs(W) for W in gaussian((6, 9, 7, 4), seed=2)]
    # Signs that cancel along every path: D_2 W_2 D_1 ... with the neurons' signs flipped.
    flips = [rng.choice([-1.0, 1.0], size=n) for n in (9, 7)]
    signed = [flips[0][:, None] * Ws[0], flips[1][:, None] * Ws[1] * flips[0], Ws[2] * flips[1]]
    X = rng.standard_normal((5, 6))
    for weights in (Ws, signed):
        assert propagation_tightness(network_of(weights), X, mode=mode) == pytest.approx(
            1.0, rel=1e-12
        )
    mixed = [Ws[0], Ws[1], Ws[2] * flips[1]]
    assert propagation_tightness(network_of(mixed), mode="linear") < 0.99


def test_one_layer_loses_nothing():
    network = network_of(gaussian((6, 4)))
    assert propagation_tightness(network, mode="linear") == pytest.approx(1.0, rel=1e-12)
    assert propagation_tightness(network, np.ones((2, 6))) == pytest.approx(1.0, rel=1e-12)


@pytest.mark.parametrize("n", [2, 16])
def test_products_of_hadamard_matrices_underflow_without_harm(n):
    # H H = n I and |H| |H| = n 1 1': 2 m maps have tightness n^-m, far below the smallest double.
    H = la.hadamard(n).astype(float)
    deep = FeedForward(tuple(Affine(H) for _ in range(2400)))
    value = propagation_tightness(deep, log=True)
    assert value == pytest.approx(-1200.0 * np.log(n), rel=1e-10)
    assert propagation_tightness(deep) == 0.0
    shallow = FeedForward(tuple(Affine(H) for _ in range(6)))
    assert propagation_tightness(shallow) == pytest.approx(float(n) ** -3, rel=1e-12)


def test_an_output_without_dependence_is_tight():
    network = network_of([np.eye(3), np.array([[1.0, 1.0, 0.0], [0.0, 0.0, 0.0]])])
    np.testing.assert_array_equal(
        propagation_tightness(network, mode="linear", per_output=True), [1.0, 1.0]
    )
    # And where paths cancel exactly, nothing is left.
    gone = network_of([np.array([[1.0], [1.0]]), np.array([[1.0, -1.0]])])
    assert propagation_tightness(gone, mode="linear") == 0.0
    assert propagation_tightness(gone, mode="linear", log=True) == -np.inf


def test_relu_at_zero_counts_as_active():
    W1, W2 = np.array([[1.0], [1.0]]), np.array([[1.0, -0.5]])
    assert propagation_tightness(network_of([W1, W2]), [[0.0]]) == pytest.approx(1.0 / 3.0)


# -- invariances ---------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["linear", "local"])
def test_rescaling_and_permutation_of_neurons_change_nothing(mode):
    rng = np.random.default_rng(3)
    W1, W2, W3 = gaussian((5, 8, 6, 4), seed=3)
    b1, b2 = rng.standard_normal(8), rng.standard_normal(6)
    X = rng.standard_normal((7, 5))
    expected = propagation_tightness(network_of([W1, W2, W3], biases=[b1, b2, None]), X, mode=mode)
    D, p = np.exp(rng.standard_normal(8)), rng.permutation(8)
    scaled = network_of([D[:, None] * W1, W2 / D, 7.0 * W3], biases=[D * b1, b2, None])
    assert propagation_tightness(scaled, X, mode=mode) == pytest.approx(expected, rel=1e-12)
    moved = network_of([W1[p], W2[:, p], W3], biases=[b1[p], b2, None])
    assert propagation_tightness(moved, X, mode=mode) == pytest.approx(expected, rel=1e-12)


# -- agreement -----------------------------------------------------------------------------------


def options_of(kind, rng):
    if kind == "householder":
        v = rng.standard_normal((4, 2))
        return {"direction": v / np.linalg.norm(v, axis=1, keepdims=True)}
    return {"group_size": 4} if kind == "group_sort" else {}


@pytest.mark.parametrize("kind", ["relu", "tanh", "silu", "maxmin", "group_sort", "householder"])
@pytest.mark.parametrize("n_out", [3, 9])  # rows backwards, columns forwards
def test_radii_are_those_of_the_jacobian_and_of_small_boxes(kind, n_out):
    # In a box so small that no kink is met, intervals give the radius of the denominator.
    rng = np.random.default_rng(4)
    network = network_of(
        gaussian((5, 8, 8, n_out), seed=4), kind, [rng.standard_normal(8)] * 2 + [None],
        **options_of(kind, rng),
    )  # fmt: skip
    X, eps = rng.standard_normal((6, 5)), 1e-7
    tau = propagation_tightness(network, X, per_output=True)
    bounds = interval_bounds(network, X, eps)
    assert tau.shape == (6, n_out)
    for i, x in enumerate(X):
        best = np.abs(network.jacobian(x)).sum(axis=1)
        np.testing.assert_allclose(
            tau[i] * 0.5 * (bounds.upper[i] - bounds.lower[i]) / eps, best, rtol=1e-5
        )
    assert propagation_tightness(network, X) == pytest.approx(tau.mean(axis=1).mean(), rel=1e-12)
    logs = propagation_tightness(network, X, per_output=True, log=True)
    np.testing.assert_allclose(np.exp(logs), tau, rtol=1e-12)
    mean = propagation_tightness(network, X, log=True)
    assert mean == pytest.approx(np.log(tau.mean()), rel=1e-12)


def test_residual_networks_agree_with_jacobian_and_small_boxes():
    rng = np.random.default_rng(5)
    blocks = [ResidualBlock(0.5 * rng.standard_normal((5, 5)), bias=rng.standard_normal(5))]
    blocks.append(
        ResidualBlock(
            rng.standard_normal((7, 5)), "tanh", skip=rng.standard_normal((3, 5)),
            output=rng.standard_normal((3, 7)),
        )
    )  # fmt: skip
    network = Residual(tuple(blocks), Affine(rng.standard_normal((5, 4))))
    X, eps = rng.standard_normal((6, 4)), 1e-7
    tau = propagation_tightness(network, X, per_output=True)
    bounds = interval_bounds(network, X, eps)
    for i, x in enumerate(X):
        best = np.abs(network.jacobian(x)).sum(axis=1)
        np.testing.assert_allclose(
            tau[i] * 0.5 * (bounds.upper[i] - bounds.lower[i]) / eps, best, rtol=1e-5
        )


def test_convolutions_are_sparse_maps():
    # A kernel of one sign and its dense twin: every path has the same sign.
    def toeplitz(kernel, n):
        return sp.csr_array(sp.diags_array(kernel, offsets=range(len(kernel)), shape=(n - 2, n)))

    first, second = toeplitz([1.0, 2.0, 0.5], 12), toeplitz([0.3, 1.0, 0.1], 10)
    network = network_of([first, second])
    X = np.random.default_rng(6).standard_normal((3, 12))
    assert propagation_tightness(network, X) == pytest.approx(1.0, rel=1e-12)
    mixed = network_of([toeplitz([1.0, -2.0, 0.5], 12), toeplitz([0.3, 1.0, -0.1], 10)])
    dense = FeedForward(
        tuple(Affine(a.dense) if isinstance(a, Affine) else a for a in mixed.layers)
    )
    for mode in ("linear", "local"):
        value = propagation_tightness(mixed, X, mode=mode)
        assert value < 0.99
        assert value == pytest.approx(propagation_tightness(dense, X, mode=mode), rel=1e-12)


def test_blocks_of_inputs_agree(monkeypatch):
    from lowrank_opt.lipschitz import tightness

    network, X = network_of(gaussian((5, 8, 3))), np.random.default_rng(7).standard_normal((9, 5))
    whole = propagation_tightness(network, X, per_output=True)
    monkeypatch.setattr(tightness, "_BLOCK", 50)
    parts = propagation_tightness(network, X, per_output=True)
    np.testing.assert_allclose(parts, whole, rtol=1e-12)
    one = propagation_tightness(network, X[2], per_output=True)
    np.testing.assert_allclose(one, whole[2], rtol=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_values_are_between_zero_and_one(seed):
    rng = np.random.default_rng(seed)
    network = network_of(gaussian((4, 6, 6, 5), seed=seed))
    tau = propagation_tightness(network, rng.standard_normal((20, 4)), per_output=True)
    assert (tau >= 0.0).all()
    assert (tau <= 1.0).all()


def test_bad_input():
    network = network_of(gaussian((5, 8, 3)))
    with pytest.raises(ParameterError, match="mode='tight'"):
        propagation_tightness(network, mode="tight")
    with pytest.raises(ParameterError, match="needs inputs"):
        propagation_tightness(network, mode="local")
    with pytest.raises(ProblemError, match=r"expected \(n, 5\)"):
        propagation_tightness(network, np.zeros((2, 4)))
    with pytest.raises(ProblemError, match="NaN"):
        propagation_tightness(network, [[np.nan] * 5])
    with pytest.raises(ProblemError, match="implicit"):
        propagation_tightness(Implicit(np.zeros((2, 2)), np.eye(2), np.eye(2)))
