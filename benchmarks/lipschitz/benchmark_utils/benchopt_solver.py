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
        reason = SYSTEMS[self.system].missing() or SYSTEMS[self.system].refuses(case)
        return reason is not None, reason

    def set_objective(self, case):
        self.case = case
        self.adapter = SYSTEMS[self.system]()

    def warm_up(self):
        tiny = TINY["maxmin" if self.case.activation == "maxmin" else "digits"]
        self.adapter.bound(make(tiny))

    def run(self, _):
        self.found = self.adapter.bound(self.case)

    def get_result(self):
        return {"answer": self.adapter.grade(self.case, self.found)}
