"""One adapter per system: the same call for ours and for every peer.

``bound(case)`` is what is timed: everything from the weights to the answer, the compilation of a
model included. It returns an `Answer`; ``refuses`` says why a system is not asked.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import io
import itertools
import signal
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from benchmark_utils import data

__all__ = ["SYSTEMS", "Answer", "System", "unavailable"]


@dataclass
class Answer:
    """What a system hands out.

    `claimed` is the bound that it reports; `proved` the one that its multipliers prove by
    the functions of ``data.py``, None where it hands out no multipliers; `lower` what its dual
    point proves; `status` its own word.
    """

    claimed: float | None
    status: str
    proved: float | None = None
    lower: float | None = None
    nit: int | None = None
    compile: float | None = None


class System:
    """Base of the adapters."""

    name: ClassVar[str]
    package: ClassVar[str]
    note: ClassVar[str] = ""

    def __init__(self, *, limit: float = 600.0, tol: float = 1e-6) -> None:
        self.limit = limit
        self.tol = tol

    @classmethod
    def version(cls) -> str:
        return importlib.metadata.version(cls.package)

    @classmethod
    def missing(cls) -> str | None:
        module = cls.package.replace("-", "_")
        return None if importlib.util.find_spec(module) else f"{cls.package} is not installed"

    @classmethod
    def refuses(cls, case) -> str | None:
        """Why the system is not asked, or ``None``."""
        return None

    def bound(self, case):
        raise NotImplementedError

    def grade(self, case, found) -> Answer:
        """Turn what ``bound`` returned into an answer, outside the clock."""
        return found


# -- ours -----------------------------------------------------------------------------------------


class Ours(System):
    name = "ours"
    package = "lowrank_opt"
    note = "`LipSDP`, or `LipSDPGroupSort`, at a relative gap of 1e-6 in the squared bound"

    @classmethod
    def version(cls) -> str:
        import lowrank_opt

        return lowrank_opt.__version__

    def solver(self, case):
        from lowrank_opt import lipschitz

        # The squared bound has twice the relative gap.
        options = {"tol": self.tol / 2, "max_time": self.limit}
        if case.activation == "maxmin":
            return lipschitz.LipSDPGroupSort(**options)
        return lipschitz.LipSDP(**options)

    def bound(self, case):
        from lowrank_opt.lipschitz import LipschitzProblem

        problem = LipschitzProblem(
            case.weights, norm=case.norm, output=case.output, activation=case.activation
        )
        return problem, self.solver(case).solve(problem)

    def grade(self, case, found) -> Answer:
        problem, result = found
        proved = lower = None
        part = problem.parts[0]
        proof = result.x.parts[0] if result.x.parts else result.x
        form = part.form
        if len(problem.parts) == 1 and proof.kind == "multipliers":
            if case.activation == "maxmin":
                pairs = list(proof.multipliers)
                mu = pairs.pop(0) if case.norm == "linf" else None
                proved = form.scale * data.group_upper(form.weights, pairs, case.norm, mu)
            else:
                proved = form.scale * data.mixed(form.weights, proof.multipliers)
                if proof.dual is not None:
                    lower = form.scale * data.lower(form.weights, proof.dual)
        if lower is None and result.relaxation_bound:
            lower = float(result.relaxation_bound)
        return Answer(float(result.fun), result.status.name, proved, lower, result.nit)


class OursEclipse(Ours):
    name = "ours, ECLipsE"
    note = "`ECLipsE(mode='sdp')`"
    mode = "sdp"

    @classmethod
    def refuses(cls, case):
        return None if case.activation == "relu" else "for slope-restricted activations"

    def solver(self, case):
        from lowrank_opt import lipschitz

        return lipschitz.ECLipsE(mode=self.mode, max_time=self.limit)


class OursFast(OursEclipse):
    name = "ours, ECLipsE-Fast"
    note = "`ECLipsE(mode='fast')`"
    mode = "fast"


# -- cvxpy ----------------------------------------------------------------------------------------


class Modelled(System):
    """The linear matrix inequality in cvxpy: blocks by arrays, no loop over neurons."""

    package = "cvxpy"
    backend: ClassVar[str]
    chordal: ClassVar[bool] = False

    @classmethod
    def version(cls) -> str:
        backend = importlib.metadata.version(cls.backend.lower())
        return f"{super().version()}, {cls.backend} {backend}"

    def options(self) -> dict:
        raise NotImplementedError

    def bound(self, case):
        import cvxpy as cp

        weights, scale = case.prepared()
        if case.activation == "maxmin":
            model, read = _group_model(cp, weights, case.norm)
        else:
            model, read = _chain_model(cp, weights, self.chordal)
        try:
            model.solve(solver=self.backend, **self.options())
        except cp.SolverError as error:
            return weights, scale, None, f"error: {str(error).splitlines()[0]}", 0.0
        if model.value is None:
            return weights, scale, None, str(model.status), model.compilation_time
        return weights, scale, read(), str(model.status), model.compilation_time

    def grade(self, case, found) -> Answer:
        weights, scale, values, status, seconds = found
        if values is None:
            return Answer(None, status, compile=seconds)
        claimed, *rest = values
        if case.activation == "maxmin":
            if case.norm == "linf":
                weights = [*weights[:-1], _row(weights[-1])]
            proved = data.group_upper(weights, rest[0], case.norm, rest[1])
        else:
            proved = data.mixed(weights, rest[0])
        return Answer(float(scale * claimed), status, scale * proved, compile=seconds)


def _chain_model(cp, weights, chordal):
    """The program for slope-restricted activations; the chordal form has one cone a layer."""
    widths = [W.shape[1] for W in weights]
    rho = cp.Variable(nonneg=True)
    lam = [cp.Variable(n, nonneg=True) for n in widths[1:]]
    last = weights[-1].T @ weights[-1]
    beside = [
        -cp.multiply(W, cp.reshape(t, (len(W), 1), order="C") @ np.ones((1, W.shape[1])))
        for W, t in zip(weights[:-1], lam, strict=True)
    ]
    diagonal = [rho * np.eye(widths[0]), *(2 * cp.diag(t) for t in lam)]
    n = len(lam)
    if chordal:
        split = [
            rho * np.eye(widths[0]),
            *(cp.Variable((m, m), symmetric=True) for m in widths[1:-1]),
            last,
        ]
        constraints = [
            cp.bmat([[split[k], beside[k].T], [beside[k], diagonal[k + 1] - split[k + 1]]]) >> 0
            for k in range(n)
        ]
    else:
        diagonal[-1] = diagonal[-1] - last
        rows = []
        for i in range(n + 1):
            row = [np.zeros((widths[i], m)) for m in widths]
            row[i] = diagonal[i]
            if i:
                row[i - 1] = beside[i - 1]
            if i < n:
                row[i + 1] = beside[i].T
            rows.append(row)
        constraints = [cp.bmat(rows) >> 0]
    model = cp.Problem(cp.Minimize(rho), constraints)

    def read():
        value = max(float(rho.value), 1e-300)
        return np.sqrt(value), [np.maximum(t.value, 0.0) / value for t in lam]

    return model, read


def _group_model(cp, weights, norm):
    """The program for MaxMin, one cone a layer."""
    rho = cp.Variable(nonneg=True)
    n_0 = weights[0].shape[1]
    mu = cp.Variable(n_0, nonneg=True) if norm == "linf" else None
    before = rho * np.eye(n_0) if mu is None else cp.diag(mu)
    pairs, constraints = [], []
    for W in weights[:-1]:
        half = len(W) // 2
        lam, gam = cp.Variable(half, nonneg=True), cp.Variable(half)
        pairs.append((lam, gam))
        both = np.kron(np.eye(half), np.ones((2, 1)))
        sums = both.T @ W
        inner = W.T @ cp.diag(both @ lam) @ W + sums.T @ cp.diag(gam) @ sums
        constraints.append(before - inner >> 0)
        before = cp.diag(both @ lam) + both @ cp.diag(gam) @ both.T
    last = weights[-1]
    if mu is None:
        constraints.append(before - last.T @ last >> 0)
    else:
        last = _row(last)
        corner = cp.reshape(2 * rho - cp.sum(mu), (1, 1), order="C")
        constraints.append(cp.bmat([[before, last.T], [last, corner]]) >> 0)
    model = cp.Problem(cp.Minimize(rho), constraints)

    def read():
        value = float(rho.value)
        found = [(lam.value, gam.value) for lam, gam in pairs]
        if mu is None:
            return np.sqrt(max(value, 0.0)), found, None
        return value, found, np.maximum(mu.value, 1e-12)

    return model, read


def _row(last):
    """The row of output 8."""
    return last[8:9]


class Clarabel(Modelled):
    name = "cvxpy + Clarabel, one cone"
    backend = "CLARABEL"
    note = "interior point, the default tolerances; prepared weights"
    tolerance: ClassVar[float] = 1e-8

    @classmethod
    def refuses(cls, case):
        size = sum(W.shape[1] for W in case.prepared()[0])
        if case.activation == "relu" and size > 200:
            return f"a dense Hessian of a cone of order {size} does not fit"
        return None

    def options(self) -> dict:
        tol = self.tolerance
        return {
            "time_limit": self.limit, "tol_gap_abs": tol, "tol_gap_rel": tol, "tol_feas": tol,
        }  # fmt: skip


class ClarabelLoose(Clarabel):
    name = "cvxpy + Clarabel, one cone, 1e-6"
    note = "the same with all tolerances 1e-6"
    tolerance = 1e-6


class ClarabelChordal(Clarabel):
    name = "cvxpy + Clarabel, chordal"
    note = "one cone for each pair of layers, as in Chordal-LipSDP"
    chordal = True

    @classmethod
    def refuses(cls, case):
        if case.activation != "relu":
            return "its program has a cone for each layer anyhow"
        widths = [W.shape[1] for W in case.prepared()[0]]
        size = max(a + b for a, b in itertools.pairwise(widths))
        return f"a cone of order {size}" if size > 200 else None


class ClarabelChordalLoose(ClarabelChordal):
    name = "cvxpy + Clarabel, chordal, 1e-6"
    note = "the same with all tolerances 1e-6"
    tolerance = 1e-6


class SCS(Modelled):
    name = "cvxpy + SCS"
    backend = "SCS"
    note = "first order, eps 1e-6 and at most 50000 iterations; prepared weights"

    def options(self) -> dict:
        return {"eps": 1e-6, "max_iters": 50_000, "time_limit_secs": self.limit}


# -- eclipse-nn -----------------------------------------------------------------------------------


class EclipseNN(System):
    name = "eclipse-nn, ECLipsE"
    package = "eclipse-nn"
    method: ClassVar[str] = "ECLipsE"
    raw: ClassVar[bool] = False
    note = (
        "the authors' package, SCS at every stage; prepared weights; it hands out no multipliers, "
        "so that its value is what it claims"
    )

    @classmethod
    def refuses(cls, case):
        return None if case.activation == "relu" else "for slope-restricted activations"

    def bound(self, case):
        import torch
        from eclipse_nn import LipConstEstimator

        weights, scale = (case.weights, 1.0) if self.raw else case.prepared()
        tensors = [torch.from_numpy(W) for W in weights]
        with contextlib.redirect_stdout(io.StringIO()) as said, _alarm(self.limit):
            value = LipConstEstimator(weights=tensors).estimate(self.method)
        status = "fell back to Fast" if "Falling back" in said.getvalue() else "ok"
        return Answer(float(scale * float(value)), status)


class EclipseNNRaw(EclipseNN):
    name = "eclipse-nn, ECLipsE, raw"
    raw = True
    note = "the same from the weights as they are"


class EclipseNNFast(EclipseNN):
    name = "eclipse-nn, Fast"
    method = "ECLipsE_Fast"
    note = "its closed form; prepared weights"


@contextlib.contextmanager
def _alarm(seconds):
    """Raise TimeoutError in whoever has no limit of time, as soon as Python runs again."""

    def stop(*_):
        raise TimeoutError(f"no answer in {seconds:g} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)


SYSTEMS = {
    cls.name: cls
    for cls in (
        Ours, OursEclipse, OursFast, Clarabel, ClarabelLoose, ClarabelChordal,
        ClarabelChordalLoose, SCS, EclipseNN, EclipseNNRaw,
        EclipseNNFast,
    )
}  # fmt: skip


def unavailable(name: str) -> str | None:
    """Why a system cannot run here, or ``None``."""
    return SYSTEMS[name].missing()
