"""Update rules: decreases of the theory, closed forms, and independent minimisers."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from scipy.optimize import minimize

from lowrank_opt.block_coordinate import (
    BlockCoordinateDescent,
    CompositeProblem,
    GLMProblem,
    QuadraticProblem,
)
from lowrank_opt.block_coordinate.positive import solve_positive
from lowrank_opt.block_coordinate.updates import UPDATES, armijo, cubic_step
from lowrank_opt.core import ParameterError, Status
from lowrank_opt.numerics import (
    L1,
    MCP,
    SCAD,
    Box,
    ElasticNet,
    GroupL1,
    NonNegative,
    SquaredL2,
    WeightedL1,
)

SEEDS = range(4)
BLOCK = np.array([1, 3, 4, 7])
LABELS = np.array([1, 0, 1, 0, 0, 1, 1, 0, 1, 1])  # block 0 is BLOCK


def smooth_problem(kind, seed=0, n=30, p=10, **options):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, p)) * np.exp(rng.uniform(-1, 1, p))
    z = X @ rng.standard_normal(p) * 0.3
    if kind == "quadratic":
        return QuadraticProblem(X.T @ X, X.T @ z)
    y = {
        "squared": z + rng.standard_normal(n),
        "huber": z + 3 * rng.standard_normal(n),
        "logistic": np.sign(z + rng.standard_normal(n)),
        "poisson": rng.poisson(np.exp(np.clip(z, -3, 3))).astype(float),
        "softmax": np.arange(n) % 3,
    }[kind]
    return GLMProblem(X, y, kind, **options)


def one_update(problem, update, x0=None, blocks=LABELS, seed=0, **options):
    """Change block 0 at a random point; return the point before and after, and the state."""
    x0 = np.random.default_rng(50 + seed).standard_normal(problem.x_shape) if x0 is None else x0
    solver = BlockCoordinateDescent(blocks=blocks, selection="cyclic", update=update, **options)
    state = solver.init(problem, x0)
    before = state.x.copy()
    solver.step(problem, state)
    work = problem.smooth.start(state.x)
    np.testing.assert_allclose(state.work, work, atol=1e-10 * max(1.0, np.abs(work).max()))
    untouched = np.setdiff1d(np.arange(before.size), state.cache.partition.blocks[0])
    np.testing.assert_array_equal(state.x[untouched], before[untouched])
    return before, state.x, state


class TestSmooth:
    @pytest.mark.parametrize("kind", ["quadratic", "squared", "huber", "logistic"])
    @pytest.mark.parametrize("seed", SEEDS)
    def test_gradient_and_matrix_decrease_as_much_as_promised(self, kind, seed):
        # Fact 1; equality for quadratics, where the bound is the Hessian.
        problem = smooth_problem(kind, seed)
        H = problem.block_bound(BLOCK)
        top = np.linalg.eigvalsh(H)[-1]
        for update in ("gradient", "matrix"):
            before, after, _ = one_update(problem, update, seed=seed)
            g = problem.gradient(before)[BLOCK]
            decrease = problem.objective(before) - problem.objective(after)
            d = after[BLOCK] - before[BLOCK]
            if update == "gradient":
                promised = g @ g / (2 * top)
                np.testing.assert_allclose(d, -g / top, rtol=1e-9)
                exact = promised + 0.5 * (g @ g / top - d @ H @ d)
            else:
                promised = exact = 0.5 * g @ np.linalg.solve(H, g)
                np.testing.assert_allclose(d, -np.linalg.solve(H, g), rtol=1e-9)
            slack = 1e-12 * abs(problem.objective(before))
            assert decrease >= promised - slack
            if kind in ("quadratic", "squared"):
                np.testing.assert_allclose(decrease, exact, rtol=1e-9)

    def test_softmax_bound_holds_for_any_subset_of_classes(self):
        problem = smooth_problem("softmax", l2=0.05)
        rng = np.random.default_rng(0)
        for seed in range(12):
            labels = rng.integers(0, 2, 30)
            labels[:2] = 0, 1
            before, after, _ = one_update(problem, "matrix", blocks=labels, seed=seed)
            b = np.flatnonzero(labels == 0)
            g = problem.gradient(before.reshape(10, 3)).ravel()[b]
            promised = 0.5 * g @ np.linalg.solve(problem.block_bound(b), g)
            x, y = before.reshape(10, 3), after.reshape(10, 3)
            assert problem.objective(x) - problem.objective(y) >= promised - 1e-10

    @pytest.mark.parametrize("kind", ["quadratic", "squared"])
    def test_exact_solves_the_block(self, kind):
        problem = smooth_problem(kind)
        _, after, _ = one_update(problem, "exact")
        np.testing.assert_allclose(problem.gradient(after)[BLOCK], 0.0, atol=1e-9)

    def test_a_singular_block_has_its_least_norm_step(self):
        X = np.random.default_rng(0).standard_normal((20, 3))
        problem = GLMProblem(np.hstack([X, X, np.zeros((20, 1))]), np.arange(20.0))
        before, after, _ = one_update(problem, "exact", blocks=np.zeros(7, int))
        H = problem.block_bound(np.arange(7))
        np.testing.assert_allclose(problem.gradient(after), 0.0, atol=1e-9)
        step = -np.linalg.pinv(H) @ problem.gradient(before)
        np.testing.assert_allclose(after - before, step, atol=1e-9)

    @pytest.mark.parametrize("update", ["exact", "matrix", "newton"])
    def test_a_dense_block_that_is_not_positive_semi_definite_is_no_solution(self, update):
        # (1/3, 1/3) is a saddle: the derivatives vanish, the objective has no minimum.
        problem = QuadraticProblem([[1.0, 2.0], [2.0, 1.0]], [1.0, 1.0])
        result = BlockCoordinateDescent(block_size="all", update=update).solve(problem)
        assert result.status is Status.NUMERICAL_ERROR
        assert "eigenvalue -1" in result.message

    def test_lipschitz_search_doubles_until_the_decrease_holds_and_remembers(self):
        problem = smooth_problem("logistic", seed=1)
        before, after, state = one_update(problem, "lipschitz_search", seed=1)
        g = problem.gradient(before)[BLOCK]

        def holds(L):
            x = before.copy()
            x[BLOCK] -= g / L
            return problem.objective(x) <= problem.objective(before) - g @ g / (2 * L)

        L = 1.0
        while not holds(L):
            L *= 2
        assert L > 1.0
        np.testing.assert_array_equal(state.estimates[BLOCK], L)
        np.testing.assert_array_equal(state.estimates[LABELS == 1], 1.0)
        np.testing.assert_allclose(after[BLOCK], before[BLOCK] - g / L)

    @pytest.mark.parametrize("kind", ["logistic", "softmax", "huber", "poisson"])
    def test_newton_steps_are_along_the_newton_direction_and_decrease_enough(self, kind):
        problem = smooth_problem(kind, l2=0.1)
        k = problem.n_outputs
        labels = LABELS if k == 1 else np.arange(10 * k) % 4
        before, after, state = one_update(problem, "newton", blocks=labels)
        b = state.cache.partition.blocks[0]
        g = problem.gradient(before.reshape(problem.x_shape)).ravel()[b]
        H = problem.block_hessian(problem.start(before), before, b)
        d = after[b] - before[b]
        direction = -np.linalg.solve(H, g)
        t = d @ direction / (direction @ direction)
        np.testing.assert_allclose(d, t * direction, rtol=1e-8)
        assert 0 < t <= 1 + 1e-9
        values = [problem.objective(v.reshape(problem.x_shape)) for v in (before, after)]
        assert values[1] <= values[0] + 1e-4 * t * (g @ direction)

    def test_newton_survives_a_flat_hessian_far_from_the_solution(self):
        problem = smooth_problem("huber")
        x0 = np.full(10, 1e3)  # all residuals in the linear part
        before, after, _ = one_update(problem, "newton", x0=x0)
        assert problem.objective(after) < problem.objective(before)


class TestLineSearch:
    def test_a_full_step_that_decreases_enough_is_taken(self):
        assert armijo(lambda t: -t, 0.0, -1.0, 1e-4) == (1.0, 1)

    def test_the_second_trial_is_the_minimum_of_the_parabola(self):
        tried = []

        def value(t):
            tried.append(t)
            return 4 * t * t - 2 * t  # minimum at 0.25, value(1) = 2

        assert armijo(value, 0.0, -2.0, 1e-4)[0] == 0.25
        assert tried == [1.0, 0.25]

    def test_the_third_trial_is_the_minimum_of_the_cubic(self):
        # value(t) = a t^3 + b t^2 - t with its positive minimum near 0.09, within the safeguards
        a, b = 30.0, 3.0
        tried = []

        def value(t):
            tried.append(t)
            return a * t**3 + b * t**2 - t

        armijo(value, 0.0, -1.0, 0.5)
        third = (-b + np.sqrt(b * b + 3 * a)) / (3 * a)
        assert tried[1] == 0.1  # the parabola says 1/66: at least a tenth
        assert len(tried) == 2 or np.isclose(tried[2], np.clip(third, 0.01, 0.05))

    def test_the_cubic_agrees_with_one_fitted_by_linear_algebra(self):
        rng = np.random.default_rng(0)
        inside = 0
        for _ in range(50):
            tried, values = [], [rng.uniform(0, 3), rng.uniform(0, 3), -100.0]

            def value(t, tried=tried, values=values):
                tried.append(t)
                return values[len(tried) - 1]

            armijo(value, 0.0, -1.0, 1e-4)
            s, t = tried[:2]
            a, b = np.linalg.solve([[s**3, s**2], [t**3, t**2]], [values[0] + s, values[1] + t])
            slopes = np.roots([3 * a, 2 * b, -1.0])
            minima = [r.real for r in slopes if r.imag == 0 and 6 * a * r.real + 2 * b > 0]
            expected = np.clip(minima[0], 0.1 * t, 0.5 * t) if minima else 0.5 * t
            np.testing.assert_allclose(tried[2], expected, rtol=1e-9)
            inside += 0.1 * t < tried[2] < 0.5 * t
        assert inside > 5

    def test_an_infinite_value_is_backed_away_from(self):
        t, _ = armijo(lambda t: np.inf if t > 0.3 else -t, 0.0, -1.0, 1e-4)
        assert 0 < t <= 0.3

    def test_after_an_infinite_value_the_parabola_is_that_of_the_shorter_step(self):
        tried = []

        def value(t):
            tried.append(t)
            return np.inf if t > 0.5 else 30 * t * t - 2 * t

        armijo(value, 0.0, -2.0, 0.5)
        np.testing.assert_allclose(tried, [1.0, 0.1, 1 / 30])

    def test_without_descent_the_step_is_zero(self):
        assert armijo(lambda t: t, 0.0, 0.0, 1e-4)[0] == 0.0
        assert armijo(lambda t: 1.0 + t, 1.0, -1e-30, 1e-4)[0] <= 1e-15


class TestCubic:
    @pytest.mark.parametrize("seed", range(8))
    def test_the_step_minimises_the_cubic_model(self, seed):
        rng = np.random.default_rng(seed)
        m = 5
        M = rng.standard_normal((m if seed % 2 else 2, m))  # every second one is singular
        H, g, third = M.T @ M, rng.standard_normal(m), 10.0 ** rng.uniform(-3, 2)

        def model(d):
            return g @ d + 0.5 * d @ H @ d + third / 6 * np.linalg.norm(d) ** 3

        def slope(d):
            return g + H @ d + third / 2 * np.linalg.norm(d) * d

        found = cubic_step(H, g, third)
        np.testing.assert_allclose(slope(found), 0.0, atol=1e-9 * np.linalg.norm(g))
        other = minimize(model, 0.1 * rng.standard_normal(m), jac=slope, options={"gtol": 1e-9})
        assert model(found) <= other.fun + 1e-9 * abs(other.fun)
        np.testing.assert_allclose(model(found), other.fun, rtol=1e-6)

    def test_without_third_derivatives_it_is_the_newton_step(self):
        H = np.diag([1.0, 4.0])
        np.testing.assert_allclose(cubic_step(H, np.array([1.0, 2.0]), 0.0), [-1.0, -0.5])
        np.testing.assert_array_equal(cubic_step(H, np.zeros(2), 1.0), 0.0)

    @pytest.mark.parametrize("kind", ["logistic", "softmax"])
    def test_it_decreases_without_a_line_search(self, kind):
        problem = smooth_problem(kind, l2=0.01)
        solver = BlockCoordinateDescent(block_size=4, selection="gs", update="cubic", max_iter=100)
        values = []
        result = solver.solve(
            problem, x0=3 * np.ones(problem.x_shape), callback=lambda r: values.append(r.fun)
        )
        assert (np.diff(values) <= 1e-12).all()
        assert "evaluations" not in result.counts


PENALTIES = (
    L1(2.0),
    WeightedL1(2.0, np.array([1.0, 0.0, 2.0, 0.5, np.inf, 1, 1, 1, 1, 1])),
    ElasticNet(3.0, 0.6),
    Box(-0.4, 0.3),
    NonNegative(1.0),
    SquaredL2(2.0),
)


class TestComposite:
    @pytest.mark.parametrize("penalty", [*PENALTIES, MCP(2.0, 3.0), SCAD(1.0, 3.7)], ids=repr)
    def test_prox_gradient_is_the_prox_of_the_step(self, penalty):
        problem = CompositeProblem(smooth_problem("logistic"), penalty)
        before, after, _ = one_update(problem, "prox_gradient")
        L = np.linalg.eigvalsh(problem.smooth.block_bound(BLOCK))[-1]
        g = problem.gradient(before)
        step = before - g / L
        pen = problem.penalty
        expected = (
            pen.prox(step, 1 / L)[BLOCK] if isinstance(pen, WeightedL1)
            else pen.prox(step[BLOCK], 1 / L)
        )  # fmt: skip
        np.testing.assert_allclose(after[BLOCK], expected, rtol=1e-12)

    @pytest.mark.parametrize("penalty", PENALTIES, ids=repr)
    @pytest.mark.parametrize("kind", ["quadratic", "squared"])
    def test_exact_minimises_over_the_block(self, penalty, kind):
        import cvxpy as cp

        smooth = smooth_problem(kind)
        problem = CompositeProblem(smooth, penalty)
        before, after, _ = one_update(problem, "exact")
        H, g = smooth.block_bound(BLOCK), problem.gradient(before)[BLOCK]
        v = cp.Variable(4)
        d = v - before[BLOCK]
        model = g @ d + 0.5 * cp.quad_form(d, cp.psd_wrap(H))
        alpha, limits = getattr(penalty, "alpha", 0.0), []
        if isinstance(penalty, WeightedL1):
            w = penalty.weights[BLOCK]
            model += alpha * cp.sum(cp.multiply(np.where(np.isinf(w), 0, w), cp.abs(v)))
            limits = [v[np.flatnonzero(np.isinf(w))] == 0]
        elif isinstance(penalty, ElasticNet):
            model += alpha * (0.6 * cp.norm1(v) + 0.2 * cp.sum_squares(v))
        elif isinstance(penalty, SquaredL2):
            model += alpha / 2 * cp.sum_squares(v)
        elif isinstance(penalty, L1):
            model += alpha * cp.norm1(v)
        elif isinstance(penalty, Box):
            limits = [v >= penalty.low, v <= penalty.high]
        else:
            model += alpha * cp.sum(v)
            limits = [v >= 0]
        cp.Problem(cp.Minimize(model), limits).solve(cp.CLARABEL)
        np.testing.assert_allclose(after[BLOCK], v.value, atol=1e-5)

    @pytest.mark.parametrize("update", ["prox_newton", "tmp"])
    @pytest.mark.parametrize("penalty", PENALTIES, ids=repr)
    @pytest.mark.parametrize("kind", ["logistic", "poisson", "huber"])
    def test_second_order_updates_descend_and_reach_the_block_minimum(self, update, penalty, kind):
        problem = CompositeProblem(smooth_problem(kind, l2=0.1), penalty)
        solver = BlockCoordinateDescent(blocks=LABELS, selection="cyclic", update=update)
        state = solver.init(problem, 0.3 * np.random.default_rng(0).standard_normal(10))
        plan, values = state.cache, [problem.objective(state.x)]
        for _ in range(25):
            state.place = 0
            solver.step(problem, state)
            values.append(problem.objective(state.x))
        assert (np.diff(values) <= 1e-12 * abs(values[0])).all()
        g = problem.gradient(state.x)[BLOCK]
        pseudo = plan.penalty.subgradient(BLOCK, state.x[BLOCK], g)
        np.testing.assert_allclose(pseudo, 0.0, atol=1e-7 * problem.null_gradient)

    def test_tmp_agrees_with_a_conic_solver_on_bounds(self):
        import cvxpy as cp

        rng = np.random.default_rng(3)
        X, y = rng.standard_normal((40, 12)), np.sign(rng.standard_normal(40))
        for penalty in (Box(-0.1, 0.2), NonNegative(0.5), L1(1.5)):
            problem = CompositeProblem(GLMProblem(X, y, "logistic"), penalty)
            v = cp.Variable(12)
            limits, extra = [], 0
            if isinstance(penalty, Box):
                limits = [v >= -0.1, v <= 0.2]
            elif isinstance(penalty, NonNegative):
                limits, extra = [v >= 0], 0.5 * cp.sum(v)
            else:
                extra = 1.5 * cp.norm1(v)
            loss = cp.sum(cp.logistic(-cp.multiply(y, X @ v)))
            cp.Problem(cp.Minimize(loss + extra), limits).solve(cp.CLARABEL)
            result = BlockCoordinateDescent(
                block_size="all", update="tmp", selection="gs-s", tol=1e-10
            ).solve(problem)
            assert result.success, result.message
            np.testing.assert_allclose(result.x, v.value, atol=1e-4)

    @pytest.mark.parametrize("update", ["prox_gradient", "prox_newton", "tmp", "lipschitz_search"])
    def test_bounds_are_reached_exactly(self, update):
        smooth = QuadraticProblem(np.eye(5), -1e6 * np.ones(5))
        problem = CompositeProblem(smooth, Box(0.1, 1e4))
        start = 123.456 * np.arange(1, 6)
        assert ((start + (0.1 - start)) != 0.1).any()
        solver = BlockCoordinateDescent(block_size="all", update=update, selection="cyclic")
        state = solver.init(problem, start)
        solver.step(problem, state)
        np.testing.assert_array_equal(state.x, 0.1)

    @pytest.mark.parametrize("penalty", [L1(0.3), ElasticNet(0.9, 0.3), Box(-2.0, 9.0)], ids=repr)
    def test_a_model_whose_signs_are_right_is_solved_exactly(self, penalty):
        # One sweep of coordinate descent is asked for; the rest is the polish.
        from lowrank_opt.block_coordinate.updates import _solve_model

        rng = np.random.default_rng(0)
        M = rng.standard_normal((9, 6))
        H = M.T @ M + np.eye(6)
        start = np.full(6, 3.0)
        g = H @ (np.full(6, 2.5) - start) * -1.0
        problem = CompositeProblem(QuadraticProblem(H, np.ones(6)), penalty)
        plan = BlockCoordinateDescent().init(problem).cache
        v = _solve_model(plan, np.arange(6), H, -g, start, 1e9)
        pseudo = plan.penalty.subgradient(np.arange(6), v, -g + H @ (v - start))
        np.testing.assert_allclose(pseudo, 0.0, atol=1e-11)

    def test_intercepts_are_not_penalised_by_any_update(self):
        rng = np.random.default_rng(0)
        X, y = rng.standard_normal((30, 4)), 100 + rng.standard_normal(30)
        problem = CompositeProblem(GLMProblem(X, y, fit_intercept=True), L1(1e4))
        for update in ("prox_gradient", "prox_newton", "tmp", "exact", "lipschitz_search"):
            solver = BlockCoordinateDescent(
                block_size="all", update=update, selection="cyclic", tol=1e-13, max_iter=5000
            )
            result = solver.solve(problem)
            assert result.success, (update, result.message)
            np.testing.assert_allclose(result.x, [0, 0, 0, 0, y.mean()], rtol=1e-7)


class TestCombinations:
    @pytest.mark.parametrize(
        ("update", "make", "message"),
        [
            ("gradient", lambda: CompositeProblem(smooth_problem("squared"), L1(1.0)),
             "update='prox_gradient'"),
            ("newton", lambda: CompositeProblem(smooth_problem("squared"), L1(1.0)),
             "update='prox_newton'"),
            ("gradient", lambda: smooth_problem("poisson"), "bound of the Hessian"),
            ("matrix", lambda: smooth_problem("poisson"), "bound of the Hessian"),
            ("cubic", lambda: smooth_problem("huber"), "Lipschitz constant of the Hessian"),
            ("exact", lambda: smooth_problem("logistic"), "quadratics and the squared loss"),
            ("tmp", lambda: CompositeProblem(smooth_problem("squared"), MCP(1.0)), "not MCP"),
            ("prox_newton",
             lambda: CompositeProblem(smooth_problem("squared"), GroupL1(1.0, np.arange(10) // 2)),
             "not GroupL1"),
            ("forest", lambda: smooth_problem("quadratic"), "may have a cycle"),
            ("steepest", lambda: smooth_problem("quadratic"), "update='steepest'"),
        ],
    )  # fmt: skip
    def test_updates_that_do_not_fit_the_problem_are_refused(self, update, make, message):
        with pytest.raises(ParameterError, match=message):
            BlockCoordinateDescent(update=update, selection="cyclic", block_size=3,
                                   blocks="variable" if update == "forest" else "auto",
                                   ).solve(make())  # fmt: skip

    def test_a_forest_update_of_a_block_with_a_cycle_is_refused(self):
        ring = sp.csr_array(
            3 * np.eye(4) - np.roll(np.eye(4), 1, axis=0) - np.roll(np.eye(4), -1, axis=0)
        )
        problem = QuadraticProblem(ring, np.ones(4))
        with pytest.raises(ParameterError, match="block 0 have a cycle"):
            BlockCoordinateDescent(blocks=[0, 0, 0, 0], update="forest").solve(problem)
        result = BlockCoordinateDescent(blocks=[0, 0, 0, 1], update="forest").solve(problem)
        np.testing.assert_allclose(result.x, 1.0, atol=1e-5)

    def test_every_update_is_in_the_table(self):
        assert set(UPDATES) == {
            "gradient", "lipschitz_search", "matrix", "newton", "cubic", "exact", "forest",
            "prox_gradient", "prox_newton", "tmp",
        }  # fmt: skip


def test_solve_positive_is_scale_free():
    rng = np.random.default_rng(0)
    M = rng.standard_normal((8, 4))
    scale = np.diag(10.0 ** np.array([-6, 0, 5, 9]))
    H = scale @ (M.T @ M) @ scale
    x = np.linalg.solve(scale, np.ones(4))
    np.testing.assert_allclose(solve_positive(H, H @ x), x, rtol=1e-6)
