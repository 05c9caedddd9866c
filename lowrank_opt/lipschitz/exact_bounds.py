"""What a partial choice of slopes implies: ranges of pre-activations, bounds of Jacobians."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.optimize import nnls

from lowrank_opt.lipschitz.rigorous import gamma

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from lowrank_opt.lipschitz.exact_network import Domain, PatternNetwork, Target

    Values = NDArray[np.float64]
    Pattern = NDArray[np.int8]

__all__ = ["OPEN", "Node", "interior_point", "jacobian_bound", "look_at", "refute", "rounding"]

OPEN = 2
THIN = 1e-7  # regions thinner than this, in units of the domain, may be none at all
HUGE = 1e9  # inputs farther away than this, in units of the scale of kinks, may be none at all


@dataclass
class Node:
    """What is known of a partial choice.

    Parameters
    ----------
    low, high : list of ndarray of shape (n_i,)
        Ranges of the slopes of every layer.
    rows : ndarray of shape (m, n_inputs + 1)
        For every neuron that is chosen, the row a with a·u > 0 for inputs with that choice.
    errors : ndarray of shape (m,)
        Bounds of the rounding of a·u.
    chosen : ndarray of int of shape (m,)
        Their numbers.
    undecided : ndarray of int
        Numbers of the neurons of the first layer that is not settled whose choice is open; empty:
        the network is affine there.
    """

    low: list[Values]
    high: list[Values]
    rows: Values
    errors: Values
    chosen: NDArray[np.int_]
    undecided: NDArray[np.int_]


def look_at(net: PatternNetwork, domain: Domain, pattern: Pattern) -> Node:
    """Return what a pattern implies on a domain, from boxes and, while it is affine, exactly.

    Parameters
    ----------
    net : PatternNetwork
        With one kink at zero for every neuron.
    domain : Domain
        Inputs.
    pattern : ndarray of int8 of shape (n_neurons,)
        0, 1 or `OPEN` for every neuron, chosen in the order of layers.
    """
    n = len(domain.center)
    steps = gamma(sum(W.shape[1] + 4 for W in net.weights) + 8)
    A = np.eye(n)[: n - 1]  # values of the layer before, as rows in u
    size = np.abs(A)
    exact = True
    low: list[Values] = []
    high: list[Values] = []
    rows, errors, chosen = [], [], []
    undecided = np.zeros(0, dtype=int)
    at = 0
    h_low = h_high = np.zeros(0)
    for k, (W, b) in enumerate(zip(net.weights[:-1], net.biases[:-1], strict=True)):
        own = pattern[at : at + len(W)]
        if exact:
            Z, reach = W @ A, np.abs(W) @ size
            Z[:, -1] += b
            reach[:, -1] += np.abs(b)
            error = steps * (reach @ domain.largest) + 1e-290
            middle, spread = Z @ domain.center, domain.spread(Z)
            z_low, z_high = middle - spread - error, middle + spread + error
            vanishing = ~np.any(reach, axis=1)  # exactly zero everywhere
        else:
            up, down = np.maximum(W, 0.0), np.minimum(W, 0.0)
            if domain.kind == "all":
                z_low, z_high = np.full(len(W), -np.inf), np.full(len(W), np.inf)
            else:
                z_low, z_high = up @ h_low + down @ h_high + b, up @ h_high + down @ h_low + b
                error = np.abs(W) @ np.maximum(np.abs(h_low), np.abs(h_high)) + np.abs(b)
                error = steps * error + 1e-290
                z_low, z_high = z_low - error, z_high + error
            vanishing = np.zeros(len(W), dtype=bool)
        off, on = net.off[k], net.on[k]
        positive = (own == 1) | ((own == OPEN) & (z_low > 0))
        negative = (own == 0) | ((own == OPEN) & ~positive & ((z_high < 0) | vanishing))
        unsure = ~positive & ~negative & (off != on)
        low.append(np.where(positive, on, np.where(negative, off, np.minimum(off, on))))
        high.append(np.where(positive, on, np.where(negative, off, np.maximum(off, on))))
        if exact:
            fixed = np.flatnonzero(own != OPEN)
            rows.append(np.where(own[fixed] == 1, 1.0, -1.0)[:, None] * Z[fixed])
            errors.append(error[fixed])
            chosen.append(at + fixed)
            if unsure.any():
                exact = False
                undecided = at + np.flatnonzero(unsure)
            else:
                s = np.where(positive, on, off)[:, None]
                A, size = s * Z, np.abs(s) * reach
        if not exact and domain.kind != "all":
            # The range of the slope times z, with the sign of z where that is chosen.
            bottom = np.where(positive, np.maximum(z_low, 0.0), z_low)
            top = np.where(negative & (own != OPEN), np.minimum(z_high, 0.0), z_high)
            ends = np.stack([_apply(bottom, off, on), _apply(top, off, on)])
            h_low, h_high = ends.min(axis=0), ends.max(axis=0)
            meets = (bottom < 0) & (top > 0)
            h_low = np.where(meets, np.minimum(h_low, 0.0), h_low)
            h_high = np.where(meets, np.maximum(h_high, 0.0), h_high)
        at += len(W)
    join = np.concatenate
    return Node(
        low, high, join(rows) if rows else np.zeros((0, n)),
        join(errors) if errors else np.zeros(0),
        join(chosen) if chosen else np.zeros(0, dtype=int), undecided,
    )  # fmt: skip


def _apply(z: Values, off: Values, on: Values) -> Values:
    return np.where(z > 0, on * z, off * z)


def rounding(net: PatternNetwork, target: Target) -> float:
    """Return a bound of what rounding changes in the norm of any Jacobian of the network."""
    first, last = target.ends(net)
    inner = net.weights[1:-1] if len(net.weights) > 1 else []
    steps = gamma(sum(W.shape[1] + 8 for W in net.weights) + first.size + last.size + 32)
    product = 1.0
    for M in [first, *inner, last] if len(net.weights) > 1 else [first]:
        product *= float(np.linalg.norm(M))
    for p, q, block in zip(net.off, net.on, net.blocks, strict=True):
        if block is None:
            product *= max(float(np.maximum(np.abs(p), np.abs(q)).max(initial=0.0)), 1e-300)
        else:
            product *= block.shape[-1]
    wide = 1.0 if target.norm == "l2" else np.sqrt(max(first.shape[1], last.shape[0]))
    error = product / max(float(np.linalg.norm(last)), 1e-300) * net.last_error
    return (4.0 * steps * product + 1.01 * error) * float(wide)


def jacobian_bound(
    net: PatternNetwork, target: Target, low: list[Values], high: list[Values]
) -> tuple[float, Values]:
    """Return a bound of the norm of all Jacobians with slopes in ranges, and one of them.

    Returns
    -------
    bound : float
        In floating point; add :func:`rounding`.
    middle : ndarray
        The midpoint of the entries.

    Notes
    -----
    Interval products from the side with fewer rows. With midpoint C and radius R the norm is at
    most ``‖C‖ + ‖R‖`` and at most ``‖|C| + R‖``; exact when no slope is open.
    """
    first, last = target.ends(net)
    if len(net.weights) == 1:
        return float(target.size(first)), first
    forward = first.shape[1] <= last.shape[0]
    chain = [first, *net.weights[1:-1], last]
    if not forward:
        chain = [M.T for M in reversed(chain)]
        low, high = low[::-1], high[::-1]
    lower = upper = chain[0]
    for M, a, b in zip(chain[1:], low, high, strict=True):
        a, b = a[:, None], b[:, None]
        if lower is upper and np.array_equal(a, b):
            lower = upper = M @ (a * lower)
            continue
        corners = (a * lower, a * upper, b * lower, b * upper)
        lo, hi = np.minimum.reduce(corners), np.maximum.reduce(corners)
        up, down = np.maximum(M, 0.0), np.minimum(M, 0.0)
        lower, upper = up @ lo + down @ hi, up @ hi + down @ lo
    if lower is upper:
        return float(target.size(lower)), lower
    C, R = 0.5 * (lower + upper), 0.5 * (upper - lower)
    size = target.size
    return float(min(size(C) + size(R), size(np.abs(C) + R))), C


def separation(
    node: Node, domain: Domain, margin: float
) -> tuple[Values | None, Values | None, Values]:
    """Return multipliers against the chosen signs, or an input that has them.

    The least distance problem of Lawson and Hanson, one non-negative least squares problem: the
    input nearest to the centre at which every row exceeds `margin` in units of its length.

    Returns
    -------
    y : ndarray of shape (m,) or None
        Multipliers of the rows with a nearly vanishing combination.
    w : ndarray or None
        The input, in units of the domain's half widths.
    ends : ndarray of shape (2, n_inputs)
        Multipliers of the lower and upper ends of a box.
    """
    free = domain.half > 0
    n = int(free.sum())
    ends = np.zeros((2, len(free) - 1))
    g, d = (node.rows * domain.half)[:, free], node.rows @ domain.center
    size = np.sqrt((g * g).sum(axis=1))
    size = np.where(size > 0, size, np.abs(d))
    keep = size > 0
    g, d = g[keep] / size[keep, None], d[keep] / size[keep]
    G, h = g, margin - d
    if domain.kind == "box":
        eye = np.eye(n)
        G = np.vstack([g, eye, -eye])
        h = np.concatenate([h, np.full(2 * n, -1.0)])
    if not np.any(h > 0):
        return None, np.zeros(n), ends
    target = np.append(np.zeros(n), 1.0)
    E = np.vstack([G.T, h])
    try:
        y, _ = nnls(E, target)
    except RuntimeError:  # no convergence
        return None, None, ends
    r = E @ y - target
    w = -r[:-1] / r[-1] if r[-1] < -1e-14 else None
    out = np.zeros(len(size))
    out[keep] = y[: len(d)] / size[keep]
    if domain.kind == "box":
        ends[:, free[:-1]] = y[len(d) :].reshape(2, n)
    return (out if out.any() else None), w, ends


def refute(node: Node, domain: Domain, exactly: Callable[[Values], bool]) -> Values | None:
    """Return multipliers that prove that no input has the chosen signs, or ``None``.

    Parameters
    ----------
    node : Node
        The partial choice.
    domain : Domain
        Inputs.
    exactly : callable
        Whether the rows with multipliers refute the choice in exact arithmetic; asked when they
        do not with rounding: for all inputs, and where regions only touch.

    Returns
    -------
    ndarray of shape (m + 2 n_inputs,) or None
        Of the rows, and of the lower and upper ends of a box.
    """
    if not len(node.rows):
        return None
    if domain.kind != "all":
        y, w, _ = separation(node, domain, 0.0)
        far = w is None or float(np.abs(w).max(initial=0.0)) > 1.0 or domain.kind == "ball"
        if y is not None and far:
            y = y / y.max()
            if refutes(y, node, domain):
                return np.append(y, np.zeros(2 * (len(domain.half) - 1)))
    if domain.kind == "ball":
        return None
    y, w, ends = separation(node, domain, THIN)
    limit = 1.0 if domain.kind == "box" else HUGE
    if y is None or (w is not None and float(np.abs(w).max(initial=0.0)) <= limit * (1 + 1e-9)):
        return None
    whole = np.concatenate([y / y.max(), (ends / y.max()).ravel()])
    return whole if exactly(whole) else None


def refutes(y: Values, node: Node, domain: Domain) -> bool:
    """Return whether multipliers prove, with rounding, that no input has the chosen signs."""
    combined = y @ node.rows
    size = y @ np.abs(node.rows)
    error = y @ node.errors + gamma(2 * len(y) + 16) * float(size @ domain.largest)
    value = float(combined @ domain.center) + float(domain.spread(combined)) + 2.0 * float(error)
    return value < 0


def interior_point(node: Node, domain: Domain) -> Values | None:
    """Return an input strictly inside the region of the chosen signs, or ``None``."""
    free = domain.half > 0
    rows = node.rows[np.any(node.rows, axis=1)]
    inner = Node([], [], rows, node.errors, node.chosen, node.undecided)
    for margin in (0.1, 1e-2, 1e-3, 1e-4, 1e-6, 1e-8, 1e-10):
        _, w, _ = separation(inner, domain, margin)
        if w is None:
            continue
        if domain.kind == "box":
            w = np.clip(w, -1.0, 1.0)
        elif domain.kind == "ball" and np.linalg.norm(w) > 1.0 - 1e-12:
            continue
        u = domain.center.copy()
        u[free] += domain.half[free] * w
        if domain.lower is not None:
            u[:-1] = np.clip(u[:-1], domain.lower, domain.upper)
        if np.all(rows @ u > 0):
            return u[:-1]
    return None
