"""A fixed solve with each solver: a fixed number of iterations on fixed data."""

from __future__ import annotations

from typing import Any

from lowrank_opt.datasets import make_ratings
from lowrank_opt.recovery import (
    AlternatingMinimization,
    FactorSGD,
    GibbsFactorization,
    MatrixCompletion,
    SoftImpute,
)

# tol=0 (or as small as the solver takes): the work does not depend on when a solver is satisfied.
SOLVERS: dict[str, Any] = {
    "AlternatingMinimization, exact": AlternatingMinimization(
        inner="cholesky", tol=0.0, max_iter=10, finalize=False
    ),
    "AlternatingMinimization, CG": AlternatingMinimization(
        inner="cg", tol=0.0, max_iter=10, finalize=False
    ),
    "FactorSGD": FactorSGD(tol=0.0, max_iter=10, random_state=0),
    "GibbsFactorization": GibbsFactorization(tol=0.0, max_iter=20, random_state=0),
    "SoftImpute": SoftImpute(tol=0.0, max_iter=5, random_state=0),
}


def make_problem(name: str) -> MatrixCompletion:
    """Return ratings of 2,000 users on 1,000 items; for SoftImpute with the nuclear norm."""
    data = make_ratings(2000, 1000, 200_000, random_state=0)
    entries = data.rows, data.cols, data.values, data.shape
    if name == "SoftImpute":
        return MatrixCompletion.from_coo(*entries, rank=40, reg=15.0, penalty="nuclear")
    return MatrixCompletion.from_coo(
        *entries, rank=16, reg=0.05, reg_bias=0.05, reg_scaling="count", biases=True
    )


class Solve:
    """Time and memory of one solve."""

    params = list(SOLVERS)
    param_names = ["solver"]
    timeout = 300
    number = 1
    repeat = 5

    def setup(self, name: str) -> None:
        self.problem = make_problem(name)
        SOLVERS[name].solve(self.problem)  # compiles

    def time_solve(self, name: str) -> None:
        SOLVERS[name].solve(self.problem)

    def peakmem_solve(self, name: str) -> None:
        SOLVERS[name].solve(self.problem)
