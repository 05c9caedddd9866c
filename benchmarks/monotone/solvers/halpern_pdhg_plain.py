from benchmark_utils.benchopt_solver import SystemSolver


class Solver(SystemSolver):
    """The same without presolve and finish."""

    name = "lowrank_opt-HalpernPDHG-iterations"
    requirements = ["pip::lowrank_opt"]
    system = "ours, iterations only"
