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
    "column_measures",
    "iterate",
    "iterate_parallel",
    "product",
    "product_parallel",
    "row_measures",
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


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"})
def x_pass_kept(ptr, idx, val, cost, lower, upper, y, x, anchor, reflected, hat, tau, mix, g, out,
                lo, hi):  # fmt: skip
    """Do as `x_pass`, keep T(x) in `hat`; out[0] is the squared length of the step."""
    total = 0.0
    for j in range(lo, hi):
        s = cost[j]
        for k in range(ptr[j], ptr[j + 1]):
            s -= val[k] * y[idx[k]]
        old = x[j]
        new = min(max(old - tau * s, lower[j]), upper[j])
        hat[j] = new
        d = np.float64(new - old)
        total += d * d
        bar = new + new - old
        reflected[j] = bar
        x[j] = mix * (g * bar + (1 - g) * old) + (1 - mix) * anchor[j]
    out[0] = total


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"})
def y_pass_kept(ptr, idx, val, lower, upper, reflected, y, anchor, hat, sigma, mix, g, out,
                lo, hi):  # fmt: skip
    """Do as `y_pass`, keep T(y) in `hat`; out[0] is the squared length of the step."""
    total = 0.0
    for i in range(lo, hi):
        s = y[i] * 0
        for k in range(ptr[i], ptr[i + 1]):
            s += val[k] * reflected[idx[k]]
        old = y[i]
        v = old - sigma * s
        new = max(v + sigma * lower[i], min(v + sigma * upper[i], 0 * v))
        hat[i] = new
        d = np.float64(new - old)
        total += d * d
        bar = new + new - old
        y[i] = mix * (g * bar + (1 - g) * old) + (1 - mix) * anchor[i]
    out[0] = total


@njit(cache=True, nogil=True, error_model="numpy")
def iterate(cptr, cidx, cval, rptr, ridx, rval, cost, lower, upper, row_lower, row_upper, x, y,
            x_anchor, y_anchor, reflected, tau, sigma, g, inner, n):  # fmt: skip
    """Do `n` iterations after `inner` ones since the last restart."""
    for k in range(inner, inner + n):
        mix = x.dtype.type((k + 1.0) / (k + 2.0))
        x_pass(cptr, cidx, cval, cost, lower, upper, y, x, x_anchor, reflected, tau, mix, g, 0,
               x.size)  # fmt: skip
        y_pass(rptr, ridx, rval, row_lower, row_upper, reflected, y, y_anchor, sigma, mix, g, 0,
               y.size)  # fmt: skip


@njit(cache=True, error_model="numpy", parallel=True)
def iterate_parallel(cptr, cidx, cval, rptr, ridx, rval, cost, lower, upper, row_lower, row_upper,
                     x, y, x_anchor, y_anchor, reflected, tau, sigma, g, inner, n, columns,
                     rows):  # fmt: skip
    """`iterate` on ranges of columns and rows (int64 borders), one a thread."""
    for k in range(inner, inner + n):
        mix = x.dtype.type((k + 1.0) / (k + 2.0))
        for t in prange(columns.size - 1):
            x_pass(cptr, cidx, cval, cost, lower, upper, y, x, x_anchor, reflected, tau, mix, g,
                   columns[t], columns[t + 1])  # fmt: skip
        for t in prange(rows.size - 1):
            y_pass(rptr, ridx, rval, row_lower, row_upper, reflected, y, y_anchor, sigma, mix, g,
                   rows[t], rows[t + 1])  # fmt: skip


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"}, inline="never")
def _product(ptr, idx, val, x, start, out, lo, hi):
    for i in range(lo, hi):
        s = start[i]
        for k in range(ptr[i], ptr[i + 1]):
            s += val[k] * x[idx[k]]
        out[i] = s


@njit(cache=True, nogil=True, error_model="numpy")
def product(ptr, idx, val, x, start, out):
    """Write start + A x for a matrix by rows."""
    _product(ptr, idx, val, x, start, out, 0, out.size)


@njit(cache=True, error_model="numpy", parallel=True)
def product_parallel(ptr, idx, val, x, start, out, borders):
    """`product` on ranges of rows, one a thread."""
    for t in prange(borders.size - 1):
        _product(ptr, idx, val, x, start, out, borders[t], borders[t + 1])


@njit(cache=True, nogil=True, error_model="numpy")
def row_measures(activity, y, lower, upper, unit, out):
    """Measure the rows at a point whose A x is `activity`; all scaled, `unit` takes that away.

    out: squared violations in the user's units, support of y.
    """
    violations, support = 0.0, 0.0
    for i in range(activity.size):
        a = activity[i]
        v = a - min(max(a, lower[i]), upper[i])
        if v != 0:
            w = v * unit[i]
            violations += w * w
        t = y[i]
        if t > 0:
            support += t * lower[i]
        elif t < 0:
            support += t * upper[i]
    out[0], out[1] = violations, support


@njit(cache=True, nogil=True, error_model="numpy")
def column_measures(gradient, x, c, lower, upper, unit, out):
    """Measure the columns at a point whose c + Q x - A'y is `gradient`.

    out: squared residuals in the user's units, c x, support of z, gradient times x.
    """
    residuals, objective, support, product_ = 0.0, 0.0, 0.0, 0.0
    for j in range(x.size):
        z = gradient[j]
        objective += c[j] * x[j]
        product_ += z * x[j]
        if z > 0:
            if lower[j] == -np.inf:
                w = z * unit[j]
                residuals += w * w
            else:
                support += z * lower[j]
        elif z < 0:
            if upper[j] == np.inf:
                w = z * unit[j]
                residuals += w * w
            else:
                support += z * upper[j]
    out[0], out[1], out[2], out[3] = residuals, objective, support, product_
