"""How much interval bounds lose: tightness of propagation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp
from scipy.special import logsumexp

from lowrank_opt.core.errors import ParameterError, ProblemError
from lowrank_opt.lipschitz.intervals import _network
from lowrank_opt.lipschitz.network import Affine, FeedForward, points

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import ArrayLike, NDArray

    from lowrank_opt.lipschitz.activations import Activation

    Values = NDArray[np.float64]

__all__ = ["propagation_tightness"]

# Numbers in a block of Jacobians.
_BLOCK = 1 << 21


def propagation_tightness(
    network: Any,
    X: ArrayLike | None = None,
    *,
    mode: str = "auto",
    per_output: bool = False,
    log: bool = False,
    activation: str = "relu",
) -> Any:
    r"""Return how tight interval bounds are: the optimal radius over that of interval arithmetic.

    With the map of each layer linearised at an input, an input box of radius ε gives output boxes
    of radius :math:`|J| 1 ε` for the product :math:`J = W_L D_{L-1} W_{L-1} \cdots D_1 W_1` at
    best, and of radius :math:`|W_L| |D_{L-1}| |W_{L-1}| \cdots |W_1| 1 ε` by intervals. The
    tightness of an output is the ratio of the two, in [0, 1]; it is 1 for one layer, and where
    all paths from an input to an output have the same sign [1]_.

    Parameters
    ----------
    network : list of ndarray, FeedForward, Residual, or any model of `as_network`
        The network, convolutions as sparse maps. Every affine map counts as a layer.
    X : array-like of shape (n, n_inputs) or (n_inputs,), or None, default=None
        Inputs, needed for "local".
    mode : {"auto", "local", "linear"}, default="auto"
        "local": D are the derivatives of activations at the inputs (of ReLU at 0: 1). "linear":
        activations are left out. "auto": "local" with inputs, else "linear".
    per_output : bool, default=False
        Whether to return the ratios of all outputs instead of their mean.
    log : bool, default=False
        Whether to return natural logarithms. Products are scaled as they accumulate, so that no
        depth underflows; deep networks have a tightness below the smallest number.
    activation : str, default="relu"
        Activation of a network given as a list of arrays.

    Returns
    -------
    float or ndarray
        Mean over the outputs, then over the inputs; with `per_output` an array of shape
        (n_outputs,) for "linear" and of shape (n, n_outputs) for "local". An output that does not
        depend on the input has tightness 1.

    Raises
    ------
    ParameterError
        An unknown mode, or "local" without inputs.
    ProblemError
        Inputs that do not fit, an implicit network, an activation without values.

    Notes
    -----
    Cost: min(n_inputs, n_outputs) products with each map for every input, batched.

    References
    ----------
    .. [1] Y. Mao, M. N. Müller, M. Fischer, M. Vechev, "Understanding Certified Training with
       Interval Bound Propagation", ICLR 2024. :arxiv:`2306.10426`

    Examples
    --------
    >>> import numpy as np
    >>> from lowrank_opt.lipschitz import propagation_tightness
    >>> network = [np.array([[1.0, 1.0], [1.0, -1.0]]), np.array([[1.0, 1.0]])]
    >>> float(propagation_tightness(network, mode="linear"))
    0.5
    """
    network = _network(network, activation, "propagation_tightness")
    if mode not in ("auto", "local", "linear"):
        raise ParameterError(f"mode={mode!r} must be one of 'auto', 'local', 'linear'")
    if mode == "auto":
        mode = "linear" if X is None else "local"
    if mode == "linear":
        ratios, alone = _log_ratios(network, None), True
    elif X is None:
        raise ParameterError("mode='local' needs inputs X; without them, take mode='linear'")
    else:
        X, alone = points(X, network.n_inputs)
        if not len(X) or not np.isfinite(X).all():
            raise ProblemError("X is empty or has entries that are NaN or infinite")
        small = min(network.n_inputs, network.n_outputs)
        wide = max(network.n_inputs, network.n_outputs, *network.widths, 1)
        step = max(1, _BLOCK // (small * wide))
        zs = network.preactivations(X)
        parts = range(0, len(X), step)
        blocks = [_log_ratios(network, [z[k : k + step] for z in zs]) for k in parts]
        ratios = np.concatenate(blocks)
    if per_output:
        ratios = ratios[0] if alone else ratios
        return ratios if log else np.exp(ratios)
    if log:
        value = logsumexp(ratios) - np.log(ratios.size) if np.isfinite(ratios).any() else -np.inf
        return float(value)
    return float(np.exp(ratios).mean())


class _Local:
    """The linear map of an activation at points, of shape (n, width), for rows on either side.

    Rows have the shape (n, k, width).
    """

    def __init__(self, phi: Activation, z: Values | None) -> None:
        self.phi, self.kind = phi, "none"
        if z is None or phi.kind == "identity":
            return
        self.n, self.width = z.shape
        if not phi.by_groups:
            self.kind = "scale"
            slope = z >= 0.0 if phi.kind == "relu" else phi.derivative(z)
            self.slope = np.asarray(slope, dtype=np.float64)[:, None, :]
            return
        u = z.reshape(self.n, -1, phi.size_in(self.width))
        if phi.kind == "group_sort":
            self.kind = "sort"
            self.order = np.argsort(u, axis=-1)[:, None]
            self.rank = np.argsort(self.order, axis=-1)
        else:
            self.kind = "reflect"
            v: Any = phi.directions(self.width)
            eye = np.eye(u.shape[-1])
            R = eye - 2.0 * v[:, :, None] * v[:, None, :]
            flip = (u * v).sum(axis=-1) <= 0.0
            self.R = np.where(flip[..., None, None], R, eye)  # (n, groups, size, size)

    def push(self, rows: Values, *, modulus: bool = False, back: bool = False) -> Values:
        """Return the image of every row, of the modulus of the map, or of its transpose."""
        if self.kind == "none":
            return rows
        if self.kind == "scale":
            return rows * (np.abs(self.slope) if modulus else self.slope)
        size = self.phi.size_in(self.width)
        u = rows.reshape(*rows.shape[:2], -1, size)
        if self.kind == "sort":
            order = self.rank if back else self.order
            out = np.take_along_axis(u, np.broadcast_to(order, u.shape), axis=-1)
        else:
            R = np.abs(self.R) if modulus else self.R  # symmetric: its own transpose
            out = np.einsum("ngij,nkgj->nkgi", R, u)
        return out.reshape(rows.shape)


def _times(rows: Values, W: Any) -> Values:
    """Return rows of shape (n, k, a) times W of shape (a, b)."""
    flat = rows.reshape(-1, rows.shape[-1])
    out = (W.T @ flat.T).T if sp.issparse(W) else flat @ W
    return np.asarray(out).reshape(*rows.shape[:2], -1)


class _Walk:
    """The layers of a network as maps of rows, forwards or backwards, plain or by moduli."""

    def __init__(self, network: Any, zs: list[Values] | None) -> None:
        z: Iterator[Values] = iter(zs or [])
        self.steps: list[tuple[Any, ...]] = []
        if isinstance(network, FeedForward):
            for layer in network.layers:
                if isinstance(layer, Affine):
                    self.steps.append((layer.weight,))
                else:
                    self.steps.append((_Local(layer, None if zs is None else next(z)),))
            return
        if network.first is not None:
            self.steps.append((network.first.weight,))
        for b in network.blocks:
            local = _Local(b.activation, None if zs is None else next(z))
            self.steps.append((b.weight, local, b.output, b.skip))
        if network.last is not None:
            self.steps.append((network.last.weight,))

    def __call__(self, rows: Values, *, back: bool, modulus: bool) -> tuple[Values, Values]:
        """Return the rows at the other end, each divided by a factor, and its logarithm."""
        scale = np.zeros((*rows.shape[:2], 1))
        steps = reversed(self.steps) if back else self.steps
        for step in steps:
            out = rows
            for part in step[2::-1] if back else step[:3]:
                out = self._one(part, out, back, modulus)
            rows = out + self._one(step[3], rows, back, modulus) if len(step) > 3 else out
            top = np.abs(rows).max(axis=-1, keepdims=True)
            top[top == 0.0] = 1.0
            rows = rows / top
            scale += np.log(top)
        return rows, scale

    def _one(self, part: Any, rows: Values, back: bool, modulus: bool) -> Values:
        if isinstance(part, _Local):
            return part.push(rows, modulus=modulus, back=back)
        W = abs(part) if modulus else part
        return _times(rows, W if back else W.T)


def _log_ratios(network: Any, zs: list[Values] | None) -> Values:
    """Return the logarithm of the tightness of every output, of shape (n, n_outputs)."""
    n = 1 if zs is None or not zs else len(zs[0])
    walk = _Walk(network, zs)
    n_in, n_out = network.n_inputs, network.n_outputs
    # The radius by intervals needs one row forwards for all outputs.
    ones = np.ones((n, 1, n_in))
    sizes, scale = walk(ones, back=False, modulus=True)
    with np.errstate(divide="ignore"):
        loose = np.log(sizes[:, 0]) + scale[:, 0]
        if n_out <= n_in:
            eye = np.broadcast_to(np.eye(n_out), (n, n_out, n_out))
            rows, scale = walk(eye, back=True, modulus=False)
            tight = np.log(np.abs(rows).sum(axis=-1)) + scale[..., 0]
        else:
            eye = np.broadcast_to(np.eye(n_in), (n, n_in, n_in))
            rows, scale = walk(eye, back=False, modulus=False)
            top = scale.max(axis=1, keepdims=True)
            sums = (np.abs(rows) * np.exp(scale - top)).sum(axis=1)
            tight = np.log(sums) + top[:, 0]
    out = np.where(
        np.isneginf(loose), 0.0, np.minimum(tight - np.where(np.isneginf(loose), 0.0, loose), 0.0)
    )
    return np.asarray(out)
