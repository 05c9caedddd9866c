"""Every bad input of transport has its error or warning; every unusual good one just works."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from lowrank_opt.core import Status
from lowrank_opt.core.errors import (
    AccuracyWarning,
    InfeasibleError,
    ParameterError,
    ProblemError,
    ProblemTypeError,
    SolverFailure,
    UnsupportedBackendError,
)
from lowrank_opt.transport import SparsityConstrainedOT, TransportPlan, TransportProblem

A, B = [0.5, 0.3, 0.2], [0.4, 0.6]
C = [[0.0, 1.0], [2.0, 0.5], [1.0, 1.0]]
X, Y = [[0.0, 0.0], [1.0, 0.0], [0.0, 2.0]], [[0.0, 1.0], [1.0, 1.0]]


def make(a=A, b=B, c=C, **options):
    return TransportProblem(a, b, c, **options)


def solve(problem, **options):
    options = {"rounding": "none", "start": "zero", "tol": 1e-8, **options}
    return SparsityConstrainedOT(**options).solve(problem)


# -- masses and costs -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"a": [0.5, np.nan, 0.5]}, r"a\[1\] is NaN or infinite"),
        ({"b": [np.inf, 0.5]}, r"b\[0\] is NaN or infinite"),
        ({"a": [0.9, 0.3, -0.2]}, r"a\[2\] = -0.2 is negative"),
        ({"b": [-1e-9, 1.0]}, r"b\[0\] = -1e-09 is negative"),
        ({"a": [0.5, 0.5]}, r"a has shape \(2,\); expected \(3,\), one mass for each row"),
        ({"b": [B]}, r"b has shape \(1, 2\); expected \(2,\), one mass for each column"),
        ({"a": 1.0}, r"a has shape \(\); expected \(3,\)"),
        ({"a": [0.0, 0.0, 0.0]}, "a has total 0; a positive, finite total is needed"),
        ({"a": [1e308] * 3, "b": [1e308] * 2}, "a has total inf"),
        ({"c": [[np.nan, 1.0], [0.0, 1.0], [1.0, 1.0]]}, r"C\[0, 0\] is NaN"),
        ({"c": [[0.0, 1.0], [0.0, -np.inf], [1.0, 1.0]]}, "C has -inf entries"),
        ({"c": [0.0, 1.0]}, r"C has shape \(2,\); expected \(m, n\)"),
        ({"c": np.ones((3, 2, 1))}, r"C has shape \(3, 2, 1\)"),
        ({"c": 1.0}, r"C has shape \(\)"),
        ({"c": np.empty((0, 2))}, r"C has shape \(0, 2\); expected \(m, n\), neither 0"),
        ({"c": np.empty((3, 0))}, r"C has shape \(3, 0\)"),
        ({"c": sp.csr_array((3, 0))}, r"C has shape \(3, 0\)"),
        ({"c": sp.csc_array(np.diag([np.nan] * 3)[:, :2])}, r"C\[0\] is NaN"),
        ({"c": sp.csc_array(np.diag([-np.inf] * 3)[:, :2])}, "C has -inf entries"),
    ],
)
def test_bad_masses_and_costs(change, message):
    with pytest.raises(ProblemError, match=message):
        make(**change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"a": ["x", "y", "z"]}, "a has dtype <U1; real numbers are needed"),
        ({"a": np.array(A, complex)}, "a has dtype complex128"),
        ({"c": np.array(C, complex)}, "C has dtype complex128"),
        ({"c": sp.csr_array(np.array(C, complex))}, "C has dtype complex128"),
        ({"c": [[0.0, 1.0], [2.0], [1.0, 1.0]]}, "C is not a rectangular array"),
        ({"c": np.array(C, object)}, "C has dtype object"),
        ({"b": np.ma.array(B)}, "b is a MaskedArray; a dense array without mask is needed"),
    ],
)
def test_costs_and_masses_that_are_no_real_numbers(change, message):
    with pytest.raises(ProblemTypeError, match=message):
        make(**change)


@pytest.mark.parametrize("axis", [0, 1])
def test_unequal_totals_say_both_sums_and_the_way_out(axis):
    free = "a" if axis == 0 else "b"
    with pytest.raises(
        ProblemError,
        match=rf"sum\(a\) = 1.1 and sum\(b\) = 1 differ; .*{free}_upper=True.*unbalanced='kl'",
    ):
        make(a=[0.6, 0.3, 0.2], axis=axis)
    # and the ways out are ones
    upper = {f"{free}_upper": True}
    if axis == 0:
        assert make(a=[0.6, 0.3, 0.2], axis=axis, **upper).row_kind == "upper"
    assert make(a=[0.6, 0.3, 0.2], axis=axis, unbalanced="l2").row_kind == "l2"


def test_small_differences_of_totals_are_taken_out():
    a, b = np.array(A), np.array(B)
    with pytest.raises(ProblemError, match="differ"):
        make(a=a * (1 + 2e-8))
    result = solve(make(a=a * (1 + 5e-9)))
    assert result.status is Status.CONVERGED
    assert result.row_residual <= 1e-8
    # float32 masses have totals of that precision
    thirds = np.full(3, 1 / 3, np.float32)
    assert float(np.float32(thirds).sum(dtype=np.float64)) != 1.0
    assert solve(make(a=thirds, b=b)).status is Status.CONVERGED


def test_too_little_mass_for_a_partial_plan():
    with pytest.raises(InfeasibleError, match=r"sum\(a\) = 0.9 is less than sum\(b\) = 1: all of"):
        make(a=[0.4, 0.3, 0.2], a_upper=True)
    with pytest.raises(InfeasibleError, match=r"sum\(b\) = 0.5 is less than sum\(a\) = 1"):
        make(b=[0.25, 0.25], b_upper=True, axis=1)


# -- costs or points ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({}, "neither C nor X and Y"),
        ({"C": C, "X": X, "Y": Y}, "C, X, Y"),
        ({"C": C, "Y": Y}, "C, Y"),
        ({"X": X}, "got X;"),
        ({"Y": Y}, "got Y;"),
    ],
)
def test_costs_or_points_not_both_not_neither(given, named):
    with pytest.raises(ProblemError, match=f"{named}.*give the costs C, or the points X and Y"):
        TransportProblem(A, B, **given)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"X": [[0.0], [1.0], [2.0]]}, ProblemError, r"X has shape \(3, 1\) and Y has shape"),
        ({"X": [0.0, 1.0, 2.0]}, ProblemError, r"X has shape \(3,\); expected \(number of points"),
        ({"Y": np.empty((2, 0))}, ProblemError, r"Y has shape \(2, 0\)"),
        ({"Y": [[0.0, np.nan], [1.0, 1.0]]}, ProblemError, r"Y\[0, 1\] is NaN or infinite"),
        ({"X": [[np.inf, 0.0], [1.0, 1.0], [0, 0]]}, ProblemError, r"X\[0, 0\] is NaN or inf"),
        ({"X": sp.csr_array(X)}, ProblemTypeError, "X is sparse; points must be a dense array"),
        ({"a": [0.5, 0.5]}, ProblemError, r"a has shape \(2,\); expected \(3,\)"),
        ({"metric": "cosine"}, ParameterError, "metric='cosine'"),
        ({"metric": None}, ParameterError, "metric=None"),
    ],
)
def test_bad_points(change, error, message):
    with pytest.raises(error, match=message):
        TransportProblem(**{"a": A, "b": B, "X": X, "Y": Y, **change})


# -- parameters -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_nnz", 0),
        ("max_nnz", -1),
        ("max_nnz", 2.0),
        ("max_nnz", 1.5),
        ("max_nnz", True),
        ("max_nnz", np.bool_(True)),
        ("max_nnz", "2"),
        ("max_nnz", np.nan),
        ("max_nnz", [2]),
        ("gamma", -1.0),
        ("gamma", np.nan),
        ("gamma", np.inf),
        ("gamma", "1"),
        ("gamma", None),
        ("gamma", True),
        ("axis", 2),
        ("axis", -1),
        ("axis", None),
        ("a_upper", 1),
        ("a_upper", "yes"),
        ("b_upper", None),
        ("unbalanced", "tv"),
        ("unbalanced", True),
        ("marginal_weight", 0.0),
        ("marginal_weight", -1.0),
        ("marginal_weight", np.inf),
        ("gamma_scale", "auto"),
    ],
)
def test_bad_parameters(name, value):
    with pytest.raises(ParameterError, match=rf"TransportProblem: {name}=.* must be "):
        make(**{name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("method", "emd"),
        ("formulation", "primal"),
        ("rounding", "lp"),
        ("rounding", None),
        ("start", "sinkhorn"),
        ("screening", 1),
        ("history_size", 0),
        ("step_size", -1.0),
        ("batch_size", 0),
        ("batch_size", 1.5),
        ("tol", -1e-6),
        ("tol", np.nan),
        ("max_iter", -1),
        ("max_time", -1.0),
        ("n_threads", 0),
    ],
)
def test_bad_parameters_of_the_solver(name, value):
    with pytest.raises(ParameterError, match=rf"{name}="):
        solve(make(), **{name: value})


def test_the_side_with_the_cap_is_no_upper_bound():
    with pytest.raises(ParameterError, match="b_upper=True with axis=0; only the side without"):
        make(b_upper=True)
    with pytest.raises(ParameterError, match=r"a_upper=True with axis=1; .*give b_upper"):
        make(a_upper=True, axis=1)
    with pytest.raises(ParameterError, match="a_upper=True with unbalanced='kl'; give one"):
        make(a_upper=True, unbalanced="kl")


@pytest.mark.parametrize("axis", [0, 1])
def test_a_cap_above_the_length_is_no_cap_and_says_so(axis):
    length = 3 if axis == 0 else 2
    with pytest.warns(AccuracyWarning, match=f"max_nnz=7 is more than the {length} entries"):
        problem = make(max_nnz=7, axis=axis)
    assert problem.cap == length
    plain = solve(make(max_nnz=length, axis=axis))
    assert solve(problem).relaxed_value == pytest.approx(plain.relaxed_value, rel=1e-9)


@pytest.mark.parametrize("kind", [np.int8, np.int32, np.int64, np.uint16])
def test_numpy_integers_are_caps(kind):
    assert make(max_nnz=kind(2)).cap == 2
    assert make(max_nnz=kind(2), axis=kind(0)).axis == 0


def test_a_cap_without_regularisation_says_what_it_does():
    with pytest.warns(AccuracyWarning, match="gamma=0 with max_nnz=2: the relaxation does not"):
        make(max_nnz=2, gamma=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make(gamma=0)  # plain transport


# -- feasibility ----------------------------------------------------------------------------------


def test_fewer_places_than_rows():
    with pytest.raises(InfeasibleError, match=r"max_nnz=1: 2 columns with 1 places each cannot"):
        make(max_nnz=1)
    # in the other direction there are enough
    with pytest.warns(AccuracyWarning, match="3 places are fewer than the 4"):
        make(max_nnz=1, axis=1)
    # rows without mass need no place, and rows that may be left out neither
    with pytest.warns(AccuracyWarning, match="fewer than the 3"):
        make(a=[0.7, 0.0, 0.3], max_nnz=1)
    make(max_nnz=1, a_upper=True)
    make(max_nnz=1, unbalanced="kl")


def test_fewer_places_than_masses_in_general_position_need():
    a, b = np.array([0.1, 0.2, 0.3, 0.4]), np.array([0.25, 0.35, 0.4])
    with pytest.raises(InfeasibleError):
        make(a, b, np.ones((4, 3)), max_nnz=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make(a, b, np.ones((4, 3)), max_nnz=2)
        make(np.ones(4), np.ones(4), np.ones((4, 4)), max_nnz=1)  # equal masses: a permutation
    with pytest.warns(AccuracyWarning, match=r"4 places are fewer than the 7 .*max_nnz >= 2"):
        make(a, a, np.ones((4, 4)), max_nnz=1)


def test_a_mass_without_an_allowed_pair():
    inf = np.inf
    with pytest.raises(InfeasibleError, match=r"a\[1\] = 0.3 has no allowed pair"):
        make(c=[[0.0, 1.0], [inf, inf], [1.0, 1.0]])
    with pytest.raises(InfeasibleError, match=r"b\[0\] = 0.4 has no allowed pair"):
        make(c=[[inf, 1.0], [inf, 1.0], [inf, 1.0]])
    with pytest.raises(InfeasibleError, match=r"b\[1\] = 0.6 has no allowed pair"):
        make(c=sp.csc_array(np.array([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0]])))
    # only pairs with a row of no mass
    with pytest.raises(InfeasibleError, match=r"b\[0\] = 0.4 has no allowed pair"):
        make(a=[0.0, 0.5, 0.5], c=[[0.0, 1.0], [inf, 1.0], [inf, 1.0]])
    # a row that may be left out needs none
    result = solve(make(a=[0.9, 0.3, 0.4], c=[[0.0, 1], [inf, inf], [1, 1]], a_upper=True))
    assert result.status is Status.CONVERGED
    assert result.x.toarray()[1].sum() == 0.0


def test_allowed_pairs_that_cannot_carry_the_masses():
    """Every mass has a pair, but no plan exists: a status and a proof."""
    inf = np.inf
    problem = make(a=[0.7, 0.3], b=[0.4, 0.6], c=[[0.0, inf], [1.0, 1.0]])
    result = solve(problem, max_iter=30)
    assert result.status is Status.INFEASIBLE
    assert not result.success
    assert result.plan_status == "infeasible"
    assert "The allowed pairs leave 0.3 of mass unserved" in result.message
    assert result.dual_value > 1.0 + 0.5  # the largest cost, and the penalty of one entry
    with pytest.raises(SolverFailure, match=r"infeasible"):
        result.raise_for_status()
    assert np.isfinite(result.x.data).all()


@pytest.mark.parametrize("form", ["matrix", "list"])
@pytest.mark.parametrize("rows", ["exact", "upper"])
@pytest.mark.parametrize("axis", [0, 1])
def test_proof_that_there_is_no_plan(form, rows, axis):
    """Masses that have to pass through too few pairs, and through enough of them."""
    rng = np.random.default_rng(0)
    for room, status in ((20, Status.INFEASIBLE), (35, Status.CONVERGED)):
        costs = rng.random((40, 60)) + 0.1  # the cap is on the columns
        if rows == "exact":
            costs[:20, room:] = np.inf  # half of the mass to a third, or to more than half
            options = {}
        else:
            costs[room:, :40] = np.inf  # two thirds of the mass from a half, or from enough
            options = {"a_upper" if axis == 0 else "b_upper": True}
        masses = np.full(40, 1 / 40), np.full(60, 1 / 60)
        if axis == 1:
            costs, masses = costs.T, masses[::-1]
        data = sp.csc_array(np.where(np.isfinite(costs), costs, 0.0)) if form == "list" else costs
        problem = TransportProblem(*masses, data, max_nnz=5, axis=axis, **options)
        result = SparsityConstrainedOT(rounding="none").solve(problem)
        assert result.status is status
        worst = costs[np.isfinite(costs)].max() + 0.5 / 60
        assert (result.dual_value > worst) == (status is Status.INFEASIBLE)
        assert (result.plan_status == "infeasible") == (status is Status.INFEASIBLE)


# -- unusual but good -----------------------------------------------------------------------------


def forms_of(value):
    """The same numbers in every form that an array may have."""
    x = np.array(value)
    spread = np.zeros([2 * n for n in x.shape])
    spread[tuple(slice(None, None, 2) for _ in x.shape)] = x
    frozen = x.copy()
    frozen.flags.writeable = False
    yield "list", x.tolist()
    yield "tuple", tuple(x.tolist())
    yield "read-only", frozen
    yield "Fortran", np.asfortranarray(x)
    yield "strided", spread[tuple(slice(None, None, 2) for _ in x.shape)]
    yield (
        "reversed",
        x[tuple(slice(None, None, -1) for _ in x.shape)].copy()[
            tuple(slice(None, None, -1) for _ in x.shape)
        ],
    )
    yield "big-endian", x.astype(">f8")
    yield "pandas", pd.Series(x) if x.ndim == 1 else pd.DataFrame(x)


@pytest.mark.parametrize("which", ["a", "b", "c"])
def test_arrays_of_every_form(which, tmp_path):
    plain = {"a": np.array(A), "b": np.array(B), "c": np.array(C)}
    expected = solve(make(**plain, gamma=0.5, max_nnz=2)).x
    path = tmp_path / "numbers.npy"
    np.save(path, plain[which])
    forms = [*forms_of(plain[which]), ("memmap", np.load(path, mmap_mode="r"))]
    for name, value in forms:
        kept = np.array(value)
        result = solve(make(**{**plain, which: value}, gamma=0.5, max_nnz=2))
        np.testing.assert_array_equal(result.x.toarray(), expected.toarray(), err_msg=name)
        np.testing.assert_array_equal(np.array(value), kept, err_msg=name)


@pytest.mark.parametrize("which", ["X", "Y"])
def test_points_of_every_form(which):
    plain = {"X": np.array(X), "Y": np.array(Y)}
    expected = solve(TransportProblem(A, B, **plain)).x
    for name, value in forms_of(plain[which]):
        result = solve(TransportProblem(A, B, **{**plain, which: value}))
        np.testing.assert_array_equal(result.x.toarray(), expected.toarray(), err_msg=name)


def test_integers_are_float64_and_float32_stays():
    whole = make([2, 1, 1], [1, 3], [[0, 1], [2, 5], [1, 1]])
    assert whole.dtype == np.float64
    result = solve(whole)
    assert result.x.toarray().sum() == pytest.approx(4.0, rel=1e-12)
    single = make(c=np.array(C, np.float32))
    assert single.dtype == np.float32
    result = solve(single, tol=1e-5)
    assert (result.x.dtype, result.alpha.dtype) == (np.float32, np.float64)
    twin = solve(make(), tol=1e-5)
    np.testing.assert_allclose(result.x.toarray(), twin.x.toarray(), atol=1e-4)
    assert make(c=np.array(C, np.float16)).dtype == np.float32
    assert make(c=np.array(C) > 0.7).dtype == np.float64


@pytest.mark.parametrize(
    "kind", [sp.csr_array, sp.csc_matrix, sp.coo_array, sp.lil_array, sp.dia_array, sp.bsr_array]
)
def test_sparse_costs_of_every_format(kind):
    dense = np.array([[1.0, 2.0], [3.0, 0.0], [4.0, 5.0]])
    expected = np.where(dense == 0, np.inf, dense)
    result = solve(make(c=kind(dense)))
    twin = solve(make(c=expected))
    assert result.relaxed_value == pytest.approx(twin.relaxed_value, rel=1e-9)
    assert result.x.toarray()[1, 1] == 0.0


def test_a_stored_zero_is_a_free_pair_and_duplicates_add():
    stored = sp.coo_array(
        ([0.0, 1.0, 1.0, 1.0, 0.5, 0.5], ([0, 0, 1, 2, 2, 2], [0, 1, 1, 0, 1, 1])), shape=(3, 2)
    )
    result = solve(make(c=stored))
    twin = solve(make(c=[[0.0, 1.0], [np.inf, 1.0], [1.0, 1.0]]))
    assert result.relaxed_value == pytest.approx(twin.relaxed_value, rel=1e-9)
    assert stored.nnz == 6


@pytest.mark.parametrize("axis", [0, 1])
def test_zero_masses_are_left_out_and_put_back(axis):
    a, b = np.array([0.5, 0.0, 0.3, 0.2, 0.0]), np.array([0.0, 0.4, 0.6])
    costs = np.arange(15.0).reshape(5, 3) % 7
    options = {"max_nnz": 2, "axis": axis, "gamma": 0.5}
    result = solve(make(a, b, costs, **options))
    live = np.ix_(a > 0, b > 0)
    twin = solve(make(a[a > 0], b[b > 0], costs[live], **options))
    np.testing.assert_allclose(result.x.toarray()[live], twin.x.toarray(), rtol=0, atol=1e-12)
    assert result.x.toarray().sum() == pytest.approx(1.0, rel=1e-12)
    assert np.isfinite(result.alpha).all() and np.isfinite(result.beta).all()
    assert result.certificate.residual <= 1e-7


@pytest.mark.parametrize(("m", "n"), [(1, 1), (1, 4), (4, 1)])
def test_one_row_or_one_column(m, n):
    a, b = np.ones(m) / m, np.ones(n) / n
    costs = np.arange(1.0, m * n + 1).reshape(m, n)
    result = solve(make(a, b, costs, gamma=3.0))
    plan = np.outer(a, b)
    np.testing.assert_allclose(result.x.toarray(), plan, rtol=1e-7)
    assert result.relaxed_value == pytest.approx(
        np.sum(costs * plan) + 1.5 * np.sum(plan**2), rel=1e-7
    )


def test_masses_by_default_are_uniform():
    problem = TransportProblem(C=np.ones((4, 5)))
    np.testing.assert_array_equal(problem.a, np.full(4, 0.25))
    np.testing.assert_array_equal(problem.b, np.full(5, 0.2))


def test_nothing_of_the_caller_is_changed_or_kept_writable():
    a, b, costs = np.array(A), np.array(B), np.array(C)
    problem = make(a, b, costs)
    before = problem.objective(np.outer(A, B))
    solve(problem)
    for now, then in ((a, A), (b, B), (costs, C)):
        np.testing.assert_array_equal(now, then)
    a[:], b[:] = 7.0, 7.0
    assert problem.objective(np.outer(A, B)) == before


@pytest.mark.parametrize("module", [pytest.param("torch"), pytest.param("array_api_strict")])
def test_arrays_of_other_libraries_are_refused_with_a_reason(module):
    xp = pytest.importorskip(module, reason=f"{module} is not installed")
    with pytest.raises(UnsupportedBackendError):
        make(c=xp.asarray(C))


# -- points to start from -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("x0", "error", "message"),
    [
        (np.ones((2, 3)), ProblemError, r"x0 is a plan of shape \(2, 3\); the problem has shape"),
        (np.full((3, 2), np.nan), ProblemError, "x0.*is NaN"),
        (np.full((3, 2), np.inf), ProblemError, r"x0\[0, 0\] is NaN or infinite"),
        (sp.csc_array(np.full((3, 2), np.inf)), ProblemError, "x0 has NaN or infinite entries"),
        (np.ones(2), ProblemError, r"alpha has shape \(2,\); expected \(3,\)"),
        (np.array([0.0, np.inf, 0.0]), ProblemError, r"x0\[1\] is NaN or infinite"),
        ((np.ones((3, 2)), [0, np.inf, 0]), ProblemError, "alpha has NaN or infinite potentials"),
        (np.ones((3, 2), complex), ProblemTypeError, "x0 has dtype complex128"),
        (sp.csc_array(np.ones((3, 2), complex)), ProblemTypeError, "x0 has dtype complex128"),
        ("warm", ProblemTypeError, "x0 has dtype <U4"),
        (
            TransportPlan(np.ones((3, 2)), alpha=np.ones(5)),
            ProblemError,
            r"alpha has shape \(5,\)",
        ),
        (
            TransportPlan(np.ones((3, 2)), beta=np.ones(5)),
            ProblemError,
            r"beta has shape \(5,\); expected \(2,\)",
        ),
        (
            TransportPlan(np.ones((3, 2)), relaxed=sp.csc_array(np.ones((2, 2)))),
            ProblemError,
            r"x0.relaxed is a plan of shape \(2, 2\)",
        ),
    ],
)
def test_bad_starts(x0, error, message):
    with pytest.raises(error, match=message):
        SparsityConstrainedOT().solve(make(), x0=x0)


def test_bad_potentials():
    with pytest.raises(ProblemError, match=r"alpha has shape \(2,\); expected \(3,\)"):
        make().dual_value([0.0, 1.0])
    with pytest.raises(ProblemError, match=r"alpha\[1\] is NaN"):
        make().dual_value([0.0, np.nan, 1.0])


def test_a_plan_far_from_the_masses_is_a_start_all_the_same():
    for x0 in (np.zeros((3, 2)), 1e6 * np.ones((3, 2)), -np.ones((3, 2)), 1e8 * np.ones(3)):
        result = SparsityConstrainedOT(rounding="none", tol=1e-8).solve(make(), x0=x0)
        assert result.status is Status.CONVERGED, result.message


# -- silence is never an answer -------------------------------------------------------------------


def test_a_limit_is_a_status():
    rng = np.random.default_rng(0)
    problem = TransportProblem(C=rng.random((40, 40)), max_nnz=2, gamma=1.0)
    for limit, status in (
        ({"max_iter": 1}, Status.ITERATION_LIMIT), ({"max_time": 0.0}, Status.TIME_LIMIT),
    ):  # fmt: skip
        result = solve(problem, tol=1e-12, **limit)
        assert result.status is status
        assert not result.success
        assert result.residual > 1e-12
        with pytest.raises(SolverFailure):
            result.raise_for_status()
    assert solve(problem).success
