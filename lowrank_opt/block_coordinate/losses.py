"""Losses of linear predictors: values, derivatives and conjugates, sample by sample.

Each loss is a named tuple of its parameters. The functions of this module work on numbers and on
NumPy arrays, in float64, for predictors of any size without overflow of what is finite;
``kernels_losses`` has the rules by which the same calls work inside compiled kernels, for numbers.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

__all__ = [
    "Huber",
    "Logistic",
    "Poisson",
    "Softmax",
    "Squared",
    "loss_conjugate",
    "loss_curvature",
    "loss_slope",
    "loss_value",
    "total_loss",
    "weigh",
]


class Squared(NamedTuple):
    r"""Squared loss, :math:`\tfrac12 (z - y)^2`."""


class Logistic(NamedTuple):
    r"""Logistic loss, :math:`\log(1 + e^{-y z})`, of labels y in {-1, 1}."""


class Softmax(NamedTuple):
    r"""Multinomial loss, :math:`\log \sum_c e^{z_c} - \sum_c y_c z_c`, of one-hot rows y."""


class Huber(NamedTuple):
    r"""Huber's loss: :math:`\tfrac12 (z - y)^2` up to a residual of ``delta``, then linear.

    Parameters
    ----------
    delta : float, default=1.35
        Above 0.
    """

    delta: float = 1.35


class Poisson(NamedTuple):
    r"""Poisson loss, :math:`e^z - y z`, of counts y."""


def loss_value(loss: Any, y: Any, z: Any) -> Any:
    """Return the losses of the predictors `z`.

    Parameters
    ----------
    loss : named tuple
        A loss of this module.
    y, z : float or ndarray
        Targets and predictors, of one shape; the softmax loss has one row a sample.

    Returns
    -------
    float or ndarray
        Of the shape of `z`; the softmax loss gives one number a row. Infinite where the Poisson
        loss overflows.
    """
    if isinstance(loss, Squared):
        return 0.5 * (z - y) ** 2
    if isinstance(loss, Logistic):
        t = -y * z
        return np.maximum(t, 0.0) + np.log1p(np.exp(-np.abs(t)))
    if isinstance(loss, Huber):
        r = z - y
        c = np.clip(r, -loss.delta, loss.delta)
        return c * (r - 0.5 * c)
    if isinstance(loss, Poisson):
        with np.errstate(over="ignore"):
            return np.exp(z) - y * z
    top = np.max(z, axis=-1, keepdims=True)
    total = np.sum(np.exp(z - top), axis=-1)
    return np.log(total) + np.sum(y * (top - z), axis=-1)


def weigh(values: Any, weights: Any) -> Any:
    """Return numbers of samples times their weights; 0 for a weight of 0, even of infinities.

    Parameters
    ----------
    values : ndarray of shape (n,) or (n, k)
        The numbers.
    weights : ndarray of shape (n,) or None
        The weights; ``None``: 1.
    """
    if weights is None:
        return values
    s = weights if values.ndim == 1 else weights[:, None]
    return s * np.where(s > 0, values, 0.0)


def total_loss(loss: Any, y: Any, z: Any, weights: Any) -> float:
    """Return the weighted sum of the losses.

    Parameters
    ----------
    loss, y, z
        As in :func:`loss_value`, for arrays.
    weights : ndarray of shape (n,) or None
        Weights of the samples.
    """
    return float(np.sum(weigh(loss_value(loss, y, z), weights)))


def loss_slope(loss: Any, y: Any, z: Any) -> Any:
    """Return the derivatives of the losses by the predictors.

    Parameters
    ----------
    loss, y, z
        As in :func:`loss_value`.

    Returns
    -------
    float or ndarray
        Of the shape of `z`.
    """
    if isinstance(loss, Squared):
        return z - y
    if isinstance(loss, Logistic):
        t = -y * z
        e = np.exp(-np.abs(t))
        return -y * (np.where(t >= 0.0, 1.0, e) / (1.0 + e))
    if isinstance(loss, Huber):
        return np.clip(z - y, -loss.delta, loss.delta)
    if isinstance(loss, Poisson):
        with np.errstate(over="ignore"):
            return np.exp(z) - y
    e = np.exp(z - np.max(z, axis=-1, keepdims=True))
    return e / np.sum(e, axis=-1, keepdims=True) - y


def loss_curvature(loss: Any, y: Any, z: Any) -> Any:
    """Return the second derivatives of the losses by the predictors.

    For the softmax loss those by one predictor alone: the diagonal of its Hessian.

    Parameters
    ----------
    loss, y, z
        As in :func:`loss_value`.

    Returns
    -------
    float or ndarray
        Of the shape of `z`. That of Huber's loss is 1 where its residual is below ``delta``, else
        0.
    """
    if isinstance(loss, Squared):
        return np.ones_like(z, dtype=np.float64)[()]
    if isinstance(loss, Logistic):
        e = np.exp(-np.abs(z))
        return e / ((1.0 + e) * (1.0 + e))
    if isinstance(loss, Huber):
        return np.where(np.abs(z - y) < loss.delta, 1.0, 0.0)[()]
    if isinstance(loss, Poisson):
        with np.errstate(over="ignore"):
            return np.exp(z)
    share = loss_slope(loss, 0.0, z)
    return share * (1.0 - share)


def loss_conjugate(loss: Any, y: Any, theta: Any) -> Any:
    r"""Return the conjugates :math:`\sup_z \theta z - \ell(y, z)`.

    Parameters
    ----------
    loss, y
        As in :func:`loss_value`.
    theta : float or ndarray
        Dual numbers, of the shape of `y`.

    Returns
    -------
    float or ndarray
        Infinite outside the domain: ``0 <= -y theta <= 1`` for the logistic loss,
        ``|theta| <= delta`` for Huber's, ``theta + y >= 0`` for Poisson, ``theta + y`` among the
        probability vectors for softmax (whose sum may miss 1 by rounding).
    """
    if isinstance(loss, Squared):
        return theta * (0.5 * theta + y)
    if isinstance(loss, Logistic):
        q = -y * theta
        return _entropy(q) + _entropy(1.0 - q)
    if isinstance(loss, Huber):
        inside = np.abs(theta) <= loss.delta
        return np.where(inside, theta * (0.5 * theta + y), np.inf)[()]
    if isinstance(loss, Poisson):
        return _entropy(theta + y) - (theta + y)
    p = np.asarray(theta + y)
    near = np.abs(np.sum(p, axis=-1) - 1.0) <= 1e-12 * p.shape[-1]
    return np.where(near, np.sum(_entropy(p), axis=-1), np.inf)[()]


def _entropy(p: Any) -> Any:
    """``p log p``, 0 at 0 and infinite below."""
    safe = np.where(p > 0.0, p, 1.0)
    return np.where(p < 0.0, np.inf, safe * np.log(safe))[()]
