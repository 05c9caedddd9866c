"""SoftImpute against closed forms, cvxpy and scipy; its kernels against their obvious twins."""

from __future__ import annotations

import dataclasses
import tracemalloc

import numpy as np
import pytest
import scipy.sparse as sp

from lowrank_opt.core.errors import (
    ConvergenceWarning,
    ParameterError,
    ProblemError,
    UnsupportedProblemError,
)
from lowrank_opt.core.solver import Status
from lowrank_opt.recovery import _nuclear as nuclear
from lowrank_opt.recovery import reference_soft_impute as reference
from lowrank_opt.recovery.biscaling import biscale, debias
from lowrank_opt.recovery.lowrank import LowRankMatrix
from lowrank_opt.recovery.problems import MatrixCompletion
from lowrank_opt.recovery.soft_impute import SoftImpute, soft_impute_path


def observed(m=40, n=30, rank=3, density=0.5, noise=0.1, seed=0, dtype=float):
    """Dense matrix with NaN holes: low rank plus noise."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((m, rank)) @ rng.standard_normal((rank, n))
    X += noise * rng.standard_normal((m, n))
    X[rng.random((m, n)) > density] = np.nan
    X[np.arange(m), np.arange(m) % n] = 1.0  # no empty row or column
    return X.astype(dtype)


def nuclear_problem(X, reg, rank=None, **options):
    rank = min(X.shape) if rank is None else rank
    return MatrixCompletion.from_dense(X, rank=rank, reg=reg, penalty="nuclear", **options)


def top_value(X):
    return np.linalg.norm(np.nan_to_num(X), 2)


def objective(X, reg, M, w=None):
    """Direct form of the objective, on dense arrays."""
    e = np.where(np.isnan(X), 0.0, X - M)
    w = 1.0 if w is None else w
    return 0.5 * (w * e * e).sum() + reg * np.linalg.svd(M, compute_uv=False).sum()


def cvxpy_optimum(X, reg, w=None):
    cp = pytest.importorskip("cvxpy")
    M = cp.Variable(X.shape)
    mask = ~np.isnan(X)
    root = mask * (1.0 if w is None else np.sqrt(w))
    fit = cp.sum_squares(cp.multiply(root, M - np.nan_to_num(X)))
    program = cp.Problem(cp.Minimize(0.5 * fit + reg * cp.normNuc(M)))
    program.solve(solver="SCS", eps=1e-7, max_iters=50_000)
    return program.value, M.value


# -- kernels -------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("k", [0, 1, 5])
def test_passes_equal_reference(dtype, weighted, k, monkeypatch):
    rng = np.random.default_rng(0)
    X = observed(dtype=dtype)
    X[3] = np.nan
    w = rng.random(X.shape) + 0.5 if weighted else None
    with pytest.warns(match="no observation"):
        problem = nuclear_problem(X, 1.0, weights=w)
    obs = problem.observations
    rows, cols = obs.rows(), obs.indices
    weights = np.ones(obs.nnz, dtype) if w is None else obs.weights
    A, dA = (rng.standard_normal((40, k)).astype(dtype) for _ in range(2))
    B, dB = (rng.standard_normal((30, k)).astype(dtype) for _ in range(2))
    rtol = 1e-12 if dtype is np.float64 else 1e-4
    for parallel_work in (1, 1 << 60):
        monkeypatch.setattr(nuclear, "_PARALLEL_WORK", parallel_work)
        entries = nuclear.Entries(problem)
        loss, RB, RA = entries.residual(A, B)
        res = reference.residual(rows, cols, obs.values, weights, A, B)
        close = {"rtol": rtol, "atol": rtol * 10}
        np.testing.assert_allclose(entries.res[0], res, **close)
        np.testing.assert_allclose(entries.res[1], res[obs.perm], **close)
        np.testing.assert_allclose(loss, 0.5 * (res * res / weights).sum(), rtol=rtol)
        np.testing.assert_allclose(RB, reference.product(rows, cols, res, B, 40), **close)
        np.testing.assert_allclose(RA, reference.product(cols, rows, res, A, 30), **close)
        np.testing.assert_allclose(entries.product(0, B), RB, **close)
        hA, hB = entries.hessian((A, B), (dA, dB), 0.7)
        expected = reference.hessian_product(rows, cols, weights, res, A, B, dA, dB) + 0.7 * dA
        np.testing.assert_allclose(hA, expected, **close)
        expected = reference.hessian_product(cols, rows, weights, res, B, A, dB, dA) + 0.7 * dB
        np.testing.assert_allclose(hB, expected, **close)
        sums = reference.line_sums(rows, cols, weights, res, A, B, dA, dB)
        np.testing.assert_allclose(entries.line((A, B), (dA, dB)), sums, rtol=rtol, atol=rtol * 100)


def test_hessian_is_the_derivative_of_the_gradient():
    rng = np.random.default_rng(1)
    problem = nuclear_problem(observed(), 1.0)
    entries = nuclear.Entries(problem)
    x, d = ([rng.standard_normal((s, 3)) for s in (40, 30)] for _ in range(2))
    h, gradients = 1e-6, []
    for t in (h, -h):
        A, B = x[0] + t * d[0], x[1] + t * d[1]
        _, RB, RA = entries.residual(A, B)
        gradients.append((0.7 * A - RB, 0.7 * B - RA))
    entries.residual(*x)
    product = entries.hessian(tuple(x), tuple(d), 0.7)
    for side in (0, 1):
        slope = (gradients[0][side] - gradients[1][side]) / (2 * h)
        np.testing.assert_allclose(product[side], slope, rtol=1e-6, atol=1e-6)


def test_line_search_finds_the_minimum_of_the_quartic():
    rng = np.random.default_rng(2)
    entries = nuclear.Entries(nuclear_problem(observed(), 1.0))
    x, d = ([rng.standard_normal((s, 2)) for s in (40, 30)] for _ in range(2))
    _, RB, RA = entries.residual(*x)
    if nuclear.dot((0.7 * x[0] - RB, 0.7 * x[1] - RA), tuple(d)) > 0:
        d = [-d[0], -d[1]]

    def value(t):
        A, B = x[0] + t * d[0], x[1] + t * d[1]
        return entries.residual(A, B)[0] + 0.35 * (np.sum(A * A) + np.sum(B * B))

    zero = value(0.0)
    sums = entries.line(tuple(x), tuple(d))
    line = nuclear.line_minimum(sums, 0.7, nuclear.dot(x, d), nuclear.dot(d, d))
    np.testing.assert_allclose(value(line.step) - zero, line.change, rtol=1e-9)
    grid = np.linspace(0.0, 3 * line.step, 61)
    assert line.change <= min(value(t) for t in grid) - zero + 1e-9


@pytest.mark.parametrize("deflate", [0, 3])
def test_top_triplets_equal_a_dense_svd(deflate):
    X = observed(density=0.6)
    entries = nuclear.Entries(nuclear_problem(X, 1.0))
    entries.residual(np.zeros((40, 1)), np.zeros((30, 1)))
    R = np.nan_to_num(X)
    u, s, vt = np.linalg.svd(R)
    U, V = u[:, :deflate], vt[:deflate].T
    start = np.random.default_rng(0).standard_normal(30)
    found = nuclear.top_triplets(entries, U, V, start, 1e-3, 30, 30, 100)
    np.testing.assert_allclose(found.values[:5], s[deflate : deflate + 5], rtol=1e-10)
    np.testing.assert_allclose(R @ found.right[:, 0], found.top * found.left[:, 0], atol=1e-9)
    below = nuclear.top_triplets(entries, U, V, start, 2 * s[deflate], 8, 20, 100)
    assert below.values.size < 30
    assert below.top <= s[deflate] * (1 + 1e-12)
    assert below.top + below.error < 2 * s[deflate]


# -- the convex problem --------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["exact", "als"])
def test_answer_is_zero_exactly_from_the_spectral_norm_on(method):
    X = observed()
    top = top_value(X)
    above = SoftImpute(method=method, random_state=0).solve(nuclear_problem(X, top * 1.001))
    assert above.success
    assert above.nit == 0
    assert above.x.rank == 0
    below = SoftImpute(method=method, random_state=0).solve(nuclear_problem(X, top * 0.98))
    assert below.success
    assert below.x.singular_values()[0] > 1e-3


@pytest.mark.parametrize("method", ["exact", "als"])
def test_full_data_give_soft_thresholded_singular_values(method):
    X = np.random.default_rng(3).standard_normal((25, 18))
    u, s, vt = np.linalg.svd(X, full_matrices=False)
    expected = np.maximum(s - 4.0, 0.0)
    solver = SoftImpute(method=method, tol=1e-9, random_state=0)
    result = solver.solve(nuclear_problem(X, 4.0))
    assert result.success, result.message
    np.testing.assert_allclose(result.x.to_dense(), (u * expected) @ vt, atol=1e-4)
    np.testing.assert_allclose(
        result.x.singular_values()[: np.count_nonzero(expected)], s[s > 4.0] - 4.0, atol=1e-4
    )
    if method == "exact":
        assert result.x.rank == np.count_nonzero(expected)
        assert result.nit <= 6


@pytest.mark.parametrize("weighted", [False, True])
def test_agrees_with_cvxpy_and_the_gap_is_a_bound(weighted):
    X = observed(18, 15, 2, 0.6, seed=4)
    w = np.random.default_rng(5).random(X.shape) * 2 + 0.2 if weighted else None
    reg = 0.15 * top_value(X)
    value, M = cvxpy_optimum(X, reg, w)
    problem = nuclear_problem(X, reg, weights=w)
    result = SoftImpute(tol=1e-8, random_state=0).solve(problem)
    assert result.success, result.message
    np.testing.assert_allclose(result.fun, value, rtol=1e-5)
    np.testing.assert_allclose(result.x.to_dense(), M, atol=1e-3 * np.abs(M).max())
    np.testing.assert_allclose(result.fun, objective(X, reg, result.x.to_dense(), w), rtol=1e-12)
    # At any point primal - gap must be a lower bound on the optimum.
    for nit in (0, 1, 2, 3):
        early = SoftImpute(max_iter=nit, random_state=0).solve(problem)
        primal = early.certificate.objective
        assert primal * (1 - early.residual) <= result.fun * (1 + 1e-9)
        assert early.certificate.objective - early.certificate.gap <= result.fun * (1 + 1e-9)


@pytest.mark.parametrize("method", ["exact", "als"])
def test_duals_are_feasible_and_prove_the_gap(method):
    X = observed(seed=6)
    reg = 0.2 * top_value(X)
    problem = nuclear_problem(X, reg)
    result = SoftImpute(method=method, random_state=0).solve(problem)
    assert result.success, result.message
    obs = problem.observations
    Y = sp.csr_array((result.duals, obs.indices, obs.indptr), shape=obs.shape).toarray()
    assert np.linalg.norm(Y, 2) <= reg * (1 + 1e-7)
    dual = (Y * np.nan_to_num(X)).sum() - 0.5 * (Y * Y).sum()
    np.testing.assert_allclose((result.fun - dual) / result.fun, result.residual, atol=1e-9)


def test_both_methods_agree_while_the_rank_is_free():
    X = observed(seed=7)
    problem = nuclear_problem(X, 0.2 * top_value(X), rank=20)
    a, b = (
        SoftImpute(method=m, tol=1e-7, random_state=0).solve(problem).raise_for_status()
        for m in ("exact", "als")
    )
    np.testing.assert_allclose(a.fun, b.fun, rtol=1e-6)
    np.testing.assert_allclose(a.x.to_dense(), b.x.to_dense(), atol=2e-3)


def test_equals_half_the_ridge_objective_of_its_factors():
    X = observed(seed=8)
    reg = 0.2 * top_value(X)
    result = SoftImpute(tol=1e-8, random_state=0).solve(nuclear_problem(X, reg))
    s = np.sqrt(result.x.singular_values())
    A, B = result.x.U / s, result.x.V * s
    ridge = MatrixCompletion.from_dense(X, rank=A.shape[1], reg=reg)
    np.testing.assert_allclose(2 * result.fun, ridge.objective((A, B)), rtol=1e-10)
    # Stationary there as well: the factors minimise the ridge form.
    assert ridge.certificate((A, B)).residual < 1e-3


def test_objective_never_increases():
    problem = nuclear_problem(observed(seed=9), 2.0, rank=8)
    for method in ("exact", "als"):
        solver = SoftImpute(method=method, random_state=0)
        values = [s.objective for s, _ in zip(solver.iterate(problem), range(40), strict=False)]
        assert np.all(np.diff(values) <= 1e-10 * values[0])


def test_active_rank_bound_is_reported():
    X = observed(60, 50, 6, 0.7, 0.05, seed=10)
    problem = nuclear_problem(X, 0.02 * top_value(X), rank=2)
    result = SoftImpute(random_state=0).solve(problem)
    assert result.status is Status.STALLED
    assert "rank=2 is active" in result.message
    assert "Raise rank" in result.message
    assert result.x.rank == 2
    assert result.certificate.residual > 1e-3
    # A stationary point of the factors of that rank.
    s = np.sqrt(result.x.singular_values())
    ridge = MatrixCompletion.from_dense(X, rank=2, reg=problem.reg)
    assert ridge.certificate((result.x.U / s, result.x.V * s)).residual < 1e-2


def test_float32_answers_in_float32():
    X = observed(seed=11)
    reg = 0.2 * top_value(X)
    wide = SoftImpute(random_state=0).solve(nuclear_problem(X, reg))
    problem = nuclear_problem(X.astype(np.float32), reg)
    narrow = SoftImpute(tol=1e-5, random_state=0).solve(problem)
    assert narrow.success, narrow.message
    assert narrow.x.dtype == narrow.duals.dtype == np.float32
    np.testing.assert_allclose(narrow.x.to_dense(), wide.x.to_dense(), atol=2e-3)


def test_float32_stalls_at_rounding():
    problem = nuclear_problem(observed(seed=11, dtype=np.float32), 3.0)
    result = SoftImpute(tol=1e-13, random_state=0).solve(problem)
    assert result.status is Status.STALLED
    assert "float32" in result.message
    assert result.residual < 1e-4


def test_centre_is_subtracted():
    X = observed(seed=12) + 5.0
    problem = nuclear_problem(X, 3.0, center=True)
    result = SoftImpute(random_state=0).solve(problem).raise_for_status()
    mean = np.nanmean(X)
    np.testing.assert_allclose(result.x.offset, mean, rtol=1e-12)
    plain = SoftImpute(random_state=0).solve(nuclear_problem(X - mean, 3.0))
    np.testing.assert_allclose(result.x.to_dense(), plain.x.to_dense() + mean, atol=1e-3)


# -- invariances, warm starts, the driver --------------------------------------------------------


def test_permutation_transposition_and_scale_move_the_answer_as_they_must():
    X = observed(seed=13)
    reg = 0.15 * top_value(X)
    solver = SoftImpute(tol=1e-9, random_state=0)
    base = solver.solve(nuclear_problem(X, reg)).x.to_dense()
    rng = np.random.default_rng(0)
    i, j = rng.permutation(40), rng.permutation(30)
    permuted = solver.solve(nuclear_problem(X[i][:, j], reg)).x.to_dense()
    np.testing.assert_allclose(permuted, base[i][:, j], atol=1e-4)
    transposed = solver.solve(nuclear_problem(X.T.copy(), reg)).x.to_dense()
    np.testing.assert_allclose(transposed, base.T, atol=1e-4)
    for c in (1e-6, 1e6):
        scaled = solver.solve(nuclear_problem(c * X, c * reg)).x.to_dense()
        np.testing.assert_allclose(scaled / c, base, atol=1e-4)


@pytest.mark.parametrize("method", ["exact", "als"])
def test_start_at_the_answer_takes_no_iteration(method):
    problem = nuclear_problem(observed(seed=14), 2.0)
    solver = SoftImpute(method=method, random_state=0)
    answer = solver.solve(problem).raise_for_status()
    again = SoftImpute(method=method, tol=2e-6, random_state=1).solve(problem, x0=answer.x)
    assert again.success
    assert again.nit == 0
    near = LowRankMatrix(answer.x.U * 1.05, answer.x.V)
    assert solver.solve(problem, x0=near).success


@pytest.mark.parametrize("method", ["exact", "als"])
def test_resumed_run_has_the_same_bits(method):
    problem = nuclear_problem(observed(seed=15), 1.0)
    whole = SoftImpute(method=method, tol=1e-5, random_state=0).solve(problem)
    assert whole.nit > 4
    for stop in (1, 3):
        part = SoftImpute(method=method, tol=1e-5, random_state=0, max_iter=stop).solve(problem)
        assert part.status is Status.ITERATION_LIMIT
        rest = SoftImpute(method=method, tol=1e-5).solve(problem, state=part.state)
        assert rest.nit == whole.nit
        np.testing.assert_array_equal(rest.x.U, whole.x.U)
        np.testing.assert_array_equal(rest.x.V, whole.x.V)
        np.testing.assert_array_equal(rest.duals, whole.duals)


def test_threads_do_not_change_the_bits(monkeypatch):
    monkeypatch.setattr(nuclear, "_PARALLEL_WORK", 1)
    problem = nuclear_problem(observed(seed=16), 3.0)
    runs = [SoftImpute(random_state=0, n_threads=t, max_iter=4).solve(problem) for t in (1, 2)]
    np.testing.assert_array_equal(runs[0].x.U, runs[1].x.U)


def test_path_is_monotone_and_starts_at_zero():
    X = observed(seed=17)
    problem = nuclear_problem(X, 1.0)
    results = soft_impute_path(problem, n_regs=6, smallest=0.05, random_state=0)
    assert all(r.success for r in results), [r.message for r in results]
    assert results[0].x.rank == 0
    norms = [r.x.singular_values().sum() for r in results]
    values = [r.fun for r in results]
    assert np.all(np.diff(norms) > 0)
    assert np.all(np.diff(values) < 0)
    assert results[-1].x.rank > results[1].x.rank
    cold = SoftImpute(random_state=0).solve(dataclasses.replace(problem, reg=0.05 * top_value(X)))
    np.testing.assert_allclose(values[-1], cold.fun, rtol=2e-6)
    given = soft_impute_path(problem, [1.0, 4.0], random_state=0)
    assert given[0].fun > given[1].fun


def test_no_dense_matrix_is_allocated():
    rng = np.random.default_rng(18)
    m, n, size = 3000, 2500, 30_000
    flat = rng.choice(m * n, size, replace=False)
    rows, cols = np.divmod(flat, n)
    values = rng.standard_normal(m)[rows] * rng.standard_normal(n)[cols]
    with pytest.warns(match="no observation"):
        problem = MatrixCompletion.from_coo(
            rows, cols, values, (m, n), rank=20, reg=15.0, penalty="nuclear"
        )
    solver = SoftImpute(random_state=0, max_iter=3)
    state = solver.init(problem)
    tracemalloc.start()
    try:
        solver.step(problem, state, 3)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < m * n * 8 / 4


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda p: SoftImpute(method="svd").solve(p), ParameterError, "method"),
        (
            lambda p: SoftImpute().solve(dataclasses.replace(p, penalty="ridge")),
            UnsupportedProblemError,
            "penalty='nuclear'.*AlternatingMinimization",
        ),
        (
            lambda p: SoftImpute().solve(
                p, x0=LowRankMatrix(np.ones((40, 1)), np.ones((30, 1)), 0.0, np.ones(40))
            ),
            ProblemError,
            "non-zero row_bias",
        ),
        (
            lambda p: SoftImpute().solve(p, x0=(np.ones((4, 1)), np.ones((3, 1)))),
            ProblemError,
            "shape",
        ),
        (lambda p: soft_impute_path(p, []), ParameterError, "regs"),
        (lambda p: soft_impute_path(p, [1.0, -1.0]), ParameterError, "regs"),
        (lambda p: soft_impute_path(p, n_regs=0), ParameterError, "n_regs"),
        (lambda p: soft_impute_path(p, smallest=2.0), ParameterError, "smallest"),
        (lambda p: biscale(p, tol=0.0), ParameterError, "tol"),
    ],
)
def test_bad_arguments_raise(call, error, match):
    with pytest.raises(error, match=match):
        call(nuclear_problem(observed(), 1.0))


def test_all_zero_data():
    result = SoftImpute(random_state=0).solve(nuclear_problem(np.zeros((5, 4)), 1.0))
    assert result.success
    assert result.x.rank == 0
    assert result.fun == 0.0


# -- scaling and refitting -----------------------------------------------------------------------


@pytest.mark.parametrize("weighted", [False, True])
def test_biscaled_rows_and_columns_have_mean_0_and_variance_1(weighted):
    rng = np.random.default_rng(19)
    X = observed(seed=19) * rng.uniform(0.1, 10, (40, 1)) + rng.uniform(-5, 5, 30)
    w = rng.random(X.shape) + 0.5 if weighted else None
    problem = nuclear_problem(X, 1.0, weights=w, center=True)
    scaled = biscale(problem)
    obs = scaled.problem.observations
    i, j = obs.rows(), obs.indices
    weights = np.ones(obs.nnz) if w is None else obs.weights
    for ids in (i, j):
        total = np.bincount(ids, weights)
        mean = np.bincount(ids, weights * obs.values) / total
        np.testing.assert_allclose(mean, 0.0, atol=1e-7)
        square = np.bincount(ids, weights * obs.values**2) / total
        np.testing.assert_allclose(square, 1.0, atol=1e-7)
    np.testing.assert_array_equal(obs.csc_values, obs.values[obs.perm])
    # The maps back reproduce the data.
    Z = LowRankMatrix(np.zeros((40, 1)), np.zeros((30, 1)))
    base = scaled.restore(Z).predict(i, j)
    back = base + scaled.row_scale[i] * scaled.col_scale[j] * obs.values
    np.testing.assert_allclose(back, problem.observations.values, rtol=1e-10, atol=1e-10)
    x = SoftImpute(random_state=0).solve(scaled.problem).x
    restored = scaled.restore(x).predict(i, j)
    expected = base + scaled.row_scale[i] * scaled.col_scale[j] * x.predict(i, j)
    np.testing.assert_allclose(restored, expected, rtol=1e-9, atol=1e-9)


def test_biscale_of_one_side_and_of_flat_rows():
    X = observed(seed=20)
    X[0] = np.nan
    X[0, 3] = 7.0
    scaled = biscale(nuclear_problem(X, 1.0), col_center=False, col_scale=False)
    assert scaled.row_scale[0] == 1.0
    assert scaled.row_center[0] == 7.0
    np.testing.assert_array_equal(scaled.col_scale, 1.0)
    np.testing.assert_array_equal(scaled.col_center, 0.0)


def test_biscale_warns_when_it_does_not_converge():
    with pytest.warns(ConvergenceWarning, match="max_iter=2"):
        biscale(nuclear_problem(observed(), 1.0), max_iter=2)


@pytest.mark.parametrize("weighted", [False, True])
def test_debias_solves_the_least_squares_problem(weighted):
    X = observed(seed=21)
    w = np.random.default_rng(0).random(X.shape) + 0.5 if weighted else None
    problem = nuclear_problem(X, 4.0, weights=w, center=True)
    x = SoftImpute(random_state=0).solve(problem).x
    refit = debias(problem, x)
    obs = problem.observations
    weights = np.ones(obs.nnz) if w is None else obs.weights
    s = x.singular_values()
    F = (x.U / s)[obs.rows()] * x.V[obs.indices]
    root = np.sqrt(weights)
    best = np.linalg.lstsq(root[:, None] * F, root * (obs.values - x.offset), rcond=None)[0]
    np.testing.assert_allclose(np.sort(refit.singular_values()), np.sort(np.abs(best)), rtol=1e-8)
    before, after = (np.sum(weights * problem.residual(y) ** 2) for y in (x, refit))
    assert after < before
