"""Monotone inclusions: signs, constants, certificates, terms, bad inputs."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import scipy.linalg as la
import scipy.sparse as sp

from lowrank_opt.core import ParameterError, ProblemError
from lowrank_opt.core.errors import AccuracyWarning
from lowrank_opt.monotone import problems_suite
from lowrank_opt.monotone.inclusion import MonotoneInclusion, affine_resolvent, matrix_norm
from lowrank_opt.monotone.matrix_game import MatrixGame
from lowrank_opt.testing import check_problem

ROTATION = np.array([[0.0, 1.0], [-1.0, 0.0]])


def spread(n=6, seed=0):
    B = np.random.default_rng(seed).standard_normal((n, n))
    return B @ B.T / n + 0.1 * np.eye(n)


def clip(x, step):
    return np.clip(x, -1.0, 1.0)


@pytest.mark.parametrize(("name", "problem"), list(problems_suite.suite()))
def test_operators_of_the_suite_are_monotone_and_lipschitz(name, problem):
    rng = np.random.default_rng(3)
    for _ in range(10):
        u, v = rng.standard_normal((2, problem.size))
        change = problem.operator(u) - problem.operator(v)
        assert change @ (u - v) >= -1e-12 * np.linalg.norm(change)
        assert np.linalg.norm(change) <= problem.lipschitz * np.linalg.norm(u - v) * (1 + 1e-9)
        if problem.cocoercive:
            assert change @ (u - v) >= change @ change / problem.lipschitz * (1 - 1e-9)


def test_a_wrong_sign_warns_and_a_right_one_does_not():
    H = np.diag([1.0, 2.0])

    def saddle(sign):
        return lambda u: np.r_[H @ u[:2] + u[2:], sign * (u[:2] - H @ u[2:])]

    with pytest.warns(AccuracyWarning, match="not monotone"):
        MonotoneInclusion(saddle(1.0), np.ones(4))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        MonotoneInclusion(saddle(-1.0), np.ones(4))


def test_constants_of_affine_operators():
    M = spread()
    problem = MonotoneInclusion((M, np.ones(6)), np.zeros(6))
    assert problem.lipschitz == pytest.approx(la.norm(M, 2), rel=1e-12)
    assert problem.cocoercive
    assert not MonotoneInclusion((ROTATION, np.zeros(2)), np.ones(2)).cocoercive
    # A rotation by less, with enough of the identity, is cocoercive.
    assert MonotoneInclusion((np.eye(2) + 0.0 * ROTATION, np.zeros(2)), np.ones(2)).cocoercive


def test_sampled_constant_has_a_margin_and_is_never_far_above():
    M = spread()
    problem = MonotoneInclusion(lambda x: M @ x, np.ones(6))
    assert 0.75 * la.norm(M, 2) <= problem.lipschitz <= 1.5 * la.norm(M, 2) * (1 + 1e-12)


def test_norm_of_a_large_sparse_matrix():
    D = sp.diags_array(np.linspace(0.0, 3.0, 2000))
    assert 3.0 <= matrix_norm(sp.csr_array(D)) <= 3.0 * 1.02


def test_certificate_without_and_with_a_prox():
    M, q = spread(), np.linspace(-2.0, 2.0, 6)
    x = np.full(6, 0.3)
    free = MonotoneInclusion((M, q), np.zeros(6)).certificate(x)
    assert free.details["natural_residual"] == pytest.approx(la.norm(M @ x + q), rel=1e-12)
    assert free.residual == pytest.approx(la.norm(M @ x + q) / la.norm(q), rel=1e-12)
    boxed = MonotoneInclusion((M, q), np.zeros(6), prox=clip)
    L = boxed.lipschitz
    by_hand = L * (x - np.clip(x - (M @ x + q) / L, -1.0, 1.0))
    assert boxed.certificate(x).details["natural_residual"] == pytest.approx(la.norm(by_hand))
    assert boxed.measure(x) == pytest.approx(boxed.certificate(x).residual, rel=1e-13)


def test_element_after_a_step_belongs_to_the_operator():
    M, q = spread(), np.linspace(-2.0, 2.0, 6)
    problem = MonotoneInclusion((M, q), np.zeros(6), prox=clip)
    x = np.full(6, 0.3)
    L = problem.lipschitz
    moved = np.clip(x - (M @ x + q) / L, -1.0, 1.0)
    w = L * (x - moved) - (M @ x + q)  # in the normal cone of the box at `moved`
    assert np.all(w[moved == 1.0] >= 0)
    assert np.all(w[moved == -1.0] <= 0)
    assert np.allclose(w[np.abs(moved) < 1.0], 0.0, atol=1e-12)
    size = problem.certificate(x).details["inclusion_residual_after_a_step"]
    assert size == pytest.approx(la.norm(M @ moved + q + w), rel=1e-12)


@pytest.mark.parametrize("probabilities", [None, "sizes"])
def test_terms_are_unbiased(probabilities):
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((7, 3)), rng.standard_normal(7)
    problem = MonotoneInclusion(
        None, np.zeros(3), components=lambda x, i: a[i] * (a[i] @ x - b[i])[:, None], n_terms=7,
        cocoercive=True,
    )  # fmt: skip
    q = None if probabilities is None else la.norm(a, axis=1) / la.norm(a, axis=1).sum()
    u, v = rng.standard_normal((2, 3))
    F = a.T @ (a @ u - b) / 7
    assert np.allclose(problem.operator(u), F)
    chance = np.full(7, 1 / 7) if q is None else q
    each = [problem.sample_operator(u, np.array([i]), q) for i in range(7)]
    assert np.allclose(chance @ np.stack(each), F)
    index = np.array([2, 2, 5])
    difference = problem.sample_operator(u, index, q) - problem.sample_operator(v, index, q)
    assert np.allclose(problem.sample_difference(u, v, index, q), difference)


def test_affine_terms_are_unbiased():
    M, q = spread(), np.linspace(-1.0, 1.0, 6)
    problem = MonotoneInclusion((sp.csr_array(M), q), np.zeros(6))
    x = np.random.default_rng(0).standard_normal(6)
    each = np.stack([problem.sample_operator(x, np.array([i])) for i in range(6)])
    assert np.allclose(each.mean(axis=0), M @ x + q)


@pytest.mark.parametrize("wrap", [np.asarray, sp.csr_array, sp.coo_array])
def test_exact_resolvent(wrap):
    M, q = (
        spread() + 2.0 * np.triu(np.ones((6, 6)), 1) - 2.0 * np.tril(np.ones((6, 6)), -1),
        np.ones(6),
    )
    problem = MonotoneInclusion((wrap(M), q), np.zeros(6))
    z = np.arange(6.0)
    u = affine_resolvent(problem, 0.7)(z)
    assert np.allclose(u + 0.7 * (M @ u + q), z, atol=1e-13)


def test_an_exact_resolvent_needs_an_affine_operator_alone():
    boxed = MonotoneInclusion((spread(), np.ones(6)), np.zeros(6), prox=clip)
    for problem in (boxed, MonotoneInclusion(lambda x: x, np.ones(2))):
        with pytest.raises(ParameterError, match="prox"):
            affine_resolvent(problem, 1.0)


def test_float32_is_kept_and_certified_in_float64():
    M = spread().astype(np.float32)
    problem = MonotoneInclusion((M, np.ones(6, np.float32)), np.zeros(6, np.float32))
    assert problem.operator(problem.start()).dtype == np.float32
    x = np.full(6, 1 / 3)
    residual = problem.certificate(x).residual
    x32 = np.full(6, np.float32(1 / 3), np.float64)
    exact = la.norm(M.astype(np.float64) @ x32 + 1.0) / np.sqrt(6.0)
    assert residual == pytest.approx(exact, rel=1e-12)


def test_the_exact_saddle_of_ouyang_and_xu():
    problem, answer = problems_suite.ouyang_xu(30)
    assert problem.certificate(answer).residual <= 1e-11
    n = 30
    A = -problem.affine[0][:n, n:].T
    assert A[0, n - 1] == 0.25
    assert A[0, n - 2] == -0.25
    assert np.allclose(A @ answer[:n], 0.25)


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: MonotoneInclusion(None, np.ones(2)), ProblemError, "F is None"),
        (lambda: MonotoneInclusion(3.0, np.ones(2)), TypeError, "F is a float"),
        (lambda: MonotoneInclusion(lambda x: x[1:], np.ones(2)), ProblemError, "F returned shape"),
        (lambda: MonotoneInclusion(lambda x: x / 0.0, np.zeros(2)), ProblemError, "NaN"),
        (lambda: MonotoneInclusion((ROTATION, np.ones(3)), np.ones(2)), ProblemError, r"\(3,\)"),
        (lambda: MonotoneInclusion((np.ones((2, 3)), np.ones(2)), np.ones(2)), ProblemError, "M"),
        (lambda: MonotoneInclusion((ROTATION * np.nan, np.ones(2)), np.ones(2)), ProblemError, "M"),
        (lambda: MonotoneInclusion((ROTATION,), np.ones(2)), ProblemError, "1 parts"),
        (lambda: MonotoneInclusion(lambda x: x, np.ones(2), lipschitz=0), ValueError, "lipschitz"),
        (lambda: MonotoneInclusion(lambda x: x, np.ones(2), lipschitz=-1), ValueError, "lipschitz"),
        (lambda: MonotoneInclusion(lambda x: x, np.ones(2), prox=1), TypeError, "prox"),
        (
            lambda: MonotoneInclusion(None, np.ones(2), components=lambda x, i: x),
            ProblemError, "n_terms",
        ),
        (
            lambda: MonotoneInclusion(None, np.ones(2), components=lambda x, i: x, n_terms=3),
            ProblemError, "components returned shape",
        ),
        (
            lambda: MonotoneInclusion(None, np.ones(2), components=lambda x, i: x, n_terms=0),
            ValueError, "n_terms",
        ),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:invalid value")
def test_bad_inputs(call, error, match):
    with pytest.raises(error, match=match):
        call()


def test_common_checks():
    rng = np.random.default_rng(0)
    for problem in (
        MonotoneInclusion((spread(), np.ones(6)), np.zeros(6)),
        MonotoneInclusion((spread(), np.ones(6)), np.zeros(6), prox=clip),
    ):
        other = MonotoneInclusion((spread(seed=1), np.ones(6)), np.zeros(6))
        check_problem(problem, *rng.standard_normal((2, 6)), other=other)


def test_the_suite_has_twenty_problems_of_both_kinds():
    problems = dict(problems_suite.suite())
    assert len(problems) == 20
    assert sum(isinstance(p, MatrixGame) for p in problems.values()) == 8


def terms_of(centre):
    return lambda x, index: (x - centre) * np.ones((len(index), 1))


def test_terms_whose_sum_is_given_for_their_mean_are_refused():
    centre = np.arange(3.0)
    with pytest.raises(ProblemError, match="not their sum"):
        MonotoneInclusion(
            lambda u: 400 * (u - centre), np.zeros(3), components=terms_of(centre), n_terms=400
        )
    MonotoneInclusion(lambda u: u - centre, np.zeros(3), components=terms_of(centre), n_terms=3000)
    for dtype in (np.float32, np.float64):  # large terms that cancel
        rng = np.random.default_rng(0)
        shifts = 1e4 * rng.standard_normal((500, 3))
        shifts -= shifts.mean(axis=0)
        MonotoneInclusion(
            lambda u: u, np.ones(3, dtype), components=lambda x, i, s=shifts: x + s[i], n_terms=500
        )


def test_terms_that_do_not_exist_are_named():
    data = np.ones((5, 3))
    with pytest.raises(ProblemError, match="n_terms - 1 = 8"):
        MonotoneInclusion(None, np.zeros(3), components=lambda x, i: data[i] * x, n_terms=9)


def test_operators_are_not_sampled_outside_of_the_resolvent():
    def F(u):
        assert u.min() > 0.0
        return np.log(u)

    MonotoneInclusion(F, np.ones(3), prox=lambda u, step: np.clip(u, 0.1, 5.0))
