"""The function `complete` on data with gross errors: which problem, which solver, which rank."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

from lowrank_opt.core.errors import ParameterError, ProblemError
from lowrank_opt.recovery import (
    AlternatingMinimization,
    LowRankPlusSparse,
    MatrixCompletion,
    complete,
)


def data(noise=0.0, outliers=0.05, seed=0, shape=(60, 40), rank=2):
    rng = np.random.default_rng(seed)
    L = rng.standard_normal((shape[0], rank)) @ rng.standard_normal((rank, shape[1]))
    X = L + noise * rng.standard_normal(shape)
    wrong = rng.random(shape) < outliers
    X += wrong * rng.uniform(5.0, 30.0, shape) * rng.choice([-1.0, 1.0], shape)
    return L, np.where(rng.random(shape) < 0.8, X, np.nan)


def relative(result, L):
    return float(np.linalg.norm(result.x.to_dense() - L) / np.linalg.norm(L))


# -- the decision table --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "problem", "solver"),
    [
        ({"loss": "huber"}, "LowRankPlusSparse", "HuberALS"),
        ({"loss": "huber", "method": "huber_als"}, "LowRankPlusSparse", "HuberALS"),
        ({"loss": "huber", "method": "HuberALS"}, "LowRankPlusSparse", "HuberALS"),
        ({"outlier_fraction": 0.1}, "LowRankPlusSparse", "HuberALS"),
        ({"loss": "huber", "rank": "auto"}, "LowRankPlusSparse", "HuberALS"),
        ({"loss": "l1"}, "MatrixCompletion", "HuberALS"),
        ({"loss": "l1", "method": "huber_als"}, "MatrixCompletion", "HuberALS"),
        ({"loss": "l1", "method": "subgradient"}, "LowRankPlusSparse", "SubgradientMethod"),
        ({"loss": "huber", "method": "subgradient"}, "LowRankPlusSparse", "SubgradientMethod"),
        (
            {"loss": "l1", "method": "scaled_subgradient"},
            "LowRankPlusSparse",
            "ScaledSubgradientMethod",
        ),
        ({"outlier_fraction": 0.1, "method": "scaled_gd"}, "LowRankPlusSparse", "ScaledGD"),
        ({"method": "scaled_gd"}, "MatrixCompletion", "ScaledGD"),
        # What is said explicitly and is the default changes nothing.
        (
            {"loss": "huber", "reg": 0.0, "biases": False, "center": False, "loss_scale": "auto"},
            "LowRankPlusSparse",
            "HuberALS",
        ),
        # Anything beside the plain model keeps the fixed threshold.
        ({"loss": "huber", "reg": 0.1}, "MatrixCompletion", "AlternatingMinimization"),
        ({"loss": "l1", "reg": 0.1}, "MatrixCompletion", "AlternatingMinimization"),
        ({"loss": "huber", "biases": True}, "MatrixCompletion", "AlternatingMinimization"),
        ({"loss": "huber", "center": True}, "MatrixCompletion", "AlternatingMinimization"),
        ({"loss": "huber", "nonnegative": True}, "MatrixCompletion", "AlternatingMinimization"),
        (
            {"loss": "huber", "implicit_weight": 0.1, "reg": 0.1},
            "MatrixCompletion",
            "AlternatingMinimization",
        ),
        ({"loss": "huber", "method": "als"}, "MatrixCompletion", "AlternatingMinimization"),
        ({"loss": "l1", "method": "cg"}, "MatrixCompletion", "AlternatingMinimization"),
        ({"outlier_fraction": 0.1, "reg": 0.1}, "MatrixCompletion", "AlternatingMinimization"),
    ],
    ids=repr,
)
def test_problem_and_solver(options, problem, solver):
    _, X = data(0.05)
    result = complete(X, **{"rank": 2, "max_iter": 1, "random_state": 0, **options})
    assert result.problem.startswith(problem + "(")
    assert result.solver.startswith(solver + "(")
    if problem == "MatrixCompletion":
        loss = options.get("loss", "huber" if "outlier_fraction" in options else "squared")
        assert f"loss='{loss}'" in result.problem


def test_a_given_threshold_is_kept():
    _, X = data()
    result = complete(X, rank=2, loss="huber", loss_scale=0.7, max_iter=1)
    assert result.problem.startswith("MatrixCompletion(")
    assert "loss_scale=0.7" in result.problem


def test_the_bound_on_outliers_reaches_the_problem():
    _, X = data()
    for loss in ("squared", "huber"):
        result = complete(X, rank=2, loss=loss, outlier_fraction=0.12, max_iter=1)
        assert "outlier_fraction=0.12" in result.problem
    result = complete(X, rank="auto", loss="huber", max_rank=4, max_iter=1)
    assert "max_rank=4" in result.problem
    assert "rank='auto'" in result.problem


def test_every_field_of_the_problem_is_accepted():
    L, X = data()
    w = np.random.default_rng(1).random(X.shape) + 0.5
    result = complete(X, rank="auto", loss="huber", weights=w, max_rank=5, outlier_fraction=0.2)
    problem = LowRankPlusSparse.from_dense(X, rank="auto", weights=w, max_rank=5)
    np.testing.assert_allclose(result.fun, problem.objective(result.x), rtol=1e-12)
    assert relative(result, L) < 1e-5


# -- answers -------------------------------------------------------------------------------------


@pytest.mark.parametrize("rank", [2, "auto"])
def test_exact_recovery_in_every_form_of_the_data(rank):
    L, X = data()
    i, j = np.nonzero(~np.isnan(X))
    stored = sp.coo_array((X[i, j], (i, j)), shape=X.shape)
    for form in (X, np.ma.masked_invalid(X), stored.tocsr(), (i, j, X[i, j], X.shape)):
        result = complete(form, rank=rank, loss="huber", tol=1e-10, random_state=0)
        assert result.success
        assert result.x.rank == 2
        assert relative(result, L) < 1e-8
    twice = tuple(np.concatenate([a, a[:5]]) for a in (i, j, X[i, j]))
    result = complete(twice, rank=rank, loss="huber", duplicates="last", random_state=0)
    assert relative(result, L) < 1e-5


@pytest.mark.parametrize("method", ["huber_als", "subgradient", "scaled_subgradient"])
def test_methods_recover_from_gross_errors(method):
    L, X = data()
    result = complete(X, rank=2, loss="huber", method=method, random_state=0)
    assert result.success
    assert relative(result, L) < 1e-4


def test_scaled_gradient_descent_trims_or_fits_squares():
    L, X = data()
    result = complete(X, rank=2, method="scaled_gd", outlier_fraction=0.1, random_state=0)
    assert relative(result, L) < 1e-4
    L, X = data(outliers=0.0)
    result = complete(X, rank=2, method="scaled_gd", random_state=0)
    assert relative(result, L) < 1e-4


def test_absolute_errors_recover_as_well():
    L, X = data()
    result = complete(X, rank=2, loss="l1", random_state=0)
    assert result.success
    assert relative(result, L) < 1e-6


def test_tolerances_are_those_asked_for_or_the_problems():
    _, X = data(0.05)
    message = complete(X, rank=2, loss="huber", max_iter=1).message
    assert "tol 1.0e-06" in message
    assert "tol 1.0e-09" in complete(X, rank=2, loss="l1", max_iter=1).message
    assert "tol 1.0e-12" in complete(X, rank=2, loss="l1", tol=1e-12, max_iter=1).message


def test_adaptive_threshold_beats_the_fixed_one():
    L, X = data()
    adaptive = complete(X, rank=2, loss="huber", random_state=0)
    fixed = MatrixCompletion.from_dense(X, rank=2, loss="huber")
    fixed = AlternatingMinimization(tol=1e-6, max_iter=500, random_state=0).solve(fixed)
    assert relative(adaptive, L) < 1e-5
    assert relative(fixed, L) > 1e-3


def test_limits_are_those_asked_for_or_the_solvers_own():
    _, X = data(0.05)
    assert "max_iter=7" in complete(X, rank=2, loss="huber", max_iter=7).solver
    assert "max_iter=200" in complete(X, rank=2, reg=0.1, tol=1e-2).solver
    solver = complete(X, rank=2, loss="l1", method="subgradient", tol=0.5).solver
    assert "max_iter=200" not in solver


def test_warm_start():
    _, X = data(0.05)
    first = complete(X, rank="auto", loss="huber", random_state=0)
    again = complete(X, rank="auto", loss="huber", x0=first.x, tol=1e-5)
    assert again.nit == 0


# -- errors --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"loss": "l1"},
        {"loss": "huber", "reg": 0.1},
        {"loss": "huber", "biases": True},
        {"loss": "huber", "loss_scale": 1.0},
        {"loss": "huber", "method": "als"},
        {"outlier_fraction": 0.0},
    ],
    ids=repr,
)
def test_an_unknown_rank_needs_the_robust_problem(options):
    with pytest.raises(ParameterError, match=r"rank='auto'.*expected loss='huber'.*a number"):
        complete(data()[1], rank="auto", **options)


def test_max_rank_goes_with_an_unknown_rank():
    _, X = data()
    with pytest.raises(ParameterError, match="max_rank"):
        complete(X, rank=2, max_rank=3)
    with pytest.raises(ParameterError, match="max_rank"):
        complete(X, rank=2, max_rank=3, loss="huber")


@pytest.mark.parametrize("method", ["huber_als", "HuberALS", "subgradient", "scaled_subgradient"])
def test_robust_methods_need_a_robust_loss(method):
    with pytest.raises(ParameterError, match=rf"method='{method}' with loss='squared'.*'huber'"):
        complete(data()[1], rank=2, method=method)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_rnk": 3}, r"max_rnk.*did you mean 'max_rank'"),
        ({"strt": "growth"}, r"strt.*did you mean 'start'"),
        ({"outlier_bond": 0.1}, r"outlier_bond.*did you mean 'outlier_bound'"),
        ({"outlier_fractio": 0.1}, r"outlier_fractio.*did you mean 'outlier_fraction'"),
        ({"outlier_frac": 0.1}, r"outlier_frac.*did you mean 'outlier_fraction'"),
    ],
)
def test_unknown_keywords(options, message):
    with pytest.raises(TypeError, match=f"(?i){message}"):
        complete(data()[1], rank=2, loss="huber", **options)


def test_bad_values():
    _, X = data()
    with pytest.raises(ParameterError, match="rank='automatic'"):
        complete(X, rank="automatic", loss="huber")
    with pytest.raises(ParameterError, match="rank=41"):
        complete(X, rank=41, loss="huber")
    with pytest.raises(ParameterError, match=r"(?i)method='huber'.*did you mean 'huber_als'"):
        complete(X, rank="auto", loss="huber", method="huber")
    with pytest.raises(ParameterError, match="max_iter=-1"):
        complete(X, rank=2, max_iter=-1)
    with pytest.raises(ParameterError, match="loss='hubert'"):
        complete(X, rank=2, loss="hubert")
    with pytest.raises(ProblemError, match=r"LowRankPlusSparse: use lowrank_opt\.solve"):
        complete(LowRankPlusSparse.from_dense(X, rank=2), rank=2, loss="huber")
    with pytest.raises(ProblemError, match="row"):
        complete(np.where(np.arange(60)[:, None] == 3, np.nan, X), rank=2, loss="huber")
    with pytest.raises(ParameterError, match="loss='huber' with penalty='nuclear'"):
        complete(X, rank=2, loss="huber", method="soft_impute", reg=1.0)


@pytest.mark.parametrize("method", ["scaled_subgradient", "scaled_gd", "ScaledGD"])
def test_the_scaled_methods_need_a_rank(method):
    message = rf"rank='auto' with method='{method}'; Scaled.* needs the rank.*'huber_als'"
    with pytest.raises(ParameterError, match=message):
        complete(data()[1], rank="auto", loss="huber", method=method, outlier_fraction=0.1)


def test_what_keeps_the_rank_from_being_found_is_said():
    with pytest.raises(ParameterError, match=r"rank='auto' with loss='l1', reg=0.0, method='auto'"):
        complete(data()[1], rank="auto", loss="l1")
