"""Certified radii of classifiers from Lipschitz bounds."""

from __future__ import annotations

import contextlib
from numbers import Real
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from lowrank_opt.core.errors import ProblemError
from lowrank_opt.core.params import TOLERANCE, Interval, StrOptions, validate_parameters
from lowrank_opt.lipschitz.bound_solver import without_lower_bounds
from lowrank_opt.lipschitz.convert import as_network
from lowrank_opt.lipschitz.front import check_method, lipschitz_bound
from lowrank_opt.lipschitz.intervals import interval_bounds
from lowrank_opt.lipschitz.network import Implicit, points
from lowrank_opt.lipschitz.problem import NORMS, LipschitzProblem
from lowrank_opt.lipschitz.proofs import BoundProof

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import ArrayLike, NDArray

    Values = NDArray[np.float64]

__all__ = ["LipschitzCertifier"]

# Of one bound for all outputs: what a difference of two outputs may change by.
_BOTH = {"l2": float(np.nextafter(np.sqrt(2.0), 2.0)), "linf": 2.0, "l1": 1.0}
_SHARED = ("multipliers", "layer_multipliers")
# Methods that take no longer than the check of another pair's multipliers.
_CLOSED = ("fast", "lip_lt", "product", "LipLT", "NormProduct")
_DOWN = 1.0 - 2.0**-51


class LipschitzCertifier(BaseEstimator):
    r"""Radii around inputs within which the class of a network cannot change.

    With bounds :math:`L_{kl}` of the Lipschitz constants of the differences :math:`f_k - f_l`,
    an input of class k keeps it within :math:`\min_l (f_k - f_l) / L_{kl}` [1]_. The bounds hold
    with rounding, and so do the radii, for the network in exact arithmetic.

    Parameters
    ----------
    norm : {"l2", "linf", "l1"}, default="l2"
        How perturbations are measured: Euclidean; largest entry; sum of absolute values.
    method : str, default="auto"
        Method of :func:`lipschitz_bound`; "fast" takes milliseconds and gives smaller radii.
    pairwise : bool, default=True
        One bound for each pair of classes that matters; else one for the network, with which
        radii are :math:`\min_l (f_k - f_l) / (\sqrt 2 L)` ("linf": :math:`2 L`), smaller.
    tol : float, default=1e-4
        Relative gap of the bounds; radii are off by as much.
    max_time : float or None, default=None
        Limit on the seconds of each bound; with it radii are smaller, and still certified.
    activation : str, default="relu"
        Activation of a network given as a list of arrays.

    Attributes
    ----------
    network_ : FeedForward or Residual
        The network.
    classes_ : ndarray of shape (n_classes,)
        The classes: those of a fitted classifier, else 0, 1, ….
    pair_bounds_ : ndarray of shape (n_classes, n_classes)
        Certified bounds of the constants of differences as they are known so far; infinite
        before any input needed them, zero on the diagonal.
    pair_solved_ : ndarray of bool of shape (n_classes, n_classes)
        Which of them are as tight as `method` gives; the rest have come from the multipliers of
        another pair, which is enough for the inputs seen.
    results_ : dict
        Results by pair (k, l), k < l, or by ``None`` for the whole network.

    See Also
    --------
    interval_bounds : For boxes of inputs, one input at a time.
    lipschitz_bound : The bounds.

    Notes
    -----
    Pairs are solved when an input needs them: a pair waits until, with the bounds known so far,
    it would be the one that decides the radius of an input. Radii are those that all pairs
    solved would give, and the rest is kept for later calls. Cost: one bound for each such pair, at
    most n_classes (n_classes - 1) / 2.

    The radii are for all of space; perturbations that leave a domain such as [0, 1] count too.

    References
    ----------
    .. [1] Y. Tsuzuku, I. Sato, M. Sugiyama, "Lipschitz-Margin Training: Scalable Certification of
       Perturbation Invariance for Deep Neural Networks", NeurIPS 2018. :arxiv:`1802.04034`

    Examples
    --------
    >>> import numpy as np
    >>> from lowrank_opt.lipschitz import LipschitzCertifier
    >>> network = [np.array([[3.0, 4.0], [-3.0, -4.0]])]
    >>> certifier = LipschitzCertifier().fit(network)
    >>> certifier.certified_radius([[3.0, 4.0]]).round(6).tolist()
    [5.0]
    """

    _constraints: ClassVar[dict[str, list[Any]]] = {
        "norm": [StrOptions(set(NORMS))],
        "method": [str],
        "pairwise": ["boolean"],
        "tol": [TOLERANCE],
        "max_time": [None, Interval(Real, 0, None, closed="left")],
    }

    def __init__(
        self,
        norm: str = "l2",
        method: str = "auto",
        pairwise: bool = True,
        *,
        tol: float = 1e-4,
        max_time: float | None = None,
        activation: Any = "relu",
    ) -> None:
        self.norm = norm
        self.method = method
        self.pairwise = pairwise
        self.tol = tol
        self.max_time = max_time
        self.activation = activation

    def fit(self, model: Any, y: Any = None) -> LipschitzCertifier:
        """Take a network.

        Parameters
        ----------
        model : object
            A fitted classifier or network, anything that :func:`as_network` reads. One output is
            a classifier of two classes with the threshold 0.
        y : object
            Ignored.

        Returns
        -------
        LipschitzCertifier
            Itself. Bounds are computed when they are needed.

        Raises
        ------
        ProblemError
            An implicit network, a classifier with several labels at once, classes that are not as
            many as outputs.
        ParameterError
            A parameter out of range.
        """
        params = {name: getattr(self, name) for name in self._constraints}
        validate_parameters(type(self).__name__, params, self._constraints)
        check_method(self.method, upper=True)
        network = _network_of(model, self.activation)
        k = max(2, network.n_outputs)
        classes = getattr(model, "classes_", None)
        self.classes_ = np.arange(k) if classes is None else np.asarray(classes)
        last = model[-1] if hasattr(model, "steps") else model
        several = getattr(last, "out_activation_", "") == "logistic" and network.n_outputs > 1
        if several or self.classes_.shape != (k,):
            raise ProblemError(
                f"model has {network.n_outputs} outputs"
                + (" for labels of their own" if several else f" and {self.classes_.size} classes")
                + "; expected one output for each class, or one output for two classes"
            )
        self.network_ = network
        self.pair_bounds_ = np.where(np.eye(k, dtype=bool), 0.0, np.inf)
        self.pair_solved_ = np.eye(k, dtype=bool)
        self.results_: dict[Any, Any] = {}
        return self

    @property
    def lipschitz_(self) -> float:
        """Certified bound of the Lipschitz constant of the whole network."""
        check_is_fitted(self)
        if None not in self.results_:
            self.results_[None] = self._bound(None)
        return float(self.results_[None].fun)

    def _bound(self, output: Any) -> Any:
        with without_lower_bounds():
            return lipschitz_bound(
                self.network_, norm=self.norm, output=output, method=self.method, tol=self.tol,
                max_time=self.max_time,
            )  # fmt: skip

    def bound_pairs(self, pairs: Iterable[tuple[int, int]] | None = None) -> Values:
        """Solve pairs of classes that have not been solved.

        Parameters
        ----------
        pairs : iterable of (int, int) or None, default=None
            Indices into ``classes_``; ``None``: all pairs.

        Returns
        -------
        ndarray of shape (n_classes, n_classes)
            ``pair_bounds_``.
        """
        check_is_fitted(self)
        k = len(self.classes_)
        if pairs is None:
            pairs = ((i, j) for i in range(k) for j in range(i))
        for i, j in pairs:
            if not (0 <= i < k and 0 <= j < k):
                raise ProblemError(f"pair {(i, j)}: there are classes 0 to {k - 1}")
            self._solve(int(i), int(j))
        return self.pair_bounds_

    def _solve(self, i: int, j: int) -> None:
        if self.pair_solved_[i, j]:
            return
        if not self.pairwise:
            off = ~np.eye(len(self.classes_), dtype=bool)
            factor = 1.0 if self.network_.n_outputs == 1 else _BOTH[self.norm]
            self.pair_bounds_[off] = self.lipschitz_ * factor / _DOWN
            self.pair_solved_[:] = True
            return
        pair = (min(i, j), max(i, j))
        result = self._bound(0 if self.network_.n_outputs == 1 else pair)
        self.results_[pair] = result
        self._set(*pair, float(result.fun))
        self.pair_solved_[i, j] = self.pair_solved_[j, i] = True
        if self.method not in _CLOSED and np.isinf(self.pair_bounds_).any():
            self._share(result.x)

    def _set(self, i: int, j: int, bound: float) -> None:
        bound = min(bound, self.pair_bounds_[i, j])
        self.pair_bounds_[i, j] = self.pair_bounds_[j, i] = bound

    def _share(self, proof: Any) -> None:
        """Bound all other pairs by the multipliers of one: a factorisation each, no iterations."""
        for i, j in np.argwhere(np.isinf(np.triu(self.pair_bounds_))).tolist():
            problem = LipschitzProblem(self.network_, self.norm, output=(i, j))
            bound = max(float(part.product) for part in problem.parts)
            if isinstance(proof, BoundProof) and proof.kind in _SHARED:
                start = BoundProof(proof.kind, proof.multipliers, bound=bound)
                # It does not fit where neurons are dead for one pair and not for the other.
                with contextlib.suppress(ProblemError):
                    bound = min(bound, problem.objective(start))
            self._set(i, j, bound)

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """Return the class of each input.

        Parameters
        ----------
        X : array-like of shape (n, n_features)
            Inputs.

        Returns
        -------
        ndarray of shape (n,)
            Entries of ``classes_``.
        """
        check_is_fitted(self)
        best = self._codes(X)
        return np.asarray(self.classes_[best])

    def _codes(self, X: ArrayLike) -> NDArray[np.intp]:
        X, _ = points(X, self.network_.n_inputs)
        F = self.network_.forward(X)
        if F.shape[1] == 1:
            return np.asarray((F[:, 0] > 0.0).astype(np.intp))
        return F.argmax(axis=1)

    def score(self, X: ArrayLike, y: ArrayLike) -> float:
        """Return the accuracy.

        Parameters
        ----------
        X : array-like of shape (n, n_features)
            Inputs.
        y : array-like of shape (n,)
            True classes.
        """
        return float(np.mean(self.predict(X) == _classes_of(y, len(np.atleast_2d(X)))))

    def certified_radius(self, X: ArrayLike, y: ArrayLike | None = None) -> Values:
        """Return the distances within which the class of inputs cannot change.

        Parameters
        ----------
        X : array-like of shape (n, n_features)
            Inputs.
        y : array-like of shape (n,) or None, default=None
            True classes: the radius within which the network is right, 0 where it is wrong at
            the input itself; ``None``: the radius of the predicted class.

        Returns
        -------
        ndarray of shape (n,)
            Rounded down; infinite where no other class can occur anywhere.
        """
        check_is_fitted(self)
        X, _ = points(X, self.network_.n_inputs)
        if y is None:
            labels, known = self._codes(X), np.ones(len(X), dtype=bool)
        else:
            y = _classes_of(y, len(X))
            order = np.argsort(self.classes_)
            place = np.searchsorted(self.classes_, y, sorter=order)
            labels = order[np.minimum(place, len(order) - 1)]
            known = self.classes_[labels] == y
        # Lower bounds of the margins, with the rounding errors of the evaluation.
        margins = interval_bounds(self.network_, X, 0.0, margins_for=labels).lower
        if self.network_.n_outputs == 1:
            margins = np.repeat(margins, 2, axis=1)
        margins = margins.copy()
        margins[np.arange(len(X)), labels] = np.inf
        alive = known & (margins > 0.0).all(axis=1)
        out = np.zeros(len(X))
        out[alive] = self._radii(margins[alive], labels[alive])
        return out

    def _radii(self, margins: Values, labels: NDArray[np.intp]) -> Values:
        n = len(margins)
        if not n:
            return np.zeros(0)
        while True:
            bounds = self.pair_bounds_[labels]
            with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
                ratios = margins / bounds
            ratios[np.isinf(margins)] = np.inf
            ratios[bounds == np.inf] = 0.0
            ratios[np.arange(n), labels] = np.inf
            worst = ratios.argmin(axis=1)
            needed = ~self.pair_solved_[labels, worst]
            if not needed.any():
                smallest = ratios[np.arange(n), worst]
                return np.maximum(smallest * _DOWN - 2.0**-1074, 0.0)
            k = len(self.classes_)
            votes = np.bincount(labels[needed] * k + worst[needed], minlength=k * k)
            self._solve(*divmod(int(votes.argmax()), k))

    def certified_accuracy(self, X: ArrayLike, y: ArrayLike, eps: ArrayLike) -> Any:
        """Return the share of inputs proved to be given the right class in a whole ball.

        Parameters
        ----------
        X : array-like of shape (n, n_features)
            Inputs.
        y : array-like of shape (n,)
            True classes.
        eps : float or array-like of shape (k,)
            Radius in the norm, or several for a curve.

        Returns
        -------
        float or ndarray of shape (k,)
            At most the accuracy under any perturbation of norm `eps`.
        """
        radii = np.asarray(eps, dtype=np.float64)
        if radii.ndim > 1 or not (radii >= 0.0).all():
            raise ProblemError(f"eps={eps!r} must be a number or a vector of numbers, at least 0")
        own = np.sort(self.certified_radius(X, y))
        if not len(own):
            raise ProblemError("X is empty; accuracy needs an input")
        beyond = len(own) - np.searchsorted(own, radii, side="right")
        return float(beyond) / len(own) if radii.ndim == 0 else beyond / len(own)


def _network_of(model: Any, activation: Any) -> Any:
    network = as_network(model, activation=activation)
    if isinstance(network, Implicit):
        raise ProblemError(
            "LipschitzCertifier: the network is implicit, and margins with their rounding errors "
            "are not known; divide margins by lipschitz_bound yourself"
        )
    return network


def _classes_of(y: ArrayLike, n: int) -> NDArray[Any]:
    y = np.asarray(y)
    if y.shape != (n,):
        raise ProblemError(f"y has shape {y.shape}; expected ({n},), one class each")
    return y
