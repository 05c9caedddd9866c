from benchmark_utils.benchopt_solver import SystemSolver


class Solver(SystemSolver):
    """Dual simplex."""

    name = "highspy-simplex"
    requirements = ["pip::highspy"]
    system = "HiGHS simplex"
