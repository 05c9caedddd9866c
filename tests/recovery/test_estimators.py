"""MatrixFactorization and LowRankImputer: scikit-learn's checks, and what recommenders need."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import sklearn
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import estimator_checks_generator, parametrize_with_checks

from lowrank_opt.core.errors import ConvergenceWarning, ParameterError, ProblemError
from lowrank_opt.core.state import Status
from lowrank_opt.recovery import (
    AlternatingMinimization,
    GibbsFactorization,
    LowRankImputer,
    LowRankSamples,
    MatrixFactorization,
    Observations,
)

# scikit-learn's own data are tiny and partly constant: a loose tolerance is reached.
CONFIGURATIONS = [
    MatrixFactorization(rank=2, random_state=0),
    MatrixFactorization(rank=2, method="sgd", random_state=0),
    MatrixFactorization(rank=2, method="accurate", max_iter=40, random_state=0),
    LowRankImputer(rank=2, random_state=0),
    LowRankImputer(rank=2, method="soft_impute", random_state=0),
]
# Checks that are known to fail, with a reason each: none.
EXPECTED_FAILURES: dict[str, str] = {}
# How many checks scikit-learn 1.9 collects: a tag that hides checks would go unnoticed otherwise.
# One of them, array API input, skips itself unless SCIPY_ARRAY_API is set.
N_CHECKS = 46


def data(shape=(30, 20), rank=2, density=0.6, noise=0.05, seed=0, dtype=np.float64):
    """A noisy matrix with NaN holes, and the same without."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((shape[0], rank)) @ rng.standard_normal((rank, shape[1])) + 3.0
    X += noise * rng.standard_normal(shape)
    mask = rng.random(shape) < density
    mask[:, :2], mask[:2] = True, True
    return np.where(mask, X, np.nan).astype(dtype), X.astype(dtype)


def ratings(n=400, seed=0, rows=25, cols=15):
    """Ids of rows and columns, and values, of a matrix of rank 1 with biases."""
    rng = np.random.default_rng(seed)
    chosen = rng.permutation(rows * cols)[:n]
    i, j = chosen // cols, chosen % cols
    names = np.array([f"user{a:02d}" for a in range(rows)])
    films = np.array([f"film{a:02d}" for a in range(cols)])
    values = 3.0 + 0.5 * np.cos(i) + np.sin(j) * np.cos(3.0 * i)
    return names[i], films[j], values


def factorization(**options):
    defaults = {"rank": 2, "reg": 0.03, "tol": 1e-3, "max_iter": 500, "random_state": 0}
    return MatrixFactorization(**{**defaults, **options})


# -- scikit-learn's checks -----------------------------------------------------------------------


@parametrize_with_checks(CONFIGURATIONS, expected_failed_checks=lambda _: EXPECTED_FAILURES)
@pytest.mark.filterwarnings("ignore::lowrank_opt.core.errors.ConvergenceWarning")
@pytest.mark.filterwarnings("ignore::lowrank_opt.core.errors.AccuracyWarning")
@pytest.mark.filterwarnings("ignore:.*exceeds the smaller side:UserWarning")
def test_scikit_learn_check(estimator, check):
    check(estimator)


@pytest.mark.parametrize("estimator", CONFIGURATIONS, ids=repr)
def test_number_of_checks(estimator):
    names = [check.func.__name__ for _, check in estimator_checks_generator(estimator)]
    if sklearn.__version__.startswith("1.9."):
        assert len(names) == N_CHECKS
    assert len(names) > 40
    assert [n for n in names if "array_api" in n] == ["check_array_api_input"]
    assert EXPECTED_FAILURES == {}


# -- fitting -------------------------------------------------------------------------------------


def test_dense_sparse_triples_and_frames_agree():
    X, truth = data()
    dense = factorization().fit(X)
    i, j = np.nonzero(~np.isnan(X))
    stored = sp.coo_array((X[i, j], (i, j)), shape=X.shape).tocsr()
    expected = dense.model_.to_dense()
    for other in (stored, sp.csc_array(stored), (i, j, X[i, j], X.shape), (i, j, X[i, j])):
        model = factorization().fit(other)
        np.testing.assert_allclose(model.model_.to_dense(), expected, atol=1e-10)
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame(X, columns=[f"c{a}" for a in range(X.shape[1])])
    model = factorization().fit(frame)
    np.testing.assert_array_equal(model.feature_names_in_, frame.columns)
    np.testing.assert_allclose(model.model_.to_dense(), expected, atol=1e-12)
    assert np.sqrt(np.mean((expected - truth) ** 2)) < 0.3


def test_attributes():
    X, _ = data()
    model = factorization().fit(X)
    assert model.components_.shape == (2, 20)
    assert model.row_factors_.shape == (30, 2)
    assert model.row_bias_.shape == (30,)
    assert model.col_bias_.shape == (20,)
    np.testing.assert_allclose(model.offset_, np.nanmean(X))
    assert model.n_features_in_ == 20
    assert model.n_iter_ == model.result_.nit
    assert model.rank_ == 2
    assert model.row_ids_ is model.col_ids_ is model.validation_scores_ is None
    full = (
        model.offset_ + model.row_bias_[:, None] + model.col_bias_
        + model.row_factors_ @ model.components_
    )  # fmt: skip
    np.testing.assert_allclose(model.predict(np.arange(30)[:, None], np.arange(20)), full)


@pytest.mark.parametrize("method", ["als", "cg", "sketch", "sgd", "gibbs", "FactorSGD"])
def test_methods(method):
    X, truth = data()
    model = factorization(method=method, tol=1e-2, max_iter=200).fit(X)
    hidden = np.isnan(X)
    i, j = np.nonzero(hidden)
    rmse = np.sqrt(np.mean((model.predict(i, j) - truth[hidden]) ** 2))
    assert rmse < 0.25 * np.std(truth)


def test_single_precision_stays():
    X, _ = data(dtype=np.float32)
    model = factorization(tol=1e-3).fit(X)
    assert model.components_.dtype == np.float32
    assert model.predict(0, 0).dtype == np.float32
    assert model.transform(X).dtype == np.float32


def test_nonnegative_factors():
    X, _ = data()
    model = factorization(nonnegative=True, biases=False, center=False, tol=1e-2).fit(np.abs(X))
    assert (model.components_ >= 0).all()
    assert (model.row_factors_ >= 0).all()
    assert (model.transform(np.abs(X)) >= 0).all()


def test_folding_in_the_training_rows_gives_their_factors():
    X, _ = data()
    model = factorization(tol=1e-8).fit(X)
    np.testing.assert_allclose(model.transform(X), model.row_factors_, atol=1e-10)
    np.testing.assert_allclose(model.transform(X[:3]), model.row_factors_[:3], atol=1e-10)
    np.testing.assert_allclose(model.predict(X), model.model_.to_dense(), atol=1e-9)
    i, j = np.nonzero(~np.isnan(X))
    stored = sp.csr_array((X[i, j], (i, j)), shape=X.shape)
    np.testing.assert_allclose(model.transform(stored), model.row_factors_, atol=1e-10)


def test_new_rows_without_data_are_predicted_by_the_biases():
    X, _ = data()
    model = factorization().fit(X)
    expected = model.offset_ + model.col_bias_
    np.testing.assert_allclose(model.predict(np.full((1, 20), np.nan))[0], expected)
    assert not model.transform(np.full((2, 20), np.nan)).any()
    assert not model.transform(sp.csr_array((2, 20))).any()
    mixed = np.vstack([X[0], np.full(20, np.nan)])
    np.testing.assert_allclose(model.predict(mixed)[1], expected)


def test_a_sparse_matrix_is_not_predicted_whole():
    X, _ = data()
    with pytest.raises(ProblemError, match="dense"):
        factorization().fit(X).predict(sp.csr_array((2, 20)))


def test_rank_is_cut_with_a_warning():
    X, _ = data()
    with pytest.warns(UserWarning, match="rank=50 exceeds the smaller side"):
        model = factorization(rank=50, reg=0.1).fit(X)
    assert model.rank_ == 20


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rank": 0}, "rank"),
        ({"rank": 2.5}, "rank"),
        ({"cold": "warm"}, "cold"),
        ({"patience": 0}, "patience"),
        ({"validation_fraction": 1.0}, "validation_fraction"),
        ({"early_stopping": "yes"}, "early_stopping"),
        ({"reg": -1.0}, "reg"),
        ({"reg_scaling": "counts"}, "reg_scaling"),
        ({"loss": "absolute"}, "loss"),
        ({"method": "asl"}, "did you mean.*als"),
        ({"tol": -1.0}, "tol"),
        ({"max_iter": -1}, "max_iter"),
    ],
)
def test_bad_parameters_are_named(options, message):
    X, _ = data()
    with pytest.raises(ValueError, match=f"(?i){message}"):
        factorization(**options).fit(X)


def test_a_solver_that_is_none():
    X, _ = data()
    with pytest.raises(TypeError, match="Solver instance"):
        factorization(solver=3).fit(X)
    with pytest.raises(ParameterError, match="method"):
        factorization(method=3).fit(X)


# -- convergence ---------------------------------------------------------------------------------


def test_a_limit_is_a_warning_with_residual_and_tolerance():
    X, _ = data()
    for estimator in (factorization(max_iter=1, tol=1e-9), LowRankImputer(2, max_iter=1, tol=1e-9)):
        with pytest.warns(ConvergenceWarning, match=r"residual .*tol 1\.0e-09.*Raise max_iter"):
            estimator.fit(X)


def test_planned_schedules_end_without_a_warning():
    X, _ = data()
    for method in ("sgd", "accurate"):
        model = factorization(method=method, max_iter=5, tol=1e-12).fit(X)
        assert not model.result_.success


# -- tools of scikit-learn -----------------------------------------------------------------------


def test_grid_search_over_rank_and_the_solver():
    X, _ = data((40, 20))
    solver = AlternatingMinimization(max_iter=300, random_state=0)
    grid = {"rank": [1, 2], "solver__tol": [1e-2, 1e-3]}
    search = GridSearchCV(factorization(solver=solver), grid, cv=2, error_score="raise").fit(X)
    assert search.best_params_["rank"] == 2
    assert len(search.cv_results_["params"]) == 4
    # The instance is cloned, not used.
    assert solver.tol == 1e-6


def test_pipeline_and_pandas_output():
    pd = pytest.importorskip("pandas")
    X, _ = data()
    pipe = make_pipeline(StandardScaler(), LowRankImputer(2, random_state=0),
                         factorization()).set_output(transform="pandas")  # fmt: skip
    out = pipe.fit_transform(X)
    assert isinstance(out, pd.DataFrame)
    assert list(out.columns) == ["matrixfactorization0", "matrixfactorization1"]
    frame = pd.DataFrame(X, columns=[f"c{a}" for a in range(20)], index=np.arange(30) + 7)
    filled = LowRankImputer(2, random_state=0).set_output(transform="pandas").fit_transform(frame)
    assert list(filled.columns) == list(frame.columns)
    assert list(filled.index) == list(frame.index)
    assert not filled.isna().any().any()


def test_clone_keeps_parameters_only():
    X, _ = data()
    model = factorization(solver=AlternatingMinimization(tol=1e-3)).fit(X)
    copy = clone(model)
    assert not hasattr(copy, "model_")
    assert copy.solver.tol == 1e-3
    assert copy.solver is not model.solver


def test_score_is_minus_the_error_of_every_fifth_entry():
    X, _ = data()
    model = factorization().fit(X)
    held = X.copy()
    i, j = np.nonzero(~np.isnan(X))
    held[i[4::5], j[4::5]] = np.nan
    error = model.predict(held)[i[4::5], j[4::5]] - X[i[4::5], j[4::5]]
    np.testing.assert_allclose(model.score(X), -np.sqrt(np.mean(error**2)), rtol=1e-10)
    np.testing.assert_allclose(
        model.score(sp.csr_array((X[i, j], (i, j)), shape=X.shape)), model.score(X), rtol=1e-10
    )
    with pytest.raises(ProblemError, match="fewer than 5"):
        model.score(np.where(np.arange(20) < 4, 1.0, np.nan)[None])


class Recorder:
    """The least that scikit-learn asks of a callback."""

    def __init__(self, stop_after=None):
        self.stop_after, self.begun, self.ended, self.seen = stop_after, 0, 0, []

    def setup(self, estimator, context):
        pass

    def teardown(self, estimator, context):
        pass

    def on_fit_task_begin(self, estimator, context, **_):
        self.begun += 1

    def on_fit_task_end(self, estimator, context, *, metadata=None, **_):
        self.ended += 1
        if metadata is not None:
            self.seen.append(metadata["nit"])
        return self.stop_after is not None and len(self.seen) >= self.stop_after


@pytest.mark.parametrize("make", [factorization, lambda **o: LowRankImputer(2, **o)])
def test_callbacks_of_scikit_learn(make):
    pytest.importorskip("sklearn.callback", reason="scikit-learn before 1.9 has no callbacks")
    X, _ = data()
    recorder = Recorder()
    model = make(tol=1e-3).set_callbacks(recorder).fit(X)
    assert recorder.begun == recorder.ended > 2
    assert recorder.seen[-1] == model.result_.nit
    assert recorder.seen == sorted(recorder.seen)
    stopped = make(tol=1e-12).set_callbacks(Recorder(stop_after=3)).fit(X)
    assert stopped.result_.nit == 2


def test_progress_bar_of_scikit_learn(capsys):
    callback = pytest.importorskip("sklearn.callback", reason="scikit-learn before 1.9")
    pytest.importorskip("rich")
    X, _ = data()
    model = factorization().set_callbacks(callback.ProgressBar()).fit(X)
    assert model.result_.success


# -- recommender ---------------------------------------------------------------------------------


def test_ids():
    users, films, values = ratings()
    model = factorization(reg=0.001).fit((users, films, values))
    assert list(model.row_ids_) == sorted(set(users))
    assert list(model.col_ids_) == sorted(set(films))
    assert model.n_features_in_ == len(model.col_ids_)
    predicted = model.predict(users, films)
    assert np.sqrt(np.mean((predicted - values) ** 2)) < 0.1 * np.std(values)
    # The same by positions.
    i, j = np.searchsorted(model.row_ids_, users), np.searchsorted(model.col_ids_, films)
    plain = factorization(reg=0.001).fit((i, j, values, (25, 15)))
    np.testing.assert_allclose(plain.predict(i, j), predicted, atol=1e-10)
    assert plain.row_ids_ is None


@pytest.mark.parametrize("method", ["als", "accurate"])
def test_cold_start(method):
    users, films, values = ratings()
    model = factorization(method=method, max_iter=30, tol=1e-2).fit((users, films, values))
    asked = (["user03", "nobody", "user03"], ["film02", "film02", "nothing"])
    value = model.predict(*asked)
    np.testing.assert_allclose(value[0], model.predict(["user03"], ["film02"])[0])
    if method == "als":
        np.testing.assert_allclose(value[1], model.offset_ + model.col_bias_[2])
        np.testing.assert_allclose(value[2], model.offset_ + model.row_bias_[3])
    model.set_params(cold="nan")
    np.testing.assert_array_equal(np.isnan(model.predict(*asked)), [False, True, True])
    model.set_params(cold="error")
    with pytest.raises(ProblemError):
        model.predict(*asked)


def test_recommend():
    users, films, values = ratings()
    model = factorization().fit((users, films, values))
    known = model.row_ids_[[4, 9]]
    columns, scores = model.recommend(known, 6)
    for user, names, marks in zip(known, columns, scores, strict=True):
        seen = set(films[users == user])
        assert not seen & set(names)
        rest = np.array([f for f in model.col_ids_ if f not in seen])
        marks_of_rest = model.predict(np.repeat(user, len(rest)), rest)
        order = np.argsort(-marks_of_rest)[:6]
        count = len(order)
        assert list(names[:count]) == list(rest[order])
        np.testing.assert_allclose(marks[:count], marks_of_rest[order])
        assert all(name is None for name in names[count:])
        assert np.isnan(marks[count:]).all()
    everything, _ = model.recommend(known[:1], 15, exclude_seen=False)
    assert set(everything[0]) == set(model.col_ids_)
    with pytest.raises(ProblemError, match="'nobody' was not in the training data"):
        model.recommend(["nobody"])
    with pytest.raises(ParameterError, match="n="):
        model.recommend(known, 0)


def test_recommend_by_position_fills_up_with_minus_one():
    X, _ = data()
    model = factorization().fit(X)
    columns, scores = model.recommend([0, 3], 20)
    assert (columns[0] == -1).all()  # the row is full
    assert np.isnan(scores[0]).all()
    count = int(np.isnan(X[3]).sum())
    assert set(columns[1, :count]) == set(np.flatnonzero(np.isnan(X[3])))
    assert (columns[1, count:] == -1).all()
    more, _ = model.recommend(3, 25)
    assert more.shape == (1, 25)
    for outside in (-1, 30):
        with pytest.raises(ProblemError, match="not in the training data"):
            model.recommend([outside])


def test_entries_kept_out_for_validation_are_not_recommended():
    X, _ = data()
    model = factorization(early_stopping=True, validation_fraction=0.3).fit(X)
    columns, _ = model.recommend(np.arange(30), 20)
    for row, names in zip(X, columns, strict=True):
        assert set(names[names >= 0]) == set(np.flatnonzero(np.isnan(row)))


def test_recommendations_of_a_sampler_follow_the_posterior_mean():
    X, _ = data(noise=1.0)
    model = factorization(method="accurate", max_iter=30, tol=1e-9).fit(X)
    columns, scores = model.recommend([5], 20, exclude_seen=False)
    mean = model.predict(np.full(20, 5), columns[0])
    np.testing.assert_allclose(scores[0], mean, rtol=1e-10)
    assert (np.diff(scores[0]) <= 0).all()


def test_predictive_deviations():
    X, _ = data()
    model = factorization(method="accurate", max_iter=40).fit(X)
    assert isinstance(model.model_, LowRankSamples)
    mean, std = model.predict([0, 1], [2, 3], return_std=True)
    assert mean.shape == std.shape == (2,)
    assert (std > 0).all()
    with pytest.raises(ValueError, match="method='accurate'"):
        factorization().fit(X).predict(0, 0, return_std=True)


# -- early stopping, warm start, more data -------------------------------------------------------


def test_early_stopping_returns_the_best_model():
    X, _ = data(noise=1.5, density=0.5)
    model = factorization(rank=8, reg=1e-7, early_stopping=True, patience=2, tol=1e-8,
                          validation_fraction=0.2).fit(X)  # fmt: skip
    scores = model.validation_scores_
    assert len(scores) < 100
    assert model.n_iter_ == int(np.argmin(scores)) + 1 == len(scores) - 2
    free = factorization(rank=8, reg=1e-7, max_iter=3, early_stopping=True, patience=50, tol=1e-8,
                         validation_fraction=0.2)  # fmt: skip
    with pytest.warns(ConvergenceWarning):
        free.fit(X)
    np.testing.assert_allclose(free.validation_scores_, scores[:3])


def test_validation_data_are_used_as_given():
    X, truth = data()
    i, j = np.nonzero(np.isnan(X))
    model = factorization(tol=1e-6).fit(X, validation=(i, j, truth[i, j]))
    error = np.sqrt(np.mean((model.predict(i, j) - truth[i, j]) ** 2))
    np.testing.assert_allclose(error, min(model.validation_scores_), rtol=1e-10)
    users, films, values = ratings()
    model = factorization().fit((users[50:], films[50:], values[50:]),
                                validation=(users[:50], films[:50], values[:50]))  # fmt: skip
    error = np.sqrt(np.mean((model.predict(users[:50], films[:50]) - values[:50]) ** 2))
    np.testing.assert_allclose(error, min(model.validation_scores_), rtol=1e-10)


def test_too_few_entries_for_validation():
    X = np.array([[1.0, 2.0], [3.0, 4.0]])
    with pytest.raises(ProblemError, match="validation_fraction"):
        factorization(rank=1, early_stopping=True, validation_fraction=1e-9).fit(X)


def test_warm_start():
    X, _ = data()
    model = factorization(warm_start=True, tol=1e-5).fit(X)
    assert model.result_.nit > 0
    assert model.fit(X).result_.nit == 0
    assert model.n_iter_ == 1
    model.set_params(warm_start=False)
    assert model.fit(X).result_.nit > 0
    # Another shape or a smaller rank: from the beginning.
    model.set_params(warm_start=True)
    assert model.fit(X[:20]).result_.nit > 0
    assert model.set_params(rank=1).fit(X[:20]).rank_ == 1


def test_partial_fit_with_new_rows_columns_and_values():
    users, films, values = ratings()
    old = (users < "user20") & (films < "film12")
    model = factorization(tol=1e-7, max_iter=1000)
    model.partial_fit((users[old], films[old], values[old]))
    assert len(model.row_ids_) == 20
    model.partial_fit((users[~old], films[~old], values[~old]))
    whole = factorization(tol=1e-7, max_iter=1000).fit((users, films, values))
    np.testing.assert_array_equal(model.row_ids_, whole.row_ids_)
    np.testing.assert_array_equal(model.col_ids_, whole.col_ids_)
    assert model.n_features_in_ == 15
    np.testing.assert_allclose(model.result_.fun, whole.result_.fun, rtol=1e-4)
    # A value at a known position replaces the earlier one.
    model.partial_fit((users[:1], films[:1], values[:1] + 3.0))
    assert model._training_.nnz == len(values)
    assert model.predict(users[:1], films[:1])[0] > values[0] + 0.5


def test_partial_fit_by_position():
    X, _ = data()
    i, j = np.nonzero(~np.isnan(X))
    first = i < 25
    model = factorization(tol=1e-6, max_iter=1000)
    model.partial_fit((i[first], j[first], X[i, j][first], (25, 20)))
    model.partial_fit((i[~first], j[~first], X[i, j][~first], (30, 20)))
    whole = factorization(tol=1e-6, max_iter=1000).fit(X)
    np.testing.assert_allclose(model.result_.fun, whole.result_.fun, rtol=1e-4)
    assert model.row_factors_.shape == (30, 2)
    again = factorization().partial_fit(X).partial_fit(X)
    assert again._training_.nnz == len(i)


def test_partial_fit_keeps_the_entries_kept_out():
    X, _ = data()
    model = factorization(early_stopping=True).partial_fit(X)
    for _ in range(3):
        model.partial_fit((np.array([0]), np.array([0]), np.array([X[0, 0]]), X.shape))
    assert model._training_.nnz == np.count_nonzero(~np.isnan(X))


def test_ids_and_positions_are_not_mixed():
    X, _ = data()
    model = factorization().fit(X)
    with pytest.raises(ProblemError, match="positions"):
        model.partial_fit((["a"], ["b"], [1.0]))
    assert model.row_ids_ is None
    model = factorization().fit(ratings())
    with pytest.raises(ProblemError, match="ids"):
        model.partial_fit(X)


# -- imputer -------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"method": "soft_impute", "rank": 20}, {"scale": False}])
def test_imputer_fills_what_is_missing_and_nothing_else(options):
    X, truth = data((60, 20), noise=0.01)
    X[:, 1] *= 100.0
    truth[:, 1] *= 100.0
    original = X.copy()
    imputer = LowRankImputer(**{"rank": 2, "reg": 1e-3, "random_state": 0, **options})
    filled = imputer.fit_transform(X)
    missing = np.isnan(X)
    np.testing.assert_array_equal(X, original)
    np.testing.assert_array_equal(filled[~missing], X[~missing])
    error = (filled - truth)[missing] / np.std(truth, axis=0)[np.nonzero(missing)[1]]
    assert np.sqrt(np.mean(error**2)) < 0.2
    assert imputer.components_.shape == (imputer.rank_, 20)
    full = imputer.transform(truth)
    np.testing.assert_array_equal(full, truth)


@pytest.mark.parametrize("method", ["als", "soft_impute"])
def test_imputed_training_rows_have_the_values_of_the_fitted_matrix(method):
    X, _ = data()
    imputer = LowRankImputer(3, method=method, reg=0.1, tol=1e-8, max_iter=2000, random_state=0)
    filled = imputer.fit_transform(X)
    fitted = imputer.result_.x.to_dense() * imputer.scale_ + imputer.mean_
    missing = np.isnan(X)
    np.testing.assert_allclose(filled[missing], fitted[missing], atol=1e-3)


def test_imputer_on_columns_and_rows_without_data():
    X, _ = data()
    X[:, 4] = np.nan
    X[7] = np.nan
    with pytest.warns(match="no observation"):
        imputer = LowRankImputer(2, random_state=0).fit(X)
    filled = imputer.transform(X)
    assert not filled[:, 4].any()
    np.testing.assert_allclose(filled[7], imputer.mean_)
    alone = imputer.transform(np.full((2, 20), np.nan))
    np.testing.assert_allclose(alone, np.tile(imputer.mean_, (2, 1)))


def test_imputer_of_constant_columns():
    X, _ = data()
    X[:, 3] = 5.0
    X[::4, 3] = np.nan
    imputer = LowRankImputer(2, random_state=0).fit(X)
    assert imputer.scale_[3] == 1.0
    np.testing.assert_allclose(imputer.transform(X)[:, 3], 5.0, atol=1e-6)


def test_imputer_refuses_samplers():
    X, _ = data()
    for options in (
        {"method": "accurate"},
        {"method": "GibbsFactorization"},
        {"solver": GibbsFactorization()},
    ):
        with pytest.raises(ValueError, match=r"accurate|Gibbs"):
            LowRankImputer(2, **options).fit(X)
    with pytest.raises(ParameterError, match="rank"):
        LowRankImputer(0).fit(X)


def test_observations_are_not_modified():
    X, _ = data()
    X.setflags(write=False)
    factorization().fit(X).transform(X)
    assert isinstance(factorization().fit(X)._training_, Observations)


# -- weights, validation data, samplers ----------------------------------------------------------


def test_weights_reach_the_problem_in_every_form():
    X = data()[0]
    w = np.random.default_rng(1).random(X.shape) + 0.5
    i, j = np.nonzero(~np.isnan(X))
    stored = sp.csr_array(sp.coo_array((X[i, j], (i, j)), shape=X.shape))
    dense = factorization().fit(X, weights=w)
    for form in ((i, j, X[i, j]), (i, j, X[i, j], X.shape), stored):
        model = factorization().fit(form, weights=w[i, j])
        np.testing.assert_allclose(model.predict(i, j), dense.predict(i, j), atol=1e-10)
    plain = factorization().fit(X)
    assert np.abs(plain.predict(i, j) - dense.predict(i, j)).max() > 1e-4
    half = len(i) // 2
    parts = factorization().fit((i, j, X[i, j]), weights=w[i, j])
    parts.partial_fit((i[:half], j[:half], X[i, j][:half]), weights=np.full(half, 2.0))
    expected = w.copy()
    expected[i[:half], j[:half]] = 2.0
    np.testing.assert_allclose(parts._training_.weights, expected[i, j], atol=1e-12)


@pytest.mark.parametrize(("validation", "message"), [
    (([0, 1], [0], [1.0, 2.0]), "shapes"), (([0], [0], [np.nan]), "finite"),
    (([0.5], [0], [1.0]), "rows has dtype"), (([0], [99], [1.0]), "cols has .*99"),
    (([-1], [0], [1.0]), "rows has .*-1"), (([0], [0]), "tuple"), (([], [], []), "1 at least"),
])  # fmt: skip
def test_validation_data_are_checked(validation, message):
    with pytest.raises(ProblemError, match=f"validation: .*{message}"):
        factorization().fit(data()[0], validation=validation)


def test_validation_ids_must_be_known():
    with pytest.raises(ProblemError, match=r"validation: rows has .*'zed'"):
        factorization(rank=1).fit(
            (["a", "a", "b", "b"], ["x", "y", "x", "y"], [1.0, 2.0, 3.0, 4.0]),
            validation=(["zed"], ["x"], [1.0]),
        )


def test_a_sampler_has_no_early_stopping():
    with pytest.raises(ParameterError, match="early_stopping"):
        factorization(method="accurate", early_stopping=True).fit(data()[0])


def test_new_rows_of_a_sampler_are_averaged_over_draws():
    X = data()[0]
    model = factorization(method="accurate", max_iter=60).fit(X)
    new = model.predict(X)
    i, j = np.nonzero(~np.isnan(X))
    assert np.sqrt(np.mean((new[i, j] - model.predict(i, j)) ** 2)) < 0.05
    assert model.transform(X).shape == (X.shape[0], model.rank_)
    assert model.predict(np.full((2, X.shape[1]), np.nan)).shape == (2, X.shape[1])
    assert model.score(X) < 0


@pytest.mark.parametrize(("estimator", "options"), [
    (MatrixFactorization, {"biases": "no"}), (MatrixFactorization, {"center": 2.5}),
    (MatrixFactorization, {"implicit_weight": -1.0}), (MatrixFactorization, {"loss_scale": -1.0}),
    (LowRankImputer, {"scale": "yes"}), (LowRankImputer, {"loss": "cubic"}),
    (LowRankImputer, {"reg": -1.0}), (LowRankImputer, {"method": 3}),
])  # fmt: skip
def test_more_bad_parameters_are_named(estimator, options):
    with pytest.raises(ParameterError, match=next(iter(options))):
        estimator(rank=2, **options).fit(data()[0])


# -- messages ------------------------------------------------------------------------------------


def test_an_unknown_method_is_called_by_its_parameter():
    X, _ = data()
    for estimator in (factorization(method="asl"), LowRankImputer(2, method="asl")):
        with pytest.raises(ParameterError, match=r"method='asl' is unknown\. Did you mean 'als'"):
            estimator.fit(X)
    with pytest.raises(ParameterError, match="solver='asl' is unknown"):
        factorization(solver="asl").fit(X)


def test_unknown_ids_are_named():
    model = factorization(cold="error").fit(ratings())
    with pytest.raises(ProblemError, match=r"cols: id .*'nothing'.* was not in the training data"):
        model.predict(["user01", "user02"], ["film01", "nothing"])
    assert np.isfinite(model.predict(["user01"], ["film01"])).all()


@pytest.mark.parametrize("cold", ["mean", "nan", "error"])
@pytest.mark.parametrize("ids", [3, [3, 4], [3.0], np.array(["user03", 3], dtype=object), [None]])
def test_ids_of_another_kind_are_refused(cold, ids):
    model = factorization(cold=cold).fit(ratings())
    with pytest.raises(ProblemError, match=r"rows: .* is a .*fitted.* are each a text.*'user00'"):
        model.predict(ids, "film01")
    users, films, values = ratings()
    model.fit((np.char.lstrip(users, "user").astype(int), films.astype(object), values))
    with pytest.raises(ProblemError, match=r"rows: .*'user03'.* is a text.*each a number"):
        model.predict(["user03"], ["film01"])
    with pytest.raises(ProblemError, match="rows"):
        model.recommend(["user03"])
    assert np.isfinite(model.predict([3.0, np.int8(4)], ["film01", "film02"])).all()


def test_bad_triples_are_named_in_their_own_words():
    users, films, values = (list(a) for a in ratings())
    twice = (users + users[5:6], films + films[5:6], [*values, 1.0])
    with pytest.raises(ProblemError, match=f"row id '{users[5]}' and column id '{films[5]}' occur"):
        factorization().fit(twice)
    with pytest.raises(ProblemError, match=r"X is a tuple of 2 items; expected \(row ids"):
        factorization().fit((users, films))
    ids = np.array(users, dtype=object)
    ids[7] = None
    with pytest.raises(ProblemError, match=r"'row ids' has 1 missing id\(s\).*line 7"):
        factorization().fit((ids, films, values))


def test_a_stall_does_not_ask_for_more_iterations():
    class Stuck(AlternatingMinimization):
        def terminate(self, problem, state):
            return Status.STALLED

    with pytest.warns(ConvergenceWarning, match=r"[^.]\. More iterations do not help: raise tol"):
        factorization(solver=Stuck()).fit(data()[0])
    solver = AlternatingMinimization(tol=1e-15, max_time=0.0)
    with pytest.warns(ConvergenceWarning, match="Raise the solver's max_time"):
        factorization(solver=solver).fit(data()[0])
