"""Linear and quadratic programs by HiGHS, as SciPy or highspy bring it; our certificate."""

from __future__ import annotations

import functools
import importlib
import math
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

from lowrank_opt.core.errors import MissingDependencyError
from lowrank_opt.core.result import Result
from lowrank_opt.core.state import Status
from lowrank_opt.monotone.points import PrimalDual

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lowrank_opt.monotone.programs import ConvexProgram

__all__ = ["SOLVERS", "solve_with_highs"]

# Methods of linprog and the solvers of HiGHS that they mean.
SOLVERS = {"highs": "choose", "highs-ds": "simplex", "highs-ipm": "ipm"}
_CITATION = """@article{huangfu2018highs,
  author = {Huangfu, Qi and Hall, J. A. Julian},
  title = {Parallelizing the dual revised simplex method},
  journal = {Mathematical Programming Computation},
  volume = {10},
  pages = {119--142},
  year = {2018}
}"""


@functools.cache
def _core() -> Any:
    """Bindings of HiGHS: those of SciPy, so that nothing is slower than there, or highspy's."""
    for module in ("scipy.optimize._highspy._core", "highspy._core", "highspy"):
        try:
            core = importlib.import_module(module)
        except ImportError:
            continue
        if hasattr(core, "_Highs") and hasattr(core._Highs, "getDualRay"):
            return core
    raise MissingDependencyError("highspy", "lp", "a linear program by HiGHS")


def solve_with_highs(
    problem: ConvexProgram,
    *,
    solver: str = "choose",
    tol: float = 1e-6,
    max_iter: int | None = None,
    max_time: float | None = None,
    presolve: bool = True,
) -> Result:
    """Solve a linear or convex quadratic program by HiGHS, and grade the answer.

    Parameters
    ----------
    problem : LinearProgram or QuadraticProgram
        The program.
    solver : {"choose", "simplex", "ipm"}, default="choose"
        Algorithm for linear programs.
    tol : float, default=1e-6
        The certificate's residual of an answer that counts as converged. Below 1e-7, HiGHS's own
        feasibility tolerances follow.
    max_iter : int or None, default=None
        Limit on iterations.
    max_time : float or None, default=None
        Limit on seconds.
    presolve : bool, default=True
        Whether HiGHS simplifies the program first.

    Returns
    -------
    Result
        ``x`` is a :class:`~lowrank_opt.monotone.PrimalDual`, or ``None`` if the program is
        infeasible or unbounded, which ``ray`` proves then; ``y`` and ``z`` are the multipliers of
        constraints and bounds.

    Notes
    -----
    That a program is infeasible or unbounded is claimed with a ray that
    :meth:`~lowrank_opt.monotone.LinearProgram.farkas` or
    :meth:`~lowrank_opt.monotone.LinearProgram.recession` proves from the data; HiGHS runs again
    without presolve where it has none, and an unproved claim is a numerical error. Bounds that
    contradict each other need no ray.
    """
    start = time.perf_counter()
    if problem.conflicts:
        return _answer(problem, start, Status.INFEASIBLE, problem.conflicts)
    if problem.Q is None and (problem.nnz == 0 or 0 in problem.shape):
        return _without_matrix(problem, start)
    core = _core()
    run = _Run(core, problem, solver, tol, max_iter, max_time, presolve)
    model = run.solve()
    kinds = core.HighsModelStatus
    doubtful = (kinds.kInfeasible, kinds.kUnbounded, kinds.kUnboundedOrInfeasible)
    if model in doubtful:
        found = run.ray(model)
        if found is None and (presolve or solver != "simplex"):
            run = _Run(core, problem, "simplex", tol, max_iter, _left(max_time, start), False)
            model = run.solve()
            if model in doubtful:
                found = run.ray(model)
        if found is not None:
            status, ray = found
            if status is Status.UNBOUNDED:
                return _unbounded(core, problem, start, run, ray, tol, _left(max_time, start))
            message = "no point satisfies the constraints: the ray of multipliers proves it"
            return _answer(problem, start, status, message, run, ray=ray)
        if model in doubtful:
            text = run.highs.modelStatusToString(model)
            message = f"HiGHS says {text!r} and gives no ray that proves it"
            return _answer(problem, start, Status.NUMERICAL_ERROR, message, run)
    if model == kinds.kOptimal:
        return _graded(problem, start, run, tol, Status.CONVERGED, "")
    text = run.highs.modelStatusToString(model)
    if model == kinds.kTimeLimit:
        return _graded(problem, start, run, tol, Status.TIME_LIMIT, f"max_time={max_time} s")
    if model == kinds.kIterationLimit:
        return _graded(problem, start, run, tol, Status.ITERATION_LIMIT, f"max_iter={max_iter}")
    if model == kinds.kInterrupt:
        return _graded(problem, start, run, tol, Status.INTERRUPTED, "interrupted")
    return _graded(problem, start, run, tol, Status.NUMERICAL_ERROR, f"HiGHS says {text!r}")


class _Run:
    """One HiGHS with a program in it."""

    def __init__(
        self,
        core: Any,
        problem: ConvexProgram,
        solver: str,
        tol: float,
        max_iter: int | None,
        max_time: float | None,
        presolve: bool,
        c: NDArray[np.float64] | None = None,
    ) -> None:
        self.core, self.problem = core, problem
        self.highs = core._Highs()
        options = core.HighsOptions()
        options.output_flag = False
        options.solver = solver
        options.presolve = "on" if presolve else "off"
        if tol < 1e-7:
            options.primal_feasibility_tolerance = max(tol, 1e-10)
            options.dual_feasibility_tolerance = max(tol, 1e-10)
        if max_time is not None:
            options.time_limit = float(max_time)
        if max_iter is not None:
            options.simplex_iteration_limit = int(max_iter)
            options.ipm_iteration_limit = int(max_iter)
        self.highs.passOptions(options)
        m, n = problem.shape
        lp = core.HighsLp()
        lp.num_col_, lp.num_row_ = n, m
        lp.col_cost_ = problem.c if c is None else c
        lp.col_lower_, lp.col_upper_ = problem.lower, problem.upper
        lp.row_lower_, lp.row_upper_ = problem.constraint_lower, problem.constraint_upper
        lp.offset_ = problem.offset
        matrix = lp.a_matrix_
        matrix.num_col_, matrix.num_row_ = n, m
        matrix.format_ = core.MatrixFormat.kRowwise
        matrix.start_, matrix.index_ = problem.A.indptr, problem.A.indices
        matrix.value_ = problem.A.data
        self.passed = self.highs.passModel(lp)
        if problem.Q is not None and c is None:
            Q = sp.csc_array(sp.tril(problem.Q))
            hessian = core.HighsHessian()
            hessian.dim_, hessian.format_ = n, core.HessianFormat.kTriangular
            hessian.start_, hessian.index_, hessian.value_ = Q.indptr, Q.indices, Q.data
            self.highs.passHessian(hessian)

    def solve(self) -> Any:
        if self.passed == self.core.HighsStatus.kError:
            return self.core.HighsModelStatus.kModelError
        self.highs.run()
        return self.highs.getModelStatus()

    def point(self) -> PrimalDual | None:
        """Return the point, or ``None`` where HiGHS has none."""
        solution = self.highs.getSolution()
        if not solution.value_valid:
            return None
        x = np.array(solution.col_value, np.float64)
        m, n = self.problem.shape
        y = np.array(solution.row_dual, np.float64) if solution.dual_valid else np.zeros(m)
        if len(x) != n or len(y) != m or not (np.isfinite(x).all() and np.isfinite(y).all()):
            return None
        return PrimalDual(x, y)

    def reduced_costs(self, point: PrimalDual) -> NDArray[np.float64]:
        """Return HiGHS's reduced costs: those of a basis are exactly 0 on it."""
        solution = self.highs.getSolution()
        if solution.dual_valid:
            return np.array(solution.col_dual, np.float64)
        return self.problem.reduced_costs(point)

    def ray(self, model: Any) -> tuple[Status, NDArray[np.float64]] | None:
        """Return what a ray of HiGHS proves from the program's data, and the ray."""
        kinds = self.core.HighsModelStatus
        for status, unlikely, get, grade in (
            (
                Status.INFEASIBLE,
                kinds.kUnbounded,
                self.highs.getDualRay,
                self.problem.farkas,
            ),
            (
                Status.UNBOUNDED,
                kinds.kInfeasible,
                self.highs.getPrimalRay,
                self.problem.recession,
            ),
        ):
            if model == unlikely:
                continue
            _, has, values = get()
            if not has:
                continue
            ray = np.array(values, np.float64)
            size = float(np.abs(ray).max(initial=0.0))
            if size == 0.0 or not math.isfinite(size):
                continue
            for candidate in (ray / size, -ray / size):
                if grade(candidate).proved:
                    return status, candidate
        return None

    def counts(self) -> dict[str, int]:
        info = self.highs.getInfo()
        return {
            "simplex_iterations": max(info.simplex_iteration_count, 0),
            "ipm_iterations": max(info.ipm_iteration_count, 0),
            "qp_iterations": max(info.qp_iteration_count, 0),
        }


def _left(max_time: float | None, start: float) -> float | None:
    return None if max_time is None else max(max_time - (time.perf_counter() - start), 0.01)


def _unbounded(
    core: Any,
    problem: ConvexProgram,
    start: float,
    run: _Run,
    ray: NDArray[np.float64],
    tol: float,
    max_time: float | None,
) -> Result:
    """Say unbounded where there is a feasible point as well."""
    other = _Run(
        core, problem, "choose", tol, None, max_time, presolve=True, c=np.zeros(problem.shape[1])
    )
    model = other.solve()
    kinds = core.HighsModelStatus
    if model == kinds.kInfeasible:
        found = other.ray(model)
        if found is None:
            other = _Run(
                core, problem, "simplex", tol, None, max_time, False, np.zeros(problem.shape[1])
            )
            found = other.ray(other.solve())
        if found is not None:
            message = "no point satisfies the constraints: the ray of multipliers proves it"
            return _answer(problem, start, found[0], message, other, ray=found[1])
    if model == kinds.kOptimal:
        message = (
            "the objective has no lower bound: it falls along the ray, from every feasible point"
        )
        return _answer(problem, start, Status.UNBOUNDED, message, run, ray=ray)
    message = "the objective falls along a ray, but HiGHS finds no feasible point and no proof"
    return _answer(problem, start, Status.NUMERICAL_ERROR, message, run)


def _graded(
    problem: ConvexProgram, start: float, run: _Run, tol: float, status: Status, reason: str
) -> Result:
    point = run.point()
    if point is None:
        if status is Status.NUMERICAL_ERROR:
            return _answer(problem, start, status, f"{reason} and has no point", run)
        m, n = problem.shape
        point = PrimalDual(np.clip(np.zeros(n), problem.lower, problem.upper), np.zeros(m))
        reason += "; HiGHS has no point, this is 0 within the bounds"
    elapsed = time.perf_counter() - start
    certificate = problem.certificate(point)
    residual = certificate.residual
    if residual <= tol:
        status = Status.CONVERGED
        message = f"relative KKT residual {residual:.2e} <= tol {tol:g}"
    elif status is Status.CONVERGED:
        status = Status.STALLED
        message = (
            f"HiGHS says 'Optimal', but the relative KKT residual of the data is {residual:.2e} "
            f"> tol {tol:g}"
        )
    else:
        message = f"{reason}; relative KKT residual {residual:.2e} > tol {tol:g}"
    return _answer(problem, start, status, message, run, point, certificate, elapsed=elapsed)


def _answer(
    problem: ConvexProgram,
    start: float,
    status: Status,
    message: str,
    run: _Run | None = None,
    point: PrimalDual | None = None,
    certificate: Any = None,
    *,
    ray: NDArray[np.float64] | None = None,
    elapsed: float | None = None,
) -> Result:
    counts = {} if run is None else run.counts()
    z = None
    if point is not None:
        optimal = run is not None and status is Status.CONVERGED
        z = run.reduced_costs(point) if run and optimal else problem.reduced_costs(point)
    return Result(
        x=point,
        fun=None if certificate is None else certificate.objective,
        success=status is Status.CONVERGED,
        status=status,
        message=message,
        nit=sum(counts.values()),
        counts=counts,
        residual=None if certificate is None else certificate.residual,
        certificate=certificate,
        time=time.perf_counter() - start if elapsed is None else elapsed,
        setup_time=0.0,
        compile_time=0.0,
        y=None if point is None else point.y,
        z=z,
        duals=None if point is None else point.y,
        ray=ray,
        solver="bounds alone" if run is None else f"HiGHS {run.highs.version()}",
        problem=repr(problem),
        citation=_CITATION,
    )


def _without_matrix(problem: ConvexProgram, start: float) -> Result:
    """Answer a linear program whose constraints have no nonzeros."""
    m, n = problem.shape
    positive, negative = problem.constraint_lower > 0, problem.constraint_upper < 0
    if positive.any() or negative.any():
        i = int(np.argmax(positive | negative))
        y = np.zeros(m)
        y[i] = 1.0 if positive[i] else -1.0
        side = (problem.constraint_lower if positive[i] else problem.constraint_upper)[i]
        sign = ">=" if positive[i] else "<="
        message = f"constraint {i} has no nonzeros, and asks for 0 {sign} {side:g}"
        return _answer(problem, start, Status.INFEASIBLE, message, ray=y)
    c, lower, upper = problem.c, problem.lower, problem.upper
    x = np.where(c > 0, lower, np.where(c < 0, upper, np.clip(0.0, lower, upper)))
    if not np.isfinite(x).all():
        j = int(np.argmin(np.isfinite(x)))
        d = np.zeros(n)
        d[j] = -math.copysign(1.0, c[j])
        side = "lower" if c[j] > 0 else "upper"
        message = f"the objective has no lower bound: variable {j} has no {side} bound"
        return _answer(problem, start, Status.UNBOUNDED, message, ray=d)
    point = PrimalDual(x, np.zeros(m))
    certificate = problem.certificate(point)
    message = f"relative KKT residual {certificate.residual:.2e}: the bounds alone decide"
    return _answer(problem, start, Status.CONVERGED, message, None, point, certificate)
