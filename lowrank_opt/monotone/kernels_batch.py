"""Passes of Halpern PDHG over the columns and rows of one matrix, for several programs at once.

Points are matrices with one column a program, stored by rows, their width a multiple of 4: sums
run over four programs at a time, in one vector register. The matrix is read once a pass, whatever
the number of programs.
"""

from __future__ import annotations

import numpy as np
from numba import njit

__all__ = ["column_moves", "iterate_batch", "measure_columns", "measure_rows", "products"]

_0, _1, _2, _3, _4 = (np.uint64(i) for i in range(5))


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"})
def gather(ptr, idx, val, points, width, i, out):
    """Write row i of the product of a matrix by rows with flattened points into `out`."""
    for b in range(_0, width, _4):
        s0 = s1 = s2 = s3 = 0.0
        for k in range(ptr[i], ptr[i + 1]):
            v = val[k]
            a = np.uint64(idx[k]) * width + b
            s0 += v * points[a]
            s1 += v * points[a + _1]
            s2 += v * points[a + _2]
            s3 += v * points[a + _3]
        out[b] = s0
        out[b + _1] = s1
        out[b + _2] = s2
        out[b + _3] = s3


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"})
def gather_sizes(ptr, idx, val, points, width, i, out):
    """Write the same row of the product of absolute values into `out`."""
    for b in range(_0, width, _4):
        s0 = s1 = s2 = s3 = 0.0
        for k in range(ptr[i], ptr[i + 1]):
            v = abs(val[k])
            a = np.uint64(idx[k]) * width + b
            s0 += v * abs(points[a])
            s1 += v * abs(points[a + _1])
            s2 += v * abs(points[a + _2])
            s3 += v * abs(points[a + _3])
        out[b] = s0
        out[b + _1] = s1
        out[b + _2] = s2
        out[b + _3] = s3


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"})
def products(ptr, idx, val, points, out):
    """Write the product of a matrix by rows with points of shape (columns, width)."""
    width, flat = np.uint64(points.shape[1]), points.ravel()
    for i in range(out.shape[0]):
        gather(ptr, idx, val, flat, width, i, out[i])


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"})
def iterate_batch(cptr, cidx, cval, rptr, ridx, rval, cost, lower, upper, row_lower, row_upper, x,
                  y, x_anchor, y_anchor, reflected, x_hat, y_hat, y_move, tau, sigma, mix, sums, g,
                  inner, n, keep):  # fmt: skip
    """Do `n` iterations of every program; all arrays of shape (., width), parameters (width,).

    `inner` are the iterations since the last restart of each. With `keep`, T(z) and the dual move
    of the last iteration are kept. `mix` and `sums` are work space.

    Cost of an iteration: 4 nnz width flops, 24 nnz + 8 width (8 n + 6 m) bytes.
    """
    width = np.uint64(x.shape[1])
    k = x.shape[1]
    y_flat, reflected_flat = y.ravel(), reflected.ravel()
    for it in range(n):
        for q in range(k):
            mix[q] = (inner[q] + it + 1.0) / (inner[q] + it + 2.0)
        kept = keep and it == n - 1
        for j in range(x.shape[0]):
            gather(cptr, cidx, cval, y_flat, width, j, sums)
            c, low, high, hat = cost[j], lower[j], upper[j], x_hat[j]
            xj, start, bars = x[j], x_anchor[j], reflected[j]
            for q in range(k):
                old = xj[q]
                new = min(max(old - tau[q] * (c[q] - sums[q]), low[q]), high[q])
                bar = new + new - old
                bars[q] = bar
                xj[q] = mix[q] * (g * bar + (1.0 - g) * old) + (1.0 - mix[q]) * start[q]
                if kept:
                    hat[q] = new
        for i in range(y.shape[0]):
            gather(rptr, ridx, rval, reflected_flat, width, i, sums)
            low, high, hat = row_lower[i], row_upper[i], y_hat[i]
            yi, start, move = y[i], y_anchor[i], y_move[i]
            for q in range(k):
                old = yi[q]
                v = old - sigma[q] * sums[q]
                new = max(v + sigma[q] * low[q], min(v + sigma[q] * high[q], 0.0 * v))
                bar = new + new - old
                yi[q] = mix[q] * (g * bar + (1.0 - g) * old) + (1.0 - mix[q]) * start[q]
                if kept:
                    hat[q] = new
                    move[q] = new - old


@njit(cache=True, nogil=True, error_model="numpy")
def column_moves(a, b, out):
    """Write the squared norms of the columns of a - b."""
    out[:] = 0.0
    for i in range(a.shape[0]):
        for q in range(a.shape[1]):
            d = a[i, q] - b[i, q]
            out[q] += d * d


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"})
def measure_rows(ptr, idx, val, x, y, lower, upper, unit, side, size, sums, sizes, out):
    """Measure the constraints of every program at scaled points.

    ``unit[i] * side[q]`` takes the scaling away, `size` are the sizes of the right-hand sides in
    the user's units; `sums` and `sizes` are work space. out, of shape (3, width): squared
    violations, largest backward errors, supports of y.
    """
    width, k, flat = np.uint64(x.shape[1]), x.shape[1], x.ravel()
    out[:] = 0.0
    for i in range(y.shape[0]):
        gather(ptr, idx, val, flat, width, i, sums)
        gather_sizes(ptr, idx, val, flat, width, i, sizes)
        for q in range(k):
            a, u = sums[q], unit[i] * side[q]
            w = (a - min(max(a, lower[i, q]), upper[i, q])) * u
            out[0, q] += w * w
            out[1, q] = max(out[1, q], abs(w) / (1.0 + max(size[i, q], sizes[q] * u)))
            t = y[i, q]
            if t > 0:
                out[2, q] += t * lower[i, q]
            elif t < 0:
                out[2, q] += t * upper[i, q]


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"})
def measure_columns(ptr, idx, val, cost, y, x, lower, upper, unit, scale, size, sums, sizes, out):
    """Measure the reduced costs of every program at scaled points.

    As `measure_rows`, with ``unit[j] * scale[q]``. out, of shape (4, width): squared parts that no
    bound carries, largest backward errors, supports of the rest, c x.
    """
    width, k, flat = np.uint64(x.shape[1]), x.shape[1], y.ravel()
    out[:] = 0.0
    for j in range(x.shape[0]):
        gather(ptr, idx, val, flat, width, j, sums)
        gather_sizes(ptr, idx, val, flat, width, j, sizes)
        for q in range(k):
            z, u = cost[j, q] - sums[q], unit[j] * scale[q]
            bound = lower[j, q] if z > 0 else upper[j, q]
            if np.isinf(bound):
                w = z * u
                out[0, q] += w * w
                out[1, q] = max(out[1, q], abs(w) / (1.0 + size[j, q] + sizes[q] * u))
            elif z != 0:
                out[2, q] += z * bound
            out[3, q] += cost[j, q] * x[j, q]
