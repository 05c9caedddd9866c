"""Array-API twins of the row-solve kernels: the same mathematics, one row at a time.

Slow and obvious. They are what the compiled kernels are tested against, and the path for arrays of
other libraries. Arguments are those of :mod:`lowrank_opt.recovery.kernels`, with two differences:
nothing is overwritten (the new factor is returned), and factors need no padding: column ``rank``
is the bias when there is one, columns to the right are ignored and come back as zeros.
"""

from __future__ import annotations

from typing import Any

from array_api_compat import array_namespace

__all__ = [
    "factor_gradient",
    "predict_pairs",
    "residuals",
    "robust_weights",
    "sample_rows",
    "solve_rows",
    "solve_rows_cg",
]

Array = Any


def _row(i, indptr, indices, values, F, rank, bias, weights):
    """Return the regression of one row: matrix, target and weights."""
    xp = array_namespace(F)
    entries = slice(int(indptr[i]), int(indptr[i + 1]))
    rows = xp.take(F, indices[entries], axis=0)
    A, b = rows[:, :rank], values[entries]
    if bias:
        b = b - rows[:, rank]
        A = xp.concat([A, xp.ones((A.shape[0], 1), dtype=F.dtype)], axis=1)
    w = xp.ones(b.shape[0], dtype=F.dtype) if weights is None else weights[entries]
    return A, b, w


def _ridge(i, ridge, ridge_bias, rank, bias, like):
    """Return the diagonal of one row's penalty."""
    xp = array_namespace(like)
    value = float(ridge[i]) if hasattr(ridge, "shape") and ridge.ndim else float(ridge)
    diagonal = xp.full(rank, value, dtype=like.dtype)
    if bias:
        value = (
            float(ridge_bias[i])
            if hasattr(ridge_bias, "shape") and ridge_bias.ndim
            else float(ridge_bias)
        )
        diagonal = xp.concat([diagonal, xp.full(1, value, dtype=like.dtype)])
    return diagonal


def _assemble(rows, X):
    """Stack solved rows and pad them to the width of ``X``."""
    xp = array_namespace(X)
    solved = xp.stack(rows)
    padding = xp.zeros((X.shape[0], X.shape[1] - solved.shape[1]), dtype=X.dtype)
    return xp.concat([solved, padding], axis=1)


def _least_norm(H, g):
    xp = array_namespace(H)
    eigenvalues, Q = xp.linalg.eigh(H)
    largest = float(xp.max(xp.abs(eigenvalues)))
    keep = eigenvalues > H.shape[0] * float(xp.finfo(H.dtype).eps) * largest
    safe = xp.where(keep, eigenvalues, xp.ones_like(eigenvalues))
    return Q @ xp.where(keep, (Q.T @ g) / safe, xp.zeros_like(g))


def solve_rows(
    indptr: Array,
    indices: Array,
    values: Array,
    F: Array,
    X: Array,
    *,
    rank: int,
    ridge: Any,
    bias: bool = False,
    ridge_bias: Any = 0.0,
    weights: Array | None = None,
    base_gram: Array | None = None,
    base_rhs: Array | None = None,
) -> Array:
    """Return the exact solution of every row, see :func:`lowrank_opt.recovery.kernels.solve_rows`.

    Cost: ``2·N·k² + rows·O(k³)`` flops.
    """
    xp = array_namespace(F)
    unknowns = rank + int(bias)
    rows = []
    for i in range(X.shape[0]):
        A, b, w = _row(i, indptr, indices, values, F, rank, bias, weights)
        if A.shape[0] == 0 and base_gram is None:
            rows.append(xp.zeros(unknowns, dtype=X.dtype))
            continue
        H = A.T @ (A * w[:, None])
        diagonal = _ridge(i, ridge, ridge_bias, rank, bias, F)
        H = H + xp.eye(unknowns, dtype=F.dtype) * diagonal[None, :]
        g = A.T @ (w * b)
        if base_gram is not None:
            upper = xp.triu(base_gram[:unknowns, :unknowns])
            H = H + upper + xp.triu(upper, k=1).T
            g = g + base_rhs[i, :unknowns]
        rows.append(_least_norm(H, g))
    return _assemble(rows, X)


def solve_rows_cg(
    indptr: Array,
    indices: Array,
    values: Array,
    F: Array,
    X: Array,
    *,
    rank: int,
    ridge: Any,
    scale: Array,
    bias: bool = False,
    ridge_bias: Any = 0.0,
    weights: Array | None = None,
    n_steps: int = 3,
) -> Array:
    """Return every row after ``n_steps`` preconditioned conjugate-gradient steps.

    Twin of :func:`lowrank_opt.recovery.kernels.solve_rows_cg`.

    Cost: ``4·(n_steps + 1)·N·k`` flops.
    """
    xp = array_namespace(F)
    unknowns = rank + int(bias)
    rows = []
    for i in range(X.shape[0]):
        A, b, w = _row(i, indptr, indices, values, F, rank, bias, weights)
        x = X[i, :unknowns]
        if A.shape[0] == 0:
            rows.append(xp.zeros_like(x))
            continue
        diagonal = _ridge(i, ridge, ridge_bias, rank, bias, F)
        mass = xp.sum(w)
        shared = scale[:rank]
        if bias:
            shared = xp.concat([shared, xp.ones(1, dtype=F.dtype)])
        preconditioner = 1 / (mass * shared + diagonal)
        r = A.T @ (w * (b - A @ x)) - diagonal * x
        p = preconditioner * r
        rz = float(xp.sum(r * p))
        for _ in range(n_steps):
            if not rz > 0:
                break
            q = A.T @ (w * (A @ p)) + diagonal * p
            step = rz / float(xp.sum(p * q))
            x, r = x + step * p, r - step * q
            z = preconditioner * r
            new = float(xp.sum(r * z))
            p, rz = z + new / rz * p, new
        rows.append(x)
    return _assemble(rows, X)


def sample_rows(
    indptr: Array,
    indices: Array,
    values: Array,
    F: Array,
    X: Array,
    *,
    rank: int,
    alpha: float,
    precision: Array,
    mean: Array,
    normals: Array,
    bias: bool = False,
    weights: Array | None = None,
) -> Array:
    """Return a draw of every row, see :func:`lowrank_opt.recovery.kernels.sample_rows`.

    Cost: ``2·N·k² + rows·O(k³)`` flops.
    """
    xp = array_namespace(F)
    unknowns = rank + int(bias)
    precision, mean = precision[:unknowns], mean[:unknowns]
    rows = []
    for i in range(X.shape[0]):
        A, b, w = _row(i, indptr, indices, values, F, rank, bias, weights)
        H = alpha * (A.T @ (A * w[:, None])) + xp.eye(unknowns, dtype=F.dtype) * precision[None, :]
        g = alpha * (A.T @ (w * b)) + precision * mean
        L = xp.linalg.cholesky(H)
        y = xp.linalg.solve(L, g[:, None])[:, 0] + normals[i, :unknowns]
        rows.append(xp.linalg.solve(L.T, y[:, None])[:, 0])
    return _assemble(rows, X)


def predict_pairs(
    rows: Array, columns: Array, U: Array, V: Array, *, rank: int, bias: bool
) -> Array:
    """Return ``u_i·v_j`` (plus both biases) for pairs of indices.

    Cost: ``2·N·k`` flops.
    """
    xp = array_namespace(U)
    left, right = xp.take(U, rows, axis=0), xp.take(V, columns, axis=0)
    product = xp.sum(left[:, :rank] * right[:, :rank], axis=1)
    return product + left[:, rank] + right[:, rank] if bias else product


def residuals(
    indptr: Array,
    indices: Array,
    values: Array,
    F: Array,
    X: Array,
    *,
    rank: int,
    bias: bool = False,
    weights: Array | None = None,
) -> tuple[Array, float]:
    """Return ``values - prediction`` on the observed entries and its (weighted) squared sum.

    Cost: ``2·N·k`` flops.
    """
    xp = array_namespace(F)
    out = []
    for i in range(X.shape[0]):
        entries = slice(int(indptr[i]), int(indptr[i + 1]))
        rows = xp.take(F, indices[entries], axis=0)
        prediction = rows[:, :rank] @ X[i, :rank]
        if bias:
            prediction = prediction + rows[:, rank] + X[i, rank]
        out.append(values[entries] - prediction)
    residual = xp.concat(out)
    square = xp.astype(residual, xp.float64) ** 2
    if weights is not None:
        square = square * xp.astype(weights, xp.float64)
    return residual, float(xp.sum(square))


def factor_gradient(
    indptr: Array,
    indices: Array,
    residual: Array,
    F: Array,
    X: Array,
    *,
    rank: int,
    ridge: Any,
    bias: bool = False,
    ridge_bias: Any = 0.0,
    weights: Array | None = None,
    perm: Array | None = None,
) -> Array:
    """Return the gradient with respect to ``X`` of the penalised sum of squares.

    Twin of :func:`lowrank_opt.recovery.kernels.factor_gradient`.

    Cost: ``2·N·k`` flops.
    """
    xp = array_namespace(F)
    residual = residual if perm is None else xp.take(residual, perm)
    zeros = xp.zeros_like(residual)
    rows = []
    for i in range(X.shape[0]):
        entries = slice(int(indptr[i]), int(indptr[i + 1]))
        A, _, w = _row(i, indptr, indices, zeros, F, rank, bias, weights)
        diagonal = _ridge(i, ridge, ridge_bias, rank, bias, F)
        rows.append(2 * (diagonal * X[i, : rank + int(bias)] - A.T @ (w * residual[entries])))
    return _assemble(rows, X)


def robust_weights(
    residual: Array,
    delta: float,
    *,
    power: int = 1,
    weights: Array | None = None,
    perm: Array | None = None,
) -> Array:
    """Return ``w·min(1, delta/|residual|)**power``.

    Cost: ``N`` divisions.
    """
    xp = array_namespace(residual)
    size = xp.abs(residual if perm is None else xp.take(residual, perm))
    large = size > delta
    w = xp.where(large, delta / xp.where(large, size, xp.ones_like(size)), xp.ones_like(size))
    w = w**power
    return w if weights is None else w * weights
