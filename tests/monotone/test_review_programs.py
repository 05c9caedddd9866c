"""Programs that were answered wrongly once."""

import numpy as np
import pytest
import scipy.sparse as sp

from lowrank_opt.core.state import Status
from lowrank_opt.monotone.halpern_pdhg import HalpernPDHG
from lowrank_opt.monotone.linear_program import LinearProgram
from lowrank_opt.monotone.scaling import compressed, operator_norm

INF = np.inf


@pytest.mark.parametrize("presolve", [True, False])
@pytest.mark.parametrize(
    "program",
    [
        LinearProgram([-1, -2], [[0, 1], [0, 1]], [3e-6, -INF], [6e-6, 2e-6], 0.0),
        LinearProgram([1, 0], [[0, 2e-11]], None, [-2e-7], [-INF, 0], [INF, 2e4]),
        LinearProgram(
            [-1, 0, 0], [[0, 1e-8, 1e-8], [0, 1e-8, 2e-8], [0, 1e4, 0]], [-INF, 6.1e-8, 2e4],
            [3e-8, INF, 2e4], 0.0,
        ),
        LinearProgram(
            [-1, 0, 0], [[1, -1, 0], [0, 0, 1e-8], [0, 0, 1e-8]], [0, 3e-8, -INF], [0, INF, 1e-8]
        ),
    ],
)  # fmt: skip
def test_small_rows_count_before_a_program_is_called_unbounded(program, presolve):
    # There is a direction of descent; that no point is feasible shows in rows of size 1e-8 only.
    result = HalpernPDHG(presolve=presolve, max_iter=20_000).solve(program)
    assert result.status is Status.INFEASIBLE
    assert program.farkas(result.ray).proved


def test_feasible_program_of_small_rows_is_unbounded():
    rows = [[0, 1e-8, 1e-8], [0, 1e-8, 2e-8], [0, 1e4, 0]]
    lp = LinearProgram([-1, 0, 0], rows, [-INF, 2.1e-8, 2e4], [3e-8, INF, 2e4], 0.0)
    assert HalpernPDHG(max_iter=20_000).solve(lp).status is Status.UNBOUNDED


def test_norm_is_not_taken_from_the_second_value():
    # Power iteration stands near 1.223 for a while; the step 1 / 1.247 would diverge.
    values = [
        [-0.75, 0, 0, 0, 0, 0.5], [0, -1, 0, 0, 0, 0], [0, 0.5, 0, 0, 0.25, 0],
        [0, 0.5, 0, 0, 0, 0.5], [0, 0, 1, 0, 0.75, 0],
    ]  # fmt: skip
    A = sp.csr_array(np.array(values))
    exact = float(np.linalg.norm(values, 2))
    for seed in range(20):
        found = operator_norm(compressed(A), compressed(A.T.tocsr()), np.random.default_rng(seed))
        assert exact <= 1.001 * found


def test_dust_does_not_hide_a_direction_of_descent():
    rows = [
        [0, 0, 0, 2, 0, 0, -3], [0, 0, 0, 0, 3, 0, 0], [1, 0, 1, 0, 1, 1, 0],
        [0, 0, 0, 0, 0, 0, 0], [0, 0, 0, 0, -2, 0, 0], [0, 0, 0, 0, 0, 1, 0],
    ]  # fmt: skip
    lp = LinearProgram(
        [0, -2, 1, 4, -3, -2, -2], rows, [-6, -4, -4, 0, -INF, 0], [-3, -2, INF, 0, 2, INF],
        [0, -INF, -INF, -INF, -INF, 0, 1], [INF, 4, 3, INF, 2, 1, 1],
    )  # fmt: skip
    result = HalpernPDHG(presolve=False, finish=False, max_iter=20_000).solve(lp)
    assert result.status is Status.UNBOUNDED
    assert lp.recession(result.ray).proved
