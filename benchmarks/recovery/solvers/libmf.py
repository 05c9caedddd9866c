from benchmark_utils.benchopt_solver import SystemSolver


class Solver(SystemSolver):
    """LIBMF, native; build it with vector instructions, see ../README.md."""

    name = "libmf"
    requirements = ["pip::libmf"]
    system = "LIBMF"

    def skip(self, dtype, **parameters):
        return (True, "float32 only") if dtype != "float32" else (False, None)
