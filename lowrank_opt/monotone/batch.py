"""Many linear programs with one matrix, solved together."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from numbers import Real
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

from lowrank_opt.core.errors import ProblemError, ProblemTypeError
from lowrank_opt.core.params import COUNT, TOLERANCE, Interval, make_rng, validate_parameters
from lowrank_opt.core.result import Result
from lowrank_opt.core.state import Status
from lowrank_opt.monotone import kernels_batch as kernels
from lowrank_opt.monotone import pdhg_engine as engine
from lowrank_opt.monotone import rays
from lowrank_opt.monotone.face_finish import attempt
from lowrank_opt.monotone.halpern_pdhg import HalpernPDHG
from lowrank_opt.monotone.linear_program import LinearProgram
from lowrank_opt.monotone.pdhg_restart import (
    FACE_LIMIT,
    FACE_SAFETY,
    FACE_STEPS,
    hpr_weight,
    restart_due,
)
from lowrank_opt.monotone.points import PrimalDual
from lowrank_opt.monotone.scaling import plain_program, scale_program
from lowrank_opt.numerics._arrays import real_array

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Values = NDArray[np.float64]

__all__ = ["solve_batch"]

WIDTH = 4  # programs in a register
LOOK_EVERY = 8  # checks between two searches for proofs
# The finish: below this residual, when it has fallen or iterations have grown by these factors, at
# most this share of the time of the iterations, by a model: seconds of a round (fixed, for a
# nonzero), operations in a second.
TRY_BELOW, TRY_DROP, TRY_GROWTH, TRY_SHARE = 2e-2, 2.0, 1.25, 0.1
TRY_SECONDS, TRY_SPEED, MAX_FLOPS = (2e-3, 2e-7), 1e9, 1e10
CERTIFIED = 10.0  # times `tol`: what the certificate of a converged program may have
_SIDES = ("constraint_lower", "constraint_upper")
_CONSTRAINTS: dict[str, list[Any]] = {
    "tol": [TOLERANCE],
    "max_iter": [Interval(int, 0, None, closed="left")],
    "max_time": [None, Interval(Real, 0, None)],
    "finish": ["boolean"],
    "infeasibility": ["boolean"],
    "n_threads": [None, COUNT],
}


@dataclass
class Program:
    """One program of a batch: what does not fit into the columns of matrices.

    Parameters
    ----------
    number : int
        Its place among all.
    side, cost : float
        What its right-hand sides and costs were multiplied with.
    side_norm, cost_norm : float
        Norms of right-hand sides and costs in the user's units.
    step, weight : float
        Step and weight between dual and primal moves.
    """

    number: int
    side: float
    cost: float
    side_norm: float
    cost_norm: float
    step: float
    weight: float = 1.0
    nit: int = 0
    inner: int = 0
    restarts: int = 0
    shrink: float = 1.0
    best_weight: float = 1.0
    best_quality: float = math.inf
    first_error: float = math.inf
    last_error: float = math.inf
    primal: float = math.inf
    residual: float = math.inf
    best_residual: float = math.inf
    growing: bool = False
    tried_nit: int = 0
    tried_residual: float = math.inf
    tried_work: float = 0.0


def solve_batch(
    problem: LinearProgram,
    *,
    constraint_lower: Any = None,
    constraint_upper: Any = None,
    c: Any = None,
    lower: Any = None,
    upper: Any = None,
    x0: Any = None,
    tol: float = 1e-6,
    max_iter: int = 10_000_000,
    max_time: float | None = None,
    finish: bool = True,
    infeasibility: bool = True,
    n_threads: int | None = 1,
    random_state: Any = 0,
) -> list[Result]:
    """Solve linear programs that differ in costs, right-hand sides or bounds, not in the matrix.

    The iterations are those of :class:`~lowrank_opt.monotone.HalpernPDHG` without presolve, with a
    weight, step, restarts and stopping of its own for each program. The matrix is read once an
    iteration for all programs that have not ended; those that have are taken out.

    Parameters
    ----------
    problem : LinearProgram
        The matrix, and whatever is not given below.
    constraint_lower, constraint_upper : array-like of shape (k, m) or None, default=None
        Bounds of the constraints, one row a program; ``None``: those of `problem` for all.
    c : array-like of shape (k, n) or None, default=None
        Costs.
    lower, upper : array-like of shape (k, n) or None, default=None
        Bounds of the variables.
    x0 : PrimalDual or sequence of k PrimalDual, or None, default=None
        One start for all, or one for each, such as the solution of a similar program.
    tol : float, default=1e-6
        Largest residual of :class:`~lowrank_opt.monotone.LinearProgram`, for each.
    max_iter : int, default=10_000_000
        Limit on the iterations of each.
    max_time : float or None, default=None
        Limit on the seconds of all together.
    finish : bool, default=True
        Whether to try now and then to solve the equations of the active face.
    infeasibility : bool, default=True
        Whether to look for proofs that a program is infeasible or unbounded.
    n_threads : int or None, default=1
        Threads, each with its share of the programs; ``None``: all that numba may use.
    random_state : int, Generator or None, default=0
        Seed of the power iterations that estimate norms.

    Returns
    -------
    list of Result
        One for each program, in order, as of :class:`~lowrank_opt.monotone.HalpernPDHG` with the
        fields ``y``, ``z`` and ``ray``; each is graded by the certificate of its own program.
        ``time`` is the time after which it had ended. There is no ``state`` to resume.

    Raises
    ------
    ProblemError
        Arrays of other shapes, or of different numbers of programs; NaN.
    ProblemTypeError
        A problem with a quadratic term, or of another class.

    See Also
    --------
    HalpernPDHG : For one program, also quadratic.

    Notes
    -----
    A value of the matrix is read once for all, and the sums of four programs run in one register.
    Measured on a matrix of 1e6 nonzeros, 8 programs take 0.47 and 16 take 0.42 of the time that
    they take one by one; with 1e5 nonzeros or fewer, which a cache holds, there is little to gain.
    The scaling of rows and columns is shared. Programs that are decided without iterations, or
    turn out to be unbounded, are left to :class:`~lowrank_opt.monotone.HalpernPDHG`; an infeasible
    one takes part until it is proved to be, and leaves the others alone.

    Cost of an iteration: 4 k nnz flops; about ``24 nnz + 8 k (8 n + 6 m)`` bytes.

    Examples
    --------
    >>> from lowrank_opt.monotone.batch import solve_batch
    >>> from lowrank_opt.monotone import LinearProgram
    >>> lp = LinearProgram([-1.0, -2.0], [[1.0, 1.0]], None, 4.0, lower=0.0, upper=3.0)
    >>> results = solve_batch(lp, constraint_upper=[[4.0], [2.0], [-1.0]])
    >>> [result.status.name for result in results]
    ['CONVERGED', 'CONVERGED', 'INFEASIBLE']
    >>> [round(result.fun, 4) for result in results[:2]]
    [-7.0, -4.0]
    """
    began = time.perf_counter()
    if getattr(problem, "Q", None) is not None or not isinstance(problem, LinearProgram):
        raise ProblemTypeError(
            f"problem is a {type(problem).__name__}; solve_batch needs a LinearProgram: solve "
            "others one by one with HalpernPDHG"
        )
    values = {
        "tol": tol, "max_iter": max_iter, "max_time": max_time, "finish": finish,
        "infeasibility": infeasibility, "n_threads": n_threads,
    }  # fmt: skip
    validate_parameters("solve_batch", values, _CONSTRAINTS)
    given = {
        "constraint_lower": constraint_lower, "constraint_upper": constraint_upper, "c": c,
        "lower": lower, "upper": upper,
    }  # fmt: skip
    programs = _programs(problem, given)
    points = _starts(problem, x0, len(programs))
    deadline = math.inf if max_time is None else began + max_time
    seed = int(make_rng(random_state).integers(2**32))
    alone = HalpernPDHG(
        tol=tol, max_iter=max_iter, presolve=False, finish=finish, infeasibility=infeasibility,
        n_threads=1, random_state=seed,
    )  # fmt: skip
    results: list[Any] = [None] * len(programs)
    together = []
    for q, program in enumerate(programs):
        if program.conflicts or rays.trivial(program, np.zeros(problem.shape[1])) is not None:
            results[q] = _alone(alone, program, points[q], deadline)
        else:
            together.append(q)
    if together:
        scaled = scale_program(problem, rescale=False, rng=np.random.default_rng([seed, 0]))
        parts = np.array_split(together, min(len(together), _threads(n_threads)))
        jobs = [
            Batch(scaled, [programs[q] for q in part], [points[q] for q in part], part,
                  alone, deadline, began, results)
            for part in parts
        ]  # fmt: skip
        if len(jobs) == 1:
            jobs[0].run()
        else:
            from concurrent.futures import ThreadPoolExecutor

            with ThreadPoolExecutor(len(jobs)) as pool:
                list(pool.map(Batch.run, jobs))
    return results


def _threads(n_threads: int | None) -> int:
    if n_threads is not None:
        return int(n_threads)
    import numba

    return int(numba.get_num_threads())


def _programs(problem: LinearProgram, given: dict[str, Any]) -> list[LinearProgram]:
    """Return one program for each row of what was given."""
    m, n = problem.shape
    arrays: dict[str, Values] = {}
    for name, value in given.items():
        if value is None:
            continue
        array = np.asarray(real_array(name, value, finite=name == "c")[0], np.float64)
        size = m if name in _SIDES else n
        if array.ndim != 2 or array.shape[1] != size:
            raise ProblemError(
                f"{name} has shape {array.shape}; expected (k, {size}), one row for each program"
                f" with the matrix of shape ({m}, {n})"
            )
        arrays[name] = array
    if not arrays:
        raise ProblemError(
            f"none of {', '.join(given)} is given: give at least one with a row for each program, "
            "or solve the single program with HalpernPDHG"
        )
    counts = {name: len(array) for name, array in arrays.items()}
    if len(set(counts.values())) > 1:
        text = ", ".join(f"{name} has {size}" for name, size in counts.items())
        raise ProblemError(f"the numbers of rows, one for each program, differ: {text}")
    k = next(iter(counts.values()))
    return [replace(problem, **{name: a[q] for name, a in arrays.items()}) for q in range(k)]


def _starts(problem: LinearProgram, x0: Any, k: int) -> list[PrimalDual | None]:
    if x0 is None:
        return [None] * k
    if isinstance(x0, PrimalDual) or (isinstance(x0, np.ndarray) and x0.ndim == 1):
        return [problem.pair(x0)] * k
    if len(x0) != k:
        raise ProblemError(
            f"x0 has {len(x0)} points for {k} programs; give one PrimalDual for all, or a list "
            "of one for each"
        )
    return [None if point is None else problem.pair(point) for point in x0]


def _alone(solver: HalpernPDHG, program: LinearProgram, x0: Any, deadline: float) -> Result:
    left = None
    if deadline < math.inf:
        left = max(1e-3, deadline - time.perf_counter())
    result = HalpernPDHG(**{**solver.get_params(), "max_time": left}).solve(program, x0=x0)
    result["state"] = None
    result["solver"] = "solve_batch"
    return result


class Batch:
    """The programs of one thread: matrices of points with one column each, and their loop.

    Parameters
    ----------
    scaled : ScaledProgram
        Scaled matrix, scales, norm.
    problems : list of LinearProgram
        The programs.
    points : list of PrimalDual or None
        Their starts.
    numbers : array-like of int
        Their places among all.
    solver : HalpernPDHG
        The parameters; for programs to be solved alone.
    deadline, began : float
        By the clock `time.perf_counter`.
    results : list
        Where results are put.
    """

    def __init__(
        self, scaled: Any, problems: list[LinearProgram], points: list[Any], numbers: Any,
        solver: HalpernPDHG, deadline: float, began: float, results: list[Any],
    ) -> None:  # fmt: skip
        self.scaled, self.solver, self.results = scaled, solver, results
        self.deadline, self.began = deadline, began
        self.problems = {int(q): problem for q, problem in zip(numbers, problems, strict=True)}
        self.points = {int(q): point for q, point in zip(numbers, points, strict=True)}
        self.safe_step = 0.998 / scaled.norm if scaled.norm > 0 else 1.0
        self.rng = np.random.default_rng([solver.random_state, 1])
        self.nit = 0
        row, column = scaled.row, scaled.column
        sides, costs, programs, sizes = [], [], [], []
        for q, p in self.problems.items():
            size = _sizes(p.constraint_lower, p.constraint_upper)
            side = _power_of_two(1.0 / (1.0 + np.linalg.norm(size * row)))
            cost = _power_of_two(1.0 / (1.0 + np.linalg.norm(p.c * column)))
            sides.append(side)
            costs.append(cost)
            sizes.append(size)
            programs.append(
                Program(q, side, cost, float(np.linalg.norm(size)), float(np.linalg.norm(p.c)),
                        self.safe_step)
            )  # fmt: skip
        self.programs = programs
        width = -(-len(programs) // WIDTH) * WIDTH
        m, n = scaled.shape
        self.arrays = {name: np.zeros((n, width)) for name in _OF_COLUMNS}
        self.arrays |= {name: np.zeros((m, width)) for name in _OF_ROWS}
        a = self.arrays
        a["row_lower"][:] = -np.inf
        a["row_upper"][:] = np.inf
        for k, (p, program) in enumerate(zip(self.problems.values(), programs, strict=True)):
            a["cost"][:, k] = p.c * column * program.cost
            a["cost_size"][:, k] = np.abs(p.c)
            a["side_size"][:, k] = sizes[k]
            for name in ("lower", "upper"):
                a[name][:, k] = getattr(p, name) / column * program.side
            for name in _SIDES:
                a["row" + name[10:]][:, k] = getattr(p, name) * row * program.side
            start = self.points[program.number]
            x, y = (np.zeros(n), np.zeros(m)) if start is None else start
            x = np.clip(x, p.lower, p.upper)
            wrong = ((y > 0) & (p.constraint_lower == -np.inf)) | (
                (y < 0) & (p.constraint_upper == np.inf)
            )
            a["x"][:, k] = x / column * program.side
            a["y"][:, k] = np.where(wrong, 0.0, y) / row * program.cost
        for name in ("anchor", "hat", "best"):
            a["x_" + name][:] = a["x"]
            a["y_" + name][:] = a["y"]
        self._work()

    def _work(self) -> None:
        """Make the work space for the present width."""
        width = self.arrays["x"].shape[1]
        self.mix, self.sums, self.sizes = np.empty((3, width))
        self.out = np.empty((4, width))
        self.tau, self.sigma, self.inner = np.ones((3, width))
        self.side, self.unit_cost = np.ones((2, width))
        for k, program in enumerate(self.programs):
            self.side[k], self.unit_cost[k] = 1.0 / program.side, 1.0 / program.cost

    # -- the loop ---------------------------------------------------------------------------------

    def run(self) -> None:
        """Solve them all."""
        tol, limit = self.solver.tol, self.solver.max_iter
        self._measure()
        ended = [k for k, p in enumerate(self.programs) if p.residual <= tol]
        self._leave(dict.fromkeys(ended, Status.CONVERGED))
        while self.programs:
            status = None
            if self.nit >= limit:
                status = Status.ITERATION_LIMIT
            elif time.perf_counter() >= self.deadline:
                status = Status.TIME_LIMIT
            if status is not None:
                self._leave(dict.fromkeys(range(len(self.programs)), status))
                return
            self._iterate(min(engine.CHECK, limit - self.nit))
            self._leave(self._check())

    def _iterate(self, n: int) -> None:
        """Do `n` iterations, the last one of which is measured, and the first where it is due."""
        for k, p in enumerate(self.programs):
            self.tau[k], self.sigma[k] = p.step / p.weight, p.step * p.weight
        fresh = [k for k, p in enumerate(self.programs) if p.inner == 0]
        if fresh and n > 1:
            self._kernel(1)
            errors = self._errors()
            for k in fresh:
                self.programs[k].first_error = self.programs[k].last_error = errors[k]
            n -= 1
        self._kernel(n)

    def _kernel(self, n: int) -> None:
        a, s = self.arrays, self.scaled
        for k, p in enumerate(self.programs):
            self.inner[k] = p.inner
        kernels.iterate_batch(
            *s.columns.parts, *s.rows.parts, a["cost"], a["lower"], a["upper"], a["row_lower"],
            a["row_upper"], a["x"], a["y"], a["x_anchor"], a["y_anchor"], a["reflected"],
            a["x_hat"], a["y_hat"], a["y_move"], self.tau, self.sigma, self.mix, self.sums,
            float(self.solver.reflect), self.inner, n, True,
        )  # fmt: skip
        self.nit += n
        for p in self.programs:
            p.inner += n
            p.nit = self.nit

    def _errors(self) -> list[float]:
        """Return the fixed-point errors at the last iteration."""
        a, out = self.arrays, self.out
        kernels.column_moves(a["reflected"], a["x_hat"], out[0])
        np.einsum("ik,ik->k", a["y_move"], a["y_move"], out=out[1])
        return [
            math.sqrt(p.weight * out[0, k] + out[1, k] / p.weight)
            for k, p in enumerate(self.programs)
        ]

    def _measure(self) -> None:
        """Measure T(z) of every program in the user's units, and keep the best points."""
        a, s, out = self.arrays, self.scaled, self.out
        kernels.measure_rows(
            *s.rows.parts, a["x_hat"], a["y_hat"], a["row_lower"], a["row_upper"], s.row_unit,
            self.side, a["side_size"], self.sums, self.sizes, out[:3],
        )  # fmt: skip
        rows = out[:3].copy()
        kernels.measure_columns(
            *s.columns.parts, a["cost"], a["y_hat"], a["x_hat"], a["lower"], a["upper"],
            s.column_unit, self.unit_cost, a["cost_size"], self.sums, self.sizes, out,
        )  # fmt: skip
        unit = self.side * self.unit_cost
        objective, dual = out[3] * unit, (rows[2] + out[2]) * unit
        better = []
        for k, p in enumerate(self.programs):
            p.primal = math.sqrt(rows[0, k]) / (1.0 + p.side_norm)
            gap = abs(objective[k] - dual[k]) / (1.0 + abs(objective[k]) + abs(dual[k]))
            parts = (
                p.primal, math.sqrt(out[0, k]) / (1.0 + p.cost_norm), gap,
                max(rows[1, k], out[1, k]) / engine.MAX_NORM_FACTOR,
            )  # fmt: skip
            p.residual = math.nan if any(math.isnan(v) for v in parts) else float(max(parts))
            if p.residual < p.best_residual:
                p.best_residual = p.residual
                better.append(k)
        for name in ("x", "y"):
            if len(better) == len(self.programs):
                a[name + "_best"][:] = a[name + "_hat"]
            elif better:
                a[name + "_best"][:, better] = a[name + "_hat"][:, better]

    def _check(self) -> dict[int, Any]:
        """Measure, finish, look for proofs, restart; return who has ended, and how."""
        errors = self._errors()
        self._measure()
        ended: dict[int, Any] = {}
        checks = self.nit // engine.CHECK
        look = checks % LOOK_EVERY == 0 or checks & (checks - 1) == 0
        due = []
        for k, p in enumerate(self.programs):
            if math.isnan(p.residual):
                ended[k] = Status.DIVERGED
            elif p.residual <= self.solver.tol or (self.solver.finish and self._finish(k, p)):
                ended[k] = Status.CONVERGED
            elif look and self.solver.infeasibility:
                found = self._prove(k, p)
                if found is not None:
                    ended[k] = found
            if k in ended:
                continue
            if p.step > self.safe_step and errors[k] > 1.5 * p.first_error:
                p.shrink *= 0.5
                p.step = max(0.5 * p.step, self.safe_step)
                self._restart(k, p, back=errors[k] > 10.0 * p.first_error)
            elif restart_due(p, errors[k], self.scaled.nnz):
                due.append(k)
            p.last_error = errors[k]
        if due:
            self._tune(due)
        return ended

    def _restart(self, k: int, p: Program, back: bool = False) -> None:
        """Begin an epoch at T(z), or at the anchor."""
        a = self.arrays
        for name in ("x", "y"):
            point = a[name + "_anchor"][:, k] if back else a[name + "_hat"][:, k]
            a[name][:, k] = point
            a[name + "_anchor"][:, k] = point
        p.inner = 0
        p.restarts += 1

    def _tune(self, due: list[int]) -> None:
        """Restart these programs from T(z), with new weights and steps."""
        a = self.arrays
        kernels.column_moves(a["x_hat"], a["x_anchor"], self.out[0])
        kernels.column_moves(a["y_hat"], a["y_anchor"], self.out[1])
        for k in due:
            p = self.programs[k]
            dx, dy = (math.sqrt(v) for v in self.out[:2, k])
            p.weight = hpr_weight(p, p.residual, dx, dy)
        free = [k for k in due if not self.programs[k].growing]
        for k, norm in zip(free, self._face_norms(free), strict=True):
            p = self.programs[k]
            step = p.shrink * FACE_SAFETY / norm if norm > 0 else self.safe_step
            p.step = min(max(step, self.safe_step), FACE_LIMIT * self.safe_step)
        for k in due:
            if self.programs[k].growing:
                self.programs[k].step = self.safe_step
            self._restart(k, self.programs[k])

    def _face_norms(self, which: list[int]) -> Values:
        """Estimate the norms of the matrix on the faces of these programs, by power iterations."""
        if not which:
            return np.empty(0)
        a, s = self.arrays, self.scaled
        width = -(-len(which) // WIDTH) * WIDTH
        chosen = which + which[-1:] * (width - len(which))
        part = {name: a[name][:, chosen] for name in _FACE}
        hat = part["x_hat"]
        columns = (hat != part["x_anchor"]) | ((part["lower"] < hat) & (hat < part["upper"]))
        rows = (part["y_hat"] != 0.0) | (part["row_lower"] == part["row_upper"])
        v = self.rng.standard_normal(rows.shape) * rows
        u = np.empty(columns.shape)
        norm = np.linalg.norm(v, axis=0)
        for _ in range(FACE_STEPS):
            v /= np.where(norm > 0, norm, 1.0)
            kernels.products(*s.columns.parts, v, u)
            u *= columns
            kernels.products(*s.rows.parts, u, v)
            v *= rows
            norm = np.linalg.norm(v, axis=0)
        return np.sqrt(norm[: len(which)])

    # -- one program --------------------------------------------------------------------------

    def _user(self, k: int, p: Program, kind: str) -> PrimalDual:
        a, s, problem = self.arrays, self.scaled, self.problems[p.number]
        x = s.column * a["x_" + kind][:, k] / p.side
        return PrimalDual(
            np.clip(x, problem.lower, problem.upper), s.row * a["y_" + kind][:, k] / p.cost
        )

    def _finish(self, k: int, p: Program) -> bool:
        """Try to solve the equations of the face, when it is due; return whether that did it."""
        problem, (m, n), nnz = self.problems[p.number], self.scaled.shape, self.scaled.nnz
        spent = TRY_SHARE * p.nit * (2e-9 * (2 * nnz + 4 * (m + n)) + 1e-6)
        if not p.residual < TRY_BELOW or p.tried_work > spent:
            return False
        if p.residual * TRY_DROP > p.tried_residual and p.nit < TRY_GROWTH * p.tried_nit:
            return False
        p.tried_nit, p.tried_residual = p.nit, p.residual
        x, y = self._user(k, p, "hat")
        flops = 1e7 + p.nit * (4.0 * nnz + 10.0 * (m + n))
        found = attempt(
            problem.A, problem.c, problem.constraint_lower, problem.constraint_upper,
            problem.lower, problem.upper, x, y, max_flops=min(flops, MAX_FLOPS),
            tol=self.solver.tol,
        )  # fmt: skip
        fixed, by_number = TRY_SECONDS
        p.tried_work += found.rounds * (fixed + by_number * nnz) + found.work / TRY_SPEED
        if not found.candidates:
            return False
        work = engine.Work(plain_program(problem), engine.Options())
        for point in found.candidates:
            residual = engine.measure(work, *point).worst
            if residual <= self.solver.tol and residual < p.best_residual:
                p.best_residual = residual
                s, a = self.scaled, self.arrays
                a["x_best"][:, k] = point[0] / s.column * p.side
                a["y_best"][:, k] = point[1] / s.row * p.cost
        return p.best_residual <= self.solver.tol

    def _prove(self, k: int, p: Program) -> Any:
        """Look for a proof that there is no answer; return a result if there is one."""
        a, s, problem = self.arrays, self.scaled, self.problems[p.number]
        names = ("lower", "upper", "row_lower", "row_upper")
        view = SimpleNamespace(
            rows=s.rows, row=s.row, column=s.column, quadratic=None,
            c=np.ascontiguousarray(a["cost"][:, k]),
            **{name: np.ascontiguousarray(a[name][:, k]) for name in names},
        )  # fmt: skip
        work = SimpleNamespace(
            program=view, y_move=a["y_move"][:, k], reflected=a["reflected"][:, k]
        )
        run = SimpleNamespace(
            growing=p.growing,
            **{name: a[name][:, k] for name in ("x_hat", "y_hat", "x_anchor", "y_anchor")},
        )
        for outcome, ray in rays.candidates(work, run):
            if outcome == "infeasible" and problem.farkas(ray).proved:
                return self._result(k, p, Status.INFEASIBLE, ray)
            if outcome == "unbounded" and problem.recession(ray).proved:
                if p.primal <= self.solver.tol:
                    return self._result(k, p, Status.UNBOUNDED, ray)
                # Whether there is a feasible point is a question of its own.
                return _alone(self.solver, problem, self.points[p.number], self.deadline)
        p.growing = bool(run.growing)
        return None

    def _result(self, k: int, p: Program, status: Status, ray: Any = None) -> Result:
        problem, tol = self.problems[p.number], self.solver.tol
        point = self._user(k, p, "best")
        certificate = problem.certificate(point)
        where = f"residual {p.best_residual:.3e}, tol {tol:.1e}, {p.nit} iterations"
        text = {
            Status.CONVERGED: "Converged",
            Status.ITERATION_LIMIT: f"Iteration limit max_iter={self.solver.max_iter} reached",
            Status.TIME_LIMIT: "Time limit max_time reached",
            Status.INFEASIBLE: "The problem is infeasible",
            Status.UNBOUNDED: "The problem is unbounded",
            Status.DIVERGED: "Diverged",
        }[status]
        if status is Status.CONVERGED and not certificate.residual <= CERTIFIED * tol:
            status, text = Status.STALLED, "Not certified"
            where += f", the problem measures {certificate.residual:.3e}"
        gradient = problem.reduced_costs(point)
        wrong = ((gradient > 0) & (problem.lower == -np.inf)) | (
            (gradient < 0) & (problem.upper == np.inf)
        )
        return Result(
            x=point, fun=certificate.objective, success=status is Status.CONVERGED, status=status,
            message=f"{text}: {where}.", nit=p.nit, counts={"iterations": p.nit},
            residual=p.best_residual, certificate=certificate,
            time=time.perf_counter() - self.began, duals=point.y.copy(), solver="solve_batch",
            problem=repr(problem), citation=HalpernPDHG.citation, y=point.y.copy(),
            z=np.where(wrong, 0.0, gradient), ray=ray, log=[],
        )  # fmt: skip

    def _leave(self, ended: dict[int, Any]) -> None:
        """Give results to the programs that have ended, and take them out when that pays."""
        if not ended:
            return
        for k, status in ended.items():
            p = self.programs[k]
            result = status if isinstance(status, Result) else self._result(k, p, status)
            self.results[p.number] = result
        keep = [k for k in range(len(self.programs)) if k not in ended]
        self.programs = [self.programs[k] for k in keep]
        if not keep:
            return
        width = -(-len(keep) // WIDTH) * WIDTH
        if width == self.arrays["x"].shape[1]:
            # As many registers as before: only move the columns, neutral ones at the end.
            order = keep + [k for k in range(width) if k not in keep]
            for name, array in self.arrays.items():
                array[:] = array[:, order]
                array[:, len(keep) :] = _NEUTRAL.get(name, 0.0)
        else:
            for name, array in self.arrays.items():
                new = np.full((len(array), width), _NEUTRAL.get(name, 0.0))
                new[:, : len(keep)] = array[:, keep]
                self.arrays[name] = new
        self._work()


_OF_COLUMNS = (
    "cost", "cost_size", "lower", "upper", "x", "x_anchor", "x_hat", "x_best", "reflected",
)  # fmt: skip
_OF_ROWS = (
    "side_size", "row_lower", "row_upper", "y", "y_anchor", "y_hat", "y_best", "y_move",
)  # fmt: skip
_FACE = ("x_hat", "x_anchor", "lower", "upper", "y_hat", "row_lower", "row_upper")
_NEUTRAL = {"row_lower": -np.inf, "row_upper": np.inf}


def _sizes(lower: Values, upper: Values) -> Values:
    low = np.where(np.isfinite(lower), np.abs(lower), 0.0)
    return np.maximum(low, np.where(np.isfinite(upper), np.abs(upper), 0.0))


def _power_of_two(value: Any) -> float:
    return float(np.exp2(np.round(np.log2(value))))
