"""Networks from scikit-learn: multi-layer perceptrons, alone or behind scalers in a pipeline."""

from __future__ import annotations

from typing import Any

import numpy as np

from lowrank_opt.core.errors import ProblemError
from lowrank_opt.lipschitz.activations import Activation
from lowrank_opt.lipschitz.layer_errors import UnsupportedLayerError
from lowrank_opt.lipschitz.layer_stack import LayerStack
from lowrank_opt.lipschitz.network import Affine, FeedForward

__all__ = ["from_sklearn", "is_sklearn"]

_ACTIVATIONS = {"identity": "identity", "logistic": "sigmoid", "tanh": "tanh", "relu": "relu"}
_MODELS = ("MLPClassifier", "MLPRegressor")


def _class_name(obj: Any) -> str:
    """Name of the first class of scikit-learn among an object's bases; "" for other objects."""
    for cls in type(obj).__mro__:
        if cls.__module__.partition(".")[0] == "sklearn":
            return cls.__name__
    return ""


def is_sklearn(obj: Any) -> bool:
    """Return whether an object is an estimator of scikit-learn, without importing it."""
    return _class_name(obj) not in ("", "BaseEstimator")


def from_sklearn(obj: Any, include_output: bool = False) -> Any:
    """Return the network of a fitted perceptron or of a pipeline that ends in one.

    Parameters
    ----------
    obj : MLPClassifier, MLPRegressor or Pipeline
        Fitted. Before the perceptron: StandardScaler, MinMaxScaler, MaxAbsScaler, RobustScaler,
        PCA or "passthrough"; they become part of the first map.
    include_output : bool, default=False
        Whether the logistic function at the output belongs to the network.

    Returns
    -------
    FeedForward
    """
    stack = LayerStack()
    steps = [("model", obj)]
    if _class_name(obj) == "Pipeline":
        steps = [(name, step) for name, step in obj.steps if step not in (None, "passthrough")]
    if not steps:
        raise ProblemError("network: the pipeline has no steps; it must end in a perceptron")
    for name, step in steps[:-1]:
        _transformer(stack, name, step)
    name, model = steps[-1]
    own = getattr(model, "network_", None)
    if isinstance(own, FeedForward):  # an estimator of this library behind scalers
        for k, layer in enumerate(own.layers):
            if isinstance(layer, Affine):
                stack.affine(layer.weight, layer.bias, label=f"layer {k}")
            else:
                stack.activate(layer)
        return stack.network()
    kind = _class_name(model)
    if kind not in _MODELS:
        raise UnsupportedLayerError(
            f"the scikit-learn estimator {type(model).__name__}",
            "give an MLPClassifier, an MLPRegressor or a Pipeline that ends in one (of a search "
            "or an ensemble: its best_estimator_ or one of its estimators_)",
        )
    _fitted(model, "coefs_")
    hidden = _ACTIVATIONS.get(model.activation)
    if hidden is None:
        raise UnsupportedLayerError(
            f"the activation {model.activation!r} of {type(model).__name__}",
            f"give one of {sorted(_ACTIVATIONS)}, or the weights as a list with activation=",
        )
    last = len(model.coefs_) - 1
    for k, (W, b) in enumerate(zip(model.coefs_, model.intercepts_, strict=True)):
        stack.affine(np.asarray(W).T, b, label=f"layer {k}")
        if k < last:
            stack.activate(Activation(hidden))
    output = model.out_activation_
    if include_output and output != "identity":
        if output != "logistic":
            raise UnsupportedLayerError(
                f"the output {output!r} of {type(model).__name__}",
                "leave it out with include_output=False: the bound is then that of the values "
                "before it",
            )
        stack.activate(Activation("sigmoid"))
    return stack.network()


def _fitted(step: Any, attribute: str) -> None:
    if not hasattr(step, attribute):
        raise ProblemError(
            f"network: {type(step).__name__} is not fitted; call fit before it is converted"
        )


def _transformer(stack: LayerStack, name: str, step: Any) -> None:
    kind = _class_name(step)
    if kind == "StandardScaler":
        _fitted(step, "n_features_in_")
        one = np.ones(step.n_features_in_)
        factor = one / step.scale_ if step.with_std else one
        stack.scale(factor, -step.mean_ * factor if step.with_mean else 0.0 * one)
    elif kind == "RobustScaler":
        _fitted(step, "n_features_in_")
        one = np.ones(step.n_features_in_)
        factor = one / step.scale_ if step.with_scaling else one
        stack.scale(factor, -step.center_ * factor if step.with_centering else 0.0 * one)
    elif kind == "MaxAbsScaler" and not getattr(step, "clip", False):
        _fitted(step, "scale_")
        stack.scale(1.0 / step.scale_, np.zeros(step.scale_.size))
    elif kind == "MinMaxScaler" and not step.clip:
        _fitted(step, "scale_")
        stack.scale(step.scale_, step.min_)
    elif kind == "PCA":
        _fitted(step, "components_")
        W = np.asarray(step.components_, dtype=np.float64)
        if step.whiten:
            # as PCA.transform does it, with its floor
            size = np.sqrt(step.explained_variance_)
            floor = np.finfo(size.dtype).eps
            W = W / np.maximum(size, floor)[:, None]
        stack.affine(W, -W @ step.mean_, label=f"step {name!r}")
    else:
        what = " with clip=True" if getattr(step, "clip", False) else ""
        raise UnsupportedLayerError(
            f"the step {name!r} of the pipeline, {type(step).__name__}{what},",
            "bound the part of the pipeline behind it: pipeline[k:] or the perceptron alone "
            "(covered: StandardScaler, MinMaxScaler, MaxAbsScaler, RobustScaler, PCA)",
        )
