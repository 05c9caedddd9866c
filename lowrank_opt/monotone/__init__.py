"""Monotone inclusions, fixed points, games and linear programs by Halpern iteration."""

from __future__ import annotations

from lowrank_opt.core.lazy import lazy_names

__all__, __getattr__, __dir__ = lazy_names(
    __name__,
    {
        "averaged": ["Anderson", "KrasnoselskiiMann"],
        "batch": ["solve_batch"],
        "certificates_lp": ["Ray"],
        "estimators": ["L1Regressor", "RobustRegressor"],
        "extragradient": [
            "AnchoredExtraGradient",
            "ExtraGradient",
            "FastExtraGradient",
            "OptimisticGradient",
        ],
        "fixed_point": ["FixedPointProblem"],
        "front": ["linprog"],
        "halpern": ["Halpern"],
        "halpern_pdhg": ["HalpernPDHG"],
        "inclusion": ["MonotoneInclusion"],
        "inexact": ["InexactHalpern"],
        "linear_program": ["LinearProgram"],
        "matrix_game": ["MatrixGame"],
        "mps": ["read_mps", "write_mps"],
        "points": ["PrimalDual"],
        "quadratic_program": ["QuadraticProgram"],
        "variance_reduced": ["VarianceReducedExtraGradient", "VarianceReducedHalpern"],
    },
)
