"""Engine of logistic, Huber and Poisson losses: proximal Newton steps on working sets.

An iteration chooses a working set W by the correlations of the last one, minimises the quadratic
model of the loss plus the penalty over W (and the intercept), searches along the step on the
objective, moves the intercept to its optimum, and reads the design once for the new correlations,
which give the duality gap. Where reading a tall dense design costs more than all else, there are
several steps on W before.

The model is minimised in one of two forms. *Residual*: coordinate descent on W that keeps the
derivative of the model by the predictors. *Gram*: coordinate descent and Newton steps on the
products of the columns, of W for sparse designs with few columns, else of the support that some
sweeps in residual form have left.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from lowrank_opt.block_coordinate import kernels_prox_newton as kernels
from lowrank_opt.block_coordinate import newton_models as models
from lowrank_opt.block_coordinate.composite import limits_of
from lowrank_opt.block_coordinate.losses import Huber, Logistic, Poisson
from lowrank_opt.block_coordinate.sparse_state import SparseState, check_start
from lowrank_opt.core.errors import ProblemTypeError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["ProxNewtonState", "check", "init", "point", "step"]

# Coefficients of a working set at least: dense, and sparse against the number of features.
_SMALLEST, _SPARSE_PART = 100, 20
# What a correlation must have of its limit to be a candidate.
_CANDIDATE = 0.3
# Least part of the decrease that the slope promises; trial points of a line search.
_ARMIJO, _TRIALS = 1e-4, 60
# Iterations between two products from scratch of the design and the coefficients.
_REFRESH = 50
# Newton steps on a working set of a tall dense design, and how often that must fit in all columns.
_REPEATS, _SMALL = 3, 4
# Sum of derivatives by the intercept, against that of their sizes, and against the residual.
_BALANCED = 1e-3
# Factors of the curvature that Huber's loss is given outside its quadratic part, and its least.
_SOFTER, _HARDER, _SOFTEST = 0.1, 10.0, 1e-6


@dataclass
class ProxNewtonState(SparseState):
    """State of a run with proximal Newton steps.

    Parameters
    ----------
    w : ndarray of shape (p,)
        Coefficients.
    b : float
        Intercept.
    z : ndarray of shape (n,)
        Predictors ``X w + b``.
    c : ndarray of shape (p,)
        Correlations of the columns with the dual point; of those that are not in `alive` old ones.
    alive : ndarray of int
        Columns that are not proved to have coefficient 0.
    objective : float
        Objective without the constant of the loss.
    scaling : float
        Multiple of the dual point that the gap belongs to.
    part : float
        What a correlation must have of its limit to be a candidate.
    support : int
        Nonzero coefficients.
    softness : float
        Curvature that Huber's loss is given outside its quadratic part, against the secant's.
    limit : float
        Weight of the penalty.
    precise : bool
        Whether models are kept in double precision, since single did not do.
    """

    w: Any = None
    b: float = 0.0
    z: Any = None
    c: Any = None
    alive: Any = None
    objective: float = np.inf
    scaling: float = 1.0
    part: float = _CANDIDATE
    support: int = 0
    softness: float = 1.0
    limit: float = 0.0
    precise: bool = False


class Form(NamedTuple):
    """The penalty as the kernels want it."""

    limits: NDArray[Any]
    mu: float
    positive: bool
    gap: bool


class Work:
    """What is rebuilt from the problem and a state."""

    def __init__(self, problem: Any) -> None:
        smooth = problem.smooth
        n, p = smooth.shape
        self.design = models.Design(smooth.X)
        self.weights = np.empty(0) if smooth.sample_weight is None else smooth.sample_weight
        self.squares = smooth.column_squares
        self.g, self.h, self.theta = np.empty(n), np.empty(n), np.empty(n)
        self.trial, self.step, self.v = np.empty(n), np.zeros(n), np.empty(n)
        self.g2, self.h2 = np.empty(n), np.empty(n)
        self.chosen, self.priority = np.empty(p, np.int64), np.empty(p)
        self.loss_value = self.slopes = 0.0
        self.penalty: Any = None
        self.form: Form | None = None


def check(solver: Any, problem: Any) -> None:
    """Raise if the engine cannot solve a problem.

    Parameters
    ----------
    solver : SparseGLMSolver
        The solver.
    problem : CompositeProblem
        The problem.
    """
    if not isinstance(problem.smooth.loss, (Logistic, Huber, Poisson)) or (
        problem.l1_form() is None
    ):
        raise ProblemTypeError(
            f"proximal Newton steps solve logistic, Huber and Poisson losses with L1-like "
            f"penalties; this is {problem!r}"
        )


def init(solver: Any, problem: Any, x0: Any = None, previous: Any = None) -> ProxNewtonState:
    """Return the first state.

    Parameters
    ----------
    solver : SparseGLMSolver
        The solver.
    problem : CompositeProblem
        The problem.
    x0 : array-like or None, default=None
        Where to start; the null model without.
    previous : ProxNewtonState or None, default=None
        Last state of a run on the same data and another penalty; it is used up.

    Returns
    -------
    ProxNewtonState
        The state.
    """
    smooth = problem.smooth
    n, p = smooth.shape
    if previous is not None:
        return _follow(solver, problem, previous)
    state = ProxNewtonState(limit=float(problem.l1_form().lam))
    state.cache = work = Work(problem)
    form = _form(problem, work)
    state.w, state.c = np.zeros(p), np.zeros(p)
    if x0 is None:
        state.b = float(smooth.null_intercept[0])
        state.z = np.full(n, state.b)
    else:
        flat = smooth.flat(x0)
        state.w[:] = flat[:p]
        state.w[np.isinf(form.limits) | (work.squares == 0)] = 0.0
        if form.positive:
            np.maximum(state.w, 0.0, out=state.w)
        state.b = float(flat[p]) if smooth.fit_intercept else 0.0
        flat[:p] = state.w
        state.z = smooth.start(flat)
    state.alive = _columns(work, form)
    _terms(problem, state, work)
    check_start(work.loss_value, x0)
    known = smooth.__dict__.get("null_products") if x0 is None else None
    if known is not None:
        state.c[:] = -known
    _measure(solver, problem, state, work, fresh=known is None)
    if x0 is None and np.isfinite(form.limits).all():
        # Where the first coefficient appears: an estimator asks for it afterwards.
        smooth.__dict__.setdefault("null_products", -state.c)
    return state


def _follow(solver: Any, problem: Any, state: ProxNewtonState) -> ProxNewtonState:
    work = _work(problem, state)
    before, state.limit = state.limit, float(problem.l1_form().lam)
    form = _form(problem, work)
    everything = _columns(work, form)
    fresh = everything.size != state.alive.size
    forbidden = np.isinf(form.limits) & (state.w != 0)
    if forbidden.any() or (form.positive and (state.w < 0).any()):
        state.w[forbidden] = 0.0
        if form.positive:
            np.maximum(state.w, 0.0, out=state.w)
        state.z = _predictors(problem, state)
        _terms(problem, state, work)
        fresh = True
    state.alive, state.nit, state.failures = everything, 0, 0
    state.counts, state.time, state.message = {}, 0.0, ""
    _measure(solver, problem, state, work, fresh=fresh)
    if before > 0:
        state.part = min(max(_CANDIDATE, 2.0 - before / max(state.limit, 1e-300)), 1.0)
    return state


def step(solver: Any, problem: Any, state: ProxNewtonState) -> ProxNewtonState:
    """Do one iteration, in place.

    Parameters
    ----------
    solver : SparseGLMSolver
        The solver.
    problem : CompositeProblem
        The problem.
    state : ProxNewtonState
        The state.

    Returns
    -------
    ProxNewtonState
        The same.
    """
    work = _work(problem, state)
    W = _working_set(solver, state, work)
    moved = False
    for k in range(_steps(state, work, W)):
        if k > 0:
            if problem.smooth.fit_intercept:
                _move_intercept(solver, problem, state, work)
            work.design.correlate(_dual_point(problem, work), W, state.c)
        if isinstance(problem.smooth.loss, Huber):
            loss = problem.smooth.loss
            kernels.huber_curvature(
                problem.smooth.y, work.weights, state.z, loss.delta, state.softness, work.h
            )
        elif state.failures:
            _stiffen(problem.smooth, state.z, work.h)
        model = models.minimise(solver, problem, state, work, W)
        fell = _search(problem, state, work, W, model)
        moved |= fell
        if not fell:
            break
    state.failures = 0 if moved else state.failures + 1
    if state.failures == 1:
        state.precise = True
    elif state.failures:
        state.message = "The objective cannot be decreased beyond rounding"
    else:
        state.message = ""
    state.nit += 1
    if state.nit % _REFRESH == 0:
        state.z = _predictors(problem, state)
        _terms(problem, state, work)
    if problem.smooth.fit_intercept:
        _move_intercept(solver, problem, state, work)
    state.part = _CANDIDATE
    _measure(solver, problem, state, work)
    return state


def point(problem: Any, state: ProxNewtonState) -> NDArray[Any]:
    """Return coefficients and intercept.

    Parameters
    ----------
    problem : CompositeProblem
        The problem.
    state : ProxNewtonState
        The state.

    Returns
    -------
    ndarray of shape x_shape
        In the problem's dtype.
    """
    x: NDArray[Any] = problem.smooth.shaped(_flat(problem, state))
    return x


# -- parts of an iteration -------------------------------------------------------------------------


def _flat(problem: Any, state: ProxNewtonState) -> NDArray[Any]:
    return np.append(state.w, state.b) if problem.smooth.fit_intercept else state.w


def _predictors(problem: Any, state: ProxNewtonState) -> NDArray[Any]:
    z: NDArray[Any] = problem.smooth.start(_flat(problem, state))
    return z


def _work(problem: Any, state: ProxNewtonState) -> Work:
    if state.cache is None:
        state.cache = Work(problem)
        _terms(problem, state, state.cache)
    work: Work = state.cache
    _form(problem, work)
    return work


def _form(problem: Any, work: Work) -> Form:
    """Penalty of the problem; made anew when it is another one."""
    if work.form is None or work.penalty is not problem.penalty:
        lam, weights, mu, positive = problem.l1_form()
        p = work.squares.size
        limits = np.full(p, lam)
        if weights is not None:
            limits = limits_of(lam, weights)
        gap = problem.measure == "gap"
        work.form = Form(limits, float(mu), bool(positive), gap)
        work.penalty = problem.penalty
    return work.form


def _columns(work: Work, form: Form) -> NDArray[Any]:
    return np.flatnonzero((work.squares > 0) & (form.limits < np.inf))


def _terms(problem: Any, state: ProxNewtonState, work: Work) -> None:
    """Value and derivatives at the predictors."""
    smooth = problem.smooth
    work.step[:] = 0.0
    work.loss_value, work.slopes, _ = kernels.sample_terms(
        smooth.loss, smooth.y, work.weights, state.z, work.step, 0.0, work.trial, work.g, work.h
    )


def _working_set(solver: Any, state: ProxNewtonState, work: Work) -> NDArray[Any]:
    form = work.form
    assert form is not None
    alive = state.alive
    if not solver.working_set:
        return alive
    count = kernels.select(
        state.c, state.w, work.squares, form.limits, state.scaling, state.part, form.positive,
        alive, work.chosen, work.priority,
    )  # fmt: skip
    least = _SMALLEST
    if work.design.sparse:
        least = max(least, work.squares.size // _SPARSE_PART)
    size = max(least, 2 * state.support)
    if count <= size:
        return work.chosen[:count].copy()
    first = np.argpartition(work.priority[:count], size)[:size]
    # What is not 0 now stays, however many there are.
    stay = np.flatnonzero(work.priority[:count] == -np.inf)
    if stay.size > size:
        first = np.union1d(first, stay)
    return np.sort(work.chosen[first])


def _stiffen(smooth: Any, z: NDArray[Any], h: NDArray[Any]) -> None:
    """Raise curvatures that vanish far from the targets, where Newton steps are endless.

    For the logistic loss to a model above it everywhere (Jaakkola and Jordan), for Poisson to the
    curvature at the target.
    """
    least = smooth.y
    if isinstance(smooth.loss, Logistic):
        size = np.maximum(np.abs(z), 1e-3)
        least = np.tanh(0.5 * size) / (2.0 * size)
    np.maximum(h, least if smooth.sample_weight is None else least * smooth.sample_weight, out=h)


def _steps(state: ProxNewtonState, work: Work, W: NDArray[Any]) -> int:
    """Newton steps before all columns are looked at: more of dense, tall designs, if W is small."""
    n, p = work.design.X.shape
    small = not work.design.sparse and n > p and _SMALL * W.size < state.alive.size
    return _REPEATS if small and not state.failures else 1


def _dual_point(problem: Any, work: Work) -> NDArray[Any]:
    """Derivatives of the losses, of sum 0 where the gap needs it."""
    assert work.form is not None
    if not (problem.smooth.fit_intercept and work.form.gap):
        return work.g
    kernels.balance(work.g, work.theta)
    return work.theta


def _search(
    problem: Any, state: ProxNewtonState, work: Work, W: NDArray[Any], model: models.Step
) -> bool:
    """Move along the model's step as far as the objective falls enough; return whether."""
    smooth, form = problem.smooth, work.form
    assert form is not None
    work.design.expand(W, model.d, model.shift, work.step)
    slope = float(work.g @ work.step) + kernels.penalty_along(
        W, state.w, model.d, form.limits, form.mu, 1.0
    )
    slack = 1e-15 * (abs(state.objective) + abs(work.loss_value)) + 1e-300
    if not (np.isfinite(slope) and slope < slack):
        return False
    t = 1.0
    for _ in range(_TRIALS):
        value, slopes, _ = kernels.sample_terms(
            smooth.loss, smooth.y, work.weights, state.z, work.step, t, work.trial,
            work.g2, work.h2,
        )  # fmt: skip
        change = kernels.penalty_along(W, state.w, model.d, form.limits, form.mu, t)
        if value - work.loss_value + change <= _ARMIJO * t * min(slope, 0.0) + slack:
            break
        t *= 0.5
    else:
        return False
    state.count(newton=1)
    fell = slope < 0.0 and value - work.loss_value + change < 0.0
    state.z, work.trial = work.trial, state.z
    work.g, work.g2 = work.g2, work.g
    work.h, work.h2 = work.h2, work.h
    work.loss_value, work.slopes = value, slopes
    kernels.move_values(W, model.x, model.d, t, state.w)
    state.b += t * model.shift
    if t == 1.0:
        state.softness = max(state.softness * _SOFTER, _SOFTEST)
    elif t < 0.5:
        state.softness = min(state.softness * _HARDER, 1.0)
    return fell


def _move_intercept(solver: Any, problem: Any, state: ProxNewtonState, work: Work) -> None:
    """Newton's method in the intercept, kept between bounds; ends where the gap needs it."""
    smooth = problem.smooth
    accuracy = _BALANCED * max(solver.tol, 0.1 * min(state.residual, 1.0))
    low, high, shift, limit = -np.inf, np.inf, 0.0, 5.0
    if isinstance(smooth.loss, Huber):
        limit = np.inf
    for _ in range(100):
        slopes, curvatures, sizes = kernels.shift_sums(
            smooth.loss, smooth.y, work.weights, state.z, shift
        )
        if abs(slopes) <= accuracy * sizes:
            break
        if slopes > 0:
            high = shift
        else:
            low = shift
        move = -slopes / curvatures if curvatures > 0 else math.copysign(np.inf, -slopes)
        new = shift + min(max(move, -limit), limit)
        if not low < new < high:
            new = 0.5 * (low + high) if np.isfinite(high - low) else shift + math.copysign(
                max(1.0, 2.0 * abs(shift)) * (smooth.loss.delta if isinstance(
                    smooth.loss, Huber) else 1.0), -slopes)  # fmt: skip
        if new in (shift, low, high):
            break
        shift = new
    if shift != 0.0:
        work.step[:] = 1.0
        work.loss_value, work.slopes, _ = kernels.sample_terms(
            smooth.loss, smooth.y, work.weights, state.z, work.step, shift, work.trial,
            work.g, work.h,
        )  # fmt: skip
        state.z, work.trial = work.trial, state.z
        state.b += shift


def _measure(
    solver: Any, problem: Any, state: ProxNewtonState, work: Work, *, fresh: bool = True
) -> None:
    """Correlations, residual, and what the gap proves to be 0."""
    smooth, form = problem.smooth, work.form
    assert form is not None
    theta = _dual_point(problem, work)
    alive = state.alive
    if fresh:
        work.design.correlate(theta, alive, state.c)
        state.count(passes=1)
    plain, shifted, penalty, distance, state.support = kernels.scan(
        state.c, state.w, form.limits, form.mu, form.positive, alive
    )
    state.objective = work.loss_value + penalty
    if not form.gap:
        if smooth.fit_intercept:
            distance = max(distance, abs(work.slopes))
        state.scaling = min(1.0, 1.0 / plain) if plain > 0 else 1.0
        state.residual = distance / problem.null_gradient
        return
    best, gap = 1.0, np.inf
    ratio = shifted if form.mu > 0 else plain
    scalings = {min(1.0, 1.0 / ratio) if ratio > 0 else 1.0}
    if form.mu > 0:
        scalings.add(1.0)
    for t in sorted(scalings):
        value = kernels.dual_value(smooth.loss, smooth.y, work.weights, theta, t)
        if form.mu > 0:
            above = kernels.ridge_conjugate(state.c, form.limits, t, form.positive, alive)
            value -= above / (2.0 * form.mu)
        if state.objective - value < gap:
            best, gap = t, state.objective - value
    state.scaling = best
    state.residual = max(gap, 0.0) / smooth.scale
    smoothness = _smoothness(smooth.loss)
    if solver.screening == "gap_safe" and smoothness is not None:
        # The dual objective is strongly concave in the norm of the sample weights.
        radius = math.sqrt(2.0 * smoothness * max(gap, 0.0))
        kept = kernels.screen(
            state.c, state.w, work.squares, form.limits, best, radius, form.positive, alive
        )
        state.alive = alive[:kept]


def _smoothness(loss: Any) -> float | None:
    """Bound on the curvature of a loss, where it has one."""
    if isinstance(loss, Logistic):
        return 0.25
    return 1.0 if isinstance(loss, Huber) else None
