"""Kernels of stochastic gradient descent on the factors: block grid, updates, gradient.

One update of entry (i, j) with residual ``e = value - p_i·q_j`` and loss gradient ``g`` is

    p_i ← (1 - η_i λ s_i) p_i + η_i w g q_j,      q_j ← (1 - η_j λ t_j) q_j + η_j w g p_i

with both right-hand sides at the old rows. It moves two rows through the registers, and a plain
numba loop reaches half the speed of the vector code that the intrinsics below emit.

Layout of a factor: C array ``(rows, width)`` with ``width`` a multiple of the vector length, the
factor in columns ``0 … rank-1``, zeros to the right. With biases the last two columns of ``P``
hold ``(bias, 1)`` and those of ``Q`` hold ``(1, bias)``, so that ``P_i·Q_j`` includes both biases;
masks keep the ones fixed. Rows and columns are in the order of the `Grid`.

Number of vectors of a row: the argument ``vectors`` of the kernels is a tuple of that length. It
carries the number in its type, so that numba compiles (and caches) one loop for each number in
use; the empty tuple stands for "any number", with a loop over the row.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from llvmlite import ir
from numba import njit, prange, types
from numba.extending import intrinsic

from lowrank_opt.numerics.kernels_vector import (
    VECTOR_BYTES,
    _element,
    _fma,
    _fnma,
    _load,
    _loop,
    _shuffle,
    _splat,
    _store,
    _zero,
)
from lowrank_opt.recovery.kernels import _mix

__all__ = [
    "Entries",
    "Grid",
    "Lanes",
    "Penalty",
    "ResidualClip",
    "fill_grid",
    "grid_entries",
    "grid_gradient",
    "make_grid",
    "make_lanes",
    "sgd_pass",
    "sgd_pass_par",
    "vectors_argument",
]

# Rows of up to this many vectors are unrolled; longer ones take a loop.
_UNROLLED = 16

_I32 = ir.IntType(32)


class ResidualClip(NamedTuple):
    """Loss by its gradient with respect to the prediction, ``-2·clip(slope·e, -limit, limit)``.

    Squared loss: (1, inf). Huber: (1, δ). Absolute: (1e30, 1/2), the sign of ``e``, halved.
    """

    slope: float
    limit: float


class Entries(NamedTuple):
    """Observed entries sorted by block, in random order inside a block.

    ``rows``, ``cols`` are positions inside the block; block ``(a, b)`` of the grid with ``B``
    column blocks is the range ``start[a·B + b] … start[a·B + b + 1]`` and covers rows
    ``row_start[a] … row_start[a+1]`` and columns ``col_start[b] … col_start[b+1]`` of the factors.
    ``weights`` is ``None`` without weights.
    """

    rows: np.ndarray
    cols: np.ndarray
    values: np.ndarray
    weights: np.ndarray | None
    start: np.ndarray
    row_start: np.ndarray
    col_start: np.ndarray


class Grid(NamedTuple):
    """Where the rows and the columns of the matrix lie in the factors, and the blocks.

    Row i of the matrix is row ``row_position[i]`` of ``P``, column j is row ``col_position[j]`` of
    ``Q``; ``row_start`` and ``col_start`` are the bounds of the blocks.
    """

    row_position: np.ndarray
    col_position: np.ndarray
    row_start: np.ndarray
    col_start: np.ndarray


class Lanes(NamedTuple):
    """The last vector of a row, where biases live.

    ``table`` is an array ``(6, vector length)`` of, for P and for Q: the ridge; a mask, all bits
    set where an update may change the column and 0 at the constant ones, whose ridge is 0 too;
    lower bounds (0 for factors, -inf for biases). ``bounded`` is ``None`` when those are unused.
    """

    table: np.ndarray
    bounded: bool | None


class Penalty(NamedTuple):
    """Ridge of one update: ``reg`` times ``row[i]``, ``col[j]``, or 1 where they are ``None``."""

    reg: float
    row: np.ndarray | None
    col: np.ndarray | None


def _deal(counts: np.ndarray, n_blocks: int) -> tuple[np.ndarray, np.ndarray]:
    """Deal rows into blocks of equal size and load: by falling count, there and back again."""
    order = np.argsort(-counts, kind="stable")
    turn, seat = np.divmod(np.arange(counts.size), n_blocks)
    block = np.where(turn % 2 == 0, seat, n_blocks - 1 - seat)
    start = np.zeros(n_blocks + 1, np.int64)
    np.cumsum(np.bincount(block, minlength=n_blocks), out=start[1:])
    position = np.empty(counts.size, np.int64)
    position[order] = start[block] + turn
    return position, start


def make_grid(
    row_counts: np.ndarray, col_counts: np.ndarray, block_rows: int, block_cols: int,
    side: int = 1,
) -> Grid:  # fmt: skip
    """Divide the matrix into blocks with about the same number of entries.

    Parameters
    ----------
    row_counts, col_counts : ndarray of int
        Observed entries of every row and column.
    block_rows, block_cols : int
        Most rows and columns of a block, 1 … 65536.
    side : int, default=1
        Number of blocks in either direction is a multiple of it; not above the numbers of rows
        and columns.

    Returns
    -------
    Grid
        It depends on the counts and sizes alone. Cost: two sorts of the counts.
    """
    sides = []
    for counts, most in ((row_counts, block_rows), (col_counts, block_cols)):
        blocks = min(side * -(-counts.size // (most * side)), side * (counts.size // side))
        sides.append(_deal(counts, blocks))
    (row_position, row_start), (col_position, col_start) = sides
    return Grid(row_position, col_position, row_start, col_start)


def grid_entries(
    indptr: np.ndarray, indices: np.ndarray, values: np.ndarray, weights: np.ndarray | None,
    offset: float, grid: Grid, seed: int,
) -> Entries:  # fmt: skip
    """Return the entries, less `offset`, sorted by block and in random order inside a block.

    Parameters
    ----------
    indptr, indices, values, weights : ndarray
        Compressed rows; ``weights`` may be ``None``.
    offset : float
        Subtracted from the values.
    grid : Grid
        From :func:`make_grid`.
    seed : int
        64 bits; the order is a function of it.

    Returns
    -------
    Entries
        8 bytes an entry in float32, 12 in float64, and as many as a value for each weight.
    """
    nnz, dtype = indices.size, values.dtype
    blocks = [
        np.searchsorted(start, position, side="right") - 1
        for start, position in (
            (grid.row_start, grid.row_position), (grid.col_start, grid.col_position)
        )
    ]  # fmt: skip
    local = [
        (position - start[block]).astype(np.uint16)
        for block, start, position in zip(
            blocks, (grid.row_start, grid.col_start), (grid.row_position, grid.col_position),
            strict=True,
        )
    ]  # fmt: skip
    n_blocks = (grid.row_start.size - 1) * (grid.col_start.size - 1)
    entries = Entries(
        np.empty(nnz, np.uint16), np.empty(nnz, np.uint16), np.empty(nnz, dtype),
        None if weights is None else np.empty(nnz, dtype),
        np.empty(n_blocks + 1, np.int64), grid.row_start, grid.col_start,
    )  # fmt: skip
    fill_grid(
        indptr, indices, values, weights, dtype.type(offset), blocks[0], local[0], blocks[1],
        local[1], entries, np.uint64(seed),
    )  # fmt: skip
    return entries


def vectors_argument(width: int, dtype: np.typing.DTypeLike) -> tuple[int, ...]:
    """Return the argument ``vectors`` for factors of ``width`` columns: a tuple of that length."""
    count = width // (VECTOR_BYTES // np.dtype(dtype).itemsize)
    return (0,) * count if count <= _UNROLLED else ()


def make_lanes(
    rank: int, biases: bool, nonnegative: bool, reg: float, reg_bias: float,
    dtype: np.typing.DTypeLike,
) -> Lanes:  # fmt: skip
    """Return the `Lanes` of factors with ``rank`` columns."""
    dtype = np.dtype(dtype)
    table = np.empty((6, VECTOR_BYTES // dtype.itemsize), dtype)
    ridge, mask, floor = table[0:2], table[2:4].view(f"i{dtype.itemsize}"), table[4:6]
    ridge[:], mask[:], floor[:] = reg, -1, 0.0
    if biases:
        for side, own, fixed in ((0, -2, -1), (1, -1, -2)):
            ridge[side, own], ridge[side, fixed], mask[side, fixed] = reg_bias, 0.0, 0
            floor[side, [own, fixed]] = -np.inf
    return Lanes(table, True if nonnegative else None)


# --------------------------------------------------------------------------------------------
# Code generation
# --------------------------------------------------------------------------------------------


def _vector_type(context, dtype):
    return ir.VectorType(context.get_data_type(dtype), VECTOR_BYTES // (dtype.bitwidth // 8))


def _row(context, builder, vectors, array_type, array, index):
    """Return a pointer to row ``index`` of a C array and its number of columns."""
    if len(vectors):
        count = len(vectors) * _vector_type(context, array_type.dtype).count
        width = ir.Constant(index.type, count)
    else:
        view = context.make_array(array_type)(context, builder, array)
        width = builder.extract_value(view.shape, 1)
    start = builder.mul(index, width)
    return builder.gep(_element(builder, context, array_type, array), [start]), width


def _over_row(builder, vectors, width, lanes, carried, body):
    """Run ``body(offset, carried, last)`` over the vectors of a row, the last one apart."""
    count = len(vectors)
    if count:
        for v in range(count):
            carried = body(ir.Constant(width.type, v * lanes), carried, v == count - 1)
        return carried
    step = ir.Constant(width.type, lanes)
    inner = builder.sub(builder.sdiv(width, step), ir.Constant(width.type, 1))
    carried = _loop(builder, inner, carried, lambda t, c: body(builder.mul(t, step), c, False))
    return body(builder.sub(width, step), carried, True)


def _sum_lanes(builder, value):
    while value.type.count > 1:
        half = value.type.count // 2
        low = _shuffle(builder, value, value, range(half))
        value = builder.fadd(low, _shuffle(builder, value, value, range(half, 2 * half)))
    return builder.extract_element(value, ir.Constant(_I32, 0))


@intrinsic
def _dot(typingctx, vectors, P, i, Q, j):
    """Return ``P[i]·Q[j]``."""
    signature = P.dtype(vectors, P, types.intp, Q, types.intp)

    def codegen(context, builder, signature, args):
        p, width = _row(context, builder, vectors, P, args[1], args[2])
        q, _ = _row(context, builder, vectors, Q, args[3], args[4])
        vector = _vector_type(context, P.dtype)

        # Two sums that take turns: half the latency of one chain of additions.
        def body(offset, sums, last):
            x = _load(builder, p, offset, vector)
            y = _load(builder, q, offset, vector)
            return [sums[1], _fma(builder, x, y, sums[0])]

        sums = _over_row(builder, vectors, width, vector.count, [_zero(vector)] * 2, body)
        return _sum_lanes(builder, builder.fadd(*sums))

    return signature, codegen


@intrinsic
def _clip(typingctx, value, limit):
    """Return ``value`` limited to ±``limit``; NaN stays NaN."""
    signature = value(value, value)

    def codegen(context, builder, signature, args):
        value, high = args
        low = builder.fneg(high)
        value = builder.select(builder.fcmp_ordered("<", value, low), low, value)
        return builder.select(builder.fcmp_ordered(">", value, high), high, value)

    return signature, codegen


@intrinsic
def _step_pair(typingctx, step, a, b):
    """Return ``(step/√a, step/√b)`` by one square root and one division of a vector of two."""
    signature = types.UniTuple(step, 2)(step, step, step)

    def codegen(context, builder, signature, args):
        step, a, b = args
        kind = ir.VectorType(a.type, 2)
        pair = ir.Constant(kind, ir.Undefined)
        for lane, value in enumerate((a, b)):
            pair = builder.insert_element(pair, value, ir.Constant(_I32, lane))
        name = "llvm.sqrt.v2" + ("f32" if isinstance(a.type, ir.FloatType) else "f64")
        function = builder.module.globals.get(name) or ir.Function(
            builder.module, ir.FunctionType(kind, [kind]), name
        )
        pair = builder.fdiv(_splat(builder, step, 2), builder.call(function, [pair]))
        parts = [builder.extract_element(pair, ir.Constant(_I32, lane)) for lane in (0, 1)]
        return context.make_tuple(builder, signature.return_type, parts)

    return signature, codegen


@intrinsic
def _update(typingctx, vectors, P, i, Q, j, step_p, step_q, shrink_p, shrink_q, reg, lanes):
    """Set ``P[i] = (1 - shrink_p·reg) P[i] + step_p Q[j]``, ``Q[j]`` likewise from the old rows."""
    t = P.dtype
    signature = types.void(vectors, P, types.intp, Q, types.intp, t, t, t, t, t, lanes)
    bounded = not isinstance(lanes.types[1], types.NoneType)

    def codegen(context, builder, signature, args):
        p, width = _row(context, builder, vectors, P, args[1], args[2])
        q, _ = _row(context, builder, vectors, Q, args[3], args[4])
        scalar = context.get_data_type(t)
        vector = _vector_type(context, t)
        count = vector.count
        bits = ir.VectorType(ir.IntType(t.bitwidth), count)
        one = ir.Constant(scalar, 1.0)
        ones = ir.Constant(vector, [1.0] * count)
        table = builder.extract_value(args[10], 0)
        table = _element(builder, context, lanes.types[0], table)

        def lane(position):
            return _load(builder, table, ir.Constant(width.type, position * count), vector)

        step_p, step_q, shrink_p, shrink_q, reg = args[5:10]
        sides = []
        for step, shrink in ((step_p, shrink_p), (step_q, shrink_q)):
            decay = builder.fsub(one, builder.fmul(shrink, reg))
            sides.append((_splat(builder, step, count), shrink, _splat(builder, decay, count)))

        def body(offset, carried, last):
            rows = (_load(builder, p, offset, vector), _load(builder, q, offset, vector))
            for side, pointer in enumerate((p, q)):
                step, shrink, decay = sides[side]
                if last:
                    decay = _fnma(builder, _splat(builder, shrink, count), lane(side), ones)
                    mask = builder.bitcast(lane(2 + side), bits)
                    step = builder.and_(builder.bitcast(step, bits), mask)
                    step = builder.bitcast(step, vector)
                new = _fma(builder, step, rows[1 - side], builder.fmul(decay, rows[side]))
                if bounded:
                    floor = lane(4 + side) if last else _zero(vector)
                    # NaN is not below the floor, so it stays.
                    below = builder.fcmp_ordered("<", new, floor)
                    new = builder.select(below, floor, new)
                _store(builder, new, pointer, offset)
            return []

        _over_row(builder, vectors, width, count, [], body)
        return context.get_dummy_value()

    return signature, codegen


# --------------------------------------------------------------------------------------------
# Passes
# --------------------------------------------------------------------------------------------


@njit(cache=True, error_model="numpy")
def _scaled(scale, index, value):
    """Return ``scale[index]·value``, or ``value`` where there is no scale."""
    if scale is None:
        return value
    return scale[index] * value


@njit(cache=True, error_model="numpy")
def _pull(product, value, weights, t, loss):
    """Weight times half the negative derivative of the loss of entry ``t``."""
    return _scaled(weights, t, _clip((value - product) * loss.slope, loss.limit))


@njit(cache=True, error_model="numpy")
def _tile(d, s, side, entries):
    """Blocks of tile s of diagonal d: first and last row of blocks, first and last column."""
    n = (entries.row_start.size - 1) // side
    m = (entries.col_start.size - 1) // side
    a = (s + d) % side
    return a * n, a * n + n, s * m, s * m + m


@njit(cache=True, error_model="numpy")
def _block_bounds(a, b, row_start, col_start, start):
    """Bounds of block (a, b): its entries, its rows, its columns."""
    k = a * (col_start.size - 1) + b
    return start[k], start[k + 1], row_start[a], row_start[a + 1], col_start[b], col_start[b + 1]


@njit(cache=True, error_model="numpy")
def _block_plain(vectors, P, Q, entries, lo, hi, r0, c0, penalty, lanes, loss, step):
    """Updates of one block with the same step for every row; see `sgd_pass`.

    Cost: ``10·width`` flops and 2 rows read and written an entry, and 8 bytes of the entry.
    """
    # Slices of the large arrays make the addresses in the loop cheap.
    rows, cols, values = entries.rows[lo:hi], entries.cols[lo:hi], entries.values[lo:hi]
    P, Q = P[r0:], Q[c0:]
    last = rows.size - 1
    # The product of the next entry is formed before the update of this one, so that the
    # processor works on the update while the sum over the lanes is under way. When the two
    # entries share a row, it is formed again.
    i, j = np.intp(rows[0]), np.intp(cols[0])
    product = _dot(vectors, P, i, Q, j)
    for t in range(rows.size):
        u = min(t + 1, last)
        i_next, j_next = np.intp(rows[u]), np.intp(cols[u])
        product_next = _dot(vectors, P, i_next, Q, j_next)
        g = step * _pull(product, values[t], entries.weights, lo + t, loss)
        shrink_p = _scaled(penalty.row, r0 + i, step)
        shrink_q = _scaled(penalty.col, c0 + j, step)
        _update(vectors, P, i, Q, j, g, g, shrink_p, shrink_q, penalty.reg, lanes)
        if i == i_next or j == j_next:
            product_next = _dot(vectors, P, i_next, Q, j_next)
        i, j, product = i_next, j_next, product_next


@njit(cache=True, error_model="numpy")
def _block_adagrad(
    vectors, P, Q, A, B, norms_p, norms_q, entries, lo, hi, r0, r1, c0, c1, penalty, lanes, loss,
    step, unit,
):  # fmt: skip
    """Updates of one block with AdaGrad row scalars ``A``, ``B``; see `sgd_pass`.

    Cost: ``10·width`` flops and 2 rows read and written an entry, and 8 bytes of the entry;
    ``2·width`` flops a row of the block.
    """
    rows, cols, values = entries.rows[lo:hi], entries.cols[lo:hi], entries.values[lo:hi]
    P, Q, A, B = P[r0:r1], Q[c0:c1], A[r0:r1], B[c0:c1]
    norms_p, norms_q = norms_p[r0:r1], norms_q[c0:c1]
    # Norms of the start of the block: they change slowly, and two more sums over the lanes for
    # every entry cost as much as the update.
    for r in range(norms_p.size):
        norms_p[r] = _dot(vectors, P, r, P, r)
    for r in range(norms_q.size):
        norms_q[r] = _dot(vectors, Q, r, Q, r)
    last = rows.size - 1
    i, j = np.intp(rows[0]), np.intp(cols[0])
    product = _dot(vectors, P, i, Q, j)
    step_p, step_q = _step_pair(step, A[i], B[j])
    for t in range(rows.size):
        u = min(t + 1, last)
        i_next, j_next = np.intp(rows[u]), np.intp(cols[u])
        product_next = _dot(vectors, P, i_next, Q, j_next)
        step_p_next, step_q_next = _step_pair(step, A[i_next], B[j_next])
        g = _pull(product, values[t], entries.weights, lo + t, loss)
        _update(
            vectors, P, i, Q, j, step_p * g, step_q * g, _scaled(penalty.row, r0 + i, step_p),
            _scaled(penalty.col, c0 + j, step_q), penalty.reg, lanes,
        )  # fmt: skip
        square = unit * (g * g)
        A[i] += square * norms_q[j]
        B[j] += square * norms_p[i]
        if i == i_next or j == j_next:
            product_next = _dot(vectors, P, i_next, Q, j_next)
            step_p_next, step_q_next = _step_pair(step, A[i_next], B[j_next])
        i, j, product = i_next, j_next, product_next
        step_p, step_q = step_p_next, step_q_next


@njit(cache=True, error_model="numpy")
def _tile_pass(
    vectors, P, Q, A, B, norms_p, norms_q, entries, d, s, side, penalty, lanes, loss, step, unit
):  # fmt: skip
    """Updates of tile s of diagonal d, block by block."""
    a0, a1, b0, b1 = _tile(d, s, side, entries)
    for a in range(a0, a1):
        for t in range(b1 - b0):
            # There and back again: the rows or the columns of the last block are in cache.
            b = b0 + t if (a - a0) % 2 == 0 else b1 - 1 - t
            lo, hi, r0, r1, c0, c1 = _block_bounds(
                a, b, entries.row_start, entries.col_start, entries.start
            )
            if lo == hi:
                continue
            if A is None:
                _block_plain(vectors, P, Q, entries, lo, hi, r0, c0, penalty, lanes, loss, step)
            else:
                _block_adagrad(
                    vectors, P, Q, A, B, norms_p, norms_q, entries, lo, hi, r0, r1, c0, c1,
                    penalty, lanes, loss, step, unit,
                )  # fmt: skip


@njit(cache=True, error_model="numpy")
def sgd_pass(
    vectors, P, Q, A, B, norms_p, norms_q, entries, diagonals, penalty, lanes, loss, step, unit
):  # fmt: skip
    """One pass over the entries, along the diagonals of the grid.

    Layout: see the module; ``A, norms_p (rows,)`` and ``B, norms_q (cols,)`` are the AdaGrad
    scalars and work space, or all ``None`` for the same step everywhere. ``diagonals`` is an order
    of ``0 … S-1``: the blocks are grouped into ``S × S`` tiles, and diagonal d holds the tiles
    ``((s + d) mod S, s)``, which share no row and no column. Inside a tile the blocks are visited
    row by row, forward and backward in turn. The step of row i is ``step/sqrt(A[i])``, and
    ``A[i]`` grows by the mean square of the data's part of the gradient, ``unit·g²·|Q[j]|²`` with
    ``unit = 1/rank`` and the norm taken at the start of the block. Scalars and arrays are of the
    dtype of ``P``.

    Cost: ``10·width·N`` flops, ``8·N`` bytes of entries from memory and the rows of both factors
    from the second-level cache.
    """
    side = diagonals.size
    for d in diagonals:
        for s in range(side):
            _tile_pass(
                vectors, P, Q, A, B, norms_p, norms_q, entries, d, s, side, penalty, lanes, loss,
                step, unit,
            )  # fmt: skip


@njit(cache=True, error_model="numpy", parallel=True)
def sgd_pass_par(
    vectors, P, Q, A, B, norms_p, norms_q, entries, diagonals, penalty, lanes, loss, step, unit
):  # fmt: skip
    """`sgd_pass` with the tiles of a diagonal in parallel: the same bits for any thread count.

    Cost: that of `sgd_pass`, divided by the number of threads if the tiles of a diagonal are of
    similar size.
    """
    side = diagonals.size
    for d in diagonals:
        for s in prange(side):
            _tile_pass(
                vectors, P, Q, A, B, norms_p, norms_q, entries, d, np.intp(s), side, penalty,
                lanes, loss, step, unit,
            )  # fmt: skip


# --------------------------------------------------------------------------------------------
# Gradient
# --------------------------------------------------------------------------------------------


@intrinsic
def _add_row(typingctx, vectors, G, i, F, j, factor):
    """Set ``G[i] += factor·F[j]``."""
    signature = types.void(vectors, G, types.intp, F, types.intp, G.dtype)

    def codegen(context, builder, signature, args):
        target, width = _row(context, builder, vectors, G, args[1], args[2])
        source, _ = _row(context, builder, vectors, F, args[3], args[4])
        vector = _vector_type(context, G.dtype)
        factor = _splat(builder, args[5], vector.count)

        def body(offset, carried, last):
            x = _load(builder, source, offset, vector)
            y = _load(builder, target, offset, vector)
            _store(builder, _fma(builder, factor, x, y), target, offset)
            return []

        _over_row(builder, vectors, width, vector.count, [], body)
        return context.get_dummy_value()

    return signature, codegen


@njit(cache=True, error_model="numpy")
def _tile_gradient(vectors, P, Q, GP, GQ, entries, d, s, side, loss):
    """Add the pulls of one tile to ``GP`` and ``GQ``; return its loss.

    Cost: ``6·width`` flops and four rows an entry.
    """
    a0, a1, b0, b1 = _tile(d, s, side, entries)
    slope, limit = np.float64(loss.slope), np.float64(loss.limit)
    total = 0.0
    for a in range(a0, a1):
        for b in range(b0, b1):
            lo, hi, r0, _, c0, _ = _block_bounds(
                a, b, entries.row_start, entries.col_start, entries.start
            )
            for t in range(lo, hi):
                i, j = r0 + np.intp(entries.rows[t]), c0 + np.intp(entries.cols[t])
                product = _dot(vectors, P, i, Q, j)
                g = _pull(product, entries.values[t], entries.weights, t, loss)
                _add_row(vectors, GP, i, Q, j, g)
                _add_row(vectors, GQ, j, P, i, g)
                size = abs(np.float64(entries.values[t]) - np.float64(product))
                if slope * size <= limit:
                    size = slope * size * size
                else:
                    size = limit * (2.0 * size - limit / slope)
                total += _scaled(entries.weights, t, size)
    return total


@njit(cache=True, error_model="numpy", parallel=True)
def grid_gradient(vectors, P, Q, GP, GQ, entries, side, loss):
    """Return the loss, and fill ``GP_i = Σ_j w g Q_j`` and ``GQ_j = Σ_i w g P_i``.

    ``g`` is half the negative derivative of the loss, so that minus the sums is half the gradient
    of the loss. Layout: ``GP``, ``GQ`` like ``P``, ``Q``; ``side`` is the number of diagonals. The
    same bits for any thread count.

    Cost: ``6·width·N`` flops.
    """
    GP[:] = 0
    GQ[:] = 0
    losses = np.empty(side)
    total = 0.0
    for d in range(side):
        for s in prange(side):
            losses[s] = _tile_gradient(vectors, P, Q, GP, GQ, entries, d, np.intp(s), side, loss)
        # In a loop of its own: a parallel sum would depend on the number of threads.
        for s in range(side):
            total += losses[s]
    return total


# --------------------------------------------------------------------------------------------
# Grid
# --------------------------------------------------------------------------------------------


@njit(cache=True, error_model="numpy")
def _swap(array, s, t):
    if array is not None:
        array[s], array[t] = array[t], array[s]


@njit(cache=True, error_model="numpy")
def _shuffle_entries(entries, lo, hi, counter):
    """Put the entries ``lo … hi-1`` into random order, by Fisher and Yates."""
    rows, cols, values, weights = entries.rows, entries.cols, entries.values, entries.weights
    for t in range(hi - 1, lo, -1):
        counter += np.uint64(1)
        # The upper 32 bits times the range: uniform up to 2⁻³² times the block's size.
        draw = (_mix(counter) >> np.uint64(32)) * np.uint64(t - lo + 1)
        s = lo + np.intp(draw >> np.uint64(32))
        rows[t], rows[s] = rows[s], rows[t]
        cols[t], cols[s] = cols[s], cols[t]
        values[t], values[s] = values[s], values[t]
        _swap(weights, s, t)


@njit(cache=True, error_model="numpy")
def fill_grid(indptr, indices, values, weights, offset, row_block, row_local, col_block, col_local,
              entries, seed):  # fmt: skip
    """Copy the observed entries into blocks, in random order inside each.

    Layout: compressed rows ``indptr (m+1,)``, ``indices``, ``values``, ``weights (N,)`` or
    ``None``; block and position inside the block of every row and column, ``…_local`` of the
    dtype of ``entries.rows``. Fills the arrays of ``entries``, ``values - offset`` included;
    ``seed`` is uint64.

    Cost: two passes over the entries and one random exchange an entry inside its block.
    """
    n_cols = entries.col_start.size - 1
    start = entries.start
    start[:] = 0
    for i in range(indptr.size - 1):
        for t in range(indptr[i], indptr[i + 1]):
            start[row_block[i] * n_cols + col_block[indices[t]] + 1] += 1
    for k in range(1, start.size):
        start[k] += start[k - 1]
    place = start[:-1].copy()
    for i in range(indptr.size - 1):
        for t in range(indptr[i], indptr[i + 1]):
            j = indices[t]
            k = row_block[i] * n_cols + col_block[j]
            s = place[k]
            place[k] = s + 1
            entries.rows[s] = row_local[i]
            entries.cols[s] = col_local[j]
            entries.values[s] = values[t] - offset
            if weights is not None:
                entries.weights[s] = weights[t]
    for k in range(start.size - 1):
        _shuffle_entries(entries, start[k], start[k + 1], seed + (np.uint64(k) << np.uint64(32)))
