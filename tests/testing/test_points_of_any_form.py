from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pytest
import scipy.sparse

from lowrank_opt.testing import point_distance
from lowrank_opt.testing._points import difference, flatten, leaves, map_arrays, unflatten


class Pair(NamedTuple):
    u: Any
    v: Any


@dataclass(frozen=True)
class Factors:
    U: np.ndarray
    V: np.ndarray
    offset: float = 0.0
    bias: np.ndarray | None = None

    def to_dense(self):
        return self.U @ self.V.T + self.offset


def test_distance_of_arrays_tuples_and_numbers():
    x = np.array([3.0, 4.0])
    assert point_distance(x, x) == 0.0
    assert point_distance(np.array([3.0, 4.0 + 5e-3]), x) == pytest.approx(1e-3, rel=1e-3)
    assert point_distance((x, 1.0), (x, 2.0)) == pytest.approx(1.0 / np.sqrt(29.0))
    assert point_distance(Pair(x, x), Pair(x, 2 * x)) == pytest.approx(1.0 / np.sqrt(5.0))
    assert point_distance(x, np.ones(3)) == np.inf
    assert point_distance(np.zeros(2), np.zeros(2)) == 0.0
    assert point_distance({"a": 1j}, {"a": 1j}) == 0.0


def test_distance_of_low_rank_matrices_ignores_the_choice_of_factors():
    rng = np.random.default_rng(0)
    U, V = rng.standard_normal((4, 2)), rng.standard_normal((3, 2))
    R = np.array([[2.0, 1.0], [0.0, 0.5]])
    turned = Factors(U @ R, V @ np.linalg.inv(R).T)
    assert point_distance(Factors(U, V), turned) < 1e-14
    assert point_distance(Factors(U, V), Factors(1.1 * U, V)) > 0.05


def test_difference_sees_bits_types_and_structure():
    x = np.array([0.0, np.nan])
    assert difference(x, x.copy()) is None
    assert "differs" in difference(np.array([0.0]), np.array([-0.0]))
    assert "float32" in difference(np.ones(1, "f4"), np.ones(1))
    assert difference({"a": 1}, {"a": 1.0}) == "['a'] differs: 1 and 1.0"
    assert difference([1], [1, 2]) == "[1] is only in the second"
    assert difference({"a": 1, "t": 1}, {"a": 1, "t": 2}, ignore=("['t']",)) is None
    assert "2 places" in difference(np.array([1, 2, 3]), np.array([1, 3, 2]))
    a, b = np.random.default_rng(0), np.random.default_rng(0)
    assert difference(a, b) is None
    b.random()
    assert difference(a, b) is not None


def test_difference_looks_into_sparse_matrices_and_dataclasses():
    A = scipy.sparse.csr_array(np.diag([1.0, 2.0]))
    B = A.copy()
    assert difference(A, B) is None
    B.data[1] = 3.0
    assert ".data" in difference(A, B)
    one, two = (Factors(np.ones((2, 1)), np.full((2, 1), v)) for v in (1.0, 2.0))
    assert difference(one, two).startswith(".V differs: by up to 1")


def test_leaves_end_at_cycles_and_functions():
    loop: list[Any] = [1, len, int]
    loop.append(loop)
    assert dict(leaves(loop)) == {"[0]": 1}


def test_map_flatten_and_unflatten():
    value = {
        "a": Pair(np.ones(2), np.array([1, 2])),
        "b": [Factors(np.ones((1, 1)), np.zeros((1, 1)))],
    }
    doubled = map_arrays(value, lambda a: 2 * a)
    assert isinstance(doubled["a"], Pair)
    np.testing.assert_array_equal(doubled["a"].u, [2.0, 2.0])
    np.testing.assert_array_equal(doubled["a"].v, [1, 2])
    np.testing.assert_array_equal(flatten(doubled), [2.0, 2.0, 2.0, 0.0])
    assert difference(unflatten(value, flatten(doubled)), doubled) is None


def test_arrays_of_other_libraries(xp):
    x = xp.asarray([1.0, 2.0])
    assert point_distance(x, np.array([1.0, 2.0])) == 0.0
    assert difference((x,), (xp.asarray([1.0, 2.0]),)) is None
    assert type(unflatten(x, np.array([3.0, 4.0]))) is type(x)
