"""Penalties: definition, Moreau's identity, closed forms, kernels against Python, bad input."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numba import njit
from numba.extending import overload

from lowrank_opt.core.errors import ParameterError, ProblemError
from lowrank_opt.numerics import (
    L1,
    MCP,
    SCAD,
    Box,
    ElasticNet,
    GroupL1,
    GroupL2,
    Huber,
    L1Ball,
    L2Ball,
    NonNegative,
    Simplex,
    SquaredL2,
    WeightedL1,
    coordinate_penalty,
    kernels,
    prox,
    prox_conjugate,
    prox_into,
    value,
)

assert kernels.prox is prox  # importing kernels registers the rules that the functions below need

N = 6
SEPARABLE = [
    L1(0.7),
    WeightedL1(0.5, np.array([0.0, 0.5, 1.0, 1.5, 2.0, 2.5])),
    ElasticNet(0.8, 0.3),
    ElasticNet(0.8, 0.0),
    SquaredL2(2.0),
    Huber(0.5, 1.2),
    NonNegative(),
    NonNegative(0.3),
    Box(-1.0, 0.5),
    Box(-math.inf, 1.0),
    L1(0.0),
]
GROUPS = np.array([0, 2, 0, 1, 2, 2])
GROUPED = [
    GroupL1(0.9, GROUPS),
    GroupL1(1.1, GROUPS, np.array([0.0, 1.5, 0.5])),
    GroupL1(1.2, GROUPS, np.array([1.0, math.inf, 0.3]), True),
    GroupL1(1.4, GROUPS, None, True),
]
FIXED = [WeightedL1(0.55, np.array([0.0, math.inf, 1.0, math.inf, 2.0, 0.5]))]
BLOCKS = [GroupL2(1.3), L2Ball(1.1), L1Ball(2.0), Simplex(1.5)]
NONCONVEX = [MCP(1.0, 2.5), SCAD(0.8, 3.1)]
SEPARABLE += FIXED
BLOCKS += GROUPED
EVERY = SEPARABLE + BLOCKS + NONCONVEX

vectors = hnp.arrays(np.float64, N, elements=st.floats(-20, 20, width=32))
steps = st.floats(0.01, 10.0)


@njit(cache=True, error_model="numpy")
def kernel_prox(pen, z, step):
    return prox(pen, z, step)


@njit(cache=True, error_model="numpy")
def kernel_prox_into(pen, z, step):
    prox_into(pen, z, step, z)


@njit(cache=True, error_model="numpy")
def kernel_block(pen, z, step):
    return prox(pen, z, step), value(pen, z)


@njit(cache=True, error_model="numpy")
def kernel_separable(pen, z, step):
    by_coordinate = np.empty_like(z)
    for i in range(z.size):
        by_coordinate[i] = prox(coordinate_penalty(pen, i), z[i], step)
    return prox(pen, z, step), value(pen, z), by_coordinate


@pytest.mark.parametrize("pen", EVERY, ids=repr)
@settings(max_examples=25, deadline=None)
@given(z=vectors, other=vectors, step=steps)
def test_prox_minimises_its_definition(pen, z, other, step):
    x = prox(pen, z, step)

    def model(y):
        return value(pen, y) + np.sum((y - z) ** 2) / (2 * step)

    best = model(x)
    assert math.isfinite(best)
    slack = 1e-12 * (1 + np.sum(z**2) / step)
    for weight in (1.0, 0.1, 1e-3):
        assert best <= model(x + weight * (other - x)) + slack
    for i in range(N):  # nonconvex penalties: every candidate along a coordinate
        for candidate in (0.0, z[i], x[i] + 1e-4, x[i] - 1e-4):
            y = x.copy()
            y[i] = candidate
            assert best <= model(y) + slack


@pytest.mark.parametrize("pen", SEPARABLE + BLOCKS, ids=repr)
@settings(max_examples=25, deadline=None)
@given(z=vectors, w=vectors, step=steps)
def test_convex_proxes_are_firmly_nonexpansive(pen, z, w, step):
    x, y = prox(pen, z, step), prox(pen, w, step)
    assert np.sum((x - y) ** 2) <= (x - y) @ (z - w) + 1e-10


@pytest.mark.parametrize(
    ("pen", "conjugate"),
    [
        (L1(0.7), lambda z, s: np.clip(z, -0.7, 0.7)),
        (SquaredL2(2.0), lambda z, s: z / (1 + s / 2.0)),
        (NonNegative(), lambda z, s: np.minimum(z, 0)),
        (NonNegative(0.3), lambda z, s: np.minimum(z, 0.3)),
        (GroupL2(1.3), lambda z, s: z * min(1.0, 1.3 / max(np.linalg.norm(z), 1e-300))),
        (L2Ball(1.1), lambda z, s: prox(GroupL2(1.1), z, s)),
        (Box(-1.0, 0.5), lambda z, s: z - s * np.clip(z / s, -1.0, 0.5)),
        (ElasticNet(0.8, 0.3), lambda z, s: z - s * _elastic_net_by_hand(z / s, 1 / s)),
    ],
    ids=lambda p: repr(p) if isinstance(p, tuple) else "",
)
@settings(max_examples=25, deadline=None)
@given(z=vectors, step=steps)
def test_moreau_identity_gives_the_known_conjugates(pen, conjugate, z, step):
    got = prox_conjugate(pen, z, step)
    np.testing.assert_allclose(got, conjugate(z, step), rtol=0, atol=1e-11)
    back = z - step * prox_conjugate_of_conjugate(pen, z, step)
    np.testing.assert_allclose(back, got, rtol=0, atol=1e-11)


def _elastic_net_by_hand(z, t):
    return np.sign(z) * np.maximum(np.abs(z) - t * 0.8 * 0.3, 0) / (1 + t * 0.8 * 0.7)


def prox_conjugate_of_conjugate(pen, z, step):
    return prox(pen, z / step, 1 / step)


def test_simplex_prox_agrees_with_a_conic_solver():
    cp = pytest.importorskip("cvxpy")
    z, step = np.random.default_rng(0).standard_normal(N) * 2, 0.8
    x = cp.Variable(N)
    for pen, g in [
        (ElasticNet(0.8, 0.3), 0.24 * cp.norm1(x) + 0.28 * cp.sum_squares(x)),
        (Huber(0.5, 1.2), 0.25 * cp.sum(cp.huber(x, 1.2))),
        (GroupL2(1.3), 1.3 * cp.norm2(x)),
    ]:
        problem = cp.Problem(cp.Minimize(g + cp.sum_squares(x - z) / (2 * step)))
        problem.solve(solver="CLARABEL")
        got = prox(pen, z, step)
        np.testing.assert_allclose(got, x.value, rtol=0, atol=1e-4)
        np.testing.assert_allclose(
            value(pen, got) + np.sum((got - z) ** 2) / (2 * step), problem.value, rtol=1e-7
        )


@pytest.mark.parametrize("pen", [MCP(1.0, 2.5), MCP(0.6, 0.4), SCAD(0.8, 3.1), SCAD(0.8, 1.2)])
@pytest.mark.parametrize("step", [0.1, 1.0, 2.09, 2.5, 6.0])
def test_nonconvex_prox_is_a_global_minimiser(pen, step):
    grid = np.linspace(-8, 8, 20_001)
    values = np.array([value(pen, g) for g in grid[::20]])
    np.testing.assert_allclose(values, values[::-1], rtol=1e-12)
    by_entry = pen.alpha * abs(grid[::20])
    assert np.all(values <= by_entry + 1e-12)  # both lie below the l1 norm
    for z in np.linspace(-6, 6, 41):
        x = prox(pen, float(z), step)
        best = value(pen, x) + (x - z) ** 2 / (2 * step)
        dense = np.array([value(pen, g) for g in grid[::100]])
        assert best <= np.min(dense + (grid[::100] - z) ** 2 / (2 * step)) + 1e-12


def test_concave_penalties_reach_their_limits():
    z = np.linspace(-3, 3, 13)
    np.testing.assert_allclose(prox(MCP(0.5, 1e12), z, 1.0), prox(L1(0.5), z, 1.0), atol=1e-10)
    np.testing.assert_allclose(prox(SCAD(0.5, 1e12), z, 1.0), prox(L1(0.5), z, 1.0), atol=1e-10)
    np.testing.assert_array_equal(prox(MCP(0.5, 2.0), 5.0, 1.0), 5.0)
    np.testing.assert_array_equal(prox(SCAD(0.5, 3.7), 5.0, 1.0), 5.0)
    # Values at |x| = 2 by the formulas of the two papers.
    np.testing.assert_allclose(value(MCP(1.0, 4.0), 2.0), 2.0 - 4.0 / 8.0)
    np.testing.assert_allclose(value(SCAD(1.0, 3.0), 2.0), (2 * 3 * 2 - 4 - 1) / (2 * 2))


@pytest.mark.parametrize(
    ("pen", "dtype"),
    # Each pair of a class and a dtype is a compilation: float32 for one rule of each form.
    [(pen, np.float64) for pen in EVERY]
    + [(pen, np.float32) for pen in (EVERY[0], EVERY[1], *BLOCKS[::2], *NONCONVEX[1:])],
    ids=lambda p: repr(p) if isinstance(p, tuple) else p.__name__,
)
def test_kernels_agree_with_python(pen, dtype):
    tolerance = 1e-12 if dtype == np.float64 else 1e-5
    rng = np.random.default_rng(1)
    for z in (3 * rng.standard_normal(N), np.zeros(N), np.full(N, 1.0), 1e5 * np.ones(N)):
        z = z.astype(dtype)
        for step in (0.5, 4.0):
            want = prox(pen, z, step)
            kernel = kernel_block if pen in BLOCKS else kernel_separable
            got, got_value, *by_coordinate = kernel(pen, z, step)
            assert want.dtype == got.dtype == dtype
            scale = 1 + np.abs(z).max()
            np.testing.assert_allclose(got, want, rtol=0, atol=tolerance * scale)
            np.testing.assert_allclose(got_value, value(pen, z), rtol=10 * tolerance)
            np.testing.assert_allclose(
                kernel(pen, want, step)[1], value(pen, want), rtol=10 * tolerance
            )
            for single in by_coordinate:
                np.testing.assert_array_equal(single, got)
            out = np.empty_like(z)
            prox_into(pen, z, step, out)
            np.testing.assert_array_equal(out, want)


def test_scalar_prox_is_a_scalar_of_the_same_kind():
    assert type(prox(L1(1.0), 3.0, 0.5)) is np.float64
    assert type(prox(SCAD(), np.float32(3.0), np.float64(0.5))) is np.float32
    assert prox(L1(1.0), 3, 1) == 2.0
    assert kernel_prox(L1(1.0), 3.0, 0.5) == 2.5
    assert value(L1(2.0), -3.0) == 6.0
    assert coordinate_penalty(WeightedL1(2.0, np.array([1.0, 3.0])), 1) == L1(6.0)
    assert coordinate_penalty(Box(0.0, 1.0), 1) == Box(0.0, 1.0)


def test_steps_may_differ_by_coordinate():
    z = np.array([3.0, -3.0, 4.5])
    step = np.array([0.5, 1.0, 4.0])
    for pen in (L1(1.0), MCP(1.0, 3.0), SCAD(1.0, 3.7), Huber(), ElasticNet()):
        want = [prox(pen, float(a), float(t)) for a, t in zip(z, step, strict=True)]
        np.testing.assert_allclose(prox(pen, z, step), want, rtol=1e-15)


class Half(NamedTuple):
    """A user's own penalty: alpha/2 (x - shift)^2."""

    alpha: float
    shift: float

    def prox(self, z, step):
        return (z + step * self.alpha * self.shift) / (1 + step * self.alpha)

    def value(self, z):
        return self.alpha / 2 * np.sum((z - self.shift) ** 2)


@overload(prox)
def _prox_half(pen, z, step):
    if getattr(pen, "instance_class", None) is Half:
        return lambda pen, z, step: (z + step * pen.alpha * pen.shift) / (1 + step * pen.alpha)
    return None


def test_a_penalty_of_ones_own_works_in_python_and_in_kernels():
    pen = Half(2.0, 1.0)
    assert prox(pen, 4.0, 0.5) == kernel_prox(pen, 4.0, 0.5) == 2.5
    assert value(pen, [2.0, 1.0]) == 1.0


def test_every_array_library_gives_the_same_answer(xp):
    z = 2 * np.random.default_rng(2).standard_normal(N)
    moved = xp.asarray(z)
    for pen in EVERY:
        there = pen
        if isinstance(pen, WeightedL1):
            there = WeightedL1(pen.alpha, xp.asarray(pen.weights))
        if isinstance(pen, GroupL1):
            weights = None if pen.weights is None else xp.asarray(pen.weights)
            there = pen._replace(groups=xp.asarray(pen.groups), weights=weights)
        for step in (0.5, 4.0):
            got = prox(there, moved, step)
            assert type(got) is type(moved)
            want = prox(pen, z, step)
            np.testing.assert_allclose(np.asarray(got), want, rtol=0, atol=1e-13)
            np.testing.assert_allclose(float(value(there, got)), value(pen, want), rtol=1e-12)
            assert prox(there, xp.astype(moved, xp.float32), step).dtype == xp.float32


def test_group_penalty_is_a_sum_over_blocks():
    z = 3 * np.random.default_rng(5).standard_normal(N)
    pen = GroupL1(0.9, GROUPS, np.array([0.7, 1.5, 2.0]))
    x = prox(pen, z, 0.6)
    for group, weight in enumerate(pen.weights):
        block = group == GROUPS
        np.testing.assert_allclose(x[block], prox(GroupL2(0.9 * weight), z[block], 0.6), rtol=1e-14)
    want = sum(value(GroupL2(0.9 * w), z[g == GROUPS]) for g, w in enumerate(pen.weights))
    np.testing.assert_allclose(value(pen, z), want, rtol=1e-14)
    single = GroupL1(0.9, np.arange(N))
    np.testing.assert_allclose(prox(single, z, 0.6), prox(L1(0.9), z, 0.6), rtol=0, atol=1e-14)
    single = GroupL1(0.9, np.arange(N), None, True)
    np.testing.assert_allclose(prox(single, z, 0.6), prox(NonNegative(0.9), z, 0.6), atol=1e-14)


def test_groups_of_rows_are_groups_of_their_entries():
    z = 2 * np.random.default_rng(6).standard_normal((N, 3))
    for pen in GROUPED:
        flat = pen._replace(groups=np.repeat(GROUPS, 3))
        want = prox(flat, z.ravel(), 0.7)
        np.testing.assert_allclose(prox(pen, z, 0.7).ravel(), want, rtol=1e-14)
        np.testing.assert_allclose(value(pen, want.reshape(z.shape)), value(flat, want), rtol=1e-14)
    with pytest.raises(ProblemError, match="6 entries, the argument has shape \\(3,\\)"):
        prox(GROUPED[0], z[0], 1.0)


def test_infinite_weights_fix_at_zero_and_zero_weights_leave_free():
    z = np.array([1.5, -2.0, 0.5, 4.0])
    weights = np.array([math.inf, 0.0])
    for alpha in (0.0, 0.8):
        for pen in (
            GroupL1(alpha, np.array([0, 1, 0, 1]), weights),
            WeightedL1(alpha, weights[[0, 1, 0, 1]]),
        ):
            want = np.array([0.0, -2.0, 0.0, 4.0])
            for got in (prox(pen, z, 0.5), kernel_block(pen, z, 0.5)[0]):
                np.testing.assert_array_equal(got, want)
            assert value(pen, z) == kernel_block(pen, z, 0.5)[1] == math.inf
            assert value(pen, want) == kernel_block(pen, want, 0.5)[1] == 0.0


def test_empty_and_zero_blocks():
    for pen in (L1(1.0), GroupL2(1.0), L1Ball(1.0), L2Ball(1.0), MCP(), SCAD()):
        assert prox(pen, np.empty(0), 1.0).shape == (0,)
        np.testing.assert_array_equal(prox(pen, np.zeros(3), 1.0), np.zeros(3))
        assert value(pen, np.zeros(3)) == 0.0


def test_inputs_are_not_changed():
    z = np.random.default_rng(3).standard_normal(N)
    z.flags.writeable = False
    for pen in EVERY:
        result = prox(pen, z, 0.5)
        result[...] = 7.0


def test_kernels_work_in_place():
    z = np.array([3.0, -0.5])
    kernel_prox_into(L1(1.0), z, 1.0)
    np.testing.assert_array_equal(z, [2.0, 0.0])


@pytest.mark.parametrize(
    ("pen", "message"),
    [
        (L1(-1.0), "L1.alpha"),
        (L1(math.nan), "L1.alpha"),
        (L1("a"), "a number is needed"),
        (WeightedL1(1.0, np.array([1.0, -1.0])), "negative entry"),
        (ElasticNet(1.0, 1.5), "l1_ratio"),
        (ElasticNet(1.0, -0.5), "l1_ratio"),
        (SquaredL2(-1.0), "SquaredL2.alpha"),
        (Huber(1.0, 0.0), "Huber.delta"),
        (NonNegative(-1.0), "NonNegative.alpha"),
        (Box(1.0, 0.0), "low <= high"),
        (Box(math.nan, 0.0), "low <= high"),
        (Box(np.zeros(2), 1.0), "Box: low=.*one number"),
        (MCP(1.0, 0.0), "MCP.gamma"),
        (SCAD(1.0, 1.0), "SCAD.gamma"),
        (GroupL2(-1.0), "GroupL2.alpha"),
        (GroupL1(-1.0, np.zeros(2, int)), "GroupL1.alpha"),
        (GroupL1(1.0, np.zeros(2)), "vector of integers"),
        (GroupL1(1.0, np.zeros((2, 1), int)), "vector of integers"),
        (GroupL1(1.0, np.array([0, -1])), "count from 0"),
        (GroupL1(1.0, np.array([0, 1]), np.ones(3)), "each of the 2 groups"),
        (GroupL1(1.0, np.array([0, 1]), np.array([1.0, -2.0])), "GroupL1.weights has a negative"),
        (GroupL1(1.0, np.array([0, 1]), None, 2), "GroupL1.positive"),
        (L2Ball(-1.0), "L2Ball.radius"),
        (L1Ball(-1.0), "L1Ball.radius"),
        (Simplex(-1.0), "Simplex.total"),
        (0.5, "penalty with methods prox and value"),
    ],
)
def test_parameters_out_of_range_are_named(pen, message):
    with pytest.raises(ParameterError, match=message):
        prox(pen, np.ones(2), 1.0)
    with pytest.raises(ParameterError, match=message):
        value(pen, np.ones(2))


def test_bad_arguments_are_named():
    with pytest.raises(ProblemError, match=r"z\[1\] is NaN"):
        prox(L1(1.0), [1.0, math.nan], 1.0)
    weights, pair = np.array([1.0, math.nan]), np.array([0, 1])
    for pen in (WeightedL1(1.0, weights), GroupL1(1.0, pair, weights)):
        with pytest.raises(ProblemError, match=r"weights\[1\] is NaN"):
            prox(pen, [1.0, 2.0], 1.0)
    with pytest.raises(ProblemError, match="z is NaN"):
        value(L1(1.0), math.inf)
    for step in (0.0, -1.0, math.nan, math.inf, np.array([1.0, 0.0])):
        with pytest.raises(ProblemError, match="step"):
            prox(L1(1.0), [1.0, 2.0], step)
    with pytest.raises(ParameterError, match="convex"):
        prox_conjugate(MCP(), 1.0, 1.0)
    with pytest.raises(ParameterError, match="step is 0"):
        prox_conjugate(L1(), 1.0, 0.0)
