"""The nonexpansive map behind a problem: given, forward-backward, or an exact resolvent."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from lowrank_opt.core.errors import AccuracyWarning, UnsupportedProblemError
from lowrank_opt.core.protocols import HasFixedPointMap

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

__all__ = ["missing_for_maps", "nonexpansive_map", "warn_if_expansive"]

EXPANSION = 1e-6


def missing_for_maps(problem: Any) -> list[str]:
    """Return what keeps a problem from having a map: nothing for those with one.

    Parameters
    ----------
    problem : Problem
        A fixed-point problem or an inclusion.
    """
    if isinstance(problem, HasFixedPointMap) or problem.cocoercive:
        return []
    if getattr(problem, "affine", None) is not None and problem.prox is None:
        return []
    return [
        "a cocoercive operator, or F=(M, q) without prox (FastExtraGradient and InexactHalpern "
        "take any monotone, Lipschitz operator)"
    ]


def nonexpansive_map(problem: Any, step_size: float | None) -> tuple[Callable[..., Any], int]:
    """Return a map whose fixed points are the solutions, and what a call costs.

    The given map; for a cocoercive F the forward-backward step, of size 2/L without G and 1/L with
    it; for an affine monotone F its reflected resolvent, whose matrix is factorised once.

    Parameters
    ----------
    problem : Problem
        What is solved.
    step_size : float or None
        Step of the forward-backward or resolvent map, instead.

    Returns
    -------
    map, calls : callable, int
        The map of a flat array, and the number of evaluations of single terms in it.
    """
    if isinstance(problem, HasFixedPointMap):
        return problem.fixed_point_map, 1
    missing = missing_for_maps(problem)
    if missing:
        raise UnsupportedProblemError("a nonexpansive map", missing, type(problem).__name__, [])
    L = problem.lipschitz
    if problem.cocoercive:
        step = step_size or (2.0 / L if problem.prox is None else 1.0 / L)

        def forward_backward(z: NDArray[Any]) -> NDArray[Any]:
            moved: NDArray[Any] = problem.resolvent(z - step * problem.operator(z), step)
            return moved

        return forward_backward, problem.n_terms
    from lowrank_opt.monotone.inclusion import affine_resolvent

    solve = affine_resolvent(problem, step_size or 1.0 / L)
    return (lambda z: 2.0 * solve(z) - z), problem.n_terms


def warn_if_expansive(state: Any, z: Any, image: Any) -> None:
    """Warn once when two iterates and their images show that a map is not nonexpansive.

    Parameters
    ----------
    state : OperatorState
        Keeps the last pair.
    z, image : ndarray
        An iterate and its image.
    """
    last = state.memory.get("pair")
    state.memory["pair"] = (np.array(z), np.array(image))
    if last is None or state.memory.get("expansive"):
        return
    distance = float(np.linalg.norm(np.asarray(z - last[0], np.float64)))
    moved = float(np.linalg.norm(np.asarray(image - last[1], np.float64)))
    # Below this, rounding decides.
    floor = 1e3 * float(np.finfo(z.dtype).eps) * (1.0 + float(np.linalg.norm(z)))
    if moved > (1.0 + EXPANSION) * distance and moved > floor:
        state.memory["expansive"] = True
        warnings.warn(
            f"T is not nonexpansive: two iterates at distance {distance:.3e} have images at "
            f"distance {moved:.3e}; the method may not converge",
            AccuracyWarning,
            stacklevel=6,
        )
