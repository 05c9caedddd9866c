from benchmark_utils.benchopt_solver import SystemSolver


class Solver(SystemSolver):
    """Primal-dual hybrid gradient of OR-tools."""

    name = "ortools-PDLP"
    requirements = ["pip::ortools"]
    system = "OR-tools PDLP"
