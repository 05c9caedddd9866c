"""All checks of a solver, by name and together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lowrank_opt.core import ParameterError
from lowrank_opt.testing import answer_checks as answers
from lowrank_opt.testing import conduct_checks as conduct
from lowrank_opt.testing._report import CheckReport, run_checks
from lowrank_opt.testing.cases import SolverCase

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from lowrank_opt.core import Solver

__all__ = ["SOLVER_CHECKS", "check_solver"]

SOLVER_CHECKS: dict[str, Callable[[SolverCase], None]] = {
    "certificate_agrees": answers.check_certificate_agrees,
    "monotone_or_documented": answers.check_monotone_or_documented,
    "zero_iterations_at_solution": answers.check_zero_iterations_at_solution,
    "warm_start_not_worse": answers.check_warm_start_not_worse,
    "resume_is_bit_identical": conduct.check_resume_is_bit_identical,
    "limits": conduct.check_limits,
    "callback_cannot_corrupt": conduct.check_callback_cannot_corrupt,
    "does_not_touch_inputs": conduct.check_does_not_touch_inputs,
    "solver_unchanged": conduct.check_solver_unchanged,
    "clone_and_pickle": conduct.check_clone_and_pickle,
    "deterministic": conduct.check_deterministic,
    "dtypes": answers.check_dtypes,
    "backends": answers.check_backends,
    "kernel_equals_reference": answers.check_kernel_equals_reference,
    "bad_inputs": conduct.check_bad_inputs,
    "scale_invariance": answers.check_scale_invariance,
    "history_excluded_from_time": conduct.check_history_excluded_from_time,
    "work_count": answers.check_work_count,
    "repr_roundtrip": conduct.check_repr_roundtrip,
}


def check_solver(
    solver: Solver | SolverCase,
    problem_factory: Callable[..., Any] | None = None,
    *,
    checks: Iterable[str] | None = None,
    **hooks: Any,
) -> CheckReport:
    """Run the checks that every solver of the library passes.

    Parameters
    ----------
    solver : Solver or SolverCase
        An instance that converges on the factory's problems; or a case, which brings everything.
    problem_factory : callable or None, default=None
        ``problem_factory(dtype=numpy.float64, seed=0, xp=numpy)`` returns a small problem. It may
        lack keywords; the checks that need them are then reported as not applicable.
    checks : iterable of str or None, default=None
        Keys of ``SOLVER_CHECKS``; ``None``: all.
    **hooks
        Further fields of :class:`SolverCase`: ``distance``, ``reference``, ``work``, ….

    Returns
    -------
    CheckReport
        What passed, and what did not apply and why.

    Raises
    ------
    AssertionError
        Lists all checks that failed, each with what was found and what was expected.
    ParameterError
        Unknown name of a check.

    Examples
    --------
    >>> from lowrank_opt.testing import check_solver
    >>> from lowrank_opt.testing.example import GradientDescent, make_quadratic
    >>> print(check_solver(GradientDescent(), make_quadratic, checks=["limits", "work_count"]))
    GradientDescent(): 1 checks passed
      passed          limits
      not applicable  work_count: no work= formula was given
    """
    if isinstance(solver, SolverCase):
        case = solver
    elif problem_factory is None:
        raise ParameterError("check_solver: give problem_factory, which makes problems to solve")
    else:
        case = SolverCase(solver, problem_factory, **hooks)
    names = list(SOLVER_CHECKS) if checks is None else list(checks)
    return run_checks(case.label, case, names, SOLVER_CHECKS, case.not_applicable)
