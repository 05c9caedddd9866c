from benchmark_utils.benchopt_solver import SystemSolver


class Solver(SystemSolver):
    """Stage by stage, with small semidefinite programs."""

    name = "lowrank_opt-ECLipsE"
    requirements = ["pip::lowrank_opt"]
    system = "ours, ECLipsE"
