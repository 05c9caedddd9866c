"""Array-API twins of `kernels_observations`: slow, obvious, the reference in tests."""

from __future__ import annotations

from typing import Any

import array_api_compat

__all__ = ["half_gradient", "residuals", "row_ids", "transpose"]


def row_ids(indptr: Any) -> Any:
    """Row of each stored entry."""
    xp = array_api_compat.array_namespace(indptr)
    size = int(indptr[-1])
    entries = xp.arange(size, dtype=indptr.dtype, device=array_api_compat.device(indptr))
    return xp.searchsorted(indptr[1:], entries, side="right")


def transpose(indptr: Any, indices: Any, values: Any, n: int) -> tuple[Any, Any, Any]:
    """Compressed form by the other side: pointers (n + 1,), indices and values."""
    xp = array_api_compat.array_namespace(indptr, indices, values)
    order = xp.argsort(indices, stable=True)
    ends = xp.arange(n + 1, dtype=indices.dtype, device=array_api_compat.device(indices))
    pointers = xp.searchsorted(xp.take(indices, order), ends, side="left")
    return pointers, xp.take(row_ids(indptr), order), xp.take(values, order)


def residuals(
    indptr: Any,
    indices: Any,
    values: Any,
    own: Any,
    other: Any,
    own_bias: Any,
    other_bias: Any,
    offset: float,
) -> Any:
    """``value - offset - biases - u . v`` at every entry; biases may be ``None``."""
    xp = array_api_compat.array_namespace(values, own)
    i, j = row_ids(indptr), indices
    e = values - offset - xp.sum(xp.take(own, i, axis=0) * xp.take(other, j, axis=0), axis=1)
    if own_bias is not None:
        e = e - xp.take(own_bias, i)
    if other_bias is not None:
        e = e - xp.take(other_bias, j)
    return e


def half_gradient(
    indptr: Any,
    indices: Any,
    values: Any,
    weights: Any,
    own: Any,
    other: Any,
    own_bias: Any,
    other_bias: Any,
    offset: float,
    loss: int,
    scale: float,
) -> tuple[Any, Any, tuple[float, float, float]]:
    """Half the gradient of the loss in `own` and its bias, and the three sums."""
    xp = array_api_compat.array_namespace(values, own)
    e = residuals(indptr, indices, values, own, other, own_bias, other_bias, offset)
    w = xp.ones_like(e) if weights is None else weights
    size = xp.abs(e)
    value, slope = e * e, e
    if loss == 1:
        value = xp.where(size <= scale, value, scale * (2.0 * size - scale))
        slope = xp.clip(e, -scale, scale)
    elif loss == 2:
        value, slope = size, 0.5 * xp.sign(e)
    sums = (float(xp.sum(w * value)), float(xp.sum(w * e * e)), float(xp.sum(e * e)))
    slope = w * slope
    # One row of a dense incidence matrix per factor row: sums of the entries of that row.
    rows = xp.arange(own.shape[0], dtype=indptr.dtype, device=array_api_compat.device(own))
    member = xp.astype(rows[:, None] == row_ids(indptr)[None, :], e.dtype)
    G = -(member @ (slope[:, None] * xp.take(other, indices, axis=0)))
    return G, -(member @ slope), sums
