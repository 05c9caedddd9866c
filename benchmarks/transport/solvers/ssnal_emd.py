from benchmark_utils.benchopt_solver import SystemSolver


class Solver(SystemSolver):
    """Our proximal Newton method from the plan of plain transport."""

    name = "lowrank_opt-ssnal-emd"
    requirements = ["pip::lowrank_opt[transport]"]
    system = "ours, EMD start"
