"""The front doors of sparse transport: one plan, a value with its gradients, a grid of plans."""

from __future__ import annotations

import dataclasses
import itertools
import warnings
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import scipy.sparse as sp

from lowrank_opt.core import errors
from lowrank_opt.core.errors import ParameterError, ProblemError
from lowrank_opt.core.params import Interval, did_you_mean, validate_parameters
from lowrank_opt.core.solver import deferred_interrupt
from lowrank_opt.core.state import Status
from lowrank_opt.transport.certificates import support_norms
from lowrank_opt.transport.problems import TransportProblem
from lowrank_opt.transport.sparsity_constrained import SparsityConstrainedOT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

    from lowrank_opt.core.result import Result

__all__ = [
    "RegularizationPath",
    "TransportGradients",
    "ot_regularization_path",
    "ot_value_and_grad",
    "sparse_ot",
]

_SOLVE_KEYWORDS = ("x0", "state", "callback", "history", "progress", "checkpoint")
# What others call it.
_ALIASES = {
    "M": "C", "cap": "max_nnz", "k": "max_nnz", "numItermax": "max_iter", "reg": "gamma",
    "stopThr": "tol",
}  # fmt: skip
_USER_STOPPED = (Status.STOPPED_BY_CALLBACK, Status.INTERRUPTED)


def sparse_ot(
    C: Any = None,
    a: ArrayLike | None = None,
    b: ArrayLike | None = None,
    *,
    X: Any = None,
    Y: Any = None,
    max_nnz: int | None = None,
    gamma: float = 1.0,
    axis: int = 0,
    method: str = "auto",
    tol: float = 1e-6,
    max_iter: int | None = None,
    max_time: float | None = None,
    **options: Any,
) -> Result:
    r"""Transport masses with a quadratic term and at most k nonzeros in every column (or row).

    .. math:: \min_{T \ge 0}\; \langle C, T \rangle + \frac\gamma2 \|T\|_F^2
        \quad\text{s.t.}\quad T 1 = a,\; T^\top 1 = b,\; \|t_j\|_0 \le k .

    Parameters
    ----------
    C : array-like or scipy sparse of shape (m, n), or None, default=None
        Costs; ``+inf``, or not stored in a sparse matrix: the pair is forbidden.
    a : array-like of shape (m,) or None, default=None
        Masses of the sources; ``None``: 1/m each.
    b : array-like of shape (n,) or None, default=None
        Masses of the targets, of the same total; ``None``: 1/n each.
    X, Y : array-like of shape (m, d) and (n, d), or None, default=None
        Points instead of `C`; the cost matrix is never formed.
    max_nnz : int or None, default=None
        The cap k, at least 1; ``None``: none, which is quadratically regularised transport.
    gamma : float, default=1.0
        Strength of the quadratic term, at least 0. What matters is its product with the mass of a
        column, against the range of the costs; see ``gamma_scale`` of
        :class:`~lowrank_opt.transport.TransportProblem`.
    axis : {0, 1}, default=0
        What is capped: every column (0) or every row (1).
    method : str, default="auto"
        "auto", "ssnal", "ssn", "lbfgs", "adam", "sgd" or "bcd"; see
        :class:`~lowrank_opt.transport.SparsityConstrainedOT`.
    tol : float, default=1e-6
        Relative tolerance on marginals and Lagrangian gap.
    max_iter : int or None, default=None
        Limit on iterations; ``None``: the solver's own.
    max_time : float or None, default=None
        Limit on seconds.
    **options
        Other fields of the problem (``metric``, ``a_upper``, ``b_upper``, ``unbalanced``,
        ``marginal_weight``, ``gamma_scale``), parameters of the solver (``rounding``,
        ``n_threads``, ``random_state``, …), and keywords of its ``solve`` (``x0``, ``callback``,
        ``history``, …).

    Returns
    -------
    Result
        ``x`` is a :class:`~lowrank_opt.transport.TransportPlan`, a ``csc_array``. ``alpha``,
        ``beta``, ``value``, ``dual_value``, ``gap``, ``plan_status`` and others are described at
        :class:`~lowrank_opt.transport.SparsityConstrainedOT`.

    Raises
    ------
    ProblemError, InfeasibleError, ParameterError
        Bad data, masses that cannot be served, or a parameter out of range; the message names it.
    TypeError
        An unknown keyword; the message suggests the closest one.

    Warns
    -----
    ConvergenceWarning
        The solver ended before it had converged; ``status`` and ``message`` say why.

    Examples
    --------
    >>> import numpy as np
    >>> from lowrank_opt.transport import sparse_ot
    >>> x = np.linspace(0.0, 1.0, 5)
    >>> result = sparse_ot(np.abs(x[:, None] - x), max_nnz=1, gamma=0.1)
    >>> result.plan_status, result.x.diagonal().round(6).tolist()
    ('optimal', [0.2, 0.2, 0.2, 0.2, 0.2])
    """
    own = {"X": X, "Y": Y, "max_nnz": max_nnz, "gamma": gamma, "axis": axis}
    given = {"method": method, "tol": tol, "max_iter": max_iter, "max_time": max_time}
    fields, params, keywords = _sorted_out("sparse_ot", options, {*own, *given})
    solver = _solver("sparse_ot", given, params)
    problem = _problem("sparse_ot", C, a, b, {**own, **fields})
    return _solve("sparse_ot", solver, problem, keywords)


class TransportGradients(NamedTuple):
    """A value of relaxed transport with its gradients.

    Parameters
    ----------
    value : float
        Optimal value of the relaxation, as a proved lower bound.
    grad_a, grad_b : ndarray of float64, of shapes (m,) and (n,)
        Gradients in the masses. For balanced transport adding a number to one and subtracting it
        from the other changes nothing: they hold along directions that keep the totals equal.
    grad_C : csc_array of shape (m, n)
        Gradient in the costs: the relaxed plan.
    grad_gamma : float
        Derivative in the strength of the quadratic term.
    result : Result
        Result of the solver, with its certificate.
    """

    value: float
    grad_a: NDArray[Any]
    grad_b: NDArray[Any]
    grad_C: sp.csc_array  # noqa: N815
    grad_gamma: float
    result: Any


def ot_value_and_grad(
    C: Any = None,
    a: ArrayLike | None = None,
    b: ArrayLike | None = None,
    *,
    X: Any = None,
    Y: Any = None,
    max_nnz: int | None = None,
    gamma: float = 1.0,
    axis: int = 0,
    method: str = "auto",
    tol: float = 1e-8,
    max_iter: int | None = None,
    max_time: float | None = None,
    **options: Any,
) -> TransportGradients:
    """Return the optimal value of relaxed sparse transport and its gradients.

    The relaxation is that of :class:`~lowrank_opt.transport.TransportProblem`. It is concave in
    costs and strength and convex in the masses. Where the optimal plan or the potentials are not
    unique, what is returned is one super- or subgradient.

    Parameters
    ----------
    C : array-like or scipy sparse of shape (m, n), or None, default=None
        Costs.
    a, b : array-like of shape (m,) and (n,), or None, default=None
        Masses; ``None``: the same everywhere, of total 1.
    X, Y : array-like of shape (m, d) and (n, d), or None, default=None
        Points instead of `C`.
    max_nnz : int or None, default=None
        Cap on the nonzeros of a column; ``None``: none.
    gamma : float, default=1.0
        Strength of the quadratic term.
    axis : {0, 1}, default=0
        What is capped: every column (0) or every row (1).
    method : str, default="auto"
        Method of :class:`~lowrank_opt.transport.SparsityConstrainedOT`.
    tol : float, default=1e-8
        Relative tolerance; gradients are about as accurate as marginals.
    max_iter : int or None, default=None
        Limit on iterations; ``None``: the solver's own.
    max_time : float or None, default=None
        Limit on seconds.
    **options
        As for :func:`~lowrank_opt.transport.sparse_ot`, without ``gamma_scale`` and
        ``rounding``.

    Returns
    -------
    TransportGradients
        ``(value, grad_a, grad_b, grad_C, grad_gamma, result)``.

    Raises
    ------
    ProblemError, InfeasibleError, ParameterError
        Bad data, masses that cannot be served, or a parameter out of range.
    TypeError
        An unknown keyword.

    Warns
    -----
    ConvergenceWarning
        The solver ended before it had converged: the value is a bound, the gradients are rough.

    Examples
    --------
    >>> import numpy as np
    >>> from lowrank_opt.transport import ot_value_and_grad
    >>> C = np.array([[0.0, 1.0], [1.0, 0.0]])
    >>> out = ot_value_and_grad(C, gamma=1.0)
    >>> round(out.value, 6), round(out.grad_gamma, 6), out.grad_C.toarray().round(6).tolist()
    (0.25, 0.25, [[0.5, 0.0], [0.0, 0.5]])
    """
    caller = "ot_value_and_grad"
    for name in ("gamma_scale", "rounding"):
        if name in options:
            raise TypeError(
                f"{caller} does not take {name}: gradients are those of the relaxation, in gamma "
                "as it is"
            )
    own = {"X": X, "Y": Y, "max_nnz": max_nnz, "gamma": gamma, "axis": axis}
    given = {"method": method, "tol": tol, "max_iter": max_iter, "max_time": max_time}
    fields, params, keywords = _sorted_out(caller, options, {*own, *given})
    solver = _solver(caller, given, {**params, "rounding": "none"})
    problem = _problem(caller, C, a, b, {**own, **fields})
    result = _solve(caller, solver, problem, keywords)
    plan = result.x
    slopes = [result.alpha, result.beta]
    if problem.unbalanced == "kl":
        free = 0 if problem.axis == 0 else 1
        weight = float(problem.marginal_weight)
        slopes[free] = -weight * np.expm1(-slopes[free] / weight)
    turned = plan if problem.axis == 0 else sp.csc_array(plan.T)
    parts = (plan.data.copy(), plan.indices.copy(), plan.indptr.copy())
    return TransportGradients(
        value=float(result.dual_value),
        grad_a=slopes[0],
        grad_b=slopes[1],
        grad_C=sp.csc_array(parts, shape=plan.shape),
        grad_gamma=0.5 * float(np.sum(support_norms(turned, problem.cap))),
        result=result,
    )


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class RegularizationPath:
    """Results over a grid of strengths and caps; arrays have shape (n_gammas, n_caps).

    Parameters
    ----------
    gammas : ndarray of shape (n_gammas,)
        Strengths of the quadratic term, as they were given.
    max_nnzs : list of int or None
        Caps, as they were given.
    results : list of list of Result or None
        ``results[i][j]`` belongs to ``gammas[i]`` and ``max_nnzs[j]``; ``None`` for pairs that
        were not reached, because the callback or Ctrl-C ended the path. Arrays of numbers have
        NaN there, those of integers -1, and ``converged`` is False.

    Attributes
    ----------
    values, dual_values, relaxed_values, gaps : ndarray
        Value of the plan, lower bound, value of the relaxed plan, and value minus bound.
    costs : ndarray
        Transport cost of the plan alone.
    nonzeros, longest : ndarray of int
        Nonzeros of the plan, and of its longest column (or row).
    residuals : ndarray
        Residuals of the certificates.
    converged : ndarray of bool
        Whether the solver converged.
    iterations : ndarray of int
        Iterations.
    seconds : ndarray
        Seconds.
    """

    gammas: NDArray[Any]
    max_nnzs: list[int | None]
    results: list[list[Any]]

    def _table(self, read: Any, dtype: Any = np.float64, missing: Any = np.nan) -> NDArray[Any]:
        return np.array(
            [[missing if r is None else read(r) for r in row] for row in self.results], dtype=dtype
        )

    @property
    def values(self) -> NDArray[Any]:
        """Values of the plans."""
        return self._table(lambda r: r.value)

    @property
    def dual_values(self) -> NDArray[Any]:
        """Lower bounds on the value of every feasible plan."""
        return self._table(lambda r: r.dual_value)

    @property
    def relaxed_values(self) -> NDArray[Any]:
        """Values of the relaxed plans."""
        return self._table(lambda r: r.relaxed_value)

    @property
    def gaps(self) -> NDArray[Any]:
        """Values minus lower bounds."""
        return self._table(lambda r: r.gap)

    @property
    def costs(self) -> NDArray[Any]:
        """Transport costs without the quadratic term."""
        return self._table(lambda r: r.certificate.details["cost"])

    @property
    def nonzeros(self) -> NDArray[Any]:
        """Nonzeros of the plans."""
        return self._table(lambda r: int(r.x.counts().sum()), np.int64, -1)

    @property
    def longest(self) -> NDArray[Any]:
        """Nonzeros of the longest column (or row)."""
        return self._table(lambda r: r.max_nnz, np.int64, -1)

    @property
    def residuals(self) -> NDArray[Any]:
        """Residuals of the certificates."""
        return self._table(lambda r: r.certificate.residual)

    @property
    def converged(self) -> NDArray[Any]:
        """Whether the solver converged."""
        return self._table(lambda r: r.success, bool, False)

    @property
    def iterations(self) -> NDArray[Any]:
        """Iterations of the solver."""
        return self._table(lambda r: r.nit, np.int64, -1)

    @property
    def seconds(self) -> NDArray[Any]:
        """Seconds of the solver."""
        return self._table(lambda r: r.time)

    def __repr__(self) -> str:
        n_gammas, n_caps = len(self.gammas), len(self.max_nnzs)
        done = int(self.converged.sum())
        left = sum(result is None for row in self.results for result in row)
        return (
            f"RegularizationPath({n_gammas} strengths, {n_caps} caps: {done} of "
            f"{n_gammas * n_caps} converged{f', {left} not reached' if left else ''})"
        )


def ot_regularization_path(
    C: Any = None,
    a: ArrayLike | None = None,
    b: ArrayLike | None = None,
    *,
    gammas: Sequence[float],
    max_nnzs: Sequence[int | None] = (None,),
    X: Any = None,
    Y: Any = None,
    axis: int = 0,
    method: str = "auto",
    tol: float = 1e-6,
    max_iter: int | None = None,
    max_time: float | None = None,
    **options: Any,
) -> RegularizationPath:
    """Solve sparse transport for every pair of a strength and a cap, each from a neighbour.

    Parameters
    ----------
    C : array-like or scipy sparse of shape (m, n), or None, default=None
        Costs.
    a, b : array-like of shape (m,) and (n,), or None, default=None
        Masses; ``None``: the same everywhere, of total 1.
    gammas : sequence of float
        Strengths of the quadratic term, at least 0, in any order.
    max_nnzs : sequence of int or None, default=(None,)
        Caps, in any order; ``None`` is no cap.
    X, Y : array-like of shape (m, d) and (n, d), or None, default=None
        Points instead of `C`.
    axis : {0, 1}, default=0
        What is capped: every column (0) or every row (1).
    method : str, default="auto"
        Method of :class:`~lowrank_opt.transport.SparsityConstrainedOT`.
    tol : float, default=1e-6
        Relative tolerance.
    max_iter : int or None, default=None
        Limit on iterations of one pair; ``None``: the solver's own.
    max_time : float or None, default=None
        Limit on seconds of one pair.
    **options
        As for :func:`~lowrank_opt.transport.sparse_ot`, without ``x0``, ``state`` and
        ``checkpoint``.

    Returns
    -------
    RegularizationPath
        Results in the order of `gammas` and `max_nnzs`, each with its own certificate, and their
        values, bounds, nonzeros and times as arrays. ``StopIteration`` from the callback, or
        Ctrl-C, ends the whole path: the results so far are returned, those of the other pairs
        are ``None``.

    Raises
    ------
    ProblemError, InfeasibleError, ParameterError
        Bad data or a parameter out of range, before anything is solved.
    TypeError
        An unknown keyword.

    Warns
    -----
    ConvergenceWarning
        Some pair has not converged.

    Notes
    -----
    The grid is walked from large caps to small ones, and for each cap from small strengths to
    large ones; a pair starts from the potentials and the relaxed plan of the last strength, or of
    the last cap. The answers do not depend on the order, up to the tolerance.

    Examples
    --------
    >>> import numpy as np
    >>> from lowrank_opt.transport import ot_regularization_path
    >>> x = np.linspace(0.0, 1.0, 6)
    >>> path = ot_regularization_path(
    ...     (x[:, None] - x) ** 2, gammas=[0.1, 10.0], max_nnzs=[2, None]
    ... )
    >>> path.dual_values.round(4).tolist()
    [[0.0083, 0.0083], [0.4364, 0.2819]]
    """
    caller = "ot_regularization_path"
    own = {"X": X, "Y": Y, "axis": axis}
    given = {"method": method, "tol": tol, "max_iter": max_iter, "max_time": max_time}
    taken = {*own, *given, "gammas", "max_nnzs"}
    for name, plural in (("gamma", "gammas"), ("max_nnz", "max_nnzs")):
        if name in options:
            raise TypeError(f"{caller} does not take {name}; give {plural}, a sequence")
    for name in ("x0", "state", "checkpoint"):
        if name in options:
            raise TypeError(f"{caller} does not take {name}: every pair starts from a neighbour")
    fields, params, keywords = _sorted_out(caller, options, taken)
    gammas, caps = _grid(caller, gammas, max_nnzs)
    solver = _solver(caller, given, params)
    first = _problem(caller, C, a, b, {**own, **fields, "gamma": gammas[0], "max_nnz": caps[0]})
    problems = {
        (i, j): first if i == j == 0 else dataclasses.replace(first, gamma=gamma, max_nnz=cap)
        for i, gamma in enumerate(gammas)
        for j, cap in enumerate(caps)
    }
    view = first.canonical
    for gamma, cap in itertools.product(gammas, caps):  # 0 or not is all that matters of gamma
        k = view.m if cap is None else min(cap, view.m)
        solver.check_method(dataclasses.replace(view, gamma=gamma, k=k))
    length = first.shape[first.axis]
    strengths = np.argsort(gammas, kind="stable")
    sizes = np.argsort([-(length if cap is None else cap) for cap in caps], kind="stable")
    results: dict[tuple[int, int], Result] = {}
    with deferred_interrupt() as interrupt:
        callback = keywords.get("callback")
        watch = _Watch(callback, interrupt)
        if callback is None or callable(callback):  # what is neither is for the solver to refuse
            keywords["callback"] = watch
        for place, rank in np.ndindex(len(caps), len(gammas)):
            i, j = int(strengths[rank]), int(sizes[place])
            near = (strengths[rank - 1], j) if rank else (i, sizes[place - 1]) if place else None
            x0 = None if near is None else results[near].x
            try:
                results[i, j] = watch.relabel(solver.solve(problems.pop((i, j)), x0=x0, **keywords))
            except KeyboardInterrupt:  # the second time
                break
            if watch.over or results[i, j].status in _USER_STOPPED:
                break
    table = [[results.get((i, j)) for j in range(len(caps))] for i in range(len(gammas))]
    path = RegularizationPath(np.array(gammas), caps, table)
    missed = [(gammas[i], caps[j]) for (i, j), result in results.items() if _is_unfinished(result)]
    if missed:
        _warn(
            f"{caller}: {len(missed)} of {len(results)} pairs (gamma, max_nnz) have not "
            f"converged, the first {missed[0]}; look at results[i][j].message"
        )
    return path


class _Watch:
    """A callback that knows whether the path is to end."""

    def __init__(self, callback: Any, interrupt: Any) -> None:
        self.callback, self.interrupt, self.stopped = callback, interrupt, False

    @property
    def over(self) -> bool:
        return self.stopped or bool(self.interrupt.raised)

    def __call__(self, intermediate_result: Any) -> None:
        if self.callback is not None:
            try:
                self.callback(intermediate_result)
            except StopIteration:
                self.stopped = True
        if self.over:
            raise StopIteration

    def relabel(self, result: Result) -> Result:
        """Say that it was Ctrl-C, which reaches the solver as the stop of a callback."""
        if result.status is Status.STOPPED_BY_CALLBACK and not self.stopped:
            result.status = Status.INTERRUPTED
            result.message = result.message.replace("Stopped by the callback", "Interrupted")
        return result


def _grid(caller: str, gammas: Any, max_nnzs: Any) -> tuple[list[float], list[int | None]]:
    if not np.iterable(gammas) or not np.iterable(max_nnzs):
        name, value = ("gammas", gammas) if not np.iterable(gammas) else ("max_nnzs", max_nnzs)
        raise ParameterError(f"{caller}: {name}={value!r} must be a sequence; give a list")
    gammas, caps = list(gammas), list(max_nnzs)
    for name, values in (("gammas", gammas), ("max_nnzs", caps)):
        if not values:
            raise ParameterError(f"{caller}: {name} is empty; give at least one value")
    strength = [Interval(Real, 0, None, closed="left")]
    for gamma in gammas:
        validate_parameters(caller, {"gammas": gamma}, {"gammas": strength})
    for cap in caps:
        size = [None, Interval(Integral, 1, None, closed="left")]
        validate_parameters(caller, {"max_nnzs": cap}, {"max_nnzs": size})
    return [float(gamma) for gamma in gammas], [None if cap is None else int(cap) for cap in caps]


def _problem_fields() -> set[str]:
    fields = {field.name for field in dataclasses.fields(TransportProblem)}
    return fields - {"a", "b", "C"}


def _sorted_out(
    caller: str, options: dict[str, Any], taken: set[str]
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Split options into fields of the problem, parameters of the solver, keywords of solve."""
    known = SparsityConstrainedOT._signature()
    fields: dict[str, Any] = {}
    params: dict[str, Any] = {}
    keywords: dict[str, Any] = {}
    for name, value in options.items():
        if name in _problem_fields():
            fields[name] = value
        elif name in known:
            params[name] = value
        elif name in _SOLVE_KEYWORDS:
            keywords[name] = value
        else:
            choices = {*_problem_fields(), *known, *_SOLVE_KEYWORDS, *taken}
            hint = did_you_mean(name, choices)
            if name in _ALIASES:
                right = _ALIASES[name]
                right = f"{right}s" if f"{right}s" in taken else right
                hint = f" Did you mean {right!r}?"
            raise TypeError(f"{caller} got an unexpected keyword {name!r}.{hint}")
    return fields, params, keywords


def _solver(caller: str, given: dict[str, Any], params: dict[str, Any]) -> SparsityConstrainedOT:
    """Make the solver; what is ``None`` keeps the solver's own default."""
    constraints = SparsityConstrainedOT._constraints()
    validate_parameters(
        caller,
        given,
        {"method": constraints["method"], "max_iter": [None, *constraints["max_iter"]]},
    )
    given = {name: value for name, value in given.items() if value is not None}
    return SparsityConstrainedOT(**given, **params)


def _problem(caller: str, C: Any, a: Any, b: Any, fields: dict[str, Any]) -> TransportProblem:
    if isinstance(C, TransportProblem):
        raise ProblemError(
            f"{caller}: C is a TransportProblem; use lowrank_opt.solve(problem), which takes its "
            "own fields, or give the costs"
        )
    return TransportProblem(a, b, C, **fields)


def _solve(
    caller: str, solver: SparsityConstrainedOT, problem: Any, keywords: dict[str, Any]
) -> Result:
    result = solver.solve(problem, **keywords)
    if _is_unfinished(result):
        _warn(
            f"{caller}: {result.message.rstrip('.')}. Raise max_iter, max_time or tol, or take "
            "another method."
        )
    return result


def _is_unfinished(result: Result) -> bool:
    return not result.success and result.status not in _USER_STOPPED


def _warn(message: str) -> None:
    # scikit-learn's class: imported when it is needed
    warnings.warn(message, errors.ConvergenceWarning, stacklevel=4)
