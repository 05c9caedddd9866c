"""Layers on channels and images as maps of flattened values, for the converters."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

from lowrank_opt.core.errors import ProblemError
from lowrank_opt.lipschitz.activations import Activation
from lowrank_opt.lipschitz.convolution import convolution_matrix
from lowrank_opt.lipschitz.windows import pool_windows

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "adaptive_average",
    "by_channel",
    "clipped",
    "convolution_layer",
    "largest_of_windows",
    "transposed_convolution_layer",
]


def by_channel(values: Any, shape: Sequence[int]) -> Any:
    """Repeat one value for each channel over the rest of a shape, flattened."""
    values = np.asarray(values, dtype=np.float64).reshape(-1)
    if values.size != shape[0]:
        raise ProblemError(
            f"network: {values.size} values for the {shape[0]} channels of an input of shape "
            f"{tuple(shape)}; is input_shape right?"
        )
    return np.repeat(values, math.prod(shape[1:]))


def convolution_layer(
    kernel: Any, bias: Any, shape: Sequence[int], **options: Any
) -> tuple[sp.csr_array, Any, tuple[int, ...]]:
    """Return matrix, bias and output shape of a convolution.

    Parameters
    ----------
    kernel, shape, **options
        As of :func:`~lowrank_opt.lipschitz.convolution.convolution_matrix`.
    bias : ndarray of shape (c_out,) or None

    Returns
    -------
    matrix, bias, output_shape
    """
    matrix, out = convolution_matrix(kernel, shape, **options)
    return matrix, None if bias is None else by_channel(bias, out), out


def transposed_convolution_layer(
    kernel: Any,
    bias: Any,
    shape: Sequence[int],
    *,
    stride: Sequence[int],
    padding: Sequence[tuple[int, int]],
    dilation: Sequence[int],
    groups: int,
    output_padding: Sequence[int],
) -> tuple[sp.csr_array, Any, tuple[int, ...]]:
    """Return matrix, bias and output shape of a transposed convolution.

    Parameters
    ----------
    kernel : ndarray of shape (c_in, c_out / groups, k_1, ..., k_d)
    bias : ndarray of shape (c_out,) or None
    shape : sequence of int
        (c_in, n_1, ..., n_d).
    stride, dilation, output_padding : sequence of int
    padding : sequence of (before, after)
    groups : int

    Returns
    -------
    matrix, bias, output_shape
    """
    sizes = [
        (n - 1) * s - p[0] - p[1] + g * (k - 1) + extra + 1
        for n, s, p, g, k, extra in zip(
            shape[1:], stride, padding, dilation, kernel.shape[2:], output_padding, strict=True
        )
    ]
    out = (kernel.shape[1] * groups, *sizes)
    forward, back = convolution_matrix(
        kernel, out, stride=stride, padding=padding, dilation=dilation, groups=groups
    )
    if back != tuple(shape):
        raise ProblemError(
            f"network: a transposed convolution with a kernel of shape {kernel.shape} does not fit "
            f"an input of shape {tuple(shape)}; is input_shape right?"
        )
    matrix = sp.csr_array(forward.T)
    return matrix, None if bias is None else by_channel(bias, out), out


def adaptive_average(
    shape: Sequence[int], output_size: Sequence[int | None]
) -> tuple[sp.csr_array, tuple[int, ...]]:
    """Return the matrix of average pooling to a given size.

    Parameters
    ----------
    shape : sequence of int
        (channels, n_1, ..., n_d).
    output_size : sequence of int or None
        ``None`` keeps a dimension.

    Returns
    -------
    matrix : csr_array
    output_shape : tuple of int
    """
    one = sp.csr_array(np.ones((1, 1)))
    out = []
    for n, wanted in zip(shape[1:], output_size, strict=True):
        m = n if wanted is None else int(wanted)
        mean = np.zeros((m, n))
        for j in range(m):
            start, end = j * n // m, -(-(j + 1) * n // m)
            mean[j, start:end] = 1.0 / (end - start)
        one = sp.kron(one, sp.csr_array(mean), format="csr")
        out.append(m)
    matrix = sp.kron(sp.eye_array(shape[0]), one, format="csr")
    return sp.csr_array(matrix), (shape[0], *out)


def largest_of_windows(
    shape: Sequence[int], kernel_size: Any, **options: Any
) -> tuple[sp.csr_array, Activation, sp.csr_array, tuple[int, ...]]:
    """Return max pooling as copies of the windows, a sort of each, and the last of each.

    Parameters
    ----------
    shape : sequence of int
        (channels, n_1, ..., n_d).
    kernel_size, **options
        As of :func:`~lowrank_opt.lipschitz.convolution.pool_windows`.

    Returns
    -------
    gather : csr_array
        Of norm one where windows do not overlap, else of norm √(windows that share a value).
    activation : Activation
        GroupSort with groups of the windows.
    select : csr_array
        The largest of each group.
    output_shape : tuple of int
    """
    windows = pool_windows(shape[1:], kernel_size, **options)
    index = windows.places
    inside = index >= 0
    if not inside.any(axis=1).all():
        raise ProblemError("network: a window of max pooling lies over the padding alone")
    # Places over the padding hold a copy of a value of the window, which leaves the largest.
    spare = np.take_along_axis(index, inside.argmax(axis=1)[:, None], axis=1)
    index = np.where(inside, index, spare)
    n_windows, taps = index.shape
    one = sp.csr_array(
        (np.ones(index.size), (np.arange(index.size), index.ravel())),
        shape=(index.size, math.prod(shape[1:])),
    )
    gather = sp.csr_array(sp.kron(sp.eye_array(shape[0]), one, format="csr"))
    rows = np.arange(shape[0] * n_windows)
    select = sp.csr_array(
        (np.ones(rows.size), (rows, rows * taps + taps - 1)), shape=(rows.size, rows.size * taps)
    )
    sort = Activation("group_sort", group_size=taps)
    return gather, sort, select, (shape[0], *windows.output_shape)


def clipped(low: float, high: float) -> tuple[float, float, float]:
    """Return (a, b, c) with clip(z, low, high) = c hardtanh(a z + b) - b c."""
    half = 0.5 * (high - low)
    return 1.0 / half, -0.5 * (high + low) / half, half
