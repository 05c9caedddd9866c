"""What least squares reads: a design that is centred and weighted without being changed."""

from __future__ import annotations

import copy
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from lowrank_opt.block_coordinate import design
from lowrank_opt.block_coordinate import kernels_squared as kernels

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lowrank_opt.block_coordinate.glm import GLMProblem

__all__ = ["Design", "Visit", "visit"]

_NONE = np.empty(0)


class Visit(NamedTuple):
    """What one visit of the data gives.

    Parameters
    ----------
    center : float
        The best intercept of the model without coefficients; 0 if there is none.
    u : ndarray of shape (n,)
        Its weighted residual.
    raw : ndarray of shape (p,)
        Squared norms of the columns as they are.
    means, squares : ndarray
        Of the columns, and of the columns centred; without intercept empty, and `raw`.
    c : ndarray of shape (p,)
        Products of the (centred) columns with `u`.
    """

    center: float
    u: NDArray[Any]
    raw: NDArray[Any]
    means: NDArray[Any]
    squares: NDArray[Any]
    c: NDArray[Any]


def visit(smooth: GLMProblem) -> Visit:
    """Read the data of a problem with the squared loss and one output, once.

    Parameters
    ----------
    smooth : GLMProblem
        The problem.
    """
    X, y, s = smooth.X, smooth.y, smooth.sample_weight
    n, p = X.shape
    total = float(n) if s is None else float(np.sum(s))
    center = 0.0
    u = y.copy() if s is None else s * y
    if smooth.fit_intercept:
        center = float(np.sum(u)) / total
        u = y - center
        center += float(np.sum(u if s is None else s * u)) / total
        u = y - center
        u = u if s is None else s * u
    raw, c = np.empty(p), np.empty(p)
    means, squares = (np.empty(p), np.empty(p)) if smooth.fit_intercept else (_NONE, raw)
    rest = (u, _NONE if s is None else s, total, raw, means, squares, c)
    setup = kernels.setup_dense if isinstance(X, np.ndarray) else kernels.setup_csc
    setup(*design.arrays(X), *rest)
    return Visit(center, u, raw, means, squares, c)


class Design:
    """Design, targets and weights of a problem with the squared loss and one output.

    Parameters
    ----------
    smooth : GLMProblem
        The problem.

    Attributes
    ----------
    u : ndarray of shape (n,)
        Weighted residual of the model without coefficients, with the best intercept.
    c : ndarray of shape (p,)
        Products of the columns with it.
    squares, means : ndarray
        Squared norms of the centred columns; means, empty without intercept.
    s, roots : ndarray
        Weights of the samples and their roots; empty without weights.
    scale : float
        Unit of gaps.
    """

    def __init__(self, smooth: GLMProblem) -> None:
        self.smooth = smooth
        X, y, s = smooth.X, smooth.y, smooth.sample_weight
        self.n, self.p = X.shape
        self.sparse = not isinstance(X, np.ndarray)
        self.parts: tuple[Any, ...] = design.arrays(X)
        self.s = _NONE if s is None else s
        self.total = float(self.n) if s is None else float(np.sum(s))
        first: Visit = smooth.__dict__.get("first_visit") or visit(smooth)
        self.center, self.u, self.c = first.center, first.u, first.c
        self.means, self.squares = first.means, first.squares
        self.scale = self.half_square(self.u)
        size = float(y @ y) if s is None else float(y @ (s * y))
        self.scale = max(self.scale, 1e-28 * size) or 1.0
        self._norms: Any = None

    @cached_property
    def roots(self) -> NDArray[Any]:
        """Roots of the weights."""
        return np.sqrt(self.s)

    @cached_property
    def inverse(self) -> NDArray[Any]:
        """Inverse weights, 0 for those of 0."""
        return np.where(self.s > 0, 1.0 / np.where(self.s > 0, self.s, 1.0), 0.0)

    def norms(self, mu: float) -> NDArray[Any]:
        """Return the norms of the columns with a ridge term below them."""
        if self._norms is None or self._norms[0] != mu:
            self._norms = mu, np.sqrt(self.squares + mu)
        return self._norms[1]

    def half_square(self, u: NDArray[Any]) -> float:
        """Return half the weighted square of a residual, given times the weights."""
        if self.s.size == 0:
            return 0.5 * float(u @ u)
        return 0.5 * float(u @ (self.inverse * u))

    def multiply(
        self, u: NDArray[Any], active: NDArray[Any], count: int, w: NDArray[Any], mu: float,
        c: NDArray[Any],
    ) -> None:  # fmt: skip
        """Set ``c[j] = X_j' u - mu w[j]`` for the first `count` entries j of `active`."""
        if self.sparse:
            kernels.pass_csc(*self.parts, u, active, count, w, mu, c)
        else:
            kernels.pass_dense(*self.parts, u, self.means, active, count, w, mu, c)

    def add(self, S: NDArray[Any], d: NDArray[Any], out: NDArray[Any]) -> None:
        """Add the weighted columns `S` times `d` to `out`."""
        add = kernels.add_columns_csc if self.sparse else kernels.add_columns_dense
        add(*self.parts, self.s, self.means, S, d, out)

    def sweep(
        self, u: NDArray[Any], w: NDArray[Any], W: NDArray[Any], form: Any, lam: float,
        sweeps: int, history: NDArray[Any],
    ) -> float:  # fmt: skip
        """Do coordinate descent on the coefficients `W`; see the kernels."""
        rest = (w, self.squares, W, W.size, lam, form.weights, form.mu, form.positive)
        if self.sparse:
            return kernels.sweep_csc(
                *self.parts, u, self.s, self.means, self.total, *rest, sweeps, history
            )
        return kernels.sweep_dense(*self.parts, u, self.s, self.means, *rest, sweeps, history)

    def residual(self, w: NDArray[Any]) -> NDArray[Any]:
        """Return the weighted residual at coefficients, from the data."""
        u = self.u.copy()
        S = np.flatnonzero(w)
        self.add(S, -w[S], u)
        self.balance(u)
        return u

    def balance(self, u: NDArray[Any]) -> None:
        """Take the mean off a residual, in place, where there is an intercept."""
        if self.means.size:
            shift = float(np.sum(u)) / self.total
            u -= shift if self.s.size == 0 else shift * self.s

    def intercept(self, w: NDArray[Any]) -> float:
        """Return the best intercept."""
        S = np.flatnonzero(w)
        return self.center - float(self.means[S] @ w[S])

    def restricted(self, S: NDArray[Any]) -> Design:
        """Return the design of the columns `S`, which are copied, for products alone."""
        out = copy.copy(self)
        X: Any = self.smooth.X[:, S] if self.sparse else np.asfortranarray(self.smooth.X[:, S])
        out.parts = (X.data, X.indices, X.indptr) if self.sparse else (X,)
        out.means = self.means[S] if self.means.size else self.means
        return out

    def columns(self, S: NDArray[Any]) -> NDArray[Any]:
        """Return centred columns with the weights' roots as factors, in float64."""
        if not self.sparse:
            out = np.empty((self.n, S.size), order="F")
            kernels.cast_columns(self.parts[0], self.roots, self.means, S, np.ones(S.size), out, 0)
            return out
        out = np.asfortranarray(self.smooth.X[:, S].toarray().astype(np.float64))
        if self.means.size:
            out -= self.means[S]
        return out * self.roots[:, None] if self.s.size else out


class Free:
    """Exact solution in the coefficients without penalty, the others fixed.

    Parameters
    ----------
    design : Design
        The data.
    which : ndarray of int
        The coefficients.
    mu : float
        Their ridge term.
    """

    def __init__(self, design: Design, which: NDArray[Any], mu: float) -> None:
        self.design, self.which, self.mu = design, which, mu
        left, size, right = np.linalg.svd(design.columns(which), full_matrices=False)
        keep = size > max(size.max(initial=0.0) * max(left.shape) * 1e-16, 1e-300)
        self.left, self.size, self.right = left[:, keep], size[keep], right[keep]

    def solve(self, w: NDArray[Any], u: NDArray[Any]) -> None:
        """Change the free entries of `w`, and `u`, in place, to the best ones."""
        design = self.design
        for _ in range(2):
            plain = u if design.s.size == 0 else design.roots * design.inverse * u
            slope = self.size * (self.left.T @ plain)
            if self.mu > 0:
                slope -= self.mu * (self.right @ w[self.which])
            d = self.right.T @ (slope / (self.size**2 + self.mu))
            w[self.which] += d
            design.add(self.which, -d, u)
