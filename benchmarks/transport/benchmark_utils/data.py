"""Transport problems made from a seed, and grades of answers by two independent programs."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy.sparse as sp

__all__ = ["DESCRIPTIONS", "KINDS", "Case", "evaluate", "load", "parse"]

SEED = 20251121
KINDS = {
    "clouds": (
        "two Gaussian clouds in the plane, the second one shifted by 1.5 in both coordinates; "
        "squared distances over their maximum; masses uniform in [0.1, 1.1], normalised"
    ),
    "uniform": "the same costs, all masses equal",
    "five": "costs drawn from 0, 1/4, .., 1 (every column has hundreds of ties); random masses",
    "grid": "points of a square grid against themselves shifted by half a step; random masses",
    "noise": "costs uniform in [0, 1], without any structure; random masses",
    "images": (
        "two pictures on the same square grid, squared distances over their maximum; masses are "
        "exponentials of smooth Gaussian random fields, as in the benchmark DOTmark"
    ),
}
DESCRIPTIONS = {name: f"{text}" for name, text in KINDS.items()}


def parse(name: str) -> tuple[str, int]:
    """Kind and size of a case such as ``"clouds 2000"``."""
    kind, _, size = name.partition(" ")
    if kind not in KINDS:
        raise KeyError(name)
    return kind, int(size)


def _costs(kind: str, n: int, rng) -> np.ndarray:
    if kind == "five":
        return rng.integers(0, 5, (n, n)) / 4.0
    if kind == "noise":
        return rng.random((n, n))
    if kind in ("grid", "images"):
        side = round(n**0.5)
        if side * side != n:
            raise ValueError(f"a grid has a square number of points, not {n}")
        X = np.stack(np.meshgrid(*[np.arange(side)] * 2), axis=-1).reshape(n, 2) / side
        Y = X if kind == "images" else X + 0.5 / side
    else:
        X, Y = rng.standard_normal((n, 2)), rng.standard_normal((n, 2)) + 1.5
    C = (X**2).sum(axis=1)[:, None] + (Y**2).sum(axis=1) - 2.0 * X @ Y.T
    np.maximum(C, 0.0, out=C)
    C /= C.max()
    return C


def _picture(n: int, rng) -> np.ndarray:
    """A smooth positive field on a grid, of total 1: noise with a spectrum of power -3."""
    side = round(n**0.5)
    frequency = np.hypot(*np.meshgrid(*[np.fft.fftfreq(side) * side] * 2))
    spectrum = np.fft.fft2(rng.standard_normal((side, side))) / (1.0 + frequency) ** 1.5
    field = np.fft.ifft2(spectrum).real
    masses = np.exp(1.5 * field / field.std()).ravel()
    return masses / masses.sum()


@dataclass
class Case:
    """Data, and what grades answers."""

    a: np.ndarray
    b: np.ndarray
    C: np.ndarray
    gamma: float
    k: int  # the number of rows: no cap

    @property
    def capped(self) -> bool:
        return self.k < len(self.a)

    @cached_property
    def problem(self):
        from lowrank_opt.transport import TransportProblem

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # few places: a part of the exercise
            return TransportProblem(
                self.a, self.b, self.C, gamma=self.gamma, max_nnz=self.k if self.capped else None
            )

    def grade(self, plan, alpha) -> dict[str, float]:
        """Our certificate of a plan and potentials, and the plain evaluation of the same."""
        from lowrank_opt.transport import TransportPlan

        if not isinstance(plan, TransportPlan):
            plan = TransportPlan(sp.csc_array(plan))
        # The relaxed plan is graded, whatever has been made of it.
        relaxed = plan if plan.relaxed is None else TransportPlan(sp.csc_array(plan.relaxed))
        certificate = self.problem.certificate((relaxed, np.asarray(alpha)))
        found = certificate.details
        return {
            "residual": certificate.residual,
            "row_residual": found["relaxed_row_residual"],
            "col_residual": found["relaxed_col_residual"],
            "gap": found["lagrangian_gap"] / found["scale"],
            "value": found["relaxed_value"],
            "bound": found["dual_value"],
            "max_nnz": found["relaxed_max_nnz"],
            "plain": evaluate(self, relaxed.toarray(), np.asarray(alpha)),
        }


def evaluate(case: Case, T: np.ndarray, alpha: np.ndarray) -> dict[str, float]:
    """The same grades by dense arrays and whole sorts; no line of the library is used."""
    a, b, C, gamma, k = case.a, case.b, case.C, case.gamma, case.k
    bound = float(a @ alpha)
    quadratic = 0.0
    for first in range(0, len(b), 256):
        part = slice(first, first + 256)
        S = np.sort(alpha[:, None] - C[:, part], axis=0)[::-1][:k]
        top = S[0].copy()
        S -= top
        if gamma > 0:
            thresholds = (np.cumsum(S, axis=0) - gamma * b[part]) / np.arange(1, len(S) + 1)[
                :, None
            ]
            r = np.count_nonzero(thresholds < S, axis=0)
            tau = thresholds[r - 1, np.arange(S.shape[1])]
            over = np.maximum(S - tau, 0.0)
            bound -= float(np.sum((tau + top) * b[part]) + np.sum(over**2) / (2 * gamma))
        else:
            bound -= float(top @ b[part])
        if gamma > 0:
            t = -np.sort(-T[:, part], axis=0)
            tails = np.cumsum(t[::-1], axis=0)[::-1]
            # The k-support norm: of all ways to sum up the smallest, the valid one.
            best = np.full(t.shape[1], np.inf)
            heads = np.cumsum(t**2, axis=0)
            for j in range(t.shape[1]):
                count = int(np.count_nonzero(t[:, j] > 0))
                if count <= k:
                    best[j] = heads[-1, j]
                    continue
                for r in range(k):
                    tail = tails[k - r - 1, j] / (r + 1)
                    above = np.inf if k - r - 2 < 0 else t[k - r - 2, j]
                    if above > tail * (1 - 1e-12) and tail >= t[k - r - 1, j] * (1 - 1e-12):
                        head = 0.0 if k - r - 2 < 0 else heads[k - r - 2, j]
                        best[j] = head + tails[k - r - 1, j] ** 2 / (r + 1)
                        break
            quadratic += gamma / 2 * float(best.sum())
    with np.errstate(invalid="ignore"):
        cost = float(np.sum(np.where(T > 0, C * T, 0.0)))
    missing = a - T.sum(axis=1)
    value = cost + quadratic
    return {
        "row_residual": float(np.abs(missing).sum()),
        "gap": (value + float(alpha @ missing) - bound) / max(value, 1e-300),
        "value": value,
        "bound": bound,
    }


def load(name: str, k: int | None, gamma: float = 1.0) -> Case:
    """Make a case by its name, for instance ``"clouds 2000"``; ``k=None``: no cap."""
    kind, n = parse(name)
    rng = np.random.default_rng([SEED, n, list(KINDS).index(kind)])
    C = _costs(kind, n, rng)
    if kind == "images":
        a, b = _picture(n, rng), _picture(n, rng)
    elif kind == "uniform":
        a, b = np.full(n, 1.0 / n), np.full(n, 1.0 / n)
    else:
        a, b = rng.random(n) + 0.1, rng.random(n) + 0.1
        a, b = a / a.sum(), b / b.sum()
    return Case(a, b, C, gamma, n if k is None else k)
