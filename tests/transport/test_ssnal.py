"""Cases on which plainer versions of "ssnal" got stuck, each with the reason why it does not."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from lowrank_opt.core import Status
from lowrank_opt.core.errors import AccuracyWarning
from lowrank_opt.transport import SparsityConstrainedOT, TransportProblem


def clouds(kind, size, d, rng):
    """Points of a kind, in d dimensions."""
    if kind == "rounded":  # many of them twice
        return np.round(rng.standard_normal((size, d)), 1)
    if kind == "sphere":
        X = rng.standard_normal((size, d))
        return X / np.linalg.norm(X, axis=1)[:, None]
    if kind == "clusters":
        return 3 * rng.standard_normal((5, d))[rng.integers(0, 5, size)] + 0.1 * clouds(
            "normal", size, d, rng
        )
    return rng.standard_t(2, (size, d)) if kind == "heavy" else rng.standard_normal((size, d))


def make(kinds, m, n, d, k, gamma, seed, *, masses="random", **options):
    """Two clouds, costs divided by the largest; few places are no news here."""
    rng = np.random.default_rng(seed)
    X, Y = clouds(kinds[0], m, d, rng), clouds(kinds[1], n, d, rng) + 1.0
    C = ((X[:, None] - Y) ** 2).sum(axis=2)
    draw = {
        "random": lambda size: rng.random(size) + 0.1,
        "equal": np.ones,
        "wild": lambda size: 10.0 ** rng.uniform(-4, 0, size),
    }[masses]
    a, b = draw(m), draw(n)
    a, b = a / a.sum(), b / b.sum()
    if options.get("a_upper"):
        a = 1.3 * a
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AccuracyWarning)
        return TransportProblem(a, b, C / C.max(), max_nnz=k, gamma=gamma, **options)


def certified(problem, newton_steps, tol=1e-6, **options):
    """Solve the relaxation within a number of Newton steps."""
    result = SparsityConstrainedOT(rounding="none", tol=tol, **options).solve(problem)
    assert result.status is Status.CONVERGED, result.message
    assert result.certificate.residual <= tol
    assert result.counts["newton_steps"] <= newton_steps
    return result


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    ("kinds", "m", "n", "d", "k", "masses"),
    [
        (("heavy", "sphere"), 80, 80, 2, 2, "random"),
        (("rounded", "rounded"), 120, 120, 2, 2, "equal"),
        (("sphere", "sphere"), 150, 60, 10, 10, "wild"),
    ],
)
def test_upper_bounds_with_strong_regularisation(kinds, m, n, d, k, masses, seed):
    """What rows have left has a proximal term too: the subproblem is smooth, without bounds."""
    problem = make(kinds, m, n, d, k, 300.0, seed, masses=masses, a_upper=True)
    result = certified(problem, 2000)
    assert result.alpha.max() <= 0.0
    left = problem.a - np.asarray(result.x.sum(axis=1)).ravel()
    assert left.min() >= -1e-6


@pytest.mark.parametrize("seed", range(3))
def test_soft_marginals_to_many_digits(seed):
    """The weight of the proximal term goes on falling where 1 / gamma is far from its limit."""
    problem = make(
        ("clusters", "heavy"), 100, 300, 1, 2, 100.0, seed, masses="equal", unbalanced="kl",
        marginal_weight=10.0,
    )  # fmt: skip
    certified(problem, 800, tol=1e-8)


@pytest.mark.parametrize("seed", range(2))
def test_equal_masses_with_strong_regularisation(seed):
    """After a subproblem that was not solved its proximal term becomes stronger again."""
    certified(make(("normal", "normal"), 500, 500, 2, 2, 500.0, seed, masses="equal"), 1500)


def test_first_weight_is_not_that_of_weak_regularisation():
    """Where gamma times a mass is large against the costs, the first subproblems stay solvable."""
    problem = make(("sphere", "heavy"), 300, 400, 10, 3, 300.0, 0)
    certified(problem, 150)
