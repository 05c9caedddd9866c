"""Convolutions and pooling as sparse matrices, and proved upper bounds of their norms.

Values are flattened in C order, channels first. A convolution is the cross-correlation that
networks use: the kernel is not flipped.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

from lowrank_opt.core.errors import ParameterError, ProblemError, ProblemTypeError
from lowrank_opt.lipschitz.rigorous import UNIT, gamma, norm_upper
from lowrank_opt.lipschitz.windows import each, paddings, pool_windows, windows_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Values = NDArray[np.float64]

__all__ = [
    "average_pool_matrix",
    "convolution_matrix",
    "convolution_norm",
    "pool_windows",
]

_DENSE_LIMIT = 400  # rows or columns up to which the matrix itself is factored,
_DENSE_SIZE = 4_000_000  # and entries
_TIGHT = 1e-10  # relative distance of the bounds at which the Gram iteration ends
_MAX_SQUARINGS = 36


def convolution_matrix(
    kernel: Any,
    input_shape: Sequence[int],
    *,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
    padding_mode: str = "zeros",
) -> tuple[sp.csr_array, tuple[int, ...]]:
    """Return the matrix of a convolution in any number of dimensions.

    Parameters
    ----------
    kernel : array-like of shape (c_out, c_in / groups, k_1, ..., k_d)
        Weights.
    input_shape : sequence of int
        (c_in, n_1, ..., n_d).
    stride : int or sequence of int, default=1
        For all dimensions, or one for each.
    padding : int, sequence of int or of pairs, or {"valid", "same"}, default=0
        Added at both ends; a pair: (before, after). ``"same"``, with stride 1: as many outputs as
        inputs, the odd one added after.
    dilation : int or sequence of int, default=1
        Distance of the taps.
    groups : int, default=1
        Blocks of channels that do not mix.
    padding_mode : {"zeros", "circular", "reflect", "replicate"}, default="zeros"
        What the padding holds.

    Returns
    -------
    matrix : csr_array of shape (c_out * n_outputs, c_in * n_inputs)
    output_shape : tuple of int
        (c_out, m_1, ..., m_d).

    Notes
    -----
    Cost and memory: c_out c_in / groups times outputs times taps.
    """
    K, shape, d = _checked(kernel, input_shape, groups)
    steps, gaps = each("stride", stride, d, 1), each("dilation", dilation, d, 1)
    pads = paddings(padding, K.shape[2:], gaps, steps)
    windows = windows_of(shape[1:], K.shape[2:], steps, pads, gaps, padding_mode)
    n_in, n_out = math.prod(shape[1:]), len(windows.places)
    place, tap = np.nonzero(windows.places >= 0)
    source = windows.places[place, tap]
    c_out, per_group = K.shape[:2]
    out = np.arange(c_out)
    first = (out // (c_out // groups)) * per_group
    channel = first[:, None] + np.arange(per_group)
    rows = np.broadcast_to((out * n_out)[:, None, None] + place, (c_out, per_group, place.size))
    cols = (channel * n_in)[:, :, None] + source
    data = K.reshape(c_out, per_group, -1)[:, :, tap]
    matrix = sp.csr_array(
        (data.ravel(), (rows.ravel(), cols.ravel())), shape=(c_out * n_out, shape[0] * n_in)
    )
    matrix.sum_duplicates()
    matrix.eliminate_zeros()
    return matrix, (c_out, *windows.output_shape)


def average_pool_matrix(
    input_shape: Sequence[int],
    kernel_size: Any,
    *,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor: int | None = None,
) -> tuple[sp.csr_array, tuple[int, ...]]:
    """Return the matrix of average pooling.

    Parameters
    ----------
    input_shape : sequence of int
        (channels, n_1, ..., n_d).
    kernel_size : int or sequence of int
        Taps in every dimension.
    stride : int, sequence of int or None, default=None
        ``None``: the kernel size.
    padding : int, sequence of int or of pairs, default=0
        As of :func:`convolution_matrix`.
    ceil_mode : bool, default=False
        As of :func:`~lowrank_opt.lipschitz.windows.pool_windows`.
    count_include_pad : bool, default=True
        Whether zeros of the padding count in the mean (places beyond the padding, which
        `ceil_mode` adds, never do).
    divisor : int or None, default=None
        What sums are divided by; ``None``: the number of places that count.

    Returns
    -------
    matrix : csr_array of shape (channels * n_outputs, channels * n_inputs)
    output_shape : tuple of int
    """
    shape = tuple(int(n) for n in input_shape)
    options = {"stride": stride, "padding": padding}
    windows = pool_windows(shape[1:], kernel_size, ceil_mode=ceil_mode, **options)
    inside = windows.places >= 0
    if divisor is not None:
        counts = np.full(len(inside), float(divisor))
    elif count_include_pad and np.any(np.asarray(padding) != 0):
        # Count in an input that has the padding as true places.
        d = len(shape) - 1
        size = each("kernel_size", kernel_size, d, 1)
        pads = paddings(padding, size, (1,) * d, (1,) * d)
        wide = tuple(n + sum(p) for n, p in zip(shape[1:], pads, strict=True))
        steps = size if stride is None else each("stride", stride, d, 1)
        ends = [
            (0, max(0, (m - 1) * s + k - n))
            for m, s, k, n in zip(windows.output_shape, steps, size, wide, strict=True)
        ]
        counted = windows_of(wide, size, steps, ends, (1,) * d, "zeros")
        counts = (counted.places >= 0).sum(axis=1).astype(float)
    else:
        counts = inside.sum(axis=1).astype(float)
    place, tap = np.nonzero(inside)
    one = sp.csr_array(
        (1.0 / counts[place], (place, windows.places[place, tap])),
        shape=(len(inside), math.prod(shape[1:])),
    )
    matrix = sp.csr_array(sp.kron(sp.eye_array(shape[0]), one, format="csr"))
    return matrix, (shape[0], *windows.output_shape)


def convolution_norm(
    kernel: Any,
    input_shape: Sequence[int],
    *,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
    padding_mode: str = "zeros",
    method: str = "auto",
) -> float:
    """Return a proved upper bound of the spectral norm of a convolution.

    Parameters
    ----------
    kernel : array-like of shape (c_out, c_in / groups, k_1, ..., k_d)
        Weights.
    input_shape : sequence of int
        (c_in, n_1, ..., n_d).
    stride : int or sequence of int, default=1
        For all dimensions, or one for each.
    padding : int, sequence of int or of pairs, or {"valid", "same"}, default=0
        Added at both ends; a pair: (before, after).
    dilation : int or sequence of int, default=1
        Distance of the taps.
    groups : int, default=1
        Blocks of channels that do not mix.
    padding_mode : {"zeros", "circular", "reflect", "replicate"}, default="zeros"
        What the padding holds.
    method : {"auto", "matrix", "fourier"}, default="auto"
        ``"matrix"``: the norm of the matrix itself, within about 1e-12 relative; its shorter
        side must be small (cost: its cube). ``"fourier"``: the norm of the circular convolution
        on a grid of n + k - 1 places, which the convolution is a part of: never below the norm,
        and the closer the larger the image is against the kernel; for zero and circular padding.
        ``"auto"``: the first up to 400 rows or columns, else the second.

    Returns
    -------
    float
        At least the norm, rounding included. The norm of the transposed convolution is the same.

    Notes
    -----
    On the circular grid the convolution is a matrix of order c_out times c_in for each frequency
    [1]_, with stride s one of c_out times c_in sᵈ for each set of aliases. Their norms are bounded
    by repeated squaring of the Gram matrices, λ_max(G) ≤ ‖G^m‖_F^(1/m) [2]_, at first for all
    frequencies, then for those that may still be the largest. Cost for each squaring:
    min(c_out, c_in sᵈ)³ times the frequencies that are left; about 10 to 30 squarings.

    References
    ----------
    .. [1] H. Sedghi, V. Gupta, P. M. Long, "The singular values of convolutional layers",
       ICLR 2019.
    .. [2] B. Delattre, Q. Barthélemy, A. Araujo, A. Allauzen, "Efficient bound of Lipschitz
       constant for convolutional layers by Gram iteration", ICML 2023.

    Examples
    --------
    >>> import numpy as np
    >>> from lowrank_opt.lipschitz import convolution_norm
    >>> mean = np.full((1, 1, 3, 3), 1 / 9)
    >>> round(convolution_norm(mean, (1, 100, 100), padding=1), 6)
    1.0
    """
    K, shape, d = _checked(kernel, input_shape, groups)
    steps, gaps = each("stride", stride, d, 1), each("dilation", dilation, d, 1)
    if method not in ("auto", "matrix", "fourier"):
        raise ParameterError(f"method={method!r} must be 'auto', 'matrix' or 'fourier'")
    pads = paddings(padding, K.shape[2:], gaps, steps)
    options: dict[str, Any] = {"padding": pads, "dilation": gaps, "padding_mode": padding_mode}
    if method != "fourier":
        out = windows_of(shape[1:], K.shape[2:], steps, pads, gaps, padding_mode).output_shape
        sides = [shape[0] * math.prod(shape[1:]) // groups, K.shape[0] * math.prod(out) // groups]
        small = min(sides) <= _DENSE_LIMIT and math.prod(sides) <= _DENSE_SIZE
        if method == "matrix" or small:
            blocks = np.split(K, groups)
            part = (shape[0] // groups, *shape[1:])
            return max(
                _matrix_norm(convolution_matrix(block, part, stride=steps, **options)[0])
                for block in blocks
            )
    if padding_mode not in ("zeros", "circular"):
        raise ProblemError(
            f"padding_mode={padding_mode!r}: a bound over frequencies needs 'zeros' or 'circular'; "
            "use method='matrix'"
        )
    # A circular grid with more outputs than one turn would have some twice.
    if padding_mode == "circular":
        for n, p, k, g, s in zip(shape[1:], pads, K.shape[2:], gaps, steps, strict=True):
            if sum(p) > g * (k - 1) or n % s:
                raise ProblemError(
                    "padding: circular padding of more than k - 1, or a stride that does not "
                    "divide the input, is no circular convolution; use method='matrix'"
                )
    circular = padding_mode == "circular"
    return max(
        _fourier_norm(block, shape[1:], steps, gaps, circular) for block in np.split(K, groups)
    )


def _matrix_norm(matrix: sp.csr_array) -> float:
    return norm_upper(matrix.toarray())


def _fourier_norm(
    K: Values, sizes: tuple[int, ...], steps: tuple[int, ...], gaps: tuple[int, ...], circular: bool
) -> float:
    """Bound of one group over all frequencies."""
    top = float(np.abs(K).max())
    if top == 0.0:
        return 0.0
    unit = 2.0 ** round(math.log2(top))
    H: Any = K / unit
    # Every dimension in turn: taps become frequencies, or channels where windows do not overlap.
    aliases, grid = [], []
    for axis, (n, s, g) in enumerate(zip(sizes, steps, gaps, strict=True)):
        k = K.shape[2 + axis]
        if s >= g * (k - 1) + 1 and not circular:
            grid.append((1, k))  # the taps stay as k blocks of columns
            aliases.append(k)
            continue
        places = n if circular else -(-(n + g * (k - 1)) // s) * s
        # Exact reduction of the angle, so that each factor is right to a few ulps.
        turn = np.outer(np.arange(k) * g, np.arange(places)) % places
        wave = np.exp(-2j * np.pi * (turn / places)) / math.sqrt(s)
        H = np.moveaxis(np.tensordot(H, wave, axes=(2 + axis, 0)), -1, 2 + axis)
        grid.append((places // s, s))  # frequency = alias * (places / s) + base
        aliases.append(s)
    c_out, c_in = K.shape[:2]
    # Axes: (out, in, alias_1, base_1, ...); the non-overlapping ones have base 1.
    split = [size for base, alias in grid for size in (alias, base)]
    H = H.reshape(c_out, c_in, *split)
    d = len(grid)
    order = [3 + 2 * a for a in range(d)] + [0, 1] + [2 + 2 * a for a in range(d)]
    bases = math.prod(b for b, _ in grid)
    H = np.ascontiguousarray(H.transpose(order)).reshape(bases, c_out, -1)
    if d and grid[-1][0] > 2:  # real kernels: opposite frequencies have equal norms
        last = grid[-1][0]
        H = H.reshape(-1, last, *H.shape[1:])[:, : last // 2 + 1].reshape(-1, *H.shape[1:])
    # Entries are off by a few gamma of the sums of |K| over taps; aliases share that between them.
    taps = sum(K.shape[2:]) + 16
    sums = np.abs(K / unit).reshape(c_out, c_in, -1).sum(axis=-1)
    error = 4.0 * gamma(2 * taps) * float(np.sqrt((sums * sums).sum()))
    value = math.sqrt(_gram_bound(H)) * (1.0 + 4.0 * UNIT) + error
    return value * unit * (1.0 + 4.0 * UNIT)


def _gram_bound(H: Any) -> float:
    """Bound the largest eigenvalue of H Hᴴ over a stack of matrices, by repeated squaring."""
    if H.shape[1] > H.shape[2]:
        H = np.conj(np.swapaxes(H, 1, 2))
    n, m = H.shape[1:]
    G, traces = _hermitian(H, np.conj(np.swapaxes(H, 1, 2))), (np.abs(H) ** 2).sum(axis=(1, 2))
    slack0 = 4.0 * gamma(m + 8) * traces
    # Squared matrices are scaled to about one; the bound of step j from that of step j + 1 is
    # λ_j <= sqrt(scale λ_{j+1} + error): the product of step j is off by gamma ‖G_j‖_F².
    steps: list[tuple[Any, Any]] = []
    best = np.full(len(G), np.inf)
    left = np.arange(len(G))
    scale0 = np.maximum(np.exp2(np.round(np.log2(np.maximum(traces, 1e-290)))), 1e-290)
    G = G / scale0[:, None, None]
    for _ in range(_MAX_SQUARINGS):
        squares = (np.abs(G) ** 2).sum(axis=(1, 2)) * (1.0 + gamma(2 * n * n + 8)) + 1e-300
        trace = np.abs(np.trace(G, axis1=1, axis2=2))
        upper, lower = np.sqrt(squares) * (1.0 + 4.0 * UNIT), squares / np.maximum(trace, 1e-300)
        for c, e in reversed(steps):
            upper = np.sqrt(c * upper + e) * (1.0 + 4.0 * UNIT)
            lower = np.sqrt(c * lower)
        best[left] = np.minimum(best[left], (upper * scale0[left] + slack0[left]) * (1 + 4 * UNIT))
        floor = float((lower * scale0[left]).max())
        if best.max() <= floor * (1.0 + _TIGHT):
            break
        keep = best[left] > floor
        left, G, squares = left[keep], G[keep], squares[keep]
        steps = [(c[keep], e[keep]) for c, e in steps]
        P = _hermitian(G, G)
        size = np.exp2(np.round(np.log2(np.maximum(squares, 1e-290))))
        steps.append((size, 4.0 * gamma(n + 8) * squares))
        G = P / size[:, None, None]
    return float(best.max())


def _hermitian(A: Any, B: Any) -> Any:
    """Return the Hermitian part of A B, exactly Hermitian."""
    P = A @ B
    return 0.5 * (P + np.conj(np.swapaxes(P, 1, 2)))


def _checked(
    kernel: Any, input_shape: Sequence[int], groups: int
) -> tuple[Values, tuple[int, ...], int]:
    K = np.asarray(kernel)
    if K.dtype.kind not in "fiub":
        raise ProblemTypeError(f"kernel has dtype {K.dtype}; expected real numbers")
    K = K.astype(np.float64)
    shape = tuple(int(n) for n in input_shape)
    if K.ndim < 3 or len(shape) != K.ndim - 1 or 0 in K.shape or min(shape) < 1:
        raise ProblemError(
            f"input_shape={shape} does not fit a kernel of shape {K.shape}: expected "
            "(c_in, n_1, ..., n_d) and (c_out, c_in / groups, k_1, ..., k_d)"
        )
    if not np.all(np.isfinite(K)):
        raise ProblemError("kernel has entries that are NaN or infinite")
    if groups < 1 or shape[0] != K.shape[1] * groups or K.shape[0] % groups:
        raise ProblemError(
            f"kernel of shape {K.shape} with groups={groups} needs {K.shape[1] * groups} input "
            f"channels and outputs in {groups} equal groups; input_shape={shape}"
        )
    return K, shape, K.ndim - 2
