"""From the relaxed plan to one with at most k entries a column: exchanges, repacking, programs.

Rounding works on a list of pairs: the support of the relaxed plan and the pairs of least reduced
cost of every column and row. Convex programs with a price on all but the k largest entries of a
column gather its mass in these. What is too many after that is taken away by exchanges along the
cycles of a spanning tree, at a price for every entry above the caps that rises until none is
left; where exchanges get stuck, neighbourhoods of the columns that still have too many, in the
end all columns, are packed anew. Where the gap is not small then, pairs are pushed in and out at
random, in all neighbourhoods, and what helps is kept. All of that keeps the marginals. Last, the
values are optimal on the support (a convex program). Small problems have more starts, and branch
and bound if none of them leads to a plan.

Rows whose sums are penalised get those of the relaxed plan, and are free in the last program.
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
    join_columns,
    nearest_pairs,
    repack,
    shake,
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
_PACKINGS = ((200, 40), (1000, 40), (400, 120), (15, 2000))
# Gathering: first prices of the mass outside the k largest entries of a column against the mean
# cost, factor, rounds, and rounds without fewer entries too many before it ends.
_PULLS, _GROWTH, _GATHERINGS, _WAIT = (0.5, 3.0, 0.1), 2.0, 10, 3
# Residual of all but the last of these programs.
_ROUGH = 1e-4
# Price of an entry too many after gathering: what is there is not given up again.
_FIRM = 1.0
# A gap above this part of the value is worth an improvement; prices of further starts on problems
# with all pairs.
_GAP, _STARTS = 1e-3, (1e-2, 1.0, 1e-6)
# Nodes of branch and bound, where nothing else has found a plan.
_NODES = 1000
# Exchanges are enough where the entries are this many times the cycles of the support.
_FEW = 50
# Rounds of improvement, and the part of the gap that one has to close for another to follow;
# columns of a neighbourhood and tries in it, tries times pairs on problems with all pairs, largest
# push of a pair against the mean cost, pairs without flow that lead to neighbours.
_ROUNDS, _WORTH, _COLUMNS, _TRIES, _WORK, _PUSH, _LINKS = 3, 0.1, 7, 20, 60_000, 6.0, 3


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
        return _with_soft_rows(canonical, alpha, tau, plan, cut, tol, limit)
    search = _Search(canonical, alpha, tau, plan, tol, limit)
    found = search.run()
    if found is None:
        return RoundedPlan(*plan, search.rounds, False)
    return RoundedPlan(*found, search.rounds, _row_error(canonical, found) <= tol)


def _with_soft_rows(
    canonical: Canonical, alpha: Any, tau: Any, plan: Any, cut: Any, tol: float, deadline: float
) -> RoundedPlan:
    """The best of two supports: of the cut plan, and of one that has the relaxed plan's rows."""
    rows = np.bincount(plan[1], weights=plan[2], minlength=canonical.m)
    search = _Search(
        dataclasses.replace(canonical, a=rows, row_kind=EXACT), alpha, tau, plan, tol, deadline
    )
    best = cut
    for support in (cut, search.run()):
        if support is None:
            continue
        better, _ = solve_on_support(canonical, alpha, support, tol, deadline)
        for other in (support, better):
            if other is not None and _value(canonical, other) < _value(canonical, best):
                best = other
    return RoundedPlan(*best, 1 + search.rounds, True)


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
    indptr, indices, _ = plan
    owner = np.repeat(np.arange(canonical.n), np.diff(indptr))
    cost = SparseCost(indptr, indices, costs_of(canonical.cost, indices, owner), canonical.m)
    return _program(canonical, cost, alpha, plan, tol, deadline)


def _program(
    canonical: Canonical, cost: SparseCost, alpha: Any, plan: Any, tol: float, deadline: float
) -> tuple[tuple[Any, Any, Any] | None, Any]:
    """Plan and potentials of the problem with other costs and no cap; see above."""
    from lowrank_opt.transport import ssnal
    from lowrank_opt.transport.sparsity_constrained import SparsityConstrainedOT

    view = dataclasses.replace(canonical, cost=cost, k=canonical.m)
    left = None if math.isinf(deadline) else max(deadline - time.perf_counter(), 1e-3)
    solver = SparsityConstrainedOT(tol=tol, start="zero", max_time=left)
    state = ssnal.init(solver, view, (alpha, plan))
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
        self.rounds, self.packed = 0, False
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
        small = self.canonical.n * self.canonical.m <= _ALL_PAIRS
        best = None
        for start, price in self._starts(small):
            if self._late() or (best is not None and not self._gap(best, bound)):
                break
            if best is not None and not small and (self.packed or price != _FIRM):
                break
            if best is not None and math.isinf(price):
                break
            other = self._from_start(start(), price)
            if other is not None:
                best = other if self._less(other, best) else best
        for _ in range(_ROUNDS):
            if best is None or self._late() or not self._gap(best, bound):
                break
            again = self._polish(best, improve=True)
            before, after = (_value(self.canonical, x) - bound for x in (best, again))
            best = again
            if not after <= (1.0 - _WORTH) * before:
                break
        return None if best is None else self._polish(best)

    def _starts(self, small: bool) -> Any:
        """Plans, as functions, with the price of an entry too many to begin with."""
        if self.canonical.gamma > 0:
            for pull in _PULLS:
                yield lambda pull=pull: self._gather(pull), _FIRM
        for start in (lambda: self.plan, self._vertex):
            for price in (_PRICE, *_STARTS) if small else (_PRICE,):
                yield start, price
        if small:
            yield self._integer, math.inf

    def _late(self) -> bool:
        return time.perf_counter() >= self.deadline

    def _gap(self, plan: Any, bound: float) -> bool:
        return _value(self.canonical, plan) - bound > _GAP * self.unit * self.canonical.n

    def _less(self, plan: Any, best: Any) -> bool:
        return best is None or _value(self.canonical, plan) < _value(self.canonical, best)

    def _gather(self, pull: float) -> tuple[Any, Any, Any] | None:
        """Plan of programs in which all but the k largest entries of a column cost more.

        The penalty, mass less the sum of the k largest entries, is a difference of convex
        functions that is 0 just for plans within the cap.
        """
        view, plan, alpha = self.canonical, self.plan, self.alpha
        arcs = _Arcs(self, alpha, self.tau, plan)
        live = arcs.col < view.n
        row, col, r, t = arcs.row[live], arcs.col[live], arcs.r[live], arcs.t[live]
        ptr = arcs.ptr[: view.n + 1]
        costs = costs_of(view.cost, row, col)
        price, least, idle = pull * self.unit * view.n, len(t), 0
        cost, fine = None, 0.1 * self.tol
        for _ in range(_GATHERINGS):
            order = np.lexsort((r, -t, col))
            beyond = np.zeros(len(t), bool)
            beyond[order] = np.arange(len(t)) - ptr[col] >= view.k
            excess = int(np.count_nonzero(t[beyond]))
            least, idle = (excess, 0) if excess < least else (least, idle + 1)
            if excess == 0 or idle == _WAIT or self._late():
                break
            cost = SparseCost(ptr, row, costs + price * beyond, view.m)
            other, alpha = _program(view, cost, alpha, plan, max(_ROUGH, fine), self.deadline)
            if other is None:
                return None
            plan = other
            owner = np.repeat(np.arange(view.n), np.diff(plan[0]))
            t = np.zeros(len(t))
            t[np.searchsorted(col * view.m + row, owner * view.m + plan[1])] = plan[2]
            price *= _GROWTH
        if cost is None:
            return plan
        return _program(view, cost, alpha, plan, fine, self.deadline)[0]

    def _from_start(self, plan: Any, price: float) -> tuple[Any, Any, Any] | None:
        """Plan within the cap by exchanges at rising prices, then by repacking."""
        if plan is None:
            return None
        arcs = _Arcs(self, self.alpha, self.tau, plan)
        self.rounds += 1
        price *= self.unit
        for _ in range(_PRICES):
            if arcs.excess() == 0 or self._late():
                break
            arcs.exchange(price)
            price *= _RISE
        if arcs.excess():
            self.packed = True
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

    def _polish(self, plan: Any, improve: bool = False) -> tuple[Any, Any, Any]:
        """Best values on the support, then exchanges with pairs by the new potentials."""
        self.rounds += 1
        alpha, tau = self.alpha, self.tau
        if self.canonical.gamma > 0 and _FEW * self._cycles(plan) > len(plan[1]):
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
        plan = other if self._less(other, plan) else plan
        if improve:  # among the pairs of the relaxed problem
            arcs = _Arcs(self, self.alpha, self.tau, plan)
            arcs.improve()
            plan = arcs.plan()
        return plan

    def _cycles(self, plan: Any) -> int:
        """Dimension of the plans on the support, without signs: without cycles there is one."""
        import scipy.sparse as sp
        from scipy.sparse.csgraph import connected_components

        m, n = self.canonical.m, self.canonical.n
        nodes = m + n
        indptr = np.concatenate([np.zeros(m, np.int64), plan[0]])
        graph = sp.csr_array((np.ones(len(plan[1])), plan[1], indptr), shape=(nodes, nodes))
        components, _ = connected_components(graph, directed=False)
        return len(plan[1]) - nodes + int(components)

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
        if not self.upper:  # the exact masses: theirs are the plans with few entries
            spent, sums = self.canonical.a, self.canonical.b
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

    def _integer(self) -> tuple[Any, Any, Any] | None:
        """A plan within the caps by branch and bound, with linear costs."""
        import scipy.sparse as sp
        from scipy.optimize import Bounds, LinearConstraint, milp

        view = self.canonical
        arcs = _Arcs(self, self.alpha, self.tau, self.plan)
        pairs = arcs.col < view.n
        row, col, r = arcs.row[pairs], arcs.col[pairs], arcs.r[pairs]
        count, scale = len(row), float(np.mean(view.b))
        a, b = view.a / scale, view.b / scale
        index, one = np.arange(count), np.ones(count)
        rows = sp.csr_array((one, (row, index)), shape=(view.m, 2 * count))
        columns = sp.csr_array((one, (col, index)), shape=(view.n, 2 * count))
        places = sp.csr_array((one, (col, count + index)), shape=(view.n, 2 * count))
        least = np.minimum(a[row], b[col])
        links = sp.hstack([sp.eye_array(count), sp.diags_array(-least)])
        limits = [
            LinearConstraint(rows, a * (not self.upper), a),
            LinearConstraint(columns, b, b),
            LinearConstraint(places, 0.0, view.k),
            LinearConstraint(sp.csr_array(links), -np.inf, 0.0),
        ]
        left = max(self.deadline - time.perf_counter(), 1e-3)
        options = {"node_limit": _NODES, "mip_rel_gap": 0.01}
        found = milp(
            np.append(r - r.min(), 0.0 * r), constraints=limits,
            integrality=np.append(0.0 * one, one), bounds=Bounds(0.0, np.append(least, one)),
            options=options if math.isinf(left) else {**options, "time_limit": left},
        )  # fmt: skip
        if found.x is None:
            return None
        live = found.x[count:] > 0.5
        indptr = np.concatenate([[0], np.cumsum(np.bincount(col[live], minlength=view.n))])
        plan = indptr, row[live], np.maximum(found.x[:count][live], 0.0) * scale
        return solve_on_support(view, self.alpha, plan, 0.1 * self.tol, self.deadline)[0]


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
        spent = np.bincount(indices, weights=values, minlength=m)
        self._add_unused(np.maximum(view.a - spent, 0.0))

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
        everything = np.arange(len(self.search.cap))
        part = _Part(self, everything, slice(None), self.row, self.search.canonical.m)
        exchange(
            *part.pairs, *part.columns, price, _SWEEPS, part.t, part.parent, part.link,
            part.intree, part.degree,
        )  # fmt: skip
        self.t = part.t

    def improve(self) -> None:
        """Exchanges after random pushes: in the neighbourhoods of all columns, the worst first."""
        search = self.search
        m, n = search.canonical.m, search.canonical.n
        price, push = _FIRM * search.unit, _PUSH * search.unit * n
        if m * n <= _ALL_PAIRS:
            everything = np.arange(len(search.cap))
            part = _Part(self, everything, slice(None), self.row, m)
            part.shake(price, push, max(_TRIES, _WORK // len(self.t)), search.rounds)
            self.t = part.t
            return
        order = np.lexsort((self.r, self.col))
        rank = np.empty(len(order), np.int64)
        rank[order] = np.arange(len(order)) - self.ptr[self.col[order]]
        close = rank < search.canonical.k + _LINKS
        by_row = np.argsort(self.row, kind="stable")
        row_ptr = np.searchsorted(self.row[by_row], np.arange(m + 1))
        chosen, is_in = np.empty(_COLUMNS, np.int64), np.full(len(search.cap), -1)
        losses = self._losses(rank)
        for seed in np.argsort(-losses, kind="stable"):
            if losses[seed] <= 0.5 * _GAP * search.unit or search._late():
                return
            count = join_columns(
                seed, self.row, self.col, self.ptr, close, by_row, row_ptr, self.t, n, is_in,
                chosen,
            )  # fmt: skip
            columns = np.sort(chosen[:count])
            if search.upper:
                columns = np.append(columns, n)
            live = np.concatenate([np.arange(self.ptr[j], self.ptr[j + 1]) for j in columns])
            flows = live[(self.t[live] > 0) & (self.col[live] < n)]
            rows = np.unique(self.row[flows])
            place = np.minimum(np.searchsorted(rows, self.row[live]), len(rows) - 1)
            inside = rows[place] == self.row[live]
            part = _Part(self, columns, live[inside], place[inside], len(rows))
            part.shake(price, push, _TRIES, int(seed))
            self.t[live[inside]] = part.t

    def _losses(self, rank: Any) -> Any:
        """What the columns of the plan cost above the bound of the potentials."""
        search = self.search
        strength = search.strength[self.col]
        lost = self.t * (self.r + 0.5 * strength * self.t)
        gamma = search.canonical.gamma
        if gamma > 0:
            best = (rank < search.canonical.k) & (self.col < search.canonical.n)
            lost = lost + np.where(best, np.minimum(self.r, 0.0) ** 2 / (2.0 * gamma), 0.0)
        return np.bincount(self.col, weights=lost, minlength=len(search.cap))[: search.canonical.n]

    def repack(self, noise: float) -> None:
        """Pack neighbourhoods of columns with too many entries anew."""
        view = self.search.canonical
        upper = self.search.upper
        live = (self.t > 0) & (self.col < view.n)
        # What rows have left stays; if need be it may be used, and then has no price of its own.
        unused = self.t[self.col == view.n].copy()
        row, col, t = self.row[live], self.col[live], self.t[live]
        count = np.bincount(col, minlength=view.n)
        width = max(int(count.max()), view.k)
        idx, val = np.zeros((view.n, width), np.int64), np.zeros((view.n, width))
        place = np.arange(len(row)) - np.repeat(np.cumsum(count) - count, count)
        idx[col, place], val[col, place] = row, t
        for rest in (np.empty(0), unused) if upper else (np.empty(0),):
            alpha = np.zeros(view.m) if rest.size else self.alpha
            for seed, (tries, largest) in enumerate(_PACKINGS):
                left = repack(
                    view.cost, alpha, self.tau, self.near, view.k, view.gamma, noise, tries,
                    min(largest, view.n), seed, rest, idx, val, count,
                )  # fmt: skip
                if left == 0 or self.search._late():
                    break
            if left == 0:
                break
        live = np.arange(width) < count[:, None]
        places = np.repeat(np.arange(view.n), count) * view.m + idx[live]
        pairs = self.col * view.m + self.row
        self._set(np.unique(np.concatenate([pairs[self.col < view.n], places])), places, val[live])
        self._add_unused(unused)

    def _add_unused(self, unused: Any) -> None:
        """Add the column of what rows have left, if it may be so."""
        view = self.search.canonical
        if self.search.upper:
            self.row = np.append(self.row, np.arange(view.m))
            self.col = np.append(self.col, np.full(view.m, view.n))
            self.r = np.append(self.r, -self.alpha)
            self.t = np.append(self.t, unused)
        self.ptr = np.searchsorted(self.col, np.arange(len(self.search.cap) + 1))

    def plan(self) -> tuple[Any, Any, Any]:
        """The plan by columns, with exact sums of the columns."""
        view = self.search.canonical
        live = (self.t > 0) & (self.col < view.n)
        counts = np.bincount(self.col[live], minlength=view.n)
        indptr = np.concatenate([[0], np.cumsum(counts)])
        return _clean(view, (indptr, self.row[live], self.t[live]))


class _Part:
    """Some columns of a plan on a list of pairs, with a spanning tree."""

    def __init__(self, arcs: _Arcs, columns: Any, which: Any, row: Any, m: int) -> None:
        search = arcs.search
        col = np.searchsorted(columns, arcs.col[which])
        self.t, r = arcs.t[which].copy(), arcs.r[which].copy()
        ptr = np.searchsorted(col, np.arange(len(columns) + 1))
        self.pairs = row, col, ptr, r
        cap = search.cap[columns]
        self.columns = search.strength[columns], cap, search.tiny[columns]
        nodes = m + len(columns)
        self.parent, self.link = np.empty(nodes, np.int64), np.empty(nodes, np.int64)
        self.intree = np.zeros(len(col), bool)
        order = np.lexsort((r, -self.t))
        span(row, col, order, m, len(columns), self.parent, self.link, self.intree)
        self.degree = np.bincount(col[self.t > 0], minlength=len(columns))

    def shake(self, price: float, push: float, tries: int, seed: int) -> None:
        """Exchanges after random pushes."""
        shake(
            *self.pairs, *self.columns, price, push, tries, seed, self.t, self.parent, self.link,
            self.intree, self.degree,
        )  # fmt: skip


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
