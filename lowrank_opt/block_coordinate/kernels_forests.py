"""Kernels of message passing: choosing forests of a graph, eliminating along them.

A graph is the pattern of a symmetric matrix by rows: `indptr` and `indices`, int32. Stored
diagonal entries are no edges. Sets of nodes are int64.
"""

from __future__ import annotations

import numpy as np
from numba import njit

__all__ = [
    "bounded_elimination",
    "color_greedily",
    "color_two",
    "factor_forest",
    "order_forest",
    "partition_forests",
    "select_forest",
    "settle_ties",
    "solve_factored",
]

# What a node outside all trees has for a parent.
_OUTSIDE = np.int32(-(2**31))
# Up to this many roots are compared in pairs.
_FEW = 8


@njit(cache=True, error_model="numpy", nogil=True)
def _root(parent, node):
    """Return the root of the tree of a node; a negative parent marks a root. Paths are halved."""
    up = parent[node]
    while up >= 0:
        higher = parent[up]
        if higher < 0:
            return up
        parent[node] = higher
        node = higher
        up = parent[node]
    return node


@njit(cache=True, error_model="numpy", nogil=True)
def settle_ties(keys, order):
    """Put nodes of equal keys in the order of their indices, in place.

    Parameters
    ----------
    keys : ndarray of float64, of shape (n,)
        Keys.
    order : ndarray of int64, of shape (n,)
        Nodes sorted by their keys.

    Notes
    -----
    Cost: one pass, plus ``k log k`` for every run of k equal keys.
    """
    n = order.size
    first = 0
    while first < n:
        key = keys[order[first]]
        last = first + 1
        while last < n and keys[order[last]] == key:
            last += 1
        if last - first > 1:
            order[first:last] = np.sort(order[first:last])
        first = last


@njit(cache=True, error_model="numpy", nogil=True)
def _join(parent, a, b):
    """Join two trees, given by their roots; return the root of the larger one, which stays one."""
    if parent[b] < parent[a]:
        a, b = b, a
    parent[a] += parent[b]
    parent[b] = a
    return a


@njit(cache=True, error_model="numpy", nogil=True)
def select_forest(indptr, indices, order):
    """Select nodes in turn where no cycle closes.

    Parameters
    ----------
    indptr, indices : ndarray of int32
        Graph of n nodes.
    order : ndarray of int64, of shape (m,)
        Nodes in the order in which they are tried, each at most once.

    Returns
    -------
    ndarray of bool, of shape (n,)
        The nodes selected: one is if its selected neighbours lie in different trees.

    Notes
    -----
    Union-find with path halving, by size: the parent of a root is minus the size of its tree,
    that of a node not selected is `_OUTSIDE`. The roots met are compared with each other while
    they are few, then sorted.

    Cost: ``n + nnz`` steps times the inverse Ackermann function, at random places: on large
    graphs the time is that of cache misses.
    """
    n = indptr.size - 1
    parent = np.full(n, _OUTSIDE, np.int32)
    met = np.empty(n, np.int32)
    for t in range(order.size):
        node = order[t]
        free, count = True, 0
        for k in range(indptr[node], indptr[node + 1]):
            j = indices[k]
            if j == node or parent[j] == _OUTSIDE:
                continue
            root = _root(parent, j)
            if count < _FEW:
                for e in range(count):
                    if met[e] == root:
                        free = False
                if not free:
                    break
            met[count] = root
            count += 1
        if count > _FEW:
            met[:count].sort()
            for e in range(1, count):
                if met[e] == met[e - 1]:
                    free = False
        if free:
            parent[node] = -1
            own = np.int32(node)
            for e in range(count):
                own = _join(parent, own, met[e])
    return parent != _OUTSIDE


@njit(cache=True, error_model="numpy", nogil=True)
def partition_forests(indptr, indices, order):
    """Put every node in the first forest that stays without a cycle.

    Parameters
    ----------
    indptr, indices : ndarray of int32
        Graph of n nodes.
    order : ndarray of int64, of shape (n,)
        All nodes, in the order in which they are placed.

    Returns
    -------
    ndarray of int64, of shape (n,)
        Forests, numbered from 0. There are at most half the largest degree, rounded down, plus 1.

    Notes
    -----
    Cost: that of `select_forest`; a node is looked at once, whatever the number of forests.
    """
    n = indptr.size - 1
    label = np.full(n, -1, np.int64)
    parent = np.full(n, -1, np.int32)
    seen = np.full(n, -1, np.int32)
    closed = np.full(n + 1, -1, np.int32)  # the node that cannot join this forest
    for t in range(order.size):
        node = order[t]
        for k in range(indptr[node], indptr[node + 1]):
            j = indices[k]
            if j != node and label[j] >= 0:
                root = _root(parent, j)
                if seen[root] == node:
                    closed[label[j]] = node
                seen[root] = node
        forest = 0
        while closed[forest] == node:
            forest += 1
        label[node] = forest
        own = np.int32(node)
        for k in range(indptr[node], indptr[node + 1]):
            j = indices[k]
            if j != node and label[j] == forest:
                own = _join(parent, own, _root(parent, j))
    return label


@njit(cache=True, error_model="numpy", nogil=True)
def color_greedily(indptr, indices, order):
    """Give every node in turn the least used colour that no neighbour has.

    Parameters
    ----------
    indptr, indices : ndarray of int32
        Graph of n nodes.
    order : ndarray of int64, of shape (n,)
        All nodes, in the order in which they are coloured.

    Returns
    -------
    ndarray of int64, of shape (n,)
        Colours, numbered from 0: of equally used ones the first, a new one where none is left.

    Notes
    -----
    Cost: ``nnz + n`` times the number of colours, which is at most the largest degree plus 1.
    """
    n = indptr.size - 1
    label = np.full(n, -1, np.int64)
    used = np.zeros(n + 1, np.int64)
    taken = np.full(n + 1, -1, np.int64)
    count = 0
    for t in range(order.size):
        node = order[t]
        for k in range(indptr[node], indptr[node + 1]):
            j = indices[k]
            if j != node and label[j] >= 0:
                taken[label[j]] = node
        best = count
        for color in range(count):
            if taken[color] != node and (best == count or used[color] < used[best]):
                best = color
        if best == count:
            count += 1
        label[node] = best
        used[best] += 1
    return label


@njit(cache=True, error_model="numpy", nogil=True)
def color_two(indptr, indices, order):
    """Colour a bipartite graph with two colours.

    Parameters
    ----------
    indptr, indices : ndarray of int32
        Graph of n nodes.
    order : ndarray of int64, of shape (n,)
        All nodes: components are taken in the order of their first one.

    Returns
    -------
    ndarray of int64, of shape (n,)
        Colours 0 and 1; the larger side of a component has the colour that is used less so far
        (of equal sides, that of its first node). All -1 if the graph is not bipartite, all 0 if
        it has no edges.

    Notes
    -----
    Cost: ``n + nnz`` steps.
    """
    n = indptr.size - 1
    label = np.full(n, -1, np.int64)
    queue = np.empty(n, np.int64)
    used = np.zeros(2, np.int64)
    joined = False
    for t in range(order.size):
        if label[order[t]] >= 0:
            continue
        head, tail, odd = 0, 1, 0
        queue[0] = order[t]
        label[order[t]] = 0
        while head < tail:
            node = queue[head]
            head += 1
            odd += label[node]
            for k in range(indptr[node], indptr[node + 1]):
                j = indices[k]
                if j == node:
                    continue
                if label[j] < 0:
                    label[j] = 1 - label[node]
                    queue[tail] = j
                    tail += 1
                elif label[j] == label[node]:
                    label[:] = -1
                    return label
        joined |= tail > 1
        larger = 1 if 2 * odd > tail else 0
        scarce = 1 if used[1] < used[0] else 0
        flip = larger != scarce
        if flip:
            for k in range(tail):
                label[queue[k]] = 1 - label[queue[k]]
        used[0] += odd if flip else tail - odd
        used[1] += tail - odd if flip else odd
    if not joined:
        label[:] = 0
    return label


@njit(cache=True, error_model="numpy", nogil=True)
def order_forest(indptr, indices, nodes):
    """Order a block from the leaves of its trees to the roots.

    Parameters
    ----------
    indptr, indices : ndarray of int32
        Graph of n nodes.
    nodes : ndarray of int64, of shape (m,)
        The block.

    Returns
    -------
    order : ndarray of int64, of shape (m,)
        Places in `nodes`, children before their parents.
    parents : ndarray of int64, of shape (m,)
        Places in `order` of the parents; -1 for roots.
    edges : ndarray of int64, of shape (m,)
        Places in `indices` of the entries (node, parent); -1 for roots.
    diagonal : ndarray of int64, of shape (m,)
        Places in `indices` of the diagonal entries; -1 where none is stored.
    count : int
        m for a forest, less where there is a cycle, -1 - t where place t repeats a node.

    Notes
    -----
    Leaves are taken off in the order of `nodes`, and up from each as far as that makes leaves:
    the elimination then runs through memory in nearly that order.

    Cost: ``m`` plus twice the entries in rows of the block, and 4 n bytes.
    """
    n, m = indptr.size - 1, nodes.size
    place = np.full(n, -1, np.int32)
    degree = np.zeros(m, np.int32)
    order = np.empty(m, np.int64)
    parents = np.full(m, -1, np.int64)
    edges = np.full(m, -1, np.int64)
    diagonal = np.full(m, -1, np.int64)
    rank = np.full(m, -1, np.int64)
    count = 0
    for t in range(m):
        if place[nodes[t]] >= 0:
            return order, parents, edges, diagonal, -1 - t
        place[nodes[t]] = t
    for t in range(m):
        node = nodes[t]
        for k in range(indptr[node], indptr[node + 1]):
            if indices[k] != node and place[indices[k]] >= 0:
                degree[t] += 1
    for first in range(m):
        t = first
        while t >= 0 and rank[t] < 0 and degree[t] <= 1:
            node = nodes[t]
            up = -1
            for k in range(indptr[node], indptr[node + 1]):
                j = indices[k]
                if j == node:
                    diagonal[count] = k
                elif place[j] >= 0 and rank[place[j]] < 0:
                    up = place[j]
                    edges[count] = k
            order[count] = t
            parents[count] = up
            rank[t] = count
            count += 1
            if up >= 0:
                degree[up] -= 1
                if up > first:
                    break
            t = up
    for k in range(count):
        if parents[k] >= 0:
            parents[k] = rank[parents[k]]
    return order, parents, edges, diagonal, count


@njit(cache=True, error_model="numpy", nogil=True)
def factor_forest(data, parents, edges, diagonal, pivots, multipliers):
    """Eliminate from the leaves to the roots.

    Parameters
    ----------
    data : ndarray of float32 or float64
        Entries of the symmetric matrix.
    parents, edges, diagonal : ndarray of int64, of shape (m,)
        Of `order_forest`.
    pivots, multipliers : ndarray of float64, of shape (m,)
        Written, in the order of the elimination.

    Returns
    -------
    int
        The first place whose pivot is not positive; -1 where there is none.

    Notes
    -----
    Cost: ``3 m`` flops, ``(5 * 8 + 2 * itemsize) m`` bytes.
    """
    m = parents.size
    for k in range(m):
        pivots[k] = data[diagonal[k]] if diagonal[k] >= 0 else 0.0
    for k in range(m):
        if not pivots[k] > 0.0:
            return k
        multipliers[k] = 0.0
        if parents[k] >= 0:
            entry = np.float64(data[edges[k]])
            multipliers[k] = entry / pivots[k]
            pivots[parents[k]] -= multipliers[k] * entry
    return -1


@njit(cache=True, error_model="numpy", nogil=True)
def solve_factored(order, parents, pivots, multipliers, rhs, out):
    """Substitute from the leaves to the roots and back.

    Parameters
    ----------
    order, parents : ndarray of int64, of shape (m,)
        Of `order_forest`.
    pivots, multipliers : ndarray of float64, of shape (m,)
        Of `factor_forest`.
    rhs : ndarray of float64, of shape (m, k)
        Right-hand sides, in the order of the nodes; C order.
    out : ndarray of float64, of shape (m, k)
        Solutions; C order.

    Notes
    -----
    Cost: ``5 m k`` flops.
    """
    m, width = rhs.shape
    work = np.empty((m, width), np.float64)
    for k in range(m):
        for c in range(width):
            work[k, c] = rhs[order[k], c]
    for k in range(m):
        up = parents[k]
        if up >= 0:
            for c in range(width):
                work[up, c] -= multipliers[k] * work[k, c]
    for k in range(m - 1, -1, -1):
        up = parents[k]
        for c in range(width):
            value = work[k, c] / pivots[k]
            if up >= 0:
                value -= multipliers[k] * work[up, c]
            work[k, c] = value
            out[order[k], c] = value


@njit(cache=True, error_model="numpy", nogil=True)
def _unlink(head, after, before, bucket, node):
    """Take a node out of its bucket."""
    if before[node] >= 0:
        after[before[node]] = after[node]
    else:
        head[bucket[node]] = after[node]
    if after[node] >= 0:
        before[after[node]] = before[node]
    bucket[node] = -1


@njit(cache=True, error_model="numpy", nogil=True)
def _place(head, after, before, bucket, degree, node):
    """Move a node to the bucket of its degree; the last bucket, of high degrees, is no list."""
    want = degree[node] if degree[node] < head.size else -1
    if bucket[node] == want:
        return
    if bucket[node] >= 0:
        _unlink(head, after, before, bucket, node)
    if want >= 0:
        before[node] = -1
        after[node] = head[want]
        if head[want] >= 0:
            before[head[want]] = node
        head[want] = node
        bucket[node] = want


@njit(cache=True, error_model="numpy", nogil=True)
def bounded_elimination(indptr, indices, weakest, width):
    """Eliminate nodes of least degree, dropping nodes where all degrees exceed a bound.

    Parameters
    ----------
    indptr, indices : ndarray of int32
        Graph of n nodes.
    weakest : ndarray of int64, of shape (n,)
        All nodes, in the order in which they are dropped.
    width : int
        Largest degree of a node when it is eliminated, at least 0.

    Returns
    -------
    events : ndarray of int64, of shape (n,)
        Nodes in the order in which they left.
    kept : ndarray of bool, of shape (n,)
        By event: eliminated (its neighbours are joined to each other), or dropped.

    Notes
    -----
    Neighbours are linked lists in one pool that grows by doubling; places of nodes that left are
    used again.

    Cost: ``nnz + m width^2`` steps, plus the degrees of neighbours of eliminated nodes.
    """
    n = indptr.size - 1
    first = np.full(n, -1, np.int64)
    degree = np.zeros(n, np.int64)
    pool, link = np.empty(indices.size + 1, np.int32), np.empty(indices.size + 1, np.int64)
    used, spare = 0, -1
    for node in range(n):
        for k in range(indptr[node], indptr[node + 1]):
            if indices[k] != node:
                pool[used] = indices[k]
                link[used] = first[node]
                first[node] = used
                used += 1
                degree[node] += 1
    head = np.full(width + 1, -1, np.int64)
    after, before = np.full(n, -1, np.int64), np.full(n, -1, np.int64)
    bucket = np.full(n, -1, np.int64)
    for node in range(n):
        _place(head, after, before, bucket, degree, node)
    gone = np.zeros(n, np.bool_)
    mark = np.full(n, -1, np.int64)
    near = np.empty(n, np.int64)
    events, kept = np.empty(n, np.int64), np.zeros(n, np.bool_)
    reach, stamp = 0, 0
    for event in range(n):
        node = -1
        for d in range(width + 1):
            if head[d] >= 0:
                node = head[d]
                break
        eliminate = node >= 0
        if eliminate:
            _unlink(head, after, before, bucket, node)
        else:
            while gone[weakest[reach]]:
                reach += 1
            node = weakest[reach]
        events[event] = node
        kept[event] = eliminate
        gone[node] = True
        # Its neighbours lose it, and its list becomes spare.
        size = 0
        k = first[node]
        while k >= 0:
            near[size] = pool[k]
            size += 1
            after_k = link[k]
            link[k] = spare
            spare = k
            k = after_k
        for a in range(size):
            i = near[a]
            degree[i] -= 1
            k, last = first[i], -1
            while pool[k] != node:
                last = k
                k = link[k]
            if last < 0:
                first[i] = link[k]
            else:
                link[last] = link[k]
            link[k] = spare
            spare = k
        if eliminate:
            for a in range(size):
                i = near[a]
                k = first[i]
                while k >= 0:
                    mark[pool[k]] = stamp
                    k = link[k]
                mark[i] = stamp
                for b in range(size):
                    j = near[b]
                    if mark[j] == stamp:
                        continue
                    if spare >= 0:
                        k = spare
                        spare = link[k]
                    else:
                        if used == pool.size:
                            more, longer = (
                                np.empty(2 * used, np.int32),
                                np.empty(2 * used, np.int64),
                            )
                            more[:used] = pool
                            longer[:used] = link
                            pool, link = more, longer
                        k = used
                        used += 1
                    pool[k] = j
                    link[k] = first[i]
                    first[i] = k
                    degree[i] += 1
                stamp += 1
        for a in range(size):
            _place(head, after, before, bucket, degree, near[a])
    return events, kept
