"""Which input places the windows of convolutions and pooling cover."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from lowrank_opt.core.errors import ParameterError, ProblemError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Windows", "each", "paddings", "pool_windows", "windows_of"]

PADDING_MODES = ("zeros", "circular", "reflect", "replicate")


class Windows(NamedTuple):
    """Which input positions each window covers, for one channel."""

    places: NDArray[np.int64]  # (n_windows, taps); -1 where a window lies over the padding
    output_shape: tuple[int, ...]


def pool_windows(
    input_shape: Sequence[int],
    kernel_size: Any,
    *,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
) -> Windows:
    """Return the windows of a pooling layer.

    Parameters
    ----------
    input_shape : sequence of int
        (n_1, ..., n_d), without channels.
    kernel_size : int or sequence of int
        Taps in every dimension.
    stride : int, sequence of int or None, default=None
        ``None``: the kernel size.
    padding, dilation : int or sequence of int
        As of :func:`convolution_matrix`.
    ceil_mode : bool, default=False
        Whether a last window that leaves the padded input, but begins inside the input or the
        padding before it, counts.

    Returns
    -------
    Windows
        ``places`` of shape (n_windows, taps): flat positions, -1 over the padding;
        ``output_shape``.
    """
    shape = tuple(int(n) for n in input_shape)
    d = len(shape)
    size = each("kernel_size", kernel_size, d, 1)
    steps = size if stride is None else each("stride", stride, d, 1)
    gaps = each("dilation", dilation, d, 1)
    pads = paddings(padding, size, gaps, steps)
    if ceil_mode:
        longer = []
        for n, k, s, g, (before, after) in zip(shape, size, steps, gaps, pads, strict=True):
            count = -(-(n + before + after - g * (k - 1) - 1) // s) + 1
            if (count - 1) * s >= n + before:
                count -= 1
            longer.append((before, (count - 1) * s + g * (k - 1) + 1 - n - before))
        pads = longer
    return windows_of(shape, size, steps, pads, gaps, "zeros")


def each(name: str, value: Any, d: int, least: int) -> tuple[int, ...]:
    """Return one integer for each dimension."""
    values = (value,) * d if np.ndim(value) == 0 else tuple(value)
    if len(values) == 1:
        values = values * d
    if len(values) != d or any(int(v) != v or v < least for v in values):
        raise ProblemError(f"{name}={value!r} must be an integer >= {least}, or {d} of them")
    return tuple(int(v) for v in values)


def paddings(
    padding: Any, size: Sequence[int], gaps: Sequence[int], steps: Sequence[int]
) -> list[tuple[int, int]]:
    """Return (before, after) for each dimension."""
    d = len(size)
    if isinstance(padding, str):
        if padding == "valid":
            return [(0, 0)] * d
        if padding != "same":
            raise ProblemError(f"padding={padding!r} must be 'valid', 'same' or integers")
        if any(s != 1 for s in steps):
            raise ProblemError("padding='same' needs stride 1; give the padding as integers")
        totals = [g * (k - 1) for g, k in zip(gaps, size, strict=True)]
        return [(t // 2, t - t // 2) for t in totals]
    if np.ndim(padding) == 2:
        pairs = [tuple(each("padding", p, 2, 0)) for p in padding]
        if len(pairs) != d:
            raise ProblemError(f"padding={padding!r} must have one pair for each dimension")
        return [(p[0], p[1]) for p in pairs]
    return [(p, p) for p in each("padding", padding, d, 0)]


def windows_of(
    shape: Sequence[int],
    size: Sequence[int],
    steps: Sequence[int],
    pads: Sequence[tuple[int, int]],
    gaps: Sequence[int],
    mode: str,
) -> Windows:
    """Return the windows for sizes, steps, padding and gaps, each given for every dimension."""
    if mode not in PADDING_MODES:
        raise ParameterError(f"padding_mode={mode!r} must be one of {PADDING_MODES}")
    index = np.zeros((1, 1), dtype=np.int64)
    outside = np.zeros((1, 1), dtype=bool)
    out = []
    for n, k, s, (before, after), g in zip(shape, size, steps, pads, gaps, strict=True):
        count = (n + before + after - g * (k - 1) - 1) // s + 1
        if count < 1:
            raise ProblemError(
                f"kernel of size {k} with dilation {g} is larger than the padded input, "
                f"{n + before + after}"
            )
        if mode in ("circular", "reflect") and max(before, after) > n - (mode == "reflect"):
            raise ProblemError(f"padding={(before, after)} is too large to be {mode} with size {n}")
        at = np.arange(count)[:, None] * s - before + np.arange(k) * g
        off = (at < 0) | (at >= n)
        if mode == "circular":
            at, off = at % n, np.zeros_like(off)
        elif mode == "replicate":
            at, off = np.clip(at, 0, n - 1), np.zeros_like(off)
        elif mode == "reflect":
            at = np.abs(at)
            at, off = np.where(at >= n, 2 * (n - 1) - at, at), np.zeros_like(off)
        m, t = index.shape
        index = (index[:, None, :, None] * n + at[None, :, None, :]).reshape(m * count, t * k)
        outside = (outside[:, None, :, None] | off[None, :, None, :]).reshape(m * count, t * k)
        out.append(count)
    return Windows(np.where(outside, -1, index), tuple(out))
