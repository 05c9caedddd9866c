r"""Primal-dual interior point method for networks of groups (GroupSort, MaxMin, Householder).

Solves, for multipliers T_i = blkdiag(λ_g I + γ_g E_g) with T_0 = ρ I and T_L = I ("l2"),

.. math:: \min \rho \quad\text{s.t.}\quad T_{i-1} - W_i^\top T_i W_i \succeq 0,\quad i = 1, …, L,

and for "linf" the same with T_0 = diag(μ) and the last inequality bordered by W_Lᵀ and
2ρ - Σμ [1]_. How to call::

    state = start(form, tol=1e-6)
    while not state.done:
        advance(form, state)
    state.upper, state.lower  # bounds in units of the Lipschitz constant of the form

Layout of the results, in the coordinates of the form's own weights:

* ``multipliers``: divided by ρ. For "linf" first μ of shape (n_0,), of sum one. Then for each
  hidden layer an array of shape (2, n_groups) with rows λ and γ. They satisfy every inequality
  with a margin above rounding at ρ = upper² ("l2") or ρ = upper ("linf"): the first L - 1
  without ρ, the last with W_L divided by `upper`.
* ``dual``: blocks X_1, …, X_L, symmetric positive semidefinite, X_i of shape
  (n_{i-1}, n_{i-1}), each of trace one. With factors f_i > 0, the largest for which

  - f_1 tr X_1 <= 1 ("l2") or f_1 diag X_1 <= 1 ("linf"),
  - for each group g of layer i, with Π the projection onto the range of E_g and with that
    onto its complement in the group:
    f_{i+1} tr(Π X_{i+1}) <= tr(Π W_i X_i W_iᵀ),

  the product f_1 ⋯ f_L tr(W_L X_L W_Lᵀ) is a lower bound on the square of the best bound, by weak
  duality: `lower`² up to rounding. (Multipliers are positive semidefinite in every feasible
  point, hence inequalities suffice. For "linf" the border is eliminated, which turns ρ into ρ².)

The method works in coordinates in which multipliers are diagonal
(:mod:`~lowrank_opt.lipschitz.group_structure`), scaled by a start of weighted norms
(:mod:`~lowrank_opt.lipschitz.group_first_order`) so that the optimum is near one however small
ρ is. The direction is that of Helmberg, Kojima and Monteiro with Mehrotra's corrector. Both
bounds come from closed-form repairs of the iterates, so stopping does not rely on residuals.
Cost of an iteration: about 20 products of matrices of a layer's width for each layer.

References
----------
.. [1] P. Pauli, A. Havens, A. Araujo, S. Garg, F. Khorrami, F. Allgöwer, B. Hu, "Novel quadratic
   constraints for extending LipSDP beyond slope-restricted activations", ICLR 2024.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from lowrank_opt.core.threads import thread_limit
from lowrank_opt.lipschitz import group_first_order
from lowrank_opt.lipschitz.engine import EngineState
from lowrank_opt.lipschitz.factorisations import cholesky, inverse_from
from lowrank_opt.lipschitz.group_blocks import Blocks, inner, longest_step
from lowrank_opt.lipschitz.group_structure import (
    blas_threads,
    expand,
    lower_bound,
    proof_dual,
    tied_chain,
    tied_logs,
    upper_bound,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from lowrank_opt.lipschitz.forms import GroupChain
    from lowrank_opt.lipschitz.group_structure import TiedChain

    Array = NDArray[np.float64]

__all__ = ["GroupInteriorPointState", "advance", "start"]

_SLACK = 0.3  # excess of ρ at the start, by which the layers' inequalities are loosened
_BOUNDARY = 0.95  # share of the way to the boundary
_SHORT = 1e-3  # both steps below this: no progress
_MAX_SHORT = 3
_IDLE = 8  # iterations without progress of the gap before giving up


@dataclass
class GroupInteriorPointState(EngineState):
    """State of the method.

    Parameters
    ----------
    logs : list of ndarray of shape (n_runs,)
        Logarithms of the multipliers by which the weights are scaled.
    y : list of ndarray of shape (n_runs,)
        Multipliers relative to those, for layers 0, …, L-1.
    X : list of ndarray of shape (n_{i-1}, n_{i-1})
        Dual blocks in scaled coordinates.
    mu : float
        Smallest complementarity so far.
    short, idle : int
        Iterations in a row with short steps, and without progress.
    solver : str
        Package that is called instead, by :mod:`~lowrank_opt.lipschitz.group_conic`.
    """

    logs: list[Any] = field(default_factory=list)
    y: list[Any] = field(default_factory=list)
    X: list[Any] = field(default_factory=list)
    mu: float = math.inf
    short: int = 0
    idle: int = 0
    solver: str = ""


def start(
    form: GroupChain,
    *,
    tol: float = 1e-6,
    multipliers: Sequence[Array] | None = None,
    dual: Sequence[Array] | None = None,
    start_iterations: int | None = None,
) -> GroupInteriorPointState:
    """Return the state before the first iteration.

    Parameters
    ----------
    form : GroupChain
        The network.
    tol : float, default=1e-6
        Relative gap between `upper` and `lower` at which the method stops.
    multipliers, dual : sequence of ndarray, optional
        Where to start, in the layout of a proof.
    start_iterations : int or None, default=None
        Iterations of the first-order method before the first step; ``None``: 20, and for "l2" 10
        with fewer than twelve maps, none with up to three.

    Returns
    -------
    GroupInteriorPointState
        The state; already converged if the given pair is optimal within `tol`.
    """
    with thread_limit(None, blas_threads(form)), np.errstate(all="ignore"):
        return _start(form, tol, multipliers, dual, start_iterations)


def _start(
    form: GroupChain,
    tol: float,
    multipliers: Sequence[Array] | None,
    dual: Sequence[Array] | None,
    start_iterations: int | None,
) -> GroupInteriorPointState:
    if start_iterations is None:
        start_iterations = 20
        if form.norm == "l2" and len(form.weights) < 12:
            start_iterations = 10 if len(form.weights) > 3 else 0
    first = group_first_order.start(form, tol=tol, multipliers=multipliers, dual=dual)
    if multipliers is None:
        while not first.done and first.nit < start_iterations:
            group_first_order.advance(form, first)
    chain = tied_chain(form)
    state = GroupInteriorPointState(
        first.upper,
        first.lower,
        first.multipliers,
        first.dual,
        first.done,
        first.message,
        counts={"first_order_evaluations": first.counts.get("evaluations", 0)},
        tol=tol,
    )
    if any(0 in W.shape for W in chain.weights):
        return state
    if state.done == "stalled":  # of the first-order method only
        state.done = state.message = ""
    if state.done or not state.multipliers:
        state.done = state.done or "failed"
        return state
    state.logs = tied_logs(chain, state.multipliers)
    blocks = scaled_blocks(chain, state)
    L = chain.depth
    state.y = [np.full(len(s), math.exp(_SLACK * (L - i) / L)) for i, s in enumerate(chain.starts)]
    Z = _inverses(blocks.matrices(state.y, 1.0))
    if Z is None:
        state.done, state.message = "failed", "no interior start"
        return state
    # So large that the constraint of layer 0 holds on average.
    size = float((chain.total(np.diagonal(Z[0]).copy(), 0) / blocks.cost).mean())
    state.X = [z / size for z in Z]
    return state


def scaled_blocks(chain: TiedChain, state: GroupInteriorPointState) -> Blocks:
    """Weights scaled by the multipliers of `state.logs`, each of norm one."""
    t = [chain.spread(np.exp(0.5 * a), i) for i, a in enumerate(state.logs)]
    weights = []
    for i, W in enumerate(chain.weights):
        A = W / t[i]
        if i + 1 < chain.depth:
            A *= t[i + 1][:, None]
        weights.append(A / np.linalg.norm(A, 2))
    cost = np.ones(1)
    if chain.linf:
        cost = np.exp(state.logs[0] - state.logs[0].max())
        cost /= cost.sum()
    blocks = Blocks(chain, weights, cost)
    state.cache = (chain, blocks)
    return blocks


def _inverses(M: Sequence[Array]) -> list[Array] | None:
    out = []
    for block in M:
        factor = cholesky(block)
        if factor is None:
            return None
        out.append(inverse_from(factor))
    return out


def update_bounds(chain: TiedChain, state: GroupInteriorPointState) -> None:
    before = state.upper - state.lower
    logs = [a + np.log(np.maximum(y, 1e-300)) for a, y in zip(state.logs, state.y, strict=True)]
    value, multipliers, _ = upper_bound(chain, expand(chain, logs))
    if value < state.upper:
        state.upper, state.multipliers = value, multipliers
    t = [chain.spread(np.exp(-0.5 * a), i) for i, a in enumerate(state.logs)]
    X = [x * a * a[:, None] for x, a in zip(state.X, t, strict=True)]
    value, scales = lower_bound(chain, X)
    if value > state.lower:
        state.lower, state.dual = value, proof_dual(chain, X, scales)
    if state.upper - state.lower < 0.9 * before:
        state.idle = 0
    if state.lower >= (1.0 - state.tol) * state.upper:
        state.done, state.message = "converged", "the gap between both bounds is within tol"


def advance(form: GroupChain, state: GroupInteriorPointState) -> None:
    """Make one iteration, in place.

    Parameters
    ----------
    form : GroupChain
        The network.
    state : GroupInteriorPointState
        The state.
    """
    if state.done:
        return
    with thread_limit(None, blas_threads(form)), np.errstate(all="ignore"):
        if state.cache is None:
            scaled_blocks(tied_chain(form), state)
        chain, blocks = state.cache
        problem = _iterate(chain, blocks, state)
    if problem:
        state.done = "stalled" if state.upper < math.inf else "failed"
        state.message = problem


def _iterate(chain: TiedChain, blocks: Blocks, state: GroupInteriorPointState) -> str:
    """One iteration; says what prevents it."""
    X, y, cost = state.X, state.y, blocks.cost
    M = blocks.matrices(y, 1.0)
    Z = _inverses(M)
    if Z is None:
        return "an inequality lost definiteness to rounding"
    schur = blocks.schur(X, Z)
    state.nit += 1
    state.counts["factorizations"] = state.counts.get("factorizations", 0) + 1
    if not schur.ok:
        return "the Schur complement is not positive definite to rounding"
    P, Q = schur.P, schur.Q
    mu = inner(X, M) / blocks.order
    state.idle = 0 if mu < 0.9 * state.mu else state.idle + 1
    state.mu = min(state.mu, mu)

    def off(values: Sequence[Array]) -> list[Array]:
        return [values[0] - cost, *values[1:]]

    # Affine direction: dX = -X - sym(X dM Z), A(X + dX) = c.
    dy = schur.solve(off([np.zeros_like(a) for a in y]))
    dM = blocks.matrices(dy, 0.0)
    dX = [-(x + c) for x, c in zip(X, blocks.curved(X, P, Z, Q, dy), strict=True)]
    primal, dual = longest_step(M, dM, 1.0, 1), longest_step(X, dX, 1.0, 1)
    after = (
        inner(X, M) + primal * inner(X, dM) + dual * inner(dX, M) + primal * dual * inner(dX, dM)
    ) / blocks.order
    short = min(primal, dual)
    sigma = min(max((max(after, 0.0) / mu) ** max(1.0, 3.0 * short * short), 1e-6), 1.0)
    if short < 0.1:
        sigma = max(sigma, 0.5)
    corrector = blocks.curved(
        dX, [d @ A.T for d, A in zip(dX, blocks.weights, strict=True)], Z, Q, dy
    )
    best: tuple[float, float, list[Array], list[Array]] | None = None
    for s, weight in ((sigma, 1.0), (max(sigma, 0.5), short), (0.9, 0.0)):
        R = [s * mu * z - weight * k for z, k in zip(Z, corrector, strict=True)]
        dy = schur.solve(off(blocks.adjoint(R)))
        dM = blocks.matrices(dy, 0.0)
        curved = blocks.curved(X, P, Z, Q, dy)
        dX = [r - x - c for r, x, c in zip(R, X, curved, strict=True)]
        cap = 1.0 / _BOUNDARY
        primal = min(1.0, _BOUNDARY * longest_step(M, dM, cap))
        dual = min(1.0, _BOUNDARY * longest_step(X, dX, cap))
        if best is None or min(primal, dual) > 2.0 * min(best[0], best[1]):
            best = (primal, dual, dy, dX)
        if min(primal, dual) >= 0.2:
            break
    primal, dual, dy, dX = best  # type: ignore[misc]
    state.y = [a + primal * d for a, d in zip(y, dy, strict=True)]
    state.X = [a + dual * d for a, d in zip(X, dX, strict=True)]
    state.short = state.short + 1 if max(primal, dual) < _SHORT else 0
    update_bounds(chain, state)
    if state.done:
        return ""
    if state.short >= _MAX_SHORT or state.idle >= _IDLE:
        return "steps no longer improve the bounds: rounding limits the accuracy"
    return ""
