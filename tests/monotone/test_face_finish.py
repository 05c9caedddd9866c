"""The finish on the face: exact on known vertices, repairs wrong faces, refuses fill."""

from __future__ import annotations

import cvxpy as cp
import numpy as np
import pytest
import scipy.sparse as sp
from scipy.optimize import linprog as scipy_linprog

from lowrank_opt.monotone import pdhg_engine as engine
from lowrank_opt.monotone.face_finish import attempt, finish
from lowrank_opt.monotone.kernels_ordering import minimum_degree
from lowrank_opt.monotone.linear_program import LinearProgram
from lowrank_opt.monotone.points import PrimalDual
from lowrank_opt.monotone.quadratic_program import QuadraticProgram
from lowrank_opt.monotone.scaling import scale_program

INF = np.inf


def random_program(seed: int, m: int = 12, n: int = 20) -> LinearProgram:
    """Feasible and bounded, with every kind of row and bound."""
    rng = np.random.default_rng(seed)
    A = rng.standard_normal((m, n)) * (rng.random((m, n)) < 0.5)
    x, y, z = rng.standard_normal(n), rng.standard_normal(m), rng.standard_normal(n)
    activity, kind, sort = A @ x, rng.integers(0, 4, m), rng.integers(0, 5, n)
    low = np.where(kind == 3, -INF, activity - (kind > 0) * rng.random(m))
    high = np.where(kind == 2, INF, activity + (kind > 0) * rng.random(m))
    lower = np.where((sort == 1) | (sort == 2), x - rng.random(n), -INF)
    upper = np.where((sort == 1) | (sort == 3), x + rng.random(n), INF)
    lower, upper = np.where(sort == 4, x, lower), np.where(sort == 4, x, upper)
    y = np.where(((y > 0) & (low == -INF)) | ((y < 0) & (high == INF)), 0.0, y)
    z = np.where(((z > 0) & (lower == -INF)) | ((z < 0) & (upper == INF)), 0.0, z)
    return LinearProgram(A.T @ y + z, A, low, high, lower, upper)


def highs_point(lp: LinearProgram) -> tuple[np.ndarray, np.ndarray]:
    equal = lp.constraint_lower == lp.constraint_upper
    up = ~equal & np.isfinite(lp.constraint_upper)
    down = ~equal & np.isfinite(lp.constraint_lower)
    A = lp.A.toarray()
    found = scipy_linprog(
        lp.c, np.vstack([A[up], -A[down]]),
        np.concatenate([lp.constraint_upper[up], -lp.constraint_lower[down]]), A[equal],
        lp.constraint_lower[equal], bounds=np.stack([lp.lower, lp.upper], axis=1), method="highs",
    )  # fmt: skip
    y = np.zeros(len(A))
    y[equal] = found.eqlin.marginals
    y[up] += found.ineqlin.marginals[: up.sum()]
    y[down] -= found.ineqlin.marginals[up.sum() :]
    return found.x, y


def parts(lp: LinearProgram) -> tuple:
    return lp.A, lp.c, lp.constraint_lower, lp.constraint_upper, lp.lower, lp.upper


def residual(lp, x, y) -> float:
    return lp.certificate(PrimalDual(x, y)).residual


@pytest.mark.parametrize("seed", range(12))
def test_perturbed_vertex_is_restored(seed):
    lp = random_program(seed)
    x_true, y_true = highs_point(lp)
    rng = np.random.default_rng(seed)
    inside = (x_true > lp.lower) & (x_true < lp.upper)
    x = np.where(inside, x_true + 1e-4 * rng.standard_normal(len(x_true)), x_true)
    y = np.where(y_true != 0, y_true + 1e-4 * rng.standard_normal(len(y_true)), 0.0)
    assert residual(lp, x, y) > 1e-6
    x_new, y_new = finish(*parts(lp), x, y, rounds=1)
    assert residual(lp, x_new, y_new) < 1e-13
    np.testing.assert_allclose(x_new, x_true, atol=1e-9)
    np.testing.assert_allclose(y_new, y_true, atol=1e-9)


def early_point(seed: int) -> tuple[LinearProgram, np.ndarray, np.ndarray]:
    """Where Halpern PDHG is at 1e-2: with columns and rows on the face that do not belong there."""
    lp = random_program(100 + seed, 40, 70)
    scaled = scale_program(lp)
    work = engine.Work(scaled, engine.Options())
    rng = np.random.default_rng(seed)
    state = engine.start(work, np.zeros(70), np.zeros(40), rng)
    engine.advance(work, state, 20_000, tol=1e-2)
    return lp, *scaled.to_user(state.x_hat, state.y_hat)


def test_rounds_repair_wrong_faces():
    once, often = 0, 0
    for seed in range(12):
        lp, x, y = early_point(seed)
        once += residual(lp, *finish(*parts(lp), x, y, rounds=1)) < 1e-12
        found = attempt(*parts(lp), x, y)
        assert found.work > 0
        assert len(found.candidates) == 3
        often += residual(lp, *found.candidates[0]) < 1e-12
    assert often >= once + 4


def transport(n: int, rng: np.random.Generator, degenerate: bool) -> tuple[LinearProgram, ...]:
    """A transport program whose optimal face is a tree that the costs are built on."""
    supply = np.ones(n) if degenerate else 0.5 + rng.random(n)
    demand = supply[rng.permutation(n)]
    u, v = rng.random(n), rng.random(n)
    # North-west corner: a tree of at most 2n - 1 cells.
    plan, i, j, a, b = np.zeros((n, n)), 0, 0, supply.copy(), demand.copy()
    while i < n and j < n:
        move = min(a[i], b[j])
        plan[i, j] = move
        a[i], b[j] = a[i] - move, b[j] - move
        i, j = (i + 1, j) if a[i] <= b[j] else (i, j + 1)
    cost = u[:, None] + v + np.where(plan > 0, 0.0, 0.1 + rng.random((n, n)))
    A = sp.vstack(
        [sp.kron(sp.eye_array(n), np.ones((1, n))), sp.kron(np.ones((1, n)), sp.eye_array(n))]
    )
    sides = np.concatenate([supply, demand])
    lp = LinearProgram(cost.ravel(), A, sides, sides, 0.0, None)
    return lp, plan.ravel(), np.concatenate([u, v])


@pytest.mark.parametrize("degenerate", [False, True])
def test_forests_are_exact_and_without_fill(degenerate):
    rng = np.random.default_rng(5)
    n = 60
    lp, plan, y = transport(n, rng, degenerate)
    x = np.where(plan > 0, np.maximum(plan + 1e-3 * rng.standard_normal(n * n), 1e-4), 0.0)
    found = attempt(*parts(lp), x, y + 1e-3 * rng.standard_normal(2 * n))
    assert residual(lp, *found.candidates[0]) < 1e-13
    assert found.fill <= 2 * np.count_nonzero(plan)  # one nonzero an edge of the bipartite graph
    assert found.rounds == 1


def test_fill_is_refused_before_factorising():
    """All columns free, random pattern: a factor would be dense; LSMR takes a few products."""
    rng = np.random.default_rng(0)
    n = 3000
    A = sp.random_array((n, n), density=7 / n, rng=rng, format="csr") + sp.eye_array(n) * 3
    x = 1.0 + rng.random(n)
    y = rng.standard_normal(n)
    lp = LinearProgram(A.T @ y, A, A @ x, A @ x, 0.0, None)
    x_near, y_near = x + 1e-3 * rng.random(n), y + 1e-3 * rng.random(n)
    found = attempt(*parts(lp), x_near, y_near, max_flops=1e6)
    assert found.fill == 0
    assert found.work < 5e3 * lp.nnz
    assert residual(lp, *found.candidates[0]) < 1e-2 * residual(lp, x_near, y_near)
    direct = attempt(*parts(lp), x_near, y_near, max_flops=1e12)
    assert direct.fill > 1_000_000
    assert residual(lp, *direct.candidates[0]) < 1e-12
    # The limit of nonzeros works as well, without the memory for them.
    assert attempt(*parts(lp), x_near, y_near, max_fill=10 * lp.nnz).fill == 0


def test_quadratic_against_cvxpy():
    rng = np.random.default_rng(3)
    m, n = 6, 15
    root = rng.standard_normal((8, n))
    Q, A = root.T @ root, rng.standard_normal((m, n))
    Q[:, 3] = Q[3] = 0.0  # a variable without curvature
    b, c = A @ rng.random(n), rng.standard_normal(n)
    qp = QuadraticProgram(Q, c, A, b, None, 0.0, 2.0)
    v = cp.Variable(n)
    rows = A @ v >= b
    cp.Problem(
        cp.Minimize(0.5 * cp.quad_form(v, cp.psd_wrap(Q)) + c @ v), [rows, v >= 0, v <= 2]
    ).solve(solver=cp.CLARABEL)
    x = np.where(v.value < 1e-5, 0.0, np.where(v.value > 2 - 1e-5, 2.0, v.value + 1e-4))
    y = np.where(rows.dual_value < 1e-5, 0.0, rows.dual_value + 1e-4)
    assert residual(qp, x, y) > 1e-6
    x_new, y_new = finish(*parts(qp), x, y, Q=qp.Q)
    assert residual(qp, x_new, y_new) < 1e-9
    np.testing.assert_allclose(x_new, v.value, atol=1e-5)


def test_nothing_to_correct():
    lp = LinearProgram([1.0, 2.0], [[1.0, 1.0]], None, 5.0, 0.0, 1.0)
    assert finish(*parts(lp), np.zeros(2), np.zeros(1)) is None
    empty = LinearProgram([1.0], None, None, None, 0.0, 1.0)
    assert finish(*parts(empty), np.zeros(1), np.zeros(0)) is None


def pattern(matrix) -> sp.csr_array:
    both = sp.csr_array(abs(matrix) + abs(matrix.T))
    both = sp.csr_array(both - sp.diags_array(both.diagonal()))
    both.eliminate_zeros()
    both.sort_indices()
    return both


def exact_fill(matrix, order) -> int:
    """Eliminate with sets."""
    n, place = len(order), np.argsort(order)
    entries = matrix.tocoo()
    behind = [set() for _ in range(n)]
    for i, j in zip(place[entries.row], place[entries.col], strict=True):
        behind[min(i, j)].add(int(max(i, j)))
    for k in range(n):
        if behind[k]:
            nearest = min(behind[k])
            behind[nearest] |= behind[k] - {nearest}
    return sum(map(len, behind))


@pytest.mark.parametrize("density", [0.01, 0.03, 0.1, 0.4])
def test_order_is_a_permutation_with_bounded_fill(density):
    rng = np.random.default_rng(int(1000 * density))
    for n in (1, 2, 17, 60, 90):
        matrix = pattern(sp.random_array((n, n), density=density, rng=rng))
        order, fill, flops = minimum_degree(
            matrix.indptr.astype(np.int64), matrix.indices.astype(np.int32), 10**6, 1e18
        )
        assert sorted(order) == list(range(n))
        exact = exact_fill(matrix, order)
        assert exact <= fill <= 1.5 * exact
        natural = exact_fill(matrix, np.arange(n))
        assert exact <= natural
        assert flops >= fill
        if fill > 2:
            refused, *_ = minimum_degree(
                matrix.indptr.astype(np.int64), matrix.indices.astype(np.int32), fill - 1, 1e18
            )
            assert len(refused) == 0


@pytest.mark.parametrize(
    ("x", "y"),
    [
        ([0.0, 0.0], [0.5]),  # nothing may move, the row is violated: the multiplier rises to 1
        ([0.8, 0.8], [0.0]),  # no row binds: down along the costs to the next bound
        ([0.3, 0.0], [0.2]),
    ],
)
def test_contradictory_faces_lead_to_the_next_bound(x, y):
    lp = LinearProgram([1.0, 2.0], [[1.0, 1.0]], 1.0, None, 0.0, None)
    found = attempt(*parts(lp), np.array(x), np.array(y))
    np.testing.assert_allclose(found.candidates[0][0], [1.0, 0.0], atol=1e-12)
    np.testing.assert_allclose(found.candidates[0][1], [1.0], atol=1e-12)


def test_dense_rows_come_last():
    """Their lists would be read with every neighbour; the bound on the fill still holds."""
    rng = np.random.default_rng(0)
    n = 400
    face = sp.hstack([sp.random_array((n, n), density=0.003, rng=rng), np.ones((n, 2))])
    matrix = pattern(sp.block_array([[None, face.T], [face, None]]))
    order, fill, _ = minimum_degree(
        matrix.indptr.astype(np.int64), matrix.indices.astype(np.int32), 10**7, 1e18
    )
    assert sorted(order) == list(range(matrix.shape[0]))
    assert sorted(order[-2:]) == [n, n + 1]
    assert exact_fill(matrix, order) <= fill
