"""Matrix completion: data, oracles and certificate."""

from __future__ import annotations

import math
import numbers
import operator
import sys
import warnings
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from lowrank_opt.core.errors import (
    AccuracyWarning,
    ParameterError,
    ProblemError,
    ProblemTypeError,
)
from lowrank_opt.core.problem import Certificate, Problem, digest
from lowrank_opt.recovery import kernels_observations as kernels
from lowrank_opt.recovery._samples import typical_size, typical_square
from lowrank_opt.recovery.certificates import (
    CHUNK,
    LOSSES,
    Side,
    certify_gap,
    certify_samples,
    certify_stationary,
    implicit_terms,
    or_empty,
)
from lowrank_opt.recovery.lowrank import LowRankMatrix, LowRankSamples
from lowrank_opt.recovery.observations import Observations

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import ArrayLike, NDArray

__all__ = ["MatrixCompletion"]


def _warn(message: str) -> None:
    """Warn at the caller's line, however deep inside the package the check is."""
    level, frame = 2, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith(
        "lowrank_opt."
    ):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, AccuracyWarning, stacklevel=level)


def _non_negative(value: Any, name: str) -> float:
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, numbers.Real):
        raise ParameterError(f"{name}={value!r}; expected a real number, at least 0")
    if not (math.isfinite(value) and value >= 0):
        raise ParameterError(f"{name}={value!r}; expected a finite number, at least 0")
    return float(value)


def warn_about_data(
    obs: Observations, rank: int, *, biases: bool = False, reg: float | None = None
) -> None:
    """Warn when the observations cannot determine a matrix of this rank; `reg`: if it has one."""
    no_ridge, cure = ("", "") if reg is None else (" and reg=0", " or give reg > 0")
    empty_rows, empty_cols = (
        int(np.count_nonzero(counts == 0)) for counts in (obs.row_counts, obs.col_counts)
    )
    m, n = obs.shape[0] - empty_rows, obs.shape[1] - empty_cols
    if empty_rows or empty_cols:
        _warn(
            f"{empty_rows} row(s) and {empty_cols} column(s) of {obs.shape} have no "
            "observation: their factors are 0, predictions there are the offset and the bias "
            "of the other side"
        )
    if reg:
        return
    k = min(rank, m, n)
    freedom = k * (m + n - k) + (m + n - 1 if biases else 0)
    if obs.nnz < freedom:
        _warn(
            f"fewer observations ({obs.nnz}) than degrees of freedom ({freedom}){no_ridge}: "
            f"the solution is not unique; lower rank{cure}"
        )
    if obs.n_components > 1:
        _warn(
            f"the observations fall into {obs.n_components} parts that share no row and no "
            f"column{no_ridge}: entries that join two parts are undetermined; complete each "
            f"part by itself{cure}"
        )


def check_not_empty(observations: Observations, cure: str) -> None:
    """Raise when a row or a column of a dense array has no observed entry."""
    for name, counts in (
        ("row", observations.row_counts),
        ("column", observations.col_counts),
    ):
        empty = np.flatnonzero(counts == 0)
        if empty.size:
            raise ProblemError(
                f"X: {empty.size} {name}(s) have no observed entry, the first is {name} "
                f"{empty[0]}; {cure}"
            )


def check_observations(value: Any, name: str) -> None:
    """Raise when the data are not an `Observations`, as when an array is passed by itself."""
    if not isinstance(value, Observations):
        raise ProblemTypeError(
            f"observations is a {type(value).__name__}; expected Observations: use "
            f"{name}.from_dense, from_sparse or from_coo"
        )


def check_finite_start(x: LowRankMatrix) -> None:
    """Raise when a factor or bias of a warm start is not finite."""
    for name in ("U", "V", "row_bias", "col_bias"):
        array = getattr(x, name)
        bad = np.empty(0) if array is None else ~np.isfinite(array)
        if bad.any():
            first = tuple(int(i) for i in np.unravel_index(np.argmax(bad), bad.shape))
            raise ProblemError(
                f"x0.{name}: {np.count_nonzero(bad)} not finite in {x.dtype}, the first at "
                f"{first if len(first) > 1 else first[0]}; leave x0 out to start afresh"
            )


@dataclass(frozen=True, eq=False)
class MatrixCompletion(Problem):
    r"""Complete a matrix of low rank from some of its entries.

    With observed entries :math:`\Omega`, weights :math:`w_{ij} > 0` and the model
    :math:`X_{ij} = \mu + b_i + c_j + u_i \cdot v_j`,

    .. math::
        \min_{U, V, b, c} \sum_{(i,j) \in \Omega} w_{ij}\, \rho(M_{ij} - X_{ij})
        + \mathrm{reg} \Big(\sum_i s_i \|u_i\|^2 + \sum_j t_j \|v_j\|^2\Big)
        + \mathrm{reg\_bias} \Big(\sum_i s_i b_i^2 + \sum_j t_j c_j^2\Big)

    without a factor 1/2, where :math:`\mu` is a constant computed from the data (`offset`),
    :math:`s_i = (\sum_j w_{ij})^{power}` and :math:`t_j` alike for columns.

    With ``penalty="nuclear"`` the problem is the convex one of SoftImpute,

    .. math:: \min_X \tfrac12 \sum_\Omega w_{ij} (M_{ij} - \mu - X_{ij})^2 + \mathrm{reg}\, \|X\|_*,

    and `rank` bounds the rank of the answer. Its value is exactly half the minimum of the first
    form at the same `reg` when `rank` is large enough, because
    :math:`2\|X\|_* = \min_{UV^\top = X} \|U\|_F^2 + \|V\|_F^2`.

    Parameters
    ----------
    observations : Observations
        The data. The class methods `from_dense`, `from_sparse`, `from_coo` and `from_dataframe`
        build it.
    rank : int
        Number of factor columns k, ``1 <= rank <= min(m, n)``.
    reg : float, default=0.0
        Ridge on the factors, or weight of the nuclear norm (then ``reg > 0``).
    reg_bias : float or None, default=None
        Ridge on the biases; ``None`` means `reg`.
    reg_scaling : {"none", "count"} or float, default="none"
        The power of the row and column weight sums (the counts, without weights) in the ridge:
        0, 1 or the number given. "count" is the per-rating regularisation of SGD codes.
    loss : {"squared", "huber", "l1"}, default="squared"
        :math:`\rho(e) = e^2`; :math:`e^2` up to the threshold and
        :math:`2\delta|e| - \delta^2` above it; or :math:`|e|`.
    loss_scale : float or "auto", default="auto"
        Huber's :math:`\delta`. ``"auto"``: ``1.345 · 1.4826 · median |M - median M|`` over the
        observed values (an evenly spaced sample when there are more than 400 000), an upper
        estimate of the noise, since the signal is in it.
    biases : bool, default=False
        Whether the model has row and column biases.
    center : bool or None, default=None
        Whether :math:`\mu` is the weighted mean of the values (their median for the Huber and l1
        losses, over the same sample as above); otherwise 0. ``None`` means ``biases``.
    penalty : {"ridge", "nuclear"}, default="ridge"
        The form of the problem. "nuclear" takes the squared loss, no biases and
        ``reg_scaling="none"``.
    nonnegative : bool, default=False
        Constrain both factors (not the biases) to be at least 0. Not with "nuclear".
    implicit_weight : float, default=0.0
        Weight :math:`\tau` of two more terms, which let what was observed speak as well as the
        values: with B the 0/1 matrix of :math:`\Omega`, add
        :math:`\tau \min_P (\|B - U P^\top\|_F^2 + \mathrm{reg}\, m^{power} \|P\|_F^2)` and the
        same for V with :math:`B^\top`. Needs ``reg > 0``; not with "nuclear", "l1" or
        `nonnegative`.
    row_ids, col_ids : ndarray or None, default=None
        ``row_ids[i]`` is the user's name of row i; set by `from_dataframe`.

    Raises
    ------
    ParameterError
        A parameter is out of range or two do not go together.

    Warns
    -----
    AccuracyWarning
        Rows or columns without observations (their factors are 0); with ``reg=0``: fewer
        observations than degrees of freedom, or observations that fall into several parts that
        share no row and no column.

    Notes
    -----
    An explicitly stored zero of a sparse matrix is an observed zero; a missing entry is one that
    is not stored (sparse), or NaN (dense).

    `auto_solver` chooses

    ==========  =================  ===========================
    penalty     loss               solver
    ==========  =================  ===========================
    "ridge"     "squared"          ``AlternatingMinimization``
    "ridge"     "huber" or "l1"    ``HuberALS`` when `plain`, else ``AlternatingMinimization``
    "nuclear"   "squared"          ``SoftImpute``
    ==========  =================  ===========================

    Examples
    --------
    >>> import numpy as np
    >>> from lowrank_opt.recovery import MatrixCompletion
    >>> X = np.outer([1.0, 2.0, 3.0], [1.0, 1.0, 2.0])
    >>> X[2, 2] = np.nan
    >>> problem = MatrixCompletion.from_dense(X, rank=1, reg=0.1)
    >>> problem.observations.nnz
    8
    """

    observations: Observations
    rank: int
    reg: float = 0.0
    reg_bias: float | None = None
    reg_scaling: str | float = "none"
    loss: str = "squared"
    loss_scale: float | str = "auto"
    biases: bool = False
    center: bool | None = None
    penalty: str = "ridge"
    nonnegative: bool = False
    implicit_weight: float = 0.0
    row_ids: NDArray[Any] | None = field(default=None, repr=False)
    col_ids: NDArray[Any] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        check_observations(self.observations, type(self).__name__)
        m, n = self.observations.shape
        try:
            rank = operator.index(self.rank)
        except TypeError:
            raise ParameterError(f"rank={self.rank!r}; expected an integer") from None
        if isinstance(self.rank, (bool, np.bool_)) or not 1 <= rank <= min(m, n):
            raise ParameterError(
                f"rank={self.rank!r}; expected an integer from 1 to min(shape) = {min(m, n)}"
            )
        reg = _non_negative(self.reg, "reg")
        if self.reg_bias is not None:
            object.__setattr__(self, "reg_bias", _non_negative(self.reg_bias, "reg_bias"))
        for name, allowed in (("loss", tuple(LOSSES)), ("penalty", ("ridge", "nuclear"))):
            value = getattr(self, name)
            if value not in allowed:
                raise ParameterError(
                    f"{name}={value!r}; expected one of {', '.join(map(repr, allowed))}"
                )
        if self.reg_scaling not in ("none", "count"):
            if isinstance(self.reg_scaling, str):
                raise ParameterError(
                    f"reg_scaling={self.reg_scaling!r}; expected 'none', 'count' or a power"
                )
            object.__setattr__(self, "reg_scaling", _non_negative(self.reg_scaling, "reg_scaling"))
        if self.loss_scale != "auto" and (
            isinstance(self.loss_scale, str) or not _non_negative(self.loss_scale, "loss_scale")
        ):
            raise ParameterError(f"loss_scale={self.loss_scale!r}; expected 'auto' or more than 0")
        if self.penalty == "nuclear":
            self._check_nuclear(reg)
        if self.nonnegative and self.loss == "l1":
            raise ParameterError(
                "nonnegative=True with loss='l1', for which there is no certificate; take "
                "loss='huber' with a small loss_scale"
            )
        implicit = _non_negative(self.implicit_weight, "implicit_weight")
        plain = self.penalty == "ridge" and self.loss != "l1" and not self.nonnegative and reg > 0
        if implicit and not plain:
            raise ParameterError(
                f"implicit_weight={implicit!r}; expected 0 with penalty='nuclear', loss='l1', "
                "nonnegative=True or reg=0"
            )
        # `reg_bias` and `center` stay as given: dataclasses.replace(problem, reg=...) then works.
        if self.loss_scale != "auto":
            object.__setattr__(self, "loss_scale", float(self.loss_scale))
        for name, value in (
            ("rank", rank),
            ("reg", reg),
            ("biases", bool(self.biases)),
            ("implicit_weight", implicit),
            ("nonnegative", bool(self.nonnegative)),
        ):
            object.__setattr__(self, name, value)
        warn_about_data(self.observations, self.rank, biases=self.biases, reg=self.reg)

    def _check_nuclear(self, reg: float) -> None:
        if reg == 0:
            raise ParameterError("reg=0 with penalty='nuclear'; expected reg > 0")
        for name, wrong, expected in (
            ("loss", self.loss != "squared", "'squared'"),
            ("biases", self.biases, "False (center=True subtracts the mean)"),
            ("nonnegative", self.nonnegative, "False"),
            ("reg_scaling", self.reg_scaling != "none", "'none'"),
        ):
            if wrong:
                raise ParameterError(
                    f"{name}={getattr(self, name)!r} with penalty='nuclear'; expected {expected}, "
                    "or take penalty='ridge'"
                )

    # -- construction from user data ------------------------------------------------------------

    @classmethod
    def from_dense(
        cls, X: ArrayLike, *, rank: int, weights: ArrayLike | None = None, **options: Any
    ) -> MatrixCompletion:
        """From a dense array in which NaN is missing; see `Observations.from_dense`.

        Parameters
        ----------
        X : array-like of shape (m, n)
            Real numbers, NaN = missing (or a masked array).
        rank : int
            Number of factor columns.
        weights : array-like of shape (m, n) or None, default=None
            Non-negative weights.
        **options
            The other fields of the class: `reg`, `loss`, `biases`, ....

        Returns
        -------
        MatrixCompletion

        Raises
        ------
        ProblemError
            Bad data; also a row or column without any observation when ``reg`` is 0.
        ParameterError
            Bad options.
        """
        observations = Observations.from_dense(X, weights=weights)
        if not options.get("reg", 0.0):
            check_not_empty(observations, "remove them or give reg > 0 (their factors are then 0)")
        return cls(observations, rank, **options)

    @classmethod
    def from_sparse(
        cls,
        X: Any,
        *,
        rank: int,
        weights: Any = None,
        duplicates: str = "error",
        **options: Any,
    ) -> MatrixCompletion:
        """From a SciPy sparse matrix, stored = observed; see `Observations.from_sparse`.

        Parameters
        ----------
        X : scipy.sparse matrix or array of shape (m, n)
            Stored entries are observed, explicit zeros included.
        rank : int
            Number of factor columns.
        weights : array-like, sparse matrix or None, default=None
            One non-negative weight per stored entry.
        duplicates : {"error", "sum", "mean", "last"}, default="error"
            What to do with repeated positions.
        **options
            The other fields of the class.

        Returns
        -------
        MatrixCompletion
        """
        return cls(
            Observations.from_sparse(X, weights=weights, duplicates=duplicates), rank, **options
        )

    @classmethod
    def from_coo(
        cls,
        rows: ArrayLike,
        cols: ArrayLike,
        values: ArrayLike,
        shape: tuple[int, int] | None = None,
        *,
        rank: int,
        weights: ArrayLike | None = None,
        duplicates: str = "error",
        **options: Any,
    ) -> MatrixCompletion:
        """From positions and values; see `Observations.from_coo`.

        Parameters
        ----------
        rows, cols : array-like of int, shape (N,)
            Zero-based positions.
        values : array-like of shape (N,)
            Finite real values.
        shape : tuple of int or None, default=None
            Rows and columns; ``None``: inferred from the largest positions.
        rank : int
            Number of factor columns.
        weights : array-like of shape (N,) or None, default=None
            Non-negative weights.
        duplicates : {"error", "sum", "mean", "last"}, default="error"
            What to do with repeated positions.
        **options
            The other fields of the class.

        Returns
        -------
        MatrixCompletion
        """
        observations = Observations.from_coo(
            rows, cols, values, shape, weights=weights, duplicates=duplicates
        )
        return cls(observations, rank, **options)

    @classmethod
    def from_dataframe(
        cls,
        frame: Any,
        *,
        row: Any,
        col: Any,
        value: Any,
        weight: Any = None,
        rank: int,
        duplicates: str = "error",
        **options: Any,
    ) -> MatrixCompletion:
        """From a table with one line per observed entry and arbitrary ids.

        Parameters
        ----------
        frame : mapping of column name to array-like
            A pandas or polars data frame, a dict of arrays, anything with ``frame[name]``.
        row, col, value : str
            Names of the columns with row ids, column ids (integers, strings, ... that can be
            sorted) and values.
        weight : str or None, default=None
            Name of the column with weights.
        rank : int
            Number of factor columns.
        duplicates : {"error", "sum", "mean", "last"}, default="error"
            What to do with repeated pairs of ids.
        **options
            The other fields of the class.

        Returns
        -------
        MatrixCompletion
            Its ``row_ids`` and ``col_ids`` hold the sorted ids: row i is ``row_ids[i]``.

        Raises
        ------
        ProblemError
            A column is missing, ids are missing or cannot be sorted.
        """
        names = [row, col, value] + ([] if weight is None else [weight])
        columns = []
        for name in names:
            try:
                columns.append(np.asarray(frame[name]))
            except (KeyError, IndexError) as error:
                raise ProblemError(f"frame has no column {name!r}; check its name") from error
        row_ids, rows = _factorize(columns[0], str(row))
        col_ids, cols = _factorize(columns[1], str(col))
        observations = Observations.from_coo(
            rows,
            cols,
            columns[2],
            (max(row_ids.size, 1), max(col_ids.size, 1)),
            weights=None if weight is None else columns[3],
            duplicates=duplicates,
        )
        return cls(observations, rank, row_ids=row_ids, col_ids=col_ids, **options)

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
    def plain(self) -> bool:
        """Whether the model is the bare product of two free factors, without ridge."""
        return (
            self.penalty == "ridge"
            and self.reg == 0
            and not (self.biases or self.offset or self.nonnegative or self.implicit_weight)
        )

    @property
    def rank_known(self) -> bool:
        """Always true: `rank` is a number."""
        return True

    @property
    def rank_limit(self) -> int:
        """The rank."""
        return self.rank

    @property
    def symmetric(self) -> bool:
        """Always false: the factors are two."""
        return False

    @property
    def targets(self) -> NDArray[Any]:
        """Observed values by rows, ndarray of shape (N,): what `measurements` should give."""
        return self.observations.values

    @cached_property
    def measurements(self) -> Any:
        """The sampling of the observed entries as an operator on matrices."""
        from lowrank_opt.recovery.operators import EntryOperator

        return EntryOperator(self.observations)

    def robust_scale(self, abs_errors: NDArray[Any]) -> float:
        r"""Threshold :math:`\delta` of the Huber loss that stands for this loss at given errors.

        Parameters
        ----------
        abs_errors : ndarray
            Absolute errors of (a sample of) the observed entries.

        Returns
        -------
        float
            `huber_delta`, whatever the errors are; for the l1 loss ``0.3 · median``, at least a
            few roundings of the data; infinite for the squared loss.
        """
        if self.loss == "huber":
            return self.huber_delta
        if self.loss == "squared":
            return math.inf
        floor = 10.0 * float(np.finfo(self.dtype).eps) * self.value_size
        return max(0.3 * float(np.median(abs_errors)) if abs_errors.size else 0.0, floor)

    @cached_property
    def value_size(self) -> float:
        """Mean loss of the constant model for the l1 loss; root mean square of the values else."""
        if self.loss == "l1":
            return self.loss_at_zero / self.observations.total_weight or 1.0
        return math.sqrt(self.data_square / self.observations.total_weight) or 1.0

    @cached_property
    def value_square(self) -> float:
        """Mean square of the observed values, cut off at ten times their typical size."""
        values = self.observations.values - self.offset
        return typical_square(values, typical_size(values))

    @property
    def scaling_power(self) -> float:
        """`reg_scaling` as a power."""
        return {"none": 0.0, "count": 1.0}.get(self.reg_scaling, self.reg_scaling)  # type: ignore

    @property
    def bias_reg(self) -> float:
        """`reg_bias` as a number: `reg` when it is ``None``."""
        return self.reg if self.reg_bias is None else self.reg_bias

    @property
    def centered(self) -> bool:
        """`center` as a truth value: `biases` when it is ``None``."""
        return self.biases if self.center is None else bool(self.center)

    @cached_property
    def _sample(self) -> NDArray[np.float64]:
        values = self.observations.values
        step = 1 if values.size <= 400_000 else -(-values.size // 200_000)
        return values[::step].astype(np.float64)

    @cached_property
    def offset(self) -> float:
        r"""The constant :math:`\mu` of the model; 0 unless `centered`."""
        if not self.centered:
            return 0.0
        if self.loss == "squared":
            return self.observations.mean
        return float(np.median(self._sample))

    @cached_property
    def huber_delta(self) -> float:
        r"""Huber's :math:`\delta` as a number (see `loss_scale`)."""
        if not isinstance(self.loss_scale, str):
            return float(self.loss_scale)
        sample = self._sample
        deviation = np.abs(sample - np.median(sample))
        # Most values equal (a binary matrix): the median says nothing, the mean still does.
        scale = float(np.median(deviation)) or float(np.mean(deviation)) or 1.0
        return 1.345 * 1.4826 * scale

    @cached_property
    def row_ridge(self) -> NDArray[np.float64]:
        """Ridge ``reg · s_i`` of each row's factor, ndarray of shape (m,)."""
        return self.reg * self.observations.row_weights**self.scaling_power

    @cached_property
    def col_ridge(self) -> NDArray[np.float64]:
        """Ridge ``reg · t_j`` of each column's factor, ndarray of shape (n,)."""
        return self.reg * self.observations.col_weights**self.scaling_power

    @cached_property
    def row_bias_ridge(self) -> NDArray[np.float64]:
        """Ridge ``reg_bias · s_i`` of each row's bias, ndarray of shape (m,)."""
        return self.bias_reg * self.observations.row_weights**self.scaling_power

    @cached_property
    def col_bias_ridge(self) -> NDArray[np.float64]:
        """Ridge ``reg_bias · t_j`` of each column's bias, ndarray of shape (n,)."""
        return self.bias_reg * self.observations.col_weights**self.scaling_power

    @cached_property
    def loss_at_zero(self) -> float:
        """Sum of the losses of the constant model ``X = offset``; the unit of `certificate`."""
        empty = LowRankMatrix(
            np.zeros((self.shape[0], 0)), np.zeros((self.shape[1], 0)), self.offset
        )
        return self._loss(empty)

    @cached_property
    def loss_curvature(self) -> float:
        r"""Half the curvature of the quadratic that bounds the loss from above.

        1 for the squared and Huber losses; ``1 / (2 mean |M - offset|)`` for the l1 loss, from
        :math:`|e| \\le e^2 / (2 s) + s / 2`.
        """
        if self.loss != "l1" or self.loss_at_zero == 0:
            return 1.0
        return self.observations.total_weight / (2.0 * self.loss_at_zero)

    # -- oracles --------------------------------------------------------------------------------

    def point(self, x: Any) -> LowRankMatrix:
        """`x` as a `LowRankMatrix` of the problem's shape.

        Parameters
        ----------
        x : LowRankMatrix or tuple of arrays (U, V)
            A pair gets the problem's offset and no biases.

        Returns
        -------
        LowRankMatrix

        Raises
        ------
        ProblemError
            Another shape, or more than `rank` columns.
        """
        if not isinstance(x, LowRankMatrix):
            if not (isinstance(x, tuple) and len(x) == 2):
                raise ProblemError(
                    f"x is a {type(x).__name__}; expected a LowRankMatrix or a pair (U, V)"
                )
            x = LowRankMatrix(*x, offset=self.offset)
        if x.shape != self.shape or x.rank > self.rank:
            raise ProblemError(
                f"x has shape {x.shape} and {x.rank} factor columns; expected shape {self.shape} "
                f"and at most {self.rank} columns"
            )
        return x

    def start(self, x0: Any) -> LowRankMatrix:
        """`x0` as a point that a solver can start from: finite, with the problem's offset.

        Parameters
        ----------
        x0 : LowRankMatrix or tuple of arrays (U, V)
            Warm start. With biases, a difference of its offset from the problem's moves to the
            row biases (of rows with observations), so that the matrix stays the same there.

        Returns
        -------
        LowRankMatrix
            In the problem's dtype; without biases when the problem has none.

        Raises
        ------
        ProblemError
            See `point`; an entry is not finite (in the problem's dtype); or the problem has no
            biases and `x0` has another offset or non-zero biases.
        """
        x = self.point(x0)
        with np.errstate(over="ignore"):
            x = x.astype(self.dtype)
        check_finite_start(x)
        if not math.isfinite(x.offset):
            raise ProblemError(f"x0.offset={x.offset}; expected a finite number")
        shift = x.offset - self.offset
        # Means of the same data in another order differ by rounding.
        rounding = 8 * float(np.finfo(self.dtype).eps)
        if abs(shift) <= rounding * max(abs(x.offset), abs(self.offset)):
            shift = 0.0
        if not self.biases:
            if shift:
                raise ProblemError(
                    f"x0 has offset {x.offset:.6g}, the problem {self.offset:.6g} and no biases "
                    "that could make up for it; take biases=True, or give the pair (U, V)"
                )
            for name in ("row_bias", "col_bias"):
                bias = getattr(x, name)
                if bias is not None and bias.any():
                    raise ProblemError(
                        f"x0 has a non-zero {name} and the problem no biases; take biases=True, "
                        "or give the pair (U, V)"
                    )
            return LowRankMatrix(x.U, x.V, self.offset)
        if not shift:
            return LowRankMatrix(x.U, x.V, self.offset, x.row_bias, x.col_bias)
        row_bias = np.where(self.observations.row_counts > 0, shift, 0.0).astype(self.dtype)
        if x.row_bias is not None:
            row_bias += x.row_bias
        return LowRankMatrix(x.U, x.V, self.offset, row_bias, x.col_bias)

    def objective(self, x: Any) -> float:
        """Objective at `x`, accumulated in float64.

        Parameters
        ----------
        x : LowRankMatrix, tuple of arrays (U, V), or LowRankSamples
            The point. The constraint of `nonnegative` is not part of the value. For draws of a
            sampler: the weighted sum of squares of the posterior mean, without ridge.

        Returns
        -------
        float

        Notes
        -----
        Cost: ``2·N·k`` flops; memory some megabytes.
        """
        if isinstance(x, LowRankSamples):
            return certify_samples(self, x).objective
        x = self.point(x)
        if self.penalty == "nuclear":
            return 0.5 * self._loss(x) + self.reg * float(x.singular_values().sum())
        return self._loss(x) + self.ridge(x) + self.implicit(x)

    def residual(self, x: Any) -> NDArray[np.float64]:
        """``M - X`` on the observed entries, by rows; ndarray of shape (N,), float64."""
        x = self.point(x)
        out = np.empty(self.observations.nnz)
        for start, stop, part in self.row_blocks():
            out[part] = self.block_residual(x, start, stop)
        return out

    def gradient(self, x: Any) -> LowRankMatrix:
        """Gradient of the objective in the factors and biases.

        Parameters
        ----------
        x : LowRankMatrix or tuple of arrays (U, V)
            The point.

        Returns
        -------
        LowRankMatrix
            Its ``U``, ``V``, ``row_bias``, ``col_bias`` (``None`` without biases) are the partial
            derivatives, in float64. For the l1 loss the sign of 0 is 0; the nuclear norm is
            differentiable where both factors have full column rank, elsewhere this is one of its
            sub-gradients.

        Notes
        -----
        Cost: ``8·N·k`` flops.
        """
        x = self.point(x)
        nuclear = self.penalty == "nuclear"
        factor = 1.0 if nuclear else 2.0
        parts: list[NDArray[Any]] = []
        biases: list[NDArray[Any] | None] = []
        for side in self.sides(x):
            G = np.empty((side.x.shape[0], x.rank))
            g = np.empty(side.x.shape[0])
            for part, block, bias, _ in side.half_gradients():
                G[part] = factor * block
                g[part] = factor * bias
            parts.append(G)
            biases.append(g if self.biases else None)
        if nuclear:
            for G, slope in zip(parts, _nuclear_slopes(x), strict=True):
                G += self.reg * slope
        return LowRankMatrix(*parts, 0.0, *biases)

    def certificate(self, x: Any) -> Certificate:
        r"""Grade `x` from the data alone, in float64.

        Parameters
        ----------
        x : LowRankMatrix, tuple of arrays (U, V), or LowRankSamples
            The point, or the draws of a sampler.

        Returns
        -------
        Certificate
            See Notes for ``residual``. ``details`` has ``relative_residual`` (weighted norm of
            ``M - X`` on the observed entries over that of ``M - offset``), ``rmse`` (weighted),
            ``numerical_rank`` of ``U @ V.T``, and norms of the gradient's parts. A point with
            NaN or infinite numbers has an infinite residual.

        Notes
        -----
        *Ridge form*: scaled first-order residual. Let g be half the gradient, and approximate the
        Hessian of row i by :math:`H_i = h\, s_i^w \bar G + \mathrm{ridge}_i I` with
        :math:`\bar G = \sum_j t_j^w v_j v_j^\top / \sum_j t_j^w`, :math:`s^w, t^w` the weight
        sums of rows and columns and h the `loss_curvature`. Then

        .. math:: residual^2 = \Big(\sum_i g_i^\top H_i^{-1} g_i + \text{the same for columns}
                  + \text{biases}\Big) \Big/ \sum_\Omega w_{ij}\, \rho(M_{ij} - \mu).

        It is zero exactly at stationary points, has no unit, does not change under
        :math:`M \to cM, \mathrm{reg} \to c\,\mathrm{reg}` (unscaled ridge), under a common factor
        of weights and `reg`, under permutations, nor, for ``reg = 0``, under
        :math:`U \to UG, V \to VG^{-\top}`. Its square approximates the relative decrease of the
        objective that solving every row and every column exactly would bring. It is not the
        distance to a global minimum, which is not known for this non-convex problem; on noiseless
        data see ``relative_residual``, which bounds it up to the incoherence of the factors.

        With `nonnegative`, :math:`H` is replaced by its diagonal D, and g by
        :math:`D (x - \max(x - D^{-1} g, 0))`, so that a negative factor counts as well.

        *l1 loss*: an entry with ``|M - X|`` at most ``1e-6`` (8 eps in float32) of the mean size
        of ``M - offset`` counts as fitted exactly, and its sign may be any number in [-1, 1]:
        g is the best over these, found by conjugate gradients and, where these leave [-1, 1], by
        at most 200 accelerated projected-gradient steps (an upper bound on the distance to the
        sub-differential).

        *Nuclear form*: relative duality gap. With :math:`R = w \circ (M - \mu - X)` on the
        observed entries, :math:`Y = sR` with the best :math:`0 \le s \le reg / \|R\|_2` is
        feasible for the dual, and ``gap = objective - (<Y, M - mu> - 1/2 sum Y^2 / w)``. The
        spectral norm comes from `spectral_norm_bounds`: when a side is at most 2000 (or its Gram
        matrix is smaller than the data) the bound is proved and so is ``gap``; otherwise the norm
        is an inflated Lanczos estimate, ``gap`` is ``None``, ``kind`` says "estimated", and
        ``details["gap_estimate"]`` has the number.

        *Draws of a sampler*: Monte Carlo standard error. Half the difference of the posterior
        means of the first and the second half of the draws, as root mean square over the observed
        entries, relative to that of ``M - offset``.

        Cost: ``8·N·k + 4·(m + n)·k²`` flops; memory some megabytes, in nuclear form 16 bytes
        an entry, with the l1 loss 80 bytes an entry and up to 200 times the flops.
        """
        if isinstance(x, LowRankSamples):
            return certify_samples(self, x)
        x = self.point(x)
        grade = certify_gap if self.penalty == "nuclear" else certify_stationary
        try:
            with np.errstate(over="ignore", invalid="ignore"):
                certificate = grade(self, x)
        except np.linalg.LinAlgError:  # the factors, or their squares, are not finite
            pass
        else:
            if math.isfinite(certificate.residual):
                return certificate
        return Certificate(math.inf, "point that is not finite", math.inf)

    def fingerprint(self) -> Mapping[str, Any]:
        """Shape, type, parameters and a hash over a sample of the data, as JSON values."""
        obs = self.observations
        options = ("rank", "reg", "bias_reg", "reg_scaling", "loss", "loss_scale", "biases")
        return {
            "problem": type(self).__name__,
            "shape": [int(s) for s in self.shape],
            "nnz": obs.nnz,
            "dtype": str(obs.dtype),
            "sha256": digest(obs.indices, obs.values, obs.weights, obs.indptr),
            **{
                name: getattr(self, name)
                for name in (*options, "centered", "penalty", "nonnegative", "implicit_weight")
            },
        }

    def auto_solver(self) -> tuple[str, dict[str, Any]]:
        """Name and parameters of the default solver; the table is in the class's notes."""
        if self.penalty == "nuclear":
            return "SoftImpute", {}
        if self.loss == "squared" or not self.plain:
            return "AlternatingMinimization", {}
        # The certificate of the l1 loss wants errors below 1e-6 to be seen as zero.
        exact = self.loss == "l1" and self.dtype == np.float64
        return "HuberALS", {"tol": 1e-9} if exact else {}

    # -- pieces ---------------------------------------------------------------------------------

    def sides(self, x: LowRankMatrix) -> tuple[Side, Side]:
        """The rows, and the columns, as seen by the certificate."""
        rows, cols = self.row_ridge, self.col_ridge
        if self.penalty == "nuclear":  # its penalty is not a sum over rows
            rows, cols = np.zeros(self.shape[0]), np.zeros(self.shape[1])
        return (
            Side(self, self.observations, x, rows, self.row_bias_ridge),
            Side(self, self.observations.T, x.T, cols, self.col_bias_ridge),
        )

    def row_blocks(self) -> Iterator[tuple[int, int, slice]]:
        """Consecutive blocks of whole rows with their entries, about a megabyte each."""
        indptr, start = self.observations.indptr, 0
        while start < self.shape[0]:
            stop = int(np.searchsorted(indptr, indptr[start] + CHUNK, side="right")) - 1
            stop = min(max(stop, start + 1), self.shape[0])
            yield start, stop, slice(int(indptr[start]), int(indptr[stop]))
            start = stop

    def block_residual(self, x: LowRankMatrix, start: int, stop: int) -> NDArray[np.float64]:
        """``M - X`` on the observed entries of rows ``start:stop``."""
        obs = self.observations
        indptr = obs.indptr[start : stop + 1]
        e = np.empty(int(indptr[-1] - indptr[0]))
        kernels.residuals(
            *(indptr, obs.indices, obs.values),
            *(np.ascontiguousarray(x.U[start:stop]), np.ascontiguousarray(x.V)),
            *(or_empty(x.row_bias, x.dtype)[start:stop], or_empty(x.col_bias, x.dtype)),
            *(x.offset, e),
        )
        return e

    def _loss(self, x: LowRankMatrix) -> float:
        total = 0.0
        for start, stop, part in self.row_blocks():
            size = np.abs(self.block_residual(x, start, stop))
            if self.loss == "squared":
                value = size * size
            elif self.loss == "huber":
                delta = self.huber_delta
                value = np.where(size <= delta, size * size, delta * (2.0 * size - delta))
            else:
                value = size
            if self.observations.weights is not None:
                value *= self.observations.weights[part]
            total += float(value.sum())
        return total

    def implicit(self, x: LowRankMatrix) -> float:
        if not self.implicit_weight:
            return 0.0
        obs = self.observations
        return sum(implicit_terms(self, o, F)[0] for o, F in ((obs, x.U), (obs.T, x.V)))

    def implicit_ridge(self, size: int) -> float:
        """Ridge on the factors of the indicator matrix, which has `size` entries in each row."""
        return self.reg * float(size) ** self.scaling_power

    def ridge(self, x: LowRankMatrix) -> float:
        total = 0.0
        for factor, ridge in ((x.U, self.row_ridge), (x.V, self.col_ridge)):
            total += float(ridge @ np.einsum("ik,ik->i", factor, factor, dtype=np.float64))
        for bias, ridge in ((x.row_bias, self.row_bias_ridge), (x.col_bias, self.col_bias_ridge)):
            if bias is not None:
                total += float(ridge @ np.square(bias, dtype=np.float64))
        return total

    @cached_property
    def data_square(self) -> float:
        """Weighted sum of squares of ``M - offset``."""
        obs, total = self.observations, 0.0
        for a in range(0, obs.nnz, CHUNK):
            y = obs.values[a : a + CHUNK].astype(np.float64) - self.offset
            y *= y
            if obs.weights is not None:
                y *= obs.weights[a : a + CHUNK]
            total += float(y.sum())
        return total


def _nuclear_slopes(x: LowRankMatrix) -> tuple[NDArray[Any], NDArray[Any]]:
    """Derivatives of the nuclear norm of ``U V^T = P S Q^T``: ``P Q^T V`` and ``Q P^T U``."""
    (Q_u, R_u), (Q_v, R_v) = (np.linalg.qr(F.astype(np.float64)) for F in (x.U, x.V))
    left, values, right = np.linalg.svd(R_u @ R_v.T, full_matrices=False)
    keep = values > np.finfo(np.float64).eps * max(x.shape) * values.max(initial=0.0)
    turn = left[:, keep] @ right[keep]
    return Q_u @ (turn @ R_v), Q_v @ (turn.T @ R_u)


def _factorize(ids: NDArray[Any], name: str) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Sorted distinct ids, and the position of each id among them."""
    if ids.ndim != 1:
        raise ProblemError(f"column {name!r} has shape {ids.shape}; expected one dimension")
    if ids.size and ids.dtype.kind in "iu":
        low, high = int(ids.min()), int(ids.max())
        if high - low < 4 * ids.size + 1024:
            seen = np.zeros(high - low + 1, dtype=bool)
            seen[ids - low] = True
            unique = np.flatnonzero(seen)
            return (unique + low).astype(ids.dtype), (np.cumsum(seen) - 1)[ids - low]
    missing = ids != ids
    if ids.dtype == object:
        missing = missing | np.array([i is None for i in ids], dtype=bool)
    if np.any(missing):
        raise ProblemError(
            f"column {name!r} has {np.count_nonzero(missing)} missing id(s), the first at line "
            f"{int(np.argmax(missing))}; remove these lines"
        )
    try:
        unique, inverse = np.unique(ids, return_inverse=True)
    except TypeError as error:
        raise ProblemError(
            f"column {name!r} holds ids that cannot be sorted ({error}); convert them to strings"
        ) from error
    return unique, inverse
