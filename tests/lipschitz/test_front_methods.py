"""Every documented method of the front door runs with its defaults."""

from __future__ import annotations

import time

import numpy as np
import pytest

from lowrank_opt.core import Status
from lowrank_opt.core.errors import AccuracyWarning, ParameterError, ProblemError
from lowrank_opt.lipschitz import (
    LipDiff,
    LipschitzCertifier,
    LipschitzProblem,
    LipSDP,
    first_order,
    lipschitz_bound,
)


def test_sampled_takes_no_tolerance():
    weights = [np.ones((3, 2)), np.ones((1, 3))]
    result = lipschitz_bound(weights, method="sampled")
    assert result.lower_bound == pytest.approx(3 * 2**0.5)


def test_list_of_outputs_names_the_pair():
    with pytest.raises(ProblemError, match=r"a margin is output=\(3, 8\)"):
        lipschitz_bound([np.ones((10, 2))], output=[3, 8])


def test_limits_of_the_largest_entry_use_lengths():
    rng = np.random.default_rng(0)
    weights = [rng.standard_normal((n, m)) / m**0.5 for m, n in ((100, 30), (30, 5))]
    early = lipschitz_bound(weights, norm="linf", max_time=0.0)
    lengths = np.linalg.norm(weights[0], 2) * np.linalg.norm(weights[1], axis=1)
    sums = np.abs(weights[0]).sum(axis=1).max() * np.abs(weights[1]).sum(axis=1)
    cheap = np.minimum(10.0 * lengths, sums)
    assert np.all(early.per_output <= cheap * (1 + 1e-9))
    assert 10.0 * lengths.max() < sums.max()  # and that they matter here
    exact = lipschitz_bound(weights, norm="linf", tol=1e-4, each_output=True)
    assert np.all(exact.per_output <= early.per_output * (1 + 1e-9))


def test_bounds_that_contradict_each_other_are_not_hidden(monkeypatch):
    problem = LipschitzProblem([np.eye(2), np.eye(2)])
    monkeypatch.setattr(LipschitzProblem, "sampled_lower_bound", lambda self: 2.0)
    with pytest.warns(AccuracyWarning, match="one of them is wrong"):
        result = LipSDP().solve(problem)
    assert result.lower_bound == 2.0


def test_certifiers_refuse_methods_without_upper_bounds():
    weights = [np.eye(2), np.eye(2)]
    for method in ("sampled", "foo"):
        with pytest.raises(ParameterError, match=method):
            LipschitzCertifier(method=method).fit(weights)


def test_penalty_descent_keeps_its_time(monkeypatch):
    calls, pause = [], [0.05]

    def slow(form, state, advance=first_order.advance):
        calls.append(time.sleep(pause[0]))
        advance(form, state)

    monkeypatch.setattr(first_order, "advance", slow)
    rng = np.random.default_rng(0)
    weights = [rng.standard_normal((n, m)) / m**0.5 for m, n in ((20, 20), (20, 20), (20, 1))]
    problem = LipschitzProblem(weights)
    result = LipDiff(n_epochs=100_000, max_time=0.2).solve(problem)
    assert len(calls) <= 3  # half of the time goes to the start
    assert result.status is Status.TIME_LIMIT
    assert result.certified
    calls.clear()
    pause[0] = 0.0
    LipDiff(n_epochs=0).solve(problem)
    assert len(calls) > 3
