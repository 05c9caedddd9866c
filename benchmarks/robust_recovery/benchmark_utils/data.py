"""Low-rank matrices with gross errors, made from a seed, and the errors of answers."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

__all__ = ["CASES", "DESCRIPTIONS", "Case", "load", "pair"]

SEED = 20251103
# Arguments of `make_low_rank_observations`; an outlier adds a uniform number of size up to that of
# the largest clean entry.
CASES: dict[str, dict] = {
    "40": {"shape": (40, 40), "rank": 2, "seen": 1.0, "outliers": 0.05, "kappa": 2.0},
    "60": {"shape": (60, 60), "rank": 2, "seen": 1.0, "outliers": 0.05, "kappa": 2.0},
    "60 missing": {"shape": (60, 60), "rank": 2, "seen": 0.7, "outliers": 0.05, "kappa": 2.0},
    "200": {"shape": (200, 200), "rank": 4, "seen": 1.0, "outliers": 0.1, "kappa": 2.0},
    "200 missing": {"shape": (200, 200), "rank": 4, "seen": 0.6, "outliers": 0.05, "kappa": 2.0},
    "400": {"shape": (400, 400), "rank": 5, "seen": 1.0, "outliers": 0.1, "kappa": 2.0},
    "400 missing": {"shape": (400, 400), "rank": 5, "seen": 0.5, "outliers": 0.05, "kappa": 2.0},
    "800": {"shape": (800, 800), "rank": 10, "seen": 1.0, "outliers": 0.1, "kappa": 2.0},
    "800 missing": {"shape": (800, 800), "rank": 10, "seen": 0.6, "outliers": 0.05, "kappa": 2.0},
    "large": {
        "shape": (20_000, 20_000), "rank": 10, "seen": 0.025, "outliers": 0.1, "kappa": 2.0,
    },
    "sparse": {"shape": (800, 800), "rank": 5, "seen": 0.1, "outliers": 0.05, "kappa": 1.0},
    "hard": {"shape": (600, 700), "rank": 6, "oversampling": 5, "outliers": 0.2, "kappa": 10.0},
    "tiny": {"shape": (50, 40), "rank": 2, "seen": 1.0, "outliers": 0.05, "kappa": 2.0},
    "tiny missing": {"shape": (60, 50), "rank": 2, "seen": 0.7, "outliers": 0.05, "kappa": 2.0},
    "tiny large": {"shape": (600, 500), "rank": 3, "seen": 0.1, "outliers": 0.1, "kappa": 2.0},
}  # fmt: skip


def _describe(shape, rank, outliers, kappa, seen=None, oversampling=None) -> str:
    part = f"{seen:.3g} of the entries" if seen else f"{oversampling} x the degrees of freedom"
    if seen == 1.0:
        part = "all entries"
    return (
        f"{shape[0]} x {shape[1]}, rank {rank}, condition {kappa:g}, {part} seen, "
        f"{outliers:.0%} of them wrong"
    )


DESCRIPTIONS = {name: _describe(**case) for name, case in CASES.items() if "tiny" not in name}


def pair(low_rank):
    """Factors ``(U, V)`` of an answer; a dense one is cut at 1e-9 of its largest singular value."""
    if hasattr(low_rank, "U"):
        return low_rank.U, low_rank.V
    if isinstance(low_rank, tuple):
        return low_rank
    U, s, Vt = np.linalg.svd(np.asarray(low_rank, np.float64), full_matrices=False)
    k = max(1, int(np.count_nonzero(s > 1e-9 * s[0])))
    return U[:, :k] * s[:k], Vt[:k].T


@dataclass(frozen=True)
class Case:
    """One data matrix, what is known of it, and its truth."""

    name: str
    entries: object  # LowRankObservations
    outlier_fraction: float

    @property
    def shape(self) -> tuple[int, int]:
        return self.entries.shape

    @property
    def rank(self) -> int:
        return self.entries.rank

    @cached_property
    def dense(self):
        """The data as a dense array, NaN where missing."""
        X = np.full(self.shape, np.nan, self.entries.values.dtype)
        X[self.entries.rows, self.entries.cols] = self.entries.values
        return X

    @cached_property
    def truth(self):
        return self.entries.U.astype(np.float64) @ self.entries.V.T

    def error(self, low_rank) -> float:
        """Relative error in Frobenius norm, in float64; a dense answer is compared as it is."""
        if isinstance(low_rank, np.ndarray):
            return float(np.linalg.norm(low_rank - self.truth) / np.linalg.norm(self.truth))
        return self.entries.relative_error(*pair(low_rank))

    def problem(self, rank="auto", **options):
        from lowrank_opt.recovery import LowRankPlusSparse

        e = self.entries
        return LowRankPlusSparse.from_coo(
            e.rows, e.cols, e.values, self.shape, rank=rank, **options
        )

    def grade(self, low_rank) -> dict[str, float]:
        """Error, and the certificate of the problem, which knows neither truth nor rank."""
        factors = pair(low_rank)
        certificate = self.problem().certificate(factors)
        return {
            "error": self.error(low_rank),
            "residual": certificate.residual,
            "inlier_fraction": certificate.details["inlier_fraction"],
            "l1_value": certificate.details["l1_value"],
            "rank": int(certificate.details["numerical_rank"]),
        }


def _make(name: str, seed: int):
    from lowrank_opt.datasets import make_low_rank_observations

    case = CASES[name]
    m, n = case["shape"]
    seen = case.get("seen")
    return make_low_rank_observations(
        m, n, case["rank"],
        n_observations=None if seen is None else round(seen * m * n),
        oversampling=case.get("oversampling"),
        condition_number=case["kappa"], outlier_fraction=case["outliers"], random_state=seed,
    )  # fmt: skip


def load(name: str, seed: int = SEED, dtype="float64") -> Case:
    """Make a data set; the large one is kept in a file, so that its maker is another process."""
    from lowrank_opt import datasets
    from lowrank_opt.datasets import LowRankObservations

    outliers = CASES[name]["outliers"]
    if not name.endswith("large"):
        return Case(name, _make(name, seed), outliers)
    folder = Path(os.environ.get("LOWRANK_OPT_BENCH_CACHE", Path(__file__).parents[1] / ".cache"))
    # The file is named by the code that makes the data, so that a change makes it anew.
    code = Path(__file__).read_bytes() + b"".join(
        p.read_bytes() for p in sorted(Path(datasets.__file__).parent.glob("_*.py"))
    )
    digest = hashlib.sha256(code).hexdigest()[:12]
    path = folder / f"{name.replace(' ', '-')}-{seed}-{digest}.npz"
    if not path.exists():
        made = _make(name, seed)
        folder.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(f".{os.getpid()}.tmp")
        with temporary.open("wb") as file:
            np.savez(
                file, rows=made.rows, cols=made.cols, values=made.values, U=made.U, V=made.V
            )  # fmt: skip
        temporary.replace(path)
        del made
    with np.load(path) as file:
        entries = LowRankObservations(
            file["rows"], file["cols"], file["values"].astype(dtype), CASES[name]["shape"],
            file["U"], file["V"], np.zeros(0, bool),
        )  # fmt: skip
    return Case(name, entries, outliers)
