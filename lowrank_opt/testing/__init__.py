"""Checks that every solver and problem of the library passes, for use on your own.

`check_solver` and `check_problem` run them all; ``SOLVER_CHECKS`` and ``PROBLEM_CHECKS`` are
dictionaries of single ones. :mod:`lowrank_opt.testing.example` is the smallest problem and solver
that pass.
"""

from __future__ import annotations

from lowrank_opt.core.lazy import lazy_names

__all__, __getattr__, __dir__ = lazy_names(
    __name__,
    {
        "_points": ["point_distance"],
        "_report": ["CheckReport", "NotApplicable"],
        "cases": ["BadInput", "ProblemCase", "SolverCase"],
        "answer_checks": [
            "check_backends",
            "check_certificate_agrees",
            "check_dtypes",
            "check_kernel_equals_reference",
            "check_monotone_or_documented",
            "check_scale_invariance",
            "check_warm_start_not_worse",
            "check_work_count",
            "check_zero_iterations_at_solution",
        ],
        "conduct_checks": [
            "check_bad_inputs",
            "check_callback_cannot_corrupt",
            "check_clone_and_pickle",
            "check_deterministic",
            "check_does_not_touch_inputs",
            "check_history_excluded_from_time",
            "check_limits",
            "check_repr_roundtrip",
            "check_resume_is_bit_identical",
            "check_solver_unchanged",
        ],
        "solver_checks": ["SOLVER_CHECKS", "check_solver"],
        "problem_checks": [
            "PROBLEM_CHECKS",
            "assert_certificate",
            "check_certificate",
            "check_constraint_jacobian",
            "check_copies",
            "check_fingerprint",
            "check_frozen",
            "check_gradient",
            "check_monotone_operator",
            "check_objective",
            "check_oracles_are_pure",
            "check_problem",
            "check_prox",
            "check_sample_gradient",
        ],
    },
)
