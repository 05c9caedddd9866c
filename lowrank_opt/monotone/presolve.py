"""Presolve of linear programs, with a way back that does not amplify errors.

First-order methods return points that are neither basic nor exact. A reduction is only used here
if the multipliers it needs on the way back follow from a sign, not from a system of equations:
what was removed then has no residual of its own, and what is left keeps the one it had.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

from lowrank_opt.core.errors import ParameterError
from lowrank_opt.monotone import kernels_presolve as kernels
from lowrank_opt.monotone.certificates_lp import side_norm
from lowrank_opt.monotone.linear_program import LinearProgram
from lowrank_opt.monotone.postsolve import Stack

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    Values = NDArray[np.float64]

__all__ = ["REDUCTIONS", "Presolved", "presolve"]

# The order is that of the kernels' switches.
REDUCTIONS = (
    "empty_rows", "singleton_rows", "redundant_rows", "forcing_rows", "fixed_columns",
    "empty_columns", "dual_fixing", "slack_columns", "parallel_rows",
)  # fmt: skip
PASSES = 30
NEAR = 1e-9


@dataclass(frozen=True)
class Presolved:
    """A presolved program and the way back.

    Parameters
    ----------
    problem : LinearProgram
        What is left; the given program itself when nothing was removed.
    status : str
        "reduced", "unchanged", "solved", "infeasible" or "unbounded"; the last two only with a
        ray that the given program has verified. Unbounded means that there is a direction of
        descent: no minimum exists if there is a feasible point.
    stack : Stack or None
        What was done.
    ray : ndarray or None
        Proof of the status, of the given program.
    """

    problem: Any
    status: str
    stack: Stack | None = None
    ray: Values | None = None

    @property
    def side_norm(self) -> float:
        """Norm of the right-hand sides of the given program, which residuals are relative to."""
        given = self.problem if self.stack is None else self.stack.problem
        return side_norm(given)

    @property
    def cost_norm(self) -> float:
        """Norm of the costs of the given program."""
        given = self.problem if self.stack is None else self.stack.problem
        return float(np.linalg.norm(given.c))

    def postsolve(self, x: Values, y: Values) -> tuple[Values, Values]:
        """Return a point of the given program from one of the presolved program.

        Parameters
        ----------
        x, y : ndarray
            The point; empty arrays when presolve has solved the program.
        """
        if self.stack is None:
            return np.array(x, np.float64), np.array(y, np.float64)
        y = np.asarray(y, np.float64)
        if self.status == "solved":  # rows without columns may be left
            y = np.zeros(np.count_nonzero(self.stack.row_kept))
        return self.stack.point(np.asarray(x, np.float64), y)

    def restrict(self, x: Values, y: Values) -> tuple[Values, Values]:
        """Return the part of a point of the given program that the presolved one has.

        Parameters
        ----------
        x, y : ndarray
            The point.
        """
        if self.stack is None:
            return np.array(x, np.float64), np.array(y, np.float64)
        return self.stack.restricted(np.asarray(x, np.float64), np.asarray(y, np.float64))

    def postsolve_ray(self, kind: str, ray: Values) -> Values:
        """Return a ray of the given program from one of the presolved program.

        Parameters
        ----------
        kind : {"infeasible", "unbounded"}
            Multipliers or a direction.
        ray : ndarray
            The ray.
        """
        if self.stack is None:
            return np.array(ray, np.float64)
        stack = self.stack
        full = np.zeros(len(stack.row_kept if kind == "infeasible" else stack.col_kept))
        full[stack.row_kept if kind == "infeasible" else stack.col_kept] = ray
        return stack.dual_ray(full) if kind == "infeasible" else stack.primal_ray(full)


def presolve(problem: Any, *, reductions: Iterable[str] | None = None) -> Presolved:
    """Simplify a linear program.

    Empty and redundant rows go, singleton rows become bounds, forcing rows fix their columns,
    columns that are fixed, in no row, or that no row keeps from the bound that their costs prefer
    are fixed there; a column that is in one row only is absorbed by its bounds; of parallel rows
    one remains. All of it is repeated until nothing changes.

    Parameters
    ----------
    problem : LinearProgram
        The program; one with a quadratic term is returned unchanged.
    reductions : iterable of str or None, default=None
        Which of :data:`REDUCTIONS` to use; ``None``: all.

    Returns
    -------
    Presolved
        What is left.

    Examples
    --------
    >>> import numpy as np
    >>> from lowrank_opt.monotone import LinearProgram
    >>> from lowrank_opt.monotone.presolve import presolve
    >>> rows = [[2.0, 0.0], [1.0, 1.0]]
    >>> lp = LinearProgram([1.0, -1.0], rows, [4.0, -np.inf], [np.inf, 5.0], lower=0.0)
    >>> found = presolve(lp)
    >>> found.status, found.postsolve(np.zeros(0), np.zeros(0))
    ('solved', (array([2., 3.]), array([ 1., -1.])))
    """
    names = REDUCTIONS if reductions is None else tuple(reductions)
    for name in names:
        if name not in REDUCTIONS:
            raise ParameterError(f"reductions has {name!r}; known are: {', '.join(REDUCTIONS)}")
    if problem.Q is not None or problem.conflicts:
        return Presolved(problem, "unchanged")
    return _Run(problem, np.array([name in names for name in REDUCTIONS])).result()


class _Run:
    """The working copy of a program."""

    def __init__(self, problem: Any, switches: Any) -> None:
        self.problem, self.switches = problem, switches
        A = problem.A
        m, n = A.shape
        columns = sp.csc_array(A)
        self.by_rows = (A.indptr, A.indices, A.data)
        self.by_columns = (columns.indptr, columns.indices, columns.data)
        self.c = problem.c.copy()
        self.sides = (problem.constraint_lower.copy(), problem.constraint_upper.copy())
        self.bounds = (problem.lower.copy(), problem.upper.copy())
        self.x, self.shift = np.zeros(n), np.zeros(m)
        self.rows, self.cols = np.ones(m, np.bool_), np.ones(n, np.bool_)
        self.forced = np.full(n, -1, np.int64)
        size = m + n + 1
        self.kinds = np.zeros(size, np.int8)
        self.places, self.numbers = np.zeros((size, 3), np.int64), np.zeros((size, 7))
        self.top = 0
        self.largest = float(np.abs(problem.c).max(initial=0.0))
        self.tail = (self.kinds, self.places, self.numbers)

    def result(self) -> Presolved:
        for _ in range(PASSES):
            code, at, sign = self._row_pass()
            if code == kernels.INFEASIBLE_ROW:
                y = np.zeros(len(self.rows))
                y[at] = sign
                return self._proof("infeasible", y)
            again = code == kernels.CHANGED
            code, at, sign = self._column_pass()
            if code == kernels.UNBOUNDED:
                d = np.zeros(len(self.cols))
                d[at] = sign
                return self._proof("unbounded", d)
            again |= code == kernels.CHANGED
            if not again:
                if not self.switches[8]:
                    break
                code, other = self._parallel()
                if code < 0:
                    return self._contradiction(-1 - code, other)
                if not code:
                    break
        return self._left()

    def _row_pass(self) -> tuple[int, int, int]:
        code, at, sign, self.top = kernels.row_pass(
            *self.by_rows, *self.sides, *self.bounds, self.x, self.rows, self.cols, self.forced,
            self.switches, NEAR, *self.tail, self.top,
        )  # fmt: skip
        return code, at, sign

    def _column_pass(self) -> tuple[int, int, int]:
        code, at, sign, self.top = kernels.column_pass(
            *self.by_columns, *self.by_rows, self.c, *self.sides, *self.bounds, self.x, self.rows,
            self.cols, self.shift, self.switches, self.largest, *self.tail, self.top,
        )  # fmt: skip
        return code, at, sign

    def _parallel(self) -> tuple[int, int]:
        weights = np.random.default_rng(0).uniform(1.0, 2.0, len(self.cols))
        code, other, self.top = kernels.parallel_rows(
            *self.by_rows, *self.sides, self.x, self.rows, self.cols, weights, self.shift,
            *self.tail, self.top,
        )  # fmt: skip
        return code, other

    def _stack(self) -> Stack:
        top = self.top
        return Stack(
            self.problem, self.rows, self.cols, self.x, self.shift, self.forced, self.kinds[:top],
            self.places[:top], self.numbers[:top],
        )  # fmt: skip

    def _proof(self, status: str, ray: Values) -> Presolved:
        """Lift a ray; without a proof on the given program nothing is claimed."""
        if status == "infeasible":
            ray = self._stack().dual_ray(ray)
            proved = self.problem.farkas(ray).proved
        else:
            ray = self._stack().primal_ray(ray)
            proved = self.problem.recession(ray).proved
        if proved:
            return Presolved(self.problem, status, ray=ray)
        return Presolved(self.problem, "unchanged")

    def _contradiction(self, first: int, second: int) -> Presolved:
        """Two parallel rows exclude each other."""
        A, x = self.problem.A, self.x
        y = np.zeros(len(self.rows))
        part, other = A[[first]].toarray()[0], A[[second]].toarray()[0]
        pivot = int(np.flatnonzero((part != 0) & self.cols)[0])
        scale = other[pivot] / part[pivot]
        low, high = (side[second] - other @ x for side in self.sides)
        low, high = (low / scale, high / scale) if scale > 0 else (high / scale, low / scale)
        sign = -1.0 if low > self.sides[1][first] - part @ x else 1.0
        y[first], y[second] = sign, -sign / scale
        return self._proof("infeasible", y)

    def _left(self) -> Presolved:
        if self.rows.all() and self.cols.all() and not self.top:
            return Presolved(self.problem, "unchanged")
        stack, p = self._stack(), self.problem
        moved = p.A @ self.x  # columns that the stack determines are at 0
        A = p.A[self.rows][:, self.cols]
        cl, cu = (side[self.rows] - moved[self.rows] for side in self.sides)
        base = float(self.c @ np.where(self.cols, 0.0, self.x)) + p.offset
        names = [
            None if given is None else [given[k] for k in np.flatnonzero(kept)]
            for given, kept in ((p.row_names, self.rows), (p.column_names, self.cols))
        ]
        lower, upper = (bound[self.cols] for bound in self.bounds)
        left = LinearProgram(
            self.c[self.cols], A, cl, cu, lower, upper, offset=base + self._moved_costs(),
            maximize=p.maximize, name=p.name, row_names=names[0], column_names=names[1],
        )  # fmt: skip
        return Presolved(left, "reduced" if self.cols.any() else "solved", stack)

    def _moved_costs(self) -> float:
        """Return the constant of the objective that comes from moved costs."""
        moved = (self.kinds == kernels.SLACK) & (self.numbers[:, 6] != 0)
        return float(self.numbers[moved, 6] @ self.numbers[moved, 0])
