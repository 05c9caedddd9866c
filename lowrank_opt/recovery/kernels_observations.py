"""Compiled loops of `Observations` (counting sorts) and of the oracles of `MatrixCompletion`.

The oracle loops here are deliberately plain and accumulate in float64: they grade the solvers, so
they share no code with the solvers' kernels. "No weights" and "no biases" are arrays of length 0,
which keeps one compiled version per dtype.
"""

from __future__ import annotations

import numpy as np
from numba import njit

_FAST = {"reassoc", "contract", "arcp"}


@njit(cache=True, error_model="numpy")
def count_entries(cols, weights, counts):
    """Add to ``counts[j + 1]`` the number of entries of column j with a non-zero weight.

    `cols` (chunk,) int64; `weights` (chunk,) or (0,); `counts` (n_cols + 1,) int64.

    Cost: one pass, n random increments.
    """
    for p in range(cols.size):
        if weights.size == 0 or weights[p] != 0.0:
            counts[cols[p] + 1] += 1


@njit(cache=True, error_model="numpy")
def scatter_by_column(
    rows, cols, values, weights, start, position, out_rows, out_values, out_weights
):
    """Place a chunk of entries in their columns, in the order they come.

    `rows`, `cols` (chunk,) int64; `start`, `position` (n_cols + 1,) int64: first and next free slot
    of each column; `out_rows`, `out_values`, `out_weights` (nnz,), the last may be (0,). Returns
    whether the rows inside every touched column are strictly ascending.

    Cost: one pass, one random write per array and entry.
    """
    ascending = True
    for p in range(cols.size):
        if weights.size and weights[p] == 0.0:
            continue
        j = cols[p]
        q = position[j]
        position[j] = q + 1
        if q > start[j] and out_rows[q - 1] >= rows[p]:
            ascending = False
        out_rows[q] = rows[p]
        out_values[q] = values[p]
        if weights.size:
            out_weights[q] = weights[p]
    return ascending


@njit(cache=True, error_model="numpy")
def transpose(indptr, indices, values, weights, out_indptr, out_indices, out_values, out_weights):
    """Compressed columns to compressed rows (or the reverse) by a counting sort.

    The indices inside a row come out sorted, equal ones in the order of the input. Sizes of the
    inputs: (n + 1,), (nnz,), (nnz,), (nnz,) or (0,); of the outputs (m + 1,), (nnz,), .... Returns
    the number of repeated pairs and the row and column of the first one found.

    Cost: two passes, one random write per array and entry.
    """
    out_indptr[:] = 0
    for p in range(indices.size):
        out_indptr[indices[p] + 1] += 1
    for i in range(out_indptr.size - 1):
        out_indptr[i + 1] += out_indptr[i]
    position = out_indptr.copy()
    repeated = 0
    first_row = -1
    first_col = -1
    for j in range(indptr.size - 1):
        for p in range(indptr[j], indptr[j + 1]):
            i = indices[p]
            q = position[i]
            position[i] = q + 1
            if q > out_indptr[i] and out_indices[q - 1] == j:
                if repeated == 0:
                    first_row = i
                    first_col = j
                repeated += 1
            out_indices[q] = j
            out_values[q] = values[p]
            if weights.size:
                out_weights[q] = weights[p]
    return repeated, first_row, first_col


@njit(cache=True, error_model="numpy")
def merge_repeated(indptr, indices, values, weights, mode):
    """Merge adjacent equal indices in place; mode 0 sum, 1 mean, 2 last. Returns the new nnz.

    `indptr` (m + 1,) is rewritten. With weights, mode 0 averages them, mode 1 takes the weighted
    mean of the values and adds the weights.

    Cost: one pass in place.
    """
    write = 0
    begin = indptr[0]
    for i in range(indptr.size - 1):
        end = indptr[i + 1]
        p = begin
        while p < end:
            q = p
            total = 0.0
            weighted = 0.0
            weight = 0.0
            while q < end and indices[q] == indices[p]:
                w = weights[q] if weights.size else 1.0
                total += values[q]
                weighted += w * values[q]
                weight += w
                q += 1
            indices[write] = indices[p]
            if mode == 0:
                values[write] = total
                if weights.size:
                    weights[write] = weight / (q - p)
            elif mode == 1:
                values[write] = weighted / weight
                if weights.size:
                    weights[write] = weight
            else:
                values[write] = values[q - 1]
                if weights.size:
                    weights[write] = weights[q - 1]
            write += 1
            p = q
        begin = end
        indptr[i + 1] = write
    return write


@njit(cache=True, error_model="numpy")
def column_order(indptr, indices, csc_indptr, out):
    """``out[q]`` = position by rows of the entry at position q by columns.

    Cost: one pass, one random write per entry.
    """
    position = csc_indptr.copy()
    for p in range(indptr[0], indptr[-1]):
        j = indices[p]
        out[position[j]] = p
        position[j] += 1


@njit(cache=True, error_model="numpy")
def count_components(indptr, indices, n_cols):
    """Connected components of the bipartite graph of the entries, empty rows and columns left out.

    `indptr` (m + 1,), `indices` (nnz,). Union-find with path halving.

    Cost: one pass over the entries, O(m + n) memory.
    """
    m = indptr.size - 1
    parent = np.arange(m + n_cols)
    touched = np.zeros(m + n_cols, dtype=np.bool_)
    for i in range(m):
        for p in range(indptr[i], indptr[i + 1]):
            a = i
            b = m + indices[p]
            touched[a] = True
            touched[b] = True
            while parent[a] != a:
                parent[a] = parent[parent[a]]
                a = parent[a]
            while parent[b] != b:
                parent[b] = parent[parent[b]]
                b = parent[b]
            # The smaller index is the root: deterministic and shallow enough with halving.
            if a < b:
                parent[b] = a
            elif b < a:
                parent[a] = b
    components = 0
    for a in range(m + n_cols):
        if touched[a] and parent[a] == a:
            components += 1
    return components


@njit(cache=True, error_model="numpy", fastmath=_FAST)
def half_gradient(
    indptr,
    indices,
    values,
    weights,
    start,
    stop,
    own,
    other,
    own_bias,
    other_bias,
    offset,
    loss,
    scale,
    out,
    out_bias,
):
    """Half the gradient of the loss with respect to rows ``start:stop`` of one factor.

    `own` (m, k), `other` (n, k) C order; `values`, `weights` (or (0,)) and `indices` compressed by
    the rows of `own`; biases (m,), (n,) or (0,); `loss` 0 squared, 1 Huber with threshold `scale`,
    2 absolute value (the sign of 0 is 0). Writes `out` (stop - start, k) and, with biases,
    `out_bias` (stop - start,), all float64. Returns the sums of w rho(e), w e^2 and e^2 over
    the entries read.

    Cost: 4 nnz k flops, nnz (8 + k itemsize) bytes.
    """
    k = own.shape[1]
    u = np.empty(k)
    g = np.empty(k)
    sum_loss = 0.0
    sum_weighted = 0.0
    sum_square = 0.0
    for i in range(start, stop):
        for c in range(k):
            u[c] = own[i, c]
            g[c] = 0.0
        g_bias = 0.0
        base = offset
        if own_bias.size:
            base += own_bias[i]
        for p in range(indptr[i], indptr[i + 1]):
            j = indices[p]
            fit = 0.0
            for c in range(k):
                fit += u[c] * np.float64(other[j, c])
            e = np.float64(values[p]) - base - fit
            if other_bias.size:
                e -= other_bias[j]
            w = 1.0
            if weights.size:
                w = np.float64(weights[p])
            size = abs(e)
            slope = e
            value = e * e
            if loss == 1 and size > scale:
                slope = scale if e > 0.0 else -scale
                value = scale * (2.0 * size - scale)
            elif loss == 2:
                slope = 0.5 * np.sign(e)
                value = size
            sum_loss += w * value
            sum_weighted += w * e * e
            sum_square += e * e
            slope *= w
            g_bias -= slope
            for c in range(k):
                g[c] -= slope * np.float64(other[j, c])
        for c in range(k):
            out[i - start, c] = g[c]
        if own_bias.size:
            out_bias[i - start] = g_bias
    return sum_loss, sum_weighted, sum_square


@njit(cache=True, error_model="numpy", fastmath=_FAST)
def residuals(indptr, indices, values, own, other, own_bias, other_bias, offset, out):
    """``out`` = value - offset - biases - inner product of the factor rows, in float64.

    Layout as in `half_gradient`; a slice of `indptr` with the same slice of `own` and `own_bias`
    reads these rows only, and `out` begins with their first entry.

    Cost: 2 nnz k flops.
    """
    k = own.shape[1]
    first = indptr[0]
    for i in range(indptr.size - 1):
        base = offset
        if own_bias.size:
            base += own_bias[i]
        for p in range(indptr[i], indptr[i + 1]):
            j = indices[p]
            fit = 0.0
            for c in range(k):
                fit += np.float64(own[i, c]) * np.float64(other[j, c])
            e = np.float64(values[p]) - base - fit
            if other_bias.size:
                e -= other_bias[j]
            out[p - first] = e
