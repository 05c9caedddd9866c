"""Partitions of the variables into fixed blocks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from lowrank_opt.core.errors import ParameterError
from lowrank_opt.numerics.penalties import GroupL1

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

__all__ = ["PARTITIONS", "Partition", "make_partition"]


class Partition(NamedTuple):
    """Every variable in exactly one block.

    Parameters
    ----------
    labels : ndarray of int64, of shape (n_variables,)
        The block of every variable.
    blocks : list of ndarray of int64
        The variables of every block, ascending.
    """

    labels: NDArray[Any]
    blocks: list[NDArray[Any]]


def _consecutive(order: NDArray[Any], size: int) -> NDArray[Any]:
    """Cut an order of the variables into pieces; the last may be shorter."""
    labels = np.empty(order.size, np.int64)
    labels[order] = np.arange(order.size) // size
    return labels


def _ascending(keys: NDArray[Any]) -> NDArray[Any]:
    return np.argsort(keys, kind="stable")


def _alternating(keys: NDArray[Any]) -> NDArray[Any]:
    """Smallest, largest, second smallest, second largest, ..."""
    ascending = _ascending(keys)
    n = ascending.size
    order = np.empty_like(ascending)
    order[0::2] = ascending[: (n + 1) // 2]
    order[1::2] = ascending[::-1][: n // 2]
    return order


def _by_order(smooth: Any, penalty: Any, size: int) -> NDArray[Any]:
    return _consecutive(np.arange(smooth.n_variables), size)


def _by_sort(smooth: Any, penalty: Any, size: int) -> NDArray[Any]:
    return _consecutive(_ascending(smooth.lipschitz), size)


def _by_avg(smooth: Any, penalty: Any, size: int) -> NDArray[Any]:
    return _consecutive(_alternating(smooth.lipschitz), size)


def _by_hsort(smooth: Any, penalty: Any, size: int) -> NDArray[Any]:
    return _consecutive(_ascending(smooth.bound_row_sums), size)


def _by_havg(smooth: Any, penalty: Any, size: int) -> NDArray[Any]:
    return _consecutive(_alternating(smooth.bound_row_sums), size)


def coupling(smooth: Any, why: str) -> Any:
    """Return the sparse matrix of a quadratic.

    Parameters
    ----------
    smooth : object
        The smooth part.
    why : str
        What asks for it, for the message.

    Returns
    -------
    csr_array
        The matrix.

    Raises
    ------
    ParameterError
        There is none.
    """
    matrix = smooth.coupling
    if matrix is None:
        raise ParameterError(
            f"BlockCoordinateDescent: {why} works on the graph of a sparse quadratic, "
            f"QuadraticProblem(A, b) with a sparse A; {smooth!r} has none"
        )
    return matrix


def _by_color(smooth: Any, penalty: Any, size: int) -> NDArray[Any]:
    from lowrank_opt.block_coordinate.forests import red_black

    return _labels_of(red_black(coupling(smooth, "blocks='color'")), smooth.n_variables)


def _by_forest(smooth: Any, penalty: Any, size: int) -> NDArray[Any]:
    from lowrank_opt.block_coordinate.forests import tree_partition

    return _labels_of(tree_partition(coupling(smooth, "blocks='forest'")), smooth.n_variables)


def _labels_of(found: Any, n: int) -> NDArray[Any]:
    """Labels from labels or from a list of blocks."""
    if isinstance(found, (list, tuple)):
        labels = np.empty(n, np.int64)
        for number, block in enumerate(found):
            labels[block] = number
        return labels
    return np.asarray(found, np.int64)


def _by_groups(smooth: Any, penalty: Any, size: int) -> NDArray[Any]:
    if not isinstance(penalty, GroupL1):
        raise ParameterError(
            f"BlockCoordinateDescent: blocks='groups' are the groups of the penalty GroupL1; the "
            f"penalty is {type(penalty).__name__}: give an array of labels instead"
        )
    _, groups = np.unique(np.asarray(penalty.groups, np.int64), return_inverse=True)
    labels = np.repeat(groups, smooth.n_outputs)
    rest = smooth.n_variables - labels.size  # intercepts
    return np.append(labels, labels.max() + 1 + np.arange(rest))


PARTITIONS: dict[str, Callable[[Any, Any, int], NDArray[Any]]] = {
    "order": _by_order,
    "sort": _by_sort,
    "avg": _by_avg,
    "hsort": _by_hsort,
    "havg": _by_havg,
    "color": _by_color,
    "forest": _by_forest,
    "groups": _by_groups,
}


def make_partition(blocks: Any, smooth: Any, penalty: Any = None, size: int = 1) -> Partition:
    """Return a partition of the variables.

    Parameters
    ----------
    blocks : str, array-like of int, or list of arrays
        "order": consecutive variables. "sort", "avg": by the Lipschitz constants of the partial
        derivatives, similar ones together, or such that the blocks have similar means. "hsort",
        "havg": the same by the sums of absolute values of the rows of the bound of the Hessian.
        "color": no two variables of a block are coupled. "forest": no cycles of couplings in a
        block. "groups": the groups of the penalty, and every intercept by itself. An array of
        shape (n_variables,): the number of the block of every variable, from 0. A list: the
        variables of every block.
    smooth : GLMProblem or QuadraticProblem
        The smooth part.
    penalty : named tuple or None, default=None
        The penalty.
    size : int, default=1
        Variables of a block, where the rule leaves it open; the last one may have fewer.

    Returns
    -------
    Partition
        Labels and blocks.

    Raises
    ------
    ParameterError
        An unknown rule; blocks that leave out a variable, overlap, or have one that is not.
    """
    n = smooth.n_variables
    if isinstance(blocks, str):
        labels = PARTITIONS[blocks](smooth, penalty, size)
    elif isinstance(blocks, (list, tuple)) and any(np.ndim(b) for b in blocks):
        labels = _from_lists(blocks, n)
    else:
        labels = _from_labels(blocks, n)
    order = np.argsort(labels, kind="stable")
    ends = np.searchsorted(labels[order], np.arange(1, int(labels.max()) + 1))
    return Partition(labels, np.split(order.astype(np.int64), ends))


def _from_labels(blocks: Any, n: int) -> NDArray[Any]:
    labels = np.asarray(blocks)
    if labels.dtype.kind not in "iu" or labels.shape != (n,):
        raise ParameterError(
            f"BlockCoordinateDescent: blocks has dtype {labels.dtype} and shape {labels.shape}; "
            f"expected integers of shape ({n},), the block of every variable, or a list of blocks"
        )
    if labels.min() < 0:
        raise ParameterError(
            f"BlockCoordinateDescent: blocks[{int(np.argmin(labels))}] = {labels.min()}; blocks "
            "are numbered from 0"
        )
    counts = np.bincount(labels)
    if (counts == 0).any():
        raise ParameterError(
            f"BlockCoordinateDescent: blocks has no variable with label "
            f"{int(np.argmin(counts))}, but labels up to {labels.max()}; number the blocks "
            "0, 1, 2, ..."
        )
    return labels.astype(np.int64)


def _from_lists(blocks: Any, n: int) -> NDArray[Any]:
    labels = np.full(n, -1, np.int64)
    for number, block in enumerate(blocks):
        members = np.asarray(block)
        if members.size == 0 or members.dtype.kind not in "iu" or members.ndim != 1:
            raise ParameterError(
                f"BlockCoordinateDescent: blocks[{number}] must list variables, integers from 0"
            )
        if members.min() < 0 or members.max() >= n:
            bad = members.min() if members.min() < 0 else members.max()
            raise ParameterError(
                f"BlockCoordinateDescent: blocks[{number}] has the variable {bad}, out of range "
                f"for {n} variables numbered from 0"
            )
        twice = members[labels[members] >= 0]
        if twice.size or np.unique(members).size < members.size:
            which = twice[0] if twice.size else members[0]
            raise ParameterError(
                f"BlockCoordinateDescent: blocks overlap: variable {which} is in two places, one "
                f"of them blocks[{number}]; every variable belongs to one block"
            )
        labels[members] = number
    if (labels < 0).any():
        raise ParameterError(
            f"BlockCoordinateDescent: blocks leave out variable {int(np.argmin(labels))}; every "
            f"variable from 0 to {n - 1} belongs to one block"
        )
    return labels
