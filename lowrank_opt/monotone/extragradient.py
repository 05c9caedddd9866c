"""Extragradient methods for monotone Lipschitz operators, plain and anchored."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Real
from typing import Any, ClassVar

import numpy as np

from lowrank_opt.core.params import Interval, StrOptions
from lowrank_opt.core.protocols import HasMonotoneOperator, HasResolvent
from lowrank_opt.core.solver import Solver
from lowrank_opt.monotone.operator_solver import OperatorSolver, OperatorState, due

__all__ = [
    "AnchoredExtraGradient",
    "AnchoredState",
    "ExtraGradient",
    "FastExtraGradient",
    "OptimisticGradient",
    "OptimisticState",
]

_STEP = {"step_size": [None, Interval(Real, 0, None, closed="neither")]}
_RESTART = {"restart": [None, StrOptions({"adaptive"})]}


class _Forward(OperatorSolver):
    """Methods that only evaluate F and the resolvent of G."""

    requires: ClassVar[tuple[type, ...]] = (HasMonotoneOperator, HasResolvent)
    _factor: ClassVar[float] = 1.0

    def __init__(
        self,
        *,
        step_size: float | None = None,
        tol: float = 1e-6,
        max_iter: int = 100_000,
        max_time: float | None = None,
        check_every: int | str = "auto",
        n_threads: int | None = None,
    ) -> None:
        self.step_size = step_size
        self.tol = tol
        self.max_iter = max_iter
        self.max_time = max_time
        self.check_every = check_every
        self.n_threads = n_threads

    def _step(self, problem: Any) -> float:
        return self._factor / problem.lipschitz if self.step_size is None else self.step_size


class ExtraGradient(_Forward):
    r"""Extragradient method of Korpelevich.

    .. math::

        v = J_{\gamma G}(u - \gamma F(u)), \qquad u_+ = J_{\gamma G}(u - \gamma F(v))

    Parameters
    ----------
    step_size : float or None, default=None
        The step; ``None``: ``0.9 / problem.lipschitz``.
    tol : float, default=1e-6
        Stops when the certificate's residual is at most `tol`: the relative natural residual of an
        inclusion, the relative duality gap of a game.
    max_iter : int, default=100_000
        Limit on iterations.
    max_time : float or None, default=None
        Limit on seconds.
    check_every : int or "auto", default="auto"
        Iterations between two checks of limits and callback.
    n_threads : int or None, default=None
        Limit on threads.

    See Also
    --------
    FastExtraGradient : The anchored method, with a faster guarantee.

    Notes
    -----
    Guarantee: for steps below 1 / lipschitz the residual of the last iterate is
    ``O(1 / sqrt(k))`` [2]_; it converges linearly for games, however slowly.

    Cost of an iteration: two evaluations of F and two resolvents; for an inclusion with a prox,
    a third one measures.

    References
    ----------
    .. [1] G. M. Korpelevich, "The extragradient method for finding saddle points and other
       problems", Matecon 12, 1976.
    .. [2] E. Gorbunov, N. Loizou, G. Gidel, "Extragradient method: O(1/K) last-iterate
       convergence for monotone variational inequalities", AISTATS 2022.

    Examples
    --------
    >>> import numpy as np
    >>> from lowrank_opt.monotone import ExtraGradient, MonotoneInclusion
    >>> rotation = MonotoneInclusion(([[0.0, 1.0], [-1.0, 0.0]], [0.0, 0.0]), np.ones(2))
    >>> ExtraGradient().solve(rotation).status.name
    'CONVERGED'
    """

    citation: ClassVar[str | None] = (
        "@article{korpelevich1976extragradient, title={The extragradient method for finding "
        "saddle points and other problems}, author={Korpelevich, G. M.}, journal={Matecon}, "
        "volume={12}, pages={747--756}, year={1976}}"
    )
    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **Solver._parameter_constraints, **_STEP,
    }  # fmt: skip
    _factor: ClassVar[float] = 0.9

    def advance(self, problem: Any, state: Any) -> None:
        """Do one iteration; see :class:`OperatorSolver`."""
        u, step = state.x, problem.dtype.type(self._step(problem))
        v = self.backward(problem, state, u - step * state.image, step)
        state.x = self.backward(problem, state, u - step * self.value(problem, state, v), step)


@dataclass
class OptimisticState(OperatorState):
    """State with the operator at the iterate before; see :class:`OperatorState`.

    Parameters
    ----------
    before : ndarray or None
        The operator at the iterate before.
    """

    before: Any = None


class OptimisticGradient(_Forward):
    r"""Optimistic gradient method, also called forward-reflected-backward.

    .. math:: u_+ = J_{\gamma G}(u - \gamma (2 F(u) - F(u_-)))

    Parameters
    ----------
    step_size : float or None, default=None
        The step; ``None``: ``0.45 / problem.lipschitz``.
    tol : float, default=1e-6
        Stops when the certificate's residual is at most `tol`, as for :class:`ExtraGradient`.
    max_iter : int, default=100_000
        Limit on iterations.
    max_time : float or None, default=None
        Limit on seconds.
    check_every : int or "auto", default="auto"
        Iterations between two checks of limits and callback.
    n_threads : int or None, default=None
        Limit on threads.

    See Also
    --------
    ExtraGradient : Two evaluations an iteration, with twice the step.

    Notes
    -----
    Guarantee: converges for steps below 1 / (2 lipschitz) [1]_.

    Cost of an iteration: one evaluation of F and one resolvent; for an inclusion with a prox, a
    second one measures.

    References
    ----------
    .. [1] Y. Malitsky, M. K. Tam, "A forward-backward splitting method for monotone inclusions
       without cocoercivity", SIAM Journal on Optimization 30, 2020.

    Examples
    --------
    >>> from lowrank_opt.monotone import MatrixGame, OptimisticGradient
    >>> result = OptimisticGradient().solve(MatrixGame([[3.0, 0.0], [0.0, 1.0]]))
    >>> print(result.x.x.round(4), round(result.value, 4))
    [0.25 0.75] 0.75
    """

    citation: ClassVar[str | None] = (
        "@article{malitsky2020forward, title={A forward-backward splitting method for monotone "
        "inclusions without cocoercivity}, author={Malitsky, Yura and Tam, Matthew K.}, "
        "journal={SIAM Journal on Optimization}, volume={30}, pages={1451--1472}, year={2020}}"
    )
    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **Solver._parameter_constraints, **_STEP,
    }  # fmt: skip
    _factor: ClassVar[float] = 0.45
    _state: ClassVar[type[OperatorState]] = OptimisticState

    def advance(self, problem: Any, state: Any) -> None:
        """Do one iteration; see :class:`OperatorSolver`."""
        step = problem.dtype.type(self._step(problem))
        before = state.image if state.before is None else state.before
        moved = state.x - step * (2 * state.image - before)
        state.before = state.image
        state.x = self.backward(problem, state, moved, step)


@dataclass
class AnchoredState(OperatorState):
    """State of an anchored method; see :class:`OperatorState`.

    Parameters
    ----------
    element : ndarray or None
        An element of G at the iterate.
    step : float
        The step, where it changes.
    """

    element: Any = None
    step: float = 0.0


class AnchoredExtraGradient(_Forward):
    r"""Extra anchored gradient method (EAG), with constant or varying steps.

    .. math::

        v &= J_{aG}(u + \beta_k (u_0 - u) - a F(u)) \\
        u_+ &= J_{aG}(u + \beta_k (u_0 - u) - a F(v)), \qquad \beta_k = 1 / (k + 2)

    Parameters
    ----------
    variant : {"C", "V"}, default="V"
        "C": constant steps; "V": slowly decreasing ones, which are longer.
    step_size : float or None, default=None
        The (first) step a; ``None``: ``1 / (8 lipschitz)`` for "C", ``0.618 / lipschitz`` for
        "V", where it must be below ``3 / (4 lipschitz)``.
    restart : {"adaptive"} or None, default=None
        "adaptive": move the anchor to the iterate when the residual has dropped enough; see
        :class:`~lowrank_opt.monotone.Halpern`.
    tol : float, default=1e-6
        Stops when the certificate's residual is at most `tol`, as for :class:`ExtraGradient`.
    max_iter : int, default=100_000
        Limit on iterations.
    max_time : float or None, default=None
        Limit on seconds.
    check_every : int or "auto", default="auto"
        Iterations between two checks of limits and callback.
    n_threads : int or None, default=None
        Limit on threads.

    See Also
    --------
    FastExtraGradient : Longer steps and a better constant.

    Notes
    -----
    Guarantee for G = 0 and no restarts: ``‖F(u_k)‖² <= C L² D² / (k + 1)²``, with C = 260 for "C"
    and the default step, and C = 27 for "V" [1]_; D is the distance from start to solution.

    Cost of an iteration: as of :class:`ExtraGradient`.

    References
    ----------
    .. [1] T. Yoon, E. K. Ryu, "Accelerated algorithms for smooth convex-concave minimax problems
       with O(1/k^2) rate on squared gradient norm", ICML 2021. :arxiv:`2102.07922`

    Examples
    --------
    >>> import numpy as np
    >>> from lowrank_opt.monotone import AnchoredExtraGradient, MonotoneInclusion
    >>> rotation = MonotoneInclusion(([[0.0, 1.0], [-1.0, 0.0]], [0.0, 0.0]), np.ones(2))
    >>> AnchoredExtraGradient(tol=1e-3).solve(rotation).status.name
    'CONVERGED'
    """

    citation: ClassVar[str | None] = (
        "@inproceedings{yoon2021accelerated, title={Accelerated algorithms for smooth "
        "convex-concave minimax problems with {O}(1/k^2) rate on squared gradient norm}, "
        "author={Yoon, TaeHo and Ryu, Ernest K.}, booktitle={ICML}, year={2021}}"
    )
    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **Solver._parameter_constraints, **_STEP, **_RESTART,
        "variant": [StrOptions({"C", "V"})],
    }  # fmt: skip
    _state: ClassVar[type[OperatorState]] = AnchoredState

    def __init__(
        self,
        *,
        variant: str = "V",
        step_size: float | None = None,
        restart: str | None = None,
        tol: float = 1e-6,
        max_iter: int = 100_000,
        max_time: float | None = None,
        check_every: int | str = "auto",
        n_threads: int | None = None,
    ) -> None:
        self.variant = variant
        self.step_size = step_size
        self.restart = restart
        self.tol = tol
        self.max_iter = max_iter
        self.max_time = max_time
        self.check_every = check_every
        self.n_threads = n_threads

    def advance(self, problem: Any, state: Any) -> None:
        """Do one iteration; see :class:`OperatorSolver`."""
        L, k, number = problem.lipschitz, state.inner, problem.dtype.type
        if k == 0:
            first = (0.125 if self.variant == "C" else 0.618) / L
            state.step = first if self.step_size is None else self.step_size
        step, beta = number(state.step), number(1.0 / (k + 2))
        pulled = state.x + beta * (state.anchor - state.x)
        v = self.backward(problem, state, pulled - step * state.image, step)
        state.x = self.backward(problem, state, pulled - step * self.value(problem, state, v), step)
        if self.variant == "V":
            square = (state.step * L) ** 2
            shrink = 1.0 - square / ((1.0 - square) * (k + 1) * (k + 3)) if square < 1 else 1.0
            state.step *= shrink
        state.inner += 1

    def look(self, problem: Any, state: Any) -> None:
        """Measure, and restart when due; see :class:`OperatorSolver`."""
        super().look(problem, state)
        if self.restart is not None and due(state, state.residual):
            state.anchor = state.x.copy()


class FastExtraGradient(_Forward):
    r"""Fast extragradient method (FEG), anchored, with an element of G carried along.

    .. math::

        v &= u + \beta_k (u_0 - u) - (1 - \beta_k)\, (F(u) + g) / L \\
        u_+ &= J_{G / L}(u + \beta_k (u_0 - u) - F(v) / L), \qquad \beta_k = 1 / (k + 1)

    where g is the element of G at u that the last resolvent found.

    Parameters
    ----------
    step_size : float or None, default=None
        In place of 1 / L; ``None``: ``1 / problem.lipschitz``.
    restart : {"adaptive"} or None, default=None
        "adaptive": move the anchor to the iterate when ‖F(u) + g‖ has dropped enough; see
        :class:`~lowrank_opt.monotone.Halpern`. Without the guarantee, but usually much faster:
        linearly on games.
    tol : float, default=1e-6
        Stops when the certificate's residual is at most `tol`, as for :class:`ExtraGradient`.
    max_iter : int, default=100_000
        Limit on iterations.
    max_time : float or None, default=None
        Limit on seconds.
    check_every : int or "auto", default="auto"
        Iterations between two checks of limits and callback.
    n_threads : int or None, default=None
        Limit on threads.

    See Also
    --------
    Halpern : For cocoercive operators and nonexpansive maps: one evaluation an iteration.

    Notes
    -----
    Guarantee for no restarts: ``‖F(u_k) + g_k‖ <= 2 L D / k``, D the distance from the start to a
    solution [1]_; the form with g is that of [2]_.

    Cost of an iteration: two evaluations of F and one resolvent; for an inclusion with a prox, a
    second one measures.

    References
    ----------
    .. [1] S. Lee, D. Kim, "Fast extra gradient methods for smooth structured
       nonconvex-nonconcave minimax problems", NeurIPS 2021. :arxiv:`2106.02326`
    .. [2] Y. Cai, A. Oikonomou, W. Zheng, "Accelerated algorithms for monotone inclusions and
       constrained nonconvex-nonconcave min-max optimization", 2022. :arxiv:`2206.05248`

    Examples
    --------
    >>> import numpy as np
    >>> from lowrank_opt.monotone import FastExtraGradient, MonotoneInclusion
    >>> rotation = MonotoneInclusion(([[0.0, 1.0], [-1.0, 0.0]], [0.0, 0.0]), np.ones(2))
    >>> FastExtraGradient(restart="adaptive").solve(rotation).status.name
    'CONVERGED'
    """

    citation: ClassVar[str | None] = (
        "@inproceedings{lee2021fast, title={Fast extra gradient methods for smooth structured "
        "nonconvex-nonconcave minimax problems}, author={Lee, Sucheol and Kim, Donghwan}, "
        "booktitle={NeurIPS}, year={2021}}"
    )
    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **Solver._parameter_constraints, **_STEP, **_RESTART,
    }  # fmt: skip
    _state: ClassVar[type[OperatorState]] = AnchoredState

    def __init__(
        self,
        *,
        step_size: float | None = None,
        restart: str | None = None,
        tol: float = 1e-6,
        max_iter: int = 100_000,
        max_time: float | None = None,
        check_every: int | str = "auto",
        n_threads: int | None = None,
    ) -> None:
        self.step_size = step_size
        self.restart = restart
        self.tol = tol
        self.max_iter = max_iter
        self.max_time = max_time
        self.check_every = check_every
        self.n_threads = n_threads

    def advance(self, problem: Any, state: Any) -> None:
        """Do one iteration; see :class:`OperatorSolver`."""
        step, number = self._step(problem), problem.dtype.type
        if state.element is None:  # a start in the domain of G, with an element of G there
            start = state.x
            state.x = self.backward(problem, state, start, step)
            state.element = (start - state.x) / number(step)
            state.anchor = state.x.copy()
            if state.element.any():
                state.image = self.value(problem, state, state.x)
        beta = 1.0 / (state.inner + 1)
        pulled = state.x + number(beta) * (state.anchor - state.x)
        v = pulled - number((1.0 - beta) * step) * (state.image + state.element)
        moved = pulled - number(step) * self.value(problem, state, v)
        state.x = self.backward(problem, state, moved, step)
        state.element = (moved - state.x) / number(step)
        state.inner += 1

    def look(self, problem: Any, state: Any) -> None:
        """Measure, and restart when due; see :class:`OperatorSolver`."""
        super().look(problem, state)
        if self.restart is not None and state.element is not None:
            error = float(np.linalg.norm(state.image + state.element))
            if due(state, error):
                state.anchor = state.x.copy()
