"""A problem as block descent sees it: blocks, limits, values, slopes and gaps.

Arrays of numbers of samples are (k, n), one row an output; coefficients (p, k).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp

from lowrank_opt.block_coordinate import design
from lowrank_opt.block_coordinate import kernels_block_working_set as kernels
from lowrank_opt.block_coordinate.composite import limits_of
from lowrank_opt.block_coordinate.losses import (
    Huber,
    Logistic,
    Poisson,
    Softmax,
    Squared,
    loss_conjugate,
    loss_curvature,
    loss_slope,
    total_loss,
    weigh,
)
from lowrank_opt.numerics.penalties import (
    MCP,
    SCAD,
    Box,
    ElasticNet,
    GroupL1,
    NonNegative,
    WeightedL1,
)

__all__ = ["BlockView", "make_rule"]

# Largest curvature of a loss by its predictors, as a factor of the squared norm of their change.
_SMOOTHNESS = {Squared: 1.0, Huber: 1.0, Logistic: 0.25, Softmax: 0.5, Poisson: np.inf}
# Below this part of the columns, their products with residuals are taken one by one.
_PART = 0.5
# Least curvature of a sample, or of a number, against its largest.
_FLOOR = 1e-8
# Largest block whose products of columns are kept.
_SMALL = 50


def make_rule(penalty: Any, n_features: int, n_outputs: int) -> tuple[Any, float, Any]:
    """Return a penalty as the kernels see it, its ridge term, and the blocks of the features.

    Parameters
    ----------
    penalty : named tuple
        A penalty of :class:`~lowrank_opt.block_coordinate.CompositeProblem`.
    n_features, n_outputs : int
        Shape of the coefficients.

    Returns
    -------
    BlockRule, float, ndarray of shape (n_features,)
        Rule, ridge term, and the number of the block of each feature.
    """
    kind, positive, limits, gamma, low, high, mu = kernels.ENTRY, False, 0.0, 1.0, 0.0, 0.0, 0.0
    labels = np.arange(n_features)
    if isinstance(penalty, GroupL1):
        kind, positive = kernels.GROUP, bool(penalty.positive)
        # Numbers that no feature has are left out.
        used, labels = np.unique(np.asarray(penalty.groups), return_inverse=True)
        weights = np.ones(used.size)
        if penalty.weights is not None:
            weights = np.asarray(penalty.weights, float)[used]
        limits = limits_of(penalty.alpha, weights)
    elif isinstance(penalty, WeightedL1):
        limits = limits_of(penalty.alpha, penalty.weights).reshape(-1)
    elif isinstance(penalty, ElasticNet):
        limits, mu = penalty.alpha * penalty.l1_ratio, penalty.alpha * (1 - penalty.l1_ratio)
    elif isinstance(penalty, Box):
        kind, low, high = kernels.BOX, penalty.low, penalty.high
    elif isinstance(penalty, (MCP, SCAD)):
        kind = kernels.MINIMAX if isinstance(penalty, MCP) else kernels.SMOOTHLY
        limits, gamma = penalty.alpha, penalty.gamma
    else:
        positive, limits = isinstance(penalty, NonNegative), penalty.alpha
    limits = np.atleast_1d(np.asarray(limits, np.float64))
    rule = kernels.BlockRule(kind, positive, limits, float(gamma), float(low), float(high))
    return rule, float(mu), labels.astype(np.int64)


class BlockView:
    """What can be rebuilt from a problem with the same bits."""

    def __init__(self, problem: Any, other: BlockView | None = None) -> None:
        smooth = problem.smooth
        self.problem, self.smooth = problem, smooth
        X = smooth.X
        self.n, self.p = X.shape
        self.k = smooth.n_outputs
        self.rule, mu, labels = make_rule(problem.penalty, self.p, self.k)
        self.mu = mu + smooth.l2
        self.convex = self.rule.kind not in (kernels.MINIMAX, kernels.SMOOTHLY)
        self.gapped = problem.measure == "gap"
        self.sparse = sp.issparse(X)
        same = other is not None and other.smooth is smooth
        if same and np.array_equal(labels, other.labels):
            for name in (
                "labels", "order", "ptr", "design", "y", "a", "total", "squares", "frobenius",
                "norms", "lips", "n_blocks", "places", "grams",
            ):  # fmt: skip
                setattr(self, name, getattr(other, name))
        else:
            self._prepare(X, labels)
        limits = self.rule.limits
        if limits.size > 1 and not np.isfinite(limits).all():
            per = np.isinf(limits).reshape(-1, 1 if self.rule.kind == kernels.GROUP else self.k)
            self.dead = per.all(axis=1)
        else:
            self.dead = np.full(self.n_blocks, bool(np.isinf(limits[0])))
        self.beta = _SMOOTHNESS[type(smooth.loss)]
        self.graded = -1

    def _prepare(self, X: Any, labels: np.ndarray) -> None:
        smooth = self.smooth
        self.labels = labels
        self.order = np.argsort(labels, kind="stable").astype(np.int64)
        counts = np.bincount(labels)
        self.n_blocks = counts.size
        self.ptr = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        kind = kernels.SparseColumns if self.sparse else kernels.DenseColumns
        self.design = kind(*design.arrays(X))
        y = smooth.y
        self.y = np.ascontiguousarray(y[None] if y.ndim == 1 else y.T)
        s = smooth.sample_weight
        self.squares = smooth.column_squares
        self.a, self.total = np.zeros(self.p), 0.0
        if smooth.fit_intercept and not isinstance(smooth.loss, Softmax):
            self.total = float(self.n if s is None else s.sum())
            self.a = self.column_sums(s)
            centred = self.squares - self.a**2 / self.total
            # What is left of a constant column is rounding.
            self.squares = np.where(centred > 1e-13 * self.squares, centred, 0.0)
        self.frobenius = np.sqrt(np.bincount(labels, self.squares, minlength=self.n_blocks))
        sizes = np.where((counts > 1) & (counts <= _SMALL), counts * counts, 0)
        self.places = np.where(sizes > 0, np.cumsum(sizes) - sizes, -1)
        self.grams = np.zeros(int(sizes.sum()))
        self.norms = np.maximum(self.frobenius, 1e-12 * self.frobenius.max() + 1e-300)
        self.lips = np.full(self.n_blocks, np.nan)
        if self.n_blocks == self.p:
            self.lips = self.squares[self.order]

    # -- samples -----------------------------------------------------------------------------------

    def _losses(self, name: Any, z: np.ndarray) -> Any:
        if self.smooth.y.ndim == 1:
            return name(self.smooth.loss, self.smooth.y, z[0])
        return name(self.smooth.loss, self.smooth.y, z.T)

    def _rows(self, values: Any) -> np.ndarray:
        values = weigh(np.asarray(values), self.smooth.sample_weight)
        return np.ascontiguousarray(values[None] if values.ndim == 1 else values.T)

    def loss(self, z: np.ndarray) -> float:
        """Weighted sum of the losses."""
        if isinstance(self.smooth.loss, Squared):
            r = z - self.y
            s = self.smooth.sample_weight
            return 0.5 * float(np.sum(r * r if s is None else s * r * r))
        z = z[0] if self.smooth.y.ndim == 1 else z.T
        return total_loss(self.smooth.loss, self.smooth.y, z, self.smooth.sample_weight)

    def slopes(self, z: np.ndarray) -> np.ndarray:
        """Weighted derivatives of the losses, (k, n)."""
        return self._rows(self._losses(loss_slope, z))

    def curvature(self, z: np.ndarray, damping: float) -> tuple[np.ndarray, np.ndarray]:
        """Return ``h`` and ``P`` of the model at `z`.

        `damping` is the least curvature relative to that of a model above the loss everywhere:
        for non-convex penalties, and for the linear part of Huber's loss, which has none.
        """
        s, loss = self.smooth.sample_weight, self.smooth.loss
        none = np.empty((0, 0))
        if isinstance(loss, Squared):
            return (np.empty(0) if s is None else s), none
        if isinstance(loss, Softmax):
            if damping > 0:
                return self.beta * (np.ones(self.n) if s is None else s), none
            P = np.ascontiguousarray((self._losses(loss_slope, z) + self.smooth.y).T)
            return (np.empty(0) if s is None else s), P
        h = loss_curvature(loss, self.smooth.y, z[0])
        if isinstance(loss, Huber):
            far = np.abs(z[0] - self.smooth.y)
            h = np.maximum(h, damping * loss.delta / np.maximum(far, loss.delta))
        elif damping > 0:
            h = np.maximum(h, damping * (self.beta if np.isfinite(self.beta) else self.smooth.y))
        return weigh(np.maximum(h, _FLOOR), s), none

    def column_sums(self, h: np.ndarray | None) -> np.ndarray:
        """``X' h``; ``None``: ones."""
        v = np.ones(self.n) if h is None or h.size == 0 else h
        return self.correlations(v[None])[:, 0]

    def correlations(self, V: np.ndarray, alive: np.ndarray | None = None) -> np.ndarray:
        """``X' V'`` for the features of the blocks that are alive; 0 for the others."""
        columns = None
        if alive is not None and not alive.all():
            columns = np.flatnonzero(alive[self.labels])
        X = self.smooth.X
        few = columns is not None and columns.size < _PART * self.p
        if few or X.dtype != np.float64 or (self.sparse and self.k <= 2):
            out = np.zeros((self.p, self.k if V.shape[0] > 1 else V.shape[0]))
            every = np.arange(self.p) if columns is None else columns
            kernels.column_dots(self.design, V, every, out)
            return out
        if V.shape[0] == 1:
            return np.asarray(X.T @ V[0])[:, None]
        return np.ascontiguousarray(X.T @ V.T)

    def predictors(self, w: np.ndarray, b: np.ndarray) -> np.ndarray:
        """``X w + b`` as (k, n)."""
        z = np.zeros((self.k, self.n)) + b[:, None]
        used = self.used(w)[0]
        kernels.add_columns(self.design, used, np.ascontiguousarray(w[used]), z)
        return z

    def best_intercept(self, z: np.ndarray) -> np.ndarray:
        """Change of the intercepts to the best ones; `z` is updated."""
        shift = np.zeros(self.k)
        if not self.smooth.fit_intercept:
            return shift
        if isinstance(self.smooth.loss, Squared):
            shift = -self.slopes(z).sum(axis=1) / self.total
            z += shift[:, None]
            return shift
        before = self.loss(z)
        for _ in range(20):
            V = self.slopes(z)
            slope = V.sum(axis=1)
            if np.abs(slope).max() <= 1e-14 * np.abs(V).sum():
                break
            h, P = self.curvature(z, 0.0)
            step = -(self.inverse_of_intercepts(h, P) @ slope if P.size else slope / h.sum())
            for _ in range(40):
                after = self.loss(z + step[:, None])
                if after <= before:
                    break
                step = 0.5 * step
            else:
                break
            before = after
            z += step[:, None]
            shift += step
        return shift

    def inverse_of_intercepts(self, h: np.ndarray, P: np.ndarray) -> np.ndarray:
        """Inverse curvature of the intercepts of coupled outputs, on those that sum to 0."""
        scaled = P if h.size == 0 else P * h
        curvature = np.diag(scaled.sum(axis=1)) - scaled @ P.T
        curvature += _FLOOR * float(scaled.sum()) * (np.eye(self.k) - 1.0 / self.k)
        return np.linalg.pinv(curvature, rcond=1e-12)

    # -- values and gaps ---------------------------------------------------------------------------

    def used(self, w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Features with a nonzero coefficient, and blocks with one."""
        features = np.flatnonzero(w[:, 0] if self.k == 1 else w.any(axis=1))
        if self.n_blocks == self.p:
            return features, np.sort(self.labels[features])
        mask = np.zeros(self.n_blocks, bool)
        mask[self.labels[features]] = True
        return features, np.flatnonzero(mask)

    def features_of(self, blocks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the features of blocks, one block after the other, and where each one starts."""
        sizes = self.ptr[blocks + 1] - self.ptr[blocks]
        ptr = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        if ptr[-1] == blocks.size:
            return self.order[self.ptr[blocks]], ptr
        at = np.arange(ptr[-1]) + np.repeat(self.ptr[blocks] - ptr[:-1], sizes)
        return self.order[at], ptr

    def rest(self, w: np.ndarray) -> float:
        """Penalty and ridge term of feasible coefficients."""
        features, blocks = self.used(w)
        rows = w[features]
        ridge = 0.5 * self.mu * float(np.sum(rows * rows)) if self.mu else 0.0
        if self.rule.kind == kernels.BOX:
            return ridge
        features, ptr = self.features_of(blocks)
        return ridge + kernels.penalty_of_blocks(self.rule, blocks, ptr, w[features])

    def gap(
        self, objective: float, z: np.ndarray, V: np.ndarray, w: np.ndarray, c: np.ndarray,
        blocks: np.ndarray,
    ) -> tuple[float, float]:  # fmt: skip
        """Return the duality gap of the problem on some blocks, and the multiple of V it is for."""
        smooth, mu = self.smooth, self.mu
        limited = self.rule.kind != kernels.BOX
        best_scale = 1.0
        if isinstance(smooth.loss, Squared):
            s = smooth.sample_weight
            below = float(np.sum(V * V if s is None else V * V / np.where(s > 0, s, 1.0)))
            below += mu * float(np.sum(w * w))
            best_scale = max(-float(np.sum(V * self.y)) / below, 0.0) if below > 0 else 1.0
        if not limited:
            scales = {1.0}
        else:
            ratio = kernels.largest_ratio(
                self.rule, blocks, self.order, self.ptr, c + mu * w if mu > 0 else c
            )
            largest = 1.0 / ratio if ratio > 0 else np.inf
            scales = {min(largest, best_scale)} | ({1.0} if mu > 0 else set())
        best, at = -np.inf, 0.0
        theta = self._losses(loss_slope, z)
        theta = weigh(
            theta, None if smooth.sample_weight is None else np.sign(smooth.sample_weight)
        )
        for t in scales:
            conjugates = loss_conjugate(smooth.loss, smooth.y, t * theta)
            s = smooth.sample_weight
            terms = float(np.sum(conjugates)) if s is None else float(np.sum(s @ conjugates))
            value = -terms - self._conjugate(-t * c, blocks)
            if value > best:
                best, at = value, t
        return objective - best, at

    def _conjugate(self, u: np.ndarray, blocks: np.ndarray) -> float:
        rule, mu = self.rule, self.mu
        if rule.kind == kernels.BOX:
            if mu > 0:
                x = np.clip(u / mu, rule.low, rule.high)
                return float(np.sum(u * x - 0.5 * mu * x * x))
            return float(np.sum(np.maximum(rule.low * u, rule.high * u)))
        if mu == 0:
            return 0.0
        u = np.maximum(u, 0.0) if rule.positive else np.abs(u)
        if rule.kind == kernels.GROUP:
            squares = np.bincount(self.labels, (u * u).sum(axis=1), minlength=self.n_blocks)
            above = np.maximum(np.sqrt(squares) - rule.limits, 0.0)[blocks]
        else:
            limits = rule.limits
            above = np.maximum(u - (limits.reshape(u.shape) if limits.size > 1 else limits), 0.0)
            above = above[blocks]
        return float(np.sum(above * above)) / (2.0 * mu)

    def bounds(
        self, blocks: np.ndarray, h: np.ndarray, P: np.ndarray, a: Any, total: float
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return bounds of the curvature of blocks of a model, ``places`` and ``grams``."""
        smooth = self.smooth
        if isinstance(smooth.loss, Squared) or P.size:
            missing = blocks[np.isnan(self.lips[blocks])]
            if missing.size:
                s = np.empty(0) if smooth.sample_weight is None else smooth.sample_weight
                kernels.block_bounds(
                    self.design, missing, self.order, self.ptr, s, self.a, self.total, self.places,
                    self.grams, self.lips,
                )  # fmt: skip
        places, grams = self.places, self.grams
        if P.size:
            places, grams = np.full(self.n_blocks, -1), np.empty(0)
            out = 0.5 * self.lips[:, None]
            if self.n_blocks == self.p:
                out = self._coupled_bounds(blocks, h, P, places, grams)
        elif isinstance(smooth.loss, Squared):
            out = self.lips[:, None]
        else:
            grams = np.empty(self.grams.size)
            out = np.zeros(self.n_blocks)
            kernels.block_bounds(
                self.design, blocks, self.order, self.ptr, h, a, total, places, grams, out
            )
            out = out[:, None]
        if not (out[blocks] > 0).all():
            out = np.where(out > 0, out, 1.0)
        return np.ascontiguousarray(out), places, grams

    def _coupled_bounds(
        self, blocks: np.ndarray, h: np.ndarray, P: np.ndarray, places: Any, grams: Any
    ) -> np.ndarray:
        # diag(p) - p p' is below diag(2 p (1 - p)), and below 1/2.
        out = np.ones((self.n_blocks, self.k))
        one = np.empty(self.n_blocks)
        for c in range(self.k):
            weights = 2.0 * P[c] * (1.0 - P[c]) * (1.0 if h.size == 0 else h)
            kernels.block_bounds(
                self.design, blocks, self.order, self.ptr, weights, self.a, 0.0, places, grams, one
            )
            least, most = _FLOOR * self.lips[blocks], 0.5 * self.lips[blocks]
            out[blocks, c] = np.minimum(np.maximum(one[blocks], least), most)
        return np.max(out, axis=1, keepdims=True) if self.rule.kind == kernels.GROUP else out
