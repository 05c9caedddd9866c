"""Estimators for data with gross errors, in scikit-learn's style."""

from __future__ import annotations

import dataclasses
import warnings
from numbers import Integral
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.validation import check_array, check_is_fitted, validate_data

from lowrank_opt.core.errors import AccuracyWarning, ParameterError, ProblemError
from lowrank_opt.core.params import (
    COUNT,
    TOLERANCE,
    Interval,
    StrOptions,
    validate_parameters,
)
from lowrank_opt.core.sklearn_bridge import (
    CallbackSupportMixin,
    resolve_solver,
    run_solver,
    with_callbacks,
)
from lowrank_opt.recovery.estimators import PartlyObservedMixin, held_out_errors
from lowrank_opt.recovery.folding import fold_in_robust
from lowrank_opt.recovery.front import METHODS, check_rank_is_given
from lowrank_opt.recovery.lowrank import LowRankMatrix
from lowrank_opt.recovery.observations import Observations
from lowrank_opt.recovery.problems import MatrixCompletion
from lowrank_opt.recovery.robust import LowRankPlusSparse

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from lowrank_opt.core.result import Result

__all__ = ["RobustMatrixFactorization", "RobustPCA"]

_FLOATS = [np.float64, np.float32]
_NAMES = ("huber_als", "subgradient", "scaled_subgradient", "scaled_gd")
_TOL = 1e-6
# Errors of single entries, over the relative step at which the solver stops.
_UNDONE = 100.0
_CONSTRAINTS = {
    "rank": [COUNT, StrOptions({"auto"})],
    "max_rank": [None, COUNT],
    "loss": [StrOptions({"huber", "l1"})],
    "method": [str],
    "max_iter": [None, Interval(Integral, 0, None, closed="left")],
    "center": ["boolean"],
    "cold": [StrOptions({"mean", "nan", "error"})],
    "tol": [None, TOLERANCE],
    "warm_start": ["boolean"],
}


class _GrossErrorsMixin:
    """The fit of the low-rank part, and gross errors and held-out errors of new rows.

    The class has ``_fold_entries(observations)``, the low-rank part of new rows.
    """

    def _split(
        self, observations: Observations, X: Any, x0: LowRankMatrix | None, loss: str = "huber"
    ) -> Result:
        caller, rank, max_rank = type(self).__name__, self.rank, self.max_rank
        validate_parameters(caller, self.get_params(deep=False), _CONSTRAINTS)
        largest = min(observations.shape)
        if rank != "auto" and max_rank is not None:
            raise ParameterError(
                f"{caller}: max_rank={max_rank!r} with rank={rank!r}; it goes with rank='auto'"
            )
        if rank == "auto" and loss == "l1":
            raise ParameterError(
                f"{caller}: rank='auto' with loss='l1'; give a number, or take loss='huber'"
            )
        if rank != "auto" and rank > largest:
            warnings.warn(
                f"{caller}: rank={rank} exceeds the smaller side of the data of shape "
                f"{observations.shape}; {largest} is used",
                UserWarning,
                stacklevel=4,
            )
            rank = largest
        max_rank = None if max_rank is None else min(max_rank, largest)
        split = LowRankPlusSparse(observations, rank, self.outlier_fraction, max_rank)
        problem: Any = split
        if loss == "l1":
            with warnings.catch_warnings():  # `split` has said it
                warnings.simplefilter("ignore", AccuracyWarning)
                problem = MatrixCompletion(observations, rank, loss="l1")
        name, defaults = problem.auto_solver()
        tol = defaults.get("tol", _TOL) if self.tol is None else self.tol
        limit = {} if self.max_iter is None else {"max_iter": self.max_iter}
        solver = resolve_solver(
            self.method if self.solver is None else self.solver,
            choices={"auto": (name, {}), **{method: METHODS[method] for method in _NAMES}},
            argument="method" if self.solver is None else "solver",
            tol=tol,
            n_threads=self.n_threads,
            random_state=self.random_state,
            **limit,
        )
        argument = f"method={self.method!r}" if self.solver is None else f"solver={self.solver!r}"
        check_rank_is_given(caller, argument, type(solver).__name__, rank)
        if x0 is not None and (x0.shape != split.shape or x0.rank > split.rank_limit):
            x0 = None
        result = run_solver(self, solver, problem, X=X, x0=x0)
        sizes = np.abs(split.residual(result.x))
        self._delta = problem.robust_scale(sizes)
        # What the solver left undone is no gross error.
        rest = _UNDONE * min(result.residual, solver.tol) * split.value_size
        self.threshold_ = split.inlier_bound(result.x, sizes) + rest
        gross = split.sparse_part(result.x, threshold=self.threshold_)
        self._gross = gross.astype(observations.dtype)
        self.inlier_fraction_ = 1.0 - self._gross.nnz / observations.nnz
        self.result_, self.n_iter_ = result, max(1, result.nit)
        return result

    def _entries(self, X: Any) -> tuple[Observations | None, int]:
        """Return the observed entries of new rows, if there are any, and the number of rows."""
        check_is_fitted(self)
        X = validate_data(
            self, X, dtype=_FLOATS, accept_sparse=["csr", "csc", "coo"],
            ensure_all_finite="allow-nan", reset=False,
        )  # fmt: skip
        if hasattr(X, "tocsr"):
            return Observations.from_sparse(X) if X.nnz else None, X.shape[0]
        return None if np.isnan(X).all() else Observations.from_dense(X), X.shape[0]

    def sparse_part(self, X: Any) -> sp.csr_array:
        """Return the gross errors of new rows.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n, n_features_in)
            Dense: NaN is missing. Sparse: stored is observed.

        Returns
        -------
        csr_array of shape (n, n_features_in)
            The row minus its low-rank part, where that exceeds ``threshold_``; other entries are
            not stored. ``sparse_part(X) != 0`` is the mask of outliers.
        """
        entries, rows = self._entries(X)
        if entries is None:
            return sp.csr_array((rows, self.n_features_in_), dtype=self._gross.dtype)
        model = self._fold_entries(entries)
        at = entries.rows()
        errors = entries.values - model.predict(at, entries.indices)
        keep = np.abs(errors) > self.threshold_
        return sp.csr_array((errors[keep], (at[keep], entries.indices[keep])), shape=entries.shape)

    def score(self, X: Any, y: Any = None) -> float:
        """Return minus the median absolute error on held-out entries of the rows of `X`.

        Every fifth observed entry of `X` is predicted from the others of its row; the median bears
        gross errors among them.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n, n_features_in)
            Rows.
        y : None
            Ignored.

        Returns
        -------
        float
            At most 0.
        """
        return -float(np.median(np.abs(held_out_errors(self, X))))


class RobustPCA(
    _GrossErrorsMixin,
    CallbackSupportMixin,
    ClassNamePrefixFeaturesOutMixin,
    TransformerMixin,
    BaseEstimator,
):
    r"""Principal components of data with gross errors and missing entries.

    Splits the data into a matrix of low rank and a sparse matrix of gross errors of any size,
    :math:`X = L + S + \text{noise}`; the principal components are those of L. See
    :class:`~lowrank_opt.recovery.LowRankPlusSparse`.

    Parameters
    ----------
    rank : int or "auto", default="auto"
        Number of components; "auto": found by the solver. Cut, with a warning, to the smaller
        side of the data.
    outlier_fraction : float or None, default=None
        An upper bound, in [0, 0.5), on the part of the observed entries that is grossly wrong.
        Only "scaled_gd" needs it.
    max_rank : int or None, default=None
        Largest rank that "auto" tries; ``None``: see
        :class:`~lowrank_opt.recovery.LowRankPlusSparse`.
    center : bool, default=False
        Measure scores from the mean of L instead of from zero. L is the same: its mean is spanned
        by the components, and takes up one direction of `rank`. Nothing is subtracted from the
        data first: their mean is not robust, and with their median the rank would be another.
    method : str, default="auto"
        "auto" or "huber_als", "subgradient", "scaled_subgradient", "scaled_gd" (the last two need
        a number for `rank`), or the name of a solver class.
    solver : Solver or None, default=None
        An instance, used instead of `method`, with its own parameters; it is cloned. Grid search
        reaches them as ``solver__tol`` and so on.
    tol : float or None, default=None
        Tolerance of the solver. ``None``: 1e-6.
    max_iter : int or None, default=None
        Limit on iterations; ``None``: the solver's own.
    warm_start : bool, default=False
        Start the next ``fit`` from the last low-rank part when the shape is the same.
    n_threads : int or None, default=None
        Threads of the solver.
    random_state : int, Generator or None, default=None
        Seed.

    Attributes
    ----------
    components_ : ndarray of shape (rank, n_features_in)
        Principal axes, orthonormal rows, by decreasing singular value. The entry of largest size
        in each is positive.
    singular_values_ : ndarray of shape (rank,)
        Singular values of L, or of L minus its mean with `center`.
    mean_ : ndarray of shape (n_features_in,)
        Mean of the rows of L with `center`, else 0.
    rank_ : int
        Number of components.
    low_rank_ : LowRankMatrix of shape (n_samples, n_features_in)
        L, as factors; ``low_rank_.to_dense()`` is the array.
    sparse_ : csr_array of shape (n_samples, n_features_in)
        S: the observed entries of ``X - L`` above ``threshold_``.
    threshold_ : float
        Least size of a gross error: three standard deviations of the noise as estimated by the
        median of ``|X - L|``, a few roundings, and a hundred
        times what the solver leaves undone (at most `tol`, relative to the data).
    inlier_fraction_ : float
        Part of the observed entries without gross error.
    result_ : Result
        Result of the solver, with its certificate.
    n_iter_ : int
        Iterations.
    n_features_in_ : int
        Columns seen in ``fit``.
    feature_names_in_ : ndarray of str
        Their names, when `X` has some.

    Notes
    -----
    NaN in a dense array is a missing entry. In a sparse matrix a stored entry is observed, stored
    zeros included, and everything else is missing.

    For a clean matrix with full rows :class:`sklearn.decomposition.PCA` fits the same subspace
    faster.

    Examples
    --------
    >>> import numpy as np
    >>> from lowrank_opt.recovery import RobustPCA
    >>> X = np.outer(np.arange(1.0, 21.0), np.linspace(1.0, 2.0, 15))
    >>> X[3, 4], X[0, 0] = 100.0, np.nan
    >>> pca = RobustPCA(random_state=0).fit(X)
    >>> pca.rank_, pca.sparse_.nnz, round(float(pca.low_rank_.predict(0, 0)), 4)
    (1, 1, 1.0)
    """

    def __init__(
        self,
        rank: int | str = "auto",
        *,
        outlier_fraction: float | None = None,
        max_rank: int | None = None,
        center: bool = False,
        method: str = "auto",
        solver: Any = None,
        tol: float | None = None,
        max_iter: int | None = None,
        warm_start: bool = False,
        n_threads: int | None = None,
        random_state: Any = None,
    ) -> None:
        self.rank = rank
        self.outlier_fraction = outlier_fraction
        self.max_rank = max_rank
        self.center = center
        self.method = method
        self.solver = solver
        self.tol = tol
        self.max_iter = max_iter
        self.warm_start = warm_start
        self.n_threads = n_threads
        self.random_state = random_state

    @with_callbacks
    def fit(self, X: Any, y: Any = None) -> RobustPCA:
        """Split the data and find the components.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)
            Dense: NaN is missing. Sparse: stored is observed.
        y : None
            Ignored.

        Returns
        -------
        RobustPCA
            Itself.

        Raises
        ------
        ProblemError
            Data without any observed entry, or with infinite ones.
        ParameterError
            A parameter out of range.
        """
        self._fit(X)
        return self

    def fit_transform(self, X: Any, y: Any = None) -> NDArray[Any]:
        """Fit, and return the scores of the rows of `X`.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)
            Dense: NaN is missing. Sparse: stored is observed.
        y : None
            Ignored.

        Returns
        -------
        ndarray of shape (n_samples, rank)
            Those of the fit. ``transform`` solves for each row by itself, to rounding, and differs
            from them by what the solver left undone: up to some twenty times `tol`, relative to
            the largest score. A smaller `tol` brings the two together.
        """
        return self.fit(X, y).low_rank_.U

    def _fit(self, X: Any) -> None:
        X = validate_data(
            self, X, dtype=_FLOATS, accept_sparse=["csr", "csc", "coo"],
            ensure_all_finite="allow-nan",
        )  # fmt: skip
        sparse = hasattr(X, "tocsr")
        observations = Observations.from_sparse(X) if sparse else Observations.from_dense(X)
        last = self.result_.x if self.warm_start and hasattr(self, "result_") else None
        x = self._split(observations, X, last).x
        U, seen = x.U.astype(np.float64), observations.row_counts > 0
        shift = U[seen].mean(axis=0) if self.center else np.zeros(x.rank)
        (Q_u, R_u), (Q_v, R_v) = (
            np.linalg.qr(F) for F in (np.where(seen[:, None], U - shift, 0.0), x.V.astype(float))
        )
        left, values, right = np.linalg.svd(R_u @ R_v.T)
        axes = right @ Q_v.T
        largest = np.take_along_axis(axes, np.abs(axes).argmax(axis=1)[:, None], axis=1)
        signs = np.where(largest < 0, -1.0, 1.0)
        self.components_ = (signs * axes).astype(x.dtype)
        self.singular_values_ = values.astype(x.dtype)
        self.mean_ = (x.V.astype(np.float64) @ shift).astype(x.dtype)
        scores = (Q_u @ left * (values * signs[:, 0])).astype(x.dtype)
        scores[~seen] = 0.0
        self.rank_, self.sparse_ = x.rank, self._gross
        self.low_rank_ = self._matrix(scores)

    @property
    def _n_features_out(self) -> int:
        return self.rank_

    def _matrix(self, scores: NDArray[Any]) -> LowRankMatrix:
        mean = self.mean_ if self.center else None
        return LowRankMatrix(scores, self.components_.T, col_bias=mean)

    def _fold_entries(self, rows: Observations) -> LowRankMatrix:
        dtype = self.components_.dtype
        if self.center:
            values = rows.values.astype(dtype, copy=False) - self.mean_[rows.indices]
            rows = dataclasses.replace(rows, values=values)
        return self._matrix(fold_in_robust(self.components_.T, rows, self._delta))

    def transform(self, X: Any) -> NDArray[Any]:
        """Return the scores of rows, gross errors in them notwithstanding.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n, n_features_in)
            Dense: NaN is missing. Sparse: stored is observed.

        Returns
        -------
        ndarray of shape (n, rank)
            Each row's Huber regression of its observed entries on the components, with the
            threshold of the fit; 0 for a row without any. A row of the training data gets its
            scores in ``low_rank_``, up to what the solver left undone, see `fit_transform`.
        """
        entries, rows = self._entries(X)
        if entries is None:
            return np.zeros((rows, self.rank_), self.components_.dtype)
        return self._fold_entries(entries).U

    def inverse_transform(self, X: ArrayLike) -> NDArray[Any]:
        """Return the rows of low rank that have given scores.

        Parameters
        ----------
        X : array-like of shape (n, rank)
            Scores.

        Returns
        -------
        ndarray of shape (n, n_features_in)
            Without missing entries and gross errors.
        """
        check_is_fitted(self)
        X = check_array(X, dtype=_FLOATS)
        if X.shape[1] != self.rank_:
            raise ProblemError(f"X has {X.shape[1]} columns; expected rank_={self.rank_} scores")
        return X @ self.components_ + self.mean_

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.input_tags.sparse = True
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        tags.non_deterministic = False
        return tags


class RobustMatrixFactorization(
    _GrossErrorsMixin, PartlyObservedMixin, CallbackSupportMixin, TransformerMixin, BaseEstimator
):
    r"""Matrix factorisation that bears gross errors, for partly observed matrices.

    The model is :math:`X_{ij} \approx u_i \cdot v_j`, but for gross errors of any size at unknown
    positions; it is fitted on the observed entries. It is the sibling of
    :class:`~lowrank_opt.recovery.MatrixFactorization` without ridge and without biases: a bias for
    each row and one for each column are two of the directions that `rank` counts.

    Parameters
    ----------
    rank : int or "auto", default="auto"
        Number of factor columns; "auto": found by the solver. Cut, with a warning, to the smaller
        side of the data.
    loss : {"huber", "l1"}, default="huber"
        "huber": the threshold between noise and gross errors adapts to the errors that are left,
        see :class:`~lowrank_opt.recovery.LowRankPlusSparse`. "l1": the sum of absolute errors, see
        :class:`~lowrank_opt.recovery.MatrixCompletion`; needs a number for `rank`. With noise in
        every entry it is smoothed, which its certificate does not accept: expect a
        ``ConvergenceWarning``.
    outlier_fraction : float or None, default=None
        An upper bound, in [0, 0.5), on the part of the observed entries that is grossly wrong.
        Only "scaled_gd" needs it.
    max_rank : int or None, default=None
        Largest rank that "auto" tries; ``None``: see
        :class:`~lowrank_opt.recovery.LowRankPlusSparse`.
    method : str, default="auto"
        "auto" or "huber_als", "subgradient", "scaled_subgradient", "scaled_gd" (the last two need
        a number for `rank`), or the name of a solver class.
    solver : Solver or None, default=None
        An instance, used instead of `method`, with its own parameters; it is cloned. Grid search
        reaches them as ``solver__tol`` and so on.
    tol : float or None, default=None
        Tolerance of the solver. ``None``: 1e-6, and 1e-9 for "l1" in float64.
    max_iter : int or None, default=None
        Limit on iterations; ``None``: the solver's own.
    cold : {"mean", "nan", "error"}, default="mean"
        Prediction for an unknown row or column: the mean of the fitted matrix over the known rows
        or columns, NaN, or an exception.
    warm_start : bool, default=False
        Start the next ``fit`` from the last model when the shape is the same.
    n_threads : int or None, default=None
        Threads of the solver.
    random_state : int, Generator or None, default=None
        Seed.

    Attributes
    ----------
    components_ : ndarray of shape (rank, n_cols)
        Column factors, transposed.
    row_factors_ : ndarray of shape (n_rows, rank)
        Row factors.
    model_ : LowRankMatrix
        The fitted matrix.
    rank_ : int
        Rank used or found.
    outliers_ : csr_array of shape (n_rows, n_cols)
        The gross errors: observed entries minus the model above ``threshold_``.
    threshold_ : float
        Least size of a gross error: three standard deviations of the noise as estimated by the
        median absolute error, a few roundings, and a hundred
        times what the solver leaves undone (at most `tol`, relative to the data).
    inlier_fraction_ : float
        Part of the observed entries without gross error.
    row_ids_, col_ids_ : ndarray or None
        Names of rows and columns when the data came as (row ids, column ids, values).
    result_ : Result
        Result of the solver, with its certificate.
    n_iter_ : int
        Iterations.
    n_features_in_ : int
        Columns seen in ``fit``.

    Notes
    -----
    A fitted estimator keeps the training data, which ``recommend`` and ``partial_fit`` need.

    An explicitly stored zero of a sparse matrix is an observed zero. In a dense array NaN is
    missing and zeros are observed.

    Examples
    --------
    >>> import numpy as np
    >>> from lowrank_opt.recovery import RobustMatrixFactorization
    >>> X = np.outer(np.arange(1.0, 21.0), np.linspace(1.0, 2.0, 15))
    >>> X[3, 4], X[0, 0] = 100.0, np.nan
    >>> model = RobustMatrixFactorization(random_state=0).fit(X)
    >>> model.predict([0], [0]).round(4).tolist()
    [1.0]
    >>> [int(i[0]) for i in model.outliers_.nonzero()]
    [3, 4]
    """

    def __init__(
        self,
        rank: int | str = "auto",
        *,
        loss: str = "huber",
        outlier_fraction: float | None = None,
        max_rank: int | None = None,
        method: str = "auto",
        solver: Any = None,
        tol: float | None = None,
        max_iter: int | None = None,
        cold: str = "mean",
        warm_start: bool = False,
        n_threads: int | None = None,
        random_state: Any = None,
    ) -> None:
        self.rank = rank
        self.loss = loss
        self.outlier_fraction = outlier_fraction
        self.max_rank = max_rank
        self.method = method
        self.solver = solver
        self.tol = tol
        self.max_iter = max_iter
        self.cold = cold
        self.warm_start = warm_start
        self.n_threads = n_threads
        self.random_state = random_state

    @with_callbacks
    def fit(self, X: Any, y: Any = None, *, weights: Any = None) -> RobustMatrixFactorization:
        """Fit the model.

        Parameters
        ----------
        X : array-like, sparse matrix, or tuple
            Dense with NaN = missing, sparse with stored = observed, (rows, cols, values, shape)
            with zero-based positions, or (row ids, column ids, values) with ids of any sortable
            kind; predictions then take ids.
        y : None
            Ignored.
        weights : array-like or None, default=None
            Non-negative weight of each observation: of the shape of a dense `X`, or one for each
            stored entry of a sparse `X` or each item of a tuple.

        Returns
        -------
        RobustMatrixFactorization
            Itself.

        Raises
        ------
        ProblemError
            Data or weights of wrong shape or not finite.
        ParameterError
            A parameter out of range.
        """
        observations = self._observations(X, reset=True, weights=weights)
        return self._fit(observations, X, None, self._last_model(observations.shape))

    def _fit(
        self, observations: Observations, X: Any, validation: Any, x0: LowRankMatrix | None
    ) -> RobustMatrixFactorization:
        x = self._split(observations, X, x0, self.loss).x
        self._training_, self.n_features_in_ = observations, observations.shape[1]
        self.model_, self.rank_, self.outliers_ = x, x.rank, self._gross
        self.row_factors_, self.components_ = x.U, x.V.T
        return self

    def _complete_start(self, model: LowRankMatrix, observations: Observations) -> LowRankMatrix:
        # Beside an exact fit of the others, zero rows would pass for rows of gross errors.
        factors, sides = [model.U, model.V], (observations, observations.T)
        for side in (0, 1, 0, 1):
            new = ~factors[side].any(axis=1)
            entries = np.repeat(new, sides[side].row_counts)
            if entries.any():
                folded = fold_in_robust(factors[1 - side], sides[side].select(entries), self._delta)
                factors[side] = np.where(new[:, None], folded, factors[side])
        return LowRankMatrix(*factors)

    def predict(self, rows: Any, cols: Any = None) -> NDArray[Any]:
        """Predict entries.

        Parameters
        ----------
        rows : array-like of ids, or array of shape (n, n_features_in)
            Rows by position or id. Without `cols`: new rows, NaN = missing; they are folded in and
            completely predicted.
        cols : array-like or None, default=None
            Columns, broadcast against `rows`.

        Returns
        -------
        ndarray
            Of the broadcast shape, or (n, n_features_in).
        """
        check_is_fitted(self)
        if cols is None:
            if hasattr(rows, "tocsr"):
                raise ProblemError(
                    f"a sparse matrix of shape {rows.shape} without cols: its prediction would be "
                    "dense; give rows and cols, or a dense array with NaN for what is missing"
                )
            return self.transform(rows) @ self.components_
        ids = self._entry_positions(rows, cols)
        model = self.model_
        if self.cold == "mean":
            model = LowRankMatrix(*self._with_means(ids))
        return model.predict(*ids, cold=self.cold)

    def _with_means(self, ids: list[NDArray[Any]]) -> list[NDArray[Any]]:
        """Return the factors with their means as last rows, which unknown `ids` now address."""
        factors = []
        counts = (self._training_.row_counts, self._training_.col_counts)
        for side, (F, n) in enumerate(zip((self.model_.U, self.model_.V), counts, strict=True)):
            integers = ids[side].dtype.kind in "iu"  # others are `LowRankMatrix`'s business
            unknown = (ids[side] < 0) | (ids[side] >= len(F)) if integers else False
            if np.any(unknown):
                ids[side] = np.where(unknown, len(F), ids[side])
                F = np.vstack([F, F[n > 0].mean(axis=0, dtype=np.float64)])
            factors.append(F)
        return factors

    def _fold_entries(self, rows: Observations) -> LowRankMatrix:
        return LowRankMatrix(fold_in_robust(self.model_.V, rows, self._delta), self.model_.V)

    def transform(self, X: Any) -> NDArray[Any]:
        """Return the factors of new rows, gross errors in them notwithstanding.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n, n_features_in)
            Observed entries of the rows.

        Returns
        -------
        ndarray of shape (n, rank)
            Each row's Huber regression on the columns' factors, with the threshold of the fit; 0
            for a row without observations. A training row gives its training factor, to the
            tolerance of the solver, when every observation has weight 1.
        """
        entries, rows = self._entries(X)
        if entries is None:
            return np.zeros((rows, self.rank_), self.model_.dtype)
        return self._fold_entries(entries).U
