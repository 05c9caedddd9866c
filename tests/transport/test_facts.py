"""What theory says about the relaxed problem and its solver, checked by independent means.

The means: the cone program of ``conic.py``, linear programs by HiGHS, every support by brute
force, closed forms.
"""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from lowrank_opt.core import Status
from lowrank_opt.core.errors import AccuracyWarning
from lowrank_opt.transport import SparsityConstrainedOT, TransportPlan, TransportProblem
from lowrank_opt.transport.oracle import SemidualOracle

ROWS = ("exact", "upper", "l2", "kl")


def clouds(m, n, seed=0, masses="random"):
    """Masses and costs of two shifted clouds in the plane; the largest cost is 1."""
    rng = np.random.default_rng(seed)
    X, Y = rng.standard_normal((m, 2)), rng.standard_normal((n, 2)) + 1.5
    C = ((X[:, None] - Y[None]) ** 2).sum(axis=2)
    a, b = (rng.random(size) + 0.1 if masses == "random" else np.ones(size) for size in (m, n))
    return a / a.sum(), b / b.sum(), C / C.max()


def make(a, b, C, k=None, *, rows="exact", weight=0.7, **options):
    """Problem with the given tie of the row sums; few places are no news here."""
    if rows == "upper":
        options["a_upper" if options.get("axis", 0) == 0 else "b_upper"] = True
    elif rows != "exact":
        options.update(unbalanced=rows, marginal_weight=weight)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AccuracyWarning)
        return TransportProblem(a, b, C, max_nnz=k, **options)


def relaxed(problem, tol=1e-9, **options):
    """Solve the relaxation alone; the run must converge."""
    options = {"rounding": "none", "tol": tol, "start": "zero", **options}
    result = SparsityConstrainedOT(**options).solve(problem)
    assert result.status is Status.CONVERGED, result.message
    return result


def optimum(*data, **options):
    """Value of the relaxation, as a bound from below and a value from above that agree."""
    result = relaxed(make(*data, **options))
    assert result.relaxed_value - result.dual_value == pytest.approx(0.0, abs=1e-8)
    return result.relaxed_value


def plain_transport(a, b, C):
    """Value of the linear program."""
    m, n = C.shape
    sums = sp.vstack([sp.kron(sp.eye(m), np.ones((1, n))), sp.kron(np.ones((1, m)), sp.eye(n))])
    answer = linprog(C.ravel(), A_eq=sums.tocsr(), b_eq=np.concatenate([a, b]), method="highs")
    assert answer.status == 0
    return answer.fun


# -- the certificate ------------------------------------------------------------------------------


def squared_norm(t, k):
    """Squared k-support norm by its weights: z_i = min(1, t_i / level), of total k."""
    t = np.sort(t[t > 0])[::-1]
    if len(t) <= k:
        return float(np.sum(t**2))
    low, high = 0.0, float(t.sum())
    for _ in range(200):
        level = (low + high) / 2
        low, high = (level, high) if np.minimum(1.0, t / level).sum() > k else (low, level)
    return float(np.sum(t**2 / np.minimum(1.0, t / high)))


def conjugate(scores, b, gamma, k):
    """Largest inner product less the quadratic term, over every support of at most k rows."""
    order = np.sort(scores)[::-1]
    best = -np.inf
    for r in range(1, k + 1):  # the best support of r rows has the largest scores
        if order[r - 1] == -np.inf:
            break
        kept = order[:r] - order[0]
        tau = (kept.sum() - gamma * b) / r
        t = (kept - tau) / gamma
        if (t >= 0).all():
            best = max(best, float(order[0] * b + kept @ t - gamma / 2 * t @ t))
    return best


@pytest.mark.parametrize("k", [1, 2, 3, 6, 7])
def test_convex_penalty_is_the_squared_norm(k):
    rng = np.random.default_rng(k)
    for _ in range(50):
        T = rng.random((7, 3)) ** rng.uniform(0.2, 8) * (rng.random((7, 3)) < 0.8)
        T[0] += 0.01
        T[3] = T[4]  # ties
        problem = make(T.sum(axis=1) + 1e-3, T.sum(axis=0), np.zeros((7, 3)), k, rows="upper")
        expected = 0.5 * sum(squared_norm(t, k) for t in T.T)
        assert problem.objective(T) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("k", [1, 2, 4, 6])
@pytest.mark.parametrize("gamma", [1e-6, 0.3, 50.0, 1e6])
def test_dual_value_is_the_semi_dual(k, gamma):
    rng = np.random.default_rng(k)
    a, b, C = clouds(6, 9, seed=k)
    C[1, 2] = np.inf
    C[:, 4] = 0.5  # ties
    for scale in (0.0, 1.0, 100.0):
        alpha = scale * rng.standard_normal(6)
        expected = a @ alpha - sum(
            conjugate(alpha - C[:, j], b[j], gamma, k) for j in range(len(b))
        )
        value = make(a, b, C, k, gamma=gamma).dual_value(alpha)
        assert value <= expected + 1e-10 * (scale + gamma)
        assert value == pytest.approx(expected, rel=1e-9, abs=1e-11 * (scale + gamma))


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize(("m", "n", "k", "gamma"), [(7, 9, 2, 4.0), (9, 5, 4, 0.5), (5, 6, 5, 20)])
def test_certificate_grades_the_answers_of_the_cone_program(conic, rows, m, n, k, gamma):
    a, b, C = clouds(m, n, seed=k)
    a = a if rows == "exact" else 1.4 * a
    value, T, alpha = conic.relaxed_optimum(a, b, C, gamma, k, rows=rows, weight=0.7)
    T = np.maximum(T, 0.0)
    problem = make(a, b, C, k, gamma=gamma, rows=rows)
    assert problem.objective(T) == pytest.approx(value, rel=1e-8)
    if alpha is not None:
        assert problem.dual_value(alpha) == pytest.approx(value, rel=1e-8)
        certificate = problem.certificate((T, alpha))
        assert certificate.residual <= 1e-7
        # and it sees what is wrong, as much as it is wrong
        off = problem.certificate((T, alpha + 0.1 * np.arange(m)))
        assert off.residual > 1e-3
        assert off.details["dual_value"] < value
        short = problem.certificate((0.9 * T, alpha))
        assert short.details["relaxed_col_residual"] == pytest.approx(0.1, rel=1e-6)


def test_an_entry_in_two_pieces_is_one_entry():
    """Halves that are listed apart would have a smaller norm than the entry itself."""
    a = np.full(3, 1 / 3)
    problem = make(a, a, np.arange(9.0).reshape(3, 3), 2, gamma=5.0)
    pieces = np.full(6, 1 / 6), np.array([0, 0, 1, 1, 2, 2]), np.array([0, 2, 4, 6])
    plan = TransportPlan(pieces, shape=(3, 3), alpha=np.zeros(3))
    assert problem.objective(plan) == problem.objective(np.diag(a))
    assert problem.certificate(plan).details["max_nnz"] == 1
    assert plan.nnz == 6
    # The same for the relaxed plan, in whatever format.
    for twin in (sp.csc_array(pieces, shape=(3, 3)), sp.csr_array(np.diag(a)), np.diag(a)):
        whole = problem.certificate(TransportPlan(np.diag(a), relaxed=twin)).details
        assert whole["relaxed_value"] == problem.objective(np.diag(a))


def test_overflow_is_no_certificate():
    a = np.full(3, 1 / 3)
    C = np.eye(3)
    big = make(1e300 * a, 1e300 * a, 1e300 * C)
    assert big.certificate(1e300 * np.outer(a, a)).residual == np.inf
    soft = make(a, a, C, rows="kl", weight=0.1)
    assert soft.dual_value(np.array([-1e4, 0.0, 0.0])) == -np.inf
    assert make(a, a, C).dual_value(np.array([1e308, -1e308, 0.0])) == -np.inf


# -- the solver against the cone program ----------------------------------------------------------


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize(("m", "n", "k"), [(8, 11, 1), (12, 8, 2), (9, 15, 4), (7, 7, 7)])
def test_solver_agrees_with_the_cone_program(conic, rows, axis, m, n, k):
    for gamma in (0.1, 8.0):
        a, b, C = clouds(m, n, seed=m + n)
        a = a if rows == "exact" else 1.4 * a
        value, T, _ = conic.relaxed_optimum(a, b, C, gamma, k, rows=rows, weight=0.7)
        data = (a, b, C) if axis == 0 else (b, a, C.T)
        result = relaxed(make(*data, k, gamma=gamma, rows=rows, axis=axis))
        assert result.relaxed_value == pytest.approx(value, rel=1e-7)
        assert result.dual_value == pytest.approx(value, rel=1e-7)
        room = np.abs(result.alpha if axis == 0 else result.beta).max() * result.residual
        assert result.dual_value <= result.relaxed_value + room + 1e-12
        if k == m:  # strongly convex: one plan
            ours = result.x.toarray() if axis == 0 else result.x.toarray().T
            np.testing.assert_allclose(ours, T, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("m", "n", "k", "gamma"), [(60, 60, 2, 1.0), (60, 40, 5, 100.0)])
@pytest.mark.parametrize("masses", ["random", "uniform"])
def test_solver_agrees_with_larger_cone_programs(conic, m, n, k, gamma, masses):
    a, b, C = clouds(m, n, seed=1, masses=masses)
    value, _, _ = conic.relaxed_optimum(a, b, C, gamma, k)
    assert optimum(a, b, C, k, gamma=gamma) == pytest.approx(value, rel=1e-7)


def test_forbidden_pairs_agree_with_the_cone_program(conic):
    a, b, C = clouds(9, 11, seed=5)
    C[np.random.default_rng(0).random(C.shape) < 0.3] = np.inf
    value, _, _ = conic.relaxed_optimum(a, b, C, 3.0, 3)
    result = relaxed(make(a, b, C, 3, gamma=3.0))
    assert result.relaxed_value == pytest.approx(value, rel=1e-7)
    assert np.isfinite(C[result.x.toarray() > 0]).all()


# -- fact 1: monotone in k ------------------------------------------------------------------------


@pytest.mark.parametrize("masses", ["random", "uniform"])
def test_value_falls_with_the_cap_down_to_the_quadratic_one(conic, masses):
    a, b, C = clouds(12, 14, seed=3, masses=masses)
    values = [optimum(a, b, C, k, gamma=6.0) for k in range(1, 13)]
    assert (np.diff(values) <= 1e-8).all()
    assert values[0] > values[-1] + 1e-3
    quadratic = relaxed(make(a, b, C, gamma=6.0))
    assert values[-1] == pytest.approx(quadratic.relaxed_value, rel=1e-8)
    assert quadratic.relaxed_value == pytest.approx(
        conic.relaxed_optimum(a, b, C, 6.0, 12)[0], rel=1e-7
    )
    count = int(quadratic.x.counts(1e-9).max())
    assert 2 < count < 12
    assert values[count - 1] == pytest.approx(values[-1], rel=1e-8)
    assert values[count - 2] > values[-1] + 1e-8


# -- fact 2: k = 1 --------------------------------------------------------------------------------


@pytest.mark.parametrize("start", ["zero", "nested"])
@pytest.mark.parametrize("masses", ["random", "uniform"])
def test_one_nonzero_a_column_is_plain_transport(start, masses):
    a, b, C = clouds(10, 13, seed=2, masses=masses)
    emd = plain_transport(a, b, C)
    result = relaxed(make(a, b, C, 1, gamma=2.0), start=start)
    assert result.relaxed_value == pytest.approx(emd + 1.0 * np.sum(b**2), rel=1e-8)
    # and the potentials are those of plain transport
    kantorovich = a @ result.alpha + b @ (C - result.alpha[:, None]).min(axis=0)
    assert kantorovich == pytest.approx(emd, rel=1e-7)


# -- fact 3: in gamma -----------------------------------------------------------------------------


@pytest.mark.parametrize("k", [2, 5, 10])
def test_value_is_concave_and_increasing_in_gamma(k):
    a, b, C = clouds(10, 12, seed=4)
    gammas = np.array([0.0, 0.02, 0.3, 1.0, 4.0, 10.0, 40.0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AccuracyWarning)
        values = np.array([optimum(a, b, C, k, gamma=g) for g in gammas])
    slopes = np.diff(values) / np.diff(gammas)
    assert (slopes >= -1e-8).all()
    assert (np.diff(slopes) <= 1e-7).all()
    assert values[0] == pytest.approx(plain_transport(a, b, C), rel=1e-8)
    assert values[1] - values[0] <= 0.01 * np.sum(b**2) + 1e-9


# -- fact 4: invariances --------------------------------------------------------------------------


seeds = st.integers(0, 10_000)
sizes = st.integers(2, 9)
reals = st.floats(-50.0, 50.0)
positive = st.floats(-6.0, 6.0).map(lambda e: 10.0**e)


@settings(max_examples=60, deadline=None)
@given(seed=seeds, m=sizes, n=sizes, shift=reals, scale=positive)
def test_bound_is_invariant(seed, m, n, shift, scale):
    rng = np.random.default_rng(seed)
    a, b, C = clouds(m, n, seed=seed)
    k, gamma = int(rng.integers(-(-m // n), m + 1)), float(10 ** rng.uniform(-2, 2))
    alpha = rng.standard_normal(m)
    value = make(a, b, C, k, gamma=gamma).dual_value(alpha)
    room = 1e-13 * (1.0 + abs(shift) + gamma)

    def bound(a, b, C, gamma, alpha, **options):
        return make(a, b, C, k, gamma=gamma, **options).dual_value(alpha)

    assert bound(a, b, C, gamma, alpha + shift) == pytest.approx(value, abs=50 * room)
    u, v = shift * rng.standard_normal(m), rng.standard_normal(n)
    moved = bound(a, b, C + u[:, None] + v, gamma, alpha + u)
    assert moved - (u @ a + v @ b) == pytest.approx(value, abs=500 * room)
    assert bound(a, b, scale * C, scale * gamma, scale * alpha) == pytest.approx(
        scale * value, abs=50 * scale * room
    )
    assert bound(scale * a, scale * b, C, gamma, alpha) == pytest.approx(
        scale * bound(a, b, C, scale * gamma, alpha), rel=1e-11, abs=50 * scale * room
    )
    p, q = rng.permutation(m), rng.permutation(n)
    assert bound(a[p], b[q], C[np.ix_(p, q)], gamma, alpha[p]) == pytest.approx(
        value, abs=10 * room
    )
    assert bound(b, a, C.T, gamma, alpha, axis=1) == pytest.approx(value, abs=10 * room)


@settings(max_examples=25, deadline=None)
@given(seed=seeds, m=sizes, n=sizes, shift=st.floats(-5.0, 5.0), scale=positive)
def test_optimum_is_invariant(seed, m, n, shift, scale):
    rng = np.random.default_rng(seed)
    a, b, C = clouds(m, n, seed=seed)
    k, gamma = int(rng.integers(-(-m // n), m + 1)), float(10 ** rng.uniform(-1, 1))
    result = relaxed(make(a, b, C, k, gamma=gamma))
    value, room = result.relaxed_value, 1e-8 * (1.0 + abs(shift) + gamma)
    u, v = shift * rng.standard_normal(m), rng.standard_normal(n)
    moved = relaxed(make(a, b, C + u[:, None] + v, k, gamma=gamma))
    assert moved.relaxed_value - (u @ a + v @ b) == pytest.approx(value, abs=20 * room)
    # one of the optimal plans is the other's: it is as good for this problem
    other = make(a, b, C, k, gamma=gamma).objective(moved.x)
    assert other == pytest.approx(value, abs=20 * room)
    scaled = optimum_of(scale * a, scale * b, scale * C, k, gamma)
    assert scaled / scale**2 == pytest.approx(value, abs=room)
    p, q = rng.permutation(m), rng.permutation(n)
    turned = optimum(b[q], a[p], C[np.ix_(p, q)].T, k, gamma=gamma, axis=1)
    assert turned == pytest.approx(value, abs=room)


def optimum_of(a, b, C, k, gamma):
    """Value of masses and costs scaled alike, where gamma stays."""
    result = relaxed(make(a, b, C, k, gamma=gamma))
    return result.relaxed_value


@pytest.mark.parametrize("k", [3, 8])
def test_plan_follows_its_rows_and_columns(k):
    """Without ties the plan itself is permuted and transposed."""
    a, b, C = clouds(8, 10, seed=6)
    plan = relaxed(make(a, b, C, k, gamma=1.0)).x.toarray()
    p, q = np.random.default_rng(0).permutation(8), np.random.default_rng(1).permutation(10)
    moved = relaxed(make(b[q], a[p], C[np.ix_(p, q)].T, k, gamma=1.0, axis=1)).x.toarray()
    np.testing.assert_allclose(moved.T, plan[np.ix_(p, q)], atol=1e-6)


# -- facts 6 and 7: zero gap, ties ----------------------------------------------------------------


SMALL = [(2, 0.05), (3, 0.05), (2, 1.5), (3, 1.5), (3, 6.0)]


def small(seed, k, gamma):
    a, b, C = clouds(4, 3, seed=seed)
    return (a, b, C), make(a, b, C, k, gamma=gamma)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("k", "gamma"), SMALL)
def test_zero_gap_without_ties_and_a_bound_with_them(conic, seed, k, gamma):
    """No plan on any support is below the bound; the best one attains it if the cap is kept."""
    data, problem = small(seed, k, gamma)
    best, plan = conic.sparse_optimum(*data, gamma, k)
    result = relaxed(problem)
    assert result.dual_value <= best + 1e-9
    if np.isfinite(best):
        assert problem.objective(plan) == pytest.approx(best, rel=1e-8)
    if result.max_nnz <= k:
        assert result.plan_status == "optimal"
        assert result.relaxed_value == pytest.approx(best, rel=1e-7)
    else:
        assert result.plan_status == "relaxed"


def test_instances_with_and_without_ties_occur():
    """So that the test above tests both halves."""
    kept = [
        relaxed(small(seed, *case)[1]).max_nnz <= case[0] for seed in range(4) for case in SMALL
    ]
    assert 5 <= sum(kept) <= 15


@pytest.mark.parametrize("k", [2, 3])
def test_ties_at_the_cap_are_fractions_in_the_relaxed_plan(k):
    """An arbitrary choice among tied entries misses the row sums; the relaxed plan does not."""
    a, b, C = clouds(30, 30, seed=0)
    problem = make(a, b, C, k, gamma=1.0)
    result = relaxed(problem)
    tied = result.x.counts() > k
    assert tied.any()
    scores = result.alpha[:, None] - C
    order = np.sort(scores, axis=0)[::-1]
    gaps = order[k - 1] - order[k]
    assert (gaps[tied] < 1e-6).all()
    broken = SemidualOracle(problem.canonical).evaluate(result.alpha)
    assert np.abs(broken.gradient).sum() > 1e-2
    assert result.row_residual <= 1e-9
    certificate = problem.certificate(result.x)
    assert certificate.details["relaxed_row_residual"] <= 1e-9
    # the broken plan has the cap, and the certificate says that it is not feasible
    parts = broken.values, broken.indices, broken.indptr
    answer = problem.certificate((sp.csc_array(parts, shape=(30, 30)), result.alpha))
    assert answer.details["max_nnz"] <= k
    assert answer.residual > 1e-2


# -- fact 8: smoothness ---------------------------------------------------------------------------


def test_gradient_is_lipschitz_without_a_cap():
    a, b, C = clouds(15, 20, seed=1)
    gamma = 0.5
    oracle = SemidualOracle(make(a, b, C, gamma=gamma).canonical)
    rng = np.random.default_rng(0)
    for size in (1e-4, 1e-1, 10.0):
        x = rng.standard_normal(15)
        y = x + size * rng.standard_normal(15)
        gx, gy = (oracle.evaluate(v).gradient.copy() for v in (x, y))
        assert np.linalg.norm(gx - gy) <= 20 / gamma * np.linalg.norm(x - y) * (1 + 1e-9)


def test_kinks_are_fewer_with_a_larger_cap():
    """Jumps of the slope along lines: where the k-th and the next score change places."""
    a, b, C = clouds(15, 20, seed=1)
    rng = np.random.default_rng(2)
    d = rng.standard_normal(15)
    steps = np.linspace(0.0, 0.2, 4001)
    jumps = []
    for k in (1, 3, 6, 15):
        oracle = SemidualOracle(make(a, b, C, k, gamma=1.0).canonical)
        slopes = np.array([oracle.evaluate(t * d).gradient @ d for t in steps])
        assert (np.diff(slopes) <= 1e-12).all()  # concave
        # 20 columns of curvature at most 1 each along d, over one step
        smooth = 20.0 * (d @ d) * (steps[1] - steps[0])
        jumps.append(int(np.sum(-np.diff(slopes) > 1.5e-2)))
        assert k < 15 or np.max(-np.diff(slopes)) <= smooth
    assert jumps[0] > jumps[1] > jumps[2] >= jumps[3] == 0
