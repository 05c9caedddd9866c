"""Activations: values, derivatives, and the slopes that bounds are made of."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import expit, ndtr

from lowrank_opt.core.errors import ProblemError, ProblemTypeError
from lowrank_opt.core.params import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Values = NDArray[np.float64]

__all__ = ["SLOPE_KINDS", "Activation"]

# Extremal slopes are derivatives at stationary points of the derivative, rounded outwards.
_SILU_TURN, _SILU_SLOPE, _SILU_LOW = 2.399357280515468, 1.0998393201288676, -1.2784645427610738
_GELU_TURN, _GELU_SLOPE, _GELU_LOW = math.sqrt(2.0), 1.1289041451851546, -0.7517915246935645
_ULPS = 4.0 * np.finfo(np.float64).eps  # of a derivative that scipy evaluates


@dataclass(frozen=True)
class _Kind:
    """An element-wise function.

    `turns` are the points where the derivative or the function may have an extremum inside an
    interval; between them both are monotone.
    """

    apply: Callable[[Values, float], Values]
    derivative: Callable[[Values, float], Values]
    slopes: Callable[[float], tuple[float, float]]
    turns: tuple[float, ...] = (0.0,)
    default: float = 0.0
    kink: bool = False  # the derivative jumps at the turns


def _gauss(z: Values) -> Values:
    return np.exp(-0.5 * z * z) / math.sqrt(2.0 * math.pi)


_KINDS: dict[str, _Kind] = {
    "identity": _Kind(lambda z, a: z, lambda z, a: np.ones_like(z), lambda a: (1.0, 1.0), ()),
    "relu": _Kind(
        lambda z, a: np.maximum(z, 0.0), lambda z, a: (z > 0).astype(float), lambda a: (0.0, 1.0),
        kink=True,
    ),
    "leaky_relu": _Kind(
        lambda z, a: np.where(z > 0, z, a * z), lambda z, a: np.where(z > 0, 1.0, a),
        lambda a: (min(a, 1.0), max(a, 1.0)), default=0.01, kink=True,
    ),
    "abs": _Kind(
        lambda z, a: np.abs(z), lambda z, a: np.where(z > 0, 1.0, -1.0), lambda a: (-1.0, 1.0),
        kink=True,
    ),
    "hardtanh": _Kind(
        lambda z, a: np.clip(z, -1.0, 1.0), lambda z, a: (np.abs(z) < 1).astype(float),
        lambda a: (0.0, 1.0), (-1.0, 1.0), kink=True,
    ),
    "tanh": _Kind(
        lambda z, a: np.tanh(z), lambda z, a: _sech2(z), lambda a: (0.0, 1.0),
    ),
    "sigmoid": _Kind(
        lambda z, a: expit(z), lambda z, a: expit(z) * expit(-z), lambda a: (0.0, 0.25),
    ),
    "softplus": _Kind(
        lambda z, a: np.logaddexp(0.0, a * z) / a, lambda z, a: expit(a * z),
        lambda a: (0.0, 1.0), (), default=1.0,
    ),
    "elu": _Kind(
        lambda z, a: np.where(z > 0, z, a * np.expm1(np.minimum(z, 0.0))),
        lambda z, a: np.where(z > 0, 1.0, a * np.exp(np.minimum(z, 0.0))),
        lambda a: (0.0, max(1.0, a)), default=1.0, kink=True,
    ),
    "silu": _Kind(
        lambda z, a: z * expit(z),
        lambda z, a: expit(z) * (1.0 + z * expit(-z)),
        lambda a: (1.0 - _SILU_SLOPE, _SILU_SLOPE), (-_SILU_TURN, _SILU_LOW, 0.0, _SILU_TURN),
    ),
    "gelu": _Kind(
        lambda z, a: z * ndtr(z),
        lambda z, a: ndtr(z) + z * _gauss(z),
        lambda a: (1.0 - _GELU_SLOPE, _GELU_SLOPE), (-_GELU_TURN, _GELU_LOW, 0.0, _GELU_TURN),
    ),
}  # fmt: skip

SLOPE_KINDS = (*_KINDS, "slopes")
_ALIASES = {
    "linear": "identity", "logistic": "sigmoid", "swish": "silu", "leakyrelu": "leaky_relu",
    "groupsort": "group_sort", "max_min": "maxmin",
}  # fmt: skip


def _sech2(z: Values) -> Values:
    # 1 - tanh² loses all digits for large |z|.
    e = np.exp(-2.0 * np.abs(z))
    return 4.0 * e / (1.0 + e) ** 2


@dataclass(frozen=True, eq=False)
class Activation:
    """Activation of a hidden layer.

    Parameters
    ----------
    kind : str
        Element-wise: ``"relu"``, ``"leaky_relu"``, ``"abs"``, ``"hardtanh"``, ``"tanh"``,
        ``"sigmoid"`` (or ``"logistic"``), ``"softplus"``, ``"elu"``, ``"silu"`` (or ``"swish"``),
        ``"gelu"`` (the exact one), ``"identity"``; ``"slopes"``: any function of which only
        `lower` and `upper` are known. By groups of neurons: ``"group_sort"``, ``"maxmin"`` (groups
        of two), ``"householder"``.
    parameter : float or None, default=None
        Slope of ``"leaky_relu"`` (default 0.01), alpha of ``"elu"`` (1), beta of ``"softplus"``
        (1).
    lower, upper : float, ndarray of shape (width,) or None, default=None
        For ``"slopes"``: bounds of the slope of every neuron.
    group_size : int or None, default=None
        Neurons in a group; ``None`` for ``"group_sort"``: the whole layer.
    direction : ndarray of shape (n_groups, group_size) or (group_size,) or None, default=None
        Unit vectors of ``"householder"``: ``φ(u) = u`` where ``vᵀu > 0``, else
        ``(I - 2 v vᵀ) u``.

    Raises
    ------
    ProblemError
        Unknown kind, slopes out of order, groups or directions that do not fit.
    """

    kind: str
    parameter: float | None = None
    lower: Any = None
    upper: Any = None
    group_size: int | None = None
    direction: Any = None

    def __post_init__(self) -> None:
        kind = str(self.kind).lower()
        kind = _ALIASES.get(kind, kind)
        set_ = object.__setattr__
        known = (*SLOPE_KINDS, "group_sort", "maxmin", "householder")
        if kind not in known:
            raise ProblemError(
                f"activation: unknown kind {self.kind!r}.{did_you_mean(kind, known)} Any other "
                "element-wise function: Activation('slopes', lower=..., upper=...)"
            )
        set_(self, "kind", kind)
        if kind in _KINDS:
            self._check_parameter(kind)
        elif kind == "slopes":
            self._check_slopes()
        else:
            self._check_groups(kind)

    def _check_parameter(self, kind: str) -> None:
        if self.lower is not None or self.upper is not None:
            raise ProblemError(
                f"activation: lower and upper belong to kind='slopes'; {kind!r} has its own slopes"
            )
        value = _KINDS[kind].default if self.parameter is None else float(self.parameter)
        if not math.isfinite(value) or (kind in ("softplus", "elu") and value <= 0):
            raise ProblemError(
                f"activation: parameter={self.parameter!r} of {kind!r} must be finite"
                + (" and positive" if kind in ("softplus", "elu") else "")
            )
        object.__setattr__(self, "parameter", value)

    def _check_slopes(self) -> None:
        if self.lower is None or self.upper is None:
            raise ProblemError("activation: kind='slopes' needs lower and upper")
        low = _real("lower", self.lower)
        high = _real("upper", self.upper)
        if np.any(low > high):
            raise ProblemError(
                f"activation: lower={self.lower!r} exceeds upper={self.upper!r}; give "
                "lower <= upper for every neuron"
            )
        object.__setattr__(self, "lower", low)
        object.__setattr__(self, "upper", high)

    def _check_groups(self, kind: str) -> None:
        size = 2 if kind == "maxmin" and self.group_size is None else self.group_size
        if kind == "maxmin" and size != 2:
            raise ProblemError(f"activation: group_size={size} of 'maxmin' must be 2")
        if size is not None and (isinstance(size, bool) or int(size) != size or size < 1):
            raise ProblemError(f"activation: group_size={size!r} must be a positive integer")
        v = None
        if kind == "householder":
            if self.direction is None:
                raise ProblemError("activation: 'householder' needs direction, its vectors v")
            v = np.atleast_2d(_real("direction", self.direction))
            norms = np.sqrt((v * v).sum(axis=1))
            if np.any(norms == 0):
                raise ProblemError("activation: direction of 'householder' has a zero vector")
            off = np.abs(norms - 1.0).max()
            if off > 1e-6:
                raise ProblemError(
                    f"activation: direction of 'householder' has norm {norms[0]:.6g} "
                    "(expected unit vectors); divide by the norm"
                )
            if off > 1e-12:
                import warnings

                from lowrank_opt.core.errors import AccuracyWarning

                warnings.warn(
                    f"activation: direction of 'householder' is off unit norm by {off:.1e}; "
                    "it is normalised",
                    AccuracyWarning,
                    stacklevel=4,
                )
            v = v / norms[:, None]
            if size is not None and size != v.shape[1]:
                raise ProblemError(
                    f"activation: direction has length {v.shape[1]}, group_size={size}"
                )
            size = v.shape[1]
        elif self.direction is not None:
            raise ProblemError("activation: direction belongs to kind='householder'")
        object.__setattr__(self, "kind", "group_sort" if kind == "maxmin" else kind)
        object.__setattr__(self, "group_size", None if size is None else int(size))
        object.__setattr__(self, "direction", v)

    def __repr__(self) -> str:
        if self.kind == "group_sort":
            return f"Activation('group_sort', group_size={self.group_size})"
        if self.kind == "householder":
            return f"Activation('householder', group_size={self.group_size})"
        shown = self.parameter is not None and self.kind in ("leaky_relu", "elu", "softplus")
        return f"Activation({self.kind!r}{f', parameter={self.parameter}' if shown else ''})"

    @property
    def by_groups(self) -> bool:
        """Whether the activation sorts or reflects groups instead of acting on each neuron."""
        return self.kind in ("group_sort", "householder")

    @property
    def has_values(self) -> bool:
        """Whether the function itself is known, not only its slopes."""
        return self.kind != "slopes"

    def check_width(self, width: int, layer: int) -> None:
        """Raise if the activation does not fit a layer.

        Parameters
        ----------
        width : int
            Neurons.
        layer : int
            Number of the hidden layer, from 1, for the message.

        Raises
        ------
        ProblemError
            The width is no multiple of the group size, or slopes have another length.
        """
        if self.by_groups:
            size = self.size_in(width)
            if width % size:
                raise ProblemError(
                    f"activation of hidden layer {layer}: width {width} is not a multiple of "
                    f"group_size={size}"
                )
            if self.direction is not None and len(self.direction) not in (1, width // size):
                raise ProblemError(
                    f"activation of hidden layer {layer}: direction has {len(self.direction)} "
                    f"rows; expected 1 or {width // size}, one for each group"
                )
        elif self.kind == "slopes":
            for name in ("lower", "upper"):
                if getattr(self, name).size not in (1, width):
                    raise ProblemError(
                        f"activation of hidden layer {layer}: {name} has "
                        f"{getattr(self, name).size} entries, the layer has {width} neurons"
                    )

    def size_in(self, width: int) -> int:
        """Return the neurons in a group of a layer with `width` neurons."""
        return width if self.group_size is None else self.group_size

    def directions(self, width: int) -> Values | None:
        """Return the Householder vectors, one row for each group; ``None`` for GroupSort."""
        if self.direction is None:
            return None
        n = width // self.size_in(width)
        return np.ascontiguousarray(np.broadcast_to(self.direction, (n, self.direction.shape[1])))

    def slopes(self, width: int) -> tuple[Values, Values]:
        """Return the smallest and the largest slope of every neuron.

        Parameters
        ----------
        width : int
            Neurons of the layer.

        Returns
        -------
        lower, upper : ndarray of shape (width,)
            Bounds of ``(φ(a) - φ(b)) / (a - b)`` over all a and b.
        """
        if self.kind == "slopes":
            return _full(self.lower, width), _full(self.upper, width)
        low, high = _KINDS[self.kind].slopes(self.parameter or 0.0)
        return np.full(width, low), np.full(width, high)

    def apply(self, z: Values) -> Values:
        """Return the values at pre-activations of shape (n, width)."""
        if self.by_groups:
            u = self._grouped(z)
            if self.kind == "group_sort":
                return np.sort(u, axis=-1).reshape(z.shape)
            v = self.directions(z.shape[-1])
            return self._reflected(u, v).reshape(z.shape)
        self._need_values()
        return _KINDS[self.kind].apply(z, self.parameter or 0.0)

    def derivative(self, z: Values) -> Values:
        """Return the derivative of an element-wise activation; at kinks, the one from the left."""
        self._need_values()
        return _KINDS[self.kind].derivative(z, self.parameter or 0.0)

    def push(self, z: Values, columns: Values) -> Values:
        """Multiply by the Jacobian at one point.

        Parameters
        ----------
        z : ndarray of shape (width,)
            Pre-activations, at which the activation is differentiable.
        columns : ndarray of shape (width, k)
            What the Jacobian is applied to.

        Returns
        -------
        ndarray of shape (width, k)
        """
        if not self.by_groups:
            return self.derivative(z)[:, None] * columns
        u, c = self._grouped(z), self._grouped(columns.T)  # (g, s), (k, g, s)
        if self.kind == "group_sort":
            order = np.argsort(u, axis=-1)
            out = np.take_along_axis(c, np.broadcast_to(order, c.shape), axis=-1)
        else:
            v = self.directions(z.shape[-1])
            flip = (u * v).sum(axis=-1) <= 0
            out = c - 2.0 * flip[:, None] * (c * v).sum(axis=-1, keepdims=True) * v
        return np.ascontiguousarray(out.reshape(columns.T.shape).T)

    def pull(self, z: Values, rows: Values) -> Values:
        """Multiply rows of shape (k, width) by the Jacobian at one point, from the right."""
        if not self.by_groups:
            return rows * self.derivative(z)
        u, r = self._grouped(z), self._grouped(rows)
        if self.kind == "group_sort":
            rank = np.argsort(np.argsort(u, axis=-1), axis=-1)
            out = np.take_along_axis(r, np.broadcast_to(rank, r.shape), axis=-1)
            return out.reshape(rows.shape)
        return self.push(z, rows.T).T  # reflections are symmetric

    def clearance(self, z: Values) -> Values:
        """Return how far pre-activations of shape (n, width) are from where the derivative jumps.

        Returns
        -------
        ndarray of shape (n,)
            Infinite for smooth activations.
        """
        if self.by_groups:
            u = self._grouped(z)
            if self.kind == "group_sort":
                if u.shape[-1] == 1:
                    return np.full(len(z), np.inf)
                return np.diff(np.sort(u, axis=-1), axis=-1).min(axis=(-1, -2))
            v = self.directions(z.shape[-1])
            return np.abs((u * v).sum(axis=-1)).min(axis=-1)
        kind = _KINDS.get(self.kind)
        if kind is None or not kind.kink or not z.shape[-1]:
            return np.full(len(z), np.inf)
        return np.minimum.reduce([np.abs(z - t).min(axis=-1) for t in kind.turns])

    def interval(self, low: Values, high: Values) -> tuple[Values, Values]:
        """Return bounds of the values over boxes of pre-activations.

        Parameters
        ----------
        low, high : ndarray of shape (..., width)
            Ends of the boxes.

        Returns
        -------
        low, high : ndarray of shape (..., width)
            Exact for each neuron, up to the rounding of the function.
        """
        if self.kind == "group_sort":
            return self.apply(low), self.apply(high)
        if self.kind == "householder":
            return self._reflected_box(low, high)
        self._need_values()
        kind, a = _KINDS[self.kind], self.parameter or 0.0
        ends = [kind.apply(low, a), kind.apply(high, a)]
        ends += [kind.apply(np.clip(t, low, high), a) for t in kind.turns]
        return np.minimum.reduce(ends), np.maximum.reduce(ends)

    def local_slopes(self, low: Values, high: Values) -> tuple[Values, Values]:
        """Return the slopes that occur while pre-activations stay in intervals.

        Parameters
        ----------
        low, high : ndarray of shape (width,)
            Ends of the intervals.

        Returns
        -------
        lower, upper : ndarray of shape (width,)
            Rounded outwards; equal where the activation is affine on the interval.
        """
        if self.kind == "slopes":
            return self.slopes(low.shape[-1])
        kind, a = _KINDS[self.kind], self.parameter or 0.0
        if kind.kink and self.kind != "elu":
            # Piecewise linear: the slopes of the pieces that the interval meets.
            ends = [kind.derivative(high, a)]
            cuts = np.array(kind.turns)
            inside = [(low < t) & (high > t) for t in cuts]
            right = np.where(low < high, np.nextafter(low, np.inf), low)
            ends.append(kind.derivative(right, a))
            for t, meets in zip(cuts, inside, strict=True):
                for side in (-np.inf, np.inf):
                    d = kind.derivative(np.full_like(low, np.nextafter(t, side)), a)
                    ends.append(np.where(meets, d, ends[0]))
            return np.minimum.reduce(ends), np.maximum.reduce(ends)
        ends = [kind.derivative(low, a), kind.derivative(high, a)]
        ends += [kind.derivative(np.clip(t, low, high), a) for t in kind.turns]
        if self.kind == "elu":  # the derivative jumps at zero
            meets = (low <= 0) & (high > 0)
            ends += [np.where(meets, 1.0, ends[0]), np.where(meets, a, ends[0])]
        least, most = np.minimum.reduce(ends), np.maximum.reduce(ends)
        bottom, top = kind.slopes(a)
        if bottom == top:
            return least, most
        return np.maximum(least - _ULPS, bottom), np.minimum(most + _ULPS, top)

    def _grouped(self, z: Values) -> Values:
        size = self.size_in(z.shape[-1])
        return z.reshape(*z.shape[:-1], z.shape[-1] // size, size)

    def _reflected(self, u: Values, v: Values | None) -> Values:
        dot = (u * v).sum(axis=-1, keepdims=True)
        return u - 2.0 * np.minimum(dot, 0.0) * v

    def _reflected_box(self, low: Values, high: Values) -> tuple[Values, Values]:
        # φ(u) = u - 2 min(vᵀu, 0) v; each coordinate is bounded over the box by the union of both
        # branches, each an affine function of u.
        lo, hi = self._grouped(low), self._grouped(high)
        v = self.directions(low.shape[-1])
        mid, half = 0.5 * (lo + hi), 0.5 * (hi - lo)
        dot, reach = (mid * v).sum(-1, keepdims=True), (half * np.abs(v)).sum(-1, keepdims=True)
        eye = np.eye(v.shape[-1])
        R = eye - 2.0 * v[:, :, None] * v[:, None, :]  # (g, s, s)
        centre = np.einsum("gij,...gj->...gi", R, mid)
        spread = np.einsum("gij,...gj->...gi", np.abs(R), half)
        plain, flipped = dot + reach > 0, dot - reach <= 0
        lows = np.minimum(np.where(plain, lo, np.inf), np.where(flipped, centre - spread, np.inf))
        highs = np.maximum(
            np.where(plain, hi, -np.inf), np.where(flipped, centre + spread, -np.inf)
        )
        return lows.reshape(low.shape), highs.reshape(high.shape)

    def _need_values(self) -> None:
        if self.kind == "slopes":
            raise ProblemError(
                "activation: kind='slopes' has no values, so the network cannot be evaluated; "
                "give the activation by name where values are needed"
            )


def _full(value: Values, width: int) -> Values:
    return np.ascontiguousarray(np.broadcast_to(value.reshape(-1), (width,)))


def _real(name: str, value: Any) -> Values:
    array = np.asarray(value)
    if array.dtype.kind not in "fiub":
        raise ProblemTypeError(f"activation: {name} has dtype {array.dtype}; expected real numbers")
    array = array.astype(np.float64)
    if not np.all(np.isfinite(array)):
        raise ProblemError(f"activation: {name} must be finite, got {value!r}")
    return array
