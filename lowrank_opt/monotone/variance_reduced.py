"""Variance-reduced methods: Halpern iteration with a recursive estimate, and extragradient."""

from __future__ import annotations

import abc
import math
from dataclasses import dataclass
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from lowrank_opt.core.errors import ParameterError
from lowrank_opt.core.params import Interval, StrOptions, make_rng
from lowrank_opt.core.protocols import HasMonotoneOperator, HasOperatorSum, HasResolvent
from lowrank_opt.monotone import constants
from lowrank_opt.monotone.operator_solver import OperatorSolver, OperatorState
from lowrank_opt.monotone.operator_terms import terms_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Values = NDArray[np.float64]

__all__ = ["VarianceReducedExtraGradient", "VarianceReducedHalpern"]

_POSITIVE = Interval(Real, 0, None, closed="neither")
_PROBABILITY = Interval(Real, 0, 1, closed="right")


@dataclass
class SampledState(OperatorState):
    """State of a method that samples the operator.

    ``x`` is the last point at which the operator was evaluated in full, and whose residual is
    known.

    Parameters
    ----------
    u : ndarray or None
        The iterate, in float64.
    estimate : ndarray or None
        Estimate of the operator at `u`, or its value at the snapshot `anchor`.
    since : int
        Iterations since the last full evaluation.
    step_size : float
        The step.
    """

    u: Any = None
    estimate: Any = None
    since: int = 0
    step_size: float = 0.0


class SampledSolver(OperatorSolver):
    """Base of the methods that sample the operator and evaluate it in full now and then.

    Parameters
    ----------
    tol, max_iter, max_time, check_every, random_state
        See :class:`~lowrank_opt.core.Solver`.
    """

    requires = (HasMonotoneOperator, HasResolvent, HasOperatorSum)
    needs = ("operator", "resolvent", "sample_difference", "lipschitz")
    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "batch": [None, Interval(Integral, 1, None, closed="left")],
        "sampling": [StrOptions({"uniform", "importance", "auto"})],
    }
    _state = SampledState
    sampling: str = "uniform"
    batch: int | None = None
    random_state: Any = 0

    def check(self, problem: Any) -> None:
        """Raise if a parameter is out of range or does not fit the problem."""
        super().check(problem)
        if self.batch is not None and self.batch > problem.n_terms:
            raise ParameterError(
                f"{type(self).__name__}: batch={self.batch} is more than the {problem.n_terms} "
                "terms of the problem"
            )

    def terms(self, problem: Any, state: Any) -> Any:
        """Return the terms that are sampled; made once a run.

        Parameters
        ----------
        problem : Problem
            What is solved.
        state : SampledState
            Keeps them in its cache.
        """
        if state.cache is None:
            state.cache = terms_of(problem, self.sampling)
        return state.cache

    def measured(self, problem: Any, state: Any, z: Values) -> Values:
        """Evaluate the operator in full at a point, measure the point and keep the best.

        Parameters
        ----------
        problem : Problem
            What is solved.
        state : SampledState
            The state; its ``x`` becomes the point.
        z : ndarray
            A point, in float64.

        Returns
        -------
        ndarray
            The operator there.
        """
        state.x = np.array(z, problem.dtype)
        value = self.value(problem, state, state.x)
        if getattr(problem, "prox", None) is not None:
            state.count(resolvent_calls=1)
        self.keep(state, state.x, float(problem.measure(state.x, value)))
        return np.array(value, np.float64)

    def advance(self, problem: Any, state: Any) -> None:
        """Do one iteration; see :meth:`run`."""
        self.run(problem, state, 1)

    @abc.abstractmethod
    def run(self, problem: Any, state: Any, limit: int) -> int:
        """Do up to `limit` iterations, at most until a full evaluation, and say how many.

        Parameters
        ----------
        problem : Problem
            What is solved.
        state : SampledState
            Changed in place.
        limit : int
            At least 1.
        """

    def step(self, problem: Any, state: Any, n: int = 1) -> Any:
        """Do up to `n` iterations; see :class:`~lowrank_opt.core.Solver`."""
        with np.errstate(all="ignore"):
            while n > 0:
                done = self.run(problem, state, n)
                state.nit += done
                n -= done
                if not state.residual > self.tol:
                    break
        return state


class VarianceReducedHalpern(SampledSolver):
    r"""Halpern iteration with a variance-reduced estimate of a cocoercive operator.

    For :math:`0 \in F(u) + G(u)`, :math:`F = \frac1n \sum_i F_i`, the estimate g follows the
    iterates by differences of few terms and is computed anew with probability p:

    .. math::
        u_{k+1} = J\bigl(\tfrac{2}{k+4} u_0 + (1 - \tfrac{2}{k+4}) u_k - \eta g_k\bigr),\qquad
        g_{k+1} = \begin{cases} F(u_{k+1}) & \text{with probability } p_{k+1}, \\
        g_k + \frac1b \sum_{i \in S} \bigl(F_i(u_{k+1}) - F_i(u_k)\bigr) & \text{else}, \end{cases}

    J being the resolvent of :math:`\eta G`. In expectation the residual of the last iterate falls
    below :math:`\varepsilon` after :math:`\tilde O(n + \sqrt n L D / \varepsilon)` evaluations of
    terms [1]_, against :math:`O(n L_F D / \varepsilon)` of the deterministic method: a gain only
    where L, the constant of the mean of the terms, is close to :math:`L_F`, that of F.

    Parameters
    ----------
    eta : float or "auto", default="auto"
        Step size :math:`\eta`. ``"auto"`` with restarts: it begins at 1 / L, where L² bounds the
        mean of :math:`\|F_i(u) - F_i(v)\|^2 / \|u - v\|^2`, and is halved, with a restart from the
        best point, whenever the residual is twice that at the anchor. Without restarts: 1 / L, L
        such that the mean of :math:`\|F_i(u) - F_i(v)\|^2` is at most
        :math:`L \langle F(u) - F(v), u - v \rangle`. Both are computed or measured, and the
        measurement is counted. Any number is accepted, also for operators that are not
        cocoercive, where the method has no guarantee.
    batch : int or None, default=None
        Terms in a batch b; ``None``: :math:`\lceil \sqrt n\, \rceil`. With n, every evaluation is
        in full.
    refresh : float, "auto" or "decreasing", default="auto"
        Probability p of a full evaluation; ``"auto"``: :math:`1 / \sqrt n`, which needs half the
        calls of ``"decreasing"``, the rule of the paper: 1 for the first two iterations,
        :math:`4/(k+4)` for the k-th, but at least :math:`4 / (\sqrt n + 5)`. There is one at least
        every :math:`10 \sqrt n` iterations.
    sampling : {"uniform", "importance", "auto"}, default="uniform"
        How terms are drawn, with replacement; ``"importance"``: by their sizes; ``"auto"``: so if
        those need not be measured.
    restart : {"adaptive"} or None, default="adaptive"
        ``"adaptive"``: the anchor moves to the iterate, at a full evaluation, when the residual
        has fallen to a fifth since the last time, to a half and rises again, or when the epoch is
        0.36 of the run. ``None``: the method of the paper.
    tol : float, default=1e-6
        Limit on the certificate's residual, which is known at full evaluations; answers are the
        points of those.
    max_iter : int, default=1000000
        Limit on iterations.
    max_time : float or None, default=None
        Limit on seconds.
    check_every : int or "auto", default="auto"
        Iterations between two checks.
    random_state : int, Generator or None, default=0
        Seed of coins and draws.

    See Also
    --------
    Halpern : The deterministic method.
    InexactHalpern : For operators that are monotone and Lipschitz only.

    Notes
    -----
    Counts: n ``component_calls`` for each full evaluation, 2 b for each other iteration. Games and
    affine operators without terms of their own are sampled by rows and columns in a compiled
    kernel: some microseconds an iteration.

    References
    ----------
    .. [1] X. Cai, A. Alacaoglu, J. Diakonikolas, "Variance reduced Halpern iteration for
       finite-sum monotone inclusions", ICLR 2024.

    Examples
    --------
    >>> import numpy as np
    >>> from lowrank_opt.monotone import MonotoneInclusion, VarianceReducedHalpern
    >>> a = np.random.default_rng(0).standard_normal((200, 3))
    >>> def components(x, index):
    ...     return a[index] * (a[index] @ x - 1.0)[:, None]
    >>> problem = MonotoneInclusion(
    ...     None, np.zeros(3), components=components, n_terms=200, cocoercive=True
    ... )
    >>> result = VarianceReducedHalpern().solve(problem)
    >>> result.success, bool(np.allclose(a.T @ (a @ result.x - 1.0) / 200, 0.0, atol=1e-6))
    (True, True)
    """

    citation = (
        "@inproceedings{cai2024variance, title={Variance reduced Halpern iteration for finite-sum "
        "monotone inclusions}, author={Cai, Xufeng and Alacaoglu, Ahmet and Diakonikolas, Jelena}, "
        "booktitle={International Conference on Learning Representations}, year={2024}}"
    )
    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "eta": [_POSITIVE, StrOptions({"auto"})],
        "refresh": [_PROBABILITY, StrOptions({"auto", "decreasing"})],
        "restart": [None, StrOptions({"adaptive"})],
    }

    def __init__(
        self,
        *,
        eta: float | str = "auto",
        batch: int | None = None,
        refresh: float | str = "auto",
        sampling: str = "uniform",
        restart: str | None = "adaptive",
        tol: float = 1e-6,
        max_iter: int = 1_000_000,
        max_time: float | None = None,
        check_every: int | str = "auto",
        random_state: Any = 0,
    ) -> None:
        self.eta = eta
        self.batch = batch
        self.refresh = refresh
        self.sampling = sampling
        self.restart = restart
        self.tol = tol
        self.max_iter = max_iter
        self.max_time = max_time
        self.check_every = check_every
        self.random_state = random_state

    def check(self, problem: Any) -> None:
        """Raise if a parameter is out of range or does not fit the problem."""
        super().check(problem)
        if self.eta == "auto" and not problem.cocoercive:
            raise ParameterError(
                f"{type(self).__name__}: eta='auto' needs a cocoercive operator, and {problem!r} "
                "is not known to be one: give MonotoneInclusion(..., cocoercive=True) if it is, "
                "use InexactHalpern or VarianceReducedExtraGradient, or give eta as a number to "
                "run the method without a guarantee"
            )

    def init(self, problem: Any, x0: Any = None) -> SampledState:
        """Evaluate the operator at the start, and choose the step."""
        z = problem.start() if x0 is None else problem.flat(x0)
        if hasattr(problem, "admissible"):
            z = problem.admissible(z)
        state = SampledState(u=np.array(z, np.float64), rng=make_rng(self.random_state))
        state.anchor = state.u.copy()
        state.estimate = self.measured(problem, state, state.u)
        state.first = state.last = state.residual
        if self.eta != "auto":
            state.step_size = float(self.eta)
        elif state.residual > self.tol:
            constant = constants.mean_cocoercivity
            if self.restart is not None:
                constant = constants.mean_lipschitz
            L, calls = constant(problem, self.terms(problem, state))
            state.step_size = 1.0 / L
            state.count(component_calls=calls + self.terms(problem, state).calls)
        return state

    def run(self, problem: Any, state: Any, limit: int) -> int:
        """Do iterations until the estimate is to be computed anew."""
        terms, n = self.terms(problem, state), problem.n_terms
        root = math.sqrt(n)
        batch = self.batch or math.ceil(root)
        rules = {"auto": 1.0 / root, "decreasing": 0.0}
        refresh = rules.get(str(self.refresh)) if isinstance(self.refresh, str) else self.refresh
        done, full = constants.runner("anchored_steps", terms)(
            state.rng, state.u, state.anchor, state.estimate, np.empty_like(state.u), state.inner,
            state.since, batch, state.step_size, 1.0 if batch >= n else refresh, root, limit,
        )  # fmt: skip
        state.inner += done
        state.since += done
        state.count(component_calls=2 * batch * (done - full), resolvent_calls=done)
        if full:
            state.estimate, state.since = self.measured(problem, state, state.u), 0
            if self.restart is None:
                pass
            elif self.eta == "auto" and not state.residual <= 2.0 * state.first:
                state.step_size *= 0.5
                state.u = np.array(state.best, np.float64)
                state.anchor, state.inner = state.u.copy(), 0
                state.estimate = self.measured(problem, state, state.u)
                state.first = state.last = state.residual
                state.restarts += 1
            elif self.restart_due(state):
                state.anchor, state.inner = state.u.copy(), 0
                state.first = state.last = state.residual
                state.restarts += 1
        return int(done)

    def restart_due(self, state: Any) -> bool:
        """Return whether the anchor is to move, and note the residual.

        Parameters
        ----------
        state : SampledState
            With the operator evaluated in full at the iterate.
        """
        now, last = state.residual, state.last
        state.last = now
        return bool(
            now <= 0.2 * state.first
            or (now <= 0.5 * state.first and now > last)
            or (state.inner >= 0.36 * (state.nit + state.inner) and state.inner > 100)
        )


class VarianceReducedExtraGradient(SampledSolver):
    r"""Extragradient method with variance reduction by a snapshot.

    With a snapshot w, at which the operator is known, and :math:`\bar u = (1-p) u + p w`,

    .. math:: v = J(\bar u - \gamma F(w)),\qquad
        u^+ = J\bigl(\bar u - \gamma (F(w) + F_i(v) - F_i(w))\bigr),

    for a random term i; then w moves to :math:`u^+` with probability p. It converges for every
    monotone F whose terms are Lipschitz with constant L in the mean, for
    :math:`\gamma < \sqrt p / L` [1]_.

    Parameters
    ----------
    eta : float or "auto", default="auto"
        Step size :math:`\gamma`. ``"auto"``: 0.99 times :math:`\sqrt p / L`; L is computed or
        measured, and the measurement is counted. Any number is accepted.
    batch : int or None, default=None
        Terms in each estimate, of which the mean is taken; ``None``: one.
    refresh : float or "auto", default="auto"
        Probability p of moving the snapshot; ``"auto"``: 2 b / n for a batch of b.
    sampling : {"uniform", "importance", "auto"}, default="auto"
        How terms are drawn, with replacement; ``"importance"``: by their sizes, which allows
        larger steps; ``"auto"``: so if those need not be measured.
    tol : float, default=1e-6
        Limit on the certificate's residual, which is known at snapshots; answers are snapshots.
    max_iter : int, default=10000000
        Limit on iterations.
    max_time : float or None, default=None
        Limit on seconds.
    check_every : int or "auto", default="auto"
        Iterations between two checks.
    random_state : int, Generator or None, default=0
        Seed of coins and draws.

    See Also
    --------
    ExtraGradient, FastExtraGradient : Deterministic methods.

    Notes
    -----
    Counts: n ``component_calls`` for each snapshot, 2 b for each iteration.

    References
    ----------
    .. [1] A. Alacaoglu, Y. Malitsky, "Stochastic variance reduction for variational inequality
       methods", COLT 2022.

    Examples
    --------
    >>> import numpy as np
    >>> from lowrank_opt.monotone import MatrixGame, VarianceReducedExtraGradient
    >>> A = np.random.default_rng(0).standard_normal((40, 40))
    >>> result = VarianceReducedExtraGradient(tol=1e-3).solve(MatrixGame(A))
    >>> result.success
    True
    """

    citation = (
        "@inproceedings{alacaoglu2022stochastic, title={Stochastic variance reduction for "
        "variational inequality methods}, author={Alacaoglu, Ahmet and Malitsky, Yura}, "
        "booktitle={Conference on Learning Theory}, year={2022}}"
    )
    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "eta": [_POSITIVE, StrOptions({"auto"})],
        "refresh": [_PROBABILITY, StrOptions({"auto"})],
    }

    def __init__(
        self,
        *,
        eta: float | str = "auto",
        batch: int | None = None,
        refresh: float | str = "auto",
        sampling: str = "auto",
        tol: float = 1e-6,
        max_iter: int = 10_000_000,
        max_time: float | None = None,
        check_every: int | str = "auto",
        random_state: Any = 0,
    ) -> None:
        self.eta = eta
        self.batch = batch
        self.refresh = refresh
        self.sampling = sampling
        self.tol = tol
        self.max_iter = max_iter
        self.max_time = max_time
        self.check_every = check_every
        self.random_state = random_state

    def probability(self, problem: Any) -> float:
        """Return the probability of moving the snapshot.

        Parameters
        ----------
        problem : Problem
            Has ``n_terms``.
        """
        if self.refresh != "auto":
            return float(self.refresh)
        return min(1.0, 2.0 * (self.batch or 1) / problem.n_terms)

    def init(self, problem: Any, x0: Any = None) -> SampledState:
        """Evaluate the operator at the start, and choose the step."""
        z = problem.start() if x0 is None else problem.flat(x0)
        if hasattr(problem, "admissible"):
            z = problem.admissible(z)
        state = SampledState(u=np.array(z, np.float64), rng=make_rng(self.random_state))
        state.anchor = state.u.copy()
        state.estimate = self.measured(problem, state, state.u)
        if self.eta != "auto":
            state.step_size = float(self.eta)
        elif state.residual > self.tol:
            L, calls = constants.mean_lipschitz(
                problem, self.terms(problem, state), self.batch or 1
            )
            state.step_size = 0.99 * math.sqrt(self.probability(problem)) / L
            state.count(component_calls=calls + self.terms(problem, state).calls)
        return state

    def run(self, problem: Any, state: Any, limit: int) -> int:
        """Do iterations until the snapshot moves."""
        batch = self.batch or 1
        done, full = constants.runner("extragradient_steps", self.terms(problem, state))(
            state.rng, state.u, state.anchor, state.estimate, batch, state.step_size,
            self.probability(problem), limit,
        )  # fmt: skip
        state.count(component_calls=2 * batch * done, resolvent_calls=2 * done)
        if full:
            state.anchor = state.u.copy()
            state.estimate = self.measured(problem, state, state.u)
        return int(done)
