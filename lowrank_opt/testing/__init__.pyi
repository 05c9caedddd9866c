from lowrank_opt.testing._points import point_distance as point_distance
from lowrank_opt.testing._report import CheckReport as CheckReport
from lowrank_opt.testing._report import NotApplicable as NotApplicable
from lowrank_opt.testing.answer_checks import check_backends as check_backends
from lowrank_opt.testing.answer_checks import check_certificate_agrees as check_certificate_agrees
from lowrank_opt.testing.answer_checks import check_dtypes as check_dtypes
from lowrank_opt.testing.answer_checks import (
    check_kernel_equals_reference as check_kernel_equals_reference,
)
from lowrank_opt.testing.answer_checks import (
    check_monotone_or_documented as check_monotone_or_documented,
)
from lowrank_opt.testing.answer_checks import check_scale_invariance as check_scale_invariance
from lowrank_opt.testing.answer_checks import (
    check_warm_start_not_worse as check_warm_start_not_worse,
)
from lowrank_opt.testing.answer_checks import check_work_count as check_work_count
from lowrank_opt.testing.answer_checks import (
    check_zero_iterations_at_solution as check_zero_iterations_at_solution,
)
from lowrank_opt.testing.cases import BadInput as BadInput
from lowrank_opt.testing.cases import ProblemCase as ProblemCase
from lowrank_opt.testing.cases import SolverCase as SolverCase
from lowrank_opt.testing.conduct_checks import check_bad_inputs as check_bad_inputs
from lowrank_opt.testing.conduct_checks import (
    check_callback_cannot_corrupt as check_callback_cannot_corrupt,
)
from lowrank_opt.testing.conduct_checks import check_clone_and_pickle as check_clone_and_pickle
from lowrank_opt.testing.conduct_checks import check_deterministic as check_deterministic
from lowrank_opt.testing.conduct_checks import (
    check_does_not_touch_inputs as check_does_not_touch_inputs,
)
from lowrank_opt.testing.conduct_checks import (
    check_history_excluded_from_time as check_history_excluded_from_time,
)
from lowrank_opt.testing.conduct_checks import check_limits as check_limits
from lowrank_opt.testing.conduct_checks import check_repr_roundtrip as check_repr_roundtrip
from lowrank_opt.testing.conduct_checks import (
    check_resume_is_bit_identical as check_resume_is_bit_identical,
)
from lowrank_opt.testing.conduct_checks import check_solver_unchanged as check_solver_unchanged
from lowrank_opt.testing.problem_checks import PROBLEM_CHECKS as PROBLEM_CHECKS
from lowrank_opt.testing.problem_checks import assert_certificate as assert_certificate
from lowrank_opt.testing.problem_checks import check_certificate as check_certificate
from lowrank_opt.testing.problem_checks import (
    check_constraint_jacobian as check_constraint_jacobian,
)
from lowrank_opt.testing.problem_checks import check_copies as check_copies
from lowrank_opt.testing.problem_checks import check_fingerprint as check_fingerprint
from lowrank_opt.testing.problem_checks import check_frozen as check_frozen
from lowrank_opt.testing.problem_checks import check_gradient as check_gradient
from lowrank_opt.testing.problem_checks import check_monotone_operator as check_monotone_operator
from lowrank_opt.testing.problem_checks import check_objective as check_objective
from lowrank_opt.testing.problem_checks import check_oracles_are_pure as check_oracles_are_pure
from lowrank_opt.testing.problem_checks import check_problem as check_problem
from lowrank_opt.testing.problem_checks import check_prox as check_prox
from lowrank_opt.testing.problem_checks import check_sample_gradient as check_sample_gradient
from lowrank_opt.testing.solver_checks import SOLVER_CHECKS as SOLVER_CHECKS
from lowrank_opt.testing.solver_checks import check_solver as check_solver
