"""The oracle kernels against their array-API twins, on random and on degenerate inputs."""

from __future__ import annotations

import numpy as np
import pytest

from lowrank_opt.recovery import Observations
from lowrank_opt.recovery import kernels_observations as kernels
from lowrank_opt.recovery import reference_observations as reference


def make(case, dtype):
    rng = np.random.default_rng(3)
    m, n, k = {"random": (9, 7, 4), "empty rows": (9, 7, 4), "one": (1, 1, 1), "rank 0": (5, 4, 0)}[
        case
    ]
    seen = rng.random((m, n)) < 0.6
    seen[0, 0] = True
    if case == "empty rows":
        seen[3:5] = False
    X = np.where(seen, rng.standard_normal((m, n)), np.nan).astype(dtype)
    obs = Observations.from_dense(X, weights=rng.random((m, n)) + 0.5)
    point = [rng.standard_normal(s).astype(dtype) for s in ((m, k), (n, k), m, n)]
    return obs, point


@pytest.mark.parametrize("biases", [True, False])
@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("loss", [0, 1, 2])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("case", ["random", "empty rows", "one", "rank 0"])
def test_oracle_kernels_equal_their_twins(case, dtype, loss, weighted, biases):
    obs, (U, V, b, c) = make(case, dtype)
    none = np.empty(0, dtype)
    b, c = (b, c) if biases else (None, None)
    weights = obs.weights if weighted else None
    e, G, g = np.empty(obs.nnz), np.empty(U.shape), np.zeros(U.shape[0])
    kernel_biases = (none if b is None else b, none if c is None else c)
    data = (obs.indptr, obs.indices, obs.values)
    kernels.residuals(*data, U, V, *kernel_biases, 0.3, e)
    weights_or_none = none if weights is None else weights
    sums = kernels.half_gradient(
        *data, weights_or_none, 0, U.shape[0], U, V, *kernel_biases, 0.3, loss, 0.7, G, g
    )
    double = [None if a is None else a.astype(float) for a in (obs.values, weights, U, V, b, c)]
    values, weights, U, V, b, c = double
    data = (obs.indptr, obs.indices.astype(np.int64), values)
    expected = reference.residuals(*data, U, V, b, c, 0.3)
    np.testing.assert_allclose(e, expected, rtol=1e-12, atol=1e-13)
    G_twin, g_twin, sums_twin = reference.half_gradient(*data, weights, U, V, b, c, 0.3, loss, 0.7)
    np.testing.assert_allclose(G, G_twin, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(g, g_twin if biases else 0.0, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(sums, sums_twin, rtol=1e-12)


def test_twins_run_on_every_array_library(xp):
    if "cupy" in xp.__name__:
        pytest.skip("host arrays only")
    obs, (U, V, b, c) = make("random", np.float64)
    arrays = (obs.indptr, obs.indices.astype(np.int64), obs.values, obs.weights, U, V, b, c)
    expected = reference.half_gradient(*arrays, 0.3, 1, 0.7)
    found = reference.half_gradient(*(xp.asarray(a) for a in arrays), 0.3, 1, 0.7)
    for a, b in zip(found[:2], expected[:2], strict=True):
        np.testing.assert_allclose(np.asarray(a), b, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(found[2], expected[2], rtol=1e-12)
    pointers, rows, values = reference.transpose(*(xp.asarray(a) for a in arrays[:3]), obs.shape[1])
    np.testing.assert_array_equal(np.asarray(pointers), obs.csc_indptr)
    np.testing.assert_array_equal(np.asarray(rows), obs.csc_indices)
    np.testing.assert_array_equal(np.asarray(values), obs.csc_values)
