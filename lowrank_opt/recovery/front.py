"""The front door of matrix completion."""

from __future__ import annotations

import dataclasses
from numbers import Real
from typing import TYPE_CHECKING, Any

from lowrank_opt.core.errors import ParameterError, ProblemError
from lowrank_opt.core.params import Interval, did_you_mean, validate_parameters
from lowrank_opt.core.registry import solver_class
from lowrank_opt.recovery.problems import MatrixCompletion

if TYPE_CHECKING:
    from lowrank_opt.core.result import Result

__all__ = ["METHODS", "complete"]

# Short names: solver class and its parameters.
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "als": ("AlternatingMinimization", {"inner": "cholesky"}),
    "cg": ("AlternatingMinimization", {"inner": "cg"}),
    "sketch": ("AlternatingMinimization", {"inner": "sketch"}),
    "soft_impute": ("SoftImpute", {}),
    "sgd": ("FactorSGD", {}),
    "gibbs": ("GibbsFactorization", {}),
}
_SOLVE_KEYWORDS = ("x0", "state", "callback", "history", "progress", "checkpoint")


def complete(
    X: Any,
    *,
    rank: int,
    loss: str = "squared",
    reg: float = 0.0,
    method: str = "auto",
    outlier_fraction: float | None = None,
    tol: float = 1e-6,
    max_iter: int = 200,
    random_state: Any = None,
    **solver_params: Any,
) -> Result:
    """Complete a matrix of low rank from some of its entries.

    Parameters
    ----------
    X : array-like, scipy sparse matrix, or tuple (rows, cols, values[, shape])
        Dense: NaN is missing. Sparse: a stored entry is observed, a stored zero is an observed
        zero. Tuple: zero-based positions and values.
    rank : int
        Number of factor columns (for "soft_impute": largest rank of the answer).
    loss : {"squared", "huber", "l1"}, default="squared"
        Loss of an observed entry; "huber" and "l1" bear gross errors.
    reg : float, default=0.0
        Ridge on the factors; weight of the nuclear norm for "soft_impute".
    method : str, default="auto"
        "als" (exact alternating minimisation), "cg" and "sketch" (inexact), "soft_impute", "sgd",
        "gibbs", the name of a solver class, or "auto": the problem's own choice, see
        :class:`~lowrank_opt.recovery.MatrixCompletion`.
    outlier_fraction : float or None, default=None
        An upper bound, in [0, 0.5), on the part of the entries that is grossly wrong. A positive
        one turns the squared loss into "huber"; its size does not matter otherwise. Give
        `loss_scale` to choose the threshold, by default that of
        :class:`~lowrank_opt.recovery.MatrixCompletion`.
    tol : float, default=1e-6
        Relative tolerance of the solver.
    max_iter : int, default=200
        Limit on iterations.
    random_state : int, Generator or None, default=None
        Seed.
    **solver_params
        Fields of :class:`~lowrank_opt.recovery.MatrixCompletion` (``weights``, ``biases``,
        ``reg_scaling``, …), parameters of the solver, and keywords of its ``solve`` (``x0``,
        ``callback``, ``history``, …).

    Returns
    -------
    Result
        ``x`` is a :class:`~lowrank_opt.recovery.LowRankMatrix` (for "gibbs" a
        :class:`~lowrank_opt.recovery.LowRankSamples`), with ``predict(rows, cols)`` and
        ``to_dense()``; ``certificate`` is the problem's grade of it.

    Raises
    ------
    ProblemError, ParameterError
        Bad data or a parameter out of range; the message names it.
    TypeError
        An unknown keyword; the message suggests the closest one.

    Examples
    --------
    >>> import numpy as np
    >>> from lowrank_opt import complete
    >>> X = np.outer([1.0, 2.0, 3.0, 4.0], [1.0, 1.0, 2.0, 5.0])
    >>> X[3, 3] = np.nan
    >>> result = complete(X, rank=1, random_state=0)
    >>> round(float(result.x.predict(3, 3)), 4)
    20.0
    """
    validate_parameters(
        "complete",
        {"method": method, "outlier_fraction": outlier_fraction},
        {
            "method": [str],
            "outlier_fraction": [None, Interval(Real, 0, 0.5, closed="left")],
        },
    )
    if outlier_fraction and loss == "squared":
        loss = "huber"
    options = _take(solver_params, _problem_options())
    keywords = _take(solver_params, _SOLVE_KEYWORDS)
    chosen, defaults = METHODS.get(method, (method, {}))
    if chosen == "SoftImpute":
        options.setdefault("penalty", "nuclear")
    problem = _problem(X, rank=rank, loss=loss, reg=reg, **options)
    if chosen == "auto":
        chosen, defaults = problem.auto_solver()
    try:
        cls = solver_class(chosen)
    except ParameterError:
        raise ParameterError(
            f"complete: method={method!r} is unknown." + did_you_mean(method, ["auto", *METHODS])
        ) from None
    known = cls._signature()
    for name in solver_params:
        if name not in known:
            choices = {*known, *_problem_options(), *_SOLVE_KEYWORDS}
            raise TypeError(
                f"complete got an unexpected keyword {name!r}." + did_you_mean(name, choices)
            )
    given = {"tol": tol, "max_iter": max_iter, "random_state": random_state}
    taken = {name: value for name, value in given.items() if name in known}
    return cls(**{**taken, **defaults, **solver_params}).solve(problem, **keywords)


def _problem_options() -> set[str]:
    fields = {f.name for f in dataclasses.fields(MatrixCompletion)}
    return (fields | {"weights", "duplicates"}) - {"observations", "row_ids", "col_ids"}


def _take(params: dict[str, Any], names: Any) -> dict[str, Any]:
    return {name: params.pop(name) for name in list(params) if name in names}


def _problem(X: Any, **options: Any) -> MatrixCompletion:
    """Build the problem from any of the forms of `X`."""
    if isinstance(X, MatrixCompletion):
        raise ProblemError(
            "X is a MatrixCompletion: use lowrank_opt.solve(problem), which takes its own rank"
        )
    if isinstance(X, tuple):
        if len(X) not in (3, 4):
            raise ProblemError(
                f"X is a tuple of {len(X)} items; expected (rows, cols, values) or "
                "(rows, cols, values, shape)"
            )
        return MatrixCompletion.from_coo(*X, **options)
    if hasattr(X, "tocsr"):
        return MatrixCompletion.from_sparse(X, **options)
    if "duplicates" in options:
        raise TypeError("duplicates goes with sparse X or a tuple: a dense array has none")
    return MatrixCompletion.from_dense(X, **options)
