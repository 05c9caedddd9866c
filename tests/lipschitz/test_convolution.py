"""Convolution matrices against scipy.signal, norms against the singular value decomposition."""

import numpy as np
import pytest
import scipy.ndimage as ndi
import scipy.sparse.linalg as sla
from scipy.signal import correlate

from lowrank_opt.core.errors import ParameterError, ProblemError
from lowrank_opt.lipschitz.convolution import (
    average_pool_matrix,
    convolution_matrix,
    convolution_norm,
)
from lowrank_opt.lipschitz.spatial_layers import (
    adaptive_average,
    largest_of_windows,
    transposed_convolution_layer,
)
from lowrank_opt.lipschitz.windows import pool_windows

# (c_out, c_in, kernel, input, stride, padding, dilation, groups)
CASES = [
    (4, 3, (3, 3), (6, 5), 1, 1, 1, 1),
    (4, 4, (3, 2), (8, 8), 2, (1, 0), 1, 2),
    (2, 3, (3,), (20,), 1, 1, 2, 1),
    (5, 2, (2, 2), (8, 8), 2, 0, 1, 1),
    (3, 2, (4, 4), (8, 9), 3, 2, 1, 1),
    (3, 2, (3, 3), (9, 9), (1, 4), ((0, 2), (1, 0)), (2, 1), 1),
    (6, 2, (1, 1), (6, 6), 1, 0, 1, 1),
    (2, 1, (2, 2, 2), (4, 4, 3), 1, 1, 1, 1),
    (2, 1, (5,), (3,), 1, 4, 1, 1),
    (6, 6, (3, 3), (5, 5), 1, "same", 1, 6),
]  # fmt: skip


def direct(x, K, stride, padding, dilation, groups):
    """The convolution by scipy.signal, channel by channel, on a padded input."""
    d = K.ndim - 2
    pads = np.asarray(padding)
    if padding == "same":
        pads = np.array([((k - 1) // 2, (k - 1) - (k - 1) // 2) for k in K.shape[2:]])
    elif pads.ndim < 2:
        pads = np.broadcast_to(np.broadcast_to(pads, (d,))[:, None], (d, 2))
    gaps, steps = np.broadcast_to(dilation, (d,)), np.broadcast_to(stride, (d,))
    x = np.pad(x, [(0, 0), *map(tuple, pads)])
    wide = np.zeros(
        (*K.shape[:2], *(g * (k - 1) + 1 for g, k in zip(gaps, K.shape[2:], strict=True)))
    )
    wide[(slice(None), slice(None), *(slice(None, None, g) for g in gaps))] = K
    c_out, per = K.shape[:2]
    out = []
    for c in range(c_out):
        first = c // (c_out // groups) * per
        y = sum(correlate(x[first + j], wide[c, j], mode="valid") for j in range(per))
        out.append(y[tuple(slice(None, None, s) for s in steps)])
    return np.stack(out)


def drawn(case, seed=0):
    c_out, c_in, k, n, stride, padding, dilation, groups = case
    K = np.random.default_rng(seed).standard_normal((c_out, c_in // groups, *k))
    options = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    return K, (c_in, *n), options


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_matrix_is_the_convolution(case):
    K, shape, options = drawn(case)
    matrix, out = convolution_matrix(K, shape, **options)
    x = np.random.default_rng(1).standard_normal(shape)
    expected = direct(x, K, **options)
    assert out == expected.shape
    np.testing.assert_allclose(matrix @ x.ravel(), expected.ravel(), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize(
    ("mode", "theirs"), [("circular", "wrap"), ("replicate", "edge"), ("reflect", "reflect")]
)
def test_other_paddings(mode, theirs):
    g = np.random.default_rng(0)
    K, x = g.standard_normal((2, 3, 3, 3)), g.standard_normal((3, 5, 6))
    pads = ((1, 2), (2, 1))
    matrix, out = convolution_matrix(K, x.shape, padding=pads, padding_mode=mode)
    wide = np.pad(x, [(0, 0), *pads], mode=theirs)
    expected = direct(wide, K, 1, 0, 1, 1)
    assert out == expected.shape
    np.testing.assert_allclose(matrix @ x.ravel(), expected.ravel(), rtol=1e-11)


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("seed", [0, 1])
def test_norms_are_upper_bounds_and_close(case, seed):
    K, shape, options = drawn(case, seed)
    true = np.linalg.norm(convolution_matrix(K, shape, **options)[0].toarray(), 2)
    exact = convolution_norm(K, shape, method="matrix", **options)
    fourier = convolution_norm(K, shape, method="fourier", **options)
    assert true * (1 - 1e-14) <= exact <= true * (1 + 1e-10)
    # On these small images the grid of n + k - 1 places is notably larger than the image.
    assert exact * (1 - 1e-10) <= fourier <= 1.35 * true
    assert convolution_norm(K, shape, **options) == exact


def test_circular_convolutions_are_exact():
    g = np.random.default_rng(0)
    for n, stride in [(6, 1), (7, 1), (8, 2), (9, 3)]:
        K = g.standard_normal((4, 3, 3, 3))
        options = {"padding": 1, "padding_mode": "circular", "stride": stride}
        matrix, _ = convolution_matrix(K, (3, n, n), **options)
        true = np.linalg.norm(matrix.toarray(), 2)
        got = convolution_norm(K, (3, n, n), method="fourier", **options)
        assert true * (1 - 1e-14) <= got <= true * (1 + 1e-9)


def test_the_bound_over_frequencies_approaches_the_norm_of_large_images():
    K = np.random.default_rng(0).standard_normal((2, 2, 3, 3))
    gaps = []
    for n in (4, 8, 16, 32):
        matrix, _ = convolution_matrix(K, (2, n, n), padding=1)
        true = sla.svds(matrix, k=1, return_singular_vectors=False, random_state=0)[0]
        gaps.append(convolution_norm(K, (2, n, n), padding=1, method="fourier") / true - 1)
    assert np.all(np.array(gaps) > 0)
    assert gaps[3] < gaps[1] < gaps[0] and gaps[3] < 0.01


def test_frequencies_give_the_norm_of_windows_that_do_not_overlap():
    # Each window is a vector of its own: the norm is that of the kernel as a matrix.
    K = np.random.default_rng(0).standard_normal((5, 3, 4, 4))
    true = np.linalg.norm(K.reshape(5, -1), 2)
    got = convolution_norm(K, (3, 64, 64), stride=4)
    assert true <= got * (1 + 1e-15) and got <= true * (1 + 1e-9)


def test_extreme_kernels():
    K = np.random.default_rng(0).standard_normal((3, 3, 3, 3))
    one = convolution_norm(K, (3, 20, 20), method="fourier")
    for scale in (1e-200, 1e200):
        got = convolution_norm(scale * K, (3, 20, 20), method="fourier")
        assert got == pytest.approx(scale * one, rel=1e-9)
    assert convolution_norm(0 * K, (3, 20, 20), method="fourier") == 0.0
    # All singular values equal: the slowest case of the squaring.
    Q = np.zeros((8, 8, 3, 3))
    Q[:, :, 1, 1] = np.linalg.qr(np.random.default_rng(0).standard_normal((8, 8)))[0]
    got = convolution_norm(Q, (8, 20, 20), padding=1, method="fourier")
    assert 1.0 <= got <= 1.0 + 1e-9
    # A mean of all places has one dominant frequency.
    mean = convolution_norm(np.full((1, 1, 3, 3), 1 / 9), (1, 50, 50), method="fourier")
    assert mean * (1 + 1e-15) >= 1.0 and mean <= 1.0 + 1e-9


# --- pooling -------------------------------------------------------------------------------------


def test_average_pooling_is_a_uniform_filter():
    x = np.random.default_rng(0).standard_normal((2, 9, 7))
    matrix, out = average_pool_matrix(x.shape, 3, stride=2)
    filtered = ndi.uniform_filter(x, size=(1, 3, 3))[:, 1:-1:2, 1:-1:2]
    assert out == filtered.shape
    np.testing.assert_allclose(matrix @ x.ravel(), filtered.ravel(), rtol=1e-12, atol=1e-14)


def test_what_average_pooling_divides_by():
    ones = np.ones(5)
    # Padded to [0 1 1 1 1 1 0]: windows at -1, 1, 3, and with ceil_mode none more.
    padded, _ = average_pool_matrix((1, 5), 3, stride=2, padding=1)
    np.testing.assert_allclose(padded @ ones, [2 / 3, 1, 2 / 3])
    inside, _ = average_pool_matrix((1, 5), 3, stride=2, padding=1, count_include_pad=False)
    np.testing.assert_allclose(inside @ ones, [1, 1, 1])
    fixed, _ = average_pool_matrix((1, 5), 2, divisor=8)
    np.testing.assert_allclose(fixed @ ones, [1 / 4, 1 / 4])
    # The last window has one place in the input and one beyond it, which does not count.
    beyond, out = average_pool_matrix((1, 5), 2, ceil_mode=True)
    assert out == (1, 3)
    np.testing.assert_allclose(beyond @ ones, [1, 1, 1])
    both, _ = average_pool_matrix((1, 4), 3, stride=3, padding=1, ceil_mode=True)
    np.testing.assert_allclose(both @ np.ones(4), [2 / 3, 2 / 3])


def test_adaptive_average_pooling():
    x = np.arange(10.0)
    matrix, out = adaptive_average((1, 10), (4,))
    assert out == (1, 4)
    np.testing.assert_allclose(
        matrix @ x, [x[0:3].mean(), x[2:5].mean(), x[5:8].mean(), x[7:10].mean()]
    )
    keep, out = adaptive_average((2, 3, 4), (None, 1))
    assert out == (2, 3, 1)
    y = np.random.default_rng(0).standard_normal((2, 3, 4))
    np.testing.assert_allclose(keep @ y.ravel(), y.mean(axis=2).ravel())


@pytest.mark.parametrize(
    ("size", "stride", "padding", "sharing"), [(2, 2, 0, 1), (3, 2, 1, 4), (2, 1, 0, 4)]
)
def test_max_pooling_as_a_sort(size, stride, padding, sharing):
    x = np.random.default_rng(0).standard_normal((3, 8, 8))
    gather, sort, select, out = largest_of_windows(x.shape, size, stride=stride, padding=padding)
    got = select @ sort.apply((gather @ x.ravel())[None])[0]
    wide = np.pad(x, [(0, 0)] + [(padding, padding)] * 2, constant_values=-np.inf)
    views = np.lib.stride_tricks.sliding_window_view(wide, (size, size), axis=(1, 2))
    expected = views[:, ::stride, ::stride].max(axis=(3, 4))
    assert out == expected.shape
    np.testing.assert_array_equal(got, expected.ravel())
    assert np.linalg.norm(select.toarray(), 2) == pytest.approx(1.0)
    # √(windows that share a value); copies for places over the padding add to it.
    norm = np.linalg.norm(gather.toarray(), 2)
    assert norm == pytest.approx(np.sqrt(sharing)) if padding == 0 else norm >= np.sqrt(sharing)


def test_transposed_convolutions_are_adjoint():
    g = np.random.default_rng(0)
    K = g.standard_normal((3, 2, 3, 3))  # 3 channels to 2
    options = {"stride": (2, 2), "padding": [(1, 1)] * 2, "dilation": (1, 1), "groups": 1}
    matrix, bias, out = transposed_convolution_layer(
        K, np.array([1.0, 2.0]), (3, 4, 5), output_padding=(1, 0), **options
    )
    assert out == (2, 8, 9)
    np.testing.assert_array_equal(bias.reshape(out)[:, 0, 0], [1.0, 2.0])
    x, y = g.standard_normal((2, 8, 9)), g.standard_normal((3, 4, 5))
    forward = direct(x, K, 2, 1, 1, 1)
    assert y.ravel() @ forward.ravel() == pytest.approx((matrix @ y.ravel()) @ x.ravel())


# --- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"input_shape": (3, 8)}, ProblemError, r"input_shape=\(3, 8\) does not fit"),
        ({"input_shape": (2, 8, 8)}, ProblemError, "needs 3 input channels"),
        ({"groups": 2}, ProblemError, "groups=2 needs 6 input"),
        ({"stride": 0}, ProblemError, "stride=0"),
        ({"dilation": (1, 1, 1)}, ProblemError, r"dilation=\(1, 1, 1\) must be .* or 2 of them"),
        ({"padding": -1}, ProblemError, "padding=-1"),
        ({"padding": "full"}, ProblemError, "padding='full'"),
        ({"padding": "same", "stride": 2}, ProblemError, "needs stride 1"),
        ({"padding": [(1, 1)]}, ProblemError, "one pair for each"),
        ({"padding_mode": "mirror"}, ParameterError, "padding_mode='mirror'"),
        ({"padding_mode": "reflect", "padding": 8}, ProblemError, "too large"),
        ({"dilation": 4}, ProblemError, "larger than the padded input"),
        ({"kernel": np.full((2, 3, 3, 3), np.nan)}, ProblemError, "NaN"),
        ({"kernel": np.ones((2, 3, 3, 3)) * 1j}, ProblemError, "complex"),
    ],
    ids=str,
)  # fmt: skip
def test_bad_convolutions(change, error, message):
    arguments = {"kernel": np.ones((2, 3, 3, 3)), "input_shape": (3, 8, 8)} | change
    for function in (convolution_matrix, convolution_norm):
        with pytest.raises(error, match=message):
            function(**arguments)


def test_bad_methods_and_paddings_of_norms():
    K = np.ones((1, 1, 3, 3))
    with pytest.raises(ParameterError, match="method='fft'"):
        convolution_norm(K, (1, 8, 8), method="fft")
    for options in ({"padding_mode": "reflect"}, {"padding_mode": "circular", "stride": 3},
                    {"padding_mode": "circular", "padding": 2}):  # fmt: skip
        with pytest.raises(ProblemError, match="method='matrix'"):
            convolution_norm(K, (1, 8, 8), method="fourier", **{"padding": 1} | options)
    with pytest.raises(ProblemError, match="over the padding alone"):
        largest_of_windows((1, 4), 1, stride=1, padding=1)
    assert pool_windows((5,), 2).output_shape == (2,)
