"""linprog against SciPy's: answers, fields, signs, forms of arguments; what it refuses."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from scipy.optimize import OptimizeResult
from scipy.optimize import linprog as scipy_linprog

from lowrank_opt.core.errors import ParameterError, ProblemError
from lowrank_opt.core.result import Result
from lowrank_opt.core.state import Status
from lowrank_opt.monotone import front
from lowrank_opt.monotone import highs as highs_module
from lowrank_opt.monotone.front import from_scipy_arguments, linprog
from lowrank_opt.monotone.halpern_pdhg import HalpernPDHG
from lowrank_opt.monotone.highs import solve_with_highs
from lowrank_opt.monotone.linear_program import LinearProgram
from lowrank_opt.monotone.quadratic_program import QuadraticProgram

INF = np.inf
METHODS = ["auto", "halpern", "highs", "highs-ds", "highs-ipm"]


def random_arguments(seed: int) -> dict:
    """Feasible, bounded and not degenerate, with every kind of bound."""
    rng = np.random.default_rng(seed)
    n, m_ub, m_eq = 9, 5, 3
    x = rng.standard_normal(n)
    lower, upper = x - rng.random(n), x + rng.random(n)
    kind = np.arange(n) % 5
    lower[(kind == 0) | (kind == 1)], upper[(kind == 0) | (kind == 2)] = -INF, INF
    lower[kind == 4] = upper[kind == 4] = x[kind == 4]
    # As many active constraints as variables: 3 equalities, 2 inequalities, 4 bounds.
    active = rng.permutation([1, 2, 3, 6, 7, 8])[:3]
    x[active] = np.where(lower > -INF, lower, upper)[active]
    A_ub, A_eq = rng.standard_normal((m_ub, n)), rng.standard_normal((m_eq, n))
    slack = np.r_[0.0, 0.0, 0.1 + rng.random(m_ub - 2)]
    y_ub, y_eq = -rng.random(m_ub) * (slack == 0), rng.standard_normal(m_eq)
    z = np.where(x == lower, 1.0, np.where(x == upper, -1.0, 0.0)) * rng.random(n)
    return {
        "c": A_ub.T @ y_ub + A_eq.T @ y_eq + z,
        "A_ub": A_ub, "b_ub": A_ub @ x + slack, "A_eq": A_eq, "b_eq": A_eq @ x,
        "bounds": np.stack([lower, upper], axis=1),
    }  # fmt: skip


def assert_like_scipy(ours, theirs, lower, upper, tol):
    assert ours.success and theirs.success, ours
    np.testing.assert_allclose(ours.x, theirs.x, rtol=tol, atol=tol)
    np.testing.assert_allclose(ours.fun, theirs.fun, rtol=tol, atol=tol)
    for name in ("slack", "con"):
        np.testing.assert_allclose(ours[name], theirs[name], rtol=tol, atol=tol, err_msg=name)
    for name in ("ineqlin", "eqlin", "lower", "upper"):
        group, known = getattr(ours, name), getattr(theirs, name)
        np.testing.assert_allclose(group.residual, known.residual, rtol=tol, atol=tol, err_msg=name)
        if name in ("lower", "upper"):
            # SciPy has the whole marginal of a fixed variable on one side, whatever its sign.
            free = lower != upper
            both = ours.lower.marginals + ours.upper.marginals
            expected = theirs.lower.marginals + theirs.upper.marginals
            np.testing.assert_allclose(both, expected, rtol=tol, atol=tol)
        else:
            free = slice(None)
        np.testing.assert_allclose(
            group.marginals[free], known.marginals[free], rtol=tol, atol=tol, err_msg=name
        )
    assert (ours.ineqlin.marginals <= 0).all()
    assert (ours.upper.marginals <= 0).all() and (ours.lower.marginals >= 0).all()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("seed", range(4))
def test_random_programs(seed, method):
    arguments = random_arguments(seed)
    theirs = scipy_linprog(**arguments, method="highs")
    tol = 1e-9 if method == "halpern" else 1e-8
    ours = linprog(**arguments, method=method, tol=tol)
    assert ours.status is Status.CONVERGED
    assert ours.certificate.residual <= 10 * tol
    lower, upper = arguments["bounds"].T
    assert_like_scipy(ours, theirs, lower, upper, 1e-6)
    # Marginals are derivatives of the optimal value.
    step = 1e-6
    b_ub = arguments["b_ub"] + step * np.eye(5)[1]
    b_eq = arguments["b_eq"] + step * np.eye(3)[2]
    for changed, marginal in (
        ({"b_ub": b_ub}, ours.ineqlin.marginals[1]), ({"b_eq": b_eq}, ours.eqlin.marginals[2])
    ):  # fmt: skip
        moved = scipy_linprog(**{**arguments, **changed}, method="highs")
        assert (moved.fun - theirs.fun) / step == pytest.approx(marginal, abs=1e-5)


BOUNDS = [
    (0, None), None, [], [[]], (None, None), (-1, 2), [(-1, 2)], [-1, 2], [[-1], [2]],
    (-INF, INF), (-1.5, None), [(0, 1), (None, 2), (-1, None)], ((0, 1), (None, 2), (-3, INF)),
    np.array([[0, 1], [-INF, 2], [-3, INF]]), [(0, 1), (1, 1), (-2, -2)],
]  # fmt: skip


@pytest.mark.parametrize("bounds", BOUNDS, ids=str)
def test_forms_of_bounds(bounds):
    A = np.array([[1.0, 2, 3], [-1, 0, 1], [-1, -2, -3], [1, 0, -1]])
    b = np.array([9.0, 8, 7, 6])
    c = -A.T @ [0.5, 1.0, 0.7, 1.3]  # bounded whatever the bounds
    theirs = scipy_linprog(c, A, b, bounds=bounds, method="highs")
    ours = linprog(c, A, b, bounds=bounds, method="highs")
    assert ours.success and theirs.success
    assert ours.fun == pytest.approx(theirs.fun)
    problem = from_scipy_arguments(c, A, b, bounds=bounds)
    result = scipy_linprog(c, bounds=np.stack([problem.lower, problem.upper], 1), A_ub=A, b_ub=b)
    assert result.fun == pytest.approx(theirs.fun)
    assert problem.shape == (4, 3)


@pytest.mark.parametrize("convert", [sp.csr_array, sp.csc_matrix, sp.coo_array, sp.dok_array, list])
@pytest.mark.parametrize("both", [True, False])
def test_forms_of_matrices(convert, both):
    arguments = random_arguments(1)
    known = linprog(**arguments)
    for name in ("A_ub", "A_eq") if both else ("A_eq",):
        value = arguments[name]
        arguments[name] = convert(value.tolist() if convert is list else value)
    result = linprog(**arguments)
    np.testing.assert_allclose(result.x, known.x)
    assert result.slack.shape == (5,) and result.con.shape == (3,)


def test_shapes_that_scipy_squeezes():
    c, A, b = np.array([[-1.0], [-2.0]]), [[1, 1]], [[4]]
    result = linprog(c, A, b, bounds=(0, 3))
    assert (result.x.tolist(), result.fun) == ([1.0, 3.0], -7.0)
    assert linprog(5.0, bounds=(2, 3)).x.tolist() == [2.0]
    assert linprog([1, 2], A_eq=np.empty((0, 2)), b_eq=[]).x.tolist() == [0.0, 0.0]


def test_result_is_ours_and_scipys():
    result = linprog([1.0, 1.0], A_eq=[[1.0, 2.0]], b_eq=[3.0])
    assert isinstance(result, Result) and isinstance(result, OptimizeResult)
    theirs = scipy_linprog([1.0, 1.0], A_eq=[[1.0, 2.0]], b_eq=[3.0])
    missing = {name for name in theirs if name not in result}
    assert missing <= {"crossover_nit", "mip_dual_bound", "mip_gap", "mip_node_count"}
    assert result.certificate.residual <= 1e-12
    assert (result.y.tolist(), result.z.tolist()) == ([0.5], [0.5, 0.0])


def test_result_is_saved_and_read(tmp_path):
    result = linprog([1.0, 1.0], A_eq=[[1.0, 2.0]], b_eq=[3.0])
    again = Result.load(result.save(tmp_path / "r.npz"))
    assert again.eqlin.marginals.tolist() == result.eqlin.marginals.tolist()
    assert again.status is Status.CONVERGED


# -- no solution ---------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_infeasible(method):
    A = [[1.0, 1.0], [-1.0, -1.0]]
    result = linprog([1.0, 1.0], A, [1.0, -2.0], method=method)
    assert (result.status, result.success) == (Status.INFEASIBLE, False)
    assert result.x is None and result.fun is None and result.slack is None
    # For x >= 0, y'b <= y'Ax <= 0: a positive y'b contradicts that.
    y = result.ray
    assert (y <= 0).all() and (np.transpose(A) @ y).max() <= 1e-8 * abs(y).max()
    assert y @ [1.0, -2.0] > 0


@pytest.mark.parametrize("method", METHODS)
def test_unbounded(method):
    result = linprog([-1.0, -1.0], [[1.0, -1.0]], [2.0], method=method)
    assert (result.status, result.success) == (Status.UNBOUNDED, False)
    d = result.ray
    assert (d >= 0).all() and d[0] - d[1] <= 1e-8 and d.sum() > 0


@pytest.mark.parametrize("method", METHODS)
def test_infeasible_with_a_descending_ray_is_not_unbounded(method):
    result = linprog(
        [-1.0, 0.0, 0.0], [[0.0, 1.0, 1.0], [0.0, -1.0, -1.0]], [1.0, -2.0], method=method
    )
    assert result.status is Status.INFEASIBLE


@pytest.mark.parametrize("method", METHODS)
def test_contradicting_bounds_are_infeasible_without_iterations(method):
    result = linprog([1.0, 1.0], [[1.0, 1.0]], [1.0], bounds=[(0, 1), (3, 2)], method=method)
    assert (result.status, result.nit) == (Status.INFEASIBLE, 0)
    assert "contradict" in result.message


@pytest.mark.parametrize("method", METHODS)
def test_programs_without_a_matrix(method):
    result = linprog([1.0, -1.0, 0.0], bounds=[(-2, 5), (-2, 5), (3, 4)], method=method)
    assert result.success
    assert result.x.tolist() == [-2.0, 5.0, 3.0]
    assert linprog([1.0, -1.0], method=method).status is Status.UNBOUNDED
    zeros = np.zeros((1, 2))
    assert linprog([1.0, 1.0], zeros, [-1.0], method=method).status is Status.INFEASIBLE
    result = linprog([1.0, 1.0], A_eq=zeros, b_eq=[0.0], method=method)
    assert result.x.tolist() == [0.0, 0.0]


@pytest.mark.parametrize("scale", [1e-8, 1.0, 1e8])
@pytest.mark.parametrize("what", ["c", "A", "b", "row"])
@pytest.mark.parametrize("method", ["auto", "halpern"])
def test_scaled_feasible_programs_are_not_called_infeasible(method, what, scale):
    arguments = random_arguments(2)
    names = {"c": ["c"], "A": ["A_ub", "A_eq", "b_ub", "b_eq"], "b": ["b_ub", "b_eq", "bounds"]}
    if what == "row":
        factor = np.array([scale, 1.0, 1.0])
        arguments["A_eq"] *= factor[:, None]
        arguments["b_eq"] *= factor
    for name in names.get(what, []):
        arguments[name] = arguments[name] * scale
    result = linprog(**arguments, method=method, max_iter=20_000)
    assert result.status not in (Status.INFEASIBLE, Status.UNBOUNDED)


# -- limits, starts, options ----------------------------------------------------------------------


def hard() -> dict:
    rng = np.random.default_rng(0)
    A = rng.random((60, 120))
    return {"c": -rng.random(120), "A_ub": A, "b_ub": A.sum(1), "bounds": (0, 2)}


@pytest.mark.parametrize("method", METHODS)
def test_iteration_limit(method):
    result = linprog(**hard(), method=method, max_iter=1)
    assert (result.status, result.success) == (Status.ITERATION_LIMIT, False)
    assert np.isfinite(result.x).all() and np.isfinite(result.certificate.residual)
    assert result.slack.shape == (60,)


@pytest.mark.parametrize("method", ["highs", "halpern"])
def test_time_limit(method):
    result = linprog(**hard(), method=method, max_time=0.0, tol=1e-12)
    assert (result.status, result.success) == (Status.TIME_LIMIT, False)


@pytest.mark.parametrize("method", METHODS)
def test_start_at_the_solution_takes_no_iterations(method):
    known = linprog(**hard(), method="highs")
    from lowrank_opt.monotone.points import PrimalDual

    start = PrimalDual(known.x, known.y)
    result = linprog(**hard(), method=method, x0=start)
    assert result.success and result.nit == 0
    np.testing.assert_allclose(result.fun, known.fun, rtol=1e-6)


def test_start_of_x_alone():
    known = linprog(**hard())
    result = linprog(**hard(), method="halpern", x0=known.x)
    assert result.success
    assert result.fun == pytest.approx(known.fun, rel=1e-5)
    with pytest.raises(ProblemError, match="x has shape"):
        linprog(**hard(), x0=known.x[1:])
    with pytest.raises(ProblemError):
        linprog(**hard(), x0=np.full(120, np.nan))


def test_scipys_options():
    result = linprog(**hard(), method="highs", options={"maxiter": 1, "disp": True})
    assert result.status is Status.ITERATION_LIMIT
    result = linprog(**hard(), options={"time_limit": 100.0, "presolve": False})
    assert result.success
    with pytest.raises(ParameterError, match=r"'maxit', .*mean 'maxiter'"):
        linprog(**hard(), options={"maxit": 3})
    with pytest.raises(ParameterError, match="give one of them"):
        linprog(**hard(), options={"maxiter": 3}, max_iter=4)


def test_tight_tolerance_reaches_highs():
    arguments = random_arguments(3)
    result = linprog(**arguments, method="highs", tol=1e-10)
    assert result.success and result.certificate.residual <= 1e-10


def test_claims_of_highs_are_graded(monkeypatch):
    """A wrong point that HiGHS calls optimal is not converged, and "auto" goes on."""
    point = highs_module._Run.point

    def wrong(self):
        x, y = point(self)
        return type(point(self))(x + 0.01, y)

    monkeypatch.setattr(highs_module._Run, "point", wrong)
    result = linprog(**hard(), method="highs")
    assert (result.status, result.success) == (Status.STALLED, False)
    assert "Optimal" in result.message
    assert linprog(**hard(), method="auto").success


def test_unproved_claims_of_highs_are_no_status(monkeypatch):
    monkeypatch.setattr(highs_module._Run, "ray", lambda self, model: None)
    result = linprog([1.0, 1.0], [[1.0, 1.0], [-1.0, -1.0]], [1.0, -2.0], method="highs")
    assert (result.status, result.success) == (Status.NUMERICAL_ERROR, False)


def test_quadratic_program_by_highs():
    # min x² - 2 x on x >= 2: x = 2, with the multiplier 2.
    qp = QuadraticProgram([[2.0]], [-2.0], [[1.0]], 2.0)
    result = solve_with_highs(qp)
    assert result.success
    assert result.x.x == pytest.approx([2.0]) and result.y == pytest.approx([2.0])
    # Free: x = 1; HiGHS gets the bounds of a program that has no rows at all.
    assert solve_with_highs(QuadraticProgram([[2.0]], [-2.0])).x.x == pytest.approx([1.0])


def test_offset_and_ranges_by_highs():
    lp = LinearProgram([1.0, 1.0], [[1.0, 2.0]], 1.0, 4.0, lower=0.0, offset=3.0)
    result = solve_with_highs(lp)
    assert result.fun == pytest.approx(3.5)


# -- refused ---------------------------------------------------------------------------------------

GOOD = {"c": [1.0, 2.0], "A_ub": [[1.0, 1.0]], "b_ub": [1.0], "A_eq": [[1.0, -1.0]], "b_eq": [0.0]}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"c": [1.0, np.nan]}, r"c\[1\]"),
        ({"c": [1.0, INF]}, r"c\[1\]"),
        ({"c": [[1.0, 2.0], [3.0, 4.0]]}, "c has shape"),
        ({"c": [1.0, 2.0j]}, "c has dtype complex"),
        ({"c": ["a", "b"]}, "c has dtype"),
        ({"A_ub": [[1.0, np.nan]]}, "A_ub"),
        ({"A_ub": sp.csr_array([[1.0, np.nan]])}, "A_ub"),
        ({"A_eq": [[1.0, INF]]}, "A_eq"),
        ({"A_ub": [[1.0, 2.0, 3.0]]}, r"A_ub has shape \(1, 3\), and c has 2"),
        ({"A_ub": [1.0, 2.0]}, r"A_ub has shape \(2,\)"),
        ({"b_ub": [1.0, 2.0]}, r"b_ub has shape \(2,\) and A_ub has shape \(1, 2\)"),
        ({"b_eq": [1.0, 2.0]}, r"b_eq has shape \(2,\) and A_eq"),
        ({"b_ub": [np.nan]}, "b_ub"),
        ({"b_ub": [-INF]}, "constraint_upper"),
        ({"b_eq": [INF]}, r"b_eq\[0\] is inf"),
        ({"b_ub": None}, "A_ub is given and b_ub is None"),
        ({"A_eq": None}, "b_eq has 1 entries, and A_eq is None"),
        ({"bounds": [(0, 1)] * 3}, r"bounds has shape \(3, 2\)"),
        ({"bounds": [(0, np.nan), (0, 1)]}, "bounds has NaN"),
        ({"bounds": [(0, 1), (0,)]}, "bounds cannot be read"),
        ({"bounds": [("a", 1), (0, 1)]}, "bounds cannot be read"),
        ({"bounds": (INF, INF)}, "lower"),
        ({"integrality": [0, 1]}, "integer"),
    ],
)
def test_bad_data(changes, message):
    assert linprog(**GOOD).success
    with pytest.raises((ProblemError, TypeError), match=message):
        linprog(**{**GOOD, **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "simplex"}, "method='simplex' must be"),
        ({"tol": 0.0}, "tol=0.0"),
        ({"tol": -1}, "tol=-1"),
        ({"max_iter": -1}, "max_iter=-1"),
        ({"max_time": -1.0}, "max_time=-1.0"),
        ({"method": "highs", "reflect": 0.9}, "no effect"),
    ],
)
def test_bad_parameters(changes, message):
    with pytest.raises(ParameterError, match=message):
        linprog(**GOOD, **changes)


def test_unknown_keyword():
    with pytest.raises(TypeError, match=r"'reflct'\. Did you mean 'reflect'"):
        linprog(**GOOD, reflct=0.5)


def test_presolve_is_of_both_methods():
    assert "HiGHS" in linprog(**hard(), presolve=False).solver
    assert "presolve=False" in linprog(**hard(), method="halpern", presolve=False).solver


def test_solver_parameters_choose_halpern():
    seen = []
    result = linprog(**hard(), reflect=0.9, callback=lambda intermediate_result: seen.append(1))
    assert result.success and seen and "HalpernPDHG" in result.solver


def test_zero_integrality_is_accepted():
    assert linprog(**GOOD, integrality=[0, 0]).success


# -- the rule of "auto" -----------------------------------------------------------------------


def test_auto_takes_turns_until_there_is_an_answer(monkeypatch):
    turns = []

    def note(function, name):
        def wrapper(*args, **kwargs):
            turns.append(name)
            return function(*args, **kwargs)

        return wrapper

    monkeypatch.setattr(front, "solve_with_highs", note(front.solve_with_highs, "highs"))
    monkeypatch.setattr(HalpernPDHG, "solve", note(HalpernPDHG.solve, "halpern"))
    assert linprog(**hard()).success
    assert turns == ["highs"]
    stages = [("highs", 0.0), ("halpern", 0.0), ("highs", 0.0), ("halpern", None)]
    monkeypatch.setattr(front, "_STAGES", stages)
    turns.clear()
    result = linprog(**hard())
    assert result.success and "HalpernPDHG" in result.solver
    assert turns == ["highs", "halpern", "highs", "halpern"]
    turns.clear()
    result = linprog(**hard(), max_time=0.0)
    assert (result.status, result.success) == (Status.TIME_LIMIT, False)
    assert turns == ["highs"] and np.isfinite(result.x).all()


def test_auto_gives_large_programs_to_halpern(monkeypatch):
    assert front._HIGHS_NNZ == 200_000
    monkeypatch.setattr(front, "_HIGHS_NNZ", 7199)
    assert "HalpernPDHG" in linprog(**hard()).solver
    monkeypatch.setattr(front, "_HIGHS_NNZ", 7200)
    assert "HiGHS" in linprog(**hard()).solver


def test_auto_gives_quadratic_programs_to_halpern():
    qp = QuadraticProgram([[2.0]], [-2.0], [[1.0]], 2.0)
    result = front.solve_program(qp)
    assert result.success and "HalpernPDHG" in result.solver
    assert result.x.x == pytest.approx([2.0], abs=1e-5)
