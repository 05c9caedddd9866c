from benchmark_utils.benchopt_solver import SystemSolver


class Solver(SystemSolver):
    """Logistic regression of scikit-learn by SAGA."""

    name = "saga"
    requirements = ["pip::scikit-learn"]
    system = "saga"
