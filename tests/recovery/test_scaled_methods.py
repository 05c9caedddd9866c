"""Scaled gradient descent and the scaled sub-gradient method."""

from __future__ import annotations

import numpy as np
import pytest

from lowrank_opt.core import ParameterError, Status
from lowrank_opt.recovery import (
    AlternatingMinimization,
    LowRankMatrix,
    LowRankPlusSparse,
    MatrixCompletion,
    MatrixSensing,
    Observations,
    ScaledGD,
    ScaledSubgradientMethod,
)
from lowrank_opt.recovery import kernels_scaled as kernels
from lowrank_opt.recovery import reference_scaled as reference


def gaussian(
    N=900, p=0.0, *, d=24, r=3, rank=None, kappa=1.0, noise=0.0, symmetric=False, loss="l1",
    seed=0, dtype=float, unit=1.0,
):  # fmt: skip
    """Normal measurements of a matrix with condition number kappa, a part p of them wrong."""
    rng = np.random.default_rng(seed)
    U = np.linalg.qr(rng.standard_normal((d, r)))[0]
    V = U if symmetric else np.linalg.qr(rng.standard_normal((d, r)))[0]
    X = unit * (U * np.geomspace(1, 1 / kappa, r)) @ V.T
    A = rng.standard_normal((N, d, d))
    y = np.einsum("pij,ij->p", A, X) + unit * noise * rng.standard_normal(N)
    wrong = rng.random(N) < p
    y[wrong] += 10 * unit * rng.standard_normal(np.count_nonzero(wrong))
    problem = MatrixSensing.from_dense(
        A.astype(dtype), y.astype(dtype), rank=rank or r, symmetric=symmetric, loss=loss
    )
    return problem, X


def entry_data(side=200, r=3, part=0.6, p=0.0, *, size=1.0, kappa=1.0, seed=0):
    """A matrix, and it with NaN and wrong entries of up to `size` times the mean one."""
    rng = np.random.default_rng(seed)
    U, V = (np.linalg.qr(rng.standard_normal((side, r)))[0] for _ in range(2))
    X = (U * np.linspace(1, 1 / kappa, r)) @ V.T
    Y = X.copy()
    wrong = rng.random(X.shape) < p
    Y[wrong] += size * np.abs(X).mean() * rng.uniform(-1, 1, np.count_nonzero(wrong))
    return X, np.where(rng.random(X.shape) < part, Y, np.nan)


def error(x, X):
    return np.linalg.norm(x.U @ x.V.T - X) / np.linalg.norm(X)


def spread(nits):
    """Largest over smallest; 25 per cent either way of a common value is 1.25 / 0.75."""
    return max(nits) / min(nits)


# -- iterations do not depend on the condition number ----------------------------------------------


@pytest.mark.parametrize(
    ("solver", "loss", "p"),
    [
        (ScaledSubgradientMethod(check_every=1), "l1", 0.1),
        (ScaledSubgradientMethod(check_every=1, schedule="polyak", f_min=0.0), "l1", 0.0),
        (ScaledGD(check_every=1), "squared", 0.0),
    ],
    ids=["geometric", "polyak", "gradient descent"],
)
@pytest.mark.parametrize("symmetric", [True, False])
def test_sensing_iterations_do_not_depend_on_the_condition_number(solver, loss, p, symmetric):
    nits = []
    for kappa in (1, 5, 20):
        problem, X = gaussian(N=1100, p=p, kappa=kappa, loss=loss, symmetric=symmetric)
        result = solver.solve(problem)
        assert result.success
        assert error(result.x, X) < 1e-5
        nits.append(result.nit)
    assert spread(nits) <= 1.25


def test_completion_iterations_do_not_depend_on_the_condition_number():
    nits = []
    for kappa in (1, 5, 20):
        X, Y = entry_data(300, 5, 0.4, kappa=kappa)
        problem = MatrixCompletion.from_dense(Y, rank=5)
        result = ScaledGD(check_every=1).solve(problem)
        assert result.success
        assert error(result.x, X) < 1e-5
        nits.append(result.nit)
    assert spread(nits) <= 1.25


def test_robust_pca_iterations_do_not_depend_on_the_condition_number():
    nits = []
    for kappa in (1, 5, 10):
        X, Y = entry_data(300, 5, 1.0, p=0.02, size=40.0, kappa=kappa)
        problem = LowRankPlusSparse.from_dense(Y, rank=5, outlier_fraction=0.03)
        result = ScaledGD(check_every=1).solve(problem)
        assert result.success
        assert error(result.x, X) < 1e-5
        nits.append(result.nit)
    assert spread(nits) <= 1.25


def test_gradient_descent_is_as_fast_as_promised():
    """The error falls at least by the factor 1 - 0.6 eta per iteration."""
    problem, X = gaussian(N=4000, d=16, r=2, loss="squared", kappa=5)
    errors = []

    def callback(intermediate_result):
        errors.append(error(intermediate_result.x, X))

    ScaledGD(eta=0.5, check_every=1, max_iter=25, tol=1e-9).solve(problem, callback=callback)
    assert (errors[24] / errors[4]) ** (1 / 20) < 1 - 0.6 * 0.5


# -- one iteration is the formula ------------------------------------------------------------------


def dense_measurements(problem):
    d = problem.shape[0]
    return problem.measurements.A[:, : d * d].reshape(-1, d, d), problem.targets


@pytest.mark.parametrize("damping", [0.0, 0.3])
@pytest.mark.parametrize("symmetric", [True, False])
def test_scaled_gd_iteration(symmetric, damping):
    problem, _ = gaussian(N=80, d=6, r=2, loss="squared", symmetric=symmetric, noise=1.0)
    A, y = dense_measurements(problem)
    solver = ScaledGD(eta=0.4, damping=damping)
    state = solver.init(problem)
    U, V = state.U.copy(), (state.U if symmetric else state.V).copy()
    lam = damping * np.linalg.norm(U @ V.T, 2) * np.eye(2)
    Q = np.einsum("p,pij->ij", np.einsum("pij,ij->p", A, U @ V.T) - y, A) / len(y)
    Q = (Q + Q.T) / 2 if symmetric else Q
    step = 0.4 / np.mean(A**2)
    state = solver.step(problem, state)
    np.testing.assert_allclose(state.U, U - step * Q @ V @ np.linalg.inv(V.T @ V + lam), rtol=1e-9)
    if not symmetric:
        expected = V - step * Q.T @ U @ np.linalg.inv(U.T @ U + lam)
        np.testing.assert_allclose(state.V, expected, rtol=1e-9)


@pytest.mark.parametrize("schedule", ["geometric", "polyak"])
@pytest.mark.parametrize("symmetric", [True, False])
def test_scaled_subgradient_iteration(symmetric, schedule):
    problem, _ = gaussian(N=80, d=6, r=2, symmetric=symmetric, p=0.1)
    A, y = dense_measurements(problem)
    solver = ScaledSubgradientMethod(
        schedule=schedule, eta0=0.7, rho=0.9, damping=0.2, trim=0.2,
        f_min=0.05 if schedule == "polyak" else None,
    )  # fmt: skip
    state = solver.init(problem)
    unit = np.linalg.norm(state.U @ (state.U if symmetric else state.V).T)
    lam = 0.2 * np.linalg.norm(state.U @ (state.U if symmetric else state.V).T, 2) * np.eye(2)
    for t in range(3):
        U, V = state.U.copy(), (state.U if symmetric else state.V).copy()
        e = np.einsum("pij,ij->p", A, U @ V.T) - y
        Q = np.einsum("p,pij->ij", np.sign(e), A) / len(y)
        Q = (Q + Q.T) / 2 if symmetric else Q
        GV, GU = (np.linalg.inv(F.T @ F + lam) for F in (V, U))
        square = np.trace(Q @ V @ GV @ V.T @ Q.T) + np.trace(Q.T @ U @ GU @ U.T @ Q)
        eta = 0.7 * unit * 0.9**t / np.sqrt(square)
        if schedule == "polyak":
            eta = 0.7 * (np.mean(np.abs(e)) - 0.05) / square
        state = solver.step(problem, state)
        np.testing.assert_allclose(state.U, U - eta * Q @ V @ GV, rtol=1e-8, atol=1e-12)
        if not symmetric:
            np.testing.assert_allclose(state.V, V - eta * Q.T @ U @ GU, rtol=1e-8, atol=1e-12)


def test_robust_pca_iteration():
    _, Y = entry_data(30, 2, 0.8, p=0.1, size=5.0)
    problem = LowRankPlusSparse.from_dense(Y, rank=2, outlier_fraction=0.15)
    obs = problem.observations
    rows = obs.rows()

    def without_largest(e, fraction):
        bounds = (reference.line_thresholds(line, 30, e, fraction) for line in (rows, obs.indices))
        return reference.drop_largest(rows, obs.indices, e, *bounds)

    solver = ScaledGD()
    state = solver.init(problem)
    M = np.zeros((30, 30))
    M[rows, obs.indices] = without_largest(obs.values, 0.15) / (obs.nnz / 900)
    u, s, vt = np.linalg.svd(M)
    np.testing.assert_allclose(state.U @ state.V.T, (u[:, :2] * s[:2]) @ vt[:2], atol=1e-10)
    U, V = state.U.copy(), state.V.copy()
    Z = np.zeros((30, 30))
    e = (U @ V.T)[rows, obs.indices] - obs.values
    Z[rows, obs.indices] = without_largest(e, 0.3) / (obs.nnz / 900)
    state = solver.step(problem, state)
    np.testing.assert_allclose(state.U, U - 0.5 * Z @ V @ np.linalg.inv(V.T @ V), atol=1e-12)
    np.testing.assert_allclose(state.V, V - 0.5 * Z.T @ U @ np.linalg.inv(U.T @ U), atol=1e-12)


# -- recovery --------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", [1.0, 0.5])
def test_robust_pca_recovers(part):
    X, Y = entry_data(200, 3, part, p=0.05, size=10.0, kappa=2.0)
    problem = LowRankPlusSparse.from_dense(Y, rank=3, outlier_fraction=0.08)
    result = ScaledGD(tol=1e-10).solve(problem)
    assert result.success
    assert error(result.x, X) < 1e-8
    wrong = np.abs(Y - X) > 1e-6
    found = problem.sparse_part(result.x, threshold=1e-6).toarray() != 0
    assert not (found & ~wrong).any()
    assert (found & wrong).sum() == (wrong & ~np.isnan(Y)).sum()


def test_robust_pca_without_outliers_is_completion():
    _, Y = entry_data(100, 2, 0.5)
    robust = LowRankPlusSparse.from_dense(Y, rank=2, outlier_fraction=0.0)
    plain = MatrixCompletion.from_dense(Y, rank=2)
    results = [ScaledGD(tol=1e-11).solve(p) for p in (robust, plain)]
    assert results[0].success
    assert results[1].success
    np.testing.assert_allclose(results[0].x.to_dense(), results[1].x.to_dense(), atol=1e-8)


def test_weighted_completion():
    X, Y = entry_data(100, 2, 0.5)
    weights = np.random.default_rng(1).uniform(3.0, 6.0, Y.shape)
    problem = MatrixCompletion.from_dense(Y, rank=2, weights=weights)
    result = ScaledGD(tol=1e-9).solve(problem)
    assert result.success
    assert error(result.x, X) < 1e-8


def test_noisy_completion_is_the_least_squares_fit():
    X, Y = entry_data(80, 2, 0.6)
    Y = Y + 0.1 * np.abs(X).mean() * np.random.default_rng(2).standard_normal(X.shape)
    problem = MatrixCompletion.from_dense(Y, rank=2)
    ours = ScaledGD(tol=1e-9).solve(problem)
    theirs = AlternatingMinimization(tol=1e-9, random_state=0).solve(problem)
    assert ours.success
    np.testing.assert_allclose(ours.x.to_dense(), theirs.x.to_dense(), atol=1e-8)


def test_robust_sensing_of_entries():
    X, Y = entry_data(120, 3, 0.5, p=0.1, size=20.0, kappa=3.0)
    problem = LowRankPlusSparse.from_dense(Y, rank=3)
    result = ScaledSubgradientMethod(trim=0.15).solve(problem)
    assert result.success
    assert error(result.x, X) < 1e-5


def test_damping_is_needed_when_the_rank_is_far_too_large():
    """Without damping, or with very little, the Gram matrices are all but singular."""
    problem, X = gaussian(N=1800, d=24, rank=23, kappa=5.0)
    errors = {}
    for damping in (0.0, 1e-8, 1e-2):
        solver = ScaledSubgradientMethod(
            schedule="polyak", f_min=0.0, damping=damping, max_iter=300, check_every=10
        )
        result = solver.solve(problem)
        errors[damping] = error(result.x, X)
        assert (result.status is Status.DIVERGED) == (damping < 1e-6)
        assert np.isfinite(result.x.U).all()
        if damping < 1e-6:
            assert "damping" in result.message
    assert errors[1e-2] < 1e-3
    assert min(errors[0.0], errors[1e-8]) > 0.1


def test_damping_does_not_slow_down_the_true_rank():
    problem, _ = gaussian(N=1100, p=0.1, kappa=10)
    nits = [
        ScaledSubgradientMethod(damping=damping, check_every=1).solve(problem).nit
        for damping in (0.0, 1e-4, 1e-2)
    ]
    assert spread(nits) < 1.1


def test_the_start_leaves_out_huge_measurements():
    problem, X = gaussian(N=3000, p=0.2)
    targets = np.where(np.abs(problem.targets) > 8, 1e6, problem.targets)
    problem = MatrixSensing(problem.measurements, targets, rank=3)
    state = ScaledSubgradientMethod(trim=0.25).init(problem)
    assert error(LowRankMatrix(state.U, state.V), X) < 0.7
    state = ScaledSubgradientMethod(trim=0.0).init(problem)
    assert error(LowRankMatrix(state.U, state.V), X) > 1e3


# -- conduct ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("solver", "make"),
    [
        (ScaledSubgradientMethod(tol=1e-7), lambda: gaussian(p=0.1)),
        (ScaledGD(tol=1e-7), lambda: gaussian(loss="squared")),
    ],
    ids=["subgradient", "gradient"],
)
def test_warm_starts(solver, make):
    problem, _ = make()
    cold = solver.solve(problem)
    assert cold.success
    again = solver.solve(problem, x0=cold.x)
    assert again.nit == 0
    rng = np.random.default_rng(0)
    near = tuple(F * (1 + 1e-3 * rng.standard_normal(F.shape)) for F in (cold.x.U, cold.x.V))
    warm = solver.solve(problem, x0=near)
    assert warm.success
    assert warm.nit < 0.8 * cold.nit


def test_states_do_not_depend_on_the_checks():
    sensing, _ = gaussian(N=300, d=8, p=0.1)
    _, Y = entry_data(40, 2, 0.8, p=0.05, size=20.0)
    pca = LowRankPlusSparse.from_dense(Y, rank=2, outlier_fraction=0.1)
    for solver, problem in ((ScaledSubgradientMethod(), sensing), (ScaledGD(), pca)):
        states = [
            type(solver)(max_iter=30, tol=0.0, check_every=n).solve(problem).state
            for n in (1, 7, 30)
        ]
        for state in states[1:]:
            assert state.nit == 30
            assert np.array_equal(state.U, states[0].U)
            assert np.array_equal(state.V, states[0].V)


def test_answers_scale_with_the_data():
    for solver, loss in ((ScaledSubgradientMethod(), "l1"), (ScaledGD(), "squared")):
        results = [
            solver.set_params(max_iter=20, tol=0.0).solve(
                gaussian(N=400, d=8, r=2, unit=unit, loss=loss)[0]
            )
            for unit in (1.0, 256.0)
        ]
        np.testing.assert_allclose(
            results[1].x.to_dense(), 256 * results[0].x.to_dense(), rtol=1e-7
        )


@pytest.mark.parametrize(
    ("solver", "loss"),
    [(ScaledSubgradientMethod(tol=1e-5), "l1"), (ScaledGD(tol=1e-5), "squared")],
    ids=["subgradient", "gradient"],
)
def test_float32(solver, loss):
    problem, X = gaussian(loss=loss, dtype=np.float32)
    result = solver.solve(problem)
    assert result.success
    assert result.x.dtype == np.float32
    assert error(result.x, X) < 1e-4


@pytest.mark.parametrize(
    ("solver", "loss"),
    [(ScaledSubgradientMethod(), "l1"), (ScaledGD(), "squared")],
    ids=["subgradient", "gradient"],
)
def test_zero_data(solver, loss):
    A = np.random.default_rng(0).standard_normal((30, 4, 4))
    result = solver.solve(MatrixSensing.from_dense(A, np.zeros(30), rank=2, loss=loss))
    assert result.success
    assert result.nit == 0
    assert not result.x.to_dense().any()


def test_divergence_returns_the_last_finite_point():
    problem, _ = gaussian(N=300, d=8, loss="squared")
    result = ScaledGD(eta=30.0).solve(problem)
    assert result.status is Status.DIVERGED
    assert np.isfinite(result.x.U).all()
    assert "eta" in result.message


def test_stalled_runs_say_why():
    problem, _ = gaussian(noise=0.1, p=0.1)
    result = ScaledSubgradientMethod().solve(problem)
    assert result.status is Status.STALLED
    assert "noise" in result.message
    result = ScaledSubgradientMethod(schedule="polyak", f_min=0.0).solve(problem)
    assert result.status is Status.STALLED
    assert "No progress" in result.message
    X, Y = entry_data(60, 2, 1.0, p=0.05, size=20.0)
    Y = Y + 0.1 * np.abs(X).mean() * np.random.default_rng(2).standard_normal(X.shape)
    noisy = LowRankPlusSparse.from_dense(Y, rank=2, outlier_fraction=0.1)
    result = ScaledGD().solve(noisy)
    assert result.status is Status.STALLED
    assert "noise" in result.message
    assert error(result.x, X) < 0.1


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"reg": 0.1}, "reg=0"),
        ({"biases": True}, "biases=False"),
        ({"center": True}, "center=False"),
        ({"nonnegative": True}, "nonnegative=False"),
        ({"loss": "huber"}, "loss='squared'"),
        ({"reg": 0.1, "penalty": "nuclear"}, "penalty='ridge'"),
    ],
)
def test_completion_with_anything_else_is_refused(options, match):
    _, Y = entry_data(12, 2, 0.9)
    problem = MatrixCompletion.from_dense(np.abs(Y), rank=2, **options)
    with pytest.raises(TypeError, match=match):
        ScaledGD().solve(problem)


def test_robust_problems_need_a_fraction():
    _, Y = entry_data(12, 2, 0.9)
    with pytest.raises(TypeError, match="outlier_fraction"):
        ScaledGD().solve(LowRankPlusSparse.from_dense(Y, rank=2))
    l1, _ = gaussian(N=60, d=5)
    with pytest.raises(TypeError, match="loss='squared'"):
        ScaledGD().solve(l1)
    squared, _ = gaussian(N=60, d=5, loss="squared")
    with pytest.raises(TypeError, match="loss='l1'"):
        ScaledSubgradientMethod().solve(squared)


@pytest.mark.parametrize(
    ("solver", "params"),
    [
        (ScaledGD, {"eta": 0.0}), (ScaledGD, {"damping": -1.0}),
        (ScaledSubgradientMethod, {"rho": 1.0}), (ScaledSubgradientMethod, {"trim": 1.0}),
        (ScaledSubgradientMethod, {"eta0": 0.0}), (ScaledSubgradientMethod, {"damping": -0.1}),
        (ScaledSubgradientMethod, {"schedule": "two-phase"}),
        (ScaledSubgradientMethod, {"schedule": "polyak"}),
    ],
)  # fmt: skip
def test_bad_parameters(solver, params):
    problem, _ = gaussian(N=60, d=5, loss="squared" if solver is ScaledGD else "l1")
    name = "f_min" if params.get("schedule") == "polyak" else next(iter(params))
    with pytest.raises(ParameterError, match=name):
        solver(**params).solve(problem)


# -- kernels ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("fraction", [0.0, 0.05, 0.3, 0.99, 1.0])
@pytest.mark.parametrize("case", ["random", "ties", "sorted", "empty row", "one"])
def test_selection_kernels_equal_their_twins(case, fraction, dtype):
    rng = np.random.default_rng(5)
    m, n = (1, 1) if case == "one" else (23, 31)
    seen = rng.random((m, n)) < 0.7
    seen[0, 0] = True
    if case == "empty row":
        seen[4] = False
        seen[:, 7] = False
        seen[1, 7] = case != "empty row"
    Y = {
        "ties": rng.integers(-2, 3, (m, n)).astype(float),
        "sorted": np.arange(float(m * n)).reshape(m, n) - m * n / 2,
    }.get(case, rng.standard_normal((m, n)))
    with np.errstate(invalid="ignore"):
        X = np.where(seen, Y, np.nan).astype(dtype)
    obs = Observations.from_coo(*np.nonzero(seen), X[seen], (m, n))
    errors, rows = obs.values, obs.rows()
    row_bound, col_bound = np.empty(m, dtype), np.empty(n, dtype)
    kernels.line_thresholds(obs.indptr, np.zeros(0, np.int64), errors, fraction, row_bound)
    kernels.line_thresholds(obs.csc_indptr, obs.perm, errors, fraction, col_bound)
    expected = [
        reference.line_thresholds(lines, size, errors, fraction)
        for lines, size in ((rows, m), (obs.indices, n))
    ]
    np.testing.assert_array_equal(row_bound, expected[0])
    np.testing.assert_array_equal(col_bound, expected[1])
    out = np.empty_like(errors)
    dropped = kernels.drop_largest(obs.indptr, obs.indices, errors, row_bound, col_bound, out)
    kept = reference.drop_largest(rows, obs.indices, errors, row_bound, col_bound)
    np.testing.assert_array_equal(out, kept)
    assert dropped == np.count_nonzero(errors) - np.count_nonzero(kept)


def test_quickselect():
    rng = np.random.default_rng(0)
    for size in (1, 2, 3, 10, 101):
        for values in (
            rng.standard_normal(size), rng.integers(0, 3, size).astype(float), np.zeros(size),
            np.arange(size)[::-1].astype(float),
        ):  # fmt: skip
            for k in {1, (size + 1) // 2, size}:
                found = kernels._kth_largest(values.copy(), size, k)
                assert found == np.sort(values)[::-1][k - 1]


@pytest.mark.parametrize("solver", [ScaledSubgradientMethod(), ScaledGD()])
def test_an_unknown_rank_is_refused(solver):
    _, Y = entry_data(30, 2, 0.8)
    problem = LowRankPlusSparse.from_dense(Y, rank="auto", outlier_fraction=0.1)
    with pytest.raises(TypeError, match="a given rank"):
        solver.solve(problem)


@pytest.mark.parametrize(
    ("solver", "loss"), [(ScaledSubgradientMethod(), "l1"), (ScaledGD(), "squared")]
)
@pytest.mark.parametrize("columns", [0, 1])
def test_a_start_with_too_few_columns_gets_more(solver, loss, columns):
    problem, X = gaussian(r=2, loss=loss)
    U, s, Vt = np.linalg.svd(X)
    result = solver.solve(problem, x0=(U[:, :columns], (s[:columns, None] * Vt[:columns]).T))
    assert result.success
    assert error(result.x, X) < 1e-5


def test_infinite_parameters_are_refused():
    problem, _ = gaussian(N=60, d=5)
    for params in ({"eta0": np.inf}, {"damping": np.inf}):
        with pytest.raises(ParameterError, match=next(iter(params))):
            ScaledSubgradientMethod(**params).solve(problem)


def test_resuming_between_two_checks_changes_nothing():
    sensing, _ = gaussian(N=300, d=8, p=0.1)
    squared, _ = gaussian(N=300, d=8, loss="squared", noise=0.1)
    for solver, problem in (
        (ScaledSubgradientMethod(check_every=10, tol=1e-6), sensing),
        (ScaledGD(check_every=10, tol=1e-7), squared),
    ):
        whole = solver.solve(problem)
        for nit in (3, 17):
            part = type(solver)(check_every=10, max_iter=nit, tol=solver.tol).solve(problem)
            resumed = solver.solve(problem, state=part.state)
            assert part.nit == nit
            assert resumed.nit == whole.nit
            assert resumed.residual == whole.residual
            assert np.array_equal(resumed.x.U, whole.x.U)


def test_rank_at_the_gap_is_reported():
    problem, _ = gaussian(p=0.1)
    assert ScaledSubgradientMethod().solve(problem).inner["rank_at_gap"] == 3
