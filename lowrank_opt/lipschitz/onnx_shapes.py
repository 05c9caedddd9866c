"""Operators of ONNX that move, join, copy or sum entries."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

from lowrank_opt.lipschitz.graph_trace import Value
from lowrank_opt.lipschitz.onnx_node import real_array

if TYPE_CHECKING:
    from lowrank_opt.lipschitz.onnx_node import Node

__all__ = ["SHAPE_OPERATORS"]


def _same(node: Node) -> Any:
    return node.argument(0)


def _dropout(node: Node) -> Any:
    mode = node.constant(2, "training_mode")
    ratio = node.constant(1, "ratio", 0.5)
    if (mode is not None and bool(mode) and float(ratio) > 0) or (
        node.opset < 7 and not node.attributes.get("is_test", 0)
    ):
        node.refuse("in training mode", "export the model in evaluation mode")
    return node.argument(0)


def _cast(node: Node) -> Value:
    if int(node.attributes["to"]) not in (1, 10, 11, 16):  # float, float16, double, bfloat16
        node.refuse("to a type that is not floating", "remove the rounding")
    return node.value()


def _shape(node: Node) -> Any:
    start, end = node.attributes.get("start", 0), node.attributes.get("end")
    return np.asarray(node.value().shape[start:end], dtype=np.int64)


def _flatten(node: Node) -> Value:
    x = node.value()
    axis = int(node.attributes.get("axis", 1))
    axis = axis + len(x.shape) if axis < 0 else axis
    return x.reshaped((math.prod(x.shape[:axis]), math.prod(x.shape[axis:])))


def _reshape(node: Node) -> Value:
    x, target = node.value(), node.integers(1, "shape") or []
    if not node.attributes.get("allowzero", 0):
        target = [x.shape[k] if n == 0 else n for k, n in enumerate(target)]
    try:
        return x.reshaped(x.places().reshape(target).shape)
    except ValueError:
        return node.refuse(
            f"of shape {x.shape} to {tuple(target)}", "export the model with a batch of one"
        )


def _squeeze(node: Node) -> Value:
    x, axes = node.value(), node.integers(1, "axes")
    return x.reshaped(np.squeeze(x.places(), None if axes is None else tuple(axes)).shape)


def _unsqueeze(node: Node) -> Value:
    x, axes = node.value(), node.integers(1, "axes") or []
    return x.reshaped(np.expand_dims(x.places(), tuple(axes)).shape)


def _transpose(node: Node) -> Value:
    x = node.value()
    return x.select(np.transpose(x.places(), node.attributes.get("perm")))


def _concat(node: Node) -> Value:
    shapes = [a.shape if isinstance(a, Value) else np.shape(a) for a in node.arguments]
    sizes = [math.prod(s) for s in shapes]
    ends = np.cumsum([0, *sizes])
    places = np.concatenate(
        [np.arange(n).reshape(s) + e for n, s, e in zip(sizes, shapes, ends[:-1], strict=True)],
        axis=int(node.attributes["axis"]),
    )
    # One long vector, then the order of the joined array.
    total: Value | None = None
    for a, n, start in zip(node.arguments, sizes, ends[:-1], strict=True):
        index = np.full(int(ends[-1]), -1)
        index[start : start + n] = np.arange(n)
        if isinstance(a, Value):
            part = a.select(index)
        else:
            spread = np.zeros(int(ends[-1]))
            spread[start : start + n] = real_array(node, a).ravel()
            part = Value(spread.shape, {}, spread)
        total = part if total is None else total.plus(part)
    return total.select(places)  # type: ignore[union-attr]


def _slice(node: Node) -> Value:
    x = node.value()
    starts, ends = node.integers(1, "starts") or [], node.integers(2, "ends") or []
    axes = node.integers(3, "axes") or list(range(len(starts)))
    steps = node.integers(4, "steps") or [1] * len(starts)
    cut = [slice(None)] * len(x.shape)
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        n = x.shape[axis]
        if step < 0 and end < -n:  # past the beginning
            cut[axis] = slice(start, None, step)
        else:
            cut[axis] = slice(start, end, step)
    return x.select(x.places()[tuple(cut)])


def _gather(node: Node) -> Value:
    x = node.value()
    index = node.constant(1, "indices")
    return x.select(np.take(x.places(), index, axis=int(node.attributes.get("axis", 0))))


def _split(node: Node) -> list[Value]:
    x, axis = node.value(), int(node.attributes.get("axis", 0))
    sizes = node.integers(1, "split")
    if sizes is None:
        count = int(node.attributes.get("num_outputs", node.n_outputs))
        each = -(-x.shape[axis] // count)
        sizes = [min(each, x.shape[axis] - k * each) for k in range(count)]
    parts = np.split(x.places(), np.cumsum(sizes)[:-1], axis=axis)
    return [x.select(part) for part in parts]


def _pad(node: Node) -> Value:
    x, mode = node.value(), node.text("mode", "constant")
    pads, value = node.integers(1, "pads") or [], node.constant(2, "value", 0.0)
    axes = node.integers(3, "axes") or list(range(len(x.shape)))
    width = [(0, 0)] * len(x.shape)
    for j, axis in enumerate(axes):
        width[axis] = (pads[j], pads[j + len(axes)])
    if mode not in ("constant", "reflect", "edge", "wrap") or np.min(width) < 0:
        node.refuse(f"with mode {mode!r} and pads {pads}", "use a padding that is not negative")
    if mode != "constant":
        return x.select(np.pad(x.places(), width, mode=mode))  # type: ignore[call-overload]
    index = np.pad(x.places(), width, constant_values=-1)
    return x.select(index).scaled(1.0, np.where(index < 0, float(value), 0.0))


def _reduce(node: Node) -> Value:
    x = node.value()
    axes = node.integers(1, "axes")
    if axes is None:
        axes = [] if node.attributes.get("noop_with_empty_axes", 0) else list(range(len(x.shape)))
    if not axes:
        return x
    places = np.moveaxis(x.places(), axes, range(-len(axes), 0))
    taps = math.prod(x.shape[a] for a in axes)
    flat = places.reshape(-1, taps)
    weight = 1.0 / taps if node.kind == "ReduceMean" else 1.0
    M = sp.csr_array(
        (np.full(flat.size, weight), (np.repeat(np.arange(len(flat)), taps), flat.ravel())),
        shape=(len(flat), x.size),
    )
    keep = bool(node.attributes.get("keepdims", 1))
    inside = {a % len(x.shape) for a in axes}
    sizes = [1 if k in inside else n for k, n in enumerate(x.shape)]
    shape = sizes if keep else [n for k, n in enumerate(x.shape) if k not in inside]
    return x.map(M, shape=shape)


SHAPE_OPERATORS = {
    "Identity": _same, "Dropout": _dropout, "Cast": _cast, "Shape": _shape, "Flatten": _flatten,
    "Reshape": _reshape, "Squeeze": _squeeze, "Unsqueeze": _unsqueeze, "Transpose": _transpose,
    "Concat": _concat, "Slice": _slice, "Gather": _gather, "Split": _split, "Pad": _pad,
    "ReduceMean": _reduce, "ReduceSum": _reduce,
}  # fmt: skip
