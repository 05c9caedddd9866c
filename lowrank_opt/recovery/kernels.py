"""Row-solve kernels of matrix completion, and thin functions that call them.

A half sweep fixes one factor ``F`` and replaces every row of the other one, ``X``, by the solution
of its own small regression on the observed entries of that row.  Call a function with the
compressed rows and ``F = V, X = U`` for the rows, and with the compressed columns and
``F = U, X = V`` for the columns.

Layout, everywhere: ``indptr (rows+1,)`` int64, ``indices (N,)``, ``values (N,)``, ``weights (N,)``
or size 0, factors ``(rows, width)`` C arrays of one dtype with
``width = padded_width(rank, bias, dtype)``: the factor in columns ``0 … rank-1``, the own bias in
column ``rank`` when there is one, and zeros to the right.  ``indices`` select rows of ``F``.

The functions without underscore and without ``half_`` are the interface of the solvers; the
``half_…`` kernels work on rows ``lo … hi-1``, leave all others alone and release the interpreter
lock, so that several threads can work on different rows.  Rows do not depend on each other and
every reduction has a fixed order: one and many threads give the same bits.
"""

from __future__ import annotations

import itertools
import math
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numba
import numpy as np
from numba import njit

from lowrank_opt.numerics.kernels_vector import (
    CHUNK,
    add_row,
    aligned_zeros,
    axpy8,
    back_substitute,
    cholesky,
    copy_row,
    dot,
    dots8,
    forward_substitute,
    gram,
    keep_apart,
    lanes_of,
    padded_width,
    prefetch_row,
    row_axpy8,
    scale_row,
)

__all__ = [
    "SolveReport",
    "factor_gradient",
    "first_order",
    "pad_factor",
    "predict_pairs",
    "residuals",
    "ridge_penalty",
    "robust_weights",
    "rotate_factors",
    "row_chunks",
    "row_ridge",
    "row_workspace",
    "sample_rows",
    "solve_rows",
    "solve_rows_cg",
    "solve_rows_sketch",
]

# What a half sweep reads and writes in ``status``.
SOLVED, EMPTY, UNDETERMINED, MINIMUM_NORM, PENDING = 0, 1, 2, 3, 4

_PREFETCH = 8
_PARALLEL_ENTRIES = 20_000
_CHUNKS_PER_THREAD = 16
_RELATIVE_PIVOT = 10.0
_DUAL_BELOW = 0.7
_VECTORS = 16
_DESCENT_PASSES = 100


class SolveReport(NamedTuple):
    """What happened in one half sweep.

    Parameters
    ----------
    n_empty : int
        Rows without data, set to exactly zero.
    n_minimum_norm : int
        Rows with fewer entries than unknowns and no ridge: the solution of least norm was taken.
    n_repaired : int
        Rows whose Cholesky factorisation failed, solved again by an eigendecomposition.
    n_steps : int
        Conjugate-gradient steps of all rows together (0 for direct solves).
    """

    n_empty: int
    n_minimum_norm: int
    n_repaired: int
    n_steps: int


# --------------------------------------------------------------------------------------------
# Compiled kernels
# --------------------------------------------------------------------------------------------


@njit(cache=True, error_model="numpy")
def _gather(indices, values, weights, start, count, F, B, unknowns, bias):
    """Copy the factor rows of ``count`` entries to ``B``, with the target as last column."""
    width = F.shape[1]
    vectors = width // lanes_of(F)
    last = len(indices)
    weighted = len(weights) > 0
    for t in range(count):
        e = start + t
        if e + _PREFETCH < last:
            prefetch_row(F, indices[e + _PREFETCH])
        row = np.int64(indices[e])
        target = values[e]
        if bias:
            target -= F[row, unknowns - 1]
        if weighted:
            root = math.sqrt(weights[e])
            scale_row(F, row * width, B, t * width, root, vectors)
            if bias:
                B[t, unknowns - 1] = root
            B[t, unknowns] = root * target
        else:
            copy_row(F, row * width, B, t * width, vectors)
            if bias:
                B[t, unknowns - 1] = 1
            B[t, unknowns] = target


@njit(cache=True, error_model="numpy")
def _row_gram(indices, values, weights, start, stop, F, B, G, unknowns, bias, first):
    """Add the Gram matrix of one row's entries, right-hand side included, to ``G``."""
    done = start
    while done < stop:
        count = min(CHUNK, stop - done)
        _gather(indices, values, weights, done, count, F, B, unknowns, bias)
        gram(B, count, G, unknowns, first)
        first = False
        done += count


@njit(cache=True, error_model="numpy")
def _work_size(width):
    """Return the number of elements that :func:`_buffers` cuts up."""
    return (max(CHUNK, width) + 2 * width + _VECTORS) * width + 64


@njit(cache=True, error_model="numpy")
def _buffers(work, width):
    """Cut one thread's workspace: gathered rows, two square matrices, an 8×8 block, vectors."""
    gathered = max(CHUNK, width)
    a = gathered * width
    b = a + width * width
    c = b + width * width
    d = c + 64
    return (
        work[:a].reshape(gathered, width),
        work[a:b].reshape(width, width),
        work[b:c],
        work[c:d].reshape(8, 8),
        work[d : d + _VECTORS * width].reshape(_VECTORS, width),
    )


@njit(cache=True, error_model="numpy")
def _pivot_floor(G, unknowns, floor):
    """Set the smallest acceptable pivot of every row: a few roundings of its diagonal."""
    limit = _RELATIVE_PIVOT * np.finfo(G.dtype).eps
    for c in range(len(floor)):
        floor[c] = 0
    for c in range(unknowns):
        floor[c] = limit * G[c, c]


@njit(cache=True, error_model="numpy")
def _solve_dual(count, B, T, G, L, v, unknowns, ridge, ridge_bias, bias, out):
    """Solve a row with fewer entries than unknowns through its ``count × count`` system.

    With ``D`` the ridge, solves ``(B D⁻¹ Bᵀ + I) a = b`` and sets ``out = D⁻¹ Bᵀ a``; without a
    ridge ``D = I`` and the shift is left out, which gives the solution of least norm.
    """
    keep_apart()
    lanes = lanes_of(B)
    rows = 8 * (-(-count // 8))
    width = lanes * max(-(-(count + 1) // lanes), -(-rows // lanes))
    T = T[: unknowns * width].reshape(unknowns, width)
    K = G.reshape(G.size)[: rows * width].reshape(rows, width)
    floor, inverse, y, x, t, scale = v[0], v[1], v[2], v[3], v[4], v[5]
    shift = ridge > 0
    scale[:] = 1
    if shift:
        scale[:unknowns] = 1 / math.sqrt(ridge)
        if bias:
            scale[unknowns - 1] = 1 / math.sqrt(ridge_bias)
    for c in range(unknowns):
        for s in range(count):
            T[c, s] = B[s, c] * scale[c]
        for s in range(count, width):
            T[c, s] = 0
    gram(T, unknowns, K, count, True)
    for s in range(count):
        if shift:
            K[s, s] += 1
        K[s, count] = B[s, unknowns]
    _pivot_floor(K, count, floor)
    if cholesky(K, count, floor, L, inverse) >= 0:
        return False
    for s in range(count):
        y[s] = K[s, count]
    back_substitute(K, count, y, inverse, t, x)
    for c in range(len(out)):
        y[c] = 0
    for s in range(count, rows):
        B[s] = 0
    for s in range(0, rows, 8):
        row_axpy8(B, s, 0, x[s:], y, len(y) // lanes)
    for c in range(unknowns):
        out[c] = y[c] * scale[c] * scale[c]
    out[unknowns:] = 0
    return True


@njit(cache=True, error_model="numpy")
def _normal_equations(
    indices, values, weights, start, stop, F, B, G, unknowns, bias, lam, lam_bias, base_gram,
    base_rhs, i,
):  # fmt: skip
    """Form one row's normal equations in ``G``, ridge and right-hand side included."""
    keep_apart()
    rows = 8 * (-(-unknowns // 8))
    based = base_gram.size > 0
    if based:
        copy_row(base_gram, 0, G, 0, rows * (G.shape[1] // lanes_of(G)))
    elif start == stop:
        G[:rows] = 0
    _row_gram(indices, values, weights, start, stop, F, B, G, unknowns, bias, not based)
    for c in range(unknowns):
        G[c, c] += lam
    if bias:
        G[unknowns - 1, unknowns - 1] += lam_bias - lam
    if based:
        for c in range(unknowns):
            G[c, unknowns] += base_rhs[i, c]


@njit(cache=True, error_model="numpy", nogil=True)
def half_exact(
    lo, hi, indptr, indices, values, weights, F, X, ridge, ridge_bias, rank, bias, base_gram,
    base_rhs, dual, status, work,
):  # fmt: skip
    """Replace rows ``lo … hi-1`` of ``X`` by the exact solution of their regressions.

    Row ``i`` minimises ``Σ_e w_e (values_e - b_e - F_e·x)² + ridge[i]·|x|²`` over its entries,
    ``b_e`` the bias of the other side; with a bias the own bias is one more unknown, with
    ``ridge_bias[i]``.

    Layout: see the module. ``ridge (rows,)``, ``ridge_bias (rows,)`` or size 0;
    ``base_gram (width, width)`` and ``base_rhs (rows, width)`` (or size 0) are added to the normal
    equations; rows with fewer than ``dual`` entries, a positive ridge and no base are solved in
    dual form. ``status (rows,)`` int8: rows that are not PENDING are skipped, the others become
    SOLVED, EMPTY (row set to zero), UNDETERMINED (row left alone) or MINIMUM_NORM; ``work (_,)`` is
    one row of :func:`row_workspace`.

    Cost: ``n·k·(k+1) + k³/3`` flops a row of ``n`` entries, or ``n²k + n³/3`` in dual form.
    """
    width = F.shape[1]
    vectors = width // lanes_of(F)
    unknowns = rank + 1 if bias else rank
    B, G, T, L, v = _buffers(work, width)
    floor, inverse, y, x, t = v[0], v[1], v[2], v[3], v[4]
    based = base_gram.size > 0
    for i in range(lo, hi):
        if status[i] != PENDING:
            continue
        start = indptr[i]
        stop = indptr[i + 1]
        count = stop - start
        if count == 0 and not based:
            X[i] = 0
            status[i] = EMPTY
            continue
        lam = ridge[i]
        lam_bias = ridge_bias[i] if bias else lam
        free = lam <= 0 and lam_bias <= 0
        short = count < dual and min(lam, lam_bias) > 0
        if not based and count < unknowns and (free or short):
            _gather(indices, values, weights, start, count, F, B, unknowns, bias)
            good = _solve_dual(count, B, T, G, L, v, unknowns, lam, lam_bias, bias, x)
            solved = MINIMUM_NORM if free else SOLVED
        else:
            _normal_equations(
                indices, values, weights, start, stop, F, B, G, unknowns, bias, lam, lam_bias,
                base_gram, base_rhs, i,
            )  # fmt: skip
            _pivot_floor(G, unknowns, floor)
            good = cholesky(G, unknowns, floor, L, inverse) < 0
            solved = SOLVED
            if good:
                for c in range(unknowns):
                    y[c] = G[c, unknowns]
                back_substitute(G, unknowns, y, inverse, t, x)
        if good:
            copy_row(x, 0, X, i * width, vectors)
            status[i] = solved
        else:
            status[i] = UNDETERMINED


@njit(cache=True, error_model="numpy")
def _normal_pass(indices, values, weights, start, stop, F, p, own_bias, subtract, w8, acc):
    """Set ``acc = Aᵀ W (values - A p)`` (``subtract``) or ``Aᵀ W A p``; return the sum of terms.

    ``p`` has a zero (or, with the other side's bias in the residual, a one) in the bias column
    and ``own_bias`` is added to every product.
    """
    keep_apart()
    vectors = F.shape[1] // lanes_of(F)
    weighted = len(weights) > 0
    last = len(indices) - 1
    total = own_bias * 0
    for c in range(len(acc)):
        acc[c] = 0
    for e in range(start, stop, 8):
        if subtract:  # the first pass over a row; later ones find it in the cache
            for s in range(e + 8, min(e + 16, last)):
                prefetch_row(F, indices[s])
        dots8(F, indices, e, stop - 1, p, vectors, w8)
        live = min(8, stop - e)
        for s in range(live):
            w8[s] += own_bias
            if subtract:
                w8[s] = values[e + s] - w8[s]
            if weighted:
                w8[s] *= weights[e + s]
            total += w8[s]
        for s in range(live, 8):
            w8[s] = 0
        axpy8(F, indices, e, stop - 1, w8, acc, vectors)
    return total


@njit(cache=True, error_model="numpy", nogil=True)
def half_cg(
    lo, hi, indptr, indices, values, weights, F, X, ridge, ridge_bias, rank, bias, scale, n_steps,
    rtol, work,
):  # fmt: skip
    """Improve rows ``lo … hi-1`` of ``X`` by conjugate-gradient steps from where they are.

    Solves the regressions of :func:`half_exact` approximately, with the diagonal preconditioner
    ``(Σ_e w_e)·scale + ridge``; for ``scale`` to describe ``F`` its columns should be orthogonal
    (:func:`rotate_factors`). The row objective never increases.

    Layout: as :func:`half_exact`; ``scale (width,)`` is the mean square of every column of ``F``.
    A row stops after ``n_steps`` steps, or when its preconditioned residual norm fell by ``rtol``.
    Rows without data are set to zero.

    Returns
    -------
    int
        Steps of all rows together.

    Notes
    -----
    Cost: ``4·(n_steps + 1)·n·k`` flops a row of ``n`` entries.
    """
    width = F.shape[1]
    vectors = width // lanes_of(F)
    unknowns = rank + 1 if bias else rank
    _, _, _, _, v = _buffers(work, width)
    x, r, z, p, q, diagonal, inverse, w8 = v[0], v[1], v[2], v[3], v[4], v[5], v[6], v[7]
    steps = 0
    zero = scale[0] * 0
    limit = rtol * rtol
    for i in range(lo, hi):
        start = indptr[i]
        stop = indptr[i + 1]
        if stop == start:
            X[i] = 0
            continue
        copy_row(X, i * width, x, 0, vectors)
        mass = zero
        if len(weights) > 0:
            for e in range(start, stop):
                mass += weights[e]
        else:
            mass += stop - start
        diagonal[:] = 0
        diagonal[:rank] = ridge[i]
        if bias:
            diagonal[rank] = ridge_bias[i]
        inverse[:] = 0
        for c in range(unknowns):
            d = mass * scale[c] + diagonal[c]
            if bias and c == rank:
                d = mass + diagonal[c]
            if d > 0:
                inverse[c] = 1 / d
        own = zero
        copy_row(x, 0, p, 0, vectors)
        if bias:
            own = x[rank]
            p[rank] = 1
        total = _normal_pass(indices, values, weights, start, stop, F, p, own, True, w8, r)
        if bias:
            r[rank] = total
        rz = _cg_start(r, x, diagonal, inverse, z, p)
        first = rz
        for _ in range(n_steps):
            if not rz > limit * first or not rz > 0:
                break
            own = zero
            if bias:
                own = p[rank]
                p[rank] = 0
            total = _normal_pass(indices, values, weights, start, stop, F, p, own, False, w8, q)
            if bias:
                p[rank] = own
                q[rank] = total
            rz = _cg_step(rz, x, r, z, p, q, diagonal, inverse)
            steps += 1
        copy_row(x, 0, X, i * width, vectors)
    return steps


@njit(cache=True, error_model="numpy", fastmath={"reassoc", "contract", "arcp"})
def _cg_start(r, x, diagonal, inverse, z, p):
    """Finish the first residual, set the first direction and return ``r·z``."""
    rz = r[0] * 0
    for c in range(len(x)):
        r[c] -= diagonal[c] * x[c]
        z[c] = inverse[c] * r[c]
        p[c] = z[c]
        rz += r[c] * z[c]
    return rz


@njit(cache=True, error_model="numpy", fastmath={"reassoc", "contract", "arcp"})
def _cg_step(rz, x, r, z, p, q, diagonal, inverse):
    """One step of preconditioned conjugate gradients, given ``q = Aᵀ W A p``; return ``r·z``."""
    curvature = rz * 0
    for c in range(len(x)):
        q[c] += diagonal[c] * p[c]
        curvature += p[c] * q[c]
    if not curvature > 0:
        return rz * 0
    alpha = rz / curvature
    new = rz * 0
    for c in range(len(x)):
        x[c] += alpha * p[c]
        r[c] -= alpha * q[c]
        z[c] = inverse[c] * r[c]
        new += r[c] * z[c]
    beta = new / rz
    for c in range(len(x)):
        p[c] = z[c] + beta * p[c]
    return new


@njit(cache=True, error_model="numpy", nogil=True)
def half_residual(lo, hi, indptr, indices, values, weights, F, X, rank, bias, out, squares, work):
    """Set ``out = values - prediction`` on the entries of rows ``lo … hi-1``.

    Layout: ``out (N,)`` in the order of ``values``; ``squares (rows,)`` float64 gets every row's
    (weighted) sum of squares, accumulated in float64 in the order of the entries.

    Cost: ``2·n·k`` flops a row of ``n`` entries.
    """
    width = F.shape[1]
    vectors = width // lanes_of(F)
    _, _, _, _, v = _buffers(work, width)
    p, w8 = v[0], v[1]
    own = p[0] * 0
    weighted = len(weights) > 0
    last = len(indices) - 1
    for i in range(lo, hi):
        stop = indptr[i + 1]
        copy_row(X, i * width, p, 0, vectors)
        if bias:
            own = p[rank]
            p[rank] = 1
        total = 0.0
        for e in range(indptr[i], stop, 8):
            for s in range(e + 8, min(e + 16, last)):
                prefetch_row(F, indices[s])
            dots8(F, indices, e, stop - 1, p, vectors, w8)
            for s in range(min(8, stop - e)):
                difference = values[e + s] - (w8[s] + own)
                out[e + s] = difference
                square = np.float64(difference) * np.float64(difference)
                if weighted:
                    square *= weights[e + s]
                total += square
        squares[i] = total


@njit(cache=True, error_model="numpy", nogil=True)
def half_gradient(
    lo, hi, indptr, indices, residual, perm, weights, F, X, ridge, ridge_bias, rank, bias, out,
    work,
):  # fmt: skip
    """Set ``out`` to the gradient of the objective in rows ``lo … hi-1`` of ``X``.

    Row ``i`` is ``2·(ridge[i]·x_i - Σ_e w_e·residual_e·F_e)``, the bias column likewise with a
    constant one for ``F_e``.

    Layout: ``residual (N,)`` is read at ``e``, or at ``perm[e]`` when ``perm`` is not of size 0;
    ``out`` like ``X``.

    Cost: ``2·n·k`` flops a row of ``n`` entries.
    """
    width = F.shape[1]
    vectors = width // lanes_of(F)
    _, _, _, _, v = _buffers(work, width)
    acc, w8 = v[0], v[1]
    weighted = len(weights) > 0
    permuted = len(perm) > 0
    last = len(indices) - 1
    for i in range(lo, hi):
        stop = indptr[i + 1]
        acc[:] = 0
        total = acc[0] * 0
        for e in range(indptr[i], stop, 8):
            for s in range(e + 8, min(e + 16, last)):
                prefetch_row(F, indices[s])
            live = min(8, stop - e)
            for s in range(live):
                w8[s] = residual[perm[e + s]] if permuted else residual[e + s]
                if weighted:
                    w8[s] *= weights[e + s]
                total += w8[s]
            for s in range(live, 8):
                w8[s] = 0
            axpy8(F, indices, e, stop - 1, w8, acc, vectors)
        for c in range(rank):
            out[i, c] = 2 * (ridge[i] * X[i, c] - acc[c])
        out[i, rank:] = 0
        if bias:
            out[i, rank] = 2 * (ridge_bias[i] * X[i, rank] - total)


@njit(cache=True, error_model="numpy", nogil=True)
def half_first_order(
    lo, hi, indptr, indices, values, weights, F, X, ridge, ridge_bias, rank, bias, out, squares,
    work,
):  # fmt: skip
    """Do the work of :func:`half_residual` and :func:`half_gradient` in one pass over the rows.

    Layout: as there; the residuals themselves are not kept.

    Cost: ``4·n·k`` flops a row of ``n`` entries.
    """
    width = F.shape[1]
    vectors = width // lanes_of(F)
    _, _, _, _, v = _buffers(work, width)
    p, w8, acc = v[0], v[1], v[2]
    own = p[0] * 0
    weighted = len(weights) > 0
    last = len(indices) - 1
    for i in range(lo, hi):
        stop = indptr[i + 1]
        copy_row(X, i * width, p, 0, vectors)
        if bias:
            own = p[rank]
            p[rank] = 1
        acc[:] = 0
        total = acc[0] * 0
        square = 0.0
        for e in range(indptr[i], stop, 8):
            for s in range(e + 8, min(e + 16, last)):
                prefetch_row(F, indices[s])
            dots8(F, indices, e, stop - 1, p, vectors, w8)
            live = min(8, stop - e)
            for s in range(live):
                difference = values[e + s] - (w8[s] + own)
                w8[s] = difference
                if weighted:
                    w8[s] *= weights[e + s]
                square += np.float64(difference) * np.float64(w8[s])
                total += w8[s]
            for s in range(live, 8):
                w8[s] = 0
            axpy8(F, indices, e, stop - 1, w8, acc, vectors)
        squares[i] = square
        for c in range(rank):
            out[i, c] = 2 * (ridge[i] * X[i, c] - acc[c])
        out[i, rank:] = 0
        if bias:
            out[i, rank] = 2 * (ridge_bias[i] * X[i, rank] - total)


@njit(cache=True, error_model="numpy", nogil=True)
def half_nonnegative(
    lo, hi, indptr, indices, values, weights, F, X, ridge, ridge_bias, rank, bias, base_gram,
    base_rhs, n_passes, rtol, status, work,
):  # fmt: skip
    """Replace rows ``lo … hi-1`` of ``X`` by the solution with non-negative factor entries.

    Coordinate descent on the normal equations of :func:`half_exact` from the old row, whose
    negative entries are set to zero first; the bias may have either sign.

    Layout: as :func:`half_exact`. A row ends after ``n_passes`` passes over its coordinates, or
    when no coordinate moved by more than ``rtol`` times the largest one. A coordinate whose
    diagonal is not positive becomes zero. ``status`` gets SOLVED or EMPTY.

    Cost: ``n·k·(k+1)`` flops a row of ``n`` entries, plus ``2·k²`` a pass.
    """
    unknowns = rank + 1 if bias else rank
    B, G, _, _, v = _buffers(work, F.shape[1])
    x, r = v[0], v[1]
    for i in range(lo, hi):
        start = indptr[i]
        stop = indptr[i + 1]
        if start == stop and base_gram.size == 0:
            X[i] = 0
            status[i] = EMPTY
            continue
        _normal_equations(
            indices, values, weights, start, stop, F, B, G, unknowns, bias, ridge[i],
            ridge_bias[i] if bias else ridge[i], base_gram, base_rhs, i,
        )  # fmt: skip
        for c in range(unknowns):
            r[c] = G[c, unknowns]
            x[c] = X[i, c]
            if c < rank and not x[c] > 0:
                x[c] = 0
            for d in range(c):
                G[c, d] = G[d, c]
        for c in range(unknowns):
            for d in range(unknowns):
                r[d] -= x[c] * G[c, d]
        for _ in range(n_passes):
            moved = x[0] * 0
            largest = x[0] * 0
            for c in range(unknowns):
                if not G[c, c] > 0:
                    x[c] = 0
                    continue
                new = x[c] + r[c] / G[c, c]
                if c < rank and new < 0:
                    new = x[c] * 0
                change = new - x[c]
                if change != 0:
                    x[c] = new
                    for d in range(unknowns):
                        r[d] -= change * G[c, d]
                moved = max(moved, abs(change))
                largest = max(largest, abs(new))
            if moved <= rtol * largest:
                break
        for c in range(unknowns):
            X[i, c] = x[c]
        status[i] = SOLVED


@njit(cache=True, error_model="numpy", nogil=True)
def half_gibbs(
    lo, hi, indptr, indices, values, weights, F, X, alpha, precision, mean, normals, rank, bias,
    status, work,
):  # fmt: skip
    """Draw rows ``lo … hi-1`` of ``X`` from their conditional normal distributions.

    Row ``i`` has precision ``H = alpha·Σ_e w_e f_e f_eᵀ + diag(precision)`` and mean
    ``H⁻¹(alpha·Σ_e w_e r_e f_e + precision·mean)``; with ``H/alpha = UᵀU`` the draw is
    ``U⁻¹(U⁻ᵀ g/alpha + normals_i/√alpha)``. Rows without data are drawn from the prior.

    Layout: as :func:`half_exact`; ``precision`` and ``mean (≥ rank + bias,)``,
    ``normals (rows, ≥ rank + bias)`` standard normal, ``precision > 0``. ``status`` gets SOLVED, or
    UNDETERMINED where the factorisation failed (row left alone).

    Cost: that of :func:`half_exact` in primal form.
    """
    width = F.shape[1]
    vectors = width // lanes_of(F)
    unknowns = rank + 1 if bias else rank
    B, G, _, L, v = _buffers(work, width)
    floor, inverse, y, x, t = v[0], v[1], v[2], v[3], v[4]
    rows = 8 * (-(-unknowns // 8))
    spread = 1 / math.sqrt(alpha)
    for i in range(lo, hi):
        start = indptr[i]
        stop = indptr[i + 1]
        if start == stop:
            G[:rows] = 0
        _row_gram(indices, values, weights, start, stop, F, B, G, unknowns, bias, True)
        for c in range(unknowns):
            prior = precision[c] / alpha
            G[c, c] += prior
            G[c, unknowns] += prior * mean[c]
        _pivot_floor(G, unknowns, floor)
        if cholesky(G, unknowns, floor, L, inverse) >= 0:
            status[i] = UNDETERMINED
            continue
        for c in range(unknowns):
            y[c] = G[c, unknowns] + spread * normals[i, c]
        back_substitute(G, unknowns, y, inverse, t, x)
        copy_row(x, 0, X, i * width, vectors)
        status[i] = SOLVED


@njit(cache=True, error_model="numpy")
def _mix(counter):
    """Hash a 64-bit counter (the finaliser of splitmix64)."""
    z = counter * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@njit(cache=True, error_model="numpy")
def _sketch_row(indices, values, weights, start, stop, F, B, SA, unknowns, bias, nonzeros, seed):
    """Set ``SA`` to a sparse-sign sketch of one row's regression, right-hand side included.

    Every entry goes to one row in each of ``nonzeros`` equal groups of rows, with a random sign.
    """
    keep_apart()
    width = F.shape[1]
    vectors = unknowns // lanes_of(F) + 1
    group = len(SA) // nonzeros
    SA[:] = 0
    size = 1 / math.sqrt(F.dtype.type(nonzeros))
    done = start
    while done < stop:
        count = min(CHUNK, stop - done)
        _gather(indices, values, weights, done, count, F, B, unknowns, bias)
        for t in range(count):
            for g in range(nonzeros):
                counter = np.uint64(done + t) * np.uint64(nonzeros) + np.uint64(g)
                bits = _mix(_mix(counter) ^ seed)
                row = g * group + np.int64(
                    ((bits >> np.uint64(33)) * np.uint64(group)) >> np.uint64(31)
                )
                factor = size if bits & np.uint64(1) else -size
                add_row(B, t * width, SA, row * width, factor, vectors)
        done += count


@njit(cache=True, error_model="numpy", nogil=True)
def half_sketch(
    lo, hi, indptr, indices, values, weights, F, X, ridge, ridge_bias, rank, bias, sketch_rows,
    nonzeros, seed, n_steps, rtol, status, work,
):  # fmt: skip
    """Solve rows ``lo … hi-1`` of ``X`` by sketch-and-precondition regression.

    A row with more than ``sketch_rows`` entries is compressed by a sparse-sign matrix ``S``; the
    Cholesky factor ``R`` of the sketched normal equations gives the start ``argmin |S(Ax - b)|``
    and the preconditioner of conjugate gradients on ``|AR⁻¹z - b|``. A shorter row would be its own
    sketch: it stays PENDING, for :func:`half_exact`, as does one whose sketch has no factor.

    Layout: as :func:`half_exact`; ``work`` from :func:`row_workspace` with ``sketch_rows``, a
    multiple of ``nonzeros``. ``seed`` uint64: the signs depend on it and on the position of an
    entry alone. A row stops when ``|R⁻ᵀ Aᵀ(b - Ax)| <= rtol·|R⁻ᵀ Aᵀb|`` (sketched), or after
    ``n_steps`` steps.

    Returns
    -------
    int
        Steps of all rows together.

    Notes
    -----
    Cost: ``2·nonzeros·n·k + sketch_rows·k² + k³/3 + (steps + 1)·(4·n·k + 2·k²)`` flops a row of
    ``n`` entries.
    """
    width = F.shape[1]
    vectors = width // lanes_of(F)
    unknowns = rank + 1 if bias else rank
    B, G, _, L, v = _buffers(work, width)
    x, r, z, p, q, diagonal, w8, t = v[8], v[9], v[10], v[11], v[12], v[13], v[14], v[4]
    inverse = v[1]
    begin = _work_size(width)
    SA = work[begin : begin + sketch_rows * width].reshape(sketch_rows, width)
    zero = F[0, 0] * 0
    steps = 0
    for i in range(lo, hi):
        start = indptr[i]
        stop = indptr[i + 1]
        lam = ridge[i]
        lam_bias = ridge_bias[i] if bias else lam
        ready = stop - start > sketch_rows
        if ready:
            _sketch_row(
                indices, values, weights, start, stop, F, B, SA, unknowns, bias, nonzeros, seed
            )
            gram(SA, sketch_rows, G, unknowns, True)
            for c in range(unknowns):
                diagonal[c] = lam if c < rank else lam_bias
                G[c, c] += diagonal[c]
            _pivot_floor(G, unknowns, v[0])
            ready = cholesky(G, unknowns, v[0], L, inverse) < 0
        if not ready:
            continue
        size = zero
        for c in range(unknowns):
            r[c] = G[c, unknowns]
            size += r[c] * r[c]
        limit = rtol * rtol * size
        back_substitute(G, unknowns, r, inverse, t, x)
        own = zero
        copy_row(x, 0, p, 0, vectors)
        if bias:
            own = x[rank]
            p[rank] = 1
        total = _normal_pass(indices, values, weights, start, stop, F, p, own, True, w8, r)
        if bias:
            r[rank] = total
        for c in range(unknowns):
            r[c] -= diagonal[c] * x[c]
        rz = _precondition(G, unknowns, r, inverse, w8, t, q, z)
        copy_row(z, 0, p, 0, vectors)
        for _ in range(n_steps):
            if not rz > limit:
                break
            own = zero
            if bias:
                own = p[rank]
                p[rank] = 0
            total = _normal_pass(indices, values, weights, start, stop, F, p, own, False, w8, q)
            if bias:
                p[rank] = own
                q[rank] = total
            curvature = zero
            for c in range(unknowns):
                q[c] += diagonal[c] * p[c]
                curvature += p[c] * q[c]
            if not curvature > 0:
                break
            step = rz / curvature
            for c in range(unknowns):
                x[c] += step * p[c]
                r[c] -= step * q[c]
            new = _precondition(G, unknowns, r, inverse, w8, t, q, z)
            for c in range(unknowns):
                p[c] = z[c] + new / rz * p[c]
            rz = new
            steps += 1
        copy_row(x, 0, X, i * width, vectors)
        status[i] = SOLVED
    return steps


@njit(cache=True, error_model="numpy")
def _precondition(G, unknowns, r, inverse, w8, t, y, z):
    """Set ``z = (UᵀU)⁻¹ r`` and return ``r·z``."""
    keep_apart()
    copy_row(r, 0, y, 0, len(y) // lanes_of(y))
    forward_substitute(G, unknowns, y, inverse, w8)
    total = y[0] * 0
    for c in range(unknowns):
        total += y[c] * y[c]
    back_substitute(G, unknowns, y, inverse, t, z)
    return total


@njit(cache=True, error_model="numpy")
def fill_robust_weights(residual, perm, weights, delta, power, out):
    """Set ``out`` to ``w·min(1, delta/|residual|)**power``, the weights of reweighted regressions.

    Layout: ``residual (N,)`` is read at ``e``, or at ``perm[e]`` when ``perm`` is not of size 0;
    ``weights`` ``(N,)`` or size 0; ``power`` 1 or 2.

    Cost: ``N`` divisions.
    """
    weighted = len(weights) > 0
    permuted = len(perm) > 0
    for e in range(len(out)):
        size = abs(residual[perm[e]] if permuted else residual[e])
        w = out.dtype.type(1)
        if size > delta:
            w = delta / size
            if power == 2:
                w *= w
        out[e] = w * weights[e] if weighted else w


@njit(cache=True, error_model="numpy")
def pair_products(rows, columns, U, V, rank, bias, p, out):
    """Set ``out[e] = U[rows[e]]·V[columns[e]]``, plus both biases when there are any.

    Layout: ``rows, columns (N,)`` integers, ``U`` and ``V`` padded factors, ``p (width,)`` work.

    Cost: ``2·N·k`` flops, two factor rows read per pair.
    """
    width = U.shape[1]
    vectors = width // lanes_of(U)
    own = p[0] * 0
    for e in range(len(rows)):
        i = np.int64(rows[e])
        j = np.int64(columns[e])
        if e + _PREFETCH < len(rows):
            prefetch_row(U, rows[e + _PREFETCH])
            prefetch_row(V, columns[e + _PREFETCH])
        if bias:
            copy_row(U, i * width, p, 0, vectors)
            own = p[rank]
            p[rank] = 1
            out[e] = dot(p, 0, V, j * width, vectors) + own
        else:
            out[e] = dot(U, i * width, V, j * width, vectors)


# --------------------------------------------------------------------------------------------
# Interface
# --------------------------------------------------------------------------------------------


def pad_factor(factor: np.ndarray, own_bias: np.ndarray | None = None) -> np.ndarray:
    """Return a factor in the layout of the kernels.

    Parameters
    ----------
    factor : ndarray of shape (rows, rank)
        float32 or float64.
    own_bias : ndarray of shape (rows,), optional
        Bias of every row; fills column ``rank``.

    Returns
    -------
    ndarray of shape (rows, padded_width(rank, bias, dtype))
        C array, 64-byte aligned, zero in the padding.
    """
    rows, rank = factor.shape
    width = padded_width(rank, own_bias is not None, factor.dtype)
    padded = aligned_zeros((rows, width), factor.dtype)
    padded[:, :rank] = factor
    if own_bias is not None:
        padded[:, rank] = own_bias
    return padded


def row_workspace(
    width: int, dtype: np.typing.DTypeLike, n_threads: int = 1, sketch_rows: int = 0
) -> np.ndarray:
    """Return work space for the kernels on factors of ``width`` columns: one row per thread."""
    size = (max(CHUNK, width) + 2 * width + _VECTORS + sketch_rows) * width + 64
    line = 128 // np.dtype(dtype).itemsize
    return aligned_zeros((n_threads, -(-size // line) * line), dtype)


def row_ridge(
    indptr: np.ndarray, reg: float, power: float, dtype: np.typing.DTypeLike
) -> np.ndarray:
    """Return ``reg·n_i**power`` for every compressed row, ``n_i`` its number of entries."""
    counts = np.diff(indptr).astype(np.float64)
    return (reg * counts**power).astype(dtype)


def row_chunks(indptr: np.ndarray, n_chunks: int) -> np.ndarray:
    """Return row boundaries that cut the work into about equal parts.

    Parameters
    ----------
    indptr : ndarray of shape (rows + 1,)
        Row starts.
    n_chunks : int
        Largest number of parts.

    Returns
    -------
    ndarray of int64
        Increasing boundaries from 0 to ``rows``; the work of a row is its number of entries plus
        a constant for its linear system.
    """
    rows = len(indptr) - 1
    work = (indptr[1:] - indptr[0]) + 16 * np.arange(1, rows + 1)
    targets = np.arange(1, n_chunks) * (float(work[-1]) / n_chunks)
    inner = np.searchsorted(work, targets)
    return np.unique(np.concatenate(([0], inner, [rows]))).astype(np.int64)


def _thread_count(n_threads: int | None, entries: int) -> int:
    if entries < _PARALLEL_ENTRIES:
        return 1
    available = numba.config.NUMBA_NUM_THREADS
    return numba.get_num_threads() if n_threads is None else min(n_threads, available)


def _run(kernel, indptr, arguments, F, n_threads, work, sketch_rows=0):
    """Call a kernel on all rows, in chunks by several threads when there is enough to do.

    The kernels release the interpreter lock, so threads of Python do: the machine code is that of
    one thread (the same bits, and nothing is compiled twice), and a free thread takes the next
    chunk, which evens out heavy rows.
    """
    rows = len(indptr) - 1
    threads = _thread_count(n_threads, int(indptr[-1]))
    if work is None or len(work) < threads:
        work = row_workspace(F.shape[1], F.dtype, threads, sketch_rows)
    if threads == 1:
        return kernel(0, rows, indptr, *arguments, work[0])
    bounds = row_chunks(indptr, _CHUNKS_PER_THREAD * threads)
    chunks = deque(itertools.pairwise(bounds.tolist()))

    def consume(own_work):
        total = 0
        while True:
            try:
                lo, hi = chunks.popleft()
            except IndexError:
                return total
            total += kernel(lo, hi, indptr, *arguments, own_work) or 0

    with ThreadPoolExecutor(threads) as pool:
        return sum(pool.map(consume, work[:threads]))


def _per_row(value, rows, dtype):
    """Return a ridge as an array of one value per row."""
    if np.ndim(value) == 0:
        return np.full(rows, value, dtype=dtype)
    return np.ascontiguousarray(value, dtype=dtype)


def _optional(array, dtype, ndim=1):
    return np.empty((0,) * ndim, dtype=dtype) if array is None else array


def solve_rows(
    indptr: np.ndarray,
    indices: np.ndarray,
    values: np.ndarray,
    F: np.ndarray,
    X: np.ndarray,
    *,
    rank: int,
    ridge: float | np.ndarray,
    bias: bool = False,
    ridge_bias: float | np.ndarray = 0.0,
    weights: np.ndarray | None = None,
    base_gram: np.ndarray | None = None,
    base_rhs: np.ndarray | None = None,
    dual: int | None = None,
    nonnegative: bool = False,
    n_threads: int | None = 1,
    work: np.ndarray | None = None,
) -> SolveReport:
    """Replace ``X`` by the exact solution of every row's regression on the fixed factor ``F``.

    Row ``i`` minimises ``Σ_e w_e (values_e - b_e - c_i - f_e·x_i)² + ridge_i |x_i|² +
    ridge_bias_i c_i²`` over its entries ``e``, where ``f_e, b_e`` are the factor and the bias in
    row ``indices[e]`` of ``F`` (biases only when ``bias``).

    Parameters
    ----------
    indptr, indices, values : ndarray
        Compressed rows, see the module. The offset has been taken off ``values``.
    F : ndarray of shape (n_fixed, width)
        Fixed factor, padded.
    X : ndarray of shape (rows, width)
        Overwritten. Rows without data become exactly zero.
    rank : int
        Number of factor columns.
    ridge, ridge_bias : float or ndarray of shape (rows,)
        Ridge of every row, non-negative; :func:`row_ridge` gives the count-scaled one.
    bias : bool, default=False
        Whether column ``rank`` holds biases.
    weights : ndarray of shape (N,), optional
        Observation weights, non-negative.
    base_gram : ndarray of shape (width, width), optional
        Added to the Gram matrix of every row (upper triangle read), for instance
        ``weight·Pᵀ P`` of the factor of an implicit-feature matrix.
    base_rhs : ndarray of shape (rows, width), optional
        Added to the right-hand sides; given exactly when ``base_gram`` is.
    dual : int, optional
        Rows with fewer entries than this use the dual form; default about ``0.7·rank``, 0 never.
    nonnegative : bool, default=False
        Restrict the factor entries (not the bias) to be non-negative, by coordinate descent from
        the present ``X``.
    n_threads : int or None, default=1
        ``None``: numba's current number of threads. Small problems use one.
    work : ndarray, optional
        From :func:`row_workspace`, to save the allocation.

    Returns
    -------
    SolveReport
        Numbers of empty, least-norm and repaired rows.

    Notes
    -----
    A row whose factorisation fails is solved again in float64 by an eigendecomposition, with the
    least norm. Cost: ``N·k·(k+1) + rows·k³/3`` flops.
    """
    dtype = F.dtype
    rows = len(indptr) - 1
    unknowns = rank + int(bias)
    ridge = _per_row(ridge, rows, dtype)
    ridge_bias = _per_row(ridge_bias, rows if bias else 0, dtype)
    status = np.full(rows, PENDING, dtype=np.int8)
    limit = int(_DUAL_BELOW * unknowns) if dual is None else min(dual, unknowns)
    gram_ = _optional(base_gram, dtype, 2)
    rhs = _optional(base_rhs, dtype, 2)
    weights_ = _optional(weights, dtype)
    common = (indices, values, weights_, F, X, ridge, ridge_bias, rank, bias, gram_, rhs)
    if nonnegative:
        rtol = 10 * np.finfo(dtype).eps
        arguments = (*common, _DESCENT_PASSES, rtol, status)
        _run(half_nonnegative, indptr, arguments, F, n_threads, work)
    else:
        arguments = (*common, limit, status)
        _run(half_exact, indptr, arguments, F, n_threads, work)
    n_repaired = _repair(
        status, indptr, indices, values, weights, F, X, ridge, ridge_bias, unknowns, base_gram,
        base_rhs,
    )  # fmt: skip
    return _report(status, n_repaired, 0)


def _report(status, n_repaired, n_steps):
    empty = int(np.count_nonzero(status == EMPTY))
    return SolveReport(empty, int(np.count_nonzero(status == MINIMUM_NORM)), n_repaired, n_steps)


def _repair(
    status, indptr, indices, values, weights, F, X, ridge, ridge_bias, unknowns, base_gram,
    base_rhs,
):  # fmt: skip
    """Solve the rows that a kernel left alone; return their number."""
    failed = np.flatnonzero(status == UNDETERMINED)
    for i in failed:
        entries = slice(indptr[i], indptr[i + 1])
        X[i, :unknowns] = _least_norm_row(
            F[indices[entries], :unknowns].astype(np.float64),
            values[entries].astype(np.float64),
            None if weights is None else weights[entries],
            float(ridge[i]),
            float(ridge_bias[i]) if len(ridge_bias) else None,
            None if base_gram is None else base_gram[:unknowns, :unknowns],
            None if base_rhs is None else base_rhs[i, :unknowns],
        )
    return len(failed)


def _least_norm_row(A, b, weights, ridge, ridge_bias, base_gram, base_rhs):
    """Solve one row in float64 by an eigendecomposition, with the least norm."""
    penalty = np.full(A.shape[1], ridge)
    if ridge_bias is not None:
        b = b - A[:, -1]
        A[:, -1] = 1.0
        penalty[-1] = ridge_bias
    if weights is not None:
        root = np.sqrt(weights.astype(np.float64))
        A, b = A * root[:, None], b * root
    if base_gram is None:
        stacked = np.vstack([A, np.diag(np.sqrt(penalty))])
        return np.linalg.lstsq(stacked, np.concatenate([b, np.zeros(len(penalty))]))[0]
    upper = np.triu(base_gram.astype(np.float64))
    H = A.T @ A + np.diag(penalty) + upper + np.triu(upper, 1).T
    g = A.T @ b + base_rhs
    eigenvalues, Q = np.linalg.eigh(H)
    keep = eigenvalues > len(g) * np.finfo(np.float64).eps * max(eigenvalues[-1], 0.0)
    return Q[:, keep] @ ((Q[:, keep].T @ g) / eigenvalues[keep])


def solve_rows_cg(
    indptr: np.ndarray,
    indices: np.ndarray,
    values: np.ndarray,
    F: np.ndarray,
    X: np.ndarray,
    *,
    rank: int,
    ridge: float | np.ndarray,
    scale: np.ndarray,
    bias: bool = False,
    ridge_bias: float | np.ndarray = 0.0,
    weights: np.ndarray | None = None,
    n_steps: int = 3,
    rtol: float = 0.0,
    n_threads: int | None = 1,
    work: np.ndarray | None = None,
) -> SolveReport:
    """Improve every row of ``X`` by conjugate-gradient steps from its present value.

    Parameters
    ----------
    indptr, indices, values, F, X, rank, ridge, bias, ridge_bias, weights, n_threads, work
        As in :func:`solve_rows`.
    scale : ndarray of shape (width,)
        Mean squares of the columns of ``F``, from :func:`rotate_factors`.
    n_steps : int, default=3
        Largest number of steps of a row.
    rtol : float, default=0.0
        A row stops earlier when its preconditioned residual norm fell below this fraction.

    Returns
    -------
    SolveReport
        ``n_steps`` is the number of steps of all rows together.

    Notes
    -----
    Cost: ``4·(n_steps + 1)·N·k`` flops. The objective of a row never increases.
    """
    dtype = F.dtype
    rows = len(indptr) - 1
    arguments = (
        indices, values, _optional(weights, dtype), F, X, _per_row(ridge, rows, dtype),
        _per_row(ridge_bias, rows if bias else 0, dtype), rank, bias, scale, n_steps,
        dtype.type(rtol),
    )  # fmt: skip
    steps = _run(half_cg, indptr, arguments, F, n_threads, work)
    return SolveReport(int(np.count_nonzero(np.diff(indptr) == 0)), 0, 0, int(steps))


def solve_rows_sketch(
    indptr: np.ndarray,
    indices: np.ndarray,
    values: np.ndarray,
    F: np.ndarray,
    X: np.ndarray,
    *,
    rank: int,
    ridge: float | np.ndarray,
    seed: int,
    bias: bool = False,
    ridge_bias: float | np.ndarray = 0.0,
    weights: np.ndarray | None = None,
    oversample: float = 4.0,
    nonzeros: int = 4,
    n_steps: int = 100,
    rtol: float = 1e-6,
    n_threads: int | None = 1,
    work: np.ndarray | None = None,
) -> SolveReport:
    """Solve every row's regression by sketch-and-precondition.

    Parameters
    ----------
    indptr, indices, values, F, X, rank, ridge, bias, ridge_bias, weights, n_threads
        As in :func:`solve_rows`.
    seed : int
        Seed of the sketches, 0 … 2**64-1; the result depends on it and not on the threads.
    oversample : float, default=4.0
        Rows of a sketch over unknowns, above 1; 2 to 4 are usual.
    nonzeros : int, default=4
        Non-zeros per column of a sketching matrix, 1 to 8.
    n_steps : int, default=100
        Largest number of conjugate-gradient steps of a row.
    rtol : float, default=1e-6
        Relative norm of the preconditioned gradient at which a row stops.
    work : ndarray, optional
        From :func:`row_workspace` with ``oversample·unknowns`` rows of sketch, rounded up to a
        multiple of ``nonzeros``.

    Returns
    -------
    SolveReport
        ``n_steps`` is the number of steps of all rows together.

    Notes
    -----
    Cost: ``N·k·(2·nonzeros + 4·(steps + 1))`` flops, plus ``(oversample + 1/3)·k³`` a row.

    References
    ----------
    .. [1] V. Rokhlin, M. Tygert, "A fast randomized algorithm for overdetermined linear
       least-squares regression", PNAS 105 (2008).
    """
    dtype = F.dtype
    rows = len(indptr) - 1
    unknowns = rank + int(bias)
    sketch_rows = nonzeros * math.ceil(oversample * unknowns / nonzeros)
    ridge = _per_row(ridge, rows, dtype)
    ridge_bias = _per_row(ridge_bias, rows if bias else 0, dtype)
    status = np.full(rows, PENDING, dtype=np.int8)
    arguments = (
        indices, values, _optional(weights, dtype), F, X, ridge, ridge_bias, rank, bias,
        sketch_rows, nonzeros, np.uint64(seed), n_steps, dtype.type(rtol), status,
    )  # fmt: skip
    steps = _run(half_sketch, indptr, arguments, F, n_threads, work, sketch_rows)
    nothing = np.empty((0, 0), dtype=dtype)
    arguments = (*arguments[:9], nothing, nothing, 0, status)
    _run(half_exact, indptr, arguments, F, n_threads, work)
    n_repaired = _repair(
        status, indptr, indices, values, weights, F, X, ridge, ridge_bias, unknowns, None, None
    )
    return _report(status, n_repaired, int(steps))


def sample_rows(
    indptr: np.ndarray,
    indices: np.ndarray,
    values: np.ndarray,
    F: np.ndarray,
    X: np.ndarray,
    *,
    rank: int,
    alpha: float,
    precision: np.ndarray,
    mean: np.ndarray,
    normals: np.ndarray,
    bias: bool = False,
    weights: np.ndarray | None = None,
    n_threads: int | None = 1,
    work: np.ndarray | None = None,
) -> SolveReport:
    """Draw every row of ``X`` from its conditional distribution in the Gibbs sampler.

    Parameters
    ----------
    indptr, indices, values, F, X, rank, bias, weights, n_threads, work
        As in :func:`solve_rows`; ``X`` is overwritten.
    alpha : float
        Precision of the noise, positive.
    precision, mean : ndarray of shape (rank + bias,)
        Prior precision (positive) and mean of every column.
    normals : ndarray of shape (rows, rank + bias)
        Independent standard normal numbers.

    Returns
    -------
    SolveReport
        ``n_repaired`` counts rows that could not be drawn and kept their value (precision of the
        prior too small for the arithmetic).

    Notes
    -----
    Cost: ``N·k·(k+1) + rows·k³/3`` flops.
    """
    dtype = F.dtype
    status = np.empty(len(indptr) - 1, dtype=np.int8)
    arguments = (
        indices, values, _optional(weights, dtype), F, X, dtype.type(alpha),
        np.ascontiguousarray(precision, dtype=dtype), np.ascontiguousarray(mean, dtype=dtype),
        np.ascontiguousarray(normals, dtype=dtype), rank, bias, status,
    )  # fmt: skip
    _run(half_gibbs, indptr, arguments, F, n_threads, work)
    return _report(status, int(np.count_nonzero(status == UNDETERMINED)), 0)


def rotate_factors(F: np.ndarray, X: np.ndarray, rank: int) -> np.ndarray:
    """Rotate both factors in place so that the columns of ``F`` are orthogonal.

    The product ``X Fᵀ`` and the norms of all rows stay; biases are not touched.

    Returns
    -------
    ndarray of shape (width,)
        Mean squares of the columns of the rotated ``F``: ``scale`` of :func:`solve_rows_cg`.

    Notes
    -----
    Cost: ``(3·rows(F) + 2·rows(X))·k² + O(k³)`` flops in BLAS and LAPACK.
    """
    gram_ = (F[:, :rank].T @ F[:, :rank]).astype(np.float64)
    eigenvalues, W = np.linalg.eigh(gram_)
    W = W.astype(F.dtype)
    F[:, :rank] = F[:, :rank] @ W
    X[:, :rank] = X[:, :rank] @ W
    scale = np.zeros(F.shape[1], dtype=F.dtype)
    scale[:rank] = np.maximum(eigenvalues, 0.0) / max(len(F), 1)
    return scale


def residuals(
    indptr: np.ndarray,
    indices: np.ndarray,
    values: np.ndarray,
    F: np.ndarray,
    X: np.ndarray,
    *,
    rank: int,
    bias: bool = False,
    weights: np.ndarray | None = None,
    out: np.ndarray | None = None,
    n_threads: int | None = 1,
    work: np.ndarray | None = None,
) -> tuple[np.ndarray, float]:
    """Return ``values - prediction`` on the observed entries and its (weighted) squared sum.

    Parameters
    ----------
    indptr, indices, values, F, X, rank, bias, weights, n_threads, work
        As in :func:`solve_rows`.
    out : ndarray of shape (N,), optional
        Receives the residual.

    Returns
    -------
    residual : ndarray of shape (N,)
        In the order of ``values``.
    squared_sum : float
        ``Σ w·residual²`` in float64, in an order that does not depend on the threads.

    Notes
    -----
    Cost: ``2·N·k`` flops.
    """
    dtype = F.dtype
    out = np.empty(len(values), dtype=dtype) if out is None else out
    squares = np.empty(len(indptr) - 1)
    arguments = (indices, values, _optional(weights, dtype), F, X, rank, bias, out, squares)
    _run(half_residual, indptr, arguments, F, n_threads, work)
    return out, float(squares.sum())


def factor_gradient(
    indptr: np.ndarray,
    indices: np.ndarray,
    residual: np.ndarray,
    F: np.ndarray,
    X: np.ndarray,
    *,
    rank: int,
    ridge: float | np.ndarray,
    bias: bool = False,
    ridge_bias: float | np.ndarray = 0.0,
    weights: np.ndarray | None = None,
    perm: np.ndarray | None = None,
    n_threads: int | None = 1,
    work: np.ndarray | None = None,
) -> np.ndarray:
    """Return the gradient of ``Σ w·residual² + ridge·|X|²`` with respect to ``X``.

    Parameters
    ----------
    indptr, indices, F, X, rank, ridge, bias, ridge_bias, weights, n_threads, work
        As in :func:`solve_rows`.
    residual : ndarray of shape (N,)
        From :func:`residuals`, in the order of ``indices``, or of the other side with ``perm``.
    perm : ndarray of shape (N,), optional
        Position of every entry in ``residual``: reads the row-order residual in column order.

    Returns
    -------
    ndarray of shape (rows, width)
        Padded like ``X``.

    Notes
    -----
    Cost: ``2·N·k`` flops.
    """
    dtype = F.dtype
    rows = len(indptr) - 1
    out = np.empty_like(X)
    arguments = (
        indices, residual, np.empty(0, dtype=np.int64) if perm is None else perm,
        _optional(weights, dtype), F, X, _per_row(ridge, rows, dtype),
        _per_row(ridge_bias, rows if bias else 0, dtype), rank, bias, out,
    )  # fmt: skip
    _run(half_gradient, indptr, arguments, F, n_threads, work)
    return out


def first_order(
    indptr: np.ndarray,
    indices: np.ndarray,
    values: np.ndarray,
    F: np.ndarray,
    X: np.ndarray,
    *,
    rank: int,
    ridge: float | np.ndarray,
    bias: bool = False,
    ridge_bias: float | np.ndarray = 0.0,
    weights: np.ndarray | None = None,
    n_threads: int | None = 1,
    work: np.ndarray | None = None,
) -> tuple[np.ndarray, float]:
    """Return what :func:`factor_gradient` does, and the squared sum of :func:`residuals`.

    One pass over the data instead of two, for the squared loss.

    Parameters
    ----------
    indptr, indices, values, F, X, rank, ridge, bias, ridge_bias, weights, n_threads, work
        As in :func:`solve_rows`.

    Returns
    -------
    gradient : ndarray of shape (rows, width)
        Padded like ``X``.
    squared_sum : float
        ``Σ w·residual²``.

    Notes
    -----
    Cost: ``4·N·k`` flops.
    """
    dtype = F.dtype
    rows = len(indptr) - 1
    out, squares = np.empty_like(X), np.empty(rows)
    arguments = (
        indices, values, _optional(weights, dtype), F, X, _per_row(ridge, rows, dtype),
        _per_row(ridge_bias, rows if bias else 0, dtype), rank, bias, out, squares,
    )  # fmt: skip
    _run(half_first_order, indptr, arguments, F, n_threads, work)
    return out, float(squares.sum())


def robust_weights(
    residual: np.ndarray,
    delta: float,
    *,
    power: int = 1,
    weights: np.ndarray | None = None,
    perm: np.ndarray | None = None,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """Return the weights of one round of iteratively reweighted least squares.

    ``w·min(1, delta/|residual|)**power``: power 1 is the Huber loss, and tends to the l1 loss (up
    to the factor ``delta``) as ``delta`` goes to 0; power 2 lets large residuals fade faster.

    Parameters
    ----------
    residual : ndarray of shape (N,)
        From :func:`residuals`.
    delta : float
        Residuals up to this size keep their weight; positive.
    power : {1, 2}, default=1
    weights : ndarray of shape (N,), optional
        Observation weights, in the order of the result.
    perm : ndarray of shape (N,), optional
        Position of every entry in ``residual``, see :func:`factor_gradient`.
    out : ndarray of shape (N,), optional
        Receives the result.

    Returns
    -------
    ndarray of shape (N,)
    """
    dtype = residual.dtype
    out = np.empty(len(residual), dtype=dtype) if out is None else out
    perm = np.empty(0, dtype=np.int64) if perm is None else perm
    fill_robust_weights(residual, perm, _optional(weights, dtype), dtype.type(delta), power, out)
    return out


def ridge_penalty(
    X: np.ndarray,
    *,
    rank: int,
    ridge: float | np.ndarray,
    bias: bool = False,
    ridge_bias: float | np.ndarray = 0.0,
) -> float:
    """Return ``Σ_i ridge_i |x_i|² + ridge_bias_i b_i²`` of a padded factor, in float64."""
    norms = np.einsum("ij,ij->i", X[:, :rank], X[:, :rank], dtype=np.float64)
    total = float(np.sum(norms * ridge))
    if bias:
        total += float(np.sum(X[:, rank].astype(np.float64) ** 2 * ridge_bias))
    return total


def predict_pairs(
    rows: np.ndarray, columns: np.ndarray, U: np.ndarray, V: np.ndarray, *, rank: int, bias: bool
) -> np.ndarray:
    """Return ``u_i·v_j`` (plus both biases) for pairs of indices, offset not included.

    Notes
    -----
    Cost: ``2·N·k`` flops, memory for the result only.
    """
    out = np.empty(len(rows), dtype=U.dtype)
    pair_products(rows, columns, U, V, rank, bias, aligned_zeros(U.shape[1], U.dtype), out)
    return out
