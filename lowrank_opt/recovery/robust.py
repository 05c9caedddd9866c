"""Low rank plus sparse: robust PCA, with and without missing entries."""

from __future__ import annotations

import math
import operator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

from lowrank_opt.core.errors import ParameterError, ProblemError
from lowrank_opt.core.problem import Certificate, Problem, digest
from lowrank_opt.recovery import kernels_observations as kernels
from lowrank_opt.recovery._balance import step_square, unit_factors
from lowrank_opt.recovery._samples import check_size, sample, typical_size, typical_square
from lowrank_opt.recovery.certificates import CHUNK, divide
from lowrank_opt.recovery.lowrank import LowRankMatrix
from lowrank_opt.recovery.observations import Observations
from lowrank_opt.recovery.problems import (
    check_finite_start,
    check_not_empty,
    check_observations,
    warn_about_data,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import ArrayLike, NDArray

__all__ = ["LowRankPlusSparse"]

# Huber's constant times the factor that makes a median deviation a standard deviation.
_HUBER = 1.345 * 1.4826
_INLIER = 3.0 * 1.4826
# Where the solver stops, errors of single entries are some ten times the relative step.
_UNDONE = 100.0
# Singular values below this part of the largest one do not count for the numerical rank.
_RANK_CUT = 1e-6


@dataclass(frozen=True, eq=False)
class LowRankPlusSparse(Problem):
    r"""Split a matrix into a part of low rank and a part with few, possibly huge, entries.

    Observed are entries :math:`M_{ij} = L_{ij} + S_{ij} + \text{noise}`, :math:`(i,j) \in \Omega`,
    with L of low rank and S sparse: positions, signs and sizes of its entries are unknown. The
    points are matrices L as factors; S is what L leaves, see `sparse_part`. The objective is

    .. math:: \min_{\operatorname{rank} L \le r} \sum_{(i,j) \in \Omega} w_{ij} |M_{ij} - L_{ij}| .

    Parameters
    ----------
    observations : Observations
        The data. The class methods `from_dense`, `from_sparse` and `from_coo` build it.
    rank : int or "auto", default="auto"
        Rank r, ``1 <= rank <= min(m, n)``; "auto": to be found by the solver, up to `max_rank`.
    outlier_fraction : float or None, default=None
        An upper bound, in [0, 0.5), on the part of the observed entries that S touches. ``None``:
        unknown. Solvers that trim by a fraction need it.
    max_rank : int or None, default=None
        Largest rank that "auto" tries; ``None``: the largest one whose degrees of freedom
        ``r (m + n - r)`` are at most half the number of entries.

    Raises
    ------
    ParameterError
        A parameter is out of range.
    ProblemError
        The values are so large or small that products of them under- or overflow.

    Warns
    -----
    AccuracyWarning
        Rows or columns without observations (L is 0 there); fewer observations than degrees of
        freedom; observations that fall into parts that share no row and no column.

    Notes
    -----
    An explicitly stored zero of a sparse matrix is an observed zero; a missing entry is one that
    is not stored (sparse), or NaN (dense).

    `auto_solver` is :class:`~lowrank_opt.recovery.HuberALS`.

    Examples
    --------
    >>> import numpy as np
    >>> from lowrank_opt.recovery import LowRankPlusSparse
    >>> L = (np.arange(1.0, 21.0)[:, None], np.linspace(1.0, 2.0, 15)[:, None])
    >>> M = L[0] @ L[1].T
    >>> M[3, 4] += 100.0
    >>> problem = LowRankPlusSparse.from_dense(M, rank=1)
    >>> S = problem.sparse_part(L)
    >>> S.nnz, round(float(S[3, 4]), 6)
    (1, 100.0)
    """

    observations: Observations
    rank: int | str = "auto"
    outlier_fraction: float | None = None
    max_rank: int | None = None

    # What solvers of measurements ask for.
    loss = "l1"
    symmetric = False

    def __post_init__(self) -> None:
        check_observations(self.observations, type(self).__name__)
        largest = min(self.observations.shape)
        if self.rank != "auto":
            object.__setattr__(self, "rank", _rank(self.rank, "rank", largest, " or 'auto'"))
            if self.max_rank is not None:
                raise ParameterError(
                    f"max_rank={self.max_rank!r} with rank={self.rank!r}; it goes with rank='auto'"
                )
        elif self.max_rank is not None:
            object.__setattr__(
                self, "max_rank", _rank(self.max_rank, "max_rank", largest, " or None")
            )
        fraction = self.outlier_fraction
        if fraction is not None:
            number = isinstance(fraction, (float, int, np.floating, np.integer))
            if not number or isinstance(fraction, bool) or not 0 <= fraction < 0.5:
                raise ParameterError(
                    f"outlier_fraction={fraction!r}; expected a number in [0, 0.5) or None"
                )
            object.__setattr__(self, "outlier_fraction", float(fraction))
        check_size(self.observations.values, "the observed values")
        warn_about_data(self.observations, 1 if isinstance(self.rank, str) else self.rank)

    # -- construction from user data ------------------------------------------------------------

    @classmethod
    def from_dense(
        cls,
        X: ArrayLike,
        *,
        rank: int | str = "auto",
        weights: ArrayLike | None = None,
        **options: Any,
    ) -> LowRankPlusSparse:
        """From a dense array in which NaN is missing.

        Parameters
        ----------
        X : array-like of shape (m, n)
            Real numbers, NaN = missing (or a masked array).
        rank : int or "auto", default="auto"
            Rank of L.
        weights : array-like of shape (m, n) or None, default=None
            Non-negative weights.
        **options
            The other fields of the class.

        Returns
        -------
        LowRankPlusSparse

        Raises
        ------
        ProblemError
            Bad data; also a row or column without any observation.
        ParameterError
            Bad options.
        """
        observations = Observations.from_dense(X, weights=weights)
        check_not_empty(observations, "remove them")
        return cls(observations, rank, **options)

    @classmethod
    def from_sparse(
        cls,
        X: Any,
        *,
        rank: int | str = "auto",
        weights: Any = None,
        duplicates: str = "error",
        **options: Any,
    ) -> LowRankPlusSparse:
        """From a SciPy sparse matrix, stored = observed; see `Observations.from_sparse`.

        Parameters
        ----------
        X : scipy.sparse matrix or array of shape (m, n)
            Stored entries are observed, explicit zeros included.
        rank : int or "auto", default="auto"
            Rank of L.
        weights : array-like, sparse matrix or None, default=None
            One non-negative weight per stored entry.
        duplicates : {"error", "sum", "mean", "last"}, default="error"
            What to do with repeated positions.
        **options
            The other fields of the class.

        Returns
        -------
        LowRankPlusSparse
        """
        observations = Observations.from_sparse(X, weights=weights, duplicates=duplicates)
        return cls(observations, rank, **options)

    @classmethod
    def from_coo(
        cls,
        rows: ArrayLike,
        cols: ArrayLike,
        values: ArrayLike,
        shape: tuple[int, int] | None = None,
        *,
        rank: int | str = "auto",
        weights: ArrayLike | None = None,
        duplicates: str = "error",
        **options: Any,
    ) -> LowRankPlusSparse:
        """From positions and values; see `Observations.from_coo`.

        Parameters
        ----------
        rows, cols : array-like of int, shape (N,)
            Zero-based positions.
        values : array-like of shape (N,)
            Finite real values.
        shape : tuple of int or None, default=None
            Rows and columns; ``None``: inferred from the largest positions.
        rank : int or "auto", default="auto"
            Rank of L.
        weights : array-like of shape (N,) or None, default=None
            Non-negative weights.
        duplicates : {"error", "sum", "mean", "last"}, default="error"
            What to do with repeated positions.
        **options
            The other fields of the class.

        Returns
        -------
        LowRankPlusSparse
        """
        observations = Observations.from_coo(
            rows, cols, values, shape, weights=weights, duplicates=duplicates
        )
        return cls(observations, rank, **options)

    # -- constants of the problem ---------------------------------------------------------------

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the matrix."""
        return self.observations.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the data, in which solvers compute."""
        return self.observations.dtype

    @property
    def rank_known(self) -> bool:
        """Whether `rank` is a number."""
        return self.rank != "auto"

    @cached_property
    def rank_limit(self) -> int:
        """The rank, or the largest one that "auto" tries."""
        if self.rank != "auto":
            return int(self.rank)
        if self.max_rank is not None:
            return self.max_rank
        m, n = self.shape
        ranks = np.arange(1, min(m, n) + 1)
        return max(1, int(np.count_nonzero(ranks * (m + n - ranks) <= self.observations.nnz / 2)))

    @property
    def targets(self) -> NDArray[Any]:
        """Observed values by rows, ndarray of shape (N,): what `measurements` should give."""
        return self.observations.values

    @cached_property
    def measurements(self) -> Any:
        """The sampling of the observed entries as an operator on matrices."""
        from lowrank_opt.recovery.operators import EntryOperator

        return EntryOperator(self.observations)

    @cached_property
    def value_size(self) -> float:
        """Median of the absolute observed values, of the non-zero ones when most are 0; else 1."""
        return typical_size(self.observations.values)

    @cached_property
    def value_square(self) -> float:
        """Mean square of the observed values, cut off at ten times `value_size`."""
        return typical_square(self.observations.values, self.value_size)

    def robust_scale(self, abs_errors: NDArray[Any]) -> float:
        r"""Threshold :math:`\delta` between noise and gross errors.

        Parameters
        ----------
        abs_errors : ndarray
            Absolute errors of (a sample of) the observed entries.

        Returns
        -------
        float
            ``1.345 · 1.4826 · median``, at least one rounding of `value_size`.
        """
        median = float(np.median(abs_errors)) if abs_errors.size else 0.0
        return max(_HUBER * median, float(np.finfo(self.dtype).eps) * self.value_size)

    def inlier_bound(
        self, x: LowRankMatrix, abs_errors: NDArray[Any], residual: float | None = None
    ) -> float:
        """Size up to which an error counts as noise.

        Parameters
        ----------
        x : LowRankMatrix
            The point.
        abs_errors : ndarray
            Absolute errors of (a sample of) the observed entries there.
        residual : float or None, default=None
            Residual of `x`; ``None``: that of its certificate.

        Returns
        -------
        float
            ``3 · 1.4826 · median``, a few roundings of the data and of `x`, and what `x` leaves
            undone: ``100 · residual`` times the root of `value_square`, at most a thousandth of
            `value_size`.
        """
        if residual is None:
            residual = self.certificate(x).residual
        rounding = 32.0 * max(float(np.finfo(t).eps) for t in (x.dtype, self.dtype))
        undone = min(_UNDONE * residual * math.sqrt(self.value_square), 1e-3 * self.value_size)
        return _INLIER * float(np.median(abs_errors)) + rounding * self.value_size + undone

    # -- oracles --------------------------------------------------------------------------------

    def point(self, x: Any) -> LowRankMatrix:
        """`x` as a `LowRankMatrix` of the problem's shape.

        Parameters
        ----------
        x : LowRankMatrix or tuple of arrays (U, V)
            Without offset and biases.

        Returns
        -------
        LowRankMatrix

        Raises
        ------
        ProblemError
            Another shape, too many columns, or an offset or biases.
        """
        if not isinstance(x, LowRankMatrix):
            if not (isinstance(x, tuple) and len(x) == 2):
                raise ProblemError(
                    f"x is a {type(x).__name__}; expected a LowRankMatrix or a pair (U, V)"
                )
            x = LowRankMatrix(*x)
        # With rank="auto" a point of any rank has a grade: `max_rank` limits the search.
        largest = self.rank_limit if self.rank_known else min(self.shape)
        if x.shape != self.shape or x.rank > largest:
            raise ProblemError(
                f"x has shape {x.shape} and {x.rank} factor columns; expected shape {self.shape} "
                f"and at most {largest} columns"
            )
        if x.offset or x.row_bias is not None or x.col_bias is not None:
            raise ProblemError(
                "x has an offset or biases, which this problem has not; give the pair (U, V)"
            )
        return x

    def start(self, x0: Any) -> LowRankMatrix:
        """`x0` as a point that a solver can start from: finite, in the problem's dtype.

        Parameters
        ----------
        x0 : LowRankMatrix or tuple of arrays (U, V)
            Warm start.

        Returns
        -------
        LowRankMatrix

        Raises
        ------
        ProblemError
            See `point`; or an entry is not finite in the problem's dtype.
        """
        x = self.point(x0)
        with np.errstate(over="ignore"):
            x = x.astype(self.dtype)
        check_finite_start(x)
        return x

    def residual(self, x: Any) -> NDArray[np.float64]:
        """``M - L`` on the observed entries, by rows; ndarray of shape (N,), float64."""
        return self._residual(self.point(x))

    def objective(self, x: Any) -> float:
        """Weighted sum of ``|M - L|`` over the observed entries, in float64.

        Parameters
        ----------
        x : LowRankMatrix or tuple of arrays (U, V)
            The point.

        Returns
        -------
        float

        Notes
        -----
        Cost: ``2·N·k`` flops, 8 bytes an entry.
        """
        sizes = np.abs(self.residual(x))
        weights = self.observations.weights
        return float(sizes.sum() if weights is None else sizes @ weights.astype(np.float64))

    def sparse_part(self, x: Any, *, threshold: float | None = None) -> sp.csr_array:
        """Gross errors that the point implies.

        Parameters
        ----------
        x : LowRankMatrix or tuple of arrays (U, V)
            The low-rank part.
        threshold : float or None, default=None
            Smallest size of a gross error, in units of the data; ``None``: that of the
            certificate's inlier fraction; see `inlier_bound`.

        Returns
        -------
        csr_array of shape (m, n)
            ``M - L`` where its size exceeds `threshold`; other entries are not stored.
        """
        x = self.point(x)
        e = self._residual(x)
        bound = self.inlier_bound(x, np.abs(sample(e))) if threshold is None else threshold
        keep = np.abs(e) > bound
        obs = self.observations
        # Positions of the kept entries inside the compressed rows.
        before = np.concatenate([[0], np.cumsum(keep)])
        return sp.csr_array((e[keep], obs.indices[keep], before[obs.indptr]), shape=self.shape)

    def certificate(self, x: Any) -> Certificate:
        r"""Grade `x` from the data alone, in float64.

        Parameters
        ----------
        x : LowRankMatrix or tuple of arrays (U, V)
            The point.

        Returns
        -------
        Certificate
            See Notes for ``residual``. ``details``: ``inlier_fraction`` (part of the entries with
            ``|M - L|`` up to `inlier_bound`), ``l1_value``, ``numerical_rank`` (singular values
            above ``1e-6`` of the largest, or rounding), ``median_residual`` (over the median of
            ``|M|``), ``huber_delta``, ``rmse`` (root mean squared ``M - L``, gross errors
            included) and ``size_ratio``: the root mean square of all entries of L, observed or
            not, over that of the data (`value_square`). A ratio far above 1 says that the data do
            not determine the other entries: the rank is too high. A point with NaN or infinite
            numbers has an infinite residual.

        Notes
        -----
        *Relative reweighted step.* With :math:`e = M - L`,
        :math:`\delta = 1.345 \cdot 1.4826 \operatorname{median} |e|` (`robust_scale`; over a
        random sample when there are more than 400 000 entries) and
        :math:`\tilde w_{ij} = w_{ij} \min(1, \delta / |e_{ij}|)`, and with :math:`u_i, v_j` the
        rows of orthonormal bases of the column and row space of L,

        .. math:: residual^2 = \Big(\sum_i g_i^\top H_i^{-1} g_i + \text{the same for columns}
                  \Big) \Big/ \Big( s^2 \sum_\Omega \tilde w_{ij} \Big),
                  \quad g_i = \sum_j \tilde w_{ij} e_{ij} v_j, \quad
                  H_i = \Big(\sum_j \tilde w_{ij}\Big) \bar G ,

        with :math:`\bar G` the weighted mean of :math:`v_j v_j^\top` and :math:`s^2` the mean
        square of the data without what gross errors add to it (`value_square`). It is about the
        relative change of L, in the weighted norm, that another round of reweighted least squares
        makes, and 0 at stationary points of the Huber loss with this :math:`\delta`. It depends
        neither on the scale of the data nor on the choice of the factors of L. Singular values
        below ``4 k eps`` of the largest do not count. A point that vanishes altogether is
        stationary, too, and proves nothing: where L is at most rounding beside data that are not
        all zero, the residual is at least 1.

        What it proves is stationarity. Recovery shows in the details: when ``median_residual``
        is at rounding level, more than half of the entries are fitted exactly by a matrix of the
        reported rank, which has far fewer degrees of freedom.

        Cost: ``6·N·k + 16·(m + n)·k²`` flops; 8 bytes an entry.
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
        """Shape, type, parameters and a hash over a sample of the data, as JSON values."""
        obs = self.observations
        return {
            "problem": type(self).__name__,
            "shape": [int(s) for s in self.shape],
            "nnz": obs.nnz,
            "dtype": str(obs.dtype),
            "sha256": digest(obs.indices, obs.values, obs.weights, obs.indptr),
            "rank": self.rank,
            "max_rank": self.max_rank,
            "outlier_fraction": self.outlier_fraction,
        }

    def auto_solver(self) -> tuple[str, dict[str, Any]]:
        """Name and parameters of the default solver."""
        return "HuberALS", {}

    # -- pieces ---------------------------------------------------------------------------------

    def _residual(self, x: LowRankMatrix) -> NDArray[np.float64]:
        obs = self.observations
        out, none = np.empty(obs.nnz), np.empty(0, x.dtype)
        kernels.residuals(
            *(obs.indptr, obs.indices, obs.values),
            *(np.ascontiguousarray(x.U), np.ascontiguousarray(x.V)),
            *(none, none, 0.0, out),
        )
        return out

    def _grade(self, x: LowRankMatrix) -> Certificate:
        obs, size = self.observations, self.value_size
        e = self._residual(x)
        largest = max(float(e.max()), -float(e.min()))
        if not math.isfinite(largest):
            return Certificate(math.inf, "point that is not finite", math.inf)
        sizes = np.abs(sample(e))
        median, delta = float(np.median(sizes)), self.robust_scale(sizes)
        point = unit_factors(x.U, x.V)
        (m, n), r = self.shape, point.left.shape[1]
        left, right = np.zeros((m, r)), np.zeros((n, r))
        rows, cols = np.zeros(m), np.zeros(n)
        l1 = squares = 0.0
        for a, b, part in _blocks(obs):
            error = e[part]
            weights = 1.0 if obs.weights is None else obs.weights[part].astype(np.float64)
            shares = np.abs(error)
            l1 += float((weights * shares).sum())
            w = weights * divide(np.full(shares.shape, delta), np.maximum(shares, delta))
            shares /= largest or 1.0
            squares += float((weights * shares * shares).sum())
            pointers = obs.indptr[a : b + 1] - obs.indptr[a]
            W = sp.csr_array((w, obs.indices[part], pointers), shape=(b - a, n))
            rows[a:b] = W.sum(axis=1)
            cols += np.bincount(obs.indices[part], w, minlength=n)
            W.data = w * (error / size)
            left[a:b] = W @ point.right
            right += W.T @ point.left[a:b]
        square = step_square(left, rows, point.right, cols)
        square += step_square(right, cols, point.left, rows)
        mass = float(rows.sum())
        residual = math.sqrt(square / ((mass or 1.0) * (self.value_square / size / size)))
        eps = max(float(np.finfo(t).eps) for t in (x.dtype, self.dtype))
        if point.vanishes(1.0 / (m * n), size, eps) and obs.values.any():
            residual = max(residual, 1.0)
        bound = self.inlier_bound(x, sizes, residual)
        inliers = sum(np.count_nonzero(np.abs(e[part]) <= bound) for _, _, part in _blocks(obs))
        values = point.values
        cut = max(_RANK_CUT, float(np.finfo(x.dtype).eps) * max(x.shape))
        rank = np.count_nonzero(values > cut * values[0]) if values.size else 0
        spread = float(np.linalg.norm(values / size)) / math.sqrt(m * n)
        return Certificate(
            residual=residual,
            kind="relative reweighted step",
            objective=l1,
            details={
                "inlier_fraction": float(inliers) / obs.nnz,
                "l1_value": l1,
                "numerical_rank": float(rank),
                "median_residual": median / size,
                "huber_delta": delta,
                "rmse": largest * math.sqrt(squares / obs.total_weight),
                "size_ratio": spread / (math.sqrt(self.value_square) / size),
            },
        )


def _blocks(obs: Observations) -> Iterator[tuple[int, int, slice]]:
    """Blocks of whole rows with about as many entries each, and these entries."""
    a, m = 0, obs.shape[0]
    while a < m:
        goal = obs.indptr[a] + 8 * CHUNK
        b = max(a + 1, int(np.searchsorted(obs.indptr, goal, side="right")) - 1)
        yield a, b, slice(int(obs.indptr[a]), int(obs.indptr[b]))
        a = b


def _rank(value: Any, name: str, largest: int, alternative: str) -> int:
    try:
        rank = operator.index(value)
    except TypeError:
        rank = 0
    if isinstance(value, (bool, np.bool_)) or not 1 <= rank <= largest:
        raise ParameterError(
            f"{name}={value!r}; expected an integer from 1 to min(shape) = {largest}{alternative}"
        )
    return rank
