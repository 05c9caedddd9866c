"""FactorSGD against alternating minimisation, the certificate and its own promises."""

from __future__ import annotations

import copy
import pickle
import tracemalloc

import numba
import numpy as np
import pytest

from lowrank_opt.core import Checkpoint, History, Status
from lowrank_opt.core.errors import ParameterError, UnsupportedProblemError
from lowrank_opt.recovery import AlternatingMinimization, FactorSGD, LowRankMatrix, MatrixCompletion
from lowrank_opt.recovery import factor_sgd as module


def data(m=120, n=90, k=2, density=0.5, noise=0.0, seed=0, dtype=np.float64):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((m, k)) @ rng.standard_normal((k, n))
    X += noise * rng.standard_normal(X.shape)
    return np.where(rng.random(X.shape) < density, X, np.nan).astype(dtype), X


def problem(rank=2, noise=0.0, dtype=np.float64, **options):
    return MatrixCompletion.from_dense(data(noise=noise, dtype=dtype)[0], rank=rank, **options)


def same(a, b):
    for name in ("U", "V", "row_bias", "col_bias"):
        one, two = getattr(a, name), getattr(b, name)
        if one is None:
            assert two is None
        else:
            np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("schedule", ["linear", "constant", "adagrad"])
def test_exact_recovery(schedule):
    Y, X = data()
    p = MatrixCompletion.from_dense(Y, rank=2)
    result = FactorSGD(schedule=schedule, max_iter=300, random_state=0).solve(p)
    assert result.status is Status.CONVERGED
    assert result.nit < 300
    np.testing.assert_allclose(result.x.to_dense(), X, rtol=0, atol=1e-3)


WEIGHTS = np.random.default_rng(5).uniform(0.5, 2.0, (120, 90))


@pytest.mark.parametrize(
    ("options", "tolerance"),
    [
        ({"reg": 3.0}, 1e-3),
        ({"reg": 0.05, "reg_scaling": "count", "biases": True}, 1e-3),
        ({"reg": 3.0, "biases": True, "weights": WEIGHTS}, 1e-3),
        ({"reg": 0.1, "reg_scaling": "count", "weights": WEIGHTS}, 1e-3),
        ({"reg": 3.0, "loss": "huber", "loss_scale": 0.3}, 1e-3),
        ({"reg": 3.0, "loss": "l1"}, 1e-2),
        ({"reg": 3.0, "nonnegative": True}, 1e-2),
    ],
)
def test_same_objective_as_alternating_minimization(options, tolerance):
    p = problem(noise=0.3, **options)
    best = AlternatingMinimization(tol=1e-7, max_iter=500, random_state=0).solve(p)
    result = FactorSGD(max_iter=100, random_state=0).solve(p)
    assert result.fun <= best.fun * (1 + tolerance)
    if p.nonnegative:
        assert result.x.U.min() >= 0.0 and result.x.V.min() >= 0.0


@pytest.mark.parametrize(
    ("dtype", "options"),
    [
        (np.float64, {"reg": 3.0}),
        (np.float32, {"reg": 0.05, "reg_scaling": "count", "biases": True}),
        (
            np.float64,
            {"reg": 0.05, "reg_scaling": 0.5, "biases": True, "weights": WEIGHTS, "loss": "huber"},
        ),
        (np.float64, {"reg": 0.05, "nonnegative": True}),
        (np.float64, {"reg": 3.0, "loss": "l1"}),
    ],
)
def test_residual_is_that_of_the_certificate(dtype, options):
    p = problem(noise=0.3, dtype=dtype, **options)
    result = FactorSGD(max_iter=7, random_state=0, check_every=7).solve(p)
    tolerance = 1e-3 if dtype == np.float32 else 1e-9
    assert result.residual > 1e-4
    np.testing.assert_allclose(result.residual, result.certificate.residual, rtol=tolerance)
    np.testing.assert_allclose(result.state.lowest_objective, result.fun, rtol=1e-2 * tolerance)
    assert result.x.dtype == dtype


def test_threads_and_copies_do_not_change_bits(monkeypatch):
    """Parallel and serial passes, and the state after a copy, a pickle and a checkpoint."""
    monkeypatch.setattr(module, "_TILE_ENTRIES", 100)
    p = problem(noise=0.3, reg=3.0, biases=True, dtype=np.float32)
    runs = []
    for threads in (1, min(2, numba.config.NUMBA_NUM_THREADS)):
        for schedule in ("linear", "adagrad"):
            solver = FactorSGD(
                max_iter=4, check_every=2, random_state=3, n_threads=threads, schedule=schedule
            )
            runs.append(solver.solve(p))
    for one, two in zip(runs[:2], runs[2:], strict=True):
        same(one.x, two.x)
        assert one.residual == two.residual


@pytest.mark.parametrize("schedule", ["linear", "adagrad"])
def test_resume_is_bit_identical(schedule, tmp_path):
    options = {"decay_passes": 6, "random_state": 3, "schedule": schedule, "check_every": 1}
    p = problem(noise=0.3, reg=3.0, biases=True)
    full = FactorSGD(max_iter=6, **options).solve(p)
    checkpoint = Checkpoint(tmp_path / "run.npz", every_seconds=1e9)
    part = FactorSGD(max_iter=2, **options).solve(p, checkpoint=checkpoint)
    solver = FactorSGD(max_iter=6, **options)
    for state in (
        part.state, copy.deepcopy(part.state), pickle.loads(pickle.dumps(part.state)),
        checkpoint.load(p, solver),
    ):  # fmt: skip
        resumed = solver.solve(p, state=state)
        same(resumed.x, full.x)
        np.testing.assert_array_equal(resumed.state.P, full.state.P)
        assert resumed.residual == full.residual


def test_resume_keeps_the_blocks_of_the_state():
    p = problem(noise=0.3, reg=3.0)
    options = {"decay_passes": 4, "random_state": 3, "check_every": 1}
    full = FactorSGD(max_iter=4, block_shape=(20, 20), **options).solve(p)
    part = FactorSGD(max_iter=2, block_shape=(20, 20), **options).solve(p)
    same(FactorSGD(max_iter=4, **options).solve(p, state=part.state).x, full.x)


def test_every_pass_visits_the_diagonals_in_a_new_order(monkeypatch):
    orders = []
    sgd_pass = module.kernels.sgd_pass

    def record(*args):
        orders.append(args[8].copy())
        sgd_pass(*args)

    monkeypatch.setattr(module.kernels, "sgd_pass", record)
    monkeypatch.setattr(module, "_TILE_ENTRIES", 50)
    p = problem(noise=0.3, reg=3.0)
    FactorSGD(max_iter=3, random_state=0, n_threads=1).solve(p)
    assert [sorted(order) for order in orders] == [list(range(8))] * 3
    assert np.any(orders[0] != orders[1]) and np.any(orders[1] != orders[2])


def test_warm_start():
    p = problem(noise=0.3, reg=3.0, biases=True)
    best = AlternatingMinimization(tol=1e-7, max_iter=1000, random_state=0).solve(p)
    assert FactorSGD(tol=1e-5).solve(p, x0=best.x).nit == 0
    noisy = LowRankMatrix(
        best.x.U + 0.1, best.x.V + 0.1, best.x.offset, best.x.row_bias, best.x.col_bias
    )
    warm = FactorSGD(max_iter=5, random_state=0).solve(p, x0=noisy)
    assert warm.fun < FactorSGD(max_iter=5, random_state=0).solve(p).fun
    assert warm.fun < p.objective(noisy)
    # Fewer columns than the problem has: the others start at random, not at a saddle.
    one = LowRankMatrix(best.x.U[:, :1], best.x.V[:, :1], best.x.offset)
    result = FactorSGD(max_iter=50, random_state=0).solve(p, x0=one)
    assert result.fun < 1.01 * best.fun


def test_divergence_returns_the_best_finite_point():
    p = problem(noise=0.3, reg=3.0)
    start = FactorSGD(random_state=0).solve(p)
    result = FactorSGD(step_size=100.0, random_state=0).solve(p, x0=start.x)
    assert result.status is Status.DIVERGED
    assert "smaller step_size" in result.message
    same(result.x, start.x)
    assert np.isfinite(result.state.P).all()


def test_the_best_check_is_returned():
    """A step that is too large but not fatal: the objective rises again."""
    p = problem(noise=0.3, reg=3.0)
    history = History()
    solver = FactorSGD(
        step_size=0.2, schedule="constant", max_iter=30, check_every=1, random_state=0
    )
    result = solver.solve(p, history=history)
    objectives = np.asarray(history.to_dict()["objective"])
    assert objectives[-1] > objectives.min()
    np.testing.assert_allclose(result.fun, objectives.min(), rtol=1e-9)


def test_scale_of_the_data_does_not_matter():
    Y, _ = data(noise=0.3)
    for schedule in ("linear", "adagrad"):
        results = [
            FactorSGD(max_iter=5, random_state=0, schedule=schedule).solve(
                MatrixCompletion.from_dense(c * Y, rank=2, reg=3.0 * c)
            )
            for c in (1.0, 1024.0)
        ]
        X, X1024 = (r.x.to_dense() for r in results)
        np.testing.assert_allclose(X1024, 1024.0 * X, rtol=1e-6, atol=1e-6)


def test_weight_two_is_as_good_as_a_unit_change_of_weights():
    """Weights and ridge times a constant leave every step as it is."""
    Y, _ = data(noise=0.3)
    results = [
        FactorSGD(max_iter=5, random_state=0).solve(
            MatrixCompletion.from_dense(Y, rank=2, reg=3.0 * c, weights=c * WEIGHTS)
        )
        for c in (1.0, 4.0)
    ]
    np.testing.assert_allclose(results[1].x.U, results[0].x.U, rtol=1e-9, atol=1e-12)


def test_rows_without_data_are_zero():
    Y, _ = data(noise=0.3)
    Y[7], Y[:, 5] = np.nan, np.nan
    with pytest.warns(match="no observation"):
        p = MatrixCompletion.from_dense(Y, rank=2, reg=3.0, biases=True)
    result = FactorSGD(max_iter=5, random_state=0).solve(p)
    assert not result.x.U[7].any() and not result.x.V[5].any()
    assert result.x.row_bias[7] == 0.0 and result.x.col_bias[5] == 0.0


def test_block_shape_changes_the_order_only():
    p = problem(noise=0.3, reg=3.0)
    funs = [
        FactorSGD(max_iter=60, random_state=0, block_shape=shape).solve(p).fun
        for shape in ("auto", (10, 7), (120, 1))
    ]
    np.testing.assert_allclose(funs, funs[0], rtol=1e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"schedule": "cosine"}, "schedule"),
        ({"step_size": 0.0}, "step_size"),
        ({"step_size": "large"}, "step_size"),
        ({"decay_passes": 0}, "decay_passes"),
        ({"init_scale": -1.0}, "init_scale"),
        ({"block_shape": (10,)}, "block_shape"),
        ({"block_shape": (10, 100_000)}, "block_shape"),
        ({"block_shape": "small"}, "block_shape"),
    ],
)
def test_bad_parameters(options, message):
    with pytest.raises(ParameterError, match=message):
        FactorSGD(**options).solve(problem(reg=1.0))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"penalty": "nuclear"}, "penalty='ridge'.*SoftImpute"),
        ({"implicit_weight": 0.5}, "implicit_weight=0.*AlternatingMinimization"),
    ],
)
def test_other_forms_are_refused(options, message):
    with pytest.raises(UnsupportedProblemError, match=message):
        FactorSGD().solve(problem(reg=1.0, **options))


@pytest.mark.filterwarnings("ignore::lowrank_opt.core.errors.AccuracyWarning")
def test_large_sparse_data_get_larger_blocks():
    """Blocks of cache size would outnumber the entries."""
    rng = np.random.default_rng(0)
    m = 60_000
    values = rng.standard_normal(m).astype(np.float32)
    p = MatrixCompletion.from_coo(
        np.arange(m), rng.integers(0, m, m), values, (m, m), rank=20, reg=1.0
    )
    state = FactorSGD(random_state=0).init(p)
    assert state.cache.entries.start.size - 1 <= 100


def test_memory_of_a_fit():
    """At most 2.5 times the data by rows and by columns and the factors."""
    rng = np.random.default_rng(0)
    m, n, nnz, k = 2000, 1500, 300_000, 20
    cells = rng.choice(m * n, nnz, replace=False)
    values = rng.standard_normal(nnz).astype(np.float32)
    p = MatrixCompletion.from_coo(
        cells // n, cells % n, values, (m, n), rank=k, reg=1.0, biases=True
    )
    obs = p.observations
    data_bytes = sum(
        a.nbytes
        for a in (
            obs.indptr, obs.indices, obs.values, obs.csc_indptr, obs.csc_indices, obs.csc_values
        )
    )  # fmt: skip
    solver = FactorSGD(max_iter=4, check_every=2, random_state=0, n_threads=1)
    solver.solve(p)
    tracemalloc.start()
    solver.solve(p)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    factor_bytes = 4 * (m + n) * (k + 2)
    assert data_bytes + peak <= 2.5 * (data_bytes + factor_bytes)
