"""Fixed solves of sparse linear models; a file of its own, as earlier commits lack the solver."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp

from lowrank_opt.block_coordinate import (
    CompositeProblem,
    GLMProblem,
    SparseGLMSolver,
    lasso_path,
)
from lowrank_opt.block_coordinate.forests import greedy_forest, solve_forest
from lowrank_opt.numerics import L1

CASES = ("dense", "sparse", "logistic")


def make_data(case: str, n: int, p: int) -> tuple[Any, Any]:
    """Return random data with 20 true coefficients, and targets or labels."""
    rng = np.random.default_rng(0)
    if case == "dense":
        X = np.asfortranarray(rng.standard_normal((n, p)))
    else:
        X = sp.random_array((n, p), density=0.01, rng=rng, format="csc")
    y = X[:, :20] @ rng.standard_normal(20)
    y = y + 0.1 * y.std() * rng.standard_normal(n)
    return X, np.where(y > 0, 1.0, -1.0) if case == "logistic" else y


def make_problem(case: str, n: int, p: int, ratio: float) -> CompositeProblem:
    """Return a problem with intercept, its penalty `ratio` times below the largest of use."""
    X, y = make_data(case, n, p)
    loss = "logistic" if case == "logistic" else "squared"
    smooth = GLMProblem(X, y, loss, fit_intercept=True)
    return CompositeProblem(smooth, L1(smooth.null_gradient / ratio))


class Solve:
    """Time and memory of one solve."""

    params = CASES
    param_names = ("data",)
    timeout = 300
    number = 1
    repeat = 7

    def setup(self, case: str) -> None:
        SparseGLMSolver().solve(make_problem(case, 60, 100, 20.0))  # compiles
        self.problem = make_problem(case, 500, 5000, 20.0)

    def time_solve(self, case: str) -> None:
        SparseGLMSolver().solve(self.problem)

    def peakmem_solve(self, case: str) -> None:
        SparseGLMSolver().solve(self.problem)


class Path:
    """Time of a path of 50 penalties."""

    params = CASES[:2]
    param_names = ("data",)
    timeout = 300
    number = 1
    repeat = 3

    def setup(self, case: str) -> None:
        lasso_path(*make_data(case, 60, 100), n_alphas=5, eps=0.1)
        self.data = make_data(case, 300, 2000)

    def time_path(self, case: str) -> None:
        lasso_path(*self.data, n_alphas=50, eps=0.05)


class GreedyForest:
    """Time of one greedy forest in a lattice, and of the solution on it."""

    timeout = 300
    number = 1
    repeat = 7

    def setup(self) -> None:
        side = 200
        line = sp.diags_array([np.ones(side - 1)] * 2, offsets=[-1, 1])
        eye = sp.eye_array(side)
        W = sp.kron(line, eye) + sp.kron(eye, line)
        self.A = (sp.diags_array(W.sum(axis=1) + 1.0) - W).tocsr()
        self.g = np.random.default_rng(0).standard_normal(side * side)
        self.time_forest()  # compiles

    def time_forest(self) -> None:
        nodes = greedy_forest(self.A, np.abs(self.g))
        solve_forest(self.A, -self.g[nodes], nodes)
