"""lasso_path: grids and coefficients of scikit-learn, certified gaps, states carried on."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import scipy.sparse as sp
import sklearn.linear_model as sk

from lowrank_opt.block_coordinate import (
    CompositeProblem,
    GLMProblem,
    Lasso,
    SparseGLMSolver,
    lasso_path,
)
from lowrank_opt.block_coordinate.certificates_path import can_grade, grade_path
from lowrank_opt.block_coordinate.path import PathPoint, follow_path, grades
from lowrank_opt.block_coordinate.penalized import penalized, sibling
from lowrank_opt.core.errors import ConvergenceWarning, ParameterError, ProblemError
from lowrank_opt.numerics import L1, MCP, GroupL1, WeightedL1

TIGHT = {"tol": 1e-13, "max_iter": 100_000}


def data(n=40, p=70, seed=0, targets=None, dtype=np.float64):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, p)) + 0.5 * rng.normal(size=(n, 1))
    w = np.zeros((p, targets or 1))
    w[:6] = rng.uniform(1.0, 2.0, (6, targets or 1))
    y = X @ w + 0.3 * rng.normal(size=(n, targets or 1))
    return np.asfortranarray(X, dtype), (y if targets else y[:, 0]).astype(dtype)


def sparse_of(X):
    return sp.csc_array(np.where(np.abs(X) > 1.0, X, 0.0))


def point_of(x):
    index = np.flatnonzero(x)
    return PathPoint(index, x[index], 0.0, 0)


# -- agreement with scikit-learn -----------------------------------------------------------------


@pytest.mark.parametrize("sparse", [True, False])
@pytest.mark.parametrize("positive", [True, False])
@pytest.mark.parametrize("l1_ratio", [1.0, 0.5])
def test_grid_and_coefficients_are_those_of_scikit_learn(sparse, positive, l1_ratio):
    X, y = data()
    X = sparse_of(X) if sparse else X
    options = {"eps": 1e-2, "alphas": 15, "positive": positive}
    ours = lasso_path(X, y, l1_ratio=l1_ratio, tol=1e-12, **options)
    theirs = sk.enet_path(X, y, l1_ratio=l1_ratio, **TIGHT, **options)
    np.testing.assert_array_equal(ours[0], theirs[0])
    assert ours[1].shape == theirs[1].shape == (70, 15)
    np.testing.assert_allclose(ours[1], theirs[1], atol=1e-5)
    assert ours[2].shape == theirs[2].shape == (15,)
    assert (ours[2] >= 0).all()
    assert ours[2].max() <= 1e-11 * (y @ y) / 80
    assert not ours[1][:, 0].any()


def test_forms_of_the_grid():
    X, y = data()
    grid, coefs, gaps, n_iters = lasso_path(X, y, n_alphas=7, eps=0.1, return_n_iter=True)
    np.testing.assert_array_equal(grid, lasso_path(X, y, alphas=7, eps=0.1)[0])
    assert grid[-1] == pytest.approx(0.1 * grid[0])
    assert coefs.shape == (70, 7)
    assert len(gaps) == len(n_iters) == 7
    assert all(isinstance(n, int) for n in n_iters)
    grid, coefs, _ = lasso_path(X, y, alphas=[0.01, 1.0, 0.1])  # in any order
    np.testing.assert_array_equal(grid, [1.0, 0.1, 0.01])
    assert len(lasso_path(X, y)[0]) == 100
    assert lasso_path(X, y, alphas=[0.3])[1].shape == (70, 1)
    theirs = sk.lasso_path(X, np.zeros(40), alphas=4)[0]
    np.testing.assert_array_equal(lasso_path(X, np.zeros(40), alphas=4)[0], theirs)


def test_float32_is_kept():
    X, y = data(dtype=np.float32)
    grid, coefs, _ = lasso_path(X, y, alphas=8, eps=0.05)
    assert coefs.dtype == np.float32
    theirs = sk.lasso_path(X.astype(np.float64), y.astype(np.float64), alphas=8, eps=0.05)
    np.testing.assert_allclose(grid, theirs[0], rtol=1e-6)
    np.testing.assert_allclose(coefs, theirs[1], atol=3e-2)


@pytest.mark.parametrize("sparse", [True, False])
def test_intercepts_are_fitted_when_asked_for(sparse):
    X, y = data()
    X, y = X + 2.0, y + 5.0
    X = sparse_of(X) if sparse else X
    grid, coefs, gaps, intercepts = lasso_path(
        X, y, fit_intercept=True, alphas=6, eps=0.05, tol=1e-12
    )
    for i, alpha in enumerate(grid):
        theirs = sk.Lasso(alpha, **TIGHT).fit(X, y)
        np.testing.assert_allclose(coefs[:, i], theirs.coef_, atol=1e-5)
        np.testing.assert_allclose(intercepts[i], theirs.intercept_, atol=1e-4)
    assert gaps.max() <= 1e-11 * y.var() / 2
    assert not coefs[:, 0].any()


def test_several_targets_share_their_features():
    X, y = data(targets=3)
    ours = lasso_path(X, y, alphas=6, eps=0.1, tol=1e-12)
    theirs = sk.lasso_path(X, y, alphas=6, eps=0.1, **TIGHT)
    np.testing.assert_allclose(ours[0], theirs[0], rtol=1e-12)
    assert ours[1].shape == theirs[1].shape == (3, 70, 6)
    np.testing.assert_allclose(ours[1], theirs[1], atol=1e-5)
    assert ours[2].max() <= 1e-10 * (y * y).sum()
    y = y + np.array([1.0, 2.0, 3.0])
    *_, intercepts = lasso_path(X, y, alphas=6, eps=0.1, fit_intercept=True)
    assert intercepts.shape == (3, 6)
    np.testing.assert_allclose(intercepts[:, 0], y.mean(axis=0))


@pytest.mark.parametrize("l1_ratio", [1.0, 0.5, 0.0])
@pytest.mark.parametrize("positive", [True, False])
def test_weights_of_samples_and_features(l1_ratio, positive):
    X, y = data()
    rng = np.random.default_rng(0)
    s, c = rng.uniform(0.0, 3.0, 40), rng.uniform(0.5, 2.0, 70)
    c[3] = np.inf
    grid = [0.3, 0.05]
    _, coefs, gaps = lasso_path(
        X, y, l1_ratio=l1_ratio, positive=positive, sample_weight=s, weights=c, alphas=grid,
        tol=1e-12,
    )  # fmt: skip
    root = np.sqrt(s / s.mean())
    for i, alpha in enumerate(grid):
        # A ridge term is rows of data, a weight the unit of its column.
        rows = np.sqrt(40 * alpha * (1 - l1_ratio)) * np.eye(70)
        A = np.vstack([root[:, None] * X, rows])
        b = np.append(root * y, np.zeros(70))
        keep = np.arange(70) != 3
        if l1_ratio == 0 and not positive:
            expected = np.linalg.lstsq(A[:, keep], b, rcond=None)[0]
        else:
            theirs = sk.Lasso(
                alpha * l1_ratio * 40 / 110, positive=positive, fit_intercept=False, **TIGHT
            )
            if l1_ratio == 0:
                theirs = sk.LinearRegression(positive=True, fit_intercept=False)
            expected = theirs.fit(A[:, keep] / c[keep], b).coef_ / c[keep]
        np.testing.assert_allclose(coefs[keep, i], expected, atol=1e-5)
        assert coefs[3, i] == 0.0
    assert gaps.max() < 1e-9


def test_a_path_without_penalty_ends_in_least_squares():
    X, y = data(90, 20)
    _, coefs, gaps = lasso_path(X, y, alphas=[0.1, 0.0])
    np.testing.assert_allclose(coefs[:, 1], np.linalg.lstsq(X, y, rcond=None)[0], atol=1e-8)
    assert gaps[0] >= 0
    assert np.isnan(gaps[1])


# -- certificates --------------------------------------------------------------------------------


@pytest.mark.parametrize("sparse", [True, False])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("options", [
    {}, {"l1_ratio": 0.5}, {"positive": True}, {"positive": True, "l1_ratio": 0.4},
    {"weights": np.linspace(0.5, 2.0, 70)}, {"weights": np.r_[np.inf, np.ones(69)]},
    {"weights": np.linspace(0.0, 2.0, 70), "l1_ratio": 0.5},
], ids=repr)  # fmt: skip
def test_gaps_of_a_path_are_the_certificates_of_its_points(options, dtype, sparse):
    X, y = data(dtype=dtype)
    X = sparse_of(X) if sparse else X
    rng = np.random.default_rng(0)
    for fit_intercept, s in ((True, None), (False, rng.uniform(0.0, 2.0, 40))):
        smooth = GLMProblem(X, y + 3.0, fit_intercept=fit_intercept, sample_weight=s)
        problems, points, expected = [], [], []
        for strength in (30.0, 3.0, 0.3):
            problem = penalized(smooth, strength, **options)
            x = np.where(rng.random(problem.x_shape) < 0.2, rng.normal(size=problem.x_shape), 0)
            x = (np.abs(x) if options.get("positive") else x).astype(dtype)
            if np.isinf(options.get("weights", [0.0])[0]):
                x[0] = 0.0
            assert can_grade(problem)
            problems.append(problem)
            points.append(point_of(x))
            expected.append(problem.certificate(x))
        for (residual, gap), other in zip(grade_path(problems, points), expected, strict=True):
            np.testing.assert_allclose(gap, other.gap, rtol=1e-9)
            np.testing.assert_allclose(residual, other.residual, rtol=1e-9)


def test_gaps_in_blocks_are_the_same(monkeypatch):
    from lowrank_opt.block_coordinate import certificates_path

    X, y = data()
    smooth = GLMProblem(X, y)
    problems = [penalized(smooth, a) for a in (30.0, 10.0, 3.0, 1.0, 0.3)]
    points = follow_path(SparseGLMSolver(tol=1e-3), problems)
    residuals, gaps = np.transpose(grade_path(problems, points))
    monkeypatch.setattr(certificates_path, "_BLOCK", 150)  # two points, three columns
    others = np.transpose(grade_path(problems, points))
    np.testing.assert_allclose(others[0], residuals, rtol=1e-9, atol=1e-13)
    # A gap is a difference of numbers of the size of the objective.
    rounding = 4 * np.finfo(float).eps * smooth.objective(np.zeros(70))
    np.testing.assert_allclose(others[1], gaps, rtol=1e-9, atol=rounding)


def test_a_point_outside_the_bounds_has_an_infinite_gap():
    X, y = data()
    problem = penalized(GLMProblem(X, y), 1.0, positive=True)
    x = np.zeros(70)
    x[4] = -1.0
    assert grades([problem], [point_of(x)]) == [(np.inf, np.inf)]


def test_points_short_of_the_tolerance_give_a_warning():
    X, y = data()
    with pytest.warns(ConvergenceWarning, match=r"lasso_path: \d+ of 5 points are not accurate"):
        lasso_path(X, y, alphas=5, eps=1e-3, max_iter=0)


# -- the run -------------------------------------------------------------------------------------


def test_states_are_carried_on():
    """Fewer passes over the data than runs from zero, and the same answers."""
    X, y = data(100, 300)
    smooth = GLMProblem(X, y)
    solver = SparseGLMSolver(tol=1e-8)
    problems = [penalized(smooth, smooth.null_gradient * 0.9**k) for k in range(1, 30)]
    points = follow_path(solver, problems)
    cold = [solver.solve(problem) for problem in problems]
    assert sum(point.nit for point in points) < 0.7 * sum(result.nit for result in cold)
    for point, result in zip(points, cold, strict=True):
        x = np.zeros(300)
        x[point.index] = point.values
        np.testing.assert_allclose(x, result.x, atol=1e-3)
        assert point.residual <= 1e-8


@pytest.mark.parametrize("penalties", [
    [MCP(a, 3.0) for a in (20.0, 10.0, 5.0)],
    [GroupL1(a, np.arange(70) // 2) for a in (20.0, 10.0, 5.0)],
    [WeightedL1(a, np.r_[0.0, np.ones(69)]) for a in (20.0, 10.0, 5.0)],
], ids=lambda p: type(p[0]).__name__)  # fmt: skip
def test_every_penalty_has_a_path(penalties):
    X, y = data()
    smooth = GLMProblem(X, y, fit_intercept=True)
    problems = [CompositeProblem(smooth, penalty) for penalty in penalties]
    points = follow_path(SparseGLMSolver(tol=1e-7), problems)
    for (residual, _), point in zip(grades(problems, points), points, strict=True):
        assert residual <= 1e-6
        assert point.residual <= 1e-7


def test_other_solvers_start_from_the_last_point():
    class Restarts(SparseGLMSolver):
        follow = None

        def __getattribute__(self, name):
            if name == "follow":
                raise AttributeError
            return super().__getattribute__(name)

    X, y = data()
    smooth = GLMProblem(X, y)
    problems = [penalized(smooth, a) for a in (20.0, 20.0, 5.0)]
    points = follow_path(Restarts(), problems)
    assert points[1].nit == 0
    np.testing.assert_array_equal(points[1].index, points[0].index)
    assert points[2].residual <= 1e-6


def test_a_start_is_used():
    X, y = data()
    best = Lasso(0.05, fit_intercept=False, tol=1e-9).fit(X, y).coef_
    n_iters = lasso_path(X, y, alphas=[0.05], coef_init=best, return_n_iter=True)[-1]
    assert n_iters == [0]
    assert lasso_path(X, y, alphas=[0.05], return_n_iter=True)[-1] > [0]
    X, y = data(targets=2)
    coefs = lasso_path(X, y, alphas=[0.1], tol=1e-9)[1]
    start = coefs[:, :, 0]
    assert lasso_path(X, y, alphas=[0.1], coef_init=start, return_n_iter=True)[-1] == [0]


def test_problems_of_a_path_share_what_they_can():
    X, y = data()
    smooth = GLMProblem(X, y, fit_intercept=True, sample_weight=np.ones(40))
    assert sibling(smooth, l2=0.0) is smooth
    other = sibling(smooth, l2=2.0)
    fresh = GLMProblem(X, y, fit_intercept=True, sample_weight=np.ones(40), l2=2.0)
    assert other.X is smooth.X
    assert other.column_squares is smooth.column_squares
    assert (other.l2, smooth.l2) == (2.0, 0.0)
    np.testing.assert_array_equal(other.lipschitz, fresh.lipschitz)
    _ = smooth.scale, smooth.null_gradient, smooth.null_intercept
    y2 = np.cos(np.arange(40.0))
    other, fresh = sibling(smooth, y=y2), GLMProblem(X, y2, fit_intercept=True)
    assert other.scale == pytest.approx(fresh.scale, rel=1e-12)
    assert other.null_gradient == pytest.approx(fresh.null_gradient, rel=1e-12)
    assert other.null_intercept == pytest.approx(fresh.null_intercept, rel=1e-12)
    assert CompositeProblem(other, L1(1.0)).smooth is other


def test_a_path_needs_no_scikit_learn():
    program = (
        "import sys, numpy as np\n"
        "from lowrank_opt.block_coordinate import lasso_path\n"
        "lasso_path(np.eye(3), [3.0, 2.0, 1.0], alphas=3)\n"
        "assert not {'sklearn', 'cvxpy', 'matplotlib'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize(("options", "error", "message"), [
    ({"eps": 0.0}, ParameterError, r"lasso_path: eps=0\.0 must be"),
    ({"n_alphas": 0}, ParameterError, "n_alphas=0 must be"),
    ({"alphas": []}, ParameterError, "must be numbers of at least 0"),
    ({"alphas": [1.0, -1.0]}, ParameterError, "must be numbers of at least 0"),
    ({"alphas": [np.nan]}, ProblemError, "alphas"),
    ({"l1_ratio": 2.0}, ParameterError, r"l1_ratio=2\.0 must be"),
    ({"l1_ratio": 0.0}, ProblemError, "l1_ratio=0 has no largest alpha; give the grid"),
    ({"tol": -1.0}, ParameterError, "tol"), ({"positive": 1}, ParameterError, "positive=1"),
    ({"weights": [1.0]}, ProblemError, r"weights has shape \(1,\); expected \(70,\)"),
    ({"sample_weight": np.zeros(40)}, ProblemError, "sample_weight is zero for all samples"),
    ({"coef_init": [1.0]}, ProblemError, r"coef_init has shape \(1,\); expected \(70,\)"),
    ({"y": np.ones(39)}, ProblemError, "y has shape"),
    ({"X": np.full((40, 70), np.nan)}, ProblemError, "NaN"),
])  # fmt: skip
def test_bad_inputs(options, error, message):
    X, y = data()
    arguments = {"X": X, "y": y, **options}
    with pytest.raises(error, match=message):
        lasso_path(**arguments)
