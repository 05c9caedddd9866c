"""Order statistics of long arrays from a fixed random sample."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import numpy as np

from lowrank_opt.core.errors import ProblemError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["check_range", "check_size", "sample", "typical_size", "typical_square"]

# Arrays with more entries are represented by half as many.
LIMIT = 400_000
# Values above this many times the typical size do not count with more than that.
_CLIP = 10.0
# Typical sizes whose products with factors and weights are numbers of the type, by item size.
_RANGE = {4: (1e-30, 1e30), 8: (1e-140, 1e140)}


@functools.lru_cache(maxsize=8)
def _positions(size: int, limit: int) -> NDArray[np.int64]:
    positions = np.random.default_rng(size).choice(size, limit // 2, replace=False, shuffle=False)
    positions.sort()
    positions.flags.writeable = False
    return positions


def sample(array: NDArray[Any], limit: int = LIMIT) -> NDArray[Any]:
    """The array, or a part of a long one.

    Parameters
    ----------
    array : ndarray of shape (N,)
        Observed entries or errors, by rows.
    limit : int, default=400000
        Longer arrays are represented by half as many entries. They are chosen at random, the same
        for every array of this length: evenly spaced ones would fall into few columns.

    Returns
    -------
    ndarray
    """
    return array if array.size <= limit else array[_positions(array.size, limit)]


def typical_size(values: NDArray[Any]) -> float:
    """Median of the absolute values, of the non-zero ones when most are zero; else 1.

    Parameters
    ----------
    values : ndarray of shape (N,)
        Data, some of which may be grossly wrong.

    Returns
    -------
    float
        Positive.
    """
    sizes = np.abs(sample(values).astype(np.float64))
    median = float(np.median(sizes)) if sizes.size else 0.0
    if median == 0.0 and sizes.any():
        median = float(np.median(sizes[sizes > 0]))
    return median or 1.0


def typical_square(values: NDArray[Any], size: float) -> float:
    """Mean square of the values, each cut off at ten times the typical size.

    Parameters
    ----------
    values : ndarray of shape (N,)
        Data, some of which may be grossly wrong.
    size : float
        From `typical_size`.

    Returns
    -------
    float
        Positive: the unit of the relative reweighted step, which no gross error can blow up.
    """
    ratio = np.minimum(np.abs(sample(values).astype(np.float64)) / size, _CLIP)
    return size * size * (float(np.mean(ratio * ratio)) if ratio.any() else 1.0)


def check_size(values: NDArray[Any], what: str) -> None:
    """Raise when products of values of this typical size under- or overflow.

    Parameters
    ----------
    values : ndarray of shape (N,)
        Data in the type of the computation.
    what : str
        Their name.

    Raises
    ------
    ProblemError
        The typical size is out of range.
    """
    check_range(typical_size(values), values.dtype, what)


def check_range(size: float, dtype: np.dtype[Any], what: str) -> None:
    """Raise when products of numbers of this size under- or overflow.

    Parameters
    ----------
    size : float
        Typical size.
    dtype : dtype
        float32 or float64.
    what : str
        Name of the numbers.

    Raises
    ------
    ProblemError
        The size is out of range.
    """
    low, high = _RANGE[dtype.itemsize]
    if not low <= size <= high:
        raise ProblemError(
            f"{what} have a typical size of {size:.1e} (median of the absolute values), out of the "
            f"range from {low:g} to {high:g} in which {dtype} computes; divide them by it"
        )
