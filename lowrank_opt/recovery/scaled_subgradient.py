"""Scaled sub-gradient method for robust matrix recovery."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Real
from typing import Any, ClassVar

import numpy as np

from lowrank_opt.core.errors import ParameterError
from lowrank_opt.core.params import Interval, StrOptions
from lowrank_opt.core.protocols import HasMeasurements
from lowrank_opt.core.solver import Solver
from lowrank_opt.core.state import State, Status
from lowrank_opt.recovery import _directions as directions
from lowrank_opt.recovery import _spectral_start as start
from lowrank_opt.recovery.lowrank import LowRankMatrix

__all__ = ["ScaledSubgradientMethod"]

# First step by schedule, relative.
_ETA0 = {"geometric": 0.3, "polyak": 1.0}
# Steps this much smaller than the first one cannot move the iterate visibly any more.
_SMALL_STEP = 1e-8
# "polyak" stalls after this many iterations in which the loss has not fallen by a thousandth.
_PATIENCE, _PROGRESS = 500, 1e-3
# Steps this much smaller than the first one have settled: the loss judges the last point.
_DECAYED = 1e-3
# A warm start begins with a step of this many times its residual.
_WARM = 3.0


@dataclass
class ScaledSubgradientState(State):
    """State of `ScaledSubgradientMethod`.

    Parameters
    ----------
    U, V : ndarray
        Factors; `V` is ``None`` in a symmetric problem.
    unit : float
        Length of the first step in units of the matrix, divided by `eta0`; "geometric" only.
    damping : float
        What is added to the Gram matrices.
    decay : float
        What the decay has made of the first step.
    value : float
        Loss at the last but one iterate.
    value_mark : float
        Loss at the last progress.
    idle : int
        Iterations since then.
    """

    U: Any = None
    V: Any = None
    unit: float = 0.0
    damping: float = 0.0
    decay: float = 1.0
    value: float = math.inf
    value_mark: float = math.inf
    idle: int = 0


class ScaledSubgradientMethod(Solver):
    r"""Scaled sub-gradient method: robust recovery at a speed without the condition number.

    Minimises the mean absolute error of linear measurements over the factors,

    .. math:: f(U, V) = \frac1N \sum_{i=1}^N \bigl| \langle A_i, U V^\top \rangle - y_i \bigr|,

    or of :math:`U U^\top` in a symmetric problem, by sub-gradient steps that are preconditioned
    with the Gram matrix of the other factor. The problem must have a rank; one that is too large
    may end at a wrong point that passes the check of `tol`.

    Parameters
    ----------
    tol : float, default=1e-6
        Stops when the residual of the problem's certificate, the relative size of a step of
        reweighted least squares, is at most `tol`.
    max_iter : int, default=2000
        Limit on iterations.
    max_time : float or None, default=None
        Limit on seconds.
    check_every : int or "auto", default=25
        Iterations between two checks. A check costs about three iterations.
    schedule : {"geometric", "polyak"}, default="geometric"
        "geometric": the t-th step has length ``eta0 rho^t`` relative to the matrix, as measured
        by the norm below. "polyak": ``eta = eta0 (f - f_min) / |.|²``.
    eta0 : float or None, default=None
        First step, relative. ``None``: 0.3 ("geometric"), 1 ("polyak").
    rho : float, default=0.97
        Decay of the steps of "geometric", between 0 and 1.
    damping : float, default=1e-4
        Size λ of what is added in the preconditioner, relative to the largest singular value of
        the start. Needed when the rank of the problem is far above that of the matrix. Directions
        below it, also those that are not there, go to their values more slowly.
    trim : float, default=0.1
        Part of the measurements, the largest ones, that the spectral start leaves out, in [0, 1).
        At least the part of gross errors.
    f_min : float or None, default=None
        Smallest value of f, which "polyak" needs.
    n_threads : int or None, default=None
        Limit on threads.

    Notes
    -----
    With :math:`Q = \frac1N \sum_i \operatorname{sign}(\langle A_i, U V^\top \rangle - y_i) A_i`
    an iteration is, from the old pair,

    .. math:: U \leftarrow U - \eta\, Q V (V^\top V + \lambda I)^{-1}, \qquad
              V \leftarrow V - \eta\, Q^\top U (U^\top U + \lambda I)^{-1},

    and in a symmetric problem :math:`U \leftarrow U - \eta \operatorname{sym}(Q) U
    (U^\top U + \lambda I)^{-1}`. The norm is

    .. math:: |\cdot|^2 = \|Q V (V^\top V + \lambda I)^{-1/2}\|_F^2
              + \|Q^\top U (U^\top U + \lambda I)^{-1/2}\|_F^2 .

    *Guarantee* ([1]_, with λ = 0 and the true rank): from a start close enough, and when f grows
    at least linearly with the distance from the true matrix (Gaussian measurements with few
    outliers), the error falls geometrically at a rate without the condition number. With λ > 0
    [2]_ extends this to ranks that are too large. Without damping these diverge or stall, for the
    Gram matrices become singular.

    *Stops* also (``STALLED``) when the step has fallen to 1e-8 of the first one (or to a hundredth
    of a smaller `tol`): with noise in every measurement the residual stays at its level. After a
    divergence, and at limits, the best point of all checks is returned.

    Cost of an iteration: one pass over the measurements, as for `SubgradientMethod`, and
    ``O((m + n) k² + k³)`` flops.

    References
    ----------
    .. [1] T. Tong, C. Ma, Y. Chi, "Low-Rank Matrix Recovery with Scaled Subgradient Methods: Fast
       and Robust Convergence Without the Condition Number", IEEE Transactions on Signal
       Processing 69, 2021. :arxiv:`2010.13364`.
    .. [2] P. Giampouras, H. Cai, R. Vidal, "Guarantees of a Preconditioned Subgradient Algorithm
       for Overparameterized Asymmetric Low-rank Matrix Recovery", 2024. :arxiv:`2410.16826`.

    Examples
    --------
    >>> import numpy as np
    >>> from lowrank_opt.recovery import MatrixSensing, ScaledSubgradientMethod
    >>> rng = np.random.default_rng(0)
    >>> X = rng.standard_normal((8, 2)) @ np.diag([1.0, 100.0]) @ rng.standard_normal((2, 9))
    >>> A = rng.standard_normal((400, 8, 9))
    >>> y = np.einsum("pij,ij->p", A, X)
    >>> y[:20] = 1e4
    >>> problem = MatrixSensing.from_dense(A, y, rank=2)
    >>> result = ScaledSubgradientMethod(tol=1e-8).solve(problem)
    >>> result.success, bool(np.abs(result.x.to_dense() - X).max() < 1e-3)
    (True, True)
    """

    requires: ClassVar[tuple[type, ...]] = (HasMeasurements,)
    monotone: ClassVar[bool] = False
    blas_threads = 1
    state_type = ScaledSubgradientState
    citation = (
        "@article{tong2021scaledsubgradient,\n"
        "  title={Low-Rank Matrix Recovery with Scaled Subgradient Methods: Fast and Robust"
        " Convergence Without the Condition Number},\n"
        "  author={Tong, Tian and Ma, Cong and Chi, Yuejie},\n"
        "  journal={IEEE Transactions on Signal Processing},\n  volume={69},\n  year={2021}\n}"
    )
    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "schedule": [StrOptions({"geometric", "polyak"})],
        "eta0": [None, Interval(Real, 0, math.inf, closed="neither")],
        "rho": [Interval(Real, 0, 1, closed="neither")],
        "damping": [Interval(Real, 0, math.inf, closed="left")],
        "trim": [Interval(Real, 0, 1, closed="left")],
        "f_min": [None, Interval(Real, 0, math.inf, closed="left")],
    }

    def __init__(
        self,
        *,
        tol: float = 1e-6,
        max_iter: int = 2000,
        max_time: float | None = None,
        check_every: int | str = 25,
        schedule: str = "geometric",
        eta0: float | None = None,
        rho: float = 0.97,
        damping: float = 1e-4,
        trim: float = 0.1,
        f_min: float | None = None,
        n_threads: int | None = None,
    ) -> None:
        self.tol = tol
        self.max_iter = max_iter
        self.max_time = max_time
        self.check_every = check_every
        self.schedule = schedule
        self.eta0 = eta0
        self.rho = rho
        self.damping = damping
        self.trim = trim
        self.f_min = f_min
        self.n_threads = n_threads

    @classmethod
    def accepts(cls, problem: Any) -> list[str]:
        """The l1 loss, and a rank that is given."""
        missing = [] if getattr(problem, "loss", None) == "l1" else ["loss='l1'"]
        if not directions.rank_known(problem):
            missing.append("a given rank (else take HuberALS or SubgradientMethod)")
        return missing

    def check(self, problem: Any) -> None:
        """Also ask for `f_min` where the schedule needs it."""
        super().check(problem)
        if self.schedule == "polyak" and self.f_min is None:
            raise ParameterError(
                f"{type(self).__name__}: f_min=None with schedule='polyak'; give the smallest "
                "value of the mean absolute error, or take schedule='geometric'"
            )

    # -- the three parts of the contract ---------------------------------------------------------

    def init(self, problem: Any, x0: Any = None) -> ScaledSubgradientState:
        """Start at the spectrum of the smaller measurements, or at `x0`."""
        state = ScaledSubgradientState()
        x0 = directions.usable_start(problem, x0)
        y = problem.targets
        if x0 is not None:
            y = y - problem.measurements.apply(x0.U, x0.V)
        sizes = np.abs(y)
        kept = np.where(sizes <= np.quantile(sizes, 1.0 - self.trim), y, 0)
        if x0 is None:
            state.U, V, values = start.spectral_factors(
                problem.measurements, kept, problem.rank_limit, problem.symmetric
            )
        else:
            state.U, V = directions.padded(problem, x0, kept)
            values = x0.singular_values().astype(np.float64)
        state.V = None if problem.symmetric else V
        state.unit = float(np.linalg.norm(values))
        state.damping = self.damping * float(values.max(initial=0.0))
        self._measure(problem, state)
        if x0 is not None and self.schedule == "geometric" and x0.rank >= problem.rank_limit:
            state.unit *= min(1.0, _WARM * state.residual)
        return state

    def step(self, problem: Any, state: State, n: int = 1) -> State:
        """Do `n` iterations, fewer when the method stalls or diverges."""
        assert isinstance(state, ScaledSubgradientState)
        done = 0
        with np.errstate(over="ignore", invalid="ignore"):
            for _ in range(self._until_check(state, n)):
                self._iterate(problem, state)
                state.nit += 1
                done += 1
                if not math.isfinite(state.value) or self._stalled(problem, state):
                    break
            state.count(passes=done)
            self._measure(problem, state)
        return state

    def terminate(self, problem: Any, state: State) -> Status | None:
        """Converged by the residual; stalled when steps have become too small to matter."""
        assert isinstance(state, ScaledSubgradientState)
        status = super().terminate(problem, state)
        if status is Status.DIVERGED:
            state.message = "Take a smaller eta0, or a larger damping if the rank is too large"
        elif status is None and self._stalled(problem, state):
            status = Status.STALLED
            state.message = (
                f"The step has fallen to {state.decay:.0e} of the first one"
                if self.schedule == "geometric"
                else f"No progress in {state.idle} iterations"
            ) + ": noise, too fast a decay rho, or an over-specified rank limits the accuracy"
        return status

    def point(self, problem: Any, state: State) -> LowRankMatrix:
        """The factors."""
        assert isinstance(state, ScaledSubgradientState)
        U = state.U.copy()
        return LowRankMatrix(U, U if state.V is None else state.V.copy())

    def answer(self, problem: Any, state: State, status: Status) -> tuple[LowRankMatrix, float]:
        """The last point if converged, or if steps have decayed and its loss is not worse."""
        assert isinstance(state, ScaledSubgradientState)
        x, residual = super().answer(problem, state, status)
        if status not in (Status.CONVERGED, Status.DIVERGED):
            last = self.point(problem, state)
            better = state.residual < residual
            if state.decay < _DECAYED and not better:
                better = problem.objective(last) <= problem.objective(x)
            if better:
                return last, state.residual
        return x, residual

    def inner_results(self, state: State) -> dict[str, float]:
        """Rank at the gap of the singular values, and balance of the factors."""
        assert isinstance(state, ScaledSubgradientState)
        V = state.U if state.V is None else state.V
        with np.errstate(over="ignore", invalid="ignore"):
            return start.describe(state.U, V, float(np.finfo(state.U.dtype).eps))

    # -- pieces ----------------------------------------------------------------------------------

    def _iterate(self, problem: Any, state: ScaledSubgradientState) -> None:
        symmetric = state.V is None
        U, V = state.U, state.U if symmetric else state.V
        slope = problem.measurements.linearize(U, V, problem.targets, "l1", symmetric)
        state.value = slope.value
        state.idle += 1
        if state.value < (1.0 - _PROGRESS) * state.value_mark:
            state.value_mark, state.idle = state.value, 0
        if not math.isfinite(state.value):
            return
        moves = [start.preconditioned(slope.left, V, state.damping)]
        if not symmetric:
            moves.append(start.preconditioned(slope.right, U, state.damping))
        square = sum(part for _, part in moves) * (2.0 if symmetric else 1.0)
        eta0 = _ETA0[self.schedule] if self.eta0 is None else self.eta0
        if self.schedule == "polyak":
            step = eta0 * (slope.value - self.f_min) / square if square else 0.0
        else:
            step = eta0 * state.unit * state.decay / math.sqrt(square) if square else 0.0
            state.decay *= self.rho
        for F, (move, _) in zip((U, V), moves, strict=False):
            F -= F.dtype.type(step) * move

    def _until_check(self, state: State, n: int) -> int:
        """Iterations to the next multiple of `check_every`: a resumed run has the same checks."""
        every = self.check_every
        return n if isinstance(every, str) else min(n, every - state.nit % every)

    def _stalled(self, problem: Any, state: ScaledSubgradientState) -> bool:
        if self.schedule == "polyak":
            return state.idle >= _PATIENCE
        eps = float(np.finfo(problem.dtype).eps)
        return state.decay < max(min(_SMALL_STEP, 0.01 * self.tol), 0.1 * eps)

    def _measure(self, problem: Any, state: ScaledSubgradientState) -> None:
        """Residual, and the best point of all checks."""
        V = state.U if state.V is None else state.V
        finite = math.isfinite(float(np.sum(state.U)) + float(np.sum(V)))
        state.residual = start.relative_step(problem, state.U, V) if finite else math.nan
        due = self.check_every == "auto" or state.nit % self.check_every == 0
        if state.best is None or (due and state.residual < state.best_residual):
            state.best, state.best_residual = self.point(problem, state), state.residual
