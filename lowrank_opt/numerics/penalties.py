r"""Penalties and their proximal operators.

A penalty is a named tuple of parameters with two methods, ``prox(z, step)`` and ``value(z)``.
The functions :func:`prox` and :func:`value` check their arguments and call the methods. Inside
numba kernels the same two functions work on the same named tuples, inlined and cached; kernel
files get them with ``from lowrank_opt.numerics.kernels import prox, value``, which registers the
rules. A penalty of your own is a named tuple with the two methods, and one
``@numba.extending.overload(prox)`` if kernels are to use it.

.. math:: \mathrm{prox}_{t g}(z) = \arg\min_x\; g(x) + \tfrac{1}{2t} \|x - z\|^2
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from lowrank_opt.core.errors import ParameterError, ProblemError
from lowrank_opt.numerics import reference
from lowrank_opt.numerics._arrays import device, namespace, real_array, scalar

__all__ = [
    "L1",
    "MCP",
    "SCAD",
    "Box",
    "ElasticNet",
    "GroupL1",
    "GroupL2",
    "Huber",
    "L1Ball",
    "L2Ball",
    "NonNegative",
    "Simplex",
    "SquaredL2",
    "WeightedL1",
    "coordinate_penalty",
    "prox",
    "prox_conjugate",
    "prox_into",
    "value",
]


class L1(NamedTuple):
    """``alpha * sum |x_i|``.

    Parameters
    ----------
    alpha : float, default=1.0
        At least 0.
    """

    alpha: float = 1.0

    def prox(self, z: Any, step: Any) -> Any:
        """Soft threshold at ``step * alpha``."""
        return _soft(z, step * self.alpha)

    def value(self, z: Any) -> Any:
        """Value at `z`."""
        return self.alpha * _sum(abs(z))

    def check(self) -> None:
        """Raise ParameterError if a parameter is out of range."""
        scalar("L1.alpha", self.alpha, low=0.0)


class WeightedL1(NamedTuple):
    """``alpha * sum weights_i |x_i|``; a weight of 0 leaves its coordinate free.

    Parameters
    ----------
    alpha : float
        At least 0.
    weights : array of shape (n,)
        At least 0; of the library of the argument. An infinite weight fixes its coordinate at 0,
        for every `alpha`.
    """

    alpha: float
    weights: Any

    def prox(self, z: Any, step: Any) -> Any:
        """Soft thresholds at ``step * alpha * weights``."""
        return _soft(z, _cast(_weighted(step * self.alpha, self.weights), z))

    def value(self, z: Any) -> Any:
        """Value at `z`."""
        return _weighted_sum(abs(z), _cast(_weighted(self.alpha, self.weights), z))

    def check(self) -> None:
        """Raise ParameterError if a parameter is out of range."""
        scalar("WeightedL1.alpha", self.alpha, low=0.0)
        _check_weights("WeightedL1.weights", self.weights)


class ElasticNet(NamedTuple):
    """``alpha * (l1_ratio * sum |x_i| + (1 - l1_ratio) / 2 * sum x_i^2)``.

    Parameters
    ----------
    alpha : float, default=1.0
        At least 0.
    l1_ratio : float, default=0.5
        In [0, 1]; 1 is :class:`L1`, 0 is :class:`SquaredL2`.
    """

    alpha: float = 1.0
    l1_ratio: float = 0.5

    def prox(self, z: Any, step: Any) -> Any:
        """Soft threshold, then shrinkage."""
        scaled = step * self.alpha
        return _soft(z, scaled * self.l1_ratio) / (1 + scaled * (1 - self.l1_ratio))

    def value(self, z: Any) -> Any:
        """Value at `z`."""
        return self.alpha * (self.l1_ratio * _sum(abs(z)) + (1 - self.l1_ratio) / 2 * _sum(z * z))

    def check(self) -> None:
        """Raise ParameterError if a parameter is out of range."""
        scalar("ElasticNet.alpha", self.alpha, low=0.0)
        if scalar("ElasticNet.l1_ratio", self.l1_ratio, low=0.0) > 1:
            raise ParameterError(f"ElasticNet.l1_ratio is {self.l1_ratio}; it must be in [0, 1]")


class SquaredL2(NamedTuple):
    """``alpha / 2 * sum x_i^2``.

    Parameters
    ----------
    alpha : float, default=1.0
        At least 0.
    """

    alpha: float = 1.0

    def prox(self, z: Any, step: Any) -> Any:
        """Shrinkage by ``1 + step * alpha``."""
        return z / (1 + step * self.alpha)

    def value(self, z: Any) -> Any:
        """Value at `z`."""
        return self.alpha / 2 * _sum(z * z)

    def check(self) -> None:
        """Raise ParameterError if a parameter is out of range."""
        scalar("SquaredL2.alpha", self.alpha, low=0.0)


class Huber(NamedTuple):
    """``alpha * sum h(x_i)``: h is ``x^2 / 2`` up to `delta`, then ``delta |x| - delta^2 / 2``.

    Parameters
    ----------
    alpha : float, default=1.0
        At least 0.
    delta : float, default=1.0
        Above 0.
    """

    alpha: float = 1.0
    delta: float = 1.0

    def prox(self, z: Any, step: Any) -> Any:
        """Shrinkage of small entries, a shift of large ones."""
        shift = step * self.alpha
        small = z / (1 + shift)
        return small + _soft(z - small, shift * self.delta)

    def value(self, z: Any) -> Any:
        """Value at `z`."""
        xp = namespace(z)
        size = abs(z)
        return self.alpha * _sum(
            xp.where(size <= self.delta, z * z / 2, self.delta * size - self.delta**2 / 2)
        )

    def check(self) -> None:
        """Raise ParameterError if a parameter is out of range."""
        scalar("Huber.alpha", self.alpha, low=0.0)
        scalar("Huber.delta", self.delta, low=0.0, strict=True)


class NonNegative(NamedTuple):
    """``alpha * sum x_i`` on ``x >= 0``, infinite elsewhere.

    Parameters
    ----------
    alpha : float, default=0.0
        At least 0; above 0 it is the penalty of a non-negative lasso.
    """

    alpha: float = 0.0

    def prox(self, z: Any, step: Any) -> Any:
        """Shift by ``step * alpha`` and cut off negative entries."""
        shifted = z - step * self.alpha
        return namespace(z).where(shifted > 0, shifted, 0 * shifted)

    def value(self, z: Any) -> Any:
        """Value at `z`."""
        return _indicator(z >= 0) + self.alpha * _sum(z)

    def check(self) -> None:
        """Raise ParameterError if a parameter is out of range."""
        scalar("NonNegative.alpha", self.alpha, low=0.0)


class Box(NamedTuple):
    """0 on ``low <= x_i <= high``, infinite elsewhere.

    Parameters
    ----------
    low, high : float
        ``low <= high``; infinite bounds are allowed.
    """

    low: float
    high: float

    def prox(self, z: Any, step: Any) -> Any:
        """Clip."""
        return namespace(z).clip(z, self.low, self.high)

    def value(self, z: Any) -> Any:
        """Value at `z`."""
        return _indicator((z >= self.low) & (z <= self.high))

    def check(self) -> None:
        """Raise ParameterError if a parameter is out of range."""
        for name in ("low", "high"):
            if np.ndim(getattr(self, name)) or isinstance(getattr(self, name), str):
                raise ParameterError(
                    f"Box: {name}={getattr(self, name)!r} must be one number, the same bound for "
                    "all entries; scale the variables if their bounds differ"
                )
        if not self.low <= self.high:
            raise ParameterError(f"Box needs low <= high, got low={self.low}, high={self.high}")


class MCP(NamedTuple):
    """Minimax concave penalty [1]_.

    ``alpha |x| - x^2 / (2 gamma)`` up to ``|x| = gamma alpha``, then ``gamma alpha^2 / 2``.

    Parameters
    ----------
    alpha : float, default=1.0
        At least 0.
    gamma : float, default=3.0
        Above 0. The prox is continuous for ``step < gamma``; beyond it is a hard threshold, the
        global minimiser, and 0 where both values tie.

    References
    ----------
    .. [1] C.-H. Zhang, "Nearly unbiased variable selection under minimax concave penalty",
       Annals of Statistics 38, 2010.
    """

    alpha: float = 1.0
    gamma: float = 3.0

    def prox(self, z: Any, step: Any) -> Any:
        """Global minimiser, coordinate by coordinate."""
        xp = namespace(z)
        step = _cast(step, z) + 0 * z
        size = abs(z)
        firm = step < self.gamma
        slope = xp.where(firm, 1 - step / self.gamma, xp.ones_like(step))
        middle = _soft(z, step * self.alpha) / slope
        continuous = xp.where(size <= self.gamma * self.alpha, middle, z)
        hard = xp.where(size > self.alpha * xp.sqrt(self.gamma * step), z, 0 * z)
        return xp.where(firm, continuous, hard)

    def value(self, z: Any) -> Any:
        """Value at `z`."""
        xp = namespace(z)
        size = abs(z)
        inner = self.alpha * size - z * z / (2 * self.gamma)
        outer = self.gamma * self.alpha**2 / 2 + 0 * size
        return _sum(xp.where(size <= self.gamma * self.alpha, inner, outer))

    def check(self) -> None:
        """Raise ParameterError if a parameter is out of range."""
        scalar("MCP.alpha", self.alpha, low=0.0)
        scalar("MCP.gamma", self.gamma, low=0.0, strict=True)


class SCAD(NamedTuple):
    """Smoothly clipped absolute deviation [1]_.

    ``alpha |x|`` up to ``alpha``, a quadratic with slope falling to 0 up to ``gamma alpha``, then
    the constant ``alpha^2 (gamma + 1) / 2``.

    Parameters
    ----------
    alpha : float, default=1.0
        At least 0.
    gamma : float, default=3.7
        Above 1. The prox is continuous for ``step < gamma - 1``; beyond, it is the better of the
        two local minimisers, the smaller one where they tie.

    References
    ----------
    .. [1] J. Fan, R. Li, "Variable selection via nonconcave penalized likelihood and its oracle
       properties", JASA 96, 2001.
    """

    alpha: float = 1.0
    gamma: float = 3.7

    def prox(self, z: Any, step: Any) -> Any:
        """Global minimiser, coordinate by coordinate."""
        xp = namespace(z)
        step = _cast(step, z) + 0 * z
        alpha, gamma, size = self.alpha, self.gamma, abs(z)
        soft = abs(_soft(z, step * alpha))
        firm = step < gamma - 1
        slope = xp.where(firm, gamma - 1 - step, xp.ones_like(step))
        middle = ((gamma - 1) * size - gamma * alpha * step) / slope
        continuous = xp.where(
            size <= alpha * (1 + step), soft, xp.where(size <= gamma * alpha, middle, size)
        )
        near = xp.where(soft < alpha, soft, alpha + 0 * soft)
        near_value = alpha * near + (near - size) ** 2 / (2 * step)
        far_wins = (size > gamma * alpha) & (alpha**2 * (gamma + 1) / 2 < near_value)
        result = xp.where(firm, continuous, xp.where(far_wins, size, near))
        return xp.where(z < 0, -result, result)

    def value(self, z: Any) -> Any:
        """Value at `z`."""
        xp = namespace(z)
        alpha, gamma, size = self.alpha, self.gamma, abs(z)
        middle = (2 * gamma * alpha * size - size * size - alpha**2) / (2 * (gamma - 1))
        outer = alpha**2 * (gamma + 1) / 2 + 0 * size
        return _sum(
            xp.where(size <= alpha, alpha * size, xp.where(size <= gamma * alpha, middle, outer))
        )

    def check(self) -> None:
        """Raise ParameterError if a parameter is out of range."""
        scalar("SCAD.alpha", self.alpha, low=0.0)
        scalar("SCAD.gamma", self.gamma, low=1.0, strict=True)


class GroupL2(NamedTuple):
    """``alpha * |x|_2``: the whole argument is one block.

    Parameters
    ----------
    alpha : float, default=1.0
        At least 0.
    """

    alpha: float = 1.0

    def prox(self, z: Any, step: Any) -> Any:
        """Shrink the block towards 0 by ``step * alpha``, at most to 0."""
        xp = namespace(z)
        length = _length(z)
        positive = length > step * self.alpha
        safe = xp.where(positive, length, xp.ones_like(length))
        return xp.where(positive, z * (1 - _cast(step * self.alpha / safe, z)), 0 * z)

    def value(self, z: Any) -> Any:
        """Value at `z`."""
        return self.alpha * _length(z)

    def check(self) -> None:
        """Raise ParameterError if a parameter is out of range."""
        scalar("GroupL2.alpha", self.alpha, low=0.0)


class GroupL1(NamedTuple):
    """``alpha * sum weights_g |x_g|_2``, ``x_g`` the entries (or rows) of group g.

    Parameters
    ----------
    alpha : float
        At least 0.
    groups : array of shape (n,)
        The group of every entry of a vector, or of every row of a matrix: integers from 0; of
        the library of the argument.
    weights : array of shape (n_groups,) or None, default=None
        At least 0; ``None``: 1 for all. A weight of 0 leaves its group free, an infinite one
        fixes it at 0.
    positive : bool, default=False
        Whether negative entries have an infinite value.

    Notes
    -----
    Arrays that are not numpy's are summed by a product with a matrix of one column a group.
    """

    alpha: float
    groups: Any
    weights: Any = None
    positive: bool = False

    def prox(self, z: Any, step: Any) -> Any:
        """Shrink every group towards 0 by ``step * alpha * weights_g``, at most to 0."""
        xp = namespace(z)
        z = xp.where(z > 0, z, 0 * z) if self.positive else z
        lengths = self.lengths(z)
        bound = _cast(_weighted(step * self.alpha, self._weights(lengths)), lengths)
        longer = lengths > bound
        # A quotient first: an infinite bound of a shorter group is never divided.
        shrunk = xp.where(longer, bound, 0 * lengths) / xp.where(longer, lengths, 1 + 0 * lengths)
        factor = _cast(xp.where(longer, 1 - shrunk, 0 * lengths), z)[self._labels(z)]
        return z * (factor if z.ndim == 1 else factor[:, None])

    def value(self, z: Any) -> Any:
        """Value at `z`."""
        lengths = self.lengths(z)
        total = _weighted_sum(lengths, _weighted(self.alpha, self._weights(lengths)))
        return total + _indicator(z >= 0) if self.positive else total

    def lengths(self, z: Any) -> Any:
        """Euclidean norm of every group of `z`, shape (n_groups,), in float64."""
        labels, xp = self._labels(z), namespace(z)
        if z.ndim not in (1, 2) or z.shape[0] != labels.shape[0]:
            raise ProblemError(
                f"GroupL1.groups has {labels.shape[0]} entries, the argument has shape {z.shape}; "
                "one group for every entry of a vector or row of a matrix is needed"
            )
        size = labels.shape[0]
        n_groups = 1 + int(xp.max(labels)) if size else 0
        if self.weights is not None:
            n_groups = self.weights.shape[0] if hasattr(self.weights, "shape") else n_groups
        size_of = xp.astype(abs(z), xp.float64)
        largest = xp.max(size_of) if size_of.shape[0] else 1.0
        unit = xp.where(largest > 0, largest, 1.0 + 0 * largest) if size else 1.0
        squares = (size_of / unit) ** 2
        if z.ndim == 2:
            squares = xp.sum(squares, axis=1)
        if xp is np:
            sums = np.bincount(labels, squares, n_groups)
        else:
            labels_of = xp.arange(n_groups, dtype=labels.dtype, device=device(z))
            sums = squares @ xp.astype(labels[:, None] == labels_of, xp.float64)
        return unit * xp.sqrt(sums)

    def check(self) -> None:
        """Raise ParameterError if a parameter is out of range."""
        scalar("GroupL1.alpha", self.alpha, low=0.0)
        xp = namespace(self.groups)
        groups = np.asarray(self.groups) if xp is np else self.groups
        integers = groups.dtype.kind in "iu" if xp is np else xp.isdtype(groups.dtype, "integral")
        if not integers or groups.ndim != 1:
            raise ParameterError(
                f"GroupL1.groups has dtype {groups.dtype} and shape {groups.shape}; a vector of "
                "integers is needed, the group of every variable"
            )
        size = groups.shape[0]
        if size and int(xp.min(groups)) < 0:
            raise ParameterError("GroupL1.groups has a negative entry; groups count from 0")
        if self.weights is not None:
            weights = _check_weights("GroupL1.weights", self.weights)
            n_groups = 1 + int(xp.max(groups)) if size else 0
            if weights.shape != (n_groups,):
                raise ParameterError(
                    f"GroupL1.weights has shape {weights.shape}; one weight for each of the "
                    f"{n_groups} groups is needed"
                )
        if not isinstance(self.positive, (bool, np.bool_)):
            raise ParameterError(f"GroupL1.positive is {self.positive!r}; True or False is needed")

    def _labels(self, z: Any) -> Any:
        return np.asarray(self.groups) if namespace(z) is np else self.groups

    def _weights(self, lengths: Any) -> Any:
        if self.weights is None:
            return 1 + 0 * lengths
        return np.asarray(self.weights) if namespace(lengths) is np else self.weights


class L2Ball(NamedTuple):
    """0 on ``|x|_2 <= radius``, infinite elsewhere: the whole argument is one block.

    Parameters
    ----------
    radius : float, default=1.0
        At least 0.
    """

    radius: float = 1.0

    def prox(self, z: Any, step: Any) -> Any:
        """Project."""
        from lowrank_opt.numerics.projections import project_l2_ball

        return project_l2_ball(z, self.radius, axis=None)

    def value(self, z: Any) -> Any:
        """0 within rounding of the ball, else infinity."""
        return _indicator(_length(z) <= self.radius * (1 + _slack(z)))

    def check(self) -> None:
        """Raise ParameterError if a parameter is out of range."""
        scalar("L2Ball.radius", self.radius, low=0.0)


class L1Ball(NamedTuple):
    """0 on ``sum |x_i| <= radius``, infinite elsewhere: the whole argument is one block.

    Parameters
    ----------
    radius : float, default=1.0
        At least 0.
    """

    radius: float = 1.0

    def prox(self, z: Any, step: Any) -> Any:
        """Project."""
        from lowrank_opt.numerics.projections import project_l1_ball

        return project_l1_ball(z, self.radius, axis=None)

    def value(self, z: Any) -> Any:
        """0 within rounding of the ball, else infinity."""
        return _indicator(_sum(abs(z)) <= self.radius * (1 + _slack(z)))

    def check(self) -> None:
        """Raise ParameterError if a parameter is out of range."""
        scalar("L1Ball.radius", self.radius, low=0.0)


class Simplex(NamedTuple):
    """0 on ``x >= 0, sum x_i = total``, infinite elsewhere: the whole argument is one block.

    Parameters
    ----------
    total : float, default=1.0
        At least 0.
    """

    total: float = 1.0

    def prox(self, z: Any, step: Any) -> Any:
        """Project."""
        from lowrank_opt.numerics.projections import project_simplex

        return project_simplex(z, self.total, axis=None)

    def value(self, z: Any) -> Any:
        """0 within rounding of the simplex, else infinity."""
        close = abs(_sum(z) - self.total) <= self.total * _slack(z)
        return _indicator(z >= 0) + _indicator(close)

    def check(self) -> None:
        """Raise ParameterError if a parameter is out of range."""
        scalar("Simplex.total", self.total, low=0.0)


def prox(pen: Any, z: Any, step: Any) -> Any:
    r"""Proximal operator: argmin over x of ``pen(x) + |x - z|^2 / (2 step)``.

    Parameters
    ----------
    pen : named tuple
        A penalty of this module, or your own with methods ``prox`` and ``value``.
    z : float or array
        Finite. Separable penalties work entry by entry on any shape; block penalties
        (:class:`GroupL2`, balls, :class:`Simplex`) take the whole array as one block.
    step : float or array
        Above 0; an array (of the shape of `z`) with separable penalties only.

    Returns
    -------
    float or array
        In the dtype and library of `z`.

    Raises
    ------
    ProblemError
        `z` is not finite or `step` not positive.
    ParameterError
        A parameter of `pen` is out of range.

    Notes
    -----
    Inside numba kernels the same call works for a scalar or a one-dimensional array `z` and a
    scalar `step`, without checks; see :func:`coordinate_penalty` for :class:`WeightedL1`.

    Cost: O(n).

    References
    ----------
    .. [1] N. Parikh, S. Boyd, "Proximal algorithms", Foundations and Trends in Optimization 1,
       2014.

    Examples
    --------
    >>> import numpy as np
    >>> from lowrank_opt.numerics import L1, prox
    >>> prox(L1(1.0), np.array([3.0, -0.5, -2.0]), 0.5)
    array([ 2.5,  0. , -1.5])
    """
    _check(pen)
    z, xp = real_array("z", z)
    if isinstance(step, (float, int)):
        good = 0 < step < float("inf")
    else:
        step, _ = real_array("step", step, like=z)
        good = bool(xp.all(step > 0))
    if not good:
        raise ProblemError(f"step is {step!r}; a finite number above 0 is needed")
    scalar_input = z.ndim == 0 and xp is np
    result = pen.prox(z[()] if scalar_input else z, step)
    return z.dtype.type(result) if scalar_input else _cast(result, z)


def value(pen: Any, z: Any) -> Any:
    """Value of a penalty; infinite outside its domain.

    Parameters
    ----------
    pen : named tuple
        A penalty of this module, or your own with methods ``prox`` and ``value``.
    z : float or array
        Finite; all entries are summed.

    Returns
    -------
    float or 0-dimensional array
        Accumulated in float64. The indicators of balls and of the simplex forgive rounding:
        a relative error of ``8 eps sqrt(n)`` of the dtype of `z`, at least ``16 eps``.

    Raises
    ------
    ProblemError
        `z` is not finite.
    ParameterError
        A parameter of `pen` is out of range.

    Notes
    -----
    Works inside numba kernels for a scalar or a one-dimensional array. Cost: O(n).

    Examples
    --------
    >>> from lowrank_opt.numerics import Huber, value
    >>> float(value(Huber(alpha=2.0, delta=1.0), [0.5, 3.0]))
    5.25
    """
    _check(pen)
    z, xp = real_array("z", z)
    result = pen.value(z)
    return float(result) if xp is np else result


def prox_conjugate(pen: Any, z: Any, step: float) -> Any:
    r"""Proximal operator of the convex conjugate of a penalty, by Moreau's identity.

    ``z - step * prox(pen, z / step, 1 / step)``

    Parameters
    ----------
    pen : named tuple
        A convex penalty: not :class:`MCP`, not :class:`SCAD`.
    z : float or array
        As in :func:`prox`.
    step : float
        Above 0.

    Returns
    -------
    float or array
        In the dtype and library of `z`.

    Raises
    ------
    ProblemError
        `z` is not finite or `step` not positive.
    ParameterError
        A parameter of `pen` is out of range, or `pen` is not convex.

    Notes
    -----
    Cost: that of :func:`prox`.
    """
    if isinstance(pen, (MCP, SCAD)):
        raise ParameterError(f"pen is {pen!r}; a convex penalty is needed")
    step = scalar("step", step, low=0.0, strict=True)
    z, xp = real_array("z", z)
    result = z - step * prox(pen, z / step, 1 / step)
    return result[()] if xp is np and z.ndim == 0 else result


def prox_into(pen: Any, z: Any, step: Any, out: Any) -> None:
    """Write :func:`prox` into `out`; inside kernels this is the form that allocates nothing.

    Parameters
    ----------
    pen : named tuple
        A penalty.
    z : array of shape (n,)
        Finite.
    step : float
        Above 0.
    out : array of shape (n,)
        Overwritten; may be `z` itself.

    Notes
    -----
    Cost: O(n). Inside kernels :class:`L1Ball` and :class:`Simplex` allocate a buffer of n float64.
    """
    out[...] = prox(pen, z, step)


def coordinate_penalty(pen: Any, index: int) -> Any:
    """Penalty of one coordinate, for kernels that update coordinates one at a time.

    Parameters
    ----------
    pen : named tuple
        A separable penalty.
    index : int
        The coordinate.

    Returns
    -------
    named tuple
        ``L1(alpha * weights[index])`` for :class:`WeightedL1`, else `pen` itself.

    Notes
    -----
    Works inside numba kernels. Cost: O(1).
    """
    if isinstance(pen, WeightedL1):
        return L1(_weighted(pen.alpha, pen.weights)[index])
    return pen


def _check(pen: Any) -> None:
    if not (hasattr(pen, "prox") and hasattr(pen, "value")):
        raise ParameterError(
            f"pen is a {type(pen).__name__}; a penalty with methods prox and value is needed, "
            "for instance L1(0.1)"
        )
    if hasattr(pen, "check"):
        pen.check()


def _check_weights(name: str, weights: Any) -> Any:
    weights, xp = real_array(name, weights, finite=False)
    if bool(xp.any(weights < 0)):
        raise ParameterError(f"{name} has a negative entry; weights >= 0 are needed")
    return weights


def _weighted(scale: Any, weights: Any) -> Any:
    """``scale * weights``, where an infinite weight is infinite even times 0."""
    xp = namespace(weights)
    if xp is np and not bool(np.any(np.isinf(weights))):
        return scale * weights
    fixed = xp.isinf(weights)
    finite = scale * xp.where(fixed, xp.ones_like(weights), weights)
    return xp.where(fixed, float("inf") + 0 * finite, finite)


def _weighted_sum(sizes: Any, weights: Any) -> Any:
    """Sum of ``sizes * weights``; 0 where a size is 0, whatever its weight."""
    xp = namespace(sizes)
    return _sum(sizes * xp.where(sizes > 0, weights, 0 * sizes))


def _soft(z: Any, threshold: Any) -> Any:
    return z - namespace(z).clip(z, -threshold, threshold)


def _cast(x: Any, like: Any) -> Any:
    """`x` in the dtype of `like`, so that float64 parameters do not promote float32 data."""
    if isinstance(x, (float, int)) or x.dtype == like.dtype:
        return x
    return namespace(x).astype(x, like.dtype) if x.ndim else like.dtype.type(x)


def _sum(x: Any) -> Any:
    xp = namespace(x)
    return xp.sum(x, dtype=xp.float64)


def _length(z: Any) -> Any:
    return namespace(z).reshape(reference.norm(namespace(z).reshape(z, (-1,))), ())


def _slack(z: Any) -> float:
    xp = namespace(z)
    return float(xp.finfo(z.dtype).eps) * max(16.0, 8.0 * max(z.shape, default=1) ** 0.5)


def _indicator(inside: Any) -> Any:
    xp = namespace(inside)
    good = xp.all(inside)
    zero = xp.astype(good, xp.float64) * 0.0
    return xp.where(good, zero, zero + float("inf"))
