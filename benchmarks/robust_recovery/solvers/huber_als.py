from benchmark_utils.benchopt_solver import SystemSolver


class Solver(SystemSolver):
    """Our reweighted alternating least squares, rank given or found."""

    name = "lowrank_opt-huber-als"
    requirements = ["pip::lowrank_opt"]
    parameters = {"rank": ["known", "unknown"]}

    @property
    def system(self):
        return "ours HuberALS" if self.rank == "known" else "ours HuberALS, rank unknown"
