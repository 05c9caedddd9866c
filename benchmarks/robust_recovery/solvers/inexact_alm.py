from benchmark_utils.benchopt_solver import SystemSolver


class Solver(SystemSolver):
    """The inexact augmented Lagrangian method, in NumPy."""

    name = "inexact-alm"
    requirements = ["pip::numpy"]
    parameters = {"svd": ["full", "partial"]}

    @property
    def system(self):
        return f"inexact ALM, {self.svd} SVD"
