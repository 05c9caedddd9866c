"""Networks from ONNX models: chains, and graphs whose branches are added or joined."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lowrank_opt.core.errors import MissingDependencyError, ProblemError
from lowrank_opt.lipschitz.graph_trace import Trace, Value
from lowrank_opt.lipschitz.layer_errors import UnsupportedLayerError
from lowrank_opt.lipschitz.onnx_operators import OPERATORS, Node

if TYPE_CHECKING:
    from lowrank_opt.lipschitz.network import FeedForward, Residual

__all__ = ["from_onnx"]

_FOLD_LIMIT = 50_000_000  # entries of a constant that folding may make


def from_onnx(
    model: Any, input_shape: tuple[int, ...] | None = None, include_output: bool = False
) -> FeedForward | Residual:
    """Return the network of an ONNX model.

    Parameters
    ----------
    model : onnx.ModelProto or path
        With one input and one output.
    input_shape : tuple of int or None, default=None
        Shape of one input without the batch; for sizes that the model leaves open.
    include_output : bool, default=False
        ``False``: a softmax at the very end is left out; ``True``: it raises.

    Returns
    -------
    FeedForward or Residual
        Residual where branches are added or joined and one of them has no activation, or where
        activations of different kinds stand side by side.
    """
    onnx = _onnx()
    if isinstance(model, (str, Path)):
        model = _loaded(onnx, Path(model))
    if model.functions:
        from onnx import inliner

        model = inliner.inline_local_functions(model)
    graph = model.graph
    if len(graph.output) != 1:
        raise ProblemError(
            f"network: the model has {len(graph.output)} outputs; give one with a single output"
        )
    constants = {t.name: _constant(onnx, t) for t in graph.initializer}
    if graph.sparse_initializer:
        raise UnsupportedLayerError("a sparse initializer", "store the weights as dense tensors")
    inputs = [i for i in graph.input if i.name not in constants]
    if len(inputs) != 1:
        raise ProblemError(
            f"network: the model has {len(inputs)} inputs; give one with a single input"
        )
    trace = Trace(_input_shape(inputs[0], input_shape))
    values: dict[str, Any] = {**constants, inputs[0].name: trace.input}
    nodes = _needed(graph, graph.output[0].name)
    opset = {o.domain or "ai.onnx": o.version for o in model.opset_import}.get("ai.onnx", 1)
    last_use = {name: k for k, node in enumerate(nodes) for name in node.input if name}
    last_use[graph.output[0].name] = len(nodes)
    alive = {inputs[0].name}
    for k, node in enumerate(nodes):
        _run(onnx, trace, node, values, opset, k == len(nodes) - 1, include_output)
        alive |= {name for name in node.output if isinstance(values.get(name), Value)}
        alive = {name for name in alive if last_use.get(name, -1) > k}
        # More than one name may stand for one value.
        if len({id(values[name]) for name in alive}) == 1:
            cut = trace.cut(values[next(iter(alive))])
            values.update(dict.fromkeys(alive, cut))
    out = values.get(graph.output[0].name)
    if not isinstance(out, Value):
        raise ProblemError("network: the output does not depend on the input")
    return trace.network(out)


def _onnx() -> Any:
    try:
        import onnx
    except ImportError as error:
        raise MissingDependencyError("onnx", "onnx", "reading an ONNX model") from error
    return onnx


def _loaded(onnx: Any, path: Path) -> Any:
    if not path.is_file():
        raise ProblemError(f"network: there is no file {str(path)!r}; give the path of a model")
    try:
        return onnx.load(path)
    except Exception as error:
        # protobuf's own class, that of the library that wrote the weights, or OSError
        raise ProblemError(f"network: {str(path)!r} is not an ONNX model: {error}") from error


def _constant(onnx: Any, tensor: Any) -> Any:
    array = np.asarray(onnx.numpy_helper.to_array(tensor))
    return array.astype(np.float64) if array.dtype.kind == "V" else array  # bfloat16


def _input_shape(info: Any, given: tuple[int, ...] | None) -> tuple[int, ...]:
    """Shape of the input, with a batch of one where there is a batch."""
    kind = info.type.tensor_type
    if not info.type.HasField("tensor_type") or not kind.HasField("shape"):
        if given is None:
            raise ProblemError(
                f"network: the model does not say the shape of {info.name!r}; give input_shape"
            )
        return (1, *given)
    dims = [
        d.dim_value if d.HasField("dim_value") and d.dim_value > 0 else None for d in kind.shape.dim
    ]
    if given is not None:
        shape = given if len(given) == len(dims) else (1, *given)
        fits = len(shape) == len(dims) and all(
            d is None or d == n for d, n in list(zip(dims, shape, strict=True))[1:]
        )
        if not fits:
            raise ProblemError(
                f"input_shape={given} does not fit the input {info.name!r} of shape "
                f"{tuple(d or '?' for d in dims)}; give the shape of one input without the batch"
            )
        return tuple(shape)
    if not dims or any(d is None for d in dims[1:]):
        raise ProblemError(
            f"network: the input {info.name!r} has the open shape {tuple(d or '?' for d in dims)};"
            " give input_shape, the shape of one input without the batch"
        )
    first = 1 if dims[0] is None else dims[0]
    if first != 1 and len(dims) > 1:
        raise ProblemError(
            f"network: the input {info.name!r} has a batch of {first}; give input_shape, the shape "
            "of one input without the batch, or export the model with a batch of one"
        )
    return (first, *(d or 1 for d in dims[1:]))


def _needed(graph: Any, output: str) -> list[Any]:
    """Nodes that the output depends on, in their order."""
    wanted, nodes = {output}, []
    for node in reversed(graph.node):
        if wanted & set(node.output):
            wanted |= set(node.input)
            nodes.append(node)
    return nodes[::-1]


def _run(
    onnx: Any, trace: Trace, proto: Any, values: dict[str, Any], opset: int, last: bool,
    include_output: bool,
) -> None:  # fmt: skip
    """Evaluate one node."""
    name = proto.name or (proto.output[0] if proto.output else "")
    label = f"{proto.op_type} (node {name!r})"
    missing = [i for i in proto.input if i and i not in values]
    if missing:
        raise ProblemError(f"network: {label} needs {missing[0]!r}, which nothing computes")
    arguments = [values[i] if i else None for i in proto.input]
    if proto.domain not in ("", "ai.onnx"):
        raise UnsupportedLayerError(f"{label} of the domain {proto.domain!r}", _cure())
    if not any(isinstance(a, Value) for a in arguments) and proto.op_type != "Identity":
        folded = _folded(onnx, proto, arguments, opset, label)
        values.update(zip(proto.output, folded, strict=True))
        return
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in proto.attribute}
    node = Node(trace, label, proto.op_type, attributes, arguments, opset, len(proto.output))
    if proto.op_type in ("Softmax", "LogSoftmax") and last and not include_output:
        values[proto.output[0]] = arguments[0]
        return
    operator = OPERATORS.get(proto.op_type)
    if operator is None:
        raise UnsupportedLayerError(label, _cure())
    result = operator(node)
    results = result if isinstance(result, list) else [result]
    values.update(zip(proto.output, results, strict=False))


def _cure() -> str:
    return (
        "covered are " + ", ".join(sorted(OPERATORS)) + "; rewrite the model with these, or give "
        "the weights as a list with activation="
    )


def _folded(onnx: Any, proto: Any, arguments: list[Any], opset: int, label: str) -> list[Any]:
    """Outputs of a node that depends on constants alone."""
    from onnx.reference import ReferenceEvaluator

    random = ("RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike",
              "Bernoulli", "Multinomial")  # fmt: skip
    if proto.op_type in random:
        raise UnsupportedLayerError(f"{label}, which draws numbers,", "fix the numbers")
    feeds = {n: a for n, a in zip(proto.input, arguments, strict=True) if n}
    infos = [onnx.helper.make_tensor_value_info(n, 0, None) for n in feeds]
    results = [onnx.helper.make_tensor_value_info(n, 0, None) for n in proto.output if n]
    graph = onnx.helper.make_graph([proto], "constants", infos, results)
    opsets = [onnx.helper.make_opsetid("", opset)]
    try:
        model = onnx.helper.make_model(graph, opset_imports=opsets)
        out = ReferenceEvaluator(model).run(None, feeds)
    except Exception as error:
        # whatever an operator of the reference raises
        raise UnsupportedLayerError(f"{label} of constants ({error})", _cure()) from error
    arrays = iter([np.asarray(a) for a in out])
    named = [next(arrays) if n else None for n in proto.output]
    if any(a is not None and math.prod(a.shape) > _FOLD_LIMIT for a in named):
        raise ProblemError(f"network: {label} makes a constant of more than {_FOLD_LIMIT} entries")
    return named
