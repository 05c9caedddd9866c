"""Matrix games over simplices."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

from lowrank_opt.core.errors import ProblemError, ProblemTypeError
from lowrank_opt.core.problem import Certificate, Problem, digest
from lowrank_opt.monotone.certificates_operators import grade_game
from lowrank_opt.monotone.inclusion import matrix_norm
from lowrank_opt.monotone.points import PrimalDual
from lowrank_opt.numerics._arrays import real_array, sparse_matrix
from lowrank_opt.numerics.projections import project_simplex

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

__all__ = ["MatrixGame"]

_LARGEST = 4000  # smaller side up to which a dense matrix of that order is factorised


@dataclass(frozen=True, eq=False, repr=False)
class MatrixGame(Problem):
    r"""Matrix game: :math:`\min_{x \in \Delta_n} \max_{y \in \Delta_m}\; y^\top A x`.

    Parameters
    ----------
    A : array-like or scipy sparse of shape (m, n)
        Payoffs to the player who maximises and chooses rows. float32 and float64 are kept.
    start_point : PrimalDual or None, default=None
        Where solvers start; ``None``: uniform strategies.

    Attributes
    ----------
    shape : tuple of int
        (m, n).
    size : int
        m + n: solvers work on x and y in one flat array.
    n_terms : int
        max(m, n): term i of the operator reads row i and column i.
    lipschitz : float
        Norm of `A`, the Lipschitz constant of the operator ``F(x, y) = (A'y, -Ax)``.
    spread : float
        Largest minus smallest payoff, the unit of relative gaps.

    Raises
    ------
    ProblemError
        `A` is empty, not a matrix or not finite; `start_point` is not a pair of strategies.

    Notes
    -----
    A point is ``PrimalDual(x, y)``. The certificate's residual is the duality gap
    :math:`\max_i (Ax)_i - \min_j (A^\top y)_j` over `spread`; ``Certificate.gap`` is the gap, and
    the value of the game is within it of ``objective``, the largest payoff against x.

    A level that all payoffs share changes no strategy, but counts in `lipschitz`, and with it in
    the steps of first-order methods: subtract it first, such as the mean of the largest and the
    smallest payoff.

    `auto_solver` is :class:`~lowrank_opt.monotone.GameInteriorPoint` up to 4000 rows or columns,
    whichever are fewer, and restarted :class:`~lowrank_opt.monotone.FastExtraGradient` beyond.

    Examples
    --------
    Rock, paper, scissors:

    >>> from lowrank_opt import solve
    >>> from lowrank_opt.monotone import MatrixGame
    >>> game = MatrixGame([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]])
    >>> result = solve(game)
    >>> x, y = result.x
    >>> print(x.round(4), abs(round(result.value, 4)))
    [0.3333 0.3333 0.3333] 0.0
    """

    A: Any
    start_point: Any = field(default=None)

    def __post_init__(self) -> None:
        put = object.__setattr__
        A = self.A
        if hasattr(A, "tocsr"):
            A = sparse_matrix("A", A)
        else:
            A = np.ascontiguousarray(real_array("A", A)[0])
        if A.ndim != 2 or 0 in A.shape:
            raise ProblemError(f"A has shape {A.shape}; a matrix with rows and columns is needed")
        put(self, "A", A)
        if self.start_point is not None:
            x, y = self._pair(self.start_point)
            for name, v in (("x", x), ("y", y)):
                if v.min() < 0 or abs(float(v.sum()) - 1.0) > 1e-6:
                    raise ProblemError(
                        f"start_point.{name} is not a strategy: its entries must be at least 0 "
                        f"and sum to 1, they sum to {float(v.sum()):g}"
                    )
            put(self, "start_point", PrimalDual(x, y))

    # -- description ----------------------------------------------------------------------------

    @property
    def shape(self) -> tuple[int, int]:
        """Numbers of rows and columns."""
        m, n = self.A.shape
        return int(m), int(n)

    @property
    def size(self) -> int:
        """Number of variables, m + n."""
        return sum(self.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of points."""
        return np.dtype(self.A.dtype)

    @property
    def n_terms(self) -> int:
        """Number of terms of the operator, max(m, n)."""
        return max(self.shape)

    @property
    def cocoercive(self) -> bool:
        """False: the operator is a rotation."""
        return False

    @cached_property
    def lipschitz(self) -> float:
        """Norm of A."""
        return matrix_norm(self.A) or 1.0

    @cached_property
    def spread(self) -> float:
        """Largest minus smallest payoff."""
        return float(self.A.max()) - float(self.A.min())

    @cached_property
    def importance(self) -> NDArray[np.float64]:
        """Probabilities of the terms in proportion to their rows' and columns' squared norms."""
        squares = self.A.multiply(self.A) if sp.issparse(self.A) else np.square(self.A)
        weights = np.zeros(self.n_terms)
        for axis, size in ((1, self.shape[0]), (0, self.shape[1])):
            weights[:size] += np.asarray(squares.sum(axis=axis), np.float64).reshape(-1)
        total = weights.sum()
        return weights / total if total > 0 else np.full(self.n_terms, 1.0 / self.n_terms)

    def __repr__(self) -> str:
        m, n = self.shape
        return f"MatrixGame({m}x{n})"

    def fingerprint(self) -> Mapping[str, Any]:
        """Shape, dtype and a hash of the payoffs."""
        parts = [self.A.data, self.A.indices, self.A.indptr] if sp.issparse(self.A) else [self.A]
        return {
            "shape": list(self.shape), "dtype": str(self.dtype), "sparse": sp.issparse(self.A),
            "hash": digest(*parts, self.start()),
        }  # fmt: skip

    def auto_solver(self) -> tuple[str, dict[str, Any]]:
        """See the class."""
        if min(self.shape) <= _LARGEST:
            return "GameInteriorPoint", {}
        return "FastExtraGradient", {"restart": "adaptive"}

    # -- points and oracles -----------------------------------------------------------------------

    def _pair(self, point: Any) -> PrimalDual:
        m, n = self.shape
        if not isinstance(point, tuple) or len(point) != 2:
            raise ProblemTypeError(
                f"a point of {self!r} is a {type(point).__name__}; give PrimalDual(x, y)"
            )
        arrays = []
        for name, size, part in (("x", n, point[0]), ("y", m, point[1])):
            array = np.array(real_array(name, part)[0], self.dtype)
            if array.shape != (size,):
                raise ProblemError(f"{name} has shape {array.shape}; expected ({size},)")
            arrays.append(array)
        return PrimalDual(*arrays)

    def start(self) -> NDArray[Any]:
        """Return the start as a flat array of its own."""
        if self.start_point is not None:
            return np.concatenate(self.start_point)
        m, n = self.shape
        return np.concatenate([np.full(n, 1.0 / n), np.full(m, 1.0 / m)]).astype(self.dtype)

    def flat(self, x: Any) -> NDArray[Any]:
        """Return a point as a flat array of its own.

        Parameters
        ----------
        x : PrimalDual
            A point.
        """
        return np.concatenate(self._pair(x))

    def shaped(self, z: Any) -> PrimalDual:
        """Return a flat array as a point, with arrays of its own."""
        n = self.shape[1]
        return PrimalDual(np.array(z[:n], self.dtype), np.array(z[n:], self.dtype))

    def operator(self, z: Any, out: Any = None) -> Any:
        """Return F = (A'y, -Ax) at a point: flat for a flat one, else a `PrimalDual`.

        Parameters
        ----------
        z : ndarray of shape (size,) or PrimalDual
            A point.
        out : ndarray or None, default=None
            Where to write the result for a flat point.
        """
        n = self.shape[1]
        if isinstance(z, tuple):
            return PrimalDual(self.A.T @ z[1], -(self.A @ z[0]))
        value = np.empty(len(z), np.result_type(self.dtype, z.dtype)) if out is None else out
        value[:n] = self.A.T @ z[n:]
        value[n:] = -(self.A @ z[:n])
        return value

    def resolvent(self, z: Any, step: float) -> NDArray[Any]:
        """Return the projection of a flat point onto pairs of strategies.

        Parameters
        ----------
        z : ndarray of shape (size,)
            A point.
        step : float
            Without effect: a projection.
        """
        n = self.shape[1]
        return np.concatenate([project_simplex(z[:n]), project_simplex(z[n:])])

    def sample_operator(self, z: Any, index: Any, probabilities: Any = None) -> NDArray[Any]:
        """Return an unbiased estimate of F at a flat point from rows and columns.

        Parameters
        ----------
        z : ndarray of shape (size,)
            A point.
        index : ndarray of int
            Drawn terms: row i and column i, as far as there are.
        probabilities : ndarray of shape (n_terms,) or None, default=None
            With which they were drawn; ``None``: all the same.
        """
        m, n = self.shape
        index = np.asarray(index)
        weights = np.full(len(index), float(self.n_terms))
        if probabilities is not None:
            weights = 1.0 / np.asarray(probabilities)[index]
        weights = (weights / len(index)).astype(z.dtype)
        value = np.empty(len(z), z.dtype)
        rows, columns = index < m, index < n
        i, j = index[rows], index[columns]
        value[:n] = self.A[i].T @ (weights[rows] * z[n + i])
        value[n:] = -(self.A[:, j] @ (weights[columns] * z[j]))
        return value

    def sample_difference(
        self, z: Any, w: Any, index: Any, probabilities: Any = None
    ) -> NDArray[Any]:
        """Return an unbiased estimate of F(z) - F(w): F is linear.

        Parameters
        ----------
        z, w : ndarray of shape (size,)
            Points.
        index : ndarray of int
            Drawn terms.
        probabilities : ndarray of shape (n_terms,) or None, default=None
            With which they were drawn; ``None``: all the same.
        """
        return self.sample_operator(z - w, index, probabilities)

    def admissible(self, z: Any) -> NDArray[Any]:
        """Return a flat point itself if its parts are strategies, else their projection.

        Parameters
        ----------
        z : ndarray of shape (size,)
            A point.
        """
        n = self.shape[1]
        slack = 100.0 * float(np.finfo(self.dtype).eps)
        feasible = z.min() >= 0 and all(
            abs(float(v.sum(dtype=np.float64)) - 1.0) <= slack for v in (z[:n], z[n:])
        )
        return np.array(z) if feasible else self.resolvent(z, 1.0)

    def measure(self, z: Any, value: Any = None) -> float:
        """Return the residual of a flat point in its own precision, for solvers.

        Parameters
        ----------
        z : ndarray of shape (size,)
            A point of strategies.
        value : ndarray or None, default=None
            ``operator(z)``, if known.
        """
        n = self.shape[1]
        value = self.operator(z) if value is None else value
        if not np.all(np.isfinite(value)):
            return float("nan")
        upper, lower = -float(value[n:].min()), float(value[:n].min())
        return (upper - lower) / self.spread if self.spread > 0 else 0.0

    def objective(self, x: Any) -> float:
        """Largest payoff against x: an upper bound of the value of the game."""
        pair = self._pair(x)
        return float((self.A @ np.asarray(pair.x, np.float64)).max())

    def certificate(self, x: Any) -> Certificate:
        """Grade a pair of strategies by the duality gap."""
        pair = self._pair(x)
        return grade_game(self, np.asarray(pair.x, np.float64), np.asarray(pair.y, np.float64))
