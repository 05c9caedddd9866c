"""States and results as plain data: a JSON tree and named arrays, never pickle.

Arrays go into an ``.npz`` member each; everything else into one JSON text. Classes are written
by name and rebuilt only when they are registered here or are dataclasses, named tuples or
enumerations of this library, so that reading a file runs no code that the file chose.
"""

from __future__ import annotations

import dataclasses
import enum
import importlib
import json
import os
import secrets
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from lowrank_opt.core.errors import CheckpointError

__all__ = ["decode", "encode", "read_npz", "register_serializable", "write_npz"]

FORMAT = 1
_HEADER = "header"
_CLASSES: dict[str, type] = {}


def _name(cls: type) -> str:
    return f"{cls.__module__}:{cls.__qualname__}"


def register_serializable(cls: type) -> type:
    """Allow a class in checkpoints; usable as a decorator.

    Parameters
    ----------
    cls : type
        A dataclass, named tuple or enumeration; or any class with ``to_fields()`` and a class
        method ``from_fields(fields)``, which is its inverse.

    Returns
    -------
    type
        `cls` itself.
    """
    _CLASSES[_name(cls)] = cls
    return cls


def _find(name: str) -> type:
    if name in _CLASSES:
        return _CLASSES[name]
    module, _, qualname = name.partition(":")
    if module.split(".")[0] == "lowrank_opt":
        target: Any = importlib.import_module(module)
        for part in qualname.split("."):
            target = getattr(target, part)
        is_plain = isinstance(target, type) and (
            dataclasses.is_dataclass(target)
            or issubclass(target, enum.Enum)
            or (issubclass(target, tuple) and hasattr(target, "_fields"))
            or hasattr(target, "from_fields")
        )
        if is_plain:
            return target
    raise CheckpointError(
        f"the file holds an object of class {name}, which this process does not know: import the "
        "module that defines it, or call register_serializable on the class"
    )


def encode(value: Any, arrays: dict[str, np.ndarray]) -> Any:
    """Return a JSON tree for `value`; arrays are put into `arrays` and referred to by name."""
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, enum.Enum):
        return {"enum": _name(type(value)), "value": value.value}
    if type(value) in (int, float):
        return value
    if isinstance(value, np.generic):
        return {"scalar": encode(np.asarray(value), arrays)}
    if isinstance(value, np.ndarray):
        if value.dtype.hasobject:
            raise CheckpointError("arrays of Python objects cannot be stored; use numeric arrays")
        key = f"a{len(arrays)}"
        arrays[key] = value
        return {"array": key, "order": "C" if value.flags.c_contiguous else "F"}
    if isinstance(value, np.random.Generator):
        return {"generator": _plain(value.bit_generator.state)}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        fields = {k: encode(v, arrays) for k, v in zip(value._fields, value, strict=True)}
        return {"class": _name(type(value)), "fields": fields}
    if isinstance(value, (list, tuple)):
        return {type(value).__name__: [encode(v, arrays) for v in value]}
    if isinstance(value, dict):
        return {"dict": [[encode(k, arrays), encode(v, arrays)] for k, v in value.items()]}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        transient = getattr(value, "transient", ())
        fields = {
            f.name: encode(getattr(value, f.name), arrays)
            for f in dataclasses.fields(value)
            if f.init and f.name not in transient
        }
        return {"class": _name(type(value)), "fields": fields}
    if type(value) in _CLASSES.values() and hasattr(value, "to_fields"):
        fields = {k: encode(v, arrays) for k, v in value.to_fields().items()}
        return {"class": _name(type(value)), "fields": fields}
    if hasattr(value, "tocsr") and hasattr(value, "format"):
        return _encode_sparse(value, arrays)
    if hasattr(value, "__dlpack__"):
        from lowrank_opt.core.backend import Backend

        backend = Backend.of(value)
        return {"foreign": backend.name, "host": encode(backend.to_numpy(value), arrays)}
    raise CheckpointError(
        f"an object of type {type(value).__name__} cannot be stored; states and results hold "
        "arrays, scalars, strings, containers of those, and dataclasses"
    )


def _plain(value: Any) -> Any:
    """Bit-generator states hold arrays and huge integers; both as JSON."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, np.ndarray):
        return {"uint": [int(v) for v in value], "dtype": str(value.dtype)}
    return value.item() if isinstance(value, np.generic) else value


def _unplain(value: Any) -> Any:
    if isinstance(value, dict):
        if set(value) == {"uint", "dtype"}:
            return np.array(value["uint"], dtype=value["dtype"])
        return {k: _unplain(v) for k, v in value.items()}
    return value


def _encode_sparse(value: Any, arrays: dict[str, np.ndarray]) -> Any:
    value = value if value.format in ("csr", "csc") else value.tocsr()
    parts = {k: encode(getattr(value, k), arrays) for k in ("data", "indices", "indptr")}
    return {"sparse": value.format, "shape": list(value.shape), **parts}


def decode(tree: Any, arrays: Any) -> Any:
    """Inverse of :func:`encode`."""
    if not isinstance(tree, dict):
        return tree
    if "array" in tree:
        value = arrays[tree["array"]]
        return np.asfortranarray(value) if tree["order"] == "F" else value
    if "scalar" in tree:
        return decode(tree["scalar"], arrays)[()]
    if "enum" in tree:
        return _find(tree["enum"])(tree["value"])
    if "generator" in tree:
        state = _unplain(tree["generator"])
        bit_generator = getattr(np.random, state["bit_generator"])()
        bit_generator.state = state
        return np.random.Generator(bit_generator)
    if "list" in tree:
        return [decode(v, arrays) for v in tree["list"]]
    if "tuple" in tree:
        return tuple(decode(v, arrays) for v in tree["tuple"])
    if "dict" in tree:
        return {decode(k, arrays): decode(v, arrays) for k, v in tree["dict"]}
    if "sparse" in tree:
        import scipy.sparse

        cls = {"csr": scipy.sparse.csr_array, "csc": scipy.sparse.csc_array}[tree["sparse"]]
        parts = tuple(decode(tree[k], arrays) for k in ("data", "indices", "indptr"))
        return cls(parts, shape=tuple(tree["shape"]))
    if "foreign" in tree:
        from lowrank_opt.core.backend import Backend

        return Backend.named(tree["foreign"]).asarray(decode(tree["host"], arrays))
    cls = _find(tree["class"])
    fields = {k: decode(v, arrays) for k, v in tree["fields"].items()}
    return cls.from_fields(fields) if hasattr(cls, "from_fields") else cls(**fields)


def write_npz(path: str | os.PathLike[str], header: dict[str, Any], **trees: Any) -> Path:
    """Write `trees` and a JSON header to an ``.npz`` file, atomically.

    The file is written beside `path` and moved into place, so that a crash leaves the old one.
    """
    path = Path(path)
    arrays: dict[str, np.ndarray] = {}
    body = {name: encode(value, arrays) for name, value in trees.items()}
    text = json.dumps({"format": FORMAT, **header, "body": body})
    members: dict[str, Any] = {_HEADER: np.frombuffer(text.encode(), dtype=np.uint8), **arrays}
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("xb") as stream:
            np.savez(stream, **members)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return path


def read_npz(path: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read a file of :func:`write_npz`; return its header and the decoded trees.

    Raises
    ------
    CheckpointError
        If the file is damaged, of another kind, or of a newer format.
    """
    try:
        with Path(path).open("rb") as stream, zipfile.ZipFile(stream):
            stream.seek(0)
            archive = np.load(stream, allow_pickle=False)
            members = {name: archive[name] for name in archive.files}
        header = dict(json.loads(members.pop(_HEADER).tobytes().decode()))
    except (FileNotFoundError, PermissionError, IsADirectoryError):
        raise
    except (
        OSError,
        ValueError,
        TypeError,
        LookupError,
        EOFError,
        RuntimeError,
        zipfile.BadZipFile,
    ) as error:
        raise CheckpointError(
            f"{path} is damaged or was not written by lowrank_opt: {error}"
        ) from error
    if header.get("format") != FORMAT:
        raise CheckpointError(
            f"{path} has format {header.get('format')}, this version reads format {FORMAT}"
        )
    try:
        body = header.pop("body")
        return header, {name: decode(tree, members) for name, tree in body.items()}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(
            f"{path} does not fit this version of lowrank_opt or of the solver: {error!r}"
        ) from error
