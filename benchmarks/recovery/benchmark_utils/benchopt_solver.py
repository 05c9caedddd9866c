"""The benchopt side of an adapter: every point of a curve is a fit from scratch."""

from __future__ import annotations

from benchopt import BaseSolver

from benchmark_utils.systems import SYSTEMS

__all__ = ["SystemSolver"]


class SystemSolver(BaseSolver):
    """Base of the solver files; `system` names an adapter."""

    sampling_strategy = "iteration"
    system: str

    def set_objective(self, split, **parameters):
        self.adapter = SYSTEMS[self.system](**parameters)
        self.adapter.prepare(split.train, split.shape)

    def warm_up(self):
        self.run_once(1)

    def run(self, n_iter):
        # The zeroth point of a curve is the smallest model that every system can hand out.
        self.adapter.fit(max(n_iter, 1))

    def get_next(self, stop_val):
        return stop_val + max(1, stop_val // 3)

    def get_result(self):
        return {"factors": self.adapter.factors()}
