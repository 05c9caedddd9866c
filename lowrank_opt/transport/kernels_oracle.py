"""Kernels of the semi-dual: thresholds and capped plans of a range of columns.

A column with scores s, mass b and cap k asks for the ``t >= 0`` of sum b with at most k nonzeros
that maximises ``s't - gamma/2 |t|^2``: the k largest scores, ties by the lowest index, minus a
threshold tau that makes the sum right. Two bounds leave few scores to look at: tau is at least
the largest score minus ``gamma b``, and the k-th largest of the maxima of disjoint sets of scores
is at most the k-th largest score. No sort is needed: the support of the projection without a cap
is found first; if it has at most k entries it is the answer, if not all of the k largest scores
belong to the answer.

Lists. A scan at potentials alpha0 may list the entries of a column above ``theta - radius``, theta
the larger of its threshold and its k-th score. At potentials alpha an entry that is not listed has
risen by at most ``max(alpha - alpha0)``, and theta has fallen by at most ``-min(alpha - alpha0)``:
while the difference of the two is less than the radius, the list alone gives the column's answer,
with the same bits.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import njit

from lowrank_opt.numerics.kernels_vector import aligned_empty, keep_apart
from lowrank_opt.transport.kernels_costs import (
    GROUP,
    LANES,
    close_groups,
    group_mask,
    lowest_bit,
    pair_cost,
    score_error,
    score_groups,
    source_at,
    tops_mask,
)

__all__ = [
    "LIST",
    "SCAN",
    "SCAN_AND_LIST",
    "Chunk",
    "Columns",
    "Lists",
    "Work",
    "column_work",
    "evaluate_columns",
    "gather_columns",
    "smallest_costs",
]

# What to do with a column.
SCAN, SCAN_AND_LIST, LIST = 0, 1, 2
# A list is to hold so many times the column's nonzeros and so many more.
_LIST_FACTOR, _LIST_MORE = 4, 8

# Entries below this part of gamma b above the threshold do not count: with exact ties at the
# threshold rounding would decide otherwise, differently for a list and for a scan.
_MARGIN = 1e-14
# Up to this cap the k-th largest number is found by insertion.
_SMALL_CAP = 64
# With fewer maxima of groups above the simple bound no better bound is looked for.
_FEW = 16
_EPS = np.finfo(np.float64).eps
# Below this the quotient of a score and gamma loses digits; such columns count as unregularised.
_TINY = 1e-290


class Work(NamedTuple):
    """What a thread needs for one column.

    Parameters
    ----------
    scores, tops : ndarray of float64
        Scores in groups, and maxima of the groups.
    places : ndarray of int64
        Where candidates are.
    values, copy : ndarray of float64
        Their scores, relative to the largest; a copy to select from.
    """

    scores: Any
    tops: Any
    places: Any
    values: Any
    copy: Any


class Columns(NamedTuple):
    """What is known of every column after an evaluation.

    Parameters
    ----------
    tau, psi : ndarray of float64, of shape (n,)
        Thresholds, and values of the conjugates.
    counts : ndarray of int64, of shape (n,)
        Nonzeros of the plan.
    """

    tau: Any
    psi: Any
    counts: Any


class Chunk(NamedTuple):
    """The entries of the plan in a range of columns, one after the other.

    Parameters
    ----------
    indices : ndarray of int64
        Sources.
    values : ndarray of float64
        Masses.
    """

    indices: Any
    values: Any


class Lists(NamedTuple):
    """Entries that can matter while the potentials do not move far.

    Parameters
    ----------
    action : ndarray of int8, of shape (n,)
        ``SCAN``, ``SCAN_AND_LIST`` or ``LIST``: what to do in this evaluation.
    counts : ndarray of int64, of shape (n,)
        Entries of the list.
    radius : ndarray of float64, of shape (n,)
        How far potentials may spread from those of the scan; -1: the column has no list.
    sources : ndarray of int32, of shape (n, width)
        Ascending.
    costs : ndarray of float64, of shape (n, width)
        Costs of these.
    """

    action: Any
    counts: Any
    radius: Any
    sources: Any
    costs: Any


def column_work(m: int) -> Work:
    """Return the work space of one thread for `m` sources."""
    size = GROUP * -(-m // GROUP)
    return Work(
        aligned_empty(size, np.float64),
        aligned_empty(size // GROUP * LANES, np.float64),
        aligned_empty(size, np.int64),
        aligned_empty(size, np.float64),
        aligned_empty(size, np.float64),
    )


@njit(cache=True, error_model="numpy", nogil=True)
def kth_by_insertion(values, start, count, k, best):
    """Return the k-th largest of ``values[start:start + count]`` for a small `k <= count`.

    Layout: `best` has at least `k` places of work.

    Cost: ``count`` reads and about ``k log(count / k)`` insertions of k moves.
    """
    keep_apart()
    for e in range(k):
        best[e] = -np.inf
    last = k - 1
    for e in range(start, start + count):
        value = values[e]
        if value > best[last]:
            p = last
            while p > 0 and best[p - 1] < value:
                best[p] = best[p - 1]
                p -= 1
            best[p] = value
    return best[last]


@njit(cache=True, error_model="numpy", nogil=True)
def kth_largest(values, count, k):
    """Return the k-th largest of the first `count` numbers, which it rearranges.

    Cost: about ``3 count`` comparisons.
    """
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
def _collect(scores, tops, groups, low, shift, places, values):
    """Write places and shifted values of the scores that are at least `low`; return how many."""
    count = 0
    for group in range(groups):
        if tops_mask(tops, group * LANES, low) == 0:
            continue
        first = group * GROUP
        bits = group_mask(scores, first, low)
        while bits != 0:
            p = first + lowest_bit(bits)
            bits &= bits - np.uint64(1)
            places[count] = p
            values[count] = scores[p] - shift
            count += 1
    return count


@njit(cache=True, error_model="numpy", nogil=True, fastmath={"reassoc", "contract"})
def _sum_above(values, count, limit):
    """Return the sum and the number of the values above a limit."""
    total = 0.0
    above = 0
    for e in range(count):
        value = values[e]
        total += value if value > limit else 0.0
        above += value > limit
    return total, above


@njit(cache=True, error_model="numpy", nogil=True)
def _count_from(values, count, low):
    """Return the number of values that are at least a limit."""
    above = 0
    for e in range(count):
        above += values[e] >= low
    return above


@njit(cache=True, error_model="numpy", nogil=True)
def _keep_above(places, values, count, limit):
    """Keep what is above a limit, in order; return how many."""
    kept = 0
    for e in range(count):
        value = values[e]
        places[kept] = places[e]
        values[kept] = value
        kept += value > limit
    return kept


@njit(cache=True, error_model="numpy", nogil=True)
def _keep_largest(places, values, count, k, copy, best):
    """Keep the k largest in order, of equal ones the first; return k or `count` if fewer."""
    if count <= k:
        return count
    if k <= _SMALL_CAP:
        limit = kth_by_insertion(values, 0, count, k, best)
    else:
        for e in range(count):
            copy[e] = values[e]
        limit = kth_largest(copy, count, k)
    equal = k - _sum_above(values, count, limit)[1]
    kept = 0
    for e in range(count):
        value = values[e]
        if value > limit or (value == limit and equal > 0):
            equal -= value == limit
            places[kept] = places[e]
            values[kept] = value
            kept += 1
    return kept


@njit(cache=True, error_model="numpy", nogil=True)
def _threshold(values, count, mass):
    """Return the threshold of a column without a cap, and the size of its support.

    `values` are relative to the largest, which is 0. Every pass drops what is not above the
    threshold of what was left; the threshold only rises.
    """
    limit = (_sum_above(values, count, -np.inf)[0] - mass) / count
    live = count
    while True:
        total, above = _sum_above(values, count, limit + _MARGIN * mass)
        if above >= live:  # more only by rounding
            return limit, live
        live = above
        limit = (total - mass) / live


@njit(cache=True, error_model="numpy", nogil=True)
def _raise_limit(tops, count, low, top, mass, k, copy, best):
    """Return a limit of at least `low` below which no score can count.

    The tops are scores of different sources: the threshold of any set of at most k scores is a
    lower bound on the column's, and the k-th largest of any set one on the k-th largest score.
    With an infinite `mass` only the second bound is used.
    """
    above = _count_from(tops, count, low)
    if above <= min(k, _FEW):
        return low
    kept = 0
    for e in range(count):
        copy[kept] = tops[e] - top
        kept += tops[e] >= low
    if mass < np.inf and k > _FEW:
        limit, support = _threshold(copy, kept, mass)
        if support <= k:
            return max(low, top + limit - 8.0 * _EPS * (abs(top) - limit))
    elif kept <= k:
        return low
    if k <= _SMALL_CAP:
        limit = kth_by_insertion(copy, 0, kept, k, best)
    else:
        limit = kth_largest(copy, kept, k)
    return max(low, top + limit - 8.0 * _EPS * (abs(top) - limit))


@njit(cache=True, error_model="numpy", nogil=True)
def _project(places, values, count, mass, k, copy, best):
    """Keep the support of the capped projection; return its size and the threshold.

    `values` are relative to the largest, which is 0, and hold the k largest of the column.
    """
    limit, live = _threshold(values, count, mass)
    if live < count:
        count = _keep_above(places, values, count, limit + _MARGIN * mass)
    count = _keep_largest(places, values, count, k, copy, best)
    # Summed again over exactly the support: the bits do not depend on what was discarded.
    return count, (_sum_above(values, count, -np.inf)[0] - mass) / count


@njit(cache=True, error_model="numpy", nogil=True)
def _column_limit(groups, top, mass, gamma, k, work, best):
    """Return a limit below which no score of a column of the semi-dual counts."""
    strength = gamma * mass
    if strength <= _TINY:
        return top
    count = groups * LANES
    return _raise_limit(work.tops, count, top - strength, top, strength, k, work.copy, best)


@njit(cache=True, error_model="numpy", nogil=True)
def _solve_column(count, mass, gamma, k, work, best):
    """Leave the places and masses of a column's plan in `work`; return count, tau - top, psi.

    The candidates' scores are relative to the largest; psi is relative to ``top * b``.
    """
    _, _, places, values, copy = work
    strength = gamma * mass
    if strength <= _TINY:
        first = 0
        while values[first] < 0.0:
            first += 1
        places[0], values[0] = places[first], mass
        return 1, 0.0, 0.0
    count, limit = _project(places, values, count, strength, k, copy, best)
    squares = 0.0
    for e in range(count):
        t = (values[e] - limit) / gamma
        values[e] = t
        squares += t * t
    return count, limit, limit * mass + 0.5 * gamma * squares


@njit(cache=True, error_model="numpy", nogil=True)
def _orthant_limit(groups, top, beta, error, k, work, best):
    """The same for a column of the dual; infinite when no score counts."""
    if top + error + beta <= 0.0:
        return np.inf
    count = groups * LANES
    return _raise_limit(work.tops, count, -beta, top, np.inf, k, work.copy, best)


@njit(cache=True, error_model="numpy", nogil=True)
def _solve_orthant(count, gamma, k, work, best):
    """The same without a sum: the k largest positive candidates, divided by gamma."""
    _, _, places, values, copy = work
    count = _keep_above(places, values, count, 0.0)
    count = _keep_largest(places, values, count, k, copy, best)
    squares = 0.0
    for e in range(count):
        t = values[e] / gamma
        values[e] = t
        squares += t * t
    return count, 0.5 * gamma * squares


@njit(cache=True, error_model="numpy", nogil=True)
def _refine(cost, alpha, j, count, work):
    """Compute the candidates' scores from the points; return the largest."""
    top = -np.inf
    for e in range(count):
        i = work.places[e]
        value = alpha[i] - pair_cost(cost, i, j)
        work.values[e] = value
        top = max(top, value)
    return top


@njit(cache=True, error_model="numpy", nogil=True)
def _score_list(lists, alpha, j, out, tops):
    """Write the scores of the list of column `j` in groups; return their number and the largest."""
    sources, costs = lists.sources[j], lists.costs[j]
    count = lists.counts[j]
    for p in range(count):
        out[p] = alpha[sources[p]] - costs[p]
    return close_groups(out, tops, 0, count, -np.inf)


@njit(cache=True, error_model="numpy", nogil=True)
def _make_list(cost, j, theta, error, nonzeros, groups, work, lists):
    """List the entries of column `j` above a limit that leaves some four times its nonzeros."""
    keep_apart()
    scores, tops, places, values, copy = work
    width = lists.sources.shape[1]
    lists.radius[j] = -1.0
    want = _LIST_FACTOR * (nonzeros + _LIST_MORE)
    count = groups * LANES
    if want >= count or nonzeros >= width:
        return
    for e in range(count):
        copy[e] = tops[e]
    limit = kth_largest(copy, count, want)
    count = _collect(scores, tops, groups, limit, 0.0, places, values)
    if count > width:
        for e in range(count):
            copy[e] = values[e]
        limit = kth_largest(copy, count, width + 1)
    if not limit + error < theta:
        return
    count = _keep_above(places, values, count, limit)
    for e in range(count):
        i = source_at(cost, j, places[e])
        lists.sources[j, e] = i
        lists.costs[j, e] = pair_cost(cost, i, j)
    lists.counts[j] = count
    lists.radius[j] = theta - limit - error


@njit(cache=True, error_model="numpy", nogil=True)
def evaluate_columns(
    cost, alpha, beta, b, gamma, k, first, last, filled, columns, chunk, lists, work
):
    """Evaluate the columns ``first .. last - 1`` until the chunk of the plan is full.

    With an empty `beta` the columns are those of the semi-dual; with potentials of the columns
    those of the dual, whose sums are free.

    Layout: `filled` entries of the chunk are taken already. Returns the first column that is not
    done, and the number of entries taken.

    Cost: a pass over the costs of these columns, 8 bytes a pair for a matrix in float64; 12 bytes
    an entry of those with a list.
    """
    best = np.empty(_SMALL_CAP)
    m = alpha.size
    for j in range(first, last):
        if filled + min(k, m) > chunk.values.size:
            return j, filled
        listed = lists.action[j] == LIST
        if listed:
            groups, top = _score_list(lists, alpha, j, work.scores, work.tops)
        else:
            groups, top = score_groups(cost, alpha, j, work.scores, work.tops)
        error = 0.0 if listed else score_error(cost, j)
        if beta.size > 0:
            shift = -beta[j]
            low = _orthant_limit(groups, top, beta[j], error, k, work, best)
        else:
            shift = top
            low = _column_limit(groups, top, b[j], gamma, k, work, best)
        # all that may count, where scores have errors
        count = _collect(
            work.scores, work.tops, groups, low - 2.0 * error, shift, work.places, work.values
        )
        if error > 0.0:
            top = _refine(cost, alpha, j, count, work)
            if beta.size == 0:
                shift = top
            for e in range(count):
                work.values[e] -= shift
        theta = shift
        if beta.size > 0:
            count, psi = _solve_orthant(count, gamma, k, work, best)
            columns.tau[j] = -beta[j]
            columns.psi[j] = psi
        else:
            count, tau, psi = _solve_column(count, b[j], gamma, k, work, best)
            theta += tau
            columns.tau[j] = theta
            columns.psi[j] = top * b[j] + psi
        columns.counts[j] = count
        if count == k:
            theta = np.inf
        for e in range(count):
            place = work.places[e]
            chunk.indices[filled + e] = (
                lists.sources[j, place] if listed else source_at(cost, j, place)
            )
            chunk.values[filled + e] = work.values[e]
            if count == k:
                theta = min(theta, work.scores[place] - error)
        filled += count
        if lists.action[j] == SCAN_AND_LIST:
            _make_list(cost, j, theta, error, count, groups, work, lists)
    return last, filled


@njit(cache=True, error_model="numpy", nogil=True)
def gather_columns(chunk, count, offset, indices, values, rows):
    """Copy a chunk of the plan to its place in the whole, and add it to the sums of the rows.

    Cost: 32 bytes an entry, and a scattered addition.
    """
    for e in range(count):
        i = chunk.indices[e]
        value = chunk.values[e]
        indices[offset + e] = i
        values[offset + e] = value
        rows[i] += value


@njit(cache=True, error_model="numpy", nogil=True)
def smallest_costs(cost, n, zeros, out, work):
    """Lower ``out[i]`` to the smallest cost of source ``i`` among `n` targets.

    Layout: `zeros` and `out` have one number a source.

    Cost: a pass over the costs.
    """
    for j in range(n):
        groups, _ = score_groups(cost, zeros, j, work.scores, work.tops)
        _lower(cost, j, groups, work.scores, out)


@njit(cache=True, error_model="numpy", nogil=True)
def _lower(cost, j, groups, scores, out):
    for p in range(groups * GROUP):
        if scores[p] > -np.inf:
            i = source_at(cost, j, p)
            out[i] = min(out[i], -scores[p])
