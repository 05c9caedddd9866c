"""Engine of "ssnal": a proximal point method on the relaxed plan, semismooth Newton inside."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from lowrank_opt.core.errors import ParameterError
from lowrank_opt.core.params import make_rng
from lowrank_opt.transport import starts
from lowrank_opt.transport.canonical import EXACT, UPPER, row_dual
from lowrank_opt.transport.newton import Laplacian
from lowrank_opt.transport.proximal import Proximal, ProximalOracle, empty_plan
from lowrank_opt.transport.residual import gap_and_marginals
from lowrank_opt.transport.sparsity_constrained import TransportState

if TYPE_CHECKING:
    from lowrank_opt.transport.canonical import Canonical

__all__ = ["ProximalState", "check", "init", "step"]

# Factor of mu; mu of the first phase ends at this part of 1 / gamma, and mu begins below this many
# times that.
_FACTOR, _EARLY, _FIRST = 4.0, 0.3, 16.0
# After a subproblem that was not solved mu may grow again by this factor a step.
_RELIEF = 1.3
# Row residual that ends the steps of the first phase; outer steps on a sample.
_ROUGH, _LEVEL_STEPS = 1e-2, 4
# Newton steps of an outer step, trial points of a Newton step, Newton steps without an accepted
# point before the inner solver gives up.
_NEWTON, _TRIALS, _RETRIES = 60, 20, 4
# Relative residual of conjugate gradients.
_ACCURACY = 1e-2
# Limits of the multiple of the identity and of the shift of components.
_DAMPING, _SHIFT = (1e-10, 0.1), (1e-3, 1e2)
# What takes the place of a smaller gamma in the schedule of mu, against the typical cost; mu never
# exceeds this many times the inverse of that, since it multiplies the rounding errors of costs.
_PLAIN, _CEILING = 3e-3, 1e4
# First and least limit on the steps of potentials, against the typical cost or what a tenth of
# gamma does; factors after a limited step that was accepted as it was, and after one that was cut.
_RADIUS, _WIDER, _NARROWER = 0.05, 4.0, 0.5
# Outer steps without a residual that is smaller by this factor before a run counts as stalled.
_PATIENCE, _PROGRESS = 10, 0.7


@dataclass
class ProximalState(TransportState):
    """State of "ssnal".

    Parameters
    ----------
    center : tuple or None
        Plan of the proximal term.
    slack : ndarray of shape (m,) or None
        What rows with upper bounds have left, in the proximal term.
    mu : float
        Weight of the proximal term is ``1 / mu``.
    pace, limit, ceiling : float
        What the schedule of mu takes for gamma; largest mu that is tried, and that is allowed.
    radius, least : float
        Limit on the changes of potentials in a Newton step; the smallest that it can become.
    damping, shift : float
        Multiple of the identity in Newton systems, and size of the shift of components.
    depth, threshold : ndarray or None
        How deep the last solution of every column reached, and minus its multiplier.
    gap : float
        Relative Lagrangian gap of the plan.
    idle, lowest : int, float
        Outer steps since the residual fell last, and what it was.
    """

    center: Any = None
    slack: Any = None
    mu: float = 1.0
    pace: float = 1.0
    limit: float = math.inf
    ceiling: float = math.inf
    radius: float = math.inf
    least: float = 0.0
    damping: float = 1e-8
    shift: float = 1.0
    depth: Any = None
    threshold: Any = None
    gap: float = math.inf
    idle: int = 0
    lowest: float = math.inf


class _Cache(NamedTuple):
    oracle: ProximalOracle
    deadline: float
    ready: bool  # whether the lists are those of the state's next step


def init(solver: Any, canonical: Canonical, start: tuple[Any, Any] | None) -> ProximalState:
    """Return the first state: a start, and its residual.

    Parameters
    ----------
    solver : SparsityConstrainedOT
        Parameters.
    canonical : Canonical
        The problem.
    start : tuple or None
        ``(alpha, plan)`` of a warm start, either of which may be ``None``.

    Returns
    -------
    ProximalState
        With the residual of the start.
    """
    check(solver, canonical)
    state = ProximalState()
    state.count(newton_steps=0, factorizations=0)
    oracle, deadline = _oracle(solver, canonical), _deadline(solver)
    alpha, plan = (None, None) if start is None else start
    if alpha is None:
        first = _start(solver, canonical, state, deadline)
        alpha, mu = first.alpha, first.mu
        plan = first.plan if plan is None else plan
    else:
        mu = math.inf  # as weak as a first proximal term may be
    _enter(canonical, state, starts.Start(alpha, plan or empty_plan(canonical.n), mu))
    state.cache = _Cache(oracle, deadline, False)
    with oracle.threads():
        _first_plan(canonical, state, oracle)
    return state


def check(solver: Any, canonical: Canonical) -> None:
    """Raise if the method is not for the problem.

    Parameters
    ----------
    solver : SparsityConstrainedOT
        Parameters.
    canonical : Canonical
        The problem.
    """
    if solver.method == "ssn" and canonical.k < canonical.m:
        raise ParameterError(
            f"SparsityConstrainedOT: method='ssn' with max_nnz={canonical.k}; it is for problems "
            "without a cap: use method='ssnal', or max_nnz=None"
        )


def _deadline(solver: Any) -> float:
    return math.inf if solver.max_time is None else time.perf_counter() + float(solver.max_time)


def _oracle(solver: Any, canonical: Canonical) -> ProximalOracle:
    import numba

    threads = numba.get_num_threads() if solver.n_threads is None else int(solver.n_threads)
    return ProximalOracle(
        canonical, screening=solver.screening, n_threads=min(threads, numba.get_num_threads())
    )


def _start(solver: Any, canonical: Canonical, state: ProximalState, deadline: float) -> Any:
    kind = solver.start
    if kind == "auto":
        kind = "nested"
        if (canonical.k == 1 or canonical.gamma == 0) and starts.has_emd(canonical):
            kind = "emd"
    if kind == "emd":
        return starts.emd_start(canonical)
    if kind == "zero":
        return starts.zero_start(canonical)
    rng = make_rng(solver.random_state)

    def solve(small: Canonical, first: Any) -> tuple[Any, Any]:
        return _solve_sample(solver, small, first, state, deadline)

    return starts.nested_start(canonical, rng, solve, deadline)


def _solve_sample(
    solver: Any, canonical: Canonical, first: Any, total: ProximalState, deadline: float
) -> tuple[Any, Any]:
    """Potentials of sources and targets of a sample, roughly."""
    state = ProximalState()
    _enter(canonical, state, first)
    oracle = _oracle(solver, canonical)
    with oracle.threads():
        for _ in range(_LEVEL_STEPS):
            oracle.scan(state.alpha, state.mu, state.center, state.depth, state.threshold)
            last = state.mu >= _EARLY / state.pace
            point, _, _ = _newton(canonical, state, oracle, _ROUGH, deadline)
            state.center, state.slack = point.found.plan(), point.slack
            if last or time.perf_counter() >= deadline:
                break
            state.mu *= _FACTOR
    for name, number in state.counts.items():
        total.count(**{name: number})
    total.count(evaluations=oracle.n_evaluations)
    return state.alpha, -state.threshold


def _enter(canonical: Canonical, state: ProximalState, first: Any) -> None:
    state.alpha, state.center, state.mu = first
    typical = starts.typical_cost(canonical, state.alpha)
    least = _PLAIN * typical * canonical.n
    gamma = canonical.gamma if canonical.k > 1 else 0.0
    # Gamma, or a part of the typical cost where gamma is less or has no influence.
    state.pace = float(max(gamma, least)) or 1.0
    state.ceiling = _CEILING / (least or state.pace)
    state.radius = state.least = _RADIUS * max(typical, 0.1 * state.pace / canonical.n)
    if canonical.row_kind == UPPER:
        state.alpha = np.minimum(state.alpha, 0.0)
        _, indices, values = state.center
        rows = np.bincount(indices, weights=values, minlength=canonical.m)
        # Without a plan every row has its share of what must be left in all.
        share = 1.0 if len(values) else 1.0 - 1.0 / float(np.sum(canonical.a))
        state.slack = np.maximum(share * canonical.a - rows, 0.0)
    state.mu = min(state.mu, _FIRST / state.pace, state.ceiling)


def _first_plan(canonical: Canonical, state: ProximalState, oracle: ProximalOracle) -> None:
    """Grade the plan of a warm start; if it is none, take the proximal plan."""
    psi, state.tau = oracle.scan(state.alpha, state.mu, state.center)
    value = _row_value(canonical, state.alpha) - psi
    found = oracle.evaluate(state.alpha)
    plans = state.center, found.plan()
    grades = [max(gap_and_marginals(canonical, state.alpha, plan, value)) for plan in plans]
    plan, state.residual = plans[0], grades[0]
    if not grades[0] <= grades[1]:
        plan, state.residual = plans[1], grades[1]
    state.indptr, state.indices, state.values = plan
    state.depth, state.threshold = found.depth, found.threshold
    _count(state, oracle)


def step(solver: Any, canonical: Canonical, state: ProximalState) -> ProximalState:
    """Do one proximal step.

    Parameters
    ----------
    solver : SparsityConstrainedOT
        Parameters.
    canonical : Canonical
        The problem.
    state : ProximalState
        Changed in place.

    Returns
    -------
    ProximalState
        The same object.
    """
    if state.cache is None:
        state.cache = _Cache(_oracle(solver, canonical), _deadline(solver), False)
    oracle, deadline, ready = state.cache
    early = state.mu < _EARLY / state.pace
    goal = max(0.5 * solver.tol, _ROUGH if early else 0.0)
    with oracle.threads():
        if not ready:
            oracle.scan(state.alpha, state.mu, state.center, state.depth, state.threshold)
            if state.nit:  # made anew after a pause: not work of the method
                oracle.n_scans = 0.0
        point, reached, finished = _newton(canonical, state, oracle, goal, deadline)
        plan = point.found.plan()
        if finished:
            state.center, state.slack = plan, point.slack
            # Where the marginals are the worse part, a weaker proximal term would not help them.
            limit = min(10.0 * goal, max(goal, state.gap))
            _pace_mu(state, early, reached <= limit)
            early &= reached <= limit  # where nothing changes, progress may have ended
        psi, state.tau = oracle.scan(
            state.alpha, state.mu, state.center, state.depth, state.threshold
        )
    state.indptr, state.indices, state.values = plan
    value = _row_value(canonical, state.alpha) - psi
    state.gap, rows = gap_and_marginals(canonical, state.alpha, plan, value)
    state.residual = max(state.gap, rows)
    state.nit += 1
    _count(state, oracle)
    state.cache = _Cache(oracle, deadline, True)
    if not early:
        _look_for_stall(solver, state, rows, state.gap)
    return state


def _row_value(canonical: Canonical, alpha: Any) -> float:
    with np.errstate(over="ignore", invalid="ignore"):
        return row_dual(canonical.row_kind, canonical.row_weight, canonical.a, alpha)[0]


def _pace_mu(state: ProximalState, early: bool, solved: bool) -> None:
    """Raise mu after a subproblem that was solved, lower it after one that was not."""
    if not solved:
        if not early:
            state.limit = max(state.mu / _FACTOR, 1.0 / state.pace)
            state.mu = min(state.mu, state.limit)
        return
    state.limit *= _RELIEF
    state.mu = min(_FACTOR * state.mu, state.limit, state.ceiling)
    if early and state.mu >= _EARLY / state.pace:
        state.mu = max(state.mu, 1.0 / state.pace)


def _look_for_stall(solver: Any, state: ProximalState, rows: float, gap: float) -> None:
    if state.residual <= _PROGRESS * state.lowest:
        state.lowest, state.idle = state.residual, 0
        return
    state.idle += 1
    if state.idle >= _PATIENCE and state.residual > solver.tol:
        what = "the row sums" if rows >= gap else "the Lagrangian gap"
        state.stalled = (
            f"the residual has not fallen below {state.lowest:.2e} for {state.idle} proximal "
            f"steps; {what} limit it"
        )


def _count(state: ProximalState, oracle: ProximalOracle) -> None:
    state.count(evaluations=oracle.n_evaluations, scans=round(oracle.n_scans))
    oracle.n_evaluations, oracle.n_scans = 0, 0.0


class _Point(NamedTuple):
    """A point of the inner solver."""

    alpha: Any
    value: float
    gradient: Any
    curvature: Any
    slack: Any
    found: Proximal


def _look(canonical: Canonical, state: ProximalState, oracle: ProximalOracle, alpha: Any) -> _Point:
    """Evaluate the dual objective of the proximal subproblem."""
    with np.errstate(over="ignore", invalid="ignore"):
        value, asked, curvature = row_dual(
            canonical.row_kind, canonical.row_weight, canonical.a, alpha
        )
    slack = None
    if canonical.row_kind == UPPER:  # T 1 + slack = a, with a proximal term for the slack too
        slack = np.maximum(state.slack + oracle.mu * alpha, 0.0)
        value -= float(np.sum(slack**2 - state.slack**2)) / (2.0 * oracle.mu)
        asked, curvature = asked - slack, oracle.mu * (slack > 0)
    found = oracle.evaluate(alpha)
    return _Point(alpha, value - found.value, asked - found.rows, curvature, slack, found)


def _newton(
    canonical: Canonical, state: ProximalState, oracle: ProximalOracle, goal: float,
    deadline: float,
) -> tuple[_Point, float, bool]:  # fmt: skip
    """Maximise the dual of the proximal subproblem; changes ``state.alpha``.

    Returns the solution, its residual, and whether there was time to finish.
    """
    point = _look(canonical, state, oracle, state.alpha)
    reached, steps, retries = float(np.sum(np.abs(point.gradient))), 0, 0
    system: Any = None
    finished, factorizations = True, 0
    while reached > goal and steps < _NEWTON and retries <= _RETRIES:
        if time.perf_counter() >= deadline:
            finished = False
            break
        if system is None:
            support = point.found.support()
            system = Laplacian(support, oracle.k, oracle.mu * oracle.gamma, canonical.m)
        direction = _direction(canonical, state, oracle, point, system)
        steps += 1
        factorizations += system.factorizations
        system.factorizations = 0
        length = float(np.max(np.abs(direction)))
        limited = length > state.radius
        if limited:
            direction *= state.radius / length
        other, t = _search(canonical, state, oracle, point, direction)
        if limited and t > 0.9:
            state.radius *= _WIDER
        elif t < 0.3:
            state.radius = max(_NARROWER * state.radius, state.least)
        if other is None:
            state.damping = min(100.0 * state.damping + 1e-8, 1.0)
            state.shift = max(state.shift / 10.0, _SHIFT[0])
            retries += 1
            continue
        retries = 0
        if t > 0.9:
            state.damping = max(0.3 * state.damping, _DAMPING[0])
            state.shift = min(2.0 * state.shift, _SHIFT[1])
        elif t < 0.2:
            state.damping = min(max(5.0 * state.damping, 1e-8), _DAMPING[1])
            state.shift = max(0.5 * state.shift, _SHIFT[0])
        point, system = other, None
        reached = float(np.sum(np.abs(point.gradient)))
    shift = float(canonical.a @ point.alpha) if canonical.row_kind == EXACT else 0.0
    state.alpha = point.alpha - shift
    if canonical.row_kind == UPPER:
        state.alpha = np.minimum(state.alpha, 0.0)
    state.threshold = point.found.threshold - shift
    state.depth = point.found.depth
    state.count(newton_steps=steps, factorizations=factorizations)
    return point, reached, finished


def _direction(
    canonical: Canonical, state: ProximalState, oracle: ProximalOracle, point: _Point, system: Any
) -> Any:
    """Newton direction, with components of the graph of rows moved to balance their mass."""
    mu, mean, m = oracle.mu, 1.0 / canonical.n, canonical.m
    labels = system.labels
    sizes = np.bincount(labels, minlength=m)
    totals = np.bincount(labels, weights=point.gradient, minlength=m)
    totals[labels[point.curvature > 0]] = 0.0  # the term of the rows balances these
    balanced = point.gradient - (totals / np.maximum(sizes, 1))[labels]
    diagonal = state.damping * system.level + point.curvature / mu
    direction = system.solve(diagonal, balanced / mu, _ACCURACY)
    moved = np.abs(totals) > 1e-12
    if canonical.row_kind == EXACT:  # only differences count: the largest component may stay
        moved &= 2 * sizes <= m
    step = state.shift * (oracle.gamma + 1.0 / mu) * mean
    shares = np.sign(totals) * np.minimum(1.0, np.abs(totals) / (0.1 * mean))
    return direction + np.where(moved, step * shares, 0.0)[labels]


def _search(
    canonical: Canonical, state: ProximalState, oracle: ProximalOracle, point: _Point,
    direction: Any,
) -> tuple[_Point | None, float]:  # fmt: skip
    """Line search by the secant on the derivative; ``None`` if the value falls to the end."""
    t = 1.0
    size = abs(point.value) + float(canonical.a @ np.abs(point.alpha))
    other = point
    for _ in range(_TRIALS):
        move = t * direction
        other = _look(canonical, state, oracle, point.alpha + move)
        before, after = float(point.gradient @ move), float(other.gradient @ move)
        rise = other.value - point.value
        if np.isfinite(other.value) and np.isfinite(after):
            if rise >= 1e-4 * before:
                return other, t
            if abs(after) <= 0.8 * before and rise >= -1e-13 * size:
                return other, t
        if not np.isfinite(after) or before <= 0.0:
            t *= 0.1
        elif after >= 0.0:
            t *= 0.5
        else:
            t *= min(max(before / (before - after), 0.1), 0.7)
    return (other, t) if other.value >= point.value else (None, t)
