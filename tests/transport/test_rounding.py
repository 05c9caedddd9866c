"""Rounded plans: feasible, graded as they are, and near the best ones.

The means: an integer program with perspective cuts (HiGHS) whose supports a convex program grades
(Clarabel), every support by brute force, assignments by scipy.
"""

from __future__ import annotations

import itertools
import time
import warnings

import clarabel
import numpy as np
import pytest
import scipy.sparse as sp
from scipy.optimize import Bounds, LinearConstraint, linear_sum_assignment, milp

from lowrank_opt.core import Status
from lowrank_opt.core.errors import AccuracyWarning
from lowrank_opt.transport import SparsityConstrainedOT, TransportProblem
from lowrank_opt.transport import kernels_rounding as kernels
from lowrank_opt.transport.rounding import round_plan, solve_on_support

TOL = 1e-6


def clouds(m, n, seed=0, masses="random"):
    """Masses and costs of two shifted clouds in the plane; the largest cost is 1."""
    rng = np.random.default_rng(seed)
    X, Y = rng.standard_normal((m, 2)), rng.standard_normal((n, 2)) + 1.5
    C = ((X[:, None] - Y[None]) ** 2).sum(axis=2)
    a, b = (rng.random(size) + 0.1 if masses == "random" else np.ones(size) for size in (m, n))
    return a / a.sum(), b / b.sum(), C / C.max()


def planted(m, n, k, seed):
    """Masses of a plan with k random integers in every column, and random costs."""
    rng = np.random.default_rng(seed)
    T = np.zeros((m, n))
    order = np.concatenate([rng.permutation(m), rng.integers(0, m, max(0, n * k - m))])
    for place, i in enumerate(order[: n * k]):
        T[i, place % n] += rng.integers(1, 6)
    T /= T.sum()
    return T.sum(axis=1), T.sum(axis=0), rng.random((m, n))


def make(*data, **options):
    """Problem; few places are no news here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AccuracyWarning)
        return TransportProblem(*data, **options)


def solve(problem, **options):
    """Solve and grade the answer from its dense plan; return the result and that plan."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AccuracyWarning)
        result = SparsityConstrainedOT(**options).solve(problem)
    assert result.status is Status.CONVERGED, result.message
    T = result.x.toarray().astype(float)
    grade_plan(problem, result, T, result.x.dtype == np.float32)
    return result, T


def grade_plan(problem, result, T, single=False):
    """Every field of a result, from its plan alone; the cap is on the columns of the plan seen."""
    C = problem.C
    if C is None:
        C = ((problem.X[:, None] - problem.Y[None]) ** 2).sum(axis=2)
        C = C if problem.metric == "sqeuclidean" else np.sqrt(C)
    elif sp.issparse(C):
        mask = sp.csc_array((np.ones(C.nnz), C.indices, C.indptr), shape=C.shape).toarray() > 0
        C = np.where(mask, C.toarray(), np.inf)
    a, b = (np.asarray(v, float) for v in (problem.a, problem.b))
    if problem.axis == 1:
        a, b, T, C = b, a, T.T, C.T
    b = b * (1.0 if problem.row_kind != "exact" else a.sum() / b.sum())
    mass, ulp = b.sum(), 3e-6 if single else 1e-12
    assert (T >= 0).all()
    assert np.isfinite(C[T > 0]).all()
    sums, rows = T.sum(axis=0), T.sum(axis=1)
    kind = problem.row_kind
    missing = {"exact": np.abs(rows - a), "upper": np.maximum(rows - a, 0.0)}
    error = missing.get(kind, np.zeros(1)).sum() / mass
    status = result.plan_status
    capped = (np.count_nonzero(T, axis=0) <= problem.cap).all()
    assert capped == (status != "relaxed")
    np.testing.assert_allclose(sums, b, atol=max(10 * ulp, 0.0 if capped else TOL) * mass)
    if status != "columns":
        assert error <= max(TOL, 10 * ulp)
    if not capped:
        return
    penalty = 0.0
    if kind == "l2":
        penalty = problem.marginal_weight / 2 * np.sum((rows - a) ** 2)
    elif kind == "kl":
        live = rows > 0
        penalty = problem.marginal_weight * (
            np.sum(rows[live] * np.log(rows[live] / a[live])) - rows.sum() + a.sum()
        )
    spent = np.where(T > 0, np.where(np.isfinite(C), C, 0.0) * T, 0.0).sum()
    value = spent + problem.strength / 2 * np.sum(T**2) + penalty
    assert result.value == pytest.approx(value, rel=1e-9 if not single else 1e-5)
    if status == "columns":
        return
    assert result.gap == pytest.approx(result.value - result.dual_value, abs=1e-10 * abs(value))
    scale = abs(value) + abs(result.dual_value)
    assert result.gap >= -10 * TOL * scale
    unit = result.certificate.details["scale"]
    assert 0 < unit <= value * (1 + 1e-6)  # of positive costs
    assert (status == "optimal") == (result.gap <= 10 * TOL * unit)


# -- the exact optimum ----------------------------------------------------------------------------


def program(a, b, C, gamma, support, tol=1e-10):
    """Value and plan of the convex program on a support; ``inf`` if it has none."""
    m, n = C.shape
    i, j = np.nonzero(support)
    e = np.arange(len(i))
    sums = sp.csc_array(
        (np.ones(2 * len(e)), (np.r_[i, m + j], np.r_[e, e])), shape=(m + n, len(e))
    )
    A = sp.csc_matrix(sp.vstack([sums[:-1], -sp.eye_array(len(e))]))  # the last sum follows
    options = clarabel.DefaultSettings()
    options.verbose = False
    options.tol_gap_abs = options.tol_gap_rel = options.tol_feas = tol
    answer = clarabel.DefaultSolver(
        sp.csc_matrix(gamma * sp.eye(len(e))), C[i, j], A,
        np.concatenate([a, b[:-1], np.zeros(len(e))]),
        [clarabel.ZeroConeT(m + n - 1), clarabel.NonnegativeConeT(len(e))], options,
    ).solve()  # fmt: skip
    if str(answer.status) not in ("Solved", "AlmostSolved"):
        return np.inf, None
    T = np.zeros((m, n))
    T[i, j] = answer.x
    return answer.obj_val, T


def sparse_optimum(a, b, C, gamma, k, *, limit=60.0):
    """Bound from below, value and plan of the best plan with at most k entries a column.

    Outer approximation: R >= T^2 / Z by the tangents R >= 2 s T - s^2 Z, Z the support, with new
    tangents at the plan of every integer solution and at the best plan on its support.
    """
    m, n = C.shape
    mass = b.sum() / n  # masses about 1: tolerances of the integer program are absolute
    a, b, gamma = a / mass, b / mass, gamma * mass
    size = m * n
    i, j = np.divmod(np.arange(size), n)
    e, one = np.arange(size), np.ones(size)
    allowed = np.isfinite(C).ravel()
    most = np.minimum(a[i], b[j]) * allowed

    def block(row, col, values, count):
        return sp.csr_array((values, (row, col)), shape=(count, 3 * size))

    rows = [
        (block(i, e, one, m), a, a),
        (block(j, e, one, n), b, b),
        (block(j, size + e, one, n), np.zeros(n), np.full(n, float(k))),
        (block(np.r_[e, e], np.r_[e, size + e], np.r_[one, -most], size), -np.inf * one, 0 * one),
    ]

    def cut(s, where):
        count, q = len(where), np.arange(len(where))
        values = np.r_[2 * s[where], -(s[where] ** 2), -np.ones(count)]
        places = np.r_[where, size + where, 2 * size + where]
        rows.append((block(np.r_[q, q, q], places, values, count), np.full(count, -np.inf), 0 * q))

    for part in (0.15, 0.35, 0.6, 1.0):
        cut(part * most, np.flatnonzero(allowed))
    cost = np.concatenate([np.where(allowed, C.ravel(), 0.0), 0 * one, gamma / 2 * one])
    bounds = Bounds(0.0, np.concatenate([most, allowed.astype(float), np.inf * one]))
    best, plan, bound, end = np.inf, None, -np.inf, time.perf_counter() + limit
    for _ in range(60):
        parts = zip(*rows, strict=True)
        limits = LinearConstraint(sp.vstack(next(parts)).tocsr(), *map(np.concatenate, parts))
        answer = milp(
            cost, constraints=limits, integrality=np.r_[0 * one, one, 0 * one], bounds=bounds,
            options={"mip_rel_gap": 2e-7, "time_limit": limit},
        )  # fmt: skip
        if answer.x is None:
            assert answer.status == 2, answer.message
            return np.inf, np.inf, None
        bound = max(bound, answer.mip_dual_bound)
        value, T = program(a, b, C, gamma, (answer.x[size : 2 * size] > 0.5).reshape(m, n))
        if value < best:
            best, plan = value, T
        if best - bound <= 1e-6 * abs(best) or gamma == 0 or time.perf_counter() > end:
            break
        t = np.maximum(answer.x[:size], 0.0)
        cut(t, np.flatnonzero((t > 1e-6) & (answer.x[2 * size :] < t * t * (1 - 1e-6))))
        if T is not None:
            cut(np.maximum(T.ravel(), 0.0), np.flatnonzero(T.ravel() > 1e-6))
    return mass * bound, mass * best, None if plan is None else mass * plan


@pytest.mark.parametrize(("seed", "gamma"), [(0, 0.05), (1, 1.5), (2, 6.0)])
def test_integer_program_is_the_best_of_all_supports(conic, seed, gamma):
    a, b, C = clouds(4, 3, seed=seed)
    bound, value, plan = sparse_optimum(a, b, C, gamma, 2)
    best, _ = conic.sparse_optimum(a, b, C, gamma, 2)
    assert value == pytest.approx(best, rel=1e-6)
    assert bound * (1 - 1e-9) <= value <= bound * (1 + 2e-6)
    assert (np.count_nonzero(plan > 1e-9, axis=0) <= 2).all()


INSTANCES = list(itertools.product(("random", "uniform"), (2, 3), (0.01, 0.1, 1.0)))


def excess(size, seed, masses, k, level):
    """How far the plan's value is above the bound of the integer program, relative to it."""
    a, b, C = clouds(size, size, seed=seed, masses=masses)
    result, _ = solve(make(a, b, C, max_nnz=k, gamma=level * size))
    bound, value, _ = sparse_optimum(a, b, C, level * size, k)
    assert result.plan_status in ("optimal", "feasible")
    assert result.dual_value <= value * (1 + 1e-6)
    assert result.value >= bound * (1 - 2e-6)
    return result.value / bound - 1.0


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(("masses", "k", "level"), INSTANCES[:2] + INSTANCES[3:4] + INSTANCES[6:8])
def test_rounded_plan_is_near_the_exact_optimum(seed, masses, k, level):
    assert excess(6, seed, masses, k, level) <= 5e-3


@pytest.mark.parametrize("seed", [0, 3])
def test_improvements_reach_the_exact_optimum(seed):
    """Without them these plans are 0.5 and 0.7 % above it."""
    assert excess(8, seed, "random", 2, 0.01) <= 1e-5


@pytest.mark.slow
def test_rounded_plans_are_near_the_exact_optima():
    """Thirty-six instances of 8 x 8: most are optimal, none is far off."""
    excesses = [excess(8, seed, *case) for case in INSTANCES for seed in range(3)]
    assert np.median(excesses) <= 1e-5
    assert max(excesses) <= 1e-2


@pytest.mark.slow
@pytest.mark.parametrize(("size", "masses"), [(10, "random"), (12, "uniform")])
def test_rounded_plans_of_larger_instances_are_near_the_exact_optima(size, masses):
    excesses = [
        excess(size, seed, masses, k, level)
        for k in (2, 3) for level in (0.01, 0.1) for seed in range(2)
    ]  # fmt: skip
    assert max(excesses) <= 2e-3


# -- whether a plan is found ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("m", "n", "k"), [(8, 8, 2), (6, 10, 2), (12, 6, 3), (16, 16, 2), (30, 30, 2)]
)
def test_plans_of_general_masses_are_found(m, n, k):
    """There are at least as many places as the plan has entries, often just one more."""
    for seed in range(3):
        a, b, C = clouds(m, n, seed=seed)
        result, _ = solve(make(a, b, C, max_nnz=k, gamma=0.05 * n))
        assert result.plan_status in ("optimal", "feasible")


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("m", "n", "k"), [(11, 6, 2), (16, 8, 2), (8, 8, 2)])
def test_planted_plans_are_found(m, n, k, seed):
    """Fewer places than masses in general position need, but the masses have such a plan."""
    a, b, C = planted(m, n, k, seed)
    result, _ = solve(make(a, b, C, max_nnz=k, gamma=0.05 * n))
    assert result.plan_status in ("optimal", "feasible")


@pytest.mark.parametrize("seed", range(4))
def test_nothing_is_found_where_there_is_nothing(seed):
    a, b, C = clouds(7, 4, seed=seed)
    assert sparse_optimum(a, b, 0.0 * C, 0.0, 2)[1] == np.inf
    problem = make(a, b, C, max_nnz=2, gamma=0.2)
    with pytest.warns(AccuracyWarning, match="at most 2 nonzeros a column was found"):
        result = SparsityConstrainedOT().solve(problem)
    assert result.plan_status == "relaxed"
    grade_plan(problem, result, result.x.toarray())


@pytest.mark.slow
@pytest.mark.parametrize("masses", ["random", "uniform"])
def test_plans_with_hardly_a_free_place_are_found(masses):
    a, b, C = clouds(300, 300, masses=masses)
    result, _ = solve(make(a, b, C, max_nnz=2, gamma=1.0))
    assert result.gap <= (0.03 if masses == "random" else 1e-3) * result.value


@pytest.mark.parametrize("axis", [0, 1])
def test_one_entry_a_column_and_equal_masses_is_an_assignment(axis):
    for seed in range(3):
        a, b, C = clouds(25, 25, seed=seed, masses="uniform")
        C = np.round(C, 1)  # ties: the relaxed plan is a mixture of assignments
        result, T = solve(make(a, b, C, max_nnz=1, gamma=0.3, axis=axis))
        best = C[linear_sum_assignment(C)].sum() / 25
        assert result.value == pytest.approx(best + 0.15 / 25, rel=1e-6)
        np.testing.assert_array_equal(np.count_nonzero(T, axis=axis), 1)
        np.testing.assert_allclose(T[T > 0], 1 / 25, rtol=1e-9)
        assert result.plan_status == "optimal"


# -- every kind of problem ------------------------------------------------------------------------


CASES = [(14, 18, 2, 0.01), (14, 18, 3, 0.3), (18, 14, 4, 2.0)]


@pytest.mark.parametrize("masses", ["random", "uniform"])
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("rows", ["exact", "upper", "l2", "kl"])
def test_rounded_plans_hold_what_they_say(rows, axis, masses):
    for m, n, k, level in CASES:
        a, b, C = clouds(m, n, seed=m, masses=masses)
        a = a if rows == "exact" else 1.3 * a
        options = {"max_nnz": k, "gamma": level * n, "axis": axis}
        if rows == "upper":
            options["a_upper" if axis == 0 else "b_upper"] = True
        elif rows != "exact":
            options.update(unbalanced=rows, marginal_weight=0.4)
        data = (a, b, C) if axis == 0 else (b, a, C.T)
        problem = make(*data, **options)
        result, _ = solve(problem)
        assert result.plan_status in ("optimal", "feasible")
        assert result.gap <= 0.05 * abs(result.value)


def test_some_of_these_plans_are_rounded_and_some_are_not():
    counts = []
    for m, n, k, level in CASES:
        for masses in ("random", "uniform"):
            problem = make(*clouds(m, n, seed=m, masses=masses), max_nnz=k, gamma=level * n)
            counts.append(int(solve(problem, rounding="none")[0].x.counts().max()) > k)
    assert 3 <= sum(counts) <= len(counts)


@pytest.mark.parametrize("listed", [False, True])
def test_forbidden_pairs_stay_empty(listed):
    a, b, C = clouds(15, 20, seed=3)
    C[np.random.default_rng(0).random(C.shape) < 0.35] = np.inf
    if listed:
        i, j = np.nonzero(np.isfinite(C))
        C = sp.csc_array((C[i, j], (i, j)), shape=C.shape)
    result, _ = solve(make(a, b, C, max_nnz=3, gamma=3.0))
    assert result.plan_status == "feasible"
    assert result.gap <= 0.03 * result.value


@pytest.mark.parametrize("metric", ["sqeuclidean", "euclidean"])
def test_points_are_rounded_as_their_costs(metric):
    rng = np.random.default_rng(0)
    X, Y = rng.standard_normal((20, 3)), rng.standard_normal((24, 3)) + 0.5
    a, b, _ = clouds(20, 24)
    result, _ = solve(make(a, b, X=X, Y=Y, metric=metric, max_nnz=3, gamma=20.0))
    C = ((X[:, None] - Y[None]) ** 2).sum(axis=2)
    C = C if metric == "sqeuclidean" else np.sqrt(C)
    other, _ = solve(make(a, b, C, max_nnz=3, gamma=20.0))
    assert result.plan_status == other.plan_status == "feasible"
    assert result.value == pytest.approx(other.value, rel=5e-3)


def test_masses_of_zero_stay_empty():
    a, b, C = clouds(16, 20, seed=2)
    a[[0, 5]] = b[[3, 19]] = 0.0
    a, b = a / a.sum(), b / b.sum()
    result, T = solve(make(a, b, C, max_nnz=2, gamma=2.0))
    assert result.plan_status == "feasible"
    assert not T[[0, 5]].any()
    assert not T[:, [3, 19]].any()


def test_single_precision_and_other_masses():
    a, b, C = clouds(16, 20, seed=2)
    problem = make(*(50 * v.astype(np.float32) for v in (a, b)), C.astype(np.float32), max_nnz=3,
                   gamma=0.04)  # fmt: skip
    result, _ = solve(problem)
    assert result.x.dtype == np.float32
    double, _ = solve(make(a, b, C, max_nnz=3, gamma=2.0))
    assert result.plan_status == double.plan_status == "feasible"
    assert result.value / 50 == pytest.approx(double.value, rel=5e-3)


def test_gamma_of_zero_is_rounded_to_the_cap():
    a, b, C = clouds(10, 12, seed=1)
    result, _ = solve(make(a, b, C, max_nnz=2, gamma=0.0))
    bound, _, _ = sparse_optimum(a, b, C, 0.0, 2)
    assert result.plan_status in ("optimal", "feasible")
    assert bound * (1 - 1e-6) <= result.value <= bound * 1.01


def test_larger_problems_have_small_gaps():
    """Here the pairs are a part of all, and improvements are sought in neighbourhoods."""
    a, b, C = clouds(90, 100, seed=0)
    for k, gamma, most in ((3, 1.0, 1e-3), (3, 100.0, 1.5e-2), (4, 10.0, 3e-3)):
        result, _ = solve(make(a, b, C, max_nnz=k, gamma=gamma))
        assert result.plan_status in ("optimal", "feasible")
        assert result.gap <= most * result.value


def test_equal_masses_are_gathered_in_few_entries():
    """Exchanges alone leave gaps that are some times larger."""
    for k, gamma in ((2, 1.0), (4, 10.0)):
        problem = make(*clouds(100, 100, masses="uniform"), max_nnz=k, gamma=gamma)
        result, _ = solve(problem)
        assert result.gap <= 1e-3 * result.value


@pytest.mark.parametrize("rows", ["upper", "l2", "kl"])
def test_larger_problems_with_other_rows_have_small_gaps(rows):
    """Few places for many rows: the support of the cut plan alone is up to 20 % off."""
    a, b, C = clouds(90, 90, seed=0)
    options = {"a_upper": True}
    if rows != "upper":
        options = {"unbalanced": rows, "marginal_weight": 0.4}
    for k, gamma, most in ((2, 0.3, 0.05), (3, 9.0, 0.01)):
        problem = make(1.05 * a, b, C, max_nnz=k, gamma=gamma, **options)
        result, _ = solve(problem)
        assert result.plan_status in ("optimal", "feasible")
        assert result.gap <= most * result.value


@pytest.mark.parametrize("spare", [1.2, 1.5])
def test_one_place_a_column_is_found_if_there_is_room(spare):
    a, b, C = clouds(70, 70, seed=0, masses="uniform" if spare < 1.5 else "random")
    result, T = solve(make(spare * a, b, C, max_nnz=1, gamma=7.0, a_upper=True))
    assert result.plan_status in ("optimal", "feasible")
    np.testing.assert_array_equal(np.count_nonzero(T, axis=0), 1)


# -- rounding="columns" and "none" ----------------------------------------------------------------


def best_column(v, k, total):
    """Nearest vector of at most k entries in the scaled simplex: every support, by its formula."""
    best, out = np.inf, None
    for rows in itertools.combinations(range(len(v)), k):
        kept = np.sort(v[list(rows)])[::-1]
        taus = (np.cumsum(kept) - total) / np.arange(1, k + 1)
        tau = taus[np.flatnonzero(kept > taus)[-1]]
        t = np.zeros(len(v))
        t[list(rows)] = np.maximum(v[list(rows)] - tau, 0.0)
        if np.sum((t - v) ** 2) < best - 1e-15:
            best, out = np.sum((t - v) ** 2), t
    return out


@pytest.mark.parametrize("axis", [0, 1])
def test_columns_are_the_nearest_ones(axis):
    a, b, C = clouds(9, 12, seed=1)
    data = (a, b, C) if axis == 0 else (b, a, C.T)
    problem = make(*data, max_nnz=2, gamma=8.0, axis=axis)
    result, T = solve(problem, rounding="columns", tol=1e-9)
    assert result.plan_status == "columns"
    near = solve(problem, rounding="none", tol=1e-9)[1]
    if axis == 1:
        T, near = T.T, near.T
    assert (np.count_nonzero(T, axis=0) <= 2).all()
    np.testing.assert_allclose(T.sum(axis=0), b, rtol=1e-14)
    changed = np.count_nonzero(near, axis=0) > 2
    assert changed.any()
    for j in range(12):
        distance = np.linalg.norm(T[:, j] - near[:, j])
        best = np.linalg.norm(best_column(near[:, j], 2, b[j]) - near[:, j])
        assert distance == pytest.approx(best, abs=1e-9)
    error = np.abs(T.sum(axis=1) - a).sum()
    assert error > 1e-3
    assert (result.row_residual if axis == 0 else result.col_residual) == pytest.approx(error)


def test_plans_within_the_cap_are_left_alone():
    a, b, C = clouds(9, 12, seed=1)
    problem = make(a, b, C, max_nnz=8, gamma=1.0)
    plans = [solve(problem, rounding=kind)[1] for kind in ("qp", "columns", "none")]
    np.testing.assert_array_equal(plans[0], plans[2])
    np.testing.assert_array_equal(plans[1], plans[2])


def relaxed_plan(problem, tol=1e-9):
    """Potentials, thresholds and plan by columns of the relaxation."""
    result, _ = solve(problem, rounding="none", tol=tol)
    T = result.x
    parts = T.indptr.astype(np.int64), T.indices.astype(np.int64), T.data.astype(float)
    return problem.canonical, result.alpha, -result.beta, parts


def test_rounding_never_touches_the_relaxed_plan_and_repeats_itself():
    for size, k, gamma in ((12, 2, 1.0), (70, 3, 30.0)):
        canonical, alpha, tau, plan = relaxed_plan(
            make(*clouds(size, size), max_nnz=k, gamma=gamma), 1e-7
        )
        before = [part.copy() for part in (alpha, tau, *plan)]
        for part in (alpha, tau, *plan):
            part.flags.writeable = False
        twice = [round_plan(canonical, alpha, tau, plan, mode="qp", tol=TOL) for _ in range(2)]
        for x, y in zip(before, (alpha, tau, *plan), strict=True):
            np.testing.assert_array_equal(x, y)
        assert twice[0].feasible
        for name in ("indptr", "indices", "values"):
            np.testing.assert_array_equal(getattr(twice[0], name), getattr(twice[1], name))


# -- programs on a support ------------------------------------------------------------------------


@pytest.mark.parametrize("gamma", [0.1, 5.0, 100.0])
def test_program_on_a_support_agrees_with_clarabel(gamma):
    a, b, C = clouds(12, 15, seed=1)
    canonical, alpha, _, plan = relaxed_plan(make(a, b, C, max_nnz=3, gamma=gamma))
    found, potentials = solve_on_support(canonical, alpha, plan, 1e-12, np.inf)
    T = sp.csc_array((found[2], found[1], found[0]), shape=C.shape).toarray()
    support = sp.csc_array((np.ones(len(plan[1])), plan[1], plan[0]), shape=C.shape).toarray() > 0
    value, expected = program(15 * a, 15 * b, C, gamma / 15, support, 1e-14)
    assert np.sum(C * T) + gamma / 2 * np.sum(T**2) == pytest.approx(value / 15, rel=1e-7)
    # a relative gap of 1e-12 and strong convexity leave so much
    left = np.sqrt(2e-12 * value / 15 / gamma)
    np.testing.assert_allclose(T, expected / 15, rtol=0, atol=left)
    assert not T[~support].any()
    # at the potentials no pair of the support is worth more than its column's threshold
    slope = C - potentials[:, None] + gamma * T
    slack = 2.0 * gamma * left
    for j in range(15):
        assert np.ptp(slope[T[:, j] > 0, j]) <= slack
        assert (slope[support[:, j], j] >= slope[T[:, j] > 0, j].min() - slack).all()


def test_a_support_without_a_plan_has_none():
    a = np.full(4, 0.25)
    problem = make(a, np.array([0.4, 0.3, 0.2, 0.1]), np.ones((4, 4)), max_nnz=2)
    diagonal = np.arange(5), np.arange(4), np.array([0.4, 0.3, 0.2, 0.1])
    found, _ = solve_on_support(problem.canonical, np.zeros(4), diagonal, 1e-8, np.inf)
    assert found is None


# -- limits ---------------------------------------------------------------------------------------


def test_deadline_ends_rounding():
    canonical, alpha, tau, plan = relaxed_plan(
        make(*clouds(200, 200), max_nnz=3, gamma=200.0), 1e-6
    )
    arguments = {"mode": "qp", "tol": TOL}
    start = time.perf_counter()
    full = round_plan(canonical, alpha, tau, plan, **arguments)
    whole = time.perf_counter() - start
    start = time.perf_counter()
    cut = round_plan(canonical, alpha, tau, plan, deadline=start, **arguments)
    short = time.perf_counter() - start
    assert full.feasible
    assert not cut.feasible
    assert short <= 0.5 * whole
    part = round_plan(canonical, alpha, tau, plan, deadline=start + 0.5 * whole, **arguments)
    assert part.rounds <= full.rounds


def test_deadline_of_a_run_counts_its_rounding():
    a, b, C = clouds(400, 400)
    problem = make(a, b, C, max_nnz=2, gamma=400.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        start = time.perf_counter()
        result = SparsityConstrainedOT(max_time=1.0).solve(problem)
        spent = time.perf_counter() - start
    assert result.plan_status in ("none", "relaxed", "feasible")
    assert spent <= 10.0


# -- kernels --------------------------------------------------------------------------------------


def arcs(m, n, seed=0, share=0.4, strength=0.5, k=2):
    """A list of pairs with a flow on some of them, and its spanning forest."""
    rng = np.random.default_rng(seed)
    col, row = np.nonzero(rng.random((n, m)) < share)
    t = rng.random(len(row)) * (rng.random(len(row)) < 0.6)
    work = {
        "row": row, "col": col, "ptr": np.searchsorted(col, np.arange(n + 1)),
        "r": rng.random(len(row)), "strength": np.full(n, strength), "cap": np.full(n, k),
        "tiny": np.full(n, 1e-12), "t": t, "parent": np.empty(m + n, np.int64),
        "link": np.empty(m + n, np.int64), "intree": np.zeros(len(row), bool),
        "degree": np.bincount(col[t > 0], minlength=n),
    }  # fmt: skip
    order = np.argsort(-t, kind="stable")
    kernels.span(row, col, order, m, n, work["parent"], work["link"], work["intree"])
    return work


HEAD = ("row", "col", "ptr", "r", "strength", "cap", "tiny")
TAIL = ("t", "parent", "link", "intree", "degree")


def run_exchange(work, price, sweeps):
    """The kernel on such a list."""
    return kernels.exchange(*(work[v] for v in HEAD), price, sweeps, *(work[v] for v in TAIL))


def totals(work, m, n):
    """Sums of rows and columns, excess, objective."""
    t = work["t"]
    counts = np.bincount(work["col"][t > 0], minlength=n)
    np.testing.assert_array_equal(counts, work["degree"])
    return (
        np.bincount(work["row"], weights=t, minlength=m),
        np.bincount(work["col"], weights=t, minlength=n),
        int(np.maximum(counts - work["cap"], 0).sum()),
        float(np.sum(t * (work["r"] + 0.5 * work["strength"][work["col"]] * t))),
    )


def check_forest(work, m, n):
    """Parents and links are a spanning forest of the pairs, made of the arcs in it."""
    graph = sp.coo_array((np.ones(len(work["row"])), (work["row"], m + work["col"])),
                         shape=(m + n, m + n))  # fmt: skip
    count, labels = sp.csgraph.connected_components(graph, directed=False)
    parent, link = work["parent"], work["link"]
    roots = np.flatnonzero(parent < 0)
    assert len(roots) == count
    assert len(np.unique(labels[roots])) == count
    used = np.sort(link[parent >= 0])
    np.testing.assert_array_equal(used, np.flatnonzero(work["intree"]))
    assert len(used) == m + n - count
    for node in np.flatnonzero(parent >= 0):
        e = link[node]
        assert {work["row"][e], m + work["col"][e]} == {node, parent[node]}
        steps = 0
        while parent[node] >= 0:
            node, steps = parent[node], steps + 1
            assert steps < m + n


@pytest.mark.parametrize("share", [0.1, 0.4, 1.0])
@pytest.mark.parametrize("price", [0.0, 1e-3, 1.0, -1.0])
def test_exchanges_keep_marginals_and_the_forest(price, share):
    for seed, strength in itertools.product(range(6), (0.0, 3.0)):
        work = arcs(9, 12, seed, share, strength)
        check_forest(work, 9, 12)
        before = totals(work, 9, 12)
        for _ in range(10):
            moves, _ = run_exchange(work, price, 1)
            after = totals(work, 9, 12)
            np.testing.assert_allclose(after[0], before[0], atol=1e-12)
            np.testing.assert_allclose(after[1], before[1], atol=1e-12)
            assert (work["t"] >= 0).all()
            check_forest(work, 9, 12)
            if price < 0:
                assert after[2] <= before[2]
            change = after[3] - before[3] + abs(price) * (after[2] - before[2])
            assert change <= 1e-11
            assert moves == 0 or change < 0
            before = after


@pytest.mark.parametrize("strength", [0.0, 3.0])
def test_exchanges_without_caps_solve_the_program(strength):
    work = arcs(6, 7, seed=1, share=1.0, strength=strength, k=6)
    rows, columns, _, _ = totals(work, 6, 7)
    run_exchange(work, 0.0, 2000)
    C = np.zeros((6, 7))
    C[work["row"], work["col"]] = work["r"]
    value, _ = program(rows, columns, C, strength, np.ones((6, 7), bool))
    assert totals(work, 6, 7)[3] == pytest.approx(value, rel=1e-6)


def test_exchanges_at_a_high_price_remove_what_is_too_much():
    before, after = 0, 0
    for seed in range(10):
        work = arcs(8, 12, seed, share=1.0, k=2)
        before += totals(work, 8, 12)[2]
        run_exchange(work, 100.0, 30)
        after += totals(work, 8, 12)[2]
    assert before > 100
    assert after <= 0.05 * before


def test_shaking_never_makes_a_plan_worse_and_keeps_what_it_must():
    better = 0
    for seed in range(6):
        work = arcs(8, 12, seed, share=1.0, strength=2.0, k=3)
        run_exchange(work, 100.0, 30)
        run_exchange(work, -1.0, 30)
        before = totals(work, 8, 12)
        if before[2]:
            continue
        better += kernels.shake(
            *(work[v] for v in HEAD), 1.0, 2.0, 100, seed, *(work[v] for v in TAIL)
        )
        after = totals(work, 8, 12)
        np.testing.assert_allclose(after[0], before[0], atol=1e-12)
        np.testing.assert_allclose(after[1], before[1], atol=1e-12)
        assert after[2] == 0
        assert after[3] <= before[3]
        np.testing.assert_array_equal(work["r"], arcs(8, 12, seed, share=1.0)["r"])
        check_forest(work, 8, 12)
    assert better > 0


def test_shaking_a_plan_that_has_too_much_keeps_it_or_mends_it():
    work = arcs(8, 12, 0, share=1.0, k=2)
    before = totals(work, 8, 12)
    assert before[2] > 0
    kernels.shake(*(work[v] for v in HEAD), 1.0, 2.0, 5, 0, *(work[v] for v in TAIL))
    after = totals(work, 8, 12)
    assert after[2] in (0, before[2])


@pytest.mark.parametrize("wanted", [2, 3])
def test_repacking_keeps_marginals_and_takes_entries_away(wanted):
    a, b, C = clouds(20, 20, seed=wanted)
    canonical, alpha, tau, plan = relaxed_plan(make(a, b, C, max_nnz=wanted, gamma=4.0))
    counts = np.diff(plan[0])
    width = counts.max()
    results = []
    for _ in range(2):
        idx, val = np.zeros((20, width), np.int64), np.zeros((20, width))
        for j in range(20):
            part = slice(plan[0][j], plan[0][j + 1])
            idx[j, : counts[j]], val[j, : counts[j]] = plan[1][part], plan[2][part]
        count = counts.copy()
        near = np.tile(np.arange(20), (20, 1))
        left = kernels.repack(
            canonical.cost, alpha, tau, near, wanted, canonical.gamma, 0.01, 50, 20, 0,
            np.empty(0), idx, val, count,
        )  # fmt: skip
        results.append((idx, val, count, left))
    idx, val, count, left = results[0]
    for x, y in zip(*results, strict=True):
        np.testing.assert_array_equal(x, y)
    assert (counts > wanted).sum() > 3
    assert left == (count > wanted).sum() == 0
    T = np.zeros((20, 20))
    for j in range(20):
        rows = idx[j, : count[j]]
        assert len(set(rows)) == count[j]
        T[rows, j] = val[j, : count[j]]
        assert (val[j, : count[j]] > 0).all()
    np.testing.assert_allclose(T.sum(axis=0), b, atol=1e-12)
    np.testing.assert_allclose(T.sum(axis=1), np.bincount(plan[1], plan[2], 20), atol=1e-12)


def test_repacking_may_use_what_rows_have_left():
    """Two rows of 0.4 and a column of 0.6: only the row that has 0.3 left serves it alone."""
    C = np.array([[0.0, 1.0], [0.5, 0.0], [0.0, 1.0]])
    cost = make([0.6, 0.3, 0.1], [0.6, 0.4], C).canonical.cost
    idx, val = np.array([[0, 1], [1, 2]]), np.array([[0.3, 0.3], [0.3, 0.1]])
    for unused, left in ((np.empty(0), 2), (np.array([0.3, 0.1, 0.0]), 0)):
        parts, count = (idx.copy(), val.copy()), np.array([2, 2])
        near = np.tile(np.arange(2), (3, 1))
        found = kernels.repack(
            cost, np.zeros(3), np.zeros(2), near, 1, 0.0, 0.0, 20, 2, 0, unused, *parts, count
        )
        assert found == left
    np.testing.assert_array_equal(count, 1)
    np.testing.assert_array_equal(parts[0][:, 0], [0, 1])
    np.testing.assert_allclose(parts[1][:, 0], [0.6, 0.4], rtol=1e-12)
    np.testing.assert_allclose(unused, [0.0, 0.3, 0.1], atol=1e-12)


@pytest.mark.parametrize("listed", [False, True])
def test_nearest_pairs_are_those_of_a_sort(listed):
    rng = np.random.default_rng(0)
    C = np.round(rng.random((13, 17)), 1)  # ties
    C[rng.random(C.shape) < 0.3] = np.inf
    C[0, 0] = C[1, :] = 0.5
    given = C
    if listed:
        i, j = np.nonzero(np.isfinite(C))
        given = sp.csc_array((C[i, j], (i, j)), shape=C.shape)
    a, b, _ = clouds(13, 17)
    cost = make(a, b, given).canonical.cost
    alpha, tau = np.round(rng.random(13), 1), np.round(rng.random(17), 1)
    columns, rows = np.empty((17, 6), np.int64), np.empty((13, 4), np.int64)
    kernels.nearest_pairs(cost, alpha, tau, 6, 4, columns, rows)
    reduced = C - alpha[:, None] + tau
    for j in range(17):
        order = np.argsort(C[:, j] - alpha, kind="stable")[:6]
        expected = np.where(np.isfinite(C[order, j]), order, -1)
        np.testing.assert_array_equal(columns[j], expected)
    for i in range(13):
        scores = (alpha[i] - C[i]) - tau
        order = np.argsort(-scores, kind="stable")[:4]
        expected = np.where(np.isfinite(reduced[i, order]), order, -1)
        np.testing.assert_array_equal(rows[i], expected)


def test_neighbours_share_rows():
    work = arcs(9, 12, 0)
    by_row = np.argsort(work["row"], kind="stable")
    row_ptr = np.searchsorted(work["row"][by_row], np.arange(10))
    is_in, chosen = np.full(12, -1), np.empty(5, np.int64)
    live = work["t"] > 0
    T = np.zeros((9, 12), bool)
    T[work["row"][live], work["col"][live]] = True
    for seed in range(12):
        count = kernels.join_columns(
            seed, work["row"], work["col"], work["ptr"], np.zeros(len(live), bool), by_row,
            row_ptr, work["t"], 12, is_in, chosen,
        )  # fmt: skip
        found = chosen[:count]
        assert found[0] == seed
        assert len(set(found)) == count
        for place in range(1, count):
            assert T[:, found[:place]].any(axis=1)[T[:, found[place]]].any()
        neighbours = np.flatnonzero(T[T[:, seed]].any(axis=0))
        assert count == 5 or set(neighbours) <= set(found)


def test_costs_of_pairs():
    a, b, C = clouds(6, 7)
    rows, cols = np.array([0, 5, 3]), np.array([6, 0, 2])
    np.testing.assert_array_equal(
        kernels.costs_of(make(a, b, C).canonical.cost, rows, cols), C[rows, cols]
    )
