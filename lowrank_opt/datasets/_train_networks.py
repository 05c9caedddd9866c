"""Trains the networks of ``digits_networks.npz``.

``python -m lowrank_opt.datasets._train_networks`` writes the file. ReLU networks are trained by
scikit-learn, MaxMin networks here in NumPy. Other versions of the libraries and other machines lead
to other weights; the file in the package is what everything else uses.
"""

from __future__ import annotations

import itertools
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lowrank_opt.datasets._networks import SIDES, digits

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lowrank_opt.core.protocols import Array

__all__ = ["train_maxmin", "train_relu"]

RELU = [((64, 32, 10), 3), ((64, 32, 32, 10), 3), ((784, 50, 10), 1)]
MAXMIN = [(2, 16), (2, 32), (5, 32), (8, 32), (18, 32)]


def train_relu(widths: Sequence[int], seed: int) -> tuple[list[Array], list[Array]]:
    """Train by scikit-learn: Adam with step 1e-3, 100 epochs, batches of 64.

    Parameters
    ----------
    widths : sequence of int
        Inputs (64 or 784), hidden layers, outputs (10).
    seed : int
        Seed of split and training.

    Returns
    -------
    weights, biases : list of ndarray
        In the form (n_out, n_in).
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPClassifier

    X, _, y, _ = digits(SIDES[widths[0]], seed)
    model = MLPClassifier(
        tuple(widths[1:-1]), batch_size=64, max_iter=100, n_iter_no_change=100, random_state=seed
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(X, y)
    return [np.ascontiguousarray(W.T) for W in model.coefs_], list(model.intercepts_)


def train_maxmin(
    widths: Sequence[int], seed: int, *, epochs: int = 60, step_size: float = 1e-3
) -> tuple[list[Array], list[Array]]:
    """Train a MaxMin network on digits: Adam on the cross entropy, batches of 64.

    Parameters
    ----------
    widths : sequence of int
        Inputs (64 or 784), hidden layers of even width, outputs (10).
    seed : int
        Seed of split, start and batches.
    epochs : int, default=60
        Passes over the training part.
    step_size : float, default=1e-3
        Of Adam.

    Returns
    -------
    weights, biases : list of ndarray
        In the form (n_out, n_in).
    """
    X, _, y, _ = digits(SIDES[widths[0]], seed)
    rng = np.random.default_rng(seed)
    weights, biases = [], []
    for n, m in itertools.pairwise(widths):
        # Orthogonal rows or columns: MaxMin keeps norms, so that depth is no obstacle.
        Q = np.linalg.qr(rng.standard_normal((max(m, n), min(m, n))))[0]
        weights.append(Q if m >= n else np.ascontiguousarray(Q.T))
        biases.append(np.zeros(m))
    parameters = weights + biases
    first = [np.zeros_like(p) for p in parameters]
    second = [np.zeros_like(p) for p in parameters]
    labels = np.eye(widths[-1])[y]
    t = 0
    for _ in range(epochs):
        order = rng.permutation(len(X))
        for start in range(0, len(X), 64):
            rows = order[start : start + 64]
            gradients = _gradients(weights, biases, X[rows], labels[rows])
            t += 1
            for p, g, m1, m2 in zip(parameters, gradients, first, second, strict=True):
                m1 += 0.1 * (g - m1)
                m2 += 0.001 * (g * g - m2)
                rate = step_size * np.sqrt(1.0 - 0.999**t) / (1.0 - 0.9**t)
                p -= rate * m1 / (np.sqrt(m2) + 1e-8)
    return weights, biases


def _gradients(weights: list[Array], biases: list[Array], X: Array, labels: Array) -> list[Array]:
    """Gradients of the mean cross entropy in all weights, then in all biases."""
    inputs, swaps, h = [], [], X
    for k, (W, b) in enumerate(zip(weights, biases, strict=True)):
        inputs.append(h)
        h = h @ W.T + b
        if k + 1 < len(weights):
            pairs = h.reshape(len(h), -1, 2)
            swap = pairs[..., 0] > pairs[..., 1]  # sorted in ascending order
            swaps.append(swap)
            h = np.where(swap[..., None], pairs[..., ::-1], pairs).reshape(h.shape)
    p = np.exp(h - h.max(axis=1, keepdims=True))
    delta = (p / p.sum(axis=1, keepdims=True) - labels) / len(X)
    in_weights, in_biases = [], []
    for k in range(len(weights) - 1, -1, -1):
        in_weights.append(delta.T @ inputs[k])
        in_biases.append(delta.sum(axis=0))
        if k:
            pairs = (delta @ weights[k]).reshape(len(X), -1, 2)
            delta = np.where(swaps[k - 1][..., None], pairs[..., ::-1], pairs)
            delta = delta.reshape(len(X), -1)
    return in_weights[::-1] + in_biases[::-1]


def main() -> None:
    """Train all and write the file."""
    found = {}
    jobs = [("relu", widths, seed) for widths, seeds in RELU for seed in range(seeds)]
    jobs += [("maxmin", (64, *[w] * (d - 1), 10), 0) for d, w in MAXMIN]
    for activation, widths, seed in jobs:
        train = train_relu if activation == "relu" else train_maxmin
        weights, biases = train(widths, seed)
        key = f"{activation}/{'-'.join(map(str, widths))}/{seed}"
        for k, (W, b) in enumerate(zip(weights, biases, strict=True)):
            found[f"{key}/W{k}"] = W.astype(np.float32)
            found[f"{key}/b{k}"] = b.astype(np.float32)
    np.savez_compressed(Path(__file__).with_name("digits_networks.npz"), **found)


if __name__ == "__main__":
    main()
