"""Certificates of matrix completion: stationarity, duality gap, Monte Carlo error.

Everything here is float64, reads the data directly and shares no code with the solvers.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import scipy.sparse as sp

from lowrank_opt.core.errors import ProblemError
from lowrank_opt.core.problem import Certificate
from lowrank_opt.recovery import kernels_observations as kernels

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from lowrank_opt.recovery.lowrank import LowRankMatrix, LowRankSamples
    from lowrank_opt.recovery.observations import Observations
    from lowrank_opt.recovery.problems import MatrixCompletion

__all__ = ["SpectralNormBounds", "spectral_norm_bounds"]

LOSSES = {"squared": 0, "huber": 1, "l1": 2}
# Numbers held at once beside the answer: 1 MB, which also stays in cache.
CHUNK = 1 << 17
# Sides up to which the spectral norm is bounded by a dense Gram matrix (32 MB).
_GRAM_SIDE = 2000
_EPS = float(np.finfo(np.float64).eps)
# Residuals up to this fraction of the mean size count as zero in the l1 certificate.
_L1_ZERO = 1e-6
_L1_STEPS = 200


class Sums(NamedTuple):
    """Sums over the observed entries: ``w rho(e)``, ``w e^2``, ``e^2``."""

    loss: float
    weighted_square: float
    square: float


class Side:
    """One side of the alternation: the rows of `x`, seen from the other factor."""

    def __init__(
        self,
        problem: MatrixCompletion,
        obs: Observations,
        x: LowRankMatrix,
        ridge: NDArray[np.float64],
        bias_ridge: NDArray[np.float64],
    ) -> None:
        self.problem, self.obs, self.x = problem, obs, x
        self.ridge, self.bias_ridge = ridge, bias_ridge
        self.bias = x.row_bias
        if problem.biases and self.bias is None:
            self.bias = np.zeros(x.shape[0], x.dtype)
        self.implicit = implicit_terms(problem, obs, x.U)[1] if problem.implicit_weight else None

    def half_gradients(
        self,
    ) -> Iterator[tuple[slice, NDArray[np.float64], NDArray[np.float64], Sums]]:
        """Half the gradient of the objective, some thousands of rows at a time."""
        obs, x, problem = self.obs, self.x, self.problem
        own, other = np.ascontiguousarray(x.U), np.ascontiguousarray(x.V)
        weights = or_empty(obs.weights, obs.dtype)
        bias, other_bias = or_empty(self.bias, x.dtype), or_empty(x.col_bias, x.dtype)
        scale = problem.huber_delta if problem.loss == "huber" else 1.0
        step = max(1, CHUNK // max(x.rank, 1))
        for start in range(0, x.shape[0], step):
            part = slice(start, min(start + step, x.shape[0]))
            G, g = np.empty((part.stop - start, x.rank)), np.zeros(part.stop - start)
            sums = kernels.half_gradient(
                *(obs.indptr, obs.indices, obs.values, weights, part.start, part.stop),
                *(own, other, bias, other_bias, x.offset),
                *(LOSSES[problem.loss], scale, G, g),
            )
            G += self.ridge[part, None] * own[part]
            if self.implicit is not None:
                G += self.implicit[part]
            if self.bias is not None:
                g += self.bias_ridge[part] * self.bias[part]
            yield part, G, g, Sums(*sums)

    def metric(self) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
        """Eigenvalues and basis of the mean of ``v v^T``; only its diagonal with bounds."""
        gram = weighted_gram(self.x.V, self.obs.col_weights)
        if self.problem.nonnegative:
            scales, basis = np.diag(gram), None
        else:
            scales, basis = np.linalg.eigh(gram)
        # Directions in which the other factor vanishes up to rounding: the gradient does too.
        floor = 4 * _EPS * self.x.rank * float(scales.max(initial=0.0))
        return np.where(scales > floor, scales, 0.0), basis

    def hessian(self, part: slice, scales: NDArray[np.float64]) -> NDArray[np.float64]:
        """Diagonal of the approximate Hessian of each row, in the basis of `metric`."""
        curvature = self.problem.loss_curvature * self.obs.row_weights[part]
        return np.multiply.outer(curvature, scales) + self.ridge[part, None]

    def bias_hessian(self, part: slice) -> NDArray[np.float64]:
        """The same for the biases."""
        return self.problem.loss_curvature * self.obs.row_weights[part] + self.bias_ridge[part]

    def stationarity(self) -> tuple[float, float, Sums]:
        """Sum of ``g H^-1 g``, norm of the gradient, and the sums of the loss."""
        scales, basis = self.metric()
        scaled = square = 0.0
        totals = np.zeros(3)
        for part, G, g, sums in self.half_gradients():
            square += float(np.vdot(G, G))
            H = self.hessian(part, scales)
            if basis is None:
                own = self.x.U[part].astype(np.float64)
                # Where H is 0 so is the gradient, and what is left is infeasibility.
                move = own - np.maximum(own - divide(G, H), 0.0)
                scaled += float((np.where(H > 0, H, 1.0) * move * move).sum())
            else:
                Z = G @ basis
                scaled += float((divide(Z, H) * Z).sum())
            if self.problem.biases:
                square += float(g @ g)
                scaled += float((divide(g, self.bias_hessian(part)) * g).sum())
            totals += sums
        return scaled, 2.0 * math.sqrt(square), Sums(*totals)


def or_empty(array: NDArray[Any] | None, dtype: np.dtype[Any]) -> NDArray[Any]:
    """The array, or one of length 0: what the kernels take for "none"."""
    return np.empty(0, dtype) if array is None else array


def divide(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """``a / b``, and 0 where b is 0."""
    return np.divide(a, b, out=np.zeros_like(a), where=b > 0)


def weighted_gram(F: NDArray[Any], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weighted mean of ``f f^T`` over the rows f of `F`, in float64."""
    gram = np.zeros((F.shape[1], F.shape[1]))
    step = max(1, CHUNK // max(F.shape[1], 1))
    for a in range(0, F.shape[0], step):
        block = F[a : a + step].astype(np.float64)
        gram += (block * weights[a : a + step, None]).T @ block
    return gram / weights.sum()


def implicit_terms(
    problem: MatrixCompletion, obs: Observations, factor: NDArray[Any]
) -> tuple[float, NDArray[np.float64]]:
    """Value and half the gradient of the co-factorisation that shares one factor.

    With B the 0/1 matrix of what is observed and F the factor, the value is the weight times the
    minimum over P of ``|B - F P^T|^2 + ridge |P|^2``; by the envelope theorem the gradient is that
    at the minimising P.
    """
    F = factor.astype(np.float64)
    B = sp.csr_array((np.ones(obs.nnz, np.int8), obs.indices, obs.indptr), shape=obs.shape)
    products = B.T @ F
    gram = F.T @ F + problem.implicit_ridge(obs.shape[0]) * np.eye(F.shape[1])
    P = np.linalg.lstsq(gram, products.T)[0].T
    value = problem.implicit_weight * (obs.nnz - float(np.vdot(P, products)))
    return value, problem.implicit_weight * (F @ (P.T @ P) - B @ P)


def certify_stationary(problem: MatrixCompletion, x: LowRankMatrix) -> Certificate:
    """Scaled first-order residual of the ridge form."""
    total = 0.0
    details: dict[str, float] = {}
    for name, side in zip(("rows", "cols"), problem.sides(x), strict=True):
        scaled, norm, sums = side.stationarity()
        total += scaled
        details[f"gradient_norm_{name}"] = norm
    kind = "scaled first-order residual"
    if problem.loss == "l1":
        total = _subgradient_distance(problem, x)
        kind = "scaled distance to the sub-differential"
    if problem.nonnegative:
        details["infeasibility"] = max(0.0, *(-float(F.min(initial=0.0)) for F in (x.U, x.V)))
    return Certificate(
        residual=math.sqrt(total / (problem.loss_at_zero or 1.0)),
        kind=kind,
        objective=sums.loss + problem.ridge(x) + problem.implicit(x),
        details={**_fit(problem, x, sums.weighted_square), **details},
    )


def _fit(problem: MatrixCompletion, x: LowRankMatrix, weighted_square: float) -> dict[str, float]:
    values = x.singular_values()
    tiny = float(np.finfo(x.dtype).eps) * max(problem.shape)
    rank = np.count_nonzero(values > tiny * values[0]) if values.size else 0
    return {
        "relative_residual": math.sqrt(weighted_square / (problem.data_square or 1.0)),
        "rmse": math.sqrt(weighted_square / problem.observations.total_weight),
        "numerical_rank": float(rank),
    }


def _subgradient_distance(problem: MatrixCompletion, x: LowRankMatrix) -> float:
    """Smallest ``sum g H^-1 g`` over the multipliers in [-1, 1] of the entries fitted exactly.

    A convex quadratic in a box, by conjugate gradients when its free minimum lies inside, else by
    accelerated projected gradients: every point gives an upper bound, the smallest is returned.
    """
    obs = problem.observations
    e = problem.residual(x)
    scale = problem.loss_at_zero / obs.total_weight
    zero = np.abs(e) <= max(_L1_ZERO, 8 * float(np.finfo(x.dtype).eps)) * scale
    weights = np.ones(1) if obs.weights is None else obs.weights.astype(np.float64)
    none = np.zeros(1)

    # Per side: g = base - 1/2 (w s) B, with the other factor (and a column of ones for the bias)
    # in the basis that makes H diagonal.
    bases, others, inverses = [], [], []
    for side in problem.sides(x):
        scales, basis = side.metric()
        rows = slice(0, side.x.shape[0])
        H, own, other = side.hessian(rows, scales), side.x.U @ basis, side.x.V @ basis
        base = side.ridge[:, None] * own
        if problem.biases:
            H = np.column_stack([H, side.bias_hessian(rows)])
            base = np.column_stack([base, side.bias_ridge * side.bias])
            other = np.column_stack([other, np.ones(other.shape[0])])
        bases.append(base)
        others.append(other)
        inverses.append(divide(np.ones_like(H), H))

    def value_and_slope(s: NDArray[Any], shift: float) -> tuple[float, NDArray[Any]]:
        S = sp.csr_array((weights * s, obs.indices, obs.indptr), shape=obs.shape)
        g = [shift * bases[0] - 0.5 * (S @ others[0]), shift * bases[1] - 0.5 * (S.T @ others[1])]
        scaled = [inverse * part for inverse, part in zip(inverses, g, strict=True)]
        slope = np.empty(obs.nnz)
        kernels.residuals(
            *(obs.indptr, obs.indices, np.broadcast_to(none, obs.nnz).copy()),
            *(np.hstack([scaled[0], others[1]]), np.hstack([others[0], scaled[1]])),
            *(np.empty(0), np.empty(0), 0.0, slope),
        )
        return sum(float((a * b).sum()) for a, b in zip(scaled, g, strict=True)), weights * slope

    s = np.where(zero, e / (np.abs(e).max(where=zero, initial=0.0) or 1.0), np.sign(e))
    best, _ = value_and_slope(s, 1.0)
    if not zero.any():
        return best
    # Without the box: there are far more multipliers than equations, and their least-norm solution
    # usually lies inside. Conjugate gradients from 0 converge to it.
    free = np.where(zero, 0.0, np.sign(e))
    r = np.where(zero, -value_and_slope(free, 1.0)[1], 0.0)
    p, square = r, float(r @ r)
    goal = 1e-24 * square
    for _ in range(_L1_STEPS):
        if square <= goal:
            break
        Ap = np.where(zero, value_and_slope(p, 0.0)[1], 0.0)
        curvature = float(p @ Ap)
        if curvature <= 0.0:
            break
        free = free + square / curvature * p
        r = r - square / curvature * Ap
        square, previous = float(r @ r), square
        p = r + square / previous * p
    inside = np.where(zero, np.clip(free, -1.0, 1.0), free)
    value = value_and_slope(inside, 1.0)[0]
    if value < best:
        best, s = value, inside
    if np.array_equal(inside, free) or best <= 1e-20 * problem.loss_at_zero:
        return best
    v = np.where(zero, 1.0 + 0.1 * np.cos(np.arange(obs.nnz)), 0.0)
    lipschitz = 0.0
    for _ in range(12):
        v = np.where(zero, value_and_slope(v / np.linalg.norm(v), 0.0)[1], 0.0)
        lipschitz = float(np.linalg.norm(v))
        if lipschitz == 0.0:
            return best
    step, momentum, y, last = 1.0 / (1.1 * lipschitz), 1.0, s, math.inf
    for k in range(_L1_STEPS):
        value, slope = value_and_slope(y, 1.0)
        if np.array_equal(y[zero], np.clip(y[zero], -1.0, 1.0)):
            best = min(best, value)
        if best <= 1e-20 * problem.loss_at_zero:
            break
        if k % 25 == 24:
            if best > 0.999 * last:
                break
            last = best
        previous, s = s, np.where(zero, np.clip(y - step * slope, -1.0, 1.0), y)
        following = 0.5 * (1.0 + math.sqrt(1.0 + 4.0 * momentum * momentum))
        y = s + (momentum - 1.0) / following * (s - previous)
        momentum = following
    return min(best, value_and_slope(s, 1.0)[0])


def certify_gap(problem: MatrixCompletion, x: LowRankMatrix) -> Certificate:
    """Relative duality gap of the nuclear form."""
    obs = problem.observations
    R = problem.residual(x)
    product = size = square = 0.0
    for a in range(0, obs.nnz, CHUNK):
        part = slice(a, a + CHUNK)
        e = R[part]
        w = 1.0 if obs.weights is None else obs.weights[part].astype(np.float64)
        y = obs.values[part].astype(np.float64) - problem.offset
        square += float((w * e * e).sum())
        e *= w
        y *= e
        product += float(y.sum())
        size += float(np.abs(y).sum())
    primal = 0.5 * square + problem.reg * float(x.singular_values().sum())
    norm = spectral_norm_bounds(sp.csr_array((R, obs.indices, obs.indptr), shape=obs.shape))
    # Each term is a product of at most four rounded numbers, chunks are summed pairwise by numpy
    # (blocks of 128, then a tree) and then one after the other; the objective gets the same.
    rounding = 2 * _EPS * (128 + obs.nnz // CHUNK)
    # 4 eps: the division and the product that form Y = s R, so that |Y|_2 <= reg truly holds.
    limit = problem.reg / norm.upper * (1.0 - 4 * _EPS) if norm.upper else math.inf
    s = min(max(product / square, 0.0), limit) if square else 0.0
    dual = s * product - 0.5 * s * s * square
    dual -= rounding * (s * size + 0.5 * s * s * square)
    gap = max(primal * (1.0 + rounding) - dual, 0.0)
    return Certificate(
        residual=gap / primal if primal else 0.0,
        kind="relative duality gap" + ("" if norm.proved else " (estimated)"),
        objective=primal,
        gap=gap if norm.proved else None,
        details={
            **_fit(problem, x, square),
            "dual_objective": dual,
            "gap_estimate": gap,
            "spectral_norm": norm.lower,
            "spectral_norm_bound": norm.upper,
        },
    )


def certify_samples(problem: MatrixCompletion, x: LowRankSamples) -> Certificate:
    """Split-half Monte Carlo error of the posterior mean."""
    if x.shape != problem.shape:
        raise ProblemError(f"x has shape {x.shape}; expected {problem.shape}")
    draws = [x[s] for s in range(x.n_samples)]
    half = x.n_samples // 2
    square = difference = 0.0
    for start, stop, part in problem.row_blocks():
        means = []
        for group in (draws[:half], draws[half:]):
            total = np.zeros(part.stop - part.start)
            for draw in group:
                total += problem.block_residual(draw, start, stop)
            means.append(total / max(len(group), 1))
        first, second = means
        mean = (half * first + (x.n_samples - half) * second) / x.n_samples
        weights = problem.observations.weights
        w = 1.0 if weights is None else weights[part].astype(np.float64)
        square += float((w * mean * mean).sum())
        difference += float((w * np.square(0.5 * (first - second))).sum())
    scale = problem.data_square or 1.0
    return Certificate(
        residual=math.sqrt(difference / scale) if half else math.inf,
        kind="relative Monte Carlo standard error of the posterior mean",
        objective=square,
        details={
            "relative_residual": math.sqrt(square / scale),
            "rmse": math.sqrt(square / problem.observations.total_weight),
            "n_samples": float(x.n_samples),
            "noise_std": float(np.sqrt(np.mean(1.0 / x.alpha))),
        },
    )


class SpectralNormBounds(NamedTuple):
    """What `spectral_norm_bounds` returns."""

    lower: float
    upper: float
    proved: bool


def spectral_norm_bounds(R: Any, *, random_state: int = 0) -> SpectralNormBounds:
    """Bounds on the largest singular value of a sparse matrix.

    Parameters
    ----------
    R : scipy.sparse matrix or array of shape (m, n)
        Finite, float64.
    random_state : int, default=0
        Seed of the start of the Lanczos iteration (large matrices only).

    Returns
    -------
    SpectralNormBounds
        ``lower``, ``upper``, ``proved``. When the smaller side p is at most 2000, or its Gram
        matrix takes no more memory than the values of `R`, ``upper`` is a proved bound: the
        largest eigenvalue of the Gram matrix as computed, plus bounds on the rounding of the
        products and of the (backward stable) eigenvalue solver, ``10 p eps`` times the norm.
        Otherwise both numbers come from a Lanczos iteration run to ``1e-10``: ``lower`` is a true
        bound up to rounding, ``upper`` adds the residual of the singular pair and is *not*
        proved, because no iteration from a random start excludes a larger singular value that it
        has not met. When that iteration fails: the largest norm of a row, and the Frobenius norm,
        both proved.

    Notes
    -----
    Cost: ``2·sum(row counts of the smaller side · mean column count) + 4 p³ / 3`` flops, or some
    dozen products with `R`.
    """
    R = sp.csr_array(R)
    if R.nnz == 0:
        return SpectralNormBounds(0.0, 0.0, True)
    # Powers of two scale without rounding: the Gram matrix then neither under- nor overflows.
    largest = max(float(R.data.max()), -float(R.data.min()))
    if largest == 0.0:
        return SpectralNormBounds(0.0, 0.0, True)
    unit = 2.0 ** math.frexp(largest)[1]
    if 1e-100 < unit < 1e100:
        unit = 1.0  # no need for a copy
    else:
        R = sp.csr_array((R.data / unit, R.indices, R.indptr), shape=R.shape)
    p = min(R.shape)
    if p <= _GRAM_SIDE or 8 * p * p <= R.data.nbytes:
        if R.shape[0] > p:
            R = R.T.tocsr()
        gram = np.empty((p, p))
        step = max(1, CHUNK // p)
        transposed = R.T.tocsr()
        for a in range(0, p, step):
            gram[a : a + step] = (R[a : a + step] @ transposed).toarray()
        top = float(np.linalg.eigvalsh(gram)[-1])
        longest = int(np.diff(R.indptr).max())
        frobenius = float(np.square(R.data).sum())
        # |fl(R R') - R R'| <= (longest + 1) eps |R||R|', whose norm is at most |R|_F^2.
        slack = (longest + 1) * _EPS * frobenius + 10 * p * _EPS * top
        lower, upper = math.sqrt(max(top - slack, 0.0)), math.sqrt(top + slack) * (1 + 4 * _EPS)
        return SpectralNormBounds(unit * lower, unit * upper, True)
    from scipy.sparse.linalg import ArpackError, LinearOperator, svds

    v0 = np.random.default_rng(random_state).standard_normal(p)
    # Of a matrix svds would make a copy for the products with its adjoint.
    operator = LinearOperator(R.shape, lambda v: R @ v, lambda v: R.T @ v, dtype=R.dtype)
    try:
        left, value, _ = svds(operator, k=1, tol=1e-10, v0=v0)
    except ArpackError:  # the largest values are too close: the Frobenius norm is a bound as well
        squares = R.multiply(R).sum(axis=1)
        slack = 1 + R.nnz * _EPS
        lower, upper = math.sqrt(squares.max()) / slack, math.sqrt(squares.sum()) * slack
        return SpectralNormBounds(unit * lower, unit * upper, True)
    theta, u = float(value[0]), left[:, 0]
    error = float(np.linalg.norm(R @ (R.T @ u) - theta**2 * u)) / theta
    return SpectralNormBounds(unit * theta, unit * (theta + error) * (1 + 1e-9), False)
