"""Engine for the squared loss with one output, with L1, elastic-net and sign terms."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from lowrank_opt.block_coordinate import kernels_squared as kernels
from lowrank_opt.block_coordinate.squared_design import Design, Free
from lowrank_opt.block_coordinate.squared_inner import (
    CALM,
    CALM_PATH,
    NEAR,
    ROUGH,
    Cache,
    Form,
    Inner,
    SquaredState,
    relative_gap,
)
from lowrank_opt.block_coordinate.squared_newton import Gram

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["SquaredState", "check", "init", "point", "step"]

# Limits fall from the largest by at most this factor from one stage to the next, unless there are
# this many times more samples than features.
_STAGE, _TALL = 0.1, 2.0
# Least size of working sets, for sparse designs as a part of the features; as a multiple of the
# support.
_LEAST, _PART, _TIMES = 200, 20, 2
# Below this tolerance products are kept in float64 and residuals are computed anew before passes.
_EXACT, _REFRESH = 1e-7, 1e-9
_EPS = float(np.finfo(np.float64).eps)


def check(solver: Any, problem: Any) -> None:
    """Raise if the method is not for the problem: never, it is for all that it is given."""


def _cache(solver: Any, problem: Any, state: SquaredState, old: Cache | None) -> Cache:
    """Return what is made of problem and state; `old` may be that of another penalty."""
    design = Design(problem.smooth) if old is None else old.design
    lam, weights, mu, positive = problem.l1_form()
    weights = np.empty(0) if weights is None else np.asarray(weights, np.float64)
    form = Form(float(lam), weights, float(mu), bool(positive))
    gap = problem.measure == "gap"
    free = None
    if weights.size and lam > 0 and gap and not weights.all():
        which = np.flatnonzero((weights == 0) & (design.squares > 0))
        free = Free(design, which, form.mu) if which.size else None
    gram = None
    if solver.gram != "never":
        dtype = np.dtype(np.float64 if solver.tol < _EXACT else np.float32)
        gram = None if old is None else old.gram
        if gram is None or gram.dtype != dtype:
            same = state.products is not None and state.products.dtype == dtype
            columns = state.columns if same else np.empty(0, np.int64)
            gram = Gram(design, dtype, columns, state.products if same else None)
    unit = design.scale if gap else float(problem.null_gradient)
    return Cache(design, form, gap, unit, free, gram)


def init(
    solver: Any, problem: Any, x0: Any = None, previous: SquaredState | None = None
) -> SquaredState:
    """Return the first state, and its residual.

    Parameters
    ----------
    solver : SparseGLMSolver
        Parameters.
    problem : CompositeProblem
        The problem.
    x0 : array-like or None, default=None
        Warm start; its intercept is replaced by the best one.
    previous : SquaredState or None, default=None
        State of the same data with another penalty; it is used up.

    Returns
    -------
    SquaredState
        At the warm start, the previous point, or 0.
    """
    state, old = SquaredState(), None
    if previous is not None:
        state.products, state.columns, state.slow = (
            previous.products, previous.columns, previous.slow,
        )  # fmt: skip
        state.calm = CALM_PATH
        if previous.cache is not None and previous.cache.design.smooth is problem.smooth:
            old = previous.cache
    state.cache = _cache(solver, problem, state, old)
    design, form = state.cache.design, state.cache.form
    allowed = design.squares > 0
    if form.weights.size:
        allowed &= np.isfinite(form.weights)
    state.active = np.flatnonzero(allowed)
    state.lam, state.mu = form.lam, form.mu
    state.count(passes=0, epochs=0)
    if x0 is not None:
        state.w = problem.smooth.flat(x0)[: design.p].copy()
    elif previous is not None:
        state.w, state.u = previous.w, previous.u
        if previous.mu == form.mu and previous.active.size == state.active.size:
            state.c = previous.c
    else:
        state.w, state.u = np.zeros(design.p), design.u.copy()
        state.c = design.c.copy()
    _enter(state, allowed)
    if previous is None and x0 is None and not form.weights.size:
        # Where the first coefficient appears: an estimator asks for it afterwards.
        problem.smooth.__dict__.setdefault("null_products", state.c.copy())
    state.stage = form.lam
    if previous is not None and previous.lam > form.lam > 0:
        state.part = max(NEAR, 2.0 - previous.lam / form.lam)
    elif previous is None and x0 is None and form.lam > 0 and design.n < _TALL * design.p:
        top = kernels.measure(
            state.c, state.w, form.lam, form.weights, form.mu, form.positive,
            state.active, state.active.size,
        )[2]  # fmt: skip
        state.stage = max(form.lam * top, form.lam)
        _next_stage(state)
    _grade(state)
    return state


def _enter(state: SquaredState, allowed: NDArray[Any]) -> None:
    """Make the start feasible and its residual and products right."""
    design, form, _, _, free, _ = state.cache
    w = state.w
    outside = bool(w[~allowed].any()) or (form.positive and float(w.min()) < 0.0)
    if outside:
        w[~allowed] = 0.0
        if form.positive:
            np.maximum(w, 0.0, out=w)
    if state.u is None or outside:
        state.u, state.c = design.residual(w), None
    if free is not None:
        free.solve(w, state.u)
        state.c = None
    if state.c is None:
        state.c = np.zeros(design.p)
        _pass(state)


def point(problem: Any, state: SquaredState) -> Any:
    """Return coefficients, and the best intercept.

    Parameters
    ----------
    problem : CompositeProblem
        The problem.
    state : SquaredState
        Any state.

    Returns
    -------
    ndarray
        Of the problem's shape and type.
    """
    if not problem.smooth.fit_intercept:
        return np.array(state.w, problem.dtype)
    design = Design(problem.smooth) if state.cache is None else state.cache.design
    return np.append(state.w, design.intercept(state.w)).astype(problem.dtype)


def step(solver: Any, problem: Any, state: SquaredState) -> SquaredState:
    """Do one iteration: choose coefficients, solve for them, look at all.

    Parameters
    ----------
    solver : SparseGLMSolver
        Parameters.
    problem : CompositeProblem
        The problem.
    state : SquaredState
        Changed in place.

    Returns
    -------
    SquaredState
        The same object.
    """
    if state.cache is None:
        state.cache = _cache(solver, problem, state, None)
    design, form, _, _, free, gram = state.cache
    plain = form.lam == 0.0 or (form.weights.size > 0 and not form.weights[state.active].any())
    if plain and not form.positive:
        _solve_plain(state)
    else:
        W = _working_set(solver, state)
        if W.size:
            Inner(solver, state, W).run()
        state.part = NEAR
        if solver.tol < _REFRESH:
            state.u = design.residual(state.w)
        else:
            design.balance(state.u)
        if free is not None:
            free.solve(state.w, state.u)
    _pass(state)
    _grade(state)
    while state.stage > form.lam and state.gap <= ROUGH:
        _next_stage(state)
        _grade(state)
    if gram is not None:
        state.products, state.columns = gram.products, gram.columns
    state.nit += 1
    return state


def _solve_plain(state: SquaredState) -> None:
    """Go to the solution without L1 term."""
    from lowrank_opt.block_coordinate.squared_direct import correction

    design, form = state.cache.design, state.cache.form
    state.w[state.active] += correction(design, state.w, state.u, state.active, form.mu)
    state.u = design.residual(state.w)


def _next_stage(state: SquaredState) -> None:
    stage = _STAGE * state.stage
    state.stage = stage if stage > (1.0 + 1e-6) * state.lam else state.lam


def _pass(state: SquaredState) -> None:
    design, form = state.cache.design, state.cache.form
    design.multiply(state.u, state.active, state.active.size, state.w, form.mu, state.c)
    state.count(passes=1)


def _grade(state: SquaredState) -> None:
    """Set the residual, and gap and dual factor of the stage."""
    state.gap, state.shift = relative_gap(state, state.active, state.stage)
    state.residual = state.gap
    if state.stage != state.lam:
        state.residual = relative_gap(state, state.active, state.lam)[0]


def _working_set(solver: Any, state: SquaredState) -> NDArray[Any]:
    """Discard coefficients that are 0 at the solution; return those that can matter."""
    design, form, is_gap, unit, _, _ = state.cache
    # On paths the first iteration is mostly the last, and the next penalty needs all columns.
    last = state.stage == state.lam and (state.nit > 0 or state.calm == CALM)
    radius = -1.0
    if last and is_gap and solver.screening != "none":
        radius = math.sqrt(2.0 * unit * (state.gap + 8.0 * _EPS))
    size = state.active.size
    W, priority = np.empty(size, np.int64), np.empty(size)
    part = state.part if solver.working_set else -1.0
    left, listed, support = kernels.select(
        state.c, state.w, design.norms(form.mu), state.stage, form.weights, form.positive,
        state.shift, radius, part, state.active, size, W, priority,
    )  # fmt: skip
    if left < size:
        state.active = state.active[:left].copy()
    W = W[:listed]
    if not solver.working_set:
        return W
    least = max(_LEAST, design.p // _PART) if design.sparse else _LEAST
    most = max(least, _TIMES * support)
    if listed > most:
        W = W[np.argpartition(priority[:listed], most - 1)[:most]]
    return W
