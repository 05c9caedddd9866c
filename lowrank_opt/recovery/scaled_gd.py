"""Scaled gradient descent: completion, sensing and robust PCA."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np

from lowrank_opt.core.params import Interval
from lowrank_opt.core.protocols import HasMeasurements
from lowrank_opt.core.solver import Solver
from lowrank_opt.core.state import State, Status
from lowrank_opt.recovery import _directions as directions
from lowrank_opt.recovery import _spectral_start as start
from lowrank_opt.recovery import kernels_scaled as kernels
from lowrank_opt.recovery.lowrank import LowRankMatrix

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["ScaledGD"]

# Stalled after this many iterations in which the scaled gradient has not fallen by a hundredth.
_PATIENCE, _PROGRESS = 100, 0.01
# Robust PCA drops this many times the fraction of outliers from every row and column.
_SLACK = 2.0
# What a problem may have that the method does not do, and what it must have instead.
_FORBIDDEN = {
    "reg": "reg=0",
    "biases": "biases=False",
    "nonnegative": "nonnegative=False",
    "implicit_weight": "implicit_weight=0",
    "offset": "center=False",
}


class _Cache(NamedTuple):
    c: float
    mass: float
    none: NDArray[Any]


@dataclass
class ScaledGDState(State):
    """State of `ScaledGD`.

    Parameters
    ----------
    U, V : ndarray
        Factors; `V` is ``None`` in a symmetric problem.
    damping : float
        What is added to the Gram matrices.
    value : float
        Mean squared error at the last but one iterate, of the entries that count.
    square, square_mark : float
        Squared norm of the scaled gradient there, and at the last progress.
    idle : int
        Iterations since then.
    """

    U: Any = None
    V: Any = None
    damping: float = 0.0
    value: float = math.inf
    square: float = math.inf
    square_mark: float = math.inf
    idle: int = 0


class ScaledGD(Solver):
    r"""Scaled gradient descent: low-rank estimation at a speed without the condition number.

    Minimises the mean squared error of linear measurements over the factors,

    .. math:: f(U, V) = \frac1N \sum_{i=1}^N
              \bigl( \langle A_i, U V^\top \rangle - y_i \bigr)^2 ,

    by gradient steps that are preconditioned with the Gram matrix of the other factor: for matrix
    completion, matrix sensing with the squared loss, and robust PCA.

    Parameters
    ----------
    tol : float, default=1e-6
        Stops when the residual of the problem's certificate is at most `tol`: the relative size
        of a Gauss-Newton step, reweighted in robust PCA.
    max_iter : int, default=1000
        Limit on iterations.
    max_time : float or None, default=None
        Limit on seconds.
    check_every : int or "auto", default=10
        Iterations between two checks. A check costs about two iterations.
    eta : float, default=0.5
        Step; the theory asks for at most 2/3.
    damping : float, default=0.0
        Size λ of what is added in the preconditioner, relative to the largest singular value of
        the start. For an over-specified rank.
    n_threads : int or None, default=None
        Limit on threads.

    Notes
    -----
    With :math:`Q = \frac1N \sum_i w_i (\langle A_i, U V^\top \rangle - y_i) A_i` and c the mean
    square of an entry of the :math:`A_i` (times the mean weight), an iteration is, from the old
    pair,

    .. math:: U \leftarrow U - \frac{\eta}{c}\, Q V (V^\top V + \lambda I)^{-1}, \qquad
              V \leftarrow V - \frac{\eta}{c}\, Q^\top U (U^\top U + \lambda I)^{-1},

    and for sampled entries 1/c = m n. The start is the best approximation of the zero-filled
    data (of :math:`\frac{1}{cN} \sum_i y_i A_i`) by the search rank.

    *Robust PCA* (`LowRankPlusSparse` with its `outlier_fraction` α): in each iteration the errors
    that are among the largest ``2 α`` part of both their row and their column count as gross and
    are left out; for the start so are the values among the largest α.

    *Guarantee* ([1]_, with λ = 0 and the true rank): from this start, with enough Gaussian
    measurements or entries of an incoherent matrix, or with outliers in a part of every row and
    column that is small against one over the condition number, the error falls by the factor
    ``1 - 0.6 eta`` per iteration, whatever the condition number, for eta at most 2/3. For entries
    the theory also shortens long rows of the factors; that projection is not done here.

    *Stops* also (``STALLED``) when the scaled gradient has not fallen by one per cent for 100
    iterations. After a divergence, and at limits, the best point of all checks is returned.

    Cost of an iteration: one pass over the measurements (``4·N·m·n`` flops when they are dense
    matrices, ``8·N·k`` for sampled entries) and ``O((m + n) k² + k³)`` flops; in robust PCA also
    a selection in every row and column, some 6 comparisons an entry.

    References
    ----------
    .. [1] T. Tong, C. Ma, Y. Chi, "Accelerating Ill-Conditioned Low-Rank Matrix Estimation via
       Scaled Gradient Descent", JMLR 22, 2021. :arxiv:`2005.08898`.

    Examples
    --------
    >>> import numpy as np
    >>> from lowrank_opt.recovery import LowRankPlusSparse, ScaledGD
    >>> rng = np.random.default_rng(0)
    >>> L = rng.standard_normal((60, 2)) @ rng.standard_normal((2, 50))
    >>> M = L + np.where(rng.random(L.shape) < 0.05, 10.0, 0.0)
    >>> problem = LowRankPlusSparse.from_dense(M, rank=2, outlier_fraction=0.1)
    >>> result = ScaledGD(tol=1e-8).solve(problem)
    >>> result.success, bool(np.abs(result.x.to_dense() - L).max() < 1e-6)
    (True, True)
    """

    requires: ClassVar[tuple[type, ...]] = (HasMeasurements,)
    monotone: ClassVar[bool] = False
    blas_threads = 1
    state_type = ScaledGDState
    citation = (
        "@article{tong2021accelerating,\n"
        "  title={Accelerating Ill-Conditioned Low-Rank Matrix Estimation via Scaled Gradient"
        " Descent},\n"
        "  author={Tong, Tian and Ma, Cong and Chi, Yuejie},\n"
        "  journal={Journal of Machine Learning Research},\n  volume={22},\n  year={2021}\n}"
    )
    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "eta": [Interval(Real, 0, math.inf, closed="neither")],
        "damping": [Interval(Real, 0, math.inf, closed="left")],
    }

    def __init__(
        self,
        *,
        tol: float = 1e-6,
        max_iter: int = 1000,
        max_time: float | None = None,
        check_every: int | str = 10,
        eta: float = 0.5,
        damping: float = 0.0,
        n_threads: int | None = None,
    ) -> None:
        self.tol = tol
        self.max_iter = max_iter
        self.max_time = max_time
        self.check_every = check_every
        self.eta = eta
        self.damping = damping
        self.n_threads = n_threads

    @classmethod
    def accepts(cls, problem: Any) -> list[str]:
        """The squared loss without penalties, or robust PCA with a bound on the outliers."""
        missing = [need for name, need in _FORBIDDEN.items() if getattr(problem, name, 0)]
        if getattr(problem, "penalty", "ridge") != "ridge":
            missing.append("penalty='ridge'")
        if hasattr(problem, "outlier_fraction"):
            if problem.outlier_fraction is None:
                missing.append("outlier_fraction (a bound on the part of wrong entries)")
        elif getattr(problem, "loss", None) != "squared":
            missing.append("loss='squared'")
        if not getattr(problem, "rank_known", True):
            missing.append("a given rank (else take HuberALS)")
        return missing

    # -- the three parts of the contract ---------------------------------------------------------

    def init(self, problem: Any, x0: Any = None) -> ScaledGDState:
        """Start at the spectrum of the data, or at `x0`."""
        state = ScaledGDState()
        cache = self._prepare(problem, state)
        x0 = directions.usable_start(problem, x0)
        operator, y = problem.measurements, problem.targets
        weights = getattr(operator, "weights", None)
        if x0 is not None:
            y = y - operator.apply(x0.U, x0.V)
        if self._trims(problem):
            y = self._without_largest(problem, cache, y, problem.outlier_fraction)
        if x0 is None:
            state.U, V, values = start.spectral_factors(
                operator, y if weights is None else weights * y, problem.rank_limit,
                problem.symmetric, cache.mass,
            )  # fmt: skip
        else:
            z = y if weights is None else weights * y
            state.U, V = directions.padded(problem, x0, z, cache.mass)
            values = x0.singular_values().astype(np.float64)
        state.V = None if problem.symmetric else V
        state.damping = self.damping * float(values.max(initial=0.0))
        self._measure(problem, state)
        return state

    def step(self, problem: Any, state: State, n: int = 1) -> State:
        """Do `n` iterations, fewer when the method stalls or diverges."""
        assert isinstance(state, ScaledGDState)
        cache, done = self._prepare(problem, state), 0
        with np.errstate(over="ignore", invalid="ignore"):
            for _ in range(self._until_check(state, n)):
                self._iterate(problem, state, cache)
                state.nit += 1
                done += 1
                if not math.isfinite(state.value) or state.idle >= _PATIENCE:
                    break
            state.count(passes=done)
            self._measure(problem, state)
        return state

    def terminate(self, problem: Any, state: State) -> Status | None:
        """Converged by the residual; stalled when the scaled gradient no longer falls."""
        assert isinstance(state, ScaledGDState)
        status = super().terminate(problem, state)
        if status is Status.DIVERGED:
            state.message = "Take a smaller eta, or some damping if the rank is too large"
        elif status is None and state.idle >= _PATIENCE:
            status = Status.STALLED
            state.message = (
                f"The scaled gradient has not fallen for {state.idle} iterations: too large a "
                "step eta or the precision limits the accuracy"
            )
            if self._trims(problem):
                state.message += ", or noise, of which another part is left out each time"
        return status

    def point(self, problem: Any, state: State) -> LowRankMatrix:
        """The factors."""
        assert isinstance(state, ScaledGDState)
        U = state.U.copy()
        return LowRankMatrix(U, U if state.V is None else state.V.copy())

    def answer(self, problem: Any, state: State, status: Status) -> tuple[LowRankMatrix, float]:
        """The last point if converged; else the best one of the checks."""
        x, residual = super().answer(problem, state, status)
        if status is not Status.DIVERGED and state.residual < residual:
            return self.point(problem, state), state.residual
        return x, residual

    # -- pieces ----------------------------------------------------------------------------------

    @staticmethod
    def _trims(problem: Any) -> bool:
        return getattr(problem, "outlier_fraction", None) is not None

    def _prepare(self, problem: Any, state: ScaledGDState) -> _Cache:
        if state.cache is None:
            operator = problem.measurements
            weights = getattr(operator, "weights", None)
            mass = 1.0 if weights is None else float(np.mean(weights, dtype=np.float64))
            # Where columns have no order of their own: the entries as they are.
            none = np.zeros(0, np.int64)
            state.cache = _Cache(operator.mean_square, mass, none)
        return state.cache

    def _without_largest(
        self, problem: Any, cache: _Cache, errors: NDArray[Any], fraction: float
    ) -> NDArray[Any]:
        """Errors with 0 for those among the largest of both their row and their column."""
        obs = problem.observations
        rows, cols = (np.empty(side, errors.dtype) for side in problem.shape)
        kernels.line_thresholds(obs.indptr, cache.none, errors, fraction, rows)
        kernels.line_thresholds(obs.csc_indptr, obs.perm, errors, fraction, cols)
        kept = np.empty_like(errors)
        kernels.drop_largest(obs.indptr, obs.indices, errors, rows, cols, kept)
        return kept

    def _slope(self, problem: Any, cache: _Cache, U: Any, V: Any) -> tuple[float, Any, Any]:
        """Mean squared error of what counts, and products of its slope with the factors."""
        operator, y = problem.measurements, problem.targets
        if not self._trims(problem):
            slope = operator.linearize(U, V, y, "squared", problem.symmetric)
            return slope.value, slope.left, slope.right
        errors = operator.apply(U, V) - y
        if not math.isfinite(float(np.sum(errors))):
            return math.inf, None, None
        part = min(_SLACK * problem.outlier_fraction, 1.0)
        e = self._without_largest(problem, cache, errors, part)
        we = e if operator.weights is None else operator.weights * e
        Q = operator.adjoint(we / e.size)
        value = float(np.sum(we * e.astype(np.float64))) / e.size
        return value, Q @ V, Q.T @ U

    def _iterate(self, problem: Any, state: ScaledGDState, cache: _Cache) -> None:
        symmetric = state.V is None
        U, V = state.U, state.U if symmetric else state.V
        state.value, left, right = self._slope(problem, cache, U, V)
        if not math.isfinite(state.value):
            return
        moves = [start.preconditioned(left, V, state.damping)]
        if not symmetric:
            moves.append(start.preconditioned(right, U, state.damping))
        state.square = sum(part for _, part in moves)
        state.idle += 1
        if state.square < (1.0 - _PROGRESS) ** 2 * state.square_mark:
            state.square_mark, state.idle = state.square, 0
        scale = cache.c * cache.mass
        step = self.eta / scale if scale else 0.0
        for F, (move, _) in zip((U, V), moves, strict=False):
            F -= F.dtype.type(step) * move

    def _until_check(self, state: State, n: int) -> int:
        """Iterations to the next multiple of `check_every`: a resumed run has the same checks."""
        every = self.check_every
        return n if isinstance(every, str) else min(n, every - state.nit % every)

    def _measure(self, problem: Any, state: ScaledGDState) -> None:
        """Residual, and the best point of all checks."""
        V = state.U if state.V is None else state.V
        finite = math.isfinite(float(np.sum(state.U)) + float(np.sum(V)))
        state.residual = start.relative_step(problem, state.U, V) if finite else math.nan
        due = self.check_every == "auto" or state.nit % self.check_every == 0
        if state.best is None or (due and state.residual < state.best_residual):
            state.best, state.best_residual = self.point(problem, state), state.residual
