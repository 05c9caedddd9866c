"""LabelPropagation: scikit-learn's checks, dense harmonic systems, scikit-learn's own, moons."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import scipy.sparse as sp
import sklearn
from scipy.sparse.csgraph import laplacian
from scipy.spatial.distance import cdist
from sklearn.base import clone
from sklearn.datasets import make_moons
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.semi_supervised import LabelPropagation as TheirLabelPropagation
from sklearn.utils.estimator_checks import estimator_checks_generator, parametrize_with_checks

from lowrank_opt.block_coordinate import BlockCoordinateDescent, LabelPropagation
from lowrank_opt.core.errors import ConvergenceWarning, ParameterError, ProblemError

CONFIGURATIONS = [
    LabelPropagation(),
    LabelPropagation("rbf", l2=1e-3),
    LabelPropagation("precomputed"),
    LabelPropagation(solver="forest", n_neighbors=4),
    LabelPropagation(solver=BlockCoordinateDescent(blocks="greedy_forest", max_iter=10_000)),
]
# How many checks scikit-learn 1.9 collects: a tag that hides checks would go unnoticed otherwise.
# One of them, array API input, skips itself unless SCIPY_ARRAY_API is set. Pairwise input has two
# checks more.
N_CHECKS = 55


def points(n=40, d=2, seed=0):
    """Points, labels of three classes with most of them taken away, and new points."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 3, n)
    X = rng.normal(size=(n, d)) + 1.5 * np.eye(3, d)[y]
    y = np.where(rng.random(n) < 0.7, -1, y)
    y[:3] = 0, 1, 2
    return X, y, rng.normal(size=(15, d))


def knn_weights(X, k):
    """1 for mutual neighbours, 1/2 for one-sided ones, by sorting all distances."""
    near = np.argsort(cdist(X, X), axis=1)[:, 1:k]
    A = np.zeros((len(X), len(X)))
    for i, places in enumerate(near):
        A[i, places] = 1.0
    return (A + A.T) / 2


def rbf_weights(X, gamma):
    W = np.exp(-gamma * cdist(X, X) ** 2)
    np.fill_diagonal(W, 0.0)
    return W


def one_hot(y):
    return (y[:, None] == np.unique(y[y != -1])) * 1.0


def harmonic(W, y, l2=0.0):
    """Minimiser of the energy by a dense solve; every component has a labelled point, or l2 > 0."""
    Y, u = one_hot(y), y == -1
    prior = Y[~u].mean(axis=0)
    system = laplacian(W)[np.ix_(u, u)] + l2 * np.eye(u.sum())
    F = Y.copy()
    F[u] = np.linalg.solve(system, W[np.ix_(u, ~u)] @ Y[~u] + l2 * prior)
    return F


# -- scikit-learn's checks -----------------------------------------------------------------------


@parametrize_with_checks(CONFIGURATIONS)
def test_scikit_learn_check(estimator, check):
    check(estimator)


@pytest.mark.parametrize("estimator", CONFIGURATIONS, ids=repr)
def test_number_of_checks(estimator):
    names = [check.func.__name__ for _, check in estimator_checks_generator(estimator)]
    if sklearn.__version__.startswith("1.9."):
        assert len(names) == N_CHECKS + 2 * (estimator.affinity == "precomputed")
    assert len(names) > 48
    assert [n for n in names if "array_api" in n] == ["check_array_api_input"]


# -- the minimiser -------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", ["auto", "forest", "color", "conjugate_gradients", "direct"])
@pytest.mark.parametrize("l2", [0.0, 0.3])
@pytest.mark.parametrize("affinity", ["knn", "rbf", "sparse", "dense"])
def test_the_distributions_solve_the_dense_harmonic_system(affinity, l2, solver):
    X, y, _ = points()
    W = rbf_weights(X, 0.7) if affinity in ("rbf", "dense") else knn_weights(X, 9)
    model = LabelPropagation(
        affinity if affinity in ("knn", "rbf") else "precomputed",
        n_neighbors=9, gamma=0.7, l2=l2, solver=solver, tol=1e-12, max_iter=20_000,
    )  # fmt: skip
    model.fit(X if affinity in ("knn", "rbf") else W if affinity == "dense" else sp.csr_array(W), y)
    np.testing.assert_allclose(model.label_distributions_, harmonic(W, y, l2), rtol=0, atol=1e-9)
    np.testing.assert_array_equal(model.label_distributions_[y != -1], one_hot(y)[y != -1])
    assert model.result_.success
    assert model.result_.certificate.residual <= 1e-11


@pytest.mark.parametrize("affinity", ["knn", "rbf"])
def test_one_factorisation_serves_all_classes(affinity):
    rng = np.random.default_rng(0)
    y = np.arange(80) % 4
    X = rng.standard_normal((4, 3))[y] + 0.5 * rng.standard_normal((80, 3))
    model = LabelPropagation(affinity, gamma=1.0, solver="direct")
    model.fit(X, np.where(np.arange(80) < 12, y, -1))
    assert model.result_.success
    assert model.result_.nit == 0  # an iteration would factorise the block of one more class


@pytest.mark.parametrize("seed", range(3))
def test_scikit_learn_converges_to_the_same_distributions(seed):
    X, y, _ = points(seed=seed)
    W = rbf_weights(X, 1.0)
    theirs = TheirLabelPropagation(kernel=lambda A, B: W.copy(), max_iter=20_000, tol=1e-10)
    theirs.fit(X, y)
    ours = LabelPropagation("precomputed", tol=1e-11).fit(W, y)
    np.testing.assert_allclose(
        ours.label_distributions_, theirs.label_distributions_, rtol=0, atol=1e-6
    )
    np.testing.assert_array_equal(ours.transduction_, theirs.transduction_)
    np.testing.assert_array_equal(ours.classes_, theirs.classes_)


def test_between_two_labels_a_chain_is_a_straight_line():
    n = 30
    W = sp.diags_array([np.ones(n - 1), np.ones(n - 1)], offsets=(-1, 1))
    y = np.full(n, -1)
    y[0], y[-1] = 3, 8
    model = LabelPropagation("precomputed").fit(W, y)
    np.testing.assert_allclose(
        model.label_distributions_[:, 1], np.arange(n) / (n - 1), rtol=0, atol=1e-12
    )
    by_trees = LabelPropagation("precomputed", solver="forest").fit(W, y)
    np.testing.assert_allclose(
        by_trees.label_distributions_, model.label_distributions_, rtol=0, atol=1e-12
    )
    assert by_trees.n_iter_ == 1  # a chain is one forest
    assert by_trees.transduction_.tolist() == [3] * 15 + [8] * 15


def test_two_moons_are_told_apart_by_five_labels_each():
    X, truth = make_moons(400, noise=0.07, random_state=0)
    y = np.full(400, -1)
    for c in (0, 1):
        y[np.flatnonzero(truth == c)[:5]] = c
    for model in (LabelPropagation(n_neighbors=10), LabelPropagation("rbf", gamma=20.0)):
        model.fit(X, y)
        assert (model.transduction_ == truth).mean() > 0.98
        new, labels = make_moons(300, noise=0.07, random_state=1)
        assert model.score(new, labels) > 0.97


@pytest.mark.parametrize("solver", ["auto", "forest", "conjugate_gradients", "direct"])
def test_components_without_a_label_have_the_shares_of_the_classes(solver):
    # Two chains of 4; in the first one point of class 0 and two of class 1 are labelled.
    chain = np.diag(np.ones(3), 1) + np.diag(np.ones(3), -1)
    W = np.kron(np.eye(2), chain)
    y = np.array([0, -1, 1, 1, -1, -1, -1, -1])
    F = LabelPropagation("precomputed", solver=solver).fit(W, y).label_distributions_
    np.testing.assert_allclose(F[4:], [[1 / 3, 2 / 3]] * 4, rtol=1e-14)
    np.testing.assert_allclose(F[1], [0.5, 0.5], rtol=1e-10)
    nearly = (
        LabelPropagation("precomputed", l2=1e-7, tol=1e-12, solver=solver)
        .fit(W, y)
        .label_distributions_
    )
    np.testing.assert_allclose(nearly, F, rtol=0, atol=1e-6)
    np.testing.assert_allclose(nearly, harmonic(W, y, 1e-7), rtol=0, atol=1e-8)


@pytest.mark.parametrize("seed", range(4))
def test_weights_of_all_sizes_are_no_trouble(seed):
    # Two far clusters with stragglers: weights down to 1e-300, and less.
    rng = np.random.default_rng(seed)
    X = np.concatenate([rng.standard_t(2, (150, 2)), rng.standard_t(2, (150, 2)) + 8.0])
    y = np.full(300, -1)
    y[[0, 1, 150, 151]] = 0, 0, 1, 1
    model = LabelPropagation("rbf", gamma=20.0).fit(X, y)
    assert model.result_.success
    W = model._graph(X).toarray()
    F, degrees = model.label_distributions_, W.sum(axis=1)
    free = (y == -1) & (degrees > 1e-6 * degrees.max())
    np.testing.assert_allclose(F[free], (W[free] @ F) / degrees[free, None], rtol=0, atol=1e-5)
    lost = rbf_weights(X, 20.0) - W  # what was left out
    sums = rbf_weights(X, 20.0).sum(axis=1)
    assert (lost <= 1.001e-10 * np.minimum.outer(sums, sums)).all()
    assert (F >= 0).all()
    assert degrees[degrees > 0].min() < 1e-30


def test_clusters_that_hardly_touch_are_components():
    pair = np.array([[0.0, 1.0], [1.0, 0.0]])
    W = np.kron(np.eye(2), pair)
    y = np.array([0, 1, -1, -1])
    for touch, expected in ((1e-12, [0.5, 0.5]), (1e-6, [1.0, 0.0])):
        W[0, 2] = W[2, 0] = touch
        model = LabelPropagation("precomputed", solver="direct").fit(W, y)
        np.testing.assert_allclose(model.label_distributions_[2:], [expected] * 2, atol=1e-8)


def test_strong_regularisation_gives_the_shares_of_the_classes():
    X, y, _ = points()
    F = LabelPropagation(l2=1e9).fit(X, y).label_distributions_[y == -1]
    shares = one_hot(y)[y != -1].mean(axis=0)
    np.testing.assert_allclose(F, np.tile(shares, (len(F), 1)), rtol=1e-7)


def test_rows_are_distributions_however_loose_the_tolerance():
    lowest = 0.0
    for seed in range(5):
        X, y, Z = points(100, d=5, seed=seed)
        model = LabelPropagation(tol=0.3, n_neighbors=4).fit(X, y)
        lowest = min(lowest, model.result_.x.min())
        for P in (model.label_distributions_, model.predict_proba(Z[:, :1] * np.ones(5))):
            assert (P >= 0).all()
            np.testing.assert_allclose(P.sum(axis=1), 1.0, rtol=1e-14)
    assert lowest < 0.0


def test_the_answer_moves_with_the_points_and_the_labels():
    X, y, Z = points()
    model = LabelPropagation(tol=1e-11).fit(X, y)
    order = np.random.default_rng(1).permutation(len(X))
    moved = LabelPropagation(tol=1e-11).fit(3.0 * X[order] - 1.0, y[order])
    np.testing.assert_allclose(
        moved.label_distributions_, model.label_distributions_[order], rtol=0, atol=1e-8
    )
    renamed = LabelPropagation(tol=1e-11).fit(X, np.where(y == -1, -1, 7 - y))
    np.testing.assert_allclose(
        renamed.label_distributions_, model.label_distributions_[:, ::-1], rtol=0, atol=1e-8
    )
    np.testing.assert_array_equal(renamed.predict(Z), 7 - model.predict(Z))


def test_float32_points_give_the_same_labels():
    X, y, Z = points()
    double, single = (LabelPropagation().fit(X.astype(t), y) for t in (np.float64, np.float32))
    np.testing.assert_allclose(
        single.label_distributions_, double.label_distributions_, rtol=0, atol=1e-5
    )
    np.testing.assert_array_equal(single.predict(Z), double.predict(Z))


# -- labels --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "mark",
    [
        lambda y: np.array(["no", "yes", -1])[y],  # strings: NumPy writes "-1"
        lambda y: np.array(["no", "yes", None], object)[y],
        lambda y: np.array(["no", "yes", -1], object)[y],
        lambda y: np.array(["no", "yes", "-1"], object)[y],
    ],
)
def test_strings_are_labels(mark):
    X, y, Z = points()
    y[y == 2] = -1
    model, numbers = LabelPropagation().fit(X, mark(y)), LabelPropagation().fit(X, y)
    assert model.classes_.tolist() == ["no", "yes"]
    np.testing.assert_array_equal(model.label_distributions_, numbers.label_distributions_)
    assert model.predict(Z).tolist() == [["no", "yes"][c] for c in numbers.predict(Z)]


def test_floats_and_booleans_are_labels():
    X, y, _ = points()
    np.testing.assert_array_equal(
        LabelPropagation().fit(X, y.astype(float)).transduction_,
        LabelPropagation().fit(X, y).transduction_,
    )
    assert LabelPropagation().fit(X, y > 0).classes_.tolist() == [False, True]


def test_nothing_to_label_needs_no_solver():
    X, _, Z = points()
    y = np.arange(len(X)) % 2
    model = LabelPropagation().fit(X, y)
    assert model.result_ is None
    assert model.n_iter_ == 1
    np.testing.assert_array_equal(model.transduction_, y)
    np.testing.assert_array_equal(model.label_distributions_, np.eye(2)[y])
    single = LabelPropagation().fit(X, np.where(y == 0, 5, -1))
    assert single.predict(Z).tolist() == [5] * len(Z)


def test_a_single_label_is_everywhere():
    X, _, _ = points()
    y = np.full(len(X), -1)
    y[4] = 2
    np.testing.assert_array_equal(LabelPropagation().fit(X, y).transduction_, np.full(len(X), 2))


# -- new points ----------------------------------------------------------------------------------


def test_new_points_have_the_mean_of_their_neighbours():
    X, y, Z = points()
    model = LabelPropagation(n_neighbors=5).fit(X, y)
    near = np.argsort(cdist(Z, X), axis=1)[:, :5]
    expected = np.array([model.label_distributions_[places].mean(axis=0) for places in near])
    np.testing.assert_allclose(model.predict_proba(Z), expected, rtol=1e-12)
    np.testing.assert_array_equal(model.predict(Z), model.classes_[expected.argmax(axis=1)])


def test_new_points_have_the_weighted_mean_of_all():
    X, y, Z = points()
    W = np.exp(-2.0 * cdist(Z, X) ** 2)
    model = LabelPropagation("rbf", gamma=2.0).fit(X, y)
    expected = W @ model.label_distributions_ / W.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(model.predict_proba(Z), expected, rtol=1e-10)
    given = LabelPropagation("precomputed").fit(np.exp(-2.0 * cdist(X, X) ** 2), y)
    for weights in (W, sp.csr_array(W)):
        np.testing.assert_allclose(given.predict_proba(weights), expected, rtol=0, atol=1e-6)
    W[3] = 0.0
    np.testing.assert_allclose(
        given.predict_proba(W)[3], given.label_distributions_.mean(axis=0), rtol=1e-12
    )
    # So far away that all weights underflow: those of the nearest point.
    far = np.array([[1e3, 0.0]])
    nearest = cdist(far, X).argmin()
    np.testing.assert_allclose(model.predict_proba(far)[0], model.label_distributions_[nearest])


def test_new_points_are_taken_in_blocks(monkeypatch):
    from lowrank_opt.block_coordinate import label_propagation

    X, y, Z = points()
    model = LabelPropagation("rbf").fit(X, y)
    expected = model.predict_proba(Z)
    monkeypatch.setattr(label_propagation, "_BLOCK", 90)
    np.testing.assert_allclose(model.predict_proba(Z), expected, rtol=1e-14)


# -- conduct -------------------------------------------------------------------------------------


def test_weights_are_not_touched():
    X, y, _ = points()
    for W in (sp.csr_array(knn_weights(X, 6) + np.eye(len(X))), rbf_weights(X, 1.0) + 1.0):
        before = W.copy()
        (W.data if sp.issparse(W) else W).flags.writeable = False
        LabelPropagation("precomputed").fit(W, y)
        assert abs(W - before).max() == 0.0


def test_solvers_can_be_given_and_searched():
    X, y, _ = points()
    solver = BlockCoordinateDescent(blocks="forest", tol=1e-3)
    model = LabelPropagation(solver=solver).fit(X, y)
    assert model.result_.residual <= 1e-3
    assert model.get_params()["solver__tol"] == 1e-3
    np.testing.assert_allclose(
        LabelPropagation(solver="BlockCoordinateDescent", max_iter=10_000)
        .fit(X, y)
        .label_distributions_,
        LabelPropagation().fit(X, y).label_distributions_,
        rtol=0,
        atol=1e-3,
    )
    labelled = y != -1
    search = GridSearchCV(
        LabelPropagation(n_neighbors=3, solver=solver),
        {"n_neighbors": [3, 5], "solver__tol": [1e-2, 1e-4]},
        cv=2,
    )
    assert search.fit(X[labelled], y[labelled]).best_score_ >= 0.3
    with pytest.raises(ParameterError, match="solver='tree'"):
        LabelPropagation(solver="tree").fit(X, y)


def test_a_limit_gives_a_warning():
    X, y, _ = points(300)
    with pytest.warns(ConvergenceWarning, match="LabelPropagation: .*Raise max_iter"):
        LabelPropagation(max_iter=1, tol=1e-12).fit(X, y)


def test_clones_and_copies_give_the_same():
    X, y, Z = points()
    model = LabelPropagation("rbf", gamma=1.0).fit(X, y)
    for other in (clone(model).fit(X, y), pickle.loads(pickle.dumps(model))):
        np.testing.assert_array_equal(other.predict_proba(Z), model.predict_proba(Z))
    with pytest.raises(NotFittedError):
        LabelPropagation().predict(Z)


def test_bad_input_is_named():
    X, y, _ = points()
    W = knn_weights(X, 5)
    with pytest.raises(ProblemError, match="y marks all 40 points as unlabelled"):
        LabelPropagation().fit(X, np.full(40, -1))
    with pytest.raises(ProblemError, match=r"X has shape \(40, 2\).*precomputed"):
        LabelPropagation("precomputed").fit(np.abs(X), y)
    for bad in (W - 1.0, sp.csr_array(-W)):
        with pytest.raises(ProblemError, match="must be at least 0"):
            LabelPropagation("precomputed").fit(bad, y)
    with pytest.raises(ProblemError, match="must be at least 0"):
        LabelPropagation("precomputed").fit(W, y).predict(W - 1.0)
    W[0, 1] += 1.0
    with pytest.raises(ProblemError, match=r"not symmetric: it differs .* by 1"):
        LabelPropagation("precomputed").fit(W, y)
    for name, bad in [("affinity", "cosine"), ("n_neighbors", 0), ("gamma", -1.0), ("l2", -1.0),
                      ("tol", -1.0), ("max_iter", 0)]:  # fmt: skip
        with pytest.raises(ParameterError, match=name):
            LabelPropagation(**{name: bad}).fit(X, y)
    with pytest.raises(ValueError, match="Unknown label type"):
        LabelPropagation().fit(X, np.linspace(0.0, 1.0, 40))
