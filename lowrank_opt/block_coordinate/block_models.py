"""Quadratic models of a problem on a working set of blocks, and how they are solved."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lowrank_opt.block_coordinate import kernels_block_working_set as kernels
from lowrank_opt.block_coordinate.block_newton import (
    LARGEST_COUPLED,
    move_if_better,
    newton_step,
    solve_shifted,
)
from lowrank_opt.block_coordinate.losses import Squared

__all__ = ["Goal", "Model", "solve_model"]

# Largest number of columns in Gram form.
_GRAM = 3000
# Sweeps between two extrapolations: one more iterate than differences.
_ANDERSON = 5
# Turns between the working set and its support in Gram form, before all columns are looked at.
_TURNS = 4
# Turns after which a model that couples outputs gets a Newton step, and the fall of the decrease
# above which it is slow.
_COUPLED_TURNS, _SLOW = (5, 10, 20), 0.3
# Flops of its products that are worth reading one entry of the columns for one output.
_WORTH = 40.0
# Curvature of a number against that of its column, below which it says nothing of the units.
_VANISHED = 1e-12


@dataclass
class Goal:
    """When a model is solved well enough.

    `small` bounds the largest step times curvature, `value` the decrease still to be expected.
    """

    small: float
    value: float


@dataclass
class Model:
    """A quadratic model at a point; `V` and `shift` follow the steps of `w`."""

    h: np.ndarray
    P: np.ndarray
    V: np.ndarray
    a: np.ndarray
    total: float
    inverse: np.ndarray
    bounds: np.ndarray
    places: np.ndarray
    grams: np.ndarray
    shift: np.ndarray
    gram_features: Any = field(default_factory=lambda: np.empty(0, np.int64))
    gram: Any = field(default_factory=lambda: np.empty((0, 0)))


def make_model(view: Any, z: np.ndarray, V: np.ndarray, blocks: Any, damping: float) -> Model:
    """Return the model of the smooth part at predictors `z`, for steps of some blocks.

    Parameters
    ----------
    view : BlockView
        The problem.
    z, V : ndarray of shape (k, n)
        Predictors, and slopes there; `V` is used up.
    blocks : ndarray of int
        The blocks.
    damping : float
        Smallest curvature relative to that of a model above the smooth part everywhere.
    """
    h, P = view.curvature(z, damping)
    a, total, inverse = view.a, view.total, np.empty((0, 0))
    if P.size:
        a, total = np.zeros(0), 0.0
        if view.smooth.fit_intercept:
            inverse = view.inverse_of_intercepts(h, P)
    elif view.smooth.fit_intercept and not isinstance(view.smooth.loss, Squared):
        total = float(h.sum())
        sums = np.zeros((view.p, 1))
        kernels.column_dots(view.design, h[None], view.features_of(blocks)[0], sums)
        a = sums[:, 0]
    bounds = view.bounds(blocks, h, P, a, total)
    return Model(h, P, V, a, total, inverse, *bounds, np.zeros(view.k))


def penalty_at(view: Any, blocks: np.ndarray, ptr: np.ndarray, rows: np.ndarray) -> float:
    """Penalty and ridge term of the rows of some blocks."""
    ridge = 0.5 * view.mu * float(np.sum(rows * rows)) if view.mu else 0.0
    return ridge + kernels.penalty_of_blocks(view.rule, blocks, ptr, rows)


def curve(model: Model, U: np.ndarray) -> np.ndarray:
    """Change of the slopes of a model for a change `U` of the predictors."""
    if model.P.size:
        D = model.P * (U - np.sum(model.P * U, axis=0))
        return D * model.h if model.h.size else D
    return U * model.h if model.h.size else U


def move(view: Any, model: Model, w: np.ndarray, features: np.ndarray, rows: np.ndarray) -> None:
    """Set the rows of `w` of some features, and let the model follow."""
    D = rows - w[features]
    U = np.zeros_like(model.V)
    kernels.add_columns(view.design, features, D, U)
    if model.total > 0:
        shift = -(model.a[features] @ D) / model.total
        U += shift[:, None]
        model.shift += shift
    model.V += curve(model, U)
    w[features] = rows


def solve_model(
    solver: Any, view: Any, state: Any, model: Model, w: np.ndarray, blocks: np.ndarray, goal: Goal
) -> None:
    """Minimise the model and the penalty over some blocks, to a part of the gap.

    Parameters
    ----------
    solver : SparseGLMSolver
        Its options are used.
    view : BlockView
        The problem.
    state : BlockState
        Its counters and products of columns are used.
    model : Model
        Updated.
    w : ndarray of shape (p, k)
        Coefficients; updated.
    blocks : ndarray of int
        Working set.
    goal : Goal
        Where to stop.
    """
    features, ptr = view.features_of(blocks)
    form = solver.gram == "always" or (solver.gram == "auto" and not view.sparse)
    form = form and not model.P.size
    before = np.inf
    for turn in range(30):
        trail, previous, was = _sweeps(
            view, state, model, w, blocks, features, 2 if form else 5, goal.small
        )
        decrease, largest = previous
        if largest <= goal.small or decrease == 0.0:
            return
        if solver.acceleration == "anderson" and len(trail) == _ANDERSON:
            trail = np.vstack([was[None], trail])
            _extrapolate(view, model, w, blocks, features, ptr, trail)
        rate = min((decrease / before) ** (0.2 if turn else 1.0), 0.999) if decrease > 0 else 0.0
        if not form and turn and 0.5 * decrease * rate / (1.0 - rate) <= goal.value:
            return
        before = decrease
        if turn in _COUPLED_TURNS and rate > _SLOW and model.P.size and solver.newton_phase:
            entries = view.n * features.size
            if view.sparse:
                indptr = view.design.indptr
                entries = int((indptr[features + 1] - indptr[features]).sum())
            # No dearer than the sweeps so far.
            most = int((_WORTH * turn * view.k * entries / view.n) ** 0.5)
            took = _coupled_step(view, model, w, blocks, features, ptr, most)
            state.count(newton=int(took))
        if form or (turn >= 3 and rate > 0.7 and solver.gram == "auto" and not model.P.size):
            done = _in_gram_form(solver, view, state, model, w, blocks, goal)
            if done is not None and turn >= _TURNS:
                return
            form = done is not None


def _coupled_step(
    view: Any, model: Model, w: np.ndarray, blocks: np.ndarray, features: np.ndarray,
    ptr: np.ndarray, most: int,
) -> bool:  # fmt: skip
    """One Newton step, with the intercepts, on what is away from kinks; whether it was taken.

    Of `most` numbers at most.
    """
    rule, k = view.rule, view.k
    rows = w[features]
    if rule.kind == kernels.GROUP:
        limits = rule.limits[blocks] if rule.limits.size > 1 else rule.limits[0]
        sizes = np.sqrt(np.add.reduceat((rows * rows).sum(axis=1), ptr[:-1]))
        block = np.repeat(np.arange(blocks.size), np.diff(ptr))
        length = np.repeat(sizes, np.diff(ptr))[:, None]
        limit = np.broadcast_to(limits, sizes.shape)[block][:, None] + np.zeros(k)
        unit = rows / np.where(length > 0, length, 1.0)
        slope = np.where(length > 0, limit, 0.0) * unit
        free = (length > 0) | (limit == 0)
        if rule.positive:
            free &= rows > 0
    elif rule.kind == kernels.ENTRY:
        every = rule.limits.reshape(view.p, k) if rule.limits.size > 1 else rule.limits
        limit = every[features] if rule.limits.size > 1 else np.full(rows.shape, every[0])
        free = (rows != 0) | ((limit == 0) & (not rule.positive))
        slope = np.where(rows != 0, limit, 0.0) * np.sign(rows)
    else:
        return False
    at = np.flatnonzero(free)
    if at.size == 0 or at.size > min(most, LARGEST_COUPLED):
        return False
    row, output = at // k, at % k
    used, place = np.unique(row, return_inverse=True)
    columns = view.smooth.X[:, features[used]]
    columns = (columns.toarray() if view.sparse else columns)[:, place].astype(np.float64)
    if view.smooth.fit_intercept:
        columns = np.hstack([columns, np.ones((view.n, k))])
        output = np.concatenate([output, np.arange(k)])
    q = np.einsum("in,ni->n", columns, model.V[output])
    q[: at.size] += view.mu * rows.ravel()[at] + slope.ravel()[at]
    weighted = columns * model.P[output].T
    scaled = weighted * model.h[:, None] if model.h.size else weighted
    H = np.where(output[:, None] == output, columns.T @ scaled, 0.0) - weighted.T @ scaled
    part = H[: at.size, : at.size]
    part[np.diag_indices(at.size)] += view.mu
    if rule.kind == kernels.GROUP:
        bend = np.where(length > 0, limit / np.where(length > 0, length, 1.0), 0.0).ravel()[at]
        same = block[row][:, None] == block[row]
        part -= np.where(same, bend[:, None] * np.outer(unit.ravel()[at], unit.ravel()[at]), 0.0)
        part[np.diag_indices(at.size)] += bend
    # In units of the numbers; where the curvature vanishes, of the columns.
    least = _VANISHED * np.einsum("in,in->n", columns, columns)
    root = np.sqrt(np.maximum(H.diagonal(), np.where(least > 0, least, 1.0)))
    step = solve_shifted(H / np.outer(root, root), -q / root)
    if step is None:
        return False
    step = step / root
    D, shift = np.zeros(rows.size), np.zeros(k)
    D[at] = step[: at.size]
    if view.smooth.fit_intercept:
        shift = step[at.size :] - step[at.size :].mean()  # their sum does not matter
    before = penalty_at(view, blocks, ptr, rows)
    for t in (1.0, 0.5, 0.25, 0.1, 0.02):
        trial = rows + t * D.reshape(rows.shape)
        if rule.kind != kernels.GROUP or rule.positive:
            trial = np.where(trial * rows < 0, 0.0, trial)
        U = np.zeros_like(model.V) + t * shift[:, None]
        kernels.add_columns(view.design, features, trial - rows, U)
        change = curve(model, U)
        rise = float(np.vdot(U, model.V)) + 0.5 * float(np.vdot(U, change))
        if rise + penalty_at(view, blocks, ptr, trial) - before < 0:
            w[features] = trial
            model.V += change
            model.shift += t * shift
            return True
    return False


def _sweeps(
    view: Any, state: Any, model: Model, w: np.ndarray, blocks: np.ndarray, features: np.ndarray,
    sweeps: int, small: float,
) -> Any:  # fmt: skip
    trail = np.empty((sweeps if sweeps == _ANDERSON else 0, features.size * view.k))
    was = w[features].ravel()
    done, decrease, largest = kernels.sweep_blocks(
        view.design, blocks, view.order, view.ptr, w, model.V, model.h, model.P, model.a,
        model.total, shift := np.zeros(view.k), model.inverse, model.bounds, model.places,
        model.grams, view.rule, view.mu, sweeps, small, trail,
    )  # fmt: skip
    model.shift += shift
    state.count(epochs=done)
    return trail[:done], (decrease, largest), was


def _combine(trail: np.ndarray) -> np.ndarray | None:
    """Extrapolate iterates, the last row the newest, by Anderson's rule."""
    differences = np.diff(trail, axis=0)
    differences /= max(np.abs(differences).max(), 1e-300)
    G = differences @ differences.T
    size = float(np.trace(G))
    if not size > 0:
        return None
    G[np.diag_indices(len(G))] += 1e-12 * size
    try:
        c = np.linalg.solve(G, np.ones(len(G)))
    except np.linalg.LinAlgError:
        return None
    total = c.sum()
    if not np.isfinite(total) or total == 0.0:
        return None
    extrapolated: np.ndarray = (c / total) @ trail[1:]
    return extrapolated if np.isfinite(extrapolated).all() else None


def _feasible(rule: Any, rows: np.ndarray) -> np.ndarray:
    if rule.kind == kernels.BOX:
        return np.clip(rows, rule.low, rule.high)
    return np.maximum(rows, 0.0) if rule.positive else rows


def _extrapolate(
    view: Any, model: Model, w: np.ndarray, blocks: np.ndarray, features: np.ndarray,
    ptr: np.ndarray, trail: np.ndarray,
) -> None:  # fmt: skip
    found = _combine(trail)
    if found is None:
        return
    rows = _feasible(view.rule, found.reshape(features.size, view.k))
    D = rows - w[features]
    U = np.zeros_like(model.V)
    kernels.add_columns(view.design, features, D, U)
    if model.total > 0:
        shift = -(model.a[features] @ D) / model.total
        U += shift[:, None]
    else:
        shift = np.zeros(view.k)
    change = curve(model, U)
    rise = float(np.vdot(U, model.V)) + 0.5 * float(np.vdot(U, change))
    rise += penalty_at(view, blocks, ptr, rows) - penalty_at(view, blocks, ptr, w[features])
    if rise < 0:
        w[features] = rows
        model.V += change
        model.shift += shift


# -- Gram form -------------------------------------------------------------------------------------


def _in_gram_form(
    solver: Any, view: Any, state: Any, model: Model, w: np.ndarray, blocks: np.ndarray, goal: Goal
) -> bool | None:
    """Solve on the support; say whether it was solved, or ``None`` if the support is too large."""
    rule = view.rule
    if rule.kind == kernels.BOX:
        ids = blocks
    else:
        every, ptr = view.features_of(blocks)
        used = np.logical_or.reduceat((w[every] != 0).any(axis=1), ptr[:-1])
        ids = blocks[used]
    features, ptr = view.features_of(ids)
    m, k = features.size, view.k
    if m == 0:
        return True
    # Without "always": as long as a sweep over products is cheaper than one over columns.
    if m > min(_GRAM, _GRAM if solver.gram == "always" else view.n if k == 1 else view.n // 2):
        return None
    H = _products(view, state, model, features)
    H[np.diag_indices(m)] += view.mu
    rows = np.ascontiguousarray(w[features])
    slopes = np.zeros((view.p, k))
    kernels.column_dots(view.design, model.V, features, slopes)
    q = np.ascontiguousarray(slopes[features] + view.mu * rows)
    bounds = np.ascontiguousarray(model.bounds[ids, 0] + view.mu)
    solved, calm = False, 10
    for _ in range(10):
        trail = np.empty((_ANDERSON if solver.acceleration == "anderson" else 0, rows.size))
        sweeps, largest = kernels.gram_sweeps(
            H, q, rows, ids, ptr, bounds, rule, 100, calm, 4, goal.small, trail
        )
        state.count(gram_sweeps=sweeps)
        if largest <= goal.small:
            solved = True
            break
        stepped = None
        if solver.newton_phase:
            stepped = newton_step(view, state, H, q, rows, ids, ptr)
        if stepped is None and sweeps >= _ANDERSON and len(trail):
            found = _combine(trail)
            if found is not None:
                move_if_better(
                    view, H, q, rows, ids, ptr, _feasible(rule, found.reshape(rows.shape))
                )
    move(view, model, w, features, rows)
    return solved


def _products(view: Any, state: Any, model: Model, features: np.ndarray) -> np.ndarray:
    """``X' diag(h) X`` of some features, centred.

    Products are kept: for the squared loss, whose h is fixed, in the state, else in the model.
    """
    held = state if isinstance(view.smooth.loss, Squared) else model
    known = held.gram_features
    place = np.full(view.p, -1)
    place[known] = np.arange(known.size)
    missing = features[place[features] < 0]
    if missing.size:
        state.count(gram_columns=missing.size)
        if known.size + missing.size > _GRAM:
            known, missing = known[:0], features
            held.gram = np.empty((0, 0))
        old, new = known.size, known.size + missing.size
        gram = np.empty((new, new), order="F")
        gram[:old, :old] = held.gram
        gram[old:, old:] = _gram(view, model, missing, missing)
        if old:
            cross = _gram(view, model, known, missing)
            gram[:old, old:] = cross
            gram[old:, :old] = cross.T
        held.gram, held.gram_features = gram, np.concatenate([known, missing])
        place[held.gram_features] = np.arange(new)
    at = place[features]
    return np.asfortranarray(held.gram[np.ix_(at, at)])


def _gram(view: Any, model: Model, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    X = view.smooth.X
    A, B = X[:, left].astype(np.float64, copy=False), X[:, right].astype(np.float64, copy=False)
    if model.h.size:
        B = B.multiply(model.h[:, None]).tocsc() if view.sparse else B * model.h[:, None]
    out = (A.T @ B).toarray() if view.sparse else A.T @ B
    if model.total > 0:
        out -= np.outer(model.a[left], model.a[right] / model.total)
    return np.asfortranarray(out)
