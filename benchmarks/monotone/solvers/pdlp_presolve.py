from benchmark_utils.benchopt_solver import SystemSolver


class Solver(SystemSolver):
    """The same with presolve."""

    name = "ortools-PDLP-presolve"
    requirements = ["pip::ortools"]
    system = "OR-tools PDLP, presolve"
