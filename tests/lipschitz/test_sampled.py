"""Sampled lower bounds: closed forms, finite differences, exact rational arithmetic."""

from __future__ import annotations

import itertools
import pickle
from fractions import Fraction

import numpy as np
import pytest
import scipy.sparse as sp

from lowrank_opt.core import Status
from lowrank_opt.core.errors import ParameterError, ProblemError
from lowrank_opt.lipschitz import LipschitzProblem, SampledLowerBound
from lowrank_opt.lipschitz.activations import Activation
from lowrank_opt.lipschitz.linearised import Linearised
from lowrank_opt.lipschitz.network import Affine, FeedForward, Implicit, Residual, ResidualBlock
from lowrank_opt.lipschitz.regions import Ball, Box
from lowrank_opt.lipschitz.sampled import sampled_lower_bound, witness_bound

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


def residual(seed=0, kind="relu"):
    rng = np.random.default_rng(seed)
    blocks = [
        ResidualBlock(rng.standard_normal((6, 5)) / 3, kind, rng.standard_normal(6) / 3,
                      output=rng.standard_normal((5, 6)) / 3)
        for _ in range(3)
    ]  # fmt: skip
    return Residual(
        blocks, Affine(rng.standard_normal((5, 3))), Affine(rng.standard_normal((2, 5)))
    )


def implicit(seed=0, kind="relu"):
    rng = np.random.default_rng(seed)
    W = rng.standard_normal((7, 7))
    W *= 0.6 / np.linalg.norm(W, 2)
    return Implicit(
        W, rng.standard_normal((7, 3)), rng.standard_normal((2, 7)),
        rng.standard_normal((2, 3)), rng.standard_normal(7), None, kind,
    )  # fmt: skip


def quotient(network, x, norm, n=40, h=1e-6, seed=1):
    """Return the largest difference quotient over short steps from x."""
    rng = np.random.default_rng(seed)
    D = np.vstack(
        [
            rng.standard_normal((n, len(x))),
            np.sign(rng.standard_normal((n, len(x)))),
            np.eye(len(x)),
        ]
    )
    J = network.jacobian(x)
    D = np.vstack([D, np.linalg.svd(J)[2][:1], np.sign(J)])
    top = 0.0
    for d in D:
        gain = network.forward(x + h * d) - network.forward(x - h * d)
        top = max(top, np.linalg.norm(gain, NORMS[norm]) / np.linalg.norm(2 * h * d, NORMS[norm]))
    return top


NETWORKS = {
    "relu": net((5, 9, 8, 3)),
    "leaky": net((5, 9, 8, 3), "leaky_relu", parameter=0.2),
    "abs": net((5, 9, 8, 3), "abs"),
    "tanh": net((5, 9, 8, 3), "tanh"),
    "sigmoid": net((5, 9, 8, 3), "sigmoid"),
    "softplus": net((5, 9, 8, 3), "softplus", parameter=2.0),
    "elu": net((5, 9, 8, 3), "elu"),
    "silu": net((5, 9, 8, 3), "silu"),
    "gelu": net((5, 9, 8, 3), "gelu"),
    "hardtanh": net((5, 9, 8, 3), "hardtanh"),
    "sort": net((5, 8, 8, 3), "group_sort", group_size=4),
    "householder": net((5, 8, 8, 3), "householder", direction=[0.6, 0.8]),
    "residual": residual(),
    "residual tanh": residual(1, "tanh"),
    "implicit": implicit(),
    "implicit tanh": implicit(1, "tanh"),
}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("norm", NORMS)
def test_bound_is_the_difference_quotient_at_its_witness(name, norm):
    network = NETWORKS[name]
    value, x = sampled_lower_bound(network, norm)
    J = network.jacobian(x)
    assert value <= np.linalg.norm(J, NORMS[norm]) * (1 + 1e-12)
    assert value >= np.linalg.norm(J, NORMS[norm]) * (1 - 1e-8)
    np.testing.assert_allclose(quotient(network, x, norm), value, rtol=1e-6)


@pytest.mark.parametrize("name", NETWORKS)
def test_batched_products_are_those_with_the_jacobian(name):
    network = NETWORKS[name]
    rng = np.random.default_rng(3)
    X = rng.standard_normal((4, network.n_inputs))
    V, U = rng.standard_normal(X.shape), rng.standard_normal((4, network.n_outputs))
    lin = Linearised(network, X)
    assert lin.clear.all()
    for k, x in enumerate(X):
        J = network.jacobian(x)
        np.testing.assert_allclose(lin.push(V)[k], J @ V[k], atol=1e-12)
        np.testing.assert_allclose(lin.pull(U)[k], J.T @ U[k], atol=1e-12)


@pytest.mark.parametrize("name", ["tanh", "silu", "softplus", "residual tanh", "implicit tanh"])
def test_ascent_direction_is_the_gradient(name, monkeypatch):
    from lowrank_opt.lipschitz import linearised

    monkeypatch.setattr(linearised, "SMOOTHING", 1e-4)
    network = NETWORKS[name]
    rng = np.random.default_rng(3)
    x = rng.standard_normal(network.n_inputs)
    v, u = rng.standard_normal(network.n_inputs), rng.standard_normal(network.n_outputs)
    lin = Linearised(network, x[None])
    lin.pull(u[None])
    lin.push(v[None])
    g, h = lin.ascent()[0], 1e-5
    for d in np.eye(len(x)):
        slope = u @ (network.jacobian(x + h * d) - network.jacobian(x - h * d)) @ v / (2 * h)
        np.testing.assert_allclose(g @ d, slope, atol=1e-5 * np.abs(g).max())


def exact_jacobian(network, x):
    """Return the Jacobian of a ReLU network at x in rational arithmetic."""
    h = [Fraction(float(v)) for v in x]
    J = [[Fraction(int(i == j)) for j in range(len(x))] for i in range(len(x))]
    for layer in network.layers:
        if isinstance(layer, Affine):
            W = [[Fraction(float(a)) for a in row] for row in layer.weight]
            b = [Fraction(float(a)) for a in layer.bias]
            h = [sum(a * c for a, c in zip(row, h, strict=True)) + s
                 for row, s in zip(W, b, strict=True)]  # fmt: skip
            columns = list(zip(*J, strict=True))
            J = [[sum(a * c for a, c in zip(row, col, strict=True)) for col in columns]
                 for row in W]  # fmt: skip
        else:
            on = [v > 0 for v in h]
            h = [v if s else Fraction(0) for v, s in zip(h, on, strict=True)]
            J = [[v if s else Fraction(0) for v in row] for row, s in zip(J, on, strict=True)]
    return J


@pytest.mark.parametrize("seed", range(6))
def test_witness_bound_holds_in_rational_arithmetic(seed):
    network = net((3, 6, 5, 2), seed=seed)
    x = np.random.default_rng(seed).standard_normal(3)
    J = exact_jacobian(network, x)
    rows = max(sum(abs(v) for v in row) for row in J)
    columns = max(sum(abs(v) for v in column) for column in zip(*J, strict=True))
    linf, l1 = witness_bound(network, "linf", x), witness_bound(network, "l1", x)
    assert Fraction(linf) <= rows
    assert Fraction(l1) <= columns
    assert linf >= float(rows) * (1 - 1e-13)
    assert l1 >= float(columns) * (1 - 1e-13)
    # l2: the squared norm is a root of the polynomial of J Jᵀ, 2 x 2.
    G = [[sum(a * b for a, b in zip(r, s, strict=True)) for s in J] for r in J]
    value = Fraction(witness_bound(network, "l2", x)) ** 2
    trace, det = G[0][0] + G[1][1], G[0][0] * G[1][1] - G[0][1] ** 2
    assert value**2 - trace * value + det <= 0  # between the two eigenvalues
    top = float(trace) / 2 + np.sqrt(float(trace**2 / 4 - det))
    np.testing.assert_allclose(float(value), top, rtol=1e-12)


def test_two_neurons_of_the_counterexample():
    # relu(x) - relu(x - 1): constant 1; both neurons on gives slope 0.
    f = FeedForward((
        Affine([[1.0], [1.0]], [0.0, -1.0]), Activation("relu"), Affine([[1.0, -1.0]]),
    ))  # fmt: skip
    for norm in NORMS:
        value, x = sampled_lower_bound(f, norm)
        assert 1 - 1e-12 <= value <= 1.0
        assert 0 < x[0] < 1
    assert sampled_lower_bound(f, "l2", Box(2.0, 3.0))[0] == 0.0
    assert sampled_lower_bound(f, "l2", Ball([0.5], 0.1))[0] >= 1 - 1e-12


def test_linear_network_gives_the_norm_of_the_product():
    rng = np.random.default_rng(0)
    A, B = rng.standard_normal((6, 4)), rng.standard_normal((3, 6))
    f = FeedForward((Affine(A), Activation("identity"), Affine(B)))
    for norm, order in NORMS.items():
        value, _ = sampled_lower_bound(f, norm)
        np.testing.assert_allclose(value, np.linalg.norm(B @ A, order), rtol=1e-12)


def test_kinks_that_matter_do_not_count():
    # relu(x) - relu(-x) has slope 1 and relu(x) - relu(x) slope 0 everywhere, but with any other
    # choice of the derivatives at the kink something else comes out there.
    f = FeedForward((Affine([[1.0], [-1.0], [1.0]]), Activation("relu"),
                     Affine([[1.0, -1.0, 0.0]])))  # fmt: skip
    zero = FeedForward((*f.layers[:-1], Affine([[1.0, 0.0, -1.0]])))
    assert witness_bound(f, "l2", [0.0], v=np.ones(1)) == 0.0
    assert witness_bound(f, "l2", [0.0]) == 0.0  # the slope, 1, is not certain at the kink
    assert witness_bound(f, "l2", [0.5]) == pytest.approx(1.0, rel=1e-14)
    assert witness_bound(zero, "l2", [0.0]) == 0.0
    # relu(x) - relu(-x) - x is zero everywhere, but left derivatives at the kink give -1.
    flat = Residual([ResidualBlock([[1.0], [-1.0]], "relu", skip=[[-1.0]], output=[[1.0, -1.0]])])
    np.testing.assert_array_equal(flat.forward(np.array([[2.0], [-3.0]])), 0.0)
    assert witness_bound(flat, "l2", [0.0]) == 0.0


def test_dead_neurons_on_their_kink_do_no_harm():
    W = np.array([[1.0, 2.0], [0.0, 0.0], [3.0, -1.0]])
    f = FeedForward((Affine(W), Activation("relu"), Affine(np.eye(3)), Activation("relu"),
                     Affine([[1.0, 5.0, 1.0]])))  # fmt: skip
    value, x = sampled_lower_bound(f)
    np.testing.assert_allclose(value, np.linalg.norm([4.0, 1.0]), rtol=1e-12)
    assert witness_bound(f, "l2", x) == pytest.approx(value, rel=1e-14)
    tied = FeedForward((Affine(W[[0, 0]]), Activation("group_sort", group_size=2),
                        Affine([[1.0, 1.0]])))  # fmt: skip
    np.testing.assert_allclose(sampled_lower_bound(tied)[0], 2 * np.sqrt(5), rtol=1e-12)


def test_region_holds_inputs_that_do_not_vary():
    f = FeedForward((Affine([[3.0, 4.0]], [1.0]), Activation("relu"), Affine([[1.0]])))
    box = Box([0.0, 1.0], [1.0, 1.0])
    value, x = sampled_lower_bound(f, "l2", box)
    np.testing.assert_allclose(value, 3.0, rtol=1e-12)
    assert x[1] == 1.0
    assert sampled_lower_bound(f, "l2", Ball([1.0, 1.0], 0.0))[0] == 0.0
    assert witness_bound(f, "l2", [0.0, 5.0], box) == 0.0  # outside
    assert witness_bound(f, "l2", [0.5, 1.0], box) == pytest.approx(3.0, rel=1e-14)


@pytest.mark.parametrize("region", [Ball(np.full(5, 0.3), 0.2), Box(-0.1, 0.1)])
def test_witness_lies_in_the_region(region):
    for network in (NETWORKS["relu"], NETWORKS["tanh"]):
        value, x = sampled_lower_bound(network, "l2", region, n_ascent=60)
        if isinstance(region, Ball):
            assert np.linalg.norm(x - region.center) <= region.radius
        else:
            assert np.all(np.abs(x) <= 0.1)
        assert value <= sampled_lower_bound(network, "l2", n_samples=4000, n_ascent=60)[0] * 1.05


def test_ascent_finds_the_steepest_point_of_a_smooth_network():
    # tanh(3 x - 6): the derivative is 3 at x = 2 and nowhere larger.
    f = FeedForward((Affine([[3.0]], [-6.0]), Activation("tanh"), Affine([[1.0]])))
    value, x = sampled_lower_bound(f, n_ascent=60)
    np.testing.assert_allclose(value, 3.0, rtol=1e-6)
    np.testing.assert_allclose(x, 2.0, atol=1e-3)


def test_all_regions_of_a_small_network_are_reached():
    # One input: the Jacobian is constant between kinks, which a fine grid meets all.
    network = net((1, 8, 6, 2), seed=4)
    grid = np.linspace(-30, 30, 6001)
    true = max(np.linalg.norm(network.jacobian([t]), 2) for t in grid)
    problem = LipschitzProblem(network)
    result = SampledLowerBound().solve(problem)
    np.testing.assert_allclose(result.lower_bound, true, rtol=1e-9)


def test_networks_known_by_slopes_give_zero_and_say_so():
    f = FeedForward((
        Affine([[1.0], [2.0]]), Activation("slopes", lower=0.0, upper=1.0), Affine([[1.0, 1.0]]),
    ))  # fmt: skip
    assert sampled_lower_bound(f) == (0.0, None)
    result = SampledLowerBound().solve(LipschitzProblem(f))
    assert result.lower_bound == 0.0
    assert "slopes only" in result.message


def test_sparse_weights_and_wide_networks():
    rng = np.random.default_rng(0)
    S = sp.random_array((90, 80), density=0.1, rng=rng, format="csr")
    dense = FeedForward((Affine(S.toarray()), Activation("relu"), Affine(rng.random((70, 90)))))
    sparse = FeedForward((Affine(S), Activation("relu"), dense.layers[2]))
    for norm in NORMS:  # 70 outputs: the Jacobian is not formed
        a, b = sampled_lower_bound(dense, norm), sampled_lower_bound(sparse, norm)
        np.testing.assert_allclose(a[0], b[0], rtol=1e-10)
        J = dense.jacobian(a[1])
        assert a[0] <= np.linalg.norm(J, NORMS[norm]) * (1 + 1e-12)
        assert a[0] >= np.linalg.norm(J, NORMS[norm]) * 0.99


def test_scales_far_from_one_are_no_trouble():
    network = net((4, 8, 8, 2), bias=0.0)
    scaled = FeedForward(tuple(
        Affine(a.weight * 2.0**-300) if isinstance(a, Affine) else a for a in network.layers
    ))  # fmt: skip
    value, _ = sampled_lower_bound(network, n_samples=50, n_ascent=0)
    small, _ = sampled_lower_bound(
        FeedForward((*scaled.layers[:3], *network.layers[3:])), n_samples=50, n_ascent=0
    )
    np.testing.assert_allclose(small / 2.0**-600, value, rtol=1e-9)


def test_deep_networks_get_a_value():
    network = net((4, *(20,) * 40, 1), bias=0.0)
    value, x = sampled_lower_bound(network)
    np.testing.assert_allclose(value, np.linalg.norm(network.jacobian(x)), rtol=1e-8)


def test_errors_name_the_argument():
    with pytest.raises(ParameterError, match="norm='l3'"):
        sampled_lower_bound(NETWORKS["relu"], "l3")
    with pytest.raises(ProblemError, match="5 inputs"):
        witness_bound(NETWORKS["relu"], "l2", [1.0])
    with pytest.raises(ParameterError, match="n_samples"):
        SampledLowerBound(n_samples=0).solve(LipschitzProblem(NETWORKS["relu"]))


@pytest.mark.parametrize("norm", NORMS)
def test_solver_completes_resumes_and_starts_warm(norm):
    problem = LipschitzProblem(NETWORKS["relu"], norm)
    solver = SampledLowerBound(n_ascent=30, n_samples=20, check_every=4)
    whole = solver.solve(problem)
    assert whole.status is Status.CONVERGED
    assert whole.nit == 30
    assert 0 < whole.lower_bound <= whole.fun
    assert whole.certified
    cut = SampledLowerBound(n_ascent=30, n_samples=20, check_every=3, max_iter=12).solve(problem)
    assert cut.status is Status.ITERATION_LIMIT
    assert cut.lower_bound > 0
    rest = solver.solve(problem, state=pickle.loads(pickle.dumps(cut.state)))
    assert rest.lower_bound == whole.lower_bound
    np.testing.assert_array_equal(rest.witness, whole.witness)
    again = solver.solve(problem, x0=whole.x)
    assert again.nit == 0
    assert again.lower_bound >= whole.lower_bound * (1 - 1e-12)
    assert witness_bound(problem.network, norm, whole.witness) >= whole.lower_bound * (1 - 1e-12)
