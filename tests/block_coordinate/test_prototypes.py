"""Prototype clustering: the kernels, the problem, what the solver promises, batches of tasks."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import sparse
from scipy.spatial.distance import cdist
from sklearn.cluster import KMeans, MeanShift
from sklearn.neighbors import NearestNeighbors

from lowrank_opt.block_coordinate import (
    BoundOptimizer,
    LaplacianPrototypeProblem,
    PrototypeAssignments,
    knn_affinity,
    rectified_prototypes,
    solve_tasks,
)
from lowrank_opt.block_coordinate import affinity as graphs
from lowrank_opt.block_coordinate import reference_prototypes as reference
from lowrank_opt.block_coordinate.kernels_prototypes import assign_rows
from lowrank_opt.core import History, Status
from lowrank_opt.core.errors import AccuracyWarning, ParameterError, ProblemError
from lowrank_opt.testing import BadInput, SolverCase, check_problem, check_solver


def clouds(n=40, d=3, K=3, seed=0, noise=1.0, dtype=np.float64):
    """Points around K centres, and their centres' numbers."""
    rng = np.random.default_rng(seed)
    centres = 2.0 * rng.standard_normal((K, d))
    y = rng.integers(K, size=n)
    y[:K] = np.arange(K)
    return (centres[y] + noise * rng.standard_normal((n, d))).astype(dtype), y


def random_graph(n=40, seed=0, density=0.2):
    rng = np.random.default_rng(seed)
    W = rng.random((n, n)) * (rng.random((n, n)) < density)
    return W + W.T


def plain_objective(F, W, S, m, lam, temperature, shift=0.0):
    """The relaxed objective, term by term."""
    total = 0.0
    for p in range(len(F)):
        for k in range(len(m)):
            s = S[p, k]
            total += temperature * s * np.log(s) if s > 0 else 0.0
            total += s * np.sum((F[p] - m[k]) ** 2)
    W = W + np.diag(np.broadcast_to(shift, len(F)))
    return total - 0.5 * lam * sum(
        W[p, q] * (S[p] @ S[q]) for p in range(len(F)) for q in range(len(F))
    )


def published(F, W, m, lam, n_iter):
    """Assignments of the published updates, without shift, from those without a graph."""
    cost = reference.squared_distances(F, m)
    nothing = np.zeros(cost.shape)
    S = [reference.assign(nothing, cost, nothing, 0.0, np.zeros(len(F)), 1.0)]
    for _ in range(n_iter):
        S.append(reference.assign(S[-1], cost, W @ S[-1], lam, np.zeros(len(F)), 1.0))
    return S


def solve(problem, **options):
    result = BoundOptimizer(**{"tol": 1e-9, **options}).solve(problem)
    assert result.status is Status.CONVERGED, result.message
    return result


# -- kernels and their twins -----------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.0, 0.3, 5.0])
@pytest.mark.parametrize("lam", [0.0, 0.7])
@pytest.mark.parametrize("K", [1, 2, 7])
def test_the_kernel_assigns_as_its_twin_does(temperature, lam, K):
    rng = np.random.default_rng(K)
    n = 30
    W = sparse.csr_array(random_graph(n))
    S, cost, shift = rng.dirichlet(np.ones(K), n), rng.random((n, K)), rng.random(n)
    fixed = np.where(rng.random(n) < 0.3, 0, -1)
    out = np.full((n, K), np.nan)
    indices, pointers = W.indices.astype(np.int32), W.indptr.astype(np.int32)
    change = [
        assign_rows(pointers, indices, W.data, shift, cost, fixed, lam, temperature, S, a, b, out)
        for a, b in ((0, 11), (11, n))
    ]
    expected = reference.assign(S, cost, W @ S, lam, shift, temperature)
    expected[fixed >= 0] = S[fixed >= 0]
    np.testing.assert_allclose(out, expected, atol=1e-13)
    np.testing.assert_allclose(max(change), np.abs(expected - S).max(), rtol=1e-12)


def test_the_kernel_reports_what_is_not_finite():
    W, S = sparse.csr_array((1, 1)), np.array([[0.5, 0.5]])
    for bad in (np.inf, np.nan):
        cost, out = np.full((1, 2), bad), np.empty((1, 2))
        parts = W.indptr.astype(np.int32), W.indices.astype(np.int32), W.data
        found = assign_rows(*parts, np.zeros(1), cost, np.array([-1]), 1.0, 1.0, S, 0, 1, out)
        assert found == np.inf


def test_ties_at_temperature_zero_leave_points_where_they_are():
    S = np.array([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [0.2, 0.4, 0.4]])
    cost = np.array([[1.0, 1.0, 2.0], [1.0, 1.0, 2.0], [3.0, 3.0, 3.0]])
    found = reference.assign(S, cost, np.zeros((3, 3)), 0.0, np.zeros(3), 0.0)
    np.testing.assert_array_equal(np.argmax(found, axis=1), [1, 0, 1])
    out, W = np.empty((3, 3)), sparse.csr_array((3, 3))
    parts = W.indptr.astype(np.int32), W.indices.astype(np.int32), W.data, np.zeros(3)
    assign_rows(*parts, cost, np.full(3, -1), 0.0, 0.0, S, 0, 3, out)
    np.testing.assert_array_equal(out, found)


def test_twins_work_with_other_array_libraries(xp):
    rng = np.random.default_rng(0)
    F, m = rng.standard_normal((2, 6, 3)), rng.standard_normal((2, 4, 3))
    W = np.stack([random_graph(6, seed) for seed in (0, 1)])
    S, shift = rng.dirichlet(np.ones(4), (2, 6)), rng.random((2, 6))
    a = [xp.asarray(part) for part in (F, m, W, S, shift)]
    cost = reference.squared_distances(a[0], a[1])
    for task in range(2):
        np.testing.assert_allclose(
            np.asarray(cost[task, ...]), cdist(F[task], m[task], "sqeuclidean"), rtol=1e-12
        )
    for temperature in (0.0, 0.5):
        found = reference.assign(a[3], cost, a[2] @ a[3], 0.8, a[4], temperature)
        expected = reference.assign(S, np.asarray(cost), W @ S, 0.8, shift, temperature)
        np.testing.assert_allclose(np.asarray(found), expected, rtol=1e-12, atol=1e-15)
        value = reference.relaxed_objective(a[3], cost, a[2] @ a[3], 0.8, a[4], temperature)
        for t in range(2):
            np.testing.assert_allclose(
                float(value[t]),
                plain_objective(F[t], W[t], S[t], m[t], 0.8, temperature, shift[t]), rtol=1e-12,
            )  # fmt: skip


# -- graphs ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("d", [2, 15, 16, 40])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_neighbours_are_those_of_scikit_learn(d, dtype):
    X = clouds(700, d, 5, dtype=dtype)[0]
    near, squares = graphs.nearest_points(X, None, 6)
    expected = NearestNeighbors(n_neighbors=6, algorithm="brute").fit(X.astype(np.float64))
    distances, places = expected.kneighbors()
    np.testing.assert_array_equal(near, places)
    np.testing.assert_allclose(np.sqrt(squares), distances, rtol=1e-5)
    Q = clouds(50, d, 5, seed=1, dtype=dtype)[0]
    near, _ = graphs.nearest_points(X, Q, 6, n_threads=2)
    np.testing.assert_array_equal(near, expected.kneighbors(Q.astype(np.float64))[1])


@pytest.mark.parametrize("offset", [1e7, 1e150])
def test_neighbours_far_from_the_origin_and_of_any_scale(offset):
    X = np.round(clouds(300, 20)[0] * 1024) / 1024
    expected = graphs.nearest_points(X, None, 4)[0]
    moved = X + offset if offset < 1e10 else X * offset
    np.testing.assert_array_equal(graphs.nearest_points(moved, None, 4)[0], expected)


def test_equal_distances_are_ordered_by_index():
    X = np.zeros((9, 20))
    X[4:, 0] = 1.0
    near, squares = graphs.nearest_points(X, None, 3)
    np.testing.assert_array_equal(near[:4], [[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2]])
    np.testing.assert_array_equal(near[4], [5, 6, 7])
    assert not squares.any()
    for points in (X, X[:, :3]):  # all alike, and the point itself is not among its neighbours
        near, squares = graphs.nearest_points(points, None, 3)
        assert not squares.any()
        assert not (near == np.arange(9)[:, None]).any()


def test_the_graph_counts_the_point_itself():
    X = np.array([[0.0], [1.0], [3.0], [7.0]])
    A = knn_affinity(X, 2, symmetrize=False).toarray()
    np.testing.assert_array_equal(A, [[1, 1, 0, 0], [1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 1]])
    np.testing.assert_array_equal(knn_affinity(X, 2).toarray(), (A + A.T) / 2)
    np.testing.assert_array_equal(knn_affinity(X, 1).toarray(), np.eye(4))
    np.testing.assert_array_equal(knn_affinity(X, 99).toarray(), np.ones((4, 4)))
    for bad in (0, 1.5, True):
        with pytest.raises(ParameterError, match="n_neighbors"):
            knn_affinity(X, bad)
    with pytest.raises(ProblemError, match=r"F has shape \(4,\)"):
        knn_affinity(X[:, 0])


# -- the problem -----------------------------------------------------------------------------------


def test_the_objective_is_the_formula():
    F, y = clouds(12)
    W, rng = random_graph(12), np.random.default_rng(1)
    labels = np.where(np.arange(12) < 3, y, -1)
    x = PrototypeAssignments(rng.dirichlet(np.ones(3), 12), rng.standard_normal((3, 3)))
    for temperature, shift in ((0.0, 0.0), (0.7, 1.5)):
        problem = LaplacianPrototypeProblem(
            F, W, labels=labels, lam=0.4, temperature=temperature, psd_shift=shift
        )
        expected = plain_objective(F, W, *x, 0.4, temperature, np.where(labels < 0, shift, 0.0))
        np.testing.assert_allclose(problem.objective(x), expected, rtol=1e-12)


def test_on_vertices_shift_and_forms_of_the_pairwise_term_differ_by_constants():
    F, _ = clouds(15)
    W, rng = random_graph(15), np.random.default_rng(2)
    m = rng.standard_normal((3, 3))
    differences = []
    for _ in range(5):
        S = np.eye(3)[rng.integers(3, size=15)]
        values = [
            LaplacianPrototypeProblem(F, W, 3, lam=0.8, temperature=0.0, psd_shift=s).objective(
                (S, m)
            )
            for s in (0.0, 4.0)
        ]
        apart = np.sum((S[:, None] - S[None]) ** 2, axis=2)
        discrete = np.sum(S * cdist(F, m, "sqeuclidean")) + 0.8 / 4 * np.sum(W * apart)
        problem = LaplacianPrototypeProblem(F, W, 3, lam=0.8)
        details = problem.certificate((S, m)).details
        np.testing.assert_allclose(details["discrete_objective"], discrete, rtol=1e-12)
        differences.append([values[1] - values[0], discrete - values[0]])
    np.testing.assert_allclose(np.ptp(differences, axis=0), 0.0, atol=1e-11)
    np.testing.assert_allclose(differences[0][0], -0.5 * 0.8 * 4.0 * 15, rtol=1e-12)


@pytest.mark.parametrize("temperature", [0.0, 0.5, 3.0])
def test_the_automatic_shift_is_what_gershgorin_asks_for_less_the_entropy(temperature):
    F, _ = clouds(20)
    W = random_graph(20) + np.diag(np.arange(20.0) / 10)
    lam = 0.9
    problem = LaplacianPrototypeProblem(F, W, 3, lam=lam, temperature=temperature)
    others = W.sum(axis=1) - np.diag(W)
    expected = np.maximum(others - np.diag(W) - 2 * temperature / lam, 0.0)
    np.testing.assert_allclose(problem.shift, expected, rtol=1e-12)
    shifted = W + np.diag(problem.shift) + 2 * temperature / lam * np.eye(20)
    assert np.linalg.eigvalsh(shifted).min() > -1e-10


def test_labelled_points_need_no_shift_and_cause_none():
    F, y = clouds(10)
    labels = np.where(np.arange(10) < 8, y, -1)
    problem = LaplacianPrototypeProblem(F, np.ones((10, 10)), labels=labels, temperature=0.0)
    np.testing.assert_array_equal(problem.shift, np.zeros(10))  # one other unlabelled, itself


@pytest.mark.parametrize("options", [
    {}, {"temperature": 0.0}, {"unary": "gaussian", "bandwidth": 1.3, "temperature": 0.1},
    {"labels": "few"}, {"labels": "few", "update_prototypes": False},
])  # fmt: skip
def test_the_certificate_sees_a_fixed_point_and_what_is_none(options):
    F, y = clouds()
    options = dict(options)
    if "labels" in options:
        options["labels"] = np.where(np.arange(40) < 5, y, -1)
    problem = LaplacianPrototypeProblem(F, knn_affinity(F, 4), 3, lam=0.5, **options)
    S, m = solve(problem).x
    assert problem.certificate((S, m)).residual < 1e-8
    for p in (7, 39):
        turned = S.copy()
        turned[p] = np.roll(turned[p], 1)
        assert problem.certificate((turned, m)).residual > 1e-3
    assert problem.certificate((S, m + 0.1)).details["prototype_residual"] > 1e-2
    assert problem.certificate((0.9 * S, m)).residual > 1e-3
    if "labels" in options:
        wrong = S.copy()
        wrong[0] = np.roll(wrong[0], 1)
        assert problem.certificate((wrong, m)).residual == 1.0


def test_the_bandwidth_is_the_distance_of_neighbours():
    F, _ = clouds(25)
    W = random_graph(25)
    problem = LaplacianPrototypeProblem(F, W, 3, unary="gaussian")
    D = cdist(F, F, "sqeuclidean")
    np.testing.assert_allclose(
        problem.sigma, np.sqrt(np.sum(W * D) / (W - np.diag(np.diag(W))).sum())
    )
    free = LaplacianPrototypeProblem(F, None, 3, unary="gaussian", lam=0.0)
    np.testing.assert_allclose(free.sigma**2, np.sum(np.var(F, axis=0)), rtol=1e-12)


def make_problem(dtype=np.float64, seed=0):
    F, y = clouds(30, seed=seed, noise=0.8, dtype=dtype)
    labels = np.where(np.arange(30) < 4, y, -1)
    return LaplacianPrototypeProblem(F, knn_affinity(F, 4), labels=labels, temperature=2.0)


def turned_points(problem, rng):
    order = rng.permutation(len(problem.F))
    moved = LaplacianPrototypeProblem(
        problem.F[order], problem.affinity[order][:, order], labels=problem.known[order],
        temperature=problem.temperature,
    )  # fmt: skip
    return moved, lambda x: PrototypeAssignments(x.assignments[order], x.prototypes)


def moved_and_scaled(problem, rng):
    step = rng.standard_normal(problem.F.shape[1])
    moved = LaplacianPrototypeProblem(
        3.0 * problem.F + step, problem.affinity, labels=problem.known,
        temperature=9.0 * problem.temperature, lam=9.0 * problem.lam,
    )  # fmt: skip
    return moved, lambda x: PrototypeAssignments(x.assignments, 3.0 * x.prototypes + step)


def shaken(x, rng):
    S = x.assignments * (1 + 0.01 * rng.random(x.assignments.shape))
    m = x.prototypes * (1 + 0.01 * rng.standard_normal(x.prototypes.shape))
    S /= S.sum(axis=1, keepdims=True)
    return PrototypeAssignments(S.astype(m.dtype), m.astype(x.prototypes.dtype))


def by_plain_updates(problem, solver):
    F, W = problem.F.astype(float), problem.affinity.toarray()
    free = problem.known < 0
    targets = np.zeros((len(F), 3))
    targets[~free] = np.eye(3)[problem.known[~free]]
    m = reference.class_means(targets, F)
    S = None
    for _ in range(2000):
        cost = cdist(F, m, "sqeuclidean")
        z = -cost if S is None else W @ S + problem.shift[:, None] * S - cost
        S = np.exp((z - z.max(axis=1, keepdims=True)) / problem.temperature)
        S /= S.sum(axis=1, keepdims=True)
        S[~free] = targets[~free]
        m = reference.class_means(S, F)
    return PrototypeAssignments(S, m)


CASE = SolverCase(
    BoundOptimizer(tol=1e-10), make_problem, reference=by_plain_updates, perturb=shaken,
    transforms={"points permuted": turned_points, "moved and scaled": moved_and_scaled},
    bad_inputs=(
        BadInput("start of another shape",
                 lambda: BoundOptimizer().solve(make_problem(), x0=np.zeros((2, 3))),
                 ProblemError, r"x0 has shape \(2, 3\)"),
        BadInput("inner limit", lambda: BoundOptimizer(max_inner=0).solve(make_problem()),
                 ParameterError, "max_inner=0"),
    ),
)  # fmt: skip


def test_the_solver_passes_the_checks_of_all_solvers():
    check_solver(CASE)


def test_the_problem_passes_the_checks_of_all_problems():
    problem = make_problem()
    x = solve(problem).x
    rng = np.random.default_rng(0)
    check_problem(problem, shaken(x, rng), other=make_problem(seed=1))


# -- what the solver promises ----------------------------------------------------------------------


def test_without_graph_and_updates_it_is_the_nearest_prototype():
    F, _ = clouds(100)
    m = np.random.default_rng(3).standard_normal((4, 3))
    problem = LaplacianPrototypeProblem(
        F, None, lam=0.0, prototypes=m, update_prototypes=False, temperature=1e-3
    )
    result = solve(problem)
    assert result.nit == 0
    np.testing.assert_array_equal(result.labels, cdist(F, m).argmin(axis=1))
    np.testing.assert_array_equal(result.x.prototypes, m)


@pytest.mark.parametrize("seed", range(5))
def test_cold_and_without_graph_it_is_lloyd_s_k_means(seed):
    F, _ = clouds(300, 4, 5, seed=seed, noise=2.0)
    start = F[:5]
    peer = KMeans(5, init=start, n_init=1, tol=0.0, algorithm="lloyd").fit(F)
    problem = LaplacianPrototypeProblem(F, None, 5, lam=0.0, temperature=0.0)
    result = BoundOptimizer(max_inner=1).solve(problem, x0=start)
    np.testing.assert_array_equal(result.labels, peer.labels_)
    np.testing.assert_allclose(result.x.prototypes, peer.cluster_centers_, rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(result.fun, peer.inertia_, rtol=1e-12)
    nearly = LaplacianPrototypeProblem(F, None, 5, lam=0.0, temperature=1e-7)
    near = BoundOptimizer(tol=1e-4).solve(nearly, x0=start)
    np.testing.assert_array_equal(near.labels, peer.labels_)


@pytest.mark.parametrize("temperature", [0.0, 0.1, 1.0, 10.0])
@pytest.mark.parametrize("unary", ["squared", "gaussian"])
@pytest.mark.parametrize("update", [True, False])
def test_the_objective_never_rises(temperature, unary, update):
    for seed in range(4):
        F, y = clouds(seed=seed)
        labels = np.where(np.arange(40) < 3, y, -1)
        lam = (0.1, 1.0, 5.0, 30.0)[seed]
        problem = LaplacianPrototypeProblem(
            F, random_graph(seed=seed), labels=labels, lam=lam, temperature=temperature,
            unary=unary, update_prototypes=update,
        )  # fmt: skip
        values = [
            problem.objective((s.assignments, s.prototypes))
            for s in BoundOptimizer(max_inner=1, tol=1e-8, max_iter=200).iterate(problem)
        ]
        rises = np.diff(values)
        assert len(values) < 2 or rises.max() <= 1e-11 * np.abs(values).max()


def test_a_directed_graph_makes_the_objective_rise_its_symmetric_part_does_not():
    # The published affinity: a directed 0/1 matrix of neighbours, no shift, lam = 5.
    F, y = clouds(60, 4, 3, seed=29)
    m = np.array([F[y == k].mean(axis=0) for k in range(3)])
    A = knn_affinity(F, 10, symmetrize=False).toarray()
    rises = {}
    for name, W in (("directed", A), ("symmetric", (A + A.T) / 2)):
        steps = published(F, W, m, 5.0, 40)
        values = [plain_objective(F, W, S, m, 5.0, 1.0) for S in steps]
        rises[name] = np.max(np.diff(values))
    assert rises["directed"] > 1.0
    assert rises["symmetric"] < 1e-9
    problem = LaplacianPrototypeProblem(
        F, A, lam=5.0, prototypes=m, update_prototypes=False
    )  # symmetrised, with the shift
    np.testing.assert_allclose(problem.affinity.toarray(), (A + A.T) / 2)
    history = History(every=1)
    BoundOptimizer(max_inner=1).solve(problem, history=history)
    assert np.diff(history["objective"]).max() <= 1e-9


def test_without_the_shift_parallel_updates_can_oscillate_for_ever():
    # Two points that pull each other: each takes the other's place, in every iteration.
    F, W = np.array([[0.0], [1.0]]), np.array([[0.0, 1.0], [1.0, 0.0]])
    options = {"lam": 10.0, "prototypes": F, "update_prototypes": False, "temperature": 0.0}
    problem = LaplacianPrototypeProblem(F, W, psd_shift=0.0, **options)
    result = BoundOptimizer(max_iter=50, max_inner=1).solve(problem)
    assert result.status is Status.ITERATION_LIMIT
    assert result.residual == 1.0
    shifted = solve(LaplacianPrototypeProblem(F, W, **options))
    assert shifted.success


@pytest.mark.parametrize("seed", range(6))
def test_a_tiny_problem_cannot_be_improved_by_any_single_point_and_is_above_brute_force(seed):
    F, y = clouds(7, 2, 2, seed=seed)
    labels = np.where(np.arange(7) < 2, y, -1)
    W = random_graph(7, seed, density=0.5)
    np.fill_diagonal(W, 0.0)
    problem = LaplacianPrototypeProblem(
        F, W, labels=labels, lam=0.7, temperature=0.0, update_prototypes=False
    )
    result = solve(problem)
    values = {}
    for rest in itertools.product(range(2), repeat=5):
        S = np.eye(2)[[*y[:2], *rest]]
        details = problem.certificate((S, problem.prototypes)).details
        values[rest] = details["discrete_objective"]
    found = tuple(int(k) for k in result.labels[2:])
    np.testing.assert_allclose(values[found], result.discrete_objective, rtol=1e-12)
    # With the graph alone, or without it, the answer is the best one.
    for lam in (0.0, 1e-3):
        weak = LaplacianPrototypeProblem(
            F, W, labels=labels, lam=lam, temperature=0.0, update_prototypes=False
        )
        best = min(
            itertools.product(range(2), repeat=5),
            key=lambda rest: weak.certificate(
                (np.eye(2)[[*y[:2], *rest]], weak.prototypes)
            ).details["discrete_objective"],
        )  # fmt: skip
        assert tuple(solve(weak).labels[2:]) == best
    assert values[found] >= min(values.values()) - 1e-12
    # Cooled slowly, it is the global minimum.
    x = None
    for temperature in (8.0, 4.0, 2.0, 1.0, 0.5, 0.25, 0.1, 0.0):
        cooled = LaplacianPrototypeProblem(
            F, W, labels=labels, lam=0.7, temperature=temperature, update_prototypes=False
        )
        x = BoundOptimizer().solve(cooled, x0=x).x
    np.testing.assert_allclose(
        cooled.certificate(x).details["discrete_objective"], min(values.values()), rtol=1e-9
    )


def test_strong_affinity_makes_connected_points_agree_with_their_label():
    # Two chains, a label at one end each: the graph decides, against the distances.
    F = np.array([[0.0], [0.4], [0.8], [1.2], [1.0], [0.7], [0.3], [-0.2]])
    W = np.zeros((8, 8))
    for p in (0, 1, 2, 4, 5, 6):
        W[p, p + 1] = W[p + 1, p] = 1.0
    labels = [0, -1, -1, -1, 1, -1, -1, -1]
    for lam, expected in ((0.0, [0, 0, 1, 1, 1, 1, 0, 0]), (50.0, [0] * 4 + [1] * 4)):
        problem = LaplacianPrototypeProblem(
            F, W, labels=labels, lam=lam, temperature=lam, update_prototypes=False
        ) if lam else LaplacianPrototypeProblem(
            F, W, labels=labels, lam=lam, update_prototypes=False
        )  # fmt: skip
        np.testing.assert_array_equal(solve(problem).labels, expected)


def test_clusters_are_relabelled_with_their_prototypes():
    F, _ = clouds()
    W, turn = knn_affinity(F, 4), np.array([2, 0, 1])
    problem = LaplacianPrototypeProblem(F, W, 3, temperature=0.5)
    one = BoundOptimizer(tol=1e-10).solve(problem, x0=F[:3])
    two = BoundOptimizer(tol=1e-10).solve(problem, x0=F[turn])
    np.testing.assert_allclose(two.x.assignments, one.x.assignments[:, turn], atol=1e-9)
    np.testing.assert_allclose(two.x.prototypes, one.x.prototypes[turn], atol=1e-8)


def test_modes_are_those_of_mean_shift():
    F, _ = clouds(80, 2, 3, seed=4, noise=0.4)
    # One cluster: the mode that the mean shift climbs to, with scikit-learn's flat kernel nearby.
    problem = LaplacianPrototypeProblem(F, None, 1, lam=0.0, unary="gaussian", bandwidth=0.5)
    start = F[:1]
    m = solve(problem, tol=1e-12).x.prototypes[0]
    result = BoundOptimizer(tol=1e-12).solve(problem, x0=start)
    for found in (m, result.x.prototypes[0]):
        kernel = np.exp(-np.sum((F - found) ** 2, axis=1) / (2 * 0.25))
        np.testing.assert_allclose(kernel @ F / kernel.sum(), found, atol=1e-9)
    flat = MeanShift(bandwidth=1.0, seeds=start).fit(F).cluster_centers_[0]
    assert np.linalg.norm(result.x.prototypes[0] - flat) < 0.2


def test_threads_do_not_change_the_bits():
    F, _ = clouds(9000, 3, 4)
    problem = LaplacianPrototypeProblem(F, knn_affinity(F, 4), 4, temperature=0.3)
    one, two = (BoundOptimizer(n_threads=n, max_iter=5).solve(problem) for n in (1, 2))
    np.testing.assert_array_equal(one.x.assignments, two.x.assignments)
    np.testing.assert_array_equal(one.x.prototypes, two.x.prototypes)


@pytest.mark.parametrize("max_inner", [1, 3, 20])
def test_inner_updates_are_counted_and_limited(max_inner):
    problem = make_problem()
    result = BoundOptimizer(max_inner=max_inner, inner_tol=0.0, tol=0.0, max_iter=4).solve(problem)
    updates = 4 * max_inner
    # One more at the start; without an end before the limit, one an iteration for the residual.
    assert result.counts["assignment_updates"] == updates + 1
    assert result.counts["prototype_updates"] == 4


def test_far_from_the_origin_digits_are_kept():
    F, _ = clouds(60)
    F = np.round(F * 64) / 64
    W = knn_affinity(F, 4)
    one, two = (
        solve(LaplacianPrototypeProblem(F + far, W, 3, temperature=0.5), tol=1e-7)
        for far in (0.0, 2.0**26)
    )
    np.testing.assert_allclose(two.x.assignments, one.x.assignments, atol=1e-5)
    np.testing.assert_allclose(two.x.prototypes - 2.0**26, one.x.prototypes, atol=1e-5)


def test_a_cluster_without_points_is_moved_to_the_farthest_point():
    F = np.array([[0.0], [0.1], [1.0], [1.1], [3.0]])
    problem = LaplacianPrototypeProblem(F, None, 3, lam=0.0, temperature=0.0)
    with pytest.warns(AccuracyWarning, match=r"cluster 2 .* starts again at point 4"):
        result = BoundOptimizer().solve(problem, x0=np.array([[0.0], [1.0], [50.0]]))
    np.testing.assert_array_equal(result.labels, [0, 0, 1, 1, 2])
    assert result.certificate.details["n_empty"] == 0


def test_a_cluster_that_cannot_live_is_given_up():
    # All points pull each other: whatever starts anew is emptied again.
    F = np.array([[0.0], [0.1], [0.2], [0.3]])
    problem = LaplacianPrototypeProblem(F, np.ones((4, 4)), 2, lam=100.0, temperature=0.0)
    S = np.zeros((4, 2))
    S[:, 0] = 1.0
    start = PrototypeAssignments(S, np.array([[0.2], [7.0]]))
    with pytest.warns(AccuracyWarning, match="cluster 1"):
        result = BoundOptimizer().solve(problem, x0=start)
    assert result.success
    assert result.certificate.details["n_empty"] == 1


def test_k_means_plus_plus_finds_far_clusters():
    F, y = clouds(200, 3, 6, seed=7, noise=0.01)
    for seed in range(5):
        problem = LaplacianPrototypeProblem(F, None, 6, lam=0.0, temperature=0.0)
        result = BoundOptimizer(random_state=seed).solve(problem)
        assert len({(a, b) for a, b in zip(y, result.labels, strict=True)}) == 6


# -- what is refused -------------------------------------------------------------------------------

F5, W5 = np.arange(10.0).reshape(5, 2), np.ones((5, 5))


@pytest.mark.parametrize(("args", "options", "message"), [
    ((F5, W5, 2), {"lam": -0.5}, r"lam=-0\.5 must be"),
    ((F5, W5, 2), {"lam": np.nan}, r"lam=nan must be"),
    ((F5, W5, 2), {"temperature": -1.0}, r"temperature=-1\.0 must be"),
    ((F5, W5, 2), {"unary": "cosine"}, r"unary='cosine' must be"),
    ((F5, W5, 2), {"bandwidth": 0.0}, r"bandwidth=0\.0 must be"),
    ((F5, W5, 2), {"psd_shift": -1.0}, r"psd_shift=-1\.0 must be"),
    ((F5, W5, 2), {"psd_shift": "none"}, r"psd_shift='none' must be"),
    ((F5, W5, 0), {}, r"n_clusters=0 must be"),
    ((F5, W5, 6), {}, r"n_clusters=6 with 5 points; expected at most as many"),
    ((F5, W5), {}, r"n_clusters is None; give it, or labels, or prototypes"),
    ((F5, None, 2), {}, r"W is None with lam=1; give an affinity"),
    ((F5, -W5, 2), {}, r"W\[0, 0\] = -1 is negative"),
    ((F5, np.ones((4, 5)), 2), {}, r"W has shape \(4, 5\) with 5 points; expected \(5, 5\)"),
    ((F5, np.ones(5), 2), {}, r"W has shape \(5,\); expected \(5, 5\)"),
    ((F5, np.full((5, 5), np.nan), 2), {}, r"W\[0, 0\] is NaN"),
    ((F5, sparse.csr_array(np.full((5, 5), np.inf)), 2), {}, r"W\.data\[0\] is NaN or infinite"),
    ((F5, np.triu(W5), 2), {"symmetrize": False},
     r"W is not symmetric: W\[0, 1\] = 1, W\[1, 0\] = 0, with symmetrize=False"),
    ((F5[:, 0], W5, 2), {}, r"F has shape \(5,\); features of shape"),
    ((F5[:0], W5, 2), {}, r"F has shape \(0, 2\)"),
    ((np.where(F5 == 3, np.nan, F5), W5, 2), {}, r"F\[1, 1\] is NaN or infinite"),
    ((F5 * 1j, W5, 2), {}, r"F has dtype complex128"),
    ((F5, W5), {"labels": [0, 1, -1]}, r"labels has shape \(3,\) and F has shape \(5, 2\)"),
    ((F5, W5), {"labels": [0, 2, -1, -1, -1]}, r"labels has no point of class 1 \(n_clusters=3\)"),
    ((F5, W5, 3), {"labels": [0, 1, -1, -1, -1]}, r"no point of class 2 \(n_clusters=3\)"),
    ((F5, W5, 2), {"labels": [0, 1, 2, -1, -1]}, r"labels has class 2 with n_clusters=2"),
    ((F5, W5), {"labels": [0, 1, -2, -1, -1]}, r"labels\[2\] = -2; classes 0, 1"),
    ((F5, W5), {"labels": [0, 1, 0.5, -1, -1]}, r"labels\[2\] = 0\.5; classes 0, 1"),
    ((F5, W5, 2), {"prototypes": np.ones((3, 2))}, r"prototypes has shape \(3, 2\) with n_clust"),
    ((F5, W5, 2), {"prototypes": np.ones((2, 3))}, r"prototypes has shape \(2, 3\); expected"),
    ((F5, W5, 2), {"update_prototypes": False}, r"update_prototypes=False without prototypes"),
])  # fmt: skip
def test_bad_input_is_named(args, options, message):
    with pytest.raises(ValueError, match=message):
        LaplacianPrototypeProblem(*args, **options)


def test_bad_points_are_named():
    problem = make_problem()
    with pytest.raises(ProblemError, match=r"x has assignments of shape \(2, 3\)"):
        problem.objective((np.ones((2, 3)), np.ones((3, 3))))
    with pytest.raises(ProblemError, match=r"x is a float; expected PrototypeAssignments"):
        problem.certificate(3.0)


# -- many tasks ------------------------------------------------------------------------------------


def tasks(n_tasks=4, way=3, shot=2, queries=6, d=5, seed=0):
    rng = np.random.default_rng(seed)
    n = way * (shot + queries)
    y = np.tile(np.repeat(np.arange(way), shot + queries), (n_tasks, 1))
    F = rng.standard_normal((n_tasks, way, d))[np.arange(n_tasks)[:, None], y]
    F = F + 0.8 * rng.standard_normal((n_tasks, n, d))
    labels = np.where(np.arange(n) % (shot + queries) < shot, y, -1)
    order = rng.permutation(n)
    return F[:, order], labels[:, order], y[:, order]


@pytest.mark.parametrize("options", [
    {}, {"update_prototypes": True, "temperature": 0.5}, {"temperature": 0.0}, {"lam": 0.0},
    {"lam": 2.5, "n_neighbors": 6, "graph": "query"}, {"psd_shift": 3.0}, {"n_threads": 2},
])  # fmt: skip
def test_a_batch_of_tasks_is_each_task_solved_alone(options):
    F, labels, _ = tasks()
    found = solve_tasks(F, labels, tol=1e-9, **options)
    assert found.residual.max() <= 1e-9
    options = {k: v for k, v in options.items() if k != "n_threads"}
    k, graph = options.pop("n_neighbors", 3), options.pop("graph", "all")
    for t in range(len(F)):
        joined = labels[t] < 0 if graph == "query" else np.full(len(labels[t]), True)
        W = np.zeros((len(F[t]),) * 2)
        W[np.ix_(joined, joined)] = knn_affinity(F[t][joined], k).toarray()
        problem = LaplacianPrototypeProblem(
            F[t], W, labels=labels[t], **{"update_prototypes": False, **options}
        )
        expected = solve(problem).x
        np.testing.assert_allclose(found.assignments[t], expected.assignments, atol=1e-7)
        np.testing.assert_allclose(found.prototypes[t], expected.prototypes, atol=1e-7)
        alone = solve_tasks(F[t : t + 1], labels[t : t + 1], tol=1e-9, n_neighbors=k, graph=graph,
                            **options)  # fmt: skip
        np.testing.assert_array_equal(alone.labels[0], found.labels[t])


@pytest.mark.parametrize("options", [
    {}, {"update_prototypes": True, "temperature": 0.5, "rectify": True}, {"graph": "query"},
])  # fmt: skip
def test_tasks_on_other_array_libraries(xp, options):
    F, labels, _ = tasks()
    expected = solve_tasks(F, labels, tol=1e-9, **options)
    found = solve_tasks(xp.asarray(F), xp.asarray(labels), tol=1e-9, **options)
    assert type(found.assignments) is type(xp.asarray(F))
    np.testing.assert_allclose(np.asarray(found.assignments), expected.assignments, atol=1e-7)
    np.testing.assert_allclose(np.asarray(found.prototypes), expected.prototypes, atol=1e-7)
    np.testing.assert_array_equal(np.asarray(found.labels), expected.labels)


@pytest.mark.parametrize("offset", [0.0, 2.0])
def test_prototypes_of_tasks_are_rectified_by_the_angles_of_the_given_features(offset):
    F, labels, _ = tasks()
    F = F + offset
    found = solve_tasks(F, labels, rectify=True)
    for t in range(len(F)):
        targets = (labels[t][:, None] == np.arange(3)).astype(float)
        means = np.array([F[t][labels[t] == k].mean(axis=0) for k in range(3)])
        _, expected = rectified_prototypes(F[t], targets, means)
        np.testing.assert_allclose(found.prototypes[t], expected, rtol=1e-10)


def test_tasks_in_float32():
    F, labels, _ = tasks()
    expected = solve_tasks(F, labels)
    found = solve_tasks(F.astype(np.float32), labels)
    assert found.assignments.dtype == found.prototypes.dtype == np.float32
    np.testing.assert_allclose(found.assignments, expected.assignments, atol=1e-4)


def test_rectified_prototypes_by_hand():
    F = np.array([[1.0, 0.0], [0.0, 1.0], [3.0, 2.0], [2.0, 3.0]])
    targets = np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0], [0.0, 0.0]])
    moved, found = rectified_prototypes(F, targets, F[:2])
    # Queries have the mean (2.5, 2.5), the support (0.5, 0.5).
    np.testing.assert_allclose(moved, [[1, 0], [0, 1], [1, 0], [0, 1]], atol=1e-15)
    np.testing.assert_allclose(found, F[:2], atol=1e-15)
    moved, found = rectified_prototypes(F[:3], targets[:3], F[:2])
    near = np.array([0.5, 0.5])  # the only query goes to the mean of the support: a tie
    weights = 1 / (1 + np.exp(-10.0)), 0.5
    np.testing.assert_allclose(moved[2], near, atol=1e-15)
    np.testing.assert_allclose(
        found[0], (weights[0] * F[0] + weights[1] * near) / sum(weights), rtol=1e-12
    )


@pytest.mark.parametrize(("change", "message"), [
    ({"F": np.ones((4, 3))}, r"F has shape \(4, 3\); features of shape \(n_tasks"),
    ({"labels": np.zeros((4, 3), int)}, r"labels has shape \(4, 3\) and F has shape \(4, 24, 5\)"),
    ({"labels": np.zeros((4, 24), int), "n_classes": 2}, r"labels\[0\] has no point of class 1"),
    ({"labels": np.full((4, 24), -1)}, r"labels are from -1 to -1"),
    ({"labels": np.full((4, 24), 0.5)}, r"labels must be integers"),
    ({"n_classes": 2}, r"labels are from -1 to 2; expected classes 0 to 1"),
    ({"lam": -1.0}, r"lam=-1\.0 must be"), ({"n_neighbors": 0}, r"n_neighbors=0 must be"),
    ({"graph": "none"}, r"graph='none' must be"),
])  # fmt: skip
def test_bad_tasks_are_named(change, message):
    F, labels, _ = tasks()
    with pytest.raises(ValueError, match=message):
        solve_tasks(**{"F": F, "labels": labels, **change})
