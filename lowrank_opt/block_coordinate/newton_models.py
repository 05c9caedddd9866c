"""Minimisers of the quadratic model of a proximal Newton step over a working set."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import scipy.sparse as sp

from lowrank_opt.block_coordinate import kernels_prox_newton as kernels

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Design", "Step", "minimise"]

# Columns of a Gram matrix at most, unless it is asked for; entries of products that are worth an
# entry of the columns.
_COLUMNS, _WORTH = 2000, 40.0
# What sweeps in Gram form cost, for a pair of columns, in the same unit.
_PRODUCTS = 15.0
# Sweeps in residual form: before a Gram form, and at most; decrease that ends them, against the
# first.
_FIRST, _SWEEPS, _PART = 2, 20, 1e-2
# Points that are extrapolated, and sweeps in that form at most.
_MEMORY, _MORE = 5, 80
# Sweeps in Gram form: at most, without a change of sign before a Newton step, and the squared
# length that ends them against the first; rounds of sweeps and Newton steps.
_CAP, _STABLE, _ACCURACY, _ROUNDS = 200, 10, 1e-6, 6
# Gram matrices are kept in single precision down to this tolerance.
_SINGLE = 1e-7


class Step(NamedTuple):
    """New coefficients of the working set, their changes, and that of the intercept."""

    x: NDArray[Any]
    d: NDArray[Any]
    shift: float


class Design:
    """Products with the columns of a design, dense or sparse."""

    def __init__(self, X: Any) -> None:
        self.X = X
        self.sparse = sp.issparse(X)
        self._rows: Any = None
        self._counts: Any = None
        self._slot: Any = None

    @property
    def columns(self) -> tuple[Any, Any, Any]:
        """Arrays of the sparse design."""
        return self.X.data, self.X.indices, self.X.indptr

    @property
    def rows(self) -> tuple[Any, Any, Any]:
        """Arrays of the sparse design, compressed by rows; made once."""
        if self._rows is None:
            rows = self.X.tocsr()
            self._rows = rows.data, rows.indices, rows.indptr
        return self._rows  # type: ignore[no-any-return]

    def correlate(self, theta: NDArray[Any], alive: NDArray[Any], c: NDArray[Any]) -> None:
        """Write ``X' theta`` for the columns `alive`."""
        if self.sparse:
            kernels.pass_csc(*self.columns, theta, alive, c)
        elif alive.size == c.size and self.X.dtype == np.float64:
            np.dot(self.X.T, theta, out=c)
        else:
            kernels.pass_dense(self.X, theta, alive, c)

    def expand(self, W: Any, d: Any, shift: float, step: NDArray[Any]) -> None:
        """Write ``X_W d + shift``."""
        if self.sparse:
            kernels.expand_csc(*self.columns, W, d, shift, step)
        else:
            kernels.expand_dense(self.X, W, d, shift, step)

    def worth(self, W: NDArray[Any], support: int, factor: float = 1.0) -> bool:
        """Whether products of sparse columns W cost little against sweeps over them.

        Parameters
        ----------
        W : ndarray of int
            The columns.
        support : int
            Coefficients among them that are not 0, as far as it is known.
        factor : float, default=1.0
            Multiple of the usual number of sweeps.
        """
        if self._counts is None:
            self._counts = np.empty(self.X.shape[0], np.int32)
        work, entries = kernels.row_work(self.X.indices, self.X.indptr, W, self._counts)
        work += _PRODUCTS * W.size * max(support, W.size // 3)
        return bool(work <= factor * _WORTH * entries)

    def gram(
        self, W: NDArray[Any], h: NDArray[Any], H: Any, mu: float, intercept: bool, dtype: Any
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return products of the columns W, weighted with h, and scaled to ones in the diagonal.

        Parameters
        ----------
        W : ndarray of int
            Columns, rising.
        h : ndarray of shape (n,)
            Weights of rows.
        H : ndarray or None
            Weighted squares of the columns, `mu` included; dense designs need them.
        mu : float
            Ridge term.
        intercept : bool
            Whether a column of ones comes last.
        dtype : dtype
            What dense products are made in.

        Returns
        -------
        G, H : ndarray
            The matrix, and its diagonal before it was scaled.
        """
        m = W.size + intercept
        if self.sparse:
            if self._slot is None:
                self._slot = np.full(self.X.shape[1], -1, np.int64)
            self._slot[W] = np.arange(W.size)
            G, H = np.empty((m, m)), np.empty(m)
            kernels.gram_rows(*self.rows, self._slot, h, intercept, G)
            self._slot[W] = -1
            kernels.finish_gram(G, mu, intercept, H)
            return G, H
        total = float(h.sum()) if intercept else 0.0
        A = np.empty((self.X.shape[0], m), dtype, order="F")
        kernels.gather_scaled(self.X, W, h, H, intercept, total, A)
        G = A.T @ A
        H = np.append(H, total) if intercept else H
        np.fill_diagonal(G, H > 0)
        return G, H


def minimise(solver: Any, problem: Any, state: Any, work: Any, W: NDArray[Any]) -> Step:
    """Return a step that lowers the model of the loss plus the penalty over W.

    Parameters
    ----------
    solver, problem, state, work
        Those of the engine; `work` has first and second derivatives.
    W : ndarray of int
        The working set, rising.

    Returns
    -------
    Step
        The step.
    """
    form, design = work.form, work.design
    intercept = problem.smooth.fit_intercept
    old = state.w[W]
    x = old.copy()
    mode = solver.gram
    work.single = solver.tol >= _SINGLE and not state.precise
    dtype = np.float32 if work.single and not design.sparse else np.float64
    if design.sparse and mode != "never" and (
        mode == "always" or (W.size <= _COLUMNS and design.worth(W, state.support))
    ):  # fmt: skip
        slopes = state.c[W] + form.mu * old
        shift = _gram_form(solver, state, work, W, x, slopes, None, work.slopes, intercept, dtype)
        return Step(x, x - old, shift)
    local = _Sweeps(problem, state, work, W, x)
    early = mode == "always" or (mode == "auto" and not design.sparse)
    start, last, done = local.run(_FIRST if early else _SWEEPS, _PART)
    if last > _PART * start:
        S = np.flatnonzero((x != 0) & (local.H > 0))
        small = 0 < S.size <= _COLUMNS or mode == "always"
        if mode != "never" and small and (
            not design.sparse or mode == "always" or design.worth(W[S], S.size, 10.0)
        ):  # fmt: skip
            part = x[S]
            slopes, slope = local.slopes(S)
            local.shift += _gram_form(
                solver, state, work, W[S], part, slopes, local.H[S], slope, intercept, dtype
            )
            x[S] = part
        elif solver.acceleration == "anderson":
            done += local.run_extrapolated(start, _MORE, _PART)[1]
        elif done < _SWEEPS:
            done += local.run(_SWEEPS - done, _PART)[2]
    state.count(epochs=done)
    return Step(x, x - old, local.shift)


class _Sweeps:
    """Coordinate descent on the model in residual form.

    Of a sparse design it takes a copy of the columns, scaled by the roots of the curvatures, which
    is read in order.
    """

    def __init__(self, problem: Any, state: Any, work: Any, W: Any, x: Any) -> None:
        design, form = work.design, work.form
        self.sparse, self.mu, self.x, self.old = design.sparse, form.mu, x, x.copy()
        self.positive, self.slope, self.shift = form.positive, work.slopes, 0.0
        self.root, self.u = np.sqrt(work.h), np.zeros(work.h.size)
        self.intercept = problem.smooth.fit_intercept
        self.total = float(work.h.sum()) if self.intercept else 0.0
        self.c, self.limits = state.c[W], form.limits[W]
        self.H = np.full(W.size, -1.0)
        self.columns: Any = (design.X, W)
        if self.sparse:
            data, indices, indptr = design.columns
            entries = int((indptr[W + 1] - indptr[W]).sum())
            self.columns = (
                np.empty(entries, np.float32 if work.single else np.float64),
                np.empty(entries, np.int32),
                np.empty(W.size + 1, np.int64),
            )
            kernels.compact_csc(data, indices, indptr, W, self.root, form.mu, *self.columns, self.H)

    def run(self, count: int, stop: float) -> tuple[float, float, int]:
        """Sweep; return the first and the last decrease, and the number of sweeps."""
        kernel = kernels.sweeps_csc if self.sparse else kernels.sweeps_dense
        self.shift, first, last, done = kernel(
            *self.columns, self.c, self.x, self.H, self.limits, self.mu, self.positive, self.root,
            self.u, self.intercept, self.total, self.slope, self.shift, count, stop,
        )  # fmt: skip
        return first, last, done

    def run_extrapolated(self, start: float, count: int, stop: float) -> tuple[float, int]:
        """Sweep down to a part of `start`, extrapolating; return the last decrease, and sweeps."""
        points, done, last = [self._copy()], 0, start
        while done < count and last > stop * start:
            last = self.run(1, 0.0)[1]
            done += 1
            points.append(self._copy())
            if len(points) > _MEMORY:
                if last > stop * start:
                    self._extrapolate(points)
                points = [self._copy()]
        return last, done

    def _copy(self) -> tuple[NDArray[Any], NDArray[Any], float]:
        return self.x.copy(), self.u.copy(), self.shift

    def _extrapolate(self, points: list[Any]) -> None:
        """Take the combination of points whose change is smallest, if it lowers the model."""
        root, total = np.sqrt(np.maximum(self.H, 0.0)), np.sqrt(self.total)
        changes = np.array(
            [np.append(root * (b[0] - a[0]), total * (b[2] - a[2])) for a, b in pairwise(points)]
        )
        K = changes @ changes.T
        K[np.diag_indices(len(K))] += 1e-12 * np.trace(K)
        try:
            weights = np.linalg.solve(K, np.ones(len(K)))
        except np.linalg.LinAlgError:
            return
        if not np.isfinite(weights).all() or weights.sum() == 0:
            return
        weights /= weights.sum()
        x, u, shift = (
            sum(t * p[i] for t, p in zip(weights, points[1:], strict=True)) for i in range(3)
        )
        if self.positive and (x < 0).any():
            return
        if self._value(x, u, shift) < self._value(self.x, self.u, self.shift):
            self.x[:], self.u[:], self.shift = x, u, float(shift)

    def _value(self, x: Any, u: Any, shift: float) -> float:
        """Value of the model."""
        value = float(self.c @ (x - self.old)) + self.slope * shift + 0.5 * float(u @ u)
        return value + float(self.limits @ np.abs(x)) + 0.5 * self.mu * float(x @ x)

    def slopes(self, S: NDArray[Any]) -> tuple[NDArray[Any], float]:
        """Return derivatives of the smooth part of the model by the coefficients S, intercept."""
        q = np.empty(S.size)
        if self.sparse:
            kernels.model_gradient_csc(*self.columns, S, self.u, q)
        else:
            X, W = self.columns
            kernels.model_gradient_dense(X, W[S], self.root * self.u, q)
        q += self.c[S] + self.mu * self.x[S]
        slope = self.slope + float(self.root @ self.u) if self.intercept else 0.0
        return q, slope


def _gram_form(
    solver: Any, state: Any, work: Any, W: NDArray[Any], x: NDArray[Any], slopes: NDArray[Any],
    H: Any, slope: float, intercept: bool, dtype: Any,
) -> float:  # fmt: skip
    """Minimise over W from x, in place, with these slopes of the model; return the shift."""
    form = work.form
    G, H = work.design.gram(W, work.h, H, form.mu, intercept, dtype)
    root = np.sqrt(H)
    inverse = np.where(root > 0, 1.0 / np.where(root > 0, root, 1.0), 0.0)
    limits = form.limits[W] * inverse[: W.size]
    q, scaled = slopes * inverse[: W.size], x * root[: W.size]
    if intercept:
        limits, scaled = np.append(limits, -1.0), np.append(scaled, 0.0)
        q = np.append(q, slope * inverse[-1])
    moving = scaled.copy()
    _solve(solver, state, G, q, moving, limits, form.positive)
    changed = moving[: W.size] != scaled[: W.size]
    x[changed] = moving[: W.size][changed] * inverse[: W.size][changed]
    return float(moving[-1] * inverse[-1]) if intercept else 0.0


def _solve(
    solver: Any, state: Any, G: Any, q: Any, x: NDArray[Any], limits: NDArray[Any], positive: bool
) -> None:
    """Rounds of coordinate descent and Newton steps on a model in Gram form, in place."""
    stable = _STABLE if solver.newton_phase else _CAP
    origin, rounded = x.copy(), q.astype(G.dtype)
    done, first = kernels.gram_descent(G, rounded, x, limits, positive, 1, 1, 0.0)
    for _ in range(_ROUNDS):
        more, last = kernels.gram_descent(
            G, rounded, x, limits, positive, _CAP, stable, _ACCURACY * first
        )
        done += more
        if last <= _ACCURACY * first or not solver.newton_phase:
            break
        # The slopes afresh: those that were kept have gathered the rounding of all sweeps.
        current = q + G @ (x - origin).astype(G.dtype)
        if _newton(state, G, current, x, limits, positive):
            break
        rounded = current.astype(G.dtype)
    state.count(gram_sweeps=done)


def _newton(
    state: Any, G: Any, q: NDArray[Any], x: NDArray[Any], limits: NDArray[Any], positive: bool
) -> bool:
    """Newton step of what is not 0, at its signs, in place; return whether it solves the model."""
    from scipy.linalg import lapack

    S = np.flatnonzero(((x != 0) | (limits < 0)) & (np.diagonal(G) > 0))
    if S.size == 0:
        return False
    state.count(factorizations=1)
    A = G[np.ix_(S, S)]
    single = A.dtype == np.float32
    factor, solve = (lapack.spotrf, lapack.spotrs) if single else (lapack.dpotrf, lapack.dpotrs)
    part, limit = x[S], np.maximum(limits[S], 0.0)
    slope = q[S] + limit * np.sign(part)
    ridge = 1e-6 if single else 1e-11
    for _ in range(4):
        damped = A.copy()
        damped[np.diag_indices(S.size)] += ridge
        L, info = factor(damped, lower=1, overwrite_a=1)
        if info == 0:
            break
        ridge *= 100.0
    else:
        return False
    d = -solve(L, slope.astype(A.dtype), lower=1)[0].astype(np.float64)
    if not np.isfinite(d).all():
        return False
    new = part + d
    bad = (new * part < 0) & (limits[S] >= 0)
    if bad.any():
        clipped = np.where(bad, -part, d)
        change = float(q[S] @ clipped) + 0.5 * float(clipped @ (A @ clipped.astype(A.dtype)))
        change += float(limit @ (np.abs(part + clipped) - np.abs(part)))
        if change <= 0:
            d = clipped
        else:  # then as far as the first sign
            t = -part[bad] / d[bad]
            d = d * t.min()
            d[np.flatnonzero(bad)[t.argmin()]] = -part[np.flatnonzero(bad)[t.argmin()]]
        new = np.where(d == -part, 0.0, part + d)
    x[S] = new
    q += G[:, S] @ d.astype(G.dtype)
    zeros = (x == 0) & (limits >= 0)
    outward = -q[zeros] if positive else np.abs(q[zeros])
    return not bad.any() and bool((outward <= limits[zeros] * (1.0 + 1e-6)).all())
