"""The sub-gradient method with a small start, and the parts it shares with the scaled methods.

Final errors are compared with a table of earlier runs of the same method in another implementation
(d = 20, rank 3, singular values 1, N = 600, outliers N(0, 10²), 1000 steps, first step 0.25).
"""

from __future__ import annotations

import math
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.sparse as sp

from lowrank_opt.core import AccuracyWarning, Checkpoint, ParameterError, Status
from lowrank_opt.recovery import (
    LowRankMatrix,
    LowRankPlusSparse,
    MatrixCompletion,
    MatrixSensing,
    SubgradientMethod,
)
from lowrank_opt.recovery import _spectral_start as start


def gaussian(
    N=600, p=0.1, *, d=20, r=3, rank=None, noise=0.0, symmetric=True, seed=0, unit=1.0,
    dtype=float, values=None,
):  # fmt: skip
    """Normal measurements, a part p of them with normal errors of size 10; and the matrix."""
    rng = np.random.default_rng(seed)
    U = np.linalg.qr(rng.standard_normal((d, r)))[0]
    V = U if symmetric else np.linalg.qr(rng.standard_normal((d, r)))[0]
    X = unit * (U * (np.ones(r) if values is None else values)) @ V.T
    A = rng.standard_normal((N, d, d))
    y = np.einsum("pij,ij->p", A, X) + unit * noise * rng.standard_normal(N)
    wrong = rng.random(N) < p
    y[wrong] += 10.0 * unit * rng.standard_normal(np.count_nonzero(wrong))
    problem = MatrixSensing.from_dense(
        A.astype(dtype), y.astype(dtype), rank=rank or r, symmetric=symmetric
    )
    return problem, X


def entries(side=120, r=3, part=0.4, p=0.05, *, rank=None, seed=0, dtype=float):
    """Some entries of a matrix of rank r, a part p of them wrong by up to the largest entry."""
    rng = np.random.default_rng(seed)
    U, V = (np.linalg.qr(rng.standard_normal((side, r)))[0] for _ in range(2))
    X = U @ V.T
    Y = np.where(rng.random(X.shape) < part, X, np.nan)
    wrong = rng.random(X.shape) < p
    Y[wrong] += rng.uniform(-1, 1, np.count_nonzero(wrong)) * np.abs(X).max()
    return LowRankPlusSparse.from_dense(Y.astype(dtype), rank=rank or r), X


def error(x, X):
    return np.linalg.norm(x.U @ x.V.T - X) / np.linalg.norm(X)


def run(problem, **params):
    return SubgradientMethod(**params).solve(problem)


# -- final errors ----------------------------------------------------------------------------------

GEOMETRIC = {"schedule": "geometric", "max_iter": 1000, "tol": 0.0, "check_every": 1000}


@pytest.mark.filterwarnings("ignore:rho=")
@pytest.mark.parametrize(
    ("data", "params", "expected"),
    [
        ({"rank": 20}, {}, 1.2e-5),
        ({"rank": 3}, {}, 6.4e-6),
        ({"rank": 20, "N": 1200, "p": 0.3}, {}, 6.2e-6),
        ({"rank": 20}, {"alpha": 1e-1}, 2.8e-3),
        ({"rank": 20}, {"alpha": 1e-3}, 1.0e-3),
        ({"rank": 20}, {"rho": 0.97}, 1.0),  # frozen at 0
        ({"rank": 20}, {"alpha": 1e-10}, 0.63),  # the same for one of the directions
        ({"rank": 20, "p": 0.0, "noise": 1.0}, {}, 0.22),
        ({"rank": 20, "p": 0.0, "noise": 1.0, "N": 2400}, {}, 0.094),
    ],
)
def test_error_after_a_thousand_geometric_steps(data, params, expected):
    errors = []
    for seed in range(2):
        problem, X = gaussian(seed=seed, **data)
        # The table's first step is 0.25 over the norm of the sub-gradient.
        unit = SubgradientMethod(schedule="geometric").init(problem).unit
        result = run(problem, **{**GEOMETRIC, "eta0": 0.25 / unit, **params})
        errors.append(error(result.x, X))
    assert expected / 5 < np.median(errors) < 5 * expected
    if expected == 1.0:
        assert min(errors) > 0.95


def test_loss_schedule_without_outliers():
    problem, X = gaussian(p=0.0, rank=20)
    assert error(run(problem, schedule="loss", max_iter=400, tol=0.0).x, X) < 5 * 2.7e-6


def test_half_of_the_measurements_wrong():
    problem, X = gaussian(N=1200, p=0.5, rank=20)
    assert error(run(problem, **GEOMETRIC).x, X) < 2e-2
    # The best residual of all checks is that of an early iterate.
    problem, X = gaussian(N=1200, p=0.5, rank=19, seed=1)
    assert error(run(problem, **{**GEOMETRIC, "check_every": 20}).x, X) < 1e-3


def test_resuming_between_two_checks_changes_nothing():
    problem, _ = gaussian(N=900, p=0.1)
    whole = run(problem)
    for nit in (33, 401):
        part = run(problem, max_iter=nit)
        resumed = SubgradientMethod().solve(problem, state=part.state)
        assert part.nit == nit
        assert resumed.nit == whole.nit
        assert resumed.residual == whole.residual
        assert np.array_equal(resumed.x.U, whole.x.U)


@pytest.mark.parametrize("symmetric", [True, False])
def test_two_phase_recovers_exactly_at_the_true_rank(symmetric):
    problem, X = gaussian(N=900, symmetric=symmetric)
    result = run(problem, tol=1e-9)
    assert result.status is Status.CONVERGED
    assert error(result.x, X) < 1e-8
    assert result.inner["balance"] < 0.2


def test_entries_at_the_true_rank():
    problem, X = entries()
    result = run(problem, tol=1e-12)
    assert result.success
    assert error(result.x, X) < 1e-11


def test_floor_of_an_over_specified_rank_on_entries_falls_with_alpha():
    problem, X = entries(part=0.5, rank=9)
    errors = {}
    for alpha in (1e-4, 1e-7):
        result = run(problem, alpha=alpha, tol=0.0, max_iter=3000, check_every=3000)
        errors[alpha] = error(result.x, X)
        assert result.status is Status.STALLED
        assert result.inner["rank_at_gap"] == 3
        assert "Rank 3 at the gap of 9" in result.message
        # What is below the gap is the floor.
        cut = LowRankMatrix(*start.truncate_at_gap(result.x.U, result.x.V, alpha))
        assert cut.rank == 3
    assert errors[1e-4] < 50e-4
    assert errors[1e-7] < 50e-7
    assert 100 < errors[1e-4] / errors[1e-7] < 1e5


def emergence(problem, X, **params):
    """Iterations until the error is below 10 per cent."""
    errors = []
    solver = SubgradientMethod(check_every=1, tol=0.0, max_iter=2000, **params)

    def callback(intermediate_result):
        errors.append(error(intermediate_result.x, X))
        if errors[-1] < 0.1:
            raise StopIteration

    solver.solve(problem, callback=callback)
    return len(errors)


def test_iterations_grow_with_the_logarithm_of_alpha():
    problem, X = gaussian(N=900, rank=6)
    nits = [emergence(problem, X, alpha=alpha) for alpha in (1e-3, 1e-6, 1e-9)]
    steps = np.diff(nits)
    assert steps[0] > 20
    assert abs(steps[0] - steps[1]) <= 0.15 * steps[0]


def test_iterations_do_not_depend_on_the_search_rank():
    nits = []
    for rank in (3, 8, 20):
        problem, X = gaussian(N=900, rank=rank)
        nits.append(emergence(problem, X))
    assert max(nits) <= 1.1 * min(nits)


# -- schedules -------------------------------------------------------------------------------------


@pytest.mark.parametrize("symmetric", [True, False])
def test_one_iteration_is_the_formula(symmetric):
    problem, _ = gaussian(N=40, d=6, r=2, symmetric=symmetric)
    solver = SubgradientMethod(schedule="geometric", eta0=0.3, rho=0.9)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AccuracyWarning)
        state = solver.init(problem)
    A, y = problem.measurements.A[:, :36].reshape(-1, 6, 6), problem.targets
    for t in range(3):
        U, V = state.U.copy(), (state.U if symmetric else state.V).copy()
        Q = np.einsum("p,pij->ij", np.sign(np.einsum("pij,ij->p", A, U @ V.T) - y), A) / len(y)
        if symmetric:
            Q = (Q + Q.T) / 2
        eta = 0.3 * 0.9**t * state.unit / np.linalg.norm(Q)
        state = solver.step(problem, state)
        if symmetric:
            np.testing.assert_allclose(state.U, U - 2 * eta * Q @ U, rtol=1e-9, atol=1e-14)
        else:
            np.testing.assert_allclose(state.U, U - eta * Q @ V, rtol=1e-9, atol=1e-14)
            np.testing.assert_allclose(state.V, V - eta * Q.T @ U, rtol=1e-9, atol=1e-14)


def test_eta0_is_the_growth_of_the_leading_direction():
    problem, _ = gaussian(N=2000, p=0.0, values=[1.0, 0.5, 0.25], symmetric=False)
    solver = SubgradientMethod(eta0=0.2)
    state = solver.init(problem)
    before = np.linalg.norm(state.U, 2)
    assert np.linalg.norm(solver.step(problem, state).U, 2) / before == pytest.approx(1.2, rel=0.02)


def test_loss_schedule_is_gradient_descent_when_q_is_its_mean():
    """With E Q = sqrt(2/pi) (X - X*) / |X - X*| the steps are those of 1/2 |U U' - X*|^2."""
    problem, X = gaussian(p=0.0)
    size = math.sqrt(2 / math.pi)

    def linearize(U, V, y, loss, symmetric):
        delta = U @ V.T - X
        norm = np.linalg.norm(delta)
        left = size * delta @ V / norm
        return SimpleNamespace(value=size * norm, left=left, right=None, norm=size)

    solver = SubgradientMethod(schedule="loss", eta0=0.2)
    state = solver.init(problem)
    s1 = math.pi / (2 * problem.measurements.mean_square * state.unit)
    c = problem.measurements.mean_square
    state.cache = state.cache._replace(operator=SimpleNamespace(linearize=linearize))
    U = state.U.copy()
    for _ in range(40):
        state = solver.step(problem, state)
        U = U - 0.2 / (c * s1) * 2 * (U @ U.T - X) @ U
        np.testing.assert_allclose(state.U, U, rtol=1e-9, atol=1e-15)
    assert s1 == pytest.approx(1.0, rel=0.2)  # the estimate of the largest singular value


def test_polyak_from_a_spectral_start():
    problem, X = gaussian(p=0.0)
    result = run(problem, schedule="polyak", f_min=0.0, tol=1e-10, max_iter=300)
    assert result.success
    assert error(result.x, X) < 1e-9


def test_polyak_needs_the_smallest_value():
    problem, _ = gaussian(N=60, d=5)
    with pytest.raises(ParameterError, match="f_min=None"):
        run(problem, schedule="polyak")


def test_freeze_warning_names_a_rho_that_suffices():
    problem, X = gaussian(rank=20)
    with pytest.warns(AccuracyWarning, match=r"rho=0\.97 .* rho >= 0\.\d+ would suffice") as caught:
        frozen = run(problem, schedule="geometric", rho=0.97, max_iter=600)
    assert error(frozen.x, X) > 0.95
    text = str(caught[0].message)
    rho = float(text.split("rho >= ")[1].split()[0])
    result = run(problem, schedule="geometric", rho=rho, max_iter=3000, tol=1e-4)
    assert error(result.x, X) < 1e-3


@pytest.mark.parametrize("noise", [0.0, 1.0])
def test_no_freeze_warning_when_the_budget_is_large(noise):
    for seed in range(5):
        problem, _ = gaussian(rank=20, noise=noise, seed=seed)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            SubgradientMethod(schedule="geometric", rho=0.995).init(problem)


def test_two_phase_decays_only_after_progress_has_ended():
    problem, _ = gaussian(N=900)
    solver = SubgradientMethod(alpha=1e-12)
    state = solver.init(problem)
    decaying, value = [], []
    for _ in range(700):
        state = solver.step(problem, state)
        decaying.append(state.decaying)
        value.append(state.value)
    begin = decaying.index(True)
    assert all(decaying[begin:])
    # The growth from 1e-12 takes hundreds of iterations in which the loss does not move.
    assert begin > 200
    assert value[begin] < 0.6 * value[0]
    assert state.decay == pytest.approx(0.97 ** (700 - begin), rel=1e-9)


@pytest.mark.parametrize("p", [0.0, 0.15])
@pytest.mark.parametrize("rank", [2, 20])
@pytest.mark.parametrize("symmetric", [True, False])
def test_two_phase_waits_for_every_direction(symmetric, rank, p):
    """The second direction is a millionth of its size when the first one is there."""
    for condition in (3.0, 10.0, 20.0):
        problem, X = gaussian(
            N=1500, p=p, r=2, rank=rank, values=[1.0, 1.0 / condition], symmetric=symmetric, seed=7
        )
        result = run(problem)
        assert result.success
        assert error(result.x, X) < 1e-4
        assert result.nit < 1300


def test_huge_outliers_do_not_keep_the_first_phase_from_ending():
    """They make up all of the loss, which then hardly falls."""
    problem, X = gaussian(N=900)
    targets = np.where(np.abs(problem.targets) > 8, 1e9, problem.targets)
    problem = MatrixSensing(problem.measurements, targets, rank=3, symmetric=True)
    result = run(problem, tol=1e-7)
    assert result.success
    assert error(result.x, X) < 1e-6


@pytest.mark.parametrize("symmetric", [True, False])
def test_an_unknown_rank_is_cut_at_the_gap(symmetric):
    problem, X = gaussian(N=1500, r=2, rank=20, values=[1.0, 0.2], symmetric=symmetric)
    result = run(problem)
    assert result.success
    assert result.x.rank == 2
    assert result.certificate.residual <= 1e-5
    assert error(result.x, X) < 1e-5
    again = SubgradientMethod().solve(problem, x0=result.x)
    assert again.nit == 0
    assert again.x.rank == 2


def test_a_start_without_any_direction_is_none():
    problem, X = gaussian(N=900, symmetric=False)
    cold = run(problem)
    for columns in (0, 3):
        result = SubgradientMethod().solve(problem, x0=(np.zeros((20, columns)),) * 2)
        assert result.nit == cold.nit > 0
        assert error(result.x, X) < 1e-4


def test_a_start_that_vanishes_is_refused():
    problem, _ = gaussian(N=100, d=6)
    with pytest.raises(ParameterError, match="vanish"):
        run(problem, alpha=1e-300)


# -- hold-out --------------------------------------------------------------------------------------


def test_holdout_returns_the_point_with_the_smallest_held_out_loss():
    problem, X = gaussian(N=400, p=0.0, rank=19, noise=1.0)
    params = {"schedule": "geometric", "rho": 0.995, "max_iter": 600, "check_every": 50, "tol": 0.0}
    plain = run(problem, **params)
    held = run(problem, **params, holdout=0.1, random_state=0)
    index = held.state.held
    assert index.size == 40
    A, y = problem.measurements.subset(index), problem.targets[index]

    def held_out_loss(x):
        return np.mean(np.abs(A.apply(x.U, x.V) - y))

    last = held.state
    assert held_out_loss(held.x) == pytest.approx(last.held_value, rel=1e-12)
    assert held_out_loss(held.x) < held_out_loss(LowRankMatrix(last.U, last.U))
    # The measurements that are kept out cost some accuracy; over-fitting costs more.
    assert error(held.x, X) < error(plain.x, X)
    again = run(problem, **params, holdout=0.1, random_state=0)
    assert np.array_equal(again.x.U, held.x.U)


def test_holdout_does_not_use_what_it_keeps_out():
    problem, _ = gaussian(N=300, d=8)
    solver = SubgradientMethod(holdout=0.2, random_state=1)
    index = solver.init(problem).held
    targets = problem.targets.copy()
    targets[index] += 1.0
    other = MatrixSensing(problem.measurements, targets, rank=3, symmetric=True)
    states = [solver.init(p) for p in (problem, other)]
    states = [solver.step(p, s, 30) for p, s in zip((problem, other), states, strict=True)]
    assert np.array_equal(states[0].U, states[1].U)
    assert states[0].held_value != states[1].held_value


def test_holdout_on_entries():
    problem, X = entries(rank=9)
    result = run(problem, holdout=0.05, random_state=0)
    assert error(result.x, X) < 1e-5


# -- starts, limits, edges -------------------------------------------------------------------------


def test_start_is_balanced_and_small():
    problem, X = gaussian(N=3000, p=0.0, symmetric=False, rank=5)
    state = SubgradientMethod(alpha=1e-4).init(problem)
    np.testing.assert_allclose(state.U.T @ state.U, state.V.T @ state.V, atol=1e-20)
    assert np.linalg.norm(state.U @ state.V.T) == pytest.approx(1e-8 * np.linalg.norm(X), rel=0.1)


def test_starts_of_each_kind_of_measurement():
    entry, _ = entries()
    dense, _ = gaussian(N=60, d=6)
    assert SubgradientMethod().init(entry).alpha == 1e-8
    assert SubgradientMethod().init(dense).alpha == 1e-6
    assert SubgradientMethod(schedule="polyak", f_min=0.0).init(dense).alpha == 1.0


def test_answers_scale_with_the_data():
    one, _ = gaussian(N=300, d=8)
    other, _ = gaussian(N=300, d=8, unit=64.0)
    results = [run(p, max_iter=300, tol=0.0) for p in (one, other)]
    np.testing.assert_allclose(results[1].x.U, 8.0 * results[0].x.U, rtol=1e-6, atol=1e-9)


def test_warm_starts():
    problem, X = gaussian(N=900, symmetric=False)
    cold = run(problem, tol=1e-8)
    again = run(problem, tol=1e-8)
    assert again.nit == cold.nit
    at_answer = SubgradientMethod(tol=1e-8).solve(problem, x0=cold.x)
    assert at_answer.nit == 0
    assert np.array_equal(at_answer.x.U, cold.x.U)
    rng = np.random.default_rng(0)
    near = tuple(F * (1 + 1e-3 * rng.standard_normal(F.shape)) for F in (cold.x.U, cold.x.V))
    errors = []
    solver = SubgradientMethod(tol=1e-8, check_every=1)
    warm = solver.solve(
        problem,
        x0=near,
        callback=lambda intermediate_result: errors.append(error(intermediate_result.x, X)),
    )
    assert warm.success
    assert warm.nit < 0.8 * cold.nit
    assert max(errors) < 5 * errors[0]  # steps fit the distance


def test_a_start_of_lower_rank_can_grow():
    problem, X = gaussian(N=900, symmetric=False)
    U, s, Vt = np.linalg.svd(X)
    root = np.sqrt(s[:1])
    x0 = (U[:, :1] * root, Vt[:1].T * root)
    result = SubgradientMethod(tol=1e-7).solve(problem, x0=x0)
    assert result.success
    assert error(result.x, X) < 1e-6


@pytest.mark.parametrize("schedule", ["two-phase", "geometric"])
def test_states_do_not_depend_on_the_checks(schedule, tmp_path):
    """The same bits in one call of step, in many, and through a checkpoint."""
    problem, _ = gaussian(N=300, d=8, rank=5)
    params = {"schedule": schedule, "alpha": 1e-3, "tol": 1e-9, "max_iter": 150}
    whole = run(problem, check_every=150, **params)
    steps = run(problem, check_every=1, **params)
    path = tmp_path / "run.npz"
    for nit in (40, 150):
        checkpoint = Checkpoint(path, every_seconds=1e9)
        solver = SubgradientMethod(check_every=7, **{**params, "max_iter": nit})
        resumed = solver.solve(problem, checkpoint=checkpoint)
    for other in (steps, resumed):
        assert other.nit == whole.nit == 150
        for name in ("U", "decay", "decaying", "value", "value_mark", "size_mark", "idle"):
            assert np.array_equal(getattr(other.state, name), getattr(whole.state, name)), name


def test_zero_data():
    A = np.random.default_rng(0).standard_normal((30, 4, 4))
    result = run(MatrixSensing.from_dense(A, np.zeros(30), rank=2))
    assert result.success
    assert result.nit == 0
    assert not result.x.U.any()


def test_divergence_returns_the_last_finite_point():
    problem, _ = gaussian(p=0.0)
    result = run(problem, schedule="loss", eta0=50.0)
    assert result.status is Status.DIVERGED
    assert np.isfinite(result.x.U).all()
    assert np.isfinite(result.fun)
    assert "eta0" in result.message


def test_stalls_with_noise_and_says_why():
    problem, _ = gaussian(N=900, noise=0.1)
    result = run(problem)
    assert result.status is Status.STALLED
    assert "noise" in result.message
    assert result.state.decay <= 1e-8 < result.state.decay / 0.97


def test_constant_schedules_stall_when_nothing_improves():
    problem, _ = gaussian(N=300, d=8, noise=0.5)
    result = run(problem, schedule="loss", patience=2)
    assert result.status is Status.STALLED
    assert "No progress" in result.message


def test_float32():
    problem, X = gaussian(N=900, rank=6, dtype=np.float32)
    result = run(problem, tol=1e-5)
    assert result.x.dtype == np.float32
    assert error(result.x, X) < 1e-4


def test_rank_one_measurements():
    rng = np.random.default_rng(0)
    A, B = rng.standard_normal((900, 12)), rng.standard_normal((900, 15))
    X = rng.standard_normal((12, 2)) @ rng.standard_normal((2, 15))
    y = np.einsum("pi,ij,pj->p", A, X, B)
    y[:90] += 50.0
    result = run(MatrixSensing.from_rank_one(A, B, y, rank=2), tol=1e-8)
    assert result.success
    assert error(result.x, X) < 1e-7


def test_measurements_by_functions():
    dense, X = gaussian(N=600, d=10, r=2, symmetric=False)
    A = dense.measurements.A[:, :100].reshape(-1, 10, 10)
    problem = MatrixSensing.from_callable(
        lambda U, V: np.einsum("pij,ik,jk->p", A, U, V, optimize=True),
        lambda z: np.tensordot(z, A, 1),
        dense.targets,
        (10, 10),
        rank=2,
    )
    result = run(problem, tol=1e-7, holdout=0.05, random_state=0)
    assert result.success
    assert error(result.x, X) < 1e-6


def test_only_the_l1_loss():
    problem, _ = gaussian(N=60, d=5)
    squared = MatrixSensing(problem.measurements, problem.targets, rank=2, loss="squared")
    with pytest.raises(TypeError, match="loss='l1'"):
        run(squared)


@pytest.mark.parametrize(
    "params",
    [
        {"rho": 1.0}, {"rho": 0.0}, {"alpha": 0.0}, {"eta0": 0.0}, {"eta0": -1.0}, {"patience": 0},
        {"eta0": math.inf}, {"alpha": math.inf}, {"f_min": math.inf},
        {"holdout": 0.0}, {"holdout": 0.6}, {"schedule": "constant"}, {"f_min": -1.0},
    ],
)  # fmt: skip
def test_bad_parameters(params):
    problem, _ = gaussian(N=60, d=5)
    (name,) = params
    with pytest.raises(ParameterError, match=name):
        run(problem, **params)


def test_holdout_must_leave_something():
    problem = MatrixSensing.from_dense(np.ones((1, 1, 1)), [1.0])
    with pytest.raises(ParameterError, match="holdout"):
        run(problem, holdout=0.5)


# -- shared parts ----------------------------------------------------------------------------------


def from_values(values, m=12, n=9, seed=0):
    rng = np.random.default_rng(seed)
    k = len(values)
    U, V = (np.linalg.qr(rng.standard_normal((side, k)))[0] for side in (m, n))
    turn = rng.standard_normal((k, k)) + 3 * np.eye(k)
    return (U * values) @ turn, V @ np.linalg.inv(turn).T


@pytest.mark.parametrize(
    ("values", "alpha", "rank"),
    [
        ([1.0, 0.8, 0.5, 3e-8, 2e-8], 1e-8, 3),
        ([1.0, 0.8, 0.5], 1e-8, 3),
        ([1.0, 1e-2, 1e-4, 3e-8, 1e-9], 1e-8, 3),
        ([1.0, 0.5, 1e-3, 8e-4], 1e-4, 2),
        ([5.0], 1e-6, 1),
    ],
)
def test_truncation_at_the_gap(values, alpha, rank):
    U, V = start.truncate_at_gap(*from_values(np.array(values)), alpha)
    assert U.shape == (12, rank)
    assert V.shape == (9, rank)
    np.testing.assert_allclose(np.linalg.svd(U @ V.T)[1][:rank], values[:rank], rtol=1e-6)
    np.testing.assert_allclose(U.T @ U, np.diag(values[:rank]), atol=1e-9)
    np.testing.assert_allclose(V.T @ V, np.diag(values[:rank]), atol=1e-9)


def test_truncation_of_zero_and_of_many_columns():
    U, V = start.truncate_at_gap(np.zeros((4, 2)), np.zeros((3, 2)), 1e-6)
    assert U.shape == (4, 0)
    assert V.shape == (3, 0)
    rng = np.random.default_rng(0)
    u, v = rng.standard_normal((4, 1)), rng.standard_normal((3, 1))
    U, V = start.truncate_at_gap(np.repeat(u, 6, axis=1), np.repeat(v, 6, axis=1), 1e-6)
    np.testing.assert_allclose(U @ V.T, 6 * u @ v.T, rtol=1e-12)


@pytest.mark.parametrize("form", ["dense", "sparse", "operator"])
@pytest.mark.parametrize("side", [40, 300])
@pytest.mark.parametrize("symmetric", [True, False])
def test_spectrum(side, form, symmetric):
    rng = np.random.default_rng(0)
    k = 3
    U = np.linalg.qr(rng.standard_normal((side, 5)))[0]
    V = U if symmetric else np.linalg.qr(rng.standard_normal((side, 5)))[0]
    values = np.array([4.0, -5.0 if symmetric else 5.0, 3.0, 2.0, -1.0])
    A = (U * values) @ V.T
    if symmetric:
        skew = rng.standard_normal((side, side))
        A = A + (skew - skew.T)
    Z = {"dense": A, "sparse": sp.csr_array(A), "operator": sp.linalg.aslinearoperator(A)}[form]
    found = start.spectrum(Z, k, symmetric)
    expected = [4.0, 3.0, 2.0] if symmetric else [5.0, 4.0, 3.0]
    np.testing.assert_allclose(found.values, expected, rtol=1e-6)
    product = (found.left * found.values) @ found.right.T
    order = np.argsort(-values if symmetric else -np.abs(values))[:k]
    np.testing.assert_allclose(product, (U[:, order] * values[order]) @ V[:, order].T, atol=1e-6)


def test_spectrum_of_a_negative_matrix_is_zero():
    found = start.spectrum(-np.eye(4), 2, True)
    assert not found.values.any()


def random_point(problem, rng):
    k = 3
    U, V = (rng.standard_normal((s, k)).astype(problem.dtype) for s in problem.shape)
    return LowRankMatrix(U, U if problem.symmetric else V)


def sensing_problems():
    rng = np.random.default_rng(0)
    Y = rng.standard_normal((15, 12))
    mask = rng.random(Y.shape) < 0.6
    rows, cols = np.nonzero(mask)
    weights = rng.uniform(0.5, 2.0, rows.size)
    A, B = rng.standard_normal((200, 15)), rng.standard_normal((200, 12))
    sym, _ = gaussian(N=100, d=8)
    asym, _ = gaussian(N=100, d=8, symmetric=False)
    coo = (rows, cols, Y[mask], Y.shape)
    return {
        "dense symmetric": sym,
        "dense": asym,
        "dense squared": MatrixSensing(asym.measurements, asym.targets, rank=3, loss="squared"),
        "rank one": MatrixSensing.from_rank_one(A, B, rng.standard_normal(200), rank=3),
        "entries": MatrixSensing.from_entries(*coo, weights=weights, rank=3),
        "entries squared": MatrixSensing.from_entries(*coo, rank=3, loss="squared"),
        "robust PCA": LowRankPlusSparse.from_coo(*coo, weights=weights, rank=3),
        "completion": MatrixCompletion.from_coo(*coo, weights=weights, rank=3),
    }


@pytest.mark.parametrize("name", sensing_problems())
def test_residual_agrees_with_the_certificate(name):
    problem = sensing_problems()[name]
    x = random_point(problem, np.random.default_rng(1))
    expected = problem.certificate(x).residual
    assert start.relative_step(problem, x.U, x.V) == pytest.approx(expected, rel=1e-9)
    shrunk = LowRankMatrix(1e-6 * x.U, x.U * 1e-6 if problem.symmetric else x.V)
    expected = problem.certificate(shrunk).residual
    assert start.relative_step(problem, shrunk.U, shrunk.V) == pytest.approx(expected, rel=1e-9)


def test_preconditioned_step_is_the_normal_equation():
    rng = np.random.default_rng(0)
    g, F = rng.standard_normal((7, 3)), rng.standard_normal((9, 3))
    step, square = start.preconditioned(g, F, 0.2)
    G = F.T @ F + 0.2 * np.eye(3)
    np.testing.assert_allclose(step, g @ np.linalg.inv(G), rtol=1e-12)
    assert square == pytest.approx(np.trace(g @ np.linalg.inv(G) @ g.T), rel=1e-12)


def test_preconditioned_step_leaves_vanishing_directions_alone():
    F = np.outer(np.arange(1.0, 5.0), [1.0, 2.0])
    step, square = start.preconditioned(np.ones((3, 2)), F, 0.0)
    direction = np.array([1.0, 2.0]) / np.sqrt(5)
    norm = np.sum(F**2)
    np.testing.assert_allclose(step, np.outer(np.full(3, 3 / np.sqrt(5) / norm), direction))
    assert square == pytest.approx(3 * (3 / np.sqrt(5)) ** 2 / norm)
