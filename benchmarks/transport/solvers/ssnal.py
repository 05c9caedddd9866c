from benchmark_utils.benchopt_solver import SystemSolver


class Solver(SystemSolver):
    """Our proximal Newton method."""

    name = "lowrank_opt-ssnal"
    requirements = ["pip::lowrank_opt"]
    system = "ours"
