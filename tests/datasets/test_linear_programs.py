"""Generated linear programs: what they say about their answers, against HiGHS and certificates."""

from __future__ import annotations

import time

import numpy as np
import pytest
import scipy.sparse as sp
from scipy.optimize import Bounds, LinearConstraint, linprog, milp

from lowrank_opt.core.errors import ParameterError
from lowrank_opt.datasets import (
    make_basis_pursuit_lp,
    make_infeasible_lp,
    make_l1_regression_lp,
    make_markov_decision_lp,
    make_multicommodity_lp,
    make_pagerank_lp,
    make_planted_lp,
    make_transport_lp,
    make_unbounded_lp,
)

SOLVED = {
    "planted": lambda seed: make_planted_lp(20, 40, random_state=seed),
    "ranged": lambda seed: make_planted_lp(30, 40, inequalities=0.7, random_state=seed),
    "line": lambda seed: make_transport_lp(7, 9, cost="line", random_state=seed),
    "line, assignment": lambda seed: make_transport_lp(
        8, cost="line", assignment=True, random_state=seed
    ),
    "pagerank": lambda seed: make_pagerank_lp(40, random_state=seed),
    "markov": lambda seed: make_markov_decision_lp(12, 4, random_state=seed),
    "l1": lambda seed: make_l1_regression_lp(30, 5, random_state=seed),
    "basis pursuit": lambda seed: make_basis_pursuit_lp(20, 50, random_state=seed),
}


def _highs(data):
    """Answer of HiGHS through SciPy."""
    rows = LinearConstraint(data.A, data.constraint_lower, data.constraint_upper)
    return milp(data.c, constraints=rows, bounds=Bounds(data.lower, data.upper))


@pytest.mark.parametrize("name", SOLVED)
@pytest.mark.parametrize("seed", range(3))
def test_optimum_is_that_of_highs(name, seed):
    data = SOLVED[name](seed)
    found = _highs(data)
    assert found.status == 0
    assert data.optimum == pytest.approx(found.fun, rel=1e-7, abs=1e-9)
    if data.x is not None:
        assert data.c @ data.x == pytest.approx(data.optimum, rel=1e-12, abs=1e-12)
        for product, low, high in (
            (data.A @ data.x, data.constraint_lower, data.constraint_upper),
            (data.x, data.lower, data.upper),
        ):
            assert np.all(product >= low - 1e-12)
            assert np.all(product <= high + 1e-12)


@pytest.mark.parametrize("name", [n for n in SOLVED if SOLVED[n](0).y is not None])
def test_multipliers_are_optimal(name):
    """Complementary slackness and signs, written out; the certificate agrees."""
    data = SOLVED[name](5)
    z = data.c - data.A.T @ data.y
    for multiplier, value, low, high in (
        (data.y, data.A @ data.x, data.constraint_lower, data.constraint_upper),
        (z, data.x, data.lower, data.upper),
    ):
        assert np.all((multiplier < 1e-12) | (value - low < 1e-12))
        assert np.all((multiplier > -1e-12) | (high - value < 1e-12))
    assert data.problem.certificate((data.x, data.y)).residual < 1e-12


def test_pagerank_is_that_of_the_eigenvector():
    data = make_pagerank_lp(60, damping=0.9, random_state=1)
    S = (np.eye(60) - data.A.toarray()[:60]) / 0.9
    np.testing.assert_allclose(S.sum(axis=0), 1.0, atol=1e-12)
    values, vectors = np.linalg.eig(0.9 * S + 0.1 / 60)
    leading = vectors[:, np.argmax(values.real)].real
    np.testing.assert_allclose(data.x, leading / leading.sum(), atol=1e-12)
    np.testing.assert_array_equal(S != 0, S.T != 0)  # the graph has no directions


def test_degrees_of_pagerank_have_a_heavy_tail():
    """Preferential attachment: the largest degree grows as the root of the number of nodes."""
    degrees = np.diff(make_pagerank_lp(20_000, random_state=0).A.indptr)[:-1] - 1
    assert degrees.mean() == pytest.approx(6, rel=0.02)
    assert degrees.max() > 0.5 * np.sqrt(20_000) * 3
    # Of nodes with at least k edges there are about (3 / k)^2.
    assert np.mean(degrees >= 30) == pytest.approx(3 * 4 / (30 * 31), rel=0.3)


def test_transport_sends_what_there_is():
    data = make_transport_lp(6, 9, cost="plane", random_state=2)
    amounts = data.constraint_lower
    assert amounts[:6].sum() == pytest.approx(1.0)
    assert amounts[6:].sum() == pytest.approx(1.0)
    plan = np.random.default_rng(0).random((6, 9))
    np.testing.assert_allclose(
        data.A @ plan.ravel(), np.concatenate([plan.sum(axis=1), plan.sum(axis=0)])
    )
    assert _highs(data).status == 0
    ones = make_transport_lp(5, assignment=True, random_state=0)
    np.testing.assert_array_equal(ones.constraint_upper, 1.0)


@pytest.mark.parametrize("seed", range(3))
def test_multicommodity_flow_needs_its_capacities(seed):
    data = make_multicommodity_lp(12, 60, 8, n_sinks=4, random_state=seed)
    n, e, k = 12, 60, 8
    found = _highs(data)
    assert found.status == 0
    free = _highs(
        type(data)(
            data.c, data.A, data.constraint_lower,
            np.where(np.arange(n * k + e) < n * k, data.constraint_upper, np.inf), data.lower,
            data.upper, "",
        )
    )  # fmt: skip
    assert found.fun > free.fun * (1 + 1e-3)
    # Every commodity is conserved, and every arc leaves one node and enters another.
    for block in range(k):
        assert data.constraint_lower[block * n : (block + 1) * n].sum() == pytest.approx(0.0)
    incidence = data.A[:n, :e].toarray()
    np.testing.assert_array_equal(np.sort(incidence, axis=0)[[0, -1]], [[-1.0] * e, [1.0] * e])
    np.testing.assert_array_equal(incidence.sum(axis=0), 0.0)
    np.testing.assert_array_equal(data.A[n * k :].toarray(), np.tile(np.eye(e), k))


def test_values_of_markov_decisions_are_a_fixed_point():
    """Of the Bellman map, by the definition."""
    data = make_markov_decision_lp(15, 3, discount=0.8, random_state=4)
    own = np.repeat(np.eye(15), 3, axis=0)
    P = (own - data.A.toarray()) / 0.8
    np.testing.assert_allclose(P.sum(axis=1), 1.0, atol=1e-12)
    best = (data.constraint_lower + 0.8 * P @ data.x).reshape(15, 3).max(axis=1)
    np.testing.assert_allclose(best, data.x, atol=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_there_is_no_answer(seed):
    data = make_infeasible_lp(20, 30, random_state=seed)
    assert _highs(data).status == 2
    assert np.all(data.ray >= 0)
    assert np.all(data.A.T @ data.ray <= 1e-12)
    assert data.constraint_lower @ data.ray == pytest.approx(1.0)
    assert data.problem.farkas(data.ray).proved
    data = make_unbounded_lp(20, 30, random_state=seed)
    found = linprog(data.c, -data.A, -data.constraint_lower, method="highs-ds")
    assert found.status in (3, 4)
    assert np.all(data.ray >= 0)
    assert np.all(data.A @ data.ray >= -1e-12)
    assert data.c @ data.ray == pytest.approx(-1.0)
    assert np.all(data.A @ data.x >= data.constraint_lower - 1e-12)
    assert data.problem.recession(data.ray).proved


def test_seeds_and_names():
    a, b = (make_planted_lp(10, 20, random_state=3) for _ in range(2))
    np.testing.assert_array_equal(a.A.toarray(), b.A.toarray())
    assert "planted 10x20" in repr(a)
    assert a.problem.name == a.name
    assert sp.issparse(a.A)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: make_planted_lp(0, 5), "n_constraints=0"),
        (lambda: make_planted_lp(3, 5, inequalities=2.0), "inequalities=2.0"),
        (lambda: make_transport_lp(3, 4, assignment=True), "as many sinks"),
        (lambda: make_transport_lp(3, cost="far"), "cost='far'"),
        (lambda: make_pagerank_lp(1), "n_nodes=1"),
        (lambda: make_pagerank_lp(5, damping=1.0), "damping=1.0"),
        (lambda: make_multicommodity_lp(5, 9, 1), "n_arcs=9"),
        (lambda: make_markov_decision_lp(5, 2, discount=0.0), "discount=0.0"),
        (lambda: make_l1_regression_lp(5, 5), "more than n_features=5"),
        (lambda: make_basis_pursuit_lp(5, 10, n_nonzero=6), "n_nonzero=6"),
        (lambda: make_infeasible_lp(5, 2.5), "n_variables=2.5"),
    ],
)
def test_bad_sizes(make, match):
    with pytest.raises(ParameterError, match=match):
        make()


@pytest.mark.slow
def test_ten_million_nonzeros_take_seconds():
    for make in (
        lambda: make_planted_lp(500_000, 1_000_000, random_state=0),
        lambda: make_transport_lp(2000, random_state=0),
        lambda: make_multicommodity_lp(500, 3000, 1000, random_state=0),
    ):
        start = time.thread_time()
        data = make()
        assert data.A.nnz > 5_000_000
        assert time.thread_time() - start < 10.0
