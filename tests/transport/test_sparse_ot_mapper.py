"""SparseOTMapper: scikit-learn's checks, closed forms, images of fitted and of new points."""

from __future__ import annotations

import itertools
import pickle

import cvxpy as cp
import numpy as np
import pytest
import sklearn
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist
from scipy.stats import norm
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import estimator_checks_generator, parametrize_with_checks

from lowrank_opt.core.errors import (
    ConvergenceWarning,
    InfeasibleError,
    ParameterError,
    ProblemError,
    UnsupportedProblemError,
)
from lowrank_opt.recovery import AlternatingMinimization
from lowrank_opt.transport import SparseOTMapper, SparsityConstrainedOT, TransportPlan, estimators

SMALL = {"n_reference": 10, "random_state": 0}
# scikit-learn's checks give labels, not target points: all of these have a reference sample.
CONFIGURATIONS = [
    SparseOTMapper("normal", **SMALL),
    SparseOTMapper("uniform", out_of_sample="potentials", **SMALL),
    SparseOTMapper(
        "uniform", max_nnz=2, unbalanced="l2", out_of_sample="potentials", **SMALL
    ),
    SparseOTMapper(
        "uniform", max_nnz=3, axis=0, unbalanced="kl",
        solver=SparsityConstrainedOT(rounding="columns"), **SMALL,
    ),
    SparseOTMapper(
        "normal", max_nnz=4, solver=SparsityConstrainedOT(rounding="columns"), **SMALL
    ),
]  # fmt: skip
# Checks that are known to fail, with a reason each.
EXPECTED_FAILURES = {
    "check_sample_weight_equivalence_on_dense_data": (
        "a point that is given twice is two places for mass, each with its own quadratic term and "
        "cap: another problem than one point of twice the weight"
    ),
}
# How many checks scikit-learn 1.9 collects: a tag that hides checks would go unnoticed otherwise.
# One of them, array API input, skips itself unless SCIPY_ARRAY_API is set.
N_CHECKS = 54


def clouds(m=14, n=12, d=2, seed=0, dtype=np.float64):
    """Source points, target points, and new ones."""
    rng = np.random.default_rng(seed)
    X, Y, Z = rng.normal(size=(m, d)), rng.normal(size=(n, d)) + 2.0, rng.normal(size=(20, d))
    return X.astype(dtype), Y.astype(dtype), Z.astype(dtype)


def weights(m=14, n=12, seed=1):
    rng = np.random.default_rng(seed)
    return rng.uniform(1.0, 2.0, m), rng.uniform(1.0, 2.0, n)


def dense_images(plan, Y):
    """Barycentres of the rows of a plan, entry by entry; NaN for a row without mass."""
    rows, nothing = plan.toarray().astype(np.float64), np.full(Y.shape[1], np.nan)
    return np.array([
        sum(t * y for t, y in zip(row, Y, strict=True)) / sum(row) if sum(row) else nothing
        for row in rows
    ])  # fmt: skip


def distance_to_hulls(x, Y, k):
    """Distance of x to the nearest convex hull of k rows of Y, for k at most 2."""
    if k == 1:
        return np.linalg.norm(Y - x, axis=1).min()
    best = np.inf
    for i, j in itertools.combinations(range(len(Y)), 2):
        step = Y[j] - Y[i]
        share = np.clip((x - Y[i]) @ step / (step @ step), 0.0, 1.0)
        best = min(best, np.linalg.norm(Y[i] + share * step - x))
    return best


def best_shares(scores, strength, k):
    """Maximise ``scores @ t - strength / 2 * |t|^2`` over the simplex with at most k nonzeros.

    By a quadratic program for every support of k entries.
    """
    n = len(scores)
    t, allowed = cp.Variable(n, nonneg=True), cp.Parameter(n, nonneg=True)
    gain = scores @ t - strength / 2 * cp.sum_squares(t)
    program = cp.Problem(cp.Maximize(gain), [cp.sum(t) == 1, t <= allowed])
    best, shares = -np.inf, None
    for support in itertools.combinations(range(n), k):
        allowed.value = np.isin(np.arange(n), support).astype(float)
        program.solve(solver=cp.CLARABEL, tol_gap_abs=1e-12, tol_gap_rel=1e-12, tol_feas=1e-12)
        if program.value > best:
            best, shares = program.value, t.value
    return shares


# -- scikit-learn's checks -----------------------------------------------------------------------


@parametrize_with_checks(CONFIGURATIONS, expected_failed_checks=lambda _: EXPECTED_FAILURES)
@pytest.mark.filterwarnings("ignore::lowrank_opt.core.errors.AccuracyWarning")
def test_scikit_learn_check(estimator, check):
    check(estimator)


@pytest.mark.parametrize("estimator", CONFIGURATIONS, ids=repr)
def test_number_of_checks(estimator):
    names = [check.func.__name__ for _, check in estimator_checks_generator(estimator)]
    if sklearn.__version__.startswith("1.9."):
        assert len(names) == N_CHECKS
    assert len(names) > 48
    assert [n for n in names if "array_api" in n] == ["check_array_api_input"]
    assert set(EXPECTED_FAILURES) <= set(names)
    assert len(EXPECTED_FAILURES) == 1


def test_only_without_a_target_is_y_required():
    assert SparseOTMapper().__sklearn_tags__().target_tags.required
    assert not SparseOTMapper("normal").__sklearn_tags__().target_tags.required


# -- closed forms --------------------------------------------------------------------------------


@pytest.mark.parametrize("out_of_sample", ["nearest", "potentials"])
@pytest.mark.parametrize("axis", [0, 1])
def test_a_shifted_sample_is_reached_by_the_shift(axis, out_of_sample):
    X, _, Z = clouds()
    shift = np.array([30.0, -7.0])
    mapper = SparseOTMapper(max_nnz=1, axis=axis, out_of_sample=out_of_sample, random_state=0)
    mapper.fit(X, X + shift)
    np.testing.assert_allclose(mapper.images_, X + shift, rtol=1e-12)
    if out_of_sample == "nearest":
        np.testing.assert_allclose(mapper.transform(Z), Z + shift, rtol=1e-12)
        np.testing.assert_allclose(mapper.inverse_transform(Z + shift), Z, rtol=0, atol=1e-12)


def test_without_a_cap_little_regularisation_gives_the_shift():
    X, _, Z = clouds()
    mapper = SparseOTMapper(gamma=1e-6, tol=1e-9, random_state=0).fit(X, X + 5.0)
    np.testing.assert_allclose(mapper.transform(Z), Z + 5.0, atol=1e-6)
    # Strong regularisation goes the other way: every image is the mean of the targets.
    mapper = SparseOTMapper(gamma=1e4, tol=1e-9, random_state=0).fit(X, X + 5.0)
    np.testing.assert_allclose(mapper.images_, np.tile(X.mean(axis=0) + 5.0, (14, 1)), atol=1e-3)


def test_one_target_each_on_the_line_matches_the_sorted_samples():
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(25, 1)), rng.exponential(size=(25, 1))
    mapper = SparseOTMapper(max_nnz=1, random_state=0).fit(x, y)
    order = np.argsort(x[:, 0])
    np.testing.assert_allclose(mapper.images_[order], np.sort(y, axis=0), rtol=1e-12)


@pytest.mark.parametrize("metric", ["sqeuclidean", "euclidean"])
def test_one_target_each_is_the_best_assignment(metric):
    X, Y, _ = clouds(12, 12, d=3)
    mapper = SparseOTMapper(max_nnz=1, metric=metric, random_state=0).fit(X, Y)
    _, matched = linear_sum_assignment(cdist(X, Y, metric))
    np.testing.assert_allclose(mapper.images_, Y[matched], rtol=1e-12)
    _, matched = linear_sum_assignment(cdist(Y, X, metric))
    np.testing.assert_allclose(mapper.inverse_transform(Y), X[matched], rtol=1e-12)


def test_a_single_target_takes_everything():
    X, _, Z = clouds()
    mapper = SparseOTMapper(random_state=0, out_of_sample="potentials").fit(X, [[3.0, 4.0]])
    np.testing.assert_array_equal(mapper.transform(Z), np.tile([3.0, 4.0], (20, 1)))
    np.testing.assert_allclose(mapper.inverse_transform([[3.0, 4.0]]), [X.mean(axis=0)])


def test_free_target_masses_leave_every_row_to_itself():
    # A penalty of next to nothing: a source goes where it costs least, with the quadratic term.
    X, Y, _ = clouds(6, 7)
    a = np.array([1.0, 2.0, 1.0, 3.0, 1.0, 2.0])
    mapper = SparseOTMapper(
        max_nnz=2, gamma=2.0, gamma_scale="absolute", unbalanced="l2", marginal_weight=1e-9,
        tol=1e-11, random_state=0,
    ).fit(X, Y, sample_weight=a)  # fmt: skip
    a, C = a / a.sum(), cdist(X, Y, "sqeuclidean")
    expected = [best_shares(-c, 2.0 * mass, 2) @ Y for c, mass in zip(C, a, strict=True)]
    np.testing.assert_allclose(mapper.images_, expected, atol=1e-5)


@pytest.mark.parametrize("kind", ["kl", "l2"])
def test_a_large_marginal_weight_is_the_constraint(kind):
    X, Y, _ = clouds()
    free = SparseOTMapper(unbalanced=kind, marginal_weight=1.0, tol=1e-8, random_state=0)
    fixed = SparseOTMapper(tol=1e-8, random_state=0).fit(X, Y)
    errors = []
    for weight in (1.0, 1e6):
        plan = free.set_params(marginal_weight=weight).fit(X, Y).plan_
        np.testing.assert_allclose(plan.sum(axis=1), 1 / 14, rtol=1e-10)  # the capped side
        errors.append(np.abs(plan.sum(axis=0) - 1 / 12).max())
    assert errors[0] > 1e-3 > 1e-4 > errors[1]
    np.testing.assert_allclose(free.images_, fixed.images_, atol=1e-3)


# -- images of the fitted points -----------------------------------------------------------------


@pytest.mark.parametrize("options", [
    {}, {"max_nnz": 3}, {"max_nnz": 3, "axis": 0}, {"gamma": 0.0}, {"metric": "euclidean"},
    {"unbalanced": "kl", "max_nnz": 2}, {"unbalanced": "l2", "axis": 0},
])  # fmt: skip
def test_images_are_the_barycentres_of_the_rows(options):
    X, Y, _ = clouds()
    a, b = weights()
    mapper = SparseOTMapper(random_state=0, **options)
    mapper.fit(X, Y, sample_weight=a, target_weight=b)
    assert isinstance(mapper.plan_, TransportPlan)
    assert mapper.plan_.shape == (14, 12)
    for images, expected in (
        (mapper.images_, dense_images(mapper.plan_, Y)),
        (mapper.inverse_transform(Y), dense_images(mapper.plan_.T, X)),
    ):
        live = ~np.isnan(expected[:, 0])
        assert live.all() or "unbalanced" in options
        np.testing.assert_allclose(images[live], expected[live], rtol=1e-12, atol=1e-14)
        assert np.isfinite(images).all()
    np.testing.assert_array_equal(mapper.transform(X), mapper.images_)
    if "unbalanced" not in options:
        np.testing.assert_allclose(mapper.plan_.sum(axis=1), a / a.sum(), rtol=1e-5)
        np.testing.assert_allclose(mapper.plan_.sum(axis=0), b / b.sum(), rtol=1e-5)


@pytest.mark.parametrize(("m", "n", "axis"), [(20, 8, 1), (8, 20, 0)])
def test_the_cap_counts_what_axis_says(m, n, axis):
    X, Y, _ = clouds(m, n)
    a, b = weights(m, n)
    mapper = SparseOTMapper(max_nnz=2, axis=axis, gamma=1.0, random_state=0)
    mapper.fit(X, Y, sample_weight=a, target_weight=b)
    assert np.count_nonzero(mapper.plan_.toarray(), axis=axis).max() == 2
    assert np.count_nonzero(mapper.plan_.toarray(), axis=1 - axis).max() > 2  # 20 points for 8


def test_the_cap_holds_where_columns_are_short():
    X, Y, _ = clouds(3, 12)
    mapper = SparseOTMapper(max_nnz=2, unbalanced="kl", random_state=0).fit(X, Y)
    assert np.count_nonzero(mapper.plan_.toarray(), axis=1).max() <= 2


@pytest.mark.parametrize("k", [1, 2])
@pytest.mark.parametrize("out_of_sample", ["nearest", "potentials"])
def test_images_are_in_the_hull_of_few_target_points(k, out_of_sample):
    X, Y, Z = clouds(12, 12)
    mapper = SparseOTMapper(max_nnz=k, gamma=1.0, out_of_sample=out_of_sample, random_state=0)
    mapper.fit(X, Y)
    for x in mapper.images_:
        assert distance_to_hulls(x, Y, k) < 1e-12
    if out_of_sample == "potentials":
        for x in mapper.transform(Z):
            assert distance_to_hulls(x, Y, k) < 1e-12


def test_the_reference_distance_to_hulls_sees_a_point_outside():
    Y = np.array([[0.0, 0.0], [2.0, 0.0], [0.0, 2.0]])
    assert distance_to_hulls(np.array([1.0, 0.0]), Y, 1) == 1.0
    assert distance_to_hulls(np.array([1.0, 0.0]), Y, 2) == 0.0
    assert abs(distance_to_hulls(np.array([0.5, 0.5]), Y, 2) - 0.5) < 1e-12


def test_attributes():
    X, Y, _ = clouds()
    mapper = SparseOTMapper(random_state=0).fit(X, Y)
    np.testing.assert_array_equal(mapper.source_, X)
    np.testing.assert_array_equal(mapper.target_, Y)
    assert mapper.n_features_in_ == 2
    assert mapper.n_iter_ == mapper.result_.nit
    assert mapper.result_.success
    assert mapper.result_.x is mapper.plan_
    assert mapper.plan_.alpha.shape == (14,)
    assert mapper.plan_.beta.shape == (12,)
    assert mapper.fit_transform(X, Y).shape == mapper.images_.shape == (14, 2)


def test_units_do_not_matter():
    X, Y, Z = clouds()
    mapper = SparseOTMapper(max_nnz=3, tol=1e-9, random_state=0)
    a, b = weights()
    expected = mapper.fit(X, Y, sample_weight=a, target_weight=b).transform(Z)
    scaled = mapper.fit(1e3 * X, 1e3 * Y, sample_weight=7 * a, target_weight=b / 9)
    np.testing.assert_allclose(scaled.transform(1e3 * Z), 1e3 * expected, rtol=1e-5)
    huge = mapper.fit(X, Y, sample_weight=a * 8e307, target_weight=b)
    np.testing.assert_allclose(huge.transform(Z), expected, atol=1e-6)


@pytest.mark.parametrize("out_of_sample", ["nearest", "potentials"])
def test_far_from_the_origin_digits_are_kept(out_of_sample):
    # Distances from inner products would lose all their digits here, and find wrong neighbours.
    X, Y, Z = clouds()
    far = 2.0**26
    X, Y, Z = ((np.round(P * 64) / 64) for P in (X, Y, Z))  # so that the sums are exact
    mapper = SparseOTMapper(tol=1e-9, out_of_sample=out_of_sample, random_state=0)
    expected = [mapper.fit(X, Y).images_, mapper.transform(Z), mapper.inverse_transform(Z)]
    mapper.fit(X + far, Y + far)
    found = [mapper.images_, mapper.transform(Z + far), mapper.inverse_transform(Z + far)]
    for ours, reference in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours - far, reference, atol=1e-6)


# -- new points ----------------------------------------------------------------------------------


def test_new_points_take_the_step_of_the_nearest_fitted_one():
    X, Y, Z = clouds()
    mapper = SparseOTMapper(max_nnz=3, random_state=0).fit(X, Y)
    near = cdist(Z, X).argmin(axis=1)
    np.testing.assert_allclose(mapper.transform(Z), mapper.images_[near] + Z - X[near], rtol=1e-12)
    back = dense_images(mapper.plan_.T, X)
    near = cdist(Z, Y).argmin(axis=1)
    np.testing.assert_allclose(
        mapper.inverse_transform(Z), back[near] + Z - Y[near], rtol=1e-12, atol=1e-12
    )


@pytest.mark.parametrize("metric", ["sqeuclidean", "euclidean"])
@pytest.mark.parametrize(("axis", "k"), [(1, None), (1, 2), (0, 3)])
def test_potentials_give_the_best_row_of_the_plan(axis, k, metric):
    X, Y, Z = clouds(8, 6)
    a, b = weights(8, 6)
    mapper = SparseOTMapper(max_nnz=k, axis=axis, gamma=0.3, metric=metric, random_state=0,
                            out_of_sample="potentials")  # fmt: skip
    mapper.fit(X, Y, sample_weight=a, target_weight=b)
    a, b, costs = a / a.sum(), b / b.sum(), cdist(X, Y, metric)
    rest = costs - (costs @ b)[:, None]  # the unit: less the means of rows and columns
    strength = 0.3 * np.ptp(rest - a @ rest) / (1 / 8 if axis == 1 else 1 / 6)
    # Entries in units of the mass of the row, here and below: the mean one.
    caps = {"row": 6 if axis == 0 or k is None else k, "column": 8 if axis == 1 or k is None else k}
    for z, image in zip(Z[:4], mapper.transform(Z[:4]), strict=True):
        scores = mapper.plan_.beta - cdist([z], Y, metric)[0]
        expected = best_shares(scores, strength / 8, caps["row"]) @ Y
        np.testing.assert_allclose(image, expected, atol=1e-6)
    for z, image in zip(Z[:2], mapper.inverse_transform(Z[:2] + 2.0), strict=True):
        scores = mapper.plan_.alpha - cdist([z + 2.0], X, metric)[0]
        expected = best_shares(scores, strength / 6, caps["column"]) @ X
        np.testing.assert_allclose(image, expected, atol=1e-6)


def test_potentials_without_regularisation_choose_one_target():
    X, Y, Z = clouds()
    mapper = SparseOTMapper(gamma=0.0, out_of_sample="potentials", random_state=0).fit(X, Y)
    chosen = (cdist(Z, Y, "sqeuclidean") - mapper.plan_.beta).argmin(axis=1)
    np.testing.assert_array_equal(mapper.transform(Z), Y[chosen])
    nearly = SparseOTMapper(gamma=1e-307, gamma_scale="absolute", out_of_sample="potentials",
                            random_state=0).fit(X, Y)  # fmt: skip
    chosen = (cdist(Z, Y, "sqeuclidean") - nearly.plan_.beta).argmin(axis=1)
    np.testing.assert_allclose(nearly.transform(Z), Y[chosen], rtol=1e-12)


def test_potentials_give_fitted_points_their_images_and_are_continuous():
    X, Y, Z = clouds()
    mapper = SparseOTMapper(gamma=0.1, tol=1e-10, out_of_sample="potentials", random_state=0)
    mapper.fit(X, Y)
    np.testing.assert_allclose(mapper.transform(X), mapper.images_, atol=1e-5)
    np.testing.assert_allclose(mapper.inverse_transform(Y), dense_images(mapper.plan_.T, X),
                               atol=1e-5)  # fmt: skip
    path = Z[0] + np.linspace(0.0, 1.0, 2001)[:, None] * (Z[1] - Z[0])
    steps = np.abs(np.diff(mapper.transform(path), axis=0)).max()
    assert 0 < steps < 0.02
    jumps = mapper.set_params(out_of_sample="nearest").transform(path)
    assert np.abs(np.diff(jumps, axis=0)).max() > 0.1


@pytest.mark.parametrize("out_of_sample", ["nearest", "potentials"])
def test_blocks_of_points_change_nothing(out_of_sample, monkeypatch):
    X, Y, Z = clouds()
    mapper = SparseOTMapper(max_nnz=3, out_of_sample=out_of_sample, random_state=0).fit(X, Y)
    expected = mapper.transform(Z)
    monkeypatch.setattr(estimators, "_BLOCK", 40)
    np.testing.assert_allclose(mapper.transform(Z[::-1])[::-1], expected, rtol=1e-12)
    assert mapper.transform(Z[:1]).shape == (1, 2)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("out_of_sample", ["nearest", "potentials"])
def test_the_inverse_is_the_map_of_the_turned_problem(out_of_sample, axis):
    X, Y, Z = clouds()
    a, b = weights()
    options = {"max_nnz": 3, "tol": 1e-9, "out_of_sample": out_of_sample, "random_state": 0}
    mapper = SparseOTMapper(axis=axis, **options)
    turned = SparseOTMapper(axis=1 - axis, **options)
    mapper.fit(X, Y, sample_weight=a, target_weight=b)
    turned.fit(Y, X, sample_weight=b, target_weight=a)
    np.testing.assert_allclose(mapper.inverse_transform(Z), turned.transform(Z), atol=1e-6)
    np.testing.assert_allclose(mapper.transform(Z), turned.inverse_transform(Z), atol=1e-6)


def test_parameters_that_change_after_fit_do_not_change_the_map():
    X, Y, Z = clouds()
    mapper = SparseOTMapper(max_nnz=2, out_of_sample="potentials", random_state=0).fit(X, Y)
    expected = mapper.transform(Z)
    mapper.set_params(max_nnz=5, axis=0, metric="euclidean", gamma=3.0)
    np.testing.assert_array_equal(mapper.transform(Z), expected)
    X *= 2.0
    Y += 1.0
    np.testing.assert_array_equal(mapper.transform(Z), expected)


# -- weights -------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"max_nnz": 3}, {"max_nnz": 3, "axis": 0}])
@pytest.mark.parametrize("out_of_sample", ["nearest", "potentials"])
def test_points_of_weight_zero_are_as_good_as_left_out(options, out_of_sample):
    X, Y, Z = clouds()
    Z = np.concatenate([Z, Z + 2.0, Y])
    a, b = weights()
    a[[0, 5]], b[[3, 7]] = 0.0, 0.0
    mapper = SparseOTMapper(gamma=0.5, gamma_scale="absolute", out_of_sample=out_of_sample,
                            tol=1e-9, random_state=0, **options)  # fmt: skip
    mapper.fit(X, Y, sample_weight=a, target_weight=b)
    images, moved, back = mapper.images_, mapper.transform(Z), mapper.inverse_transform(Z)
    assert mapper.plan_.shape == (14, 12)
    assert not mapper.plan_.toarray()[a == 0].any()
    np.testing.assert_array_equal(images[a == 0], mapper.transform(X[a == 0]))
    mapper.fit(X[a > 0], Y[b > 0], sample_weight=a[a > 0], target_weight=b[b > 0])
    np.testing.assert_allclose(images[a > 0], mapper.images_, atol=1e-6)
    np.testing.assert_allclose(moved, mapper.transform(Z), atol=1e-6)
    np.testing.assert_allclose(back, mapper.inverse_transform(Z), atol=1e-6)


def test_weights_are_the_masses():
    x, y = np.array([[0.0], [1.0]]), np.array([[10.0], [20.0], [30.0]])
    mapper = SparseOTMapper(gamma=1e-9, tol=1e-9, random_state=0)
    mapper.fit(x, y, sample_weight=[3, 1], target_weight=[2, 1, 1])
    # On the line the lower three quarters go to the lower three quarters.
    np.testing.assert_allclose(mapper.images_, [[40.0 / 3], [30.0]], rtol=1e-6)
    np.testing.assert_allclose(mapper.plan_.toarray(), [[0.5, 0.25, 0], [0, 0, 0.25]], atol=1e-7)
    np.testing.assert_allclose(mapper.fit(x, y).images_, [[40.0 / 3], [80.0 / 3]], rtol=1e-6)


# -- targets -------------------------------------------------------------------------------------


@pytest.mark.parametrize("d", [1, 3])
def test_reference_samples(d):
    X = clouds(d=d)[0]
    uniform = SparseOTMapper("uniform", random_state=5).fit(X)
    normal = SparseOTMapper("normal", random_state=5).fit(X)
    assert uniform.target_.shape == normal.target_.shape == (256, d)
    np.testing.assert_allclose(norm.cdf(normal.target_), uniform.target_, atol=1e-12)
    # Evenly spread: every slab of width 1/16 has its share of every coordinate.
    counts = np.array([np.histogram(c, 16, (0.0, 1.0))[0] for c in uniform.target_.T])
    assert np.abs(counts - 16).max() <= 2
    np.testing.assert_allclose(np.cov(normal.target_.T), np.eye(d).squeeze(), atol=0.1)
    assert (uniform.images_ > 0).all()
    assert (uniform.images_ < 1).all()
    again = SparseOTMapper("normal", random_state=5).fit(X)
    np.testing.assert_array_equal(again.target_, normal.target_)
    other = SparseOTMapper("normal", random_state=6, n_reference=20).fit(X)
    assert other.target_.shape == (20, d)
    generator = np.random.default_rng(5)
    one, two = (SparseOTMapper("normal", random_state=generator).fit(X) for _ in range(2))
    np.testing.assert_array_equal(one.target_, two.target_)  # the caller's is not advanced


def test_the_map_to_the_uniform_sample_gives_ranks():
    x = np.random.default_rng(0).normal(size=(40, 1))
    ranks = SparseOTMapper("uniform", gamma=1e-6, random_state=0).fit_transform(x)[:, 0]
    np.testing.assert_array_equal(np.argsort(ranks), np.argsort(x[:, 0]))
    expected = (np.argsort(np.argsort(x[:, 0])) + 0.5) / 40
    np.testing.assert_allclose(ranks, expected, atol=0.01)


def test_target_points_as_parameter_or_second_argument_are_the_same():
    X, Y, Z = clouds()
    expected = SparseOTMapper(random_state=0).fit(X, Y).transform(Z)
    for target in (Y, Y.tolist(), np.asfortranarray(Y)):
        mapper = SparseOTMapper(target, random_state=0)
        np.testing.assert_array_equal(mapper.fit(X).transform(Z), expected)
    # Then the second argument is ignored, labels in one column or several.
    for y in (np.arange(14), np.array(["a", "b"] * 7), np.zeros((14, 2)), np.zeros((14, 3))):
        np.testing.assert_array_equal(mapper.fit(X, y).transform(Z), expected)


# -- dtypes, frames, pipelines -------------------------------------------------------------------


@pytest.mark.parametrize("out_of_sample", ["nearest", "potentials"])
@pytest.mark.parametrize("k", [None, 3])
def test_float32_is_kept(out_of_sample, k):
    X, Y, Z = clouds()
    mapper = SparseOTMapper(max_nnz=k, out_of_sample=out_of_sample, tol=1e-5, random_state=0)
    exact = mapper.fit(X, Y)
    expected = exact.images_, exact.transform(Z), exact.inverse_transform(Z)
    X, Y, Z = (P.astype(np.float32) for P in (X, Y, Z))
    mapper.fit(X, Y)
    found = mapper.images_, mapper.transform(Z), mapper.inverse_transform(Z)
    for ours, reference in zip(found, expected, strict=True):
        assert ours.dtype == np.float32
        np.testing.assert_allclose(ours, reference, atol=5e-3)
    assert mapper.plan_.dtype == mapper.source_.dtype == mapper.target_.dtype == np.float32
    np.testing.assert_allclose(mapper.images_, dense_images(mapper.plan_, Y), rtol=1e-5)
    assert mapper.transform(Z.astype(np.float64)).dtype == np.float64
    assert mapper.inverse_transform(Z.astype(np.float64)).dtype == np.float64
    if out_of_sample == "nearest":
        np.testing.assert_array_equal(mapper.transform(X), mapper.images_)


def test_integers_become_float64():
    X = np.arange(6).reshape(3, 2)
    mapper = SparseOTMapper(max_nnz=1, random_state=0).fit(X, X + 10)
    assert mapper.images_.dtype == mapper.inverse_transform(X).dtype == np.float64
    np.testing.assert_allclose(mapper.transform(X), X + 10.0)


def test_frames_keep_their_names():
    pd = pytest.importorskip("pandas")
    X, Y, _ = clouds()
    names = ["height", "width"]
    frame, target = pd.DataFrame(X, columns=names), pd.DataFrame(Y, columns=["u", "v"])
    weight = pd.Series(np.linspace(1, 2, 14))
    mapper = SparseOTMapper(random_state=0).set_output(transform="pandas")
    out = mapper.fit_transform(frame, target, sample_weight=weight)
    assert list(out.columns) == list(mapper.get_feature_names_out()) == names
    np.testing.assert_array_equal(mapper.feature_names_in_, names)
    np.testing.assert_array_equal(out, mapper.images_)
    np.testing.assert_array_equal(SparseOTMapper(target, random_state=0).fit(X).target_, Y)
    with pytest.raises(ValueError, match="feature names"):
        mapper.transform(frame.rename(columns={"width": "depth"}))


def test_clone_and_pickle():
    X, Y, Z = clouds()
    mapper = SparseOTMapper(Y, max_nnz=3, solver=SparsityConstrainedOT(tol=1e-7), random_state=0)
    mapper.fit(X)
    copy = clone(mapper)
    assert copy.solver is not mapper.solver
    assert copy.solver.tol == 1e-7
    with pytest.raises(NotFittedError):
        copy.transform(Z)
    with pytest.raises(NotFittedError):
        copy.inverse_transform(Z)
    np.testing.assert_array_equal(copy.fit(X).transform(Z), mapper.transform(Z))
    again = pickle.loads(pickle.dumps(mapper))
    np.testing.assert_array_equal(again.transform(Z), mapper.transform(Z))
    np.testing.assert_array_equal(again.plan_.beta, mapper.plan_.beta)


def test_a_solver_instance_is_used_and_not_touched():
    X, Y, _ = clouds()
    solver = SparsityConstrainedOT(method="lbfgs", tol=1e-4)
    before = solver.get_params()
    mapper = SparseOTMapper(solver=solver, tol=1e-9, method="bcd").fit(X, Y)
    assert solver.get_params() == before
    assert "method='lbfgs'" in mapper.result_.solver
    assert 1e-9 < mapper.result_.residual <= 1e-4


@pytest.mark.parametrize("method", ["auto", "ssnal", "ssn", "lbfgs", "bcd"])
def test_methods_agree(method):
    X, Y, Z = clouds()
    expected = SparseOTMapper(gamma=0.1, tol=1e-9, random_state=0).fit(X, Y).transform(Z)
    mapper = SparseOTMapper(gamma=0.1, tol=1e-6, method=method, max_iter=2000, random_state=0)
    np.testing.assert_allclose(mapper.fit(X, Y).transform(Z), expected, atol=1e-3)


def test_in_a_pipeline_with_a_grid_search():
    X = clouds(40)[0]
    y = X[:, 0] ** 2
    mapper = SparseOTMapper("normal", n_reference=16, solver=SparsityConstrainedOT(),
                            out_of_sample="potentials", random_state=0)  # fmt: skip
    pipe = make_pipeline(StandardScaler(), mapper, KNeighborsRegressor(3))
    grid = {
        "sparseotmapper__solver__tol": [1e-2, 1e-8],
        "sparseotmapper__target": ["normal", "uniform"],
    }
    search = GridSearchCV(pipe, grid, cv=2).fit(X, y)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    assert len(search.cv_results_["params"]) == 4
    best = search.best_estimator_[1]
    assert best.solver.tol == search.best_params_["sparseotmapper__solver__tol"]
    assert f"tol={best.solver.tol}" in best.result_.solver
    assert mapper.solver.tol == SparsityConstrainedOT().tol
    assert search.predict(X).shape == (40,)


def test_weights_are_routed():
    X, Y, _ = clouds(14, 14)
    a = np.linspace(1.0, 2.0, 14)
    with sklearn.config_context(enable_metadata_routing=True):
        mapper = SparseOTMapper(Y, random_state=0).set_fit_request(sample_weight=True)
        pipe = make_pipeline(mapper).fit(X, sample_weight=a)
    np.testing.assert_allclose(pipe[0].plan_.sum(axis=1), a / a.sum(), rtol=1e-6)


def test_progress_bar_of_scikit_learn(capsys):
    callback = pytest.importorskip("sklearn.callback", reason="scikit-learn before 1.9")
    pytest.importorskip("rich")
    X, Y, _ = clouds()
    mapper = SparseOTMapper(random_state=0).set_callbacks(callback.ProgressBar()).fit(X, Y)
    assert mapper.result_.success
    assert "SparseOTMapper" in capsys.readouterr().out


# -- messages ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("options", "message"), [
    ({"target": "gauss"}, r"target='gauss' must be None or one of 'normal', 'uniform' or an array"),
    ({"target": 3}, r"target=3 must be"),
    ({"n_reference": 0}, r"n_reference=0 must be"),
    ({"gamma": -1.0}, r"gamma=-1\.0 must be"), ({"gamma": np.nan}, r"gamma=nan must be"),
    ({"max_nnz": 0}, r"max_nnz=0 must be"), ({"max_nnz": 2.5}, r"max_nnz=2\.5 must be"),
    ({"max_nnz": True}, r"max_nnz=True must be"), ({"axis": 2}, r"axis=2 must be"),
    ({"metric": "cosine"}, r"metric='cosine' must be"),
    ({"gamma_scale": "mean"}, r"gamma_scale='mean' must be"),
    ({"unbalanced": "tv"}, r"unbalanced='tv' must be"),
    ({"marginal_weight": 0.0, "unbalanced": "kl"}, r"marginal_weight=0\.0 must be"),
    ({"out_of_sample": "knn"}, r"out_of_sample='knn' must be"),
    ({"tol": -1.0}, r"tol=-1\.0 must be"), ({"max_iter": -1}, r"max_iter=-1 must be"),
    ({"n_threads": 0}, r"n_threads=0 must be"),
    ({"random_state": "x"}, r"random_state='x' must be"),
    ({"method": "snal"}, r"method='snal' is unknown\. Did you mean 'ssnal'"),
    ({"solver": "snal"}, r"solver='snal' is unknown\. Did you mean 'ssnal'"),
])  # fmt: skip
def test_bad_parameters_are_named(options, message):
    X, Y, _ = clouds()
    with pytest.raises(ParameterError, match=message):
        SparseOTMapper(**options).fit(X, Y)


def test_solvers_of_other_problems_are_refused():
    X, Y, _ = clouds()
    with pytest.raises(UnsupportedProblemError, match="AlternatingMinimization"):
        SparseOTMapper(solver=AlternatingMinimization()).fit(X, Y)
    with pytest.raises(TypeError, match="solver=3 must be a Solver"):
        SparseOTMapper(solver=3).fit(X, Y)


@pytest.mark.parametrize(("y", "weight", "message"), [
    (None, {}, r"y is None: give fit target points of shape \(n_targets, 2\), or the parameter"),
    (np.arange(14), {}, r"y has shape \(14,\); expected target points .*give the parameter target"),
    (np.zeros((5, 3)), {}, r"y has shape \(5, 3\) and X has shape \(14, 2\)"),
    (np.full((5, 2), np.nan), {}, r"Input y contains NaN"),
    (np.zeros((0, 2)), {}, r"0 sample"),
    ("data", {"sample_weight": np.ones(3)}, r"sample_weight has shape \(3,\); expected \(14,\)"),
    ("data", {"target_weight": np.ones((12, 1))}, r"target_weight has shape \(12, 1\); expected"),
    ("data", {"sample_weight": -np.ones(14)}, r"sample_weight\[0\] = -1 is negative; .*at least 0"),
    ("data", {"target_weight": np.zeros(12)}, r"target_weight is zero for all points; give"),
    ("data", {"sample_weight": np.full(14, np.nan)}, r"Input sample_weight contains NaN"),
])  # fmt: skip
def test_bad_targets_and_weights_are_named(y, weight, message):
    X, Y, _ = clouds()
    with pytest.raises(ValueError, match=message):
        SparseOTMapper().fit(X, Y if isinstance(y, str) else y, **weight)


def test_a_bad_target_parameter_is_named():
    X = clouds()[0]
    with pytest.raises(ProblemError, match=r"target has shape \(5, 3\) and X has shape \(14, 2\)"):
        SparseOTMapper(np.zeros((5, 3))).fit(X)
    with pytest.raises(ValueError, match="Input target contains infinity"):
        SparseOTMapper(np.full((5, 2), np.inf)).fit(X)


def test_a_cap_with_too_few_places_is_explained():
    X, Y, _ = clouds(3, 12)
    with pytest.raises(
        InfeasibleError,
        match=r"n_samples=3 .*n_targets=12 .*max_nnz=2.*give max_nnz >= 4; or give unbalanced",
    ):
        SparseOTMapper(max_nnz=2).fit(X, Y)
    mapper = SparseOTMapper(max_nnz=2, unbalanced="l2", random_state=0).fit(X, Y)
    assert np.count_nonzero(mapper.plan_.toarray(), axis=1).max() <= 2


def test_wrong_numbers_of_coordinates_are_named():
    X, Y, _ = clouds()
    mapper = SparseOTMapper(random_state=0).fit(X, Y)
    for method in (mapper.transform, mapper.inverse_transform):
        with pytest.raises(ValueError, match="X has 3 features, but SparseOTMapper is expecting 2"):
            method(np.zeros((4, 3)))
        with pytest.raises(ValueError, match="contains NaN"):
            method([[np.nan, 0.0]])


@pytest.mark.parametrize("max_iter", [0, 1])
def test_too_few_iterations_warn_and_give_a_map(max_iter):
    X, Y, Z = clouds()
    a, b = weights()
    mapper = SparseOTMapper(max_nnz=3, max_iter=max_iter, tol=1e-9, random_state=0)
    with pytest.warns(ConvergenceWarning, match=f"max_iter={max_iter} reached.*Raise max_iter or"):
        mapper.fit(X, Y, sample_weight=a, target_weight=b)
    assert mapper.n_iter_ == 1
    assert not mapper.result_.success
    assert np.isfinite(mapper.transform(Z)).all()
