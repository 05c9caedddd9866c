"""A fit takes at most 2.5 times the memory of the data (by rows and by columns) and factors."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from lowrank_opt.recovery import (
    AlternatingMinimization,
    FactorSGD,
    MatrixCompletion,
    SoftImpute,
)

M, N, SIZE = 4000, 2500, 300_000
LIMIT = 2.5


@pytest.fixture(scope="module")
def entries():
    rng = np.random.default_rng(0)
    rows = np.repeat(np.arange(M), SIZE // M)
    cols = np.concatenate([rng.choice(N, SIZE // M, replace=False) for _ in range(M)])
    values = rng.standard_normal((M, 3))[rows] * rng.standard_normal((N, 3))[cols]
    values = values.sum(axis=1) + 0.5 * rng.standard_normal(SIZE)
    return rows, cols, values.astype(np.float32)


@pytest.mark.parametrize("rank", [10, 20])
@pytest.mark.parametrize(
    ("solver", "options"),
    [
        (AlternatingMinimization(inner="cholesky", max_iter=2), {"reg": 1.0, "biases": True}),
        (AlternatingMinimization(inner="cg", max_iter=2), {"reg": 1.0, "biases": True}),
        (AlternatingMinimization(inner="cholesky", max_iter=2), {"reg": 1.0}),
        (FactorSGD(max_iter=2, check_every=1), {"reg": 1.0, "biases": True}),
        (SoftImpute(max_iter=6), {"reg": 12.0, "penalty": "nuclear", "center": True}),
    ],
    ids=["cholesky", "cg", "cholesky without offset", "sgd", "soft impute"],
)
def test_memory_of_a_fit(entries, solver, options, rank, record_property):
    problem = MatrixCompletion.from_coo(*entries, (M, N), rank=rank, **options)
    obs = problem.observations
    data = sum(
        a.nbytes
        for a in (
            obs.indptr, obs.indices, obs.values, obs.csc_indptr, obs.csc_indices, obs.csc_values,
        )
    )  # fmt: skip
    factors = 4 * (M + N) * (rank + 2 * problem.biases)
    solver = type(solver)(**{**solver.get_params(), "random_state": 0, "n_threads": 1})
    solver.solve(problem)  # compiles, and computes what the problem keeps
    tracemalloc.start()
    result = solver.solve(problem)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert result.nit >= 2
    ratio = (data + peak) / (data + factors)
    record_property("ratio", ratio)
    assert ratio <= LIMIT
    assert peak < 0.25 * M * N * 4  # no dense matrix
