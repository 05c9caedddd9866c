"""What the states of all engines of `SparseGLMSolver` remember."""

from __future__ import annotations

from dataclasses import dataclass

from lowrank_opt.core.state import State

__all__ = ["SparseState"]

# Iterations without a new least residual, by a hundredth, before a run has stalled.
_PATIENCE = 40
_PROGRESS = 0.99
# Iterations in which no step lowers the objective, one after the other.
_FAILURES = 3


@dataclass
class SparseState(State):
    """State of a run of `SparseGLMSolver`; each engine derives its own.

    Parameters
    ----------
    idle : int
        Iterations since the least residual so far fell by a hundredth.
    failures : int
        Iterations in a row in which no step lowered the objective.
    """

    idle: int = 0
    failures: int = 0

    def look(self) -> None:
        """Note whether the last iteration got anywhere."""
        if self.residual < _PROGRESS * self.best_residual:
            self.best_residual, self.idle = float(self.residual), 0
        else:
            self.idle += 1

    @property
    def stalled(self) -> bool:
        """Whether no progress can be expected any more."""
        return self.idle >= _PATIENCE or self.failures >= _FAILURES
