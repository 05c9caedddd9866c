"""Programs without an answer: what proves it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp
from scipy.sparse.linalg import lsmr

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    Values = NDArray[np.float64]

__all__ = ["Trivial", "candidates", "trivial"]


CLOSE = 1e-2  # violation relative to the value, from which a direction is worth correcting
TINY = 1e-9  # parts of a direction that are left out, relative to the largest
CORRECTIONS = 6


@dataclass(frozen=True)
class Trivial:
    """What can be said of a program without iterations.

    Parameters
    ----------
    outcome : str
        "infeasible", "unbounded", "perhaps" for unbounded if a point is feasible, or "" when
        `point` is the answer.
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
    if (down | up).any():
        j = int(np.argmax(down | up))
        ray = np.zeros(n)
        ray[j] = -1.0 if down[j] else 1.0
        feasible = bool(columns.all()) or A.nnz == 0
        text = f"Variable {j} is in no constraint"
        return Trivial("unbounded" if feasible else "perhaps", ray, message=text)
    if not columns.all():
        return None
    point = np.where(c > 0, lower, np.where(c < 0, upper, x))
    return Trivial("", point=point)


def candidates(work: Any, run: Any) -> Iterator[tuple[str, Values]]:
    """Yield directions in the user's units that may be proofs; set ``run.growing``.

    Without a solution the differences T(z) - z and z - anchor approach the infimal displacement,
    whose parts are such directions [1]_.

    Parameters
    ----------
    work : Work
        Of the program.
    run : PDHGState
        At a check: T(z) - z is in the work space.

    Yields
    ------
    tuple of str and ndarray
        "infeasible" and multipliers, or "unbounded" and a direction.

    References
    ----------
    .. [1] D. Applegate et al., "Infeasibility detection with primal-dual hybrid gradient for
       large-scale linear programming", SIAM Journal on Optimization 34, 2024.
    """
    p = work.program
    A = _matrix(p.rows, (len(p.row), len(p.column)))
    growing = False
    duals = (run.y_hat - run.y_anchor, work.y_move, run.y_hat)
    view = _Dual(p, A)
    for start in duals:
        found, close = _improved(view, np.asarray(start, np.float64))
        growing |= close
        if found is not None:
            yield "infeasible", p.row * found
    cone = _Primal(p, A)
    for start in (run.x_hat - run.x_anchor, work.reflected - run.x_hat):
        found, close = _improved(cone, np.asarray(start, np.float64))
        growing |= close
        if found is not None:
            yield "unbounded", p.column * found
    run.growing = growing


def _matrix(part: Any, shape: tuple[int, int]) -> Any:
    kind = np.int32 if part.ptr.dtype == np.uint32 and len(part.val) < 2**31 else np.int64
    parts = (part.val, part.idx.astype(kind, copy=False), part.ptr.astype(kind, copy=False))
    return sp.csr_array(parts, shape=shape)


class _Dual:
    """Multipliers y: the support of y and of z = -A'y shall be positive, and z allowed."""

    def __init__(self, program: Any, A: Any) -> None:
        self.p, self.map = program, A.T
        self.fixed = program.row_lower == program.row_upper

    def project(self, y: Values) -> Values:
        return _allowed(y, self.p.row_lower, self.p.row_upper)

    def split(self, y: Values) -> tuple[Values, float]:
        """Return what of the image is not allowed, and the value."""
        image = -(self.map @ y)
        z = _allowed(image, self.p.lower, self.p.upper)
        value = _support(y, self.p.row_lower, self.p.row_upper)
        return image - z, value + _support(z, self.p.lower, self.p.upper)


class _Primal:
    """Directions d that recede: minus the costs shall be positive, and A d recede."""

    def __init__(self, program: Any, A: Any) -> None:
        p, self.p, self.map = program, program, A
        self.quadratic = p.quadratic is not None
        if self.quadratic:
            Q = _matrix(p.quadratic, (len(p.column), len(p.column)))
            self.map = sp.csr_array(sp.vstack([A, Q]))
        self.fixed = (p.lower == -np.inf) & (p.upper == np.inf)

    def project(self, d: Values) -> Values:
        return _receding(d, self.p.lower, self.p.upper)

    def split(self, d: Values) -> tuple[Values, float]:
        """Return what of the image leaves the cone, and the value."""
        image = self.map @ d
        m = len(self.p.row)
        stay = _receding(image[:m], self.p.row_lower, self.p.row_upper)
        if self.quadratic:
            stay = np.concatenate([stay, np.zeros(len(image) - m)])
        return image - stay, -float(self.p.c @ d)


def _allowed(v: Values, lower: Values, upper: Values) -> Values:
    return np.where(((v > 0) & (lower == -np.inf)) | ((v < 0) & (upper == np.inf)), 0.0, v)


def _receding(d: Values, lower: Values, upper: Values) -> Values:
    return np.where(((d > 0) & (upper < np.inf)) | ((d < 0) & (lower > -np.inf)), 0.0, d)


def _support(v: Values, lower: Values, upper: Values) -> float:
    bound = np.where(v > 0, lower, upper)
    return float(np.where(v == 0, 0.0, v * np.where(v == 0, 0.0, bound)).sum())


def _improved(view: Any, start: Values) -> tuple[Values | None, bool]:
    """Return a direction whose violation is removed by a least change, and if it was close.

    ``None`` when nothing speaks for a proof.
    """
    size = float(np.abs(start).max(initial=0.0))
    if not (size > 0.0 and np.isfinite(size)):
        return None, False
    v = view.project(start / size)
    wrong, value = view.split(v)
    violation = float(np.linalg.norm(wrong))
    if not value > 0.0 or violation > CLOSE * value:
        return None, False
    if violation == 0.0:
        return v, True
    v = view.project(np.where(np.abs(v) > TINY, v, 0.0))
    active = np.zeros(len(wrong), bool)
    for _ in range(CORRECTIONS):
        wrong, value = view.split(v)
        if not value > 0.0:
            return None, True
        if float(np.linalg.norm(wrong)) <= 1e-12 * value:
            break
        active |= wrong != 0.0
        support = np.flatnonzero((v != 0.0) | view.fixed)
        part = view.map[np.flatnonzero(active)][:, support]
        image = view.map @ v
        change = lsmr(part, -image[active], atol=1e-14, btol=1e-14, maxiter=300)[0]
        trial = v.copy()
        trial[support] += change
        v = view.project(trial)
    # Dust in a row or column of its own would count as a violation of all of it.
    size = float(np.abs(v).max(initial=0.0))
    for part in (TINY, 1e-14):
        clean = np.where(np.abs(v) > part * size, v, 0.0)
        wrong, value = view.split(clean)
        if value > 0.0 and float(np.linalg.norm(wrong)) <= 1e-12 * value:
            return clean, True
    return v, True
