"""The reproduction of few-shot learning with a Laplacian term: its parts, and a small run."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from sklearn.datasets import load_digits

from lowrank_opt.papers import few_shot


@pytest.mark.parametrize(("way", "shot"), [(5, 1), (3, 2), (10, 5)])
def test_episodes_are_what_they_say(way, shot):
    X, y = load_digits(return_X_y=True)
    F, labels, truth = few_shot.draw_episodes(X, y, way, shot, 3, np.random.default_rng(0))
    n = way * (shot + 15)
    assert F.shape == (3, n, 64)
    np.testing.assert_allclose(np.linalg.norm(F, axis=2), 1.0, rtol=1e-12)
    for features, known, classes in zip(F, labels, truth, strict=True):
        support = known >= 0
        np.testing.assert_array_equal(np.bincount(known[support]), [shot] * way)
        assert not support[way * shot :].any()
        np.testing.assert_array_equal(np.bincount(classes), [15] * way)
        assert len(np.unique(features.round(9), axis=0)) == n  # no point twice
        # Points of a class are more alike than points of different ones.
        own = np.concatenate([known[support], classes])
        likeness = features @ features.T
        same = own[:, None] == own
        assert likeness[same].mean() > likeness[~same].mean() + 0.1


def test_episodes_are_centred_by_the_other_classes():
    X = np.array([[1.0, 0.0]] * 20 + [[0.0, 1.0]] * 20 + [[5.0, 5.0]] * 20)
    y = np.repeat([0, 1, 2], 20)
    F, _, _ = few_shot.draw_episodes(X, y, 2, 1, 20, np.random.default_rng(1))
    means = {0: [1.0, 0.0], 1: [0.0, 1.0], 2: [5.0, 5.0]}
    directions = [
        np.subtract(means[a], means[b]) / np.linalg.norm(np.subtract(means[a], means[b]))
        for a, b in itertools.permutations(range(3), 2)
    ]
    for point in F.reshape(-1, 2):
        assert min(np.abs(point - d).max() for d in directions) < 1e-12


def test_accuracy_of_clusters_is_that_of_the_best_matching():
    truth = np.array([0, 0, 1, 1, 2, 2, 2])
    labels = np.array([2, 2, 0, 1, 1, 1, 1])
    best = max(
        np.mean(np.array(turn)[labels] == truth) for turn in itertools.permutations(range(3))
    )
    assert few_shot.clustering_accuracy(labels, truth) == best == 6 / 7
    assert few_shot.clustering_accuracy(truth[::-1] * 0, truth) == 3 / 7


def test_a_small_run_reports_gains_and_what_is_not_reproduced(monkeypatch):
    tiny = {"episodes": 24, "validation": 6, "traces": 2, "starts": 2}
    monkeypatch.setitem(few_shot._SCALES, "smoke", tiny)
    monkeypatch.setattr(few_shot, "_SETTINGS", ((5, 1), (5, 5), (10, 1), (10, 5)))
    sections = few_shot.reproduce("smoke", random_state=1)
    rows = {row.name: row for section in sections for row in section.rows}
    missing = [row for row in rows.values() if row.verdict == "not reproduced"]
    assert len(missing) == 8
    assert all("not distributed" in row.note for row in missing)
    for name in (
        "5-way, 1-shot: gain of LaplacianShot over the nearest prototype",
        "symmetric affinity with the shift, prototypes updated: largest rise",
        "largest residual of all episodes and ways", "cooled start: objective over that without",
    ):  # fmt: skip
        assert rows[name].verdict == "within", name
    assert [len(section.tables) for section in sections] == [1, 0, 1]
