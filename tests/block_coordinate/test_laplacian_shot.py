"""LaplacianShot and LaplacianKMeans: scikit-learn's checks, coincidences, transduction."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import sklearn
from scipy import sparse
from scipy.spatial.distance import cdist
from sklearn.base import clone
from sklearn.cluster import KMeans
from sklearn.datasets import load_digits
from sklearn.exceptions import NotFittedError
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
from sklearn.model_selection import GridSearchCV
from sklearn.utils.estimator_checks import estimator_checks_generator, parametrize_with_checks

from lowrank_opt.block_coordinate import (
    BoundOptimizer,
    LaplacianKMeans,
    LaplacianPrototypeProblem,
    LaplacianShot,
    knn_affinity,
    laplacian_shot,
)
from lowrank_opt.core.errors import (
    AccuracyWarning,
    ConvergenceWarning,
    ParameterError,
    ProblemError,
)

# normalize="l2" cannot be among them: one check has a point that is zero, which is an error here.
CONFIGURATIONS = [
    LaplacianShot(),
    LaplacianShot(0.5, 5, update_prototypes=True, rectify=True, normalize=None, graph="query"),
    LaplacianShot(lam=0.0, normalize=None, temperature=0.0, solver=BoundOptimizer(tol=1e-4)),
    LaplacianKMeans(random_state=0),
    LaplacianKMeans(lam=1.0, temperature=0.3, n_neighbors=4, n_init=2, random_state=0),
    LaplacianKMeans(lam=0.1, unary="gaussian", temperature=0.05, random_state=0),
]
# How many checks scikit-learn 1.9 collects: a tag that hides checks would go unnoticed otherwise.
N_CHECKS = {"LaplacianShot": 55, "LaplacianKMeans": 46}


@parametrize_with_checks(CONFIGURATIONS)
@pytest.mark.filterwarnings("ignore:.*has lost all its points")
def test_scikit_learn_check(estimator, check):
    check(estimator)


@pytest.mark.parametrize("estimator", CONFIGURATIONS, ids=repr)
def test_number_of_checks(estimator):
    names = [check.func.__name__ for _, check in estimator_checks_generator(estimator)]
    if sklearn.__version__.startswith("1.9."):
        assert len(names) == N_CHECKS[type(estimator).__name__]
    assert len(names) > 40
    assert "check_methods_subset_invariance" in names


def episode(way=5, shot=1, queries=15, seed=0):
    """Support, labels, queries and their classes, and the mean of the other digits."""
    X, y = load_digits(return_X_y=True)
    rng = np.random.default_rng(seed)
    classes = rng.permutation(10)[:way]
    places = [rng.permutation(np.flatnonzero(y == c))[: shot + queries] for c in classes]
    support = np.concatenate([p[:shot] for p in places])
    query = np.concatenate([p[shot:] for p in places])
    return X[support], y[support], X[query], y[query], X[~np.isin(y, classes)].mean(axis=0)


# -- LaplacianShot -------------------------------------------------------------------------------


def test_without_the_graph_it_is_the_nearest_class_mean():
    S, y, Q, _, _ = episode(shot=3)
    shot = LaplacianShot(lam=0.0, normalize=None).fit(S, y)
    means = np.array([S[y == c].mean(axis=0) for c in np.unique(y)])
    nearest = np.unique(y)[cdist(Q, means).argmin(axis=1)]
    np.testing.assert_allclose(shot.prototypes_, means, rtol=1e-12)
    np.testing.assert_array_equal(shot.predict(Q), nearest)
    np.testing.assert_array_equal(shot.transduce(Q), nearest)


def test_predict_looks_at_one_point_and_transduce_at_the_batch():
    S, y, Q, _, mean = episode()
    shot = LaplacianShot(base_mean=mean).fit(S, y)
    one_by_one = np.concatenate([shot.predict(Q[i : i + 1]) for i in range(len(Q))])
    np.testing.assert_array_equal(shot.predict(Q), one_by_one)
    alone = np.concatenate([shot.transduce(Q[i : i + 1]) for i in range(len(Q))])
    assert (shot.transduce(Q) != alone).any()


def test_transduction_gains_on_average_and_rectification_more():
    gains = []
    for seed in range(30):
        S, y, Q, truth, mean = episode(seed=seed)
        plain = LaplacianShot(base_mean=mean).fit(S, y)
        rectified = LaplacianShot(base_mean=mean, rectify=True).fit(S, y)
        right = [(labels == truth).mean() for labels in
                 (plain.predict(Q), plain.transduce(Q), rectified.transduce(Q))]  # fmt: skip
        gains.append(np.diff(right))
    assert (np.mean(gains, axis=0) > 2 * np.std(gains, axis=0) / np.sqrt(30)).all()


def test_queries_in_fit_are_queries_in_transduce():
    S, y, Q, _, mean = episode(shot=2)
    shot = LaplacianShot(base_mean=mean).fit(S, y)
    semi = LaplacianShot(base_mean=mean)
    everything, partly = np.concatenate([S, Q]), np.concatenate([y, np.full(len(Q), -1)])
    labels = semi.fit_predict(everything, partly)
    np.testing.assert_array_equal(labels[: len(y)], y)
    np.testing.assert_array_equal(labels[len(y) :], shot.transduce(Q))
    np.testing.assert_array_equal(labels, semi.transduction_)
    proba = shot.transduce_proba(Q)
    np.testing.assert_allclose(semi.label_distributions_[len(y) :], proba, atol=1e-12)
    np.testing.assert_array_equal(semi.classes_, np.unique(y))


def test_the_order_of_queries_and_classes_does_not_matter():
    S, y, Q, _, mean = episode(shot=2)
    shot = LaplacianShot(base_mean=mean, rectify=True, update_prototypes=True, temperature=0.2)
    expected = shot.fit(S, y).transduce_proba(Q)
    rng = np.random.default_rng(1)
    order, turn = rng.permutation(len(Q)), rng.permutation(len(S))
    found = shot.fit(S[turn], y[turn]).transduce_proba(Q[order])
    np.testing.assert_allclose(found, expected[order], atol=1e-5)
    names = np.array([f"class {9 - c}" for c in range(10)])
    renamed = shot.fit(S, names[y])
    np.testing.assert_allclose(
        renamed.transduce_proba(Q), expected[:, ::-1], atol=1e-5
    )  # fmt: skip
    assert set(renamed.transduce(Q)) <= set(names)


def test_it_solves_the_problem_that_is_documented():
    S, y, Q, _, mean = episode(shot=2)
    shot = LaplacianShot(0.7, 4, base_mean=mean, temperature=0.5, tol=1e-9).fit(S, y)
    F = np.concatenate([S, Q]) - mean
    F /= np.linalg.norm(F, axis=1, keepdims=True)
    labels = np.concatenate([np.unique(y, return_inverse=True)[1], np.full(len(Q), -1)])
    problem = LaplacianPrototypeProblem(
        F, knn_affinity(F, 4), lam=0.7, labels=labels, temperature=0.5, update_prototypes=False
    )
    S_all = np.concatenate([np.eye(5)[labels[: len(y)]], shot.transduce_proba(Q)])
    assert problem.certificate((S_all, problem.prototypes)).residual < 1e-8


def test_a_graph_of_queries_leaves_the_support_out():
    S, y, Q, _, mean = episode(shot=2)
    shot = LaplacianShot(base_mean=mean, graph="query", tol=1e-9).fit(S, y)
    F = np.concatenate([S, Q]) - mean
    F /= np.linalg.norm(F, axis=1, keepdims=True)
    W = np.zeros((len(F), len(F)))
    W[len(y) :, len(y) :] = knn_affinity(F[len(y) :], 3).toarray()
    labels = np.concatenate([np.unique(y, return_inverse=True)[1], np.full(len(Q), -1)])
    problem = LaplacianPrototypeProblem(F, W, labels=labels, update_prototypes=False)
    S_all = np.concatenate([np.eye(5)[labels[: len(y)]], shot.transduce_proba(Q)])
    assert problem.certificate((S_all, problem.prototypes)).residual < 1e-8


def test_minus_one_is_a_class_where_there_is_only_one_other():
    X = np.array([[0.0, 1.0], [0.1, 1.0], [1.0, 0.0], [1.0, 0.1]])
    y = np.array([-1, -1, 1, 1])
    shot = LaplacianShot(normalize=None, lam=0.0).fit(X, y)
    np.testing.assert_array_equal(shot.classes_, [-1, 1])
    np.testing.assert_array_equal(shot.predict(X), y)
    three = LaplacianShot(normalize=None, lam=0.0).fit(X, [-1, 0, 1, -1])
    np.testing.assert_array_equal(three.classes_, [0, 1])
    np.testing.assert_array_equal(three.transduction_, [0, 0, 1, 1])
    with pytest.raises(ProblemError, match="y is -1 for all points"):
        LaplacianShot(normalize=None).fit(X, [-1, -1, -1, -1])


@pytest.mark.parametrize("method", ["fit", "predict", "transduce"])
def test_a_point_that_cannot_be_scaled_is_named(method):
    S, y, Q, _, mean = episode()
    Q[3] = mean
    shot = LaplacianShot(base_mean=mean)
    call = getattr(shot if method == "fit" else shot.fit(S, y), method)
    more = (np.arange(len(Q)) % 5,) if method == "fit" else ()
    with pytest.raises(ProblemError, match=r"X\[3\] is the mean that normalize='cl2n' subtracts"):
        call(Q, *more)
    Q[3] = 0.0
    with pytest.raises(ProblemError, match=r"X\[3\] is zero .* cannot be scaled to length 1"):
        LaplacianShot(normalize="l2").fit(Q, np.arange(len(Q)) % 5)


def test_scale_of_the_features_does_not_matter_after_normalisation():
    S, y, Q, _, mean = episode()
    expected = LaplacianShot(base_mean=mean).fit(S, y).transduce_proba(Q)
    for scale in (1e-200, 1e200):
        shot = LaplacianShot(base_mean=scale * mean).fit(scale * S, y)
        np.testing.assert_allclose(shot.transduce_proba(scale * Q), expected, atol=1e-6)


def test_float32_is_close_to_float64():
    S, y, Q, _, mean = episode(shot=2)
    shot = LaplacianShot(base_mean=mean, temperature=0.5, tol=1e-5)
    expected = shot.fit(S, y).transduce_proba(Q)
    found = shot.fit(S.astype(np.float32), y).transduce_proba(Q.astype(np.float32))
    assert found.dtype == shot.prototypes_.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-3)


def test_a_fit_does_not_see_later_changes_of_its_data():
    S, y, Q, _, _ = episode()
    shot = LaplacianShot(normalize=None, lam=30.0, temperature=100.0)
    data, labels = np.concatenate([S, Q]), np.concatenate([y, np.full(len(Q), -1)])
    expected = shot.fit(data, labels).predict_proba(Q), shot.transduce_proba(Q)
    data *= 3.0
    np.testing.assert_array_equal(shot.predict_proba(Q), expected[0])
    np.testing.assert_array_equal(shot.transduce_proba(Q), expected[1])
    again = pickle.loads(pickle.dumps(shot))
    np.testing.assert_array_equal(again.predict_proba(Q), expected[0])
    with pytest.raises(NotFittedError):
        clone(shot).transduce(Q)


def test_grid_search_reaches_the_solver():
    X, y = load_digits(n_class=3, return_X_y=True)
    X, y = X[:60], y[:60]
    search = GridSearchCV(
        LaplacianShot(solver=BoundOptimizer()),
        {"solver__tol": [1e-3, 1e-8], "lam": [0.0, 1.0], "rectify": [False, True]}, cv=2,
    ).fit(X, y)  # fmt: skip
    assert len(search.cv_results_["params"]) == 8
    assert f"tol={search.best_params_['solver__tol']}" in search.best_estimator_.result_.solver


def test_too_few_iterations_warn():
    S, y, Q, _, mean = episode()
    shot = LaplacianShot(base_mean=mean, max_iter=1, tol=1e-12).fit(S, y)
    with pytest.warns(ConvergenceWarning, match="max_iter=1 reached"):
        assert shot.transduce_proba(Q).shape == (75, 5)


@pytest.mark.parametrize(("options", "message"), [
    ({"lam": -1.0}, r"lam=-1\.0 must be"), ({"n_neighbors": 0}, r"n_neighbors=0 must be"),
    ({"normalize": "L2N"}, r"normalize='L2N' must be"), ({"graph": "support"}, r"graph='support'"),
    ({"temperature": np.nan}, r"temperature=nan must be"), ({"rectify": 1}, r"rectify=1 must be"),
    ({"psd_shift": -0.1}, r"psd_shift=-0\.1 must be"), ({"tol": -1}, r"tol=-1 must be"),
    ({"n_threads": 0}, r"n_threads=0 must be"), ({"max_iter": -1}, r"max_iter=-1 must be"),
    ({"update_prototypes": None}, r"update_prototypes=None must be"),
])  # fmt: skip
def test_bad_parameters_are_named(options, message):
    S, y, _, _, _ = episode()
    with pytest.raises(ParameterError, match=message):
        LaplacianShot(**options).fit(S, y)


@pytest.mark.parametrize("mean", [np.zeros(3), np.full(64, np.inf), 0.0])
def test_a_bad_base_mean_is_named(mean):
    S, y, _, _, _ = episode()
    with pytest.raises((ProblemError, ParameterError), match="base_mean"):
        LaplacianShot(base_mean=mean).fit(S, y)


# -- LaplacianKMeans -----------------------------------------------------------------------------


def test_without_the_graph_it_is_k_means():
    X, _ = load_digits(return_X_y=True)
    start = X[:10]
    ours = LaplacianKMeans(10, lam=0.0, init=start).fit(X)
    peer = KMeans(10, init=start, n_init=1, tol=0.0, algorithm="lloyd", max_iter=1000).fit(X)
    np.testing.assert_array_equal(ours.labels_, peer.labels_)
    np.testing.assert_allclose(ours.cluster_centers_, peer.cluster_centers_, rtol=1e-10, atol=1e-9)
    np.testing.assert_allclose(ours.objective_, peer.inertia_, rtol=1e-12)
    np.testing.assert_array_equal(ours.predict(X), peer.predict(X))


def test_the_graph_helps_with_digits():
    X, y = load_digits(return_X_y=True)
    graph, plain = (
        np.mean([normalized_mutual_info_score(y, LaplacianKMeans(
            10, lam=lam, random_state=seed).fit_predict(X)) for seed in range(3)])
        for lam in (0.2, 0.0)
    )  # fmt: skip
    assert graph > plain + 0.03


def test_cooling_finds_a_lower_objective():
    X, _ = load_digits(return_X_y=True)
    cooled, not_cooled = (
        [LaplacianKMeans(10, anneal=way, random_state=s).fit(X).objective_ for s in range(3)]
        for way in (True, False)
    )
    assert (np.array(cooled) < np.array(not_cooled)).all()


def test_iterations_at_all_temperatures_count(monkeypatch):
    X, _ = load_digits(n_class=4, return_X_y=True)
    counts, plain = [], BoundOptimizer.solve

    def counting(*args, **keywords):
        result = plain(*args, **keywords)
        counts.append(result.nit)
        return result

    monkeypatch.setattr(BoundOptimizer, "solve", counting)
    model = LaplacianKMeans(4, random_state=0).fit(X)
    assert len(counts) > 3
    assert model.n_iter_ == sum(counts) > model.result_.nit == counts[-1]


def test_temperatures_fall_to_that_of_the_problem():
    X, _ = load_digits(n_class=4, return_X_y=True)
    problem = LaplacianPrototypeProblem(X, knn_affinity(X, 6), 4, lam=50.0, temperature=10.0)
    falling = laplacian_shot._temperatures(problem)
    assert len(falling) >= 3
    np.testing.assert_allclose(np.divide(falling[1:], falling[:-1]), 0.5)
    assert falling[-1] > 10.0
    pull = 50.0 * 6
    critical = 2 * np.linalg.eigvalsh(np.cov(X.T, bias=True))[-1] + pull / 4
    np.testing.assert_allclose(falling[0], min(pull / 2, 0.9 * critical), rtol=0.02)


def test_more_starts_are_not_worse():
    X, _ = load_digits(n_class=6, return_X_y=True)
    one = LaplacianKMeans(6, lam=0.0, random_state=3).fit(X)
    many = LaplacianKMeans(6, lam=0.0, n_init=5, random_state=3).fit(X)
    assert many.objective_ <= one.objective_


def test_the_objective_is_that_of_the_labels():
    X, _ = load_digits(n_class=4, return_X_y=True)
    model = LaplacianKMeans(4, lam=0.3, n_neighbors=5, random_state=0).fit(X)
    W = knn_affinity(X, 5).toarray()
    peer = KMeans(4, n_init=10, random_state=0).fit(X)
    costs = np.sort(peer.transform(X) ** 2, axis=1)
    unit = model.unit_  # from a short run of k-means, rounded here by another one
    np.testing.assert_allclose(unit, np.mean(costs[:, 1] - costs[:, 0]), rtol=0.05)
    one_hot = np.eye(4)[model.labels_]
    np.testing.assert_array_equal(model.assignments_, one_hot)
    apart = np.sum((one_hot[:, None] - one_hot[None]) ** 2, axis=2)
    expected = np.sum((X - model.cluster_centers_[model.labels_]) ** 2)
    expected += 0.3 * unit / 4 * np.sum(W * apart)
    np.testing.assert_allclose(model.objective_, expected, rtol=1e-10)


def test_affinities_may_be_given_in_three_ways():
    X, _ = load_digits(n_class=3, return_X_y=True)
    W = knn_affinity(X, 5)
    expected = LaplacianKMeans(3, n_neighbors=5, random_state=0).fit(X)
    for affinity in (W, W.toarray(), lambda points: knn_affinity(points, 5)):
        found = LaplacianKMeans(3, affinity=affinity, random_state=0).fit(X)
        np.testing.assert_array_equal(found.labels_, expected.labels_)
    with pytest.raises(ProblemError, match=r"W has shape \(4, 4\)"):
        LaplacianKMeans(3, affinity=sparse.eye_array(4)).fit(X)


def test_units_of_the_features_do_not_matter_to_clusters():
    X, _ = load_digits(n_class=4, return_X_y=True)
    model = LaplacianKMeans(4, temperature=0.1, random_state=0)
    expected = model.fit(X).labels_
    np.testing.assert_array_equal(model.fit(1e3 * X + 50.0).labels_, expected)
    absolute = LaplacianKMeans(
        4, lam=0.2 * model.fit(X).unit_, temperature=0.1 * model.unit_, scale="absolute",
        random_state=0,
    )  # fmt: skip
    np.testing.assert_array_equal(absolute.fit(X).labels_, expected)


@pytest.mark.filterwarnings("ignore:.*has lost all its points")
def test_fewer_different_points_than_clusters():
    X = np.repeat([[0.0, 0.0], [1.0, 1.0]], 5, axis=0)
    model = LaplacianKMeans(3, random_state=0).fit(X)
    assert adjusted_rand_score(np.repeat([0, 1], 5), model.labels_) == 1.0
    with pytest.raises(ProblemError, match="n_clusters=11 with 10 points"):
        LaplacianKMeans(11).fit(X)


def test_the_caller_s_generator_is_not_advanced():
    X, _ = load_digits(n_class=3, return_X_y=True)
    generator = np.random.default_rng(5)
    one, two = (LaplacianKMeans(3, random_state=generator).fit(X).labels_ for _ in range(2))
    np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize(("options", "message"), [
    ({"lam": -1.0}, r"lam=-1\.0 must be"), ({"n_clusters": 0}, r"n_clusters=0 must be"),
    ({"affinity": "rbf"}, r"affinity='rbf' must be"), ({"init": "random"}, r"init='random'"),
    ({"n_init": 0}, r"n_init=0 must be"), ({"scale": "unit"}, r"scale='unit' must be"),
    ({"unary": "cosine"}, r"unary='cosine' must be"), ({"bandwidth": 0.0}, r"bandwidth=0\.0"),
    ({"random_state": -1}, r"random_state=-1 must be"), ({"anneal": 2}, r"anneal=2 must be"),
])  # fmt: skip
def test_bad_parameters_of_clustering_are_named(options, message):
    with pytest.raises(ParameterError, match=message):
        LaplacianKMeans(**options).fit(np.eye(9))


def test_a_start_of_the_wrong_shape_is_named():
    with pytest.raises(ProblemError, match=r"x0 has shape \(2, 9\); expected .* \(3, 9\)"):
        LaplacianKMeans(3, lam=0.0, init=np.zeros((2, 9))).fit(np.eye(9))


def test_an_emptied_cluster_starts_again_with_a_warning():
    X = np.concatenate([np.zeros((5, 1)), np.ones((5, 1)), [[5.0]]])
    with pytest.warns(AccuracyWarning, match="cluster 2 has lost all its points"):
        model = LaplacianKMeans(3, lam=0.0, init=[[0.0], [1.0], [100.0]]).fit(X)
    assert sorted(np.bincount(model.labels_)) == [1, 5, 5]
    assert model.objective_ < 1e-28


@pytest.mark.parametrize("mark", [-1, "-1", None])
def test_marks_among_strings_are_no_class(mark):
    X = np.random.default_rng(0).normal(size=(10, 4))
    y = ["a", "b", "a", "b", "a"] + 5 * [mark]
    model = LaplacianShot().fit(X, np.array(y, object) if mark is None else y)
    assert model.classes_.tolist() == ["a", "b"]
    numbers = LaplacianShot().fit(X, [0, 1, 0, 1, 0] + 5 * [-1])
    expected = np.array(["a", "b"])[numbers.transduction_]
    assert model.transduction_.tolist() == expected.tolist()
