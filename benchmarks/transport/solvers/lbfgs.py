from benchmark_utils.benchopt_solver import SystemSolver


class Solver(SystemSolver):
    """Our L-BFGS on the semi-dual."""

    name = "lowrank_opt-lbfgs"
    requirements = ["pip::lowrank_opt"]
    system = "ours L-BFGS"
