"""Robust regression of single rows whose entries the present factors contradict."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from lowrank_opt.recovery.kernels_robust import count_agreeing

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["rescue_rows"]

# Random subsets, rows a call, refits; entries from which the subsets are drawn.
_TRIALS = 500
_ROWS = 32
_STEPS = 20
_ENTRIES = 500
# Rows with a smaller part of agreeing entries are looked at.
_SUSPECT = 0.5


def rescue_rows(
    indptr: NDArray[Any],
    indices: NDArray[Any],
    values: NDArray[Any],
    residual: NDArray[Any],
    F: NDArray[Any],
    X: NDArray[Any],
    rank: int,
    bound: float,
    rng: Any,
    *,
    perm: NDArray[Any] | None = None,
) -> int:
    """Fit rows of `X` anew most of whose entries have a residual above `bound`.

    Reweighted iterations can stop in a wrong place when a row has few entries and many of them
    are gross errors. Given the other factor, such a row is a regression with outliers of its own:
    random subsets of as many entries as unknowns are solved, the fit with which most entries agree
    is refitted to these, and accepted when they are more than before. At most 32 rows a call, the
    worst ones; subsets of much more than ten entries hardly ever are free of errors.

    Parameters
    ----------
    indptr, indices, values, residual, F, X, perm
        As in :func:`lowrank_opt.recovery.kernels_robust.sweep_rows`; `X` and `residual` change.
    rank : int
        Number of factor columns.
    bound : float
        Largest residual of an entry that agrees.
    rng : Generator
        Chooses the subsets.

    Returns
    -------
    int
        Number of rows that changed.
    """
    counts = np.diff(indptr)
    agreeing = np.empty(len(counts), np.int64)
    order = np.empty(0, np.int32) if perm is None else perm
    count_agreeing(indptr, residual, order, residual.dtype.type(bound), agreeing)
    part = agreeing / np.maximum(counts, 1)
    suspects = np.flatnonzero((part < _SUSPECT) & (counts >= rank + 2))
    suspects = suspects[np.argsort(part[suspects], kind="stable")][:_ROWS]
    changed = 0
    for i in suspects:
        entries = slice(indptr[i], indptr[i + 1])
        places = np.arange(indptr[i], indptr[i + 1]) if perm is None else perm[entries]
        A = F[indices[entries], :rank].astype(np.float64)
        b = values[entries].astype(np.float64)
        x = _consensus(A, b, bound, rng)
        e = b - A @ x
        if np.count_nonzero(np.abs(e) <= bound) > agreeing[i]:
            X[i, :rank] = x
            residual[places] = e
            changed += 1
    return changed


def _consensus(
    A: NDArray[np.float64], b: NDArray[np.float64], bound: float, rng: Any
) -> NDArray[np.float64]:
    """Return the fit to a random subset with which most entries agree, refitted to these."""
    some = rng.choice(len(b), _ENTRIES, replace=False) if len(b) > _ENTRIES else slice(None)
    part, target = A[some], b[some]
    k = A.shape[1]
    choice = np.argsort(rng.random((_TRIALS, len(target))), axis=1)[:, :k]
    try:
        x = np.linalg.solve(part[choice], target[choice][..., None])[..., 0]
    except np.linalg.LinAlgError:  # a subset of exactly dependent rows
        x = (np.linalg.pinv(part[choice]) @ target[choice][..., None])[..., 0]
    agree = np.count_nonzero(np.abs(target - x @ part.T) <= bound, axis=1)
    best = x[int(np.argmax(agree))]
    for _ in range(_STEPS):
        good = np.abs(b - A @ best) <= bound
        if np.count_nonzero(good) < k:
            break
        best = np.linalg.lstsq(A[good], b[good])[0]
    return best
