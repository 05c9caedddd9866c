"""Products of columns, and Newton steps on the support of a least squares problem."""

from __future__ import annotations

import math
import os
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from lowrank_opt.block_coordinate import kernels_squared as kernels

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lowrank_opt.block_coordinate.squared_design import Design

__all__ = ["Gram", "newton", "ridge_square"]

# Most columns whose products are kept, and the part of the memory that they may take.
_COLUMNS, _MEMORY = 4000, 0.125
# Multiple of the identity that is added to products of unit columns, by type.
_SHIFT = {"float32": 1e-6, "float64": 1e-11}
_SHIFTS, _ELIMINATIONS = 5, 6
# Increase of the objective that is rounding.
_ROUNDING = 1e-14


class Gram:
    """Products of the columns that were ever in a support, divided by their norms.

    So single precision suffices whatever their units are; coefficients are then in units of
    ``size / norms``.

    Parameters
    ----------
    design : Design
        The data.
    dtype : dtype
        Type of the products, and of the copies of columns.
    columns : ndarray of int
        The columns in it.
    products : ndarray of shape (k, k) or None
        Their products, in its leading part; they are kept, the copies are made anew.
    """

    def __init__(
        self, design: Design, dtype: Any, columns: NDArray[Any], products: NDArray[Any] | None
    ) -> None:
        self.design, self.dtype = design, np.dtype(dtype)
        self.columns = columns
        self.products = np.zeros((0, 0), dtype, "F") if products is None else products
        self.size = math.sqrt(2.0 * design.scale)
        size = self.dtype.itemsize
        budget = _MEMORY * _total_memory() / size
        if not design.sparse:  # copies and products
            budget = min(budget, budget / (1.0 + design.n / _COLUMNS))
        self.most = int(min(_COLUMNS, np.sqrt(budget), design.p))
        if not design.sparse:
            self.most = int(min(self.most, _MEMORY * _total_memory() / (size * design.n)))
        self.copies: Any = None
        # To touch new memory costs more than to fill it.
        self.buffers = [np.empty(0, dtype), np.empty(0, dtype)]
        if not design.sparse and columns.size:
            self._copy(columns, 0)

    # Both are made when products are: often they never are.
    @cached_property
    def factors(self) -> NDArray[Any]:
        """Inverse norms of all columns."""
        squares = self.design.squares
        return 1.0 / np.sqrt(np.where(squares > 0, squares, 1.0))

    @cached_property
    def slot(self) -> NDArray[Any]:
        """Place of each column, or -1."""
        slot = np.full(self.design.p, -1, np.int64)
        slot[self.columns] = np.arange(self.columns.size)
        return slot

    def room(self, S: NDArray[Any]) -> bool:
        """Whether the columns `S` fit; those that are in it and not needed may be dropped."""
        if S.size > self.most:
            return False
        new = int(np.count_nonzero(self.slot[S] < 0))
        if self.columns.size + new > self.most:
            self.columns = np.empty(0, np.int64)
            self.slot[:] = -1
        return True

    def slots(self, S: NDArray[Any]) -> NDArray[Any]:
        """Return the places of the columns `S`, entering those that are new."""
        slots = self.slot[S]
        new = S[slots < 0]
        if new.size:
            self._append(new)
            slots = self.slot[S]
        return slots

    def matrix(self, slots: NDArray[Any]) -> NDArray[Any]:
        """Return the products of the columns at ascending places, see :meth:`part`."""
        return self.part(self.products, slots, 0)

    def part(self, A: NDArray[Any], rows: NDArray[Any], which: int) -> NDArray[Any]:
        """Return rows and columns of a matrix, in memory that is used again by the next call.

        Parameters
        ----------
        A : ndarray
            The matrix.
        rows : ndarray of int
            Which of them.
        which : {0, 1}
            Where to put it.
        """
        m = rows.size
        if self.buffers[which].size < m * m:
            self.buffers[which] = np.empty(m * m + m * m // 2, self.dtype)
        out = self.buffers[which][: m * m].reshape((m, m), order="F")
        kernels.gather(A, rows, out)
        return out

    def _append(self, new: NDArray[Any]) -> None:
        design, first = self.design, self.columns.size
        last = first + new.size
        self.columns = np.concatenate([self.columns, new])
        self.slot[new] = np.arange(first, last)
        if last > self.products.shape[0]:
            size = min(max(last, 2 * self.products.shape[0], 128), max(self.most, last))
            grown = np.zeros((size, size), self.dtype, "F")
            grown[:first, :first] = self.products[:first, :first]
            self.products = grown
        if design.sparse:
            parts = design.parts
            entries = int(np.sum(parts[2][self.columns + 1] - parts[2][self.columns]))
            rows = (
                np.empty(design.n + 1, np.int64),
                np.empty(entries, np.int32),
                np.empty(entries),
            )
            kernels.rows_of_csc(*parts, self.columns, *rows)
            kernels.gram_csc(
                *parts, design.s, design.means, design.total, self.columns,
                self.factors[self.columns], first, *rows, self.products,
            )  # fmt: skip
            return
        self._copy(new, first)
        part = self.copies[:, first:last]
        if first:
            cross = self.copies[:, :first].T @ part
            self.products[:first, first:last] = cross
            self.products[first:last, :first] = cross.T
        self.products[first:last, first:last] = part.T @ part

    def _copy(self, new: NDArray[Any], first: int) -> None:
        last = first + new.size
        if self.copies is None or self.copies.shape[1] < last:
            grown = np.empty((self.design.n, max(last, self.products.shape[0])), self.dtype, "F")
            if first:
                grown[:, :first] = self.copies[:, :first]
            self.copies = grown
        design = self.design
        kernels.cast_columns(
            design.parts[0], design.roots, design.means, new, self.factors[new], self.copies, first
        )


def _total_memory() -> float:
    try:
        return float(os.sysconf("SC_PAGE_SIZE")) * float(os.sysconf("SC_PHYS_PAGES"))
    except (AttributeError, ValueError, OSError):  # not on every system
        return 8e9


def newton(
    gram: Gram, A: NDArray[Any], rows: NDArray[Any], S: NDArray[Any], limits: NDArray[Any],
    form: Any, w: NDArray[Any], u: NDArray[Any], c: NDArray[Any], counts: dict[str, int],
) -> tuple[bool, bool]:  # fmt: skip
    """Do one Newton step on the support `S`; changes `w`, `u` and entries `S` of `c`.

    The step goes to the minimiser of the quadratic with the present signs. Coefficients that
    would turn over are made 0, the others solved for anew, through a Schur complement. If that
    does not lower the objective, the first direction is searched for its minimum.

    Parameters
    ----------
    gram : Gram
        The data, and the units of `A`.
    A, rows : ndarray
        Products of columns over their norms; which rows of it are those of `S`.
    S, limits : ndarray
        Coefficients not 0 (or without penalty), and their limits.
    form : L1Form
        The penalty.
    w, u, c : ndarray
        Coefficients, weighted residual, products with it.
    counts : dict
        Work counters.

    Returns
    -------
    bool, bool
        Whether the step went to the minimiser with no sign changed; whether to a point of lower
        objective without a search.
    """
    from scipy.linalg import lapack

    design = gram.design
    single = A.dtype == np.float32
    potrf, potrs = (lapack.spotrf, lapack.spotrs) if single else (lapack.dpotrf, lapack.dpotrs)
    design.multiply(u, S, S.size, w, form.mu, c)
    q, at = c[S], w[S]
    signs = np.ones(S.size) if form.positive else np.sign(at)
    slope = q - limits * signs
    unit = gram.factors[S]
    factor = _factor(gram, A, rows, form.mu * unit * unit, potrf, counts)
    if factor is None:
        return False, False
    unit *= gram.size
    step = potrs(factor, (slope * (unit / gram.size**2)).astype(A.dtype), lower=1)[0]
    start = at / unit + step
    bound = (limits > 0) | form.positive
    x, eliminated = _eliminate(factor, start, signs, bound, potrs, counts)
    first = at + step * unit
    if x is not None:
        x = x * unit if eliminated else first
    if x is not None:
        d = x - at
        v = np.zeros(design.n)
        design.add(S, d, v)
        change = design.half_square(v) + 0.5 * ridge_square(form.mu, d) - float(q @ d)
        change += float(limits @ (np.abs(x) - np.abs(at)))
        size = design.half_square(u) + float(limits @ np.abs(at))
        if change <= _ROUNDING * size:
            w[S] = x
            u -= v
            return not eliminated, True
    d = first - at
    if x is None or eliminated:
        v = np.zeros(design.n)
        design.add(S, d, v)
    curvature = 2.0 * design.half_square(v) + ridge_square(form.mu, d)
    t, zero = kernels.line_search(at, d, limits, form.positive, -float(slope @ d), curvature)
    at += t * d
    if zero >= 0:
        at[zero] = 0.0
    w[S] = at
    u -= t * v
    return False, False


def ridge_square(mu: float, d: NDArray[Any]) -> float:
    """Return ``mu |d|^2``, where that of `d` alone may overflow.

    Parameters
    ----------
    mu : float
        At least 0.
    d : ndarray
        Coefficients.
    """
    scaled = math.sqrt(mu) * d
    return float(scaled @ scaled)


def _factor(
    gram: Gram, A: NDArray[Any], rows: NDArray[Any], ridge: NDArray[Any], potrf: Any,
    counts: dict[str, int],
) -> Any:  # fmt: skip
    """Cholesky factor of a part of A plus a small multiple of the identity."""
    shift = _SHIFT[A.dtype.name]
    for _ in range(_SHIFTS):
        work = gram.part(A, rows, 1)
        np.einsum("ii->i", work)[...] += ridge + shift
        counts["newton"] = counts.get("newton", 0) + 1
        factor, info = potrf(work, lower=1, overwrite_a=1, clean=0)
        if info == 0:
            return factor
        shift *= 100.0
    return None


def _eliminate(
    factor: NDArray[Any], start: NDArray[Any], signs: NDArray[Any], bound: NDArray[Any],
    potrs: Any, counts: dict[str, int],
) -> tuple[Any, bool]:  # fmt: skip
    """Make coefficients of the wrong sign 0 and solve for the rest; ``None`` if too many."""
    m = start.size
    x, out, V = start, np.zeros(0, np.int64), None
    for _ in range(_ELIMINATIONS):
        bad = np.flatnonzero((x * signs < 0) & bound)
        if bad.size == 0:
            return x, out.size > 0
        out = np.concatenate([out, bad])
        if 2 * out.size > m:
            return None, True
        unit = np.zeros((m, bad.size), factor.dtype, "F")
        unit[bad, np.arange(bad.size)] = 1.0
        part = potrs(factor, unit, lower=1, overwrite_b=1)[0]
        V = part if V is None else np.concatenate([V, part], axis=1)
        counts["schur"] = counts.get("schur", 0) + 1
        try:
            y = np.linalg.solve(V[out].astype(np.float64), start[out])
        except np.linalg.LinAlgError:
            return None, True
        x = start - V @ y.astype(factor.dtype)
        x[out] = 0.0
    x[(x * signs < 0) & bound] = 0.0
    return x, True
