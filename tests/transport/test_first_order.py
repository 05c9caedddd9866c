"""First-order methods: answers against a conic solver, stalls on kinks, bits of resumed runs."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import scipy.sparse as sp

from lowrank_opt.core import AccuracyWarning, ParameterError, Status
from lowrank_opt.transport import SparsityConstrainedOT, TransportProblem
from lowrank_opt.transport.first_order import init, step
from lowrank_opt.transport.lbfgs import Point, direction, remember, search
from lowrank_opt.transport.reference_oracle import evaluate

ROWS = {
    "exact": {},
    "upper": {"a_upper": True},
    "kl": {"unbalanced": "kl", "marginal_weight": 0.3},
    "l2": {"unbalanced": "l2", "marginal_weight": 2.0},
}
METHODS = {
    "lbfgs": {"method": "lbfgs"},
    "lbfgs-dual": {"method": "lbfgs", "formulation": "dual"},
    "adam": {"method": "adam"},
    "adam-dual": {"method": "adam", "formulation": "dual"},
    "sgd": {"method": "sgd", "batch_size": 4, "step_size": 0.5},
    "bcd": {"method": "bcd"},
}


def make_problem(m=12, n=9, *, rows="exact", form="matrix", gamma=1.0, k=None, seed=0, **options):
    rng = np.random.default_rng(seed)
    X, Y = rng.standard_normal((m, 2)), rng.standard_normal((n, 2)) + 1.0
    size = np.sqrt(((X[:, None] - Y[None]) ** 2).sum(axis=2).max())
    X, Y = X / size, Y / size
    C = ((X[:, None] - Y[None]) ** 2).sum(axis=2)
    a, b = rng.random(m) + 0.1, rng.random(n) + 0.1
    a, b = a / a.sum(), b / b.sum()
    if rows == "upper":
        b = 0.6 * b
    data = {"matrix": {"C": C}, "points": {"X": X, "Y": Y}, "list": {"C": sp.coo_array(C)}}[form]
    with warnings.catch_warnings():  # caps below what random masses need
        warnings.simplefilter("ignore", AccuracyWarning)
        return TransportProblem(a, b, gamma=gamma, max_nnz=k, **data, **ROWS[rows], **options)


def solver(name, **options):
    return SparsityConstrainedOT(**{**METHODS[name], "rounding": "none", **options})


def stop(solver, problem, **options):
    """A run that is not meant to converge."""
    result = solver.solve(problem, **options)
    assert result.status is not Status.CONVERGED
    return result


def conic_value(problem):
    """Optimal value without a cap, from a conic solver."""
    cp = pytest.importorskip("cvxpy")
    C, a, b = problem.C, problem.a, problem.b
    T = cp.Variable(C.shape, nonneg=True)
    value = cp.sum(cp.multiply(C, T)) + 0.5 * problem.gamma * cp.sum_squares(T)
    constraints = [cp.sum(T, axis=0) == b]
    rows = cp.sum(T, axis=1)
    weight = problem.marginal_weight
    if problem.unbalanced == "kl":
        value += weight * cp.sum(cp.kl_div(rows, a))
    elif problem.unbalanced == "l2":
        value += 0.5 * weight * cp.sum_squares(rows - a)
    else:
        constraints.append(rows <= a if problem.a_upper else rows == a)
    program = cp.Problem(cp.Minimize(value), constraints)
    program.solve(solver=cp.CLARABEL)
    return program.value


# -- answers --------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("name", ["lbfgs", "lbfgs-dual"])
def test_lbfgs_without_a_cap_is_exact(name, rows):
    problem = make_problem(rows=rows)
    result = solver(name, tol=1e-7).solve(problem)
    assert result.status is Status.CONVERGED
    certificate = problem.certificate(result.x)
    assert certificate.residual <= 1e-6
    assert certificate.objective == pytest.approx(conic_value(problem), rel=1e-6)
    if rows == "upper":
        assert np.all(result.alpha <= 0.0)
        assert np.any(result.alpha < 0.0)


@pytest.mark.parametrize("name", ["lbfgs", "lbfgs-dual"])
def test_potentials_come_back_to_their_bound(name):
    problem = make_problem(rows="upper")
    result = solver(name, tol=1e-8).solve(problem, x0=np.full(12, -0.05))
    assert result.status is Status.CONVERGED
    assert result.alpha.max() == 0.0
    exact = SparsityConstrainedOT(tol=1e-8).solve(problem)
    assert result.dual_value == pytest.approx(exact.dual_value, rel=1e-7)


@pytest.mark.parametrize("rows", ["exact", "upper"])
def test_gauss_seidel_is_exact(rows):
    problem = make_problem(rows=rows)
    result = solver("bcd", max_iter=5000, tol=1e-7).solve(problem)
    assert result.status is Status.CONVERGED
    assert problem.objective(result.x) == pytest.approx(conic_value(problem), rel=1e-6)


@pytest.mark.parametrize("form", ["matrix", "points", "list"])
def test_gauss_seidel_ascends_and_keeps_columns(form):
    problem = make_problem(form=form)
    view = problem.canonical
    method = solver("bcd")
    state = init(method, view, None)
    values = []
    for _ in range(12):
        state = step(method, view, state)
        values.append(problem.dual_value(state.alpha))
        columns = np.add.reduceat(state.values, state.indptr[:-1])
        np.testing.assert_allclose(columns, view.b, rtol=1e-12)
        # the potentials of the sources are optimal for those of the targets before
    assert np.all(np.diff(values) > -1e-14)
    assert values[-1] > values[0]


@pytest.mark.parametrize("name", ["adam", "adam-dual", "sgd"])
@pytest.mark.parametrize("rows", ["exact", "l2"])
def test_slow_methods_approach_the_answer(name, rows):
    problem = make_problem(rows=rows)
    exact = SparsityConstrainedOT().solve(problem)
    start = solver(name)
    first = problem.dual_value(init(start, problem.canonical, None).alpha)
    result = solver(name, max_iter=400, tol=1e-12).solve(problem)
    bound = result.dual_value
    assert first < bound <= exact.value + 1e-12
    assert exact.dual_value - bound < 0.05 * (exact.dual_value - first)


@pytest.mark.parametrize("name", ["lbfgs", "lbfgs-dual", "adam", "sgd"])
@pytest.mark.parametrize("rows", ROWS)
def test_bounds_are_bounds_with_a_cap(name, rows):
    problem = make_problem(rows=rows, k=2)
    exact = SparsityConstrainedOT(tol=1e-8, rounding="none").solve(problem)
    state = init(solver(name), problem.canonical, None)
    for _ in range(60):
        state = step(solver(name), problem.canonical, state)
        assert np.diff(state.indptr).max() <= 2
    assert problem.dual_value(state.alpha) <= exact.dual_value + 1e-9
    assert problem.dual_value(state.alpha) > exact.dual_value - 0.1 * abs(exact.dual_value)
    if rows == "upper":
        assert np.all(state.alpha <= 0.0)


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("name", METHODS)
def test_residual_is_that_of_the_certificate(name, rows):
    if name == "bcd" and rows in ("kl", "l2"):
        pytest.skip("for constraints")
    problem = make_problem(rows=rows)
    method = solver(name, tol=1e-12)
    state = init(method, problem.canonical, None)
    for _ in range(9):
        certificate = problem.certificate(method.point(problem, state))
        assert state.residual == pytest.approx(certificate.residual, rel=1e-9)
        state = step(method, problem.canonical, state)


# -- kinks ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["lbfgs", "lbfgs-dual"])
def test_a_kink_is_a_stall(name):
    problem = make_problem(20, 20, k=2)
    result = stop(solver(name, max_iter=3000), problem)
    assert result.status is Status.STALLED
    assert result.residual > 1e-3
    assert result.plan_status == "columns"
    assert "ssnal" in result.state.stalled
    exact = SparsityConstrainedOT(rounding="none").solve(problem)
    assert result.dual_value == pytest.approx(exact.dual_value, rel=1e-3)
    assert result.dual_value <= exact.dual_value + 1e-9


def test_values_do_not_rise_with_the_cap():
    values = [
        make_problem(20, 20, k=k).dual_value(
            solver("lbfgs", max_iter=300).solve(make_problem(20, 20, k=k)).alpha
        )
        for k in (1, 2, 4, 8)
    ]
    full = SparsityConstrainedOT().solve(make_problem(20, 20)).value
    assert np.all(np.diff(values) < 1e-5)
    assert values[-1] >= full - 1e-5


# -- starts, limits, resumed runs -----------------------------------------------------------------


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("k", [2, None])
def test_no_iteration_from_an_answer(name, k):
    if name == "bcd" and k == 2:
        pytest.skip("for problems without a cap")
    problem = make_problem(k=k)
    answer = SparsityConstrainedOT(tol=1e-8, rounding="none").solve(problem)
    result = solver(name).solve(problem, x0=answer.x)
    assert result.status is Status.CONVERGED
    assert result.nit == 0


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("rows", ROWS)
def test_resumed_runs_have_the_same_bits(name, rows):
    if name == "bcd" and rows in ("kl", "l2"):
        pytest.skip("for constraints")
    problem = make_problem(rows=rows, k=None if name == "bcd" else 3)
    whole = stop(solver(name, max_iter=13, tol=1e-14), problem)
    for cut in (1, 6, 12):
        part = stop(solver(name, max_iter=cut, tol=1e-14), problem)
        rest = stop(solver(name, max_iter=13, tol=1e-14), problem, state=part.state)
        assert np.array_equal(rest.state.moving, whole.state.moving)
        assert np.array_equal(rest.state.alpha, whole.state.alpha)
        assert np.array_equal(rest.state.values, whole.state.values)
        assert rest.residual == whole.residual


@pytest.mark.parametrize("rows", ROWS)
def test_start_is_the_better_of_smallest_costs_and_zero(rows):
    problem = make_problem(rows=rows)
    view = problem.canonical
    state = init(solver("lbfgs"), view, None)
    least = problem.C.min(axis=1)
    if rows == "upper":
        least = least - least.max()
    candidates = [least] if rows == "exact" else [least, np.zeros(12)]
    values = [evaluate(view, alpha)[0] for alpha in candidates]
    np.testing.assert_allclose(state.alpha, candidates[int(np.argmax(values))], rtol=1e-12)
    assert state.value == pytest.approx(max(values), rel=1e-12)


def test_time_limit_ends_a_line_search():
    problem = make_problem(k=2)
    result = stop(solver("lbfgs", max_time=0.0, tol=1e-12, max_iter=10), problem)
    assert result.status is Status.TIME_LIMIT
    assert not result.state.stalled


def test_overflowing_start_is_replaced():
    problem = make_problem(rows="kl")
    result = solver("lbfgs").solve(problem, x0=np.full(12, -1e4))
    assert result.status is Status.CONVERGED


def test_work_is_counted():
    problem = make_problem()
    result = stop(solver("adam", max_iter=5, tol=1e-14), problem)
    # one pass for the start's costs, one evaluation there, one a step
    assert result.counts == {"scanned_columns": 7 * 9, "evaluations": 6, "scans": 7}
    dual = stop(solver("adam-dual", max_iter=5, tol=1e-14), problem)
    assert dual.counts["evaluations"] == 2 * 6
    batches = stop(solver("sgd", max_iter=6, tol=1e-14), problem)
    assert batches.counts["scanned_columns"] == 9 + 9 + 6 * 4 + 2 * 9


# -- formulas -------------------------------------------------------------------------------------


def test_adam_follows_its_formula():
    problem = make_problem()
    view = problem.canonical
    method = solver("adam", step_size=0.02)
    state = init(method, view, None)
    alpha, mean, square = problem.C.min(axis=1), np.zeros(12), np.zeros(12)
    for t in range(1, 6):
        g = evaluate(view, alpha)[1]
        mean, square = 0.9 * mean + 0.1 * g, 0.999 * square + 0.001 * g * g
        step_to = (mean / (1 - 0.9**t)) / (np.sqrt(square / (1 - 0.999**t)) + 1e-8)
        alpha = alpha + 0.02 * step_to
        state = step(method, view, state)
        np.testing.assert_allclose(state.alpha, alpha, rtol=1e-10)


def test_full_batches_are_gradient_steps():
    problem = make_problem()
    view = problem.canonical
    method = solver("sgd", batch_size=9, step_size=0.1)
    state = init(method, view, None)
    alpha = problem.C.min(axis=1)
    average = alpha.copy()
    for t in range(1, 6):
        alpha = alpha + 0.1 / np.sqrt(t) * evaluate(view, alpha)[1]
        average = average + 4.0 / (t + 3.0) * (alpha - average)
        state = step(method, view, state)
        np.testing.assert_allclose(state.moving, alpha, rtol=1e-10)
        np.testing.assert_allclose(state.alpha, average, rtol=1e-10)


def test_batches_are_unbiased():
    """The mean step over many draws is the gradient step."""
    problem = make_problem(4, 3)
    view = problem.canonical
    method = solver("sgd", batch_size=1, step_size=1.0)
    moves = []
    for seed in range(600):
        method.random_state = seed
        state = init(method, view, None)
        before = state.moving.copy()
        moves.append(step(method, view, state).moving - before)
    expected = evaluate(view, before)[1]
    error = np.std(moves, axis=0) / np.sqrt(len(moves))
    assert np.all(np.abs(np.mean(moves, axis=0) - expected) <= 4.0 * error + 1e-15)


def test_two_loops_are_the_matrix_of_bfgs():
    rng = np.random.default_rng(0)
    size, pairs = 6, 3
    M = rng.standard_normal((size, size))
    A = M @ M.T + np.eye(size)
    steps = rng.standard_normal((pairs, size))
    changes = steps @ A
    H = np.eye(size) * (steps[0] @ changes[0]) / (changes[0] @ changes[0])
    for s, y in zip(steps[::-1], changes[::-1], strict=True):  # the oldest first
        V = np.eye(size) - np.outer(y, s) / (s @ y)
        H = V.T @ H @ V + np.outer(s, s) / (s @ y)
    g = rng.standard_normal(size)
    np.testing.assert_allclose(direction(g, steps, changes, pairs), H @ g, rtol=1e-10)
    np.testing.assert_array_equal(direction(g, steps, changes, 0), g)


def test_history_holds_the_last_pairs_with_curvature():
    steps, changes = np.zeros((2, 3)), np.zeros((2, 3))
    points = [Point(np.full(3, float(x)), 0.0, np.full(3, -(float(x) ** 2))) for x in (0, 1, 2, 3)]
    pairs = 0
    for old, new, count in zip(points, points[1:], (1, 2, 2), strict=False):
        pairs = remember(steps, changes, pairs, old, new)
        assert pairs == count
    np.testing.assert_array_equal(changes, [[5.0] * 3, [3.0] * 3])
    flat = Point(np.full(3, 9.0), 0.0, points[3].gradient)
    assert remember(steps, changes, pairs, points[3], flat) == 2
    np.testing.assert_array_equal(changes[0], 5.0)


@pytest.mark.parametrize("length", [1e-6, 1.0, 1e6])
def test_search_meets_the_strong_wolfe_conditions(length):
    def f(x):
        return Point(x, float(-np.cosh(x - 3.0).sum()), -np.sinh(x - 3.0))

    old = f(np.zeros(2))
    with np.errstate(over="ignore", invalid="ignore"):
        new = search(f, old, old.gradient, length)
    slope = old.gradient @ old.gradient
    t = new.x[0] / old.gradient[0]
    assert new.value >= old.value + 1e-4 * t * slope
    assert abs(new.gradient @ old.gradient) <= 0.9 * slope


def test_search_on_a_kink():
    def f(x):  # the slope jumps from 1 to -10 at 1
        return Point(x, float(min(x[0], 11.0 - 10.0 * x[0])), np.where(x < 1.0, 1.0, -10.0))

    old = f(np.array([0.0]))
    new = search(f, old, np.array([1.0]), 0.3)
    assert new is not None
    assert new.value > 0.5
    assert search(f, f(np.array([1.0])), np.array([1.0]), 1.0) is None


# -- what does not work ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "model", "message"),
    [
        ({"method": "bcd"}, {"k": 2}, "max_nnz=2.*ssnal"),
        ({"method": "bcd"}, {"gamma": 0.0}, "gamma=0.*ssnal"),
        ({"method": "bcd"}, {"rows": "kl"}, "penalties.*lbfgs"),
        ({"method": "bcd", "formulation": "dual"}, {}, "formulation='dual'.*semidual"),
        ({"method": "sgd", "formulation": "dual"}, {}, "formulation='dual'.*semidual"),
        ({"method": "lbfgs", "formulation": "dual"}, {"gamma": 0.0}, "gamma=0.*semidual"),
        ({"method": "sgd"}, {"gamma": 0.0}, "step_size"),
    ],
)
def test_unsupported_combinations_say_what_works(options, model, message):
    with pytest.raises(ParameterError, match=message):
        SparsityConstrainedOT(**options).solve(make_problem(**model))


@pytest.mark.parametrize("name", ["lbfgs", "adam"])
def test_without_a_quadratic_term_bounds_hold(name):
    problem = make_problem(gamma=0.0)
    exact = SparsityConstrainedOT().solve(problem)
    result = stop(solver(name, max_iter=200), problem)
    assert result.status in (Status.STALLED, Status.ITERATION_LIMIT)
    assert result.dual_value <= exact.value + 1e-9
    assert result.dual_value > 0.8 * exact.value
