"""Kernels of rounding: exchanges along cycles of a transport plan, with caps on the columns.

A plan is a flow on a list of pairs ("arcs") of sources and targets, sorted by targets. A spanning
tree of the arcs is kept: every other arc closes one cycle with it, and moving an amount around
the cycle keeps all marginals. Nodes of the tree are the sources, then the targets.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from lowrank_opt.transport.kernels_costs import column_scores, pair_cost

__all__ = ["costs_of", "exchange", "join_columns", "nearest_pairs", "repack", "shake", "span"]

# Looks at rows after which no more columns are repacked.
_WORK = 5e7
# An exchange has to gain this much of the size of what it changes.
_GAIN = 1e-11


@njit(cache=True, error_model="numpy", nogil=True)
def costs_of(cost, rows, cols):
    """Return the costs of pairs.

    Cost: one look-up a pair.
    """
    out = np.empty(rows.size)
    for e in range(rows.size):
        out[e] = pair_cost(cost, rows[e], cols[e])
    return out


@njit(cache=True, error_model="numpy", nogil=True)
def nearest_pairs(cost, alpha, tau, per_column, per_row, columns, rows):
    """Write the pairs of least reduced cost ``c_ij - alpha_i + tau_j`` of all columns and rows.

    ``columns`` has shape (n, per_column) and gets sources, ``rows`` (m, per_row) and gets
    targets; -1 where there are no more allowed pairs. Equal ones: the lowest index first.

    Cost: one pass over the costs.
    """
    m, n = alpha.size, tau.size
    scores = np.empty(m)
    top = np.empty(per_column)
    best = np.full((m, per_row), -np.inf)
    columns[:] = -1
    rows[:] = -1
    for j in range(n):
        column_scores(cost, alpha, j, scores)
        top[:] = -np.inf
        for i in range(m):
            score = scores[i]
            if score > top[per_column - 1]:
                p = per_column - 1
                while p > 0 and top[p - 1] < score:
                    top[p], columns[j, p] = top[p - 1], columns[j, p - 1]
                    p -= 1
                top[p], columns[j, p] = score, i
            score -= tau[j]
            if score > best[i, per_row - 1]:
                p = per_row - 1
                while p > 0 and best[i, p - 1] < score:
                    best[i, p], rows[i, p] = best[i, p - 1], rows[i, p - 1]
                    p -= 1
                best[i, p], rows[i, p] = score, j


@njit(cache=True, error_model="numpy", nogil=True)
def span(row, col, order, m, n, parent, link, intree):
    """Build the spanning forest that takes arcs in the given order; see :func:`exchange`.

    Cost: one pass over the arcs, nearly.
    """
    nodes = m + n
    head = np.arange(nodes)
    degree = np.zeros(nodes + 1, np.int64)
    for place in range(order.size):
        e = order[place]
        intree[e] = False
        u, v = row[e], m + col[e]
        while head[u] != u:
            head[u] = head[head[u]]
            u = head[u]
        while head[v] != v:
            head[v] = head[head[v]]
            v = head[v]
        if u != v:
            head[max(u, v)] = min(u, v)
            intree[e] = True
            degree[row[e] + 1] += 1
            degree[m + col[e] + 1] += 1
    for node in range(nodes):
        degree[node + 1] += degree[node]
    fill = degree[:-1].copy()
    arcs = np.empty(degree[nodes], np.int64)
    for e in range(row.size):
        if intree[e]:
            u, v = row[e], m + col[e]
            arcs[fill[u]] = e
            fill[u] += 1
            arcs[fill[v]] = e
            fill[v] += 1
    parent[:] = -2
    queue = np.empty(nodes, np.int64)
    for root in range(nodes):
        if parent[root] != -2:
            continue
        parent[root], link[root] = -1, -1
        queue[0], first, last = root, 0, 1
        while first < last:
            node = queue[first]
            first += 1
            for place in range(degree[node], degree[node + 1]):
                e = arcs[place]
                other = m + col[e] if node == row[e] else row[e]
                if parent[other] == -2:
                    parent[other], link[other] = node, e
                    queue[last] = other
                    last += 1


@njit(cache=True, error_model="numpy", nogil=True)
def _find_path(i, j, m, parent, link, stamp, mark, path):
    """Write the arcs between source i and target j; return their number and those on i's side.

    On both sides flow along the arcs alternately falls and rises as that of pair (i, j) rises.
    """
    node = m + j
    while node >= 0:
        stamp[node] = mark
        node = parent[node]
    count = 0
    node = i
    while node >= 0 and stamp[node] != mark:
        path[count] = link[node]
        count += 1
        node = parent[node]
    if node < 0:
        return -1, 0
    side, top = count, node
    node = m + j
    while node != top:
        path[count] = link[node]
        count += 1
        node = parent[node]
    return count, side


@njit(cache=True, error_model="numpy", nogil=True)
def _penalty_change(path, count, side, e, direction, step, col, t, tiny, cap, degree, change):
    """Change of the sum of the excess of the columns' counts when `step` moves around a cycle."""
    total = 0
    for sweep in range(2):
        for p in range(-1, count):
            arc = e if p < 0 else path[p]
            up = direction if p < 0 else _sign(p, side) * direction
            j = col[arc]
            if sweep == 0:
                if up > 0 and t[arc] == 0.0:
                    change[j] += 1
                elif up < 0 and t[arc] - step <= tiny[j]:
                    change[j] -= 1
            elif change[j] != 0:
                now = degree[j] - cap[j]
                total += max(now + change[j], 0) - max(now, 0)
                change[j] = 0
    return total


@njit(cache=True, error_model="numpy", nogil=True)
def _sign(p, side):
    place = p if p < side else p - side
    return 1 if place % 2 == 1 else -1


@njit(cache=True, error_model="numpy", nogil=True)
def exchange(
    row, col, ptr, r, strength, cap, tiny, penalty, max_sweeps, t, parent, link, intree, degree,
):  # fmt: skip
    """Improve a plan by exchanges along cycles until none of the arcs offers one.

    The objective is ``sum r t + strength_j t^2 / 2`` plus `penalty` times the number of nonzeros
    above the caps. Arcs of column j are ``ptr[j] .. ptr[j + 1] - 1``; `t` is their flow,
    ``degree`` the columns' nonzeros; entries up to ``tiny[j]`` become 0. The tree (`parent`,
    `link`: the arc to it, `intree`) and the flow are changed in place. With ``penalty < 0`` no
    exchange may raise the excess.

    Returns the number of exchanges and of sweeps.

    Cost: a walk along the tree for every arc and sweep.
    """
    m = parent.size - cap.size
    stamp = np.full(parent.size, -1, np.int64)
    path = np.empty(parent.size, np.int64)
    best_path = np.empty(parent.size, np.int64)
    change = np.zeros(cap.size, np.int64)
    mark = 0
    moves = 0
    price = abs(penalty)
    for sweep in range(max_sweeps):
        before = moves
        for j in range(cap.size):
            best, best_e, best_direction, best_step = 0.0, -1, 0, 0.0
            best_count, best_side = 0, 0
            for e in range(ptr[j], ptr[j + 1]):
                if intree[e]:
                    continue
                mark += 1
                count, side = _find_path(row[e], j, m, parent, link, stamp, mark, path)
                if count < 0:
                    continue
                rising, falling, size = np.inf, t[e], 0.0
                slope, curve = r[e] + strength[j] * t[e], strength[j]
                for p in range(count):
                    arc = path[p]
                    g = strength[col[arc]]
                    curve += g
                    if _sign(p, side) > 0:
                        slope += r[arc] + g * t[arc]
                        falling = min(falling, t[arc])
                    else:
                        slope -= r[arc] + g * t[arc]
                        rising = min(rising, t[arc])
                    size += abs(r[arc]) + g * t[arc]
                for direction in (1, -1):
                    limit = rising if direction > 0 else falling
                    if not limit > 0.0:
                        continue
                    s = slope * direction
                    gain = -(s + 0.5 * curve * limit) * limit
                    if gain + price * 2.0 > best:
                        excess = _penalty_change(
                            path, count, side, e, direction, limit, col, t, tiny, cap, degree,
                            change,
                        )  # fmt: skip
                        gain -= price * excess
                        if (
                            gain > best
                            and gain > _GAIN * size * limit
                            and not (penalty < 0.0 and excess > 0)
                        ):
                            best, best_e, best_step = gain, e, limit
                            best_direction, best_count, best_side = direction, count, side
                            best_path[:count] = path[:count]
                    if s < 0.0 and -s < curve * limit * (1.0 - 1e-9):
                        step = -s / curve
                        gain = -0.5 * s * step
                        if gain > best and gain > _GAIN * size * step:
                            excess = _penalty_change(
                                path, count, side, e, direction, step, col, t, tiny, cap, degree,
                                change,
                            )  # fmt: skip
                            gain -= price * excess
                            if gain > best and not (penalty < 0.0 and excess > 0):
                                best, best_e, best_step = gain, e, step
                                best_direction, best_count, best_side = direction, count, side
                                best_path[:count] = path[:count]
            if best_e < 0:
                continue
            moves += 1
            _apply(
                best_path, best_count, best_side, best_e, best_direction, best_step, m, row, col,
                tiny, t, parent, link, intree, degree,
            )  # fmt: skip
        if moves == before:
            return moves, sweep + 1
    return moves, max_sweeps


@njit(cache=True, error_model="numpy", nogil=True)
def _apply(
    path, count, side, e, direction, step, m, row, col, tiny, t, parent, link, intree, degree
):  # fmt: skip
    """Move `step` around a cycle; an arc of the tree that becomes 0 gives its place to `e`."""
    leaving = -1
    least = np.inf
    for p in range(-1, count):
        arc = e if p < 0 else path[p]
        up = direction if p < 0 else _sign(p, side) * direction
        j = col[arc]
        before = t[arc]
        if up > 0:
            t[arc] = before + step
            if before == 0.0:
                degree[j] += 1
        else:
            t[arc] = before - step
            if t[arc] <= tiny[j]:
                if p >= 0 and t[arc] < least:
                    leaving, least = p, t[arc]
                t[arc] = 0.0
                degree[j] -= 1
    if leaving < 0 or t[e] == 0.0:
        return
    out = path[leaving]
    intree[out], intree[e] = False, True
    if leaving < side:
        node, above = row[e], m + col[e]
    else:
        node, above = m + col[e], row[e]
    arc = e
    while True:
        next_node, next_arc = parent[node], link[node]
        parent[node], link[node] = above, arc
        if next_arc == out:
            return
        above, arc, node = node, next_arc, next_node


@njit(cache=True, error_model="numpy", nogil=True)
def _random(state):
    """Next number in [0, 1) of a xorshift generator; `state` has one uint64."""
    x = state[0]
    x ^= x << np.uint64(13)
    x ^= x >> np.uint64(7)
    x ^= x << np.uint64(17)
    state[0] = x
    return float(x >> np.uint64(11)) / 9007199254740992.0


@njit(cache=True, error_model="numpy", nogil=True)
def join_columns(seed, row, col, ptr, close, by_row, row_ptr, t, n, is_in, chosen):
    """Write columns around column `seed`, breadth first; return their number.

    A column leads to those with flow in one of its rows: the rows in which it has flow, and those
    of its arcs that are `close`. ``by_row[row_ptr[i] .. row_ptr[i + 1] - 1]`` are the arcs of row
    i; columns from `n` on do not count. ``is_in`` holds marks of earlier seeds.

    Cost: a look at the arcs of the rows that are met.
    """
    chosen[0], is_in[seed] = seed, seed
    size, place = 1, 0
    while place < size and size < chosen.size:
        j = chosen[place]
        place += 1
        for e in range(ptr[j], ptr[j + 1]):
            if not (close[e] or t[e] > 0.0):
                continue
            for q in range(row_ptr[row[e]], row_ptr[row[e] + 1]):
                other = col[by_row[q]]
                new = t[by_row[q]] > 0.0 and other < n and is_in[other] != seed
                if new and size < chosen.size:
                    is_in[other], chosen[size] = seed, other
                    size += 1
    return size


@njit(cache=True, error_model="numpy", nogil=True)
def shake(
    row, col, ptr, r, strength, cap, tiny, price, bonus, tries, seed, t, parent, link, intree,
    degree,
):  # fmt: skip
    """Improve a plan within the caps by exchanges from plans that random pairs are pushed into.

    A random arc gets cheaper if it is empty, dearer if not, by up to `bonus`, and exchanges
    follow at parts of `price`; then it has its own cost again, and exchanges at prices from
    `price` on follow until the caps hold. What is not better than before is undone. The rest is
    as in :func:`exchange`.

    Returns the number of improvements.

    Cost: some calls of `exchange` a try.
    """
    state = np.full(1, np.uint64(seed * 2654435761 + 88172645463325252), np.uint64)
    value = _objective(r, strength, col, t)
    old = t.copy(), parent.copy(), link.copy(), intree.copy(), degree.copy()
    better = 0
    for trial in range(tries):
        e = int(_random(state) * t.size)
        own = r[e]
        push = bonus * _random(state)
        r[e] += push if t[e] > 0.0 else -push
        exchange(
            row, col, ptr, r, strength, cap, tiny, price * 0.1 ** (trial % 3), 2, t, parent, link,
            intree, degree,
        )  # fmt: skip
        r[e] = own
        rising = price
        for _ in range(4):
            exchange(
                row, col, ptr, r, strength, cap, tiny, rising, 4, t, parent, link, intree, degree
            )
            if not np.any(degree > cap):
                break
            rising *= 8.0
        other = np.inf
        if not np.any(degree > cap):
            exchange(
                row, col, ptr, r, strength, cap, tiny, -price, 8, t, parent, link, intree, degree
            )
            other = _objective(r, strength, col, t)
        if other < value - 1e-9 * abs(value):
            value = other
            better += 1
            old[0][:], old[1][:], old[2][:], old[3][:] = t, parent, link, intree
            old[4][:] = degree
        else:
            t[:], parent[:], link[:], intree[:] = old[0], old[1], old[2], old[3]
            degree[:] = old[4]
    return better


@njit(cache=True, error_model="numpy", nogil=True)
def _objective(r, strength, col, t):
    total = 0.0
    for e in range(t.size):
        total += (r[e] + 0.5 * strength[col[e]] * t[e]) * t[e]
    return total


@njit(cache=True, error_model="numpy", nogil=True)
def _pack(
    costs, amounts, masses, cap, strength, noise, spread, tiny, loose, state, left, order, flow,
    limit,
):  # fmt: skip
    """Fill columns one after the other with at most `cap` entries each, at random.

    The heavier come first, roughly: their masses count times random numbers between 1 and
    ``1 - spread``. Light columns find a place at the end, heavy ones may not.

    ``costs[p, q]``: of row p and column q; ``amounts[p]`` what a row has, ``masses[q]`` what a
    column needs. An entry either finishes its row or its column, so that the number of entries
    never exceeds what the caps allow; with `loose` rows may keep something. Writes
    ``flow[p, q]``; returns the objective, inf without success or once it exceeds `limit`.

    Cost: rows times entries.
    """
    rows, columns = costs.shape
    flow[:] = 0.0
    left[:rows] = amounts
    order[:columns] = np.arange(columns)
    total = 0.0
    open_rows = rows
    for place in range(columns):
        other, heaviest = place, -1.0
        for p in range(place, columns):
            mass = masses[order[p]] * (1.0 - spread * _random(state))
            if mass > heaviest:
                other, heaviest = p, mass
        order[place], order[other] = order[other], order[place]
        q = order[place]
        need = masses[q]
        spare = cap * (columns - place) - (open_rows + columns - place - 1)
        slots = cap
        while need > tiny:
            best, best_p = np.inf, -1
            # a last entry must be able to finish the column: of the row with the most left, or
            # of the next if that row itself comes before
            first, second = 0.0, 0.0
            for p in range(rows):
                if left[p] > first:
                    first, second = left[p], first
                else:
                    second = max(second, left[p])
            for p in range(rows):
                have = left[p]
                if have <= 0.0:
                    continue
                if have >= need - tiny:
                    if not loose and abs(have - need) > tiny and slots - 1 > spare:
                        continue
                else:
                    rest = second if have == first else first
                    if slots == 1 or (slots == 2 and rest < need - have - tiny):
                        continue
                price = costs[p, q] + noise * _random(state)
                if price < best:
                    best, best_p = price, p
            if best_p < 0:
                return np.inf
            have = left[best_p]
            moved = min(have, need)
            if abs(have - need) <= tiny:
                moved = need
                left[best_p] = 0.0
                open_rows -= 1
            elif have < need:
                left[best_p] = 0.0
                open_rows -= 1
            else:
                left[best_p] = have - need
            need = need - moved if have < need - tiny else 0.0
            flow[best_p, q] += moved
            total += moved * costs[best_p, q] + 0.5 * strength * moved * moved
            slots -= 1
            if total > limit:
                return np.inf
    for p in range(rows):
        if not loose and left[p] > tiny * columns:
            return np.inf
    return total


@njit(cache=True, error_model="numpy", nogil=True)
def _reach(start, near, head, following, idx, count, is_in, order):
    """Write columns breadth first from `start`, through shared rows; return their number.

    Where no connected column is left, columns
    ``near[i]`` of the rows are next.
    """
    order[0], is_in[start] = start, start
    size, grown, joined = 1, 0, 0
    width = idx.shape[1]
    while size < order.size and joined < size:
        connected = grown < size
        place = grown if connected else joined
        if connected:
            grown += 1
        else:
            joined += 1
        j = order[place]
        for e in range(count[j]):
            i = idx[j, e]
            link = head[i] if connected else -1
            while link >= 0 and size < order.size:
                other = link // width
                if is_in[other] != start:
                    is_in[other] = start
                    order[size] = other
                    size += 1
                link = following[other, link % width]
            if connected:
                continue
            for p in range(near.shape[1]):
                other = near[i, p]
                if other < 0 or size >= order.size:
                    continue
                if is_in[other] != start:
                    is_in[other] = start
                    order[size] = other
                    size += 1
    return size


@njit(cache=True, error_model="numpy", nogil=True)
def repack(
    cost, alpha, tau, near, cap, strength, noise, tries, largest, seed, unused, idx, val, count
):  # fmt: skip
    """Repack neighbourhoods of columns with more than `cap` entries until they have fewer.

    Entries of column j are ``idx[j, :count[j]]`` with values ``val``, changed in place. A
    neighbourhood grows from the column breadth first, up to `largest` columns; where the caps
    allow a plan in general packings are tried at random, and the cheapest replaces the old
    entries. Marginals are kept. ``unused`` is what rows have left, which may change; empty if
    nothing may be left.
    ``near[i]`` are columns that a row i may be joined with, see :func:`_reach`.

    Returns the number of columns that still have too many.

    Cost: `tries` packings of every size that is tried; it ends early rather than take long.
    """
    n, width = idx.shape
    m = alpha.size
    state = np.full(1, np.uint64(seed * 2654435761 + 88172645463325252), np.uint64)
    head, following = np.empty(m, np.int64), np.empty((n, width), np.int64)
    is_in, order = np.full(n, -1, np.int64), np.empty(min(n, largest), np.int64)
    chosen = np.empty(largest, np.int64)
    loose, work = unused.size > 0, 0.0
    room = min((2 if loose else 1) * largest * width, m)
    rows, place = np.empty(room, np.int64), np.full(m, -1, np.int64)
    costs, flow, best_flow = (
        np.empty((room, largest)), np.empty((room, largest)), np.empty((room, largest)),
    )  # fmt: skip
    amounts, masses = np.empty(room), np.empty(largest)
    left, turns = np.empty(room), np.empty(largest, np.int64)
    spreads = (1.0, 0.6, 0.2)
    joined = np.full(n, False)
    remaining = 0
    for start in range(n):
        if count[start] <= cap:
            continue
        if work > _WORK:
            remaining += 1
            continue
        head[:] = -1
        for j in range(n):
            for e in range(count[j]):
                following[j, e] = head[idx[j, e]]
                head[idx[j, e]] = j * width + e
        reached = _reach(start, near, head, following, idx, count, is_in, order)
        is_in[start] = -1
        chosen[0] = start
        size, prefix = 1, 1
        success = False
        while not success:
            added = 0
            goal = min(largest, size + 1 + size // 3)
            while prefix < reached and size < goal:
                chosen[size] = order[prefix]
                size += 1
                added += 1
                prefix += 1
            if added == 0:
                break
            row_count = 0
            for p in range(size):
                j = chosen[p]
                masses[p] = 0.0
                for e in range(count[j]):
                    i = idx[j, e]
                    if place[i] < 0:
                        place[i] = row_count
                        rows[row_count], amounts[row_count] = i, 0.0
                        if loose:
                            amounts[row_count] = unused[i]
                        row_count += 1
                    amounts[place[i]] += val[j, e]
                    masses[p] += val[j, e]
            if loose:  # rows from which these columns might take what is left
                for p in range(size):
                    joined[chosen[p]] = True
                for i in range(m):
                    if unused[i] <= 0.0 or place[i] >= 0 or row_count == room:
                        continue
                    for p in range(near.shape[1]):
                        if near[i, p] >= 0 and joined[near[i, p]]:
                            place[i] = row_count
                            rows[row_count], amounts[row_count] = i, unused[i]
                            row_count += 1
                            break
                for p in range(size):
                    joined[chosen[p]] = False
            if loose or cap * size >= row_count + size - 1:
                smallest = masses[0]
                for q in range(size):
                    smallest = min(smallest, masses[q])
                    for p in range(row_count):
                        c = pair_cost(cost, rows[p], chosen[q])
                        costs[p, q] = c - alpha[rows[p]] + tau[chosen[q]]
                best = np.inf
                work += float(tries) * row_count * size * cap
                for trial in range(tries):
                    level = noise * 4.0 ** (trial % 5 - 3)
                    found = _pack(
                        costs[:row_count, :size], amounts[:row_count], masses[:size], cap,
                        strength, level, spreads[trial % 3], 1e-13 * smallest, loose, state,
                        left, turns, flow[:row_count, :size], best,
                    )  # fmt: skip
                    if found < best:
                        best = found
                        best_flow[:row_count, :size] = flow[:row_count, :size]
                success = best < np.inf
            if success:
                for p in range(row_count):
                    if loose:
                        unused[rows[p]] = max(amounts[p] - np.sum(best_flow[p, :size]), 0.0)
                for q in range(size):
                    j = chosen[q]
                    count[j] = 0
                    for p in range(row_count):
                        if best_flow[p, q] > 0.0:
                            idx[j, count[j]], val[j, count[j]] = rows[p], best_flow[p, q]
                            count[j] += 1
            for p in range(row_count):
                place[rows[p]] = -1
        if not success:
            remaining += 1
    return remaining
