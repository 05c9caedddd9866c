"""Jacobians of all choices of slopes, orders or reflections; and good choices by ascent."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from lowrank_opt.lipschitz.witness import dual_input, dual_output

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lowrank_opt.lipschitz.exact_network import PatternNetwork, Target

    Values = NDArray[np.float64]

__all__ = ["CHUNK", "ascend", "best_of", "n_patterns"]

CHUNK = 4096


def n_patterns(net: PatternNetwork) -> int:
    """Return the number of choices of the whole network."""
    return math.prod(net.n_choices)


def digits(net: PatternNetwork, start: int, count: int) -> NDArray[np.int_]:
    """Return the choices with numbers ``start``, … of shape (count, n_units)."""
    out = np.zeros((count, len(net.n_choices)), dtype=int)
    rest = start + np.arange(count)
    for j, base in enumerate(net.n_choices):
        rest, out[:, j] = np.divmod(rest, base)
    return out


def jacobians(net: PatternNetwork, target: Target, choices: NDArray[np.int_]) -> Values:
    """Return the Jacobians of choices of shape (k, n_units), of shape (k, m, n)."""
    first, last = target.ends(net)
    k = len(choices)
    if len(net.weights) == 1:
        return np.broadcast_to(first, (k, *first.shape))
    columns = first.shape[1]
    X = np.repeat(first[:, None, :], k, axis=1)  # (width, k, columns)
    at = 0
    for i, block in enumerate(net.blocks):
        width = len(net.weights[i])
        if block is None:
            own = choices[:, at : at + width].T
            X = X * np.where(own == 1, net.on[i][:, None], net.off[i][:, None])[:, :, None]
            at += width
        else:
            groups, size = len(block), block.shape[-1]
            own = choices[:, at : at + groups]
            chosen = block[np.arange(groups), own]  # (k, groups, size, size)
            X = np.einsum("kgij,gjkc->gikc", chosen, X.reshape(groups, size, k, columns))
            at += groups
        W = last if i == len(net.blocks) - 1 else net.weights[i + 1]
        X = (W @ X.reshape(width, -1)).reshape(len(W), k, columns)
    return np.ascontiguousarray(X.transpose(1, 0, 2))


def best_of(
    net: PatternNetwork, target: Target, start: int, count: int, best: float = 0.0
) -> float:
    """Return the largest norm among choices with numbers ``start``, …, or `best` if none exceeds.

    Parameters
    ----------
    net : PatternNetwork
        The network.
    target : Target
        What is maximised.
    start, count : int
        Which choices.
    best : float, default=0.0
        What is known already; norms are computed only where the Frobenius norm exceeds it.

    Notes
    -----
    Cost: one product of the inner layers with ``count · n`` columns, n the number of inputs.
    """
    J = jacobians(net, target, digits(net, start, count))
    if target.norm == "l2" and min(J.shape[1:]) > 1:
        J = J[np.einsum("kij,kij->k", J, J) > best * best]
        if not len(J):
            return best
    return max(best, float(target.size(J).max()))


def ascend(
    net: PatternNetwork, target: Target, rng: np.random.Generator, starts: int = 12
) -> tuple[float, NDArray[np.int8]]:
    """Return a choice of slopes with a large Jacobian, by alternating ascent.

    For fixed unit vectors u and v and slopes of the other layers, uᵀJv is linear in the slopes of
    one layer, which so are best chosen by the sign of their factor.

    Parameters
    ----------
    net : PatternNetwork
        Without groups.
    target : Target
        What is maximised.
    rng : numpy.random.Generator
        Source of the starts.
    starts : int, default=12
        Number of starts.
    """
    first, last = target.ends(net)
    chain = [first, *net.weights[1:-1], last]
    best, at = -1.0, np.zeros(net.n_neurons, dtype=np.int8)
    if len(net.weights) == 1:
        return float(target.size(first)), at
    for trial in range(starts):
        on = [np.full(len(a), True) if trial == 0 else rng.random(len(a)) < 0.5 for a in net.on]
        value = -1.0
        for _ in range(20):
            slopes = [np.where(c, p, q) for c, p, q in zip(on, net.on, net.off, strict=True)]
            fronts = [chain[0]]  # W_k D … W_1
            for W, s in zip(chain[1:], slopes, strict=True):
                fronts.append(W @ (s[:, None] * fronts[-1]))
            J = fronts[-1]
            new = float(target.size(J))
            if new > best:
                best, at = new, np.concatenate(on).astype(np.int8)
            if new <= value * (1.0 + 1e-12):
                break
            value = new
            u, v = _directions(target, J)
            back = u
            for k in range(len(slopes) - 1, -1, -1):
                back = back @ chain[k + 1]
                gain = back * (fronts[k] @ v) * (net.on[k] - net.off[k])
                on[k] = gain > 0
                back = back * np.where(on[k], net.on[k], net.off[k])
    return best, at


def _directions(target: Target, J: Values) -> tuple[Values, Values]:
    if target.norm == "l2":
        U, _, V = np.linalg.svd(J, full_matrices=False)
        return U[:, 0], V[0]
    if target.norm == "linf":
        return np.ones(1), dual_input(J[0], "linf")
    return dual_output(J[:, 0], "l1"), np.ones(1)
