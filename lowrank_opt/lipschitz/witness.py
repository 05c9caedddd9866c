"""Lower bounds from one input that hold with rounding: the Jacobian there, errors subtracted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from lowrank_opt.core.errors import ProblemError
from lowrank_opt.lipschitz.linearised import Linearised, has_values
from lowrank_opt.lipschitz.network import Affine, FeedForward, Residual
from lowrank_opt.lipschitz.regions import Ball
from lowrank_opt.lipschitz.rigorous import UNIT, gamma

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lowrank_opt.lipschitz.activations import Activation
    from lowrank_opt.lipschitz.network import Implicit, Network
    from lowrank_opt.lipschitz.regions import Region

    Values = NDArray[np.float64]

__all__ = ["dual_input", "dual_output", "size_of", "witness_bound"]

SMALL = 64  # shorter side of Jacobians that are formed whole
_TINY = 1e-290  # covers underflow
_ULPS = 16.0 * UNIT  # relative error of the library's element-wise functions


def size_of(Y: Values, norm: str) -> Values:
    """Return the norm of every row."""
    if norm == "l2":
        # Rows of numbers that are tiny or huge would be lost in squares.
        top = np.abs(Y).max(axis=-1)
        unit = np.where(top > 0, top, 1.0)
        return unit * np.sqrt(((Y / unit[..., None]) ** 2).sum(axis=-1))
    return np.abs(Y).max(axis=-1) if norm == "linf" else np.abs(Y).sum(axis=-1)


def _largest(Y: Values) -> Values:
    out = np.zeros_like(Y)
    k = np.abs(Y).argmax(axis=-1)[..., None]
    np.put_along_axis(out, k, np.where(np.take_along_axis(Y, k, -1) < 0, -1.0, 1.0), -1)
    return out


def dual_input(G: Values, norm: str) -> Values:
    """Return the unit inputs v that maximise g·v, one for each row g."""
    if norm == "l2":
        size = size_of(G, "l2")
        return G / np.where(size > 0, size, 1.0)[..., None]
    return np.where(G < 0, -1.0, 1.0) * (G != 0) if norm == "linf" else _largest(G)


def dual_output(Y: Values, norm: str) -> Values:
    """Return the u with uᵀy = ‖y‖, one for each row y."""
    if norm == "l2":
        return dual_input(Y, "l2")
    return _largest(Y) if norm == "linf" else np.where(Y < 0, -1.0, 1.0)


def free_inputs(network: Network, region: Region | None) -> Values | None:
    """Return 1 for inputs that vary in the region and 0 for others; ``None``: all vary."""
    if region is None:
        return None
    box = region.box(network.n_inputs)
    if isinstance(region, Ball):
        free = np.full(network.n_inputs, float(region.radius > 0))
    else:
        free = (box.upper > box.lower).astype(np.float64)
    return None if free.all() else free


def witness_bound(
    network: Network, norm: str, x: Any, region: Region | None = None, v: Values | None = None
) -> float:
    """Return a lower bound of the Lipschitz constant from the Jacobian at one input.

    Parameters
    ----------
    network : FeedForward, Residual or Implicit
        Implicit networks are taken to be well posed.
    norm : {"l2", "linf", "l1"}
        Norm of inputs and outputs.
    x : array-like of shape (n_inputs,)
        Input.
    region : Ball, Box or None, default=None
        Region on which the constant is meant; `x` has to lie in it, and inputs that do not vary in
        it are held.
    v : ndarray of shape (n_inputs,) or None, default=None
        Direction in which to differentiate; ``None``: the best that is found.

    Returns
    -------
    float
        ``‖J(x) v‖ / ‖v‖`` less all that rounding may have changed, for the exact network with the
        given weights; 0.0 where nothing is proved: an input on a kink that matters, or outside
        the region, a network too deep for double precision.

    Notes
    -----
    A running error analysis of the evaluation and of the derivative. Neurons whose slope is not
    certain enter with all slopes that occur near the input. Errors grow with the product of the
    weights' sizes, so that proofs end at depths of about 20.
    Cost: about eight passes over the weights, and the search for `v`.

    Raises
    ------
    ProblemError
        `x` has another size than the network has inputs.
    """
    x = np.asarray(x, dtype=np.float64).reshape(-1)
    if x.size != network.n_inputs:
        raise ProblemError(f"x has {x.size} entries; the network has {network.n_inputs} inputs")
    if not has_values(network) or not np.all(np.isfinite(x)) or not contains(region, x):
        return 0.0
    free = free_inputs(network, region)
    with np.errstate(all="ignore"):
        v = best_direction(network, norm, x, free) if v is None else v
        v = v if free is None else v * free
        if not np.all(np.isfinite(v)) or not np.any(v):
            return 0.0
        t, e = _derivative(network, x, v)
        if norm == "l2":
            unit = float(np.abs(t).max()) or 1.0
            top, low = size_of(t, norm), size_of(e, norm)
            value = float(top) * (1.0 - gamma(t.size + 8)) - float(low) * (1 + gamma(t.size + 8))
            value -= _TINY * unit
        else:
            value = float(size_of(np.maximum(np.abs(t) - e, 0.0), norm)) * (1 - gamma(t.size + 4))
        size = float(size_of(v, norm))
        value = value / (size * (1.0 + gamma(v.size + 8))) * (1.0 - 4.0 * UNIT)
    return value if np.isfinite(value) and value > 0 else 0.0


def contains(region: Region | None, x: Values) -> bool:
    """Return whether an input is proved to lie in a region."""
    if region is None:
        return True
    if isinstance(region, Ball):
        if region.radius == 0:
            return bool(np.all(x == region.center))
        off = float(np.linalg.norm(x - region.center)) * (1.0 + gamma(x.size + 8))
        return off <= region.radius
    box = region.box(x.size)
    return bool(np.all((x >= box.lower) & (x <= box.upper)))


def best_direction(network: Network, norm: str, x: Values, free: Values | None) -> Values:
    """Return a direction in which the Jacobian at one input is largest, or nearly."""
    if min(network.n_inputs, network.n_outputs) <= SMALL:
        J = network.jacobian(x)
        J = J if free is None else J * free
        if not np.all(np.isfinite(J)):
            return np.zeros(network.n_inputs)
        if norm == "linf":
            return dual_input(J[np.abs(J).sum(axis=1).argmax()], norm)
        if norm == "l1":
            return np.eye(len(x))[np.abs(J).sum(axis=0).argmax()]
        unit = np.abs(J).max() or 1.0
        G = (J / unit) @ (J / unit).T if J.shape[0] <= J.shape[1] else (J / unit).T @ (J / unit)
        top = np.linalg.eigh(G)[1][:, -1]
        return dual_input(top @ J, norm) if J.shape[0] <= J.shape[1] else top
    lin = Linearised(network, x[None])
    U = dual_output(lin.push(np.ones((1, len(x)))), norm)
    best, v = 0.0, np.zeros(len(x))
    for _ in range(30):
        G = lin.pull(U)
        V = dual_input(G if free is None else G * free, norm)
        Y = lin.push(V)
        size = float(size_of(Y, norm)[0])
        if size <= best * (1.0 + 1e-9):
            break
        best, v, U = size, V[0], dual_output(Y, norm)
    return v


# ---------------------------------------------------------------- values with their errors


class _Track:
    """A vector with a bound of the error of each entry and one of its l2 norm."""

    def __init__(self, value: Values, error: Values, total: float) -> None:
        own = float(np.linalg.norm(error)) * (1.0 + gamma(len(error) + 4))
        self.value, self.total = value, min(total, own) + _TINY  # norms may underflow
        self.error = np.minimum(error, self.total)


def _exact(x: Values) -> _Track:
    return _Track(x, np.zeros(len(x)), 0.0)


def _affine(W: Any, h: _Track, b: Any = None, top: float | None = None) -> _Track:
    """Return W h + b; `top` bounds the spectral norm of W."""
    value = np.asarray(W @ h.value)
    size = abs(W)
    k = gamma(W.shape[1] + 4)
    rounding = k * np.asarray(size @ np.abs(h.value))
    if b is not None:
        value = value + b
        rounding = rounding + 2.0 * UNIT * (np.abs(value) + np.abs(b))
    rounding = rounding * (1.0 + k) + _TINY
    error = np.asarray(size @ h.error) * (1.0 + k) + rounding
    if top is None:
        data = W if isinstance(W, np.ndarray) else W.data
        top = float(np.linalg.norm(data)) * (1.0 + gamma(data.size + 4))
    total = top * h.total * (1 + 4 * UNIT) + float(np.linalg.norm(rounding)) * (1.0 + 2.0 * k)
    return _Track(value, error * (1.0 + 2.0 * UNIT), total)


def _function(phi: Activation, z: _Track) -> _Track:
    """Return φ(z)."""
    value = phi.apply(z.value[None])[0]
    if phi.by_groups:
        size = phi.size_in(len(value))
        # Both are 1-Lipschitz for the l2 norm, sorting for the largest entry of a group, too.
        error = np.repeat(_by_groups(z.error, size), size)
        if phi.kind == "householder":
            error = error * np.sqrt(size) + 8.0 * gamma(size + 8) * np.repeat(
                np.sqrt(size) * _by_groups(np.abs(z.value), size), size
            )
            return _Track(value, error, np.inf)
        return _Track(value, error, z.total)
    low, high = phi.slopes(len(value))
    slope = np.maximum(np.abs(low), np.abs(high))
    own = np.zeros(len(value)) if _is_linear(phi) else _ULPS * np.abs(value) + _TINY
    own = own + (UNIT * np.abs(value) if phi.kind == "leaky_relu" else 0.0)
    if phi.kind in ("silu", "gelu", "softplus", "elu"):
        own = own + _ULPS * np.minimum(np.abs(z.value), 1.0)
    total = float(slope.max(initial=0.0)) * z.total * (1 + 4 * UNIT) + float(np.linalg.norm(own))
    return _Track(value, (slope * z.error + own) * (1.0 + 4.0 * UNIT), total * (1 + 1e-12))


def _is_linear(phi: Activation) -> bool:
    return phi.kind in ("identity", "relu", "abs", "hardtanh", "leaky_relu")


def _by_groups(a: Values, size: int) -> Values:
    return a.reshape(-1, size).max(axis=1)


def _slope_range(phi: Activation, z: _Track) -> tuple[Values, Values]:
    """Return middle and radius of the slopes that occur within the error of z."""
    # Never an interval of one point: at a kink, the slopes of both sides count.
    reach = z.error * (1.0 + 4.0 * UNIT) + 2.0 * UNIT * np.abs(z.value) + _TINY
    low, high = phi.local_slopes(z.value - reach, z.value + reach)
    middle = 0.5 * (low + high)
    middle = np.where(low == high, low, middle)
    return middle, np.where(low == high, 0.0, (0.5 * (high - low)) * (1 + 8 * UNIT) + 4 * UNIT)


def _tangent(phi: Activation, z: _Track, t: _Track) -> _Track:
    """Return φ'(z) t."""
    if phi.by_groups:
        return _group_tangent(phi, z, t)
    middle, radius = _slope_range(phi, z)
    value = middle * t.value
    own = radius * np.abs(t.value) + 2.0 * UNIT * np.abs(value) * (middle != 1.0)
    own = own * (1.0 + 4.0 * UNIT)
    steep = np.abs(middle) + radius
    total = float(steep.max(initial=0.0)) * t.total + float(np.linalg.norm(own))
    return _Track(value, (steep * t.error + own) * (1 + 4 * UNIT), total * (1 + 1e-12))


def _group_tangent(phi: Activation, z: _Track, t: _Track) -> _Track:
    n = len(z.value)
    size = phi.size_in(n)
    value = phi.push(z.value, t.value[:, None])[:, 0]
    group = t.value.reshape(-1, size)
    if phi.kind == "group_sort":
        order = np.argsort(z.value.reshape(-1, size), axis=1)
        ranked = np.take_along_axis(z.value.reshape(-1, size), order, 1)
        error = np.take_along_axis(z.error.reshape(-1, size), order, 1)
        gaps = np.diff(ranked, axis=1) > (error[:, 1:] + error[:, :-1]) * (1 + 8 * UNIT)
        # Neighbours may not tell: the largest error of a group decides.
        gaps &= np.diff(ranked, axis=1) > 2.0 * error.max(axis=1, keepdims=True) * (1 + 8 * UNIT)
        doubt = np.where(gaps.all(axis=1), 0.0, group.max(axis=1) - group.min(axis=1))
        error = np.repeat(_by_groups(t.error, size) + doubt * (1 + 4 * UNIT), size)
        own = np.sqrt(size) * np.linalg.norm(doubt)
        return _Track(value, error, t.total + float(own) * (1 + 1e-12))
    v = phi.directions(n)
    assert v is not None
    dot = (z.value.reshape(-1, size) * v).sum(axis=1)
    about = np.abs(z.value).reshape(-1, size).max(axis=1) * size * gamma(size + 4)
    about = about + (z.error.reshape(-1, size) * np.abs(v)).sum(axis=1) * (1 + gamma(size + 4))
    along = np.abs((group * v).sum(axis=1)) + gamma(size + 4) * np.abs(group).sum(axis=1)
    doubt = np.where(np.abs(dot) > about, 0.0, 2.0 * along)
    own = doubt + 8.0 * gamma(size + 8) * np.abs(group).sum(axis=1)
    error = np.repeat(_by_groups(t.error, size) * np.sqrt(size) + own * (1 + 1e-12), size)
    return _Track(value, error * (1 + 1e-12), np.inf)


def _plus(a: _Track, b: _Track) -> _Track:
    value = a.value + b.value
    own = 2.0 * UNIT * np.abs(value) + _TINY
    total = (a.total + b.total + float(np.linalg.norm(own))) * (1 + 1e-12)
    return _Track(value, (a.error + b.error + own) * (1 + 4 * UNIT), total)


def _derivative(network: Network, x: Values, v: Values) -> tuple[Values, Values]:
    """Return J(x) v and a bound of the error of each entry."""
    h, t = _exact(x), _exact(v)
    if isinstance(network, FeedForward):
        for layer in network.layers:
            if isinstance(layer, Affine):
                h, t = _affine(layer.weight, h, layer.bias), _affine(layer.weight, t)
            else:
                h, t = _function(layer, h), _tangent(layer, h, t)
    elif isinstance(network, Residual):
        if network.first is not None:
            W = network.first.weight
            h, t = _affine(W, h, network.first.bias), _affine(W, t)
        for b in network.blocks:
            z, s = _affine(b.weight, h, b.bias), _affine(b.weight, t)
            a, s = _function(b.activation, z), _tangent(b.activation, z, s)
            h = _plus(_affine(b.skip, h), _affine(b.output, a))
            t = _plus(_affine(b.skip, t), _affine(b.output, s))
        if network.last is not None:
            t = _affine(network.last.weight, t)
    else:
        t = _implicit(network, h, t)
    return t.value, t.error


def _implicit(net: Implicit, x: _Track, v: _Track) -> _Track:
    """Return C dz + D v with dz = (I - S W)⁻¹ S U v, by Krawczyk's test around z.

    With R near the inverse of I - S W and ``q = max ‖I - R (I - S' W)‖∞`` over the slopes S' that
    occur within a radius e of z, a residual with ``‖R r‖∞ <= (1 - q) e`` proves one equilibrium
    within e; the derivative is then off by its residual in the same way.
    """
    nothing = _Track(np.zeros(net.n_outputs), np.full(net.n_outputs, np.inf), np.inf)
    W, phi, n = net.weight, net.activation, len(net.weight)
    z = net.equilibrium(x.value[None])[0]
    drive = _affine(net.input, x, net.bias)
    a = _plus(_affine(W, _exact(z)), drive)
    f = _function(phi, a)
    r = np.abs(f.value - z) * (1 + 2 * UNIT) + f.error
    slope, _ = _slope_range(phi, a)
    try:
        R = np.linalg.solve(np.eye(n) - slope[:, None] * W, np.eye(n))
    except np.linalg.LinAlgError:
        return nothing
    size, absolute = np.abs(R), np.abs(W)
    e = 2.0 * float((size @ r).max()) * (1 + gamma(n + 8)) + _TINY
    for _ in range(3):
        near = _Track(a.value, a.error + e * absolute.sum(axis=1) * (1 + gamma(n + 4)), np.inf)
        slope, radius = _slope_range(phi, near)
        M = np.eye(n) - slope[:, None] * W
        off = np.abs(np.eye(n) - R @ M) + gamma(n + 4) * size @ np.abs(M)
        off = off + 4 * UNIT + size @ ((radius + 4 * UNIT * np.abs(slope))[:, None] * absolute)
        q = float(off.sum(axis=1).max()) * (1 + gamma(2 * n + 8))
        if q < 1.0 and float((size @ r).max()) * (1 + gamma(n + 8)) <= (1.0 - q) * e * (1 - 1e-12):
            break
        e *= 8.0
    else:
        return nothing
    s = _affine(net.input, v)
    s = _Track(
        slope * s.value,
        (np.abs(slope) + radius) * s.error + (radius + 4 * UNIT) * np.abs(s.value),
        np.inf,
    )
    dz = np.linalg.solve(M, s.value)
    rest = np.abs(s.value - M @ dz) + gamma(n + 8) * (np.abs(M) @ np.abs(dz) + np.abs(s.value))
    rest = rest + s.error + (radius + 4 * UNIT * np.abs(slope)) * (absolute @ np.abs(dz))
    error = float((size @ rest).max()) / (1.0 - q) * (1 + gamma(2 * n + 16)) + _TINY
    d = _Track(dz, np.full(n, error), np.inf)
    return _plus(_affine(net.output, d), _affine(net.skip, v))
