"""Least squares without an L1 term: one linear system, solved again for what is left."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lowrank_opt.block_coordinate.squared_design import Design

__all__ = ["correction"]

# Smaller side up to which a dense system is factored; accuracy and steps of the iterative solver.
_FACTORED, _ACCURACY, _STEPS = 3000, 1e-12, 2000


def correction(
    design: Design, w: NDArray[Any], u: NDArray[Any], columns: NDArray[Any], mu: float
) -> NDArray[Any]:
    """Return the change of the coefficients `columns` to the (ridge) least squares solution.

    The shortest one, if there are several.

    Parameters
    ----------
    design : Design
        The data.
    w, u : ndarray
        Coefficients and weighted residual.
    columns : ndarray of int
        Coefficients that may change.
    mu : float
        Ridge term.
    """
    plain = u if design.s.size == 0 else design.roots * design.inverse * u
    root = math.sqrt(mu)
    at = w[columns]
    smaller = min(design.n, columns.size)
    if smaller > _FACTORED or (design.sparse and columns.size * design.n > 1 << 24):
        return _iterate(design, plain, at, columns, root)
    A = design.columns(columns)
    if mu == 0.0:
        # Columns of the same length: a small column is not a dependent one.
        norms = np.sqrt(design.squares[columns])
        return np.linalg.lstsq(A / norms, plain, rcond=None)[0] / norms
    target = A.T @ plain - mu * at
    if design.n >= columns.size:
        H = A.T @ A
        H[np.diag_indices_from(H)] += mu
        return np.linalg.solve(H, target)
    # (A'A + mu)^-1 v = (v - A' (AA' + mu)^-1 A v) / mu
    H = A @ A.T
    H[np.diag_indices_from(H)] += mu
    return (target - A.T @ np.linalg.solve(H, A @ target)) / mu


def _iterate(
    design: Design, plain: NDArray[Any], at: NDArray[Any], columns: NDArray[Any], root: float
) -> NDArray[Any]:
    from scipy.sparse.linalg import LinearOperator, lsmr

    n, m = design.n, columns.size
    everything = np.arange(m)
    norms = np.sqrt(design.squares[columns])
    part = design.restricted(columns)
    to_plain = 1.0 if design.s.size == 0 else design.roots * design.inverse
    to_weighted = 1.0 if design.s.size == 0 else design.roots

    def matvec(v: NDArray[Any]) -> NDArray[Any]:
        v = np.ravel(v) / norms
        out = np.zeros(n)
        part.add(everything, v, out)
        out *= to_plain
        return np.concatenate([out, root * v]) if root else out

    def rmatvec(r: NDArray[Any]) -> NDArray[Any]:
        r = np.ravel(r)
        out, weighted = np.zeros(m), r[:n] * to_weighted
        part.balance(weighted)
        part.multiply(weighted, everything, m, out, 0.0, out)
        if root:
            out += root * r[n:]
        return out / norms

    shape = (n + m if root else n, m)
    operator = LinearOperator(shape, matvec=matvec, rmatvec=rmatvec, dtype=np.float64)
    right = np.concatenate([plain, -root * at]) if root else plain
    found = lsmr(operator, right, atol=_ACCURACY, btol=_ACCURACY, conlim=0, maxiter=_STEPS)[0]
    return found / norms
