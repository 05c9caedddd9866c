"""Networks of groups as one inequality: between the exact value and the published bound."""

from __future__ import annotations

import numpy as np
import pytest

from lowrank_opt.core.errors import ParameterError, ProblemError
from lowrank_opt.lipschitz import (
    Activation,
    BoundProof,
    ExactLipschitz,
    LipschitzProblem,
    LipSDPGroupSort,
    lipschitz_bound,
)

KINDS = {
    "maxmin": Activation("maxmin"),
    "sort 3": Activation("group_sort", group_size=3),
    "householder": Activation("householder", direction=[0.6, 0.8]),
}


@pytest.mark.parametrize("norm", ["l2", "linf", "l1"])
@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize("seed", [0, 1])
def test_between_all_patterns_and_the_published_bound(raw, kind, norm, seed):
    weights = raw.gaussian(4, 6, 6, 2, seed=seed)
    problem = LipschitzProblem(weights, norm, activation=KINDS[kind])
    exact = ExactLipschitz().solve(problem)
    separate = LipSDPGroupSort().solve(problem)
    coupled = LipSDPGroupSort(structure="coupled").solve(problem)
    assert coupled.success
    assert exact.relaxation_bound <= coupled.fun * (1 + 1e-9)
    assert coupled.fun <= separate.fun * (1 + 2e-6)
    assert coupled.gap <= 1e-6
    assert LipSDPGroupSort(structure="coupled").solve(problem, x0=coupled.x).nit == 0
    assert lipschitz_bound(weights, norm=norm, activation=KINDS[kind]).fun == coupled.fun


def test_tighter_by_a_third_on_a_deep_network(raw):
    weights = raw.gaussian(16, 24, 24, 24, 24, 10)
    problem = LipschitzProblem(weights, activation="maxmin")
    separate = LipSDPGroupSort().solve(problem)
    coupled = LipSDPGroupSort(structure="coupled").solve(problem)
    assert coupled.fun < 0.67 * separate.fun
    rng = np.random.default_rng(0)
    jacobians = [problem.network.jacobian(x) for x in rng.standard_normal((300, 16))]
    assert max(np.linalg.norm(J, 2) for J in jacobians) < coupled.fun


def test_proofs_belong_to_their_program(raw):
    weights = raw.gaussian(4, 6, 6, 2)
    problem = LipschitzProblem(weights, activation="maxmin")
    coupled = LipSDPGroupSort(structure="coupled").solve(problem)
    product = problem.part(0).product
    wrong = BoundProof("multipliers", coupled.x.multipliers, coupled.x.dual)
    assert problem.objective(wrong) == product
    relu = LipschitzProblem(weights)
    assert relu.objective(coupled.x) == relu.part(0).product
    longer = BoundProof("coupled_multipliers", (np.ones(99),))
    with pytest.raises(ProblemError, match="shapes"):
        LipSDPGroupSort(structure="coupled").solve(problem, x0=longer)


def test_methods_of_the_coupled_program(raw):
    problem = LipschitzProblem(raw.gaussian(4, 6, 6, 2), activation="maxmin")
    ours = LipSDPGroupSort(structure="coupled").solve(problem)
    conic = LipSDPGroupSort(structure="coupled", method="clarabel").solve(problem)
    np.testing.assert_allclose(conic.fun, ours.fun, rtol=2e-6)
    with pytest.raises(ParameterError, match="separate"):
        LipSDPGroupSort(structure="coupled", method="first_order").solve(problem)
