from benchmark_utils.benchopt_solver import SystemSolver


class Solver(SystemSolver):
    """Primal-dual hybrid gradient of HiGHS."""

    name = "highspy-PDLP"
    requirements = ["pip::highspy"]
    system = "HiGHS PDLP"
