"""How the variables of a block change: the rules by name.

Each returns the new values of the block and, where it knows it, the change of the products
(``smooth.direction``). All of them decrease the objective.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from lowrank_opt.block_coordinate.positive import factorize, solve_factored, solve_positive

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from lowrank_opt.block_coordinate.plan import Plan

__all__ = [
    "UPDATES",
    "armijo",
    "cubic_step",
    "improvement",
]

_EPS = float(np.finfo(np.float64).eps)
# Halvings of a step, and the part of it that a new trial has at least and at most.
_TRIALS = 60
_SHORTEST, _LONGEST = 0.1, 0.5
# Part of the violation at the block's values to which its model is solved by coordinate descent.
_MODEL = 0.3
# How near a bound a variable is held, relative to the largest of the block.
_NEAR = 1e-4
# Part of the gradient that a Newton step may leave, and curvature that is taken for none.
_SEEN, _FLAT = 1e-3, 1e-10
# The largest block of a sparse quadratic that is factorised as a dense one.
_DENSE = 300

# Blocks without cycles.
_FORESTS = ("forest", "color", "greedy_forest", "random_forest")

# (new values of the block, change of the products or None)
Move = tuple[Any, Any]


# -- line searches ---------------------------------------------------------------------------------


def armijo(
    value: Callable[[float], float], start: float, slope: float, constant: float
) -> tuple[float, int]:
    """Return a step length with a sufficient decrease, and the number of evaluations.

    The first trial is 1. The next is where the parabola through both values and the slope at 0
    has its minimum, later ones where the cubic through the last two values has it; each is at
    least a tenth and at most half of the one before.

    Parameters
    ----------
    value : callable
        The objective along the step.
    start, slope : float
        Its value and derivative at 0; the derivative is negative.
    constant : float
        Part of the decrease that the slope promises which must be reached.

    Returns
    -------
    length : float
        0 if there is no decrease within rounding.
    evaluations : int
        Calls of `value`.
    """
    slack = 4.0 * _EPS * abs(start)
    if not slope < 0.0:
        return 0.0, 0
    t, now = 1.0, value(1.0)
    before: tuple[float, float] | None = None
    for trial in range(1, _TRIALS):
        if now <= start + constant * t * slope + slack:
            return t, trial
        new = _minimum(start, slope, t, now, before)
        before = (t, now)
        t = min(max(new, _SHORTEST * t), _LONGEST * t) if np.isfinite(new) else _LONGEST * t
        now = value(t)
    return 0.0, _TRIALS


def _minimum(
    start: float, slope: float, t: float, now: float, before: tuple[float, float] | None
) -> float:
    if not np.isfinite(now):
        return 0.0
    if before is None or not np.isfinite(before[1]):
        curve = 2.0 * (now - start - t * slope)
        return -slope * t * t / curve if curve > 0 else np.inf
    # The cubic with this value and slope at 0 through both trials.
    s, then = before
    u, v = (now - start - slope * t) / (t * t), (then - start - slope * s) / (s * s)
    a = (u - v) / (t - s)
    b = (t * v - s * u) / (t - s)
    if a == 0.0:
        return -slope / (2.0 * b) if b > 0 else np.inf
    inside = b * b - 3.0 * a * slope
    if inside < 0.0:
        return np.inf
    return (-b + float(np.sqrt(inside))) / (3.0 * a)


def _search(plan: Plan, state: Any, b: Any, d: Any, g: Any) -> Move:
    """Line search on the smooth part along `d`; one trial costs a pass over the samples."""
    smooth, x, work = plan.smooth, state.x, state.work
    direction = smooth.direction(b, d)
    start = smooth.value_at(work, x)
    t, count = armijo(
        lambda t: smooth.value_along(work, x, b, d, direction, t), start, float(g @ d),
        plan.options.armijo,
    )  # fmt: skip
    state.count(evaluations=count)
    return x[b] + t * d, t * direction


# -- smooth problems -------------------------------------------------------------------------------


def _constant(plan: Plan, k: int, b: NDArray[Any]) -> float:
    """Lipschitz constant of the gradient by a block."""
    if b.size == 1:
        return float(plan.lipschitz[b[0]])
    if k >= 0:
        return float(plan.block_lipschitz[k])
    return plan.bound_of(b)


def _gradient(plan: Plan, state: Any, k: int, b: NDArray[Any], g: NDArray[Any]) -> Move:
    return state.x[b] - g / _constant(plan, k, b), None


def _matrix(plan: Plan, state: Any, k: int, b: NDArray[Any], g: NDArray[Any]) -> Move:
    if b.size == 1:
        return _gradient(plan, state, k, b, g)
    coupling = plan.smooth.coupling
    if coupling is not None:
        from lowrank_opt.block_coordinate import forests

        if plan.choice.kind in _FORESTS:
            return _forest(plan, state, k, b, g)
        if b.size > _DENSE:
            return _with_products(plan, state, b, -forests.solve_sparse_block(coupling, g, b))

    def make() -> Any:
        return factorize(plan.smooth.block_bound(b))

    factor = plan.keep("factor", k, b.size**2, make)
    return state.x[b] - solve_factored(factor, g), None


def _forest(plan: Plan, state: Any, k: int, b: NDArray[Any], g: NDArray[Any]) -> Move:
    """Elimination along the trees of the block: linear in its size."""
    from lowrank_opt.block_coordinate.forests import Forest

    matrix = plan.smooth.coupling
    forest = plan.keep("forest", k, 7 * b.size, lambda: Forest.of(matrix, b).factor(matrix))
    return _with_products(plan, state, b, -forest.solve(g))


def _with_products(plan: Plan, state: Any, b: NDArray[Any], d: NDArray[Any]) -> Move:
    """New values, and for huge blocks the products: rows need not be taken out of the matrix."""
    if 4 * b.size < plan.n:
        return state.x[b] + d, None
    step = np.zeros(plan.n)
    step[b] = d
    return state.x[b] + d, plan.smooth.start(step)


def _newton(plan: Plan, state: Any, k: int, b: NDArray[Any], g: NDArray[Any]) -> Move:
    if plan.quadratic:
        return _matrix(plan, state, k, b, g)
    H = plan.smooth.block_hessian(state.work, state.x, b)
    return _search(plan, state, b, _newton_step(plan, state, b, H, g), g)


def _newton_step(
    plan: Plan, state: Any, b: NDArray[Any], H: NDArray[Any], g: NDArray[Any], ridge: float = 0.0
) -> NDArray[Any]:
    """Newton direction; where the Hessian does not see the gradient, one that descends anyway.

    A flat Hessian (saturated logistic losses, the linear part of Huber's) is replaced by its
    bound, or without one by a gradient step that changes no predictor by more than 1.
    """
    d = -solve_positive(H, g)
    size = float(np.linalg.norm(g))
    if float(np.linalg.norm(H @ d + g)) <= _SEEN * size and np.isfinite(d).all():
        return d
    if np.isfinite(plan.lipschitz[b]).all():
        bound = plan.smooth.block_bound(b)
        bound[np.diag_indices(b.size)] += ridge
        d = -solve_positive(bound, g)
        if float(np.linalg.norm(bound @ d + g)) <= _SEEN * size:
            return d
        # With a penalty the slope may point where the data do not.
        bound[np.diag_indices(b.size)] += _SEEN * float(bound.diagonal().max() or 1.0)
        return -solve_positive(bound, g)
    along = float(np.abs(plan.smooth.direction(b, g)).max(initial=0.0))
    return -g / (along or size or 1.0)


def _cubic(plan: Plan, state: Any, k: int, b: NDArray[Any], g: NDArray[Any]) -> Move:
    H = plan.smooth.block_hessian(state.work, state.x, b)
    third = plan.keep("third", k, 1, lambda: plan.smooth.third_order(b))
    return state.x[b] + cubic_step(H, g, third), None


def cubic_step(H: NDArray[Any], g: NDArray[Any], third: float) -> NDArray[Any]:
    """Return the minimiser of ``g'd + d'Hd / 2 + third / 6 |d|^3``.

    Parameters
    ----------
    H : ndarray of shape (m, m)
        Symmetric, positive semi-definite.
    g : ndarray of shape (m,)
        Slope.
    third : float
        At least 0.

    Returns
    -------
    ndarray of shape (m,)
        The step. Its norm s solves ``|(H + third s / 2)^-1 g| = s``, by Newton's method on the
        spectrum of `H`.
    """
    if not g.any():
        return np.zeros_like(g)
    if third == 0.0:
        return -solve_positive(H, g)
    values, vectors = np.linalg.eigh(H)
    values = np.maximum(values, 0.0)
    along = vectors.T @ g
    # At the upper end the norm is below s; at the lower one above.
    size = float(np.linalg.norm(along))
    low, high = 0.0, float(np.sqrt(2.0 * size / third))
    low = min(high, size / (float(values[-1]) + 0.5 * third * high))
    s = high
    for _ in range(100):
        shifted = values + 0.5 * third * s
        norm = float(np.linalg.norm(along / shifted))
        if norm > s:
            low = s
        else:
            high = s
        # 1 / norm - 1 / s is concave and rises; its root is the root wanted.
        slope = 0.5 * third * float(np.sum(along * along / shifted**3)) / norm**3 + 1.0 / s**2
        new = s - (1.0 / norm - 1.0 / s) / slope
        if not low <= new <= high:
            new = 0.5 * (low + high)
        if abs(new - s) <= 4.0 * _EPS * s:
            break
        s = new
    return -vectors @ (along / (values + 0.5 * third * s))


# -- with a penalty --------------------------------------------------------------------------------


def _prox_gradient(plan: Plan, state: Any, k: int, b: NDArray[Any], g: NDArray[Any]) -> Move:
    # Variables of one colour are not coupled: with constants of their own the step is exact.
    apart = plan.choice.kind == "color" and plan.penalty.separable
    L: Any = plan.lipschitz[b] if apart else _constant(plan, k, b)
    return plan.penalty.prox(b, state.x[b] - g / L, 1.0 / L), None


def _lipschitz_search(plan: Plan, state: Any, k: int, b: NDArray[Any], g: NDArray[Any]) -> Move:
    """Double the estimate of the constant until the bound that it gives holds."""
    smooth, x, work = plan.smooth, state.x, state.work
    start = smooth.value_at(work, x)
    slack = 4.0 * _EPS * abs(start)
    L = float(state.estimates[b].max())
    target, direction = x[b], None
    for _ in range(200):
        target = plan.penalty.prox(b, x[b] - g / L, 1.0 / L)
        d = target - x[b]
        direction = smooth.direction(b, d)
        value = smooth.value_along(work, x, b, d, direction, 1.0)
        state.count(evaluations=1)
        if value <= start + float(g @ d) + 0.5 * L * float(d @ d) + slack:
            break
        L *= 2.0
    state.estimates[b] = L
    return target, direction


def _solve_model(
    plan: Plan, b: NDArray[Any], H: NDArray[Any], g: NDArray[Any], start: NDArray[Any], goal: float
) -> NDArray[Any]:
    """Minimise ``g'd + d'Hd / 2 + h(start + d)``: coordinate descent, then the free variables.

    Coordinate descent finds which variables stay at kinks; the exact minimiser over the others
    follows, and is kept if it leaves no sign and bound and violates less.
    """
    from lowrank_opt.block_coordinate.kernels_descent import minimize_model

    penalty, n = plan.penalty, plan.penalty.count(b)
    pen, v, q = penalty.on(b), start.copy(), g.copy()
    H = np.ascontiguousarray(H)
    worst = np.inf
    for _ in range(100):
        minimize_model(H, q, v, pen, n, goal, 10)
        q = g + H @ (v - start)
        worst = penalty.largest(b, penalty.subgradient(b, v, q))
        if worst == 0.0:
            break
        polished = _polish(penalty, b, H, g, start, v, q)
        if polished is not None:
            left = g + H @ (polished - start)
            better = penalty.largest(b, penalty.subgradient(b, polished, left))
            if better <= worst:
                v, q, worst = polished, left, better
        if worst <= goal:
            break
    return v


def _polish(
    penalty: Any, b: Any, H: Any, g: Any, start: Any, v: Any, q: Any
) -> NDArray[Any] | None:
    """Minimise over the variables that are not at kinks; ``None`` if one would cross one."""
    low, high = penalty.slopes(b, v)
    free = np.flatnonzero(low == high)
    if free.size == 0:
        return None
    part = H[np.ix_(free, free)]
    inside = np.searchsorted(free, penalty.count(b))
    if penalty.curvature:
        part = part.copy()
        part[np.arange(inside), np.arange(inside)] += penalty.curvature
    new = v.copy()
    new[free] -= solve_positive(part, (q + low)[free])
    lower, upper, _ = penalty.orthant(b, v, q)
    if (new[free] < lower[free]).any() or (new[free] > upper[free]).any():
        return None
    return new


def _model_goal(plan: Plan, state: Any, b: NDArray[Any], g: NDArray[Any], part: float) -> float:
    pseudo = plan.penalty.subgradient(b, state.x[b], g)
    return part * plan.penalty.largest(b, pseudo)


def _exact(plan: Plan, state: Any, k: int, b: NDArray[Any], g: NDArray[Any]) -> Move:
    if plan.penalty.absent:
        return _matrix(plan, state, k, b, g)
    if b.size == 1 or plan.choice.kind == "color":
        return _prox_gradient(plan, state, k, b, g)
    H = plan.keep("bound", k, b.size**2, lambda: plan.smooth.block_bound(b))
    goal = _model_goal(plan, state, b, g, 1e-12)
    return _solve_model(plan, b, H, g, state.x[b], goal), None


def _prox_newton(plan: Plan, state: Any, k: int, b: NDArray[Any], g: NDArray[Any]) -> Move:
    smooth, penalty, x, work = plan.smooth, plan.penalty, state.x, state.work
    if plan.choice.kind == "color":
        return _prox_gradient(plan, state, k, b, g)
    if plan.quadratic:
        H = plan.keep("bound", k, b.size**2, lambda: smooth.block_bound(b))
    else:
        H = smooth.block_hessian(work, x, b)
        bounds = plan.lipschitz[b]
        # Flat directions would have no end.
        H[np.diag_indices(b.size)] += _FLAT * np.where(np.isfinite(bounds), bounds, H.diagonal())
    now = x[b]
    new = _solve_model(plan, b, H, g, now, _model_goal(plan, state, b, g, _MODEL))
    if plan.quadratic:  # the model is the objective
        return new, None
    d = new - now
    direction = smooth.direction(b, d)
    before = penalty.value(b, now)
    start = smooth.value_at(work, x) + before
    # The second bound holds since the model has decreased; it does not suffer from rounding.
    slope = min(float(g @ d) + penalty.value(b, new) - before, -0.5 * float(d @ (H @ d)))

    def along(t: float) -> float:
        to = new if t == 1.0 else now + t * d
        return float(smooth.value_along(work, x, b, d, direction, t)) + penalty.value(b, to)

    t, count = armijo(along, start, slope, plan.options.armijo)
    state.count(evaluations=count)
    return (new if t == 1.0 else now + t * d), t * direction


def _tmp(plan: Plan, state: Any, k: int, b: NDArray[Any], g: NDArray[Any]) -> Move:
    """Two-metric projection: a Newton step of the free variables, a scaled one of the held."""
    smooth, penalty, x, work = plan.smooth, plan.penalty, state.x, state.work
    now = x[b]
    low, high, pull = penalty.orthant(b, now, g)
    slope = g + pull
    H = smooth.block_hessian(work, x, b)
    n = penalty.count(b)
    H[np.arange(n), np.arange(n)] += penalty.curvature
    scale = np.maximum(H.diagonal(), _FLAT * float(H.diagonal().max(initial=0.0)))
    scale[scale == 0.0] = 1.0
    moved = np.clip(now - slope / scale, low, high) - now
    near = min(_NEAR * float(np.abs(now).max()), float(np.linalg.norm(moved)))
    held = ((now <= low + near) & (slope > 0)) | ((now >= high - near) & (slope < 0))
    held |= low == high
    free = np.flatnonzero(~held)
    d = -slope / scale
    if free.size:
        part = H[np.ix_(free, free)]
        d[free] = _newton_step(plan, state, b[free], part, slope[free], penalty.curvature)
    start = smooth.value_at(work, x) + penalty.value(b, now)
    slack = 4.0 * _EPS * abs(start)
    promised = float(slope[free] @ d[free])
    t = 1.0
    for trial in range(_TRIALS):
        new = np.clip(now + t * d, low, high)
        step = new - now
        direction = smooth.direction(b, step)
        value = smooth.value_along(work, x, b, step, direction, 1.0) + penalty.value(b, new)
        state.count(evaluations=1)
        wanted = t * promised + float(slope[held] @ step[held])
        if value <= start + plan.options.armijo * wanted + slack:
            return new, direction
        t *= _LONGEST if trial < 10 else _SHORTEST
    return now, None


UPDATES: dict[str, Callable[..., Move]] = {
    "gradient": _gradient,
    "lipschitz_search": _lipschitz_search,
    "matrix": _matrix,
    "newton": _newton,
    "cubic": _cubic,
    "exact": _exact,
    "forest": _forest,
    "prox_gradient": _prox_gradient,
    "prox_newton": _prox_newton,
    "tmp": _tmp,
}


# -- the improvement of a block --------------------------------------------------------------------


class _Trial:
    """A copy of the point on which a block is minimised."""

    def __init__(self, state: Any) -> None:
        self.x, self.work = state.x.copy(), state.work.copy()

    def count(self, **increments: int) -> None:
        """Trials are not counted."""


def improvement(plan: Plan, state: Any, k: int, b: NDArray[Any]) -> float:
    """Return by how much the objective falls when a block is minimised.

    Parameters
    ----------
    plan : Plan
        Rules and problem.
    state : DescentState
        Point and products; not changed.
    k : int
        Number of the block.
    b : ndarray
        Its variables.
    """
    smooth, penalty = plan.smooth, plan.penalty
    trial = _Trial(state)

    def objective() -> float:
        return float(smooth.value_at(trial.work, trial.x)) + penalty.value(b, trial.x[b])

    rule = _newton if penalty.absent else _prox_newton
    if not (penalty.separable and penalty.convex):
        rule = _prox_gradient
    start = now = objective()
    for _ in range(1 if plan.quadratic and penalty.absent else 200):
        g = smooth.block_gradient(trial.work, trial.x, b)
        new, direction = rule(plan, trial, k, b, g)
        smooth.move(trial.work, trial.x, b, new - trial.x[b], direction)
        trial.x[b] = new
        before, now = now, objective()
        if before - now <= 1e-14 * abs(before):
            break
    return start - now
