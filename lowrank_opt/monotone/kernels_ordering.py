"""Order of elimination for sparse symmetric matrices, with a bound on the fill known beforehand.

Minimum degree with approximate degrees on a quotient graph [1]_: eliminated variables become
elements, lists of the variables that they join; a variable keeps its elements and what is left of
its own neighbours. Degrees are upper bounds, so that the counts of nonzeros and operations are,
too, and the ordering stops as soon as they exceed what the caller can afford. On a forest the order
is one of leaves first, without any fill.

References
----------
.. [1] P. R. Amestoy, T. A. Davis and I. S. Duff, "An approximate minimum degree ordering
   algorithm", SIAM Journal on Matrix Analysis and Applications 17, 1996.
"""

from __future__ import annotations

import numpy as np
from numba import njit

__all__ = ["minimum_degree"]


@njit(cache=True, nogil=True, error_model="numpy")
def minimum_degree(ptr, idx, max_fill, max_flops):
    """Order the symmetric pattern (ptr, idx), without its diagonal.

    Returns the order, the fill (nonzeros of the factor below its diagonal) and the operations of a
    factorisation; the order is empty when one of the limits was exceeded.
    """
    n = len(ptr) - 1
    empty = np.empty(0, np.int32)
    # Lists of variables (elements first, then neighbours) in `lists`, those of elements behind.
    room = ptr[n] + max_fill + n
    lists = np.empty(room, np.int32)
    lists[: ptr[n]] = idx[: ptr[n]]
    free = ptr[n]
    begin = ptr[:n].astype(np.int64)
    length = np.empty(n, np.int32)
    elements = np.zeros(n, np.int32)  # how many of a variable's list are elements
    weight = np.ones(n, np.int32)  # of a supervariable; 0: eliminated or merged
    degree = np.empty(n, np.int32)
    size = np.zeros(n, np.int32)  # of an element, weighted; 0: absorbed
    outside = np.zeros(n, np.int64)  # tag + what an element has outside the new one
    inside = np.zeros(n, np.int32)  # pivot count + 1 for members of the new element
    member = np.full(n, -1, np.int32)  # merged variables: chain of a representative
    chain_end = np.arange(n).astype(np.int32)
    head = np.full(n + 1, -1, np.int32)
    after = np.full(n, -1, np.int32)
    before = np.full(n, -1, np.int32)
    bucket = np.full(n, -1, np.int32)
    bucket_next = np.full(n, -1, np.int32)
    hashes = np.zeros(n, np.int32)
    stamp = np.zeros(n, np.int32)
    stamps = 0
    pivots = np.empty(n, np.int32)
    n_pivots, done, tag = 0, 0, np.int64(1)
    fill, flops = np.int64(0), 0.0
    # Very dense ones come last: their lists would be read again with every neighbour.
    dense = max(16, int(10.0 * np.sqrt(n)))
    n_dense = 0
    for i in range(n):
        d = ptr[i + 1] - ptr[i]
        length[i] = d
        degree[i] = d
        if d > dense:
            weight[i] = 0
            n_dense += 1
    done = n_dense
    for column in range(n_dense):
        fill += column
        flops += float(column) * (column + 3.0)
    for i in range(n - 1, -1, -1):
        if weight[i] == 0:
            continue
        d = degree[i]
        after[i] = head[d]
        if head[d] >= 0:
            before[head[d]] = i
        head[d] = i
    low = 0
    while done < n:
        while head[low] < 0:
            low += 1
        p = head[low]
        head[low] = after[p]
        if after[p] >= 0:
            before[after[p]] = -1
        mark = n_pivots + 1
        pivot_weight = weight[p]
        weight[p] = -pivot_weight  # not a member of its own element
        # The new element: everything that p is joined to.
        first, total = free, 0
        for k in range(begin[p], begin[p] + length[p]):
            q = lists[k]
            if k - begin[p] < elements[p]:
                if size[q] == 0:
                    continue
                for t in range(begin[q], begin[q] + length[q]):
                    v = lists[t]
                    if weight[v] > 0 and inside[v] != mark:
                        if free >= room:
                            return empty, fill, flops
                        inside[v] = mark
                        lists[free] = v
                        free += 1
                        total += weight[v]
                size[q] = 0
            elif weight[q] > 0 and inside[q] != mark:
                if free >= room:
                    return empty, fill, flops
                inside[q] = mark
                lists[free] = q
                free += 1
                total += weight[q]
        # What other elements have outside of it.
        for k in range(first, free):
            i = lists[k]
            if before[i] >= 0:
                after[before[i]] = after[i]
            else:
                head[degree[i]] = after[i]
            if after[i] >= 0:
                before[after[i]] = before[i]
            for t in range(begin[i], begin[i] + elements[i]):
                e = lists[t]
                if size[e] == 0:
                    continue
                if outside[e] < tag:
                    outside[e] = tag + size[e]
                outside[e] -= weight[i]
        # Lists and degrees of its members.
        for k in range(first, free):
            i = lists[k]
            at, d, code = begin[i], 0, np.int64(p)
            kept = at
            for t in range(at, at + elements[i]):
                e = lists[t]
                if size[e] == 0:
                    continue
                rest = outside[e] - tag
                if rest > 0:
                    d += rest
                    lists[kept] = e
                    kept += 1
                    code += e
                else:
                    size[e] = 0  # all of it is in the new element
            n_elements = kept - at
            stop = at + length[i]
            # p's place, or that of an element that p absorbed, is free now: the list is shorter.
            tail = kept
            for t in range(at + elements[i], stop):
                v = lists[t]
                if weight[v] > 0 and inside[v] != mark:
                    d += weight[v]
                    lists[tail] = v
                    tail += 1
                    code += v
            if d == 0 and n_elements == 0 and tail == kept:
                # Joined to nothing else: eliminated together with p.
                pivot_weight += weight[i]
                total -= weight[i]
                weight[i] = 0
                member[chain_end[p]] = i
                chain_end[p] = chain_end[i]
                continue
            # p becomes the first element; what stood there goes to the ends.
            if tail > kept:
                lists[tail] = lists[kept]
            if n_elements > 0:
                lists[kept] = lists[at]
            lists[at] = p
            elements[i] = n_elements + 1
            length[i] = tail - at + 1
            degree[i] = min(degree[i], d)
            hashes[i] = code % n
        # Members with the same lists are one variable from now on.
        for k in range(first, free):
            i = lists[k]
            if weight[i] > 0:
                bucket_next[i] = bucket[hashes[i]]
                bucket[hashes[i]] = i
        for k in range(first, free):
            i = lists[k]
            if weight[i] <= 0 or bucket[hashes[i]] < 0:
                continue
            i = bucket[hashes[i]]
            bucket[hashes[i]] = -1
            while i >= 0 and bucket_next[i] >= 0:
                stamps += 1
                for t in range(begin[i], begin[i] + length[i]):
                    stamp[lists[t]] = stamps
                last, j = i, bucket_next[i]
                while j >= 0:
                    same = length[j] == length[i] and elements[j] == elements[i]
                    if same:
                        for t in range(begin[j], begin[j] + length[j]):
                            if stamp[lists[t]] != stamps:
                                same = False
                                break
                    if same:
                        weight[i] += weight[j]
                        weight[j] = 0
                        member[chain_end[i]] = j
                        chain_end[i] = chain_end[j]
                        bucket_next[last] = bucket_next[j]
                    else:
                        last = j
                    j = bucket_next[j]
                i = bucket_next[i]
        # The element without what was merged; degrees of what is left.
        left = n - done - pivot_weight
        kept = first
        for k in range(first, free):
            i = lists[k]
            if weight[i] <= 0:
                continue
            d = min(degree[i] + total - weight[i], left - weight[i])
            degree[i] = d
            before[i] = -1
            after[i] = head[d]
            if head[d] >= 0:
                before[head[d]] = i
            head[d] = i
            low = min(low, d)
            lists[kept] = i
            kept += 1
        free = kept
        begin[p], length[p] = first, kept - first
        size[p] = total
        weight[p] = 0
        tag += 2 * n + 1
        pivots[n_pivots] = p
        n_pivots += 1
        done += pivot_weight
        for _ in range(pivot_weight):
            pivot_weight -= 1
            column = np.int64(total + pivot_weight + n_dense)
            fill += column
            flops += float(column) * (column + 3.0)
        if fill > max_fill or flops > max_flops:
            return empty, fill, flops
    order = np.empty(n, np.int32)
    at = 0
    for k in range(n_pivots):
        i = pivots[k]
        while i >= 0:
            order[at] = i
            at += 1
            i = member[i]
    for i in range(n):
        if ptr[i + 1] - ptr[i] > dense:
            order[at] = i
            at += 1
    return order, fill, flops
