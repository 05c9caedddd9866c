"""Networks as the room sees them: affine maps and activations, chained, residual or implicit."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import scipy.sparse as sp

from lowrank_opt.core.errors import ProblemError, ProblemTypeError
from lowrank_opt.lipschitz.activations import Activation

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Values = NDArray[np.float64]

__all__ = ["Affine", "FeedForward", "Implicit", "Network", "Residual", "ResidualBlock"]


def matrix(name: str, value: Any) -> Values | sp.csr_array:
    """Return a weight matrix in float64, in C order or CSR, or raise naming it."""
    if sp.issparse(value):
        if value.dtype.kind not in "fiub":
            raise ProblemTypeError(f"{name} has dtype {value.dtype}; expected real numbers")
        out = sp.csr_array(value, dtype=np.float64)
        entries = out.data
    else:
        try:
            array = np.asarray(value)
        except ValueError as error:
            raise ProblemError(f"{name} is not a rectangular array: {error}") from error
        if array.dtype.kind not in "fiub":
            raise ProblemTypeError(f"{name} has dtype {array.dtype}; expected real numbers")
        if array.ndim != 2:
            raise ProblemError(
                f"{name} has {array.ndim} dimensions, shape {array.shape}; expected a matrix of "
                "shape (n_out, n_in)"
            )
        out = np.array(array, dtype=np.float64, order="C")
        entries = out
    if 0 in out.shape:
        raise ProblemError(f"{name} is empty: shape {out.shape}")
    if not np.all(np.isfinite(entries)):
        raise ProblemError(f"{name} has entries that are NaN or infinite")
    if not sp.issparse(out):
        out.flags.writeable = False
    return out


def vector(name: str, value: Any, size: int) -> Values:
    """Return a bias in float64, or raise naming it; ``None`` gives zeros."""
    if value is None:
        out = np.zeros(size)
    else:
        array = np.asarray(value)
        if array.dtype.kind not in "fiub":
            raise ProblemTypeError(f"{name} has dtype {array.dtype}; expected real numbers")
        out = np.array(array, dtype=np.float64).reshape(-1)
        if out.size != size:
            raise ProblemError(f"{name} has {out.size} entries; expected {size}, one for each row")
        if not np.all(np.isfinite(out)):
            raise ProblemError(f"{name} has entries that are NaN or infinite")
    out.flags.writeable = False
    return out


@dataclass(frozen=True, eq=False)
class Affine:
    """The map x ↦ W x + b.

    Parameters
    ----------
    weight : array-like or sparse array of shape (n_out, n_in)
        W; copied to float64.
    bias : array-like of shape (n_out,) or None, default=None
        The constant b; ``None``: zero. Global bounds do not depend on it.
    """

    weight: Any
    bias: Any = None

    def __post_init__(self) -> None:
        W = matrix("weight", self.weight)
        object.__setattr__(self, "weight", W)
        object.__setattr__(self, "bias", vector("bias", self.bias, W.shape[0]))

    def __repr__(self) -> str:
        kind = ", sparse" if sp.issparse(self.weight) else ""
        return f"Affine({self.n_inputs} -> {self.n_outputs}{kind})"

    @property
    def n_inputs(self) -> int:
        """Columns of W."""
        return int(self.weight.shape[1])

    @property
    def n_outputs(self) -> int:
        """Rows of W."""
        return int(self.weight.shape[0])

    @property
    def dense(self) -> Values:
        """W as a dense array."""
        W: Values = self.weight.toarray() if sp.issparse(self.weight) else self.weight
        return W

    def apply(self, X: Values) -> Values:
        """Return the values at inputs of shape (n, n_in)."""
        return np.asarray((self.weight @ X.T).T + self.bias)


@dataclass(frozen=True, eq=False)
class FeedForward:
    """Affine maps and activations one after the other.

    Parameters
    ----------
    layers : sequence of Affine and Activation
        In the order of evaluation, the first an `Affine`. Affine maps that follow each other and
        identities are merged where a bound is computed.

    Raises
    ------
    ProblemError
        A layer has another number of columns than the one before has rows, or an activation does
        not fit its layer; the message has the layer's index and both shapes.
    """

    layers: tuple[Affine | Activation, ...]

    def __post_init__(self) -> None:
        layers = tuple(self.layers)
        if not layers or not isinstance(layers[0], Affine):
            raise ProblemError("network: the first layer must be an Affine map")
        width, hidden = layers[0].n_inputs, 0
        for k, layer in enumerate(layers):
            if isinstance(layer, Affine):
                if layer.n_inputs != width:
                    raise ProblemError(
                        f"network: layer {k} has a weight of shape {layer.weight.shape}, but "
                        f"{width} values come from the layer before; weights have the shape "
                        "(n_out, n_in)"
                    )
                width = layer.n_outputs
            elif isinstance(layer, Activation):
                hidden += 1
                layer.check_width(width, hidden)
            else:
                raise ProblemError(
                    f"network: layer {k} is a {type(layer).__name__}; expected Affine or Activation"
                )
        object.__setattr__(self, "layers", layers)

    def __repr__(self) -> str:
        sizes = [self.n_inputs] + [a.n_outputs for a in self.layers if isinstance(a, Affine)]
        kinds = sorted({a.kind for a in self.layers if isinstance(a, Activation)})
        return f"FeedForward({'-'.join(map(str, sizes))}, {', '.join(kinds) or 'affine'})"

    @property
    def n_inputs(self) -> int:
        """Number of inputs."""
        return self.layers[0].n_inputs  # type: ignore[union-attr]

    @property
    def n_outputs(self) -> int:
        """Number of outputs."""
        return next(a.n_outputs for a in reversed(self.layers) if isinstance(a, Affine))

    @property
    def widths(self) -> tuple[int, ...]:
        """Neurons of every activation."""
        out, width = [], self.n_inputs
        for layer in self.layers:
            if isinstance(layer, Affine):
                width = layer.n_outputs
            else:
                out.append(width)
        return tuple(out)

    def forward(self, X: Any) -> Values:
        """Return the outputs of shape (n, n_out) at inputs of shape (n, n_in) or (n_in,)."""
        X, one = points(X, self.n_inputs)
        for layer in self.layers:
            X = layer.apply(X)
        return X[0] if one else X

    def preactivations(self, X: Any) -> list[Values]:
        """Return the arguments of every activation, of shape (n, width) each."""
        X, _ = points(X, self.n_inputs)
        out = []
        for layer in self.layers:
            if isinstance(layer, Activation):
                out.append(X)
            X = layer.apply(X)
        return out

    def jacobian(self, x: Any) -> Values:
        """Return the Jacobian of shape (n_out, n_in) at one input.

        Where the network is not differentiable, one of the Jacobians nearby.
        """
        z = iter([a[0] for a in self.preactivations(np.asarray(x).reshape(1, -1))])
        if self.n_outputs > self.n_inputs:
            J = np.eye(self.n_inputs)
            for layer in self.layers:
                J = layer.weight @ J if isinstance(layer, Affine) else layer.push(next(z), J)
            return np.asarray(J)
        zs = list(z)
        J = np.eye(self.n_outputs)
        for layer in reversed(self.layers):
            if isinstance(layer, Affine):
                J = np.asarray((layer.weight.T @ J.T).T)
            else:
                J = layer.pull(zs.pop(), J)
        return J

    def followed_by(self, C: Values) -> FeedForward:
        """Return the network with outputs multiplied by a matrix of shape (k, n_out)."""
        return FeedForward((*self.layers, Affine(C)))


@dataclass(frozen=True, eq=False)
class ResidualBlock:
    """The map h ↦ H h + G φ(W h + b).

    Parameters
    ----------
    weight : array-like of shape (width, n_in)
        W.
    activation : Activation or str, default="relu"
        The function φ; "maxmin" and the like are possible.
    bias : array-like of shape (width,) or None, default=None
        The constant b; ``None``: zero.
    skip : array-like of shape (n_out, n_in) or None, default=None
        H; ``None``: the identity.
    output : array-like of shape (n_out, width) or None, default=None
        G; ``None``: the identity.
    """

    weight: Any
    activation: Any = "relu"
    bias: Any = None
    skip: Any = None
    output: Any = None

    def __post_init__(self) -> None:
        set_ = object.__setattr__
        W = matrix("weight", self.weight)
        W = W.toarray() if sp.issparse(W) else W
        width, n_in = W.shape
        set_(self, "weight", W)
        set_(self, "bias", vector("bias", self.bias, width))
        phi = self.activation if isinstance(self.activation, Activation) else None
        phi = Activation(self.activation) if phi is None else phi
        phi.check_width(width, 1)
        set_(self, "activation", phi)
        G = np.eye(width) if self.output is None else matrix("output", self.output)
        H = np.eye(n_in) if self.skip is None else matrix("skip", self.skip)
        if G.shape[1] != width or H.shape[1] != n_in or G.shape[0] != H.shape[0]:
            raise ProblemError(
                f"residual block: weight {W.shape}, skip {H.shape} and output {G.shape} do not "
                "fit: skip must be (n_out, n_in), output (n_out, width)"
            )
        set_(self, "output", G)
        set_(self, "skip", H)

    def __repr__(self) -> str:
        return f"ResidualBlock({self.n_inputs} -> {self.n_outputs}, {self.activation.kind})"

    @property
    def n_inputs(self) -> int:
        """Size of h before the block."""
        return int(self.weight.shape[1])

    @property
    def n_outputs(self) -> int:
        """Size of h after the block."""
        return int(self.output.shape[0])


@dataclass(frozen=True, eq=False)
class Residual:
    """Residual network: an affine map, blocks, an affine map.

    Parameters
    ----------
    blocks : sequence of ResidualBlock
        At least one.
    first, last : Affine or None, default=None
        Maps before and after the blocks; ``None``: the identity.
    """

    blocks: tuple[ResidualBlock, ...]
    first: Affine | None = None
    last: Affine | None = None

    def __post_init__(self) -> None:
        blocks = tuple(self.blocks)
        if not blocks or not all(isinstance(b, ResidualBlock) for b in blocks):
            raise ProblemError("network: blocks must be ResidualBlock objects, at least one")
        width = blocks[0].n_inputs if self.first is None else self.first.n_outputs
        for k, block in enumerate(blocks):
            if block.n_inputs != width:
                raise ProblemError(
                    f"network: residual block {k} has a weight of shape {block.weight.shape}, but "
                    f"{width} values come from the layer before"
                )
            width = block.n_outputs
        if self.last is not None and self.last.n_inputs != width:
            raise ProblemError(
                f"network: the last map has a weight of shape {self.last.weight.shape}, but "
                f"{width} values come from the blocks"
            )
        object.__setattr__(self, "blocks", blocks)

    def __repr__(self) -> str:
        return f"Residual({self.n_inputs} -> {self.n_outputs}, {len(self.blocks)} blocks)"

    @property
    def n_inputs(self) -> int:
        """Number of inputs."""
        return self.blocks[0].n_inputs if self.first is None else self.first.n_inputs

    @property
    def n_outputs(self) -> int:
        """Number of outputs."""
        return self.blocks[-1].n_outputs if self.last is None else self.last.n_outputs

    @property
    def widths(self) -> tuple[int, ...]:
        """Neurons of every block."""
        return tuple(b.weight.shape[0] for b in self.blocks)

    def forward(self, X: Any) -> Values:
        """Return the outputs of shape (n, n_out) at inputs of shape (n, n_in) or (n_in,)."""
        h, one = points(X, self.n_inputs)
        h = h if self.first is None else self.first.apply(h)
        for b in self.blocks:
            h = h @ b.skip.T + b.activation.apply(h @ b.weight.T + b.bias) @ b.output.T
        h = h if self.last is None else self.last.apply(h)
        return h[0] if one else h

    def preactivations(self, X: Any) -> list[Values]:
        """Return the arguments of every activation, of shape (n, width) each."""
        h, _ = points(X, self.n_inputs)
        h = h if self.first is None else self.first.apply(h)
        out = []
        for b in self.blocks:
            z = h @ b.weight.T + b.bias
            out.append(z)
            h = h @ b.skip.T + b.activation.apply(z) @ b.output.T
        return out

    def jacobian(self, x: Any) -> Values:
        """Return the Jacobian of shape (n_out, n_in) at one input."""
        zs = self.preactivations(np.asarray(x).reshape(1, -1))
        J = np.eye(self.n_inputs) if self.first is None else self.first.dense
        for b, z in zip(self.blocks, zs, strict=True):
            J = b.skip @ J + b.output @ b.activation.push(z[0], b.weight @ J)
        return np.asarray(J if self.last is None else self.last.weight @ J)

    def followed_by(self, C: Values) -> Residual:
        """Return the network with outputs multiplied by a matrix of shape (k, n_out)."""
        last = Affine(C) if self.last is None else Affine(C @ self.last.weight, C @ self.last.bias)
        return Residual(self.blocks, self.first, last)


@dataclass(frozen=True, eq=False)
class Implicit:
    """Implicit (deep equilibrium) network z = φ(W z + U x + b), y = C z + D x + c.

    Parameters
    ----------
    weight : array-like of shape (n, n)
        W.
    input : array-like of shape (n, n_in)
        U.
    output : array-like of shape (n_out, n)
        C.
    skip : array-like of shape (n_out, n_in) or None, default=None
        D; ``None``: zero.
    bias, output_bias : array-like or None, default=None
        The constants b and c; ``None``: zero.
    activation : Activation or str, default="relu"
        The element-wise function φ.
    """

    weight: Any
    input: Any
    output: Any
    skip: Any = None
    bias: Any = None
    output_bias: Any = None
    activation: Any = field(default="relu")

    def __post_init__(self) -> None:
        set_ = object.__setattr__
        mats = {}
        for name in ("weight", "input", "output"):
            value = matrix(name, getattr(self, name))
            mats[name] = value.toarray() if sp.issparse(value) else value
        n = mats["weight"].shape[0]
        shapes = {name: M.shape for name, M in mats.items()}
        if shapes["weight"] != (n, n) or shapes["input"][0] != n or shapes["output"][1] != n:
            raise ProblemError(
                f"implicit network: weight {shapes['weight']}, input {shapes['input']} and output "
                f"{shapes['output']} do not fit: expected (n, n), (n, n_in) and (n_out, n)"
            )
        skip_shape = (shapes["output"][0], shapes["input"][1])
        D = np.zeros(skip_shape) if self.skip is None else matrix("skip", self.skip)
        if D.shape != skip_shape:
            raise ProblemError(f"implicit network: skip has shape {D.shape}; expected {skip_shape}")
        for name, value in mats.items():
            set_(self, name, value)
        set_(self, "skip", D)
        set_(self, "bias", vector("bias", self.bias, n))
        set_(self, "output_bias", vector("output_bias", self.output_bias, skip_shape[0]))
        phi = self.activation
        phi = phi if isinstance(phi, Activation) else Activation(phi)
        if phi.by_groups:
            raise ProblemError("implicit network: the activation must be element-wise")
        phi.check_width(n, 1)
        set_(self, "activation", phi)

    def __repr__(self) -> str:
        return f"Implicit({self.n_inputs} -> {len(self.weight)} -> {self.n_outputs})"

    @property
    def n_inputs(self) -> int:
        """Number of inputs."""
        return int(self.input.shape[1])

    @property
    def n_outputs(self) -> int:
        """Number of outputs."""
        return int(self.output.shape[0])

    @property
    def widths(self) -> tuple[int, ...]:
        """Number of neurons, as a tuple of one."""
        return (len(self.weight),)

    def equilibrium(self, X: Any) -> Values:
        """Return z of shape (n, width) for inputs of shape (n, n_in), by damped Newton steps.

        Raises
        ------
        ProblemError
            No equilibrium was found to 1e-12.
        """
        X, _ = points(X, self.n_inputs)
        shift = X @ self.input.T + self.bias
        z = np.zeros_like(shift)
        phi, eye = self.activation, np.eye(len(self.weight))
        for k in range(len(z)):
            s, u = shift[k], z[k]
            r = phi.apply(self.weight @ u + s) - u
            for _ in range(200):
                size = np.abs(r).max()
                if size <= 1e-13 * max(1.0, np.abs(u).max()):
                    break
                slope = phi.derivative(self.weight @ u + s)
                step = np.linalg.lstsq(eye - slope[:, None] * self.weight, r, rcond=None)[0]
                t = 1.0
                while t > 1e-4:
                    trial = u + t * step
                    r_new = phi.apply(self.weight @ trial + s) - trial
                    if np.abs(r_new).max() < size:
                        break
                    t *= 0.5
                u, r = trial, r_new
            if np.abs(r).max() > 1e-12 * max(1.0, np.abs(u).max()):
                raise ProblemError(
                    f"implicit network: no equilibrium found for input {k}, residual "
                    f"{np.abs(r).max():.1e}; the network may not be well posed"
                )
            z[k] = u
        return z

    def forward(self, X: Any) -> Values:
        """Return the outputs of shape (n, n_out) at inputs of shape (n, n_in) or (n_in,)."""
        X, one = points(X, self.n_inputs)
        Y = self.equilibrium(X) @ self.output.T + X @ self.skip.T + self.output_bias
        return Y[0] if one else Y

    def preactivations(self, X: Any) -> list[Values]:
        """Return the arguments of the activation at the equilibrium, of shape (n, width)."""
        X, _ = points(X, self.n_inputs)
        return [self.equilibrium(X) @ self.weight.T + X @ self.input.T + self.bias]

    def jacobian(self, x: Any) -> Values:
        """Return the Jacobian of shape (n_out, n_in) at one input."""
        z = self.preactivations(np.asarray(x).reshape(1, -1))[0][0]
        slope = self.activation.derivative(z)[:, None]
        dz = np.linalg.solve(np.eye(len(z)) - slope * self.weight, slope * self.input)
        return np.asarray(self.output @ dz + self.skip)

    def followed_by(self, C: Values) -> Implicit:
        """Return the network with outputs multiplied by a matrix of shape (k, n_out)."""
        return Implicit(
            self.weight, self.input, C @ self.output, C @ self.skip, self.bias,
            C @ self.output_bias, self.activation,
        )  # fmt: skip


Network: TypeAlias = FeedForward | Residual | Implicit


def points(X: Any, n_inputs: int) -> tuple[Values, bool]:
    """Return inputs as a float64 array of shape (n, n_inputs), and whether one was given alone."""
    X = np.asarray(X)
    if X.dtype.kind not in "fiub":
        raise ProblemTypeError(f"X has dtype {X.dtype}; expected real numbers")
    one = X.ndim == 1
    X = np.atleast_2d(X.astype(np.float64, copy=False))
    if X.ndim != 2 or X.shape[1] != n_inputs:
        raise ProblemError(f"X has shape {X.shape}; expected (n, {n_inputs}), one row an input")
    return X, one
