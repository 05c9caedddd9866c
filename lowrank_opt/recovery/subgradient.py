"""Sub-gradient methods for robust matrix recovery."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np

from lowrank_opt.core.errors import AccuracyWarning, ParameterError
from lowrank_opt.core.params import Interval, StrOptions, make_rng
from lowrank_opt.core.protocols import HasMeasurements
from lowrank_opt.core.solver import Solver
from lowrank_opt.core.state import State, Status
from lowrank_opt.recovery import _directions as directions
from lowrank_opt.recovery import _spectral_start as start
from lowrank_opt.recovery.lowrank import LowRankMatrix

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["SubgradientMethod"]

# Defaults by schedule: relative step, decay.
_ETA0 = {"loss": 0.25, "geometric": 0.15, "two-phase": 0.05, "polyak": 1.0}
_RHO = {"geometric": 0.99, "two-phase": 0.97}
# Relative size of the start: sampled entries keep a floor of some alpha.
_ALPHA, _ALPHA_ENTRIES = 1e-6, 1e-8
# The loss improves, or the factors grow, by this part, or the first phase ends.
_LOSS_PROGRESS, _SIZE_PROGRESS = 2e-3, 5e-2
# A step this much smaller than the first one cannot move the iterate visibly any more.
_SMALL_STEP = 1e-8
# Part of a singular value of the data's signs, squared, that must be more than chance to count.
_VISIBLE = 0.3
# Steps this much smaller than the first one have settled: the loss judges the last point.
_DECAYED = 1e-3
# A warm start begins with a step of this many times its residual.
_WARM = 3.0
# Directions below this part of the largest one, times the decay, may still have to grow; so may
# those that have grown by the second number since the last look.
_SMALL_DIRECTION, _GROWN = 0.01, 1.1
# Directions beyond the factors' must have this many times the largest singular value of chance in
# the sub-gradient to delay the decay, and do it for this many times what their growth should take.
_CHANCE, _ALLOWANCE = 1.3, 2.0
# Iterations between two looks at the held-out measurements.
_HELD_EVERY = 10
# A schedule without decay stalls after this many times `patience` iterations without progress.
_IDLE_LIMIT = 20
# Mean size of a standard normal number.
_MEAN_SIZE = math.sqrt(2.0 / math.pi)


class _Cache(NamedTuple):
    operator: Any
    targets: NDArray[Any]
    held_operator: Any
    held_targets: NDArray[Any]
    c: float


@dataclass
class SubgradientState(State):
    """State of `SubgradientMethod`.

    Parameters
    ----------
    U, V : ndarray
        Factors; `V` is ``None`` in a symmetric problem.
    unit : float
        Step of the first iteration, before it is divided by the norm of the sub-gradient.
    decay : float
        What the geometric decay has made of it.
    decaying : bool
        Whether the decay has begun.
    value : float
        Loss at the last but one iterate.
    value_mark, size_mark : float
        Loss and size of the factors at the last progress.
    idle : int
        Iterations since then.
    hold : int
        Iteration of the next look of "two-phase" for directions that are missing; the decay does
        not begin before it.
    patient_until : int
        Iteration up to which a missing direction delays the decay.
    n_grown : int
        Directions that had grown when that was last put off.
    sizes : ndarray
        Singular values of the product of the factors at the last look.
    held : ndarray of int
        Measurements that are kept out.
    held_value : float
        Smallest mean loss on them so far; `best` is the point.
    alpha : float
        Relative size of the start.
    cut : bool
        Whether the factors have been truncated at the gap, or need not be.
    """

    U: Any = None
    V: Any = None
    unit: float = 0.0
    decay: float = 1.0
    decaying: bool = False
    value: float = math.inf
    value_mark: float = math.inf
    size_mark: float = 0.0
    idle: int = 0
    hold: int = 0
    patient_until: int = 0
    n_grown: int = -1
    sizes: Any = None
    held: Any = None
    held_value: float = math.inf
    alpha: float = 0.0
    cut: bool = False


class SubgradientMethod(Solver):
    r"""Sub-gradient method with a small start: robust recovery without knowing the rank.

    Minimises the mean absolute error of linear measurements over the factors,

    .. math:: f(U, V) = \frac1N \sum_{i=1}^N \bigl| \langle A_i, U V^\top \rangle - y_i \bigr|,

    or of :math:`U U^\top` in a symmetric problem, from factors of size `alpha`. Some of the
    measurements may be grossly wrong; the rank of the problem may be far above that of the matrix.

    Parameters
    ----------
    tol : float, default=1e-6
        Stops when the residual of the problem's certificate, the relative size of a step of
        reweighted least squares, is at most `tol`.
    max_iter : int, default=5000
        Limit on iterations.
    max_time : float or None, default=None
        Limit on seconds.
    check_every : int or "auto", default=40
        Iterations between two checks. A check costs about three iterations.
    schedule : {"two-phase", "geometric", "loss", "polyak"}, default="two-phase"
        Step of iteration t, with :math:`Q_t` the matrix sub-gradient (see Notes):
        "geometric": ``eta0 rho^t c / |Q_t|_F``, the constant c being such that the leading
        direction grows by the factor ``1 + eta0`` (``1 + 2 eta0`` in a symmetric problem) in the
        first iteration. "two-phase": the same without the decay, until for `patience` iterations
        the loss has not fallen by 0.2 % nor the factors grown by 5 %; then with it, but for
        iterations in which a direction is missing (see Notes). "loss":
        proportional to the loss, ``eta0 / s_1`` times the gradient step it stands for; for exact
        measurements without outliers only. "polyak": ``eta0 (f - f_min) / |gradient|²``.
    eta0 : float or None, default=None
        First step, relative. ``None``: 0.05 ("two-phase"), 0.15 ("geometric"), 0.25 ("loss"),
        1 ("polyak").
    rho : float or None, default=None
        Decay of the step, between 0 and 1. ``None``: 0.97 ("two-phase"), 0.99 ("geometric").
    alpha : float or None, default=None
        Size of the start relative to the spectral estimate of the factors. What is not needed of
        an over-specified rank stays at about this size. ``None``: 1e-6, 1e-8 for sampled
        entries, 1 for "polyak", whose steps make no sense far from the answer.
    patience : int, default=25
        Iterations without progress that end the first phase of "two-phase".
    f_min : float or None, default=None
        Smallest value of f, which "polyak" needs.
    holdout : float or None, default=None
        Part of the measurements to keep out, in (0, 0.5]; the point with the smallest mean
        absolute error on them is returned, unless the run converges. Against over-fitting of
        noise when the rank is over-specified.
    random_state : int, Generator or None, default=None
        Seed of the choice of measurements to keep out; nothing else is random.
    n_threads : int or None, default=None
        Limit on threads.

    Warns
    -----
    AccuracyWarning
        With "geometric", when the steps add up to less than what the weakest direction that
        shows in the data needs to grow from `alpha` to its size (see Notes); the message names a
        sufficient `rho`.

    Notes
    -----
    With :math:`Q_t = \frac1N \sum_i \operatorname{sign}(\langle A_i, U_t V_t^\top \rangle - y_i)
    A_i` (sign(0) = 0) an iteration is :math:`U \leftarrow U - \eta_t Q_t V`,
    :math:`V \leftarrow V - \eta_t Q_t^\top U` from the old pair; in a symmetric problem
    :math:`U \leftarrow U - 2 \eta_t \operatorname{sym}(Q_t) U`. The start is `alpha` times the
    balanced factors of the leading singular part of :math:`\frac1N \sum_i \operatorname{sign}(y_i)
    A_i`, in which a wrong measurement counts as much as a right one.

    *Guarantee.* For symmetric problems whose measurements satisfy the sign-RIP, Gaussian ones
    among them, the method comes from a small enough start as close to the true matrix as `alpha`
    allows, whatever the search rank, with outliers or Gaussian noise, though the global minima of
    f may be elsewhere [1]_. For factors U V^T, for sampled entries and for the schedule
    "two-phase" there is no such theorem.

    *Budget.* A direction with singular value s grows by about ``1 + g eta_t s / s_1`` per
    iteration, g = 2 for symmetric problems and else 1, so that a geometric schedule leaves it at
    0 unless ``g eta0 s / (s_1 (1 - rho)) >= log(1 / alpha)``.

    *Missing directions.* After every `patience` iterations of its decay, and before the first,
    "two-phase" looks at the part of :math:`Q_t` off the directions that have grown. While that has
    a singular value 1.3 times what signs at random would give, the step keeps its length, for at
    most twice as long as the growth of such a direction takes. What is smaller than the noise of
    the measurements does not show.

    *Stops* also (``STALLED``) when the step has fallen to 1e-8 of the first one (or to a hundredth
    of a smaller `tol`): with noise in every measurement the residual stays at the level of the
    noise. After a divergence, and at limits, the best point of all checks is returned.
    Where the rank is not known (``rank="auto"``, or `MatrixSensing` without `rank`), the factors
    are truncated at the gap of their singular values in the end, and refined by further steps.
    ``Result.inner`` has the rank at the gap of the singular values, and the balance
    ``|U^T U - V^T V|_F / |U V^T|_F`` of the factors.

    Cost of an iteration: one pass over the measurements (``4·N·m·n`` flops when they are dense
    matrices, ``8·N·k`` for sampled entries, ``4·N·(m + n)·k`` for rank-one measurements) and
    ``4·(m + n)·k`` flops.

    References
    ----------
    .. [1] J. Ma, S. Fattahi, "Global Convergence of Sub-gradient Method for Robust Matrix
       Recovery: Small Initialization, Noisy Measurements, and Over-parameterization", JMLR 24,
       2023. :arxiv:`2202.08788`.

    Examples
    --------
    >>> import numpy as np
    >>> from lowrank_opt.recovery import MatrixSensing, SubgradientMethod
    >>> rng = np.random.default_rng(0)
    >>> X = np.outer(np.arange(1.0, 9.0), np.arange(1.0, 9.0))
    >>> A = rng.standard_normal((300, 8, 8))
    >>> y = np.einsum("pij,ij->p", A, X)
    >>> y[:30] = 1e4
    >>> problem = MatrixSensing.from_dense(A, y, rank=4, symmetric=True)
    >>> result = SubgradientMethod(tol=1e-5).solve(problem)
    >>> result.success, int(result.inner["rank_at_gap"])
    (True, 1)
    >>> bool(np.abs(result.x.to_dense() - X).max() < 1e-2)
    True
    """

    requires: ClassVar[tuple[type, ...]] = (HasMeasurements,)
    monotone: ClassVar[bool] = False
    blas_threads = 1
    state_type = SubgradientState
    citation = (
        "@article{ma2023global,\n"
        "  title={Global Convergence of Sub-gradient Method for Robust Matrix Recovery: Small"
        " Initialization, Noisy Measurements, and Over-parameterization},\n"
        "  author={Ma, Jianhao and Fattahi, Salar},\n"
        "  journal={Journal of Machine Learning Research},\n  volume={24},\n  year={2023}\n}"
    )
    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "schedule": [StrOptions({"two-phase", "geometric", "loss", "polyak"})],
        "eta0": [None, Interval(Real, 0, math.inf, closed="neither")],
        "rho": [None, Interval(Real, 0, 1, closed="neither")],
        "alpha": [None, Interval(Real, 0, math.inf, closed="neither")],
        "patience": [Interval(Integral, 1, None)],
        "f_min": [None, Interval(Real, 0, math.inf, closed="left")],
        "holdout": [None, Interval(Real, 0, 0.5, closed="right")],
    }

    def __init__(
        self,
        *,
        tol: float = 1e-6,
        max_iter: int = 5000,
        max_time: float | None = None,
        check_every: int | str = 40,
        schedule: str = "two-phase",
        eta0: float | None = None,
        rho: float | None = None,
        alpha: float | None = None,
        patience: int = 25,
        f_min: float | None = None,
        holdout: float | None = None,
        random_state: Any = None,
        n_threads: int | None = None,
    ) -> None:
        self.tol = tol
        self.max_iter = max_iter
        self.max_time = max_time
        self.check_every = check_every
        self.schedule = schedule
        self.eta0 = eta0
        self.rho = rho
        self.alpha = alpha
        self.patience = patience
        self.f_min = f_min
        self.holdout = holdout
        self.random_state = random_state
        self.n_threads = n_threads

    @classmethod
    def accepts(cls, problem: Any) -> list[str]:
        """The l1 loss."""
        return [] if getattr(problem, "loss", None) == "l1" else ["loss='l1'"]

    def check(self, problem: Any) -> None:
        """Also ask for `f_min` where the schedule needs it."""
        super().check(problem)
        if self.schedule == "polyak" and self.f_min is None:
            raise ParameterError(
                f"{type(self).__name__}: f_min=None with schedule='polyak'; give the smallest "
                "value of the mean absolute error, or choose another schedule"
            )

    # -- the three parts of the contract ---------------------------------------------------------

    def init(self, problem: Any, x0: Any = None) -> SubgradientState:
        """Start small along the spectrum of the signs, or at `x0`."""
        state = SubgradientState(rng=make_rng(self.random_state))
        state.alpha = self._alpha(problem)
        state.cut = directions.rank_known(problem)
        state.held = self._held(problem, state.rng)
        cache = self._prepare(problem, state)
        shape, k = problem.shape, problem.rank_limit
        signs = cache.operator.adjoint(np.sign(cache.targets) / cache.targets.size)
        sp = start.spectrum(signs, k, problem.symmetric)
        size = start.robust_size(cache.targets, cache.c)
        top = float(sp.values[0])
        root = math.sqrt(size / (np.linalg.norm(sp.values) or 1.0)) * np.sqrt(sp.values)
        factors = [(F * (state.alpha * root)).astype(problem.dtype) for F in (sp.left, sp.right)]
        if self.schedule == "loss":
            s1 = size * top / (_MEAN_SIZE * math.sqrt(cache.c)) if cache.c else 0.0
            state.unit = math.pi / (2.0 * cache.c * s1) if s1 else 0.0
        elif self.schedule != "polyak":
            at_zero = [np.zeros((side, 1), problem.dtype) for side in shape]
            norm = self._linearize(problem, cache, *at_zero).norm
            state.unit = norm / top if top else 0.0
        x0 = directions.usable_start(problem, x0)
        largest = max(float(np.abs(F).max(initial=0.0)) for F in factors)
        if cache.targets.any() and not largest**2 > float(np.finfo(problem.dtype).tiny):
            raise ParameterError(
                f"{type(self).__name__}: alpha={state.alpha!r} makes the start vanish in "
                f"{np.dtype(problem.dtype)}; take a larger alpha, or scale the data"
            )
        if x0 is None:
            state.U, state.V = factors
        else:
            state.U, state.V = (
                np.hstack([given, small[:, given.shape[1] :]])
                for given, small in zip((x0.U, x0.V), factors, strict=True)
            )
        if problem.symmetric:
            state.V = None
        if self.schedule == "geometric" and (x0 is None or x0.rank < k):
            self._check_budget(problem, state, cache, sp.values)
        self._measure(problem, state)
        if x0 is not None and x0.rank >= k and self.schedule in _RHO:
            state.unit *= min(1.0, _WARM * state.residual)
        if x0 is not None and not state.cut and state.residual <= self.tol:
            self._cut(problem, state)
        self._keep_held(problem, state, cache)
        return state

    def step(self, problem: Any, state: State, n: int = 1) -> State:
        """Do `n` iterations, fewer when the method stalls or diverges."""
        assert isinstance(state, SubgradientState)
        cache = self._prepare(problem, state)
        eta0 = _ETA0[self.schedule] if self.eta0 is None else self.eta0
        done = 0
        with np.errstate(over="ignore", invalid="ignore"):
            for _ in range(self._until_check(state, n)):
                self._iterate(problem, state, cache, eta0)
                state.nit += 1
                done += 1
                if state.held.size and state.nit % _HELD_EVERY == 0:
                    self._keep_held(problem, state, cache)
                if not math.isfinite(state.value) or self._stalled(problem, state):
                    break
            state.count(passes=done)
            self._measure(problem, state)
            settled = state.residual <= self.tol or self._stalled(problem, state)
            if settled and not state.cut:
                self._cut(problem, state)
        return state

    def terminate(self, problem: Any, state: State) -> Status | None:
        """Converged by the residual; stalled when steps have become too small to matter."""
        assert isinstance(state, SubgradientState)
        status = super().terminate(problem, state)
        state.message = ""
        if status is Status.DIVERGED:
            state.message = "Take a smaller eta0"
        elif status is None and self._stalled(problem, state):
            status = Status.STALLED
            state.message = (
                f"The step has fallen to {state.decay:.0e} of the first one"
                if self.schedule in _RHO
                else f"No progress in {state.idle} iterations"
            ) + ": noise, the start alpha of an over-specified rank, or local minima limit it. "
        if status in (Status.CONVERGED, Status.STALLED):
            rank = self.inner_results(state)["rank_at_gap"]
            state.message += f"Rank {rank:.0f} at the gap of {state.U.shape[1]} singular values"
        return status

    def point(self, problem: Any, state: State) -> LowRankMatrix:
        """The factors."""
        assert isinstance(state, SubgradientState)
        U = state.U.copy()
        return LowRankMatrix(U, U if state.V is None else state.V.copy())

    def answer(self, problem: Any, state: State, status: Status) -> tuple[LowRankMatrix, float]:
        """The last point if converged, or if steps have decayed and its loss is not worse.

        Else the best one, by the held-out loss if there is one.
        """
        assert isinstance(state, SubgradientState)
        x, residual = self._choose(problem, state, status)
        if not state.cut and state.nit and status is not Status.DIVERGED:
            U, V = start.truncate_at_gap(x.U, x.V, state.alpha)
            x = LowRankMatrix(U, U if state.V is None else V)
            residual = start.relative_step(problem, x.U, x.V)
        return x, residual

    def _choose(
        self, problem: Any, state: SubgradientState, status: Status
    ) -> tuple[LowRankMatrix, float]:
        x, residual = super().answer(problem, state, status)
        if status is Status.CONVERGED:
            return x, residual
        if state.held.size:
            return x, start.relative_step(problem, x.U, x.V)
        if status is not Status.DIVERGED:
            last = self.point(problem, state)
            better = state.residual < residual
            if state.decay < _DECAYED and not better:
                better = problem.objective(last) <= problem.objective(x)
            if better:
                return last, state.residual
        return x, residual

    def inner_results(self, state: State) -> dict[str, float]:
        """Rank at the gap of the singular values, and balance of the factors."""
        assert isinstance(state, SubgradientState)
        V = state.U if state.V is None else state.V
        return start.describe(state.U, V, state.alpha)

    # -- pieces ----------------------------------------------------------------------------------

    def _alpha(self, problem: Any) -> float:
        if self.alpha is not None:
            return float(self.alpha)
        if self.schedule == "polyak":
            return 1.0
        return _ALPHA_ENTRIES if start.samples_entries(problem.measurements) else _ALPHA

    def _held(self, problem: Any, rng: Any) -> NDArray[np.int64]:
        """Measurements to keep out."""
        if self.holdout is None:
            return np.zeros(0, np.int64)
        operator = problem.measurements
        size = math.ceil(self.holdout * operator.size)
        if size >= operator.size:
            raise ParameterError(
                f"{type(self).__name__}: holdout={self.holdout!r} leaves none of the "
                f"{operator.size} measurements; take a smaller part"
            )
        return np.sort(rng.choice(operator.size, size, replace=False)).astype(np.int64)

    def _prepare(self, problem: Any, state: SubgradientState) -> _Cache:
        """Split the measurements; the mean square of their entries. Once a run."""
        if state.cache is None:
            operator, targets = problem.measurements, problem.targets
            c = operator.mean_square
            if not state.held.size:
                state.cache = _Cache(operator, targets, None, targets[:0], c)
            else:
                used = np.setdiff1d(np.arange(operator.size), state.held)
                state.cache = _Cache(
                    *(operator.subset(used), targets[used]),
                    *(operator.subset(state.held), targets[state.held], c),
                )
        return state.cache

    def _linearize(self, problem: Any, cache: _Cache, U: Any, V: Any) -> Any:
        return cache.operator.linearize(U, V, cache.targets, "l1", problem.symmetric)

    def _iterate(self, problem: Any, state: SubgradientState, cache: _Cache, eta0: float) -> None:
        symmetric = state.V is None
        U, V = state.U, state.U if symmetric else state.V
        slope = self._linearize(problem, cache, U, V)
        state.value = slope.value
        self._note_progress(state, (float(np.vdot(U, U)) + float(np.vdot(V, V))) / 2.0)
        if self.schedule == "two-phase" and math.isfinite(slope.value):
            self._choose_phase(problem, state, cache, eta0 * state.unit, slope.norm)
        parts = (2.0 * slope.left,) if symmetric else (slope.left, slope.right)
        if self.schedule == "loss":
            step = eta0 * state.unit * slope.value
        elif self.schedule == "polyak":
            square = sum(float(np.vdot(g, g)) for g in parts)
            step = eta0 * (slope.value - self.f_min) / square if square else 0.0
        else:
            step = eta0 * state.unit * state.decay / slope.norm if slope.norm else 0.0
        for F, g in zip((U, V), parts, strict=False):
            F -= F.dtype.type(step) * g
        if state.decaying or self.schedule == "geometric":
            state.decay *= self._rho()

    def _rho(self) -> float:
        return _RHO.get(self.schedule, 1.0) if self.rho is None else float(self.rho)

    def _note_progress(self, state: SubgradientState, size: float) -> None:
        state.idle += 1
        better = state.value < (1.0 - _LOSS_PROGRESS) * state.value_mark
        if better or size > (1.0 + _SIZE_PROGRESS) * state.size_mark:
            state.value_mark = min(state.value, state.value_mark)
            state.size_mark, state.idle = size, 0

    def _choose_phase(
        self, problem: Any, state: SubgradientState, cache: _Cache, step: float, norm: float
    ) -> None:
        """Let the step decay unless there is progress or a direction is missing."""
        if state.nit < state.hold or not (state.decaying or state.idle >= self.patience):
            return
        state.hold = state.nit + self.patience
        U, V = state.U, state.U if state.V is None else state.V
        sizes, left, right = directions.product_svd(U, V)
        before = sizes if state.sizes is None else state.sizes
        state.sizes = sizes
        done = sizes > _SMALL_DIRECTION * state.decay * sizes[0]
        done &= sizes <= _GROWN * before
        n_done = int(np.count_nonzero(done))
        value = 0.0
        if n_done < sizes.size and n_done < min(problem.shape):
            value = self._missing(problem, cache, U, V, left[:, done], right[:, done])
        state.decaying = True
        if value > 0.0:
            if n_done > state.n_grown:
                state.n_grown = n_done
                growth = (2.0 if problem.symmetric else 1.0) * step * state.decay * value / norm
                needed = math.log(1.0 / min(state.alpha, 0.5)) / math.log1p(growth)
                state.patient_until = state.nit + math.ceil(_ALLOWANCE * needed) + self.patience
            state.decaying = state.nit >= state.patient_until

    def _missing(self, problem: Any, cache: _Cache, U: Any, V: Any, left: Any, right: Any) -> float:
        """Largest singular value of the sub-gradient off these directions; 0 if due to chance."""
        operator = cache.operator
        signs = np.sign(cache.targets - operator.apply(U, V))
        if operator.weights is not None:
            signs = signs * operator.weights
        Z = directions.deflated(operator.adjoint(signs / signs.size), left, right)
        value = float(start.spectrum(Z, 1, problem.symmetric).values[0])
        chance = directions.chance_level(operator, problem.symmetric)
        return value if value > _CHANCE * chance else 0.0

    def _cut(self, problem: Any, state: SubgradientState) -> None:
        """Truncate at the gap, and go on from there with steps of the size of the residual."""
        U, V = state.U, state.U if state.V is None else state.V
        if not (np.isfinite(U).all() and np.isfinite(V).all()):
            return
        U, V = start.truncate_at_gap(U, V, state.alpha)
        state.U, state.V = U, None if state.V is None else V
        state.cut, state.sizes, state.idle = True, None, 0
        if not state.held.size:
            state.best, state.best_residual = None, math.inf
        self._measure(problem, state)
        if self.schedule in _RHO:
            state.decaying = True
            state.decay = max(state.decay, min(1.0, _WARM * state.residual))

    def _until_check(self, state: State, n: int) -> int:
        """Iterations to the next multiple of `check_every`: a resumed run has the same checks."""
        every = self.check_every
        return n if isinstance(every, str) else min(n, every - state.nit % every)

    def _stalled(self, problem: Any, state: SubgradientState) -> bool:
        if self.schedule not in _RHO:
            return state.idle >= _IDLE_LIMIT * self.patience
        eps = float(np.finfo(problem.dtype).eps)
        return state.decay < max(min(_SMALL_STEP, 0.01 * self.tol), 0.1 * eps)

    def _measure(self, problem: Any, state: SubgradientState) -> None:
        """Residual, and the best point of all checks."""
        V = state.U if state.V is None else state.V
        finite = math.isfinite(float(np.sum(state.U)) + float(np.sum(V)))
        state.residual = start.relative_step(problem, state.U, V) if finite else math.nan
        due = self.check_every == "auto" or state.nit % self.check_every == 0
        better = due and state.residual < state.best_residual
        if not state.held.size and (better or state.best is None):
            state.best, state.best_residual = self.point(problem, state), state.residual

    def _keep_held(self, problem: Any, state: SubgradientState, cache: _Cache) -> None:
        """Keep the point with the smallest held-out loss."""
        if not state.held.size:
            return
        V = state.U if state.V is None else state.V
        errors = cache.held_operator.apply(state.U, V) - cache.held_targets
        value = float(np.mean(np.abs(errors), dtype=np.float64))
        if value < state.held_value or state.best is None:
            state.best, state.held_value = self.point(problem, state), value

    def _check_budget(
        self, problem: Any, state: SubgradientState, cache: _Cache, values: NDArray[np.float64]
    ) -> None:
        """Warn if the weakest direction that shows in the data has not the budget to grow."""
        m, n = problem.shape
        # The largest singular value that signs without any signal would have.
        spread = 2.0 * m if problem.symmetric else (math.sqrt(m) + math.sqrt(n)) ** 2
        squares = values**2 - cache.c * spread / cache.targets.size
        signal = np.sqrt(squares[squares > _VISIBLE * values**2])
        if not signal.size or state.alpha >= 1.0:
            return
        eta0 = _ETA0[self.schedule] if self.eta0 is None else self.eta0
        growth = (2.0 if problem.symmetric else 1.0) * eta0 * float(signal[-1] / values[0])
        distance = math.log(1.0 / state.alpha)
        slowest = growth / distance
        if slowest < 1.0 - self._rho():
            digits = 10.0 ** (1 - math.floor(math.log10(slowest)))
            enough = 1.0 - math.floor(slowest * digits) / digits
            warnings.warn(
                f"rho={self._rho():g} with schedule='geometric' stops the growth from "
                f"alpha={state.alpha:g} before the weakest direction that shows in the data is "
                f"there, and may leave the answer at 0; rho >= {enough:.10g} would suffice, or "
                "schedule='two-phase'",
                AccuracyWarning,
                stacklevel=2,
            )
