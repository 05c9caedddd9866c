from benchmark_utils.benchopt_solver import SystemSolver


class Solver(SystemSolver):
    """Estimators of celer."""

    name = "celer"
    requirements = ["pip::celer"]
    system = "celer"
