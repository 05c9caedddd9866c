"""From a point or a ray of a presolved program to one of the given program."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lowrank_opt.monotone.kernels_presolve import restore

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Values = NDArray[np.float64]

__all__ = ["Stack"]


@dataclass(frozen=True)
class Stack:
    """What presolve has done, to be undone.

    Parameters
    ----------
    problem : LinearProgram
        The given program.
    row_kept, col_kept : ndarray of bool
        What is left of it.
    x_fixed : ndarray of shape (n,)
        Values of removed columns; 0 for those that the stack determines.
    shift : ndarray of shape (m,)
        Multipliers that costs were moved with.
    forced : ndarray of int
        The forcing row that has fixed a column, or -1.
    kinds, places, numbers : ndarray
        The operations, in their order.
    """

    problem: Any
    row_kept: Any
    col_kept: Any
    x_fixed: Values
    shift: Values
    forced: Any
    kinds: Any
    places: Any
    numbers: Any

    def point(self, x: Values, y: Values) -> tuple[Values, Values]:
        """Return a point of the given program.

        Parameters
        ----------
        x, y : ndarray
            A point of the presolved program.
        """
        x_full, y_full = self.x_fixed.copy(), self.shift.copy()
        x_full[self.col_kept] = x
        y_full[self.row_kept] += y
        z = self.problem.c - self.problem.A.T @ y_full
        self._undo(x_full, y_full, z, False)
        return x_full, y_full

    def restricted(self, x: Values, y: Values) -> tuple[Values, Values]:
        """Return the part of a point that the presolved program has.

        Parameters
        ----------
        x, y : ndarray
            A point of the given program.
        """
        return x[self.col_kept].copy(), (y - self.shift)[self.row_kept]

    def dual_ray(self, y: Values) -> Values:
        """Return multipliers of the given program that contradict it.

        Parameters
        ----------
        y : ndarray
            Multipliers of all its rows, without those that the stack determines.
        """
        y = y.copy()
        self._undo(np.zeros(len(self.x_fixed)), y, -(self.problem.A.T @ y), True)
        return y

    def primal_ray(self, d: Values) -> Values:
        """Return a direction of recession of the given program.

        Parameters
        ----------
        d : ndarray
            Direction of all columns, without those that the stack determines.
        """
        d = d.copy()
        self._undo(d, np.zeros(len(self.shift)), np.zeros(len(d)), True)
        return d

    def _undo(self, x: Values, y: Values, z: Values, ray: bool) -> None:
        A = self.problem.A
        restore(
            A.indptr, A.indices, A.data, self.kinds, self.places, self.numbers, len(self.kinds),
            self.forced, x, y, z, ray,
        )  # fmt: skip
