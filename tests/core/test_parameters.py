from __future__ import annotations

import math
from numbers import Integral, Real

import numpy as np
import pytest

from lowrank_opt.core import (
    Geometric,
    Interval,
    ParameterError,
    Parameters,
    Solver,
    StrOptions,
    did_you_mean,
    instantiate,
    make_rng,
    validate_parameters,
)
from lowrank_opt.core.params import TOLERANCE
from lowrank_opt.testing.example import GradientDescent, make_quadratic


class Part(Parameters):
    _parameter_constraints = {"scale": [Interval(Real, 0, 1)]}  # noqa: RUF012

    def __init__(self, scale=0.5, vector=None):
        self.scale = scale
        self.vector = vector


class Whole(Parameters):
    _parameter_constraints = {"kind": [StrOptions({"fast", "slow"}), None], "part": [Part]}  # noqa: RUF012

    def __init__(self, kind="fast", part=None, limit=math.inf):
        self.kind = kind
        self.part = part
        self.limit = limit


@pytest.mark.parametrize(
    ("interval", "inside", "outside"),
    [
        (Interval(Real, 0, 1), [0, 1, 0.5, np.float32(0.5)], [-1e-9, 1.1, math.nan, "0", True]),
        (Interval(Real, 0, 1, closed="neither"), [0.5], [0, 1]),
        (Interval(Real, 0, 1, closed="left"), [0], [1]),
        (Interval(Real, 0, 1, closed="right"), [1], [0]),
        (Interval(Integral, 1, None), [1, np.int64(5), 10**20], [0, 1.0, np.bool_(True)]),
        (Interval(Real), [-math.inf, math.inf, 0], [math.nan, 1j, None]),
    ],
)
def test_interval(interval, inside, outside):
    assert all(interval.admits(v) for v in inside)
    assert not any(interval.admits(v) for v in outside)


def test_descriptions_of_constraints():
    assert str(Interval(Integral, 1, None, closed="left")) == "an integer in [1, inf)"
    assert str(Interval(Real, None, 2.5, closed="right")) == "a number in (-inf, 2.5]"
    assert str(StrOptions(["b", "a"])) == "one of 'a', 'b'"


@pytest.mark.parametrize(
    ("constraint", "good", "bad"),
    [
        (None, None, 0),
        ("boolean", np.bool_(True), 1),
        ("callable", len, "len"),
        ("array", [1, 2], 3),
        ("random_state", np.random.default_rng(0), -1),
        ("random_state", 0, True),
        ("random_state", None, np.random.RandomState(0)),
        (dict, {}, []),
        (StrOptions({"x"}), "x", ["x"]),
    ],
)
def test_validate_parameters(constraint, good, bad):
    validate_parameters("Owner", {"p": good, "unchecked": object()}, {"p": [constraint]})
    with pytest.raises(ParameterError, match=r"Owner: p=.* must be "):
        validate_parameters("Owner", {"p": bad}, {"p": [constraint]})


def test_message_lists_the_alternatives_and_the_closest_option():
    constraints = {"kind": [StrOptions({"cholesky", "cg"}), None, Interval(Integral, 1)]}
    with pytest.raises(ParameterError) as caught:
        validate_parameters("ALS", {"kind": "cholesk"}, constraints)
    assert str(caught.value) == (
        "ALS: kind='cholesk' must be one of 'cg', 'cholesky' or None or an integer in [1, inf]. "
        "Did you mean 'cholesky'?"
    )


def test_parameters_that_are_absent_are_not_checked():
    validate_parameters("Owner", {}, {"p": [None]})


def test_did_you_mean():
    assert did_you_mean("max_itr", ["tol", "max_iter"]) == " Did you mean 'max_iter'?"
    assert did_you_mean("zzz", ["b", "a"]) == " Known: a, b."
    assert did_you_mean("zzz", []) == ""


def test_get_and_set_params():
    whole = Whole(part=Part(0.25))
    assert whole.get_params() == {
        "kind": "fast", "limit": math.inf, "part": whole.part, "part__scale": 0.25,
        "part__vector": None,
    }  # fmt: skip
    assert set(whole.get_params(deep=False)) == {"kind", "limit", "part"}
    assert whole.set_params(part__scale=0.75, kind="slow") is whole
    assert (whole.part.scale, whole.kind) == (0.75, "slow")
    with pytest.raises(ParameterError, match=r"Whole has no parameter 'knd'. Did you mean 'kind'"):
        whole.set_params(knd="fast")
    with pytest.raises(ParameterError, match="Part has no parameter 'scal'"):
        whole.set_params(part__scal=1)


def test_nested_parameters_are_validated():
    Whole(part=Part(1.0)).validate_params()
    with pytest.raises(ParameterError, match=r"Part: scale=2.0 must be a number in \[0, 1\]"):
        Whole(part=Part(2.0)).validate_params()


def test_repr_can_be_evaluated():
    assert repr(Whole()) == "Whole(part=None)" or repr(Whole()) == "Whole()"
    assert repr(Whole(limit=-math.inf)) == "Whole(limit=float('-inf'))"
    assert repr(Whole(limit=math.nan)) == "Whole(limit=float('nan'))"
    assert repr(Part(np.float64(0.1))) == "Part(scale=0.1)"
    assert repr(Whole(part=Part(0.1))) == "Whole(part=Part(scale=0.1))"
    assert "vector=array([1., 2.])" in repr(Part(vector=np.array([1.0, 2.0])))


def test_class_without_constructor_has_no_parameters():
    class Empty(Parameters):
        pass

    assert Empty().get_params() == {}
    assert repr(Empty()) == "Empty()"


def test_instantiate_names_the_closest_keyword():
    assert instantiate(Part, {"scale": 0.1}, "make").scale == 0.1
    with pytest.raises(TypeError, match=r"make got an unexpected keyword 'scal' .*'scale'"):
        instantiate(Part, {"scal": 0.1}, "make")


def test_make_rng_leaves_the_callers_generator_alone():
    source = np.random.default_rng(5)
    expected = np.random.default_rng(5).random(3)
    np.testing.assert_array_equal(make_rng(source).random(3), expected)
    np.testing.assert_array_equal(make_rng(source).random(3), expected)
    np.testing.assert_array_equal(make_rng(5).random(3), expected)
    np.testing.assert_array_equal(make_rng(np.random.SeedSequence(5)).random(3), expected)
    bits = np.random.PCG64(5)
    np.testing.assert_array_equal(make_rng(bits).random(3), expected)
    np.testing.assert_array_equal(make_rng(bits).random(3), expected)
    assert make_rng(None).random() != make_rng(None).random()


def test_constraints_of_base_classes_are_inherited_and_can_be_replaced():
    class Half(GradientDescent):
        _parameter_constraints = {"step_size": [None]}  # noqa: RUF012

    assert Half._constraints()["step_size"] == [None]
    assert "tol" in Half._constraints()
    assert GradientDescent._constraints()["step_size"] != [None]


@pytest.mark.parametrize(
    ("params", "match"),
    [
        ({"tol": -1}, r"GradientDescent: tol=-1 must be a number in \[0, inf\]"),
        ({"max_iter": 1.0}, "max_iter=1.0 must be an integer"),
        ({"check_every": "never"}, "check_every='never' must be .* or one of 'auto'"),
        ({"max_time": -1.0}, "max_time=-1.0 must be None or a number"),
    ],
)
def test_solver_parameters_are_checked_by_solve(params, match):
    solver = GradientDescent(**params)
    with pytest.raises(ParameterError, match=match):
        solver.solve(make_quadratic())


def test_a_solver_cannot_be_made_without_its_methods():
    with pytest.raises(TypeError, match="abstract"):
        Solver()


def test_grid_search_reaches_nested_parameters():
    from sklearn.base import clone

    solver = clone(Whole(part=Geometric(0.5, ratio=0.9)))
    assert solver.set_params(part__ratio=0.8).part.ratio == 0.8


@pytest.mark.parametrize(
    ("low", "high", "closed", "admitted"),
    [
        (0, None, "left", False),
        (0, None, "neither", False),
        (0, None, "both", True),
        (None, None, "both", True),
        (None, 0, "both", False),
    ],
)
def test_infinity_belongs_to_closed_ends_only(low, high, closed, admitted):
    assert Interval(Real, low, high, closed=closed).admits(math.inf) is admitted
    assert TOLERANCE.admits(math.inf)
    assert not Interval(Real, None, 0, closed="right").admits(-math.inf)
    assert Interval(Real, None, 0, closed="both").admits(-math.inf)
