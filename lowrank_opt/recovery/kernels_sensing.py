"""Kernels of measured losses: residual, slope and adjoint in one pass over the data.

With errors ``e = A(U Vᵀ) - y``, every function here returns the mean loss and products of
``Q = (1/N) Σ w ψ(e) A_i``. The slope ψ is chosen by a number: `L1` the sign (0 at 0), `SQUARED`
the error, `CLIPPED` the error cut off at ±delta.

The kernels work on chunks or rows ``lo … hi-1`` and write to places of their own, which are added
up afterwards in a fixed order: one and many threads give the same bits. Vectors and matrices are
padded with zeros to whole vector registers (:func:`padded`).
"""

from __future__ import annotations

import itertools
import math
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from lowrank_opt.numerics.kernels_vector import (
    _I32,
    _call,
    _element,
    _fma,
    _indexed_rows,
    _lanes,
    _load,
    _loop,
    _shuffle,
    _splat,
    _store,
    _zero,
    aligned_empty,
    aligned_zeros,
    axpy8,
    copy_row,
    dots8,
    keep_apart,
    lanes_of,
    prefetch_row,
    row_axpy8,
    row_dots8,
    vector_length,
)
from lowrank_opt.recovery.kernels import _run, _thread_count

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "CLIPPED",
    "L1",
    "SQUARED",
    "dense_pass",
    "entry_pass",
    "padded",
    "predict_entries",
    "rank_one_pass",
]

L1, SQUARED, CLIPPED = 0, 1, 2

# Measurements whose sum is accumulated in the data's own precision, and the unit of parallel work.
_CHUNK = 512
# The rows that are read twice, and as many that are fetched ahead, should fit the L2 cache.
_EIGHT_ROWS, _FOUR_ROWS = 128 * 1024, 512 * 1024
# Measurements of this size may lie in the last cache, and need not be fetched ahead.
_CACHED = 16 * 1024 * 1024
_FAST = {"reassoc", "contract", "arcp"}
_TASKS_PER_THREAD = 4
# Numbers and entries here that take the time of one entry of a row solve: threads pay from some
# twenty thousand of these on.
_NUMBERS, _ENTRIES = 50, 10
# From this number of threads on, two passes over the entries in parallel beat a single one.
_TWO_PASSES = 3


# --------------------------------------------------------------------------------------------
# Long rows
# --------------------------------------------------------------------------------------------


def _row_pointers(context, builder, F, f_value, first, count):
    array = context.make_array(F)(context, builder, f_value)
    width = cgutils.unpack_tuple(builder, array.shape, 2)[1]
    pointer = _element(builder, context, F, f_value)
    return [
        builder.gep(pointer, [builder.mul(builder.add(first, ir.Constant(first.type, s)), width)])
        for s in range(count)
    ]


def _lane_sum(builder, total):
    while total.type.count > 1:
        half = total.type.count // 2
        total = builder.fadd(
            _shuffle(builder, total, total, range(half)),
            _shuffle(builder, total, total, range(half, 2 * half)),
        )
    return builder.extract_element(total, ir.Constant(_I32, 0))


def _splats(builder, factors, scalar, vector, count=8):
    """Return vectors that are filled with each of the numbers at ``factors``."""
    places = [ir.Constant(ir.IntType(64), s) for s in range(count)]
    return [
        _splat(builder, _load(builder, factors, place, scalar), vector.count) for place in places
    ]


def _fetch(builder, rows, place):
    """Ask for one vector of each row, to be put into the L2 cache."""
    byte = ir.IntType(8).as_pointer()
    function = cgutils.get_or_insert_function(
        builder.module,
        ir.FunctionType(ir.VoidType(), [byte, _I32, _I32, _I32]),
        f"llvm.prefetch.{byte.intrinsic_name}",
    )
    for row in rows:
        line = builder.bitcast(builder.gep(row, [place]), byte)
        builder.call(function, [line, *(ir.Constant(_I32, flag) for flag in (0, 2, 1))])


def _dots_intrinsic(count):
    """Make ``out[s] = G[first+s] · p`` for s < count; fetches the first half of the next rows."""

    def dots(typingctx, G, first, p, vectors, out):
        signature = types.void(G, types.intp, p, types.intp, out)

        def codegen(context, builder, signature, args):
            rows = _row_pointers(context, builder, G, args[0], args[1], 2 * count)
            rows, following = rows[:count], rows[count : count + count // 2]
            vector = ir.VectorType(context.get_data_type(G.dtype), _lanes(G.dtype))
            point = _element(builder, context, p, args[2])

            def body(index, sums):
                place = builder.mul(index, ir.Constant(index.type, vector.count))
                value = _load(builder, point, place, vector)
                new = [
                    _fma(builder, _load(builder, row, place, vector), value, partial)
                    for row, partial in zip(rows, sums, strict=True)
                ]
                _fetch(builder, following, place)
                return new

            sums = _loop(builder, args[3], [_zero(vector)] * count, body)
            target = _element(builder, context, out, args[4])
            for s, total in enumerate(sums):
                _store(builder, _lane_sum(builder, total), target, ir.Constant(args[1].type, s))
            return context.get_dummy_value()

        return signature, codegen

    return intrinsic(dots)


def _axpy_intrinsic(count):
    """Make ``acc += Σ factors[s] G[first+s]`` for s < count; fetches the other half.

    All these rows are in the cache by then, and the memory would idle.
    """

    def axpy(typingctx, G, first, factors, acc, vectors):
        signature = types.void(G, types.intp, factors, acc, types.intp)

        def codegen(context, builder, signature, args):
            rows = _row_pointers(context, builder, G, args[0], args[1], 2 * count)
            rows, following = rows[:count], rows[count + count // 2 :]
            scalar = context.get_data_type(G.dtype)
            vector = ir.VectorType(scalar, _lanes(G.dtype))
            source = _element(builder, context, factors, args[2])
            splats = _splats(builder, source, scalar, vector, count)
            target = _element(builder, context, acc, args[3])

            def body(index, carried):
                place = builder.mul(index, ir.Constant(index.type, vector.count))
                sums = [_load(builder, target, place, vector), _zero(vector)]
                for s, row in enumerate(rows):
                    sums[s % 2] = _fma(
                        builder, splats[s], _load(builder, row, place, vector), sums[s % 2]
                    )
                _fetch(builder, following, place)
                _store(builder, builder.fadd(*sums), target, place)
                return []

            _loop(builder, args[4], [], body)
            return context.get_dummy_value()

        return signature, codegen

    return intrinsic(axpy)


@intrinsic
def _signs8(typingctx, w8, y, first):
    """Replace 8 predictions by the signs of ``w8 - y[first:]``; return the sum of the sizes.

    The sign of 0 and of NaN is 0. Without branches, which would be mispredicted half of the time.
    """
    signature = types.float64(w8, y, types.intp)

    def codegen(context, builder, signature, args):
        scalar = context.get_data_type(w8.dtype)
        vector, bytes8 = ir.VectorType(scalar, 8), ir.VectorType(ir.IntType(8), 8)
        start = ir.Constant(args[2].type, 0)
        predictions = _element(builder, context, w8, args[0])
        data = _load(builder, _element(builder, context, y, args[1]), args[2], vector)
        errors = builder.fsub(_load(builder, predictions, start, vector), data)
        above = builder.fcmp_ordered(">", errors, _zero(vector))
        below = builder.fcmp_ordered("<", errors, _zero(vector))
        sign = builder.sub(builder.zext(above, bytes8), builder.zext(below, bytes8))
        _store(builder, builder.sitofp(sign, vector), predictions, start)
        sizes = _call(builder, "fabs", errors)
        if not isinstance(scalar, ir.DoubleType):
            sizes = builder.fpext(sizes, ir.VectorType(ir.DoubleType(), 8))
        return _lane_sum(builder, sizes)

    return signature, codegen


@intrinsic
def _scatter8(typingctx, F, indices, start, last, column, factors, p, vectors):
    """Set ``F[indices[min(start+s, last)], column:] += factors[s] p``, s = 0…7 in this order."""
    signature = types.void(
        F, indices, types.intp, types.intp, types.intp, factors, p, types.intp
    )  # fmt: skip

    def codegen(context, builder, signature, args):
        rows = _indexed_rows(context, builder, F, args[0], indices, args[1], args[2], args[3])
        rows = [builder.gep(row, [args[4]]) for row in rows]
        scalar = context.get_data_type(F.dtype)
        vector = ir.VectorType(scalar, _lanes(F.dtype))
        splats = _splats(builder, _element(builder, context, factors, args[5]), scalar, vector)
        source = _element(builder, context, p, args[6])

        def body(index, carried):
            place = builder.mul(index, ir.Constant(index.type, vector.count))
            value = _load(builder, source, place, vector)
            for factor, row in zip(splats, rows, strict=True):
                total = _fma(builder, factor, value, _load(builder, row, place, vector))
                _store(builder, total, row, place)
            return []

        _loop(builder, args[7], [], body)
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def _ordered_axpy8(typingctx, F, indices, start, last, factors, acc, vectors):
    """Add ``factors[s] F[indices[min(start+s, last)]]`` to ``acc``, s = 0…7 one after the other.

    The order of `_scatter8`, hence the same bits.
    """
    signature = types.void(F, indices, types.intp, types.intp, factors, acc, types.intp)

    def codegen(context, builder, signature, args):
        rows = _indexed_rows(context, builder, F, args[0], indices, args[1], args[2], args[3])
        scalar = context.get_data_type(F.dtype)
        vector = ir.VectorType(scalar, _lanes(F.dtype))
        splats = _splats(builder, _element(builder, context, factors, args[4]), scalar, vector)
        target = _element(builder, context, acc, args[5])

        def body(index, carried):
            place = builder.mul(index, ir.Constant(index.type, vector.count))
            total = _load(builder, target, place, vector)
            for factor, row in zip(splats, rows, strict=True):
                total = _fma(builder, factor, _load(builder, row, place, vector), total)
            _store(builder, total, target, place)
            return []

        _loop(builder, args[6], [], body)
        return context.get_dummy_value()

    return signature, codegen


_dots_8, _dots_4, _dots_2, _dots_1 = (_dots_intrinsic(count) for count in (8, 4, 2, 1))
_axpy_8, _axpy_4, _axpy_2, _axpy_1 = (_axpy_intrinsic(count) for count in (8, 4, 2, 1))


# --------------------------------------------------------------------------------------------
# Compiled kernels
# --------------------------------------------------------------------------------------------


@njit(cache=True, error_model="numpy", fastmath=_FAST)
def _slopes(w8, live, y, first, loss, delta):
    """Turn predictions into slopes; return the sums of ρ(e), of w = ψ(e)/e and of w y².

    The last two for CLIPPED only, with ``delta > 0``.
    """
    value = 0.0
    mass = 0.0
    scale = 0.0
    if loss == L1:
        for s in range(live):
            e = w8[s] - y[first + s]
            value += abs(np.float64(e))
            w8[s] = np.sign(e)
    elif loss == SQUARED:
        for s in range(live):
            e = w8[s] - y[first + s]
            value += np.float64(e) * np.float64(e)
            w8[s] = e
    else:
        for s in range(live):
            target = np.float64(y[first + s])
            e = np.float64(w8[s]) - target
            size = abs(e)
            w = delta / max(size, delta)
            value += size
            mass += w
            scale += w * target * target
            w8[s] = w * e
    return value, mass, scale


@njit(cache=True, error_model="numpy", fastmath=_FAST)
def _weighted_slopes(w8, live, y, weights, first, loss, delta):
    """Like :func:`_slopes` with weights in the sums; the slopes get no weight."""
    value = 0.0
    mass = 0.0
    scale = 0.0
    for s in range(live):
        target = np.float64(y[first + s])
        weight = np.float64(weights[first + s])
        e = np.float64(w8[s]) - target
        size = abs(e)
        value += weight * (size * size if loss == SQUARED else size)
        if loss == CLIPPED:
            w = delta / max(size, delta)
            mass += weight * w
            scale += weight * w * target * target
            w8[s] = w * e
        elif loss == SQUARED:
            w8[s] = e
        else:
            w8[s] = np.sign(e)
    return value, mass, scale


@njit(cache=True, error_model="numpy", fastmath=_FAST)
def _square_sum(w8):
    total = 0.0
    for s in range(8):
        total += np.float64(w8[s]) * np.float64(w8[s])
    return total


@njit(cache=True, error_model="numpy", nogil=True)
def fused_dense(lo, hi, A, y, x, rows, ahead, loss, delta, sums, stats, w8):
    """Set ``sums[c] = Σ ψ(e_i) A_i`` over the measurements i of each chunk c in ``lo … hi-1``.

    `A` (N, width) C order, `y` (N,), `x` (width,), all of one dtype; `rows` 8, 4 or 2: read at a
    time, twice, the second time from the cache; `ahead` says to fetch the next ones meanwhile;
    `sums` (chunks, width) of that dtype; `stats` (chunks, 3) float64 gets the sums of ρ(e), of
    w = ψ(e)/e and of w y² (the last two for CLIPPED only); `w8` (8,) work space.

    Cost: 4 N width flops, one pass over `A`.
    """
    keep_apart()
    vectors = A.shape[1] // lanes_of(A)
    size = A.shape[0]
    for c in range(lo, hi):
        acc = sums[c]
        acc[:] = 0
        value = 0.0
        mass = 0.0
        scale = 0.0
        i = c * _CHUNK
        stop = min(i + _CHUNK, size)
        while i < stop:
            live = rows if i + rows <= stop else 1
            if live == 8 and not ahead:
                row_dots8(A, i, 0, x, vectors, w8)
            elif live == 8:
                _dots_8(A, i, x, vectors, w8)
            elif live == 4:
                _dots_4(A, i, x, vectors, w8)
            elif live == 2:
                _dots_2(A, i, x, vectors, w8)
            else:
                _dots_1(A, i, x, vectors, w8)
            v, m, t = _slopes(w8, live, y, i, loss, delta)
            value += v
            mass += m
            scale += t
            if live == 8 and not ahead:
                row_axpy8(A, i, 0, w8, acc, vectors)
            elif live == 8:
                _axpy_8(A, i, w8, acc, vectors)
            elif live == 4:
                _axpy_4(A, i, w8, acc, vectors)
            elif live == 2:
                _axpy_2(A, i, w8, acc, vectors)
            else:
                _axpy_1(A, i, w8, acc, vectors)
            i += live
        stats[c, 0] = value
        stats[c, 1] = mass
        stats[c, 2] = scale


@njit(cache=True, error_model="numpy")
def add_chunks(sums, out):
    """Set ``out = Σ_c sums[c]`` in float64, `sums` (chunks, width) of any type.

    Cost: one pass over `sums`.
    """
    out[:] = 0
    for c in range(sums.shape[0]):
        for j in range(sums.shape[1]):
            out[j] += np.float64(sums[c, j])


@njit(cache=True, error_model="numpy", nogil=True)
def fused_rank_one(
    lo, hi, A, B, y, U, V, sketch, mirror, loss, delta, left, right, sketched, mirrored, stats, work
):  # fmt: skip
    """Products of ``Σ ψ(e_i) a_i b_iᵀ`` over the measurements of each chunk in ``lo … hi-1``.

    `A` (rows, wm), `B` (rows, wn): the vectors, `rows` a multiple of 8 with zeros after the N that
    count; `y` (N,); `U` (k, wm), `V` (k, wn) the factors' columns as rows; `sketch` (s, rows) and
    `mirror` (t, rows) the inner products of all b_i and of all a_i with more vectors. Sets `left`
    (chunks, k, wm) to the sums of ψ(e_i) (b_i·v) a_i, `right` (chunks, k, wn) to those of
    ψ(e_i) (a_i·u) b_i, `sketched` (chunks, s, wm) and `mirrored` (chunks, t, wn) alike; an empty
    `right` says that a_i = b_i and U = V. `stats` as in :func:`fused_dense`; `work`
    ((2 k + 2) 8,).

    Cost: 4 N (m + n) k flops, 2 N (m s + n t) for the sketches, one pass over `A` and `B`.
    """
    keep_apart()
    k = U.shape[0]
    twin = right.size == 0
    vectors = A.shape[1] // lanes_of(A)
    other = B.shape[1] // lanes_of(B)
    p = work[: 8 * k].reshape(k, 8)
    q = work[8 * k : 16 * k].reshape(k, 8)
    w8 = work[16 * k : 16 * k + 8]
    f8 = work[16 * k + 8 : 16 * k + 16]
    size = len(y)
    for c in range(lo, hi):
        left[c] = 0
        sketched[c] = 0
        mirrored[c] = 0
        if not twin:
            right[c] = 0
        value = 0.0
        mass = 0.0
        scale = 0.0
        stop = min((c + 1) * _CHUNK, size)
        for i in range(c * _CHUNK, stop, 8):
            w8[:] = 0
            for r in range(k):
                row_dots8(A, i, 0, U[r], vectors, p[r])
                if twin:
                    for s in range(8):
                        q[r, s] = p[r, s]
                else:
                    row_dots8(B, i, 0, V[r], other, q[r])
                for s in range(8):
                    w8[s] += p[r, s] * q[r, s]
            live = min(8, stop - i)
            v, m, t = _slopes(w8, live, y, i, loss, delta)
            value += v
            mass += m
            scale += t
            for r in range(k):
                for s in range(8):
                    f8[s] = w8[s] * q[r, s]
                row_axpy8(A, i, 0, f8, left[c, r], vectors)
                if not twin:
                    for s in range(8):
                        f8[s] = w8[s] * p[r, s]
                    row_axpy8(B, i, 0, f8, right[c, r], other)
            for r in range(sketch.shape[0]):
                for s in range(8):
                    f8[s] = w8[s] * sketch[r, i + s]
                row_axpy8(A, i, 0, f8, sketched[c, r], vectors)
            for r in range(mirror.shape[0]):
                for s in range(8):
                    f8[s] = w8[s] * mirror[r, i + s]
                row_axpy8(B, i, 0, f8, mirrored[c, r], other)
        stats[c, 0] = value
        stats[c, 1] = mass
        stats[c, 2] = scale


@njit(cache=True, error_model="numpy", nogil=True)
def fused_entries(
    lo, hi, indptr, indices, y, weights, F, X, loss, delta, slopes, out, stats, work
):  # fmt: skip
    """Slopes at the observed entries of rows ``lo … hi-1`` and their products with the factors.

    `indptr` (m + 1,), `indices`, `y` (N,), `weights` (N,) or (0,) by rows; `X` (m, width) and `F`
    (n, width) padded factors. Sets ``out[i] = Σ w ψ(e) F_j`` and `stats` (4, m) float64: sums of
    w ρ(e), (w ψ)², w ψ(e)/e and w ψ(e)/e y² over each row, the last two for CLIPPED only. A `F` of
    shape (n, 2 width) gets ``F[j, width:] += Σ w ψ(e) X_i``, too, which only one thread may do;
    otherwise and for symmetric problems `slopes` (N,), if not empty, gets ψ(e) without the weight
    (int8 will do for L1). `work` (_,) at least width + 16.

    Cost: 4 k flops and a random factor row an entry, 6 k with both products.
    """
    keep_apart()
    width = X.shape[1]
    vectors = width // lanes_of(X)
    both = F.shape[1] > width
    keep = len(slopes) > 0
    p = work[:width]
    w8 = work[width : width + 8]
    y8 = work[width + 8 : width + 16]
    weighted = len(weights) > 0
    fast = loss == L1 and not weighted
    last = len(indices) - 1
    for i in range(lo, hi):
        stop = indptr[i + 1]
        copy_row(X, i * width, p, 0, vectors)
        acc = out[i]
        acc[:] = 0
        value = 0.0
        square = 0.0
        mass = 0.0
        scale = 0.0
        for e in range(indptr[i], stop, 8):
            for s in range(e + 8, min(e + 16, last)):
                prefetch_row(F, indices[s])
            dots8(F, indices, e, stop - 1, p, vectors, w8)
            live = min(8, stop - e)
            if fast and live == 8:
                value += _signs8(w8, y, e)
            elif fast:
                for s in range(8):
                    y8[s] = w8[s]
                for s in range(live):
                    y8[s] = y[e + s]
                value += _signs8(w8, y8, 0)
            else:
                if weighted:
                    v, m, t = _weighted_slopes(w8, live, y, weights, e, loss, delta)
                elif live == 8:  # a constant count makes a loop of vectors
                    v, m, t = _slopes(w8, 8, y, e, loss, delta)
                else:
                    v, m, t = _slopes(w8, live, y, e, loss, delta)
                value += v
                mass += m
                scale += t
                for s in range(live, 8):
                    w8[s] = 0
            if keep:
                for s in range(live):
                    slopes[e + s] = w8[s]
            if weighted:
                for s in range(live):
                    w8[s] *= weights[e + s]
            square += _square_sum(w8)
            axpy8(F, indices, e, stop - 1, w8, acc, vectors)
            if both:
                _scatter8(F, indices, e, stop - 1, width, w8, p, vectors)
        stats[0, i] = value
        stats[1, i] = square
        stats[2, i] = mass
        stats[3, i] = scale


@njit(cache=True, error_model="numpy", nogil=True)
def entry_values(lo, hi, indptr, indices, F, X, out, work):
    """``out[e] = X_i·F_j`` at the entries of rows ``lo … hi-1``; layout as `fused_entries`.

    Cost: 2 k flops and a random factor row an entry.
    """
    keep_apart()
    width = F.shape[1]
    vectors = width // lanes_of(F)
    p = work[:width]
    w8 = work[width : width + 8]
    last = len(indices) - 1
    for i in range(lo, hi):
        stop = indptr[i + 1]
        copy_row(X, i * width, p, 0, vectors)
        for e in range(indptr[i], stop, 8):
            for s in range(e + 8, min(e + 16, last)):
                prefetch_row(F, indices[s])
            dots8(F, indices, e, stop - 1, p, vectors, w8)
            for s in range(min(8, stop - e)):
                out[e + s] = w8[s]


@njit(cache=True, error_model="numpy", nogil=True)
def column_products(lo, hi, indptr, indices, perm, weights, slopes, F, out, work):
    """``out[j] = Σ w ψ F_i`` over the entries of columns ``lo … hi-1``.

    `indptr` (n + 1,), `indices` (N,), `weights` (N,) or (0,) by columns; ``slopes[perm[q]]`` is ψ
    of the entry at position q by columns; `F` (m, width), `out` (n, width) padded.

    Cost: 2 k flops, a random factor row and a random slope an entry.
    """
    keep_apart()
    vectors = F.shape[1] // lanes_of(F)
    w8 = work[:8]
    weighted = len(weights) > 0
    last = len(indices) - 1
    for j in range(lo, hi):
        stop = indptr[j + 1]
        acc = out[j]
        acc[:] = 0
        for e in range(indptr[j], stop, 8):
            for s in range(e + 8, min(e + 16, last)):
                prefetch_row(F, indices[s])
            live = min(8, stop - e)
            if live == 8:
                for s in range(8):
                    w8[s] = slopes[perm[e + s]]
            else:
                for s in range(live):
                    w8[s] = slopes[perm[e + s]]
            if weighted:
                for s in range(live):
                    w8[s] *= weights[e + s]
            for s in range(live, 8):
                w8[s] = 0
            _ordered_axpy8(F, indices, e, stop - 1, w8, acc, vectors)


@njit(cache=True, error_model="numpy")
def mirror_product(
    indptr, indices, weights, csc_indptr, csc_indices, csc_weights, perm, slopes
):  # fmt: skip
    """``⟨Q, Qᵀ⟩`` of the square sparse matrix with values w ψ: sum over pairs (i, j), (j, i).

    Layout as in :func:`fused_entries` and :func:`column_products`. Row i of Qᵀ is column i of Q,
    and both are sorted.

    Cost: one merge of the two orders.
    """
    total = 0.0
    for i in range(len(indptr) - 1):
        p = indptr[i]
        q = csc_indptr[i]
        while p < indptr[i + 1] and q < csc_indptr[i + 1]:
            if indices[p] < csc_indices[q]:
                p += 1
            elif indices[p] > csc_indices[q]:
                q += 1
            else:
                term = np.float64(slopes[p]) * np.float64(slopes[perm[q]])
                if len(weights) > 0:
                    term *= np.float64(weights[p]) * np.float64(csc_weights[q])
                total += term
                p += 1
                q += 1
    return total


# --------------------------------------------------------------------------------------------
# Interface
# --------------------------------------------------------------------------------------------


def padded(array: np.ndarray, dtype: np.typing.DTypeLike, rows: int | None = None) -> np.ndarray:
    """Return a copy whose last axis has whole vector registers, filled up with zeros.

    Parameters
    ----------
    array : ndarray of shape (n,) or (m, n)
        Any real type.
    dtype : dtype
        ``float32`` or ``float64``.
    rows : int or None, default=None
        First axis of a copy of two dimensions; ``None``: as it is.

    Returns
    -------
    ndarray
        C order, 64-byte aligned.
    """
    length = vector_length(dtype)
    width = length * -(-array.shape[-1] // length)
    if array.ndim == 1:
        out = aligned_zeros(width, dtype)
        out[: array.size] = array
        return out
    out = aligned_zeros((array.shape[0] if rows is None else rows, width), dtype)
    out[: array.shape[0], : array.shape[1]] = array
    return out


def _each_chunk(kernel, n_chunks, arguments, work, threads):
    """Call a kernel on all chunks, by several threads when there is enough to do."""
    if threads == 1 or n_chunks == 1:
        kernel(0, n_chunks, *arguments, work[0])
        return
    tasks = min(n_chunks, _TASKS_PER_THREAD * threads)
    bounds = np.linspace(0, n_chunks, tasks + 1).astype(np.int64)
    ranges = deque(itertools.pairwise(bounds.tolist()))

    def consume(own_work):
        while True:
            try:
                lo, hi = ranges.popleft()
            except IndexError:
                return
            kernel(lo, hi, *arguments, own_work)

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(consume, work[:threads]))


def _mean(column: np.ndarray, size: int) -> float:
    return math.fsum(column) / size


def dense_pass(
    A: np.ndarray,
    y: np.ndarray,
    x: np.ndarray,
    loss: int,
    *,
    delta: float = 1.0,
    n_threads: int | None = 1,
) -> tuple[np.ndarray, float, float, float]:
    """Mean loss and slope of dense measurements, in one pass over `A`.

    Parameters
    ----------
    A : ndarray of shape (N, width)
        Measurement matrices as rows, C order, `width` whole vector registers.
    y : ndarray of shape (N,)
        Data.
    x : ndarray of shape (width,)
        The point's entries, zero in the padding.
    loss : int
        L1, SQUARED or CLIPPED.
    delta : float, default=1.0
        Where CLIPPED cuts off, positive.
    n_threads : int or None, default=1
        Threads; ``None``: numba's setting.

    Returns
    -------
    slope : ndarray of shape (width,)
        ``(1/N) Σ ψ(e_i) A_i``, float64.
    value, mass, scale : float
        Means of ρ(e), and for CLIPPED of w = ψ(e)/e and of w y².

    Notes
    -----
    Cost: ``4·N·width`` flops, ``N·width`` numbers read once from memory.
    """
    size, width = A.shape
    n_chunks = -(-size // _CHUNK)
    sums, stats = np.empty((n_chunks, width), A.dtype), np.empty((n_chunks, 3))
    bytes_a_row = width * A.itemsize
    rows = 8 if bytes_a_row <= _EIGHT_ROWS else 4 if bytes_a_row <= _FOUR_ROWS else 2
    threads = _thread_count(n_threads, A.size // _NUMBERS)
    work = np.zeros((threads, 128 // A.itemsize), A.dtype)
    arguments = (A, y, x, rows, A.nbytes > _CACHED, loss, float(delta), sums, stats)
    _each_chunk(fused_dense, n_chunks, arguments, work, threads)
    slope = np.empty(width)
    add_chunks(sums, slope)
    slope /= size
    return slope, _mean(stats[:, 0], size), _mean(stats[:, 1], size), _mean(stats[:, 2], size)


def rank_one_pass(
    A: np.ndarray,
    B: np.ndarray,
    y: np.ndarray,
    U: np.ndarray,
    V: np.ndarray,
    loss: int,
    *,
    twin: bool = False,
    sketch: np.ndarray | None = None,
    mirror: np.ndarray | None = None,
    delta: float = 1.0,
    n_threads: int | None = 1,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, float, float, float]:
    """Mean loss and slope products of rank-one measurements, in one pass.

    Parameters
    ----------
    A, B : ndarray of shape (rows, wm) and (rows, wn)
        The vectors, padded; `rows` a multiple of 8.
    y : ndarray of shape (N,)
        Data.
    U, V : ndarray of shape (m, k) and (n, k)
        The point.
    loss : int
        L1, SQUARED or CLIPPED.
    twin : bool, default=False
        Whether `A` is `B` and `U` is `V`: half of the work.
    sketch : ndarray of shape (s, rows) or None, default=None
        Inner products of the b_i with further vectors, whose products with Q are returned, too.
    mirror : ndarray of shape (t, rows) or None, default=None
        Inner products of the a_i with further vectors, for products with Qᵀ.
    delta : float, default=1.0
        Where CLIPPED cuts off, positive.
    n_threads : int or None, default=1
        Threads; ``None``: numba's setting.

    Returns
    -------
    left, right, sketched, mirrored : ndarray of shape (m, k), (n, k), (m, s), (n, t)
        ``Q V``, ``Qᵀ U`` and the products of Q and Qᵀ with the further vectors, float64.
    value, mass, scale : float
        As in :func:`dense_pass`.

    Notes
    -----
    Cost: ``4·N·(m + n)·k + 2·N·m·s`` flops, ``N·(m + n + s)`` numbers read once from memory.
    """
    dtype, size, (m, k), n = A.dtype, len(y), U.shape, len(V)
    n_chunks = -(-size // _CHUNK)
    sketch, mirror = (np.empty((0, len(A)), dtype) if F is None else F for F in (sketch, mirror))
    left = aligned_empty((n_chunks, k, A.shape[1]), dtype)
    right = aligned_empty((0 if twin else n_chunks, k, B.shape[1]), dtype)
    sketched = aligned_empty((n_chunks, len(sketch), A.shape[1]), dtype)
    mirrored = aligned_empty((n_chunks, len(mirror), B.shape[1]), dtype)
    stats = np.empty((n_chunks, 3))
    threads = _thread_count(n_threads, A.size * max(k, 1) // _NUMBERS)
    line = 128 // A.itemsize
    work = aligned_zeros((threads, line * -(-16 * (k + 1) // line)), dtype)
    factors = (padded(U.T, dtype), padded(V.T, dtype))
    arguments = (A, B, y, *factors, sketch, mirror, loss, float(delta), left, right, sketched)
    _each_chunk(fused_rank_one, n_chunks, (*arguments, mirrored, stats), work, threads)
    totals = []
    pairs = ((left, m), (left if twin else right, n), (sketched, m), (mirrored, n))
    for parts, length in pairs:
        total = np.empty(parts.shape[1] * parts.shape[2])
        add_chunks(parts.reshape(n_chunks, -1), total)
        totals.append(total.reshape(parts.shape[1:])[:, :length].T / size)
    return *totals, *(_mean(stats[:, s], size) for s in range(3))


def predict_entries(
    indptr: np.ndarray,
    indices: np.ndarray,
    U: np.ndarray,
    V: np.ndarray,
    dtype: np.typing.DTypeLike,
    *,
    n_threads: int | None = 1,
) -> np.ndarray:
    """Entries of ``U Vᵀ`` at the observed positions, by rows.

    Parameters
    ----------
    indptr, indices : ndarray of shape (m + 1,) and (N,)
        Positions by rows.
    U, V : ndarray of shape (m, k) and (n, k)
        Factors.
    dtype : dtype
        In which to compute.
    n_threads : int or None, default=1
        Threads; ``None``: numba's setting.

    Returns
    -------
    ndarray of shape (N,)

    Notes
    -----
    Cost: ``2·N·k`` flops.
    """
    F, X = padded(V, dtype), padded(U, dtype)
    out = np.empty(len(indices), dtype)
    n_threads = _thread_count(n_threads, len(indices) // _ENTRIES)
    _run(entry_values, indptr, (indices, F, X, out), F, n_threads, None)
    return out


def entry_pass(
    rows: tuple[np.ndarray, np.ndarray, np.ndarray],
    columns: tuple[np.ndarray, np.ndarray, np.ndarray],
    perm: Callable[[], np.ndarray],
    y: np.ndarray,
    U: np.ndarray,
    V: np.ndarray,
    loss: int,
    *,
    symmetric: bool = False,
    delta: float = 1.0,
    n_threads: int | None = 1,
) -> tuple[np.ndarray, np.ndarray, float, float, float, float]:
    """Mean loss and slope products of observed entries.

    Parameters
    ----------
    rows, columns : tuple of ndarray
        ``(indptr, indices, weights)`` by rows and by columns; weights may have length 0.
    perm : callable
        Returns the position by rows of each entry by columns; called when it is needed.
    y : ndarray of shape (N,)
        Data by rows.
    U, V : ndarray of shape (m, k) and (n, k)
        The point.
    loss : int
        L1, SQUARED or CLIPPED.
    symmetric : bool, default=False
        Whether the norm is that of the symmetric part.
    delta : float, default=1.0
        Where CLIPPED cuts off, positive.
    n_threads : int or None, default=1
        Threads; ``None``: numba's setting.

    Returns
    -------
    left, right : ndarray of shape (m, k) and (n, k)
        ``Q V`` and ``Qᵀ U`` in the dtype of the data.
    value, norm, mass, scale : float
        Means of w ρ(e), the Frobenius norm of Q, and for CLIPPED the means of w ψ(e)/e and
        w ψ(e)/e y².

    Notes
    -----
    One or two threads read the entries once, by rows, and add to both products; then a factor row
    and its product lie side by side in memory. More threads go over rows, then over columns, and
    keep the slopes in between: one byte an entry for the signs, a number for the others.

    Cost: ``6·N·k`` flops, one random place in memory an entry (two with more threads).
    """
    dtype, size, (m, k), n = y.dtype, len(y), U.shape, len(V)
    indptr, indices, weights = rows
    csc_indptr, csc_indices, csc_weights = columns
    threads = _thread_count(n_threads, size // _ENTRIES)
    together = threads < _TWO_PASSES
    X = padded(U, dtype)
    width = X.shape[1]
    F = aligned_zeros((n, 2 * width if together else width), dtype)
    F[:, :k] = V
    keep = symmetric or not together
    slopes = np.empty(size if keep else 0, np.int8 if loss == L1 else dtype)
    left, stats = aligned_empty(X.shape, dtype), np.empty((4, m))
    arguments = (indices, y, weights, F, X, loss, float(delta), slopes, left, stats)
    _run(fused_entries, indptr, arguments, X, 1 if together else threads, None)
    if together:
        right = F[:, width:]
    else:
        right = F
        arguments = (csc_indices, perm(), csc_weights, slopes, X, right)
        _run(column_products, csc_indptr, arguments, X, threads, None)
    left, right = (P[:, :k] / dtype.type(size) for P in (left, right))
    square = math.fsum(stats[1])
    if symmetric:
        mirrored = mirror_product(
            indptr, indices, weights, csc_indptr, csc_indices, csc_weights, perm(), slopes
        )
        square = 0.5 * (square + mirrored)
    value, mass, scale = (_mean(stats[s], size) for s in (0, 2, 3))
    return left, right, value, math.sqrt(max(square, 0.0)) / size, mass, scale
