"""Numba leaves shared by the families, and the kernel meaning of the penalties.

Everything is C-ordered unless said otherwise. No argument is checked here.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit, types
from numba.extending import overload

from lowrank_opt.numerics import penalties
from lowrank_opt.numerics.penalties import coordinate_penalty, prox, prox_into, value

__all__ = [
    "collect_rows",
    "coordinate_penalty",
    "heap_sort",
    "heap_update",
    "maximum",
    "merge_rows",
    "norm",
    "order_ties_rows",
    "project_l1_ball_rows",
    "project_simplex_rows",
    "prox",
    "prox_into",
    "scatter_rows",
    "simplex_threshold",
    "sort_rows",
    "stream_rows",
    "topk_rows",
    "value",
    "walsh_hadamard",
]

_BLOCK = 64


@njit(cache=True, error_model="numpy")
def _any_above(x, start, bound):
    """Whether one of the _BLOCK entries from `start` on is above `bound`.

    A count of fixed length: unlike an early exit or a floating maximum it is vectorised.
    """
    block = x[start : start + _BLOCK]
    hits = np.int32(0)
    for i in range(_BLOCK):
        hits = np.int32(hits + np.int32(block[i] > bound))
    return hits > 0


@njit(cache=True, error_model="numpy")
def maximum(x):
    """Largest entry of a non-empty vector. Cost: n comparisons, one pass."""
    n = x.size
    top = x[0]
    full = n - n % _BLOCK
    for start in range(0, full, _BLOCK):
        if _any_above(x, start, top):
            for i in range(start, start + _BLOCK):
                top = max(top, x[i])
    for i in range(full, n):
        top = max(top, x[i])
    return top


@njit(cache=True, error_model="numpy", fastmath={"reassoc", "contract", "arcp"})
def _sum_of_squares(x, scale):
    total = 0.0
    for i in range(x.size):
        v = float(x[i]) / scale
        total += v * v
    return total


@njit(cache=True, error_model="numpy")
def norm(x):
    """Euclidean norm of a vector as float64, without overflow or underflow. Cost: 2 n flops."""
    total = _sum_of_squares(x, 1.0)
    if 1e-280 < total < 1e300:
        return math.sqrt(total)
    largest = 0.0
    for i in range(x.size):
        largest = max(largest, abs(float(x[i])))
    if largest == 0.0 or not math.isfinite(largest):
        return largest
    return largest * math.sqrt(_sum_of_squares(x, largest))


@njit(cache=True, error_model="numpy", fastmath={"reassoc", "contract"})
def _above(x, tau):
    """Number and sum of the entries above tau; vectorised."""
    number = 0
    mass = 0.0
    for i in range(x.size):
        above = x[i] > tau
        number += above
        mass += x[i] if above else 0.0
    return number, mass


@njit(cache=True, error_model="numpy")
def _compact(buffer, kept, tau):
    """Move the entries above tau to the front."""
    survivors = 0
    for i in range(kept):
        y = buffer[i]
        buffer[survivors] = y
        survivors += y > tau
    return survivors


@njit(cache=True, error_model="numpy")
def simplex_threshold(x, total, buffer):
    """Maximum m and tau with ``sum max(x - m - tau, 0) == total``, for a vector and total > 0.

    For every set of entries (sum of the set - total) / (size of the set) is a lower bound of the
    root, hence one pass keeps in `buffer` (n float64; may be `x` itself when that is float64) the
    entries above the bound of those kept so far. Newton's method from the left on the convex,
    piecewise linear equation finishes: in each step the product of excess and number of entries
    falls by a factor 4 at least, so there are at most log2(n) + 26 steps over a shrinking set.

    Cost: O(n) expected, O(n log(n / eps)) at worst; 2 n reads when few entries come near m.
    """
    n = x.size
    top = float(maximum(x))
    kept = 0
    mass = 0.0
    tau = -total
    limit = 1024
    full = n - n % _BLOCK
    for start in range(0, n, _BLOCK):
        # Compared in the precision of x: the bound is lowered by its rounding error.
        bound = top + tau
        bound -= 4 * np.finfo(x.dtype).eps * (abs(top) + abs(tau))
        if start < full and not _any_above(x, start, x.dtype.type(bound)):
            continue
        before = kept
        for i in range(start, min(start + _BLOCK, n)):
            y = float(x[i]) - top
            buffer[kept] = y
            kept += y > tau
        mass += _above(buffer[before:kept], tau)[1]
        tau = max(tau, (mass - total) / max(kept, 1))
        if kept >= limit:
            kept = _compact(buffer, kept, tau)
            mass = _above(buffer[:kept], tau)[1]
            limit = max(2 * kept, 1024)
    last = -1
    while True:
        number, mass = _above(buffer[:kept], tau)
        if number == last:
            return top, tau
        if 2 * number < kept:
            kept = _compact(buffer, kept, tau)
        last = number
        tau = max(tau, (mass - total) / max(number, 1))


@njit(cache=True, error_model="numpy")
def _project_simplex(x, total, out, buffer):
    zero = x.dtype.type(0.0)
    if total <= 0.0:
        out[:] = zero
        return
    top, tau = simplex_threshold(x, total, buffer)
    for i in range(x.size):
        y = (float(x[i]) - top) - tau
        out[i] = y if y > 0.0 else zero


@njit(cache=True, error_model="numpy")
def project_simplex_rows(x, totals, out):
    """Project each row of `x` on {y >= 0, sum y = total}; `out` may be `x`.

    Parameters: `x`, `out` (rows, n) C-ordered with n >= 1, `totals` (rows,) float64, at least 0.

    Cost: O(n) expected a row, O(n log(n / eps)) at worst; 3 n reads, n writes.
    """
    buffer = np.empty(x.shape[1])
    for row in range(x.shape[0]):
        _project_simplex(x[row], totals[row], out[row], buffer)


@njit(cache=True, error_model="numpy", fastmath={"reassoc", "contract", "arcp"})
def _sum_of_sizes(x):
    total = 0.0
    for i in range(x.size):
        total += abs(float(x[i]))
    return total


@njit(cache=True, error_model="numpy")
def _project_l1_ball(x, radius, out, buffer):
    if _sum_of_sizes(x) <= radius:
        out[:] = x
        return
    if radius <= 0.0:
        out[:] = x.dtype.type(0.0)
        return
    for i in range(x.size):
        buffer[i] = abs(x[i])
    # The threshold is found in place: an entry is read before its place is written.
    top, tau = simplex_threshold(buffer, radius, buffer)
    for i in range(x.size):
        y = (abs(float(x[i])) - top) - tau
        y = y if y > 0.0 else 0.0
        out[i] = y if x[i] >= 0 else -y


@njit(cache=True, error_model="numpy")
def project_l1_ball_rows(x, radii, out):
    """Project each row of `x` on {sum |y| <= radius}; `out` may be `x`.

    Parameters: `x`, `out` (rows, n) C-ordered, `radii` (rows,) float64, at least 0.

    Cost: that of `project_simplex_rows` and 2 n reads; n reads for a row inside.
    """
    buffer = np.empty(x.shape[1])
    for row in range(x.shape[0]):
        _project_l1_ball(x[row], radii[row], out[row], buffer)


@njit(cache=True, error_model="numpy")
def _sift_down(values, indices, position, count):
    # Root = worst: smallest value, of equal values the largest index.
    v, index = values[position], indices[position]
    while True:
        child = 2 * position + 1
        if child >= count:
            break
        other = child + 1
        if other < count and (
            values[other] < values[child]
            or (values[other] == values[child] and indices[other] > indices[child])
        ):
            child = other
        if values[child] < v or (values[child] == v and indices[child] > index):
            values[position], indices[position] = values[child], indices[child]
            position = child
        else:
            break
    values[position], indices[position] = v, index


@njit(cache=True, error_model="numpy")
def heap_update(x, first, values, indices, count):
    """Offer the entries of `x`, with indices `first`, `first` + 1, ..., to a heap of the largest.

    Parameters: `x` (n,), `values` (k,) of the dtype of `x`, `indices` (k,) int64, k >= 1, `count`
    entries of which are in use: a heap whose root is the worst. Of equal entries those with the
    lowest indices stay, in whatever order blocks come. No NaN.

    Returns the new count.

    Cost: n comparisons in blocks, and log2 k for each entry that enters: about k ln(n / k) enter
    when the order is random, n at worst.
    """
    n, k = x.size, values.size
    start = min(n, k - count)
    for i in range(start):
        values[count], indices[count] = x[i], first + i
        count += 1
    if start > 0 and count == k:
        for position in range(k // 2 - 1, -1, -1):
            _sift_down(values, indices, position, k)
    while start < n:
        stop = min(start + _BLOCK, n)
        # Entries equal to the root matter only when blocks come out of order.
        in_order = first + start > indices[0]
        if in_order and stop - start == _BLOCK and not _any_above(x, start, values[0]):
            start = stop
            continue
        for i in range(start, stop):
            v = x[i]
            if v > values[0] or (v == values[0] and first + i < indices[0]):
                values[0], indices[0] = v, first + i
                _sift_down(values, indices, 0, k)
        start = stop
    return count


@njit(cache=True, error_model="numpy")
def heap_sort(values, indices, count):
    """Sort the first `count` entries in place: descending, of equal ones the lowest index first.

    Cost: O(count log count).
    """
    for position in range(count // 2 - 1, -1, -1):
        _sift_down(values, indices, position, count)
    for last in range(count - 1, 0, -1):
        values[0], values[last] = values[last], values[0]
        indices[0], indices[last] = indices[last], indices[0]
        _sift_down(values, indices, 0, last)


@njit(cache=True, error_model="numpy")
def topk_rows(x, values, indices):
    """The k largest of each row, descending, of equal ones the lowest index first.

    Parameters: `x` (rows, n) C-ordered; outputs `values` (rows, k), `indices` (rows, k) int64,
    1 <= k <= n.

    Cost: that of `heap_update` for each row, and O(k log k).
    """
    for row in range(x.shape[0]):
        heap_update(x[row], 0, values[row], indices[row], 0)
        heap_sort(values[row], indices[row], values.shape[1])


@njit(cache=True, error_model="numpy")
def collect_rows(x, thresholds, values, indices):
    """The k largest of each row in no order, given the k-th largest value of each row.

    Parameters: `x` (rows, n) C-ordered, `thresholds` (rows,) of its dtype; outputs `values`
    (rows, k), `indices` (rows, k) int64. Of entries equal to the threshold the first are taken.

    Cost: n reads a row.
    """
    k = values.shape[1]
    for row in range(x.shape[0]):
        bound = thresholds[row]
        above = 0  # from the front
        equal = 0  # from the back: the next larger entry overwrites the last of them
        for i in range(x.shape[1]):
            v = x[row, i]
            if v > bound:
                values[row, above], indices[row, above] = v, i
                above += 1
            elif v == bound and above + equal < k:
                equal += 1
                values[row, k - equal], indices[row, k - equal] = v, i


@njit(cache=True, error_model="numpy")
def order_ties_rows(values, indices):
    """Sort the indices of equal values ascending, in rows whose values are sorted.

    Parameters: `values` (rows, k), `indices` (rows, k) int64, changed in place.

    Cost: k comparisons a row; O(t log t) for t equal values.
    """
    k = values.shape[1]
    for row in range(values.shape[0]):
        start = 0
        for stop in range(1, k + 1):
            if stop == k or values[row, stop] != values[row, start]:
                if stop - start > 1:
                    heap_sort(values[row, start:stop], indices[row, start:stop], stop - start)
                start = stop


@njit(cache=True, error_model="numpy")
def stream_rows(x, first, values, indices, counts):
    """Offer the columns `first`, `first` + 1, ... of a matrix to one heap a row.

    Parameters: `x` (rows, n) C-ordered; updated: `values` (rows, k), `indices` (rows, k) int64,
    `counts` (rows,) int64.

    Cost: that of `heap_update` for each row.
    """
    for row in range(x.shape[0]):
        counts[row] = heap_update(x[row], first, values[row], indices[row], counts[row])


@njit(cache=True, error_model="numpy")
def merge_rows(other_values, other_indices, other_counts, values, indices, counts):
    """Offer the heaps of another stream, row by row.

    Parameters: `other_values`, `other_indices` (rows, j) with `other_counts` (rows,) entries in
    use; updated: as in `stream_rows`.

    Cost: O(j log k) a row.
    """
    for row in range(counts.size):
        for place in range(other_counts[row]):
            counts[row] = heap_update(
                other_values[row, place : place + 1],
                other_indices[row, place],
                values[row],
                indices[row],
                counts[row],
            )


@njit(cache=True, error_model="numpy")
def sort_rows(values, indices, counts):
    """Sort the first `counts[row]` entries of each row in place, as `heap_sort` does.

    Cost: O(k log k) a row.
    """
    for row in range(counts.size):
        heap_sort(values[row], indices[row], counts[row])


@njit(cache=True, error_model="numpy", fastmath={"contract"})
def scatter_rows(rows, signs, x, out):
    """Add ``signs[i, l] * x[i]`` to row ``rows[i, l]`` of `out`.

    Parameters: `rows` (n, s) integers, `signs` (n, s) int8, `x` (n, d) and `out` (size, d), both
    C-ordered and of one dtype.

    Cost: 2 n s d flops, n d reads and n s d updates (of cached rows when `out` fits).
    """
    for i in range(rows.shape[0]):
        for term in range(rows.shape[1]):
            target = rows[i, term]
            if signs[i, term] > 0:
                for j in range(x.shape[1]):
                    out[target, j] += x[i, j]
            else:
                for j in range(x.shape[1]):
                    out[target, j] -= x[i, j]


@njit(cache=True, error_model="numpy")
def _butterflies(x, half):
    # Slices, not offsets: only then is the inner loop vectorised.
    for start in range(0, x.size, 2 * half):
        a, b = x[start : start + half], x[start + half : start + 2 * half]
        for i in range(half):
            p, q = a[i], b[i]
            a[i] = p + q
            b[i] = p - q


@njit(cache=True, error_model="numpy")
def _double_butterflies(x, half):
    # Two levels in one pass over memory.
    for start in range(0, x.size, 4 * half):
        a, b = x[start : start + half], x[start + half : start + 2 * half]
        c, d = x[start + 2 * half : start + 3 * half], x[start + 3 * half : start + 4 * half]
        for i in range(half):
            p, q, r, s = a[i] + b[i], a[i] - b[i], c[i] + d[i], c[i] - d[i]
            a[i] = p + r
            b[i] = q + s
            c[i] = p - r
            d[i] = q - s


@njit(cache=True, error_model="numpy")
def walsh_hadamard(x, width):
    """Unnormalised Walsh-Hadamard transform, in place, of the columns of an (N, width) matrix.

    Parameters: `x` (N * width,), the C-ordered matrix as a vector; N a power of two.

    Cost: N width log2 N additions; levels that fit a block of 2048 entries run in cache, the
    others take one pass over memory for two levels.
    """
    size = x.size
    block = width
    while block < size and block < 2048:
        block *= 2
    for start in range(0, size, block):
        half = width
        while 4 * half <= block:
            _double_butterflies(x[start : start + block], half)
            half *= 4
        if 2 * half <= block:
            _butterflies(x[start : start + block], half)
    half = block
    while 4 * half <= size:
        _double_butterflies(x, half)
        half *= 4
    if 2 * half <= size:
        _butterflies(x, half)


# ---------------------------------------------------------------------------------------------
# Penalties. The scalar rules; `prox` of a vector applies them entry by entry.


@njit(cache=True, error_model="numpy")
def _soft(z, threshold):
    return z - min(max(z, -threshold), threshold)


@njit(cache=True, error_model="numpy")
def _elastic_net(pen, z, step):
    scaled = step * pen.alpha
    return _soft(z, scaled * pen.l1_ratio) / (1 + scaled * (1 - pen.l1_ratio))


@njit(cache=True, error_model="numpy")
def _huber(pen, z, step):
    shift = step * pen.alpha
    small = z / (1 + shift)
    return small + _soft(z - small, shift * pen.delta)


@njit(cache=True, error_model="numpy")
def _mcp(pen, z, step):
    size = abs(z)
    if step < pen.gamma:
        if size <= pen.gamma * pen.alpha:
            return _soft(z, step * pen.alpha) / (1 - step / pen.gamma)
        return z * 1.0
    return z * 1.0 if size > pen.alpha * math.sqrt(pen.gamma * step) else z * 0.0


@njit(cache=True, error_model="numpy")
def _scad(pen, z, step):
    alpha, gamma, size = pen.alpha, pen.gamma, abs(z)
    soft = max(size - step * alpha, 0 * size)
    if step < gamma - 1:
        if size <= alpha * (1 + step):
            result = soft
        elif size <= gamma * alpha:
            result = ((gamma - 1) * size - gamma * alpha * step) / (gamma - 1 - step)
        else:
            result = size
    else:
        near = min(soft, alpha)
        near_value = alpha * near + (near - size) ** 2 / (2 * step)
        far = size > gamma * alpha and alpha**2 * (gamma + 1) / 2 < near_value
        result = size if far else near
    return -result if z < 0 else result


# Rules in terms of (pen, z, step): results are cast, so that float64 parameters do not promote a
# float32 argument; parameters given as float32 keep the arithmetic in float32 throughout.
_SCALAR_PROX = {
    penalties.L1: lambda pen, z, step: _soft(z, step * pen.alpha),
    penalties.ElasticNet: lambda pen, z, step: _elastic_net(pen, z, step),
    penalties.SquaredL2: lambda pen, z, step: z / (1 + step * pen.alpha),
    penalties.Huber: lambda pen, z, step: _huber(pen, z, step),
    penalties.NonNegative: lambda pen, z, step: max(z - step * pen.alpha, 0 * z),
    penalties.Box: lambda pen, z, step: min(max(z, pen.low), pen.high),
    penalties.MCP: lambda pen, z, step: _mcp(pen, z, step),
    penalties.SCAD: lambda pen, z, step: _scad(pen, z, step),
}


@njit(cache=True, error_model="numpy")
def _huber_value(pen, z):
    size = abs(z)
    inner = size <= pen.delta
    return pen.alpha * (z * z / 2 if inner else pen.delta * size - pen.delta**2 / 2)


@njit(cache=True, error_model="numpy")
def _mcp_value(pen, z):
    size = abs(z)
    if size <= pen.gamma * pen.alpha:
        return pen.alpha * size - z * z / (2 * pen.gamma)
    return pen.gamma * pen.alpha**2 / 2


@njit(cache=True, error_model="numpy")
def _scad_value(pen, z):
    alpha, gamma, size = pen.alpha, pen.gamma, abs(z)
    if size <= alpha:
        return alpha * size
    if size <= gamma * alpha:
        return (2 * gamma * alpha * size - size * size - alpha**2) / (2 * (gamma - 1))
    return alpha**2 * (gamma + 1) / 2


_SCALAR_VALUE = {
    penalties.L1: lambda pen, z: pen.alpha * abs(z) if z != 0 else 0.0,
    penalties.ElasticNet: lambda pen, z: (
        pen.alpha * (pen.l1_ratio * abs(z) + (1 - pen.l1_ratio) / 2 * z * z)
    ),
    penalties.SquaredL2: lambda pen, z: pen.alpha / 2 * z * z,
    penalties.Huber: lambda pen, z: _huber_value(pen, z),
    penalties.NonNegative: lambda pen, z: pen.alpha * z if z >= 0 else math.inf,
    penalties.Box: lambda pen, z: 0.0 if pen.low <= z <= pen.high else math.inf,
    penalties.MCP: lambda pen, z: _mcp_value(pen, z),
    penalties.SCAD: lambda pen, z: _scad_value(pen, z),
}


@njit(cache=True, error_model="numpy")
def _slack(z):
    return np.finfo(z.dtype).eps * max(16.0, 8.0 * math.sqrt(z.size))


@njit(cache=True, error_model="numpy")
def _group_l2_into(pen, z, step, out):
    length = norm(z)
    threshold = step * pen.alpha
    factor = 1.0 - threshold / length if length > threshold else 0.0
    for i in range(z.size):
        out[i] = z[i] * factor


@njit(cache=True, error_model="numpy")
def _l2_ball_into(pen, z, step, out):
    length = norm(z)
    factor = pen.radius / length if length > pen.radius else 1.0
    for i in range(z.size):
        out[i] = z[i] * factor


@njit(cache=True, error_model="numpy")
def _l1_ball_into(pen, z, step, out):
    _project_l1_ball(z, pen.radius, out, np.empty(z.size))


@njit(cache=True, error_model="numpy")
def _simplex_into(pen, z, step, out):
    _project_simplex(z, pen.total, out, np.empty(z.size))


@njit(cache=True, error_model="numpy")
def _weighted(scale, weight):
    # An infinite weight is infinite even times 0.
    return weight * 1.0 if math.isinf(weight) else scale * weight


@njit(cache=True, error_model="numpy")
def _weighted_l1_into(pen, z, step, out):
    scaled = step * pen.alpha
    for i in range(z.size):
        out[i] = _soft(z[i], _weighted(scaled, pen.weights[i]))


@njit(cache=True, error_model="numpy")
def _weighted_l1_value(pen, z):
    total = 0.0
    for i in range(z.size):
        if z[i] != 0:
            total += _weighted(pen.alpha, pen.weights[i]) * abs(z[i])
    return total


def _group_weight(weights, group):
    raise NotImplementedError


@overload(_group_weight)
def _group_weight_by_type(weights, group):
    if isinstance(weights, types.NoneType):
        return lambda weights, group: 1.0
    return lambda weights, group: weights[group]


@njit(cache=True, error_model="numpy")
def _group_lengths(pen, z):
    count, largest = 0, 0.0
    for i in range(z.size):
        count = max(count, pen.groups[i] + 1)
        size = abs(float(z[i]))
        if (size > largest or size != size) and (size > 0 or not pen.positive):
            largest = size
    lengths = np.zeros(count)
    if largest > 0:
        for i in range(z.size):
            if z[i] > 0 or not pen.positive:
                lengths[pen.groups[i]] += (z[i] / largest) ** 2
        for group in range(count):
            lengths[group] = largest * math.sqrt(lengths[group])
    return lengths


@njit(cache=True, error_model="numpy")
def _group_l1_into(pen, z, step, out):
    factors = _group_lengths(pen, z)
    for group in range(factors.size):
        bound = _weighted(step * pen.alpha, _group_weight(pen.weights, group))
        longer = factors[group] > bound
        factors[group] = 1.0 - bound / factors[group] if longer else 0.0
    for i in range(z.size):
        kept = z[i] > 0 or not pen.positive
        out[i] = z[i] * factors[pen.groups[i]] if kept else 0.0


@njit(cache=True, error_model="numpy")
def _group_l1_value(pen, z):
    if pen.positive:
        for i in range(z.size):
            if z[i] < 0:
                return math.inf
    lengths = _group_lengths(pen, z)
    total = 0.0
    for group in range(lengths.size):
        if lengths[group] != 0:
            weight = _weighted(pen.alpha, _group_weight(pen.weights, group))
            total += weight * lengths[group]
    return total


@njit(cache=True, error_model="numpy")
def _simplex_value(pen, z):
    total = 0.0
    for i in range(z.size):
        if z[i] < 0:
            return math.inf
        total += z[i]
    return 0.0 if abs(total - pen.total) <= pen.total * _slack(z) else math.inf


_VECTOR_PROX_INTO = {
    penalties.WeightedL1: lambda pen, z, step, out: _weighted_l1_into(pen, z, step, out),
    penalties.GroupL1: lambda pen, z, step, out: _group_l1_into(pen, z, step, out),
    penalties.GroupL2: lambda pen, z, step, out: _group_l2_into(pen, z, step, out),
    penalties.L2Ball: lambda pen, z, step, out: _l2_ball_into(pen, z, step, out),
    penalties.L1Ball: lambda pen, z, step, out: _l1_ball_into(pen, z, step, out),
    penalties.Simplex: lambda pen, z, step, out: _simplex_into(pen, z, step, out),
}

_VECTOR_VALUE = {
    penalties.WeightedL1: lambda pen, z: _weighted_l1_value(pen, z),
    penalties.GroupL1: lambda pen, z: _group_l1_value(pen, z),
    penalties.GroupL2: lambda pen, z: pen.alpha * norm(z),
    penalties.L2Ball: lambda pen, z: 0.0 if norm(z) <= pen.radius * (1 + _slack(z)) else math.inf,
    penalties.L1Ball: lambda pen, z: (
        0.0 if _sum_of_sizes(z) <= pen.radius * (1 + _slack(z)) else math.inf
    ),
    penalties.Simplex: lambda pen, z: _simplex_value(pen, z),
}


def _penalty_class(pen):
    # A named tuple whose fields share a type is not a types.NamedTuple.
    return pen.instance_class if isinstance(pen, types.BaseNamedTuple) else None


@overload(prox)
def _prox(pen, z, step):
    kind = _penalty_class(pen)
    if isinstance(z, types.Float) and kind in _SCALAR_PROX:
        rule = njit(_SCALAR_PROX[kind])
        cast = np.float32 if z == types.float32 else np.float64
        return lambda pen, z, step: cast(rule(pen, z, step))
    if isinstance(z, types.Array) and (kind in _SCALAR_PROX or kind in _VECTOR_PROX_INTO):

        def prox_of_vector(pen, z, step):
            out = np.empty_like(z)
            prox_into(pen, z, step, out)
            return out

        return prox_of_vector
    return None


@overload(prox_into)
def _prox_into(pen, z, step, out):
    kind = _penalty_class(pen)
    if kind in _VECTOR_PROX_INTO:
        return _VECTOR_PROX_INTO[kind]
    if kind in _SCALAR_PROX:

        def prox_by_entry(pen, z, step, out):
            for i in range(z.size):
                out[i] = prox(pen, z[i], step)

        return prox_by_entry
    return None


@overload(value)
def _value(pen, z):
    kind = _penalty_class(pen)
    if isinstance(z, types.Float) and kind in _SCALAR_VALUE:
        rule = njit(_SCALAR_VALUE[kind])
        return lambda pen, z: float(rule(pen, z))
    if isinstance(z, types.Array) and kind in _VECTOR_VALUE:
        return _VECTOR_VALUE[kind]
    if isinstance(z, types.Array) and kind in _SCALAR_VALUE:

        def value_of_vector(pen, z):
            total = 0.0
            for i in range(z.size):
                total += value(pen, z[i])
            return total

        return value_of_vector
    return None


@overload(coordinate_penalty)
def _coordinate_penalty(pen, index):
    kind = _penalty_class(pen)
    if kind is penalties.WeightedL1:
        L1 = penalties.L1
        return lambda pen, index: L1(_weighted(pen.alpha, pen.weights[index]))
    if kind is not None:
        return lambda pen, index: pen
    return None
