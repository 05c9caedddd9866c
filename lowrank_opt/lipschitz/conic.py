r"""Semidefinite bounds through a generic solver of cone programs.

How to call, for a :class:`~lowrank_opt.lipschitz.forms.Chain` or a
:class:`~lowrank_opt.lipschitz.forms.LowRankLMI`::

    state = start(form, tol=1e-6, solver="clarabel")
    while not state.done:
        advance(form, state)  # one call of the package

Absolute tolerances of such packages are meaningless where ρ is 1e-10 or multipliers span many
orders of magnitude, so the program is scaled by feasible multipliers until all of its numbers are
near one: variables by the diagonal of E + A*(u), multipliers by u and ρ by what u proves. A second
call, scaled by the answer of the first, gains the digits that poor multipliers cost. Values that
a package reports are never used: its multipliers are certified, mixed with feasible ones if they
are not feasible, and its dual is repaired.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.linalg import eigvalsh

from lowrank_opt.core.threads import thread_limit
from lowrank_opt.lipschitz.chain_operator import ChainOperator
from lowrank_opt.lipschitz.chain_scaling import fast_multipliers
from lowrank_opt.lipschitz.conic_backends import check_solver, solve_cone_program
from lowrank_opt.lipschitz.conic_scaling import ScaledProgram
from lowrank_opt.lipschitz.engine import EngineState
from lowrank_opt.lipschitz.factorisations import cholesky
from lowrank_opt.lipschitz.forms import Chain, LowRankLMI
from lowrank_opt.lipschitz.lmi_builders import chain_lmi
from lowrank_opt.lipschitz.lmi_operator import Operator

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lowrank_opt.lipschitz.conic_backends import ConeSolution

__all__ = ["ConicState", "advance", "start"]

_CALLS = 4
_MIXES = (0.0, *(10.0**-p for p in range(9, 0, -1)), 0.3, 1.0)
_TIGHTER = 3e-9  # by how much the inequalities of the dual are tightened, in scaled units
_CHORDAL = 60  # order from which a chain of three or more layers is split


@dataclass
class ConicState(EngineState):
    """State of the calls.

    Parameters
    ----------
    solver : str
        The package.
    chordal : bool
        Whether a chain is split into one cone for each pair of layers.
    u : ndarray of shape (k,) or None
        Multipliers by which the program is scaled; None: nothing feasible is known.
    r : float
        The ρ that they prove.
    tighter : float
        By how much the inequalities of the dual are tightened, in scaled units.
    """

    solver: str = "clarabel"
    chordal: bool = False
    u: NDArray[np.float64] | None = None
    r: float = math.inf
    tighter: float = 0.0


def start(
    form: Chain | LowRankLMI,
    *,
    tol: float = 1e-6,
    multipliers: tuple[NDArray[np.float64], ...] | None = None,
    dual: tuple[NDArray[np.float64], ...] | None = None,
    solver: str = "clarabel",
    chordal: bool | str = "auto",
) -> ConicState:
    """Return the state before the first call.

    Parameters
    ----------
    form : Chain or LowRankLMI
        The inequality.
    tol : float, default=1e-6
        Stops when ``1 - lower / upper <= tol``.
    multipliers, dual : tuple of ndarray or None, default=None
        Warm start; with both, bounds are evaluated first, and the program is scaled by them.
    solver : {"clarabel", "scs", "mosek", "sdpa"}, default="clarabel"
        The package that is called. "scs" reaches about 1e-3 to 1e-5.
    chordal : bool or "auto", default="auto"
        Split a chain into one cone for each pair of neighbouring layers, which is exact.

    Returns
    -------
    ConicState
        Already done when the given pair is good enough, or when there is nothing to solve.
    """
    check_solver(solver)
    state = ConicState(tol=tol, solver=solver)
    # The dual of a chain is repaired by scaling, that of others has to be feasible as it is.
    state.tighter = 0.0 if isinstance(form, Chain) else _TIGHTER
    lmi, operator = _data(form, state)
    if isinstance(form, Chain):
        split = len(form.weights) >= 4 or operator.d > _CHORDAL
        state.chordal = bool(split if chordal == "auto" else chordal) and len(form.weights) > 2
    if not lmi.C.any():
        state.upper, state.done, state.message = 0.0, "converged", "the output is constant"
        state.multipliers = _layout(form, np.zeros(operator.k))
        return state
    if isinstance(form, Chain) and len(form.weights) == 1:
        return _single(form, state)
    if multipliers and sum(map(np.size, multipliers)) == operator.k:
        _note_upper(form, state, operator, np.concatenate(multipliers))
    if dual and [np.shape(X) for X in dual] == _dual_shapes(form, operator):
        _note_dual(form, state, operator, dual)
    if _finished(state) or state.u is not None:
        return state
    if isinstance(form, Chain):
        _note_upper(form, state, operator, np.concatenate(fast_multipliers(form)))
    if state.u is None:
        rho, u = operator.guess()
        if u is not None and rho > 0.0:
            _note_upper(form, state, operator, u)
    return state


def advance(form: Chain | LowRankLMI, state: ConicState) -> None:
    """Call the package once, in place.

    Parameters
    ----------
    form : Chain or LowRankLMI
        The inequality.
    state : ConicState
        From :func:`start`.

    Notes
    -----
    Cost: that of the package; Clarabel stores a dense block of n²(n+1)²/8 numbers for a cone of
    order n, which is practical to n of about 100.
    """
    if state.done:
        return
    operator = _data(form, state)[1]
    program = ScaledProgram(operator, state.u, state.r)
    blocks = form.widths if isinstance(form, Chain) and state.chordal else (operator.d,)
    data = program.cone_data(blocks, state.tighter)
    accuracy = 1e-6 if state.solver == "scs" else min(1e-9, max(0.01 * state.tol, 1e-11))
    with thread_limit(None, blas=1):  # the packages' own matrices are small
        answer = solve_cone_program(data, state.solver, accuracy)
    state.nit += 1
    name = f"{state.solver}_iterations"
    state.counts[name] = state.counts.get(name, 0) + answer.iterations
    before = (state.upper, state.lower)
    _use_multipliers(form, state, operator, program, answer)
    _use_dual(form, state, operator, program, answer, blocks)
    if _finished(state):
        return
    if state.lower == before[1]:
        state.tighter *= 30.0
    improved = state.upper < before[0] * (1.0 - 0.1 * state.tol) or state.lower > before[1]
    missing = state.lower == 0.0 and math.isfinite(state.upper)
    if state.nit >= _CALLS or not (improved or missing):
        known = math.isfinite(state.upper)
        state.done = "stalled" if known else "failed"
        said = f"{state.solver} said {answer.status!r}"
        gap = "" if not known else f"relative gap {state.gap:.1e}; "
        state.message = gap + said + ("" if known else "; no multiplier proves a finite bound")


# -- answers ----------------------------------------------------------------------------------


def _use_multipliers(
    form: Chain | LowRankLMI,
    state: ConicState,
    operator: Operator,
    program: ScaledProgram,
    answer: ConeSolution,
) -> None:
    """Certify, with the least share of feasible multipliers that makes them so."""
    rho, y = float(answer.x[0]), answer.x[1 : operator.k + 1] * program.u
    if not (rho > 0.0 and np.all(np.isfinite(y))):
        return
    found = y / rho
    found[operator.bounded] = np.maximum(found[operator.bounded], 0.0)
    base = state.u
    for t in _MIXES:
        if t > 0.0 and base is None:
            return
        trial = found if base is None else (1.0 - t) * found + t * base
        if _note_upper(form, state, operator, trial):
            return


def _use_dual(
    form: Chain | LowRankLMI,
    state: ConicState,
    operator: Operator,
    program: ScaledProgram,
    answer: ConeSolution,
    blocks: tuple[int, ...],
) -> None:
    """Undo the scaling, glue cones together, and keep the bound."""
    D = program.D
    duals = [_shifted(X) for X in answer.duals if np.all(np.isfinite(X)) and X.any()]
    if len(duals) < len(answer.duals):
        return
    if isinstance(form, Chain):
        pieces = _glued(duals, blocks, form.widths)
        if pieces is None:
            return
        diagonal, low = pieces
        ends = np.concatenate([[0], np.cumsum(form.widths)])
        parts = [D[a:b] for a, b in itertools.pairwise(ends)]
        diagonal = [X * np.outer(d, d) for X, d in zip(diagonal, parts, strict=True)]
        low = [
            X * np.outer(d, e) for X, d, e in zip(low, parts, parts[1:], strict=False)
        ]  # X_{i-1,i}
        _note_dual(form, state, operator, (*diagonal, *low))
        return
    X = duals[0] * np.outer(D, D)
    _note_dual(form, state, operator, (X,))


def _shifted(X: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return X plus the least multiple of the identity that makes it definite."""
    w = eigvalsh(X, check_finite=False)
    shift = 1e-13 * max(float(w[-1]), 0.0) - float(w[0])
    return X + max(shift, 0.0) * np.eye(len(X))


def _glued(
    duals: list[NDArray[np.float64]], blocks: tuple[int, ...], widths: tuple[int, ...]
) -> tuple[list[NDArray[np.float64]], list[NDArray[np.float64]]] | None:
    """Return diagonal blocks and those to their right, equal where cones overlap.

    The first block of each cone is made equal to the last block of the one before by a
    congruence, which keeps the cone's matrix positive definite.
    """
    if len(blocks) == 1:
        ends = np.concatenate([[0], np.cumsum(widths)])
        at = [slice(a, b) for a, b in itertools.pairwise(ends)]
        X = duals[0]
        return [X[s, s] for s in at], [X[s, t] for s, t in itertools.pairwise(at)]
    n = widths[0]
    diagonal, low = [duals[0][:n, :n]], []
    for X, n in zip(duals, widths, strict=False):
        before = _root(diagonal[-1])
        here = _root(X[:n, :n])
        if before is None or here is None:
            return None
        low.append(before @ np.linalg.solve(here, X[:n, n:]))
        diagonal.append(X[n:, n:])
    return diagonal, low


def _root(X: NDArray[np.float64]) -> NDArray[np.float64] | None:
    factor = cholesky(X)
    return None if factor is None else np.tril(factor)


def _note_upper(
    form: Chain | LowRankLMI, state: ConicState, operator: Operator, u: NDArray[np.float64]
) -> bool:
    """Keep multipliers that prove a better bound; say whether they prove any."""
    rho, best = operator.certify(u)
    if best is None or not rho > 0.0:
        return False
    upper = _length(form, rho)
    if upper < state.upper:
        state.upper, state.u, state.r = upper, best, rho
        state.multipliers = _layout(form, best)
    return True


def _note_dual(
    form: Chain | LowRankLMI,
    state: ConicState,
    operator: Operator,
    dual: tuple[NDArray[np.float64], ...],
) -> None:
    """Keep a dual that proves a better bound, made feasible."""
    if isinstance(form, Chain):
        n = len(form.weights)
        diagonal, right = list(dual[:n]), list(dual[n:])
        if not _definite(diagonal, right):
            return
        low = [diagonal[0], *(X.T for X in right)]
        value, diagonal, low = ChainOperator(form.weights, form.alpha).lower(diagonal, low)
        kept = (*diagonal, *(np.ascontiguousarray(X.T) for X in low[1:]))
    else:
        X = operator.polished(0.5 * (dual[0] + dual[0].T))
        bound = state.upper if form.norm == "linf" else state.upper**2
        value = operator.dual_bound(X, bound)
        kept = (X / operator.trace(X),) if value > 0.0 else ()
    lower = _length(form, value) if math.isfinite(value) and value > 0.0 else 0.0
    if lower > state.lower:
        state.lower, state.dual = lower, tuple(kept)


def _definite(diagonal: list[NDArray[np.float64]], right: list[NDArray[np.float64]]) -> bool:
    """Whether each pair of neighbouring blocks is positive definite."""
    if not all(np.all(np.isfinite(X)) for X in (*diagonal, *right)):
        return False
    for A, B, R in zip(diagonal, diagonal[1:], right, strict=False):
        if cholesky(np.block([[A, R], [R.T, B]])) is None:
            return False
    return True


def _layout(form: Chain | LowRankLMI, u: NDArray[np.float64]) -> tuple[NDArray[np.float64], ...]:
    if not isinstance(form, Chain):
        return (u,)
    return tuple(np.split(u, np.cumsum(form.widths[1:])[:-1])) if len(form.weights) > 1 else ()


def _dual_shapes(form: Chain | LowRankLMI, operator: Operator) -> list[tuple[int, ...]]:
    if not isinstance(form, Chain):
        return [(operator.d, operator.d)]
    widths = form.widths
    return [*((n, n) for n in widths), *itertools.pairwise(widths)]


def _length(form: Chain | LowRankLMI, rho: float) -> float:
    return rho if isinstance(form, LowRankLMI) and form.norm == "linf" else math.sqrt(rho)


def _data(form: Chain | LowRankLMI, state: ConicState) -> tuple[LowRankLMI, Operator]:
    if state.cache is None:
        lmi = chain_lmi(form) if isinstance(form, Chain) else form
        state.cache = (lmi, Operator(lmi))
    data: tuple[LowRankLMI, Operator] = state.cache
    return data


def _single(form: Chain, state: ConicState) -> ConicState:
    """One affine map: the bound is its norm, and its right singular vector the dual."""
    _, s, V = np.linalg.svd(form.weights[0], full_matrices=False)
    state.upper = state.lower = float(s[0])
    state.dual = (np.outer(V[0], V[0]),)
    state.done, state.message = "converged", "one affine map"
    return state


def _finished(state: ConicState) -> bool:
    if state.gap <= state.tol:
        state.done = "converged"
        state.message = f"relative gap {max(state.gap, 0.0):.1e}"
    return bool(state.done)
