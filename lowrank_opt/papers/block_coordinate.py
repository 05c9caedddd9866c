"""Nutini, Laradji and Schmidt: which block to choose, and what to do with it.

The data follow the recipes of the published experiments: regressions with sparse designs whose
columns have very different scales, a multi-class problem, and two label-propagation problems. The
least-squares data themselves were not distributed; the law is, so rules are compared with each
other. Bands are the paper's statements about which is ahead, and closed forms.
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

from lowrank_opt.block_coordinate import (
    BlockCoordinateDescent,
    CompositeProblem,
    GLMProblem,
    QuadraticProblem,
    SparseGLMSolver,
)
from lowrank_opt.core import History
from lowrank_opt.numerics import NonNegative
from lowrank_opt.papers.report import Row, Section, Table, draw

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

__all__ = ["reproduce"]

REFERENCE = (
    "J. Nutini, I. Laradji, M. Schmidt, “Let's Make Block Coordinate Descent Converge Faster”, "
    "JMLR 23(131), 2022, arXiv:1712.08859"
)

_SCALES: dict[str, dict[str, Any]] = {
    "smoke": {
        "A": (300, 3000), "B": (200, 1000), "C": (200, 200, 10), "D": (50, 100), "E": (1000, 50),
        "iterations": 200,
    },
    "medium": {
        "A": (500, 5000), "B": (500, 5000), "C": (500, 500, 20), "D": (50, 100), "E": (2000, 100),
        "iterations": 500,
    },
    "paper": {
        "A": (1000, 10000), "B": (1000, 10000), "C": (1000, 1000, 50), "D": (50, 100),
        "E": (2000, 100), "iterations": 500,
    },
}  # fmt: skip
# Below this part of the first objective, rounding decides which method is ahead.
_FLOOR = 1e-14


def reproduce(scale: str, *, random_state: int = 0) -> list[Section]:
    """Compare the rules on the paper's kinds of data.

    Parameters
    ----------
    scale : {"smoke", "medium", "paper"}
        Size of the data, and number of iterations.
    random_state : int, default=0
        Seed of data and of random rules.

    Returns
    -------
    list of Section
        Gradient updates, matrix and Newton updates, message passing, active sets.
    """
    size = _SCALES[scale]
    return [
        part(size, random_state) for part in (_gradient, _second_order, _messages, _active_sets)
    ]


class Curve:
    """Excess of the objective over the optimum along a run, as a part of the first.

    Parameters
    ----------
    problem : Problem
        What is solved.
    best : float
        Optimal objective.
    iterations, every : int
        Length of the run, and of the steps of the curve.
    seed : int
        Seed of random rules.
    **rules
        Parameters of :class:`BlockCoordinateDescent`.
    """

    def __init__(
        self, problem: Any, best: float, iterations: int, seed: int, every: int = 10, **rules: Any
    ) -> None:
        history = History()
        solver = BlockCoordinateDescent(
            tol=0.0, max_iter=iterations, check_every=every, random_state=seed, **rules
        )
        self.result = solver.solve(problem, history=history)
        self.nit = np.array(history["nit"])
        excess = np.array(history["objective"]) - best
        self.excess = np.maximum(excess / excess[0], 1e-16)

    @property
    def last(self) -> float:
        """Excess at the end, or the rounding level if it is below."""
        return max(float(self.excess[-1]), _FLOOR)

    def first_below(self, level: float) -> int:
        """Return the iterations to an excess, or one more than there were."""
        below = np.flatnonzero(self.excess <= level)
        return int(self.nit[below[0]]) if below.size else int(self.nit[-1]) + 1


def regression_design(n: int, p: int, rng: np.random.Generator) -> sp.csc_array:
    """Draw a sparse design: normal entries around 1, columns of normal scales times 10."""
    keep = rng.random((n, p)) < min(1.0, 10.0 * math.log(n) / n)
    values = (rng.standard_normal((n, p)) + 1.0) * (10.0 * rng.standard_normal(p))
    return sp.csc_array(np.where(keep, values, 0.0))


def least_squares(n: int, p: int, seed: Any) -> GLMProblem:
    """Data set A: a tenth of the coefficients, noise of variance 1."""
    rng = np.random.default_rng(seed)
    X = regression_design(n, p, rng)
    w = rng.standard_normal(p) * (rng.random(p) < 0.1)
    return GLMProblem(X, X @ w + rng.standard_normal(n))


def logistic(n: int, p: int, seed: Any) -> GLMProblem:
    """Data set B: signs of such a regression, a tenth of them wrong."""
    rng = np.random.default_rng(seed)
    X = regression_design(n, p, rng)
    w = rng.standard_normal(p) * (rng.random(p) < 0.1)
    y = np.where(X @ w >= 0, 1.0, -1.0) * np.where(rng.random(n) < 0.1, -1.0, 1.0)
    return GLMProblem(X, y, "logistic")


def softmax(n: int, p: int, classes: int, seed: Any) -> GLMProblem:
    """Data set C: the class with the largest noisy score."""
    rng = np.random.default_rng(seed)
    X = regression_design(n, p, rng)
    scores = X @ rng.standard_normal((p, classes)) + rng.standard_normal((n, classes))
    return GLMProblem(X, np.unique(scores.argmax(axis=1), return_inverse=True)[1], "softmax")


def propagation(W: Any, labelled: NDArray[Any], labels: NDArray[Any]) -> QuadraticProblem:
    """Harmonic labels of the other nodes: ``1/2 sum w_ij (y_i - y_j)^2``, each pair once."""
    W = sp.csr_array(W)
    rest = np.setdiff1d(np.arange(W.shape[0]), labelled)
    laplacian = sp.csr_array(sp.diags_array(W.sum(axis=1)) - W)
    return QuadraticProblem(laplacian[rest][:, rest], W[rest][:, labelled] @ labels)


def grid(side: int) -> sp.csr_array:
    """Adjacency of a lattice; node i is in row ``i % side`` and column ``i // side``."""
    path = sp.diags_array([np.ones(side - 1)] * 2, offsets=[1, -1])
    eye = sp.eye_array(side)
    return sp.csr_array(sp.kron(eye, path) + sp.kron(path, eye))


def lattice(side: int, n_labelled: int, seed: int = 1) -> QuadraticProblem:
    """Data set D: weights of 1e5 on a lattice, some nodes with labels of deviation 10.

    With ``seed=1`` NumPy's legacy generator draws the published nodes and labels.
    """
    state = np.random.RandomState(seed)
    labelled = state.choice(side * side, n_labelled, replace=False)
    labels = state.randn(n_labelled) * 10.0
    return propagation(1e5 * grid(side), labelled, labels)


def two_moons(n: int, n_labelled: int, seed: Any) -> QuadraticProblem:
    """Data set E: two half circles, each point joined to its five nearest neighbours."""
    from scipy.spatial import cKDTree

    rng = np.random.default_rng(seed)
    half = n // 2
    angle = math.pi * rng.random(n)
    upper = np.arange(n) < half
    points = np.where(
        upper[:, None],
        np.column_stack([np.cos(angle), np.sin(angle)]),
        np.column_stack([1.0 - np.cos(angle), 0.5 - np.sin(angle)]),
    )
    points += 0.1 * rng.standard_normal((n, 2))
    _, near = cKDTree(points).query(points, 6)
    rows = np.repeat(np.arange(n), 5)
    W = sp.csr_array((np.ones(5 * n), (rows, near[:, 1:].ravel())), shape=(n, n))
    W = sp.csr_array(W.maximum(W.T))
    W = _joined(W, points)
    labelled = rng.choice(n, n_labelled, replace=False)
    return propagation(W, labelled, np.where(labelled < half, 1.0, -1.0))


def _joined(W: sp.csr_array, points: NDArray[Any]) -> sp.csr_array:
    """Join the components of a graph by their closest points, so that labels reach every node."""
    from scipy.sparse.csgraph import connected_components
    from scipy.spatial import cKDTree

    while True:
        count, part = connected_components(W, directed=False)
        if count == 1:
            return W
        inside = np.flatnonzero(part == 0)
        outside = np.flatnonzero(part != 0)
        distance, near = cKDTree(points[inside]).query(points[outside])
        i = int(np.argmin(distance))
        a, b = outside[i], inside[near[i]]
        W = sp.csr_array(W + sp.csr_array(([1.0, 1.0], ([a, b], [b, a])), shape=W.shape))


def _rows(name: str, curves: dict[str, Curve], pairs: list[tuple[str, str, str]]) -> list[Row]:
    """One row for each statement that one curve ends below another."""
    return [
        Row(
            f"{name}: excess of {one} over that of {other}",
            curves[one].last / curves[other].last,
            band=(None, 1.0), source=source,
        )
        for one, other, source in pairs
    ]  # fmt: skip


def _plot(groups: dict[str, dict[str, Curve]]) -> Any:
    def plot(figure: Figure) -> None:
        for axes, (title, curves) in zip(
            np.atleast_1d(figure.subplots(1, len(groups))), groups.items(), strict=True
        ):
            for index, (label, curve) in enumerate(curves.items()):
                style = ("-", "--", ":")[index // 6 % 3]
                axes.semilogy(curve.nit, curve.excess, style, color=f"C{index % 6}", label=label)
            axes.set_title(title, fontsize=9)
            axes.set_xlabel("iteration")
            axes.legend(fontsize=6)

    return plot


def _table(groups: dict[str, dict[str, Curve]], caption: str) -> Table:
    labels = list(dict.fromkeys(label for curves in groups.values() for label in curves))
    cells = [
        [label, *(float(g[label].excess[-1]) if label in g else None for g in groups.values())]
        for label in labels
    ]
    return Table(["rule", *groups], cells, caption)


def harmonic(problem: QuadraticProblem) -> float:
    """Optimal objective of a quadratic, by a sparse direct method."""
    from scipy.sparse.linalg import spsolve

    return problem.objective(spsolve(problem.A.tocsc(), problem.b))


def _gradient(size: dict[str, Any], seed: int) -> Section:
    began = time.perf_counter()
    steps = size["iterations"]
    moons = two_moons(*size["E"], [seed, 3])
    # With more coefficients than samples the fit is exact; separable classes have an infimum of 0.
    data = {
        "A, least squares": (least_squares(*size["A"], [seed, 1]), 0.0),
        "C, softmax": (softmax(*size["C"], [seed, 2]), 0.0),
        "E, two moons": (moons, harmonic(moons)),
    }
    groups: dict[str, dict[str, Curve]] = {}
    rows: list[Row] = []
    for name, (problem, best) in data.items():
        curves = groups[name] = {
            f"{kind} {rule}": Curve(
                problem, best, steps, seed, block_size=5, selection=rule, update="gradient",
                blocks="sort" if kind == "fixed" else "variable",
            )
            for kind in ("fixed", "variable")
            for rule in ("random", "cyclic", "lipschitz", "gs", "gsl")
        }  # fmt: skip
        greedy = "abstract and section 3: greedy rules, with the bound that the update uses"
        for kind in ("fixed", "variable"):
            blind = min(
                (f"{kind} {rule}" for rule in ("random", "cyclic", "lipschitz")),
                key=lambda label, curves=curves: curves[label].last,
            )
            rows += _rows(name, curves, [
                (f"{kind} gsl", blind, greedy),
                (f"{kind} gsl", f"{kind} gs", greedy),
            ])  # fmt: skip
        chosen = "section 2: variable blocks have more to choose from"
        rows += _rows(name, curves, [("variable gs", "fixed gs", chosen)])
    problem = data["A, least squares"][0]
    estimated = {
        f"{update}, blocks of {tau}": Curve(
            problem, 0.0, steps, seed, block_size=tau, blocks="order", selection="cyclic",
            update="gradient" if update == "exact constant" else "lipschitz_search",
        )
        for update in ("exact constant", "estimated constant")
        for tau in (5, 20, 50)
    }  # fmt: skip
    groups["A, Lipschitz constants"] = estimated
    partitions = {
        name: Curve(problem, 0.0, steps, seed, block_size=20, blocks=name, selection="gsl",
                    update="gradient")
        for name in ("sort", "order", "avg")
    }  # fmt: skip
    groups["A, partitions"] = partitions
    rows += [
        Row(
            "A: excess of the partition by sorted constants over that of " + other,
            partitions["sort"].last / partitions[other].last, band=(None, 1.0),
            source="appendix: similar constants together are the best fixed blocks",
        )
        for other in ("order", "avg")
    ]  # fmt: skip
    return Section(
        "Gradient updates: which block to choose",
        f"Blocks of 5, {steps} updates with the step 1 / L of the block. Excess of the objective "
        "over its infimum, as a part of the first. Without looking at derivatives (random, cyclic, "
        "by Lipschitz constants) most updates are wasted; of the rules that look, the one that "
        "maximises the bound of the update, derivatives over Lipschitz constants, is ahead.",
        rows,
        [_table(groups, "Excess at the end")],
        draw(_plot(groups), "Excess along the iterations. The last two: known against estimated "
             "Lipschitz constants, cyclic blocks of consecutive variables; partitions, greedy."),
        REFERENCE,
        seconds=time.perf_counter() - began,
    )  # fmt: skip


def _second_order(size: dict[str, Any], seed: int) -> Section:
    began = time.perf_counter()
    steps = size["iterations"]
    moons = two_moons(*size["E"], [seed, 3])
    data = {
        "A, least squares": (least_squares(*size["A"], [seed, 1]), 0.0),
        "C, softmax": (softmax(*size["C"], [seed, 2]), 0.0),
        "E, two moons": (moons, harmonic(moons)),
    }
    groups: dict[str, dict[str, Curve]] = {}
    rows: list[Row] = []
    for name, (problem, best) in data.items():
        curves = groups[name] = {
            f"{kind} {rule}": Curve(
                problem, best, steps, seed, block_size=5, selection=rule, update="matrix",
                blocks="sort" if kind == "fixed" else "variable",
            )
            for kind, rule in (
                ("fixed", "gs"), ("fixed", "gsl"), ("fixed", "gsd"), ("fixed", "gsq"),
                ("variable", "gs"), ("variable", "gsl"), ("variable", "gsd"),
                ("variable", "gsq-iht"),
            )
        }  # fmt: skip
        rows += _rows(name, curves, [
            ("variable gsq-iht", "fixed gsq", "section 2: variable blocks"),
        ])  # fmt: skip
        if problem is moons:
            # Nodes of a neighbour graph have about the same degree: all greedy rules agree.
            rows.append(
                Row(
                    f"{name}: excess of variable gsq-iht over that of variable gs",
                    curves["variable gsq-iht"].last / curves["variable gs"].last,
                    band=(0.9, 1.1), source="section 3: rules differ by the Lipschitz constants",
                    note="constants of a neighbour graph are close to each other",
                )
            )  # fmt: skip
            continue
        rows += _rows(name, curves, [
            ("variable gsq-iht", "variable gs", "section 3: the bound of a matrix update"),
            ("fixed gsq", "fixed gs", "section 3: the bound of a matrix update"),
        ])  # fmt: skip
    newton: dict[str, dict[str, Curve]] = {}
    for name, problem in (
        ("B, logistic", logistic(*size["B"], [seed, 4])),
        ("C, softmax, Newton", data["C, softmax"][0]),
    ):
        curves = newton[name] = {
            f"{update}, blocks of {tau}": Curve(
                problem, 0.0, steps, seed, block_size=tau, blocks="variable", selection="gsd",
                update=update,
            )
            for update in ("matrix", "newton")
            for tau in (5, 50)
        }  # fmt: skip
        rows += _rows(name, curves, [
            ("newton, blocks of 50", "newton, blocks of 5", "appendix: larger blocks, Newton"),
            ("newton, blocks of 50", "matrix, blocks of 50",
             "section 4: the Hessian is below its bound"),
        ])  # fmt: skip
    groups |= newton
    return Section(
        "Matrix and Newton updates",
        f"Blocks of 5, {steps} updates with a bound of the Hessian of the block; then Newton "
        "updates with a line search. Rules come closer to each other, and the quadratic one, found "
        "for variable blocks by iterative hard thresholding, is ahead.",
        rows,
        [_table(groups, "Excess at the end")],
        draw(_plot(groups), "Excess along the iterations."),
        REFERENCE,
        seconds=time.perf_counter() - began,
    )  # fmt: skip


def _messages(size: dict[str, Any], seed: int) -> Section:
    began = time.perf_counter()
    data = {
        "D, lattice": lattice(*size["D"], seed=1 + seed),
        "E, two moons": two_moons(*size["E"], [seed, 3]),
    }
    groups: dict[str, dict[str, Curve]] = {}
    rows: list[Row] = []
    for name, problem in data.items():
        best = harmonic(problem)
        tau = round(problem.n_variables ** (1 / 3))
        rules: dict[str, dict[str, Any]] = {
            "greedy trees": {"blocks": "greedy_forest", "selection": "gs"},
            "random trees": {"blocks": "random_forest"},
            "tree partition": {"blocks": "forest", "selection": "cyclic"},
            "red-black": {"blocks": "color", "selection": "cyclic"},
            f"dense blocks of {tau}": {
                "blocks": "variable", "block_size": tau, "selection": "gs", "update": "exact",
            },
        }  # fmt: skip
        curves = groups[name] = {
            label: Curve(problem, best, 100, seed, every=1, **rule) for label, rule in rules.items()
        }
        others = [label for label in rules if label != "greedy trees"]
        rows += _rows(name, curves, [
            ("greedy trees", other, "section 5: message passing on greedily grown trees")
            for other in others
        ])  # fmt: skip
        rows += _rows(name, curves, [
            ("tree partition", "red-black", "section 5: trees couple what colours do not"),
        ])  # fmt: skip
        rows.append(
            Row(
                f"{name}: variables in a greedy tree block, part of all",
                float(np.mean([
                    len(forest) / problem.n_variables
                    for forest in _greedy_blocks(problem)
                ])),
                band=(0.3, 1.0),
                source="section 5: blocks of the size of the problem at linear cost",
            )
        )  # fmt: skip
    return Section(
        "Message passing: huge blocks",
        "Label propagation: blocks whose graph has no cycle are solved exactly by elimination "
        "along the trees, in linear time. 100 updates each; a dense block of the cube root of the "
        "number of variables costs about as much.",
        rows,
        [_table(groups, "Excess after 100 updates")],
        draw(_plot(groups), "Excess along the updates."),
        REFERENCE,
        seconds=time.perf_counter() - began,
    )  # fmt: skip


def _greedy_blocks(problem: QuadraticProblem) -> list[NDArray[Any]]:
    from lowrank_opt.block_coordinate.forests import greedy_forest

    rng = np.random.default_rng(0)
    return [
        np.asarray(greedy_forest(problem.A, np.abs(rng.standard_normal(problem.n_variables))))
        for _ in range(3)
    ]


def _active_sets(size: dict[str, Any], seed: int) -> Section:
    began = time.perf_counter()
    smooth = least_squares(*size["A"], [seed, 1])
    problem = CompositeProblem(smooth, NonNegative(0.1 * smooth.null_gradient))
    exact = SparseGLMSolver(tol=1e-13).solve(problem)
    support = int(np.count_nonzero(exact.x))
    steps = size["iterations"]
    groups: dict[str, dict[str, Curve]] = {}
    sizes = (5, 50, 100)
    for selection in ("gsq-nn", "random"):
        groups[selection] = {
            f"{update}, blocks of {tau}": Curve(
                problem, exact.fun, steps, seed, every=1 if selection == "gsq-nn" else 20,
                block_size=tau, blocks="variable", selection=selection, update=update,
            )
            for update in ("prox_gradient", "tmp", "prox_newton")
            for tau in sizes
        }  # fmt: skip
    greedy = groups["gsq-nn"]
    large = next((tau for tau in sizes if tau >= support), sizes[-1])
    finite = "section 6: finite termination once the support is found"
    rows = [
        Row(
            "coefficients that are not 0 at the solution", support, band=(None, large),
            source="blocks must be at least as large",
            note="the published data have 51 at their own penalty; they were not distributed",
        ),
        *(
            Row(
                f"updates to rounding (1e-12 of the first excess), {update}, blocks of {large}",
                greedy[f"{update}, blocks of {large}"].first_below(1e-12),
                band=(None, 60), source=finite,
            )
            for update in ("tmp", "prox_newton")
        ),
        *(
            Row(
                f"the same over those of proximal gradient steps, {update}, blocks of {large}",
                greedy[f"{update}, blocks of {large}"].first_below(1e-12)
                / greedy[f"prox_gradient, blocks of {large}"].first_below(1e-12),
                band=(None, 0.5), source="section 6: those stay linear",
            )
            for update in ("tmp", "prox_newton")
        ),
        Row(
            f"excess of random blocks over greedy ones, tmp, blocks of {large}",
            groups["random"][f"tmp, blocks of {large}"].last
            / greedy[f"tmp, blocks of {large}"].last,
            band=(1.0, None), source="section 6 and appendix: greedy rules find the support",
        ),
    ]  # fmt: skip
    return Section(
        "Active sets: superlinear convergence and finite termination",
        "Data A with non-negative coefficients and an L1 penalty. Once the support is known, a "
        "block at least as large solves for all of it: two-metric projection and proximal Newton "
        "steps end at rounding level, proximal gradient steps go on linearly.",
        rows,
        [_table(groups, "Excess at the end")],
        draw(_plot(groups), "Excess along the updates: blocks by the model's decrease, and at "
                            "random."),
        REFERENCE,
        seconds=time.perf_counter() - began,
    )  # fmt: skip
