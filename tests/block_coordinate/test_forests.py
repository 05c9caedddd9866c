"""Forests: the definitions in plain Python, dense and banded solvers, theorems, bad input."""

from __future__ import annotations

import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import solveh_banded
from scipy.sparse.csgraph import connected_components

from lowrank_opt.block_coordinate import forests, kernels_forests
from lowrank_opt.block_coordinate import reference_forests as ref
from lowrank_opt.block_coordinate.forests import (
    Forest,
    bounded_fill,
    greedy_forest,
    is_forest,
    lattice_checkerboard,
    lattice_combs,
    random_forest,
    red_black,
    solve_forest,
    solve_sparse_block,
    tree_partition,
)
from lowrank_opt.core.errors import ParameterError, ProblemError


def matrix(edges, n, seed=0, dtype=np.float64):
    """Symmetric, diagonally dominant, with random signs, on a graph given by its edges."""
    rng = np.random.default_rng(seed)
    A = np.zeros((n, n))
    for i, j in edges:
        if i != j:
            A[i, j] = A[j, i] = rng.uniform(0.5, 2.0) * rng.choice([-1.0, 1.0])
    A += np.diag(np.abs(A).sum(axis=1) + rng.uniform(0.01, 1.0, n))
    return sp.csr_array(A.astype(dtype))


def lattice(r, c):
    """Matrix of the lattice, columns first: 5 on the diagonal, -1 between neighbours."""

    def chain(n):
        return sp.diags_array([np.ones(n - 1), np.ones(n - 1)], offsets=(-1, 1), shape=(n, n))

    joined = sp.kron(sp.eye_array(c), chain(r)) + sp.kron(chain(c), sp.eye_array(r))
    return (5 * sp.eye_array(r * c) - joined).tocsr()


def random_tree(n, rng):
    return [(int(rng.integers(v)), v) for v in range(1, n)]


def edges_inside(A, nodes):
    part = A[nodes][:, nodes]
    return (part.nnz - np.count_nonzero(part.diagonal())) // 2


def assert_forest(A, nodes):
    """|E_b| = |b| - number of components, both counted by scipy."""
    parts = connected_components(A[nodes][:, nodes], directed=False)[0] if len(nodes) else 0
    assert edges_inside(A, nodes) == len(nodes) - parts


@st.composite
def graphs(draw, most=14):
    n = draw(st.integers(1, most))
    pairs = st.tuples(st.integers(0, n - 1), st.integers(0, n - 1))
    edges = draw(st.lists(pairs, max_size=3 * n))
    return matrix(edges, n, seed=draw(st.integers(0, 99))), n


# -- elimination ---------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("k", [None, 1, 3])
def test_a_forest_is_solved_as_a_dense_matrix_is(k, dtype):
    rng = np.random.default_rng(1)
    for n in (1, 2, 7, 60, 300):
        A = matrix(random_tree(n, rng), n, seed=n, dtype=dtype)
        nodes = rng.permutation(n)[: max(1, 3 * n // 4)]
        rhs = rng.standard_normal((len(nodes),) if k is None else (len(nodes), k))
        dense = A.toarray().astype(np.float64)[np.ix_(nodes, nodes)]
        expected = np.linalg.solve(dense, rhs)
        found = solve_forest(A, rhs, nodes)
        assert found.shape == rhs.shape
        scale = np.abs(expected).max()
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12 * scale)


def test_a_chain_is_solved_as_a_banded_matrix_is():
    rng = np.random.default_rng(2)
    n = 500
    off = rng.standard_normal(n - 1)
    main = np.abs(np.r_[off, 0]) + np.abs(np.r_[0, off]) + 0.1
    A = sp.diags_array([off, main, off], offsets=(-1, 0, 1)).tocsr()
    b = rng.standard_normal(n)
    expected = solveh_banded(np.vstack([np.r_[0.0, off], main]), b)
    np.testing.assert_allclose(solve_forest(A, b, np.arange(n)), expected, rtol=1e-10)


def test_an_ordered_forest_serves_other_values_and_many_right_hand_sides():
    rng = np.random.default_rng(3)
    A = matrix(random_tree(40, rng), 40)
    nodes = np.arange(0, 40, 2)
    forest = Forest.of(A, nodes)
    other = A.copy()
    other.data = other.data * np.where(np.abs(other.data) < 1, 0.3, 2.0)
    other = other + sp.diags_array(np.full(40, 5.0))
    for B in (A, other):
        rhs = rng.standard_normal((20, 5))
        dense = B.toarray()[np.ix_(nodes, nodes)]
        np.testing.assert_allclose(forest.factor(B).solve(rhs), np.linalg.solve(dense, rhs))
        np.testing.assert_array_equal(solve_forest(B, rhs, forest), solve_forest(B, rhs, nodes))
        np.testing.assert_array_equal(forest.factor(B.data).solve(rhs), forest.factor(B).solve(rhs))
    assert forest.n_trees == connected_components(A[nodes][:, nodes])[0]
    assert len(forest) == 20


def test_the_elimination_is_the_one_in_plain_python():
    rng = np.random.default_rng(4)
    A = matrix(random_tree(80, rng), 80)
    forest = Forest.of(A, rng.permutation(80)[:60])
    factored, rhs = forest.factor(A), rng.standard_normal((60, 2))
    pivots, multipliers = ref.factor_forest(A.data, forest.parents, forest.edges, forest.diagonal)
    np.testing.assert_allclose(factored.pivots, pivots, rtol=1e-13)
    np.testing.assert_allclose(factored.multipliers, multipliers, rtol=1e-13)
    expected = ref.solve_forest(forest.order, forest.parents, pivots, multipliers, rhs)
    np.testing.assert_allclose(factored.solve(rhs), expected, rtol=1e-13)


def test_children_are_eliminated_before_their_parents():
    A = matrix(random_tree(200, np.random.default_rng(5)), 200)
    forest = Forest.of(A, np.arange(200))
    up = forest.parents
    assert (up[up >= 0] > np.flatnonzero(up >= 0)).all()
    assert sorted(forest.order) == list(range(200))


def test_no_right_hand_side_and_no_nodes_are_no_trouble():
    A = lattice(3, 3)
    assert solve_forest(A, np.zeros((0,)), []).shape == (0,)
    assert solve_forest(A, np.zeros((3, 0)), [0, 1, 2]).shape == (3, 0)
    assert is_forest(A, [])
    assert solve_sparse_block(A, np.zeros((0, 2)), []).shape == (0, 2)


def test_a_matrix_that_is_not_definite_names_the_pivot():
    A = lattice(1, 4).tolil()
    A[2, 2] = -3.0
    for solve in (solve_forest, solve_sparse_block):
        with pytest.raises(np.linalg.LinAlgError, match="index 2 is -3"):
            solve(A.tocsr(), np.ones(2), [0, 2])
    A[2, 2] = 0.0
    with pytest.raises(np.linalg.LinAlgError, match="index 2 is 0"):
        solve_forest(A.tocsr(), np.ones(2), [2, 0])
    stored = A.tocsr()
    stored.eliminate_zeros()
    with pytest.raises(np.linalg.LinAlgError, match="index 2 is 0"):
        solve_forest(stored, np.ones(2), [2, 0])
    # Positive diagonal, but not definite: [[1, 2], [2, 1]] has pivots 1 and -3.
    B = sp.csr_array([[1.0, 2.0], [2.0, 1.0]])
    for solve in (solve_forest, solve_sparse_block):
        with pytest.raises(np.linalg.LinAlgError, match="not positive definite"):
            solve(B, np.ones(2), [0, 1])


@pytest.mark.parametrize("n", [3, 4, 11])
def test_a_cycle_is_refused(n):
    ring = matrix([(i, (i + 1) % n) for i in range(n)], n)
    with pytest.raises(ProblemError, match=rf"{n} nodes of the block have a cycle"):
        solve_forest(ring, np.ones(n), np.arange(n))
    assert not is_forest(ring, np.arange(n))
    assert is_forest(ring, np.arange(n - 1))


# -- choosing forests ----------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(graphs(), st.integers(0, 10**6))
def test_the_forest_is_that_of_the_definition_and_cannot_grow(graph, seed):
    A, n = graph
    scores = np.random.default_rng(seed).integers(0, 5, n).astype(float)  # with ties
    nodes = greedy_forest(A, scores)
    order = sorted(range(n), key=lambda i: (-scores[i], i))
    assert set(nodes.tolist()) == ref.select_forest(ref.neighbours(A), order)
    assert_forest(A, nodes)
    assert is_forest(A, nodes)
    for other in np.setdiff1d(np.arange(n), nodes):
        assert not is_forest(A, np.append(nodes, other))
    positive = greedy_forest(A, scores, skip_zeros=True)
    chosen = ref.select_forest(ref.neighbours(A), [i for i in order if scores[i] != 0])
    assert set(positive.tolist()) == chosen


@settings(max_examples=60, deadline=None)
@given(graphs(), st.integers(0, 10**6))
def test_is_forest_and_the_solve_agree_with_counting_edges(graph, seed):
    A, n = graph
    rng = np.random.default_rng(seed)
    nodes = rng.permutation(n)[: rng.integers(1, n + 1)]
    parts = connected_components(A[nodes][:, nodes], directed=False)[0]
    tree = edges_inside(A, nodes) == len(nodes) - parts
    assert is_forest(A, nodes) == tree
    rhs = rng.standard_normal(len(nodes))
    if not tree:
        with pytest.raises(ProblemError, match="cycle"):
            solve_forest(A, rhs, nodes)
        return
    expected = np.linalg.solve(A.toarray()[np.ix_(nodes, nodes)], rhs)
    np.testing.assert_allclose(solve_forest(A, rhs, nodes), expected, rtol=0, atol=1e-10)


def test_a_node_of_high_degree_is_handled():
    # The hub of a wheel without rim comes last: it joins 40 trees; with one spoke doubled by a
    # path between two leaves it closes a cycle, and stays out.
    star = [(0, i) for i in range(1, 41)]
    for edges in (star, [*star, (3, 40)]):
        A = matrix(edges, 41)
        scores = np.arange(41.0)
        expected = ref.select_forest(ref.neighbours(A), np.argsort(-scores).tolist())
        assert set(greedy_forest(A, scores).tolist()) == expected
        assert (0 in expected) == (edges is star)


def test_a_large_random_graph_gives_the_forest_of_the_definition():
    rng = np.random.default_rng(6)
    n = 800
    A = matrix(rng.integers(0, n, (1600, 2)).tolist(), n)
    scores = rng.standard_normal(n)
    expected = ref.select_forest(ref.neighbours(A), np.argsort(-scores).tolist())
    assert set(greedy_forest(A, scores).tolist()) == expected


def test_equal_scores_go_by_index():
    # More than a few numbers, so that numpy's unstable sort moves equal ones.
    for seed in range(3):
        scores = np.random.default_rng(seed).integers(0, 20, 3000).astype(float)
        expected = np.argsort(-scores, kind="stable")
        np.testing.assert_array_equal(forests._descending(scores), expected)
    complete = sp.csr_array(np.full((40, 40), -1.0) + 50 * np.eye(40))
    assert greedy_forest(complete, np.ones(40)).tolist() == [0, 1]


def test_a_random_forest_is_maximal_and_comes_from_the_generator():
    A = lattice(9, 8)
    nodes = random_forest(A, np.random.default_rng(7))
    np.testing.assert_array_equal(nodes, random_forest(A, np.random.default_rng(7)))
    assert not np.array_equal(nodes, random_forest(A, np.random.default_rng(8)))
    assert_forest(A, nodes)
    for other in np.setdiff1d(np.arange(72), nodes):
        assert not is_forest(A, np.append(nodes, other))


# -- partitions ----------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(graphs(), st.integers(0, 10**6))
def test_every_block_of_a_tree_partition_is_a_forest(graph, seed):
    A, n = graph
    order = np.random.default_rng(seed).permutation(n)
    labels = tree_partition(A, order)
    assert labels.tolist() == ref.partition_forests(ref.neighbours(A), order.tolist())
    for block in range(labels.max() + 1):
        assert_forest(A, np.flatnonzero(labels == block))
    degree = max(len(near) for near in ref.neighbours(A))
    assert labels.max() <= degree // 2


@settings(max_examples=60, deadline=None)
@given(graphs(), st.integers(0, 10**6))
def test_no_two_nodes_of_a_colour_are_joined(graph, seed):
    A, n = graph
    order = np.random.default_rng(seed).permutation(n)
    near = ref.neighbours(A)
    greedy = red_black(A, order, bipartite=False)
    assert greedy.tolist() == ref.color_greedily(near, order.tolist())
    for labels in (greedy, red_black(A, order)):
        assert all(labels[i] != labels[j] for i in range(n) for j in near[i])
        assert labels.max() <= max(map(len, near))
    # Two colours exactly where no closed walk is odd.
    walk = ((A.toarray() != 0) & ~np.eye(n, dtype=bool)).astype(float)
    odd, power, closed = walk, walk @ walk, False
    for _ in range(n):
        closed |= bool(np.trace(odd) > 0)
        odd = ((odd @ power) > 0).astype(float)
    assert (red_black(A, order).max() >= 2) == closed


def test_a_bipartite_graph_gets_two_colours_of_like_size_in_any_order():
    A = lattice(7, 9)
    rng = np.random.default_rng(9)
    more = 0
    for _ in range(5):
        order = rng.permutation(63)
        labels = red_black(A, order)
        assert np.bincount(labels).tolist() in ([31, 32], [32, 31])
        more = max(more, red_black(A, order, bipartite=False).max())
    assert more >= 2  # the published rule alone does not do that
    # Ten stars: their hubs and leaves are spread over both colours.
    star = sp.block_diag([matrix([(0, i) for i in range(1, 5)], 5)] * 10, format="csr")
    assert np.bincount(red_black(sp.csr_array(star))).tolist() == [25, 25]


def test_partitions_begin_with_the_largest_diagonal_by_default():
    A = matrix([(0, 1), (1, 2), (2, 0), (2, 3)], 4)
    order = np.argsort(-A.diagonal())
    np.testing.assert_array_equal(tree_partition(A), tree_partition(A, order))
    np.testing.assert_array_equal(red_black(A), red_black(A, order))
    assert red_black(A)[order[0]] == 0


@pytest.mark.parametrize(("r", "c"), [(1, 1), (1, 6), (2, 2), (2, 5), (5, 2), (6, 7), (7, 6)])
def test_the_blocks_of_a_lattice_are_two_colours_and_two_trees(r, c):
    A = lattice(r, c)
    board = lattice_checkerboard(r, c).reshape(c, r).T
    assert all(board[i, j] == (i + j) % 2 for i in range(r) for j in range(c))
    combs = lattice_combs(r, c)
    for block in range(combs.max() + 1):
        nodes = np.flatnonzero(combs == block)
        assert edges_inside(A, nodes) == len(nodes) - 1  # one tree
        assert connected_components(A[nodes][:, nodes])[0] == 1


def test_the_combs_interlock():
    combs = lattice_combs(4, 5).reshape(5, 4).T
    assert combs.tolist() == [
        [0, 0, 0, 0, 0],
        [0, 1, 0, 1, 0],
        [0, 1, 0, 1, 0],
        [1, 1, 1, 1, 1],
    ]


def sweep_radius(A, labels):
    """Spectral radius of one sweep of exact updates of the blocks of a partition."""
    n = A.shape[0]
    E = np.eye(n)
    for block in range(labels.max() + 1):
        nodes = np.flatnonzero(labels == block)
        E[nodes] -= solve_forest(A, np.ascontiguousarray((A @ E)[nodes]), nodes)
    return np.abs(np.linalg.eigvals(E)).max()


@pytest.mark.parametrize("shape", [(5, 6), (8, 3), (1, 12)])
def test_two_colours_square_the_radius_of_jacobi(shape):
    # Young's theorem for consistently ordered matrices.
    A = lattice(*shape)
    rng = np.random.default_rng(10)
    scale = sp.diags_array(rng.uniform(0.5, 2.0, A.shape[0]))
    A = (scale @ A @ scale).tocsr()
    jacobi = np.eye(A.shape[0]) - A.toarray() / A.diagonal()[:, None]
    expected = np.abs(np.linalg.eigvals(jacobi)).max() ** 2
    assert sweep_radius(A, red_black(A)) == pytest.approx(expected, rel=1e-7)
    assert sweep_radius(A, lattice_combs(*shape)) < 0.8 * expected  # trees do better


# -- bounded fill --------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(graphs(), st.integers(0, 5), st.integers(0, 10**6))
def test_every_step_of_bounded_fill_is_one_the_rule_allows(graph, width, seed):
    A, n = graph
    scores = np.random.default_rng(seed).standard_normal(n)
    events, kept = forests._bounded(A, scores, width)
    near, left = ref.neighbours(A), set(range(n))
    for node, eliminated in zip(events.tolist(), kept.tolist(), strict=True):
        least = min(len(near[j]) for j in left)
        if eliminated:
            assert len(near[node]) == least <= width
        else:
            assert least > width
            assert scores[node] == min(scores[j] for j in left)
        ref.join_neighbours(near, node, eliminated)
        left.remove(node)
    assert not left
    np.testing.assert_array_equal(bounded_fill(A, scores, width), np.sort(events[kept]))


def test_the_bounds_0_and_1_give_an_independent_set_and_a_forest():
    rng = np.random.default_rng(11)
    A, scores = lattice(12, 12), rng.standard_normal(144)
    assert edges_inside(A, bounded_fill(A, scores, 0)) == 0
    assert_forest(A, bounded_fill(A, scores, 1))
    sizes = [bounded_fill(A, scores, width).size for width in (0, 1, 2, 4, 8, 143)]
    assert sizes == sorted(sizes)
    assert sizes[-1] == 144
    assert sizes[1] < sizes[3]


def test_a_dense_graph_makes_the_pool_of_edges_grow():
    n = 30
    # A star of paths: eliminating the hubs first is never least; a random sparse graph fills in.
    rng = np.random.default_rng(12)
    A = matrix(rng.integers(0, n, (70, 2)).tolist(), n)
    events, kept = forests._bounded(A, rng.standard_normal(n), n)
    assert kept.all()
    near = ref.neighbours(A)
    fill = sum(ref.join_neighbours(near, v, True) for v in events.tolist())
    assert 2 * fill > A.nnz - n


@pytest.mark.parametrize("k", [None, 3])
def test_a_sparse_block_is_solved_as_a_dense_matrix_is(k):
    rng = np.random.default_rng(13)
    A = matrix(rng.integers(0, 90, (200, 2)).tolist(), 90)
    nodes = rng.permutation(bounded_fill(A, rng.standard_normal(90), 6))
    rhs = rng.standard_normal(nodes.size if k is None else (nodes.size, k))
    expected = np.linalg.solve(A.toarray()[np.ix_(nodes, nodes)], rhs)
    np.testing.assert_allclose(solve_sparse_block(A, rhs, nodes), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("modern", [True, False])
def test_cholmod_is_used_where_it_is_installed(monkeypatch, modern):
    # A stand-in with the interface of scikit-sparse 0.5, or of those before.
    class Failure(Exception):
        pass

    calls = []

    def solver(part):
        calls.append(part.shape)
        try:
            np.linalg.cholesky(part.toarray())
        except np.linalg.LinAlgError:
            raise Failure from None
        return lambda rhs: np.linalg.solve(part.toarray(), rhs)

    def cho_factor(part):
        return SimpleNamespace(solve=solver(part))

    given = {"cho_factor": cho_factor} if modern else {"cholesky": solver}
    cholmod = SimpleNamespace(CholmodError=Failure, **given)
    monkeypatch.setitem(sys.modules, "sksparse", SimpleNamespace(cholmod=cholmod))
    A, nodes, rhs = lattice(5, 5), np.arange(20), np.arange(20.0)
    expected = np.linalg.solve(A.toarray()[:20, :20], rhs)
    np.testing.assert_allclose(solve_sparse_block(A, rhs, nodes), expected, rtol=1e-12)
    with pytest.raises(np.linalg.LinAlgError, match="index"):
        solve_sparse_block(A - 9 * sp.eye_array(25), rhs, nodes)
    assert calls == [(20, 20)] * 2


# -- bad input -----------------------------------------------------------------------------------


def test_bad_input_is_named():
    A = lattice(3, 3)
    with pytest.raises(ProblemError, match="csr_array"):
        solve_forest(A.toarray(), np.ones(1), [0])
    with pytest.raises(ProblemError, match="csr_array"):
        solve_forest(A.tocsc(), np.ones(1), [0])
    with pytest.raises(ProblemError, match=r"shape \(3, 9\)"):
        is_forest(A[:3], [0])
    with pytest.raises(ProblemError, match="5 is listed twice"):
        Forest.of(A, [5, 1, 5])
    with pytest.raises(ProblemError, match="9 is out of range"):
        Forest.of(A, [5, 9])
    with pytest.raises(ProblemError, match="vector of integers"):
        is_forest(A, [0.5])
    with pytest.raises(ProblemError, match=r"rhs has shape \(3,\)"):
        solve_forest(A, np.ones(3), [0, 1])
    with pytest.raises(ProblemError, match=r"rhs has shape \(3,\)"):
        solve_sparse_block(A, np.ones(3), [0, 1])
    with pytest.raises(ProblemError, match=r"scores has shape \(8,\)"):
        greedy_forest(A, np.ones(8))
    with pytest.raises(ProblemError, match=r"scores\[4\] is NaN"):
        greedy_forest(A, np.where(np.arange(9) == 4, np.nan, 1.0))
    with pytest.raises(ProblemError, match="each of the 9 nodes once"):
        tree_partition(A, [0, 1, 2, 3, 4, 5, 6, 7, 7])
    with pytest.raises(ProblemError, match="each of the 9 nodes once"):
        red_black(A, [0, 1])
    for bad in (-1, 1.5, True):
        with pytest.raises(ParameterError, match="max_fill"):
            bounded_fill(A, np.ones(9), bad)
    with pytest.raises(ProblemError, match="not symmetric"):
        bounded_fill(sp.csr_array([[1.0, 1.0], [0.0, 1.0]]), np.ones(2), 1)
    with pytest.raises(ParameterError, match="r=0"):
        lattice_combs(0, 3)
    double = sp.csr_array((np.ones(2), np.array([0, 0]), np.array([0, 2])), shape=(1, 1))
    with pytest.raises(ProblemError, match="duplicate"):
        is_forest(double, [0])


def test_unsorted_and_64_bit_indices_are_fine():
    rng = np.random.default_rng(14)
    A = matrix(random_tree(30, rng), 30)
    order = np.concatenate([rng.permutation(np.arange(a, b)) for a, b in
                            zip(A.indptr[:-1], A.indptr[1:], strict=True)])  # fmt: skip
    B = sp.csr_array((A.data[order], A.indices[order].astype(np.int64), A.indptr.astype(np.int64)),
                     shape=A.shape)  # fmt: skip
    b = rng.standard_normal(30)
    np.testing.assert_allclose(solve_forest(B, b, np.arange(30)), solve_forest(A, b, np.arange(30)))
    np.testing.assert_array_equal(greedy_forest(B, b), greedy_forest(A, b))
    assert bounded_fill(B, b, 1).size == 30


@pytest.mark.parametrize("seed", range(3))
def test_a_pattern_that_is_not_symmetric_does_not_leave_the_arrays(seed):
    rng = np.random.default_rng(seed)
    A = sp.random_array((50, 50), density=0.08, rng=rng, format="csr") + sp.eye_array(50)
    A = A.tocsr()
    assert is_forest(A, np.arange(50)) in (True, False)
    assert greedy_forest(A, rng.standard_normal(50)).size <= 50
    assert tree_partition(A).min() == 0


# -- cost ----------------------------------------------------------------------------------------


def test_four_times_the_nodes_take_little_more_than_four_times_as_long():
    def cost(r):
        A, rng = lattice(r, r), np.random.default_rng(0)
        scores, best = rng.standard_normal(r * r), np.inf
        for _ in range(4):
            start = time.process_time()
            nodes = greedy_forest(A, scores)
            solve_forest(A, scores[nodes], nodes)
            best = min(best, time.process_time() - start)
        return best

    cost(10)
    assert cost(400) < 12 * cost(200)  # quadratic: 16; caches that are left cost up to 2


def test_kernels_have_few_signatures():
    """Data that may not be written are no reason to compile anew."""
    A = sp.csr_array(sp.diags_array([np.full(3, -1.0), np.full(4, 3.0), np.full(3, -1.0)],
                                    offsets=[-1, 0, 1]))  # fmt: skip
    for part in (A.data, A.indices, A.indptr):
        part.flags.writeable = False
    solve_forest(A, np.ones(4), greedy_forest(A, np.ones(4)))
    for name in ("select_forest", "partition_forests", "order_forest", "solve_factored"):
        assert len(getattr(kernels_forests, name).signatures) <= 1
    assert len(kernels_forests.factor_forest.signatures) <= 2  # float32 and float64 data
