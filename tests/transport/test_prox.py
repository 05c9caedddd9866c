"""The prox of columns: against nested bisection, optimality conditions, and over lists."""

from __future__ import annotations

import numpy as np
import pytest

from lowrank_opt.transport import TransportProblem
from lowrank_opt.transport.costs import cost_block
from lowrank_opt.transport.kernels_prox import plan_value, prox_of_rows, sort_down
from lowrank_opt.transport.newton import Laplacian, reference_laplacian
from lowrank_opt.transport.proximal import ProximalOracle, empty_plan
from lowrank_opt.transport.reference_prox import (
    prox_of_row,
    proximal_value,
    semidual_value,
    support_norm,
)

# A cap of 1 is of interest here whether or not a sparse plan exists.
pytestmark = pytest.mark.filterwarnings("ignore:max_nnz=1. .* places are fewer")


def solve(V, k, rho, totals):
    out = np.full(np.shape(V), np.nan)
    prox_of_rows(np.asarray(V, float), k, rho, np.asarray(totals, float), out)
    return out


def problem(m=30, n=66, seed=0, ties=False, masses="random", **model):
    rng = np.random.default_rng(seed)
    C = np.round(4 * rng.random((m, n))) / 4 if ties else rng.random((m, n))
    a, b = rng.random(m) + 0.1, rng.random(n) + 0.1
    if masses == "uniform":
        a[:], b[:] = 1.0, 1.0
    return TransportProblem(a / a.sum(), b / b.sum(), C, **{"gamma": 3.0, "max_nnz": 2, **model})


def center_of(view, share, seed=0):
    """A plan with exact column sums and a few entries a column, dense."""
    rng = np.random.default_rng(seed)
    plan = rng.random((view.m, view.n)) * (rng.random((view.m, view.n)) < share)
    plan[0] += 1e-3
    return plan * (view.b / plan.sum(axis=0))


def as_lists(plan):
    columns, rows = np.nonzero(plan.T)
    indptr = np.concatenate([[0], np.cumsum(np.bincount(columns, minlength=plan.shape[1]))])
    return indptr, rows.astype(np.int64), plan[rows, columns]


def dense(found, shape):
    indptr, indices, values = found.plan()
    out = np.zeros(shape)
    out[indices, np.repeat(np.arange(shape[1]), np.diff(indptr))] = values
    return out


@pytest.mark.parametrize("kind", ["continuous", "ties", "far"])
def test_the_prox_agrees_with_nested_bisection(kind):
    rng = np.random.default_rng(["continuous", "ties", "far"].index(kind))
    for _ in range(80):
        p = int(rng.integers(1, 31))
        k = int(rng.integers(1, p + 2))
        rho, b = 10.0 ** rng.uniform(-3, 3), 10.0 ** rng.uniform(-3, 1)
        v = rng.standard_normal(p) * 10.0 ** rng.uniform(-2, 1)
        if kind == "ties":
            v = np.round(2 * v) / 2
        elif kind == "far":
            v[1:][rng.random(p - 1) < 0.5] -= 1e6
        np.testing.assert_allclose(
            solve([v], k, rho, [b])[0], prox_of_row(v, k, rho, b), rtol=0, atol=1e-10 * b
        )
        np.testing.assert_allclose(
            solve([v], k, rho, [np.nan])[0], prox_of_row(v, k, rho), rtol=0,
            atol=1e-10 * np.abs(v).max(),
        )  # fmt: skip


@pytest.mark.parametrize("rho", [1e-3, 0.1, 1.0, 64.0, 1e3])
@pytest.mark.parametrize("k", [1, 2, 5, 30])
def test_random_columns_satisfy_the_optimality_conditions(rho, k):
    """``(v + tau - t) / rho`` is a subgradient at t for some tau: Fenchel's equality."""
    rng = np.random.default_rng(int(k + 100 * rho))
    V = rng.standard_normal((400, 30))
    V[::2] = np.round(4 * V[::2]) / 4
    V[rng.random(V.shape) < 0.3] -= 50.0
    b = 10.0 ** rng.uniform(-2, 2, len(V))
    T = solve(V, k, rho, b)
    assert (T >= 0).all()
    np.testing.assert_allclose(T.sum(axis=1), b, rtol=1e-13)

    def lower_bound(tau):
        s = (V + tau[:, None] - T) / rho
        top = np.maximum(np.sort(s, axis=1)[:, ::-1][:, :k], 0.0)
        return np.sum(s * T, axis=1) - 0.5 * np.sum(top**2, axis=1)

    low, high = -V.max(axis=1), (1 + rho) * b - V.max(axis=1) + 1e-3
    for _ in range(120):  # it is concave in tau
        left, right = low + (high - low) / 3, high - (high - low) / 3
        better = lower_bound(left) < lower_bound(right)
        low, high = np.where(better, left, low), np.where(better, high, right)
    norms = np.array([support_norm(t, k) for t in T])
    np.testing.assert_allclose(lower_bound(low), 0.5 * norms, rtol=1e-9)


def test_the_prox_is_a_minimiser():
    """Against random feasible points, by the objective itself."""
    rng = np.random.default_rng(5)
    for _ in range(60):
        p, k = int(rng.integers(2, 9)), int(rng.integers(1, 6))
        rho, b, v = 10.0 ** rng.uniform(-1, 2), rng.random() + 0.1, rng.standard_normal(p)

        def objective(t, v=v, rho=rho, k=k):
            return 0.5 * np.sum((t - v) ** 2) + 0.5 * rho * support_norm(t, k)

        t = solve([v], k, rho, [b])[0]
        best = objective(t)
        for _ in range(40):
            other = t + rng.standard_normal(p) * 10.0 ** rng.uniform(-4, 0)
            other = np.maximum(other, 0.0)
            if other.sum() > 0:
                assert objective(other * b / other.sum()) >= best - 1e-12


@pytest.mark.parametrize(
    ("v", "b", "expected"),
    [
        ([3.0], 2.0, [2.0]),
        ([0.0, -1e9], 2.0, [2.0, 0.0]),
        ([1.0, 1.0, 1.0, 1.0], 2.0, [0.5, 0.5, 0.5, 0.5]),
        ([1.0, 0.0], 1e-300, [1e-300, 0.0]),
        ([1.0, 2.0], 0.0, [0.0, 0.0]),
        ([-np.inf, 0.0], 1.0, [0.0, 1.0]),
        ([1e300, 0.0], 1.0, [1.0, 0.0]),
    ],
)
@pytest.mark.parametrize("k", [1, 2, 7])
@pytest.mark.parametrize("rho", [0.0, 1.0])
def test_degenerate_columns(v, b, expected, k, rho):
    np.testing.assert_allclose(solve([v], k, rho, [b])[0], expected, rtol=1e-14, atol=0)


def test_entries_are_sorted_down_with_ties_by_place():
    rng = np.random.default_rng(0)
    for count in (0, 1, 2, 39, 40, 41, 300):
        values = np.round(rng.standard_normal(count + 3), 1)
        order = rng.permutation(count + 3)
        expected = np.lexsort((order[:count], -values[:count]))
        head, places = values[:count][expected], order[:count][expected]
        sort_down(values, order, count)
        np.testing.assert_array_equal(values[:count], head)
        np.testing.assert_array_equal(order[:count], places)


@pytest.mark.parametrize("k", [1, 2, 5, 30])
@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("gamma", [0.0, 3.0])
def test_lists_give_the_value_plan_and_rows_of_the_reference(k, ties, gamma):
    view = problem(max_nnz=None if gamma == 0 else k, ties=ties, gamma=gamma).canonical
    rng = np.random.default_rng(k)
    alpha, center = 0.1 * rng.standard_normal(view.m), center_of(view, 0.1)
    oracle = ProximalOracle(view)
    psi, _ = oracle.scan(alpha, 0.7, as_lists(center))
    assert psi == pytest.approx(semidual_value(view, alpha), rel=1e-12)
    other = alpha
    for step in (0.0, 1e-3, 1e-2, 0.3):
        other = other + step * rng.standard_normal(view.m)
        found = oracle.evaluate(other)
        value, plan = proximal_value(view, other, 0.7, center)
        constant = 0.5 * gamma * float(np.sum(view.b**2)) if k == 1 else 0.0
        assert found.value == pytest.approx(value + constant, rel=1e-11)
        np.testing.assert_allclose(dense(found, plan.shape), plan, rtol=0, atol=1e-12)
        np.testing.assert_allclose(found.rows, plan.sum(axis=1), rtol=0, atol=1e-12)
        spent, size, norms = plan_value(view.cost, *found.plan(), view.k)
        costs = cost_block(view.cost, 0, view.n).T
        assert spent == pytest.approx(np.sum(costs * plan), rel=1e-12)
        assert size == pytest.approx(np.sum(np.abs(costs) * plan), rel=1e-12)
        expected = sum(support_norm(t, view.k) for t in plan.T)
        assert norms == pytest.approx(0.5 * expected, rel=1e-11)


@pytest.mark.parametrize("mu", [0.05, 1.0, 500.0])
def test_screening_and_threads_change_no_answer(mu):
    view = problem(m=700, n=400, max_nnz=3, gamma=20.0).canonical
    center = as_lists(center_of(view, 0.01))
    rng = np.random.default_rng(1)
    path = [1e-3 * rng.standard_normal(view.m)]
    for step in (1e-3, 1e-4, 1e-2, 1e-5):
        path.append(path[-1] + step * rng.standard_normal(view.m))
    path[2][5] += 0.5  # a single row may rise far
    answers = []
    for options in ({}, {"n_threads": 2}, {"screening": False}):
        oracle = ProximalOracle(view, **options)
        with oracle.threads():
            oracle.scan(path[0], mu, center)
            found = [oracle.evaluate(alpha) for alpha in path]
        answers.append([(one.value, one.rows, one.plan()) for one in found])
        if not options:
            assert oracle.n_scans < 1 + len(path)
    for one, two, three in zip(*answers, strict=True):
        assert one[0] == two[0]
        np.testing.assert_array_equal(one[1], two[1])
        np.testing.assert_allclose(one[1], three[1], rtol=0, atol=1e-12)
        np.testing.assert_array_equal(one[2][1], three[2][1])


def test_a_scan_evaluates_the_semidual_of_every_kind_of_problem():
    rng = np.random.default_rng(3)
    X, Y = rng.standard_normal((20, 2)), rng.standard_normal((45, 2))
    C = ((X[:, None] - Y[None]) ** 2).sum(axis=2)
    holes = np.where(rng.random(C.shape) < 0.3, np.inf, C)
    forms = ({"C": C}, {"X": X, "Y": Y}, {"C": holes}, {"C": C.astype(np.float32)})
    for form in forms:
        for k in (1, 3, None):
            view = TransportProblem(max_nnz=k, gamma=2.0, **form).canonical
            alpha = rng.standard_normal(view.m)
            psi, tau = ProximalOracle(view).scan(alpha, 1.0, empty_plan(view.n))
            assert psi == pytest.approx(semidual_value(view, alpha), rel=1e-9)
            assert tau.shape == (view.n,)


@pytest.mark.parametrize("k", [1, 2, 4, 30])
def test_newton_systems_are_the_derivative_of_the_row_sums(k):
    view = problem(max_nnz=k, gamma=3.0).canonical
    alpha = 0.05 * np.random.default_rng(0).standard_normal(view.m)
    oracle = ProximalOracle(view)
    mu = 2.0
    oracle.scan(alpha, mu, as_lists(center_of(view, 0.1)))
    found = oracle.evaluate(alpha)
    system = Laplacian(found.support(), oracle.k, mu * oracle.gamma, view.m)
    exact = reference_laplacian(found.support(), oracle.k, mu * oracle.gamma, view.m)
    differences = np.empty((view.m, view.m))
    for i in range(view.m):
        step = np.zeros(view.m)
        step[i] = 1e-7
        up, down = (oracle.evaluate(alpha + sign * step).rows for sign in (1, -1))
        differences[i] = (up - down) / 2e-7 / mu
    np.testing.assert_allclose(exact, differences, atol=1e-5)
    np.testing.assert_allclose(exact.sum(axis=1), 0.0, atol=1e-12)
    rhs, diagonal = np.random.default_rng(1).standard_normal(view.m), np.full(view.m, 1e-2)
    solution = np.linalg.solve(exact + np.diag(diagonal), rhs)
    np.testing.assert_allclose(system.solve(diagonal, rhs), solution, atol=1e-9)
    np.testing.assert_allclose(system.solve(diagonal, rhs, 1e-12), solution, atol=1e-9)
    system.dense_up_to, system.matrix = 0, None
    np.testing.assert_allclose(system.solve(diagonal, rhs), solution, atol=1e-9)
    # components: rows that a path of shared columns connects
    from scipy.sparse.csgraph import connected_components

    count, labels = connected_components(np.abs(exact) > 0)
    assert len(np.unique(system.labels)) == count
    for label in range(count):
        assert len(np.unique(system.labels[labels == label])) == 1
