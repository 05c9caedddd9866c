"""Convex quadratic programs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lowrank_opt.core.errors import ProblemError
from lowrank_opt.monotone.programs import ConvexProgram, _matrix

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["QuadraticProgram"]


@dataclass(frozen=True, eq=False, repr=False)
class QuadraticProgram(ConvexProgram):
    r"""Convex quadratic program with ranged constraints and bounds.

    .. math::

        \min_x\; \tfrac12 x^\top Q x + c^\top x + \text{offset}
        \quad\text{subject to}\quad l_c \le A x \le u_c,\quad l \le x \le u .

    Parameters
    ----------
    Q : array-like or scipy sparse of shape (n, n)
        Symmetric and positive semi-definite, kept as float64 ``csr_array``. That it is
        semi-definite is checked on the diagonal only.
    c : array-like of shape (n,)
        Costs; finite.
    A : array-like or scipy sparse of shape (m, n), or None, default=None
        Constraints; ``None``: no rows.
    constraint_lower, constraint_upper : array-like of shape (m,), float or None, default=None
        Bounds on ``A x``; equal for an equality; ``None``, ``-inf`` or ``inf``: none.
    lower, upper : array-like of shape (n,), float or None, default=None
        Bounds on ``x``; ``None``, ``-inf`` or ``inf``: none.
    offset : float, default=0.0
        Constant of the objective.
    maximize : bool, default=False
        Only a note for printing: the data stand for the maximum of minus the objective.
    name : str, default=""
        Name, for printing.
    row_names, column_names : sequence of str or None, default=None
        Names of the constraints and of the variables, for files.

    Raises
    ------
    ProblemError
        Shapes that do not fit; NaN; an infinite number elsewhere than in a bound; `Q` not
        symmetric, or with a negative diagonal entry.

    See Also
    --------
    LinearProgram : Without the quadratic term; points, signs and certificates are the same.

    Notes
    -----
    The reduced costs are ``c + Q x - A'y``, the dual objective has ``- x'Qx / 2``.
    `auto_solver` is :class:`~lowrank_opt.monotone.HalpernPDHG`.

    Examples
    --------
    >>> from lowrank_opt.monotone import PrimalDual, QuadraticProgram
    >>> qp = QuadraticProgram([[2.0]], [-2.0], lower=0.0)
    >>> qp.certificate(PrimalDual([1.0], [])).residual
    0.0
    """

    Q: Any
    c: Any
    A: Any = None
    constraint_lower: Any = None
    constraint_upper: Any = None
    lower: Any = None
    upper: Any = None
    offset: float = 0.0
    maximize: bool = False
    name: str = ""
    row_names: Sequence[str] | None = None
    column_names: Sequence[str] | None = None

    def __post_init__(self) -> None:
        self._settle()
        n = len(self.c)
        if self.Q is None:
            raise ProblemError("Q is None; use LinearProgram where there is no quadratic term")
        Q = _matrix("Q", self.Q, n)
        if Q.shape != (n, n):
            raise ProblemError(
                f"Q has shape {Q.shape} and c has shape {self.c.shape}: expected ({n}, {n})"
            )
        size = float(np.abs(Q.data).max(initial=0.0))
        difference = abs(Q - Q.T)
        worst = float(difference.max()) if difference.nnz else 0.0
        if worst > 1e-12 * size:
            raise ProblemError(
                f"Q is not symmetric: Q and its transpose differ by {worst:g}; give "
                "(Q + Q.T) / 2 if that is what is meant"
            )
        diagonal = Q.diagonal()
        if (diagonal < 0).any():
            i = int(np.argmin(diagonal))
            raise ProblemError(
                f"Q is not positive semi-definite: Q[{i}, {i}] = {diagonal[i]:g}; a problem that "
                "is not convex cannot be solved here"
            )
        object.__setattr__(self, "Q", Q)
