"""The front door of matrix completion."""

from __future__ import annotations

import dataclasses
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

from lowrank_opt.core.errors import ParameterError, ProblemError
from lowrank_opt.core.params import Interval, did_you_mean, validate_parameters
from lowrank_opt.core.registry import solver_class
from lowrank_opt.recovery.problems import MatrixCompletion
from lowrank_opt.recovery.robust import LowRankPlusSparse

if TYPE_CHECKING:
    from lowrank_opt.core.result import Result
    from lowrank_opt.core.solver import Solver

__all__ = ["METHODS", "NEED_RANK", "complete"]

# Short names: solver class and its parameters.
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "als": ("AlternatingMinimization", {"inner": "cholesky"}),
    "cg": ("AlternatingMinimization", {"inner": "cg"}),
    "sketch": ("AlternatingMinimization", {"inner": "sketch"}),
    "soft_impute": ("SoftImpute", {}),
    "sgd": ("FactorSGD", {}),
    "gibbs": ("GibbsFactorization", {}),
    "huber_als": ("HuberALS", {}),
    "subgradient": ("SubgradientMethod", {}),
    "scaled_subgradient": ("ScaledSubgradientMethod", {}),
    "scaled_gd": ("ScaledGD", {}),
}
# Solvers of the sum of absolute errors, or of any loss of the bare product.
_FIRST_ORDER = ("SubgradientMethod", "ScaledSubgradientMethod", "ScaledGD")
# Solvers that cannot find the rank: directions that are too many converge to anything.
NEED_RANK = ("ScaledSubgradientMethod", "ScaledGD")
_TOL, _MAX_ITER = 1e-6, 200
_SOLVE_KEYWORDS = ("x0", "state", "callback", "history", "progress", "checkpoint")


def complete(
    X: Any,
    *,
    rank: int | str,
    loss: str = "squared",
    reg: float = 0.0,
    method: str = "auto",
    outlier_fraction: float | None = None,
    tol: float | None = None,
    max_iter: int | None = None,
    random_state: Any = None,
    **solver_params: Any,
) -> Result:
    """Complete a matrix of low rank from some of its entries.

    Parameters
    ----------
    X : array-like, scipy sparse matrix, or tuple (rows, cols, values[, shape])
        Dense: NaN is missing. Sparse: a stored entry is observed, a stored zero is an observed
        zero. Tuple: zero-based positions and values.
    rank : int or "auto"
        Number of factor columns (for "soft_impute": largest rank of the answer). "auto": found by
        the solver; with gross errors only, and not by the scaled methods, see Notes.
    loss : {"squared", "huber", "l1"}, default="squared"
        Loss of an observed entry; "huber" and "l1" bear gross errors.
    reg : float, default=0.0
        Ridge on the factors; weight of the nuclear norm for "soft_impute".
    method : str, default="auto"
        For the squared loss, or with a ridge: "als" (exact alternating minimisation), "cg" and
        "sketch" (inexact), "soft_impute", "sgd", "gibbs". For gross errors: "huber_als",
        "subgradient", "scaled_subgradient", and "scaled_gd", which needs `outlier_fraction` there
        and solves the squared loss without a ridge, too. Or the name of a solver class, or
        "auto", see Notes.
    outlier_fraction : float or None, default=None
        An upper bound, in [0, 0.5), on the part of the entries that is grossly wrong. A positive
        one turns the squared loss into "huber"; its size matters to solvers of
        :class:`~lowrank_opt.recovery.LowRankPlusSparse` only.
    tol : float or None, default=None
        Relative tolerance of the solver. ``None``: 1e-6, or the tolerance that the problem asks
        for (1e-9 for the plain "l1" loss).
    max_iter : int or None, default=None
        Limit on iterations. ``None``: 200, or the solver's own default where that is more.
    random_state : int, Generator or None, default=None
        Seed.
    **solver_params
        Other fields of the problem (``weights``, ``biases``, ``reg_scaling``, ``max_rank``, …),
        parameters of the solver, and keywords of its ``solve`` (``x0``, ``callback``,
        ``history``, …).

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

    Notes
    -----
    The problem that is solved, and by what with ``method="auto"``:

    ==========  =====================  ======================  ===========================
    loss        model                  problem                 solver
    ==========  =====================  ======================  ===========================
    "squared"   any                    ``MatrixCompletion``    ``AlternatingMinimization``
    "squared"   nuclear norm           ``MatrixCompletion``    ``SoftImpute``
    "huber"     plain                  ``LowRankPlusSparse``   ``HuberALS``
    "huber"     plain, `loss_scale`    ``MatrixCompletion``    ``HuberALS``
    "l1"        plain                  ``MatrixCompletion``    ``HuberALS``
    "huber",    anything else          ``MatrixCompletion``    ``AlternatingMinimization``
    "l1"
    ==========  =====================  ======================  ===========================

    "Plain" means the bare product of two factors: no ridge, biases, centring, constraint or
    implicit weight. `loss_scale` fixes the threshold of the Huber loss, while in
    :class:`~lowrank_opt.recovery.LowRankPlusSparse` the threshold between noise and gross errors
    adapts to the errors that are left, down to rounding, so that gross errors of any size and
    unknown number are put aside altogether; only there can the rank be "auto". The sub-gradient
    methods and "scaled_gd" solve it for the plain "l1" loss as well, since its objective is the
    sum of absolute errors. Methods for a ridge ("als", "cg", "sketch", "sgd", "gibbs") take
    :class:`~lowrank_opt.recovery.MatrixCompletion` with its fixed threshold.

    Examples
    --------
    >>> import numpy as np
    >>> from lowrank_opt import complete
    >>> X = np.outer([1.0, 2.0, 3.0, 4.0], [1.0, 1.0, 2.0, 5.0])
    >>> X[3, 3] = np.nan
    >>> result = complete(X, rank=1, random_state=0)
    >>> round(float(result.x.predict(3, 3)), 4)
    20.0

    A gross error, and a rank to be found:

    >>> X = np.outer(np.arange(1.0, 21.0), np.linspace(1.0, 2.0, 15))
    >>> X[3, 4], X[0, 0] = 100.0, np.nan
    >>> result = complete(X, rank="auto", loss="huber", random_state=0)
    >>> result.x.rank, round(float(result.x.predict(0, 0)), 4)
    (1, 1.0)
    """
    validate_parameters(
        "complete",
        {"method": method, "outlier_fraction": outlier_fraction, "max_iter": max_iter},
        {
            "method": [str],
            "outlier_fraction": [None, Interval(Real, 0, 0.5, closed="left")],
            "max_iter": [None, Interval(Integral, 0, None, closed="left")],
        },
    )
    if outlier_fraction and loss == "squared":
        loss = "huber"
    options = _take(solver_params, _problem_options())
    keywords = _take(solver_params, _SOLVE_KEYWORDS)
    chosen, defaults = METHODS.get(method, (method, {}))
    if chosen == "SoftImpute":
        options.setdefault("penalty", "nuclear")
    cls = None if chosen == "auto" else _solver(method, chosen)
    options = {"rank": rank, "loss": loss, "reg": reg, **options}
    check_rank_is_given("complete", f"method={method!r}", chosen, rank)
    if _adapts(chosen, options):
        own = {name: options[name] for name in options if name not in _fields(MatrixCompletion)}
        problem = _problem(
            LowRankPlusSparse, X, rank=rank, outlier_fraction=outlier_fraction, **own
        )
    else:
        _check_completion(method, chosen, options)
        problem = _problem(MatrixCompletion, X, **options)
    if cls is None:
        chosen, defaults = problem.auto_solver()
        cls = solver_class(chosen)
    known = cls._signature()
    for name in solver_params:
        if name not in known:
            own = {"rank", "loss", "reg", "method", "outlier_fraction", "tol", "max_iter"}
            choices = {*known, *_problem_options(), *_SOLVE_KEYWORDS, *own}
            raise TypeError(
                f"complete got an unexpected keyword {name!r}." + did_you_mean(name, choices)
            )
    if tol is None:
        tol = defaults.get("tol", _TOL)
    if max_iter is None and "max_iter" in known:
        max_iter = max(_MAX_ITER, known["max_iter"].default)
    given = {"tol": tol, "max_iter": max_iter, "random_state": random_state}
    taken = {name: value for name, value in given.items() if name in known}
    return cls(**{**defaults, **taken, **solver_params}).solve(problem, **keywords)


def _solver(method: str, name: str) -> type[Solver]:
    try:
        return solver_class(name)
    except ParameterError:
        raise ParameterError(
            f"complete: method={method!r} is unknown." + did_you_mean(method, ["auto", *METHODS])
        ) from None


def check_rank_is_given(caller: str, argument: str, solver: str, rank: Any) -> None:
    """Raise when a solver that cannot find the rank is asked to."""
    if isinstance(rank, str) and rank == "auto" and solver in NEED_RANK:
        raise ParameterError(
            f"{caller}: rank='auto' with {argument}; {solver} needs the rank itself: expected a "
            "number, or method 'auto', 'huber_als' or 'subgradient', which find it"
        )


def _adapts(chosen: str, options: dict[str, Any]) -> bool:
    """Whether the problem is the one whose threshold adapts; the table is in `complete`."""
    usual = {"penalty": "ridge", "loss_scale": "auto", "reg_scaling": "none", "reg_bias": None}
    off = ("reg", "biases", "center", "nonnegative", "implicit_weight")
    plain = all(options.get(name, value) == value for name, value in usual.items())
    if not plain or any(options.get(name) for name in off):
        return False
    if options["loss"] == "huber":
        return chosen in ("auto", "HuberALS", *_FIRST_ORDER)
    return options["loss"] == "l1" and chosen in _FIRST_ORDER


def _check_completion(method: str, chosen: str, options: dict[str, Any]) -> None:
    """Raise for what `MatrixCompletion` does not offer, and say what does."""
    cure = (
        "expected loss='huber' (or outlier_fraction > 0), no ridge, biases, centring, "
        "constraint, implicit_weight or loss_scale, and method 'auto', 'huber_als' or "
        "'subgradient'"
    )
    if options["rank"] == "auto":
        given = f"loss={options['loss']!r}, reg={options['reg']!r}, method={method!r}"
        raise ParameterError(
            f"complete: rank='auto' with {given}; the rank is found for the adaptive Huber loss "
            f"only: {cure}; or a number"
        )
    if options.pop("max_rank", None) is not None:
        raise ParameterError(f"complete: max_rank goes with rank='auto'; {cure}")
    if options["loss"] == "squared" and chosen in ("HuberALS", *_FIRST_ORDER[:2]):
        raise ParameterError(
            f"complete: method={method!r} with loss='squared'; it is for gross errors: expected "
            "loss='huber' or 'l1', or an outlier_fraction > 0"
        )


def _fields(problem: type) -> set[str]:
    fields = {f.name for f in dataclasses.fields(problem)}
    return fields - {"observations", "row_ids", "col_ids"}


def _problem_options() -> set[str]:
    fields = _fields(MatrixCompletion) | _fields(LowRankPlusSparse)
    return (fields | {"weights", "duplicates"}) - {"outlier_fraction"}


def _take(params: dict[str, Any], names: Any) -> dict[str, Any]:
    return {name: params.pop(name) for name in list(params) if name in names}


def _problem(cls: type, X: Any, **options: Any) -> Any:
    """Build the problem from any of the forms of `X`."""
    if isinstance(X, (MatrixCompletion, LowRankPlusSparse)):
        raise ProblemError(
            f"X is a {type(X).__name__}: use lowrank_opt.solve(problem), which takes its own rank"
        )
    if isinstance(X, tuple):
        if len(X) not in (3, 4):
            raise ProblemError(
                f"X is a tuple of {len(X)} items; expected (rows, cols, values) or "
                "(rows, cols, values, shape)"
            )
        return cls.from_coo(*X, **options)
    if hasattr(X, "tocsr"):
        return cls.from_sparse(X, **options)
    if "duplicates" in options:
        raise TypeError("duplicates goes with sparse X or a tuple: a dense array has none")
    return cls.from_dense(X, **options)
