"""What the engines of bounds have in common: ``start`` makes a state, ``advance`` moves it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from lowrank_opt.core.serialize import register_serializable

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["EngineState"]


@dataclass
class EngineState:
    """A bound under way; a checkpoint stores it without pickle.

    An engine is a module with ``start(form, *, tol, multipliers=None, dual=None, **options)``,
    which returns a state, and ``advance(form, state)``, which does one iteration in place. It
    derives a dataclass with what else it has to remember.

    Parameters
    ----------
    upper, lower : float
        Best bounds on the optimum of the relaxation, in units of the Lipschitz constant of the
        form without its scale; ``inf`` and 0: none.
    multipliers : tuple of ndarray or None
        What proves `upper`, as in :class:`~lowrank_opt.lipschitz.proofs.BoundProof`; ``None``:
        nothing does yet.
    dual : tuple of ndarray or None
        What proves `lower`, in the same layout.
    done : {"", "converged", "stalled", "failed"}
        Why the engine stopped; "" while it runs.
    message : str
        What a user should know.
    nit : int
        Iterations done.
    counts : dict of str to int
        Work counters.
    tol : float
        Relative gap between `upper` and `lower` at which it stops, or what stands for it.
    cache : object
        What can be rebuilt from the form and the other fields; never stored.
    """

    transient: ClassVar[tuple[str, ...]] = ("cache",)

    upper: float = math.inf
    lower: float = 0.0
    multipliers: tuple[NDArray[np.float64], ...] | None = ()
    dual: tuple[NDArray[np.float64], ...] | None = None
    done: str = ""
    message: str = ""
    nit: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    tol: float = 1e-6
    cache: Any = field(default=None, repr=False, compare=False)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        register_serializable(cls)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, **dict.fromkeys(self.transient)}

    @property
    def gap(self) -> float:
        """Relative gap between the bounds."""
        if not math.isfinite(self.upper):
            return math.inf
        return 1.0 - self.lower / self.upper if self.upper > 0.0 else 0.0
