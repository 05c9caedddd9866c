"""Regions of inputs on which a local bound is to hold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from lowrank_opt.core.errors import ProblemError, ProblemTypeError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Ball", "Box", "Region"]


def _vector(name: str, value: Any) -> NDArray[np.float64]:
    array = np.asarray(value)
    if array.dtype.kind not in "fiub":
        raise ProblemTypeError(f"{name} has dtype {array.dtype}; expected real numbers")
    array = np.array(array, dtype=np.float64)
    if array.ndim > 1:
        raise ProblemError(f"{name} has shape {array.shape}; expected one input, shape (n_inputs,)")
    if np.any(np.isnan(array)):
        raise ProblemError(f"{name} has NaN entries")
    array.flags.writeable = False
    return array


@dataclass(frozen=True, eq=False)
class Ball:
    """All inputs within a Euclidean distance of a centre.

    Parameters
    ----------
    center : array-like of shape (n_inputs,)
        Centre.
    radius : float
        Distance, at least 0.
    """

    center: Any
    radius: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "center", np.atleast_1d(_vector("center", self.center)))
        radius = float(self.radius)
        if not np.isfinite(radius) or radius < 0:
            raise ProblemError(f"radius={self.radius!r} must be finite and not negative")
        if not np.all(np.isfinite(self.center)):
            raise ProblemError("center must be finite")
        object.__setattr__(self, "radius", radius)

    def box(self, n_inputs: int) -> Box:
        """Return the smallest box around the ball."""
        if self.center.size not in (1, n_inputs):
            raise ProblemError(
                f"center has {self.center.size} entries; the network has {n_inputs} inputs"
            )
        c = np.broadcast_to(self.center, (n_inputs,))
        return Box(np.nextafter(c - self.radius, -np.inf), np.nextafter(c + self.radius, np.inf))


@dataclass(frozen=True, eq=False)
class Box:
    """All inputs between two bounds.

    Parameters
    ----------
    lower, upper : float or array-like of shape (n_inputs,)
        Ends, with ``lower <= upper``; finite.
    """

    lower: Any
    upper: Any

    def __post_init__(self) -> None:
        low, high = _vector("lower", self.lower), _vector("upper", self.upper)
        try:
            low, high = np.broadcast_arrays(low, high)
        except ValueError:
            raise ProblemError(
                f"lower has shape {low.shape}, upper {high.shape}; expected the same"
            ) from None
        if np.any(low > high):
            k = int(np.argmax(np.atleast_1d(low > high)))
            raise ProblemError(
                f"lower exceeds upper at input {k}: {np.atleast_1d(low)[k]:g} > "
                f"{np.atleast_1d(high)[k]:g}"
            )
        if not (np.all(np.isfinite(low)) and np.all(np.isfinite(high))):
            raise ProblemError("lower and upper must be finite; without bounds, give region=None")
        object.__setattr__(self, "lower", np.atleast_1d(low))
        object.__setattr__(self, "upper", np.atleast_1d(high))

    @classmethod
    def around(cls, x: Any, eps: float, clip: tuple[Any, Any] | None = None) -> Box:
        """Return the box of radius `eps` around an input, cut at the domain.

        Parameters
        ----------
        x : array-like of shape (n_inputs,)
            Input.
        eps : float
            Radius, at least 0.
        clip : tuple or None, default=None
            Ends of the domain of the inputs, such as ``(0, 1)``.
        """
        if not np.isfinite(eps) or eps < 0:
            raise ProblemError(f"eps={eps!r} must be finite and not negative")
        x = _vector("x", x)
        low, high = x - eps, x + eps
        if clip is not None:
            low, high = np.maximum(low, clip[0]), np.minimum(high, clip[1])
        return cls(low, high)

    def box(self, n_inputs: int) -> Box:
        """Return the box with one entry for each input."""
        if self.lower.size not in (1, n_inputs):
            raise ProblemError(
                f"lower has {self.lower.size} entries; the network has {n_inputs} inputs"
            )
        low, high = np.broadcast_to(self.lower, n_inputs), np.broadcast_to(self.upper, n_inputs)
        return Box(low, high)


Region: TypeAlias = Ball | Box
