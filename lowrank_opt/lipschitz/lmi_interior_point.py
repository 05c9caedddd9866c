r"""Primal-dual interior point method for one dense inequality with terms of rank two.

Solves the program of :class:`~lowrank_opt.lipschitz.forms.LowRankLMI`, for networks of any
topology. How to call::

    state = start(form, tol=1e-7)
    while not state.done:
        advance(form, state)
    state.upper, state.lower  # bounds in units of the Lipschitz constant of the form

An inequality whose multipliers are not known to be feasible is first solved with E = I and
C = -E, which finds multipliers with E + Σ_k y_k A_k ≻ 0, or a proof that none exist; the method
is the same. The direction is that of Helmberg, Kojima and Monteiro, in three parts (affine,
centring, corrector) whose weights are searched when steps are short.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lowrank_opt.core.threads import thread_limit
from lowrank_opt.lipschitz.engine import EngineState
from lowrank_opt.lipschitz.factorisations import cholesky, inverse_from
from lowrank_opt.lipschitz.lmi_direction import Point, iterate
from lowrank_opt.lipschitz.lmi_operator import Operator
from lowrank_opt.lipschitz.lmi_starts import layered_multipliers

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lowrank_opt.lipschitz.forms import LowRankLMI

__all__ = ["InteriorPointState", "advance", "start"]

_RHO = 1.1  # ρ of the start, relative to what its multipliers prove
_PULL = 0.05  # share of well-centred multipliers mixed into given ones
_SHORT = 1e-4  # steps below this make no progress
_MAX_SHORT = 3
_FEASIBLE = 1e-9  # smallest eigenvalue, relative to one, that counts as feasible
_FIRST_PHASE = 60
_SMALL = 400  # order of matrices from which more than one thread pays
_LARGEST_SHARE = 1e-8  # of inner multipliers in those that are handed out
_ROOM = 30.0  # multiple of a check's rounding errors, of order d² eps, that the share is


@dataclass
class InteriorPointState(EngineState):
    """State of the method.

    Parameters
    ----------
    phase : int
        1 while feasible multipliers are sought, 2 afterwards.
    unit : float
        What C is divided by.
    point : Point or None
        The iterate.
    short : int
        Iterations in a row that made no progress.
    inner : ndarray or None
        Multipliers well inside the feasible set.
    """

    phase: int = 2
    unit: float = 1.0
    point: Point | None = None
    short: int = 0
    inner: NDArray[np.float64] | None = None


def start(
    form: LowRankLMI,
    *,
    tol: float = 1e-7,
    multipliers: tuple[NDArray[np.float64], ...] | None = None,
    dual: tuple[NDArray[np.float64], ...] | None = None,
) -> InteriorPointState:
    """Return the state before the first iteration.

    Parameters
    ----------
    form : LowRankLMI
        The inequality.
    tol : float, default=1e-7
        Stops when ``1 - lower / upper <= tol``.
    multipliers : tuple of ndarray or None, default=None
        Warm start: one array of shape (k,), divided by ρ; of another shape it is ignored.
    dual : tuple of ndarray or None, default=None
        Matrix of shape (d, d) that belongs to them; with both, bounds are evaluated first.

    Returns
    -------
    InteriorPointState
        Already done when the given pair is good enough.
    """
    with thread_limit(None, blas=_threads(form)), np.errstate(all="ignore"):
        return _start(form, tol, multipliers, dual)


def _start(
    form: LowRankLMI,
    tol: float,
    multipliers: tuple[NDArray[np.float64], ...] | None,
    dual: tuple[NDArray[np.float64], ...] | None,
) -> InteriorPointState:
    state = InteriorPointState(tol=tol)
    plain = _operators(form, state)[0]
    if not form.C.any():
        return _trivial(form, state)
    given = None
    if multipliers and np.shape(multipliers[0]) == (plain.k,):
        given = np.array(multipliers[0], dtype=np.float64)
        _note_upper(form, state, plain, given, 1.0)
    if dual and np.shape(dual[0]) == (plain.d, plain.d):
        _note_lower(form, state, plain, np.asarray(dual[0], dtype=np.float64), 1.0)
    if _finished(state):
        return state
    _begin(form, state, plain, given)
    return state


def advance(form: LowRankLMI, state: InteriorPointState) -> None:
    """Do one iteration, in place.

    Parameters
    ----------
    form : LowRankLMI
        The inequality.
    state : InteriorPointState
        From :func:`start`.

    Notes
    -----
    Cost: 13·d³ + 8·d²·m + 6·d·m² + k³/3 multiplications for the directions, and d³/6 for each
    of 10 to 40 trial factorisations.
    """
    if state.done or state.point is None:
        return
    # Trial points that overflow are indefinite, which their factorisation says.
    with thread_limit(None, blas=_threads(form)), np.errstate(all="ignore"):
        _advance(form, state, state.point)


def _threads(form: LowRankLMI) -> int | None:
    """One thread for matrices on which several of them only wait for each other."""
    return 1 if form.E.size < _SMALL else None


def _advance(form: LowRankLMI, state: InteriorPointState, point: Point) -> None:
    plain, operator = _operators(form, state)
    if not iterate(operator, point, state.counts):
        state.short = _MAX_SHORT
    state.nit += 1
    state.short = state.short + 1 if max(point.steps) < _SHORT else 0
    if state.phase == 1:
        _first_phase(form, state, plain, operator)
        return
    _note_upper(form, state, operator, point.y / point.rho, state.unit)
    rho = state.upper if form.norm == "linf" else state.upper**2
    _note_lower(form, state, operator, point.X, state.unit, rho / state.unit)
    if not _finished(state) and state.short >= _MAX_SHORT:
        state.done = "stalled"
        state.message = f"steps have no length any more; relative gap {state.gap:.1e}"


# -- starts -----------------------------------------------------------------------------------


def _operators(form: LowRankLMI, state: InteriorPointState) -> tuple[Operator, Operator]:
    """Maps of the form and those of the current phase, built when missing."""
    if state.cache is None:
        state.cache = {"plain": Operator(form)}
    cache = state.cache
    key = (state.phase, state.unit)
    if cache.get("key") != key:
        plain = cache["plain"]
        if state.phase == 1:
            cache["current"] = plain.with_data(np.ones(plain.d), np.diag(-plain.E))
        else:
            cache["current"] = plain.with_data(plain.E, plain.C / state.unit)
        cache["key"] = key
    return cache["plain"], cache["current"]


def _begin(
    form: LowRankLMI,
    state: InteriorPointState,
    plain: Operator,
    given: NDArray[np.float64] | None,
) -> None:
    """Second phase if feasible multipliers are known or easily guessed, else the first."""
    sizes = plain.sizes()
    best = None if given is None else plain.certify(given)[1]
    centre = _centre(plain)
    if best is None:
        best = centre
    elif centre is not None:
        mixed = plain.certify((1.0 - _PULL) * best + _PULL * centre)[1]
        best = best if mixed is None else mixed
    if best is not None:
        least = 1e-12 * float(np.max(best, initial=0.0))
        r, v = plain.certify(np.where(plain.bounded, np.maximum(best, least), best))
        if v is not None and r > 0.0:
            _second(form, state, plain, v, r)
            return
    state.phase = 1
    _, operator = _operators(form, state)
    y = np.where(plain.bounded, 0.1 / sizes, 0.0)
    S = operator.slack(0.0, y)
    tau = _RHO * max(float(np.max(np.sum(np.abs(S), axis=1))), 1e-3)
    state.point = _point(operator, tau, y)
    if state.point is None:  # pragma: no cover - the shift makes S dominant
        _fail(state, "no start could be made")


def _centre(plain: Operator) -> NDArray[np.float64] | None:
    """Return multipliers well inside, if they are easily found."""
    rho, best = plain.guess()
    layered = layered_multipliers(plain)
    if layered is not None:
        r, u = plain.certify(layered)
        best = u if r < rho else best
    return best


def _second(
    form: LowRankLMI, state: InteriorPointState, plain: Operator, u: NDArray[np.float64], rho: float
) -> None:
    """Start the second phase from feasible multipliers divided by ρ."""
    state.phase, state.unit, state.short = 2, rho, 0
    _note_upper(form, state, plain, u, 1.0)
    _, operator = _operators(form, state)
    state.point = _point(operator, _RHO, _RHO * u)
    if state.point is None:
        _fail(state, "the start is not definite in double precision")


def _point(operator: Operator, rho: float, y: NDArray[np.float64]) -> Point | None:
    """X is a multiple of S⁻¹ with ⟨E, X⟩ = 1, and x of 1 / y."""
    S = operator.slack(rho, y)
    factor = cholesky(S)
    if factor is None:
        return None
    X = inverse_from(factor)
    m = 1.0 / operator.trace(X)
    x = np.zeros_like(y)
    x[operator.bounded] = m / y[operator.bounded]
    return Point(rho=rho, y=y, X=m * X, x=x)


def _first_phase(
    form: LowRankLMI, state: InteriorPointState, plain: Operator, operator: Operator
) -> None:
    """Go over to the second phase once multipliers are well inside, or give up."""
    point = state.point
    assert point is not None
    state.counts["first_phase"] = state.counts.get("first_phase", 0) + 1
    # -τ is the smallest eigenvalue of E + Σ y A that the multipliers reach.
    dual = operator.margin_bound(point.X)  # no multipliers reach more than this
    reached = -point.rho
    if reached > _FEASIBLE and reached >= 0.03 * dual:
        rho, u = plain.certify(point.y)
        if u is not None and rho > 0.0:
            _second(form, state, plain, u, rho)
            return
    hopeless = dual <= _FEASIBLE
    if hopeless or state.short >= _MAX_SHORT or state.counts["first_phase"] >= _FIRST_PHASE:
        rho, u = plain.certify(point.y)
        if u is not None and rho > 0.0 and not hopeless:
            _second(form, state, plain, u, rho)
            return
        _fail(
            state,
            "no finite bound: multipliers with a definite inequality do not exist"
            + (" (proven to rounding)" if hopeless else ", as far as the search could tell")
            + "; the network may have no unique output for some input",
        )


def _fail(state: InteriorPointState, message: str) -> None:
    state.done, state.message, state.point = "failed", message, None


def _trivial(form: LowRankLMI, state: InteriorPointState) -> InteriorPointState:
    """The output does not depend on the input."""
    state.upper, state.done = 0.0, "converged"
    state.multipliers = (np.zeros(form.free.size),)
    state.message = "the output is constant"
    return state


# -- bounds -----------------------------------------------------------------------------------


def _length(form: LowRankLMI, rho: float) -> float:
    return rho if form.norm == "linf" else math.sqrt(rho)


def _note_upper(
    form: LowRankLMI,
    state: InteriorPointState,
    operator: Operator,
    u: NDArray[np.float64],
    unit: float,
) -> None:
    """Keep multipliers that prove a better bound."""
    rho, best = operator.certify(u)
    if best is None:
        return
    if state.inner is None:
        state.inner = best.copy()
    elif _length(form, rho * unit) < state.upper:
        # Optimal multipliers lie on the boundary and would leave a check no room for rounding. The
        # set of feasible (y, 1/ρ) is convex: a share of an inner point costs that share.
        needed = _ROOM * operator.d**2 * np.finfo(float).eps
        share = max(needed, min(_LARGEST_SHARE, 0.01 * state.tol))
        inside, mixed = operator.certify((1.0 - share) * best + share * state.inner)
        if mixed is not None and inside <= rho * (1.0 + 4.0 * share):
            rho, best = inside, mixed
    upper = _length(form, rho * unit)
    if upper < state.upper:
        state.upper, state.multipliers = upper, (best.copy(),)


def _note_lower(
    form: LowRankLMI,
    state: InteriorPointState,
    operator: Operator,
    X: NDArray[np.float64],
    unit: float,
    rho_upper: float | None = None,
) -> None:
    """Keep a matrix that proves a better lower bound."""
    if rho_upper is None:
        upper = state.upper if form.norm == "linf" else state.upper**2
        rho_upper = upper / unit
    X = operator.polished(X)
    lower = _length(form, operator.dual_bound(X, rho_upper) * unit)
    if lower > state.lower:
        state.lower, state.dual = lower, (X / operator.trace(X),)


def _finished(state: InteriorPointState) -> bool:
    if state.gap <= state.tol:
        state.done = "converged"
        state.message = f"relative gap {max(state.gap, 0.0):.1e}"
    return bool(state.done)
