"""One adapter per system: the same calls for ours and for every peer.

``prepare`` brings the data into the form that the system's interface takes (outside the clock),
``fit`` is what is timed and calls ``look(get)`` at its iterates, where ``get()`` hands out plan
and potentials of the rows. ``look`` stops its clock while it looks, and may raise
``StopIteration`` to end the fit. ``plan`` and ``alpha`` are the answer, ``claim`` is what the
system itself says about it.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import io
import time
from typing import Any, ClassVar

import numpy as np

__all__ = ["SYSTEMS", "System", "unavailable"]


class System:
    """Base of the adapters; `options` are those of a job."""

    name: ClassVar[str]
    package: ClassVar[str]
    note: ClassVar[str] = ""

    def __init__(self, *, threads: int = 1, limit: float | None = None, **options: Any) -> None:
        self.threads, self.limit, self.options = threads, limit, options

    @classmethod
    def version(cls) -> str:
        return importlib.metadata.version(cls.package)

    def prepare(self, case) -> None:
        self.case = case

    def fit(self, look=None) -> None:
        raise NotImplementedError


# -- ours -----------------------------------------------------------------------------------------


class OursNewton(System):
    name = "ours"
    package = "lowrank_opt"
    parameters: ClassVar[dict[str, Any]] = {}

    @classmethod
    def version(cls) -> str:
        import lowrank_opt

        return lowrank_opt.__version__

    def prepare(self, case) -> None:
        super().prepare(case)
        _ = case.problem.canonical  # the problem checks and orders its data

    def fit(self, look=None) -> None:
        from lowrank_opt.transport import SparsityConstrainedOT

        callback = None
        if look is not None:

            def callback(intermediate_result):
                x = intermediate_result.x
                look(lambda: (x, x.alpha))

        parameters = {
            "n_threads": self.threads, "rounding": "none", "max_time": self.limit,
            **self.parameters, **self.options,
        }  # fmt: skip
        self.result = SparsityConstrainedOT(**parameters).solve(
            self.case.problem, callback=callback
        )
        self.plan, self.alpha = self.result.x, self.result.x.alpha
        self.claim = {
            "status": self.result.status.name, "success": bool(self.result.success),
            "iterations": int(self.result.nit),
            "counts": {k: int(v) for k, v in (self.result.counts or {}).items()},
        }  # fmt: skip


class OursEmdStart(OursNewton):
    name = "ours, EMD start"
    package = "lowrank_opt"
    note = "exact transport by POT's network simplex first, its time included"
    parameters: ClassVar[dict[str, Any]] = {"start": "emd"}

    @classmethod
    def version(cls) -> str:
        importlib.metadata.version("POT")
        return OursNewton.version()


class OursGradient(OursNewton):
    name = "ours L-BFGS"
    note = "the paper's method"
    parameters: ClassVar[dict[str, Any]] = {"method": "lbfgs", "max_iter": 5000}


# -- peers ----------------------------------------------------------------------------------------


class Pot(System):
    name = "POT"
    package = "POT"
    note = (
        "`ot.smooth.smooth_ot_semi_dual` with 100,000 iterations and tolerance 1e-15, so that "
        "nothing but its line search or the limit of time ends it; `reg_type` "
        '"sparsity_constrained", without a cap "l2" (its faster code for that case). Its best '
        "iterate by the bound counts. What it prints at every evaluation goes to a buffer"
    )
    formulation: ClassVar[str] = "semi_dual"

    def regulariser(self):
        from ot import smooth

        if self.case.capped:
            return smooth.SparsityConstrained(max_nz=self.case.k, gamma=self.case.gamma)
        return smooth.SquaredL2(gamma=self.case.gamma)

    def evaluation(self):
        """One call of its oracle."""
        from ot import smooth

        case, regul = self.case, self.regulariser()

        def call(alpha):
            with contextlib.redirect_stdout(io.StringIO()):
                return smooth.semi_dual_obj_grad(alpha, case.a, case.b, case.C, regul)

        return call

    def fit(self, look=None) -> None:
        import ot
        from ot import smooth

        case, original = self.case, smooth.semi_dual_obj_grad
        best: dict[str, Any] = {"value": -np.inf, "alpha": np.zeros(len(case.a)), "calls": 0}
        start = time.perf_counter()

        def watched(alpha, *arguments):
            value, gradient = original(alpha, *arguments)
            best["calls"] += 1
            if value > best["value"]:
                best.update(value=value, alpha=alpha.copy())
                if look is not None:
                    look(lambda: (self._plan(best["alpha"]), best["alpha"]))
            if self.limit is not None and time.perf_counter() - start > self.limit:
                raise TimeoutError
            return value, gradient

        smooth.semi_dual_obj_grad = watched
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                kind = "sparsity_constrained" if case.capped else "l2"
                _, log = ot.smooth.smooth_ot_semi_dual(
                    case.a, case.b, case.C, case.gamma, reg_type=kind,
                    max_nz=int(case.k) if case.capped else None, stopThr=1e-15,
                    numItermax=100_000, log=True,
                )  # fmt: skip
            answer = log["res"]
            self.claim = {
                "status": str(answer.message), "success": bool(answer.success),
                "iterations": int(answer.nit),
            }  # fmt: skip
        except TimeoutError:
            self.claim = {"status": "stopped at the limit", "success": False, "iterations": 0}
        finally:
            smooth.semi_dual_obj_grad = original
        self.claim["counts"] = {"evaluations": best["calls"]}
        self.alpha = best["alpha"]
        self.plan = self._plan(self.alpha)

    def _plan(self, alpha):
        from ot import smooth

        with contextlib.redirect_stdout(io.StringIO()):
            return smooth.get_plan_from_semi_dual(
                alpha, self.case.b, self.case.C, self.regulariser()
            )


class PotDefault(Pot):
    name = "POT, its defaults"
    note = "the same function as it comes: 500 iterations, tolerance 1e-9; its answer as it is"

    def fit(self, look=None) -> None:
        import ot

        case = self.case
        kind = "sparsity_constrained" if case.capped else "l2"
        with contextlib.redirect_stdout(io.StringIO()):
            self.plan, log = ot.smooth.smooth_ot_semi_dual(
                case.a, case.b, case.C, case.gamma, reg_type=kind,
                max_nz=int(case.k) if case.capped else None, log=True,
            )  # fmt: skip
        answer = log["res"]
        self.alpha = log["alpha"]
        self.claim = {
            "status": str(answer.message), "success": bool(answer.success),
            "iterations": int(answer.nit), "counts": {"evaluations": int(answer.nfev)},
        }  # fmt: skip


SYSTEMS: dict[str, type[System]] = {
    s.name: s for s in (OursNewton, OursEmdStart, OursGradient, Pot, PotDefault)
}


def unavailable(name: str) -> str | None:
    """Why a system cannot run here, or ``None``."""
    try:
        SYSTEMS[name].version()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None
