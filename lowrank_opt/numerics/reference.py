"""Array-API twins of the kernels: slow where the kernels are fast, obvious, for any array library.

Every function takes arrays of one namespace `xp` (array-api-compat) and works along the last axis;
leading axes are a batch. Arguments are taken as valid: the public functions check them.
"""

from __future__ import annotations

from typing import Any

from lowrank_opt.numerics._arrays import device, namespace

__all__ = [
    "hadamard",
    "halfspace_excess",
    "norm",
    "project_halfspace",
    "project_hyperplane",
    "project_l1_ball",
    "project_l2_ball",
    "project_psd",
    "project_simplex",
    "scatter_rows",
    "topk",
]


def norm(x: Any) -> Any:
    """Euclidean norm along the last axis, kept as an axis, without overflow or underflow.

    Cost: O(n).
    """
    xp = namespace(x)
    if x.shape[-1] == 0:
        return xp.zeros((*x.shape[:-1], 1), dtype=x.dtype)
    scale = xp.max(xp.abs(x), axis=-1, keepdims=True)
    safe = xp.where(scale > 0, scale, xp.ones_like(scale))
    squares = xp.sum((x / safe) ** 2, axis=-1, keepdims=True, dtype=xp.float64)
    return scale * xp.astype(xp.sqrt(squares), x.dtype)


def project_simplex(x: Any, total: Any) -> Any:
    """Projection on {y >= 0, sum y = total}; `total` has a last axis of length 1.

    Cost: O(n log n), a sort.
    """
    xp = namespace(x)
    top = xp.max(x, axis=-1, keepdims=True)
    # Differences from the maximum: the sum is then exact to eps * total whatever the size of x.
    y = xp.astype(x, xp.float64) - xp.astype(top, xp.float64)
    total = xp.astype(total, xp.float64)
    u = -xp.sort(-y, axis=-1)
    # Entries at or below -total never count; clipped, they cannot overflow the running sum.
    u = xp.maximum(u, -total * xp.ones_like(u))
    ranks = xp.astype(xp.arange(1, x.shape[-1] + 1, device=device(x)), xp.float64)
    thresholds = (xp.cumulative_sum(u, axis=-1) - total) / ranks
    support = xp.sum(xp.astype(u > thresholds, xp.int64), axis=-1, keepdims=True)
    support = xp.where(support > 0, support, xp.ones_like(support))  # total == 0
    tau = xp.take_along_axis(thresholds, support - 1, axis=-1)
    return xp.astype(xp.maximum(y - tau, xp.zeros_like(y)), x.dtype)


def project_l1_ball(x: Any, radius: Any) -> Any:
    """Projection on {|y|_1 <= radius}; `radius` has a last axis of length 1.

    Cost: O(n log n), a sort.
    """
    xp = namespace(x)
    inside = xp.sum(xp.abs(x), axis=-1, keepdims=True, dtype=xp.float64) <= xp.astype(
        radius, xp.float64
    )
    return xp.where(inside, x, xp.sign(x) * project_simplex(xp.abs(x), radius))


def project_l2_ball(x: Any, radius: Any) -> Any:
    """Projection on {|y|_2 <= radius}; `radius` has a last axis of length 1.

    Cost: O(n).
    """
    xp = namespace(x)
    length = norm(x)
    safe = xp.where(length > 0, length, xp.ones_like(length))
    return xp.where(length <= radius, x, x * (radius / safe))


def halfspace_excess(x: Any, a: Any, b: Any) -> Any:
    """(a.x - b) / |a|^2 in units in which max |a| is 1, and those units.

    Cost: 4 n flops.
    """
    xp = namespace(x)
    scale = xp.max(xp.abs(a), axis=-1, keepdims=True)
    a = a / scale
    inner = xp.sum(a * x, axis=-1, keepdims=True, dtype=xp.float64)
    square = xp.sum(a * a, axis=-1, keepdims=True, dtype=xp.float64)
    excess = (inner - xp.astype(b / scale, xp.float64)) / square
    return xp.astype(excess, x.dtype), a


def project_halfspace(x: Any, a: Any, b: Any) -> Any:
    """Projection on {a.y <= b}; `b` has a last axis of length 1.

    Cost: 6 n flops.
    """
    xp = namespace(x)
    excess, a = halfspace_excess(x, a, b)
    return xp.where(excess > 0, x - excess * a, x)


def project_hyperplane(x: Any, a: Any, b: Any) -> Any:
    """Projection on {a.y = b}; `b` has a last axis of length 1.

    Cost: 6 n flops.
    """
    excess, a = halfspace_excess(x, a, b)
    return x - excess * a


def project_psd(x: Any, rank: int | None) -> Any:
    """Projection of the symmetric part on the positive semidefinite matrices of at most a rank.

    Cost: an eigendecomposition, about 9 n^3 flops, and 2 n^3.
    """
    xp = namespace(x)
    symmetric = (x + xp.matrix_transpose(x)) / 2
    values, vectors = xp.linalg.eigh(symmetric)  # ascending
    values = xp.where(values > 0, values, xp.zeros_like(values))
    if rank is not None and rank < x.shape[-1]:
        values, vectors = values[..., -rank:], vectors[..., -rank:]
    half = vectors * xp.expand_dims(xp.sqrt(values), axis=-2)
    y = half @ xp.matrix_transpose(half)
    return (y + xp.matrix_transpose(y)) / 2


def topk(x: Any, k: int) -> tuple[Any, Any]:
    """The k largest along the last axis, descending; of equal ones the lowest index first.

    Cost: O(n log n), a stable sort.
    """
    xp = namespace(x)
    indices = xp.argsort(-x, axis=-1, stable=True)[..., :k]
    return xp.take_along_axis(x, indices, axis=-1), indices


def hadamard(x: Any) -> Any:
    """Unnormalised Walsh-Hadamard transform (Sylvester's order) along axis 0, a power of two.

    Cost: n log2 n additions a column.
    """
    xp = namespace(x)
    n = x.shape[0]
    trailing = x.shape[1:]
    half = 1
    while half < n:
        x = xp.reshape(x, (n // (2 * half), 2, half, *trailing))
        x = xp.stack([x[:, 0, ...] + x[:, 1, ...], x[:, 0, ...] - x[:, 1, ...]], axis=1)
        x = xp.reshape(x, (n, *trailing))
        half *= 2
    return x


def scatter_rows(rows: Any, signs: Any, x: Any, size: int) -> Any:
    """Matrix with ``sum over (i, l) with rows[i, l] == r of signs[i, l] * x[i]`` in row r.

    Cost: 2 size n d flops: the array API has no scatter, so the map is a dense matrix.
    """
    xp = namespace(x)
    targets = xp.arange(size, device=device(x))
    matrix = xp.zeros((size, x.shape[0]), dtype=x.dtype, device=device(x))
    for term in range(rows.shape[1]):
        hit = xp.expand_dims(targets, axis=1) == xp.expand_dims(rows[:, term], axis=0)
        matrix = matrix + xp.astype(hit, x.dtype) * xp.astype(signs[:, term], x.dtype)
    return matrix @ x
