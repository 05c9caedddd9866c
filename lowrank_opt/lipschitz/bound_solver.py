"""What the solvers of this room share: one engine at a time over the parts of a problem."""

from __future__ import annotations

import abc
import contextlib
import contextvars
import copy
import math
import warnings
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from lowrank_opt.core.errors import AccuracyWarning, ProblemError, ProblemTypeError
from lowrank_opt.core.protocols import HasNetwork
from lowrank_opt.core.solver import Solver
from lowrank_opt.core.state import State, Status
from lowrank_opt.lipschitz.canonical import coupled_form
from lowrank_opt.lipschitz.forms import Chain, GroupChain, LowRankLMI
from lowrank_opt.lipschitz.proofs import BoundProof

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import ModuleType

    from lowrank_opt.core.problem import Certificate
    from lowrank_opt.lipschitz.canonical import Part
    from lowrank_opt.lipschitz.forms import Form
    from lowrank_opt.lipschitz.problem import LipschitzProblem

__all__ = ["BoundSolver", "BoundState", "bound_fields", "without_lower_bounds"]

_ROUNDING = 1e-8  # of sampled values without an error analysis, which very deep networks have

_sampled: contextvars.ContextVar[bool] = contextvars.ContextVar("sampled", default=True)


@contextlib.contextmanager
def without_lower_bounds() -> Iterator[None]:
    """Leave ``lower_bound`` of results at 0 inside the block, for callers that do not use it."""
    token = _sampled.set(False)
    try:
        yield
    finally:
        _sampled.reset(token)


@dataclass
class BoundState(State):
    """State of a run over the parts of a problem.

    Parameters
    ----------
    uppers, lowers : list of float
        Of every part, in the units of the network; the solver's own numbers.
    proofs : list of BoundProof
        Of every part.
    done : list of str
        "" (not begun or running), "converged", "stalled", "failed" or "skipped".
    methods : list of str
        What gave the bound of every part.
    current : int
        The part that the engine works on; -1: none.
    engine : object
        State of the engine.
    starts : list of BoundProof or None
        Warm starts of the parts.
    """

    uppers: list[float] = field(default_factory=list)
    lowers: list[float] = field(default_factory=list)
    proofs: list[BoundProof] = field(default_factory=list)
    done: list[str] = field(default_factory=list)
    methods: list[str] = field(default_factory=list)
    current: int = -1
    engine: Any = None
    starts: list[Any] = field(default_factory=list)


class BoundSolver(Solver):
    """Base class: engines do the work, part after part, the largest bound first.

    A derived class says which engine serves a part (:meth:`engine`). An engine is a module with
    ``start(form, *, tol, multipliers=None, dual=None, **options)`` and ``advance(form, state)``.
    """

    requires = (HasNetwork,)
    monotone = True
    each_output: bool = False

    @property
    def blas_threads(self) -> int:  # type: ignore[override]
        """Threads of BLAS: `n_threads`, or one.

        The blocks are of a layer's width. On a busy machine, threads of BLAS that wait for each
        other were seen to make a run more than a hundred times as long, and four times with layers
        of 1000 neurons; on a quiet one they save a third at most.
        """
        return 1 if self.n_threads is None else self.n_threads

    @property
    def proof_kind(self) -> str:
        """Kind of the proofs that the engines give."""
        return "multipliers"

    @abc.abstractmethod
    def engine(self, problem: LipschitzProblem, part: Part) -> tuple[ModuleType, dict[str, Any]]:
        """Return the engine for a part and its options.

        Parameters
        ----------
        problem : LipschitzProblem
            The problem.
        part : Part
            One of its parts.
        """

    def form(self, part: Part) -> Form:
        """Return the form that the engine works on; a part's own by default.

        Parameters
        ----------
        part : Part
            Part of a problem.
        """
        return part.form

    def method_name(self, problem: LipschitzProblem, part: Part) -> str:
        """Return what `Result.method` says of a part's bound."""
        return type(self).__name__

    def init(self, problem: Any, x0: Any = None) -> BoundState:
        """Return the state in which every part has the product of norms as its bound."""
        n = problem.n_parts
        starts: list[BoundProof | None] = [None] * n
        if x0 is not None:
            starts = list(check_start(type(self).__name__, x0, problem))
        state = BoundState(
            uppers=[problem.part(k).cheap if n > 1 else math.inf for k in range(n)],
            lowers=[0.0] * n,
            done=[""] * n, methods=["product of norms"] * n, starts=starts,
        )  # fmt: skip
        state.proofs = [BoundProof("unproved", bound=u) for u in state.uppers]
        self._next(problem, state)
        self._settle(state)
        return state

    def step(self, problem: Any, state: Any, n: int = 1) -> Any:
        """Do `n` iterations of the engines."""
        for _ in range(n):
            if state.current < 0:
                break
            part = problem.part(state.current)
            module, _options = self.engine(problem, part)
            before = dict(state.engine.counts)
            module.advance(self._form(problem, state), state.engine)
            state.nit += 1
            state.count(**{k: v - before.get(k, 0) for k, v in state.engine.counts.items()})
            self._note(problem, state)
            self._next(problem, state)
            self._settle(state)
            if state.residual <= self.tol:
                break
        return state

    def _form(self, problem: Any, state: Any) -> Form:
        """Return the form of the current part; engines know it again by its identity."""
        if state.cache is None or state.cache[0] != state.current:
            state.cache = (state.current, self.form(problem.part(state.current)))
        form: Form = state.cache[1]
        return form

    def _begin(self, problem: Any, state: Any, k: int) -> None:
        part = problem.part(k)
        module, options = self.engine(problem, part)
        warm = state.starts[k]
        if warm is not None and warm.kind == self.proof_kind:
            options = {**options, "multipliers": warm.multipliers, "dual": warm.dual}
        state.current = k
        state.engine = module.start(self._form(problem, state), tol=self.tol, **options)
        state.count(**state.engine.counts)
        self._note(problem, state)

    def _next(self, problem: Any, state: Any) -> None:
        """Go on with the part of the largest bound that is not settled."""
        while True:
            if state.current >= 0:
                if state.engine.done:
                    state.done[state.current] = state.engine.done
                    if state.engine.done != "converged":
                        state.message = str(state.engine.message)
                elif self._beaten(state):
                    state.done[state.current] = "skipped"
                else:
                    return
            state.current, state.engine = -1, None
            # Only the largest part counts: those below a bound that cannot be improved are done.
            floor = max(state.lowers, default=0.0)
            settled = [u for u, d in zip(state.uppers, state.done, strict=True) if d]
            floor = max([floor, *(u for u in settled if u < math.inf)])
            waiting = [k for k, d in enumerate(state.done) if not d]
            for k in waiting:
                # A part that was given a start has its own numbers looked at once.
                if state.uppers[k] <= floor and state.starts[k] is None and not self.each_output:
                    state.done[k] = "skipped"
            waiting = [k for k in waiting if not state.done[k]]
            if not waiting:
                return
            self._begin(problem, state, max(waiting, key=lambda k: state.uppers[k]))

    def _beaten(self, state: Any) -> bool:
        """Return whether another part has a bound that the current one can no longer reach."""
        others = [v for k, v in enumerate(state.lowers) if k != state.current]
        return not self.each_output and state.uppers[state.current] <= max(others, default=0.0)

    def _note(self, problem: Any, state: Any) -> None:
        """Take over what the engine has proved so far."""
        k, engine = state.current, state.engine
        part = problem.part(k)
        scale = self._form(problem, state).scale
        if engine.multipliers is not None and engine.upper * scale <= state.uppers[k]:
            state.uppers[k] = engine.upper * scale
            state.proofs[k] = BoundProof(
                self.proof_kind, engine.multipliers, engine.dual, bound=state.uppers[k]
            )
            state.methods[k] = self.method_name(problem, part)
        elif engine.dual is not None and state.proofs[k].kind == self.proof_kind:
            state.proofs[k] = replace(state.proofs[k], dual=engine.dual)
        state.lowers[k] = max(state.lowers[k], engine.lower * scale)

    def _settle(self, state: Any) -> None:
        """Set the residual: the relative gap of the largest bound."""
        upper, lower = max(state.uppers, default=0.0), max(state.lowers, default=0.0)
        ended = state.current < 0
        good = all(d in ("converged", "skipped") for d in state.done)
        if upper == 0.0 or (ended and good and lower == 0.0):
            state.residual = 0.0
        elif self.each_output and not ended:
            state.residual = 1.0
        elif lower > 0.0 and math.isfinite(upper):
            state.residual = max(0.0, 1.0 - lower / upper)
        else:
            state.residual = 1.0 if math.isfinite(upper) else math.inf

    def terminate(self, problem: Any, state: Any) -> Status | None:
        """Converged when the gap is closed; stalled when the engines have ended without that."""
        if state.residual <= self.tol:
            return Status.CONVERGED
        if state.current < 0:
            failed = "failed" in state.done
            return Status.NUMERICAL_ERROR if failed else Status.STALLED
        return None

    def point(self, problem: Any, state: Any) -> BoundProof:
        """Return the proof of the best bound so far."""
        proofs = copy.deepcopy(state.proofs)
        if problem.n_parts == 1:
            return proofs[0]
        return BoundProof("parts", parts=tuple(proofs), bound=max(state.uppers))

    def answer(self, problem: Any, state: Any, status: Status) -> tuple[Any, float]:
        """Return the proof and its residual, and forget the engine's work space."""
        if state.engine is not None:
            state.engine.cache = None
        return super().answer(problem, state, status)

    def fields(
        self, problem: Any, state: Any, x: Any, certificate: Certificate | None
    ) -> dict[str, Any]:
        """Return the fields of a result that are particular to bounds."""
        bounds = problem.part_bounds(x)
        top = max(range(len(bounds)), key=lambda k: bounds[k][0])
        return bound_fields(problem, x, state.methods[top])


def bound_fields(problem: LipschitzProblem, x: BoundProof, method: str) -> dict[str, Any]:
    """Return the fields that every result of this room has.

    Parameters
    ----------
    problem : LipschitzProblem
        The problem.
    x : BoundProof
        The answer.
    method : str
        What gave it.

    Returns
    -------
    dict
        ``lower_bound`` (proved, of the Lipschitz constant), ``relaxation_bound`` (of the best
        that the relaxation can give, or ``None``), ``gap`` (relative, between the bound and that,
        or ``None``), ``certified``, ``method``, ``per_output`` (bounds of the parts, or ``None``).
    """
    bounds = problem.part_bounds(x)
    upper, lower = max(u for u, _ in bounds), max(v for _, v in bounds)
    proved = lower > 0.0 and math.isfinite(upper)
    gap: float | None = 0.0 if upper == 0.0 else None
    if proved:
        gap = max(0.0, 1.0 - lower / upper)
    several = problem.norm != "l2"
    sampled = problem.sampled_lower_bound() if _sampled.get() else 0.0
    if sampled > upper * (1.0 + _ROUNDING):
        warnings.warn(
            f"{problem!r}: a sampled Jacobian has norm {sampled:.10g}, above the upper bound "
            f"{upper:.10g}: one of them is wrong. Please report the network",
            AccuracyWarning,
            stacklevel=4,
        )
    return {
        "lower_bound": sampled if sampled > upper * (1.0 + _ROUNDING) else min(sampled, upper),
        "relaxation_bound": lower if proved else None,
        "gap": gap,
        "certified": math.isfinite(upper),
        "method": method,
        "per_output": np.array([u for u, _ in bounds]) if several else None,
    }


def check_start(caller: str, x0: Any, problem: LipschitzProblem) -> Sequence[BoundProof]:
    """Return the proofs of the parts in a warm start, or raise naming what does not fit."""
    if not isinstance(x0, BoundProof):
        raise ProblemTypeError(
            f"{caller}.solve: x0 is a {type(x0).__name__}; expected a BoundProof, such as "
            "x0=result.x"
        )
    proofs = x0.parts if x0.kind == "parts" else (x0,)
    if len(proofs) != problem.n_parts:
        raise ProblemError(
            f"{caller}.solve: x0 proves {len(proofs)} parts, the problem has {problem.n_parts}; "
            "give the x of a result of this problem"
        )
    for k, proof in enumerate(proofs):
        form = problem.part(k).form
        if proof.kind == "coupled_multipliers" and isinstance(form, GroupChain):
            form = coupled_form(form)
        elif proof.kind not in ("multipliers", "layer_multipliers"):
            continue
        shapes, dual = layout(form)
        for name, arrays, expected in (
            ("multipliers", proof.multipliers, shapes), ("dual", proof.dual, dual),
        ):  # fmt: skip
            found = None if arrays is None else [np.shape(a) for a in arrays]
            if found is not None and found != expected:
                raise ProblemError(
                    f"{caller}.solve: x0 has {name} of shapes {found}, the problem needs "
                    f"{expected}; give the x of a result of this problem"
                )
            if arrays is not None and not all(np.all(np.isfinite(a)) for a in arrays):
                raise ProblemError(f"{caller}.solve: x0 has {name} that are not finite")
    return proofs


def layout(form: Form) -> tuple[list[tuple[int, ...]], list[tuple[int, ...]]]:
    """Return the shapes of multipliers and of a dual for a form (see `BoundProof`)."""
    if isinstance(form, LowRankLMI):
        return [form.free.shape], [form.C.shape]
    n = [W.shape[1] for W in form.weights]
    square: list[tuple[int, ...]] = [(k, k) for k in n]
    if isinstance(form, Chain):
        return [(k,) for k in n[1:]], [*square, *pairwise(n)]
    shapes: list[tuple[int, ...]] = [
        (2, k // g.size) for k, g in zip(n[1:], form.groups, strict=True)
    ]
    return ([(n[0],), *shapes] if form.norm == "linf" else shapes), square
