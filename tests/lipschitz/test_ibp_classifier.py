"""Training on interval bounds: gradients, the loss, scikit-learn's checks, digits."""

import numpy as np
import pytest
import sklearn
from scipy.special import log_softmax
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier
from sklearn.utils.estimator_checks import estimator_checks_generator, parametrize_with_checks

from lowrank_opt.core.errors import ParameterError, ProblemError
from lowrank_opt.lipschitz.activations import Activation
from lowrank_opt.lipschitz.estimators_ibp import IBPClassifier
from lowrank_opt.lipschitz.ibp_training import (
    MONOTONE,
    Layers,
    Recipe,
    box_loss,
    fast_start,
    small_boxes,
    train,
)
from lowrank_opt.lipschitz.intervals import interval_bounds
from lowrank_opt.lipschitz.network import Affine, FeedForward
from lowrank_opt.lipschitz.tightness import propagation_tightness

CONFIGURATIONS = [
    IBPClassifier((8,), eps=0.05, max_iter=30, random_state=0),
    IBPClassifier((), eps=0.0, max_iter=30, random_state=0),
    IBPClassifier((6, 6), eps=0.05, activation="tanh", max_iter=20, shrink=0.5, attack_steps=2),
]
EXPECTED_FAILURES: dict[str, str] = {}
N_CHECKS = 55  # of scikit-learn 1.9


def problem(seed=0, activation="relu", sizes=(5, 7, 6, 4), n=12):
    rng = np.random.default_rng(seed)
    layers = fast_start(sizes, rng, activation)
    for W, b in zip(layers.weights, layers.biases, strict=True):
        W *= 1.5
        b += 0.3 * rng.standard_normal(b.shape)
    X = rng.standard_normal((n, sizes[0]))
    return layers, X, rng.integers(0, sizes[-1], n), rng


# -- scikit-learn's checks -----------------------------------------------------------------------


@parametrize_with_checks(CONFIGURATIONS, expected_failed_checks=lambda _: EXPECTED_FAILURES)
def test_scikit_learn_check(estimator, check):
    check(estimator)


@pytest.mark.parametrize("estimator", CONFIGURATIONS, ids=repr)
def test_number_of_checks(estimator):
    names = [check.func.__name__ for _, check in estimator_checks_generator(estimator)]
    if sklearn.__version__.startswith("1.9."):
        assert len(names) == N_CHECKS
    assert len(names) > 48
    assert not EXPECTED_FAILURES
    assert [n for n in names if "array_api" in n] == ["check_array_api_input"]


# -- loss and gradient ---------------------------------------------------------------------------


@pytest.mark.parametrize("activation", MONOTONE)
@pytest.mark.parametrize("warm_up", [0.0, 3.0])
def test_the_gradient_agrees_with_finite_differences(activation, warm_up):
    layers, X, y, _ = problem(1, activation)
    low, high = X - 0.2, np.minimum(X + 0.3, 1.5)
    _, grads = box_loss(layers, low, high, y, warm_up=warm_up)
    h = 1e-6
    for array, gradient in zip(layers.arrays, grads, strict=True):
        flat, g = array.reshape(-1), gradient.reshape(-1)
        for k in range(flat.size):
            kept, ends = flat[k], []
            for step in (h, -h):
                flat[k] = kept + step
                ends.append(box_loss(layers, low, high, y, warm_up=warm_up, gradient=False)[0])
            flat[k] = kept
            assert g[k] == pytest.approx((ends[0] - ends[1]) / (2 * h), rel=2e-5, abs=2e-8)


def test_the_warm_up_regulariser_is_met_by_the_gradient_test():
    layers, X, y, _ = problem(1)
    plain = box_loss(layers, X - 0.2, X + 0.3, y)[0]
    assert box_loss(layers, X - 0.2, X + 0.3, y, warm_up=3.0)[0] > plain + 0.01


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_the_loss_is_that_of_interval_bounds_of_the_margins(activation):
    layers, X, y, _ = problem(2, activation)
    bounds = interval_bounds(layers.network(), X, 0.2, margins_for=y)
    expected = -log_softmax(-bounds.lower, axis=1)[np.arange(len(y)), y].mean()
    assert box_loss(layers, X - 0.2, X + 0.2, y)[0] == pytest.approx(expected, rel=1e-10)


def test_the_loss_is_above_that_of_every_input_in_the_box():
    layers, X, y, rng = problem(3)
    worst = box_loss(layers, X - 0.3, X + 0.3, y)[0]
    for _ in range(200):
        Z = X + rng.uniform(-0.3, 0.3, X.shape)
        logits = layers.network().forward(Z)
        assert -log_softmax(logits, axis=1)[np.arange(len(y)), y].mean() < worst
    point = box_loss(layers, X, X, y)[0]
    logits = layers.network().forward(X)
    assert point == pytest.approx(-log_softmax(logits, axis=1)[np.arange(len(y)), y].mean())


def test_boxes_neither_grow_nor_shrink_at_the_start():
    # E|w| = 2 / n_in doubles the radius of a layer and a ReLU with symmetric arguments halves it.
    layers = fast_start((400, 400, 400, 400, 400), np.random.default_rng(4))
    for W in layers.weights:
        assert W.std() == pytest.approx(np.sqrt(2 * np.pi) / 400, rel=0.02)
    X = np.random.default_rng(5).standard_normal((20, 400))
    bounds = interval_bounds(layers.network(), X, 0.01, preactivations=True)
    radii = [0.5 * (high - low).mean() for low, high in bounds.preactivations]
    np.testing.assert_allclose(radii, 0.02, rtol=0.15)


def test_small_boxes_are_inside_and_harder_than_random_ones():
    layers, X, y, rng = problem(6, n=60)
    low, high = X - 0.4, np.minimum(X + 0.4, X.max() - 0.1 * rng.random(X.shape))
    X = np.minimum(X, high)
    a, b = small_boxes(layers, X, low, high, y, 0.4, 20, rng)
    assert (low <= a).all()
    assert (a <= b).all()
    assert (b <= high).all()
    np.testing.assert_allclose(b - a, 0.4 * (high - low), atol=1e-12)
    found = box_loss(layers, 0.5 * (a + b), 0.5 * (a + b), y)[0]
    inner = (X - 0.6 * (X - low), X + 0.6 * (high - X))
    tried = [box_loss(layers, *[rng.uniform(*inner)] * 2, y)[0] for _ in range(50)]
    assert found > max(tried)
    assert found <= box_loss(layers, low, high, y)[0]


def test_adam_takes_its_published_first_step():
    # The first step of Adam is the learning rate times the sign of the gradient.
    layers, X, y, rng = problem(7)
    before = [a.copy() for a in layers.arrays]
    _, grads = box_loss(layers, X, X, y)
    recipe = Recipe(0.0, epochs=9, batch_size=12, l1=0.0, learning_rate=0.01)
    losses = train(layers, X, y, recipe, rng, lambda epoch, loss: epoch == 0)
    assert len(losses) == 1
    for a, b, g in zip(layers.arrays, before, grads, strict=True):
        live = np.abs(g) > 1e-4
        np.testing.assert_allclose((a - b)[live], -0.01 * np.sign(g[live]), rtol=1e-3)


def test_steps_are_those_of_another_adam_with_decay_and_shortened_gradients():
    from sklearn.neural_network._stochastic_optimizers import AdamOptimizer

    layers, X, y, rng = problem(8)
    other, _, _, _ = problem(8)
    recipe = Recipe(
        0.1, epochs=21, batch_size=12, l1=1e-3, learning_rate=0.01, ramp=0.0, max_norm=0.2
    )
    train(layers, X, y, recipe, rng)
    adam = AdamOptimizer(other.arrays, learning_rate_init=0.01, epsilon=1e-12)
    for step in range(1, 22):
        # A fifth after 5/7 of the steps, and again after 6/7.
        adam.learning_rate_init = 0.01 / 5 ** ((step > 15) + (step > 18))
        _, grads = box_loss(other, X - 0.1, X + 0.1, y)
        for g, W in zip(grads, other.weights, strict=False):
            g += 1e-3 * np.sign(W)
        size = np.sqrt(sum((g**2).sum() for g in grads))
        adam.update_params(other.arrays, [g * min(1.0, 0.2 / size) for g in grads])
    for a, b in zip(layers.arrays, other.arrays, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-4)


# -- digits --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def digits():
    X, y = load_digits(return_X_y=True)
    return train_test_split(X / 16.0, y, test_size=0.2, stratify=y, random_state=0)


@pytest.fixture(scope="module")
def trained(digits):
    X, _, y, _ = digits
    return IBPClassifier((100,), eps=0.1, clip=(0, 1), random_state=0).fit(X, y)


def test_digits_are_certified_where_plain_training_is_not(digits, trained):
    X, X_test, y, y_test = digits
    plain = MLPClassifier((100,), learning_rate_init=5e-3, max_iter=30, tol=0.0, random_state=0)
    with pytest.warns(sklearn.exceptions.ConvergenceWarning):
        plain.fit(X, y)
    layers = [
        Affine(plain.coefs_[0].T, plain.intercepts_[0]), Activation("relu"),
        Affine(plain.coefs_[1].T, plain.intercepts_[1]),
    ]  # fmt: skip
    bounds = interval_bounds(FeedForward(tuple(layers)), X_test, 0.1, clip=(0, 1),
                             margins_for=y_test)  # fmt: skip
    assert plain.score(X_test, y_test) > 0.95
    assert trained.score(X_test, y_test) > 0.94
    assert bounds.certified.mean() < 0.05
    assert trained.certified_accuracy(X_test, y_test) > 0.78
    # And training raises the tightness of the bounds.
    assert propagation_tightness(trained.network_, X_test) > 2.0 * propagation_tightness(
        FeedForward(tuple(layers)), X_test
    )


def test_certified_inputs_withstand_attacks(digits, trained):
    _, X, _, y = digits
    layers = Layers(
        [a.weight for a in trained.network_.layers[::2]],
        [a.bias for a in trained.network_.layers[::2]],
    )
    eps, rng = 0.15, np.random.default_rng(8)
    bounds = interval_bounds(trained.network_, X, eps, clip=(0, 1), margins_for=y)
    broken = np.zeros(len(X), dtype=bool)
    low, high = np.maximum(X - eps, 0.0), np.minimum(X + eps, 1.0)
    for _ in range(3):
        a, b = small_boxes(layers, X, low, high, y, 1e-6, 30, rng)
        broken |= trained.predict(0.5 * (a + b)) != y
    assert broken.sum() > 10
    assert bounds.certified.sum() > 100
    assert not (broken & bounds.certified).any()


def test_certified_accuracy_falls_with_the_radius_from_the_accuracy(digits, trained):
    _, X, _, y = digits
    curve = trained.certified_accuracy(X, y, [0.0, 0.05, 0.1, 0.2, 1.0])
    assert curve[0] == pytest.approx(trained.score(X, y))
    assert (np.diff(curve) < 0).all()
    assert curve[-1] == 0.0
    assert trained.certified_accuracy(X, y, 0.05) == curve[1]


def test_a_seed_gives_the_same_network(digits):
    X, _, y, _ = digits
    model = IBPClassifier((10,), max_iter=3, random_state=5, clip=(0, 1))
    first, second = (clone(model).fit(X, y).predict_proba(X[:5]) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    other = clone(model).set_params(random_state=6).fit(X, y)
    assert np.abs(other.predict_proba(X[:5]) - first).max() > 1e-3


def test_strings_and_classes_unknown_in_training():
    X, y = load_digits(n_class=3, return_X_y=True)
    names = np.array(["nil", "one", "two"])[y]
    model = IBPClassifier((10,), max_iter=40, eps=0.02, clip=(0, 1), random_state=0)
    model.fit(X / 16.0, names)
    assert model.predict(X[:3] / 16.0).tolist() == ["nil", "one", "two"]
    accuracy = model.certified_accuracy(X / 16.0, names)
    assert accuracy > 0.9
    assert model.certified_accuracy(X[:3] / 16.0, ["zzz"] * 3) == 0.0
    assert model.decision_function(X[:4] / 16.0).shape == (4, 3)


def test_wild_data_warn():
    X = 1e308 * np.random.default_rng(0).uniform(-1.0, 1.0, (10, 2))
    with pytest.warns(sklearn.exceptions.ConvergenceWarning, match="Scale"):
        model = IBPClassifier((4,), eps=1e308, max_iter=2).fit(X, np.arange(10) % 2)
    assert np.isfinite(model.network_.layers[0].weight).all()


@pytest.mark.parametrize(
    ("params", "error", "message"),
    [
        ({"eps": -1.0}, ParameterError, "eps"),
        ({"hidden_layer_sizes": (3, 0)}, ParameterError, "hidden_layer_sizes"),
        ({"hidden_layer_sizes": [[3], [2, 1]]}, ParameterError, "hidden_layer_sizes"),
        ({"activation": "silu"}, ParameterError, "activation"),
        ({"shrink": 0.0}, ParameterError, "shrink"),
        ({"clip": (1, 0)}, ParameterError, "clip"),
        ({"clip": 5}, ParameterError, "clip"),
        ({"clip": (0, 1)}, ProblemError, "outside of clip"),
    ],
)
def test_bad_parameters(params, error, message):
    X = np.array([[0.0, 2.0], [1.0, 0.5]])
    with pytest.raises(error, match=message):
        IBPClassifier(**params).fit(X, [0, 1])


def test_bad_radii_and_labels():
    X = np.array([[0.0, 1.0], [1.0, 0.5]])
    model = IBPClassifier((2,), max_iter=1).fit(X, [0, 1])
    with pytest.raises(ProblemError, match="y has shape"):
        model.certified_accuracy(X, [0])
    with pytest.raises(ProblemError, match="eps has shape"):
        model.certified_accuracy(X, [0, 1], [[0.1]])
