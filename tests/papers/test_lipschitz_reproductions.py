"""Reproductions of Lipschitz and interval bounds: their parts against other code, small runs."""

from __future__ import annotations

import numpy as np
import pytest

from lowrank_opt.datasets import load_digits_network, make_gaussian_network
from lowrank_opt.lipschitz import LipschitzProblem
from lowrank_opt.papers import group_sort, interval_propagation, lipschitz_sdp


def test_clarabel_on_the_raw_program_agrees_with_the_known_interval():
    value = lipschitz_sdp.clarabel_bound(make_gaussian_network((4, 10, 1)))
    assert value == pytest.approx(1.1201662, rel=1e-6)


def test_coupled_multipliers_prove_what_is_false():
    neuron, coupled = lipschitz_sdp.coupled_form()
    assert neuron == pytest.approx(1.0, rel=1e-6)
    assert coupled <= 1e-15
    # relu(x) - relu(x - 1) has slope 1 between 0 and 1


def test_bounds_by_name_keep_their_order():
    problem = LipschitzProblem(make_gaussian_network((3, 5, 5, 2), random_state=1))
    results = lipschitz_sdp.bounds(problem, lipschitz_sdp._ORDER)
    values = [lipschitz_sdp._value(name, r) for name, r in results.items()]
    assert values == sorted(values)


def test_known_intervals_are_narrow():
    for low, high in lipschitz_sdp._HARD.values():
        assert 0 < high / low - 1 < 1e-6


def test_residual_form_has_the_values_of_the_sorting_network():
    data = load_digits_network((64, 32, 32, 32, 32, 10), activation="maxmin")
    X = data.X_test[:20]
    h = X
    for W in data.weights[:-1]:
        h = np.sort((h @ W.T).reshape(len(X), -1, 2), axis=2).reshape(len(X), -1)
    residual = group_sort.as_residual_relu(list(data.weights))
    np.testing.assert_allclose(residual.forward(X), h @ data.weights[-1].T, atol=1e-10)


def test_product_in_both_norms():
    weights = [np.array([[3.0, 4.0]]), np.array([[2.0], [-1.0]])]
    assert group_sort.product(weights, "l2") == pytest.approx(5 * 5**0.5)
    assert group_sort.product(weights, "linf") == pytest.approx(14.0)


def test_programs_with_and_without_sums():
    weights = make_gaussian_network((6, 8, 8, 3), random_state=2)
    with_sums = group_sort.clarabel_bound(weights)
    without = group_sort.clarabel_bound(weights, sums=False)
    assert with_sums <= without * (1 + 1e-7) <= group_sort.product(weights, "l2") * (1 + 1e-6)


def test_published_rows_say_that_the_weights_are_missing(monkeypatch, tmp_path):
    monkeypatch.setenv("LOWRANK_OPT_DATA", str(tmp_path))
    section = group_sort._published(group_sort._SCALES["smoke"])
    assert [row.verdict for row in section.rows] == ["not reproduced"] * 4
    assert "does not exist" in section.text


@pytest.mark.parametrize("width", [1, 10, 100])
def test_gaussian_tightness_by_simulation(width):
    """Expected radii by plain sums of absolute values."""
    rng = np.random.default_rng(0)
    B, A = rng.standard_normal((2000, width)), rng.standard_normal((width, 2000))
    ratio = np.abs(B @ A).mean() / (np.abs(B) @ np.abs(A)).mean()
    assert interval_propagation.gaussian_tightness(width) == pytest.approx(ratio, rel=0.04)


def test_single_activations_and_start_are_within_their_bands():
    assert group_sort._single().ok
    size = {"draws": 4, "widths": (20, 80)}
    section = interval_propagation._start(size, 0)
    assert all(row.verdict != "out" for row in section.rows if "two Gaussian" not in row.name)
