"""Halpern PDHG as a solver of cvxpy's, and programs out of cvxpy problems."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import cvxpy.settings as settings
import numpy as np
import scipy.sparse as sp
from cvxpy.reductions.solution import Solution, failure_solution
from cvxpy.reductions.solvers import utilities
from cvxpy.reductions.solvers.qp_solvers.qp_solver import QpSolver

from lowrank_opt.core.errors import ParameterError, ProblemError
from lowrank_opt.core.params import did_you_mean
from lowrank_opt.core.state import Status
from lowrank_opt.monotone.halpern_pdhg import HalpernPDHG
from lowrank_opt.monotone.linear_program import LinearProgram
from lowrank_opt.monotone.quadratic_program import QuadraticProgram

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lowrank_opt.core.result import Result

__all__ = ["CvxpyHalpernPDHG", "from_cvxpy_problem"]

_STATUS = {
    Status.CONVERGED: settings.OPTIMAL,
    Status.ITERATION_LIMIT: settings.USER_LIMIT,
    Status.TIME_LIMIT: settings.USER_LIMIT,
    Status.STOPPED_BY_CALLBACK: settings.USER_LIMIT,
    Status.INTERRUPTED: settings.USER_LIMIT,
    Status.STALLED: settings.OPTIMAL_INACCURATE,
    Status.INFEASIBLE: settings.INFEASIBLE,
    Status.UNBOUNDED: settings.UNBOUNDED,
}
_SOLVE_KEYWORDS = ("callback", "history", "checkpoint")
# A point that stalled is worth giving away up to this multiple of the tolerance.
_INACCURATE = 1000.0


class CvxpyHalpernPDHG(QpSolver):
    """Solver of cvxpy's for linear and convex quadratic programs, by Halpern PDHG.

    Give an instance to ``problem.solve(solver=CvxpyHalpernPDHG())``. Further keywords of
    ``problem.solve`` are parameters of :class:`~lowrank_opt.monotone.HalpernPDHG` (``tol``,
    ``max_iter``, ``max_time``, …) or keywords of its ``solve`` (``callback``, ``history``,
    ``checkpoint``).

    See Also
    --------
    from_cvxpy_problem : The program that is solved, for other solvers.

    Notes
    -----
    Statuses are cvxpy's: "optimal" (the certificate's residual is at most `tol`),
    "user_limit" (a limit, with the best point), "optimal_inaccurate" (stalled within a thousand
    times `tol`), "infeasible" and "unbounded" (with a verified ray), "solver_error". The whole
    :class:`~lowrank_opt.core.Result`, certificate and ray included, is in
    ``problem.solver_stats.extra_stats``. With ``warm_start=True``, cvxpy's default, another solve
    of the same problem starts from the last answer. ``verbose=True`` shows the progress.

    Examples
    --------
    >>> import cvxpy as cp
    >>> from lowrank_opt.monotone.cvxpy_solver import CvxpyHalpernPDHG
    >>> x = cp.Variable(2, nonneg=True)
    >>> limit = x[0] + 2 * x[1] <= 4
    >>> problem = cp.Problem(cp.Maximize(x[0] + x[1]), [limit, x <= 3])
    >>> round(float(problem.solve(solver=CvxpyHalpernPDHG())), 4), problem.status
    (3.5, 'optimal')
    >>> round(float(limit.dual_value), 4)
    0.5
    """

    MIP_CAPABLE = False
    BOUNDED_VARIABLES = True

    def __init__(self) -> None:
        super().__init__()

    def name(self) -> str:
        """Return the name in cvxpy's statistics."""
        return "HALPERN_PDHG"

    def __eq__(self, other: object) -> bool:
        # cvxpy keeps its reductions, and the last answer, as long as the solver is the same.
        return type(other) is type(self)

    def __hash__(self) -> int:
        return hash(type(self))

    def import_solver(self) -> None:
        """Nothing is left to import."""

    def solve_via_data(
        self,
        data: Mapping[str, Any],
        warm_start: bool,
        verbose: bool,
        solver_opts: Mapping[str, Any],
        solver_cache: dict[str, Any] | None = None,
    ) -> Result:
        """Solve cvxpy's data.

        Parameters
        ----------
        data : dict
            What `apply` returned.
        warm_start, verbose : bool
            As in ``problem.solve``.
        solver_opts : dict
            Parameters of the solver.
        solver_cache : dict or None, default=None
            Where the last answer is kept.

        Returns
        -------
        Result
            The answer for the program in cvxpy's standard form.
        """
        options = dict(solver_opts)
        keywords = {name: options.pop(name) for name in _SOLVE_KEYWORDS if name in options}
        allowed = HalpernPDHG._signature()
        for name in options:
            if name not in allowed:
                choices = {*allowed, *_SOLVE_KEYWORDS}
                raise ParameterError(
                    f"HALPERN_PDHG has no option {name!r}." + did_you_mean(name, choices)
                )
        program = _program(data)
        x0 = None
        if warm_start and solver_cache is not None and self.name() in solver_cache:
            last = solver_cache[self.name()]
            sizes = tuple(len(part) for part in last)
            x0 = last if sizes == program.shape[::-1] else None
        result = HalpernPDHG(**options).solve(program, x0=x0, progress=verbose, **keywords)
        if solver_cache is not None and result.x is not None and result.success:
            solver_cache[self.name()] = result.x
        result["tol"] = options.get("tol", 1e-6)
        return result

    def invert(self, results: Result, inverse_data: Mapping[str, Any]) -> Solution:
        """Return cvxpy's solution.

        Parameters
        ----------
        results : Result
            What `solve_via_data` returned.
        inverse_data : dict
            What `apply` returned beside the data.
        """
        attributes = {
            settings.SOLVE_TIME: results.time,
            settings.SETUP_TIME: results.setup_time,
            settings.NUM_ITERS: results.nit,
            settings.EXTRA_STATS: results,
        }
        status = _STATUS.get(results.status, settings.SOLVER_ERROR)
        if status == settings.OPTIMAL_INACCURATE and not (
            results.certificate is not None
            and results.certificate.residual <= _INACCURATE * results["tol"]
        ):
            status = settings.SOLVER_ERROR
        if status not in settings.SOLUTION_PRESENT or results.x is None:
            if status in settings.SOLUTION_PRESENT:
                status = settings.SOLVER_ERROR
            return failure_solution(status, attributes)
        x, y = results.x
        n_eq = inverse_data[self.DIMS].zero
        # cvxpy's multipliers of A x = b and F x <= g are the derivatives with the other sign.
        multipliers = {
            **utilities.get_dual_values(
                -y[:n_eq], utilities.extract_dual_value, inverse_data[self.EQ_CONSTR]
            ),
            **utilities.get_dual_values(
                -y[n_eq:], utilities.extract_dual_value, inverse_data[self.NEQ_CONSTR]
            ),
        }
        value = results.fun + inverse_data[settings.OFFSET]
        return Solution(status, value, {inverse_data[self.VAR_ID]: x}, multipliers, attributes)

    def cite(self, data: Any) -> str:
        """Return the papers behind the solver, in BibTeX.

        Parameters
        ----------
        data : dict
            Not used.
        """
        return HalpernPDHG.citation or ""


def _program(data: Mapping[str, Any]) -> LinearProgram | QuadraticProgram:
    """Return the program in cvxpy's data: A x = b, F x <= g, and bounds."""
    P, c = data[settings.P], np.asarray(data[settings.Q], np.float64)
    A = sp.vstack([sp.csr_array(data[settings.A]), sp.csr_array(data[settings.F])], format="csr")
    b, g = np.asarray(data[settings.B], float), np.asarray(data[settings.G], float)
    arguments: dict[str, Any] = {
        "c": c,
        "A": A,
        "constraint_lower": np.concatenate([b, np.full(len(g), -np.inf)]),
        "constraint_upper": np.concatenate([b, g]),
        "lower": data.get(settings.LOWER_BOUNDS),
        "upper": data.get(settings.UPPER_BOUNDS),
    }
    if P is None or not P.count_nonzero():
        return LinearProgram(**arguments)
    P = sp.csr_array(P)
    return QuadraticProgram(0.5 * (P + P.T), **arguments)  # symmetric but for rounding


def from_cvxpy_problem(problem: Any) -> LinearProgram | QuadraticProgram:
    """Return the program that a cvxpy problem is, in cvxpy's standard form.

    Parameters
    ----------
    problem : cvxpy.Problem
        With an affine or convex quadratic objective, after cvxpy's reductions, and affine
        constraints; parameters must have values.

    Returns
    -------
    LinearProgram or QuadraticProgram
        Its variables are those of `problem` and those that reductions added, equalities come
        before inequalities, and a maximum is the minimum of minus the objective. To get the
        variables' values, solve `problem` with :class:`CvxpyHalpernPDHG` instead.

    Raises
    ------
    ProblemError
        The problem is not a cvxpy problem, has no variables, or needs more than linear
        constraints or continuous variables.

    Examples
    --------
    >>> import cvxpy as cp
    >>> from lowrank_opt.monotone.cvxpy_solver import from_cvxpy_problem
    >>> x = cp.Variable(3)
    >>> from_cvxpy_problem(cp.Problem(cp.Minimize(cp.sum(x) + 1), [x >= 1]))
    LinearProgram(3 constraints, 3 variables, 3 nonzeros)
    """
    from cvxpy import Problem
    from cvxpy.error import DCPError, SolverError
    from cvxpy.error import ParameterError as CvxpyParameterError

    if not isinstance(problem, Problem):
        raise ProblemError(f"problem is a {type(problem).__name__}; a cvxpy.Problem is needed")
    if not problem.variables():
        raise ProblemError("problem has no variables; there is nothing to solve")
    try:
        data, _, inverse = problem.get_problem_data(CvxpyHalpernPDHG())
    except (DCPError, SolverError, CvxpyParameterError) as error:
        raise ProblemError(
            f"problem is no linear or convex quadratic program for cvxpy: {error}"
        ) from error
    program = _program(data)
    offset = float(inverse[-1][settings.OFFSET])
    sense = problem.objective.NAME == "maximize"
    arguments = {
        name: getattr(program, name)
        for name in ("c", "A", "constraint_lower", "constraint_upper", "lower", "upper")
    }
    if isinstance(program, QuadraticProgram):
        return QuadraticProgram(program.Q, **arguments, offset=offset, maximize=sense)
    return LinearProgram(**arguments, offset=offset, maximize=sense)
