"""Search for inputs at which the Jacobian is large."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

from lowrank_opt.core.errors import ParameterError
from lowrank_opt.core.params import make_rng
from lowrank_opt.core.serialize import register_serializable
from lowrank_opt.lipschitz.linearised import Linearised, has_values
from lowrank_opt.lipschitz.network import Affine, FeedForward, Residual
from lowrank_opt.lipschitz.regions import Ball
from lowrank_opt.lipschitz.witness import (
    best_direction,
    contains,
    dual_input,
    dual_output,
    free_inputs,
    size_of,
    witness_bound,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lowrank_opt.lipschitz.network import Network
    from lowrank_opt.lipschitz.regions import Region

    Values = NDArray[np.float64]

__all__ = ["Search"]

KEPT = 4  # inputs from which the ascent goes on
STEPS = (1.0, 0.3, 0.1)  # along the smoothed gradient, in units of the reach
FRESH = 16  # random inputs, the best of which replaces one whose steps have become short
RANDOM = 2  # trials in random directions
SAME = 1e-9  # values that differ by less are taken to be those of one linear region
# Where the error analysis proves nothing, which happens to deep networks only, the value in
# floating point is lowered by this; the analysis is first skipped above so many weights.
LOWERED, ANALYSED = 1e-9, 20_000_000


def n_weights(network: Network) -> int:
    """Return the number of stored entries of all weights."""
    if isinstance(network, FeedForward):
        parts = [a.weight for a in network.layers if isinstance(a, Affine)]
    elif isinstance(network, Residual):
        parts = [a.weight for a in (network.first, network.last) if a is not None]
        parts += [M for b in network.blocks for M in (b.weight, b.skip, b.output)]
    else:
        parts = [network.weight, network.input, network.output, network.skip]
        return sum(M.size for M in parts) * max(1, len(network.weight) // 4)  # a factorisation
    return sum(M.nnz if sp.issparse(M) else M.size for M in parts)


@register_serializable
@dataclass
class Search:
    """The best inputs so far.

    Parameters
    ----------
    X : ndarray of shape (k, n_inputs)
        Inputs, best first.
    U : ndarray of shape (k, n_outputs)
        Directions of the outputs in which the Jacobians are largest.
    values : ndarray of shape (k,)
        Norms of the Jacobians, in floating point.
    reach : ndarray of shape (k,)
        Length of the next steps.
    rng : numpy.random.Generator
        Source of trial directions.
    default_rounds : int
        Rounds of ascent that suit the size of the network.
    kept, kept_value : ndarray of shape (n_inputs,) or None, float
        Best of the inputs given up so far.
    """

    X: Values
    U: Values
    values: Values
    reach: Values
    rng: np.random.Generator = field(repr=False)
    default_rounds: int = 0
    kept: Values | None = None
    kept_value: float = 0.0

    @classmethod
    def start(
        cls, network: Network, norm: str, region: Region | None, n_samples: int | None,
        random_state: Any,
    ) -> Search:  # fmt: skip
        """Return the search after the random inputs."""
        if norm not in ("l2", "linf", "l1"):
            raise ParameterError(f"norm={norm!r} must be 'l2', 'linf' or 'l1'")
        rng = make_rng(random_state)
        n, size = network.n_inputs, n_weights(network)
        if n_samples is None:
            n_samples = int(np.clip(20_000_000 // size, 8, 64))
        if not has_values(network):
            empty = np.zeros((0, n))
            return cls(empty, np.zeros((0, network.n_outputs)), np.zeros(0), np.zeros(0), rng)
        if region is not None:
            region.box(n)  # raises if the sizes differ
        X = draw(network, region, max(int(n_samples), 1), rng)
        U = dual_output(rng.standard_normal((len(X), network.n_outputs)), norm)
        free = free_inputs(network, region)
        with np.errstate(all="ignore"):
            values, U = sizes(Linearised(network, X), norm, U, free, 4 if size < 10**7 else 1)
        top = np.argsort(-_told_apart(values), kind="stable")[:KEPT]
        reach = 0.3 * extent(network, region, X[top])
        rounds = int(np.clip(20_000_000 // (3 * size), 0, 8))
        return cls(X[top], U[top], values[top], reach, rng, rounds)

    def add(self, network: Network, norm: str, region: Region | None, x: Values) -> float:
        """Take over an input from elsewhere and return its value, 0 if it is unfit."""
        x = np.asarray(x, dtype=np.float64).reshape(-1)
        fits = x.size == network.n_inputs and np.all(np.isfinite(x)) and contains(region, x)
        if not fits or not len(self.X):
            return 0.0
        v = best_direction(network, norm, x, free_inputs(network, region))
        Y = Linearised(network, x[None]).push(v[None])
        value = float(size_of(Y, norm)[0])
        if value > self.values[-1]:
            self.X[-1], self.values[-1] = x, value
            self.U[-1] = dual_output(Y, norm)[0]
        return value

    def advance(self, network: Network, norm: str, region: Region | None) -> None:
        """Try steps from every input along its smoothed gradient and at random."""
        if not len(self.X):
            return
        free = free_inputs(network, region)
        with np.errstate(all="ignore"):
            lin = Linearised(network, self.X)
            G = lin.pull(self.U)
            lin.push(dual_input(G if free is None else G * free, norm))
            G = np.nan_to_num(np.broadcast_to(lin.ascent(), self.X.shape))
            G = G if free is None else G * free
            D = [s * dual_input(G, "l2") for s in STEPS]
            for _ in range(RANDOM):
                R = self.rng.standard_normal(self.X.shape)
                D.append(0.5 * dual_input(R if free is None else R * free, "l2"))
            moves = np.array(D)  # (steps, k, n)
            trial = project(region, (self.X + self.reach[:, None] * moves).reshape(-1, len(G[0])))
            U = np.tile(self.U, (len(moves), 1))
            values, U = sizes(Linearised(network, trial), norm, U, free, 2)
        values = values.reshape(len(moves), -1)
        # Within a linear region all values are the same up to rounding: the first one counts.
        best = (values >= values.max(axis=0) * (1.0 - SAME)).argmax(axis=0)
        at = best * len(self.X) + np.arange(len(self.X))
        better = values.max(axis=0) > self.values * (1.0 + SAME)
        self.X = np.where(better[:, None], trial[at], self.X)
        self.U = np.where(better[:, None], U[at], self.U)
        self.values = np.where(better, values.max(axis=0), self.values)
        self.reach = self.reach * np.where(better, 1.5, 0.5)
        self.restart(network, norm, region)

    def restart(self, network: Network, norm: str, region: Region | None) -> None:
        """Replace inputs whose steps have become short by new random ones; the best is kept."""
        short = np.flatnonzero(self.reach < 1e-3 * extent(network, region, self.X))
        if not len(short):
            return
        self.keep()
        for k in short:
            X = draw(network, region, FRESH, self.rng)
            U = dual_output(self.rng.standard_normal((FRESH, network.n_outputs)), norm)
            with np.errstate(all="ignore"):
                values, U = sizes(Linearised(network, X), norm, U, free_inputs(network, region), 2)
            j = int(_told_apart(values).argmax())
            self.X[k], self.U[k], self.values[k] = X[j], U[j], values[j]
            self.reach[k] = 0.3 * extent(network, region, X[j : j + 1])[0]

    def keep(self) -> None:
        """Remember the best input."""
        if not len(self.X):
            return
        k = int(_told_apart(self.values).argmax())
        if self.values[k] > self.kept_value * (1.0 + SAME):
            self.kept, self.kept_value = self.X[k].copy(), float(self.values[k])

    def best(
        self, network: Network, norm: str, region: Region | None
    ) -> tuple[float, Values | None]:
        """Return the best value that holds, and its input."""
        self.keep()
        if self.kept is None:
            return 0.0, None if not len(self.X) else self.X[0].copy()
        X = np.vstack([self.kept[None], self.X])
        values = np.concatenate([[self.kept_value], self.values])
        proved, x = 0.0, X[0]
        if n_weights(network) <= ANALYSED:
            for k in np.argsort(-values, kind="stable"):
                if values[k] <= proved * (1 + 1e-9):
                    break
                value = witness_bound(network, norm, X[k], region)
                if value > proved:
                    proved, x = value, X[k]
                if value > values[k] * (1 - 1e-6):
                    break
        lowered = self.kept_value * (1.0 - LOWERED)
        if deep(network) and lowered > proved:
            return lowered, self.kept.copy()
        return proved, x.copy()


def deep(network: Network) -> bool:
    """Return whether a network is too deep or too large for the error analysis."""
    return len(network.widths) > 10 or n_weights(network) > ANALYSED


def sizes(
    lin: Linearised, norm: str, U: Values, free: Values | None, rounds: int
) -> tuple[Values, Values]:
    """Return lower estimates of the norm of every Jacobian by power iterations from `U`."""
    values = np.zeros(len(U))
    scalar = U.shape[1] == 1
    for _ in range(1 if scalar else rounds):
        G = lin.pull(U)
        V = dual_input(G if free is None else G * free, norm)
        if scalar:
            values = (G * V).sum(axis=1) * np.abs(U[:, 0])
            break
        Y = lin.push(V)
        values = size_of(Y, norm)
        U = dual_output(Y, norm)
    values = np.where(np.isfinite(values), values, 0.0)
    if lin.clear.any():
        values = np.where(lin.clear, values, 0.0)
    return values, U


def _told_apart(values: Values) -> Values:
    """Return values relative to the largest, rounded so that rounding decides no comparison."""
    return np.round(values / max(float(values.max(initial=0.0)), 1e-300), 9)


def kink_distance(network: Network) -> float:
    """Return how far from zero inputs have to go to change the first layer's slopes; 0: no bias."""
    if isinstance(network, FeedForward):
        first, phi = network.layers[0], network.layers[1] if len(network.layers) > 1 else None
        W, b = first.weight, first.bias  # type: ignore[union-attr]
    elif isinstance(network, Residual):
        block = network.blocks[0]
        W, b, phi = block.weight, block.bias, block.activation
        if network.first is not None:
            W, b = np.asarray(W @ network.first.weight), W @ network.first.bias + b
    else:
        W, b, phi = network.input, network.bias, network.activation
    if isinstance(phi, Affine) or phi is None:
        return 1.0
    smooth = not np.isfinite(phi.clearance(np.ones((1, len(b))))).any() and not phi.by_groups
    rows = np.sqrt(np.asarray((W * W).sum(axis=1)).reshape(-1))
    away = (np.abs(b) + float(smooth))[rows > 0] / rows[rows > 0]
    away = away[away > 0]
    return float(np.median(away)) if len(away) else 0.0


def draw(network: Network, region: Region | None, n: int, rng: np.random.Generator) -> Values:
    """Return inputs: in a region evenly, else at sizes from small to large."""
    d = network.n_inputs
    if region is None:
        scale = kink_distance(network)
        R = dual_input(rng.standard_normal((n, d)), "l2")
        X = R * (scale or 1.0) * 10.0 ** rng.uniform(-1.0, 1.5, (n, 1))
        if scale:
            X[0] = 0.0
        return X
    if isinstance(region, Ball):
        R = dual_input(rng.standard_normal((n, d)), "l2")
        X = region.center + region.radius * rng.uniform(0, 1, (n, 1)) ** (1.0 / d) * R
        X[0] = region.center
    else:
        box = region.box(d)
        X = rng.uniform(box.lower, box.upper, (n, d))
        X[0] = 0.5 * box.lower + 0.5 * box.upper
    return project(region, X)


def project(region: Region | None, X: Values) -> Values:
    """Return inputs moved into a region."""
    if region is None:
        return X
    if isinstance(region, Ball):
        off = X - region.center
        size = size_of(off, "l2")[:, None]
        inside = region.radius * (1.0 - 1e-12)
        X = np.where(size > inside, region.center + off * (inside / np.maximum(size, 1e-300)), X)
        lost = [not contains(region, x) for x in X]  # a ball as small as rounding
        return np.where(np.array(lost)[:, None], region.center, X)
    box = region.box(X.shape[1])
    return np.clip(X, box.lower, box.upper)


def extent(network: Network, region: Region | None, X: Values) -> Values:
    """Return the length of first steps: the size of the inputs, or of the region."""
    if region is None:
        return size_of(X, "l2") + kink_distance(network)
    if isinstance(region, Ball):
        return np.full(len(X), region.radius)
    box = region.box(network.n_inputs)
    return np.full(len(X), float(np.linalg.norm(0.5 * (box.upper - box.lower))))
