"""Fixed solves of sparse transport; a file of its own, because earlier commits lack the solver."""

from __future__ import annotations

from typing import Any

import numpy as np

from lowrank_opt.transport import SparsityConstrainedOT, TopKRouter, TransportProblem

CAPS = (2, 10, None)


def make_problem(n: int, k: int | None) -> TransportProblem:
    """Return two shifted Gaussian clouds of n points in the plane, with random masses."""
    rng = np.random.default_rng(0)
    X, Y = rng.standard_normal((n, 2)), rng.standard_normal((n, 2)) + 1.5
    C = ((X[:, None] - Y) ** 2).sum(axis=2)
    a, b = rng.random(n) + 0.1, rng.random(n) + 0.1
    return TransportProblem(a / a.sum(), b / b.sum(), C / C.max(), max_nnz=k)


class Solve:
    """Time and memory of one solve of the relaxation."""

    params = CAPS
    param_names = ("max_nnz",)
    timeout = 300
    number = 1
    repeat = 5
    solver: Any = SparsityConstrainedOT(rounding="none")

    def setup(self, k: int | None) -> None:
        self.solver.solve(make_problem(300, k))  # compiles
        self.problem = make_problem(1000, k)

    def time_solve(self, k: int | None) -> None:
        self.solver.solve(self.problem)

    def peakmem_solve(self, k: int | None) -> None:
        self.solver.solve(self.problem)


class Route:
    """Time of a batch of groups of tokens."""

    timeout = 300
    number = 1
    repeat = 5

    def setup(self) -> None:
        rng = np.random.default_rng(0)
        self.logits = rng.standard_normal((8, 4096, 64)).astype(np.float32)
        TopKRouter().route(self.logits)  # compiles

    def time_route(self) -> None:
        TopKRouter().route(self.logits)
