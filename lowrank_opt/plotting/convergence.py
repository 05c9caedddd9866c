"""Curves of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from lowrank_opt.core.errors import MissingDependencyError, ParameterError
from lowrank_opt.core.params import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lowrank_opt.core.history import History
    from lowrank_opt.core.result import Result

__all__ = ["ConvergenceDisplay"]

_LABELS = {"nit": "iteration", "time": "seconds", "residual": "residual", "objective": "objective"}


class ConvergenceDisplay:
    """One or several convergence curves.

    Parameters
    ----------
    curves : mapping of str to (x, y)
        For each label two sequences of the same length.
    x_name, y_name : str
        Names of the axes.

    Attributes
    ----------
    ax_ : matplotlib.axes.Axes
        The axes of the last :meth:`plot`.
    figure_ : matplotlib.figure.Figure
        Their figure.
    lines_ : list of matplotlib.lines.Line2D
        The curves.

    Examples
    --------
    >>> from lowrank_opt.core import History
    >>> from lowrank_opt.plotting import ConvergenceDisplay
    >>> history = History.from_dict({"nit": [0, 1], "time": [0.0, 0.1], "residual": [1.0, 0.1]})
    >>> display = ConvergenceDisplay.from_history(history, x="time", y="residual")
    >>> list(display.curves)
    ['residual']
    """

    def __init__(
        self, curves: Mapping[str, tuple[Any, Any]], *, x_name: str = "nit", y_name: str = ""
    ) -> None:
        self.curves = {
            label: (np.asarray(x, dtype=float), np.asarray(y, dtype=float))
            for label, (x, y) in curves.items()
        }
        for label, (x, y) in self.curves.items():
            if x.shape != y.shape or x.ndim != 1:
                raise ParameterError(
                    f"ConvergenceDisplay: curves[{label!r}] has x of shape {x.shape} and y of "
                    f"shape {y.shape}; both must be sequences of the same length"
                )
        self.x_name, self.y_name = x_name, y_name

    @classmethod
    def from_history(
        cls,
        history: History | Mapping[str, History],
        *,
        x: str = "nit",
        y: str = "residual",
        relative_to: float | None = None,
    ) -> ConvergenceDisplay:
        """Make a display from one history, or from several by label.

        Parameters
        ----------
        history : History or mapping of str to History
            The record of a run, or of several.
        x, y : str
            Columns.
        relative_to : float or None, default=None
            Subtract this value from `y` (the optimal value, say).
        """
        histories = dict(history) if hasattr(history, "items") else {y: history}
        curves = {}
        for label, one in histories.items():
            columns = one.to_dict()
            for name in (x, y):
                if name not in columns:
                    raise ParameterError(
                        f"the history has no column {name!r}." + did_you_mean(name, columns)
                    )
            values = np.asarray(columns[y], dtype=float)
            curves[label] = (columns[x], values - (relative_to or 0.0))
        return cls(curves, x_name=x, y_name=y)

    @classmethod
    def from_result(
        cls, result: Result, *, x: str = "nit", y: str = "residual"
    ) -> ConvergenceDisplay:
        """Make a display from a result that was solved with ``history=``."""
        if result.history is None:
            raise ParameterError("the result has no history: solve with history=History()")
        return cls.from_history(result.history, x=x, y=y)

    @classmethod
    def from_estimator(
        cls, estimator: Any, *, x: str = "nit", y: str = "residual"
    ) -> ConvergenceDisplay:
        """Make a display from a fitted estimator's ``result_``."""
        return cls.from_result(estimator.result_, x=x, y=y)

    def plot(self, ax: Any = None, *, log: bool = True, **line_options: Any) -> ConvergenceDisplay:
        """Draw the curves.

        Parameters
        ----------
        ax : matplotlib.axes.Axes or None, default=None
            Where to draw; ``None``: a new figure.
        log : bool, default=True
            Logarithmic vertical axis.
        **line_options
            For ``Axes.plot``.

        Returns
        -------
        ConvergenceDisplay
            Itself.

        Raises
        ------
        MissingDependencyError
            If matplotlib is not installed.
        """
        if ax is None:
            try:
                import matplotlib.pyplot as plt
            except ImportError as error:
                raise MissingDependencyError(
                    "matplotlib", "plot", "ConvergenceDisplay.plot"
                ) from error
            _, ax = plt.subplots()
        self.lines_ = []
        for label, (x, y) in self.curves.items():
            self.lines_ += ax.plot(x, y, label=label, **line_options)
        if log:
            ax.set_yscale("log")
        ax.set_xlabel(_LABELS.get(self.x_name, self.x_name))
        ax.set_ylabel(_LABELS.get(self.y_name, self.y_name))
        if len(self.curves) > 1:
            ax.legend()
        self.ax_, self.figure_ = ax, ax.figure
        return self
