"""Robust regression of single rows whose entries the present factors contradict."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from lowrank_opt.recovery.kernels_robust import count_agreeing

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["rescue_rows"]

_TRIALS = 500
_ROWS = 32
_STEPS = 20
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
    random subsets of as many entries as unknowns are solved, the fit with the smallest median is
    kept, and accepted when more entries agree with it than before.

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
        if x is None:
            continue
        e = b - A @ x
        if np.count_nonzero(np.abs(e) <= bound) > agreeing[i]:
            X[i, :rank] = x
            residual[places] = e
            changed += 1
    return changed


def _consensus(A, b, bound, rng):
    n, k = A.shape
    choice = np.argsort(rng.random((_TRIALS, n)), axis=1)[:, :k]
    S = A[choice]
    try:
        x = np.linalg.solve(S, b[choice][..., None])[..., 0]
    except np.linalg.LinAlgError:
        return None
    sizes = np.abs(b - x @ A.T)
    best = int(np.argmax(np.count_nonzero(sizes <= bound, axis=1)))
    x = x[best]
    for _ in range(_STEPS):
        e = np.abs(b - A @ x)
        good = e <= bound
        if np.count_nonzero(good) < k:
            break
        x = np.linalg.lstsq(A[good], b[good])[0]
    return x
