"""Message passing in plain Python, by definitions: what the kernels are compared with.

Graphs are sequences of sets of neighbours, see :func:`neighbours`.
"""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = [
    "color_greedily",
    "components",
    "factor_forest",
    "join_neighbours",
    "neighbours",
    "partition_forests",
    "select_forest",
    "solve_forest",
]


def neighbours(A: Any) -> list[set[int]]:
    """Return the neighbours of every node in the graph of a matrix.

    Parameters
    ----------
    A : sparse array of shape (n, n)
        Symmetric.

    Returns
    -------
    list of set of int
        For every node those joined to it.
    """
    entries = A.tocoo()
    near: list[set[int]] = [set() for _ in range(A.shape[0])]
    for i, j in zip(entries.row.tolist(), entries.col.tolist(), strict=True):
        if i != j:
            near[i].add(j)
    return near


def components(near: Sequence[set[int]], nodes: Iterable[int]) -> int:
    """Count the components of a block.

    Parameters
    ----------
    near : sequence of set of int
        Graph.
    nodes : iterable of int
        The block.

    Returns
    -------
    int
        Number of components of the subgraph.
    """
    left, count = set(nodes), 0
    while left:
        count += 1
        front = [left.pop()]
        while front:
            found = near[front.pop()] & left
            left -= found
            front.extend(found)
    return count


def partition_forests(near: Sequence[set[int]], order: Iterable[int]) -> list[int]:
    """Put every node in the first forest that stays without a cycle.

    Trees have names; where trees meet, the nodes of all are renamed.

    Parameters
    ----------
    near : sequence of set of int
        Graph.
    order : iterable of int
        All nodes, in the order in which they are placed.

    Returns
    -------
    list of int
        Forest of every node.
    """
    forests: list[dict[int, int]] = []
    for node in order:
        for forest in forests:
            if _joins(near, forest, node):
                break
        else:
            forests.append({node: node})
    return [next(f for f, trees in enumerate(forests) if v in trees) for v in range(len(near))]


def select_forest(near: Sequence[set[int]], order: Iterable[int]) -> set[int]:
    """Select nodes in turn where no cycle closes, renaming trees as they grow.

    Parameters
    ----------
    near : sequence of set of int
        Graph.
    order : iterable of int
        Nodes, in the order in which they are tried.

    Returns
    -------
    set of int
        The nodes selected.
    """
    forest: dict[int, int] = {}
    for node in order:
        _joins(near, forest, node)
    return set(forest)


def _joins(near: Sequence[set[int]], forest: dict[int, int], node: int) -> bool:
    """Add a node to a forest, as tree names by node, if its neighbours are in different trees."""
    names = [forest[j] for j in near[node] if j in forest]
    if len(set(names)) < len(names):
        return False
    for other, name in forest.items():
        if name in names:
            forest[other] = node
    forest[node] = node
    return True


def color_greedily(near: Sequence[set[int]], order: Iterable[int]) -> list[int]:
    """Give every node in turn the least used colour that no neighbour has.

    Parameters
    ----------
    near : sequence of set of int
        Graph.
    order : iterable of int
        All nodes, in the order in which they are coloured.

    Returns
    -------
    list of int
        Colours.
    """
    label = [-1] * len(near)
    for node in order:
        count = max(label) + 1
        taken = {label[j] for j in near[node]}
        open_ = [color for color in range(count) if color not in taken]
        label[node] = min(open_, key=label.count) if open_ else count
    return label


def factor_forest(data: Any, parents: Any, edges: Any, diagonal: Any) -> tuple[Any, Any]:
    """Eliminate from the leaves to the roots.

    Parameters
    ----------
    data : ndarray
        Entries of the matrix.
    parents, edges, diagonal : ndarray of int of shape (m,)
        As the kernel of this name takes them.

    Returns
    -------
    pivots, multipliers : ndarray of float64, of shape (m,)
        In the order of the elimination.
    """
    entries = np.asarray(data, np.float64)
    pivots = np.where(diagonal >= 0, entries[diagonal], 0.0)
    multipliers = np.zeros(len(parents))
    for k, up in enumerate(parents):
        if up >= 0:
            multipliers[k] = entries[edges[k]] / pivots[k]
            pivots[up] -= multipliers[k] * entries[edges[k]]
    return pivots, multipliers


def solve_forest(order: Any, parents: Any, pivots: Any, multipliers: Any, rhs: Any) -> Any:
    """Substitute from the leaves to the roots and back.

    Parameters
    ----------
    order, parents : ndarray of int of shape (m,)
        Elimination order.
    pivots, multipliers : ndarray of shape (m,)
        Of `factor_forest`.
    rhs : ndarray of shape (m, k)
        Right-hand sides.

    Returns
    -------
    ndarray of shape (m, k)
        Solutions.
    """
    work = np.asarray(rhs, np.float64)[order]
    for k, up in enumerate(parents):
        if up >= 0:
            work[up] -= multipliers[k] * work[k]
    for k in reversed(range(len(parents))):
        work[k] /= pivots[k]
        if parents[k] >= 0:
            work[k] -= multipliers[k] * work[parents[k]]
    out = np.empty_like(work)
    out[order] = work
    return out


def join_neighbours(near: Sequence[set[int]], node: int, eliminate: bool) -> int:
    """Take a node out of a graph, in place.

    Parameters
    ----------
    near : sequence of set of int
        Graph.
    node : int
        The node; its own set is emptied.
    eliminate : bool
        Join its neighbours to each other, as elimination does.

    Returns
    -------
    int
        Its degree.
    """
    around = near[node].copy()
    near[node].clear()
    for j in around:
        near[j].discard(node)
    if eliminate:
        for i, j in combinations(around, 2):
            near[i].add(j)
            near[j].add(i)
    return len(around)
