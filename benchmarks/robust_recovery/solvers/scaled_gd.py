from benchmark_utils.benchopt_solver import SystemSolver


class Solver(SystemSolver):
    """Our scaled gradient descent with trimming."""

    name = "lowrank_opt-scaled-gd"
    requirements = ["pip::lowrank_opt"]
    system = "ours ScaledGD"
