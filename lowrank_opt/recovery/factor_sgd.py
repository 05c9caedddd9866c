"""Stochastic gradient descent on the factors."""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numba
import numpy as np

from lowrank_opt.core.errors import ParameterError
from lowrank_opt.core.params import Interval, StrOptions, make_rng
from lowrank_opt.core.protocols import HasCertificate, HasObjective, HasObservations
from lowrank_opt.core.solver import Solver
from lowrank_opt.core.state import State, Status
from lowrank_opt.core.threads import parallel_region
from lowrank_opt.numerics.kernels_vector import aligned_empty, aligned_zeros, vector_length
from lowrank_opt.recovery import kernels_sgd as kernels
from lowrank_opt.recovery.lowrank import LowRankMatrix

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lowrank_opt.recovery.problems import MatrixCompletion

__all__ = ["FactorSGD"]

# Bytes of one factor's rows in a block. Both have to fit the second-level cache (at least 256 kB
# on the machines of the last ten years) beside the entries; a fixed number, since the order of
# the updates, hence the result, depends on it.
_BLOCK_BYTES = 98_304
# Blocks hold at least this many entries, or they would not be worth the change of rows.
_BLOCK_ENTRIES = 1000
# Rows and columns are numbered by 16 bits inside a block.
_MOST_ROWS = 65_536
# The blocks are grouped into tiles, as many in each direction as there can be threads. A tile
# holds at least this many entries (0.1 ms) on average.
_TILE_ENTRIES = 10_000
_MOST_TILES = 32
_STEPS = {"linear": 0.06, "constant": 0.02, "adagrad": 0.15}
# Numbers converted to float64 at once by the residual.
_CHUNK = 1 << 17


class _Side(NamedTuple):
    """Rows (or columns), in the order of the grid."""

    position: NDArray[np.int64]
    ridge: NDArray[np.float64]
    ridge_bias: NDArray[np.float64]
    mass: NDArray[np.float64]
    own: int  # column of the bias


class _Cache(NamedTuple):
    entries: kernels.Entries
    side: int  # tiles in each direction
    rows: _Side
    cols: _Side
    penalty: kernels.Penalty
    lanes: kernels.Lanes
    loss: kernels.ResidualClip
    vectors: tuple[int, ...]
    unit: float  # size of a step of 1
    norms: tuple[Any, Any]  # work space of AdaGrad


@dataclass
class FactorSGDState(State):
    """Padded factors in the order of the grid, and what fixes the order of the entries."""

    P: Any = None
    Q: Any = None
    A: Any = None
    B: Any = None
    seed: int = 0
    block_rows: int = 0
    block_cols: int = 0
    decay_passes: int = 0
    lowest_objective: float = math.inf


class FactorSGD(Solver):
    r"""Stochastic gradient descent for matrix completion.

    Each observed entry in turn moves its two rows against their gradient,

    .. math:: u_i \leftarrow (1 - \eta\, \lambda_i / n_i)\, u_i + \eta\, w_{ij} g_{ij}\, v_j,
              \qquad v_j \text{ likewise},

    with :math:`g_{ij} = \tfrac12 \rho'(e_{ij})` (the residual itself for the squared loss), ridge
    :math:`\lambda_i` and :math:`n_i` entries of the row. The cheapest method per pass: choose it
    for large data when a good fit is enough; prefer :class:`AlternatingMinimization` when the
    residual has to become small.

    Parameters
    ----------
    tol : float, default=1e-6
        Stops when the scaled first-order residual of
        :meth:`~lowrank_opt.recovery.MatrixCompletion.certificate` is at most `tol`. On noisy data
        the method comes near a stationary point, not to it, and runs for `max_iter` passes.
    max_iter : int, default=25
        Number of passes over the entries: 15 to 25 at a million entries, 40 to 60 at 100 000.
    max_time : float or None, default=None
        Limit on seconds.
    check_every : int, default=5
        Passes between two checks. A check costs about one pass.
    schedule : {"linear", "constant", "adagrad"}, default="linear"
        "linear": the step decreases to 0 over `decay_passes`, the best choice when the number of
        passes is fixed. "constant". "adagrad": every row has its own step, which decreases with
        the sum of its squared gradients (of the data, not of the ridge); good at any time.
    step_size : float or "auto", default="auto"
        First step, positive; "auto": 0.06 ("linear"), 0.02 ("constant"), 0.15 ("adagrad"). In units
        in which the root mean square of ``M - offset`` and the mean weight are 1, so that it need
        not follow the scale of the data. Too large a step ends in ``DIVERGED``.
    decay_passes : int or None, default=None
        Passes until "linear" reaches its last step, ``1/decay_passes`` of the first one, which it
        keeps from then on; ``None``: `max_iter` of the run that made the state.
    init_scale : float, default=0.1
        Standard deviation of the random start, positive, in units of the root of that root mean
        square.
    block_shape : "auto" or tuple of int, default="auto"
        Most rows and columns of a block, 1 to 65536. "auto": so many that both sides of a block
        fit the second-level cache.
    n_threads : int or None, default=None
        Limit on threads. The result has the same bits for any number.
    random_state : int, Generator or None, default=None
        Seed of the start and of the order of the entries.

    Notes
    -----
    Cost: ``10·N·k`` flops a pass; the entries are stored a second time (8 bytes each in float32,
    12 in float64, and the weight), in blocks and in random order inside a block. Groups of
    blocks on a diagonal of the grid share no row and no column and run in parallel; the diagonals
    are visited in a new random order in every pass.

    The objective does not decrease steadily: the best point of all checks is kept, and returned
    unless the run converges. With `nonnegative` each step is followed by the projection.

    No guarantee beyond that of stochastic gradient methods: for steps that sum to infinity and
    whose squares do not, bounded iterates approach stationary points [1]_.

    References
    ----------
    .. [1] Bottou, Curtis, Nocedal, "Optimization Methods for Large-Scale Machine Learning",
       SIAM Review 60(2), 2018. :arxiv:`1606.04838`.
    .. [2] Gemulla, Nijkamp, Haas, Sismanis, "Large-Scale Matrix Factorization with Distributed
       Stochastic Gradient Descent", KDD 2011.
    .. [3] Chin, Zhuang, Juan, Lin, "A Fast Parallel Stochastic Gradient Method for Matrix
       Factorization in Shared Memory Systems", ACM TIST 6(1), 2015.

    Examples
    --------
    >>> import numpy as np
    >>> from lowrank_opt.recovery import FactorSGD, MatrixCompletion
    >>> rng = np.random.default_rng(0)
    >>> X = rng.standard_normal((200, 2)) @ rng.standard_normal((2, 100))
    >>> mask = rng.random(X.shape) < 0.5
    >>> problem = MatrixCompletion.from_dense(np.where(mask, X, np.nan), rank=2)
    >>> result = FactorSGD(max_iter=60, random_state=0).solve(problem)
    >>> bool(np.sqrt(np.mean((result.x.to_dense() - X) ** 2)) < 0.02)
    True
    """

    requires: ClassVar[tuple[type, ...]] = (HasObservations, HasObjective, HasCertificate)
    monotone: ClassVar[bool] = False
    blas_threads = 1
    citation = (
        "@article{chin2015fast,\n"
        "  title={A Fast Parallel Stochastic Gradient Method for Matrix Factorization in Shared"
        " Memory Systems},\n"
        "  author={Chin, Wei-Sheng and Zhuang, Yong and Juan, Yu-Chin and Lin, Chih-Jen},\n"
        "  journal={ACM Transactions on Intelligent Systems and Technology},\n"
        "  volume={6},\n  number={1},\n  year={2015}\n}"
    )
    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "schedule": [StrOptions(_STEPS)],
        "step_size": [StrOptions({"auto"}), Interval(Real, 0, None, closed="neither")],
        "decay_passes": [None, Interval(Integral, 1, None)],
        "init_scale": [Interval(Real, 0, None, closed="neither")],
        "block_shape": [StrOptions({"auto"}), tuple],
    }

    def __init__(
        self,
        *,
        tol: float = 1e-6,
        max_iter: int = 25,
        max_time: float | None = None,
        check_every: int = 5,
        schedule: str = "linear",
        step_size: float | str = "auto",
        decay_passes: int | None = None,
        init_scale: float = 0.1,
        block_shape: tuple[int, int] | str = "auto",
        n_threads: int | None = None,
        random_state: Any = None,
    ) -> None:
        self.tol = tol
        self.max_iter = max_iter
        self.max_time = max_time
        self.check_every = check_every
        self.schedule = schedule
        self.step_size = step_size
        self.decay_passes = decay_passes
        self.init_scale = init_scale
        self.block_shape = block_shape
        self.n_threads = n_threads
        self.random_state = random_state

    def check(self, problem: Any) -> None:
        """Raise if a parameter is out of range or the problem lacks something."""
        super().check(problem)
        size = Interval(Integral, 1, _MOST_ROWS)
        shape = self.block_shape
        if not isinstance(shape, str) and (len(shape) != 2 or not all(map(size.admits, shape))):
            raise ParameterError(
                f"FactorSGD: block_shape={shape!r} must be 'auto' or two integers (rows, columns) "
                f"from 1 to {_MOST_ROWS}"
            )

    # -- the three parts of the contract ---------------------------------------------------------

    @classmethod
    def accepts(cls, problem: Any) -> list[str]:
        """The ridge form with every loss, without the implicit terms."""
        wanted = {"penalty": "ridge", "implicit_weight": 0}
        return [f"{k}={v!r}" for k, v in wanted.items() if getattr(problem, k, None) != v]

    def init(self, problem: MatrixCompletion, x0: Any = None) -> FactorSGDState:
        """Return the first state; with `x0` its residual is known, otherwise it is infinite."""
        (m, n), k, dtype = problem.shape, problem.rank, problem.dtype
        lanes = vector_length(dtype)
        width = lanes * -(-(k + 2 * problem.biases) // lanes)
        state = FactorSGDState(rng=make_rng(self.random_state))
        state.seed = int(state.rng.integers(2**63))
        state.block_rows, state.block_cols = self._block_sizes(problem, width)
        state.decay_passes = self.decay_passes or max(self.max_iter, 1)
        state.P, state.Q = aligned_zeros((m, width), dtype), aligned_zeros((n, width), dtype)
        if self.schedule == "adagrad":
            scale = _curvature(problem) ** 2 * _spread(problem) ** 3
            state.A, state.B = np.full(m, scale, dtype), np.full(n, scale, dtype)
        cache = self._prepare(problem, state)
        # The start also gives the columns that x0 lacks.
        self._load(problem, state, cache, self._start(problem, state))
        if x0 is not None:
            self._load(problem, state, cache, problem.start(x0))
        state.best = self.point(problem, state)
        if x0 is not None:
            self._measure(problem, state, cache)
        return state

    def step(self, problem: MatrixCompletion, state: State, n: int = 1) -> State:
        """Do `n` passes over the entries."""
        assert isinstance(state, FactorSGDState)
        cache = self._prepare(problem, state)
        entries, dtype = cache.entries, problem.dtype.type
        step_size = _STEPS[self.schedule] if isinstance(self.step_size, str) else self.step_size
        parallel = cache.side > 1 and numba.get_num_threads() > 1
        sgd_pass = kernels.sgd_pass_par if parallel else kernels.sgd_pass
        region = parallel_region if parallel else contextlib.nullcontext()
        for _ in range(n):
            size = step_size * cache.unit
            if self.schedule == "linear":
                left = state.decay_passes - state.nit
                size *= max(left, 1) / state.decay_passes
            assert state.rng is not None
            order = state.rng.permutation(cache.side)
            # Tiles are handed out one by one: a thread may get less of its core than another.
            with region, numba.parallel_chunksize(1):
                sgd_pass(
                    cache.vectors, state.P, state.Q, state.A, state.B, *cache.norms, entries,
                    order, cache.penalty, cache.lanes, cache.loss,
                    dtype(size), dtype(1.0 / problem.rank),
                )  # fmt: skip
            state.nit += 1
        state.count(passes=n, updates=n * entries.values.size)
        self._measure(problem, state, cache)
        return state

    def terminate(self, problem: MatrixCompletion, state: State) -> Status | None:
        """Return the status to stop with, or ``None``."""
        status = super().terminate(problem, state)
        if status is Status.DIVERGED:
            state.message = "Take a smaller step_size"
        return status

    def point(self, problem: MatrixCompletion, state: State) -> LowRankMatrix:
        """Return the factors in the order of the matrix, without padding."""
        assert isinstance(state, FactorSGDState)
        cache, k = self._prepare(problem, state), problem.rank
        U, V = state.P[cache.rows.position, :k], state.Q[cache.cols.position, :k]
        if not problem.biases:
            return LowRankMatrix(U, V, problem.offset)
        row_bias, col_bias = (
            F[side.position, side.own] for F, side in ((state.P, cache.rows), (state.Q, cache.cols))
        )
        return LowRankMatrix(U, V, problem.offset, row_bias, col_bias)

    # -- pieces ----------------------------------------------------------------------------------

    def _block_sizes(self, problem: MatrixCompletion, width: int) -> tuple[int, int]:
        if not isinstance(self.block_shape, str):
            return self.block_shape
        m, n = problem.shape
        rows = max(1, _BLOCK_BYTES // (width * problem.dtype.itemsize))
        # Very sparse data: larger blocks, so that each holds enough entries.
        blocks = (m / min(rows, m)) * (n / min(rows, n))
        growth = math.sqrt(max(1.0, blocks * _BLOCK_ENTRIES / problem.observations.nnz))
        rows = min(math.ceil(rows * growth), _MOST_ROWS)
        return rows, rows

    def _prepare(self, problem: MatrixCompletion, state: FactorSGDState) -> _Cache:
        """Return the entries in blocks and all constants, made once a run."""
        if state.cache is not None:
            return state.cache
        obs, dtype, k = problem.observations, problem.dtype, problem.rank
        # A copy of a state is not aligned, and rows that straddle cache lines are slower.
        state.P, state.Q = _aligned(state.P), _aligned(state.Q)
        most = min(math.sqrt(obs.nnz / _TILE_ENTRIES), *obs.shape, _MOST_TILES)
        side = 2 ** int(math.log2(max(most, 1.0)))
        grid = kernels.make_grid(
            obs.row_counts, obs.col_counts, state.block_rows, state.block_cols, side
        )
        entries = kernels.grid_entries(
            obs.indptr, obs.indices, obs.values, obs.weights, problem.offset, grid, state.seed
        )
        sides, scales = [], []
        for position, counts, mass, ridge, ridge_bias, own in (
            (grid.row_position, obs.row_counts, obs.row_weights, problem.row_ridge,
             problem.row_bias_ridge, -2),
            (grid.col_position, obs.col_counts, obs.col_weights, problem.col_ridge,
             problem.col_bias_ridge, -1),
        ):  # fmt: skip
            order = np.empty_like(position)
            order[position] = np.arange(position.size)
            sides.append(_Side(position, ridge[order], ridge_bias[order], mass[order], own))
            # The ridge of one update, over that of reg_scaling="count" without weights.
            scale = mass**problem.scaling_power / np.maximum(counts, 1)
            scales.append(scale[order].astype(dtype))
        if obs.weights is None and problem.scaling_power == 1.0:
            scales = [None, None]
        curvature, spread = _curvature(problem), _spread(problem)
        adagrad = state.A is not None
        state.cache = _Cache(
            entries=entries,
            side=side,
            rows=sides[0],
            cols=sides[1],
            penalty=kernels.Penalty(dtype.type(problem.reg), *scales),
            lanes=kernels.make_lanes(
                k, problem.biases, problem.nonnegative, problem.reg, problem.bias_reg, dtype
            ),
            loss=_clip(problem),
            vectors=kernels.vectors_argument(state.P.shape[1], dtype),
            unit=math.sqrt(spread) if adagrad else 1.0 / (curvature * spread),
            norms=(np.empty_like(state.A), np.empty_like(state.B)) if adagrad else (None, None),
        )
        return state.cache

    def _start(self, problem: MatrixCompletion, state: FactorSGDState) -> LowRankMatrix:
        """Return random factors; no biases, and zeros where nothing is observed."""
        assert state.rng is not None
        obs, scale = problem.observations, self.init_scale * math.sqrt(_spread(problem))
        factors = []
        for rows, counts in zip(problem.shape, (obs.row_counts, obs.col_counts), strict=True):
            F = state.rng.standard_normal((rows, problem.rank), dtype=problem.dtype)
            F *= scale
            F[counts == 0] = 0.0
            factors.append(np.abs(F, out=F) if problem.nonnegative else F)
        return LowRankMatrix(*factors, problem.offset)

    def _load(
        self, problem: MatrixCompletion, state: FactorSGDState, cache: _Cache, x: LowRankMatrix
    ) -> None:
        for F, side, factor, bias in (
            (state.P, cache.rows, x.U, x.row_bias), (state.Q, cache.cols, x.V, x.col_bias)
        ):  # fmt: skip
            F[side.position, : x.rank] = factor
            if problem.biases:
                F[:, -3 - side.own] = 1.0
                F[side.position, side.own] = 0.0 if bias is None else bias

    def _measure(self, problem: MatrixCompletion, state: FactorSGDState, cache: _Cache) -> None:
        """Set the residual, and keep the point if it is the best one."""
        GP, GQ = (aligned_empty(F.shape, F.dtype) for F in (state.P, state.Q))
        with parallel_region, numba.parallel_chunksize(1):
            loss = kernels.grid_gradient(
                cache.vectors, state.P, state.Q, GP, GQ, cache.entries, cache.side, cache.loss
            )
        state.count(checks=1)
        if not math.isfinite(loss):
            state.residual = math.nan
            state.P[:], state.Q[:] = 0.0, 0.0
            self._load(problem, state, cache, state.best)
            return
        total, objective = 0.0, loss
        for F, G, side, other, other_side in (
            (state.P, GP, cache.rows, state.Q, cache.cols),
            (state.Q, GQ, cache.cols, state.P, cache.rows),
        ):
            scaled, ridge = _stationarity(problem, F, G, side, other, other_side.mass)
            total += scaled
            objective += ridge
        state.residual = math.sqrt(total / (problem.loss_at_zero or 1.0))
        if objective < state.lowest_objective:
            state.lowest_objective = objective
            state.best, state.best_residual = self.point(problem, state), state.residual


def _stationarity(
    problem: MatrixCompletion, F: Any, G: Any, side: _Side, other: Any, other_mass: Any
) -> tuple[float, float]:
    """Return the sum of ``g H⁻¹ g`` over the rows of one side, and their ridge."""
    k, curvature = problem.rank, problem.loss_curvature
    step = max(1, _CHUNK // k)
    gram = np.zeros((k, k))
    for a in range(0, len(other), step):
        block = other[a : a + step, :k].astype(np.float64)
        gram += (block * other_mass[a : a + step, None]).T @ block
    gram /= other_mass.sum()
    if problem.nonnegative:
        scales, basis = np.diag(gram), np.eye(k)
    else:
        scales, basis = np.linalg.eigh(gram)
    floor = 4 * np.finfo(np.float64).eps * k * scales.max(initial=0.0)
    scales = np.where(scales > floor, scales, 0.0)
    total = penalty = 0.0
    for a in range(0, len(F), step):
        part = slice(a, a + step)
        own, ridge = F[part, :k].astype(np.float64), side.ridge[part]
        g = ridge[:, None] * own - G[part, :k]
        H = np.multiply.outer(curvature * side.mass[part], scales) + ridge[:, None]
        if problem.nonnegative:
            move = own - np.maximum(own - _quotient(g, H), 0.0)
            total += float((np.where(H > 0, H, 1.0) * move * move).sum())
        else:
            g = g @ basis
            total += float((_quotient(g, H) * g).sum())
        penalty += float(ridge @ np.einsum("ik,ik->i", own, own))
        if problem.biases:
            bias, ridge = F[part, side.own].astype(np.float64), side.ridge_bias[part]
            g = ridge * bias - G[part, side.own]
            total += float((_quotient(g, curvature * side.mass[part] + ridge) * g).sum())
            penalty += float(ridge @ (bias * bias))
    return total, penalty


def _quotient(a: NDArray[Any], b: NDArray[Any]) -> NDArray[Any]:
    return np.divide(a, b, out=np.zeros_like(a), where=b > 0)


def _spread(problem: MatrixCompletion) -> float:
    """Return the root mean square of ``M - offset``, the unit of the values."""
    return math.sqrt(problem.data_square / problem.observations.total_weight) or 1.0


def _curvature(problem: MatrixCompletion) -> float:
    """Return the curvature of an entry of mean weight, as the start sees it.

    Of the quadratic that touches the loss at ``X = offset``, on average; it is far below that of
    the Huber loss at small residuals when most residuals are in its linear part.
    """
    obs = problem.observations
    ratio = problem.loss_at_zero / problem.data_square if problem.data_square else 1.0
    if problem.loss == "huber":
        # Near the solution the curvature is 1, and the step must suit that as well.
        ratio = max(ratio, 0.1)
    return ratio * obs.total_weight / obs.nnz


def _clip(problem: MatrixCompletion) -> kernels.ResidualClip:
    slope, limit = {
        "squared": (1.0, math.inf), "huber": (1.0, problem.huber_delta), "l1": (1e30, 0.5)
    }[problem.loss]  # fmt: skip
    return kernels.ResidualClip(problem.dtype.type(slope), problem.dtype.type(limit))


def _aligned(F: NDArray[Any]) -> NDArray[Any]:
    if F.ctypes.data % 64 == 0:
        return F
    out = aligned_empty(F.shape, F.dtype)
    out[:] = F
    return out
