from benchmark_utils.benchopt_solver import SystemSolver


class Solver(SystemSolver):
    """The authors' package."""

    name = "eclipse-nn"
    requirements = ["pip::eclipse-nn"]
    system = "eclipse-nn, ECLipsE"
