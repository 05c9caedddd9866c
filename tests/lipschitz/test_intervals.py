"""Interval bounds: enclosure by sampling, exact boxes, exact arithmetic, bad input."""

import itertools
from fractions import Fraction

import numpy as np
import pytest
import scipy.sparse as sp

from lowrank_opt.core.errors import ProblemError
from lowrank_opt.lipschitz.activations import Activation
from lowrank_opt.lipschitz.intervals import interval_bounds
from lowrank_opt.lipschitz.network import Affine, FeedForward, Implicit, Residual, ResidualBlock

KINDS = [
    "relu", "leaky_relu", "abs", "hardtanh", "tanh", "sigmoid", "softplus", "elu", "silu", "gelu",
    "identity", "group_sort", "maxmin", "householder", "steep_softplus", "negative_slope",
]  # fmt: skip


def activation(kind, rng, width):
    if kind == "householder":
        v = rng.standard_normal((width // 2, 2))
        return Activation(kind, direction=v / np.linalg.norm(v, axis=1, keepdims=True))
    if kind == "group_sort":
        return Activation(kind, group_size=width // 2)
    if kind == "steep_softplus":
        return Activation("softplus", 3.7)
    if kind == "negative_slope":
        return Activation("leaky_relu", -0.3)
    return Activation(kind)


def random_network(kind, dims=(5, 12, 8, 3), seed=0, scale=1.5):
    rng = np.random.default_rng(seed)
    layers = []
    for k, (a, b) in enumerate(itertools.pairwise(dims)):
        W = scale * rng.standard_normal((b, a)) / np.sqrt(a)
        layers.append(Affine(W, rng.standard_normal(b)))
        if k < len(dims) - 2:
            layers.append(activation(kind, rng, b))
    return FeedForward(tuple(layers))


def samples_of(X, eps, rng, n=300):
    """Inputs in boxes, half of them corners, shape (n, *X.shape)."""
    U = rng.uniform(-1.0, 1.0, (n, *X.shape))
    U[: n // 2] = np.sign(U[: n // 2])
    return X + 0.999999 * eps * U


def residual_network(seed=0):
    rng = np.random.default_rng(seed)
    blocks = [
        ResidualBlock(0.5 * rng.standard_normal((6, 6)), kind, rng.standard_normal(6))
        for kind in ("relu", "silu")
    ]
    wide = ResidualBlock(
        rng.standard_normal((8, 6)), "tanh", skip=rng.standard_normal((4, 6)),
        output=rng.standard_normal((4, 8)),
    )  # fmt: skip
    first = Affine(rng.standard_normal((6, 5)), rng.standard_normal(6))
    return Residual((*blocks, wide), first, Affine(rng.standard_normal((3, 4))))


@pytest.mark.parametrize("kind", [*KINDS, "residual"])
@pytest.mark.parametrize("eps", [0.0, 0.01, 0.4])
def test_boxes_contain_every_output_and_argument(kind, eps):
    network = residual_network() if kind == "residual" else random_network(kind)
    rng = np.random.default_rng(1)
    X = rng.standard_normal((7, 5))
    bounds = interval_bounds(network, X, eps, preactivations=True)
    y = rng.integers(0, 3, len(X))
    margins = interval_bounds(network, X, eps, margins_for=y)
    assert len(bounds.preactivations) == len(network.widths)
    for Z in samples_of(X, eps, rng):
        F = network.forward(Z)
        assert (bounds.lower <= F).all()
        assert (bounds.upper >= F).all()
        M = F[np.arange(len(X)), y][:, None] - F
        assert (margins.lower <= M).all()
        assert (margins.upper >= M).all()
        for (low, high), z in zip(bounds.preactivations, network.preactivations(Z), strict=True):
            assert (low <= z).all()
            assert (high >= z).all()


@pytest.mark.parametrize("kind", ["relu", "abs", "tanh", "silu", "gelu", "leaky_relu"])
def test_one_layer_of_neurons_is_exact(kind):
    # Each neuron alone reaches both ends: over a fine grid of its argument.
    rng = np.random.default_rng(2)
    W, b = rng.standard_normal((6, 4)), rng.standard_normal(6)
    network = FeedForward((Affine(W, b), Activation(kind), Affine(np.eye(6))))
    x, eps = rng.standard_normal(4), 0.7
    low, high = interval_bounds(network, x, eps)
    radius = eps * np.abs(W).sum(axis=1)
    grid = (W @ x + b) + radius * np.linspace(-1.0, 1.0, 20001)[:, None]
    values = Activation(kind).apply(grid)
    assert (low <= values.min(axis=0)).all()
    assert (high >= values.max(axis=0)).all()
    step = radius.max() * 1e-4  # of the grid
    np.testing.assert_allclose(low, values.min(axis=0), rtol=0, atol=step)
    np.testing.assert_allclose(high, values.max(axis=0), rtol=0, atol=step)


def test_sorted_groups_are_exact_per_coordinate():
    rng = np.random.default_rng(3)
    x, eps = rng.standard_normal(4), np.array([0.3, 1.1, 0.2, 0.9])
    network = FeedForward((Affine(np.eye(4)), Activation("group_sort"), Affine(np.eye(4))))
    low, high = interval_bounds(network, x, eps)
    corners = np.sort(x + eps * np.array(list(itertools.product([-1, 1], repeat=4))), axis=1)
    np.testing.assert_allclose(low, corners.min(axis=0), rtol=1e-14, atol=1e-14)
    np.testing.assert_allclose(high, corners.max(axis=0), rtol=1e-14, atol=1e-14)


def test_maps_in_a_row_and_identities_are_one_map():
    # The box of a linear network has radius |W_3 W_2 W_1| eps.
    rng = np.random.default_rng(4)
    Ws = [rng.standard_normal(s) for s in [(7, 4), (6, 7), (3, 6)]]
    deep = FeedForward(
        (Affine(Ws[0], rng.standard_normal(7)), Activation("identity"), Affine(Ws[1]),
         Affine(Ws[2], rng.standard_normal(3)))
    )  # fmt: skip
    X, eps = rng.standard_normal((5, 4)), 0.3
    bounds = interval_bounds(deep, X, eps, preactivations=True)
    radius = eps * np.abs(Ws[2] @ Ws[1] @ Ws[0]).sum(axis=1)
    np.testing.assert_allclose(bounds.lower, deep.forward(X) - radius, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(bounds.upper, deep.forward(X) + radius, rtol=1e-12, atol=1e-12)
    ((low, high),) = bounds.preactivations
    np.testing.assert_allclose(
        0.5 * (high - low), np.tile(eps * np.abs(Ws[0]).sum(axis=1), (5, 1)), rtol=1e-12
    )


def test_margins_of_a_linear_model_are_exact():
    # min over the box of f_y - f_k is the value at x less eps times the 1-norm of the difference.
    rng = np.random.default_rng(5)
    W, b, X = rng.standard_normal((4, 6)), rng.standard_normal(4), rng.standard_normal((9, 6))
    y = rng.integers(0, 4, 9)
    bounds = interval_bounds(FeedForward((Affine(W, b),)), X, 0.2, margins_for=y)
    F = X @ W.T + b
    spread = 0.2 * np.abs(W[y][:, None] - W[None]).sum(axis=2)
    exact = F[np.arange(9), y][:, None] - F - spread
    np.testing.assert_allclose(bounds.lower, exact, rtol=1e-12, atol=1e-12)
    others = np.arange(4) != y[:, None]
    assert (
        bounds.certified == np.array([e[o].min() > 0 for e, o in zip(exact, others, strict=True)])
    ).all()
    assert 0 < bounds.certified.sum() < 9


def test_the_difference_is_taken_before_the_modulus():
    # Both outputs are the same neuron: the margin is exactly its constant.
    network = FeedForward(
        (Affine([[1.0, 2.0]]), Activation("relu"), Affine([[3.0], [3.0]], [1.0, 0.0]))
    )
    bounds = interval_bounds(network, [[1.0, 1.0]], 10.0, margins_for=[0])
    assert bounds.lower[0, 1] == pytest.approx(1.0, rel=1e-12)
    assert bounds.certified.tolist() == [True]
    plain = interval_bounds(network, [[1.0, 1.0]], 10.0)
    assert plain.lower[0, 0] - plain.upper[0, 1] < -50.0


def test_one_output_has_classes_of_sign():
    network = FeedForward((Affine([[1.0, -1.0]], [0.5]),))
    X = np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 0.3]])
    bounds = interval_bounds(network, X, 0.1, margins_for=[1, 0, 1])
    np.testing.assert_allclose(bounds.lower[:, 0], [1.3, 0.3, 0.0], atol=1e-14)
    assert bounds.certified[:2].all()


def test_the_box_is_cut_at_the_domain():
    # The centre moves: at x = 0.9 with eps = 0.3 and domain [0, 1] the box is [0.6, 1].
    network = FeedForward((Affine([[2.0]]),))
    low, high = interval_bounds(network, [[0.9], [0.05]], 0.3, clip=(0.0, 1.0))
    np.testing.assert_allclose(low[:, 0], [1.2, 0.0], atol=1e-14)
    np.testing.assert_allclose(high[:, 0], [2.0, 0.7], atol=1e-14)
    ends = interval_bounds(network, [[0.9]], 0.3, clip=(np.zeros(1), np.ones(1)))
    np.testing.assert_allclose(ends.upper, [[2.0]], atol=1e-14)


def test_radii_per_input_and_per_coordinate():
    rng = np.random.default_rng(6)
    network, X = random_network("relu"), rng.standard_normal((6, 5))
    rows, columns = rng.uniform(0, 0.3, (6, 1)), rng.uniform(0, 0.3, 5)
    whole = interval_bounds(network, X, rows)
    for i in range(6):
        one = interval_bounds(network, X[i], rows[i, 0])
        assert one.lower.shape == (3,)
        np.testing.assert_allclose(one.lower, whole.lower[i], rtol=1e-12)
    np.testing.assert_allclose(
        interval_bounds(network, X, columns).upper,
        interval_bounds(network, X, np.tile(columns, (6, 1))).upper, rtol=1e-14,
    )  # fmt: skip


def exact_values(weights, biases, x):
    """A ReLU network in rational arithmetic."""
    h = [Fraction(v) for v in x]
    for k, (W, b) in enumerate(zip(weights, biases, strict=True)):
        h = [
            sum((Fraction(w) * a for w, a in zip(row, h, strict=True)), Fraction(c))
            for row, c in zip(W.tolist(), b.tolist(), strict=True)
        ]
        h = [max(v, Fraction(0)) for v in h] if k < len(weights) - 1 else h
    return h


def inside(low, values, high):
    return [
        Fraction(a) <= v <= Fraction(b)
        for a, v, b in zip(low.tolist(), values, high.tolist(), strict=True)
    ]


def test_outward_boxes_contain_exact_arithmetic():
    # At eps = 0 the box has the width of rounding alone; without `outward` it misses the values.
    missed = 0
    for seed in range(12):
        rng = np.random.default_rng(seed)
        dims = [(9, 6), (9, 9), (3, 9)]
        weights = [rng.standard_normal(s) * 10.0 ** rng.integers(-3, 4, s) for s in dims]
        biases = [rng.standard_normal(s[0]) for s in dims]
        layers = [Affine(weights[0], biases[0])]
        for W, b in zip(weights[1:], biases[1:], strict=True):
            layers += [Activation("relu"), Affine(W, b)]
        network, x = FeedForward(tuple(layers)), rng.standard_normal(6)
        exact = exact_values(weights, biases, x)
        bounds = interval_bounds(network, x, 0.0)
        assert all(inside(bounds.lower, exact, bounds.upper))
        margins = interval_bounds(network, x, 0.0, margins_for=1)
        assert all(inside(margins.lower, [exact[1] - v for v in exact], margins.upper))
        plain = interval_bounds(network, x, 0.0, outward=False)
        missed += 3 - sum(inside(plain.lower, exact, plain.upper))
    assert missed > 10


@pytest.mark.parametrize("what", ["one map", "two maps", "margins", "margins of two maps"])
def test_outward_boxes_contain_sums_that_cancel(what):
    # Inputs for which the terms of a sum cancel: what is left is their rounding.
    for seed in range(200):
        rng = np.random.default_rng(seed)
        W, M = rng.standard_normal((2, 3)), rng.standard_normal((3, 3))
        two, margins = "two" in what, "margins" in what
        row = W[0] - W[1] if margins else W[0]
        row = row @ M if two else row
        x = rng.standard_normal(3)
        x[2] = -(row[0] * x[0] + row[1] * x[1]) / row[2]
        h = [Fraction(v) for v in x.tolist()]
        if two:
            h = [sum(Fraction(m) * a for m, a in zip(r, h, strict=True)) for r in M.tolist()]
        values = [sum(Fraction(w) * a for w, a in zip(r, h, strict=True)) for r in W.tolist()]
        maps = (Affine(M), Affine(W)) if two else (Affine(W),)
        if margins:
            values = [values[0] - v for v in values]
        bounds = interval_bounds(FeedForward(maps), x, 0.0, margins_for=0 if margins else None)
        assert all(inside(bounds.lower, values, bounds.upper))
        size = np.abs(W).max() * max(np.abs(M).max(), 1.0) * np.abs(x).max()
        assert (bounds.upper - bounds.lower < 1e-13 * size).all()


def test_a_margin_to_the_class_itself_is_zero():
    bounds = interval_bounds(random_network("relu"), np.ones((3, 5)), 0.3, margins_for=[0, 1, 2])
    assert np.diagonal(bounds.lower).tolist() == np.diagonal(bounds.upper).tolist() == [0.0] * 3


def test_outward_reflections_contain_exact_arithmetic():
    for seed in range(300):
        rng = np.random.default_rng(seed)
        v = rng.standard_normal(3)
        phi = Activation("householder", direction=v / np.linalg.norm(v))
        x = rng.standard_normal(3)
        v = [Fraction(a) for a in phi.direction[0].tolist()]
        u = [Fraction(a) for a in x.tolist()]
        dot = min(sum(a * b for a, b in zip(u, v, strict=True)), Fraction(0))
        values = [a - 2 * dot * b for a, b in zip(u, v, strict=True)]
        bounds = interval_bounds(FeedForward((Affine(np.eye(3)), phi)), x, 0.0)
        assert all(inside(bounds.lower, values, bounds.upper))


def test_outward_changes_little():
    network, X = random_network("tanh"), np.random.default_rng(7).standard_normal((20, 5))
    wide, plain = (interval_bounds(network, X, 0.1, outward=o) for o in (True, False))
    assert (wide.lower < plain.lower).all()
    np.testing.assert_allclose(wide.lower, plain.lower, rtol=0, atol=1e-12)


def test_sparse_and_dense_maps_agree():
    network, X = random_network("relu"), np.random.default_rng(8).standard_normal((4, 5))
    layers = [
        Affine(sp.csr_array(a.weight), a.bias) if isinstance(a, Affine) else a
        for a in network.layers
    ]
    for keywords in ({}, {"margins_for": [0, 1, 2, 1]}):
        a = interval_bounds(network, X, 0.2, **keywords)
        b = interval_bounds(FeedForward(tuple(layers)), X, 0.2, **keywords)
        np.testing.assert_allclose(a.lower, b.lower, rtol=1e-12, atol=1e-12)


def test_blocks_of_inputs_agree_with_one_at_a_time(monkeypatch):
    from lowrank_opt.lipschitz import intervals

    network, X = random_network("maxmin"), np.random.default_rng(9).standard_normal((11, 5))
    whole = interval_bounds(network, X, 0.2, preactivations=True, margins_for=np.arange(11) % 3)
    monkeypatch.setattr(intervals, "_BLOCK", 40)
    parts = interval_bounds(network, X, 0.2, preactivations=True, margins_for=np.arange(11) % 3)
    np.testing.assert_allclose(parts.lower, whole.lower, rtol=1e-12)
    np.testing.assert_allclose(parts.preactivations[1][0], whole.preactivations[1][0], rtol=1e-12)
    none = interval_bounds(network, np.empty((0, 5)), 0.2)
    assert none.lower.shape == (0, 3)


def test_overflow_is_a_bound():
    network = FeedForward((Affine([[1e200]]), Activation("relu"), Affine([[1e200], [0.0]])))
    low, high = interval_bounds(network, [[1.0]], 0.5)
    assert high[0, 0] == np.inf
    assert low[0, 0] <= 0.0
    assert not np.isnan(low).any()


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"eps": -0.1}, "eps=-0.1 must be finite and not negative"),
        ({"eps": np.ones(4)}, "eps has shape"),
        ({"eps": np.nan}, "must be finite"),
        ({"X": [[np.nan] * 5]}, "NaN or infinite"),
        ({"X": [[1.0] * 4]}, "expected .n, 5."),
        ({"clip": (1.0, 0.0)}, "lower exceeds upper"),
        ({"clip": 3.0}, "must be a pair"),
        ({"X": [[3.0] * 5], "clip": (0.0, 1.0)}, "further than eps outside"),
        ({"margins_for": [0.5]}, "expected integers"),
        ({"margins_for": [3]}, "classes 0 to 2"),
        ({"margins_for": [0, 1]}, r"shape \(1,\)"),
    ],
)
def test_bad_input(keywords, message):
    arguments = {"X": np.zeros((1, 5)), "eps": 0.1, **keywords}
    with pytest.raises(ProblemError, match=message):
        interval_bounds(random_network("relu"), arguments.pop("X"), **arguments)


def test_what_has_no_intervals_is_refused():
    implicit = Implicit(np.zeros((2, 2)), np.eye(2), np.eye(2))
    with pytest.raises(ProblemError, match="implicit"):
        interval_bounds(implicit, np.zeros((1, 2)), 0.1)
    slopes = Activation("slopes", lower=0.0, upper=1.0)
    with pytest.raises(ProblemError, match="no values"):
        interval_bounds(FeedForward((Affine(np.eye(2)), slopes)), np.zeros((1, 2)), 0.1)
    with pytest.raises(ProblemError, match="margins_for"):
        _ = interval_bounds(random_network("relu"), np.zeros((1, 5)), 0.1).certified
