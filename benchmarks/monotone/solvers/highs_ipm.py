from benchmark_utils.benchopt_solver import SystemSolver


class Solver(SystemSolver):
    """Interior point, with crossover."""

    name = "highspy-IPM"
    requirements = ["pip::highspy"]
    system = "HiGHS IPM"
