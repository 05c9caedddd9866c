"""Loops of proximal Newton steps of generalised linear models with L1-like penalties.

Dense designs are Fortran-ordered, sparse ones compressed by columns. ``reference_prox_newton``
says in NumPy what each does. Symbols: g, h first and second derivatives of the (weighted) losses
by the predictors, theta the dual point, c the correlations ``X' theta``; x the new values of the
coefficients of the working set W, u the step of the predictors times the roots of h, in which the
quadratic model is ``c' (x - w) + |u|^2 / 2``; `limits` the weights of the absolute values.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from lowrank_opt.block_coordinate.kernels_losses import (
    loss_conjugate,
    loss_curvature,
    loss_slope,
    loss_value,
)

__all__ = [
    "balance",
    "centre_dense",
    "centred",
    "compact_csc",
    "dual_value",
    "expand_csc",
    "expand_dense",
    "finish_gram",
    "gather_scaled",
    "gram_descent",
    "gram_rows",
    "huber_curvature",
    "model_gradient_csc",
    "model_gradient_dense",
    "move_values",
    "pass_csc",
    "pass_dense",
    "penalty_along",
    "ridge_conjugate",
    "row_work",
    "sample_terms",
    "scan",
    "screen",
    "select",
    "shift_sums",
    "sweeps_csc",
    "sweeps_dense",
]

_FAST = {"reassoc", "contract", "arcp"}
# Of loops over columns of few entries, which are slower when several sums are kept.
_SHORT = {"contract"}
# Part of a dual point that is kept for rounding.
_INWARDS = 1.0 - 2.0**-50


@njit(cache=True, nogil=True, error_model="numpy", fastmath=_FAST)
def sample_terms(loss, y, s, z, step, t, out, g, h):
    """Write predictors ``z + t * step`` and the derivatives there; return value and sums of both.

    No weights: an empty `s`. Cost: O(n), an exponential and a logarithm a sample.
    """
    total, slopes, curvatures = 0.0, 0.0, 0.0
    for i in range(y.size):
        at = z[i] + t * step[i]
        weight = s[i] if s.size else 1.0
        out[i] = at
        # Without weight nothing, even where the loss overflows.
        total += weight * loss_value(loss, y[i], at) if weight > 0.0 else 0.0
        g[i] = weight * loss_slope(loss, y[i], at) if weight > 0.0 else 0.0
        h[i] = weight * loss_curvature(loss, y[i], at) if weight > 0.0 else 0.0
        slopes += g[i]
        curvatures += h[i]
    return total, slopes, curvatures


@njit(cache=True, nogil=True, error_model="numpy", fastmath=_FAST)
def shift_sums(loss, y, s, z, shift):
    """Return sums of first and second derivatives at ``z + shift``, and of sizes of the first."""
    slopes, curvatures, sizes = 0.0, 0.0, 0.0
    for i in range(y.size):
        weight = s[i] if s.size else 1.0
        if weight > 0.0:
            slope = weight * loss_slope(loss, y[i], z[i] + shift)
            slopes += slope
            sizes += abs(slope)
            curvatures += weight * loss_curvature(loss, y[i], z[i] + shift)
    return slopes, curvatures, sizes


@njit(cache=True, nogil=True, error_model="numpy")
def huber_curvature(y, s, z, delta, part, h):
    """Write curvatures of a model of Huber's loss, 1 inside and `part` of the secant's outside.

    With the whole secant the model is above the loss everywhere.
    """
    for i in range(y.size):
        size = abs(z[i] - y[i])
        weight = s[i] if s.size else 1.0
        h[i] = weight if size < delta else weight * part * delta / size


@njit(cache=True, nogil=True, error_model="numpy")
def balance(g, theta):
    """Write g with its larger-signed side shrunk so that the sum is 0."""
    above, below = 0.0, 0.0
    for i in range(g.size):
        if g[i] > 0.0:
            above += g[i]
        else:
            below -= g[i]
    least = min(above, below)
    up = least / above if above > 0.0 else 0.0
    down = least / below if below > 0.0 else 0.0
    for i in range(g.size):
        theta[i] = g[i] * (up if g[i] > 0.0 else down)


@njit(cache=True, nogil=True, error_model="numpy")
def dual_value(loss, y, s, theta, t):
    """Return minus the sum of the conjugates at ``t * theta``, weights being in theta.

    The point is moved inwards by what the weights' rounding may have put it out of the domain.
    """
    total, t = 0.0, t * _INWARDS
    for i in range(y.size):
        if s.size == 0:
            total -= loss_conjugate(loss, y[i], t * theta[i])
        elif s[i] > 0.0:
            total -= s[i] * loss_conjugate(loss, y[i], t * theta[i] / s[i])
    return total


@njit(cache=True, nogil=True, error_model="numpy", fastmath=_FAST)
def pass_dense(X, theta, alive, c):
    """Write ``X' theta`` for the columns `alive`. Cost: 2 n flops a column."""
    for k in range(alive.size):
        j = alive[k]
        total = 0.0
        for i in range(theta.size):
            total += float(X[i, j]) * theta[i]
        c[j] = total


@njit(cache=True, nogil=True, error_model="numpy", fastmath=_SHORT)
def pass_csc(data, indices, indptr, theta, alive, c):
    """As :func:`pass_dense`. Cost: 2 flops an entry."""
    for k in range(alive.size):
        j = alive[k]
        total = 0.0
        for e in range(indptr[j], indptr[j + 1]):
            total += float(data[e]) * theta[indices[e]]
        c[j] = total


@njit(cache=True, nogil=True, error_model="numpy")
def scan(c, w, limits, mu, positive, alive):
    """Return worst ratio to the limits, without and with the ridge term, the penalty, and more.

    Returns
    -------
    plain, shifted : float
        Largest ``|c_j|`` and ``|c_j + mu w_j|`` against their limits, those above 0.
    penalty : float
        Value, ridge term included.
    distance : float
        Largest distance to the subdifferential.
    count : int
        Nonzero coefficients.
    """
    plain, shifted, penalty, distance, count = 0.0, 0.0, 0.0, 0.0, 0
    for k in range(alive.size):
        j = alive[k]
        u = c[j] + mu * w[j]
        limit = limits[j]
        if w[j] != 0.0:
            count += 1
            penalty += limit * abs(w[j]) + 0.5 * mu * w[j] * w[j]
            distance = max(distance, abs(u + (limit if w[j] > 0.0 else -limit)))
        else:
            distance = max(distance, (-u if positive else abs(u)) - limit)
        if limit > 0.0:
            plain = max(plain, (-c[j] if positive else abs(c[j])) / limit)
            shifted = max(shifted, (-u if positive else abs(u)) / limit)
    return plain, shifted, penalty, distance, count


@njit(cache=True, nogil=True, error_model="numpy")
def ridge_conjugate(c, limits, t, positive, alive):
    """Return the sum of squares of what ``t * c`` is above its limits."""
    total = 0.0
    for k in range(alive.size):
        j = alive[k]
        above = t * (-c[j] if positive else abs(c[j])) - limits[j]
        if above > 0.0:
            total += above * above
    return total


@njit(cache=True, nogil=True, error_model="numpy")
def screen(c, w, squares, limits, t, radius, positive, alive):
    """Keep in `alive`, in front, what is not proved to be 0; return how many."""
    kept = 0
    for k in range(alive.size):
        j = alive[k]
        size = t * (-c[j] if positive else abs(c[j]))
        if w[j] != 0.0 or size + math.sqrt(squares[j]) * radius >= limits[j]:
            alive[kept] = j
            kept += 1
    return kept


@njit(cache=True, nogil=True, error_model="numpy")
def select(c, w, squares, limits, t, part, positive, alive, chosen, priority):
    """Write candidates and how far they are from moving, smallest first to go; return how many.

    Coefficients that are not 0, or have no limit, come before all others.
    """
    count = 0
    for k in range(alive.size):
        j = alive[k]
        size = t * (-c[j] if positive else abs(c[j]))
        if w[j] != 0.0 or (limits[j] == 0.0 and (size > 0.0 or not positive)):
            chosen[count], priority[count] = j, -math.inf
            count += 1
        elif size >= part * limits[j]:
            chosen[count], priority[count] = j, (limits[j] - size) / math.sqrt(squares[j])
            count += 1
    return count


@njit(cache=True, nogil=True, error_model="numpy")
def centred(square, mean, total, mu):
    """Return a column's curvature, `mu` included, once the intercept follows it, and its mean.

    From its sum of squares and its sum, weighted, and the sum of weights, 0 without an intercept.
    What rounding leaves of a constant column is 0.
    """
    if total <= 0.0:
        return square + mu, 0.0
    mean /= total
    rest = square - total * mean * mean
    return (rest if rest > 1e-13 * square else 0.0) + mu, mean


@njit(cache=True, nogil=True, error_model="numpy", fastmath=_FAST)
def centre_dense(X, W, root, total, mu, H, means):
    """Write curvatures and means of the columns W; the squares are taken of what is centred."""
    for k in range(W.size):
        mean, square, size = 0.0, 0.0, 0.0
        for i in range(root.size):
            mean += root[i] * (root[i] * float(X[i, W[k]]))
        mean /= total
        for i in range(root.size):
            value = root[i] * (float(X[i, W[k]]) - mean)
            square += value * value
            size += (root[i] * mean) * (root[i] * mean)
        H[k] = (square if square > 1e-28 * size * root.size else 0.0) + mu
        means[k] = mean


@njit(cache=True, nogil=True, error_model="numpy", fastmath=_FAST)
def sweeps_dense(X, W, c, x, H, means, limits, mu, positive, root, u, total, sums, count, stop):
    """As :func:`sweeps_csc`, over the columns W of X; H is filled where it is negative."""
    n = u.size
    first, last, done = 0.0, 0.0, 0
    for sweep in range(count):
        last = 0.0
        for k in range(x.size):
            j = W[k]
            if H[k] < 0.0:
                square = 0.0
                for i in range(n):
                    value = root[i] * float(X[i, j])
                    square += value * value
                H[k] = square + mu
            derivative = 0.0
            for i in range(n):
                derivative += float(X[i, j]) * (root[i] * u[i])
            derivative += c[k] + mu * x[k] - means[k] * sums
            a = H[k] * x[k] - derivative
            if H[k] <= 0.0:  # nothing but the penalty
                a = 0.0
                if x[k] == 0.0 or limits[k] == 0.0:
                    continue
            limit = limits[k]
            new = 0.0
            if a > limit:
                new = (a - limit) / H[k]
            elif a < -limit and not positive:
                new = (a + limit) / H[k]
            change = new - x[k]
            if change != 0.0:
                x[k] = new
                last += H[k] * change * change
                sums += change * total * means[k]
                for i in range(n):
                    u[i] += change * (root[i] * float(X[i, j]))
        done = sweep + 1
        if sweep == 0:
            first = last
        elif last <= stop * first:
            break
    return sums, first, last, done


@njit(cache=True, nogil=True, error_model="numpy", fastmath=_SHORT)
def compact_csc(data, indices, indptr, W, root, total, mu, part, places, starts, H, means):
    """Copy the columns W, times `root` by rows, one after the other, with their :func:`centred`.

    Cost: 4 flops an entry of W.
    """
    at = 0
    for k in range(W.size):
        starts[k] = at
        square, mean = 0.0, 0.0
        for e in range(indptr[W[k]], indptr[W[k] + 1]):
            i = indices[e]
            part[at], places[at] = float(data[e]) * root[i], i
            value = float(part[at])
            square += value * value
            mean += value * root[i]
            at += 1
        H[k], means[k] = centred(square, mean, total, mu)
    starts[W.size] = at


@njit(cache=True, nogil=True, error_model="numpy", fastmath=_SHORT)
def sweeps_csc(
    part, places, starts, c, x, H, means, limits, mu, positive, root, u, total, sums, count, stop
):
    """Coordinate descent on the quadratic model over compact columns, in place on x and u.

    The intercept follows every coefficient to its best value: columns act as if centred.

    Parameters
    ----------
    part, places, starts, H, means
        See :func:`compact_csc`.
    c, limits : ndarray
        Derivatives of the loss by the coefficients where the model was made, the intercept being
        best, and their weights.
    x : ndarray
        Coefficients.
    mu, positive
        See the module.
    root, u : ndarray of shape (n,)
        Roots of the curvatures h; ``root * (X (x - w))``.
    total, sums : float
        Sum of h, or 0 without an intercept; ``root' u``.
    count, stop
        Sweeps at most; it stops when the decrease of one is below `stop` of that of the first of
        this call.

    Returns
    -------
    sums, first, last : float
        The new one; sums of ``H * change^2`` in the first and the last sweep.
    done : int
        Sweeps.
    """
    first, last, done = 0.0, 0.0, 0
    for sweep in range(count):
        last = 0.0
        for k in range(x.size):
            derivative = c[k] + mu * x[k] - means[k] * sums
            for e in range(starts[k], starts[k + 1]):
                derivative += float(part[e]) * u[places[e]]
            a = H[k] * x[k] - derivative
            if H[k] <= 0.0:  # nothing but the penalty
                a = 0.0
                if x[k] == 0.0 or limits[k] == 0.0:
                    continue
            limit = limits[k]
            new = 0.0
            if a > limit:
                new = (a - limit) / H[k]
            elif a < -limit and not positive:
                new = (a + limit) / H[k]
            change = new - x[k]
            if change != 0.0:
                x[k] = new
                last += H[k] * change * change
                sums += change * total * means[k]
                for e in range(starts[k], starts[k + 1]):
                    u[places[e]] += change * float(part[e])
        done = sweep + 1
        if sweep == 0:
            first = last
        elif last <= stop * first:
            break
    return sums, first, last, done


@njit(cache=True, nogil=True, error_model="numpy", fastmath=_FAST)
def model_gradient_dense(X, S, u, q):
    """Write products of the columns S with u."""
    for k in range(S.size):
        total = 0.0
        for i in range(u.size):
            total += float(X[i, S[k]]) * u[i]
        q[k] = total


@njit(cache=True, nogil=True, error_model="numpy", fastmath=_SHORT)
def model_gradient_csc(part, places, starts, S, u, q):
    """Write products of the compact columns S with u."""
    for k in range(S.size):
        total = 0.0
        for e in range(starts[S[k]], starts[S[k] + 1]):
            total += float(part[e]) * u[places[e]]
        q[k] = total


@njit(cache=True, nogil=True, error_model="numpy", fastmath=_FAST)
def expand_dense(X, W, d, shift, step):
    """Write ``X_W d + shift``."""
    for i in range(step.size):
        step[i] = shift
    for k in range(W.size):
        change, j = d[k], W[k]
        if change != 0.0:
            for i in range(step.size):
                step[i] += change * float(X[i, j])


@njit(cache=True, nogil=True, error_model="numpy")
def expand_csc(data, indices, indptr, W, d, shift, step):
    """As :func:`expand_dense`."""
    for i in range(step.size):
        step[i] = shift
    for k in range(W.size):
        change, j = d[k], W[k]
        if change != 0.0:
            for e in range(indptr[j], indptr[j + 1]):
                step[indices[e]] += change * float(data[e])


@njit(cache=True, nogil=True, error_model="numpy")
def penalty_along(W, w, d, limits, mu, t):
    """Return the change of the penalty for a step ``t * d`` of the coefficients W of w."""
    total = 0.0
    for k in range(W.size):
        if d[k] != 0.0:
            old = w[W[k]]
            new = old + t * d[k]
            total += limits[W[k]] * (abs(new) - abs(old)) + 0.5 * mu * (new * new - old * old)
    return total


@njit(cache=True, nogil=True, error_model="numpy")
def move_values(W, x, d, t, w):
    """Put the coefficients W of w at ``w + t d``, exactly at x for a whole step."""
    for k in range(W.size):
        w[W[k]] = x[k] if t == 1.0 else w[W[k]] + t * d[k]


@njit(cache=True, nogil=True, error_model="numpy")
def row_work(indices, indptr, W, counts):
    """Return half the sum of squares of the entries of W in each row, and the entries of W.

    Cost: O(n) and an addition an entry.
    """
    counts[:] = 0
    entries = 0
    for k in range(W.size):
        for e in range(indptr[W[k]], indptr[W[k] + 1]):
            counts[indices[e]] += 1
        entries += indptr[W[k] + 1] - indptr[W[k]]
    work = 0.0
    for i in range(counts.size):
        work += 0.5 * float(counts[i]) * float(counts[i])
    return work, entries


@njit(cache=True, nogil=True, error_model="numpy")
def gram_rows(data, indices, indptr, W, h, counts, G, sums):
    """Add up ``X_W' diag(h) X_W`` in the upper triangle of G, and ``X_W' h``.

    Parameters
    ----------
    data, indices, indptr
        The design, compressed by columns.
    W : ndarray of int
        Columns.
    h : ndarray of shape (n,)
        Weights of rows.
    counts : ndarray of shape (n,)
        Entries of W in each row; see :func:`row_work`.
    G, sums : ndarray of shape (m, m), (m,)
        Overwritten.

    Notes
    -----
    The columns are first put in rows. Cost: 2 reads of them, and half the sum of the squares of
    `counts` products.
    """
    G[:] = 0.0
    sums[:] = 0.0
    n = h.size
    ends = np.empty(n, np.int64)
    at = 0
    for i in range(n):
        ends[i] = at
        at += counts[i]
    places = np.empty(at, np.int32)
    values = np.empty(at)
    for k in range(W.size):
        for e in range(indptr[W[k]], indptr[W[k] + 1]):
            i = indices[e]
            places[ends[i]], values[ends[i]] = k, float(data[e])
            ends[i] += 1
    start = 0
    for i in range(n):
        for a in range(start, ends[i]):
            weighted = h[i] * values[a]
            row = places[a]
            sums[row] += weighted
            for b in range(a, ends[i]):
                G[row, places[b]] += weighted * values[b]
        start = ends[i]


@njit(cache=True, nogil=True, error_model="numpy")
def finish_gram(G, sums, total, mu, H, means):
    """Mirror the upper triangle, centre, add the ridge term, and scale to a diagonal of 1.

    Parameters
    ----------
    G : ndarray of shape (m, m)
        Products of columns; columns that are constant get a diagonal of 0.
    sums, total : ndarray, float
        Weighted sums of columns, and of weights, 0 without an intercept.
    mu : float
        Ridge term.
    H, means : ndarray of shape (m,)
        What :func:`centred` returns.
    """
    m = G.shape[0]
    for a in range(m):
        H[a], means[a] = centred(G[a, a], sums[a], total, mu)
    for a in range(m):
        for b in range(a + 1, m):
            scale = math.sqrt(H[a]) * math.sqrt(H[b])
            value = (G[a, b] - total * means[a] * means[b]) / scale if scale > 0.0 else 0.0
            G[a, b] = value
            G[b, a] = value
        G[a, a] = 1.0 if H[a] > 0.0 else 0.0


@njit(cache=True, nogil=True, error_model="numpy", fastmath=_FAST)
def gather_scaled(X, S, root, H, means, A):
    """Write the columns S less their means, times `root`, over the root of their H, into A."""
    for k in range(S.size):
        factor = 1.0 / math.sqrt(H[k]) if H[k] > 0.0 else 0.0
        for i in range(root.size):
            A[i, k] = root[i] * (float(X[i, S[k]]) - means[k]) * factor


@njit(cache=True, nogil=True, error_model="numpy", fastmath=_FAST)
def gram_descent(G, q, x, limits, positive, cap, stable, accuracy):
    """Coordinate descent on ``q' d + d' G d / 2 + limits |x + d|``, G with a diagonal of 1.

    Parameters
    ----------
    G : ndarray of shape (m, m)
        Rows of zeros leave their coefficient where it is.
    q, x : ndarray of shape (m,)
        Gradient, in the dtype of G, and coefficients; updated.
    limits : ndarray of shape (m,)
        Weights of absolute values.
    positive : bool
        Whether coefficients stay at least 0.
    cap, stable : int
        Sweeps at most; it also stops when no sign changed for that many sweeps.
    accuracy : float
        It stops when the squared length of a sweep is at most this.

    Returns
    -------
    sweeps : int
        How many.
    last : float
        Squared length of the last.
    """
    m = q.size
    since, last, done = 0, 0.0, 0
    for sweep in range(cap):
        last, same = 0.0, True
        for k in range(m):
            if G[k, k] == 0.0:
                continue
            old = x[k]
            u = old - q[k]
            limit = limits[k]
            new = u - limit if u > limit else 0.0
            if u < -limit and not positive:
                new = u + limit
            change = new - old
            if change != 0.0:
                same &= (new > 0.0) == (old > 0.0) and (new < 0.0) == (old < 0.0)
                x[k] = new
                last += change * change
                step = G.dtype.type(change)
                for i in range(m):
                    q[i] += step * G[k, i]
        done = sweep + 1
        since = since + 1 if same else 0
        if last <= accuracy or since >= stable:
            break
    return done, last
