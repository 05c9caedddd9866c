"""Linear programs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lowrank_opt.monotone.programs import ConvexProgram

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["LinearProgram"]


@dataclass(frozen=True, eq=False, repr=False)
class LinearProgram(ConvexProgram):
    r"""Linear program with ranged constraints and bounds.

    .. math::

        \min_x\; c^\top x + \text{offset}
        \quad\text{subject to}\quad l_c \le A x \le u_c,\quad l \le x \le u .

    Parameters
    ----------
    c : array-like of shape (n,)
        Costs; finite.
    A : array-like or scipy sparse of shape (m, n), or None, default=None
        Constraints, kept as float64 ``csr_array``; integers are converted. ``None``: no rows.
    constraint_lower, constraint_upper : array-like of shape (m,), float or None, default=None
        Bounds on ``A x``; equal for an equality; ``None``, ``-inf`` or ``inf``: none.
    lower, upper : array-like of shape (n,), float or None, default=None
        Bounds on ``x``; ``None``, ``-inf`` or ``inf``: none. Variables are free unless told
        otherwise.
    offset : float, default=0.0
        Constant of the objective.
    maximize : bool, default=False
        Only a note for printing: the data stand for the maximum of minus the objective.
    name : str, default=""
        Name, for printing.
    row_names, column_names : sequence of str or None, default=None
        Names of the constraints and of the variables, for files.

    Attributes
    ----------
    nnz : int
        Nonzeros of `A`.
    conflicts : str
        Bounds that contradict each other, in words; empty if there are none. Such a problem is
        not an error: solvers report it as infeasible.

    Raises
    ------
    ProblemError
        Shapes that do not fit; NaN; an infinite number elsewhere than in a bound.

    See Also
    --------
    QuadraticProgram : With a quadratic objective.
    linprog : SciPy's signature.
    read_mps : From a file.

    Notes
    -----
    A point is a :class:`~lowrank_opt.monotone.PrimalDual` of x and multipliers y of the
    constraints: y_i > 0 pushes against the lower bound, y_i < 0 against the upper one. The
    reduced costs ``z = c - A'y`` do the same for the bounds on x.

    The certificate's residual is the largest of: the Euclidean norm of all violations over
    ``1 + ‖b‖`` (b: the larger finite bound of every row); the norm of what ``c - A'y`` has on
    signs that no bound takes, over ``1 + ‖c‖``; the gap over ``1 + |p| + |d|``; and a hundredth of
    the largest backward error of a single row or column, so that large data elsewhere hide
    nothing. ``details`` has all of them, and the absolute infeasibilities in the maximum norm.
    ``gap`` is the objective minus a lower bound that holds for every feasible x, where there is
    one (``None``: a free variable has a reduced cost).

    `auto_solver` is :class:`~lowrank_opt.monotone.HalpernPDHG`;
    :func:`~lowrank_opt.monotone.linprog` also knows when a simplex method is faster.

    Examples
    --------
    >>> from lowrank_opt.monotone import LinearProgram, PrimalDual
    >>> lp = LinearProgram([-1.0, -2.0], [[1.0, 1.0]], None, 4.0, lower=0.0, upper=3.0)
    >>> lp
    LinearProgram(1 constraints, 2 variables, 2 nonzeros)
    >>> point = PrimalDual([1.0, 3.0], [-1.0])
    >>> lp.objective(point), lp.certificate(point).residual
    (-7.0, 0.0)
    """

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

    @property
    def Q(self) -> None:  # type: ignore[override]  # noqa: N802
        """There is no quadratic term."""
        return

    @classmethod
    def from_scipy(
        cls,
        c: Any,
        A_ub: Any = None,
        b_ub: Any = None,
        A_eq: Any = None,
        b_eq: Any = None,
        bounds: Any = (0, None),
    ) -> LinearProgram:
        """Return the program that the arguments of :func:`scipy.optimize.linprog` mean.

        Parameters
        ----------
        c, A_ub, b_ub, A_eq, b_eq : array-like or None
            As in SciPy; the rows of `A_ub` come first.
        bounds : sequence or pair, default=(0, None)
            As in SciPy.
        """
        from lowrank_opt.monotone.front import from_scipy_arguments

        return from_scipy_arguments(c, A_ub, b_ub, A_eq, b_eq, bounds)

    @classmethod
    def from_cvxpy(cls, problem: Any) -> LinearProgram:
        """Return the linear program that a cvxpy problem is, in cvxpy's standard form.

        Parameters
        ----------
        problem : cvxpy.Problem
            A problem with an affine objective and affine constraints.
        """
        from lowrank_opt.monotone.cvxpy_solver import from_cvxpy_problem

        program = from_cvxpy_problem(problem)
        assert isinstance(program, LinearProgram)
        return program
