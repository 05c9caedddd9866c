"""Conjugate gradients: the conduct of all solvers, scipy, finite termination, bad matrices."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from scipy.sparse.linalg import cg

from lowrank_opt.block_coordinate import CompositeProblem, QuadraticProblem
from lowrank_opt.block_coordinate.conjugate import ConjugateGradients
from lowrank_opt.core.errors import UnsupportedProblemError
from lowrank_opt.core.state import Status
from lowrank_opt.numerics import L1
from lowrank_opt.testing import SOLVER_CHECKS, check_solver


def quadratic(dtype=np.float64, n=60, floor=0.05, seed=0, scale=1.0):
    rng = np.random.default_rng(seed)
    B = rng.standard_normal((n, n))
    A = B @ B.T / n + floor * np.eye(n)
    return QuadraticProblem(A.astype(dtype), scale * rng.standard_normal(n))


def test_it_passes_the_checks_of_all_solvers():
    names = [name for name in SOLVER_CHECKS if name != "backends"]  # quadratics are of numpy
    check_solver(ConjugateGradients(tol=1e-8), quadratic, checks=names)


def test_without_differences_in_the_diagonal_it_is_scipys():
    rng = np.random.default_rng(1)
    A = sp.random_array((80, 80), density=0.05, rng=rng)
    A = A + A.T
    A = sp.csr_array(A - sp.diags_array(A.diagonal()) + 5.0 * sp.eye_array(80))
    b = rng.standard_normal(80)
    iterates = []
    cg(A, b, rtol=1e-12, callback=lambda x: iterates.append(x.copy()))
    problem = QuadraticProblem(A, b)
    for k in (1, 2, 5, 9):
        result = ConjugateGradients(tol=0.0, max_iter=k).solve(problem)
        np.testing.assert_allclose(result.x, iterates[k - 1], rtol=1e-9)
        assert result.nit == k


def test_as_many_iterations_as_there_are_eigenvalues_are_enough():
    # A circulant matrix, whose diagonal is constant, with the eigenvalues 1 and 3.
    gains = np.tile([1.0, 3.0], 24)[:, None]
    C = np.fft.ifft(np.fft.fft(np.eye(48), axis=0) * gains, axis=0).real
    C = (C + C.T) / 2
    b = np.random.default_rng(2).standard_normal(48)
    result = ConjugateGradients(tol=1e-12).solve(QuadraticProblem(C, b))
    assert result.nit <= len(np.unique(np.linalg.eigvalsh(C).round(8)))
    np.testing.assert_allclose(result.x, np.linalg.solve(C, b), rtol=1e-9)


def test_units_of_the_variables_do_not_matter():
    problem = quadratic(n=50)
    s = np.random.default_rng(3).uniform(0.01, 100.0, 50)
    other = QuadraticProblem(s[:, None] * problem.A * s, s * problem.b)
    plain, scaled = (ConjugateGradients(tol=0.0, max_iter=4).solve(q) for q in (problem, other))
    np.testing.assert_allclose(s * scaled.x, plain.x, rtol=1e-9)


def test_rounding_ends_in_a_status():
    problem = quadratic(floor=1e-9, n=40)
    result = ConjugateGradients(tol=1e-16, max_iter=100_000).solve(problem)
    assert result.status is Status.STALLED
    assert "rounding" in result.message
    assert result.residual < 1e-6


def test_a_matrix_that_is_not_definite_is_an_error_of_the_run():
    A = np.array([[1.0, 3.0], [3.0, 1.0]])
    result = ConjugateGradients().solve(QuadraticProblem(A, [1.0, -1.0]))
    assert result.status is Status.NUMERICAL_ERROR
    assert "positive definite" in result.message


def test_variables_that_nothing_depends_on_stay():
    A = np.diag([2.0, 0.0, 4.0])
    result = ConjugateGradients().solve(QuadraticProblem(A, [2.0, 0.0, 4.0]), x0=[0.0, 7.0, 0.0])
    assert result.success
    np.testing.assert_allclose(result.x, [1.0, 7.0, 1.0], rtol=1e-12)


def test_other_problems_are_refused():
    with pytest.raises(UnsupportedProblemError, match="quadratic objective without penalty"):
        ConjugateGradients().solve(CompositeProblem(quadratic(), L1(0.1)))


def test_products_are_counted():
    result = ConjugateGradients(tol=1e-10).solve(quadratic())
    fresh = result.nit // 50 + 2  # the first one, every 50th, and the last one
    assert result.counts["products"] in (result.nit + fresh, result.nit + fresh - 1)
