"""What the user gets."""

from __future__ import annotations

import functools
import html
import sys
from typing import TYPE_CHECKING, Any

import numpy as np

from lowrank_opt.core.errors import CheckpointError, SolverFailure
from lowrank_opt.core.problem import Certificate
from lowrank_opt.core.serialize import read_npz, register_serializable, write_npz
from lowrank_opt.core.state import Status

if TYPE_CHECKING:
    import os
    from pathlib import Path

__all__ = ["Result"]

register_serializable(Certificate)

_KEYS: dict[str, Any] = {
    "x": None,
    "fun": None,
    "success": False,
    "status": None,
    "message": "",
    "nit": 0,
    "counts": None,
    "residual": None,
    "certificate": None,
    "time": None,
    "setup_time": None,
    "compile_time": None,
    "history": None,
    "state": None,
    "duals": None,
    "inner": None,
    "solver": None,
    "problem": None,
    "citation": None,
}


class _Fields(dict[str, Any]):
    """A dictionary whose keys are attributes: what SciPy's result is made of."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError as error:
            raise AttributeError(name) from error

    __setattr__ = dict.__setitem__
    __delattr__ = dict.__delitem__

    def __dir__(self) -> list[str]:
        return list(self)


class Result(_Fields):
    """Answer of a solver: a :class:`scipy.optimize.OptimizeResult` with guaranteed keys.

    Absent information is ``None``; a key is never missing.

    Parameters
    ----------
    **fields
        Values of the attributes; :meth:`Solver.solve` fills them in.

    Attributes
    ----------
    x : object
        The solution in the problem's natural form.
    fun : float
        Objective at `x`, computed by the problem in float64.
    success : bool
        ``status is Status.CONVERGED``.
    status : Status
        Why the solver stopped.
    message : str
        One sentence with numbers.
    nit : int
        Iterations.
    counts : dict of str to int
        Work counters (``passes``, ``matvecs``, ``svd``, …).
    residual : float
        The solver's stopping quantity at `x`, in the unit of ``tol``.
    certificate : Certificate
        The problem's own grade of `x`.
    time : float
        Seconds in ``init``, ``step`` and ``answer``; compilation, callbacks, history and the
        certificate are excluded.
    setup_time : float
        Seconds of ``time`` spent in ``init``.
    compile_time : float
        Seconds that kernels took to compile during this call.
    history : History or None
        The history passed to ``solve``.
    state : State
        To resume.
    duals : object
        Multipliers, potentials or adjoints where they exist.
    inner : object
        Statuses and counts of inner solvers, for nested methods.
    solver, problem : str
        Representations of both.
    citation : str
        The paper behind the method, in BibTeX.
    """

    def __init__(self, **fields: Any) -> None:
        super().__init__({**_KEYS, **fields})

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        # What ``isinstance`` asks. Importing scipy.optimize takes as long as many a solution:
        # whoever compares with its class has imported it.
        if "scipy.optimize" not in sys.modules:
            return type(self)
        return _known_to_scipy(type(self))

    def raise_for_status(self) -> Result:
        """Return the result if the solver converged.

        Raises
        ------
        SolverFailure
            Otherwise; the exception carries the result as ``.result``.
        """
        if not self.success:
            raise SolverFailure(self.message, self)
        return self

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the result to an ``.npz`` file (arrays and JSON, no pickle), atomically.

        The history is stored as its columns.

        Parameters
        ----------
        path : path-like
            File to write; its folder must exist.
        """
        from lowrank_opt import __version__

        fields = dict(self)
        if fields.get("history") is not None:
            fields["history"] = fields["history"].to_dict()
        return write_npz(path, {"kind": "result", "version": __version__}, fields=fields)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Result:
        """Read a result written by :meth:`save`.

        Raises
        ------
        CheckpointError
            If the file is not a result file of this format.
        """
        from lowrank_opt.core.history import History

        header, body = read_npz(path)
        if header.get("kind") != "result":
            raise CheckpointError(f"{path} holds a {header.get('kind')}, not a result")
        fields = body["fields"]
        if fields.get("history") is not None:
            fields["history"] = History.from_dict(fields["history"])
        return cls(**fields)

    def _rows(self) -> list[tuple[str, str]]:
        rows = [
            ("status", self.status.name if isinstance(self.status, Status) else str(self.status)),
            ("message", self.message),
            ("objective", "" if self.fun is None else f"{self.fun:.10g}"),
            ("iterations", str(self.nit)),
            ("residual", "" if self.residual is None else f"{self.residual:.3e}"),
            ("certificate", "" if self.certificate is None else str(self.certificate)),
            ("time", "" if self.time is None else f"{self.time:.3f} s"),
            ("solver", str(self.solver)),
            ("problem", str(self.problem)),
            ("x", _short(self.x)),
        ]
        return [(name, text) for name, text in rows if text]

    def __repr__(self) -> str:
        rows = self._rows()
        width = max(len(name) for name, _ in rows)
        return "\n".join(f"{name:>{width}}: {text}" for name, text in rows)

    def _repr_html_(self) -> str:
        cells = "".join(
            f"<tr><th style='text-align:left'>{html.escape(name)}</th>"
            f"<td style='text-align:left'>{html.escape(text)}</td></tr>"
            for name, text in self._rows()
        )
        return f"<table>{cells}</table>"

    def __reduce__(self) -> Any:
        return _rebuild, (type(self), dict(self))


@functools.cache
def _known_to_scipy(cls: type) -> type:
    """Return a class that is both `cls` and SciPy's."""
    from scipy.optimize import OptimizeResult

    return type(cls.__name__, (cls, OptimizeResult), {"__module__": cls.__module__})


def _rebuild(cls: type[Result], fields: dict[str, Any]) -> Result:
    return cls(**fields)


def _short(x: Any) -> str:
    if isinstance(x, np.ndarray):
        return f"array of shape {x.shape}, {x.dtype}"
    text = repr(x)
    return text if len(text) <= 100 else f"{type(x).__name__} ({len(text)} characters)"
