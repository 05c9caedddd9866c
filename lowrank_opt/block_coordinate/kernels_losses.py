"""Rules by which the functions of ``losses`` work on numbers inside compiled kernels.

The loss is known when a kernel is compiled, from the type of the named tuple: no branch is left.
The rules are the plain functions of a number below; ``losses`` is their twin for arrays.
"""

from __future__ import annotations

import math

from numba import njit, types
from numba.extending import overload

from lowrank_opt.block_coordinate import losses
from lowrank_opt.block_coordinate.losses import (
    loss_conjugate,
    loss_curvature,
    loss_slope,
    loss_value,
)

__all__ = ["loss_conjugate", "loss_curvature", "loss_slope", "loss_value"]


def _class_of(loss):
    return loss.instance_class if isinstance(loss, types.NamedUniTuple | types.NamedTuple) else None


def _squared_value(loss, y, z):
    return 0.5 * (z - y) * (z - y)


def _squared_slope(loss, y, z):
    return z - y


def _squared_curvature(loss, y, z):
    return 1.0


def _squared_conjugate(loss, y, theta):
    return theta * (0.5 * theta + y)


def _logistic_value(loss, y, z):
    t = -y * z
    return max(t, 0.0) + math.log1p(math.exp(-abs(t)))


def _logistic_slope(loss, y, z):
    t = -y * z
    e = math.exp(-abs(t))
    return -y * ((1.0 if t >= 0.0 else e) / (1.0 + e))


def _logistic_curvature(loss, y, z):
    e = math.exp(-abs(-y * z))  # as in the other two: the compiler takes one exponential for all
    return e / ((1.0 + e) * (1.0 + e))


@njit(cache=True)
def _entropy(p):
    if p < 0.0:
        return math.inf
    return p * math.log(p) if p > 0.0 else 0.0


def _logistic_conjugate(loss, y, theta):
    q = -y * theta
    return _entropy(q) + _entropy(1.0 - q)


def _huber_value(loss, y, z):
    r = z - y
    c = min(max(r, -loss.delta), loss.delta)
    return c * (r - 0.5 * c)


def _huber_slope(loss, y, z):
    return min(max(z - y, -loss.delta), loss.delta)


def _huber_curvature(loss, y, z):
    return 1.0 if abs(z - y) < loss.delta else 0.0


def _huber_conjugate(loss, y, theta):
    return theta * (0.5 * theta + y) if abs(theta) <= loss.delta else math.inf


def _poisson_value(loss, y, z):
    return math.exp(z) - y * z


def _poisson_slope(loss, y, z):
    return math.exp(z) - y


def _poisson_curvature(loss, y, z):
    return math.exp(z)


def _poisson_conjugate(loss, y, theta):
    return _entropy(theta + y) - (theta + y)


_RULES = {
    losses.Squared: (_squared_value, _squared_slope, _squared_curvature, _squared_conjugate),
    losses.Logistic: (_logistic_value, _logistic_slope, _logistic_curvature, _logistic_conjugate),
    losses.Huber: (_huber_value, _huber_slope, _huber_curvature, _huber_conjugate),
    losses.Poisson: (_poisson_value, _poisson_slope, _poisson_curvature, _poisson_conjugate),
}


@overload(loss_value)
def _loss_value(loss, y, z):
    rules = _RULES.get(_class_of(loss))
    return None if rules is None else rules[0]


@overload(loss_slope)
def _loss_slope(loss, y, z):
    rules = _RULES.get(_class_of(loss))
    return None if rules is None else rules[1]


@overload(loss_curvature)
def _loss_curvature(loss, y, z):
    rules = _RULES.get(_class_of(loss))
    return None if rules is None else rules[2]


@overload(loss_conjugate)
def _loss_conjugate(loss, y, theta):
    rules = _RULES.get(_class_of(loss))
    return None if rules is None else rules[3]
