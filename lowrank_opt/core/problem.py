"""What a problem is: data and oracles, and the certificate that grades every answer."""

from __future__ import annotations

import abc
import hashlib
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

__all__ = ["Certificate", "Problem", "digest"]


@dataclass(frozen=True)
class Certificate:
    """How good a point is, computed from the problem's data alone, in float64.

    Parameters
    ----------
    residual : float
        The dimensionless quantity that is comparable with a solver's ``tol``: a result with
        status ``CONVERGED`` has ``certificate.residual <= 10 * tol``.
    kind : str
        What ``residual`` is, for instance ``"relative duality gap"``.
    objective : float
        Objective at the point.
    gap : float or None, default=None
        Objective minus a proved lower bound on the optimal value, in units of the objective;
        ``None`` when no bound is known.
    details : mapping of str to float
        Further residuals, by name.
    """

    residual: float
    kind: str
    objective: float
    gap: float | None = None
    details: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("residual", "objective"):
            object.__setattr__(self, name, float(getattr(self, name)))
        if self.gap is not None:
            object.__setattr__(self, "gap", float(self.gap))

    @property
    def finite(self) -> bool:
        """Whether residual and objective are finite."""
        return math.isfinite(self.residual) and math.isfinite(self.objective)

    def __str__(self) -> str:
        gap = "" if self.gap is None else f", gap {self.gap:.3e}"
        return f"{self.kind} {self.residual:.3e}, objective {self.objective:.10g}{gap}"


class Problem(abc.ABC):
    """Base class of the library's problems. A user's own class need not inherit from it.

    A problem is immutable, knows its data, and offers oracles (see
    :mod:`lowrank_opt.core.protocols`) to solvers. Construction checks everything, so that nothing
    raises on bad data afterwards. Everything is stated as minimisation.
    """

    @abc.abstractmethod
    def objective(self, x: Any) -> float:
        """Objective at `x`, accumulated in float64."""

    @abc.abstractmethod
    def certificate(self, x: Any) -> Certificate:
        """Grade `x` from the data alone, in float64, with code that no solver uses."""

    def fingerprint(self) -> Mapping[str, Any]:
        """Shape, dtype and a hash of the data, as JSON values; a checkpoint must match it."""
        raise NotImplementedError(
            f"{type(self).__name__} has no fingerprint(), which checkpoints need: return a dict of "
            "JSON values that identifies the data (shape, dtype, a hash)"
        )

    def auto_solver(self) -> tuple[str, dict[str, Any]]:
        """Name and parameters of the solver that ``lowrank_opt.solve(problem)`` uses."""
        raise NotImplementedError(
            f"{type(self).__name__} has no auto_solver(): give solver= by name or as an instance"
        )


def digest(*arrays: NDArray[Any] | None) -> str:
    """Hash over a sample of the arrays, for fingerprints; ``None`` does not count.

    Parameters
    ----------
    *arrays : ndarray or None
        Data of a problem.

    Returns
    -------
    str
        SHA-256 of some 16 384 evenly spaced numbers of each array.
    """
    total = hashlib.sha256()
    for array in arrays:
        if array is not None:
            flat = array.reshape(-1)
            part = flat[:: max(1, flat.size // 16384)]
            total.update(np.ascontiguousarray(part).tobytes())
    return total.hexdigest()
