"""Newton steps of a quadratic model with a penalty, on what is away from kinks and bounds.

In Gram form: `H` (m, m) has the products of columns, `q` (m, k) the gradient at the coefficients
`rows` (m, k), both with the ridge term; rows ``ptr[i]`` to ``ptr[i + 1]`` are block ``ids[i]``.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from lowrank_opt.block_coordinate import kernels_block_working_set as kernels

__all__ = ["LARGEST_COUPLED", "move_if_better", "newton_step", "solve_shifted"]

# Largest numbers of unknowns: of one factorisation, and of one that couples outputs.
_LARGEST, LARGEST_COUPLED = 2000, 700


def move_if_better(
    view: Any, H: Any, q: Any, rows: Any, ids: Any, ptr: Any, trial: Any
) -> bool:  # fmt: skip
    """Move to `trial` if the model and the penalty fall."""
    d = trial - rows
    change = H @ d
    rise = float(np.vdot(q, d)) + 0.5 * float(np.vdot(d, change))
    # The ridge term is in H and q.
    rise += kernels.penalty_of_blocks(view.rule, ids, ptr, trial)
    rise -= kernels.penalty_of_blocks(view.rule, ids, ptr, rows)
    if not rise < 0:
        return False
    q += change
    rows[...] = trial
    return True


def newton_step(
    view: Any, state: Any, H: Any, q: Any, rows: Any, ids: Any, ptr: Any
) -> bool | None:
    """One Newton step on what is away from kinks and bounds.

    ``True``: a full one was taken, ``False``: a shorter or a projected one, ``None``: none.
    """
    rule, k = view.rule, view.k
    if rule.kind == kernels.GROUP:
        parts = [_group_step(view, H, q, rows, ids, ptr)]
    else:
        parts = [_entry_step(view, H, q, rows, ids, c) for c in range(k)]
    if any(part is None for part in parts):
        return None
    d = parts[0] if rule.kind == kernels.GROUP else np.stack(parts, axis=1)
    state.count(newton=1)
    for t in (1.0, 0.5, 0.25, 0.1, 0.02):
        trial = rows + t * d
        flipped = np.zeros(trial.shape, bool)
        if rule.kind == kernels.BOX:
            clipped = np.clip(trial, rule.low, rule.high)
            flipped = clipped != trial
            trial = clipped
        elif rule.kind != kernels.GROUP or rule.positive:
            flipped = trial * rows < 0
            trial = np.where(flipped, 0.0, trial)
        if move_if_better(view, H, q, rows, ids, ptr, trial):
            return t == 1.0 and not flipped.any()
    return None


def solve_shifted(A: np.ndarray, r: np.ndarray) -> np.ndarray | None:
    """Solve with a positive semi-definite matrix plus a small multiple of the identity.

    Parameters
    ----------
    A, r : ndarray of shape (m, m), (m,)
        Matrix, and right-hand side.

    Returns
    -------
    ndarray of shape (m,), or None
        ``None`` where the matrix is far from positive semi-definite.
    """
    from scipy.linalg import lapack

    floor = 1e-13 * max(float(np.trace(A)) / len(A), 1e-300)
    A = np.asfortranarray(A)
    for _ in range(3):
        A[np.diag_indices(len(A))] += floor
        factor, info = lapack.dpotrf(A, lower=1, clean=0)
        if info == 0:
            x: np.ndarray = lapack.dpotrs(factor, r, lower=1)[0]
            return x if np.isfinite(x).all() else None
        floor *= 1e3
    return None


def _entry_step(view: Any, H: Any, q: Any, rows: Any, ids: Any, c: int) -> np.ndarray | None:
    rule, w = view.rule, rows[:, c]
    d = np.zeros(w.size)
    size = np.abs(w)
    bend = 0.0
    if rule.kind == kernels.BOX:
        free, slope = (w > rule.low) & (w < rule.high), np.zeros(w.size)
    else:
        limits = rule.limits[ids * view.k + c] if rule.limits.size > 1 else rule.limits[0]
        free = (size > 0) | (np.broadcast_to(limits, w.shape) == 0)
        slope = np.broadcast_to(limits, w.shape)
        if rule.kind == kernels.MINIMAX:
            inner = size < rule.gamma * slope
            slope = np.maximum(slope - size / rule.gamma, 0.0)
            bend = np.where(inner, -1.0 / rule.gamma, 0.0)
        elif rule.kind == kernels.SMOOTHLY:
            inner = (size > slope) & (size < rule.gamma * slope)
            falling = np.maximum(rule.gamma * slope - size, 0.0) / (rule.gamma - 1.0)
            slope = np.where(size <= slope, slope, falling)
            bend = np.where(inner, -1.0 / (rule.gamma - 1.0), 0.0)
        slope = slope * np.sign(w)
    at = np.flatnonzero(free)
    if at.size == 0:
        return d
    if at.size > _LARGEST:
        return None
    A = H[np.ix_(at, at)]
    if np.ndim(bend):
        A[np.diag_indices(at.size)] += bend[at]
    step = solve_shifted(A, -(q[at, c] + slope[at]))
    if step is None:
        return None
    d[at] = step
    return d


def _group_step(
    view: Any, H: Any, q: Any, rows: Any, ids: Any, ptr: Any
) -> np.ndarray | None:  # fmt: skip
    rule, k = view.rule, view.k
    sizes = np.diff(ptr)
    lengths = np.sqrt(np.add.reduceat((rows * rows).sum(axis=1), ptr[:-1]))
    limits = rule.limits[ids] if rule.limits.size > 1 else np.full(ids.size, rule.limits[0])
    active = (lengths > 0) | (limits == 0)
    ratio = np.where(lengths > 0, limits / np.where(lengths > 0, lengths, 1.0), 0.0)
    free = np.repeat(active, sizes)[:, None] & np.ones(k, bool)
    if rule.positive:
        free &= (rows > 0) | (np.repeat(limits == 0, sizes)[:, None])
    at = np.flatnonzero(free)
    if at.size == 0 or at.size > _LARGEST or (k > 1 and at.size > LARGEST_COUPLED):
        return None
    feature, output = at // k, at % k
    A = H[np.ix_(feature, feature)]
    if k > 1:
        A = A * (output[:, None] == output)
    block = np.repeat(np.arange(ids.size), sizes)[feature]
    w = rows.ravel()[at]
    A[np.diag_indices(at.size)] += ratio[block]
    unit = w / np.where(lengths > 0, lengths, 1.0)[block]
    # The entries of a block are neighbours.
    starts = np.flatnonzero(np.r_[True, block[1:] != block[:-1]])
    for first, last in zip(starts, np.r_[starts[1:], at.size], strict=True):
        r = ratio[block[first]]
        if r > 0:
            A[first:last, first:last] -= r * np.outer(unit[first:last], unit[first:last])
    step = solve_shifted(A, -(q.ravel()[at] + ratio[block] * w))
    if step is None:
        return None
    d = np.zeros(rows.size)
    d[at] = step
    return d.reshape(rows.shape)
