"""What estimators share: solver resolution, callbacks of scikit-learn, convergence warnings.

The only module that touches scikit-learn's callback framework, which is new in 1.9 and may change
without deprecation. Imported by estimators only, since scikit-learn takes over a second to import.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning

from lowrank_opt.core.errors import ParameterError
from lowrank_opt.core.params import did_you_mean, instantiate
from lowrank_opt.core.registry import solver_class
from lowrank_opt.core.solver import Solver
from lowrank_opt.core.state import Status

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from lowrank_opt.core.result import Result

try:
    from sklearn.callback import CallbackSupportMixin, with_callbacks
except ImportError:  # scikit-learn before 1.9

    class CallbackSupportMixin:  # type: ignore[no-redef]
        """Stands in for scikit-learn's mixin where there is none."""

    def with_callbacks(method: Callable[..., Any]) -> Callable[..., Any]:
        """Return `method` unchanged."""
        return method


__all__ = ["CallbackSupportMixin", "open_bridge", "resolve_solver", "run_solver", "with_callbacks"]

# What to do about a run that ended without convergence.
_CURES = {
    Status.ITERATION_LIMIT: "Raise max_iter or tol, or look at result_.",
    Status.TIME_LIMIT: "Raise the solver's max_time, or tol, or look at result_.",
    Status.STALLED: (
        "More iterations do not help: raise tol if result_.certificate is good enough, or try "
        "other parameters."
    ),
}
_CURE = "The model is the last one that is finite: check the data, or try another method."


def resolve_solver(
    solver: Any,
    *,
    choices: Mapping[str, tuple[str, Mapping[str, Any]]],
    argument: str = "solver",
    **params: Any,
) -> Solver:
    """Return the solver of an estimator, never the user's own instance.

    Parameters
    ----------
    solver : str or Solver
        A key of `choices`, the name of a registered solver, or an instance (it is cloned).
    choices : mapping of str to (str, mapping)
        Short names: solver class name and its parameters.
    argument : str, default="solver"
        Name of the estimator's parameter that holds `solver`, for messages.
    **params
        Estimator parameters that every solver takes (``tol``, ``max_iter``, ``random_state``); an
        instance keeps its own. Those that a class does not have are left out.

    Raises
    ------
    ParameterError
        If the name is unknown.
    """
    if isinstance(solver, Solver):
        return clone(solver)
    if not isinstance(solver, str):
        made = f", such as {solver.__name__}()" if isinstance(solver, type) else ""
        raise TypeError(
            f"{argument}={solver!r} must be a Solver instance{made}, or one of "
            f"{', '.join(sorted(choices))}"
        )
    if solver in choices:
        name, defaults = choices[solver]
        cls = solver_class(name)
    else:
        try:
            cls, defaults = solver_class(solver), {}
        except ParameterError:
            names = [*choices, *dict.fromkeys(name for name, _ in choices.values())]
            raise ParameterError(
                f"{argument}={solver!r} is unknown." + did_you_mean(solver, names)
            ) from None
    known = cls._signature()
    taken = {name: value for name, value in params.items() if name in known}
    return instantiate(cls, {**taken, **defaults}, cls.__name__)


def run_solver(
    estimator: Any,
    solver: Solver,
    problem: Any,
    *,
    X: Any = None,
    callback: Callable[[Result], Any] | None = None,
    quiet: tuple[Status, ...] = (),
    bridge: _Bridge | None = None,
    **keywords: Any,
) -> Result:
    """Solve inside ``fit``: scikit-learn's callbacks are served, a limit gives a warning.

    Parameters
    ----------
    estimator : estimator
        The one being fitted.
    solver, problem : Solver, Problem
        What to run.
    X : object
        Training data, for scikit-learn's callbacks.
    callback : callable or None
        A further callback with ``intermediate_result``.
    quiet : tuple of Status
        Ends that are as planned and need no warning.
    bridge : object or None
        What :func:`open_bridge` gave for a fit of several runs; the caller closes it.
    **keywords
        For :meth:`Solver.solve`.

    Raises
    ------
    KeyboardInterrupt
        Ctrl-C was pressed: a solver gives back its best point, but a fit must not look finished to
        the search or script around it.
    """
    hooks = [] if callback is None else [callback]
    own = open_bridge(estimator, X) if bridge is None else None
    bridge = bridge or own
    if bridge is not None:
        hooks.append(bridge)

    def call(intermediate_result: Result) -> None:
        for hook in hooks:
            hook(intermediate_result)

    result = solver.solve(problem, callback=call if hooks else None, **keywords)
    if own is not None:
        own.close()
    if result.status is Status.INTERRUPTED:
        raise KeyboardInterrupt
    user_stopped = result.status is Status.STOPPED_BY_CALLBACK
    if not result.success and not user_stopped and result.status not in quiet:
        warnings.warn(
            f"{type(estimator).__name__}: {result.message.rstrip('.')}. "
            f"{_CURES.get(result.status, _CURE)}",
            ConvergenceWarning,
            stacklevel=3,
        )
    return result


def open_bridge(estimator: Any, X: Any) -> _Bridge | None:
    """Return what serves scikit-learn's callbacks in a fit, ``None`` if there are none.

    A fit may begin but once: one that runs several solvers gives this to all of them, and closes
    it.

    Parameters
    ----------
    estimator : estimator
        The one being fitted.
    X : object
        Training data.
    """
    return _Bridge(estimator, X) if getattr(estimator, "_skl_callbacks", None) else None


class _Bridge:
    """One scikit-learn task per check of the solver."""

    def __init__(self, estimator: Any, X: Any) -> None:
        self.estimator, self.X = estimator, X
        self.root = estimator._init_callback_context(max_subtasks=None)
        self.root.call_on_fit_task_begin(estimator=estimator, X=X)
        self.task = self._begin()

    def _begin(self) -> Any:
        task = self.root.subcontext(task_name="check")
        task.call_on_fit_task_begin(estimator=self.estimator, X=self.X)
        return task

    def __call__(self, intermediate_result: Result) -> None:
        stop = self.task.call_on_fit_task_end(
            estimator=self.estimator,
            X=self.X,
            metadata={
                "nit": intermediate_result["nit"],
                "residual": intermediate_result["residual"],
            },
        )
        self.task = self._begin()
        if stop:
            raise StopIteration

    def close(self) -> None:
        """End the task that was begun for a check that never came, and the root."""
        self.task.call_on_fit_task_end(estimator=self.estimator)
        self.root.call_on_fit_task_end(estimator=self.estimator, X=self.X)
