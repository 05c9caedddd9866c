"""One iteration of the interior point method for an inequality with terms of rank two."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from scipy.linalg import lapack

from lowrank_opt.core.serialize import register_serializable
from lowrank_opt.lipschitz.lmi_operator import cholesky, inverse

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from lowrank_opt.lipschitz.lmi_operator import Operator

__all__ = ["Point", "iterate"]

_LEVELS = (0.8, 0.5, 0.25, 0.1)
_SIGMAS = (0.05, *(0.1 * i for i in range(1, 11)))
_FULL = (0.05, 0.1, 0.2, 0.3, 0.5, 0.7)
_RIDGES = (0.0, *(10.0**-p for p in range(15, 7, -1)))


@register_serializable
@dataclass
class Point:
    """Iterate: ρ, multipliers y, the matrix X of the dual and the slacks x of its inequalities.

    Parameters
    ----------
    rho : float
        Value of the inequality's own variable.
    y : ndarray of shape (k,)
        Multipliers; positive unless free.
    X : ndarray of shape (d, d)
        Positive definite.
    x : ndarray of shape (k,)
        Positive; zero for free multipliers.
    steps : tuple of float
        Lengths of the last primal and dual step.
    """

    rho: float
    y: NDArray[np.float64]
    X: NDArray[np.float64]
    x: NDArray[np.float64]
    steps: tuple[float, float] = field(default=(1.0, 1.0))


@dataclass
class _Part:
    """A direction: change of ρ, y, S, X and x."""

    rho: float
    y: NDArray[np.float64]
    S: NDArray[np.float64]
    X: NDArray[np.float64]
    x: NDArray[np.float64]

    def plus(self, other: _Part, weight: float) -> _Part:
        return _Part(
            self.rho + weight * other.rho,
            self.y + weight * other.y,
            self.S + weight * other.S,
            self.X + weight * other.X,
            self.x + weight * other.x,
        )


class _Iteration:
    """Factors and products that the three parts of a direction share."""

    def __init__(self, operator: Operator, point: Point, counts: dict[str, int]) -> None:
        self.op, self.point, self.counts = operator, point, counts
        self.S = operator.slack(point.rho, point.y)
        self.bounded = operator.bounded
        self.mu = 0.0

    def prepare(self) -> bool:
        """Invert S and factor the Schur matrix; False if that fails."""
        op, point = self.op, self.point
        factor = self.cholesky(self.S)
        if factor is None:
            return False
        self.Z = inverse(factor)
        self.B = op.schur(point.X, self.Z)
        k = self.bounded
        self.inverse_y = np.zeros_like(point.y)
        self.inverse_y[k] = 1.0 / point.y[k]
        self.B.flat[:: op.k + 2] += np.concatenate([[0.0], point.x * self.inverse_y])
        diagonal = self.B.diagonal()
        if not (np.all(diagonal > 0.0) and math.isfinite(float(diagonal.sum()))):
            return False
        self.scale = 1.0 / np.sqrt(diagonal)
        self.B *= self.scale
        self.B *= self.scale[:, None]
        for ridge in _RIDGES:
            trial = self.B.copy()
            trial.flat[:: op.k + 2] += ridge
            lower = self.cholesky(trial)
            if lower is not None:
                self.factor = lower
                break
        else:
            return False
        trace, values = op.trace(point.X), op.values(point.X)
        # Does the matrix satisfy the inequalities of the dual, apart from rounding?
        rest = np.abs(values + point.x) * np.where(k, 1.0, np.abs(point.y))
        self.feasible = bool(np.all(rest[k] <= 0.5 * point.x[k]) and abs(trace - 1.0) < 0.1)
        gap = point.rho * trace + float(point.y @ values) - float(np.vdot(op.C, point.X))
        self.nu = op.d + int(k.sum())
        self.mu = (gap + float(point.x @ point.y)) / self.nu
        return True

    def cholesky(self, S: NDArray[np.float64]) -> NDArray[np.float64] | None:
        self.counts["factorisations"] = self.counts.get("factorisations", 0) + 1
        return cholesky(S)

    def solve(self, b: NDArray[np.float64]) -> NDArray[np.float64]:
        """Solve with the Schur matrix, refined twice."""
        b = b * self.scale
        solution = np.zeros_like(b)
        rest = b
        for _ in range(3):
            step, _ = lapack.dpotrs(self.factor, rest, lower=1)
            solution = solution + step
            rest = b - self.B @ solution
        return solution * self.scale

    def maps(self, X: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.concatenate([[self.op.trace(X)], self.op.values(X)])

    def part(
        self, rhs: NDArray[np.float64], X: NDArray[np.float64], x: NDArray[np.float64]
    ) -> _Part:
        """Direction whose multipliers solve the Schur system and whose X starts from `X`."""
        dy = self.solve(rhs)
        dS = self.op.adjoint(dy[1:])
        dS.flat[:: self.op.d + 1] += dy[0] * self.op.E
        T = self.point.X @ dS @ self.Z
        dX = X - 0.5 * (T + T.T)
        dx = np.where(self.bounded, x - self.point.x * dy[1:] * self.inverse_y, 0.0)
        return _Part(float(dy[0]), dy[1:], dS, dX, dx)

    def affine(self) -> _Part:
        rhs = np.zeros(self.op.k + 1)
        rhs[0] = -1.0
        return self.part(rhs, -self.point.X, -self.point.x)

    def centring(self) -> _Part:
        rhs = self.maps(self.Z)
        rhs[1:] += self.inverse_y
        return self.part(self.mu * rhs, self.mu * self.Z, self.mu * self.inverse_y)

    def corrector(self, affine: _Part) -> _Part:
        T = affine.X @ affine.S @ self.Z
        K = 0.5 * (T + T.T)
        k = affine.x * affine.y * self.inverse_y
        rhs = -self.maps(K)
        rhs[1:] -= k
        return self.part(rhs, -K, -k)

    # -- steps ------------------------------------------------------------------------------

    def ratio(self, v: NDArray[np.float64], dv: NDArray[np.float64]) -> float:
        """Distance to the boundary of the positive orthant."""
        down = self.bounded & (dv < 0.0)
        return float(np.min(-v[down] / dv[down], initial=math.inf))

    def inside(self, part: _Part, step: float) -> bool:
        """Whether both the primal and the dual point are strictly feasible."""
        point = self.point
        if min(self.ratio(point.y, part.y), self.ratio(point.x, part.x)) <= step:
            return False
        if self.cholesky(self.S + step * part.S) is None:
            return False
        return self.cholesky(point.X + step * part.X) is not None

    def length(
        self, M: NDArray[np.float64], dM: NDArray[np.float64], most: float, factor: float
    ) -> float:
        """Step of at most one that stays inside the cone, and `factor` of the distance to it."""

        def passes(t: float) -> bool:
            return self.cholesky(M + t * dM) is not None

        most = min(1.0, factor * most)
        return min(most, factor * _distance(passes, most / factor))

    def lengths(self, part: _Part, factor: float) -> tuple[float, float]:
        """Primal (X, x) and dual (ρ, y, S) step."""
        point = self.point
        primal = self.length(point.X, part.X, self.ratio(point.x, part.x), factor)
        dual = self.length(self.S, part.S, self.ratio(point.y, part.y), factor)
        return primal, dual

    def mu_after(self, part: _Part, primal: float, dual: float) -> float:
        point, op = self.point, self.op
        X, y = point.X + primal * part.X, point.y + dual * part.y
        rho = point.rho + dual * part.rho
        gap = rho * op.trace(X) + float(y @ op.values(X)) - float(np.vdot(op.C, X))
        return (gap + float((point.x + primal * part.x) @ y)) / self.nu


def _distance(passes: Callable[[float], bool], start: float) -> float:
    """Largest step that was seen to pass, at most `start`, to about two percent."""
    low, high = start, math.inf
    while not passes(low):
        high, low = low, 0.7 * low
        if low < 1e-9:
            return 0.0
    if math.isfinite(high):
        for _ in range(4):
            middle = 0.5 * (low + high)
            low, high = (middle, high) if passes(middle) else (low, middle)
    return low


def _direction(it: _Iteration) -> tuple[_Part, tuple[float, float]]:
    """Combine the parts; return the direction and its steps."""
    affine = it.affine()
    centring, corrector = it.centring(), it.corrector(affine)
    primal, dual = it.lengths(affine, 0.98)
    affine_step = min(primal, dual)
    ratio = max(it.mu_after(affine, primal, dual), 0.0) / it.mu
    sigma = min(max(ratio ** max(1.0, 3.0 * affine_step**2), 1e-6), 1.0)
    part = affine.plus(centring, sigma).plus(corrector, 1.0)
    steps = it.lengths(part, 0.95)
    if not it.feasible and steps[0] < 1.0:
        full = _full_primal_step(it, affine, centring, corrector, sigma, affine_step)
        if full is not None:
            return full
    present = min(steps)
    if present >= 0.8:
        return part, steps
    for level in _LEVELS:
        if level <= present:
            break
        for s in _SIGMAS:
            centred = affine.plus(centring, s)
            for t in (1.0, affine_step, 0.0):
                trial = centred.plus(corrector, t)
                if not it.inside(trial, level):
                    continue
                gain = (1.0 - s) * level * min(1.0, 2.0 * level)
                if gain > (1.0 - sigma) * present * min(1.0, 2.0 * present):
                    return trial, it.lengths(trial, 0.95)
                return part, steps
    return part, steps


def _full_primal_step(
    it: _Iteration,
    affine: _Part,
    centring: _Part,
    corrector: _Part,
    sigma: float,
    affine_step: float,
) -> tuple[_Part, tuple[float, float]] | None:
    """Direction with more centring whose full step makes X feasible, if there is one.

    Otherwise the residuals of the dual and its slacks can shrink at the same rate for ever, and X
    never proves a bound.
    """
    point = it.point
    for s in _FULL:
        if s <= sigma:
            continue
        centred = affine.plus(centring, s)
        for t in (1.0, affine_step, 0.0):
            trial = centred.plus(corrector, t)
            if it.ratio(point.x, trial.x) < 1.05:
                continue
            if it.cholesky(point.X + 1.05 * trial.X) is None:
                continue
            dual = it.length(it.S, trial.S, it.ratio(point.y, trial.y), 0.95)
            if dual > 0.1:
                return trial, (1.0, dual)
    return None


def iterate(operator: Operator, point: Point, counts: dict[str, int]) -> bool:
    """Do one iteration of the method in place.

    Parameters
    ----------
    operator : Operator
        The inequality.
    point : Point
        The iterate; changed.
    counts : dict of str to int
        Work counters; ``"factorisations"`` is raised.

    Returns
    -------
    bool
        False if a factorisation failed, and the point is as before.
    """
    it = _Iteration(operator, point, counts)
    if not it.prepare() or not it.mu > 0.0:
        point.steps = (0.0, 0.0)
        return False
    part, (primal, dual) = _direction(it)
    X = point.X + primal * part.X
    point.X = 0.5 * (X + X.T)
    point.x = point.x + primal * part.x
    point.rho += dual * part.rho
    point.y = point.y + dual * part.y
    point.steps = (primal, dual)
    return True
