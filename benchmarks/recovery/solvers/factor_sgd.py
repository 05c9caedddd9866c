from benchmark_utils.benchopt_solver import SystemSolver


class Solver(SystemSolver):
    """Our blocked stochastic gradient descent."""

    name = "lowrank_opt-sgd"
    requirements = ["pip::lowrank_opt"]
    parameters = {"schedule": ["decay", "adagrad"]}

    @property
    def system(self):
        return "ours SGD" if self.schedule == "decay" else "ours SGD, AdaGrad"
