from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pytest

from lowrank_opt.core.errors import ParameterError
from lowrank_opt.datasets import LowRankObservations, make_low_rank_observations


def _linear(data):
    return data.rows.astype(np.int64) * data.shape[1] + data.cols


def test_truth_has_the_asked_rank_condition_and_size():
    data = make_low_rank_observations(90, 70, 4, condition_number=50.0, random_state=0)
    dense = data.U @ data.V.T
    s = np.linalg.svd(dense, compute_uv=False)
    np.testing.assert_allclose(s[0] / s[3], 50.0, rtol=1e-9)
    assert s[4] < 1e-12 * s[0]
    np.testing.assert_allclose(np.sqrt(np.mean(dense**2)), 1.0, rtol=1e-12)
    np.testing.assert_allclose(data.values, dense[data.rows, data.cols], rtol=0, atol=1e-12)
    np.testing.assert_allclose(data.U.T @ data.U, data.V.T @ data.V, atol=1e-10)


@pytest.mark.parametrize(
    ("degrees", "size"),
    [("uniform", s) for s in (1, 100, 2000, 2900)] + [("heavy-tailed", s) for s in (1, 100, 2000)],
)
def test_positions_are_distinct_sorted_and_as_many_as_asked(degrees, size):
    data = make_low_rank_observations(
        60, 50, 2, n_observations=size, degrees=degrees, degree_exponent=0.5, random_state=1
    )
    assert len(data) == size
    assert np.all(np.diff(_linear(data)) > 0)
    assert data.rows.dtype == data.cols.dtype == np.int32
    assert data.rows.max() < 60
    assert data.cols.max() < 50


def test_all_entries_can_be_observed():
    data = make_low_rank_observations(30, 20, 2, n_observations=600, random_state=0)
    np.testing.assert_array_equal(_linear(data), np.arange(600))


def test_uniform_positions_are_uniform():
    # 400 draws of 20 of 40 cells: each count is hypergeometric, mean 200, deviation 10.
    counts = np.zeros(40)
    rng = np.random.default_rng(0)
    for _ in range(400):
        data = make_low_rank_observations(8, 5, 1, n_observations=20, random_state=rng)
        counts[_linear(data)] += 1
    assert np.abs(counts - 200).max() < 45
    assert 4 < counts.std() < 17


def test_heavy_tailed_degrees_follow_the_power_law():
    data = make_low_rank_observations(
        2000,
        300_000,
        1,
        n_observations=100_000,
        degrees="heavy-tailed",
        degree_exponent=0.6,
        random_state=0,
    )
    degree = np.sort(np.bincount(data.rows, minlength=2000))[::-1]
    expected = np.arange(1, 2001) ** -0.6
    expected *= 100_000 / expected.sum()
    # Averages over bands of ranks, against noise; so many columns leave few duplicates to skip.
    for lo, hi in ((10, 200), (200, 1000), (1000, 2000)):
        np.testing.assert_allclose(degree[lo:hi].mean(), expected[lo:hi].mean(), rtol=0.05)


def test_impossible_degrees_are_refused():
    with pytest.raises(ParameterError, match="could not be drawn with degrees this uneven"):
        make_low_rank_observations(
            50,
            50,
            1,
            n_observations=2500,
            degrees="heavy-tailed",
            degree_exponent=6.0,
            random_state=0,
        )


@pytest.mark.parametrize("mu", [1.0, 1.3, 2.0, 6.0, math.sqrt(60)])
def test_incoherence_is_met_by_both_factors(mu):
    data = make_low_rank_observations(400, 300, 5, incoherence=mu, random_state=3)
    for F in (data.U, data.V):
        Q = np.linalg.qr(F).Q
        largest = np.linalg.norm(Q, axis=1).max() * math.sqrt(len(F) / 5)
        np.testing.assert_allclose(largest, mu, rtol=1e-2)


def test_noise_and_outliers_disturb_what_they_should():
    kwargs = {"n_observations": 50_000, "random_state": 5}
    clean = make_low_rank_observations(500, 400, 3, **kwargs)
    data = make_low_rank_observations(
        500, 400, 3, noise=0.1, outlier_fraction=0.2, outlier_scale=10.0, **kwargs
    )
    np.testing.assert_array_equal(clean.cols, data.cols)
    assert data.outliers.sum() == 10_000
    assert not clean.outliers.any()
    error = data.values - data.clean_values()
    np.testing.assert_allclose(data.clean_values(), clean.values, rtol=1e-12)
    np.testing.assert_allclose(error[~data.outliers].std(), 0.1, rtol=0.02)
    bound = 10.0 * np.abs(clean.values).max()
    # Uniform on [-bound, bound]: deviation bound / sqrt(3).
    np.testing.assert_allclose(error[data.outliers].std(), bound / math.sqrt(3), rtol=0.03)
    assert np.abs(error[data.outliers]).max() < bound + 1.0


def test_relative_error_is_that_of_the_dense_matrices():
    data = make_low_rank_observations(40, 30, 3, random_state=0)
    rng = np.random.default_rng(1)
    U, V = rng.standard_normal((40, 5)), rng.standard_normal((30, 5))
    truth = data.U @ data.V.T
    expected = np.linalg.norm(U @ V.T - truth) / np.linalg.norm(truth)
    np.testing.assert_allclose(data.relative_error(U, V), expected, rtol=1e-12)
    # No cancellation near the truth, whatever the scaling of the factors.
    G = rng.standard_normal((3, 3)) + 3 * np.eye(3)
    assert data.relative_error(data.U @ G, data.V @ np.linalg.inv(G).T) < 1e-14


def test_same_seed_same_data_and_float32_matches_float64():
    a = make_low_rank_observations(80, 60, 3, noise=0.1, random_state=7)
    b = make_low_rank_observations(80, 60, 3, noise=0.1, random_state=7)
    c = make_low_rank_observations(80, 60, 3, noise=0.1, random_state=7, dtype=np.float32)
    np.testing.assert_array_equal(a.values, b.values)
    np.testing.assert_array_equal(a.rows, c.rows)
    assert c.values.dtype == c.U.dtype == np.float32
    np.testing.assert_allclose(a.values, c.values, atol=1e-5)


def test_no_dense_matrix_is_allocated():
    m, n, size, k = 20_000, 10_000, 100_000, 4
    tracemalloc.start()
    try:
        make_low_rank_observations(m, n, k, n_observations=size, random_state=0)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 100 * size + 64 * (m + n) * k  # a dense boolean matrix has 2e8 bytes


def test_sparse_split_and_select_keep_the_entries_together():
    data = make_low_rank_observations(
        80, 60, 3, n_observations=2000, outlier_fraction=0.3, random_state=0
    )
    sparse = data.to_sparse()
    assert sparse.nnz == len(data)
    np.testing.assert_array_equal(sparse.toarray()[data.rows, data.cols], data.values)
    train, test = data.split(0.25, random_state=1)
    assert isinstance(test, LowRankObservations)
    assert test.rank == 3
    both = np.concatenate([_linear(train), _linear(test)])
    assert len(np.unique(both)) == len(both)
    assert len(train) == 1500
    for part in (train, test):
        index = np.searchsorted(_linear(data), _linear(part))
        np.testing.assert_array_equal(part.outliers, data.outliers[index])
        np.testing.assert_array_equal(part.values, data.values[index])


def test_split_drops_test_entries_nothing_is_known_about():
    data = make_low_rank_observations(200, 150, 1, n_observations=400, random_state=0)
    train, test = data.split(0.5, random_state=0)
    assert np.isin(test.rows, train.rows).all()
    assert np.isin(test.cols, train.cols).all()
    assert len(test) < 200
    assert len(data.split(0.5, drop_unseen=False, random_state=0)[1]) == 200
    with pytest.raises(ParameterError, match=r"test_fraction is 1.0"):
        data.split(1.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_rows": 0}, "positive sizes"),
        ({"rank": 0}, "rank is 0"),
        ({"rank": 31}, "rank is 31; expected 1 <= rank <= min"),
        ({"n_observations": 0}, "n_observations is 0"),
        ({"n_observations": 1201}, "n_rows \\* n_cols = 1200"),
        ({"n_observations": 5, "oversampling": 2.0}, "not both"),
        ({"oversampling": 0.0}, "oversampling is 0.0"),
        ({"condition_number": 0.5}, "condition_number is 0.5"),
        ({"incoherence": 0.5}, "incoherence is 0.5"),
        ({"incoherence": 100.0}, "incoherence is 100.0"),
        ({"noise": -1.0}, "noise is -1.0"),
        ({"noise": math.nan}, "noise is nan"),
        ({"outlier_fraction": 1.5}, "outlier_fraction is 1.5"),
        ({"outlier_scale": -1.0}, "outlier_scale is -1.0"),
        ({"degrees": "zipf"}, "degrees is 'zipf'"),
        ({"dtype": np.int64}, "dtype is int64"),
    ],
)
def test_bad_parameters_are_named(change, message):
    with pytest.raises(ParameterError, match=message):
        make_low_rank_observations(**{"n_rows": 40, "n_cols": 30, "rank": 2, **change})
