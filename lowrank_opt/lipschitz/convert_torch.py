"""Networks from ``torch.nn.Sequential``; the modules are told by name, torch is never imported."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from lowrank_opt.core.errors import ProblemError
from lowrank_opt.lipschitz import spatial_layers as spatial
from lowrank_opt.lipschitz.activations import Activation
from lowrank_opt.lipschitz.convolution import average_pool_matrix
from lowrank_opt.lipschitz.layer_errors import UnsupportedLayerError
from lowrank_opt.lipschitz.layer_stack import LayerStack

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lowrank_opt.lipschitz.network import FeedForward

__all__ = ["from_torch"]

_COVERED = (
    "covered are Sequential, Linear, Conv1d to 3d and their transposes, average and max pooling, "
    "BatchNorm, Flatten, Dropout and Identity in evaluation mode, ReLU, LeakyReLU, PReLU, ReLU6, "
    "Hardtanh, Hardsigmoid, Tanh, Sigmoid, LogSigmoid, ELU, CELU, SELU, Softplus, SiLU and GELU; "
    "export models with branches by torch.onnx.export, or give the weights as a list with "
    "activation="
)
# A class that defines one of these computes something else than its base.
_COMPUTING = ("forward", "__call__", "_call_impl", "_conv_forward")
_SELU_ALPHA, _SELU_SCALE = 1.6732632423543772, 1.0507009873554805


def from_torch(
    module: Any, input_shape: tuple[int, ...] | None = None, include_output: bool = False
) -> FeedForward:
    """Return the network of a module.

    Parameters
    ----------
    module : torch.nn.Module
        A Sequential, nested or not, or one of the modules that it may hold.
    input_shape : tuple of int or None, default=None
        Shape of one input without the batch.
    include_output : bool, default=False
        ``False``: a softmax at the very end is left out; ``True``: it raises.

    Returns
    -------
    FeedForward
    """
    stack = LayerStack(input_shape)
    leaves = list(_leaves(module, ""))
    for k, (path, leaf) in enumerate(leaves):
        name = _name(leaf)
        label = f"{name} (module {path!r})" if path else name
        if name in ("Softmax", "LogSoftmax") and k == len(leaves) - 1 and not include_output:
            continue
        _Reader(stack, leaf, name, label).append()
    return stack.network()


def _leaves(module: Any, path: str) -> Iterator[tuple[str, Any]]:
    if _name(module) == "Sequential":
        _no_hooks(module, f"Sequential (module {path!r})" if path else "Sequential")
        # Not named_children: it gives a module that is used twice only once.
        for name, child in module._modules.items():
            yield from _leaves(child, f"{path}.{name}" if path else name)
    else:
        yield path, module


def _name(module: Any) -> str:
    """Name of torch's class that an object computes as; that of its own class where it differs."""
    for cls in type(module).__mro__:
        if cls.__module__.startswith("torch.nn.modules.") and cls.__name__ != "Module":
            return cls.__name__
        if any(name in vars(cls) for name in _COMPUTING):
            break
    return f"{type(module).__module__}.{type(module).__qualname__}"


def _no_hooks(module: Any, label: str) -> None:
    if module._forward_hooks or module._forward_pre_hooks:
        raise UnsupportedLayerError(
            f"{label} with forward hooks, which may change weights and values,",
            "remove the hooks (for weight_norm and spectral_norm: "
            "torch.nn.utils.remove_weight_norm and remove_spectral_norm, or the functions of "
            "torch.nn.utils.parametrizations)",
        )


def _array(tensor: Any, label: str) -> Any:
    """Return a tensor in float64; float16, bfloat16 and float32 are exact."""
    if tensor is None:
        return None
    if tensor.is_complex():
        raise UnsupportedLayerError(f"{label} with complex weights", "give real weights")
    return np.array(tensor.detach().cpu().double().numpy(), dtype=np.float64)


class _Reader:
    """Append one module to a stack."""

    def __init__(self, stack: LayerStack, module: Any, name: str, label: str) -> None:
        self.stack, self.module, self.name, self.label = stack, module, name, label

    def append(self) -> None:
        module, name = self.module, self.name
        _no_hooks(module, self.label)
        if hasattr(module, "parametrizations") and module.training:
            self.refuse(" in training mode, whose weights change on reading,", self.eval_cure)
        read = getattr(self, "_" + name.lower(), None) if "." not in name else None
        if read is None:
            read = self._family()
        if read is None:
            self.refuse("", _COVERED)
        read()

    eval_cure = "call model.eval() before the conversion"

    def refuse(self, what: str, cure: str) -> None:
        raise UnsupportedLayerError(self.label + what, cure)

    def _family(self) -> Any:
        name, dim = self.name[:-2], self.name[-2:]
        if dim not in ("1d", "2d", "3d"):
            return None
        families = {
            "Conv": self._convolution, "ConvTranspose": self._transposed,
            "BatchNorm": self._batch_norm, "AvgPool": self._average, "MaxPool": self._maximum,
            "AdaptiveAvgPool": self._adaptive, "Dropout": self._dropout,
        }  # fmt: skip
        return families.get(name)

    # --- shapes ---

    def image(self, d: int | None = None) -> tuple[int, ...]:
        """Shape of the input, (channels, n_1, ..., n_d)."""
        d = int(self.name[-2]) if d is None else d
        shape = self.stack.shape
        if shape is None:
            raise ProblemError(
                f"network: {self.label} needs the shape of its input; give input_shape, the shape "
                "of one input without the batch"
            )
        if len(shape) != d + 1:
            raise ProblemError(
                f"network: {self.label} gets an input of shape {shape}; expected channels and {d} "
                "dimensions (input_shape is the shape of one input without the batch)"
            )
        return shape

    def _flatten(self) -> None:
        shape, start, end = self.stack.shape, self.module.start_dim, self.module.end_dim
        if start < 1:
            self.refuse(f" with start_dim={start}, which joins the batch,", "use start_dim=1")
        if shape is None:
            if (start, end) != (1, -1):
                self.image(0)
            return
        end = end % (len(shape) + 1)
        joined = math.prod(shape[start - 1 : end])
        self.stack.shape = (*shape[: start - 1], joined, *shape[end:])

    def _unflatten(self) -> None:
        shape, dim = self.stack.shape, self.module.dim
        sizes = self.module.unflattened_size
        if shape is None:
            if dim not in (1, -1):
                self.image(0)
            if -1 in sizes:
                self.image(0)
            self.stack.shape = tuple(int(n) for n in sizes)
            return
        dim = dim % (len(shape) + 1) - 1
        array = np.empty(shape[dim]).reshape(tuple(sizes))
        self.stack.shape = (*shape[:dim], *array.shape, *shape[dim + 1 :])

    def _identity(self) -> None:
        pass

    def _dropout(self) -> None:
        if self.module.training and self.module.p > 0:
            self.refuse(" in training mode", self.eval_cure)

    _alphadropout = _featurealphadropout = _dropout

    # --- affine maps ---

    def _linear(self) -> None:
        shape = self.stack.shape
        if shape is not None and len(shape) != 1:
            self.refuse(
                f" on an input of shape {shape}", "put torch.nn.Flatten() before it"
            )  # fmt: skip
        W, b = self.weights()
        self.stack.affine(W, b, label=self.label)

    def weights(self) -> tuple[Any, Any]:
        module = self.module
        return _array(module.weight, self.label), _array(module.bias, self.label)

    def _convolution(self) -> None:
        module, shape = self.module, self.image()
        K, b = self.weights()
        M, bias, out = spatial.convolution_layer(
            K, b, shape, stride=module.stride, padding=module.padding, dilation=module.dilation,
            groups=module.groups, padding_mode=module.padding_mode,
        )  # fmt: skip
        self.stack.affine(M, bias, label=self.label, shape=out)

    def _transposed(self) -> None:
        module, shape = self.module, self.image()
        K, b = self.weights()
        M, bias, out = spatial.transposed_convolution_layer(
            K, b, shape, stride=module.stride, padding=[(p, p) for p in module.padding],
            dilation=module.dilation, groups=module.groups, output_padding=module.output_padding,
        )  # fmt: skip
        self.stack.affine(M, bias, label=self.label, shape=out)

    def _batch_norm(self) -> None:
        module = self.module
        if module.training:
            self.refuse(" in training mode, where it depends on the batch,", self.eval_cure)
        mean, var = _array(module.running_mean, self.label), _array(module.running_var, self.label)
        if mean is None:
            self.refuse(
                " without running statistics, which depends on the batch,",
                "train it with track_running_stats=True",
            )
        factor = 1.0 / np.sqrt(var + module.eps)
        w, b = self.weights()
        factor = factor if w is None else w * factor
        shift = -mean * factor + (0.0 if b is None else b)
        shape = self.stack.shape
        if shape is None:
            if not self.name.endswith("1d"):
                self.image()
            shape = (mean.size,)
        self.stack.scale(spatial.by_channel(factor, shape), spatial.by_channel(shift, shape))

    # --- pooling ---

    def _average(self) -> None:
        module = self.module
        M, out = average_pool_matrix(
            self.image(), module.kernel_size, stride=module.stride, padding=module.padding,
            ceil_mode=module.ceil_mode, count_include_pad=module.count_include_pad,
            divisor=getattr(module, "divisor_override", None),
        )  # fmt: skip
        self.stack.affine(M, label=self.label, shape=out)

    def _adaptive(self) -> None:
        shape, size = self.image(), self.module.output_size
        sizes = (size,) * (len(shape) - 1) if np.ndim(size) == 0 else tuple(size)
        M, out = spatial.adaptive_average(shape, sizes)
        self.stack.affine(M, label=self.label, shape=out)

    def _maximum(self) -> None:
        module = self.module
        if module.return_indices:
            self.refuse(" with return_indices", "use return_indices=False")
        gather, sort, select, out = spatial.largest_of_windows(
            self.image(), module.kernel_size, stride=module.stride, padding=module.padding,
            dilation=module.dilation, ceil_mode=module.ceil_mode,
        )  # fmt: skip
        self.stack.affine(gather, label=self.label)
        self.stack.activate(sort, self.label)
        self.stack.affine(select, label=self.label, shape=out)

    # --- activations ---

    def activate(self, kind: str, **options: Any) -> None:
        shape = self.stack.shape
        self.stack.activate(Activation(kind, **options), self.label)
        self.stack.shape = shape

    def around(self, kind: str, a: float, b: float, c: float, d: float, **options: Any) -> None:
        """Append c φ(a z + b) + d."""
        if self.stack.width is None:
            raise ProblemError(
                f"network: {self.label} comes first, so the number of inputs is unknown; give "
                "input_shape"
            )
        one, shape = np.ones(self.stack.width), self.stack.shape
        self.stack.scale(a * one, b * one)
        self.stack.activate(Activation(kind, **options), self.label)
        self.stack.scale(c * one, d * one)
        self.stack.shape = shape

    def _relu(self) -> None:
        self.activate("relu")

    def _tanh(self) -> None:
        self.activate("tanh")

    def _sigmoid(self) -> None:
        self.activate("sigmoid")

    def _silu(self) -> None:
        self.activate("silu")

    def _leakyrelu(self) -> None:
        self.activate("leaky_relu", parameter=float(self.module.negative_slope))

    def _elu(self) -> None:
        self.activate("elu", parameter=float(self.module.alpha))

    def _softplus(self) -> None:
        self.activate("softplus", parameter=float(self.module.beta))

    def _gelu(self) -> None:
        if self.module.approximate != "none":
            self.refuse(
                f" with approximate={self.module.approximate!r}", "use approximate='none'"
            )  # fmt: skip
        self.activate("gelu")

    def _hardtanh(self) -> None:
        low, high = float(self.module.min_val), float(self.module.max_val)
        if (low, high) == (-1.0, 1.0):
            self.activate("hardtanh")
            return
        a, b, c = spatial.clipped(low, high)
        self.around("hardtanh", a, b, c, -b * c)

    _relu6 = _hardtanh

    def _hardsigmoid(self) -> None:
        self.around("hardtanh", 1.0 / 3.0, 0.0, 0.5, 0.5)

    def _logsigmoid(self) -> None:
        self.around("softplus", -1.0, 0.0, -1.0, 0.0)

    def _celu(self) -> None:
        alpha = float(self.module.alpha)
        self.around("elu", 1.0 / alpha, 0.0, alpha, 0.0)

    def _selu(self) -> None:
        self.around("elu", 1.0, 0.0, _SELU_SCALE, 0.0, parameter=_SELU_ALPHA)

    def _prelu(self) -> None:
        slope = _array(self.module.weight, self.label).reshape(-1)
        if np.all(slope == slope[0]):
            self.activate("leaky_relu", parameter=float(slope[0]))
            return
        shape = self.image(len(self.stack.shape or ()) - 1)
        slope = spatial.by_channel(slope, shape)
        # Slopes that differ between neurons: bounds need no more, but values are not at hand.
        self.activate("slopes", lower=np.minimum(slope, 1.0), upper=np.maximum(slope, 1.0))
