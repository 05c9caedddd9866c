"""Stochastic gradient descent in array-API code: the meaning of :mod:`.kernels_sgd`, and slow.

A block is a triple of sequences ``(i, j, t)``: rows of ``P``, rows of ``Q``, position of the entry
in ``values``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from array_api_compat import array_namespace

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["pull", "sgd_blocks", "sum_gradient"]


def pull(error: Any, weight: Any, slope: float, limit: float) -> Any:
    """Weight times half the negative derivative of the loss at a residual."""
    xp = array_namespace(error)
    return weight * xp.minimum(xp.maximum(slope * error, -limit), limit)


def sgd_blocks(
    P: Any, Q: Any, A: Any, B: Any, blocks: Iterable[tuple[Sequence, Sequence, Sequence]],
    values: Any, weights: Any, ridge_p: Any, ridge_q: Any, move_p: Any, move_q: Any,
    floor_p: Any, floor_q: Any, slope: float, limit: float, step: float, rank: int,
) -> None:  # fmt: skip
    """Update ``P`` and ``Q`` in place, entry by entry.

    Parameters
    ----------
    P, Q : arrays of shape (rows, width), (cols, width)
        The factors, biases included.
    A, B : arrays of shape (rows,), (cols,), or None
        AdaGrad scalars, also updated.
    blocks : iterable of triples of sequences
        The entries in order.
    values, weights : arrays
        All entries.
    ridge_p, ridge_q : arrays like ``P`` and ``Q``
        Ridge of one update, for every element.
    move_p, move_q : arrays of shape (width,)
        1 where the data move a column, 0 where it is constant.
    floor_p, floor_q : arrays of shape (width,)
        Lower bounds.
    slope, limit : float
        The loss, see `ResidualClip`.
    step : float
        Size of a step; with AdaGrad divided by the root of the row's scalar.
    rank : int
        Number of factor columns.
    """
    xp = array_namespace(P)
    for rows, cols, positions in blocks:
        norms_p, norms_q = xp.sum(P * P, axis=1), xp.sum(Q * Q, axis=1)
        for i, j, t in zip(rows, cols, positions, strict=True):
            p, q = P[i, :], Q[j, :]
            g = pull(values[t] - xp.sum(p * q), weights[t], slope, limit)
            step_p = step if A is None else step / xp.sqrt(A[i])
            step_q = step if B is None else step / xp.sqrt(B[j])
            new_p = (1 - step_p * ridge_p[i, :]) * p + step_p * g * (move_p * q)
            new_q = (1 - step_q * ridge_q[j, :]) * q + step_q * g * (move_q * p)
            P[i, :], Q[j, :] = xp.maximum(new_p, floor_p), xp.maximum(new_q, floor_q)
            if A is not None:
                A[i] += g * g * norms_q[j] / rank
                B[j] += g * g * norms_p[i] / rank


def sum_gradient(
    P: Any, Q: Any, rows: Any, cols: Any, values: Any, weights: Any, slope: float, limit: float
) -> tuple[Any, Any, Any]:
    """Return ``Σ_j w g Q_j`` for every row, ``Σ_i w g P_i`` for every column, and the loss.

    Parameters
    ----------
    P, Q : arrays of shape (rows, width), (cols, width)
        The factors.
    rows, cols : integer arrays of shape (N,)
        Positions of the entries.
    values, weights : arrays of shape (N,)
        The entries.
    slope, limit : float
        The loss, see `ResidualClip`.
    """
    xp = array_namespace(P)
    error = values - xp.sum(P[rows, :] * Q[cols, :], axis=1)
    g = pull(error, weights, slope, limit)[:, None]
    one_row = xp.astype(rows[None, :] == xp.arange(P.shape[0])[:, None], P.dtype)
    one_col = xp.astype(cols[None, :] == xp.arange(Q.shape[0])[:, None], P.dtype)
    size = xp.abs(error)
    inner = slope * size * size
    outer = limit * (2 * size - limit / slope) if limit < float("inf") else inner
    loss = xp.sum(weights * xp.where(slope * size <= limit, inner, outer))
    return one_row @ (g * Q[cols, :]), one_col @ (g * P[rows, :]), loss
