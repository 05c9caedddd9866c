"""Kernels of routing: all steps of a group of tokens in one call.

From one step of Adam to the next, potentials move little. The least of the present scores of the
options that were the k best at the last step is a lower bound on the k-th largest score: what is
below is passed over in blocks, and the k largest are selected from the few that are left.
"""

from __future__ import annotations

import math

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from lowrank_opt.numerics.kernels_vector import VECTOR_BYTES, _element, _load, _splat, keep_apart
from lowrank_opt.transport.kernels_costs import lowest_bit
from lowrank_opt.transport.reference_router import DECAYS, FLOOR

__all__ = ["GROUP", "choose_group", "places_in_group"]

#: Scores that are looked at together.
GROUP = 64
# Up to this cap the k-th largest is found by insertion.
_FEW = 8
_FIRST, _SECOND = DECAYS
_FLOOR = FLOOR


@njit(cache=True, error_model="numpy", nogil=True)
def _kth_largest(values, count, k):
    """Return the k-th largest of the first `count` numbers, which it rearranges."""
    keep_apart()
    low, high = 0, count - 1
    want = k - 1
    while low < high:
        a, b, c = values[low], values[(low + high) // 2], values[high]
        pivot = max(min(a, b), min(max(a, b), c))
        i, j = low, high
        while i <= j:
            while values[i] > pivot:
                i += 1
            while values[j] < pivot:
                j -= 1
            if i <= j:
                values[i], values[j] = values[j], values[i]
                i += 1
                j -= 1
        if want <= j:
            high = j
        elif want >= i:
            low = i
        else:
            return values[want]
    return values[low]


@njit(cache=True, error_model="numpy", nogil=True)
def _kth_by_insertion(values, count, k, best):
    """Return the k-th largest of the first `count` numbers for a small k."""
    last = k - 1
    for e in range(k):
        best[e] = -np.inf
    for e in range(count):
        value = values[e]
        if value > best[last]:
            p = last
            while p > 0 and best[p - 1] < value:
                best[p] = best[p - 1]
                p -= 1
            best[p] = value
    return best[last]


@intrinsic
def _score_mask(typingctx, gates, start, shifts, first, low):
    """Return which of the 64 scores from ``start`` (gates) and ``first`` (shifts) reach `low`."""
    signature = types.uint64(gates, types.intp, shifts, types.intp, gates.dtype)
    lanes = 8 * VECTOR_BYTES // gates.dtype.bitwidth
    scalar = ir.FloatType() if gates.dtype.bitwidth == 32 else ir.DoubleType()
    vector, bits = ir.VectorType(scalar, lanes), ir.IntType(64)

    def codegen(context, builder, signature, args):
        row = builder.gep(_element(builder, context, gates, args[0]), [args[1]])
        own = builder.gep(_element(builder, context, shifts, args[2]), [args[3]])
        limit, found = _splat(builder, args[4], lanes), ir.Constant(bits, 0)
        for part in range(0, GROUP, lanes):
            place = ir.Constant(bits, part)
            score = builder.fadd(
                _load(builder, row, place, vector), _load(builder, own, place, vector)
            )
            above = builder.fcmp_ordered(">=", score, limit)
            mask = builder.zext(builder.bitcast(above, ir.IntType(lanes)), bits)
            found = builder.or_(found, builder.shl(mask, place))
        return found

    return signature, codegen


@njit(cache=True, error_model="numpy", nogil=True)
def _collect(gates, row, shifts, low, places, values):
    """Write places and scores of the options whose score is at least `low`; return how many."""
    width = shifts.size
    start = row * width
    count = 0
    for first in range(0, width, GROUP):
        bits = _score_mask(gates, start + first, shifts, first, low)
        while bits != 0:
            i = first + lowest_bit(bits)
            bits &= bits - np.uint64(1)
            places[count] = i
            values[count] = gates[row, i] + shifts[i]
            count += 1
    return count


@njit(cache=True, error_model="numpy", nogil=True)
def _guess(gates, row, shifts, options, k, copy):
    """Guess a limit that somewhat more than k scores reach, from some of the scores."""
    lowest = -np.finfo(gates.dtype).max
    stride = min(16, k // 8)
    if stride < 2 or options < 16 * k:
        return lowest
    count = 0
    for i in range(0, options, stride):
        copy[count] = gates[row, i] + shifts[i]
        count += 1
    return _kth_largest(copy, count, int(k / stride + 3.0 * math.sqrt(k / stride)) + 1)


@njit(cache=True, error_model="numpy", nogil=True)
def _keep_largest(places, values, count, k, copy):
    """Keep the k largest in order, ties by the lowest place."""
    if k <= _FEW:
        limit = _kth_by_insertion(values, count, k, copy)
    else:
        for e in range(count):
            copy[e] = values[e]
        limit = _kth_largest(copy, count, k)
    equal = k
    for e in range(count):
        equal -= values[e] > limit
    kept = 0
    for e in range(count):
        value = values[e]
        if value > limit or (value == limit and equal > 0):
            equal -= value == limit
            places[kept] = places[e]
            values[kept] = value
            kept += 1


@njit(cache=True, error_model="numpy", nogil=True)
def _project(places, values, count, strength):
    """Keep the support of the projection on the simplex; return its size, top and threshold.

    The threshold is relative to the largest value.
    """
    top = float(values[0])
    for e in range(count):
        top = max(top, float(values[e]))
    total = 0.0
    for e in range(count):
        total += float(values[e]) - top
    while True:
        limit = (total - strength) / count
        kept = 0
        total = 0.0
        for e in range(count):
            value = float(values[e]) - top
            if value > limit:
                total += value
                places[kept] = places[e]
                values[kept] = values[e]
                kept += 1
        if kept == count or kept == 0:
            return count, top, limit
        count = kept


@njit(cache=True, error_model="numpy", nogil=True)
def _evaluate(gates, options, shifts, best, k, mass, gamma, sums, indices, plan, work):
    """Write the plan of all choosers and its sums; return the sum of their conjugates.

    `best` holds the k best options of each chooser in the last evaluation, or -1, and is renewed.
    """
    places, values, copy = work
    choosers = gates.shape[0]
    lowest = -np.finfo(gates.dtype).max
    psi = 0.0
    for i in range(options):
        sums[i] = 0.0
    for c in range(choosers):
        if best[c, 0] < 0:
            low = _guess(gates, c, shifts, options, k, copy)
        else:
            low = gates[c, best[c, 0]] + shifts[best[c, 0]]
            for e in range(1, k):
                low = min(low, gates[c, best[c, e]] + shifts[best[c, e]])
        count = _collect(gates, c, shifts, low, places, values)
        if count < k:  # a bad guess
            count = _collect(gates, c, shifts, lowest, places, values)
        if count > k:
            _keep_largest(places, values, count, k, copy)
            count = k
        for e in range(count):
            best[c, e] = places[e]
        count, top, limit = _project(places, values, count, gamma * mass)
        squares = 0.0
        for e in range(count):
            t = (float(values[e]) - top - limit) / gamma
            sums[places[e]] += t
            squares += t * t
            indices[c, e] = places[e]
            plan[c, e] = t
        for e in range(count, k):
            indices[c, e] = -1
            plan[c, e] = 0.0
        psi += (top + limit) * mass + 0.5 * gamma * squares
    return psi


@njit(cache=True, error_model="numpy", nogil=True)
def choose_group(gates, k, mass, gamma, n_iter, rate, potentials, sums, indices, plan):
    """Raise the semi-dual of a group by Adam, and write the choice at the last potentials.

    Parameters: `gates` (choosers, width) C-ordered, finite, with ``-inf`` behind the last option up
    to a `width` that is a multiple of ``GROUP``; ``k <= options``; `potentials` (start and result)
    and `sums` (options,) float64; `indices` (choosers, k) int64 and `plan` (choosers, k) are
    written. Returns the sum of the conjugates.

    Cost: ``n_iter + 1`` passes over the gates, and in each some 10 operations for every option
    whose score is at least the least of the last k best.
    """
    (choosers, width), options = gates.shape, potentials.size
    share = mass * choosers / options
    kind = gates.dtype.type
    shifts, best = np.zeros(width, gates.dtype), np.full((choosers, k), -1, np.int32)
    work = (
        np.empty(width, np.int64), np.empty(width, gates.dtype), np.empty(width, gates.dtype),
    )  # fmt: skip
    first, second = np.zeros(options), np.zeros(options)
    for i in range(options):
        shifts[i] = potentials[i]
    for step in range(1, n_iter + 1):
        _evaluate(gates, options, shifts, best, k, mass, gamma, sums, indices, plan, work)
        lift, size = rate / (1.0 - _FIRST**step), 1.0 / (1.0 - _SECOND**step)
        for i in range(options):
            g = share - sums[i]
            first[i] = _FIRST * first[i] + (1.0 - _FIRST) * g
            second[i] = _SECOND * second[i] + (1.0 - _SECOND) * g * g
            potentials[i] += lift * first[i] / (math.sqrt(second[i] * size) + _FLOOR)
            shifts[i] = kind(potentials[i])
    return _evaluate(gates, options, shifts, best, k, mass, gamma, sums, indices, plan, work)


@njit(cache=True, error_model="numpy", nogil=True)
def places_in_group(experts, order, n_experts, places):
    """Write how many requests come before each at the same expert.

    Parameters: `experts` (tokens, k) int64, first choices in the first column, -1 for none;
    `order` (tokens,) int64, in which tokens are served within a rank; `places` (tokens, k) int64.

    Cost: ``tokens k`` counts.
    """
    load = np.zeros(n_experts, np.int64)
    for rank in range(experts.shape[1]):
        for position in range(order.size):
            token = order[position]
            j = experts[token, rank]
            places[token, rank] = 0
            if j >= 0:
                places[token, rank] = load[j]
                load[j] += 1
