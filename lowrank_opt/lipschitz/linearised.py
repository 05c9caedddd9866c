"""Networks linearised at many inputs at once: products with Jacobians, one for each input."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.linalg as la

from lowrank_opt.lipschitz.network import Affine, FeedForward, Implicit, Residual

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from lowrank_opt.lipschitz.activations import Activation
    from lowrank_opt.lipschitz.network import Network, ResidualBlock

    Values = NDArray[np.float64]

__all__ = ["Linearised", "has_values"]

NEAR = 1e-10  # relative to the layer: nearer to a kink than this is on it
SMOOTHING = 0.1  # width of the kernel that smooths slopes, relative to the layer


def activations(network: Network) -> list[Activation]:
    """Return the activations of a network in the order of evaluation."""
    if isinstance(network, FeedForward):
        return [a for a in network.layers if not isinstance(a, Affine)]
    if isinstance(network, Residual):
        return [b.activation for b in network.blocks]
    return [network.activation]


def has_values(network: Network) -> bool:
    """Return whether the network can be evaluated, so that no activation is known by slopes."""
    return all(a.has_values for a in activations(network))


def times(W: Any, X: Values) -> Values:
    """Return X Wᵀ for a dense or sparse W."""
    return X @ W.T if isinstance(W, np.ndarray) else np.asarray((W @ X.T).T)


class Linearised:
    """A network linearised at a batch of inputs.

    Parameters
    ----------
    network : FeedForward, Residual or Implicit
        Whose activations have values.
    X : ndarray of shape (n, n_inputs)
        Inputs.

    Attributes
    ----------
    clear : ndarray of bool of shape (n,)
        Whether no neuron that changes near the input sits on a kink.

    Notes
    -----
    Cost of every product: one pass over the weights for the whole batch.
    """

    def __init__(self, network: Network, X: Values) -> None:
        self.clear = np.ones(len(X), dtype=bool)
        self.stages: list[Any] = []
        moves = _everything
        H = X
        for make, part in _parts(network):
            stage = make(part)
            H, clear, moves = stage.forward(H, moves)
            self.clear &= clear
            self.stages.append(stage)

    def push(self, V: Values) -> Values:
        """Return J(x) v for every input, of shape (n, n_outputs)."""
        for stage in self.stages:
            V = stage.push(V)
        return V

    def pull(self, U: Values) -> Values:
        """Return J(x)ᵀ u for every input, of shape (n, n_inputs)."""
        for stage in reversed(self.stages):
            U = stage.pull(U)
        return U

    def ascent(self) -> Values:
        """Return the gradient of uᵀJ(x)v in x, for the u and v of the last products.

        Slopes are smoothed over a tenth of the size of their layer, so that kinks have one too;
        activations by groups contribute nothing.
        """
        G: Any = 0.0
        for stage in reversed(self.stages):
            G = stage.back(G)
        return np.asarray(G)


def _parts(network: Network) -> list[tuple[Any, Any]]:
    if isinstance(network, FeedForward):
        return [(_Map if isinstance(a, Affine) else _Slopes, a) for a in network.layers]
    if isinstance(network, Residual):
        ends = [network.first, *network.blocks, network.last]
        return [(_Map if isinstance(p, Affine) else _Block, p) for p in ends if p is not None]
    return [(_Equilibrium, network)]


class _Map:
    def __init__(self, part: Affine) -> None:
        self.part, self.W = part, part.weight

    def forward(self, H: Values, moves: Callable[[], Any]) -> tuple[Values, Any, Any]:
        return times(self.W, H) + self.part.bias, True, _reached(self.W, moves)

    def push(self, V: Values) -> Values:
        return times(self.W, V)

    def pull(self, U: Values) -> Values:
        return times(self.W.T, U)

    def back(self, G: Any) -> Any:
        return G if np.ndim(G) == 0 else self.pull(G)


def _everything() -> Any:
    return np.ones((1, 1), dtype=bool)


def _reached(W: Any, moves: Callable[[], Any]) -> Callable[[], Any]:
    """Return, for when a kink is met, which values of a map change near the input."""

    def values() -> Any:
        before = np.broadcast_to(moves(), (len(moves()), W.shape[1]))
        return times(abs(W), before.astype(np.float64)) > 0

    return values


def _open(slope: Values, moves: Callable[[], Any]) -> Callable[[], Any]:
    return lambda: (slope != 0) & moves()


class _Slopes:
    """Slopes, orders or reflections of one activation at every input."""

    def __init__(self, part: Activation) -> None:
        self.phi = part
        self.v: Any = None  # directions of reflections
        self.t: Any = None
        self.u: Any = None

    def forward(self, Z: Values, moves: Callable[[], Any]) -> tuple[Values, Any, Any]:
        phi, self.z = self.phi, Z
        near = NEAR * np.maximum(np.abs(Z).max(axis=1, initial=0.0), 1e-300)
        if phi.by_groups:
            clear = phi.clearance(Z) > near
            if phi.kind == "group_sort":
                grouped = Z.reshape(len(Z), -1, phi.size_in(Z.shape[1]))
                self.order = np.argsort(grouped, axis=-1, kind="stable")
                self.rank = np.argsort(self.order, axis=-1)
                out = np.take_along_axis(grouped, self.order, -1)
                return out.reshape(Z.shape), clear, _everything
            self.v = phi.directions(Z.shape[1])
            dot = (Z.reshape(len(Z), *self.v.shape) * self.v).sum(axis=-1)
            self.flip = 2.0 * (dot <= 0)
            return phi.apply(Z), clear, _everything
        clear = phi.clearance(Z) > near
        self.slope = phi.derivative(Z)
        if not clear.all():
            on = phi.clearance(Z.reshape(-1, 1)).reshape(Z.shape) <= near[:, None]
            clear = ~np.any(on & moves(), axis=1)
        return phi.apply(Z), clear, _open(self.slope, moves)

    def push(self, V: Values) -> Values:
        self.t = V
        if not self.phi.by_groups:
            return V * self.slope
        return self._groups(V, "order")

    def pull(self, U: Values) -> Values:
        self.u = U
        if not self.phi.by_groups:
            return U * self.slope
        return self._groups(U, "rank")

    def _groups(self, T: Values, which: str) -> Values:
        if self.phi.kind == "group_sort":
            order = getattr(self, which)
            return np.take_along_axis(T.reshape(order.shape), order, -1).reshape(T.shape)
        grouped = T.reshape(len(T), *self.v.shape)
        dot = (grouped * self.v).sum(axis=-1)
        return (grouped - (self.flip * dot)[:, :, None] * self.v).reshape(T.shape)

    def back(self, G: Any) -> Any:
        if self.phi.by_groups:
            return G if np.ndim(G) == 0 else self._groups(G, "rank")
        width = SMOOTHING * np.abs(self.z).mean(axis=1, keepdims=True) + 1e-100
        bend = self.phi.derivative(self.z + width) - self.phi.derivative(self.z - width)
        return G * self.slope + self.u * self.t * (bend / (2.0 * width))


class _Block:
    def __init__(self, part: ResidualBlock) -> None:
        self.part, self.phi = part, _Slopes(part.activation)

    def forward(self, H: Values, moves: Callable[[], Any]) -> tuple[Values, Any, Any]:
        b = self.part
        A, clear, _ = self.phi.forward(H @ b.weight.T + b.bias, _reached(b.weight, _everything))
        return H @ b.skip.T + A @ b.output.T, clear, _everything

    def push(self, V: Values) -> Values:
        b = self.part
        return V @ b.skip.T + self.phi.push(V @ b.weight.T) @ b.output.T

    def pull(self, U: Values) -> Values:
        b = self.part
        return U @ b.skip + self.phi.pull(U @ b.output) @ b.weight

    def back(self, G: Any) -> Any:
        b = self.part
        if np.ndim(G) == 0:
            return self.phi.back(G) @ b.weight if not b.activation.by_groups else G
        return G @ b.skip + self.phi.back(G @ b.output) @ b.weight


class _Equilibrium:
    def __init__(self, part: Implicit) -> None:
        self.part, self.phi = part, _Slopes(part.activation)

    def forward(self, X: Values, moves: Callable[[], Any]) -> tuple[Values, Any, Any]:
        net = self.part
        Z = net.equilibrium(X)
        drive = X @ net.input.T + net.bias
        _, clear, _ = self.phi.forward(Z @ net.weight.T + drive, _everything)
        eye = np.eye(len(net.weight))
        self.lu = [la.lu_factor(eye - s[:, None] * net.weight) for s in self.phi.slope]
        return Z @ net.output.T + X @ net.skip.T + net.output_bias, clear, _everything

    def _solve(self, R: Values, trans: int) -> Values:
        return np.array([la.lu_solve(f, r, trans=trans) for f, r in zip(self.lu, R, strict=True)])

    def push(self, V: Values) -> Values:
        net = self.part
        drive = V @ net.input.T
        t = self._solve(self.phi.slope * drive, 0)
        self.phi.t = t @ net.weight.T + drive
        return t @ net.output.T + V @ net.skip.T

    def pull(self, U: Values) -> Values:
        net = self.part
        self.phi.u = self._solve(U @ net.output, 1)
        return (self.phi.slope * self.phi.u) @ net.input + U @ net.skip

    def back(self, G: Any) -> Any:
        net = self.part
        c = self.phi.back(0.0)
        inner = self._solve(c @ net.weight, 1)
        return (c + self.phi.slope * inner) @ net.input
