"""Recover low-rank matrices: from some of their entries, among gross errors, from measurements."""

from __future__ import annotations

from lowrank_opt.core.backend import register_kernels
from lowrank_opt.core.lazy import lazy_names
from lowrank_opt.core.registry import register_solvers

__all__, __getattr__, __dir__ = lazy_names(
    __name__,
    {
        "alternating": ["AlternatingMinimization"],
        "estimators": ["LowRankImputer", "MatrixFactorization"],
        "estimators_robust": ["RobustMatrixFactorization", "RobustPCA"],
        "factor_sgd": ["FactorSGD"],
        "front": ["complete"],
        "gibbs": ["GibbsFactorization"],
        "huber_als": ["HuberALS"],
        "lowrank": ["LowRankMatrix", "LowRankSamples"],
        "observations": ["Observations"],
        "problems": ["MatrixCompletion"],
        "robust": ["LowRankPlusSparse"],
        "scaled_gd": ["ScaledGD"],
        "scaled_subgradient": ["ScaledSubgradientMethod"],
        "sensing": ["MatrixSensing"],
        "soft_impute": ["SoftImpute", "biscale", "debias", "soft_impute_path"],
        "subgradient": ["SubgradientMethod"],
    },
)

register_solvers(
    __name__,
    (
        "AlternatingMinimization",
        "FactorSGD",
        "GibbsFactorization",
        "HuberALS",
        "ScaledGD",
        "ScaledSubgradientMethod",
        "SoftImpute",
        "SubgradientMethod",
    ),
)
register_kernels("recovery", numpy="lowrank_opt.recovery.kernels")


def warmup() -> dict[str, float]:
    """Compile this family's kernels on tiny inputs; return seconds by name."""
    from lowrank_opt.recovery.compilation import compile_kernels

    return compile_kernels()
