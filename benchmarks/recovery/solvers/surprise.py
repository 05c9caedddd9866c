from benchmark_utils.benchopt_solver import SystemSolver


class Solver(SystemSolver):
    """Surprise, stochastic gradient descent with biases."""

    name = "surprise"
    requirements = ["pip::scikit-surprise"]
    system = "Surprise SVD"

    def skip(self, threads, **parameters):
        return (True, "one thread only") if threads != 1 else (False, None)
