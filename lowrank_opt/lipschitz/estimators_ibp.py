"""A classifier trained on interval bounds, in scikit-learn's style."""

from __future__ import annotations

import warnings
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from scipy.special import softmax
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from lowrank_opt.core.errors import ParameterError, ProblemError
from lowrank_opt.core.params import COUNT, Interval, StrOptions, make_rng, validate_parameters
from lowrank_opt.core.sklearn_bridge import CallbackSupportMixin, open_bridge, with_callbacks
from lowrank_opt.core.threads import thread_limit
from lowrank_opt.lipschitz.ibp_training import MONOTONE, Recipe, fast_start, train
from lowrank_opt.lipschitz.intervals import interval_bounds

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = ["IBPClassifier"]


class IBPClassifier(CallbackSupportMixin, ClassifierMixin, BaseEstimator):
    r"""Multi-layer perceptron whose class is proved not to change in boxes around most inputs.

    Trained on the cross-entropy of the worst outputs that interval bounds allow for all inputs
    within `eps` of a sample, coordinate by coordinate [1]_ [2]_. A network trained plainly is
    about as accurate, but next to nothing can be proved of it.

    Parameters
    ----------
    hidden_layer_sizes : tuple of int, default=(100,)
        Neurons of the hidden layers; empty: a linear classifier.
    eps : float, default=0.1
        Radius of the boxes, in units of `X`, at least 0. To be certified at a radius, train with
        one that is a little larger. 0 trains plainly.
    clip : tuple of (lower, upper) or None, default=None
        Domain of the inputs, such as ``(0, 1)`` for pixels, numbers or arrays of shape
        (n_features,): boxes are cut there.
    activation : str, default="relu"
        Activation of the hidden layers: "relu", "leaky_relu", "tanh", "sigmoid", "softplus", "elu"
        or "hardtanh".
    max_iter : int, default=100
        Passes over the data.
    batch_size : int, default=64
        Samples of a step.
    learning_rate : float, default=0.005
        Step size of Adam; a fifth of it after 5/7 of the steps and a fifth again after 6/7.
        For large data, 0.0005 is usual.
    ramp : float, default=0.3
        Share of the steps in which the radius grows from 0 to `eps`, in [0, 1].
    warm_up : float, default=0.5
        Weight, at the beginning, of a regulariser that keeps boxes from growing from layer to
        layer [3]_; it fades with the ramp.
    l1 : float, default=1e-6
        Weight of the sum of the moduli of the weights.
    max_norm : float, default=10.0
        Gradients longer than this are shortened to it.
    shrink : float, default=1.0
        Below 1: propagate boxes of radius ``shrink * eps`` around inputs that an attack found
        [4]_. More accurate, and less can be proved by intervals.
    attack_steps : int, default=20
        Steps of that attack.
    random_state : int, Generator or None, default=None
        Seed of the weights and of the order of the samples.
    n_threads : int or None, default=1
        Threads of BLAS; small layers are slower with more.

    Attributes
    ----------
    network_ : FeedForward
        The network, one output for each class.
    classes_ : ndarray of shape (n_classes,)
        The classes, sorted.
    loss_curve_ : list of float
        Mean loss of each pass, regularisers included. It rises while the radius grows.
    n_iter_ : int
        Passes.
    n_features_in_ : int
        Number of features.
    feature_names_in_ : ndarray of str
        Their names, when `X` has some.

    See Also
    --------
    interval_bounds : The bounds.
    LipschitzCertifier : Certified radii in the Euclidean norm, of any network.

    Notes
    -----
    The weights start with standard deviation :math:`\sqrt{2 \pi} / n_{\text{in}}`, for which the
    mean radius of boxes neither grows nor shrinks in ReLU layers. Cost: about three times that of
    plain training. All computation is in float64 and deterministic for a seed and one thread.

    References
    ----------
    .. [1] S. Gowal, K. Dvijotham, R. Stanforth, R. Bunel, C. Qin, J. Uesato, R.
       Arandjelovic, T. Mann, P. Kohli, "On the Effectiveness of Interval Bound Propagation for
       Training Verifiably Robust Models", 2018. :arxiv:`1810.12715`
    .. [2] Y. Mao, M. N. Müller, M. Fischer, M. Vechev, "Understanding Certified Training with
       Interval Bound Propagation", ICLR 2024. :arxiv:`2306.10426`
    .. [3] Z. Shi, Y. Wang, H. Zhang, J. Yi, C.-J. Hsieh, "Fast Certified Robust Training with
       Short Warmup", NeurIPS 2021. :arxiv:`2103.17268`
    .. [4] M. N. Müller, F. Eckert, M. Fischer, M. Vechev, "Certified Training: Small Boxes are
       All You Need", ICLR 2023. :arxiv:`2210.04871`

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from lowrank_opt.lipschitz import IBPClassifier
    >>> X, y = load_digits(n_class=2, return_X_y=True)
    >>> model = IBPClassifier((20,), eps=0.1, clip=(0, 1), max_iter=20, random_state=0)
    >>> model = model.fit(X / 16, y)
    >>> bool(model.certified_accuracy(X / 16, y, eps=0.1) > 0.95)
    True
    """

    _constraints: ClassVar[dict[str, list[Any]]] = {
        "eps": [Interval(Real, 0, None, closed="left")],
        "activation": [StrOptions(set(MONOTONE))],
        "max_iter": [COUNT],
        "batch_size": [COUNT],
        "learning_rate": [Interval(Real, 0, None, closed="neither")],
        "ramp": [Interval(Real, 0, 1)],
        "warm_up": [Interval(Real, 0, None, closed="left")],
        "l1": [Interval(Real, 0, None, closed="left")],
        "max_norm": [Interval(Real, 0, None, closed="right")],
        "shrink": [Interval(Real, 0, 1, closed="right")],
        "attack_steps": [Interval(Integral, 0, None, closed="left")],
        "random_state": ["random_state"],
        "n_threads": [None, COUNT],
    }

    def __init__(
        self,
        hidden_layer_sizes: tuple[int, ...] = (100,),
        eps: float = 0.1,
        *,
        clip: Any = None,
        activation: str = "relu",
        max_iter: int = 100,
        batch_size: int = 64,
        learning_rate: float = 5e-3,
        ramp: float = 0.3,
        warm_up: float = 0.5,
        l1: float = 1e-6,
        max_norm: float = 10.0,
        shrink: float = 1.0,
        attack_steps: int = 20,
        random_state: Any = None,
        n_threads: int | None = 1,
    ) -> None:
        self.hidden_layer_sizes = hidden_layer_sizes
        self.eps = eps
        self.clip = clip
        self.activation = activation
        self.max_iter = max_iter
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.ramp = ramp
        self.warm_up = warm_up
        self.l1 = l1
        self.max_norm = max_norm
        self.shrink = shrink
        self.attack_steps = attack_steps
        self.random_state = random_state
        self.n_threads = n_threads

    @with_callbacks
    def fit(self, X: Any, y: ArrayLike) -> IBPClassifier:
        """Train the network.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            The data.
        y : array-like of shape (n_samples,)
            Classes: numbers or strings.

        Returns
        -------
        IBPClassifier
            Itself.

        Raises
        ------
        ProblemError
            Data that are not finite or outside of `clip`; a single class.
        ParameterError
            A parameter out of range.
        """
        params = {name: getattr(self, name) for name in self._constraints}
        validate_parameters(type(self).__name__, params, self._constraints)
        sizes = self._sizes()
        X, y = validate_data(self, X, y, dtype=np.float64)
        check_classification_targets(y)
        self.classes_, labels = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ProblemError(
                f"{type(self).__name__}: y has only one class, {self.classes_.tolist()[0]!r}; two "
                "are needed"
            )
        # Also checks `clip`, and that the data are in it.
        clip = None if self.clip is None else _domain(X, self.clip)
        recipe = Recipe(
            float(self.eps), clip, int(self.max_iter), int(self.batch_size),
            float(self.learning_rate), float(self.ramp), float(self.warm_up), float(self.l1),
            float(self.max_norm), float(self.shrink), int(self.attack_steps),
        )  # fmt: skip
        rng = make_rng(self.random_state)
        layers = fast_start((X.shape[1], *sizes, len(self.classes_)), rng, self.activation)
        bridge = open_bridge(self, X)

        def report(epoch: int, loss: float) -> bool:
            if bridge is None:
                return False
            try:
                bridge({"nit": epoch + 1, "residual": loss})  # type: ignore[arg-type]
            except StopIteration:
                return True
            return False

        with thread_limit(None, self.n_threads), np.errstate(over="ignore", invalid="ignore"):
            self.loss_curve_ = train(layers, X, labels, recipe, rng, report)
        if bridge is not None:
            bridge.close()
        self.n_iter_ = len(self.loss_curve_)
        if not np.isfinite(self.loss_curve_[-1]):
            warnings.warn(
                f"{type(self).__name__}: the loss is not finite after {self.n_iter_} passes. Scale "
                "X to about one, or lower learning_rate.",
                ConvergenceWarning,
                stacklevel=2,
            )
            for array in layers.arrays:
                np.nan_to_num(array, copy=False, posinf=0.0, neginf=0.0)
        self.network_ = layers.network()
        return self

    def _sizes(self) -> tuple[int, ...]:
        try:
            sizes = tuple(np.atleast_1d(self.hidden_layer_sizes).tolist())
        except ValueError:
            sizes = (None,)
        if not all(COUNT.admits(s) for s in sizes):
            raise ParameterError(
                f"hidden_layer_sizes={self.hidden_layer_sizes!r} must be a tuple of positive "
                "integers, one for each hidden layer"
            )
        return sizes

    def _outputs(self, X: Any) -> NDArray[np.float64]:
        check_is_fitted(self)
        X = validate_data(self, X, dtype=np.float64, reset=False)
        return self.network_.forward(X)

    def decision_function(self, X: ArrayLike) -> NDArray[np.float64]:
        """Return the outputs of the network.

        Parameters
        ----------
        X : array-like of shape (n, n_features)
            Inputs.

        Returns
        -------
        ndarray of shape (n, n_classes) or (n,)
            One column for each class; for two classes the second less the first.
        """
        F = self._outputs(X)
        return F[:, 1] - F[:, 0] if F.shape[1] == 2 else F

    def predict_proba(self, X: ArrayLike) -> NDArray[np.float64]:
        """Return the probabilities of the classes.

        Parameters
        ----------
        X : array-like of shape (n, n_features)
            Inputs.

        Returns
        -------
        ndarray of shape (n, n_classes)
            The softmax of the outputs.
        """
        P: NDArray[np.float64] = softmax(self._outputs(X), axis=1)
        return P

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
        best = self._outputs(X).argmax(axis=1)
        return np.asarray(self.classes_[best])

    def certified_accuracy(self, X: Any, y: ArrayLike, eps: Any = None) -> Any:
        """Return the share of inputs proved to be given the right class in a whole box.

        Parameters
        ----------
        X : array-like of shape (n, n_features)
            Inputs.
        y : array-like of shape (n,)
            True classes.
        eps : float, array-like of shape (k,) or None, default=None
            Radius of the boxes, or several; ``None``: that of the training. Boxes are cut at
            `clip`.

        Returns
        -------
        float or ndarray of shape (k,)
            At most the accuracy under any attack within the radius; rounding included.
        """
        check_is_fitted(self)
        X = validate_data(self, X, dtype=np.float64, reset=False)
        y = np.asarray(y)
        if y.shape != (len(X),):
            raise ProblemError(f"y has shape {y.shape}; expected ({len(X)},), one class each")
        labels = np.minimum(np.searchsorted(self.classes_, y), len(self.classes_) - 1)
        known = self.classes_[labels] == y
        radii = np.asarray(self.eps if eps is None else eps, dtype=np.float64)
        if radii.ndim > 1:
            raise ProblemError(f"eps has shape {radii.shape}; expected a number or a vector")
        shares = [
            float((self._certified(X, labels, radius) & known).mean()) for radius in radii.flat
        ]
        return shares[0] if radii.ndim == 0 else np.array(shares)

    def _certified(
        self, X: NDArray[np.float64], labels: NDArray[np.intp], eps: float
    ) -> NDArray[np.bool_]:
        bounds = interval_bounds(self.network_, X, eps, clip=self.clip, margins_for=labels)
        return bounds.certified


def _domain(X: NDArray[np.float64], clip: Any) -> tuple[Any, Any]:
    try:
        least, most = (np.asarray(end, dtype=np.float64) for end in clip)
        ok = bool((np.broadcast_to(least, X.shape[1:]) <= most).all())
    except (TypeError, ValueError):
        ok = False
    if not ok:
        raise ParameterError(
            f"clip={clip!r} must be a pair (lower, upper) of numbers or of arrays of shape "
            f"({X.shape[1]},), with lower <= upper"
        )
    outside = (least > X) | (most < X)
    if outside.any():
        row, column = np.argwhere(outside)[0]
        raise ProblemError(
            f"X[{row}, {column}] = {X[row, column]:g} is outside of clip={clip!r}; scale X to its "
            "domain, or give the domain of X"
        )
    return least, most
