"""What the leading implementation gets wrong, and ours does not; and where both must agree."""

from __future__ import annotations

import contextlib
import io
import warnings

import numpy as np
import pytest

from lowrank_opt.core import ConvergenceWarning, Status
from lowrank_opt.core.errors import AccuracyWarning, ParameterError
from lowrank_opt.transport import SparsityConstrainedOT, TransportProblem, sparse_ot

ot = pytest.importorskip("ot", reason="POT is not installed (extra transport)")

METHODS = ("ssnal", "lbfgs", "adam", "sgd")
CASES = [(method, "semidual") for method in METHODS] + [("lbfgs", "dual"), ("adam", "dual")]


@contextlib.contextmanager
def silenced():
    """Hand out what the peer prints; what it makes SciPy warn about is no matter of ours."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()) as lines:
        warnings.simplefilter("ignore")
        yield lines


def data(n=80, seed=3):
    rng = np.random.default_rng(seed)
    X, Y = rng.standard_normal((n, 2)), rng.standard_normal((n, 2)) + 1.5
    C = ((X[:, None] - Y) ** 2).sum(axis=2)
    a, b = rng.random(n) + 0.1, rng.random(n) + 0.1
    return a / a.sum(), b / b.sum(), C / C.max()


def peer(a, b, C, k, gamma):
    """Plan, bound and claim of POT's semi-dual solver, silenced."""
    with silenced():
        plan, log = ot.smooth.smooth_ot_semi_dual(
            a, b, C, gamma, reg_type="sparsity_constrained", max_nz=k, log=True, numItermax=2000
        )
    return plan, log


def solve(a, b, C, k, gamma, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AccuracyWarning)
        warnings.simplefilter("ignore", ConvergenceWarning)
        problem = TransportProblem(a, b, C, max_nnz=k, gamma=gamma)
        return SparsityConstrainedOT(rounding="none", **options).solve(problem)


@pytest.mark.parametrize("gamma", [1.0, 10.0])
def test_values_fall_with_the_cap_where_those_of_the_peer_do_not(gamma):
    """Every dual value is a bound from below: the largest one is the best."""
    a, b, C = data()
    ours, theirs = [], []
    for k in (2, 3, 4, 6, 80):
        result = solve(a, b, C, k, gamma, tol=1e-8)
        assert result.status is Status.CONVERGED
        ours.append(result.dual_value)
        plan, log = peer(a, b, C, k, gamma)
        bound = TransportProblem(a, b, C, gamma=gamma, max_nnz=min(k, 79)).dual_value(log["alpha"])
        theirs.append(bound)
        if k == 2:
            assert np.abs(plan.sum(axis=1) - a).sum() > 1e-2  # its plan does not move the masses
            assert log["res"].success  # and it says that all is well
            assert bound < result.dual_value - 1e-7
        assert bound <= result.dual_value + 1e-8
    assert np.max(np.diff(ours)) <= 1e-8
    assert ours[-1] == pytest.approx(theirs[-1], abs=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_a_search_that_stops_on_a_kink_is_no_success(method):
    a, b, C = data()
    result = solve(a, b, C, 2, 1.0, method=method, max_iter=2000)
    rows = np.abs(np.asarray(result.x.sum(axis=1)).ravel() - a).sum()
    if result.success:
        assert rows <= 1e-5
    else:
        assert method != "ssnal"
        assert result.status in (Status.STALLED, Status.ITERATION_LIMIT)
        if result.status is Status.STALLED:  # and says why, and what to do
            assert "use method='ssnal'" in result.message


@pytest.mark.parametrize(("method", "formulation"), CASES)
def test_nothing_is_printed(method, formulation, capsys):
    a, b, C = data(30)
    solve(a, b, C, 3, 1.0, method=method, formulation=formulation, max_iter=20)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == ""


@pytest.mark.parametrize(("method", "formulation"), CASES)
def test_arrays_of_the_caller_are_not_written_to(method, formulation):
    a, b, C = data(30)
    kept = a.copy(), b.copy(), C.copy()
    solve(a, b, C, 3, 1.0, method=method, formulation=formulation, max_iter=20)
    for array, copy in zip((a, b, C), kept, strict=True):
        np.testing.assert_array_equal(array, copy)


@pytest.mark.parametrize(
    ("method", "formulation"), [("ssnal", "semidual"), ("lbfgs", "semidual"), ("lbfgs", "dual")]
)
def test_a_cap_of_all_rows_and_more_is_no_cap(method, formulation):
    a, b, C = data(30)
    free = solve(a, b, C, None, 1.0)
    for k in (30, 31, np.int64(30)):
        result = solve(a, b, C, k, 1.0, method=method, formulation=formulation, max_iter=2000)
        assert result.status is Status.CONVERGED
        assert result.dual_value == pytest.approx(free.dual_value, rel=1e-6)
    with pytest.raises(ParameterError, match="max_nnz"):
        sparse_ot(C, a, b, max_nnz=0)


def test_caps_of_numpy_integers():
    a, b, C = data(30)
    expected = solve(a, b, C, 4, 1.0).dual_value
    for kind in (np.int64, np.int32, np.uint8):
        assert solve(a, b, C, kind(4), 1.0).dual_value == expected


def test_quadratic_plans_agree():
    a, b, C = data(40)
    with silenced():
        plan = ot.smooth.smooth_ot_dual(
            a, b, C, 5.0, reg_type="l2", stopThr=1e-12, numItermax=20_000
        )
    result = solve(a, b, C, None, 5.0, tol=1e-9)
    np.testing.assert_allclose(result.x.toarray(), plan, atol=2e-5)


def test_plain_transport_agrees():
    a, b, C = data(300)  # large enough for samples
    result = solve(a, b, C, None, 0.0, start="nested")
    assert result.relaxed_value == pytest.approx(ot.emd2(a, b, C), rel=1e-6)
    start = solve(a, b, C, None, 0.0)  # from the plan of the package: optimal
    assert start.nit == 0
    assert start.relaxed_value == pytest.approx(ot.emd2(a, b, C), rel=1e-10)


def test_a_cap_of_one_is_certified_from_the_plan_of_plain_transport():
    a, b, C = data(300)
    result = solve(a, b, C, 1, 1.0)
    assert result.nit == 0
    expected = ot.emd2(a, b, C) + 0.5 * b @ b
    assert result.dual_value == pytest.approx(expected, rel=1e-9)
    cold = solve(a, b, C, 1, 1.0, start="nested")
    assert cold.dual_value == pytest.approx(expected, rel=1e-6)
