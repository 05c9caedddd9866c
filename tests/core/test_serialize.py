from __future__ import annotations

import enum
import json
import os
import stat
import zipfile
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import array_api_strict
import numpy as np
import pytest
import scipy.sparse

from lowrank_opt.core import Certificate, CheckpointError, State, Status, register_serializable
from lowrank_opt.core.serialize import read_npz, write_npz
from lowrank_opt.testing._points import difference


@register_serializable
class Pair(NamedTuple):
    u: Any
    v: Any


@register_serializable
@dataclass
class Part:
    x: Any
    length: int = field(init=False, default=0)

    def __post_init__(self):
        self.length = len(self.x)


class Unknown(NamedTuple):
    u: Any


@register_serializable
class Color(enum.Enum):
    RED = "red"


def round_trip(tmp_path, value):
    path = write_npz(tmp_path / "f.npz", {"kind": "test"}, value=value)
    header, body = read_npz(path)
    assert header["kind"] == "test"
    return body["value"]


VALUES = [
    None, True, False, 0, -(2**70), 1.5, float("inf"), float("-inf"), "text \u00e9\n", "",
    np.float32(1.5), np.float64(0.1), np.int8(-3), np.bool_(True), np.complex64(1 + 2j),
    np.arange(6.0).reshape(2, 3), np.zeros((0, 3)), np.array(3.0), np.array([True, False]),
    np.array([1 + 2j]), np.array(["a", "bc"]), np.array(["2024-01-01"], dtype="datetime64[D]"),
    np.arange(4, dtype=np.float16), np.arange(4, dtype=">f8"),
    [1, [2.0, None]], (1, ("a",)), [], (), {}, {"a": {"b": (1, 2)}}, {1: "x", (2, 3): np.ones(2)},
    Pair(np.ones(2), [1]), Part(np.arange(3)), Status.STALLED, Color.RED,
    Certificate(1e-7, "gap", -2.0, gap=0.5, details={"a": 1.0}),
    State(x=np.ones(3), nit=4, counts={"passes": 2}, rng=np.random.default_rng(1)),
]  # fmt: skip


@pytest.mark.parametrize("value", VALUES, ids=lambda v: f"{type(v).__name__}")
def test_round_trip_keeps_every_bit(tmp_path, value):
    again = round_trip(tmp_path, value)
    assert type(again) is type(value)
    assert difference(again, value) is None


def test_nan_and_negative_zero(tmp_path):
    again = round_trip(tmp_path, {"a": float("nan"), "b": -0.0, "c": np.array([np.nan, -0.0])})
    assert np.isnan(again["a"])
    assert np.signbit(again["b"])
    assert np.signbit(again["c"][1])


def test_memory_order_is_kept(tmp_path):
    A = np.asfortranarray(np.arange(6.0).reshape(2, 3))
    again = round_trip(tmp_path, {"F": A, "C": A.copy("C"), "view": np.arange(10.0)[::2]})
    assert again["F"].flags.f_contiguous
    assert not again["F"].flags.c_contiguous
    assert again["C"].flags.c_contiguous
    np.testing.assert_array_equal(again["view"], [0, 2, 4, 6, 8])


@pytest.mark.parametrize("bits", ["PCG64", "PCG64DXSM", "MT19937", "Philox", "SFC64"])
def test_generators_go_on_with_the_same_numbers(tmp_path, bits):
    rng = np.random.Generator(getattr(np.random, bits)(7))
    rng.standard_normal(3)
    rng.integers(0, 10, 3, dtype=np.int32)  # leaves half a word in the generator
    again = round_trip(tmp_path, rng)
    np.testing.assert_array_equal(
        again.integers(0, 10, 5, dtype=np.int32), rng.integers(0, 10, 5, dtype=np.int32)
    )
    np.testing.assert_array_equal(again.standard_normal(5), rng.standard_normal(5))


@pytest.mark.parametrize("form", ["csr_array", "csc_array", "csr_matrix", "coo_array"])
def test_sparse_matrices(tmp_path, form):
    A = getattr(scipy.sparse, form)(np.array([[1.0, 0.0], [2.0, 3.0]], dtype=np.float32))
    again = round_trip(tmp_path, A)
    assert again.format == ("csc" if "csc" in form else "csr")
    assert again.dtype == np.float32
    np.testing.assert_array_equal(again.toarray(), A.toarray())


def test_arrays_of_other_libraries_come_back_in_their_library(tmp_path):
    x = array_api_strict.asarray([1.0, 2.0])
    again = round_trip(tmp_path, (x,))[0]
    assert type(again) is type(x)
    assert bool(array_api_strict.all(again == x))


@pytest.mark.parametrize(
    ("value", "match"),
    [
        ({1, 2}, "set"),
        (lambda: None, "function"),
        (np.array([object()]), "Python objects"),
        (b"bytes", "bytes"),
        (object(), "object"),
    ],
)
def test_what_cannot_be_stored_is_refused_and_leaves_no_file(tmp_path, value, match):
    with pytest.raises(CheckpointError, match=match):
        write_npz(tmp_path / "f.npz", {}, value=value)
    assert list(tmp_path.iterdir()) == []


def test_unknown_classes_are_not_built(tmp_path):
    path = write_npz(tmp_path / "f.npz", {}, value=Unknown(1))
    with pytest.raises(CheckpointError, match=r"Unknown, which this process does not know.*regist"):
        read_npz(path)


@pytest.mark.parametrize(
    "name", ["os:system", "lowrank_opt.core.params:make_rng", "lowrank_opt.core.threads:threading"]
)
def test_a_file_cannot_choose_code_to_run(tmp_path, name):
    path = write_npz(tmp_path / "f.npz", {}, value=Pair(1, 2))
    with np.load(path) as archive:
        header = json.loads(archive["header"].tobytes())
    header["body"]["value"]["class"] = name
    np.savez(path, header=np.frombuffer(json.dumps(header).encode(), dtype=np.uint8))
    with pytest.raises(CheckpointError, match="does not know"):
        read_npz(path)


def test_fields_that_are_not_arguments_or_transient_are_left_out(tmp_path):
    state = State(x=np.ones(2), cache=object())
    assert round_trip(tmp_path, state).cache is None


def damaged_files(path):
    whole = path.read_bytes()
    yield "empty", b""
    yield "text", b"hello world"
    yield "truncated", whole[: len(whole) // 2]
    yield "last byte missing", whole[:-1]
    plain = path.with_name("plain.npy")
    np.save(plain, np.ones(3))
    yield "a plain array", plain.read_bytes()


def test_damaged_files_are_refused(tmp_path):
    path = write_npz(tmp_path / "f.npz", {}, value=np.arange(1000.0))
    for name, content in damaged_files(path):
        other = tmp_path / "damaged.npz"
        other.write_bytes(content)
        with pytest.raises(CheckpointError, match=r"damaged\.npz"):
            pytest.fail(f"{name}: {read_npz(other)}")


def test_no_flipped_byte_goes_unnoticed(tmp_path):
    value = {"x": np.arange(5.0), "n": 3}
    whole = write_npz(tmp_path / "f.npz", {}, value=value).read_bytes()
    path, harmless = tmp_path / "damaged.npz", 0
    for i in range(0, len(whole), 3):
        path.write_bytes(whole[:i] + bytes([whole[i] ^ 0x55]) + whole[i + 1 :])
        try:
            found = read_npz(path)[1]["value"]
        except CheckpointError:
            continue
        harmless += 1  # times, comments and copies of fields in the archive's directory
        assert difference(found, value) is None, f"byte {i}"
    assert harmless < len(whole) // 12


def write_members(path, header, **arrays):
    np.savez(path, header=np.frombuffer(json.dumps(header).encode(), dtype=np.uint8), **arrays)
    return path


@pytest.mark.parametrize(
    ("header", "match"),
    [
        ({"format": 99, "body": {}}, "format 99, this version reads format 1"),
        ({}, "format None"),
        ([1], r"f\.npz"),
        ({"format": 1}, "does not fit"),
        ({"format": 1, "body": {"value": {"array": "a7", "order": "C"}}}, "does not fit"),
        ({"format": 1, "body": {"value": {"strange": 1}}}, "does not fit"),
        (
            {"format": 1, "body": {"value": {
                "class": "lowrank_opt.core.state:State", "fields": {"nope": 1}}}},
            "does not fit.*nope",
        ),
    ],
)  # fmt: skip
def test_files_with_other_contents_are_refused(tmp_path, header, match):
    path = write_members(tmp_path / "f.npz", header)
    with pytest.raises(CheckpointError, match=match):
        read_npz(path)


def test_archive_of_other_arrays_is_refused(tmp_path):
    np.savez(tmp_path / "f.npz", x=np.ones(3))
    with pytest.raises(CheckpointError, match="not written by lowrank_opt"):
        read_npz(tmp_path / "f.npz")


def test_pickled_arrays_are_not_loaded(tmp_path):
    np.savez(tmp_path / "f.npz", x=np.array([print], dtype=object))
    with pytest.raises(CheckpointError):
        read_npz(tmp_path / "f.npz")


def test_a_missing_file_is_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_npz(tmp_path / "f.npz")


def test_a_crash_while_writing_leaves_the_old_file(tmp_path, monkeypatch):
    path = write_npz(tmp_path / "f.npz", {}, value="old")

    def crash(stream, **members):
        stream.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(np, "savez", crash)
    with pytest.raises(OSError, match="disk full"):
        write_npz(path, {}, value="new")
    assert read_npz(path)[1]["value"] == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(os.name != "posix", reason="permissions are those of POSIX")
def test_files_get_the_usual_permissions(tmp_path):
    path = write_npz(tmp_path / "f.npz", {}, value=1)
    usual = tmp_path / "usual"
    usual.touch()
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(usual.stat().st_mode)


def test_the_file_holds_plain_arrays(tmp_path):
    path = write_npz(tmp_path / "f.npz", {"kind": "k"}, value=(np.ones(2), "x"))
    with zipfile.ZipFile(path) as archive:
        assert set(archive.namelist()) == {"header.npy", "a0.npy"}
    with np.load(path, allow_pickle=False) as archive:
        np.testing.assert_array_equal(archive["a0"], [1.0, 1.0])
