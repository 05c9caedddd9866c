r"""First-order minimisation of an optimally weighted product of norms, for networks of groups.

The bound of the semidefinite program is the smallest weighted product

.. math:: \prod_i \bigl\| T_i^{1/2} W_i T_{i-1}^{-1/2} \bigr\|_2

over positive multipliers, so every point of this method is a bound; multipliers of one make it
the product of norms. The unknowns are logarithms of the multipliers' eigenvalues, norms are
smoothed as tr(K^p)^(1/p) with p = 9, 33, 129, 513 in turn, and the steps are those of L-BFGS.
The gradient's own matrices K^(p-1), scaled, prove lower bounds, which tighten with p. How to call::

    state = start(form, tol=1e-3)
    while not state.done:
        advance(form, state)

The layout of multipliers and dual is that of :mod:`~lowrank_opt.lipschitz.group_interior_point`.
Cost of an evaluation: about log2(p) + 3 products of the order of a layer's smaller side.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from lowrank_opt.core.threads import thread_limit
from lowrank_opt.lipschitz.engine import EngineState
from lowrank_opt.lipschitz.group_structure import (
    blas_threads,
    expand,
    lower_bound,
    proof_dual,
    tied_chain,
    tied_dual,
    tied_logs,
    upper_bound,
)
from lowrank_opt.lipschitz.limited_memory import direction, line_search, remember

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from lowrank_opt.lipschitz.forms import GroupChain
    from lowrank_opt.lipschitz.group_structure import TiedChain

    Array = NDArray[np.float64]

__all__ = ["GroupFirstOrderState", "advance", "balanced_logs", "smoothed_product", "start"]

_STAGES = (3, 5, 7, 9)  # p = 2^k + 1
_MEMORY = 20
_EVERY = 10  # iterations between evaluations of the bounds
_SWEEPS = 8
_SMALL = 2e-3  # decrease in ten iterations, relative to the smoothing's error, that ends a stage


@dataclass
class GroupFirstOrderState(EngineState):
    """State of the method.

    Parameters
    ----------
    stage : int
        Which smoothing.
    x : ndarray of shape (n_runs,)
        Logarithms of the multipliers' eigenvalues.
    value : float
        Logarithm of the squared smoothed product at `x`.
    gradient : ndarray of shape (n_runs,)
        Gradient at `x`.
    steps, changes : ndarray of shape (memory, n_runs)
        History of L-BFGS.
    pairs : int
        Its length.
    values : list of float
        Values of the present stage.
    """

    stage: int = 0
    x: Any = None
    value: float = math.inf
    gradient: Any = None
    steps: Any = None
    changes: Any = None
    pairs: int = 0
    values: list[float] = field(default_factory=list)


class Smoothed(NamedTuple):
    """Value and gradient of the logarithm of a smoothed product, and the matrices of its dual."""

    value: float
    gradient: Array
    weights: list[Array] | None


def balanced_logs(chain: TiedChain, sweeps: int = _SWEEPS) -> list[Array]:
    """Return logarithms that balance what each multiplier writes with what reads it.

    Parameters
    ----------
    chain : TiedChain
        The network.
    sweeps : int, default=8
        Passes over the layers.

    Returns
    -------
    list of ndarray of shape (n_runs,)
        Logarithms for layers 0, …, L-1; zero for layer 0 of "l2".

    Notes
    -----
    Coordinate descent on the product of Frobenius norms. Cost: 4 flops for each weight and sweep.
    """
    squares = [W * W for W in chain.weights]
    t = [np.ones(len(s)) for s in chain.starts]
    first = 0 if chain.linf else 1
    for _ in range(sweeps):
        for i in range(first, chain.depth):
            after: Array = np.ones(len(squares[i]))
            if i + 1 < chain.depth:
                after = chain.spread(t[i + 1], i + 1)
            reads = chain.total(after @ squares[i], i)
            writes: Array | float = 1.0
            if i:
                writes = chain.total(squares[i - 1] @ (1.0 / chain.spread(t[i - 1], i - 1)), i)
            # With "linf" the sum of μ replaces the layer before the first.
            new = np.sqrt(np.maximum(reads, 1e-300) / np.maximum(writes, 1e-300))
            t[i] = new / new.max(initial=0.0) if len(new) else new
    return [np.log(np.maximum(a, 1e-250)) for a in t]


def _smooth(B: Array, k: int) -> tuple[float, Array, Array, Array]:
    """Smoothed log ‖B‖², its derivatives by rows and columns, and the matrix of the columns."""
    wide = B.shape[0] < B.shape[1]
    K = B @ B.T if wide else B.T @ B
    scale = float(np.trace(K))
    K /= scale
    P, log = K, 0.0
    for _ in range(k):
        P = P @ P
        s = float(np.trace(P))
        P /= s
        log = 2.0 * log + math.log(s)
    near = np.einsum("ij,ij->i", K, P)
    total = float(near.sum())
    R = B.T @ P if wide else B @ P
    other = np.einsum("ij,ij->i", R, B.T if wide else B) / (scale * total)
    value = math.log(scale) + (log + math.log(total)) / (2**k + 1)
    if wide:
        return value, near / total, other, R
    return value, other, near / total, P


def smoothed_product(chain: TiedChain, x: Array, k: int, with_dual: bool = False) -> Smoothed:
    """Return the logarithm of the squared weighted product of smoothed norms.

    Parameters
    ----------
    chain : TiedChain
        The network.
    x : ndarray of shape (n_runs,)
        Logarithms of the multipliers' eigenvalues, layer after layer (layer 0 with "linf" only).
    k : int
        Norms are smoothed with p = 2^k + 1; the value is never below that of the true norms.
    with_dual : bool, default=False
        Whether to form the dual blocks.

    Returns
    -------
    Smoothed
        Value, gradient, and dual blocks in the kept coordinates.
    """
    logs = split(chain, x)
    t = [chain.spread(np.exp(0.5 * a), i) for i, a in enumerate(logs)]
    value, blocks = 0.0, []
    gradient = [np.zeros(len(a)) for a in logs]
    if chain.linf:
        top = float(logs[0].max())
        share = np.exp(logs[0] - top)
        total = float(share.sum())
        value += top + math.log(total)
        gradient[0] += share / total
    for i, W in enumerate(chain.weights):
        B = W / t[i]
        if i + 1 < chain.depth:
            B *= t[i + 1][:, None]
        log, rows, columns, R = _smooth(B, k)
        value += log
        gradient[i] -= chain.total(columns, i)
        if i + 1 < chain.depth:
            gradient[i + 1] += chain.total(rows, i + 1)
        if with_dual:
            if R.shape[0] != R.shape[1] or B.shape[0] < B.shape[1]:
                R = R @ B  # Bᵀ K^(p-1) B, of low rank: a small part of the identity is added
                R += np.eye(len(R)) * (1e-3 * np.trace(R) / len(R) / 2**k)
            blocks.append(R / t[i] / t[i][:, None])
    joined = np.concatenate(gradient if chain.linf else gradient[1:] or [np.zeros(0)])
    return Smoothed(value, joined, blocks if with_dual else None)


def split(chain: TiedChain, x: Array) -> list[Array]:
    """Return the logarithms of layers 0, …, L-1 from the vector of all."""
    sizes = [len(s) for s in chain.starts]
    if not chain.linf:
        x = np.concatenate([np.zeros(sizes[0]), x])
    return np.split(x, np.cumsum(sizes)[:-1])


def join(chain: TiedChain, logs: Sequence[Array]) -> Array:
    """Return the vector of all logarithms from those of the layers."""
    used = list(logs) if chain.linf else list(logs)[1:]
    return np.concatenate([*used, np.zeros(0)])


def start(
    form: GroupChain,
    *,
    tol: float = 1e-6,
    multipliers: Sequence[Array] | None = None,
    dual: Sequence[Array] | None = None,
    stage: int = 0,
) -> GroupFirstOrderState:
    """Return the state before the first iteration.

    Parameters
    ----------
    form : GroupChain
        The network.
    tol : float, default=1e-6
        Relative gap between `upper` and `lower` at which the method stops.
    multipliers : sequence of ndarray, optional
        Where to start, in the layout of a proof.
    dual : sequence of ndarray, optional
        Dual blocks in the layout of a proof.
    stage : int, default=0
        First smoothing: p = 9, 33, 129 or 513.

    Returns
    -------
    GroupFirstOrderState
        The state; already converged if the given pair is optimal within `tol`.
    """
    with thread_limit(None, blas_threads(form)), np.errstate(all="ignore"):
        return _start(form, tol, multipliers, dual, stage)


def _start(
    form: GroupChain,
    tol: float,
    multipliers: Sequence[Array] | None,
    dual: Sequence[Array] | None,
    stage: int,
) -> GroupFirstOrderState:
    chain = tied_chain(form)
    state = GroupFirstOrderState(tol=tol, stage=stage, cache=chain)
    if any(0 in W.shape for W in chain.weights):
        _try_upper(chain, state, [np.zeros(len(s)) for s in chain.starts])
        state.done, state.message = "stalled", "no signal passes the network; the infimum is 0"
        return state
    logs = balanced_logs(chain) if multipliers is None else tied_logs(chain, multipliers)
    if multipliers is not None:
        state.upper, state.multipliers, _ = upper_bound(chain, multipliers)
    else:
        _try_upper(chain, state, [np.zeros(len(s)) for s in chain.starts])
        _try_upper(chain, state, logs)
    if dual is not None:
        _try_lower(chain, state, tied_dual(chain, dual))
    state.x = join(chain, logs)
    size = len(state.x)
    state.steps, state.changes = np.zeros((_MEMORY, size)), np.zeros((_MEMORY, size))
    _check(state)
    if not state.done:
        _evaluate(chain, state)
    if not size and not state.done:
        state.done, state.message = "stalled", "nothing to choose"
    return state


def _try_upper(chain: TiedChain, state: GroupFirstOrderState, logs: Sequence[Array]) -> None:
    value, multipliers, _ = upper_bound(chain, expand(chain, logs))
    if value < state.upper:
        state.upper, state.multipliers = value, multipliers


def _try_lower(chain: TiedChain, state: GroupFirstOrderState, X: Sequence[Array]) -> None:
    value, scales = lower_bound(chain, X)
    if value > state.lower:
        state.lower, state.dual = value, proof_dual(chain, X, scales)


def _check(state: GroupFirstOrderState) -> None:
    if state.lower >= (1.0 - state.tol) * state.upper:
        state.done, state.message = "converged", "the gap between both bounds is within tol"


def _evaluate(chain: TiedChain, state: GroupFirstOrderState) -> None:
    """Value and bounds at the point."""
    new = smoothed_product(chain, state.x, _STAGES[state.stage], with_dual=True)
    state.counts["evaluations"] = state.counts.get("evaluations", 0) + 1
    state.value, state.gradient = new.value, new.gradient
    _try_upper(chain, state, split(chain, state.x))
    _try_lower(chain, state, new.weights or [])
    _check(state)


def advance(form: GroupChain, state: GroupFirstOrderState) -> None:
    """Make one iteration of L-BFGS, in place.

    Parameters
    ----------
    form : GroupChain
        The network.
    state : GroupFirstOrderState
        The state.
    """
    if state.done:
        return
    with thread_limit(None, blas_threads(form)), np.errstate(all="ignore"):
        _advance(form, state)


def _advance(form: GroupChain, state: GroupFirstOrderState) -> None:
    chain = state.cache if state.cache is not None else tied_chain(form)
    state.cache = chain
    k = _STAGES[state.stage]
    n = 0

    def evaluate(x: Array) -> Smoothed:
        nonlocal n
        n += 1
        if np.abs(x).max(initial=0.0) > 500.0:
            return Smoothed(math.inf, x, None)
        return smoothed_product(chain, x, k)

    towards = direction(state.gradient, state.steps, state.changes, state.pairs)
    slope = float(towards @ state.gradient)
    if not slope < 0.0:
        state.pairs, towards = 0, -state.gradient
        slope = float(towards @ state.gradient)
    size = float(np.abs(towards).max(initial=0.0))
    length = 1.0 if state.pairs else min(1.0, 0.5 / max(size, 1e-300))
    length = min(length, 5.0 / max(size, 1e-300))
    found = line_search(evaluate, state.x, state.value, slope, towards, length) if size else None
    state.nit += 1
    state.counts["evaluations"] = state.counts.get("evaluations", 0) + n
    ended = found is None
    if found is not None:
        t, new = found
        state.pairs = remember(
            state.steps, state.changes, state.pairs, t * towards, new.gradient - state.gradient
        )
        state.x, state.value, state.gradient = state.x + t * towards, new.value, new.gradient
        state.values = [*state.values, new.value][-11:]
        error = chain.depth / (2.0**k + 1.0)
        ended = len(state.values) == 11 and state.values[0] - new.value < _SMALL * error
    if ended or state.nit % _EVERY == 0:
        _evaluate(chain, state)
    if ended and not state.done:
        if state.stage + 1 == len(_STAGES):
            state.done = "stalled"
            state.message = "the last smoothing is solved; the gap that is left is its error"
            return
        state.stage, state.pairs, state.values = state.stage + 1, 0, []
        _evaluate(chain, state)
