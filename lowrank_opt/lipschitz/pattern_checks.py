"""Checks of exact bounds: that leaves cover all patterns, and what each of them allows.

Nothing here knows how the leaves were found. Ranges are widened by all rounding errors.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from lowrank_opt.lipschitz.exact_network import domain_of, pattern_network, target_of
from lowrank_opt.lipschitz.network import FeedForward
from lowrank_opt.lipschitz.rigorous import gamma

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from lowrank_opt.lipschitz.exact_network import Domain, PatternNetwork, Target
    from lowrank_opt.lipschitz.problem import LipschitzProblem

    Values = NDArray[np.float64]

__all__ = ["covers", "exactly_refuted", "integers", "pattern_bound", "pattern_lower"]

_EXACT = 40  # inputs up to which contradictions are looked for in exact arithmetic
_MOST = 2.0**26  # patterns that are gone through one by one
_WORK = 50_000_000  # leaves that the check of a cover may look at


def pattern_bound(problem: LipschitzProblem, index: int, multipliers: Sequence[Any]) -> float:
    """Return the upper bound that leaves of a tree of patterns prove for one part of a problem.

    Parameters
    ----------
    problem : LipschitzProblem
        The problem, of a feed-forward network.
    index : int
        Number of the part.
    multipliers : sequence of ndarray
        ``mode`` of shape (1,): 0: patterns that inputs of the region reach; 1: all patterns; 2:
        all, to be gone through one by one. ``patterns`` of shape (m, N): 0, 1 or 2 (open) for every
        hidden neuron. ``refutations`` of shape (m, N + 2 n_inputs): numbers y >= 0 of the neurons
        and of lower and upper ends of inputs, not all zero for leaves that no input reaches.
        Further arrays are not looked at.

    Returns
    -------
    float
        In the units of the network; infinity if the leaves prove nothing: they miss a pattern, or
        have other shapes.

    Notes
    -----
    A refuted leaf is accepted if ``Σ y_j s_j z_j < 0`` for all inputs of the region, z the
    pre-activations with the leaf's choices and s their signs, with rounding errors counted; or if
    the neurons and ends with y > 0 contradict each other in exact arithmetic. Any other leaf
    counts with an interval bound of its Jacobians. Cost: about 0.3 ms a leaf for small networks.
    """
    if len(multipliers) < 3 or not isinstance(problem.network, FeedForward):
        return math.inf
    mode, patterns, y = (np.asarray(a) for a in multipliers[:3])
    if mode.size != 1 or patterns.ndim != 2 or y.ndim != 2 or len(patterns) != len(y):
        return math.inf
    if not np.all(np.isfinite(y)) or np.any(y < 0) or not np.all(np.isin(patterns, (0, 1, 2))):
        return math.inf
    target = target_of(problem, index)
    slopes = None
    if problem.region is not None and mode != 0:
        from lowrank_opt.lipschitz.local_slopes import slopes_on

        slopes = slopes_on(problem.network, problem.region)
    net = pattern_network(problem.network, slopes, problem.region)
    if mode == 2:
        return _all_patterns(net, target)
    n, N = problem.network.n_inputs, net.n_neurons
    if net.grouped or patterns.shape[1] != N or y.shape[1] != N + 2 * n or not covers(patterns):
        return math.inf
    if mode == 0 and not net.kinked:
        return math.inf
    domain = domain_of(net, problem.region) if mode == 0 else None
    numbers = integers(net) if mode == 0 else None
    worst, doubt = 0.0, _doubt(net, target)
    with np.errstate(all="ignore"):
        for pattern, proof in zip(patterns, y, strict=True):
            if domain is not None and proof.any():
                if _refuted(net, domain, pattern, proof[:N]):
                    continue
                if exactly_refuted(net, numbers, domain, pattern, proof):
                    continue
            value = _leaf(net, target, domain, pattern, worst - 2.0 * doubt)
            worst = max(worst, value + doubt)
    return worst * (1.0 + 1e-15) if math.isfinite(worst) else math.inf


def pattern_lower(problem: LipschitzProblem, index: int, multipliers: Sequence[Any]) -> float:
    """Return a proved lower bound of the best that the same patterns could give.

    Parameters
    ----------
    problem : LipschitzProblem
        The problem.
    index : int
        Number of the part.
    multipliers : sequence of ndarray
        As for :func:`pattern_bound`; the fourth array begins with an input (mode 0) or with a
        pattern of 0 and 1 (mode 1). For mode 2 all patterns are gone through.

    Returns
    -------
    float
        In the units of the network; for mode 0 a lower bound of the Lipschitz constant itself.
    """
    if len(multipliers) < 4 or not isinstance(problem.network, FeedForward):
        return 0.0
    mode, best = np.asarray(multipliers[0]), np.asarray(multipliers[3], dtype=np.float64)
    if mode.size != 1 or best.ndim != 1 or not np.all(np.isfinite(best)):
        return 0.0
    if mode == 0:
        from lowrank_opt.lipschitz.witness import witness_bound

        n = problem.network.n_inputs
        if len(best) < n:
            return 0.0
        return witness_bound(problem.network, problem.norm, best[:n], problem.region)
    slopes = None
    if problem.region is not None:
        from lowrank_opt.lipschitz.local_slopes import slopes_on

        slopes = slopes_on(problem.network, problem.region)
    net, target = (
        pattern_network(problem.network, slopes, problem.region),
        target_of(problem, index),
    )
    doubt = _doubt(net, target)
    if mode == 2:
        return max(0.0, _all_patterns(net, target) * (1.0 - 4e-15) - 2.0 * doubt)
    pattern = best[: net.n_neurons]
    if net.grouped or len(pattern) < net.n_neurons or not np.all(np.isin(pattern, (0.0, 1.0))):
        return 0.0
    return max(0.0, (_leaf(net, target, None, pattern, 0.0) - doubt) * (1.0 - 1e-15))


def covers(patterns: NDArray[np.int8]) -> bool:
    """Return whether every 0-1 vector agrees with one of the rows where that is not 2 (open).

    Parameters
    ----------
    patterns : ndarray of shape (m, n)
        Rows of 0, 1 and 2.

    Notes
    -----
    Splits at a position that as many rows as possible choose. For the leaves of a tree one that
    all choose exists; other covers may take long, and count as none beyond a limit of work.
    """
    n = patterns.shape[1]
    stack = [(np.arange(len(patterns)), np.ones(n, dtype=bool))]  # rows, positions to decide
    work = 0
    while stack:
        rows, ahead = stack.pop()
        work += len(rows)
        if not len(rows) or work > _WORK:
            return False
        chosen = (patterns[rows] != 2) & ahead
        if not np.all(chosen.any(axis=1)):
            continue  # a row that leaves all that is ahead open
        j = int(chosen.sum(axis=0).argmax())
        ahead = ahead.copy()
        ahead[j] = False
        for choice in (0, 1):
            column = patterns[rows, j]
            stack.append((rows[(column == choice) | (column == 2)], ahead))
    return True


def _doubt(net: PatternNetwork, target: Target) -> float:
    """Return a bound of the rounding errors in the norm of any Jacobian."""
    first, last = target.ends(net)
    steps = 64 + first.size + last.size + 2 * sum(sum(W.shape) for W in net.weights)
    total = float(np.linalg.norm(first))
    for W in [*net.weights[1:-1], last] if len(net.weights) > 1 else []:
        total *= float(np.linalg.norm(W))
    for p, q, block in zip(net.off, net.on, net.blocks, strict=True):
        steep = max(np.abs(p).max(initial=0.0), np.abs(q).max(initial=0.0))
        total *= float(steep) if block is None else float(block.shape[-1])
    if target.norm != "l2":
        total *= math.sqrt(max(first.shape[1], last.shape[0]))
    inner = total / max(float(np.linalg.norm(last)), 1e-300) * net.last_error
    return 4.0 * gamma(steps) * total + 1.01 * inner + 1e-300


# ---------------------------------------------------------------- one leaf


def _layers(net: PatternNetwork, domain: Domain, pattern: Any) -> Any:
    """Return slope ranges of every layer, and (row, error) of every chosen neuron.

    Values are kept as rows in u while every neuron before has one slope, and as intervals after.
    """
    n = len(domain.center) - 1
    unit = gamma(8 + sum(6 + W.shape[1] for W in net.weights))
    far = np.abs(domain.center) + domain.half
    value = np.hstack([np.eye(n), np.zeros((n, 1))])
    magnitude = value.copy()
    box: Any = None
    ranges, rows, at = [], {}, 0
    for i, W in enumerate(net.weights[:-1]):
        b = net.biases[i]
        if box is None:
            z, size = W @ value, np.abs(W) @ magnitude
            z[:, n] += b
            size[:, n] += np.abs(b)
            error = unit * (size @ far) + 1e-290
            radius = np.abs(z * domain.half)
            ball = domain.kind == "ball"
            radius = np.linalg.norm(radius, axis=1) if ball else radius.sum(axis=1)
            radius = radius * (1.0 + unit) + error
            if domain.kind == "all":
                radius = np.where(size[:, :n].any(axis=1), np.inf, error)
            low, high = z @ domain.center - radius, z @ domain.center + radius
        elif domain.kind == "all":
            low, high = np.full(len(W), -np.inf), np.full(len(W), np.inf)
        else:
            low, high = _map(W, *box)
            error = unit * (np.abs(W) @ np.maximum(np.abs(box[0]), np.abs(box[1])) + np.abs(b))
            low, high = low + b - error - 1e-290, high + b + error + 1e-290
        slopes, cut = [], []
        certain = True
        for j in range(len(W)):
            choice = pattern[at + j]
            pair = (net.off[i][j], net.on[i][j])
            if choice != 2:
                if box is None:
                    rows[at + j] = (z[j] if choice else -z[j], error[j])
                one = pair[int(choice)]
                slopes.append((one, one))
                if choice == 1:
                    cut.append((max(low[j], 0.0), max(high[j], 0.0)))
                else:
                    cut.append((min(low[j], 0.0), min(high[j], 0.0)))
                continue
            cut.append((low[j], high[j]))
            if low[j] > 0:
                slopes.append((pair[1], pair[1]))
            elif high[j] < 0 or (box is None and not size[j].any()):
                slopes.append((pair[0], pair[0]))
            else:
                slopes.append((min(pair), max(pair)))
                certain = certain and pair[0] == pair[1]
        s = np.array(slopes)
        ranges.append((s[:, 0], s[:, 1]))
        if box is None and certain:
            value, magnitude = s[:, :1] * z, np.abs(s[:, :1]) * size
        elif domain.kind == "all":
            box = (np.full(len(W), -np.inf), np.full(len(W), np.inf))
        else:
            c = np.array(cut)
            ends = np.stack([_bent(net, i, c[:, 0]), _bent(net, i, c[:, 1])])
            inside = (c[:, 0] < 0) & (c[:, 1] > 0)
            box = (
                np.where(inside, np.minimum(ends.min(axis=0), 0.0), ends.min(axis=0)),
                np.where(inside, np.maximum(ends.max(axis=0), 0.0), ends.max(axis=0)),
            )
        at += len(W)
    return ranges, rows


def _bent(net: PatternNetwork, i: int, z: Values) -> Values:
    return np.where(z > 0, net.on[i], net.off[i]) * z


def _map(W: Values, low: Values, high: Values) -> tuple[Values, Values]:
    middle, radius = 0.5 * (low + high), 0.5 * (high - low)
    centre, spread = W @ middle, np.abs(W) @ radius
    return centre - spread, centre + spread


def _refuted(net: PatternNetwork, domain: Domain, pattern: Any, y: Any) -> bool:
    """Return whether no input of the domain has the chosen signs, with rounding."""
    if domain.kind == "all":
        return False
    _, rows = _layers(net, domain, pattern)
    total, error, size = np.zeros(len(domain.center)), 0.0, np.zeros(len(domain.center))
    for j in np.flatnonzero(y):
        if int(j) not in rows:
            return False
        row, off = rows[int(j)]
        total = total + y[j] * row
        size = size + y[j] * np.abs(row)
        error += y[j] * off
    reach = total * domain.half
    top = float(np.linalg.norm(reach)) if domain.kind == "ball" else float(np.abs(reach).sum())
    far = np.abs(domain.center) + domain.half
    error += gamma(4 * len(y) + 4 * len(total) + 32) * float(size @ far)
    return float(total @ domain.center) + top + 2.0 * error < 0.0


def integers(net: PatternNetwork) -> list[tuple[Any, int, Any, int, Any, Any, int]]:
    """Return weights, biases and slopes of the hidden layers as integers times powers of two.

    Returns
    -------
    list of (W, e, b, f, off, on, g)
        Arrays of Python integers: the weight is ``W 2^-e``, the bias ``b 2^-f``, slopes
        ``off 2^-g`` and ``on 2^-g``.
    """
    out = []
    for W, b, p, q in zip(net.weights[:-1], net.biases[:-1], net.off, net.on, strict=True):
        V, e = _integer(W)
        c, f = _integer(b)
        both, g = _integer(np.stack([p, q]))
        out.append((V, e, c, f, both[0], both[1], g))
    return out


def _integer(a: Values) -> tuple[Any, int]:
    """Return an array of Python integers and e with ``a = integers 2^-e``."""
    pairs = [float(v).as_integer_ratio() for v in np.ravel(a)]
    e = max((q.bit_length() - 1 for _, q in pairs), default=0)
    values = np.empty(len(pairs), dtype=object)
    values[:] = [p << (e - q.bit_length() + 1) for p, q in pairs]
    return values.reshape(np.shape(a)), e


def exactly_refuted(
    net: PatternNetwork, numbers: Any, domain: Domain, pattern: Any, y: Any
) -> bool:  # fmt: skip
    """Return whether chosen signs contradict each other, in exact arithmetic.

    Parameters
    ----------
    net : PatternNetwork
        With one kink at zero for every neuron.
    numbers : list
        What :func:`integers` returns for it.
    domain : Domain
        A box or all inputs.
    pattern : ndarray of shape (N,)
        Choices.
    y : ndarray of shape (N + 2 n_inputs,)
        Positive for the neurons, lower ends and upper ends that take part.

    Returns
    -------
    bool
        Whether the rows that take part have one combination with coefficients >= 0, not all of
        them ends, that does not depend on the input and is not positive. As signs are strict but
        for a set of measure zero, no open set of inputs then has them.

    Notes
    -----
    Rows of pre-activations are integers here, exact for the given weights. Biases of merged affine
    layers are those after merging.
    """
    n, N = len(domain.center) - 1, len(pattern)
    if domain.kind == "ball" or n > _EXACT:
        return False
    free = np.ones(n, dtype=bool)
    if domain.lower is not None and domain.upper is not None:
        free = domain.lower < domain.upper
    rows = _exact_rows(net, numbers, domain, pattern, np.flatnonzero(y[:N] > 0), free)
    if not rows:
        return False
    if domain.lower is not None and domain.upper is not None:
        for i in np.flatnonzero(free):
            for at, value, sign in ((N + i, domain.lower[i], 1), (N + n + i, domain.upper[i], -1)):
                if y[at] > 0:
                    p, q = float(value).as_integer_ratio()
                    row = [0] * (n + 1)
                    row[i], row[n] = sign * q, -sign * p
                    rows.append(row)
    null = _null_vector([[row[i] for row in rows] for i in np.flatnonzero(free)], len(rows))
    if null is None:
        return False
    if all(v <= 0 for v in null):
        null = [-v for v in null]
    if any(v < 0 for v in null):
        return False
    strict = any(v > 0 for v in null[: int(np.count_nonzero(y[:N] > 0))])
    total = sum(v * row[n] for v, row in zip(null, rows, strict=True))
    return strict and total <= 0


def _exact_rows(
    net: PatternNetwork, numbers: Any, domain: Domain, pattern: Any, wanted: Any, free: Any
) -> list[list[int]]:  # fmt: skip
    """Return the signed rows of neurons, scaled to integers; none if one is not to be used.

    Inputs that are held are put into the constant, the last entry.
    """
    n = len(free)
    A = np.zeros((n, n + 1), dtype=object)
    scale = 0
    held = [0] * n if domain.lower is None else domain.lower
    ratios = [float(v).as_integer_ratio() for v in held]
    scale = max(q.bit_length() - 1 for _, q in ratios) if not free.all() else 0
    for i in range(n):
        p, q = ratios[i]
        if free[i]:
            A[i, i] = 1 << scale
        else:
            A[i, n] = p << (scale - q.bit_length() + 1)
    ranges, _ = _layers(net, domain, pattern)
    out: list[list[int]] = []
    last = int(wanted.max(initial=-1))
    at = 0
    for k, (W, e, b, f, off, on, g) in enumerate(numbers):
        if at > last:
            break
        Z = W.dot(A)
        total = max(scale + e, f)
        Z = Z * (1 << (total - scale - e))
        Z[:, n] += b * (1 << (total - f))
        scale = total
        own = pattern[at : at + len(W)]
        for j in wanted[(wanted >= at) & (wanted < at + len(W))] - at:
            row = Z[j] if own[j] == 1 else -Z[j]
            if own[j] == 2 or not any(row):
                return []  # no choice, or a neuron that is zero everywhere
            out.append(list(row))
        low, high = ranges[k]
        if at + len(W) <= last and not np.array_equal(low, high):
            return []  # rows of later layers are not known
        upper = np.array([low[j] == net.on[k][j] for j in range(len(W))])
        A = np.where(upper, on, off)[:, None] * Z
        scale += g
        at += len(W)
    return out


def _null_vector(M: list[list[int]], columns: int) -> list[int] | None:
    """Return the null vector of an integer matrix whose null space is a line, else ``None``."""
    M = [list(row) for row in M]
    pivots: list[int] = []
    last, r = 1, 0
    for c in range(columns):
        k = next((i for i in range(r, len(M)) if M[i][c]), None)
        if k is None:
            continue
        M[r], M[k] = M[k], M[r]
        p = M[r][c]
        for i in range(len(M)):  # fraction-free elimination, above and below
            if i != r:
                q = M[i][c]
                M[i] = [(p * a - q * b) // last for a, b in zip(M[i], M[r], strict=True)]
        last = p
        pivots.append(c)
        r += 1
        if r == len(M):
            break
    if len(pivots) != columns - 1:
        return None
    open_ = next(c for c in range(columns) if c not in pivots)
    null = [0] * columns
    null[open_] = last
    for i, c in enumerate(pivots):
        null[c] = -M[i][open_]
    if any(sum(a * b for a, b in zip(row, null, strict=True)) for row in M):
        return None
    return null


def _leaf(
    net: PatternNetwork, target: Target, domain: Any, pattern: Any, enough: float
) -> float:  # fmt: skip
    """Return an upper bound of the Jacobians of a leaf; `enough`: what need not be undercut."""
    if domain is None:
        ranges, at = [], 0
        for p, q in zip(net.off, net.on, strict=True):
            own = pattern[at : at + len(p)]
            low = np.where(own == 0, p, np.where(own == 1, q, np.minimum(p, q)))
            high = np.where(own == 0, p, np.where(own == 1, q, np.maximum(p, q)))
            ranges.append((low, high))
            at += len(p)
    else:
        ranges, _ = _layers(net, domain, pattern)
    first, last = target.ends(net)
    if len(net.weights) == 1:
        return float(target.size(first))
    maps = [first, *net.weights[1:-1], last]
    best = math.inf
    for turn in (first.shape[1] <= last.shape[0], first.shape[1] > last.shape[0]):
        chain = maps if turn else [M.T for M in reversed(maps)]
        steps = ranges if turn else ranges[::-1]
        best = min(best, _interval_norm(target, chain, steps))
        if best <= enough or all(np.array_equal(a, b) for a, b in ranges):
            break
    return best


def _interval_norm(target: Target, chain: list[Values], ranges: Any) -> float:
    low = high = chain[0]
    for W, (a, b) in zip(chain[1:], ranges, strict=True):
        a, b = a[:, None], b[:, None]
        products = np.stack([a * low, a * high, b * low, b * high])
        low, high = _map(W, products.min(axis=0), products.max(axis=0))
    middle, radius = 0.5 * (low + high), 0.5 * (high - low)
    size = target.size
    return min(
        float(size(middle)) + float(size(radius)),
        float(size(np.maximum(np.abs(low), np.abs(high)))),
    )


# ---------------------------------------------------------------- all patterns


def _all_patterns(net: PatternNetwork, target: Target) -> float:
    """Return the largest norm over all patterns, gone through from the outputs to the inputs."""
    counts = net.n_choices
    total = math.prod(counts)
    if total > _MOST:
        return math.inf
    first, last = target.ends(net)
    if len(net.weights) == 1:
        return float(target.size(first)) + _doubt(net, target)
    best, block = 0.0, 2048
    for start in range(0, total, block):
        number = np.arange(start, min(start + block, total))
        rest, choice = number, []
        for c in counts:
            choice.append(rest % c)
            rest = rest // c
        choices = np.array(choice)
        J = np.broadcast_to(last, (len(number), *last.shape))
        at = len(counts)
        for i in range(len(net.blocks) - 1, -1, -1):
            W = first if i == 0 else net.weights[i]
            if net.blocks[i] is None:
                at -= len(net.off[i])
                own = choices[at : at + len(net.off[i])]
                s = np.where(own == 1, net.on[i][:, None], net.off[i][:, None]).T
                J = (J * s[:, None, :]) @ W
            else:
                groups = len(net.blocks[i])
                at -= groups
                parts = []
                size = net.blocks[i].shape[-1]
                for g in range(groups):
                    M = net.blocks[i][g][choices[at + g]]
                    parts.append(J[:, :, g * size : (g + 1) * size] @ M)
                J = np.concatenate(parts, axis=2) @ W
        frobenius = np.sqrt((J * J).sum(axis=(1, 2)))
        if target.norm == "l2":
            J = J[frobenius * (1.0 + 1e-12) >= best]
        if len(J):
            best = max(best, float(target.size(J).max()))
    return (best + _doubt(net, target)) * (1.0 + 1e-15)
