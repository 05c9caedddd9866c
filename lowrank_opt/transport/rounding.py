"""From the relaxed plan to one with at most k entries a column: exchanges, repacking, programs.

Rounding works on a list of pairs: the support of the relaxed plan and the pairs of least reduced
cost of every column and row. A plan on them is improved by exchanges along the cycles of a
spanning tree, at a price for every entry above the caps that rises until none is left; where
exchanges get stuck, neighbourhoods of the columns that still have too many are packed anew. All
of that keeps the marginals. Then the values are optimal on the support (a convex program), new
pairs are listed by the new potentials, and exchanges that keep the caps go on as long as they
help.
"""

from __future__ import annotations

import dataclasses
import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lowrank_opt.transport.canonical import EXACT, UPPER, row_penalty
from lowrank_opt.transport.costs import SparseCost
from lowrank_opt.transport.kernels_functions import project_rows
from lowrank_opt.transport.kernels_rounding import (
    costs_of,
    exchange,
    nearest_pairs,
    repack,
    span,
)

if TYPE_CHECKING:
    from lowrank_opt.transport.canonical import Canonical

__all__ = ["RoundedPlan", "round_plan", "solve_on_support"]

# Entries up to this part of a column's mass are zero.
_ZERO = 1e-12
# Pairs of least reduced cost of a column and of a row that are candidates; all pairs of small
# problems are.
_PER_COLUMN, _PER_ROW, _ALL_PAIRS = 16, 4, 4096
# First price of an entry too many against the objective of a column, factor, and number of
# prices; sweeps of exchanges for each.
_PRICE, _RISE, _PRICES, _SWEEPS = 1e-4, 4.0, 5, 8
# Neighbourhoods that are packed anew: packings of every size and largest size, one after the
# other.
_PACKINGS = ((200, 40), (1000, 40), (400, 120))
# A gap above this part of the value is worth an improvement; rounds of it; further starts on
# problems with all pairs.
_GAP, _ROUNDS, _STARTS = 1e-3, 10, (1e-2, 1.0, 1e-6)


@dataclass(frozen=True, eq=False)
class RoundedPlan:
    """A plan with at most k entries a column, if one was found.

    Parameters
    ----------
    indptr, indices, values : ndarray
        The plan by columns, indices ascending, in canonical units.
    rounds : int
        Rounds of exchanges and programs.
    feasible : bool
        Whether the cap and the marginals hold. If not, ``mode="columns"`` has plans within the
        cap and with exact sums of the columns, ``mode="qp"`` the relaxed plan.
    """

    indptr: Any
    indices: Any
    values: Any
    rounds: int
    feasible: bool


def round_plan(
    canonical: Canonical,
    alpha: Any,
    tau: Any,
    plan: tuple[Any, Any, Any],
    *,
    mode: str,
    tol: float,
    deadline: float | None = None,
) -> RoundedPlan:
    """Return a plan within the cap near a relaxed plan.

    Parameters
    ----------
    canonical : Canonical
        The problem.
    alpha, tau : ndarray of shape (m,) and (n,)
        Potentials of the sources and thresholds of the columns.
    plan : tuple of ndarray
        ``(indptr, indices, values)`` of the relaxed plan.
    mode : {"qp", "columns"}
        Whether the sums of the rows have to hold too.
    tol : float
        Sum of the errors of the rows' sums that counts as none.
    deadline : float or None, default=None
        Reading of :func:`time.perf_counter` to stop at, with the best plan so far.

    Returns
    -------
    RoundedPlan
        The plan.
    """
    limit = math.inf if deadline is None else deadline
    plan = _clean(canonical, plan)
    alpha, tau = np.asarray(alpha, dtype=np.float64), np.asarray(tau, dtype=np.float64)
    if np.diff(plan[0]).max(initial=0) <= canonical.k:
        return RoundedPlan(*plan, 0, mode == "columns" or _row_error(canonical, plan) <= tol)
    cut = _cut(canonical, plan)
    if mode == "columns":
        return RoundedPlan(*cut, 0, True)
    if canonical.row_kind not in (EXACT, UPPER):
        better, _ = solve_on_support(canonical, alpha, cut, tol, limit)
        if better is not None and _value(canonical, better) < _value(canonical, cut):
            cut = better
        return RoundedPlan(*cut, 1, True)
    search = _Search(canonical, alpha, tau, plan, tol, limit)
    found = search.run()
    if found is None:
        return RoundedPlan(*plan, search.rounds, False)
    return RoundedPlan(*found, search.rounds, _row_error(canonical, found) <= tol)


def solve_on_support(
    canonical: Canonical, alpha: Any, plan: tuple[Any, Any, Any], tol: float, deadline: float
) -> tuple[tuple[Any, Any, Any] | None, Any]:
    """Return the best plan on the support of a plan, and its potentials.

    Parameters
    ----------
    canonical : Canonical
        The problem; its cap is ignored.
    alpha : ndarray of shape (m,)
        Potentials to start from.
    plan : tuple of ndarray
        The support; values to start from.
    tol : float
        Residual at which the program counts as solved.
    deadline : float
        When to give up.

    Returns
    -------
    tuple of ndarray or None, ndarray of shape (m,)
        The plan, ``None`` if the program was not solved, and potentials.
    """
    from lowrank_opt.transport import ssnal
    from lowrank_opt.transport.sparsity_constrained import SparsityConstrainedOT

    indptr, indices, values = plan
    owner = np.repeat(np.arange(canonical.n), np.diff(indptr))
    cost = SparseCost(indptr, indices, costs_of(canonical.cost, indices, owner), canonical.m)
    view = dataclasses.replace(canonical, cost=cost, k=canonical.m)
    solver = SparsityConstrainedOT(tol=tol, start="zero")
    state = ssnal.init(solver, view, (alpha, (indptr, indices, values)))
    while state.residual > tol and state.nit < 40 and not state.stalled:
        if time.perf_counter() >= deadline:
            break
        state = ssnal.step(solver, view, state)
    if not state.residual <= tol:
        return None, state.alpha
    return _clean(canonical, (state.indptr, state.indices, state.values)), state.alpha


class _Search:
    """Exchanges, repacking and programs from one relaxed plan."""

    def __init__(
        self, canonical: Canonical, alpha: Any, tau: Any, plan: Any, tol: float, deadline: float
    ) -> None:
        self.canonical, self.tol, self.deadline = canonical, tol, deadline
        self.alpha, self.tau, self.plan = alpha, tau, plan
        self.rounds = 0
        self.upper = canonical.row_kind == UPPER
        columns = canonical.n + self.upper  # what rows have left is a column of its own
        self.cap = np.full(columns, canonical.k)
        self.strength = np.full(columns, canonical.gamma)
        self.tiny = np.append(canonical.b, 0.0)[:columns] * _ZERO
        if self.upper:
            self.cap[-1], self.strength[-1], self.tiny[-1] = canonical.m, 0.0, 1e-300
        relaxed = _value(canonical, plan)
        self.unit = max(abs(relaxed), _value(canonical, plan, absolute=True)) / canonical.n

    def run(self) -> tuple[Any, Any, Any] | None:
        """Return the best plan found within the cap, or ``None``."""
        from lowrank_opt.transport.oracle import SemidualOracle

        bound = float(SemidualOracle(self.canonical).evaluate(self.alpha).value)
        best = self._from_start(self.plan, _PRICE)
        small = self.canonical.n * self.canonical.m <= _ALL_PAIRS
        starts = [self.plan] if best is not None else []
        if best is None or (small and self._gap(best, bound)):
            vertex = self._vertex()
            starts += [] if vertex is None else [vertex]
            prices = (_PRICE, *_STARTS) if small else (_PRICE,)
            for start in starts:
                for price in prices:
                    if self._late() or (best is not None and not self._gap(best, bound)):
                        break
                    if start is self.plan and price == _PRICE:
                        continue
                    other = self._from_start(start, price)
                    if other is not None and self._less(other, best):
                        best = other
        while best is not None and self.rounds < _ROUNDS and not self._late():
            again = self._polish(best)
            if again is None:
                break
            saved = _value(self.canonical, best) - _value(self.canonical, again)
            best = again
            if saved <= 1e-9 * self.unit * self.canonical.n or not self._gap(best, bound):
                break
        return best

    def _late(self) -> bool:
        return time.perf_counter() >= self.deadline

    def _gap(self, plan: Any, bound: float) -> bool:
        return _value(self.canonical, plan) - bound > _GAP * self.unit * self.canonical.n

    def _less(self, plan: Any, best: Any) -> bool:
        return best is None or _value(self.canonical, plan) < _value(self.canonical, best)

    def _from_start(self, plan: Any, price: float) -> tuple[Any, Any, Any] | None:
        """Plan within the cap by exchanges at rising prices, then by repacking."""
        arcs = _Arcs(self, self.alpha, self.tau, plan)
        self.rounds += 1
        price *= self.unit
        for _ in range(_PRICES):
            arcs.exchange(price)
            if arcs.excess() == 0 or self._late():
                break
            price *= _RISE
        if arcs.excess() and not self.upper:
            noise = 4.0 * float(np.median(np.abs(arcs.r)))
            arcs.repack(noise)
        for _ in range(_PRICES):
            if arcs.excess() == 0 or self._late():
                break
            arcs.exchange(price)
            price *= _RISE
        if arcs.excess():
            return None
        arcs.exchange(-price)
        return arcs.plan()

    def _polish(self, plan: Any) -> tuple[Any, Any, Any] | None:
        """Best values on the support, then exchanges with pairs by the new potentials."""
        self.rounds += 1
        alpha, tau = self.alpha, self.tau
        if self.canonical.gamma > 0:
            rows = np.bincount(plan[1], weights=plan[2], minlength=self.canonical.m)
            view = self.canonical
            if not self.upper:  # the sums that the plan has: the program is feasible
                live = np.where(rows > 0, rows, view.a)
                view = dataclasses.replace(view, a=live)
            better, alpha = solve_on_support(view, alpha, plan, 0.1 * self.tol, self.deadline)
            if (
                better is not None
                and _row_error(self.canonical, better) <= self.tol
                and self._less(better, plan)
            ):
                plan = better
            tau = _thresholds(self.canonical, alpha, plan, tau)
        if self._late():
            return plan
        arcs = _Arcs(self, alpha, tau, plan)
        arcs.exchange(-self.unit)
        other = arcs.plan()
        return other if self._less(other, plan) else plan

    def _vertex(self) -> tuple[Any, Any, Any] | None:
        """A vertex of the plans on the candidate pairs: few entries."""
        import scipy.sparse as sp
        from scipy.optimize import linprog

        arcs = _Arcs(self, self.alpha, self.tau, self.plan)
        count = np.arange(len(arcs.t))
        one = np.ones(len(arcs.t))
        rows = sp.csr_array((one, (arcs.row, count)), shape=(self.canonical.m, len(count)))
        columns = sp.csr_array((one, (arcs.col, count)), shape=(len(self.cap), len(count)))
        sums = np.bincount(arcs.col, weights=arcs.t, minlength=len(self.cap))
        scale = 1.0 / float(np.mean(self.canonical.b))
        price = np.maximum(arcs.r, 0.0) / (float(np.abs(arcs.r).max()) or 1.0)
        spent = np.bincount(arcs.row, weights=arcs.t, minlength=self.canonical.m)
        left = max(self.deadline - time.perf_counter(), 1e-3)
        options = {} if math.isinf(left) else {"time_limit": left}
        found = linprog(
            price, A_eq=sp.vstack([rows, columns[1:]]).tocsr(),
            b_eq=scale * np.concatenate([spent, sums[1:]]), method="highs-ds", options=options,
        )  # fmt: skip
        if found.x is None:
            return None
        arcs.t = np.maximum(found.x, 0.0) / scale
        arcs.t[arcs.t <= 1e-10 * np.append(self.canonical.b, 0.0)[arcs.col]] = 0.0
        return arcs.plan()


class _Arcs:
    """A plan on a list of pairs, sorted by columns."""

    def __init__(self, search: _Search, alpha: Any, tau: Any, plan: Any) -> None:
        view = search.canonical
        self.search, m, n = search, view.m, view.n
        indptr, indices, values = plan
        owner = np.repeat(np.arange(n), np.diff(indptr))
        if m * n <= _ALL_PAIRS:
            columns = np.tile(np.arange(m), (n, 1))
            rows = np.zeros((m, 0), np.int64)
        else:
            columns = np.empty((n, min(_PER_COLUMN, m)), np.int64)
            rows = np.empty((m, min(_PER_ROW, n)), np.int64)
            nearest_pairs(view.cost, alpha, tau, *(x.shape[1] for x in (columns, rows)), columns,
                          rows)  # fmt: skip
        self.near = rows if rows.size else np.tile(np.arange(n), (m, 1))
        pairs = np.concatenate([
            owner * m + indices,
            (np.arange(n)[:, None] * m + columns)[columns >= 0],
            (rows * m + np.arange(m)[:, None])[rows >= 0],
        ])  # fmt: skip
        self.alpha, self.tau = alpha, tau
        self._set(np.unique(pairs), owner * m + indices, values)
        finite = np.isfinite(self.r)
        if not finite.all():
            self._set((self.col * m + self.row)[finite], owner * m + indices, values)
        if search.upper:
            left = np.maximum(view.a - np.bincount(indices, weights=values, minlength=m), 0.0)
            self.row = np.append(self.row, np.arange(m))
            self.col = np.append(self.col, np.full(m, n))
            self.r = np.append(self.r, -alpha)
            self.t = np.append(self.t, left)
        self.ptr = np.searchsorted(self.col, np.arange(len(search.cap) + 1))

    def _set(self, pairs: Any, places: Any, values: Any) -> None:
        view = self.search.canonical
        self.row, self.col = pairs % view.m, pairs // view.m
        self.t = np.zeros(len(pairs))
        self.t[np.searchsorted(pairs, places)] = values
        reduced = costs_of(view.cost, self.row, self.col)
        self.r = reduced - self.alpha[self.row] + self.tau[self.col]

    def excess(self) -> int:
        """Entries above the caps."""
        counts = np.bincount(self.col[self.t > 0], minlength=len(self.search.cap))
        return int(np.sum(np.maximum(counts - self.search.cap, 0)))

    def exchange(self, price: float) -> None:
        """Exchanges at a price for entries above the caps; negative: none may be added."""
        search = self.search
        nodes = search.canonical.m + len(search.cap)
        parent, link = np.empty(nodes, np.int64), np.empty(nodes, np.int64)
        intree = np.zeros(len(self.t), bool)
        order = np.lexsort((self.r, -self.t))
        span(self.row, self.col, order, search.canonical.m, len(search.cap), parent, link, intree)
        degree = np.bincount(self.col[self.t > 0], minlength=len(search.cap))
        exchange(
            self.row, self.col, self.ptr, self.r, search.strength, search.cap, search.tiny, price,
            _SWEEPS, self.t, parent, link, intree, degree,
        )  # fmt: skip

    def repack(self, noise: float) -> None:
        """Pack neighbourhoods of columns with too many entries anew."""
        view = self.search.canonical
        live = self.t > 0
        row, col, t = self.row[live], self.col[live], self.t[live]
        count = np.bincount(col, minlength=view.n)
        width = max(int(count.max()), view.k)
        idx, val = np.zeros((view.n, width), np.int64), np.zeros((view.n, width))
        place = np.arange(len(row)) - np.repeat(np.cumsum(count) - count, count)
        idx[col, place], val[col, place] = row, t
        for seed, (tries, largest) in enumerate(_PACKINGS):
            left = repack(
                view.cost, self.alpha, self.tau, self.near, view.k, view.gamma, noise, tries,
                largest, seed, idx, val, count,
            )  # fmt: skip
            if left == 0 or self.search._late():
                break
        live = np.arange(width) < count[:, None]
        places = np.repeat(np.arange(view.n), count) * view.m + idx[live]
        pairs = np.unique(np.concatenate([self.col * view.m + self.row, places]))
        self._set(pairs, places, val[live])
        self.ptr = np.searchsorted(self.col, np.arange(view.n + 1))

    def plan(self) -> tuple[Any, Any, Any]:
        """The plan by columns, with exact sums of the columns."""
        view = self.search.canonical
        live = (self.t > 0) & (self.col < view.n)
        counts = np.bincount(self.col[live], minlength=view.n)
        indptr = np.concatenate([[0], np.cumsum(counts)])
        return _clean(view, (indptr, self.row[live], self.t[live]))


def _clean(canonical: Canonical, plan: tuple[Any, Any, Any]) -> tuple[Any, Any, Any]:
    """The plan without entries that count as zero, its columns' sums exact."""
    indptr, indices, values = plan
    owner = np.repeat(np.arange(canonical.n), np.diff(indptr))
    live = values > _ZERO * canonical.b[owner]
    owner, indices, values = owner[live], indices[live], values[live]
    sums = np.bincount(owner, weights=values, minlength=canonical.n)
    values = values * (canonical.b / np.where(sums > 0, sums, 1.0))[owner]
    counts = np.bincount(owner, minlength=canonical.n)
    return np.concatenate([[0], np.cumsum(counts)]), indices, values


def _cut(canonical: Canonical, plan: tuple[Any, Any, Any]) -> tuple[Any, Any, Any]:
    """The closest plan within the cap that has the sums of the columns."""
    indptr, indices, values = plan
    counts = np.diff(indptr)
    owner = np.repeat(np.arange(canonical.n), counts)
    place = np.arange(len(indices)) - indptr[owner]
    padded = np.full((canonical.n, int(counts.max())), -np.inf)
    padded[owner, place] = values
    out = np.empty(padded.shape)
    project_rows(padded, canonical.k, canonical.b, out)
    kept = out[owner, place]
    return _clean(canonical, (indptr, indices, kept))


def _row_error(canonical: Canonical, plan: tuple[Any, Any, Any]) -> float:
    rows = np.bincount(plan[1], weights=plan[2], minlength=canonical.m)
    if canonical.row_kind == EXACT:
        return float(np.sum(np.abs(rows - canonical.a)))
    if canonical.row_kind == UPPER:
        return float(np.sum(np.maximum(rows - canonical.a, 0.0)))
    return 0.0


def _value(canonical: Canonical, plan: tuple[Any, Any, Any], absolute: bool = False) -> float:
    """Objective of a plan within the cap."""
    indptr, indices, values = plan
    owner = np.repeat(np.arange(canonical.n), np.diff(indptr))
    costs = costs_of(canonical.cost, indices, owner)
    rows = np.bincount(indices, weights=values, minlength=canonical.m)
    penalty = row_penalty(canonical.row_kind, canonical.row_weight, canonical.a, rows)
    spent = float(np.sum((np.abs(costs) if absolute else costs) * values))
    return spent + 0.5 * canonical.gamma * float(np.sum(values**2)) + penalty


def _thresholds(canonical: Canonical, alpha: Any, plan: Any, tau: Any) -> Any:
    """Thresholds of the columns at which the entries of a plan are optimal, on average."""
    indptr, indices, values = plan
    owner = np.repeat(np.arange(canonical.n), np.diff(indptr))
    level = alpha[indices] - costs_of(canonical.cost, indices, owner) - canonical.gamma * values
    counts = np.diff(indptr)
    sums = np.bincount(owner, weights=level, minlength=canonical.n)
    return np.where(counts > 0, sums / np.maximum(counts, 1), tau)
