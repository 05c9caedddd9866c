"""A program in the units in which Halpern PDHG runs, and the way back."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

from lowrank_opt.monotone.kernels_pdhg import product
from lowrank_opt.monotone.kernels_scaling import divide_by_roots, row_sizes, scaled_values

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "Compressed",
    "ScaledProgram",
    "compressed",
    "operator_norm",
    "plain_program",
    "scale_program",
    "single_precision",
]

_POWER_STEPS = 40
_LEAST_STEPS, _FEW = 20, 10_000  # steps of any; nonzeros of small matrices


@dataclass
class Compressed:
    """A sparse matrix by rows, as the kernels want it.

    Parameters
    ----------
    ptr, idx : ndarray of uint32
        Row pointers and column indices (uint64 beyond 2**32 numbers).
    val : ndarray
        The numbers.
    """

    ptr: NDArray[Any]
    idx: NDArray[Any]
    val: NDArray[Any]

    @property
    def parts(self) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        """Pointers, indices, numbers."""
        return self.ptr, self.idx, self.val


def compressed(A: Any, dtype: Any = np.float64) -> Compressed:
    """Return a csr_array in the kernels' form; numbers are copied.

    Parameters
    ----------
    A : csr_array
        A matrix by rows (of its transpose: by columns).
    dtype : dtype, default=float64
        Of the numbers.
    """
    kind = np.uint32 if max(A.nnz, *A.shape) < 2**32 - 1 else np.uint64
    return Compressed(A.indptr.astype(kind), A.indices.astype(kind), A.data.astype(dtype))


@dataclass
class ScaledProgram:
    """A program in scaled units: x = column * x' / side, y = row * y' / cost.

    Parameters
    ----------
    rows, columns : Compressed
        The scaled constraints by rows and by columns.
    quadratic : Compressed or None
        The scaled quadratic term by rows.
    c, lower, upper, row_lower, row_upper : ndarray
        Scaled data.
    row, column : ndarray
        Scales.
    side, cost : float
        What right-hand sides and bounds, and costs, were multiplied with.
    norm : float
        Upper bound (up to a safe estimate) of the norm of the scaled constraints.
    quadratic_norm : float
        The same of the quadratic term.
    side_norm, cost_norm : float
        Norms of right-hand sides and costs in the user's units.
    row_unit, column_unit : ndarray
        What a scaled residual is multiplied with to have the user's units.
    side_size, cost_size : ndarray
        Sizes of right-hand sides and costs in the user's units.
    absolute_quadratic : csr_array or None
        Absolute values of the quadratic term in the user's units.
    offset : float
        Constant that counts in the relative gap.
    """

    rows: Compressed
    columns: Compressed
    quadratic: Compressed | None
    c: NDArray[Any]
    lower: NDArray[Any]
    upper: NDArray[Any]
    row_lower: NDArray[Any]
    row_upper: NDArray[Any]
    row: NDArray[Any]
    column: NDArray[Any]
    side: float
    cost: float
    norm: float
    quadratic_norm: float
    side_norm: float
    cost_norm: float
    row_unit: NDArray[Any]
    column_unit: NDArray[Any]
    side_size: NDArray[Any]
    cost_size: NDArray[Any]
    absolute_quadratic: Any = None
    offset: float = 0.0

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return len(self.row), len(self.column)

    @property
    def nnz(self) -> int:
        """Number of nonzeros."""
        return len(self.rows.val)

    def to_user(self, x: Any, y: Any) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return a scaled point in the user's units."""
        return self.column * x / self.side, self.row * y / self.cost

    def curvature_size(self, x: Any) -> Any:
        """Return ``|Q| |x|`` in the user's units at a scaled point."""
        return self.absolute_quadratic @ np.abs(self.column * x / self.side)

    def from_user(self, x: Any, y: Any) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return a point of the user in scaled units."""
        return x / self.column * self.side, y / self.row * self.cost


def scale_program(
    program: Any,
    *,
    ruiz_sweeps: int = 10,
    pock_chambolle: bool = True,
    rescale: bool = True,
    rng: np.random.Generator | None = None,
) -> ScaledProgram:
    """Scale rows and columns to comparable sizes, then costs and right-hand sides to 1.

    Sweeps of Ruiz (largest values), then one of Pock and Chambolle (sums), after which the norm
    of the constraints is at most 1.

    Parameters
    ----------
    program : LinearProgram or QuadraticProgram
        The program.
    ruiz_sweeps : int, default=10
        Number of sweeps.
    pock_chambolle : bool, default=True
        Whether to do the last one.
    rescale : bool, default=True
        Whether to scale costs and right-hand sides.
    rng : numpy.random.Generator or None, default=None
        Of the start of the power iteration.
    """
    A, Q = program.A, program.Q
    m, n = A.shape
    by_rows = compressed(A)
    row, column = np.ones(m), np.ones(n)
    row_out, column_out = np.empty(m), np.empty(n)
    for sweep in range(ruiz_sweeps + pock_chambolle):
        row_sizes(*by_rows.parts, row, column, int(sweep == ruiz_sweeps), row_out, column_out)
        if Q is not None:
            sizes = np.asarray(
                abs(Q).multiply(column[:, None]).multiply(column[None, :]).max(axis=1).todense()
            )
            column_out = np.maximum(column_out, sizes.ravel())
        divide_by_roots(row_out, row)
        divide_by_roots(column_out, column)
    # Powers of two: nothing is rounded, zero stays zero, and the way back is exact.
    row, column = _power_of_two(row), _power_of_two(column)
    values = np.empty_like(by_rows.val)
    scaled_values(*by_rows.parts, row, column, values)
    by_rows.val = values
    scaled = sp.csr_array((values, A.indices, A.indptr), shape=A.shape)
    by_columns = compressed(scaled.T.tocsr())
    quadratic = None
    if Q is not None:
        quadratic = compressed(sp.csr_array(Q.multiply(column[:, None]).multiply(column[None, :])))
    side = cost = 1.0
    c = program.c * column
    row_lower, row_upper = program.constraint_lower * row, program.constraint_upper * row
    lower, upper = program.lower / column, program.upper / column
    if rescale:
        side = _power_of_two(1.0 / (1.0 + np.linalg.norm(_sizes(row_lower, row_upper))))
        cost = _power_of_two(1.0 / (1.0 + np.linalg.norm(c)))
    if quadratic is not None:
        quadratic.val *= cost / side
    rng = np.random.default_rng(0) if rng is None else rng
    estimate = operator_norm(by_rows, by_columns, rng)
    norm = min(1.0, 1.02 * estimate) if pock_chambolle else 1.02 * estimate
    # Powers of two in place of the scales themselves may leave sums of up to two.
    norm = max(norm, 1.02 * estimate)
    quadratic_norm = 0.0
    if quadratic is not None:
        quadratic_norm = 1.05 * math.sqrt(operator_norm(quadratic, quadratic, rng, root=False))
    side_size = _sizes(program.constraint_lower, program.constraint_upper)
    return ScaledProgram(
        rows=by_rows, columns=by_columns, quadratic=quadratic, c=c * cost,
        lower=lower * side, upper=upper * side, row_lower=row_lower * side,
        row_upper=row_upper * side, row=row, column=column, side=float(side), cost=float(cost),
        norm=float(norm), quadratic_norm=quadratic_norm,
        side_norm=float(np.linalg.norm(side_size)), side_size=side_size,
        cost_size=np.abs(program.c), absolute_quadratic=None if Q is None else abs(Q),
        cost_norm=float(np.linalg.norm(program.c)), row_unit=1.0 / (row * side),
        column_unit=1.0 / (column * cost),
    )  # fmt: skip


def plain_program(program: Any) -> ScaledProgram:
    """Return a program in its own units, without norms: for measuring only.

    Parameters
    ----------
    program : LinearProgram or QuadraticProgram
        The program.
    """
    A, Q = program.A, program.Q
    m, n = A.shape
    side_size = _sizes(program.constraint_lower, program.constraint_upper)
    return ScaledProgram(
        rows=compressed(A), columns=compressed(A.T.tocsr()),
        quadratic=None if Q is None else compressed(Q), c=program.c, lower=program.lower,
        upper=program.upper, row_lower=program.constraint_lower,
        row_upper=program.constraint_upper, row=np.ones(m), column=np.ones(n), side=1.0, cost=1.0,
        norm=0.0, quadratic_norm=0.0, side_norm=float(np.linalg.norm(side_size)),
        cost_norm=float(np.linalg.norm(program.c)), row_unit=np.ones(m), column_unit=np.ones(n),
        side_size=side_size, cost_size=np.abs(program.c),
        absolute_quadratic=None if Q is None else abs(Q),
    )  # fmt: skip


def single_precision(program: ScaledProgram) -> ScaledProgram:
    """Return the program in float32.

    Parameters
    ----------
    program : ScaledProgram
        In float64.
    """
    names = ("c", "lower", "upper", "row_lower", "row_upper")
    data = {name: getattr(program, name).astype(np.float32) for name in names}
    for name in ("rows", "columns", "quadratic"):
        part = getattr(program, name)
        if part is not None:
            data[name] = Compressed(part.ptr, part.idx, part.val.astype(np.float32))
    return replace(program, **data)


def operator_norm(
    rows: Compressed, columns: Compressed, rng: np.random.Generator, root: bool = True
) -> float:
    """Estimate the norm of a matrix from below, by power iteration on A A'.

    Parameters
    ----------
    rows, columns : Compressed
        The matrix and its transpose by rows.
    rng : numpy.random.Generator
        Of the start.
    root : bool, default=True
        Whether to return the norm, not its square.
    """
    m, n = len(rows.ptr) - 1, len(columns.ptr) - 1
    if not len(rows.val):
        return 0.0
    v = rng.standard_normal(m)
    zero_m, zero_n = np.zeros(m), np.zeros(n)
    u = np.empty(n)
    estimate = 0.0
    # Small matrices have time for more: near the second value the estimate can stand for long.
    for k in range(_POWER_STEPS if len(rows.val) > _FEW else 10 * _POWER_STEPS):
        v /= np.linalg.norm(v)
        product(*columns.parts, v, zero_n, u)
        product(*rows.parts, u, zero_m, v)
        before, estimate = estimate, float(np.linalg.norm(v))
        change = abs(estimate - before)
        if estimate == 0.0 or (k >= _LEAST_STEPS and change <= 1e-6 * estimate):
            break
    return math.sqrt(estimate) if root else estimate


def _power_of_two(values: Any) -> Any:
    return np.exp2(np.round(np.log2(values)))


def _sizes(lower: Any, upper: Any) -> Any:
    low = np.where(np.isfinite(lower), np.abs(lower), 0.0)
    return np.maximum(low, np.where(np.isfinite(upper), np.abs(upper), 0.0))
