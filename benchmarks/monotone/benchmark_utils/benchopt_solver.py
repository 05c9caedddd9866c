"""The benchopt side of an adapter: one whole call."""

from __future__ import annotations

from benchopt import BaseSolver

from benchmark_utils.data import TINY
from benchmark_utils.data import case as make
from benchmark_utils.systems import SYSTEMS

__all__ = ["SystemSolver"]


class SystemSolver(BaseSolver):
    """Base of the solver files; `system` names an adapter."""

    sampling_strategy = "run_once"
    system: str

    def skip(self, case):
        reason = SYSTEMS[self.system].missing()
        return reason is not None, reason

    def set_objective(self, case):
        self.case = case
        self.adapter = SYSTEMS[self.system](limit=300.0)

    def warm_up(self):
        self.adapter.solve(make(TINY["planted"]))

    def run(self, _):
        self.found = self.adapter.solve(self.case)

    def get_result(self):
        return {"answer": self.found}
