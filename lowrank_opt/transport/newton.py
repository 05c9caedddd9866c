"""Newton systems of the proximal subproblem: weighted Laplacians of the graph of rows.

Minus the second derivative of the dual objective is ``mu`` times a Laplacian: two rows are
connected when they share a column of the plan, with positive weights. It is singular on every
connected component.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.linalg as sla
import scipy.sparse as sp
import scipy.sparse.linalg as spla
from numba import njit

__all__ = ["Laplacian", "reference_laplacian"]

# Conjugate gradients with at most so many products are tried first; then a factorisation, a dense
# one from this share of (repeated) nonzeros on, up to a size, or for small systems.
_PRODUCTS = 500
_DENSE, _LARGEST_DENSE = 0.05, 10_000
_SMALL = 64


@njit(cache=True, error_model="numpy", nogil=True)
def _weights(h, length, k, rho):
    """Weights between two large, a large and a middle, two middle entries of a column."""
    middle = length - h
    large = 1.0 / (1.0 + rho)
    if middle == 0:
        return large / max(h, 1), 0.0, 0.0
    kappa = rho / (k - h + rho * middle)
    small = (k - h) / (k - h + rho * middle)
    sigma = h * large + middle * small
    return large * large / sigma, large * small / sigma, kappa + small * small / sigma


@njit(cache=True, error_model="numpy", nogil=True)
def _transpose(ptr, idx, m):
    """Entries of every row, and the column of every entry.

    Cost: two passes over the entries.
    """
    row_ptr = np.zeros(m + 1, np.int64)
    for e in range(idx.size):
        row_ptr[idx[e] + 1] += 1
    for i in range(m):
        row_ptr[i + 1] += row_ptr[i]
    fill = row_ptr[:-1].copy()
    entries, owner = np.empty(idx.size, np.int64), np.empty(idx.size, np.int64)
    for j in range(ptr.size - 1):
        for e in range(ptr[j], ptr[j + 1]):
            entries[fill[idx[e]]] = e
            fill[idx[e]] += 1
            owner[e] = j
    return row_ptr, entries, owner


@njit(cache=True, error_model="numpy", nogil=True)
def _sparse_laplacian(ptr, idx, heads, k, rho, m):
    """Laplacian by columns: diagonal first, then the neighbours as they are met.

    Cost: the sum of squared lengths of the columns.
    """
    row_ptr, entries, owner = _transpose(ptr, idx, m)
    room = m
    for j in range(ptr.size - 1):
        p = ptr[j + 1] - ptr[j]
        room += p * (p - 1)
    indptr = np.zeros(m + 1, np.int32)
    indices, data = np.empty(room, np.int32), np.empty(room)
    place = np.full(m, -1, np.int64)
    end = 0
    for i in range(m):
        start = end
        indices[end], data[end] = i, 0.0
        end += 1
        for r in range(row_ptr[i], row_ptr[i + 1]):
            e = entries[r]
            j = owner[e]
            h = heads[j]
            split = ptr[j] + h
            both, mixed, middle = _weights(h, ptr[j + 1] - ptr[j], k, rho)
            to_large, to_middle = (both, mixed) if e < split else (mixed, middle)
            for f in range(ptr[j], ptr[j + 1]):
                if f == e:
                    continue
                weight = to_large if f < split else to_middle
                other = idx[f]
                if place[other] < start:
                    place[other] = end
                    indices[end], data[end] = other, 0.0
                    end += 1
                data[place[other]] -= weight
                data[start] += weight
        indptr[i + 1] = end
    return indptr, indices[:end].copy(), data[:end].copy()


@njit(cache=True, error_model="numpy", nogil=True)
def _dense_laplacian(ptr, idx, heads, k, rho, out):
    """Add the Laplacian to `out`.

    Cost: the sum of squared lengths of the columns.
    """
    for j in range(ptr.size - 1):
        h = heads[j]
        split = ptr[j] + h
        both, mixed, middle = _weights(h, ptr[j + 1] - ptr[j], k, rho)
        for e in range(ptr[j], ptr[j + 1]):
            to_large, to_middle = (both, mixed) if e < split else (mixed, middle)
            total = 0.0
            row = out[idx[e]]
            for f in range(ptr[j], ptr[j + 1]):
                weight = to_large if f < split else to_middle
                if f != e:
                    row[idx[f]] -= weight
                    total += weight
            row[idx[e]] += total


@njit(cache=True, error_model="numpy", nogil=True)
def _components(ptr, idx, m):
    """Label of the component of every row: rows that share a column are connected.

    Cost: one pass over the entries, nearly.
    """
    parent = np.arange(m)
    for j in range(ptr.size - 1):
        if ptr[j + 1] <= ptr[j]:
            continue
        root = idx[ptr[j]]
        while parent[root] != root:
            parent[root] = parent[parent[root]]
            root = parent[root]
        for e in range(ptr[j] + 1, ptr[j + 1]):
            other = idx[e]
            while parent[other] != other:
                parent[other] = parent[parent[other]]
                other = parent[other]
            if other < root:
                parent[root] = other
                root = other
            else:
                parent[other] = root
    for i in range(m):
        parent[i] = parent[parent[i]]  # parents have lower labels
    return parent


@njit(cache=True, error_model="numpy", nogil=True)
def _apply(ptr, idx, heads, k, rho, x, out):
    """Add the Laplacian times `x` to `out`, column by column.

    Cost: two passes over the entries.
    """
    for j in range(ptr.size - 1):
        h = heads[j]
        split, end = ptr[j] + h, ptr[j + 1]
        both, mixed, middle = _weights(h, end - ptr[j], k, rho)
        first, second = 0.0, 0.0
        for e in range(ptr[j], split):
            first += x[idx[e]]
        for e in range(split, end):
            second += x[idx[e]]
        count = end - split
        for e in range(ptr[j], split):
            i = idx[e]
            out[i] += (both * h + mixed * count) * x[i] - both * first - mixed * second
        for e in range(split, end):
            i = idx[e]
            out[i] += (mixed * h + middle * count) * x[i] - mixed * first - middle * second


@njit(cache=True, error_model="numpy", nogil=True)
def _conjugate_gradients(ptr, idx, heads, k, rho, diagonal, rhs, tol, limit):
    """Solve with the Laplacian plus a diagonal; returns the solution and whether it is one.

    Cost: `limit` products at most.
    """
    m = rhs.size
    inverse = diagonal.copy()
    for j in range(ptr.size - 1):
        h = heads[j]
        split, end = ptr[j] + h, ptr[j + 1]
        both, mixed, middle = _weights(h, end - ptr[j], k, rho)
        for e in range(ptr[j], end):
            near, far, other = (h, end - split, both) if e < split else (end - split, h, middle)
            inverse[idx[e]] += (near - 1) * other + far * mixed
    x, r = np.zeros(m), rhs.copy()
    z, p, Ap = np.empty(m), np.empty(m), np.empty(m)
    product, start = 0.0, 0.0
    for i in range(m):
        inverse[i] = 1.0 / inverse[i]
        p[i] = inverse[i] * r[i]
        product += p[i] * r[i]
    start = product
    for _ in range(limit):
        if not product > tol * tol * start:
            return x, True
        for i in range(m):
            Ap[i] = diagonal[i] * p[i]
        _apply(ptr, idx, heads, k, rho, p, Ap)
        bent = 0.0
        for i in range(m):
            bent += p[i] * Ap[i]
        step = product / bent
        before, product = product, 0.0
        for i in range(m):
            x[i] += step * p[i]
            r[i] -= step * Ap[i]
            z[i] = inverse[i] * r[i]
            product += z[i] * r[i]
        for i in range(m):
            p[i] = z[i] + (product / before) * p[i]
    return x, False


class Laplacian:
    """A weighted Laplacian of the rows.

    Parameters
    ----------
    support : tuple of ndarray
        ``(indptr, indices, values, heads)``, see :class:`~.proximal.Proximal`.
    k : int
        Cap.
    rho : float
        ``mu * gamma``.
    m : int
        Number of rows.

    Attributes
    ----------
    labels : ndarray of int64, of shape (m,)
        A representative row of the component of every row.
    level : float
        Mean of the undivided diagonal: what multiples of the identity are relative to.
    factorizations : int
        How often it was factorised.
    dense_up_to : int
        Up to which size as a dense matrix.
    """

    def __init__(self, support: tuple[Any, Any, Any, Any], k: int, rho: float, m: int) -> None:
        ptr, idx, _, heads = support
        lengths = np.diff(ptr)
        self.entries = (ptr, idx, heads, k, rho)
        self.m = m
        middle = float(np.sum(lengths - heads))
        self.level = (float(np.sum(heads)) / (1.0 + rho) + middle) / m
        self.labels = _components(ptr, idx, m)
        full = float(np.sum(lengths.astype(np.float64) ** 2)) > _DENSE * m * m
        self.matrix: Any = None
        self.places: Any = None
        self.factorizations = 0
        self.dense_up_to = _LARGEST_DENSE if full else _SMALL

    def solve(self, diagonal: Any, rhs: Any, accuracy: float = 0.0) -> Any:
        """Solve with a positive diagonal added.

        Parameters
        ----------
        diagonal : ndarray of shape (m,)
            Added to the Laplacian.
        rhs : ndarray of shape (m,)
            Right-hand side.
        accuracy : float, default=0.0
            Relative residual that is enough; 0: factorise.

        Returns
        -------
        ndarray of shape (m,)
            Solution.
        """
        if accuracy > 0:
            x, done = _conjugate_gradients(*self.entries, diagonal, rhs, accuracy, _PRODUCTS)
            if done:
                return x
        self.factorizations += 1
        if self.m <= self.dense_up_to:
            return self._dense(diagonal, rhs)
        if self.matrix is None:
            m, (ptr, idx, heads, k, rho) = self.m, self.entries
            indptr, indices, data = _sparse_laplacian(ptr, idx, heads, k, rho, m)
            self.matrix = sp.csc_matrix((data, indices, indptr), shape=(m, m))
            self.matrix.sort_indices()
            owner = np.repeat(np.arange(m), np.diff(indptr))
            self.places = np.flatnonzero(self.matrix.indices == owner)
        data = self.matrix.data.copy()
        data[self.places] += diagonal
        shifted = sp.csc_matrix(
            (data, self.matrix.indices, self.matrix.indptr), shape=self.matrix.shape
        )
        factor = spla.splu(
            shifted, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0,
            options={"SymmetricMode": True},
        )  # fmt: skip
        return factor.solve(rhs)

    def _dense(self, diagonal: Any, rhs: Any) -> Any:
        if self.matrix is None:
            self.matrix = np.zeros((self.m, self.m))
            _dense_laplacian(*self.entries, self.matrix)
        shifted = self.matrix.copy()
        shifted.flat[:: self.m + 1] += diagonal
        factor = sla.cho_factor(shifted, lower=True, overwrite_a=True, check_finite=False)
        return sla.cho_solve(factor, rhs, check_finite=False)


def reference_laplacian(support: tuple[Any, Any, Any, Any], k: int, rho: float, m: int) -> Any:
    """Return the Laplacian by the formula for the derivative of the prox, as a dense matrix.

    Parameters
    ----------
    support, k, rho, m
        See :class:`Laplacian`.

    Returns
    -------
    ndarray of shape (m, m)
        Sum of the derivatives of the columns' solutions by the potentials, over ``mu``.
    """
    out = np.zeros((m, m))
    ptr, idx, _, heads = support
    for j in range(len(ptr) - 1):
        rows, h = idx[ptr[j] : ptr[j + 1]], heads[j]
        large = (np.arange(len(rows)) < h).astype(float)
        middle = 1.0 - large
        count = middle.sum()
        kappa = rho / (k - h + rho * count) if count else 0.0
        g = (1.0 - kappa * count) * middle + large / (1.0 + rho)
        J = np.diag(middle + large / (1.0 + rho)) - kappa * np.outer(middle, middle)
        out[np.ix_(rows, rows)] += J - np.outer(g, g) / g.sum()
    return out
