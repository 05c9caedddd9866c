"""Minimisers of the quadratic model of a proximal Newton step over a working set."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import scipy.sparse as sp

from lowrank_opt.block_coordinate import kernels_prox_newton as kernels
from lowrank_opt.block_coordinate.design import arrays

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
        self.sparse = sp.issparse(X)
        self.columns = arrays(X)
        self.X = X if self.sparse else self.columns[0]
        self._counts: Any = None
        self._counted: Any = None

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
        work, entries = self._count(W)
        work += _PRODUCTS * W.size * max(support, W.size // 3)
        return bool(work <= factor * _WORTH * entries)

    def _count(self, W: NDArray[Any]) -> tuple[float, int]:
        """Count the entries of W in each row; see the kernel."""
        if self._counted is None or self._counted[0] is not W:
            self._counts = np.empty(self.X.shape[0], np.int32)
            result = kernels.row_work(*self.columns[1:], W, self._counts)
            self._counted = W, result
        return self._counted[1]  # type: ignore[no-any-return]

    def gram(
        self, W: NDArray[Any], h: NDArray[Any], total: float, mu: float, given: Any, dtype: Any
    ) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        """Return products of the columns W, weighted with h, scaled to ones in the diagonal.

        Parameters
        ----------
        W : ndarray of int
            Columns, rising.
        h : ndarray of shape (n,)
            Weights of rows.
        total : float
            Their sum if the columns are to be centred, else 0.
        mu : float
            Ridge term.
        given : tuple of ndarray, or None
            The other two results, which dense designs need.
        dtype : dtype
            What dense products are made in.

        Returns
        -------
        G, H, means : ndarray
            The matrix, its diagonal before it was scaled, and the means.
        """
        m = W.size
        if self.sparse:
            self._count(W)
            G, sums, H, means = np.empty((m, m)), np.empty(m), np.empty(m), np.empty(m)
            kernels.gram_rows(*self.columns, W, h, self._counts, G, sums)
            kernels.finish_gram(G, sums, total, mu, H, means)
            return G, H, means
        H, means = given
        A = np.empty((self.X.shape[0], m), dtype, order="F")
        kernels.gather_scaled(self.X, W, np.sqrt(h), H, means, A)
        G = A.T @ A
        np.fill_diagonal(G, H > 0)
        return G, H, means


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
    total = float(work.h.sum()) if intercept else 0.0
    free = work.slopes if total > 0 else 0.0
    rest = 0.0 if form.gap else free  # the dual point of a gap is balanced
    if (
        design.sparse
        and mode != "never"
        and (mode == "always" or (W.size <= _COLUMNS and design.worth(W, state.support)))
    ):
        G, H, means = design.gram(W, work.h, total, form.mu, None, dtype)
        slopes = state.c[W] - rest * means + form.mu * old
        _gram_form(solver, state, G, H, slopes, form.limits[W], form.positive, x)
        return Step(x, x - old, _follow(x - old, means, free, total))
    local = _Sweeps(state, work, W, x, total, rest)
    early = mode == "always" or (mode == "auto" and not design.sparse)
    start, last, done = local.run(_FIRST if early else _SWEEPS, _PART)
    if last > _PART * start:
        S = np.flatnonzero((x != 0) & (local.H > 0))
        small = 0 < S.size <= _COLUMNS or mode == "always"
        if mode != "never" and small and (
            not design.sparse or mode == "always" or design.worth(W[S], S.size, 10.0)
        ):  # fmt: skip
            part = x[S]
            given = local.H[S], local.means[S]
            G, H, _ = design.gram(W[S], work.h, total, form.mu, given, dtype)
            _gram_form(solver, state, G, H, local.slopes(S), local.limits[S], form.positive, part)
            x[S] = part
        elif solver.acceleration == "anderson":
            done += local.run_extrapolated(start, _MORE, _PART)[1]
        elif done < _SWEEPS:
            done += local.run(_SWEEPS - done, _PART)[2]
    state.count(epochs=done)
    return Step(x, x - old, _follow(x - old, local.means, free, total))


def _follow(d: NDArray[Any], means: NDArray[Any], slope: float, total: float) -> float:
    """Step of the intercept that is best for those of the coefficients."""
    return -slope / total - float(means @ d) if total > 0 else 0.0


class _Sweeps:
    """Coordinate descent on the model in residual form.

    Of a sparse design it takes a copy of the columns, scaled by the roots of the curvatures, which
    is read in order.
    """

    def __init__(
        self, state: Any, work: Any, W: NDArray[Any], x: NDArray[Any], total: float, rest: float
    ) -> None:
        design, form = work.design, work.form
        self.sparse, self.mu, self.positive = design.sparse, form.mu, form.positive
        self.x, self.old, self.total, self.sums = x, x.copy(), total, 0.0
        self.root, self.u = np.sqrt(work.h), np.zeros(work.h.size)
        self.limits, self.H, self.means = form.limits[W], np.full(W.size, -1.0), np.zeros(W.size)
        self.columns: Any = (design.X, W)
        if self.sparse or total > 0:
            self._prepare(work, W)
        self.c = state.c[W] - rest * self.means

    def _prepare(self, work: Any, W: NDArray[Any]) -> None:
        design = work.design
        if not self.sparse:
            kernels.centre_dense(design.X, W, self.root, self.total, self.mu, self.H, self.means)
            return
        data, indices, indptr = design.columns
        entries = int((indptr[W + 1] - indptr[W]).sum())
        self.columns = (
            np.empty(entries, np.float32 if work.single else np.float64),
            np.empty(entries, np.int32),
            np.empty(W.size + 1, np.int64),
        )
        kernels.compact_csc(
            data, indices, indptr, W, self.root, self.total, self.mu, *self.columns, self.H,
            self.means,
        )  # fmt: skip

    def run(self, count: int, stop: float) -> tuple[float, float, int]:
        """Sweep; return the first and the last decrease, and the number of sweeps."""
        kernel = kernels.sweeps_csc if self.sparse else kernels.sweeps_dense
        self.sums, first, last, done = kernel(
            *self.columns, self.c, self.x, self.H, self.means, self.limits, self.mu,
            self.positive, self.root, self.u, self.total, self.sums, count, stop,
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

    def _copy(self) -> tuple[NDArray[Any], NDArray[Any]]:
        return self.x.copy(), self.u.copy()

    def _extrapolate(self, points: list[Any]) -> None:
        """Take the combination of points whose change is smallest, if it lowers the model."""
        root = np.sqrt(np.maximum(self.H, 0.0))
        changes = np.array([root * (b[0] - a[0]) for a, b in pairwise(points)])
        K = changes @ changes.T
        K[np.diag_indices(len(K))] += 1e-12 * np.trace(K)
        try:
            weights = np.linalg.solve(K, np.ones(len(K)))
        except np.linalg.LinAlgError:
            return
        if not np.isfinite(weights).all() or weights.sum() == 0:
            return
        weights /= weights.sum()
        x, u = (sum(t * p[i] for t, p in zip(weights, points[1:], strict=True)) for i in (0, 1))
        if self.positive and (x < 0).any():
            return
        if self._value(x, u) < self._value(self.x, self.u):
            self.x[:], self.u[:] = x, u
            self.sums = float(self.root @ u) if self.total > 0 else 0.0

    def _value(self, x: Any, u: Any) -> float:
        """Value of the model, the intercept being best."""
        value = float(self.c @ (x - self.old)) + 0.5 * float(u @ u)
        if self.total > 0:
            value -= 0.5 * float(self.root @ u) ** 2 / self.total
        return value + float(self.limits @ np.abs(x)) + 0.5 * self.mu * float(x @ x)

    def slopes(self, S: NDArray[Any]) -> NDArray[Any]:
        """Return derivatives of the smooth part of the model by the coefficients S."""
        q = np.empty(S.size)
        if self.sparse:
            kernels.model_gradient_csc(*self.columns, S, self.u, q)
        else:
            X, W = self.columns
            kernels.model_gradient_dense(X, W[S], self.root * self.u, q)
        q += self.c[S] + self.mu * self.x[S] - self.means[S] * self.sums
        return q


def _gram_form(
    solver: Any, state: Any, G: Any, H: NDArray[Any], slopes: NDArray[Any], limits: NDArray[Any],
    positive: bool, x: NDArray[Any],
) -> None:  # fmt: skip
    """Minimise the model with these slopes at x, in place."""
    root = np.sqrt(H)
    inverse = np.where(root > 0, 1.0 / np.where(root > 0, root, 1.0), 0.0)
    scaled, q = x * root, slopes * inverse
    # In units in which single precision does not overflow; powers of 2 round nothing.
    size = max(np.abs(scaled).max(initial=0.0), np.abs(q).max(initial=0.0))
    unit = np.ldexp(1.0, np.frexp(size)[1])
    scaled /= unit
    moving = scaled.copy()
    _solve(solver, state, G, q / unit, moving, limits * inverse / unit, positive)
    changed = moving != scaled
    x[changed] = moving[changed] * inverse[changed] * unit


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

    S = np.flatnonzero((x != 0) & (np.diagonal(G) > 0))
    if S.size == 0:
        return False
    state.count(factorizations=1)
    A = G[np.ix_(S, S)]
    single = A.dtype == np.float32
    factor, solve = (lapack.spotrf, lapack.spotrs) if single else (lapack.dpotrf, lapack.dpotrs)
    part, limit = x[S], limits[S]
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
    bad = (new * part < 0) & ((limit > 0) | positive)
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
    zeros = (x == 0) & (np.diagonal(G) > 0)
    outward = -q[zeros] if positive else np.abs(q[zeros])
    return not bad.any() and bool((outward <= limits[zeros] * (1.0 + 1e-6)).all())
