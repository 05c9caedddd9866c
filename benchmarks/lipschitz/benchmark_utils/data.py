"""Networks to bound, and the functions that grade all answers; no line of a solver.

A bound counts with the multipliers that prove it: `upper` computes the smallest bound that
multipliers prove by a recursion over the layers, `lower` what a dual point proves, both in
float64 with tests that allow for rounding.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import linalg

__all__ = [
    "DESCRIPTIONS",
    "TINY",
    "Case",
    "case",
    "fast",
    "group_upper",
    "lower",
    "mixed",
    "parse",
    "prepare",
    "upper",
]

DESCRIPTIONS = {
    "digits *widths*": (
        "ReLU networks trained by scikit-learn on its digits; inputs 784: digits up-sampled to "
        "28 × 28 by linear interpolation, not MNIST"
    ),
    "gauss *depth*x*width*": (
        "4 inputs, 1 output, *depth* matrices of independent normal entries with variance 1/n_in; "
        "ReLU. With other widths written out: *gauss widths*"
    ),
    "uniform *widths*": "entries uniform in [0, 1) over the root of the number of matrices; ReLU",
    "grid *depth*x*width*": (
        "the random networks of Xu and Sivaranjani, their seeds; 4 inputs, 1 output, ReLU"
    ),
    "maxmin *depth*x*width*": (
        "MaxMin networks trained in NumPy on scikit-learn's digits, 64 inputs, 10 outputs; width "
        "128 is trained when the benchmark runs. *linf*: output 8, inputs measured by their "
        "largest entry"
    ),
    "published *depth*x*width*": (
        "MaxMin networks of Pauli et al. on MNIST, 784 inputs, from the folder LOWRANK_OPT_DATA or "
        "downloaded"
    ),
}
# A small case of every kind, to check the harness and to load libraries.
TINY = {
    "digits": "digits 64-32-10",
    "gauss": "gauss 3x10",
    "uniform": "uniform 2-4-4-2",
    "grid": "grid 3x10",
    "maxmin": "maxmin 2x16",
    "published": "maxmin 2x16",
}


@dataclass(frozen=True)
class Case:
    """A network and the norm of its bound.

    `weights` are those of the network; `prepared` the same for the norm l2 with layers divided by
    their norms and wide inputs compressed by a QR factorisation, which changes a bound by `scale`
    only. All systems but ours get `prepared`; ours gets `weights`.
    """

    name: str
    weights: list[np.ndarray]
    activation: str = "relu"
    norm: str = "l2"

    @property
    def output(self):
        return 8 if self.norm == "linf" else None

    def prepared(self) -> tuple[list[np.ndarray], float]:
        return prepare(self.weights, compress=self.norm == "l2")


def prepare(weights, compress=True):
    """Layers over their norms, and the first without the inputs that it does not see."""
    weights = [np.asarray(W, dtype=np.float64) for W in weights]
    if compress and weights[0].shape[1] > weights[0].shape[0]:
        weights[0] = np.ascontiguousarray(np.linalg.qr(weights[0].T, mode="r").T)
    norms = [np.linalg.norm(W, 2) for W in weights]
    return [W / s for W, s in zip(weights, norms, strict=True)], float(np.prod(norms))


_SIZE = re.compile(r"(\d+)x(\d+)")


def parse(name: str) -> tuple[str, tuple[int, ...], str, int]:
    """Kind, widths, norm and seed of a case such as ``"gauss 10x40 linf, seed 2"``."""
    text, _, seed = name.partition(", seed ")
    kind, _, rest = text.partition(" ")
    size, _, norm = rest.partition(" ")
    if kind not in TINY or norm not in ("", "l2", "linf"):
        raise KeyError(name)
    found = _SIZE.fullmatch(size)
    if found:
        depth, width = int(found[1]), int(found[2])
        ends = {"maxmin": (64, 10), "published": (784, 10)}.get(kind, (4, 1))
        widths = (ends[0], *[width] * (depth - 1), ends[1])
    else:
        widths = tuple(int(n) for n in size.split("-"))
    return kind, widths, norm or "l2", int(seed or 0)


@lru_cache(maxsize=4)
def case(name: str) -> Case:
    """Make or load a case."""
    from lowrank_opt import datasets

    kind, widths, norm, seed = parse(name)
    depth = len(widths) - 1
    if kind == "digits":
        weights = list(datasets.load_digits_network(widths, seed=seed).weights)
    elif kind == "gauss":
        weights = datasets.make_gaussian_network(widths, random_state=seed)
    elif kind == "uniform":
        weights = datasets.make_uniform_network(widths, random_state=seed)
    elif kind == "grid":
        weights = datasets.make_eclipse_network(depth, widths[1])
    elif kind == "published":
        weights = list(datasets.fetch_maxmin_network(depth, widths[1]).weights)
    elif widths[1] <= 32:
        weights = list(datasets.load_digits_network(widths, activation="maxmin").weights)
    else:
        from lowrank_opt.datasets._train_networks import train_maxmin

        weights = train_maxmin(widths, seed, epochs=20)[0]
    activation = "maxmin" if kind in ("maxmin", "published") else "relu"
    return Case(name, weights, activation, norm)


# -- grading: ReLU, l2 ----------------------------------------------------------------------------


def _factor(M):
    """Cholesky factor of a matrix that is positive definite in spite of rounding, or None.

    Rows and columns are scaled to a unit diagonal before a shift by the error of the factorisation.
    """
    n = len(M)
    d = np.sqrt(np.abs(np.diag(M)))
    if not np.all(d > 0):
        return None
    shift = (n + 2) * np.finfo(float).eps * n
    try:
        return d[:, None] * linalg.cholesky(M / d / d[:, None] - shift * np.eye(n), lower=True)
    except linalg.LinAlgError:
        return None


def upper(weights, multipliers) -> float:
    """The smallest bound that multipliers (divided by the squared bound) prove; inf: none."""
    if len(weights) == 1:
        return float(np.linalg.norm(weights[0], 2)) * (1 + 1e-10)
    Y = weights[0] @ weights[0].T
    for W, t in zip(weights[1:], multipliers, strict=True):
        t = np.asarray(t)
        if not np.all(np.isfinite(t)) or np.any(t < 0):
            return np.inf
        factor = _factor(2.0 * np.diag(t) - t[:, None] * Y * t)
        if factor is None:
            return np.inf
        V = linalg.solve_triangular(factor, W.T, lower=True)
        Y = V.T @ V
    return float(np.sqrt(np.linalg.eigvalsh(Y)[-1])) * (1 + 1e-10)


def fast(weights) -> list[np.ndarray]:
    """Multipliers of the closed form of Xu and Sivaranjani."""
    found = []
    Y = weights[0] @ weights[0].T
    for W in weights[1:]:
        t = np.full(len(Y), 1.0 / np.linalg.eigvalsh(Y)[-1])
        found.append(t)
        V = linalg.solve_triangular(
            linalg.cholesky(2.0 * np.diag(t) - t[:, None] * Y * t, lower=True), W.T, lower=True
        )
        Y = V.T @ V
    return found


def mixed(weights, multipliers) -> float:
    """The best bound on the way from multipliers to those of the closed form.

    Solvers stop a little outside of what they must satisfy; a little of the closed form repairs it.
    """
    safe = fast(weights)
    best = np.inf
    for t in (0.0, *(10.0**-k for k in range(12, -1, -1))):
        point = [(1 - t) * a + t * b for a, b in zip(multipliers, safe, strict=True)]
        found = upper(weights, point)
        if found > best:
            break
        best = found
    return best


def lower(weights, dual) -> float:
    """What a dual point proves about the best multipliers: no bound of them is smaller.

    `dual` has the blocks X_00, X_11, ..., then X_01, X_12, ...; they are shifted until they are
    positive definite on neighbouring layers, then scaled by rows so that the constraints hold.
    """
    n = len(weights) - 1
    diagonal = [0.5 * (X + X.T) for X in dual[: n + 1]]
    beside = list(dual[n + 1 :])
    for k in range(n):
        clique = np.block([[diagonal[k], beside[k]], [beside[k].T, diagonal[k + 1]]])
        low = np.linalg.eigvalsh(clique)[0] - 1e-14 * np.trace(clique)
        if low < 0:
            for j in (k, k + 1):
                diagonal[j] = diagonal[j] - low * np.eye(len(diagonal[j]))
    D = np.full(len(diagonal[0]), 1.0 / np.sqrt(np.trace(diagonal[0])))
    for k in range(n):
        q = np.einsum("jk,k,kj->j", weights[k], D, beside[k])
        D = np.maximum(q / np.diag(diagonal[k + 1]), 0.0)
    V = weights[-1] * D
    return float(np.sqrt(max(np.trace(V @ diagonal[-1] @ V.T), 0.0))) * (1 - 1e-10)


# -- grading: MaxMin ------------------------------------------------------------------------------


def group_upper(weights, multipliers, norm="l2", mu=None) -> float:
    """The bound of T_i = diag(lam) + gam E on pairs, as the weighted product of norms; inf: none.

    `multipliers` has (lam, gam) for each hidden layer; any with lam > 0 and lam + 2 gam > 0 will
    do. For "linf" the first layer is weighted by `mu`.
    """
    weights = list(weights)
    if norm == "linf":
        if mu is None or np.any(mu <= 0):
            return np.inf
        weights[0] = weights[0] / np.sqrt(mu)
    right = None  # what the layer is multiplied by from the right: T_{i-1}^{-1/2}
    product = 1.0
    for k, W in enumerate(weights):
        V = W if right is None else W @ right
        if k < len(weights) - 1:
            lam, gam = multipliers[k]
            if np.any(lam <= 0) or np.any(lam + 2 * gam <= 0):
                return np.inf
            V = _on_pairs(np.sqrt(lam), np.sqrt(lam + 2 * gam)) @ V
            right = _on_pairs(1 / np.sqrt(lam), 1 / np.sqrt(lam + 2 * gam))
        product *= np.linalg.norm(V, 2) * (1 + 1e-12)
    # linf: |x|_mu <= sqrt(sum mu) |x|_inf
    return float(product * (np.sqrt(np.sum(mu)) if norm == "linf" else 1.0)) * (1 + 1e-10)


def _on_pairs(a, b):
    """The matrix with eigenvalue a on (1, -1) and b on (1, 1) of each pair."""
    out = np.zeros((2 * len(a), 2 * len(a)))
    i = np.arange(len(a))
    for r in (0, 1):
        out[2 * i + r, 2 * i + r] = 0.5 * (a + b)
        out[2 * i + r, 2 * i + 1 - r] = 0.5 * (b - a)
    return out
