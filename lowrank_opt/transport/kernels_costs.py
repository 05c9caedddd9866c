"""Costs inside kernels: all pairs of one target, or one pair, for any kind of cost.

The scores ``alpha_i - c_ij`` of a target are written in groups of 64, with the largest score of
every lane of a vector beside them: who looks for large scores skips most groups. The groups are
emitted as vector code, because LLVM does not keep the maxima of a group in registers. All sums
are in the order of the obvious loop and without fused operations: a score has the same bits
wherever it is computed.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic, overload

from lowrank_opt.numerics.kernels_vector import (
    VECTOR_BYTES,
    _call,
    _element,
    _load,
    _loop,
    _splat,
    _store,
    keep_apart,
)
from lowrank_opt.transport.costs import DenseCost, PointCost, SparseCost, cost_block

__all__ = [
    "GROUP",
    "LANES",
    "TiledPoints",
    "close_groups",
    "column_scores",
    "pair_cost",
    "score_error",
    "score_groups",
    "source_at",
]

#: Scores in a group; maxima kept of it.
GROUP = 64
LANES = VECTOR_BYTES // 8


class TiledPoints(NamedTuple):
    """Distances in many dimensions, with the inner products of some targets at hand.

    Scores come from ``|x|^2 + |y|^2 - 2 x'y`` and are off by up to :func:`score_error`; costs of
    pairs are those of the points themselves.

    Parameters
    ----------
    X, Y, squared : ndarray, ndarray, bool
        See :class:`~lowrank_opt.transport.costs.PointCost`.
    products : ndarray of float64, of shape (tile, n_sources)
        Twice the inner products of the targets from `first` on.
    first : int
        First target of the tile.
    sizes, own_sizes : ndarray of float64
        Squared norms of sources and of targets.
    largest : float
        The largest of `sizes`.
    rounding : float
        Relative error of a squared distance, against the squared norms.
    slack : float
        Error that the potentials add.
    """

    X: Any
    Y: Any
    squared: bool
    products: Any
    first: int
    sizes: Any
    own_sizes: Any
    largest: float
    rounding: float
    slack: float


def column_scores(cost: Any, alpha: Any, j: int, out: Any) -> None:
    """Write ``alpha_i - c_ij`` of all sources for target `j`; ``-inf``: a forbidden pair.

    Parameters
    ----------
    cost : DenseCost, PointCost or SparseCost
        Any cost.
    alpha : ndarray of float64, of shape (n_sources,)
        Potentials.
    j : int
        The target.
    out : ndarray of float64, of shape (n_sources,)
        Overwritten.

    Notes
    -----
    Cost: n_sources reads and writes; ``3 d`` flops each for points.
    """
    out[:] = alpha - cost_block(cost, j, j + 1)[0]


def pair_cost(cost: Any, i: int, j: int) -> float:
    """Return the cost of source `i` and target `j` in float64.

    Parameters
    ----------
    cost : DenseCost, PointCost or SparseCost
        Any cost.
    i, j : int
        Source and target.

    Returns
    -------
    float
        The cost; ``+inf`` for a forbidden pair.

    Notes
    -----
    Cost: one read; ``3 d`` flops for points; a bisection for listed pairs.
    """
    return float(cost_block(cost, j, j + 1)[0, i])


def score_groups(cost: Any, alpha: Any, j: int, out: Any, tops: Any) -> tuple[int, float]:
    """Write the scores of the stored pairs of target `j`, and the maxima of their groups.

    Parameters
    ----------
    cost : DenseCost, PointCost or SparseCost
        Any cost.
    alpha : ndarray of float64, of shape (n_sources,)
        Potentials.
    j : int
        The target.
    out : ndarray of float64
        Overwritten: as many scores as there are pairs (:func:`source_at` tells whose), then
        ``-inf`` up to a multiple of ``GROUP``.
    tops : ndarray of float64
        Overwritten: ``LANES`` numbers a group, entry l the largest of its scores at places that
        are l modulo ``LANES``.

    Returns
    -------
    int, float
        Number of groups and the largest score.

    Notes
    -----
    Cost: a read and a write a pair; ``3 d`` flops each for points.
    """
    row = cost_block(cost, j, j + 1)[0]
    if isinstance(cost, SparseCost):
        part = slice(cost.indptr[j], cost.indptr[j + 1])
        alpha, row = alpha[cost.indices[part]], row[cost.indices[part]]
    groups = -(-len(row) // GROUP)
    out[: groups * GROUP] = -np.inf
    out[: len(row)] = alpha - row
    folded = out[: groups * GROUP].reshape(groups, -1, LANES)
    tops[: groups * LANES] = folded.max(axis=1).ravel()
    return groups, float(out[: groups * GROUP].max(initial=-np.inf))


def score_error(cost: Any, j: int) -> float:
    """Return a bound on the errors of the scores that :func:`score_groups` writes.

    Parameters
    ----------
    cost : DenseCost, PointCost, SparseCost or TiledPoints
        Any cost.
    j : int
        The target.

    Returns
    -------
    float
        0 where scores have the bits of ``alpha_i - c_ij``.

    Notes
    -----
    Cost: a read.
    """
    if not isinstance(cost, TiledPoints):
        return 0.0
    error = cost.rounding * (cost.largest + cost.own_sizes[j])
    return float(error if cost.squared else np.sqrt(error)) + cost.slack


def source_at(cost: Any, j: int, place: int) -> int:
    """Return the source of a stored pair of target `j`.

    Parameters
    ----------
    cost : DenseCost, PointCost or SparseCost
        Any cost.
    j : int
        The target.
    place : int
        Where the pair is among those of the target.

    Returns
    -------
    int
        The source; the place itself unless pairs are listed.

    Notes
    -----
    Cost: one read at most.
    """
    return int(cost.indices[cost.indptr[j] + place]) if isinstance(cost, SparseCost) else place


# -- vector code ------------------------------------------------------------------------------

_F64 = ir.DoubleType()
_VECTOR = ir.VectorType(_F64, LANES)
_I64 = ir.IntType(64)


def _wide_load(builder, pointer, place, dtype):
    """Load ``LANES`` numbers as float64."""
    scalar = _F64 if dtype.bitwidth == 64 else ir.FloatType()
    value = _load(builder, pointer, place, ir.VectorType(scalar, LANES))
    return value if dtype.bitwidth == 64 else builder.fpext(value, _VECTOR)


def _pointers(builder, context, kinds, arrays):
    return [_element(builder, context, *pair) for pair in zip(kinds, arrays, strict=True)]


def _larger(builder, a, b):
    return builder.select(builder.fcmp_ordered(">", a, b), a, b)


def _largest_lane(builder, vector):
    best = builder.extract_element(vector, ir.Constant(ir.IntType(32), 0))
    for lane in range(1, LANES):
        best = _larger(
            builder, best, builder.extract_element(vector, ir.Constant(ir.IntType(32), lane))
        )
    return best


def _emit_groups(builder, groups, alpha, out, tops, costs):
    """Scores and tops of whole groups; ``costs(first)`` emits the vectors of a group's costs."""

    def body(group, carried):
        first = builder.mul(group, ir.Constant(_I64, GROUP))
        top = ir.Constant(_VECTOR, [-np.inf] * LANES)
        for v, value in enumerate(costs(first)):
            place = builder.add(first, ir.Constant(_I64, v * LANES))
            score = builder.fsub(_load(builder, alpha, place, _VECTOR), value)
            _store(builder, score, out, place)
            top = _larger(builder, score, top)
        _store(builder, top, tops, builder.mul(group, ir.Constant(_I64, LANES)))
        return [_larger(builder, top, carried[0])]

    start = ir.Constant(_VECTOR, [-np.inf] * LANES)
    return _largest_lane(builder, _loop(builder, groups, [start], body)[0])


@intrinsic
def _dense_groups(typingctx, C, start, alpha, out, tops, groups):
    """Scores of whole groups of a row of the matrix that begins at element ``start``."""
    signature = types.float64(C, types.intp, alpha, out, tops, types.intp)

    def codegen(context, builder, signature, args):
        row = builder.gep(_element(builder, context, C, args[0]), [args[1]])
        arrays = _pointers(builder, context, (alpha, out, tops), args[2:5])

        def costs(first):
            for v in range(GROUP // LANES):
                place = builder.add(first, ir.Constant(_I64, v * LANES))
                yield _wide_load(builder, row, place, C.dtype)

        return _emit_groups(builder, args[5], *arrays, costs)

    return signature, codegen


def _root_unless(builder, squared, values):
    """The values themselves, or their roots."""
    with builder.if_else(squared) as (plain, rooted):
        with plain:
            plain_block = builder.block
        with rooted:
            roots = [_call(builder, "sqrt", value) for value in values]
            rooted_block = builder.block
    merged = []
    for value, root in zip(values, roots, strict=True):
        phi = builder.phi(_VECTOR)
        phi.add_incoming(value, plain_block)
        phi.add_incoming(root, rooted_block)
        merged.append(phi)
    return merged


@intrinsic
def _point_groups(typingctx, X, sources, Y, start, dimension, squared, alpha, out, tops, groups):
    """Scores of whole groups for the point at element ``start`` of ``Y``."""
    signature = types.float64(
        X, types.intp, Y, types.intp, types.intp, types.boolean, alpha, out, tops, types.intp
    )

    def codegen(context, builder, signature, args):
        points = _element(builder, context, X, args[0])
        center = builder.gep(_element(builder, context, Y, args[2]), [args[3]])
        arrays = _pointers(builder, context, (alpha, out, tops), args[6:9])
        scalar = _F64 if Y.dtype.bitwidth == 64 else ir.FloatType()

        def costs(first):
            def add_coordinate(d, carried):
                place, *sums = carried
                y = _load(builder, center, d, scalar)
                y = _splat(builder, y if scalar is _F64 else builder.fpext(y, _F64), LANES)
                for v, total in enumerate(sums):
                    x = _wide_load(
                        builder, points, builder.add(place, ir.Constant(_I64, v * LANES)), X.dtype
                    )
                    step = builder.fsub(x, y)
                    sums[v] = builder.fadd(total, builder.fmul(step, step))
                return [builder.add(place, args[1]), *sums]

            zeros = [ir.Constant(_VECTOR, [0.0] * LANES)] * (GROUP // LANES)
            _, *sums = _loop(builder, args[4], [first, *zeros], add_coordinate)
            return _root_unless(builder, args[5], sums)

        return _emit_groups(builder, args[9], *arrays, costs)

    return signature, codegen


@intrinsic
def _top_groups(typingctx, out, start, tops, top, groups):
    """Make the tops of groups of scores; return the largest score."""
    signature = types.float64(out, types.intp, tops, types.intp, types.intp)

    def codegen(context, builder, signature, args):
        scores = builder.gep(_element(builder, context, out, args[0]), [args[1]])
        target = builder.gep(_element(builder, context, tops, args[2]), [args[3]])

        def body(group, carried):
            first = builder.mul(group, ir.Constant(_I64, GROUP))
            top = ir.Constant(_VECTOR, [-np.inf] * LANES)
            for v in range(GROUP // LANES):
                place = builder.add(first, ir.Constant(_I64, v * LANES))
                top = _larger(builder, _load(builder, scores, place, _VECTOR), top)
            _store(builder, top, target, builder.mul(group, ir.Constant(_I64, LANES)))
            return [_larger(builder, top, carried[0])]

        start = ir.Constant(_VECTOR, [-np.inf] * LANES)
        return _largest_lane(builder, _loop(builder, args[4], [start], body)[0])

    return signature, codegen


@intrinsic
def _tile_groups(typingctx, P, start, sizes, own, squared, alpha, out, tops, groups):
    """Scores of whole groups from doubled inner products that begin at element ``start``."""
    signature = types.float64(
        P, types.intp, sizes, types.float64, types.boolean, alpha, out, tops, types.intp
    )

    def codegen(context, builder, signature, args):
        products = builder.gep(_element(builder, context, P, args[0]), [args[1]])
        squares = _element(builder, context, sizes, args[2])
        arrays = _pointers(builder, context, (alpha, out, tops), args[5:8])
        zero = ir.Constant(_VECTOR, [0.0] * LANES)

        def costs(first):
            target = _splat(builder, args[3], LANES)
            values = []
            for v in range(GROUP // LANES):
                place = builder.add(first, ir.Constant(_I64, v * LANES))
                both = builder.fadd(_load(builder, squares, place, _VECTOR), target)
                value = builder.fsub(both, _load(builder, products, place, _VECTOR))
                values.append(_larger(builder, value, zero))
            return _root_unless(builder, args[4], values)

        return _emit_groups(builder, args[8], *arrays, costs)

    return signature, codegen


def _mask_intrinsic(count):
    """Make the intrinsic that tells which of ``count`` numbers are at least a limit."""

    def mask(typingctx, values, start, low):
        signature = types.uint64(values, types.intp, types.float64)

        def codegen(context, builder, signature, args):
            pointer = builder.gep(_element(builder, context, values, args[0]), [args[1]])
            limit = _splat(builder, args[2], LANES)
            bits = ir.Constant(_I64, 0)
            for v in range(count // LANES):
                value = _load(builder, pointer, ir.Constant(_I64, v * LANES), _VECTOR)
                found = builder.bitcast(builder.fcmp_ordered(">=", value, limit), ir.IntType(LANES))
                part = builder.zext(found, _I64)
                bits = builder.or_(bits, builder.shl(part, ir.Constant(_I64, v * LANES)))
            return bits

        return signature, codegen

    return intrinsic(mask)


# Bit s of the result: whether values[start + s] >= low, for a whole group or for its tops.
group_mask = _mask_intrinsic(GROUP)
tops_mask = _mask_intrinsic(LANES)


@intrinsic
def lowest_bit(typingctx, bits):
    """Return the place of the lowest bit that is set; some must be."""
    signature = types.intp(types.uint64)

    def codegen(context, builder, signature, args):
        return builder.cttz(args[0], ir.Constant(ir.IntType(1), 1))

    return signature, codegen


# -- the kinds of costs -----------------------------------------------------------------------


def _by_kind(cost, dense, point, sparse, tiled=None):
    if not isinstance(cost, types.BaseNamedTuple):
        return None
    kinds = {DenseCost: dense, PointCost: point, SparseCost: sparse, TiledPoints: tiled}
    return kinds.get(cost.instance_class)


@overload(column_scores, jit_options={"error_model": "numpy"}, strict=False)
def _column_scores(cost, alpha, j, out):
    return _by_kind(cost, _dense_scores, _point_scores, _sparse_scores)


@overload(pair_cost, jit_options={"error_model": "numpy"}, strict=False)
def _pair_cost(cost, i, j):
    return _by_kind(cost, _dense_pair, _point_pair, _sparse_pair, _point_pair)


@overload(score_groups, jit_options={"error_model": "numpy"}, strict=False)
def _score_groups(cost, alpha, j, out, tops):
    return _by_kind(cost, _dense_tops, _point_tops, _sparse_tops, _tile_tops)


@overload(score_error, jit_options={"error_model": "numpy"}, strict=False)
def _score_error(cost, j):
    return _by_kind(cost, _no_error, _no_error, _no_error, _tile_error)


@overload(source_at, jit_options={"error_model": "numpy"}, strict=False)
def _source_at(cost, j, place):
    return _by_kind(cost, _own_place, _own_place, _listed_place, _own_place)


def _dense_scores(cost, alpha, j, out):
    row = cost.C[j]
    for i in range(out.size):
        out[i] = alpha[i] - np.float64(row[i])


def _point_scores(cost, alpha, j, out):
    X, y = cost.X, cost.Y[j]
    out[:] = 0.0
    for d in range(y.size):
        row, center = X[d], np.float64(y[d])
        for i in range(out.size):
            e = np.float64(row[i]) - center
            out[i] += e * e
    if cost.squared:
        for i in range(out.size):
            out[i] = alpha[i] - out[i]
    else:
        for i in range(out.size):
            out[i] = alpha[i] - np.sqrt(out[i])


def _sparse_scores(cost, alpha, j, out):
    out[:] = -np.inf
    for e in range(cost.indptr[j], cost.indptr[j + 1]):
        i = cost.indices[e]
        out[i] = alpha[i] - np.float64(cost.data[e])


def _dense_pair(cost, i, j):
    return np.float64(cost.C[j, i])


def _point_pair(cost, i, j):
    square = 0.0
    for d in range(cost.Y.shape[1]):
        e = np.float64(cost.X[d, i]) - np.float64(cost.Y[j, d])
        square += e * e
    return square if cost.squared else np.sqrt(square)


def _sparse_pair(cost, i, j):
    low, high = cost.indptr[j], cost.indptr[j + 1]
    while low < high:
        middle = (low + high) // 2
        if cost.indices[middle] < i:
            low = middle + 1
        else:
            high = middle
    if low < cost.indptr[j + 1] and cost.indices[low] == i:
        return np.float64(cost.data[low])
    return np.inf


@njit(cache=True, error_model="numpy", nogil=True)
def close_groups(out, tops, group, count, top):
    """Make the tops of the groups from `group` on, the last one filled up with -inf.

    Returns the number of groups and the largest score, `top` being that of the groups before.

    Cost: a read a score.
    """
    groups = -(-count // GROUP)
    for p in range(count, groups * GROUP):
        out[p] = -np.inf
    rest = _top_groups(out, group * GROUP, tops, group * LANES, groups - group)
    return groups, max(top, rest)


def _dense_tops(cost, alpha, j, out, tops):
    keep_apart()
    m = cost.C.shape[1]
    top = _dense_groups(cost.C, j * m, alpha, out, tops, m // GROUP)
    row = cost.C[j]
    for i in range(m // GROUP * GROUP, m):
        out[i] = alpha[i] - np.float64(row[i])
    return close_groups(out, tops, m // GROUP, m, top)


def _point_tops(cost, alpha, j, out, tops):
    keep_apart()
    d, m = cost.X.shape
    groups = m // GROUP
    top = _point_groups(cost.X, m, cost.Y, j * d, d, cost.squared, alpha, out, tops, groups)
    for i in range(groups * GROUP, m):
        out[i] = alpha[i] - _point_distance(cost.X, cost.Y, cost.squared, i, j)
    return close_groups(out, tops, groups, m, top)


def _tile_tops(cost, alpha, j, out, tops):
    keep_apart()
    m, t, own = cost.sizes.size, j - cost.first, cost.own_sizes[j]
    groups = m // GROUP
    top = _tile_groups(
        cost.products, t * m, cost.sizes, own, cost.squared, alpha, out, tops, groups
    )
    for i in range(groups * GROUP, m):
        square = max(cost.sizes[i] + own - cost.products[t, i], 0.0)
        out[i] = alpha[i] - (square if cost.squared else np.sqrt(square))
    return close_groups(out, tops, groups, m, top)


@njit(cache=True, error_model="numpy", nogil=True)
def _point_distance(X, Y, squared, i, j):
    square = 0.0
    for d in range(Y.shape[1]):
        e = np.float64(X[d, i]) - np.float64(Y[j, d])
        square += e * e
    return square if squared else np.sqrt(square)


def _sparse_tops(cost, alpha, j, out, tops):
    start = cost.indptr[j]
    count = cost.indptr[j + 1] - start
    for p in range(count):
        out[p] = alpha[cost.indices[start + p]] - np.float64(cost.data[start + p])
    return close_groups(out, tops, 0, count, -np.inf)


def _no_error(cost, j):
    return 0.0


def _tile_error(cost, j):
    error = cost.rounding * (cost.largest + cost.own_sizes[j])
    return (error if cost.squared else np.sqrt(error)) + cost.slack


def _own_place(cost, j, place):
    return place


def _listed_place(cost, j, place):
    return cost.indices[cost.indptr[j] + place]


@njit(cache=True, error_model="numpy", nogil=True)
def scores_of_targets(cost, alpha, first, last, out):
    """Write the scores of targets ``first .. last - 1`` into the rows of `out`.

    Cost: ``(last - first) * n_sources`` reads and writes.
    """
    for j in range(first, last):
        column_scores(cost, alpha, j, out[j - first])
