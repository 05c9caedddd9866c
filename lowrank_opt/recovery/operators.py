r"""Linear measurements of a matrix, :math:`A(X)_i = \langle A_i, X \rangle`, of four kinds.

`DenseOperator` holds the matrices, `RankOneOperator` vectors with :math:`A_i = a_i b_i^\top`,
`EntryOperator` positions, and `CallableOperator` two functions of the user. The problem that owns
an operator has checked its arrays. All kinds offer the same methods, which take the point as
factors :math:`X = U V^\top`:

* ``apply(U, V)``: the N measurements of the point, in the operator's dtype;
* ``adjoint(z)``: :math:`Z = \sum_i z_i A_i`, an object with ``Z @ V`` and ``Z.T @ U``;
* ``linearize(U, V, y, loss)``: loss and slope at the point, in one pass over the data;
* ``subset(index)``: some of the measurements.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import scipy.sparse as sp

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from lowrank_opt.recovery.observations import Observations

__all__ = [
    "CallableOperator",
    "DenseOperator",
    "EntryOperator",
    "Linearization",
    "RankOneOperator",
]

# Columns of the fixed sketch that estimates a Frobenius norm.
_SKETCH = 16


class Linearization(NamedTuple):
    """Loss and slope of a measured loss at a point.

    With errors ``e = A(U Vᵀ) - y``, weights w (1 unless the operator has some) and
    ``Q = (1/N) Σ w ψ(e) A_i``, in a symmetric problem the symmetric part of that:

    Parameters
    ----------
    value : float
        ``(1/N) Σ w ρ(e)``, summed in float64: ``ρ(e) = |e|`` for "l1" and "clipped", ``e²`` for
        "squared".
    left : ndarray of shape (m, k)
        ``Q V``.
    right : ndarray of shape (n, k) or None
        ``Qᵀ U``; ``None`` in a symmetric problem.
    norm : float
        Frobenius norm of Q. Exact for dense and entry-sampling operators; otherwise, unless Q is
        at hand as an array, estimated from ``Q S`` with a fixed orthonormal S of 16 columns.
    mass : float
        ``(1/N) Σ w ψ(e)/e`` for "clipped", the mean weight of reweighted least squares; the mean
        weight of the operator for the other losses.
    scale : float
        The same sum with the weight of each term times ``y²``.
    """

    value: float
    left: NDArray[Any]
    right: NDArray[Any] | None
    norm: float
    mass: float = 1.0
    scale: float = 0.0


def _slopes(
    e: NDArray[Any], y: NDArray[Any], loss: str, delta: float, weights: NDArray[Any] | None
) -> tuple[NDArray[Any], float, float, float]:
    """Slopes times weights, and the means of loss, weight and weighted ``y²``."""
    size = np.abs(e).astype(np.float64)
    w = np.ones(e.size) if weights is None else weights.astype(np.float64)
    rho = size * size if loss == "squared" else size
    value = float(np.mean(w * rho))
    if loss == "l1":
        psi = np.sign(e) if weights is None else np.sign(e) * weights
    elif loss == "squared":
        psi = e if weights is None else e * weights
    else:
        w = w * np.minimum(1.0, delta / np.maximum(size, np.finfo(np.float64).tiny))
        psi = (w * e).astype(e.dtype)
    scale = float(np.mean(w * np.square(y, dtype=np.float64)))
    return psi, value, float(np.mean(w)), scale


def _sketch(n: int) -> NDArray[np.float64]:
    """Orthonormal columns times ``sqrt(n / columns)``: ``|Q S|`` estimates ``|Q|``."""
    k = min(n, _SKETCH)
    basis = np.linalg.qr(np.random.default_rng(20230).standard_normal((n, k)))[0]
    return basis * np.sqrt(n / k)


class _Operator:
    """What the kinds share: the obvious form of `linearize`."""

    shape: tuple[int, int]
    size: int
    dtype: np.dtype[Any]
    weights: NDArray[Any] | None = None

    def apply(self, U: NDArray[Any], V: NDArray[Any]) -> NDArray[Any]:
        raise NotImplementedError

    def adjoint(self, z: NDArray[Any]) -> Any:
        raise NotImplementedError

    def linearize(
        self,
        U: NDArray[Any],
        V: NDArray[Any],
        y: NDArray[Any],
        loss: str,
        symmetric: bool = False,
        n_threads: int | None = None,
        *,
        delta: float = 0.0,
    ) -> Linearization:
        """Loss and slope at a point.

        Parameters
        ----------
        U, V : ndarray of shape (m, k) and (n, k)
            The point, in the operator's dtype; `V` is `U` when `symmetric`.
        y : ndarray of shape (N,)
            Data.
        loss : {"l1", "squared", "clipped"}
            Slopes: the sign (0 at 0), the error, or the error cut off at ±`delta` (the residual of
            least squares reweighted with ``min(1, delta / |e|)``).
        symmetric : bool, default=False
            Whether to take the symmetric part of Q.
        n_threads : int or None, default=None
            Threads; ``None``: numba's setting. The bits do not depend on it.
        delta : float, default=0.0
            Where "clipped" cuts off.

        Returns
        -------
        Linearization
        """
        psi, value, mass, scale = _slopes(self.apply(U, V) - y, y, loss, delta, self.weights)
        Q = self.adjoint(psi / self.size)
        left, right = Q @ V, Q.T @ U
        if symmetric:
            left, right = (left + right) / 2, None
        return Linearization(value, left, right, self._norm(Q, symmetric), mass, scale)

    def _norm(self, Q: Any, symmetric: bool) -> float:
        if sp.issparse(Q):
            return float(sp.linalg.norm((Q + Q.T) / 2 if symmetric else Q))
        if isinstance(Q, np.ndarray):
            return float(np.linalg.norm((Q + Q.T) / 2 if symmetric else Q))
        S = self._sketch_columns
        product = (Q @ S + Q.T @ S) / 2 if symmetric else Q @ S
        return float(np.linalg.norm(product))

    @cached_property
    def _sketch_columns(self) -> NDArray[Any]:
        return _sketch(self.shape[1]).astype(self.dtype)


@dataclass(frozen=True, eq=False)
class DenseOperator(_Operator):
    """Measurement matrices as the rows of an array.

    Parameters
    ----------
    A : ndarray of shape (N, m * n)
        One matrix a row, in C order.
    shape : tuple of int
        Rows m and columns n.
    """

    A: NDArray[Any]
    shape: tuple[int, int]

    @property
    def size(self) -> int:
        """Number of measurements N."""
        return int(self.A.shape[0])

    @property
    def dtype(self) -> np.dtype[Any]:
        """float32 or float64."""
        return self.A.dtype

    def apply(self, U: NDArray[Any], V: NDArray[Any]) -> NDArray[Any]:
        """Measurements of ``U Vᵀ``, ndarray of shape (N,)."""
        return self.A @ (U @ V.T).astype(self.dtype, copy=False).ravel()

    def adjoint(self, z: NDArray[Any]) -> NDArray[Any]:
        """``Σ z_i A_i``, ndarray of shape (m, n)."""
        return (z.astype(self.dtype, copy=False) @ self.A).reshape(self.shape)

    def subset(self, index: Any) -> DenseOperator:
        """Some measurements; a slice shares memory."""
        return DenseOperator(self.A[index], self.shape)


@dataclass(frozen=True, eq=False)
class RankOneOperator(_Operator):
    r"""Measurements :math:`a_i^\top X b_i`.

    Parameters
    ----------
    A, B : ndarray of shape (N, m) and (N, n)
        The vectors as rows; may be the same array.
    """

    A: NDArray[Any]
    B: NDArray[Any]

    @property
    def shape(self) -> tuple[int, int]:
        """Rows m and columns n."""
        return int(self.A.shape[1]), int(self.B.shape[1])

    @property
    def size(self) -> int:
        """Number of measurements N."""
        return int(self.A.shape[0])

    @property
    def dtype(self) -> np.dtype[Any]:
        """float32 or float64."""
        return self.A.dtype

    def apply(self, U: NDArray[Any], V: NDArray[Any]) -> NDArray[Any]:
        """Measurements of ``U Vᵀ``, ndarray of shape (N,)."""
        return np.einsum("pc,pc->p", self.A @ U, self.B @ V)

    def adjoint(self, z: NDArray[Any]) -> Any:
        """``Σ z_i a_i b_iᵀ`` as a linear operator."""
        A, B = self.A, self.B
        z = z.astype(self.dtype, copy=False)
        return sp.linalg.LinearOperator(
            self.shape,
            matvec=lambda v: A.T @ (z * (B @ v.ravel())),
            rmatvec=lambda u: B.T @ (z * (A @ u.ravel())),
            matmat=lambda V: A.T @ (z[:, None] * (B @ V)),
            rmatmat=lambda U: B.T @ (z[:, None] * (A @ U)),
            dtype=self.dtype,
        )

    def subset(self, index: Any) -> RankOneOperator:
        """Some measurements; a slice shares memory."""
        A = self.A[index]
        return RankOneOperator(A, A if self.B is self.A else self.B[index])


@dataclass(frozen=True, eq=False)
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
    def weights(self) -> NDArray[Any] | None:  # type: ignore[override]
        """Weights by rows, ndarray of shape (N,), or ``None``."""
        return self.observations.weights

    def apply(self, U: NDArray[Any], V: NDArray[Any]) -> NDArray[Any]:
        """Entries of ``U Vᵀ`` at the observed positions, by rows; ndarray of shape (N,)."""
        obs = self.observations
        return np.einsum("pc,pc->p", U[obs.rows()], V[obs.indices])

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


@dataclass(frozen=True, eq=False)
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

    def apply(self, U: NDArray[Any], V: NDArray[Any]) -> NDArray[Any]:
        """Measurements of ``U Vᵀ``, ndarray of shape (N,)."""
        return np.asarray(self.function(U, V), self.dtype)

    def adjoint(self, z: NDArray[Any]) -> Any:
        """``Σ z_i A_i``, as the user's function returns it."""
        return self.adjoint_function(z.astype(self.dtype, copy=False))

    def subset(self, index: Any) -> CallableOperator:
        """Some measurements; all are computed, the others left out."""
        keep = np.arange(self.size)[index]

        def adjoint(z: NDArray[Any]) -> Any:
            full = np.zeros(self.size, self.dtype)
            full[keep] = z
            return self.adjoint_function(full)

        return CallableOperator(
            lambda U, V: np.asarray(self.function(U, V))[keep],
            *(adjoint, self.shape, int(keep.size), self.dtype),
        )
