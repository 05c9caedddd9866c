"""Networks from files: weight lists in ``.npz`` and ``.mat``, and the ``.nnet`` text format.

Names that weight lists may use, for mappings in memory as well:

- ``weights`` (a cell array of MATLAB, an object array, or one array of three dimensions with a
  matrix for each layer) with or without ``biases`` of the same length;
- ``arr_0, arr_1, ...`` (what ``numpy.savez`` gives to arrays without a name): matrices, each
  followed by its bias or not;
- a number and a word for each array: ``W1, b1, W2, ...``, ``weight_0``, ``fc1.weight`` and
  ``fc1.bias``, ``layers.2.kernel``; sorted by the numbers. Words for weights: w, weight, weights,
  kernel; for biases: b, bias, biases.

All weights have the shape (n_out, n_in); an orientation is never guessed.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

from lowrank_opt.core.errors import ProblemError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["read_nnet", "read_weights", "weights_of_mapping"]

_WEIGHT_WORDS = ("w", "weight", "weights", "kernel")
_BIAS_WORDS = ("b", "bias", "biases")
_NAMES = (
    "expected 'weights' (and 'biases'), arr_0, arr_1, ..., or numbered names such as W1, b1 or "
    "fc1.weight, fc1.bias"
)


def read_weights(path: str | Path) -> list[tuple[Any, Any]]:
    """Read a ``.npz`` or ``.mat`` weight list.

    Parameters
    ----------
    path : str or Path
        A file with names as this module lists them. Files that need pickle are refused, because
        loading one can run any program.

    Returns
    -------
    list of (weight, bias)
        The bias is ``None`` where the file has none.
    """
    path = Path(path)
    if not path.is_file():
        raise ProblemError(f"network: there is no file {str(path)!r}; give the path of a model")
    arrays = _read_npz(path) if path.suffix.lower() == ".npz" else _read_mat(path)
    try:
        return weights_of_mapping(arrays)
    except ProblemError as error:
        raise type(error)(f"{error} (file {str(path)!r})") from error


def _read_npz(path: Path) -> dict[str, Any]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except ValueError as error:
        if "allow_pickle" not in str(error):
            raise ProblemError(f"network: {str(path)!r} is not a .npz archive: {error}") from error
        raise ProblemError(
            f"network: {str(path)!r} has an object array, which needs pickle and can run any "
            "program; save the arrays one by one: numpy.savez(path, *weights)"
        ) from error
    except (OSError, KeyError, EOFError, AttributeError, TypeError) as error:
        raise ProblemError(f"network: {str(path)!r} is not a .npz archive: {error}") from error


def _read_mat(path: Path) -> dict[str, Any]:
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    try:
        content = loadmat(path)
    except NotImplementedError as error:
        raise ProblemError(
            f"network: {str(path)!r} is a MATLAB file of version 7.3; save it with the option -v7"
        ) from error
    except (ValueError, MatReadError, OSError) as error:
        raise ProblemError(f"network: {str(path)!r} is not a MATLAB file: {error}") from error
    return {k: v for k, v in content.items() if not k.startswith("__")}


def weights_of_mapping(arrays: Mapping[str, Any]) -> list[tuple[Any, Any]]:
    """Sort named arrays into layers.

    Parameters
    ----------
    arrays : mapping of str to array
        With names as this module lists them.

    Returns
    -------
    list of (weight, bias)
    """
    if not arrays:
        raise ProblemError(f"network: there are no arrays; {_NAMES}")
    if not all(isinstance(name, str) for name in arrays):
        raise ProblemError(f"network: the names of arrays must be strings; {_NAMES}")
    for words, others in (("weights", "biases"), ("Weights", "Biases"), ("W", "b")):
        if words in arrays and set(arrays) <= {words, others}:
            weights = _cells(arrays[words], matrices=True)
            biases: list[Any] = [None] * len(weights)
            if others in arrays:
                biases = _cells(arrays[others], matrices=False)
                if len(biases) != len(weights):
                    raise ProblemError(
                        f"network: {len(weights)} {words} and {len(biases)} {others}; expected "
                        "as many"
                    )
            return list(zip(weights, biases, strict=True))
    if all(re.fullmatch(r"arr_\d+", name) for name in arrays):
        ordered = [arrays[name] for name in sorted(arrays, key=lambda n: int(n[4:]))]
        return _alternating(ordered)
    return _numbered(arrays)


def _cells(value: Any, *, matrices: bool) -> list[Any]:
    """Entries of a cell array, of an object array or of a list; slices of a stack."""
    if sp.issparse(value):
        return [value]
    if isinstance(value, (list, tuple)):
        return list(value)
    array = np.asarray(value)
    if array.dtype == object:
        return [c if sp.issparse(c) else np.asarray(c) for c in array.ravel()]
    # A stack of equal shapes: matrices in three dimensions, biases in two or (as columns) three.
    if array.ndim == 3:
        return list(array)
    return [array] if matrices or array.ndim == 1 else list(array)


def _is_bias(array: Any) -> bool:
    return not sp.issparse(array) and np.ndim(array) == 1


def _alternating(arrays: list[Any]) -> list[tuple[Any, Any]]:
    layers: list[tuple[Any, Any]] = []
    for k, array in enumerate(arrays):
        if not _is_bias(array):
            layers.append((array, None))
        elif layers and layers[-1][1] is None:
            layers[-1] = (layers[-1][0], array)
        else:
            raise ProblemError(
                f"network: array {k} has one dimension, but follows no weight; expected matrices, "
                "each followed by its bias or not"
            )
    return layers


def _numbered(arrays: Mapping[str, Any]) -> list[tuple[Any, Any]]:
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for name, array in arrays.items():
        words = [w.lower() for w in re.findall(r"[A-Za-z]+", name)]
        numbers = tuple(int(n) for n in re.findall(r"\d+", name))
        kind = next(
            (
                k
                for k, known in (("weight", _WEIGHT_WORDS), ("bias", _BIAS_WORDS))
                if words and (words[-1] in known or (len(words) > 1 and words[0] in known))
            ),
            None,
        )
        if kind is None or not numbers:
            raise ProblemError(f"network: the array {name!r} is not understood; {_NAMES}")
        layer = found.setdefault(numbers, {})
        if kind in layer:
            raise ProblemError(
                f"network: two arrays are the {kind} of layer {'.'.join(map(str, numbers))}; "
                f"{_NAMES}"
            )
        layer[kind] = array
    out = []
    for numbers in sorted(found):
        layer = found[numbers]
        if "weight" not in layer:
            raise ProblemError(
                f"network: layer {'.'.join(map(str, numbers))} has a bias but no weight; {_NAMES}"
            )
        out.append((layer["weight"], layer.get("bias")))
    return out


def read_nnet(path: str | Path, *, normalize: bool = True) -> list[tuple[Any, Any]]:
    """Read a network in the ``.nnet`` text format.

    Parameters
    ----------
    path : str or Path
    normalize : bool, default=True
        Whether the file's normalisation of inputs, ``(x - mean) / range``, and of outputs,
        ``range * y + mean``, becomes part of the first and the last map, so that the network
        takes and returns values in the units of the data. Clipping of inputs to their minima and
        maxima is left out; as a projection onto a box it cannot raise a Lipschitz constant.

    Returns
    -------
    list of (weight, bias)
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ProblemError(f"network: {str(path)!r} cannot be read: {error}") from error
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("//")]
    rows = iter(enumerate(lines))

    def numbers(what: str, count: int | None = None) -> np.ndarray:
        try:
            k, line = next(rows)
            values = np.array([float(v) for v in line.split(",") if v.strip()])
        except StopIteration:
            raise ProblemError(
                f"network: {str(path)!r} ends before {what}; is the file complete?"
            ) from None
        except ValueError as error:
            raise ProblemError(
                f"network: {str(path)!r}: {what} has an entry that is no number: {error}"
            ) from error
        if count is not None and values.size != count:
            raise ProblemError(
                f"network: {str(path)!r}: {what} has {values.size} entries in line {k} without "
                f"comments; expected {count}"
            )
        return values

    head = numbers("the sizes (layers, inputs, outputs, widest layer)")
    n_layers = int(head[0]) if head.size else 0
    if n_layers < 1:
        raise ProblemError(f"network: {str(path)!r} declares no layers; expected at least one")
    sizes = numbers("the sizes of the layers", n_layers + 1).astype(int)
    numbers("the flag")
    numbers("the minima of inputs")
    numbers("the maxima of inputs")
    means = numbers("the means", sizes[0] + 1)
    ranges = numbers("the ranges", sizes[0] + 1)
    layers = []
    for k in range(n_layers):
        W = np.stack([numbers(f"a row of weight {k}", sizes[k]) for _ in range(sizes[k + 1])])
        b = np.array([numbers(f"a bias of layer {k}", 1)[0] for _ in range(sizes[k + 1])])
        layers.append((W, b))
    if normalize:
        if np.any(ranges == 0):
            raise ProblemError(f"network: {str(path)!r} has a range of zero")
        W, b = layers[0]
        layers[0] = (W / ranges[:-1], b - W @ (means[:-1] / ranges[:-1]))
        W, b = layers[-1]
        layers[-1] = (W * ranges[-1], b * ranges[-1] + means[-1])
    return layers
