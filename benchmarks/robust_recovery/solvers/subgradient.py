from benchmark_utils.benchopt_solver import SystemSolver


class Solver(SystemSolver):
    """Our sub-gradient method from a small start."""

    name = "lowrank_opt-subgradient"
    requirements = ["pip::lowrank_opt"]
    system = "ours SubgradientMethod"
