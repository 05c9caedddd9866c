"""Robust alternating minimisation with Huber weights, a falling threshold and a growing rank."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np

from lowrank_opt.core.params import COUNT, Interval, StrOptions, make_rng
from lowrank_opt.core.protocols import HasCertificate, HasObjective, HasObservations
from lowrank_opt.core.solver import Solver
from lowrank_opt.core.state import State, Status
from lowrank_opt.recovery import kernels
from lowrank_opt.recovery import kernels_robust as robust
from lowrank_opt.recovery.alternating import _orthogonalize
from lowrank_opt.recovery.lowrank import LowRankMatrix
from lowrank_opt.recovery.row_rescue import rescue_rows

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lowrank_opt.recovery.robust import LowRankPlusSparse

__all__ = ["HuberALS"]

GROWING, REFINING = 0, 1
# Quantiles over more entries than this are taken over an evenly spaced sample of half as many,
# as in the certificate.
_SAMPLE = 400_000
_GROWTH_SAMPLE = 40_000
_HELD_SAMPLE = 50_000
# Sweeps at each rank: at least, at most; the search goes on to the next rank when the median of
# the residual falls by less than a tenth in a sweep.
_SWEEPS = (4, 40)
_SLOW = 0.9
# Blocks of directions, with few sweeps each, from this number of entries on.
_MANY_ENTRIES = 2_000_000
_BLOCK_SWEEPS = 3
_SUBSPACE_ITERATIONS = 4
# Directions are kept when they lower the held-out errors by this many standard errors, given up
# when they raise them as much, and after so many without either. The rank is found when the median
# of the residual is this part of the data's.
_BETTER, _WORSE = 2.0, 3.0
_TRIES = 4
_EXACT = {4: 3e-5, 8: 1e-5}
# Sweeps without a smaller residual after which a run counts as stalled.
_PATIENCE = 25
# Rows that most entries contradict are looked for at the end, and every so many sweeps.
_RESCUES = 5
_RESCUE_EVERY = 10
_NUMERICAL_RANK = 1e-7


class _Cache(NamedTuple):
    residual: NDArray[Any]
    held: NDArray[np.int64]
    held_rows: NDArray[np.int64]
    work: list[Any]


@dataclass
class HuberState(State):
    """Padded factors, and where in the search the run is."""

    U: Any = None
    V: Any = None
    rank: int = 0
    phase: int = GROWING
    delta: float = math.inf
    inner: int = 0
    median: float = math.inf
    tries: int = 0
    salt: int = 0
    saved: Any = None
    lowest: float = math.inf
    idle: int = 0
    rescues: int = 0


class HuberALS(Solver):
    r"""Alternating reweighted least squares with Huber weights, for data with gross errors.

    Every half sweep fixes one factor and moves each row of the other one to the minimum of its
    weighted regression, entries weighted by ``min(1, delta / |e|)`` with e their residual. The
    threshold `delta` follows the median of the residual down, by a limited factor a sweep.

    The default start grows the rank: from 0, the leading singular direction of the clipped
    residual is added and swept, until the rank of the problem is reached, or (``rank="auto"``)
    until held-out entries are not predicted any better; the direction that did not help is taken
    out again.

    Parameters
    ----------
    tol : float, default=1e-6
        Stops when the relative reweighted step is at most `tol`: the root of the decrease of the
        reweighted sum of squares that solving all rows, and all columns, would bring, over the
        weighted square of the data (see :meth:`LowRankPlusSparse.certificate`, whose formula
        has mean curvatures for the rows' own).
    max_iter : int, default=200
        Limit on sweeps, those at smaller ranks included.
    max_time : float or None, default=None
        Limit on seconds.
    check_every : int, default=1
        Sweeps between two checks.
    start : {"growth", "spectral"}, default="growth"
        "growth": see above. "spectral": all directions at once, from the clipped data; faster,
        and fails when gross errors are large and singular values differ. A problem with
        ``rank="auto"`` is always grown.
    weights : {"huber", "welsch"}, default="huber"
        "welsch": squared weights, ``min(1, (delta / |e|)²)``, once the rank is found.
    outlier_bound : float or None, default=None
        With a number in (0, 0.5), `delta` is at least the ``1 - outlier_bound`` quantile of the
        residual's size while the rank grows. A bound that is met exactly lets large errors in;
        without one (``None``) `delta` follows the median alone, which stands up to 40 per cent.
    decay : float, default=0.3
        Smallest factor by which `delta` changes in a sweep.
    min_kept : int or None, default=None
        Entries of every row and column that keep full weight while the rank grows, the row's own
        threshold being raised when there are fewer; ``None``: 0. Huber weights never cut off a
        row altogether, and a higher threshold keeps gross errors in: it is useful with few, very
        unequal observations at most.
    growth_block : int or None, default=None
        Directions added at a time when the rank is known; ``None``: 1, or a third of the rank
        from 2 million entries on, with three sweeps for each block.
    holdout : float, default=0.05
        Part of the entries that is held out while the rank is unknown.
    n_threads : int or None, default=None
        Threads; the result has the same bits for every number.
    random_state : int, Generator or None, default=None
        Seed of the singular vectors' starts, of the held-out entries and of row repairs.
    """

    requires: ClassVar[tuple[type, ...]] = (HasObservations, HasObjective, HasCertificate)
    monotone = False
    blas_threads = 1
    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "start": [StrOptions({"growth", "spectral"})],
        "weights": [StrOptions({"huber", "welsch"})],
        "outlier_bound": [None, Interval(Real, 0, 0.5, closed="neither")],
        "decay": [Interval(Real, 0, 1, closed="neither")],
        "min_kept": [None, Interval(Integral, 0, None)],
        "growth_block": [None, COUNT],
        "holdout": [Interval(Real, 0, 0.5, closed="neither")],
    }

    def __init__(
        self,
        *,
        tol: float = 1e-6,
        max_iter: int = 200,
        max_time: float | None = None,
        check_every: int = 1,
        start: str = "growth",
        weights: str = "huber",
        outlier_bound: float | None = None,
        decay: float = 0.3,
        min_kept: int | None = None,
        growth_block: int | None = None,
        holdout: float = 0.05,
        n_threads: int | None = None,
        random_state: Any = None,
    ) -> None:
        self.tol = tol
        self.max_iter = max_iter
        self.max_time = max_time
        self.check_every = check_every
        self.start = start
        self.weights = weights
        self.outlier_bound = outlier_bound
        self.decay = decay
        self.min_kept = min_kept
        self.growth_block = growth_block
        self.holdout = holdout
        self.n_threads = n_threads
        self.random_state = random_state

    # -- the three parts of the contract ---------------------------------------------------------

    @classmethod
    def accepts(cls, problem: Any) -> list[str]:
        """Robust losses without ridge, biases, offset and constraints."""
        missing = []
        if getattr(problem, "loss", None) not in ("huber", "l1"):
            missing.append("loss='huber' or 'l1'")
        for name, wanted in (
            ("penalty", "ridge"), ("reg", 0), ("biases", False), ("centered", False),
            ("nonnegative", False), ("implicit_weight", 0),
        ):  # fmt: skip
            if getattr(problem, name, wanted) != wanted:
                missing.append(f"{name}={wanted!r}")
        return missing

    def init(self, problem: LowRankPlusSparse, x0: Any = None) -> HuberState:
        """Return the first state; with `x0` of the full rank its residual is known."""
        state = HuberState(rng=make_rng(self.random_state))
        assert state.rng is not None
        state.salt = int(state.rng.integers(1 << 62))
        U, V = (np.zeros((length, 0), problem.dtype) for length in problem.shape)
        if x0 is not None:
            U, V = _compressed(problem.start(x0))
        _set_factors(state, U, V)
        if state.rank and (not problem.rank_known or state.rank >= problem.rank_limit):
            state.phase = REFINING
        cache = self._prepare(problem, state)
        sizes = np.abs(self._sample(cache.residual))
        state.delta = max(float(np.median(sizes)), problem.robust_scale(sizes))
        if state.phase == REFINING:
            state.delta = problem.robust_scale(sizes)
            self._measure(problem, state, cache)
        else:
            self._grow(problem, state, cache)
        return state

    def step(self, problem: LowRankPlusSparse, state: State, n: int = 1) -> State:
        """Do `n` sweeps: all rows, then all columns."""
        assert isinstance(state, HuberState)
        cache = self._prepare(problem, state)
        for _ in range(n):
            if state.phase == GROWING and state.inner < 0:
                self._grow(problem, state, cache)
            moved = self._sweep(problem, state, cache)
            state.nit += 1
            if not math.isfinite(moved):
                state.residual = math.nan
                return state
            if state.phase == GROWING:
                self._search(problem, state, cache)
            else:
                self._refine(problem, state, cache, moved)
                if state.residual <= self.tol:
                    break
        return state

    def terminate(self, problem: LowRankPlusSparse, state: State) -> Status | None:
        """Return the status to stop with, or ``None``."""
        assert isinstance(state, HuberState)
        if math.isnan(state.residual):
            return Status.DIVERGED
        if state.residual <= self.tol:
            return Status.CONVERGED
        if state.idle >= _PATIENCE:
            state.message = _join(
                state.message,
                f"No smaller step in {_PATIENCE} sweeps: the precision of {problem.dtype} limits it"
                if state.lowest < 1e3 * np.finfo(problem.dtype).eps
                else f"No smaller step in {_PATIENCE} sweeps",
            )
            return Status.STALLED
        return None

    def point(self, problem: LowRankPlusSparse, state: State) -> LowRankMatrix:
        """Return the factors, without padding."""
        assert isinstance(state, HuberState)
        k = state.rank
        return LowRankMatrix(state.U[:, :k].copy(), state.V[:, :k].copy())

    # -- the search for the rank -----------------------------------------------------------------

    def _search(self, problem: LowRankPlusSparse, state: HuberState, cache: _Cache) -> None:
        """After a sweep at a rank that is not final: go on, grow, or begin the refinement."""
        sizes = np.abs(self._sample(cache.residual, _GROWTH_SAMPLE))
        median = float(np.median(sizes))
        state.delta = max(self.decay * state.delta, problem.robust_scale(sizes))
        if self.outlier_bound is not None:
            state.delta = max(state.delta, float(np.quantile(sizes, 1.0 - self.outlier_bound)))
        state.inner += 1
        least, most = _SWEEPS
        if self._blocks(problem) > 1:
            least = most = _BLOCK_SWEEPS
        slow = median > _SLOW * state.median
        state.median = median
        exact = median <= _EXACT[problem.dtype.itemsize] * _size(problem)
        if not exact and state.inner < most and not (slow and state.inner >= least):
            return
        state.inner = -1
        if problem.rank_known:
            if state.rank >= problem.rank_limit:
                self._settle(problem, state, cache)
            return
        gain = self._gain(problem, state, cache)
        if gain > _BETTER:
            state.saved = None
        if exact or state.rank >= problem.rank_limit or gain < -_WORSE or state.tries >= _TRIES:
            if state.saved is not None:
                self._restore(problem, state, cache)
            self._settle(problem, state, cache)

    def _gain(self, problem: LowRankPlusSparse, state: HuberState, cache: _Cache) -> float:
        """Return by how many standard errors held-out entries are predicted better than before.

        Compared are errors clipped at the median of the earlier ones, entry by entry.
        """
        if state.saved is None or state.saved[0].shape[1] == 0:
            return math.inf
        U, V, _, rank = state.saved
        before = _held_errors(problem, cache, U[:, :rank], V[:, :rank])
        after = _held_errors(problem, cache, state.U[:, : state.rank], state.V[:, : state.rank])
        bound = float(np.median(before))
        gains = np.minimum(before, bound) - np.minimum(after, bound)
        deviation = float(gains.std())
        return float(gains.mean()) * math.sqrt(len(gains)) / deviation if deviation else 0.0

    def _restore(self, problem: LowRankPlusSparse, state: HuberState, cache: _Cache) -> None:
        """Return to the factors before directions were added that did not help."""
        state.U, state.V, state.delta, state.rank = state.saved
        self._refresh(problem, state, cache)

    def _settle(self, problem: LowRankPlusSparse, state: HuberState, cache: _Cache) -> None:
        """Begin the refinement at the present rank, with all entries."""
        state.phase, state.saved, state.inner = REFINING, None, 0
        if not problem.rank_known:
            state.message = f"Rank found: {state.rank}"

    def _grow(self, problem: LowRankPlusSparse, state: HuberState, cache: _Cache) -> None:
        """Append the leading singular directions of the clipped residual to `V`."""
        assert state.rng is not None
        if not problem.rank_known:
            if state.saved is None:
                state.saved, state.tries = (state.U, state.V, state.delta, state.rank), 0
            state.tries += 1
        obs, k, dtype = problem.observations, state.rank, problem.dtype
        block = min(self._blocks(problem), problem.rank_limit - k)
        weighting = self._weighting(state)
        Q = state.rng.standard_normal((problem.shape[1], block)).astype(dtype)
        for _ in range(_SUBSPACE_ITERATIONS):
            for o, perm in ((obs, None), (obs.T, obs.perm)):
                product = robust.clipped_product(
                    o.indptr, o.indices, cache.residual, kernels.pad_factor(Q), weighting,
                    weights=o.weights, perm=perm, n_threads=None,
                )  # fmt: skip
                Q = np.linalg.qr(product[:, :block].astype(np.float64)).Q.astype(dtype)
        state.count(matvecs=2 * _SUBSPACE_ITERATIONS * block)
        Q *= dtype.type(math.sqrt(problem.shape[1]))
        U = np.hstack([state.U[:, :k], np.zeros((problem.shape[0], block), dtype)])
        _set_factors(state, U, np.hstack([state.V[:, :k], Q]))
        state.inner, state.median = 0, math.inf

    def _blocks(self, problem: LowRankPlusSparse) -> int:
        """Return the number of directions to add at a time."""
        if not problem.rank_known:
            return 1
        if self.start == "spectral":
            return problem.rank_limit
        if self.growth_block is not None:
            return self.growth_block
        many = problem.observations.nnz >= _MANY_ENTRIES
        return -(-problem.rank_limit // 3) if many else 1

    # -- the refinement --------------------------------------------------------------------------

    def _refine(
        self, problem: LowRankPlusSparse, state: HuberState, cache: _Cache, moved: float
    ) -> None:
        """After a sweep at the final rank: the next threshold, and whether to stop."""
        scale = problem.robust_scale(np.abs(self._sample(cache.residual)))
        falling = scale < self.decay * state.delta
        state.delta = max(scale, self.decay * state.delta)
        state.residual = max(moved, math.nextafter(self.tol, math.inf))
        state.inner += 1
        finished = moved <= self.tol and not falling
        stuck = state.inner % _RESCUE_EVERY == 0
        if (finished or stuck) and state.rescues < _RESCUES:
            repaired = self._rescue(problem, state, cache)
            if repaired:
                state.rescues += 1
                state.lowest, state.idle, state.best = math.inf, 0, None
                return
        if finished:
            self._measure(problem, state, cache)
        if state.residual < 0.99 * state.lowest:
            state.lowest, state.idle = state.residual, 0
        else:
            state.idle += 1
        if state.best is None or state.residual <= state.best_residual:
            state.best, state.best_residual = self.point(problem, state), state.residual

    def _measure(self, problem: LowRankPlusSparse, state: HuberState, cache: _Cache) -> None:
        """Set the residual of the very iterate: what another half sweep of either side would do."""
        scale = problem.robust_scale(np.abs(self._sample(cache.residual)))
        weighting = robust.Weighting(scale)
        total = 0.0
        for which in ("rows", "cols"):
            report = self._half(problem, state, cache, which, weighting, apply=False)
            total += report.decrement
        state.count(passes=2)
        state.residual = math.sqrt(total / report.square) if report.square else math.sqrt(total)

    def _rescue(self, problem: LowRankPlusSparse, state: HuberState, cache: _Cache) -> int:
        """Fit rows and columns anew that most of their entries contradict."""
        obs, k = problem.observations, state.rank
        sizes = np.abs(self._sample(cache.residual))
        bound = 3.0 * 1.4826 * float(np.median(sizes))
        bound += max(32.0 * float(np.finfo(problem.dtype).eps), 10.0 * self.tol) * _size(problem)
        repaired = 0
        for o, perm, F, X in (
            (obs, None, state.V, state.U), (obs.T, obs.perm, state.U, state.V),
        ):  # fmt: skip
            repaired += rescue_rows(
                o.indptr, o.indices, o.values, cache.residual, F, X, k, bound, state.rng, perm=perm
            )
        state.count(rescued_rows=repaired)
        return repaired

    # -- pieces ----------------------------------------------------------------------------------

    def _weighting(self, state: HuberState) -> robust.Weighting:
        growing = state.phase == GROWING
        power = 2 if self.weights == "welsch" and not growing else 1
        kept = (self.min_kept or 0) if growing else 0
        return robust.Weighting(
            state.delta, power, kept, 0.0, state.salt, self._bound() if growing else 0
        )

    def _bound(self) -> int:
        return int(self.holdout * 2.0**64)

    def _sweep(self, problem: LowRankPlusSparse, state: HuberState, cache: _Cache) -> float:
        """Solve for all rows and for all columns; return the relative step."""
        weighting = self._weighting(state)
        total = 0.0
        for which in ("rows", "cols"):
            report = self._half(problem, state, cache, which, weighting)
            total += report.decrement
            state.count(damped_rows=report.damped, failed_rows=report.failed)
        state.count(sweeps=1, passes=2)
        return math.sqrt(total / report.square) if report.square else math.sqrt(total)

    def _half(
        self, problem: LowRankPlusSparse, state: HuberState, cache: _Cache, which: str,
        weighting: robust.Weighting, apply: bool = True,
    ) -> robust.HalfReport:  # fmt: skip
        obs, k = problem.observations, state.rank
        F, X = (state.V, state.U) if which == "rows" else (state.U, state.V)
        o, perm = (obs, None) if which == "rows" else (obs.T, obs.perm)
        if apply:
            _orthogonalize(F, X, k)
        return robust.sweep_rows(
            o.indptr, o.indices, o.values, cache.residual, F, X, weighting, rank=k,
            weights=o.weights, perm=perm, apply=apply, n_threads=None,
        )  # fmt: skip

    def _prepare(self, problem: LowRankPlusSparse, state: HuberState) -> _Cache:
        if state.cache is None:
            obs = problem.observations
            held = np.empty(0, np.int64)
            if not problem.rank_known and state.phase == GROWING:
                weighting = robust.Weighting(1.0, salt=state.salt, bound=self._bound())
                held = robust.held_out(obs.nnz, weighting, _HELD_SAMPLE)
            rows = np.searchsorted(obs.indptr, held, side="right") - 1
            state.cache = _Cache(np.empty(obs.nnz, problem.dtype), held, rows, [])
            self._refresh(problem, state, state.cache)
        return state.cache

    def _refresh(self, problem: LowRankPlusSparse, state: HuberState, cache: _Cache) -> None:
        obs = problem.observations
        robust.refresh(
            obs.indptr, obs.indices, obs.values, cache.residual, state.V, state.U, n_threads=None
        )

    def _sample(self, residual: NDArray[Any], limit: int = _SAMPLE) -> NDArray[Any]:
        step = 1 if residual.size <= limit else -(-residual.size // (limit // 2))
        return residual[::step]


def _held_errors(problem, cache, U, V):
    values = problem.observations.values[cache.held]
    rows, cols = cache.held_rows, problem.observations.indices[cache.held]
    out = np.empty(len(values))
    for start in range(0, len(values), 4096):
        part = slice(start, start + 4096)
        product = np.einsum("ij,ij->i", U[rows[part]], V[cols[part]])
        out[part] = np.abs(values[part] - product)
    return out


def _set_factors(state: HuberState, U: NDArray[Any], V: NDArray[Any]) -> None:
    state.rank = U.shape[1]
    state.U, state.V = (kernels.pad_factor(np.ascontiguousarray(F)) for F in (U, V))


def _compressed(x: LowRankMatrix) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the factors of a start as they are, or without directions that it does not have."""
    values = x.singular_values()
    rank = int(np.count_nonzero(values > _NUMERICAL_RANK * values.max(initial=0.0)))
    if rank == x.rank:
        return x.U, x.V
    QU, RU = np.linalg.qr(x.U.astype(np.float64))
    QV, RV = np.linalg.qr(x.V.astype(np.float64))
    P, s, Qt = np.linalg.svd(RU @ RV.T)
    U, V = QU @ (P[:, :rank] * s[:rank]), QV @ Qt[:rank].T
    return U.astype(x.dtype), V.astype(x.dtype)


def _size(problem: Any) -> float:
    return float(problem.value_size)


def _join(*parts: str) -> str:
    return ". ".join(part for part in parts if part)
