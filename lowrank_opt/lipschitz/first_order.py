r"""First-order descent over the multipliers of a chain: every point proves a bound.

L-BFGS on the function of :mod:`lowrank_opt.lipschitz.slope_recursion`, whose Schatten norms tend
to the spectral norm as their order grows from phase to phase. It has no dual and so says nothing
about the distance to the best bound; it needs no matrix larger than a layer.

References
----------
.. [1] Fazlyab, Robey, Hassani, Morari, Pappas, "Efficient and Accurate Estimation of Lipschitz
   Constants for Deep Neural Networks", NeurIPS 2019. :arxiv:`1906.04893`
.. [2] Xu, Sivaranjani, "ECLipsE: Efficient Compositional Lipschitz Constant Estimation for Deep
   Neural Networks", NeurIPS 2024. :arxiv:`2404.04375`
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from lowrank_opt.core.errors import ParameterError
from lowrank_opt.lipschitz.engine import EngineState
from lowrank_opt.lipschitz.limited_memory import direction, line_search, remember
from lowrank_opt.lipschitz.slope_recursion import Evaluation, SlopeRecursion

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from lowrank_opt.lipschitz.forms import Chain

__all__ = ["FirstOrderState", "advance", "chain_start", "start"]

_MEMORY = 20
# Squarings of the phases; deep nets skip the first, from which they do not get away.
_PHASES = (3, 5, 7, 9)
_DEEP = 30
# A phase ends when the bound fell by less than this part in so many iterations.
_WINDOW = 15
_PHASE_DECREASE = 1e-3
# Part of the closed form in the start of interior points.
_MIX = 0.05
# Squarings and evaluations of `chain_start`.
_EFFORTS = {"low": (3, 30), "medium": (5, 100), "high": (5, 300)}
_SMALL, _WIDE = 600, 400


@dataclass
class FirstOrderState(EngineState):
    """A descent under way.

    Parameters
    ----------
    x, gradient : ndarray of shape (size,)
        Point (θ, τ) and gradient there.
    value : float
        Smoothed objective there.
    steps, changes : ndarray of shape (memory, size)
        Memory of L-BFGS; the first `pairs` rows are in use.
    pairs : int
        How many.
    phase : int
        Index of the order of the norms.
    phases : tuple of int
        Squarings of all phases.
    since : int
        Iterations since the memory was cleared.
    entered : float
        Logarithm of the best bound when the last phase was entered again; infinite before.
    values : list of float
        Halves of the objective, logarithms of bounds, after the last iterations of this phase.
    """

    counts: dict[str, int] = field(default_factory=lambda: {"evaluations": 0})
    x: Any = None
    gradient: Any = None
    value: float = np.inf
    steps: Any = None
    changes: Any = None
    pairs: int = 0
    phase: int = 0
    phases: tuple[int, ...] = _PHASES
    since: int = 0
    entered: float = np.inf
    values: list[float] = field(default_factory=list)


def start(
    form: Chain,
    *,
    tol: float,
    multipliers: Sequence[NDArray[np.float64]] | None = None,
    dual: Any = None,
    phases: tuple[int, ...] | None = None,
) -> FirstOrderState:
    """Begin a descent.

    Parameters
    ----------
    form : Chain
        The network.
    tol : float
        Done when the bound falls by less than this part in the first 15 iterations without
        memory, with the last norm.
    multipliers : sequence of ndarray of shape (n_i,) or None, default=None
        Where to begin, divided by ρ; those 15 iterations are done at once. ``None``: a guess from
        sums of squared weights.
    dual : object, default=None
        Not used.
    phases : tuple of int or None, default=None
        Squarings k of the Schatten norms, of order 2ᵏ + 1, phase by phase; ``None``: 3, 5, 7, 9
        for up to 30 layers, 5, 7, 9 beyond, and the last alone from given multipliers.

    Returns
    -------
    FirstOrderState
        Its `upper` is already a bound.
    """
    recursion = SlopeRecursion(form)
    if phases is None:
        first = 0 if len(form.weights) <= _DEEP else 1
        phases = _PHASES[first:] if multipliers is None else _PHASES[-1:]
    state = FirstOrderState(tol=tol, phases=tuple(phases), cache=recursion)
    if recursion.n_layers == 0:
        state.upper = state.lower = float(np.linalg.norm(form.weights[0], 2))
        state.done = "converged"
        return state
    if multipliers is None:
        state.x = recursion.guess(phases[0])
    else:
        state.x = recursion.locate(multipliers, phases[0])
    state.steps = np.zeros((_MEMORY, recursion.size))
    state.changes = np.zeros((_MEMORY, recursion.size))
    _begin_phase(state)
    if not np.isfinite(state.value):
        state.x = np.zeros(recursion.size)
        _begin_phase(state)
    if not np.isfinite(state.value):
        state.done, state.message = "failed", "no multipliers were feasible in double precision"
    if multipliers is not None and not state.done:
        state.entered = float(np.log(state.upper))
    while multipliers is not None and not state.done and state.nit <= _WINDOW:
        advance(form, state)
    state.nit = 0
    return state


def advance(form: Chain, state: FirstOrderState) -> None:
    """Do one iteration, in place.

    Parameters
    ----------
    form : Chain
        The network.
    state : FirstOrderState
        The descent.

    Notes
    -----
    Cost: mostly one evaluation, ``(8 + k) n³`` flops per layer of width n.
    """
    if state.done:
        return
    if state.cache is None:
        state.cache = SlopeRecursion(form)
    state.nit += 1
    moved = _step(state)
    state.values.append(0.5 * state.value)
    del state.values[: -_WINDOW - 1]
    state.since += 1
    last = state.phase == len(state.phases) - 1
    tol = state.tol if last else max(state.tol, _PHASE_DECREASE)
    slow = len(state.values) > _WINDOW and state.values[0] - state.values[-1] < tol
    if last and state.entered - float(np.log(state.upper)) < tol:
        # A run of its own, without memory, has not improved the bound.
        if state.since == _WINDOW + 1 or not moved:
            state.done = "converged"
            return
        slow = False
    if moved and not slow:
        return
    state.phase = min(state.phase + 1, len(state.phases) - 1)
    # The best multipliers so far, of which a new norm makes another point.
    state.x = state.cache.locate(state.multipliers, state.phases[state.phase])
    _begin_phase(state)
    state.entered = float(np.log(state.upper)) if last else np.inf


def _begin_phase(state: FirstOrderState) -> None:
    state.pairs = state.since = 0
    state.values.clear()
    now = _evaluate(state, state.x)
    state.value, state.gradient = now.value, now.gradient


def _step(state: FirstOrderState) -> bool:
    """Move to a better point; without memory when the first attempt fails."""
    for attempt in range(2):
        towards = direction(state.gradient, state.steps, state.changes, state.pairs)
        slope = float(towards @ state.gradient)
        if slope < 0.0:
            length = 1.0 if state.pairs else min(1.0, 1.0 / np.sqrt(-slope))
            found = line_search(
                lambda x: _evaluate(state, x), state.x, state.value, slope, towards, length
            )
            if found is not None:
                length, new = found
                state.pairs = remember(
                    state.steps, state.changes, state.pairs,
                    length * towards, new.gradient - state.gradient,
                )  # fmt: skip
                state.x = state.x + length * towards
                state.value, state.gradient = new.value, new.gradient
                return True
        if attempt == 0 and state.pairs == 0:
            break
        state.pairs = 0
    return False


def _evaluate(state: FirstOrderState, x: NDArray[np.float64]) -> Evaluation:
    found = state.cache.evaluate(x, state.phases[state.phase])
    state.counts["evaluations"] += 1
    upper = float(np.exp(found.log_bound))
    if upper < state.upper:
        state.upper = upper
        state.multipliers = tuple(np.exp(log) for log in found.log_multipliers)
    return found


def chain_start(chain: Chain, *, quality: str = "auto") -> tuple[NDArray[np.float64], ...]:
    """Return multipliers from which an interior point method starts.

    Descends for a fixed number of evaluations, then moves a twentieth of the way to the closed
    form of ECLipsE-Fast, away from the boundary.

    Parameters
    ----------
    chain : Chain
        The network.
    quality : {"auto", "fast", "low", "medium", "high"}, default="auto"
        Effort: none, 30, 100 or 300 evaluations, the last two with norms of higher order.
        "auto" decides by width and depth.

    Returns
    -------
    tuple of ndarray of shape (n_i,)
        Multipliers divided by ρ, strictly feasible for a large enough ρ; empty without hidden
        layers.
    """
    if quality == "auto":
        quality = _effort(chain)
    if quality not in ("fast", *_EFFORTS):
        raise ParameterError(
            f"quality={quality!r} is unknown; expected 'auto', 'fast', 'low', 'medium' or 'high'"
        )
    k, budget = _EFFORTS.get(quality, (5, 0))
    state = start(chain, tol=0.0, phases=(k,))
    if state.done:
        return state.multipliers
    closed = state.cache.evaluate(np.zeros_like(state.x), k).log_multipliers
    while not state.done and state.counts["evaluations"] < budget:
        advance(chain, state)
    return tuple(
        (1.0 - _MIX) * lam + _MIX * np.exp(fast)
        for lam, fast in zip(state.multipliers, closed, strict=True)
    )


def _effort(chain: Chain) -> str:
    few = chain.n_hidden <= _SMALL or max(chain.widths) >= _WIDE
    return "low" if few else "medium"
