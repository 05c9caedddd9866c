"""Training of multi-layer perceptrons on the loss of worst-case outputs in boxes of inputs."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import log_softmax, softmax

from lowrank_opt.lipschitz.activations import Activation
from lowrank_opt.lipschitz.network import Affine, FeedForward

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Values = NDArray[np.float64]

__all__ = ["MONOTONE", "Recipe", "box_loss", "fast_start", "small_boxes", "train"]

# Activations whose box is that of its ends.
MONOTONE = ("relu", "leaky_relu", "tanh", "sigmoid", "softplus", "elu", "hardtanh")
# Growth of boxes that the warm-up regulariser allows is 1 / _GROWTH.
_GROWTH = 0.5


@dataclass
class Layers:
    """Weights of shape (n_out, n_in) and biases, the last without an activation."""

    weights: list[Values]
    biases: list[Values]
    phi: Activation = field(default_factory=lambda: Activation("relu"))

    @property
    def arrays(self) -> list[Values]:
        """All parameters, weights first."""
        return [*self.weights, *self.biases]

    def network(self) -> FeedForward:
        """Return the network, with copies of the parameters."""
        layers: list[Affine | Activation] = []
        for W, b in zip(self.weights, self.biases, strict=True):
            layers += [Affine(W, b), self.phi]
        return FeedForward(tuple(layers[:-1]))


def fast_start(
    sizes: tuple[int, ...], rng: np.random.Generator, activation: str = "relu"
) -> Layers:
    """Return random layers through which boxes keep their size on average.

    Parameters
    ----------
    sizes : tuple of int
        Inputs, neurons of the hidden layers, outputs.
    rng : Generator
        Source of the weights: normal with standard deviation sqrt(2π) / n_in.
    activation : str, default="relu"
        Activation of the hidden layers.
    """
    weights = [
        rng.standard_normal((b, a)) * (math.sqrt(2.0 * math.pi) / a) for a, b in pairwise(sizes)
    ]
    return Layers(weights, [np.zeros(b) for b in sizes[1:]], Activation(activation))


def box_loss(
    layers: Layers,
    low: Values,
    high: Values,
    labels: NDArray[np.intp],
    *,
    warm_up: float = 0.0,
    gradient: bool = True,
) -> tuple[float, list[Values]]:
    """Return the loss of the worst logits in boxes of inputs, and its gradient.

    The mean cross-entropy of the upper bounds of f_k - f_y, the difference taken before the
    modulus of the last weight, plus the regulariser of the growth of boxes.

    Parameters
    ----------
    layers : Layers
        The network.
    low, high : ndarray of shape (n, n_inputs)
        Boxes.
    labels : ndarray of int of shape (n,)
        Classes y.
    warm_up : float, default=0.0
        Weight of the regulariser, the mean over the hidden layers of ``max(0, 1 - 2 δ_0 / δ_i)``
        with the mean radius δ_i of the arguments of layer i and δ_0 of the inputs.
    gradient : bool, default=True
        Whether to compute the gradient.

    Returns
    -------
    loss : float
    gradients : list of ndarray
        For ``layers.arrays``; empty without `gradient`.

    Notes
    -----
    Cost: about six products with each weight.
    """
    phi, hidden = layers.phi, len(layers.weights) - 1
    c, r = 0.5 * (low + high), 0.5 * (high - low)
    start = float(r.mean())
    tape: list[tuple[Values, ...]] = []
    penalty, pulls = 0.0, [0.0] * hidden
    for k in range(hidden):
        W = layers.weights[k]
        centre, radius = c @ W.T + layers.biases[k], r @ np.abs(W).T
        below, above = centre - radius, centre + radius
        growth = float(radius.mean())
        if warm_up and start > 0.0 and growth * _GROWTH > start:
            penalty += warm_up / hidden * (1.0 - start / (growth * _GROWTH))
            pulls[k] = warm_up / hidden * start / (_GROWTH * growth**2) / radius.size
        tape.append((c, r, below, above))
        bottom, top = phi.apply(below), phi.apply(above)
        c, r = 0.5 * (bottom + top), 0.5 * (top - bottom)
    W, b = layers.weights[-1], layers.biases[-1]
    worst = np.empty((len(c), len(W)))
    groups = [(y, np.flatnonzero(labels == y)) for y in np.unique(labels).tolist()]
    for y, rows in groups:
        D = W - W[y]
        worst[rows] = c[rows] @ D.T + (b - b[y]) + r[rows] @ np.abs(D).T
    each = -log_softmax(worst, axis=1)[np.arange(len(c)), labels]
    loss = float(each.mean()) + penalty
    if not gradient:
        return loss, []

    g = softmax(worst, axis=1)
    g[np.arange(len(c)), labels] -= 1.0
    g /= len(c)
    dW, db = np.zeros_like(W), g.sum(axis=0)
    dc, dr = np.empty_like(c), np.empty_like(r)
    for y, rows in groups:
        D, own = W - W[y], g[rows]
        dD = own.T @ c[rows] + np.sign(D) * (own.T @ r[rows])
        dW += dD
        dW[y] -= dD.sum(axis=0)
        db[y] -= own.sum()
        dc[rows], dr[rows] = own @ D, own @ np.abs(D)
    weights, biases = [dW], [db]
    for k in range(hidden - 1, -1, -1):
        c, r, below, above = tape[k]
        W = layers.weights[k]
        down = 0.5 * (dc - dr) * phi.derivative(below)
        up = 0.5 * (dc + dr) * phi.derivative(above)
        dc, dr = down + up, up - down + pulls[k]
        weights.append(dc.T @ c + np.sign(W) * (dr.T @ r))
        biases.append(dc.sum(axis=0))
        if k:
            dc, dr = dc @ W, dr @ np.abs(W)
    return loss, weights[::-1] + biases[::-1]


def small_boxes(
    layers: Layers,
    X: Values,
    low: Values,
    high: Values,
    labels: NDArray[np.intp],
    shrink: float,
    steps: int,
    rng: np.random.Generator,
) -> tuple[Values, Values]:
    """Return smaller boxes within boxes, where the loss of a point is large.

    Their centres come from projected gradient ascent on the loss of the network, from a random
    start.

    Parameters
    ----------
    layers : Layers
        The network.
    X, low, high : ndarray of shape (n, n_inputs)
        Inputs and their boxes.
    labels : ndarray of int of shape (n,)
        Classes.
    shrink : float
        Size of the small boxes relative to the boxes, in (0, 1).
    steps : int
        Steps of the ascent.
    rng : Generator
        Source of the starts.
    """
    inner_low, inner_high = X - (1.0 - shrink) * (X - low), X + (1.0 - shrink) * (high - X)
    Z = rng.uniform(inner_low, inner_high)
    for t in range(steps):
        move = 0.5 if t < 0.7 * steps else 0.1
        Z = Z + move * (inner_high - inner_low) * np.sign(_input_gradient(layers, Z, labels))
        Z = np.clip(Z, inner_low, inner_high)
    return np.maximum(low, Z - shrink * (X - low)), np.minimum(high, Z + shrink * (high - X))


def _input_gradient(layers: Layers, X: Values, labels: NDArray[np.intp]) -> Values:
    arguments, h = [], X
    for W, b in zip(layers.weights[:-1], layers.biases[:-1], strict=True):
        arguments.append(h @ W.T + b)
        h = layers.phi.apply(arguments[-1])
    g = softmax(h @ layers.weights[-1].T + layers.biases[-1], axis=1)
    g[np.arange(len(X)), labels] -= 1.0
    for k in range(len(layers.weights) - 1, -1, -1):
        g = g @ layers.weights[k]
        if k:
            g *= layers.phi.derivative(arguments[k - 1])
    return g


@dataclass(frozen=True)
class Recipe:
    """How to train.

    Parameters
    ----------
    eps : float
        Radius of the boxes at the end.
    clip : tuple or None
        Domain of the inputs.
    epochs : int
        Passes over the data.
    batch_size : int
        Samples of a step.
    learning_rate : float
        Of Adam; times 0.2 after 5/7 of the steps and again after 6/7.
    ramp : float
        Share of the steps in which the radius grows linearly from zero, and the warm-up
        regulariser fades.
    warm_up : float
        Weight of that regulariser at the beginning.
    l1 : float
        Weight of the sum of the moduli of the weights.
    max_norm : float
        Larger gradients are scaled to this norm.
    shrink : float
        Size of the boxes that are propagated relative to `eps`; 1: all of it.
    attack_steps : int
        Steps of the search for their centres.
    """

    eps: float
    clip: tuple[Any, Any] | None = None
    epochs: int = 70
    batch_size: int = 128
    learning_rate: float = 5e-4
    ramp: float = 2.0 / 7.0
    warm_up: float = 0.5
    l1: float = 1e-6
    max_norm: float = 10.0
    shrink: float = 1.0
    attack_steps: int = 20


def train(
    layers: Layers,
    X: Values,
    labels: NDArray[np.intp],
    recipe: Recipe,
    rng: np.random.Generator,
    report: Callable[[int, float], bool] | None = None,
) -> list[float]:
    """Train layers in place by Adam.

    Parameters
    ----------
    layers : Layers
        The network; it is changed.
    X : ndarray of shape (n, n_inputs)
        Inputs.
    labels : ndarray of int of shape (n,)
        Classes.
    recipe : Recipe
        How.
    rng : Generator
        Order of the samples.
    report : callable or None, default=None
        Called after each epoch with its number and loss; true stops.

    Returns
    -------
    list of float
        Mean loss of each epoch, regularisers included.
    """
    n, batch = len(X), min(recipe.batch_size, len(X))
    per_epoch = -(-n // batch)
    total = per_epoch * recipe.epochs
    ramp = recipe.ramp * total
    least, most = (-np.inf, np.inf) if recipe.clip is None else recipe.clip
    moments = [(np.zeros_like(a), np.zeros_like(a)) for a in layers.arrays]
    losses, step = [], 0
    for epoch in range(recipe.epochs):
        order, sums = rng.permutation(n), 0.0
        for part in np.array_split(order, per_epoch):
            share = 1.0 if step >= ramp else step / ramp
            x, y = X[part], labels[part]
            eps = share * recipe.eps
            low, high = np.maximum(x - eps, least), np.minimum(x + eps, most)
            if recipe.shrink < 1.0 and eps > 0.0:
                low, high = small_boxes(
                    layers, x, low, high, y, recipe.shrink, recipe.attack_steps, rng
                )
            loss, grads = box_loss(layers, low, high, y, warm_up=recipe.warm_up * (1.0 - share))
            if recipe.l1:
                for W, g in zip(layers.weights, grads, strict=False):
                    loss += recipe.l1 * float(np.abs(W).sum())
                    g += recipe.l1 * np.sign(W)
            step += 1
            decays = (step > total * 5 / 7) + (step > total * 6 / 7)
            _adam(layers.arrays, grads, moments, step, recipe.learning_rate * 0.2**decays, recipe)
            sums += loss * len(part)
        losses.append(sums / n)
        if not math.isfinite(losses[-1]) or (report is not None and report(epoch, losses[-1])):
            break
    return losses


def _adam(
    arrays: list[Values],
    grads: list[Values],
    moments: list[tuple[Values, Values]],
    step: int,
    rate: float,
    recipe: Recipe,
) -> None:
    size = math.sqrt(sum(float(np.vdot(g, g)) for g in grads))
    factor = min(1.0, recipe.max_norm / size) if size > 0.0 else 1.0
    first, second = 1.0 - 0.9**step, 1.0 - 0.999**step
    for a, g, (m, v) in zip(arrays, grads, moments, strict=True):
        g *= factor
        m *= 0.9
        m += 0.1 * g
        v *= 0.999
        v += 0.001 * g * g
        a -= (rate / first) * m / (np.sqrt(v / second) + 1e-8)
