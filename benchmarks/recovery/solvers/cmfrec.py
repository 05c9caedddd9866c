from benchmark_utils.benchopt_solver import SystemSolver


class Solver(SystemSolver):
    """cmfrec, alternating least squares with Cholesky or three steps of conjugate gradients."""

    name = "cmfrec"
    requirements = ["pip::cmfrec"]
    parameters = {"inner": ["Cholesky", "CG"]}

    @property
    def system(self):
        return f"cmfrec {self.inner}"
