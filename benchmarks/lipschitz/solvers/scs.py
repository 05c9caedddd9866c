from benchmark_utils.benchopt_solver import SystemSolver


class Solver(SystemSolver):
    """First order, one cone."""

    name = "cvxpy-SCS"
    requirements = ["pip::cvxpy"]
    system = "cvxpy + SCS"
