"""The proximal subproblem of "ssnal": its dual objective over exact lists of entries."""

from __future__ import annotations

import contextlib
import itertools
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from lowrank_opt.transport.kernels_costs import scores_of_targets
from lowrank_opt.transport.kernels_oracle import column_work
from lowrank_opt.transport.kernels_prox import evaluate_lists, fill_lists

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lowrank_opt.transport.canonical import Canonical

__all__ = ["Proximal", "ProximalOracle", "empty_plan"]

# Columns are evaluated in so many pieces, whatever the number of threads: the sums of the pieces
# are added in order, so that the bits do not depend on it.
_PIECES, _LEAST_COLUMNS = 8, 64
# Entries of a list are aimed at in so many sampled columns.
_TARGET, _SAMPLED = 40, 40
# A list reaches so many times as deep as the last solution did.
_REACH = 1.5
# Scans at the same potentials before a list gets the radius that is always enough.
_RESCANS = 3
# So many rows with the largest rises are looked at one by one.
_HOT = 64
# Columns of a piece are listed at this many different potentials; then all are listed anew.
_REFERENCES = 5
# Threads are worth their start from this number of pairs on.
_PARALLEL = 200_000


def empty_plan(n: int) -> tuple[Any, Any, Any]:
    """Return the plan of `n` columns without entries.

    Parameters
    ----------
    n : int
        Number of columns.

    Returns
    -------
    tuple of ndarray
        ``(indptr, indices, values)``.
    """
    return np.zeros(n + 1, np.int64), np.zeros(0, np.int64), np.zeros(0)


def _rises(change: Any) -> tuple[Any, Any, float]:
    """The rows that have risen most, by how much, and a bound for the others."""
    count = min(_HOT, len(change))
    if not change.any():
        return np.arange(count), np.zeros(count), 0.0
    if count == len(change):
        order, bound = np.lexsort((np.arange(count), -change)), -np.inf
    else:
        order = np.argpartition(-change, count)
        order, bound = order[:count], float(change[order[count]])
        order = order[np.lexsort((order, -change[order]))]
    return order, change[order], bound


class _Lists(NamedTuple):
    """Entries of a range of columns that can matter near the potentials they were listed at."""

    references: list[Any]  # potentials
    age: Any  # at which of them a column was listed
    level: Any
    parts: tuple[Any, Any, Any, Any]
    longest: int
    sums: tuple[float, float]  # of the semi-dual, if all columns were listed
    tau: Any
    safe: bool  # whether nothing outside the lists can matter at the last reference


class Proximal(NamedTuple):
    """Value of the proximal problems of all columns, and their solutions.

    Parameters
    ----------
    value : float
        Sum of the optimal values.
    rows : ndarray of shape (m,)
        Row sums of the plan.
    pieces : list of tuple
        Supports by ranges of columns, see :meth:`support`.
    threshold, depth : ndarray of shape (n,)
        Minus the multipliers of the columns' sums; how far below its largest score the solution
        of a column reaches.
    """

    value: float
    rows: Any
    pieces: list[tuple[Any, ...]]
    threshold: Any
    depth: Any

    def support(self) -> tuple[Any, Any, Any, Any]:
        """Return ``(indptr, indices, values, heads)``: by columns, the large zone first."""
        counts = np.concatenate([np.diff(piece[0]) for piece in self.pieces])
        indptr = np.concatenate([[0], np.cumsum(counts)])
        indices, values, heads = (
            np.concatenate([piece[part] for piece in self.pieces]) for part in (1, 2, 3)
        )
        return indptr, indices, values, heads

    def plan(self) -> tuple[Any, Any, Any]:
        """Return ``(indptr, indices, values)`` with ascending indices and positive values."""
        indptr, indices, values, _ = self.support()
        owner = np.repeat(np.arange(len(indptr) - 1), np.diff(indptr))
        order = np.lexsort((indices, owner))
        order = order[values[order] > 0]
        counts = np.bincount(owner[order], minlength=len(indptr) - 1)
        return np.concatenate([[0], np.cumsum(counts)]), indices[order], values[order]


class ProximalOracle:
    """Dual objective of the proximal subproblem around a plan.

    Parameters
    ----------
    canonical : Canonical
        The problem.
    screening : bool, default=True
        Whether lists serve more than one evaluation.
    n_threads : int, default=1
        Threads; the bits are the same for every number.
    """

    def __init__(self, canonical: Canonical, *, screening: bool = True, n_threads: int = 1) -> None:
        n, m = canonical.n, canonical.m
        self.canonical = canonical
        self.screening = screening
        pieces = max(1, min(_PIECES, n // _LEAST_COLUMNS))
        edges = [n * i // pieces for i in range(pieces + 1)]
        self.ranges = list(itertools.pairwise(edges))
        self.n_threads = n_threads if n * m >= _PARALLEL else 1
        # With a cap of 1 the convex penalty of a column is constant.
        plain = canonical.gamma == 0 or canonical.k == 1
        self.k, self.gamma = (canonical.m, 0.0) if plain else (canonical.k, canonical.gamma)
        self.n_scans = 0.0
        self.n_evaluations = 0
        self.mu = 0.0
        self.center = empty_plan(n)
        self.lists: list[_Lists] = []
        self._pool: ThreadPoolExecutor | None = None

    @contextlib.contextmanager
    def threads(self) -> Iterator[None]:
        """Keep the threads alive inside a ``with`` block."""
        if self.n_threads <= 1:
            yield
            return
        with ThreadPoolExecutor(self.n_threads) as self._pool:
            try:
                yield
            finally:
                self._pool = None

    def _each(self, function: Any) -> list[Any]:
        pieces = range(len(self.ranges))
        if self._pool is None:
            return [function(piece) for piece in pieces]
        return list(self._pool.map(function, pieces))

    def scan(
        self, alpha: Any, mu: float, center: tuple[Any, Any, Any], depth: Any = None,
        threshold: Any = None,
    ) -> tuple[float, Any]:  # fmt: skip
        """Read all costs: evaluate the semi-dual, make lists for a new subproblem.

        Parameters
        ----------
        alpha : ndarray of shape (m,)
            Potentials.
        mu : float
            Weight of the proximal term is ``1 / mu``.
        center : tuple of ndarray
            Plan of the proximal term.
        depth : ndarray of shape (n,) or None, default=None
            How deep solutions are expected to reach; ``None``: as deep as they can.
        threshold : ndarray of shape (n,) or None, default=None
            Guess of the thresholds, with `depth`.

        Returns
        -------
        float, ndarray of shape (n,)
            Sum of the conjugates of the semi-dual, and its thresholds.
        """
        view = self.canonical
        self.mu, self.center = mu, center
        unknown = np.full(view.n, np.nan)
        self.depth = (unknown if depth is None else depth).copy()
        self.threshold = (unknown if threshold is None else threshold).copy()
        safe = (1.0 / mu + self.gamma) * view.b
        reach = safe if depth is None else np.minimum(safe, _REACH * np.maximum(depth, 0.0))
        self.slack = self._slack(alpha, reach) if self.screening else 0.0
        alpha = alpha.copy()
        self.lists = self._each(lambda piece: self._list(piece, alpha, reach, depth is None))
        self.n_scans += 1
        value = sum(lists.sums[0] for lists in self.lists)
        value += sum(lists.sums[1] for lists in self.lists)
        return value, np.concatenate([lists.tau for lists in self.lists])

    def _slack(self, alpha: Any, reach: Any) -> float:
        """How much deeper than `reach` lists go, so that they have about 40 entries."""
        view = self.canonical
        least = 0.5 * float(np.mean(reach))
        if view.m <= _TARGET:
            return least
        out = np.empty((1, view.m))
        room = []
        for j in range(0, view.n, -(-view.n // _SAMPLED)):
            scores_of_targets(view.cost, alpha, j, j + 1, out)
            rank = np.partition(out[0], view.m - 1 - _TARGET)[view.m - 1 - _TARGET]
            room.append(min(out[0].max() - rank, 1e300) - reach[j])
        return max(least, float(np.median(room)))

    def _list(
        self, piece: int, alpha: Any, reach: Any, safe: bool, old: _Lists | None = None,
        chosen: Any = None,
    ) -> _Lists:  # fmt: skip
        """List the entries of a range of columns, or of the chosen ones of them anew."""
        view = self.canonical
        first, last = self.ranges[piece]
        n = last - first
        work = (column_work(view.m), np.empty(view.m, np.int64))
        b, radius = view.b[first:last], reach[first:last] + self.slack
        ptr, tau = np.empty(n + 1, np.int64), np.empty(n)
        if old is None:
            references, age = [alpha], np.zeros(n, np.int64)
            room = 2 * _TARGET * n + 64
            parts = (ptr[:1], np.empty(0, np.int64), np.empty(0), np.empty(0))
            level, chosen = np.empty(n), np.ones(n, bool)
        else:
            used, age = np.unique(
                np.where(chosen, len(old.references), old.age), return_inverse=True
            )
            references = [old.references[p] for p in used[:-1]] + [alpha]
            parts, level = old.parts, old.level
            room = int(1.2 * len(parts[1])) + 64
        while True:
            lists = (ptr, np.empty(room, np.int64), np.empty(room), np.empty(room))
            small, large, filled = fill_lists(
                view.cost, alpha, first, b, view.gamma, view.k, radius, self.center, chosen, parts,
                level, tau, lists, work,
            )  # fmt: skip
            if filled <= room:
                break
            room = filled
        parts = (ptr, *(part[:filled] for part in lists[1:]))
        longest = int(np.diff(ptr).max())
        return _Lists(references, age, level, parts, longest, (small, large), tau, safe)

    def evaluate(self, alpha: Any) -> Proximal:
        """Return the proximal problems' value and solutions; reads costs where lists fall short.

        Parameters
        ----------
        alpha : ndarray of shape (m,)
            Potentials.

        Returns
        -------
        Proximal
            Values and plan.
        """
        self.n_evaluations += 1
        alpha, risen = alpha.copy(), {}  # the copy may serve as a reference of lists
        results = self._each(lambda piece: self._evaluate(piece, alpha, risen))
        sums = np.array([result[0] for result in results])
        rows = np.zeros(self.canonical.m)
        for result in results:
            rows += result[1]
        self.n_scans += sum(result[2] for result in results)
        return Proximal(
            float(sum(sums[:, 0])) + float(sum(sums[:, 1])), rows,
            [result[3] for result in results],
            np.concatenate([result[4] for result in results]),
            np.concatenate([result[5] for result in results]),
        )  # fmt: skip

    def _all_rises(self, lists: _Lists, alpha: Any, known: dict[int, Any]) -> tuple[Any, ...]:
        """How far above the levels unlisted entries can be, for every reference of the lists."""
        for reference in lists.references:
            if id(reference) not in known:
                known[id(reference)] = _rises(alpha - reference)
        hot, risen, rise = zip(*(known[id(one)] for one in lists.references), strict=True)
        return lists.age, np.array(hot), np.array(risen), np.array(rise)

    def _evaluate(self, piece: int, alpha: Any, risen: dict[int, Any]) -> tuple[Any, ...]:
        view = self.canonical
        first, last = self.ranges[piece]
        b, n = view.b[first:last], last - first
        safe = (1.0 / self.mu + self.gamma) * view.b
        rescans, read = 0, 0
        lists = self.lists[piece]
        if not self.screening and not np.array_equal(lists.references[-1], alpha):
            lists = self._list(piece, alpha, safe, True)
            read = n
        depth, threshold = self.depth[first:last], self.threshold[first:last]
        here = np.array_equal(lists.references[0], alpha)
        failed, todo = np.zeros(n, bool), np.ones(n, bool)
        heads, terms = np.empty(n, np.int64), np.empty((n, 2))
        out = (np.zeros(n + 1, np.int64), np.empty(0, np.int64), np.empty(0))
        while True:
            room, size = len(lists.parts[1]), lists.longest + 1
            before = out
            out = (np.empty(n + 1, np.int64), np.empty(room, np.int64), np.empty(room))
            work = (np.empty(size), np.empty(size, np.int64), np.empty(size), np.empty(size))
            rises = self._all_rises(lists, alpha, risen)
            failures = evaluate_lists(
                view.cost, first, lists.parts, b, alpha, self.mu, self.gamma, self.k, lists.level,
                rises, todo, before, out, heads, depth, threshold, failed, terms, work,
            )  # fmt: skip
            if not failures or (lists.safe and (here or rescans)):
                break
            rescans += 1
            todo = failed.copy()
            always = rescans > _RESCANS
            reach = safe.copy()
            if not always:
                wanted = _REACH * 2.0 ** (rescans - 1) * np.maximum(depth, 0.0)
                reach[first:last] = np.minimum(safe[first:last], wanted)
            if len(lists.references) > _REFERENCES:
                failed[:] = True
            read += int(np.sum(failed))
            lists = self._list(piece, alpha, reach, always, lists, failed)
        self.lists[piece] = lists
        filled = int(out[0][-1])
        part = (out[0], out[1][:filled], out[2][:filled], heads)
        sums = [float(np.sum(column)) for column in terms.T]
        rows = np.bincount(part[1], weights=part[2], minlength=view.m)
        return sums, rows, read / view.n, part, threshold.copy(), depth.copy()
