from benchmark_utils.benchopt_solver import SystemSolver


class Solver(SystemSolver):
    """One cone."""

    name = "cvxpy-Clarabel"
    requirements = ["pip::cvxpy"]
    system = "cvxpy + Clarabel, one cone"
