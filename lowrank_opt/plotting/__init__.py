"""Displays: data in the constructor, drawing in ``plot``; matplotlib is imported there."""

from lowrank_opt.plotting.certified_accuracy import CertifiedAccuracyDisplay
from lowrank_opt.plotting.convergence import ConvergenceDisplay
from lowrank_opt.plotting.transport_plan import TransportPlanDisplay

__all__ = ["CertifiedAccuracyDisplay", "ConvergenceDisplay", "TransportPlanDisplay"]
