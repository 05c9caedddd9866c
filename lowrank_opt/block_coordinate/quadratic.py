"""Convex quadratics, dense or sparse, with oracles by block of variables."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

from lowrank_opt.core.backend import Backend
from lowrank_opt.core.errors import ProblemError, UnsupportedBackendError
from lowrank_opt.core.problem import Certificate, Problem, digest
from lowrank_opt.numerics._arrays import real_array, sparse_matrix

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

__all__ = ["QuadraticProblem"]

# How far a matrix may be from symmetric, relative to its largest entry, by precision.
_SYMMETRY = {8: 1e-12, 4: 1e-5}


@dataclass(frozen=True, eq=False, repr=False)
class QuadraticProblem(Problem):
    r"""Convex quadratic: :math:`\min_x\; \tfrac12 x^\top A x - b^\top x`.

    Parameters
    ----------
    A : array-like or scipy sparse of shape (n, n)
        Symmetric and positive semi-definite. float32 and float64 are kept. A sparse matrix is
        what makes message passing possible: its graph joins i and j where ``A[i, j]`` is not 0.
    b : array-like of shape (n,) or None, default=None
        Linear term; ``None``: 0.

    Attributes
    ----------
    smooth, penalty : QuadraticProblem, None
        Itself, and no penalty.
    x_shape : tuple of int
        ``(n,)``.
    n_variables : int
        n.
    null_gradient : float
        Largest absolute entry of `b` (of `A` if `b` is 0): the unit of relative gradients.
    dtype : dtype
        float32 or float64, that of `A` and of points.

    Raises
    ------
    ProblemError
        Not square, not symmetric, not finite; a negative diagonal entry, or a zero one in a row
        that is not zero: such a matrix is not positive semi-definite. That it is, otherwise, is
        not checked: a run that finds a block that is not ends as ``NUMERICAL_ERROR``.

    Notes
    -----
    The certificate's residual is the largest derivative over `null_gradient`. The oracles by
    block are those of :class:`~lowrank_opt.block_coordinate.GLMProblem`; ``work`` is ``A x``.
    A dense Fortran- or C-ordered array, or a sparse one by rows, is kept, not copied.

    `auto_solver` is :class:`~lowrank_opt.block_coordinate.BlockCoordinateDescent`.

    Examples
    --------
    >>> import numpy as np
    >>> from lowrank_opt.block_coordinate import QuadraticProblem
    >>> problem = QuadraticProblem([[2.0, 1.0], [1.0, 2.0]], [3.0, 3.0])
    >>> problem.objective(np.ones(2)), problem.certificate(np.ones(2)).residual
    (-3.0, 0.0)
    """

    A: Any
    b: Any = None

    def __post_init__(self) -> None:
        put = object.__setattr__
        put(self, "A", _matrix(self.A))
        n = self.A.shape[0]
        b = np.zeros(n) if self.b is None else np.array(real_array("b", self.b)[0], np.float64)
        if b.shape != (n,):
            raise ProblemError(
                f"b has shape {b.shape}; A has shape {self.A.shape}: expected ({n},)"
            )
        put(self, "b", b)
        self._check_matrix()

    def _check_matrix(self) -> None:
        A = self.A
        size = float(np.abs(A.data if sp.issparse(A) else A).max(initial=0.0))
        difference = abs(A - A.T)
        worst = difference.max() if A.shape[0] else 0.0
        if worst > _SYMMETRY[A.dtype.itemsize] * size:
            raise ProblemError(
                f"A is not symmetric: A and its transpose differ by {float(worst):g}; give "
                "(A + A.T) / 2 if that is what is meant"
            )
        diagonal = self.lipschitz
        if (diagonal <= 0).any():
            i = int(np.argmax(diagonal <= 0))
            row = A[[i]].toarray() if sp.issparse(A) else A[i]
            if diagonal[i] < 0 or np.any(row):
                raise ProblemError(
                    f"A is not positive semi-definite: A[{i}, {i}] = {diagonal[i]:g}"
                    + (", but its row is not 0" if diagonal[i] == 0 else "")
                )

    # -- description ----------------------------------------------------------------------------

    @property
    def smooth(self) -> QuadraticProblem:
        """The problem itself."""
        return self

    @property
    def penalty(self) -> None:
        """No penalty."""
        return

    @property
    def n_variables(self) -> int:
        """Number of variables."""
        return int(self.A.shape[0])

    @property
    def n_coefficients(self) -> int:
        """Number of variables that a penalty sees: all."""
        return self.n_variables

    @property
    def n_outputs(self) -> int:
        """One."""
        return 1

    @property
    def fit_intercept(self) -> bool:
        """There is none."""
        return False

    @property
    def x_shape(self) -> tuple[int, ...]:
        """Shape of a point."""
        return (self.n_variables,)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of `A` and of points."""
        return np.dtype(self.A.dtype)

    @property
    def measure(self) -> str:
        """What the certificate's residual measures."""
        return "subgradient"

    @cached_property
    def null_gradient(self) -> float:
        """Largest absolute entry of `b`, of `A` if `b` is 0; positive."""
        size = float(np.abs(self.b).max())
        entries = self.A.data if sp.issparse(self.A) else self.A
        return size or float(np.abs(entries).max(initial=0.0)) or 1.0

    def __repr__(self) -> str:
        n = self.n_variables
        nnz = f", {self.A.nnz} nonzeros" if sp.issparse(self.A) else ""
        return f"QuadraticProblem({n}x{n}{nnz})"

    def fingerprint(self) -> Mapping[str, Any]:
        """Shape and a hash of the data."""
        A = [self.A.data, self.A.indices, self.A.indptr] if sp.issparse(self.A) else [self.A]
        return {
            "n": self.n_variables,
            "sparse": sp.issparse(self.A),
            "dtype": str(self.dtype),
            "hash": digest(*A, self.b),
        }

    def auto_solver(self) -> tuple[str, dict[str, Any]]:
        """Block coordinate descent; see the class."""
        return "BlockCoordinateDescent", {}

    # -- points -----------------------------------------------------------------------------------

    def flat(self, x: Any) -> NDArray[Any]:
        """Return a point as a float64 array of its own.

        Parameters
        ----------
        x : array-like of shape (n,)
            A point.

        Raises
        ------
        ProblemError
            Another shape, or numbers that are not finite.
        """
        array = real_array("x", x)[0]
        if array.shape != self.x_shape:
            raise ProblemError(
                f"x has shape {array.shape}; a point of {self!r} has shape {self.x_shape}"
            )
        return np.array(array, np.float64)

    def shaped(self, x: NDArray[Any]) -> NDArray[Any]:
        """Return a point in the problem's dtype, as an array of its own."""
        return np.array(x, self.dtype)

    def objective(self, x: Any) -> float:
        """Objective at `x`."""
        flat = self.flat(x)
        return self.value_at(self.start(flat), flat)

    def gradient(self, x: Any, out: Any = None) -> NDArray[Any]:
        """Gradient at `x`, in its shape and dtype."""
        flat = self.flat(x)
        g = self.shaped(self.gradient_at(self.start(flat), flat))
        if out is None:
            return g
        out[...] = g
        return out

    def certificate(self, x: Any) -> Certificate:
        """Grade `x` by the largest derivative relative to the largest entry of `b`."""
        from lowrank_opt.block_coordinate.certificates import grade

        return grade(self, None, x)

    # -- oracles by block -------------------------------------------------------------------------

    def start(self, x: NDArray[Any]) -> NDArray[Any]:
        """Return ``A x``."""
        return np.asarray(self.A @ x, np.float64)

    def value_at(self, work: NDArray[Any], x: NDArray[Any]) -> float:
        """Return the objective at a point whose ``A x`` is `work`."""
        return 0.5 * float(x @ work) - float(self.b @ x)

    def gradient_at(self, work: NDArray[Any], x: NDArray[Any]) -> NDArray[Any]:
        """Return the gradient at a point whose ``A x`` is `work`."""
        return work - self.b

    def block_gradient(self, work: NDArray[Any], x: NDArray[Any], b: NDArray[Any]) -> NDArray[Any]:
        """Return the derivatives by the variables `b`."""
        return work[b] - self.b[b]

    def block_hessian(self, work: NDArray[Any], x: NDArray[Any], b: NDArray[Any]) -> NDArray[Any]:
        """Return the block of `A`, dense, of shape (len(b), len(b))."""
        return self.block_bound(b)

    def block_bound(self, b: NDArray[Any]) -> NDArray[Any]:
        """Return the block of `A`, dense, of shape (len(b), len(b))."""
        b = np.asarray(b)
        if sp.issparse(self.A):
            return self.A[b][:, b].toarray().astype(np.float64)
        return self.A[np.ix_(b, b)].astype(np.float64)

    @cached_property
    def lipschitz(self) -> NDArray[Any]:
        """Lipschitz constants of the partial derivatives: the diagonal of `A`."""
        return np.array(self.A.diagonal(), np.float64)

    def third_order(self, b: NDArray[Any]) -> float:
        """Return the Lipschitz constant of the Hessian: 0."""
        return 0.0

    def direction(self, b: NDArray[Any], d: NDArray[Any]) -> NDArray[Any]:
        """Return ``A[:, b] @ d``, the change of ``A x``."""
        return np.asarray(self.A[b].T @ d, np.float64)

    def value_along(
        self, work: NDArray[Any], x: NDArray[Any], b: NDArray[Any], d: NDArray[Any],
        direction: NDArray[Any], t: float,
    ) -> float:  # fmt: skip
        """Return the objective at ``x + t d`` on the variables `b`.

        Parameters
        ----------
        work, x : ndarray
            ``A x`` and the point.
        b, d : ndarray
            Variables and their step.
        direction : ndarray
            What :meth:`direction` returns for them.
        t : float
            Length.
        """
        slope = float((work[b] - self.b[b]) @ d)
        return self.value_at(work, x) + t * slope + 0.5 * t * t * float(direction[b] @ d)

    def move(
        self, work: NDArray[Any], x: NDArray[Any], b: NDArray[Any], d: NDArray[Any],
        direction: NDArray[Any] | None = None,
    ) -> None:  # fmt: skip
        """Add `d` to the variables `b` of `x`, and its effect to `work`, in place."""
        x[b] += d
        work += self.direction(b, d) if direction is None else direction

    @cached_property
    def bound_row_sums(self) -> NDArray[Any]:
        """Sums of absolute values of the rows of `A`."""
        return np.asarray(abs(self.A).sum(axis=1), np.float64).ravel()

    def bound_matvec(self, v: NDArray[Any]) -> NDArray[Any]:
        """Return ``A v``."""
        return self.start(v)

    @property
    def coupling(self) -> Any:
        """The matrix as a ``csr_array``; ``None`` if it is dense."""
        return self.A if sp.issparse(self.A) else None


def _matrix(A: Any) -> Any:
    backend = Backend.of(A) if not sp.issparse(A) else Backend()
    if backend.name != "numpy":
        raise UnsupportedBackendError(
            f"A is an array of {backend.name}; quadratics work with NumPy arrays and SciPy sparse "
            "matrices: convert it first"
        )
    if not sp.issparse(A):
        A = real_array("A", A)[0]
    if A.ndim != 2 or A.shape[0] != A.shape[1] or A.shape[0] == 0:
        raise ProblemError(f"A has shape {A.shape}; a square matrix (n, n) is needed")
    if not sp.issparse(A):
        return A
    given, A = A, sparse_matrix("A", A)
    if A.indices.dtype != np.int32:
        A = sp.csr_array(
            (A.data, A.indices.astype(np.int32), A.indptr.astype(np.int32)), shape=A.shape
        )
    if not A.has_canonical_format or (A.data == 0).any():
        if A is given or np.shares_memory(A.data, getattr(given, "data", A.data)):
            A = A.copy()
        A.sum_duplicates()
        A.eliminate_zeros()
    return A
