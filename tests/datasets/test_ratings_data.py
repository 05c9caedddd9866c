from __future__ import annotations

import numpy as np
import pytest

from lowrank_opt.core.errors import ParameterError
from lowrank_opt.datasets import make_ratings


def test_ratings_have_the_shape_of_movielens_1m():
    ratings = make_ratings(random_state=0)
    assert ratings.shape == (6040, 3706)
    assert len(ratings) == 1_000_000
    assert np.all(np.diff(ratings.rows.astype(np.int64) * 3706 + ratings.cols) > 0)
    assert ratings.values.dtype == np.float32
    assert set(np.unique(ratings.values)) == {1.0, 2.0, 3.0, 4.0, 5.0}
    users, items = np.bincount(ratings.rows), np.bincount(ratings.cols)
    assert users.min() >= 1
    assert items.min() >= 1
    assert len(users) == 6040
    assert len(items) == 3706
    # MovieLens-1M: deviation 1.12, mean 3.58, median degrees 96 and 123, largest 2314 and 3428.
    np.testing.assert_allclose(ratings.values.std(dtype=float), 1.12, atol=0.05)
    np.testing.assert_allclose(ratings.values.mean(dtype=float), 3.58, atol=0.1)
    assert 60 < np.median(users) < 150
    assert 60 < np.median(items) < 200
    assert users.max() > 1000
    assert items.max() > 2000


def test_biases_explain_what_they_explain_in_movielens():
    train, test = make_ratings(random_state=1).split(0.1, random_state=0)
    mean = train.values.mean(dtype=float)
    bias = np.zeros(6040), np.zeros(3706)
    index = train.rows, train.cols
    for _ in range(10):
        for side in (0, 1):
            rest = train.values - mean - bias[1 - side][index[1 - side]]
            sums = np.bincount(index[side], rest, len(bias[side]))
            bias[side][:] = sums / (np.bincount(index[side], minlength=len(bias[side])) + 3.0)
    error = test.values - mean - bias[0][test.rows] - bias[1][test.cols]
    np.testing.assert_allclose(np.sqrt(np.mean(error**2)), 0.91, atol=0.03)


def test_same_seed_same_ratings():
    a, b = (make_ratings(80, 60, 1500, random_state=3) for _ in range(2))
    np.testing.assert_array_equal(a.values, b.values)
    np.testing.assert_array_equal(a.cols, b.cols)
    assert not np.array_equal(a.cols, make_ratings(80, 60, 1500, random_state=4).cols)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_users": 0}, "positive sizes"),
        ({"n_ratings": 100}, "n_ratings is 100"),
        ({"n_ratings": 2401}, "2400"),
        ({"rank": 0}, "rank is 0"),
        ({"noise": -0.5}, "noise is -0.5"),
        ({"taste": -0.5}, "taste is -0.5"),
    ],
)
def test_bad_parameters_are_named(change, message):
    with pytest.raises(ParameterError, match=message):
        make_ratings(**{"n_users": 80, "n_items": 60, "n_ratings": 1000, **change})
