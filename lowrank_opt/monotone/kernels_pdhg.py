"""Fused passes of Halpern PDHG over the columns and the rows of a scaled program.

Indices and row pointers are uint32 (no test for negative indices), sums are not reordered (a
vectorised sum would gather). The x-pass reads A by columns: gathers A'y, steps, clips, reflects,
and mixes with the anchor; the y-pass reads A by rows and does the same for the multipliers. Points
are updated in place: each pass gathers only what the other one wrote.
"""

from __future__ import annotations

import numpy as np
from numba import njit, prange

__all__ = [
    "column_sums",
    "distance",
    "face_norm",
    "iterate",
    "iterate_parallel",
    "iterate_quadratic",
    "mark_awake",
    "mark_face",
    "measure_columns",
    "measure_rows",
    "moves",
    "part_by_columns",
    "part_by_rows",
    "product",
    "x_pass",
    "x_pass_kept",
    "y_pass",
    "y_pass_kept",
]


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"}, inline="never")
def x_pass(ptr, idx, val, cost, lower, upper, y, x, anchor, reflected, tau, mix, g, lo, hi):
    """Update the columns in [lo, hi); `reflected` receives 2 T(x) - x.

    `mix` is the weight of the reflected point against the anchor, `g` that of the reflected point
    against the current one.
    """
    for j in range(lo, hi):
        s = cost[j]
        for k in range(ptr[j], ptr[j + 1]):
            s -= val[k] * y[idx[k]]
        old = x[j]
        new = min(max(old - tau * s, lower[j]), upper[j])
        bar = new + new - old
        reflected[j] = bar
        x[j] = mix * (g * bar + (1 - g) * old) + (1 - mix) * anchor[j]


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"}, inline="never")
def y_pass(ptr, idx, val, lower, upper, reflected, y, anchor, sigma, mix, g, lo, hi):
    """Update the rows in [lo, hi) from the reflected primal point."""
    for i in range(lo, hi):
        s = y[i] * 0
        for k in range(ptr[i], ptr[i + 1]):
            s += val[k] * reflected[idx[k]]
        old = y[i]
        v = old - sigma * s
        # The prox of the support function: multipliers of the lower bound are positive.
        new = max(v + sigma * lower[i], min(v + sigma * upper[i], 0 * v))
        bar = new + new - old
        y[i] = mix * (g * bar + (1 - g) * old) + (1 - mix) * anchor[i]


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"}, inline="never")
def x_pass_kept(ptr, idx, val, cost, lower, upper, y, x, anchor, reflected, hat, tau, mix, g, lo,
                hi):  # fmt: skip
    """Do as `x_pass` and keep T(x) in `hat`."""
    for j in range(lo, hi):
        s = cost[j]
        for k in range(ptr[j], ptr[j + 1]):
            s -= val[k] * y[idx[k]]
        old = x[j]
        new = min(max(old - tau * s, lower[j]), upper[j])
        hat[j] = new
        bar = new + new - old
        reflected[j] = bar
        x[j] = mix * (g * bar + (1 - g) * old) + (1 - mix) * anchor[j]


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"}, inline="never")
def y_pass_kept(ptr, idx, val, lower, upper, reflected, y, anchor, hat, move, sigma, mix, g, lo,
                hi):  # fmt: skip
    """Do as `y_pass`, keep T(y) in `hat` and T(y) - y in `move`."""
    for i in range(lo, hi):
        s = y[i] * 0
        for k in range(ptr[i], ptr[i + 1]):
            s += val[k] * reflected[idx[k]]
        old = y[i]
        v = old - sigma * s
        new = max(v + sigma * lower[i], min(v + sigma * upper[i], 0 * v))
        hat[i] = new
        move[i] = new - old
        bar = new + new - old
        y[i] = mix * (g * bar + (1 - g) * old) + (1 - mix) * anchor[i]


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"}, inline="never")
def product(ptr, idx, val, x, start, out):
    """Write start + A x for a matrix by rows."""
    for i in range(out.size):
        s = start[i]
        for k in range(ptr[i], ptr[i + 1]):
            s += val[k] * x[idx[k]]
        out[i] = s


@njit(cache=True, nogil=True, error_model="numpy", inline="never")
def moves(reflected, hat, move, out, at):
    """Write the squared norms of T(x) - x = reflected - T(x) and of `move` to out[at:at+2]."""
    primal, dual = 0.0, 0.0
    for j in range(hat.size):
        d = np.float64(reflected[j]) - np.float64(hat[j])
        primal += d * d
    for i in range(move.size):
        d = np.float64(move[i])
        dual += d * d
    out[at], out[at + 1] = primal, dual


@njit(cache=True, nogil=True, error_model="numpy", inline="never")
def distance(y, y_ref):
    """Return the largest absolute difference; infinite where something is not a number."""
    worst = 0.0
    for i in range(y.size):
        d = abs(np.float64(y[i]) - np.float64(y_ref[i]))
        if not d <= worst:
            if np.isnan(d):
                return np.inf
            worst = d
    return worst


@njit(cache=True, nogil=True, error_model="numpy")
def iterate(cptr, cidx, cval, rptr, ridx, rval, cost, lower, upper, row_lower, row_upper, x, y,
            x_anchor, y_anchor, reflected, x_hat, y_hat, y_move, tau, sigma, g, inner, n, first,
            last, out, y_ref, radius):  # fmt: skip
    """Do `n` iterations after `inner` ones since the last restart; return how many were done.

    It ends early when an entry of y is more than `radius` away from `y_ref`. `first` and `last`
    say of which iterations to measure the move T(z) - z: out[0:2] and out[2:4] receive the squared
    norms of its primal and dual part. T(z) is kept then.

    Cost of an iteration: 4 nnz flops, 24 nnz + 8 (8 n + 6 m) bytes in float64.
    """
    for k in range(n):
        mix = x.dtype.type((inner + k + 1.0) / (inner + k + 2.0))
        if (first and k == 0) or (last and k == n - 1):
            x_pass_kept(cptr, cidx, cval, cost, lower, upper, y, x, x_anchor, reflected, x_hat,
                        tau, mix, g, 0, x.size)  # fmt: skip
            y_pass_kept(rptr, ridx, rval, row_lower, row_upper, reflected, y, y_anchor, y_hat,
                        y_move, sigma, mix, g, 0, y.size)  # fmt: skip
            if first and k == 0:
                moves(reflected, x_hat, y_move, out, 0)
            if last and k == n - 1:
                moves(reflected, x_hat, y_move, out, 2)
        else:
            x_pass(cptr, cidx, cval, cost, lower, upper, y, x, x_anchor, reflected, tau, mix, g,
                   0, x.size)  # fmt: skip
            y_pass(rptr, ridx, rval, row_lower, row_upper, reflected, y, y_anchor, sigma, mix, g,
                   0, y.size)  # fmt: skip
        if radius < np.inf and k < n - 1 and distance(y, y_ref) > radius:
            return k + 1
    return n


@njit(cache=True, error_model="numpy", parallel=True)
def iterate_parallel(cptr, cidx, cval, rptr, ridx, rval, cost, lower, upper, row_lower, row_upper,
                     x, y, x_anchor, y_anchor, reflected, x_hat, y_hat, y_move, tau, sigma, g,
                     inner, n, first, last, out, y_ref, radius, columns, rows):  # fmt: skip
    """`iterate` on ranges of columns and rows (int64 borders), one a thread; the same bits."""
    for k in range(n):
        mix = x.dtype.type((inner + k + 1.0) / (inner + k + 2.0))
        if (first and k == 0) or (last and k == n - 1):
            for t in prange(columns.size - 1):
                x_pass_kept(cptr, cidx, cval, cost, lower, upper, y, x, x_anchor, reflected,
                            x_hat, tau, mix, g, columns[t], columns[t + 1])  # fmt: skip
            for t in prange(rows.size - 1):
                y_pass_kept(rptr, ridx, rval, row_lower, row_upper, reflected, y, y_anchor,
                            y_hat, y_move, sigma, mix, g, rows[t], rows[t + 1])  # fmt: skip
            if first and k == 0:
                moves(reflected, x_hat, y_move, out, 0)
            if last and k == n - 1:
                moves(reflected, x_hat, y_move, out, 2)
        else:
            for t in prange(columns.size - 1):
                x_pass(cptr, cidx, cval, cost, lower, upper, y, x, x_anchor, reflected, tau, mix,
                       g, columns[t], columns[t + 1])  # fmt: skip
            for t in prange(rows.size - 1):
                y_pass(rptr, ridx, rval, row_lower, row_upper, reflected, y, y_anchor, sigma, mix,
                       g, rows[t], rows[t + 1])  # fmt: skip
        if radius < np.inf and k < n - 1 and distance(y, y_ref) > radius:
            return k + 1
    return n


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"}, inline="never")
def iterate_quadratic(cptr, cidx, cval, rptr, ridx, rval, qptr, qidx, qval, c, cost, lower, upper,
                      row_lower, row_upper, x, y, x_anchor, y_anchor, reflected, x_hat, y_hat,
                      y_move, tau, sigma, g, inner, n, first, last, out):  # fmt: skip
    """`iterate` with a quadratic term: `cost` receives c + Q x before each pass over columns."""
    for k in range(n):
        product(qptr, qidx, qval, x, c, cost)
        iterate(cptr, cidx, cval, rptr, ridx, rval, cost, lower, upper, row_lower, row_upper, x,
                y, x_anchor, y_anchor, reflected, x_hat, y_hat, y_move, tau, sigma, g, inner + k,
                1, first and k == 0, last and k == n - 1, out, y, np.inf)  # fmt: skip


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"}, inline="never")
def measure_rows(ptr, idx, val, x, y, lower, upper, unit, size, out):
    """Measure the constraints at a scaled point; `unit` takes the scaling of rows away.

    out: squared violations, largest backward error (both in the user's units), support of y.
    `size` are the sizes of the right-hand sides in the user's units.
    """
    violations, worst, support = 0.0, 0.0, 0.0
    for i in range(y.size):
        a, b = 0.0, 0.0
        for k in range(ptr[i], ptr[i + 1]):
            t = np.float64(val[k]) * np.float64(x[idx[k]])
            a += t
            b += abs(t)
        v = a - min(max(a, np.float64(lower[i])), np.float64(upper[i]))
        if v != 0:
            w = v * unit[i]
            violations += w * w
            worst = max(worst, abs(w) / (1.0 + max(size[i], b * unit[i])))
        t = np.float64(y[i])
        if t > 0:
            support += t * lower[i]
        elif t < 0:
            support += t * upper[i]
    out[0], out[1], out[2] = violations, worst, support


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"}, inline="never")
def measure_columns(ptr, idx, val, cost, y, x, c, lower, upper, unit, size, out):
    """Measure the reduced costs at a scaled point; `unit` takes the scaling of columns away.

    `cost` is c + Q x. out: squared parts that no bound carries, largest backward error (both in
    the user's units), support of the rest, c x, x Q x. `size` are the sizes of the costs.
    """
    residuals, worst, support, objective, curvature = 0.0, 0.0, 0.0, 0.0, 0.0
    for j in range(x.size):
        z, b = np.float64(cost[j]), 0.0
        for k in range(ptr[j], ptr[j + 1]):
            t = np.float64(val[k]) * np.float64(y[idx[k]])
            z -= t
            b += abs(t)
        bound = lower[j] if z > 0 else upper[j]
        if np.isinf(bound):
            w = z * unit[j]
            residuals += w * w
            worst = max(worst, abs(w) / (1.0 + size[j] + b * unit[j]))
        elif z != 0:
            support += z * bound
        t = np.float64(x[j])
        objective += c[j] * t
        curvature += (np.float64(cost[j]) - np.float64(c[j])) * t
    out[0], out[1], out[2], out[3], out[4] = residuals, worst, support, objective, curvature


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"}, inline="never")
def mark_face(x_hat, x_anchor, lower, upper, y_hat, row_lower, row_upper, columns, rows):
    """Mark what moves: columns off their anchor or between bounds, rows that are tight.

    Returns the numbers of marked columns and rows.
    """
    n_columns, n_rows = 0, 0
    for j in range(x_hat.size):
        v = x_hat[j]
        columns[j] = v != x_anchor[j] or (lower[j] < v and v < upper[j])
        n_columns += columns[j]
    for i in range(y_hat.size):
        rows[i] = y_hat[i] != 0 or row_lower[i] == row_upper[i]
        n_rows += rows[i]
    return n_columns, n_rows


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"}, inline="never")
def face_norm(ptr, idx, val, columns, rows, v, w, n):
    """Estimate the norm of the marked part of A, by `n` power iterations from `v` (by columns).

    One pass over the marked columns an iteration; `w` is work space.
    """
    norm = 0.0
    for i in range(v.size):
        if not rows[i]:
            v[i] = 0.0
        norm += v[i] * v[i]
    norm = np.sqrt(norm)
    estimate = 0.0
    for _ in range(n):
        if norm == 0.0:
            return 0.0
        for i in range(v.size):
            v[i] /= norm
            w[i] = 0.0
        for j in range(columns.size):
            if columns[j]:
                s = 0.0
                for k in range(ptr[j], ptr[j + 1]):
                    s += val[k] * v[idx[k]]
                if s != 0.0:
                    for k in range(ptr[j], ptr[j + 1]):
                        w[idx[k]] += val[k] * s
        norm = 0.0
        for i in range(v.size):
            v[i] = w[i] if rows[i] else 0.0
            norm += v[i] * v[i]
        norm = np.sqrt(norm)
        estimate = norm
    return np.sqrt(estimate)


@njit(cache=True, nogil=True, error_model="numpy")
def column_sums(ptr, val, out):
    """Write the sums of absolute values of the columns (of a matrix by columns)."""
    for j in range(out.size):
        s = 0.0
        for k in range(ptr[j], ptr[j + 1]):
            s += abs(np.float64(val[k]))
        out[j] = s


@njit(cache=True, nogil=True, error_model="numpy", inline="never")
def mark_awake(ptr, idx, val, cost, lower, upper, y, x, anchor, sums, radius, rounding, awake):
    """Mark the columns that may leave 0 while no entry of y moves by more than `radius`.

    The others are at a bound of 0, their anchor too, and their reduced cost keeps its sign. Returns
    the numbers of marked columns and of their nonzeros.
    """
    n_columns, nnz = 0, 0
    for j in range(x.size):
        asleep = False
        if x[j] == 0 and anchor[j] == 0 and (lower[j] == 0 or upper[j] == 0):
            s, size = np.float64(cost[j]), abs(np.float64(cost[j]))
            for k in range(ptr[j], ptr[j + 1]):
                t = np.float64(val[k]) * np.float64(y[idx[k]])
                s -= t
                size += abs(t)
            margin = sums[j] * radius * (1.0 + rounding) + rounding * (size + sums[j] * radius)
            asleep = (lower[j] == 0 and s > margin) or (upper[j] == 0 and s < -margin)
        awake[j] = not asleep
        if not asleep:
            n_columns += 1
            nnz += np.int64(ptr[j + 1]) - np.int64(ptr[j])
    return n_columns, nnz


@njit(cache=True, nogil=True, error_model="numpy", inline="never")
def part_by_columns(ptr, idx, val, keep, new_ptr, new_idx, new_val):
    """Copy the columns `keep` of a matrix by columns."""
    at = 0
    new_ptr[0] = 0
    for q in range(keep.size):
        j = keep[q]
        for k in range(ptr[j], ptr[j + 1]):
            new_idx[at] = idx[k]
            new_val[at] = val[k]
            at += 1
        new_ptr[q + 1] = at


@njit(cache=True, nogil=True, error_model="numpy", inline="never")
def part_by_rows(ptr, idx, val, place, awake, new_ptr, new_idx, new_val):
    """Copy the marked columns of a matrix by rows; `place` are their new numbers."""
    at = 0
    new_ptr[0] = 0
    for i in range(ptr.size - 1):
        for k in range(ptr[i], ptr[i + 1]):
            j = idx[k]
            if awake[j]:
                new_idx[at] = place[j]
                new_val[at] = val[k]
                at += 1
        new_ptr[i + 1] = at
