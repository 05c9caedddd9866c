"""One adapter per system: the same call for ours and for every peer.

``solve(case)`` is what is timed: everything from the arrays of the program to the point, the
building of a model included. It returns an `Answer`; the residual is computed outside of the clock,
for all by the same function.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

__all__ = ["GAMES", "SYSTEMS", "Answer", "System", "unavailable"]


@dataclass
class Answer:
    """What a system hands out: a point with its multipliers, its own word, its iterations."""

    x: Any
    y: Any
    status: str
    nit: int | None = None
    more: dict | None = None


class System:
    """Base of the adapters.

    `limit` is in seconds; `tol` is the residual that is wanted in the measure of the benchmark.
    """

    name: ClassVar[str]
    package: ClassVar[str]
    note: ClassVar[str] = ""
    # Tolerances that are given to the system one after the other, as multiples of `tol`, until its
    # point has the residual `tol`: not every system measures as we do.
    tries: ClassVar[tuple[float, ...]] = (1.0,)

    def __init__(self, *, limit: float = 60.0, tol: float = 1e-6, threads: int = 1) -> None:
        self.limit = limit
        self.tol = tol
        self.threads = threads

    @classmethod
    def version(cls) -> str:
        return importlib.metadata.version(cls.package)

    @classmethod
    def missing(cls) -> str | None:
        found = importlib.util.find_spec(cls.package)
        return None if found else f"{cls.package} is not installed"

    def solve(self, case, factor: float = 1.0) -> Answer:
        raise NotImplementedError


# -- ours -----------------------------------------------------------------------------------------


class Ours(System):
    name = "ours"
    package = "lowrank_opt"
    note = "`HalpernPDHG` with its defaults"
    options: ClassVar[dict[str, Any]] = {}

    @classmethod
    def version(cls) -> str:
        import lowrank_opt

        return lowrank_opt.__version__

    def solve(self, case, factor=1.0):
        from lowrank_opt.monotone import HalpernPDHG, LinearProgram

        problem = LinearProgram(*case.arrays, offset=case.offset)
        solver = HalpernPDHG(
            tol=factor * self.tol, max_time=self.limit, n_threads=self.threads, **self.options
        )
        result = solver.solve(problem)
        return Answer(result.x.x, result.x.y, result.status.name, int(result.nit))


class OursPlain(Ours):
    name = "ours, iterations only"
    note = "the same without presolve and without the finish on the active face"
    options: ClassVar[dict[str, Any]] = {"presolve": False, "finish": False}


# -- OR-tools -------------------------------------------------------------------------------------


class PDLP(System):
    name = "OR-tools PDLP"
    package = "ortools"
    note = (
        "`ortools.pdlp`, absolute and relative tolerances both as wanted, which is our relative "
        "measure; a smaller tolerance when the point misses it"
    )
    tries = (1.0, 0.3, 0.1)
    presolve: ClassVar[bool] = False

    def solve(self, case, factor=1.0):
        from ortools.pdlp import solve_log_pb2, solvers_pb2
        from ortools.pdlp.python import pdlp

        qp = pdlp.QuadraticProgram()
        m, n = case.A.shape
        qp.resize_and_initialize(n, m)
        qp.objective_vector = case.c
        qp.objective_offset = case.offset
        qp.constraint_matrix = case.A.tocsc()
        qp.constraint_lower_bounds = case.constraint_lower
        qp.constraint_upper_bounds = case.constraint_upper
        qp.variable_lower_bounds = case.lower
        qp.variable_upper_bounds = case.upper
        params = solvers_pb2.PrimalDualHybridGradientParams()
        stop = params.termination_criteria
        stop.simple_optimality_criteria.eps_optimal_absolute = factor * self.tol
        stop.simple_optimality_criteria.eps_optimal_relative = factor * self.tol
        stop.time_sec_limit = self.limit
        params.num_threads = self.threads
        params.presolve_options.use_glop = self.presolve
        found = pdlp.primal_dual_hybrid_gradient(qp, params)
        log = found.solve_log
        reason = solve_log_pb2.TerminationReason.Name(log.termination_reason)
        return Answer(
            np.array(found.primal_solution), np.array(found.dual_solution),
            reason.removeprefix("TERMINATION_REASON_"), int(log.iteration_count),
        )  # fmt: skip


class PDLPPresolve(PDLP):
    name = "OR-tools PDLP, presolve"
    note = "the same with the presolve of GLOP"
    presolve = True


# -- HiGHS ----------------------------------------------------------------------------------------


class HiGHS(System):
    """Through highspy."""

    package = "highspy"
    solver: ClassVar[str]
    presolve: ClassVar[str] = "on"

    def solve(self, case, factor=1.0):
        import highspy

        highs = highspy.Highs()
        tol = factor * self.tol
        options = {
            "output_flag": False, "solver": self.solver, "time_limit": float(self.limit),
            "presolve": self.presolve, "threads": self.threads, **self.tolerances(tol),
        }  # fmt: skip
        for key, value in options.items():
            highs.setOptionValue(key, value)
        lp = highspy.HighsLp()
        m, n = case.A.shape
        infinity = highspy.kHighsInf
        lp.num_col_, lp.num_row_ = n, m
        lp.col_cost_ = case.c
        lp.offset_ = case.offset
        for attribute, values in (
            ("col_lower_", case.lower), ("col_upper_", case.upper),
            ("row_lower_", case.constraint_lower), ("row_upper_", case.constraint_upper),
        ):  # fmt: skip
            setattr(lp, attribute, np.clip(values, -infinity, infinity))
        A = case.A.tocsc()
        lp.a_matrix_.format_ = highspy.MatrixFormat.kColwise
        lp.a_matrix_.start_, lp.a_matrix_.index_ = A.indptr, A.indices
        lp.a_matrix_.value_ = A.data
        highs.passModel(lp)
        highs.run()
        solution, info = highs.getSolution(), highs.getInfo()
        # The threads of a process are kept from one call to the next, with their number.
        highspy.Highs.resetGlobalScheduler(True)
        x, y = np.array(solution.col_value), np.array(solution.row_dual)
        status = highs.modelStatusToString(highs.getModelStatus())
        if len(x) != n or len(y) != m:
            x = y = None
        counts = (
            info.simplex_iteration_count, info.ipm_iteration_count, info.pdlp_iteration_count
        )  # fmt: skip
        return Answer(x, y, status, max(counts))

    def tolerances(self, tol):
        return {}


class HighsPDLP(HiGHS):
    name = "HiGHS PDLP"
    solver = "pdlp"
    note = "solver `pdlp`, its presolve; a smaller tolerance when the point misses ours"
    tries = (1.0, 0.3, 0.1)

    def tolerances(self, tol):
        return {
            "primal_feasibility_tolerance": tol, "dual_feasibility_tolerance": tol,
            "pdlp_optimality_tolerance": tol,
        }  # fmt: skip


class HighsSimplex(HiGHS):
    name = "HiGHS simplex"
    solver = "simplex"
    note = "its default tolerances, 1e-7"


class HighsIPM(HiGHS):
    name = "HiGHS IPM"
    solver = "ipm"
    note = "its default tolerances, crossover included"


# -- linprog --------------------------------------------------------------------------------------


class Linprog(System):
    """A function with the arguments of SciPy's linprog."""

    def function(self):
        raise NotImplementedError

    def prepare(self, case):
        """SciPy's arguments, outside of the clock."""
        import scipy.sparse as sp

        low, high, A = case.constraint_lower, case.constraint_upper, case.A
        equal = low == high
        above = ~equal & np.isfinite(high)
        below = ~equal & np.isfinite(low)
        ub = [A[above], -A[below]]
        arguments = {
            "c": case.c,
            "A_ub": sp.vstack(ub, format="csr") if above.any() or below.any() else None,
            "b_ub": np.concatenate([high[above], -low[below]])
            if above.any() or below.any()
            else None,
            "A_eq": A[equal] if equal.any() else None,
            "b_eq": low[equal] if equal.any() else None,
            "bounds": np.stack([case.lower, case.upper], axis=1),
        }
        return arguments, (equal, above, below)

    def call(self, arguments):
        return self.function()(**arguments)

    def point(self, case, groups, found):
        equal, above, below = groups
        y = np.zeros(len(case.constraint_lower))
        if found.x is None:
            return None, None
        marginals = np.asarray(found.ineqlin.marginals, np.float64).copy()
        split = int(above.sum())
        y[above] += marginals[:split]
        y[below] -= marginals[split:]
        y[equal] = found.eqlin.marginals
        return np.asarray(found.x, np.float64), y


class OursLinprog(Linprog):
    name = "ours, linprog"
    package = "lowrank_opt"
    note = "`lowrank_opt.monotone.linprog(method='auto')`"
    version = Ours.version

    def function(self):
        from lowrank_opt.monotone import linprog

        return linprog


class ScipyLinprog(Linprog):
    name = "SciPy linprog"
    package = "scipy"
    note = "`method='highs'`"

    def function(self):
        from scipy.optimize import linprog

        return linprog


# -- games ----------------------------------------------------------------------------------------


class Game(System):
    """``solve(A)`` returns an `Answer` with both strategies."""


class OursGame(Game):
    name = "ours, game"
    package = "lowrank_opt"
    note = "`solve(MatrixGame(A))`: the automatic choice"
    version = Ours.version

    def solve(self, A, factor=1.0):
        import lowrank_opt
        from lowrank_opt.monotone import MatrixGame

        result = lowrank_opt.solve(MatrixGame(A), tol=factor * self.tol, max_time=self.limit)
        more = {"solver": str(result.get("solver", "")), "oracle": result.get("n_oracle")}
        return Answer(result.x.x, result.x.y, result.status.name, int(result.nit), more)


class OursGamePDHG(Game):
    name = "ours, game's LP"
    package = "lowrank_opt"
    note = "`HalpernPDHG` on the linear program of the game"
    version = Ours.version
    system: ClassVar[type[System]] = Ours

    def solve(self, A, factor=1.0):
        answer = self.system(limit=self.limit, tol=factor * self.tol, threads=self.threads).solve(
            game_program(A)
        )
        if answer.x is None:
            return answer
        answer.x, answer.y = answer.x[:-1], answer.y[:-1]
        return answer


class HighsGameSimplex(OursGamePDHG):
    name = "HiGHS simplex, game's LP"
    package = "highspy"
    note = ""
    system = HighsSimplex
    version = HighsSimplex.version


class HighsGameIPM(OursGamePDHG):
    name = "HiGHS IPM, game's LP"
    package = "highspy"
    note = ""
    system = HighsIPM
    version = HighsIPM.version


def game_program(A):
    """To minimise t subject to ``t - A @ x >= 0``, ``sum(x) = 1``, ``x >= 0``."""
    import scipy.sparse as sp

    from benchmark_utils.data import Case

    m, n = A.shape
    matrix = np.zeros((m + 1, n + 1))
    matrix[:m, :n] = -A
    matrix[:m, n] = 1.0
    matrix[m, :n] = 1.0
    low = np.zeros(m + 1)
    low[m] = 1.0
    high = np.full(m + 1, np.inf)
    high[m] = 1.0
    c = np.zeros(n + 1)
    c[n] = 1.0
    lower = np.zeros(n + 1)
    lower[n] = -np.inf
    return Case("game", c, sp.csr_array(matrix), low, high, lower, np.full(n + 1, np.inf))


SYSTEMS = {
    cls.name: cls
    for cls in (
        Ours, OursPlain, PDLP, PDLPPresolve, HighsPDLP, HighsSimplex, HighsIPM, OursLinprog,
        ScipyLinprog, OursGame, OursGamePDHG, HighsGameSimplex, HighsGameIPM,
    )
}  # fmt: skip
GAMES = [name for name, cls in SYSTEMS.items() if issubclass(cls, Game)]


def unavailable(name: str) -> str | None:
    """Why a system cannot run here, or ``None``."""
    return SYSTEMS[name].missing()
