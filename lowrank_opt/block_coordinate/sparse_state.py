"""What the states of all engines of `SparseGLMSolver` remember."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from lowrank_opt.core.errors import ProblemError
from lowrank_opt.core.state import State

__all__ = ["SparseState", "check_start"]

# Iterations without a new least residual, by a hundredth, before a run has stalled.
_PATIENCE = 40
_PROGRESS = 0.99
# Iterations in which no step lowers the objective, one after the other.
_FAILURES = 10


def check_start(loss: float, x0: Any) -> None:
    """Raise if a run cannot start where the loss overflows.

    Parameters
    ----------
    loss : float
        At the start.
    x0 : array-like or None
        The start; ``None``: the null model.
    """
    if not math.isfinite(loss):
        if x0 is None:
            raise ProblemError(
                "the loss is not finite at the null model (within the bounds): rescale the "
                "columns of X, or y"
            )
        raise ProblemError("x0: its objective is not finite; give another start, or none")


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
