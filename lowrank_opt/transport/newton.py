"""Newton systems of the proximal subproblem: weighted Laplacians of the graph of rows.

Minus the second derivative of the dual objective is ``mu`` times a Laplacian: two rows are
connected when they share a column of the plan, with positive weights. It is singular on every
connected component.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import scipy.linalg as sla
import scipy.sparse as sp
import scipy.sparse.linalg as spla
from numba import njit

__all__ = ["Laplacian", "laplacian", "reference_laplacian"]

# Dense factorisations from this share of nonzeros on.
_DENSE = 0.1


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


class Laplacian(NamedTuple):
    """A weighted Laplacian of the rows.

    Parameters
    ----------
    matrix : csc_matrix or ndarray
        The Laplacian itself, sparse or dense.
    places : ndarray or None
        Where the diagonal is in the data of a sparse matrix.
    labels : ndarray of int64, of shape (m,)
        A representative row of the component of every row.
    level : float
        Mean of the undivided diagonal: what multiples of the identity are relative to.
    """

    matrix: Any
    places: Any
    labels: Any
    level: float

    def solve(self, diagonal: Any, rhs: Any) -> Any:
        """Solve with a positive diagonal added.

        Parameters
        ----------
        diagonal : ndarray of shape (m,)
            Added to the Laplacian.
        rhs : ndarray of shape (m,)
            Right-hand side.

        Returns
        -------
        ndarray of shape (m,)
            Solution.
        """
        if isinstance(self.matrix, np.ndarray):
            shifted = self.matrix.copy()
            shifted.flat[:: len(rhs) + 1] += diagonal
            factor = sla.cho_factor(shifted, lower=True, overwrite_a=True, check_finite=False)
            return sla.cho_solve(factor, rhs, check_finite=False)
        data = self.matrix.data.copy()
        data[self.places] += diagonal
        shifted = sp.csc_matrix(
            (data, self.matrix.indices, self.matrix.indptr), shape=self.matrix.shape
        )
        factor = spla.splu(
            shifted, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0,
            options={"SymmetricMode": True, "Equil": False},
        )  # fmt: skip
        return factor.solve(rhs)


def laplacian(support: tuple[Any, Any, Any, Any], k: int, rho: float, m: int) -> Laplacian:
    """Return the Laplacian of a solution of the proximal problem.

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

    Returns
    -------
    Laplacian
        The matrix and its components.
    """
    ptr, idx, _, heads = support
    lengths = np.diff(ptr)
    many = float(np.sum(lengths.astype(np.float64) ** 2))
    level = (float(np.sum(heads)) / (1.0 + rho) + float(np.sum(lengths - heads))) / m
    if (many > _DENSE * m * m and m <= 20_000) or m < 64:
        matrix: Any = np.zeros((m, m))
        places = None
        _dense_laplacian(ptr, idx, heads, k, rho, matrix)
    else:
        indptr, indices, data = _sparse_laplacian(ptr, idx, heads, k, rho, m)
        matrix = sp.csc_matrix((data, indices, indptr), shape=(m, m))
        matrix.sort_indices()
        places = np.flatnonzero(matrix.indices == np.repeat(np.arange(m), np.diff(indptr)))
    return Laplacian(matrix, places, _components(ptr, idx, m), level)


def reference_laplacian(support: tuple[Any, Any, Any, Any], k: int, rho: float, m: int) -> Any:
    """Return the Laplacian by the formula for the derivative of the prox, as a dense matrix.

    Parameters
    ----------
    support, k, rho, m
        See :func:`laplacian`.

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
