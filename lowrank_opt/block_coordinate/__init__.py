"""Block coordinate descent: greedy rules, message passing, active sets, sparse linear models."""

from __future__ import annotations

from lowrank_opt.core.backend import register_kernels
from lowrank_opt.core.lazy import lazy_names
from lowrank_opt.core.registry import register_solvers

__all__, __getattr__, __dir__ = lazy_names(
    __name__,
    {
        "affinity": ["knn_affinity"],
        "composite": ["CompositeProblem"],
        "descent": ["BlockCoordinateDescent"],
        "estimators_classification": ["SparseLogisticRegression"],
        "estimators_regression": ["ElasticNet", "GroupLasso", "Lasso", "NonNegativeLeastSquares"],
        "forests": [
            "Forest",
            "bounded_fill",
            "greedy_forest",
            "is_forest",
            "random_forest",
            "red_black",
            "solve_forest",
            "tree_partition",
        ],
        "glm": ["GLMProblem"],
        "identification": [
            "ActiveSet",
            "active_set",
            "descent_identification",
            "identification_radius",
            "prox_gradient_identification",
        ],
        "label_propagation": ["LabelPropagation"],
        "laplacian_shot": ["LaplacianKMeans", "LaplacianShot"],
        "losses": ["Huber", "Logistic", "Poisson", "Softmax", "Squared"],
        "path": ["lasso_path"],
        "prototypes": ["BoundOptimizer", "LaplacianPrototypeProblem", "PrototypeAssignments"],
        "quadratic": ["QuadraticProblem"],
        "sparse_glm": ["SparseGLMSolver"],
        "tasks": ["TaskAssignments", "rectified_prototypes", "solve_tasks"],
    },
)

register_solvers(__name__, ("BlockCoordinateDescent", "SparseGLMSolver", "BoundOptimizer"))
register_kernels("block_coordinate", numpy="lowrank_opt.block_coordinate.kernels_design")


def warmup() -> dict[str, float]:
    """Compile this family's kernels on tiny inputs; return seconds by name."""
    from lowrank_opt.block_coordinate.compilation import compile_kernels

    return compile_kernels()
