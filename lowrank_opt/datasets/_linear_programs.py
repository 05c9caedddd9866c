"""Linear programs: random ones with a known solution, transport, flows, and ones without."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp
from scipy.sparse import csgraph

from lowrank_opt.core.errors import ParameterError
from lowrank_opt.core.params import make_rng

if TYPE_CHECKING:
    from lowrank_opt.core.protocols import Array
    from lowrank_opt.monotone.linear_program import LinearProgram

__all__ = [
    "LinearProgramData",
    "make_basis_pursuit_lp",
    "make_infeasible_lp",
    "make_l1_regression_lp",
    "make_markov_decision_lp",
    "make_multicommodity_lp",
    "make_pagerank_lp",
    "make_planted_lp",
    "make_transport_lp",
    "make_unbounded_lp",
]


@dataclass(frozen=True, eq=False, repr=False)
class LinearProgramData:
    """Arrays of a linear program, and what is known about its answer.

    The program is to minimise ``c @ x`` subject to ``constraint_lower <= A @ x <=
    constraint_upper`` and ``lower <= x <= upper``.

    Parameters
    ----------
    c : ndarray of shape (n,)
        Costs.
    A : scipy.sparse.csr_array of shape (m, n)
        Constraints.
    constraint_lower, constraint_upper : ndarray of shape (m,)
        Bounds on ``A @ x``.
    lower, upper : ndarray of shape (n,)
        Bounds on ``x``.
    name : str
        What it is, with its size.
    optimum : float or None, default=None
        The optimal value; ``None``: not known beforehand, or there is none.
    x : ndarray of shape (n,) or None, default=None
        An optimal point.
    y : ndarray of shape (m,) or None, default=None
        Optimal multipliers: positive ones push against `constraint_lower`.
    ray : ndarray or None, default=None
        Why there is no optimum: multipliers of shape (m,) that prove infeasibility, or a direction
        of shape (n,) in which the objective falls for ever.
    """

    c: Array
    A: Any
    constraint_lower: Array
    constraint_upper: Array
    lower: Array
    upper: Array
    name: str
    optimum: float | None = None
    x: Array | None = None
    y: Array | None = None
    ray: Array | None = None

    def __repr__(self) -> str:
        m, n = self.A.shape
        return f"LinearProgramData({self.name}: {m} x {n}, {self.A.nnz} nonzeros)"

    @property
    def problem(self) -> LinearProgram:
        """The program in the form that solvers take."""
        from lowrank_opt.monotone.linear_program import LinearProgram

        return LinearProgram(
            self.c, self.A, self.constraint_lower, self.constraint_upper, self.lower, self.upper,
            name=self.name,
        )  # fmt: skip


def _at_least(**sizes: tuple[Any, int]) -> list[int]:
    """Check that sizes are whole numbers, each at least its bound; return them."""
    found = []
    for name, (value, low) in sizes.items():
        if isinstance(value, bool) or int(value) != value or value < low:
            raise ParameterError(f"{name}={value!r}: a whole number of at least {low} is needed")
        found.append(int(value))
    return found


def _csr(values: Array, rows: Array, columns: Array, shape: tuple[int, int]) -> Any:
    """Sum the entries at the same position."""
    A = sp.coo_array((values, (rows, columns)), shape=shape).tocsr()
    A.sum_duplicates()
    return A


def _scattered(rng: np.random.Generator, m: int, n: int, per_column: int) -> Any:
    """Normal numbers, `per_column` of them in each column, at independent positions.

    Positions that fall together are summed.
    """
    rows = rng.integers(m, size=n * per_column, dtype=np.int32)
    columns = np.repeat(np.arange(n, dtype=np.int32), per_column)
    return _csr(rng.standard_normal(n * per_column), rows, columns, (m, n))


# -- a known solution -----------------------------------------------------------------------------


def make_planted_lp(
    n_constraints: int,
    n_variables: int,
    *,
    per_column: int = 10,
    inequalities: float = 0.0,
    random_state: Any = None,
) -> LinearProgramData:
    """Random sparse linear program whose solution is known.

    The solution is the positive part of a normal vector, the multipliers are normal, and the costs
    are such that both are optimal.

    Parameters
    ----------
    n_constraints, n_variables : int
        Shape of the matrix, positive.
    per_column : int, default=10
        Nonzeros of a column, at independent positions (those that fall together are summed).
    inequalities : float, default=0.0
        Share of the constraints, in [0, 1], that are inequalities; a half of them is slack at the
        solution. The others are equations.
    random_state : int, Generator or None, default=None
        Seed.

    Returns
    -------
    LinearProgramData
        With `x`, `y` and `optimum`.

    Raises
    ------
    ParameterError
        A size that is not positive, or a share outside of [0, 1].

    Notes
    -----
    With more variables than constraints the multipliers are unique almost surely when about as
    many variables as there are constraints are positive; the solution itself is unique when they
    are fewer. About a half of the variables is positive.

    Examples
    --------
    >>> from lowrank_opt.datasets import make_planted_lp
    >>> data = make_planted_lp(30, 60, random_state=0)
    >>> data
    LinearProgramData(planted 30x60: 30 x 60, 524 nonzeros)
    >>> data.problem.certificate((data.x, data.y)).residual < 1e-12
    True
    """
    m, n, k = _at_least(
        n_constraints=(n_constraints, 1), n_variables=(n_variables, 1), per_column=(per_column, 1)
    )
    if not 0.0 <= inequalities <= 1.0:
        raise ParameterError(f"inequalities={inequalities!r}: a share in [0, 1] is needed")
    rng = make_rng(random_state)
    A = _scattered(rng, m, n, k)
    normal = rng.standard_normal(n)
    x = np.maximum(normal, 0.0)
    y = rng.standard_normal(m)
    low = A @ x
    high = low.copy()
    if inequalities > 0.0:
        loose = rng.random(m) < inequalities
        high[loose & (y > 0)] = np.inf
        low[loose & (y < 0)] = -np.inf
        slack = loose & (rng.random(m) < 0.5)
        room = np.abs(rng.standard_normal(m))
        low[slack] -= room[slack]
        high[slack] += room[slack]
        y[slack] = 0.0
    c = A.T @ y + np.maximum(-normal, 0.0)
    return LinearProgramData(
        c, A, low, high, np.zeros(n), np.full(n, np.inf), f"planted {m}x{n}", float(c @ x), x, y
    )


def make_transport_lp(
    n_sources: int,
    n_sinks: int | None = None,
    *,
    cost: str = "uniform",
    assignment: bool = False,
    random_state: Any = None,
) -> LinearProgramData:
    """Transport or assignment problem with a variable for every pair.

    Parameters
    ----------
    n_sources : int
        Number of sources, positive.
    n_sinks : int or None, default=None
        Number of sinks; ``None``: as many.
    cost : {"uniform", "plane", "line"}, default="uniform"
        Cost of a pair: a uniform number, the distance of points in the unit square, or the squared
        distance of points on a line. For the line the optimum is known.
    assignment : bool, default=False
        Whether every source has 1 and every sink needs 1 (as many sinks as sources are needed).
        Otherwise both have random amounts with sum 1.
    random_state : int, Generator or None, default=None
        Seed.

    Returns
    -------
    LinearProgramData
        Equations for sources first, then for sinks; variables in row-major order.

    Raises
    ------
    ParameterError
        A size that is not positive, an unknown cost, or an assignment of unequal numbers.

    Notes
    -----
    ``2 * n_sources * n_sinks`` nonzeros, all 1. One equation is redundant, and solutions are
    degenerate; with equal amounts they are those of a network simplex at its worst.
    """
    m, n = _at_least(
        n_sources=(n_sources, 1), n_sinks=(n_sources if n_sinks is None else n_sinks, 1)
    )
    if assignment and m != n:
        raise ParameterError(f"assignment needs as many sinks as sources; got {m} and {n}")
    rng = make_rng(random_state)
    a, b = np.ones(m), np.ones(n)
    if not assignment:
        a, b = rng.random(m) + 0.1, rng.random(n) + 0.1
        a, b = a / a.sum(), b / b.sum()
    optimum = None
    if cost == "uniform":
        C = rng.random((m, n))
    elif cost == "plane":
        p, q = rng.random((2, m)), rng.random((2, n))
        C = np.hypot(p[0][:, None] - q[0], p[1][:, None] - q[1])
    elif cost == "line":
        s, t = rng.random(m), rng.random(n)
        C = (s[:, None] - t) ** 2
        optimum = _monotone_coupling(s, t, a, b)
    else:
        raise ParameterError(f"cost={cost!r}: expected 'uniform', 'plane' or 'line'")
    cells = np.arange(m * n, dtype=np.int32)
    source = sp.csr_array(
        (np.ones(m * n), cells, np.arange(0, m * n + 1, n, dtype=np.int32)), shape=(m, m * n)
    )
    by_sink = cells.reshape(m, n).T.ravel()
    sink = sp.csr_array(
        (np.ones(m * n), by_sink, np.arange(0, m * n + 1, m, dtype=np.int32)), shape=(n, m * n)
    )
    amounts = np.concatenate([a, b])
    name = f"{'assignment' if assignment else 'transport'} {m}x{n}, {cost}"
    return LinearProgramData(
        C.ravel(), sp.vstack([source, sink], format="csr"), amounts, amounts.copy(),
        np.zeros(m * n), np.full(m * n, np.inf), name, optimum,
    )  # fmt: skip


def _monotone_coupling(s: Array, t: Array, a: Array, b: Array) -> float:
    """Value of moving in order, which is optimal for convex costs on a line."""
    i, j = np.argsort(s), np.argsort(t)
    ends_a, ends_b = np.cumsum(a[i]), np.cumsum(b[j])
    ends = np.sort(np.concatenate([ends_a[:-1], ends_b[:-1]]))
    ends = np.concatenate([[0.0], ends, [ends_a[-1]]])
    middle = 0.5 * (ends[1:] + ends[:-1])
    p = np.minimum(np.searchsorted(ends_a, middle), len(s) - 1)
    q = np.minimum(np.searchsorted(ends_b, middle), len(t) - 1)
    return float(np.sum(np.diff(ends) * (s[i][p] - t[j][q]) ** 2))


def make_pagerank_lp(
    n_nodes: int, *, degree: int = 3, damping: float = 0.85, random_state: Any = None
) -> LinearProgramData:
    """PageRank of a random graph as a linear program.

    The graph grows by preferential attachment, so that its degrees have a heavy tail. The ranks
    are the only feasible point of

    ``x - damping * S x >= (1 - damping) / n,   sum(x) = 1,   x >= 0``

    with S the transition matrix, whose columns sum to 1.

    Parameters
    ----------
    n_nodes : int
        Number of nodes, at least 2.
    degree : int, default=3
        Edges that a new node brings.
    damping : float, default=0.85
        Chance of following an edge, in (0, 1).
    random_state : int, Generator or None, default=None
        Seed.

    Returns
    -------
    LinearProgramData
        With the costs 0 and `optimum` 0. About ``(2 * degree + 2) * n_nodes`` nonzeros, one row of
        them dense. `x` has the ranks, by iteration until the error is at most 1e-14.

    Raises
    ------
    ParameterError
        A size that is too small, or a damping outside of (0, 1).

    References
    ----------
    .. [1] D. Applegate et al., "Practical large-scale linear programming using primal-dual hybrid
       gradient", NeurIPS 2021. :arxiv:`2106.04756`
    """
    n, d = _at_least(n_nodes=(n_nodes, 2), degree=(degree, 1))
    if not 0.0 < damping < 1.0:
        raise ParameterError(f"damping={damping!r}: a number between 0 and 1 is needed")
    rng = make_rng(random_state)
    source = np.repeat(np.arange(1, n), d)
    # An end of an earlier edge, so that nodes are drawn by their degree; slot 2 e is the source of
    # edge e and slot 2 e + 1 its target. A target is followed until it is a source, or node 0.
    first = 2 * d * (source - 1)
    slot = (rng.random(len(source)) * np.maximum(first, 1)).astype(np.int64)
    slot[first == 0] = -1
    target = np.where(slot < 0, 0, -1)
    pending = np.flatnonzero(target < 0)
    at = slot[pending]
    while len(pending):
        edge, is_target = at >> 1, (at & 1).astype(bool)
        done = ~is_target
        target[pending[done]] = source[edge[done]]
        pending, edge = pending[is_target], edge[is_target]
        at = slot[edge]
        root = at < 0
        target[pending[root]] = 0
        pending, at = pending[~root], at[~root]
    graph = _csr(np.ones(len(source)), source, target, (n, n))
    graph = (graph + graph.T).tocsr()
    graph.data[:] = 1.0
    graph.setdiag(0.0)
    graph.eliminate_zeros()
    weights = 1.0 / np.maximum(np.asarray(graph.sum(axis=0)).ravel(), 1.0)
    S = (graph * weights).tocsr()
    x = np.full(n, 1.0 / n)
    for _ in range(int(np.ceil(np.log(1e-15) / np.log(damping)))):
        x = damping * (S @ x) + (1.0 - damping) / n
    x /= x.sum()
    A = sp.vstack([sp.eye_array(n) - damping * S, np.ones((1, n))], format="csr")
    low = np.full(n + 1, (1.0 - damping) / n)
    low[n] = 1.0
    high = np.full(n + 1, np.inf)
    high[n] = 1.0
    return LinearProgramData(
        np.zeros(n), A, low, high, np.zeros(n), np.full(n, np.inf), f"PageRank {n}", 0.0, x,
        np.zeros(n + 1),
    )  # fmt: skip


def make_multicommodity_lp(
    n_nodes: int,
    n_arcs: int,
    n_commodities: int,
    *,
    n_sinks: int = 10,
    random_state: Any = None,
) -> LinearProgramData:
    """Multicommodity flow of least cost in a random network with capacities.

    Every commodity has one source and several sinks. Capacities are those that a mixture of two
    routings needs, each along the shortest paths for random lengths of its own; hence there is a
    feasible flow, and many arcs are full at the optimum.

    Parameters
    ----------
    n_nodes : int
        Number of nodes, at least 3.
    n_arcs : int
        Number of arcs, at least ``2 * n_nodes``: a cycle in both directions, and random ones.
    n_commodities : int
        Number of commodities, positive.
    n_sinks : int, default=10
        Sinks of a commodity, at most ``n_nodes - 1`` are taken.
    random_state : int, Generator or None, default=None
        Seed.

    Returns
    -------
    LinearProgramData
        Balances of all nodes for one commodity after the other, then capacities; variables are the
        flows on all arcs for one commodity after the other. ``3 * n_arcs * n_commodities``
        nonzeros. `optimum` is not known.

    Raises
    ------
    ParameterError
        A size that is too small.
    """
    n, e, k, s = _at_least(
        n_nodes=(n_nodes, 3), n_arcs=(n_arcs, 2 * max(int(n_nodes), 3)),
        n_commodities=(n_commodities, 1), n_sinks=(n_sinks, 1),
    )  # fmt: skip
    s = min(s, n - 1)
    rng = make_rng(random_state)
    ring = np.arange(n)
    tail = np.concatenate([ring, (ring + 1) % n, rng.integers(n, size=e - 2 * n)])
    head = (tail + rng.integers(1, n, size=e)) % n
    head[: 2 * n] = np.concatenate([(ring + 1) % n, ring])
    sources = rng.integers(n, size=k)
    supply = np.zeros((k, n))
    amounts = rng.random((k, s)) + 0.1
    # Distinct sinks: the first s of a random order of the others, as steps from the source.
    steps = np.argsort(rng.random((k, n - 1)), axis=1)[:, :s] + 1
    rows = np.arange(k)[:, None]
    supply[rows, (sources[:, None] + steps) % n] = -amounts
    supply[np.arange(k), sources] = amounts.sum(axis=1)
    load = np.zeros(e)
    for share in (0.5, 0.5):
        load += share * _load(n, tail, head, rng.random(e) + 0.1, sources, supply)
    capacity = load + 0.05 * load.mean()
    cost = rng.random(e) + 0.1
    arcs = np.arange(e)
    ends = np.concatenate([tail, head])
    incidence = _csr(np.repeat([1.0, -1.0], e), ends, np.concatenate([arcs, arcs]), (n, e))
    A = sp.vstack(
        [sp.block_diag([incidence] * k, format="csr"), sp.hstack([sp.eye_array(e)] * k)],
        format="csr",
    )
    balance = supply.ravel()
    low = np.concatenate([balance, np.full(e, -np.inf)])
    high = np.concatenate([balance, capacity])
    name = f"multicommodity {n} nodes, {e} arcs, {k} commodities"
    return LinearProgramData(
        np.tile(cost, k), A, low, high, np.zeros(e * k), np.full(e * k, np.inf), name
    )


def _load(n: int, tail: Array, head: Array, length: Array, sources: Array, supply: Array) -> Array:
    """Flow on every arc when all commodities take shortest paths."""
    order = np.lexsort((-length, tail * n + head))  # the shortest of parallel arcs is last
    pair = (tail * n + head)[order]
    last = np.append(pair[1:] != pair[:-1], True)
    chosen, pair = order[last], pair[last]
    graph = sp.csr_array((length[chosen], (tail[chosen], head[chosen])), shape=(n, n))
    distance, before = csgraph.dijkstra(graph, indices=sources, return_predecessors=True)
    load = np.zeros(len(tail))
    need = np.maximum(-supply, 0.0)
    commodity = np.arange(len(sources))
    # From the farthest node to the nearest, what a node needs comes through its predecessor.
    for nodes in np.argsort(-distance, axis=1).T:
        parent = before[commodity, nodes]
        inner = parent >= 0
        k, node, parent = commodity[inner], nodes[inner], parent[inner]
        amount = need[k, node]
        np.add.at(load, chosen[np.searchsorted(pair, parent.astype(np.int64) * n + node)], amount)
        need[k, parent] += amount
    return load


def make_markov_decision_lp(
    n_states: int,
    n_actions: int,
    *,
    n_next: int = 5,
    discount: float = 0.95,
    random_state: Any = None,
) -> LinearProgramData:
    """Linear program of a discounted Markov decision process.

    To minimise ``mu @ v`` subject to ``v(s) - discount * sum_t P(t | s, a) v(t) >= r(s, a)`` for
    every state s and action a. The values are random, and the rewards are such that these are the
    optimal values and one random action in each state is the best.

    Parameters
    ----------
    n_states, n_actions : int
        Numbers of states and of actions in each state, positive.
    n_next : int, default=5
        States to which an action can lead (those that fall together are summed).
    discount : float, default=0.95
        Discount factor in (0, 1).
    random_state : int, Generator or None, default=None
        Seed.

    Returns
    -------
    LinearProgramData
        With `x`, the values, and `optimum`. Rows are ordered by state, then by action.

    Raises
    ------
    ParameterError
        A size that is not positive, or a discount outside of (0, 1).
    """
    n, k, t = _at_least(n_states=(n_states, 1), n_actions=(n_actions, 1), n_next=(n_next, 1))
    if not 0.0 < discount < 1.0:
        raise ParameterError(f"discount={discount!r}: a number between 0 and 1 is needed")
    rng = make_rng(random_state)
    m = n * k
    chances = rng.random((m, t)) + 1e-3
    chances /= chances.sum(axis=1, keepdims=True)
    rows = np.repeat(np.arange(m), t)
    P = _csr(chances.ravel(), rows, rng.integers(n, size=m * t), (m, n))
    state = np.repeat(np.arange(n), k)
    own = sp.csr_array((np.ones(m), state, np.arange(m + 1)), shape=(m, n))
    A = (own - discount * P).tocsr()
    values = rng.standard_normal(n)
    slack = rng.random((n, k))
    slack[np.arange(n), rng.integers(k, size=n)] = 0.0
    rewards = A @ values - slack.ravel()
    mu = rng.random(n) + 0.5
    mu /= mu.sum()
    name = f"Markov decisions, {n} states, {k} actions"
    return LinearProgramData(
        mu, A, rewards, np.full(m, np.inf), np.full(n, -np.inf), np.full(n, np.inf), name,
        float(mu @ values), values,
    )  # fmt: skip


def make_l1_regression_lp(
    n_samples: int, n_features: int, *, random_state: Any = None
) -> LinearProgramData:
    """Least absolute deviations of a dense random design as a linear program.

    To minimise ``sum(u + v)`` subject to ``X @ w + u - v = t``, with w free and u, v nonnegative.
    `n_features` of the residuals are 0 at the solution and the others are normal; the design is
    orthogonal to the multipliers, so that the solution is known.

    Parameters
    ----------
    n_samples, n_features : int
        Shape of the design; more samples than features.
    random_state : int, Generator or None, default=None
        Seed.

    Returns
    -------
    LinearProgramData
        With `x` (the coefficients w, then u, then v), `y` and `optimum`. Nonzeros:
        ``n_samples * (n_features + 2)``.

    Raises
    ------
    ParameterError
        A size that is not positive, or not more samples than features.
    """
    m, p = _at_least(n_samples=(n_samples, 2), n_features=(n_features, 1))
    if m <= p:
        raise ParameterError(f"n_samples={m}: more than n_features={p} are needed")
    rng = make_rng(random_state)
    y = np.where(rng.random(m) < 0.5, -1.0, 1.0)
    exact = rng.permutation(m)[:p]
    y[exact] = rng.uniform(-0.9, 0.9, p)
    X = rng.standard_normal((m, p))
    X -= y[:, None] * (y @ X / (y @ y))
    residual = y * np.abs(rng.standard_normal(m))
    residual[exact] = 0.0
    w = rng.standard_normal(p)
    target = X @ w + residual
    eye = sp.eye_array(m, format="csr")
    A = sp.hstack([sp.csr_array(X), eye, -eye], format="csr")
    x = np.concatenate([w, np.maximum(residual, 0.0), np.maximum(-residual, 0.0)])
    c = np.concatenate([np.zeros(p), np.ones(2 * m)])
    lower = np.concatenate([np.full(p, -np.inf), np.zeros(2 * m)])
    return LinearProgramData(
        c, A, target, target.copy(), lower, np.full(p + 2 * m, np.inf),
        f"L1 regression {m}x{p}", float(np.abs(residual).sum()), x, y,
    )  # fmt: skip


def make_basis_pursuit_lp(
    n_measurements: int,
    n_unknowns: int,
    *,
    n_nonzero: int | None = None,
    random_state: Any = None,
) -> LinearProgramData:
    """Sparsest solution of random equations by the l1 norm, as a linear program.

    To minimise ``sum(p + q)`` subject to ``G @ (p - q) = b``, p and q nonnegative, with a dense
    Gaussian matrix G that is corrected by a matrix of rank one such that the solution is known.

    Parameters
    ----------
    n_measurements, n_unknowns : int
        Shape of G, positive.
    n_nonzero : int or None, default=None
        Nonzero unknowns, at most `n_measurements`; ``None``: a fifth of the measurements.
    random_state : int, Generator or None, default=None
        Seed.

    Returns
    -------
    LinearProgramData
        With `x` (p, then q), `y` and `optimum`. Nonzeros: ``2 * n_measurements * n_unknowns``.

    Raises
    ------
    ParameterError
        A size that is not positive, or more nonzero unknowns than there are of either kind.
    """
    m, n = _at_least(n_measurements=(n_measurements, 1), n_unknowns=(n_unknowns, 1))
    (k,) = _at_least(n_nonzero=(max(m // 5, 1) if n_nonzero is None else n_nonzero, 0))
    if k > min(m, n):
        raise ParameterError(f"n_nonzero={k}: at most {min(m, n)} with {m} measurements of {n}")
    rng = make_rng(random_state)
    G = rng.standard_normal((m, n)) / np.sqrt(m)
    y = 0.4 * rng.standard_normal(m)
    support = rng.permutation(n)[:k]
    product = y @ G
    wanted = np.clip(product, -0.9, 0.9)
    sign = np.where(product < 0, -1.0, 1.0)
    wanted[support] = sign[support]
    G += np.outer(y, (wanted - product) / (y @ y))
    unknowns = np.zeros(n)
    unknowns[support] = sign[support] * (0.1 + np.abs(rng.standard_normal(k)))
    b = G @ unknowns
    half = sp.csr_array(G)
    x = np.concatenate([np.maximum(unknowns, 0.0), np.maximum(-unknowns, 0.0)])
    return LinearProgramData(
        np.ones(2 * n), sp.hstack([half, -half], format="csr"), b, b.copy(), np.zeros(2 * n),
        np.full(2 * n, np.inf), f"basis pursuit {m}x{n}", float(np.abs(unknowns).sum()), x, y,
    )  # fmt: skip


# -- no solution ----------------------------------------------------------------------------------


def _tilted(rng: np.random.Generator, m: int, n: int, k: int) -> tuple[Any, Array, Array]:
    """Draw a sparse matrix A, y > 0 and s >= 0 with ``A.T @ y = -s``, one entry a column changed.

    A half of s is 0.
    """
    A = _scattered(rng, m, n, k)
    y = rng.random(m) + 0.1
    s = np.maximum(rng.standard_normal(n), 0.0)
    rows = rng.integers(m, size=n)
    change = -(s + A.T @ y) / y[rows]
    return (A + _csr(change, rows, np.arange(n), (m, n))).tocsr(), y, s


def make_infeasible_lp(
    n_constraints: int, n_variables: int, *, per_column: int = 5, random_state: Any = None
) -> LinearProgramData:
    """Random linear program ``A @ x >= b, x >= 0`` without a feasible point.

    Parameters
    ----------
    n_constraints, n_variables : int
        Shape of the matrix, positive.
    per_column : int, default=5
        Nonzeros of a column before one more is changed.
    random_state : int, Generator or None, default=None
        Seed.

    Returns
    -------
    LinearProgramData
        With `ray`, nonnegative multipliers such that ``A.T @ ray <= 0`` and ``b @ ray = 1``.

    Raises
    ------
    ParameterError
        A size that is not positive.
    """
    m, n, k = _at_least(
        n_constraints=(n_constraints, 1), n_variables=(n_variables, 1), per_column=(per_column, 1)
    )
    rng = make_rng(random_state)
    A, y, _ = _tilted(rng, m, n, k)
    b = rng.standard_normal(m)
    b += y * ((1.0 - b @ y) / (y @ y))
    return LinearProgramData(
        rng.standard_normal(n), A, b, np.full(m, np.inf), np.zeros(n), np.full(n, np.inf),
        f"infeasible {m}x{n}", ray=y,
    )  # fmt: skip


def make_unbounded_lp(
    n_constraints: int, n_variables: int, *, per_row: int = 5, random_state: Any = None
) -> LinearProgramData:
    """Random linear program ``A @ x >= b, x >= 0`` that is feasible and has no minimum.

    Parameters
    ----------
    n_constraints, n_variables : int
        Shape of the matrix, positive.
    per_row : int, default=5
        Nonzeros of a row before one more is changed.
    random_state : int, Generator or None, default=None
        Seed.

    Returns
    -------
    LinearProgramData
        With `ray`, a nonnegative direction such that ``A @ ray >= 0`` and ``c @ ray = -1``, and
        `x`, a feasible point.

    Raises
    ------
    ParameterError
        A size that is not positive.
    """
    m, n, k = _at_least(
        n_constraints=(n_constraints, 1), n_variables=(n_variables, 1), per_row=(per_row, 1)
    )
    rng = make_rng(random_state)
    tilted, ray, _ = _tilted(rng, n, m, k)
    A = (-tilted.T).tocsr()
    x = np.maximum(rng.standard_normal(n), 0.0)
    b = A @ x - np.maximum(rng.standard_normal(m), 0.0)
    c = rng.standard_normal(n)
    c -= ray * ((1.0 + c @ ray) / (ray @ ray))
    return LinearProgramData(
        c, A, b, np.full(m, np.inf), np.zeros(n), np.full(n, np.inf), f"unbounded {m}x{n}", x=x,
        ray=ray,
    )  # fmt: skip
