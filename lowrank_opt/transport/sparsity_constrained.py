"""The solver of sparsity-constrained transport: one interface, several methods."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from numbers import Integral
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from lowrank_opt.core.params import COUNT, TOLERANCE, Interval, StrOptions
from lowrank_opt.core.protocols import HasTransport
from lowrank_opt.core.solver import Solver
from lowrank_opt.core.state import State, Status

if TYPE_CHECKING:
    from lowrank_opt.transport.plan import TransportPlan

__all__ = ["SparsityConstrainedOT", "TransportState"]

# Which module does a method; each has init(solver, canonical, start) and
# step(solver, canonical, state, n).
_ENGINES = {
    "ssnal": "lowrank_opt.transport.ssnal",
    "ssn": "lowrank_opt.transport.ssnal",
    "lbfgs": "lowrank_opt.transport.first_order",
    "adam": "lowrank_opt.transport.first_order",
    "sgd": "lowrank_opt.transport.first_order",
    "bcd": "lowrank_opt.transport.first_order",
}


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
    best : tuple or None
        ``(alpha, tau, indptr, indices, values)`` of the smallest residual so far.
    """

    alpha: Any = None
    tau: Any = None
    indptr: Any = None
    indices: Any = None
    values: Any = None
    stalled: str = ""

    def keep_best(self) -> None:
        """Remember this iterate if no earlier one has a smaller residual."""
        if self.residual < self.best_residual:
            parts = (self.alpha, self.tau, self.indptr, self.indices, self.values)
            self.best = tuple(part.copy() for part in parts)
            self.best_residual = float(self.residual)


class SparsityConstrainedOT(Solver):
    """Placeholder docstring; the lead writes it."""

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
            if self.terminate(problem, state) is not None:
                break
        return state

    def terminate(self, problem: Any, state: Any) -> Status | None:
        """Return why to stop; ``STALLED`` when the method says that it cannot go on."""
        status = super().terminate(problem, state)
        return Status.STALLED if status is None and state.stalled else status

    def point(self, problem: Any, state: Any) -> TransportPlan:
        """Return the relaxed plan and the potentials."""
        plan: TransportPlan = problem.lift(
            state.alpha, (state.indptr, state.indices, state.values), state.tau
        )
        return plan

    def answer(self, problem: Any, state: Any, status: Status) -> tuple[Any, float]:
        """Return the plan that `rounding` makes of the best relaxed plan."""
        alpha, tau, *plan = state.best
        residual = state.best_residual
        if status is Status.CONVERGED:
            alpha, tau = state.alpha, state.tau
            plan, residual = [state.indptr, state.indices, state.values], state.residual
        return problem.lift(alpha, tuple(plan), tau), residual

    def fields(self, problem: Any, state: Any, x: Any, certificate: Any) -> dict[str, Any]:
        """Return potentials, values and residuals as fields of the result."""
        grades = certificate.details
        return {
            "alpha": x.alpha,
            "beta": x.beta,
            "value": certificate.objective,
            "gap": certificate.gap,
            **{
                name: grades[name]
                for name in (
                    "dual_value", "relaxed_value", "lagrangian_gap", "row_residual",
                    "col_residual", "max_nnz",
                )
            },
        }  # fmt: skip

    def duals(self, problem: Any, state: Any) -> dict[str, np.ndarray]:
        """Return the potentials of the last iterate."""
        x = self.point(problem, state)
        return {"alpha": x.alpha, "beta": x.beta}
