"""Nutini, Laradji and Schmidt: which block to choose, and what to do with it.

The data follow the recipes of the published experiments: regressions with sparse designs whose
columns have very different scales, a multi-class problem, and two label-propagation problems. The
least-squares data themselves were not distributed; the law is, so rules are compared with each
other. Bands are the paper's statements about which is ahead, and closed forms.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

from lowrank_opt.block_coordinate import GLMProblem, QuadraticProblem

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["lattice", "regression_design", "two_moons"]

REFERENCE = (
    "J. Nutini, I. Laradji, M. Schmidt, “Let's Make Block Coordinate Descent Converge Faster”, "
    "JMLR 23(131), 2022, arXiv:1712.08859"
)


def regression_design(n: int, p: int, rng: np.random.Generator) -> sp.csc_array:
    """Draw a sparse design: normal entries around 1, columns of normal scales times 10."""
    keep = rng.random((n, p)) < min(1.0, 10.0 * math.log(n) / n)
    values = (rng.standard_normal((n, p)) + 1.0) * (10.0 * rng.standard_normal(p))
    return sp.csc_array(np.where(keep, values, 0.0))


def least_squares(n: int, p: int, seed: Any) -> GLMProblem:
    """Data set A: a tenth of the coefficients, noise of variance 1."""
    rng = np.random.default_rng(seed)
    X = regression_design(n, p, rng)
    w = rng.standard_normal(p) * (rng.random(p) < 0.1)
    return GLMProblem(X, X @ w + rng.standard_normal(n))


def logistic(n: int, p: int, seed: Any) -> GLMProblem:
    """Data set B: signs of such a regression, a tenth of them wrong."""
    rng = np.random.default_rng(seed)
    X = regression_design(n, p, rng)
    w = rng.standard_normal(p) * (rng.random(p) < 0.1)
    y = np.where(X @ w >= 0, 1.0, -1.0) * np.where(rng.random(n) < 0.1, -1.0, 1.0)
    return GLMProblem(X, y, "logistic")


def softmax(n: int, p: int, classes: int, seed: Any) -> GLMProblem:
    """Data set C: the class with the largest noisy score."""
    rng = np.random.default_rng(seed)
    X = regression_design(n, p, rng)
    scores = X @ rng.standard_normal((p, classes)) + rng.standard_normal((n, classes))
    return GLMProblem(X, np.unique(scores.argmax(axis=1), return_inverse=True)[1], "softmax")


def propagation(W: Any, labelled: NDArray[Any], labels: NDArray[Any]) -> QuadraticProblem:
    """Harmonic labels of the other nodes: ``1/2 sum w_ij (y_i - y_j)^2``, each pair once."""
    W = sp.csr_array(W)
    rest = np.setdiff1d(np.arange(W.shape[0]), labelled)
    laplacian = sp.csr_array(sp.diags_array(W.sum(axis=1)) - W)
    return QuadraticProblem(laplacian[rest][:, rest], W[rest][:, labelled] @ labels)


def grid(side: int) -> sp.csr_array:
    """Adjacency of a lattice; node i is in row ``i % side`` and column ``i // side``."""
    path = sp.diags_array([np.ones(side - 1)] * 2, offsets=[1, -1])
    eye = sp.eye_array(side)
    return sp.csr_array(sp.kron(eye, path) + sp.kron(path, eye))


def lattice(side: int, n_labelled: int, seed: int = 1) -> QuadraticProblem:
    """Data set D: weights of 1e5 on a lattice, some nodes with labels of deviation 10.

    With ``seed=1`` NumPy's legacy generator draws the published nodes and labels.
    """
    state = np.random.RandomState(seed)
    labelled = state.choice(side * side, n_labelled, replace=False)
    labels = state.randn(n_labelled) * 10.0
    return propagation(1e5 * grid(side), labelled, labels)


def two_moons(n: int, n_labelled: int, seed: Any) -> QuadraticProblem:
    """Data set E: two half circles, each point joined to its five nearest neighbours."""
    from scipy.spatial import cKDTree

    rng = np.random.default_rng(seed)
    half = n // 2
    angle = math.pi * rng.random(n)
    upper = np.arange(n) < half
    points = np.where(
        upper[:, None],
        np.column_stack([np.cos(angle), np.sin(angle)]),
        np.column_stack([1.0 - np.cos(angle), 0.5 - np.sin(angle)]),
    )
    points += 0.1 * rng.standard_normal((n, 2))
    _, near = cKDTree(points).query(points, 6)
    rows = np.repeat(np.arange(n), 5)
    W = sp.csr_array((np.ones(5 * n), (rows, near[:, 1:].ravel())), shape=(n, n))
    W = sp.csr_array(W.maximum(W.T))
    W = _joined(W, points)
    labelled = rng.choice(n, n_labelled, replace=False)
    return propagation(W, labelled, np.where(labelled < half, 1.0, -1.0))


def _joined(W: sp.csr_array, points: NDArray[Any]) -> sp.csr_array:
    """Join the components of a graph by their closest points, so that labels reach every node."""
    from scipy.sparse.csgraph import connected_components
    from scipy.spatial import cKDTree

    while True:
        count, part = connected_components(W, directed=False)
        if count == 1:
            return W
        inside = np.flatnonzero(part == 0)
        outside = np.flatnonzero(part != 0)
        distance, near = cKDTree(points[inside]).query(points[outside])
        i = int(np.argmin(distance))
        a, b = outside[i], inside[near[i]]
        W = sp.csr_array(W + sp.csr_array(([1.0, 1.0], ([a, b], [b, a])), shape=W.shape))
