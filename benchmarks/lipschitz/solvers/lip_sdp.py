from benchmark_utils.benchopt_solver import SystemSolver


class Solver(SystemSolver):
    """LipSDP, and LipSDPGroupSort for MaxMin networks."""

    name = "lowrank_opt-LipSDP"
    requirements = ["pip::lowrank_opt"]
    system = "ours"
