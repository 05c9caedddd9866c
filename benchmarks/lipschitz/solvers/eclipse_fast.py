from benchmark_utils.benchopt_solver import SystemSolver


class Solver(SystemSolver):
    """The closed form."""

    name = "lowrank_opt-ECLipsE-Fast"
    requirements = ["pip::lowrank_opt"]
    system = "ours, ECLipsE-Fast"
