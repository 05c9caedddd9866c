"""lowrank_opt: published optimisation algorithms, certified and fast."""

__version__ = "0.1.0.dev0"

# Rooms with solvers; each registers its solvers and kernels when it is imported.
FAMILIES = ("recovery",)
