"""Vector-register building blocks of the compiled kernels.

The functions here are numba intrinsics that emit LLVM vector code, because plain numba loops do
not keep a tile of a Gram matrix in registers. Every other kernel is written with them:

* ``tile_*``: small blocks of ``C (+|-)= AᵀB`` held in registers,
* ``gram``: the upper triangle of ``BᵀB``, ``cholesky``/``back_substitute``: dense row systems,
* ``dots8``/``axpy8``: products with eight rows chosen by an index,
* ``copy_row``, ``scale_row``, ``add_row``, ``prefetch_row``: the gather.

The width of a vector is read once, at import, from the features numba compiles for: 64 bytes with
AVX-512, 32 with AVX2, else 16. The environment variable ``LOWRANK_OPT_VECTOR_BYTES`` (16, 32 or
64) overrides it, which is meant for tests: LLVM splits vectors that the machine does not have.
numba's cache of compiled functions is keyed by the machine and not by this variable, so a process
that sets it needs its own ``NUMBA_CACHE_DIR``.

No fast-math flag is used inside an intrinsic: the order of every sum is fixed by construction,
the same bits come out at every call, and NaN and infinity propagate.
"""

from __future__ import annotations

import os
import platform

import llvmlite.binding as llvm
import numba
import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from lowrank_opt.core.errors import ParameterError

__all__ = [
    "CHUNK",
    "VECTOR_BYTES",
    "aligned_empty",
    "aligned_zeros",
    "padded_rows",
    "padded_width",
    "vector_length",
]

#: Number of gathered rows that are multiplied at once.
CHUNK = 128


def _features() -> set[str]:
    """Return the CPU features that numba compiles for."""
    chosen = numba.config.CPU_FEATURES
    if chosen is None:
        try:
            return {name for name, on in llvm.get_host_cpu_features().items() if on}
        except RuntimeError:
            return set()
    return {word[1:] for word in chosen.split(",") if word.startswith("+")}


def _vector_bytes(features: set[str]) -> int:
    """Return the width of a vector register in bytes, the override of the environment first."""
    text = os.environ.get("LOWRANK_OPT_VECTOR_BYTES")
    if text is not None:
        if text not in ("16", "32", "64"):
            raise ParameterError(
                f"The environment variable LOWRANK_OPT_VECTOR_BYTES is {text!r}; expected 16, 32 "
                "or 64. Unset it to use the width of this machine."
            )
        return int(text)
    if "avx512f" in features:
        return 64
    return 32 if "avx2" in features else 16


_FEATURES = _features()

#: Width of a vector register in bytes: 64, 32 or 16.
VECTOR_BYTES = _vector_bytes(_FEATURES)

_HAS_FMA = "fma" in _FEATURES or platform.machine().lower() in ("arm64", "aarch64")

# A tile has to fit the registers: 32 of them with AVX-512, 16 otherwise.
_TILE_ROWS = 8 if VECTOR_BYTES == 64 else 4
_TILE_VECTORS = 2


def vector_length(dtype: np.typing.DTypeLike) -> int:
    """Return the number of elements of ``dtype`` in one vector register."""
    return VECTOR_BYTES // np.dtype(dtype).itemsize


def padded_rows(rank: int, bias: bool) -> int:
    """Return the number of rows of the padded Gram matrix: unknowns rounded up to 8."""
    return 8 * -(-(rank + int(bias)) // 8)


def padded_width(rank: int, bias: bool, dtype: np.typing.DTypeLike) -> int:
    """Return the number of columns of a padded factor.

    Columns ``0 … rank-1`` hold the factor, column ``rank`` the own bias when there is one, the next
    one is the slot of a right-hand side, and the rest is zero.

    Parameters
    ----------
    rank : int
        Number of factor columns, at least 1.
    bias : bool
        Whether a bias column follows them.
    dtype : dtype
        ``float32`` or ``float64``.

    Returns
    -------
    int
        The smallest multiple of the vector length that holds ``rank + bias + 1`` columns and as
        many columns as ``padded_rows(rank, bias)``.
    """
    length = vector_length(dtype)
    unknowns = rank + int(bias)
    return length * max(-(-(unknowns + 1) // length), -(-padded_rows(rank, bias) // length))


def aligned_empty(
    shape: int | tuple[int, ...], dtype: np.typing.DTypeLike, align: int = 64
) -> np.ndarray:
    """Return an uninitialised C array whose data begins at a multiple of ``align`` bytes."""
    dtype = np.dtype(dtype)
    shape = (shape,) if np.isscalar(shape) else tuple(shape)
    size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    buffer = np.empty(size + align, dtype=np.uint8)
    start = -buffer.ctypes.data % align
    return buffer[start : start + size].view(dtype).reshape(shape)


def aligned_zeros(
    shape: int | tuple[int, ...], dtype: np.typing.DTypeLike, align: int = 64
) -> np.ndarray:
    """Return a C array of zeros whose data begins at a multiple of ``align`` bytes."""
    dtype = np.dtype(dtype)
    shape = (shape,) if np.isscalar(shape) else tuple(shape)
    size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    buffer = np.zeros(size + align, dtype=np.uint8)
    start = -buffer.ctypes.data % align
    return buffer[start : start + size].view(dtype).reshape(shape)


# --------------------------------------------------------------------------------------------
# Code generation
# --------------------------------------------------------------------------------------------

_I32 = ir.IntType(32)


def _lanes(dtype):
    return VECTOR_BYTES // (dtype.bitwidth // 8)


def _element(builder, context, array_type, array):
    """Return a typed pointer to the first element of an array argument."""
    data = context.make_array(array_type)(context, builder, array).data
    return builder.bitcast(data, context.get_data_type(array_type.dtype).as_pointer())


def _load(builder, pointer, offset, kind):
    """Load a value of type ``kind`` (vector or scalar), aligned to one element only."""
    place = builder.gep(pointer, [offset])
    scalar = kind.element if isinstance(kind, ir.VectorType) else kind
    size = 4 if isinstance(scalar, ir.FloatType) else 8
    return builder.load(builder.bitcast(place, kind.as_pointer()), align=size)


def _store(builder, value, pointer, offset):
    place = builder.gep(pointer, [offset])
    kind = value.type
    scalar = kind.element if isinstance(kind, ir.VectorType) else kind
    size = 4 if isinstance(scalar, ir.FloatType) else 8
    builder.store(value, builder.bitcast(place, kind.as_pointer()), align=size)


def _splat(builder, scalar, count):
    kind = ir.VectorType(scalar.type, count)
    first = builder.insert_element(ir.Constant(kind, ir.Undefined), scalar, ir.Constant(_I32, 0))
    zeros = ir.Constant(ir.VectorType(_I32, count), [0] * count)
    return builder.shuffle_vector(first, ir.Constant(kind, ir.Undefined), zeros)


def _shuffle(builder, a, b, lanes):
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(_I32, len(lanes)), list(lanes)))


def _zero(kind):
    if isinstance(kind, ir.VectorType):
        return ir.Constant(kind, [0.0] * kind.count)
    return ir.Constant(kind, 0.0)


def _suffix(kind):
    if isinstance(kind, ir.VectorType):
        return f"v{kind.count}{_suffix(kind.element)}"
    return "f32" if isinstance(kind, ir.FloatType) else "f64"


def _call(builder, name, *args):
    kind = args[0].type
    function = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(kind, [kind] * len(args)), f"llvm.{name}.{_suffix(kind)}"
    )
    return builder.call(function, args)


def _fma(builder, a, b, c):
    """Return ``a*b + c``: fused where the machine can, since a library call would replace it."""
    if _HAS_FMA:
        return _call(builder, "fma", a, b, c)
    return builder.fadd(builder.fmul(a, b), c)


def _fnma(builder, a, b, c):
    """Return ``c - a*b``."""
    if _HAS_FMA:
        return _call(builder, "fma", builder.fneg(a), b, c)
    return builder.fsub(c, builder.fmul(a, b))


def _loop(builder, count, carried, body):
    """Emit ``for i in range(count)`` with loop-carried values kept in registers."""
    intp = count.type
    zero = ir.Constant(intp, 0)
    before = builder.block
    head = builder.append_basic_block("vector.loop")
    after = builder.append_basic_block("vector.after")
    builder.cbranch(builder.icmp_signed(">", count, zero), head, after)
    builder.position_at_end(head)
    index = builder.phi(intp)
    index.add_incoming(zero, before)
    phis = [builder.phi(value.type) for value in carried]
    new = body(index, phis)
    tail = builder.block
    following = builder.add(index, ir.Constant(intp, 1))
    index.add_incoming(following, tail)
    for phi, first, last in zip(phis, carried, new, strict=True):
        phi.add_incoming(first, before)
        phi.add_incoming(last, tail)
    builder.cbranch(builder.icmp_signed("<", following, count), head, after)
    builder.position_at_end(after)
    results = []
    for first, last in zip(carried, new, strict=True):
        result = builder.phi(first.type)
        result.add_incoming(first, before)
        result.add_incoming(last, tail)
        results.append(result)
    return results


def _tile_intrinsic(rows, vectors, start, sign):
    """Make the intrinsic of one register tile; ``start`` is "zero" or "load"."""

    def tile(typingctx, A, a, lda, B, b, ldb, C, c, ldc, n):
        signature = types.void(
            A, types.intp, types.intp, B, types.intp, types.intp, C, types.intp, types.intp,
            types.intp,
        )  # fmt: skip

        def codegen(context, builder, signature, args):
            _, a, lda, _, b, ldb, _, c, ldc, n = args
            scalar = context.get_data_type(A.dtype)
            lanes = _lanes(A.dtype)
            vector = ir.VectorType(scalar, lanes)
            intp = n.type
            a_pointer = builder.gep(_element(builder, context, A, args[0]), [a])
            b_pointer = builder.gep(_element(builder, context, B, args[3]), [b])
            c_pointer = builder.gep(_element(builder, context, C, args[6]), [c])

            def place(r, v):
                row = builder.mul(ldc, ir.Constant(intp, r))
                return builder.add(row, ir.Constant(intp, v * lanes))

            if start == "zero":
                sums = [_zero(vector)] * (rows * vectors)
            else:
                sums = [
                    _load(builder, c_pointer, place(r, v), vector)
                    for r in range(rows)
                    for v in range(vectors)
                ]

            def body(_, carried):
                left, right, *sums = carried
                loads = [
                    _load(builder, right, ir.Constant(intp, v * lanes), vector)
                    for v in range(vectors)
                ]
                for r in range(rows):
                    value = _load(builder, left, ir.Constant(intp, r), scalar)
                    factor = _splat(builder, value, lanes)
                    for v in range(vectors):
                        update = _fma if sign > 0 else _fnma
                        sums[r * vectors + v] = update(
                            builder, factor, loads[v], sums[r * vectors + v]
                        )
                return [builder.gep(left, [lda]), builder.gep(right, [ldb]), *sums]

            _, _, *sums = _loop(builder, n, [a_pointer, b_pointer, *sums], body)
            for r in range(rows):
                for v in range(vectors):
                    _store(builder, sums[r * vectors + v], c_pointer, place(r, v))
            return context.get_dummy_value()

        return signature, codegen

    return intrinsic(tile)


_tile_set = _tile_intrinsic(_TILE_ROWS, _TILE_VECTORS, "zero", 1)
_tile_add = _tile_intrinsic(_TILE_ROWS, _TILE_VECTORS, "load", 1)
_tile_sub = _tile_intrinsic(_TILE_ROWS, _TILE_VECTORS, "load", -1)
_column_set = _tile_intrinsic(_TILE_ROWS, 1, "zero", 1)
_column_add = _tile_intrinsic(_TILE_ROWS, 1, "load", 1)
_column_sub = _tile_intrinsic(_TILE_ROWS, 1, "load", -1)


@intrinsic
def lanes_of(typingctx, A):
    """Return the vector length of an array's element type, known when compiling."""
    signature = types.intp(A)

    def codegen(context, builder, signature, args):
        return ir.Constant(context.get_value_type(types.intp), _lanes(A.dtype))

    return signature, codegen


@intrinsic
def keep_apart(typingctx):
    """Mark the calling kernel as not to be inlined.

    numba optimises a kernel together with copies of everything it calls; a large kernel that stays
    one function compiles once instead of at every place that calls it.
    """
    signature = types.void()

    def codegen(context, builder, signature, args):
        builder.function.attributes.add("noinline")
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def prefetch_row(typingctx, F, row):
    """Ask for all cache lines of row ``row`` of a C array ``F``."""
    signature = types.void(F, types.intp)

    def codegen(context, builder, signature, args):
        array = context.make_array(F)(context, builder, args[0])
        width = cgutils.unpack_tuple(builder, array.shape, 2)[1]
        pointer = _element(builder, context, F, args[0])
        pointer = builder.gep(pointer, [builder.mul(args[1], width)])
        line = 64 // (F.dtype.bitwidth // 8)
        byte = ir.IntType(8).as_pointer()
        function = cgutils.get_or_insert_function(
            builder.module,
            ir.FunctionType(ir.VoidType(), [byte, _I32, _I32, _I32]),
            f"llvm.prefetch.{byte.intrinsic_name}",
        )
        count = builder.sdiv(
            builder.add(width, ir.Constant(width.type, line - 1)), ir.Constant(width.type, line)
        )

        def body(index, carried):
            place = builder.gep(pointer, [builder.mul(index, ir.Constant(width.type, line))])
            flags = [ir.Constant(_I32, value) for value in (0, 3, 1)]
            builder.call(function, [builder.bitcast(place, byte), *flags])
            return []

        _loop(builder, count, [], body)
        return context.get_dummy_value()

    return signature, codegen


def _emit_move(context, builder, source, destination, factor, vectors, dtype, add):
    """Emit ``destination (+)= factor·source`` over ``vectors`` vectors; no factor is a copy."""
    lanes = _lanes(dtype)
    vector = ir.VectorType(context.get_data_type(dtype), lanes)
    if factor is not None:
        factor = _splat(builder, factor, lanes)

    def body(index, carried):
        place = builder.mul(index, ir.Constant(index.type, lanes))
        value = _load(builder, source, place, vector)
        if add:
            value = _fma(builder, value, factor, _load(builder, destination, place, vector))
        elif factor is not None:
            value = builder.fmul(value, factor)
        _store(builder, value, destination, place)
        return []

    _loop(builder, vectors, [], body)
    return context.get_dummy_value()


@intrinsic
def copy_row(typingctx, F, f, B, b, vectors):
    """Copy ``vectors`` vectors from element ``f`` of ``F`` to element ``b`` of ``B``."""
    signature = types.void(F, types.intp, B, types.intp, types.intp)

    def codegen(context, builder, signature, args):
        source = builder.gep(_element(builder, context, F, args[0]), [args[1]])
        target = builder.gep(_element(builder, context, B, args[2]), [args[3]])
        return _emit_move(context, builder, source, target, None, args[4], F.dtype, False)

    return signature, codegen


@intrinsic
def scale_row(typingctx, F, f, B, b, factor, vectors):
    """Copy as :func:`copy_row`, times ``factor``."""
    signature = types.void(F, types.intp, B, types.intp, F.dtype, types.intp)

    def codegen(context, builder, signature, args):
        source = builder.gep(_element(builder, context, F, args[0]), [args[1]])
        target = builder.gep(_element(builder, context, B, args[2]), [args[3]])
        return _emit_move(context, builder, source, target, args[4], args[5], F.dtype, False)

    return signature, codegen


@intrinsic
def add_row(typingctx, F, f, B, b, factor, vectors):
    """Add ``factor`` times ``vectors`` vectors of ``F`` (element ``f``) to those of ``B``."""
    signature = types.void(F, types.intp, B, types.intp, F.dtype, types.intp)

    def codegen(context, builder, signature, args):
        source = builder.gep(_element(builder, context, F, args[0]), [args[1]])
        target = builder.gep(_element(builder, context, B, args[2]), [args[3]])
        return _emit_move(context, builder, source, target, args[4], args[5], F.dtype, True)

    return signature, codegen


def _transposed_sum(builder, rows, kind):
    """Return the vector of the sums of 8 vectors, in their order (as vectors of ≤ 8 lanes)."""
    count = kind.count
    while count > 8:
        half = count // 2
        rows = [
            builder.fadd(
                _shuffle(builder, row, row, range(half)),
                _shuffle(builder, row, row, range(half, count)),
            )
            for row in rows
        ]
        count = half
    single = isinstance(kind.element, ir.FloatType)
    level = 1
    while level < count:
        if single and level < 4:
            # Within 16 bytes, the pattern of one x86 shuffle: pairs of a, then pairs of b.
            low = [
                base + lane + (count if lane_set else 0)
                for base in range(0, count, 4)
                for lane_set in (0, 1)
                for lane in (0, 2)
            ]
            high = [lane + 1 for lane in low]
        else:
            low = [i if not i & level else i - level + count for i in range(count)]
            high = [i + level if not i & level else i + count for i in range(count)]
        rows = [
            builder.fadd(_shuffle(builder, a, b, low), _shuffle(builder, a, b, high))
            for a, b in zip(rows[::2], rows[1::2], strict=True)
        ]
        level *= 2
    return rows


def _emit_dots(context, builder, pointers, p, vectors, dtype):
    """Return the 8 inner products of the rows at ``pointers`` with the vector at ``p``."""
    lanes = _lanes(dtype)
    vector = ir.VectorType(context.get_data_type(dtype), lanes)

    def body(index, sums):
        place = builder.mul(index, ir.Constant(index.type, lanes))
        value = _load(builder, p, place, vector)
        return [
            _fma(builder, _load(builder, pointer, place, vector), value, partial)
            for pointer, partial in zip(pointers, sums, strict=True)
        ]

    sums = _loop(builder, vectors, [_zero(vector)] * 8, body)
    return _transposed_sum(builder, sums, vector)


def _emit_axpy(context, builder, pointers, factors, acc, vectors, dtype):
    """Add ``Σ factors[s]·row s`` to the vector at ``acc``, in two partial sums."""
    lanes = _lanes(dtype)
    vector = ir.VectorType(context.get_data_type(dtype), lanes)
    splats = [_splat(builder, factor, lanes) for factor in factors]

    def body(index, carried):
        place = builder.mul(index, ir.Constant(index.type, lanes))
        first = _load(builder, acc, place, vector)
        second = builder.fmul(splats[1], _load(builder, pointers[1], place, vector))
        for s in (0, 2, 4, 6):
            first = _fma(builder, splats[s], _load(builder, pointers[s], place, vector), first)
        for s in (3, 5, 7):
            second = _fma(builder, splats[s], _load(builder, pointers[s], place, vector), second)
        _store(builder, builder.fadd(first, second), acc, place)
        return []

    _loop(builder, vectors, [], body)


def _indexed_rows(context, builder, F, f_value, indices, i_value, start, last):
    """Return pointers to rows ``indices[min(start+s, last)]``, s = 0…7, of a C array."""
    array = context.make_array(F)(context, builder, f_value)
    width = cgutils.unpack_tuple(builder, array.shape, 2)[1]
    pointer = _element(builder, context, F, f_value)
    index = _element(builder, context, indices, i_value)
    rows = []
    for s in range(8):
        position = builder.add(start, ir.Constant(start.type, s))
        position = builder.select(builder.icmp_signed("<", position, last), position, last)
        row = builder.load(builder.gep(index, [position]))
        row = context.cast(builder, row, indices.dtype, types.intp)
        rows.append(builder.gep(pointer, [builder.mul(row, width)]))
    return rows


def _consecutive_rows(context, builder, F, f_value, first, column):
    """Return pointers to rows ``first … first+7`` of a C array, from column ``column`` on."""
    array = context.make_array(F)(context, builder, f_value)
    width = cgutils.unpack_tuple(builder, array.shape, 2)[1]
    pointer = _element(builder, context, F, f_value)
    rows = []
    for s in range(8):
        row = builder.add(first, ir.Constant(first.type, s))
        rows.append(builder.gep(pointer, [builder.add(builder.mul(row, width), column)]))
    return rows


def _store_sums(builder, sums, pointer):
    lanes = sums[0].type.count
    for g, value in enumerate(sums):
        _store(builder, value, pointer, ir.Constant(ir.IntType(64), g * lanes))


@intrinsic
def dots8(typingctx, F, indices, start, last, p, vectors, out):
    """Set ``out[s] = F[indices[min(start+s, last)]] · p`` for s = 0…7."""
    signature = types.void(F, indices, types.intp, types.intp, p, types.intp, out)

    def codegen(context, builder, signature, args):
        rows = _indexed_rows(context, builder, F, args[0], indices, args[1], args[2], args[3])
        vector = _element(builder, context, p, args[4])
        sums = _emit_dots(context, builder, rows, vector, args[5], F.dtype)
        _store_sums(builder, sums, _element(builder, context, out, args[6]))
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def axpy8(typingctx, F, indices, start, last, factors, acc, vectors):
    """Set ``acc += Σ_s factors[s]·F[indices[min(start+s, last)]]``, s = 0…7."""
    signature = types.void(F, indices, types.intp, types.intp, factors, acc, types.intp)

    def codegen(context, builder, signature, args):
        rows = _indexed_rows(context, builder, F, args[0], indices, args[1], args[2], args[3])
        pointer = _element(builder, context, factors, args[4])
        scalar = context.get_data_type(F.dtype)
        loads = [_load(builder, pointer, ir.Constant(args[2].type, s), scalar) for s in range(8)]
        target = _element(builder, context, acc, args[5])
        _emit_axpy(context, builder, rows, loads, target, args[6], F.dtype)
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def row_dots8(typingctx, G, first, column, p, vectors, out):
    """Set ``out[s] = G[first+s, column:] · p[column:]`` for s = 0…7, ``vectors`` vectors long."""
    signature = types.void(G, types.intp, types.intp, p, types.intp, out)

    def codegen(context, builder, signature, args):
        rows = _consecutive_rows(context, builder, G, args[0], args[1], args[2])
        vector = builder.gep(_element(builder, context, p, args[3]), [args[2]])
        sums = _emit_dots(context, builder, rows, vector, args[4], G.dtype)
        _store_sums(builder, sums, _element(builder, context, out, args[5]))
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def row_axpy8(typingctx, G, first, column, factors, acc, vectors):
    """Set ``acc[column:] += Σ_s factors[s]·G[first+s, column:]``, ``vectors`` vectors long."""
    signature = types.void(G, types.intp, types.intp, factors, acc, types.intp)

    def codegen(context, builder, signature, args):
        rows = _consecutive_rows(context, builder, G, args[0], args[1], args[2])
        pointer = _element(builder, context, factors, args[3])
        scalar = context.get_data_type(G.dtype)
        loads = [_load(builder, pointer, ir.Constant(args[1].type, s), scalar) for s in range(8)]
        target = builder.gep(_element(builder, context, acc, args[4]), [args[2]])
        _emit_axpy(context, builder, rows, loads, target, args[5], G.dtype)
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def _factor8(typingctx, G, first, unknowns, floor, L, inverse):
    """Factor the 8×8 diagonal block at ``first``; False when a pivot is not above its floor.

    Row j of ``L`` gets the multipliers of elimination step j, ``inverse[first:first+8]`` the
    reciprocal square roots of the pivots. Unknowns from ``unknowns`` on are replaced by identity.
    """
    signature = types.boolean(G, types.intp, types.intp, floor, L, inverse)

    def codegen(context, builder, signature, args):
        _, first, unknowns, _, _, _ = args
        intp = first.type
        scalar = context.get_data_type(G.dtype)
        vector = ir.VectorType(scalar, 8)
        pointers = _consecutive_rows(context, builder, G, args[0], first, first)
        zero = ir.Constant(intp, 0)
        live = builder.sub(unknowns, first)
        lane = ir.Constant(ir.VectorType(_I32, 8), list(range(8)))
        limit = _splat(builder, builder.trunc(live, _I32), 8)
        mask = builder.icmp_signed("<", lane, limit)
        rows = []
        for r in range(8):
            unit = ir.Constant(vector, [float(c == r) for c in range(8)])
            value = builder.select(mask, _load(builder, pointers[r], zero, vector), _zero(vector))
            inside = builder.icmp_signed("<", ir.Constant(intp, r), live)
            rows.append(builder.select(inside, value, unit))
        one = ir.Constant(scalar, 1.0)
        multipliers = _element(builder, context, L, args[4])
        pivots = ir.Constant(vector, ir.Undefined)
        for j in range(8):
            pivot = builder.extract_element(rows[j], ir.Constant(_I32, j))
            pivots = builder.insert_element(pivots, pivot, ir.Constant(_I32, j))
            if j == 7:
                break
            step = builder.fmul(rows[j], _splat(builder, builder.fdiv(one, pivot), 8))
            _store(builder, step, multipliers, ir.Constant(intp, 8 * j))
            for r in range(j + 1, 8):
                factor = _shuffle(builder, step, step, [r] * 8)
                rows[r] = _fnma(builder, factor, rows[j], rows[r])
        root = _call(builder, "sqrt", pivots)
        reciprocal = builder.fdiv(ir.Constant(vector, [1.0] * 8), root)
        _store(builder, reciprocal, _element(builder, context, inverse, args[5]), first)
        limits = _load(builder, _element(builder, context, floor, args[3]), first, vector)
        good = builder.fcmp_ordered(">", pivots, limits)
        bits = builder.bitcast(good, ir.IntType(8))
        return builder.icmp_unsigned("==", bits, ir.Constant(ir.IntType(8), 255))

    return signature, codegen


@intrinsic
def _trsm8(typingctx, G, first, column, vectors, L, inverse):
    """Apply the inverse of a factored 8×8 block to rows first…first+7 from ``column`` on."""
    signature = types.void(G, types.intp, types.intp, types.intp, L, inverse)

    def codegen(context, builder, signature, args):
        _, first, column, vectors, _, _ = args
        intp = first.type
        scalar = context.get_data_type(G.dtype)
        lanes = _lanes(G.dtype)
        vector = ir.VectorType(scalar, lanes)
        pointers = _consecutive_rows(context, builder, G, args[0], first, column)
        multipliers = _element(builder, context, L, args[4])
        scales = builder.gep(_element(builder, context, inverse, args[5]), [first])

        def broadcast(pointer, offset):
            value = _load(builder, pointer, ir.Constant(intp, offset), scalar)
            return _splat(builder, value, lanes)

        def body(index, carried):
            place = builder.mul(index, ir.Constant(intp, lanes))
            rows = [_load(builder, pointer, place, vector) for pointer in pointers]
            for j in range(8):
                for r in range(j + 1, 8):
                    rows[r] = _fnma(builder, broadcast(multipliers, 8 * j + r), rows[j], rows[r])
            for r in range(8):
                value = builder.fmul(rows[r], broadcast(scales, r))
                _store(builder, value, pointers[r], place)
            return []

        _loop(builder, vectors, [], body)
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def _solve8(typingctx, G, first, limit, inverse, t, x):
    """Solve the upper triangular 8×8 block at ``first`` for ``x``, right-hand side in ``t``.

    Entries of ``x`` from ``limit`` on are set to zero.
    """
    signature = types.void(G, types.intp, types.intp, inverse, t, x)

    def codegen(context, builder, signature, args):
        _, first, limit, _, _, _ = args
        intp = first.type
        scalar = context.get_data_type(G.dtype)
        pointers = _consecutive_rows(context, builder, G, args[0], first, first)
        scales = builder.gep(_element(builder, context, inverse, args[3]), [first])
        right = _element(builder, context, t, args[4])
        target = builder.gep(_element(builder, context, x, args[5]), [first])
        live = builder.sub(limit, first)
        values = [_load(builder, right, ir.Constant(intp, r), scalar) for r in range(8)]
        for c in range(7, -1, -1):
            scale = _load(builder, scales, ir.Constant(intp, c), scalar)
            inside = builder.icmp_signed("<", ir.Constant(intp, c), live)
            value = builder.select(inside, builder.fmul(values[c], scale), _zero(scalar))
            _store(builder, value, target, ir.Constant(intp, c))
            for r in range(c):
                entry = _load(builder, pointers[r], ir.Constant(intp, c), scalar)
                entry = builder.select(inside, entry, _zero(scalar))
                values[r] = _fnma(builder, entry, value, values[r])
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def dot(typingctx, A, a, B, b, vectors):
    """Return the inner product of two runs of ``vectors`` vectors, at elements ``a`` and ``b``."""
    signature = A.dtype(A, types.intp, B, types.intp, types.intp)

    def codegen(context, builder, signature, args):
        lanes = _lanes(A.dtype)
        vector = ir.VectorType(context.get_data_type(A.dtype), lanes)
        left = builder.gep(_element(builder, context, A, args[0]), [args[1]])
        right = builder.gep(_element(builder, context, B, args[2]), [args[3]])

        def body(index, sums):
            place = builder.mul(index, ir.Constant(index.type, lanes))
            value = _load(builder, left, place, vector)
            return [_fma(builder, value, _load(builder, right, place, vector), sums[0])]

        (total,) = _loop(builder, args[4], [_zero(vector)], body)
        while total.type.count > 1:
            half = total.type.count // 2
            total = builder.fadd(
                _shuffle(builder, total, total, range(half)),
                _shuffle(builder, total, total, range(half, 2 * half)),
            )
        return builder.extract_element(total, ir.Constant(_I32, 0))

    return signature, codegen


@njit(cache=True, error_model="numpy")
def gram(B, n, G, rows, first):
    """Upper triangle of ``G = BᵀB`` (``first``) or ``G += BᵀB`` over ``n`` rows of ``B``.

    Layout: ``B (≥ n, width)`` and ``G (≥ rows rounded up to 8, width)`` C arrays, width a multiple
    of the vector length; rows ``0 … rows-1`` of ``G`` are formed, from the diagonal to column
    ``rows`` (the right-hand side).

    Cost: ``n·rows·(rows + 1)`` useful flops, no memory traffic beyond ``B``.
    """
    keep_apart()
    width = B.shape[1]
    lanes = lanes_of(B)
    vectors = rows // lanes + 1
    for i in range(0, rows, _TILE_ROWS):
        v = i // lanes
        while v + _TILE_VECTORS <= vectors:
            j = v * lanes
            if first:
                _tile_set(B, i, width, B, j, width, G, i * width + j, width, n)
            else:
                _tile_add(B, i, width, B, j, width, G, i * width + j, width, n)
            v += _TILE_VECTORS
        while v < vectors:
            j = v * lanes
            if first:
                _column_set(B, i, width, B, j, width, G, i * width + j, width, n)
            else:
                _column_add(B, i, width, B, j, width, G, i * width + j, width, n)
            v += 1


@njit(cache=True, error_model="numpy")
def cholesky(G, unknowns, floor, L, inverse):
    """Factor ``G = UᵀU`` in place, with the column right of the unknowns solved forward.

    Layout: ``G (≥ unknowns rounded up to 8, width)`` C array whose upper triangle is read and
    replaced by ``U``; column ``unknowns`` is replaced by ``U⁻ᵀ`` times itself.
    ``floor`` and ``inverse`` hold one value per row (rounded up to 8), ``L`` is ``(8, 8)``.

    Returns
    -------
    int
        -1, or the first row of the block with a pivot that is not above its ``floor``.

    Notes
    -----
    Cost: ``unknowns³/3 + unknowns²`` flops.
    """
    keep_apart()
    width = G.shape[1]
    lanes = lanes_of(G)
    vectors = unknowns // lanes + 1
    for i in range(0, unknowns, 8):
        if i > 0:
            for r in range(i, min(i + 8, unknowns), _TILE_ROWS):
                v = i // lanes
                while v + _TILE_VECTORS <= vectors:
                    j = v * lanes
                    _tile_sub(G, r, width, G, j, width, G, r * width + j, width, i)
                    v += _TILE_VECTORS
                while v < vectors:
                    j = v * lanes
                    _column_sub(G, r, width, G, j, width, G, r * width + j, width, i)
                    v += 1
        if not _factor8(G, i, unknowns, floor, L, inverse):
            return i
        v = i // lanes
        _trsm8(G, i, v * lanes, vectors - v, L, inverse)
    return -1


@njit(cache=True, error_model="numpy")
def back_substitute(G, unknowns, y, inverse, t, x):
    """Solve ``U x = y`` for the factor left by :func:`cholesky`.

    Layout: ``y`` and ``x`` have one value per column of ``G`` (they may not overlap), ``t (8,)``.
    Entries of ``x`` from ``unknowns`` on become zero.

    Cost: ``unknowns²`` flops.
    """
    keep_apart()
    lanes = lanes_of(G)
    vectors = unknowns // lanes + 1
    for c in range(len(x)):
        x[c] = 0
    for i in range(8 * ((unknowns - 1) // 8), -1, -8):
        v = (i + 8) // lanes
        row_dots8(G, i, v * lanes, x, vectors - v, t)
        for s in range(8):
            t[s] = y[i + s] - t[s]
        _solve8(G, i, unknowns, inverse, t, x)


@njit(cache=True, error_model="numpy")
def forward_substitute(G, unknowns, y, inverse, w8):
    """Solve ``Uᵀ z = y`` in place for the factor left by :func:`cholesky`.

    Layout: as :func:`back_substitute`; entries of ``y`` from ``unknowns`` on become zero,
    ``w8 (8,)`` is work.

    Cost: ``unknowns²`` flops.
    """
    keep_apart()
    lanes = lanes_of(G)
    vectors = unknowns // lanes + 1
    for i in range(0, unknowns, 8):
        live = min(8, unknowns - i)
        for r in range(live):
            value = y[i + r]
            for s in range(r):
                value += w8[s] * G[i + s, i + r]
            value *= inverse[i + r]
            y[i + r] = value
            w8[r] = -value
        for r in range(live, 8):
            w8[r] = 0
        v = (i + 8) // lanes
        if (i + 8) % lanes != 0:
            for c in range(i + 8, min((v + 1) * lanes, unknowns)):
                value = y[c]
                for s in range(live):
                    value += w8[s] * G[i + s, c]
                y[c] = value
            v += 1
        row_axpy8(G, i, v * lanes, w8, y, vectors - v)
    for c in range(unknowns, len(y)):
        y[c] = 0
