"""Array libraries and devices.

A problem resolves its backend once, from the arrays it was given. Data never move between
libraries or devices silently: the result lives where the data live.
"""

from __future__ import annotations

import importlib
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np

from lowrank_opt.core.errors import MissingDependencyError, UnsupportedBackendError
from lowrank_opt.core.threads import compile_clock

__all__ = ["Backend", "register_kernels"]

_NAMES = ("numpy", "cupy", "torch", "array_api_strict")
_EXTRAS = {"cupy": "gpu-cuda12", "torch": "torch", "array_api_strict": "test"}
# (family, backend name) -> module with that family's implementation
_KERNELS: dict[tuple[str, str], str] = {}


def register_kernels(family: str, **modules: str) -> None:
    """Enter the modules that implement a family's kernels, by backend name.

    Parameters
    ----------
    family : str
        The family's folder name.
    **modules
        Backend name (``numpy``, ``cupy``, ``torch``, ``array_api_strict``) to import path.
    """
    for name, module in modules.items():
        _KERNELS[family, name] = module


def _library(array: Any) -> str | None:
    """Name the library of an array without importing any."""
    if isinstance(array, (np.ndarray, np.generic)):
        return "numpy"
    root = type(array).__module__.partition(".")[0]
    return root if root in _NAMES else None


@dataclass(frozen=True)
class Backend:
    """An array namespace on a device.

    Parameters
    ----------
    name : {"numpy", "cupy", "torch", "array_api_strict"}
        The library.
    device : str
        Where the arrays live, as text; ``"cpu"`` for host memory.
    """

    name: str = "numpy"
    device: str = "cpu"

    @classmethod
    def of(cls, *arrays: Any) -> Backend:
        """Return the backend of the arrays; lists, numbers and ``None`` count as numpy.

        Raises
        ------
        UnsupportedBackendError
            If libraries or devices are mixed, or a library is not supported.
        """
        found: set[Backend] = set()
        for array in arrays:
            if array is None or isinstance(array, (int, float, list, tuple)):
                continue
            name = _library(array)
            if name is None:
                if hasattr(array, "__array_namespace__") or hasattr(array, "__dlpack__"):
                    raise UnsupportedBackendError(
                        f"arrays of type {type(array).__module__}.{type(array).__name__} are not "
                        f"supported; use one of {', '.join(_NAMES)}"
                    )
                continue
            device = "cpu" if name == "numpy" else str(getattr(array, "device", "cpu"))
            found.add(cls(name, _plain_device(name, device)))
        if len(found) > 1:
            raise UnsupportedBackendError(
                "arrays of different libraries or devices were mixed: "
                + ", ".join(sorted(f"{b.name} on {b.device}" for b in found))
                + "; move them to one of these first"
            )
        return found.pop() if found else cls()

    @classmethod
    def named(cls, name: str) -> Backend:
        """Return the backend of a library on its default device."""
        if name not in _NAMES:
            raise UnsupportedBackendError(f"unknown array library {name!r}: {', '.join(_NAMES)}")
        backend = cls(name)
        return cls(name, "cuda:0") if name == "cupy" else backend

    @property
    def xp(self) -> Any:
        """The array-API namespace."""
        try:
            if self.name == "array_api_strict":
                return importlib.import_module("array_api_strict")
            return importlib.import_module(f"array_api_compat.{self.name}")
        except ImportError as error:
            raise MissingDependencyError(
                self.name, _EXTRAS.get(self.name, "all"), f"the {self.name} backend"
            ) from error

    def asarray(self, array: Any, dtype: Any = None) -> Any:
        """Return `array` in this library, on this device."""
        if self.name == "numpy":
            return np.asarray(array, dtype=dtype)
        xp = self.xp
        if self.name == "torch":
            return xp.asarray(array, dtype=dtype, device=self.device)
        return xp.asarray(array, dtype=dtype)

    def to_numpy(self, array: Any) -> np.ndarray:
        """Copy an array of this backend to host memory; an explicit move, never done silently."""
        if self.name == "cupy":
            return sys.modules["cupy"].asnumpy(array)
        if self.name == "torch":
            return array.detach().cpu().numpy()
        if self.name == "array_api_strict":
            return np.asarray(array._array)
        return np.asarray(array)

    def kernels(self, family: str) -> Any:
        """Return the module that implements a family's kernels for this library.

        Raises
        ------
        UnsupportedBackendError
            If the family has none; the message lists the libraries that work.
        """
        if (family, self.name) not in _KERNELS:
            works = sorted(name for fam, name in _KERNELS if fam == family)
            raise UnsupportedBackendError(
                f"{family} has no implementation for {self.name} arrays; it works with "
                f"{', '.join(works) or 'no library yet'}: convert the data first"
            )
        module = importlib.import_module(_KERNELS[family, self.name])
        compile_clock.install()  # the module may be the first to have imported numba
        return module


def _plain_device(name: str, device: str) -> str:
    if name == "array_api_strict":
        return "cpu" if "CPU" in device else device
    if name == "cupy":
        return "cuda:" + device.removeprefix("<CUDA Device ").removesuffix(">")
    return device
