"""The public functions of this family in array-API code: vectors along the last axis."""

from __future__ import annotations

from typing import Any

from lowrank_opt.numerics._arrays import device, namespace

__all__ = ["k_support_norm", "prox_k_support", "sparse_simplex_projection"]

# Halvings of the bracket of a threshold, and Newton steps from its last middle.
_HALVINGS, _POLISH = 52, 4


def sparse_simplex_projection(V: Any, k: int, totals: Any) -> Any:
    """Project on the vectors of at most `k` nonzeros in the simplex of size `totals`.

    Parameters
    ----------
    V : array of shape (..., length)
        Vectors.
    k : int
        Cap.
    totals : array of shape (..., 1)
        Sums.

    Returns
    -------
    array of shape (..., length)
        Projections, of the dtype of `V`.
    """
    xp = namespace(V)
    y = _double(V, xp) - _double(xp.max(V, axis=-1, keepdims=True), xp)
    totals = _double(totals, xp)
    order = xp.argsort(-y, axis=-1, stable=True)
    kept = xp.argsort(order, axis=-1) < k
    u = xp.take_along_axis(y, order, axis=-1)[..., :k]
    u = xp.maximum(u, -totals * xp.ones_like(u))
    ranks = xp.astype(xp.arange(1, u.shape[-1] + 1, device=device(V)), xp.float64)
    trials = (xp.cumulative_sum(u, axis=-1) - totals) / ranks
    used = xp.sum(xp.astype(u > trials, xp.int64), axis=-1, keepdims=True)
    used = xp.where(used > 0, used, xp.ones_like(used))
    tau = xp.take_along_axis(trials, used - 1, axis=-1)
    out = xp.where(kept, xp.maximum(y - tau, xp.zeros_like(y)), xp.zeros_like(y))
    return xp.astype(out, V.dtype)


def k_support_norm(t: Any, k: int) -> Any:
    """Return the k-support norms of vectors.

    Parameters
    ----------
    t : array of shape (..., length)
        Vectors.
    k : int
        Cap.

    Returns
    -------
    array of shape (...)
        Norms, of the dtype of `t`.
    """
    xp = namespace(t)
    if t.shape[-1] == 0:
        return xp.zeros(t.shape[:-1], dtype=t.dtype, device=device(t))
    y = xp.abs(_double(t, xp))
    unit = xp.max(y, axis=-1, keepdims=True)
    y = -xp.sort(-y / xp.where(unit > 0, unit, xp.ones_like(unit)), axis=-1)
    k = min(k, y.shape[-1])
    tails = xp.flip(xp.cumulative_sum(xp.flip(y, axis=-1), axis=-1), axis=-1)[..., :k]
    places = xp.astype(xp.arange(k, 0, -1, device=device(t)), xp.float64)
    # the large entries count one by one while they exceed the mean of the rest over its places
    ends = xp.concat(
        [y[..., : k - 1] * places[: k - 1] <= tails[..., : k - 1], xp.ones_like(y[..., :1]) > 0],
        axis=-1,
    )
    head = xp.argmax(xp.astype(ends, xp.int64), axis=-1, keepdims=True)
    zero = xp.zeros_like(y[..., :1])
    squares = xp.concat([zero, xp.cumulative_sum(y[..., :k] ** 2, axis=-1)], axis=-1)
    tail = xp.take_along_axis(tails, head, axis=-1)
    value = xp.take_along_axis(squares, head, axis=-1) + tail**2 / _double(k - head, xp)
    return xp.astype((unit * xp.sqrt(value))[..., 0], t.dtype)


def prox_k_support(v: Any, rho: float, k: int, totals: Any = None) -> Any:
    """Return the prox of ``rho / 2`` times the squared k-support norm.

    Parameters
    ----------
    v : array of shape (..., length)
        Vectors.
    rho : float
        Weight, at least 0.
    k : int
        Cap.
    totals : array of shape (..., 1) or None, default=None
        Sums of nonnegative solutions; ``None``: unconstrained.

    Returns
    -------
    array of shape (..., length)
        Solutions, of the dtype of `v`.
    """
    xp = namespace(v)
    w = _double(v, xp)
    if totals is None:
        large, middle, q = _zones(xp.abs(w), rho, k, xp)
        out = large * xp.abs(w) / (1.0 + rho) + middle * (xp.abs(w) - q)
        return xp.astype(xp.sign(w) * out, v.dtype)
    totals = _double(totals, xp)
    w = w - xp.max(w, axis=-1, keepdims=True)
    low, high = xp.zeros_like(totals), (1.0 + rho) * totals
    tau = 0.5 * (low + high)
    for halving in range(_HALVINGS + _POLISH):
        large, middle, q = _zones(w + tau, rho, k, xp)
        entries = large * (w + tau) / (1.0 + rho) + middle * (w + tau - q)
        excess = xp.sum(entries, axis=-1, keepdims=True) - totals
        low, high = xp.where(excess <= 0, tau, low), xp.where(excess > 0, tau, high)
        tau = 0.5 * (low + high)
        if halving >= _HALVINGS:  # the sum is linear in tau on the piece of these zones
            h, l = (xp.sum(zone, axis=-1, keepdims=True) for zone in (large, middle))  # noqa: E741
            share = (k - h) / xp.where(l > 0, k - h + rho * l, xp.ones_like(l))
            share = xp.where(q > 0, share, xp.ones_like(share) / (1.0 + rho))
            slope = h / (1.0 + rho) + share * l
            inner = xp.sum((large / (1.0 + rho) + middle * share) * w, axis=-1, keepdims=True)
            trial = (totals - inner) / xp.where(slope > 0, slope, xp.ones_like(slope))
            tau = xp.where((trial >= low) & (trial <= high), trial, tau)
    large, middle, q = _zones(w + tau, rho, k, xp)
    out = xp.maximum(large * (w + tau) / (1.0 + rho) + middle * (w + tau - q), xp.zeros_like(w))
    found = xp.sum(out, axis=-1, keepdims=True)
    out = out * (totals / xp.where(found > 0, found, xp.ones_like(found)))
    return xp.astype(out, v.dtype)


def _zones(w: Any, rho: float, k: int, xp: Any) -> tuple[Any, Any, Any]:
    """Indicators of the large and the middle zone, and q, of the solution on ``t >= 0``."""
    one = xp.ones_like(w)
    positive = xp.where(w > 0, one, xp.zeros_like(w))
    few = xp.sum(positive, axis=-1, keepdims=True) <= k
    none = xp.zeros_like(w[..., :1])
    if rho == 0.0 or w.shape[-1] <= k:
        return positive, xp.zeros_like(w), none
    # The number of places taken at q = 1 / u is piecewise linear in u: its kinks in order.
    safe = xp.where(w > 0, w, one)
    far = xp.where(w > 0, one, xp.inf * one)
    kinks = xp.concat([far / safe, far * (1.0 + rho) / (rho * safe)], axis=-1)
    kinks = xp.sort(kinks, axis=-1)
    left, right = none, none + float(kinks.shape[-1] - 1)
    for _ in range(int(kinks.shape[-1]).bit_length() + 1):  # the last kink with at most k taken
        middle = xp.floor(0.5 * (left + right + 1.0))
        u = xp.take_along_axis(kinks, xp.astype(middle, xp.int64), axis=-1)
        u = xp.where(xp.isinf(u), none, u)
        taken = xp.sum(xp.clip(rho * (w * u - 1.0), 0.0, 1.0), axis=-1, keepdims=True)
        fits = (taken <= k) & (u > 0)
        left, right = xp.where(fits, middle, left), xp.where(fits, right, middle - 1.0)
        right = xp.maximum(left, right)
    place = xp.astype(left, xp.int64)
    last = kinks.shape[-1] - 1
    u = xp.take_along_axis(kinks, place, axis=-1)
    after = xp.take_along_axis(kinks, xp.clip(place + 1, 0, last), axis=-1)
    between = xp.where(few, one[..., :1], 0.5 * (u + after))
    large = xp.where(w * between >= (1.0 + rho) / rho, one, xp.zeros_like(w))
    middle = xp.where(w * between > 1.0, one, xp.zeros_like(w)) - large
    large, middle = xp.where(few, positive, large), xp.where(few, 0.0 * one, middle)
    h, l = (xp.sum(zone, axis=-1, keepdims=True) for zone in (large, middle))  # noqa: E741
    divisor = k - h + rho * l
    divisor = xp.where(divisor > 0, divisor, xp.ones_like(divisor))
    q = rho * xp.sum(middle * w, axis=-1, keepdims=True) / divisor
    return large, middle, xp.where(few, none, q)


def _double(x: Any, xp: Any) -> Any:
    return xp.astype(x, xp.float64)
