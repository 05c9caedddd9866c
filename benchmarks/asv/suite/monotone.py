"""Fixed linear programs; a file of its own, because earlier commits lack the family."""

from __future__ import annotations

from lowrank_opt.datasets import (
    make_multicommodity_lp,
    make_pagerank_lp,
    make_planted_lp,
    make_transport_lp,
)
from lowrank_opt.monotone import HalpernPDHG

PROGRAMS = {
    "planted": lambda: make_planted_lp(2000, 4000, random_state=0),
    "transport": lambda: make_transport_lp(200, random_state=0),
    "pagerank": lambda: make_pagerank_lp(20_000, random_state=0),
    "multicommodity": lambda: make_multicommodity_lp(40, 160, 30, random_state=0),
}


class Solve:
    """Time and memory of a solve to 1e-6."""

    params = tuple(PROGRAMS)
    param_names = ("program",)
    timeout = 300
    number = 1
    repeat = 5

    def setup(self, name: str) -> None:
        HalpernPDHG().solve(make_transport_lp(10, random_state=0).problem)  # compiles
        self.problem = PROGRAMS[name]().problem

    def time_solve(self, name: str) -> None:
        HalpernPDHG().solve(self.problem)

    def peakmem_solve(self, name: str) -> None:
        HalpernPDHG().solve(self.problem)


class Iterate(Solve):
    """Time and memory of 1024 iterations, without presolve and finish."""

    solver = HalpernPDHG(tol=1e-15, max_iter=1024, presolve=False, finish=False)

    def time_solve(self, name: str) -> None:
        self.solver.solve(self.problem)

    def peakmem_solve(self, name: str) -> None:
        self.solver.solve(self.problem)
