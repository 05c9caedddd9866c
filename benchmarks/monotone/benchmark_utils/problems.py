"""Twenty problems for the automatic choice, and what a method spends on them.

The rule was set on twenty others, those of ``lowrank_opt.monotone.regimes``: ``"calibration 7"``.
"""

from __future__ import annotations

import itertools
import logging
import statistics

import numpy as np
from scipy import linalg

from benchmark_utils import data

__all__ = ["CALIBRATION", "METHODS", "PROBLEMS", "make", "measure"]

# Methods with their defaults; those with a seed run three times.
METHODS = [
    "Halpern",
    "ExtraGradient",
    "OptimisticGradient",
    "AnchoredExtraGradient",
    "FastExtraGradient",
    "VarianceReducedHalpern",
    "VarianceReducedExtraGradient",
    "InexactHalpern",
    "KrasnoselskiiMann",
    "Anderson",
]


def _inclusion(*arguments, **options):
    from lowrank_opt.monotone import MonotoneInclusion

    return MonotoneInclusion(*arguments, **options)


def _game(name):
    from lowrank_opt.monotone import MatrixGame

    return MatrixGame(data.game(name))


def _soft(weight):
    def prox(x, step):
        return np.sign(x) * np.maximum(np.abs(x) - step * weight, 0.0)

    return prox


def _quadratics(n, d, spread, prox=None, seed=0):
    """Mean of n least-squares terms; the norms of the terms span a factor of `spread`."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, d)) * np.geomspace(1.0, spread, n)[:, None]
    t = X @ rng.standard_normal(d) + 0.1 * rng.standard_normal(n)
    norms = np.einsum("ij,ij->i", X, X)

    def F(x):
        return X.T @ (X @ x - t) / n

    def components(x, index):
        return X[index] * (X[index] @ x - t[index])[:, None]

    return _inclusion(
        F, np.zeros(d), components, n, prox, float(np.linalg.norm(X, 2) ** 2 / n),
        float(np.sqrt(np.linalg.norm((X * norms[:, None] ** 0.5), 2) ** 2 / n)), True,
    )  # fmt: skip


def _logistic(n, d, weight, seed=0):
    """Logistic regression, with an l1 norm or with a ridge of the same weight."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, d))
    label = np.where(X @ rng.standard_normal(d) + rng.standard_normal(n) > 0, 1.0, -1.0)

    def slope(margin):
        return -0.5 * (1.0 - np.tanh(0.5 * margin))

    def F(x):
        return X.T @ (label * slope(label * (X @ x))) / n

    def components(x, index):
        return X[index] * (label[index] * slope(label[index] * (X[index] @ x)))[:, None]

    norms = np.linalg.norm(X, axis=1)
    return _inclusion(
        F, np.zeros(d), components, n, _soft(weight), float(np.linalg.norm(X, 2) ** 2 / (4 * n)),
        float(np.linalg.norm(X * norms[:, None], 2) / (4 * np.sqrt(n))), True,
    )  # fmt: skip


def _saddle(n, strong, seed=0):
    """Affine saddle: ``strong`` times the identity on both sides of a coupling of norm 1."""
    rng = np.random.default_rng(seed)
    B = rng.standard_normal((n, n))
    B /= np.linalg.norm(B, 2)
    M = np.block([[strong * np.eye(n), B.T], [-B, strong * np.eye(n)]])
    return _inclusion((M, rng.standard_normal(2 * n)), np.zeros(2 * n))


def _ouyang_xu(n):
    """The equality-constrained quadratic program that is hard for first-order methods."""
    i = np.arange(n)
    A = np.zeros((n, n))
    A[i, n - 1 - i] = 0.25
    A[i[:-1], n - 2 - i[:-1]] = -0.25
    M = np.block([[2.0 * A.T @ A, -A.T], [A, np.zeros((n, n))]])
    h = np.zeros(n)
    h[-1] = 0.25
    q = np.concatenate([-h, np.full(n, -0.25)])
    return _inclusion((M, q), np.full(2 * n, 1.0 / n))


def _symmetric(n, condition, seed=0):
    """Gradient of a quadratic with a given condition number."""
    rng = np.random.default_rng(seed)
    Q, _ = np.linalg.qr(rng.standard_normal((n, n)))
    M = Q * np.geomspace(1.0 / condition, 1.0, n) @ Q.T
    return _inclusion((0.5 * (M + M.T), rng.standard_normal(n)), np.zeros(n))


def _box(n, seed=0):
    """Variational inequality on a box with a monotone matrix."""
    rng = np.random.default_rng(seed)
    G = rng.standard_normal((n, n)) / np.sqrt(n)
    M = 0.1 * G @ G.T + 0.5 * (G - G.T)
    return _inclusion(
        (M, rng.standard_normal(n)), np.zeros(n), prox=lambda x, step: np.clip(x, -1.0, 1.0)
    )


def _rotations(n):
    """Blocks of rotations, the same up to the angle: no term is larger than another."""
    angles = np.linspace(0.2, 1.4, n)
    M = linalg.block_diag(*(np.array([[np.cos(a), np.sin(a)], [-np.sin(a), np.cos(a)]])
                            for a in angles))  # fmt: skip
    return _inclusion((M, np.random.default_rng(0).standard_normal(2 * n)), np.zeros(2 * n))


PROBLEMS = {
    "game: burglar 100": lambda: _game("burglar 100"),
    "game: burglar 100 rows": lambda: _game("burglar 100 rows"),
    "game: gaussian 50x50": lambda: _game("gaussian 50x50"),
    "game: gaussian 200x40": lambda: _game("gaussian 200x40"),
    "game: gaussian 200x200": lambda: _game("gaussian 200x200"),
    "least squares, equal terms": lambda: _quadratics(1000, 20, 1.0),
    "least squares, unequal terms": lambda: _quadratics(400, 20, 16.0),
    "lasso, equal terms": lambda: _quadratics(1000, 50, 1.0, _soft(0.1)),
    "lasso, many terms": lambda: _quadratics(5000, 10, 1.0, _soft(0.1), 1),
    "lasso, unequal terms": lambda: _quadratics(400, 50, 16.0, _soft(0.1)),
    "logistic, 2000 terms": lambda: _logistic(2000, 20, 0.01),
    "logistic, 300 terms": lambda: _logistic(300, 60, 0.02),
    "quadratic, condition 10": lambda: _symmetric(100, 10.0),
    "quadratic, condition 1000": lambda: _symmetric(100, 1000.0),
    "saddle, strong 0.1": lambda: _saddle(60, 0.1),
    "saddle, strong 0.01": lambda: _saddle(60, 0.01),
    "saddle, bilinear": lambda: _saddle(40, 0.0),
    "Ouyang-Xu 30": lambda: _ouyang_xu(30),
    "box": lambda: _box(80),
    "rotations": lambda: _rotations(40),
}


CALIBRATION = [f"calibration {k}" for k in range(20)]


def make(name: str):
    """Return the name in words, and the problem."""
    if name in PROBLEMS:
        return name, PROBLEMS[name]()
    from lowrank_opt.monotone.regimes import calibration_suite

    found = next(itertools.islice(calibration_suite(), int(name.split()[1]), None))
    return f"calibration: {found[0]}", found[1]


def measure(name: str, job: dict) -> dict:
    """Oracle calls to a residual: automatic choice, what it chooses from, and other methods."""
    import lowrank_opt
    from lowrank_opt import monotone
    from lowrank_opt.monotone import constants

    logging.getLogger("lowrank_opt").setLevel(logging.ERROR)
    text, problem = make(name)
    n = int(getattr(problem, "n_terms", 1))
    row = {"case": text, "tol": job["tol"], "n_terms": n, "methods": {}, "alternatives": {}}
    found = constants.compare_constants(problem)
    row["lipschitz"], row["mean_lipschitz"] = found.lipschitz, found.mean_lipschitz
    row["measuring"] = found.calls
    row["chosen"], _ = problem.auto_solver()
    result = lowrank_opt.solve(problem, tol=job["tol"], max_time=job["limit"])
    row["auto"] = _spent(problem, result, job["tol"])
    row["auto"]["calls"] += found.calls
    most = int(job["most"] * max(row["auto"]["calls"], n))
    entries = [("alternatives", method, params) for method, params in
               constants.alternatives(problem)]  # fmt: skip
    entries += [("methods", method, {}) for method in METHODS]
    for group, method, params in entries:
        cls = getattr(monotone, method)
        seeded = "random_state" in cls().get_params()
        runs = []
        for seed in range(3 if seeded else 1):
            more = {**params, **({"random_state": seed} if seeded else {})}
            try:
                solver = cls(tol=job["tol"], max_time=job["limit"], max_iter=10_000_000, **more)
                runs.append(_spent(problem, _limited(solver, problem, most), job["tol"]))
            except (TypeError, ValueError, lowrank_opt.core.LowRankOptError) as error:
                row.setdefault("refused", {})[method] = f"{type(error).__name__}: {error}"[:200]
                break
        if runs:
            calls = [f["calls"] if f["good"] else np.inf for f in runs]
            row[group][method] = {
                "calls": statistics.median(calls), "residual": max(f["residual"] for f in runs),
                "good": all(f["good"] for f in runs),
                "seconds": statistics.median(f["seconds"] for f in runs),
            }  # fmt: skip
    return row


def _limited(solver, problem, most):
    """Solve until the oracle has been called `most` times."""

    def stop(event):
        counts = event.counts
        if max(counts.get("component_calls", 0), counts.get("map_calls", 0)) > most:
            raise StopIteration

    return solver.solve(problem, callback=stop)


def _spent(problem, result, tol):
    residual = float(problem.certificate(result.x).residual)
    return {
        "calls": int(result.n_oracle), "residual": residual,
        "good": residual <= tol, "status": result.status.name,
        "seconds": float(result.time),
    }  # fmt: skip
