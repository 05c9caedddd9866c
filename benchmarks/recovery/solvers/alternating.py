from benchmark_utils.benchopt_solver import SystemSolver


class Solver(SystemSolver):
    """Our alternating minimisation."""

    name = "lowrank_opt-alternating"
    requirements = ["pip::lowrank_opt"]
    parameters = {"inner": ["exact", "CG", "sketch"]}

    @property
    def system(self):
        return f"ours {self.inner}"
