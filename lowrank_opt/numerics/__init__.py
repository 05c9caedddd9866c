"""Mathematics shared by the families: projections, proximal operators, top k, sketches, SVD."""

from __future__ import annotations

from lowrank_opt.core.lazy import lazy_names

__all__, __getattr__, __dir__ = lazy_names(
    __name__,
    {
        "projections": [
            "project_box",
            "project_halfspace",
            "project_hyperplane",
            "project_l1_ball",
            "project_l2_ball",
            "project_psd",
            "project_simplex",
        ],
        "penalties": [
            "MCP",
            "SCAD",
            "Box",
            "ElasticNet",
            "GroupL1",
            "GroupL2",
            "Huber",
            "L1",
            "L1Ball",
            "L2Ball",
            "NonNegative",
            "Simplex",
            "SquaredL2",
            "WeightedL1",
            "coordinate_penalty",
            "prox",
            "prox_conjugate",
            "prox_into",
            "value",
        ],
        "selection": ["StreamingTopK", "TopK", "topk"],
        "sketches": ["SRHT", "CountSketch", "GaussianSketch", "Sketch", "SparseSignSketch"],
        "svd": ["SVD", "randomized_svd"],
    },
)
