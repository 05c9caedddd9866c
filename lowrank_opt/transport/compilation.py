"""Compile the usual kernel signatures of this family."""

from __future__ import annotations

import time

import numpy as np

from lowrank_opt.transport.kernels_costs import scores_of_targets
from lowrank_opt.transport.problems import TransportProblem

__all__ = ["compile_kernels"]

_SIDE = 24


def compile_kernels() -> dict[str, float]:
    """Run every method on tiny problems in both precisions.

    Returns
    -------
    dict of str to float
        Seconds per group of kernels and dtype; about 0.01 each when the disk cache has them.
    """
    seconds = {}
    X = np.random.default_rng(0).standard_normal((_SIDE, 2))
    for dtype in (np.float32, np.float64):
        start = time.perf_counter()
        for view in _problems(X.astype(dtype)):
            scores_of_targets(view.cost, np.zeros(view.m), 0, 1, np.empty((1, view.m)))
        seconds[f"costs, {np.dtype(dtype).name}"] = time.perf_counter() - start
    return seconds


def _problems(X):  # type: ignore[no-untyped-def]
    C = ((X[:, None] - X[None]) ** 2).sum(axis=2)
    yield TransportProblem(C=C, max_nnz=3).canonical
    yield TransportProblem(X=X, Y=X, max_nnz=3).canonical
