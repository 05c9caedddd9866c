from benchmark_utils.benchopt_solver import SystemSolver


class Solver(SystemSolver):
    """Estimators of skglm."""

    name = "skglm"
    requirements = ["pip::skglm"]
    system = "skglm"
