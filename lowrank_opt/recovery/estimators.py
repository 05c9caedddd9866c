"""Estimators in scikit-learn's style: validation, a problem, a solver, attributes."""

from __future__ import annotations

import warnings
from datetime import date
from numbers import Number, Real
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.base import BaseEstimator, OneToOneFeatureMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from lowrank_opt.core.errors import ParameterError, ProblemError
from lowrank_opt.core.params import COUNT, Interval, StrOptions, make_rng, validate_parameters
from lowrank_opt.core.sklearn_bridge import (
    CallbackSupportMixin,
    resolve_solver,
    run_solver,
    with_callbacks,
)
from lowrank_opt.core.state import Status
from lowrank_opt.recovery.folding import best_columns, fold_in, fold_in_samples
from lowrank_opt.recovery.front import METHODS
from lowrank_opt.recovery.lowrank import LowRankMatrix, LowRankSamples
from lowrank_opt.recovery.observations import Observations
from lowrank_opt.recovery.problems import MatrixCompletion

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from lowrank_opt.core.result import Result

__all__ = ["LowRankImputer", "MatrixFactorization"]

_FLOATS = [np.float64, np.float32]
# What the items of a triple are called in messages.
_TRIPLE = ("row ids", "column ids", "values")
# Methods for models with ridge and biases.
_CHOICES = {
    "auto": ("AlternatingMinimization", {}),
    "accurate": ("GibbsFactorization", {}),
    **{name: METHODS[name] for name in ("als", "cg", "sketch", "sgd", "gibbs")},
}
_IMPUTER_CHOICES = {
    name: choice
    for name, choice in {**_CHOICES, "soft_impute": METHODS["soft_impute"]}.items()
    if choice[0] != "GibbsFactorization"
}
# A sampler and a planned schedule of passes end at their limit as intended.
_PLANNED = {
    "GibbsFactorization": (Status.ITERATION_LIMIT,),
    "FactorSGD": (Status.ITERATION_LIMIT,),
}


def _kind(value: Any) -> str:
    """Return what sort of id a value is; ids of different sorts are never equal."""
    for kind, types in (
        ("text", str), ("number", (Number, np.bool_)), ("date", (np.datetime64, date))
    ):  # fmt: skip
        if isinstance(value, types):
            return kind
    return type(value).__name__


def _repeated(columns: dict[str, NDArray[Any]]) -> ProblemError:
    """Return an error that names the first pair of ids which occurs more than once."""
    seen = set()
    for pair in zip(*(columns[name].tolist() for name in _TRIPLE[:2]), strict=True):
        if pair in seen:
            break
        seen.add(pair)
    return ProblemError(
        f"X: row id {pair[0]!r} and column id {pair[1]!r} occur together more than once; expected "
        "each pair once: merge them first, for instance by their mean"
    )


def _usable_rank(estimator: Any, shape: tuple[int, int]) -> int:
    """Return the rank, cut to what the shape allows."""
    largest = min(shape)
    if estimator.rank > largest:
        warnings.warn(
            f"{type(estimator).__name__}: rank={estimator.rank} exceeds the smaller side of the "
            f"data of shape {shape}; {largest} is used",
            UserWarning,
            stacklevel=3,
        )
    return min(estimator.rank, largest)


class _EarlyStopping:
    """Keep the point of least validation error; stop after `patience` worse checks."""

    def __init__(
        self, rows: NDArray[Any], cols: NDArray[Any], values: NDArray[Any], patience: int
    ) -> None:
        self.rows, self.cols, self.values, self.patience = rows, cols, values, patience
        self.scores: list[float] = []
        self.best: Any = None
        self.best_nit = 0

    def __call__(self, intermediate_result: Result) -> None:
        if intermediate_result["nit"] == 0:
            return
        x = intermediate_result.x
        error = x.predict(self.rows, self.cols).astype(np.float64) - self.values
        score = float(np.sqrt(np.mean(error**2)))
        if not self.scores or score < min(self.scores):
            self.best, self.best_nit = x, intermediate_result["nit"]
        self.scores.append(score)
        if len(self.scores) - 1 - int(np.argmin(self.scores)) >= self.patience:
            raise StopIteration


class PartlyObservedMixin:
    """What factorisations of partly observed matrices share: ids, more data, recommendations.

    The class has ``_fit(observations, X, validation, x0)``, which sets ``_training_``, ``model_``,
    ``rank_`` and ``result_``.
    """

    def partial_fit(self, X: Any, y: Any = None, *, weights: Any = None) -> Any:
        """Add observations and go on from the present model.

        New entries join the earlier ones, and replace those at the same position. The first call
        is a ``fit``.

        Row i of a dense or sparse batch is row i of the matrix, not a further row: the batch has
        all columns, and further rows follow the earlier ones, in which NaN (or nothing stored)
        changes nothing. Tuples address any rows, and only they can add columns.

        Parameters
        ----------
        X : array-like, sparse matrix, or tuple
            As in ``fit``; ids only if the first data had ids.
        y : None
            Ignored.
        weights : array-like or None, default=None
            As in ``fit``; ``None``: 1 for each new entry.

        Returns
        -------
        self
            Itself.
        """
        if not hasattr(self, "result_"):
            return self.fit(X, weights=weights)
        old, old_model = self._training_, self._one_model()
        old_ids = (self.row_ids_, self.col_ids_)
        if old_ids[0] is None and isinstance(X, tuple) and len(X) == 3:
            raise ProblemError(
                "X has 3 items, that is (row ids, column ids, values), but the model was fitted "
                "with positions; give (rows, cols, values, shape)"
            )
        new = self._observations(X, reset=False, weights=weights)
        placed = []
        for side, (before, now) in enumerate(
            zip(old_ids, (self.row_ids_, self.col_ids_), strict=True)
        ):
            if before is None:
                placed.append((np.arange(old.shape[side]), np.arange(new.shape[side])))
                continue
            ids = np.union1d(before, now)
            placed.append((np.searchsorted(ids, before), np.searchsorted(ids, now)))
            setattr(self, ("row_ids_", "col_ids_")[side], ids)
        shape = tuple(int(max(a.max(), b.max())) + 1 for a, b in placed)
        parts = [o.weights for o in (old, new)]
        merged_weights = None
        if any(w is not None for w in parts):
            merged_weights = np.concatenate(
                [
                    np.ones(o.nnz, o.dtype) if w is None else w
                    for o, w in zip((old, new), parts, strict=True)
                ]
            )
        merged = Observations.from_coo(
            *(
                np.concatenate([place[0][o], place[1][w]])
                for place, o, w in zip(
                    placed, (old.rows(), old.indices), (new.rows(), new.indices), strict=True
                )
            ),
            np.concatenate([old.values, new.values]),
            shape,
            weights=merged_weights,
            duplicates="last",
        )
        start = _grow(old_model, shape, placed[0][0], placed[1][0])
        return self._fit(merged, X, None, self._complete_start(start, merged))

    def _complete_start(self, model: LowRankMatrix, observations: Observations) -> LowRankMatrix:
        """Return a start of the next fit, given one whose new rows and columns are zero."""
        return model

    def _observations(self, X: Any, *, reset: bool, weights: Any = None) -> Observations:
        """Return the data as observations; ids become positions."""
        if reset:
            self.row_ids_ = self.col_ids_ = None
        if isinstance(X, tuple) and len(X) == 3:
            columns = dict(zip(_TRIPLE, map(np.asarray, X), strict=True))
            if weights is not None:
                columns["weights"] = np.asarray(weights)
            try:
                named = MatrixCompletion.from_dataframe(
                    columns, row=_TRIPLE[0], col=_TRIPLE[1], value=_TRIPLE[2],
                    weight=None if weights is None else "weights", rank=1, reg=1.0,
                )  # fmt: skip
            except ProblemError as error:
                if "repeated" in str(error):
                    raise _repeated(columns) from None
                raise
            self.row_ids_, self.col_ids_ = named.row_ids, named.col_ids
            return named.observations
        if not reset and self.row_ids_ is not None:
            raise ProblemError(
                "X: the model was fitted with ids; give (row ids, column ids, values)"
            )
        if isinstance(X, tuple) and len(X) != 4:
            raise ProblemError(
                f"X is a tuple of {len(X)} items; expected (row ids, column ids, values) or "
                "(rows, cols, values, shape) with zero-based positions"
            )
        if isinstance(X, tuple):
            return Observations.from_coo(*X, weights=weights)
        X = validate_data(
            self, X, dtype=_FLOATS, accept_sparse=["csr", "csc", "coo"],
            ensure_all_finite="allow-nan", reset=reset,
        )  # fmt: skip
        if hasattr(X, "tocsr"):
            return Observations.from_sparse(X, weights=weights)
        return Observations.from_dense(X, weights=weights)

    def _last_model(self, shape: tuple[int, int]) -> LowRankMatrix | None:
        if not (self.warm_start and hasattr(self, "model_")):
            return None
        model = self._one_model()
        return model if model.shape == shape else None

    def _one_model(self) -> LowRankMatrix:
        """Return one pair of factors; of samples, the last draw."""
        return self.model_[-1] if isinstance(self.model_, LowRankSamples) else self.model_

    def _entry_positions(self, rows: ArrayLike, cols: ArrayLike) -> list[NDArray[Any]]:
        """Return positions of rows and columns to predict; `cold` says what unknown ones do."""
        found = []
        for name, ids, known in (("rows", rows, self.row_ids_), ("cols", cols, self.col_ids_)):
            found.append(self._positions(ids, known, name))
            if known is not None and self.cold == "error" and np.any(found[-1] < 0):
                first = np.atleast_1d(np.asarray(ids))[np.atleast_1d(found[-1]) < 0][0]
                raise ProblemError(
                    f"{name}: id {first!r} was not in the training data; expected known ids, or "
                    "cold='mean' or 'nan'"
                )
        return found

    def _positions(
        self, ids: ArrayLike, known: NDArray[Any] | None, name: str = "rows"
    ) -> NDArray[Any]:
        """Return positions of ids; -1 for unknown ones."""
        ids = np.asarray(ids)
        if known is None:
            return ids
        expected = _kind(known[0])
        other = [
            i for i in (ids.flat if ids.dtype == object else ids.flat[:1]) if _kind(i) != expected
        ]
        if other:
            raise ProblemError(
                f"{name}: {other[0]!r} is a {_kind(other[0])}, the ids that the model was fitted "
                f"with are each a {expected}, the first is {known[0]!r}; give ids of that kind"
            )
        position = np.minimum(np.searchsorted(known, ids), len(known) - 1)
        return np.where(known[position] == ids, position, -1)

    def get_feature_names_out(self, input_features: Any = None) -> NDArray[np.object_]:
        """Return names of the columns of ``transform``."""
        check_is_fitted(self)
        prefix = type(self).__name__.lower()
        return np.asarray([f"{prefix}{i}" for i in range(self.rank_)], dtype=object)

    def recommend(
        self, rows: ArrayLike, n: int = 10, *, exclude_seen: bool = True
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return the columns with the highest predictions for known rows.

        Parameters
        ----------
        rows : array-like of ids
            Rows of the training data.
        n : int, default=10
            Columns a row.
        exclude_seen : bool, default=True
            Leave out the training entries of the row.

        Returns
        -------
        columns : ndarray of shape (len(rows), n)
            Positions (-1: none left) or ids, best first.
        scores : ndarray of shape (len(rows), n)
            Predictions.
        """
        check_is_fitted(self)
        validate_parameters("recommend", {"n": n}, {"n": [COUNT]})
        positions = np.atleast_1d(self._positions(rows, self.row_ids_))
        unknown = (positions < 0) | (positions >= self.model_.shape[0])
        if unknown.any():
            first = np.atleast_1d(np.asarray(rows, dtype=object))[unknown][0]
            raise ProblemError(f"rows: {first!r} was not in the training data")
        seen = self._training_ if exclude_seen else None
        columns, scores = best_columns(_mean(self.model_), positions, n, seen)
        if self.col_ids_ is None:
            return columns, scores
        named = np.asarray(self.col_ids_, dtype=object)[columns]
        named[columns < 0] = None
        return named, scores

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.input_tags.sparse = True
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        tags.non_deterministic = False
        return tags


class MatrixFactorization(
    PartlyObservedMixin, CallbackSupportMixin, TransformerMixin, BaseEstimator
):
    r"""Matrix factorisation with biases for ratings and other partly observed matrices.

    The model is :math:`X_{ij} \approx \mu + b_i + c_j + u_i \cdot v_j`, fitted on the observed
    entries; see :class:`~lowrank_opt.recovery.MatrixCompletion` for the objective.

    Parameters
    ----------
    rank : int, default=10
        Number of factor columns. Cut, with a warning, to the smaller side of the data.
    loss : {"squared", "huber", "l1"}, default="squared"
        Loss of an observed entry.
    loss_scale : float or "auto", default="auto"
        Threshold of the Huber loss, as in :class:`~lowrank_opt.recovery.MatrixCompletion`.
    reg : float, default=0.1
        Ridge on the factors.
    reg_bias : float or None, default=None
        Ridge on the biases; ``None``: the same.
    reg_scaling : {"count", "none"} or float, default="count"
        Power of a row's number of entries that multiplies its ridge; "count" is the convention of
        stochastic gradient codes and of weighted-λ alternating least squares.
    biases : bool, default=True
        Row and column biases.
    center : bool, default=True
        Subtract the mean of the observed entries.
    nonnegative : bool, default=False
        Non-negative factors; usually with ``biases=False, center=False``.
    implicit_weight : float, default=0.0
        Weight of the co-factorised indicator matrix of what was observed.
    method : str, default="auto"
        "auto" or "als" (alternating minimisation), "cg", "sketch", "sgd" (fastest per pass),
        "accurate" or "gibbs" (posterior mean of a Bayesian model, predictive deviations, no ridge
        to tune), or the name of a solver class.
    solver : Solver or None, default=None
        An instance, used instead of `method`, with its own parameters; it is cloned. Grid search
        reaches them as ``solver__tol`` and so on.
    tol : float, default=1e-4
        Tolerance of the solver.
    max_iter : int, default=100
        Limit on sweeps, passes or draws.
    early_stopping : bool, default=False
        Keep `validation_fraction` of the entries out, stop when their error has not fallen for
        `patience` sweeps, and return the best model. Entries passed to ``fit`` as `validation`
        are used instead when given.
    validation_fraction : float, default=0.05
        In (0, 1).
    patience : int, default=3
        At least 1.
    cold : {"mean", "nan", "error"}, default="mean"
        Prediction for an unknown row or column: mean and known bias, NaN, or an exception.
    warm_start : bool, default=False
        Start the next ``fit`` from the last model when the shape is the same.
    n_threads : int or None, default=None
        Threads of the solver.
    random_state : int, Generator or None, default=None
        Seed.

    Attributes
    ----------
    components_ : ndarray of shape (rank, n_cols)
        Column factors, transposed (for "accurate" those of the last draw: the draws differ by
        rotations, so that a mean of factors means nothing).
    row_factors_ : ndarray of shape (n_rows, rank)
        Row factors.
    row_bias_, col_bias_ : ndarray or None
        Biases.
    offset_ : float
        The constant.
    model_ : LowRankMatrix or LowRankSamples
        The fitted matrix.
    rank_ : int
        Rank used.
    row_ids_, col_ids_ : ndarray or None
        Names of rows and columns when the data came as (row ids, column ids, values).
    validation_scores_ : list of float or None
        Root mean squared validation error of every sweep.
    result_ : Result
        Result of the solver, with its certificate.
    n_iter_ : int
        Iterations.
    n_features_in_ : int
        Columns seen in ``fit``.

    Notes
    -----
    A fitted estimator keeps the training data, which ``recommend`` and ``partial_fit`` need; after
    early stopping without `validation`, also the part of it that was fitted.

    An explicitly stored zero of a sparse matrix is an observed zero. In a dense array NaN is
    missing and zeros are observed.

    Examples
    --------
    >>> from lowrank_opt.recovery import MatrixFactorization
    >>> rows = ["ann", "ann", "bob", "bob", "cid", "cid"]
    >>> cols = ["tea", "rum", "tea", "gin", "rum", "gin"]
    >>> values = [5.0, 1.0, 4.0, 2.0, 1.0, 2.0]
    >>> model = MatrixFactorization(rank=1, random_state=0).fit((rows, cols, values))
    >>> bool(model.predict(["cid"], ["tea"])[0] > model.predict(["ann"], ["gin"])[0])
    True
    """

    def __init__(
        self,
        rank: int = 10,
        *,
        loss: str = "squared",
        loss_scale: float | str = "auto",
        reg: float = 0.1,
        reg_bias: float | None = None,
        reg_scaling: str | float = "count",
        biases: bool = True,
        center: bool = True,
        nonnegative: bool = False,
        implicit_weight: float = 0.0,
        method: str = "auto",
        solver: Any = None,
        tol: float = 1e-4,
        max_iter: int = 100,
        early_stopping: bool = False,
        validation_fraction: float = 0.05,
        patience: int = 3,
        cold: str = "mean",
        warm_start: bool = False,
        n_threads: int | None = None,
        random_state: Any = None,
    ) -> None:
        self.rank = rank
        self.loss = loss
        self.loss_scale = loss_scale
        self.reg = reg
        self.reg_bias = reg_bias
        self.reg_scaling = reg_scaling
        self.biases = biases
        self.center = center
        self.nonnegative = nonnegative
        self.implicit_weight = implicit_weight
        self.method = method
        self.solver = solver
        self.tol = tol
        self.max_iter = max_iter
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.patience = patience
        self.cold = cold
        self.warm_start = warm_start
        self.n_threads = n_threads
        self.random_state = random_state

    # -- fitting ---------------------------------------------------------------------------------

    @with_callbacks
    def fit(
        self,
        X: Any,
        y: Any = None,
        *,
        weights: Any = None,
        validation: tuple[Any, Any, Any] | None = None,
    ) -> MatrixFactorization:
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
            stored entry of a sparse `X` or each item of a tuple. They count in the fit and not in
            the validation error.
        validation : tuple (rows, cols, values) or None, default=None
            Entries for early stopping, by position or id as in `X`; all of them known.

        Returns
        -------
        MatrixFactorization
            Itself.

        Raises
        ------
        ProblemError
            Data, weights or validation entries of wrong shape, not finite or unknown.
        ParameterError
            A parameter out of range, or early stopping with a sampler, whose draws are averaged.
        """
        observations = self._observations(X, reset=True, weights=weights)
        return self._fit(observations, X, validation, self._last_model(observations.shape))

    def _fit(
        self, observations: Observations, X: Any, validation: Any, x0: LowRankMatrix | None
    ) -> MatrixFactorization:
        self._check_parameters()
        self._training_, self.n_features_in_ = observations, observations.shape[1]
        stopper, observations = self._validation_split(observations, validation)
        problem = MatrixCompletion(
            observations,
            _usable_rank(self, observations.shape),
            reg=self.reg,
            reg_bias=self.reg_bias,
            reg_scaling=self.reg_scaling,
            loss=self.loss,
            loss_scale=self.loss_scale,
            biases=self.biases,
            center=self.center,
            nonnegative=self.nonnegative,
            implicit_weight=self.implicit_weight,
        )
        solver = resolve_solver(
            self.method if self.solver is None else self.solver,
            choices=_CHOICES,
            argument="method" if self.solver is None else "solver",
            tol=self.tol,
            max_iter=self.max_iter,
            n_threads=self.n_threads,
            random_state=self.random_state,
        )
        sampler = type(solver).__name__ == "GibbsFactorization"
        if sampler and stopper is not None:
            raise ParameterError(
                "early_stopping (or validation data) with GibbsFactorization: its draws are "
                "averaged, and no draw is better than a later one; expected early_stopping=False "
                "and no validation data"
            )
        if x0 is not None and (sampler or x0.rank > problem.rank):
            x0 = None
        if x0 is not None and not self.biases:
            x0 = (x0.U, x0.V)  # with the offset of the new data
        quiet = _PLANNED.get(type(solver).__name__, ())
        result = run_solver(self, solver, problem, X=X, callback=stopper, x0=x0, quiet=quiet)
        self.result_ = result
        self.model_ = result.x if stopper is None or stopper.best is None else stopper.best
        self.validation_scores_ = None if stopper is None else stopper.scores
        self._problem_ = problem
        one = self._one_model()
        self.rank_ = one.rank
        self.row_factors_, self.components_ = one.U, one.V.T
        self.row_bias_, self.col_bias_, self.offset_ = one.row_bias, one.col_bias, one.offset
        self.n_iter_ = max(1, result.nit if stopper is None else stopper.best_nit)
        return self

    def _check_parameters(self) -> None:
        validate_parameters(
            type(self).__name__,
            self.get_params(deep=False),
            {
                "rank": [COUNT],
                "validation_fraction": [Interval(Real, 0, 1, closed="neither")],
                "patience": [COUNT],
                "cold": [StrOptions({"mean", "nan", "error"})],
                "biases": ["boolean"],
                "center": ["boolean"],
                "nonnegative": ["boolean"],
                "reg": [Interval(Real, 0, None, closed="left")],
                "implicit_weight": [Interval(Real, 0, None, closed="left")],
                "early_stopping": ["boolean"],
                "warm_start": ["boolean"],
                "method": [str],
            },
        )

    def _validation_entries(
        self, validation: Any, shape: tuple[int, int]
    ) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        """Return checked positions and values."""
        if not isinstance(validation, (tuple, list)) or len(validation) != 3:
            raise ProblemError("validation: expected a tuple (rows, cols, values)")
        rows, cols, values = map(np.asarray, validation)
        if values.ndim != 1 or values.size == 0 or not rows.shape == cols.shape == values.shape:
            raise ProblemError(
                f"validation: rows, cols, values have shapes {rows.shape}, {cols.shape}, "
                f"{values.shape}; expected three arrays of one length, 1 at least"
            )
        if values.dtype.kind not in "fiub" or not np.isfinite(values).all():
            raise ProblemError("validation: values must be finite real numbers")
        positions = []
        for name, ids, known, size in (
            ("rows", rows, self.row_ids_, shape[0]),
            ("cols", cols, self.col_ids_, shape[1]),
        ):
            if known is None and ids.dtype.kind not in "iu":
                raise ProblemError(
                    f"validation: {name} has dtype {ids.dtype}; expected integer positions"
                )
            position = self._positions(ids, known, f"validation: {name}")
            unknown = (position < 0) | (position >= size)
            if unknown.any():
                raise ProblemError(f"validation: {name} has {ids[unknown][0]!r}, which is not in X")
            positions.append(position)
        return positions[0], positions[1], values.astype(np.float64)

    def _validation_split(
        self, observations: Observations, validation: Any
    ) -> tuple[_EarlyStopping | None, Observations]:
        if validation is not None:
            entries = self._validation_entries(validation, observations.shape)
            return _EarlyStopping(*entries, self.patience), observations
        if not self.early_stopping:
            return None, observations
        held = make_rng(self.random_state).random(observations.nnz) < self.validation_fraction
        if not held.any() or held.all():
            raise ProblemError(
                f"X has {observations.nnz} entries, too few to keep "
                f"validation_fraction={self.validation_fraction} of them out"
            )
        stopper = _EarlyStopping(
            observations.rows()[held], observations.indices[held],
            observations.values[held].astype(np.float64), self.patience,
        )  # fmt: skip
        return stopper, observations.select(~held)

    # -- using the model -------------------------------------------------------------------------

    def predict(self, rows: Any, cols: Any = None, *, return_std: bool = False) -> Any:
        """Predict entries.

        Parameters
        ----------
        rows : array-like of ids, or array of shape (n, n_features_in)
            Rows by position or id. Without `cols`: new rows, NaN = missing; they are folded in and
            completely predicted (for "accurate": the mean over up to 20 draws, in each of which
            the rows have their conditional mean under that draw's noise and prior).
        cols : array-like or None, default=None
            Columns, broadcast against `rows`.
        return_std : bool, default=False
            Also return predictive standard deviations; "accurate" only.

        Returns
        -------
        values : ndarray
            Of the broadcast shape, or (n, n_features_in).
        std : ndarray
            Only with `return_std`.
        """
        check_is_fitted(self)
        if cols is None:
            if hasattr(rows, "tocsr"):
                raise ProblemError(
                    f"a sparse matrix of shape {rows.shape} without cols: its prediction would be "
                    "dense; give rows and cols, or a dense array with NaN for what is missing"
                )
            return self._fold(rows).to_dense(max_bytes=None)  # of samples: their mean
        i, j = self._entry_positions(rows, cols)
        if return_std:
            if not isinstance(self.model_, LowRankSamples):
                raise ValueError("return_std needs a sampler: method='accurate'")
            return self.model_.predict(i, j, return_std=True, cold=self.cold)
        return self.model_.predict(i, j, cold=self.cold)

    def _fold(self, X: Any) -> LowRankMatrix | LowRankSamples:
        X = validate_data(
            self, X, dtype=_FLOATS, accept_sparse=["csr", "csc", "coo"],
            ensure_all_finite="allow-nan", reset=False,
        )  # fmt: skip
        return _fold_dense(self._problem_, self.model_, X)

    def transform(self, X: Any) -> NDArray[Any]:
        """Return the factors of new rows.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n, n_features_in)
            Observed entries of the rows.

        Returns
        -------
        ndarray of shape (n, rank)
            Each row's exact squared-loss solution with the columns' factors fixed. A training
            row gives its training factor up to the solver's tolerance, when the loss is squared
            and every observation has weight 1, except for "sgd", for "accurate" (here the last
            draw is used: each row's conditional mean in it), and after early stopping, where the
            rows' entries kept out for validation count here and the model is not at a minimum.
        """
        check_is_fitted(self)
        folded = self._fold(X)
        return folded.U[-1] if isinstance(folded, LowRankSamples) else folded.U

    def score(self, X: Any, y: Any = None) -> float:
        """Return minus the root mean squared error on held-out entries of the rows of `X`.

        Every fifth observed entry of `X` is predicted from the others by folding the rows in, so
        that model selection by cross-validation over rows measures what prediction will.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n, n_features_in)
            Rows.
        y : None
            Ignored.
        """
        error = held_out_errors(self, X)
        return -float(np.sqrt(np.mean(error**2)))

    def _fold_entries(self, rows: Observations) -> LowRankMatrix | LowRankSamples:
        fold = fold_in_samples if isinstance(self.model_, LowRankSamples) else fold_in
        return fold(self._problem_, self.model_, rows)


class LowRankImputer(CallbackSupportMixin, OneToOneFeatureMixin, TransformerMixin, BaseEstimator):
    r"""Fill missing values by a matrix of low rank.

    Columns are centred and scaled on their observed entries, a matrix of rank at most `rank` is
    fitted to them, and missing entries take its values.

    Parameters
    ----------
    rank : int, default=10
        Largest rank. Cut, with a warning, to the smaller side of the data.
    reg : float, default=0.01
        Ridge on the factors, per observed entry and in units of the columns' variance.
    loss : {"squared", "huber", "l1"}, default="squared"
        Loss of an observed entry.
    scale : bool, default=True
        Divide columns by their standard deviation.
    method : str, default="auto"
        As in :class:`MatrixFactorization` ("accurate" and "gibbs" excepted).
    solver : Solver or None, default=None
        An instance to use instead of `method`.
    tol : float, default=1e-4
        Tolerance of the solver.
    max_iter : int, default=200
        Limit on sweeps.
    n_threads : int or None, default=None
        Threads of the solver.
    random_state : int, Generator or None, default=None
        Seed.

    Attributes
    ----------
    components_ : ndarray of shape (rank, n_features_in)
        Column factors, transposed, for scaled columns.
    mean_, scale_ : ndarray of shape (n_features_in,)
        Centre and scale of the columns.
    rank_ : int
        Rank used.
    result_ : Result
        Result of the solver.
    n_iter_ : int
        Iterations.

    Notes
    -----
    Observed entries are returned unchanged. A column without any observed entry is filled with 0.

    Examples
    --------
    >>> import numpy as np
    >>> from lowrank_opt.recovery import LowRankImputer
    >>> X = np.outer(np.arange(1.0, 41.0), [1.0, 2.0, -1.0, 3.0])
    >>> X[9, 1] = np.nan
    >>> filled = LowRankImputer(rank=1, reg=1e-4, random_state=0).fit_transform(X)
    >>> bool(abs(filled[9, 1] - 20.0) < 1.0)
    True
    """

    def __init__(
        self,
        rank: int = 10,
        *,
        reg: float = 0.01,
        loss: str = "squared",
        scale: bool = True,
        method: str = "auto",
        solver: Any = None,
        tol: float = 1e-4,
        max_iter: int = 200,
        n_threads: int | None = None,
        random_state: Any = None,
    ) -> None:
        self.rank = rank
        self.reg = reg
        self.loss = loss
        self.scale = scale
        self.method = method
        self.solver = solver
        self.tol = tol
        self.max_iter = max_iter
        self.n_threads = n_threads
        self.random_state = random_state

    @with_callbacks
    def fit(self, X: ArrayLike, y: Any = None) -> LowRankImputer:
        """Fit the matrix.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            NaN is missing.
        y : None
            Ignored.
        """
        X = validate_data(self, X, dtype=_FLOATS, ensure_all_finite="allow-nan")
        validate_parameters(
            type(self).__name__,
            self.get_params(deep=False),
            {
                "rank": [COUNT],
                "reg": [Interval(Real, 0, None, closed="left")],
                "loss": [StrOptions({"squared", "huber", "l1"})],
                "scale": ["boolean"],
                "method": [str],
            },
        )
        seen = ~np.isnan(X)
        count = np.maximum(seen.sum(axis=0), 1)
        filled = np.where(seen, X, 0.0)
        self.mean_ = (filled.sum(axis=0, dtype=np.float64) / count).astype(X.dtype)
        spread = np.where(seen, X - self.mean_, 0.0)
        scale = np.sqrt(np.square(spread, dtype=np.float64).sum(axis=0) / count)
        constant = scale <= 10 * np.finfo(X.dtype).eps * np.abs(self.mean_)
        self.scale_ = np.where(constant | (not self.scale), 1.0, scale).astype(X.dtype)
        solver = resolve_solver(
            self.method if self.solver is None else self.solver,
            choices=_IMPUTER_CHOICES,
            argument="method" if self.solver is None else "solver",
            tol=self.tol,
            max_iter=self.max_iter,
            n_threads=self.n_threads,
            random_state=self.random_state,
        )
        if type(solver).__name__ == "GibbsFactorization":
            raise ParameterError(
                "LowRankImputer: GibbsFactorization gives draws, not one pair of factors; take "
                "another method, or MatrixFactorization(method='accurate')"
            )
        observations = Observations.from_dense((X - self.mean_) / self.scale_)
        penalty = {"reg": self.reg, "reg_scaling": "count"}
        if type(solver).__name__ == "SoftImpute":
            size = observations.density * np.sqrt(X.size)  # root of the mean counts' product
            penalty = {"reg": self.reg * float(size), "penalty": "nuclear"}
        problem = MatrixCompletion(
            observations, _usable_rank(self, X.shape), loss=self.loss, **penalty
        )
        self.result_ = run_solver(self, solver, problem, X=X)
        self._problem_, self._model_ = problem, self.result_.x
        self.components_, self.rank_ = self._model_.V.T, self._model_.rank
        self.n_iter_ = max(1, self.result_.nit)
        return self

    def transform(self, X: ArrayLike) -> NDArray[Any]:
        """Fill the missing entries.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features_in)
            NaN is missing.

        Returns
        -------
        ndarray of shape (n_samples, n_features_in)
            A copy with every NaN replaced.
        """
        check_is_fitted(self)
        X = validate_data(
            self, X, dtype=_FLOATS, ensure_all_finite="allow-nan", reset=False, copy=True
        )
        missing = np.isnan(X)
        some = missing.any(axis=1)
        if not some.any():
            return X
        part = X[some]
        known = ~missing[some]
        model = _fold_dense(self._problem_, self._model_, (part - self.mean_) / self.scale_)
        values = model.to_dense(max_bytes=None) * self.scale_ + self.mean_
        X[some] = np.where(known, part, values)
        return X

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags


def held_out_errors(estimator: Any, X: Any) -> NDArray[np.float64]:
    """Predict every fifth observed entry of the rows of `X` from the others; return the errors."""
    check_is_fitted(estimator)
    X = validate_data(
        estimator, X, dtype=_FLOATS, accept_sparse=["csr", "csc", "coo"],
        ensure_all_finite="allow-nan", reset=False,
    )  # fmt: skip
    obs = Observations.from_sparse(X) if hasattr(X, "tocsr") else Observations.from_dense(X)
    held = np.arange(obs.nnz) % 5 == 4
    if not held.any():
        raise ProblemError("X has fewer than 5 observed entries; score needs more")
    model = estimator._fold_entries(obs.select(~held))
    error = model.predict(obs.rows()[held], obs.indices[held]) - obs.values[held]
    return error.astype(np.float64)


def _mean(model: LowRankMatrix | LowRankSamples) -> LowRankMatrix:
    """Return the posterior mean as one matrix, of S times the rank."""
    if isinstance(model, LowRankMatrix):
        return model
    U, V = (np.concatenate(list(F), axis=1) for F in (model.U, model.V))
    biases = [None if b is None else b.mean(axis=0) for b in (model.row_bias, model.col_bias)]
    return LowRankMatrix(U / len(model), V, model.offset, *biases)


def _fold_dense(problem: MatrixCompletion, model: Any, X: Any) -> Any:
    """Fold in the rows of an array or a sparse matrix, which may hold no observation at all."""
    sparse = hasattr(X, "tocsr")
    if X.nnz if sparse else not np.isnan(X).all():
        build = Observations.from_sparse if sparse else Observations.from_dense
        fold = fold_in_samples if isinstance(model, LowRankSamples) else fold_in
        return fold(problem, model, build(X))
    rows = X.shape[0]
    if isinstance(model, LowRankSamples):
        return fold_in_samples(problem, model, rows)
    row_bias = None if model.row_bias is None else np.zeros(rows, model.dtype)
    U = np.zeros((rows, model.rank), model.dtype)
    return LowRankMatrix(U, model.V, model.offset, row_bias, model.col_bias)


def _grow(
    model: LowRankMatrix, shape: tuple[int, int], rows: NDArray[Any], cols: NDArray[Any]
) -> LowRankMatrix:
    """Return `model` with its rows and columns at new places, others zero."""
    parts = []
    for factor, bias, size, places in (
        (model.U, model.row_bias, shape[0], rows),
        (model.V, model.col_bias, shape[1], cols),
    ):
        grown = np.zeros((size, model.rank), model.dtype)
        grown[places] = factor
        grown_bias = None
        if bias is not None:
            grown_bias = np.zeros(size, model.dtype)
            grown_bias[places] = bias
        parts.append((grown, grown_bias))
    (U, row_bias), (V, col_bias) = parts
    return LowRankMatrix(U, V, model.offset, row_bias, col_bias)
