"""Linear and convex quadratic programs by restarted, reflected Halpern PDHG."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from numbers import Real
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from lowrank_opt.core.params import COUNT, Interval, StrOptions, make_rng
from lowrank_opt.core.protocols import HasLinearConstraints
from lowrank_opt.core.solver import Solver
from lowrank_opt.core.state import State, Status
from lowrank_opt.monotone import pdhg_run
from lowrank_opt.monotone.pdhg_engine import PDHGState
from lowrank_opt.monotone.points import PrimalDual

if TYPE_CHECKING:
    from lowrank_opt.core.problem import Certificate

__all__ = ["HalpernPDHG", "HalpernPDHGState"]


@dataclass
class HalpernPDHGState(State):
    """State of a run; see :class:`~lowrank_opt.core.State`.

    Parameters
    ----------
    engine : PDHGState or None
        The iterations, in scaled units of the presolved or of the original program.
    phase : str
        "presolved", "original", or "closed" for programs that need no iterations.
    single : bool
        Whether the iterations run in float32.
    seed : int
        Of everything random.
    goal : float
        Tolerance on the presolved program: lower than `tol` once the way back has cost accuracy.
    outcome : str
        "infeasible" or "unbounded" once that is proved.
    ray : ndarray or None
        The proof, in the program's own units.
    tried_nit, tried_residual, tried_work : int, float, float
        Iteration and residual of the last try of the finish, and about the seconds of all.
    log : list of tuple
        Rows of the iteration log.
    """

    engine: PDHGState | None = None
    phase: str = "original"
    single: bool = False
    seed: int = 0
    goal: float = 0.0
    outcome: str = ""
    ray: Any = None
    tried_nit: int = 0
    tried_residual: float = math.inf
    tried_work: float = 0.0
    log: list[Any] = field(default_factory=list)


class HalpernPDHG(Solver):
    r"""Restarted, reflected Halpern iteration of the primal-dual hybrid gradient method.

    Solves linear and convex quadratic programs

    .. math::

        \min_x\; \tfrac12 x^\top Q x + c^\top x
        \quad\text{subject to}\quad l_c \le A x \le u_c,\quad l \le x \le u

    with two products of `A` with vectors an iteration and no factorisation of it. With T the
    map of primal-dual hybrid gradient, nonexpansive in its own norm, an epoch iterates

    .. math::

        z_{k+1} = \tfrac{k+1}{k+2}\,\bigl((1 - g)\, z_k + g\,(2 T(z_k) - z_k)\bigr)
        + \tfrac{1}{k+2}\, z_0

    and ends in a restart from T(z) when the fixed-point error has dropped.

    Parameters
    ----------
    reflect : float in (0, 1], default=1.0
        The number g. 1: fully reflected; 0.5: plain Halpern PDHG. With a quadratic term at most
        0.75 is used, up to which the map is nonexpansive.
    weight : {"hpr", "pid", "fixed"}, default="hpr"
        Rule for the weight between primal and dual moves, applied at restarts: that of HPR-LP,
        the controller of cuPDLPx, or 1 throughout.
    step_size : {"restricted", "constant"}, default="restricted"
        "restricted": the step that the norm of the constraints on the active face allows, up to
        30 times the "constant" one, with a guard that takes it back when the fixed-point error
        grows.
    restart : {"adaptive"} or None, default="adaptive"
        ``None``: one epoch, with the guarantee of the plain iteration.
    presolve : bool, default=True
        Whether to simplify linear programs first. Answers are measured on the given program.
    finish : bool, default=True
        Whether to try now and then to solve the equations of the active face; kept only when it
        meets the tolerance.
    polish : bool, default=False
        Whether to end with feasibility polishing: the violations of the constraints, those of the
        reduced costs, or both fall to a thousandth of `tol`, as far as the gap stays within it.
        May take up to `max_time` once more.
    first_phase : {"float32"} or None, default=None
        Start in single precision.
    ruiz_sweeps : int, default=10
        Sweeps of scaling rows and columns by their largest numbers.
    pock_chambolle : bool, default=True
        Whether to scale by sums after that.
    rescale : bool, default=True
        Whether to scale costs and right-hand sides to norm 1.
    infeasibility : bool, default=True
        Whether to look for proofs that the program is infeasible or unbounded.
    log : int or None, default=None
        Keep a row of the iteration log about every so many iterations; see the notes.
    tol : float, default=1e-6
        Stops when the residual of :class:`~lowrank_opt.monotone.LinearProgram` is at most `tol`.
    max_iter : int, default=10_000_000
        Limit on iterations.
    max_time : float or None, default=None
        Limit on seconds.
    check_every : int or "auto", default="auto"
        Iterations between two checks of limits and callback. The residual is computed every 64
        iterations, whatever `check_every`.
    n_threads : int or None, default=None
        Threads of the iterations; ``None``: all that numba may use. Programs of less than 400 000
        nonzeros run in one, and larger ones where the clock says that threads do not pay; the
        bits of the answer do not depend on it.
    random_state : int, Generator or None, default=0
        Seed of the power iterations that estimate norms.

    See Also
    --------
    lowrank_opt.monotone.linprog : With the arguments of SciPy's function.

    Notes
    -----
    ``Result.x`` is a :class:`~lowrank_opt.monotone.PrimalDual`. Further fields: ``y`` and ``z``
    (multipliers of constraints and bounds), ``ray`` (the proof, when the status is ``INFEASIBLE``
    or ``UNBOUNDED``: multipliers for the first, a direction for the second; both are checked on
    the program itself), and ``log``, rows ``(nit, primal, dual, gap, primal objective, dual
    objective, weight, step, restarts)``.

    Cost of an iteration: 4 nnz flops; about ``24 nnz + 8 (8 n + 6 m)`` bytes are read.

    Guarantee: within an epoch with the constant step, the fixed-point error after k iterations is
    at most ``2 D / (k + 1)``, D the distance from the anchor to a solution [1]_; with restarts,
    linear convergence for feasible linear programs [2]_. The restricted step has no guarantee of
    its own: a guard restores the constant one.

    References
    ----------
    .. [1] F. Lieder, "On the convergence rate of the Halpern-iteration", Optimization Letters 15,
       2021.
    .. [2] H. Lu, J. Yang, "Restarted Halpern PDHG for linear programming", 2024.
       :arxiv:`2407.16144`
    .. [3] H. Lu, Z. Peng, J. Yang, "cuPDLPx", 2025. :arxiv:`2507.14051`
    .. [4] K. Chen et al., "HPR-LP", 2024. :arxiv:`2408.12179`

    Examples
    --------
    >>> from lowrank_opt.monotone import HalpernPDHG, LinearProgram
    >>> lp = LinearProgram([-1.0, -2.0], [[1.0, 1.0]], None, [4.0], 0.0, [3.0, 3.0])
    >>> result = HalpernPDHG().solve(lp)
    >>> result.status.name, [round(float(v), 4) for v in result.x.x]
    ('CONVERGED', [1.0, 3.0])
    """

    requires: ClassVar[tuple[type, ...]] = (HasLinearConstraints,)
    monotone: ClassVar[bool] = False
    blas_threads: ClassVar[int | None] = 1
    citation: ClassVar[str | None] = (
        "@article{lu2024restarted, title={Restarted {H}alpern {PDHG} for linear programming}, "
        "author={Lu, Haihao and Yang, Jinwen}, journal={arXiv:2407.16144}, year={2024}}"
    )
    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **Solver._parameter_constraints,
        "reflect": [Interval(Real, 0, 1, closed="right")],
        "weight": [StrOptions({"hpr", "pid", "fixed"})],
        "step_size": [StrOptions({"restricted", "constant"})],
        "restart": [None, StrOptions({"adaptive"})],
        "presolve": ["boolean"],
        "finish": ["boolean"],
        "polish": ["boolean"],
        "first_phase": [None, StrOptions({"float32"})],
        "ruiz_sweeps": [Interval(int, 0, None, closed="left")],
        "pock_chambolle": ["boolean"],
        "rescale": ["boolean"],
        "infeasibility": ["boolean"],
        "log": [None, COUNT],
    }

    def __init__(
        self,
        *,
        reflect: float = 1.0,
        weight: str = "hpr",
        step_size: str = "restricted",
        restart: str | None = "adaptive",
        presolve: bool = True,
        finish: bool = True,
        polish: bool = False,
        first_phase: str | None = None,
        ruiz_sweeps: int = 10,
        pock_chambolle: bool = True,
        rescale: bool = True,
        infeasibility: bool = True,
        log: int | None = None,
        tol: float = 1e-6,
        max_iter: int = 10_000_000,
        max_time: float | None = None,
        check_every: int | str = "auto",
        n_threads: int | None = None,
        random_state: Any = 0,
    ) -> None:
        self.reflect = reflect
        self.weight = weight
        self.step_size = step_size
        self.restart = restart
        self.presolve = presolve
        self.finish = finish
        self.polish = polish
        self.first_phase = first_phase
        self.ruiz_sweeps = ruiz_sweeps
        self.pock_chambolle = pock_chambolle
        self.rescale = rescale
        self.infeasibility = infeasibility
        self.log = log
        self.tol = tol
        self.max_iter = max_iter
        self.max_time = max_time
        self.check_every = check_every
        self.n_threads = n_threads
        self.random_state = random_state

    # -- the driver's methods ---------------------------------------------------------------------

    def init(self, problem: Any, x0: Any = None) -> HalpernPDHGState:
        """Return the first state; see :class:`Solver`."""
        seed = int(make_rng(self.random_state).integers(2**32))
        state = HalpernPDHGState(seed=seed, goal=self.tol)
        pdhg_run.begin(self, problem, state, x0)
        return state

    def step(self, problem: Any, state: Any, n: int = 1) -> HalpernPDHGState:
        """Do up to `n` iterations; see :class:`Solver`."""
        pdhg_run.advance(self, problem, state, n)
        return state

    def check_interval(self, problem: Any) -> int | str:
        """Return about as many iterations as take ten milliseconds, unless they were given."""
        if self.check_every != "auto":
            return self.check_every
        m, n = problem.A.shape
        seconds = 2e-9 * (2 * problem.A.nnz + 4 * (m + n)) + 1e-6
        return max(1, round(1e-2 / seconds))

    def terminate(self, problem: Any, state: Any) -> Status | None:
        """Return why to stop: also a proof that there is no answer."""
        if state.outcome:
            infeasible = state.outcome == "infeasible"
            return Status.INFEASIBLE if infeasible else Status.UNBOUNDED
        return super().terminate(problem, state)

    def point(self, problem: Any, state: Any) -> PrimalDual:
        """Return the best point so far, in the program's own units."""
        return pdhg_run.best_point(self, problem, state)[0]

    def answer(self, problem: Any, state: Any, status: Status) -> tuple[PrimalDual, float]:
        """Return the best point, that of the iterations since the last check included."""
        last = status is not Status.CONVERGED
        point, residual = pdhg_run.best_point(self, problem, state, last=last)
        if not self.polish or state.outcome or not np.isfinite(residual):
            return point, residual
        return pdhg_run.polished(self, problem, state, point, residual)

    def duals(self, problem: Any, state: Any) -> Any:
        """Return the multipliers of the constraints at the best point that was measured."""
        return state.best.y.copy() if np.isfinite(state.best_residual) else None

    def fields(
        self, problem: Any, state: Any, x: Any, certificate: Certificate | None
    ) -> dict[str, Any]:
        """Return multipliers, the ray and the log."""
        gradient = problem.c - problem.A.T @ x.y
        if problem.Q is not None:
            gradient = gradient + problem.Q @ x.x
        wrong = ((gradient > 0) & (problem.lower == -np.inf)) | (
            (gradient < 0) & (problem.upper == np.inf)
        )
        return {
            "y": x.y.copy(),
            "z": np.where(wrong, 0.0, gradient),
            "ray": None if state.ray is None else state.ray.copy(),
            "log": list(state.log),
        }
