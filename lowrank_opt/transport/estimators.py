"""Estimators of sparse transport, in scikit-learn's style."""

from __future__ import annotations

from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.spatial.distance import cdist
from sklearn.base import BaseEstimator, OneToOneFeatureMixin, TransformerMixin
from sklearn.metrics import pairwise_distances_argmin
from sklearn.utils.validation import check_array, check_is_fitted, validate_data

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
from lowrank_opt.transport.functions import sparse_simplex_projection
from lowrank_opt.transport.problems import TransportProblem

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = ["SparseOTMapper"]

_FLOATS = [np.float64, np.float32]
_METHODS = ("auto", "ssnal", "ssn", "lbfgs", "adam", "sgd", "bcd")
_REFERENCES = StrOptions({"normal", "uniform"})
# Numbers in a block of costs.
_BLOCK = 1 << 21
_CONSTRAINTS = {
    "target": [None, _REFERENCES, "array"],
    "n_reference": [COUNT],
    "gamma": [Interval(Real, 0, None, closed="left")],
    "max_nnz": [None, COUNT],
    "out_of_sample": [StrOptions({"nearest", "potentials"})],
    "tol": [TOLERANCE],
    "max_iter": [None, Interval(Integral, 0, None, closed="left")],
}


class SparseOTMapper(CallbackSupportMixin, OneToOneFeatureMixin, TransformerMixin, BaseEstimator):
    r"""Map a sample to another by sparse optimal transport.

    A plan T carries the masses of the source points to the target points; a source point goes to
    the mean of the target points that it is carried to, :math:`x_i \mapsto \sum_j t_{ij} y_j /
    \sum_j t_{ij}`. With a cap every image is a mean of a few target points.

    Parameters
    ----------
    target : array-like, {"normal", "uniform"} or None, default=None
        Where to, when ``fit`` is not given target points: points of shape
        (n_targets, n_features), or a reference sample of
        the standard normal distribution or of the uniform one on the unit cube; the map to a
        reference is a multivariate analogue of ranks. With it the second argument of ``fit``
        may be labels, which are ignored: pipelines pass them to every step.
    n_reference : int, default=256
        Points of a reference sample; scrambled Halton points.
    max_nnz : int or None, default=None
        Most target points of a source point (``axis=1``), or most source points of a target point
        (``axis=0``); ``None``: no cap.
    gamma : float, default=0.01
        Strength of the quadratic term, at least 0.
    axis : {0, 1}, default=1
        What `max_nnz` caps: with 1 the targets of a source, which is what images are made of.
    metric : {"sqeuclidean", "euclidean"}, default="sqeuclidean"
        Cost of two points.
    gamma_scale : {"relative", "absolute"}, default="relative"
        "relative": `gamma` counts in the range of the costs over the mean mass of a point of
        the capped side, so that the map does not depend on units.
    unbalanced : {"kl", "l2"} or None, default=None
        Penalise the marginals of the side without the cap instead of fixing them.
    marginal_weight : float, default=1.0
        Weight of that penalty.
    out_of_sample : {"nearest", "potentials"}, default="nearest"
        Images of points that were not fitted. "nearest": a point moves as the nearest fitted
        one does. "potentials": a row of the plan is made for it from the potentials of the
        other side, as if it had the mean mass of a point; without a cap that is continuous.
    method : str, default="auto"
        Method of :class:`~lowrank_opt.transport.SparsityConstrainedOT`.
    solver : Solver or None, default=None
        An instance, used instead of `method`, with its own parameters; it is cloned. Grid search
        reaches them as ``solver__tol`` and so on.
    tol : float, default=1e-6
        Tolerance of the solver.
    max_iter : int or None, default=None
        Limit on iterations; ``None``: the solver's own.
    n_threads : int or None, default=None
        Threads of the solver.
    random_state : int, Generator or None, default=None
        Seed of reference samples and of the solver.

    Attributes
    ----------
    plan_ : TransportPlan of shape (n_sources, n_targets)
        The plan, a ``csc_array``, with its potentials ``alpha`` and ``beta``.
    images_ : ndarray of shape (n_sources, n_features)
        Images of the fitted points; of a point without mass that of an unfitted one.
    source_, target_ : ndarray
        The fitted points of both sides.
    result_ : Result
        Result of the solver, with its certificate.
    n_iter_ : int
        Iterations.
    n_features_in_ : int
        Number of coordinates.
    feature_names_in_ : ndarray of str
        Their names, when `X` has some.

    Notes
    -----
    ``transform`` of the fitted points gives ``images_`` with "nearest"; with "potentials" it does
    so to the tolerance, where no scores tie at the cap. ``inverse_transform`` is the map of the
    same plan from the target to the source; the two do not undo each other.

    A point that is given twice is two places for mass: it is not the same as one point of twice
    the weight, neither for the quadratic term nor for the cap.

    References
    ----------
    .. [1] T. Liu, J. Puigcerver, M. Blondel, "Sparsity-Constrained Optimal Transport", ICLR 2023.
       :arxiv:`2209.15466`
    .. [2] V. Chernozhukov, A. Galichon, M. Hallin, M. Henry, "Monge-Kantorovich depth, quantiles,
       ranks and signs", Annals of Statistics 45, 2017. :arxiv:`1412.8434`

    Examples
    --------
    >>> import numpy as np
    >>> from lowrank_opt.transport import SparseOTMapper
    >>> source = np.array([[0.0], [1.0], [2.0]])
    >>> mapper = SparseOTMapper(max_nnz=1).fit(source, source + 10.0)
    >>> mapper.transform([[0.0], [1.1]]).round(6).tolist()
    [[10.0], [11.1]]
    """

    def __init__(
        self,
        target: Any = None,
        *,
        n_reference: int = 256,
        max_nnz: int | None = None,
        gamma: float = 0.01,
        axis: int = 1,
        metric: str = "sqeuclidean",
        gamma_scale: str = "relative",
        unbalanced: str | None = None,
        marginal_weight: float = 1.0,
        out_of_sample: str = "nearest",
        method: str = "auto",
        solver: Any = None,
        tol: float = 1e-6,
        max_iter: int | None = None,
        n_threads: int | None = None,
        random_state: Any = None,
    ) -> None:
        self.target = target
        self.n_reference = n_reference
        self.max_nnz = max_nnz
        self.gamma = gamma
        self.axis = axis
        self.metric = metric
        self.gamma_scale = gamma_scale
        self.unbalanced = unbalanced
        self.marginal_weight = marginal_weight
        self.out_of_sample = out_of_sample
        self.method = method
        self.solver = solver
        self.tol = tol
        self.max_iter = max_iter
        self.n_threads = n_threads
        self.random_state = random_state

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    @with_callbacks
    def fit(
        self, X: ArrayLike, y: Any = None, *, sample_weight: Any = None, target_weight: Any = None
    ) -> SparseOTMapper:
        """Find the plan from one sample to another.

        Parameters
        ----------
        X : array-like of shape (n_sources, n_features)
            Source points.
        y : array-like of shape (n_targets, n_features), or None, default=None
            Target points. May be left out, or be labels, if `target` was given.
        sample_weight : array-like of shape (n_sources,) or None, default=None
            Masses of the source points, in any unit; ``None``: all the same.
        target_weight : array-like of shape (n_targets,) or None, default=None
            Masses of the target points, in any unit; ``None``: all the same.

        Returns
        -------
        SparseOTMapper
            Itself.

        Raises
        ------
        ProblemError, InfeasibleError
            No target, points or weights of wrong shape or not finite, or a cap with too few
            places.
        ParameterError
            A parameter out of range.
        """
        validate_parameters(type(self).__name__, self.get_params(deep=False), _CONSTRAINTS)
        X = validate_data(self, X, dtype=_FLOATS)
        Y = self._target_points(X, y)
        problem = TransportProblem(
            _shares("sample_weight", sample_weight, len(X)),
            _shares("target_weight", target_weight, len(Y)),
            X=X, Y=Y, metric=self.metric, gamma=self.gamma, max_nnz=self.max_nnz, axis=self.axis,
            unbalanced=self.unbalanced, marginal_weight=self.marginal_weight,
            gamma_scale=self.gamma_scale,
        )  # fmt: skip
        limit = {} if self.max_iter is None else {"max_iter": self.max_iter}
        solver = resolve_solver(
            self.method if self.solver is None else self.solver,
            choices={name: ("SparsityConstrainedOT", {"method": name}) for name in _METHODS},
            argument="method" if self.solver is None else "solver",
            tol=self.tol,
            n_threads=self.n_threads,
            random_state=self.random_state,
            **limit,
        )
        self.result_ = run_solver(self, solver, problem, X=X)
        self.plan_, self.n_iter_ = self.result_.x, max(1, self.result_.nit)
        self.source_, self.target_, self._strength = X, Y, problem.strength
        self.images_ = self._side(inverse=False)
        self._preimages = self._side(inverse=True)
        return self

    def _target_points(self, X: Any, y: Any) -> NDArray[Any]:
        if y is not None and np.ndim(y) == 2:
            return self._checked(y, "y", X)
        if self.target is None:
            given = "no target points" if y is None else f"y with shape {np.shape(y)}"
            raise ProblemError(
                f"{type(self).__name__}.fit: got {given}; requires y to be passed, but the target "
                "y is None or not a sample: give target points of shape (n_targets, "
                f"{X.shape[1]}) as second argument, or as parameter target"
            )
        if not isinstance(self.target, str):
            return self._checked(self.target, "target", X)
        from scipy.stats import norm, qmc

        rng = make_rng(self.random_state)
        points = qmc.Halton(X.shape[1], seed=rng).random(int(self.n_reference))
        if self.target == "normal":
            tiny = np.finfo(np.float64).tiny
            points = norm.ppf(np.clip(points, tiny, 1.0 - np.finfo(np.float64).epsneg))
        return points.astype(X.dtype)

    def _checked(self, Y: Any, name: str, X: Any) -> NDArray[Any]:
        Y = check_array(Y, dtype=X.dtype, input_name=name)
        if Y.shape[1] != X.shape[1]:
            raise ProblemError(
                f"{name} has shape {Y.shape} and X has shape {X.shape}; source and target points "
                "must have the same number of coordinates"
            )
        return Y

    def _side(self, inverse: bool) -> NDArray[Any]:
        """Images of the fitted points of one side."""
        T = self.plan_.T if inverse else self.plan_
        own, other = self.source_, self.target_
        if inverse:
            own, other = other, own
        sums = np.asarray(T.sum(axis=1)).ravel()
        images = np.asarray(T @ other.astype(np.float64))
        images /= np.where(sums > 0, sums, 1.0)[:, None]
        images = images.astype(own.dtype)
        empty = sums <= 0
        if empty.all():
            raise ProblemError(
                f"{type(self).__name__}: the plan carries no mass; give a larger marginal_weight"
            )
        if empty.any():
            images[empty] = self._map(own[empty], own[~empty], images[~empty], inverse)
        return images

    def transform(self, X: ArrayLike) -> NDArray[Any]:
        """Map points of the source side to the target side.

        Parameters
        ----------
        X : array-like of shape (n, n_features)
            Points.

        Returns
        -------
        ndarray of shape (n, n_features)
            Images, see `out_of_sample`.
        """
        check_is_fitted(self)
        X = validate_data(self, X, dtype=_FLOATS, reset=False)
        return self._map(X, self.source_, self.images_, inverse=False)

    def inverse_transform(self, X: ArrayLike) -> NDArray[Any]:
        """Map points of the target side to the source side, by the same plan.

        Parameters
        ----------
        X : array-like of shape (n, n_features)
            Points.

        Returns
        -------
        ndarray of shape (n, n_features)
            Images, see `out_of_sample`. This is not the inverse function of ``transform``.
        """
        check_is_fitted(self)
        X = self._checked(X, "X", self.source_)
        return self._map(X, self.target_, self._preimages, inverse=True)

    def _map(self, X: Any, fitted: Any, images: Any, inverse: bool) -> NDArray[Any]:
        if self.out_of_sample == "nearest":
            near = pairwise_distances_argmin(X, fitted.astype(X.dtype, copy=False))
            moved = images[near] + (X - fitted[near])
            # What was fitted gets its image to the last bit.
            same = (fitted[near] == X).all(axis=1)
            return np.where(same[:, None], images[near], moved).astype(X.dtype)
        other, potentials = self.target_, self.plan_.beta
        capped = self.axis == 1
        if inverse:
            other, potentials, capped = self.source_, self.plan_.alpha, not capped
        points = other.astype(np.float64)
        # The mass of a row of the plan: the mean of those that there are.
        sums = np.asarray(self.plan_.sum(axis=0 if inverse else 1)).ravel()
        mass = float(np.mean(sums[sums > 0]))
        out = np.empty(X.shape, X.dtype)
        width = max(1, _BLOCK // len(points))
        for first in range(0, len(X), width):
            block = X[first : first + width].astype(np.float64)
            scores = potentials - cdist(block, points, self.metric)
            out[first : first + width] = self._rows(scores, mass, capped) @ points
        return out

    def _rows(self, scores: Any, mass: float, capped: bool) -> NDArray[Any]:
        """Rows of the plan, divided by their mass, that fit the potentials of the columns."""
        k = scores.shape[1] if self.max_nnz is None or not capped else int(self.max_nnz)
        if self._strength * mass == 0.0:
            rows = np.zeros_like(scores)
            rows[np.arange(len(rows)), np.argmax(scores, axis=1)] = 1.0
            return rows
        scores = scores - scores.max(axis=1, keepdims=True)
        shares: NDArray[Any] = sparse_simplex_projection(
            scores / (self._strength * mass), k, axis=1
        )
        return shares


def _shares(name: str, weight: Any, size: int) -> NDArray[Any] | None:
    """Masses of total 1."""
    if weight is None:
        return None
    weight = check_array(weight, dtype=np.float64, ensure_2d=False, input_name=name)
    if weight.shape != (size,):
        raise ProblemError(f"{name} has shape {weight.shape}; expected ({size},), one each")
    if (weight < 0).any() or not weight.any():
        raise ProblemError(
            f"{name} has least entry {weight.min():g} and total {weight.sum():g}; weights must be "
            "at least 0 with a positive total"
        )
    shares: NDArray[Any] = weight / weight.sum()
    return shares
