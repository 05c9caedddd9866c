"""Projections: optimality, exactness against cvxpy, batches, libraries, bad input."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lowrank_opt.core.errors import (
    ParameterError,
    ProblemError,
    ProblemTypeError,
    UnsupportedBackendError,
)
from lowrank_opt.numerics import (
    project_box,
    project_halfspace,
    project_hyperplane,
    project_l1_ball,
    project_l2_ball,
    project_psd,
    project_simplex,
    reference,
)

NORMAL = np.array([1.0, -2.0, 0.5, 3.0, 0.25])

# name -> (projection of a vector of length 5, violation of the constraint)
SETS = {
    "simplex": (
        lambda x: project_simplex(x, 2.0),
        lambda y: max(-y.min(), abs(y.sum() - 2.0)),
    ),
    "l1 ball": (lambda x: project_l1_ball(x, 1.5), lambda y: abs(y).sum() - 1.5),
    "l2 ball": (lambda x: project_l2_ball(x, 1.5), lambda y: np.linalg.norm(y) - 1.5),
    "box": (
        lambda x: project_box(x, -1.0, NORMAL + 4.0),
        lambda y: max((-1.0 - y).max(), (y - NORMAL - 4.0).max()),
    ),
    "half-space": (lambda x: project_halfspace(x, NORMAL, 0.7), lambda y: NORMAL @ y - 0.7),
    "hyperplane": (lambda x: project_hyperplane(x, NORMAL, 0.7), lambda y: abs(NORMAL @ y - 0.7)),
    "psd": (
        lambda x: project_psd(_matrix(x))[np.triu_indices(2)],
        lambda y: -np.linalg.eigvalsh([[y[0], y[1]], [y[1], y[2]]])[0],
    ),
}

vectors = hnp.arrays(np.float64, 5, elements=st.floats(-1e3, 1e3, width=32))


def _matrix(x):
    return np.array([[x[0], x[1]], [x[1], x[2]]])


def _check_set(project, violation, x, z):
    y, w = project(x), project(z)
    scale = 1.0 + np.abs(x).max() + np.abs(z).max()
    assert violation(y) <= 1e-13 * scale
    if y.shape == x.shape:
        np.testing.assert_allclose(project(y), y, rtol=0, atol=1e-13 * scale)
        # Obtuse angle at the projection, with another point of the set: this is optimality.
        assert (x - y) @ (w - y) <= 1e-12 * scale**2
        assert np.linalg.norm(y - w) <= np.linalg.norm(x - z) + 1e-13 * scale


@pytest.mark.parametrize("name", SETS)
@settings(max_examples=60, deadline=None)
@given(x=vectors, z=vectors)
def test_projections_are_feasible_idempotent_optimal_and_nonexpansive(name, x, z):
    _check_set(*SETS[name], x, z)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda x: x,  # not feasible
        lambda x: np.eye(5)[np.argmax(x)] * 2,  # feasible, idempotent, not optimal
        lambda x: np.full(5, 0.4) if x.sum() > 3 else project_simplex(x, 2.0),
    ],
)
def test_the_check_fails_on_a_wrong_projection(wrong):
    rng = np.random.default_rng(0)
    pairs = rng.standard_normal((50, 2, 5)) * 3

    def check():
        for x, z in pairs:
            _check_set(wrong, SETS["simplex"][1], x, z)

    with pytest.raises(AssertionError):
        check()


def test_projections_agree_with_a_conic_solver():
    cp = pytest.importorskip("cvxpy")
    rng = np.random.default_rng(1)
    n = 6
    a = rng.standard_normal(n)
    for _ in range(3):
        x = 2 * rng.standard_normal(n)
        X = rng.standard_normal((4, 4))
        y, Y = cp.Variable(n), cp.Variable((4, 4), PSD=True)
        for got, variable, constraints in [
            (project_simplex(x, 1.7), y, [y >= 0, cp.sum(y) == 1.7]),
            (project_l1_ball(x, 1.7), y, [cp.norm1(y) <= 1.7]),
            (project_l2_ball(x, 0.9, center=a), y, [cp.norm2(y - a) <= 0.9]),
            (project_box(x, -0.5, 1.0), y, [y >= -0.5, y <= 1.0]),
            (project_halfspace(x, a, -1.0), y, [a @ y <= -1.0]),
            (project_hyperplane(x, a, -1.0), y, [a @ y == -1.0]),
            (project_psd(X), Y, []),
        ]:
            target = X if variable is Y else x
            problem = cp.Problem(cp.Minimize(cp.sum_squares(variable - target)), constraints)
            problem.solve(solver="CLARABEL", tol_gap_abs=1e-10, tol_gap_rel=1e-10, tol_feas=1e-10)
            np.testing.assert_allclose(got, variable.value, rtol=0, atol=2e-5)
            # Exactness in value: not farther away than the solver's answer.
            assert np.sum((got - target) ** 2) <= problem.value + 1e-7


def _sorted_simplex(x, total):
    """The textbook algorithm in exact enough arithmetic: extended precision."""
    u = np.sort(x.astype(np.longdouble))[::-1]
    thresholds = (np.cumsum(u) - np.longdouble(total)) / np.arange(1, u.size + 1)
    tau = thresholds[np.flatnonzero(u > thresholds)[-1]]
    return np.maximum(x - tau, 0)


@pytest.mark.parametrize("n", [1, 2, 63, 64, 65, 1000, 20_000])
@pytest.mark.parametrize("total", [1e-3, 1.0, 100.0, 1e6])
def test_simplex_projection_is_exact_at_every_size(n, total):
    rng = np.random.default_rng(n)
    for x in (
        rng.standard_normal(n),
        np.sort(rng.standard_normal(n)),
        rng.standard_cauchy(n),
        np.full(n, 3.0),
        rng.integers(0, 3, n).astype(float),
        -np.geomspace(1e-6, 1e6, n),
        total * (1 - 2.0 ** -np.arange(n, dtype=float).clip(max=1000)),
    ):
        y = project_simplex(x, total)
        scale = total + np.abs(x[y > 0]).max()
        np.testing.assert_allclose(y, _sorted_simplex(x, total), rtol=0, atol=1e-13 * scale)
        np.testing.assert_allclose(y.sum(), total, rtol=1e-12)


def test_simplex_sum_is_right_however_large_the_entries():
    y = project_simplex([1e300, 1e300, -1e300], 1.0)
    np.testing.assert_array_equal(y, [0.5, 0.5, 0.0])
    np.testing.assert_array_equal(project_simplex([-1e308, 1e308]), [0.0, 1.0])
    x = 1e8 + np.linspace(0, 1, 300)
    np.testing.assert_allclose(project_simplex(x).sum(), 1.0, rtol=1e-13)
    np.testing.assert_array_equal(project_simplex([5.0, 5.0, 5.0, 5.0]), np.full(4, 0.25))


def test_balls_of_huge_and_tiny_scale():
    np.testing.assert_allclose(project_l2_ball([3e200, 4e200], 1.0), [0.6, 0.8], rtol=1e-15)
    np.testing.assert_allclose(
        project_l2_ball([3e-200, 4e-200], 1e-200), [0.6e-200, 0.8e-200], rtol=1e-14
    )
    np.testing.assert_array_equal(project_l1_ball([1e308, -1e308], 2.0), [1.0, -1.0])
    np.testing.assert_array_equal(project_halfspace([2e200, 2e200], [1e-200, 1e-200], 2.0), 1e200)


def test_zero_radius_and_zero_total_give_zero():
    for project in (project_simplex, project_l1_ball, project_l2_ball):
        np.testing.assert_array_equal(project([1.0, -2.0], 0.0), [0.0, 0.0])


def test_empty_input_is_returned_where_it_has_meaning():
    assert project_l1_ball(np.empty(0)).shape == (0,)
    assert project_l2_ball(np.empty((3, 0))).shape == (3, 0)
    assert project_simplex(np.empty((0, 4))).shape == (0, 4)
    assert project_simplex(np.empty(0), 0.0).shape == (0,)
    assert project_box(np.empty(0), 0.0, 1.0).shape == (0,)
    assert project_psd(np.empty((0, 0))).shape == (0, 0)
    with pytest.raises(ProblemError, match="x is empty"):
        project_simplex(np.empty(0))


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("order", ["C", "F"])
def test_batches_equal_the_loop_over_vectors(axis, order):
    rng = np.random.default_rng(2)
    x = np.asarray(2 * rng.standard_normal((4, 3, 5)), order=order)
    batch = np.moveaxis(x, axis, -1).shape[:-1]
    sizes = rng.uniform(0.5, 2.0, batch)
    a = rng.standard_normal(x.shape[axis])
    for project, args in [
        (project_simplex, ()),
        (project_l1_ball, ()),
        (project_l2_ball, ()),
        (project_halfspace, (a,)),
        (project_hyperplane, (a,)),
    ]:
        got = np.moveaxis(project(x, *args, sizes, axis=axis), axis, -1)
        for index in np.ndindex(batch):
            one = project(np.moveaxis(x, axis, -1)[index], *args, sizes[index])
            np.testing.assert_allclose(got[index], one, rtol=0, atol=1e-14)


def test_axis_none_takes_all_entries_as_one_vector():
    x = np.random.default_rng(3).standard_normal((3, 4))
    np.testing.assert_array_equal(
        project_simplex(x, 2.0, axis=None), project_simplex(x.ravel(), 2.0).reshape(3, 4)
    )
    normals = np.ones((3, 4))
    np.testing.assert_allclose(project_hyperplane(x, normals, 1.0, axis=None).sum(), 1, rtol=1e-14)


def test_halfspaces_may_differ_in_a_batch():
    rng = np.random.default_rng(4)
    x, a = rng.standard_normal((2, 5, 3))
    y = project_halfspace(x, a, -1.0)
    np.testing.assert_array_less(np.sum(a * y, axis=1), -1.0 + 1e-14)


@pytest.mark.parametrize("rank", [0, 1, 2, 6, 9])
def test_psd_rank_cap_gives_a_nearest_matrix(rank):
    rng = np.random.default_rng(5)
    X = rng.standard_normal((2, 6, 6))
    Y = project_psd(X, rank=rank)
    np.testing.assert_array_equal(Y, np.swapaxes(Y, 1, 2))
    S = (X + np.swapaxes(X, 1, 2)) / 2
    for matrix, nearest in zip(S, Y, strict=True):
        eigenvalues = np.linalg.eigvalsh(matrix)[::-1]
        kept = np.clip(eigenvalues[:rank], 0, None)
        # The distance that the eigenvalues allow, and no more.
        best = np.sum(eigenvalues**2) - np.sum(kept**2)
        np.testing.assert_allclose(np.sum((matrix - nearest) ** 2), best, rtol=1e-12)
        assert np.linalg.eigvalsh(nearest)[0] >= -1e-13
        assert np.linalg.matrix_rank(nearest, tol=1e-10) <= rank


def test_dtype_is_kept_and_integers_become_float64():
    x = [3.0, -1.0, 2.0]
    for project in (
        project_simplex,
        project_l1_ball,
        project_l2_ball,
        lambda x: project_box(x, 0.0, np.ones(3)),
        lambda x: project_halfspace(x, np.ones(3), 1.0),
        lambda x: project_hyperplane(x, [1, 2, 3], np.float64(1.0)),
        lambda x: project_psd(np.outer(x, x)),
    ):
        double = project(np.array(x))
        single = project(np.array(x, np.float32))
        assert single.dtype == np.float32
        np.testing.assert_allclose(single, double, rtol=1e-5, atol=1e-6)
        assert project(np.array(x, np.float16)).dtype == np.float32
        assert project(np.array(x, ">f8")).dtype == np.float64
        np.testing.assert_array_equal(project(np.array([3, -1, 2])), double)


def test_inputs_are_not_changed_and_may_be_read_only_or_strided():
    rng = np.random.default_rng(6)
    base = rng.standard_normal((6, 8))
    base.flags.writeable = False
    view = base[::-2, ::3]
    before = base.copy()
    for project in (project_simplex, project_l1_ball, project_l2_ball):
        for x in (base, view):
            y = project(x, 0.5)
            np.testing.assert_array_equal(y, project(x.copy(), 0.5))
            y[...] = 7.0
            np.testing.assert_array_equal(base, before)
    y = project_box(base, None, None)
    y[...] = 7.0
    np.testing.assert_array_equal(base, before)


@pytest.mark.parametrize(
    ("dtype", "atol"), [(np.float64, 1e-12), (np.float32, 1e-5)], ids=["double", "single"]
)
def test_kernels_agree_with_their_array_api_twins(dtype, atol):
    rng = np.random.default_rng(7)
    for shape in [(1, 1), (5, 3), (3, 200), (2, 5000)]:
        for x in (
            rng.standard_normal(shape),
            np.zeros(shape),
            rng.integers(-2, 3, shape) * 1.0,
            1e6 + rng.standard_normal(shape),
        ):
            x = x.astype(dtype)
            sizes = rng.uniform(0.1, 3.0, shape[:1])
            for name in ("project_simplex", "project_l1_ball"):
                got = globals()[name](x, sizes)
                twin = getattr(reference, name)(x, sizes[:, None])
                assert got.dtype == twin.dtype == dtype
                np.testing.assert_allclose(got, twin, rtol=0, atol=atol)


def test_every_array_library_gives_the_same_answer(xp):
    rng = np.random.default_rng(8)
    x, a = rng.standard_normal((2, 4, 6))
    S = rng.standard_normal((3, 4, 4))
    sizes = rng.uniform(0.5, 2.0, 4)
    for project, args in [
        (project_simplex, (x, sizes)),
        (project_simplex, (x, 0.0)),
        (project_l1_ball, (x, sizes)),
        (project_l2_ball, (x, sizes)),
        (lambda x, c: project_l2_ball(x, center=c, axis=0), (x, a)),
        (lambda x, low: project_box(x, low, 0.5), (x, np.full(6, -0.25))),
        (project_halfspace, (x, a, sizes)),
        (project_hyperplane, (x, a[0], sizes)),
        (lambda x: project_psd(x, rank=2), (S,)),
    ]:
        moved = [xp.asarray(v) if isinstance(v, np.ndarray) else v for v in args]
        got = project(*moved)
        assert type(got) is type(xp.asarray(x))
        np.testing.assert_allclose(
            np.asarray(xp.astype(got, xp.float64)), project(*args), rtol=0, atol=1e-12
        )
        single = xp.astype(moved[0], xp.float32)
        assert project(single, *(_single(v, xp) for v in moved[1:])).dtype == xp.float32


def _single(value, xp):
    return value if isinstance(value, float) else xp.astype(value, xp.float32)


def test_array_libraries_are_not_mixed():
    strict = pytest.importorskip("array_api_strict")
    with pytest.raises(UnsupportedBackendError, match="one array library"):
        project_simplex(strict.ones((2, 3)), np.ones(2))
    with pytest.raises(UnsupportedBackendError, match="one array library"):
        project_simplex(np.ones((2, 3)), strict.ones(2))


def test_bad_input_is_named():
    bad = np.ones((2, 3))
    bad[1, 2] = np.nan
    infinite = np.array([1.0, -np.inf])
    for project in (project_simplex, project_l1_ball, project_l2_ball):
        with pytest.raises(ProblemError, match=r"x\[1, 2\] is NaN or infinite"):
            project(bad)
        with pytest.raises(ProblemError, match=r"x\[1\] is NaN or infinite"):
            project(infinite)
        with pytest.raises(ProblemError, match="negative"):
            project([1.0, 2.0], -1.0)
        with pytest.raises(ProblemError, match=r"has shape \(3,\)"):
            project(np.ones((2, 3)), np.ones(3))
        with pytest.raises(ParameterError, match="axis is 1"):
            project([1.0, 2.0], axis=1)
        with pytest.raises(ProblemTypeError, match="real numbers"):
            project(np.ones(2, complex))
        with pytest.raises(ProblemTypeError, match="x has dtype object"):
            project(np.array([1, None]))
    with pytest.raises(ProblemTypeError, match="rectangular"):
        project_simplex([[1.0], [2.0, 3.0]])
    with pytest.raises(ProblemTypeError, match="without mask"):
        project_simplex(np.ma.masked_invalid(bad))
    with pytest.raises(ProblemError, match="box is empty"):
        project_box([1.0], 2.0, 1.0)
    with pytest.raises(ProblemError, match="does not broadcast"):
        project_box([1.0, 2.0], np.zeros(3), None)
    with pytest.raises(ProblemError, match="low is NaN"):
        project_box([1.0, 2.0], np.nan, None)
    with pytest.raises(ProblemError, match="a is 0"):
        project_halfspace([1.0, 2.0], [0.0, 0.0], 1.0)
    with pytest.raises(ProblemError, match=r"a has shape \(3,\)"):
        project_hyperplane([1.0, 2.0], np.ones(3), 1.0)
    with pytest.raises(ProblemError, match="square matrices"):
        project_psd(np.ones((2, 3)))
    with pytest.raises(ParameterError, match="rank is -1"):
        project_psd(np.eye(2), rank=-1)


def test_large_finite_data_whose_sum_overflows_are_accepted():
    np.testing.assert_array_equal(project_box(np.full(3, 1e308), 0.0, 1.0), np.ones(3))
