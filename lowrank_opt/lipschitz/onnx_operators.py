"""What the operators of ONNX do to values that are affine in activations."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

from lowrank_opt.lipschitz import spatial_layers as spatial
from lowrank_opt.lipschitz.activations import Activation
from lowrank_opt.lipschitz.graph_trace import Value
from lowrank_opt.lipschitz.onnx_images import IMAGE_OPERATORS
from lowrank_opt.lipschitz.onnx_node import Node, real_array
from lowrank_opt.lipschitz.onnx_shapes import SHAPE_OPERATORS

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["OPERATORS", "Node"]

_SAME = 1e-6  # constants of patterns are stored in float32


# --- activations ---


def _activation(kind: str, attribute: str = "", default: float = 0.0) -> Callable[[Node], Value]:
    def operator(node: Node) -> Value:
        parameter = node.number(attribute, default) if attribute else None
        return node.trace.activate(Activation(kind, parameter), node.value(), node.label)

    return operator


def _around(
    node: Node, kind: str, a: float, b: float, c: float, d: float, parameter: float | None = None
) -> Value:
    """Return c φ(a z + b) + d."""
    inner = node.value().scaled(a, b)
    return node.trace.activate(Activation(kind, parameter), inner, node.label).scaled(c, d)


def _selu(node: Node) -> Value:
    alpha = node.number("alpha", 1.6732631921768188)
    gamma = node.number("gamma", 1.0507010221481323)
    return _around(node, "elu", 1.0, 0.0, gamma, 0.0, alpha)


def _celu(node: Node) -> Value:
    alpha = node.number("alpha", 1.0)
    return _around(node, "elu", 1.0 / alpha, 0.0, alpha, 0.0, 1.0)


def _hard_sigmoid(node: Node) -> Value:
    alpha, beta = (node.number(n, v) for n, v in (("alpha", 0.2), ("beta", 0.5)))
    return _around(node, "hardtanh", 2.0 * alpha, 2.0 * beta - 1.0, 0.5, 0.5)


def _clip(node: Node) -> Value:
    low, high = node.constant(1, "min"), node.constant(2, "max")
    low = -math.inf if low is None else float(low)
    high = math.inf if high is None else float(high)
    # Exporters write the largest number for no bound.
    low = -math.inf if low < -1e30 else low
    high = math.inf if high > 1e30 else high
    if low >= high:
        node.refuse(f"with min {low} and max {high}", "give min < max")
    if math.isinf(low) and math.isinf(high):
        return node.value()
    if math.isinf(high):
        return _around(node, "relu", 1.0, -low, 1.0, low)
    if math.isinf(low):
        return _around(node, "relu", -1.0, high, -1.0, high)
    a, b, c = spatial.clipped(low, high)
    return _around(node, "hardtanh", a, b, c, -b * c)


def _prelu(node: Node) -> Value:
    x = node.value()
    slope = np.asarray(node.constant(1, "slope"), dtype=np.float64)
    if slope.size == 1 or np.all(slope == slope.flat[0]):
        phi = Activation("leaky_relu", float(slope.flat[0]))
    else:
        each = np.broadcast_to(slope, x.shape).ravel()
        phi = Activation("slopes", lower=np.minimum(each, 1.0), upper=np.maximum(each, 1.0))
    return node.trace.activate(phi, x, node.label)


def _gelu(node: Node) -> Value:
    if node.text("approximate", "none") != "none":
        node.refuse("with approximate='tanh'", "use approximate='none'")
    return node.trace.activate(Activation("gelu"), node.value(), node.label)


def _swish(node: Node) -> Value:
    alpha = node.number("alpha", 1.0)
    return _around(node, "silu", alpha, 0.0, 1.0 / alpha, 0.0)


def _erf(node: Node) -> Value:
    # Only as a part of GELU, which `_multiply` recognises.
    label = f"{node.label} outside of GELU"
    return node.trace.activate("erf", node.value(), label)


# --- arithmetic ---


def _broadcast(value: Value, shape: tuple[int, ...]) -> Value:
    if value.shape == shape:
        return value
    return value.select(np.broadcast_to(value.places(), shape))


def _added(node: Node, sign: float) -> Value:
    a, b = node.arguments[:2]
    shape = np.broadcast_shapes(np.shape(a) if not isinstance(a, Value) else a.shape,
                                np.shape(b) if not isinstance(b, Value) else b.shape)  # fmt: skip
    if not isinstance(b, Value):
        return _broadcast(a, shape).scaled(1.0, sign * real_array(node, b))
    right = _broadcast(b, shape).scaled(sign)
    if not isinstance(a, Value):
        return right.scaled(1.0, real_array(node, a))
    return _broadcast(a, shape).plus(right)


def _sum(node: Node) -> Value:
    total: Any = node.arguments[0]
    for term in node.arguments[1:]:
        pair = [total, term] if isinstance(total, Value) else [term, total]
        total = _added(node._replace(arguments=pair), 1.0)
    return total


def _multiply(node: Node) -> Value:
    a, b = node.arguments[:2]
    if isinstance(a, Value) and isinstance(b, Value):
        return _gated(node, a, b)
    value, factor = (a, b) if isinstance(a, Value) else (b, a)
    factor = real_array(node, factor)
    shape = np.broadcast_shapes(value.shape, factor.shape)
    return _broadcast(value, shape).scaled(factor)


def _gated(node: Node, a: Value, b: Value) -> Value:
    """Recognise z sigmoid(s z) and z (1 + erf(z / √2)) times constants."""
    for x, gate in ((a, b), (b, a)):
        found = node.trace.argument_of(gate, "sigmoid")
        if found is not None and found[2] == 0.0 and found[0].size == x.size:
            z, factor, _ = found
            for s in (1.0, _ratio(z, x)):
                if s and z.reshaped(x.shape).equals(x.scaled(s), _SAME):
                    phi = node.trace.activate(Activation("silu"), z, node.label)
                    return phi.scaled(factor / s).reshaped(x.shape)
        found = node.trace.argument_of(gate, "erf")
        if found is None or found[0].size != x.size:
            continue
        z, factor, shift = found
        half = _ratio(z, x)
        # x = t u with u the argument of GELU, z = u / √2
        if half and abs(factor - shift) <= _SAME * abs(shift):
            u = z.scaled(math.sqrt(2.0)).reshaped(x.shape)
            t = 1.0 / (half * math.sqrt(2.0))
            t = round(t) if abs(t - round(t)) <= _SAME else t
            if x.equals(u.scaled(t), _SAME):
                argument = x.scaled(1.0 / t)
                phi = node.trace.activate(Activation("gelu"), argument, node.label)
                return phi.scaled(2.0 * shift * t)
    return node.refuse(
        "of two values that depend on the input",
        "only x * sigmoid(x) and GELU are products that a Lipschitz bound covers",
    )


def _ratio(z: Value, x: Value) -> float:
    """Return s with z = s x, if there is one, judged by the largest coefficient."""
    if z.terms.keys() != x.terms.keys() or not x.terms:
        return 0.0
    key = next(iter(x.terms))
    top, base = abs(z.terms[key]).max(), abs(x.terms[key]).max()
    return float(top / base) if base else 0.0


def _divide(node: Node) -> Value:
    divisor = node.constant(1, "divisor")
    if np.any(np.asarray(divisor) == 0):
        node.refuse("by zero", "check the constants of the model")
    return _multiply(node._replace(arguments=[node.value(), 1.0 / real_array(node, divisor)]))


def _negate(node: Node) -> Value:
    return node.value().scaled(-1.0)


def _product(node: Node, a: Any, b: Any) -> Value:
    """Matrix product with one constant factor."""
    if isinstance(a, Value) and isinstance(b, Value):
        node.refuse("of two values that depend on the input", "attention is not covered")
    if isinstance(a, Value):
        B = real_array(node, b)
        if B.ndim == 1 and a.shape[-1:] == B.shape:
            return a.map(sp.kron(sp.eye_array(a.size // B.size), B[None, :]), shape=a.shape[:-1])
        if B.ndim != 2 or not a.shape or a.shape[-1] != B.shape[0]:
            node.refuse(f"of shapes {a.shape} and {B.shape}", "use matrices that fit")
        n = a.size // B.shape[0]
        M = B.T if n == 1 else sp.kron(sp.eye_array(n), B.T, format="csr")
        return a.map(np.ascontiguousarray(M) if n == 1 else M, shape=(*a.shape[:-1], B.shape[1]))
    A = real_array(node, a)
    if A.ndim != 2 or len(b.shape) not in (1, 2) or b.shape[0] != A.shape[1]:
        node.refuse(f"of shapes {A.shape} and {b.shape}", "use matrices that fit")
    n = b.size // A.shape[1]
    M = A if n == 1 else sp.kron(A, sp.eye_array(n), format="csr")
    return b.map(M, shape=(A.shape[0], *b.shape[1:]))


def _matmul(node: Node) -> Value:
    return _product(node, *node.arguments[:2])


def _gemm(node: Node) -> Value:
    a, b = node.arguments[:2]
    if node.attributes.get("transA", 0):
        a = a.select(a.places().T) if isinstance(a, Value) else np.asarray(a).T
    if node.attributes.get("transB", 0):
        b = b.select(b.places().T) if isinstance(b, Value) else np.asarray(b).T
    out = _product(node, a, b).scaled(node.number("alpha", 1.0))
    c = node.argument(2)
    if c is None:
        return out
    beta = node.number("beta", 1.0)
    c = c.scaled(beta) if isinstance(c, Value) else beta * real_array(node, c)
    return _added(node._replace(arguments=[out, c]), 1.0)


OPERATORS: dict[str, Callable[[Node], Any]] = {
    "Abs": _activation("abs"), "Relu": _activation("relu"), "Tanh": _activation("tanh"),
    "Sigmoid": _activation("sigmoid"), "LeakyRelu": _activation("leaky_relu", "alpha", 0.01),
    "Elu": _activation("elu", "alpha", 1.0), "Softplus": _activation("softplus"),
    "Selu": _selu, "Celu": _celu, "HardSigmoid": _hard_sigmoid, "Clip": _clip, "PRelu": _prelu,
    "Gelu": _gelu, "Swish": _swish, "Erf": _erf,
    "Add": lambda node: _added(node, 1.0), "Sub": lambda node: _added(node, -1.0), "Sum": _sum,
    "Mul": _multiply, "Div": _divide, "Neg": _negate, "MatMul": _matmul, "Gemm": _gemm,
    **SHAPE_OPERATORS, **IMAGE_OPERATORS,
}  # fmt: skip
