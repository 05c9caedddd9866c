"""Optimal transport with sparse plans: a cap on the nonzeros of every column or row."""

from __future__ import annotations

from lowrank_opt.core.backend import register_kernels
from lowrank_opt.core.lazy import lazy_names
from lowrank_opt.core.registry import register_solvers

__all__, __getattr__, __dir__ = lazy_names(
    __name__,
    {
        "estimators": ["SparseOTMapper"],
        "front": [
            "RegularizationPath",
            "TransportGradients",
            "ot_regularization_path",
            "ot_value_and_grad",
            "sparse_ot",
        ],
        "functions": [
            "expert_capacity",
            "k_support_norm",
            "prox_k_support",
            "sparse_simplex_projection",
        ],
        "plan": ["TransportPlan"],
        "problems": ["TransportProblem"],
        "router": ["Routing", "TopKRouter"],
        "sparsity_constrained": ["SparsityConstrainedOT"],
    },
)

register_solvers(__name__, ("SparsityConstrainedOT",))
register_kernels("transport", numpy="lowrank_opt.transport.kernels_costs")


def warmup() -> dict[str, float]:
    """Compile this family's kernels on tiny inputs; return seconds by name."""
    from lowrank_opt.transport.compilation import compile_kernels

    return compile_kernels()
