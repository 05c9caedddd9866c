"""Semi-supervised classification by harmonic functions on a graph."""

from __future__ import annotations

from numbers import Number, Real
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse
from scipy.sparse.csgraph import connected_components
from scipy.spatial.distance import cdist
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from lowrank_opt.block_coordinate.affinity import knn_affinity, nearest_points
from lowrank_opt.block_coordinate.conjugate import ConjugateGradients
from lowrank_opt.block_coordinate.quadratic import QuadraticProblem
from lowrank_opt.core.errors import ProblemError
from lowrank_opt.core.params import COUNT, TOLERANCE, Interval, StrOptions, validate_parameters
from lowrank_opt.core.sklearn_bridge import (
    CallbackSupportMixin,
    resolve_solver,
    run_solver,
    with_callbacks,
)

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = ["LabelPropagation", "marked_unlabelled"]

_FLOATS = [np.float64, np.float32]
_AFFINITIES = ("knn", "rbf", "precomputed")
# Graphs with more than this share of all edges are solved as dense ones.
_DENSE = 0.25
# Edges whose weight is less than this part of the weights of both of their points are left out.
_NEGLIGIBLE = 1e-10
# How far affinities may be from symmetric, relative to the largest.
_SYMMETRY = {8: 1e-10, 4: 1e-5}
# Numbers in a block of distances.
_BLOCK = 1 << 21
_CONSTRAINTS: dict[str, list[Any]] = {
    "affinity": [StrOptions(_AFFINITIES)],
    "n_neighbors": [COUNT],
    "gamma": [Interval(Real, 0, None, closed="left")],
    "l2": [Interval(Real, 0, None, closed="left")],
    "tol": [TOLERANCE],
    "max_iter": [None, COUNT],
    "n_threads": [None, COUNT],
    "random_state": ["random_state"],
}


class LabelPropagation(CallbackSupportMixin, ClassifierMixin, BaseEstimator):
    r"""Label points by the smoothest extension of a few labels over a graph.

    With weights w of the edges, one-hot rows :math:`F_i` of the labelled points are kept and the
    others minimise

    .. math:: \tfrac12 \sum_{i < j} w_{ij} \|F_i - F_j\|^2
              + \tfrac{\lambda}{2} \sum_i \|F_i - \pi\|^2,

    where :math:`\pi` are the shares of the classes among the labelled points. With
    :math:`\lambda = 0` every row is the mean of its neighbours' (a harmonic function), and rows of
    the components of the graph without a labelled point are :math:`\pi`: the limit
    :math:`\lambda \to 0`.

    Parameters
    ----------
    affinity : {"knn", "rbf", "precomputed"}, default="knn"
        Weights. "knn": 1 for points that are among each other's nearest, 1/2 where only one is
        among the other's. "rbf": ``exp(-gamma |x_i - x_j|^2)``, a dense graph. "precomputed":
        ``fit`` is given the weights, symmetric and not negative, sparse or dense; the diagonal is
        ignored. ``predict`` is then given those between new points and fitted ones.
    n_neighbors : int, default=7
        Neighbours of a point for "knn", itself counted, as in scikit-learn.
    gamma : float, default=20.0
        Parameter of "rbf", at least 0.
    l2 : float, default=0.0
        The strength :math:`\lambda`, at least 0, in the unit of the weights.
    solver : str or Solver, default="auto"
        "forest": block coordinate descent on a partition of the graph into forests, each solved
        exactly by message passing; "color": the same on colour classes; "conjugate_gradients":
        with the degrees as preconditioner; "direct": one factorisation, sparse or dense, serves
        all classes, and only what rounding leaves is iterated; "auto": "direct" for "rbf" and
        where the graph has more than a quarter of all edges, else "conjugate_gradients". Or the
        name or an instance (it is cloned) of a solver for
        :class:`~lowrank_opt.block_coordinate.QuadraticProblem`.
    tol : float, default=1e-6
        Tolerance of the solver: largest derivative, over the largest pull of labels on a point,
        both by variables scaled by roots of degrees.
    max_iter : int or None, default=None
        Limit on iterations of the solver; ``None``: the solver's own.
    n_threads : int or None, default=None
        Threads, for nearest neighbours in 16 and more dimensions.
    random_state : int, Generator or None, default=None
        Seed of solvers that draw.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        Labels, sorted, the mark of unlabelled points excluded.
    label_distributions_ : ndarray of float64, of shape (n_samples, n_classes)
        F; rows sum to 1.
    transduction_ : ndarray of shape (n_samples,)
        Label of every fitted point: the given one, or the likeliest.
    X_ : array of shape (n_samples, n_features)
        The fitted points; with precomputed weights these.
    result_ : Result or None
        Result of the solver. Its point has the columns of all classes but the last, one after
        the other, times the root of the degree of every unlabelled point; ``None`` if there was
        nothing to solve.
    n_iter_ : int
        Iterations, at least 1.
    n_features_in_ : int
        Number of features.
    feature_names_in_ : ndarray of str
        Their names, when `X` has some.

    Notes
    -----
    Unlabelled points are marked as in scikit-learn by -1 in `y`. Among labels that are strings,
    -1, ``None`` and the string "-1" (which NumPy makes of -1 among strings) are marks. A class
    can therefore not be called -1. ``fit`` works without unlabelled points as well.

    ``predict`` gives a new point the mean of the rows of its nearest neighbours, or of all by
    their weights; for fitted points use ``transduction_``.

    An edge of less than 1e-10 of the sum of the weights of either of its points counts as none:
    clusters joined by such edges only are components. Points all of whose weights are that small
    against those of other points, as of stragglers where `gamma` is too large, are labelled to
    the solver's tolerance and rounding only, which may mean little for them.

    References
    ----------
    .. [1] X. Zhu, Z. Ghahramani, J. Lafferty, "Semi-Supervised Learning Using Gaussian Fields and
       Harmonic Functions", ICML 2003.
    .. [2] J. Nutini, I. Laradji, M. Schmidt, "Let's Make Block Coordinate Descent Converge
       Faster", JMLR 23, 2022. :arxiv:`1712.08859`

    Examples
    --------
    >>> import numpy as np
    >>> from lowrank_opt.block_coordinate import LabelPropagation
    >>> X = np.arange(6.0)[:, None]
    >>> model = LabelPropagation(n_neighbors=3).fit(X, [0, -1, -1, -1, -1, 1])
    >>> model.transduction_.tolist()
    [0, 0, 0, 1, 1, 1]
    >>> LabelPropagation(n_neighbors=3).fit(X, ["a", None, None, None, None, "b"]).predict([[9.0]])
    array(['b'], dtype=object)
    """

    def __init__(
        self,
        affinity: str = "knn",
        *,
        n_neighbors: int = 7,
        gamma: float = 20.0,
        l2: float = 0.0,
        solver: Any = "auto",
        tol: float = 1e-6,
        max_iter: int | None = None,
        n_threads: int | None = None,
        random_state: Any = None,
    ) -> None:
        self.affinity = affinity
        self.n_neighbors = n_neighbors
        self.gamma = gamma
        self.l2 = l2
        self.solver = solver
        self.tol = tol
        self.max_iter = max_iter
        self.n_threads = n_threads
        self.random_state = random_state

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        given = self.affinity == "precomputed"
        tags.input_tags.pairwise = tags.input_tags.positive_only = tags.input_tags.sparse = given
        # Whatever is given: scikit-learn's checks give inner products, which are no similarity.
        tags.classifier_tags.poor_score = given
        return tags

    @with_callbacks
    def fit(self, X: ArrayLike, y: ArrayLike) -> LabelPropagation:
        """Extend the labels over the graph of the points.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), or (n_samples, n_samples)
            Points, or weights if they are precomputed.
        y : array-like of shape (n_samples,)
            Labels; -1 for unlabelled points.

        Returns
        -------
        LabelPropagation
            Itself.

        Raises
        ------
        ProblemError
            No labelled point, or precomputed weights that are not symmetric or negative.
        ParameterError
            A parameter out of range.
        """
        validate_parameters(type(self).__name__, self.get_params(deep=False), _CONSTRAINTS)
        X, y = validate_data(self, X, y, dtype=_FLOATS, accept_sparse=self._formats())
        labelled = ~marked_unlabelled(y)
        if not labelled.any():
            raise ProblemError(
                f"y marks all {len(y)} points as unlabelled; give at least one point of a class "
                "its label"
            )
        check_classification_targets(y[labelled])
        self.classes_, codes = np.unique(y[labelled], return_inverse=True)
        F = np.zeros((len(y), len(self.classes_)))
        F[np.flatnonzero(labelled), codes] = 1.0
        prior = F[labelled].mean(axis=0)
        free, A, B = _harmonic_system(self._graph(X), F, labelled, self.l2, prior)
        F[~labelled] = prior
        self.X_, self.result_, self.n_iter_ = X, None, 1
        if free.size and len(self.classes_) > 1:
            F[free] = self._solved(X, A, B, np.broadcast_to(prior, B.shape))
        self.label_distributions_ = F
        self.transduction_ = self.classes_[F.argmax(axis=1)]
        return self

    def _solved(self, X: Any, A: Any, B: Any, start: Any) -> NDArray[Any]:
        """Solve ``A F = B``, whose columns sum up to ones: all but one, as one problem."""
        columns = B.shape[1] - 1
        # In units in which every point has the degree 1: rounding and tolerance then mean the same
        # for points that are attached by large and by small weights.
        roots = np.sqrt(A.diagonal())
        A = _scaled(A, 1.0 / roots)
        B = B[:, :columns] / roots[:, None]
        problem = QuadraticProblem(_repeated(A, columns), B.T.ravel())
        start = start[:, :columns] * roots[:, None]
        solver = self.solver
        if isinstance(solver, str) and solver == "auto":
            dense = self.affinity == "rbf" or A.nnz > _DENSE * A.shape[0] ** 2
            # Ten times as fast as forests on graphs of neighbours, which are badly conditioned.
            solver = "direct" if dense else "conjugate_gradients"
        limit = {} if self.max_iter is None else {"max_iter": self.max_iter}
        if isinstance(solver, str) and solver == "conjugate_gradients":
            solver = ConjugateGradients(tol=self.tol, **limit)
        elif isinstance(solver, str) and solver == "direct":
            start = _eliminated(A, B, start)  # one factor for all classes; the solver refines
        each = list(np.arange(B.size).reshape(columns, -1))
        solver = resolve_solver(
            solver,
            choices={
                "conjugate_gradients": ("", {}),  # for messages: it is an instance by now
                "forest": ("BlockCoordinateDescent", {"blocks": "forest"}),
                "color": ("BlockCoordinateDescent", {"blocks": "color"}),
                "direct": ("BlockCoordinateDescent", {"blocks": each}),
            },
            tol=self.tol,
            random_state=self.random_state,
            **limit,
        )
        self.result_ = run_solver(self, solver, problem, X=X, x0=start.T.ravel())
        self.n_iter_ = max(1, self.result_.nit)
        F = np.empty((len(B), columns + 1))
        F[:, :columns] = (self.result_.x.reshape(columns, -1) / roots).T.clip(0.0, 1.0)
        F[:, columns] = (1.0 - F[:, :columns].sum(axis=1)).clip(0.0)
        return F / F.sum(axis=1, keepdims=True)

    def _formats(self) -> Any:
        return "csr" if self.affinity == "precomputed" else False

    def _graph(self, X: Any) -> Any:
        """Weights of the edges, symmetric, without loops."""
        if self.affinity == "knn":
            W = knn_affinity(X, self.n_neighbors, n_threads=self.n_threads)
        elif self.affinity == "rbf":
            W = sparse.csr_array(np.exp(-self.gamma * cdist(X, X, "sqeuclidean")))
        else:
            W = _checked_weights(X)
        rows = np.repeat(np.arange(W.shape[0], dtype=W.indices.dtype), np.diff(W.indptr))
        W.data[rows == W.indices] = 0.0
        degrees = np.asarray(W.sum(axis=1)).ravel()
        W.data[W.data < _NEGLIGIBLE * np.minimum(degrees[rows], degrees[W.indices])] = 0.0
        W.eliminate_zeros()
        return W

    def predict_proba(self, X: ArrayLike) -> NDArray[np.float64]:
        """Return the distribution of the label of new points.

        Parameters
        ----------
        X : array-like of shape (n, n_features), or (n, n_samples)
            Points, or weights between them and the fitted ones if these were precomputed.

        Returns
        -------
        ndarray of float64, of shape (n, n_classes)
            Means of rows of ``label_distributions_``; where all weights are 0, of all of them.
        """
        check_is_fitted(self)
        X = validate_data(self, X, dtype=_FLOATS, accept_sparse=self._formats(), reset=False)
        F = self.label_distributions_
        if self.affinity == "knn":
            k = min(self.n_neighbors, len(self.X_))
            places, _ = nearest_points(
                self.X_, X.astype(self.X_.dtype, copy=False), k, n_threads=self.n_threads
            )
            P = F[places].mean(axis=1)
        elif self.affinity == "rbf":
            P = np.empty((len(X), F.shape[1]))
            width = max(1, _BLOCK // len(self.X_))
            for first in range(0, len(X), width):
                D = cdist(X[first : first + width], self.X_, "sqeuclidean")
                D -= D.min(axis=1, keepdims=True)  # so that some weight does not underflow
                P[first : first + width] = np.exp(-self.gamma * D) @ F
        else:
            _refuse_negative(X)
            P = np.asarray(X @ F, np.float64)
            P[P.sum(axis=1) == 0.0] = F.mean(axis=0)
        return P / P.sum(axis=1, keepdims=True)

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """Return the likeliest label of new points.

        Parameters
        ----------
        X : array-like of shape (n, n_features), or (n, n_samples)
            As for ``predict_proba``.

        Returns
        -------
        ndarray of shape (n,)
            Labels.
        """
        probabilities = self.predict_proba(X)
        labels: NDArray[Any] = self.classes_[probabilities.argmax(axis=1)]
        return labels


def marked_unlabelled(y: NDArray[Any]) -> NDArray[np.bool_]:
    """Which labels say that there is none."""
    if y.dtype.kind in "biuf":
        return y == -1
    return np.array([
        label is None or (label == -1 if isinstance(label, Number) else label in ("-1", b"-1"))
        for label in y.tolist()
    ])  # fmt: skip


def _harmonic_system(W: Any, F: Any, labelled: Any, l2: float, prior: Any) -> tuple[Any, Any, Any]:
    """Return points whose rows are to be found, and the matrix and right-hand sides for these."""
    free = ~labelled
    if l2 == 0.0:
        _, component = connected_components(W, directed=False)
        free &= np.isin(component, component[labelled])
    places = np.flatnonzero(free)
    degrees = np.asarray(W.sum(axis=1)).ravel()[free] + l2
    rows = W[places]
    A = sparse.csr_array(sparse.diags_array(degrees) - rows[:, places])
    B = rows[:, np.flatnonzero(labelled)] @ F[labelled] + l2 * prior
    return places, A, B


def _repeated(A: Any, count: int) -> Any:
    """Return the block diagonal matrix with `count` times A; ``scipy.sparse.kron`` takes longer."""
    n = A.shape[0]
    places = np.arange(count)[:, None]
    kind = np.int32 if count * max(n, A.nnz) < 2**31 else np.int64
    indices = (A.indices + (n * places).astype(kind)).ravel()
    indptr = np.append((A.indptr[:-1] + (A.nnz * places).astype(kind)).ravel(), count * A.nnz)
    parts = np.tile(A.data, count), indices, indptr
    return sparse.csr_array(parts, shape=(count * n, count * n))


def _eliminated(A: Any, B: Any, start: Any) -> Any:
    """Return the solution of ``A F = B``, or `start` where rounding makes A indefinite."""
    from scipy import linalg

    from lowrank_opt.block_coordinate.forests import solve_sparse_block

    try:
        if A.nnz > _DENSE * A.shape[0] ** 2:
            F = linalg.cho_solve(linalg.cho_factor(A.toarray(), overwrite_a=True), B)
        else:
            F = solve_sparse_block(A, B, np.arange(A.shape[0]))
    except np.linalg.LinAlgError:
        return start
    return F if np.isfinite(F).all() else start


def _scaled(A: Any, s: NDArray[Any]) -> Any:
    """Return ``diag(s) A diag(s)``, exactly symmetric as A is."""
    rows = np.repeat(np.arange(A.shape[0]), np.diff(A.indptr))
    low, high = np.minimum(rows, A.indices), np.maximum(rows, A.indices)
    return sparse.csr_array((A.data * s[low] * s[high], A.indices, A.indptr), shape=A.shape)


def _checked_weights(X: Any) -> Any:
    if X.shape[0] != X.shape[1]:
        raise ProblemError(
            f"X has shape {X.shape}; with affinity='precomputed' it holds the weights between all "
            "pairs of points, (n_samples, n_samples)"
        )
    _refuse_negative(X)
    W = sparse.csr_array(X, dtype=np.float64)
    difference = abs(W - W.T).max()
    if difference > _SYMMETRY[X.dtype.itemsize] * W.max():
        raise ProblemError(
            f"X is not symmetric: it differs from its transpose by {float(difference):g}; give "
            "(X + X.T) / 2 if that is what is meant"
        )
    return sparse.csr_array(0.5 * (W + W.T))  # of its own: the diagonal will be taken out


def _refuse_negative(X: Any) -> None:
    smallest = X.min() if X.shape[0] else 0.0
    if smallest < 0:
        raise ProblemError(
            f"Negative values in data passed to LabelPropagation: X has the weight "
            f"{float(smallest):g}; weights must be at least 0"
        )
