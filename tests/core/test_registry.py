from __future__ import annotations

import sys
import types

import numpy as np
import pytest

import lowrank_opt
from lowrank_opt.core import (
    Checkpoint,
    History,
    ParameterError,
    ProblemError,
    UnsupportedProblemError,
    register_solvers,
    registered_solvers,
    registry,
    solve,
    solver_class,
    solvers_for,
    warmup,
)
from lowrank_opt.testing.example import GradientDescent, Quadratic, make_quadratic


class NewtonMethod(GradientDescent):
    requires = ()


class AutoQuadratic(Quadratic):
    def auto_solver(self):
        return "GradientDescent", {"tol": 1e-9, "step_size": 0.05}


@pytest.fixture
def family(monkeypatch):
    """A family of two solvers, and none of the library's own."""
    package = types.ModuleType("lowrank_opt.toys")
    package.GradientDescent = GradientDescent
    package.NewtonMethod = NewtonMethod
    package.warmup = lambda: {"kernel": 0.5}
    monkeypatch.setitem(sys.modules, "lowrank_opt.toys", package)
    monkeypatch.setattr(lowrank_opt, "FAMILIES", ("toys",))
    monkeypatch.setattr(registry, "_SOLVERS", {})
    register_solvers("lowrank_opt.toys", ("NewtonMethod", "GradientDescent"))


@pytest.fixture
def auto():
    problem = make_quadratic()
    return AutoQuadratic(problem.A, problem.b)


def test_registered_solvers_are_sorted_by_name(family):
    assert registered_solvers() == {
        "GradientDescent": GradientDescent, "NewtonMethod": NewtonMethod,
    }  # fmt: skip
    assert list(registered_solvers()) == ["GradientDescent", "NewtonMethod"]


def test_unknown_solver_names_get_a_suggestion(family):
    assert solver_class("NewtonMethod") is NewtonMethod
    with pytest.raises(
        ParameterError, match=r"no solver 'GradientDecent'. Did you mean 'GradientD"
    ):
        solver_class("GradientDecent")
    with pytest.raises(ParameterError, match="Known: GradientDescent, NewtonMethod"):
        solve(make_quadratic(), "zzz")


def test_solvers_for_a_problem(family):
    assert solvers_for(make_quadratic()) == ["GradientDescent"]
    assert solvers_for(object()) == []


def test_a_refused_problem_lists_what_fits(family):
    class Other(GradientDescent):
        requires = (*GradientDescent.requires, lowrank_opt.core.HasProx)

    with pytest.raises(UnsupportedProblemError, match=r"lacks HasProx.*accept it: GradientDescent"):
        Other().solve(make_quadratic())


def test_a_solver_may_refuse_a_form_of_the_problem(family, monkeypatch):
    class Picky(GradientDescent):
        @classmethod
        def accepts(cls, problem):
            return ["a diagonal"]

    problem = make_quadratic()
    monkeypatch.setattr(sys.modules["lowrank_opt.toys"], "NewtonMethod", Picky)
    assert solvers_for(problem) == ["GradientDescent"]
    match = r"Picky cannot solve Quadratic.*lacks a diagonal\. Solvers.*: GradientDescent\.$"
    with pytest.raises(UnsupportedProblemError, match=match):
        Picky().solve(problem)
    with pytest.raises(UnsupportedProblemError, match="lacks HasGradient"):
        Picky().solve(object())  # asked only when the capabilities are there


def test_solve_by_name_instance_and_rule(family, auto):
    expected = np.linalg.solve(auto.A, auto.b)
    for solver, text in (
        ("auto", "GradientDescent(tol=1e-09, step_size=0.05)"),
        ("GradientDescent", "GradientDescent()"),
        (GradientDescent(tol=1e-8), "GradientDescent(tol=1e-08)"),
    ):
        result = solve(auto, solver)
        assert result.solver == text
        np.testing.assert_allclose(result.x, expected, rtol=1e-4)
    assert solve(auto, max_iter=7).nit == 7
    assert lowrank_opt.solve is solve


def test_parameters_replace_those_of_a_copy(family, auto):
    solver = GradientDescent(tol=1e-8)
    assert solve(auto, solver, max_iter=3).nit == 3
    assert solver.max_iter == 1000


def test_keywords_of_solve_are_passed_on(family, auto, tmp_path):
    history, seen = History(), []
    x0 = np.linalg.solve(auto.A, auto.b)
    result = solve(
        auto, "GradientDescent", x0=x0, history=history, checkpoint=Checkpoint(tmp_path / "r.npz"),
        callback=lambda intermediate_result: seen.append(1), progress=False,
    )  # fmt: skip
    assert (result.nit, len(history), seen) == (0, 1, [1])
    assert (tmp_path / "r.npz").exists()
    assert solve(auto, "GradientDescent", state=result.state).nit == 0


def test_unknown_keywords_get_a_suggestion(family, auto):
    with pytest.raises(
        TypeError, match=r"lowrank_opt\.solve got an unexpected keyword 'max_itr'.*'max_iter'"
    ):
        solve(auto, "GradientDescent", max_itr=3)
    with pytest.raises(TypeError, match="'stepsize'"):
        solve(auto, GradientDescent(), stepsize=3)


@pytest.mark.parametrize("solver", [None, 3, GradientDescent])
def test_other_solvers_are_refused(family, auto, solver):
    with pytest.raises(ParameterError, match="must be 'auto', a solver's name or a Solver"):
        solve(auto, solver)


def test_problems_without_a_rule_say_so(family):
    with pytest.raises(NotImplementedError, match=r"Quadratic has no auto_solver.*solver="):
        solve(make_quadratic())


def test_warmup(family):
    assert warmup() == {"toys.kernel": 0.5}
    assert warmup("toys") == warmup(["toys"]) == {"toys.kernel": 0.5}
    with pytest.raises(
        ParameterError, match=r"warmup: there is no family 'toyz'. Did you mean 'toys"
    ):
        warmup(["toyz"])


@pytest.mark.parametrize("data", [np.eye(3), [[1.0]], None, "data", GradientDescent])
def test_data_are_no_problem(family, data):
    match = r"MatrixCompletion\.from_dense.*TransportProblem.*complete.*sparse_ot"
    with pytest.raises(
        ProblemError,
        match=r"lowrank_opt\.solve: problem is .*expected a problem made from the data.*" + match,
    ):
        solve(data)
    match = r"expected a problem made from the data, with HasGradient \(a gradient\)$"
    with pytest.raises(ProblemError, match=r"GradientDescent\.solve: problem is .*" + match):
        GradientDescent().solve(data)


def test_data_are_no_problem_and_the_message_names_one_that_fits():
    from lowrank_opt.recovery import AlternatingMinimization
    from lowrank_opt.transport import SparsityConstrainedOT

    for solver, right, wrong in (
        (SparsityConstrainedOT(), r"TransportProblem\(a, b, C\).*sparse_ot", "MatrixCompletion"),
        (AlternatingMinimization(), r"MatrixCompletion\.from_dense.*complete", "Transport"),
    ):
        with pytest.raises(ProblemError, match=right) as caught:
            solver.solve(np.eye(3))
        assert wrong not in str(caught.value)


def test_capabilities_are_described_in_words(family):
    with pytest.raises(UnsupportedProblemError, match=r"lacks HasGradient \(a gradient\)"):
        GradientDescent().solve(object())
    for name in lowrank_opt.core.protocols.__all__:
        if name != "Array":
            assert f"{name} (" in str(UnsupportedProblemError("A", [name], "B"))
