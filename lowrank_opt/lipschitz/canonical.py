"""From a network to the forms that solvers take.

Exact steps, always on: affine maps that follow each other are merged, dead neurons deleted, the
largest slope of every neuron scaled to one, layers divided by powers of two so that their norms
are about one, and (for the Euclidean norm) inputs and outputs compressed by orthogonal maps.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import scipy.linalg as la
import scipy.sparse as sp

from lowrank_opt.core.errors import ProblemError
from lowrank_opt.lipschitz.forms import Chain, Form, Group, GroupChain, LowRankLMI
from lowrank_opt.lipschitz.network import Affine, FeedForward, Implicit, Residual
from lowrank_opt.lipschitz.rigorous import UNIT, gamma, norm_upper

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from lowrank_opt.lipschitz.activations import Activation

    Values = NDArray[np.float64]
    Slopes = tuple[Values, Values]
    Layer: TypeAlias = Slopes | Group

__all__ = ["Part", "Stack", "coupled_form", "parts_of", "stack_of"]

_DENSE_LIMIT = 64_000_000  # entries of a weight matrix
_AFFINE_LIMIT = 2500  # variables up to which affine neurons are eliminated
# Slopes of a narrower range (relative to the larger) are affine as far as a chain is concerned,
# whose matrix has h as a variable: eliminated or centred up to the limit, widened beyond it.
_NARROW = 0.1
_FINEST = 1e-9
# Powers of two between the smallest and the largest partial product of the layers' sizes that leave
# room for everything computed from them; and the least power that a bound may have as its scale.
_MODEST, _LEAST_POWER = 400, -960


@dataclass(frozen=True, eq=False)
class Part:
    """One bound to be computed: the network itself, or one of its outputs.

    Parameters
    ----------
    form : Form
        What solvers take.
    label : int or None
        Output (for "l1": input) that the part stands for; ``None``: all of them at once.
    make_product : callable or float
        See `product`.
    first, last : ndarray or None
        First and last weight before they were compressed, for the certificate.
    lengths : float
        Another bound for "linf" and "l1": by Euclidean lengths inside.
    """

    form: Form
    label: int | None
    make_product: Callable[[], float] | float
    first: Values | None = None
    last: Values | None = None
    lengths: float = math.inf

    @functools.cached_property
    def cheap(self) -> float:
        """The smallest bound without optimisation."""
        return min(self.product, self.lengths)

    @functools.cached_property
    def product(self) -> float:
        """The product of norms, with the scale, rounded up: a bound without optimisation."""
        made = self.make_product
        return float(made() if callable(made) else made)


@dataclass(frozen=True, eq=False)
class Stack:
    """Weights and what the hidden layers do, without biases: W_L φ(… φ(W_1 x)).

    Parameters
    ----------
    weights : tuple of ndarray
        W_1, …, W_L.
    layers : tuple of (alpha, beta) or Group
        Slopes of every neuron, or groups, of the L-1 hidden layers.
    """

    weights: tuple[Values, ...]
    layers: tuple[Layer, ...]

    def transposed(self) -> Stack:
        """Return the network whose Jacobians are the transposed ones.

        Slopes and the doubly stochastic and symmetric maps between increments of groups are the
        same for the transposed product.
        """
        return Stack(
            tuple(np.ascontiguousarray(W.T) for W in reversed(self.weights)),
            tuple(reversed(self.layers)),
        )

    @property
    def kind(self) -> str:
        """Which of "slopes", "groups" and "mixed" the hidden layers are."""
        groups = [isinstance(layer, Group) for layer in self.layers]
        if not any(groups):
            return "slopes"
        return "groups" if all(groups) else "mixed"


def dense(W: Values | sp.csr_array) -> Values:
    """Return a weight as a dense array; raise if that would not be reasonable."""
    if not sp.issparse(W):
        return W
    if math.prod(W.shape) > _DENSE_LIMIT:
        raise ProblemError(
            f"network: a sparse weight of shape {W.shape} would be dense with "
            f"{math.prod(W.shape):,} entries (limit {_DENSE_LIMIT:,}); bound the layers one by "
            "one, with lowrank_opt.lipschitz.convolution_norm for convolutions, and multiply"
        )
    return np.asarray(W.toarray())


def layer_of(activation: Activation, width: int) -> Layer:
    """Return slopes or groups of an activation on a layer."""
    if activation.by_groups:
        return Group(activation.size_in(width), activation.directions(width))
    return activation.slopes(width)


def stack_of(network: FeedForward, slopes: Sequence[Slopes] | None = None) -> Stack:
    """Return weights and layers of a feed-forward network, affine parts merged.

    Parameters
    ----------
    network : FeedForward
        The network.
    slopes : sequence of (alpha, beta) or None, default=None
        Slopes that are known to hold on a region, one pair for each activation, to be used
        instead of the activations' own (not for groups).
    """
    weights: list[Values] = []
    layers: list[Layer] = []
    pending: Values | None = None  # affine maps since the last activation
    count = 0
    for layer in network.layers:
        if isinstance(layer, Affine):
            W = dense(layer.weight)
            pending = W if pending is None else W @ pending
            continue
        if pending is None:  # two activations in a row
            pending = np.eye(len(weights[-1]))
        width = len(pending)
        what = layer_of(layer, width)
        if slopes is not None and not isinstance(what, Group):
            what = slopes[count]
        count += 1
        if not isinstance(what, Group) and np.array_equal(what[0], what[1]):
            pending = what[0][:, None] * pending  # an affine layer
            continue
        if isinstance(what, Group) and what.size == 1 and what.direction is None:
            continue  # a group of one is the identity
        weights.append(pending)
        layers.append(what)
        pending = None
    weights.append(np.eye(weights[-1].shape[0]) if pending is None else pending)
    return _balanced(_scaled(_without_dead(Stack(tuple(weights), tuple(layers)))))


def _balanced(stack: Stack) -> Stack:
    """Share powers of two among layers of extreme size, so that no partial product underflows.

    What hidden layers do is described free of scale, so that only the product matters.
    """
    if not all(np.any(W) for W in stack.weights):
        return stack
    exponents = [math.frexp(float(np.abs(W).max()))[1] for W in stack.weights]
    partial = np.concatenate([[0], np.cumsum(exponents)])
    if int(np.ptp(partial)) <= _MODEST:
        return stack
    shares = np.diff(np.arange(len(exponents) + 1) * int(partial[-1]) // len(exponents))
    weights = tuple(
        np.ldexp(W, int(share) - e)
        for W, e, share in zip(stack.weights, exponents, shares, strict=True)
    )
    return Stack(weights, stack.layers)


def _without_dead(stack: Stack) -> Stack:
    """Delete neurons that are constant or that nothing reads."""
    weights, layers = list(stack.weights), list(stack.layers)
    changed = True
    while changed:
        changed = False
        for i, layer in enumerate(layers):
            if isinstance(layer, Group):
                continue
            alpha, beta = layer
            live = np.any(weights[i], axis=1) & np.any(weights[i + 1], axis=0)
            live &= (alpha != 0) | (beta != 0)
            if not live.any():  # nothing passes the layer
                weights[i + 1] = np.zeros_like(weights[i + 1])
                return Stack(tuple(weights), tuple(layers))
            if live.all():
                continue
            weights[i] = np.ascontiguousarray(weights[i][live])
            weights[i + 1] = np.ascontiguousarray(weights[i + 1][:, live])
            layers[i] = (alpha[live], beta[live])
            changed = True
    return Stack(tuple(weights), tuple(layers))


def _scaled(stack: Stack) -> Stack:
    """Scale the slope of largest magnitude of every neuron to one, and to the upper end."""
    weights, layers = list(stack.weights), list(stack.layers)
    for i, layer in enumerate(layers):
        if isinstance(layer, Group):
            continue
        alpha, beta = layer
        sign = np.where(np.abs(alpha) > np.abs(beta), -1.0, 1.0)
        low = np.where(sign > 0, alpha, -beta)
        high = np.where(sign > 0, beta, -alpha)
        high = np.where(high > 0, high, 1.0)  # a dead neuron that was kept
        if np.any(sign < 0) or np.any(high != 1.0):
            weights[i + 1] = weights[i + 1] * (sign * high)
        # Rounded outwards.
        ratio = low / high
        exact = ratio * high == low
        ratio = np.where(exact, ratio, np.maximum(np.nextafter(ratio, -np.inf), -1.0))
        # A range as narrow as rounding would only make the inequality ill-posed.
        ratio = np.where((ratio < 1.0) & (ratio > 1.0 - _FINEST), 1.0 - _FINEST, ratio)
        layers[i] = (ratio, np.ones_like(high))
    return Stack(tuple(weights), tuple(layers))


def _power_of_two(W: Values) -> float:
    """Return a power of two near the spectral norm of a matrix."""
    size = float(np.abs(W).max())
    if size == 0.0:
        return 1.0
    V = W / size
    v = np.ones(V.shape[1]) / math.sqrt(V.shape[1])
    v += 0.5 * np.sin(np.arange(1.0, len(v) + 1.0)) / math.sqrt(len(v))
    value = 1.0
    for _ in range(12):
        u = V.T @ (V @ v)
        value = float(np.linalg.norm(u))
        if value == 0.0:
            break
        v = u / value
    estimate = size * math.sqrt(value) if value > 0 else size
    return float(2.0 ** round(math.log2(estimate)))


def _normalised(weights: Sequence[Values]) -> tuple[list[Values], float]:
    """Divide by powers of two; return the matrices and the product of the powers."""
    powers = [_power_of_two(W) for W in weights]
    exponent = sum(round(math.log2(p)) for p in powers)
    if exponent > 1020:
        raise ProblemError(
            f"network: the product of the layers' norms is about 2^{exponent}, beyond the range "
            "of floating point; scale the weights"
        )
    if exponent < _LEAST_POWER:
        raise ProblemError(
            f"network: the product of the layers' norms is about 2^{exponent}, below the range of "
            "floating point; scale the weights"
        )
    return [W / p for W, p in zip(weights, powers, strict=True)], float(2.0**exponent)


ZERO = Chain((np.zeros((1, 1)),), (), 0.0)


def parts_of(
    network: Stack | Residual | Implicit, norm: str, slopes: Sequence[Slopes] | None = None
) -> list[Callable[[], Part]]:
    """Return what makes the parts of a problem; forms are built when they are needed.

    Parameters
    ----------
    network : Stack, Residual or Implicit
        With the outputs of interest; a feed-forward network as its stack.
    norm : {"l2", "linf", "l1"}
        Norm of inputs and outputs.
    slopes : sequence of (alpha, beta) or None, default=None
        Slopes on a region, of networks that are no stack.

    Returns
    -------
    list of callable
        One for all outputs together ("l2"), for each output ("linf") or each input ("l1").
    """
    if isinstance(network, Stack):
        stack = network
        if norm == "l2":
            return [lambda: _part_l2(stack)]
        if norm == "l1":
            stack = stack.transposed()
        inner = _inner_products(stack)
        rows = range(len(stack.weights[-1]))
        return [_bind(_part_row, stack, k, inner) for k in rows]
    if isinstance(network, Residual):
        make: Callable[..., Part] = _part_residual
    else:
        make = _part_implicit
    if norm == "l2":
        return [lambda: make(network, norm, None, slopes)]
    count = network.n_outputs if norm == "linf" else network.n_inputs
    return [_bind(make, network, norm, k, slopes) for k in range(count)]


def _bind(make: Callable[..., Part], *args: object) -> Callable[[], Part]:
    return lambda: make(*args)


def _has_narrow(stack: Stack) -> bool:
    return any(
        not isinstance(layer, Group) and bool(np.any(layer[1] - layer[0] < _NARROW * layer[1]))
        for layer in stack.layers
    )


def _widened(stack: Stack) -> Stack:
    """Give nearly affine neurons some width of slopes, where there are too many to eliminate."""
    layers: list[Layer] = []
    for layer in stack.layers:
        if isinstance(layer, Group):
            layers.append(layer)
        else:
            alpha, beta = layer
            layers.append((np.minimum(alpha, (1.0 - _NARROW) * beta), beta))
    return Stack(stack.weights, tuple(layers))


def _part_l2(stack: Stack) -> Part:
    if not all(np.any(W) for W in stack.weights):
        return Part(ZERO, None, 0.0)

    given = stack.weights

    def product() -> float:
        norms = [norm_upper(W) for W in given]
        return math.prod(norms) * (1.0 + gamma(len(norms)))

    weights, scale = _normalised(stack.weights)
    if not stack.layers:
        return Part(Chain((weights[0],), (), scale), None, product)
    if stack.kind == "slopes" and _has_narrow(stack):
        d = weights[0].shape[1] + sum(len(W) for W in weights[:-1])
        if d <= _AFFINE_LIMIT:
            return Part(_mixed(weights, stack.layers, "l2", scale), None, product)
        stack = _widened(stack)
    first = last = None
    if stack.kind in ("slopes", "groups"):
        if weights[0].shape[1] > weights[0].shape[0]:
            first = weights[0]
            R = la.qr(first.T, mode="r", check_finite=False)[0][: len(first)]
            weights[0] = np.ascontiguousarray(R.T)
            scale *= 1.0 + 1e-13
        if weights[-1].shape[0] > weights[-1].shape[1]:
            last = weights[-1]
            R = la.qr(last, mode="r", check_finite=False)[0][: last.shape[1]]
            weights[-1] = np.ascontiguousarray(R)
            scale *= 1.0 + 1e-13
    if stack.kind == "slopes":
        alpha = tuple(np.asarray(layer[0]) for layer in stack.layers)  # type: ignore[index]
        return Part(Chain(tuple(weights), alpha, scale), None, product, first, last)
    if stack.kind == "groups":
        groups: tuple[Group, ...] = stack.layers  # type: ignore[assignment]
        return Part(GroupChain(tuple(weights), groups, "l2", scale), None, product, first, last)
    return Part(_mixed(weights, stack.layers, "l2", scale), None, product)


def _row_sums(W: Values) -> float:
    """Return the norm of a matrix between largest entries, rounded up."""
    return float(np.abs(W).sum(axis=1).max()) * (1.0 + gamma(W.shape[1]))


def _growth(layer: Layer) -> float:
    """Return the norm of a layer between largest entries."""
    if not isinstance(layer, Group) or layer.direction is None:
        return 1.0
    # |I - 2 v vᵀ| summed over rows; the map is that or the identity, or between the two.
    v = np.abs(layer.direction)
    rows = 1.0 - 2.0 * v * v + 2.0 * v * v.sum(axis=1, keepdims=True)
    signed = np.abs(1.0 - 2.0 * v * v) + 2.0 * v * (v.sum(axis=1, keepdims=True) - v)
    return max(1.0, float(np.maximum(rows, signed).max()) * (1.0 + gamma(16)))


def _inner_products(stack: Stack) -> tuple[float, float]:
    """Return products of norms of all but the last map: between largest entries, and l2.

    The second has the root of the number of inputs as a factor: an input whose largest entry is
    one has at most that length.
    """
    product, lengths = 1.0, math.sqrt(stack.weights[0].shape[1]) * (1.0 + 2.0 * UNIT)
    for W, layer in zip(stack.weights[:-1], stack.layers, strict=True):
        product *= _row_sums(W) * _growth(layer) * (1.0 + 2.0 * UNIT)
        lengths *= norm_upper(W) * (1.0 + 2.0 * UNIT)
    return product, lengths


def _part_row(stack: Stack, k: int, inner: tuple[float, float]) -> Part:
    w = stack.weights[-1][k : k + 1]
    if not np.any(w) or not all(np.any(W) for W in stack.weights):
        return Part(ZERO, k, 0.0)
    product = inner[0] * _row_sums(w) * (1.0 + 2.0 * UNIT)
    cheap = inner[1] * norm_upper(w) * (1.0 + 2.0 * UNIT)
    if not stack.layers:
        return Part(Chain((np.array([[_row_sums(w)]]),), (), 1.0), k, product)
    single = _without_dead(Stack((*stack.weights[:-1], w), stack.layers))
    if not all(np.any(W) for W in single.weights):
        return Part(ZERO, k, 0.0)
    weights, scale = _normalised(single.weights)
    if stack.kind == "groups":
        groups: tuple[Group, ...] = single.layers  # type: ignore[assignment]
        return Part(GroupChain(tuple(weights), groups, "linf", scale), k, product, lengths=cheap)
    d = weights[0].shape[1] + sum(len(W) for W in weights[:-1])
    layers = single.layers if d <= _AFFINE_LIMIT else _widened(single).layers
    return Part(_mixed(weights, layers, "linf", scale), k, product, lengths=cheap)


def _mixed(
    weights: Sequence[Values], layers: Sequence[Layer], norm: str, scale: float
) -> LowRankLMI:
    from lowrank_opt.lipschitz.lmi_builders import mixed_lmi

    return mixed_lmi(weights, layers, norm=norm, scale=scale)


# Rounding of the orthonormal bases in which the kept parts of groups are eliminated.
_BASES = 1e-11


def coupled_form(chain: GroupChain) -> LowRankLMI:
    """Return a chain of groups as one inequality, with what groups keep eliminated.

    A group's sum (the part orthogonal to v) is the same before and after the activation, so only
    the rest are variables. Bounds are at least as tight as with multipliers layer by layer.

    Parameters
    ----------
    chain : GroupChain
        The network's form.
    """
    scale = chain.scale * (1.0 + _BASES)
    return _mixed(chain.weights, chain.groups, chain.norm, scale)


def _norm(A: Values, norm: str) -> float:
    if norm == "l2":
        return norm_upper(A)
    return _row_sums(A)


def _part_residual(
    network: Residual, norm: str, k: int | None, slopes: Sequence[Slopes] | None
) -> Part:
    from lowrank_opt.lipschitz.lmi_builders import residual_lmi

    first = np.eye(network.n_inputs) if network.first is None else dense(network.first.weight)
    last = (
        np.eye(network.blocks[-1].n_outputs) if network.last is None else dense(network.last.weight)
    )
    blocks = [(b.skip, b.output, b.weight) for b in network.blocks]
    layers = [layer_of(b.activation, len(b.weight)) for b in network.blocks]
    if slopes is not None:
        layers = [
            layer if isinstance(layer, Group) else s
            for layer, s in zip(layers, slopes, strict=True)
        ]
    if norm == "l1":  # the Jacobian (H + G D W) transposed
        first, last = last.T, first.T
        blocks = [(H.T, W.T, G.T) for H, G, W in reversed(blocks)]
        layers = layers[::-1]
    size = "l2" if norm == "l2" else "linf"
    if k is not None:
        last = last[k : k + 1]
    if not np.any(last) or not np.any(first):
        return Part(ZERO, k, 0.0)
    product = _norm(first, size) * _norm(last, size)
    for (H, G, W), layer in zip(blocks, layers, strict=True):
        slope = 1.0
        if not isinstance(layer, Group):
            slope = float(np.maximum(np.abs(layer[0]), np.abs(layer[1])).max())
        elif size == "linf":
            slope = _growth(layer)
        product *= _norm(H, size) + slope * _norm(G, size) * _norm(W, size)
    product *= 1.0 + gamma(8 * len(blocks) + 8)
    (first, last), scale = _normalised([first, last])
    # A group of the transposed network keeps the same functions.
    form = residual_lmi(first, blocks, layers, last, norm=size, scale=scale)
    return Part(form, k, product)


def _part_implicit(
    network: Implicit, norm: str, k: int | None, slopes: Sequence[Slopes] | None
) -> Part:
    from lowrank_opt.lipschitz.lmi_builders import implicit_lmi

    W, U, C, D = network.weight, network.input, network.output, network.skip
    alpha, beta = network.activation.slopes(len(W)) if slopes is None else slopes[0]
    if norm == "l1":  # J = C (I - S W)⁻¹ S U + D; transposed Uᵀ (I - S Wᵀ)⁻¹ S Cᵀ + Dᵀ
        W, U, C, D = W.T, C.T, U.T, D.T
    size = "l2" if norm == "l2" else "linf"
    if k is not None:
        C, D = C[k : k + 1], D[k : k + 1]
    slope = float(np.maximum(np.abs(alpha), np.abs(beta)).max())
    contraction = slope * _norm(W, size)
    product = math.inf
    if contraction < 1.0 - 1e-12:
        product = _norm(C, size) * slope * _norm(U, size) / (1.0 - contraction) + _norm(D, size)
        product *= 1.0 + gamma(64)
    if not np.any(D) and (not np.any(C) or not np.any(U)):
        return Part(ZERO, k, 0.0)
    return Part(implicit_lmi(W, U, C, D, alpha, beta, norm=size), k, product)
