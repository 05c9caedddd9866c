"""Kernels of stochastic gradient descent against their array-API twins and against counting."""

from __future__ import annotations

import numba
import numpy as np
import pytest

from lowrank_opt.numerics.kernels_vector import VECTOR_BYTES, aligned_zeros
from lowrank_opt.recovery import kernels_sgd as kernels
from lowrank_opt.recovery import reference_sgd as reference

TOLERANCE = {np.float32: 2e-5, np.float64: 1e-12}
INF = float("inf")


def observed(m, n, nnz, dtype, seed=0, weighted=False):
    """Compressed rows of random entries, some rows and columns empty."""
    rng = np.random.default_rng(seed)
    cells = np.sort(rng.choice((m - 1) * (n - 1), nnz, replace=False))
    rows, cols = cells // (n - 1), cells % (n - 1)
    indptr = np.searchsorted(rows, np.arange(m + 1)).astype(np.int64)
    values = rng.standard_normal(nnz).astype(dtype)
    weights = rng.uniform(0.5, 2.0, nnz).astype(dtype) if weighted else None
    return rows, cols, indptr, cols.astype(np.int32), values, weights


def setting(k, dtype, biases=True, nonnegative=False, weighted=False, scaled=False, shape=(23, 17)):
    rng = np.random.default_rng(1)
    m, n = shape
    rows, cols, indptr, indices, values, weights = observed(m, n, 150, dtype, 0, weighted)
    grid = kernels.make_grid(
        np.bincount(rows, minlength=m), np.bincount(cols, minlength=n), 4, 4, 3
    )
    entries = kernels.grid_entries(indptr, indices, values, weights, 0.25, grid, 7)
    lanes = VECTOR_BYTES // np.dtype(dtype).itemsize
    width = lanes * -(-(k + 2 * biases) // lanes)
    P, Q = aligned_zeros((m, width), dtype), aligned_zeros((n, width), dtype)
    for F, own, fixed in ((P, -2, -1), (Q, -1, -2)):
        F[:, :k] = rng.standard_normal((len(F), k))
        if nonnegative:
            F[:, :k] = abs(F[:, :k])
        if biases:
            F[:, own], F[:, fixed] = rng.standard_normal(len(F)), 1.0
    reg, reg_bias = 0.1, 0.3
    scale_p = rng.uniform(0.5, 1.5, m).astype(dtype) if scaled else None
    scale_q = rng.uniform(0.5, 1.5, n).astype(dtype) if scaled else None
    return {
        "P": P, "Q": Q, "k": k, "width": width, "dtype": dtype, "entries": entries, "grid": grid,
        "penalty": kernels.Penalty(dtype(reg), scale_p, scale_q),
        "lanes": kernels.make_lanes(k, biases, nonnegative, reg, reg_bias, dtype),
        "reg": reg, "reg_bias": reg_bias, "biases": biases, "nonnegative": nonnegative,
    }  # fmt: skip


def blocks_of(entries, diagonals):
    """The order of the updates, from the documentation of `sgd_pass`."""
    S = len(diagonals)
    n, m = (entries.row_start.size - 1) // S, (entries.col_start.size - 1) // S
    for d in diagonals:
        for s in range(S):
            first = ((s + d) % S) * n
            for a in range(first, first + n):
                columns = range(s * m, s * m + m)
                for b in columns if (a - first) % 2 == 0 else reversed(columns):
                    k = a * (m * S) + b
                    t = np.arange(entries.start[k], entries.start[k + 1])
                    yield (
                        entries.row_start[a] + entries.rows[t].astype(int),
                        entries.col_start[b] + entries.cols[t].astype(int),
                        t,
                    )


def run_reference(s, A, B, loss, step, diagonals):
    P, Q = s["P"].astype(np.float64), s["Q"].astype(np.float64)
    entries, width, penalty = s["entries"], s["width"], s["penalty"]
    ridge, move, floor = np.full((2, width), s["reg"]), np.ones((2, width)), np.zeros((2, width))
    if not s["nonnegative"]:
        floor[:] = -INF
    if s["biases"]:
        for side, own, fixed in ((0, -2, -1), (1, -1, -2)):
            ridge[side, own], ridge[side, fixed], move[side, fixed] = s["reg_bias"], 0.0, 0.0
            floor[side, -2:] = -INF
    ridges = [
        np.multiply.outer(np.ones(len(F)) if scale is None else scale, r)
        for F, scale, r in zip((P, Q), (penalty.row, penalty.col), ridge, strict=True)
    ]
    weights = np.ones(entries.values.size) if entries.weights is None else entries.weights
    reference.sgd_blocks(
        P, Q, A, B, blocks_of(entries, diagonals), entries.values, weights, *ridges, *move, *floor,
        *loss, step, s["k"],
    )  # fmt: skip
    return P, Q


def run_kernel(s, A, B, loss, step, diagonals, kernel=kernels.sgd_pass):
    dtype = s["dtype"]
    norms = [None if X is None else np.empty_like(X) for X in (A, B)]
    kernel(
        kernels.vectors_argument(s["width"], dtype), s["P"], s["Q"], A, B, *norms, s["entries"],
        np.asarray(diagonals), s["penalty"], s["lanes"],
        kernels.ResidualClip(*map(dtype, loss)), dtype(step), dtype(1 / s["k"]),
    )  # fmt: skip


CASES = [
    (5, {}, (1.0, INF)),
    (13, {"biases": False}, (1.0, INF)),
    (13, {"weighted": True, "scaled": True}, (1.0, 0.7)),
    (13, {"nonnegative": True}, (1.0, INF)),
    (150, {"weighted": True}, (1e30, 0.5)),
]


@pytest.mark.parametrize(("adagrad", "dtype"), [(False, np.float32), (True, np.float64)])
@pytest.mark.parametrize(("k", "options", "loss"), CASES)
def test_pass_equals_reference(k, options, loss, adagrad, dtype):
    s = setting(k, dtype, **options)
    A, B = (np.full(n, 1.5, dtype) if adagrad else None for n in (len(s["P"]), len(s["Q"])))
    A64, B64 = (None if X is None else X.astype(np.float64) for X in (A, B))
    diagonals = np.random.default_rng(2).permutation(3)
    P, Q = run_reference(s, A64, B64, loss, 0.05, diagonals)
    run_kernel(s, A, B, loss, 0.05, diagonals)
    for got, want in ((s["P"], P), (s["Q"], Q), (A, A64), (B, B64)):
        if got is not None:
            np.testing.assert_allclose(got, want, rtol=0, atol=TOLERANCE[dtype] * abs(want).max())


@pytest.mark.parametrize("vectors", [1, 7, 17])
def test_every_number_of_vectors(vectors):
    dtype = np.float32
    s = setting(vectors * VECTOR_BYTES // 4 - 2, dtype)
    assert s["width"] == vectors * VECTOR_BYTES // 4
    P, Q = run_reference(s, None, None, (1.0, INF), 0.001, [0, 1, 2])
    run_kernel(s, None, None, (1.0, INF), 0.001, [0, 1, 2])
    np.testing.assert_allclose(s["P"], P, rtol=0, atol=3e-5)
    np.testing.assert_allclose(s["Q"], Q, rtol=0, atol=3e-5)


def test_constant_columns_and_padding_stay():
    s = setting(5, np.float32)
    run_kernel(s, None, None, (1.0, INF), 0.05, [0, 1, 2])
    assert np.all(s["P"][:, -1] == 1) and np.all(s["Q"][:, -2] == 1)
    assert np.all(s["P"][:, 5:-2] == 0) and np.all(s["Q"][:, 5:-2] == 0)


def test_nonnegative_factors_with_free_biases():
    s = setting(5, np.float64, nonnegative=True)
    for _ in range(5):
        run_kernel(s, None, None, (1.0, INF), 0.1, [0, 1, 2])
    for F, own in ((s["P"], -2), (s["Q"], -1)):
        assert F[:, :5].min() == 0.0
        assert F[:, own].min() < 0.0


@pytest.mark.parametrize("nonnegative", [False, True])
def test_nan_is_not_hidden(nonnegative):
    s = setting(5, np.float32, nonnegative=nonnegative)
    s["entries"].values[0] = np.nan
    run_kernel(s, None, None, (1.0, 0.5), 0.05, [0, 1, 2])
    assert np.isnan(s["P"]).any() and np.isnan(s["Q"]).any()


@pytest.mark.parametrize("adagrad", [False, True])
def test_threads_give_the_same_bits(adagrad):
    found = []
    for kernel, threads in ((kernels.sgd_pass, 1), (kernels.sgd_pass_par, 1),
                            (kernels.sgd_pass_par, 2)):  # fmt: skip
        if threads > numba.config.NUMBA_NUM_THREADS:
            pytest.skip("one thread only")
        s = setting(5, np.float32)
        A, B = (np.ones(n, np.float32) if adagrad else None for n in (23, 17))
        before = numba.get_num_threads()
        numba.set_num_threads(threads)
        try:
            for _ in range(3):
                run_kernel(s, A, B, (1.0, INF), 0.05, [2, 0, 1], kernel)
        finally:
            numba.set_num_threads(before)
        found.append((s["P"], s["Q"]))
    for P, Q in found[1:]:
        np.testing.assert_array_equal(P, found[0][0])
        np.testing.assert_array_equal(Q, found[0][1])


@pytest.mark.parametrize("loss", [(1.0, INF), (1.0, 0.7), (1e30, 0.5)])
@pytest.mark.parametrize(("dtype", "weighted"), [(np.float32, False), (np.float64, True)])
def test_gradient_equals_reference(dtype, loss, weighted):
    s = setting(13, dtype, weighted=weighted)
    entries = s["entries"]
    GP, GQ = np.full_like(s["P"], np.nan), np.full_like(s["Q"], np.nan)
    loss_sum = kernels.grid_gradient(
        kernels.vectors_argument(s["width"], dtype), s["P"], s["Q"], GP, GQ, entries, 3,
        kernels.ResidualClip(*map(dtype, loss)),
    )  # fmt: skip
    rows, cols, t = (np.concatenate(x) for x in zip(*blocks_of(entries, [0, 1, 2]), strict=True))
    weights = np.ones(t.size) if entries.weights is None else entries.weights[t]
    want = reference.sum_gradient(
        s["P"].astype(np.float64), s["Q"].astype(np.float64), rows, cols,
        entries.values[t].astype(np.float64), weights.astype(np.float64), *loss,
    )  # fmt: skip
    for got, expected in zip((GP, GQ, loss_sum), want, strict=True):
        scale = abs(expected).max()
        np.testing.assert_allclose(got, expected, rtol=0, atol=TOLERANCE[dtype] * scale)


def test_loss_values():
    """Against the formulas of the documentation of `MatrixCompletion`."""
    dtype = np.float64
    s = setting(4, dtype, biases=False)
    s["P"][:] = 0
    e = s["entries"].values
    delta = 0.7
    huber = np.where(abs(e) <= delta, e * e, 2 * delta * abs(e) - delta * delta)
    expected = {(1.0, INF): e @ e, (1.0, delta): huber.sum(), (1e30, 0.5): abs(e).sum()}
    for loss, value in expected.items():
        got = kernels.grid_gradient(
            kernels.vectors_argument(s["width"], dtype), s["P"], s["Q"], np.empty_like(s["P"]),
            np.empty_like(s["Q"]), s["entries"], 3, kernels.ResidualClip(*loss),
        )  # fmt: skip
        np.testing.assert_allclose(got, value, rtol=1e-12)


@pytest.mark.parametrize("weighted", [False, True])
def test_grid_holds_every_entry_once(weighted):
    m, n = 41, 30
    rows, cols, indptr, indices, values, weights = observed(m, n, 500, np.float64, 3, weighted)
    grid = kernels.make_grid(
        np.bincount(rows, minlength=m), np.bincount(cols, minlength=n), 10, 7, 2
    )
    assert np.diff(grid.row_start).max() <= 10 and np.diff(grid.col_start).max() <= 7
    entries = kernels.grid_entries(indptr, indices, values, weights, 0.5, grid, 1)
    back = {}
    row_of, col_of = np.argsort(grid.row_position), np.argsort(grid.col_position)
    for block_rows, block_cols, t in blocks_of(entries, range(2)):
        for i, j, s in zip(block_rows, block_cols, t, strict=True):
            weight = 1.0 if weights is None else entries.weights[s]
            back[row_of[i], col_of[j]] = (entries.values[s] + 0.5, weight)
    assert len(back) == 500
    for t in range(500):
        got = back[rows[t], cols[t]]
        want = (values[t], 1.0 if weights is None else weights[t])
        np.testing.assert_allclose(got, want, rtol=1e-14)


def test_grid_is_balanced_and_order_depends_on_the_seed():
    rng = np.random.default_rng(0)
    m, n = 400, 300
    popularity = 1.0 / np.arange(1, n + 1) ** 0.8
    mask = rng.uniform(size=(m, n)) < np.minimum(popularity, 1.0)
    rows, cols = np.nonzero(mask)
    indptr = np.searchsorted(rows, np.arange(m + 1)).astype(np.int64)
    values = np.arange(rows.size, dtype=np.float64)
    grid = kernels.make_grid(mask.sum(axis=1), mask.sum(axis=0), 100, 75, side=4)
    orders = [
        kernels.grid_entries(indptr, cols.astype(np.int32), values, None, 0.0, grid, seed)
        for seed in (1, 1, 2)
    ]
    loads = np.diff(orders[0].start)
    assert loads.size == 16
    # The heaviest column alone holds 1/6 of the entries; equal shares would be 1.
    assert loads.max() < 1.5 * loads.mean() and loads.min() > 0.6 * loads.mean()
    np.testing.assert_array_equal(orders[0].values, orders[1].values)
    assert np.any(orders[0].values != orders[2].values)
    # Random inside a block: first and second half have the same mean position, to 5 sigma.
    lo, hi = orders[0].start[:2]
    part = orders[0].values[lo:hi]
    ranks = np.argsort(np.argsort(part)) / part.size
    half = part.size // 2
    assert abs(ranks[:half].mean() - 0.5) < 5 * np.sqrt(1 / 12 / part.size)


def test_no_block_gets_the_largest_row_of_every_turn():
    counts = np.random.default_rng(0).permutation(96)
    grid = kernels.make_grid(counts, counts, 24, 24)
    block = np.searchsorted(grid.row_start, grid.row_position, side="right") - 1
    loads = np.bincount(block, weights=counts)
    np.testing.assert_array_equal(loads, np.full(4, counts.sum() / 4))
