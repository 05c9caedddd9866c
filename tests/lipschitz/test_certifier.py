"""Certified radii: closed forms, attacks, exact arithmetic, which pairs are solved."""

from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.exceptions import NotFittedError
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from lowrank_opt.core.errors import ParameterError, ProblemError
from lowrank_opt.lipschitz import estimators_certifier
from lowrank_opt.lipschitz.activations import Activation
from lowrank_opt.lipschitz.estimators_certifier import LipschitzCertifier
from lowrank_opt.lipschitz.network import Affine, FeedForward, Implicit
from lowrank_opt.plotting import CertifiedAccuracyDisplay

NORMS = ("l2", "linf", "l1")
DUAL = {"l2": 2, "linf": 1, "l1": np.inf}


def random_network(dims=(3, 10, 8, 4), seed=0, kind="relu"):
    rng = np.random.default_rng(seed)
    layers = []
    for a, b in pairwise(dims):
        layers += [Affine(rng.standard_normal((b, a)), rng.standard_normal(b)), Activation(kind)]
    return FeedForward(tuple(layers[:-1]))


def inputs_of(network, n=40, seed=1):
    return 2.0 * np.random.default_rng(seed).standard_normal((n, network.n_inputs))


# -- closed forms --------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", NORMS)
def test_radii_of_linear_classifiers_are_distances_to_planes(norm):
    # Distance in a norm: the margin over the dual norm of the difference of rows.
    rng = np.random.default_rng(0)
    W, b, X = rng.standard_normal((4, 5)), rng.standard_normal(4), rng.standard_normal((30, 5))
    certifier = LipschitzCertifier(norm).fit(FeedForward((Affine(W, b),)))
    F = X @ W.T + b
    k = F.argmax(axis=1)
    expected = np.full(30, np.inf)
    for i in range(30):
        for j in set(range(4)) - {k[i]}:
            size = np.linalg.norm(W[k[i]] - W[j], DUAL[norm])
            expected[i] = min(expected[i], (F[i, k[i]] - F[i, j]) / size)
    radii = certifier.certified_radius(X)
    np.testing.assert_allclose(radii, expected, rtol=1e-9)
    assert (certifier.predict(X) == k).all()


def test_radii_in_a_line_are_exact_for_monotone_networks():
    # One input, one output, all slopes of one sign: f(x) = 2 relu(x) - 1 changes sign at 1/2.
    network = FeedForward((Affine([[1.0]]), Activation("relu"), Affine([[2.0]], [-1.0])))
    certifier = LipschitzCertifier().fit(network)
    X = np.array([[3.0], [0.5], [0.25], [-9.0]])
    np.testing.assert_allclose(certifier.certified_radius(X), [2.5, 0.0, 0.25, 0.5], rtol=1e-6)
    assert certifier.predict(X).tolist() == [1, 0, 0, 0]
    right = certifier.certified_radius(X, [0, 0, 0, 1])
    np.testing.assert_allclose(right, [0.0, 0.0, 0.25, 0.0], rtol=1e-6)


@pytest.mark.parametrize("norm", NORMS)
def test_one_bound_for_the_network_gives_smaller_radii(norm):
    network = random_network((3, 6, 5, 4))
    X = inputs_of(network)
    pairs = LipschitzCertifier(norm).fit(network)
    whole = LipschitzCertifier(norm, pairwise=False).fit(network)
    a, b = pairs.certified_radius(X), whole.certified_radius(X)
    assert (b <= a * (1.0 + 1e-3)).all()
    assert b.mean() < 0.9 * a.mean()
    # The definition, with the whole network's bound.
    F = np.sort(network.forward(X), axis=1)
    factor = {"l2": np.sqrt(2.0), "linf": 2.0, "l1": 1.0}[norm]
    np.testing.assert_allclose(b, (F[:, -1] - F[:, -2]) / (factor * whole.lipschitz_), rtol=1e-9)


def test_the_radius_is_rounded_down():
    # radius times the true constant never exceeds the true margin, in rational arithmetic.
    rng = np.random.default_rng(2)
    for _ in range(100):
        w, b, x = rng.standard_normal((1, 3)), rng.standard_normal(1), rng.standard_normal(3)
        certifier = LipschitzCertifier("linf").fit(FeedForward((Affine(w, b),)))
        (radius,) = certifier.certified_radius([x])
        value = Fraction(b[0].item()) + sum(
            Fraction(a) * Fraction(c) for a, c in zip(w[0].tolist(), x.tolist(), strict=True)
        )
        size = sum(abs(Fraction(a)) for a in w[0].tolist())
        assert Fraction(radius.item()) * size <= abs(value)
        assert radius == pytest.approx(float(abs(value) / size), rel=1e-12, abs=1e-14)


# -- attacks -------------------------------------------------------------------------------------


def nearest_found(network, x, norm, rng):
    """Smallest perturbation found that changes the class: gradient steps, then bisection."""
    k, best = int(network.forward(x).argmax()), np.inf
    for other in set(range(network.n_outputs)) - {k}:
        for _ in range(3):
            z = x + 0.1 * rng.standard_normal(x.size)
            for _ in range(60):
                F = network.forward(z)
                if F[other] > F[k]:
                    break
                J = network.jacobian(z)
                g = J[other] - J[k]
                if not g.any():
                    break
                gap = F[k] - F[other]
                if norm == "l2":
                    z = z + 1.05 * (gap + 1e-9) * g / (g @ g)
                elif norm == "linf":
                    z = z + 1.05 * (gap + 1e-9) * np.sign(g) / np.abs(g).sum()
                else:
                    top = np.abs(g).argmax()
                    z[top] += 1.05 * (gap + 1e-9) / g[top]
            if network.forward(z).argmax() == k:
                continue
            low, high = 0.0, 1.0
            for _ in range(40):
                middle = 0.5 * (low + high)
                changed = network.forward(x + middle * (z - x)).argmax() != k
                low, high = (low, middle) if changed else (middle, high)
            size = np.linalg.norm(high * (z - x), {"l2": 2, "linf": np.inf, "l1": 1}[norm])
            best = min(best, size)
    return best


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("kind", ["relu", "maxmin", "silu"])
def test_no_attack_breaks_a_radius(norm, kind):
    network = random_network((3, 8, 4), seed=3, kind=kind)
    X, rng = inputs_of(network, 12), np.random.default_rng(4)
    radii = LipschitzCertifier(norm).fit(network).certified_radius(X)
    found = np.array([nearest_found(network, x, norm, rng) for x in X])
    assert (radii <= found).all()
    assert (radii > 0.0).all()
    assert np.isfinite(found).sum() > 6
    # The bounds are not idle: some radius is within a factor of the attack.
    assert (radii / found).max() > 0.15


# -- which pairs are solved ----------------------------------------------------------------------


@pytest.fixture
def counted(monkeypatch):
    calls = []

    def bound(network, **keywords):
        calls.append(keywords["output"])
        return original(network, **keywords)

    original = estimators_certifier.lipschitz_bound
    monkeypatch.setattr(estimators_certifier, "lipschitz_bound", bound)
    return calls


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_radii_are_those_of_all_pairs_solved_with_fewer_solved(norm, counted):
    network = random_network((3, 8, 6, 7), seed=5)
    X = inputs_of(network, 25)
    lazy, full = LipschitzCertifier(norm).fit(network), LipschitzCertifier(norm).fit(network)
    assert not counted
    radii = lazy.certified_radius(X)
    n_lazy = len(counted)
    assert n_lazy == len(set(counted)) == len(lazy.results_)
    full.bound_pairs()
    assert len(counted) == n_lazy + 21
    assert full.pair_solved_.all()
    np.testing.assert_allclose(radii, full.certified_radius(X), rtol=1e-12)
    assert n_lazy < 21
    # What was not solved has a valid bound all the same.
    assert (lazy.pair_bounds_ >= full.pair_bounds_ * (1.0 - 2e-4)).all()
    assert np.isfinite(lazy.pair_bounds_).all()
    np.testing.assert_array_equal(lazy.pair_bounds_, lazy.pair_bounds_.T)
    # A second call solves nothing.
    lazy.certified_radius(X)
    assert len(counted) == n_lazy + 21


def test_inputs_near_one_border_need_one_pair(counted):
    W = np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]])
    network = FeedForward((Affine(W, [0.0, 0.0, -100.0]),))
    certifier = LipschitzCertifier().fit(network)
    np.testing.assert_allclose(certifier.certified_radius([[1.0, 0.0]]), [1.0], rtol=1e-9)
    assert counted == [(0, 1)]


def test_a_limit_of_time_gives_smaller_radii_that_hold():
    network = random_network((3, 30, 30, 4), seed=6)
    X = inputs_of(network, 10)
    full = LipschitzCertifier().fit(network).certified_radius(X)
    hasty = LipschitzCertifier(max_time=0.0).fit(network).certified_radius(X)
    assert (hasty > 0.0).all()
    assert (hasty <= full * (1.0 + 1e-3)).all()


def test_methods_are_ordered():
    network = random_network((5, 12, 12, 4), seed=7)
    X = inputs_of(network, 20)
    means = [
        LipschitzCertifier(method=m).fit(network).certified_radius(X).mean()
        for m in ("product", "fast", "lip_sdp")
    ]
    assert means[0] < means[1] < means[2]


# -- models and labels ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def digits():
    X, y = load_digits(n_class=4, return_X_y=True)
    X = X / 16.0
    model = MLPClassifier((12,), solver="lbfgs", alpha=1.0, max_iter=200, random_state=0)
    return X, y, model.fit(X[::2], y[::2])


def test_digits_curve_starts_at_the_accuracy_and_is_that_of_the_radii(digits):
    X, y, model = digits
    X, y = X[1::2], y[1::2]
    certifier = LipschitzCertifier().fit(model)
    assert (certifier.predict(X) == model.predict(X)).all()
    assert certifier.score(X, y) == pytest.approx(model.score(X, y))
    radii = certifier.certified_radius(X, y)
    eps = np.array([0.0, 0.1, 0.3, 1.0])
    curve = certifier.certified_accuracy(X, y, eps)
    np.testing.assert_allclose(curve, (radii[:, None] > eps).mean(axis=0))
    assert curve[0] == pytest.approx(model.score(X, y))
    assert curve[2] > 0.5
    assert certifier.certified_accuracy(X, y, 0.1) == curve[1]
    display = CertifiedAccuracyDisplay.from_estimator(certifier, X, y)
    at = np.searchsorted(display.eps, eps, side="right") - 1
    np.testing.assert_allclose(display.accuracy[at], curve)


def test_classes_of_strings_in_any_order_and_scalers_in_a_pipeline(digits):
    X, y, _ = digits
    names = np.array(["zero", "eins", "two", "drei"])[y]
    model = make_pipeline(
        StandardScaler(), MLPClassifier((8,), solver="lbfgs", max_iter=30, random_state=0)
    )
    model.fit(X, names)
    certifier = LipschitzCertifier().fit(model)
    assert (certifier.predict(X) == model.predict(X)).all()
    right = certifier.certified_radius(X, names)
    assert ((right > 0) == (model.predict(X) == names)).all()
    assert (right == np.where(right > 0, certifier.certified_radius(X), 0.0)).all()
    assert certifier.certified_radius(X[:2], ["one", "zzz"]).tolist() == [0.0, 0.0]


def test_two_classes_with_one_output(digits):
    X, y, _ = digits
    two = y < 2
    model = MLPClassifier((6,), solver="lbfgs", alpha=0.1, random_state=0)
    model.fit(X[two], np.array(["a", "b"])[y[two]])
    certifier = LipschitzCertifier().fit(model)
    assert certifier.network_.n_outputs == 1
    radii = certifier.certified_radius(X[two])
    assert (certifier.predict(X[two]) == model.predict(X[two])).all()
    p = model.predict_proba(X[two])[:, 1]
    np.testing.assert_allclose(
        radii, np.abs(np.log(p) - np.log1p(-p)) / certifier.pair_bounds_[0, 1], rtol=1e-6
    )
    whole = LipschitzCertifier(pairwise=False).fit(model)
    np.testing.assert_allclose(whole.certified_radius(X[two]), radii, rtol=1e-3)


def test_classes_that_never_change_have_infinite_radius():
    network = FeedForward((Affine([[1.0], [1.0]], [1.0, 0.0]),))
    certifier = LipschitzCertifier().fit(network)
    assert certifier.certified_radius([[5.0]]).tolist() == [np.inf]
    assert certifier.certified_radius([[5.0]], [1]).tolist() == [0.0]
    assert certifier.certified_accuracy([[5.0]], [0], 1e300) == 1.0


def test_parameters_follow_the_rules_of_estimators():
    certifier = LipschitzCertifier("linf", tol=1e-2)
    assert clone(certifier).get_params() == certifier.get_params()
    assert "norm='linf'" in repr(certifier)
    for call in (certifier.predict, certifier.certified_radius):
        with pytest.raises(NotFittedError):
            call(np.zeros((1, 3)))


@pytest.mark.parametrize(
    ("params", "message"),
    [({"norm": "l3"}, "norm"), ({"pairwise": 2}, "pairwise"), ({"tol": -1.0}, "tol")],
)
def test_bad_parameters(params, message):
    with pytest.raises(ParameterError, match=message):
        LipschitzCertifier(**params).fit(random_network())


def test_bad_models():
    with pytest.raises(ProblemError, match="implicit"):
        LipschitzCertifier().fit(Implicit(np.zeros((2, 2)), np.eye(2), np.eye(2)))
    X = np.random.default_rng(0).standard_normal((20, 3))
    labels = (X[:, :2] > 0).astype(int)
    with pytest.warns(Warning, match="converged"):
        several = MLPClassifier((3,), max_iter=2, random_state=0).fit(X, labels)
    with pytest.raises(ProblemError, match="labels of their own"):
        LipschitzCertifier().fit(several)


def test_bad_data():
    certifier = LipschitzCertifier().fit(random_network())
    X = np.zeros((2, 3))
    with pytest.raises(ProblemError, match="expected"):
        certifier.certified_radius(np.zeros((2, 4)))
    with pytest.raises(ProblemError, match="NaN"):
        certifier.certified_radius(np.full((2, 3), np.nan))
    with pytest.raises(ProblemError, match="y has shape"):
        certifier.certified_radius(X, [0])
    with pytest.raises(ProblemError, match="eps=-1"):
        certifier.certified_accuracy(X, [0, 1], -1)
    with pytest.raises(ProblemError, match="classes 0 to 3"):
        certifier.bound_pairs([(0, 4)])
    assert certifier.certified_radius(np.zeros((0, 3))).shape == (0,)
