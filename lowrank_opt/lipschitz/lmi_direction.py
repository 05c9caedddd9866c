"""One iteration of the interior point method for an inequality with terms of rank two."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from scipy.linalg import lapack

from lowrank_opt.core.serialize import register_serializable
from lowrank_opt.lipschitz.factorisations import cholesky, inverse_from
from lowrank_opt.lipschitz.lmi_cuts import ConeSteps

if TYPE_CHECKING:
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
    """A part of a direction: change of ρ, y and x; S and X of it are in `ConeSteps`."""

    rho: float
    y: NDArray[np.float64]
    x: NDArray[np.float64]


class _Iteration:
    """Factors, products and parts of one direction."""

    def __init__(self, operator: Operator, point: Point, counts: dict[str, int]) -> None:
        self.op, self.point, self.counts = operator, point, counts
        S = operator.slack(point.rho, point.y)
        self.S, self.X = ConeSteps(S, counts), ConeSteps(point.X, counts)
        self.parts: list[_Part] = []
        self.bounded = operator.bounded
        self.mu = 0.0

    def prepare(self) -> bool:
        """Invert S and factor the Schur matrix; False if that fails."""
        op, point = self.op, self.point
        factor = self.cholesky(self.S.M)
        if factor is None:
            return False
        self.Z = inverse_from(factor)
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
        self.trace, self.values = op.trace(point.X), op.values(point.X)
        self.output = float(np.vdot(op.C, point.X))
        # Does the matrix satisfy the inequalities of the dual, apart from rounding?
        rest = np.abs(self.values + point.x)[k]
        self.feasible = bool(np.all(rest <= 0.5 * point.x[k]) and abs(self.trace - 1.0) < 0.1)
        gap = point.rho * self.trace + float(point.y @ self.values) - self.output
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

    def add(self, rhs: NDArray[np.float64], X: NDArray[np.float64], x: NDArray[np.float64]) -> None:
        """Add a part whose multipliers solve the Schur system and whose X starts from `X`."""
        dy = self.solve(rhs)
        dS = self.op.adjoint(dy[1:])
        dS.flat[:: self.op.d + 1] += dy[0] * self.op.E
        T = self.point.X @ dS @ self.Z
        dx = np.where(self.bounded, x - self.point.x * dy[1:] * self.inverse_y, 0.0)
        self.S.add(dS)
        self.X.add(X - 0.5 * (T + T.T))
        self.parts.append(_Part(float(dy[0]), dy[1:], dx))

    def affine(self) -> None:
        rhs = np.zeros(self.op.k + 1)
        rhs[0] = -1.0
        self.add(rhs, -self.point.X, -self.point.x)

    def centring(self) -> None:
        rhs = self.maps(self.Z)
        rhs[1:] += self.inverse_y
        self.add(self.mu * rhs, self.mu * self.Z, self.mu * self.inverse_y)

    def corrector(self) -> None:
        affine = self.parts[0]
        T = self.X.parts[0] @ self.S.parts[0] @ self.Z
        K = 0.5 * (T + T.T)
        k = affine.x * affine.y * self.inverse_y
        rhs = -self.maps(K)
        rhs[1:] -= k
        self.add(rhs, -K, -k)

    # -- steps ------------------------------------------------------------------------------

    def combined(self, s: float, r: float) -> _Part:
        """Return affine + s centring + r corrector, without matrices."""
        total = self.parts[0]
        for weight, part in zip((s, r), self.parts[1:], strict=False):
            total = _Part(
                total.rho + weight * part.rho,
                total.y + weight * part.y,
                total.x + weight * part.x,
            )
        return total

    def ratio(self, v: NDArray[np.float64], dv: NDArray[np.float64]) -> float:
        """Distance to the boundary of the positive orthant."""
        down = self.bounded & (dv < 0.0)
        return float(np.min(-v[down] / dv[down], initial=math.inf))

    def ratios(self, s: float, r: float) -> tuple[float, float]:
        part = self.combined(s, r)
        return self.ratio(self.point.x, part.x), self.ratio(self.point.y, part.y)

    def lengths(self, s: float, r: float, factor: float) -> tuple[float, float]:
        """Primal (X, x) and dual (ρ, y, S) step."""
        primal, dual = self.ratios(s, r)
        return self.X.length(s, r, primal, factor), self.S.length(s, r, dual, factor)

    def inside(self, s: float, r: float, step: float) -> bool:
        """Whether both the primal and the dual point are strictly feasible after a step."""
        if min(self.ratios(s, r)) <= step or self.X.bound(s, r) <= step:
            return False
        return self.S.inside(s, r, step) and self.X.inside(s, r, step)

    def mu_after(self, primal: float, dual: float) -> float:
        """Return the mean complementarity after steps along the affine part."""
        point, op, part, dX = self.point, self.op, self.parts[0], self.X.parts[0]
        y, rho = point.y + dual * part.y, point.rho + dual * part.rho
        gap = rho * (self.trace + primal * op.trace(dX))
        gap += float(y @ (self.values + primal * op.values(dX)))
        gap -= self.output + primal * float(np.vdot(op.C, dX))
        return (gap + float((point.x + primal * part.x) @ y)) / self.nu


_Choice = tuple[float, float, tuple[float, float]]  # weights s and r, steps


def _direction(it: _Iteration) -> _Choice:
    """Return the weights of centring and corrector, and the steps."""
    it.affine()
    primal, dual = it.lengths(0.0, 0.0, 0.98)
    affine_step = min(primal, dual)
    ratio = max(it.mu_after(primal, dual), 0.0) / it.mu
    sigma = min(max(ratio ** max(1.0, 3.0 * affine_step**2), 1e-6), 1.0)
    it.centring()
    it.corrector()
    steps = it.lengths(sigma, 1.0, 0.95)
    correctors = (1.0, affine_step, 0.0)
    if not it.feasible and steps[0] < 1.0:
        full = _full_primal_step(it, sigma, correctors)
        if full is not None:
            return full
    present = min(steps)
    if present >= _LEVELS[0]:
        return sigma, 1.0, steps
    gain = (1.0 - sigma) * present * min(1.0, 2.0 * present)
    for level in _LEVELS:
        if level <= present:
            break
        worth = [s for s in _SIGMAS if (1.0 - s) * level * min(1.0, 2.0 * level) > gain]
        # What the most centred direction cannot reach, hardly any other one does.
        if not worth or not any(it.inside(worth[-1], r, level) for r in correctors[::-1]):
            continue
        for s in worth:
            for r in correctors:
                if it.inside(s, r, level):
                    return s, r, it.lengths(s, r, 0.95)
    return sigma, 1.0, steps


def _full_primal_step(
    it: _Iteration, sigma: float, correctors: tuple[float, ...]
) -> _Choice | None:
    """Return weights with more centring whose full step makes X feasible, if there are any.

    Otherwise the residuals of the dual and its slacks can shrink at the same rate for ever, and X
    never proves a bound.
    """
    for s in _FULL:
        if s <= sigma:
            continue
        for r in correctors:
            primal, dual = it.ratios(s, r)
            if primal < 1.05 or not it.X.inside(s, r, 1.05):
                continue
            step = it.S.length(s, r, dual, 0.95)
            if step > 0.1:
                return s, r, (1.0, step)
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
    s, r, (primal, dual) = _direction(it)
    part = it.combined(s, r)
    X = point.X + primal * it.X.direction(s, r)
    point.X = 0.5 * (X + X.T)
    point.x = point.x + primal * part.x
    point.rho += dual * part.rho
    point.y = point.y + dual * part.y
    point.steps = (primal, dual)
    return True
