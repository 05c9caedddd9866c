from benchmark_utils.benchopt_solver import SystemSolver


class Solver(SystemSolver):
    """The closed form of the authors' package."""

    name = "eclipse-nn-Fast"
    requirements = ["pip::eclipse-nn"]
    system = "eclipse-nn, Fast"
