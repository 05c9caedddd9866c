"""The solver of sparsity-constrained transport: one interface, several methods."""

from __future__ import annotations

import importlib
import time
import warnings
from dataclasses import dataclass
from numbers import Integral
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from lowrank_opt.core.errors import AccuracyWarning
from lowrank_opt.core.params import COUNT, TOLERANCE, Interval, StrOptions
from lowrank_opt.core.protocols import HasTransport
from lowrank_opt.core.solver import CERTIFICATE_FACTOR, Solver
from lowrank_opt.core.state import State, Status
from lowrank_opt.transport.costs import DenseCost
from lowrank_opt.transport.feasibility import overcharged

if TYPE_CHECKING:
    from lowrank_opt.transport.plan import TransportPlan

__all__ = ["SparsityConstrainedOT", "TransportState"]

# Which module does a method; each has check(solver, canonical), init(solver, canonical, start)
# and step(solver, canonical, state).
_ENGINES = {
    "ssnal": "lowrank_opt.transport.ssnal",
    "ssn": "lowrank_opt.transport.ssnal",
    "lbfgs": "lowrank_opt.transport.first_order",
    "adam": "lowrank_opt.transport.first_order",
    "sgd": "lowrank_opt.transport.first_order",
    "bcd": "lowrank_opt.transport.first_order",
}
# Masses are taken for balanced up to this part, so that a smaller one missing proves nothing.
_BALANCE = 2e-5


@dataclass
class TransportState(State):
    """State of all methods; each derives its own.

    Parameters
    ----------
    alpha : ndarray of float64, of shape (m,)
        Potentials of the sources (of the canonical problem).
    tau : ndarray of float64, of shape (n,)
        Thresholds of the columns at `alpha`: minus the potentials of the targets.
    indptr, indices, values : ndarray
        The relaxed plan at this iterate, by columns, indices ascending.
    stalled : str
        Why no progress can be expected any more; empty while it can.
    missing : float
        Mass that cannot be served, if the problem was proved to be infeasible; otherwise 0.
    best : tuple or None
        ``(alpha, tau, indptr, indices, values)`` of the smallest residual so far.
    """

    alpha: Any = None
    tau: Any = None
    indptr: Any = None
    indices: Any = None
    values: Any = None
    stalled: str = ""
    missing: float = 0.0

    def keep_best(self) -> None:
        """Remember this iterate if no earlier one has a smaller residual."""
        if self.residual < self.best_residual:
            parts = (self.alpha, self.tau, self.indptr, self.indices, self.values)
            self.best = tuple(part.copy() for part in parts)
            self.best_residual = float(self.residual)


class SparsityConstrainedOT(Solver):
    r"""Sparsity-constrained (and quadratically regularised) optimal transport.

    Solves the convex relaxation of :class:`~lowrank_opt.transport.TransportProblem` through its
    semi-dual

    .. math:: \max_\alpha\; a^\top \alpha - \sum_j \psi_j(\alpha), \qquad
        \psi_j(\alpha) = \max_{t \ge 0,\, 1^\top t = b_j,\, \|t\|_0 \le k}
        (\alpha - c_j)^\top t - \tfrac\gamma2 \|t\|^2,

    and turns the relaxed plan into one with at most k nonzeros in every column. Every answer
    comes with a proved lower bound on the value of all such plans.

    The semi-dual has kinks where the k-th and the next score of a column tie, and for small k
    the maximum lies on them: gradient methods stop there with wrong marginals. The default is a
    proximal point method on the relaxed plan, in which the tied entries come out as fractions,
    with a semismooth Newton method inside. It serves every cap: without one it solves
    quadratically regularised transport, with ``gamma=0`` plain transport.

    Parameters
    ----------
    method : {"auto", "ssnal", "ssn", "lbfgs", "adam", "sgd", "bcd"}, default="auto"
        "ssnal": proximal point and semismooth Newton steps, exact; "auto" is the same. "ssn": the
        same for problems without a cap. "lbfgs", "adam", "sgd": first-order methods on the
        (semi-)dual; where they get stuck on a kink the status is ``STALLED``. "bcd": nonlinear
        Gauss-Seidel on the dual, without a cap.
    formulation : {"semidual", "dual"}, default="semidual"
        What "lbfgs" and "adam" maximise: the semi-dual, in which columns are exact at every
        iterate, or the dual in both potentials.
    rounding : {"qp", "columns", "none"}, default="qp"
        How to make the relaxed plan sparse when it is not. "qp": a feasible plan on a support of
        at most k entries a column, with the best values on it. "columns": keep the sums of the
        columns and the cap exactly and let those of the rows be off, as routing does. "none":
        return the relaxed plan.
    start : {"auto", "nested", "emd", "zero"}, default="auto"
        Start of "ssnal" without `x0`. "nested": solve random samples of growing size first.
        "emd": plan and potentials of plain transport from the optional package POT. "zero": none.
        "auto": "nested"; for ``max_nnz=1`` and ``gamma=0``, where the plan of POT is optimal
        already, "emd", if POT is installed and costs are a matrix of at most 25 million pairs
        (`max_time` does not interrupt it).
    screening : bool, default=True
        Whether to keep lists of the entries that can matter, instead of reading all costs at
        every evaluation. The lists are exact: they change the time, not the answer.
    history_size : int, default=10
        Pairs that "lbfgs" remembers.
    step_size : float or None, default=None
        Step of "adam" (``None``: 0.01) or "sgd" (``None``: one over the Lipschitz constant).
    batch_size : int or None, default=None
        Columns that "sgd" draws for a step; ``None``: 256, or all if there are fewer.
    tol : float, default=1e-6
        Stops when the residual is at most `tol`: the largest of the sums of absolute marginal
        errors of the relaxed plan, relative to the total mass, and of its Lagrangian gap,
        relative to what costs and quadratic term make of a plan, see
        :class:`~lowrank_opt.transport.TransportProblem`.
    max_iter : int, default=500
        Limit on iterations: proximal steps of "ssnal" (each with up to 60 Newton steps, which
        ``counts`` tells), gradient steps of the others.
    max_time : float or None, default=None
        Limit on seconds; also ends a proximal step early.
    check_every : int or "auto", default=1
        Iterations between two checks of limits and callback.
    n_threads : int or None, default=1
        Threads that evaluate columns; ``None``: all that numba may use.
    random_state : int, Generator or None, default=0
        Seed of the samples of the nested start and of the batches of "sgd".

    Notes
    -----
    ``Result.x`` is a :class:`~lowrank_opt.transport.TransportPlan`. Further fields of the result:
    ``alpha`` and ``beta`` (potentials), ``value`` of the plan, ``dual_value`` (a lower bound on
    the value of every feasible plan with the cap), ``gap`` between them (NaN for plans without
    the cap or the marginals), ``relaxed_value``,
    ``lagrangian_gap``, ``row_residual`` and ``col_residual`` of the plan, ``max_nnz``, and
    ``plan_status``:

    ============  ==================================================================
    "optimal"     cap and marginals hold, and the gap is within ten times the tolerance: no
                  plan is better by more
    "feasible"    cap and marginals hold; the gap says how much better a plan might be
    "columns"     the cap holds, the marginals only on the capped side
    "relaxed"     the marginals hold, the cap does not: no sparse plan was found or asked
    "none"        not converged: neither
    "infeasible"  there is no plan: ``dual_value`` is above what any plan can cost
    ============  ==================================================================

    The status ``CONVERGED`` means that the relaxed problem is solved to `tol`; ``INFEASIBLE``
    that the allowed pairs cannot carry the masses. To decide whether
    a feasible plan with the cap exists is NP-hard; where rounding finds none, an
    `AccuracyWarning` says so and the relaxed plan is returned.

    Cost per evaluation of the semi-dual: one pass over the costs, or over the lists. A Newton
    step solves a sparse system with one unknown a source. Memory beyond the costs:
    ``O(m + n (k + list))``.

    Guarantee: the relaxed problem is convex; the proximal point method converges to a solution.
    No guarantee is known for the gap of the rounded plan; it is computed.

    References
    ----------
    .. [1] T. Liu, J. Puigcerver, M. Blondel, "Sparsity-Constrained Optimal Transport", ICLR 2023.
       :arxiv:`2209.15466`
    .. [2] M. Blondel, V. Seguy, A. Rolet, "Smooth and Sparse Optimal Transport", AISTATS 2018.
       :arxiv:`1710.06276`
    .. [3] D. Lorenz, P. Manns, C. Meyer, "Quadratically Regularized Optimal Transport", Applied
       Mathematics and Optimization 83, 2021. :arxiv:`1903.01112`

    Examples
    --------
    >>> import numpy as np
    >>> from lowrank_opt.transport import SparsityConstrainedOT, TransportProblem
    >>> x = np.linspace(0.0, 1.0, 6)
    >>> C = (x[:, None] - x) ** 2
    >>> result = SparsityConstrainedOT().solve(TransportProblem(C=C, max_nnz=2, gamma=0.1))
    >>> result.status.name, result.plan_status, int(result.x.counts().max())
    ('CONVERGED', 'optimal', 1)
    """

    requires: ClassVar[tuple[type, ...]] = (HasTransport,)
    monotone: ClassVar[bool] = False
    blas_threads: ClassVar[int | None] = 1
    citation: ClassVar[str | None] = (
        "@inproceedings{liu2023sparsity, title={Sparsity-Constrained Optimal Transport}, "
        "author={Liu, Tianlin and Puigcerver, Joan and Blondel, Mathieu}, "
        "booktitle={International Conference on Learning Representations}, year={2023}}"
    )
    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **Solver._parameter_constraints,
        "method": [StrOptions({"auto", *_ENGINES})],
        "formulation": [StrOptions({"semidual", "dual"})],
        "rounding": [StrOptions({"qp", "columns", "none"})],
        "start": [StrOptions({"auto", "nested", "emd", "zero"})],
        "screening": ["boolean"],
        "history_size": [COUNT],
        "step_size": [None, TOLERANCE],
        "batch_size": [None, Interval(Integral, 1, None, closed="left")],
    }

    def __init__(
        self,
        *,
        method: str = "auto",
        formulation: str = "semidual",
        rounding: str = "qp",
        start: str = "auto",
        screening: bool = True,
        history_size: int = 10,
        step_size: float | None = None,
        batch_size: int | None = None,
        tol: float = 1e-6,
        max_iter: int = 500,
        max_time: float | None = None,
        check_every: int | str = 1,
        n_threads: int | None = 1,
        random_state: Any = 0,
    ) -> None:
        self.method = method
        self.formulation = formulation
        self.rounding = rounding
        self.start = start
        self.screening = screening
        self.history_size = history_size
        self.step_size = step_size
        self.batch_size = batch_size
        self.tol = tol
        self.max_iter = max_iter
        self.max_time = max_time
        self.check_every = check_every
        self.n_threads = n_threads
        self.random_state = random_state

    def _engine(self) -> Any:
        name = "ssnal" if self.method == "auto" else self.method
        return importlib.import_module(_ENGINES[name])

    def check_method(self, canonical: Any) -> None:
        """Raise if the method is not for a problem; without solving it.

        Parameters
        ----------
        canonical : Canonical
            The problem, see ``TransportProblem.canonical``.

        Raises
        ------
        ParameterError
            Such as a cap for a method that takes none.
        """
        self._engine().check(self, canonical)

    def init(self, problem: Any, x0: Any = None) -> TransportState:
        """Return the first state; see :class:`Solver`."""
        state: TransportState = self._engine().init(self, problem.canonical, problem.start(x0))
        state.keep_best()
        return state

    def step(self, problem: Any, state: Any, n: int = 1) -> TransportState:
        """Do `n` iterations; see :class:`Solver`."""
        for _ in range(n):
            state = self._engine().step(self, problem.canonical, state)
            state.keep_best()
            if state.stalled and not state.missing:
                self._look_for_proof(problem, state)
            state.message = state.stalled[:1].upper() + state.stalled[1:]
            if self.terminate(problem, state) is not None:
                break
        return state

    def _look_for_proof(self, problem: Any, state: Any) -> None:
        """If the problem has no plan, move the potentials to where their bound shows it."""
        from lowrank_opt.transport.oracle import SemidualOracle

        view = problem.canonical
        found = overcharged(view, state.alpha, max(_BALANCE, CERTIFICATE_FACTOR * self.tol))
        if found is None:
            return
        sources, missing = found
        cost = view.cost.C if isinstance(view.cost, DenseCost) else view.cost.data
        cost = cost[np.isfinite(cost)]
        # No plan is worse than all mass at the largest cost, in one entry a column.
        worst = float(cost.max()) + 0.5 * view.gamma * float(view.b @ view.b)
        goal = worst + float(np.ptp(cost)) + 1.0
        oracle = SemidualOracle(view, screening=False)
        rise = goal - oracle.evaluate(state.alpha).value
        alpha = state.alpha - np.where(sources, max(rise, 0.0) / missing, 0.0)
        moved = oracle.evaluate(alpha)
        plan = (state.indptr, state.indices, state.values)
        lifted = problem.lift(alpha, plan, moved.tau)
        bound = problem.dual_value(lifted.alpha if problem.axis == 0 else lifted.beta)
        if bound > worst * view.mass:
            state.alpha, state.tau, state.missing = alpha, moved.tau, missing
            state.stalled = f"the allowed pairs leave {missing * view.mass:.3g} of mass unserved"

    def terminate(self, problem: Any, state: Any) -> Status | None:
        """Return why to stop: ``STALLED`` without progress, ``INFEASIBLE`` with a proof of it."""
        status = super().terminate(problem, state)
        if status is not None or not state.stalled:
            return status
        return Status.INFEASIBLE if state.missing else Status.STALLED

    def point(self, problem: Any, state: Any) -> TransportPlan:
        """Return the relaxed plan and the potentials."""
        plan: TransportPlan = problem.lift(
            state.alpha, (state.indptr, state.indices, state.values), state.tau
        )
        return plan

    def answer(self, problem: Any, state: Any, status: Status) -> tuple[Any, float]:
        """Return the plan that `rounding` makes of the best relaxed plan.

        "qp" needs a converged one; "columns" takes any.
        """
        if status in (Status.CONVERGED, Status.INFEASIBLE) or state.best is None:
            alpha, tau, residual = state.alpha, state.tau, state.residual
            plan = (state.indptr, state.indices, state.values)
        else:
            alpha, tau, *parts = state.best
            plan, residual = tuple(parts), state.best_residual
        relaxed = problem.lift(alpha, plan, tau)
        above = relaxed.counts(axis=problem.axis).max() > problem.cap
        wanted = status is Status.CONVERGED or self.rounding == "columns"
        if self.rounding == "none" or not wanted or not above:
            return relaxed, residual
        return self._rounded(problem, state, alpha, tau, plan, relaxed), residual

    def _rounded(
        self, problem: Any, state: Any, alpha: Any, tau: Any, plan: Any, relaxed: TransportPlan
    ) -> TransportPlan:
        from lowrank_opt.transport.rounding import round_plan

        deadline = None
        if self.max_time is not None:
            deadline = time.perf_counter() + max(0.0, self.max_time - state.time)
        found = round_plan(
            problem.canonical, alpha, tau, plan, mode=self.rounding, tol=self.tol,
            deadline=deadline,
        )  # fmt: skip
        if deadline is not None and time.perf_counter() >= deadline:
            warnings.warn(
                f"SparsityConstrainedOT: max_time={self.max_time:g} ended the rounding; more time "
                "may give a smaller gap",
                AccuracyWarning,
                stacklevel=5,
            )
        if not found.feasible:
            warnings.warn(
                f"SparsityConstrainedOT: no plan with at most {problem.cap} nonzeros a "
                f"{'column' if problem.axis == 0 else 'row'} was found, the relaxed plan is "
                "returned: raise max_nnz, or take rounding='columns' or 'none'",
                AccuracyWarning,
                stacklevel=5,
            )
            return relaxed
        rounded = problem.lift(alpha, (found.indptr, found.indices, found.values), tau)
        return rounded.with_potentials(rounded.alpha, rounded.beta, relaxed)

    def fields(self, problem: Any, state: Any, x: Any, certificate: Any) -> dict[str, Any]:
        """Return potentials, values and residuals as fields of the result."""
        grades = certificate.details
        status = self._plan_status(problem, state, certificate)
        known = status in ("optimal", "feasible")
        return {
            "plan_status": status,
            "alpha": x.alpha,
            "beta": x.beta,
            "value": certificate.objective,
            "gap": certificate.gap if known else float("nan"),
            "max_nnz": int(grades["max_nnz"]),
            **{
                name: grades[name]
                for name in (
                    "dual_value", "relaxed_value", "lagrangian_gap", "row_residual",
                    "col_residual",
                )
            },
        }  # fmt: skip

    def _plan_status(self, problem: Any, state: Any, certificate: Any) -> str:
        grades = certificate.details
        if state.missing:
            return "infeasible"
        tol = CERTIFICATE_FACTOR * self.tol
        sparse = grades["max_nnz"] <= problem.cap
        row, col = ("row", "col") if problem.axis == 0 else ("col", "row")
        rows = problem.row_kind in ("l2", "kl") or grades[f"{row}_residual"] <= tol
        if not (grades[f"{col}_residual"] <= tol and np.isfinite(certificate.gap)):
            return "none"
        if sparse and rows:
            certain = certificate.residual <= tol
            small = certain and certificate.gap <= tol * grades["scale"]
            return "optimal" if small else "feasible"
        if sparse:
            return "columns"
        return "relaxed" if rows else "none"

    def duals(self, problem: Any, state: Any) -> dict[str, np.ndarray]:
        """Return the potentials of the last iterate."""
        x = self.point(problem, state)
        return {"alpha": x.alpha, "beta": x.beta}
