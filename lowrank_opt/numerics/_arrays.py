"""What the public functions do to their arguments: array library, dtype, finiteness."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from lowrank_opt.core.errors import (
    ParameterError,
    ProblemError,
    ProblemTypeError,
    UnsupportedBackendError,
)

NumpyLike = (np.ndarray, np.generic, float, int, list, tuple)


def namespace(*arrays: Any) -> Any:
    """Array-API namespace of the arrays; numpy itself for numpy arrays and Python scalars.

    numpy is not wrapped: array_api_compat.numpy imports all of numpy, which takes 0.3 s.
    """
    foreign = [a for a in arrays if not isinstance(a, NumpyLike) and a is not None]
    if not foreign:
        return np
    import array_api_compat

    try:
        return array_api_compat.array_namespace(
            *(a for a in arrays if not isinstance(a, (float, int, list, tuple)) and a is not None)
        )
    except TypeError as error:
        kinds = sorted({type(a).__module__.partition(".")[0] for a in arrays})
        raise UnsupportedBackendError(
            f"arrays of one call must come from one array library, got {', '.join(kinds)}; "
            "convert them first"
        ) from error


def real_array(name: str, x: Any, *, finite: bool = True, like: Any = None) -> tuple[Any, Any]:
    """Return `x` as a real floating array and its namespace; never a copy of a good array.

    Parameters
    ----------
    name : str
        Name of the argument in messages.
    x : array-like
        Integers and booleans become float64, float16 becomes float32.
    finite : bool, default=True
        Whether NaN and infinity are errors; otherwise only NaN is.
    like : array, optional
        Array whose library, dtype and device the result must have.

    Returns
    -------
    array, namespace
    """
    if like is not None:
        xp = namespace(like) if isinstance(x, NumpyLike) else namespace(like, x)
        if xp is not np:
            if isinstance(x, np.ndarray):
                namespace(like, x)  # raises: numpy data do not move to another library silently
            x = xp.asarray(x, dtype=like.dtype, device=device(like))
            _check_finite(name, x, xp, finite)
            return x, xp
    xp = _own_namespace(x)
    if xp is not np:
        if not xp.isdtype(x.dtype, "real floating"):
            if xp.isdtype(x.dtype, ("bool", "integral")):
                x = xp.astype(x, xp.float64)
            else:
                raise ProblemTypeError(f"{name} has dtype {x.dtype}; real numbers are needed")
        elif "float16" in str(x.dtype):  # bfloat16 too
            x = xp.astype(x, xp.float32)
    else:
        x = numpy_real(name, x)
        if like is not None and x.dtype != like.dtype:
            x = x.astype(like.dtype)
    _check_finite(name, x, xp, finite)
    return x, xp


def sparse_matrix(name: str, A: Any) -> Any:
    """Return a scipy sparse matrix as a real, finite csr_array; never a copy of a good one."""
    from scipy import sparse

    if A.ndim != 2:
        raise ProblemError(f"{name} has shape {A.shape}; a sparse matrix (n, d) is needed")
    A = sparse.csr_array(A)
    data, _ = real_array(f"{name}.data", A.data)
    if data is A.data:
        return A
    return sparse.csr_array((data, A.indices, A.indptr), shape=A.shape)


def kernel_input(x: np.ndarray) -> np.ndarray:
    """Return `x` C-ordered; a copy of a read-only array, for which numba compiles everything anew.

    The kernels do not write to it.
    """
    x = np.ascontiguousarray(x)
    return x if x.flags.writeable else x.copy()


def _own_namespace(x: Any) -> Any:
    if isinstance(x, NumpyLike):
        return np
    import array_api_compat

    if array_api_compat.is_array_api_obj(x) and not array_api_compat.is_numpy_array(x):
        return array_api_compat.array_namespace(x)
    return np


def device(x: Any) -> Any:
    """Device of an array, as its library names it."""
    import array_api_compat

    return array_api_compat.device(x)


def numpy_real(name: str, x: Any) -> np.ndarray:
    """Return `x` as a real floating NumPy array, without a look at its values."""
    if hasattr(x, "tocsr") or isinstance(x, np.ma.MaskedArray):
        raise ProblemTypeError(
            f"{name} is a {type(x).__name__}; a dense array without mask is needed: "
            "use .toarray() or .filled()"
        )
    try:
        x = np.asarray(x)
    except ValueError as error:  # ragged lists
        raise ProblemTypeError(f"{name} is not a rectangular array of numbers") from error
    kind = x.dtype.kind
    if kind in "biu":
        return x.astype(np.float64)
    if kind != "f":
        raise ProblemTypeError(
            f"{name} has dtype {x.dtype}; real numbers are needed: convert with astype(float)"
        )
    target = {2: np.float32, 4: np.float32}.get(x.dtype.itemsize, np.float64)
    return x if x.dtype == target and x.dtype.isnative else x.astype(target)


def _check_finite(name: str, x: Any, xp: Any, finite: bool) -> None:
    if not finite:
        bad = xp.isnan(x)
        if bool(xp.any(bad)):
            raise ProblemError(f"{name}{_first(bad, xp)} is NaN; numbers are needed")
        return
    if xp is np:
        # A sum with a NaN or an infinity in it is never finite; the converse needs the slow look.
        with np.errstate(all="ignore"):
            if math.isfinite(np.add.reduce(x, axis=None)):
                return
    bad = ~xp.isfinite(x)
    if bool(xp.any(bad)):
        raise ProblemError(
            f"{name}{_first(bad, xp)} is NaN or infinite; finite numbers are needed: "
            "clean the data first"
        )


def _first(bad: Any, xp: Any) -> str:
    if bad.ndim == 0:
        return ""
    flat = int(xp.argmax(xp.astype(xp.reshape(bad, (-1,)), xp.int32)))
    return str([int(i) for i in np.unravel_index(flat, bad.shape)])


def scalar(name: str, value: Any, *, low: float = -math.inf, strict: bool = False) -> float:
    """Return a finite Python float, at least `low` (above it if `strict`)."""
    try:
        number = float(value)
    except (TypeError, ValueError) as error:
        raise ParameterError(f"{name} is {value!r}; a number is needed") from error
    if not math.isfinite(number) or number < low or (strict and number == low):
        bound = "" if low == -math.inf else f" {'>' if strict else '>='} {low:g}"
        raise ParameterError(f"{name} is {number}; a finite number{bound} is needed")
    return number


def count(name: str, value: Any, low: int, high: int | None = None) -> int:
    """Return an int in [low, high]; booleans and fractions are errors."""
    try:
        number = int(value)
        good = number == value and not isinstance(value, (bool, np.bool_))
    except (TypeError, ValueError, OverflowError):
        good = False
    if not good or number < low or (high is not None and number > high):
        upper = "" if high is None else f" and <= {high}"
        raise ParameterError(f"{name} is {value!r}; an integer >= {low}{upper} is needed")
    return number


def generator(random_state: Any) -> np.random.Generator:
    """Return a Generator from a seed, a Generator or None."""
    if isinstance(random_state, np.random.RandomState):
        random_state = random_state.randint(0, 2**31 - 1, size=4)
    try:
        return np.random.default_rng(random_state)
    except (TypeError, ValueError) as error:
        raise ParameterError(
            f"random_state is {random_state!r}; None, a non-negative integer or a "
            "numpy.random.Generator is needed"
        ) from error
