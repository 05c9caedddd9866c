"""Monotone inclusions, fixed points, games and linear programs by Halpern iteration."""

from __future__ import annotations

from lowrank_opt.core.backend import register_kernels
from lowrank_opt.core.lazy import lazy_names
from lowrank_opt.core.registry import register_solvers

__all__, __getattr__, __dir__ = lazy_names(
    __name__,
    {
        "averaged": ["Anderson", "KrasnoselskiiMann"],
        "batch": ["solve_batch"],
        "certificates_lp": ["Ray"],
        "cvxpy_solver": ["CvxpyHalpernPDHG"],
        "estimators": ["L1Regressor", "RobustRegressor"],
        "extragradient": [
            "AnchoredExtraGradient",
            "ExtraGradient",
            "FastExtraGradient",
            "OptimisticGradient",
        ],
        "fixed_point": ["FixedPointProblem"],
        "front": ["linprog"],
        "games": ["GameInteriorPoint"],
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

register_solvers(
    __name__,
    (
        "Anderson",
        "AnchoredExtraGradient",
        "ExtraGradient",
        "FastExtraGradient",
        "GameInteriorPoint",
        "Halpern",
        "HalpernPDHG",
        "InexactHalpern",
        "KrasnoselskiiMann",
        "OptimisticGradient",
        "VarianceReducedExtraGradient",
        "VarianceReducedHalpern",
    ),
)
register_kernels("monotone", numpy="lowrank_opt.monotone.kernels_pdhg")


def warmup() -> dict[str, float]:
    """Compile this family's kernels on tiny inputs; return seconds by name."""
    from lowrank_opt.monotone.compilation import compile_kernels

    return compile_kernels()
