"""What changes while a solver runs, and why it stopped."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from lowrank_opt.core.serialize import register_serializable

__all__ = ["State", "Status"]


class Status(enum.IntEnum):
    """Why a solver stopped. ``CONVERGED`` is confirmed by the problem's certificate."""

    CONVERGED = 0
    ITERATION_LIMIT = 1
    TIME_LIMIT = 2
    STALLED = 3
    STOPPED_BY_CALLBACK = 4
    INTERRUPTED = 5
    DIVERGED = 6
    INFEASIBLE = 7
    UNBOUNDED = 8
    NUMERICAL_ERROR = 9


@dataclass
class State:
    """Everything that changes during a run; enough to resume it bit for bit.

    A solver with more to remember derives a dataclass with more fields. Fields hold arrays,
    scalars, strings, ``None``, containers of those, serialisable dataclasses, or a
    ``numpy.random.Generator``: a checkpoint stores them without pickle.

    Parameters
    ----------
    x : object
        The current iterate, or ``None`` when the solver keeps it in buffers of its own
        (:meth:`Solver.point` then builds it).
    nit : int
        Iterations done.
    residual : float
        What ``tol`` is compared with, on this very iterate; ``inf``: not known yet.
    time : float
        Seconds in ``init`` and ``step``, compilation excluded.
    rng : numpy.random.Generator or None
        Source of randomness.
    counts : dict of str to int
        Work counters.
    message : str
        What a user should know beyond the status.
    best : object
        Best point so far in the problem's natural form; kept by solvers that are not monotone.
    best_residual : float
        Residual of `best`.
    data : dict or None
        Fingerprint of the problem's data, by which a resumed run knows that they are the same;
        ``None``: not known.
    cache : object
        What can be rebuilt from the problem and the other fields (copies of data in another
        order, work space); never stored, ``None`` after a copy, a checkpoint or the end of a run.
    """

    transient: ClassVar[tuple[str, ...]] = ("cache",)

    x: Any = None
    nit: int = 0
    residual: float = np.inf
    time: float = 0.0
    rng: np.random.Generator | None = None
    counts: dict[str, int] = field(default_factory=dict)
    message: str = ""
    best: Any = None
    best_residual: float = np.inf
    data: dict[str, Any] | None = field(default=None, repr=False)
    cache: Any = field(default=None, repr=False, compare=False)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, **dict.fromkeys(self.transient)}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        register_serializable(cls)

    def count(self, **increments: int) -> None:
        """Add to the work counters."""
        for name, n in increments.items():
            self.counts[name] = self.counts.get(name, 0) + int(n)


register_serializable(State)
register_serializable(Status)
