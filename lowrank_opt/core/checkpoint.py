"""Checkpoints: a run survives a crash and goes on with the same bits."""

from __future__ import annotations

import hashlib
import json
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lowrank_opt.core.errors import CheckpointError, ParameterError
from lowrank_opt.core.serialize import encode, read_npz, write_npz

if TYPE_CHECKING:
    from lowrank_opt.core.problem import Problem
    from lowrank_opt.core.solver import Solver
    from lowrank_opt.core.state import State

__all__ = ["Checkpoint"]

# Limits of a run may change between interruption and resume without changing its bits.
_LIMITS = frozenset({"max_iter", "max_time", "tol", "check_every", "n_threads", "random_state"})


@dataclass
class Checkpoint:
    """Write the state of a run to a file at intervals and at its end; go on from it later.

    The file is an ``.npz`` archive of arrays and a JSON header without pickle, written beside the
    old one and moved into place. Reading it against another problem or solver is an error that
    says what differs; only limits (``max_iter``, ``max_time``, ``tol``, ``check_every``,
    ``n_threads``) may change.

    Parameters
    ----------
    path : path-like
        The file.
    every_seconds : float, default=30.0
        Least time between two writings during a run.
    resume : bool, default=False
        Start from the file if it exists, instead of from the beginning.

    Examples
    --------
    >>> from lowrank_opt.core import Checkpoint
    >>> Checkpoint("run.npz", every_seconds=60.0, resume=True)
    Checkpoint(path='run.npz', every_seconds=60.0, resume=True)
    """

    path: str | os.PathLike[str]
    every_seconds: float = 30.0
    resume: bool = False
    _written: float = field(default_factory=time.monotonic, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.every_seconds >= 0:
            raise ParameterError(
                f"Checkpoint: every_seconds={self.every_seconds!r} must be a number >= 0"
            )
        folder = Path(self.path).parent
        if not folder.is_dir():
            raise ParameterError(f"Checkpoint: the folder {folder} of path does not exist")

    def due(self) -> bool:
        """Whether `every_seconds` have passed since the last writing."""
        return time.monotonic() - self._written >= self.every_seconds

    def check(self, problem: Problem, solver: Solver) -> None:
        """Raise now if problem or parameters cannot be named in a file, not hours later."""
        _identity(problem, solver)

    def save(self, problem: Problem, solver: Solver, state: State) -> Path:
        """Write `state` now."""
        from lowrank_opt import __version__

        header = {"kind": "checkpoint", "version": __version__, **_identity(problem, solver)}
        path = write_npz(self.path, header, state=state)
        self._written = time.monotonic()
        return path

    def load(self, problem: Problem, solver: Solver) -> State:
        """Read the state, after checking that it belongs to this problem and solver.

        Raises
        ------
        CheckpointError
            If the file is damaged or was written for another problem or solver; the message
            lists the differences.
        """
        header, body = read_npz(self.path)
        if header.get("kind") != "checkpoint":
            raise CheckpointError(f"{self.path} holds a {header.get('kind')}, not a checkpoint")
        here = _identity(problem, solver)
        found = differences(here, {key: header.get(key) for key in here}, "in the file")
        if found:
            raise CheckpointError(f"{self.path} belongs to another run: {'; '.join(found)}")
        return body["state"]


def data_of(problem: Any) -> dict[str, Any] | None:
    """Return the fingerprint of a problem as JSON gives it back, ``None`` if it has none.

    Parameters
    ----------
    problem : object
        Any problem.
    """
    try:
        return dict(json.loads(json.dumps(dict(problem.fingerprint()))))
    except (AttributeError, NotImplementedError, TypeError):
        return None


def differences(here: Any, there: Any, where: str, name: str = "") -> list[str]:
    """Say which entries of two JSON trees differ, nested ones by their path.

    Parameters
    ----------
    here, there : object
        The trees.
    where : str
        Where the second one is, for the text.
    name : str, default=""
        Path to both.

    Returns
    -------
    list of str
        Such as ``["data.shape is [5, 5] here and [4, 4] in the file"]``.
    """
    if isinstance(here, dict) and isinstance(there, dict):
        return [
            text
            for key in [*here, *(key for key in there if key not in here)]
            for text in differences(
                here.get(key), there.get(key), where, f"{name}.{key}" if name else str(key)
            )
        ]
    if here == there:
        return []
    return [f"{name} is {_shown(here)} here and {_shown(there)} {where}"]


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:12]}...{text[-4:]}"


def _identity(problem: Problem, solver: Solver) -> dict[str, Any]:
    parameters = {}
    for name, value in solver.get_params(deep=False).items():
        if name not in _LIMITS:
            value = value.item() if isinstance(value, np.generic) else value
            parameters[name] = value if _is_json(value) else _digest(value)
    identity = {
        "solver": type(solver).__name__,
        "parameters": parameters,
        "problem": type(problem).__name__,
        "data": dict(problem.fingerprint()),
    }
    try:
        return json.loads(json.dumps(identity))
    except TypeError as error:
        raise CheckpointError(
            f"{type(problem).__name__}.fingerprint() must return JSON values: {error}"
        ) from error


def _is_json(value: Any) -> bool:
    return value is None or type(value) in (bool, int, float, str)


def _digest(value: Any) -> str:
    """Name arrays and objects among the parameters by their content."""
    arrays: dict[str, Any] = {}
    if hasattr(value, "get_params"):
        return repr(value)
    if hasattr(value, "__qualname__"):  # functions and classes
        return f"{value.__module__}:{value.__qualname__}"
    tree = json.dumps(encode(value, arrays))
    digest = hashlib.sha256(tree.encode())
    for name in arrays:
        digest.update(arrays[name].tobytes())
    return digest.hexdigest()
