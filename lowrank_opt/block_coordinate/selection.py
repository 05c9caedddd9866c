"""Which block is updated next: the rules by name.

A rule scores variables; a fixed block has the sum of the scores of its variables, a variable
block is made of the variables of the largest scores. A few rules score blocks as such.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from lowrank_opt.block_coordinate.updates import improvement

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from lowrank_opt.block_coordinate.plan import Plan

__all__ = [
    "GREEDY",
    "SELECTIONS",
    "block_scores",
    "forward_block",
    "next_block",
    "singles",
    "threshold_block",
    "variable_scores",
]

# Steps of iterative hard thresholding, and the change at which it stops.
_THRESHOLDINGS = 10
_STILL = 1e-10
_EPS = float(np.finfo(np.float64).eps)


# -- scores of variables ---------------------------------------------------------------------------


def _by_gradient(plan: Plan, x: NDArray[Any], g: NDArray[Any]) -> NDArray[Any]:
    """Squared derivatives (least subgradients) over D: 'gs', 'gsl', 'gsd', 'gs-s'."""
    pseudo = plan.penalty.subgradient(plan.everything, x, g)
    return pseudo * pseudo / plan.divisors


def _prox_step(plan: Plan, x: NDArray[Any], g: NDArray[Any]) -> NDArray[Any]:
    D = plan.divisors
    return plan.penalty.prox(plan.everything, x - g / D, 1.0 / D) - x


def _by_step(plan: Plan, x: NDArray[Any], g: NDArray[Any]) -> NDArray[Any]:
    """Squared prox steps: 'gs-r'."""
    d = _prox_step(plan, x, g)
    return d * d


def _by_decrease(plan: Plan, x: NDArray[Any], g: NDArray[Any]) -> NDArray[Any]:
    """Decrease of the model with curvature D: 'gs-q'.

    With u = -(g + D d) it is ``D d^2 / 2`` plus what the penalty falls short of its tangent
    ``u d``: nothing on a straight piece, where a difference of values would leave rounding.
    """
    d = _prox_step(plan, x, g)
    pen, all_, D = plan.penalty, plan.everything, plan.divisors
    before, after = pen.values(all_, x), pen.values(all_, x + d)
    along = -(g + D * d) * d
    if not pen.separable:  # only the sum over a group counts; each variable has its share
        groups, n = pen.groups, pen.n_penalized
        sizes = np.maximum(np.bincount(groups), 1)
        before, after, along = (
            np.append((np.bincount(groups, v[:n]) / sizes)[groups], v[n:])
            for v in (before, after, along)
        )
    rest = along - (after - before)
    noise = 8.0 * _EPS * (np.abs(before) + np.abs(after) + np.abs(along))
    rest[np.abs(rest) <= noise] = 0.0
    return 0.5 * D * d * d + rest


def _by_nonnegative_decrease(plan: Plan, x: NDArray[Any], g: NDArray[Any]) -> NDArray[Any]:
    """The same for non-negative variables, whose penalty is linear: 'gsq-nn'."""
    slope = g.copy()
    n = plan.penalty.n_penalized
    slope[:n] += plan.penalty.penalty.alpha
    d = -slope / plan.divisors
    d[:n] = np.maximum(x[:n] + d[:n], 0.0) - x[:n]
    return np.maximum(-d * (slope + 0.5 * plan.divisors * d), 0.0)


_SCORES: dict[str, Callable[[Plan, NDArray[Any], NDArray[Any]], NDArray[Any]]] = {
    "gs": _by_gradient,
    "gsl": _by_gradient,
    "gsd": _by_gradient,
    "gsq": _by_gradient,  # of single variables
    "gs-s": _by_gradient,
    "gs-r": _by_step,
    "gs-q": _by_decrease,
    "gsq-nn": _by_nonnegative_decrease,
}
GREEDY = (*_SCORES, "gsq-iht", "gsq-omp", "mi")
SELECTIONS = ("random", "lipschitz", "cyclic", *GREEDY)


def variable_scores(plan: Plan, x: NDArray[Any], g: NDArray[Any]) -> NDArray[Any]:
    """Return the scores of all variables.

    Parameters
    ----------
    plan : Plan
        Rules and problem.
    x, g : ndarray of shape (n,)
        Point, and gradient of the smooth part.
    """
    return _SCORES[plan.choice.selection](plan, x, g)


# -- fixed blocks ----------------------------------------------------------------------------------


def block_scores(plan: Plan, state: Any) -> NDArray[Any]:
    """Return the scores of the fixed blocks.

    Parameters
    ----------
    plan : Plan
        Rules and problem.
    state : DescentState
        Point and products.
    """
    assert plan.partition is not None
    rule, blocks = plan.choice.selection, plan.partition.blocks
    if rule == "mi":
        return np.array([improvement(plan, state, k, b) for k, b in enumerate(blocks)])
    g = plan_gradient(plan, state)
    if rule == "gsq" and plan.singles is None:
        return _quadratic_scores(plan, g)
    scores = variable_scores(plan, state.x, g)
    if plan.options.block_norm == "l1" and rule not in ("gs-q", "gsq-nn"):
        scores = np.sqrt(scores)
    return np.bincount(plan.partition.labels, scores, minlength=len(blocks))


def _quadratic_scores(plan: Plan, g: NDArray[Any]) -> NDArray[Any]:
    """``g_b' H_b^-1 g_b`` of all blocks, those of equal size together."""
    assert plan.partition is not None
    scores = np.empty(len(plan.partition.blocks))
    for numbers, variables, roots in plan.inverse_roots:
        v = (roots @ g[variables][:, :, None])[:, :, 0]
        scores[numbers] = np.einsum("kt,kt->k", v, v)
    return scores


def plan_gradient(plan: Plan, state: Any) -> NDArray[Any]:
    """Return the gradient of the smooth part, computed once a point."""
    if state.gradient is None:
        state.gradient = plan.smooth.gradient_at(state.work, state.x)
        state.count(gradients=1)
    return state.gradient


# -- variable blocks -------------------------------------------------------------------------------


def _top(plan: Plan, state: Any, scores: NDArray[Any], size: int) -> NDArray[Any]:
    """The variables of the largest scores; none that is where it should stay, if others are.

    Of variables with nothing to gain by themselves those come first that are free to move: an
    update of the whole set of free variables is what makes the last phase fast.
    """
    if not plan.penalty.absent:
        low, high = plan.penalty.slopes(plan.everything, state.x)
        scores = np.where((scores == 0.0) & (low < high), -1.0, scores)
    if size == 1:
        return np.array([np.argmax(scores)])
    chosen = np.argpartition(-scores, size - 1)[:size] if size < plan.n else plan.everything
    moving = chosen[scores[chosen] >= 0.0]
    return moving if moving.size else chosen


def threshold_block(
    plan: Plan, g: NDArray[Any], start: NDArray[Any], n_steps: int = _THRESHOLDINGS
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Approximate the best variable block by iterative hard thresholding.

    Parameters
    ----------
    plan : Plan
        Rules and problem.
    g : ndarray of shape (n,)
        Gradient.
    start : ndarray
        A block of the wanted size; the result has a model value that is not larger than that of
        the diagonal step on it.
    n_steps : int, default=10
        Limit on steps.

    Returns
    -------
    block, d : ndarray
        The block, ascending, and the last step, of shape (n,).

    Notes
    -----
    Cost: a product with the bound of the Hessian a step.
    """
    smooth, size = plan.smooth, start.size
    mu = 1.0 / plan.largest_eigenvalue
    d = np.zeros(plan.n)
    d[start] = -g[start] / plan.divisors[start]
    for _ in range(n_steps):
        v = d - mu * (g + smooth.bound_matvec(d))
        kept = np.argpartition(-np.abs(v), size - 1)[:size]
        new = np.zeros(plan.n)
        new[kept] = v[kept]
        change = float(np.linalg.norm(new - d))
        d = new
        if change < _STILL * max(1.0, float(np.linalg.norm(d))):
            break
    block = np.flatnonzero(d)
    return (block if block.size else np.sort(start)), d


def forward_block(plan: Plan, g: NDArray[Any], size: int) -> NDArray[Any]:
    """Approximate the best variable block by adding the variable of the largest gain in turn.

    Parameters
    ----------
    plan : Plan
        Rules and problem.
    g : ndarray of shape (n,)
        Gradient.
    size : int
        Variables of the block.

    Returns
    -------
    ndarray of int64
        The block, in the order of the choice.

    Notes
    -----
    A Cholesky factor of the block's part of the bound grows by a row for every variable. Cost: a
    column of the bound and ``2 n size`` flops a variable.
    """
    left = g.astype(np.float64)
    pivots = plan.bound_diagonal.copy()
    floor = 1e-12 * plan.bound_diagonal
    rows: list[NDArray[Any]] = []
    chosen: list[int] = []
    free = pivots > floor
    for _ in range(size):
        gains = np.where(free & (pivots > floor), left * left, -1.0)
        np.divide(gains, pivots, out=gains, where=gains > 0.0)
        j = int(np.argmax(gains))
        if gains[j] <= 0.0:
            break
        unit = np.zeros(plan.n)
        unit[j] = 1.0
        column = plan.smooth.bound_matvec(unit)
        for row in rows:
            column = column - row[j] * row
        root = np.sqrt(pivots[j])
        column = column / root
        left = left - column * (left[j] / root)
        pivots = pivots - column * column
        free[j] = False
        rows.append(column)
        chosen.append(j)
    return np.array(chosen if chosen else [int(np.argmax(np.abs(g)))], np.int64)


# -- the next block --------------------------------------------------------------------------------


def singles(plan: Plan, state: Any, n: int) -> NDArray[Any]:
    """Return the next `n` variables of a rule that does not look at the point.

    Parameters
    ----------
    plan : Plan
        Rules and problem, with blocks of single variables.
    state : DescentState
        Source of randomness and place in the cycle.
    n : int
        How many.
    """
    names = plan.singles
    assert names is not None
    rule = plan.choice.selection
    if rule == "random":
        return names[state.rng.integers(0, names.size, n)]
    if rule == "lipschitz":
        return np.asarray(_weighted(plan.lipschitz, state.rng, n))
    out = np.empty(n, np.int64)
    done = 0
    while done < n:
        if plan.partition is None and state.place == 0:
            state.permutation = state.rng.permutation(names.size)
        order = names if plan.partition is not None else state.permutation
        part = order[state.place : state.place + n - done]
        out[done : done + part.size] = part
        done += part.size
        state.place = (state.place + part.size) % names.size
    return out


def _weighted(weights: NDArray[Any], rng: np.random.Generator, n: int) -> NDArray[Any]:
    edges = np.cumsum(weights)
    found = np.searchsorted(edges, rng.random(n) * edges[-1], side="right")
    return np.minimum(found, weights.size - 1)


def next_block(plan: Plan, state: Any) -> tuple[int, NDArray[Any]]:
    """Return the number of the next block, -1 for a variable one, and its variables, ascending.

    Parameters
    ----------
    plan : Plan
        Rules and problem.
    state : DescentState
        Point and products; its place in a cycle, its queue and its generator are moved on.
    """
    if plan.choice.kind in ("greedy_forest", "random_forest", "bounded_fill"):
        return -1, _graph_block(plan, state)
    if plan.partition is not None:
        k = _fixed(plan, state)
        return k, plan.partition.blocks[k]
    return -1, np.sort(_variable(plan, state))


def _fixed(plan: Plan, state: Any) -> int:
    assert plan.partition is not None
    rule, m = plan.choice.selection, len(plan.partition.blocks)
    if rule == "cyclic":
        k = state.place
        state.place = (k + 1) % m
        return int(k)
    if rule == "random":
        return int(state.rng.integers(0, m))
    if rule == "lipschitz":
        return int(_weighted(plan.block_lipschitz, state.rng, 1)[0])
    if state.queue is None or state.queue.size == 0:
        scores = block_scores(plan, state)
        count = min(plan.options.greedy_refresh, m)
        if count == 1:
            return int(np.argmax(scores))
        state.queue = np.argsort(-scores, kind="stable")[:count]
    k, state.queue = state.queue[0], state.queue[1:]
    return int(k)


def _variable(plan: Plan, state: Any) -> NDArray[Any]:
    rule, size = plan.choice.selection, plan.size
    if rule == "random":
        return state.rng.choice(plan.n, size, replace=False)
    if rule == "lipschitz":
        shares = plan.lipschitz / plan.lipschitz.sum()
        return state.rng.choice(plan.n, size, replace=False, p=shares)
    if rule == "cyclic":
        if state.place == 0:
            state.permutation = state.rng.permutation(plan.n)
        chosen = state.permutation[state.place : state.place + size]
        state.place += size
        if state.place >= plan.n:
            state.place = 0
        return chosen
    if state.queue is not None and state.queue.size:
        chosen, state.queue = state.queue[:size], state.queue[size:]
        return chosen
    g = plan_gradient(plan, state)
    if rule == "gsq-omp":
        return forward_block(plan, g, size)
    if rule == "gsq-iht":
        start = _top(plan, state, g * g / plan.divisors, size)
        return threshold_block(plan, g, start)[0]
    scores = variable_scores(plan, state.x, g)
    count = plan.options.greedy_refresh
    if count == 1:
        return _top(plan, state, scores, size)
    chosen = _top(plan, state, scores, min(count * size, plan.n))
    chosen = chosen[np.argsort(-scores[chosen], kind="stable")]
    state.queue = chosen[size:]
    return chosen[:size]


def _graph_block(plan: Plan, state: Any) -> NDArray[Any]:
    """A huge block of the graph that is cheap to solve: without cycles, or with little fill."""
    from lowrank_opt.block_coordinate import forests
    from lowrank_opt.block_coordinate.partition import coupling

    matrix = coupling(plan.smooth, f"blocks={plan.choice.kind!r}")
    if plan.choice.kind == "random_forest":
        return forests.random_forest(matrix, state.rng)
    scores = variable_scores(plan, state.x, plan_gradient(plan, state))
    if plan.choice.kind == "bounded_fill":
        return forests.bounded_fill(matrix, scores, plan.size)
    return forests.greedy_forest(matrix, scores)
