from benchmark_utils.benchopt_solver import SystemSolver


class Solver(SystemSolver):
    """Our solver on a problem, without an estimator."""

    name = "lowrank_opt-sparse-glm"
    requirements = ["pip::lowrank_opt"]
    system = "ours, solver"
