"""Using a fitted model: factors of new rows, and the best columns of a row."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

from lowrank_opt.core.errors import AccuracyWarning, ProblemError
from lowrank_opt.numerics import topk
from lowrank_opt.recovery import kernels
from lowrank_opt.recovery.lowrank import LowRankMatrix, LowRankSamples
from lowrank_opt.recovery.observations import Observations

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lowrank_opt.recovery.problems import MatrixCompletion

__all__ = ["best_columns", "fold_in", "fold_in_robust", "fold_in_samples"]

# Scores held at once while columns are ranked: 32 MB in float64.
_BLOCK = 1 << 22
# Draws of a sampler that new rows are folded into.
_DRAWS = 20
# Robust regression of new rows: at most so many reweighted solves; the threshold falls by this
# factor in each, or by as much as takes it down in so many; a row is done when its coefficients
# move by less than this part of their size, and worth a warning at the end when by more than that.
_SOLVES = 500
_DECAY, _FALLS = 0.3, 100
_UNSETTLED = 1e-3
_SETTLED = {4: 1e-6, 8: 1e-13}


def fold_in(problem: MatrixCompletion, model: LowRankMatrix, rows: Observations) -> LowRankMatrix:
    """Solve for the factors of new rows while the columns' factors stay.

    Parameters
    ----------
    problem : MatrixCompletion
        The problem that was solved; its ridge, biases and constraint apply to the new rows. With
        `implicit_weight`, what is observed in them counts as well, through the factor of the
        indicator matrix that fits the row factors of `model`.
    model : LowRankMatrix
        Its solution.
    rows : Observations
        Observed entries of the new rows; as many columns as `model`.

    Returns
    -------
    LowRankMatrix
        The new rows with the model's columns. Rows without observations are zero.

    Notes
    -----
    Rows are solved exactly and independently of each other (for Huber and l1 losses: their
    squared-loss solution). Cost: ``N·k²`` flops for N entries.
    """
    if rows.shape[1] != model.shape[1]:
        raise ProblemError(
            f"X has {rows.shape[1]} columns, the model has {model.shape[1]}; give the same columns"
        )
    dtype, k, bias = model.dtype, model.rank, model.col_bias is not None
    V, scale = model.V, np.ones(k, dtype)
    if problem.penalty == "nuclear":
        # The nuclear norm is a ridge on factors whose columns are equally long.
        own, other = (np.linalg.norm(M, axis=0) for M in (model.U, model.V))
        scale = np.sqrt(np.divide(own, other, out=np.zeros_like(own), where=other > 0))
        V = V * scale
    F = kernels.pad_factor(np.ascontiguousarray(V), model.col_bias)
    zeros = np.zeros(rows.shape[0], dtype) if bias else None
    X = kernels.pad_factor(np.zeros((rows.shape[0], k), dtype), zeros)
    mass = rows.row_weights**problem.scaling_power
    base = _implicit(problem, model, rows, X) if problem.implicit_weight else {}
    kernels.solve_rows(
        rows.indptr,
        rows.indices,
        rows.values.astype(dtype) - dtype.type(model.offset),
        F,
        X,
        rank=k,
        ridge=(problem.reg * mass).astype(dtype),
        bias=bias,
        ridge_bias=(problem.bias_reg * mass).astype(dtype),
        weights=None if rows.weights is None else rows.weights.astype(dtype),
        nonnegative=problem.nonnegative,
        n_threads=None,
        **base,
    )
    row_bias = X[:, k].copy() if bias else None
    return LowRankMatrix(X[:, :k] * scale, model.V, model.offset, row_bias, model.col_bias)


def fold_in_robust(V: NDArray[Any], rows: Observations, delta: float) -> NDArray[Any]:
    r"""Solve for the coefficients of new rows, gross errors in them notwithstanding.

    Parameters
    ----------
    V : ndarray of shape (n, k)
        Column factor, float32 or float64.
    rows : Observations
        Observed entries of the new rows; n columns.
    delta : float
        Threshold of the Huber loss, positive: that of the fit.

    Returns
    -------
    ndarray of shape (rows.shape[0], k)
        Each row's minimiser of the weighted Huber loss of ``M_i - x V^T``; zero for rows without
        observations. It does not depend on the other rows.

    Notes
    -----
    Reweighted least squares from the least-squares solution, while the threshold falls from the
    size of the row's largest error to `delta`, in at most a hundred solves however large that is:
    the problem is convex, so that the way there does not matter. Where `delta` is many orders of
    magnitude below the noise of a row, the steps fade before the minimum, whose loss is then
    exceeded by up to about 1e-4 of it. A row that still moves after 500 solves gives an
    ``AccuracyWarning``.
    Cost: some ten to thirty times ``N·k²`` flops for N entries.
    """
    if rows.shape[1] != len(V):
        raise ProblemError(
            f"X has {rows.shape[1]} columns, the model has {len(V)}; give the same columns"
        )
    dtype, k = V.dtype, V.shape[1]
    # In an orthonormal basis, so that rows with too few entries get the shortest solution.
    left, scales, turn = np.linalg.svd(V.astype(np.float64), full_matrices=False)
    keep = scales > np.finfo(dtype).eps * max(V.shape) * scales.max(initial=0.0)
    rank = int(np.count_nonzero(keep))
    out = np.zeros((rows.shape[0], rank), dtype)
    if rank:
        _reweighted(out, kernels.pad_factor(left[:, keep].astype(dtype)), rows, delta)
    back = (turn[keep] / scales[keep, None]).astype(dtype)
    return out @ back if k else np.zeros((rows.shape[0], 0), dtype)


def _reweighted(out: NDArray[Any], F: NDArray[Any], rows: Observations, delta: float) -> None:
    """Fill `out` with the coefficients of each row in the basis `F`."""
    dtype, k = out.dtype, out.shape[1]
    active = np.flatnonzero(rows.row_counts)
    indptr, indices = rows.indptr, rows.indices
    # Squares of gross errors must not overflow. Cut off, they pull as much: by the threshold.
    typical = float(np.median(np.abs(rows.values))) if rows.nnz else 0.0
    largest = max(float(np.finfo(dtype).max) ** 0.5, min(typical, 1e200) * 1e6)
    largest = min(largest, float(np.finfo(dtype).max) * 1e-6)
    values = np.clip(rows.values, -largest, largest).astype(dtype, copy=False)
    weights = None if rows.weights is None else rows.weights.astype(dtype, copy=False)
    indptr, indices, values, weights = _take(active, indptr, indices, values, weights)
    X = kernels.pad_factor(np.zeros((active.size, k), dtype))
    options = {"rank": k, "n_threads": None}
    kernels.solve_rows(indptr, indices, values, F, X, ridge=0.0, weights=weights, **options)
    errors = np.abs(kernels.residuals(indptr, indices, values, F, X, **options)[0])
    threshold = np.maximum.reduceat(errors, indptr[:-1]) if active.size else errors
    with np.errstate(divide="ignore"):  # a row that is fitted exactly is there already
        decay = np.minimum(_DECAY, (dtype.type(delta) / threshold) ** dtype.type(1 / _FALLS))
    settled, step = _SETTLED[dtype.itemsize], np.zeros(0)
    for _ in range(_SOLVES):
        if not active.size:
            return
        threshold = np.maximum(decay * threshold, dtype.type(delta))
        # The weights of a row are relative to its largest.
        entry_threshold = np.repeat(threshold, np.diff(indptr))
        least = np.repeat(np.minimum.reduceat(errors, indptr[:-1]), np.diff(indptr))
        w = np.maximum(entry_threshold, least) / np.maximum(entry_threshold, errors)
        before = X.copy()
        kernels.solve_rows(
            indptr, indices, values, F, X, ridge=0.0,
            weights=w if weights is None else w * weights, **options,
        )  # fmt: skip
        step = np.abs(X - before).max(axis=1)
        done = (threshold <= delta) & (step <= settled * np.abs(X).max(axis=1))
        out[active] = X[:, :k]
        if done.any():
            left = np.flatnonzero(~done)
            active, threshold, decay, step = (a[left] for a in (active, threshold, decay, step))
            indptr, indices, values, weights = _take(left, indptr, indices, values, weights)
            X = kernels.pad_factor(np.ascontiguousarray(X[left, :k]))
        errors = np.abs(kernels.residuals(indptr, indices, values, F, X, **options)[0])
    unsettled = step > _UNSETTLED * np.abs(X).max(axis=1)
    if unsettled.any():
        warnings.warn(
            f"{np.count_nonzero(unsettled)} row(s) still moved by more than {_UNSETTLED:g} of "
            f"their size after {_SOLVES} reweighted solves, the first is row "
            f"{active[unsettled][0]}: their coefficients are not accurate; look for entries that "
            "contradict each other there",
            AccuracyWarning,
            stacklevel=4,
        )


def _take(
    rows: NDArray[Any], indptr: NDArray[Any], *arrays: NDArray[Any] | None
) -> tuple[Any, ...]:
    """Return the compressed rows `rows` of arrays with one item an entry."""
    counts = np.diff(indptr)[rows]
    new = np.concatenate([[0], np.cumsum(counts)])
    entries = np.arange(new[-1]) + np.repeat(indptr[rows] - new[:-1], counts)
    return new, *(None if a is None else a[entries] for a in arrays)


def _implicit(
    problem: MatrixCompletion, model: LowRankMatrix, rows: Observations, X: NDArray[Any]
) -> dict[str, NDArray[Any]]:
    """Return what the indicator matrix adds to the normal equations of new rows."""
    seen, k, weight = problem.observations.to_scipy(), model.rank, problem.implicit_weight
    U = model.U.astype(np.float64)
    gram = U.T @ U + problem.implicit_ridge(len(U)) * np.eye(k)
    indicator = sp.csr_array((np.ones(seen.nnz), seen.indices, seen.indptr), shape=seen.shape)
    P = np.linalg.lstsq(gram, (indicator.T @ U).T)[0].T
    base = np.zeros((X.shape[1], X.shape[1]), X.dtype)
    base[:k, :k] = weight * (P.T @ P)
    new = sp.csr_array((np.ones(rows.nnz), rows.indices, rows.indptr), shape=rows.shape)
    rhs = np.zeros_like(X)
    rhs[:, :k] = weight * (new @ P)
    return {"base_gram": base, "base_rhs": rhs}


def fold_in_samples(
    problem: MatrixCompletion,
    model: LowRankSamples,
    rows: Observations | int,
    n_draws: int = _DRAWS,
) -> LowRankSamples:
    """Give new rows their conditional mean in several draws of a sampler.

    Parameters
    ----------
    problem : MatrixCompletion
        The problem that was sampled.
    model : LowRankSamples
        The draws.
    rows : Observations or int
        Observed entries of the new rows, or a number of rows without any.
    n_draws : int, default=20
        Draws used, evenly spaced among all; the last draw is always among them.

    Returns
    -------
    LowRankSamples
        The new rows with the columns of the draws used; its predictions are their average.

    Notes
    -----
    In each draw the noise precision is the draw's, and the normal prior of a row has the mean and
    the variance of the draw's row factors (and row biases), column by column; the ridge of the
    problem plays no part. Rows without observations get the mean of the prior. The deviations of
    the predictions leave out what is unknown about the new rows given a draw.
    Cost: ``n_draws·N·k²`` flops for N entries.
    """
    empty = not isinstance(rows, Observations)
    m = rows if empty else rows.shape[0]
    if not empty and rows.shape[1] != model.shape[1]:
        raise ProblemError(
            f"X has {rows.shape[1]} columns, the model has {model.shape[1]}; give the same columns"
        )
    dtype, k, bias = model.dtype, model.rank, model.col_bias is not None
    last = len(model) - 1
    used = last - np.unique(np.linspace(0, last, min(n_draws, len(model))).astype(int))[::-1]
    new = np.empty((len(used), m, k + bias), dtype)
    for position, s in enumerate(used):
        own = model.U[s] if not bias else np.column_stack([model.U[s], model.row_bias[s]])
        mean = own.mean(axis=0, dtype=np.float64)
        variance = own.var(axis=0, dtype=np.float64)
        if empty:
            new[position] = mean
            continue
        F = kernels.pad_factor(model.V[s], model.col_bias[s] if bias else None)
        X = kernels.pad_factor(np.zeros((m, k), dtype), np.zeros(m, dtype) if bias else None)
        # A draw whose random part is zero is the conditional mean.
        kernels.sample_rows(
            rows.indptr,
            rows.indices,
            rows.values.astype(dtype) - dtype.type(model.offset),
            F,
            X,
            rank=k,
            bias=bias,
            alpha=float(model.alpha[s]),
            precision=1.0 / np.maximum(variance, np.finfo(np.float32).tiny),
            mean=mean,
            normals=np.zeros((m, k + bias), dtype),
            weights=None if rows.weights is None else rows.weights.astype(dtype),
            n_threads=None,
        )
        new[position] = X[:, : k + bias]
    biases = (new[:, :, k], model.col_bias[used]) if bias else (None, None)
    return LowRankSamples(new[:, :, :k], model.V[used], model.alpha[used], model.offset, *biases)


def best_columns(
    model: LowRankMatrix,
    rows: NDArray[np.integer[Any]],
    n: int,
    seen: Observations | None = None,
) -> tuple[NDArray[np.int64], NDArray[Any]]:
    """Return the columns with the largest predicted entries, row by row.

    Parameters
    ----------
    model : LowRankMatrix
        The matrix.
    rows : ndarray of int, shape (r,)
        Rows to rank.
    n : int
        Columns a row.
    seen : Observations or None, default=None
        Entries that must not be recommended.

    Returns
    -------
    columns : ndarray of int64, shape (r, n)
        Best first; -1 where a row has fewer than `n` columns that were not seen.
    scores : ndarray of shape (r, n)
        Predictions; NaN where the column is -1.

    Notes
    -----
    Cost: ``2·r·n_cols·k`` flops; at most 32 MB of scores at once.
    """
    n_cols = model.shape[1]
    taken = min(n, n_cols)
    columns = np.full((len(rows), n), -1, dtype=np.int64)
    scores = np.full((len(rows), n), np.nan, dtype=model.dtype)
    step = max(1, _BLOCK // max(n_cols, 1))
    for start in range(0, len(rows), step):
        block = rows[start : start + step]
        values = model.U[block] @ model.V.T
        values += model.dtype.type(model.offset)
        if model.row_bias is not None:
            values += model.row_bias[block, None]
        if model.col_bias is not None:
            values += model.col_bias
        if seen is not None:
            for position, row in enumerate(block):
                values[position, seen.indices[seen.indptr[row] : seen.indptr[row + 1]]] = -np.inf
        top, index = topk(values, taken)
        usable = top > -np.inf
        part = slice(start, start + len(block))
        columns[part, :taken] = np.where(usable, index, -1)
        scores[part, :taken] = np.where(usable, top, np.nan)
    return columns, scores
