"""AlternatingMinimization against closed forms, plain numpy, scipy, scikit-learn and cvxpy."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.optimize

from lowrank_opt.core.errors import AccuracyWarning, ParameterError, UnsupportedProblemError
from lowrank_opt.core.state import Status
from lowrank_opt.recovery import AlternatingMinimization, LowRankMatrix, MatrixCompletion, kernels
from lowrank_opt.recovery.alternating import _balance, _orthogonalize
from lowrank_opt.recovery.folding import fold_in

SHAPE = (36, 28)
EXACT = ("cholesky", "dual", "sketch")
INNERS = (*EXACT, "cg")


def matrix(shape=SHAPE, rank=3, noise=0.1, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((shape[0], rank)) @ rng.standard_normal((rank, shape[1]))
    return X + noise * rng.standard_normal(shape)


def holes(X, density=0.6, seed=1):
    """`X` with NaN holes; the first three rows and columns stay full."""
    mask = np.random.default_rng(seed).random(X.shape) < density
    mask[:3], mask[:, :3] = True, True
    return np.where(mask, X, np.nan)


def completion(X=None, rank=3, **options):
    X = holes(matrix()) if X is None else X
    return MatrixCompletion.from_dense(X, rank=rank, **options)


def start(problem, seed=2):
    rng = np.random.default_rng(seed)
    factors = (rng.standard_normal((size, problem.rank)) for size in problem.shape)
    return LowRankMatrix(*(F.astype(problem.dtype) for F in factors))


def als(**options):
    return AlternatingMinimization(**{"tol": 1e-9, "max_iter": 500, "random_state": 0, **options})


def solve(problem, *, x0=None, callback=None, **options):
    return als(**options).solve(problem, x0=x0, callback=callback)


def sweeps(problem, n, *, x0, **options):
    """The point after `n` sweeps from a given start."""
    return solve(problem, x0=x0, tol=1e-300, max_iter=n, **options).x


def ridge_rows(X, F, reg, weights=None):
    """Every row's ridge regression, in the plainest way."""
    out = np.zeros((len(X), F.shape[1]))
    for i, row in enumerate(X):
        seen = ~np.isnan(row)
        w = np.ones(seen.sum()) if weights is None else weights[i, seen]
        A = F[seen]
        gram = (A * w[:, None]).T @ A + reg * np.eye(F.shape[1])
        out[i] = np.linalg.solve(gram, (A * w[:, None]).T @ row[seen])
    return out


def spread(a, b):
    return np.linalg.norm(a - b) / np.linalg.norm(b)


# -- closed forms --------------------------------------------------------------------------------


@pytest.mark.parametrize("inner", INNERS)
def test_full_data_without_ridge_gives_the_truncated_svd(inner):
    X = matrix(noise=0.3)
    result = solve(completion(X, reg=0.0), inner=inner)
    U, s, Vt = np.linalg.svd(X)
    assert result.success
    np.testing.assert_allclose(result.x.to_dense(), U[:, :3] * s[:3] @ Vt[:3], atol=1e-6)


@pytest.mark.parametrize("inner", INNERS)
def test_full_data_with_ridge_shrinks_the_singular_values(inner):
    rng = np.random.default_rng(0)
    U = np.linalg.qr(rng.standard_normal((36, 5)))[0]
    V = np.linalg.qr(rng.standard_normal((28, 5)))[0]
    s = np.array([10.0, 6.0, 3.0, 1.0, 0.5])
    result = solve(completion(U * s @ V.T, rank=5, reg=2.0), inner=inner)
    assert result.success
    expected = np.maximum(s - 2.0, 0.0)
    np.testing.assert_allclose(result.x.to_dense(), U * expected @ V.T, atol=1e-6)
    np.testing.assert_allclose(result.x.singular_values()[:5], expected, atol=1e-6)


@pytest.mark.parametrize("inner", EXACT)
def test_a_sweep_at_rank_one_is_a_power_iteration(inner):
    X = matrix(noise=0.3)
    problem = completion(X, rank=1)
    x0 = start(problem)
    v = X.T @ x0.U[:, 0]
    expected = X @ np.outer(v, v) / (v @ v)
    np.testing.assert_allclose(sweeps(problem, 1, x0=x0, inner=inner).to_dense(), expected,
                               atol=1e-9)  # fmt: skip


def test_sweeps_are_ridge_regressions():
    X = holes(matrix())
    problem = completion(X, reg=0.7)
    V = ridge_rows(X.T, start(problem).U, 0.7)
    U = ridge_rows(X, V, 0.7)
    # The start's columns are its own, so that the first sweep is not balanced.
    x0 = LowRankMatrix(start(problem).U, np.zeros((28, 3)))
    np.testing.assert_allclose(sweeps(problem, 1, x0=x0).to_dense(), U @ V.T, atol=1e-10)


@pytest.mark.parametrize("reg_scaling", ["none", "count", 0.5])
def test_solution_is_a_fixed_point_of_plain_regressions_with_biases(reg_scaling):
    X = holes(matrix()) + 2.0
    problem = completion(X, reg=0.1, reg_bias=0.3, biases=True, reg_scaling=reg_scaling)
    x = solve(problem).x
    power = {"none": 0.0, "count": 1.0}.get(reg_scaling, reg_scaling)
    for data, own, bias, other, other_bias in (
        (X, x.U, x.row_bias, x.V, x.col_bias),
        (X.T, x.V, x.col_bias, x.U, x.row_bias),
    ):
        for i in range(len(data)):
            seen = ~np.isnan(data[i])
            A = np.column_stack([other[seen], np.ones(seen.sum())])
            ridge = np.array([0.1] * 3 + [0.3]) * seen.sum() ** power
            b = data[i, seen] - np.nanmean(X) - other_bias[seen]
            expected = np.linalg.solve(A.T @ A + np.diag(ridge), A.T @ b)
            np.testing.assert_allclose([*own[i], bias[i]], expected, atol=1e-5)


# -- invariances ---------------------------------------------------------------------------------


def test_row_and_column_permutations():
    X = holes(matrix())
    problem = completion(X, reg=0.5)
    x0 = start(problem)
    rng = np.random.default_rng(3)
    rows, cols = (rng.permutation(size) for size in SHAPE)
    moved = sweeps(completion(X[np.ix_(rows, cols)], reg=0.5), 4,
                   x0=LowRankMatrix(x0.U[rows], x0.V[cols]))  # fmt: skip
    expected = sweeps(problem, 4, x0=x0).to_dense()[np.ix_(rows, cols)]
    np.testing.assert_allclose(moved.to_dense(), expected, atol=1e-9)


def test_scaling_of_the_values():
    X, c = holes(matrix()), 16.0
    problem = completion(X, reg=0.5)
    x0 = start(problem)
    scaled = sweeps(completion(c * X, reg=c * 0.5), 4,
                    x0=LowRankMatrix(np.sqrt(c) * x0.U, np.sqrt(c) * x0.V))  # fmt: skip
    expected = c * sweeps(problem, 4, x0=x0).to_dense()
    np.testing.assert_allclose(scaled.to_dense(), expected, rtol=1e-8, atol=1e-8)


def test_change_of_basis_of_the_start():
    problem = completion()
    x0 = start(problem)
    G = np.random.default_rng(4).standard_normal((3, 3))
    other = LowRankMatrix(x0.U @ G, x0.V @ np.linalg.inv(G).T)
    for inner in EXACT:
        a, b = (sweeps(problem, 3, x0=x, inner=inner).to_dense() for x in (x0, other))
        np.testing.assert_allclose(a, b, atol=1e-7)


def test_weights():
    X = holes(matrix())
    rng = np.random.default_rng(5)
    w = rng.integers(1, 3, X.shape).astype(float)
    problem = completion(X, reg=0.5, weights=w)
    x = solve(problem).x
    np.testing.assert_allclose(x.U, ridge_rows(X, x.V, 0.5, w), atol=1e-7)
    np.testing.assert_allclose(x.V, ridge_rows(X.T, x.U, 0.5, w.T), atol=1e-6)
    # A row twice is a row of weight 2 (its ridge twice too: "count" scaling of the doubled row).
    doubled = np.vstack([X, X[:1]])
    heavy = np.ones(X.shape)
    heavy[0] = 2.0
    once = solve(completion(X, reg=0.02, reg_scaling="count", weights=heavy)).x
    twice = solve(completion(doubled, reg=0.02, reg_scaling="count")).x
    np.testing.assert_allclose(twice.U[0] @ twice.V.T, twice.U[-1] @ twice.V.T, atol=1e-9)
    np.testing.assert_allclose(once.to_dense(), twice.to_dense()[:-1], atol=1e-6)


def test_weight_zero_is_a_missing_entry():
    X = matrix()
    w = (~np.isnan(holes(X))).astype(float)
    kept, removed = completion(X, reg=0.5, weights=w), completion(reg=0.5)
    x0 = start(removed)
    for inner in INNERS:
        a, b = (sweeps(p, 3, x0=x0, inner=inner).to_dense() for p in (kept, removed))
        np.testing.assert_allclose(a, b, atol=1e-9)


# -- inner solvers -------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{"reg": 0.5}, {"reg": 0.5, "biases": True}, {}])
def test_exact_inner_solvers_coincide(options):
    problem = completion(**options)
    x0 = start(problem)
    expected = sweeps(problem, 3, x0=x0).to_dense()
    for inner in ("dual", "sketch"):
        x = sweeps(problem, 3, x0=x0, inner=inner)
        np.testing.assert_allclose(x.to_dense(), expected, atol=1e-7)
    # As many steps as unknowns make conjugate gradients exact.
    x = sweeps(problem, 3, x0=x0, inner="cg", cg_steps=12)
    np.testing.assert_allclose(x.to_dense(), expected, atol=1e-6)


def test_few_entries_per_row_dual_and_primal():
    X = holes(matrix(rank=2), density=0.12)
    problem = completion(X, rank=8, reg=0.3)
    assert (problem.observations.row_counts < 8).any()
    x0 = start(problem)
    a, b = (sweeps(problem, 3, x0=x0, inner=i).to_dense() for i in ("cholesky", "dual"))
    np.testing.assert_allclose(a, b, atol=1e-8)


def test_converged_inner_solvers_reach_one_point():
    points = {inner: solve(completion(reg=0.5), inner=inner) for inner in INNERS}
    for result in points.values():
        assert result.success
        np.testing.assert_allclose(result.x.to_dense(), points["cholesky"].x.to_dense(), atol=1e-5)


@pytest.mark.parametrize("loss", ["squared", "huber", "l1"])
@pytest.mark.parametrize("inner", INNERS)
def test_the_objective_never_increases(inner, loss):
    X = holes(matrix())
    X[::7, ::5] += 8.0
    for options in ({"reg": 0.5, "biases": True}, {"reg": 0.0}):
        problem = completion(X, loss=loss, **options)
        values = []
        solve(problem, inner=inner, max_iter=12, callback=lambda r, v=values: v.append(r.fun))
        assert len(values) > 5
        for before, after in itertools.pairwise(values):
            assert after <= before * (1 + 1e-9)


def test_auto_follows_the_rank():
    solver = als(inner="auto")
    for dtype, exact in ((np.float32, 64), (np.float64, 48)):
        for rank, method in ((exact, "cholesky"), (exact + 1, "cg")):
            problem = SimpleNamespace(nonnegative=False, implicit_weight=0.0, rank=rank,
                                      dtype=np.dtype(dtype))  # fmt: skip
            assert solver._method(problem) == method


@pytest.mark.parametrize("inner", ["cg", "sketch"])
def test_finalize_solves_the_rows_exactly(inner):
    problem = completion(reg=0.5)
    for finalize in (True, False):
        result = solve(problem, inner=inner, inner_tol=1e-2, cg_steps=1, tol=1e-2,
                       finalize=finalize)  # fmt: skip
        folded = fold_in(problem, result.x, problem.observations)
        error = np.abs(folded.U - result.x.U).max()
        assert (error < 1e-12) == finalize
        assert result.success


@pytest.mark.parametrize("inner", ["cg", "sketch"])
def test_finalizing_leaves_the_state_alone(inner):
    problem = completion()
    solver = als(inner=inner, max_iter=3, tol=1e-12)
    state = solver.step(problem, solver.init(problem), 3)
    kept = state.U.copy(), state.V.copy()
    solver.answer(problem, state, Status.ITERATION_LIMIT)
    np.testing.assert_array_equal(state.U, kept[0])
    np.testing.assert_array_equal(state.V, kept[1])


def test_other_inner_is_refused():
    with pytest.raises(ParameterError, match="inner"):
        solve(completion(), inner="qr")


# -- data that determine little ------------------------------------------------------------------


def test_least_norm_solution_of_rows_with_few_entries():
    X = holes(matrix())
    X[20] = np.nan
    X[20, 4] = 5.0
    result = solve(completion(X), tol=1e-6)
    assert "least-norm" in result.message
    assert "1 rows" in result.message
    v = result.x.V[4]
    np.testing.assert_allclose(result.x.U[20], 5.0 * v / (v @ v), atol=1e-8)


@pytest.mark.parametrize("inner", INNERS)
def test_rows_and_columns_without_data(inner):
    X = holes(matrix()) + 3.0
    X[5], X[:, 7] = np.nan, np.nan
    with pytest.warns(AccuracyWarning, match="no observation"):
        problem = completion(X, reg=0.5, biases=True)
    x = solve(problem, inner=inner, tol=1e-5).x
    assert not x.U[5].any()
    assert x.row_bias[5] == 0.0
    assert not x.V[7].any()
    assert x.col_bias[7] == 0.0
    np.testing.assert_array_equal(x.predict(5, np.arange(28)), x.offset + x.col_bias)


def test_exact_recovery_contracts_geometrically():
    m, n, k = 120, 100, 2
    X = matrix((m, n), rank=k, noise=0.0)
    density = 8 * k * (m + n) / (m * n)
    problem = completion(holes(X, density), rank=k)
    errors = []
    result = solve(problem, tol=1e-12,
                   callback=lambda r: errors.append(spread(r.x.to_dense(), X)))  # fmt: skip
    assert result.success
    errors = [e for e in errors[2:] if e > 1e-11]
    assert len(errors) > 3
    for before, after in itertools.pairwise(errors):
        assert after <= 0.5 * before


# -- robust losses and signs ---------------------------------------------------------------------


@pytest.mark.parametrize("loss", ["huber", "l1"])
def test_robust_losses_agree_with_cvxpy_in_each_factor(loss):
    cp = pytest.importorskip("cvxpy")
    X = holes(matrix((12, 9), rank=1), density=0.8)
    X[4, 5], X[7, 2] = 30.0, -20.0
    problem = completion(X, rank=1, reg=0.1, loss=loss,
                         **({"loss_scale": 0.3} if loss == "huber" else {}))  # fmt: skip
    result = solve(problem, tol=1e-6, max_iter=2000)
    x = result.x
    for data, own, other in ((X, x.U, x.V), (X.T, x.V, x.U)):
        F = cp.Variable(own.shape)
        seen = ~np.isnan(data)
        errors = cp.multiply(seen, np.nan_to_num(data) - F @ other.T)
        rho = cp.sum(cp.huber(errors, 0.3)) if loss == "huber" else cp.sum(cp.abs(errors))
        program = cp.Problem(cp.Minimize(rho + 0.1 * cp.sum_squares(F)))
        least = program.solve(solver="CLARABEL") + 0.1 * np.sum(other**2)
        np.testing.assert_allclose(result.fun, least, rtol=1e-5 if loss == "huber" else 1e-3)


@pytest.mark.parametrize("loss", ["huber", "l1"])
def test_gross_errors_do_no_harm(loss):
    X = matrix((60, 50), rank=2, noise=0.0)
    data = holes(X)
    bad = np.random.default_rng(6).random(X.shape) < 0.03
    result = solve(completion(np.where(bad, data + 20.0, data), rank=2, loss=loss), max_iter=200)
    plain = solve(completion(np.where(bad, data + 20.0, data), rank=2), max_iter=200)
    assert spread(result.x.to_dense(), X) < 0.1 < spread(plain.x.to_dense(), X)


def test_nonnegative_rows_are_those_of_scipy():
    X = np.abs(holes(matrix()))
    problem = completion(X, reg=0.2, nonnegative=True)
    result = solve(problem, tol=1e-7, max_iter=3000)
    x = result.x
    assert result.success
    for data, own, other in ((X, x.U, x.V), (X.T, x.V, x.U)):
        assert (own >= 0).all()
        assert (own == 0).any()
        for i in range(len(data)):
            seen = ~np.isnan(data[i])
            A = np.vstack([other[seen], np.sqrt(0.2) * np.eye(3)])
            expected, _ = scipy.optimize.nnls(A, [*data[i, seen], 0.0, 0.0, 0.0])
            np.testing.assert_allclose(own[i], expected, atol=1e-4)


def test_nonnegative_full_data_is_as_good_as_scikit_learn():
    from sklearn.decomposition import NMF

    X = np.abs(matrix(noise=0.0))
    result = solve(completion(X, reg=0.0, nonnegative=True), tol=1e-6, max_iter=2000)
    other = NMF(3, init="nndsvda", tol=1e-8, max_iter=3000, random_state=0).fit(X)
    assert result.fun <= 1.02 * other.reconstruction_err_**2


def test_nuclear_form_is_refused_with_alternatives():
    problem = completion(reg=1.0, penalty="nuclear")
    with pytest.raises(UnsupportedProblemError, match="SoftImpute"):
        solve(problem)


# -- running -------------------------------------------------------------------------------------


def test_warm_start_at_the_answer_takes_no_sweep():
    problem = completion(reg=0.5, biases=True)
    first = solve(problem)
    again = solve(problem, x0=first.x, tol=2e-9)
    assert (again.nit, again.success) == (0, True)
    assert not again.counts.get("sweeps")


def test_a_start_of_smaller_rank_is_filled_up():
    problem = completion(reg=0.5)
    x0 = start(problem)
    x = solve(problem, x0=LowRankMatrix(x0.U[:, :1], x0.V[:, :1])).x
    np.testing.assert_allclose(x.to_dense(), solve(problem).x.to_dense(), atol=1e-5)


@pytest.mark.parametrize("begin", ["spectral", "random"])
def test_starts_lead_to_the_same_point(begin):
    problem = completion(reg=0.5)
    x = solve(problem, start=begin, clip=None).x
    np.testing.assert_allclose(x.to_dense(), solve(problem).x.to_dense(), atol=1e-5)


def test_spectral_start_is_near_the_top_singular_vectors():
    X = matrix(noise=0.05)
    problem = completion(X)
    U = als(clip=None).init(problem).U[:, :3]
    top = np.linalg.svd(X)[0][:, :3]
    q = np.linalg.qr(np.asarray(U, float))[0]
    assert np.linalg.svd(q.T @ top, compute_uv=False).min() > 0.99
    np.testing.assert_allclose(np.mean(U**2), 1.0 / 3.0, rtol=1e-6)


def test_long_rows_of_the_start_are_clipped():
    X = matrix()
    X[3] *= 1e3
    norms = np.linalg.norm(als(clip=2.0).init(completion(X)).U[:, :3], axis=1)
    np.testing.assert_allclose(norms.max(), 2.0, rtol=1e-6)


@pytest.mark.parametrize("inner", INNERS)
def test_one_and_two_threads_give_the_same_bits(inner, monkeypatch):
    monkeypatch.setattr(kernels, "_PARALLEL_ENTRIES", 1)
    problem = completion(reg=0.5, biases=True, loss="huber")
    one, two = (solve(problem, inner=inner, max_iter=4, n_threads=n).x for n in (1, 2))
    for name in ("U", "V", "row_bias", "col_bias"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))


@pytest.mark.parametrize("inner", INNERS)
def test_single_precision(inner):
    X = holes(matrix())
    double = solve(completion(X, reg=0.5), inner=inner)
    single = solve(completion(X.astype(np.float32), reg=0.5), inner=inner, tol=1e-4)
    assert single.success
    assert single.x.dtype == np.float32
    np.testing.assert_allclose(single.x.to_dense(), double.x.to_dense(), atol=5e-3)


def test_accuracy_beyond_the_dtype_stalls_instead_of_running_on():
    X = holes(matrix()).astype(np.float32)
    result = solve(completion(X, reg=0.5), tol=1e-14, max_iter=5000)
    assert result.status is Status.STALLED
    assert "float32" in result.message
    assert result.nit < 1000


def test_work_is_counted():
    problem = completion(reg=0.5)
    result = solve(problem, tol=1e-300, max_iter=6)
    assert result.counts["sweeps"] == result.nit == 6
    # Two half sweeps, and one pass for the residual: exactly solved rows have no gradient.
    assert result.counts["passes"] == 3 * 6
    assert result.counts["matvecs"] == 4 * problem.rank
    assert result.counts.get("inner_iterations", 0) == 0
    rarely = solve(problem, tol=1e-300, max_iter=6, check_every=3)
    assert rarely.counts["passes"] == 2 * 6 + 1 * 2
    cg = solve(problem, tol=1e-300, max_iter=6, inner="cg", cg_steps=2, finalize=False)
    assert cg.counts["inner_iterations"] <= 6 * 2 * sum(SHAPE)
    assert cg.counts["inner_iterations"] > 0.9 * 6 * 2 * sum(SHAPE)


def test_overflow_gives_finite_factors_and_an_honest_status():
    X = (1e30 * holes(matrix())).astype(np.float32)
    result = solve(completion(X, reg=0.5), max_iter=20)
    for factor in (result.x.U, result.x.V):
        assert np.isfinite(factor).all()
    assert not (result.success and result.certificate.residual > 1e-8)


def test_an_iterate_that_blows_up_is_replaced_by_the_last_finite_one(monkeypatch):
    problem = completion(reg=0.5)
    exact = kernels.solve_rows
    calls = []

    def broken(indptr, indices, values, F, X, **options):
        calls.append(None)
        report = exact(indptr, indices, values, F, X, **options)
        if len(calls) == 8:
            X[0, 0] = np.nan
        return report

    monkeypatch.setattr(kernels, "solve_rows", broken)
    result = solve(problem, tol=1e-300)
    assert result.status is Status.DIVERGED
    assert result.nit == 4
    monkeypatch.undo()
    three = solve(problem, tol=1e-300, max_iter=3)
    np.testing.assert_array_equal(result.x.U, three.x.U)
    np.testing.assert_array_equal(result.x.V, three.x.V)


# -- pieces --------------------------------------------------------------------------------------


def factors(seed=7, scales=(50.0, 1.0, 1e-3)):
    rng = np.random.default_rng(seed)
    U = kernels.pad_factor(rng.standard_normal((36, 3)) * scales)
    V = kernels.pad_factor(rng.standard_normal((28, 3)) @ rng.standard_normal((3, 3)))
    return U, V


@pytest.mark.parametrize("degenerate", [False, True])
def test_balancing_keeps_the_product_and_lowers_the_penalty(degenerate):
    U, V = factors()
    if degenerate:
        U[:, 2] = 0.0
    rng = np.random.default_rng(8)
    ridge = [rng.random(36) + 0.1, rng.random(28) + 0.1]
    cache = SimpleNamespace(rows=SimpleNamespace(ridge=ridge[0]),
                            cols=SimpleNamespace(ridge=ridge[1]))  # fmt: skip
    product = U[:, :3] @ V[:, :3].T

    def penalty():
        return sum(float(r @ (F[:, :3] ** 2).sum(1)) for r, F in zip(ridge, (U, V), strict=True))

    before = penalty()
    _balance(U, V, 3, cache)
    np.testing.assert_allclose(U[:, :3] @ V[:, :3].T, product, rtol=1e-6, atol=1e-6)
    after = penalty()
    assert after < 0.9 * before
    if not degenerate:
        # The optimum: both weighted Gram matrices are equal, the stationarity condition.
        grams = [(F[:, :3] * r[:, None]).T @ F[:, :3] for r, F in zip(ridge, (U, V), strict=True)]
        np.testing.assert_allclose(grams[0], grams[1], atol=1e-4 * np.abs(grams[0]).max())
    _balance(U, V, 3, cache)
    assert penalty() <= after * (1 + 1e-12)


def test_balancing_nothing_changes_nothing():
    U, V = factors()
    V[:] = 0.0
    kept = U.copy()
    cache = SimpleNamespace(rows=SimpleNamespace(ridge=np.ones(36)),
                            cols=SimpleNamespace(ridge=np.ones(28)))  # fmt: skip
    _balance(U, V, 3, cache)
    np.testing.assert_array_equal(U, kept)


def test_orthogonalizing_keeps_the_product():
    U, V = factors()
    product = U[:, :3] @ V[:, :3].T
    _orthogonalize(U, V, 3)
    np.testing.assert_allclose(U[:, :3] @ V[:, :3].T, product, atol=1e-9)
    gram = U[:, :3].T @ U[:, :3]
    np.testing.assert_allclose(gram, np.diag(np.diag(gram)), atol=1e-9 * np.abs(gram).max())
    np.testing.assert_allclose(np.diag(gram), np.diag(gram)[0], rtol=1e-6)
