"""Matrix sensing: recover a low-rank matrix from linear measurements."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

from lowrank_opt.core.errors import (
    EfficiencyWarning,
    ParameterError,
    ProblemError,
    ProblemTypeError,
)
from lowrank_opt.core.problem import Certificate, Problem, digest
from lowrank_opt.numerics.kernels_vector import vector_length
from lowrank_opt.recovery._balance import step_square, unit_factors
from lowrank_opt.recovery._samples import (
    check_range,
    check_size,
    typical_size,
    typical_square,
)
from lowrank_opt.recovery.certificates import CHUNK, divide
from lowrank_opt.recovery.kernels_sensing import padded
from lowrank_opt.recovery.lowrank import LowRankMatrix
from lowrank_opt.recovery.observations import (
    _LARGE,
    Observations,
    _check_shape,
    _host,
    _plain,
    _value_dtype,
)
from lowrank_opt.recovery.operators import (
    CallableOperator,
    DenseOperator,
    EntryOperator,
    RankOneOperator,
)
from lowrank_opt.recovery.problems import _warn, check_finite_start, warn_about_data
from lowrank_opt.recovery.robust import _rank

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import ArrayLike, NDArray

__all__ = ["MatrixSensing"]

_LOSSES = ("l1", "squared")
# Huber's constant times the factor that makes a median deviation a standard deviation.
_HUBER = 1.345 * 1.4826
_INLIER = 3.0 * 1.4826
# Where the solver stops, errors of single measurements are some ten times the relative step.
_UNDONE = 100.0
# Mean squares of measurement matrices that leave room for products.
_SQUARES = (1e-200, 1e200)
# Sums of squares of larger targets may overflow in float64.
_LARGEST = 1e145
# Singular values below this part of the largest one do not count for the numerical rank.
_RANK_CUT = 1e-6


@dataclass(frozen=True, eq=False, repr=False)
class MatrixSensing(Problem):
    r"""Recover a matrix of low rank from linear measurements, some of which may be grossly wrong.

    Given are :math:`y_i = \langle A_i, X_\star \rangle` plus noise and outliers,
    :math:`i = 1, \dots, N`. With factors U (m x k) and V (n x k),

    .. math:: \min_{U, V} \frac1N \sum_i \rho(\langle A_i, U V^\top \rangle - y_i),

    and in a symmetric problem V is U: the matrix is square and positive semidefinite.

    Parameters
    ----------
    measurements : object
        The matrices :math:`A_i`. The class methods `from_dense`, `from_rank_one`, `from_entries`
        and `from_callable` build and check it.
    targets : ndarray of shape (N,)
        Data y.
    rank : int or None, default=None
        Number of factor columns k to search with, ``1 <= rank <= min(m, n)``; ``None``: the
        smaller side, that is any rank. It may be far above the rank of the matrix.
    symmetric : bool, default=False
        Whether V is U.
    loss : {"l1", "squared"}, default="l1"
        :math:`\rho(e) = |e|`, which outliers cannot dominate, or :math:`e^2`.

    Raises
    ------
    ParameterError
        A parameter is out of range.
    ProblemError
        The data do not fit together, are not finite, or so large or small that products of them
        under- or overflow.

    Warns
    -----
    AccuracyWarning
        Fewer measurements than a matrix of rank one has degrees of freedom; entries that leave
        rows or columns unseen.
    EfficiencyWarning
        More than 100 MB of dense measurements have to be copied.

    Notes
    -----
    The objective is a mean, so that its size does not depend on the number of measurements.

    `auto_solver` is :class:`~lowrank_opt.recovery.SubgradientMethod` for the l1 loss and
    :class:`~lowrank_opt.recovery.ScaledGD` for the squared one.

    Examples
    --------
    >>> import numpy as np
    >>> from lowrank_opt.recovery import MatrixSensing
    >>> rng = np.random.default_rng(0)
    >>> A, u = rng.standard_normal((60, 4, 4)), np.arange(1.0, 5.0)[:, None]
    >>> y = np.einsum("pij,ij->p", A, u @ u.T)
    >>> y[:6] += 100.0
    >>> problem = MatrixSensing.from_dense(A, y, symmetric=True)
    >>> problem.shape, problem.rank
    ((4, 4), 4)
    >>> certificate = problem.certificate(u)
    >>> certificate.residual < 1e-12, certificate.details["inlier_fraction"]
    (True, 0.9)
    """

    measurements: Any
    targets: NDArray[Any]
    rank: int | None = None
    symmetric: bool = False
    loss: str = "l1"

    def __post_init__(self) -> None:
        if self.loss not in _LOSSES:
            raise ParameterError(
                f"loss={self.loss!r}; expected one of {', '.join(map(repr, _LOSSES))}"
            )
        if not isinstance(self.symmetric, (bool, np.bool_)):
            raise ParameterError(f"symmetric={self.symmetric!r}; expected True or False")
        m, n = self.shape
        if self.symmetric and m != n:
            raise ProblemError(
                f"symmetric=True with matrices of shape {self.shape}; expected a square shape"
            )
        rank = min(m, n) if self.rank is None else _rank(self.rank, "rank", min(m, n), " or None")
        object.__setattr__(self, "rank", rank)
        targets = _targets(self.targets, self.measurements.size, self.dtype)
        object.__setattr__(self, "targets", targets)
        check_size(targets, "targets y")
        largest = float(np.max(np.abs(targets)))
        if self.loss == "squared" and largest > _LARGEST:
            raise ProblemError(
                f"targets y reach {largest:.1e}, whose square overflows; use loss='l1' or remove "
                "these measurements"
            )
        self._check_measurements()
        if isinstance(self.measurements, EntryOperator) and not self.symmetric:
            warn_about_data(self.measurements.observations, 1)
        elif targets.size < (freedom := m if self.symmetric else m + n - 1):
            _warn(
                f"fewer measurements ({targets.size}) than degrees of freedom of a matrix of "
                f"rank one ({freedom}): the solution is not unique; measure more"
            )

    def _check_measurements(self) -> None:
        """Raise when the matrix, about ``|y| / |A_i|``, or squares of the A_i are out of range."""
        operator = self.measurements
        if isinstance(operator, EntryOperator):
            return
        with np.errstate(over="ignore", under="ignore"):
            square = operator.mean_square
        if square == 0.0 and not any(array.any() for array in operator.data):
            return
        m, n = self.shape
        low, high = _SQUARES
        if not low <= square <= high:
            raise ProblemError(
                f"the measurement matrices have entries of mean square {square:.1e}, out of the "
                f"range from {low:g} to {high:g}; divide them and y by their size"
            )
        size = self.value_size / math.sqrt(square * m * n)
        check_range(size, self.dtype, "targets y over the measurement matrices")

    def __repr__(self) -> str:
        extra = ", symmetric" if self.symmetric else ""
        return f"MatrixSensing({self.measurements!r}, rank={self.rank}{extra}, loss={self.loss!r})"

    # -- construction from user data ------------------------------------------------------------

    @classmethod
    def from_dense(
        cls,
        A: ArrayLike,
        y: ArrayLike,
        *,
        shape: tuple[int, int] | None = None,
        rank: int | None = None,
        symmetric: bool = False,
        loss: str = "l1",
    ) -> MatrixSensing:
        """Measurement matrices as an array.

        Parameters
        ----------
        A : array-like of shape (N, m, n) or (N, m * n)
            Finite real numbers. float32 and float64 are kept, float16 becomes float32, integers
            and bool become float64; the type of `A` is that of all computation.
        y : array-like of shape (N,)
            Data, finite real numbers.
        shape : tuple of int or None, default=None
            ``(m, n)``; needed for an array of two dimensions, whose rows are matrices in C order.
        rank, symmetric, loss
            See the class.

        Returns
        -------
        MatrixSensing

        Raises
        ------
        ProblemError
            Shapes that do not fit, no measurement, numbers that are not finite.
        ProblemTypeError
            Object, text or complex arrays; sparse matrices.
        ParameterError
            Bad options.

        Warns
        -----
        EfficiencyWarning
            The array takes over 100 MB and has to be copied.

        Notes
        -----
        The array is used as it is, without a copy, when it is a writable C array of float32 or
        float64 with m n a multiple of 16: do not write to it afterwards. Otherwise it is copied
        once, a few rows at a time.
        """
        A = _array(A, "A")
        if A.ndim not in (2, 3) or A.size == 0:
            raise ProblemError(
                f"A has shape {A.shape}; expected (N, m, n) or (N, m * n) with at least one "
                "measurement and one entry"
            )
        if A.ndim == 3:
            if shape is not None and _check_shape(shape) != A.shape[1:]:
                raise ProblemError(f"shape={shape!r} with A of shape {A.shape}; leave shape out")
            shape = A.shape[1:]
        elif shape is None:
            raise ProblemError(
                f"A has shape {A.shape} and shape=None; give shape=(m, n) or an array of shape "
                "(N, m, n)"
            )
        m, n = _check_shape(shape)
        if m * n * len(A) != A.size:
            raise ProblemError(
                f"A has shape {A.shape} and shape=({m}, {n}); expected rows of {m * n} numbers"
            )
        y = _targets(y, len(A), np.float64)
        operator = DenseOperator(_padded_rows(A, m, n), (m, n))
        return cls(operator, y, rank, symmetric, loss)

    @classmethod
    def from_rank_one(
        cls,
        A: ArrayLike,
        B: ArrayLike | None,
        y: ArrayLike,
        *,
        rank: int | None = None,
        symmetric: bool | None = None,
        loss: str = "l1",
    ) -> MatrixSensing:
        r"""Measurements :math:`y_i = a_i^\top X b_i`.

        Parameters
        ----------
        A : array-like of shape (N, m)
            The vectors a as rows.
        B : array-like of shape (N, n) or None
            The vectors b as rows; ``None``: those of `A`.
        y : array-like of shape (N,)
            Data.
        rank, loss
            See the class.
        symmetric : bool or None, default=None
            See the class; ``None``: whether `B` is ``None``.

        Returns
        -------
        MatrixSensing

        Raises
        ------
        ProblemError
            Shapes that do not fit, no measurement, numbers that are not finite.
        ProblemTypeError
            Object, text or complex arrays; sparse matrices.
        ParameterError
            Bad options.

        Notes
        -----
        The vectors are copied. An iteration of a solver costs a multiple of ``N (m + n) k``; the
        matrices :math:`a_i b_i^\top` are never formed.
        """
        twin = B is None or B is A
        A = _array(A, "A")
        B = A if twin else _array(B, "B")
        for name, F in (("A", A), ("B", B)):
            if F.ndim != 2 or F.size == 0 or len(F) != len(A):
                raise ProblemError(
                    f"{name} has shape {F.shape}; expected (N, side) with one row a measurement"
                    + (f", {len(A)} like A" if name == "B" and A.ndim == 2 else "")
                )
            for a in range(0, len(F), step := max(1, CHUNK // F.shape[1])):
                _check_block(name, F[a : a + step], a, lambda at: f"vector {at[0]}, entry {at[1]}")
        dtype = np.result_type(*(_value_dtype(F.dtype, "A") for F in (A, B)))
        y = _targets(y, len(A), np.float64)
        operator = RankOneOperator.from_vectors(A, B, dtype)
        return cls(operator, y, rank, (B is A) if symmetric is None else symmetric, loss)

    @classmethod
    def from_entries(
        cls,
        rows: ArrayLike,
        cols: ArrayLike,
        values: ArrayLike,
        shape: tuple[int, int] | None = None,
        *,
        weights: ArrayLike | None = None,
        duplicates: str = "error",
        rank: int | None = None,
        symmetric: bool = False,
        loss: str = "l1",
    ) -> MatrixSensing:
        """Entries of the matrix; see `Observations.from_coo`.

        Parameters
        ----------
        rows, cols : array-like of int, shape (N,)
            Zero-based positions.
        values : array-like of shape (N,)
            Finite real values.
        shape : tuple of int or None, default=None
            Rows and columns; ``None``: inferred from the largest positions.
        weights : array-like of shape (N,) or None, default=None
            Non-negative weights of the losses.
        duplicates : {"error", "sum", "mean", "last"}, default="error"
            What to do with repeated positions.
        rank, symmetric, loss
            See the class. A symmetric problem may have the entry (i, j), (j, i) or both.

        Returns
        -------
        MatrixSensing

        Raises
        ------
        ProblemError
            See `Observations.from_coo`.
        ParameterError
            Bad options.
        """
        observations = Observations.from_coo(
            rows, cols, values, shape, weights=weights, duplicates=duplicates
        )
        operator = EntryOperator(observations)
        return cls(operator, observations.values, rank, symmetric, loss)

    @classmethod
    def from_callable(
        cls,
        apply: Callable[[NDArray[Any], NDArray[Any]], Any],
        adjoint: Callable[[NDArray[Any]], Any],
        y: ArrayLike,
        shape: tuple[int, int],
        *,
        rank: int | None = None,
        symmetric: bool = False,
        loss: str = "l1",
    ) -> MatrixSensing:
        r"""Measurements by two functions.

        Parameters
        ----------
        apply : callable
            ``apply(U, V)`` returns the N measurements of :math:`U V^\top`, ndarray of shape (N,).
        adjoint : callable
            ``adjoint(z)`` returns :math:`Z = \sum_i z_i A_i`: an array, a sparse array or a
            :class:`scipy.sparse.linalg.LinearOperator`, with ``Z @ V`` and ``Z.T @ U``.
        y : array-like of shape (N,)
            Data; its type, float32 or float64, is that of the computation.
        shape : tuple of int
            ``(m, n)``.
        rank, symmetric, loss
            See the class.

        Returns
        -------
        MatrixSensing

        Raises
        ------
        ProblemError
            A function returns something of another shape or not finite, or `adjoint` is not the
            adjoint of `apply`; both are tried on random numbers.
        ParameterError
            Bad options.

        Notes
        -----
        The functions are called with float64 for certificates. They should return the same for
        the same input.
        """
        for name, function in (("apply", apply), ("adjoint", adjoint)):
            if not callable(function):
                raise ProblemTypeError(f"{name} is a {type(function).__name__}; expected callable")
        m, n = _check_shape(shape)
        y = _array(y, "y")
        dtype = _value_dtype(y.dtype, "y")
        y = _targets(y, None, dtype)
        operator = CallableOperator(apply, adjoint, (m, n), y.size, dtype)
        _try_functions(operator)
        return cls(operator, y, rank, symmetric, loss)

    # -- constants of the problem ---------------------------------------------------------------

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the matrix."""
        m, n = self.measurements.shape
        return m, n

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the data, in which solvers compute."""
        return self.measurements.dtype

    @property
    def rank_limit(self) -> int:
        """Largest number of factor columns, `rank`."""
        assert self.rank is not None
        return self.rank

    @cached_property
    def value_size(self) -> float:
        """Median of the absolute targets, of the non-zero ones when most are 0; else 1."""
        return typical_size(self.targets)

    @cached_property
    def value_square(self) -> float:
        """Mean square of the targets, cut off at ten times `value_size`."""
        return typical_square(self.targets, self.value_size)

    def robust_scale(self, abs_errors: NDArray[Any]) -> float:
        r"""Threshold :math:`\delta` between noise and gross errors.

        Parameters
        ----------
        abs_errors : ndarray
            Absolute errors of the measurements.

        Returns
        -------
        float
            ``1.345 · 1.4826 · median``, at least one rounding of `value_size`.
        """
        median = float(np.median(abs_errors)) if abs_errors.size else 0.0
        return max(_HUBER * median, float(np.finfo(self.dtype).eps) * self.value_size)

    # -- oracles --------------------------------------------------------------------------------

    def point(self, x: Any) -> LowRankMatrix:
        """`x` as a `LowRankMatrix` of the problem's shape.

        Parameters
        ----------
        x : LowRankMatrix, tuple of arrays (U, V), or array U
            Without offset and biases. A single array, for symmetric problems only, is both
            factors; a pair must be of equal arrays there.

        Returns
        -------
        LowRankMatrix
            In a symmetric problem its `V` is its `U`.

        Raises
        ------
        ProblemError
            Another shape, too many columns, factors that differ in a symmetric problem, or an
            offset or biases.
        """
        if self.symmetric and isinstance(x, np.ndarray):
            x = LowRankMatrix(x, x)
        if not isinstance(x, LowRankMatrix):
            if not (isinstance(x, tuple) and len(x) == 2):
                alone = ", or one array U" if self.symmetric else ""
                raise ProblemError(
                    f"x is a {type(x).__name__}; expected a LowRankMatrix or a pair (U, V){alone}"
                )
            x = LowRankMatrix(*x)
        if x.shape != self.shape or x.rank > self.rank_limit:
            raise ProblemError(
                f"x has shape {x.shape} and {x.rank} factor columns; expected shape {self.shape} "
                f"and at most {self.rank_limit} columns"
            )
        if x.offset or x.row_bias is not None or x.col_bias is not None:
            raise ProblemError(
                "x has an offset or biases, which this problem has not; give the pair (U, V)"
            )
        if self.symmetric and x.V is not x.U:
            if not np.array_equal(x.U, x.V, equal_nan=True):
                raise ProblemError(
                    "x has factors U and V that differ, and the problem is symmetric; give one "
                    "array U"
                )
            x = LowRankMatrix(x.U, x.U)
        return x

    def start(self, x0: Any) -> LowRankMatrix:
        """`x0` as a point that a solver can start from: finite, in the problem's dtype.

        Parameters
        ----------
        x0 : LowRankMatrix, tuple of arrays (U, V), or array U
            Warm start; see `point`.

        Returns
        -------
        LowRankMatrix

        Raises
        ------
        ProblemError
            See `point`; or an entry is not finite in the problem's dtype.
        """
        x = self.point(x0)
        if x.dtype != self.dtype:
            with np.errstate(over="ignore"):
                U = x.U.astype(self.dtype)
                x = LowRankMatrix(U, U if self.symmetric else x.V.astype(self.dtype))
        check_finite_start(x)
        return x

    def residual(self, x: Any) -> NDArray[np.float64]:
        """Errors, measurements of `x` minus targets; ndarray of shape (N,), float64."""
        return self._errors(self.point(x))

    def objective(self, x: Any) -> float:
        """Mean loss of the measurements, in float64.

        Parameters
        ----------
        x : LowRankMatrix, tuple of arrays (U, V), or array U
            The point.

        Returns
        -------
        float

        Notes
        -----
        Cost: one pass over the data.
        """
        return self._mean_loss(self._errors(self.point(x)))

    def gradient(self, x: Any) -> Any:
        """Gradient of the objective in the factors, in float64.

        Parameters
        ----------
        x : LowRankMatrix, tuple of arrays (U, V), or array U
            The point.

        Returns
        -------
        LowRankMatrix or ndarray
            Its ``U`` and ``V`` are the partial derivatives. In a symmetric problem both are the
            derivative in U, and an array when `x` is one. For the l1 loss the sign of 0 is 0.

        Notes
        -----
        Cost: two passes over the data.
        """
        given, x = x, self.point(x)
        e = self._errors(x)
        slope = np.sign(e) if self.loss == "l1" else 2.0 * e
        left, right = self._products(slope * self._weights(1.0 / self.targets.size), x)
        if not self.symmetric:
            return LowRankMatrix(left, right)
        total = left + right
        return total if isinstance(given, np.ndarray) else LowRankMatrix(total, total)

    def certificate(self, x: Any) -> Certificate:
        r"""Grade `x` from the data alone, in float64.

        Parameters
        ----------
        x : LowRankMatrix, tuple of arrays (U, V), or array U
            The point.

        Returns
        -------
        Certificate
            See Notes for ``residual``. ``details``: ``inlier_fraction`` (part of the measurements
            with ``|e| <= 3 · 1.4826 · median |e|``; a few roundings and 100 times what the residual
            says are allowed), ``l1_value`` (mean absolute error), ``rmse``, ``median_residual``
            (median of ``|e|`` over that of ``|y|``), ``huber_delta``, ``numerical_rank`` (singular
            values above ``1e-6`` of the largest, or rounding) and ``balance``, the Frobenius norm
            of ``UᵀU - VᵀV``. A point with NaN or infinite numbers has an infinite residual.

        Notes
        -----
        *Relative reweighted step.* With the errors :math:`e_i = \langle A_i, U V^\top \rangle -
        y_i`, :math:`\delta = 1.345 \cdot 1.4826 \operatorname{median} |e|` (`robust_scale`) and
        weights :math:`w_i = \min(1, \delta / |e_i|)`, or 1 for the squared loss, let
        :math:`Q = \sum_i w_i e_i A_i`, in a symmetric problem its symmetric part. With orthonormal
        bases U and V of the column and row space of the point,

        .. math:: residual^2 = \big(\langle Q V, Q V H_V^{-1} \rangle
                  + \langle Q^\top U, Q^\top U H_U^{-1} \rangle\big) \Big/ \Big(
                  s^2 \sum_i w_i \Big), \quad H_V = c \big(\sum_i w_i\big) V^\top V,

        with :math:`s^2` the mean square of the targets without what gross errors add to it
        (`value_square`; for the squared loss all of the mean square), and c the mean square of an
        entry of the :math:`A_i`, so that H approximates the Gauss-Newton matrix of measurements
        without preferred directions; for entries, H uses the weight sums of rows and columns
        instead (in a symmetric problem their mean), as in
        :meth:`LowRankPlusSparse.certificate
        <lowrank_opt.recovery.LowRankPlusSparse.certificate>`. Singular values of the point below
        ``4 k eps`` of the largest are dropped. The residual is about the relative change of the
        matrix, as seen by the measurements, that another round of reweighted least squares makes.
        It is 0 at stationary points of the Huber loss with this :math:`\delta`, and depends
        neither on the scale of the data nor on the choice of the factors. A point that vanishes
        altogether is stationary, too, and proves nothing: where its measurements are at most
        rounding beside targets that are not all zero, the residual is at least 1.

        What it proves is stationarity. Recovery shows in the details: when ``median_residual``
        is at rounding level, more than half of the measurements are fitted exactly.

        Cost: two passes over the data.
        """
        x = self.point(x)
        try:
            with np.errstate(over="ignore", invalid="ignore"):
                certificate = self._grade(x)
        except np.linalg.LinAlgError:
            pass
        else:
            if math.isfinite(certificate.residual) and math.isfinite(certificate.objective):
                return certificate
        return Certificate(math.inf, "point that is not finite", math.inf)

    def fingerprint(self) -> Mapping[str, Any]:
        """Shape, type, parameters and a hash over a sample of the data, as JSON values.

        The functions of `from_callable` are not part of it.
        """
        return {
            "problem": type(self).__name__,
            "measurements": type(self.measurements).__name__,
            "shape": [int(s) for s in self.shape],
            "size": int(self.targets.size),
            "dtype": str(self.dtype),
            "sha256": digest(self.targets, *self.measurements.data),
            "rank": self.rank,
            "symmetric": bool(self.symmetric),
            "loss": self.loss,
        }

    def auto_solver(self) -> tuple[str, dict[str, Any]]:
        """Name and parameters of the default solver."""
        return ("SubgradientMethod" if self.loss == "l1" else "ScaledGD"), {}

    # -- pieces ---------------------------------------------------------------------------------

    def _errors(self, x: LowRankMatrix) -> NDArray[np.float64]:
        return self.measurements.exact_errors(x.U, x.V, self.targets)

    def _weights(self, factor: float = 1.0) -> Any:
        weights = self.measurements.weights
        return factor if weights is None else factor * weights.astype(np.float64)

    def _mean_loss(self, e: NDArray[np.float64]) -> float:
        return float(np.mean(self._weights() * (np.abs(e) if self.loss == "l1" else e * e)))

    def _products(
        self, z: NDArray[np.float64], x: LowRankMatrix
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        U, V = x.U.astype(np.float64), x.V.astype(np.float64)
        left, right = self.measurements.exact_products(z, U, V)
        return left, right

    def _grade(self, x: LowRankMatrix) -> Certificate:
        e, size, operator = self._errors(x), self.value_size, self.measurements
        sizes, weights = np.abs(e), self._weights()
        largest = float(sizes.max())
        median = float(np.median(sizes))
        delta = self.robust_scale(sizes)
        eps = max(float(np.finfo(t).eps) for t in (x.dtype, self.dtype))
        w = np.broadcast_to(weights, e.shape)
        if self.loss == "l1":
            w = w * divide(np.full(e.shape, delta), np.maximum(sizes, delta))
        point = unit_factors(x.U, x.V)
        U, V = point.left, point.left if self.symmetric else point.right
        left, right = operator.exact_products(w * (e / size), U, V)
        rows, cols = operator.exact_masses(w)
        if self.symmetric:
            left = right = (left + right) / 2.0
            rows = cols = (rows + cols) / 2.0
        square = step_square(left, rows, V, cols) + step_square(right, cols, U, rows)
        unit = float(w.sum()) * (self.value_square / size / size)
        if self.loss == "squared":
            unit = float(w @ np.square(self.targets / size, dtype=np.float64))
        residual = math.sqrt(square / (unit or 1.0))
        if point.vanishes(operator.mean_square, size, eps) and self.targets.any():
            residual = max(residual, 1.0)
        undone = min(_UNDONE * residual * math.sqrt(self.value_square), 1e-3 * size)
        bound = _INLIER * median + 32.0 * eps * size + undone
        values = point.values
        cut = max(_RANK_CUT, float(np.finfo(x.dtype).eps) * max(x.shape))
        rank = np.count_nonzero(values > cut * values[0]) if values.size else 0
        gram_u, gram_v = (F.T @ F for F in (x.U.astype(np.float64), x.V.astype(np.float64)))
        shares = sizes / (largest or 1.0)
        rmse = largest * math.sqrt(float(np.mean(weights * shares**2)) / float(np.mean(weights)))
        step = "reweighted" if self.loss == "l1" else "least-squares"
        return Certificate(
            residual=residual,
            kind=f"relative {step} step",
            objective=self._mean_loss(e),
            details={
                "inlier_fraction": float(np.mean(sizes <= bound)),
                "l1_value": float(np.mean(weights * sizes)),
                "rmse": rmse,
                "median_residual": median / size,
                "huber_delta": delta,
                "numerical_rank": float(rank),
                "balance": float(np.linalg.norm(gram_u - gram_v)),
            },
        )


def _array(value: Any, name: str) -> NDArray[Any]:
    """A NumPy array of real numbers."""
    _host(value, name)
    if sp.issparse(value):
        raise ProblemTypeError(
            f"{name} is a sparse matrix; expected a dense array (for entries use from_entries, for "
            "other sparse measurements from_callable)"
        )
    array = np.asarray(value)
    _value_dtype(array.dtype, name)
    return array


def _check_block(
    name: str, block: NDArray[Any], begin: int, place: Callable[[list[int]], str]
) -> None:
    """Raise when a part of an array, from row `begin` on, has NaN or infinite numbers."""
    finite = np.isfinite(block)
    if not finite.all():
        at = [int(i) for i in np.unravel_index(np.argmin(finite), block.shape)]
        at[0] += begin
        raise ProblemError(
            f"{name}: not finite, the first is {block[at[0] - begin, *at[1:]]} at {place(at)}; "
            "expected finite numbers: remove these measurements"
        )


def _targets(y: Any, size: int | None, dtype: Any) -> NDArray[Any]:
    """Finite targets in the type of the measurements."""
    y = _array(y, "targets")
    if y.ndim != 1 or y.size == 0 or size not in (None, y.size):
        expected = "(N,)" if size is None else f"({size},), one number a measurement"
        raise ProblemError(f"targets y have shape {y.shape}; expected {expected}")
    _check_block("targets y", y, 0, lambda at: f"measurement {at[0]}")
    with np.errstate(over="ignore"):
        out = _plain(y, dtype)
    _check_block(f"targets y in {out.dtype}", out, 0, lambda at: f"measurement {at[0]}")
    return out


def _padded_rows(A: NDArray[Any], m: int, n: int) -> NDArray[Any]:
    """Measurement matrices as rows of whole vector registers, in place where that is possible."""
    dtype = _value_dtype(A.dtype, "A")
    size, width, length = len(A), m * n, vector_length(dtype)
    ready = (
        A.dtype == dtype
        and A.dtype.isnative
        and A.flags.c_contiguous
        and A.flags.writeable
        and width % length == 0
    )
    if ready:
        rows = A.reshape(size, width)
    else:
        wide = length * -(-width // length)
        copied = size * wide * dtype.itemsize
        if copied > _LARGE:
            warnings.warn(
                f"A is copied into rows of {wide} {dtype} numbers ({copied / 1e6:.0f} MB); to "
                "avoid it give a writable C array of float32 or float64 with m * n a multiple of "
                f"{length}",
                EfficiencyWarning,
                stacklevel=3,
            )
        rows = padded(np.empty((0, width)), dtype, size)
    step = max(1, CHUNK // width)
    for a in range(0, size, step):
        block = A[a : a + step].reshape(-1, m, n)
        _check_block("A", block, a, lambda at: f"measurement {at[0]}, entry ({at[1]}, {at[2]})")
        if not ready:
            rows[a : a + step, :width] = block.reshape(-1, width)
    return rows


def _try_functions(operator: CallableOperator) -> None:
    """Raise when the user's functions do not do what they should on random numbers."""
    rng = np.random.default_rng(20232)
    (m, n), size, dtype = operator.shape, operator.size, operator.dtype
    U, V = (rng.standard_normal((s, 2)).astype(dtype) for s in (m, n))
    values = np.asarray(operator.function(U, V))
    if values.shape != (size,) or values.dtype.kind not in "fiub":
        raise ProblemError(
            f"apply(U, V) returned an array of shape {values.shape} and dtype {values.dtype} for "
            f"U {U.shape} and V {V.shape}; expected {size} real numbers, as many as y"
        )
    if not np.isfinite(values).all():
        raise ProblemError("apply(U, V) returned numbers that are not finite for finite factors")
    z = rng.standard_normal(size).astype(dtype)
    Z = operator.adjoint_function(z)
    try:
        left, right = np.asarray(Z @ V), np.asarray(Z.T @ U)
    except (TypeError, ValueError, AttributeError) as error:
        raise ProblemError(
            f"adjoint(z) returned a {type(Z).__name__} that cannot be used as Z @ V with V "
            f"{V.shape} and Z.T @ U with U {U.shape}; expected an array, sparse array or linear "
            f"operator of shape {(m, n)}: {error}"
        ) from error
    if left.shape != (m, 2) or right.shape != (n, 2):
        raise ProblemError(
            f"adjoint(z) returned Z with products Z @ V of shape {left.shape} and Z.T @ U of "
            f"shape {right.shape}; expected Z of shape {(m, n)}"
        )
    forward = float(values.astype(np.float64) @ z)
    slack = math.sqrt(float(np.finfo(dtype).eps)) * float(np.linalg.norm(values)) * math.sqrt(size)
    for name, backward in (("Z @ V", np.vdot(U, left)), ("Z.T @ U", np.vdot(V, right))):
        if not abs(forward - float(backward)) <= slack:
            raise ProblemError(
                "adjoint is not the adjoint of apply: for random U, V, z the sum of "
                f"z * apply(U, V) is {forward!r} and the product with {name} is "
                f"{float(backward)!r}; expected adjoint(z) to return the sum of z_i A_i"
            )
