"""A penalty seen through a block of flat variables."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from lowrank_opt.numerics.penalties import (
    L1,
    MCP,
    SCAD,
    Box,
    ElasticNet,
    GroupL1,
    NonNegative,
    SquaredL2,
    WeightedL1,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["BlockPenalty"]


class BlockPenalty:
    """The penalty of a problem, by block.

    Variables are numbered as in the smooth part: rows of coefficients one after the other,
    intercepts last. Blocks are ascending, so that intercepts, which have no penalty, come last.

    Parameters
    ----------
    problem : GLMProblem, QuadraticProblem or CompositeProblem
        The problem.
    """

    def __init__(self, problem: Any) -> None:
        smooth, penalty = problem.smooth, problem.penalty
        self.n_penalized = int(smooth.n_coefficients)
        self.groups: Any = None
        self.weights: Any = None
        if penalty is None:
            penalty = SquaredL2(0.0)
            self.n_penalized = 0
        if isinstance(penalty, WeightedL1):
            weights = np.asarray(penalty.weights, np.float64).ravel()
            with np.errstate(invalid="ignore"):
                scaled = np.where(weights > 0, penalty.alpha * weights, 0.0)
            self.weights = np.where(np.isinf(weights), np.inf, scaled)
            penalty = WeightedL1(1.0, self.weights)
        elif isinstance(penalty, GroupL1):
            groups = np.asarray(penalty.groups, np.int64)
            sizes = np.ones(int(groups.max()) + 1)
            if penalty.weights is not None:
                sizes = np.asarray(penalty.weights, np.float64)
            scaled = np.where(sizes > 0, float(penalty.alpha), 0.0)
            scaled[np.isfinite(sizes)] *= sizes[np.isfinite(sizes)]
            self.weights = np.where(np.isinf(sizes), np.inf, scaled)
            self.groups = np.repeat(groups, smooth.n_outputs)
        else:
            # Numbers of one type: kernels are compiled by type.
            penalty = type(penalty)(*(float(v) for v in penalty))
        self.penalty = penalty

    @property
    def smooth(self) -> bool:
        """Whether there is nothing but squares."""
        return isinstance(self.penalty, SquaredL2)

    @property
    def absent(self) -> bool:
        """Whether there is no penalty."""
        return self.n_penalized == 0

    @property
    def separable(self) -> bool:
        """Whether it is a sum over variables."""
        return self.groups is None

    @property
    def convex(self) -> bool:
        """Whether it is convex."""
        return not isinstance(self.penalty, (MCP, SCAD))

    def count(self, b: NDArray[Any]) -> int:
        """Return how many variables of a block have a penalty; they come first."""
        return int(np.searchsorted(b, self.n_penalized))

    def on(self, b: NDArray[Any]) -> Any:
        """Return the penalty of a vector of the penalised variables of a block; separable ones."""
        if isinstance(self.penalty, WeightedL1):
            return WeightedL1(1.0, self.weights[b[: self.count(b)]])
        return self.penalty

    def value(self, b: NDArray[Any], v: NDArray[Any]) -> float:
        """Return the penalty of a block with the values `v`; for groups, of whole groups."""
        n = self.count(b)
        if n == 0:
            return 0.0
        if self.groups is None:
            return float(self.on(b).value(v[:n]))
        if self.penalty.positive and (v[:n] < 0).any():
            return np.inf
        norms, bounds, _ = self._lengths(b[:n], v[:n])
        used = norms > 0
        return float(norms[used] @ bounds[used])

    def _lengths(self, b: NDArray[Any], v: NDArray[Any]) -> tuple[Any, Any, Any]:
        """Norms and weights of the groups in a block, and the group of every entry."""
        numbers, inverse = np.unique(self.groups[b], return_inverse=True)
        norms = np.sqrt(np.bincount(inverse, v * v, minlength=numbers.size))
        return norms, self.weights[numbers], inverse

    def prox(self, b: NDArray[Any], v: NDArray[Any], step: Any) -> NDArray[Any]:
        """Proximal operator; `step` is a number or one for every variable, equal in a group."""
        n = self.count(b)
        out = v.copy()
        if n == 0:
            return out
        part = step if np.ndim(step) == 0 else step[:n]
        if self.groups is None:
            out[:n] = self.on(b).prox(v[:n], part)
            return out
        u = np.maximum(v[:n], 0.0) if self.penalty.positive else v[:n]
        norms, bounds, inverse = self._lengths(b[:n], u)
        lengths = np.zeros(norms.size)
        lengths[inverse] = part
        with np.errstate(invalid="ignore", divide="ignore"):
            reach = np.where(bounds > 0, bounds * lengths, 0.0)
            factors = np.where(norms > reach, 1.0 - reach / norms, 0.0)
        out[:n] = u * factors[inverse]
        return out

    def slopes(self, b: NDArray[Any], v: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return lower and upper ends of the subdifferentials at `v`; separable penalties."""
        low, high = np.zeros(v.size), np.zeros(v.size)
        n = self.count(b)
        if n == 0:
            return low, high
        pen, w = self.penalty, v[:n]
        size, sign = np.abs(w), np.sign(w)
        if isinstance(pen, Box):
            low[:n] = np.where(w <= pen.low, -np.inf, 0.0)
            high[:n] = np.where(w >= pen.high, np.inf, 0.0)
            return low, high
        if isinstance(pen, NonNegative):
            low[:n] = np.where(w <= 0, -np.inf, pen.alpha)
            high[:n] = pen.alpha
            return low, high
        corner: Any
        if isinstance(pen, SquaredL2):
            corner, slope = 0.0, pen.alpha * size
        elif isinstance(pen, ElasticNet):
            corner = pen.alpha * pen.l1_ratio
            slope = corner + pen.alpha * (1.0 - pen.l1_ratio) * size
        elif isinstance(pen, MCP):
            corner, slope = pen.alpha, np.maximum(pen.alpha - size / pen.gamma, 0.0)
        elif isinstance(pen, SCAD):
            corner = pen.alpha
            falling = np.maximum(pen.gamma * corner - size, 0.0) / (pen.gamma - 1.0)
            slope = np.where(size <= corner, corner, falling)
        elif isinstance(pen, L1):
            corner, slope = pen.alpha, pen.alpha + 0.0 * size
        else:
            corner = slope = self.weights[b[:n]]
        with np.errstate(invalid="ignore"):
            slope = np.where(size > 0, sign * slope, 0.0)
        low[:n] = np.where(size > 0, slope, -corner)
        high[:n] = np.where(size > 0, slope, corner)
        return low, high

    def subgradient(self, b: NDArray[Any], v: NDArray[Any], g: NDArray[Any]) -> NDArray[Any]:
        """Return the element of least norm of ``g`` plus the subdifferential at `v`."""
        if self.absent:
            return g
        if self.groups is None:
            low, high = self.slopes(b, v)
            return np.where(g + low > 0, g + low, np.where(g + high < 0, g + high, 0.0))
        n = self.count(b)
        out = g.copy()
        norms, bounds, inverse = self._lengths(b[:n], v[:n])
        with np.errstate(invalid="ignore", divide="ignore"):
            pull = np.where((norms > 0) & (bounds > 0), bounds / norms, 0.0)[inverse]
            inside = g[:n] + np.where(v[:n] != 0, pull * v[:n], 0.0)
        outward = g[:n]
        if self.penalty.positive:
            inside = np.where(v[:n] > 0, inside, np.minimum(inside, 0.0))
            outward = np.minimum(outward, 0.0)
        lengths, _, _ = self._lengths(b[:n], outward)
        with np.errstate(invalid="ignore", divide="ignore"):
            left = np.where(lengths > bounds, 1.0 - bounds / lengths, 0.0)[inverse]
        out[:n] = np.where(norms[inverse] > 0, inside, outward * left)
        return out

    def largest(self, b: NDArray[Any], pseudo: NDArray[Any]) -> float:
        """Return the largest entry of a subgradient, for groups the largest norm of one."""
        n = self.count(b)
        if self.groups is None or n == 0:
            return float(np.abs(pseudo).max(initial=0.0))
        norms, _, _ = self._lengths(b[:n], pseudo[:n])
        return max(float(norms.max()), float(np.abs(pseudo[n:]).max(initial=0.0)))

    @property
    def curvature(self) -> float:
        """Second derivative of the penalty where it has one (and is convex)."""
        pen = self.penalty
        if isinstance(pen, ElasticNet):
            return float(pen.alpha * (1.0 - pen.l1_ratio))
        return float(pen.alpha) if isinstance(pen, SquaredL2) else 0.0

    def orthant(
        self, b: NDArray[Any], v: NDArray[Any], g: NDArray[Any]
    ) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        """Return bounds between which the penalty is smooth, and its slopes there.

        Parameters
        ----------
        b : ndarray
            A block.
        v, g : ndarray
            Its values, and derivatives of the smooth part; variables at 0 go the way downhill.

        Returns
        -------
        low, high, slope : ndarray
            Bounds, which `v` satisfies, and the derivatives of the penalty at `v`.
        """
        n = self.count(b)
        low, high, slope = np.full(v.size, -np.inf), np.full(v.size, np.inf), np.zeros(v.size)
        if n == 0:
            return low, high, slope
        pen = self.penalty
        if isinstance(pen, (Box, NonNegative)):
            bounds = (pen.low, pen.high) if isinstance(pen, Box) else (0.0, np.inf)
            low[:n], high[:n] = bounds
            slope[:n] = 0.0 if isinstance(pen, Box) else pen.alpha
            return low, high, slope
        if isinstance(pen, SquaredL2):
            slope[:n] = pen.alpha * v[:n]
            return low, high, slope
        side = np.where(v == 0, -np.sign(self.subgradient(b, v, g)), np.sign(v))[:n]
        corner: Any = self.weights[b[:n]] if isinstance(pen, WeightedL1) else pen.alpha
        if isinstance(pen, ElasticNet):
            corner = corner * pen.l1_ratio
        kink = np.zeros(n) + corner > 0
        low[:n] = np.where(kink & (side >= 0), 0.0, -np.inf)
        high[:n] = np.where(kink & (side <= 0), 0.0, np.inf)
        with np.errstate(invalid="ignore"):
            slope[:n] = np.where(side != 0, side * corner, 0.0) + self.curvature * v[:n]
        return low, high, slope

    def feasible(self, x: NDArray[Any]) -> NDArray[Any]:
        """Return the point nearest to `x` at which the penalty is finite."""
        out, n, pen = x.copy(), self.n_penalized, self.penalty
        if isinstance(pen, Box):
            out[:n] = np.clip(x[:n], pen.low, pen.high)
        elif isinstance(pen, NonNegative) or (isinstance(pen, GroupL1) and pen.positive):
            out[:n] = np.maximum(x[:n], 0.0)
        if isinstance(pen, GroupL1):
            out[:n][np.isinf(self.weights[self.groups])] = 0.0
        elif isinstance(pen, WeightedL1):
            out[:n][np.isinf(self.weights)] = 0.0
        return out

    def values(self, b: NDArray[Any], v: NDArray[Any]) -> NDArray[Any]:
        """Return what every variable adds to the penalty; of groups, its share by squares."""
        out = np.zeros(v.size)
        n = self.count(b)
        if n == 0:
            return out
        pen, w = self.penalty, v[:n]
        size = np.abs(w)
        if self.groups is not None:
            norms, bounds, inverse = self._lengths(b[:n], w)
            with np.errstate(divide="ignore", invalid="ignore"):
                shares = np.where(norms > 0, bounds / norms, 0.0)[inverse]
            out[:n] = np.where(w != 0, shares * w * w, 0.0)
            if pen.positive:
                out[:n][w < 0] = np.inf
        elif isinstance(pen, Box):
            out[:n] = np.where((w < pen.low) | (w > pen.high), np.inf, 0.0)
        elif isinstance(pen, NonNegative):
            out[:n] = np.where(w < 0, np.inf, pen.alpha * w)
        elif isinstance(pen, SquaredL2):
            out[:n] = 0.5 * pen.alpha * w * w
        elif isinstance(pen, ElasticNet):
            out[:n] = pen.alpha * size * (pen.l1_ratio + 0.5 * (1.0 - pen.l1_ratio) * size)
        elif isinstance(pen, MCP):
            inner = pen.alpha * size - size * size / (2.0 * pen.gamma)
            out[:n] = np.where(size <= pen.gamma * pen.alpha, inner, 0.5 * pen.gamma * pen.alpha**2)
        elif isinstance(pen, SCAD):
            a, gamma = pen.alpha, pen.gamma
            middle = (2.0 * gamma * a * size - size * size - a * a) / (2.0 * (gamma - 1.0))
            outer = 0.5 * a * a * (gamma + 1.0)
            out[:n] = np.where(size <= a, a * size, np.where(size <= gamma * a, middle, outer))
        elif isinstance(pen, L1):
            out[:n] = pen.alpha * size
        else:
            with np.errstate(invalid="ignore"):
                out[:n] = np.where(size > 0, self.weights[b[:n]] * size, 0.0)
        return out
