from benchmark_utils.benchopt_solver import SystemSolver


class Solver(SystemSolver):
    """Our Gibbs sampler; an iteration is a sweep, the result the mean of the draws' factors."""

    name = "lowrank_opt-gibbs"
    requirements = ["pip::lowrank_opt"]
    system = "ours Gibbs"
