"""Cai, Alacaoglu and Diakonikolas: variance-reduced Halpern iteration, on games and a saddle.

The published results are curves of the residual against passes over the data; no number is
printed. The experiments are made again from their recipe and steps. Judged are theorems, closed
forms, and statements about which method is ahead; where one of these does not hold here, the row
says so. A map of two measured quantities shows when sampling pays.
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any

import numpy as np

from lowrank_opt.monotone import (
    AnchoredExtraGradient,
    ExtraGradient,
    FastExtraGradient,
    FixedPointProblem,
    Halpern,
    InexactHalpern,
    MatrixGame,
    MonotoneInclusion,
    OptimisticGradient,
    VarianceReducedExtraGradient,
    VarianceReducedHalpern,
)
from lowrank_opt.numerics import project_simplex
from lowrank_opt.papers.report import Row, Section, Table, draw

if TYPE_CHECKING:
    from collections.abc import Callable

    from matplotlib.figure import Figure as MatplotlibFigure
    from numpy.typing import NDArray

    Values = NDArray[np.float64]

__all__ = [
    "REFERENCE",
    "Curve",
    "exact_saddle",
    "game_value",
    "natural_residual",
    "ouyang_xu",
    "policeman_burglar",
    "reproduce",
]

REFERENCE = (
    "X. Cai, A. Alacaoglu, J. Diakonikolas, Variance Reduced Halpern Iteration for Finite-Sum "
    "Monotone Inclusions, ICLR 2024, arXiv:2310.02987"
)
_SCALES: dict[str, dict[str, Any]] = {
    "smoke": {"game": 100, "epochs": 300, "saddle": 60, "passes": 2000, "terms": (100, 1000),
              "spreads": (1.0, 3.0), "suite": False, "length": 200},
    "medium": {"game": 500, "epochs": 1000, "saddle": 200, "passes": 20_000,
               "terms": (100, 1000, 10_000), "spreads": (1.0, 1.5, 2.0, 4.0), "suite": True,
               "length": 1000},
    "paper": {"game": 500, "epochs": 5000, "saddle": 200, "passes": 1_000_000,
              "terms": (100, 1000, 10_000, 100_000), "spreads": (1.0, 1.5, 2.0, 4.0, 8.0),
              "suite": True, "length": 2000},
}  # fmt: skip
_FOREVER = 10**9


def reproduce(scale: str, *, random_state: int = 0) -> list[Section]:
    """Check theorems, run the two published experiments, the snapshots, and the map of regimes.

    Parameters
    ----------
    scale : {"smoke", "medium", "paper"}
        Sizes and lengths; "paper" has those of the paper.
    random_state : int, default=0
        Seed of the stochastic methods.

    Returns
    -------
    list of Section
        Theorems, games, saddle, snapshots, regimes.
    """
    size = _SCALES[scale]
    return [
        _theorems(size, random_state),
        _games(size, random_state),
        _saddle(size, random_state),
        _snapshots(random_state),
        _regimes(size),
    ]


# -- problems -------------------------------------------------------------------------------------


def policeman_burglar(n: int, weights: str = "columns", seed: int = 1) -> Values:
    """Return the payoffs of a burglar who chooses a house and a policeman who chooses a place.

    Parameters
    ----------
    n : int
        Number of houses.
    weights : {"columns", "rows"}, default="columns"
        ``A_ij = w_j (1 - exp(-0.8 |i - j|))`` as published, or with ``w_i``.
    seed : int, default=1
        Seed of NumPy's legacy generator, for ``w = |N(0, 1)|``.

    Returns
    -------
    ndarray of shape (n, n)
        Payoffs.
    """
    w = np.abs(np.random.RandomState(seed).randn(n))
    i = np.arange(n)
    A: Values = 1.0 - np.exp(-0.8 * np.abs(i[:, None] - i))
    return A * (w if weights == "columns" else w[:, None])


def ouyang_xu(n: int) -> tuple[Values, Values]:
    """Return the saddle operator ``M u + q`` of a worst case of Ouyang and Xu.

    Parameters
    ----------
    n : int
        Number of variables and of constraints.

    Returns
    -------
    M : ndarray of shape (2 n, 2 n)
        ``[[H, -A'], [A, 0]]`` with ``H = 2 A'A``.
    q : ndarray of shape (2 n,)
        ``(-h, -b)``.
    """
    A = np.zeros((n, n))
    i = np.arange(n)
    A[i, n - 1 - i] = 0.25
    A[i[:-1], n - 2 - i[:-1]] = -0.25
    h = np.zeros(n)
    h[-1] = 0.25
    M = np.block([[2.0 * A.T @ A, -A.T], [A, np.zeros((n, n))]])
    return M, np.concatenate([-h, np.full(n, -0.25)])


def exact_saddle(M: Values, q: Values) -> Values:
    """Return the zero of an affine operator, by one linear solve."""
    return np.asarray(np.linalg.solve(M, -q), np.float64)


def game_value(A: Values) -> float:
    """Return the value of a game, by HiGHS on its linear program.

    Parameters
    ----------
    A : ndarray of shape (m, n)
        Payoffs to the player who chooses rows.

    Returns
    -------
    float
        The value.
    """
    from scipy.optimize import linprog

    m, n = A.shape
    found = linprog(
        np.r_[np.zeros(n), 1.0], np.hstack([A, -np.ones((m, 1))]), np.zeros(m),
        np.r_[np.ones(n), 0.0][None], [1.0], [(0, None)] * n + [(None, None)],
    )  # fmt: skip
    return float(found.fun)


def natural_residual(A: Values, x: Values, y: Values) -> float:
    """Return how far a projected step of length 1 moves a pair of strategies."""
    dx = x - project_simplex(x - A.T @ y)
    dy = y - project_simplex(y + A @ x)
    return float(np.hypot(np.linalg.norm(dx), np.linalg.norm(dy)))


class Curve:
    """A measure of the iterates along a run, not of the best point, against passes over the data.

    Parameters
    ----------
    problem : MatrixGame, MonotoneInclusion or FixedPointProblem
        What is solved.
    solver : OperatorSolver
        With what; ``check_every`` is the distance of the points that are looked at, ``max_iter``
        the limit on iterations.
    epochs : float
        Where to stop.
    measure : callable
        Of a point.
    below : float, default=0.0
        Stop at the first point at which the measure is not above this.
    dense : bool, default=False
        Keep every point, not only some twenty a decade and one in 50 passes.

    Attributes
    ----------
    nit, epochs, values : ndarray
        Iterations, passes, and the measure at the points that were kept.
    x : ndarray or PrimalDual
        The last iterate; for resolvents of Algorithm 2 the last one.
    diverged : bool
        Whether the iterates grew beyond all bounds.
    seconds : float
        Wall time, measuring included.
    """

    def __init__(
        self, problem: Any, solver: Any, epochs: float, measure: Callable[[Any], float],
        below: float = 0.0, dense: bool = False,
    ) -> None:  # fmt: skip
        began = time.perf_counter()
        terms = getattr(problem, "n_terms", 1)
        rows: list[tuple[int, float, float]] = []
        self.diverged = False
        state, before = solver.init(problem), -1
        while True:
            flat = state.u if hasattr(state, "estimate") else state.x
            passes = state.counts.get("component_calls", 0) / terms
            self.diverged = not np.all(np.isfinite(flat)) or float(np.abs(flat).max()) > 1e100
            # Where the residual is exactly 0, solvers do no further iterations.
            done = self.diverged or passes >= epochs or state.nit in (before, solver.max_iter)
            near = rows and passes < min(1.1 * rows[-1][1], rows[-1][1] + 50)
            if dense or done or not near:
                self.x = problem.shaped(flat)
                value = math.inf if self.diverged else measure(self.x)
                rows.append((state.nit, passes, value))
                done = done or value <= below
            if done:
                break
            before = state.nit
            state = solver.step(problem, state, min(solver.check_every, solver.max_iter - before))
        table = np.array(rows)
        self.nit, self.epochs, self.values = table[:, 0], table[:, 1], table[:, 2]
        self.seconds = time.perf_counter() - began

    @property
    def last(self) -> float:
        """The measure at the end."""
        return float(self.values[-1])

    @property
    def best(self) -> float:
        """The smallest measure."""
        return float(self.values.min())


def _run(**params: Any) -> dict[str, Any]:
    return {"tol": 0.0, "max_iter": _FOREVER, **params}


# -- theorems -------------------------------------------------------------------------------------


def _theorems(size: dict[str, Any], seed: int) -> Section:
    began = time.perf_counter()
    length = size["length"]
    worst, attained = _rotation(math.pi / 50.0, 98)
    rows = [
        Row(
            "rotation by π / 50: |u_k - T u_k| (k + 1) against |u_0 - T^(k+1) u_0|, largest error",
            worst, band=(0.0, 1e-12), source="closed form for linear maps",
        ),
        Row(
            "the same, largest |u_k - T u_k| (k + 1) / (2 D)", attained,
            band=(1.0 - 1e-12, 1.0 + 1e-12),
            source="Lieder 2021: at most 1; attained where T^(k+1) turns the start round",
        ),
    ]  # fmt: skip
    M, q = ouyang_xu(size["saddle"])
    start = np.full(len(q), 1.0 / (len(q) // 2))
    problem = MonotoneInclusion((M, q), start)
    u = exact_saddle(M, q)
    D, L = float(np.linalg.norm(start - u)), float(np.linalg.norm(M, 2))
    rows.append(
        Row(
            "saddle: certificate of the linear solve", problem.certificate(u).residual,
            band=(0.0, 1e-10), source="closed form",
        )
    )  # fmt: skip

    def norm(x: Any) -> float:
        return float(np.linalg.norm(M @ x + q))

    resolvent = np.linalg.inv(np.eye(len(q)) + M / L)

    def moved(x: Any) -> float:
        """Fixed-point residual of the reflected resolvent with the step 1 / L."""
        return 2.0 * float(np.linalg.norm(x - resolvent @ (x - q / L)))

    every = {"check_every": 1, "max_iter": length}
    bounds: dict[str, tuple[Any, Callable[[Any], float], Callable[[Any], Any], str]] = {
        "Halpern on the reflected resolvent: |u - Tu| (k + 1) / (2 D)": (
            Halpern(restart=None, step_size=1.0 / L, **_run(**every)), moved,
            lambda k: 2 * D / (k + 1), "Lieder 2021: |u_k - T u_k| <= 2 D / (k + 1)",
        ),
        "FEG: |F(u_k)| k / (2 L D)": (
            FastExtraGradient(restart=None, **_run(**every)), norm,
            lambda k: 2 * L * D / np.maximum(k, 1e-300), "Lee and Kim 2021: 2 L D / k",
        ),
        "EAG with constant steps: |F(u_k)| (k + 1) / (√260 L D)": (
            AnchoredExtraGradient(variant="C", **_run(**every)), norm,
            lambda k: math.sqrt(260) * L * D / (k + 1), "Yoon and Ryu 2021: 260 (L D)² / (k + 1)²",
        ),
    }  # fmt: skip
    curves = {}
    for name, (solver, measure, bound, source) in bounds.items():
        curve = Curve(problem, solver, math.inf, measure, dense=True)
        ratio = float((curve.values / bound(curve.nit)).max())
        curves[name.partition(":")[0]] = (curve, bound)
        rows.append(
            Row(
                f"saddle, largest {name}", ratio, band=(0.0, 1.0), source=source,
                note=f"over the first {length} iterations",
            )
        )  # fmt: skip

    def plot(figure: MatplotlibFigure) -> None:
        axes = figure.subplots(1, len(curves), squeeze=False)[0]
        for axis, (name, (curve, bound)) in zip(axes, curves.items(), strict=True):
            k = curve.nit[1:]
            axis.loglog(k, curve.values[1:], label="measured")
            axis.loglog(k, bound(k), "--", label="bound")
            axis.set_title(name, fontsize=8)
            axis.set_xlabel("iteration")
        axes[0].legend(fontsize=7)

    return Section(
        "Halpern iteration: theorems",
        "Closed forms, and bounds with their constants, on the worst case of Ouyang and Xu, whose "
        "solution is known by a linear solve. A ratio above 1 would contradict the theorem.",
        rows,
        [],
        draw(plot, "Residuals and their bounds on the saddle.", size=(9, 2.6)),
        REFERENCE,
        seconds=time.perf_counter() - began,
    )


def _rotation(angle: float, length: int) -> tuple[float, float]:
    """Return the error of the closed form on a rotation, and the largest ratio to the bound."""
    c, d = math.cos(angle), math.sin(angle)
    turn = np.array([[c, -d], [d, c]])
    start = np.array([1.0, 0.0])
    problem = FixedPointProblem(lambda u: turn @ u, start)
    curve = Curve(
        problem, Halpern(restart=None, **_run(check_every=1, max_iter=length)), math.inf,
        lambda u: float(np.linalg.norm(u - turn @ u)), dense=True,
    )  # fmt: skip
    k = curve.nit + 1.0
    turned = np.hypot(1.0 - np.cos(k * angle), np.sin(k * angle))
    return float(np.abs(curve.values * k - turned).max()), float((curve.values * k).max() / 2.0)


# -- games ----------------------------------------------------------------------------------------


def _game_methods(A: Values, seed: int) -> dict[str, Any]:
    """Return the published methods with their published steps, and ours with steps of theory."""
    n = len(A)
    spectral, frobenius = float(np.linalg.norm(A, 2)), float(np.linalg.norm(A))
    p = 1.0 / n
    sampled = {"check_every": max(n // 8, 1), "random_state": seed, "sampling": "importance"}
    return {
        "EG": ExtraGradient(step_size=5.0 / spectral, **_run(check_every=1)),
        "OGDA": OptimisticGradient(step_size=0.49 / spectral, **_run(check_every=1)),
        "EAG": AnchoredExtraGradient(
            variant="C", step_size=5.0 / spectral, **_run(check_every=1)
        ),
        "VR-EG": VarianceReducedExtraGradient(
            eta=3.0 * math.sqrt(p) / frobenius, refresh=p, **_run(**sampled)
        ),
        "Alg. 1": VarianceReducedHalpern(
            eta=5.0 / frobenius, batch=int(math.sqrt(n)), restart=None,
            **_run(**{**sampled, "check_every": 4}),
        ),
        "Alg. 2": InexactHalpern(
            eta=math.sqrt(n) / frobenius, inner="variance_reduced", restart=None,
            inner_step=5.0 * math.sqrt(p * (1.0 - p)) / (math.sqrt(n) + 1.0), inner_length=0.05,
            **_run(**{**sampled, "check_every": 1}),
        ),
        "FEG, steps of theory, restarts": FastExtraGradient(
            restart="adaptive", **_run(check_every=1)
        ),
        "Alg. 2, steps of theory, restarts": InexactHalpern(
            inner="variance_reduced", **_run(**{**sampled, "check_every": 1})
        ),
    }  # fmt: skip


def _games(size: dict[str, Any], seed: int) -> Section:
    began = time.perf_counter()
    n, epochs = size["game"], size["epochs"]
    rows: list[Row] = []
    cells, groups = [], {}
    for weights in ("columns", "rows"):
        A = policeman_burglar(n, weights)
        game = MatrixGame(A)
        value = game_value(A)

        def measure(point: Any, A: Values = A) -> float:
            return natural_residual(A, *point)

        curves = {
            name: Curve(game, solver, epochs, measure)
            for name, solver in _game_methods(A, seed).items()
        }
        groups[f"weights of {weights}"] = curves
        outside = 0
        for name, curve in curves.items():
            certificate = game.certificate(curve.x)
            details = certificate.details
            slack = 1e-9 * game.spread
            outside += not details["lower"] - slack <= value <= details["upper"] + slack
            cells.append(
                [weights, name, curve.last, curve.best, certificate.gap, curve.nit[-1],
                 curve.seconds]
            )  # fmt: skip
        rows.append(
            Row(
                f"weights of {weights}: runs whose bounds do not enclose the value of HiGHS",
                outside, band=(0, 0), source="weak duality; SciPy's linprog on the game's program",
            )
        )  # fmt: skip
        rows += _order(f"weights of {weights}", curves)
    return Section(
        "Halpern iteration: policeman and burglar",
        f"Matrix games {n}x{n} from the published recipe and seed, {epochs} passes over the data; "
        "one evaluation of the operator is one pass, a sampled row and column 1/n of one. Steps "
        "of the first six are the published ones (OGDA: theory); they exceed what the theorems "
        "allow. With weights of columns the solution is nearly pure; with weights of rows it is "
        "not.",
        rows,
        [
            Table(
                ["weights", "method", "natural residual", "smallest", "duality gap",
                 "iterations", "seconds"],
                cells, "At the last iterate, and the smallest residual on the way",
            )
        ],
        draw(_plot(groups, "natural residual"), "Natural residual against passes.", size=(9, 3.4)),
        REFERENCE,
        seconds=time.perf_counter() - began,
    )  # fmt: skip


def _order(where: str, curves: dict[str, Curve]) -> list[Row]:
    rows = []
    for one in ("Alg. 1", "Alg. 2"):
        if curves[one].diverged:
            rows.append(
                Row(
                    f"{where}: {one} with the published step", None,
                    note=f"diverges after {curves[one].epochs[-1]:.0f} passes, with batches drawn "
                    "with replacement; the operator is not cocoercive, there is no guarantee",
                )
            )  # fmt: skip
            continue
        rows += [
            Row(
                f"{where}: residual of {one} over that of {other} at the end",
                curves[one].last / curves[other].last,
                source="the paper shows curves, without numbers",
            )
            for other in ("EG", "EAG", "VR-EG")
        ]
    return rows


def _plot(groups: dict[str, dict[str, Curve]], label: str) -> Any:
    def plot(figure: MatplotlibFigure) -> None:
        axes = figure.subplots(1, len(groups), squeeze=False)[0]
        for axis, (title, curves) in zip(axes, groups.items(), strict=True):
            for index, (name, curve) in enumerate(curves.items()):
                line = ("-", "--", ":")[index // 6]
                axis.loglog(
                    np.maximum(curve.epochs, 1.0), np.maximum(curve.values, 1e-16), line,
                    color=f"C{index % 6}", label=name,
                )  # fmt: skip
            axis.set_title(title, fontsize=9)
            axis.set_xlabel("passes over the data")
        axes[0].set_ylabel(label)
        axes[0].legend(fontsize=6)

    return plot


# -- saddle ---------------------------------------------------------------------------------------


def _saddle(size: dict[str, Any], seed: int) -> Section:
    began = time.perf_counter()
    n, passes = size["saddle"], size["passes"]
    M, q = ouyang_xu(n)
    start = np.full(2 * n, 1.0 / n)
    problem = MonotoneInclusion((M, q), start)
    u = exact_saddle(M, q)
    terms = problem.n_terms
    sampled = {"random_state": seed, "sampling": "uniform"}
    solvers = {
        "EG": ExtraGradient(step_size=0.5, **_run(check_every=1)),
        "EAG": AnchoredExtraGradient(variant="C", step_size=0.3, **_run(check_every=1)),
        "VR-EG": VarianceReducedExtraGradient(**_run(check_every=max(terms // 8, 1), **sampled)),
        "Alg. 1": VarianceReducedHalpern(
            eta=0.3, batch=int(math.sqrt(n)), restart=None, **_run(check_every=4, **sampled)
        ),
        "Alg. 1, η = 0.1": VarianceReducedHalpern(
            eta=0.1, batch=int(math.sqrt(n)), restart=None, **_run(check_every=4, **sampled)
        ),
        "Alg. 2": InexactHalpern(
            eta=math.sqrt(n), inner="variance_reduced", inner_step=0.001, inner_length=0.05,
            restart=None, **_run(check_every=1, **sampled),
        ),
        "FEG, restarts": FastExtraGradient(restart="adaptive", **_run(check_every=1)),
        "Halpern, exact resolvents": InexactHalpern(inner="exact", **_run(check_every=1)),
    }  # fmt: skip

    def norm(x: Any) -> float:
        return float(np.linalg.norm(M @ x + q))

    curves = {
        name: Curve(problem, solver, passes, norm, below=1e-12) for name, solver in solvers.items()
    }
    cells = [
        [name, c.last, c.best, float(np.linalg.norm(c.x - u)), c.epochs[-1], c.nit[-1],
         c.seconds]
        for name, c in curves.items()
    ]  # fmt: skip
    rows = [
        Row(
            "exact resolvents: distance of the answer to the linear solve, relative",
            float(np.linalg.norm(curves["Halpern, exact resolvents"].x - u))
            / float(np.linalg.norm(u)),
            band=(0.0, 1e-6), source="closed form",
        ),
        *_order("saddle", curves),
    ]  # fmt: skip
    return Section(
        "Halpern iteration: equality-constrained quadratic",
        f"Worst case of Ouyang and Xu, {n} variables and constraints, {passes} passes, published "
        "start and steps (VR-EG: theory). The solution is one linear solve away; the methods are "
        "compared, not recommended. The operator is not cocoercive, so that Algorithm 1 has no "
        "guarantee: at 200 variables it diverges with the published η = 0.3 and batches drawn "
        "with replacement, and goes on with η = 0.1.",
        rows,
        [
            Table(
                ["method", "|F|", "smallest", "distance to the solution", "passes", "iterations",
                 "seconds"],
                cells, "At the last iterate, and the smallest on the way",
            )
        ],
        draw(_plot({"saddle": curves}, "|F(u)|"), "Operator norm against passes.", size=(6, 3.4)),
        REFERENCE,
        seconds=time.perf_counter() - began,
    )  # fmt: skip


# -- snapshots ------------------------------------------------------------------------------------


def _snapshots(seed: int) -> Section:
    began = time.perf_counter()
    from lowrank_opt.monotone.inexact import inexact_resolvent
    from lowrank_opt.monotone.operator_terms import terms_of

    rng = np.random.default_rng(seed)
    A = rng.standard_normal((50, 50))
    game = MatrixGame(A)
    n, L = 50, float(np.linalg.norm(A))
    eta, p = math.sqrt(n) / L, 1.0 / n
    gamma = 0.5 * math.sqrt(p * (1.0 - p)) / (eta * L + 1.0)
    u = game.start()
    exact = inexact_resolvent(game, u, eta, 0.5 / (eta * game.lipschitz + 1.0), length=20_000,
                              share=1e-14)[0]  # fmt: skip
    terms = terms_of(game, "importance")
    lengths = (1000, 5000, 20_000)
    found: dict[str, list[float]] = {}
    for snapshot in ("newest", "outer"):
        found[snapshot] = []
        for length in lengths:
            draws = np.random.default_rng([seed, length])
            v = inexact_resolvent(
                game, u, eta, gamma, terms=terms, rng=draws, length=length, snapshot=snapshot
            )[0]
            found[snapshot].append(float(np.linalg.norm(v - exact)))
    away = float(np.linalg.norm(u - exact))
    rows = [
        Row(
            "snapshot at the newest point, 5000 inner steps: distance to the resolvent, over that "
            "at the start", found["newest"][1] / away, band=(0.0, 1e-6),
            source="Alacaoglu, Malitsky, Cevher 2021: linear convergence",
        ),
        Row(
            "snapshot at the outer point, 20000 inner steps: the same", found["outer"][2] / away,
            band=(1e-2, None),
            source="it does not converge",
            note="the released script resets the snapshot to the outer point; here this is "
            'snapshot="outer", for comparisons only',
        ),
    ]  # fmt: skip
    return Section(
        "Halpern iteration: where the snapshot moves",
        "Inner method of Algorithm 2 on a Gaussian game 50x50. The resolvent itself is computed "
        "by deterministic steps to rounding.",
        rows,
        [
            Table(
                ["snapshot moves to", *(f"{k} steps" for k in lengths)],
                [["the newest point", *found["newest"]], ["the outer point", *found["outer"]]],
                f"Distance to the exact resolvent; at the start {away:.3g}",
            )
        ],
        [],
        REFERENCE,
        seconds=time.perf_counter() - began,
    )


# -- regimes --------------------------------------------------------------------------------------


def _regimes(size: dict[str, Any]) -> Section:
    began = time.perf_counter()
    from scipy.stats import spearmanr

    from lowrank_opt.monotone.constants import THRESHOLD, THRESHOLD_COCOERCIVE
    from lowrank_opt.monotone.regimes import calibration_suite, compare_methods, regime_map

    measured = {
        kind: regime_map(size["terms"], size["spreads"], skew=skew)
        for kind, skew in (("cocoercive", False), ("monotone", True))
    }
    rows, cells, everything = [], [], []
    for kind, regimes in measured.items():
        everything += regimes
        cells += [
            [kind, r.n_terms, r.spread, r.ratio, r.deterministic, r.variance_reduced, r.gain,
             r.chosen]
            for r in regimes
        ]  # fmt: skip
        finite = [r for r in regimes if math.isfinite(r.gain) and r.gain > 0]
        order = spearmanr([r.ratio for r in finite], [r.gain for r in finite]).statistic
        rows.append(
            Row(
                f"{kind}: rank correlation of √n L_F / L and the gain", float(order),
                band=(0.0, None), source="theory: the gain grows in proportion, up to a constant",
            )
        )  # fmt: skip
    losing = [r.ratio for r in everything if r.gain < 1.0]
    paying = [r.ratio for r in everything if r.gain > 1.0]
    rows += [
        Row(
            "largest √n L_F / L at which sampling lost", max(losing) if losing else "none",
            source=f"measured; thresholds of the automatic choice: {THRESHOLD:g}, cocoercive "
            f"{THRESHOLD_COCOERCIVE:g}",
        ),
        Row(
            "smallest √n L_F / L at which sampling paid", min(paying) if paying else "none",
            source="measured",
        ),
    ]  # fmt: skip
    if size["suite"]:
        everything = [compare_methods(problem, name) for name, problem in calibration_suite()]
    rows.append(
        Row(
            "automatic choice: most oracle calls over the better alternative's, "
            f"{len(everything)} problems",
            max(r.loss for r in everything), band=(1.0, 1.2), source="target of this library",
        )
    )  # fmt: skip

    def plot(figure: MatplotlibFigure) -> None:
        axes = figure.subplots()
        for kind, regimes in measured.items():
            shown = [(r.ratio, r.gain) for r in regimes if math.isfinite(r.gain) and r.gain > 0]
            axes.loglog(*zip(*shown, strict=True), "o", label=kind)
        axes.axhline(1.0, linestyle=":")
        for ratio in (THRESHOLD, THRESHOLD_COCOERCIVE):
            axes.axvline(ratio, linestyle=":")
        axes.set_xlabel("√n L_F / L")
        axes.set_ylabel("gain")
        axes.legend(fontsize=8)

    return Section(
        "Halpern iteration: when sampling pays",
        "Means of n affine terms whose mean constant L over the constant L_F of their mean is "
        "given; passes to 1e-4 of the residual at the start, by the best deterministic method of "
        "the automatic choice and by the variance-reduced one (median of three seeds). Sampling "
        "promises √n L_F / L; constants and the logarithm eat the first ten or so of it. Gains "
        "below 1 are losses.",
        rows,
        [
            Table(
                ["operator", "terms", "L / L_F", "√n L_F / L", "passes, deterministic",
                 "passes, sampled", "gain", "chosen"], cells, "Passes over the data, and the gain",
            )
        ],
        draw(plot, "Gain against √n L_F / L; dotted: no gain, and the threshold of the choice.",
             size=(6, 3.0)),
        REFERENCE,
        seconds=time.perf_counter() - began,
    )  # fmt: skip
