"""Parts of `SoftImpute`: passes over the data, the top of a spectrum, a Newton direction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numba
import numpy as np

from lowrank_opt.core.threads import parallel_region
from lowrank_opt.recovery import kernels_soft_impute as kernels

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lowrank_opt.recovery.problems import MatrixCompletion

__all__ = [
    "Entries",
    "Spectrum",
    "dot",
    "drop_null",
    "line_minimum",
    "newton_direction",
    "orthonormal_form",
    "spectral_norm",
    "top_triplets",
]

# Multiplications below which starting threads costs more than it saves.
_PARALLEL_WORK = 1 << 18
_TASKS = 64
Pair = tuple["NDArray[Any]", "NDArray[Any]"]


class Entries:
    """The observed entries by rows and by columns, and the residual of the current factors."""

    def __init__(self, problem: MatrixCompletion) -> None:
        obs = problem.observations
        self.shape = obs.shape
        self.dtype = obs.dtype
        self.sides = []
        for side in (obs, obs.T):
            values = side.values
            if problem.offset:
                values = values - values.dtype.type(problem.offset)
            weights = np.empty(0, self.dtype) if side.weights is None else side.weights
            targets = np.linspace(0, side.indptr[-1], min(_TASKS, side.shape[0]) + 1)
            bounds = np.searchsorted(side.indptr, targets).astype(np.int64)
            bounds[0], bounds[-1] = 0, side.shape[0]
            self.sides.append((side.indptr, side.indices, values, weights, bounds))
        self.res = [np.empty_like(side[2]) for side in self.sides]
        # The step of a proximal gradient step is 1 / lipschitz.
        self.lipschitz = 1.0 if obs.weights is None else float(obs.weights.max(initial=0.0))
        self.density = [obs.row_weights / max(self.shape[1], 1), obs.col_weights / self.shape[0]]

    def _run(self, side: int, name: str, head: tuple[Any, ...], tail: tuple[Any, ...]) -> None:
        indptr, indices, _, _, bounds = self.sides[side]
        work = int(indptr[-1]) * head[-1].shape[1]
        if work >= _PARALLEL_WORK and numba.get_num_threads() > 1:
            with parallel_region:
                getattr(kernels, name + "_par")(indptr, indices, *head, bounds, *tail)
        else:
            getattr(kernels, name)(indptr, indices, *head, 0, self.shape[side], *tail)

    def residual(
        self, A: NDArray[Any], B: NDArray[Any]
    ) -> tuple[float, NDArray[Any], NDArray[Any]]:
        """Update the residual R; return ``1/2 sum w e^2``, ``R B`` and ``R^T A``."""
        products = (np.empty_like(A), np.empty_like(B))
        for side, (own, other) in enumerate(((A, B), (B, A))):
            loss = np.empty(self.shape[side])
            _, _, values, weights, _ = self.sides[side]
            head = (values, weights, own, other)
            self._run(side, "residual_product", head, (self.res[side], products[side], loss))
            if side == 0:
                total = 0.5 * float(loss.sum())
        return total, *products

    def product(self, side: int, F: NDArray[Any]) -> NDArray[Any]:
        """``R F`` (side 0) or ``R^T F`` (side 1) for F with columns, or a vector."""
        block = np.ascontiguousarray(F if F.ndim == 2 else F[:, None])
        out = np.empty((self.shape[side], block.shape[1]), self.dtype)
        self._run(side, "product", (self.res[side], block), (out,))
        return out if F.ndim == 2 else out[:, 0]

    def hessian(self, x: Pair, d: Pair, reg: float) -> Pair:
        """Second derivative of ``1/2 sum w e^2 + reg/2 (|A|^2 + |B|^2)`` at `x`, times `d`."""
        out = []
        for side in (0, 1):
            result = np.empty_like(x[side])
            weights = self.sides[side][3]
            head = (weights, self.res[side], x[side], x[1 - side], d[side], d[1 - side])
            self._run(side, "hessian_product", head, (result,))
            result += self.dtype.type(reg) * d[side]
            out.append(result)
        return out[0], out[1]

    def line(self, x: Pair, d: Pair) -> NDArray[np.float64]:
        """The five sums of `kernels.line_sums` over all entries."""
        out = np.empty((self.shape[0], 5))
        self._run(0, "line_sums", (self.sides[0][3], self.res[0], *x, *d), (out,))
        return out.sum(axis=0)

    def products_with_data(self) -> float:
        """Inner product of the residual with the data."""
        return float(np.einsum("p,p->", self.res[0], self.sides[0][2], dtype=np.float64))


def dot(x: Pair, y: Pair) -> float:
    """Inner product of two pairs of factors, in float64 across columns."""
    return float(
        sum(np.einsum("ik,ik->k", a, b).sum(dtype=np.float64) for a, b in zip(x, y, strict=True))
    )


def spectral_norm(E: NDArray[Any]) -> float:
    """Largest singular value of a tall matrix, by its Gram matrix (relative error ~ sqrt(eps))."""
    if E.shape[1] == 0:
        return 0.0
    E = E.astype(np.float64, copy=False)
    return float(np.sqrt(max(np.linalg.eigvalsh(E.T @ E)[-1], 0.0)))


@dataclass
class Spectrum:
    """Approximate largest singular triplets of ``(I - U U^T) R (I - V V^T)``."""

    values: NDArray[np.float64]
    left: NDArray[Any]
    right: NDArray[Any]
    error: float

    @property
    def top(self) -> float:
        return float(self.values[0]) if self.values.size else 0.0


def _orthogonalise(x: NDArray[Any], U: NDArray[Any], basis: NDArray[Any]) -> NDArray[Any]:
    for _ in range(2):  # twice is enough
        x = x - U @ (U.T @ x)
        x -= basis.T @ (basis @ x)
    return x


def top_triplets(
    entries: Entries, U: NDArray[Any], V: NDArray[Any], start: NDArray[Any],
    level: float, least: int, depth: int, limit: int,
) -> Spectrum:  # fmt: skip
    """Golub-Kahan bidiagonalisation with full reorthogonalisation of the deflated residual.

    At least `least` steps; then it stops as soon as the largest value plus its error lies below
    `level`, after `depth` steps if it lies above, and goes on up to `limit` steps while this is
    undecided.

    Cost: 4 nnz + 4 (m + n)(k + rank) flops for step k.
    """
    m, n = entries.shape
    room = min(m, n) - U.shape[1]
    dtype = entries.dtype
    # Orthogonal starts exist only while the deflated space has room.
    limit = min(limit, room)
    rows = min(limit, max(least, depth))
    P, Q = np.empty((rows, m), dtype), np.empty((rows, n), dtype)
    alpha, beta = np.zeros(limit), np.zeros(limit)
    q = _orthogonalise(start, V, Q[:0])
    norm = float(np.linalg.norm(q))
    k, error = 0, 0.0
    tiny = 8 * np.finfo(dtype).eps * level
    x, values, yt = np.zeros((0, 0)), np.zeros(0), np.zeros((0, 0))
    while k < limit and norm > 0:
        if k == len(P):
            more = min(limit - k, k)
            P, Q = (np.concatenate([F, np.empty((more, F.shape[1]), dtype)]) for F in (P, Q))
        Q[k] = q / dtype.type(norm)
        p = entries.product(0, Q[k])
        if k:
            p -= dtype.type(beta[k - 1]) * P[k - 1]
        p = _orthogonalise(p, U, P[:k])
        alpha[k] = np.linalg.norm(p)
        if alpha[k] > tiny:
            P[k] = p / dtype.type(alpha[k])
            q = entries.product(1, P[k]) - dtype.type(alpha[k]) * Q[k]
            q = _orthogonalise(q, V, Q[: k + 1])
            norm = float(np.linalg.norm(q))
        else:
            # R maps the Krylov space into itself: its singular values are found.
            alpha[k], P[k], norm = 0.0, 0.0, 0.0
        if norm <= tiny:
            norm = 0.0
        beta[k] = norm
        k += 1
        if k % 4 == 0 or k >= limit or norm == 0:
            T = np.diag(alpha[:k]) + np.diag(beta[: k - 1], 1)
            x, values, yt = np.linalg.svd(T)
            error = float(beta[k - 1] * abs(x[-1, 0]))
            below = values[0] + error < level
            if k >= least and (below or (k >= depth and values[0] > level) or error <= tiny):
                break
    size = values.size
    left = P[:size].T @ x.astype(dtype)
    right = Q[:size].T @ yt.T.astype(dtype)
    return Spectrum(values, left, right, error)


class Line(NamedTuple):
    """Step along a direction, and the change of the objective."""

    step: float
    change: float


def line_minimum(sums: NDArray[np.float64], reg: float, xd: float, dd: float) -> Line:
    """Exact minimum of the objective along a direction, a polynomial of degree four.

    `sums` are those of `kernels.line_sums`, `xd` and `dd` the inner products of the direction with
    the point and itself.
    """
    rs, rq, ss, sq, qq = sums
    coefficients = [0.5 * qq, sq, 0.5 * ss - rq + 0.5 * reg * dd, reg * xd - rs, 0.0]
    roots = np.roots(np.polyder(coefficients))
    roots = roots[(np.abs(roots.imag) <= 1e-9 * np.abs(roots)) & (roots.real > 0)].real
    if roots.size == 0:
        return Line(0.0, 0.0)
    values = np.polyval(coefficients, roots)
    best = int(np.argmin(values))
    return Line(float(roots[best]), float(values[best]))


def newton_direction(
    entries: Entries, x: Pair, gradient: Pair, s: NDArray[np.float64], reg: float,
    forcing: float, max_steps: int,
) -> tuple[Pair, int]:  # fmt: skip
    """Truncated conjugate gradients for the Newton equation of the factored objective.

    For balanced factors ``A = U sqrt(s)``, ``B = V sqrt(s)`` the expected Gram matrix of the
    gathered rows is diagonal, ``density_i s_c``; with the ridge it is the preconditioner. Stops at
    `forcing` times the first residual in its norm, or at negative curvature.

    Returns the direction and the number of products with the Hessian.
    """
    inverse = [
        (1.0 / (density[:, None] * s + reg)).astype(entries.dtype) for density in entries.density
    ]
    d = (np.zeros_like(x[0]), np.zeros_like(x[1]))
    r = (-gradient[0], -gradient[1])
    z = (inverse[0] * r[0], inverse[1] * r[1])
    p = z
    rz = first = dot(r, z)
    steps = 0
    while steps < max_steps and rz > 0:
        h = entries.hessian(x, p, reg)
        steps += 1
        curvature = dot(p, h)
        if not curvature > 0:
            return (d if steps > 1 else p), steps
        a = entries.dtype.type(rz / curvature)
        for side in (0, 1):
            d[side][...] += a * p[side]
            r[side][...] -= a * h[side]
        z = (inverse[0] * r[0], inverse[1] * r[1])
        old, rz = rz, dot(r, z)
        if rz <= forcing**2 * first:
            break
        b = entries.dtype.type(rz / old)
        p = (z[0] + b * p[0], z[1] + b * p[1])
    return d, steps


def orthonormal_form(A: NDArray[Any], B: NDArray[Any]) -> tuple[Any, Any, Any]:
    """Thin SVD ``U, s, V`` of ``A B^T`` from QR factorisations; null directions are dropped."""
    (Qa, Ra), (Qb, Rb) = np.linalg.qr(A), np.linalg.qr(B)
    x, s, yt = np.linalg.svd(Ra.astype(np.float64) @ Rb.astype(np.float64).T)
    U, V, s = drop_null(Qa @ x[:, : s.size].astype(A.dtype), Qb @ yt[: s.size].T.astype(A.dtype), s)
    return U, s, V


def drop_null(U: NDArray[Any], V: NDArray[Any], s: NDArray[Any]) -> tuple[Any, Any, Any]:
    """Leave out values that are zero up to rounding."""
    tiny = np.finfo(U.dtype).eps * (s[0] if s.size else 0.0)
    keep = int(np.count_nonzero(s > tiny))
    U, V = np.ascontiguousarray(U[:, :keep]), np.ascontiguousarray(V[:, :keep])
    return U, V, s[:keep].astype(np.float64)
