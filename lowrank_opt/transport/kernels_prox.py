r"""Kernels of the proximal step: the k-support prox of columns over lists of their entries.

The prox of a column is

.. math:: \min_t\; \tfrac12 \|t - v\|^2 + \tfrac\rho2 \|t\|_{(k)}^2
    \quad\text{s.t.}\quad t \ge 0,\; 1^\top t = b .

With :math:`w = v + \tau` its solution has three zones: entries up to q are zero, those in the
middle become ``w - q``, the large ones ``w / (1 + rho)``. :func:`prox_of_rows` solves many at
once, with or without the constraint on the sum; it also serves
:func:`lowrank_opt.transport.prox_k_support`.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from lowrank_opt.transport.kernels_costs import (
    GROUP,
    LANES,
    column_scores,
    pair_cost,
    score_groups,
    source_at,
)

__all__ = [
    "cross_transform",
    "evaluate_lists",
    "fill_lists",
    "plan_value",
    "prox_of_rows",
    "sort_down",
]

# Up to this length entries are sorted by insertion.
_SHORT = 40
# Pieces of the equation for tau that are tried; bisection alone needs about 100.
_TRIES = 300


@njit(cache=True, error_model="numpy", nogil=True)
def _before(values, order, i, j):
    """Whether entry `i` comes before entry `j`: larger value, or the same and a lower place."""
    return values[i] > values[j] or (values[i] == values[j] and order[i] < order[j])


@njit(cache=True, error_model="numpy", nogil=True)
def _swap(values, order, i, j):
    values[i], values[j] = values[j], values[i]
    order[i], order[j] = order[j], order[i]


@njit(cache=True, error_model="numpy", nogil=True)
def sort_down(values, order, count):
    """Sort the first `count` values in descending order, and `order` with them, in place.

    Equal values are in ascending order of `order`. Insertion sort for short arrays, heap sort
    for others.

    Cost: ``O(count log count)`` comparisons; ``count^2 / 4`` up to a length of 40.
    """
    if count <= _SHORT:
        for i in range(1, count):
            value, place = values[i], order[i]
            j = i - 1
            while j >= 0 and (values[j] < value or (values[j] == value and order[j] > place)):
                values[j + 1], order[j + 1] = values[j], order[j]
                j -= 1
            values[j + 1], order[j + 1] = value, place
        return
    for start in range(count // 2 - 1, -1, -1):
        _sift(values, order, start, count)
    for end in range(count - 1, 0, -1):
        _swap(values, order, 0, end)
        _sift(values, order, 0, end)


@njit(cache=True, error_model="numpy", nogil=True)
def _sift(values, order, root, end):
    """Restore the heap below `root`; its top is what comes last."""
    while True:
        child = 2 * root + 1
        if child >= end:
            return
        if child + 1 < end and _before(values, order, child, child + 1):
            child += 1
        if not _before(values, order, root, child):
            return
        _swap(values, order, root, child)
        root = child


@njit(cache=True, error_model="numpy", nogil=True)
def _above(v, tau, count, bound):
    """How many of the sorted entries have ``v + tau > bound``."""
    left, right = 0, count
    while left < right:
        middle = (left + right) // 2
        if v[middle] + tau > bound:
            left = middle + 1
        else:
            right = middle
    return left


@njit(cache=True, error_model="numpy", nogil=True)
def _walk(v, sums, tau, count, k, rho, guess):
    """Zones at a given tau: ``(q, h, u)``; large are entries ``< h``, middle ones ``h .. u - 1``.

    `v` is sorted with prefix sums `sums`, `count` entries of ``v + tau`` are positive, more than
    k. The equation for q is walked along its breakpoints in 1/q, from `guess` if that is
    positive, else from the first one.

    Cost: at most ``count + k`` steps; few from a good guess.
    """
    top, below = v[k - 1] + tau, v[k] + tau
    if rho * top >= (1.0 + rho) * below:
        return rho * top / (1.0 + rho), k, k
    ratio = (1.0 + rho) / rho
    h, u = 0, 1
    total = v[0] + tau
    if 0.0 < guess < total:
        u = _above(v, tau, count, guess)
        h = _above(v, tau, u, guess * ratio)
        total = sums[u] - sums[h] + (u - h) * tau
        while h + rho * (total / guess - (u - h)) >= k:  # the root is at a larger q
            entered = 1.0 / (v[u - 1] + tau)
            left = ratio / (v[h - 1] + tau) if h > 0 else 0.0
            y = max(entered, left)
            if h + rho * (total * y - (u - h)) < k:
                return rho * total / (k - h + rho * (u - h)), h, u
            if u == 1:
                break
            if entered >= left:
                u -= 1
                total -= v[u] + tau
            else:
                h -= 1
                total += v[h] + tau
            guess = 1.0 / y
    while True:
        enters = 1.0 / (v[u] + tau) if u < count else np.inf
        leaves = ratio / (v[h] + tau) if h < u else np.inf
        y = min(enters, leaves)
        if h + rho * (total * y - (u - h)) >= k or y == np.inf:
            return rho * total / (k - h + rho * (u - h)), h, u
        if enters < leaves:
            total += v[u] + tau
            u += 1
        else:
            total -= v[h] + tau
            h += 1


@njit(cache=True, error_model="numpy", nogil=True)
def prox_sorted(v, sums, count, b, k, rho, tau, q):
    """Solve the prox of one column whose entries are sorted, the largest being 0.

    `sums` is work space of length ``count + 1``; `tau` and `q` are guesses (NaN: none). Returns
    ``(tau, q, h, u)``: with ``w = v + tau`` the first h entries become ``w / (1 + rho)``, those up
    to u ``w - q``, others zero. Any entry with ``w <= q`` that `v` does not have would not change
    the solution.

    The sum of the entries is piecewise linear in tau: Newton steps, which end on the piece of
    the root, guarded by bisection.

    Cost: ``O(count)`` for the prefix sums, ``O(log count)`` a piece that is met near a good
    guess.
    """
    goal = (1.0 + rho) * b
    sums[0] = 0.0
    plain, r = goal, 0
    for i in range(count):
        sums[i + 1] = sums[i] + v[i]
        trial = (goal - sums[i + 1]) / (i + 1)
        if r == i and v[i] + trial > 0.0:
            plain, r = trial, i + 1
    if r <= k:
        return plain, (rho * (v[k - 1] + plain) / (1.0 + rho) if r == k else 0.0), r, r
    pad = 1e-9 * goal
    low, high = -pad, goal + pad
    if not low < tau < high:
        tau, q = plain, 0.0
    newton, last_h, last_u = True, -1, -1
    h, u = 0, 0
    for _ in range(_TRIES):
        if not low < tau < high:
            tau, newton = 0.5 * (low + high), False
        positive = _above(v, tau, count, 0.0)
        if positive <= k:
            q, h, u = 0.0, positive, positive
        else:
            q, h, u = _walk(v, sums, tau, positive, k, rho, q)
        if newton and h == last_h and u == last_u:
            return tau, q, h, u
        slope = (k - h) / (k - h + rho * (u - h)) if u > h else 0.0
        A = h / (1.0 + rho) + slope * (u - h)
        B = sums[h] / (1.0 + rho) + slope * (sums[u] - sums[h])
        F = A * tau + B - b
        if F > 0.0:
            high = tau
        else:
            low = tau
        if abs(F) <= 1e-16 * b or high - low <= 4e-16 * max(abs(low), abs(high)):
            return tau, q, h, u
        last_h, last_u = h, u
        tau = (b - B) / A if A > 0.0 else np.inf
        newton = True
    return tau, q, h, u


@njit(cache=True, error_model="numpy", nogil=True)
def _fill(v, tau, q, h, u, b, rho, out):
    """Write the entries of the solution, scaled so that their sum is `b` to rounding."""
    shrink = 1.0 / (1.0 + rho)
    total = 0.0
    for i in range(h):
        out[i] = (v[i] + tau) * shrink
        total += out[i]
    for i in range(h, u):
        out[i] = max(v[i] + tau - q, 0.0)
        total += out[i]
    scale = b / total
    for i in range(u):
        out[i] *= scale


@njit(cache=True, error_model="numpy", nogil=True)
def prox_of_rows(V, k, rho, totals, out):
    """Write the prox of every row of `V` into `out`; see the module.

    Parameters are ``V`` and ``out`` of shape (number, length) in float64, the cap ``k >= 1``, the
    weight ``rho >= 0`` and the sums ``totals`` of shape (number,); a negative or NaN one means
    that the sum is free (then the solution is that of ``t >= 0`` alone).

    Cost: ``O(length log length)`` a row.
    """
    number, length = V.shape
    values, sums = np.empty(length), np.empty(length + 1)
    entries, order = np.empty(length), np.empty(length, np.int64)
    for row in range(number):
        b = totals[row]
        out[row] = 0.0
        if b == 0.0:
            continue
        free = not b > 0.0
        top = V[row, 0]
        for i in range(length):
            top = max(top, V[row, i])
        bound = 0.0 if free else top - (1.0 + rho) * b
        count = 0
        for i in range(length):
            if V[row, i] > bound:
                values[count] = V[row, i] - (0.0 if free else top)
                order[count] = i
                count += 1
        if count == 0:
            if not free:  # everything rounds to the largest entry
                for i in range(length):
                    if V[row, i] == top:
                        out[row, i] = b
                        break
            continue
        sort_down(values, order, count)
        if free:
            q, h, u = 0.0, count, count
            if count > k and rho > 0.0:
                q, h, u = _walk(values, sums, 0.0, count, k, rho, 0.0)
            for i in range(h):
                out[row, order[i]] = values[i] / (1.0 + rho)
            for i in range(h, u):
                out[row, order[i]] = max(values[i] - q, 0.0)
            continue
        cap = count if rho == 0.0 else k
        tau, q, h, u = prox_sorted(values, sums, count, b, cap, rho, np.nan, np.nan)
        _fill(values, tau, q, h, u, b, rho, entries)
        for i in range(u):
            out[row, order[i]] = entries[i]


@njit(cache=True, error_model="numpy", nogil=True)
def _append(lists, filled, i, c, plan):
    """Add an entry to the lists, if there is room."""
    _, idx, costs, values = lists
    if filled < idx.size:
        idx[filled], costs[filled], values[filled] = i, c, plan
    return filled + 1


@njit(cache=True, error_model="numpy", nogil=True)
def fill_lists(
    cost, alpha, first, b, gamma, k, radius, center, chosen, old, level, tau, lists, work
):  # fmt: skip
    """List the entries of columns that can matter near `alpha`, and evaluate the semi-dual.

    Of column ``first + j`` the list has all sources with a score of at least
    ``level[j] = max - radius[j]`` and the support of ``center = (indptr, indices, values)``,
    ascending. Columns that are not `chosen` are copied from the lists `old`. `work` is that of
    the oracle, and an array of the length m. Writes `level`, the thresholds `tau` of the
    semi-dual, and ``lists = (ptr, idx, costs, plan)``, where `plan` has the values of `center`.

    Returns the sum of the conjugates less ``b_j`` times the largest score, the sum of these
    products (both only if all columns are chosen), and the number of entries; if it is larger
    than `idx`, nothing is listed correctly.

    Cost: one pass over the costs of the chosen columns.
    """
    space, order = work
    scores, tops, values = space.scores, space.tops, space.values
    ptr = lists[0]
    places, sources, entries = center
    filled = 0
    small, large = 0.0, 0.0
    ptr[0] = 0
    all_chosen = chosen.all()
    for j in range(b.size):
        target = first + j
        if not chosen[j]:
            for e in range(old[0][j], old[0][j + 1]):
                filled = _append(lists, filled, old[1][e], old[2][e], old[3][e])
            ptr[j + 1] = filled
            continue
        groups, top = score_groups(cost, alpha, target, scores, tops)
        bound = top - gamma * b[j] if all_chosen else np.inf
        level[j] = top - radius[j]
        cut = min(level[j], bound)
        e, end = places[target], places[target + 1]
        count = 0
        for group in range(groups):
            highest = -np.inf
            for lane in range(group * LANES, (group + 1) * LANES):
                highest = max(highest, tops[lane])
            if highest < cut or highest == -np.inf:
                continue
            for place in range(group * GROUP, (group + 1) * GROUP):
                score = scores[place]
                if score < cut or score == -np.inf:
                    continue
                i = source_at(cost, target, place)
                if score > bound:
                    values[count], order[count] = score - top, i
                    count += 1
                if score < level[j]:
                    continue
                while e < end and sources[e] < i:
                    c = pair_cost(cost, sources[e], target)
                    filled = _append(lists, filled, sources[e], c, entries[e])
                    e += 1
                mass = 0.0
                if e < end and sources[e] == i:
                    mass = entries[e]
                    e += 1
                filled = _append(lists, filled, i, pair_cost(cost, i, target), mass)
        while e < end:
            c = pair_cost(cost, sources[e], target)
            filled = _append(lists, filled, sources[e], c, entries[e])
            e += 1
        ptr[j + 1] = filled
        shift, value = _conjugate(values, order, count, gamma, b[j], k)
        tau[j] = top + shift
        small += value
        large += b[j] * top
    return small, large, filled


@njit(cache=True, error_model="numpy", nogil=True)
def _conjugate(values, order, count, gamma, b, k):
    """Threshold and conjugate of a column, both relative to its largest score.

    Cost: ``O(count)`` a round, few rounds; a sort for large caps that are exceeded.
    """
    if gamma == 0.0 or count == 0:
        return 0.0, 0.0
    goal = gamma * b
    if count > k:
        if k <= _SHORT:
            sort_down(values, order, k)
            for e in range(k, count):
                value = values[e]
                place = k - 1
                if value > values[place]:
                    while place > 0 and values[place - 1] < value:
                        values[place] = values[place - 1]
                        place -= 1
                    values[place] = value
        else:
            sort_down(values, order, count)
        count = k
    tau, used = -np.inf, count + 1
    while True:
        total, above = 0.0, 0
        for e in range(count):
            if values[e] > tau:
                total += values[e]
                above += 1
        if above == used or above == 0:
            break
        tau, used = (total - goal) / above, above
    squares = 0.0
    for e in range(count):
        squares += max(values[e] - tau, 0.0) ** 2
    return tau, tau * b + squares / (2.0 * gamma)


@njit(cache=True, error_model="numpy", nogil=True)
def _missed(cost, target, alpha, idx, start, last, level, age, rises, limit):
    """Whether a source that is not listed has, or might have, a score above `limit`."""
    _, hot, risen, rise = rises
    for place in range(hot.shape[1]):
        if level + risen[age, place] <= limit:
            return False
        i = hot[age, place]
        if alpha[i] - pair_cost(cost, i, target) > limit:
            left, right = start, last
            while left < right:
                middle = (left + right) // 2
                if idx[middle] < i:
                    left = middle + 1
                else:
                    right = middle
            if left == last or idx[left] != i:
                return True
    return level + rise[age] > limit


@njit(cache=True, error_model="numpy", nogil=True)
def evaluate_lists(
    cost, first, lists, b, alpha, mu, gamma, k, level, rises, todo, before, out, heads, depth,
    threshold, failed, terms, work,
):  # fmt: skip
    """Solve the proximal problems of the columns `todo` over their lists.

    Columns that are not `todo` have their answer in `before`, which is an earlier `out`, and in
    `heads`, `depth`, `threshold` and `terms`.

    `lists` is that of :func:`fill_lists`. Column j comes out as entries ``ptr[j] .. ptr[j + 1] -
    1`` of ``out = (ptr, idx, values)``, large zone first, with ``heads[j]`` entries in it.
    ``depth[j]`` is how far below the largest score an entry that is not in the plan may lie
    without changing the solution; ``threshold[j]`` is minus the multiplier of the column's sum;
    both are read as guesses (NaN: none) and overwritten. `failed` is set where entries outside the
    list matter or might matter, since they may exceed what ``depth`` allows:
    ``rises = (age, hot, risen, rise)`` says how far above the levels they can be.
    With ``p = age[j]`` they are the rows ``hot[p]`` by ``risen[p]``, descending, and others by
    ``rise[p]``. `work` is ``(values, order, sums, scores)`` of the length of
    the longest list plus one.

    ``terms[j]`` has the optimal value less ``b_j`` times the largest score, and this product.

    Returns the number of columns that failed.

    Cost: one pass over the lists, and a sort of the entries near the top.
    """
    ptr, idx, costs, plan = lists
    out_ptr, out_idx, out_val = out
    age = rises[0]
    values, order, sums, scores = work
    rho = mu * gamma
    inverse = 0.5 / mu
    failures = 0
    end = 0
    out_ptr[0] = 0
    for j in range(b.size):
        failed[j] = False
        if not todo[j]:
            for e in range(before[0][j], before[0][j + 1]):
                out_idx[end], out_val[end] = before[1][e], before[2][e]
                end += 1
            out_ptr[j + 1] = end
            continue
        start, last = ptr[j], ptr[j + 1]
        top, best, away = -np.inf, -np.inf, 0.0
        for e in range(start, last):
            score = alpha[idx[e]] - costs[e]
            scores[e - start] = score
            top = max(top, score)
        for e in range(start, last):
            scores[e - start] -= top
            best = max(best, plan[e] + mu * scores[e - start])
            away += plan[e] * plan[e]
        goal = (1.0 + rho) * b[j]
        tau, q = best + mu * (top - threshold[j]), 0.0
        reach = 1e-2 * goal
        if tau == tau:
            q = tau - best - mu * depth[j]
            reach = min(goal, max(1.3 * (tau - q), 0.0) + 1e-3 * b[j])
        h, u, count = 0, 0, 0
        while True:
            count = 0
            for e in range(start, last):
                value = plan[e] + mu * scores[e - start] - best
                if value > -reach:
                    values[count] = value
                    order[count] = e
                    count += 1
            sort_down(values, order, count)
            tau, q, h, u = prox_sorted(values, sums, count, b[j], k, rho, tau, q)
            if reach >= goal or tau - q <= reach:
                break
            # Entries that were left out might count; with them tau - q is smaller, not larger.
            reach = min(goal, 4.0 * reach, (1.0 + 1e-9) * (tau - q))
        _fill(values, tau, q, h, u, b[j], rho, out_val[end:])
        # w = plan + mu (score - top) + tau - best: an entry outside the plan is zero below q
        depth[j] = (tau - best - q) / mu
        threshold[j] = top - (tau - best) / mu
        failed[j] = _missed(
            cost, first + j, alpha, idx, start, last, level[j], age[j], rises, top - depth[j]
        )
        failures += failed[j]
        gain, head, tail = 0.0, 0.0, 0.0
        for p in range(u):
            e = order[p]
            t = out_val[end + p]
            gain += t * scores[e - start]
            away += (t - plan[e]) ** 2 - plan[e] * plan[e]
            if p < h:
                head += t * t
            else:
                tail += t
            out_idx[end + p] = idx[e]
        if u > h:
            head += tail * tail / (k - h)
        terms[j, 0] = gain - 0.5 * gamma * head - inverse * away
        terms[j, 1] = b[j] * top
        heads[j] = h
        end += u
        out_ptr[j + 1] = end
    return failures


@njit(cache=True, error_model="numpy", nogil=True)
def cross_transform(cost, targets, beta, goal, smallest, out):
    """Write potentials of all sources that fit those of some targets.

    ``out[i]`` is the t with ``sum_j [t + beta_j - c_ij]_+ = goal`` over the targets, as far as
    the ``smallest.shape[1]`` smallest ``c_ij - beta_j``, which are kept in `smallest`, tell.

    Cost: one pass over the costs of the targets.
    """
    m, width = smallest.shape
    zeros, negated = np.zeros(m), np.empty(m)
    smallest[:] = np.inf
    for place in range(targets.size):
        column_scores(cost, zeros, targets[place], negated)
        for i in range(m):
            value = -negated[i] - beta[place]
            if value < smallest[i, width - 1]:
                e = width - 1
                while e > 0 and smallest[i, e - 1] > value:
                    smallest[i, e] = smallest[i, e - 1]
                    e -= 1
                smallest[i, e] = value
    for i in range(m):
        total = 0.0
        out[i] = smallest[i, 0]
        for e in range(width):
            if not smallest[i, e] < np.inf:
                break
            total += smallest[i, e]
            trial = (goal + total) / (e + 1)
            if not trial > smallest[i, e]:
                break
            out[i] = trial


@njit(cache=True, error_model="numpy", nogil=True)
def plan_value(cost, indptr, indices, values, k):
    """Cost of a plan, the same with absolute values, and half its squared k-support norms.

    Cost: one pass over the entries, and a sort of those of columns with more than k.
    """
    spent, size, norms = 0.0, 0.0, 0.0
    longest = 0
    for j in range(indptr.size - 1):
        longest = max(longest, indptr[j + 1] - indptr[j])
    entries, order = np.empty(longest), np.empty(longest, np.int64)
    for j in range(indptr.size - 1):
        first, count = indptr[j], indptr[j + 1] - indptr[j]
        total = 0.0
        for e in range(count):
            t = values[first + e]
            entries[e], order[e] = t, e
            total += t
            if t != 0.0:
                c = pair_cost(cost, indices[first + e], j)
                spent += t * c
                size += abs(t * c)
        if count > k:
            sort_down(entries, order, count)
        head = 0
        # the large ones count one by one while they exceed the mean of the rest over its places
        while count > k and head < k - 1 and entries[head] * (k - head) > total:
            norms += 0.5 * entries[head] ** 2
            total -= entries[head]
            head += 1
        if count > k:
            norms += 0.5 * total * total / (k - head)
        else:
            for e in range(count):
                norms += 0.5 * entries[e] ** 2
    return spent, size, norms
