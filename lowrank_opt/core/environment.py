"""What a measurement or a bug report must say about the machine and the installed versions."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

__all__ = ["Environment", "show_versions"]

_REQUIRED = ("numpy", "scipy", "numba", "scikit-learn", "cvxpy", "array-api-compat")
_OPTIONAL = (
    "pandas",
    "matplotlib",
    "rich",
    "pooch",
    "dask",
    "torch",
    "cupy-cuda12x",
    "cupy-cuda13x",
)


class Environment(Mapping[str, Mapping[str, Any]]):
    """Read-only report in sections; prints as a table, ``dict(report)`` holds JSON values only.

    Parameters
    ----------
    sections : mapping of str to mapping
        Values by section and name.
    """

    def __init__(self, sections: Mapping[str, Mapping[str, Any]]) -> None:
        self._sections = {title: dict(values) for title, values in sections.items()}

    def __getitem__(self, title: str) -> Mapping[str, Any]:
        return self._sections[title]

    def __iter__(self) -> Iterator[str]:
        return iter(self._sections)

    def __len__(self) -> int:
        return len(self._sections)

    def __repr__(self) -> str:
        width = max(len(name) for values in self._sections.values() for name in values)
        lines = []
        for title, values in self._sections.items():
            lines += [title, *(f"  {name:<{width}}  {value}" for name, value in values.items())]
        return "\n".join(lines)


def show_versions() -> Environment:
    """Report versions, processor, threads and linear-algebra libraries.

    Returns
    -------
    Environment
        A read-only mapping with the sections ``"system"``, ``"threads"``, ``"blas"`` and
        ``"packages"``, whose ``repr`` is the table to paste into a report. Packages are asked for
        their version without being imported, except numba and SciPy.

    Examples
    --------
    >>> import lowrank_opt
    >>> list(lowrank_opt.show_versions())
    ['system', 'threads', 'blas', 'packages']
    """
    from lowrank_opt import __version__

    packages = {"lowrank_opt": __version__}
    for name in (*_REQUIRED, *_OPTIONAL):
        try:
            packages[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            if name in _REQUIRED:
                packages[name] = "not installed"
    return Environment(
        {
            "system": {
                "python": sys.version.split()[0],
                "platform": platform.platform(),
                "processor": _processor(),
                "vector bits": _vector_bits(),
            },
            "threads": _threads(),
            "blas": _blas(),
            "packages": packages,
        }
    )


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(errors="replace").splitlines():
            if line.startswith(("model name", "Model")):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _vector_bits() -> int:
    """Widest vectors that numba's code generator may use on this processor."""
    import llvmlite.binding as llvm

    features: Mapping[str, bool] = llvm.get_host_cpu_features()
    for feature, bits in (("avx512f", 512), ("avx2", 256), ("avx", 256), ("sse2", 128)):
        if features.get(feature):
            return bits
    return 128 if features.get("neon") else 64


def _threads() -> dict[str, Any]:
    import numba

    # Linux: the cores that this process may use; elsewhere all of them.
    affinity = getattr(os, "sched_getaffinity", None)
    limits = {
        name: os.environ[name]
        for name in (
            "NUMBA_NUM_THREADS",
            "OMP_NUM_THREADS",
            "OPENBLAS_NUM_THREADS",
            "MKL_NUM_THREADS",
        )
        if name in os.environ
    }
    return {
        "cores": len(affinity(0)) if affinity else os.cpu_count(),
        "numba": numba.get_num_threads(),
        **limits,
    }


def _blas() -> dict[str, str]:
    # Imported so that the libraries which they bring are loaded, and can be asked.
    import numpy.linalg  # noqa: F401
    import scipy.linalg  # noqa: F401
    import threadpoolctl

    found = {}
    for library in threadpoolctl.threadpool_info():
        if library["user_api"] != "blas":
            continue
        path = library["filepath"]
        owner = next((name for name in ("numpy", "scipy") if f"{name}.libs" in path), "blas")
        architecture = f", {library['architecture']}" if "architecture" in library else ""
        found[owner] = (
            f"{library['internal_api']} {library['version']}{architecture}, "
            f"{library['num_threads']} threads"
        )
    return found
