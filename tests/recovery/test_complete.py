"""The function `complete`: forms of the data, methods, keywords and errors."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

import lowrank_opt
from lowrank_opt.core import History
from lowrank_opt.core.errors import ParameterError, ProblemError, UnsupportedProblemError
from lowrank_opt.recovery import LowRankMatrix, LowRankSamples, MatrixCompletion, complete
from lowrank_opt.recovery.front import METHODS

# Methods of test_complete_robust.
ROBUST = ("huber_als", "subgradient", "scaled_subgradient")


def data(noise=0.0, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((40, 2)) @ rng.standard_normal((2, 30))
    mask = rng.random(X.shape) < 0.6
    mask[:3], mask[:, :3] = True, True
    return X, np.where(mask, X + noise * rng.standard_normal(X.shape), np.nan)


def rmse(result, X):
    return float(np.sqrt(np.mean((result.x.to_dense() - X) ** 2)))


def test_every_form_of_the_data_gives_the_same_answer():
    truth, X = data()
    i, j = np.nonzero(~np.isnan(X))
    expected = complete(X, rank=2, random_state=0).x.to_dense()
    np.testing.assert_allclose(expected, truth, atol=1e-4)
    stored = sp.coo_array((X[i, j], (i, j)), shape=X.shape)
    for form in (
        np.ma.masked_invalid(X),
        X.tolist(),
        stored,
        stored.tocsr(),
        sp.csc_matrix(stored),
        (i, j, X[i, j]),
        (i, j, X[i, j], X.shape),
    ):
        np.testing.assert_allclose(
            complete(form, rank=2, random_state=0).x.to_dense(), expected, atol=1e-8
        )


def test_it_is_the_function_of_the_package():
    assert lowrank_opt.complete is complete


@pytest.mark.parametrize(
    ("method", "solver"),
    [
        *((name, cls) for name, (cls, _) in METHODS.items() if name not in ROBUST),
        ("auto", "AlternatingMinimization"),
        ("AlternatingMinimization", "AlternatingMinimization"),
        ("FactorSGD", "FactorSGD"),
        ("SoftImpute", "SoftImpute"),
    ],
)
def test_methods(method, solver):
    truth, X = data(noise=0.01)
    nuclear = solver == "SoftImpute"
    result = complete(X, rank=30 if nuclear else 2, reg=1.0 if nuclear else 0.0, method=method,
                      tol=1e-3, max_iter=100, random_state=0)  # fmt: skip
    assert result.solver.startswith(solver + "(")
    for name, value in METHODS.get(method, (None, {}))[1].items():
        assert f"{name}={value!r}" in result.solver
    sampled = solver == "GibbsFactorization"
    assert isinstance(result.x, LowRankSamples if sampled else LowRankMatrix)
    assert rmse(result, truth) < 0.3
    assert ("penalty='nuclear'" in result.problem) == nuclear


def test_auto_takes_soft_impute_for_the_nuclear_form():
    _, X = data()
    result = complete(X, rank=30, reg=2.0, penalty="nuclear", tol=1e-3)
    assert result.solver.startswith("SoftImpute(")


def test_keywords_find_their_place():
    _, X = data()
    history, seen = History(), []
    w = np.random.default_rng(1).random(X.shape) + 0.5
    result = complete(
        X, rank=2, reg=0.1, tol=1e-4, max_iter=50, random_state=3,
        # of the problem
        weights=w, biases=True, reg_scaling="count", reg_bias=0.2,
        # of the solver
        inner="dual", start="random", n_threads=1,
        # of solve
        history=history, callback=lambda r: seen.append(r.nit),
    )  # fmt: skip
    for part in ("inner='dual'", "start='random'", "n_threads=1", "max_iter=50", "tol=0.0001",
                 "random_state=3"):  # fmt: skip
        assert part in result.solver
    for part in ("biases=True", "reg_scaling='count'", "reg_bias=0.2", "reg=0.1", "rank=2"):
        assert part in result.problem
    assert result.x.row_bias is not None
    assert seen[-1] == result.nit
    assert result.history is history
    problem = MatrixCompletion.from_dense(X, rank=2, reg=0.1, weights=w, biases=True,
                                          reg_scaling="count", reg_bias=0.2)  # fmt: skip
    np.testing.assert_allclose(result.fun, problem.objective(result.x), rtol=1e-12)


def test_own_parameters_go_before_those_of_the_short_name():
    _, X = data()
    assert "inner='dual'" in complete(X, rank=2, method="als", inner="dual").solver


def test_warm_start():
    _, X = data()
    first = complete(X, rank=2, random_state=0)
    again = complete(X, rank=2, x0=first.x, tol=1e-5)
    assert again.nit == 0


def test_duplicates():
    rows, cols, values = [0, 0, 1, 1, 0], [0, 1, 0, 1, 0], [1.0, 2.0, 2.0, 4.0, 3.0]
    with pytest.raises(ProblemError, match="repeated"):
        complete((rows, cols, values), rank=1, reg=1e-9)
    result = complete((rows, cols, values), rank=1, reg=1e-9, duplicates="last")
    assert result.x.shape == (2, 2)
    with pytest.raises(TypeError, match="duplicates"):
        complete(np.ones((2, 2)), rank=1, duplicates="last")


# -- gross errors --------------------------------------------------------------------------------


def test_an_outlier_fraction_makes_the_loss_robust():
    truth, X = data()
    X[1, 2] += 10.0
    X[4, 0] -= 10.0
    for options in ({}, {"reg": 1e-3}):  # with a ridge: the Huber loss with a fixed threshold
        robust = complete(X, rank=2, outlier_fraction=0.05, random_state=0, **options)
        assert ("loss='huber'" in robust.problem) == bool(options)
        plain = complete(X, rank=2, random_state=0)
        assert rmse(robust, truth) < 0.5 * rmse(plain, truth)
    assert "loss='l1'" in complete(X, rank=2, loss="l1", outlier_fraction=0.05, max_iter=2).problem
    for nothing in (0.0, None):
        result = complete(X, rank=2, outlier_fraction=nothing, max_iter=1)
        assert result.problem.startswith("MatrixCompletion")
        assert "loss='huber'" not in result.problem


@pytest.mark.parametrize("bad", [-0.1, 0.5, 1.0, np.nan, "few", True])
def test_outlier_fractions_out_of_range(bad):
    with pytest.raises(ParameterError, match=r"outlier_fraction.*\[0, 0\.5\)"):
        complete(data()[1], rank=2, outlier_fraction=bad)


# -- errors --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_itr": 3}, r"max_itr.*did you mean 'max_iter'"),
        ({"bias": True}, r"bias.*did you mean 'biases'"),
        ({"calback": None}, r"calback.*did you mean 'callback'"),
        ({"iner": "cg"}, r"iner.*did you mean 'inner'"),
    ],
)
def test_unknown_keywords(options, message):
    with pytest.raises(TypeError, match=f"(?i){message}"):
        complete(data()[1], rank=2, **options)


def test_unknown_method():
    with pytest.raises(ParameterError, match=r"(?i)method='asl'.*did you mean 'als'"):
        complete(data()[1], rank=2, method="asl")
    with pytest.raises(ParameterError, match="method"):
        complete(data()[1], rank=2, method=None)


def test_a_solver_for_other_problems():
    with pytest.raises(UnsupportedProblemError, match="SoftImpute"):
        complete(data()[1], rank=2, reg=1.0, method="als", penalty="nuclear")


def test_bad_data_and_parameters():
    _, X = data()
    with pytest.raises(ParameterError, match="rank=31"):
        complete(X, rank=31)
    with pytest.raises(ParameterError, match="reg=-1"):
        complete(X, rank=2, reg=-1.0)
    with pytest.raises(ParameterError, match="tol"):
        complete(X, rank=2, tol=-1.0)
    with pytest.raises(ParameterError, match="reg=0 with penalty='nuclear'"):
        complete(X, rank=2, method="soft_impute")
    with pytest.raises(ProblemError, match="tuple of 2 items"):
        complete((X, X), rank=2)
    with pytest.raises(ProblemError, match=r"lowrank_opt\.solve"):
        complete(MatrixCompletion.from_dense(X, rank=2), rank=2)
    with pytest.raises(TypeError, match="rank"):
        complete(X)
