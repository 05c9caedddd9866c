from benchmark_utils.benchopt_solver import SystemSolver


class Solver(SystemSolver):
    """Alternating directions on both unfoldings, with a mask."""

    name = "tensorly"
    requirements = ["pip::tensorly"]
    system = "tensorly robust_pca"
