"""The benchopt side of an adapter: fits at the tolerances that benchopt asks for."""

from __future__ import annotations

from benchopt import BaseSolver

from benchmark_utils.systems import SYSTEMS

__all__ = ["SystemSolver"]


class SystemSolver(BaseSolver):
    """Base of the solver files; `system` names an adapter."""

    sampling_strategy = "tolerance"
    system: str

    def skip(self, case, threads):
        reason = SYSTEMS[self.system].refuses(case)
        return reason is not None, reason

    def set_objective(self, case, threads):
        self.adapter = SYSTEMS[self.system](threads=threads)
        self.adapter.prepare(case)

    def warm_up(self):
        self.adapter.fit(0.1)

    def run(self, tolerance):
        # benchopt begins with a tolerance that means none; systems want less than 1
        self.adapter.fit(min(tolerance, 0.1))

    def get_result(self):
        coefficients, intercept = self.adapter.answer()
        return {"coefficients": coefficients, "intercept": intercept}
