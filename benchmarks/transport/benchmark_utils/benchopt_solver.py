"""The benchopt side of an adapter: benchopt looks at the iterates, its clock stopped."""

from __future__ import annotations

import contextlib

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
        self.answer = None

    def warm_up(self):
        with contextlib.suppress(StopIteration):
            self.adapter.fit(self._once)

    @staticmethod
    def _once(get):
        raise StopIteration

    def run(self, callback):
        self.answer = None

        def look(get):
            self.answer = get()
            if not callback():
                raise StopIteration

        try:
            self.adapter.fit(look)
        except StopIteration:
            return
        self.answer = self.adapter.plan, self.adapter.alpha

    def get_result(self):
        return {"answer": self.answer}
