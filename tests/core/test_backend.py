from __future__ import annotations

import sys
import types

import array_api_strict
import numpy as np
import pytest
import scipy.sparse

from lowrank_opt.core import Backend, MissingDependencyError, UnsupportedBackendError
from lowrank_opt.core import backend as module
from lowrank_opt.core.threads import compile_clock


class Device:
    def __init__(self, number):
        self.number = number

    def __str__(self):
        return f"<CUDA Device {self.number}>"


class FakeCupy:
    """Looks like a CuPy array to code that must not import CuPy."""

    def __init__(self, device=0):
        self.device = Device(device)

    def __dlpack__(self):
        raise AssertionError("nobody may move it")


FakeCupy.__module__ = "cupy"


class FakeJax:
    def __array_namespace__(self):
        raise AssertionError("nobody may ask")


FakeJax.__module__ = "jax.array"


@pytest.mark.parametrize(
    "arrays",
    [(), (None,), ([1.0],), (3, 2.5), (np.ones(2),), (np.float32(1), None, np.ones(1), (1,)),
     (scipy.sparse.csr_array(np.eye(2)),), (np.ma.masked_array([1.0]),)],
)  # fmt: skip
def test_numpy_and_python_values(arrays):
    assert Backend.of(*arrays) == Backend("numpy", "cpu")


def test_other_libraries(xp):
    backend = Backend.of(xp.asarray([1.0, 2.0]), None, 3.0)
    assert backend.name in xp.__name__
    x = backend.asarray([1.0, 2.0])
    assert Backend.of(x) == backend
    np.testing.assert_array_equal(backend.to_numpy(x), [1.0, 2.0])
    assert backend.to_numpy(backend.xp.sum(x)) == 3.0
    assert Backend.of(backend.asarray([1, 2], dtype=xp.float32)) == backend


def test_asarray_sets_the_dtype(xp):
    backend = Backend.of(xp.asarray(1.0))
    assert backend.to_numpy(backend.asarray([1, 2], dtype=xp.float32)).dtype == np.float32


def test_arrays_on_an_accelerator_are_recognised_without_importing_anything(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    assert Backend.of(FakeCupy(0)) == Backend("cupy", "cuda:0") == Backend.named("cupy")
    with pytest.raises(UnsupportedBackendError, match="cupy on cuda:0, cupy on cuda:1"):
        Backend.of(FakeCupy(0), FakeCupy(1))


def test_mixing_libraries_is_refused():
    with pytest.raises(
        UnsupportedBackendError, match=r"mixed: cupy on cuda:0, numpy on cpu; move them"
    ):
        Backend.of(FakeCupy(), np.ones(1))
    with pytest.raises(UnsupportedBackendError, match="array_api_strict on cpu, numpy on cpu"):
        Backend.of(np.ones(1), array_api_strict.ones(1))


def test_other_devices_of_one_library_are_seen():
    device = array_api_strict.Device("device1")
    x = array_api_strict.ones(1, device=device)
    assert "device1" in Backend.of(x).device
    with pytest.raises(UnsupportedBackendError, match="mixed"):
        Backend.of(x, array_api_strict.ones(1))


def test_unknown_libraries_are_refused():
    with pytest.raises(UnsupportedBackendError, match=r"jax\.array\.FakeJax are not supported"):
        Backend.of(FakeJax())
    with pytest.raises(UnsupportedBackendError, match="unknown array library 'jax'"):
        Backend.named("jax")


def test_a_library_that_is_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    monkeypatch.setitem(sys.modules, "array_api_compat.cupy", None)
    with pytest.raises(MissingDependencyError, match=r"cupy.*lowrank_opt\[gpu-cuda12\]"):
        _ = Backend("cupy", "cuda:0").xp


def test_kernels_are_looked_up_by_family_and_library(monkeypatch):
    monkeypatch.setattr(module, "_KERNELS", {})
    module.register_kernels("family", numpy="math", array_api_strict="cmath")
    assert Backend("numpy").kernels("family").__name__ == "math"
    assert Backend("array_api_strict").kernels("family").__name__ == "cmath"
    with pytest.raises(
        UnsupportedBackendError,
        match="family has no implementation for torch arrays; it works with array_api_strict, num",
    ):
        Backend("torch").kernels("family")
    with pytest.raises(UnsupportedBackendError, match="no library yet"):
        Backend("numpy").kernels("other")


def test_kernels_that_import_numba_are_clocked(monkeypatch):
    """Numba may be imported during the run: the clock must start to listen at once."""
    installed = []
    monkeypatch.setattr(module, "_KERNELS", {("family", "numpy"): "math"})
    monkeypatch.setattr(compile_clock, "install", lambda: installed.append(1))
    Backend("numpy").kernels("family")
    assert installed == [1]


def test_backends_are_values():
    assert len({Backend(), Backend("numpy", "cpu"), Backend("torch", "cpu")}) == 2
    assert isinstance(array_api_strict, types.ModuleType)
