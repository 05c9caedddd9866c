"""Directions of the interior point for chains, the choice among them, and step lengths."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from scipy.linalg import lapack

from lowrank_opt.lipschitz.chain_blocks import corrector, product, symmetrised
from lowrank_opt.lipschitz.factorisations import cholesky

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from lowrank_opt.lipschitz.chain_blocks import Blocks, Direction, Product, Transfers
    from lowrank_opt.lipschitz.chain_operator import ChainOperator

__all__ = ["Point", "Step", "chosen_direction", "directions"]

_TO_BOUNDARY = (0.9, 0.97)  # while the affine step is short; when it is long
_LONG = 0.9
_SEARCH_BELOW = 0.8
_BISECTIONS = (1, 2)  # of the affine step, of the step taken
_LEVELS = (0.8, 0.5, 0.25, 0.1)
_SIGMAS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


class Point(NamedTuple):
    """Iterate: ρ, multipliers u, blocks of X and slacks x."""

    rho: float
    u: NDArray[np.float64]
    X: Blocks
    X_low: Blocks
    x: NDArray[np.float64]


class Part(NamedTuple):
    """One of the three parts of a direction, with the cliques of its dX."""

    rho: float
    u: Any
    x: Any
    cliques: Blocks
    values: Any  # A(dX)
    output: float  # ⟨C, dX⟩


class Parts(NamedTuple):
    """Affine part, centring (to be multiplied by σ μ) and corrector; X on the cliques."""

    affine: Part
    centring: Part
    corrector: Part
    cliques: Blocks
    mu: float
    values: Any  # A(X)


class Step:
    """A sum of the parts, and how far one may go."""

    def __init__(self, parts: Parts, sigma: float, weight: float) -> None:
        a, c, k = parts.affine, parts.centring, parts.corrector
        s = sigma * parts.mu
        self.sigma = sigma
        self.rho = a.rho + s * c.rho + weight * k.rho
        self.u = a.u + s * c.u + weight * k.u
        self.x = a.x + s * c.x + weight * k.x
        self.values = a.values + s * c.values + weight * k.values
        self.output = a.output + s * c.output + weight * k.output
        self._parts, self._s, self._weight = parts, s, weight
        self._cliques: Blocks | None = None
        self.primal_step = self.dual_step = 0.0

    @property
    def cliques(self) -> Blocks:
        if self._cliques is None:
            p, self._cliques = self._parts, []
            trio = (p.affine.cliques, p.centring.cliques, p.corrector.cliques)
            for a, c, k in zip(*trio, strict=True):
                A = self._s * c
                A += a
                if self._weight:
                    A += k if self._weight == 1.0 else self._weight * k
                self._cliques.append(A)
        return self._cliques

    def blocks(self, point: Point, length: float) -> tuple[Blocks, Blocks]:
        """Return the blocks of X after a step."""
        n = len(point.X[0])
        X = [point.X[0] + length * self.cliques[0][:n, :n]]
        low = [X[0]]
        for i, K in enumerate(self.cliques, start=1):
            X.append(point.X[i] + length * K[n:, n:])
            low.append(point.X_low[i] + length * K[n:, :n])
            n = len(X[-1])
        return X, low


def split(cliques: Blocks, n: int) -> tuple[Blocks, Blocks]:
    """Return diagonal blocks and blocks below, as views, of matrices of neighbouring layers."""
    diagonal, low = [cliques[0][:n, :n]], [cliques[0][:n, :n]]
    for K in cliques:
        diagonal.append(K[n:, n:])
        low.append(K[n:, :n])
        n = len(K) - n
    return diagonal, low


def _solver(
    op: ChainOperator, point: Point, t: Transfers
) -> Callable[[NDArray[np.float64]], NDArray[np.float64]] | None:
    """Return a function that solves with B, or None."""
    ratio = point.x / point.u
    for shift in (0.0, 1e-15, 1e-14, 1e-13, 1e-12, 1e-11, 1e-10, 1e-9, 1e-8):
        B = op.schur(t, point.X, point.X_low)
        diagonal = np.einsum("ii->i", B)
        diagonal[1:] += ratio
        if shift:
            diagonal *= 1.0 + shift
        c, info = lapack.dpotrf(B.T, lower=0, clean=0, overwrite_a=1)
        if info == 0:
            return lambda rhs: lapack.dpotrs(c, rhs, lower=0)[0]
    return None


def directions(op: ChainOperator, point: Point, t: Transfers) -> Parts | None:
    """Return the parts of the direction, from one factorisation; None: it broke down."""
    rho, u, X, X_low, x = point
    inverse, n = t.inverse, len(point.X[0])
    solver = _solver(op, point, t)
    if solver is None:
        return None
    values = op.values(X, X_low)
    mu = rho * values[0] + np.dot(u, values[1:]) - op.output_value(X) + np.dot(x, u)
    mu /= op.order
    rhs = np.zeros((len(u) + 1, 2), order="F")
    rhs[0, 0] = -1.0
    rhs[:, 1] = op.values(inverse.Z, inverse.Z_low)
    rhs[1:, 1] += 1.0 / u
    dy = solver(rhs)

    def part(
        dy: NDArray[np.float64], base: Blocks, base_x: NDArray[np.float64], *, whole: bool = False
    ) -> tuple[Part, Direction, Product]:
        """Complete dy: dX = base - sym(X dS Z), dx = base_x - x du / u."""
        d = op.direction(dy[0], dy[1:])
        p = product(t, d, whole=whole)
        dX: Blocks = []
        k = n
        for b, T in zip(base, p.full, strict=True):
            A = symmetrised(T.copy() if whole else T, -0.5, k, whole=not dX)
            # Rounding differs between the two matrices that a layer's block is part of.
            A += b
            if dX:
                A[:k, :k] = dX[-1][-k:, -k:]
            dX.append(A)
            k = len(A) - k
        dx = base_x - x * dy[1:] / u
        blocks = split(dX, n)
        return Part(dy[0], dy[1:], dx, dX, op.values(*blocks), op.output_value(blocks[0])), d, p

    minus_X = [-K for K in t.X_cliques]
    affine, d, p = part(dy[:, 0], minus_X, -x, whole=True)
    centring, *_ = part(dy[:, 1], t.Z_cliques, 1.0 / u)
    K = corrector(t, X, X_low, d, p)
    k = affine.x * affine.u / u
    rhs = op.values(*split(K, n))
    rhs[1:] += k
    np.negative(rhs, out=rhs)
    corr, *_ = part(solver(rhs), [-A for A in K], -k)
    return Parts(affine, centring, corr, t.X_cliques, mu, values)


def gap_after(
    op: ChainOperator, point: Point, parts: Parts, step: Step, primal: float, dual: float
) -> float:
    """Return μ after a step."""
    y_values = np.concatenate([[point.rho], point.u])
    y_values[0] += primal * step.rho
    y_values[1:] += primal * step.u
    x = point.x + dual * step.x
    value = np.dot(y_values, parts.values + dual * step.values)
    value -= op.output_value(point.X) + dual * step.output
    return (value + np.dot(x, y_values[1:])) / op.order


def ratio(v: NDArray[np.float64], dv: NDArray[np.float64]) -> float:
    """Return the largest step for which v + step dv >= 0; inf: any."""
    q = float(np.max(-dv / v))
    return 1.0 / q if q > 0.0 else np.inf


def distance(feasible: Callable[[float], bool], limit: float, bisections: int) -> float:
    """Return a step at which `feasible` holds, near the largest one but at most 1 and `limit`."""
    high, t = None, min(1.0, limit)
    while not feasible(t):
        high, t = t, 0.7 * t
        if t < 1e-8:
            return 0.0
    if high is None:
        return t
    for _ in range(bisections):
        middle = 0.5 * (t + high)
        if feasible(middle):
            t = middle
        else:
            high = middle
    return t


def definite(cliques: Blocks, dX: Blocks, t: float) -> bool:
    """Whether all matrices of neighbouring layers are positive definite after a step."""
    for A, D in zip(cliques, dX, strict=True):
        B = t * D
        B += A
        if cholesky(B, overwrite=True) is None:
            return False
    return True


def measure(
    op: ChainOperator,
    point: Point,
    parts: Parts,
    step: Step,
    factor: float,
    counts: dict[str, int],
    bisections: int,
) -> None:
    """Set both step lengths."""

    def primal(t: float) -> bool:
        counts["trials"] = counts.get("trials", 0) + 1
        return op.positive(point.rho + t * step.rho, point.u + t * step.u)

    def dual(t: float) -> bool:
        counts["trials"] = counts.get("trials", 0) + 1
        return definite(parts.cliques, step.cliques, t)

    limit = factor * ratio(point.u, step.u)
    t = distance(primal, limit, bisections)
    step.primal_step = t if t >= min(1.0, limit) else factor * t
    limit = factor * ratio(point.x, step.x)
    t = distance(dual, limit, bisections)
    step.dual_step = t if t >= min(1.0, limit) else factor * t


def chosen_direction(op: ChainOperator, point: Point, parts: Parts, counts: dict[str, int]) -> Step:
    """Return the direction to take with its step lengths.

    The usual rule for σ first; if its steps are short, the smallest σ, with the most corrector,
    that allows a longer one.
    """
    affine = Step(parts, 0.0, 0.0)
    measure(op, point, parts, affine, 0.98, counts, _BISECTIONS[0])
    primal, dual = affine.primal_step, affine.dual_step
    shortest = min(primal, dual)
    mu = max(gap_after(op, point, parts, affine, primal, dual), 0.0)
    sigma = float(np.clip((mu / parts.mu) ** max(1.0, 3.0 * shortest**2), 1e-6, 1.0))
    step = Step(parts, sigma, 1.0)
    measure(op, point, parts, step, _TO_BOUNDARY[int(shortest > _LONG)], counts, _BISECTIONS[1])
    a = min(step.primal_step, step.dual_step)
    if a < _SEARCH_BELOW:
        found = _search(op, point, parts, a, shortest, counts)
        if found is not None:
            level, candidate = found
            gain = (1.0 - candidate.sigma) * level * min(1.0, 2.0 * level)
            if gain > (1.0 - sigma) * a * min(1.0, 2.0 * a):
                # Not on to the boundary: the next steps would be short.
                candidate.primal_step = candidate.dual_step = level
                return candidate
    return step


def _search(
    op: ChainOperator,
    point: Point,
    parts: Parts,
    above: float,
    weight: float,
    counts: dict[str, int],
) -> tuple[float, Step] | None:
    for level in _LEVELS:
        if level <= above:
            return None
        for sigma in _SIGMAS:
            for w in (1.0, weight, 0.0):
                step = Step(parts, sigma, w)
                if np.any(point.u + level * step.u <= 0.0):
                    continue
                if np.any(point.x + level * step.x <= 0.0):
                    continue
                counts["trials"] = counts.get("trials", 0) + 1
                if not op.positive(point.rho + level * step.rho, point.u + level * step.u):
                    continue
                if definite(parts.cliques, step.cliques, level):
                    return level, step
    return None
