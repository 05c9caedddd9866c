"""Partitions into fixed blocks: every rule, and labels and lists that are none."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

from lowrank_opt.block_coordinate import CompositeProblem, GLMProblem, QuadraticProblem
from lowrank_opt.block_coordinate.partition import PARTITIONS, make_partition
from lowrank_opt.core import ParameterError
from lowrank_opt.numerics import L1, GroupL1


def diagonal(values):
    return QuadraticProblem(np.diag(np.asarray(values, float)), np.ones(len(values)))


def lattice(rows, columns):
    """Laplacian of a lattice plus the identity."""

    def chain(n):
        return sp.diags_array([-np.ones(n - 1), -np.ones(n - 1)], offsets=(-1, 1), shape=(n, n))

    W = sp.kron(sp.eye_array(columns), chain(rows)) + sp.kron(chain(columns), sp.eye_array(rows))
    W = sp.csr_array(W)
    degrees = -np.asarray(W.sum(axis=1)).ravel()
    return QuadraticProblem(
        sp.csr_array(W + sp.diags_array(degrees + 1.0)), np.ones(rows * columns)
    )


def blocks_of(rule, problem, size):
    found = make_partition(rule, problem.smooth, problem.penalty, size)
    for number, block in enumerate(found.blocks):
        np.testing.assert_array_equal(found.labels[block], number)
        assert (np.diff(block) > 0).all()
    return [b.tolist() for b in found.blocks]


class TestRules:
    def test_order_cuts_consecutive_variables_with_a_shorter_last_block(self):
        assert blocks_of("order", diagonal(range(1, 8)), 3) == [[0, 1, 2], [3, 4, 5], [6]]

    def test_sort_puts_similar_constants_together(self):
        assert blocks_of("sort", diagonal([5, 1, 4, 2, 3]), 2) == [[1, 3], [2, 4], [0]]

    def test_avg_takes_the_smallest_and_the_largest_in_turn(self):
        # 1, 6 | 2, 5 | 3, 4: every block has the mean 3.5
        assert blocks_of("avg", diagonal([6, 1, 5, 2, 4, 3]), 2) == [[0, 1], [2, 3], [4, 5]]

    def test_hsort_and_havg_use_row_sums_of_the_bound(self):
        A = np.array([[3.0, 2.0, 0, 0], [2.0, 4.0, 0, 0], [0, 0, 4.5, 0], [0, 0, 0, 5.5]])
        problem = QuadraticProblem(A)  # row sums 5, 6, 4.5, 5.5; diagonal 3, 4, 4.5, 5.5
        assert blocks_of("hsort", problem, 2) == [[0, 2], [1, 3]]
        assert blocks_of("sort", problem, 2) == [[0, 1], [2, 3]]
        assert blocks_of("havg", problem, 2) == [[1, 2], [0, 3]]

    def test_color_has_no_coupling_inside_a_block(self):
        problem = lattice(4, 5)
        blocks = blocks_of("color", problem, 1)
        assert len(blocks) == 2
        for b in blocks:
            part = problem.A[b][:, b].toarray()
            np.testing.assert_array_equal(part, np.diag(np.diag(part)))

    def test_forest_has_no_cycle_inside_a_block(self):
        problem = lattice(5, 6)
        for b in blocks_of("forest", problem, 1):
            part = problem.A[b][:, b].copy()
            part.setdiag(0)
            part.eliminate_zeros()
            trees, _ = sp.csgraph.connected_components(part)
            assert part.nnz // 2 == len(b) - trees

    def test_groups_are_those_of_the_penalty_and_intercepts_stand_alone(self):
        rng = np.random.default_rng(0)
        smooth = GLMProblem(rng.standard_normal((9, 4)), rng.standard_normal(9), fit_intercept=True)
        problem = CompositeProblem(smooth, GroupL1(1.0, np.array([1, 0, 1, 0])))
        assert blocks_of("groups", problem, 1) == [[1, 3], [0, 2], [4]]

    def test_groups_of_rows_hold_all_outputs_of_the_row(self):
        rng = np.random.default_rng(0)
        smooth = GLMProblem(rng.standard_normal((9, 3)), rng.standard_normal((9, 2)))
        problem = CompositeProblem(smooth, GroupL1(1.0, np.array([0, 1, 0])))
        assert blocks_of("groups", problem, 1) == [[0, 1, 4, 5], [2, 3]]

    def test_labels_and_lists_of_the_user_are_taken_as_they_are(self):
        problem = diagonal(range(1, 6))
        assert blocks_of([1, 0, 1, 0, 2], problem, 1) == [[1, 3], [0, 2], [4]]
        assert blocks_of([[3, 1], [0, 2], [4]], problem, 1) == [[1, 3], [0, 2], [4]]

    def test_every_rule_is_in_the_table(self):
        expected = {"order", "sort", "avg", "hsort", "havg", "color", "forest", "groups"}
        assert set(PARTITIONS) == expected


class TestErrors:
    @pytest.mark.parametrize(
        ("blocks", "message"),
        [
            ([0, 1, 0], r"shape \(3,\); expected integers of shape \(4,\)"),
            ([0.0, 1.0, 0.0, 1.0], "dtype float64"),
            ([0, -1, 0, 1], r"blocks\[1\] = -1"),
            ([0, 2, 0, 2], "no variable with label 1"),
            ([[0, 1], [2]], "leave out variable 3"),
            ([[0, 1], [1, 2, 3]], "overlap: variable 1"),
            ([[0, 1], [2, 3, 3]], "overlap"),
            ([[0, 1], [2, 4]], "variable 4, out of range for 4"),
            ([[0, 1, 2, 3], [-1]], "variable -1"),
            ([[0, 1, 2, 3], []], r"blocks\[1\] must list variables"),
        ],
    )
    def test_blocks_that_are_no_partition_are_refused(self, blocks, message):
        with pytest.raises(ParameterError, match=message):
            make_partition(blocks, diagonal([1, 2, 3, 4]))

    @pytest.mark.parametrize("rule", ["color", "forest"])
    def test_graph_rules_need_a_sparse_quadratic(self, rule):
        with pytest.raises(ParameterError, match="graph of a sparse quadratic"):
            make_partition(rule, diagonal([1, 2]))

    def test_groups_need_a_penalty_of_groups(self):
        smooth = GLMProblem(np.eye(3), np.ones(3))
        with pytest.raises(ParameterError, match="GroupL1"):
            make_partition("groups", smooth, L1(1.0))
