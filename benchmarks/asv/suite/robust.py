"""Fixed solves with gross errors; a file of its own, because earlier commits lack the solvers."""

from __future__ import annotations

from typing import Any

from lowrank_opt.datasets import make_low_rank_observations
from lowrank_opt.recovery import LowRankPlusSparse
from lowrank_opt.recovery.huber_als import HuberALS
from lowrank_opt.recovery.subgradient import SubgradientMethod

SOLVERS: dict[str, Any] = {
    "HuberALS": HuberALS(tol=0.0, max_iter=30, random_state=0),
    "SubgradientMethod": SubgradientMethod(tol=0.0, max_iter=200, random_state=0),
}


def make_problem(name: str) -> LowRankPlusSparse:
    """Return 64,000 entries of 800 x 800, a twentieth wrong; rank 5, unknown to HuberALS."""
    data = make_low_rank_observations(
        800, 800, 5, n_observations=64_000, outlier_fraction=0.05, random_state=0
    )
    return LowRankPlusSparse.from_coo(
        data.rows, data.cols, data.values, data.shape, rank="auto" if name == "HuberALS" else 5
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
