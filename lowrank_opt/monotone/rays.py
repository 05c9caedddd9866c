"""Programs without an answer: what proves it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    Values = NDArray[np.float64]

__all__ = ["Trivial", "candidates", "trivial"]


@dataclass(frozen=True)
class Trivial:
    """What can be said of a program without iterations.

    Parameters
    ----------
    outcome : str
        "infeasible", "unbounded", or "" when `point` is the answer.
    ray : ndarray or None
        The proof.
    point : ndarray or None
        The answer.
    message : str
        For the user.
    """

    outcome: str
    ray: Values | None = None
    point: Values | None = None
    message: str = ""


def trivial(problem: Any, x: Values) -> Trivial | None:
    """Decide programs by empty rows and columns, if they can be.

    Parameters
    ----------
    problem : LinearProgram or QuadraticProgram
        Without contradictory bounds.
    x : ndarray
        A start within the bounds.
    """
    A, Q = problem.A, problem.Q
    m, n = A.shape
    rows = np.diff(A.indptr) == 0
    low, high = problem.constraint_lower, problem.constraint_upper
    bad = rows & ((low > 0) | (high < 0))
    if bad.any():
        i = int(np.argmax(bad))
        ray = np.zeros(m)
        ray[i] = 1.0 if low[i] > 0 else -1.0
        return Trivial("infeasible", ray, message=f"Constraint {i} is empty and excludes 0")
    columns = np.bincount(A.indices, minlength=n) == 0
    if Q is not None:
        columns &= np.diff(Q.indptr) == 0
    c, lower, upper = problem.c, problem.lower, problem.upper
    down = columns & (c > 0) & (lower == -np.inf)
    up = columns & (c < 0) & (upper == np.inf)
    # A ray of descent proves the dual infeasible; the program itself may be infeasible too, which
    # only a feasible point excludes: without constraints there is one.
    unbounded = (down | up).any()
    if not columns.all():
        return None
    if unbounded:
        j = int(np.argmax(down | up))
        ray = np.zeros(n)
        ray[j] = -1.0 if down[j] else 1.0
        return Trivial("unbounded", ray, message=f"Variable {j} is in no constraint")
    point = np.where(c > 0, lower, np.where(c < 0, upper, x))
    return Trivial("", point=point)


def candidates(work: Any, run: Any) -> Iterator[tuple[str, Values]]:
    """Yield directions in the user's units that may be proofs.

    Parameters
    ----------
    work : Work
        Of the program.
    run : PDHGState
        At a check.
    """
    return iter(())
