"""Operators of ONNX on channels and images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from lowrank_opt.lipschitz import spatial_layers as spatial
from lowrank_opt.lipschitz.convolution import average_pool_matrix
from lowrank_opt.lipschitz.onnx_node import real_array

if TYPE_CHECKING:
    from lowrank_opt.lipschitz.graph_trace import Value
    from lowrank_opt.lipschitz.onnx_node import Node

__all__ = ["IMAGE_OPERATORS"]


def _image(node: Node) -> tuple[Value, tuple[int, ...]]:
    """Return the value and its shape without the batch, which must be one."""
    x = node.value()
    if len(x.shape) < 2 or x.shape[0] != 1:
        node.refuse(f"of an input of shape {x.shape}", "give it a batch of one and channels")
    return x, x.shape[1:]


def _window(node: Node, shape: tuple[int, ...], size: Any) -> dict[str, Any]:
    """Return stride, padding and dilation of a convolution or pooling."""
    d = len(shape) - 1
    steps = list(node.attributes.get("strides", [1] * d))
    gaps = list(node.attributes.get("dilations", [1] * d))
    auto = node.text("auto_pad", "NOTSET")
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        pairs = []
        for n, k, s, g in zip(shape[1:], size, steps, gaps, strict=True):
            total = max((-(-n // s) - 1) * s + g * (k - 1) + 1 - n, 0)
            less, more = total // 2, total - total // 2
            pairs.append((less, more) if auto == "SAME_UPPER" else (more, less))
    elif auto == "VALID":
        pairs = [(0, 0)] * d
    else:
        pads = list(node.attributes.get("pads", [0] * (2 * d)))
        if min(pads) < 0:
            node.refuse(f"with negative padding {pads}", "crop with Slice")
        pairs = list(zip(pads[:d], pads[d:], strict=True))
    return {"stride": steps, "padding": pairs, "dilation": gaps}


def _kernel(node: Node) -> tuple[Any, Any]:
    kernel = real_array(node, node.constant(1, "W"))
    bias = node.constant(2, "B")
    return kernel, None if bias is None else real_array(node, bias)


def _convolution(node: Node) -> Value:
    x, shape = _image(node)
    kernel, bias = _kernel(node)
    M, b, out = spatial.convolution_layer(
        kernel, bias, shape, groups=int(node.attributes.get("group", 1)),
        **_window(node, shape, kernel.shape[2:]),
    )  # fmt: skip
    return x.map(M, 0.0 if b is None else b, (1, *out))


def _transposed(node: Node) -> Value:
    x, shape = _image(node)
    if "output_shape" in node.attributes or node.text("auto_pad", "NOTSET") not in (
        "NOTSET",
        "VALID",
    ):
        node.refuse("with output_shape or auto_pad", "use explicit pads and output_padding")
    kernel, bias = _kernel(node)
    extra = list(node.attributes.get("output_padding", [0] * (len(shape) - 1)))
    M, b, out = spatial.transposed_convolution_layer(
        kernel, bias, shape, groups=int(node.attributes.get("group", 1)), output_padding=extra,
        **_window(node, shape, kernel.shape[2:]),
    )  # fmt: skip
    return x.map(M, 0.0 if b is None else b, (1, *out))


def _average(node: Node) -> Value:
    x, shape = _image(node)
    size = list(node.attributes["kernel_shape"])
    options = _window(node, shape, size)
    if any(g != 1 for g in options.pop("dilation")):
        node.refuse("with dilations", "use dilations of one")
    M, out = average_pool_matrix(
        shape, size, ceil_mode=bool(node.attributes.get("ceil_mode", 0)),
        count_include_pad=bool(node.attributes.get("count_include_pad", 0)), **options,
    )  # fmt: skip
    return x.map(M, shape=(1, *out))


def _global_average(node: Node) -> Value:
    x, shape = _image(node)
    M, out = spatial.adaptive_average(shape, [1] * (len(shape) - 1))
    return x.map(M, shape=(1, *out))


def _maximum(node: Node) -> Value:
    x, shape = _image(node)
    if node.n_outputs > 1:
        node.refuse("with indices", "use the values alone")
    if node.kind == "GlobalMaxPool":
        size, options = list(shape[1:]), {}
    else:
        size = list(node.attributes["kernel_shape"])
        options = _window(node, shape, size)
        options["ceil_mode"] = bool(node.attributes.get("ceil_mode", 0))
    gather, sort, select, out = spatial.largest_of_windows(shape, size, **options)
    return node.trace.activate(sort, x.map(gather), node.label).map(select, shape=(1, *out))


def _batch_norm(node: Node) -> Value:
    if node.attributes.get("training_mode", 0) or (
        node.opset < 7 and not node.attributes.get("is_test", 0)
    ):
        node.refuse("in training mode", "export the model in evaluation mode")
    x, shape = _image(node)
    names = ("scale", "B", "mean", "var")
    w, b, mean, var = (real_array(node, node.constant(k + 1, n)) for k, n in enumerate(names))
    factor = w / np.sqrt(var + node.number("epsilon", 1e-5))
    full = spatial.by_channel(factor, shape).reshape(x.shape)
    return x.scaled(full, spatial.by_channel(b - mean * factor, shape).reshape(x.shape))


IMAGE_OPERATORS = {
    "Conv": _convolution, "ConvTranspose": _transposed, "AveragePool": _average,
    "GlobalAveragePool": _global_average, "MaxPool": _maximum, "GlobalMaxPool": _maximum,
    "BatchNormalization": _batch_norm,
}  # fmt: skip
