"""Robust alternating minimisation with Huber weights, a falling threshold and a growing rank."""

from __future__ import annotations

import math
import time
import warnings
from dataclasses import dataclass
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np

from lowrank_opt.core.errors import AccuracyWarning
from lowrank_opt.core.params import COUNT, Interval, StrOptions, make_rng
from lowrank_opt.core.protocols import HasCertificate, HasObjective, HasObservations
from lowrank_opt.core.solver import Solver
from lowrank_opt.core.state import State, Status
from lowrank_opt.recovery import kernels
from lowrank_opt.recovery import kernels_robust as robust
from lowrank_opt.recovery._samples import check_size, sample
from lowrank_opt.recovery.lowrank import LowRankMatrix
from lowrank_opt.recovery.row_rescue import rescue_rows

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lowrank_opt.recovery.robust import LowRankPlusSparse

__all__ = ["HuberALS"]

GROWING, REFINING = 0, 1
# Huber's constant times the factor that makes a median deviation a standard deviation.
_HUBER = 1.345 * 1.4826
_INLIER = 3.0 * 1.4826
# While the rank grows, medians over more entries than this are taken over a sample of half as
# many; so many held-out entries are compared.
_GROWTH_SAMPLE, _HELD_SAMPLE = 40_000, 50_000
# Sweeps at each rank: at least, at most; the search goes on to the next rank when the median of
# the residual falls by less than this factor in a sweep.
_SWEEPS = (4, 60)
_SLOW = 0.97
# Blocks of directions, with few sweeps each, from this number of entries on.
_MANY_ENTRIES = 2_000_000
_BLOCK_SWEEPS = 3
_SUBSPACE_ITERATIONS = 4
# Directions are kept when they lower the held-out errors by this many standard errors, given up
# when they raise them by so many, and after so many directions without either.
_BETTER, _WORSE, _TRIES = 2.0, 3.0, 4
# The rank is found when the median of the residual is this part of the data's, by precision.
_EXACT = {4: 3e-5, 8: 1e-5}
# Rows that most entries contradict are looked for at the end, and every so many sweeps.
_RESCUES, _RESCUE_EVERY = 5, 10
# Problems with a constant threshold: a sweep that lowers the median by this factor keeps `delta` at
# the median's scale; later it falls by this factor.
_CONTRACTING, _SLOW_DECAY = 0.95, 0.5
# Sweeps without a smaller residual after which a run counts as stalled.
_PATIENCE = 25
_NUMERICAL_RANK = 1e-7
_BLOCK = 4096
# The sub-gradient start: limit on iterations; factor between two singular values that is a gap;
# largest rank there, as a part of the largest that may be searched.
_SMALL_ITERATIONS = 2000
_GAP, _SMALL_PART = 10.0, 0.5
# A direction of the clipped residual is visible when its singular value is this many times that
# of the same entries with random signs.
_VISIBLE = 1.3
# The answer is suspiciously large when its entries are this many times the data, by root mean
# squares: the unobserved ones are not determined.
_LARGE = 10.0


class _Cache(NamedTuple):
    residual: NDArray[Any]
    held: NDArray[np.int64]
    held_rows: NDArray[np.int64]
    size: float  # of the data: what rounding is relative to
    factors: list[NDArray[Any]]  # before the last sweep, to fall back on


@dataclass
class HuberState(State):
    """Padded factors, and where in the search the run is.

    Parameters
    ----------
    U, V : ndarray
        Factors in the layout of the kernels.
    rank : int
        Their number of columns.
    phase : int
        0: the rank grows; 1: it is final.
    delta : float
        Threshold of the next sweep.
    power : int
        2 while the weights are squared.
    inner : int
        Sweeps at this rank, or since it is final; -1: directions are to be added.
    median : float
        Median of the residual after the last sweep while the rank grows.
    salt : int
        Chooses the held-out entries.
    saved : tuple or None
        Factors, delta and rank before directions that have not proved useful yet.
    tries : int
        Number of these directions.
    lowest, idle : float, int
        Smallest residual since the rank is final, sweeps since then.
    rescues : int
        How often rows were fitted anew at this rank.
    given : int
        Number of directions of a start that are on trial.
    kept, limited : bool
        Whether the rank is that of the start, unchecked; whether it may be higher.
    """

    U: Any = None
    V: Any = None
    rank: int = 0
    phase: int = GROWING
    delta: float = math.inf
    power: int = 1
    inner: int = 0
    median: float = math.inf
    salt: int = 0
    saved: Any = None
    tries: int = 0
    lowest: float = math.inf
    idle: int = 0
    rescues: int = 0
    given: int = 0
    kept: bool = False
    limited: bool = False


class HuberALS(Solver):
    r"""Alternating reweighted least squares with Huber weights, for data with gross errors.

    Every half sweep fixes one factor and moves each row of the other one to the minimum of its
    weighted regression, with weights :math:`\min(1, \delta / |e|)` for residuals e. The threshold
    :math:`\delta` follows the median of :math:`|e|` down, by a limited factor a sweep.

    By default the rank grows: the leading singular direction of the clipped residual is added and
    swept in, until the rank of the problem is reached, or, when that is not known, until entries
    that were held out are not predicted better any more; directions that did not help are taken
    out again, and the sweeps go on with all entries.

    Parameters
    ----------
    tol : float, default=1e-6
        Stops when the relative reweighted step is at most `tol`: its square is the decrease of
        the weighted sum of squares that solving for all rows, plus that for all columns, would
        bring, relative to the mean square of the data (without what gross errors add to it) times
        the sum of the weights. The certificate of
        :class:`~lowrank_opt.recovery.LowRankPlusSparse` measures it with mean curvatures instead
        of each row's own. It is not known (infinite) while the rank grows.
    max_iter : int, default=200
        Limit on sweeps, those at smaller ranks included.
    max_time : float or None, default=None
        Limit on seconds.
    check_every : int, default=1
        Sweeps between two checks.
    start : {"growth", "spectral", "small"}, default="growth"
        "growth": see above. "spectral": all directions at once; faster, but it fails when gross
        errors are large or singular values differ. "small": the factors of a
        :class:`~lowrank_opt.recovery.SubgradientMethod`, for the absolute loss. Its iterations
        (``counts["subgradient_iterations"]``, at most 2000) come before the first sweep: they obey
        `max_time`, but `max_iter` does not count them and callbacks do not see them. An unknown
        rank is grown with "spectral", too, and with "small" when the factors have no gap of a
        factor of 10 between their singular values, or one beyond half of the largest rank that
        may be searched; what they have above a gap is treated like a warm start.
    weights : {"huber", "welsch"}, default="huber"
        "welsch": once the rank is found, squared weights until the steps are below `tol`, then
        Huber's where these still move the point. Large errors lose all influence, and a wrong
        point is as stable as the right one.
    outlier_bound : float or None, default=None
        With a number in (0, 0.5), :math:`\delta` is at least the ``1 - outlier_bound`` quantile of
        :math:`|e|` while the rank grows. A bound that is met exactly lets large errors in; by the
        median alone (``None``) 40 % of gross errors were withstood.
    decay : float, default=0.1
        Smallest factor by which :math:`\delta` changes in a sweep.
    min_kept : int, default=0
        Entries of every row and column that keep full weight while the rank grows, the row's own
        threshold being doubled while there are fewer. Huber weights never cut a row off; more
        entries kept than the rank has columns let gross errors in.
    growth_block : int or None, default=None
        Directions to add at a time when the rank is known, with three sweeps for each block;
        ``None``: 1 with as many sweeps as help, or a third of the rank from 2 million entries on.
    holdout : float, default=0.05
        Part of the entries to hold out while an unknown rank grows.
    n_threads : int or None, default=None
        Threads; the result has the same bits for every number.
    random_state : int, Generator or None, default=None
        Seed of singular vectors, held-out entries and repairs.

    Warns
    -----
    AccuracyWarning
        The search stopped at the largest rank that it may try, and further directions show in the
        residual; or the entries of the answer are, by root mean squares, more than ten times the
        data, so that the data do not determine it: the rank is probably too high.

    Notes
    -----
    *Rank.* A direction is kept when errors of held-out entries, clipped at their former median,
    fall by two standard errors (entry by entry); growth ends after a rise of three, or after four
    directions in doubt. ``Result.message`` says which rank was found.

    *Repairs.* Given the other factor, every row is a regression with outliers of its own, and in
    a row with few entries, many of them wrong, reweighting can stop in a wrong place. Rows that
    more than half of their entries contradict are therefore fitted anew to random subsets, and
    changed when more entries agree then. ``Result.counts["rescued_rows"]`` counts them.

    *Warm start.* With ``x0`` of the problem's rank the run begins with the final sweeps; fewer
    columns are grown. When the rank is not known, ``x0`` is kept as it is if its residual is at
    most `tol` and its own residuals show no further direction ("Rank of the start kept" in
    ``Result.message``: no other rank was tried). Otherwise it is swept without the held-out
    entries; if all of its directions help to predict them the search for the rank goes on from
    there, if not it begins anew.

    *Limits.* A run that is stopped while an unknown rank grows returns the last factors whose
    directions have all proved useful; ``Result.message`` says that the search is not finished.

    *Stops* also (``STALLED``) when the step has not become smaller for 25 sweeps: at the rounding
    level of float32, for instance, which is some 1e-7.

    *Counters*: ``sweeps``; ``passes`` over the data, two a sweep and two a check of the answer;
    ``matvecs`` of the clipped residual; ``damped_rows`` and ``failed_rows``: solves of rows with
    too few or dependent entries, and rows left alone.

    Cost per sweep: ``2·N·k·(k + 5)`` flops; memory beyond the problem: 4 bytes (an index) and one
    number an entry.

    Examples
    --------
    >>> import numpy as np
    >>> from lowrank_opt.recovery import HuberALS, LowRankPlusSparse
    >>> rng = np.random.default_rng(0)
    >>> L = rng.standard_normal((60, 2)) @ rng.standard_normal((2, 50))
    >>> M = L.copy()
    >>> M[rng.random(M.shape) < 0.1] += 10.0
    >>> M[rng.random(M.shape) < 0.3] = np.nan
    >>> result = HuberALS(tol=1e-9, random_state=0).solve(LowRankPlusSparse.from_dense(M))
    >>> result.success, result.x.rank
    (True, 2)
    >>> bool(np.abs(result.x.to_dense() - L).max() < 1e-6)
    True
    """

    requires: ClassVar[tuple[type, ...]] = (HasObservations, HasObjective, HasCertificate)
    monotone: ClassVar[bool] = False
    blas_threads = 1
    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "start": [StrOptions({"growth", "spectral", "small"})],
        "weights": [StrOptions({"huber", "welsch"})],
        "outlier_bound": [None, Interval(Real, 0, 0.5, closed="neither")],
        "decay": [Interval(Real, 0, 1, closed="neither")],
        "min_kept": [Interval(Integral, 0, None)],
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
        decay: float = 0.1,
        min_kept: int = 0,
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
                missing.append(f"{'center' if name == 'centered' else name}={wanted!r}")
        return missing

    def init(self, problem: LowRankPlusSparse, x0: Any = None) -> HuberState:
        """Return the first state; with `x0` of the full rank its residual is known."""
        check_size(problem.observations.values, "the observed values")
        state = HuberState(rng=make_rng(self.random_state))
        assert state.rng is not None
        state.salt = int(state.rng.integers(1 << 62))
        if x0 is not None:
            U, V = self._directions(problem, problem.start(x0))
        elif self.start == "small":
            U, V = self._small_start(problem, state)
        else:
            U, V = _nothing(problem)
        _set_factors(state, U, V)
        cache = self._prepare(problem, state)
        median = float(np.median(np.abs(sample(cache.residual))))
        if state.rank and not median < (math.inf if problem.rank_known else cache.size):
            self._begin_anew(problem, state, cache)
            median = float(np.median(np.abs(sample(cache.residual))))
        if problem.rank_known:
            final = state.rank == problem.rank_limit
        else:
            final = x0 is not None and self._is_answer(problem, state, cache)
            state.kept = final
        if final:
            sizes = np.abs(sample(cache.residual))
            state.delta = max(problem.robust_scale(sizes), _HUBER * median)
            self._settle(problem, state)
            if problem.rank_known:
                self._measure(problem, state, cache)
            return state
        state.delta = _HUBER * median or cache.size
        if state.rank and not problem.rank_known:
            nothing = [kernels.pad_factor(F) for F in _nothing(problem)]
            state.saved, state.tries, state.given = (*nothing, state.delta, 0), 1, state.rank
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
            if not (math.isfinite(moved) and all(np.isfinite(F).all() for F in (state.U, state.V))):
                state.U, state.V = cache.factors
                state.residual = math.nan
                break
            if state.phase == GROWING:
                self._search(problem, state, cache)
            else:
                self._refine(problem, state, cache, moved)
            if self.terminate(problem, state) is not None:
                break
        return state

    def terminate(self, problem: LowRankPlusSparse, state: State) -> Status | None:
        """Return the status to stop with, or ``None``."""
        assert isinstance(state, HuberState)
        if math.isnan(state.residual):
            return Status.DIVERGED
        if state.residual <= self.tol:
            return Status.CONVERGED
        return Status.STALLED if state.idle >= _PATIENCE else None

    def point(self, problem: LowRankPlusSparse, state: State) -> LowRankMatrix:
        """Return the factors, without padding."""
        assert isinstance(state, HuberState)
        k = state.rank
        return LowRankMatrix(state.U[:, :k].copy(), state.V[:, :k].copy())

    def answer(
        self, problem: LowRankPlusSparse, state: State, status: Status
    ) -> tuple[LowRankMatrix, float]:
        """The last or the best point; while the rank grows, the last one that proved useful."""
        assert isinstance(state, HuberState)
        x, residual = super().answer(problem, state, status)
        if state.phase == GROWING and state.saved is not None and state.saved[3] > 0:
            U, V, _, rank = state.saved
            x = LowRankMatrix(U[:, :rank].copy(), V[:, :rank].copy())
        state.message, doubts = self._describe(problem, state, x)
        if status not in (Status.DIVERGED, Status.NUMERICAL_ERROR):
            for doubt in doubts:
                warnings.warn(f"{type(self).__name__}: {doubt}", AccuracyWarning, stacklevel=5)
        return x, residual

    def _describe(
        self, problem: LowRankPlusSparse, state: HuberState, x: LowRankMatrix
    ) -> tuple[str, list[str]]:
        """What to say about the rank, the accuracy and the size; what of it is a warning."""
        parts, doubts = [], []
        if state.phase == GROWING:
            parts.append(
                f"The rank still grew: {x.rank} of {problem.rank_limit}" if problem.rank_known else
                f"The search for the rank was not finished: {x.rank} so far"
            )  # fmt: skip
        elif state.limited:
            given = getattr(problem, "max_rank", None) is not None
            name = "max_rank" if given else "the largest rank that is tried,"
            doubts.append(
                f"The search for the rank stopped at {name}{'=' if given else ' '}{x.rank}; it may "
                "be higher"
            )
        elif not problem.rank_known:
            parts.append(f"Rank {'of the start kept' if state.kept else 'found'}: {x.rank}")
        if state.idle >= _PATIENCE:
            reason = f"the step has not become smaller in {_PATIENCE} sweeps"
            if state.lowest < 1e3 * np.finfo(problem.dtype).eps:
                reason += f": {problem.dtype} does not allow a smaller tol"
            parts.append(reason)
        ratio = _mean_size(x) / math.sqrt(problem.value_square)
        if state.phase == REFINING and ratio > _LARGE:
            doubts.append(
                f"the entries of the answer are {ratio:.0f} times as large as the data (root mean "
                f"squares), so that the data do not determine it: rank {x.rank} is probably too "
                "high"
            )
        text = "; ".join(parts + doubts)
        return text[:1].upper() + text[1:], doubts

    # -- the search for the rank -----------------------------------------------------------------

    def _search(self, problem: LowRankPlusSparse, state: HuberState, cache: _Cache) -> None:
        """After a sweep at a rank that need not be final: go on, grow, or settle."""
        sizes = np.abs(sample(cache.residual, _GROWTH_SAMPLE))
        median, before = float(np.median(sizes)), state.median
        state.median = median
        floor = float(np.finfo(problem.dtype).eps) * cache.size
        state.delta = max(_HUBER * median, self.decay * state.delta, floor)
        if self.outlier_bound is not None:
            state.delta = max(state.delta, float(np.quantile(sizes, 1.0 - self.outlier_bound)))
        state.inner += 1
        many = self._block(problem) > 1
        least, most = (_BLOCK_SWEEPS, _BLOCK_SWEEPS) if many else _SWEEPS
        exact = median <= _EXACT[problem.dtype.itemsize] * cache.size
        if not exact and state.inner < most:
            if state.inner < least or median <= _SLOW * before:
                return
            state.rescues += 1
            if state.rescues == 1 and self._rescue(problem, state, cache):
                state.median = math.inf
                return
        state.inner = -1
        if problem.rank_known:
            if state.rank >= problem.rank_limit:
                self._settle(problem, state, cache)
            return
        assert state.saved is not None
        if state.given:
            state.given = 0
            if not self._is_useful(problem, state, cache):
                self._begin_anew(problem, state, cache)
                return
            gain = math.inf
        else:
            U, V, _, rank = state.saved
            gain = math.inf
            if rank:
                gain = _gain(problem, cache, self.point(problem, state), U[:, :rank], V[:, :rank])
        if gain > _BETTER:
            state.saved = None
        full = state.rank >= problem.rank_limit
        if exact or full or gain < -_WORSE or state.tries >= _TRIES:
            if state.saved is not None:
                state.U, state.V, state.delta, state.rank = state.saved
                self._refresh(problem, state, cache)
            elif full and not exact:
                leading, chance = self._spectrum(problem, state, cache)
                state.limited = state.rank < min(problem.shape) and leading > _VISIBLE * chance
            self._settle(problem, state, cache)

    def _directions(
        self, problem: LowRankPlusSparse, x: LowRankMatrix
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return the factors of a start that is not far too large, without empty directions."""
        largest = math.sqrt(problem.value_square) * (1e100 if problem.rank_known else _LARGE)
        if not _mean_size(x) <= largest:
            return _nothing(problem)
        values = x.singular_values()
        cut = _NUMERICAL_RANK if problem.rank_known else max(_NUMERICAL_RANK, 10.0 * self.tol)
        rank = int(np.count_nonzero(values > cut * values.max(initial=0.0)))
        rank = min(rank, problem.rank_limit)
        return (x.U, x.V) if rank == x.rank else _truncated(x, rank)

    def _begin_anew(self, problem: LowRankPlusSparse, state: HuberState, cache: _Cache) -> None:
        """Drop all directions."""
        _set_factors(state, *_nothing(problem))
        state.saved, state.tries, state.inner = None, 0, -1
        self._refresh(problem, state, cache)
        state.delta = _HUBER * float(np.median(np.abs(sample(cache.residual)))) or cache.size

    def _is_answer(self, problem: LowRankPlusSparse, state: HuberState, cache: _Cache) -> bool:
        """Whether a start is stationary and its residual shows no direction."""
        if not state.rank:
            return False
        self._measure(problem, state, cache)
        x, residual = self.point(problem, state), state.residual
        state.residual = math.inf
        if residual > self.tol:
            return False
        median = float(np.median(np.abs(sample(cache.residual))))
        if median > _EXACT[problem.dtype.itemsize] * cache.size:
            leading, chance = self._spectrum(problem, state, cache)
            seen = problem.observations.total_weight / math.prod(problem.shape)
            if leading > _VISIBLE * chance or seen * x.singular_values().min() < chance:
                return False
        state.residual = residual
        return True

    def _is_useful(self, problem: LowRankPlusSparse, state: HuberState, cache: _Cache) -> bool:
        """Whether every single direction helps to predict held-out entries."""
        x = self.point(problem, state)
        if _mean_size(x) > _LARGE * math.sqrt(problem.value_square):
            return False
        U, V = _truncated(x, x.rank)
        return all(
            _gain(problem, cache, x, np.delete(U, j, axis=1), np.delete(V, j, axis=1)) > _BETTER
            for j in range(x.rank)
        )

    def _spectrum(
        self, problem: LowRankPlusSparse, state: HuberState, cache: _Cache
    ) -> tuple[float, float]:
        """Leading singular value of the clipped residual, and that with random signs."""
        assert state.rng is not None
        delta = problem.robust_scale(np.abs(sample(cache.residual)))
        weighting = robust.Weighting(max(delta, float(np.finfo(problem.dtype).tiny)))
        signs = state.rng.choice(np.array([-1, 1], np.int8), cache.residual.size)
        leading = self._subspace(problem, state, cache.residual, weighting, 1)[1]
        chance = self._subspace(problem, state, cache.residual * signs, weighting, 1)[1]
        return leading, chance

    def _subspace(
        self, problem: LowRankPlusSparse, state: HuberState, residual: NDArray[Any],
        weighting: robust.Weighting, block: int,
    ) -> tuple[NDArray[Any], float]:  # fmt: skip
        """Right singular directions of the clipped residual; the largest singular value."""
        assert state.rng is not None
        obs = problem.observations
        Q = state.rng.standard_normal((problem.shape[1], block)).astype(problem.dtype)
        value = 0.0
        for _ in range(_SUBSPACE_ITERATIONS):
            for o, perm in ((obs, None), (obs.T, obs.perm)):
                product = robust.clipped_product(
                    o.indptr, o.indices, residual, kernels.pad_factor(Q), weighting,
                    weights=o.weights, perm=perm, n_threads=None,
                )  # fmt: skip
                found = np.linalg.qr(product[:, :block].astype(np.float64))
                Q, value = found.Q.astype(problem.dtype), abs(float(found.R[0, 0]))
        state.count(matvecs=2 * _SUBSPACE_ITERATIONS * block)
        return Q, value

    def _grow(self, problem: LowRankPlusSparse, state: HuberState, cache: _Cache) -> None:
        """Append the leading singular directions of the clipped residual to `V`."""
        assert state.rng is not None
        if not problem.rank_known:
            if state.saved is None:
                state.saved, state.tries = (state.U, state.V, state.delta, state.rank), 0
            state.tries += 1
        k, dtype = state.rank, problem.dtype
        block = min(self._block(problem), problem.rank_limit - k)
        Q, _ = self._subspace(problem, state, cache.residual, self._weighting(state), block)
        Q *= dtype.type(math.sqrt(problem.shape[1]))
        U = np.hstack([state.U[:, :k], np.zeros((problem.shape[0], block), dtype)])
        _set_factors(state, U, np.hstack([state.V[:, :k], Q]))
        state.inner, state.rescues, state.median = 0, 0, math.inf

    def _block(self, problem: LowRankPlusSparse) -> int:
        """Return the number of directions to add at a time."""
        if not problem.rank_known:
            return 1
        if self.start == "spectral":
            return problem.rank_limit
        if self.growth_block is not None:
            return self.growth_block
        many = problem.observations.nnz >= _MANY_ENTRIES
        return -(-problem.rank_limit // 3) if many else 1

    def _small_start(self, problem: Any, state: HuberState) -> tuple[NDArray[Any], NDArray[Any]]:
        """Factors of a sub-gradient run with a small start, cut at the gap."""
        from lowrank_opt.recovery.subgradient import SubgradientMethod

        began = time.perf_counter()
        method = SubgradientMethod(max_iter=_SMALL_ITERATIONS)
        method.check(problem)
        run: Any = method.init(problem)
        while method.terminate(problem, run) is None and run.nit < _SMALL_ITERATIONS:
            if self.max_time is not None and time.perf_counter() - began >= self.max_time:
                break
            run = method.step(problem, run, 25)
        state.count(subgradient_iterations=run.nit)
        x = LowRankMatrix(run.U, run.V)
        if not np.isfinite(x.U).all() or not np.isfinite(x.V).all():
            return _nothing(problem)
        rank = problem.rank_limit
        if not problem.rank_known:
            values = x.singular_values()
            ratios = values[:-1] / np.maximum(values[1:], np.finfo(np.float64).tiny)
            clear = np.flatnonzero(ratios >= _GAP)
            rank = int(clear[np.argmax(ratios[clear])]) + 1 if clear.size else 0
            if rank > max(1.0, _SMALL_PART * problem.rank_limit):
                rank = 0
        return _truncated(x, rank)

    # -- the final sweeps ------------------------------------------------------------------------

    def _settle(
        self, problem: LowRankPlusSparse, state: HuberState, cache: _Cache | None = None
    ) -> None:
        """Begin the sweeps at the final rank, with all entries."""
        state.phase, state.saved, state.inner, state.rescues = REFINING, None, 0, 0
        state.power = 2 if self.weights == "welsch" else 1
        if cache is not None:
            sizes = np.abs(sample(cache.residual))
            state.delta = max(state.delta, problem.robust_scale(sizes))
            state.median = math.inf

    def _refine(
        self, problem: LowRankPlusSparse, state: HuberState, cache: _Cache, moved: float
    ) -> None:
        """After a sweep at the final rank: the next threshold, and whether to stop."""
        sizes = np.abs(sample(cache.residual))
        goal, scale = problem.robust_scale(sizes), _HUBER * float(np.median(sizes))
        falling = goal < self.decay * state.delta
        decay = self.decay
        if goal < scale:  # the absolute loss: first as far as the median goes, then slowly
            if scale < _CONTRACTING * state.median:
                goal = scale
            else:
                decay = max(decay, _SLOW_DECAY)
        state.median = scale
        state.delta = max(goal, decay * state.delta)
        state.inner += 1
        finished = moved <= self.tol and not falling
        # Not verified: what the next sweep will move is not known, only what this one has moved.
        state.residual = max(moved, math.nextafter(self.tol, math.inf))
        due = (finished or state.inner % _RESCUE_EVERY == 0) and state.rescues < _RESCUES
        if due and self._rescue(problem, state, cache):
            state.rescues += 1
            state.lowest, state.idle = math.inf, 0
            state.best, state.best_residual = None, math.inf
            return
        if finished:
            self._measure(problem, state, cache)
            if state.residual > self.tol and state.power > 1:
                state.power, state.lowest = 1, math.inf
        if falling or state.residual < 0.99 * state.lowest:
            state.lowest, state.idle = state.residual, 0
        else:
            state.idle += 1
        if state.residual <= state.best_residual:
            state.best, state.best_residual = self.point(problem, state), state.residual

    def _measure(self, problem: LowRankPlusSparse, state: HuberState, cache: _Cache) -> None:
        """Set the residual of this very iterate: what a half sweep of either side would move."""
        weighting = robust.Weighting(problem.robust_scale(np.abs(sample(cache.residual))))
        total = 0.0
        for which in ("rows", "cols"):
            report = self._half(problem, state, cache, which, weighting, apply=False)
            total += report.decrement
        state.count(passes=2)
        state.residual = math.sqrt(total / ((report.mass or 1.0) * problem.value_square))

    def _rescue(self, problem: LowRankPlusSparse, state: HuberState, cache: _Cache) -> int:
        """Fit rows and columns anew that most of their entries contradict; return how many."""
        obs = problem.observations
        rounding = max(32.0 * float(np.finfo(problem.dtype).eps), 10.0 * self.tol)
        bound = _INLIER * float(np.median(np.abs(sample(cache.residual))))
        bound += min(rounding, 1e-3) * cache.size
        repaired = 0
        for o, perm, F, X in (
            (obs, None, state.V, state.U), (obs.T, obs.perm, state.U, state.V),
        ):  # fmt: skip
            repaired += rescue_rows(
                o.indptr, o.indices, o.values, cache.residual, F, X, state.rank, bound, state.rng,
                perm=perm,
            )  # fmt: skip
        state.count(rescued_rows=repaired)
        if repaired:  # the bits that a resumed run computes
            self._refresh(problem, state, cache)
        return repaired

    # -- pieces ----------------------------------------------------------------------------------

    def _weighting(self, state: HuberState) -> robust.Weighting:
        if state.phase == REFINING:
            return robust.Weighting(state.delta, state.power)
        return robust.Weighting(state.delta, 1, self.min_kept, state.salt, self._bound(state))

    def _bound(self, state: HuberState) -> int:
        """Return the bound of the hash below which an entry is held out."""
        return int(self.holdout * 2.0**64) if state.saved is not None else 0

    def _sweep(self, problem: LowRankPlusSparse, state: HuberState, cache: _Cache) -> float:
        """Solve for all rows and for all columns; return the relative step."""
        cache.factors[:] = state.U.copy(), state.V.copy()
        weighting = self._weighting(state)
        total = 0.0
        for which in ("rows", "cols"):
            report = self._half(problem, state, cache, which, weighting)
            total += report.decrement
            state.count(damped_rows=report.damped, failed_rows=report.failed)
        state.count(sweeps=1, passes=2)
        return math.sqrt(total / ((report.mass or 1.0) * problem.value_square))

    def _half(
        self, problem: LowRankPlusSparse, state: HuberState, cache: _Cache, which: str,
        weighting: robust.Weighting, apply: bool = True,
    ) -> robust.HalfReport:  # fmt: skip
        """Solve for one factor, or only measure the step."""
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
            if state.phase == GROWING and not problem.rank_known:
                bound = int(self.holdout * 2.0**64)
                held = robust.held_out(obs.nnz, state.salt, bound, _HELD_SAMPLE)
            rows = np.searchsorted(obs.indptr, held, side="right") - 1
            values = np.abs(sample(obs.values)).astype(np.float64)
            size = float(np.median(values)) or float(values.mean()) or 1.0
            residual = np.empty(obs.nnz, problem.dtype)
            state.cache = _Cache(residual, held, rows, size, [state.U, state.V])
            self._refresh(problem, state, state.cache)
        return state.cache

    def _refresh(self, problem: LowRankPlusSparse, state: HuberState, cache: _Cache) -> None:
        obs = problem.observations
        robust.refresh(
            obs.indptr, obs.indices, obs.values, cache.residual, state.V, state.U, n_threads=None
        )


def _held_errors(
    problem: LowRankPlusSparse, cache: _Cache, U: NDArray[Any], V: NDArray[Any]
) -> NDArray[np.float64]:
    """Sizes of the errors of the held-out entries."""
    values = problem.observations.values[cache.held]
    rows, cols = cache.held_rows, problem.observations.indices[cache.held]
    out = np.empty(len(values))
    for start in range(0, len(values), _BLOCK):
        part = slice(start, start + _BLOCK)
        product = np.einsum("ij,ij->i", U[rows[part]], V[cols[part]])
        out[part] = np.abs(values[part] - product)
    return out


def _gain(
    problem: LowRankPlusSparse, cache: _Cache, x: LowRankMatrix, U: NDArray[Any], V: NDArray[Any]
) -> float:
    """By how many standard errors `x` predicts held-out entries better than U Vᵀ.

    Compared are errors clipped at the median of those of U Vᵀ, entry by entry.
    """
    before, after = _held_errors(problem, cache, U, V), _held_errors(problem, cache, x.U, x.V)
    bound = float(np.median(before)) if before.size else 0.0
    gains = np.minimum(before, bound) - np.minimum(after, bound)
    deviation = float(gains.std()) if gains.size else 0.0
    return float(gains.mean()) * math.sqrt(gains.size) / deviation if deviation else 0.0


def _mean_size(x: LowRankMatrix) -> float:
    """Root mean square of all entries."""
    sizes = [float(np.abs(F).max(initial=0.0)) or 1.0 for F in (x.U, x.V)]
    grams = [
        np.einsum("ij,ik->jk", F / size, F / size, dtype=np.float64)
        for F, size in zip((x.U, x.V), sizes, strict=True)
    ]
    mean = max(float(np.vdot(grams[0], grams[1])), 0.0) / math.prod(x.shape)
    return sizes[0] * sizes[1] * math.sqrt(mean)


def _nothing(problem: LowRankPlusSparse) -> tuple[NDArray[Any], NDArray[Any]]:
    """Factors without columns."""
    m, n = problem.shape
    return np.zeros((m, 0), problem.dtype), np.zeros((n, 0), problem.dtype)


def _set_factors(state: HuberState, U: NDArray[Any], V: NDArray[Any]) -> None:
    state.rank = U.shape[1]
    state.U, state.V = (kernels.pad_factor(np.ascontiguousarray(F)) for F in (U, V))


def _orthogonalize(F: NDArray[Any], X: NDArray[Any], k: int) -> None:
    """Give `F` orthogonal columns of unit mean square and keep the product ``X Fᵀ``."""
    largest = np.abs(F[:, :k]).max(axis=0, initial=0.0)  # sizes of columns may differ vastly
    largest = np.where(largest > 0, largest, 1.0).astype(np.float64)
    gram = np.zeros((k, k))
    for a in range(0, len(F), _BLOCK):
        block = F[a : a + _BLOCK, :k] / largest
        gram += block.T @ block
    values, W = np.linalg.eigh(gram / max(len(F), 1))
    roots = np.sqrt(np.maximum(values, 0.0))
    roots = np.where(roots > 1e-14 * roots.max(initial=0.0), roots, 1.0)
    left, right = W / roots / largest[:, None], W * roots * largest[:, None]
    for matrix, change in ((F, left), (X, right)):
        for a in range(0, len(matrix), _BLOCK):
            block = matrix[a : a + _BLOCK, :k]
            block[:] = block.astype(np.float64) @ change


def _truncated(x: LowRankMatrix, rank: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return factors of the leading singular part of a point."""
    QU, RU = np.linalg.qr(x.U.astype(np.float64))
    QV, RV = np.linalg.qr(x.V.astype(np.float64))
    P, s, Qt = np.linalg.svd(RU @ RV.T)
    U, V = QU @ (P[:, :rank] * s[:rank]), QV @ Qt[:rank].T
    return U.astype(x.dtype), V.astype(x.dtype)
