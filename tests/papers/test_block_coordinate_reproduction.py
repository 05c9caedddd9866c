"""Data of the reproduction of block coordinate rules, and what its rows are made of."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from scipy.sparse.csgraph import connected_components

from lowrank_opt.papers import block_coordinate as paper


def test_designs_follow_the_law():
    X = paper.regression_design(400, 2000, np.random.default_rng(0))
    kept = 10 * np.log(400) / 400
    assert X.nnz / (400 * 2000) == pytest.approx(kept, rel=0.01)
    # A column is (N(0, 1) + 1) times a scale that is 10 N(0, 1): mean square 2 * 100.
    squares = np.array([X[:, [j]].data @ X[:, [j]].data / X[:, [j]].nnz for j in range(2000)])
    assert squares.mean() == pytest.approx(200.0, rel=0.15)
    means = np.array([X[:, [j]].data.mean() for j in range(2000)])
    assert np.mean(means**2) == pytest.approx(100.0 * (1 + 1 / (kept * 400)), rel=0.15)


def test_the_lattice_has_the_published_nodes_and_labels():
    problem = paper.lattice(50, 100)
    state = np.random.RandomState(1)
    labelled = state.choice(2500, 100, replace=False)
    labels = 10 * state.randn(100)
    assert problem.n_variables == 2400
    # The energy of a labelling, node by node and neighbour by neighbour.
    y = np.random.default_rng(0).standard_normal(2500)
    y[labelled] = labels
    picture = y.reshape(50, 50)  # row i // 50 here is the column of node i
    energy = 0.5e5 * (np.sum(np.diff(picture, axis=0) ** 2) + np.sum(np.diff(picture) ** 2))
    rest = np.setdiff1d(np.arange(2500), labelled)
    inside = np.isin(np.arange(2500), labelled).reshape(50, 50)
    fixed = 0.5e5 * sum(np.sum((np.diff(picture, axis=a) ** 2)[_both(inside, a)]) for a in (0, 1))
    boundary = 0.5e5 * sum(
        np.sum((labels[k] ** 2) * (4 - _border(i) - _labelled_neighbours(inside, i)))
        for k, i in enumerate(labelled)
    )
    assert problem.objective(y[rest]) + fixed + boundary == pytest.approx(energy, rel=1e-9)


def _both(inside, axis):
    first = np.take(inside, range(49), axis)
    return first & np.take(inside, range(1, 50), axis)


def _border(i):
    return (i % 50 in (0, 49)) + (i // 50 in (0, 49))


def _labelled_neighbours(inside, i):
    r, c = divmod(i, 50)
    near = [(r + 1, c), (r - 1, c), (r, c + 1), (r, c - 1)]
    return sum(bool(inside[p]) for p in near if 0 <= p[0] < 50 and 0 <= p[1] < 50)


def test_labels_reach_every_point_of_the_moons():
    problem = paper.two_moons(300, 20, 0)
    assert problem.n_variables == 280
    x = np.linalg.solve(problem.A.toarray(), problem.b)
    assert np.abs(x).max() <= 1 + 1e-9  # a harmonic function has its extremes at the labels
    assert paper.harmonic(problem) == pytest.approx(problem.objective(x), rel=1e-9)


def test_components_are_joined_by_their_closest_points():
    points = np.array([[0.0], [1.0], [5.0], [6.0], [20.0]])
    W = sp.csr_array(([1.0, 1, 1, 1], ([0, 1, 2, 3], [1, 0, 3, 2])), shape=(5, 5))
    joined = paper._joined(W, points)
    assert connected_components(joined, directed=False)[0] == 1
    assert set(zip(*(joined - W).nonzero(), strict=True)) == {(1, 2), (2, 1), (3, 4), (4, 3)}


def test_a_curve_starts_at_1_and_counts_iterations():
    problem = paper.least_squares(30, 60, 0)
    curve = paper.Curve(
        problem, 0.0, 20, 0, every=5, block_size=5, blocks="variable", selection="gsd",
        update="matrix",
    )  # fmt: skip
    assert curve.nit.tolist() == [0, 5, 10, 15, 20]
    assert curve.excess[0] == 1.0
    ratio = curve.result.fun / problem.objective(np.zeros(60))
    assert curve.excess[-1] == pytest.approx(ratio, rel=1e-9)
    assert curve.first_below(2.0) == 0
    assert curve.first_below(0.0) == 21


def test_a_statement_that_is_wrong_is_out_of_its_band():
    class Fixed:
        def __init__(self, last):
            self.last = last

    good, bad = paper._rows(
        "x", {"a": Fixed(1e-3), "b": Fixed(1e-2)}, [("a", "b", ""), ("b", "a", "")]
    )
    assert (good.verdict, bad.verdict) == ("within", "out")
