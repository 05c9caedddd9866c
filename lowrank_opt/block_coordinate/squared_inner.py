"""The inner problem of least squares: a working set, to a part of the gap."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from lowrank_opt.block_coordinate import kernels_squared as kernels
from lowrank_opt.block_coordinate.sparse_state import SparseState
from lowrank_opt.block_coordinate.squared_newton import newton, ridge_square

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lowrank_opt.block_coordinate.squared_design import Design

__all__ = [
    "CALM",
    "CALM_PATH",
    "NEAR",
    "ROUGH",
    "Cache",
    "Form",
    "Inner",
    "SquaredState",
    "relative_gap",
]

# Part of its limit from which a coefficient is a candidate; relative gap that ends a stage but the
# last.
NEAR, ROUGH = 0.3, 1e-2
# Dense rounds: sweeps over the working set, and over one that is this part of the columns at most;
# rounds, rounds while the support is not settled.
_SWEEPS, _SWEEPS_FEW, _FEW, _ROUNDS, _MANY = 2, 4, 1.0 / 32.0, 2, 10
# Sweeps on products: at most, and without a change of sign before a Newton step (on paths).
_CAP, CALM, CALM_PATH = 200, 10, 3
# Residual descent: sweeps between two gaps, how many of them over the whole working set and not
# the support, gaps at most; part of the gap and of the tolerance that end it; fall per check below
# which it is slow, from which check on; rounds on products then.
_CHECK, _CHECK_RIDGE, _WIDE, _CHECKS = 5, 10, 2, 100
_ENOUGH, _ALLOWED = 0.1, 0.3
_SLOW, _SLOW_FROM, _SLOW_ROUNDS = 0.6, 3, 6
# Costs in nanoseconds: of an entry of a sparse column in a sweep, of an entry of a product of such
# columns or a copy of one, of a flop in products and factors; dense entries are cheaper; of an
# entry of the matrix of products in a round, without its factor.
_ENTRY, _PAIR, _FLOP, _DENSE, _ROUND = 3.0, 2.0, 0.02, 0.15, 4.0
_NO_HISTORY = np.empty((0, 0))


@dataclass
class SquaredState(SparseState):
    """State of the engine.

    Parameters
    ----------
    w, u, c : ndarray
        Coefficients, weighted residual, products of the columns with it.
    active : ndarray of int
        Coefficients not discarded.
    lam, mu, stage : float
        Weights of L1 and ridge term, and weight of the L1 term in the present stage.
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
    mu: float = 0.0
    stage: float = 0.0
    part: float = NEAR
    calm: int = CALM
    gap: float = math.inf
    shift: float = 1.0
    products: Any = None
    columns: Any = None
    slow: bool = False


class Form(NamedTuple):
    """The penalty, without ``None``."""

    lam: float
    weights: Any  # an empty array: ones
    mu: float
    positive: bool


class Cache(NamedTuple):
    """What is made of a problem and a state."""

    design: Design
    form: Form
    gap: bool  # whether the residual is a gap
    unit: float  # of gaps or gradients
    free: Any
    gram: Any


def relative_gap(state: SquaredState, active: NDArray[Any], lam: float) -> tuple[float, float]:
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
    if form.lam == 0.0:
        return ridge / unit, 1.0
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


class Inner:
    """The problem of the coefficients `W`."""

    def __init__(self, solver: Any, state: SquaredState, W: NDArray[Any]) -> None:
        self.solver, self.state, self.W = solver, state, W
        self.cache = state.cache
        self.lam = state.stage
        last = state.stage == state.lam
        self.goal = max(_ENOUGH * state.gap, _ALLOWED * (solver.tol if last else ROUGH))
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
        if products and self.rounds(self.few(), _MANY):
            return
        self.descend(solver.gram == "auto" and not products)

    def few(self) -> int:
        """Rounds after which to look at all columns: one where that costs less than a round."""
        design, m = self.cache.design, float(np.count_nonzero(self.state.w[self.W]))
        if design.sparse:
            return _ROUNDS
        more = _FLOP * m**3 / 3.0 + _ROUND * m * m
        return _ROUNDS if more < _DENSE * design.n * self.state.active.size else 1

    def rounds(self, few: int, many: int) -> bool:
        """Alternate sweeps, products and Newton steps; whether the support had room."""
        done, k = False, 0
        sweeps = _SWEEPS_FEW if self.W.size <= _FEW * self.cache.design.p else _SWEEPS
        while not done:
            self.sweep(self.W, sweeps)
            found = self.support_step()
            if found is None:
                return False
            done, settled = found
            k += 1
            if k >= (few if settled else many):
                break
        return True

    def sweep(self, S: NDArray[Any], sweeps: int, history: Any = _NO_HISTORY) -> float:
        """Do coordinate descent on the coefficients `S`."""
        state = self.state
        state.count(epochs=sweeps)
        return self.cache.design.sweep(
            state.u, state.w, S, self.cache.form, self.lam, sweeps, history
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
        unit = gram.factors[S]
        ridge = form.mu * unit * unit
        unit *= gram.size
        inverse = unit / gram.size**2
        old = state.w[S]
        new = old / unit
        cap, calm, least = _CAP, state.calm, 0.0
        if not self.solver.newton_phase:
            cap, calm = 5 * _CAP, 5 * _CAP
            least = 1e-3 * self.goal * design.scale / gram.size**2
        q = (state.c[S] * inverse).astype(A.dtype)
        done = kernels.gram_sweeps(
            A, q, new, limits * inverse, ridge, form.positive, cap, calm, least
        )
        new *= unit
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
        done, accepted = newton(
            gram, A, keep, S, limits, form, state.w, state.u, state.c, state.counts
        )
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
        before = math.inf
        for k in range(_CHECKS):
            self.sweep(W, _WIDE)
            S = W[state.w[W] != 0.0]
            history = np.empty((sweeps - _WIDE + 1, S.size)) if extrapolate else _NO_HISTORY
            if extrapolate:
                history[0] = state.w[S]
            self.sweep(S, sweeps - _WIDE, history[1:])
            design.multiply(state.u, W, W.size, state.w, form.mu, state.c)
            gap = relative_gap(state, W, self.lam)[0]
            if gap <= self.goal:
                return
            slow = gap > _SLOW * before and k + 1 >= _SLOW_FROM
            if may_switch and slow and self.products_pay(S, gap, gap / before, sweeps):
                state.slow = True
                if self.rounds(_SLOW_ROUNDS, _SLOW_ROUNDS):
                    return
                may_switch = False
            before = gap
            if extrapolate and k > 0:
                self.extrapolate(S, history)
            if k + 1 >= _SLOW_FROM:
                sweeps = _CHECK_RIDGE

    def products_pay(self, S: NDArray[Any], gap: float, ratio: float, sweeps: int) -> bool:
        """Whether products and a Newton step cost less than the sweeps still to come."""
        design, m = self.cache.design, float(S.size)
        # Later iterations gain from what is done here, too.
        goal = min(self.goal, _ALLOWED * self.solver.tol)
        left = math.log(goal / gap) / math.log(ratio) if ratio < 0.99 else float(_CHECKS)
        if design.sparse:
            ends = design.parts[2]
            entries = float(np.sum(ends[S + 1] - ends[S]))
            build = _PAIR * (entries * entries / design.n + m * m)
        else:
            entries = design.n * m * _DENSE
            build = m * m * design.n * _FLOP
        factor = _FLOP * m**3 / 3.0 + 2.0 * _PAIR * m * m
        return min(left, _CHECKS) * sweeps * _ENTRY * entries > build + 2.0 * factor

    def extrapolate(self, S: NDArray[Any], history: NDArray[Any]) -> None:
        """Move to the combination of the last iterates with the least step, if that is lower."""
        state, (design, form, *_) = self.state, self.cache
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
        at = state.w[S]
        if form.positive:
            np.maximum(x, 0.0, out=x)
        d = x - at
        v = np.zeros(design.n)
        design.add(S, d, v)
        change = design.half_square(v) + 0.5 * ridge_square(form.mu, d) - float(state.c[S] @ d)
        change += float(self.limits(S) @ (np.abs(x) - np.abs(at)))
        if change < 0.0:
            state.w[S] = x
            state.u -= v
            state.count(extrapolations=1)
