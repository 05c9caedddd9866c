"""Factors of new rows, and the best columns of a row."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.optimize

from lowrank_opt.core.errors import AccuracyWarning, ProblemError
from lowrank_opt.recovery import (
    AlternatingMinimization,
    LowRankMatrix,
    LowRankSamples,
    MatrixCompletion,
    Observations,
    SoftImpute,
    folding,
)
from lowrank_opt.recovery.folding import best_columns, fold_in, fold_in_robust, fold_in_samples


def holes(shape=(20, 12), seed=0):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((shape[0], 2)) @ rng.standard_normal((2, shape[1]))
    X += 0.3 * rng.standard_normal(shape)
    mask = rng.random(shape) < 0.7
    mask[:2], mask[:, :2] = True, True
    return np.where(mask, X, np.nan)


def matrix(m=20, n=12, k=3, seed=1, biases=True):
    rng = np.random.default_rng(seed)
    parts = [rng.standard_normal(size) for size in ((m, k), (n, k), m, n)]
    return LowRankMatrix(*parts[:2], 0.5, *(parts[2:] if biases else (None, None)))


@pytest.mark.parametrize("options", [
    {}, {"biases": True}, {"biases": True, "reg_bias": 0.05}, {"reg_scaling": "count"},
    {"reg_scaling": 0.5, "biases": True},
])  # fmt: skip
@pytest.mark.parametrize("weighted", [False, True])
def test_new_rows_are_ridge_regressions(options, weighted):
    problem = MatrixCompletion.from_dense(holes(), rank=3, reg=0.4, **options)
    bias = problem.biases
    model = matrix(biases=bias)
    new = holes((5, 12), seed=2)
    w = np.random.default_rng(3).random(new.shape) + 0.5 if weighted else np.ones(new.shape)
    folded = fold_in(problem, model, Observations.from_dense(new, weights=w if weighted else None))
    power = {"none": 0.0, "count": 1.0}.get(problem.reg_scaling, problem.reg_scaling)
    for i in range(5):
        seen = ~np.isnan(new[i])
        A = model.V[seen]
        b = new[i, seen] - 0.5
        ridge = [0.4] * 3
        if bias:
            A, b = np.column_stack([A, np.ones(len(A))]), b - model.col_bias[seen]
            ridge.append(0.4 if problem.reg_bias is None else problem.reg_bias)
        ridge = np.array(ridge) * w[i, seen].sum() ** power
        root = np.sqrt(w[i, seen])
        expected = np.linalg.solve((A * w[i, seen, None]).T @ A + np.diag(ridge),
                                   (A * root[:, None]).T @ (root * b))  # fmt: skip
        own = [*folded.U[i], folded.row_bias[i]] if bias else folded.U[i]
        np.testing.assert_allclose(own, expected, atol=1e-10)
    assert folded.V is model.V
    assert folded.offset == 0.5


def test_without_ridge_the_least_norm_solution():
    problem = MatrixCompletion.from_dense(holes(), rank=3)
    model = matrix(biases=False)
    new = np.full((1, 12), np.nan)
    new[0, [3, 7]] = 1.0, 2.0
    folded = fold_in(problem, model, Observations.from_dense(new))
    A = model.V[[3, 7]]
    np.testing.assert_allclose(folded.U[0], np.linalg.pinv(A) @ [0.5, 1.5], atol=1e-10)


def test_nonnegative_rows():
    problem = MatrixCompletion.from_dense(np.abs(holes()), rank=3, reg=0.2, nonnegative=True)
    V = np.abs(matrix().V)
    model = LowRankMatrix(np.ones((20, 3)), V)
    new = np.abs(holes((6, 12), seed=4))
    folded = fold_in(problem, model, Observations.from_dense(new))
    for i in range(6):
        seen = ~np.isnan(new[i])
        A = np.vstack([V[seen], np.sqrt(0.2) * np.eye(3)])
        expected, _ = scipy.optimize.nnls(A, [*new[i, seen], 0.0, 0.0, 0.0])
        np.testing.assert_allclose(folded.U[i], expected, atol=1e-5)


def test_rows_without_data_are_zero():
    problem = MatrixCompletion.from_dense(holes(), rank=3, reg=0.4, biases=True)
    new = holes((3, 12), seed=2)
    new[1] = np.nan
    folded = fold_in(problem, matrix(), Observations.from_dense(new))
    assert not folded.U[1].any()
    assert folded.row_bias[1] == 0.0


def test_training_rows_get_their_factors():
    problem = MatrixCompletion.from_dense(holes(), rank=2, reg=0.4, biases=True)
    x = AlternatingMinimization(tol=1e-3, random_state=0).solve(problem).x
    folded = fold_in(problem, x, problem.observations)
    np.testing.assert_allclose(folded.U, x.U, atol=1e-12)
    np.testing.assert_allclose(folded.row_bias, x.row_bias, atol=1e-12)


def test_training_rows_under_the_nuclear_norm():
    problem = MatrixCompletion.from_dense(holes(), rank=12, reg=1.5, penalty="nuclear")
    x = SoftImpute(tol=1e-10, max_iter=5000).solve(problem).x
    folded = fold_in(problem, x, problem.observations)
    np.testing.assert_allclose(folded.to_dense(), x.to_dense(), atol=1e-4)
    np.testing.assert_allclose(folded.U, x.U, atol=1e-4)


def test_training_rows_with_an_implicit_matrix():
    problem = MatrixCompletion.from_dense(
        holes(), rank=2, reg=0.4, biases=True, implicit_weight=0.5
    )
    x = AlternatingMinimization(tol=1e-11, max_iter=3000, random_state=0).solve(problem).x
    folded = fold_in(problem, x, problem.observations)
    np.testing.assert_allclose(folded.U, x.U, atol=1e-6)
    np.testing.assert_allclose(folded.row_bias, x.row_bias, atol=1e-6)


@pytest.mark.parametrize("biases", [False, True])
def test_new_rows_in_the_draws_of_a_sampler(biases):
    problem = MatrixCompletion.from_dense(holes(), rank=3, biases=biases)
    draws = [matrix(seed=seed, biases=biases) for seed in range(30)]
    parts = [np.stack([getattr(d, name) for d in draws])
             for name in ("U", "V", "row_bias", "col_bias")[: 4 if biases else 2]]  # fmt: skip
    alpha = np.linspace(1.0, 5.0, 30)
    model = LowRankSamples(*parts[:2], alpha, 0.5, *parts[2:])
    new = holes((4, 12), seed=2)
    new[3] = np.nan
    folded = fold_in_samples(problem, model, Observations.from_dense(new))
    assert len(folded) == 20
    assert folded.alpha[-1] == 5.0
    for s in (0, 7, 19):
        t = int(np.flatnonzero(alpha == folded.alpha[s])[0])
        own = np.column_stack([draws[t].U, draws[t].row_bias]) if biases else draws[t].U
        for i in range(4):
            seen = ~np.isnan(new[i])
            A, b = draws[t].V[seen], new[i, seen] - 0.5
            if biases:
                A, b = np.column_stack([A, np.ones(len(A))]), b - draws[t].col_bias[seen]
            Q = np.diag(1.0 / own.var(axis=0))
            expected = np.linalg.solve(alpha[t] * A.T @ A + Q,
                                       alpha[t] * A.T @ b + Q @ own.mean(axis=0))  # fmt: skip
            got = [*folded.U[s, i], folded.row_bias[s, i]] if biases else folded.U[s, i]
            np.testing.assert_allclose(got, expected, atol=1e-9)
    one = fold_in_samples(problem, model, 2, n_draws=1)
    np.testing.assert_allclose(one.U[0], np.tile(draws[-1].U.mean(axis=0), (2, 1)), atol=1e-12)


def test_dtype_is_that_of_the_model():
    problem = MatrixCompletion.from_dense(holes().astype(np.float32), rank=3, reg=0.4)
    model = matrix(biases=False).astype(np.float32)
    folded = fold_in(problem, model, Observations.from_dense(holes((4, 12), seed=2)))
    assert folded.dtype == np.float32


def test_columns_must_be_those_of_the_model():
    problem = MatrixCompletion.from_dense(holes(), rank=3, reg=0.4)
    with pytest.raises(ProblemError, match="X has 11 columns, the model has 12"):
        fold_in(problem, matrix(biases=False), Observations.from_dense(holes((4, 11))))


# -- best columns --------------------------------------------------------------------------------


@pytest.mark.parametrize("biases", [False, True])
@pytest.mark.parametrize("block", [1, 30, 1 << 20])
def test_best_columns(biases, block, monkeypatch):
    monkeypatch.setattr(folding, "_BLOCK", block)
    model = matrix(biases=biases)
    rows = np.array([4, 0, 4, 19])
    columns, scores = best_columns(model, rows, 5)
    full = model.to_dense()[rows]
    np.testing.assert_array_equal(columns, np.argsort(-full, axis=1)[:, :5])
    np.testing.assert_allclose(scores, -np.sort(-full, axis=1)[:, :5], atol=1e-12)
    assert columns.dtype == np.int64


def test_seen_columns_are_left_out():
    model = matrix()
    X = holes()
    rows = np.array([0, 5, 9])
    columns, scores = best_columns(model, rows, 15, Observations.from_dense(X))
    full = model.to_dense()
    for row, chosen, marks in zip(rows, columns, scores, strict=True):
        free = np.flatnonzero(np.isnan(X[row]))
        expected = free[np.argsort(-full[row, free])]
        np.testing.assert_array_equal(chosen[: len(free)], expected)
        assert (chosen[len(free) :] == -1).all()
        np.testing.assert_allclose(marks[: len(free)], full[row, expected], atol=1e-12)
        assert np.isnan(marks[len(free) :]).all()


def test_no_rows():
    columns, scores = best_columns(matrix(), np.array([], dtype=int), 3)
    assert columns.shape == scores.shape == (0, 3)


# -- the implicit matrix -------------------------------------------------------------------------


def test_the_implicit_matrix_is_an_explicit_co_factorisation():
    X = holes((12, 8))
    reg, weight = 0.4, 0.5
    problem = MatrixCompletion.from_dense(X, rank=2, reg=reg, center=False, implicit_weight=weight)
    solver = AlternatingMinimization(tol=1e-11, max_iter=5000, random_state=0)
    result = solver.solve(problem)
    B = (~np.isnan(X)).astype(float)
    Y, eye = np.nan_to_num(X), np.eye(2)

    def minimum_over(F, S):
        """The factor of S that fits F best, and its value."""
        P = np.linalg.solve(F.T @ F + reg * eye, F.T @ S).T
        return P, ((S - F @ P.T) ** 2).sum() + reg * (P**2).sum()

    def objective(U, V):
        fit = (B * (Y - U @ V.T) ** 2).sum() + reg * ((U**2).sum() + (V**2).sum())
        return fit + weight * (minimum_over(U, B)[1] + minimum_over(V, B.T)[1])

    U, V = result.x.U.copy(), result.x.V.copy()
    np.testing.assert_allclose(problem.objective(result.x), objective(U, V), rtol=1e-10)
    before = objective(U, V)
    for _ in range(50):  # closed forms, factor by factor, started at the answer: they stay
        for own, other, S, T in ((U, V, B, Y), (V, U, B.T, Y.T)):
            P, _value = minimum_over(own, S)
            for i in range(len(own)):
                seen = S[i] > 0
                gram = other[seen].T @ other[seen] + reg * eye + weight * P.T @ P
                own[i] = np.linalg.solve(gram, other[seen].T @ T[i, seen] + weight * P.T @ S[i])
    np.testing.assert_allclose(U @ V.T, result.x.to_dense(), atol=1e-6)
    np.testing.assert_allclose(objective(U, V), before, rtol=1e-10)
    assert problem.certificate(result.x).residual < 1e-9


def test_the_implicit_objective_falls_and_its_gradient_vanishes_at_the_answer():
    problem = MatrixCompletion.from_dense(holes(), rank=2, reg=0.4, implicit_weight=0.5)
    values = []
    result = AlternatingMinimization(tol=1e-10, max_iter=3000, random_state=0).solve(
        problem, callback=lambda r: values.append(problem.objective(r.x))
    )
    assert (np.diff(values) <= 1e-10 * values[0]).all()
    x, h = result.x, 1e-5
    rng = np.random.default_rng(0)
    for _ in range(5):
        D, E = rng.standard_normal(x.U.shape), rng.standard_normal(x.V.shape)
        ends = [problem.objective(LowRankMatrix(x.U + t * D, x.V + t * E, x.offset))
                for t in (h, -h)]  # fmt: skip
        assert abs(ends[0] - ends[1]) / (2 * h) < 1e-5 * values[0]


# -- gross errors --------------------------------------------------------------------------------


def spoilt(shape=(12, 30), rank=3, noise=0.1, seed=0):
    """Rows with gross errors and holes; the basis and the coefficients."""
    rng = np.random.default_rng(seed)
    V, U = rng.standard_normal((shape[1], rank)), rng.standard_normal((shape[0], rank))
    X = U @ V.T + noise * rng.standard_normal(shape)
    X += (rng.random(shape) < 0.15) * 20.0 * rng.standard_normal(shape)
    return np.where(rng.random(shape) < 0.8, X, np.nan), V, U


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("delta", [0.01, 0.2, 1000.0])
def test_robust_rows_minimise_the_huber_loss(delta, weighted):
    X, V, _ = spoilt()
    w = np.random.default_rng(3).random(X.shape) + 0.5 if weighted else np.ones(X.shape)
    rows = Observations.from_dense(X, weights=w if weighted else None)
    found = fold_in_robust(V, rows, delta)
    for i in range(len(X)):
        seen = ~np.isnan(X[i])

        def huber(x, i=i, seen=seen):
            e = V[seen] @ x - X[i, seen]
            big = np.abs(e) > delta
            value = np.where(big, delta * (2 * np.abs(e) - delta), e * e)
            slope = 2 * np.clip(e, -delta, delta)
            return w[i, seen] @ value, V[seen].T @ (w[i, seen] * slope)

        best = scipy.optimize.minimize(huber, np.zeros(3), jac=True, tol=1e-14)
        assert huber(found[i])[0] <= best.fun * (1 + 1e-12)
        slope = huber(found[i])[1]
        assert np.abs(slope).max() < 1e-7 * min(delta, 1.0) * np.abs(V[seen]).sum()


def test_robust_rows_with_a_tiny_threshold_minimise_the_sum_of_absolute_errors():
    X, V, _ = spoilt()
    found = fold_in_robust(V, Observations.from_dense(X), 1e-12)
    for i in range(len(X)):
        A, b = V[~np.isnan(X[i])], X[i, ~np.isnan(X[i])]
        n, k = A.shape
        best = scipy.optimize.linprog(
            np.r_[np.zeros(k), np.ones(n)],
            np.block([[A, -np.eye(n)], [-A, -np.eye(n)]]),
            np.r_[b, -b],
            bounds=[(None, None)] * k + [(0, None)] * n,
        )
        np.testing.assert_allclose(np.abs(A @ found[i] - b).sum(), best.fun, rtol=1e-8)


@pytest.mark.parametrize(("dtype", "delta", "atol"), [
    (np.float64, 1e-15, 1e-10), (np.float32, 1e-6, 1e-4)
])  # fmt: skip
def test_robust_rows_are_exact_beside_gross_errors(dtype, delta, atol):
    X, V, U = spoilt((40, 60), noise=0.0)
    found = fold_in_robust(V.astype(dtype), Observations.from_dense(X.astype(dtype)), delta)
    assert found.dtype == dtype
    np.testing.assert_allclose(found, U, atol=atol)
    # Whatever the other rows are, and whatever the basis of their span is.
    alone = fold_in_robust(V.astype(dtype), Observations.from_dense(X[5:7].astype(dtype)), delta)
    np.testing.assert_array_equal(alone, found[5:7])
    turn = np.array([[2.0, 1.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, -3.0]])
    turned = fold_in_robust(
        (V @ turn).astype(dtype), Observations.from_dense(X.astype(dtype)), delta
    )
    np.testing.assert_allclose(turned @ turn.T, U, atol=10 * atol)


def test_robust_rows_with_few_entries_get_the_shortest_solution():
    V = np.random.default_rng(0).standard_normal((6, 3)) * [1.0, 5.0, 0.1]
    rows = Observations.from_coo([0, 0, 2], [1, 4, 2], [1.0, 2.0, 3.0], (3, 6))
    found = fold_in_robust(V, rows, 0.1)
    Q = np.linalg.svd(V, full_matrices=False)[0]
    fitted = found @ V.T  # shortest as a row of the matrix
    np.testing.assert_allclose(fitted[0], Q @ np.linalg.pinv(Q[[1, 4]]) @ [1.0, 2.0], atol=1e-10)
    np.testing.assert_allclose(fitted[2], Q @ np.linalg.pinv(Q[[2]]) @ [3.0], atol=1e-10)
    assert not found[1].any()
    deficient = np.column_stack([V, V[:, :1], np.zeros(6)])
    np.testing.assert_allclose(
        fold_in_robust(deficient, rows, 0.1) @ deficient.T, fitted, atol=1e-9
    )
    assert not fold_in_robust(np.zeros((6, 2)), rows, 0.1).any()
    assert fold_in_robust(np.zeros((6, 0)), rows, 0.1).shape == (3, 0)


def test_robust_rows_need_the_columns_of_the_model():
    with pytest.raises(ProblemError, match="X has 6 columns, the model has 5"):
        fold_in_robust(np.ones((5, 2)), Observations.from_coo([0], [0], [1.0], (1, 6)), 0.1)


@pytest.mark.parametrize(
    ("dtype", "delta"),
    [(np.float64, 1e-3), (np.float64, 1e-12), (np.float32, 1e-3), (np.float32, 1e-6)],
)
def test_robust_rows_bear_errors_of_any_size(dtype, delta):
    rng = np.random.default_rng(0)
    V, U = rng.standard_normal((60, 3)), rng.standard_normal((40, 3))
    X = U @ V.T
    X[rng.random(X.shape) < 0.1] = 1e300
    X[3, 5] = -1e200
    found = fold_in_robust(V.astype(dtype), Observations.from_dense(X), delta)
    np.testing.assert_allclose(found, U, atol=max(delta, 1e-5))


def test_robust_rows_that_do_not_settle_are_told(monkeypatch):
    X, V, _ = spoilt()
    monkeypatch.setattr(folding, "_SOLVES", 2)
    with pytest.warns(AccuracyWarning, match=r"row\(s\) still moved .*the first is row \d+"):
        fold_in_robust(V, Observations.from_dense(X), 1e-6)
