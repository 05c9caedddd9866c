"""One node of an ONNX graph, with its arguments as values or constants."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import numpy as np

from lowrank_opt.lipschitz.graph_trace import Value
from lowrank_opt.lipschitz.layer_errors import UnsupportedLayerError

if TYPE_CHECKING:
    from lowrank_opt.lipschitz.graph_trace import Trace

__all__ = ["Node", "real_array"]


class Node(NamedTuple):
    """One node with its arguments: a `Value`, an array, or ``None`` where it is left out."""

    trace: Trace
    label: str
    kind: str
    attributes: dict[str, Any]
    arguments: list[Any]
    opset: int
    n_outputs: int

    def refuse(self, what: str, cure: str) -> NoReturn:
        """Raise naming the node."""
        raise UnsupportedLayerError(f"{self.label} {what}", cure)

    def argument(self, k: int) -> Any:
        """Return an argument, ``None`` where there is none."""
        return self.arguments[k] if k < len(self.arguments) else None

    def value(self, k: int = 0) -> Value:
        """Return an argument that must depend on the input."""
        value = self.argument(k)
        if not isinstance(value, Value):
            self.refuse(f"with a constant as argument {k}", "fold the constants of the model")
        return value

    def constant(self, k: int, name: str, default: Any = None) -> Any:
        """Return an argument that must be constant, or an attribute."""
        value = self.argument(k)
        if value is None:
            value = self.attributes.get(name)
        if isinstance(value, Value):
            self.refuse(
                f"whose {name} depends on the input", "only constants are covered there"
            )  # fmt: skip
        return default if value is None else np.asarray(value)

    def number(self, name: str, default: float) -> float:
        """Return an attribute that is a number; all are float32, the defaults as well."""
        return float(np.float32(self.attributes.get(name, default)))

    def text(self, name: str, default: str) -> str:
        """Return an attribute that is a string."""
        value = self.attributes.get(name, default)
        return value.decode() if isinstance(value, bytes) else str(value)

    def integers(self, k: int, name: str) -> list[int] | None:
        """Return constant integers, as attribute or as argument."""
        value = self.constant(k, name)
        return None if value is None else [int(v) for v in value.ravel()]


def real_array(node: Node, array: Any) -> Any:
    """Return a constant in float64."""
    array = np.asarray(array)
    if array.dtype.kind not in "fiub":
        node.refuse(f"with a constant of type {array.dtype}", "use real numbers")
    return array.astype(np.float64)
