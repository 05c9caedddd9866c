"""RobustPCA and RobustMatrixFactorization: scikit-learn's checks, recovery, new rows."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import sklearn
from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import estimator_checks_generator, parametrize_with_checks

from lowrank_opt.core.errors import (
    AccuracyWarning,
    ConvergenceWarning,
    ParameterError,
    ProblemError,
)
from lowrank_opt.recovery import (
    HuberALS,
    LowRankPlusSparse,
    MatrixFactorization,
    RobustMatrixFactorization,
    RobustPCA,
    ScaledGD,
)

CONFIGURATIONS = [
    RobustPCA(random_state=0),
    RobustPCA(rank=2, random_state=0),
    RobustPCA(rank=2, center=True, random_state=0),
    RobustMatrixFactorization(random_state=0),
    RobustMatrixFactorization(rank=2, random_state=0),
    RobustMatrixFactorization(rank=2, loss="l1", random_state=0),
]
# Checks that are known to fail, with a reason each: none.
EXPECTED_FAILURES: dict[str, str] = {}
# How many checks scikit-learn 1.9 collects: a tag that hides checks would go unnoticed otherwise.
# One of them, array API input, skips itself unless SCIPY_ARRAY_API is set.
N_CHECKS = 46


def data(
    shape=(60, 40), rank=2, density=0.8, outliers=0.08, noise=0.0, mean=0.0, seed=0,
    dtype=np.float64,
):  # fmt: skip
    """Observed entries with NaN holes, the low-rank part, the mask of gross errors."""
    rng = np.random.default_rng(seed)
    L = rng.standard_normal((shape[0], rank)) @ rng.standard_normal((rank, shape[1])) + mean
    wrong = rng.random(shape) < outliers
    X = L + noise * rng.standard_normal(shape)
    X += wrong * rng.uniform(5.0, 30.0, shape) * rng.choice([-1.0, 1.0], shape)
    seen = rng.random(shape) < density
    return np.where(seen, X, np.nan).astype(dtype), L.astype(dtype), wrong & seen


# Estimators with data that have their rank: with a mean, it is 3.
FITTING = [(lambda **o: pca(2, **o), 0.0), (lambda **o: factorization(2, **o), 0.0),
           (lambda **o: pca(3, center=True, **o), 1.0)]  # fmt: skip


def relative(A, B):
    return np.linalg.norm(A - B) / np.linalg.norm(B)


def pca(rank=2, **options):
    return RobustPCA(rank, random_state=0, **options)


def factorization(rank=2, **options):
    return RobustMatrixFactorization(rank, random_state=0, **options)


def low_rank(model):
    matrix = model.low_rank_ if isinstance(model, RobustPCA) else model.model_
    return matrix.to_dense()


def gross(model):
    return model.sparse_ if isinstance(model, RobustPCA) else model.outliers_


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


# -- recovery ------------------------------------------------------------------------------------


@pytest.mark.parametrize("rank", [2, "auto"])
@pytest.mark.parametrize("make", [pca, factorization])
def test_exact_recovery_from_gross_errors_and_missing_entries(make, rank):
    X, L, wrong = data()
    model = make(rank, tol=1e-10).fit(X)
    assert model.rank_ == 2
    assert relative(low_rank(model), L) < 1e-9
    S = gross(model).toarray()
    np.testing.assert_array_equal(S != 0, wrong)
    np.testing.assert_allclose(S[wrong], (X - L)[wrong], atol=1e-7)
    np.testing.assert_allclose(
        model.inlier_fraction_, 1 - wrong.sum() / np.isfinite(X).sum(), rtol=1e-12
    )
    assert model.threshold_ < 1e-7


def test_least_absolute_deviations_recover_as_well():
    X, L, wrong = data()
    model = factorization(loss="l1").fit(X)
    assert model.result_.problem.startswith("MatrixCompletion(")
    assert model.result_.success
    assert relative(low_rank(model), L) < 1e-6
    np.testing.assert_array_equal(model.outliers_.toarray() != 0, wrong)
    with pytest.warns(ConvergenceWarning, match="sub-differential"):
        model.fit(data(noise=0.1)[0])
    assert relative(low_rank(model), L) < 0.05


@pytest.mark.parametrize("center", [False, True])
def test_noise_level_is_reached_and_nothing_warns(center):
    X, L, wrong = data(noise=0.1, mean=1.0)
    model = pca(3, center=center).fit(X)  # a ConvergenceWarning would be an error
    assert model.result_.success
    # Three directions of 60 + 40 - 3 unknowns each, from 1900 entries of noise 0.1.
    level = 0.1 * np.sqrt(3 * 97 / 1900)
    assert np.sqrt(np.mean((low_rank(model) - L) ** 2)) < 2 * level
    S = model.sparse_.toarray() != 0
    assert S[wrong].mean() > 0.99
    assert (S & ~wrong).sum() < 0.05 * X.size


@pytest.mark.parametrize("seed", range(3))
def test_at_least_as_good_as_principal_component_pursuit(seed):
    cp = pytest.importorskip("cvxpy")
    X, truth, _ = data((18, 15), 1, outliers=0.06, density=0.9, seed=seed)
    seen = ~np.isnan(X)
    L, S = cp.Variable(X.shape), cp.Variable(X.shape)
    value = cp.normNuc(L) + cp.sum(cp.abs(S)) / np.sqrt(max(X.shape) * 0.9)
    fits = cp.multiply(seen, L + S) == np.where(seen, X, 0.0)
    cp.Problem(cp.Minimize(value), [fits]).solve(solver="CLARABEL")
    ours = relative(low_rank(pca(1).fit(X)), truth)
    assert ours <= relative(L.value, truth) + 1e-6
    assert ours < 1e-5


def test_clean_centred_data_have_the_components_of_pca():
    rng = np.random.default_rng(3)
    X = rng.standard_normal((80, 3)) * [5.0, 3.0, 2.0] @ rng.standard_normal((3, 12))
    X -= X.mean(axis=0)
    theirs = PCA(3).fit(X)
    model = pca(3, tol=1e-10).fit(X)
    signs = np.sign(np.einsum("ij,ij->i", model.components_, theirs.components_))
    np.testing.assert_allclose(model.components_, signs[:, None] * theirs.components_, atol=1e-8)
    np.testing.assert_allclose(model.singular_values_, theirs.singular_values_, rtol=1e-8)
    np.testing.assert_allclose(model.transform(X), theirs.transform(X) * signs, atol=1e-7)
    # With a mean, that direction is one more.
    shifted = X + rng.standard_normal(12)
    theirs = PCA(3).fit(shifted)
    model = pca(4, center=True, tol=1e-10).fit(shifted)
    np.testing.assert_allclose(model.mean_, theirs.mean_, atol=1e-8)
    np.testing.assert_allclose(model.singular_values_[:3], theirs.singular_values_, rtol=1e-8)
    assert model.singular_values_[3] < 1e-6 * model.singular_values_[0]
    span = model.components_[:3].T @ model.components_[:3]
    np.testing.assert_allclose(span, theirs.components_.T @ theirs.components_, atol=1e-7)


@pytest.mark.parametrize("make", [pca, factorization])
def test_units_do_not_matter(make):
    X, _, _ = data(noise=0.05)
    model, large = make().fit(X), make().fit(1e6 * X)
    np.testing.assert_allclose(low_rank(large), 1e6 * low_rank(model), rtol=1e-4, atol=10.0)
    np.testing.assert_array_equal(gross(large).toarray() != 0, gross(model).toarray() != 0)
    np.testing.assert_allclose(large.threshold_, 1e6 * model.threshold_, rtol=1e-4)


@pytest.mark.parametrize("make", [pca, factorization])
def test_the_order_of_rows_does_not_matter(make):
    X, _, _ = data(noise=0.05)
    order = np.random.default_rng(1).permutation(len(X))
    model, other = make(tol=1e-9).fit(X), make(tol=1e-9).fit(X[order])
    np.testing.assert_allclose(low_rank(other), low_rank(model)[order], atol=1e-6)


def test_single_precision_stays():
    X, L, _ = data(dtype=np.float32)
    model = pca().fit(X)
    assert model.components_.dtype == model.low_rank_.dtype == model.sparse_.dtype == np.float32
    assert model.transform(X).dtype == model.inverse_transform(model.transform(X)).dtype
    assert model.transform(X).dtype == np.float32
    assert relative(low_rank(model), L) < 1e-5
    other = factorization().fit(X)
    assert other.predict(0, 0).dtype == other.transform(X).dtype == np.float32


# -- attributes and forms ------------------------------------------------------------------------


@pytest.mark.parametrize("center", [False, True])
def test_attributes_of_robust_pca(center):
    X, _, _ = data(mean=1.0, noise=0.05)
    model = pca(3, center=center).fit(X)
    assert model.components_.shape == (3, 40)
    np.testing.assert_allclose(model.components_ @ model.components_.T, np.eye(3), atol=1e-12)
    assert (np.diff(model.singular_values_) <= 0).all()
    L = model.low_rank_.to_dense()
    np.testing.assert_allclose(model.result_.x.to_dense(), L, atol=1e-12)
    mean = L.mean(axis=0) if center else np.zeros(40)
    np.testing.assert_allclose(model.mean_, mean, atol=1e-12)
    np.testing.assert_allclose(
        np.linalg.svd(L - mean, compute_uv=False)[:3], model.singular_values_, rtol=1e-10
    )
    peaks = np.abs(model.components_).argmax(axis=1)
    assert (model.components_[np.arange(3), peaks] > 0).all()
    assert model.n_features_in_ == 40
    assert model.n_iter_ == model.result_.nit
    seen = ~np.isnan(X)
    rest = np.abs(np.where(seen, X - L, 0.0))
    S = model.sparse_
    assert isinstance(S, sp.csr_array)
    np.testing.assert_allclose(S.toarray(), np.where(rest > model.threshold_, X - L, 0), atol=1e-12)


@pytest.mark.parametrize("make", [pca, factorization])
def test_dense_and_sparse_input_agree(make):
    X, _, _ = data(noise=0.05)
    i, j = np.nonzero(~np.isnan(X))
    stored = sp.csr_array((X[i, j], (i, j)), shape=X.shape)
    dense, sparse = make().fit(X), make().fit(sp.csc_array(stored))
    np.testing.assert_allclose(low_rank(sparse), low_rank(dense), atol=1e-12)
    np.testing.assert_allclose(sparse.transform(stored), dense.transform(X), atol=1e-9)
    np.testing.assert_allclose(sparse.score(stored), dense.score(X), rtol=1e-9)
    A, B = sparse.sparse_part(stored), dense.sparse_part(X)
    np.testing.assert_allclose(A.toarray(), B.toarray(), atol=1e-9)


def test_pandas_output_and_names():
    pd = pytest.importorskip("pandas")
    X, _, _ = data(noise=0.05)
    frame = pd.DataFrame(X, columns=[f"c{a}" for a in range(40)], index=np.arange(60) + 7)
    model = pca().set_output(transform="pandas")
    out = model.fit_transform(frame)
    assert list(out.columns) == list(model.get_feature_names_out()) == ["robustpca0", "robustpca1"]
    assert list(model.transform(frame).index) == list(frame.index)
    np.testing.assert_array_equal(model.feature_names_in_, frame.columns)
    names = factorization().fit(frame).get_feature_names_out()
    assert list(names) == ["robustmatrixfactorization0", "robustmatrixfactorization1"]


# -- new rows ------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.*sub-diff:lowrank_opt.core.errors.ConvergenceWarning")
@pytest.mark.parametrize("noise", [0.0, 0.1])
@pytest.mark.parametrize(("make", "mean"), [
    *FITTING, (lambda **o: factorization(loss="l1", **o), 0.0)
])  # fmt: skip
def test_training_rows_get_the_scores_of_the_fit(make, mean, noise):
    X, _, _ = data(noise=noise, mean=mean)
    model = make(tol=1e-8, max_iter=1000).fit(X)
    fitted = model.low_rank_.U if isinstance(model, RobustPCA) else model.row_factors_
    scale = np.abs(fitted).max()
    np.testing.assert_allclose(model.transform(X), fitted, atol=1e-5 * scale)
    np.testing.assert_allclose(model.transform(X[4:6]), model.transform(X)[4:6], rtol=1e-12)
    if isinstance(model, RobustPCA):
        np.testing.assert_allclose(model.fit_transform(X), fitted, atol=1e-12 * scale)
        np.testing.assert_allclose(model.inverse_transform(fitted), low_rank(model), atol=1e-10)


@pytest.mark.parametrize(("make", "mean"), FITTING)
def test_gross_errors_in_new_rows_are_found_and_put_aside(make, mean):
    X, L, wrong = data((100, 40), noise=0.02, mean=mean)
    model = make().fit(X[:60])
    new, clean, bad = X[60:], L[60:], wrong[60:]
    rows = (
        model.inverse_transform(model.transform(new))
        if isinstance(model, RobustPCA) else model.predict(new)
    )  # fmt: skip
    np.testing.assert_allclose(rows, clean, atol=0.1)
    found = model.sparse_part(new)
    assert isinstance(found, sp.csr_array)
    assert (found.toarray() != 0)[bad].all()
    assert (found.toarray() != 0)[~bad].mean() < 0.02
    np.testing.assert_allclose(found.toarray()[bad], (new - clean)[bad], atol=0.15)
    # Least squares on the same rows is off by the gross errors.
    plain = MatrixFactorization(3, reg=1e-8, biases=False, center=False, tol=1e-3, max_iter=500,
                                random_state=0).fit(L[:60])  # fmt: skip
    assert np.abs(plain.predict(new) - clean).max() > 10 * np.abs(rows - clean).max()


@pytest.mark.parametrize(("make", "mean"), FITTING)
def test_rows_without_entries_get_zero(make, mean):
    X, _, _ = data(noise=0.05, mean=mean)
    model = make().fit(X)
    nothing = np.full((2, 40), np.nan)
    for empty in (nothing, sp.csr_array((2, 40))):
        assert not model.transform(empty).any()
        assert model.sparse_part(empty).shape == (2, 40)
        assert model.sparse_part(empty).nnz == 0
    mixed = np.vstack([X[3], nothing[0]])
    np.testing.assert_allclose(model.transform(mixed)[0], model.transform(X)[3], rtol=1e-12)
    assert not model.transform(mixed)[1].any()
    if isinstance(model, RobustPCA):
        rows = model.inverse_transform(model.transform(nothing))
        np.testing.assert_allclose(rows, np.tile(model.mean_, (2, 1)))


@pytest.mark.filterwarnings("ignore:.*no observation:lowrank_opt.core.errors.AccuracyWarning")
def test_training_rows_without_entries_do_not_count_for_the_mean():
    X, L, _ = data(mean=1.0)
    i, j = np.nonzero(~np.isnan(X))
    X = sp.csr_array((X[i, j], (i + 10, j)), shape=(80, 40))  # first and last ten are empty
    model = pca(3, center=True).fit(X)
    np.testing.assert_allclose(model.mean_, L.mean(axis=0), atol=1e-4)
    assert not model.low_rank_.U[[0, -1]].any()
    np.testing.assert_allclose(low_rank(model)[10:70], L, atol=1e-3)


def test_score_is_minus_the_median_held_out_error():
    X, L, _ = data(noise=0.1)
    model = pca().fit(X)
    # The median of |N(0, 0.1)| is 0.067; coefficients and gross errors add a little.
    assert 0.05 < -model.score(X) < 0.1
    assert model.score(X + 0.0 * L) == model.score(X)
    with pytest.raises(ProblemError, match="fewer than 5"):
        model.score(np.where(np.arange(40) < 4, 1.0, np.nan)[None])


def test_inverse_transform_checks_its_input():
    X, _, _ = data()
    with pytest.raises(ProblemError, match=r"X has 3 columns; expected rank_=2"):
        pca().fit(X).inverse_transform(np.ones((2, 3)))


# -- tools of scikit-learn -----------------------------------------------------------------------


@pytest.mark.parametrize("make", [pca, factorization])
def test_grid_search_over_rank_and_the_solver(make):
    X, _, _ = data(noise=0.05)
    solver = HuberALS(max_iter=300, random_state=0)
    grid = {"rank": [1, 2], "solver__tol": [1e-3, 1e-5]}
    search = GridSearchCV(make(solver=solver), grid, cv=2, error_score="raise").fit(X)
    assert search.best_params_["rank"] == 2
    assert len(search.cv_results_["params"]) == 4
    assert solver.tol == HuberALS().tol
    assert clone(search.best_estimator_).solver is not solver


def test_pipeline():
    X, _, _ = data(noise=0.05)
    out = make_pipeline(StandardScaler(), pca()).fit_transform(X)
    assert out.shape == (60, 2)
    assert np.isfinite(out).all()


@pytest.mark.parametrize("make", [pca, factorization])
def test_a_limit_is_a_warning_with_residual_and_tolerance(make):
    X, _, _ = data(noise=0.1)
    with pytest.warns(ConvergenceWarning, match=r"residual .*tol 1\.0e-12.*Raise max_iter"):
        make(max_iter=1, tol=1e-12).fit(X)


@pytest.mark.parametrize("make", [pca, factorization])
def test_progress_bar_of_scikit_learn(make, capsys):
    callback = pytest.importorskip("sklearn.callback", reason="scikit-learn before 1.9")
    pytest.importorskip("rich")
    model = make().set_callbacks(callback.ProgressBar()).fit(data()[0])
    assert model.result_.success
    assert type(model).__name__ in capsys.readouterr().out


@pytest.mark.parametrize("make", [pca, factorization])
def test_warm_start(make):
    X, _, _ = data(noise=0.05)
    model = make(warm_start=True, tol=1e-6).fit(X)
    assert model.result_.nit > 1
    before = low_rank(model)
    assert model.fit(X).result_.nit == 0
    assert model.n_iter_ == 1
    np.testing.assert_allclose(low_rank(model), before, atol=1e-10)
    assert model.fit(X[:50]).result_.nit > 0  # another shape: from the beginning


# -- parameters ----------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [pca, factorization])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rank": 0}, "rank=0"),
        ({"rank": 2.5}, "rank=2.5"),
        ({"rank": "automatic"}, "rank='automatic'.*Did you mean 'auto'"),
        ({"rank": 2, "max_rank": 3}, "max_rank=3 with rank=2"),
        ({"rank": "auto", "max_rank": 0}, "max_rank=0"),
        ({"outlier_fraction": 0.5}, r"outlier_fraction=0.5.*\[0, 0.5\)"),
        ({"outlier_fraction": -0.1}, r"outlier_fraction"),
        ({"method": "huber"}, "(?i)method='huber' is unknown.*did you mean 'huber_als'"),
        ({"rank": "auto", "method": "scaled_gd"}, "rank='auto' with method='scaled_gd'.*a number"),
        ({"rank": "auto", "solver": ScaledGD()}, r"rank='auto' with solver=ScaledGD\(\).*a number"),
        (
            {"rank": "auto", "method": "scaled_subgradient"},
            "rank='auto' with method='scaled_subgradient'; ScaledSubgradientMethod needs",
        ),
        ({"method": 3}, "method"),
        ({"tol": -1.0}, "tol"),
        ({"max_iter": -1}, "max_iter"),
        ({"warm_start": "yes"}, "warm_start"),
    ],
)
def test_bad_parameters_are_named(make, options, message):
    with pytest.raises(ValueError, match=message):
        make(**options).fit(data()[0])


@pytest.mark.parametrize(
    ("estimator", "message"),
    [
        (pca(center="median"), "center"),
        (factorization(loss="squared"), "loss='squared'"),
        (factorization(cold="warm"), "cold"),
        (factorization("auto", loss="l1"), "rank='auto' with loss='l1'"),
    ],
)
def test_bad_parameters_of_one_of_them(estimator, message):
    with pytest.raises(ParameterError, match=message):
        estimator.fit(data()[0])


@pytest.mark.parametrize("make", [pca, factorization])
def test_bad_data(make):
    X, _, _ = data()
    with pytest.raises(ValueError, match=r"(?i)infinity|finite"):
        make().fit(np.where(np.isnan(X), np.inf, X))
    with pytest.raises(ValueError, match="no observed entry"):
        make().fit(np.full((4, 3), np.nan))
    with pytest.raises(ValueError, match="40 features"):
        make().fit(X).transform(X[:, :3])
    with pytest.raises(TypeError, match="Solver instance"):
        make(solver=3).fit(X)


def test_rank_is_cut_with_a_warning():
    X, _, _ = data((30, 4), 1, density=1.0)
    with pytest.warns(UserWarning, match="rank=50 exceeds the smaller side"):
        model = pca(50).fit(X)
    assert model.rank_ == 4


@pytest.mark.parametrize("make", [pca, factorization])
@pytest.mark.parametrize(("before", "after"), [(1, 3), (3, 1)])
def test_a_warm_start_does_not_fix_the_rank(make, before, after):
    model = make("auto", warm_start=True).fit(data(rank=before, seed=1)[0])
    assert model.rank_ == before
    X, L, _ = data(rank=after, seed=2)
    model.fit(X)
    assert model.rank_ == after
    assert relative(low_rank(model), L) < 1e-4


def test_new_rows_of_a_higher_rank_raise_it():
    rng = np.random.default_rng(0)
    X = data((60, 40), 3, density=1.0, outliers=0.0)[1]
    X[:15] = np.outer(rng.standard_normal(15), X[40])  # of rank 1
    i, j = (a.ravel() for a in np.indices(X.shape))
    noisy = (X + 0.01 * rng.standard_normal(X.shape)).ravel()
    model, first = factorization("auto"), i < 15
    model.partial_fit((i[first], j[first], noisy[first], (15, 40)))
    assert model.rank_ == 1
    model.partial_fit((i[~first], j[~first], noisy[~first], (60, 40)))
    assert model.rank_ == 3
    assert relative(low_rank(model), X) < 0.01


def test_too_few_data_do_not_ask_for_a_ridge():
    X, _, _ = data((30, 20), 1, density=0.5)
    with pytest.warns(AccuracyWarning, match=r"\): the solution is not unique; lower rank$"):
        LowRankPlusSparse.from_dense(X, rank=18)


@pytest.mark.filterwarnings(
    "ignore:.*stopped at max_rank=2:lowrank_opt.core.errors.AccuracyWarning"
)
def test_the_rank_search_has_a_limit():
    X, _, _ = data(rank=3, mean=0.0)
    assert pca("auto").fit(X).rank_ == 3
    model = pca("auto", max_rank=2, tol=1e-2).fit(X)
    assert model.rank_ <= 2
    assert pca("auto", max_rank=1000).fit(X).rank_ == 3


# -- the recommender's interface -----------------------------------------------------------------


def named(X):
    i, j = np.nonzero(~np.isnan(X))
    return np.char.mod("user%02d", i), np.char.mod("film%02d", j), X[i, j]


def test_ids_predictions_and_cold_start():
    X, L, _ = data()
    users, films, values = named(X)
    model = factorization().fit((users, films, values))
    np.testing.assert_allclose(
        model.predict("user03", ["film02", "film07"]), L[3, [2, 7]], atol=1e-5
    )
    mean = model.predict("nobody", "film05")
    np.testing.assert_allclose(mean, low_rank(model)[:, 5].mean(), rtol=1e-9)
    np.testing.assert_allclose(mean, L[:, 5].mean(), atol=1e-5)
    np.testing.assert_allclose(model.predict("user03", "nothing"), L[3].mean(), atol=1e-5)
    np.testing.assert_allclose(model.predict("nobody", "nothing"), L.mean(), atol=1e-5)
    model.set_params(cold="nan")
    assert np.isnan(model.predict("nobody", "film05"))
    model.set_params(cold="error")
    with pytest.raises(ProblemError, match=r"rows: id .*'nobody'.* was not in the training"):
        model.predict("nobody", "film05")
    plain = factorization().fit(X)
    np.testing.assert_allclose(plain.predict(3, [2, 7]), L[3, [2, 7]], atol=1e-5)
    with pytest.raises(TypeError, match="rows has dtype"):
        plain.predict(["user03"], [0])
    with pytest.raises(ProblemError, match="dense"):
        plain.predict(sp.csr_array((2, 40)))


def test_recommendations_are_the_best_of_what_was_not_seen():
    X, L, _ = data()
    users, films, values = named(X)
    model = factorization().fit((users, films, values))
    columns, scores = model.recommend(["user04"], 3)
    unseen = np.flatnonzero(np.isnan(X[4]))
    best = unseen[np.argsort(-L[4, unseen])[:3]]
    assert list(columns[0]) == [f"film{a:02d}" for a in best]
    np.testing.assert_allclose(scores[0], L[4, best], atol=1e-5)


def test_more_observations_join_the_fit():
    X, L, wrong = data()
    users, films, values = named(X)
    old = (users < "user50") & (films < "film35")
    # The first fit is exact, so that all that is new could pass for gross errors.
    model = factorization(tol=1e-13)
    model.partial_fit((users[old], films[old], values[old]))
    assert model.model_.shape == (50, 35)
    model.partial_fit((users[~old], films[~old], values[~old]))
    assert model.model_.shape == (60, 40)
    assert relative(low_rank(model), L) < 1e-9
    np.testing.assert_array_equal(model.outliers_.toarray() != 0, wrong)


def test_weights_reach_the_fit():
    X, L, _ = data()
    spoilt = X.copy()
    spoilt[:, 0] = 50.0  # a whole column is beyond any method, but not with weight zero
    weights = np.ones_like(X)
    weights[:, 0] = 0.0
    weights[0, 0] = 1e-3
    spoilt[0, 0] = L[0, 0]
    model = factorization().fit(spoilt, weights=weights)
    assert relative(low_rank(model)[:, 1:], L[:, 1:]) < 1e-5
    assert model._training_.nnz < np.isfinite(spoilt).sum()


def test_the_problem_is_low_rank_plus_sparse():
    X, _, _ = data(noise=0.1)
    model = pca().fit(X)
    problem = LowRankPlusSparse.from_dense(X, rank=2)
    grade = problem.certificate(model.result_.x)
    np.testing.assert_allclose(grade.residual, model.result_.certificate.residual, rtol=1e-6)
    np.testing.assert_allclose(grade.details["inlier_fraction"], model.inlier_fraction_, rtol=1e-3)


@pytest.mark.parametrize("method", ["huber_als", "HuberALS"])
def test_methods(method):
    X, L, _ = data()
    assert relative(low_rank(pca(method=method).fit(X)), L) < 1e-5
