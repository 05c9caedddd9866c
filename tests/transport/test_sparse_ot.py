"""sparse_ot, ot_value_and_grad and ot_regularization_path: oracles, gradients, keywords."""

from __future__ import annotations

import itertools
import signal
import warnings

import numpy as np
import pytest
import scipy.optimize
import scipy.sparse as sp

from lowrank_opt.core import History, Result
from lowrank_opt.core.errors import (
    AccuracyWarning,
    ConvergenceWarning,
    InfeasibleError,
    ParameterError,
    ProblemError,
)
from lowrank_opt.core.state import Status
from lowrank_opt.transport import (
    SparsityConstrainedOT,
    TransportPlan,
    TransportProblem,
    ot_regularization_path,
    ot_value_and_grad,
    sparse_ot,
)


def data(m=9, n=7, seed=0):
    """Masses and costs in general position."""
    rng = np.random.default_rng(seed)
    a, b = (rng.uniform(0.5, 1.5, size) for size in (m, n))
    return rng.random((m, n)), a / a.sum(), b / b.sum()


def clouds(m=9, n=7, seed=1):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((m, 2)), rng.standard_normal((n, 2)) + 1.0


def linear_program(C, a, b):
    m, n = C.shape
    sums = [np.kron(np.eye(m), np.ones(n)), np.kron(np.ones(m), np.eye(n))]
    return scipy.optimize.linprog(C.ravel(), A_eq=np.vstack(sums), b_eq=np.concatenate([a, b]))


def conic(C, a, b, gamma, k):
    """Value of the relaxation by its perspective form, with Clarabel."""
    cp = pytest.importorskip("cvxpy")
    T, Z, R = (cp.Variable(C.shape, nonneg=True) for _ in range(3))
    cones = [
        cp.SOC((R + Z)[i, j], cp.hstack([2 * T[i, j], (R - Z)[i, j]]))
        for i, j in np.ndindex(*C.shape)
    ]
    sums = [cp.sum(T, axis=1) == a, cp.sum(T, axis=0) == b, Z <= 1, cp.sum(Z, axis=0) <= k]
    objective = cp.Minimize(cp.sum(cp.multiply(C, T)) + 0.5 * gamma * cp.sum(R))
    return cp.Problem(objective, [*sums, *cones]).solve(solver="CLARABEL")


# -- sparse_ot ------------------------------------------------------------------------------------


def test_no_cap_is_the_quadratic_program():
    cp = pytest.importorskip("cvxpy")
    C, a, b = data()
    T = cp.Variable(C.shape, nonneg=True)
    program = cp.Problem(
        cp.Minimize(cp.sum(cp.multiply(C, T)) + 0.35 * cp.sum_squares(T)),
        [cp.sum(T, axis=1) == a, cp.sum(T, axis=0) == b],
    )
    program.solve(solver="CLARABEL", tol_gap_abs=1e-11, tol_gap_rel=1e-11, tol_feas=1e-11)
    result = sparse_ot(C, a, b, gamma=0.7, tol=1e-9)
    assert result.success
    assert isinstance(result.x, TransportPlan)
    np.testing.assert_allclose(result.value, program.value, atol=1e-8)
    np.testing.assert_allclose(result.x.toarray(), T.value, atol=1e-5)


def test_no_quadratic_term_is_the_linear_program():
    C, a, b = data()
    result = sparse_ot(C, a, b, gamma=0.0, tol=1e-8)
    np.testing.assert_allclose(result.value, linear_program(C, a, b).fun, atol=1e-7)


@pytest.mark.parametrize("k", [1, 2, 3])
def test_bound_is_the_optimum_of_the_relaxation(k):
    C, a, b = data()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AccuracyWarning)
        if k == 1:
            with pytest.raises(InfeasibleError, match="max_nnz=1"):
                sparse_ot(C, a, b, max_nnz=k)
            C, a, b = C.T.copy(), b, a
        result = sparse_ot(C, a, b, max_nnz=k, tol=1e-8, rounding="none")
    assert result.success
    np.testing.assert_allclose(result.dual_value, conic(C, a, b, 1.0, k), atol=2e-7)


def test_defaults_are_uniform_masses_and_absolute_gamma():
    C, _, _ = data()
    ours = sparse_ot(C, gamma=0.5)
    theirs = sparse_ot(C, np.full(9, 1 / 9), np.full(7, 1 / 7), gamma=0.5, axis=0)
    np.testing.assert_array_equal(ours.x.toarray(), theirs.x.toarray())


def test_axis_turns_the_problem():
    C, a, b = data()
    ours = sparse_ot(C, a, b, max_nnz=3, axis=1, rounding="none", tol=1e-8)
    theirs = sparse_ot(C.T, b, a, max_nnz=3, rounding="none", tol=1e-8)
    np.testing.assert_allclose(ours.dual_value, theirs.dual_value, atol=1e-8)
    assert ours.x.shape == (9, 7)


def test_points_sparse_costs_and_matrix_agree():
    X, Y = clouds()
    C = ((X[:, None] - Y) ** 2).sum(axis=2)
    expected = sparse_ot(C, tol=1e-9)
    for other in (sparse_ot(X=X, Y=Y, tol=1e-9), sparse_ot(sp.csr_array(C), tol=1e-9)):
        np.testing.assert_allclose(other.value, expected.value, atol=1e-8)
    euclidean = sparse_ot(np.sqrt(C), tol=1e-9)
    np.testing.assert_allclose(
        sparse_ot(X=X, Y=Y, metric="euclidean", tol=1e-9).value, euclidean.value, atol=1e-8
    )


def test_forbidden_pairs_are_not_used():
    C, a, b = data()
    banned = np.eye(9, 7, dtype=bool)
    result = sparse_ot(np.where(banned, np.inf, C), a, b)
    assert not result.x.toarray()[banned].any()
    np.testing.assert_allclose(result.x.sum(axis=0), b, atol=1e-6)


@pytest.mark.parametrize("method", ["auto", "ssnal", "ssn", "lbfgs", "bcd"])
def test_methods_agree_without_a_cap(method):
    C, a, b = data()
    result = sparse_ot(C, a, b, method=method, tol=1e-6, max_iter=2000)
    assert result.success
    np.testing.assert_allclose(result.dual_value, sparse_ot(C, a, b).dual_value, atol=1e-5)


@pytest.mark.parametrize("method", ["adam", "sgd"])
def test_methods_that_take_long_say_that_they_did_not_finish(method):
    C, a, b = data()
    with pytest.warns(ConvergenceWarning, match=r"sparse_ot: Iteration limit max_iter=5"):
        result = sparse_ot(C, a, b, method=method, max_iter=5, tol=1e-9)
    assert result.status is Status.ITERATION_LIMIT
    assert result.nit == 5


def test_keywords_reach_problem_solver_and_solve():
    C, a, b = data()
    history, seen = History(), []
    result = sparse_ot(
        C, 2.0 * a, b, a_upper=True, gamma_scale="relative", rounding="none", n_threads=1,
        start="zero", history=history, callback=lambda intermediate_result: seen.append(1),
        max_time=100.0,
    )  # fmt: skip
    assert result.success
    assert (result.x.sum(axis=1) <= 2.0 * a + 1e-6).all()
    assert (result.alpha <= 0).all()
    assert seen
    assert "rounding='none'" in result.solver
    assert "upper marginals" in result.problem
    again = sparse_ot(C, 2.0 * a, b, a_upper=True, gamma_scale="relative", x0=result.x)
    assert again.nit == 0


def test_stopping_oneself_is_no_reason_to_warn():
    def stop(intermediate_result):
        raise StopIteration

    C, a, b = data()
    assert sparse_ot(C, a, b, callback=stop).status is Status.STOPPED_BY_CALLBACK


@pytest.mark.parametrize("function", [sparse_ot, ot_value_and_grad, ot_regularization_path])
def test_unknown_keywords_name_the_closest(function):
    C, a, b = data()
    more = {"gammas": [1.0]} if function is ot_regularization_path else {}
    arguments = (a, b, C) if function is ot_value_and_grad else (C, a, b)
    for wrong, right in (
        ("marginal_weigth", "marginal_weight"),
        ("histroy_size", "history_size"),
        ("calback", "callback"),
        ("max_iters", "max_iter"),
        ("numItermax", "max_iter"),
        ("k", "max_nnzs" if more else "max_nnz"),
        ("reg", "gammas" if more else "gamma"),
    ):
        with pytest.raises(TypeError, match=f"{function.__name__} .*{wrong!r}.*{right!r}"):
            function(*arguments, **{wrong: 1}, **more)


def test_bad_arguments():
    C, a, b = data()
    with pytest.raises(ParameterError, match=r"sparse_ot: method='ssnall'.*'ssnal'"):
        sparse_ot(C, a, b, method="ssnall")
    with pytest.raises(ParameterError, match="max_iter=-1"):
        sparse_ot(C, a, b, max_iter=-1)
    with pytest.raises(ParameterError, match="tol=-1"):
        sparse_ot(C, a, b, tol=-1)
    with pytest.raises(ParameterError, match="gamma=-1"):
        sparse_ot(C, a, b, gamma=-1)
    with pytest.raises(ParameterError, match="max_nnz=0"):
        sparse_ot(C, a, b, max_nnz=0)
    with pytest.raises(ProblemError, match="give the costs C, or the points X and Y"):
        sparse_ot(a=a, b=b)
    with pytest.raises(ProblemError, match=r"C is a TransportProblem; use lowrank_opt.solve"):
        sparse_ot(TransportProblem(a, b, C))
    with pytest.raises(ProblemError, match=r"sum\(a\)"):
        sparse_ot(C, 2.0 * a, b)


def test_inputs_are_not_changed():
    C, a, b = data()
    for array in (C, a, b):
        array.flags.writeable = False
    sparse_ot(C, a, b)
    ot_value_and_grad(C, a, b, max_nnz=3)


# -- value and gradients --------------------------------------------------------------------------


GRADIENTS = {
    "cap": {"max_nnz": 2},
    "no cap": {},
    "rows": {"max_nnz": 3, "axis": 1},
    "weak": {"max_nnz": 3, "gamma": 0.1},
    "kl": {"max_nnz": 3, "unbalanced": "kl", "marginal_weight": 0.7},
    "kl of columns": {"max_nnz": 3, "unbalanced": "kl", "marginal_weight": 0.7, "axis": 1},
    "l2": {"max_nnz": 3, "unbalanced": "l2", "marginal_weight": 5.0},
    "upper": {"max_nnz": 3, "a_upper": True},
}


@pytest.mark.parametrize("case", GRADIENTS)
def test_gradients_are_those_of_central_differences(case):
    options = {"gamma": 1.0, **GRADIENTS[case]}
    C, a, b = data(6, 5, seed=2)
    if case == "upper":
        a = 1.4 * a
    balanced = "unbalanced" not in options and case != "upper"
    rng = np.random.default_rng(3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AccuracyWarning)

        def value(a=a, b=b, C=C, gamma=options["gamma"]):
            out = ot_value_and_grad(C, a, b, **{**options, "gamma": gamma}, tol=1e-10)
            return 0.5 * (out.value + out.result.relaxed_value)

        out = ot_value_and_grad(C, a, b, **options, tol=1e-10)
        assert isinstance(out.grad_C, sp.csc_array)
        assert not isinstance(out.grad_C, TransportPlan)
        h = 1e-4
        for name, base, gradient in (("a", a, out.grad_a), ("b", b, out.grad_b)):
            step = rng.standard_normal(len(base))
            if balanced or (case == "upper" and name == "b"):
                step -= step.mean()
            step *= 0.2 * base.min() / np.abs(step).max()
            rise = value(**{name: base + h * step}) - value(**{name: base - h * step})
            np.testing.assert_allclose(step @ gradient, rise / (2 * h), atol=2e-6)
        step = 0.3 * rng.standard_normal(C.shape)
        rise = (value(C=C + h * step) - value(C=C - h * step)) / (2 * h)
        np.testing.assert_allclose(np.sum(step * out.grad_C.toarray()), rise, atol=2e-6)
        rise = value(gamma=options["gamma"] * (1 + h)) - value(gamma=options["gamma"] * (1 - h))
        np.testing.assert_allclose(out.grad_gamma, rise / (2 * h * options["gamma"]), atol=2e-6)


def test_both_masses_may_change_together():
    C, a, b = data(6, 5, seed=2)
    out = ot_value_and_grad(C, a, b, max_nnz=3)
    up, down = (
        ot_value_and_grad(C, a * (1 + h), b * (1 + h), max_nnz=3).value for h in (1e-4, -1e-4)
    )
    np.testing.assert_allclose(out.grad_a @ a + out.grad_b @ b, (up - down) / 2e-4, atol=1e-5)


def test_value_of_a_cap_of_one_is_closed():
    """D_1 is the linear program plus gamma/2 times the squared masses of the targets."""
    C, a, b = data(5, 8)
    with pytest.warns(AccuracyWarning, match="max_nnz=1: 8 places"):
        out = ot_value_and_grad(C, a, b, max_nnz=1, gamma=0.3, start="zero")
    np.testing.assert_allclose(out.value, linear_program(C, a, b).fun + 0.15 * b @ b, atol=1e-7)
    np.testing.assert_allclose(out.grad_gamma, 0.5 * b @ b, rtol=1e-6)


def test_gradients_take_no_rounding_and_no_relative_gamma():
    C, a, b = data()
    for name, value in (("rounding", "qp"), ("gamma_scale", "relative")):
        with pytest.raises(TypeError, match=f"does not take {name}"):
            ot_value_and_grad(C, a, b, **{name: value})


# -- the path -------------------------------------------------------------------------------------


def test_path_agrees_with_single_solves_in_any_order():
    C, a, b = data(12, 10)
    gammas, caps = [1.0, 0.1, 10.0], [None, 2, 4]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AccuracyWarning)
        path = ot_regularization_path(
            C, a, b, gammas=gammas, max_nnzs=caps, tol=1e-8, rounding="none"
        )
        for (i, gamma), (j, cap) in itertools.product(enumerate(gammas), enumerate(caps)):
            alone = sparse_ot(C, a, b, gamma=gamma, max_nnz=cap, tol=1e-8, rounding="none")
            np.testing.assert_allclose(path.dual_values[i, j], alone.dual_value, atol=1e-7)
    assert path.converged.all()
    assert (path.residuals <= 1e-7).all()
    assert path.gammas.tolist() == gammas
    assert path.max_nnzs == caps
    assert repr(path) == "RegularizationPath(3 strengths, 3 caps: 9 of 9 converged)"


def test_path_is_monotone_in_cap_and_strength_and_concave_in_strength():
    C, a, b = data(12, 10)
    gammas = [0.5, 1.0, 1.5, 2.0]
    path = ot_regularization_path(C, a, b, gammas=gammas, max_nnzs=[3, 4, 6, None], tol=1e-8)
    D = path.dual_values
    assert (np.diff(D, axis=1) <= 1e-8).all()
    assert (np.diff(D, axis=0) >= -1e-8).all()
    assert (np.diff(D, n=2, axis=0) <= 1e-8).all()
    np.testing.assert_allclose(path.gaps, path.values - D)
    assert (path.costs <= path.values).all()
    assert (path.nonzeros[:, -1] >= 12).all()
    for name in ("relaxed_values", "longest", "iterations", "seconds"):
        assert getattr(path, name).shape == (4, 4)


def test_path_starts_from_neighbours():
    rng = np.random.default_rng(5)
    X, Y = rng.standard_normal((120, 2)), rng.standard_normal((120, 2)) + 2.0
    C = ((X[:, None] - Y) ** 2).sum(axis=2)
    gammas, caps = [0.5, 1.0, 2.0], [4, None]
    path = ot_regularization_path(C / C.max(), gammas=gammas, max_nnzs=caps, rounding="none")
    steps = sum(r.counts["newton_steps"] for row in path.results for r in row)
    solver = SparsityConstrainedOT(rounding="none")
    cold = [
        solver.solve(TransportProblem(C=C / C.max(), gamma=gamma, max_nnz=cap))
        for gamma in gammas
        for cap in caps
    ]
    assert steps < sum(r.counts["newton_steps"] for r in cold)


def test_path_says_which_pairs_did_not_converge():
    C, a, b = data()
    with pytest.warns(ConvergenceWarning, match=r"2 of 2 pairs .* the first \(1.0, None\)"):
        ot_regularization_path(C, a, b, gammas=[1.0, 2.0], method="adam", max_iter=3, tol=1e-9)


def test_path_ends_when_the_callback_says_so():
    C, a, b = data()
    seen = []

    def stop(intermediate_result):
        seen.append(intermediate_result.nit)
        if seen.count(0) == 3:
            raise StopIteration

    path = ot_regularization_path(C, a, b, gammas=[1.0, 2.0], max_nnzs=[3, None], callback=stop)
    assert seen.count(0) == 3
    # Large caps first, for each small strengths first.
    assert [[r is None for r in row] for row in path.results] == [[False, False], [True, False]]
    assert path.converged.tolist() == [[path.results[0][0].success, True], [False, True]]
    assert np.isnan(path.values[1, 0])
    for name in ("nonzeros", "longest", "iterations"):
        assert getattr(path, name)[1, 0] == -1
        assert getattr(path, name).dtype == np.int64
    for name in ("dual_values", "relaxed_values", "gaps", "costs", "residuals", "seconds"):
        assert np.isnan(getattr(path, name)[1, 0])
        assert np.isfinite(getattr(path, name)[0, 1])
    assert repr(path).endswith("of 4 converged, 1 not reached)")


def test_a_callback_that_stops_at_the_answer_ends_the_path_too():
    def stop(intermediate_result):
        if intermediate_result.residual <= 1e-6:
            raise StopIteration

    C, a, b = data()
    path = ot_regularization_path(C, a, b, gammas=[1.0, 2.0], callback=stop)
    assert path.results[0][0].status is Status.CONVERGED
    assert path.results[1][0] is None


@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_ends_the_path(times):
    def press(intermediate_result):
        if intermediate_result.nit == 1:
            for _ in range(times):
                signal.raise_signal(signal.SIGINT)

    C, a, b = data()
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        path = ot_regularization_path(
            C, a, b, gammas=[1.0, 2.0], method="adam", callback=press, tol=1e-9
        )
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
    assert path.results[0][0].status is Status.INTERRUPTED
    assert path.results[0][0].message.startswith("Interrupted")
    assert path.results[1][0] is None


def test_ctrl_c_while_the_answer_is_made_keeps_the_other_pairs(monkeypatch):
    def answer(self, problem, state, status):
        if len(made) == 2:
            raise KeyboardInterrupt
        made.append(1)
        return plain(self, problem, state, status)

    made, plain = [], SparsityConstrainedOT.answer
    monkeypatch.setattr(SparsityConstrainedOT, "answer", answer)
    C, a, b = data()
    path = ot_regularization_path(C, a, b, gammas=[1.0, 2.0, 3.0, 4.0])
    assert [row[0] is None for row in path.results] == [False, False, True, True]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"method": "ssn", "gammas": [1.0], "max_nnzs": [None, 3]},
            "OT: method='ssn' with max_nnz=3",
        ),
        ({"method": "bcd", "gammas": [1.0], "max_nnzs": [None, 3]}, "method='bcd' with max_nnz=3"),
        ({"method": "bcd", "gammas": [1.0, 0.0]}, "method='bcd' with gamma=0"),
        ({"method": "sgd", "gammas": [1.0, 0.0]}, "method='sgd' with gamma=0"),
        ({"gammas": [1.0], "callback": 1}, "callback=1"),
    ],
)
def test_path_checks_the_method_before_it_begins(monkeypatch, options, message):
    monkeypatch.setattr(SparsityConstrainedOT, "init", lambda *_: pytest.fail("it has begun"))
    C, a, b = data()
    with pytest.raises(ParameterError, match=message):
        ot_regularization_path(C, a, b, **options)


# -- the plan -------------------------------------------------------------------------------------


def test_a_copy_of_a_plan_keeps_its_potentials():
    C, a, b = data()
    plan = sparse_ot(C, a, b, max_nnz=3).x
    plan = plan.with_potentials(plan.alpha, plan.beta, relaxed=plan)
    copied = plan.copy()
    assert isinstance(copied, TransportPlan)
    for name in ("alpha", "beta", "data", "indices", "indptr"):
        np.testing.assert_array_equal(getattr(copied, name), getattr(plan, name))
        assert not np.shares_memory(getattr(copied, name), getattr(plan, name))
    np.testing.assert_array_equal(copied.relaxed.toarray(), plan.toarray())
    assert not np.shares_memory(copied.relaxed.data, plan.relaxed.data)
    assert TransportPlan(np.eye(2)).copy().alpha is None


def test_a_plan_is_shown_in_one_line():
    plan = TransportPlan(np.array([[0.5, 0.25], [0.0, 0.25], [0.0, 0.0]]))
    text = "TransportPlan(3 x 2, 3 nonzeros, at most 2 a column)"
    assert repr(plan) == text
    assert repr(TransportPlan((0, 0))) == "TransportPlan(0 x 0, 0 nonzeros, at most 0 a column)"
    assert text in str(plan)
    assert f"x: {text}" in repr(Result(x=plan))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"gammas": 1.0}, ParameterError, "gammas=1.0 must be a sequence"),
        ({"gammas": []}, ParameterError, "gammas is empty"),
        ({"gammas": [1.0, -1.0]}, ParameterError, "gammas=-1.0 must be"),
        ({"gammas": [1.0], "max_nnzs": 3}, ParameterError, "max_nnzs=3 must be a sequence"),
        ({"gammas": [1.0], "max_nnzs": [3, 0]}, ParameterError, "max_nnzs=0 must be"),
        ({"gammas": [1.0], "max_nnzs": [None, 1]}, InfeasibleError, "max_nnz=1"),
        ({"gammas": [1.0], "gamma": 1.0}, TypeError, "does not take gamma; give gammas"),
        ({"gammas": [1.0], "max_nnz": 2}, TypeError, "does not take max_nnz; give max_nnzs"),
        ({"gammas": [1.0], "x0": None}, TypeError, "does not take x0"),
    ],
)
def test_bad_grids(options, error, message):
    C, a, b = data()
    with pytest.raises(error, match=message):
        ot_regularization_path(C, a, b, **options)
