"""Computations as affine maps between activations: how graphs with branches become networks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import scipy.sparse as sp

from lowrank_opt.lipschitz.layer_errors import UnsupportedLayerError
from lowrank_opt.lipschitz.network import Affine, FeedForward, Residual, ResidualBlock

if TYPE_CHECKING:
    from lowrank_opt.lipschitz.activations import Activation

__all__ = ["Trace", "Value"]


@dataclass(frozen=True, eq=False)
class Value:
    """An array that is an affine function of sources: the base and results of activations.

    Parameters
    ----------
    shape : tuple of int
        Shape of the array.
    terms : dict of int to matrix
        For each source the matrix of shape (size, size of the source), dense or sparse.
    shift : ndarray of shape (size,)
    """

    shape: tuple[int, ...]
    terms: dict[int, Any]
    shift: Any

    @property
    def size(self) -> int:
        """Number of entries."""
        return int(self.shift.size)

    def places(self) -> Any:
        """Return the flat positions of the entries, in the array's shape."""
        return np.arange(self.size).reshape(self.shape)

    def select(self, index: Any) -> Value:
        """Return the entries at flat positions, in the shape of `index`; -1 gives zeros."""
        flat = np.asarray(index).ravel()
        keep = (flat >= 0).astype(np.float64)
        rows = sp.csr_array(
            (keep, (np.arange(flat.size), np.maximum(flat, 0))), shape=(flat.size, self.size)
        )
        rows.eliminate_zeros()
        return self.map(rows, shape=np.shape(index))

    def map(self, matrix: Any, shift: Any = 0.0, shape: Any = None) -> Value:
        """Return matrix @ value + shift."""
        terms = {k: _product(matrix, M) for k, M in self.terms.items()}
        out = matrix @ self.shift + shift
        return Value((out.size,) if shape is None else tuple(shape), terms, out)

    def scaled(self, factor: Any, shift: Any = 0.0) -> Value:
        """Return factor * value + shift, entry by entry or for all entries."""
        d = np.broadcast_to(np.asarray(factor, dtype=np.float64), self.shape).ravel()
        s = np.broadcast_to(np.asarray(shift, dtype=np.float64), self.shape).ravel()
        if np.all(d == 1.0):
            return Value(self.shape, self.terms, self.shift + s)
        return self.map(sp.diags_array(d, format="csr"), s, self.shape)

    def plus(self, other: Value) -> Value:
        """Return the sum with a value of the same shape."""
        terms = dict(self.terms)
        for k, M in other.terms.items():
            terms[k] = _sum(terms[k], M) if k in terms else M
        return Value(self.shape, terms, self.shift + other.shift)

    def reshaped(self, shape: Any) -> Value:
        """Return the same entries in another shape."""
        return Value(tuple(int(n) for n in shape), self.terms, self.shift)

    def equals(self, other: Value, tolerance: float) -> bool:
        """Whether two values are the same function, up to rounding of their constants."""
        if self.terms.keys() != other.terms.keys():
            return False
        pairs = [(self.terms[k], other.terms[k]) for k in self.terms]
        pairs.append((self.shift, other.shift))
        return all(
            A.shape == B.shape and abs(A - B).max() <= tolerance * max(abs(A).max(), 1e-300)
            for A, B in pairs
        )


class _Source(NamedTuple):
    activation: Activation
    argument: Value
    label: str


class _Block(NamedTuple):
    """h ↦ H h + G φ(W h + b) + d; H is ``None`` for zero, the activation for an affine map."""

    W: Any
    b: Any
    activation: Activation | None
    H: Any
    G: Any
    d: Any


class Trace:
    """A computation under way.

    Parameters
    ----------
    shape : tuple of int
        Shape of the input.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        size = int(np.prod(shape))
        self._sources: list[_Source | None] = [None]
        self._base = 0
        self._sizes = [size]
        self._blocks: list[_Block] = []
        self.input = Value(tuple(shape), {0: sp.eye_array(size, format="csr")}, np.zeros(size))

    def activate(self, activation: Any, argument: Value, label: str) -> Value:
        """Return the value of an activation; `activation` a name for what only patterns use."""
        self._sources.append(_Source(activation, argument, label))
        self._sizes.append(argument.size)
        terms = {len(self._sources) - 1: sp.eye_array(argument.size, format="csr")}
        return Value(argument.shape, terms, np.zeros(argument.size))

    def argument_of(self, value: Value, activation: Any) -> tuple[Value, float, float] | None:
        """Return (z, factor, shift) if a value is factor * activation(z) + shift, else ``None``.

        Parameters
        ----------
        value : Value
        activation : str
            Kind of the activation, or name of a pattern.
        """
        if len(value.terms) != 1:
            return None
        key, M = next(iter(value.terms.items()))
        source = self._sources[key]
        if source is None or source.argument.size != value.size:
            return None
        if activation not in (source.activation, getattr(source.activation, "kind", None)):
            return None
        factor, shift = float(M[0, 0]), float(value.shift[0])
        if np.any(value.shift != shift) or not _is_identity(M, factor):
            return None
        return source.argument, factor, shift

    def cut(self, value: Value) -> Value:
        """Close a part: all that follows depends on this value alone. Return it as a source."""
        alone = list(value.terms) == [self._base] and not np.any(value.shift)
        if alone and _is_identity(value.terms[self._base]):
            return value
        self._blocks += self._part(value)
        self._sources.append(None)
        self._sizes.append(value.size)
        self._base = len(self._sources) - 1
        terms = {self._base: sp.eye_array(value.size, format="csr")}
        return Value(value.shape, terms, np.zeros(value.size))

    def network(self, value: Value) -> FeedForward | Residual:
        """Return the network of a value."""
        self.cut(value)
        if all(block.H is None for block in self._blocks):
            return _feed_forward(self._blocks, self._sizes[0])
        return _residual(self._blocks)

    def _part(self, value: Value) -> list[_Block]:
        """Blocks from the base to a value."""
        used: set[int] = set()
        todo = list(value.terms)
        while todo:
            key = todo.pop()
            source = self._sources[key]
            if key not in used and source is not None:
                used.add(key)
                todo += list(source.argument.terms)
        base = self._base
        if not used:
            return [_Block(self._row(value, [base]), value.shift, None, None, None, None)]
        groups = self._merged(sorted(used))
        # The state holds what is needed later: the base and results of activations.
        values = [group.argument for group, _ in groups] + [value]
        state, blocks = [base], []
        for j, (group, members) in enumerate(groups):
            W = self._row(group.argument, state)
            final = j == len(groups) - 1
            if final:
                kept = state
                H = self._row(value, state) if any(k in value.terms for k in state) else None
                G, d = self._row(value, members), value.shift
            else:
                later = {k for v in values[j + 1 :] for k in v.terms}
                kept = [k for k in state if k in later]
                n_kept = sum(self._sizes[k] for k in kept)
                n_new = sum(self._sizes[k] for k in members)
                here = np.concatenate(
                    [np.full(self._sizes[k], k in kept, dtype=bool) for k in state]
                )
                H = np.vstack([np.eye(here.size)[here], np.zeros((n_new, here.size))])
                G = np.vstack([np.zeros((n_kept, n_new)), np.eye(n_new)])
                H, d = (H if n_kept else None), np.zeros(n_kept + n_new)
            blocks.append(_Block(W, group.argument.shift, group.activation, H, G, d))
            state = kept + members
        return blocks

    def _merged(self, keys: list[int]) -> list[tuple[_Source, list[int]]]:
        """Activations in an order of evaluation, equal ones of one level in one."""
        level: dict[int, int] = {}
        out: dict[Any, tuple[_Source, list[int]]] = {}
        for key in keys:
            source = self._sources[key]
            assert source is not None
            phi = source.activation
            if isinstance(phi, str):
                raise UnsupportedLayerError(source.label, "use a layer that is covered")
            level[key] = 1 + max((level.get(k, 0) for k in source.argument.terms), default=0)
            mergeable = phi.kind not in ("slopes", "householder")
            mergeable &= not (phi.kind == "group_sort" and phi.group_size is None)
            name: tuple[Any, ...] = (level[key], phi.kind, phi.parameter, phi.group_size)
            name = name if mergeable else (*name, key)
            if name in out:
                first, members = out[name]
                both = _stacked(first.argument, source.argument, self._sizes)
                out[name] = (_Source(phi, both, first.label), [*members, key])
            else:
                out[name] = (source, [key])
        return [out[name] for name in sorted(out, key=lambda n: n[0])]

    def _row(self, value: Value, keys: list[int]) -> Any:
        """Matrix of a value over the sources `keys`, side by side."""
        parts = [value.terms.get(k, sp.csr_array((value.size, self._sizes[k]))) for k in keys]
        if len(parts) == 1:
            return parts[0]
        if all(sp.issparse(p) for p in parts):
            return sp.csr_array(sp.hstack(parts, format="csr"))
        return np.hstack([_dense(p) for p in parts])


def _feed_forward(blocks: list[_Block], n_inputs: int) -> FeedForward:
    layers: list[Any] = []

    def affine(M: Any, c: Any) -> None:
        if not layers or np.any(c) or not _is_identity(M):
            layers.append(Affine(M, c))

    for block in blocks:
        if block.activation is None:
            affine(block.W, block.b)
        else:
            affine(block.W, block.b)
            layers.append(block.activation)
            affine(block.G, block.d)
    if not layers:
        layers.append(Affine(sp.eye_array(n_inputs, format="csr")))
    return FeedForward(_joined(layers))


def _joined(layers: list[Any]) -> tuple[Any, ...]:
    """Multiply affine maps that follow each other, where the product is no larger than both."""
    out: list[Any] = []
    for layer in layers:
        last = out[-1] if out else None
        if isinstance(layer, Affine) and isinstance(last, Affine):
            both = _product(layer.weight, last.weight)
            if _entries(both) <= _entries(layer.weight) + _entries(last.weight):
                out[-1] = Affine(both, layer.weight @ last.bias + layer.bias)
                continue
        out.append(layer)
    return tuple(out)


def _residual(blocks: list[_Block]) -> Residual:
    first: Affine | None = None
    done: list[dict[str, Any]] = []
    # The state is M h + c, with h what the blocks so far return; M is None for the identity.
    M, c = None, np.zeros(blocks[0].W.shape[1])
    for block in blocks:
        if block.activation is None:
            M, c = block.W if M is None else block.W @ M, block.W @ c + block.b
            M = _dense(M)
            continue
        W, b, H = block.W, block.b, block.H
        if M is not None and H is not None:
            if done:
                done[-1]["skip"], done[-1]["output"] = M @ done[-1]["skip"], M @ done[-1]["output"]
            else:
                first, c = Affine(M, c), np.zeros(len(c))
            M = None
        n_in = W.shape[1] if M is None else M.shape[1]
        n_out = len(block.d)
        done.append({
            "weight": _dense(W if M is None else W @ M), "bias": b + W @ c,
            "activation": block.activation, "output": _dense(block.G),
            "skip": np.zeros((n_out, n_in)) if H is None else _dense(H),
        })  # fmt: skip
        M, c = None, block.d if H is None else H @ c + block.d
    last = None
    if M is not None or np.any(c):
        last = Affine(np.eye(done[-1]["skip"].shape[0]) if M is None else M, c)
    return Residual(tuple(ResidualBlock(**block) for block in done), first, last)


def _stacked(a: Value, b: Value, sizes: list[int]) -> Value:
    terms = {}
    for k in a.terms.keys() | b.terms.keys():
        top = a.terms.get(k, sp.csr_array((a.size, sizes[k])))
        bottom = b.terms.get(k, sp.csr_array((b.size, sizes[k])))
        if sp.issparse(top) and sp.issparse(bottom):
            terms[k] = sp.csr_array(sp.vstack([top, bottom], format="csr"))
        else:
            terms[k] = np.vstack([_dense(top), _dense(bottom)])
    shift = np.concatenate([a.shift, b.shift])
    return Value((shift.size,), terms, shift)


def _is_identity(M: Any, factor: float = 1.0) -> bool:
    n = M.shape[0]
    if n != M.shape[1] or not np.all(M.diagonal() == factor):
        return False
    off = M.count_nonzero() if sp.issparse(M) else np.count_nonzero(M)
    return bool(off == (n if factor else 0))


def _dense(M: Any) -> Any:
    return M.toarray() if sp.issparse(M) else M


def _entries(M: Any) -> int:
    return int(M.nnz if sp.issparse(M) else M.size)


def _product(A: Any, B: Any) -> Any:
    """Return A B, sparse if both are."""
    C = A @ B
    return sp.csr_array(C) if sp.issparse(C) else np.asarray(C)


def _sum(A: Any, B: Any) -> Any:
    if sp.issparse(A) and sp.issparse(B):
        return sp.csr_array(A + B)
    return np.asarray(_dense(A) + _dense(B))
