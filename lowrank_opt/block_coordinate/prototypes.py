"""Prototype clustering with a Laplacian term, by block-coordinate minimisation of bounds."""

from __future__ import annotations

import warnings
from dataclasses import KW_ONLY, dataclass, field
from functools import cached_property
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol, runtime_checkable

import numpy as np

from lowrank_opt.block_coordinate.affinity import in_threads
from lowrank_opt.core.errors import AccuracyWarning, ProblemError, UnsupportedBackendError
from lowrank_opt.core.params import (
    COUNT,
    TOLERANCE,
    Interval,
    StrOptions,
    make_rng,
    validate_parameters,
)
from lowrank_opt.core.problem import Certificate, Problem, digest
from lowrank_opt.core.solver import Solver
from lowrank_opt.core.state import State
from lowrank_opt.numerics._arrays import real_array, sparse_matrix

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

__all__ = ["BoundOptimizer", "LaplacianPrototypeProblem", "PrototypeAssignments"]

# Rows that are treated together; sums are formed block by block, so that their bits do not depend
# on the number of threads.
_BLOCK = 4096
# A cluster with less than this part of the points has none.
_EMPTY = 1e-12
# How often an empty cluster is moved to a far point, before it is left where it is.
_RESTARTS = 2
_SYMMETRY = 1e-6
# Costs less than this part of the largest one are rounding.
_NO_DISTANCE = 1e-12


class PrototypeAssignments(NamedTuple):
    """A point of the problem: who belongs where, and what the clusters look like.

    Parameters
    ----------
    assignments : ndarray of shape (n_points, n_clusters)
        Rows on the simplex.
    prototypes : ndarray of shape (n_clusters, n_features)
        One a cluster.
    """

    assignments: Any
    prototypes: Any

    @property
    def labels(self) -> NDArray[np.int64]:
        """The best cluster of every point."""
        return np.argmax(self.assignments, axis=1)


@runtime_checkable
class HasPrototypes(Protocol):
    """Features and prototypes, joined by assignments, with an affinity of the points."""

    @property
    def affinity(self) -> Any: ...
    @property
    def shift(self) -> Any: ...
    def costs(self, prototypes: Any, rows: slice) -> Any: ...
    def weighted_sums(self, S: Any, prototypes: Any, rows: slice) -> Any: ...


@dataclass(frozen=True, eq=False, repr=False)
class LaplacianPrototypeProblem(Problem):
    r"""Clusters around prototypes, in which points that are joined like to be in one cluster.

    .. math:: \min_{S, m}\; T \sum_{pk} s_{pk} \log s_{pk} + \sum_{pk} s_{pk} a_{pk}
        - \frac\lambda2 \sum_{pq} w_{pq} s_p^\top s_q
        \quad\text{s.t.}\quad s_p \in \Delta_K,\; s_p = e_{y_p} \text{ for labelled } p,

    with :math:`a_{pk} = \|f_p - m_k\|^2`. On vertices of the simplices this is, up to a constant,
    the discrete objective :math:`\sum_{pk} s_{pk} a_{pk} + \frac\lambda4 \sum_{pq} w_{pq}
    \|s_p - s_q\|^2`. The problem is not convex.

    Parameters
    ----------
    F : array-like of shape (n_points, n_features)
        Features of the points, labelled ones included; float32 or float64.
    W : array-like or scipy sparse of shape (n_points, n_points), or None, default=None
        Affinity of two points, at least 0, such as
        :func:`~lowrank_opt.block_coordinate.knn_affinity`. ``None``: none, for ``lam=0``.
    n_clusters : int or None, default=None
        Number K of clusters; ``None``: as many as `prototypes` or `labels` have.
    lam : float, default=1.0
        Weight of the affinity, at least 0, in units of squared features.
    labels : array-like of int of shape (n_points,), or None, default=None
        Cluster of each labelled point, -1 for the others. With labels every cluster needs one,
        unless `prototypes` are given.
    temperature : float, default=1.0
        Weight T of the entropy, at least 0, in units of squared features. 0: assignments are
        vertices, as in k-means.
    unary : {"squared", "gaussian"}, default="squared"
        Cost of a point and a prototype: the squared distance, whose best prototypes are means, or
        :math:`-\exp(-\|f - m\|^2 / 2 \sigma^2)`, whose best prototypes are modes.
    bandwidth : float or None, default=None
        :math:`\sigma` of "gaussian"; ``None``: the root mean squared distance of joined points
        (without any, of points from their mean).
    prototypes : array-like of shape (n_clusters, n_features), or None, default=None
        Prototypes that are fixed, or, with `update_prototypes`, from which a solver starts.
        ``None``: means of the labelled points, or, without labels, up to the solver's start.
    update_prototypes : bool, default=True
        Whether prototypes are unknowns. ``False`` needs `prototypes` or `labels`.
    psd_shift : "auto" or float, default="auto"
        Added to the diagonal of W. On vertices it changes nothing; it makes parallel updates of
        all assignments safe: they never raise the objective. "auto": row by row, what is missing
        for that (see Notes).
    symmetrize : bool, default=True
        Replace W by ``(W + W') / 2``. Without it an asymmetric W is an error: the objective would
        not be what the updates lower.

    Attributes
    ----------
    affinity : csr_array of shape (n_points, n_points)
        The symmetric affinity.
    shift : ndarray of shape (n_points,)
        What is added to its diagonal.
    known : ndarray of int64, of shape (n_points,)
        The labels, -1 where there is none.
    spread : float
        Root mean squared distance of the points from their mean, which distances of prototypes
        are measured by.

    Raises
    ------
    ProblemError
        Features, affinities or labels that are not finite, negative or of the wrong shape; an
        asymmetric W with ``symmetrize=False``; a class without a labelled point; more clusters
        than points.
    ParameterError
        A parameter is out of range.

    Notes
    -----
    A point of the problem, ``Result.x``, is a
    :class:`~lowrank_opt.block_coordinate.PrototypeAssignments`. The certificate's residual is that
    of the fixed point: the largest difference of an assignment from the best response to all
    others (at temperature 0: the largest loss against the best response, relative to the mean
    range of the costs), and the largest distance of a prototype from the best one, relative to the
    spread. Its ``details`` have both, the discrete objective of the rounded assignments and the
    number of empty clusters.

    Shift: an update minimises a bound whose gap at a step D is at least ``T |D|^2`` (Pinsker's
    inequality, for rows of sum 0) plus ``lam / 2 <D, (W + diag) D>``. By Gershgorin's theorem a
    shift of ``max(0, r_p - w_pp - 2 T / lam)`` is enough, with r_p the sum of w_pq over the other
    unlabelled q: at high temperature none is needed.

    `auto_solver` is :class:`~lowrank_opt.block_coordinate.BoundOptimizer`.

    References
    ----------
    .. [1] I. M. Ziko, M. Boudiaf, J. Dolz, E. Granger, I. Ben Ayed, "Transductive Few-Shot
       Learning: Clustering is All You Need?", 2021. :arxiv:`2106.09516`
    .. [2] I. M. Ziko, E. Granger, I. Ben Ayed, "Scalable Laplacian K-modes", NeurIPS 2018.
       :arxiv:`1810.13044`

    Examples
    --------
    >>> import numpy as np
    >>> from lowrank_opt.block_coordinate import LaplacianPrototypeProblem, knn_affinity
    >>> F = np.array([[0.0], [0.1], [1.0], [1.1]])
    >>> problem = LaplacianPrototypeProblem(F, knn_affinity(F, 2), labels=[0, -1, 1, -1])
    >>> problem.n_clusters, problem.shift.tolist()
    (2, [0.0, 0.0, 0.0, 0.0])
    """

    F: Any
    W: Any = None
    n_clusters: int | None = None
    _: KW_ONLY
    lam: float = 1.0
    labels: Any = None
    temperature: float = 1.0
    unary: str = "squared"
    bandwidth: float | None = None
    prototypes: Any = None
    update_prototypes: bool = True
    psd_shift: str | float = "auto"
    symmetrize: bool = True
    known: Any = field(init=False)
    affinity: Any = field(init=False)
    shift: Any = field(init=False)

    def __post_init__(self) -> None:
        self._check_parameters()
        F, _ = real_array("F", self.F)
        if not isinstance(F, np.ndarray):
            raise UnsupportedBackendError(
                f"F is an array of {type(F).__module__}; the problem takes NumPy arrays: for many "
                "small problems on other devices see solve_tasks"
            )
        if F.ndim != 2 or 0 in F.shape:
            raise ProblemError(
                f"F has shape {F.shape}; features of shape (n_points, n_features) are needed, "
                "neither of them 0"
            )
        self._set(F=np.ascontiguousarray(F))
        self._set(known=self._labels())
        self._set_prototypes()
        self._set(affinity=self._symmetric())
        self._set(shift=self._shift())

    def _set(self, **values: Any) -> None:
        for name, value in values.items():
            object.__setattr__(self, name, value)

    # -- checks -----------------------------------------------------------------------------------

    def _check_parameters(self) -> None:
        names = (
            "n_clusters", "lam", "temperature", "unary", "bandwidth", "update_prototypes",
            "psd_shift", "symmetrize",
        )  # fmt: skip
        validate_parameters(
            type(self).__name__,
            {name: getattr(self, name) for name in names},
            {
                "n_clusters": [None, COUNT],
                "lam": [Interval(Real, 0, None, closed="left")],
                "temperature": [Interval(Real, 0, None, closed="left")],
                "unary": [StrOptions({"squared", "gaussian"})],
                "bandwidth": [None, Interval(Real, 0, None, closed="neither")],
                "update_prototypes": ["boolean"],
                "psd_shift": [StrOptions({"auto"}), Interval(Real, 0, None, closed="left")],
                "symmetrize": ["boolean"],
            },
        )

    def _labels(self) -> NDArray[np.int64]:
        n = len(self.F)
        if self.labels is None:
            return np.full(n, -1, np.int64)
        labels = np.asarray(self.labels)
        if labels.shape != (n,):
            raise ProblemError(
                f"labels has shape {labels.shape} and F has shape {self.F.shape}; one label a "
                "point is needed, -1 for points without one"
            )
        if labels.dtype.kind == "b" or not np.all(np.isfinite(labels.astype(np.float64))):
            raise ProblemError(f"labels has dtype {labels.dtype}; integers are needed, or -1")
        known = labels.astype(np.int64)
        wrong = (known != labels) | (known < -1)
        if wrong.any():
            p = int(np.argmax(wrong))
            raise ProblemError(
                f"labels[{p}] = {labels[p]}; classes 0, 1, ... are needed, or -1 for a point "
                "without a label"
            )
        return known

    def _set_prototypes(self) -> None:
        n, d = self.F.shape
        n_classes = int(self.known.max()) + 1
        fixed = self.prototypes
        if fixed is not None:
            fixed = real_array("prototypes", fixed)[0].astype(np.float64)
            if fixed.ndim != 2 or fixed.shape[1] != d or not len(fixed):
                raise ProblemError(
                    f"prototypes has shape {fixed.shape}; expected (n_clusters, {d})"
                )
        K = self.n_clusters
        if K is None:
            K = n_classes if fixed is None else len(fixed)
        if K < 1:
            raise ProblemError("n_clusters is None; give it, or labels, or prototypes")
        if fixed is not None and len(fixed) != K:
            raise ProblemError(
                f"prototypes has shape {fixed.shape} with n_clusters={K}; expected one a cluster"
            )
        if n_classes > K:
            raise ProblemError(
                f"labels has class {n_classes - 1} with n_clusters={K}; classes are 0 to {K - 1}"
            )
        if n < K:
            raise ProblemError(f"n_clusters={K} with {n} points; expected at most as many")
        if n_classes and fixed is None:
            missing = np.flatnonzero(np.bincount(self.known[self.known >= 0], minlength=K) == 0)
            if missing.size:
                raise ProblemError(
                    f"labels has no point of class {missing[0]} (n_clusters={K}); every class "
                    "needs a labelled point, or give prototypes"
                )
            fixed = self._class_means(K)
        if fixed is None and not self.update_prototypes:
            raise ProblemError(
                "update_prototypes=False without prototypes and labels; give one of them"
            )
        self._set(n_clusters=int(K), prototypes=fixed)

    def _class_means(self, K: int) -> NDArray[np.float64]:
        means = np.empty((K, self.F.shape[1]))
        for k in range(K):
            means[k] = self.F[self.known == k].mean(axis=0, dtype=np.float64)
        return means

    def _symmetric(self) -> Any:
        from scipy import sparse

        n = len(self.F)
        if self.W is None:
            if self.lam > 0:
                raise ProblemError(
                    f"W is None with lam={self.lam:g}; give an affinity such as "
                    "knn_affinity(F), or lam=0"
                )
            return sparse.csr_array((n, n), dtype=np.float64)
        if hasattr(self.W, "tocsr"):
            W = sparse_matrix("W", self.W).astype(np.float64)
        else:
            dense = real_array("W", self.W)[0]
            if dense.ndim != 2:
                raise ProblemError(f"W has shape {dense.shape}; expected ({n}, {n})")
            W = sparse.csr_array(dense.astype(np.float64))
        if W.shape != (n, n):
            raise ProblemError(
                f"W has shape {W.shape} with {n} points; expected ({n}, {n}), the affinity of "
                "every pair"
            )
        W.sum_duplicates()
        if W.nnz and W.data.min() < 0:
            p, q = _position(W, W.data < 0)
            raise ProblemError(f"W[{p}, {q}] = {W[p, q]:g} is negative; affinities are at least 0")
        skew = sparse.csr_array(W - W.T)
        uneven = np.abs(skew.data)
        if uneven.size and uneven.max() > 0:
            if not self.symmetrize and uneven.max() > _SYMMETRY * W.data.max():
                p, q = _position(skew, uneven == uneven.max())
                raise ProblemError(
                    f"W is not symmetric: W[{p}, {q}] = {W[p, q]:g}, W[{q}, {p}] = {W[q, p]:g}, "
                    "with symmetrize=False; give (W + W.T) / 2, or symmetrize=True"
                )
            W = sparse.csr_array(0.5 * (W + W.T))
        W.sort_indices()
        index = np.int32 if W.nnz < 2**31 else np.int64
        parts = W.data, W.indices.astype(np.int32), W.indptr.astype(index)
        return sparse.csr_array(parts, shape=W.shape)

    def _shift(self) -> NDArray[np.float64]:
        free = (self.known < 0).astype(np.float64)
        if self.psd_shift != "auto":
            return float(self.psd_shift) * free
        if self.lam == 0:
            return np.zeros(len(self.F))
        own = self.affinity.diagonal()
        others = self.affinity @ free - own * free
        with np.errstate(over="ignore"):
            paid = 2.0 * self.temperature / self.lam  # infinite for a tiny lam
        return np.maximum(others - own - paid, 0.0) * free

    # -- what solvers use -------------------------------------------------------------------------

    @property
    def dtype(self) -> np.dtype[Any]:
        """float32 or float64, of the features; answers have it."""
        dtype: np.dtype[Any] = self.F.dtype
        return dtype

    @property
    def shape(self) -> tuple[int, int, int]:
        """Numbers of points, clusters and features."""
        return len(self.F), int(self.n_clusters or 0), self.F.shape[1]

    @cached_property
    def centre(self) -> NDArray[np.float64]:
        """Mean of the points; products are formed around it, so that no digits are lost."""
        return self.F.mean(axis=0, dtype=np.float64)

    @cached_property
    def spread(self) -> float:
        """Root mean squared distance of the points from their mean; 1 where that is 0."""
        total = 0.0
        for rows in blocks(len(self.F)):
            total += float(np.sum((self.F[rows] - self.centre) ** 2))
        return float(np.sqrt(total / len(self.F))) or 1.0

    @cached_property
    def neighbor_distance(self) -> float:
        """Root mean squared distance of joined points; of points from their mean without any."""
        W = self.affinity.tocoo()
        joined = W.coords[0] != W.coords[1]
        rows, columns, weights = W.coords[0][joined], W.coords[1][joined], W.data[joined]
        total = 0.0
        for part in blocks(len(weights), 65536):
            step = self.F[rows[part]].astype(np.float64) - self.F[columns[part]]
            total += float(weights[part] @ np.sum(step * step, axis=1))
        return float(np.sqrt(total / weights.sum())) if total > 0 else self.spread

    @property
    def sigma(self) -> float:
        """Bandwidth of the Gaussian cost."""
        return self.neighbor_distance if self.bandwidth is None else float(self.bandwidth)

    def costs(self, prototypes: NDArray[np.float64], rows: slice) -> NDArray[np.float64]:
        """Return the costs of some points and all prototypes, by products of matrices.

        Parameters
        ----------
        prototypes : ndarray of shape (n_clusters, n_features)
            Prototypes.
        rows : slice
            Which points.
        """
        near, m = self.F[rows] - self.centre, prototypes - self.centre
        squares = np.einsum("pd,pd->p", near, near)[:, None] + np.einsum("kd,kd->k", m, m)
        distances = np.maximum(squares - 2.0 * (near @ m.T), 0.0)
        if self.unary == "squared":
            return distances
        return -np.exp(distances / (-2.0 * self.sigma**2))

    def weighted_sums(
        self, S: NDArray[np.float64], prototypes: NDArray[np.float64], rows: slice
    ) -> NDArray[np.float64]:
        """Return what some points add to masses (first column) and sums of the best prototypes.

        Sums are those of the points less `centre`.

        Parameters
        ----------
        S : ndarray of shape (n_points, n_clusters)
            Assignments.
        prototypes : ndarray of shape (n_clusters, n_features)
            The present ones, on which the weights of modes depend.
        rows : slice
            Which points.
        """
        weights = S[rows]
        if self.unary == "gaussian":
            weights = weights * -self.costs(prototypes, rows)
        out = np.empty((weights.shape[1], self.F.shape[1] + 1))
        out[:, 0] = weights.sum(axis=0)
        out[:, 1:] = weights.T @ (self.F[rows] - self.centre)
        return out

    # -- Problem ----------------------------------------------------------------------------------

    def point(self, x: Any) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return assignments and prototypes of a point, in float64; raise where shapes are wrong.

        Parameters
        ----------
        x : PrototypeAssignments
            A point of this problem.
        """
        n, K, d = self.shape
        try:
            S, m = x
        except (TypeError, ValueError) as error:
            raise ProblemError(
                f"x is a {type(x).__name__}; expected PrototypeAssignments(assignments, prototypes)"
            ) from error
        S, m = np.asarray(S, np.float64), np.asarray(m, np.float64)
        if S.shape != (n, K) or m.shape != (K, d):
            raise ProblemError(
                f"x has assignments of shape {S.shape} and prototypes of shape {m.shape}; "
                f"expected ({n}, {K}) and ({K}, {d})"
            )
        return S, m

    def objective(self, x: Any) -> float:
        """Objective at `x`, shift included; see the class."""
        from scipy.special import xlogy

        S, m = self.point(x)
        a = self._plain_costs(m)
        pull = self.affinity @ S + self.shift[:, None] * S
        entropy = self.temperature * np.sum(xlogy(S, S)) if self.temperature else 0.0
        return float(entropy + np.sum(S * a) - 0.5 * self.lam * np.sum(S * pull))

    def _plain_costs(self, m: Any) -> NDArray[np.float64]:
        a = np.empty((len(self.F), len(m)))
        for rows in blocks(len(self.F)):
            part = self.F[rows].astype(np.float64)
            for k, own in enumerate(m):
                a[rows, k] = np.sum((part - own) ** 2, axis=1)
        return a if self.unary == "squared" else -np.exp(-0.5 * a / self.sigma**2)

    def certificate(self, x: Any) -> Certificate:
        """Grade `x` by its distance from a fixed point; see the class."""
        from scipy.special import softmax

        S, m = self.point(x)
        a = self._plain_costs(m)
        z = self.lam * (self.affinity @ S + self.shift[:, None] * S) - a
        free = self.known < 0
        rows = 0.0
        if free.any():
            if self.temperature > 0:
                best = softmax(z[free] / self.temperature, axis=1)
                rows = float(np.max(np.abs(best - S[free])))
            else:
                top = z[free].max(axis=1)
                loss = top - np.sum(S[free] * z[free], axis=1)
                range_ = float(np.mean(top - z[free].min(axis=1)))
                rows = float(np.max(loss)) / (range_ or 1.0)
            rows = max(rows, float(np.max(np.abs(S[free].sum(axis=1) - 1.0))), -float(S.min()))
        fixed = np.flatnonzero(~free)
        if fixed.size:
            targets = np.zeros((fixed.size, len(m)))
            targets[np.arange(fixed.size), self.known[fixed]] = 1.0
            rows = max(rows, float(np.max(np.abs(S[fixed] - targets))))
        weights = S if self.unary == "squared" else S * -a
        moved = 0.0
        masses = S.sum(axis=0)
        for k in range(len(m)):
            if not self.update_prototypes:
                step = m[k] - self.prototypes[k]
            elif masses[k] <= _EMPTY * len(S):
                continue
            else:
                step = np.zeros(len(m[k]))
                for part in blocks(len(self.F)):
                    step += weights[part, k] @ (self.F[part] - m[k])
                step /= weights[:, k].sum()
            moved = max(moved, float(np.linalg.norm(step)) / self.spread)
        labels = np.argmax(S, axis=1)
        edges = self.affinity.tocoo()
        cut = labels[edges.coords[0]] != labels[edges.coords[1]]
        chosen = float(np.sum(a[np.arange(len(S)), labels]))
        return Certificate(
            max(rows, moved) if np.isfinite(rows + moved) else np.inf,
            "fixed-point residual",
            self.objective(x),
            details={
                "assignment_residual": rows,
                "prototype_residual": moved,
                "discrete_objective": chosen + 0.5 * self.lam * float(edges.data[cut].sum()),
                "n_empty": float(np.sum(masses <= _EMPTY * len(S))),
            },
        )

    def fingerprint(self) -> Mapping[str, Any]:
        """Shape, dtype, parameters and a hash of the data."""
        return {
            "shape": list(self.shape),
            "dtype": str(self.dtype),
            "lam": float(self.lam),
            "temperature": float(self.temperature),
            "unary": self.unary,
            "update_prototypes": bool(self.update_prototypes),
            "hash": digest(
                self.F, self.affinity.data, self.affinity.indices, self.known, self.shift,
                self.prototypes, np.array(self.bandwidth or 0.0),
            ),
        }  # fmt: skip

    def auto_solver(self) -> tuple[str, dict[str, Any]]:
        """:class:`BoundOptimizer` with its defaults."""
        return "BoundOptimizer", {}

    def __repr__(self) -> str:
        n, K, d = self.shape
        known = int(np.sum(self.known >= 0))
        return (
            f"LaplacianPrototypeProblem({n} points of {d} features, {known} labelled, "
            f"{K} clusters, lam={self.lam:g}, temperature={self.temperature:g})"
        )


def blocks(n: int, size: int = _BLOCK) -> Iterator[slice]:
    """Yield the rows 0 to n in blocks."""
    for first in range(0, n, size):
        yield slice(first, min(first + size, n))


def _position(A: Any, mask: Any) -> tuple[int, int]:
    """Row and column of the first stored entry of a mask."""
    e = int(np.argmax(mask))
    return int(np.searchsorted(A.indptr, e, side="right")) - 1, int(A.indices[e])


@dataclass
class PrototypeState(State):
    """State of :class:`BoundOptimizer`.

    Parameters
    ----------
    assignments, prototypes : ndarray of float64
        The iterate.
    restarts : ndarray of int64, of shape (n_clusters,)
        How often each cluster was found empty and moved.
    """

    assignments: Any = None
    prototypes: Any = None
    restarts: Any = None


class _Work:
    """What an iterate implies: costs, and the assignments that follow."""

    def __init__(self, problem: Any, n_threads: int | None) -> None:
        self.problem, self.n_threads = problem, n_threads
        n, K, _ = problem.shape
        self.rows = list(blocks(n))
        self.cost, self.following = np.empty((n, K)), np.empty((n, K))
        self.change = np.inf

    def price(self, prototypes: Any) -> None:
        """Renew the costs."""

        def work(b: int) -> None:
            self.cost[self.rows[b]] = self.problem.costs(prototypes, self.rows[b])

        in_threads(work, range(len(self.rows)), self.n_threads)

    def respond(self, S: Any) -> None:
        """Renew the assignments that follow, and by how much they differ."""
        from lowrank_opt.block_coordinate.kernels_prototypes import assign_rows

        problem, W = self.problem, self.problem.affinity
        changes = np.zeros(len(self.rows))

        def work(b: int) -> None:
            rows = self.rows[b]
            changes[b] = assign_rows(
                W.indptr, W.indices, W.data, problem.shift, self.cost, problem.known,
                float(problem.lam), float(problem.temperature), S, rows.start, rows.stop,
                self.following,
            )  # fmt: skip

        in_threads(work, range(len(self.rows)), self.n_threads)
        self.change = float(np.max(changes))

    def best_prototypes(self, S: Any, prototypes: Any) -> tuple[Any, Any]:
        """Return the best prototypes (a step towards them for modes), and masses of clusters."""
        parts: list[Any] = [None] * len(self.rows)

        def work(b: int) -> None:
            parts[b] = self.problem.weighted_sums(S, prototypes, self.rows[b])

        in_threads(work, range(len(self.rows)), self.n_threads)
        total = np.sum(parts, axis=0)
        masses = S.sum(axis=0) if self.problem.unary == "gaussian" else total[:, 0]
        alive = (masses > _EMPTY * len(S)) & (total[:, 0] > 0)
        moved = prototypes.copy()
        moved[alive] = total[alive, 1:] / total[alive, :1] + self.problem.centre
        return moved, ~alive


class BoundOptimizer(Solver):
    r"""Alternate parallel updates of all assignments and exact updates of the prototypes.

    For :class:`~lowrank_opt.block_coordinate.LaplacianPrototypeProblem`. Where the affinity with
    its shift is positive semi-definite, the pairwise term is concave, and its tangent at the
    present assignments gives a bound that separates over the points:

    .. math:: s_p \leftarrow \operatorname{softmax}\Bigl(\bigl(\lambda \textstyle\sum_q w_{pq} s_q
        - a_p\bigr) / T\Bigr), \qquad
        m_k \leftarrow \sum_p s_{pk} f_p \big/ \sum_p s_{pk} .

    Every point moves at once, and the objective never rises.

    Parameters
    ----------
    max_inner : int, default=5
        Most updates of the assignments between two of the prototypes.
    inner_tol : float, default=0.1
        They end earlier when an update changes assignments by at most this part of what the
        first of them did.
    tol : float, default=1e-6
        Stops when the residual is at most `tol`: the largest change of an assignment that the
        next update would make, and the largest distance of a prototype from the best one,
        relative to the spread of the points.
    max_iter : int, default=1000
        Limit on iterations, each up to `max_inner` updates of the assignments and one of the
        prototypes.
    max_time : float or None, default=None
        Limit on seconds.
    check_every : int or "auto", default=1
        Iterations between two checks of limits and callback.
    n_threads : int or None, default=1
        Threads over blocks of points; ``None``: as many as numba may use. The result has the same
        bits.
    random_state : int, Generator or None, default=0
        Seed of the start by k-means++, where there are neither labels nor prototypes.

    Warns
    -----
    AccuracyWarning
        A cluster has lost its points; its prototype is moved to the point that is farthest from
        its own, at most twice.

    Notes
    -----
    `x0` is a :class:`~lowrank_opt.block_coordinate.PrototypeAssignments`, or prototypes alone.

    Cost per update of the assignments: ``2 K nnz(W)`` flops and ``K`` exponentials a point; of the
    prototypes and costs: ``4 n K d`` flops.

    Guarantee: the objective never rises with ``psd_shift="auto"``; limit points are fixed points.
    Which one depends on the start: the problem is not convex. With ``psd_shift=0`` updates may
    oscillate.

    References
    ----------
    .. [1] I. M. Ziko, M. Boudiaf, J. Dolz, E. Granger, I. Ben Ayed, "Transductive Few-Shot
       Learning: Clustering is All You Need?", 2021. :arxiv:`2106.09516`
    .. [2] I. M. Ziko, J. Dolz, E. Granger, I. Ben Ayed, "Laplacian Regularized Few-Shot
       Learning", ICML 2020. :arxiv:`2006.15486`

    Examples
    --------
    >>> import numpy as np
    >>> from lowrank_opt.block_coordinate import (
    ...     BoundOptimizer, LaplacianPrototypeProblem, knn_affinity)
    >>> F = np.array([[0.0], [0.4], [0.6], [1.0], [1.1]])
    >>> problem = LaplacianPrototypeProblem(F, knn_affinity(F, 2), 2, temperature=0.1)
    >>> result = BoundOptimizer().solve(problem)
    >>> result.status.name, len(set(result.labels[:3])), len(set(result.labels[3:]))
    ('CONVERGED', 1, 1)
    """

    requires: ClassVar[tuple[type, ...]] = (HasPrototypes,)
    monotone: ClassVar[bool] = True
    blas_threads: ClassVar[int | None] = 1
    citation: ClassVar[str | None] = (
        "@article{ziko2021transductive, title={Transductive Few-Shot Learning: Clustering is All "
        "You Need?}, author={Ziko, Imtiaz Masud and Boudiaf, Malik and Dolz, Jose and Granger, "
        "Eric and Ben Ayed, Ismail}, journal={arXiv preprint arXiv:2106.09516}, year={2021}}"
    )
    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **Solver._parameter_constraints,
        "max_inner": [Interval(Integral, 1, None, closed="left")],
        "inner_tol": [TOLERANCE],
    }

    def __init__(
        self,
        *,
        max_inner: int = 5,
        inner_tol: float = 0.1,
        tol: float = 1e-6,
        max_iter: int = 1000,
        max_time: float | None = None,
        check_every: int | str = 1,
        n_threads: int | None = 1,
        random_state: Any = 0,
    ) -> None:
        self.max_inner = max_inner
        self.inner_tol = inner_tol
        self.tol = tol
        self.max_iter = max_iter
        self.max_time = max_time
        self.check_every = check_every
        self.n_threads = n_threads
        self.random_state = random_state

    def init(self, problem: Any, x0: Any = None) -> PrototypeState:
        """Return the first state; see :class:`Solver`."""
        n, K, d = problem.shape
        S = None
        if isinstance(x0, tuple):
            S, m = (part.copy() for part in problem.point(x0))
        elif x0 is not None:
            m = real_array("x0", x0)[0].astype(np.float64)
            if m.shape != (K, d):
                raise ProblemError(
                    f"x0 has shape {m.shape}; expected prototypes of shape ({K}, {d}), or "
                    "PrototypeAssignments"
                )
        else:
            m = problem.prototypes
            m = _spread_out(problem, make_rng(self.random_state)) if m is None else m.copy()
        if not problem.update_prototypes:
            m = problem.prototypes.copy()
        state = PrototypeState(prototypes=m, restarts=np.zeros(K, np.int64))
        labelled = np.flatnonzero(problem.known >= 0)
        work = _Work(problem, self.n_threads)
        work.price(m)
        if S is None:
            from lowrank_opt.block_coordinate.reference_prototypes import assign

            # Deviation: at temperature 0 the first assignment is the nearest prototype.
            nothing = np.zeros((n, K))
            S = assign(nothing, work.cost, nothing, 0.0, np.zeros(n), float(problem.temperature))
        S[labelled] = 0.0
        S[labelled, problem.known[labelled]] = 1.0
        state.assignments, state.cache = S, work
        work.respond(S)
        state.residual = self._residual(problem, state)
        state.count(assignment_updates=1, prototype_updates=0)
        return state

    def _residual(self, problem: Any, state: Any) -> float:
        work = state.cache
        if not problem.update_prototypes:
            return work.change
        best, _ = work.best_prototypes(state.assignments, state.prototypes)
        moved = np.linalg.norm(best - state.prototypes, axis=1)
        return max(work.change, float(np.max(moved)) / problem.spread)

    def step(self, problem: Any, state: Any, n: int = 1) -> PrototypeState:
        """Do `n` iterations; see :class:`Solver`."""
        work = state.cache
        if work is None:  # resumed
            work = state.cache = _Work(problem, self.n_threads)
            work.price(state.prototypes)
            work.respond(state.assignments)
        for _ in range(n):
            goal = self.inner_tol * work.change
            self._accept(state)
            for _ in range(self.max_inner - 1):
                self._respond(state)
                if work.change <= goal:
                    break
                self._accept(state)
            if problem.update_prototypes:
                self._update_prototypes(problem, state)
                work.price(state.prototypes)
            if problem.update_prototypes or self.max_inner == 1 or work.change > goal:
                self._respond(state)
            modes = problem.update_prototypes and problem.unary == "gaussian"
            state.residual = self._residual(problem, state) if modes else work.change
            state.nit += 1
            if self.terminate(problem, state) is not None:
                break
        return state

    def _accept(self, state: Any) -> None:
        work = state.cache
        state.assignments, work.following = work.following, state.assignments

    def _respond(self, state: Any) -> None:
        state.cache.respond(state.assignments)
        state.count(assignment_updates=1)

    def _update_prototypes(self, problem: Any, state: Any) -> None:
        work, S = state.cache, state.assignments
        first = None
        for _ in range(self.max_inner if problem.unary == "gaussian" else 1):
            moved, empty = work.best_prototypes(S, state.prototypes)
            distance = float(np.max(np.linalg.norm(moved - state.prototypes, axis=1)))
            state.prototypes = moved
            state.count(prototype_updates=1)
            first = distance if first is None else first
            if distance <= self.inner_tol * first:
                break
        empty &= state.restarts < _RESTARTS
        if empty.any():
            self._restart(problem, state, np.flatnonzero(empty))

    def _restart(self, problem: Any, state: Any, clusters: Any) -> None:
        """Move prototypes of empty clusters to points far from their own; costs nothing."""
        work, S = state.cache, state.assignments
        work.price(state.prototypes)
        own = np.einsum("pk,pk->p", S, work.cost) + (problem.unary == "gaussian")
        own[problem.known >= 0] = 0.0
        for k in clusters:
            p = int(np.argmax(own))
            state.restarts[k] += 1
            if own[p] <= _NO_DISTANCE * float(np.max(work.cost)):  # fewer points than clusters
                continue
            state.prototypes[k] = problem.F[p]
            own[p] = 0.0
            warnings.warn(
                f"{type(self).__name__}: cluster {k} has lost all its points and starts again at "
                f"point {p}, the farthest from its prototype; fewer clusters or another start may "
                "suit the data",
                AccuracyWarning,
                stacklevel=6,
            )

    def point(self, problem: Any, state: Any) -> PrototypeAssignments:
        """Return assignments and prototypes in the dtype of the features."""
        return PrototypeAssignments(
            state.assignments.astype(problem.dtype), state.prototypes.astype(problem.dtype)
        )

    def fields(self, problem: Any, state: Any, x: Any, certificate: Any) -> dict[str, Any]:
        """Return the rounded assignments and their discrete objective."""
        return {
            "labels": x.labels,
            "discrete_objective": certificate.details["discrete_objective"],
        }


def _spread_out(problem: Any, rng: np.random.Generator) -> NDArray[np.float64]:
    """Choose points as prototypes by k-means++, the best of a few candidates each time."""
    n, K, d = problem.shape
    F, centre = problem.F, problem.centre
    trials = 2 + int(np.log(K))
    prototypes = np.empty((K, d))
    prototypes[0] = F[rng.integers(n)]
    nearest = _distances(F, prototypes[:1], centre)[:, 0]
    for k in range(1, K):
        total = np.cumsum(nearest)
        if total[-1] <= 0:  # fewer different points than clusters
            prototypes[k:] = F[rng.integers(n, size=K - k)]
            break
        drawn = np.searchsorted(total, rng.random(trials) * total[-1], side="right")
        drawn = np.minimum(drawn, n - 1)
        left = np.minimum(nearest[:, None], _distances(F, F[drawn].astype(np.float64), centre))
        best = int(np.argmin(left.sum(axis=0)))
        prototypes[k], nearest = F[drawn[best]], left[:, best]
    return prototypes


def _distances(F: Any, points: Any, centre: Any) -> NDArray[np.float64]:
    out = np.empty((len(F), len(points)))
    m = points - centre
    for rows in blocks(len(F)):
        near = F[rows] - centre
        squares = np.einsum("pd,pd->p", near, near)[:, None] + np.einsum("kd,kd->k", m, m)
        out[rows] = np.maximum(squares - 2.0 * (near @ m.T), 0.0)
    return out
