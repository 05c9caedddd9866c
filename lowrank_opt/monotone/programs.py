"""What linear and quadratic programs share: data, checks, points, certificates."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

from lowrank_opt.core.errors import ProblemError, ProblemTypeError
from lowrank_opt.core.problem import Certificate, Problem, digest
from lowrank_opt.monotone.certificates_lp import Ray, farkas_ray, grade, recession_ray
from lowrank_opt.monotone.points import PrimalDual
from lowrank_opt.numerics._arrays import real_array, sparse_matrix

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

__all__ = ["ConvexProgram"]


class ConvexProgram(Problem):
    """Base of :class:`LinearProgram` and :class:`QuadraticProgram`."""

    Q: Any
    c: NDArray[np.float64]
    A: Any
    constraint_lower: NDArray[np.float64]
    constraint_upper: NDArray[np.float64]
    lower: NDArray[np.float64]
    upper: NDArray[np.float64]
    offset: float
    maximize: bool
    name: str
    row_names: Sequence[str] | None
    column_names: Sequence[str] | None

    def _settle(self) -> None:
        """Check the data and bring them into their form."""
        put = object.__setattr__
        c = np.array(real_array("c", self.c)[0], np.float64)
        if c.ndim != 1:
            raise ProblemError(f"c has shape {c.shape}; a vector, one cost a variable, is needed")
        n = len(c)
        A = _matrix("A", self.A, n)
        if A.shape[1] != n:
            raise ProblemError(
                f"A has shape {A.shape} and c has shape {c.shape}: A needs one column for each "
                f"of the {n} variables"
            )
        m = A.shape[0]
        put(self, "c", c)
        put(self, "A", A)
        for name, size, default in (
            ("constraint_lower", m, -np.inf), ("constraint_upper", m, np.inf),
            ("lower", n, -np.inf), ("upper", n, np.inf),
        ):  # fmt: skip
            put(self, name, _bound(name, getattr(self, name), size, default))
        offset = float(real_array("offset", self.offset)[0])
        put(self, "offset", offset)
        put(self, "maximize", bool(self.maximize))
        for name, size in (("row_names", m), ("column_names", n)):
            names = getattr(self, name)
            if names is not None:
                names = tuple(str(s) for s in names)
                if len(names) != size:
                    raise ProblemError(f"{name} has {len(names)} names; expected {size}")
                put(self, name, names)
        for array in (c, self.constraint_lower, self.constraint_upper, self.lower, self.upper):
            array.flags.writeable = False

    # -- description ----------------------------------------------------------------------------

    @property
    def shape(self) -> tuple[int, int]:
        """Number of constraints and of variables, (m, n)."""
        m, n = self.A.shape
        return int(m), int(n)

    @property
    def nnz(self) -> int:
        """Number of nonzeros of `A`."""
        return int(self.A.nnz)

    @property
    def dtype(self) -> np.dtype[Any]:
        """float64."""
        return np.dtype(np.float64)

    @cached_property
    def conflicts(self) -> str:
        """What contradicts itself without any computation, or an empty text."""
        for name, low, high in (
            ("variable", self.lower, self.upper),
            ("constraint", self.constraint_lower, self.constraint_upper),
        ):
            bad = low > high
            if bad.any():
                i = int(np.argmax(bad))
                return (
                    f"{int(bad.sum())} of {len(bad)} {name}s have bounds that contradict each "
                    f"other, such as {name} {i}: lower {low[i]:g} > upper {high[i]:g}"
                )
        return ""

    def __repr__(self) -> str:
        m, n = self.shape
        name = f"{self.name!r}: " if self.name else ""
        return f"{type(self).__name__}({name}{m} constraints, {n} variables, {self.nnz} nonzeros)"

    def fingerprint(self) -> Mapping[str, Any]:
        """Shape and a hash of the data."""
        m, n = self.shape
        quadratic = [] if self.Q is None else [self.Q.data, self.Q.indices, self.Q.indptr]
        return {
            "m": m,
            "n": n,
            "nnz": self.nnz,
            "hash": digest(
                self.c, self.A.data, self.A.indices, self.A.indptr, self.constraint_lower,
                self.constraint_upper, self.lower, self.upper, *quadratic,
            ),
        }  # fmt: skip

    def auto_solver(self) -> tuple[str, dict[str, Any]]:
        """Halpern PDHG; see the class."""
        return "HalpernPDHG", {}

    # -- points -----------------------------------------------------------------------------------

    def pair(self, point: Any) -> PrimalDual:
        """Return a point as two float64 arrays of its own.

        Parameters
        ----------
        point : PrimalDual, tuple of two arrays, or array-like of shape (n,)
            Primal and dual point; a primal one alone stands for multipliers of 0.

        Raises
        ------
        ProblemError
            Another shape, or numbers that are not finite.
        """
        m, n = self.shape
        parts: tuple[Any, ...] = point if isinstance(point, tuple) else (point, np.zeros(m))
        if len(parts) != 2:
            raise ProblemTypeError(
                f"a point of {self!r} has two parts, x and y; got {len(parts)}: give "
                "PrimalDual(x, y)"
            )
        arrays = []
        for name, size, part in (("x", n, parts[0]), ("y", m, parts[1])):
            array = np.array(real_array(name, part)[0], np.float64)
            if array.shape != (size,):
                raise ProblemError(
                    f"{name} has shape {array.shape}; a point of {self!r} has {name} of shape "
                    f"({size},)"
                )
            arrays.append(array)
        return PrimalDual(*arrays)

    def objective(self, x: Any) -> float:
        """Objective, offset included, at a point or at its primal part alone."""
        primal = self.pair(x).x
        value = float(self.c @ primal) + self.offset
        return value if self.Q is None else value + 0.5 * float(primal @ (self.Q @ primal))

    def certificate(self, x: Any) -> Certificate:
        """Grade a point ``PrimalDual(x, y)``; see the class."""
        return grade(self, *self.pair(x))

    def reduced_costs(self, x: Any) -> NDArray[np.float64]:
        """Return c + Q x - A'y at a point: the multipliers of the bounds on the variables.

        Parameters
        ----------
        x : PrimalDual
            A point.
        """
        primal, y = self.pair(x)
        costs = self.c - self.A.T @ y
        return np.asarray(costs if self.Q is None else costs + self.Q @ primal, np.float64)

    def farkas(self, y: Any) -> Ray:
        """Grade multipliers that should prove that no point is feasible.

        Parameters
        ----------
        y : array-like of shape (m,)
            A dual ray.

        Returns
        -------
        Ray
            ``value``, ``violation``, ``ratio``, and ``proved``.
        """
        return farkas_ray(self, self._part("y", y, self.shape[0]))

    def recession(self, d: Any) -> Ray:
        """Grade a direction that should prove that a feasible problem has no minimum.

        Parameters
        ----------
        d : array-like of shape (n,)
            A primal ray.

        Returns
        -------
        Ray
            ``value``, ``violation``, ``ratio``, and ``proved``.
        """
        return recession_ray(self, self._part("d", d, self.shape[1]))

    def _part(self, name: str, value: Any, size: int) -> NDArray[np.float64]:
        array = np.array(real_array(name, value)[0], np.float64)
        if array.shape != (size,):
            raise ProblemError(f"{name} has shape {array.shape}; expected ({size},)")
        return array


def _matrix(name: str, A: Any, n: int) -> Any:
    """Return a canonical float64 csr_array; ``None`` has no rows."""
    if A is None:
        return sp.csr_array((0, n))
    if hasattr(A, "tocsr"):
        given = A
        A = sparse_matrix(name, A)
        if A.dtype != np.float64:
            A = A.astype(np.float64)
        elif A is given or np.shares_memory(A.data, getattr(given, "data", np.empty(0))):
            A = sp.csr_array((A.data, A.indices, A.indptr), shape=A.shape)  # flags of its own
    else:
        dense = np.asarray(real_array(name, A)[0], np.float64)
        if dense.ndim != 2:
            raise ProblemError(f"{name} has shape {dense.shape}; a matrix (m, n) is needed")
        A = sp.csr_array(dense)
    if not A.has_canonical_format or not np.all(A.data):
        A = A.copy()
        A.sum_duplicates()
        A.eliminate_zeros()
    kind = np.int32 if max(A.nnz, *A.shape) < 2**31 else np.int64
    if A.indices.dtype != kind or A.indptr.dtype != kind:
        parts = (A.data, A.indices.astype(kind, copy=False), A.indptr.astype(kind, copy=False))
        A = sp.csr_array(parts, shape=A.shape)
        A.has_canonical_format = True
    return A


def _bound(name: str, value: Any, size: int, default: float) -> NDArray[np.float64]:
    array = np.asarray(real_array(name, default if value is None else value, finite=False)[0])
    if array.shape not in ((), (size,)):
        raise ProblemError(f"{name} has shape {array.shape}; expected ({size},) or a number")
    array = np.array(np.broadcast_to(array, (size,)), np.float64)
    wrong = np.inf if default < 0 else -np.inf
    if np.any(array == wrong):
        i = int(np.argmax(array == wrong))
        raise ProblemError(
            f"{name}[{i}] is {wrong:g}: nothing can be {'above' if wrong > 0 else 'below'} it; "
            f"{default:g} (or None for all) means that there is no bound"
        )
    return array
