"""The problem: forms of data and points, orientation, zero masses, storage."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import scipy.sparse as sp

from lowrank_opt.core import HasTransport, Result
from lowrank_opt.core.serialize import read_npz, write_npz
from lowrank_opt.testing import check_problem
from lowrank_opt.transport import TransportPlan, TransportProblem
from lowrank_opt.transport.canonical import KL, L2, row_dual, row_penalty
from lowrank_opt.transport.certificates import dual_value
from lowrank_opt.transport.costs import cost_block, cost_shape, restrict
from lowrank_opt.transport.kernels_costs import pair_cost, scores_of_targets


def data(m=7, n=5, seed=0, zeros=()):
    rng = np.random.default_rng(seed)
    X, Y = rng.standard_normal((m, 3)), rng.standard_normal((n, 3)) + 1.0
    a, b = rng.random(m) + 0.1, rng.random(n) + 0.1
    for i in zeros:
        a[i] = 0.0
    return a / a.sum(), b / b.sum(), X, Y, ((X[:, None] - Y[None]) ** 2).sum(axis=2)


def forms(X, Y, C):
    return {"matrix": {"C": C}, "points": {"X": X, "Y": Y}, "sparse": {"C": sp.coo_array(C)}}


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("form", ["matrix", "points", "sparse"])
def test_all_forms_of_costs_are_the_same_problem(form, axis):
    a, b, X, Y, C = data(zeros=(2,))
    problem = TransportProblem(a, b, max_nnz=4, axis=axis, gamma=0.7, **forms(X, Y, C)[form])
    view = problem.canonical
    expected = C if axis == 0 else C.T
    expected = np.delete(expected, 2, axis=axis)
    assert cost_shape(view.cost) == expected.shape == (view.m, view.n)
    np.testing.assert_allclose(cost_block(view.cost, 0, view.n).T, expected, rtol=1e-12)
    alpha = np.random.default_rng(1).standard_normal(view.m)
    scores = np.empty((view.n, view.m))
    scores_of_targets(view.cost, alpha, 0, view.n, scores)
    np.testing.assert_allclose(scores, alpha - expected.T, rtol=0, atol=1e-12)
    part = restrict(view.cost, np.array([0, 2]), np.array([1, 3]))
    np.testing.assert_allclose(
        cost_block(part, 0, 2).T, expected[np.ix_([0, 2], [1, 3])], rtol=1e-12
    )
    assert pair_cost(view.cost, 1, 2) == pytest.approx(expected[1, 2], rel=1e-12)
    T = np.outer(a, b)
    dense = TransportProblem(a, b, C, max_nnz=4, axis=axis, gamma=0.7)
    assert problem.objective(T) == pytest.approx(dense.objective(T), rel=1e-12)


def test_euclidean_costs_are_distances():
    a, b, X, Y, C = data()
    problem = TransportProblem(a, b, X=X, Y=Y, metric="euclidean", gamma=0.0)
    T = np.outer(a, b)
    assert problem.objective(T) == pytest.approx(float(np.sum(np.sqrt(C) * T)), rel=1e-12)
    block = cost_block(problem.canonical.cost, 0, 5)
    np.testing.assert_allclose(block.T, np.sqrt(C), rtol=1e-12)


@pytest.mark.parametrize("scale", [1.0, 40.0, 1e-6])
def test_canonical_units(scale):
    """Plans and objective are the user's over the mass; so the quadratic term has gamma * mass."""
    a, b, _, _, C = data()
    problem = TransportProblem(scale * a, scale * b, C, gamma=0.7, max_nnz=4)
    view = problem.canonical
    assert (view.a.sum(), view.b.sum()) == pytest.approx((1.0, 1.0), rel=1e-14)
    T = np.outer(a, b)
    ours = np.sum(C * T) + view.gamma / 2 * np.sum(np.sort(T, axis=0)[-4:] ** 2)
    spread = sp.csc_array(np.where(np.argsort(np.argsort(-T, axis=0), axis=0) < 4, T, 0.0))
    theirs = problem.objective(scale * spread)
    cut = np.sum(C * spread.toarray()) + view.gamma / 2 * np.sum(spread.toarray() ** 2)
    assert theirs == pytest.approx(scale * cut, rel=1e-12)
    assert ours != cut  # the case tells the two apart


def test_lift_and_start_are_inverse_and_restore_zero_masses():
    a, b, _, _, C = data(zeros=(2, 5))
    b[1] = 0.0
    b /= b.sum()
    for axis in (0, 1):
        problem = TransportProblem(3 * a, 3 * b, C, max_nnz=4, axis=axis)
        rng = np.random.default_rng(3)
        alpha, beta = rng.standard_normal(7), rng.standard_normal(5)
        T = TransportPlan(np.outer(3 * a, b), alpha=alpha, beta=beta)
        inner, plan = problem.start(T)
        tau = -(beta[b > 0] if axis == 0 else alpha[a > 0])
        back = problem.lift(inner, plan, tau)
        np.testing.assert_allclose(back.toarray(), T.toarray(), rtol=1e-13, atol=1e-18)
        np.testing.assert_array_equal(back.alpha[a > 0], alpha[a > 0])
        np.testing.assert_array_equal(back.beta[b > 0], beta[b > 0])


@pytest.mark.parametrize("axis", [0, 1])
def test_potentials_of_zero_masses_do_not_change_the_bound(axis):
    """S(alpha) of the whole data is that of the positive masses: no dual constraint is violated."""
    a, b, _, _, C = data(zeros=(2,))
    b[3] = 0.0
    b /= b.sum()
    problem = TransportProblem(a, b, C, max_nnz=3, axis=axis, gamma=0.5)
    small = TransportProblem(
        a[a > 0], b[b > 0], C[np.ix_(a > 0, b > 0)], max_nnz=3, axis=axis, gamma=0.5
    )
    view = problem.canonical
    alpha = np.random.default_rng(0).standard_normal(view.m)
    expected, tau = dual_value(small._data, alpha)
    plan = (np.zeros(view.n + 1, np.int64), np.zeros(0, np.int64), np.zeros(0))
    lifted = problem.lift(alpha, plan, tau)
    full = lifted.alpha if axis == 0 else lifted.beta
    assert problem.dual_value(full) == pytest.approx(expected, rel=1e-12)


def test_points_in_every_form_are_the_same():
    a, b, _, _, C = data()
    problem, T, alpha = TransportProblem(a, b, C), np.outer(a, b), np.arange(7.0)
    expected = problem.certificate((T, alpha))
    for x in (
        (sp.coo_array(T), alpha),
        TransportPlan(T, alpha=alpha),
        (TransportPlan(T), list(alpha)),
        TransportPlan(sp.csr_array(T)).with_potentials(alpha),
    ):
        assert problem.certificate(x) == expected
    assert problem.certificate(T).details["dual_value"] == problem.dual_value(np.zeros(7))
    only = problem.point(alpha)
    assert only.nnz == 0
    np.testing.assert_array_equal(only.alpha, alpha)


def test_a_plan_of_unsorted_indices_is_not_touched():
    a, b, _, _, C = data()
    T = TransportPlan(np.outer(a, b), alpha=np.zeros(7))
    order = np.concatenate([np.arange(7)[::-1] + 7 * j for j in range(5)])
    T = TransportPlan((T.data[order], T.indices[order], T.indptr), shape=T.shape, alpha=T.alpha)
    before = T.indices.copy()
    point = TransportProblem(a, b, C).point(T)
    assert point.has_sorted_indices
    np.testing.assert_array_equal(T.indices, before)


def test_a_plan_is_a_sparse_array_that_can_be_stored(tmp_path):
    rng = np.random.default_rng(0)
    relaxed = sp.csc_array(rng.random((4, 3)))
    plan = TransportPlan(
        sp.eye_array(4, 3), alpha=rng.random(4), beta=rng.random(3), relaxed=relaxed
    )
    assert sp.issparse(plan)
    np.testing.assert_array_equal(plan @ np.ones(3), [1, 1, 1, 0])
    path = write_npz(tmp_path / "plan.npz", {}, x=Result(x=plan))
    for twin in (
        pickle.loads(pickle.dumps(plan)), copy.deepcopy(plan), read_npz(path)[1]["x"]["x"],
    ):  # fmt: skip
        assert type(twin) is TransportPlan
        np.testing.assert_array_equal(twin.toarray(), plan.toarray())
        np.testing.assert_array_equal(twin.alpha, plan.alpha)
        np.testing.assert_array_equal(twin.beta, plan.beta)
        np.testing.assert_array_equal(twin.relaxed.toarray(), relaxed.toarray())
    np.testing.assert_array_equal(plan.counts(), [1, 1, 1])


def centred_range(a, b, C):
    """Range of the costs less the means of rows and columns."""
    rest = C - (C @ b / b.sum())[:, None]
    return np.ptp(rest - a @ rest / a.sum())


def test_relative_gamma_is_in_units_of_the_problem():
    """Rescaling costs and masses changes the strength with them."""
    a, b, X, Y, C = data()
    plain = TransportProblem(a, b, C, gamma=2.0, gamma_scale="relative")
    assert plain.strength == pytest.approx(2.0 * centred_range(a, b, C) * 5, rel=1e-12)
    scaled = TransportProblem(8 * a, 8 * b, 3 * C, gamma=2.0, gamma_scale="relative")
    assert scaled.strength == pytest.approx(plain.strength * 3 / 8, rel=1e-12)
    points = TransportProblem(a, b, X=X, Y=Y, gamma=2.0, gamma_scale="relative")
    assert points.strength == pytest.approx(plain.strength, rel=1e-12)


def test_forbidden_pairs_cost_infinity():
    a, b, _, _, C = data()
    C[0, 0] = np.inf
    problem = TransportProblem(a, b, C)
    assert problem.objective(np.outer(a, b)) == np.inf
    T = np.outer(a, b)
    T[0, 0] = 0.0
    assert np.isfinite(problem.objective(T))
    listed = TransportProblem(a, b, sp.csc_array(np.where(np.isinf(C), 0.0, C)))
    assert listed.objective(np.outer(a, b)) == np.inf
    assert listed.objective(T) == pytest.approx(problem.objective(T), rel=1e-14)


def test_dual_value_is_a_bound_below_random_sparse_plans():
    """Weak duality, at potentials of any size: no plan with the cap is cheaper."""
    rng = np.random.default_rng(0)
    for trial in range(30):
        m, n, k = 4, 6, 2
        T = np.zeros((m, n))
        for j in range(n):
            T[rng.choice(m, k, replace=False), j] = rng.random(k)
        T[np.arange(m), np.arange(m)] += 0.1
        T[:, :m] *= np.argsort(np.argsort(-T[:, :m], axis=0), axis=0) < k
        C = rng.standard_normal((m, n))
        problem = TransportProblem(T.sum(axis=1), T.sum(axis=0), C, max_nnz=k, gamma=rng.random())
        alpha = 10.0 ** rng.uniform(-3, 3) * rng.standard_normal(m)
        value = np.sum(C * T) + problem.gamma / 2 * np.sum(T**2)
        assert problem.objective(T) == pytest.approx(value, rel=1e-12), trial
        assert problem.dual_value(alpha) <= value


@pytest.mark.parametrize("kind", [L2, KL])
def test_row_terms_are_conjugate(kind):
    """The dual term is the minimum over row sums of penalty plus inner product: a grid knows."""
    a, weight = np.array([0.3, 0.7]), 0.8
    grid = np.linspace(1e-6, 4.0, 400_001)
    for alpha in (np.array([0.2, -0.1]), np.array([-0.5, 0.2])):
        value, gradient, curvature = row_dual(kind, weight, a, alpha)
        best = 0.0
        for i in range(2):
            if kind == L2:
                phi = 0.5 * weight * (grid - a[i]) ** 2
            else:
                phi = weight * (grid * np.log(grid / a[i]) - grid + a[i])
            own = row_penalty(kind, weight, a[i : i + 1], grid[99:100])
            assert own == pytest.approx(phi[99], rel=1e-9)
            best += np.min(phi + alpha[i] * grid)
        assert value == pytest.approx(best, abs=1e-8)
        step = 1e-6
        for i in range(2):
            e = np.eye(2)[i] * step
            up, down = (row_dual(kind, weight, a, alpha + s * e) for s in (1, -1))
            assert gradient[i] == pytest.approx((up[0] - down[0]) / (2 * step), rel=1e-6)
            assert curvature[i] == pytest.approx(-(up[1] - down[1])[i] / (2 * step), rel=1e-6)


def test_common_checks_of_problems():
    a, b, _, _, C = data()
    rng = np.random.default_rng(0)
    points = tuple(
        TransportPlan(rng.random((7, 5)) / 35, alpha=rng.standard_normal(7)) for _ in range(2)
    )
    problem = TransportProblem(a, b, C, max_nnz=3)
    other = TransportProblem(a, b, C + 1.0, max_nnz=3)
    check_problem(problem, *points, other=other)
    assert isinstance(problem, HasTransport)


@pytest.mark.parametrize("form", ["matrix", "points", "list"])
def test_the_relative_scale_is_that_of_positive_masses(form):
    X, Y = np.array([[0.0], [1.0], [50.0]]), np.array([[0.0], [2.0], [-70.0]])
    C = (X - Y.T) ** 2
    data = {"matrix": {"C": C}, "points": {"X": X, "Y": Y}, "list": {"C": sp.csc_array(C + 1.0)}}
    a, b = [0.5, 0.5, 0.0], [0.25, 0.75, 0.0]
    problem = TransportProblem(a, b, **data[form], gamma=0.1, gamma_scale="relative")
    left = centred_range(np.array(a[:2]), np.array(b[:2]), C[:2, :2])
    assert problem.strength == pytest.approx(0.1 * left / 0.5)


def test_a_relative_strength_is_left_where_means_are_all():
    """Of one row, and of costs that are numbers of rows plus numbers of columns."""
    for C in (np.array([[1.0, 4.0, 2.0]]), np.arange(3.0)[:, None] + np.array([0.0, 7.0])):
        problem = TransportProblem(C=C, gamma=0.1, gamma_scale="relative")
        assert problem.strength == pytest.approx(0.1 * np.ptp(C) * C.shape[1])


@pytest.mark.parametrize("threshold", [1e-12, 0.3])
def test_counts_of_columns_and_of_rows(threshold):
    T = np.array([[0.5, 0.0, 0.0], [0.1, 0.2, 1e-14], [0.0, 0.2, 0.4], [0.0, 0.4, 0.0]])
    plan = TransportPlan(T)
    columns = (threshold * T.sum(axis=0) < T).sum(axis=0)
    rows = (threshold * T.sum(axis=1)[:, None] < T).sum(axis=1)
    np.testing.assert_array_equal(plan.counts(threshold), columns)
    np.testing.assert_array_equal(plan.counts(threshold, axis=1), rows)
