from benchmark_utils.benchopt_solver import SystemSolver


class Solver(SystemSolver):
    """One cone for each pair of layers."""

    name = "cvxpy-Clarabel-chordal"
    requirements = ["pip::cvxpy"]
    system = "cvxpy + Clarabel, chordal"
