r"""Networks of any topology as one linear matrix inequality with terms of rank two.

The variables are the increments of the inputs and of all neurons (of several neurons at once where
an activation fixes relations between them). Every signal of the network is a linear function of
them, a matrix with one row for each entry; a neuron h = φ(z) with slopes between α and β adds the
term 2 (h - αz)(h - βz), which is never positive for the network itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp

from lowrank_opt.lipschitz.forms import Group, LowRankLMI

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from lowrank_opt.lipschitz.forms import Chain

    Slopes = tuple[NDArray[np.float64], NDArray[np.float64]]

__all__ = [
    "chain_lmi",
    "chain_lmi_linf",
    "implicit_lmi",
    "local_lmi",
    "mixed_lmi",
    "residual_lmi",
]


_NARROW = 0.5  # width of a range of slopes, relative to the larger, below which it is centred


class _Assembly:
    """Collects variables, signals and terms.

    Signals are matrices over all variables that exist so far; :meth:`widen` brings an older one
    to the present number of columns.

    Parameters
    ----------
    n_inputs : int
        Number of inputs.
    scaled : bool, default=True
        Measure each neuron in the size of its input, so that all numbers of a deep network are
        near one. Its multiplier is then another one: times the square of that size.
    """

    def __init__(self, n_inputs: int, scaled: bool = True) -> None:
        self.d = self.n_inputs = n_inputs
        self.scaled = scaled
        self.pairs: list[tuple[NDArray[np.float64], NDArray[np.float64]]] = []
        self.owners: list[NDArray[np.intp]] = []
        self.free: list[NDArray[np.bool_]] = []
        self.k = 0
        self.output = np.zeros((0, n_inputs))

    def inputs(self) -> NDArray[np.float64]:
        return np.eye(self.n_inputs)

    def widen(self, R: NDArray[np.float64]) -> NDArray[np.float64]:
        if R.shape[1] == self.d:
            return R
        return np.hstack([R, np.zeros((R.shape[0], self.d - R.shape[1]))])

    def variables(self, n: int) -> NDArray[np.float64]:
        """Add n variables and return them as a signal."""
        self.d += n
        R = np.zeros((n, self.d))
        R[:, self.d - n :] = np.eye(n)
        return R

    def units(self, z: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the size of each row, as a power of two: multiplying by it is exact."""
        sizes = np.linalg.norm(z, axis=1)
        if not self.scaled:
            return np.ones_like(sizes)
        return np.exp2(np.round(np.log2(np.where(sizes > 0.0, sizes, 1.0))))

    def terms(
        self,
        P: NDArray[np.float64],
        Q: NDArray[np.float64],
        owner: NDArray[np.intp],
        n: int,
        free: bool = False,
    ) -> None:
        """Add n multipliers; row i of P and Q belongs to multiplier ``owner[i]`` of them."""
        self.pairs.append((P, Q))
        self.owners.append(owner + self.k)
        self.free.append(np.full(n, free))
        self.k += n

    def slopes(
        self, z: NDArray[np.float64], alpha: NDArray[np.float64], beta: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Apply neurons with slopes between alpha and beta; where they agree it is a product.

        For a narrow range of slopes the variable is not the value h but v in h = c z + sqrt(η) v,
        with the mean slope c and half the width η: the term v² - η z² stays well scaled as the
        neuron becomes affine.
        """
        curved = np.flatnonzero((alpha < beta) & np.any(z != 0.0, axis=1))
        new = self.variables(curved.size)
        z = self.widen(z)
        h = alpha[:, None] * z
        unit = self.units(z[curved])[:, None]
        h[curved] = unit * new
        z, alpha, beta = z[curved] / unit, alpha[curved][:, None], beta[curved][:, None]
        P, Q = new - alpha * z, new - beta * z
        narrow = (beta - alpha)[:, 0] < _NARROW * np.maximum(np.abs(alpha), np.abs(beta))[:, 0]
        if narrow.any():
            z, new = z[narrow], new[narrow]
            root = np.sqrt(0.5 * (beta - alpha)[narrow])
            value = 0.5 * (alpha + beta)[narrow] * z + root * new
            h[curved[narrow]] = unit[narrow] * value
            P[narrow], Q[narrow] = 0.5 * (new - root * z), new + root * z
        self.terms(P, Q, np.arange(curved.size), curved.size)
        return h

    def sector(
        self,
        h: NDArray[np.float64],
        z: NDArray[np.float64],
        alpha: NDArray[np.float64],
        beta: NDArray[np.float64],
    ) -> None:
        """Add the term (h - αz)(h - βz) + its transpose for every neuron."""
        P, Q = h - alpha[:, None] * z, h - beta[:, None] * z
        self.terms(P, Q, np.arange(len(h)), len(h))

    def group(
        self, u: NDArray[np.float64], group: Group, identities: str = "eliminate"
    ) -> NDArray[np.float64]:
        """Apply an activation that rearranges groups of neurons.

        It keeps the norm of a group from growing, and keeps E times the group, with the
        projection E. With ``identities="eliminate"`` the kept part of the output is that of the
        input, and only the rest are new variables; with "multipliers" all outputs are variables,
        and two free multipliers a group stand for the identity.
        """
        size = group.size
        n = len(u) // size
        kept, rest = _bases(group, n)
        if identities == "eliminate":
            return self._turned(u, kept, rest)
        new = self.variables(len(u))
        v = self.widen(u)
        owner = np.repeat(np.arange(n), size)
        self.terms(0.5 * (new - v), new + v, owner, n)
        a = (kept @ v.reshape(n, size, self.d)).reshape(-1, self.d)
        b = (kept @ new.reshape(n, size, self.d)).reshape(-1, self.d)
        owner = np.repeat(np.arange(n), kept.shape[1])
        self.terms(0.5 * (b - a), b + a, owner, n, free=True)
        return new

    def _turned(
        self, u: NDArray[np.float64], kept: NDArray[np.float64], rest: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Return what is kept of the groups, plus new variables for the rest."""
        n, size = len(kept), kept.shape[2]
        r = rest.shape[1]
        grouped = u.reshape(n, size, self.d)
        # What rounding leaves of the difference of equal inputs does not turn.
        rounding = 8.0 * np.finfo(float).eps * (np.abs(rest) @ np.abs(grouped))
        moving = np.flatnonzero(np.any(np.abs(rest @ grouped) > rounding, axis=(1, 2)))
        m = moving.size
        flat = self.variables(m * r)
        new = flat.reshape(m, r, self.d)
        v = self.widen(u).reshape(n, size, self.d)
        turned = rest[moving] @ v[moving]  # coordinates of the input in the part that turns
        unit = self.units(turned.reshape(m, r * self.d))[:, None, None]
        out = np.swapaxes(kept, 1, 2) @ (kept @ v)
        out[moving] += np.swapaxes(rest[moving], 1, 2) @ (unit * new)
        turned = (turned / unit).reshape(m * r, self.d)
        self.terms(0.5 * (flat - turned), flat + turned, np.repeat(np.arange(m), r), m)
        return np.ascontiguousarray(out.reshape(len(u), self.d))

    def apply(
        self, z: NDArray[np.float64], layer: Slopes | Group, identities: str
    ) -> NDArray[np.float64]:
        """Apply an activation to a signal."""
        if isinstance(layer, Group):
            return self.group(z, layer, identities)
        return self.slopes(z, *_slopes(*layer, len(z)))

    def build(self, scale: float) -> LowRankLMI:
        """Return the inequality for the Euclidean norm of inputs and outputs."""
        G = self.widen(self.output)
        E = np.zeros(self.d)
        E[: self.n_inputs] = 1.0
        P, Q, M, free = self._stacked(self.d)
        return LowRankLMI(E, P, Q, M, free, G.T @ G, "l2", scale)

    def build_linf(self, scale: float) -> LowRankLMI:
        """Return the inequality for inputs measured by their largest entry and one output."""
        n, border = self.n_inputs, self.d
        self.d += 1
        x, e = np.eye(n, self.d), np.zeros((n, self.d))
        e[:, border] = 1.0
        both = np.vstack([x, e])
        halves = np.vstack([0.5 * x, -0.5 * e])
        self.terms(halves, both, np.tile(np.arange(n), 2), n)
        E = np.zeros(self.d)
        E[border] = 2.0
        C = np.zeros((self.d, self.d))
        w = self.output.reshape(-1)
        C[: w.size, border] = C[border, : w.size] = w
        P, Q, M, free = self._stacked(self.d)
        return LowRankLMI(E, P, Q, M, free, C, "linf", scale)

    def _stacked(
        self, d: int
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], sp.csr_array, NDArray[np.bool_]]:
        owner = np.concatenate(self.owners) if self.owners else np.zeros(0, np.intp)
        m = owner.size
        P, Q = np.zeros((d, m)), np.zeros((d, m))
        first = 0
        for p, q in self.pairs:
            P[: p.shape[1], first : first + len(p)] = p.T
            Q[: q.shape[1], first : first + len(q)] = q.T
            first += len(p)
        M = sp.csr_array((np.ones(m), (np.arange(m), owner)), shape=(m, self.k))
        free = np.concatenate(self.free) if self.free else np.zeros(0, bool)
        return P, Q, M, free


def _bases(group: Group, n: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Orthonormal rows that span what each group keeps, and the rest: (n, r, size) each."""
    size = group.size
    if group.direction is None:
        # Differences of equal entries are then exactly zero.
        across = np.tril(np.ones((size - 1, size)))
        np.fill_diagonal(across[:, 1:], -np.arange(1.0, size))
        across /= np.sqrt(np.arange(1.0, size) * np.arange(2.0, size + 1.0))[:, None]
        along = np.full((1, size), 1.0 / np.sqrt(size))
        return np.broadcast_to(along, (n, 1, size)), np.broadcast_to(across, (n, *across.shape))
    v = group.direction / np.linalg.norm(group.direction, axis=1, keepdims=True)
    # Rows 1, ... of the reflection that maps v to the first axis are orthogonal to v.
    reflection = np.empty((n, size, size))
    for g in range(n):
        w = v[g].copy()
        w[0] += np.copysign(1.0, w[0])
        reflection[g] = np.eye(size) - 2.0 * np.outer(w, w) / (w @ w)
    return reflection[:, 1:, :], v[:, None, :]


def _slopes(alpha: object, beta: object, n: int) -> tuple[NDArray[np.float64], ...]:
    return tuple(np.broadcast_to(np.asarray(a, dtype=np.float64), (n,)) for a in (alpha, beta))


def chain_lmi(chain: Chain) -> LowRankLMI:
    """Feed-forward network with slope-restricted activations.

    Parameters
    ----------
    chain : Chain
        The network.

    Returns
    -------
    LowRankLMI
        One multiplier a neuron, in the order of the layers, the same as those of the chain.
    """
    ones = [np.ones_like(a) for a in chain.alpha]
    slopes = list(zip(chain.alpha, ones, strict=True))
    return _feed_forward(_Assembly(chain.widths[0], False), chain.weights, slopes).build(
        chain.scale
    )


def chain_lmi_linf(
    weights: Sequence[NDArray[np.float64]],
    alpha: Sequence[NDArray[np.float64]],
    beta: Sequence[NDArray[np.float64]],
    w: NDArray[np.float64],
    scale: float = 1.0,
) -> LowRankLMI:
    """Feed-forward network with one output, inputs measured by their largest entry.

    Parameters
    ----------
    weights : sequence of ndarray of shape (n_i, n_{i-1})
        W_1, …, W_{L-1} of the hidden layers.
    alpha, beta : sequence of ndarray of shape (n_i,)
        Smallest and largest slope of every hidden neuron; where they agree the neuron is
        affine, and eliminated.
    w : ndarray of shape (n_{L-1},)
        Weights of the output.
    scale : float, default=1.0
        Factor between the form and the network.

    Returns
    -------
    LowRankLMI
        One multiplier for each neuron that is not affine, in the order of the layers, then one
        for each input.
    """
    layers = list(zip(alpha, beta, strict=True))
    return mixed_lmi([*weights, np.reshape(w, (1, -1))], layers, norm="linf", scale=scale)


def mixed_lmi(
    weights: Sequence[NDArray[np.float64]],
    layers: Sequence[Slopes | Group],
    *,
    norm: str = "l2",
    identities: str = "eliminate",
    scale: float = 1.0,
) -> LowRankLMI:
    """Feed-forward network whose layers have slopes or rearrange groups.

    Parameters
    ----------
    weights : sequence of ndarray of shape (n_i, n_{i-1})
        W_1, …, W_L.
    layers : sequence of (alpha, beta) or Group
        What each of the L-1 hidden layers does; slopes are arrays of shape (n_i,) or numbers.
    norm : {"l2", "linf"}, default="l2"
        "linf" measures inputs by their largest entry and needs a W_L with one row.
    identities : {"eliminate", "multipliers"}, default="eliminate"
        What becomes of the linear functions that a group keeps: substituted, which is at least
        as tight and smaller, or left to two free multipliers a group as published.
    scale : float, default=1.0
        Factor between the form and the network.

    Returns
    -------
    LowRankLMI
        Multipliers layer by layer: one for each neuron that is not affine, or one for each
        group (with "multipliers" three: λ of all groups, γ, ν); "linf": then one an input.
    """
    net = _feed_forward(_Assembly(weights[0].shape[1]), weights, layers, identities)
    return net.build_linf(scale) if norm == "linf" else net.build(scale)


def _feed_forward(
    net: _Assembly,
    weights: Sequence[NDArray[np.float64]],
    layers: Sequence[Slopes | Group],
    identities: str = "eliminate",
) -> _Assembly:
    h = net.inputs()
    for W, layer in zip(weights[:-1], layers, strict=True):
        h = net.apply(W @ h, layer, identities)
    net.output = weights[-1] @ h
    return net


def local_lmi(
    weights: Sequence[NDArray[np.float64]],
    alpha: Sequence[NDArray[np.float64]],
    beta: Sequence[NDArray[np.float64]],
    *,
    norm: str = "l2",
    scale: float = 1.0,
) -> LowRankLMI:
    """Feed-forward network with slopes of each neuron on a region; affine neurons are eliminated.

    Parameters
    ----------
    weights : sequence of ndarray of shape (n_i, n_{i-1})
        W_1, …, W_L.
    alpha, beta : sequence of ndarray of shape (n_i,)
        Smallest and largest slope of every hidden neuron. A neuron with equal slopes needs no
        variable, since it is a multiple of its input.
    norm : {"l2", "linf"}, default="l2"
        "linf" measures inputs by their largest entry and needs a W_L with one row.
    scale : float, default=1.0
        Factor between the form and the network.

    Returns
    -------
    LowRankLMI
        One multiplier for each neuron that is not affine, in the order of the layers.
    """
    return mixed_lmi(weights, list(zip(alpha, beta, strict=True)), norm=norm, scale=scale)


def residual_lmi(
    W_in: NDArray[np.float64],
    blocks: Sequence[
        tuple[NDArray[np.float64] | None, NDArray[np.float64] | None, NDArray[np.float64]]
    ],
    layers: Sequence[Slopes | Group],
    W_out: NDArray[np.float64],
    *,
    norm: str = "l2",
    identities: str = "eliminate",
    scale: float = 1.0,
) -> LowRankLMI:
    """Residual network h ← H h + G φ(W h) between two affine maps, all in one inequality.

    Parameters
    ----------
    W_in : ndarray of shape (n, n_0)
        First affine map.
    blocks : sequence of (H, G, W)
        Of shapes (n_{k+1}, n_k), (n_{k+1}, m_k) and (m_k, n_k); ``None`` for H or G is the
        identity.
    layers : sequence of (alpha, beta) or Group
        Activation of each block.
    W_out : ndarray of shape (n_out, n)
        Last affine map.
    norm, identities, scale : optional
        As for :func:`mixed_lmi`.

    Returns
    -------
    LowRankLMI
        Multipliers block by block, as for :func:`mixed_lmi`.
    """
    net = _Assembly(W_in.shape[1])
    h = W_in @ net.inputs()
    for (H, G, W), layer in zip(blocks, layers, strict=True):
        a = net.apply(W @ h, layer, identities)
        h = net.widen(h if H is None else H @ h)
        h = h + (a if G is None else G @ a)
    net.output = W_out @ h
    return net.build_linf(scale) if norm == "linf" else net.build(scale)


def implicit_lmi(
    W: NDArray[np.float64],
    U: NDArray[np.float64],
    C: NDArray[np.float64],
    D: NDArray[np.float64] | None,
    alpha: NDArray[np.float64] | float,
    beta: NDArray[np.float64] | float,
    *,
    norm: str = "l2",
    scale: float = 1.0,
) -> LowRankLMI:
    """Implicit network z = φ(W z + U x + b), y = C z + D x.

    Parameters
    ----------
    W, U : ndarray of shape (n, n) and (n, n_0)
        Inside the activation.
    C, D : ndarray of shape (n_out, n) and (n_out, n_0)
        Output; D may be None.
    alpha, beta : ndarray of shape (n,) or float
        Smallest and largest slope of every neuron, ``alpha < beta``.
    norm : {"l2", "linf"}, default="l2"
        "linf" measures inputs by their largest entry and needs one output.
    scale : float, default=1.0
        Factor between the form and the network.

    Returns
    -------
    LowRankLMI
        One multiplier a neuron. A strictly feasible point exists only if z is unique for every
        x and all slopes in the range.
    """
    net = _Assembly(U.shape[1])
    x = net.inputs()
    z = net.variables(len(W))
    x = net.widen(x)
    low, high = _slopes(alpha, beta, len(W))
    net.sector(z, W @ z + U @ x, low, high)
    net.output = C @ z if D is None else C @ z + D @ x
    return net.build_linf(scale) if norm == "linf" else net.build(scale)
