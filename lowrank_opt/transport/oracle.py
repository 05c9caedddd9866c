"""Value, gradient and plan of the semi-dual and of the dual."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from lowrank_opt.core.errors import ParameterError
from lowrank_opt.transport.canonical import row_dual
from lowrank_opt.transport.kernels_oracle import (
    Chunk,
    Columns,
    column_work,
    evaluate_columns,
    gather_columns,
)

if TYPE_CHECKING:
    from lowrank_opt.transport.canonical import Canonical

__all__ = ["DualEvaluation", "Evaluation", "SemidualOracle"]

# Columns are evaluated in so many ranges, for any number of threads.
_RANGES = 16
# Places a column in the first buffer for the plan.
_PLACES = 16


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
    n_scans : int
        Passes over the costs so far.
    n_evaluations : int
        Evaluations so far.
    """

    def __init__(
        self, canonical: Canonical, *, screening: bool = True, n_threads: int | None = 1
    ) -> None:
        self.canonical = canonical
        self.screening = screening
        self.n_threads = _thread_count(n_threads)
        self.n_scans = 0
        self.n_evaluations = 0
        n = canonical.n
        bounds = np.linspace(0, n, min(_RANGES, n) + 1).astype(np.int64)
        self._ranges = list(zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True))
        self._chunks = [
            _new_chunk((last - first) * min(canonical.k, _PLACES) + canonical.m)
            for first, last in self._ranges
        ]
        self._work = [column_work(canonical.m) for _ in range(self.n_threads)]

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
        beta = np.ascontiguousarray(beta, dtype=np.float64)
        columns, plan, rows = self._columns(alpha, beta)
        value, wanted, _ = row_dual(view.row_kind, view.row_weight, view.a, alpha)
        sums = column_sums(plan[0], plan[2])
        value += float(beta @ view.b) - float(np.sum(columns.psi))
        return DualEvaluation(value, wanted - rows, view.b - sums, *plan)

    def _columns(self, alpha: Any, beta: Any) -> tuple[Columns, tuple[Any, Any, Any], Any]:
        """Evaluate all columns; return what is known of them, the plan and its row sums."""
        n, m = self.canonical.n, self.canonical.m
        alpha = np.ascontiguousarray(alpha, dtype=np.float64)
        columns = Columns(np.empty(n), np.empty(n), np.empty(n, np.int64))
        self.n_scans += 1
        self.n_evaluations += 1
        filled = self._run(alpha, beta, columns)
        indptr = np.zeros(n + 1, np.int64)
        np.cumsum(columns.counts, out=indptr[1:])
        indices, values = np.empty(indptr[-1], np.int64), np.empty(indptr[-1])
        rows = np.zeros(m)
        # One thread, range after range: sums in a fixed order.
        for (first, _), chunk, count in zip(self._ranges, self._chunks, filled, strict=True):
            gather_columns(chunk, count, indptr[first], indices, values, rows)
        return columns, (indptr, indices, values), rows

    def _run(self, alpha: Any, beta: Any, columns: Columns) -> list[int]:
        """Evaluate all ranges of columns; return the numbers of entries in their chunks."""
        filled = [0] * len(self._ranges)
        todo = iter(range(len(self._ranges)))

        def consume(work: Any) -> None:
            for r in todo:  # next() on an iterator of the interpreter is atomic
                filled[r] = self._one_range(r, alpha, beta, columns, work)

        threads = min(self.n_threads, len(self._ranges))
        if threads == 1:
            consume(self._work[0])
        else:
            with ThreadPoolExecutor(threads) as pool:
                list(pool.map(consume, self._work[:threads]))
        return filled

    def _one_range(self, r: int, alpha: Any, beta: Any, columns: Columns, work: Any) -> int:
        view = self.canonical
        (first, last), filled = self._ranges[r], 0
        while True:
            first, filled = evaluate_columns(
                view.cost, alpha, beta, view.b, view.gamma, view.k, first, last, filled,
                columns, self._chunks[r], work,
            )  # fmt: skip
            if first == last:
                return int(filled)
            old = self._chunks[r]
            new = _new_chunk(2 * len(old.values) + view.m)
            new.indices[:filled], new.values[:filled] = old.indices[:filled], old.values[:filled]
            self._chunks[r] = new


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
