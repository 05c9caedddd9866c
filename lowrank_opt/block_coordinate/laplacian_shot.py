"""Few-shot classification and clustering by prototypes and a graph, in scikit-learn's style."""

from __future__ import annotations

from dataclasses import replace
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, ClusterMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from lowrank_opt.block_coordinate.affinity import knn_affinity, nearest_points
from lowrank_opt.block_coordinate.label_propagation import marked_unlabelled
from lowrank_opt.block_coordinate.prototypes import (
    BoundOptimizer,
    LaplacianPrototypeProblem,
    blocks,
)
from lowrank_opt.block_coordinate.tasks import rectified_prototypes
from lowrank_opt.core.errors import ProblemError
from lowrank_opt.core.params import (
    COUNT,
    TOLERANCE,
    Interval,
    StrOptions,
    make_rng,
    validate_parameters,
)
from lowrank_opt.core.sklearn_bridge import (
    CallbackSupportMixin,
    resolve_solver,
    run_solver,
    with_callbacks,
)

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from lowrank_opt.core.result import Result

__all__ = ["LaplacianKMeans", "LaplacianShot"]

_FLOATS = [np.float64, np.float32]
_NOT_NEGATIVE = Interval(Real, 0, None, closed="left")
_COMMON: dict[str, list[Any]] = {
    "lam": [_NOT_NEGATIVE],
    "n_neighbors": [COUNT],
    "temperature": [_NOT_NEGATIVE],
    "psd_shift": [StrOptions({"auto"}), _NOT_NEGATIVE],
    "tol": [TOLERANCE],
    "max_iter": [Interval(Integral, 0, None, closed="left")],
    "n_threads": [None, COUNT],
}
# Temperatures of an annealed start: a ratio, and the tolerance of all but the last.
_COOLING, _ROUGH = 0.5, 1e-3


class _Rule(NamedTuple):
    """How a point that was not fitted is assigned, by itself.

    Parameters
    ----------
    points, assignments : ndarray
        Those of the fitted points that have edges.
    prototypes : ndarray
        Of the clusters.
    lam, temperature : float
        As in the problem.
    n_others : int
        Edges of a new point.
    """

    points: Any
    assignments: Any
    prototypes: Any
    lam: float
    temperature: float
    n_others: int

    def __call__(self, X: Any) -> NDArray[np.float64]:
        z = np.empty((len(X), len(self.prototypes)))
        for rows in blocks(len(X)):
            part = X[rows].astype(np.float64)
            for k, own in enumerate(self.prototypes):
                z[rows, k] = -np.sum((part - own) ** 2, axis=1)
        k = min(self.n_others, len(self.points))
        if self.lam > 0 and k > 0:
            near, _ = nearest_points(self.points, X.astype(self.points.dtype, copy=False), k)
            for j in range(k):
                z += self.lam * self.assignments[near[:, j]]
        z -= z.max(axis=1, keepdims=True)
        if self.temperature == 0:
            best = np.argmax(z, axis=1)
            return np.eye(z.shape[1])[best]
        weights = np.exp(z / self.temperature)
        return weights / weights.sum(axis=1, keepdims=True)


class LaplacianShot(CallbackSupportMixin, ClassifierMixin, BaseEstimator):
    r"""Classify queries together, from a few labelled examples: transductive few-shot learning.

    Every class has a prototype, the mean of its labelled points. Queries take the class of a near
    prototype, and neighbours among them like to have one class:

    .. math:: \min_S \sum_{pk} s_{pk} \|f_p - m_k\|^2 - \frac\lambda2 \sum_{pq} w_{pq} s_p^\top s_q
        + T \sum_{pk} s_{pk} \log s_{pk} .

    **The method of the paper is** :meth:`transduce`: ``fit(X_support, y).transduce(X_query)``
    labels all queries of a batch together, and gains from it. :meth:`predict`, as everywhere in
    scikit-learn, labels each point by itself, whatever else is in the batch.

    Parameters
    ----------
    lam : float, default=1.0
        Weight of the graph, at least 0. 0: the nearest prototype.
    n_neighbors : int, default=3
        Neighbours of a point in the graph, itself counted.
    update_prototypes : bool, default=False
        Whether to move prototypes to the means of the points that are assigned to them, queries
        included, in turns with the assignments.
    rectify : bool, default=False
        Whether to shift queries to the mean of the labelled points, and to average with the
        labelled points those queries that are like them; helps most with one label a class.
    normalize : {"cl2n", "l2"} or None, default="cl2n"
        "cl2n": subtract `base_mean`, and scale points to length 1. "l2": scale only. ``None``:
        leave the features as they are; `lam` and `temperature` are in units of squared features.
    base_mean : array-like of shape (n_features,) or None, default=None
        Mean of the features that "cl2n" subtracts, such as that of the classes that a network was
        trained with. ``None``: the mean of the points given to ``fit``.
    temperature : float, default=1.0
        Weight T of the entropy, at least 0; 0 gives hard assignments.
    graph : {"all", "query"}, default="all"
        Whether labelled points are in the graph as well, or queries only, as in the paper.
    psd_shift : "auto" or float, default="auto"
        See :class:`~lowrank_opt.block_coordinate.LaplacianPrototypeProblem`.
    solver : Solver or None, default=None
        An instance of :class:`~lowrank_opt.block_coordinate.BoundOptimizer` with its own
        parameters, used instead of the next three; it is cloned.
    tol : float, default=1e-6
        Tolerance of the solver.
    max_iter : int, default=1000
        Limit on its iterations.
    n_threads : int or None, default=1
        Threads; ``None``: as many as numba may use. The result is the same.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        Labels of the classes.
    prototypes_ : ndarray of shape (n_classes, n_features)
        In the space of normalised features.
    label_distributions_ : ndarray of shape (n_samples, n_classes)
        Assignments of the fitted points.
    transduction_ : ndarray of shape (n_samples,)
        Classes of the fitted points.
    mean_ : ndarray of shape (n_features,) or None
        What "cl2n" subtracts.
    result_ : Result
        Result of the solver, with its certificate.
    n_iter_ : int
        Iterations.
    n_features_in_ : int
        Number of features.
    feature_names_in_ : ndarray of str
        Their names, when `X` has some.

    Notes
    -----
    **Semi-supervised use.** Points of `y` that are -1 have no label, and are queries that are
    known in ``fit``: their classes are in ``transduction_``, which :meth:`fit_predict` returns.
    Where numeric `y` has only one other value, -1 is a class like that one, since there would be
    nothing to classify otherwise. Among strings ``None``, -1 and "-1" mark such points.

    ``predict`` takes the nearest prototype when all fitted points are labelled. After a
    semi-supervised fit, a new point also has the nearest fitted points as its neighbours, without
    changing them.

    For many episodes at once, also on other devices, see
    :func:`~lowrank_opt.block_coordinate.solve_tasks`.

    References
    ----------
    .. [1] I. M. Ziko, J. Dolz, E. Granger, I. Ben Ayed, "Laplacian Regularized Few-Shot
       Learning", ICML 2020. :arxiv:`2006.15486`
    .. [2] I. M. Ziko, M. Boudiaf, J. Dolz, E. Granger, I. Ben Ayed, "Transductive Few-Shot
       Learning: Clustering is All You Need?", 2021. :arxiv:`2106.09516`

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from lowrank_opt.block_coordinate import LaplacianShot
    >>> X, y = load_digits(return_X_y=True)
    >>> shot = LaplacianShot(rectify=True, base_mean=X.mean(axis=0)).fit(X[:20], y[:20])
    >>> queries, truth = X[20:], y[20:]
    >>> round(float((shot.transduce(queries) == truth).mean()), 2)  # all queries together
    0.89
    >>> round(float((shot.predict(queries) == truth).mean()), 2)  # each by itself
    0.81
    """

    def __init__(
        self,
        lam: float = 1.0,
        n_neighbors: int = 3,
        *,
        update_prototypes: bool = False,
        rectify: bool = False,
        normalize: str | None = "cl2n",
        base_mean: Any = None,
        temperature: float = 1.0,
        graph: str = "all",
        psd_shift: str | float = "auto",
        solver: Any = None,
        tol: float = 1e-6,
        max_iter: int = 1000,
        n_threads: int | None = 1,
    ) -> None:
        self.lam = lam
        self.n_neighbors = n_neighbors
        self.update_prototypes = update_prototypes
        self.rectify = rectify
        self.normalize = normalize
        self.base_mean = base_mean
        self.temperature = temperature
        self.graph = graph
        self.psd_shift = psd_shift
        self.solver = solver
        self.tol = tol
        self.max_iter = max_iter
        self.n_threads = n_threads

    @with_callbacks
    def fit(self, X: ArrayLike, y: ArrayLike) -> LaplacianShot:
        """Learn from labelled points, and label those that have no label.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Labelled points, and points without a label.
        y : array-like of shape (n_samples,)
            Labels; -1 where there is none, see the class.

        Returns
        -------
        LaplacianShot
            Itself.

        Raises
        ------
        ProblemError
            No labels, or a point that has length 0 and cannot be scaled to length 1.
        ParameterError
            A parameter is out of range.
        """
        validate_parameters(
            type(self).__name__,
            self.get_params(deep=False),
            {
                **_COMMON,
                "update_prototypes": ["boolean"],
                "rectify": ["boolean"],
                "normalize": [None, StrOptions({"cl2n", "l2"})],
                "base_mean": [None, "array"],
                "graph": [StrOptions({"all", "query"})],
            },
        )
        X, y = validate_data(self, X, y, dtype=_FLOATS)
        self.classes_, known = _classes(y)
        self.mean_ = self._mean(X)
        F = self._normalized(X)
        fit = self._solve(F, known, X)
        self.result_, self._rule, self._offset = fit
        self.n_iter_ = max(1, self.result_.nit)
        self.label_distributions_ = self.result_.x.assignments
        self.transduction_ = self.classes_[self.result_.labels]
        self.prototypes_ = self.result_.x.prototypes
        self._fitted = F, known
        return self

    def _mean(self, X: Any) -> NDArray[Any] | None:
        if self.normalize != "cl2n":
            return None
        if self.base_mean is None:
            mean: NDArray[Any] = X.mean(axis=0, dtype=np.float64)
            return mean
        mean = np.asarray(self.base_mean, dtype=np.float64)
        if mean.shape != (X.shape[1],) or not np.isfinite(mean).all():
            raise ProblemError(
                f"base_mean has shape {mean.shape} and X has shape {X.shape}; one finite number a "
                "feature is needed"
            )
        return mean

    def _normalized(self, X: Any) -> NDArray[Any]:
        if self.normalize is None:
            return np.array(X)
        near = X.astype(np.float64) if self.mean_ is None else X - self.mean_
        largest = np.max(np.abs(near), axis=1, keepdims=True)  # squares may overflow
        if not largest.all():
            p = int(np.argmin(largest))
            what = "zero" if self.mean_ is None else "the mean that normalize='cl2n' subtracts"
            raise ProblemError(
                f"X[{p}] is {what} (n_samples = {len(X)}): it cannot be scaled to length 1; leave "
                "it out, give another base_mean, or normalize=None"
            )
        near = near / largest
        near /= np.linalg.norm(near, axis=1, keepdims=True)
        return near.astype(X.dtype)

    def _solve(self, F: Any, known: Any, X: Any = None) -> tuple[Result, _Rule, Any]:
        K = len(self.classes_)
        free = known < 0
        targets = np.zeros((len(F), K))
        targets[np.flatnonzero(~free), known[~free]] = 1.0
        points = F.astype(np.float64)
        means = (targets.T @ points) / targets.sum(axis=0)[:, None]
        offset = np.zeros(F.shape[1])
        if self.rectify:
            moved, means = rectified_prototypes(points, targets, means)
            if free.any():
                first = int(np.argmax(free))
                offset = moved[first] - points[first]
            points = moved
        points = points.astype(F.dtype)
        joined = free if self.graph == "query" else np.ones(len(F), bool)
        W = self._graph(points, joined)
        problem = LaplacianPrototypeProblem(
            points, W, K, lam=self.lam, labels=known, temperature=self.temperature,
            prototypes=means, update_prototypes=self.update_prototypes, psd_shift=self.psd_shift,
        )  # fmt: skip
        solver = resolve_solver(
            "auto" if self.solver is None else self.solver,
            choices={"auto": ("BoundOptimizer", {})}, tol=self.tol, max_iter=self.max_iter,
            n_threads=self.n_threads,
        )  # fmt: skip
        result = run_solver(self, solver, problem, X=F if X is None else X)
        rule = _Rule(
            points[joined], result.x.assignments[joined].astype(np.float64),
            result.x.prototypes.astype(np.float64), float(self.lam), float(self.temperature),
            self.n_neighbors - 1 if free.any() else 0,
        )  # fmt: skip
        return result, rule, offset

    def _graph(self, points: Any, joined: Any) -> Any:
        from scipy import sparse

        n = len(points)
        if self.lam == 0 or not joined.any():
            return sparse.csr_array((n, n))
        W = knn_affinity(points[joined], self.n_neighbors, n_threads=self.n_threads)
        if joined.all():
            return W
        places, W = np.flatnonzero(joined), W.tocoo()
        own = places[W.coords[0]], places[W.coords[1]]
        return sparse.csr_array((W.data, own), shape=(n, n))

    def fit_predict(self, X: ArrayLike, y: ArrayLike) -> NDArray[Any]:
        """Learn from labelled points, and return the classes of all points of `X`.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Labelled points, and points without a label.
        y : array-like of shape (n_samples,)
            Labels; -1 where there is none, see the class.

        Returns
        -------
        ndarray of shape (n_samples,)
            ``transduction_``.
        """
        return self.fit(X, y).transduction_

    def transduce(self, X: ArrayLike) -> NDArray[Any]:
        """Classify queries together: the transductive method of the paper.

        Parameters
        ----------
        X : array-like of shape (n_queries, n_features)
            A batch of queries. The answer for one depends on the others.

        Returns
        -------
        ndarray of shape (n_queries,)
            Classes.
        """
        best = np.argmax(self.transduce_proba(X), axis=1)
        return self.classes_[best]

    def transduce_proba(self, X: ArrayLike) -> NDArray[Any]:
        """Return the assignments of queries that are classified together.

        Parameters
        ----------
        X : array-like of shape (n_queries, n_features)
            A batch of queries. The answer for one depends on the others.

        Returns
        -------
        ndarray of shape (n_queries, n_classes)
            Assignments, rows of sum 1.
        """
        check_is_fitted(self)
        X = validate_data(self, X, dtype=_FLOATS, reset=False)
        F, known = self._fitted
        queries = self._normalized(X).astype(F.dtype, copy=False)
        everything = np.concatenate([F, queries])
        labels = np.concatenate([known, np.full(len(queries), -1)])
        result, _, _ = self._solve(everything, labels)
        return result.x.assignments[len(F) :].astype(X.dtype, copy=False)

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """Classify points one by one; for a batch of queries see :meth:`transduce`.

        Parameters
        ----------
        X : array-like of shape (n, n_features)
            Points.

        Returns
        -------
        ndarray of shape (n,)
            Classes.
        """
        best = np.argmax(self.predict_proba(X), axis=1)
        return self.classes_[best]

    def predict_proba(self, X: ArrayLike) -> NDArray[Any]:
        """Return the assignments of points, one by one.

        Parameters
        ----------
        X : array-like of shape (n, n_features)
            Points.

        Returns
        -------
        ndarray of shape (n, n_classes)
            Assignments, rows of sum 1.
        """
        check_is_fitted(self)
        X = validate_data(self, X, dtype=_FLOATS, reset=False)
        points = self._normalized(X).astype(np.float64) + self._offset
        return self._rule(points)


class LaplacianKMeans(CallbackSupportMixin, ClusterMixin, BaseEstimator):
    r"""K-means whose clusters follow a graph: neighbours like to be in one cluster.

    .. math:: \min_{S, m} \sum_{pk} s_{pk} \|f_p - m_k\|^2
        + \frac\lambda4 \sum_{pq} w_{pq} \|s_p - s_q\|^2 .

    Without the graph (``lam=0``) this is k-means. With it, boundaries of clusters move to where
    they cut few edges.

    Parameters
    ----------
    n_clusters : int, default=8
        Number of clusters.
    lam : float, default=0.2
        Weight of the graph, at least 0, see `scale`.
    n_neighbors : int, default=10
        Neighbours of a point in the graph, itself counted; not more than clusters of equal size
        would have points (but at least 2).
    affinity : "knn", callable, or array-like or sparse of shape (n, n), default="knn"
        The graph: nearest neighbours, a function of the points that returns affinities, or the
        affinities of the points that ``fit`` is given.
    temperature : float, default=0.0
        Weight of an entropy of the assignments, at least 0, see `scale`. 0: points belong to one
        cluster each.
    scale : {"relative", "absolute"}, default="relative"
        "relative": `lam` and `temperature` count in what the second nearest centre of k-means
        costs a point more than the nearest one, on average, so that units of the features do not
        matter. "absolute": in squared features.
    anneal : bool, default=True
        Whether to go on from k-means at a high temperature and to cool down to `temperature`.
        Where the graph is strong, points would otherwise hardly leave their first cluster.
    unary : {"squared", "gaussian"}, default="squared"
        Clusters around means, or around modes, see
        :class:`~lowrank_opt.block_coordinate.LaplacianPrototypeProblem`. For modes `lam` and
        `temperature` are as they are, and nothing is annealed.
    bandwidth : float or None, default=None
        Width of the kernel for modes.
    init : "k-means++" or array-like of shape (n_clusters, n_features), default="k-means++"
        The first centres.
    n_init : int, default=1
        Runs with different starts, the best of which counts.
    psd_shift : "auto" or float, default="auto"
        See :class:`~lowrank_opt.block_coordinate.LaplacianPrototypeProblem`.
    solver : Solver or None, default=None
        An instance of :class:`~lowrank_opt.block_coordinate.BoundOptimizer` with its own
        parameters, used instead of the next four; it is cloned.
    tol : float, default=1e-5
        Tolerance of the solver.
    max_iter : int, default=1000
        Limit on its iterations, at each temperature.
    n_threads : int or None, default=1
        Threads; ``None``: as many as numba may use. The result is the same.
    random_state : int, Generator or None, default=None
        Seed of the starts.

    Attributes
    ----------
    labels_ : ndarray of shape (n_samples,)
        Clusters of the fitted points.
    cluster_centers_ : ndarray of shape (n_clusters, n_features)
        Prototypes.
    assignments_ : ndarray of shape (n_samples, n_clusters)
        Assignments of the fitted points; vertices at temperature 0.
    objective_ : float
        The objective above, at the labels and centres.
    unit_ : float
        What `lam` and `temperature` count in; 1 where it does not matter.
    result_ : Result
        Result of the solver, with its certificate.
    n_iter_ : int
        Iterations of the run that counts: of k-means before it, at all temperatures, and at the
        last one, whose number is ``result_.nit``.
    n_features_in_ : int
        Number of features.
    feature_names_in_ : ndarray of str
        Their names, when `X` has some.

    Notes
    -----
    ``predict`` assigns new points one by one: to the centre that is best for the distance and, for
    ``affinity="knn"``, the clusters of the nearest fitted points. Fitted points also have edges
    from points that they are near to, so their ``predict`` may differ from ``labels_``.

    References
    ----------
    .. [1] I. M. Ziko, M. Boudiaf, J. Dolz, E. Granger, I. Ben Ayed, "Transductive Few-Shot
       Learning: Clustering is All You Need?", 2021. :arxiv:`2106.09516`
    .. [2] I. M. Ziko, E. Granger, I. Ben Ayed, "Scalable Laplacian K-modes", NeurIPS 2018.
       :arxiv:`1810.13044`

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn.metrics import normalized_mutual_info_score
    >>> from lowrank_opt.block_coordinate import LaplacianKMeans
    >>> X, y = load_digits(return_X_y=True)
    >>> labels = LaplacianKMeans(10, random_state=0).fit_predict(X)
    >>> normalized_mutual_info_score(y, labels) > 0.78  # k-means: 0.74
    True
    """

    def __init__(
        self,
        n_clusters: int = 8,
        lam: float = 0.2,
        n_neighbors: int = 10,
        *,
        affinity: Any = "knn",
        temperature: float = 0.0,
        scale: str = "relative",
        anneal: bool = True,
        unary: str = "squared",
        bandwidth: float | None = None,
        init: Any = "k-means++",
        n_init: int = 1,
        psd_shift: str | float = "auto",
        solver: Any = None,
        tol: float = 1e-5,
        max_iter: int = 1000,
        n_threads: int | None = 1,
        random_state: Any = None,
    ) -> None:
        self.n_clusters = n_clusters
        self.lam = lam
        self.n_neighbors = n_neighbors
        self.affinity = affinity
        self.temperature = temperature
        self.scale = scale
        self.anneal = anneal
        self.unary = unary
        self.bandwidth = bandwidth
        self.init = init
        self.n_init = n_init
        self.psd_shift = psd_shift
        self.solver = solver
        self.tol = tol
        self.max_iter = max_iter
        self.n_threads = n_threads
        self.random_state = random_state

    @with_callbacks
    def fit(self, X: ArrayLike, y: Any = None) -> LaplacianKMeans:
        """Find clusters.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Points.
        y : None
            Ignored.

        Returns
        -------
        LaplacianKMeans
            Itself.

        Raises
        ------
        ProblemError
            More clusters than points; affinities that are negative or of the wrong shape.
        ParameterError
            A parameter is out of range.
        """
        validate_parameters(
            type(self).__name__,
            self.get_params(deep=False),
            {
                **_COMMON,
                "n_clusters": [COUNT],
                "n_init": [COUNT],
                "affinity": [StrOptions({"knn"}), "callable", "array"],
                "scale": [StrOptions({"relative", "absolute"})],
                "anneal": ["boolean"],
                "unary": [StrOptions({"squared", "gaussian"})],
                "bandwidth": [None, Interval(Real, 0, None, closed="neither")],
                "init": [StrOptions({"k-means++"}), "array"],
                "random_state": ["random_state"],
            },
        )
        X = validate_data(self, X, dtype=_FLOATS)
        seeds = make_rng(self.random_state).integers(2**32, size=self.n_init)
        best, problem, n_iter = None, None, 0
        for seed in seeds:
            first, count = self._first(X, int(seed))
            if problem is None:
                problem = self._problem(X, first)
            result, more = self._run(problem, first, int(seed), X)
            if best is None or result.discrete_objective < best.discrete_objective:
                best, n_iter = result, count + more
            if not isinstance(self.init, str):
                break
        assert best is not None
        assert problem is not None
        self.result_, self.n_iter_ = best, max(1, n_iter)
        self.labels_ = np.asarray(best.labels).astype(np.int32)
        self.cluster_centers_, self.assignments_ = best.x.prototypes, best.x.assignments
        self.objective_ = best.discrete_objective
        knn = isinstance(self.affinity, str)
        self._rule = _Rule(
            problem.F, self.assignments_.astype(np.float64),
            self.cluster_centers_.astype(np.float64),
            problem.lam if self.unary == "squared" else 0.0, problem.temperature,
            self._width(len(X)) - 1 if knn else 0,
        )  # fmt: skip
        return self

    def _first(self, X: Any, seed: int) -> tuple[NDArray[np.float64] | None, int]:
        """Centres from which the graph and the temperature are let in: k-means, its iterations."""
        given = None if isinstance(self.init, str) else self.init
        if self.unary == "gaussian" or self._cold():
            return given, 0
        problem = LaplacianPrototypeProblem(X, None, self.n_clusters, lam=0.0, temperature=0.0)
        solver = BoundOptimizer(
            tol=_ROUGH, max_inner=1, max_iter=30, n_threads=self.n_threads, random_state=seed
        )
        result = solver.solve(problem, x0=given)
        return result.x.prototypes, result.nit

    def _cold(self) -> bool:
        """Whether this is k-means."""
        return self.lam == 0 and self.temperature == 0

    def _problem(self, X: Any, first: Any) -> LaplacianPrototypeProblem:
        if self.lam == 0:
            W = None
        elif callable(self.affinity):
            W = self.affinity(X)
        elif isinstance(self.affinity, str):
            W = knn_affinity(X, self._width(len(X)), n_threads=self.n_threads)
        else:
            W = self.affinity
        problem = LaplacianPrototypeProblem(
            np.array(X), W, self.n_clusters, lam=self.lam, temperature=self.temperature,
            unary=self.unary, bandwidth=self.bandwidth, psd_shift=self.psd_shift,
        )  # fmt: skip
        self.unit_ = 1.0
        if self.scale == "absolute" or self.unary == "gaussian" or self._cold():
            return problem
        self.unit_ = _margin(problem, np.asarray(first, np.float64))
        return replace(
            problem, lam=self.lam * self.unit_, temperature=self.temperature * self.unit_
        )

    def _width(self, n: int) -> int:
        return min(self.n_neighbors, max(2, n // self.n_clusters))

    def _run(
        self, problem: LaplacianPrototypeProblem, x: Any, seed: int, X: Any
    ) -> tuple[Result, int]:
        """The result at the wanted temperature, and the iterations at all of them."""
        solver = resolve_solver(
            "auto" if self.solver is None else self.solver,
            choices={"auto": ("BoundOptimizer", {})}, tol=self.tol, max_iter=self.max_iter,
            n_threads=self.n_threads, random_state=seed,
        )  # fmt: skip
        if self.solver is not None and "random_state" in solver.get_params():
            solver.set_params(random_state=seed)
        count = 0
        if self.anneal and self.unary == "squared":
            rough = type(solver)(**{**solver.get_params(), "tol": max(_ROUGH, solver.tol)})
            for temperature in _temperatures(problem):
                warm = rough.solve(replace(problem, temperature=temperature), x0=x)
                x, count = warm.x, count + warm.nit
        result = run_solver(self, solver, problem, X=X, x0=x)
        return result, count + result.nit

    def predict(self, X: ArrayLike) -> NDArray[np.int32]:
        """Return the clusters of points, one by one.

        Parameters
        ----------
        X : array-like of shape (n, n_features)
            Points.

        Returns
        -------
        ndarray of shape (n,)
            Clusters.
        """
        check_is_fitted(self)
        X = validate_data(self, X, dtype=_FLOATS, reset=False)
        return np.argmax(self._rule(X), axis=1).astype(np.int32)


def _classes(y: Any) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Return the classes of `y` and their numbers, -1 for points without a label."""
    unlabelled = marked_unlabelled(y)
    if unlabelled.all():
        raise ProblemError(
            "y is -1 for all points, which means no label; give a label of every class"
        )
    if y.dtype.kind in "iuf" and len(np.unique(y)) == 2:
        unlabelled[:] = False  # -1 is the one of two classes
    check_classification_targets(y[~unlabelled])
    numbers = np.full(len(y), -1, np.int64)
    classes, numbers[~unlabelled] = np.unique(y[~unlabelled], return_inverse=True)
    return classes, numbers


def _margin(problem: LaplacianPrototypeProblem, m: Any) -> float:
    """Mean difference of the second smallest and the smallest cost of a point."""
    if len(m) > 1:
        total = 0.0
        for rows in blocks(len(problem.F)):
            least = np.partition(problem.costs(m, rows), 1, axis=1)
            total += float(np.sum(least[:, 1] - least[:, 0]))
        if total > 0:
            return total / len(problem.F)
    return problem.spread**2


def _temperatures(problem: LaplacianPrototypeProblem) -> list[float]:
    """Temperatures above that of the problem, falling, from which clusters can form.

    Above ``2 |cov| + lam (mean degree) / K`` all assignments are the same; where the graph pulls
    less than the temperature, nothing keeps points from moving.
    """
    n, K, _ = problem.shape
    degree = float(problem.affinity.sum()) / n
    near = problem.F - problem.centre
    v = np.std(near, axis=0)
    largest = 0.0
    for _ in range(10):
        size = float(np.linalg.norm(v))
        if size == 0:
            break
        v = near.T @ (near @ (v / size)) / n
        largest = float(np.linalg.norm(v))
    pull = problem.lam * degree
    start = min(0.5 * pull, 0.9 * (2.0 * largest + pull / K))
    out = []
    while start > max(problem.temperature, 0.02 * pull):
        out.append(start)
        start *= _COOLING
    return out
