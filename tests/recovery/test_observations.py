"""Observations: the counting sorts, every input form, no change of the input, little memory."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from lowrank_opt.recovery import Observations
from lowrank_opt.recovery import kernels_observations as kernels
from lowrank_opt.recovery import observations as module

SPARSE_FORMATS = ["csr", "csc", "coo", "lil", "dok", "bsr", "dia"]


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def random_entries(rng, shape=(30, 20), n=150):
    linear = rng.choice(shape[0] * shape[1], n, replace=False)
    return linear // shape[1], linear % shape[1], rng.standard_normal(n)


def assert_valid(obs):
    """The documented layout, against SciPy's own conversion."""
    csr = sp.csr_array((obs.values, obs.indices, obs.indptr), shape=obs.shape)
    csr.check_format(full_check=True)
    assert csr.has_canonical_format
    csc = csr.tocsc()
    np.testing.assert_array_equal(obs.csc_indptr, csc.indptr)
    np.testing.assert_array_equal(obs.csc_indices, csc.indices)
    np.testing.assert_array_equal(obs.csc_values, csc.data)
    np.testing.assert_array_equal(obs.csc_values, obs.values[obs.perm])
    assert (obs.indptr.dtype, obs.indices.dtype) == (np.int64, np.int32)
    assert (obs.csc_indptr.dtype, obs.csc_indices.dtype) == (np.int64, np.int32)
    if obs.weights is not None:
        np.testing.assert_array_equal(obs.csc_weights, obs.weights[obs.perm])


def assert_same(a, b):
    for name in ("indptr", "indices", "values", "csc_indptr", "csc_indices", "csc_values"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    assert (a.weights is None) == (b.weights is None)
    if a.weights is not None:
        np.testing.assert_array_equal(a.weights, b.weights)


def test_entries_in_any_order_are_sorted_by_row_and_column(rng):
    rows, cols, values = random_entries(rng)
    obs = Observations.from_coo(rows, cols, values, (30, 20))
    assert_valid(obs)
    dense = np.zeros((30, 20))
    dense[rows, cols] = values
    np.testing.assert_array_equal(obs.to_scipy().toarray(), dense)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 6), st.integers(0, 4), st.integers(-3, 3)), min_size=1),
    st.sampled_from(["sum", "mean", "last"]),
    st.integers(1, 5),
)
def test_duplicates_agree_with_a_dictionary(entries, rule, chunk):
    seen = {}
    for i, j, v in entries:
        seen.setdefault((i, j), []).append(v)
    merge = {"sum": sum, "mean": np.mean, "last": lambda v: v[-1]}[rule]
    dense = np.zeros((7, 5))
    for (i, j), v in seen.items():
        dense[i, j] = merge(v)
    rows, cols, values = np.array(entries).T
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_CHUNK", chunk)
        obs = Observations.from_coo(rows, cols, values, (7, 5), duplicates=rule)
    assert_valid(obs)
    assert obs.nnz == len(seen)
    np.testing.assert_allclose(obs.to_scipy().toarray(), dense, rtol=1e-15)


def test_duplicates_with_weights():
    args = ([0, 0, 1], [0, 0, 0], [1.0, 4.0, 9.0], (2, 1))
    w = [1.0, 2.0, 5.0]
    mean = Observations.from_coo(*args, weights=w, duplicates="mean")
    np.testing.assert_allclose(mean.values, [3.0, 9.0], rtol=1e-15)
    np.testing.assert_allclose(mean.weights, [3.0, 5.0], rtol=1e-15)
    total = Observations.from_coo(*args, weights=w, duplicates="sum")
    np.testing.assert_allclose(total.values, [5.0, 9.0], rtol=1e-15)
    np.testing.assert_allclose(total.weights, [1.5, 5.0], rtol=1e-15)
    last = Observations.from_coo(*args, weights=w, duplicates="last")
    np.testing.assert_array_equal(last.values, [4.0, 9.0])
    np.testing.assert_array_equal(last.weights, [2.0, 5.0])
    assert_valid(mean)


@pytest.mark.parametrize("kind", ["matrix", "array"])
@pytest.mark.parametrize("form", SPARSE_FORMATS)
def test_every_sparse_format_gives_the_same(form, kind, rng):
    dense = np.where(rng.random((12, 8)) < 0.4, rng.standard_normal((12, 8)), 0.0)
    X = getattr(sp, f"csr_{kind}")(dense).asformat(form)
    obs = Observations.from_sparse(X)
    assert_valid(obs)
    np.testing.assert_array_equal(obs.to_scipy().toarray(), dense)


@pytest.mark.parametrize("form", ["csr", "csc", "coo", "dia", "bsr"])
def test_explicit_zeros_are_observed(form):
    if form == "dia":
        X = sp.dia_array((np.array([[1.0, 0.0, 2.0], [0.0, 3.0, 0.0]]), [1, 0]), shape=(3, 3))
        expected = {(0, 0): 0.0, (1, 1): 3.0, (2, 2): 0.0, (0, 1): 0.0, (1, 2): 2.0}
    elif form == "bsr":
        X = sp.bsr_array(np.array([[1.0, 0.0], [0.0, 2.0]]), blocksize=(2, 2))
        expected = {(0, 0): 1.0, (0, 1): 0.0, (1, 0): 0.0, (1, 1): 2.0}
    else:
        X = sp.coo_array(([1.0, 0.0], ([0, 2], [1, 2])), shape=(3, 3)).asformat(form)
        expected = {(0, 1): 1.0, (2, 2): 0.0}
    obs = Observations.from_sparse(X)
    found = dict(
        zip(zip(obs.rows().tolist(), obs.indices.tolist(), strict=True), obs.values, strict=True)
    )
    assert found == expected


def test_csr_with_unsorted_indices_empty_rows_and_spare_room(rng, monkeypatch):
    monkeypatch.setattr(module, "_CHUNK", 3)
    indptr = np.array([0, 0, 4, 4, 6, 7, 7])
    indices = np.array([3, 0, 2, 1, 4, 0, 2, 4, 4])  # two entries beyond indptr[-1]
    X = sp.csr_array((6, 5))
    X.indptr, X.indices, X.data = indptr, indices, np.arange(1.0, 10.0)
    obs = Observations.from_sparse(X)
    assert_valid(obs)
    assert obs.nnz == 7
    np.testing.assert_array_equal(obs.values, [2.0, 4.0, 3.0, 1.0, 6.0, 5.0, 7.0])
    Y = sp.csc_array((5, 6))
    Y.indptr, Y.indices, Y.data = indptr, indices, np.arange(1.0, 10.0)
    assert_same(Observations.from_sparse(Y).T, obs)


def test_weights_of_sparse_matrices(rng):
    dense = np.where(rng.random((9, 7)) < 0.5, 1.0 + rng.random((9, 7)), 0.0)
    for form in ("csr", "csc", "coo"):
        X = sp.csr_array(dense).asformat(form)
        W = X.copy()
        W.data = W.data**2
        by_matrix = Observations.from_sparse(X, weights=W)
        assert_same(by_matrix, Observations.from_sparse(X, weights=W.data))
        assert_valid(by_matrix)
        np.testing.assert_allclose(by_matrix.weights, by_matrix.values**2, rtol=1e-15)


def test_dense_with_nan_mask_and_weights(rng, monkeypatch):
    monkeypatch.setattr(module, "_CHUNK", 20)
    X = rng.standard_normal((11, 7))
    X[0, 0] = 0.0
    missing = rng.random(X.shape) < 0.5
    missing[0, 0] = False
    W = 1.0 + rng.random(X.shape)
    obs = Observations.from_dense(np.where(missing, np.nan, X), weights=W)
    assert_valid(obs)
    rows, cols = np.nonzero(~missing)
    np.testing.assert_array_equal(obs.rows(), rows)
    np.testing.assert_array_equal(obs.indices, cols)
    np.testing.assert_array_equal(obs.values, X[~missing])
    np.testing.assert_array_equal(obs.weights, W[~missing])
    assert_same(Observations.from_dense(np.ma.masked_array(X, missing), weights=W), obs)
    assert_same(Observations.from_dense(np.where(missing, np.nan, X).tolist(), weights=W), obs)


def test_entries_of_weight_zero_are_as_if_not_observed(rng):
    rows, cols, values = random_entries(rng)
    weights = rng.integers(0, 3, values.size).astype(float)
    keep = weights > 0
    a = Observations.from_coo(rows, cols, values, (30, 20), weights=weights)
    b = Observations.from_coo(rows[keep], cols[keep], values[keep], (30, 20), weights=weights[keep])
    assert 0 < b.nnz < rows.size
    assert_same(a, b)


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (np.float32, np.float32),
        (np.float64, np.float64),
        (np.float16, np.float32),
        (np.int8, np.float64),
        (np.uint64, np.float64),
        (np.bool_, np.float64),
        (np.dtype(">f8"), np.float64),
        (np.longdouble, np.float64),
    ],
)
def test_value_types(given, kept):
    values = np.array([1, 0, 1]).astype(given)
    obs = Observations.from_coo([0, 1, 2], [0, 1, 0], values, weights=[1, 2, 3])
    assert obs.dtype == obs.csc_values.dtype == obs.weights.dtype == kept
    np.testing.assert_array_equal(obs.values, [1, 0, 1])
    assert Observations.from_dense(np.eye(2).astype(given)).dtype == kept


@pytest.mark.parametrize("ids", [np.int8, np.uint8, np.int32, np.uint64, np.int64, "list"])
def test_position_types(ids, rng):
    rows, cols, values = random_entries(rng)
    expected = Observations.from_coo(rows, cols, values, (30, 20))
    if ids == "list":
        rows, cols = rows.tolist(), cols.tolist()
    else:
        rows, cols = rows.astype(ids), cols.astype(ids)
    assert_same(Observations.from_coo(rows, cols, values, (30, 20)), expected)


def test_strided_read_only_negative_stride_and_memmap_inputs(rng, tmp_path):
    rows, cols, values = random_entries(rng)
    expected = Observations.from_coo(rows, cols, values, (30, 20))
    wide = np.stack([values, values], axis=1)
    frozen = rows.copy()
    frozen.flags.writeable = False
    assert_same(Observations.from_coo(frozen, cols, wide[:, 1], (30, 20)), expected)
    assert_same(Observations.from_coo(rows[::-1], cols[::-1], values[::-1], (30, 20)), expected)
    np.save(tmp_path / "values.npy", values)
    mapped = np.load(tmp_path / "values.npy", mmap_mode="r")
    assert_same(Observations.from_coo(rows, cols, mapped, (30, 20)), expected)
    assert type(Observations.from_coo(rows, cols, mapped, (30, 20)).values) is np.ndarray
    dense = expected.to_scipy().toarray()
    np.save(tmp_path / "dense.npy", dense)
    mapped = np.load(tmp_path / "dense.npy", mmap_mode="r")
    for view in (mapped, np.asfortranarray(dense)):
        assert_same(Observations.from_dense(view), Observations.from_dense(dense))
    assert_same(
        Observations.from_dense(mapped[::-1, ::2]), Observations.from_dense(dense[::-1, ::2].copy())
    )


def test_inputs_are_copied_and_never_written(rng):
    X = sp.random_array((20, 10), density=0.3, format="csr", rng=rng)
    before = X.copy()
    for array in (X.data, X.indices, X.indptr):
        array.flags.writeable = False
    obs = Observations.from_sparse(X)
    assert not any(np.shares_memory(obs.values, a) for a in (X.data, obs.csc_values))
    np.testing.assert_array_equal(X.toarray(), before.toarray())


def test_shape_is_inferred_or_given():
    assert Observations.from_coo([0, 4], [2, 1], [1.0, 2.0]).shape == (5, 3)
    obs = Observations.from_coo([0, 4], [2, 1], [1.0, 2.0], (9, 8))
    assert obs.shape == (9, 8)
    assert_valid(obs)
    one = Observations.from_coo([0], [0], [3.0])
    assert (one.shape, one.nnz, one.density) == ((1, 1), 1, 1.0)


def test_summaries(rng):
    rows, cols, values = random_entries(rng, (30, 20), 60)
    weights = rng.random(60) + 0.5
    obs = Observations.from_coo(rows, cols, values, (30, 20), weights=weights)
    np.testing.assert_array_equal(obs.row_counts, np.bincount(rows, minlength=30))
    np.testing.assert_array_equal(obs.col_counts, np.bincount(cols, minlength=20))
    np.testing.assert_allclose(obs.row_weights, np.bincount(rows, weights, 30), rtol=1e-14)
    np.testing.assert_allclose(obs.col_weights, np.bincount(cols, weights, 20), rtol=1e-14)
    assert 0 in obs.row_counts
    np.testing.assert_allclose(obs.mean, np.average(values, weights=weights), rtol=1e-13)
    np.testing.assert_allclose(obs.total_weight, weights.sum(), rtol=1e-14)
    # indices int32, values and weights float64, pointers int64
    assert obs.nbytes == 2 * 60 * (4 + 8 + 8) + 8 * (31 + 21)
    plain = Observations.from_coo(rows, cols, values, (30, 20))
    np.testing.assert_array_equal(plain.row_weights, plain.row_counts)
    assert plain.total_weight == 60
    assert "30 x 20" in repr(plain)


def test_transpose_shares_memory(rng):
    obs = Observations.from_coo(*random_entries(rng), (30, 20))
    assert obs.T.shape == (20, 30)
    assert np.shares_memory(obs.T.values, obs.csc_values)
    assert_valid(obs.T)


def test_components_agree_with_scipy(rng):
    for n in (1, 5, 20, 60):
        rows, cols, values = random_entries(rng, (30, 20), n)
        obs = Observations.from_coo(rows, cols, values, (30, 20))
        B = obs.to_scipy()
        graph = sp.block_array([[None, B], [B.T, None]])
        graph.data[:] = 1.0
        all_parts = sp.csgraph.connected_components(graph)[0]
        isolated = np.sum(obs.row_counts == 0) + np.sum(obs.col_counts == 0)
        assert obs.n_components == all_parts - isolated


def test_select_keeps_the_masked_entries(rng):
    rows, cols, values = random_entries(rng)
    obs = Observations.from_coo(rows, cols, values, (30, 20), weights=values**2 + 1)
    mask = rng.random(obs.nnz) < 0.3
    part = obs.select(mask)
    assert_valid(part)
    assert_same(
        part,
        Observations.from_coo(
            obs.rows()[mask],
            obs.indices[mask],
            obs.values[mask],
            obs.shape,
            weights=obs.weights[mask],
        ),
    )


def test_peak_memory_of_construction_is_the_result(rng):
    shape, n = (3000, 2000), 600_000
    linear = np.unique(rng.integers(0, shape[0] * shape[1], n))
    rng.shuffle(linear)
    rows, cols = linear // shape[1], linear % shape[1]
    values = rng.standard_normal(linear.size).astype(np.float32)
    Observations.from_coo(rows[:9], cols[:9], values[:9], shape)  # compiles
    tracemalloc.start()
    obs = Observations.from_coo(rows, cols, values, shape)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.3 * obs.nbytes + 4e6
    assert_valid(obs)


def test_index_type_grows_with_the_shape():
    assert module._index_dtype((2**31 - 1, 5)) is np.int32
    assert module._index_dtype((5, 2**31)) is np.int64


def test_kernels_take_wide_indices(rng):
    """The types of a matrix with 2**31 columns, on small numbers."""
    rows, cols, values = random_entries(rng)
    obs = Observations.from_coo(rows, cols, values, (30, 20))
    indptr, indices, out = np.empty(31, np.int64), np.empty(150, np.int64), np.empty(150)
    kernels.transpose(
        *(obs.csc_indptr, obs.csc_indices.astype(np.int64), obs.csc_values, np.empty(0)),
        *(indptr, indices, out, np.empty(0)),
    )
    np.testing.assert_array_equal(indices, obs.indices)
    np.testing.assert_array_equal(out, obs.values)
