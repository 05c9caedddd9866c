"""SparseGLMSolver as a whole: which engine, what it refuses, when it gives up, paths."""

from __future__ import annotations

import numpy as np
import pytest

from lowrank_opt import solve
from lowrank_opt.block_coordinate import (
    BlockCoordinateDescent,
    CompositeProblem,
    GLMProblem,
    QuadraticProblem,
    SparseGLMSolver,
)
from lowrank_opt.core import Status, UnsupportedProblemError
from lowrank_opt.numerics import L1, MCP, ElasticNet, GroupL1, NonNegative, SquaredL2


def data(loss="squared", seed=0, n=40, p=60):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, p))
    z = X[:, :5].sum(axis=1)
    y = {
        "squared": lambda: z + rng.standard_normal(n),
        "huber": lambda: z + rng.standard_normal(n),
        "logistic": lambda: np.where(z + rng.logistic(size=n) > 0, 1.0, -1.0),
        "poisson": lambda: rng.poisson(np.exp(0.3 * z)),
    }[loss]()
    return GLMProblem(X, y, loss, fit_intercept=True)


def composite(pen=None, part=20, loss="squared", seed=0):
    smooth = data(loss, seed)
    alpha = smooth.null_gradient / part
    return CompositeProblem(smooth, L1(alpha) if pen is None else pen(alpha))


@pytest.mark.parametrize(
    ("problem", "missing"),
    [
        (lambda: CompositeProblem(QuadraticProblem(np.eye(3), np.ones(3)), L1(0.1)), "linear"),
        (lambda: data(), "kinks"),
        (lambda: CompositeProblem(data(), SquaredL2(1.0)), "kinks"),
    ],
)
def test_problems_of_other_forms_are_refused_with_the_solver_that_takes_them(problem, missing):
    with pytest.raises(UnsupportedProblemError, match=f"{missing}.*BlockCoordinateDescent"):
        SparseGLMSolver().solve(problem())


@pytest.mark.parametrize("loss", ["squared", "logistic", "huber", "poisson"])
@pytest.mark.parametrize(
    "pen", [L1, NonNegative, lambda a: ElasticNet(a, 0.7), lambda a: GroupL1(a, np.arange(60) // 3)]
)
def test_a_tolerance_below_rounding_ends_as_stalled_with_an_honest_point(loss, pen):
    problem = composite(pen, loss=loss)
    result = SparseGLMSolver(tol=1e-17, max_iter=10_000).solve(problem)
    assert result.status is Status.STALLED
    assert result.nit < 2000
    assert result.certificate.residual < 1e-13


def test_a_run_goes_on_while_it_gets_anywhere():
    problem = composite(part=100)
    whole = SparseGLMSolver(tol=1e-12).solve(problem)
    assert whole.status is Status.CONVERGED
    state = SparseGLMSolver(tol=1e-12, max_iter=1).solve(problem).state
    assert (state.idle, state.failures) == (0, 0)
    state.idle = 39
    assert SparseGLMSolver(tol=1e-12).solve(problem, state=state).status is Status.CONVERGED
    state.failures = 10
    assert SparseGLMSolver(tol=1e-12).solve(problem, state=state).status is Status.STALLED


@pytest.mark.parametrize("loss", ["squared", "logistic"])
@pytest.mark.parametrize("pen", [L1, lambda a: GroupL1(a, np.arange(60) // 3)])
def test_a_path_gives_what_separate_runs_give(loss, pen):
    smooth = data(loss)
    solver = SparseGLMSolver(tol=1e-9)
    state = None
    for part in (2, 5, 10, 30, 12):  # down, and up again
        problem = CompositeProblem(smooth, pen(smooth.null_gradient / part))
        state = solver.init(problem) if state is None else solver.follow(problem, state)
        while solver.terminate(problem, state) is None:
            state = solver.step(problem, state)
        assert solver.terminate(problem, state) is Status.CONVERGED
        alone = solver.solve(problem)
        found = problem.certificate(solver.point(problem, state))
        assert found.residual < 1e-8
        assert found.objective == pytest.approx(alone.fun, rel=1e-8)


def test_the_problem_chooses_its_solver():
    assert solve(composite()).solver.startswith("SparseGLMSolver")
    assert solve(data(loss="logistic")).solver.startswith("BlockCoordinateDescent")
    ridge = solve(CompositeProblem(data(loss="logistic"), SquaredL2(1.0)))
    assert ridge.success
    assert ridge.solver.startswith("BlockCoordinateDescent")


def test_two_solvers_of_the_family_agree():
    for pen in (L1, lambda a: ElasticNet(a, 0.5), lambda a: MCP(a / 4, 1.0)):
        problem = composite(pen, part=4)
        ours = SparseGLMSolver(tol=1e-9).solve(problem)
        other = BlockCoordinateDescent(tol=1e-9).solve(problem, x0=ours.x)
        assert other.nit == 0 or other.fun == pytest.approx(ours.fun, rel=1e-8)
        cold = BlockCoordinateDescent(tol=1e-7).solve(problem)
        if not isinstance(problem.penalty, MCP):
            assert cold.fun == pytest.approx(ours.fun, rel=1e-6)
