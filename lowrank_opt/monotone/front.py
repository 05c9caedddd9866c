"""The front door of linear programming: SciPy's signature."""

from __future__ import annotations

import time
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import scipy.sparse as sp

from lowrank_opt.core.errors import ParameterError, ProblemError, ProblemTypeError
from lowrank_opt.core.params import Interval, StrOptions, did_you_mean, validate_parameters
from lowrank_opt.core.serialize import register_serializable
from lowrank_opt.core.state import Status
from lowrank_opt.monotone.highs import SOLVERS, solve_with_highs
from lowrank_opt.monotone.linear_program import LinearProgram
from lowrank_opt.monotone.points import PrimalDual
from lowrank_opt.numerics._arrays import real_array

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from lowrank_opt.core.result import Result
    from lowrank_opt.monotone.programs import ConvexProgram

__all__ = ["PARAMETERS", "Marginals", "from_scipy_arguments", "linprog", "solve_program"]

_METHODS = ("auto", "halpern", *SOLVERS)
PARAMETERS: dict[str, list[Any]] = {
    "method": [StrOptions(_METHODS)],
    "tol": [Interval(Real, 0, None, closed="neither")],
    "max_iter": [None, Interval(Integral, 0, None, closed="left")],
    "max_time": [None, Interval(Real, 0, None, closed="left")],
}
# "auto": nonzeros up to which HiGHS begins, and who then gets how many seconds. Measured: all of
# Netlib (dfl001 4 s, the others 0.6 s at most) end in HiGHS's first stage, random and
# PageRank programs of 3e4 nonzeros and more in the second.
_HIGHS_NNZ = 200_000
_STAGES = (("highs", 8.0), ("halpern", 2.0), ("highs", 40.0), ("halpern", None))
_SOLVE_KEYWORDS = ("callback", "history", "progress", "checkpoint", "state")
# SciPy's options that mean one of our arguments; the others are of HiGHS alone.
_OPTIONS = {"maxiter": "max_iter", "time_limit": "max_time", "presolve": "presolve", "disp": ""}


class Marginals(NamedTuple):
    """Residuals and multipliers of a group of constraints, as in SciPy.

    Parameters
    ----------
    residual : ndarray
        Distance of each constraint to its bound.
    marginals : ndarray
        Derivative of the optimal value by that bound.
    """

    residual: NDArray[np.float64]
    marginals: NDArray[np.float64]


register_serializable(Marginals)


def linprog(
    c: Any,
    A_ub: Any = None,
    b_ub: Any = None,
    A_eq: Any = None,
    b_eq: Any = None,
    bounds: Any = (0, None),
    *,
    method: str = "auto",
    tol: float = 1e-6,
    max_iter: int | None = None,
    max_time: float | None = None,
    x0: Any = None,
    integrality: Any = None,
    options: Mapping[str, Any] | None = None,
    **solver_params: Any,
) -> Result:
    r"""Minimise a linear function under linear constraints; arguments and fields are SciPy's.

    .. math::

        \min_x\; c^\top x \quad\text{subject to}\quad
        A_{ub} x \le b_{ub},\quad A_{eq} x = b_{eq},\quad l \le x \le u .

    Parameters
    ----------
    c : array-like of shape (n,)
        Costs.
    A_ub : array-like or scipy sparse of shape (m_ub, n), or None, default=None
        Inequalities ``A_ub @ x <= b_ub``.
    b_ub : array-like of shape (m_ub,) or None, default=None
        Their bounds; ``inf``: none.
    A_eq : array-like or scipy sparse of shape (m_eq, n), or None, default=None
        Equalities ``A_eq @ x == b_eq``.
    b_eq : array-like of shape (m_eq,) or None, default=None
        Their right-hand sides.
    bounds : pair, sequence of n pairs, or None, default=(0, None)
        Bounds on x: one pair (lower, upper) for all, or one for each; in a pair, ``None`` or an
        infinite number is no bound. ``None`` or an empty sequence means (0, None).
    method : {"auto", "halpern", "highs", "highs-ds", "highs-ipm"}, default="auto"
        "halpern": :class:`~lowrank_opt.monotone.HalpernPDHG`; "highs": HiGHS as in SciPy, or one
        of its two algorithms; "auto": see Notes.
    tol : float, default=1e-6
        Relative tolerance: the certificate's residual of an answer that counts as converged.
    max_iter : int or None, default=None
        Limit on iterations; ``None``: the method's own.
    max_time : float or None, default=None
        Limit on seconds.
    x0 : array-like of shape (n,), PrimalDual, or None, default=None
        Start, with multipliers or without. HiGHS only uses one that solves the problem already.
    integrality : array-like or None, default=None
        There is for SciPy's sake; anything but zeros raises.
    options : dict or None, default=None
        SciPy's ``maxiter``, ``time_limit``, ``presolve`` and ``disp`` (which has no effect).
    **solver_params
        Parameters of :class:`~lowrank_opt.monotone.HalpernPDHG` and keywords of its ``solve``
        (``callback``, ``history``, …); with "auto" they choose it.

    Returns
    -------
    Result
        SciPy's fields: ``x`` and ``fun`` (``None`` for a program without a solution), ``slack``
        and ``con`` (what is left of `b_ub` and `b_eq`), ``ineqlin``, ``eqlin``, ``lower``,
        ``upper``, each with ``residual`` and ``marginals``; and those of this library:
        ``certificate``, ``ray`` (the proof that there is no solution), ``y``, ``z``. ``status``
        is a :class:`~lowrank_opt.core.Status`, not SciPy's number.

    Raises
    ------
    ProblemError, ParameterError
        Bad data or a parameter out of range; the message names it.
    TypeError
        An unknown keyword; the message suggests the closest one.

    See Also
    --------
    HalpernPDHG : The first-order solver.
    LinearProgram : Rows with two bounds.
    read_mps : Problems from files.

    Notes
    -----
    Marginals are derivatives of the optimal value, so those of inequalities and of upper bounds
    are never positive, those of lower bounds never negative. Of a fixed variable the sign decides
    whether the marginal goes to the lower or the upper bound.

    The rule of "auto": more than 200 000 nonzeros, or parameters of Halpern PDHG: that. Otherwise
    the two take turns until one of them has an answer: HiGHS for 8 s, Halpern PDHG for 2 s,
    HiGHS for 40 s, and Halpern PDHG from where it stood. In the first turn nothing is slower than
    with SciPy (Netlib's programs: 0.6 s at most, dfl001 4 s on an idle machine), and programs
    without the structure that keeps a simplex method cheap do not have to wait for it: random
    ones with 1500 x 3000 entries and 3e4 nonzeros take HiGHS more than ten times as long,
    PageRank of 1e4 nodes more than thirty times. Which turn ends depends on the machine; the
    certificate does not.

    The certificate is that of :class:`~lowrank_opt.monotone.LinearProgram`, computed from the
    data, with HiGHS too. That there is no solution is said with a ray that the problem verifies.

    Examples
    --------
    >>> from lowrank_opt.monotone import linprog
    >>> result = linprog([-1.0, -2.0], [[1.0, 1.0]], [4.0], bounds=[(0, 3), (0, 3)])
    >>> result.fun, result.x.tolist(), result.ineqlin.marginals.tolist()
    (-7.0, [1.0, 3.0], [-1.0])
    """
    start = time.perf_counter()
    given: dict[str, Any] = {
        "method": method,
        "tol": tol,
        "max_iter": max_iter,
        "max_time": max_time,
    }
    given, presolve = _check_arguments(given, options, integrality, solver_params)
    problem, n_ub = _program(c, A_ub, b_ub, A_eq, b_eq, bounds)
    if x0 is not None and not isinstance(x0, tuple):
        x0 = _vector("x0", x0)
    result = solve_program(problem, x0=x0, presolve=presolve, start=start, **given, **solver_params)
    return _dress(result, problem, n_ub)


def from_scipy_arguments(
    c: Any,
    A_ub: Any = None,
    b_ub: Any = None,
    A_eq: Any = None,
    b_eq: Any = None,
    bounds: Any = (0, None),
) -> LinearProgram:
    """Return the program that the arguments of :func:`scipy.optimize.linprog` mean.

    Parameters
    ----------
    c, A_ub, b_ub, A_eq, b_eq : array-like or None
        As in :func:`linprog`; the rows of `A_ub` come first.
    bounds : pair, sequence of pairs or None, default=(0, None)
        As in :func:`linprog`.

    Returns
    -------
    LinearProgram
        The program.

    Raises
    ------
    ProblemError
        Shapes that do not fit, or numbers that are not finite.

    Examples
    --------
    >>> from lowrank_opt.monotone.front import from_scipy_arguments
    >>> from_scipy_arguments([1.0, 1.0], A_eq=[[1.0, 2.0]], b_eq=[3.0]).lower.tolist()
    [0.0, 0.0]
    """
    return _program(c, A_ub, b_ub, A_eq, b_eq, bounds)[0]


# -- arguments ----------------------------------------------------------------------------------


def _check_arguments(
    given: dict[str, Any],
    options: Mapping[str, Any] | None,
    integrality: Any,
    solver_params: dict[str, Any],
) -> tuple[dict[str, Any], bool | None]:
    """Check everything but the program's data."""
    presolve = solver_params.pop("presolve", None)
    for name, value in (options or {}).items():
        if name not in _OPTIONS:
            raise ParameterError(
                f"linprog: options has {name!r}, which is not taken." + did_you_mean(name, _OPTIONS)
            )
        argument = _OPTIONS[name]
        if argument == "presolve":
            presolve = bool(value) if presolve is None else presolve
        elif argument and value is not None:
            if given[argument] is not None:
                raise ParameterError(
                    f"linprog: {argument}={given[argument]!r} and options[{name!r}]={value!r}; "
                    "give one of them"
                )
            given[argument] = value
    validate_parameters(
        "linprog",
        given,
        PARAMETERS,
    )
    if integrality is not None and np.any(integrality):
        raise ProblemError(
            "integrality asks for integer variables; only continuous ones are solved here: leave "
            "it out for the relaxation, or use scipy.optimize.milp"
        )
    if solver_params:
        from lowrank_opt.monotone.halpern_pdhg import HalpernPDHG

        known = {*HalpernPDHG._signature(), *_SOLVE_KEYWORDS}
        for name in solver_params:
            if name not in known:
                own = {"A_ub", "b_ub", "A_eq", "b_eq", "bounds", "method", "options", "x0"}
                raise TypeError(
                    f"linprog got an unexpected keyword {name!r}." + did_you_mean(name, known | own)
                )
        if given["method"] in SOLVERS:
            raise ParameterError(
                f"linprog: {sorted(solver_params)} are of HalpernPDHG; with "
                f"method={given['method']!r} they have no effect: choose 'halpern' or 'auto'"
            )
    return given, presolve


def _program(
    c: Any, A_ub: Any, b_ub: Any, A_eq: Any, b_eq: Any, bounds: Any
) -> tuple[LinearProgram, int]:
    """Return the program and how many of its rows are inequalities."""
    c = _vector("c", c)
    n = len(c)
    upper_rows, upper = _rows("ub", A_ub, b_ub, n)
    equal_rows, equal = _rows("eq", A_eq, b_eq, n)
    n_ub = len(upper)
    if len(equal) and not np.isfinite(equal).all():
        i = int(np.argmin(np.isfinite(equal)))
        raise ProblemError(f"b_eq[{i}] is {equal[i]:g}; a finite right-hand side is needed")
    if upper_rows is None or equal_rows is None:
        A = equal_rows if upper_rows is None else upper_rows
    elif isinstance(upper_rows, np.ndarray) and isinstance(equal_rows, np.ndarray):
        A = np.concatenate([upper_rows, equal_rows])
    else:
        A = sp.vstack([sp.csr_array(upper_rows), sp.csr_array(equal_rows)], format="csr")
    if isinstance(A, np.ndarray):
        A = _sparse(A)
    low = np.concatenate([np.full(n_ub, -np.inf), equal])
    high = np.concatenate([upper, equal])
    lower, upper = _bounds(bounds, n)
    return LinearProgram(c, A, low, high, lower, upper), n_ub


def _vector(name: str, value: Any) -> NDArray[np.float64]:
    """Return a vector; one with further axes of length 1 is one, as for SciPy."""
    array = np.asarray(real_array(name, value, finite=name == "c")[0], np.float64)
    if array.ndim != 1:
        array = array.reshape(-1) if array.size == max(array.shape, default=1) else array
        if array.ndim != 1:
            raise ProblemError(f"{name} has shape {array.shape}; a vector is needed")
    return array


def _rows(which: str, A: Any, b: Any, n: int) -> tuple[Any, NDArray[np.float64]]:
    """Return constraints, dense or sparse as they are given, and their right-hand sides."""
    if A is None:
        size = 0 if b is None else np.size(b)
        if size:
            raise ProblemError(f"b_{which} has {size} entries, and A_{which} is None; give both")
        return None, np.empty(0)
    if b is None:
        if np.size(A) if not hasattr(A, "tocsr") else A.shape[0]:
            raise ProblemError(f"A_{which} is given and b_{which} is None; give both")
        return None, np.empty(0)
    if not hasattr(A, "tocsr"):
        A = np.asarray(real_array(f"A_{which}", A)[0], np.float64)
        if A.size == 0 and A.ndim <= 2 and not np.size(b):
            return None, np.empty(0)
    if A.ndim != 2 or A.shape[1] != n:
        raise ProblemError(
            f"A_{which} has shape {A.shape}, and c has {n} entries; A_{which} needs one column "
            "for each of them"
        )
    if hasattr(A, "tocsr") and not np.isfinite(A.tocsr().data).all():
        raise ProblemError(f"A_{which} contains NaN or infinity; finite numbers are needed")
    b = _vector(f"b_{which}", b)
    if len(b) != A.shape[0]:
        raise ProblemError(
            f"b_{which} has shape {b.shape} and A_{which} has shape {A.shape}: one entry for each "
            "row is needed"
        )
    return A, b


def _sparse(A: NDArray[np.float64]) -> Any:
    """Return a csr_array of a dense matrix; several times faster than SciPy for small ones."""
    index = np.flatnonzero(A).astype(np.int64)
    rows, columns = np.divmod(index, A.shape[1])
    pointers = np.zeros(A.shape[0] + 1, np.int32)
    np.cumsum(np.bincount(rows, minlength=A.shape[0]), out=pointers[1:])
    values = A.reshape(-1)[index]
    return sp.csr_array((values, columns.astype(np.int32), pointers), shape=A.shape)


def _bounds(bounds: Any, n: int) -> tuple[Any, Any]:
    """Return lower and upper bounds from any form that SciPy takes."""
    if hasattr(bounds, "lb") and hasattr(bounds, "ub"):
        raise ProblemTypeError(
            "bounds is a Bounds object; linprog takes pairs: np.stack([b.lb, b.ub], axis=1)"
        )
    if isinstance(bounds, tuple) and len(bounds) == 2 and bounds[0] == 0 and bounds[1] is None:
        return 0.0, np.inf
    if bounds is None:
        return 0.0, np.inf
    try:
        pairs = np.array(bounds, np.float64)  # None becomes NaN
    except (TypeError, ValueError) as error:
        raise ProblemError(
            f"bounds cannot be read as pairs of numbers ({error}); give (lower, upper), or one "
            "pair for each variable, with None where there is no bound"
        ) from None
    if pairs.size == 0:
        return 0.0, np.inf
    missing = np.isnan(pairs)
    if missing.any():
        given = np.array(bounds, dtype=object)
        if any(value is not None for value in given[missing]):
            raise ProblemError("bounds has NaN; None, -inf or inf mean that there is no bound")
    if pairs.shape == (n, 2):
        pass
    elif pairs.shape in ((2,), (1, 2), (2, 1)):
        pairs, missing = pairs.reshape(1, 2), missing.reshape(1, 2)
    else:
        raise ProblemError(
            f"bounds has shape {pairs.shape}; expected a pair, or ({n}, 2) for {n} variables"
        )
    lower = np.where(missing[:, 0], -np.inf, pairs[:, 0])
    upper = np.where(missing[:, 1], np.inf, pairs[:, 1])
    return (lower, upper) if len(lower) == n else (lower[0], upper[0])


# -- solution -----------------------------------------------------------------------------------


def solve_program(
    problem: ConvexProgram,
    *,
    method: str = "auto",
    tol: float = 1e-6,
    max_iter: int | None = None,
    max_time: float | None = None,
    x0: Any = None,
    presolve: bool | None = None,
    defaults: Mapping[str, Any] | None = None,
    start: float | None = None,
    **solver_params: Any,
) -> Result:
    """Solve a program by the method that :func:`linprog` would take.

    Parameters
    ----------
    problem : LinearProgram or QuadraticProgram
        The program; quadratic ones go to Halpern PDHG with "auto".
    method : {"auto", "halpern", "highs", "highs-ds", "highs-ipm"}, default="auto"
        As in :func:`linprog`.
    tol, max_iter, max_time : float, int or None, float or None
        As in :func:`linprog`.
    x0 : PrimalDual, array-like or None, default=None
        Start.
    presolve : bool or None, default=None
        Whether to simplify first; ``None``: the method's own choice.
    defaults : dict or None, default=None
        Parameters of Halpern PDHG and keywords of its ``solve`` for the case that it is taken.
    start : float or None, default=None
        When the call began, on the clock of :func:`time.perf_counter`.
    **solver_params
        As in :func:`linprog`, and not checked here; with "auto" they choose Halpern PDHG.

    Returns
    -------
    Result
        ``x`` is a :class:`~lowrank_opt.monotone.PrimalDual`, or ``None``.
    """
    start = time.perf_counter() if start is None else start
    if x0 is not None:
        x0 = problem.pair(x0)
        if method != "halpern":
            certificate = problem.certificate(x0)
            if certificate.residual <= tol:
                return _already_solved(problem, x0, certificate, tol, start)
    from lowrank_opt.monotone.halpern_pdhg import HalpernPDHG

    def by_highs(limit: float | None) -> Result:
        return solve_with_highs(
            problem,
            solver=SOLVERS.get(method, "choose"),
            tol=tol,
            max_iter=max_iter,
            max_time=limit,
            presolve=presolve is not False,
        )

    def by_halpern(limit: float | None, **start_from: Any) -> Result:
        given = {**(defaults or {}), **solver_params}
        params = {name: v for name, v in given.items() if name not in _SOLVE_KEYWORDS}
        keywords = {name: v for name, v in given.items() if name in _SOLVE_KEYWORDS}
        params |= {"tol": tol, "max_time": limit}
        if max_iter is not None:
            params["max_iter"] = max_iter
        if presolve is not None:
            params.setdefault("presolve", presolve)
        return HalpernPDHG(**params).solve(problem, **start_from, **keywords)

    def left(budget: float | None) -> float | None:
        """Return a stage's budget within what is left of max_time."""
        if max_time is None:
            return budget
        rest = max(max_time - (time.perf_counter() - start), 0.0)
        return rest if budget is None else min(budget, rest)

    if method in SOLVERS:
        return by_highs(max_time)
    if method == "halpern" or solver_params or not _for_highs(problem):
        return by_halpern(max_time, x0=x0)
    last, start_from = None, {"x0": x0}
    for who, budget in _STAGES:
        limit = left(budget)
        if last is not None and left(None) == 0.0:
            break
        if who == "highs":
            result = by_highs(limit)
            out_of_time = result.status is Status.TIME_LIMIT
            if result.status in (Status.STALLED, Status.NUMERICAL_ERROR):
                if last is None and result.x is not None:
                    start_from = {"x0": result.x}
            elif not out_of_time:
                return result
        else:
            result = by_halpern(limit, **start_from)
            if result.status is not Status.TIME_LIMIT:
                return result
            start_from = {"state": result.state}
        if last is None or _better(result, last):
            last = result
    assert last is not None
    return last


def _better(result: Result, other: Result) -> bool:
    """Whether a result without an answer has the smaller residual."""
    new, old = result.residual, other.residual
    return new is not None and (old is None or new < old)


def _for_highs(problem: ConvexProgram) -> bool:
    return problem.Q is None and problem.nnz <= _HIGHS_NNZ


def _already_solved(
    problem: ConvexProgram, x0: PrimalDual, certificate: Any, tol: float, start: float
) -> Result:
    from lowrank_opt.core.result import Result

    return Result(
        x=x0,
        fun=certificate.objective,
        success=True,
        status=Status.CONVERGED,
        message=f"x0 solves the problem: residual {certificate.residual:.2e} <= tol {tol:g}",
        counts={},
        residual=certificate.residual,
        certificate=certificate,
        time=time.perf_counter() - start,
        setup_time=0.0,
        compile_time=0.0,
        y=x0.y,
        z=problem.reduced_costs(x0),
        duals=x0.y,
        ray=None,
        solver="x0",
        problem=repr(problem),
    )


def _dress(result: Result, problem: LinearProgram, n_ub: int) -> Result:
    """Give a result of a linear program SciPy's fields."""
    empty = dict.fromkeys(("slack", "con", "ineqlin", "eqlin", "lower", "upper"))
    nothing = result.status in (Status.INFEASIBLE, Status.UNBOUNDED) or result.x is None
    if nothing:
        result.update(empty, x=None, fun=None, y=None, z=None, duals=None)
        result.setdefault("ray", None)
        return result
    x, y = result.x
    z = result.get("z")
    if z is None:
        z = problem.reduced_costs(result.x)
    left = problem.constraint_upper - problem.A @ x
    slack, con = left[:n_ub], left[n_ub:]
    at_lower = np.where(problem.lower == -np.inf, 0.0, np.maximum(z, 0.0))
    at_upper = np.where(problem.upper == np.inf, 0.0, np.minimum(z, 0.0))
    result.update(
        x=x,
        y=y,
        z=z,
        duals=y,
        slack=slack,
        con=con,
        ineqlin=Marginals(slack, y[:n_ub]),
        eqlin=Marginals(con, y[n_ub:]),
        lower=Marginals(x - problem.lower, at_lower),
        upper=Marginals(problem.upper - x, at_upper),
    )
    return result
