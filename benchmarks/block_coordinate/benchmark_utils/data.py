"""Sparse regression problems made from a seed, and the one function that grades all answers."""

from __future__ import annotations

import gzip
import os
import re
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import scipy.sparse as sp

__all__ = [
    "DESCRIPTIONS",
    "KINDS",
    "TINY",
    "Case",
    "case",
    "gap",
    "load",
    "parse",
    "path_gaps",
    "unavailable_data",
]

SEED = 20261130
# Name of the law: what it is, and sizes n, p (and k: what the law says).
KINDS = {
    "dense": (
        "rows of a stationary Gaussian process over the columns (neighbours correlated by 0.6), "
        "2% of the true coefficients are not zero, signal to noise 5 (of norms)"
    ),
    "wide support": (
        "the same law with a third of the coefficients, so that solutions have thousands"
    ),
    "sparse": (
        "2 of 1000 entries, standard normal; 200 true coefficients; noise of a tenth of the "
        "signal's standard deviation"
    ),
    "correlated sparse": (
        "chains of 20 columns, each has four fifths of the entries of the one before (correlation "
        "0.8 there) and new ones; otherwise as *sparse*"
    ),
    "sparse, wide support": "as *sparse*, with 3000 true coefficients",
    "a9a": "the census data of LIBSVM, training part, from the folder LOWRANK_OPT_DATA",
    "sparse labels": (
        "1 of 1000 entries, standard normal; labels are signs of a linear function of 200 columns, "
        "each flipped with probability 0.1"
    ),
    "groups": "the law *dense*, coefficients in groups of 10, 2% of the groups are not zero",
    "tasks": "the law *dense* with 20 targets that share their rows of coefficients",
}
DESCRIPTIONS = {
    **KINDS,
    "penalty": (
        "*lambda_max/r*: the penalty is the r-th part of the smallest at which all coefficients "
        "are zero (with intercept, where there is one)"
    ),
}
LABELS = ("a9a", "sparse labels")
SIZES = {
    "dense": (60, 90),
    "wide support": (60, 90),
    "sparse": (90, 120),
    "correlated sparse": (90, 120),
    "sparse, wide support": (90, 120),
    "sparse labels": (120, 90),
    "groups": (60, 90),
    "tasks": (40, 60),
}
# A small data set of every law, to check the harness.
TINY = {kind: f"{kind} {n}x{p}" for kind, (n, p) in SIZES.items()}
PENALTIES = ("l1", "positive", "elastic net 0.9", "elastic net 0.5")
_NAME = re.compile(r"(.+) (\d+)x(\d+)")


def parse(name: str) -> tuple[str, int, int]:
    """Law, rows and columns of a data set such as ``"dense 500x5000"``."""
    if name == "a9a":
        return "a9a", 32561, 123
    found = _NAME.fullmatch(name)
    if found is None or found[1] not in KINDS:
        raise KeyError(name)
    return found[1], int(found[2]), int(found[3])


def _a9a() -> Path | None:
    home = os.environ.get("LOWRANK_OPT_DATA")
    for name in ("libsvm/a9a.gz", "a9a.gz", "libsvm/a9a", "a9a") if home else ():
        path = Path(home or "") / name
        if path.is_file():
            return path
    return None


def unavailable_data(name: str) -> str | None:
    """Why a data set cannot be had here, or ``None``."""
    if parse(name)[0] == "a9a" and _a9a() is None:
        return "no file libsvm/a9a.gz in the folder LOWRANK_OPT_DATA"
    return None


# -- data -----------------------------------------------------------------------------------------


def _process(n: int, p: int, rng) -> np.ndarray:
    """Rows of an autoregressive process of order one, correlation 0.6, in Fortran order."""
    X = rng.standard_normal((p, n)).T
    for j in range(1, p):
        X[:, j] = 0.6 * X[:, j - 1] + 0.8 * X[:, j]
    return X


def _columns(n: int, p: int, per_column: int, rng) -> sp.csc_array:
    """Sparse columns of normal numbers at random rows."""
    rows = rng.integers(0, n, (p, per_column))
    X = sp.csc_array(
        (rng.standard_normal(p * per_column), rows.ravel(), np.arange(p + 1) * per_column),
        shape=(n, p),
    )
    X.sum_duplicates()
    return X


def _chains(n: int, p: int, per_column: int, rng) -> sp.csc_array:
    """Chains of 20 columns that hand on four fifths of their entries."""
    length = 20
    chains = -(-p // length)
    rows = rng.integers(0, n, (chains, per_column))
    values = rng.standard_normal((chains, per_column))
    parts = []
    for _ in range(length):
        parts.append((rows, values))
        new = rng.random((chains, per_column)) >= 0.8
        rows = np.where(new, rng.integers(0, n, rows.shape), rows)
        values = np.where(new, rng.standard_normal(rows.shape), values)
    # Column j is number j % 20 of chain j // 20.
    rows = np.stack([r for r, _ in parts], axis=1).reshape(chains * length, per_column)[:p]
    values = np.stack([v for _, v in parts], axis=1).reshape(chains * length, per_column)[:p]
    X = sp.csc_array((values.ravel(), rows.ravel(), np.arange(p + 1) * per_column), shape=(n, p))
    X.sum_duplicates()
    return X


def _read_libsvm(path: Path, n_features: int) -> tuple[sp.csc_array, np.ndarray]:
    labels, indptr, indices, values = [], [0], [], []
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as lines:
        for line in lines:
            label, *pairs = line.split()
            labels.append(float(label))
            for pair in pairs:
                index, _, value = pair.partition(":")
                indices.append(int(index) - 1)
                values.append(float(value))
            indptr.append(len(indices))
    width = max(n_features, max(indices) + 1)
    X = sp.csr_array((values, indices, indptr), shape=(len(labels), width))
    # 0 and 1, or -1 and 1, by the copy
    return X.tocsc(), np.where(np.asarray(labels) > 0, 1.0, -1.0)


@lru_cache(maxsize=1)
def load(name: str, seed: int = 0):
    """Make a data set: `X` (Fortran order, or CSC with int32 indices), `y`, groups or None."""
    kind, n, p = parse(name)
    groups = None
    if kind == "a9a":
        path = _a9a()
        if path is None:
            raise FileNotFoundError(unavailable_data(name))
        X, y = _read_libsvm(path, p)
        if seed:  # other seeds: the same law, rows drawn with replacement
            rows = np.random.default_rng([SEED, seed]).integers(0, len(y), len(y))
            X, y = X.tocsr()[rows].tocsc(), y[rows]
    else:
        rng = np.random.default_rng([SEED, seed, n, p, list(KINDS).index(kind)])
        if kind in ("dense", "wide support", "groups", "tasks"):
            X = _process(n, p, rng)
            k = 20 if kind == "tasks" else 1
            w = np.zeros((p, k))
            if kind == "groups":
                groups = np.arange(p) // 10
                true = rng.choice(groups[-1] + 1, max(groups[-1] // 50, 1), replace=False)
                support = np.flatnonzero(np.isin(groups, true))
            else:
                share = 1 / 3 if kind == "wide support" else 0.02
                support = rng.choice(p, max(int(share * p), 3), replace=False)
            w[support] = rng.standard_normal((len(support), k))
            y = X @ w
            noise = rng.standard_normal(y.shape)
            y += noise * (np.linalg.norm(y) / (5.0 * np.linalg.norm(noise)))
            # an intercept that is not zero
            y += 0.5 * y.std()
            y = y if kind == "tasks" else y[:, 0]
        else:
            density = 1e-3 if kind == "sparse labels" else 2e-3
            make = _chains if kind == "correlated sparse" else _columns
            X = make(n, p, max(round(density * n), 3), rng)
            true = 3000 if kind == "sparse, wide support" else 200
            support = rng.choice(p, min(true, p // 10), replace=False)
            w = np.zeros(p)
            w[support] = rng.standard_normal(len(support))
            signal = X @ w
            if kind == "sparse labels":
                y = np.where(signal + 1e-3 * rng.standard_normal(n) > 0, 1.0, -1.0)
                y[rng.random(n) < 0.1] *= -1.0
            else:
                y = signal + 0.1 * signal.std() * rng.standard_normal(n)
                y += 0.5 * y.std()
    if sp.issparse(X):
        X.sort_indices()
        X.indices, X.indptr = X.indices.astype(np.int32), X.indptr.astype(np.int32)
    return X, y, groups


# -- problems -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """A penalised problem, in the units of scikit-learn.

    ``1/(2n) |y - Xw - b|^2 + alpha (l1_ratio |w|_1 + (1 - l1_ratio)/2 |w|^2)``; logistic: the
    mean of ``log(1 + exp(-y (Xw + b)))`` plus ``alpha |w|_1``; `groups` or several targets: sums
    of the norms of groups, or rows, of coefficients.
    """

    X: np.ndarray | sp.csc_array
    y: np.ndarray
    alpha: float
    loss: str = "squared"
    l1_ratio: float = 1.0
    positive: bool = False
    groups: np.ndarray | None = None
    fit_intercept: bool = True

    @property
    def sparse(self) -> bool:
        return sp.issparse(self.X)


def _null_gradient(case: Case) -> np.ndarray:
    """Gradient of the mean loss at zero coefficients and the best intercept, with a minus."""
    n = len(case.y)
    if case.loss == "logistic":
        share = np.mean(case.y > 0) if case.fit_intercept else 0.5
        return case.X.T @ ((case.y > 0) - share) / n
    y = case.y - case.y.mean(axis=0) if case.fit_intercept else case.y
    return case.X.T @ y / n


def alpha_max(case: Case) -> float:
    """The smallest `alpha` at which all coefficients are zero."""
    g = _null_gradient(case)
    if g.ndim == 2:
        g = np.sqrt((g**2).sum(axis=1))
    elif case.groups is not None:
        g = np.sqrt(np.bincount(case.groups, g**2))
    elif not case.positive:
        g = np.abs(g)
    return float(g.max() / case.l1_ratio)


def case(name: str, penalty: str, ratio: float, seed: int = 0, fit_intercept: bool = True) -> Case:
    """Make a case: data, penalty (see `PENALTIES`) and by what lambda_max is divided."""
    X, y, groups = load(name, seed)
    kind, _, number = penalty.partition("net ")
    made = Case(
        X, y, 1.0, "logistic" if parse(name)[0] in LABELS else "squared",
        l1_ratio=float(number) if number else 1.0, positive=kind == "positive", groups=groups,
        fit_intercept=fit_intercept,
    )  # fmt: skip
    return replace(made, alpha=alpha_max(made) / ratio)


# -- the gap --------------------------------------------------------------------------------------


def gap(case: Case, w: np.ndarray, b: float | np.ndarray) -> float:
    """Relative duality gap of coefficients and intercept, in float64; no line of a solver.

    The primal value is that of the point as it is. The dual point is the best multiple of the
    residual of `w`, with the intercept optimal for `w`, that satisfies all constraints. The gap is
    divided by the loss of the best constant model over the smallest conceivable loss.
    """
    w = np.asarray(w, dtype=np.float64)
    w = w.reshape(case.X.shape[1], -1) if case.y.ndim == 2 else w.ravel()
    return (_logistic_gap if case.loss == "logistic" else _squared_gap)(case, w, b)


def _norms(case: Case, v: np.ndarray) -> np.ndarray:
    """What the l1 norm is taken of: absolute values, or norms of rows or groups."""
    if v.ndim == 2:
        return np.sqrt((v**2).sum(axis=1))
    if case.groups is not None:
        return np.sqrt(np.bincount(case.groups, v**2))
    return np.abs(v)


def _squared_gap(case: Case, w: np.ndarray, b) -> float:
    X, n = case.X, len(case.y)
    y = np.asarray(case.y, dtype=np.float64)
    lam, mu = n * case.alpha * case.l1_ratio, n * case.alpha * (1.0 - case.l1_ratio)
    if case.positive and (w < 0).any():
        return np.inf
    fit = X @ w
    residual = y - fit - b
    value = 0.5 * float((residual**2).sum()) + lam * float(_norms(case, w).sum())
    value += mu / 2 * float((w**2).sum())
    r, target = y - fit, y
    if case.fit_intercept:
        # Sums of the dual point must be zero: the residual of the best intercept, centred twice
        # because one pass leaves the rounding of a large mean.
        r, target = r - r.mean(axis=0), target - target.mean(axis=0)
        r -= r.mean(axis=0)
    c = X.T @ r
    c = np.maximum(c, 0.0) if case.positive else _norms(case, c)
    squares, along = float((r**2).sum()), float((target * r).sum())
    s = _best_multiple(along, squares, c, lam, mu)
    over = s * c - lam
    bound = s * along - 0.5 * s * s * squares
    if mu > 0:
        bound -= float((over[over > 0] ** 2).sum()) / (2.0 * mu)
    return (value - bound) / (0.5 * float((target**2).sum()))


def _best_multiple(along: float, squares: float, c: np.ndarray, lam: float, mu: float) -> float:
    """Return the s >= 0 whose s * residual has the largest dual value.

    The dual is ``s along - s^2/2 squares`` with ``s c <= lam``, or, with a ridge term, less
    ``sum max(s c - lam, 0)^2 / (2 mu)``.
    """
    free = max(along, 0.0) / squares if squares > 0 else 0.0
    if mu == 0:
        return min(free, lam / float(c.max())) if c.any() else free
    low, high = 0.0, free
    for _ in range(200):
        s = 0.5 * (low + high)
        over = np.maximum(s * c - lam, 0.0)
        low, high = (
            (s, high) if along - s * squares - float(c @ over) / mu > 0 else (low, s)
        )  # fmt: skip
        if high - low <= 1e-15 * high:
            break
    return low


def _logistic_gap(case: Case, w: np.ndarray, b: float) -> float:
    y, n = case.y, len(case.y)
    lam = n * case.alpha
    fit = case.X @ w
    value = float(np.logaddexp(0.0, -y * (fit + b)).sum()) + lam * float(np.abs(w).sum())

    def dual_point(shift):
        """Derivatives of the losses, with a minus and without the sign of y."""
        return 0.5 * (1.0 - np.tanh(0.5 * y * (fit + shift)))

    shift = 0.0
    if case.fit_intercept:
        low, high = -np.abs(fit).max() - 40.0, np.abs(fit).max() + 40.0
        for _ in range(200):
            shift = 0.5 * (low + high)
            if float(y @ dual_point(shift)) > 0:
                low = shift
            else:
                high = shift
            if high - low <= 4 * np.spacing(max(abs(low), abs(high))):
                break
    u = dual_point(shift)
    if case.fit_intercept:
        # What rounding leaves of the sum goes to the larger side: u' y = 0.
        over = float(y @ u)
        side = y > 0 if over > 0 else y < 0
        u[side] *= 1.0 - abs(over) / float(u[side].sum())
    most = float(np.abs(case.X.T @ (y * u)).max())
    limit = 1.0 / float(u.max())
    largest = min(limit, lam / most) if most > 0 else limit

    def bound(s):
        v = np.clip(s * u, 0.0, 1.0)
        with np.errstate(divide="ignore", invalid="ignore"):
            terms = np.where(v > 0, v * np.log(v), 0.0)
            terms += np.where(v < 1, (1.0 - v) * np.log1p(-v), 0.0)
        return -float(terms.sum())

    def slope(s):
        v = np.clip(s * u, 1e-300, 1.0 - 1e-16)
        return float(u @ (np.log1p(-v) - np.log(v)))

    low, high = 0.0, largest
    if slope(high) < 0:  # concave: the largest value is inside
        for _ in range(100):
            middle = 0.5 * (low + high)
            low, high = (middle, high) if slope(middle) > 0 else (low, middle)
    # The loss of the best constant: n log 2 for equal classes, and without intercept.
    share = float(np.mean(y > 0)) if case.fit_intercept else 0.5
    scale = -n * (share * np.log(share) + (1 - share) * np.log(1 - share))
    return (value - bound(high)) / scale


def path_gaps(case: Case, alphas, coefs, intercepts) -> np.ndarray:
    """Gaps of a whole path; `coefs` has a column for every value of `alphas`."""
    return np.array(
        [
            gap(replace(case, alpha=float(a)), np.asarray(coefs[:, i]), intercepts[i])
            for i, a in enumerate(alphas)
        ]
    )
