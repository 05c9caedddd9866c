"""The row-solve kernels against direct solves, their array-API twins and each other."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import scipy.sparse as sp
from numba.core.errors import TypingError
from scipy.optimize import nnls

from lowrank_opt.recovery import kernels, reference

ROWS, COLUMNS = 40, 45
EMPTY_ROW = 3
TOLERANCE = {np.float32: 3e-5, np.float64: 1e-12}


class Case:
    """Random observations with one empty row, a fixed factor and a start."""

    def __init__(self, dtype, rank, bias, weighted, *, density=0.5, seed=0):
        rng = np.random.default_rng(seed)
        mask = rng.random((ROWS, COLUMNS)) < density
        mask[EMPTY_ROW] = False
        A = sp.csr_matrix(np.where(mask, 3.0 + rng.standard_normal(mask.shape), 0.0))
        A.sort_indices()
        self.dtype, self.rank, self.bias = dtype, rank, bias
        self.unknowns = rank + int(bias)
        self.indptr = A.indptr.astype(np.int64)
        self.indices = A.indices.astype(np.int32)
        self.values = A.data.astype(dtype)
        self.rows = np.repeat(np.arange(ROWS), np.diff(self.indptr)).astype(np.int32)
        self.weights = rng.uniform(0.2, 2.0, A.nnz).astype(dtype) if weighted else None
        self.F = self._factor(rng, COLUMNS)
        self.X = self._factor(rng, ROWS)
        self.ridge = kernels.row_ridge(self.indptr, 0.1, 1.0, dtype)
        self.ridge_bias = 0.3 * self.ridge
        self.rng = rng

    def _factor(self, rng, rows):
        factor = rng.standard_normal((rows, self.rank)).astype(self.dtype)
        own = rng.standard_normal(rows).astype(self.dtype) if self.bias else None
        return kernels.pad_factor(factor, own)

    @property
    def data(self):
        return self.indptr, self.indices, self.values

    @property
    def options(self):
        return {
            "rank": self.rank,
            "ridge": self.ridge,
            "bias": self.bias,
            "ridge_bias": self.ridge_bias,
            "weights": self.weights,
        }

    def start(self):
        return kernels.pad_factor(
            self.X[:, : self.rank].copy(), self.X[:, self.rank].copy() if self.bias else None
        )

    def regression(self, i):
        """One row as a float64 least-squares problem with the ridge stacked below."""
        entries = slice(self.indptr[i], self.indptr[i + 1])
        A = self.F[self.indices[entries]].astype(np.float64)
        b = self.values[entries].astype(np.float64)
        penalty = np.full(self.rank, float(self.ridge[i]))
        if self.bias:
            b = b - A[:, self.rank]
            A = np.column_stack([A[:, : self.rank], np.ones(len(b))])
            penalty = np.append(penalty, float(self.ridge_bias[i]))
        else:
            A = A[:, : self.rank]
        w = np.ones(len(b)) if self.weights is None else self.weights[entries].astype(np.float64)
        root = np.sqrt(w)
        stacked = np.vstack([root[:, None] * A, np.diag(np.sqrt(penalty))])
        return stacked, np.concatenate([root * b, np.zeros(self.unknowns)])

    def exact(self):
        """All rows by numpy's least squares in float64."""
        solutions = np.zeros((ROWS, self.unknowns))
        for i in range(ROWS):
            if self.indptr[i] < self.indptr[i + 1]:
                solutions[i] = np.linalg.lstsq(*self.regression(i))[0]
        return solutions


grid = pytest.mark.parametrize(
    ("rank", "bias", "weighted"),
    [
        (1, False, False),
        (1, True, True),
        (7, True, False),
        (8, False, True),
        (20, True, True),
        (27, False, False),
    ],
)
dtypes = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def close(actual, expected, dtype, factor=1.0):
    scale = max(1.0, float(np.abs(expected).max()))
    atol = factor * TOLERANCE[dtype] * scale
    np.testing.assert_allclose(actual, expected, rtol=0, atol=atol)


@dtypes
@grid
@pytest.mark.parametrize("dual", [0, None, 1000])
def test_exact_rows_solve_their_least_squares_problem(dtype, rank, bias, weighted, dual):
    case = Case(dtype, rank, bias, weighted)
    X = case.start()
    report = kernels.solve_rows(*case.data, case.F, X, dual=dual, **case.options)
    close(X[:, : case.unknowns], case.exact(), dtype)
    assert report == (1, 0, 0, 0)
    assert not X[EMPTY_ROW].any()
    assert not X[:, case.unknowns :].any()


@dtypes
@grid
def test_exact_rows_equal_the_reference(dtype, rank, bias, weighted):
    case = Case(dtype, rank, bias, weighted)
    X = case.start()
    expected = reference.solve_rows(*case.data, case.F, X.copy(), **case.options)
    kernels.solve_rows(*case.data, case.F, X, **case.options)
    close(X, expected, dtype, 10)


@dtypes
@grid
def test_conjugate_gradient_steps_equal_the_reference(dtype, rank, bias, weighted):
    case = Case(dtype, rank, bias, weighted)
    X = case.start()
    scale = kernels.rotate_factors(case.F, X, rank)
    options = {**case.options, "scale": scale, "n_steps": 3}
    expected = reference.solve_rows_cg(*case.data, case.F, X.copy(), **options)
    report = kernels.solve_rows_cg(*case.data, case.F, X, **options)
    close(X, expected, dtype, 10)
    assert report.n_empty == 1
    assert 0 < report.n_steps <= 3 * (ROWS - 1)


def test_many_conjugate_gradient_steps_reach_the_exact_rows():
    case = Case(np.float64, 8, True, True)
    X = case.start()
    scale = kernels.rotate_factors(case.F, X, case.rank)
    kernels.solve_rows_cg(
        *case.data, case.F, X, scale=scale, n_steps=100, rtol=1e-14, **case.options
    )
    close(X[:, : case.unknowns], case.exact(), np.float64, 100)


def test_conjugate_gradient_steps_never_increase_the_objective():
    case = Case(np.float64, 12, True, True)
    X = case.start()
    scale = kernels.rotate_factors(case.F, X, case.rank)

    def objective():
        keys = {"rank": case.rank, "bias": True}
        fit = kernels.residuals(*case.data, case.F, X, weights=case.weights, **keys)[1]
        penalty = {"ridge": case.ridge, "ridge_bias": case.ridge_bias}
        return fit + kernels.ridge_penalty(X, **penalty, **keys)

    values = [objective()]
    for _ in range(12):
        kernels.solve_rows_cg(*case.data, case.F, X, scale=scale, n_steps=1, **case.options)
        values.append(objective())
    assert np.all(np.diff(values) <= 1e-12 * values[0])
    assert values[1] < 0.9 * values[0]


def test_rotation_keeps_products_and_orthogonalises():
    case = Case(np.float64, 9, True, False)
    X, rank = case.start(), case.rank
    before = X[:, :rank] @ case.F[:, :rank].T
    biases = X[:, rank].copy()
    scale = kernels.rotate_factors(case.F, X, rank)
    close(X[:, :rank] @ case.F[:, :rank].T, before, np.float64)
    gram = case.F[:, :rank].T @ case.F[:, :rank]
    close(gram / COLUMNS, np.diag(scale[:rank]), np.float64)
    assert np.array_equal(X[:, rank], biases)


@dtypes
@grid
def test_sketched_rows_equal_the_exact_rows(dtype, rank, bias, weighted):
    case = Case(dtype, rank, bias, weighted)
    X = case.start()
    rtol = 1e-6 if dtype is np.float32 else 1e-13
    options = {**case.options, "seed": 7, "oversample": 2.0 if rank < 10 else 1.0, "rtol": rtol}
    report = kernels.solve_rows_sketch(*case.data, case.F, X, **options)
    close(X[:, : case.unknowns], case.exact(), dtype, 10)
    assert report.n_empty == 1
    if rank < 20:
        assert report.n_steps > 0


def test_the_sketch_depends_on_the_seed_alone():
    case = Case(np.float64, 6, False, False)
    results = []
    for seed in (1, 1, 2):
        X = case.start()
        kernels.solve_rows_sketch(
            *case.data, case.F, X, seed=seed, oversample=2.0, n_steps=1, **case.options
        )
        results.append(X)
    assert np.array_equal(results[0], results[1])
    assert not np.array_equal(results[0], results[2])


def test_the_sketch_keeps_inner_products_on_average():
    rng = np.random.default_rng(0)
    n, k, rows = 200, 3, 12
    F = kernels.pad_factor(1.0 + rng.standard_normal((n, k)))
    B = np.zeros((kernels.CHUNK, F.shape[1]))
    SA = np.zeros((rows, F.shape[1]))
    values, weights = rng.standard_normal(n) + 1, np.empty(0)
    total = np.zeros((k + 1, k + 1))
    for seed in range(400):
        kernels._sketch_row(
            np.arange(n), values, weights, 0, n, F, B, SA, k, False, 4, np.uint64(seed)
        )
        total += SA[:, : k + 1].T @ SA[:, : k + 1] / 400
    A = np.column_stack([F[:, :k], values])
    scale = np.trace(A.T @ A) / (k + 1)
    np.testing.assert_allclose(total, A.T @ A, rtol=0, atol=0.15 * scale)


def test_rows_with_too_few_entries_and_no_ridge_get_the_least_norm_solution():
    case = Case(np.float64, 30, False, False, density=0.3)
    X = case.start()
    report = kernels.solve_rows(*case.data, case.F, X, rank=30, ridge=0.0)
    case.ridge = np.zeros(ROWS)
    close(X[:, :30], case.exact(), np.float64, 1000)
    assert report.n_minimum_norm == ROWS - 1


def test_a_failed_pivot_is_repaired_with_the_least_norm_solution():
    case = Case(np.float64, 6, True, True)
    case.F[:, 4] = 2 * case.F[:, 2]
    case.ridge = np.zeros(ROWS)
    case.ridge_bias = np.zeros(ROWS)
    X = case.start()
    report = kernels.solve_rows(*case.data, case.F, X, **case.options)
    assert report.n_repaired == ROWS - 1
    close(X[:, : case.unknowns], case.exact(), np.float64, 100)


def test_a_row_of_dependent_entries_is_repaired():
    case = Case(np.float64, 12, False, False, density=0.15)
    case.F[:] = case.F[0]
    X = case.start()
    report = kernels.solve_rows(*case.data, case.F, X, rank=12, ridge=0.0)
    case.ridge = np.zeros(ROWS)
    close(X[:, :12], case.exact(), np.float64, 100)
    assert report.n_repaired > 0


def test_an_entry_that_is_not_finite_spoils_its_own_row_only():
    case = Case(np.float64, 5, False, False)
    clean = case.start()
    kernels.solve_rows(*case.data, case.F, clean, rank=5, ridge=1.0)
    case.values[case.indptr[7]] = np.nan
    X = case.start()
    kernels.solve_rows(*case.data, case.F, X, rank=5, ridge=1.0)
    assert np.isnan(X[7, :5]).all()
    others = np.arange(ROWS) != 7
    assert np.array_equal(X[others], clean[others])


@pytest.mark.parametrize("method", ["exact", "cg", "sketch"])
def test_a_weight_of_two_is_a_duplicate_and_a_weight_of_zero_is_absence(method):
    case = Case(np.float64, 4, True, False)
    kept = case.rng.random(len(case.values)) < 0.8
    twice = case.rng.random(len(case.values)) < 0.3
    case.weights = np.where(kept, np.where(twice, 2.0, 1.0), 0.0)
    copies = case.weights.astype(int)
    counts = np.bincount(case.rows, copies, minlength=ROWS)
    repeated = (
        np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        np.repeat(case.indices, copies),
        np.repeat(case.values, copies),
    )
    weighted, plain = case.start(), case.start()
    options = {"rank": 4, "bias": True, "ridge": 0.5, "ridge_bias": 0.1}
    solve = {
        "exact": kernels.solve_rows,
        "cg": lambda *a, **k: kernels.solve_rows_cg(
            *a, scale=np.ones(case.F.shape[1]), n_steps=60, rtol=1e-14, **k
        ),
        "sketch": lambda *a, **k: kernels.solve_rows_sketch(
            *a, seed=3, oversample=2.0, rtol=1e-14, **k
        ),
    }[method]
    solve(*case.data, case.F, weighted, weights=case.weights, **options)
    solve(*repeated, case.F, plain, **options)
    close(weighted, plain, np.float64, 100)


@dtypes
@pytest.mark.parametrize("weighted", [False, True])
def test_non_negative_rows_equal_nnls(dtype, weighted):
    case = Case(dtype, 6, False, weighted)
    X = case.start()
    kernels.solve_rows(*case.data, case.F, X, nonnegative=True, **case.options)
    expected = np.zeros((ROWS, 6))
    for i in range(ROWS):
        if i != EMPTY_ROW:
            expected[i] = nnls(*case.regression(i))[0]
    close(X[:, :6], expected, dtype, 1000 if dtype is np.float64 else 10)
    assert X.min() >= 0
    assert (expected == 0).any()


def test_the_bias_of_non_negative_rows_is_free():
    case = Case(np.float64, 4, True, False)
    case.values -= 6
    X = case.start()
    kernels.solve_rows(*case.data, case.F, X, nonnegative=True, **case.options)
    assert X[:, :4].min() >= 0
    assert X[:, 4].min() < 0
    for i in (0, 9):
        A, b = case.regression(i)
        split = np.column_stack([A, -A[:, 4]])
        z = nnls(split, b)[0]
        close(X[i, :5], np.append(z[:4], z[4] - z[5]), np.float64, 1000)


@dtypes
def test_shared_gram_and_right_hand_side_are_added(dtype):
    case = Case(dtype, 5, True, True)
    P = case.rng.standard_normal((20, case.unknowns))
    base_gram = np.zeros((case.F.shape[1],) * 2, dtype=dtype)
    base_gram[: case.unknowns, : case.unknowns] = np.triu(P.T @ P)
    base_rhs = np.zeros_like(case.X)
    base_rhs[:, : case.unknowns] = case.rng.standard_normal((ROWS, case.unknowns))
    X = case.start()
    kernels.solve_rows(
        *case.data, case.F, X, base_gram=base_gram, base_rhs=base_rhs, **case.options
    )
    expected = np.zeros((ROWS, case.unknowns))
    for i in range(ROWS):
        A, b = case.regression(i)
        H = A.T @ A + P.T @ P
        expected[i] = np.linalg.solve(H, A.T @ b + base_rhs[i, : case.unknowns])
    close(X[:, : case.unknowns], expected, dtype)
    twin = reference.solve_rows(
        *case.data, case.F, X, base_gram=base_gram, base_rhs=base_rhs, **case.options
    )
    close(X, twin, dtype)


@dtypes
@grid
def test_gibbs_rows_equal_the_reference(dtype, rank, bias, weighted):
    case = Case(dtype, rank, bias, weighted)
    options = {
        "rank": rank,
        "bias": bias,
        "weights": case.weights,
        "alpha": 1.7,
        "precision": case.rng.uniform(0.5, 2.0, case.unknowns).astype(dtype),
        "mean": case.rng.standard_normal(case.unknowns).astype(dtype),
        "normals": case.rng.standard_normal((ROWS, case.unknowns)).astype(dtype),
    }
    X = case.start()
    expected = reference.sample_rows(*case.data, case.F, X.copy(), **options)
    kernels.sample_rows(*case.data, case.F, X, **options)
    close(X, expected, dtype, 10)


def test_gibbs_rows_have_the_conditional_mean_and_covariance():
    case = Case(np.float64, 5, True, False)
    n = case.unknowns
    precision, mean = case.rng.uniform(0.5, 2.0, n), case.rng.standard_normal(n)

    def draw(normals):
        X = case.start()
        kernels.sample_rows(
            *case.data,
            case.F,
            X,
            rank=5,
            bias=True,
            alpha=1.7,
            precision=precision,
            mean=mean,
            normals=normals,
        )
        return X[:, :n]

    centre = draw(np.zeros((ROWS, n)))
    columns = [draw(np.tile(unit, (ROWS, 1))) - centre for unit in np.eye(n)]
    case.ridge, case.ridge_bias = np.zeros(ROWS), np.zeros(ROWS)
    for i in (0, EMPTY_ROW, 11):
        A, b = case.regression(i)
        H = 1.7 * A.T @ A + np.diag(precision)
        root = np.column_stack([column[i] for column in columns])
        close(root @ root.T, np.linalg.inv(H), np.float64, 10)
        expected = np.linalg.solve(H, 1.7 * A.T @ b + precision * mean)
        close(centre[i], expected, np.float64, 10)


@dtypes
@grid
def test_residuals_predictions_and_weights_equal_the_reference(dtype, rank, bias, weighted):
    case = Case(dtype, rank, bias, weighted)
    keys = {"rank": rank, "bias": bias}
    residual, total = kernels.residuals(*case.data, case.F, case.X, weights=case.weights, **keys)
    expected, expected_total = reference.residuals(
        *case.data, case.F, case.X, weights=case.weights, **keys
    )
    close(residual, expected, dtype)
    np.testing.assert_allclose(total, expected_total, rtol=TOLERANCE[dtype])
    pairs = case.rows[::-1].copy(), case.indices[::-1].copy(), case.X, case.F
    predicted = kernels.predict_pairs(*pairs, **keys)
    close(predicted, reference.predict_pairs(*pairs, **keys), dtype)
    close(case.values - predicted[::-1], residual, dtype)
    perm = case.rng.permutation(len(residual))
    for power in (1, 2):
        options = {"power": power, "weights": case.weights, "perm": perm}
        close(
            kernels.robust_weights(residual, 0.7, **options),
            reference.robust_weights(residual, 0.7, **options),
            dtype,
        )


@grid
def test_the_gradient_is_the_derivative_of_the_objective(rank, bias, weighted):
    case = Case(np.float64, rank, bias, weighted)
    keys = {"rank": rank, "bias": bias}
    ridges = {"ridge": case.ridge, "ridge_bias": case.ridge_bias}

    def objective(X):
        fit = kernels.residuals(*case.data, case.F, X, weights=case.weights, **keys)[1]
        return fit + kernels.ridge_penalty(X, **ridges, **keys)

    residual = kernels.residuals(*case.data, case.F, case.X, **keys)[0]
    gradient = kernels.factor_gradient(
        *case.data[:2], residual, case.F, case.X, weights=case.weights, **ridges, **keys
    )
    direction = np.zeros_like(case.X)
    direction[:, : case.unknowns] = case.rng.standard_normal((ROWS, case.unknowns))
    # The objective is quadratic: a central difference is exact up to rounding.
    slope = (objective(case.X + direction) - objective(case.X - direction)) / 2
    np.testing.assert_allclose(np.sum(gradient * direction), slope, rtol=1e-10)
    assert not gradient[:, case.unknowns :].any()
    perm = case.rng.permutation(len(residual))
    shuffled = np.empty_like(residual)
    shuffled[perm] = residual
    options = {"weights": case.weights, "perm": perm, **ridges, **keys}
    arguments = (*case.data[:2], shuffled, case.F, case.X)
    assert np.array_equal(kernels.factor_gradient(*arguments, **options), gradient)
    close(reference.factor_gradient(*arguments, **options), gradient, np.float64, 10)


@grid
def test_gradient_and_loss_in_one_pass(rank, bias, weighted):
    case = Case(np.float64, rank, bias, weighted)
    keys = {"rank": rank, "bias": bias, "weights": case.weights}
    ridges = {"ridge": case.ridge, "ridge_bias": case.ridge_bias}
    residual, square = kernels.residuals(*case.data, case.F, case.X, **keys)
    expected = kernels.factor_gradient(*case.data[:2], residual, case.F, case.X, **ridges, **keys)
    gradient, total = kernels.first_order(*case.data, case.F, case.X, **ridges, **keys)
    np.testing.assert_allclose(total, square, rtol=1e-13)
    close(gradient, expected, np.float64, 10)


def test_any_number_of_threads_gives_the_same_bits(monkeypatch):
    monkeypatch.setattr(kernels, "_PARALLEL_ENTRIES", 0)
    monkeypatch.setattr(kernels.numba.config, "NUMBA_NUM_THREADS", 8)
    case = Case(np.float32, 11, True, True)
    scale = np.ones(case.F.shape[1], dtype=np.float32)
    results = []
    for n_threads in (1, 2, 3):
        keys = {**case.options, "n_threads": n_threads}
        rows = [case.start() for _ in range(5)]
        kernels.solve_rows(*case.data, case.F, rows[0], **keys)
        steps = kernels.solve_rows_cg(*case.data, case.F, rows[1], scale=scale, **keys).n_steps
        kernels.solve_rows_sketch(*case.data, case.F, rows[2], seed=1, oversample=1.5, **keys)
        kernels.solve_rows(*case.data, case.F, rows[3], nonnegative=True, **keys)
        threads = {"rank": 11, "bias": True, "n_threads": n_threads}
        kernels.sample_rows(
            *case.data,
            case.F,
            rows[4],
            alpha=1.0,
            precision=np.ones(12),
            mean=np.ones(12),
            normals=np.ones((ROWS, 12)),
            **threads,
        )
        residual, total = kernels.residuals(*case.data, case.F, case.X, **threads)
        gradient = kernels.factor_gradient(*case.data[:2], residual, case.F, case.X, **keys)
        results.append([*rows, residual, gradient, np.array([total, steps])])
    for other in results[1:]:
        for one, two in zip(results[0], other, strict=True):
            assert np.array_equal(one, two)


def test_an_error_in_a_thread_is_raised(monkeypatch):
    monkeypatch.setattr(kernels, "_PARALLEL_ENTRIES", 0)
    case = Case(np.float64, 3, False, False)
    with pytest.raises(TypingError):
        kernels.solve_rows(
            case.indptr, None, case.values, case.F, case.X, rank=3, ridge=1.0, n_threads=2
        )


@pytest.mark.parametrize("n_chunks", [1, 3, 7, 500])
def test_chunks_cover_all_rows_and_balance_the_entries(n_chunks):
    counts = np.random.default_rng(0).integers(0, 200, 300)
    indptr = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    bounds = kernels.row_chunks(indptr, n_chunks)
    assert bounds[0] == 0
    assert bounds[-1] == 300
    assert np.all(np.diff(bounds) > 0)
    assert len(bounds) <= n_chunks + 1
    if n_chunks < 10:
        work = np.diff(indptr[bounds] + 16 * bounds)
        assert work.max() < work.mean() + 250


CACHE_SCRIPT = """
import json
import numpy as np
from lowrank_opt.recovery import kernels

rng = np.random.default_rng(0)
indptr = np.arange(0, 25, 4, dtype=np.int64)
indices = np.tile(np.arange(4, dtype=np.int32), 6)
values = rng.standard_normal(24).astype(np.float32)
F = kernels.pad_factor(rng.standard_normal((4, 2)).astype(np.float32))
X = kernels.pad_factor(rng.standard_normal((6, 2)).astype(np.float32))
data = (indptr, indices, values, F, X)
scale = np.ones(F.shape[1], dtype=np.float32)
kernels.solve_rows_cg(*data, rank=2, ridge=0.1, scale=scale)
kernels.residuals(*data, rank=2)
stats = [k.stats for k in (kernels.half_cg, kernels.half_residual)]
hits = sum(sum(s.cache_hits.values()) for s in stats)
misses = sum(sum(s.cache_misses.values()) for s in stats)
print(json.dumps([hits, misses]))
"""


def test_a_second_process_finds_every_kernel_in_the_cache(tmp_path):
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    found = []
    for _ in range(2):
        output = subprocess.run(
            [sys.executable, "-c", CACHE_SCRIPT],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        found.append(json.loads(output.stdout))
    assert found == [[0, 2], [2, 0]]
