from benchmark_utils.benchopt_solver import SystemSolver


class Solver(SystemSolver):
    """L-BFGS on the semi-dual of POT."""

    name = "pot"
    requirements = ["pip::POT"]
    system = "POT"
