r"""Linear measurements of a matrix, :math:`A(X)_i = \langle A_i, X \rangle`, of four kinds.

`DenseOperator` holds the matrices, `RankOneOperator` vectors with :math:`A_i = a_i b_i^\top`,
`EntryOperator` positions, and `CallableOperator` two functions of the user. The problem that owns
an operator has checked its arrays. All kinds offer the same, with points given as factors
:math:`X = U V^\top`:

* ``apply(U, V)``: the N measurements of the point, in the operator's dtype;
* ``adjoint(z)``: :math:`Z = \sum_i z_i A_i`, an object with ``Z @ V`` and ``Z.T @ U``;
* ``linearize(U, V, y, loss)``: loss and slope at the point, in one pass over the data;
* ``reweighted(U, V, y, delta)``: the same for reweighted least squares;
* ``subset(index)``: some of the measurements;
* ``mean_square``: the mean square of an entry of the :math:`A_i`;
* ``exact_errors`` and ``exact_products``: what certificates are made of, in float64 and without
  the kernels that solvers use.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import scipy.sparse as sp
from scipy.sparse.linalg import LinearOperator
from scipy.sparse.linalg import norm as sparse_norm

from lowrank_opt.recovery import kernels_observations
from lowrank_opt.recovery import kernels_sensing as kernels
from lowrank_opt.recovery.certificates import CHUNK, or_empty

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from lowrank_opt.recovery.observations import Observations

__all__ = [
    "CallableOperator",
    "DenseOperator",
    "EntryOperator",
    "Linearization",
    "RankOneOperator",
    "Reweighted",
]

# Columns of the fixed sketch that estimates a Frobenius norm.
_SKETCH = 8
_LOSSES = {"l1": kernels.L1, "squared": kernels.SQUARED, "clipped": kernels.CLIPPED}


class Linearization(NamedTuple):
    """Loss and slope of a measured loss at a point.

    With errors ``e = A(U Vᵀ) - y``, weights w (1 unless the operator has some) and
    ``Q = (1/N) Σ w ψ(e) A_i``, in a symmetric problem the symmetric part of that:

    Parameters
    ----------
    value : float
        ``(1/N) Σ w ρ(e)``, summed in float64: ``|e|`` for "l1", ``e²`` for "squared".
    left : ndarray of shape (m, k)
        ``Q V`` with ``ψ(e) = sign(e)`` (0 at 0) for "l1", ``e`` for "squared".
    right : ndarray of shape (n, k) or None
        ``Qᵀ U``; ``None`` in a symmetric problem.
    norm : float
        Frobenius norm of Q. Exact for dense measurements and entries, and where the user's
        function returns an array; otherwise the norm of Q times a fixed orthonormal matrix of 8
        columns, scaled: some per cent off when Q has many directions, up to a third when it has
        one.
    """

    value: float
    left: NDArray[Any]
    right: NDArray[Any] | None
    norm: float


class Reweighted(NamedTuple):
    """One round of reweighted least squares at a point, ``w̃ = w min(1, delta / |e|)``.

    Parameters
    ----------
    mass : float
        ``(1/N) Σ w̃``.
    left, right : ndarray of shape (m, k) and (n, k)
        ``Q V`` and ``Qᵀ U`` with ``Q = (1/N) Σ w̃ e A_i``, in a symmetric problem the symmetric
        part of that, and ``right`` is ``None``.
    scale : float
        ``(1/N) Σ w̃ y²``; infinite where a square overflows.
    """

    mass: float
    left: NDArray[Any]
    right: NDArray[Any] | None
    scale: float


class _Pass(NamedTuple):
    """What one pass over the data gives: both products, and means as in `kernels_sensing`."""

    left: NDArray[Any]
    right: NDArray[Any]
    value: float
    norm: float
    mass: float
    scale: float


class _Operator:
    """What the kinds share."""

    shape: tuple[int, int]
    size: int
    dtype: np.dtype[Any]
    mean_square: float
    weights: NDArray[Any] | None = None

    def __repr__(self) -> str:
        m, n = self.shape
        return f"{type(self).__name__}({self.size} x ({m} x {n}), {self.dtype})"

    @property
    def data(self) -> tuple[NDArray[Any], ...]:
        """The arrays that identify the measurements."""
        return ()

    def exact_masses(self, w: NDArray[np.float64]) -> tuple[NDArray[Any], NDArray[Any]]:
        """Row and column sums of ``Σ w_i A_i∘A_i``, in float64.

        As if all entries of the measurement matrices had the same mean square.
        """
        m, n = self.shape
        mass = self.mean_square * float(w.sum())
        return np.full(m, n * mass), np.full(n, m * mass)

    def _pass(
        self,
        U: Any,
        V: Any,
        y: Any,
        loss: int,
        symmetric: bool,
        n_threads: int | None,
        delta: float,
    ) -> _Pass:
        raise NotImplementedError

    def linearize(
        self,
        U: NDArray[Any],
        V: NDArray[Any],
        y: NDArray[Any],
        loss: str,
        symmetric: bool = False,
        n_threads: int | None = None,
    ) -> Linearization:
        """Loss and slope at a point, in one pass over the data.

        Parameters
        ----------
        U, V : ndarray of shape (m, k) and (n, k)
            The point; `V` is `U` in a symmetric problem.
        y : ndarray of shape (N,)
            Data.
        loss : {"l1", "squared"}
            Mean absolute or mean squared error.
        symmetric : bool, default=False
            Whether to take the symmetric part of Q.
        n_threads : int or None, default=None
            Threads; ``None``: numba's setting. The bits do not depend on it.

        Returns
        -------
        Linearization
        """
        found = self._run(U, V, y, _LOSSES[loss], symmetric, n_threads, 1.0)
        return Linearization(found.value, found.left, found.right, found.norm)

    def reweighted(
        self,
        U: NDArray[Any],
        V: NDArray[Any],
        y: NDArray[Any],
        delta: float,
        symmetric: bool = False,
        n_threads: int | None = None,
    ) -> Reweighted:
        """One round of reweighted least squares at a point, in one pass over the data.

        Parameters
        ----------
        U, V, y, symmetric, n_threads
            As in `linearize`.
        delta : float
            Errors above it count with weight ``delta / |e|``; positive, ``inf`` for least squares.

        Returns
        -------
        Reweighted
        """
        delta = min(max(float(delta), np.finfo(np.float64).tiny), np.finfo(np.float64).max)
        found = self._run(U, V, y, kernels.CLIPPED, symmetric, n_threads, delta)
        return Reweighted(found.mass, found.left, found.right, found.scale)

    def _run(
        self,
        U: Any,
        V: Any,
        y: Any,
        loss: int,
        symmetric: bool,
        n_threads: int | None,
        delta: float,
    ) -> Any:
        U = np.asarray(U, self.dtype)
        V = U if symmetric else np.asarray(V, self.dtype)
        y = np.ascontiguousarray(y, self.dtype)
        found = self._pass(U, V, y, loss, symmetric, n_threads, delta)
        if not symmetric:
            return found
        left = found.left
        if found.right is not left:
            left = (left + found.right) / 2
        return found._replace(left=left, right=None)

    @cached_property
    def _sketch_columns(self) -> NDArray[np.float64]:
        """Orthonormal columns times ``sqrt(n / columns)``: ``|Q S|`` estimates ``|Q|``."""
        n = self.shape[1]
        k = min(n, _SKETCH)
        columns = np.random.default_rng(20230).standard_normal((n, k))
        return np.linalg.qr(columns)[0] * math.sqrt(n / k)


@dataclass(frozen=True, eq=False, repr=False)
class DenseOperator(_Operator):
    """Measurement matrices as the rows of an array.

    Parameters
    ----------
    A : ndarray of shape (N, width)
        One matrix a row, in C order, filled up with zeros to whole vector registers.
    shape : tuple of int
        Rows m and columns n, ``m n <= width``.
    """

    A: NDArray[Any]
    shape: tuple[int, int]

    @property
    def data(self) -> tuple[NDArray[Any], ...]:
        """The padded matrices."""
        return (self.A,)

    @property
    def size(self) -> int:
        """Number of measurements N."""
        return int(self.A.shape[0])

    @property
    def dtype(self) -> np.dtype[Any]:
        """float32 or float64."""
        return self.A.dtype

    @cached_property
    def mean_square(self) -> float:
        """Mean square of an entry of the measurement matrices."""
        total = math.fsum(float(np.vdot(block, block)) for _, block in self._blocks())
        return total / (self.size * self.shape[0] * self.shape[1])

    def apply(self, U: NDArray[Any], V: NDArray[Any]) -> NDArray[Any]:
        """Measurements of ``U Vᵀ``, ndarray of shape (N,)."""
        return self.A @ self._vector(U, V)

    def adjoint(self, z: NDArray[Any]) -> NDArray[Any]:
        """``Σ z_i A_i``, ndarray of shape (m, n)."""
        m, n = self.shape
        return (np.asarray(z, self.dtype) @ self.A)[: m * n].reshape(m, n)

    def subset(self, index: Any) -> DenseOperator:
        """Some measurements; a slice shares memory."""
        return DenseOperator(np.ascontiguousarray(self.A[index]), self.shape)

    def _vector(self, U: Any, V: Any) -> NDArray[Any]:
        out = np.zeros(self.A.shape[1], self.dtype)
        m, n = self.shape
        np.matmul(U, V.T, out=out[: m * n].reshape(m, n), casting="same_kind")
        return out

    def _pass(
        self,
        U: Any,
        V: Any,
        y: Any,
        loss: int,
        symmetric: bool,
        n_threads: int | None,
        delta: float,
    ) -> _Pass:
        x = self._vector(U, V)
        slope, value, mass, scale = kernels.dense_pass(
            self.A, y, x, loss, delta=delta, n_threads=n_threads
        )
        m, n = self.shape
        Q = slope[: m * n].reshape(m, n)
        if symmetric:
            Q = (Q + Q.T) / 2
        left = (Q @ V).astype(self.dtype)
        right = left if symmetric else (Q.T @ U).astype(self.dtype)
        return _Pass(left, right, value, float(np.linalg.norm(Q)), mass, scale)

    def _blocks(self) -> Iterator[tuple[slice, NDArray[np.float64]]]:
        width = self.shape[0] * self.shape[1]
        step = max(1, CHUNK // width)
        for a in range(0, self.size, step):
            part = slice(a, a + step)
            yield part, self.A[part, :width].astype(np.float64)

    def exact_errors(self, U: Any, V: Any, y: Any) -> NDArray[np.float64]:
        """``A(U Vᵀ) - y`` in float64."""
        x = (U.astype(np.float64) @ V.T.astype(np.float64)).ravel()
        out = np.empty(self.size)
        for part, block in self._blocks():
            out[part] = block @ x
        out -= y
        return out

    def exact_products(self, z: Any, U: Any, V: Any) -> tuple[NDArray[Any], NDArray[Any]]:
        """``Z V`` and ``Zᵀ U`` for ``Z = Σ z_i A_i``, in float64."""
        Z = np.zeros(self.shape[0] * self.shape[1])
        for part, block in self._blocks():
            Z += z[part] @ block
        Z = Z.reshape(self.shape)
        return Z @ V, Z.T @ U


@dataclass(frozen=True, eq=False, repr=False)
class RankOneOperator(_Operator):
    r"""Measurements :math:`a_i^\top X b_i`.

    Parameters
    ----------
    A, B : ndarray of shape (rows, wm) and (rows, wn)
        The vectors as rows, filled up with zeros to whole vector registers and to a multiple of 8
        rows; may be the same array.
    shape : tuple of int
        Rows m and columns n of the matrix.
    size : int
        Number of measurements N.
    """

    A: NDArray[Any]
    B: NDArray[Any]
    shape: tuple[int, int]
    size: int

    @property
    def data(self) -> tuple[NDArray[Any], ...]:
        """The padded vectors."""
        return (self.A,) if self.A is self.B else (self.A, self.B)

    @property
    def dtype(self) -> np.dtype[Any]:
        """float32 or float64."""
        return self.A.dtype

    @cached_property
    def mean_square(self) -> float:
        """Mean square of an entry of the measurement matrices."""
        sums = [np.einsum("pi,pi->p", F, F, dtype=np.float64) for F in (self.A, self.B)]
        return float(sums[0] @ sums[1]) / (self.size * self.shape[0] * self.shape[1])

    @property
    def vectors(self) -> tuple[NDArray[Any], NDArray[Any]]:
        """The vectors without the padding, shapes (N, m) and (N, n)."""
        return self.A[: self.size, : self.shape[0]], self.B[: self.size, : self.shape[1]]

    def apply(self, U: NDArray[Any], V: NDArray[Any]) -> NDArray[Any]:
        """Measurements of ``U Vᵀ``, ndarray of shape (N,)."""
        A, B = self.vectors
        return np.einsum("pc,pc->p", A @ np.asarray(U, A.dtype), B @ np.asarray(V, B.dtype))

    def adjoint(self, z: NDArray[Any]) -> LinearOperator:
        """``Σ z_i a_i b_iᵀ`` as a linear operator."""
        A, B = self.vectors
        z = np.asarray(z, self.dtype)[:, None]
        return LinearOperator(
            self.shape,
            matvec=lambda v: A.T @ (z * (B @ v.reshape(-1, 1))),
            rmatvec=lambda u: B.T @ (z * (A @ u.reshape(-1, 1))),
            matmat=lambda V: A.T @ (z * (B @ V)),
            rmatmat=lambda U: B.T @ (z * (A @ U)),
            dtype=self.dtype,
        )

    def subset(self, index: Any) -> RankOneOperator:
        """Some measurements, copied."""
        A, B = (F[index] for F in self.vectors)
        return RankOneOperator.from_vectors(A, A if self.B is self.A else B, self.dtype)

    @classmethod
    def from_vectors(cls, A: Any, B: Any, dtype: Any) -> RankOneOperator:
        """From arrays of shape (N, m) and (N, n), which are copied."""
        rows = 8 * -(-A.shape[0] // 8)
        left = kernels.padded(A, dtype, rows)
        right = left if B is A else kernels.padded(B, dtype, rows)
        return cls(left, right, (A.shape[1], B.shape[1]), A.shape[0])

    def _sketched(self, F: NDArray[Any], side: int) -> NDArray[Any]:
        columns = self._sketch_columns.astype(self.dtype)
        return np.ascontiguousarray((F[:, :side] @ columns).T)

    @cached_property
    def _sketch(self) -> NDArray[Any]:
        return self._sketched(self.B, self.shape[1])

    @cached_property
    def _mirror(self) -> NDArray[Any]:
        return self._sketched(self.A, self.shape[0])

    def _pass(
        self,
        U: Any,
        V: Any,
        y: Any,
        loss: int,
        symmetric: bool,
        n_threads: int | None,
        delta: float,
    ) -> _Pass:
        twin = symmetric and self.A is self.B
        no_norm = loss == kernels.CLIPPED
        left, right, sketched, mirrored, value, mass, scale = kernels.rank_one_pass(
            *(self.A, self.B, y, U, V, loss),
            twin=twin,
            sketch=None if no_norm else self._sketch,
            mirror=self._mirror if symmetric and not (twin or no_norm) else None,
            delta=delta,
            n_threads=n_threads,
        )
        if mirrored.size:
            sketched = (sketched + mirrored) / 2
        left = left.astype(self.dtype)
        right = left if twin else right.astype(self.dtype)
        return _Pass(left, right, value, float(np.linalg.norm(sketched)), mass, scale)

    def _blocks(self) -> Iterator[tuple[slice, NDArray[np.float64], NDArray[np.float64]]]:
        A, B = self.vectors
        step = max(1, CHUNK // max(self.shape))
        for a in range(0, self.size, step):
            part = slice(a, a + step)
            yield part, A[part].astype(np.float64), B[part].astype(np.float64)

    def exact_errors(self, U: Any, V: Any, y: Any) -> NDArray[np.float64]:
        """``A(U Vᵀ) - y`` in float64."""
        U, V = U.astype(np.float64), V.astype(np.float64)
        out = np.empty(self.size)
        for part, A, B in self._blocks():
            out[part] = ((A @ U) * (B @ V)).sum(axis=1)
        out -= y
        return out

    def exact_products(self, z: Any, U: Any, V: Any) -> tuple[NDArray[Any], NDArray[Any]]:
        """``Z V`` and ``Zᵀ U`` for ``Z = Σ z_i A_i``, in float64."""
        left, right = np.zeros((self.shape[0], V.shape[1])), np.zeros((self.shape[1], U.shape[1]))
        for part, A, B in self._blocks():
            left += A.T @ (z[part, None] * (B @ V))
            right += B.T @ (z[part, None] * (A @ U))
        return left, right


@dataclass(frozen=True, eq=False, repr=False)
class EntryOperator(_Operator):
    """Observed entries of a matrix, by rows; weights of the observations weigh the losses.

    Parameters
    ----------
    observations : Observations
        Positions and weights. The values are not looked at: they are the problem's targets.
    """

    observations: Observations

    @property
    def shape(self) -> tuple[int, int]:
        """Rows m and columns n."""
        return self.observations.shape

    @property
    def size(self) -> int:
        """Number of entries N."""
        return self.observations.nnz

    @property
    def dtype(self) -> np.dtype[Any]:
        """float32 or float64."""
        return self.observations.dtype

    @property
    def data(self) -> tuple[NDArray[Any], ...]:
        """Positions, and weights where there are some."""
        arrays = (self.observations.indptr, self.observations.indices, self.weights)
        return tuple(a for a in arrays if a is not None)

    @property
    def weights(self) -> NDArray[Any] | None:  # type: ignore[override]
        """Weights by rows, ndarray of shape (N,), or ``None``."""
        return self.observations.weights

    @property
    def mean_square(self) -> float:
        """Mean square of an entry of the measurement matrices, ``1 / (m n)``."""
        return 1.0 / (self.shape[0] * self.shape[1])

    def apply(self, U: NDArray[Any], V: NDArray[Any]) -> NDArray[Any]:
        """Entries of ``U Vᵀ`` at the observed positions, by rows; ndarray of shape (N,)."""
        obs = self.observations
        return kernels.predict_entries(obs.indptr, obs.indices, U, V, self.dtype)

    def adjoint(self, z: NDArray[Any]) -> sp.csr_array:
        """The sparse matrix with these values at the observed positions."""
        obs = self.observations
        data = np.asarray(z).astype(self.dtype, copy=False)
        return sp.csr_array((data, obs.indices, obs.indptr), shape=self.shape)

    def subset(self, index: Any) -> EntryOperator:
        """Some entries, which keep their order."""
        mask = np.zeros(self.size, dtype=bool)
        mask[index] = True
        return EntryOperator(self.observations.select(mask))

    def _pass(
        self,
        U: Any,
        V: Any,
        y: Any,
        loss: int,
        symmetric: bool,
        n_threads: int | None,
        delta: float,
    ) -> _Pass:
        obs = self.observations
        return _Pass(
            *kernels.entry_pass(
                (obs.indptr, obs.indices, or_empty(obs.weights, self.dtype)),
                (obs.csc_indptr, obs.csc_indices, or_empty(obs.csc_weights, self.dtype)),
                *(lambda: obs.perm, y, U, V, loss),
                symmetric=symmetric,
                delta=delta,
                n_threads=n_threads,
            )
        )

    def exact_errors(self, U: Any, V: Any, y: Any) -> NDArray[np.float64]:
        """``A(U Vᵀ) - y`` in float64."""
        obs = self.observations
        out, none = np.empty(obs.nnz), np.empty(0, U.dtype)
        kernels_observations.residuals(
            *(obs.indptr, obs.indices, y),
            *(np.ascontiguousarray(U), np.ascontiguousarray(V)),
            *(none, none, 0.0, out),
        )
        return np.negative(out, out=out)

    def exact_products(self, z: Any, U: Any, V: Any) -> tuple[NDArray[Any], NDArray[Any]]:
        """``Z V`` and ``Zᵀ U`` for ``Z = Σ z_i A_i``, in float64."""
        obs = self.observations
        Z = sp.csr_array((z, obs.indices, obs.indptr), shape=self.shape)
        return Z @ V, Z.T @ U

    def exact_masses(self, w: NDArray[np.float64]) -> tuple[NDArray[Any], NDArray[Any]]:
        """Sums of the weights `w` of rows and columns, in float64."""
        obs = self.observations
        W = sp.csr_array((np.asarray(w), obs.indices, obs.indptr), shape=self.shape)
        return W.sum(axis=1), W.sum(axis=0)


@dataclass(frozen=True, eq=False, repr=False)
class CallableOperator(_Operator):
    """Measurements by two functions of the user.

    Parameters
    ----------
    function : callable
        ``function(U, V)`` returns the N measurements of ``U Vᵀ``.
    adjoint_function : callable
        ``adjoint_function(z)`` returns ``Σ z_i A_i`` as an array, sparse array or linear operator.
    shape : tuple of int
        Rows m and columns n.
    size : int
        Number of measurements N.
    dtype : dtype
        float32 or float64.
    """

    function: Callable[[NDArray[Any], NDArray[Any]], Any]
    adjoint_function: Callable[[NDArray[Any]], Any]
    shape: tuple[int, int]
    size: int
    dtype: np.dtype[Any]

    @cached_property
    def mean_square(self) -> float:
        """Mean square of an entry of the measurement matrices, estimated.

        From the measurements of 16 random matrices of rank one with entries ±1, whose mean square
        is that sum in expectation.
        """
        rng = np.random.default_rng(20231)
        total = 0.0
        for _ in range(16):
            u, v = (rng.choice([-1.0, 1.0], (s, 1)).astype(self.dtype) for s in self.shape)
            total += float(np.mean(np.square(self.apply(u, v), dtype=np.float64)))
        return total / (16 * self.shape[0] * self.shape[1])

    def apply(self, U: NDArray[Any], V: NDArray[Any]) -> NDArray[Any]:
        """Measurements of ``U Vᵀ``, ndarray of shape (N,)."""
        return np.asarray(self.function(U, V), self.dtype)

    def adjoint(self, z: NDArray[Any]) -> Any:
        """``Σ z_i A_i``, as the user's function returns it."""
        return self.adjoint_function(np.asarray(z, self.dtype))

    def subset(self, index: Any) -> CallableOperator:
        """Some measurements; all are computed, the others left out."""
        keep = np.arange(self.size)[index]
        return CallableOperator(
            _Part(self, keep).function,
            _Part(self, keep).adjoint_function,
            *(self.shape, int(keep.size), self.dtype),
        )

    def _pass(
        self,
        U: Any,
        V: Any,
        y: Any,
        loss: int,
        symmetric: bool,
        n_threads: int | None,
        delta: float,
    ) -> _Pass:
        e = self.apply(U, V) - y
        size = np.abs(e, dtype=np.float64)
        mass = scale = value = 0.0
        if loss == kernels.L1:
            value, slope = float(np.mean(size)), np.sign(e)
        elif loss == kernels.SQUARED:
            value, slope = float(np.mean(size * size)), e
        else:
            w = delta / np.maximum(size, delta)
            with np.errstate(over="ignore"):
                scale = float(np.mean(w * np.square(y, dtype=np.float64)))
            mass = float(np.mean(w))
            slope = w * e
        Q = self.adjoint(slope / self.size)
        left, right = np.asarray(Q @ V), np.asarray(Q.T @ U)
        if loss == kernels.CLIPPED:
            return _Pass(left, right, value, 0.0, mass, scale)
        if sp.issparse(Q):
            norm = sparse_norm((Q + Q.T) / 2 if symmetric else Q)
        elif isinstance(Q, np.ndarray):
            norm = np.linalg.norm((Q + Q.T) / 2 if symmetric else Q)
        else:
            S = self._sketch_columns.astype(self.dtype)
            norm = np.linalg.norm((Q @ S + Q.T @ S) / 2 if symmetric else Q @ S)
        return _Pass(left, right, value, float(norm), mass, scale)

    def exact_errors(self, U: Any, V: Any, y: Any) -> NDArray[np.float64]:
        """``A(U Vᵀ) - y`` in float64, as far as the user's function computes in it."""
        values = self.function(U.astype(np.float64), V.astype(np.float64))
        return np.asarray(values, np.float64) - y

    def exact_products(self, z: Any, U: Any, V: Any) -> tuple[NDArray[Any], NDArray[Any]]:
        """``Z V`` and ``Zᵀ U`` for ``Z = Σ z_i A_i``, in float64."""
        Z = self.adjoint_function(z)
        return np.asarray(Z @ V, np.float64), np.asarray(Z.T @ U, np.float64)


@dataclass(frozen=True, eq=False, repr=False)
class _Part:
    """Some measurements of a pair of functions."""

    whole: CallableOperator
    keep: NDArray[np.int64]

    def function(self, U: Any, V: Any) -> Any:
        return np.asarray(self.whole.function(U, V))[self.keep]

    def adjoint_function(self, z: NDArray[Any]) -> Any:
        full = np.zeros(self.whole.size, z.dtype)
        full[self.keep] = z
        return self.whole.adjoint_function(full)
