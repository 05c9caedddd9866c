"""A run of Halpern PDHG: presolve, iterations, finish, proofs, and the way back."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

from lowrank_opt.monotone import pdhg_engine as engine
from lowrank_opt.monotone import rays
from lowrank_opt.monotone.certificates_lp import finite_size
from lowrank_opt.monotone.face_finish import attempt
from lowrank_opt.monotone.points import PrimalDual
from lowrank_opt.monotone.polishing import polish
from lowrank_opt.monotone.presolve import presolve
from lowrank_opt.monotone.scaling import plain_program, scale_program, single_precision

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Values = NDArray[np.float64]

__all__ = ["advance", "begin", "best_point", "polished"]

logger = logging.getLogger("lowrank_opt")

# The finish: below this residual; again when the residual has fallen, or iterations have grown,
# by these factors; at most this share of the work.
TRY_BELOW, TRY_DROP, TRY_GROWTH, TRY_SHARE = 2e-2, 2.0, 1.25, 0.2
# Model of a try's seconds: a round, and for each of its nonzeros; operations a second.
TRY_SECONDS, TRY_SPEED = (2e-3, 2e-7), 2e8
MAX_FLOPS = 1e11
DESCENT = "A direction of unbounded descent is known, not yet a feasible point"
SINGLE_TOL = 2e-5  # of the phase in float32
RAYS_EVERY = 8  # checks
FEASIBLE_LATE = 4096  # iterations, after which a tiny violation is one however small its row is


@dataclass
class Cache:
    """What a run can rebuild from the problem: copies of data and work space.

    Parameters
    ----------
    presolved : Presolved or None
        The simplified program, if there is one.
    program : object
        The program that the iterations solve: given or presolved.
    work : Work
        Its scaled copy with work space.
    double : Work
        The same in float64.
    plain : Work or None
        The given program as it is, for measuring.
    """

    presolved: Any
    program: Any
    work: engine.Work
    double: engine.Work
    plain: Any = None


def begin(solver: Any, problem: Any, state: Any, x0: Any) -> None:
    """Fill the first state.

    Parameters
    ----------
    solver : HalpernPDHG
        The parameters.
    problem : LinearProgram or QuadraticProgram
        The program.
    state : HalpernPDHGState
        To be filled.
    x0 : PrimalDual, array or None
        The start.
    """
    m, n = problem.A.shape
    x, y = (np.zeros(n), np.zeros(m)) if x0 is None else problem.pair(x0)
    with np.errstate(invalid="ignore"):
        x = np.clip(x, problem.lower, np.maximum(problem.lower, problem.upper))
    y = allowed(problem, y)
    state.best = PrimalDual(x, y)
    if problem.conflicts:
        state.outcome, state.message = "infeasible", _sentence(problem.conflicts)
        return
    trivial = rays.trivial(problem, x)
    if trivial is not None:
        state.ray, state.message = trivial.ray, trivial.message
        if trivial.point is not None:
            state.best, state.phase = PrimalDual(trivial.point, np.zeros(m)), "closed"
            state.best_residual = state.residual = _measured(solver, problem, state, *state.best)
        if trivial.outcome != "perhaps":
            state.outcome = trivial.outcome
            return
        state.phase = "feasible"
    if x0 is not None:
        state.best_residual = state.residual = _measured(solver, problem, state, x, y)
        if state.residual <= solver.tol:
            return
    cache = _cache(solver, problem, state, fresh=True)
    if cache is None:
        return
    if cache.presolved is not None:
        x, y = cache.presolved.restrict(x, y)
    _start(solver, state, cache, x, y)
    if state.phase == "feasible":
        _check_feasible(solver, problem, state, cache)
    else:
        _note(solver, problem, state, cache)


def allowed(problem: Any, y: Values) -> Values:
    """Return multipliers without parts of a sign that no constraint allows."""
    wrong = ((y > 0) & (problem.constraint_lower == -np.inf)) | (
        (y < 0) & (problem.constraint_upper == np.inf)
    )
    return np.where(wrong, 0.0, y)


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _start(solver: Any, state: Any, cache: Cache, x: Values, y: Values) -> None:
    rng = np.random.default_rng([state.seed, 1])
    state.engine = engine.start(cache.work, *cache.work.program.from_user(x, y), rng)
    state.tried_nit, state.tried_residual = state.nit, np.inf


def _cache(solver: Any, problem: Any, state: Any, fresh: bool = False) -> Cache | None:
    """Return the run's copies of the data, building them when they are not there.

    ``None`` when presolve has answered; the state then has the answer.
    """
    if isinstance(state.cache, Cache):
        return state.cache
    presolved, program = None, problem
    wanted = solver.presolve and fresh and state.phase == "original"
    if state.phase == "feasible":
        program = _without_costs(problem)
    if problem.Q is None and (wanted or state.phase == "presolved"):
        found = presolve(problem)
        if found.status == "reduced":
            presolved, program, state.phase = found, found.problem, "presolved"
        elif found.status == "infeasible" and _proved(problem, state, "infeasible", found.ray):
            state.message = "Found by presolve"
            return None
        elif found.status == "unbounded" and _proved(problem, state, "unbounded", found.ray):
            state.outcome, state.phase = "", "feasible"
            state.message, program = DESCENT, _without_costs(problem)
        elif found.status == "solved":
            x, y = found.postsolve(np.zeros(0), np.zeros(0))
            residual = _measured(solver, problem, state, x, y)
            if residual <= solver.tol:
                state.best, state.phase = PrimalDual(x, allowed(problem, y)), "closed"
                state.best_residual = state.residual = residual
                return None
    if fresh and solver.first_phase is not None:
        state.single = True
    scaled = scale_program(
        program, ruiz_sweeps=solver.ruiz_sweeps, pock_chambolle=solver.pock_chambolle,
        rescale=solver.rescale, rng=np.random.default_rng([state.seed, 0]),
    )  # fmt: skip
    if presolved is not None:  # residuals relative to the sizes of the given program
        scaled = replace(
            scaled, side_norm=presolved.side_norm, cost_norm=presolved.cost_norm,
            offset=program.offset - problem.offset,
        )  # fmt: skip
    options = engine.Options(
        reflect=solver.reflect, weight=solver.weight, step=solver.step_size,
        restart=solver.restart is not None, n_threads=_threads(solver, scaled.nnz),
    )  # fmt: skip
    work = double = engine.Work(scaled, options)
    if state.single:
        work = engine.Work(single_precision(scaled), options)
    state.cache = Cache(presolved, program, work, double)
    return state.cache


def _without_costs(problem: Any) -> Any:
    """Return the program of finding a feasible point."""
    names = ("A", "constraint_lower", "constraint_upper", "lower", "upper")
    parts = {name: getattr(problem, name) for name in names}
    return SimpleNamespace(c=np.zeros(len(problem.c)), Q=None, offset=0.0, **parts)


def _threads(solver: Any, nnz: int) -> int:
    if nnz < engine.PARALLEL_FROM or solver.n_threads == 1:
        return 1
    import numba

    return int(numba.get_num_threads())


def _proved(problem: Any, state: Any, outcome: str, ray: Any) -> bool:
    """Keep a ray if it is a proof on the given program."""
    if ray is None:
        return False
    grade = problem.farkas(ray) if outcome == "infeasible" else problem.recession(ray)
    if not grade.proved:
        return False
    state.outcome, state.ray, state.message = outcome, np.array(ray, np.float64), ""
    return True


def _measured(solver: Any, problem: Any, state: Any, x: Values, y: Values) -> float:
    """Return the residual of a point of the given program, in its own units."""
    cache = state.cache if isinstance(state.cache, Cache) else None
    plain = None if cache is None else cache.plain
    if plain is None:
        plain = engine.Work(plain_program(problem), engine.Options())
        if cache is not None:
            cache.plain = plain
    return engine.measure(plain, x, y).worst


def advance(solver: Any, problem: Any, state: Any, n: int) -> None:
    """Do up to `n` iterations, with all that is due at checks.

    Parameters
    ----------
    solver : HalpernPDHG
        The parameters.
    problem : LinearProgram or QuadraticProgram
        The program.
    state : HalpernPDHGState
        Changed in place.
    n : int
        Iterations.
    """
    cache = _cache(solver, problem, state)
    if cache is None:
        return
    if state.engine is None:  # nothing to iterate: the start was measured only
        x, y = state.best
        if cache.presolved is not None:
            x, y = cache.presolved.restrict(x, y)
        _start(solver, state, cache, x, y)
    while n > 0 and not state.outcome and not state.residual <= solver.tol:
        run = state.engine
        count = min(n, engine.CHECK - run.nit % engine.CHECK)
        engine.advance(cache.work, run, count)
        state.nit += count
        state.count(iterations=count)
        n -= count
        if run.nit % engine.CHECK == 0:
            cache = _check(solver, problem, state, cache)


def _check(solver: Any, problem: Any, state: Any, cache: Cache) -> Cache:
    run = state.engine
    if state.phase == "feasible":
        return _check_feasible(solver, problem, state, cache)
    _note(solver, problem, state, cache)
    goal = solver.tol if cache.presolved is None else min(state.goal, solver.tol)
    if run.residual <= goal and not state.single:
        return _settle(solver, problem, state, cache, run.x_hat, run.y_hat, run.residual)
    if state.single and (run.residual <= max(SINGLE_TOL, goal) or _stuck(run)):
        x, y = cache.double.program.to_user(*_doubled(run.best_scaled))
        return _renew(solver, problem, state, x, y, presolve=cache.presolved is not None)
    if solver.finish and _try_due(state, cache):
        found = _try_finish(state, cache, goal, solver.max_time)
        if found is not None:
            return _settle(solver, problem, state, cache, *found)
    if solver.infeasibility and _rays_due(run):
        return _look_for_rays(solver, problem, state, cache)
    return cache


def _rays_due(run: Any) -> bool:
    checks = run.nit // engine.CHECK
    return checks % RAYS_EVERY == 0 or checks & (checks - 1) == 0


def _check_feasible(solver: Any, problem: Any, state: Any, cache: Cache) -> Cache:
    """Look for a feasible point, or a proof of none: a direction of descent is known."""
    run = state.engine
    if run.nit == 0 and solver.presolve and _contradicted(problem, state):
        return cache
    x, y = cache.work.program.to_user(run.x_hat, run.y_hat)
    x = np.clip(x, problem.lower, problem.upper)
    primal = run.measures.primal
    sure = run.nit >= FEASIBLE_LATE and primal <= 1e-3 * solver.tol
    if primal <= solver.tol and (sure or _row_error(problem, x) <= solver.tol):
        state.outcome = "unbounded"
        state.best = PrimalDual(x, np.zeros(len(y)))
        state.best_residual = state.residual = _measured(solver, problem, state, *state.best)
    elif _rays_due(run):
        for outcome, ray in rays.candidates(cache.work, run):
            if outcome == "infeasible" and _proved(problem, state, outcome, ray):
                break
    return cache


def _feasible(cache: Cache, run: Any, tol: float) -> bool:
    """Return whether the last check's point is feasible, in each row's own terms as well."""
    p = cache.program
    x = np.asarray(cache.work.program.to_user(run.x_hat, run.y_hat)[0], np.float64)
    close = run.measures.primal <= tol
    return bool(close and _row_error(p, np.clip(x, p.lower, p.upper)) <= tol)


def _row_error(problem: Any, x: Values) -> float:
    """Return the largest violation of a row relative to its own terms, however small they are."""
    activity = problem.A @ x
    low, high = problem.constraint_lower, problem.constraint_upper
    wrong = np.abs(activity - np.clip(activity, low, high))
    size = np.maximum(finite_size(low, high), abs(problem.A) @ np.abs(x))
    parts = np.divide(wrong, size, out=np.zeros(len(size)), where=wrong > 0.0)
    return float(parts.max(initial=0.0))


def _contradicted(problem: Any, state: Any) -> bool:
    """Return whether presolve proves that no point is feasible, whatever the costs."""
    if problem.Q is not None:
        return False
    found = presolve(replace(problem, c=np.zeros(len(problem.c))))
    return found.status == "infeasible" and _proved(problem, state, "infeasible", found.ray)


def _note(solver: Any, problem: Any, state: Any, cache: Cache) -> None:
    """Take over residual and log after a check."""
    run = state.engine
    best = run.best_residual
    if state.single and run.best_nit == run.nit:
        best = engine.measure(cache.double, *_doubled(run.best_scaled)).worst
    if cache.presolved is None and best < state.best_residual:
        state.best_residual = best
        x, y = cache.double.program.to_user(*_doubled(run.best_scaled))
        state.best = PrimalDual(np.clip(x, problem.lower, problem.upper), y)
    if np.isnan(run.residual):
        state.residual = run.residual
    elif cache.presolved is not None and best <= solver.tol:
        state.residual = state.best_residual  # on the given program it may be larger
    else:
        state.residual = min(best, state.best_residual)
    if solver.log is None:
        return
    if state.log and state.nit < state.log[-1][0] + solver.log:
        return
    m = run.measures
    row = (
        state.nit, m.primal, m.dual, m.gap, m.primal_objective + problem.offset,
        m.dual_objective + problem.offset, run.weight, run.step, run.restarts,
    )  # fmt: skip
    state.log.append(row)
    logger.debug("HalpernPDHG %s", row)


def _doubled(point: Any) -> Any:
    return tuple(np.asarray(part, np.float64) for part in point)


def _stuck(run: Any) -> bool:
    return bool(run.nit >= 4 * max(run.best_nit, 1000))


def _renew(solver: Any, problem: Any, state: Any, x: Values, y: Values, *, presolve: bool) -> Cache:
    """Go on from a point of the current program in double precision, or of the given one."""
    weight = state.engine.weight
    state.cache = None
    state.single = False
    state.phase = "presolved" if presolve else "original"
    cache = _cache(solver, problem, state)
    assert cache is not None
    _start(solver, state, cache, x, y)
    if presolve:
        state.engine.weight = weight
    _note(solver, problem, state, cache)
    return cache


def _settle(
    solver: Any, problem: Any, state: Any, cache: Cache, x: Values, y: Values, residual: float
) -> Cache:
    """A scaled point meets the goal: make it an answer of the given program, or go on."""
    run = state.engine
    if residual <= run.best_residual:
        run.best_scaled, run.best_residual = (x.copy(), y.copy()), residual
    x, y = cache.double.program.to_user(x, y)
    if cache.presolved is None:
        state.best = PrimalDual(np.clip(x, problem.lower, problem.upper), y)
        state.best_residual = state.residual = residual
        return cache
    point, residual = _back(solver, problem, state, cache, x, y)
    state.residual = residual
    if residual <= state.best_residual or residual <= solver.tol:
        state.best, state.best_residual = point, residual
    if residual <= solver.tol:
        return cache
    state.goal *= 0.25
    if state.goal >= solver.tol / 300.0:
        logger.debug("HalpernPDHG: the residual after postsolve is %.2e", residual)
        return cache
    logger.debug("HalpernPDHG: the residual after postsolve is %.2e; no more presolve", residual)
    return _renew(solver, problem, state, *point, presolve=False)


def _back(
    solver: Any, problem: Any, state: Any, cache: Cache, x: Values, y: Values
) -> tuple[PrimalDual, float]:
    """Return a point of the presolved program as one of the given program, finished if need be."""
    x, y = cache.presolved.postsolve(x, y)
    x = np.clip(x, problem.lower, problem.upper)
    y = allowed(problem, y)
    residual = _measured(solver, problem, state, x, y)
    if residual > solver.tol and solver.finish:
        for x_new, y_new in _finished(problem, x, y, solver.tol, 1e6, solver.max_time).candidates:
            found = _measured(solver, problem, state, x_new, y_new)
            if found < residual:
                x, y, residual = x_new, y_new, found
    return PrimalDual(x, y), residual


def _finished(
    program: Any, x: Values, y: Values, tol: float, iterations: float, max_time: float | None
) -> Any:
    """Return what the finish makes of a point; a factorisation may cost a share of iterations.

    It cannot be interrupted: it may not cost more than about a tenth of `max_time` either.
    """
    m, n = program.A.shape
    flops = TRY_SHARE * iterations * (4.0 * program.A.nnz + 15.0 * (m + n)) + 2e7
    if max_time is not None:
        flops = min(flops, 0.1 * max_time * 1e9 + 2e7)
    return attempt(
        program.A, program.c, program.constraint_lower, program.constraint_upper, program.lower,
        program.upper, x, y, Q=program.Q, max_flops=min(flops, MAX_FLOPS), tol=tol,
    )  # fmt: skip


def _seconds(program: Any) -> float:
    """Return about how long an iteration takes; a model, since clocks would change the answer."""
    m, n = program.A.shape
    return 2e-9 * (2 * program.A.nnz + 4 * (m + n)) + 1e-6


def _try_due(state: Any, cache: Cache) -> bool:
    run = state.engine
    spent = TRY_SHARE * state.nit * _seconds(cache.program)
    if not run.residual < TRY_BELOW or state.tried_work > spent:
        return False
    return bool(
        run.residual * TRY_DROP <= state.tried_residual
        or state.nit >= TRY_GROWTH * max(state.tried_nit, engine.CHECK)
    )


def _try_finish(
    state: Any, cache: Cache, goal: float, max_time: float | None
) -> tuple[Values, Values, float] | None:
    """Try the finish at the last check's point; return what meets the goal, in scaled units."""
    run, work, program = state.engine, cache.work, cache.program
    state.tried_nit, state.tried_residual = state.nit, run.residual
    state.count(finish_tries=1)
    x, y = work.program.to_user(run.x_hat, run.y_hat)
    x = np.clip(np.asarray(x, np.float64), program.lower, program.upper)
    best: tuple[Values, Values, float] | None = None
    found = _finished(program, x, np.asarray(y, np.float64), goal, state.nit, max_time)
    fixed, by_number = TRY_SECONDS
    state.tried_work += found.rounds * (fixed + by_number * program.A.nnz) + found.work / TRY_SPEED
    scale = cache.double.program.from_user
    for point in found.candidates:
        x_new, y_new = scale(*point)
        residual = engine.measure(cache.double, x_new, y_new).worst
        if residual <= goal and (best is None or residual < best[2]):
            best = x_new, y_new, residual
    return best


def _look_for_rays(solver: Any, problem: Any, state: Any, cache: Cache) -> Cache:
    run = state.engine
    for outcome, ray in rays.candidates(cache.work, run):
        full: Any = ray
        if cache.presolved is not None:
            full = _lifted(cache, outcome, ray)
        if full is None or not _proved(problem, state, outcome, full):
            continue
        if outcome == "unbounded" and not _feasible(cache, run, solver.tol):
            # Without a feasible point the program may be infeasible as well.
            state.outcome, state.phase, state.cache, state.single = "", "feasible", None, False
            state.message = DESCENT
            cache_new = _cache(solver, problem, state)
            assert cache_new is not None
            _start(solver, state, cache_new, *state.best)
            _check_feasible(solver, problem, state, cache_new)
            return cache_new
        break
    return cache


def _lifted(cache: Cache, outcome: str, ray: Values) -> Values | None:
    """Return a ray of the presolved program as one of the given program."""
    lifted: Values | None = cache.presolved.postsolve_ray(outcome, ray)
    return lifted


def best_point(
    solver: Any, problem: Any, state: Any, last: bool = False
) -> tuple[PrimalDual, float]:
    """Return a copy of the best point in the program's own units, and its residual.

    Parameters
    ----------
    solver : HalpernPDHG
        The parameters.
    problem : LinearProgram or QuadraticProgram
        The program.
    state : HalpernPDHGState
        Not changed.
    last : bool, default=False
        Also look at the iterate of this moment, not only at those of the checks.
    """
    best, residual = state.best, state.best_residual
    run = state.engine
    unfinished = not state.residual <= solver.tol and not state.outcome
    if run is not None and unfinished and state.phase != "feasible":
        cache = _cache(solver, problem, state)
        assert cache is not None
        points = [run.best_scaled] if cache.presolved is not None else []
        if last and run.nit % engine.CHECK:
            points.append(engine.mapped(cache.work, run))
        for scaled in points:
            x, y = cache.double.program.to_user(*_doubled(scaled))
            if cache.presolved is not None:
                point, found = _back(solver, problem, state, cache, x, y)
            else:
                point = PrimalDual(np.clip(x, problem.lower, problem.upper), y)
                found = engine.measure(cache.double, *_doubled(scaled)).worst
            if found < residual or not np.isfinite(residual):
                best, residual = point, found
    return PrimalDual(best.x.copy(), best.y.copy()), float(residual)


def polished(
    solver: Any, problem: Any, state: Any, point: PrimalDual, residual: float
) -> tuple[PrimalDual, float]:
    """Return the point with smaller violations, if its residual allows it.

    Parameters
    ----------
    solver : HalpernPDHG
        The parameters.
    problem : LinearProgram or QuadraticProgram
        The program.
    state : HalpernPDHGState
        Not changed.
    point : PrimalDual
        The answer.
    residual : float
        Its residual.
    """
    limit = max(solver.tol, residual)
    x, y, info = polish(
        problem, point.x, point.y, tol=1e-3 * solver.tol, gap_tol=limit, seed=state.seed,
        max_time=solver.max_time,
    )  # fmt: skip
    if not info["residual"] <= limit:
        return point, residual
    return PrimalDual(x, y), float(info["residual"])
