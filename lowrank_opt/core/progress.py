"""Progress of a running solver: a rich bar, log lines, or the user's object."""

from __future__ import annotations

import contextlib
import logging
import sys
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from lowrank_opt.core.errors import ParameterError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Progress", "logger", "open_progress"]

logger = logging.getLogger("lowrank_opt")
logger.addHandler(logging.NullHandler())


@runtime_checkable
class Progress(Protocol):
    """What ``progress=`` accepts besides booleans: one method."""

    def update(self, *, nit: int, max_iter: int, residual: float, tol: float, time: float) -> None:
        """Called after each check, outside the clock."""


class _LogLines:
    """One log line a second, for terminals without rich and for log files."""

    def __init__(self, name: str) -> None:
        self.name, self.last = name, -1.0

    def update(self, *, nit: int, max_iter: int, residual: float, tol: float, time: float) -> None:
        if time - self.last >= 1.0 or residual <= tol:
            self.last = time
            logger.info(
                "%s: iteration %d of %d, residual %.3e, tol %.1e, %.1f s",
                self.name, nit, max_iter, residual, tol, time,
            )  # fmt: skip


class _RichBar:
    def __init__(self, bar: Any, task: Any) -> None:
        self.bar, self.task = bar, task

    def update(self, *, nit: int, max_iter: int, residual: float, tol: float, time: float) -> None:
        self.bar.update(self.task, completed=nit, total=max_iter, residual=f"{residual:.2e}")


@contextlib.contextmanager
def _log_handler() -> Iterator[None]:
    """Make the library's log lines visible for the duration of one call."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(min(level or logging.INFO, logging.INFO))
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


@contextlib.contextmanager
def open_progress(progress: Any, name: str) -> Iterator[Progress | None]:
    """Turn the `progress` argument of ``solve`` into an object with ``update``, or ``None``.

    Parameters
    ----------
    progress : bool or Progress
        ``True``: a bar on standard error if rich is installed, else log lines, made visible for
        this call. An object with ``update(*, nit, max_iter, residual, tol, time)`` is used as is.
    name : str
        Shown beside the bar.
    """
    if progress is None or progress is False:
        yield None
    elif progress is not True:
        if not isinstance(progress, Progress):
            raise ParameterError(
                f"progress={progress!r} must be True, False or an object with an update method"
            )
        yield progress
    else:
        try:
            from rich.console import Console
            from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
            from rich.progress import Progress as Bar
        except ImportError:
            with _log_handler():
                yield _LogLines(name)
            return
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed}/{task.total} residual {task.fields[residual]}"),
            TimeElapsedColumn(),
        )
        with Bar(*columns, console=Console(stderr=True)) as bar:
            yield _RichBar(bar, bar.add_task(name, residual="?"))
