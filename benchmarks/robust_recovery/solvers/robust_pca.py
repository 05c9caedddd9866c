from benchmark_utils.benchopt_solver import SystemSolver


class Solver(SystemSolver):
    """Our estimator; its answer is the only point."""

    name = "lowrank_opt-robust-pca"
    requirements = ["pip::lowrank_opt"]
    system = "ours RobustPCA"
