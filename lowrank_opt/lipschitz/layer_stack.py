"""Layers under construction: what all converters append to."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

from lowrank_opt.core.errors import ProblemError, ProblemTypeError
from lowrank_opt.lipschitz.activations import Activation
from lowrank_opt.lipschitz.network import Affine, FeedForward

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["LayerStack", "as_activation", "as_activations"]


def as_activation(value: Any) -> Activation:
    """Return an `Activation` from one or from its name."""
    if isinstance(value, Activation):
        return value
    if isinstance(value, str):
        return Activation(value)
    raise ProblemError(
        f"activation: {value!r} is not an activation; expected a name such as 'relu', or an "
        "Activation"
    )


def as_activations(activation: Any, n_hidden: int) -> list[Activation]:
    """Return the activation of every hidden layer.

    Parameters
    ----------
    activation : str, Activation or sequence of them
        One for all layers, or one for each.
    n_hidden : int
        Hidden layers.

    Returns
    -------
    list of Activation
    """
    if isinstance(activation, (list, tuple)):
        if len(activation) != n_hidden:
            raise ProblemError(
                f"activation: {len(activation)} given for {n_hidden} hidden layers; give one for "
                "each hidden layer, or one for all (the last weight has none after it)"
            )
        return [as_activation(a) for a in activation]
    return [as_activation(activation)] * n_hidden


class LayerStack:
    """Affine maps and activations in the order of evaluation.

    Maps that act on each value alone (batch normalisation, scalers) are folded into the affine
    map before them or, failing that, into the one after them.

    Parameters
    ----------
    shape : sequence of int or None, default=None
        Shape of one input without the batch, where the layers need it.
    """

    def __init__(self, shape: Sequence[int] | None = None) -> None:
        self.layers: list[Affine | Activation] = []
        self.shape: tuple[int, ...] | None = None if shape is None else tuple(shape)
        self._pending: tuple[Any, Any] | None = None

    @property
    def width(self) -> int | None:
        """Values that the next layer gets; ``None`` before anything says so."""
        return None if self.shape is None else math.prod(self.shape)

    def affine(
        self, weight: Any, bias: Any = None, *, label: str, shape: Sequence[int] | None = None
    ) -> None:
        """Append a map.

        Parameters
        ----------
        weight : array-like or sparse array of shape (n_out, n_in)
        bias : array-like of shape (n_out,) or None, default=None
        label : str
            What messages call it.
        shape : sequence of int or None, default=None
            Shape of its values where that is not (n_out,).
        """
        try:
            layer = Affine(weight, bias)
        except ProblemError as error:
            raise type(error)(f"network: {label}: {error}") from error
        except (TypeError, RuntimeError) as error:  # arrays on a device, tensors with gradients
            raise ProblemTypeError(
                f"network: {label}: a weight of type {type(weight).__name__} does not become a "
                f"NumPy array ({error}); convert it first, such as by tensor.detach().cpu().numpy()"
            ) from error
        if self.width is not None and layer.n_inputs != self.width:
            turned = " (the transposed weight would fit)" if self.width == layer.n_outputs else ""
            raise ProblemError(
                f"network: {label} has a weight of shape {layer.weight.shape}, but {self.width} "
                f"values come from the layer before; weights have the shape (n_out, n_in){turned}"
            )
        if self._pending is not None:
            d, s = self._pending
            self._pending = None
            W = layer.weight
            layer = Affine(_times(W, d), layer.bias + W @ s)
        self.layers.append(layer)
        self.shape = (layer.n_outputs,) if shape is None else tuple(shape)

    def scale(self, factor: Any, shift: Any) -> None:
        """Append the map x ↦ factor · x + shift, entry by entry.

        Parameters
        ----------
        factor, shift : ndarray of shape (width,)
        """
        d = np.asarray(factor, dtype=np.float64).reshape(-1)
        s = np.asarray(shift, dtype=np.float64).reshape(-1)
        last = self.layers[-1] if self.layers else None
        if self._pending is not None:
            e, t = self._pending
            self._pending = (d * e, d * t + s)
        elif isinstance(last, Affine):
            W = _times(last.weight.T, d).T
            self.layers[-1] = Affine(W, d * last.bias + s)
        else:
            self._pending = (d, s)
        if self.shape is None:
            self.shape = (d.size,)

    def activate(self, activation: Activation, label: str = "an activation") -> None:
        """Append an activation."""
        if self._pending is not None:
            self._flush()
        elif not self.layers:
            if self.width is None:
                raise ProblemError(
                    f"network: {label} comes first, so the number of inputs is unknown; give "
                    "input_shape"
                )
            self.layers.append(Affine(sp.eye_array(self.width, format="csr")))
        self.layers.append(activation)

    def network(self) -> FeedForward:
        """Return what was appended."""
        if self._pending is not None:
            self._flush()
        if not self.layers:
            raise ProblemError("network: there are no layers; expected at least one affine map")
        return FeedForward(tuple(self.layers))

    def _flush(self) -> None:
        d, s = self._pending  # type: ignore[misc]
        self._pending = None
        self.layers.append(Affine(sp.diags_array(d, format="csr"), s))


def _times(W: Any, d: Any) -> Any:
    """Return W diag(d), sparse where W is."""
    return sp.csr_array(W @ sp.diags_array(d)) if sp.issparse(W) else W * d
