"""Networks as exact methods see them: layers, choices of every neuron, domains of inputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lowrank_opt.lipschitz.network import Affine, FeedForward
from lowrank_opt.lipschitz.regions import Ball
from lowrank_opt.lipschitz.rigorous import gamma
from lowrank_opt.lipschitz.witness import free_inputs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from lowrank_opt.lipschitz.problem import LipschitzProblem
    from lowrank_opt.lipschitz.regions import Region

    Values = NDArray[np.float64]

__all__ = ["Domain", "PatternNetwork", "Target", "domain_of", "pattern_network", "target_of"]

ONE_KINK = ("relu", "leaky_relu", "abs")  # linear on either side of zero


@dataclass(frozen=True, eq=False)
class PatternNetwork:
    """A feed-forward network with two choices for every neuron (or several for a group).

    Parameters
    ----------
    weights, biases : list of ndarray
        Of the affine maps 1, …, L.
    free : ndarray of shape (n_inputs,)
        1 for inputs that vary, 0 for inputs that a region holds.
    off, on : list of ndarray of shape (n_i,)
        Slopes of the choices 0 and 1 of every neuron; empty for layers of groups.
    blocks : list
        For each hidden layer ``None``, or an array of shape (n_groups, n_choices, size, size): the
        matrices that a group can be.
    kinked : bool
        Whether every activation is linear on either side of zero: choice 1 where the
        pre-activation is positive.
    last_error : float, default=0.0
        Bound of the rounding in the last weight, a product, in the Frobenius norm.
    """

    weights: list[Values]
    biases: list[Values]
    free: Values
    off: list[Values]
    on: list[Values]
    blocks: list[Any]
    kinked: bool
    last_error: float = 0.0

    @property
    def widths(self) -> list[int]:
        """Neurons of the hidden layers."""
        return [len(W) for W in self.weights[:-1]]

    @property
    def n_neurons(self) -> int:
        """Number of hidden neurons."""
        return sum(self.widths)

    @property
    def grouped(self) -> bool:
        """Whether some layer acts on groups."""
        return any(b is not None for b in self.blocks)

    @property
    def n_choices(self) -> list[int]:
        """Number of choices of every neuron or group, in order."""
        out: list[int] = []
        for p, q, block in zip(self.off, self.on, self.blocks, strict=True):
            if block is None:
                out += [2 if different else 1 for different in p != q]
            else:
                out += [block.shape[1]] * len(block)
        return out


def pattern_network(
    network: FeedForward, slopes: Sequence[tuple[Values, Values]] | None = None,
    region: Region | None = None,
) -> PatternNetwork:  # fmt: skip
    """Return the layers of a network, affine maps merged.

    Parameters
    ----------
    network : FeedForward
        The network.
    slopes : sequence of (lower, upper) or None, default=None
        Slopes of every activation on a region, to be used instead of those on the whole line.
    region : Ball, Box or None, default=None
        The region, for the inputs that it holds.
    """
    weights: list[Values] = []
    biases: list[Values] = []
    off: list[Values] = []
    on: list[Values] = []
    blocks: list[Any] = []
    kinked = True
    W: Values | None = None
    b: Values | None = None
    error = 0.0
    count = 0
    hidden = [k for k, a in enumerate(network.layers) if not _is_affine(a)]
    last_hidden = hidden[-1] if hidden else -1

    def add(low: Values, high: Values, block: Any = None) -> None:
        width = len(weights[-1]) if W is None else len(W)
        weights.append(np.eye(width) if W is None else W)
        biases.append(np.zeros(width) if b is None else b)
        off.append(low)
        on.append(high)
        blocks.append(block)

    for k, layer in enumerate(network.layers):
        if isinstance(layer, Affine):
            V = layer.dense
            if W is None or b is None:
                W, b = V, layer.bias
            elif k < last_hidden:  # kept apart, as the product would be rounded
                add(np.ones(len(W)), np.ones(len(W)))
                W, b = V, layer.bias
            else:
                size = float(np.linalg.norm(V)) * (1.0 + 1e-12)
                product = size * float(np.linalg.norm(W)) * (1.0 + 1e-12)
                error = size * error + gamma(len(W) + 4) * product
                W, b = V @ W, V @ b + layer.bias
            continue
        known = None if slopes is None else slopes[count]
        count += 1
        if layer.kind == "identity":
            continue
        width = len(weights[-1]) if W is None else len(W)
        if layer.by_groups:
            add(np.zeros(0), np.zeros(0), _matrices(layer, width))
            kinked = False
        elif layer.kind in ONE_KINK and known is None:
            add(layer.derivative(-np.ones(width)), layer.derivative(np.ones(width)))
        else:
            add(*map(np.array, layer.slopes(width) if known is None else known))
            kinked = False
        W = b = None
    weights.append(np.eye(len(weights[-1])) if W is None else W)
    biases.append(np.zeros(len(weights[-1])) if b is None else b)
    free = free_inputs(network, region)
    free = np.ones(network.n_inputs) if free is None else free
    return PatternNetwork(weights, biases, free, off, on, blocks, kinked, error)


def _is_affine(layer: Any) -> bool:
    return isinstance(layer, Affine) or layer.kind == "identity"


def _matrices(layer: Any, width: int) -> Any:
    """Return the matrices that each group can be, of shape (n_groups, n_choices, size, size)."""
    import itertools

    size = layer.size_in(width)
    v = layer.directions(width)
    if v is not None:
        eye = np.broadcast_to(np.eye(size), (len(v), size, size))
        return np.stack([eye, eye - 2.0 * v[:, :, None] * v[:, None, :]], axis=1)
    if size > 8:  # more orders than any method here can go through
        return np.zeros((width // size, np.iinfo(np.int32).max, 0, 0))
    orders = np.array([np.eye(size)[list(p)] for p in itertools.permutations(range(size))])
    return np.broadcast_to(orders, (width // size, *orders.shape))


@dataclass(frozen=True)
class Target:
    """What is maximised over the Jacobians J.

    Parameters
    ----------
    norm : {"l2", "linf", "l1"}
        "l2": the spectral norm; "linf": the sum of absolute values of a row; "l1": of a column.
    index : int, default=0
        The row or column.
    """

    norm: str
    index: int = 0

    def ends(self, net: PatternNetwork) -> tuple[Values, Values]:
        """Return the first and the last weight, restricted to the row or the column."""
        first, last = net.weights[0] * net.free, net.weights[-1]
        if len(net.weights) == 1:
            last = first
        if self.norm == "linf":
            last = last[self.index : self.index + 1]
        elif self.norm == "l1":
            first = first[:, self.index : self.index + 1]
        if len(net.weights) == 1:
            first = last = last if self.norm == "linf" else first
        return first, last

    def size(self, J: Values) -> Values:
        """Return the norm of Jacobians of shape (..., m, n), restricted already."""
        if self.norm == "l2":
            if min(J.shape[-2:]) == 1:
                return np.asarray(np.sqrt((J * J).sum(axis=(-1, -2))))
            small = J.shape[-2] <= J.shape[-1]
            T = np.swapaxes(J, -1, -2)
            G = J @ T if small else T @ J
            return np.asarray(np.sqrt(np.maximum(np.linalg.eigvalsh(G)[..., -1], 0.0)))
        return np.asarray(np.abs(J).sum(axis=(-1, -2)))


def target_of(problem: LipschitzProblem, index: int) -> Target:
    """Return what one part of a problem maximises."""
    return Target(problem.norm, index)


@dataclass(frozen=True, eq=False)
class Domain:
    """Inputs u = (x, 1): a box, a ball, or all.

    Parameters
    ----------
    center, half : ndarray of shape (n_inputs + 1,)
        Centre and half widths, rounded outwards; 0 for inputs that are held. For all inputs, half
        widths are the scale of the first kinks.
    kind : {"box", "ball", "all"}, default="box"
        Shape.
    lower, upper : ndarray of shape (n_inputs,) or None
        The exact ends of a box.
    """

    center: Values
    half: Values
    kind: str = "box"
    lower: Values | None = None
    upper: Values | None = None

    @property
    def largest(self) -> Values:
        """Largest absolute value of every entry."""
        return np.abs(self.center) + self.half

    def spread(self, Z: Values) -> Values:
        """Return the largest deviation of rows z·u from their value at the centre."""
        if self.kind == "all":
            return np.where(np.any(Z[..., :-1], axis=-1), np.inf, 0.0)
        scaled = Z * self.half
        if self.kind == "ball":
            out = np.sqrt((scaled * scaled).sum(axis=-1))
        else:
            out = np.abs(scaled).sum(axis=-1)
        return np.asarray(out * (1.0 + gamma(Z.shape[-1] + 8)))


def domain_of(net: PatternNetwork, region: Region | None) -> Domain:
    """Return the inputs of a region.

    A network without biases is positively homogeneous: its slopes around the origin are those of
    all inputs, and a region around the origin has the constant of the whole space.
    """
    n = net.weights[0].shape[1]
    homogeneous = not any(b.any() for b in net.biases[:-1])
    if region is None or (homogeneous and _around_origin(region, n)):
        rows = np.sqrt((net.weights[0] ** 2).sum(axis=1))
        away = np.abs(net.biases[0])[rows > 0] / rows[rows > 0]
        scale = float(away.max(initial=0.0)) or 1.0
        return Domain(np.append(np.zeros(n), 1.0), np.append(np.full(n, scale), 0.0), "all")
    if isinstance(region, Ball):
        center = np.broadcast_to(region.center, (n,))
        half = np.append(np.full(n, region.radius), 0.0)
        return Domain(np.append(center, 1.0), half, "ball")
    box = region.box(n)
    center, half = 0.5 * box.lower + 0.5 * box.upper, 0.5 * box.upper - 0.5 * box.lower
    wide = half * (1.0 + 1e-15) + np.abs(center) * 4.5e-16  # rounding of both
    half = np.append(np.where(box.upper > box.lower, wide, 0.0), 0.0)
    return Domain(np.append(center, 1.0), half, "box", box.lower, box.upper)


def _around_origin(region: Region, n: int) -> bool:
    if isinstance(region, Ball):
        center = np.broadcast_to(region.center, (n,))
        return bool(np.linalg.norm(center) < region.radius * (1.0 - 1e-12))
    box = region.box(n)
    return bool(np.all(box.lower < 0) and np.all(box.upper > 0))
