"""Restarted, reflected Halpern PDHG on a scaled program: state, iterations, checks."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from lowrank_opt.core.state import State
from lowrank_opt.core.threads import parallel_region
from lowrank_opt.monotone import kernels_pdhg as kernels
from lowrank_opt.monotone.pdhg_restart import face_step, hpr_weight, pid_weight, restart_due
from lowrank_opt.monotone.pdhg_sleep import Sleepers

if TYPE_CHECKING:
    from lowrank_opt.monotone.scaling import ScaledProgram

__all__ = ["CHECK", "Measures", "Options", "PDHGState", "Work", "advance", "start"]

CHECK = 64  # iterations between two checks
PARALLEL_FROM = 400_000  # nonzeros
PROBE = 8  # iterations to try threads, or to do without
MAX_NORM_FACTOR = 100.0  # as in the certificate


@dataclass(frozen=True)
class Options:
    """How to run.

    Parameters
    ----------
    reflect : float
        1: reflected, 0.5: plain Halpern PDHG.
    weight : {"hpr", "pid", "fixed"}
        Rule for the weight between primal and dual moves.
    step : {"restricted", "constant"}
        Rule for the step.
    restart : bool
        Whether to restart at all.
    n_threads : int
        Threads of the passes.
    """

    reflect: float = 1.0
    weight: str = "hpr"
    step: str = "restricted"
    restart: bool = True
    n_threads: int = 1


@dataclass
class Measures:
    """Relative residuals of a point, in the user's units.

    Parameters
    ----------
    primal, dual, gap : float
        As in the certificate of a program.
    primal_objective, dual_objective : float
        Without offset.
    backward_error : float
        The largest of a single constraint or reduced cost.
    """

    primal: float = math.inf
    dual: float = math.inf
    gap: float = math.inf
    primal_objective: float = math.nan
    dual_objective: float = math.nan
    backward_error: float = math.inf

    @property
    def worst(self) -> float:
        """The largest relative residual; a hundredth of the backward error counts as one."""
        values = (self.primal, self.dual, self.gap, self.backward_error / MAX_NORM_FACTOR)
        return math.nan if any(math.isnan(v) for v in values) else max(values)


@dataclass
class PDHGState(State):
    """State of a run in scaled units.

    Parameters
    ----------
    x_scaled, y_scaled : ndarray
        The iterate.
    x_anchor, y_anchor : ndarray
        Where the epoch began.
    x_hat, y_hat : ndarray
        T of the iterate at the last check or restart: the answer so far.
    inner : int
        Iterations since the last restart.
    restarts : int
        Number of restarts.
    weight, step, shrink : float
        Weight of dual against primal moves, step, and how far guards have shrunk it.
    best_weight, best_quality, error_sum : float
        Memory of the weight rules.
    first_error, last_error : float
        Fixed-point error at the beginning of the epoch and at the last check.
    measures : Measures
        Of the last check.
    best_scaled : tuple of ndarray or None
        The best point seen, scaled.
    best_nit : int
        When that was.
    growing : bool
        Whether the moves look like those of a program without a solution: the step is then the
        constant one.
    """

    x_scaled: Any = None
    y_scaled: Any = None
    x_anchor: Any = None
    y_anchor: Any = None
    x_hat: Any = None
    y_hat: Any = None
    inner: int = 0
    restarts: int = 0
    weight: float = 1.0
    step: float = 1.0
    shrink: float = 1.0
    best_weight: float = 1.0
    best_quality: float = math.inf
    error_sum: float = 0.0
    first_error: float = math.inf
    last_error: float = math.inf
    measures: Measures = field(default_factory=Measures)
    best_scaled: Any = None
    best_nit: int = 0
    growing: bool = False


class Work:
    """Buffers and partitions of a run; rebuilt from the program.

    Parameters
    ----------
    program : ScaledProgram
        The program.
    options : Options
        How to run.
    """

    def __init__(self, program: ScaledProgram, options: Options) -> None:
        m, n = program.shape
        self.program, self.options = program, options
        dtype = program.c.dtype
        self.reflected = np.empty(n, dtype)
        self.cost = program.c if program.quadratic is None else np.empty(n, dtype)
        self.y_move = np.empty(m, dtype)
        self.out, self.measured = np.empty(4), np.empty(5)
        self.face = np.empty(n, np.bool_), np.empty(m, np.bool_)
        self.spare = np.empty(m)
        threads = options.n_threads
        parallel = threads > 1 and program.nnz >= PARALLEL_FROM and program.quadratic is None
        self.pace = Pace() if parallel else None
        self.sleepers = Sleepers(program)
        self.column_borders = borders(program.columns.ptr, threads)
        self.row_borders = borders(program.rows.ptr, threads)
        self.safe_step = 0.998 / program.norm if program.norm > 0 else 1.0
        self.reflect = options.reflect
        if program.quadratic is not None:  # Condat-Vu: T is averaged with constant 2/3
            self.reflect = min(self.reflect, 0.75)


class Pace:
    """Whether threads pay, by the clock: both ways give the same bits.

    On a machine that others use, a region of threads can wait for milliseconds.
    """

    def __init__(self) -> None:
        self.seconds = [math.inf, math.inf]  # an iteration: serial, parallel
        self.calls = [0, 0]

    @property
    def best(self) -> bool:
        """Whether threads were faster."""
        return self.seconds[1] < self.seconds[0]

    def probe(self, n: int) -> int:
        """Return how many of `n` iterations to do in the other way."""
        if n < 2 * PROBE:
            return 0
        other = self.calls[not self.best]
        due = other < 2 or self.calls[self.best] >= 40 * other
        return PROBE if due else 0

    def note(self, parallel: bool, n: int, seconds: float) -> None:
        """Remember how long `n` iterations took."""
        self.calls[parallel] += 1
        if self.calls[parallel] == 1 or n < PROBE:  # the first one may have compiled
            if self.seconds[parallel] == math.inf:
                self.seconds[parallel] = seconds / n if not parallel else math.inf
            return
        new, old = seconds / n, self.seconds[parallel]
        self.seconds[parallel] = new if old == math.inf else 0.7 * old + 0.3 * new


def borders(ptr: Any, parts: int) -> Any:
    """Return borders of row ranges of equal work: numbers plus rows."""
    work = ptr.astype(np.int64) + 4 * np.arange(len(ptr))
    cuts = np.searchsorted(work, np.linspace(0, work[-1], parts + 1))
    cuts[0], cuts[-1] = 0, len(ptr) - 1
    return np.ascontiguousarray(np.maximum.accumulate(cuts), np.int64)


def start(work: Work, x: Any, y: Any, rng: Any) -> PDHGState:
    """Return the state at a point in scaled units (clipped to the bounds).

    Parameters
    ----------
    work : Work
        Of the program.
    x, y : ndarray
        The point.
    rng : numpy.random.Generator
        Of power iterations.
    """
    program = work.program
    work.sleepers = Sleepers(program)
    x = np.clip(np.nan_to_num(x), program.lower, program.upper).astype(program.c.dtype)
    y = np.array(y, program.c.dtype)
    y[(y > 0) & (program.row_lower == -np.inf)] = 0.0
    y[(y < 0) & (program.row_upper == np.inf)] = 0.0
    state = PDHGState(
        x_scaled=x, y_scaled=y, x_anchor=x.copy(), y_anchor=y.copy(), x_hat=x.copy(),
        y_hat=y.copy(), step=work.safe_step, rng=rng,
    )  # fmt: skip
    state.measures = measure(work, state.x_hat, state.y_hat)
    state.residual = state.best_residual = state.measures.worst
    state.best_scaled = (x.copy(), y.copy())
    return state


def mapped(work: Work, state: PDHGState) -> tuple[Any, Any]:
    """Return T of the iterate, scaled; the state is not changed.

    Parameters
    ----------
    work : Work
        Of the program.
    state : PDHGState
        Any state.
    """
    spare = replace(
        state, x_scaled=state.x_scaled.copy(), y_scaled=state.y_scaled.copy(),
        x_hat=state.x_hat.copy(), y_hat=state.y_hat.copy(),
    )  # fmt: skip
    _iterate(work, spare, 1, False, True)
    return spare.x_hat, spare.y_hat


def steps_of(work: Work, state: PDHGState) -> tuple[Any, Any]:
    """Return the primal and the dual step."""
    kind = work.program.c.dtype.type
    tau = 1.0 / (state.weight / state.step + work.program.quadratic_norm)
    return kind(tau), kind(state.step * state.weight)


def advance(work: Work, state: PDHGState, n: int, tol: float = 0.0) -> None:
    """Do `n` iterations, with restarts where they are due.

    Parameters
    ----------
    work : Work
        Of the program.
    state : PDHGState
        Changed in place.
    n : int
        Iterations.
    tol : float, default=0.0
        Stop at a check whose residual is at most this.
    """
    while n > 0:
        until = CHECK - state.nit % CHECK
        count = min(n, until)
        first, last = state.inner == 0, count == until
        _iterate(work, state, count, first, last)
        state.nit += count
        state.inner += count
        n -= count
        if first:
            state.first_error = _error(state, work.out[0], work.out[1])
            state.last_error = state.first_error
        if last:
            check(work, state, _error(state, work.out[2], work.out[3]))
            if state.residual <= tol:
                break


def _error(state: PDHGState, primal: float, dual: float) -> float:
    """Return the fixed-point error from squared moves; without the cross term, see `face_step`."""
    return math.sqrt(state.weight * float(primal) + float(dual) / state.weight)


def _iterate(work: Work, state: PDHGState, n: int, first: bool, last: bool) -> None:
    p = work.program
    tau, sigma = steps_of(work, state)
    steps = tau, sigma, p.c.dtype.type(work.reflect)
    if p.quadratic is not None:
        kernels.iterate_quadratic(
            *p.columns.parts, *p.rows.parts, *p.quadratic.parts, p.c, work.cost, p.lower, p.upper,
            p.row_lower, p.row_upper, state.x_scaled, state.y_scaled, state.x_anchor,
            state.y_anchor, work.reflected, state.x_hat, state.y_hat, work.y_move, *steps,
            state.inner, n, first, last, work.out,
        )  # fmt: skip
        return
    at = 0
    while at < n:
        part = work.sleepers.choose(state, state.nit + at)
        flags = state.inner + at, n - at, first and at == 0, last
        if part is None:
            at += _pass(
                work, p, state, (state.x_scaled, state.x_anchor, work.reflected, state.x_hat),
                steps, flags, state.y_scaled, np.inf,
            )  # fmt: skip
            continue
        part.x[:], part.anchor[:] = state.x_scaled[part.keep], state.x_anchor[part.keep]
        vectors = part.x, part.anchor, part.reflected, part.hat
        at += _pass(work, part, state, vectors, steps, flags, part.y_ref, work.sleepers.radius)
        state.x_scaled[part.keep] = part.x
        if first or last:
            work.reflected.fill(0)
            state.x_hat.fill(0)
            work.reflected[part.keep], state.x_hat[part.keep] = part.reflected, part.hat


def _pass(
    work: Work, data: Any, state: PDHGState, vectors: Any, steps: Any, flags: Any, y_ref: Any,
    radius: float,
) -> int:  # fmt: skip
    """Iterate on all columns or a part of them; return how many iterations were done."""
    p = work.program
    x, x_anchor, reflected, x_hat = vectors
    inner, n, first, last = flags
    fixed = (
        *data.columns.parts, *data.rows.parts, data.c, data.lower, data.upper, p.row_lower,
        p.row_upper, x, state.y_scaled, x_anchor, state.y_anchor, reflected, x_hat, state.y_hat,
        work.y_move, *steps,
    )  # fmt: skip
    if work.pace is None or data is not p:
        return int(kernels.iterate(*fixed, inner, n, first, last, work.out, y_ref, radius))
    head, best = work.pace.probe(n), work.pace.best
    for at, count, parallel in ((0, head, not best), (head, n - head, best)):
        if not count:
            continue
        part = (inner + at, count, first and at == 0, last and at + count == n, work.out)
        began = time.perf_counter()
        if parallel:
            with parallel_region:
                kernels.iterate_parallel(
                    *fixed, *part, y_ref, radius, work.column_borders, work.row_borders
                )
        else:
            kernels.iterate(*fixed, *part, y_ref, radius)
        work.pace.note(parallel, count, time.perf_counter() - began)
    return n


def measure(work: Work, x: Any, y: Any) -> Measures:
    """Return the relative residuals of a scaled point.

    Parameters
    ----------
    work : Work
        Of the program.
    x, y : ndarray
        A point within the bounds, multipliers of allowed signs.
    """
    p, out, size = work.program, work.measured, work.program.cost_size
    kernels.measure_rows(
        *p.rows.parts, x, y, p.row_lower, p.row_upper, p.row_unit, p.side_size, out
    )
    primal, primal_error, support = math.sqrt(out[0]), float(out[1]), float(out[2])
    cost = p.c
    if p.quadratic is not None:
        cost = work.cost
        kernels.product(*p.quadratic.parts, x, p.c, cost)
        size = size + p.curvature_size(x)
    kernels.measure_columns(
        *p.columns.parts, cost, y, x, p.c, p.lower, p.upper, p.column_unit, size, out
    )
    unit, half = 1.0 / (p.side * p.cost), 0.5 * float(out[4])
    objective = (float(out[3]) + half) * unit + p.offset
    dual_objective = (support + float(out[2]) - half) * unit + p.offset
    gap = abs(objective - dual_objective) / (1.0 + abs(objective) + abs(dual_objective))
    return Measures(
        primal / (1.0 + p.side_norm), math.sqrt(out[0]) / (1.0 + p.cost_norm), gap, objective,
        dual_objective, max(primal_error, float(out[1])),
    )  # fmt: skip


def check(work: Work, state: PDHGState, error: float) -> None:
    """Measure the point, remember the best one, restart where it is due."""
    state.measures = measure(work, state.x_hat, state.y_hat)
    quality = state.measures.worst
    state.residual = quality
    if quality < state.best_residual:
        state.best_residual = quality
        state.best_scaled = (state.x_hat.copy(), state.y_hat.copy())
        state.best_nit = state.nit
    if not work.options.restart:
        state.last_error = error
        return
    if state.step > work.safe_step and error > 1.5 * state.first_error:
        # Off the face, or the face was wrong: less, and from where it was good.
        state.shrink *= 0.5
        state.step = max(0.5 * state.step, work.safe_step)
        back = error > 10.0 * state.first_error
        restart(work, state, (state.x_anchor, state.y_anchor) if back else None, False)
    elif restart_due(state, error, work.program.nnz):
        restart(work, state, None, True)
    state.last_error = error


def restart(work: Work, state: PDHGState, point: Any, tune: bool) -> None:
    """Begin an epoch at T of the iterate, or at `point`; choose weight and step anew if `tune`."""
    x, y = (state.x_hat, state.y_hat) if point is None else point
    options = work.options
    if tune:
        dx = float(np.linalg.norm(x - state.x_anchor))
        dy = float(np.linalg.norm(y - state.y_anchor))
        m = state.measures
        if options.weight == "hpr":
            state.weight = hpr_weight(state, m.worst, dx, dy)
        elif options.weight == "pid":
            state.weight = pid_weight(state, m.primal, m.dual, dx, dy)
        if options.step == "restricted" and state.growing:
            state.step = work.safe_step
        elif options.step == "restricted":
            state.step = face_step(work, state, x, y)
    state.x_anchor[:] = x
    state.y_anchor[:] = y
    state.x_scaled[:] = x
    state.y_scaled[:] = y
    state.inner = 0
    state.restarts += 1
