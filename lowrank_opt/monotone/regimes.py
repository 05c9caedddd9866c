"""Where variance reduction pays: problems of known constants, and oracle calls side by side."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lowrank_opt.monotone import constants
from lowrank_opt.monotone.inclusion import MonotoneInclusion
from lowrank_opt.monotone.operator_terms import terms_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["Regime", "calibration_suite", "compare_methods", "regime_map", "similar_terms"]


@dataclass(frozen=True)
class Regime:
    """Oracle calls of a deterministic and a variance-reduced method on one problem.

    Parameters
    ----------
    name : str
        Of the problem.
    n_terms : int
        Number of terms.
    spread : float
        L / L_F, the constant of the mean of the terms over that of the operator.
    ratio : float
        ``sqrt(n) L_F / L``.
    deterministic, variance_reduced : float
        Epochs to the tolerance; infinite when it was not reached.
    chosen : str
        Solver that the automatic rule names.
    choice_epochs : float
        Epochs of that, with what the rule's own measurements take.
    """

    name: str
    n_terms: int
    spread: float
    ratio: float
    deterministic: float
    variance_reduced: float
    chosen: str
    choice_epochs: float

    @property
    def gain(self) -> float:
        """Epochs of the deterministic over those of the variance-reduced method."""
        return self.deterministic / self.variance_reduced

    @property
    def loss(self) -> float:
        """Epochs of the automatic choice over the least of the two, or one when it needs fewer."""
        return max(1.0, self.choice_epochs / min(self.deterministic, self.variance_reduced))


def similar_terms(
    n: int, spread: float = 1.5, *, d: int = 10, curvature: float = 0.1, skew: bool = False,
    seed: int = 0,
) -> MonotoneInclusion:  # fmt: skip
    """Return a mean of n affine terms that differ from each other by a given amount.

    ``F_i(x) = M x + s D_i x - q_i``, D_i diagonal with random signs, s chosen so that L / L_F, in
    the sense of squares, is `spread`.

    Parameters
    ----------
    n : int
        Number of terms.
    spread : float, default=1.5
        L / L_F, at least 1.
    d : int, default=10
        Number of variables, even.
    curvature : float, default=0.1
        Smallest eigenvalue of the symmetric part of M; the largest is 1.
    skew : bool, default=False
        Add a rotation of unit norm: monotone, not cocoercive.
    seed : int, default=0
        Of the terms.

    Returns
    -------
    MonotoneInclusion
        With both Lipschitz constants known.
    """
    rng = np.random.default_rng(seed)
    Q = np.linalg.qr(rng.standard_normal((d, d)))[0]
    if skew:
        M = curvature * np.eye(d) + np.kron(np.diag(rng.random(d // 2)), [[0.0, 1.0], [-1.0, 0.0]])
    else:
        M = np.diag(np.linspace(curvature, 1.0, d))
    M = Q @ M @ Q.T
    signs = np.where(rng.random((n, d)) < 0.5, -1.0, 1.0)
    q = rng.standard_normal((n, d))
    L_F = float(np.linalg.norm(M, 2))
    s = L_F * math.sqrt(max(spread * spread - 1.0, 0.0))
    signs -= signs.mean(axis=0)  # the mean of the terms is M x - mean q, up to rounding

    def components(x: Any, index: Any) -> Any:
        return M @ x + s * signs[index] * x - q[index]

    second = np.sqrt((s * signs) ** 2)
    L = math.sqrt(L_F**2 + float(np.max(np.mean(second**2, axis=0))))
    return MonotoneInclusion(
        (M, -q.mean(axis=0)), np.zeros(d), components=components, n_terms=n, lipschitz=L_F,
        mean_lipschitz=L, cocoercive=not skew,
    )  # fmt: skip


def compare_methods(
    problem: Any, name: str = "", *, tol: float = 1e-4, max_epochs: float = 3000.0, seeds: int = 3
) -> Regime:
    """Count the oracle calls of both kinds of method, and of the automatic choice.

    Parameters
    ----------
    problem : Problem
        A game or an inclusion.
    name : str, default=""
        For the report.
    tol : float, default=1e-4
        Limit on the certificate's residual.
    max_epochs : float, default=3000
        Where a method is given up.
    seeds : int, default=3
        Runs of a random method, of which the median is taken.

    Returns
    -------
    Regime
        Calls, constants, choice.
    """
    from lowrank_opt.core import solver_class

    terms = terms_of(problem, "auto")
    L, _ = constants.mean_lipschitz(problem, terms)
    n, L_F = int(problem.n_terms), float(problem.lipschitz)
    (plain, plain_params), (reduced, reduced_params) = constants.alternatives(problem)

    def epochs(name: str, params: dict[str, Any]) -> float:
        cls: Any = solver_class(name)
        random = "random_state" in cls._signature()
        per_iteration = 2.0 / n if random else 1.0
        found = []
        for seed in range(seeds if random else 1):
            more = {"random_state": seed} if random else {}
            solver = cls(**params, **more, tol=tol, max_iter=int(max_epochs / per_iteration))
            result = solver.solve(problem, callback=_stop_after(max_epochs * n))
            found.append(result.n_epochs if result.success else math.inf)
        return float(np.median(found))

    counted = {plain: epochs(plain, plain_params), reduced: epochs(reduced, reduced_params)}
    chosen, params = constants.choose_method(problem, exact=False)
    measured = constants.compare_constants(problem).calls / n
    if chosen not in counted:
        counted[chosen] = epochs(chosen, params)
    return Regime(
        name, n, L / L_F, math.sqrt(n) * L_F / L, counted[plain], counted[reduced], chosen,
        counted[chosen] + measured,
    )  # fmt: skip


def _stop_after(calls: float) -> Any:
    def stop(intermediate_result: Any) -> None:
        if intermediate_result.counts.get("component_calls", 0) > calls:
            raise StopIteration

    return stop


def regime_map(
    sizes: Iterable[int] = (100, 1000, 10_000),
    spreads: Iterable[float] = (1.0, 1.5, 2.0, 4.0),
    *,
    skew: bool = False,
    tol: float = 1e-4,
) -> list[Regime]:
    """Measure the gain of variance reduction for means of similar terms.

    Parameters
    ----------
    sizes : iterable of int, default=(100, 1000, 10000)
        Numbers of terms.
    spreads : iterable of float, default=(1.0, 1.5, 2.0, 4.0)
        Values of L / L_F.
    skew : bool, default=False
        Monotone operators that are not cocoercive.
    tol : float, default=1e-4
        Limit on the certificate's residual.

    Returns
    -------
    list of Regime
        One entry for each pair.
    """
    return [
        compare_methods(
            similar_terms(n, spread, skew=skew), f"{n} terms, L/L_F = {spread:g}", tol=tol
        )
        for n in sizes
        for spread in spreads
    ]


def calibration_suite() -> Iterator[tuple[str, Any]]:
    """Yield the twenty problems on which the threshold of the automatic choice was set.

    Games, which are the hard cases of variance reduction, and means of many similar and less
    similar terms, cocoercive and not, on both sides of the threshold.
    """
    from lowrank_opt.monotone.problems_suite import policeman_burglar, random_game

    yield "policeman-burglar 60, columns", policeman_burglar(60)
    yield "policeman-burglar 60, rows", policeman_burglar(60, "rows")
    yield "normal game 40", random_game(40, 40)
    yield "normal game 30x60", random_game(30, 60, 1)
    for skew in (False, True):
        kind = "skew" if skew else "cocoercive"
        for n, spread in (
            (50, 1.0), (50, 3.0), (400, 1.0), (400, 2.0), (1500, 1.2), (4000, 1.0), (4000, 3.0),
            (20_000, 1.2),
        ):  # fmt: skip
            yield f"{kind}, {n} terms, {spread:g}", similar_terms(n, spread, skew=skew, seed=n)
