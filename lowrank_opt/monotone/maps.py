"""The nonexpansive map behind a problem: given, forward-backward, or an exact resolvent."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from lowrank_opt.core.errors import AccuracyWarning, ParameterError
from lowrank_opt.core.protocols import HasCertificate, HasFixedPointMap, HasMonotoneOperator
from lowrank_opt.monotone.inclusion import affine_resolvent
from lowrank_opt.monotone.operator_solver import OperatorSolver, OperatorState

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["MapSolver", "MapState", "missing_for_maps"]

EXPANSION = 1e-6


def missing_for_maps(problem: Any) -> list[str]:
    """Return what keeps a problem from having a map: nothing for those with one.

    Parameters
    ----------
    problem : Problem
        A fixed-point problem or an inclusion.
    """
    if isinstance(problem, HasFixedPointMap) or getattr(problem, "cocoercive", False):
        return []
    if getattr(problem, "affine", None) is not None and problem.prox is None:
        return []
    return [
        "a cocoercive operator, or F=(M, q) without prox (FastExtraGradient and InexactHalpern "
        "take any monotone, Lipschitz operator)"
    ]


@dataclass
class MapState(OperatorState):
    """State of a method that iterates a map; see :class:`OperatorState`.

    Parameters
    ----------
    seen : list of ndarray
        The last point and its image, by which expansive maps are noticed.
    """

    seen: Any = None


class MapSolver(OperatorSolver):
    """Base of the methods that iterate a nonexpansive map T.

    The map is the problem's own; for a cocoercive F the forward-backward step, reflected as far
    as it stays nonexpansive; for an affine monotone F the (reflected) resolvent, whose matrix is
    factorised once a run. ``state.image`` is T at the iterate.
    """

    requires: ClassVar[tuple[type, ...]] = (HasCertificate,)
    needs: ClassVar[tuple[str, ...]] = ()
    _state: ClassVar[type[OperatorState]] = MapState

    step_size: float | None = None
    reflect: bool = True

    @classmethod
    def accepts(cls, problem: Any) -> list[str]:
        """A map, a cocoercive operator, or an affine monotone one."""
        if not isinstance(problem, (HasFixedPointMap, HasMonotoneOperator)):
            return ["a nonexpansive map or a monotone operator"]
        return super().accepts(problem) or missing_for_maps(problem)

    def check(self, problem: Any) -> None:
        """Raise if a parameter is out of range or the map would not be nonexpansive."""
        super().check(problem)
        step, L = self.step_size, getattr(problem, "lipschitz", None)
        if step is not None and L is not None and problem.cocoercive and step * L > 2.0 + 1e-12:
            raise ParameterError(
                f"{type(self).__name__}: step_size={step!r} is larger than 2 / lipschitz = "
                f"{2.0 / L:g}: the map would not be nonexpansive; give a smaller one"
            )

    def look(self, problem: Any, state: Any) -> None:
        """Evaluate the map at the iterate, and measure; see :class:`OperatorSolver`."""
        state.image, candidate, residual = self.evaluate(problem, state, state.x)
        self.keep(state, candidate, residual)

    def evaluate(
        self, problem: Any, state: Any, z: NDArray[Any]
    ) -> tuple[NDArray[Any], NDArray[Any], float]:
        """Return T at a point, the answer that belongs to the point, and its residual.

        Parameters
        ----------
        problem : Problem
            What is solved.
        state : MapState
            Counts, and the factorisation.
        z : ndarray
            A flat point.

        Notes
        -----
        Residuals come from what was evaluated anyway. With a prox the answer is T(z), which lies
        in the domain of G, and the residual is that at z, an upper bound: forward-backward steps
        up to 2 / lipschitz are nonexpansive.
        """
        state.count(map_calls=1)
        if isinstance(problem, HasFixedPointMap):
            image = np.array(problem.fixed_point_map(z), problem.dtype)
            _warn_if_expansive(state, z, image)
            return image, z, float(problem.measure(z, image))
        number, L = problem.dtype.type, problem.lipschitz
        if not problem.cocoercive:
            step = self.step_size or 1.0 / L
            if state.cache is None:
                state.cache = affine_resolvent(problem, step)
            answer = np.asarray(state.cache(z), problem.dtype)
            state.count(component_calls=problem.n_terms)
            residual = float(problem.measure(answer, (z - answer) / number(step)))
            return (2 * answer - z if self.reflect else answer), answer, residual
        value = self.value(problem, state, z)
        if problem.prox is None:
            step = self.step_size or (2.0 if self.reflect else 1.0) / L
            return z - number(step) * value, z, float(problem.measure(z, value))
        step = self.step_size or 1.0 / L
        answer = self.backward(problem, state, z - number(step) * value, step)
        move = answer - z
        # ‖z - T(z)‖ grows with the step, and over the step it shrinks.
        at_unit = move * number(max(L, 1.0 / step))
        residual = float(np.linalg.norm(at_unit)) / problem.unit
        relaxation = max(0.5 * (4.0 - step * L), 1.0) if self.reflect else 1.0
        return z + number(relaxation) * move, answer, residual


def _warn_if_expansive(state: Any, z: NDArray[Any], image: NDArray[Any]) -> None:
    """Warn once when two iterates and their images show that a map is not nonexpansive."""
    last, state.seen = state.seen, [np.array(z), np.array(image)]
    if last is None or state.warned:
        return
    distance = float(np.linalg.norm(np.asarray(z, np.float64) - last[0]))
    moved = float(np.linalg.norm(np.asarray(image, np.float64) - last[1]))
    # Below this, rounding decides.
    floor = 1e3 * float(np.finfo(z.dtype).eps) * (1.0 + float(np.linalg.norm(z)))
    if moved > (1.0 + EXPANSION) * distance + floor:
        state.warned = True
        warnings.warn(
            f"T is not nonexpansive: two iterates at distance {distance:.3e} have images at "
            f"distance {moved:.3e}; the method may not converge",
            AccuracyWarning,
            stacklevel=2,
        )
