"""Compile the usual kernel signatures of this family."""

from __future__ import annotations

import time
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

from lowrank_opt.block_coordinate.affinity import knn_affinity
from lowrank_opt.block_coordinate.composite import CompositeProblem
from lowrank_opt.block_coordinate.descent import BlockCoordinateDescent
from lowrank_opt.block_coordinate.glm import GLMProblem
from lowrank_opt.block_coordinate.prototypes import BoundOptimizer, LaplacianPrototypeProblem
from lowrank_opt.block_coordinate.quadratic import QuadraticProblem
from lowrank_opt.block_coordinate.sparse_glm import SparseGLMSolver
from lowrank_opt.numerics.penalties import L1, MCP, Box, GroupL1, NonNegative

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["compile_kernels"]

_SAMPLES, _FEATURES = 24, 32


def compile_kernels() -> dict[str, float]:
    """Run the methods on tiny problems, dense and sparse, in both precisions.

    Returns
    -------
    dict of str to float
        Seconds per kind of problem and dtype; little when the disk cache has them.
    """
    seconds = {}
    X = np.random.default_rng(0).standard_normal((_SAMPLES, _FEATURES))
    for dtype in (np.float32, np.float64):
        for name, solver, problem in _runs(X.astype(dtype)):
            start = time.perf_counter()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                solver.solve(problem)
            key = f"{name}, {np.dtype(dtype).name}"
            seconds[key] = seconds.get(key, 0.0) + time.perf_counter() - start
    return seconds


def _runs(X: Any) -> Iterator[tuple[str, Any, Any]]:
    n, p = X.shape
    y = X[:, :3].sum(axis=1) + 0.1 * X[:, 5]
    fast = SparseGLMSolver(max_iter=5)
    for kind, design in (("dense", X), ("sparse", sp.csc_array(X * (X > 0)))):
        squared = GLMProblem(design, y, fit_intercept=True)
        alpha = 0.05 * squared.null_gradient
        yield f"least squares, {kind}", fast, CompositeProblem(squared, L1(alpha))
        yield f"least squares, {kind}", fast, CompositeProblem(squared, NonNegative(alpha))
        logistic = GLMProblem(design, np.where(y > 0, 1.0, -1.0), "logistic", fit_intercept=True)
        alpha = 0.05 * logistic.null_gradient
        yield f"logistic, {kind}", fast, CompositeProblem(logistic, L1(alpha))
        counts = np.maximum(np.round(np.abs(y)), 0.0)
        for loss, targets in (("huber", y), ("poisson", counts)):
            model = GLMProblem(design, targets, loss, fit_intercept=True)
            alpha = 0.05 * model.null_gradient
            yield f"{loss}, {kind}", fast, CompositeProblem(model, L1(alpha))
        groups = GroupL1(alpha, np.arange(p) // 4)
        yield f"groups, {kind}", fast, CompositeProblem(squared, groups)
        yield f"non-convex, {kind}", fast, CompositeProblem(squared, MCP(alpha))
        several = GLMProblem(design, np.stack([y, -y], axis=1), fit_intercept=True)
        yield f"several outputs, {kind}", fast, CompositeProblem(several, groups)
        steps = BlockCoordinateDescent(max_iter=4)
        yield f"coordinate descent, {kind}", steps, CompositeProblem(squared, L1(alpha))
        single = BlockCoordinateDescent(max_iter=4, block_size=1)
        yield f"coordinate descent, {kind}", single, logistic
    chain = sp.diags_array([np.full(n - 1, -1.0), np.full(n, 2.5), np.full(n - 1, -1.0)],
                           offsets=[-1, 0, 1]).astype(X.dtype)  # fmt: skip
    quadratic = QuadraticProblem(sp.csr_array(chain), np.ones(n))
    for rules in (
        {},
        {"blocks": "greedy_forest"},
        {"blocks": "forest", "selection": "cyclic"},
        {"blocks": "bounded_fill", "block_size": 2},
        {"blocks": "color", "selection": "cyclic"},
    ):
        yield "quadratics", BlockCoordinateDescent(max_iter=4, **rules), quadratic
    for pen in (L1(0.1), Box(-1.0, 1.0)):
        bounded = CompositeProblem(quadratic, pen)
        yield "quadratics", BlockCoordinateDescent(max_iter=4), bounded
    for d in (2, p):  # neighbours by a tree, and by tiles of distances
        affinity = knn_affinity(X[:, :d], 4)
        clusters = LaplacianPrototypeProblem(X[:, :d], affinity, 3)
        yield "prototypes", BoundOptimizer(max_iter=3), clusters
