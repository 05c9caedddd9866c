"""The benchmark's data sets: made from a seed, or MovieLens when it is there; split once."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

__all__ = ["DESCRIPTIONS", "Split", "load", "rmse"]

SEED = 20240611
DESCRIPTIONS = {
    "S": "synthetic ratings of MovieLens-1M shape, 6040 x 3706, 1e6 entries, skewed degrees",
    "L4": "uniform positions, 40000 x 10000, 4e6 entries, rank 20 and noise",
    "L8": "uniform positions, 40000 x 10000, 8e6 entries, rank 20 and noise",
    "M": "synthetic ratings of MovieLens-100K shape, 943 x 1682, 1e5 entries",
    "exact": "exact rank 10, 2000 x 1500, condition number 10, 8 entries per degree of freedom",
    "ml-100k": "MovieLens-100K",
    "ml-1m": "MovieLens-1M",
    "ml-10m": "MovieLens-10M",
}


@dataclass(frozen=True)
class Split:
    """Training, validation and test entries of one matrix, as coordinate arrays."""

    name: str
    shape: tuple[int, int]
    train: tuple[np.ndarray, np.ndarray, np.ndarray]
    valid: tuple[np.ndarray, np.ndarray, np.ndarray]
    test: tuple[np.ndarray, np.ndarray, np.ndarray]

    def merged(self) -> Split:
        """Training with the validation part added, for the fit after a parameter search."""
        train = tuple(np.concatenate(pair) for pair in zip(self.train, self.valid, strict=True))
        return Split(self.name, self.shape, train, self.valid, self.test)


def _make(name: str):
    from lowrank_opt.datasets import fetch_movielens, make_low_rank_observations, make_ratings

    if name == "S":
        return make_ratings(random_state=SEED)
    if name == "M":
        return make_ratings(943, 1682, 100_000, random_state=SEED)
    if name in ("L4", "L8"):
        size = 4_000_000 if name == "L4" else 8_000_000
        return make_low_rank_observations(
            40_000, 10_000, 20, n_observations=size, noise=0.3, condition_number=5.0,
            dtype=np.float32, random_state=SEED,
        )  # fmt: skip
    if name == "exact":
        return make_low_rank_observations(
            2000, 1500, 10, oversampling=8, condition_number=10.0, random_state=SEED
        )
    return fetch_movielens(name.removeprefix("ml-"), download=False)


def load(name: str) -> Split:
    """Load a data set, from a cached file after the first time.

    MovieLens is only looked for, never downloaded; without it `DatasetError` is raised.
    """
    from lowrank_opt import datasets

    folder = Path(os.environ.get("LOWRANK_OPT_BENCH_CACHE", Path(__file__).parents[1] / ".cache"))
    # The file is named by the code that makes the data, so that a change makes it anew.
    code = Path(__file__).read_bytes() + b"".join(
        p.read_bytes() for p in sorted(Path(datasets.__file__).parent.glob("_*.py"))
    )
    path = folder / f"{name}-{hashlib.sha256(code).hexdigest()[:12]}.npz"
    if not path.exists():
        entries = _make(name)
        rest, test = entries.split(0.2 if entries.shape[0] < 1000 else 0.1, random_state=SEED + 1)
        train, valid = rest.split(0.1, random_state=SEED + 2)
        # Some peers hand out uninitialised memory for rows and columns that they never saw.
        seen = [np.isin(getattr(test, a), getattr(train, a)) for a in ("rows", "cols")]
        test = test.select(seen[0] & seen[1])
        parts = {
            f"{part}_{field}": getattr(e, field)
            for part, e in (("train", train), ("valid", valid), ("test", test))
            for field in ("rows", "cols", "values")
        }
        folder.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(f".{os.getpid()}.tmp")
        with temporary.open("wb") as file:
            np.savez(file, shape=entries.shape, **parts)
        temporary.replace(path)
    with np.load(path) as file:
        parts = [
            tuple(file[f"{part}_{field}"] for field in ("rows", "cols", "values"))
            for part in ("train", "valid", "test")
        ]
        shape = tuple(int(v) for v in file["shape"])
    return Split(name, shape, *parts)


def rmse(factors, entries, chunk: int = 1 << 16) -> float:
    """Root mean squared error of a model on coordinate entries, in float64.

    Parameters
    ----------
    factors : tuple or object
        ``(U, V, offset, row_bias, col_bias)`` of any system, where biases may be ``None``; or
        anything with ``predict(rows, cols)`` (the mean over a sampler's draws).
    entries : tuple of ndarray
        ``(rows, cols, values)``.
    chunk : int
        Entries at a time.
    """
    if hasattr(factors, "predict"):
        rows, cols, values = entries
        error = np.asarray(factors.predict(rows, cols), np.float64) - values
        return float(np.sqrt(np.mean(error**2)))
    U, V, offset, row_bias, col_bias = factors
    total = 0.0
    for lo in range(0, len(entries[2]), chunk):
        rows, cols, values = (a[lo : lo + chunk] for a in entries)
        model = np.einsum("ij,ij->i", U[rows].astype(np.float64), V[cols].astype(np.float64))
        model += offset
        if row_bias is not None:
            model += row_bias[rows]
        if col_bias is not None:
            model += col_bias[cols]
        total += float(np.sum((values.astype(np.float64) - model) ** 2))
    return float(np.sqrt(total / len(entries[2])))
