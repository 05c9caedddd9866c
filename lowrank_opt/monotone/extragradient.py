"""Extragradient methods for monotone, Lipschitz operators, anchored and not."""

from __future__ import annotations

from numbers import Real
from typing import Any, ClassVar

import numpy as np

from lowrank_opt.core.params import Interval, StrOptions
from lowrank_opt.core.protocols import HasMonotoneOperator, HasResolvent
from lowrank_opt.monotone.halpern import restart_due
from lowrank_opt.monotone.operator_solver import OperatorSolver

__all__ = ["AnchoredExtraGradient", "ExtraGradient", "FastExtraGradient", "OptimisticGradient"]


class _GradientSolver(OperatorSolver):
    """Base of the methods that evaluate F and the resolvent of G at most twice an iteration."""

    requires = (HasMonotoneOperator, HasResolvent)
    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "step_size": [None, Interval(Real, 0, None, closed="neither")],
    }
    default_step: ClassVar[float] = 1.0

    def __init__(
        self,
        *,
        step_size: float | None = None,
        tol: float = 1e-6,
        max_iter: int = 100_000,
        max_time: float | None = None,
        check_every: int | str = 10,
    ) -> None:
        self.step_size = step_size
        self.tol = tol
        self.max_iter = max_iter
        self.max_time = max_time
        self.check_every = check_every

    @classmethod
    def accepts(cls, problem: Any) -> list[str]:
        """Problems that know a Lipschitz constant and turn points into flat arrays."""
        names = ("lipschitz", "flat", "shaped", "start", "measure")
        return [name for name in names if not hasattr(problem, name)]

    def size_of_step(self, problem: Any) -> float:
        """Return the step.

        Parameters
        ----------
        problem : Problem
            Has ``lipschitz``.
        """
        return float(self.step_size or self.default_step / problem.lipschitz)


class ExtraGradient(_GradientSolver):
    r"""Extragradient method (Korpelevich).

    .. math:: v = J(u_k - \gamma F(u_k)),\qquad u_{k+1} = J(u_k - \gamma F(v)),

    J being the resolvent of :math:`\gamma G`. For :math:`\gamma < 1/L` it converges for every
    monotone F; the residual of the last iterate is :math:`O(1/\sqrt{k})`.

    Parameters
    ----------
    step_size : float or None, default=None
        :math:`\gamma`; ``None``: 0.99 / lipschitz. Larger ones are allowed, for published settings,
        and have no guarantee.
    tol : float, default=1e-6
        Limit on the certificate's residual.
    max_iter : int, default=100000
        Limit on iterations.
    max_time : float or None, default=None
        Limit on seconds.
    check_every : int or "auto", default=10
        Iterations between two checks.

    See Also
    --------
    FastExtraGradient : The same cost, and :math:`O(1/k)` for the last iterate.

    Notes
    -----
    Cost of an iteration: two evaluations of F, two resolvents.

    References
    ----------
    .. [1] G. M. Korpelevich, "The extragradient method for finding saddle points and other
       problems", Matecon 12, 1976.

    Examples
    --------
    >>> from lowrank_opt.monotone import ExtraGradient, MatrixGame
    >>> result = ExtraGradient(tol=1e-4).solve(MatrixGame([[2.0, 0.0], [0.0, 1.0]]))
    >>> print(round(result.value, 3))
    0.667
    """

    default_step = 0.99

    def iterate_once(self, problem: Any, state: Any) -> None:
        """Look ahead, then step from where one was."""
        step = self.size_of_step(problem)
        ahead = self.resolvent(
            problem, state, state.z - step * self.operator(problem, state, state.z), step
        )
        state.z = self.resolvent(
            problem, state, state.z - step * self.operator(problem, state, ahead), step
        )


class OptimisticGradient(_GradientSolver):
    r"""Optimistic gradient method (forward-reflected-backward splitting).

    .. math:: u_{k+1} = J\bigl(u_k - \gamma (2 F(u_k) - F(u_{k-1}))\bigr)

    with :math:`\gamma < 1/(2L)`: one evaluation of F an iteration.

    Parameters
    ----------
    step_size : float or None, default=None
        :math:`\gamma`; ``None``: 0.49 / lipschitz.
    tol : float, default=1e-6
        Limit on the certificate's residual.
    max_iter : int, default=100000
        Limit on iterations.
    max_time : float or None, default=None
        Limit on seconds.
    check_every : int or "auto", default=10
        Iterations between two checks.

    Notes
    -----
    Cost of an iteration: one evaluation of F, one resolvent.

    References
    ----------
    .. [1] Y. Malitsky, M. K. Tam, "A forward-backward splitting method for monotone inclusions
       without cocoercivity", SIAM Journal on Optimization 30, 2020.

    Examples
    --------
    >>> from lowrank_opt.monotone import MatrixGame, OptimisticGradient
    >>> result = OptimisticGradient(tol=1e-4).solve(MatrixGame([[2.0, 0.0], [0.0, 1.0]]))
    >>> print(round(result.value, 3))
    0.667
    """

    default_step = 0.49

    def begin(self, problem: Any, state: Any) -> None:
        """Evaluate F at the start."""
        super().begin(problem, state)
        state.memory["before"] = np.array(self.operator(problem, state, state.z))

    def iterate_once(self, problem: Any, state: Any) -> None:
        """Step along twice the operator minus the last one."""
        step = self.size_of_step(problem)
        now = np.array(self.operator(problem, state, state.z))
        moved = state.z - step * (2.0 * now - state.memory["before"])
        state.memory["before"] = now
        state.z = self.resolvent(problem, state, moved, step)


class AnchoredExtraGradient(_GradientSolver):
    r"""Extragradient method with an anchor (EAG).

    With :math:`\beta_k = 1/(k+2)`

    .. math:: v = J\bigl(u_k + \beta_k(u_0 - u_k) - a_k F(u_k)\bigr),\qquad
        u_{k+1} = J\bigl(u_k + \beta_k(u_0 - u_k) - a_k F(v)\bigr).

    Without G, :math:`\|F(u_k)\| = O(L D / k)` for the last iterate [1]_.

    Parameters
    ----------
    variant : {"varying", "constant"}, default="varying"
        ``"constant"``: :math:`a_k` is 1/(8L). ``"varying"``: it begins at 0.618 / L and follows
        :math:`a_{k+1} = a_k \bigl(1 - \frac{1}{(k+1)(k+3)} \frac{a_k^2 L^2}{1 - a_k^2
        L^2}\bigr)`, which stays above zero and allows larger steps.
    step_size : float or None, default=None
        :math:`a_0` instead.
    tol : float, default=1e-6
        Limit on the certificate's residual.
    max_iter : int, default=100000
        Limit on iterations.
    max_time : float or None, default=None
        Limit on seconds.
    check_every : int or "auto", default=10
        Iterations between two checks.

    Notes
    -----
    Cost of an iteration: two evaluations of F, two resolvents. The guarantee is for G = 0; with a
    projection the method is the one of the experiments in the literature.

    References
    ----------
    .. [1] T. Yoon, E. K. Ryu, "Accelerated algorithms for smooth convex-concave minimax problems
       with O(1/k^2) rate on squared gradient norm", ICML 2021.

    Examples
    --------
    >>> from lowrank_opt.monotone import AnchoredExtraGradient, MatrixGame
    >>> result = AnchoredExtraGradient(tol=1e-3).solve(MatrixGame([[2.0, 0.0], [0.0, 1.0]]))
    >>> print(round(result.value, 2))
    0.67
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "variant": [StrOptions({"constant", "varying"})],
    }

    def __init__(
        self,
        *,
        variant: str = "varying",
        step_size: float | None = None,
        tol: float = 1e-6,
        max_iter: int = 100_000,
        max_time: float | None = None,
        check_every: int | str = 10,
    ) -> None:
        super().__init__(
            step_size=step_size, tol=tol, max_iter=max_iter, max_time=max_time,
            check_every=check_every,
        )  # fmt: skip
        self.variant = variant

    def begin(self, problem: Any, state: Any) -> None:
        """Set the anchor and the first step."""
        super().begin(problem, state)
        first = 0.125 if self.variant == "constant" else 0.618
        state.memory["step"] = float(self.step_size or first / problem.lipschitz)

    def iterate_once(self, problem: Any, state: Any) -> None:
        """Look ahead and step, both drawn to the anchor."""
        k, step = state.inner, state.memory["step"]
        pulled = state.z + (state.anchor - state.z) / (k + 2.0)
        pulled = pulled.astype(state.z.dtype)
        F = self.operator(problem, state, state.z)
        ahead = self.resolvent(problem, state, pulled - step * F, step)
        F = self.operator(problem, state, ahead)
        state.z = self.resolvent(problem, state, pulled - step * F, step)
        square = (step * problem.lipschitz) ** 2
        if self.variant == "varying" and square < 1.0:
            factor = 1.0 - square / ((k + 1.0) * (k + 3.0) * (1.0 - square))
            state.memory["step"] = step * max(factor, 0.0)


class FastExtraGradient(_GradientSolver):
    r"""Fast extragradient method (FEG), with optional restarts.

    With :math:`\beta_k = 1/(k+1)` and :math:`\gamma = 1/L`

    .. math:: v = J\bigl(u_k + \beta_k(u_0 - u_k) - (1 - \beta_k)\gamma F(u_k)\bigr),\qquad
        u_{k+1} = J\bigl(u_k + \beta_k(u_0 - u_k) - \gamma F(v)\bigr).

    Without G, :math:`\|F(u_k)\| \le 2 L D / k` for every monotone, L-Lipschitz F [1]_.

    Parameters
    ----------
    restart : {"adaptive"} or None, default="adaptive"
        ``"adaptive"``: the anchor moves to the iterate when the residual has fallen to a fifth, to
        a half and rises again, or when the epoch is 0.36 of the run: linear convergence on games
        and other problems whose residual grows with the distance to the solutions. ``None``: it
        stays.
    step_size : float or None, default=None
        :math:`\gamma`; ``None``: 1 / lipschitz.
    tol : float, default=1e-6
        Limit on the certificate's residual.
    max_iter : int, default=100000
        Limit on iterations.
    max_time : float or None, default=None
        Limit on seconds.
    check_every : int or "auto", default=10
        Iterations between two checks.

    Notes
    -----
    Cost of an iteration: two evaluations of F, two resolvents. The bound is for G = 0.

    References
    ----------
    .. [1] S. Lee, D. Kim, "Fast extra gradient methods for smooth structured nonconvex-nonconcave
       minimax problems", NeurIPS 2021.

    Examples
    --------
    >>> from lowrank_opt.monotone import FastExtraGradient, MatrixGame
    >>> result = FastExtraGradient().solve(MatrixGame([[2.0, 0.0], [0.0, 1.0]]))
    >>> print(round(result.value, 5))
    0.66667
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "restart": [None, StrOptions({"adaptive"})],
    }

    def __init__(
        self,
        *,
        restart: str | None = "adaptive",
        step_size: float | None = None,
        tol: float = 1e-6,
        max_iter: int = 100_000,
        max_time: float | None = None,
        check_every: int | str = 10,
    ) -> None:
        super().__init__(
            step_size=step_size, tol=tol, max_iter=max_iter, max_time=max_time,
            check_every=check_every,
        )  # fmt: skip
        self.restart = restart

    def iterate_once(self, problem: Any, state: Any) -> None:
        """Look ahead and step, both drawn to the anchor."""
        step = self.size_of_step(problem)
        beta = 1.0 / (state.inner + 1.0)
        F = self.operator(problem, state, state.z)
        pulled = (state.z + beta * (state.anchor - state.z)).astype(state.z.dtype)
        ahead = self.resolvent(problem, state, pulled - (1.0 - beta) * step * F, step)
        moved = self.resolvent(
            problem, state, pulled - step * self.operator(problem, state, ahead), step
        )
        # How far the look ahead and the step differ from where one was: free.
        if self.restart is not None and restart_due(state, float(np.linalg.norm(moved - state.z))):
            state.anchor, state.inner = moved.copy(), -1
        state.z = moved
