"""Block coordinate descent on quadratic models, with any of the penalties by block.

The model of a smooth part at a point is ``<V, X d> + <X d, W X d> / 2 + mu/2 |w + d|^2``. Arrays of
numbers of samples are (k, n), one row an output; W multiplies every output by `h` (n,), or, if `P`
is not empty, couples the outputs of a sample as the softmax loss does: ``s (diag(p) - p p')`` with
``s = h``. An empty `h` is 1 throughout. `V` is the slope of the model at the current point and is
kept up to date. Coefficients are (p, k).

Block b has the columns ``order[ptr[b] : ptr[b + 1]]``. A design is a named tuple,
:class:`DenseColumns` or :class:`SparseColumns`.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numba import njit, types
from numba.extending import overload

from lowrank_opt.numerics.kernels import prox, value
from lowrank_opt.numerics.penalties import L1, MCP, SCAD, Box

__all__ = [
    "BOX", "ENTRY", "GROUP", "MINIMAX", "SMOOTHLY", "BlockRule", "DenseColumns", "SparseColumns",
    "add_columns", "block_bounds", "column_dots", "grade_blocks", "gram_sweeps", "largest_ratio",
    "penalty_of_blocks", "prox_entry", "sweep_blocks",
]  # fmt: skip

_FAST = {"reassoc", "contract", "arcp"}
ENTRY, GROUP, BOX, MINIMAX, SMOOTHLY = 0, 1, 2, 3, 4
# Prox steps of a block before the others hear of it.
_TURNS = 8


class BlockRule(NamedTuple):
    """A penalty as the kernels see it.

    `kind` is ENTRY (absolute values), GROUP (norms of blocks), BOX, MINIMAX (MCP) or SMOOTHLY
    (SCAD). `limits` are the factors of absolute values or norms: one for all, or one for each
    number (row by row) or block.
    """

    kind: int
    positive: bool
    limits: Any
    gamma: float
    low: float
    high: float


class DenseColumns(NamedTuple):
    """A Fortran-ordered matrix."""

    values: Any


class SparseColumns(NamedTuple):
    """A matrix compressed by columns."""

    data: Any
    indices: Any
    indptr: Any


# -- columns ---------------------------------------------------------------------------------------


def column_dot(X, j, v):
    """``X_j' v``."""
    raise NotImplementedError


def column_dot_all(X, j, V, out):
    """Write ``X_j' V[c]`` to ``out[c]``, four outputs at a time."""
    raise NotImplementedError


def column_add(X, j, t, h, v):
    """``v += t h X_j``; an empty `h` is 1."""
    raise NotImplementedError


def coupled_add(X, j, d, h, P, V):
    """``V += s (diag(p) - p p') (d x)`` sample by sample, for the step `d` (k,) of column j."""
    raise NotImplementedError


def pair_dot(X, j, other, h):
    """``X_j' diag(h) X_other``."""
    raise NotImplementedError


def _is_dense(X):
    return isinstance(X, types.BaseNamedTuple) and X.instance_class is DenseColumns


_OPTIONS = {"fastmath": _FAST, "error_model": "numpy"}


@overload(column_dot, jit_options=_OPTIONS)
def _column_dot(X, j, v):
    if _is_dense(X):

        def dense(X, j, v):
            x = X.values[:, j]
            total = 0.0
            for i in range(v.size):
                total += x[i] * v[i]
            return total

        return dense

    def sparse(X, j, v):
        total = 0.0
        for e in range(X.indptr[j], X.indptr[j + 1]):
            total += X.data[e] * v[X.indices[e]]
        return total

    return sparse


@overload(column_dot_all, jit_options=_OPTIONS)
def _column_dot_all(X, j, V, out):
    if _is_dense(X):

        def dense(X, j, V, out):
            x = X.values[:, j]
            whole = V.shape[0] - V.shape[0] % 4
            for c in range(0, whole, 4):
                v0, v1, v2, v3 = V[c], V[c + 1], V[c + 2], V[c + 3]
                t0, t1, t2, t3 = 0.0, 0.0, 0.0, 0.0
                for i in range(x.size):
                    t0 += x[i] * v0[i]
                    t1 += x[i] * v1[i]
                    t2 += x[i] * v2[i]
                    t3 += x[i] * v3[i]
                out[c], out[c + 1], out[c + 2], out[c + 3] = t0, t1, t2, t3
            for c in range(whole, V.shape[0]):
                out[c] = column_dot(X, j, V[c])

        return dense

    def sparse(X, j, V, out):
        for c in range(V.shape[0]):
            out[c] = column_dot(X, j, V[c])

    return sparse


@overload(column_add, jit_options=_OPTIONS)
def _column_add(X, j, t, h, v):
    if _is_dense(X):

        def dense(X, j, t, h, v):
            x = X.values[:, j]
            if h.size == 0:
                for i in range(v.size):
                    v[i] += t * x[i]
            else:
                for i in range(v.size):
                    v[i] += t * h[i] * x[i]

        return dense

    def sparse(X, j, t, h, v):
        if h.size == 0:
            for e in range(X.indptr[j], X.indptr[j + 1]):
                v[X.indices[e]] += t * X.data[e]
        else:
            for e in range(X.indptr[j], X.indptr[j + 1]):
                i = X.indices[e]
                v[i] += t * h[i] * X.data[e]

    return sparse


@overload(coupled_add, jit_options=_OPTIONS)
def _coupled_add(X, j, d, h, P, V):
    if _is_dense(X):

        def dense(X, j, d, h, P, V):
            x = X.values[:, j]
            k = d.size
            for i in range(x.size):
                mean = 0.0
                for c in range(k):
                    mean += P[c, i] * d[c]
                scaled = x[i] * (h[i] if h.size else 1.0)
                for c in range(k):
                    V[c, i] += scaled * P[c, i] * (d[c] - mean)

        return dense

    def sparse(X, j, d, h, P, V):
        k = d.size
        for e in range(X.indptr[j], X.indptr[j + 1]):
            i = X.indices[e]
            mean = 0.0
            for c in range(k):
                mean += P[c, i] * d[c]
            scaled = X.data[e] * (h[i] if h.size else 1.0)
            for c in range(k):
                V[c, i] += scaled * P[c, i] * (d[c] - mean)

    return sparse


@overload(pair_dot, jit_options=_OPTIONS)
def _pair_dot(X, j, other, h):
    if _is_dense(X):

        def dense(X, j, other, h):
            x, y = X.values[:, j], X.values[:, other]
            total = 0.0
            if h.size == 0:
                for i in range(x.size):
                    total += float(x[i]) * float(y[i])
            else:
                for i in range(x.size):
                    total += h[i] * x[i] * y[i]
            return total

        return dense

    def sparse(X, j, other, h):
        a, b = X.indptr[j], X.indptr[other]
        total = 0.0
        while a < X.indptr[j + 1] and b < X.indptr[other + 1]:
            row, second = X.indices[a], X.indices[b]
            if row == second:
                total += float(X.data[a]) * float(X.data[b]) * (h[row] if h.size else 1.0)
            if row <= second:
                a += 1
            if second <= row:
                b += 1
        return total

    return sparse


@njit(cache=True, nogil=True, error_model="numpy", fastmath=_FAST)
def column_dots(X, V, columns, out):
    """Write ``X_j' V[c]`` to ``out[j, c]`` for the listed columns.

    Cost: 2 k nnz flops.
    """
    if V.shape[0] == 1:
        v = V[0]
        for place in range(columns.size):
            out[columns[place], 0] = column_dot(X, columns[place], v)
        return
    for place in range(columns.size):
        j = columns[place]
        column_dot_all(X, j, V, out[j])


@njit(cache=True, nogil=True, error_model="numpy", fastmath=_FAST)
def add_columns(X, columns, D, out):
    """Add ``sum_j X_j D[j, c]`` to ``out[c]``: the row `place` of D belongs to ``columns[place]``.

    Cost: 2 k nnz flops for the columns with a nonzero row.
    """
    none = np.empty(0)
    for place in range(columns.size):
        for c in range(out.shape[0]):
            if D[place, c] != 0:
                column_add(X, columns[place], D[place, c], none, out[c])


@njit(cache=True, nogil=True, error_model="numpy", fastmath=_FAST)
def block_bounds(X, blocks, order, ptr, h, a, total, places, grams, out):
    """Write to ``out[b]`` an upper bound on the largest eigenvalue of ``X_b' diag(h) X_b``.

    It is the 16th root of the norm of the 16th power: too large by at most ``m^(1/32)`` for m
    columns, exact for one. If ``total > 0`` the columns are centred: ``a a' / total`` is taken off,
    `a` being ``X' h``. The products themselves go to `grams` from ``places[b]`` on, row by row,
    unless that is negative.

    Cost: n m^2 + 8 m^3 flops a block.
    """
    for place in range(blocks.size):
        b = blocks[place]
        first, m = ptr[b], ptr[b + 1] - ptr[b]
        G = np.empty((m, m))
        for u in range(m):
            for v in range(u + 1):
                j, other = order[first + u], order[first + v]
                entry = pair_dot(X, j, other, h)
                if total > 0:
                    entry -= a[j] * a[other] / total
                G[u, v] = entry
                G[v, u] = entry
        if places[b] >= 0:
            for u in range(m):
                for v in range(m):
                    grams[places[b] + u * m + v] = G[u, v]
        out[b] = _top(G)


@njit(cache=True, nogil=True, error_model="numpy", fastmath=_FAST)
def _top(G):
    m = G.shape[0]
    if m == 1:
        return max(G[0, 0], 0.0)
    largest = 0.0
    for u in range(m):
        largest = max(largest, G[u, u])
    if not largest > 0.0:
        return 0.0
    for u in range(m):
        for v in range(m):
            G[u, v] /= largest
    scale, power = math.log(largest), 1.0
    work = np.empty((m, m))
    for turn in range(5):
        size = 0.0
        for u in range(m):
            for v in range(m):
                size += G[u, v] * G[u, v]
        size = math.sqrt(size)
        if not size > 0.0:
            return 0.0
        # The matrix so far is exp(scale * power) times G, in logarithms.
        scale += math.log(size) / power
        if turn == 4:
            break
        for u in range(m):
            for v in range(m):
                G[u, v] /= size
        for u in range(m):
            for v in range(u + 1):
                entry = 0.0
                for t in range(m):
                    entry += G[u, t] * G[v, t]
                work[u, v] = entry
                work[v, u] = entry
        for u in range(m):
            for v in range(m):
                G[u, v] = work[u, v]
        power *= 2.0
    return math.exp(scale)


# -- penalties -------------------------------------------------------------------------------------


@njit(cache=True, nogil=True, error_model="numpy")
def _limit(rule, index):
    return rule.limits[index] if rule.limits.size > 1 else rule.limits[0]


@njit(cache=True, nogil=True, error_model="numpy")
def prox_entry(rule, index, z, step):
    """Prox of the penalty of one number.

    Cost: O(1).
    """
    if rule.kind == BOX:
        return prox(Box(rule.low, rule.high), z, step)
    limit = _limit(rule, index)
    if rule.kind == MINIMAX:
        return prox(MCP(limit, rule.gamma), z, step)
    if rule.kind == SMOOTHLY:
        return prox(SCAD(limit, rule.gamma), z, step)
    if rule.positive:
        return max(z - step * limit, 0.0)
    return prox(L1(limit), z, step)


@njit(cache=True, nogil=True, error_model="numpy")
def _prox_block(rule, b, z, steps):
    # z (m, k) becomes the prox; steps (k,) of the outputs, the first one for groups.
    m, k = z.shape
    if rule.kind == GROUP:
        total = 0.0
        for u in range(m):
            for c in range(k):
                if rule.positive and z[u, c] < 0:
                    z[u, c] = 0.0
                total += z[u, c] * z[u, c]
        bound, length = steps[0] * _limit(rule, b), math.sqrt(total)
        factor = 1.0 - bound / length if length > bound else 0.0
        for u in range(m):
            for c in range(k):
                z[u, c] *= factor
    else:
        for c in range(k):
            z[0, c] = prox_entry(rule, b * k + c, z[0, c], steps[c])


@njit(cache=True, nogil=True, error_model="numpy")
def _is_settled(rule, w):
    # Whether a number is at a kink or bound.
    if rule.kind == BOX:
        return w <= rule.low or w >= rule.high
    return w == 0.0


@njit(cache=True, nogil=True, error_model="numpy")
def _value_entry(rule, index, w):
    if rule.kind == BOX:
        return value(Box(rule.low, rule.high), w)
    if w == 0.0:
        return 0.0
    limit = _limit(rule, index)
    if rule.kind == MINIMAX:
        return value(MCP(limit, rule.gamma), w)
    if rule.kind == SMOOTHLY:
        return value(SCAD(limit, rule.gamma), w)
    if rule.positive and w < 0:
        return math.inf
    return limit * abs(w)


@njit(cache=True, nogil=True, error_model="numpy")
def penalty_of_blocks(rule, ids, ptr, w):
    """Penalty of rows of coefficients `w` (m, k): those of block ``ids[i]`` start at ``ptr[i]``.

    Cost: O(m k).
    """
    total, k = 0.0, w.shape[1]
    for i in range(ids.size):
        if rule.kind == GROUP:
            squares = 0.0
            for u in range(ptr[i], ptr[i + 1]):
                for c in range(k):
                    if rule.positive and w[u, c] < 0:
                        return math.inf
                    squares += w[u, c] * w[u, c]
            if squares > 0:
                total += _limit(rule, ids[i]) * math.sqrt(squares)
        else:
            for c in range(k):
                total += _value_entry(rule, ids[i] * k + c, w[ptr[i], c])
    return total


@njit(cache=True, nogil=True, error_model="numpy")
def _distance_entry(rule, index, w, g):
    if rule.kind == BOX:
        if rule.low == rule.high:
            return 0.0
        if w <= rule.low:
            return max(-g, 0.0)
        return max(g, 0.0) if w >= rule.high else abs(g)
    limit = _limit(rule, index)
    if rule.positive:
        return abs(g + limit) if w > 0 else max(-g - limit, 0.0)
    size = abs(w)
    if size == 0.0:
        return max(abs(g) - limit, 0.0)
    slope = limit
    if rule.kind == MINIMAX:
        slope = max(limit - size / rule.gamma, 0.0)
    elif rule.kind == SMOOTHLY and size > limit:
        slope = max(rule.gamma * limit - size, 0.0) / (rule.gamma - 1.0)
    return abs(g + math.copysign(slope, w))


@njit(cache=True, nogil=True, error_model="numpy")
def _group_size(rule, first, last, order, c):
    total = 0.0
    for f in range(first, last):
        for output in range(c.shape[1]):
            v = c[order[f], output]
            if not rule.positive or v < 0:
                total += v * v
    return math.sqrt(total)


@njit(cache=True, nogil=True, error_model="numpy")
def largest_ratio(rule, blocks, order, ptr, c):
    """Return the largest ``|c| / limit`` over blocks or numbers: below 1, `c` is dual feasible.

    Numbers of infinite limit, and zeros, do not count.

    Cost: O(p k).
    """
    worst, k = 0.0, c.shape[1]
    for place in range(blocks.size):
        b = blocks[place]
        if rule.kind == GROUP:
            size = _group_size(rule, ptr[b], ptr[b + 1], order, c)
            if size > 0:
                worst = max(worst, size / _limit(rule, b))
        else:
            for output in range(k):
                v = c[order[ptr[b]], output]
                size = max(-v, 0.0) if rule.positive else abs(v)
                if size > 0:
                    worst = max(worst, size / _limit(rule, b * k + output))
    return worst


@njit(cache=True, nogil=True, error_model="numpy")
def grade_blocks(rule, blocks, order, ptr, w, c, mu, t, slack, distance, support):
    """Say of every block how far it is from being used, from being solved, and whether it is used.

    Parameters
    ----------
    rule, blocks, order, ptr : BlockRule, ndarray
        Penalty and blocks.
    w, c : ndarray of shape (p, k)
        Coefficients and correlations ``X' V``.
    mu, t : float
        Ridge term; factor of the correlations in `slack`.
    slack : ndarray of shape (n_blocks,), float64
        Overwritten: the limit less ``t |c|``, the smallest over the numbers of a block; below 0
        where a block of zeros is not optimal. For boxes: minus the distance.
    distance : ndarray of shape (n_blocks,), float64
        Overwritten: distance of ``-c - mu w`` to the subdifferential, for numbers the largest.
    support : ndarray of shape (n_blocks,), bool
        Overwritten: whether a number of the block is not at a kink or bound.

    Notes
    -----
    Cost: O(p k).
    """
    k = w.shape[1]
    for place in range(blocks.size):
        b = blocks[place]
        first, last = ptr[b], ptr[b + 1]
        if rule.kind == GROUP:
            limit = _limit(rule, b)
            squares = 0.0
            for f in range(first, last):
                for output in range(k):
                    squares += w[order[f], output] ** 2
            length = math.sqrt(squares)
            size = _group_size(rule, first, last, order, c)
            slack[b] = limit - t * size
            support[b] = length > 0 or limit == 0.0
            if length > 0:
                total = 0.0
                for f in range(first, last):
                    for output in range(k):
                        v = w[order[f], output]
                        g = c[order[f], output] + mu * v
                        if limit > 0:
                            g += limit * v / length
                        if rule.positive and v == 0.0:
                            g = min(g, 0.0)
                        total += g * g
                distance[b] = math.sqrt(total)
            else:
                distance[b] = max(size - limit, 0.0)
            continue
        j = order[first]
        if k == 1 and w[j, 0] == 0.0 and rule.kind != BOX:  # nearly all
            g, limit = c[j, 0], _limit(rule, b)
            size = max(-g, 0.0) if rule.positive else abs(g)
            slack[b] = limit - t * size
            distance[b] = max(size - limit, 0.0)
            support[b] = limit == 0.0
            continue
        near, far, used = math.inf, 0.0, False
        for output in range(k):
            v, g = w[j, output], c[j, output]
            gap = _distance_entry(rule, b * k + output, v, g + mu * v)
            far = max(far, gap)
            used = used or not _is_settled(rule, v)
            if rule.kind != BOX:
                limit = _limit(rule, b * k + output)
                size = max(-g, 0.0) if rule.positive else abs(g)
                near = min(near, limit - t * size)
                used = used or limit == 0.0
        slack[b] = -far if rule.kind == BOX else near
        distance[b] = far
        support[b] = used


# -- descent ---------------------------------------------------------------------------------------


@njit(cache=True, nogil=True, error_model="numpy", fastmath=_FAST)
def sweep_blocks(
    X, blocks, order, ptr, w, V, h, P, a, total, shift, inverse, bounds, places,
    grams, rule, mu, sweeps, small, trail,
):  # fmt: skip
    """Descend over the listed blocks, `sweeps` times or until steps are `small`.

    Parameters
    ----------
    X : DenseColumns or SparseColumns
        The design.
    blocks, order, ptr : ndarray of int64
        Blocks to visit; all blocks.
    w : ndarray of shape (p, k), float64
        Coefficients; updated.
    V : ndarray of shape (k, n), float64
        Slopes of the model; updated.
    h, P : ndarray of float64
        Curvature of the model, see the module.
    a, total, shift : ndarray of shape (p,), float, ndarray of shape (k,)
        With an intercept and without coupling: ``X' h``, the sum of `h`, and the change of the
        intercept so far (updated), by which the step of every block is followed at once; `V` lacks
        ``h shift`` until the end. ``total = 0``: no intercept.
    inverse : ndarray of shape (k, k) or (0, 0), float64
        With coupling: inverse curvature of the intercepts, which move once a sweep.
    bounds : ndarray of shape (n_blocks, k or 1), float64
        Bounds of the curvature of blocks (or of single numbers).
    places, grams : ndarray
        Products of the columns of blocks, as of :func:`block_bounds`: with them a block is solved
        almost exactly before the others hear of it.
    rule, mu : BlockRule, float
        Penalty and ridge term.
    sweeps, small : int, float
        Limits.
    trail : ndarray of shape (t, size), float64
        The coefficients of the listed blocks after each of the last t sweeps (may be empty).

    Returns
    -------
    int, float, float
        Sweeps; the sum over blocks of bound times squared step in the last one; the largest bound
        times step.

    Notes
    -----
    Cost: 4 k nnz flops a sweep at most; blocks that do not move cost half.
    """
    k, n = V.shape
    if k == 1 and rule.kind != GROUP and P.size == 0:
        done, decrease, largest = _sweep_entries(
            X, blocks, order, ptr, w, V[0], h, a, total, shift, bounds, rule, mu, sweeps, small,
            trail,
        )  # fmt: skip
        if total > 0:
            for i in range(n):
                V[0, i] += shift[0] * (h[i] if h.size else 1.0)
        return done, decrease, largest
    widest = 0
    for place in range(blocks.size):
        widest = max(widest, ptr[blocks[place] + 1] - ptr[blocks[place]])
    buffer, slope, ahead = np.empty((widest, k)), np.empty((widest, k)), np.empty((widest, k))
    steps, d = np.empty(k), np.empty(k)
    decrease, largest, done = 0.0, 0.0, 0
    for _ in range(sweeps):
        decrease, largest = 0.0, 0.0
        for place in range(blocks.size):
            b = blocks[place]
            first, m = ptr[b], ptr[b + 1] - ptr[b]
            z = buffer[:m]
            for c in range(k):
                steps[c] = 1.0 / (bounds[b, c if bounds.shape[1] > 1 else 0] + mu)
            for u in range(m):
                j = order[first + u]
                column_dot_all(X, j, V, slope[u])
                for c in range(k):
                    g = slope[u, c] + mu * w[j, c]
                    if total > 0:
                        g += shift[c] * a[j]
                    z[u, c] = w[j, c] - steps[c] * g
                    slope[u, c] = g
            _prox_block(rule, b, z, steps)
            if m > 1 and places[b] >= 0:
                _refine(rule, b, z, slope, w, order, first, grams, places[b], mu, steps, ahead)
            squares = 0.0
            for u in range(m):
                j = order[first + u]
                moved = False
                for c in range(k):
                    d[c] = z[u, c] - w[j, c]
                    if d[c] != 0.0:
                        moved = True
                        w[j, c] = z[u, c]
                        squares += d[c] * d[c] / steps[c]
                        largest = max(largest, abs(d[c]) / steps[c])
                if not moved:
                    continue
                if P.size:
                    coupled_add(X, j, d, h, P, V)
                else:
                    for c in range(k):
                        if d[c] != 0.0:
                            column_add(X, j, d[c], h, V[c])
                            if total > 0:
                                shift[c] -= a[j] / total * d[c]
            decrease += squares
        if P.size and inverse.size:
            _move_intercepts(V, h, P, inverse, shift, d)
        done += 1
        if trail.size:
            _remember(trail, done - 1, blocks, order, ptr, w)
        if largest <= small:
            break
    if total > 0:
        for c in range(k):
            for i in range(n):
                V[c, i] += shift[c] * (h[i] if h.size else 1.0)
    return done, decrease, largest


@njit(cache=True, nogil=True, error_model="numpy", fastmath=_FAST)
def _sweep_entries(
    X, blocks, order, ptr, w, v, h, a, total, shift, bounds, rule, mu, sweeps, small, trail
):
    # As below, for blocks of one number.
    decrease, largest, done = 0.0, 0.0, 0
    for _ in range(sweeps):
        decrease, largest = 0.0, 0.0
        for place in range(blocks.size):
            b = blocks[place]
            j = order[ptr[b]]
            before = w[j, 0]
            g = column_dot(X, j, v) + mu * before
            if total > 0:
                g += shift[0] * a[j]
            bound = bounds[b, 0] + mu
            if before == 0.0 and rule.kind == ENTRY and abs(g) <= _limit(rule, b):
                continue
            after = prox_entry(rule, b, before - g / bound, 1.0 / bound)
            d = after - before
            if d != 0.0:
                w[j, 0] = after
                decrease += bound * d * d
                largest = max(largest, bound * abs(d))
                column_add(X, j, d, h, v)
                if total > 0:
                    shift[0] -= a[j] / total * d
        done += 1
        if trail.size:
            _remember(trail, done - 1, blocks, order, ptr, w)
        if largest <= small:
            break
    return done, decrease, largest


@njit(cache=True, nogil=True, error_model="numpy", fastmath=_FAST)
def _refine(rule, b, z, slope, w, order, first, grams, place, mu, steps, ahead):
    # Further prox steps on the block alone, whose gradient at w is `slope`.
    m, k = z.shape
    settled = 0.0
    for turn in range(_TURNS):
        for u in range(m):
            for c in range(k):
                ahead[u, c] = slope[u, c]
        for v in range(m):
            j = order[first + v]
            for c in range(k):
                d = z[v, c] - w[j, c]
                if d != 0.0:
                    ahead[v, c] += mu * d
                    for u in range(m):
                        ahead[u, c] += grams[place + u * m + v] * d
        for u in range(m):
            for c in range(k):
                ahead[u, c] = z[u, c] - steps[c] * ahead[u, c]
        _prox_block(rule, b, ahead[:m], steps)
        change = 0.0
        for u in range(m):
            for c in range(k):
                change += (ahead[u, c] - z[u, c]) ** 2
                z[u, c] = ahead[u, c]
        if turn == 0:
            settled = 1e-4 * change
        if (turn > 0 and change <= settled) or change == 0.0:
            break


@njit(cache=True, nogil=True, error_model="numpy", fastmath=_FAST)
def _move_intercepts(V, h, P, inverse, shift, d):
    k, n = V.shape
    for c in range(k):
        d[c] = 0.0
    for c in range(k):
        total = 0.0
        for i in range(n):
            total += V[c, i]
        for other in range(k):
            d[other] -= inverse[other, c] * total
    for c in range(k):
        shift[c] += d[c]
    for i in range(n):
        mean = 0.0
        for c in range(k):
            mean += P[c, i] * d[c]
        for c in range(k):
            V[c, i] += (h[i] if h.size else 1.0) * P[c, i] * (d[c] - mean)


@njit(cache=True, nogil=True, error_model="numpy")
def _remember(trail, sweep, blocks, order, ptr, w):
    # The last rows are kept: older ones move up.
    rows, k = trail.shape[0], w.shape[1]
    if sweep >= rows:
        for t in range(rows - 1):
            trail[t] = trail[t + 1]
    at, row = 0, min(sweep, rows - 1)
    for place in range(blocks.size):
        for f in range(ptr[blocks[place]], ptr[blocks[place] + 1]):
            for c in range(k):
                trail[row, at] = w[order[f], c]
                at += 1


@njit(cache=True, nogil=True, error_model="numpy", fastmath=_FAST)
def gram_sweeps(H, q, w, ids, ptr, bounds, rule, sweeps, calm, inner, small, trail):
    """Descend over blocks of rows of `w` with the products of columns at hand.

    Parameters
    ----------
    H : ndarray of shape (m, m), float64
        Fortran-ordered, symmetric: curvature, the ridge term on its diagonal.
    q, w : ndarray of shape (m, k), float64
        Gradient and coefficients; updated.
    ids, ptr : ndarray of int64
        Rows ``ptr[i]`` to ``ptr[i + 1]`` are block ``ids[i]`` of the penalty.
    bounds : ndarray of shape (n_blocks,), float64
        Bounds of the diagonal blocks of `H`, with the ridge term.
    rule : BlockRule
        Penalty.
    sweeps, calm : int
        Limits on sweeps, and on those in a row that changed neither sign nor support.
    inner : int
        Prox steps of a block of several rows before the others hear of it.
    small : float
        Stop when no bound times step is larger.
    trail : ndarray of shape (t, m * k), float64
        As in :func:`sweep_blocks`.

    Returns
    -------
    int, float
        Sweeps; the largest bound times step of the last one.

    Notes
    -----
    Cost: 2 k m^2 flops a sweep at most.
    """
    m, k = w.shape
    widest = 0
    for i in range(ids.size):
        widest = max(widest, ptr[i + 1] - ptr[i])
    buffer, local, steps = np.empty((widest, k)), np.empty((widest, k)), np.empty(k)
    done, quiet, largest = 0, 0, 0.0
    for _ in range(sweeps):
        largest = 0.0
        changes = 0
        for i in range(ids.size):
            first, last = ptr[i], ptr[i + 1]
            size = last - first
            for c in range(k):
                steps[c] = 1.0 / bounds[i]
            z, g = buffer[:size], local[:size]
            turns = inner if size > 1 else 1
            for u in range(size):
                for c in range(k):
                    g[u, c] = q[first + u, c]
                    z[u, c] = w[first + u, c]
            for turn in range(turns):
                if turn > 0:
                    for u in range(size):
                        for c in range(k):
                            total = q[first + u, c]
                            for v in range(size):
                                total += H[first + u, first + v] * (z[v, c] - w[first + v, c])
                            g[u, c] = total
                for u in range(size):
                    for c in range(k):
                        z[u, c] -= steps[c] * g[u, c]
                _prox_block(rule, ids[i], z, steps)
            for u in range(size):
                for c in range(k):
                    before, after = w[first + u, c], z[u, c]
                    d = after - before
                    if d == 0.0:
                        continue
                    largest = max(largest, abs(d) * bounds[i])
                    crossed = before * after < 0 and rule.kind != BOX and rule.kind != GROUP
                    if crossed or _is_settled(rule, before) != _is_settled(rule, after):
                        changes += 1
                    w[first + u, c] = after
                    for row in range(m):
                        q[row, c] += d * H[row, first + u]
        done += 1
        if trail.size:
            rows = trail.shape[0]
            if done > rows:
                for t in range(rows - 1):
                    trail[t] = trail[t + 1]
            at = min(done, rows) - 1
            for u in range(m):
                for c in range(k):
                    trail[at, u * k + c] = w[u, c]
        quiet = 0 if changes else quiet + 1
        if quiet >= calm or largest <= small:
            break
    return done, largest
