"""The relaxed transport problem as a second-order cone program, for tests.

Nothing of the library is used: the squared k-support norm is the smallest sum of ``t_i^2 / z_i``
with weights ``z`` between 0 and 1 of total k, whose epigraph is a rotated cone for every entry.
"""

from __future__ import annotations

import itertools

import clarabel
import cvxpy as cp
import numpy as np
import scipy.sparse as sp

__all__ = ["feasible_supports", "relaxed_optimum", "sparse_optimum"]

_ACCURATE = {
    "tol_gap_abs": 1e-10, "tol_gap_rel": 1e-10, "tol_feas": 1e-10, "tol_ktratio": 1e-8,
    "max_iter": 200,
}  # fmt: skip


def relaxed_optimum(a, b, C, gamma, k, *, rows="exact", weight=1.0):
    """Return value, plan and row potentials of the relaxation with a cap on the columns.

    `rows` says what ties the row sums to `a`: "exact", "upper", "l2" or "kl", the latter two with
    `weight`. Forbidden pairs cost ``inf``.
    """
    a, b = np.asarray(a, float), np.asarray(b, float)
    C = np.asarray(C, float)
    mass = b.sum()  # the solver's tolerances are absolute: total 1
    a, b, gamma = a / mass, b / mass, gamma * mass
    m, n = C.shape
    allowed = np.isfinite(C)
    T = cp.Variable((m, n), nonneg=True)
    sums = cp.sum(T, axis=1)
    objective = cp.sum(cp.multiply(np.where(allowed, C, 0.0), T))
    constraints = [cp.sum(T, axis=0) == b]
    if not allowed.all():
        constraints.append(T[~allowed] == 0)
    if gamma > 0:
        # Entries in units of b: T = b U, so that all cones are about as large.
        Z, R = cp.Variable((m, n)), cp.Variable((m, n))
        U = cp.multiply(T, np.broadcast_to(1.0 / b, (m, n)))
        flat = [cp.vec(v, order="F") for v in (2 * U, R - Z, R + Z)]
        constraints += [cp.SOC(flat[2], cp.vstack(flat[:2])), Z <= 1, cp.sum(Z, axis=0) <= k]
        objective += gamma / 2 * cp.sum(R @ (b**2))
    marginal = None
    if rows == "exact":
        marginal = sums == a
    elif rows == "upper":
        marginal = sums <= a
    elif rows == "l2":
        objective += weight * mass / 2 * cp.sum_squares(sums - a)
    else:
        objective += weight * cp.sum(cp.kl_div(sums, a))
    if marginal is not None:
        constraints.append(marginal)
    program = cp.Problem(cp.Minimize(objective), constraints)
    program.solve(solver=cp.CLARABEL, **_ACCURATE)
    assert program.status == "optimal", program.status
    alpha = None if marginal is None else -np.asarray(marginal.dual_value)
    return mass * program.value, mass * T.value, alpha


def feasible_supports(m, n, k):
    """Yield every choice of k rows for each of n columns, as a boolean matrix."""
    choices = list(itertools.combinations(range(m), min(k, m)))
    for pick in itertools.product(choices, repeat=n):
        support = np.zeros((m, n), bool)
        for j, rows in enumerate(pick):
            support[list(rows), j] = True
        yield support


def sparse_optimum(a, b, C, gamma, k):
    """Return value and plan of the nonconvex problem, by trying every support; tiny sizes only."""
    m, n = C.shape
    best, plan = np.inf, None
    settings = clarabel.DefaultSettings()
    settings.verbose = False
    settings.tol_gap_abs = settings.tol_gap_rel = settings.tol_feas = 1e-11
    for support in feasible_supports(m, n, k):
        if not support.any(axis=1).all():
            continue
        i, j = np.nonzero(support)
        count = len(i)
        sums = sp.csc_matrix(
            (np.ones(2 * count), (np.r_[i, m + j], np.r_[np.arange(count), np.arange(count)]))
        )
        A = sp.vstack([sums[:-1], -sp.eye(count)], format="csc")  # the last sum follows
        right = np.concatenate([a, b[:-1], np.zeros(count)])
        cones = [clarabel.ZeroConeT(m + n - 1), clarabel.NonnegativeConeT(count)]
        P = sp.csc_matrix(gamma * sp.eye(count))
        answer = clarabel.DefaultSolver(P, C[i, j], A, right, cones, settings).solve()
        if str(answer.status) == "Solved" and answer.obj_val < best:
            best, plan = answer.obj_val, np.zeros((m, n))
            plan[i, j] = answer.x
    return best, plan
