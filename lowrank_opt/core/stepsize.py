"""Step-size rules, shared by composition: small objects that hold parameters only."""

from __future__ import annotations

from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from lowrank_opt.core.params import Interval, Parameters, StrOptions

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "Armijo",
    "BarzilaiBorwein",
    "Constant",
    "Geometric",
    "LinearDecay",
    "Polyak",
    "PowerDecay",
    "StepSize",
]

_POSITIVE = Interval(Real, 0, None, closed="neither")


class StepSize(Parameters):
    """A rule ``rule(nit) -> float`` that depends on the iteration only."""

    def __call__(self, nit: int) -> float:
        """Return the step of iteration `nit`, counted from 0."""
        raise NotImplementedError


class Constant(StepSize):
    """The same step always.

    Parameters
    ----------
    value : float
        The step, > 0.
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {"value": [_POSITIVE]}

    def __init__(self, value: float = 1.0) -> None:
        self.value = value

    def __call__(self, nit: int) -> float:
        """Return ``value``."""
        return self.value


class Geometric(StepSize):
    """``initial * ratio**nit``.

    Parameters
    ----------
    initial : float
        First step, > 0.
    ratio : float
        In (0, 1).
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "initial": [_POSITIVE],
        "ratio": [Interval(Real, 0, 1, closed="neither")],
    }

    def __init__(self, initial: float = 1.0, ratio: float = 0.99) -> None:
        self.initial = initial
        self.ratio = ratio

    def __call__(self, nit: int) -> float:
        """Return ``initial * ratio**nit``."""
        return self.initial * self.ratio**nit

    @property
    def total(self) -> float:
        """Sum of all steps, ``initial / (1 - ratio)``: how far the iterates can travel."""
        return self.initial / (1.0 - self.ratio)


class PowerDecay(StepSize):
    """``initial / (nit + 1)**power``.

    Parameters
    ----------
    initial : float
        First step, > 0.
    power : float
        Exponent, >= 0; steps in (1/2, 1] are summable in squares only.
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "initial": [_POSITIVE],
        "power": [Interval(Real, 0, None, closed="left")],
    }

    def __init__(self, initial: float = 1.0, power: float = 0.5) -> None:
        self.initial = initial
        self.power = power

    def __call__(self, nit: int) -> float:
        """Return ``initial / (nit + 1)**power``."""
        return self.initial / (nit + 1.0) ** self.power


class LinearDecay(StepSize):
    """``initial * (1 - nit / total)``, 0 from iteration `total` on.

    Parameters
    ----------
    initial : float
        First step, > 0.
    total : int
        Planned number of iterations, >= 1.
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "initial": [_POSITIVE],
        "total": [Interval(Integral, 1, None, closed="left")],
    }

    def __init__(self, initial: float = 1.0, total: int = 100) -> None:
        self.initial = initial
        self.total = total

    def __call__(self, nit: int) -> float:
        """Return ``initial * (1 - nit / total)``, never below 0."""
        return self.initial * max(0.0, 1.0 - nit / self.total)


class Polyak(Parameters):
    """``(f - f_min) / |g|^2``: the best step towards the minimisers when f_min is known.

    Parameters
    ----------
    f_min : float
        The optimal value, or a lower bound on it.
    max_step : float
        Cap on the step, > 0.
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "f_min": [Interval(Real)],
        "max_step": [Interval(Real, 0, None, closed="right")],
    }

    def __init__(self, f_min: float = 0.0, max_step: float = float("inf")) -> None:
        self.f_min = f_min
        self.max_step = max_step

    def __call__(self, value: float, gradient_norm2: float) -> float:
        """Return the step at a point of this objective and squared gradient norm."""
        if gradient_norm2 <= 0.0:
            return 0.0
        return float(min(max(value - self.f_min, 0.0) / gradient_norm2, self.max_step))


class Armijo(Parameters):
    """Backtracking until f(x + t d) <= f(x) + c t <g, d>.

    Parameters
    ----------
    initial : float
        First trial step, > 0.
    shrink : float
        Factor between trials, in (0, 1).
    slope : float
        The constant c, in (0, 1).
    max_trials : int
        Limit on evaluations, >= 1.
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "initial": [_POSITIVE],
        "shrink": [Interval(Real, 0, 1, closed="neither")],
        "slope": [Interval(Real, 0, 1, closed="neither")],
        "max_trials": [Interval(Integral, 1, None, closed="left")],
    }

    def __init__(
        self,
        initial: float = 1.0,
        shrink: float = 0.5,
        slope: float = 1e-4,
        max_trials: int = 50,
    ) -> None:
        self.initial = initial
        self.shrink = shrink
        self.slope = slope
        self.max_trials = max_trials

    def search(
        self, along: Callable[[float], float], value: float, derivative: float
    ) -> tuple[float, float, int]:
        """Find a step of sufficient decrease.

        Parameters
        ----------
        along : callable
            ``along(t)`` is the objective at ``x + t d``.
        value : float
            Objective at ``x``.
        derivative : float
            Directional derivative ``<g, d>``, negative.

        Returns
        -------
        step : float
            The step; 0.0 if no trial satisfied the condition.
        new_value : float
            Objective there.
        trials : int
            Evaluations used.
        """
        step = self.initial
        for trial in range(1, self.max_trials + 1):
            new_value = along(step)
            if new_value <= value + self.slope * step * derivative:
                return step, new_value, trial
            step *= self.shrink
        return 0.0, value, self.max_trials


class BarzilaiBorwein(Parameters):
    """Steps from the last change of iterate ``s`` and of gradient ``y``.

    Parameters
    ----------
    kind : {"long", "short", "alternating"}
        ``s.s / s.y``, ``s.y / y.y``, or in turn.
    low, high : float
        Safeguards, > 0; also the answer (`high`) when ``s.y <= 0``.
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "kind": [StrOptions({"long", "short", "alternating"})],
        "low": [_POSITIVE],
        "high": [_POSITIVE],
    }

    def __init__(self, kind: str = "alternating", low: float = 1e-10, high: float = 1e10) -> None:
        self.kind = kind
        self.low = low
        self.high = high

    def __call__(self, s: Any, y: Any, nit: int = 0) -> float:
        """Return the step after a change `s` of the iterate and `y` of the gradient."""
        s, y = np.ravel(s), np.ravel(y)
        sy = float(s @ y)
        if sy <= 0.0:
            return self.high
        long = self.kind == "long" or (self.kind == "alternating" and nit % 2 == 0)
        step = float(s @ s) / sy if long else sy / float(y @ y)
        return float(min(max(step, self.low), self.high))
