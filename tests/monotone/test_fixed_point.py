"""Fixed-point problems: points, certificates, bad inputs."""

from __future__ import annotations

import numpy as np
import pytest

from lowrank_opt.core import ProblemError
from lowrank_opt.monotone.fixed_point import FixedPointProblem
from lowrank_opt.testing import check_problem


def half_turn(u):
    return -u


def test_certificate_is_the_residual_over_that_of_the_start():
    problem = FixedPointProblem(half_turn, np.ones(4))
    certificate = problem.certificate(np.full(4, 0.25))
    assert certificate.residual == pytest.approx(0.25)
    assert certificate.details["residual_norm"] == pytest.approx(2 * 0.25 * 2)
    assert problem.certificate(np.zeros(4)).residual == 0.0


def test_points_keep_shape_and_dtype_and_are_copies():
    start = np.ones((2, 3), np.float32)
    problem = FixedPointProblem(lambda u: 0.5 * u, start)
    start[:] = 7.0
    z = problem.start()
    assert z.dtype == np.float32
    assert np.array_equal(z, np.ones(6))
    z[:] = 3.0
    assert np.array_equal(problem.start(), np.ones(6))
    assert problem.shaped(z).shape == (2, 3)
    assert problem.certificate(np.ones((2, 3))).residual == pytest.approx(1.0)
    with pytest.raises(ValueError, match="read-only"):
        problem.x_start[0, 0] = 2.0


def test_measure_agrees_with_the_certificate():
    M = 0.3 * np.random.default_rng(0).standard_normal((5, 5))
    problem = FixedPointProblem(lambda u: M @ u + 1.0, np.zeros(5))
    x = np.arange(5.0)
    assert problem.measure(x) == pytest.approx(problem.certificate(x).residual, rel=1e-14)
    assert problem.measure(x, problem.fixed_point_map(x)) == problem.measure(x)
    assert problem.objective(x) == problem.certificate(x).objective


@pytest.mark.parametrize(
    ("T", "start", "error", "match"),
    [
        (lambda u: u[1:], np.ones(3), ProblemError, "T returned shape"),
        (lambda u: u * np.nan, np.ones(3), ProblemError, "NaN"),
        (lambda u: u * 1j, np.ones(3), TypeError, "complex"),
        (3.0, np.ones(3), TypeError, "T is a float"),
        (half_turn, [], ProblemError, "x_start is empty"),
        (half_turn, [1.0, np.nan], ProblemError, "x_start"),
        (half_turn, [1j], (ProblemError, TypeError), "x_start"),
    ],
)
def test_bad_inputs(T, start, error, match):
    with pytest.raises(error, match=match):
        FixedPointProblem(T, start)


def test_points_of_another_shape_are_refused():
    problem = FixedPointProblem(half_turn, np.ones(3))
    with pytest.raises(ProblemError, match=r"\(4,\).*\(3,\)"):
        problem.certificate(np.ones(4))


def test_common_checks():
    rng = np.random.default_rng(1)
    check_problem(
        FixedPointProblem(half_turn, np.ones(3)), *rng.standard_normal((2, 3)),
        other=FixedPointProblem(half_turn, 2.0 * np.ones(3)),
    )  # fmt: skip
