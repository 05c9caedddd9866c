"""Passes of presolve over rows and columns, and the way back.

Rows and columns are only marked as removed; the matrix stays as it is, by rows and by columns.
Bounds of rows count fixed columns at their values and absorbed slacks at 0. What the way back needs
is written on a stack of operations: kind, row, column, flags and numbers.
"""

from __future__ import annotations

import numpy as np
from numba import njit

__all__ = ["column_pass", "parallel_rows", "restore", "row_pass"]

SINGLETON, FORCING, SLACK, PARALLEL = 1, 2, 3, 4
OK, CHANGED, INFEASIBLE_ROW, INFEASIBLE_COLUMN, UNBOUNDED = 0, 1, 2, 3, 4


@njit(cache=True, nogil=True, error_model="numpy")
def row_pass(
    ptr, idx, val, cl, cu, lower, upper, x, rows, cols, forced, switches,
    slack_tol, kinds, places, numbers, top,
):  # fmt: skip
    """Remove empty, redundant, singleton and forcing rows.

    Returns a code, the row or column that it is about, a sign, and the top of the stack.
    """
    code = OK
    inf = np.inf
    for i in range(len(ptr) - 1):
        if not rows[i]:
            continue
        count, base, size, last = 0, 0.0, 0.0, -1
        low, high, low_inf, high_inf = 0.0, 0.0, 0, 0
        for k in range(ptr[i], ptr[i + 1]):
            j, a = idx[k], val[k]
            if not cols[j]:
                base += a * x[j]
                size += abs(a * x[j])
                continue
            count += 1
            last = k
            one, two = lower[j], upper[j]
            if a < 0:
                one, two = upper[j], lower[j]
            if abs(one) == inf:
                low_inf += 1
            else:
                low += a * one
                size += abs(a * one)
            if abs(two) == inf:
                high_inf += 1
            else:
                high += a * two
                size += abs(a * two)
        side = 0.0
        if abs(cl[i]) < inf:
            side = abs(cl[i])
        if abs(cu[i]) < inf:
            side = max(side, abs(cu[i]))
        near = slack_tol * (side + size)
        low, high = low + base, high + base
        if low_inf == 0 and low > cu[i] + near:
            return INFEASIBLE_ROW, i, -1, top
        if high_inf == 0 and high < cl[i] - near:
            return INFEASIBLE_ROW, i, 1, top
        if count == 0:
            if switches[0]:
                rows[i] = False
                code = CHANGED
            continue
        if count == 1 and switches[1]:
            j, a = idx[last], val[last]
            one, two = (cl[i] - base) / a, (cu[i] - base) / a
            if a < 0:
                one, two = two, one
            flags = 0
            room = near / abs(a)
            if one > lower[j]:
                if one > upper[j] + room:
                    return INFEASIBLE_ROW, i, 1 if a > 0 else -1, top
                flags |= 1
                lower[j] = min(one, upper[j])
            if two < upper[j]:
                if two < lower[j] - room:
                    return INFEASIBLE_ROW, i, -1 if a > 0 else 1, top
                flags |= 2
                upper[j] = max(two, lower[j])
            rows[i] = False
            code = CHANGED
            if flags:
                kinds[top] = SINGLETON
                places[top, 0], places[top, 1], places[top, 2] = i, j, flags
                numbers[top, 0] = a
                top += 1
            continue
        if switches[3] and (
            (high_inf == 0 and high <= cl[i] + near) or (low_inf == 0 and low >= cu[i] - near)
        ):
            sign = 1 if high_inf == 0 and high <= cl[i] + near else -1
            for k in range(ptr[i], ptr[i + 1]):
                j = idx[k]
                if cols[j]:
                    x[j] = upper[j] if val[k] * sign > 0 else lower[j]
                    cols[j] = False
                    forced[j] = i
            rows[i] = False
            kinds[top] = FORCING
            places[top, 0], places[top, 1], places[top, 2] = i, -1, sign
            top += 1
            code = CHANGED
            continue
        if switches[2]:
            if low_inf == 0 and cl[i] > -inf and low >= cl[i]:
                cl[i] = -inf
            if high_inf == 0 and cu[i] < inf and high <= cu[i]:
                cu[i] = inf
            if cl[i] == -inf and cu[i] == inf:
                rows[i] = False
                code = CHANGED
    return code, -1, 0, top


@njit(cache=True, nogil=True, error_model="numpy")
def column_pass(
    ptr, idx, val, row_ptr, row_idx, row_val, c, cl, cu, lower, upper, x, rows, cols, shift,
    switches, largest, kinds, places, numbers, top,
):  # fmt: skip
    """Fix columns, and absorb columns of one row into its bounds; returns as `row_pass`."""
    code = OK
    inf = np.inf
    for j in range(len(ptr) - 1):
        if not cols[j]:
            continue
        if lower[j] == upper[j] and switches[4]:
            x[j] = lower[j]
            cols[j] = False
            code = CHANGED
            continue
        count, last = 0, -1
        up, down = False, False  # whether rows may forbid to increase, to decrease
        for k in range(ptr[j], ptr[j + 1]):
            i = idx[k]
            if not rows[i]:
                continue
            count += 1
            last = k
            if val[k] > 0:
                up |= cu[i] < inf
                down |= cl[i] > -inf
            else:
                up |= cl[i] > -inf
                down |= cu[i] < inf
        if (count == 0 and switches[5]) or switches[6]:
            value, sign = inf, 0
            if count == 0 and c[j] == 0:
                value, sign = min(max(0.0, lower[j]), upper[j]), 1
            elif c[j] >= 0 and not down and (c[j] > 0 or lower[j] > -inf):
                value, sign = lower[j], -1
            elif c[j] <= 0 and not up and (c[j] < 0 or upper[j] < inf):
                value, sign = upper[j], 1
            if sign:
                if abs(value) == inf:
                    return UNBOUNDED, j, sign, top
                x[j] = value
                cols[j] = False
                code = CHANGED
                continue
        if count == 1 and switches[7]:
            i, a = idx[last], val[last]
            ratio = c[j] / a
            if c[j] != 0 and cl[i] < cu[i]:
                # The sign of a free column's multiplier tells which side binds.
                if lower[j] > -inf or upper[j] < inf:
                    continue
                side = cl[i] if ratio > 0 else cu[i]
                if abs(side) == inf:
                    continue
            else:
                side = cl[i]
            biggest = 0.0
            for k in range(row_ptr[i], row_ptr[i + 1]):
                if cols[row_idx[k]]:
                    biggest = max(biggest, abs(row_val[k]))
            if abs(a) < 1e-3 * biggest or abs(ratio) * biggest > 1e3 * (1.0 + largest):
                continue
            if c[j] != 0:
                cl[i], cu[i] = side, side
                for k in range(row_ptr[i], row_ptr[i + 1]):
                    change = ratio * row_val[k]
                    old = c[row_idx[k]]
                    c[row_idx[k]] = old - change
                    if abs(old - change) <= 1e-13 * (abs(old) + abs(change)):
                        c[row_idx[k]] = 0.0
                c[j] = 0.0
            kinds[top] = SLACK
            places[top, 0], places[top, 1], places[top, 2] = i, j, 0
            shift[i] += ratio
            numbers[top, 0], numbers[top, 1] = cl[i], cu[i]
            numbers[top, 2], numbers[top, 3] = lower[j], upper[j]
            numbers[top, 4], numbers[top, 5], numbers[top, 6] = a, shift[i], ratio
            top += 1
            one, two = a * lower[j], a * upper[j]
            if a < 0:
                one, two = two, one
            cl[i] = cl[i] - two if cl[i] > -inf and two < inf else -inf
            cu[i] = cu[i] - one if cu[i] < inf and one > -inf else inf
            x[j] = 0.0
            cols[j] = False
            code = CHANGED
    return code, -1, 0, top


@njit(cache=True, nogil=True, error_model="numpy")
def parallel_rows(
    ptr, idx, val, cl, cu, x, rows, cols, weights, shift, kinds, places, numbers, top
):
    """Merge rows that are multiples of another one; returns the number and the stack's top."""
    m = len(ptr) - 1
    inf = np.inf
    keys = np.full(m, inf)
    first = np.zeros(m)
    base = np.zeros(m)
    count = np.zeros(m, np.int64)
    for i in range(m):
        if not rows[i]:
            continue
        key = 0.0
        for k in range(ptr[i], ptr[i + 1]):
            j = idx[k]
            if not cols[j]:
                base[i] += val[k] * x[j]
                continue
            if count[i] == 0:
                first[i] = val[k]
            count[i] += 1
            key += weights[j] * (val[k] / first[i])
        if count[i] > 1:
            keys[i] = key
    order = np.argsort(keys)
    merged, at = 0, 0
    while at < m and keys[order[at]] < inf:
        i = order[at]
        at += 1
        while at < m and abs(keys[order[at]] - keys[i]) <= 1e-12 * abs(keys[i]):
            k = order[at]
            at += 1
            if count[k] != count[i]:
                continue
            scale = first[k] / first[i]
            same, p, q = True, ptr[i], ptr[k]
            for _ in range(count[i]):
                while not cols[idx[p]]:
                    p += 1
                while not cols[idx[q]]:
                    q += 1
                if idx[p] != idx[q] or abs(val[q] - scale * val[p]) > 1e-14 * abs(val[q]):
                    same = False
                    break
                p += 1
                q += 1
            if not same:
                continue
            low, high = (cl[k] - base[k]) / scale, (cu[k] - base[k]) / scale
            if scale < 0:
                low, high = high, low
            low, high = low + base[i], high + base[i]
            room = 1e-9 * (abs(low) if abs(low) < inf else 0.0)
            room += 1e-9 * (abs(high) if abs(high) < inf else 0.0)
            if low > cu[i] + room or high < cl[i] - room:
                return -1 - i, k, top
            flags = 0
            if low > cl[i]:
                flags |= 1
                cl[i] = min(low, cu[i])
            if high < cu[i]:
                flags |= 2
                cu[i] = max(high, cl[i])
            rows[k] = False
            merged += 1
            if flags:
                kinds[top] = PARALLEL
                places[top, 0], places[top, 1], places[top, 2] = i, k, flags
                numbers[top, 0], numbers[top, 1] = scale, shift[i]
                top += 1
    return merged, 0, top


@njit(cache=True, nogil=True, error_model="numpy")
def restore(ptr, idx, val, kinds, places, numbers, top, forced, x, y, z, ray):
    """Undo the stack: x, y and the reduced costs z are completed in place.

    With `ray`, bounds count as 0 where they are finite.
    """
    inf = np.inf
    for t in range(top - 1, -1, -1):
        kind, i, j, flags = kinds[t], places[t, 0], places[t, 1], places[t, 2]
        delta, target = 0.0, i
        if kind == SINGLETON:
            if (z[j] > 0 and flags & 1) or (z[j] < 0 and flags & 2):
                delta = z[j] / numbers[t, 0]
        elif kind == FORCING:
            for k in range(ptr[i], ptr[i + 1]):
                if forced[idx[k]] == i:
                    ratio = z[idx[k]] / val[k]
                    if ratio * flags > delta * flags:
                        delta = ratio
        elif kind == PARALLEL:
            own = y[i] - (0.0 if ray else numbers[t, 1])
            if (own > 0 and flags & 1) or (own < 0 and flags & 2):
                y[i] -= own
                for k in range(ptr[i], ptr[i + 1]):
                    z[idx[k]] += val[k] * own
                delta, target = own / numbers[t, 0], j
        else:
            a, cl, cu = numbers[t, 4], numbers[t, 0], numbers[t, 1]
            low, high = numbers[t, 2], numbers[t, 3]
            if ray:
                cl = 0.0 if cl > -inf else cl
                cu = 0.0 if cu < inf else cu
                low = 0.0 if low > -inf else low
                high = 0.0 if high < inf else high
            activity = 0.0  # columns that are still to come count as 0
            for k in range(ptr[i], ptr[i + 1]):
                activity += val[k] * x[idx[k]]
            one, two = (cl - activity) / a, (cu - activity) / a
            own = y[i] - (0.0 if ray else numbers[t, 5])
            value = one if own > 0 else two
            if own == 0 or abs(value) == inf:
                value = min(max(0.0, min(one, two)), max(one, two))
                value = min(max(value, low), high)
                value = min(max(value, min(one, two)), max(one, two))
            value = min(max(value, low), high)
            x[j] = value
            continue
        if delta != 0.0:
            y[target] += delta
            for k in range(ptr[target], ptr[target + 1]):
                z[idx[k]] -= val[k] * delta
