from benchmark_utils.benchopt_solver import SystemSolver


class Solver(SystemSolver):
    """Logistic regression of scikit-learn by LIBLINEAR."""

    name = "liblinear"
    requirements = ["pip::scikit-learn"]
    system = "liblinear"
