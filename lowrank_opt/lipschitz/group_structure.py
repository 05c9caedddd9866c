r"""Networks of groups in coordinates in which every multiplier is diagonal.

In a group the multiplier λ I + γ E has two eigenspaces: the direction v (v = 1/√k for GroupSort,
the reflected unit vector for Householder) and what is orthogonal to it. A reflection that maps
the first axis to ±v makes it diagonal with one entry for v and k - 1 equal ones, and the entries
are free and positive. In these coordinates, with T_L = 1, both norms are one program,

.. math:: \min c^\top y_0 \quad\text{s.t.}\quad
    \operatorname{diag}(t_{i-1}) - W_i^\top \operatorname{diag}(t_i) W_i \succeq 0,
    \quad t_i = S_i y_i,

where S_i repeats the value of each run of equal entries. For "l2" layer 0 is one run (T_0 = ρ I);
for "linf" it has a run for each input (T_0 = diag(μ)), c = 1, and the optimal value is ρ² after
the border has been eliminated: μ, T and ρ there are this program's divided by ρ. So the bound is
the root of the optimal value for both norms. Its dual is

.. math:: \max \operatorname{tr}(W_L X_L W_L^\top) \quad\text{s.t.}\quad X_i \succeq 0,\quad
    S_0^\top \operatorname{diag} X_1 \le c,\quad
    S_i^\top \operatorname{diag} X_{i+1} \le S_i^\top \operatorname{diag}(W_i X_i W_i^\top).

Any positive y gives a bound, ∏‖T_i^{1/2} W_i T_{i-1}^{-1/2}‖, and any positive definite X_i, scaled
layer by layer, a lower bound on the optimum.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import scipy.linalg as la

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from lowrank_opt.lipschitz.forms import Group, GroupChain

    Array = NDArray[np.float64]

__all__ = ["TiedChain", "blas_threads", "lower_bound", "tied_chain", "upper_bound"]

UNIT = 2.0**-53
_ZERO = 1e-14  # rows and columns below this, relative to the largest, count as zero
_SERIAL = 1000  # width up to which waking BLAS's threads costs more than they save
# What stands for infinity, and its inverse for zero, in multipliers of coordinates that are left
# out: larger, it would cost digits of λ + γ k, where the two cancel.
_FILL = 5e6


@dataclass(frozen=True, eq=False)
class TiedChain:
    """Network in coordinates in which multipliers are diagonal.

    Parameters
    ----------
    form : GroupChain
        The network.
    full : tuple of ndarray of shape (n_i, n_{i-1})
        Its weights in the new coordinates.
    weights : tuple of ndarray
        The same without coordinates that nothing writes or nothing reads.
    axes : tuple of ndarray of shape (n_groups, size)
        Unit vectors u of the reflections I - 2uuᵀ of the hidden layers.
    keep : tuple of ndarray of int
        Coordinates kept, for layers 0, …, L-1.
    labels : tuple of ndarray of int
        Number of the multiplier of each coordinate of `full`, for layers 0, …, L-1.
    starts : tuple of ndarray of int
        Where runs of equal multipliers begin among the kept coordinates.
    fill : tuple of ndarray
        For coordinates that were left out: 1 if nothing writes them, -1 if nothing reads them.
    """

    form: GroupChain
    full: tuple[Array, ...]
    weights: tuple[Array, ...]
    axes: tuple[Array, ...]
    keep: tuple[NDArray[np.int64], ...]
    labels: tuple[NDArray[np.int64], ...]
    starts: tuple[NDArray[np.int64], ...]
    fill: tuple[Array, ...]

    @property
    def depth(self) -> int:
        """Number of affine maps."""
        return len(self.weights)

    @property
    def linf(self) -> bool:
        """Whether each input has a multiplier of its own."""
        return self.form.norm == "linf"

    def total(self, values: Array, layer: int) -> Array:
        """Return the sums of coordinates' values over runs, along axis 0."""
        starts = self.starts[layer]
        return values if len(starts) == len(values) else np.add.reduceat(values, starts, axis=0)

    def spread(self, values: Array, layer: int) -> Array:
        """Return the values of runs repeated for their coordinates."""
        starts, size = self.starts[layer], len(self.keep[layer])
        if len(starts) == size:
            return values
        return np.repeat(values, np.diff(starts, append=size))


def blas_threads(form: GroupChain) -> int | None:
    """Return the number of BLAS threads for products of the network's widths, ``None``: all.

    Products of a hundred rows take less than a tenth of a millisecond; on a busy machine the
    threads of BLAS wait for each other much longer.
    """
    return 1 if max(W.shape[1] for W in form.weights) <= _SERIAL else None


def tied_chain(form: GroupChain) -> TiedChain:
    """Return a network of groups in coordinates in which multipliers are diagonal.

    Parameters
    ----------
    form : GroupChain
        The network.

    Returns
    -------
    TiedChain
        The same network.

    Notes
    -----
    Cost: 8 flops for each weight.
    """
    full = [np.array(W, dtype=np.float64, order="C") for W in form.weights]
    axes = []
    n0 = full[0].shape[1]
    labels = [np.arange(n0) if form.norm == "linf" else np.zeros(n0, dtype=np.int64)]
    for i, group in enumerate(form.groups):
        u = _axes(group, full[i].shape[0])
        axes.append(u)
        full[i] = reflect(u, full[i])
        full[i + 1] = reflect(u, full[i + 1].T).T.copy()
        part = np.minimum(np.arange(group.size), 1)
        labels.append((2 * np.arange(len(u))[:, None] + part).ravel())
    keep, fill = _trim(full, labels)
    weights = [
        W[np.ix_(keep[i + 1], keep[i])] if i + 1 < len(full) else W[:, keep[i]]
        for i, W in enumerate(full)
    ]
    weights = [np.ascontiguousarray(W) for W in weights]
    starts = [np.flatnonzero(np.diff(a[k], prepend=-1)) for a, k in zip(labels, keep, strict=True)]
    return TiedChain(
        form,
        tuple(full),
        tuple(weights),
        tuple(axes),
        tuple(keep),
        tuple(labels),
        tuple(starts),
        tuple(fill),
    )


def _axes(group: Group, n: int) -> Array:
    """Unit vectors u with (I - 2uuᵀ) e_1 = ±v."""
    k = group.size
    v = np.full((n // k, k), 1.0 / math.sqrt(k)) if group.direction is None else group.direction
    u = np.array(v, dtype=np.float64)
    u /= np.linalg.norm(u, axis=1, keepdims=True)
    u[:, 0] += np.where(u[:, 0] < 0.0, -1.0, 1.0)
    return np.asarray(u / np.linalg.norm(u, axis=1, keepdims=True))


def reflect(u: Array, A: Array) -> Array:
    """Return A with I - 2uuᵀ of each group applied to its rows."""
    blocks = A.reshape(len(u), u.shape[1], -1)
    shares = np.einsum("gk,gkn->gn", u, blocks)
    return np.asarray(blocks - 2.0 * u[:, :, None] * shares[:, None, :]).reshape(A.shape)


def _trim(
    full: Sequence[Array], labels: Sequence[NDArray[np.int64]]
) -> tuple[list[NDArray[np.int64]], list[Array]]:
    """Coordinates of runs that something writes and something reads."""
    keep = [np.ones(len(a), dtype=bool) for a in labels]
    fill = [np.zeros(len(a)) for a in labels]
    floor = [np.abs(W).max(initial=0.0) * _ZERO for W in full]
    changed = True
    while changed:
        changed = False
        for i, label in enumerate(labels):
            k = keep[i]
            reads = full[i] if i + 1 == len(full) else full[i][keep[i + 1]]
            read = np.abs(reads).max(axis=0, initial=0.0) > floor[i]
            written = np.ones(len(k), dtype=bool)
            if i:
                inputs = full[i - 1][:, keep[i - 1]]
                written = np.abs(inputs).max(axis=1, initial=0.0) > floor[i - 1]
            for alive, mark in ((read, -1.0), (written, 1.0)):
                runs = np.bincount(label, alive & k, minlength=label.max(initial=0) + 1) > 0
                gone = k & ~runs[label]
                if (i or labels[0].max(initial=0) > 0) and gone.any():
                    k &= ~gone
                    fill[i][gone] = mark
                    changed = True
    return [np.flatnonzero(k) for k in keep], fill


def expand(chain: TiedChain, logs: Sequence[Array]) -> list[Array]:
    """Return multipliers of the groups, of any scale, from logarithms of the runs' values.

    Parameters
    ----------
    chain : TiedChain
        The network.
    logs : sequence of ndarray of shape (n_runs,)
        Logarithms for layers 0, …, L-1; the first is used for "linf" only.

    Returns
    -------
    list of ndarray
        μ for "linf", then arrays of shape (2, n_groups) with rows λ and γ.
    """
    out = []
    for i, log in enumerate(logs):
        if i == 0 and not chain.linf:
            continue
        top = float(log.max(initial=-np.inf)) if len(log) else 0.0
        shifted = np.exp(log - top)
        low = float(shifted.min(initial=1.0))
        n = int(chain.labels[i].max(initial=0)) + 1 if i == 0 else 2 * len(chain.axes[i - 1])
        signs = np.zeros(n)
        signs[chain.labels[i]] = chain.fill[i]
        size = np.full(n, _FILL)
        if i:  # one part of a group is not written, the other not read
            opposite = signs[::2] * signs[1::2] < 0.0
            size[np.repeat(opposite, 2)] **= 0.5
        values = np.where(signs > 0.0, size, low / size)
        values[chain.labels[i][chain.keep[i]]] = chain.spread(shifted, i)
        if i == 0:
            out.append(values)
            continue
        p, q = values.reshape(-1, 2).T
        group = chain.form.groups[i - 1]
        if group.size == 1:
            out.append(np.array([p, np.zeros_like(p)]))
        elif group.direction is None:
            out.append(np.array([q, (p - q) / group.size]))
        else:
            out.append(np.array([p, q - p]))
    return out


def diagonals(chain: TiedChain, multipliers: Sequence[Array]) -> list[Array]:
    """Return the diagonals of T_0, …, T_{L-1} in the new coordinates, all kept ones or not.

    Parameters
    ----------
    chain : TiedChain
        The network.
    multipliers : sequence of ndarray
        As :func:`expand` returns them.

    Returns
    -------
    list of ndarray of shape (n_i,)
        Diagonals; for "l2" the first is one.
    """
    rest = list(multipliers)
    first = np.asarray(rest.pop(0)) if chain.linf else np.ones(chain.full[0].shape[1])
    out = [first]
    for group, pair, label in zip(chain.form.groups, rest, chain.labels[1:], strict=True):
        lam, gam = np.asarray(pair)
        if group.size == 1:
            p = q = lam
        elif group.direction is None:
            p, q = lam + group.size * gam, lam
        else:
            p, q = lam, lam + gam
        out.append(np.column_stack([p, q]).ravel()[label])
    return out


def upper_bound(
    chain: TiedChain, multipliers: Sequence[Array]
) -> tuple[float, tuple[Array, ...], list[float]]:
    """Return the weighted product of norms for multipliers of any scale.

    Parameters
    ----------
    chain : TiedChain
        The network.
    multipliers : sequence of ndarray
        As :func:`expand` returns them: only the ratios within a layer matter.

    Returns
    -------
    upper : float
        Bound in units of the form; ``inf`` if some multiplier is not positive definite.
    multipliers : tuple of ndarray
        The same, divided by ρ and scaled so that each layer's inequality holds with a margin
        above rounding.
    norms : list of float
        ‖T_i^{1/2} W_i T_{i-1}^{-1/2}‖² of the layers, before scaling.

    Notes
    -----
    Cost: one product and one eigenvalue of the order of the smaller side of each layer.
    """
    bad: tuple[float, tuple[Array, ...], list[float]] = (math.inf, (), [])
    given = [np.asarray(a, dtype=np.float64) for a in multipliers]
    if chain.linf:
        total = float(given[0].sum())
        if not (math.isfinite(total) and total > 0.0):
            return bad
        given[0] = given[0] / total
    T = diagonals(chain, given)
    if not all(np.all(np.isfinite(t)) and np.all(t > 0.0) for t in T):
        return bad
    log, scaled, norms = 0.0, given[:1] if chain.linf else [], []
    for i, W in enumerate(chain.full):
        B = W / np.sqrt(T[i])
        if i + 1 < chain.depth:
            B *= np.sqrt(T[i + 1])[:, None]
        norm = largest(B @ B.T if B.shape[0] <= B.shape[1] else B.T @ B)
        norm *= 1.0 + 1e-12 + 4.0 * UNIT * W.shape[1] ** 2
        if not math.isfinite(norm):
            return bad
        norm = max(norm, 1e-300)
        norms.append(norm)
        log += math.log(norm)
        if i + 1 < chain.depth:
            with np.errstate(over="ignore", under="ignore"):
                scaled.append(given[i + int(chain.linf)] * math.exp(min(-log, 700.0)))
    return math.exp(0.5 * min(log, 1400.0)), tuple(scaled), norms


def largest(A: Array) -> float:
    """Return the largest eigenvalue of a symmetric matrix, ``inf`` if LAPACK fails."""
    if len(A) == 0:
        return 0.0
    if not np.all(np.isfinite(A)):
        return math.inf
    try:
        return float(la.eigvalsh(A, check_finite=False, driver="ev")[-1])
    except la.LinAlgError:
        return float(np.linalg.norm(A))


def lower_bound(chain: TiedChain, X: Sequence[Array]) -> tuple[float, list[Array]]:
    """Return the value of a dual point after scaling it to feasibility, in closed form.

    Runs of each layer in turn are multiplied by the factor with which their constraint holds
    with equality; X_i becomes D X_i D with a diagonal D, so it stays positive semidefinite.

    Parameters
    ----------
    chain : TiedChain
        The network.
    X : sequence of ndarray of shape (n_{i-1}, n_{i-1})
        Positive semidefinite blocks in the kept coordinates, of any scale.

    Returns
    -------
    lower : float
        Lower bound on the best bound that multipliers can give, in units of the form.
    scales : list of ndarray of shape (n_{i-1},)
        The diagonals D, up to a factor for each layer; empty if there is no bound.
    """
    log, scales = 0.0, []
    target = np.ones(len(chain.starts[0]))
    for i, W in enumerate(chain.weights):
        now = chain.total(np.diagonal(X[i]), i)
        if not (np.all(np.isfinite(now)) and np.all(now > 0.0) and np.all(np.isfinite(target))):
            return 0.0, []
        D = np.sqrt(chain.spread(target / now, i))
        scales.append(D)
        V = W * D
        image = np.maximum(np.einsum("ij,ij->i", V @ X[i], V), 0.0)
        total = float(image.sum())
        if not (math.isfinite(total) and total > 0.0):
            return 0.0, []
        log += math.log(total)
        target = image / total if i + 1 == chain.depth else chain.total(image, i + 1) / total
    return math.exp(0.5 * log) * (1.0 - 1e-14), scales


def proof_dual(chain: TiedChain, X: Sequence[Array], scales: Sequence[Array]) -> tuple[Array, ...]:
    """Return a scaled dual point in the form's own coordinates, each block of trace one."""
    out = []
    for i, (block, D) in enumerate(zip(X, scales, strict=True)):
        n = chain.full[i].shape[1]
        Y = block * D[:, None] * D
        if len(Y) < n:
            wide = np.zeros((n, n))
            wide[np.ix_(chain.keep[i], chain.keep[i])] = Y
            Y = wide
        if i:
            Y = reflect(chain.axes[i - 1], reflect(chain.axes[i - 1], Y).T)
        out.append((Y + Y.T) / (2.0 * np.trace(Y)))
    return tuple(out)


def tied_dual(chain: TiedChain, dual: Sequence[Array]) -> list[Array]:
    """Return a dual point, given in the form's own coordinates, in the kept new ones."""
    out = []
    for i, block in enumerate(dual):
        Y = np.array(block, dtype=np.float64)
        if i:
            Y = reflect(chain.axes[i - 1], reflect(chain.axes[i - 1], Y).T)
        out.append(Y[np.ix_(chain.keep[i], chain.keep[i])])
    return out


def tied_logs(chain: TiedChain, multipliers: Sequence[Array]) -> list[Array]:
    """Return logarithms of the runs' values of given multipliers; the inverse of `expand`."""
    out = []
    for i, t in enumerate(diagonals(chain, multipliers)):
        kept = t[chain.keep[i]][chain.starts[i]]
        top = float(kept.max(initial=0.0))
        safe = np.maximum(kept, top * 1e-100) if top > 0.0 else np.ones_like(kept)
        out.append(np.log(safe))
    return out
