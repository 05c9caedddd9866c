"""Record of a run: what happened at which iteration and second."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from lowrank_opt.core.errors import MissingDependencyError, ParameterError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from lowrank_opt.core.problem import Problem
    from lowrank_opt.core.state import State

__all__ = ["History"]


class History:
    """Columns that grow while a solver runs; the time they take is not counted.

    Parameters
    ----------
    every : int or "log", default=1
        Record at the first check at or after every so many iterations; ``"log"``: iterations 0, 1,
        2, 3, 4, 6, 8, 11, … growing by a quarter.
    objective : bool, default=True
        Record ``problem.objective``.
    certificate : bool, default=False
        Record ``problem.certificate(x).residual``.
    extra : mapping of str to callable, default=None
        Further columns; each callable gets ``(problem, x)`` and returns a number. Copies and
        pickles keep the columns but not the callables.

    Examples
    --------
    >>> from lowrank_opt.core import History
    >>> History(every=10).to_dict()
    {'nit': [], 'time': [], 'residual': []}
    """

    def __init__(
        self,
        every: int | str = 1,
        *,
        objective: bool = True,
        certificate: bool = False,
        extra: Mapping[str, Callable[[Any, Any], float]] | None = None,
    ) -> None:
        if every != "log" and not (isinstance(every, (int, np.integer)) and every >= 1):
            raise ParameterError(f"History: every={every!r} must be a positive integer or 'log'")
        self.every = every
        self.objective = objective
        self.certificate = certificate
        self.extra = dict(extra or {})
        self._columns: dict[str, list[float]] = {"nit": [], "time": [], "residual": []}
        self._next = 0.0

    def record(
        self, problem: Problem, state: State, x: Callable[[], Any], *, last: bool = False
    ) -> None:
        """Add a row if one is due; ``x()`` gives the point, and is called only then."""
        repeated = bool(self._columns["nit"]) and self._columns["nit"][-1] == state.nit
        if repeated or (state.nit < self._next and not last):
            return
        if self.every == "log":
            self._next = max(state.nit + 1, np.floor(state.nit * 1.25))
        else:
            self._next = state.nit + int(self.every)
        row: dict[str, float] = {
            "nit": state.nit,
            "time": state.time,
            "residual": float(state.residual),
        }
        point = x() if self.objective or self.certificate or self.extra else None
        if self.objective:
            row["objective"] = float(problem.objective(point))
        if self.certificate:
            row["certificate"] = float(problem.certificate(point).residual)
        for name, function in self.extra.items():
            row[name] = float(function(problem, point))
        for name, value in row.items():
            self._columns.setdefault(name, []).append(value)

    def __getstate__(self) -> dict[str, Any]:
        # The user's functions are often lambdas; a result with its history must be picklable.
        return {**self.__dict__, "extra": {}}

    def __len__(self) -> int:
        return len(self._columns["nit"])

    def __getitem__(self, column: str) -> np.ndarray:
        return np.asarray(self._columns[column])

    def __repr__(self) -> str:
        return f"History({len(self)} rows: {', '.join(self._columns)})"

    def to_dict(self) -> dict[str, list[float]]:
        """Return the columns as lists."""
        return {name: list(values) for name, values in self._columns.items()}

    @classmethod
    def from_dict(cls, columns: Mapping[str, list[float]]) -> History:
        """Rebuild a history from its columns."""
        history = cls()
        history._columns = {name: list(values) for name, values in columns.items()}
        return history

    def to_pandas(self) -> Any:
        """Return a ``pandas.DataFrame`` with one row a record."""
        try:
            import pandas as pd
        except ImportError as error:
            raise MissingDependencyError("pandas", "data", "History.to_pandas") from error
        return pd.DataFrame(self._columns)
