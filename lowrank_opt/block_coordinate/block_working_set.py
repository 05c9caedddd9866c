"""Third engine of :class:`SparseGLMSolver`: groups, several outputs, boxes, MCP and SCAD.

An outer iteration takes the derivatives of all features, grades the blocks, and minimises a
quadratic model of the smooth part (for the squared loss: itself) plus the penalty over a working
set of blocks.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lowrank_opt.block_coordinate import kernels_block_working_set as kernels
from lowrank_opt.block_coordinate.block_models import (
    Goal,
    curve,
    make_model,
    solve_model,
)
from lowrank_opt.block_coordinate.block_view import BlockView
from lowrank_opt.block_coordinate.losses import Huber, Squared
from lowrank_opt.block_coordinate.sparse_state import SparseState, check_start

__all__ = ["BlockState", "check", "init", "point", "step"]

# Blocks with t |c| below this part of their limit are not in the working set.
_NEAR = 0.6
# Outer iterations after which the predictors are computed afresh.
_REFRESH = 50
# What an iteration leaves of the residual if it was of little use; what the accuracy of models is
# multiplied with then, and its least.
_USEFUL, _TIGHTER, _TIGHTEST = 0.9, 0.2, 1e-4


@dataclass
class BlockState(SparseState):
    """State of the engine.

    Parameters
    ----------
    w, b : ndarray of shape (p, k), (k,)
        Coefficients and intercepts.
    z, c : ndarray of shape (k, n), (p, k)
        Predictors, and correlations of the features with the slopes of the losses there.
    alive : ndarray of shape (n_blocks,), bool
        Blocks that are not proved to be 0.
    margin : ndarray of shape (n_blocks,)
        Of those that are: what their proof had to spare.
    objective, gap, scale : float
        At the current point; the multiple of the slopes that the gap is for.
    violation : float
        Largest distance to the subdifferential.
    damping : float
        See ``make_model``.
    slackness : float
        Factor of the accuracy of models: less, while iterations hardly lower the residual.
    gram_features, gram : ndarray
        Products of columns that are known.
    """

    w: Any = None
    b: Any = None
    z: Any = None
    c: Any = None
    alive: Any = None
    margin: Any = None
    objective: float = np.inf
    gap: float = np.inf
    scale: float = 1.0
    violation: float = np.inf
    damping: float = 1.0
    slackness: float = 1.0
    gram_features: Any = field(default_factory=lambda: np.empty(0, np.int64))
    gram: Any = field(default_factory=lambda: np.empty((0, 0)))


def check(solver: Any, problem: Any) -> None:
    """Raise if a problem is not for the engine: none is not.

    Parameters
    ----------
    solver : SparseGLMSolver
        The solver.
    problem : CompositeProblem
        The problem.
    """


def init(solver: Any, problem: Any, x0: Any = None, previous: Any = None) -> BlockState:
    """Return the first state.

    Parameters
    ----------
    solver : SparseGLMSolver
        The solver.
    problem : CompositeProblem
        The problem.
    x0 : array-like or None, default=None
        Warm start.
    previous : BlockState or None, default=None
        Last state of the same data at another penalty; used up.
    """
    other = previous.cache if previous is not None else None
    view = BlockView(problem, other)
    state = BlockState(cache=view, damping=1.0 if isinstance(problem.smooth.loss, Huber) else 0.0)
    if previous is not None:
        state.w, state.b, state.z = previous.w, previous.b, previous.z
        state.gram, state.gram_features = previous.gram, previous.gram_features
        state.damping = previous.damping
        before = state.w.copy()
    else:
        state.w = np.zeros((view.p, view.k))
        state.b = problem.smooth.null_intercept.copy()
        if x0 is not None:
            x = problem.flat(x0)
            state.w[...] = x[: state.w.size].reshape(state.w.shape)
            if problem.smooth.fit_intercept:
                state.b = x[state.w.size :].copy()
    if not problem.smooth.fit_intercept:
        state.b = np.zeros(view.k)
    _project(view, state.w)
    if previous is None or not np.array_equal(before, state.w):
        state.z = view.predictors(state.w, state.b)
    check_start(view.loss(state.z), x0)
    state.alive = ~view.dead
    state.margin = np.full(view.n_blocks, np.inf)
    _evaluate(solver, view, state)
    return state


def _project(view: BlockView, w: np.ndarray) -> None:
    """Make coefficients feasible, in place."""
    rule = view.rule
    if rule.kind == kernels.BOX:
        np.clip(w, rule.low, rule.high, out=w)
    if rule.positive:
        np.maximum(w, 0.0, out=w)
    if rule.limits.size > 1 and rule.kind != kernels.GROUP:
        w[np.isinf(rule.limits).reshape(w.shape)] = 0.0
    w[view.dead[view.labels]] = 0.0


def _evaluate(solver: Any, view: BlockView, state: BlockState) -> None:
    """Best intercepts, slopes, correlations, gap and residual at the current predictors."""
    state.b = state.b + view.best_intercept(state.z)
    V = view.slopes(state.z)
    state.c = view.correlations(V, state.alive)
    state.count(passes=1)
    state.objective = view.loss(state.z) + view.rest(state.w)
    blocks = np.flatnonzero(state.alive)
    _grade(view, state, blocks)
    balance = float(np.abs(V.sum(axis=1)).max()) if view.smooth.fit_intercept else 0.0
    state.violation = max(float(view.distance[blocks].max(initial=0.0)), balance)
    if not view.gapped:
        state.residual = state.violation / view.problem.null_gradient
        return
    state.gap, state.scale = view.gap(state.objective, state.z, V, state.w, state.c, blocks)
    radius = np.sqrt(2.0 * view.beta * max(state.gap, 0.0))
    if state.gap <= solver.tol * view.problem.scale:
        # The bound is of the problem without the screened blocks: is it one of the whole problem?
        doubtful = ~state.alive & ~view.dead & (state.margin < radius)
        if doubtful.any():
            state.alive |= doubtful
            state.margin[doubtful] = np.inf
            state.c = view.correlations(V, state.alive)
            blocks = np.flatnonzero(state.alive)
            state.gap, state.scale = view.gap(state.objective, state.z, V, state.w, state.c, blocks)
    state.residual = max(state.gap, 0.0) / view.problem.scale
    if solver.screening == "gap_safe" and view.rule.kind in (kernels.ENTRY, kernels.GROUP):
        _screen(view, state, blocks, radius)


def _grade(view: BlockView, state: BlockState, blocks: np.ndarray) -> None:
    view.slack, view.distance = np.zeros(view.n_blocks), np.zeros(view.n_blocks)
    view.support, view.graded = np.zeros(view.n_blocks, bool), state.nit
    kernels.grade_blocks(
        view.rule, blocks, view.order, view.ptr, state.w, state.c, view.mu, 1.0, view.slack,
        view.distance, view.support,
    )  # fmt: skip


def _screen(view: BlockView, state: BlockState, blocks: np.ndarray, radius: float) -> None:
    """Discard blocks whose limit no dual point within `radius` reaches."""
    if not np.isfinite(radius) or state.scale <= 0:
        return
    t = state.scale
    limits = view.rule.limits
    if limits.size > 1 and view.rule.kind == kernels.ENTRY:
        limits = limits.reshape(view.n_blocks, view.k).min(axis=1)
    sizes = limits - view.slack if limits.size == 1 else limits[: view.n_blocks] - view.slack
    if view.rule.kind == kernels.ENTRY and view.rule.limits.size > 1 and view.k > 1:
        u = np.maximum(-state.c, 0.0) if view.rule.positive else np.abs(state.c)
        limits = view.rule.limits.reshape(u.shape)
        spare = np.min(limits - t * u, axis=1)
    else:
        spare = limits - t * np.where(np.isfinite(sizes), sizes, 0.0)
    margin = np.broadcast_to(spare, view.norms.shape) / view.norms - radius
    out = state.alive & (margin > 0) & ~view.support
    out[view.used(state.w)[1]] = False
    state.alive &= ~out
    state.margin[out] = margin[out]


def _choose(solver: Any, view: BlockView, state: BlockState) -> np.ndarray:
    """Return the blocks of the working set, in their order."""
    blocks = np.flatnonzero(state.alive)
    if view.graded != state.nit:  # a state that was stored
        _grade(view, state, blocks)
    if not solver.working_set:
        return blocks
    support, far = view.support[blocks], view.distance[blocks] > 0
    if view.rule.kind == kernels.BOX:
        wanted = support | far
        key = -view.distance[blocks[wanted]]
    else:
        limits = view.rule.limits
        slack = view.slack[blocks]
        reference = limits[blocks] if limits.size == view.n_blocks else limits.min()
        wanted = (slack <= (1.0 - _NEAR) * reference) | support | far
        key = slack[wanted] / view.norms[blocks[wanted]]
    candidates, used = blocks[wanted], support[wanted]
    least = max(100, view.n_blocks // 20) if view.sparse else 100
    size = max(least // max(1, min(10, view.p // view.n_blocks)), 2 * int(used.sum()))
    if candidates.size > size:
        key[used] = -np.inf
        candidates = candidates[np.argpartition(key, size - 1)[:size]]
    return np.sort(candidates)


def _goal(solver: Any, view: BlockView, state: BlockState) -> Goal:
    if view.gapped:
        goal = max(0.1 * state.slackness * state.gap, 0.3 * solver.tol * view.problem.scale)
        size = float(np.abs(state.w).sum())
        small = goal / size if size > 0 else 0.1 * state.violation
        return Goal(small, 0.01 * goal)
    least = 0.3 * solver.tol * view.problem.null_gradient
    small = max(0.01 * state.slackness * state.violation, least)
    return Goal(small, 0.0)


def step(solver: Any, problem: Any, state: BlockState) -> BlockState:
    """Do one outer iteration.

    Parameters
    ----------
    solver : SparseGLMSolver
        The solver.
    problem : CompositeProblem
        The problem.
    state : BlockState
        Updated.
    """
    view = state.cache
    if view is None:
        view = state.cache = BlockView(problem)
    blocks = _choose(solver, view, state)
    state.nit += 1
    if blocks.size:
        _descend(solver, view, state, blocks)
    if state.nit % _REFRESH == 0:
        state.z = view.predictors(state.w, state.b)
    before = state.residual
    _evaluate(solver, view, state)
    slow = state.residual > _USEFUL * before
    state.slackness = max(_TIGHTER * state.slackness, _TIGHTEST) if slow else 1.0
    return state


def _descend(solver: Any, view: BlockView, state: BlockState, blocks: np.ndarray) -> None:
    slopes = view.slopes(state.z)
    model = make_model(view, state.z, slopes.copy(), blocks, state.damping)
    w = state.w.copy()
    solve_model(solver, view, state, model, w, blocks, _goal(solver, view, state))
    if isinstance(view.smooth.loss, Squared):
        if model.h.size == 0:
            state.z = view.y + model.V
        else:
            state.z += _change(view, state.z, blocks, w - state.w, model.shift)
        state.w, state.b = w, state.b + model.shift
        return
    U = _change(view, state.z, blocks, w - state.w, model.shift)
    before = view.rest(state.w)
    slope = float(np.vdot(slopes, U)) + view.rest(w) - before
    if not view.convex:  # the penalty is not above its line: the model itself has to fall
        slope = min(slope, -0.5 * float(np.vdot(U, curve(model, U))))
    start = state.objective
    t = 1.0
    for _ in range(30):
        trial = w if t == 1.0 else state.w + t * (w - state.w)
        z = state.z + t * U
        after = view.loss(z) + view.rest(trial)
        if after <= start + 1e-4 * t * min(slope, 0.0) + 1e-15 * abs(start):
            state.w, state.z, state.b = trial, z, state.b + t * model.shift
            break
        t *= 0.5
    else:
        t = 0.0
    if isinstance(view.smooth.loss, Huber) or not view.convex:
        # Where the penalty bends more than the model there may be no descent along the step.
        full = state.damping / 10.0
        state.damping = (full if full > 1e-6 else 0.0) if t == 1.0 else (
            min(max(10.0 * state.damping, 1e-2), 1.0)
        )  # fmt: skip
    else:  # curvatures vanish far from the targets, where Newton steps are endless
        state.damping = 1.0 if t == 0.0 else 0.0


def _change(view: BlockView, z: np.ndarray, blocks: np.ndarray, D: np.ndarray, shift: Any) -> Any:
    """Change of the predictors for a change of the coefficients of some blocks."""
    features = view.features_of(blocks)[0]
    U = np.zeros_like(z) + shift[:, None]
    kernels.add_columns(view.design, features, np.ascontiguousarray(D[features]), U)
    return U


def point(problem: Any, state: BlockState) -> np.ndarray:
    """Return coefficients and intercepts in the shape of the problem.

    Parameters
    ----------
    problem : CompositeProblem
        The problem.
    state : BlockState
        The state.
    """
    flat = state.w.ravel()
    if problem.smooth.fit_intercept:
        flat = np.concatenate([flat, state.b])
    x: np.ndarray = problem.shaped(flat)
    return x
