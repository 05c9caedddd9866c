"""Least squares with L1 terms, slowly and obviously: twins of the kernels, on dense matrices."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "centred",
    "coordinate_descent",
    "gap_terms",
    "gram_descent",
    "line_minimum",
    "screened",
]


def centred(X: NDArray[Any], s: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Return the centred columns, their means, and their squared norms, with weights `s`."""
    means = s @ X / s.sum()
    A = X - means
    return A, means, s @ (A * A)


def _threshold(t: float, limit: float, h: float, positive: bool) -> float:
    if t > limit:
        return (t - limit) / h
    if t < -limit and not positive:
        return (t + limit) / h
    return 0.0


def coordinate_descent(
    A: NDArray[Any], s: NDArray[Any], u: NDArray[Any], w: NDArray[Any], W: NDArray[Any],
    limits: NDArray[Any], mu: float, positive: bool, sweeps: int,
) -> tuple[NDArray[Any], NDArray[Any]]:  # fmt: skip
    """Return weighted residual and coefficients after sweeps over the coefficients `W`."""
    u, w = u.copy(), w.copy()
    for _ in range(sweeps):
        for j in W:
            square = s @ A[:, j] ** 2
            if square == 0:
                continue
            t = A[:, j] @ u + square * w[j]
            new = _threshold(t, limits[j], square + mu, positive)
            u -= s * A[:, j] * (new - w[j])
            w[j] = new
    return u, w


def gram_descent(
    A: NDArray[Any], q: NDArray[Any], w: NDArray[Any], limits: NDArray[Any], mu: float,
    positive: bool, sweeps: int,
) -> tuple[NDArray[Any], NDArray[Any]]:  # fmt: skip
    """Return gradient and coefficients after sweeps on ``w' (A + mu I) w / 2 - q' w``."""
    H = A + mu * np.eye(len(q))
    q, w = q.copy(), w.copy()
    for _ in range(sweeps):
        for j in range(len(q)):
            new = _threshold(q[j] + H[j, j] * w[j], limits[j], H[j, j], positive)
            q -= H[:, j] * (new - w[j])
            w[j] = new
    return q, w


def gap_terms(
    c: NDArray[Any], w: NDArray[Any], limits: NDArray[Any], mu: float, positive: bool
) -> tuple[float, float, float, float]:
    """Return the penalty, ``w' c``, the largest ratio of ``|c|`` to its limit, the ridge gap."""
    size = c if positive else np.abs(c)
    top = max(0.0, float(np.max(size / limits)))
    ridge = 0.0
    if mu > 0:  # Fenchel's inequality: penalty plus its conjugate minus the product
        g = c + mu * w
        above = np.maximum((g if positive else np.abs(g)) - limits, 0.0)
        terms = limits * np.abs(w) + 0.5 * mu * w * w + above**2 / (2 * mu) - w * g
        ridge = float(terms.sum())
    return float(limits @ np.abs(w)), float(w @ c), top, ridge


def screened(
    c: NDArray[Any], w: NDArray[Any], norms: NDArray[Any], limits: NDArray[Any], positive: bool,
    scale: float, radius: float, part: float,
) -> tuple[NDArray[Any], NDArray[Any]]:  # fmt: skip
    """Return which coefficients stay, and which of those can matter now."""
    v = scale * (c if positive else np.abs(c))
    stay = (w != 0) | (v + norms * radius >= limits)
    return np.flatnonzero(stay), np.flatnonzero(stay & ((w != 0) | (v >= part * limits)))


def line_minimum(
    w: NDArray[Any], d: NDArray[Any], limits: NDArray[Any], slope: float, curvature: float
) -> float:
    """Return t in [0, 1] of the least value along ``w + t d``; among kinks and vertices.

    `slope` is the derivative at 0 of all terms, with the signs of `w`.
    """
    smooth = slope - float(limits @ (np.sign(w) * d))

    def value(t: float) -> float:
        return smooth * t + 0.5 * curvature * t * t + float(limits @ np.abs(w + t * d))

    with np.errstate(divide="ignore", invalid="ignore"):
        kinks = -w / d
    kinks = np.sort(kinks[(kinks > 0) & (kinks < 1)])
    ends = np.concatenate([[0.0], kinks, [1.0]])
    middle = 0.5 * (ends[1:] + ends[:-1])
    slopes = np.array([smooth + float(limits @ (np.sign(w + t * d) * d)) for t in middle])
    inside = -slopes / curvature if curvature > 0 else np.zeros(0)
    good = inside[(inside >= ends[:-1]) & (inside <= ends[1:])] if inside.size else inside
    return float(min(np.concatenate([ends, good]), key=value))
