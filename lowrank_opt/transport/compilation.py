"""Compile the usual kernel signatures of this family."""

from __future__ import annotations

import time
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

from lowrank_opt.transport.problems import TransportProblem
from lowrank_opt.transport.router import TopKRouter
from lowrank_opt.transport.sparsity_constrained import SparsityConstrainedOT

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["compile_kernels"]

_SIDE = 24


def compile_kernels() -> dict[str, float]:
    """Run the methods on tiny problems in both precisions.

    Returns
    -------
    dict of str to float
        Seconds per kind of costs and dtype, and of routing; little when the disk cache has them.
    """
    seconds = {}
    X = np.random.default_rng(0).standard_normal((_SIDE, 2))
    for dtype in (np.float32, np.float64):
        for name, problem in _problems(X.astype(dtype)):
            start = time.perf_counter()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                for method in ("ssnal", "lbfgs"):
                    SparsityConstrainedOT(method=method, max_iter=20).solve(problem)
            seconds[f"{name}, {np.dtype(dtype).name}"] = time.perf_counter() - start
        start = time.perf_counter()
        for choose in ("experts", "tokens"):
            TopKRouter(choose=choose, n_iter=2).route(X.reshape(2, _SIDE // 2, 2))
        seconds[f"routing, {np.dtype(dtype).name}"] = time.perf_counter() - start
    return seconds


def _problems(X: Any) -> Iterator[tuple[str, TransportProblem]]:
    C = ((X[:, None] - X[None]) ** 2).sum(axis=2)
    a = np.linspace(1.0, 2.0, _SIDE)
    a, b = a / a.sum(), a[::-1] / a.sum()
    yield "transport of a cost matrix", TransportProblem(a, b, C, max_nnz=3)
    yield "transport of points", TransportProblem(a, b, X=X, Y=X, max_nnz=3)
    yield "transport of listed pairs", TransportProblem(a, b, sp.csc_array(C + 1.0), max_nnz=3)
