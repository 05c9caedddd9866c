"""Engine for the squared loss with one output, with L1, elastic-net and sign terms."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from lowrank_opt.block_coordinate import kernels_squared as kernels
from lowrank_opt.block_coordinate.squared_design import Design, Free
from lowrank_opt.block_coordinate.squared_newton import Gram, newton
from lowrank_opt.core.state import State

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["SquaredState", "check", "init", "point", "step"]

# Limits fall from the largest by at most this factor from one stage to the next, unless there are
# this many times more samples than features; relative gap that ends a stage but the last.
_STAGE, _TALL, _ROUGH = 0.1, 2.0, 1e-2
# Part of its limit from which a coefficient is a candidate; least size of working sets, and for
# sparse designs as a part of the features; size as a multiple of the support.
_NEAR, _LEAST, _PART, _TIMES = 0.3, 100, 20, 2
# Dense rounds: sweeps over the working set, rounds, rounds while the support is not settled.
_SWEEPS, _ROUNDS, _MANY = 2, 2, 10
# Sweeps on products: at most, and without a change of sign before a Newton step (on paths).
_CAP, _CALM, _CALM_PATH = 200, 10, 3
# Residual descent: sweeps between two gaps, gaps at most; part of the gap and of the tolerance that
# end it; fall per check below which it is slow, from which check on; rounds on products then.
_CHECK, _CHECK_RIDGE, _CHECKS = 5, 10, 100
_ENOUGH, _ALLOWED = 0.1, 0.3
_SLOW, _SLOW_FROM, _SLOW_ROUNDS = 0.6, 3, 6
# Below this tolerance products are kept in float64 and residuals are computed anew before passes.
_EXACT, _REFRESH = 1e-7, 1e-9
_EPS = float(np.finfo(np.float64).eps)
_NO_HISTORY = np.empty((0, 0))


@dataclass
class SquaredState(State):
    """State of the engine.

    Parameters
    ----------
    w, u, c : ndarray
        Coefficients, weighted residual, products of the columns with it.
    active : ndarray of int
        Coefficients not discarded.
    lam, stage : float
        Weight of the L1 term, and of the present stage.
    part : float
        Part of its limit from which a coefficient is a candidate in the next iteration.
    calm : int
        Sweeps without a change of sign before a Newton step.
    gap, shift : float
        Of the present point and stage: residual, and factor of the dual point.
    products, columns : ndarray or None
        Products of columns, see ``Gram``.
    slow : bool
        Whether coordinate descent on residuals was found slow.
    """

    w: Any = None
    u: Any = None
    c: Any = None
    active: Any = None
    lam: float = 0.0
    stage: float = 0.0
    part: float = _NEAR
    calm: int = _CALM
    gap: float = math.inf
    shift: float = 1.0
    products: Any = None
    columns: Any = None
    slow: bool = False


class _Form(NamedTuple):
    lam: float
    weights: Any  # an empty array: ones
    mu: float
    positive: bool


class _Cache(NamedTuple):
    design: Design
    form: _Form
    gap: bool  # whether the residual is a gap
    unit: float  # of gaps or gradients
    free: Any
    gram: Any


def check(solver: Any, problem: Any) -> None:
    """Raise if the method is not for the problem; it is for all that it is given."""


def _cache(solver: Any, problem: Any, state: SquaredState, design: Design | None) -> _Cache:
    design = Design(problem.smooth) if design is None else design
    lam, weights, mu, positive = problem.l1_form()
    weights = np.empty(0) if weights is None else np.asarray(weights, np.float64)
    form = _Form(float(lam), weights, float(mu), bool(positive))
    gap = problem.measure == "gap"
    free = None
    if weights.size and not (weights > 0).all() and lam > 0 and gap:
        which = np.flatnonzero((weights == 0) & (design.squares > 0))
        free = Free(design, which, form.mu) if which.size else None
    gram = None
    if solver.gram != "never":
        exact = solver.tol < _EXACT
        columns = np.empty(0, np.int64) if state.columns is None else state.columns
        dtype = np.float64 if exact else np.float32
        products = state.products
        if products is not None and products.dtype != dtype:
            columns, products = np.empty(0, np.int64), None
        gram = Gram(design, dtype, columns, products)
    unit = design.scale if gap else float(problem.null_gradient)
    return _Cache(design, form, gap, unit, free, gram)


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
    state = SquaredState()
    design = None
    if previous is not None:
        state.w, state.u, state.c = previous.w, previous.u, previous.c
        state.products, state.columns = previous.products, previous.columns
        state.slow, state.calm = previous.slow, _CALM_PATH
        if previous.cache is not None and previous.cache.design.smooth is problem.smooth:
            design = previous.cache.design
    if design is not None and previous is not None and previous.cache.gram is not None:
        state.cache = _follow(solver, problem, previous)
    else:
        state.cache = _cache(solver, problem, state, design)
    design, form, _, _, free, _ = state.cache
    allowed = design.squares > 0
    if form.weights.size:
        allowed &= np.isfinite(form.weights)
    state.active = np.flatnonzero(allowed)
    state.lam = form.lam
    state.count(passes=0, epochs=0)
    if x0 is not None:
        state.w = problem.smooth.flat(x0)[: design.p].copy()
    if state.w is None:
        state.w, state.u = np.zeros(design.p), design.u.copy()
        state.c = None if design.c is None else design.c.copy()
    elif x0 is not None or not _agrees(state.w, form, allowed):
        state.w[~allowed] = 0.0
        if form.positive:
            np.maximum(state.w, 0.0, out=state.w)
        state.u, state.c = design.residual(state.w), None
    if free is not None:
        free.solve(state.w, state.u)
        state.c = None
    full = previous is None or previous.active.size == state.active.size
    if state.c is None or not full or form.mu != getattr(previous, "mu", form.mu):
        state.c = np.zeros(design.p) if state.c is None else state.c
        _pass(state)
    state.stage = form.lam
    if previous is not None and previous.lam > form.lam > 0:
        state.part = max(_NEAR, 2.0 - previous.lam / form.lam)
    elif x0 is None and form.lam > 0 and state.cache.gap and design.n < _TALL * design.p:
        top = kernels.measure(
            state.c, state.w, form.lam, form.weights, form.mu, form.positive,
            state.active, state.active.size,
        )[2]  # fmt: skip
        state.stage = max(form.lam * top, form.lam)
        _next_stage(state)
    _grade(state)
    return state


def _agrees(w: NDArray[Any], form: _Form, allowed: NDArray[Any]) -> bool:
    if form.weights.size and w[~allowed].any():
        return False
    return not form.positive or float(w.min()) >= 0.0


def _follow(solver: Any, problem: Any, previous: SquaredState) -> _Cache:
    """Return the cache of another penalty of the same data, products of columns kept."""
    old = previous.cache
    lam, weights, mu, positive = problem.l1_form()
    if weights is None and old.form.weights.size == 0 and lam > 0 and problem.measure == "gap":
        form = _Form(float(lam), old.form.weights, float(mu), bool(positive))
        return _Cache(old.design, form, True, old.design.scale, None, old.gram)
    fresh = _cache(solver, problem, SquaredState(), old.design)
    same = fresh.gram is not None and fresh.gram.dtype == old.gram.dtype
    return fresh._replace(gram=old.gram) if same else fresh


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


# -- iterations ------------------------------------------------------------------------------------


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
    W = _working_set(solver, state)
    if W.size:
        _Inner(solver, state, W).run()
    state.part = _NEAR
    if solver.tol < _REFRESH:
        state.u = design.residual(state.w)
    else:
        design.balance(state.u)
    if free is not None:
        free.solve(state.w, state.u)
    _pass(state)
    _grade(state)
    while state.stage > form.lam and state.gap <= _ROUGH:
        _next_stage(state)
        _grade(state)
    if gram is not None:
        state.products, state.columns = gram.products, gram.columns
    state.nit += 1
    return state


def _next_stage(state: SquaredState) -> None:
    state.stage = max(_STAGE * state.stage, state.lam)


def _pass(state: SquaredState) -> None:
    design, form = state.cache.design, state.cache.form
    design.multiply(state.u, state.active, state.active.size, state.w, form.mu, state.c)
    state.count(passes=1)


def _grade(state: SquaredState) -> None:
    """Set the residual, and gap and dual factor of the stage."""
    active = state.active
    state.gap, state.shift = _gap(state, active, state.stage)
    state.residual = state.gap
    if state.stage != state.lam:
        state.residual = _gap(state, active, state.lam)[0]


def _gap(state: SquaredState, active: NDArray[Any], lam: float) -> tuple[float, float]:
    """Relative gap of the problem of some coefficients, and the factor of its dual point.

    The dual point is a multiple t of the residual, and the gap a sum of terms of at least 0,
    ``(1 - t)^2 R^2 / 2 + sum(lam |w| - t w c)``.
    """
    _, form, is_gap, unit, _, _ = state.cache
    if not is_gap:
        return _violation(state, active) / unit, 1.0
    norm, inner, top, ridge = kernels.measure(
        state.c, state.w, lam, form.weights, form.mu, form.positive, active, active.size
    )
    square = 2.0 * state.cache.design.half_square(state.u)
    if form.mu > 0.0:
        square += form.mu * float(state.w @ state.w)
    t = 1.0 + inner / square if square > 0.0 else 1.0
    if t * top > 1.0:
        t = 1.0 / top
    t = max(t, 0.0)
    gap = 0.5 * (1.0 - t) ** 2 * square + max(norm - t * inner, 0.0)
    if form.mu > 0.0 and ridge < gap:
        gap, t = ridge, 1.0
    return gap / unit, t


def _violation(state: SquaredState, active: NDArray[Any]) -> float:
    c, w = state.c[active], state.w[active]
    if state.cache.form.positive:
        c = np.where(w > 0, np.abs(c), np.maximum(c - state.cache.form.lam, 0.0))
    return float(np.abs(c).max(initial=0.0))


def _working_set(solver: Any, state: SquaredState) -> NDArray[Any]:
    """Discard coefficients that are 0 at the solution; return those that can matter."""
    design, form, is_gap, unit, _, _ = state.cache
    last = state.stage == state.lam
    radius = -1.0
    if last and is_gap and solver.screening != "none":
        radius = math.sqrt(2.0 * unit * (state.gap + 8.0 * _EPS))
    size = state.active.size
    W, priority = np.empty(size, np.int64), np.empty(size)
    part = state.part if solver.working_set else -1.0
    left, listed, support = kernels.select(
        state.c, state.w, design.squares, state.stage, form.weights, form.mu, form.positive,
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


class _Inner:
    """The problem of the coefficients `W`."""

    def __init__(self, solver: Any, state: SquaredState, W: NDArray[Any]) -> None:
        self.solver, self.state, self.W = solver, state, W
        self.cache = state.cache
        self.lam = state.stage
        last = state.stage == state.lam
        self.goal = max(_ENOUGH * state.gap, _ALLOWED * (solver.tol if last else _ROUGH))
        weights = self.cache.form.weights
        self.unit_limits = weights if weights.size else None
        self.settled = True

    def run(self) -> None:
        """Solve it, roughly."""
        solver, design, form = self.solver, self.cache.design, self.cache.form
        products = solver.gram == "always" or (not design.sparse and form.mu == 0.0)
        products = products or (self.state.slow and not design.sparse)
        if solver.gram == "never":
            products = False
        if products and self.rounds(_ROUNDS, _MANY):
            return
        self.descend(solver.gram == "auto" and not products)

    def rounds(self, few: int, many: int) -> bool:
        """Alternate sweeps, products and Newton steps; whether the support had room."""
        done, k = False, 0
        while not done:
            self.sweep(_SWEEPS)
            found = self.support_step()
            if found is None:
                return False
            done, settled = found
            k += 1
            if k >= (few if settled else many):
                break
        return True

    def sweep(self, sweeps: int, history: Any = _NO_HISTORY) -> float:
        """Do coordinate descent on the working set."""
        state = self.state
        state.count(epochs=sweeps)
        return self.cache.design.sweep(
            state.u, state.w, self.W, self.cache.form, self.lam, sweeps, history
        )

    def support_step(self) -> tuple[bool, bool] | None:
        """Solve for the support; whether that is done, and whether the support has settled.

        ``None`` if it has too many columns.
        """
        state, (design, form, _, _, free, gram) = self.state, self.cache
        S = self.W[state.w[self.W] != 0.0]
        if free is not None:
            S = np.union1d(S, free.which)
        if not gram.room(S):
            return None
        if S.size == 0:
            return True, True
        slots = gram.slots(S)
        order = np.argsort(slots)
        S, slots = S[order], slots[order]
        A = gram.matrix(slots)
        limits = self.limits(S)
        design.multiply(state.u, S, S.size, state.w, form.mu, state.c)
        old, new = state.w[S], state.w[S]
        cap, calm, least = _CAP, state.calm, 0.0
        if not self.solver.newton_phase:
            cap, calm, least = 5 * _CAP, 5 * _CAP, 1e-3 * self.goal * self.cache.unit
        done = kernels.gram_sweeps(
            A, state.c[S].astype(A.dtype), new, limits, form.mu, form.positive, cap, calm, least
        )
        state.count(support_epochs=done)
        design.add(S, old - new, state.u)
        state.w[S] = new
        if not self.solver.newton_phase:
            return False, True
        keep = np.flatnonzero((new != 0.0) | ((limits == 0.0) & (not form.positive)))
        if keep.size < S.size:
            if keep.size == 0:
                return True, True
            S, limits = S[keep], limits[keep]
            smaller = np.empty((keep.size, keep.size), A.dtype, "F")
            kernels.gather(A, keep, smaller)
            A = smaller
        done, accepted = newton(design, A, S, limits, form, state.w, state.u, state.c, state.counts)
        return done, accepted and S.size < 0.9 * design.n

    def limits(self, S: NDArray[Any]) -> NDArray[Any]:
        """Limits of coefficients."""
        if self.unit_limits is None:
            return np.full(S.size, self.lam)
        return self.lam * self.unit_limits[S]

    def descend(self, may_switch: bool) -> None:
        """Coordinate descent on residuals, extrapolated; on products where it is slow."""
        state, (design, form, *_) = self.state, self.cache
        W = self.W
        sweeps = _CHECK_RIDGE if form.mu > 0.0 and not design.sparse else _CHECK
        extrapolate = self.solver.acceleration == "anderson"
        history = np.empty((sweeps + 1, W.size)) if extrapolate else _NO_HISTORY
        before = math.inf
        for k in range(_CHECKS):
            if extrapolate:
                history[0] = state.w[W]
            self.sweep(sweeps, history[1:])
            design.multiply(state.u, W, W.size, state.w, form.mu, state.c)
            gap = _gap(state, W, self.lam)[0]
            if gap <= self.goal:
                return
            slow = gap > _SLOW * before
            if may_switch and slow and k + 1 >= _SLOW_FROM:
                state.slow = True
                if self.rounds(_SLOW_ROUNDS, _SLOW_ROUNDS):
                    return
                may_switch = False
            before = gap
            if extrapolate and k > 0:
                self.extrapolate(history)

    def extrapolate(self, history: NDArray[Any]) -> None:
        """Move to the combination of the last iterates with the least step, if that is lower."""
        state, (design, form, *_) = self.state, self.cache
        W = self.W
        steps = np.diff(history, axis=0)
        products = steps @ steps.T
        trace = float(np.trace(products))
        if not trace > 0.0:
            return
        products[np.diag_indices(len(products))] += 1e-10 * trace
        try:
            z = np.linalg.solve(products, np.ones(len(products)))
        except np.linalg.LinAlgError:
            return
        total = float(z.sum())
        if not abs(total) > 1e-12 * float(np.abs(z).sum()):
            return
        x = (z / total) @ history[1:]
        at = state.w[W]
        if form.positive:
            np.maximum(x, 0.0, out=x)
        d = x - at
        v = np.zeros(design.n)
        design.add(W, d, v)
        change = design.half_square(v) + 0.5 * form.mu * float(d @ d) - float(state.c[W] @ d)
        change += float(self.limits(W) @ (np.abs(x) - np.abs(at)))
        if change < 0.0:
            state.w[W] = x
            state.u -= v
            state.count(extrapolations=1)
