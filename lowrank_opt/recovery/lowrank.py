"""Low-rank matrices as factors, and ensembles of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lowrank_opt.core.errors import ParameterError, ProblemError, ProblemTypeError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, DTypeLike, NDArray

__all__ = ["LowRankMatrix", "LowRankSamples"]

_COLD = ("mean", "nan", "error")
# Entries of gathered factor rows held at once by predict: a few megabytes.
_GATHER = 1 << 19


def _float_array(value: ArrayLike, name: str, ndim: int) -> NDArray[Any]:
    array = np.asarray(value)
    if array.dtype.kind not in "fiub":
        raise ProblemTypeError(
            f"{name} has dtype {array.dtype}; expected real numbers, give a floating-point array"
        )
    if array.ndim != ndim:
        raise ProblemError(f"{name} has shape {array.shape}; expected {ndim} dimension(s)")
    if array.dtype not in (np.float32, np.float64):
        array = array.astype(np.float32 if array.dtype == np.float16 else np.float64)
    return array


def _ids(value: ArrayLike, name: str) -> NDArray[np.int64]:
    ids = np.asarray(value)
    if ids.dtype.kind not in "iu" and ids.size:
        raise ProblemTypeError(
            f"{name} has dtype {ids.dtype}; expected integer positions, starting at 0"
        )
    return ids.astype(np.int64, copy=False)


def _pairs(
    rows: ArrayLike, cols: ArrayLike, shape: tuple[int, int], cold: str
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any], tuple[int, ...]]:
    """Broadcast, flattened positions (0 where unknown), the masks of known ones, the shape."""
    if cold not in _COLD:
        raise ParameterError(f"cold={cold!r}; expected one of {', '.join(map(repr, _COLD))}")
    i, j = np.broadcast_arrays(_ids(rows, "rows"), _ids(cols, "cols"))
    known_i, known_j = (i >= 0) & (i < shape[0]), (j >= 0) & (j < shape[1])
    if cold == "error":
        for name, ids, known, size in (
            ("rows", i, known_i, shape[0]),
            ("cols", j, known_j, shape[1]),
        ):
            if not known.all():
                raise ProblemError(
                    f"{name}: {np.count_nonzero(~known)} position(s) outside 0..{size - 1}, the "
                    f"first is {ids[~known].flat[0]}; remove them or choose cold='mean' or 'nan'"
                )
    flat = [np.where(known, ids, 0).ravel() for ids, known in ((i, known_i), (j, known_j))]
    return flat[0], flat[1], known_i.ravel(), known_j.ravel(), i.shape


def _check_size(shape: tuple[int, ...], dtype: np.dtype[Any], max_bytes: float | None) -> None:
    size = int(np.prod([int(s) for s in shape], dtype=object)) * dtype.itemsize
    if max_bytes is not None and size > max_bytes:
        raise MemoryError(
            f"a dense {' x '.join(map(str, shape))} {dtype} array takes {size} bytes "
            f"({size / 2**30:.3g} GiB), more than max_bytes={max_bytes}; use predict(rows, cols) "
            "for the entries you need, or raise max_bytes"
        )


@dataclass(frozen=True, eq=False)
class LowRankMatrix:
    r"""The matrix ``offset + row_bias_i + col_bias_j + u_i·v_j``, kept as factors.

    Parameters
    ----------
    U : ndarray of shape (m, k)
        Row factor, float32 or float64 (other real types are converted). ``k = 0`` is allowed.
    V : ndarray of shape (n, k)
        Column factor; converted to the dtype of `U`.
    offset : float, default=0.0
        Constant added to every entry.
    row_bias : ndarray of shape (m,) or None, default=None
        Added to every entry of a row.
    col_bias : ndarray of shape (n,) or None, default=None
        Added to every entry of a column.

    Raises
    ------
    ProblemError
        The shapes do not fit, or the type is not real.

    Notes
    -----
    The arrays are not copied when they have the right type: do not write to them.

    Examples
    --------
    >>> import numpy as np
    >>> from lowrank_opt.recovery import LowRankMatrix
    >>> X = LowRankMatrix(np.array([[1.0], [2.0]]), np.array([[3.0], [4.0], [5.0]]), offset=0.5)
    >>> X.shape, X.rank
    ((2, 3), 1)
    >>> X.predict([1, 1], [0, 2]).tolist()
    [6.5, 10.5]
    """

    U: NDArray[Any]
    V: NDArray[Any]
    offset: float = 0.0
    row_bias: NDArray[Any] | None = None
    col_bias: NDArray[Any] | None = None

    def __post_init__(self) -> None:
        U = _float_array(self.U, "U", 2)
        V = _float_array(self.V, "V", 2).astype(U.dtype, copy=False)
        if U.shape[1] != V.shape[1]:
            raise ProblemError(
                f"U has shape {U.shape} and V has shape {V.shape}; "
                "expected the same number of columns"
            )
        object.__setattr__(self, "U", U)
        object.__setattr__(self, "V", V)
        object.__setattr__(self, "offset", float(self.offset))
        for name, size in (("row_bias", U.shape[0]), ("col_bias", V.shape[0])):
            bias = getattr(self, name)
            if bias is not None:
                bias = _float_array(bias, name, 1).astype(U.dtype, copy=False)
                if bias.shape != (size,):
                    raise ProblemError(f"{name} has shape {bias.shape}; expected ({size},)")
                object.__setattr__(self, name, bias)

    @property
    def shape(self) -> tuple[int, int]:
        """Number of rows and columns."""
        return self.U.shape[0], self.V.shape[0]

    @property
    def rank(self) -> int:
        """Number of columns of the factors: an upper bound on the rank of ``U @ V.T``."""
        return int(self.U.shape[1])

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the factors."""
        return self.U.dtype

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        arrays = (self.U, self.V, self.row_bias, self.col_bias)
        return sum(a.nbytes for a in arrays if a is not None)

    def __repr__(self) -> str:
        m, n = self.shape
        extra = [f"offset={self.offset:.6g}"] if self.offset else []
        extra += [name for name in ("row_bias", "col_bias") if getattr(self, name) is not None]
        tail = f", {', '.join(extra)}" if extra else ""
        return f"LowRankMatrix({m} x {n}, rank {self.rank}, {self.dtype}{tail})"

    @property
    def T(self) -> LowRankMatrix:  # noqa: N802
        """The transpose; shares memory."""
        return LowRankMatrix(self.V, self.U, self.offset, self.col_bias, self.row_bias)

    def astype(self, dtype: DTypeLike) -> LowRankMatrix:
        """Copy in another floating-point type.

        Parameters
        ----------
        dtype : dtype
            ``float32`` or ``float64``.

        Returns
        -------
        LowRankMatrix
            The same matrix; ``self`` when nothing changes.
        """
        target = np.dtype(dtype)
        if target not in (np.float32, np.float64):
            raise ParameterError(f"dtype={target}; expected float32 or float64")
        if target == self.dtype:
            return self
        bias = [None if b is None else b.astype(target) for b in (self.row_bias, self.col_bias)]
        return LowRankMatrix(self.U.astype(target), self.V.astype(target), self.offset, *bias)

    def predict(
        self, rows: ArrayLike, cols: ArrayLike, *, cold: str = "mean"
    ) -> NDArray[np.floating[Any]]:
        """Entries at the given positions.

        Parameters
        ----------
        rows, cols : array-like of int
            Positions, broadcast against each other; zero-based.
        cold : {"mean", "nan", "error"}, default="mean"
            What to do with a position outside the matrix (a negative one included: it does not
            count from the end). ``"mean"``: offset plus the bias of the side that is known;
            ``"nan"``: NaN; ``"error"``: raise.

        Returns
        -------
        ndarray
            Of the broadcast shape and the dtype of the factors.

        Raises
        ------
        ProblemTypeError
            Positions that are not integers.
        ProblemError
            Positions outside the matrix with ``cold="error"``.

        Notes
        -----
        Cost: ``2·k`` flops an entry; memory a few megabytes beside the answer.
        """
        i, j, known_i, known_j, shape = _pairs(rows, cols, self.shape, cold)
        out = np.zeros(i.size, dtype=self.dtype)
        known = known_i & known_j
        if self.rank and known.any():
            chunk = max(1, _GATHER // self.rank)
            for a in range(0, i.size, chunk):
                part = slice(a, a + chunk)
                np.einsum("pk,pk->p", self.U[i[part]], self.V[j[part]], out=out[part])
            out[~known] = 0.0
        out += out.dtype.type(self.offset)
        for bias, ids, mask in (
            (self.row_bias, i, known_i),
            (self.col_bias, j, known_j),
        ):
            if bias is not None and bias.size:
                out += np.where(mask, bias[ids], 0)
        if cold == "nan":
            out[~known] = np.nan
        return out.reshape(shape)

    def to_dense(self, *, max_bytes: float | None = 2**30) -> NDArray[Any]:
        """The whole matrix as an array.

        Parameters
        ----------
        max_bytes : float or None, default=2**30
            Refuse to allocate more than this; ``None`` for no limit.

        Returns
        -------
        ndarray of shape (m, n)
            In the dtype of the factors.

        Raises
        ------
        MemoryError
            The array would be larger than `max_bytes`; raised before anything is allocated.
        """
        _check_size(self.shape, self.dtype, max_bytes)
        out = self.U @ self.V.T
        out += out.dtype.type(self.offset)
        if self.row_bias is not None:
            out += self.row_bias[:, None]
        if self.col_bias is not None:
            out += self.col_bias
        return out

    def singular_values(self) -> NDArray[np.float64]:
        """Singular values of the factor part ``U @ V.T``, descending, in float64.

        Offset and biases are left out. Taken from the QR factorisations of both factors, so that
        small ones are accurate relative to the largest.

        Returns
        -------
        ndarray of shape (min(m, n, k),)
            The others are zero.

        Notes
        -----
        Cost: ``2·(m + n)·k² + O(k³)`` flops.
        """
        k = min(*self.shape, self.rank)
        if k == 0:
            return np.zeros(0)
        R_u, R_v = (np.linalg.qr(F.astype(np.float64), mode="r") for F in (self.U, self.V))
        return np.linalg.svd(R_u @ R_v.T, compute_uv=False)[:k]

    def __matmul__(self, other: ArrayLike) -> NDArray[Any]:
        """Product with a vector (n,) or a matrix (n, p), without forming the dense matrix."""
        B = np.asarray(other)
        if B.ndim not in (1, 2) or B.shape[0] != self.shape[1]:
            raise ProblemError(
                f"the right operand has shape {B.shape}; expected ({self.shape[1]},) or "
                f"({self.shape[1]}, p)"
            )
        out = self.U @ (self.V.T @ B)
        constant = self.offset * B.sum(axis=0)
        if self.col_bias is not None:
            constant = constant + self.col_bias @ B
        out = out + constant
        if self.row_bias is not None:
            out = out + np.multiply.outer(self.row_bias, B.sum(axis=0))
        return out


@dataclass(frozen=True, eq=False)
class LowRankSamples:
    """Draws of a low-rank matrix from a posterior distribution.

    Parameters
    ----------
    U : ndarray of shape (S, m, k)
        Row factor of each draw, float32 or float64.
    V : ndarray of shape (S, n, k)
        Column factor of each draw.
    alpha : ndarray of shape (S,)
        Noise precision (1 / variance) of each draw, positive.
    offset : float, default=0.0
        Constant added to every entry.
    row_bias : ndarray of shape (S, m) or None, default=None
        Row biases of each draw.
    col_bias : ndarray of shape (S, n) or None, default=None
        Column biases of each draw.

    Raises
    ------
    ProblemError
        The shapes do not fit, there is no draw, or a precision is not positive.
    """

    U: NDArray[Any]
    V: NDArray[Any]
    alpha: NDArray[Any]
    offset: float = 0.0
    row_bias: NDArray[Any] | None = None
    col_bias: NDArray[Any] | None = None

    def __post_init__(self) -> None:
        U = _float_array(self.U, "U", 3)
        V = _float_array(self.V, "V", 3).astype(U.dtype, copy=False)
        alpha = _float_array(self.alpha, "alpha", 1).astype(np.float64, copy=False)
        S, m, k = U.shape
        n = V.shape[1]
        if S == 0 or V.shape != (S, n, k) or alpha.shape != (S,):
            raise ProblemError(
                f"U, V, alpha have shapes {U.shape}, {V.shape}, {alpha.shape}; expected (S, m, k), "
                "(S, n, k), (S,) with S at least 1"
            )
        if not (alpha > 0).all():
            raise ProblemError("alpha has a precision that is not positive; expected all > 0")
        for name, value in (("U", U), ("V", V), ("alpha", alpha), ("offset", float(self.offset))):
            object.__setattr__(self, name, value)
        for name, size in (("row_bias", m), ("col_bias", n)):
            bias = getattr(self, name)
            if bias is not None:
                bias = _float_array(bias, name, 2).astype(U.dtype, copy=False)
                if bias.shape != (S, size):
                    raise ProblemError(f"{name} has shape {bias.shape}; expected ({S}, {size})")
                object.__setattr__(self, name, bias)

    @property
    def n_samples(self) -> int:
        """Number of draws S."""
        return int(self.U.shape[0])

    @property
    def shape(self) -> tuple[int, int]:
        """Number of rows and columns."""
        return self.U.shape[1], self.V.shape[1]

    @property
    def rank(self) -> int:
        """Number of columns of each draw's factors (the mean has up to S times that rank)."""
        return int(self.U.shape[2])

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the factors."""
        return self.U.dtype

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        arrays = (self.U, self.V, self.alpha, self.row_bias, self.col_bias)
        return sum(a.nbytes for a in arrays if a is not None)

    def __len__(self) -> int:
        return self.n_samples

    def __getitem__(self, s: int) -> LowRankMatrix:
        """Draw `s`, sharing memory."""
        biases = [None if b is None else b[s] for b in (self.row_bias, self.col_bias)]
        return LowRankMatrix(self.U[s], self.V[s], self.offset, *biases)

    def __repr__(self) -> str:
        m, n = self.shape
        return f"LowRankSamples({self.n_samples} x ({m} x {n}), rank {self.rank}, {self.dtype})"

    def predict(
        self, rows: ArrayLike, cols: ArrayLike, *, return_std: bool = False, cold: str = "mean"
    ) -> Any:
        """Posterior mean at the given positions, and the predictive standard deviation.

        Parameters
        ----------
        rows, cols : array-like of int
            Positions, broadcast against each other.
        return_std : bool, default=False
            Return also the standard deviation of a new observation there: the variance over the
            draws plus the mean noise variance ``1 / alpha`` (law of total variance).
        cold : {"mean", "nan", "error"}, default="mean"
            As in `LowRankMatrix.predict`. The standard deviation at an unknown position covers
            the known bias and the noise only.

        Returns
        -------
        ndarray or pair of ndarray
            Of the broadcast shape and the dtype of the factors.

        Notes
        -----
        Cost: ``2·S·k`` flops an entry.
        """
        mean: Any = 0.0
        scatter: Any = 0.0
        for s in range(self.n_samples):
            draw = self[s].predict(rows, cols, cold=cold).astype(np.float64)
            # Welford's update: no cancellation when the draws agree.
            delta = draw - mean
            mean = mean + delta / (s + 1)
            scatter = scatter + delta * (draw - mean)
        mean_out = np.asarray(mean).astype(self.dtype)
        if not return_std:
            return mean_out
        variance = scatter / max(self.n_samples - 1, 1) + np.mean(1.0 / self.alpha)
        return mean_out, np.sqrt(variance).astype(self.dtype)

    def to_dense(self, *, max_bytes: float | None = 2**30) -> NDArray[Any]:
        """Posterior mean of the whole matrix as an array; see `LowRankMatrix.to_dense`."""
        _check_size(self.shape, self.dtype, max_bytes)
        out = np.zeros(self.shape, dtype=self.dtype)
        for s in range(self.n_samples):
            out += self[s].to_dense(max_bytes=None)
        out /= self.n_samples
        return out
