"""Kernels that sample games and affine operators by columns, against plain NumPy."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import scipy.sparse as sp

from lowrank_opt.monotone import kernels_games, reference_games
from lowrank_opt.monotone.inclusion import MonotoneInclusion
from lowrank_opt.monotone.matrix_game import MatrixGame
from lowrank_opt.monotone.operator_terms import SampledTerms, draw, draw_tables, terms_of


def make_terms(kind, sampling):
    rng = np.random.default_rng(3)
    if kind == "affine":
        B = rng.standard_normal((12, 12))
        M = sp.csr_array(np.where(np.abs(B) > 0.7, B @ B.T / 12 + B - B.T, 0.0))
        with pytest.warns(match="not monotone"):
            problem = MonotoneInclusion((M, rng.standard_normal(12)), rng.standard_normal(12))
        return problem, terms_of(problem, sampling)
    A = rng.standard_normal((9, 13))
    if kind == "sparse game":
        A = sp.coo_array(np.where(np.abs(A) > 0.8, A, 0.0))
    problem = MatrixGame(A)
    return problem, terms_of(problem, sampling)


KINDS = ("game", "sparse game", "affine")


@pytest.mark.parametrize("sampling", ["uniform", "importance"])
@pytest.mark.parametrize("kind", KINDS)
class TestAgainstReference:
    def test_operator(self, kind, sampling):
        problem, terms = make_terms(kind, sampling)
        z = np.random.default_rng(0).standard_normal(problem.size)
        out = reference_games.DenseTerms(terms).operator(z)
        assert np.allclose(out, problem.operator(z), rtol=0, atol=1e-13)

    def test_steps(self, kind, sampling):
        problem, terms = make_terms(kind, sampling)
        plain = reference_games.DenseTerms(terms)
        z = problem.resolvent(np.random.default_rng(0).random(problem.size), 1.0)
        F = plain.operator(z)
        fused = (terms.columns, terms.draws, terms.sets)

        def compare(name, arrays, numbers, at_refresh):
            ours, theirs = ([a.copy() for a in arrays] for _ in range(2))
            rngs = np.random.default_rng(5), np.random.default_rng(5)
            moved = 0
            for _ in range(6):
                a = getattr(kernels_games, name)(*fused, rngs[0], *ours, *numbers, 15)
                b = getattr(reference_games, name)(plain, rngs[1], *theirs, *numbers, 15)
                assert a == b
                assert rngs[0].random() == rngs[1].random()
                moved += a[1]
                if a[1]:
                    at_refresh(ours)
                    at_refresh(theirs)
            for x, y in zip(ours, theirs, strict=True):
                assert np.allclose(x, y, rtol=0, atol=1e-10)
            assert np.abs(ours[0] - z).max() > 1e-3
            assert moved > 1

        def full(a):
            a[2][:] = plain.operator(a[0])

        compare("anchored_steps", (z, z, F, z), (2, 0, 4, 0.02, 0.1, 3.6), full)
        compare("anchored_steps", (z, z, F, z), (0, 0, 4, 0.02, 0.0, 3.6), full)

        def snapshot(a):
            a[1][:] = a[0]
            a[2][:] = plain.operator(a[0])

        compare("extragradient_steps", (z, z, F), (2, 0.02, 0.1), snapshot)

        def shifted(a):
            a[1][:] = a[0]
            a[3][:] = 0.5 * plain.operator(a[0]) + a[0] - z

        compare(
            "forward_reflected_steps", (z, z, z, 0.5 * F, z), (2, 0.5, 0.05, 0.1), shifted
        )  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_estimate_is_unbiased_over_all_draws(kind):
    # The mean over all pairs of columns with their probabilities, computed from the tables alone.
    problem, terms = make_terms(kind, "importance")
    rng = np.random.default_rng(1)
    new, old = rng.standard_normal((2, problem.size))
    plain = reference_games.DenseTerms(terms)
    total = np.zeros(problem.size)
    bounds = terms.draws.bounds
    for low, high in itertools.pairwise(bounds):
        for j in range(low, high):
            if terms.draws.weight[j] > 0:
                estimate = terms.draws.weight[j] * plain.M[:, j] * (new - old)[j]
                total += estimate / terms.draws.weight[j]
    assert np.allclose(total, problem.operator(new) - problem.operator(old), rtol=0, atol=1e-12)


@pytest.mark.parametrize("chances", [[1, 2, 3, 4], [0, 5, 0, 1], [1, 1, 1, 1], [1e-9, 1, 1, 1e3]])
def test_tables_draw_with_the_given_probabilities(chances):
    chances = np.asarray(chances, float)
    tables = draw_tables([4, 3], np.concatenate((chances, [1.0, 1.0, 2.0])))
    for low, high, given in ((0, 4, chances), (4, 7, np.array([1.0, 1.0, 2.0]))):
        size = high - low
        found = tables.keep[low:high].copy()
        for i in range(low, high):
            found[tables.alias[i] - low] += 1.0 - tables.keep[i]
        assert np.allclose(found / size, given / given.sum(), rtol=1e-12, atol=1e-14)
        positive = given > 0
        assert np.allclose(tables.weight[low:high][positive], given.sum() / given[positive])
    # and the frequencies of a long run
    index = draw(np.random.default_rng(0), tables, 0, 40000)
    counts = np.bincount(index, minlength=4) / 40000
    assert np.abs(counts - chances / chances.sum()).max() < 0.012


def test_kernels_draw_as_often_as_the_tables_say():
    # One step from the same point many times: the mean of the new estimates is the full operator.
    problem, terms = make_terms("game", "importance")
    rng = np.random.default_rng(0)
    start, d = problem.start(), problem.size
    F = problem.operator(start)
    mean = np.zeros(d)
    runs = 20000
    for _ in range(runs):
        u, g, before = start.copy(), F.copy(), np.empty(d)
        kernels_games.anchored_steps(
            terms.columns, terms.draws, terms.sets, rng, u, start, g, before, 5, -(10**9), 1, 0.3,
            1e-300, 3.0, 1,
        )  # fmt: skip
        mean += g / runs
    truth = problem.operator(u)
    assert np.abs(truth - F).max() > 0.05
    assert np.abs(mean - truth).max() < 0.03 * np.abs(truth - F).max() * d**0.5


def test_terms_of_a_problem_with_its_own_terms():
    rng = np.random.default_rng(0)
    a = rng.standard_normal((6, 4))

    def components(x, index):
        return a[index] * (a[index] @ x - 1.0)[:, None]

    problem = MonotoneInclusion(None, np.ones(4), components=components, n_terms=6)
    terms = terms_of(problem, "importance")
    assert isinstance(terms, SampledTerms)
    x, y = rng.standard_normal((2, 4))
    total = sum(
        terms.probabilities[i] * problem.sample_difference(x, y, np.array([i]), terms.probabilities)
        for i in range(6)
    )
    assert np.allclose(total, problem.operator(x) - problem.operator(y), rtol=0, atol=1e-12)
    heavy = np.argmax(np.linalg.norm(a, axis=1))
    assert np.argmax(terms.probabilities) == heavy
