from benchmark_utils.benchopt_solver import SystemSolver


class Solver(SystemSolver):
    """Estimators of scikit-learn."""

    name = "scikit-learn"
    requirements = ["pip::scikit-learn"]
    system = "scikit-learn"
