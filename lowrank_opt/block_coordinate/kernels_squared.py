"""Kernels of least squares with L1 terms: passes, coordinate descent, products of columns.

Designs are Fortran-ordered arrays, or the three arrays of a matrix compressed by columns. The
columns are centred without being changed: ``means`` has what is subtracted from each (empty:
nothing). ``u`` is the residual times the weights ``s`` of the samples (empty: ones), and its sum is
0 where there are means. ``total`` is the sum of the weights. The limit of a coefficient is
``lam * weights[j]``, ``lam`` where ``weights`` is empty.

All vectors are float64, designs and products float32 or float64.
"""

from __future__ import annotations

import numpy as np
from numba import njit

__all__ = [
    "add_columns_csc",
    "add_columns_dense",
    "cast_columns",
    "gather",
    "gram_csc",
    "gram_sweeps",
    "line_search",
    "measure",
    "pass_csc",
    "pass_dense",
    "rows_of_csc",
    "select",
    "setup_csc",
    "setup_dense",
    "sweep_csc",
    "sweep_dense",
]

_FAST = {"reassoc", "contract", "arcp"}
# Sums over entries of a sparse column are not vectorised: its loads are scattered.
_SCATTERED = {"contract", "arcp"}
_FOUR = np.uint64(4)
# Entries from which a column's sum is worth being split.
_LONG = np.uint64(24)


@njit(cache=True, nogil=True, error_model="numpy", fastmath=_FAST)
def setup_dense(X, u, s, total, raw, means, squares, c):
    """Fill squared norms of columns, and means, norms and products with `u` of centred ones.

    Empty `means`: the columns are not centred, and `squares` is not touched. The squares are those
    of a corrected second visit of each column, while it is in the cache.

    Cost: one pass over X, about 10 n p flops.
    """
    n, p = X.shape
    plain = s.size == 0
    for j in range(p):
        first, size, dot = 0.0, 0.0, 0.0
        if means.size == 0:
            for i in range(n):
                v = np.float64(X[i, j])
                size += v * v if plain else s[i] * v * v
                dot += v * u[i]
            raw[j] = size
            c[j] = dot
            continue
        if plain:
            for i in range(n):
                v = np.float64(X[i, j])
                first += v
                size += v * v
        else:
            for i in range(n):
                v = np.float64(X[i, j])
                first += s[i] * v
                size += s[i] * v * v
        raw[j] = size
        m = first / total
        rest, square = 0.0, 0.0
        if plain:
            for i in range(n):
                v = X[i, j] - m
                rest += v
                square += v * v
                dot += v * u[i]
        else:
            for i in range(n):
                v = X[i, j] - m
                rest += s[i] * v
                square += s[i] * v * v
                dot += v * u[i]
        square -= rest * rest / total
        m += rest / total
        # What a constant column leaves is rounding.
        means[j] = m
        squares[j] = square if square > 1e-28 * total * m * m else 0.0
        c[j] = dot


@njit(cache=True, nogil=True, error_model="numpy", fastmath=_SCATTERED)
def _dot_csc(data, indices, begin, end, u):
    """Product of a sparse column with `u`; unsigned places are not tested for being negative."""
    i, last = np.uint64(begin), np.uint64(end)
    first = 0.0
    if last - i >= _LONG:
        second, third, fourth = 0.0, 0.0, 0.0
        while i + _FOUR <= last:
            first += data[i] * u[np.uint32(indices[i])]
            second += data[i + np.uint64(1)] * u[np.uint32(indices[i + np.uint64(1)])]
            third += data[i + np.uint64(2)] * u[np.uint32(indices[i + np.uint64(2)])]
            fourth += data[i + np.uint64(3)] * u[np.uint32(indices[i + np.uint64(3)])]
            i += _FOUR
        first = (first + second) + (third + fourth)
    while i < last:
        first += data[i] * u[np.uint32(indices[i])]
        i += np.uint64(1)
    return first


@njit(cache=True, nogil=True, error_model="numpy", fastmath=_SCATTERED)
def setup_csc(data, indices, indptr, u, s, total, raw, means, squares, c):
    """As :func:`setup_dense`. Cost: one pass, 6 nnz flops; two where a mean dominates."""
    i = np.uint64(indptr[0])
    for j in range(raw.size):
        begin, end = i, np.uint64(indptr[j + 1])
        first, size, dot = 0.0, 0.0, 0.0
        while i < end:
            row = np.uint32(indices[i])
            v = np.float64(data[i])
            weighted = v if s.size == 0 else s[row] * v
            first += weighted
            size += weighted * v
            dot += v * u[row]
            i += np.uint64(1)
        raw[j] = size
        c[j] = dot
        if means.size == 0:
            continue
        m = first / total
        square = size - total * m * m
        if square < 1e-2 * size:  # the difference is of large numbers: by its definition
            square, inside = 0.0, 0.0
            for e in range(begin, end):
                v = data[e] - m
                weight = 1.0 if s.size == 0 else s[np.uint32(indices[e])]
                square += weight * v * v
                inside += weight
            square += max(total - inside, 0.0) * m * m
        means[j] = m
        squares[j] = square if square > 1e-28 * total * m * m else 0.0


@njit(cache=True, nogil=True, error_model="numpy", fastmath=_FAST)
def pass_dense(X, u, means, active, count, w, mu, c):
    """Set ``c[j] = (X_j - means[j])' u - mu w[j]`` for the first `count` entries j of `active`.

    Two columns at a time: u is read half as often. Cost: 2 n count flops.
    """
    n = X.shape[0]
    for k in range(0, count - 1, 2):
        a, b = active[k], active[k + 1]
        left, right = 0.0, 0.0
        if means.size == 0:
            for i in range(n):
                left += X[i, a] * u[i]
                right += X[i, b] * u[i]
        else:
            ma, mb = means[a], means[b]
            for i in range(n):
                left += (X[i, a] - ma) * u[i]
                right += (X[i, b] - mb) * u[i]
        c[a] = left - mu * w[a]
        c[b] = right - mu * w[b]
    if count % 2:
        a = active[count - 1]
        m = 0.0 if means.size == 0 else means[a]
        left = 0.0
        for i in range(n):
            left += (X[i, a] - m) * u[i]
        c[a] = left - mu * w[a]


@njit(cache=True, nogil=True, error_model="numpy", fastmath=_SCATTERED)
def pass_csc(data, indices, indptr, u, active, count, w, mu, c):
    """As :func:`pass_dense`; `u` has sum 0 where columns are centred. Cost: 2 nnz flops.

    If `count` is nearly all, all are read, in the order of the memory, and filled in.
    """
    if 4 * count > 3 * c.size:
        i = np.uint64(indptr[0])
        for j in range(c.size):
            last = np.uint64(indptr[j + 1])
            if last - i < _LONG:
                dot = 0.0
                while i < last:
                    dot += data[i] * u[np.uint32(indices[i])]
                    i += np.uint64(1)
            else:
                dot = _dot_csc(data, indices, i, last, u)
                i = last
            c[j] = dot - mu * w[j]
        return
    for k in range(count):
        j = active[k]
        i, last = np.uint64(indptr[j]), np.uint64(indptr[j + 1])
        if last - i < _LONG:
            dot = 0.0
            while i < last:
                dot += data[i] * u[np.uint32(indices[i])]
                i += np.uint64(1)
        else:
            dot = _dot_csc(data, indices, i, last, u)
        c[j] = dot - mu * w[j]


@njit(cache=True, nogil=True, error_model="numpy", fastmath=_FAST)
def measure(c, w, lam, weights, mu, pos, active, count):
    """Return what a duality gap is made of, over the first `count` entries of `active`.

    Returns
    -------
    norm : float
        Sum of ``lam weights[j] |w[j]|``.
    inner : float
        Sum of ``w[j] c[j]``.
    top : float
        Largest ``|c[j]| / (lam weights[j])`` (without the modulus with `pos`).
    ridge : float
        With ``mu > 0``: the gap of the unscaled dual point, a sum of terms of at least 0.

    Notes
    -----
    Coefficients with a limit of 0 are left out of `top`. Cost: count visits.
    """
    norm, inner, top, ridge = 0.0, 0.0, 0.0, 0.0
    for k in range(count):
        j = active[k]
        limit = lam if weights.size == 0 else lam * weights[j]
        v = c[j] if pos else abs(c[j])
        if limit > 0.0:
            top = max(top, v / limit)
        if w[j] != 0.0:
            norm += limit * abs(w[j])
            inner += w[j] * c[j]
        if mu > 0.0:
            g = c[j] + mu * w[j]
            above = max((g if pos else abs(g)) - limit, 0.0)
            # Written as a square where signs agree, which does not cancel.
            t = above if (g > 0.0 or pos) else -above
            e = mu * w[j] - t
            if w[j] == 0.0 or (above > 0.0 and g * w[j] > 0.0):
                ridge += e * e / (2.0 * mu)
            else:
                ridge += limit * abs(w[j]) - w[j] * g + 0.5 * (mu * w[j] * w[j] + t * t / mu)
    return norm, inner, top, ridge


@njit(cache=True, nogil=True, error_model="numpy")
def select(c, w, norms, lam, weights, pos, scale, radius, part, active, count, W, priority):
    """Discard coefficients, and list those that can matter.

    A coefficient is discarded if it is 0 and ``scale |c| + norms radius`` is below
    its limit; a negative `radius` discards none. It is listed in `W` if it is not 0 or
    ``scale |c|`` is at least `part` of its limit; `priority` is the distance to the limit over the
    norm, and minus infinity for those not 0 and those without limit.

    Returns
    -------
    int, int, int
        What is left of `active`, which is compacted in place; the length of `W`; how many in it
        are not 0.

    Notes
    -----
    Cost: count visits.
    """
    left, listed, support = 0, 0, 0
    for k in range(count):
        j = active[k]
        limit = lam if weights.size == 0 else lam * weights[j]
        v = scale * (c[j] if pos else abs(c[j]))
        if radius >= 0.0 and w[j] == 0.0 and limit > 0.0 and v + norms[j] * radius < limit:
            continue
        active[left] = j
        left += 1
        free = limit == 0.0 and not pos
        if w[j] != 0.0 or free:
            W[listed] = j
            priority[listed] = -np.inf
            listed += 1
            support += 1
        elif v >= part * limit and (limit > 0.0 or v > 0.0):
            W[listed] = j
            priority[listed] = (limit - v) / norms[j]
            listed += 1
    return left, listed, support


@njit(cache=True, nogil=True, error_model="numpy", fastmath=_FAST)
def sweep_dense(X, u, s, means, w, squares, W, count, lam, weights, mu, pos, sweeps, history):
    """Coordinate descent over the first `count` entries of `W`; changes `w` and `u`.

    After sweep ``k`` the coefficients go to row k of `history`, which may have no rows.

    Returns
    -------
    float
        Sum of the squared, scaled steps of the last sweep: twice a decrease.

    Notes
    -----
    Cost: 4 n count flops a sweep.
    """
    n = X.shape[0]
    change = 0.0
    for sweep in range(sweeps):
        change = 0.0
        for k in range(count):
            j = W[k]
            h = squares[j] + mu
            if not squares[j] > 0.0:
                continue
            m = 0.0 if means.size == 0 else means[j]
            old = w[j]
            t = 0.0
            for i in range(n):
                t += (X[i, j] - m) * u[i]
            t += old * squares[j]
            limit = lam if weights.size == 0 else lam * weights[j]
            if t > limit:
                new = (t - limit) / h
            elif t < -limit and not pos:
                new = (t + limit) / h
            else:
                new = 0.0
            d = new - old
            if d != 0.0:
                w[j] = new
                if s.size == 0:
                    for i in range(n):
                        u[i] -= d * (X[i, j] - m)
                else:
                    for i in range(n):
                        u[i] -= d * (s[i] * (X[i, j] - m))
                change += h * d * d
        if sweep < history.shape[0]:
            for k in range(count):
                history[sweep, k] = w[W[k]]
    return change


@njit(cache=True, nogil=True, error_model="numpy", fastmath=_SCATTERED)
def sweep_csc(
    data, indices, indptr, u, s, means, total, w, squares, W, count, lam, weights, mu, pos, sweeps,
    history,
):  # fmt: skip
    """As :func:`sweep_dense`. What centring adds to all of `u` is kept apart until the end.

    Cost: 4 nnz(W) flops a sweep, and n for the whole call.
    """
    change, shift = 0.0, 0.0
    for sweep in range(sweeps):
        change = 0.0
        for k in range(count):
            j = W[k]
            h = squares[j] + mu
            if not squares[j] > 0.0:
                continue
            old = w[j]
            t = old * squares[j] + _dot_csc(data, indices, indptr[j], indptr[j + 1], u)
            if means.size > 0:
                t += shift * total * means[j]
            limit = lam if weights.size == 0 else lam * weights[j]
            if t > limit:
                new = (t - limit) / h
            elif t < -limit and not pos:
                new = (t + limit) / h
            else:
                new = 0.0
            d = new - old
            if d != 0.0:
                w[j] = new
                begin, end = np.uint64(indptr[j]), np.uint64(indptr[j + 1])
                if s.size == 0:
                    for i in range(begin, end):
                        u[np.uint32(indices[i])] -= d * data[i]
                else:
                    for i in range(begin, end):
                        row = np.uint32(indices[i])
                        u[row] -= d * s[row] * data[i]
                if means.size > 0:
                    shift += d * means[j]
                change += h * d * d
        if sweep < history.shape[0]:
            for k in range(count):
                history[sweep, k] = w[W[k]]
    if shift != 0.0:
        for i in range(u.size):
            u[i] += shift if s.size == 0 else shift * s[i]
    return change


@njit(cache=True, nogil=True, error_model="numpy", fastmath=_FAST)
def add_columns_dense(X, s, means, S, d, out):
    """Add the weighted, centred columns `S` times `d` to `out`. Cost: 2 n len(S) flops."""
    n = X.shape[0]
    for k in range(S.size):
        j, t = S[k], d[k]
        if t == 0.0:
            continue
        m = 0.0 if means.size == 0 else means[j]
        if s.size == 0:
            for i in range(n):
                out[i] += t * (X[i, j] - m)
        else:
            for i in range(n):
                out[i] += t * (s[i] * (X[i, j] - m))


@njit(cache=True, nogil=True, error_model="numpy", fastmath=_SCATTERED)
def add_columns_csc(data, indices, indptr, s, means, S, d, out):
    """As :func:`add_columns_dense`. Cost: 2 nnz(S) + n flops."""
    shift = 0.0
    for k in range(S.size):
        j, t = S[k], d[k]
        if t == 0.0:
            continue
        for i in range(np.uint64(indptr[j]), np.uint64(indptr[j + 1])):
            row = np.uint32(indices[i])
            out[row] += t * data[i] if s.size == 0 else t * s[row] * data[i]
        if means.size > 0:
            shift += t * means[j]
    if shift != 0.0:
        for i in range(out.size):
            out[i] -= shift if s.size == 0 else shift * s[i]


@njit(cache=True, nogil=True, error_model="numpy")
def cast_columns(X, roots, means, S, factors, out, first):
    """Copy the centred columns `S`, times `factors`, rows times `roots`, to columns of `out`.

    Column k goes to ``out[:, first + k]``. Cost: n len(S) numbers read and written.
    """
    n = X.shape[0]
    for k in range(S.size):
        j = S[k]
        m = 0.0 if means.size == 0 else means[j]
        factor = factors[k]
        if roots.size == 0:
            for i in range(n):
                out[i, first + k] = factor * (X[i, j] - m)
        else:
            for i in range(n):
                out[i, first + k] = roots[i] * (factor * (X[i, j] - m))


@njit(cache=True, nogil=True, error_model="numpy")
def rows_of_csc(data, indices, indptr, columns, starts, places, values):
    """Compress the columns `columns` by rows: `starts` (n + 1), places in `columns`, values.

    Cost: 2 visits of their entries.
    """
    n = starts.size - 1
    starts[:] = 0
    for k in range(columns.size):
        for i in range(indptr[columns[k]], indptr[columns[k] + 1]):
            starts[indices[i] + 1] += 1
    for i in range(n):
        starts[i + 1] += starts[i]
    for k in range(columns.size):
        for i in range(indptr[columns[k]], indptr[columns[k] + 1]):
            at = starts[indices[i]]
            places[at] = k
            values[at] = data[i]
            starts[indices[i]] = at + 1
    for i in range(n, 0, -1):
        starts[i] = starts[i - 1]
    starts[0] = 0


@njit(cache=True, nogil=True, error_model="numpy", fastmath=_SCATTERED)
def gram_csc(
    data, indices, indptr, s, means, total, columns, factors, first, starts, places, values, G
):
    """Fill rows and columns ``first:`` of `G`, the products of the centred columns times `factors`.

    `starts`, `places` and `values` are what :func:`rows_of_csc` made of all columns.

    Cost: 2 flops for every pair of entries in the same row, one of them in a new column.
    """
    m = columns.size
    line = np.zeros(m)
    for k in range(first, m):
        j = columns[k]
        for i in range(np.uint64(indptr[j]), np.uint64(indptr[j + 1])):
            row = np.uint32(indices[i])
            v = float(data[i]) if s.size == 0 else s[row] * data[i]
            for e in range(np.uint64(starts[row]), np.uint64(starts[row + 1])):
                line[np.uint32(places[e])] += v * values[e]
        back = 0.0 if means.size == 0 else total * means[j]
        for q in range(m):
            t = line[q]
            if means.size > 0:
                t -= back * means[columns[q]]
            line[q] = 0.0
            t *= factors[k] * factors[q]
            G[q, k] = t
            G[k, q] = t


@njit(cache=True, nogil=True, error_model="numpy")
def gather(G, slots, out):
    """Copy the rows and columns `slots` of `G`, ascending, to `out`. Cost: len(slots)^2 reads."""
    m = slots.size
    for b in range(m):
        for a in range(m):
            out[a, b] = G[slots[a], slots[b]]


@njit(cache=True, nogil=True, error_model="numpy", fastmath=_FAST)
def gram_sweeps(A, q, w, limits, ridge, pos, cap, stable, least):
    """Coordinate descent on ``w' (A + diag(ridge)) w / 2``, gradient ``-q``; changes `w` and `q`.

    Stops after `stable` sweeps without a change of a sign, after a sweep whose squared, scaled
    steps sum to at most `least`, or after `cap` sweeps.

    Returns
    -------
    int
        Sweeps done.

    Notes
    -----
    Cost: 2 m flops a step; column j of the Fortran-ordered A is read.
    """
    m = q.size
    calm = 0
    step = np.empty(1, A.dtype)  # rounds to that type, so that the loop below runs in it
    for sweep in range(cap):
        turned = False
        change = 0.0
        for j in range(m):
            a = float(A[j, j])
            h = a + ridge[j]
            if not a > 0.0:
                continue
            old = w[j]
            t = float(q[j]) + h * old
            limit = limits[j]
            if t > limit:
                new = (t - limit) / h
            elif t < -limit and not pos:
                new = (t + limit) / h
            else:
                new = 0.0
            d = new - old
            if d != 0.0:
                w[j] = new
                if (new > 0.0) != (old > 0.0) or (new < 0.0) != (old < 0.0):
                    turned = True
                change += h * d * d
                step[0] = d
                f = step[0]
                for i in range(m):
                    q[i] -= f * A[i, j]
                q[j] -= ridge[j] * d
        calm = 0 if turned else calm + 1
        if calm >= stable or change <= least:
            return sweep + 1
    return cap


@njit(cache=True, nogil=True, error_model="numpy")
def line_search(w, d, limits, pos, slope, curvature):
    """Minimise the piecewise quadratic along ``w + t d`` for t in [0, 1].

    `slope` is the derivative at 0 with the signs of `w`, `curvature` the second derivative. The
    derivative jumps by ``2 limits |d|`` where a coefficient passes 0; with `pos` the line ends
    there.

    Returns
    -------
    float, int
        The length; which coefficient is 0 there, or -1.

    Notes
    -----
    Cost: m log m.
    """
    m = w.size
    times = np.empty(m)
    which = np.empty(m, np.int64)
    count = 0
    for i in range(m):
        if (limits[i] > 0.0 or pos) and w[i] * d[i] < 0.0:
            t = -w[i] / d[i]
            if t <= 1.0:
                times[count] = t
                which[count] = i
                count += 1
    order = np.argsort(times[:count])
    jump = 0.0
    for k in range(count):
        i = which[order[k]]
        t = times[order[k]]
        if slope + jump + curvature * t >= 0.0:
            break
        jump += 2.0 * limits[i] * abs(d[i])
        if pos or slope + jump + curvature * t >= 0.0:
            return t, i
    if not curvature > 0.0:
        return (1.0, -1) if slope + jump < 0.0 else (0.0, -1)
    return min(max(-(slope + jump) / curvature, 0.0), 1.0), -1
