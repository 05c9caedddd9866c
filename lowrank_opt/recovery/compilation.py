"""Compile the usual kernel signatures of this family."""

from __future__ import annotations

import time
import warnings
from typing import Any

import numpy as np

from lowrank_opt.recovery.alternating import AlternatingMinimization
from lowrank_opt.recovery.factor_sgd import FactorSGD
from lowrank_opt.recovery.gibbs import GibbsFactorization
from lowrank_opt.recovery.huber_als import HuberALS
from lowrank_opt.recovery.problems import MatrixCompletion
from lowrank_opt.recovery.robust import LowRankPlusSparse
from lowrank_opt.recovery.scaled_gd import ScaledGD
from lowrank_opt.recovery.sensing import MatrixSensing
from lowrank_opt.recovery.soft_impute import SoftImpute

__all__ = ["compile_kernels"]

# Just enough entries for the parallel versions, which small data do not use.
_SIDE = 160
_RIDGE = {"reg": 0.1, "biases": True}
_CASES: tuple[tuple[str, Any, dict[str, Any]], ...] = (
    ("exact solves", AlternatingMinimization(max_iter=1, inner="cholesky"), _RIDGE),
    ("conjugate gradients", AlternatingMinimization(max_iter=1, inner="cg"), _RIDGE),
    ("sketched solves", AlternatingMinimization(max_iter=1, inner="sketch"), _RIDGE),
    ("non-negative solves", AlternatingMinimization(max_iter=1), {"reg": 0.1, "nonnegative": True}),
    ("robust weights", AlternatingMinimization(max_iter=1), {"reg": 0.1, "loss": "huber"}),
    ("Gibbs draws", GibbsFactorization(max_iter=2), _RIDGE),
    ("stochastic gradients", FactorSGD(max_iter=1), {**_RIDGE, "reg_scaling": "count"}),
    ("soft impute", SoftImpute(max_iter=1), {"reg": 50.0, "penalty": "nuclear"}),
)
_ROBUST_CASES: tuple[tuple[str, Any, int | str], ...] = (
    ("robust solves", HuberALS(max_iter=4, random_state=0), "auto"),
    ("trimmed gradients", ScaledGD(max_iter=1), 3),
)


def compile_kernels() -> dict[str, float]:
    """Run every solver on a tiny problem in both precisions.

    Returns
    -------
    dict of str to float
        Seconds per group of kernels and dtype; about 0.01 each when the disk cache has them.
    """
    seconds = {}
    X = np.random.default_rng(0).standard_normal((_SIDE, _SIDE))
    for dtype in (np.float32, np.float64):
        for name, solver, options in _CASES:
            start = time.perf_counter()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                problem = MatrixCompletion.from_dense(X.astype(dtype), rank=3, **options)
                solver.set_params(random_state=0).solve(problem)
            seconds[f"{name}, {np.dtype(dtype).name}"] = time.perf_counter() - start
        rows, cols = np.indices(X[:40, :40].shape).reshape(2, -1)
        for name, solver, rank in _ROBUST_CASES:
            start = time.perf_counter()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                problem = LowRankPlusSparse.from_coo(
                    rows, cols, X[:40, :40].ravel().astype(dtype), rank=rank, outlier_fraction=0.1
                )
                solver.solve(problem)
            seconds[f"{name}, {np.dtype(dtype).name}"] = time.perf_counter() - start
        start = time.perf_counter()
        _measure(X[:8, :8].astype(dtype))
        seconds[f"measurements, {np.dtype(dtype).name}"] = time.perf_counter() - start
    return seconds


def _measure(X: Any) -> None:
    """One pass of every kind over a few measurements, for each loss."""
    U, y, entries = X[:, :2].copy(), X.ravel().copy(), np.indices(X.shape).reshape(2, -1)
    for problem in (
        MatrixSensing.from_dense(np.multiply.outer(y, X), y),
        MatrixSensing.from_rank_one(np.tile(X, (8, 1)), None, y),
        MatrixSensing.from_entries(*entries, y, X.shape),
    ):
        operator = problem.measurements
        operator.apply(U, U)
        for symmetric in (False, True):
            for loss in ("l1", "squared"):
                operator.linearize(U, U, problem.targets, loss, symmetric)
            operator.reweighted(U, U, problem.targets, 1.0, symmetric)
