from __future__ import annotations

import numpy as np
import pytest

from lowrank_opt.core import (
    Armijo,
    BarzilaiBorwein,
    Constant,
    Geometric,
    LinearDecay,
    ParameterError,
    Polyak,
    PowerDecay,
    StepSize,
)


def test_constant():
    assert [Constant(0.3)(nit) for nit in (0, 7)] == [0.3, 0.3]


def test_geometric():
    rule = Geometric(2.0, 0.5)
    assert [rule(nit) for nit in range(4)] == [2.0, 1.0, 0.5, 0.25]
    assert rule.total == pytest.approx(sum(rule(nit) for nit in range(60)), rel=1e-12)


def test_power_decay():
    assert [PowerDecay(3.0, 1.0)(nit) for nit in range(3)] == [3.0, 1.5, 1.0]
    assert PowerDecay(3.0)(8) == pytest.approx(1.0)
    assert PowerDecay(3.0, 0.0)(8) == 3.0


def test_linear_decay():
    rule = LinearDecay(1.0, 4)
    assert [rule(nit) for nit in range(6)] == [1.0, 0.75, 0.5, 0.25, 0.0, 0.0]


def test_polyak_solves_a_sharp_problem_in_one_step():
    # |x| from x = 5: f - f_min = 5, |g|^2 = 1, and 5 - 5 * 1 = 0
    assert Polyak()(5.0, 1.0) == 5.0
    assert Polyak(f_min=2.0)(5.0, 9.0) == pytest.approx(1.0 / 3.0)
    assert Polyak(max_step=0.5)(5.0, 1.0) == 0.5
    assert Polyak(f_min=6.0)(5.0, 1.0) == 0.0
    assert Polyak()(5.0, 0.0) == 0.0


def test_armijo_takes_the_largest_step_that_satisfies_the_condition():
    # f(t) = (1 - 4 t)^2 from t = 0: f' = -8; the condition with c = 0.1 is 16 t^2 <= 7.2 t.
    def along(t):
        return (1.0 - 4.0 * t) ** 2

    step, value, trials = Armijo(initial=1.0, shrink=0.5, slope=0.1).search(along, 1.0, -8.0)
    assert (step, value, trials) == (0.25, 0.0, 3)
    assert 16 * 0.5**2 > 7.2 * 0.5
    step, value, trials = Armijo(initial=0.1).search(along, 1.0, -8.0)
    assert (step, trials) == (0.1, 1)


def test_armijo_gives_up():
    step, value, trials = Armijo(max_trials=3).search(lambda t: 1.0 + t, 1.0, -1.0)
    assert (step, value, trials) == (0.0, 1.0, 3)
    step, _, _ = Armijo(max_trials=3).search(lambda t: float("nan"), 1.0, -1.0)
    assert step == 0.0


def test_barzilai_borwein():
    s, y = np.array([1.0, 1.0]), np.array([1.0, 3.0])  # a quadratic with eigenvalues 1 and 3
    assert BarzilaiBorwein("long")(s, y) == pytest.approx(2.0 / 4.0)
    assert BarzilaiBorwein("short")(s, y) == pytest.approx(4.0 / 10.0)
    rule = BarzilaiBorwein()
    assert rule(s, y, 0) == BarzilaiBorwein("long")(s, y)
    assert rule(s, y, 1) == BarzilaiBorwein("short")(s, y)
    assert rule(s.reshape(1, 2), y.reshape(1, 2)) == rule(s, y)


def test_barzilai_borwein_safeguards():
    s = np.array([1.0])
    assert BarzilaiBorwein(high=7.0)(s, -s) == 7.0
    assert BarzilaiBorwein(high=7.0)(s, 1e-12 * s) == 7.0
    assert BarzilaiBorwein(low=0.1)(s, 1e6 * s) == 0.1
    assert BarzilaiBorwein(high=7.0)(0 * s, 0 * s) == 7.0


@pytest.mark.parametrize(
    "rule",
    [
        Constant(0.0), Geometric(ratio=1.0), Geometric(initial=-1.0), PowerDecay(power=-1.0),
        LinearDecay(total=0), Polyak(f_min=float("nan")), Polyak(max_step=0.0), Armijo(shrink=1.0),
        Armijo(slope=0.0), Armijo(max_trials=0), BarzilaiBorwein("longest"),
        BarzilaiBorwein(low=0.0),
    ],
    ids=repr,
)  # fmt: skip
def test_ranges(rule):
    with pytest.raises(ParameterError, match=type(rule).__name__):
        rule.validate_params()


@pytest.mark.parametrize(
    "rule",
    [Constant(), Geometric(), PowerDecay(), LinearDecay(), Polyak(), Armijo(), BarzilaiBorwein()],
    ids=repr,
)
def test_defaults_are_in_range(rule):
    rule.validate_params()
    assert repr(rule) == f"{type(rule).__name__}()"


def test_the_base_class_has_no_rule():
    with pytest.raises(NotImplementedError):
        StepSize()(0)
