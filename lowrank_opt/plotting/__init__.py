"""Displays: data in the constructor, drawing in ``plot``; matplotlib is imported there."""

from lowrank_opt.plotting.convergence import ConvergenceDisplay

__all__ = ["ConvergenceDisplay"]
