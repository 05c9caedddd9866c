"""The driver: one loop for every solver."""

from __future__ import annotations

import abc
import contextlib
import copy
import functools
import signal
import threading
import time
from numbers import Integral
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from lowrank_opt.core.checkpoint import data_of, differences
from lowrank_opt.core.errors import (
    CheckpointError,
    ParameterError,
    ProblemTypeError,
    UnsupportedProblemError,
    in_words,
)
from lowrank_opt.core.params import COUNT, TOLERANCE, Interval, Parameters, StrOptions
from lowrank_opt.core.progress import logger, open_progress
from lowrank_opt.core.result import Result
from lowrank_opt.core.state import State, Status
from lowrank_opt.core.threads import compile_clock, thread_limit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from lowrank_opt.core.checkpoint import Checkpoint
    from lowrank_opt.core.history import History
    from lowrank_opt.core.problem import Certificate

__all__ = ["Solver"]

# A converged result may miss its tolerance by this factor when the problem grades it: solver and
# certificate round differently. Beyond it the status is STALLED.
CERTIFICATE_FACTOR = 10.0

# A problem made from data, and the front door that takes data, by what a solver requires.
_EXAMPLES = {
    "HasObservations": (
        "MatrixCompletion.from_dense(X, rank=5)",
        "lowrank_opt.complete(X, rank=5)",
    ),
    "HasTransport": ("TransportProblem(a, b, C)", "lowrank_opt.transport.sparse_ot(C, a, b)"),
    "HasMeasurements": ("MatrixSensing.from_dense(A, y, rank=5)", ""),
    "HasNetwork": (
        "LipschitzProblem(weights)",
        "lowrank_opt.lipschitz.lipschitz_bound(weights)",
    ),
    "HasFixedPointMap": ("FixedPointProblem(T, np.zeros(n))", ""),
    "HasMonotoneOperator": ("MatrixGame(A), or MonotoneInclusion(F, x_start=np.zeros(n))", ""),
    "HasLinearConstraints": (
        "LinearProgram(c, A, constraint_lower, constraint_upper, lower, upper)",
        "lowrank_opt.monotone.linprog(c, A_ub, b_ub)",
    ),
    "HasSmoothPart": (
        "CompositeProblem(GLMProblem(X, y), L1(alpha))",
        "lowrank_opt.block_coordinate.lasso_path(X, y)",
    ),
}


class Solver(Parameters, abc.ABC):
    """Base class of all solvers: hyper-parameters, and ``init`` / ``step`` / ``terminate``.

    A solver holds no data, no results and no log; one object may serve several problems and
    threads at once. Derive a class, write the three methods, and every limit, callback, history,
    checkpoint and resume works.

    Parameters
    ----------
    tol : float, default=1e-6
        The run converges when ``state.residual <= tol``; relative and dimensionless. The
        solver's documentation states the formula of the residual.
    max_iter : int, default=1000
        Limit on iterations, counted over all resumed runs.
    max_time : float or None, default=None
        Limit on seconds of this call of ``solve``, checked after each call of ``step``.
    check_every : int or "auto", default=1
        Iterations between two checks of residual, limits and callback. ``"auto"`` doubles it until
        a call of ``step`` takes a millisecond.
    n_threads : int or None, default=None
        Limit on the threads of kernels and BLAS during ``solve``; ``None`` changes nothing.

    Attributes
    ----------
    requires : tuple of protocols
        What the problem must offer.
    monotone : bool
        Whether the objective never increases.
    citation : str
        The paper, in BibTeX.
    blas_threads : int or None
        Threads of BLAS, when they are not to follow `n_threads`: 1 for methods whose own kernels
        are parallel and whose dense products are small, where waking BLAS's threads costs more
        than they do, and where the bits must not depend on their number.
    """

    requires: ClassVar[tuple[type, ...]] = ()
    monotone: ClassVar[bool] = True
    citation: ClassVar[str | None] = None
    blas_threads: ClassVar[int | None] = None
    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "tol": [TOLERANCE],
        "max_iter": [Interval(Integral, 0, None, closed="left")],
        "max_time": [None, TOLERANCE],
        "check_every": [COUNT, StrOptions({"auto"})],
        "n_threads": [None, COUNT],
        "random_state": ["random_state"],
    }

    # Defaults for classes whose constructor does not offer the parameter.
    tol: float = 1e-6
    max_iter: int = 1000
    max_time: float | None = None
    check_every: int | str = 1
    n_threads: int | None = None

    @abc.abstractmethod
    def init(self, problem: Any, x0: Any = None) -> State:
        """Return the first state, residual included, so that a start at the answer needs no step.

        Parameters
        ----------
        problem : Problem
            What to solve.
        x0 : object or None
            Warm start in the problem's natural form; never modified.
        """

    @abc.abstractmethod
    def step(self, problem: Any, state: State, n: int = 1) -> State:
        """Do up to `n` iterations, possibly in place, and set ``nit`` and ``residual``."""

    def terminate(self, problem: Any, state: State) -> Status | None:
        """Return why to stop at this state, or ``None`` to go on."""
        if np.isnan(state.residual) or (state.nit > 0 and not np.isfinite(state.residual)):
            return Status.DIVERGED
        return Status.CONVERGED if state.residual <= self.tol else None

    def check_interval(self, problem: Any) -> int | str:
        """Return the iterations between two checks, or ``"auto"``: `check_every` by default.

        Parameters
        ----------
        problem : Problem
            What is solved.
        """
        return self.check_every

    def point(self, problem: Any, state: State) -> Any:
        """Return the iterate in the problem's natural form, as an object of its own."""
        return copy.deepcopy(state.x)

    def answer(self, problem: Any, state: State, status: Status) -> tuple[Any, float]:
        """Return the point to hand out and its residual.

        The last iterate if the run converged or the solver is monotone, else the best one kept
        in ``state.best``; after a divergence, the best finite one.
        """
        keep_last = status is Status.CONVERGED or (self.monotone and status is not Status.DIVERGED)
        if keep_last or state.best is None:
            return self.point(problem, state), state.residual
        return copy.deepcopy(state.best), state.best_residual

    def duals(self, problem: Any, state: State) -> Any:
        """Return multipliers or potentials at the state, ``None`` if the method has none."""
        return None

    def inner_results(self, state: State) -> Any:
        """Return statuses and counts of inner solvers, ``None`` if there are none."""
        return None

    def fields(
        self, problem: Any, state: State, x: Any, certificate: Certificate | None
    ) -> dict[str, Any]:
        """Return further fields of the result, such as potentials or slacks; none by default.

        Parameters
        ----------
        problem : Problem
            What was solved.
        state : State
            The last state.
        x : object
            The answer.
        certificate : Certificate or None
            Its grade.

        Returns
        -------
        dict
            Values by name; names that a `Result` has anyway are not to be used.
        """
        return {}

    @classmethod
    def accepts(cls, problem: Any) -> list[str]:
        """Return what keeps the method from solving a problem that has all of ``requires``.

        Parameters
        ----------
        problem : Problem
            Any problem with the capabilities in ``requires``.

        Returns
        -------
        list of str
            What the problem would have to have, such as ``"penalty='ridge'"``; empty (the
            default) when the method can solve it.
        """
        return []

    def check(self, problem: Any) -> None:
        """Raise if a parameter is out of range or the problem lacks something.

        Raises
        ------
        ParameterError
            A parameter is out of range.
        ProblemError
            Data instead of a problem.
        UnsupportedProblemError
            The problem lacks a capability, or is of a form that the method does not solve (see
            :meth:`accepts`); the message lists solvers that do fit.
        """
        self.validate_params()
        names = [p.__name__ for p in self.requires]
        check_is_problem(problem, f"{type(self).__name__}.solve", names)
        missing = [p.__name__ for p in self.requires if not isinstance(problem, p)]
        missing = missing or self.accepts(problem)
        if missing:
            from lowrank_opt.core.registry import solvers_for

            raise UnsupportedProblemError(
                type(self).__name__, missing, type(problem).__name__, solvers_for(problem)
            )

    def solve(
        self,
        problem: Any,
        *,
        x0: Any = None,
        state: State | None = None,
        callback: Callable[[Result], Any] | None = None,
        history: History | None = None,
        progress: Any = False,
        checkpoint: Checkpoint | None = None,
    ) -> Result:
        """Solve the problem.

        Parameters
        ----------
        problem : Problem
            What to solve; it is not modified.
        x0 : object or None, default=None
            Warm start, in the form of ``Result.x``. Not used when the run goes on from a
            checkpoint.
        state : State or None, default=None
            State of an earlier run on the same data, to go on with the same bits. It is copied.
        callback : callable or None, default=None
            Called after each check with one argument, ``intermediate_result``: a `Result` with
            ``x``, ``fun``, ``nit``, ``residual``, ``time`` and ``state``. ``x``, ``fun`` and
            ``state`` are copies made when first asked for. Raising ``StopIteration`` stops the
            run. Its time is not counted.
        history : History or None, default=None
            Filled outside the clock.
        progress : bool or object, default=False
            Show a bar, or call the object's ``update``; see :mod:`lowrank_opt.core.progress`.
        checkpoint : Checkpoint or None, default=None
            Where and how often to save the state; it is also saved when the run ends, unless a
            step was cut short by an error or by a second Ctrl-C: what it left cannot be resumed.

        Returns
        -------
        Result
            The answer with its certificate. A limit or Ctrl-C is a status, not an exception:
            the first Ctrl-C ends the run after the current ``step``, a second one at once.

        Raises
        ------
        ParameterError, UnsupportedProblemError
            See :meth:`check`; or a keyword that is not what it should be.
        ProblemTypeError
            `x0` is a `Result` instead of a point.
        CheckpointError
            `state` or the file of `checkpoint` belongs to other data; the message lists what
            differs.
        """
        self.check(problem)
        caller = f"{type(self).__name__}.solve"
        if x0 is not None and state is not None:
            raise ParameterError(f"{caller}: give x0 (warm start) or state (resume), not both")
        _check_start(caller, x0)
        if callback is not None and not callable(callback):
            raise ParameterError(
                f"{caller}: callback={callback!r} is a {type(callback).__name__}; expected a "
                "function of one argument, such as callback=lambda intermediate_result: ..."
            )
        if history is not None and not hasattr(history, "record"):
            raise ParameterError(
                f"{caller}: history={history!r} is a {type(history).__name__}; expected a "
                "lowrank_opt.core.History, such as history=History(every=10)"
            )
        if state is not None:
            _check_state(caller, state, problem)
        if checkpoint is not None:
            if not hasattr(checkpoint, "due"):
                raise ParameterError(
                    f"{caller}: checkpoint={checkpoint!r} is a {type(checkpoint).__name__}; "
                    "expected a lowrank_opt.core.Checkpoint, such as "
                    "Checkpoint('run.npz', resume=True)"
                )
            checkpoint.check(problem, self)
        if state is None and checkpoint is not None and checkpoint.resume:
            from pathlib import Path

            if Path(checkpoint.path).exists():
                state = checkpoint.load(problem, self)
        with (
            thread_limit(self.n_threads, self.blas_threads),
            deferred_interrupt() as interrupt,
            open_progress(progress, type(self).__name__) as bar,
        ):
            return self._run(problem, x0, state, callback, history, bar, checkpoint, interrupt)

    def _run(
        self, problem: Any, x0: Any, state: State | None, callback: Any, history: Any, bar: Any,
        checkpoint: Any, interrupt: _Interrupt,
    ) -> Result:  # fmt: skip
        start = time.perf_counter()
        compiled = compile_clock.read()
        cause: Exception | None = None
        intact = True
        if state is None:
            state = self.init(problem, x0)
            state.data = data_of(problem)
            elapsed = time.perf_counter() - start
            setup_time = max(0.0, elapsed - (compile_clock.read() - compiled))
            state.time += setup_time
        else:
            state = copy.deepcopy(state)
            setup_time = 0.0
        status = self.terminate(problem, state)
        stride = _Stride(self.check_interval(problem))
        try:
            while True:
                last = status is not None
                if history is not None:
                    point = functools.partial(self.point, problem, state)
                    history.record(problem, state, point, last=last)
                if bar is not None:
                    bar.update(
                        nit=state.nit, max_iter=self.max_iter, residual=float(state.residual),
                        tol=self.tol, time=state.time,
                    )  # fmt: skip
                stop = False
                if callback is not None:
                    intermediate = _Intermediate(self, problem, state)
                    try:
                        callback(intermediate)
                    except StopIteration:
                        stop = True
                    intermediate.close()
                if last:
                    break
                if stop:
                    status = Status.STOPPED_BY_CALLBACK
                elif interrupt.raised:
                    status = Status.INTERRUPTED
                elif state.nit >= self.max_iter:
                    status = Status.ITERATION_LIMIT
                elif self.max_time is not None and time.perf_counter() - start >= self.max_time:
                    status = Status.TIME_LIMIT
                if status is not None:
                    if history is not None:  # a limit: the last iterate, due or not
                        history.record(problem, state, point, last=True)
                    break
                if checkpoint is not None and checkpoint.due():
                    checkpoint.save(problem, self, state)
                before, compiled_before = time.perf_counter(), compile_clock.read()
                try:
                    intact = False
                    state = self.step(problem, state, min(stride.n, self.max_iter - state.nit))
                    intact = True
                    status = self.terminate(problem, state)
                except (np.linalg.LinAlgError, FloatingPointError, ZeroDivisionError) as error:
                    status, cause = Status.NUMERICAL_ERROR, error
                elapsed = time.perf_counter() - before
                state.time += max(0.0, elapsed - (compile_clock.read() - compiled_before))
                stride.adapt(elapsed)
        except KeyboardInterrupt:
            status = Status.INTERRUPTED
        interrupt.release()
        if not intact:
            state.message = "A step was cut short: the state cannot be resumed"
        elif checkpoint is not None:
            checkpoint.save(problem, self, state)
        compile_time = compile_clock.read() - compiled
        assert status is not None
        return self._finalize(problem, state, status, cause, setup_time, compile_time, history)

    def _finalize(
        self, problem: Any, state: State, status: Status, cause: Exception | None,
        setup_time: float, compile_time: float, history: Any,
    ) -> Result:  # fmt: skip
        with _timed() as elapsed:
            x, residual = self.answer(problem, state, status)
        state.cache = None  # before the certificate takes memory
        certificate = problem.certificate(x) if hasattr(problem, "certificate") else None
        certified = (
            certificate is not None and certificate.residual <= CERTIFICATE_FACTOR * self.tol
        )
        limit = status in (Status.ITERATION_LIMIT, Status.TIME_LIMIT)
        if limit and certified and residual <= self.tol < state.residual:
            status = Status.CONVERGED  # `answer` improved the last iterate to within the tolerance
        message = self._message(state, status, residual, cause)
        if status is Status.CONVERGED and certificate is not None and not certified:
            status = Status.STALLED
            message = (
                f"Not certified: the solver reports residual {residual:.3e} <= tol {self.tol:.1e}, "
                f"the problem measures {certificate.kind} {certificate.residual:.3e}."
            )
        logger.debug("%s: %s", type(self).__name__, message)
        return Result(
            x=x,
            fun=certificate.objective if certificate is not None else problem.objective(x),
            success=status is Status.CONVERGED,
            status=status,
            message=message,
            nit=state.nit,
            counts=dict(state.counts),
            residual=float(residual),
            certificate=certificate,
            time=state.time + elapsed(),
            setup_time=setup_time,
            compile_time=compile_time,
            history=history,
            state=state,
            duals=self.duals(problem, state),
            inner=self.inner_results(state),
            solver=repr(self),
            problem=repr(problem),
            citation=self.citation,
            **self.fields(problem, state, x, certificate),
        )

    def _message(
        self, state: State, status: Status, residual: float, cause: Exception | None
    ) -> str:
        where = f"residual {residual:.3e}, tol {self.tol:.1e}, {state.nit} iterations"
        text = {
            Status.CONVERGED: f"Converged: {where}",
            Status.ITERATION_LIMIT: f"Iteration limit max_iter={self.max_iter} reached: {where}",
            Status.TIME_LIMIT: f"Time limit max_time={self.max_time} s reached: {where}",
            Status.STALLED: f"Stalled: {where}",
            Status.STOPPED_BY_CALLBACK: f"Stopped by the callback: {where}",
            Status.INTERRUPTED: f"Interrupted: {where}",
            Status.DIVERGED: f"Diverged: {where}",
            Status.INFEASIBLE: f"The problem is infeasible: {where}",
            Status.UNBOUNDED: f"The problem is unbounded: {where}",
            Status.NUMERICAL_ERROR: f"Numerical failure ({cause}): {where}",
        }[status]
        return f"{text}. {state.message}" if state.message else f"{text}."

    def iterate(self, problem: Any, *, x0: Any = None, n: int = 1) -> Iterator[State]:
        """Yield the state after every `n` iterations, until convergence or ``max_iter``.

        Parameters
        ----------
        problem : Problem
            What to solve.
        x0 : object or None, default=None
            Warm start.
        n : int, default=1
            Iterations between two states.
        """
        self.check(problem)
        _check_start(f"{type(self).__name__}.iterate", x0)
        with thread_limit(self.n_threads, self.blas_threads), _timed() as elapsed:
            state = self.init(problem, x0)
            state.data = data_of(problem)
        state.time += elapsed()
        while self.terminate(problem, state) is None and state.nit < self.max_iter:
            with thread_limit(self.n_threads, self.blas_threads), _timed() as elapsed:
                state = self.step(problem, state, min(n, self.max_iter - state.nit))
            state.time += elapsed()
            yield state


@contextlib.contextmanager
def _timed() -> Iterator[Callable[[], float]]:
    """Give the seconds that the block took, compilation excluded."""
    start, compiled, seconds = time.perf_counter(), compile_clock.read(), 0.0
    yield lambda: seconds
    seconds = max(0.0, time.perf_counter() - start - (compile_clock.read() - compiled))


def _check_start(caller: str, x0: Any) -> None:
    if isinstance(x0, Result):
        raise ProblemTypeError(f"{caller}: x0 is a Result; give its point, x0=result.x")


def _check_state(caller: str, state: Any, problem: Any) -> None:
    if not isinstance(state, State):
        cure = "state=result.state" if isinstance(state, Result) else "that of an earlier result"
        raise ParameterError(
            f"{caller}: state is a {type(state).__name__}; expected a State: give {cure}"
        )
    before, now = state.data, data_of(problem)
    if before is not None and now is not None and before != now:
        found = "; ".join(differences({"data": now}, {"data": before}, "in the state"))
        raise CheckpointError(
            f"{caller}: state belongs to a run on another problem: {found}. To start from its "
            "point, give x0=result.x"
        )


def check_is_problem(problem: Any, caller: str, required: Iterable[str] | None = None) -> None:
    """Raise when data were given where a problem is expected.

    Parameters
    ----------
    problem : object
        What was given.
    caller : str
        Name of the function the user called, for the message.
    required : iterable of str or None, default=None
        Names of the capabilities that the problem needs, for the message; ``None``: any problem
        will do.
    """
    data = isinstance(problem, (list, tuple, dict, str, type(None), type))
    if data or any(hasattr(problem, name) for name in ("__array__", "tocsr", "__dataframe__")):
        name = problem.__name__ if isinstance(problem, type) else type(problem).__name__
        required = list(required or [])
        fits = (
            [_EXAMPLES[n] for n in required if n in _EXAMPLES]
            if required
            else ([_EXAMPLES["HasObservations"], _EXAMPLES["HasTransport"]])
        )
        text = "expected a problem made from the data"
        if fits:
            text += f", such as {' or '.join(problem for problem, _ in fits)}"
        elif required:
            text += f", with {' and '.join(in_words(n) for n in required)}"
        doors = [door for _, door in fits if door]
        if doors:
            text += f", or take a front door for data: {' or '.join(doors)}"
        raise ProblemTypeError(
            f"{caller}: problem is {'the class' if isinstance(problem, type) else 'a'} {name}; "
            + text
        )


class _Intermediate(Result):
    """The callback's argument; `x`, `fun` and `state` are made when they are first asked for.

    After the callback has returned, what was not asked for cannot be had: the solver has gone on.
    """

    def __init__(self, solver: Solver, problem: Any, state: State) -> None:
        dict.__init__(
            self, nit=state.nit, residual=float(state.residual), time=state.time, success=False
        )
        object.__setattr__(self, "_source", (solver, problem, state))

    def __missing__(self, key: str) -> Any:
        source = object.__getattribute__(self, "_source")
        if source is None:
            raise KeyError(f"{key}: ask for it inside the callback; the solver has gone on since")
        solver, problem, state = source
        if key == "x":
            value = copy.deepcopy(solver.point(problem, state))
        elif key == "fun":
            value = problem.objective(self["x"])
        elif key == "state":
            value = copy.deepcopy(state)
        elif key in ("solver", "problem"):
            value = repr(solver if key == "solver" else problem)
        elif key in ("message", "counts", "status", "certificate"):
            value = {"message": "running", "counts": dict(state.counts)}.get(key)
        else:
            raise KeyError(key)
        self[key] = value
        return value

    def close(self) -> None:
        """Forget where to get what was not asked for."""
        object.__setattr__(self, "_source", None)

    def __reduce__(self) -> Any:
        if object.__getattribute__(self, "_source") is not None:
            _ = self["fun"], self["state"], self["counts"]
        return Result, (), None, None, iter(dict(self).items())

    def __repr__(self) -> str:
        return f"<iteration {self['nit']}: residual {self['residual']:.3e}>"


class _Stride:
    """Iterations per call of ``step``."""

    def __init__(self, check_every: int | str) -> None:
        self.auto = check_every == "auto"
        self.n = 1 if self.auto else int(check_every)

    def adapt(self, elapsed: float) -> None:
        """Double until a call takes a millisecond."""
        if self.auto and elapsed < 1e-3 and self.n < 1 << 20:
            self.n *= 2


class _Interrupt:
    """Whether Ctrl-C was pressed during a run."""

    def __init__(self) -> None:
        self.raised = False
        self.release: Callable[[], None] = lambda: None

    def __call__(self, signum: int, frame: Any) -> None:
        if self.raised:  # the second time the user means now
            raise KeyboardInterrupt
        self.raised = True


@contextlib.contextmanager
def deferred_interrupt() -> Iterator[_Interrupt]:
    """Turn the first Ctrl-C into a request to stop after the current step.

    A step works in place: an exception in its middle would leave a state that cannot resume.
    Only in the main thread, and only where Python's own handler is installed.
    """
    interrupt = _Interrupt()
    ours = (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    )
    if not ours:
        yield interrupt
        return
    signal.signal(signal.SIGINT, interrupt)

    def release() -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)

    interrupt.release = release
    try:
        yield interrupt
    finally:
        release()
