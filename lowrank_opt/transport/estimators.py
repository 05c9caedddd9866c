"""Estimators of sparse transport, in scikit-learn's style."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.spatial.distance import cdist
from sklearn.base import BaseEstimator, OneToOneFeatureMixin, TransformerMixin
from sklearn.metrics import pairwise_distances_argmin
from sklearn.utils.validation import check_array, check_is_fitted, validate_data

from lowrank_opt.core.errors import InfeasibleError, ProblemError
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
_CONSTRAINTS: dict[str, list[Any]] = {
    "target": [None, _REFERENCES, "array"],
    "n_reference": [COUNT],
    "gamma": [Interval(Real, 0, None, closed="left")],
    "max_nnz": [None, COUNT],
    "out_of_sample": [StrOptions({"nearest", "potentials"})],
    "tol": [TOLERANCE],
    "max_iter": [None, Interval(Integral, 0, None, closed="left")],
    "random_state": ["random_state"],
}


class SparseOTMapper(CallbackSupportMixin, OneToOneFeatureMixin, TransformerMixin, BaseEstimator):
    r"""Map a sample to another by sparse optimal transport.

    A plan T carries the masses of the source points to the target points; a source point goes to
    the mean of the target points that it is carried to, :math:`x_i \mapsto \sum_j t_{ij} y_j /
    \sum_j t_{ij}`. With a cap every image is a mean of a few target points.

    Parameters
    ----------
    target : array-like, {"normal", "uniform"} or None, default=None
        Where to: points of shape (n_targets, n_features), or a reference sample of the standard
        normal distribution or of the uniform one on the unit cube; the map to a reference is a
        multivariate analogue of ranks. With it ``fit`` ignores its second argument, so that
        pipelines may pass labels to every step. ``None``: ``fit`` is given the target points.
    n_reference : int, default=256
        Points of a reference sample; scrambled Halton points.
    max_nnz : int or None, default=None
        Most target points of a source point (``axis=1``), or most source points of a target point
        (``axis=0``); ``None``: no cap. Where no plan with the cap is found, a warning says so, and
        the plan has more. ``solver=SparsityConstrainedOT(rounding="columns")`` keeps cap and
        masses of the capped side always, at the price of the masses of the other side.
    gamma : float, default=0.01
        Strength of the quadratic term, at least 0.
    axis : {0, 1}, default=1
        What `max_nnz` caps: with 1 the targets of a source, which is what images are made of.
    metric : {"sqeuclidean", "euclidean"}, default="sqeuclidean"
        Cost of two points.
    gamma_scale : {"relative", "absolute"}, default="relative"
        "relative": `gamma` counts in the range of the costs, less their row and column means,
        over the mean mass of a point of the capped side, so that the map does not depend on units
        or on how far away the target is.
    unbalanced : {"kl", "l2"} or None, default=None
        Penalise the marginals of the side without the cap instead of fixing them.
    marginal_weight : float, default=1.0
        Weight of that penalty.
    out_of_sample : {"nearest", "potentials"}, default="nearest"
        Images of points that were not fitted. "nearest": a point moves as the nearest fitted
        one that has mass does: the same step from there. "potentials": a row of the plan is made
        for it from the potentials of the other side, as if it had the mean mass of a point: a
        mean of at most `max_nnz` target points for ``axis=1``, of any number for ``axis=0``;
        without a cap on it, that is continuous.
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
    ``transform`` of the fitted points gives ``images_`` with "nearest" (of a point that was given
    twice, the image of one of them). With "potentials" it does so to the tolerance for points of
    the same mass, without a cap or, for ``axis=1``, where no scores tie at the cap.
    ``inverse_transform`` is the map of the same plan from the target to the source; the two do
    not undo each other.

    A point of weight zero is as good as left out. A point that is given twice is two places for
    mass: it is not the same as one point of twice the weight, neither for the quadratic term nor
    for the cap.

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
        tags.target_tags.required = self.target is None
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
            Target points. Ignored if the parameter `target` was given.
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
        problem = self._problem(X, Y, sample_weight, target_weight)
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
        self.source_, self.target_ = X, Y
        self._forward, self._backward = (_Map.of(self.plan_, problem, way) for way in (True, False))
        self.images_ = self._forward.fitted(X, self.out_of_sample)
        return self

    def _problem(self, X: Any, Y: Any, sample_weight: Any, target_weight: Any) -> TransportProblem:
        try:
            return TransportProblem(
                _shares("sample_weight", sample_weight, len(X)),
                _shares("target_weight", target_weight, len(Y)),
                X=X, Y=Y, metric=self.metric, gamma=self.gamma, max_nnz=self.max_nnz,
                axis=self.axis, unbalanced=self.unbalanced, marginal_weight=self.marginal_weight,
                gamma_scale=self.gamma_scale,
            )  # fmt: skip
        except InfeasibleError as error:  # it speaks of rows and columns
            raise InfeasibleError(
                f"{type(self).__name__}.fit with n_samples={len(X)} (rows) and "
                f"n_targets={len(Y)} (columns): {error}; or give unbalanced='kl'"
            ) from error

    def _target_points(self, X: Any, y: Any) -> NDArray[Any]:
        if self.target is None:
            shape = f"(n_targets, {X.shape[1]})"
            if y is None:
                raise ProblemError(
                    f"{type(self).__name__} requires y to be passed, but the target y is None: "
                    f"give fit target points of shape {shape}, or the parameter target"
                )
            if np.asarray(y).ndim != 2:
                raise ProblemError(
                    f"y has shape {np.asarray(y).shape}; expected target points of shape {shape}. "
                    "If y is labels, give the parameter target, such as target='normal'"
                )
            return self._checked(y, "y", X)
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
        return self._forward(X, self.out_of_sample)

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
        points = check_array(X, dtype=_FLOATS, input_name="X")
        if points.shape[1] != self.n_features_in_:
            raise ProblemError(
                f"X has {points.shape[1]} features, but {type(self).__name__} is expecting "
                f"{self.n_features_in_} features as input"
            )
        return self._backward(points, self.out_of_sample)


@dataclass(frozen=True, eq=False)
class _Map:
    """The map of a plan from one side, called own, to the other.

    Only points that have mass are in it, `live` of the own side. `images` are those of `own`,
    `scale` is the strength of the quadratic term times the mean mass, `cap` the most points that
    an image is made of.
    """

    live: Any
    own: Any
    images: Any
    other: Any
    potentials: Any
    scale: float
    cap: int
    metric: str

    @classmethod
    def of(cls, plan: Any, problem: TransportProblem, forward: bool) -> _Map:
        sides = (problem.X, problem.a, plan.alpha), (problem.Y, problem.b, plan.beta)
        (own, _, _), (other, masses, potentials) = sides if forward else sides[::-1]
        T = plan if forward else plan.T
        sums = np.asarray(T.sum(axis=1, dtype=np.float64)).ravel()
        live = sums > 0
        images = np.asarray(T @ other.astype(np.float64))[live] / sums[live, None]
        capped = problem.axis == (1 if forward else 0)
        return cls(
            live=live, own=own[live], images=images, other=other[masses > 0].astype(np.float64),
            potentials=potentials[masses > 0], scale=problem.strength * float(sums[live].mean()),
            cap=problem.cap if capped else len(other), metric=problem.metric,
        )  # fmt: skip

    def __call__(self, X: Any, out_of_sample: str) -> NDArray[Any]:
        move = self._with_the_nearest if out_of_sample == "nearest" else self._by_potentials
        out = np.empty(X.shape, X.dtype)
        width = max(1, _BLOCK // max(len(self.other), X.shape[1]))
        for first in range(0, len(X), width):
            out[first : first + width] = move(X[first : first + width].astype(np.float64))
        return out

    def fitted(self, X: Any, out_of_sample: str) -> NDArray[Any]:
        """Images of all points of the own side, of those without mass as of new ones."""
        images = np.empty(X.shape, X.dtype)
        images[self.live] = self.images
        images[~self.live] = self(X[~self.live], out_of_sample)
        return images

    def _with_the_nearest(self, X: Any) -> NDArray[Any]:
        own = self.own.astype(np.float64)
        # The distances come from inner products, which lose digits far from the origin.
        center = own.mean(axis=0)
        near = pairwise_distances_argmin(X - center, own - center)
        images: NDArray[Any] = self.images[near] + (X - own[near])
        return images

    def _by_potentials(self, X: Any) -> NDArray[Any]:
        scores = self.potentials - cdist(X, self.other, self.metric)
        scores -= scores.max(axis=1, keepdims=True)
        if self.scale == 0.0:
            return self.other[scores.argmax(axis=1)]
        # Shares are 0 from `scale` below the largest score on: nothing may overflow there.
        scores = np.maximum(scores, -2.0 * self.scale) / self.scale
        images: NDArray[Any] = sparse_simplex_projection(scores, self.cap, axis=1) @ self.other
        return images


def _shares(name: str, weight: Any, size: int) -> NDArray[Any] | None:
    """Masses of total 1."""
    if weight is None:
        return None
    weight = check_array(weight, dtype=np.float64, ensure_2d=False, input_name=name)
    if weight.shape != (size,):
        raise ProblemError(f"{name} has shape {weight.shape}; expected ({size},), one each")
    if (weight < 0).any():
        first = int(np.argmax(weight < 0))
        raise ProblemError(
            f"{name}[{first}] = {weight[first]:g} is negative; weights must be at least 0"
        )
    if not weight.any():
        raise ProblemError(f"{name} is zero for all points; give some point a positive weight")
    weight = weight / weight.max()  # so that the total does not overflow
    shares: NDArray[Any] = weight / weight.sum()
    return shares
