"""Interval bound propagation: boxes that contain the outputs for all inputs of a box."""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

from lowrank_opt.core.errors import ProblemError
from lowrank_opt.lipschitz.network import Affine, FeedForward, Implicit, Residual, points
from lowrank_opt.lipschitz.rigorous import UNIT, gamma

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import ArrayLike, NDArray

    from lowrank_opt.lipschitz.activations import Activation

    Values = NDArray[np.float64]

__all__ = ["IntervalBounds", "interval_bounds"]

_TINY = float(np.finfo(np.float64).tiny)
# Numbers in a block of inputs, and in the differences of last rows that are kept.
_BLOCK, _KEPT = 1 << 21, 1 << 23
# Roundings of a value of a smooth activation.
_ULPS = 16.0 * UNIT
_EXACT = ("identity", "relu", "abs", "hardtanh", "group_sort")
_RANGES = {"tanh": (-1.0, 1.0), "sigmoid": (0.0, 1.0), "softplus": (0.0, np.inf)}


@dataclass(frozen=True, eq=False)
class IntervalBounds:
    """Boxes that contain the outputs of a network, or its margins.

    Parameters
    ----------
    lower, upper : ndarray of shape (n, n_outputs)
        Ends of the boxes, one row for each input; of shape (n_outputs,) for an input that was
        given alone.
    preactivations : tuple of (ndarray, ndarray)
        Lower and upper ends of the arguments of every activation, if they were asked for.
    labels : ndarray of shape (n,) or None
        The classes whose margins these are; ``None``: these are the outputs themselves.
    """

    lower: Values
    upper: Values
    preactivations: tuple[tuple[Values, Values], ...] = ()
    labels: NDArray[np.intp] | None = None

    def __iter__(self) -> Iterator[Values]:
        """Allow ``lower, upper = interval_bounds(...)``."""
        return iter((self.lower, self.upper))

    @property
    def certified(self) -> NDArray[np.bool_]:
        """Whether every input of the box is given the class of `labels`, shape (n,)."""
        if self.labels is None:
            raise ProblemError(
                "certified: these are bounds of outputs; call interval_bounds with margins_for=y"
            )
        low = np.atleast_2d(self.lower)
        if low.shape[1] > 1:
            low = low.copy()
            low[np.arange(len(low)), self.labels] = np.inf
        out = np.asarray((low > 0.0).all(axis=1))
        return out if self.lower.ndim > 1 else out[0]


@dataclass(frozen=True, eq=False)
class _Linear:
    """An affine map whose entries are known up to an error.

    `size` is at least the modulus of the true weight; `error` and `bias_error` bound the distance
    from the true ones, ``None`` where they are exact.
    """

    weight: Any
    bias: Values
    size: Any
    error: Any = None
    bias_error: Any = None

    @classmethod
    def of(cls, layer: Affine) -> _Linear:
        return cls(layer.weight, layer.bias, abs(layer.weight))

    def after(self, first: _Linear | None) -> _Linear:
        """Return the product with the map before."""
        if first is None:
            return self
        g = 2.0 * gamma(self.weight.shape[1] + 4)
        loose = g * self.size if self.error is None else g * self.size + self.error
        error = loose @ first.size
        low = np.abs(first.bias)
        bias_error = loose @ low
        if first.error is not None:
            error = error + self.size @ first.error
        if first.bias_error is not None:
            bias_error = bias_error + self.size @ first.bias_error
        if self.bias_error is not None:
            bias_error = bias_error + self.bias_error
        weight = self.weight @ first.weight
        bias = np.asarray(self.weight @ first.bias + self.bias)
        error = error * (1.0 + g)
        bias_error = (np.asarray(bias_error) + g * np.abs(bias)) * (1.0 + g) + _TINY
        return _Linear(weight, bias, abs(weight) + error, error, bias_error)

    def differences(self, label: int) -> _Linear:
        """Return the map to f_label - f_k for all k; of one output to ± f."""
        if len(self.bias) == 1:
            sign = 2.0 * label - 1.0
            return _Linear(
                sign * self.weight, sign * self.bias, self.size, self.error, self.bias_error
            )
        W = _dense(self.weight)
        D, d = W[label] - W, self.bias[label] - self.bias
        # A difference is off by at most half a unit in the last place.
        error, bias_error = UNIT * np.abs(D), UNIT * np.abs(d)
        if self.error is not None:
            E, e = _dense(self.error), self.bias_error
            error = error + 1.01 * (E[label] + E)
            bias_error = bias_error + 1.01 * (e[label] + e)
        return _Linear(D, d, np.abs(D) + error, error, bias_error)

    def box(self, low: Values, high: Values, outward: bool) -> tuple[Values, Values]:
        """Return a box with the images of a box, per row."""
        c = 0.5 * low + 0.5 * high
        r = np.maximum(high - c, c - low)
        if not np.isfinite(r).all():
            r = np.where(np.isfinite(r), r, np.inf)
            c = np.where(np.isfinite(r), c, 0.0)
        centre = _rows(self.weight, c) + self.bias
        if not outward:
            radius = _rows(self.size, r)
        else:
            g = 2.0 * gamma(self.weight.shape[1] + 4)
            size = np.abs(c)
            radius = _rows(self.size, r * (1.0 + 4.0 * UNIT) + g * size)
            radius += g * np.abs(self.bias)
            if self.error is not None:
                radius += _rows(self.error, size)
            if self.bias_error is not None:
                radius += self.bias_error
            radius *= 1.0 + g
            radius += 4.0 * UNIT * (np.abs(centre) + radius) + 2.0 * self.weight.shape[1] * _TINY
        low, high = centre - radius, centre + radius
        if not (np.isfinite(low).all() and np.isfinite(high).all()):
            bad = ~(np.isfinite(low) & np.isfinite(high))
            low, high = np.where(bad, -np.inf, low), np.where(bad, np.inf, high)
        return low, high


def _dense(A: Any) -> Values:
    return np.asarray(A.toarray() if sp.issparse(A) else A)


def _rows(A: Any, X: Values) -> Values:
    """Return A times every row of X."""
    return np.asarray((A @ X.T).T if sp.issparse(A) else X @ A.T)


def _through(phi: Activation, low: Values, high: Values, outward: bool) -> tuple[Values, Values]:
    """Return a box with the values of an activation on a box."""
    out_low, out_high = phi.interval(low, high)
    if not outward or phi.kind in _EXACT:
        return out_low, out_high
    reach = np.maximum(np.abs(low), np.abs(high))
    if phi.kind == "householder":
        s = phi.size_in(low.shape[-1])
        sums = reach.reshape(*reach.shape[:-1], -1, s).sum(axis=-1)
        slack = 16.0 * gamma(s + 8) * np.repeat(sums, s, axis=-1) + _TINY
        return out_low - slack, out_high + slack
    ulps: Any = _ULPS
    if phi.kind == "softplus":  # rounding of the argument
        ulps = _ULPS * (1.0 + abs(phi.parameter or 0.0) * reach)
    elif phi.kind == "gelu":  # the tail of the normal distribution
        ulps = _ULPS * (1.0 + np.minimum(reach, 40.0) ** 2)
    out_low = out_low - ulps * np.abs(out_low) - _TINY
    out_high = out_high + ulps * np.abs(out_high) + _TINY
    if phi.kind in _RANGES:
        least, most = _RANGES[phi.kind]
        out_low, out_high = np.maximum(out_low, least), np.minimum(out_high, most)
    return out_low, out_high


class _Propagation:
    """A network made ready: maps between activations merged, moduli computed once."""

    def __init__(self, network: FeedForward | Residual) -> None:
        # Stages (kind, map, activation): "apply" goes through both, "look" only reports the
        # argument of an identity, "block" is a residual block.
        self.stages: list[tuple[str, _Linear | None, Any]] = []
        self.outputs = network.n_outputs
        self.kept: dict[int, _Linear] = {}
        pending: _Linear | None = None
        if isinstance(network, FeedForward):
            for layer in network.layers:
                if isinstance(layer, Affine):
                    pending = _Linear.of(layer).after(pending)
                elif layer.kind == "identity":
                    self.stages.append(("look", pending, layer))
                else:
                    self.stages.append(("apply", pending, layer))
                    pending = None
        else:
            pending = None if network.first is None else _Linear.of(network.first)
            for block in network.blocks:
                if pending is not None:
                    self.stages.append(("map", pending, None))
                inner = _Linear.of(Affine(block.weight, block.bias))
                self.stages.append(("block", inner, block.activation))
                both = [_dense(block.skip), _dense(block.output)]
                pending = _Linear.of(Affine(np.hstack(both)))
            if network.last is not None:
                pending = _Linear.of(network.last).after(pending)
        self.last = pending
        maps = [m for _, m, _ in self.stages if m is not None]
        maps += [] if pending is None else [pending]
        self.widest = max(max(m.weight.shape) for m in maps)

    def boxes(
        self, low: Values, high: Values, outward: bool, report: list[Any] | None
    ) -> tuple[Values, Values]:
        """Return the boxes before the last map."""
        for kind, linear, phi in self.stages:
            if kind == "look" and report is None:
                continue
            z = (low, high) if linear is None else linear.box(low, high, outward)
            if report is not None and kind != "map":
                report.append(z)
            if kind == "map":
                low, high = z
            elif kind == "apply":
                low, high = _through(phi, *z, outward)
            elif kind == "block":
                a = _through(phi, *z, outward)
                low, high = np.hstack([low, a[0]]), np.hstack([high, a[1]])
        return low, high

    def margins(
        self, low: Values, high: Values, labels: NDArray[np.intp], outward: bool
    ) -> tuple[Values, Values]:
        """Return bounds of f_label - f_k, the last map and the difference taken as one."""
        last = self.last
        if last is None:
            last = _Linear.of(Affine(np.eye(self.outputs)))
        out = np.empty((2, len(low), self.outputs))
        for label in np.unique(labels).tolist():
            rows = labels == label
            linear = self.kept.get(label)
            if linear is None:
                linear = last.differences(label)
                if linear.weight.size * max(2, self.outputs) <= _KEPT:
                    self.kept[label] = linear
            out[:, rows] = linear.box(low[rows], high[rows], outward)
            if self.outputs > 1:
                out[:, rows, label] = 0.0
        return out[0], out[1]


_READY: weakref.WeakKeyDictionary[Any, _Propagation] = weakref.WeakKeyDictionary()


def interval_bounds(
    network: Any,
    X: ArrayLike,
    eps: ArrayLike,
    *,
    clip: tuple[Any, Any] | None = None,
    margins_for: ArrayLike | None = None,
    outward: bool = True,
    preactivations: bool = False,
    activation: str = "relu",
) -> IntervalBounds:
    r"""Bound the outputs of a network over boxes of inputs, by interval arithmetic.

    A box of centre c and radius r goes through an affine map as the box of centre
    :math:`W c + b` and radius :math:`|W| r`, and through an activation one neuron (or one group)
    at a time [1]_. Maps between two activations are multiplied first, which is tighter.

    Parameters
    ----------
    network : list of ndarray, FeedForward, Residual, or any model of `as_network`
        The network. Implicit networks are refused.
    X : array-like of shape (n, n_inputs) or (n_inputs,)
        Centres of the boxes.
    eps : float or array-like
        Radii, at least 0: one number, one for each coordinate, shape (n_inputs,), one for each
        input, shape (n, 1), or all of them, shape (n, n_inputs).
    clip : tuple of (lower, upper) or None, default=None
        Domain of the inputs, numbers or arrays of shape (n_inputs,), that boxes are cut at.
    margins_for : int, array-like of int of shape (n,), or None, default=None
        Class y of each input: bound the margins :math:`f_y - f_k` for all k instead of the
        outputs. The difference is taken before the modulus of the last weight, which is tighter
        than a difference of bounds. For a network with one output, classes 0 and 1 are negative
        and positive values, and the margin is -f or f.
    outward : bool, default=True
        Widen boxes by the rounding errors, so that they contain what the network gives in exact
        arithmetic for certain. It changes bounds by about 1e-14 relative to the terms summed.
    preactivations : bool, default=False
        Whether to return bounds of the arguments of activations too.
    activation : str, default="relu"
        Activation of a network given as a list of arrays.

    Returns
    -------
    IntervalBounds
        ``lower`` and ``upper`` of shape (n, n_outputs), ``preactivations``, and for margins
        ``certified`` of shape (n,). It unpacks as ``lower, upper``.

    Raises
    ------
    ProblemError
        Shapes that do not fit, negative radii, a box outside of the domain, an implicit network,
        an activation of which only slopes are known.

    Notes
    -----
    Cost: two matrix products for each map and all inputs, those of two evaluations. Exact for one
    layer of activations per neuron and for its margins to one class; with every further layer
    the loss grows, see :func:`propagation_tightness`.

    References
    ----------
    .. [1] S. Gowal, K. Dvijotham, R. Stanforth, R. Bunel, C. Qin, J. Uesato, R.
       Arandjelovic, T. Mann, P. Kohli, "On the Effectiveness of Interval Bound Propagation for
       Training Verifiably Robust Models", 2018. :arxiv:`1810.12715`

    Examples
    --------
    >>> import numpy as np
    >>> from lowrank_opt.lipschitz import interval_bounds
    >>> network = [np.array([[1.0, 1.0], [1.0, -1.0]]), np.array([[1.0, -1.0]])]
    >>> bounds = interval_bounds(network, [1.0, 0.0], 0.25)
    >>> bounds.lower.round(6).tolist(), bounds.upper.round(6).tolist()
    ([-1.0], [1.0])
    """
    network = _network(network, activation, "interval_bounds")
    X, alone = points(X, network.n_inputs)
    low, high = _boxes(X, eps, clip, outward)
    labels = None if margins_for is None else _labels(margins_for, len(X), network.n_outputs)
    ready = _READY.get(network)
    if ready is None:
        ready = _READY[network] = _Propagation(network)
    lows, highs, reports = [], [], []
    step = max(1, _BLOCK // ready.widest)
    # Bounds of enormous networks overflow to infinity, which is a bound.
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        for first in range(0, max(1, len(X)), step):
            rows = slice(first, first + step)
            report: list[Any] | None = [] if preactivations else None
            a, b = ready.boxes(low[rows], high[rows], outward, report)
            if labels is not None:
                a, b = ready.margins(a, b, labels[rows], outward)
            elif ready.last is not None:
                a, b = ready.last.box(a, b, outward)
            lows.append(a)
            highs.append(b)
            reports.append(report or [])
    lower, upper = np.concatenate(lows), np.concatenate(highs)
    layers = tuple(
        (np.concatenate([z[0] for z in parts]), np.concatenate([z[1] for z in parts]))
        for parts in zip(*reports, strict=True)
    )
    if alone:
        lower, upper = lower[0], upper[0]
        layers = tuple((a[0], b[0]) for a, b in layers)
    return IntervalBounds(lower, upper, layers, labels)


def _network(network: Any, activation: str, caller: str) -> FeedForward | Residual:
    if not isinstance(network, (FeedForward, Residual, Implicit)):
        from lowrank_opt.lipschitz.convert import as_network

        network = as_network(network, activation=activation)
    if isinstance(network, Implicit):
        raise ProblemError(
            f"{caller}: the network is implicit, it has no layers to go through one after the "
            "other; lipschitz_bound covers implicit networks"
        )
    return network


def _boxes(
    X: Values, eps: ArrayLike, clip: tuple[Any, Any] | None, outward: bool
) -> tuple[Values, Values]:
    if not np.isfinite(X).all():
        raise ProblemError("X has entries that are NaN or infinite")
    try:
        radii = np.asarray(eps, dtype=np.float64)
        radii = np.broadcast_to(radii, X.shape)
    except (TypeError, ValueError):
        raise ProblemError(
            f"eps has shape {np.shape(eps)}; expected a number, or an array of shape "
            f"({X.shape[1]},), ({len(X)}, 1) or {X.shape}"
        ) from None
    if not (np.isfinite(radii).all() and (radii >= 0).all()):
        raise ProblemError(f"eps={eps!r} must be finite and not negative")
    low, high = X - radii, X + radii
    if outward:
        wide = radii > 0
        low = np.where(wide, np.nextafter(low, -np.inf), low)
        high = np.where(wide, np.nextafter(high, np.inf), high)
    if clip is None:
        return low, high
    try:
        least, most = (np.asarray(end, dtype=np.float64) for end in clip)
        least, most = np.broadcast_to(least, X.shape), np.broadcast_to(most, X.shape)
    except (TypeError, ValueError):
        raise ProblemError(
            "clip must be a pair (lower, upper) of numbers or of arrays of shape "
            f"({X.shape[1]},), got {clip!r}"
        ) from None
    if not (least <= most).all():
        raise ProblemError(f"clip={clip!r}: lower exceeds upper; give lower <= upper")
    low, high = np.maximum(low, least), np.minimum(high, most)
    if (low > high).any():
        row, column = np.argwhere(low > high)[0]
        raise ProblemError(
            f"X[{row}, {column}] = {X[row, column]:g} is further than eps outside of clip="
            f"{clip!r}; scale X to its domain, or give the domain of X"
        )
    return low, high


def _labels(value: ArrayLike, n: int, n_outputs: int) -> NDArray[np.intp]:
    labels = np.asarray(value)
    if labels.dtype.kind not in "iu" or labels.shape not in ((), (n,)):
        raise ProblemError(
            f"margins_for has dtype {labels.dtype} and shape {labels.shape}; expected integers of "
            f"shape ({n},), the class of each input"
        )
    labels = np.broadcast_to(labels, (n,)).astype(np.intp)
    classes = max(2, n_outputs)
    if n and (labels.min() < 0 or labels.max() >= classes):
        raise ProblemError(
            f"margins_for has entries from {labels.min()} to {labels.max()}; the network has "
            f"classes 0 to {classes - 1}"
        )
    return labels
