"""Halpern iteration on the resolvent of a monotone operator, computed inexactly."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from lowrank_opt.core.errors import ParameterError
from lowrank_opt.core.params import Interval, StrOptions, make_rng
from lowrank_opt.core.protocols import HasMonotoneOperator, HasResolvent
from lowrank_opt.monotone import constants
from lowrank_opt.monotone.inclusion import affine_resolvent
from lowrank_opt.monotone.operator_solver import OperatorSolver, OperatorState
from lowrank_opt.monotone.operator_terms import terms_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Values = NDArray[np.float64]

__all__ = ["InexactHalpern", "inexact_resolvent"]

logger = logging.getLogger("lowrank_opt")

_POSITIVE = Interval(Real, 0, None, closed="neither")
_EPS = float(np.finfo(np.float64).eps)
# Share of the distance to the resolvent that an inner solution may be wrong by, over (k + 2)^2.
_SHARE = 0.1
_LARGEST_EXACT = 5000


@dataclass
class InexactState(OperatorState):
    """State of :class:`InexactHalpern`; ``x`` is the last resolvent.

    Parameters
    ----------
    u : ndarray or None
        The outer iterate, in float64.
    inner_method : str
        How resolvents are computed.
    eta : float
        Step of the resolvent.
    gamma : float
        Step of the inner method.
    bound : float
        Bound of the distance to the exact resolvent in the last iteration.
    """

    u: Any = None
    inner_method: str = ""
    eta: float = 0.0
    gamma: float = 0.0
    bound: float = 0.0


class InexactHalpern(OperatorSolver):
    r"""Halpern iteration on the resolvent of F + G, with a variance-reduced inner method.

    For :math:`0 \in F(u) + G(u)`, F monotone and Lipschitz, a mean of n terms:

    .. math:: u_{k+1} = \tfrac{1}{k+2} u_0 + \tfrac{k+1}{k+2} J(u_k),\qquad
        J = (I + \eta (F + G))^{-1}.

    J is firmly nonexpansive, so that :math:`\|u_k - J u_k\| \le 2 D / (k + 1)`, D the distance of
    the anchor to the solutions; and :math:`(u - J u) / \eta` is an element of (F + G) at J u,
    which is the point returned. The inner problem is strongly monotone with constant 1: whenever
    its operator is known at a point, the distance to J u is bounded, and the inner method stops
    when the bound is small enough for the rate to remain.

    Parameters
    ----------
    eta : float or "auto", default="auto"
        Step :math:`\eta` of the resolvent. ``"auto"``: :math:`\sqrt n / L`, L the constant of the
        mean of the terms; 1000 / lipschitz for exact resolvents, 1 / lipschitz for deterministic
        ones.
    inner : {"auto", "variance_reduced", "deterministic", "exact"}, default="auto"
        ``"variance_reduced"``: forward-reflected-backward steps with a snapshot.
        ``"deterministic"``: the same with full evaluations and step 1 / (2 (:math:`\eta L_F` +
        1)). ``"exact"``: a factorisation, for affine F without prox. ``"auto"``: exact where
        that is possible with up to 5000 variables, else by the constants (see `choose_method`);
        logged, and reported in ``result.inner``.
    reflect : bool, default=False
        Use 2 J - I instead of J, which is nonexpansive too: then
        :math:`\|u_k - J u_k\| \le D / (k + 1)`.
    restart : {"adaptive"} or None, default="adaptive"
        ``"adaptive"``: the anchor moves when :math:`\|u_k - J u_k\|` has fallen to a fifth, to a
        half and rises again, or when the epoch is 0.36 of the run. ``None``: the method of the
        paper.
    snapshot : {"newest", "outer"}, default="newest"
        Where the snapshot of the inner method moves. ``"outer"``, the outer iterate, is what the
        authors' programs do; it does not converge to the resolvent, and is for reproductions only.
    inner_step : float or "auto", default="auto"
        Step of the inner method; ``"auto"``: :math:`\frac12 \sqrt{p (1 - p)} / (\eta L + 1)`,
        p = 1/n, variance-reduced.
    inner_length : float or "adaptive", default="adaptive"
        A number c: :math:`c\, n \ln(k + 2)` inner iterations, at least 1, and no other stop.
    max_inner : int or None, default=None
        Limit on inner iterations; ``None``: 200 n, or 10000 deterministic ones.
    sampling : {"uniform", "importance", "auto"}, default="auto"
        How terms are drawn, with replacement; ``"importance"``: by their sizes; ``"auto"``: so if
        those need not be measured.
    tol : float, default=1e-6
        Limit on the certificate's residual at J u.
    max_iter : int, default=100000
        Limit on (outer) iterations.
    max_time : float or None, default=None
        Limit on seconds.
    check_every : int or "auto", default=1
        Outer iterations between two checks.
    random_state : int, Generator or None, default=0
        Seed of coins and draws.

    See Also
    --------
    VarianceReducedHalpern : One loop, for cocoercive operators.
    FastExtraGradient : Deterministic, for the same problems.

    Notes
    -----
    Counts: n ``component_calls`` for each full evaluation, 2 for each variance-reduced inner
    iteration; ``solves`` of exact resolvents (each counts n component calls, too);
    ``inner_iterations``. With errors :math:`e_k` of the resolvents the bound grows by
    :math:`\frac{1}{k+1} \sum_j (j+1) \|e_j\|`; the inner stop is at 0.1
    :math:`\|u_k - J u_k\| / (k+2)^2`.

    References
    ----------
    .. [1] X. Cai, A. Alacaoglu, J. Diakonikolas, "Variance reduced Halpern iteration for
       finite-sum monotone inclusions", ICLR 2024.
    .. [2] A. Alacaoglu, Y. Malitsky, V. Cevher, "Forward-reflected-backward method with variance
       reduction", Computational Optimization and Applications 80, 2021.

    Examples
    --------
    >>> import numpy as np
    >>> from lowrank_opt.monotone import InexactHalpern, MonotoneInclusion
    >>> rotation = np.array([[0.0, 1.0], [-1.0, 0.0]])
    >>> problem = MonotoneInclusion((rotation, np.array([1.0, 1.0])), np.zeros(2))
    >>> result = InexactHalpern().solve(problem)
    >>> print(result.x.round(5), result.inner["method"])
    [ 1. -1.] exact
    """

    requires = (HasMonotoneOperator, HasResolvent)
    needs = ("operator", "resolvent", "lipschitz")
    citation = (
        "@inproceedings{cai2024variance, title={Variance reduced Halpern iteration for finite-sum "
        "monotone inclusions}, author={Cai, Xufeng and Alacaoglu, Ahmet and Diakonikolas, Jelena}, "
        "booktitle={International Conference on Learning Representations}, year={2024}}"
    )
    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "eta": [_POSITIVE, StrOptions({"auto"})],
        "inner": [StrOptions({"auto", "variance_reduced", "deterministic", "exact"})],
        "reflect": ["boolean"],
        "restart": [None, StrOptions({"adaptive"})],
        "snapshot": [StrOptions({"newest", "outer"})],
        "inner_step": [_POSITIVE, StrOptions({"auto"})],
        "inner_length": [_POSITIVE, StrOptions({"adaptive"})],
        "max_inner": [None, Interval(Integral, 1, None, closed="left")],
        "sampling": [StrOptions({"uniform", "importance", "auto"})],
    }

    def __init__(
        self,
        *,
        eta: float | str = "auto",
        inner: str = "auto",
        reflect: bool = False,
        restart: str | None = "adaptive",
        snapshot: str = "newest",
        inner_step: float | str = "auto",
        inner_length: float | str = "adaptive",
        max_inner: int | None = None,
        sampling: str = "auto",
        tol: float = 1e-6,
        max_iter: int = 100_000,
        max_time: float | None = None,
        check_every: int | str = 1,
        random_state: Any = 0,
    ) -> None:
        self.eta = eta
        self.inner = inner
        self.reflect = reflect
        self.restart = restart
        self.snapshot = snapshot
        self.inner_step = inner_step
        self.inner_length = inner_length
        self.max_inner = max_inner
        self.sampling = sampling
        self.tol = tol
        self.max_iter = max_iter
        self.max_time = max_time
        self.check_every = check_every
        self.random_state = random_state

    def check(self, problem: Any) -> None:
        """Raise if a parameter is out of range or does not fit the problem."""
        super().check(problem)
        if self.inner == "exact" and not _has_exact(problem):
            raise ParameterError(
                "InexactHalpern: inner='exact' needs an affine operator F=(M, q) without prox; "
                f"{problem!r} is not one: use inner='auto'"
            )

    def init(self, problem: Any, x0: Any = None) -> InexactState:
        """Measure the start, choose the inner method and the steps."""
        z = problem.start() if x0 is None else problem.flat(x0)
        if hasattr(problem, "admissible"):
            z = problem.admissible(z)
        state = InexactState(x=z, u=np.array(z, np.float64), rng=make_rng(self.random_state))
        state.anchor = state.u.copy()
        self.look(problem, state)
        state.image = np.array(state.image, np.float64)
        if state.residual > self.tol:
            self._choose(problem, state)
        return state

    def _choose(self, problem: Any, state: InexactState) -> None:
        n, L_F = int(getattr(problem, "n_terms", 1)), float(problem.lipschitz)
        method = self.inner
        if method == "auto":
            if _has_exact(problem) and problem.size <= _LARGEST_EXACT:
                method = "exact"
            else:
                choice = constants.compare_constants(problem, self._terms(problem, state))
                state.count(component_calls=choice.calls)
                method = "variance_reduced" if choice.variance_reduced else "deterministic"
            logger.info("InexactHalpern: inner method %s for %r", method, problem)
        state.inner_method = method
        if method == "variance_reduced":
            L, calls = constants.mean_lipschitz(problem, self._terms(problem, state))
            state.count(component_calls=calls + self._terms(problem, state).calls)
            state.eta = math.sqrt(n) / L if self.eta == "auto" else float(self.eta)
            p = _refresh(n)
            gamma = 0.5 * math.sqrt(p * (1.0 - p)) / (state.eta * L + 1.0)
        else:
            factor = 1000.0 if method == "exact" else 1.0
            state.eta = factor / L_F if self.eta == "auto" else float(self.eta)
            gamma = 0.5 / (state.eta * L_F + 1.0)
        state.gamma = gamma if self.inner_step == "auto" else float(self.inner_step)

    def _terms(self, problem: Any, state: InexactState) -> Any:
        cache = self._cache(state)
        if "terms" not in cache:
            cache["terms"] = terms_of(problem, self.sampling)
        return cache["terms"]

    @staticmethod
    def _cache(state: InexactState) -> dict[str, Any]:
        if state.cache is None:
            state.cache = {}
        cache: dict[str, Any] = state.cache
        return cache

    def advance(self, problem: Any, state: Any) -> None:
        """Compute a resolvent; the new iterate is between it and the anchor."""
        k, u = state.inner, state.u
        n = int(getattr(problem, "n_terms", 1))
        if state.inner_method == "exact":
            cache = self._cache(state)
            if "solve" not in cache:
                cache["solve"] = affine_resolvent(problem, state.eta)
            v, value, bound = np.asarray(cache["solve"](u), np.float64), None, 0.0
            state.count(solves=1, component_calls=n)
        else:
            length = self.max_inner or (
                200 * max(n, 50) if state.inner_method == "variance_reduced" else 10_000
            )
            share = _SHARE / (k + 2.0) ** 2
            if self.inner_length != "adaptive":
                length = max(1, int(float(self.inner_length) * n * math.log(k + 2.0)))
                share = 0.0
            terms = None
            if state.inner_method == "variance_reduced":
                terms = self._terms(problem, state)
            fixed = self.inner_length != "adaptive" or self.snapshot == "outer"
            start = None if fixed else (np.asarray(state.x, np.float64), state.image)
            v, value, bound, counts = inexact_resolvent(
                problem, u, state.eta, state.gamma, terms=terms, rng=state.rng, share=share,
                length=length, start=start, snapshot=self.snapshot,
            )  # fmt: skip
            state.count(**counts)
        state.bound = bound
        state.x = np.array(v, problem.dtype)
        state.image = value
        error = float(np.linalg.norm(u - v))
        if self.restart is not None and self._restart_due(state, error):
            state.anchor, state.u, state.inner = v.copy(), v.copy(), 0
            state.restarts += 1
            return
        weight = 1.0 / (k + 2.0)
        image = 2.0 * v - u if self.reflect else v
        state.u = weight * state.anchor + (1.0 - weight) * image
        state.inner = k + 1

    def _restart_due(self, state: Any, now: float) -> bool:
        if state.inner == 0:
            state.first = state.last = now
            return False
        last, state.last = state.last, now
        return bool(
            now <= 0.2 * state.first
            or (now <= 0.5 * state.first and now > last)
            or (state.inner >= 0.36 * state.nit and state.nit > 8)
        )

    def look(self, problem: Any, state: Any) -> None:
        """Measure the resolvent; the operator there is known, or is evaluated."""
        if state.image is None:
            state.image = self.value(problem, state, state.x)
        if getattr(problem, "prox", None) is not None:
            state.count(resolvent_calls=1)
        self.keep(state, state.x, float(problem.measure(state.x, state.image)))

    def inner_results(self, state: Any) -> Any:
        """Return the inner method, its steps and the last bound of its error."""
        if not state.inner_method:
            return None
        return {
            "method": state.inner_method, "eta": state.eta, "step": state.gamma,
            "bound": state.bound, "iterations": state.counts.get("inner_iterations", 0),
        }  # fmt: skip


def _has_exact(problem: Any) -> bool:
    affine = getattr(problem, "affine", None) is not None
    return affine and getattr(problem, "prox", None) is None


def _refresh(n: int) -> float:
    """Probability of moving the snapshot; a half for one or two terms, where 1 - p must stay."""
    return min(0.5, 1.0 / n)


def inexact_resolvent(
    problem: Any,
    u: Values,
    eta: float,
    gamma: float,
    *,
    terms: Any = None,
    rng: np.random.Generator | None = None,
    share: float = 0.0,
    length: int = 10_000,
    start: tuple[Values, Values] | None = None,
    snapshot: str = "newest",
) -> tuple[Values, Values | None, float, dict[str, int]]:
    r"""Solve :math:`0 \in \eta F(v) + v - u + \eta G(v)` by forward-reflected-backward steps.

    Parameters
    ----------
    problem : Problem
        Has ``operator`` and ``resolvent``.
    u : ndarray of float64, shape (d,)
        Where the resolvent is wanted.
    eta, gamma : float
        Steps of the resolvent and of the method.
    terms : ColumnTerms, SampledTerms or None, default=None
        What is sampled; ``None``: full evaluations.
    rng : numpy.random.Generator or None, default=None
        Source of coins and draws; needed with `terms`.
    share : float, default=0.0
        Stop when the distance to the solution is at most this share of that to `u`, or rounding.
    length : int, default=10000
        Limit on iterations.
    start : tuple of ndarray or None, default=None
        First point and the operator there; ``None``: `u`.
    snapshot : {"newest", "outer"}, default="newest"
        Where the snapshot moves.

    Returns
    -------
    v : ndarray of shape (d,)
        The solution.
    value : ndarray or None
        F at v, if it is known.
    bound : float
        No less than the distance to the exact solution; infinite when the operator is not known
        at v.
    counts : dict of str to int
        What it cost.

    Notes
    -----
    The operator of the problem is strongly monotone with constant 1, so that the norm of any
    element of it at v bounds the distance; one is known, by the last resolvent, whenever F(v) is.
    """
    counts = {"operator_calls": 0, "component_calls": 0, "resolvent_calls": 0}
    n = int(getattr(problem, "n_terms", 1))

    def evaluate(z: Values) -> Values:
        counts["operator_calls"] += 1
        counts["component_calls"] += n
        return np.array(problem.operator(np.asarray(z, problem.dtype)), np.float64)

    def near(v: Values, value: Values, before: Values) -> tuple[float, bool]:
        element = eta * value + v - u + (before - v) / gamma
        bound = float(np.linalg.norm(element))
        rounding = 16.0 * float(np.finfo(problem.dtype).eps) * (
            float(np.linalg.norm(u)) + float(np.linalg.norm(v)) + eta * float(np.linalg.norm(value))
        )  # fmt: skip
        return bound, bound <= max(share * float(np.linalg.norm(u - v)), rounding)

    v, value = (u.copy(), evaluate(u)) if start is None else (start[0].copy(), start[1])
    value = np.asarray(value, np.float64)
    before = np.empty_like(v)
    done, bound = 0, math.inf
    if terms is None:
        last = value + (v - u) / eta
        while done < length:
            now = value + (v - u) / eta
            before = v - gamma * eta * (2.0 * now - last)
            v = np.asarray(problem.resolvent(before, gamma * eta), np.float64)
            last, done = now, done + 1
            value = evaluate(v)
            bound, stop = near(v, value, before)
            if stop or not math.isfinite(bound):
                break
        counts["resolvent_calls"] += done
        return v, value, bound, {**counts, "inner_iterations": done}
    assert rng is not None
    p = _refresh(n)
    steps = constants.runner("forward_reflected_steps", terms)
    w, last, known = v.copy(), v.copy(), False
    shifted = eta * value + w - u
    while done < length:
        some, full = steps(
            rng, v, w, last, shifted, before, 1, eta, gamma, p, length - done
        )  # fmt: skip
        done += some
        known = False
        if full:
            w = u.copy() if snapshot == "outer" else v.copy()
            value = evaluate(w)
            shifted = eta * value + w - u
            if snapshot == "newest":
                known = True
                bound, stop = near(v, value, before)
                if stop or not math.isfinite(bound):
                    break
    counts["component_calls"] += 2 * done
    counts["resolvent_calls"] += done
    counts["inner_iterations"] = done
    return v, value if known else None, bound if known else math.inf, counts
