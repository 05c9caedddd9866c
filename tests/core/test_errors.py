from __future__ import annotations

import pickle

import pytest

from lowrank_opt import core
from lowrank_opt.core import errors

CASES = [
    (core.ProblemError("bad"), ValueError),
    (errors.ProblemTypeError("bad"), TypeError),
    (core.ParameterError("bad"), ValueError),
    (core.UnsupportedProblemError("S", ["HasProx"], "P", ["T"]), TypeError),
    (core.UnsupportedBackendError("bad"), TypeError),
    (core.MissingDependencyError("rich", "progress", "the bar"), ImportError),
    (core.CheckpointError("bad"), ValueError),
    (core.SolverFailure("bad", {"nit": 3}), RuntimeError),
]


@pytest.mark.parametrize(("error", "builtin"), CASES, ids=lambda v: getattr(v, "__name__", ""))
def test_errors_have_two_bases_and_survive_pickle(error, builtin):
    assert isinstance(error, core.LowRankOptError)
    assert isinstance(error, builtin)
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert str(again) == str(error)
    assert vars(again) == vars(error)


def test_problem_type_error_is_a_problem_error():
    assert issubclass(errors.ProblemTypeError, core.ProblemError)


def test_unsupported_problem_says_what_is_missing_and_what_fits():
    error = core.UnsupportedProblemError("Newton", ["HasProx", "HasBlocks"], "Mine", ["A", "B"])
    assert str(error) == (
        "Newton cannot solve Mine: it lacks HasProx (a proximal operator), HasBlocks (variables in "
        "blocks). Solvers that accept it: A, B."
    )
    alone = core.UnsupportedProblemError("Newton", ["HasProx"], "Mine")
    assert "Give Mine the methods" in str(alone)


def test_missing_dependency_says_how_to_install():
    error = core.MissingDependencyError("rich", "progress", "the bar")
    assert str(error) == 'the bar needs rich: pip install "lowrank_opt[progress]"'


def test_convergence_warning_is_scikit_learns():
    from sklearn.exceptions import ConvergenceWarning

    assert core.ConvergenceWarning is ConvergenceWarning
    with pytest.raises(AttributeError, match="NoWarning"):
        errors.NoWarning  # noqa: B018


@pytest.mark.parametrize("name", ["EfficiencyWarning", "AccuracyWarning", "ExperimentalWarning"])
def test_warnings_are_user_warnings(name):
    assert issubclass(getattr(core, name), UserWarning)
