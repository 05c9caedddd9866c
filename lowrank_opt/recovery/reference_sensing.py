"""Obvious NumPy forms of the sensing kernels: what `kernels_sensing` must agree with."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["linearize", "slopes"]


def slopes(e: Any, loss: str, delta: float = 0.0) -> tuple[Any, Any]:
    """Return loss and slope of every error.

    Parameters
    ----------
    e : ndarray of shape (N,)
        Errors, prediction minus data.
    loss : {"squared", "l1", "clipped"}
        ``e²`` with slope e; ``|e|`` with the sign, 0 at 0; or ``|e|`` with e cut off at ±delta.
    delta : float, default=0.0
        Where "clipped" cuts off.

    Returns
    -------
    rho, psi : ndarray of shape (N,)
    """
    if loss == "squared":
        return e * e, e
    return np.abs(e), np.sign(e) if loss == "l1" else np.clip(e, -delta, delta)


def linearize(
    A: Any,
    U: Any,
    V: Any,
    y: Any,
    loss: str = "l1",
    *,
    symmetric: bool = False,
    weights: Any = None,
    delta: float = 0.0,
) -> tuple[float, Any, Any, float]:
    """Return the mean loss, the products of its slope matrix with the factors, and its norm.

    Parameters
    ----------
    A : ndarray of shape (N, m, n)
        Measurement matrices.
    U, V : ndarray of shape (m, k) and (n, k)
        Factors of the point.
    y : ndarray of shape (N,)
        Data.
    loss : {"squared", "l1", "clipped"}, default="l1"
        See `slopes`.
    symmetric : bool, default=False
        Replace the slope matrix by its symmetric part.
    weights : ndarray of shape (N,) or None, default=None
        Weights of the measurements.
    delta : float, default=0.0
        See `slopes`.

    Returns
    -------
    value : float
        ``(1/N) Σ w ρ(e)``.
    left, right : ndarray of shape (m, k) and (n, k)
        ``Q V`` and ``Qᵀ U`` with ``Q = (1/N) Σ w ψ(e) A_i``.
    norm : float
        Frobenius norm of Q.
    """
    w = np.ones(len(y)) if weights is None else weights
    rho, psi = slopes(np.einsum("pij,ij->p", A, U @ V.T) - y, loss, delta)
    Q = np.einsum("p,pij->ij", w * psi, A) / len(y)
    if symmetric:
        Q = (Q + Q.T) / 2
    return float(np.mean(w * rho)), Q @ V, Q.T @ U, float(np.linalg.norm(Q))
