r"""Primal-dual interior point for the semidefinite bound of a chain.

.. math:: \min \rho \quad \text{s.t.} \quad S(\rho, \lambda) \succeq 0, \; \lambda \ge 0
    \qquad \text{and} \qquad \max \langle C, X \rangle \quad \text{s.t.} \quad
    \langle E_0, X \rangle = 1, \; \langle A_j, X \rangle + x_j = 0, \; X \succeq 0, \; x \ge 0 .

S is block tridiagonal and its terms have rank two, so only the blocks of X that S has occur; X
stands for its completion of largest determinant, whose inverse is block tridiagonal like S. One
iteration forms the matrix B of the multipliers' equations from panels and solves it three times,
for a direction with three parts: affine, centring and second-order corrector. Bounds do not rest
on residuals: multipliers are completed to the best feasible ρ by elimination, X is scaled to the
nearest feasible point of the dual.

Notes
-----
Cost of an iteration, for N neurons in layers of width n: N³ / 3 flops for the factorisation,
8 N² n for B, a few hundred n³ per layer for the rest; memory N² numbers.

References
----------
.. [1] Helmberg, Rendl, Vanderbei, Wolkowicz, "An interior-point method for semidefinite
   programming", SIAM J. Optim. 6, 1996 (the direction).
.. [2] Nakata, Fujisawa, Fukuda, Kojima, Murota, "Exploiting sparsity in semidefinite programming
   via matrix completion II", Math. Program. 95, 2003.
.. [3] Fazlyab, Robey, Hassani, Morari, Pappas, "Efficient and accurate estimation of Lipschitz
   constants for deep neural networks", NeurIPS 2019 (the program).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lowrank_opt.lipschitz.chain_blocks import cliques, factor, invert, transfers
from lowrank_opt.lipschitz.chain_directions import Point, chosen_direction, directions
from lowrank_opt.lipschitz.chain_operator import ChainOperator, largest_gram
from lowrank_opt.lipschitz.chain_scaling import Scaling, fast_multipliers, squared_bound
from lowrank_opt.lipschitz.engine import EngineState
from lowrank_opt.lipschitz.first_order import chain_start

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from lowrank_opt.lipschitz.chain_blocks import Blocks
    from lowrank_opt.lipschitz.forms import Chain

__all__ = ["ChainState", "advance", "start"]

_MIX = 0.05  # of the closed form in the start, which keeps away from the boundary
_RAISE = 1.1  # of ρ at the start
_STALLED = 1e-4  # both steps shorter than this


@dataclass
class ChainState(EngineState):
    """All that an iteration changes; bounds in units of L.

    Parameters
    ----------
    structure : {"neuron", "layer"}
        Whether each neuron or each layer has a multiplier.
    scales : tuple of ndarray of shape (n_i,)
        Multipliers that the iteration sees as one.
    scale_rho : float
        Squared bound that the iteration sees as one.
    rho, u, x : float and ndarray of shape (m,)
        Scaled ρ, multipliers and their slacks in the dual.
    X, X_low : tuple of ndarray
        Blocks of the scaled dual matrix: X_ii and X_{i,i-1}.
    """

    structure: str = "neuron"
    scales: tuple[Any, ...] = ()
    scale_rho: float = 1.0
    rho: float = 1.0
    u: Any = None
    x: Any = None
    X: tuple[Any, ...] = ()
    X_low: tuple[Any, ...] = ()


@dataclass
class _Cache:
    """What follows from the chain and the state's arrays."""

    chain: Chain
    scaling: Scaling
    operator: ChainOperator
    S: Any = None
    factors: Any = None


def start(
    form: Chain,
    *,
    tol: float = 5e-7,
    multipliers: tuple[NDArray[np.float64], ...] | None = None,
    dual: tuple[NDArray[np.float64], ...] | None = None,
    structure: str = "neuron",
) -> ChainState:
    """Return a strictly feasible start with its bounds.

    Parameters
    ----------
    form : Chain
        The network.
    tol : float, default=5e-7
        Relative gap in L at which the state is done; its double in ρ.
    multipliers : tuple of ndarray of shape (n_i,), optional
        Multipliers divided by ρ to start from; by default those of a first-order method.
    dual : tuple of ndarray, optional
        Matrix of the dual program; with it and optimal multipliers the state is done at once.
    structure : {"neuron", "layer"}, default="neuron"
        A multiplier for each neuron, or one for each layer.

    Returns
    -------
    ChainState
        Not done unless the pair given is optimal within `tol`, or there is one layer only.
    """
    state = ChainState(tol=tol, structure=structure)
    if len(form.weights) == 1:
        return _single_layer(form, state)
    fast = fast_multipliers(form, per_layer=structure == "layer")
    best, rho = fast, squared_bound(form, fast)
    if multipliers is not None:
        value = squared_bound(form, multipliers)
        if value < rho:
            best, rho = tuple(multipliers), value
    if not np.isfinite(rho):
        state.done, state.message = "failed", "no feasible multipliers found: rounding dominates"
        return state
    _record_upper(state, best, np.sqrt(rho))
    if dual is not None and _given_dual(form, state, dual):
        return state
    if best is not fast:
        mixed = tuple((1.0 - _MIX) * m + _MIX * f for m, f in zip(best, fast, strict=True))
    else:
        mixed = default_multipliers(form, structure)
    value = squared_bound(form, mixed)
    if np.isfinite(value):
        best, rho = mixed, value
        _record_upper(state, best, np.sqrt(rho))
    state.scales, state.scale_rho = best, rho
    state.rho = _RAISE
    cache = _rebuild(form, state)
    op = cache.operator
    state.u = np.full(op.n_multipliers, _RAISE)
    if not _start_dual(state, cache):
        state.done, state.message = "failed", "the start is not strictly feasible: rounding"
        return state
    _bounds(state, cache)
    return state


def default_multipliers(form: Chain, structure: str) -> tuple[NDArray[np.float64], ...]:
    """Return multipliers, divided by ρ, near enough to the optimum to start from."""
    if structure == "layer":
        return fast_multipliers(form, per_layer=True)
    return chain_start(form)


def _single_layer(form: Chain, state: ChainState) -> ChainState:
    W = form.weights[0]
    V = W if W.shape[0] >= W.shape[1] else W.T
    v = np.linalg.eigh(np.dot(V.T, V))[1][:, -1]
    if V is not W:
        v = np.dot(V, v)
    v = v / np.linalg.norm(v)
    state.upper = float(np.sqrt(largest_gram(W)))
    state.lower = min(float(np.linalg.norm(np.dot(W, v))), state.upper)
    state.dual = (np.multiply.outer(v, v),)
    state.done, state.message = "converged", "one layer: its norm"
    return state


def _record_upper(
    state: ChainState, multipliers: Sequence[NDArray[np.float64]], value: float
) -> None:
    if value < state.upper:
        state.upper, state.multipliers = float(value), tuple(multipliers)


def _given_dual(form: Chain, state: ChainState, dual: tuple[NDArray[np.float64], ...]) -> bool:
    """Take the bound that a given dual matrix proves; whether the state is done by it."""
    scaling = Scaling(state.multipliers, state.upper**2)
    op = ChainOperator(scaling.weights(form), form.alpha, state.structure)
    X, X_low = scaling.scaled_dual(dual)
    shift = 1e-13 * np.trace(X[0]) / len(X[0])
    for K in cliques(X, X_low):
        if np.linalg.eigvalsh(K)[0] < -shift * len(K):
            return False
    value, new, new_low = op.lower(X, X_low)
    _record_lower(state, scaling, value, new, new_low)
    return _check_gap(state)


def _record_lower(
    state: ChainState, scaling: Scaling, value: float, X: Blocks, X_low: Blocks
) -> None:
    bound = float(np.sqrt(max(value, 0.0) * scaling.rho))
    if bound > state.lower:
        state.lower, state.dual = bound, scaling.original_dual(X, X_low)


def _check_gap(state: ChainState) -> bool:
    if state.lower >= (1.0 - state.tol) * state.upper:
        state.done = "converged"
        gap = max(0.0, 1.0 - state.lower / state.upper)
        state.message = f"relative gap {gap:.1e} between the bounds"
    return bool(state.done)


def _rebuild(form: Chain, state: ChainState) -> _Cache:
    scaling = Scaling(state.scales, state.scale_rho)
    operator = ChainOperator(scaling.weights(form), form.alpha, state.structure)
    state.cache = _Cache(form, scaling, operator)
    return state.cache


def _factorise(state: ChainState, cache: _Cache) -> bool:
    cache.S = cache.operator.blocks(state.rho, state.u)
    cache.factors = factor(*cache.S)
    return cache.factors is not None


def _start_dual(state: ChainState, cache: _Cache) -> bool:
    """X = m S⁻¹ with trace one on the inputs, x = m / u."""
    if not _factorise(state, cache):
        return False
    inverse = invert(cache.S[0], cache.S[1], cache.factors)
    if inverse is None:
        return False
    m = 1.0 / np.trace(inverse.Z[0])
    state.X = tuple(A * m for A in inverse.Z)
    state.X_low = (state.X[0], *(A * m for A in inverse.Z_low[1:]))
    state.x = m / state.u
    return True


def _bounds(state: ChainState, cache: _Cache) -> None:
    """Update both bounds from the iterate."""
    op, scaling = cache.operator, cache.scaling
    value = op.upper(state.rho, cache.factors, cache.S[0])
    bound = np.sqrt(value * scaling.rho)
    if bound < state.upper:
        lam = op.lift(state.u)
        scaled = [op.layer(lam, i) for i in range(1, op.n_layers)]
        _record_upper(state, scaling.original_multipliers(scaled, state.rho), bound)
    _record_lower(state, scaling, *op.lower(list(state.X), list(state.X_low)))
    _check_gap(state)


def advance(form: Chain, state: ChainState) -> None:
    """Do one iteration, in place.

    Parameters
    ----------
    form : Chain
        The network that `start` was given.
    state : ChainState
        Not done.
    """
    cache = state.cache
    if cache is None or cache.chain is not form:
        cache = _rebuild(form, state)
    if cache.factors is None and not _factorise(state, cache):
        state.done, state.message = "failed", "S has no Cholesky factor"
        return
    point = Point(state.rho, state.u, list(state.X), list(state.X_low), state.x)
    inverse = invert(cache.S[0], cache.S[1], cache.factors)
    t = None if inverse is None else transfers(point.X, point.X_low, inverse, cache.operator.W)
    parts = None if t is None else directions(cache.operator, point, t)
    if parts is None:
        state.done, state.message = "failed", "a factorisation broke down: rounding"
        return
    step = chosen_direction(cache.operator, point, parts, state.counts)
    primal, dual = step.primal_step, step.dual_step
    state.rho += primal * step.rho
    state.u = state.u + primal * step.u
    state.x = state.x + dual * step.x
    X, X_low = step.blocks(point, dual)
    state.X, state.X_low = tuple(X), tuple(X_low)
    state.nit += 1
    if not _factorise(state, cache):
        state.done, state.message = "failed", "S has no Cholesky factor: rounding"
        return
    _bounds(state, cache)
    if not state.done and max(primal, dual) < _STALLED:
        state.done, state.message = "stalled", "steps are too short to go on: rounding"
