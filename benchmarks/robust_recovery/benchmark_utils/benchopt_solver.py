"""The benchopt side of an adapter: benchopt looks at the iterates, its clock stopped."""

from __future__ import annotations

from benchopt import BaseSolver

from benchmark_utils.systems import SYSTEMS

__all__ = ["SystemSolver"]


class SystemSolver(BaseSolver):
    """Base of the solver files; `system` names an adapter."""

    sampling_strategy = "callback"
    system: str

    def set_objective(self, case, threads):
        self.adapter = SYSTEMS[self.system](threads=threads)
        self.adapter.prepare(case)
        self.low_rank = None

    def warm_up(self):
        self.adapter.fit(self._once)

    @staticmethod
    def _once(get):
        raise StopIteration

    def run(self, callback):
        self.low_rank = None

        def look(get):
            self.low_rank = get()
            if not callback():
                raise StopIteration

        self.adapter.fit(look)
        self.low_rank = self.adapter.low_rank()

    def get_result(self):
        return {"low_rank": self.low_rank}
