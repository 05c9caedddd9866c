"""Kernels of coordinate descent: runs of single-variable updates, and models of one block.

Dense designs are Fortran-ordered, sparse ones compressed by columns, matrices of quadratics
C-ordered or compressed by rows; points and products are float64.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from lowrank_opt.block_coordinate import kernels_losses  # noqa: F401 (registers the losses)
from lowrank_opt.block_coordinate.losses import loss_slope
from lowrank_opt.numerics.kernels import coordinate_penalty, prox, value

__all__ = [
    "greedy_quadratic_csr",
    "greedy_quadratic_dense",
    "minimize_model",
    "sweep_glm_csc",
    "sweep_glm_dense",
    "sweep_quadratic_csr",
    "sweep_quadratic_dense",
]

_FAST = {"reassoc", "contract", "arcp"}
_EPS = float(np.finfo(np.float64).eps)


@njit(cache=True, nogil=True, error_model="numpy")
def _target(pen, i, n_penalized, now, slope, constant):
    """New value of one variable: a gradient step of length 1 / constant, and its prox."""
    to = now - slope / constant
    if i < n_penalized:
        return prox(coordinate_penalty(pen, i), to, 1.0 / constant)
    return to


@njit(cache=True, nogil=True, error_model="numpy", fastmath=_FAST)
def _add_row(row, step, out):
    for j in range(out.size):
        out[j] += step * row[j]


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"})
def sweep_quadratic_dense(A, b, Ax, x, constants, order, pen, n_penalized):
    """Update the variables of `order` in turn, for ``x'Ax / 2 - b'x`` plus a penalty.

    Parameters
    ----------
    A : ndarray of shape (n, n), C-ordered
        Symmetric matrix.
    b : ndarray of shape (n,)
        Linear term.
    Ax, x : ndarray of shape (n,)
        Product and point, changed in place.
    constants : ndarray of shape (n,)
        Lipschitz constants of the partial derivatives, positive.
    order : ndarray of int64
        Variables.
    pen : named tuple
        Separable penalty of the first `n_penalized` variables.
    n_penalized : int
        Their number.

    Notes
    -----
    Cost: 2 n flops and one row of `A` an update.
    """
    for k in range(order.size):
        i = order[k]
        to = _target(pen, i, n_penalized, x[i], Ax[i] - b[i], constants[i])
        step = to - x[i]
        if step != 0.0:
            x[i] = to
            for j in range(x.size):
                Ax[j] += step * A[i, j]


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"})
def sweep_quadratic_csr(data, indices, indptr, b, Ax, x, constants, order, pen, n_penalized):
    """As :func:`sweep_quadratic_dense`. Cost: twice the entries of the rows in flops."""
    for k in range(order.size):
        i = order[k]
        to = _target(pen, i, n_penalized, x[i], Ax[i] - b[i], constants[i])
        step = to - x[i]
        if step != 0.0:
            x[i] = to
            for l in range(indptr[i], indptr[i + 1]):  # noqa: E741
                Ax[indices[l]] += step * data[l]


@njit(cache=True, nogil=True, error_model="numpy", fastmath=_FAST)
def _slope_of_intercept(y, z, weights, loss):
    total = 0.0
    for j in range(z.size):
        w = 1.0 if weights.size == 0 else weights[j]
        total += w * loss_slope(loss, y[j], z[j])
    return total


@njit(cache=True, nogil=True, error_model="numpy", fastmath=_FAST)
def sweep_glm_dense(X, y, weights, z, x, constants, order, l2, loss, pen, n_penalized):
    """Update the variables of `order` in turn, for a sum of losses plus a penalty.

    Parameters
    ----------
    X : ndarray of shape (n, p), Fortran-ordered
        Design; the variable p is an intercept.
    y : ndarray of shape (n,)
        Targets.
    weights : ndarray of shape (n,), or empty
        Weights of the samples.
    z, x : ndarray
        Predictors and point, changed in place.
    constants : ndarray
        Lipschitz constants of the partial derivatives, positive.
    order : ndarray of int64
        Variables.
    l2 : float
        Ridge term of the coefficients.
    loss : named tuple
        The loss.
    pen : named tuple
        Separable penalty of the first `n_penalized` variables.
    n_penalized : int
        Their number.

    Notes
    -----
    Cost: n derivatives of the loss, 4 n flops and two reads of a column an update.
    """
    # Loops over X itself: a view of a column costs as much as a short column.
    n, p = X.shape
    plain = weights.size == 0
    for k in range(order.size):
        i = order[k]
        slope = 0.0
        if i == p:
            slope = _slope_of_intercept(y, z, weights, loss)
        elif plain:
            for j in range(n):
                slope += X[j, i] * loss_slope(loss, y[j], z[j])
        else:
            for j in range(n):
                slope += X[j, i] * weights[j] * loss_slope(loss, y[j], z[j])
        if i < p:
            slope += l2 * x[i]
        to = _target(pen, i, n_penalized, x[i], slope, constants[i])
        step = to - x[i]
        if step != 0.0:
            x[i] = to
            if i == p:
                for j in range(n):
                    z[j] += step
            else:
                for j in range(n):
                    z[j] += step * X[j, i]


@njit(cache=True, nogil=True, error_model="numpy", fastmath=_FAST)
def sweep_glm_csc(
    data, indices, indptr, y, weights, z, x, constants, order, l2, loss, pen, n_penalized
):
    """As :func:`sweep_glm_dense`. Cost: that of the stored entries of the columns."""
    p = indptr.size - 1
    plain = weights.size == 0
    for k in range(order.size):
        i = order[k]
        if i < p:
            slope = l2 * x[i]
            if plain:
                for l in range(indptr[i], indptr[i + 1]):  # noqa: E741
                    j = indices[l]
                    slope += data[l] * loss_slope(loss, y[j], z[j])
            else:
                for l in range(indptr[i], indptr[i + 1]):  # noqa: E741
                    j = indices[l]
                    slope += data[l] * weights[j] * loss_slope(loss, y[j], z[j])
        else:
            slope = _slope_of_intercept(y, z, weights, loss)
        to = _target(pen, i, n_penalized, x[i], slope, constants[i])
        step = to - x[i]
        if step != 0.0:
            x[i] = to
            if i < p:
                for l in range(indptr[i], indptr[i + 1]):  # noqa: E741
                    z[indices[l]] += step * data[l]
            else:
                z += step


@njit(cache=True, nogil=True, error_model="numpy")
def _score(kind, pen, i, n_penalized, now, slope, constant, divisor):
    """Score of a variable: 0, g^2 / D; 1, the prox step; 2, the decrease of the model."""
    if kind == 0:
        return slope * slope / divisor
    to = _target(pen, i, n_penalized, now, slope, divisor)
    d = to - now
    if kind == 1:
        return d * d
    decrease = 0.5 * divisor * d * d
    if i < n_penalized:  # what the penalty falls short of its tangent, rounding left out
        one = coordinate_penalty(pen, i)
        before, after = value(one, now), value(one, to)
        along = -(slope + divisor * d) * d
        rest = along - (after - before)
        if abs(rest) > 8.0 * _EPS * (abs(before) + abs(after) + abs(along)):
            decrease += rest
    return decrease


@njit(cache=True, nogil=True, error_model="numpy")
def greedy_quadratic_dense(
    A, b, Ax, x, constants, divisors, kind, pen, n_penalized, n_updates, chosen
):
    """Update the variable of the largest score, `n_updates` times.

    Parameters
    ----------
    A, b, Ax, x, constants, pen, n_penalized
        As of :func:`sweep_quadratic_dense`.
    divisors : ndarray of shape (n,)
        Constants of the score.
    kind : int
        0: squared derivative over the divisor. 1: squared prox step of length one over the
        divisor. 2: decrease of the model with the divisor as its curvature. Of equal scores the
        lowest index wins.
    n_updates : int
        How many updates.
    chosen : ndarray of int64, of shape (n_updates,)
        Filled with the variables.

    Notes
    -----
    Cost: n scores, 2 n flops and one row of `A` an update.
    """
    n = x.size
    for k in range(n_updates):
        i, best = 0, -1.0
        for j in range(n):
            s = _score(kind, pen, j, n_penalized, x[j], Ax[j] - b[j], constants[j], divisors[j])
            if s > best:
                i, best = j, s
        chosen[k] = i
        to = _target(pen, i, n_penalized, x[i], Ax[i] - b[i], constants[i])
        step = to - x[i]
        if step != 0.0:
            x[i] = to
            _add_row(A[i], step, Ax)


@njit(cache=True, nogil=True, error_model="numpy")
def _before(scores, i, j):
    return scores[i] > scores[j] or (scores[i] == scores[j] and i < j)


@njit(cache=True, nogil=True, error_model="numpy")
def _sink(heap, where, scores, place):
    node, n = heap[place], heap.size
    while True:
        child = 2 * place + 1
        if child >= n:
            break
        if child + 1 < n and _before(scores, heap[child + 1], heap[child]):
            child += 1
        if not _before(scores, heap[child], node):
            break
        heap[place] = heap[child]
        where[heap[place]] = place
        place = child
    heap[place] = node
    where[node] = place


@njit(cache=True, nogil=True, error_model="numpy")
def _rise(heap, where, scores, place):
    node = heap[place]
    while place > 0:
        up = (place - 1) // 2
        if not _before(scores, node, heap[up]):
            break
        heap[place] = heap[up]
        where[heap[place]] = place
        place = up
    heap[place] = node
    where[node] = place


@njit(cache=True, nogil=True, error_model="numpy")
def greedy_quadratic_csr(
    data, indices, indptr, b, Ax, x, constants, divisors, kind, pen, n_penalized, n_updates, chosen
):
    """As :func:`greedy_quadratic_dense`, with the scores in a heap.

    Notes
    -----
    Cost: n to build the heap, then ``deg log n`` an update, deg the entries of a row.
    """
    n = x.size
    scores = np.empty(n)
    heap = np.arange(n)
    where = np.arange(n)
    for j in range(n):
        scores[j] = _score(kind, pen, j, n_penalized, x[j], Ax[j] - b[j], constants[j], divisors[j])
    for place in range(n // 2 - 1, -1, -1):
        _sink(heap, where, scores, place)
    for k in range(n_updates):
        i = heap[0]
        chosen[k] = i
        to = _target(pen, i, n_penalized, x[i], Ax[i] - b[i], constants[i])
        step = to - x[i]
        if step == 0.0:
            chosen[k:] = i
            break
        x[i] = to
        for l in range(indptr[i], indptr[i + 1]):  # noqa: E741
            Ax[indices[l]] += step * data[l]
        for l in range(indptr[i], indptr[i + 1]):  # noqa: E741
            j = indices[l]
            before = scores[j]
            scores[j] = _score(
                kind, pen, j, n_penalized, x[j], Ax[j] - b[j], constants[j], divisors[j]
            )
            if scores[j] > before:
                _rise(heap, where, scores, where[j])
            elif scores[j] < before:
                _sink(heap, where, scores, where[j])


@njit(cache=True, nogil=True, error_model="numpy")
def minimize_model(H, q, v, pen, n_penalized, tol, max_sweeps):
    """Coordinate descent on ``q'd + d'Hd / 2 + h(v + d)`` for one block.

    Parameters
    ----------
    H : ndarray of shape (m, m), C-ordered
        Symmetric, positive semi-definite.
    q : ndarray of shape (m,)
        Gradient of the model at `v`; kept up to date in place.
    v : ndarray of shape (m,)
        Values of the block, changed in place.
    pen : named tuple
        Separable penalty of the first `n_penalized` variables.
    n_penalized : int
        Their number.
    tol : float
        Stops when no scaled step ``H_ii |d_i|`` of a sweep is above it.
    max_sweeps : int
        Limit on sweeps.

    Returns
    -------
    float
        The largest scaled step of the last sweep.

    Notes
    -----
    Cost: 2 m^2 flops a sweep, less what stays.
    """
    m = v.size
    worst = 0.0
    least = 0.0
    for i in range(m):
        least = max(least, 1e-30 * H[i, i])
    if least == 0.0:
        least = 1.0
    for _ in range(max_sweeps):
        worst = 0.0
        for i in range(m):
            constant = max(H[i, i], least)
            to = _target(pen, i, n_penalized, v[i], q[i], constant)
            step = to - v[i]
            if step != 0.0:
                v[i] = to
                _add_row(H[i], step, q)
                worst = max(worst, constant * abs(step))
        if worst <= tol:
            break
    return worst
