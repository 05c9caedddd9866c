"""The obvious form of the kernels of `SoftImpute`, in array operations on coordinate lists.

`rows`, `cols`, `values`, `weights` are (N,) arrays of the observed entries; factors are (m, k) and
(n, k). Arrays of any library with the array API go through unchanged.
"""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["hessian_product", "line_sums", "product", "residual"]


def residual(rows: Any, cols: Any, values: Any, weights: Any, A: Any, B: Any) -> Any:
    """``w (value - a_i . b_j)`` of every entry."""
    return weights * (values - (A[rows] * B[cols]).sum(axis=1))


def product(rows: Any, cols: Any, data: Any, B: Any, m: int) -> Any:
    """The (m, n) matrix with entries `data`, times `B` (n, k)."""
    out = np.zeros((m, B.shape[1]), dtype=B.dtype)
    np.add.at(out, rows, data[:, None] * B[cols])
    return out


def hessian_product(
    rows: Any, cols: Any, weights: Any, res: Any, A: Any, B: Any, dA: Any, dB: Any
) -> Any:
    """Row half of the second derivative of ``1/2 sum w (value - a_i . b_j)^2`` along (dA, dB)."""
    s = weights * (A[rows] * dB[cols] + dA[rows] * B[cols]).sum(axis=1)
    return product(rows, cols, s, B, A.shape[0]) - product(rows, cols, res, dB, A.shape[0])


def line_sums(
    rows: Any, cols: Any, weights: Any, res: Any, A: Any, B: Any, dA: Any, dB: Any
) -> Any:
    """Sums over all entries of ``res s``, ``res q``, ``w s^2``, ``w s q``, ``w q^2``."""
    s = (A[rows] * dB[cols] + dA[rows] * B[cols]).sum(axis=1)
    q = (dA[rows] * dB[cols]).sum(axis=1)
    return np.array([res @ s, res @ q, (weights * s) @ s, (weights * s) @ q, (weights * q) @ q])
