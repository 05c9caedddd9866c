"""Columns that provably stay at 0 for a while, left out of the iterations without any change.

A column at a bound of 0 whose anchor is 0 too stays there as long as its reduced cost keeps its
sign; the reduced cost changes by no more than the sum of the column's absolute values times the
largest change of a multiplier. So the columns with a larger reduced cost can be left out until some
multiplier has moved by more than a radius, which every iteration checks. Sums lose exact zeros
only: the iterates keep their bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lowrank_opt.monotone import kernels_pdhg as kernels
from lowrank_opt.monotone.scaling import Compressed

if TYPE_CHECKING:
    from lowrank_opt.monotone.scaling import ScaledProgram

__all__ = ["Part", "Sleepers"]

WORTH = 0.7  # of the nonzeros: more are not worth a copy
SMALL = 20_000  # nonzeros, below which copies do not pay
FIRST, FIRST_WAIT, LONGEST_WAIT = 128, 64, 2048  # iterations
SHORT_LIFE, LONG_LIFE = 96, 384  # iterations of a part


@dataclass
class Part:
    """The columns that are awake.

    Parameters
    ----------
    keep : ndarray of int64
        Which they are.
    columns, rows : Compressed
        Their part of the constraints.
    c, lower, upper : ndarray
        Their costs and bounds.
    x, anchor, reflected, hat : ndarray
        Work space.
    y_ref : ndarray
        Where the multipliers were.
    """

    keep: Any
    columns: Compressed
    rows: Compressed
    c: Any
    lower: Any
    upper: Any
    x: Any
    anchor: Any
    reflected: Any
    hat: Any
    y_ref: Any


class Sleepers:
    """Keeps the part of a program that is awake, and decides when to choose it anew.

    Parameters
    ----------
    program : ScaledProgram
        A linear program.
    """

    def __init__(self, program: ScaledProgram) -> None:
        self.program = program
        n = len(program.c)
        able = (program.lower == 0) | (program.upper == 0)
        self.enabled = program.nnz >= SMALL and 2 * int(np.count_nonzero(able)) > n
        self.part: Part | None = None
        self.owner: Any = None
        self.radius, self.factor, self.built = 0.0, 2.0, 0
        self.next_try, self.wait = FIRST, FIRST_WAIT
        self.y_last, self.nit_last = np.zeros(0), -1
        self.sums: Any = None

    def choose(self, state: Any, nit: int) -> Part | None:
        """Return the part to iterate on, ``None`` for all columns.

        Parameters
        ----------
        state : PDHGState
            Of the run.
        nit : int
            Iterations so far.
        """
        if not self.enabled:
            return None
        if self.part is not None and self.owner is not state.x_scaled:
            return None  # a copy of the run, for a look ahead
        if self.part is not None:
            if kernels.distance(state.y_scaled, self.part.y_ref) <= self.radius:
                return self.part
            life = nit - self.built
            if life < SHORT_LIFE:
                self.factor = min(2.0 * self.factor, 64.0)
            elif life > LONG_LIFE:
                self.factor = max(0.5 * self.factor, 0.25)
            self.part, self.next_try = None, nit
        if nit < self.next_try - 64:
            return None
        if self.nit_last < 0 or nit < self.next_try:
            if self.nit_last < 0 or nit - self.nit_last >= 64:
                self.y_last, self.nit_last = state.y_scaled.copy(), nit
            return None
        self._build(state, nit)
        return self.part

    def _build(self, state: Any, nit: int) -> None:
        p = self.program
        kind = p.c.dtype
        if self.sums is None:
            self.sums = np.empty(len(p.c))
            kernels.column_sums(p.columns.ptr, p.columns.val, self.sums)
        moved = float(kernels.distance(state.y_scaled, self.y_last))
        moved *= 64.0 / max(nit - self.nit_last, 16)
        self.y_last, self.nit_last = state.y_scaled.copy(), nit
        self.radius = self.factor * moved
        awake = np.empty(len(p.c), np.bool_)
        rounding = 64.0 * float(np.finfo(kind).eps)
        count, nnz = kernels.mark_awake(
            *p.columns.parts, p.c, p.lower, p.upper, state.y_scaled, state.x_scaled,
            state.x_anchor, self.sums, self.radius, rounding, awake,
        )  # fmt: skip
        if not np.isfinite(self.radius) or nnz > WORTH * p.nnz:
            self.next_try, self.wait = nit + self.wait, min(2 * self.wait, LONGEST_WAIT)
            self.factor = max(0.5 * self.factor, 1.0)
            return
        self.wait = FIRST_WAIT
        keep = np.flatnonzero(awake)
        place = np.cumsum(awake, dtype=np.uint32) - np.uint32(1)
        pointer, index = p.columns.ptr.dtype, p.columns.idx.dtype
        columns = Compressed(
            np.empty(count + 1, pointer), np.empty(nnz, index), np.empty(nnz, kind)
        )
        kernels.part_by_columns(*p.columns.parts, keep, *columns.parts)
        rows = Compressed(
            np.empty(len(p.rows.ptr), pointer), np.empty(nnz, index), np.empty(nnz, kind)
        )
        kernels.part_by_rows(*p.rows.parts, place.astype(index), awake, *rows.parts)
        self.built, self.owner = nit, state.x_scaled
        data = p.c[keep], p.lower[keep], p.upper[keep]
        self.part = Part(
            keep, columns, rows, *data, *np.empty((4, count), kind), self.y_last.copy()
        )
