"""Each check of a problem passes for a right one and fails for one broken on purpose."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

import lowrank_opt.testing as checks
from lowrank_opt.core import Certificate, ParameterError, Problem
from lowrank_opt.testing import PROBLEM_CHECKS, assert_certificate, check_problem
from lowrank_opt.testing.example import Quadratic, make_quadratic

POINTS = (np.array([1.0, -2.0, 0.5]), np.array([0.3, 0.1, -4.0]))


def quadratic(seed=0):
    return make_quadratic(seed=seed, n=3)


@dataclass(frozen=True, eq=False)
class Rich(Problem):
    """|x - c|^2 / 2 + w |x|_1 with every oracle; the constraint is |x|^2 = 1, (x_1, x_2) = 0."""

    c: np.ndarray
    w: float = 0.5

    @property
    def n_terms(self):
        return 2

    def smooth(self, x):
        return float(0.5 * (x - self.c) @ (x - self.c))

    def nonsmooth(self, x):
        return float(self.w * np.abs(x).sum())

    def objective(self, x):
        return self.smooth(x) + self.nonsmooth(x)

    def gradient(self, x, out=None):
        return x - self.c

    def prox(self, x, step):
        return np.sign(x) * np.maximum(np.abs(x) - self.w * step, 0.0)

    def operator(self, z, out=None):
        return z + np.array([z[1], -z[0], 0.0])

    def sample_gradient(self, x, index):
        return (x - self.c) * (1.5 if index == 0 else 0.5)

    def constraint(self, x):
        return np.array([x @ x - 1.0, x[0] * x[1]])

    def constraint_jacobian(self, x):
        return np.array([2.0 * x, [x[1], x[0], 0.0]])

    def certificate(self, x):
        distance = np.linalg.norm(x - self.prox(self.c, 1.0))
        return Certificate(distance, "distance", self.objective(x), details={"zeros": 0.0})

    def fingerprint(self):
        return {"c": self.c.tolist(), "w": self.w}


def rich(cls=Rich):
    return cls(np.array([0.2, 3.0, -1.0]))


def run(problem, *, checks=None, **hooks):
    parts = (
        {"smooth": problem.smooth, "nonsmooth": problem.nonsmooth}
        if isinstance(problem, Rich)
        else {}
    )
    return check_problem(problem, *POINTS, checks=checks, **{**parts, **hooks})


def test_a_right_problem_passes():
    report = run(quadratic(), other=quadratic(1))
    assert set(report.not_applicable) == {
        "prox", "monotone_operator", "sample_gradient", "constraint_jacobian",
    }  # fmt: skip
    assert {"gradient", "fingerprint", "copies"} < set(report.passed)


def test_a_problem_with_every_oracle_passes_every_check():
    report = run(rich(), other=Rich(np.array([0.2, 3.0, -1.1])))
    assert report.passed == tuple(PROBLEM_CHECKS)


def test_points_may_be_dataclasses():
    @dataclass(frozen=True)
    class Pair:
        u: np.ndarray
        v: np.ndarray

    class Bilinear(Quadratic):
        def objective(self, x):
            return float(x.u @ self.A @ x.v)

        def gradient(self, x, out=None):
            return Pair(self.A @ x.v, self.A.T @ x.u)

        def certificate(self, x):
            return Certificate(np.linalg.norm(x.u), "norm", self.objective(x))

    problem = Bilinear(np.array([[2.0, 1.0], [0.0, 1.0]]), np.ones(2))
    point = Pair(np.array([1.0, 2.0]), np.array([0.5, -1.0]))
    names = ("certificate", "oracles_are_pure", "gradient")
    assert check_problem(problem, point, checks=names).passed == names


class Assignable:
    """Not frozen."""

    def __init__(self):
        self.inner = quadratic()


class ArrayObjective(Quadratic):
    def objective(self, x):
        return np.asarray(super().objective(x))


class InfiniteObjective(Quadratic):
    def objective(self, x):
        return float("inf")


class MovingObjective(Quadratic):
    calls: list[int] = []  # noqa: RUF012

    def objective(self, x):
        self.calls.append(1)
        return super().objective(x) + len(self.calls)


class NoCertificate(Quadratic):
    def certificate(self, x):
        return super().certificate(x).residual


class NanCertificate(Quadratic):
    def certificate(self, x):
        return Certificate(np.nan, "nothing", self.objective(x))


class OtherObjective(Quadratic):
    def certificate(self, x):
        return Certificate(1.0, "one", 2.0 * self.objective(x))


class ImpossibleBound(Quadratic):
    def certificate(self, x):
        return Certificate(1.0, "one", self.objective(x), gap=-1.0)


class AlwaysOptimal(Quadratic):
    def certificate(self, x):
        return Certificate(0.0, "zero", self.objective(x))


class WritesInX(Quadratic):
    def objective(self, x):
        value = super().objective(x)
        x *= 1.0 + 1e-12
        return value


class WritesInItself(Quadratic):
    def certificate(self, x):
        certificate = super().certificate(x)
        self.b[0] += 1e-12
        return certificate


class NeedsWritableX(Quadratic):
    def gradient(self, x, out=None):
        x[...] = x
        return super().gradient(x)


class ReturnsX(Rich):
    def prox(self, x, step):
        return x


class WrongGradient(Quadratic):
    def gradient(self, x, out=None):
        return 1.001 * super().gradient(x)


class ShortGradient(Quadratic):
    def gradient(self, x, out=None):
        return super().gradient(x)[:-1]


class ExpansiveProx(Rich):
    def prox(self, x, step):
        return 1.1 * x


class WrongProx(Rich):
    def prox(self, x, step):
        return super().prox(x, 1.1 * step)


class TurnedOperator(Rich):
    def operator(self, z, out=None):
        return np.array([-z[0], z[1], z[2]])


class BiasedSamples(Rich):
    def sample_gradient(self, x, index):
        return x - self.c + 0.01 * index


class WrongJacobian(Rich):
    def constraint_jacobian(self, x):
        return np.array([2.0 * x, [x[0], x[1], 0.0]])


class ArrayFingerprint(Quadratic):
    def fingerprint(self):
        return {"b": self.b}


class AddressFingerprint(Quadratic):
    def fingerprint(self):
        return {"id": id(self)}


class CoarseFingerprint(Quadratic):
    def fingerprint(self):
        return {"shape": list(self.A.shape)}


class LongName(Quadratic):
    def __repr__(self):
        return "LongName" * 10_000


class HoldsAFunction(Quadratic):
    def __getstate__(self):
        return {"f": lambda: None}


class ForgetsOnCopy(Quadratic):
    def __getstate__(self):
        return {"A": self.A, "b": 2.0 * self.b}


def quad(cls):
    problem = quadratic()
    return lambda: cls(problem.A.copy(), problem.b.copy())


BROKEN: list[tuple[str, str, Any, dict[str, Any]]] = [
    ("frozen", "can be assigned", Assignable, {}),
    ("objective", "is a ndarray", quad(ArrayObjective), {}),
    ("objective", "is inf", quad(InfiniteObjective), {}),
    ("objective", "is first", quad(MovingObjective), {}),
    ("certificate", "returned a float", quad(NoCertificate), {}),
    ("certificate", "nan", quad(NanCertificate), {}),
    ("certificate", r"objective\(x\) is", quad(OtherObjective), {}),
    ("certificate", "lower bound lies above", quad(ImpossibleBound), {}),
    ("certificate", "must not be optimal", quad(AlwaysOptimal), {}),
    ("oracles_are_pure", r"objective\(x\) changes x", quad(WritesInX), {}),
    ("oracles_are_pure", r"certificate\(x\) changes problem\.b", quad(WritesInItself), {}),
    ("oracles_are_pure", "read-only", quad(NeedsWritableX), {}),
    ("oracles_are_pure", r"prox\(x\) returns x", lambda: rich(ReturnsX), {}),
    ("gradient", "central differences give", quad(WrongGradient), {}),
    ("gradient", "has 2 numbers", quad(ShortGradient), {}),
    ("prox", "firmly", lambda: rich(ExpansiveProx), {}),
    ("prox", "not optimal", lambda: rich(WrongProx), {}),
    ("monotone_operator", "not monotone", lambda: rich(TurnedOperator), {}),
    ("sample_gradient", "misses the gradient", lambda: rich(BiasedSamples), {}),
    ("constraint_jacobian", "Jacobian misses", lambda: rich(WrongJacobian), {}),
    ("fingerprint", "not made of JSON", quad(ArrayFingerprint), {}),
    ("fingerprint", "of a copy", quad(AddressFingerprint), {}),
    (
        "fingerprint",
        "one fingerprint",
        quad(CoarseFingerprint),
        {"other": quad(CoarseFingerprint)()},
    ),
    ("copies", "80000 characters", quad(LongName), {}),
    ("copies", "[Pp]ickle", quad(HoldsAFunction), {}),
    ("copies", "after pickle", quad(ForgetsOnCopy), {}),
]


@pytest.mark.parametrize(("check", "match", "make", "hooks"), BROKEN)
def test_check_finds_the_broken_problem(check, match, make, hooks):
    with pytest.raises(AssertionError, match=match):
        run(make(), checks=[check], **hooks)


def test_every_check_has_a_broken_problem_and_is_public():
    assert {row[0] for row in BROKEN} == set(PROBLEM_CHECKS)
    assert {f"check_{name}" for name in PROBLEM_CHECKS} <= set(checks.__all__)


def test_differences_need_float64():
    with pytest.raises(AssertionError, match="float64"):
        check_problem(quadratic(), POINTS[0].astype(np.float32), checks=["gradient"])


def test_gradient_with_prox_needs_the_smooth_part():
    report = check_problem(rich(), *POINTS, checks=["gradient", "prox"])
    assert "smooth=" in report.not_applicable["gradient"]
    assert report.passed == ("prox",)


def test_wrong_use():
    with pytest.raises(ParameterError, match="at least one point"):
        check_problem(quadratic())
    with pytest.raises(ParameterError, match="no check 'grad'"):
        check_problem(quadratic(), POINTS[0], checks=["grad"])


def test_assert_certificate():
    problem = quadratic()
    answer = np.linalg.solve(problem.A, problem.b)
    assert assert_certificate(problem, answer, 1e-10).residual <= 1e-10
    with pytest.raises(AssertionError, match=re.escape("at most 1.0e-10")):
        assert_certificate(problem, answer + 1e-3, 1e-10)
    with pytest.raises(AssertionError, match="expected a Certificate"):
        assert_certificate(quad(NoCertificate)(), answer, 1e-10)
