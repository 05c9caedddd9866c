"""Engines of "lbfgs", "adam", "sgd" and "bcd": first-order methods on the dual and semi-dual."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from lowrank_opt.core.errors import ParameterError
from lowrank_opt.core.params import make_rng
from lowrank_opt.transport.canonical import EXACT, KL, L2, UPPER, Canonical, row_dual
from lowrank_opt.transport.costs import DenseCost, PointCost, SparseCost, restrict
from lowrank_opt.transport.kernels_oracle import column_work, smallest_costs
from lowrank_opt.transport.lbfgs import Point, direction, remember, search
from lowrank_opt.transport.oracle import SemidualOracle
from lowrank_opt.transport.residual import gap_and_marginals
from lowrank_opt.transport.sparsity_constrained import TransportState

if TYPE_CHECKING:
    from lowrank_opt.transport.oracle import Evaluation

__all__ = ["FirstOrderState", "check", "init", "step"]

# Adam.
_RATE, _DECAYS, _FLOOR = 1e-2, (0.9, 0.999), 1e-8
_BATCH = 256
# Weight of the last iterates in the average of "sgd": (1 + this) / (t + this).
_RECENT = 3.0
# First step of "lbfgs", as a part of the range of the potentials, by the largest residual of a row.
_FIRST = 0.05
# "lbfgs" counts as stuck when so many iterations bring neither a residual that is smaller by this
# factor nor a value that is better by this part.
_PATIENCE, _SMALLER, _BETTER = 100, 0.9, 1e-6
_KINK = (
    "the semi-dual has kinks where scores of a column tie, and near the optimum its gradients do "
    "not lead there; use method='ssnal'"
)
_ROUNDING = "rounding errors of the objective hide further progress; use method='ssnal'"


@dataclass
class FirstOrderState(TransportState):
    """State of the first-order methods.

    Parameters
    ----------
    moving : ndarray of float64
        Variables of the method: potentials of the sources, in the dual those of the targets
        behind them. `alpha` is the iterate that is graded; it differs for "sgd".
    value, gradient : float, ndarray
        Objective and gradient at `moving`, of "lbfgs" and "adam".
    steps, changes : ndarray of float64, of shape (history, size)
        History of "lbfgs"; first and second moments of "adam" in one row each.
    pairs : int
        Pairs in the history.
    length : float
        First step of "lbfgs".
    mark : ndarray or None
        Iteration, value and residual of "lbfgs" when it last made progress.
    average : ndarray or None
        Average of the iterates of "sgd".
    """

    moving: Any = None
    value: float = -math.inf
    gradient: Any = None
    steps: Any = None
    changes: Any = None
    pairs: int = 0
    length: float = 1.0
    mark: Any = None
    average: Any = None


class _Cache(NamedTuple):
    oracle: SemidualOracle
    rows: SemidualOracle | None  # of the transposed problem, for "bcd"
    deadline: float


def init(solver: Any, canonical: Canonical, start: tuple[Any, Any] | None) -> FirstOrderState:
    """Return the first state with its residual.

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
    FirstOrderState
        Graded at the start.

    Raises
    ------
    ParameterError
        The method does not work for this problem or formulation.
    """
    check(solver, canonical)
    state = FirstOrderState(rng=make_rng(solver.random_state))
    oracle = _cache(solver, canonical, state).oracle
    alpha, plan = (None, None) if start is None else start
    point = None
    if alpha is not None:
        alpha = _project(canonical, alpha.copy())
        point = _quiet(oracle, alpha)
    if point is None or not np.isfinite(point.value):
        alpha, point = _best_start(canonical, oracle, state)
    _grade(canonical, state, alpha, point)
    if plan is not None:
        residual = max(gap_and_marginals(canonical, alpha, plan, point.value))
        if residual < state.residual:
            state.indptr, state.indices, state.values = plan
            state.residual = residual
    size = canonical.m
    state.moving = alpha.copy()
    state.value, state.gradient = point.value, point.gradient
    if solver.formulation == "dual":
        state.moving = np.concatenate([alpha, -point.tau])
        dual = oracle.dual(alpha, -point.tau)
        state.value = dual.value
        state.gradient = np.concatenate([dual.gradient, dual.beta_gradient])
        size += canonical.n
    if solver.method == "lbfgs":
        state.steps = np.zeros((solver.history_size, size))
        state.changes = np.zeros((solver.history_size, size))
        spread = max(float(np.ptp(alpha)), canonical.gamma / canonical.n)
        steepest = float(np.abs(state.gradient).max())
        state.length = _FIRST * (spread or 1.0) / (steepest or 1.0)
    elif solver.method == "adam":
        state.steps, state.changes = np.zeros((1, size)), np.zeros((1, size))
    elif solver.method == "sgd":
        state.average = alpha.copy()
    _count(canonical, state)
    return state


def step(solver: Any, canonical: Canonical, state: FirstOrderState) -> FirstOrderState:
    """Do one iteration.

    Parameters
    ----------
    solver : SparsityConstrainedOT
        Parameters.
    canonical : Canonical
        The problem.
    state : FirstOrderState
        Changed in place.

    Returns
    -------
    FirstOrderState
        The same object.
    """
    _cache(solver, canonical, state)
    {"lbfgs": _lbfgs, "adam": _adam, "sgd": _sgd, "bcd": _bcd}[solver.method](
        solver, canonical, state
    )
    state.nit += 1
    _count(canonical, state)
    return state


# -- the methods --------------------------------------------------------------------------------


def _lbfgs(solver: Any, canonical: Canonical, state: FirstOrderState) -> None:
    cache = state.cache

    def evaluate(x: Any) -> Point:
        return _evaluate(solver, canonical, cache.oracle, x)

    old = Point(state.moving, state.value, state.gradient)
    new = None
    for attempt in range(2):
        if attempt == 1:
            if state.pairs == 0 or time.perf_counter() >= cache.deadline:
                break
            state.pairs = 0  # the gradient itself
        new = _search(solver, canonical, state, old, evaluate)
        if new is not None:
            break
    if new is None:
        if time.perf_counter() < cache.deadline and state.residual > solver.tol:
            state.stalled = f"the line search finds no better point: {_reason(canonical)}"
        return
    state.pairs = remember(state.steps, state.changes, state.pairs, old, new)
    if not state.pairs:
        state.length *= 2.0
    state.moving, state.value, state.gradient = new.x, new.value, new.gradient
    _grade_moving(solver, canonical, state, new.rest)
    _look_for_stall(solver, canonical, state)


def _search(
    solver: Any, canonical: Canonical, state: FirstOrderState, old: Point, evaluate: Any
) -> Point | None:
    """Search along the direction of the history, or of the gradient without one."""
    gradient, pairs = old.gradient, state.pairs
    steps, changes = state.steps, state.changes
    bounded = 0
    if canonical.row_kind == UPPER:  # potentials that a bound holds do not take part
        bounded = canonical.m
        free = ~((old.x >= 0.0) & (gradient > 0.0))
        free[bounded:] = True
        gradient = np.where(free, gradient, 0.0)
        steps, changes, pairs = _restricted(steps, changes, pairs, free)
    towards = direction(gradient, steps, changes, pairs)
    length = 1.0 if pairs else state.length
    deadline = state.cache.deadline
    return search(evaluate, old, towards, length, bounded=bounded, deadline=deadline)


def _look_for_stall(solver: Any, canonical: Canonical, state: FirstOrderState) -> None:
    now = np.array([state.nit + 1.0, state.value, state.residual])
    since, value, residual = (-np.inf, -np.inf, np.inf) if state.mark is None else state.mark
    if state.residual <= _SMALLER * residual or state.value - value > _BETTER * abs(state.value):
        state.mark = now
    elif now[0] - since >= _PATIENCE and state.residual > solver.tol:
        state.stalled = f"no progress in {_PATIENCE} iterations: {_reason(canonical)}"


def _reason(canonical: Canonical) -> str:
    return _KINK if canonical.k < canonical.m or canonical.gamma == 0 else _ROUNDING


def _restricted(steps: Any, changes: Any, pairs: int, free: Any) -> tuple[Any, Any, int]:
    """The history without the variables that a bound holds; pairs without curvature left out."""
    steps, changes = np.where(free, steps[:pairs], 0.0), np.where(free, changes[:pairs], 0.0)
    curved = np.einsum("ij,ij->i", steps, changes) > 0.0
    return steps[curved], changes[curved], int(curved.sum())


def _adam(solver: Any, canonical: Canonical, state: FirstOrderState) -> None:
    rate = _RATE if solver.step_size is None else float(solver.step_size)
    first, second = _DECAYS
    t = state.nit + 1
    mean, square, gradient = state.steps[0], state.changes[0], state.gradient
    mean += (1.0 - first) * (gradient - mean)
    square += (1.0 - second) * (gradient**2 - square)
    root = np.sqrt(square / (1.0 - second**t)) + _FLOOR
    x = _project(canonical, state.moving + rate * (mean / (1.0 - first**t)) / root)
    point = _evaluate(solver, canonical, state.cache.oracle, x)
    state.moving, state.value, state.gradient = point.x, point.value, point.gradient
    _grade_moving(solver, canonical, state, point.rest)


def _sgd(solver: Any, canonical: Canonical, state: FirstOrderState) -> None:
    """One mini-batch of columns; all columns are evaluated once in as many batches as hold them."""
    n, rng, t = canonical.n, state.rng, state.nit + 1
    assert rng is not None
    batch = min(n, _BATCH if solver.batch_size is None else int(solver.batch_size))
    targets = np.sort(rng.choice(n, batch, replace=False))
    part = SemidualOracle(_of_targets(canonical, targets), screening=False)
    drawn = part.evaluate(state.moving)
    state.count(scanned_columns=batch)
    rows = np.bincount(drawn.indices, weights=drawn.values, minlength=canonical.m)
    wanted = _row_dual(canonical, state.moving)[1]
    rate = (1.0 / _lipschitz(canonical)) if solver.step_size is None else float(solver.step_size)
    moved = state.moving + rate / math.sqrt(t) * (wanted - (n / batch) * rows)
    state.moving = _project(canonical, moved)
    state.average += (1.0 + _RECENT) / (t + _RECENT) * (state.moving - state.average)
    if t % -(-n // batch) == 0:
        alpha = state.average.copy()
        _grade(canonical, state, alpha, state.cache.oracle.evaluate(alpha))


def _bcd(solver: Any, canonical: Canonical, state: FirstOrderState) -> None:
    """Potentials of the sources from those of the targets, and these again (columns are exact)."""
    found = state.cache.rows.evaluate(-state.tau)
    alpha = _project(canonical, -found.tau)
    state.moving = alpha
    _grade(canonical, state, alpha, state.cache.oracle.evaluate(alpha))


# -- what they share ----------------------------------------------------------------------------


def check(solver: Any, canonical: Canonical) -> None:
    """Raise if the method is not for the problem.

    Parameters
    ----------
    solver : SparsityConstrainedOT
        Parameters.
    canonical : Canonical
        The problem.
    """
    method = solver.method
    who = f"SparsityConstrainedOT: method={method!r}"
    if solver.formulation == "dual" and method not in ("lbfgs", "adam"):
        raise ParameterError(
            f"{who} with formulation='dual'; use formulation='semidual', or method='lbfgs' or "
            "'adam' for the dual"
        )
    if solver.formulation == "dual" and canonical.gamma == 0:
        raise ParameterError(
            f"{who} with formulation='dual' and gamma=0, where the dual has constraints; use "
            "formulation='semidual' or method='ssnal', or gamma > 0"
        )
    if method == "sgd" and solver.step_size is None and canonical.gamma == 0:
        raise ParameterError(
            f"{who} with gamma=0, where gradients have no Lipschitz constant; give step_size, or "
            "use method='ssnal'"
        )
    if method != "bcd":
        return
    if canonical.k < canonical.m:
        raise ParameterError(
            f"{who} with max_nnz={canonical.k}; it is for problems without a cap: use "
            "method='ssnal', or max_nnz=None"
        )
    if canonical.gamma == 0:
        raise ParameterError(
            f"{who} with gamma=0, where it stops at points that are not optimal; use "
            "method='ssnal', or gamma > 0"
        )
    if canonical.row_kind in (L2, KL):
        raise ParameterError(
            f"{who} with penalties on the marginals; it is for constraints: use method='ssnal' "
            "or 'lbfgs'"
        )


def _cache(solver: Any, canonical: Canonical, state: FirstOrderState) -> _Cache:
    """The oracles, made when a run begins or goes on."""
    if state.cache is None:
        limit = math.inf if solver.max_time is None else float(solver.max_time)
        options = {"screening": solver.screening, "n_threads": solver.n_threads}
        rows = None
        if solver.method == "bcd":
            rows = SemidualOracle(_turned(canonical), **options)
        oracle = SemidualOracle(canonical, **options)
        state.cache = _Cache(oracle, rows, time.perf_counter() + limit)
    cache: _Cache = state.cache
    return cache


def _count(canonical: Canonical, state: FirstOrderState) -> None:
    """Work since the last call; a scan is a pass over all costs, by columns or by rows."""
    for oracle, name in ((state.cache.oracle, "columns"), (state.cache.rows, "rows")):
        if oracle is not None:
            counts = {f"scanned_{name}": oracle.n_scanned_columns}
            state.count(evaluations=oracle.n_evaluations, **counts)
            oracle.n_evaluations, oracle.n_scanned_columns = 0, 0
    scans = state.counts["scanned_columns"] / canonical.n
    scans += state.counts.get("scanned_rows", 0) / canonical.m
    state.counts["scans"] = math.ceil(scans)


def _best_start(
    canonical: Canonical, oracle: SemidualOracle, state: FirstOrderState
) -> tuple[Any, Evaluation]:
    """Smallest costs of the sources, or zero where that is better."""
    m = canonical.m
    least = np.full(m, np.inf)
    smallest_costs(canonical.cost, canonical.n, np.zeros(m), least, column_work(m))
    state.count(scanned_columns=canonical.n)
    least[~np.isfinite(least)] = 0.0
    if canonical.row_kind == UPPER:
        least -= least.max()
    found = [(least, _quiet(oracle, least))]
    if canonical.row_kind != EXACT:
        zero = np.zeros(m)
        found.append((zero, oracle.evaluate(zero)))
    return max(found, key=lambda pair: pair[1].value)


def _quiet(oracle: SemidualOracle, alpha: Any) -> Evaluation:
    """Evaluate where exponentials of a penalty may overflow."""
    with np.errstate(over="ignore", invalid="ignore"):
        return oracle.evaluate(alpha)


def _row_dual(canonical: Canonical, alpha: Any) -> tuple[float, Any, Any]:
    with np.errstate(over="ignore"):
        return row_dual(canonical.row_kind, canonical.row_weight, canonical.a, alpha)


def _evaluate(solver: Any, canonical: Canonical, oracle: SemidualOracle, x: Any) -> Point:
    """The objective of the formulation, to be maximised."""
    if solver.formulation == "semidual":
        found = _quiet(oracle, x)
        return Point(x, found.value, found.gradient, found)
    with np.errstate(over="ignore", invalid="ignore"):
        dual = oracle.dual(x[: canonical.m], x[canonical.m :])
    return Point(x, dual.value, np.concatenate([dual.gradient, dual.beta_gradient]))


def _project(canonical: Canonical, x: Any) -> Any:
    """Potentials of the sources with upper bounds are at most 0."""
    if canonical.row_kind == UPPER:
        x[: canonical.m] = np.minimum(x[: canonical.m], 0.0)
    return x


def _grade_moving(
    solver: Any, canonical: Canonical, state: FirstOrderState, found: Evaluation | None
) -> None:
    alpha = state.moving[: canonical.m].copy()
    if found is None:  # the dual: its columns are made exact by the semi-dual at alpha
        found = _quiet(state.cache.oracle, alpha)
    _grade(canonical, state, alpha, found)


def _grade(canonical: Canonical, state: FirstOrderState, alpha: Any, found: Evaluation) -> None:
    """Take over a point of the semi-dual with its plan and residual."""
    state.alpha, state.tau = alpha, found.tau
    state.indptr, state.indices, state.values = found.indptr, found.indices, found.values
    plan = (found.indptr, found.indices, found.values)
    state.residual = max(gap_and_marginals(canonical, alpha, plan, found.value))


def _lipschitz(canonical: Canonical) -> float:
    """A bound on the Lipschitz constant of the gradient, near potentials of 0."""
    constant = canonical.n / canonical.gamma
    if canonical.row_kind == L2:
        constant += 1.0 / canonical.row_weight
    elif canonical.row_kind == KL:
        constant += float(canonical.a.max()) / canonical.row_weight
    return constant


def _of_targets(canonical: Canonical, targets: Any) -> Canonical:
    """The problem with some of the targets; masses as they are."""
    cost = canonical.cost
    if isinstance(cost, DenseCost):
        cost = DenseCost(cost.C[targets])
    elif isinstance(cost, PointCost):
        cost = cost._replace(Y=cost.Y[targets])
    else:
        cost = restrict(cost, np.arange(canonical.m), targets)
    return _replaced(canonical, b=canonical.b[targets], cost=cost, targets=targets)


def _turned(canonical: Canonical) -> Canonical:
    """The problem with sources and targets exchanged, without a cap."""
    cost = canonical.cost
    if isinstance(cost, DenseCost):
        turned: Any = DenseCost(np.ascontiguousarray(cost.C.T))
    elif isinstance(cost, PointCost):
        X, Y = np.ascontiguousarray(cost.Y.T), np.ascontiguousarray(cost.X.T)
        turned = PointCost(X, Y, cost.squared)
    else:
        import scipy.sparse as sp

        shape = (canonical.n, canonical.m)
        matrix = sp.csr_array((cost.data, cost.indices, cost.indptr), shape=shape).tocsc()
        matrix.sort_indices()
        indptr, indices = matrix.indptr.astype(np.int64), matrix.indices.astype(np.int64)
        turned = SparseCost(indptr, indices, matrix.data, canonical.n)
    return _replaced(
        canonical, a=canonical.b, b=canonical.a, cost=turned, k=canonical.n, row_kind=EXACT,
        sources=canonical.targets, targets=canonical.sources,
    )  # fmt: skip


def _replaced(canonical: Canonical, **changes: Any) -> Canonical:
    import dataclasses

    return dataclasses.replace(canonical, **changes)
