"""GibbsFactorization: its draws against the distributions they should have."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats

from lowrank_opt.core.errors import ParameterError, UnsupportedProblemError
from lowrank_opt.core.state import Status
from lowrank_opt.recovery import (
    GibbsFactorization,
    LowRankMatrix,
    LowRankSamples,
    MatrixCompletion,
    kernels,
)
from lowrank_opt.recovery.gibbs import _draw_prior

SHAPE = (40, 30)


def truth(noise=0.1, seed=0, shape=SHAPE):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((shape[0], 2)) @ rng.standard_normal((2, shape[1]))
    return X, X + noise * rng.standard_normal(shape), rng.random(shape) < 0.6


def completion(dtype=np.float64, **options):
    _, X, mask = truth()
    mask[:3], mask[:, :3] = True, True
    return MatrixCompletion.from_dense(np.where(mask, X, np.nan).astype(dtype),
                                       **{"rank": 2, "reg": 1.0, **options})  # fmt: skip


def sampler(**options):
    return GibbsFactorization(**{"tol": 1e-9, "max_iter": 40, "random_state": 0, **options})


def same_bits(a, b):
    for name in ("U", "V", "alpha", "row_bias", "col_bias"):
        x, y = getattr(a, name), getattr(b, name)
        assert (x is None) == (y is None)
        if x is not None:
            np.testing.assert_array_equal(x, y)


# -- distributions -------------------------------------------------------------------------------


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_rows_are_drawn_from_their_conditional_distribution(bias, weighted):
    """All rows have the same data: their draws are independent draws of one distribution."""
    rng = np.random.default_rng(1)
    n, k, rows, alpha = 6, 2, 40_000, 1.7
    width = k + bias
    V, other_bias, y = rng.standard_normal((n, k)), rng.standard_normal(n), rng.standard_normal(n)
    w = rng.random(n) + 0.5 if weighted else np.ones(n)
    precision, mean = rng.random(width) + 0.5, rng.standard_normal(width)
    F = kernels.pad_factor(V, other_bias if bias else None)
    X = kernels.pad_factor(np.zeros((rows, k)), np.zeros(rows) if bias else None)
    kernels.sample_rows(
        np.arange(rows + 1) * n, np.tile(np.arange(n, dtype=np.int32), rows), np.tile(y, rows),
        F, X, rank=k, bias=bias, alpha=alpha, precision=precision, mean=mean,
        normals=rng.standard_normal((rows, width)),
        weights=np.tile(w, rows) if weighted else None,
    )  # fmt: skip
    A = np.column_stack([V, np.ones(n)]) if bias else V
    b = y - other_bias if bias else y
    H = alpha * (A * w[:, None]).T @ A + np.diag(precision)
    expected = np.linalg.solve(H, alpha * (A * w[:, None]).T @ b + precision * mean)
    draws, cov = X[:, :width], np.linalg.inv(H)
    error = np.sqrt(np.diag(cov) / rows)
    assert (np.abs(draws.mean(0) - expected) < 5 * error).all()
    np.testing.assert_allclose(np.cov(draws.T), cov, atol=0.05 * np.abs(cov).max())
    # And it is normal, not only of the right mean and covariance.
    white = np.linalg.solve(np.linalg.cholesky(cov), (draws - expected).T)
    for row in white:
        assert scipy.stats.kstest(row, "norm").pvalue > 1e-4


def test_rows_without_data_are_drawn_from_the_prior():
    rng = np.random.default_rng(2)
    rows = 20_000
    X = kernels.pad_factor(np.zeros((rows, 2)))
    kernels.sample_rows(
        np.zeros(rows + 1, np.int64), np.empty(0, np.int32), np.empty(0),
        kernels.pad_factor(np.ones((3, 2))), X, rank=2, alpha=1.0,
        precision=np.array([4.0, 0.25]), mean=np.array([1.0, -3.0]),
        normals=rng.standard_normal((rows, 2)),
    )  # fmt: skip
    np.testing.assert_allclose(X[:, :2].mean(0), [1.0, -3.0], atol=0.08)
    np.testing.assert_allclose(X[:, :2].std(0), [0.5, 2.0], rtol=0.03)


def test_prior_is_drawn_from_the_conjugate_distribution():
    rng = np.random.default_rng(3)
    x = rng.standard_normal((15, 1)) * 2.0 + 3.0
    draws = np.array([np.concatenate(_draw_prior(x, rng, np.array([1.3]))) for _ in range(20_000)])
    mean, precision = draws.T
    n, total = 15, float(x.sum())
    shape = 0.5 * n + 1.0
    rate = 1.3 + 0.5 * (float((x**2).sum()) - total**2 / (n + 1.0))
    assert scipy.stats.kstest(precision, "gamma", (shape, 0.0, 1.0 / rate)).pvalue > 1e-4
    # The marginal of the mean is Student's t.
    t = scipy.stats.t(2 * shape, total / (n + 1.0), np.sqrt(rate / shape / (n + 1.0)))
    assert scipy.stats.kstest(mean, t.cdf).pvalue > 1e-4


def test_noise_precision_is_found():
    result = sampler(max_iter=100).solve(completion())
    deviation = 1.0 / np.sqrt(result.x.alpha.mean())
    assert 0.08 < deviation < 0.12


def test_weights_are_precisions():
    """Half of the entries have four times the noise variance, and weight 1/4."""
    rng = np.random.default_rng(4)
    exact, _, _ = truth()
    w = np.where(rng.random(SHAPE) < 0.5, 1.0, 0.25)
    X = exact + 0.2 * rng.standard_normal(SHAPE) / np.sqrt(w)
    problem = MatrixCompletion.from_dense(X, rank=2, reg=1.0, weights=w)
    result = sampler(max_iter=100).solve(problem)
    assert 0.18 < 1.0 / np.sqrt(result.x.alpha.mean()) < 0.22


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_mean_and_deviation_of_predictions(dtype):
    exact, X, _ = truth(noise=0.3)
    rng = np.random.default_rng(5)
    mask = rng.random(SHAPE) < 0.6
    mask[:3], mask[:, :3] = True, True
    problem = MatrixCompletion.from_dense(np.where(mask, X, np.nan).astype(dtype), rank=2, reg=1.0)
    result = sampler(max_iter=200, burn_in=0.2).solve(problem)
    i, j = np.nonzero(~mask)
    mean, std = result.x.predict(i, j, return_std=True)
    assert mean.dtype == dtype
    # Held-out error: noise 0.3 and the error of the factors.
    assert np.sqrt(np.mean((mean - X[i, j]) ** 2)) < 0.4
    assert np.sqrt(np.mean((mean - exact[i, j]) ** 2)) < 0.25
    score = (X[i, j] - mean) / std
    for nominal, quantile in ((0.5, 0.6745), (0.9, 1.6449)):
        coverage = np.mean(np.abs(score) < quantile)
        assert abs(coverage - nominal) < 0.08


def test_biases_are_part_of_the_posterior():
    exact, X, mask = truth()
    rng = np.random.default_rng(6)
    rows, cols = 3.0 * rng.standard_normal(40), 2.0 * rng.standard_normal(30)
    shifted = np.where(mask, X + rows[:, None] + cols + 5.0, np.nan)
    problem = MatrixCompletion.from_dense(shifted, rank=2, reg=1.0, biases=True)
    result = sampler(max_iter=150).solve(problem)
    assert result.x.row_bias.shape == (result.x.n_samples, 40)
    expected = exact + rows[:, None] + cols + 5.0
    error = (result.x.to_dense() - expected)[~mask]
    assert np.sqrt(np.mean(error**2)) < 0.2


# -- running -------------------------------------------------------------------------------------


def test_same_seed_same_bits_for_every_number_of_threads(monkeypatch):
    monkeypatch.setattr(kernels, "_PARALLEL_ENTRIES", 1)
    problem = completion(biases=True)
    one, two, again = (sampler(n_threads=t).solve(problem).x for t in (1, 2, 2))
    same_bits(one, two)
    same_bits(two, again)
    other = sampler(random_state=1).solve(problem).x
    assert not np.array_equal(one.U, other.U)


def test_a_run_in_two_parts_has_the_same_bits():
    problem = completion(biases=True)
    for n_kept in (100, 8):
        whole = sampler(n_kept=n_kept).solve(problem)
        part = sampler(max_iter=13, n_kept=n_kept).solve(problem)
        assert part.status is Status.ITERATION_LIMIT
        rest = sampler(n_kept=n_kept).solve(problem, state=part.state)
        same_bits(whole.x, rest.x)
        assert rest.nit == 40
        np.testing.assert_array_equal(whole.residual, rest.residual)


def test_thinning_keeps_evenly_spaced_draws():
    problem = completion()
    everything = sampler(n_kept=100, burn_in=0.0).solve(problem)
    np.testing.assert_array_equal(everything.state.draws_nit[:40], np.arange(1, 41))
    for n_kept in (2, 7, 8, 20, 40):
        state = sampler(n_kept=n_kept, burn_in=0.0).solve(problem).state
        kept = state.draws_nit[: state.n_kept]
        assert n_kept // 2 <= state.n_kept <= n_kept
        np.testing.assert_array_equal(np.diff(kept), state.spacing)
        assert kept[0] == state.spacing
        assert kept[-1] > 40 - state.spacing
        # Thinning does not touch the chain.
        np.testing.assert_array_equal(state.draws_u[: state.n_kept],
                                      everything.state.draws_u[kept - 1])  # fmt: skip


def test_burn_in_is_dropped():
    problem = completion()
    full = sampler(burn_in=0.0).solve(problem)
    late = sampler(burn_in=0.5).solve(problem)
    assert full.x.n_samples == 40
    assert late.x.n_samples == 21  # draws 20 to 40
    np.testing.assert_array_equal(late.x.U, full.x.U[19:])


def test_residual_is_half_the_difference_of_the_halves():
    problem = completion()
    result = sampler(burn_in=0.0).solve(problem)
    obs = problem.observations
    halves = [
        np.mean([result.x[s].predict(obs.rows(), obs.indices) for s in part], axis=0)
        for part in (range(20), range(20, 40))
    ]
    error = 0.5 * np.sqrt(np.mean((halves[0] - halves[1]) ** 2))
    expected = error / np.sqrt(np.mean(obs.values**2))
    np.testing.assert_allclose(result.residual, expected, rtol=1e-10)
    np.testing.assert_allclose(result.certificate.residual, expected, rtol=1e-10)


def test_no_verdict_before_twenty_draws():
    problem = completion()
    seen = []
    result = sampler(tol=0.9, max_iter=100).solve(
        problem, callback=lambda r: seen.append((r.nit, r.residual))
    )
    assert result.status is Status.CONVERGED
    assert result.nit == 20
    assert any(residual < 0.9 for _, residual in seen[:-1])
    few = sampler(tol=0.9, max_iter=100, n_kept=5).solve(problem)
    assert few.success
    assert few.nit >= 5


def test_tolerance_is_met():
    problem = completion()
    loose, tight = (sampler(tol=tol, max_iter=2000).solve(problem) for tol in (0.02, 0.01))
    assert loose.success
    assert tight.success
    assert tight.nit >= loose.nit
    assert tight.residual <= 0.01


def test_objects_of_the_answer():
    problem = completion(np.float32)
    result = sampler(max_iter=5).solve(problem)
    assert isinstance(result.x, LowRankSamples)
    assert result.x.dtype == np.float32
    assert result.x.shape == SHAPE
    assert result.counts["draws"] == 5
    assert result.counts["passes"] == 15
    nothing = sampler(max_iter=0).solve(problem)
    assert nothing.x.n_samples == 1


def test_start_from_a_matrix_and_from_draws():
    problem = completion()
    first = sampler(burn_in=0.0).solve(problem)
    again = sampler(tol=2.0 * first.residual).solve(problem, x0=first.x)
    assert (again.nit, again.success) == (0, True)
    same_bits(again.x, first.x)
    more = sampler(max_iter=10).solve(problem, x0=first.x)
    assert more.nit == 10
    one = LowRankMatrix(first.x.U[-1][:, :1], first.x.V[-1][:, :1])
    from_matrix = sampler(max_iter=10).solve(problem, x0=one)
    assert np.isfinite(from_matrix.x.U).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss": "huber"}, "loss='squared'"),
        ({"loss": "l1"}, "loss='squared'"),
        ({"nonnegative": True}, "nonnegative=False"),
        ({"penalty": "nuclear"}, "penalty='ridge'"),
    ],
)
def test_options_that_have_no_sampler(options, message):
    with pytest.raises(UnsupportedProblemError, match=message) as error:
        sampler().solve(completion(**options))
    other = "SoftImpute" if "penalty" in options else "AlternatingMinimization"
    assert other in str(error.value)


@pytest.mark.parametrize("options", [{"burn_in": 1.0}, {"burn_in": -0.1}, {"n_kept": 1}])
def test_bad_parameters_are_named(options):
    with pytest.raises(ParameterError, match=next(iter(options))):
        sampler(**options).solve(completion())


def test_values_of_zero_and_of_any_scale():
    _, X, _ = truth()
    zero = sampler(max_iter=5).solve(MatrixCompletion.from_dense(np.zeros(SHAPE), rank=2, reg=1.0))
    assert np.isfinite(zero.x.U).all()
    plain, small, large = (
        sampler(max_iter=30).solve(
            MatrixCompletion.from_dense(scale * X, rank=2, reg=1.0, biases=True, center=False)
        ).x
        for scale in (1.0, 2.0**-20, 2.0**20)
    )  # fmt: skip
    assert np.sqrt(np.mean((plain.to_dense() - truth()[0]) ** 2)) < 0.1
    for root, x in ((2.0**-10, small), (2.0**10, large)):
        np.testing.assert_allclose(x.U, root * plain.U, rtol=1e-6, atol=1e-6 * root)
        np.testing.assert_allclose(x.row_bias, root**2 * plain.row_bias, rtol=1e-6,
                                   atol=1e-6 * root**2)  # fmt: skip
        np.testing.assert_allclose(x.alpha, plain.alpha / root**4, rtol=1e-6)


def test_draws_given_as_a_start_stay_and_are_thinned():
    problem = completion()
    first = sampler(max_iter=12, tol=1e-12, burn_in=0.0).solve(problem)
    options = {"tol": 1e-12, "burn_in": 0.5, "n_kept": 16}
    state = sampler(**options).init(problem, first.x)
    solver = sampler(**options)
    state = solver.step(problem, state, 3)
    np.testing.assert_array_equal(state.draws_nit[: state.n_kept], np.arange(-11, 4))
    x = solver.point(problem, state)
    assert len(x) == 15
    np.testing.assert_array_equal(x.U[:12], first.x.U)
    state = solver.step(problem, state, 5)
    np.testing.assert_array_equal(state.draws_nit[: state.n_kept], np.arange(-10, 9, 2))
    np.testing.assert_array_equal(solver.point(problem, state).U[:6], first.x.U[1::2])


def test_kept_draws_fit_into_the_bytes():
    problem = completion()
    draw = sum(problem.shape) * (problem.rank + int(problem.biases)) * problem.dtype.itemsize
    result = sampler(max_iter=30, tol=1e-12, max_bytes=5 * draw).solve(problem)
    assert result.state.draws_u.nbytes + result.state.draws_v.nbytes <= 5 * draw
    assert len(result.state.draws_nit) == 5
    assert len(sampler(max_bytes=1).init(problem).draws_nit) == 2
