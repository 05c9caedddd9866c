"""lowrank_opt: published optimisation algorithms, certified and fast."""

__version__ = "0.1.0.dev0"
