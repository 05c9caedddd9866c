from benchmark_utils.benchopt_solver import SystemSolver


class Solver(SystemSolver):
    """Restarted, reflected Halpern iteration."""

    name = "lowrank_opt-HalpernPDHG"
    requirements = ["pip::lowrank_opt"]
    system = "ours"
