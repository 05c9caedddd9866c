"""Models of other libraries, lists of arrays and files as networks of this one."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

from lowrank_opt.core.errors import ProblemError, ProblemTypeError
from lowrank_opt.lipschitz.activations import Activation
from lowrank_opt.lipschitz.convert_sklearn import from_sklearn, is_sklearn
from lowrank_opt.lipschitz.layer_errors import UnsupportedLayerError
from lowrank_opt.lipschitz.layer_stack import LayerStack, as_activation, as_activations
from lowrank_opt.lipschitz.network import Affine, FeedForward, Implicit, Residual

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lowrank_opt.lipschitz.network import Network

__all__ = ["UnsupportedLayerError", "as_network"]

_ACCEPTED = (
    "expected a list of weights of shape (n_out, n_in), a torch.nn.Sequential, a scikit-learn "
    "perceptron, an ONNX model, a path (.npz, .mat, .nnet, .onnx), or a FeedForward, Residual or "
    "Implicit network"
)


def as_network(
    obj: Any,
    activation: Any = "relu",
    input_shape: Sequence[int] | None = None,
    include_output: bool = False,
) -> Network:
    """Convert a model to a network whose Lipschitz constant can be bounded.

    Parameters
    ----------
    obj : object
        One of

        - a list of weights of shape (n_out, n_in), dense or sparse, or of pairs (weight, bias);
          with `Affine` maps and `Activation` objects (or names) between them, in the order of
          evaluation, where the activations are to be given in place;
        - a mapping of names to arrays, or the path of a ``.npz`` or ``.mat`` file:
          ``weights`` and ``biases``, ``arr_0, arr_1, ...``, or numbered names such as ``W1, b1``
          and ``fc1.weight, fc1.bias``;
        - the path of a ``.nnet`` file; its normalisation of inputs and outputs is folded in;
        - a fitted ``MLPClassifier`` or ``MLPRegressor`` of scikit-learn, or a ``Pipeline`` of
          scalers or PCA that ends in one;
        - a ``torch.nn.Sequential``, nested or not, in evaluation mode;
        - an ONNX model or the path of a ``.onnx`` file;
        - a `FeedForward`, `Residual` or `Implicit` network, returned as it is.
    activation : str, Activation or sequence of them, default="relu"
        For weights without activations: one for all hidden layers, or one for each. There is
        none after the last weight.
    input_shape : sequence of int or None, default=None
        Shape of one input without the batch, such as (channels, height, width); needed for
        convolutions and pooling, and where an ONNX model leaves it open. Inputs of the network
        are these arrays flattened in C order.
    include_output : bool, default=False
        Whether the logistic function at the output of a scikit-learn classifier belongs to the
        network. A softmax at the very end (and the exponential of a Poisson regressor) is never
        part of it: the bound is that of the values before it, and asking for more raises. The
        softmax itself is 1-Lipschitz in l2.

    Returns
    -------
    FeedForward, Residual or Implicit
        With float64 copies of the weights: float32 is exact, integers are cast. Batch
        normalisation and scalers are folded into maps next to them.

    Raises
    ------
    UnsupportedLayerError
        A layer is not covered, or not in the mode it is in; the message names it and the cure.
        Nothing is skipped or replaced by a guess.
    ProblemError
        Shapes that do not fit, NaN, infinities, complex numbers or objects among the weights;
        the message has the number of the layer, from zero.
    MissingDependencyError
        An ONNX model without the package ``onnx``.

    Notes
    -----
    Convolutions and average pooling become sparse matrices. Max pooling is exact: it is a
    GroupSort of the windows of which the largest entries are kept. In ONNX graphs, affine maps
    that follow each other are multiplied, and graphs with branches become `Residual` networks.

    Examples
    --------
    >>> import numpy as np
    >>> from lowrank_opt.lipschitz.convert import as_network
    >>> as_network([np.eye(3, 2), np.ones((1, 3))], activation="tanh")
    FeedForward(2-3-1, tanh)
    """
    if isinstance(obj, (FeedForward, Residual, Implicit)):
        return obj
    shape = _shape(input_shape)
    if isinstance(obj, (str, os.PathLike)):
        return _from_path(Path(obj), activation, shape, include_output)
    kind = _library(obj)
    if kind == "onnx":
        from lowrank_opt.lipschitz.convert_onnx import from_onnx

        return from_onnx(obj, shape, include_output)
    if kind == "torch":
        from lowrank_opt.lipschitz.convert_torch import from_torch

        return from_torch(obj, shape, include_output)
    own = getattr(obj, "network_", None)
    if isinstance(own, (FeedForward, Residual, Implicit)):
        return own
    if is_sklearn(obj):
        return from_sklearn(obj, include_output)
    if isinstance(obj, Mapping):
        from lowrank_opt.lipschitz.convert_files import weights_of_mapping

        return from_weights(list(weights_of_mapping(obj)), activation, shape)
    if isinstance(obj, (Affine, Activation)) or sp.issparse(obj):
        return from_weights([obj], activation, shape)
    if isinstance(obj, np.ndarray):
        if obj.ndim == 2 and obj.dtype != object:
            return from_weights([obj], activation, shape)
        if obj.ndim == 0:
            raise ProblemTypeError(
                f"network: a single {obj.dtype} value is no network; {_ACCEPTED}"
            )
        return from_weights(list(obj), activation, shape)
    if isinstance(obj, (list, tuple)):
        return from_weights(list(obj), activation, shape)
    raise ProblemTypeError(f"network: {type(obj).__name__} is not understood; {_ACCEPTED}")


def from_weights(
    items: list[Any], activation: Any = "relu", shape: tuple[int, ...] | None = None
) -> FeedForward:
    """Return the network of a list.

    Parameters
    ----------
    items : list
        Weights, pairs (weight, bias), `Affine` maps, and activations or their names.
    activation : str, Activation or sequence of them, default="relu"
        Between the maps, where `items` has no activations.
    shape : tuple of int or None, default=None
        Shape of one input, if it is known otherwise.

    Returns
    -------
    FeedForward
    """
    if not items:
        raise ProblemError(f"network: the list is empty; {_ACCEPTED}")
    in_place = any(isinstance(item, (Activation, str)) for item in items)
    between = [] if in_place else as_activations(activation, len(items) - 1)
    stack = LayerStack(shape)
    for k, item in enumerate(items):
        if isinstance(item, (Activation, str)):
            stack.activate(as_activation(item), f"layer {k}")
            continue
        if isinstance(item, Affine):
            weight, bias = item.weight, item.bias
        elif _is_pair(item):
            weight, bias = item
        else:
            weight, bias = item, None
        stack.affine(weight, bias, label=f"layer {k}")
        if k < len(between):
            stack.activate(between[k])
    return stack.network()


def _is_pair(item: Any) -> bool:
    """Tell a pair (weight, bias) from a matrix with two rows."""
    if not isinstance(item, (list, tuple)) or len(item) != 2:
        return False
    if sp.issparse(item[0]) or item[1] is None:
        return True
    try:
        return np.ndim(item[0]) == 2
    except ValueError:  # ragged
        return False


def _shape(input_shape: Any) -> tuple[int, ...] | None:
    if input_shape is None:
        return None
    values = (input_shape,) if np.ndim(input_shape) == 0 else tuple(input_shape)
    for value in values:
        if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or value < 1:
            raise ProblemError(
                f"input_shape={input_shape!r} must be positive integers: the shape of one input "
                "without the batch"
            )
    return tuple(int(v) for v in values)


def _library(obj: Any) -> str:
    """Name the library that a model comes from, without importing it."""
    for cls in type(obj).__mro__:
        top = cls.__module__.partition(".")[0]
        if top == "torch" and cls.__name__ == "Module":
            return "torch"
        if cls.__name__ == "ModelProto" and top.startswith("onnx"):
            return "onnx"
    return ""


def _from_path(
    path: Path, activation: Any, shape: tuple[int, ...] | None, include_output: bool
) -> Network:
    suffix = path.suffix.lower()
    if suffix == ".onnx":
        from lowrank_opt.lipschitz.convert_onnx import from_onnx

        return from_onnx(path, shape, include_output)
    from lowrank_opt.lipschitz.convert_files import read_nnet, read_weights

    if suffix == ".nnet":
        return from_weights(list(read_nnet(path)), activation, shape)
    if suffix in (".npz", ".mat"):
        return from_weights(list(read_weights(path)), activation, shape)
    raise ProblemError(
        f"network: files that end in {suffix!r} are not read ({str(path)!r}); expected .npz, .mat, "
        ".nnet or .onnx; load models of other libraries with the library, and give the object"
    )
