"""Points, states and problems of any shape, seen as named arrays."""

from __future__ import annotations

import dataclasses
import types
from typing import TYPE_CHECKING, Any

import numpy as np

from lowrank_opt.core.backend import Backend

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = [
    "difference",
    "flatten",
    "is_array",
    "leaves",
    "map_arrays",
    "overwrite",
    "point_distance",
    "snapshot",
    "to_host",
    "unflatten",
    "vector",
]

_PLAIN = (type(None), bool, int, float, complex, str, bytes, np.generic)
_OPAQUE = (type, types.ModuleType, types.FunctionType, types.BuiltinFunctionType)


def is_array(value: Any) -> bool:
    """Whether `value` is an array of a library that :class:`Backend` knows."""
    return isinstance(value, np.ndarray) or (
        hasattr(value, "__dlpack__") and hasattr(value, "dtype") and hasattr(value, "shape")
    )


def leaves(value: Any, path: str = "", seen: tuple[int, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Yield ``(path, leaf)`` for all arrays, scalars and generator states inside `value`."""
    if isinstance(value, _PLAIN) or is_array(value):
        yield path, value
    elif isinstance(value, np.random.Generator):
        yield path, repr(value.bit_generator.state)
    elif id(value) in seen or isinstance(value, _OPAQUE):
        return
    else:
        if isinstance(value, dict):
            parts = [(f"{path}[{key!r}]", part) for key, part in value.items()]
        elif isinstance(value, (list, tuple)):
            parts = [(f"{path}[{i}]", part) for i, part in enumerate(value)]
        else:
            parts = [(f"{path}.{key}", part) for key, part in _attributes(value).items()]
        for name, part in parts:
            yield from leaves(part, name, (*seen, id(value)))


def _attributes(value: Any) -> dict[str, Any]:
    if hasattr(value, "__dict__"):
        return vars(value)
    names = [n for c in type(value).__mro__ for n in getattr(c, "__slots__", ())]
    return {name: getattr(value, name) for name in names if hasattr(value, name)}


def to_host(array: Any) -> np.ndarray:
    """Return the array in host memory."""
    return array if isinstance(array, np.ndarray) else Backend.of(array).to_numpy(array)


def _key(leaf: Any) -> tuple[Any, ...]:
    """Equal for two leaves if and only if they have the same type, shape and bits."""
    if is_array(leaf):
        host = to_host(leaf)
        return type(leaf), str(leaf.dtype), host.shape, host.tobytes()
    if isinstance(leaf, (float, complex, np.generic)):
        return type(leaf), np.asarray(leaf).tobytes()
    return type(leaf), repr(leaf)


def snapshot(value: Any) -> dict[str, Any]:
    """Bits of everything inside `value`, by path."""
    return {path: _key(leaf) for path, leaf in leaves(value)}


def difference(a: Any, b: Any, *, ignore: tuple[str, ...] = ()) -> str | None:
    """Describe the first place where `a` and `b` do not have the same bits, ``None`` if none."""
    left, right = dict(leaves(a)), dict(leaves(b))
    for path in sorted({*left, *right}):
        if path in ignore:
            continue
        name = path or "the value"
        if path not in left or path not in right:
            return f"{name} is only in the {'first' if path in left else 'second'}"
        if _key(left[path]) != _key(right[path]):
            return f"{name} differs: {_brief(left[path], right[path])}"
    return None


def _brief(a: Any, b: Any) -> str:
    if is_array(a) and is_array(b) and a.shape == b.shape and a.dtype == b.dtype:
        x, y = to_host(a), to_host(b)
        if x.dtype.kind in "fc":
            with np.errstate(all="ignore"):
                return f"by up to {np.nanmax(np.abs(x - y), initial=0.0):.3e}"
        return f"in {np.count_nonzero(x != y)} places"
    return " and ".join(
        f"{v.dtype} array of shape {tuple(v.shape)}" if is_array(v) else repr(v) for v in (a, b)
    )


def map_arrays(value: Any, function: Callable[[Any], Any]) -> Any:
    """Rebuild `value` with `function` applied to every floating-point array in it."""
    if is_array(value):
        return function(value) if to_host(value).dtype.kind in "fc" else value
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(map_arrays(v, function) for v in value))
    if isinstance(value, (list, tuple)):
        return type(value)(map_arrays(v, function) for v in value)
    if isinstance(value, dict):
        return {key: map_arrays(v, function) for key, v in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [f.name for f in dataclasses.fields(value) if f.init]
        parts = {name: map_arrays(getattr(value, name), function) for name in names}
        return dataclasses.replace(value, **parts)
    return value


def flatten(value: Any) -> np.ndarray:
    """All floating-point arrays inside `value` in one float64 vector; other numbers are left."""
    parts: list[np.ndarray] = []
    map_arrays(value, lambda a: parts.append(np.ravel(to_host(a)).astype(np.float64)) or a)
    return np.concatenate(parts) if parts else np.empty(0)


def unflatten(like: Any, numbers: np.ndarray) -> Any:
    """Inverse of :func:`flatten`: `like` with other numbers in its arrays."""
    position = 0

    def take(array: Any) -> Any:
        nonlocal position
        host = to_host(array)
        part = numbers[position : position + host.size].reshape(host.shape).astype(host.dtype)
        position += host.size
        return Backend.of(array).asarray(part)

    return map_arrays(like, take)


def overwrite(value: Any) -> None:
    """Fill every writable floating-point array inside `value` with NaN."""
    for _, leaf in leaves(value):
        writable = not isinstance(leaf, np.ndarray) or leaf.flags.writeable
        if is_array(leaf) and to_host(leaf).dtype.kind in "fc" and writable:
            leaf[...] = float("nan")


def vector(x: Any) -> np.ndarray:
    """All numbers of a point in one float64 (or complex) vector."""
    x = x.to_dense() if hasattr(x, "to_dense") else x
    parts = [
        np.ravel(to_host(leaf) if is_array(leaf) else leaf)
        for _, leaf in leaves(x)
        if not isinstance(leaf, (type(None), str, bytes))
    ]
    out = np.concatenate(parts) if parts else np.empty(0)
    return out if out.dtype.kind == "c" else out.astype(np.float64)


def point_distance(x: Any, y: Any) -> float:
    """Relative Euclidean distance of two points of any form.

    Parameters
    ----------
    x, y : object
        Arrays of any supported library, or tuples, named tuples, dictionaries or dataclasses of
        arrays. Objects with ``to_dense()`` (low-rank matrices) are compared as dense matrices.

    Returns
    -------
    float
        ``|x - y| / max(|x|, |y|)``; ``inf`` when the numbers of entries differ.
    """
    a, b = vector(x), vector(y)
    if a.shape != b.shape:
        return float("inf")
    scale = max(np.linalg.norm(a), np.linalg.norm(b))
    return float(np.linalg.norm(a - b) / scale) if scale > 0 else 0.0
