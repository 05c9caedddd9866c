"""Value, gradient and plan of the semi-dual and of the dual."""

from __future__ import annotations

from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from lowrank_opt.core.errors import ParameterError
from lowrank_opt.transport.canonical import row_dual
from lowrank_opt.transport.costs import PointCost
from lowrank_opt.transport.kernels_costs import TiledPoints
from lowrank_opt.transport.kernels_oracle import (
    LIST,
    SCAN,
    SCAN_AND_LIST,
    Chunk,
    Columns,
    Lists,
    column_work,
    evaluate_columns,
    gather_columns,
)

if TYPE_CHECKING:
    from lowrank_opt.transport.canonical import Canonical

__all__ = ["DualEvaluation", "Evaluation", "SemidualOracle"]

# Ranges of columns for every thread, when there are several: a free thread takes the next.
_RANGES = 8
# Places a column in the first buffer for the plan.
_PLACES = 16
# Points of more dimensions are treated by matrix products, tiles of this many numbers.
_DIRECT, _TILE = 8, 1 << 17
# Lists: not for fewer sources than this; at most so many potentials to compare with.
_SMALL, _REFERENCES = 512, 8
# Lists are made when they can serve for so many steps of the present size.
_WORTH = 3.0
# Their width is this many times (the nonzeros of most columns, and so many more).
_WIDTH_FACTOR, _WIDTH_MORE = 6, 8


class Evaluation(NamedTuple):
    """The semi-dual at one point.

    Parameters
    ----------
    value : float
        The concave objective.
    gradient : ndarray of float64, of shape (m,)
        A supergradient: the row sums that the potentials ask for, less those of the plan.
    tau : ndarray of float64, of shape (n,)
        Thresholds of the columns.
    indptr, indices, values : ndarray
        The plan by columns, indices ascending: at most k entries a column, exact column sums.
    """

    value: float
    gradient: Any
    tau: Any
    indptr: Any
    indices: Any
    values: Any


class DualEvaluation(NamedTuple):
    """The dual at one point.

    Parameters
    ----------
    value : float
        The concave objective.
    gradient, beta_gradient : ndarray of float64, of shapes (m,) and (n,)
        A supergradient in both potentials.
    indptr, indices, values : ndarray
        The plan by columns: at most k entries a column; its column sums are free.
    """

    value: float
    gradient: Any
    beta_gradient: Any
    indptr: Any
    indices: Any
    values: Any


class SemidualOracle:
    r"""Evaluate the semi-dual of a transport problem.

    .. math:: S(\alpha) = R(\alpha) - \sum_j \psi_j(\alpha), \qquad
        \psi_j(\alpha) = \max_{t \ge 0,\, 1^\top t = b_j,\, \|t\|_0 \le k}
        (\alpha - c_j)^\top t - \tfrac\gamma2 \|t\|^2,

    with R the term of the row sums. Every value is a lower bound on the problem's optimum.

    Parameters
    ----------
    canonical : Canonical
        The problem.
    screening : bool, default=True
        Whether to keep lists of the entries that can matter. They are exact.
    n_threads : int or None, default=1
        Threads; the result has the same bits for every number. ``None``: all that numba may use.

    Attributes
    ----------
    n_scanned_columns : int
        Columns whose costs were read, over all evaluations.
    n_evaluations : int
        Evaluations so far.
    """

    def __init__(
        self, canonical: Canonical, *, screening: bool = True, n_threads: int | None = 1
    ) -> None:
        self.canonical = canonical
        self.screening = screening
        self.n_threads = _thread_count(n_threads)
        self.n_scanned_columns = 0
        self.n_evaluations = 0
        n = canonical.n
        self._screen = _Screen(canonical, screening and canonical.m >= _SMALL)
        self._no_lists = _new_lists(n, 0)
        ranges = 1 if self.n_threads == 1 else min(_RANGES * self.n_threads, n)
        bounds = np.linspace(0, n, ranges + 1).astype(np.int64)
        self._ranges = list(zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True))
        self._chunks = [
            _new_chunk((last - first) * min(canonical.k, _PLACES) + canonical.m)
            for first, last in self._ranges
        ]
        self._work = [column_work(canonical.m) for _ in range(self.n_threads)]
        cost = canonical.cost
        tiled = isinstance(cost, PointCost) and cost.X.shape[0] > _DIRECT
        self._tiles = _Tiles(cost, self.n_threads) if tiled else None
        self._pool = None if self.n_threads == 1 else ThreadPoolExecutor(self.n_threads - 1)

    def evaluate(self, alpha: Any) -> Evaluation:
        """Evaluate the semi-dual.

        Parameters
        ----------
        alpha : ndarray of float64, of shape (m,)
            Potentials; at most 0 for row sums that have upper bounds.

        Returns
        -------
        Evaluation
            With arrays of its own.
        """
        view = self.canonical
        columns, plan, rows = self._columns(alpha, np.zeros(0))
        value, wanted, _ = row_dual(view.row_kind, view.row_weight, view.a, alpha)
        return Evaluation(value - float(np.sum(columns.psi)), wanted - rows, columns.tau, *plan)

    def dual(self, alpha: Any, beta: Any) -> DualEvaluation:
        """Evaluate the dual in both potentials.

        Parameters
        ----------
        alpha, beta : ndarray of float64, of shapes (m,) and (n,)
            Potentials of sources and targets.

        Returns
        -------
        DualEvaluation
            With arrays of its own.

        Raises
        ------
        ParameterError
            Without a quadratic term the dual has constraints and no gradient.
        """
        view = self.canonical
        if view.gamma == 0:
            raise ParameterError(
                "formulation='dual' needs gamma > 0, since without a quadratic term the dual has "
                "constraints; use formulation='semidual'"
            )
        beta = np.array(beta, dtype=np.float64)
        columns, plan, rows = self._columns(alpha, beta)
        value, wanted, _ = row_dual(view.row_kind, view.row_weight, view.a, alpha)
        sums = column_sums(plan[0], plan[2])
        value += float(beta @ view.b) - float(np.sum(columns.psi))
        return DualEvaluation(value, wanted - rows, view.b - sums, *plan)

    @property
    def n_scans(self) -> int:
        """Passes over the costs so far: scanned columns divided by their number, rounded up."""
        return -(-self.n_scanned_columns // self.canonical.n)

    @property
    def list_radius(self) -> Any:
        """How far potentials may spread before a column is scanned again; -1: no list."""
        return self._screen.lists.radius.copy()

    def _columns(self, alpha: Any, beta: Any) -> tuple[Columns, tuple[Any, Any, Any], Any]:
        """Evaluate all columns; return what is known of them, the plan and its row sums."""
        n, m = self.canonical.n, self.canonical.m
        alpha = np.array(alpha, dtype=np.float64)  # writable: one signature of the kernels
        columns = Columns(np.empty(n), np.empty(n), np.empty(n, np.int64))
        lists = self._screen.before(alpha) if beta.size == 0 else self._no_lists
        self.n_scanned_columns += int(np.count_nonzero(lists.action != LIST))
        self.n_evaluations += 1
        filled = self._run(alpha, beta, columns, lists)
        if beta.size == 0:
            self._screen.after(alpha, columns)
        indptr = np.zeros(n + 1, np.int64)
        np.cumsum(columns.counts, out=indptr[1:])
        indices, values = np.empty(indptr[-1], np.int64), np.empty(indptr[-1])
        rows = np.zeros(m)
        # One thread, column after column: sums in the same order for every number of threads.
        for (first, _), chunk, count in zip(self._ranges, self._chunks, filled, strict=True):
            gather_columns(chunk, count, indptr[first], indices, values, rows)
        return columns, (indptr, indices, values), rows

    def _run(self, alpha: Any, beta: Any, columns: Columns, lists: Lists) -> list[int]:
        """Evaluate all ranges of columns; return the numbers of entries in their chunks."""
        filled = [0] * len(self._ranges)
        todo = deque(range(len(self._ranges)))

        def consume(thread: int) -> None:
            while True:
                try:
                    r = todo.popleft()
                except IndexError:
                    return
                filled[r] = self._one_range(r, alpha, beta, columns, lists, thread)

        # This thread works too: two threads woken at once may begin on one core.
        others = [] if self._pool is None else [
            self._pool.submit(consume, thread) for thread in range(1, self.n_threads)
        ]  # fmt: skip
        consume(0)
        for other in others:
            other.result()
        return filled

    def _one_range(
        self, r: int, alpha: Any, beta: Any, columns: Columns, lists: Lists, thread: int
    ) -> int:
        view, work = self.canonical, self._work[thread]
        (first, last), filled = self._ranges[r], 0
        tiles = self._tiles
        while first < last:
            cost, end = view.cost, last
            if tiles is not None:
                end = min(last, first + tiles.width)
                cost = tiles.cost(thread, first, end, lists, alpha)
            stop, filled = evaluate_columns(
                cost, alpha, beta, view.b, view.gamma, view.k, first, end, filled, columns,
                self._chunks[r], lists, work,
            )  # fmt: skip
            if stop < end:  # the chunk is full
                old = self._chunks[r]
                new = _new_chunk(2 * len(old.values) + view.m)
                new.indices[:filled] = old.indices[:filled]
                new.values[:filled] = old.values[:filled]
                self._chunks[r] = new
            first = stop
        return int(filled)


class _Tiles:
    """Inner products of points in many dimensions, for some targets at a time."""

    def __init__(self, cost: PointCost, n_threads: int) -> None:
        self.points = cost
        dimension, m = cost.X.shape
        self.width = max(_TILE // m, 4)
        self.doubled = 2.0 * cost.X.astype(np.float64)
        self.targets = cost.Y.astype(np.float64)
        self.sizes = 0.25 * np.einsum("di,di->i", self.doubled, self.doubled)
        self.own_sizes = np.einsum("jd,jd->j", self.targets, self.targets)
        self.rounding = (4 * dimension + 16) * float(np.finfo(np.float64).eps)
        self.buffers = [np.empty((self.width, m)) for _ in range(n_threads)]

    def cost(self, thread: int, first: int, end: int, lists: Lists, alpha: Any) -> TiledPoints:
        """The costs of a tile; products are not formed when all of its columns have lists."""
        products = self.buffers[thread]
        if np.any(lists.action[first:end] != LIST):
            np.matmul(self.targets[first:end], self.doubled, out=products[: end - first])
        X, Y, squared = self.points
        slack = 4.0 * float(np.finfo(np.float64).eps) * float(np.abs(alpha).max())
        return TiledPoints(
            X, Y, squared, products, first, self.sizes, self.own_sizes, float(self.sizes.max()),
            self.rounding, slack,
        )  # fmt: skip


class _Screen:
    """Which columns can be evaluated on lists, and which lists to make.

    Columns are scanned again when their own list is too short; a list remembers the potentials of
    its scan by number. Lists are not made while the potentials move so far that most would serve
    for nothing.
    """

    def __init__(self, canonical: Canonical, active: bool) -> None:
        self.canonical = canonical
        self.active = active
        self.lists = _new_lists(canonical.n, 0)
        self.references: list[Any] = []
        self.owner = np.zeros(canonical.n, np.int64)  # which reference
        self.size = 0.0  # of thresholds: what rounding is relative to
        self.usual = np.inf  # radius
        self.last: Any = None
        self.nonzeros = min(canonical.k, 16)

    def before(self, alpha: Any) -> Lists:
        """Decide what to do with every column."""
        if not self.active:
            return self.lists
        lists = self.lists
        eps = 16.0 * np.finfo(np.float64).eps
        largest = float(np.abs(alpha).max())
        moves = np.array([
            np.ptp(alpha - old) + eps * (largest + float(np.abs(old).max()) + self.size)
            for old in self.references
        ])  # fmt: skip
        fits = (
            lists.radius > moves[self.owner] if self.references else np.zeros(len(self.owner), bool)
        )
        n_stale = len(fits) - int(np.count_nonzero(fits))
        step = np.inf if self.last is None else float(np.ptp(alpha - self.last))
        self.last = alpha.copy()
        lists.action[:] = LIST
        if not n_stale:
            return lists
        make = _WORTH * step < self.usual or self.usual == np.inf
        if 2 * n_stale > len(fits) or (make and len(self.references) >= _REFERENCES):
            fits[:] = False
            self.references.clear()
            self._widen()
            lists = self.lists
        lists.action[:] = np.where(fits, LIST, SCAN_AND_LIST if make else SCAN)
        if make:
            self.owner[~fits] = len(self.references)
            self.references.append(self.last)
        else:
            lists.radius[~fits] = -1.0
        return lists

    def after(self, alpha: Any, columns: Columns) -> None:
        """Remember what the lists that were made are good for."""
        if not self.active or not np.any(self.lists.action != LIST):
            return
        self.nonzeros = int(np.quantile(columns.counts, 0.9, method="higher"))
        self.size = float(np.abs(columns.tau).max())
        if np.any(self.lists.action == SCAN_AND_LIST):
            self.usual = float(np.median(self.lists.radius))

    def _widen(self) -> None:
        """Make room for lists of the present size, before all columns are scanned."""
        width = _WIDTH_FACTOR * (self.nonzeros + _WIDTH_MORE)
        width = min(64 * -(-width // 64), self.canonical.m // 2)
        if width > self.lists.sources.shape[1]:
            self.lists = _new_lists(self.canonical.n, width)


def _new_lists(n: int, width: int) -> Lists:
    return Lists(
        np.zeros(n, np.int8), np.zeros(n, np.int64), np.full(n, -1.0),
        np.empty((n, width), np.int32), np.empty((n, width)),
    )  # fmt: skip


def column_sums(indptr: Any, values: Any) -> Any:
    """Return the sums of the columns of a plan.

    Parameters
    ----------
    indptr, values : ndarray
        The plan by columns.

    Returns
    -------
    ndarray of float64, of shape (n,)
        Sums.
    """
    owner = np.repeat(np.arange(len(indptr) - 1), np.diff(indptr))
    return np.bincount(owner, weights=values, minlength=len(indptr) - 1)


def _new_chunk(size: int) -> Chunk:
    return Chunk(np.empty(size, np.int64), np.empty(size))


def _thread_count(n_threads: int | None) -> int:
    import numba

    most = numba.get_num_threads()
    return most if n_threads is None else min(n_threads, most)
