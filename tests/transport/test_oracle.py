"""The oracle of the semi-dual: against sorts and brute force, lists, points, threads."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from lowrank_opt.core import ParameterError
from lowrank_opt.transport import reference_oracle as reference
from lowrank_opt.transport.canonical import EXACT, KL, L2, UPPER, Canonical
from lowrank_opt.transport.costs import DenseCost, PointCost, SparseCost, cost_block
from lowrank_opt.transport.kernels_costs import (
    GROUP,
    LANES,
    column_scores,
    pair_cost,
    score_groups,
    source_at,
)
from lowrank_opt.transport.kernels_oracle import kth_by_insertion, kth_largest
from lowrank_opt.transport.oracle import SemidualOracle

KINDS = ("matrix", "levels", "forbidden", "plane", "distance", "list")


def make_cost(kind, m, n, rng, dtype=np.float64):
    if kind == "plane":
        X, Y = rng.standard_normal((2, m)), rng.standard_normal((n, 2)) + 1.0
        return PointCost(X.astype(dtype), Y.astype(dtype), True)
    if kind == "distance":
        X, Y = rng.standard_normal((5, m)), rng.standard_normal((n, 5))
        return PointCost(X.astype(dtype), Y.astype(dtype), False)
    C = rng.random((n, m))
    if kind == "levels":
        C = np.round(4.0 * C) / 4.0  # many ties
    allowed = rng.random((n, m)) < 0.4
    allowed[np.arange(n), rng.integers(0, m, n)] = True
    if kind == "forbidden":
        C[~allowed] = np.inf
    if kind == "list":
        indptr = np.concatenate([[0], np.cumsum(allowed.sum(axis=1))]).astype(np.int64)
        return SparseCost(indptr, np.nonzero(allowed)[1], C[allowed].astype(dtype), m)
    return DenseCost(C.astype(dtype))


def make_view(
    m, n, *, kind="matrix", k=None, gamma=1.0, rows=EXACT, weight=2.0, seed=0, dtype=np.float64
):
    rng = np.random.default_rng(seed)
    cost = make_cost(kind, m, n, rng, dtype)
    a, b = rng.random(m) + 0.05, rng.random(n) + 0.05
    return Canonical(
        a / a.sum(), b / b.sum(), cost, gamma, min(k or m, m), rows, weight, 1.0, np.arange(m),
        np.arange(n),
    )  # fmt: skip


def dense_plan(found, m):
    n = len(found.indptr) - 1
    T = np.zeros((m, n))
    T[found.indices, np.repeat(np.arange(n), np.diff(found.indptr))] = found.values
    return T


def same_bits(first, second):
    return all(np.array_equal(x, y) for x, y in zip(first, second, strict=True))


def check_against_sorts(view, alpha):
    found = SemidualOracle(view).evaluate(alpha)
    value, gradient, tau, plan = reference.evaluate(view, alpha)
    assert found.value == pytest.approx(value, rel=1e-12, abs=1e-12)
    np.testing.assert_allclose(found.gradient, gradient, rtol=0, atol=1e-12)
    np.testing.assert_allclose(found.tau, tau, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(dense_plan(found, view.m), plan, rtol=0, atol=1e-13)
    np.testing.assert_allclose(plan.sum(axis=0), view.b, rtol=1e-12)
    assert np.diff(found.indptr).max() <= view.k
    assert np.diff(found.indptr).min() >= 1
    for j in range(view.n):
        column = found.indices[found.indptr[j] : found.indptr[j + 1]]
        assert np.all(np.diff(column) > 0)
    assert np.all(found.values > 0)
    return found


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("m", "n"), [(1, 4), (6, 1), (7, 5), (64, 3), (150, 6)])
def test_semidual_equals_the_sorts(kind, m, n):
    rng = np.random.default_rng(1)
    for k, gamma, dtype in itertools.product(
        (1, 2, 5, 70, m), (0.0, 0.1, 30.0), (np.float64, np.float32)
    ):
        view = make_view(m, n, kind=kind, k=k, gamma=gamma, dtype=dtype)
        for alpha in (np.zeros(m), 0.3 * rng.standard_normal(m)):
            check_against_sorts(view, alpha)


@pytest.mark.parametrize("rows", [EXACT, UPPER, L2, KL])
def test_term_of_the_rows(rows):
    view = make_view(9, 6, k=2, rows=rows)
    alpha = np.random.default_rng(2).standard_normal(9)
    check_against_sorts(view, np.minimum(alpha, 0.0) if rows == UPPER else alpha)


def project_by_bisection(v, mass):
    """Projection on the scaled simplex without sorts."""
    low, high = v.min() - mass, v.max()
    for _ in range(200):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if np.maximum(v - middle, 0).sum() > mass else (low, middle)
    return np.maximum(v - 0.5 * (low + high), 0.0)


@pytest.mark.parametrize("k", [1, 2, 3])
def test_semidual_equals_all_supports(k):
    view = make_view(6, 4, k=k, gamma=0.5)
    alpha = np.random.default_rng(3).standard_normal(6)
    C = cost_block(view.cost, 0, 4)
    value = float(view.a @ alpha)
    for j in range(4):
        s = alpha - C[j]
        values = []
        for support in itertools.combinations(range(6), k):
            t = project_by_bisection(s[list(support)] / 0.5, view.b[j])
            values.append(s[list(support)] @ t - 0.25 * np.sum(t * t))
        value -= max(values)
    assert SemidualOracle(view).evaluate(alpha).value == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize("rows", [EXACT, UPPER, L2, KL])
def test_gradient_is_the_derivative(rows):
    view = make_view(12, 30, kind="plane", gamma=2.0, rows=rows)
    oracle = SemidualOracle(view)
    rng = np.random.default_rng(4)
    alpha = -rng.random(12)
    gradient = oracle.evaluate(alpha).gradient
    for _ in range(4):
        d = rng.standard_normal(12)
        up, down = (oracle.evaluate(alpha + h * d).value for h in (1e-6, -1e-6))
        assert (up - down) / 2e-6 == pytest.approx(gradient @ d, rel=1e-6, abs=1e-8)


def test_ties_go_to_the_lowest_index():
    view = make_view(130, 3, k=3)
    C = np.ones((3, 130))
    C[1, 100:] = 0.0
    view = Canonical(
        view.a, view.b, DenseCost(C), 1.0, 3, EXACT, 0.0, 1.0, view.sources, view.targets
    )
    found = check_against_sorts(view, np.zeros(130))
    assert found.indices.tolist() == [0, 1, 2, 100, 101, 102, 0, 1, 2]
    np.testing.assert_allclose(found.values, np.repeat(view.b / 3.0, 3), rtol=1e-12)
    plain = Canonical(
        view.a, view.b, DenseCost(C), 0.0, 3, EXACT, 0.0, 1.0, view.sources, view.targets
    )
    assert SemidualOracle(plain).evaluate(np.zeros(130)).indices.tolist() == [0, 100, 0]


@pytest.mark.parametrize("small", [1e-30, 1e-200, 1e-310])
def test_tiny_masses_keep_exact_sums(small):
    view = make_view(80, 3, k=4, gamma=1e-3)
    b = np.array([small, 0.4, 0.6])
    view = Canonical(view.a, b, view.cost, 1e-3, 4, EXACT, 0.0, 1.0, view.sources, view.targets)
    found = SemidualOracle(view).evaluate(np.random.default_rng(0).standard_normal(80))
    sums = dense_plan(found, 80).sum(axis=0)
    np.testing.assert_allclose(sums, b, rtol=1e-12)
    assert np.isfinite(found.value)
    assert np.isfinite(found.tau).all()


def test_large_offsets_do_not_cost_the_sums():
    view = make_view(100, 5, k=7, gamma=1.0)
    oracle = SemidualOracle(view)
    rng = np.random.default_rng(0)
    alpha = 0.01 * rng.standard_normal(100)
    at = oracle.evaluate(alpha)
    far = oracle.evaluate(alpha + 1e6)
    np.testing.assert_allclose(dense_plan(far, 100).sum(axis=0), view.b, rtol=1e-13)
    assert far.value == pytest.approx(at.value, abs=1e-8)


def test_plans_larger_than_the_first_buffer():
    view = make_view(300, 40)
    flat = Canonical(
        view.a, view.b, DenseCost(np.zeros((40, 300))), 1.0, 300, EXACT, 0.0, 1.0, view.sources,
        view.targets,
    )  # fmt: skip
    found = SemidualOracle(flat).evaluate(np.zeros(300))
    np.testing.assert_allclose(
        dense_plan(found, 300), np.outer(np.full(300, 1.0 / 300), view.b), rtol=1e-12
    )


def test_read_only_data_and_results_of_their_own():
    view = make_view(20, 8, k=3)
    alpha = np.zeros(20)
    alpha.setflags(write=False)
    oracle = SemidualOracle(view)
    first = oracle.evaluate(alpha)
    copies = [np.copy(part) for part in first]
    oracle.evaluate(alpha - np.arange(20.0))
    assert same_bits(first, copies)


# -- the dual in both potentials ------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("k", [1, 3, 66, 100])
def test_dual_equals_the_sorts(kind, k):
    view = make_view(100, 6, kind=kind, k=k, gamma=0.3)
    rng = np.random.default_rng(5)
    alpha, beta = 0.5 * rng.standard_normal(100), rng.standard_normal(6)
    found = SemidualOracle(view).dual(alpha, beta)
    value, gradient, beta_gradient, plan = reference.dual(view, alpha, beta)
    assert found.value == pytest.approx(value, rel=1e-12)
    np.testing.assert_allclose(found.gradient, gradient, rtol=1e-11, atol=1e-11)
    np.testing.assert_allclose(found.beta_gradient, beta_gradient, rtol=1e-11, atol=1e-11)
    np.testing.assert_allclose(dense_plan(found, 100), plan, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("k", [1, 2, 30])
def test_thresholds_maximise_the_dual(k):
    view = make_view(30, 8, k=k, gamma=0.2)
    oracle = SemidualOracle(view)
    alpha = 0.1 * np.random.default_rng(6).standard_normal(30)
    semi = oracle.evaluate(alpha)
    dual = oracle.dual(alpha, -semi.tau)
    assert dual.value == pytest.approx(semi.value, rel=1e-12)
    np.testing.assert_allclose(dual.beta_gradient, 0.0, atol=1e-13)
    for shift in (-0.1, 0.1):
        assert oracle.dual(alpha, shift - semi.tau).value < semi.value


def test_dual_needs_a_quadratic_term():
    view = make_view(5, 4, gamma=0.0)
    with pytest.raises(ParameterError, match="gamma > 0"):
        SemidualOracle(view).dual(np.zeros(5), np.zeros(4))


# -- lists ---------------------------------------------------------------------------------------


def make_large(kind="matrix", **options):
    return make_view(700, 40, kind=kind, **options)


def spread(rng, width, size):
    """A move of the potentials whose range is exactly `width`, extreme at most places."""
    move = np.where(rng.random(size) < 0.5, -0.5, 0.5)
    move[rng.integers(size)] = 0.5
    move[rng.integers(size)] = -0.5
    return width * move + rng.standard_normal()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("k", "gamma"), [(1, 1.0), (3, 0.0), (4, 20.0), (80, 300.0), (None, 2.0)])
def test_lists_give_the_bits_of_a_scan(kind, k, gamma):
    view = make_large(kind, k=k, gamma=gamma)
    plain, listed = SemidualOracle(view, screening=False), SemidualOracle(view)
    rng = np.random.default_rng(7)
    alpha = 0.01 * rng.standard_normal(view.m)
    listed.evaluate(alpha)
    radius = listed.list_radius
    assert radius.shape == (40,)
    found = np.flatnonzero(radius > 0)
    assert found.size > 0 or k == 80 or kind == "list"  # lists would hold most sources
    for j in found[np.argsort(radius[found])][[0, found.size // 2, -1]] if found.size else ():
        base, lists = radius[j], listed._screen.lists
        worst = np.full(view.m, 0.5 * base)  # all others rise against what is listed
        worst[lists.sources[j, : lists.counts[j]]] = -0.5 * base
        for part in (0.3, 0.999, 1.0, 1.001, 2.0):
            for move in (worst, spread(rng, base, view.m)):
                fresh = SemidualOracle(view)
                fresh.evaluate(alpha)
                moved = alpha + part * move
                assert same_bits(fresh.evaluate(moved), plain.evaluate(moved))
    for size in 10.0 ** rng.uniform(-7, -1, 25):
        alpha = alpha + size * rng.standard_normal(view.m)
        assert same_bits(listed.evaluate(alpha), plain.evaluate(alpha))


def test_lists_are_read_instead_of_costs():
    view = make_large(k=4)
    oracle = SemidualOracle(view)
    alpha = 0.01 * np.random.default_rng(8).standard_normal(view.m)
    oracle.evaluate(alpha)
    assert (oracle.n_scans, oracle.n_scanned_columns, oracle.n_evaluations) == (1, 40, 1)
    radius = oracle.list_radius
    assert np.all(radius > 0)
    move = spread(np.random.default_rng(9), 0.999 * radius.min(), view.m)
    oracle.evaluate(alpha + move)
    assert (oracle.n_scanned_columns, oracle.n_evaluations) == (40, 2)
    # columns whose list is too short, and only these, are scanned again
    width = float(np.quantile(radius, 0.2))
    oracle.evaluate(alpha + spread(np.random.default_rng(9), width, view.m))
    assert oracle.n_scanned_columns == 40 + np.count_nonzero(radius <= width)
    oracle.evaluate(alpha + spread(np.random.default_rng(9), 100.0, view.m))
    assert oracle.n_scanned_columns == 80 + np.count_nonzero(radius <= width)


def test_a_list_depends_on_its_own_potentials():
    """Many small moves, so that lists of several ages are in use at once."""
    view = make_large("plane", k=5, gamma=5.0)
    plain, listed = SemidualOracle(view, screening=False), SemidualOracle(view)
    rng = np.random.default_rng(10)
    alpha = np.zeros(view.m)
    listed.evaluate(alpha)
    step = 0.1 * float(np.median(listed.list_radius))
    for _ in range(120):
        alpha = alpha + spread(rng, step, view.m)
        assert same_bits(listed.evaluate(alpha), plain.evaluate(alpha))
    assert 40 < listed.n_scanned_columns < 0.7 * plain.n_scanned_columns


# -- points, threads -----------------------------------------------------------------------------


@pytest.mark.parametrize("squared", [True, False])
@pytest.mark.parametrize("d", [1, 2, 3, 8, 9, 40])
def test_points_have_the_bits_of_their_matrix(d, squared):
    """Also where candidates come from inner products, with errors."""
    rng = np.random.default_rng(11)
    X, Y = rng.standard_normal((d, 600)), rng.standard_normal((30, d)) + 0.5
    Y[3] = X[:, 17]  # a distance of zero
    points = PointCost(X, Y, squared)
    matrix = DenseCost(np.ascontiguousarray(cost_block(points, 0, 30)))
    b = rng.random(30)
    for k, gamma in ((1, 1.0), (3, 0.0), (6, 50.0), (600, 50.0)):
        views = [
            Canonical(
                np.full(600, 1 / 600), b / b.sum(), cost, gamma, k, EXACT, 0.0, 1.0,
                np.arange(600), np.arange(30),
            )
            for cost in (points, matrix)
        ]  # fmt: skip
        alpha = 0.1 * rng.standard_normal(600)
        for screening in (True, False):
            left, right = (SemidualOracle(view, screening=screening) for view in views)
            for move in (0.0, 1e-4, 1e-2):
                at = alpha + move * rng.standard_normal(600)
                assert same_bits(left.evaluate(at), right.evaluate(at))
            beta = rng.standard_normal(30)
            if gamma > 0:
                assert same_bits(left.dual(at, beta), right.dual(at, beta))


@pytest.mark.parametrize("kind", ["matrix", "plane", "list"])
@pytest.mark.parametrize("screening", [True, False])
def test_threads_give_the_same_bits(kind, screening):
    view = make_large(kind, k=6, gamma=5.0)
    one = SemidualOracle(view, screening=screening)
    two = SemidualOracle(view, screening=screening, n_threads=2)
    rng = np.random.default_rng(12)
    alpha = np.zeros(view.m)
    for size in (0.0, 1e-5, 1e-3, 0.1):
        alpha = alpha + size * rng.standard_normal(view.m)
        assert same_bits(one.evaluate(alpha), two.evaluate(alpha))
    beta = rng.standard_normal(view.n)
    assert same_bits(one.dual(alpha, beta), two.dual(alpha, beta))


# -- kernels -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_scores_have_one_value_everywhere(kind, dtype):
    """In groups, target by target, and pair by pair."""
    from numba import njit

    @njit
    def everywhere(cost, alpha, j, groups, tops, row, pairs, sources):
        found = score_groups(cost, alpha, j, groups, tops)
        column_scores(cost, alpha, j, row)
        for i in range(row.size):
            pairs[i] = alpha[i] - pair_cost(cost, i, j)
        for p in range(sources.size):
            sources[p] = source_at(cost, j, p)
        return found

    rng = np.random.default_rng(13)
    for m in (1, GROUP, 200):
        cost = make_cost(kind, m, 3, rng, dtype)
        alpha = rng.standard_normal(m)
        size = GROUP * -(-m // GROUP)
        for j in range(3):
            groups, tops = np.empty(size), np.empty(size // GROUP * LANES)
            row, pairs = np.empty(m), np.empty(m)
            count = m if kind != "list" else cost.indptr[j + 1] - cost.indptr[j]
            sources = np.empty(count, np.int64)
            found = everywhere(cost, alpha, j, groups, tops, row, pairs, sources)
            expected, expected_tops = np.empty(size), np.empty(size // GROUP * LANES)
            assert found == score_groups(cost, alpha, j, expected, expected_tops)
            used = found[0] * GROUP
            np.testing.assert_array_equal(groups[:used], expected[:used])
            np.testing.assert_array_equal(
                tops[: found[0] * LANES], expected_tops[: found[0] * LANES]
            )
            np.testing.assert_array_equal(row, pairs)
            np.testing.assert_array_equal(row[sources], groups[:count])
            assert [source_at(cost, j, p) for p in range(count)] == sources.tolist()
            np.testing.assert_allclose(row, alpha - cost_block(cost, j, j + 1)[0], rtol=1e-15)


def test_kth_largest():
    rng = np.random.default_rng(14)
    for count in (1, 2, 3, 10, 101):
        for values in (rng.standard_normal(count), rng.integers(0, 3, count).astype(float)):
            for k in {1, min(2, count), (count + 1) // 2, count}:
                expected = np.sort(values)[::-1][k - 1]
                assert kth_largest(values.copy(), count, k) == expected
                assert kth_by_insertion(values, 0, count, k, np.empty(k)) == expected
