"""Slopes that occur while the input stays in a region."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import scipy.linalg as la

from lowrank_opt.core.errors import ProblemError
from lowrank_opt.lipschitz.network import Affine, FeedForward
from lowrank_opt.lipschitz.regions import Ball
from lowrank_opt.lipschitz.rigorous import gamma

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lowrank_opt.lipschitz.network import Network
    from lowrank_opt.lipschitz.regions import Region

    Values = NDArray[np.float64]

__all__ = ["slopes_on"]

# Relative allowance for rounding in the ellipsoids, far above what their factorisations lose.
_ALLOWANCE = 1e-8


def affine_image(W: Values, b: Values, low: Values, high: Values) -> tuple[Values, Values]:
    """Return bounds of W x + b over a box, rounded outwards.

    Parameters
    ----------
    W, b : ndarray of shape (m, n) and (m,)
        The map.
    low, high : ndarray of shape (n,)
        The box.
    """
    mid = 0.5 * (low + high)
    half = np.maximum(high - mid, mid - low) * (1.0 + gamma(4))
    size = np.abs(W)
    centre, reach = W @ mid + b, size @ half
    error = gamma(W.shape[1] + 4) * (size @ (np.abs(mid) + half) + np.abs(b))
    return centre - reach - error, centre + reach + error


def slopes_on(network: Network, region: Region) -> list[tuple[Values, Values]]:
    """Return the slopes of every activation of a feed-forward network on a region.

    Pre-activations are bounded by intervals and, around the centre, by ellipsoids that the layers
    so far map the region into (each is valid, and so is their intersection).

    Parameters
    ----------
    network : FeedForward
        With element-wise activations (groups keep their global description).
    region : Ball or Box
        Convex region of inputs.

    Returns
    -------
    list of (alpha, beta)
        Of each activation, arrays of shape (width,); placeholders for groups.

    Raises
    ------
    ProblemError
        The network is not feed-forward, or an activation has no values.
    """
    if not isinstance(network, FeedForward):
        raise ProblemError(
            f"region: local bounds need a feed-forward network, got {network!r}; give region=None"
        )
    n = network.n_inputs
    box = region.box(n)
    low, high = box.lower, box.upper
    if isinstance(region, Ball):
        centre = np.broadcast_to(region.center, (n,)).astype(float)
        radius = float(region.radius)
    else:
        centre = 0.5 * (low + high)
        radius = float(np.linalg.norm(np.maximum(high - centre, centre - low))) * (1 + gamma(n + 4))
    c_low, c_high = centre, centre  # where the centre is mapped
    shape: Values | None = None  # increments x with |R^T x| <= radius; None: R = I
    out: list[tuple[Values, Values]] = []
    pending: Values | None = None  # affine maps since the ellipsoid
    for layer in network.layers:
        if isinstance(layer, Affine):
            W = layer.dense
            low, high = affine_image(W, layer.bias, low, high)
            c_low, c_high = affine_image(W, layer.bias, c_low, c_high)
            pending = W if pending is None else W @ pending
            continue
        if pending is None:
            pending = np.eye(len(low))
        T = pending.T if shape is None else la.solve_triangular(shape, pending.T, lower=True)
        reach = radius * np.sqrt((T * T).sum(axis=0)) * (1.0 + _ALLOWANCE)
        low, high = np.maximum(low, c_low - reach), np.minimum(high, c_high + reach)
        if layer.by_groups:
            alpha, beta = -np.ones(len(low)), np.ones(len(low))  # 1-Lipschitz
            out.append((alpha, beta))
        else:
            alpha, beta = layer.local_slopes(low, high)
            out.append((alpha, beta))
        shape = _next_ellipsoid(T, alpha, beta)
        low, high = layer.interval(low, high)
        c_low, c_high = layer.interval(c_low, c_high)
        pad_low, pad_high = 4 * gamma(1) * np.abs(low), 4 * gamma(1) * np.abs(high)
        low, high = low - pad_low, high + pad_high
        c_low, c_high = c_low - 4 * gamma(1) * np.abs(c_low), c_high + 4 * gamma(1) * np.abs(c_high)
        pending = None
    return out


def _next_ellipsoid(T: Values, alpha: Values, beta: Values) -> Values:
    """Return R with |Rᵀ h| <= 1 for increments h = D z, |z| <= 1 in the ellipsoid of T Tᵀ.

    With slopes in [0, β] the closed form of one layer, otherwise a ball around it.
    """
    Y = T.T @ T
    size = np.maximum(np.abs(alpha), np.abs(beta))
    # h = size D' z with D' within one; constant neurons have z = 0. R is for D' z, then for h.
    Y = Y * np.outer(size > 0, size > 0)
    size = np.where(size > 0, size, 1e-150)
    top = max(float(np.trace(Y)), 1e-100)  # the square of its inverse has to be finite
    if len(Y) > 1:
        value = float(la.eigvalsh(Y, subset_by_index=[len(Y) - 1, len(Y) - 1])[0])
        top = min(top, max(value, 1e-100) * (1.0 + _ALLOWANCE))
    if np.all(alpha >= 0):
        lam = 1.0 / top  # 2Λ - ΛYΛ with Λ = λ I: eigenvalues between λ and 2 λ
        X = -lam * lam * Y
        X[np.diag_indices(len(X))] += 2.0 * lam
    else:
        X = np.eye(len(Y)) / top
    R = la.cholesky(X, lower=True)
    return np.asarray(R / size[:, None])
