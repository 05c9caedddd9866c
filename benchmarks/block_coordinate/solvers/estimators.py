from benchmark_utils.benchopt_solver import SystemSolver


class Solver(SystemSolver):
    """Our estimators."""

    name = "lowrank_opt-estimators"
    requirements = ["pip::lowrank_opt"]
    system = "ours"
