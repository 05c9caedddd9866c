"""Fixed points of nonexpansive maps."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from lowrank_opt.core.errors import ProblemError, ProblemTypeError
from lowrank_opt.core.problem import Certificate, Problem, digest
from lowrank_opt.monotone.certificates_operators import grade_fixed_point
from lowrank_opt.numerics._arrays import real_array

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

__all__ = ["FixedPointProblem", "checked_point", "checked_value"]


@dataclass(frozen=True, eq=False, repr=False)
class FixedPointProblem(Problem):
    r"""Fixed point of a nonexpansive map: find :math:`x = T(x)`.

    Parameters
    ----------
    T : callable
        ``T(x) -> array`` of the shape of `x`; nonexpansive in the Euclidean norm,
        ``‖T(x) - T(y)‖ <= ‖x - y‖``. It must not modify its argument.
    x_start : array-like
        Where solvers start, and what residuals are relative to; its shape and its dtype (float32
        or float64) are those of all points.

    Attributes
    ----------
    size : int
        Number of variables.
    x_shape : tuple of int
        Shape of a point.
    dtype : dtype
        Type of points.

    Raises
    ------
    ProblemError
        `T` returns another shape, or numbers that are not finite, at `x_start`.

    See Also
    --------
    MonotoneInclusion : 0 in F(x) + G(x), from which maps are made.
    Anderson : The solver that `auto_solver` names, unless `T` is seen to keep distances.
    Halpern : That for maps that keep distances, such as rotations.

    Notes
    -----
    The certificate's residual is ``‖x - T(x)‖`` over that at `x_start`. That `T` is nonexpansive
    cannot be checked; solvers warn when two of their iterates contradict it.

    `auto_solver` evaluates `T` twice: averaging and extrapolation take long on a map that keeps all
    distances and turns many planes by different angles, Halpern iteration does not. On eighteen
    other maps (contractions, alternating projections, soft thresholds, splittings) safeguarded
    extrapolation took fewer evaluations, often by a factor of ten.
    Only Halpern iteration reports the displacement of a map without a fixed point.

    Examples
    --------
    >>> import numpy as np
    >>> from lowrank_opt.monotone import FixedPointProblem
    >>> problem = FixedPointProblem(lambda x: -x, np.ones(3))
    >>> problem.certificate(np.zeros(3)).residual
    0.0
    """

    T: Callable[[Any], Any]
    x_start: Any
    _unit: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        put = object.__setattr__
        if not callable(self.T):
            raise ProblemTypeError(f"T is a {type(self.T).__name__}; a function of x is needed")
        put(self, "x_start", checked_point("x_start", self.x_start))
        z = self.start()
        image = self.fixed_point_map(z)
        if not np.all(np.isfinite(image)):
            raise ProblemError("T returned NaN or infinity at x_start; start where T is defined")
        put(self, "_unit", float(np.linalg.norm(z - image)))

    @property
    def size(self) -> int:
        """Number of variables."""
        return int(self.x_start.size)

    @property
    def x_shape(self) -> tuple[int, ...]:
        """Shape of a point."""
        return tuple(self.x_start.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of points."""
        return np.dtype(self.x_start.dtype)

    def __repr__(self) -> str:
        return f"FixedPointProblem({self.size} variables)"

    def fingerprint(self) -> Mapping[str, Any]:
        """Shape, dtype, and a hash of the start and its image; the map itself has none."""
        z = self.start()
        return {
            "shape": list(self.x_shape), "dtype": str(self.dtype),
            "hash": digest(z, np.ascontiguousarray(self.fixed_point_map(z))),
        }  # fmt: skip

    def auto_solver(self) -> tuple[str, dict[str, Any]]:
        """Safeguarded extrapolation, or Halpern iteration for maps that keep distances."""
        return ("Halpern", {}) if self._keeps_distances() else ("Anderson", {"fallback": "average"})

    def _keeps_distances(self) -> bool:
        """Whether T is no average of the identity and another map, by one pair of points."""
        z = self.start()
        scale = max(1.0, float(np.linalg.norm(z))) / math.sqrt(max(z.size, 1))
        w = z + (scale * np.random.default_rng(0).standard_normal(z.size)).astype(z.dtype)
        d = np.asarray(w - z, np.float64)
        image = np.asarray(self.fixed_point_map(w) - self.fixed_point_map(z), np.float64)
        moved, eps = d - image, float(np.finfo(self.dtype).eps)
        # (1 - a) / a ‖(I - T) d‖² <= ‖d‖² - ‖T d‖² for averages with weight a of the other map
        lost, turned = float(d @ d - image @ image), float(moved @ moved)
        rounding = 100.0 * eps * float(d @ d)
        return turned > rounding and lost <= 1e-6 * turned + rounding

    def start(self) -> NDArray[Any]:
        """Return the start as a flat array of its own."""
        return np.array(self.x_start).reshape(-1)

    def flat(self, x: Any) -> NDArray[Any]:
        """Return a point as a flat array of its own, in the problem's dtype.

        Parameters
        ----------
        x : array-like
            A point.
        """
        return flat_point(self, x)

    def shaped(self, z: Any) -> NDArray[Any]:
        """Return a flat array as a point, an array of its own."""
        return np.array(z, self.dtype).reshape(self.x_shape)

    def fixed_point_map(self, z: Any) -> NDArray[Any]:
        """Return T at a flat point, flat.

        Parameters
        ----------
        z : ndarray of shape (size,)
            A point.
        """
        value = self.T(np.asarray(z).reshape(self.x_shape))
        return checked_value("T", value, self.x_shape)

    def measure(self, z: Any, value: Any = None) -> float:
        """Return the residual of a flat point in its own precision, for solvers.

        Parameters
        ----------
        z : ndarray of shape (size,)
            A point.
        value : ndarray or None, default=None
            ``fixed_point_map(z)``, if known.
        """
        norm = float(np.linalg.norm(z - (self.fixed_point_map(z) if value is None else value)))
        return norm / self._unit if self._unit > 0 else norm

    def objective(self, x: Any) -> float:
        """Distance of a point to its image."""
        z = np.asarray(self.flat(x), np.float64)
        return float(np.linalg.norm(z - self.fixed_point_map(z)))

    def certificate(self, x: Any) -> Certificate:
        """Grade a point by its distance to its image, relative to that of the start."""
        return grade_fixed_point(self, np.asarray(self.flat(x), np.float64))


def checked_point(name: str, x: Any) -> NDArray[Any]:
    """Return a finite float array of its own that nobody can change."""
    array = np.array(real_array(name, x)[0])
    if array.size == 0:
        raise ProblemError(f"{name} is empty: at least one variable is needed")
    array.flags.writeable = False
    return array


def flat_point(problem: Any, x: Any) -> NDArray[Any]:
    """Return a point of a problem as a flat array of its own."""
    array = real_array("x", x)[0]
    if array.shape != problem.x_shape:
        raise ProblemError(
            f"x has shape {array.shape}; a point of {problem!r} has shape {problem.x_shape}"
        )
    return np.array(array, problem.dtype).reshape(-1)


def checked_value(name: str, value: Any, shape: tuple[int, ...]) -> NDArray[Any]:
    """Return what a user's function gave, flat, or raise if it has another shape."""
    array = np.asarray(value)
    if array.shape != shape:
        raise ProblemError(
            f"{name} returned shape {array.shape} for a point of shape {shape}; the same is needed"
        )
    if array.dtype.kind not in "fiub":
        raise ProblemTypeError(f"{name} returned dtype {array.dtype}; real numbers are needed")
    return array.reshape(-1)
