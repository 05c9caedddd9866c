"""Top k: against sorting, ties, streams, libraries, bad input."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lowrank_opt.core.errors import ParameterError, ProblemError
from lowrank_opt.numerics import StreamingTopK, topk


def _by_sorting(x, k):
    order = np.lexsort((np.broadcast_to(np.arange(x.shape[-1]), x.shape), -x), axis=-1)[..., :k]
    return np.take_along_axis(x, order, axis=-1), order


def _check(x, k):
    got = topk(x, k)
    values, indices = _by_sorting(x, k)
    np.testing.assert_array_equal(got.indices, indices)
    np.testing.assert_array_equal(got.values, values)
    assert got.values.dtype == x.dtype
    assert got.indices.dtype == np.int64


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize(
    ("n", "k"),
    [(1, 1), (5, 0), (5, 5), (64, 8), (64, 9), (65, 64), (129, 20), (3000, 3), (3000, 700)],
)
def test_topk_equals_sorting_with_ties_by_index(n, k, dtype):
    rng = np.random.default_rng(n + k)
    for x in (
        rng.standard_normal((3, n)),
        np.sort(rng.standard_normal((2, n))),
        np.sort(rng.standard_normal((2, n)))[:, ::-1],
        rng.integers(0, 4, (3, n)) * 1.0,
        np.zeros((2, n)),
        np.where(rng.random((3, n)) < 0.7, -np.inf, rng.standard_normal((3, n))),
        np.full((1, n), -np.inf),
        np.where(rng.random((3, n)) < 0.5, -0.0, 0.0),
    ):
        _check(x.astype(dtype), k)


def test_the_check_fails_when_ties_go_to_the_highest_index():
    got = topk(np.array([1.0, 2.0, 2.0]), 1)
    assert got.indices[0] == 1
    with pytest.raises(AssertionError):
        np.testing.assert_array_equal(np.argsort([1.0, 2.0, 2.0])[-1:], got.indices)


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
def test_axis(axis):
    x = np.random.default_rng(0).standard_normal((4, 5, 6))
    got = topk(x, 3, axis=axis)
    values, indices = _by_sorting(np.moveaxis(x, axis, -1), 3)
    np.testing.assert_array_equal(np.moveaxis(got.values, axis, -1), values)
    np.testing.assert_array_equal(np.moveaxis(got.indices, axis, -1), indices)


def test_empty_batches_and_read_only_input():
    assert topk(np.empty((0, 4)), 2).values.shape == (0, 2)
    assert topk(np.empty((3, 0)), 0).indices.shape == (3, 0)
    x = np.arange(200.0)[::-1]
    x.flags.writeable = False
    _check(x, 3)
    _check(x, 150)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_stream_does_not_depend_on_blocks_or_their_order(data):
    n, k = data.draw(st.integers(1, 200)), data.draw(st.integers(1, 12))
    seed = data.draw(st.integers(0, 1000))
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 6, (2, n)) * 1.0
    x[rng.random((2, n)) < 0.1] = -np.inf
    cuts = sorted({0, n, *data.draw(st.lists(st.integers(0, n), max_size=5))})
    blocks = list(itertools.pairwise(cuts))
    rng.shuffle(blocks)
    stream, other = StreamingTopK(2, k), StreamingTopK(2, k)
    for number, (start, stop) in enumerate(blocks):
        (stream if number % 2 else other).update(x[:, start:stop], first=start)
    stream.merge(other)
    got = stream.result()
    used = min(n, k)
    values, indices = _by_sorting(x, used)
    np.testing.assert_array_equal(stream.counts, used)
    np.testing.assert_array_equal(got.indices[:, :used], indices)
    np.testing.assert_array_equal(got.values[:, :used], values)
    np.testing.assert_array_equal(got.indices[:, used:], -1)
    np.testing.assert_array_equal(got.values[:, used:], -np.inf)


def test_stream_counts_columns_by_itself_and_goes_on_after_a_result():
    x = np.random.default_rng(1).standard_normal((3, 50)).astype(np.float32)
    stream = StreamingTopK(3, 4, np.float32)
    stream.update(x[:, :20])
    np.testing.assert_array_equal(stream.result().indices, _by_sorting(x[:, :20], 4)[1])
    stream.update(x[:, 20:])
    np.testing.assert_array_equal(stream.result().indices, _by_sorting(x, 4)[1])
    assert stream.result().values.dtype == np.float32


def test_every_array_library_gives_the_same_answer(xp):
    x = np.random.default_rng(2).integers(0, 5, (4, 30)) * 1.0
    for k, axis in [(7, 1), (2, 0), (0, 1)]:
        got = topk(xp.asarray(x), k, axis=axis)
        want = topk(x, k, axis=axis)
        assert type(got.values) is type(xp.asarray(x))
        np.testing.assert_array_equal(np.asarray(got.values), want.values)
        np.testing.assert_array_equal(np.asarray(got.indices), want.indices)


def test_bad_input_is_named():
    with pytest.raises(ProblemError, match=r"x\[0, 1\] is NaN"):
        topk([[1.0, np.nan]], 1)
    for k in (-1, 3, 1.5, True, "a", np.nan):
        with pytest.raises(ParameterError, match=r"k is .*integer >= 0 and <= 2"):
            topk([1.0, 2.0], k)
    with pytest.raises(ParameterError, match="axis is 1"):
        topk([1.0, 2.0], 1, axis=1)
    stream = StreamingTopK(2, 3)
    with pytest.raises(ProblemError, match=r"block has shape \(3, 1\)"):
        stream.update(np.ones((3, 1)))
    with pytest.raises(ProblemError, match="is NaN"):
        stream.update(np.full((2, 1), np.nan))
    with pytest.raises(ParameterError, match="first is -1"):
        stream.update(np.ones((2, 1)), first=-1)
    with pytest.raises(ProblemError, match="must agree"):
        stream.merge(StreamingTopK(3, 3))
    with pytest.raises(ParameterError, match="k is 0"):
        StreamingTopK(2, 0)
    with pytest.raises(ParameterError, match="dtype is int64"):
        StreamingTopK(2, 1, np.int64)
