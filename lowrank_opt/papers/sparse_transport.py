"""Liu, Puigcerver and Blondel: optimal transport with a cap on the nonzeros of every column.

Plans between distributions on a line and in the plane, by a linear program, with an entropic and a
quadratic term, and with a cap; and how fast first-order methods maximise the semi-dual at different
caps. Bands are statements of the abstract, closed forms, and values of a conic program solved by
another library; no number is read off the paper's figures.
"""

from __future__ import annotations

import time
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp
from scipy.optimize import linear_sum_assignment, linprog
from scipy.special import logsumexp

from lowrank_opt.core import AccuracyWarning, ConvergenceWarning, History, Status
from lowrank_opt.papers.report import Figure, Row, Section, Table, draw
from lowrank_opt.plotting import TransportPlanDisplay
from lowrank_opt.transport import SparsityConstrainedOT, TransportProblem

if TYPE_CHECKING:
    from collections.abc import Callable

    from matplotlib.figure import Figure as MatplotlibFigure
    from numpy.typing import NDArray

    from lowrank_opt.core.result import Result

__all__ = ["reproduce"]

REFERENCE = (
    "T. Liu, J. Puigcerver, M. Blondel, “Sparsity-Constrained Optimal Transport”, ICLR 2023, "
    "arXiv:2209.15466"
)
_SCALES: dict[str, dict[str, Any]] = {
    "smoke": {
        "bins": 32, "caps": (1, 2, 3, 4, 6, 8), "conic": (2, None), "points": 20,
        "clouds": 100, "compared": (2, 4, 10, None), "steps": 300,
    },
    "medium": {
        "bins": 32, "caps": (1, 2, 3, 4, 5, 6, 7, 8, 10), "conic": (1, 2, 4, None),
        "points": 20, "clouds": 300, "compared": (2, 3, 4, 6, 10, 30, None), "steps": 500,
    },
    "paper": {
        "bins": 32, "caps": tuple(range(1, 13)), "conic": (1, 2, 3, 4, 8, None),
        "points": 20, "clouds": 1000, "compared": (2, 3, 4, 6, 10, 30, None), "steps": 1000,
    },
}  # fmt: skip
_TOL = 1e-7
# Entries up to this part of the mass of their column count as zero.
_ZERO = 1e-12
_ABSTRACT = {
    "dense": "abstract: entropic plans are fully dense",
    "cap": "abstract: at most k nonzeros a column",
    "large": "abstract: quadratically regularised transport when k is large enough",
    "small": "abstract: unregularised transport when k is small enough",
    "smooth": "abstract: the larger k, the smoother the objective and the faster the convergence",
}


def reproduce(scale: str, *, random_state: int = 0) -> list[Section]:
    """Run the experiments on a line, in the plane, and of the solvers.

    Parameters
    ----------
    scale : {"smoke", "medium", "paper"}
        Number of caps, of points and of steps.
    random_state : int, default=0
        Seed of the points and of the solvers.

    Returns
    -------
    list of Section
        The line, the plane, the solvers.
    """
    size = _SCALES[scale]
    return [part(size, random_state) for part in (_line, _plane, _solvers)]


# -- data -----------------------------------------------------------------------------------------


def bins(n: int, *components: tuple[float, float]) -> NDArray[np.float64]:
    """Return masses on 0, …, n − 1: Gaussians (mean, deviation) of equal weight, of total 1."""
    x = np.arange(n, dtype=np.float64)
    total = np.zeros(n)
    for mean, deviation in components:
        density = np.exp(-0.5 * ((x - mean) / deviation) ** 2)
        total += density / density.sum()
    return total / total.sum()


def squared_distances(X: Any, Y: Any) -> NDArray[np.float64]:
    """Return the squared Euclidean distance of every pair."""
    return np.sum((X[:, None, :] - Y[None, :, :]) ** 2, axis=2)


# -- what plans are compared with -----------------------------------------------------------------


def monotone_cost(C: Any, a: Any, b: Any) -> float:
    """Return the cost of the coupling that fills from left to right; optimal on a line.

    For costs that are convex in the distance, and equal totals.
    """
    i = j = 0
    left, free, total = float(a[0]), float(b[0]), 0.0
    while True:
        moved = min(left, free)
        total += moved * C[i, j]
        left, free = left - moved, free - moved
        if left <= free:
            i += 1
            if i == len(a):
                return total
            left = float(a[i])
        else:
            j += 1
            if j == len(b):
                return total
            free = float(b[j])


def linear_program(C: Any, a: Any, b: Any) -> NDArray[np.float64]:
    """Return an optimal plan without regularisation, a vertex, by SciPy's HiGHS."""
    m, n = C.shape
    rows = sp.kron(sp.eye_array(m), np.ones((1, n)))
    columns = sp.kron(np.ones((1, m)), sp.eye_array(n))
    answer = linprog(
        np.ravel(C), A_eq=sp.vstack([rows, columns]).tocsc(), b_eq=np.concatenate([a, b]),
        method="highs-ipm",  # with its crossover to a vertex
    )  # fmt: skip
    return np.maximum(answer.x.reshape(m, n), 0.0)


def sinkhorn(
    C: Any, a: Any, b: Any, reg: float, *, tol: float = 1e-7, max_iter: int = 20_000
) -> tuple[NDArray[np.float64], float]:
    """Return the logarithm of the entropic plan, and the error of its column sums.

    Sinkhorn's iterations on logarithms; the strength falls by halves from the range of the costs
    to `reg`. Masses must be positive. Rows are exact.
    """
    log_a, log_b = np.log(a)[:, None], np.log(b)[None, :]
    f = np.zeros((len(a), 1))
    levels = max(0, int(np.ceil(np.log2(np.ptp(C) / reg))))
    for level in range(levels, -1, -1):
        strength = reg * 2.0**level
        limit = tol if level == 0 else 1e-2
        for iteration in range(max_iter):
            g = strength * (log_b - logsumexp((f - C) / strength, axis=0, keepdims=True))
            f = strength * (log_a - logsumexp((g - C) / strength, axis=1, keepdims=True))
            if iteration % 10 == 9:
                log_plan = (f + g - C) / strength
                error = float(np.sum(np.abs(np.exp(logsumexp(log_plan, axis=0)) - b)))
                if error <= limit:
                    break
    return log_plan, error


def conic_value(C: Any, a: Any, b: Any, gamma: float, k: int) -> float:
    """Return the optimal value of the convex relaxation by cvxpy and Clarabel.

    The squared k-support norm in its perspective form: the least sum of t²/z with z between 0 and
    1 and of total k.
    """
    import cvxpy as cp

    m, n = C.shape
    # T is n times the plan: masses around 1 are kinder to an interior-point method.
    T, Z, R = (cp.Variable(m * n, nonneg=True) for _ in range(3))
    constraints = [
        cp.sum(cp.reshape(T, (m, n), order="C"), axis=1) == n * a,
        cp.sum(cp.reshape(T, (m, n), order="C"), axis=0) == n * b,
        Z <= 1,
        cp.sum(cp.reshape(Z, (m, n), order="C"), axis=0) <= k,
        cp.SOC(R + Z, cp.vstack([2 * T, R - Z])),  # t² ≤ r z
    ]
    objective = cp.Minimize(np.ravel(C) @ T + 0.5 * gamma / n * cp.sum(R))
    problem = cp.Problem(objective, constraints)
    problem.solve(solver=cp.CLARABEL, tol_gap_abs=1e-7, tol_gap_rel=1e-7, tol_feas=1e-7)
    return float(problem.value) / n


def support(T: Any, b: Any) -> NDArray[np.bool_]:
    """Return which entries of a dense plan count as nonzero."""
    return _ZERO * np.asarray(b)[None, :] < T


def nonzeros(T: Any, b: Any) -> NDArray[np.int64]:
    """Return the number of nonzeros of every column of a dense plan."""
    return np.sum(support(T, b), axis=0)


def capped(
    C: Any, a: Any, b: Any, gamma: float, k: int | None, *, seed: int = 0, **options: Any
) -> Result:
    """Solve the transport problem with a cap; without one it is the quadratic problem."""
    with warnings.catch_warnings():
        # Few places on purpose; first-order methods get stuck on purpose.
        warnings.simplefilter("ignore", AccuracyWarning)
        warnings.simplefilter("ignore", ConvergenceWarning)
        problem = TransportProblem(a, b, C, gamma=gamma, max_nnz=k)
        options = {"tol": _TOL, "n_threads": 1, "random_state": seed, **options}
        history = options.pop("history", None)
        return SparsityConstrainedOT(**options).solve(problem, history=history)


def keeps_marginals(result: Result) -> bool:
    """Return whether the plan holds both the cap and the marginals."""
    return result.plan_status in ("optimal", "feasible")


def with_cap(C: Any, a: Any, b: Any, gamma: float, k: int, *, seed: int = 0) -> Result:
    """Solve with a cap; where no plan with it and the marginals is found, let the rows be off.

    Whether there is a plan with the cap and the marginals is NP-hard to decide.
    """
    result = capped(C, a, b, gamma, k, seed=seed)
    if keeps_marginals(result):
        return result
    return capped(C, a, b, gamma, k, seed=seed, rounding="columns")


# -- the experiments ------------------------------------------------------------------------------


def _line(size: dict[str, Any], seed: int) -> Section:
    began = time.perf_counter()
    n = size["bins"]
    cases = {
        "one Gaussian to another": (bins(n, (10, 4)), bins(n, (16, 5))),
        "a Gaussian to two": (bins(n, (16, 5)), bins(n, (8, 5), (24, 5))),
    }
    place = np.arange(n, dtype=np.float64)[:, None]
    C = squared_distances(place, place)
    C /= C.max()
    rows: list[Row] = []
    cells: list[list[Any]] = []
    shown: dict[str, dict[str, Any]] = {}
    worst = dict.fromkeys(("monotone", "conic", "rise", "residual"), 0.0)
    first, limit, least = 0.0, 0.0, 1.0
    most = 0
    for name, (a, b) in cases.items():
        lp = linear_program(C, a, b)
        cheapest = float(np.sum(C * lp))
        truth = monotone_cost(C, a, b)
        worst["monotone"] = max(worst["monotone"], abs(cheapest / truth - 1.0))
        log_plan, _ = sinkhorn(C, a, b, 2e-3)
        entropic = np.exp(log_plan)
        least = min(least, float(np.mean(np.isfinite(log_plan))))
        quadratic = capped(C, a, b, 0.1, None, seed=seed)
        results = {k: capped(C, a, b, 1.0, k, seed=seed) for k in (*size["caps"], None)}
        two = with_cap(C, a, b, 1.0, 2, seed=seed)
        most = max(most, int(two.max_nnz))
        worst["residual"] = max(
            worst["residual"], *(r.certificate.residual for r in (quadratic, *results.values()))
        )
        values = [results[k].dual_value for k in (*size["caps"], None)]
        worst["rise"] = max(worst["rise"], float(np.max(np.diff(values))))
        for k in size["conic"]:
            exact = conic_value(C, a, b, 1.0, n if k is None else k)
            found = results[k].dual_value
            worst["conic"] = max(worst["conic"], abs(found / exact - 1.0))
        closed = truth + 0.5 * float(b @ b)
        first = max(first, abs(results[1].dual_value / closed - 1.0))
        enough = int(results[None].x.counts(_ZERO).max())
        at_enough = capped(C, a, b, 1.0, enough, seed=seed).dual_value
        limit = max(limit, abs(at_enough / results[None].dual_value - 1.0))
        plans = {
            "linear program": lp,
            "entropic, 0.002": entropic,
            "quadratic, γ = 0.1": quadratic.x.toarray(),
            "at most 2 a column, γ = 1": two.x.toarray(),
        }
        shown[name] = plans
        for label, T in plans.items():
            cells.append(
                [name, label, float(np.mean(support(T, b))), int(nonzeros(T, b).max()),
                 float(np.sum(C * T)), float(np.sum(np.abs(T.sum(axis=1) - a)))]
            )  # fmt: skip
        rows += [_gap_row(f"{name}, k = {k}", results[k]) for k in (2, 4)]
    finite = ", ".join(str(k) for k in size["conic"] if k is not None)
    caps = f"caps {finite} and n (none)"
    rows = [
        Row(
            "linear program: cost over that of the monotone coupling, minus 1", worst["monotone"],
            band=(None, 1e-8), source="closed form: on a line the monotone coupling is optimal",
        ),
        Row(
            "entropic plan: share of entries that are positive", least, paper=1.0, band=(1.0, 1.0),
            source=_ABSTRACT["dense"], note="by its logarithm; many round to 0",
        ),
        Row(
            "cap of 2: most nonzeros of a column", most, paper=2.0, band=(1, 2),
            source=_ABSTRACT["cap"],
        ),
        Row(
            "largest residual of all relaxed plans", worst["residual"], band=(None, 10 * _TOL),
            source="certificate: marginals and Lagrangian gap",
        ),
        Row(
            f"{caps}: largest relative difference from the conic program",
            worst["conic"], band=(None, 1e-5), source="cvxpy with Clarabel, perspective form",
        ),
        Row(
            "k = 1: relative difference from transport cost + ½ γ‖b‖²", first, band=(None, 1e-5),
            source=f"closed form; {_ABSTRACT['small']}",
        ),
        Row(
            "k = longest column of the quadratic plan: relative difference from no cap", limit,
            band=(None, 1e-5), source=_ABSTRACT["large"],
        ),
        Row(
            "largest rise of the optimal value from a cap to the next larger one", worst["rise"],
            band=(None, 1e-6), source="theory: the value does not increase with k",
        ),
        *rows,
    ]  # fmt: skip
    figures: list[Figure] = []
    for name, plans in shown.items():
        figures += draw(
            _pictures(plans), f"From {name}: rows are sources, columns targets, both from left to "
            "right. Blank pairs carry no mass.", size=(9, 2.6),
        )  # fmt: skip
    return Section(
        "Plans on a line",
        f"Discretised Gaussians on {n} bins, squared distances divided by the largest. Strengths "
        "are those of the released experiments: 0.002 for the entropic term, 0.1 for the "
        "quadratic one, 1 with a cap of 2. With the cap columns are exact and sparse; whether row "
        "sums can be exact as well is a matter of counting: "
        f"{2 * n} places serve {2 * n - 1} masses in general position.",
        rows,
        [
            Table(
                ["case", "plan", "nonzero", "longest column", "<C, T>", "row residual"], cells,
                "Share of nonzero entries, transport cost and error of the row sums",
            )
        ],
        figures,
        REFERENCE,
        seconds=time.perf_counter() - began,
    )  # fmt: skip


def _gap_row(name: str, result: Result) -> Row:
    """The proved gap of a plan that keeps the cap and the marginals, if one was found."""
    if not keeps_marginals(result):
        return Row(
            f"{name}: gap of the plan to the lower bound, relative",
            f"no plan found ({result.plan_status})",
            note="whether a plan with this cap and these marginals exists is NP-hard to decide",
        )  # fmt: skip
    gap = result.gap / abs(result.dual_value)
    return Row(
        f"{name}: sanity check, the plan is not below the bound; its gap, relative", gap,
        band=(-1e-9, None), certificate=result.certificate.residual, seconds=result.time,
        source="weak duality: no plan with the cap is below the bound",
        note=f"the size of the gap is reported, not judged; plan status {result.plan_status!r}",
    )  # fmt: skip


def _pictures(plans: dict[str, Any]) -> Callable[[MatplotlibFigure], None]:
    def plot(figure: MatplotlibFigure) -> None:
        for axes, (label, T) in zip(figure.subplots(1, len(plans)), plans.items(), strict=True):
            TransportPlanDisplay(np.where(T > 1e-9, T, 0.0)).plot(axes, aspect="equal")
            axes.set_title(label, fontsize=9)
            axes.set_xticks([])
            axes.set_yticks([])
            axes.set_xlabel("")
            axes.set_ylabel("")

    return plot


def _plane(size: dict[str, Any], seed: int) -> Section:
    began = time.perf_counter()
    n = size["points"]
    rng = np.random.default_rng([seed, 2])
    X = rng.standard_normal((n, 2))
    # Deviation: the released covariance has -0.8 and -0.6 off its diagonal; here -0.8 twice.
    Y = rng.multivariate_normal([4.0, 4.0], [[1.0, -0.8], [-0.8, 1.0]], size=n)
    C = squared_distances(X, Y)
    a = np.full(n, 1.0 / n)
    gamma = 10.0
    lp = linear_program(C, a, a)
    assignment = float(np.sum(C[linear_sum_assignment(C)])) / n
    log_plan, error = sinkhorn(C, a, a, 0.1)
    results = {k: with_cap(C, a, a, gamma, k, seed=seed) for k in (2, 1)}
    results[None] = capped(C, a, a, gamma, None, seed=seed)
    labels = {None: "quadratic", 2: "at most 2 a column", 1: "at most 1 a column"}
    plans = {
        "linear program": lp,
        "entropic, 0.1": np.exp(log_plan),
        **{label: results[k].x.toarray() for k, label in labels.items()},
    }
    cells = [
        [label, float(np.mean(support(T, a))), int(nonzeros(T, a).max()), float(np.sum(C * T)),
         float(np.sum(np.abs(T.sum(axis=1) - a)))]
        for label, T in plans.items()
    ]  # fmt: skip
    one, two = results[1], results[2]
    rows = [
        Row(
            "k = 1: cost of the plan over that of the optimal assignment",
            float(np.sum(C * one.x.toarray())) / assignment, band=(1 - 1e-6, 1 + 1e-6),
            certificate=one.certificate.residual, seconds=one.time, source=_ABSTRACT["small"],
            note="assignment by SciPy's linear_sum_assignment",
        ),
        Row(
            "k = 1: gap of the plan, relative", one.gap / one.dual_value, band=(-1e-9, 10 * _TOL),
            source="theory: with equal masses the assignment attains the bound",
        ),
        Row(
            "k = 1: relative difference of the bound from assignment cost + ½ γ‖b‖²",
            abs(one.dual_value / (assignment + 0.5 * gamma / n) - 1.0), band=(None, 1e-5),
            source="closed form",
        ),
        Row(
            "k = 2: most nonzeros of a column", two.max_nnz, paper=2.0, band=(1, 2),
            source=_ABSTRACT["cap"], note=f"plan status {two.plan_status!r}",
        ),
        _gap_row("k = 2", two),
        Row(
            "entropic plan: share of entries that are positive",
            float(np.mean(np.isfinite(log_plan))), paper=1.0, band=(1.0, 1.0),
            source=_ABSTRACT["dense"], certificate=error,
        ),
        Row(
            "sanity check: cost of the quadratic plan minus that of the linear program",
            cells[2][3] - cells[0][3],
            band=(-1e-6, None), source="theory: no plan is cheaper than the linear program's",
        ),
    ]  # fmt: skip

    first = next(iter(plans))

    def plot(figure: MatplotlibFigure) -> None:
        for axes, (label, T) in zip(figure.subplots(1, len(plans)), plans.items(), strict=True):
            TransportPlanDisplay(T, X=X, Y=Y).plot(axes, linewidths=1.0, legend=label == first)
            axes.set_title(label, fontsize=9)
            axes.grid(visible=False)
            axes.set_xticks([])
            axes.set_yticks([])
            axes.set_aspect("equal")

    return Section(
        "Plans in the plane",
        f"{n} points of a standard normal distribution to {n} points around (4, 4) with "
        "covariances of -0.8; equal masses, squared distances. (In the released code the two "
        "covariances differ, -0.8 and -0.6, which is no covariance matrix.) The entropic term has "
        f"strength 0.1, the quadratic one {gamma:g}, with and without a cap.",
        rows,
        [
            Table(
                ["plan", "nonzero", "longest column", "<C, T>", "row residual"], cells,
                "Share of nonzero entries, transport cost and error of the row sums",
            )
        ],
        draw(plot, "Lines are pairs with mass, the darker the more.", size=(10, 2.6)),
        REFERENCE,
        seconds=time.perf_counter() - began,
    )  # fmt: skip


def _solvers(size: dict[str, Any], seed: int) -> Section:
    began = time.perf_counter()
    n, steps = size["clouds"], size["steps"]
    rng = np.random.default_rng([seed, 3])
    X = rng.standard_normal((n, 2))
    Y = rng.standard_normal((n, 2)) + 2.0
    a, b = (w / w.sum() for w in rng.uniform(0.5, 1.5, (2, n)))
    C = squared_distances(X, Y)
    C /= C.max()
    methods = {"L-BFGS": "lbfgs", "Adam": "adam"}
    curves: dict[tuple[str, int | None], tuple[Any, Any]] = {}
    cells: list[list[Any]] = []
    exact: dict[int | None, Result] = {}
    ends: dict[tuple[str, int | None], Result] = {}
    for k in size["compared"]:
        exact[k] = capped(C, a, b, 1.0, k, seed=seed, tol=1e-8, rounding="none")
        best = exact[k].dual_value
        cells.append(_run("exact", k, n, exact[k], 0.0))
        for label, method in methods.items():
            history = History(
                every="log", objective=False,
                extra={"dual": lambda problem, x: problem.certificate(x).details["dual_value"]},
            )  # fmt: skip
            result = capped(
                C, a, b, 1.0, k, seed=seed, method=method, max_iter=steps, rounding="none",
                step_size=1.0 / n, history=history,
            )  # fmt: skip
            missing = np.maximum((best - history["dual"]) / abs(best), 1e-12)
            curves[label, k] = (history["nit"], missing)
            ends[label, k] = result
            cells.append(_run(label, k, n, result, missing.min()))
    smallest, largest = size["compared"][0], size["compared"][-1]
    rows = [
        Row(
            "exact solver: largest residual over all caps",
            max(result.certificate.residual for result in exact.values()), band=(None, _TOL),
            source="certificate: marginals and Lagrangian gap",
        ),
        Row(
            f"L-BFGS, k = {smallest}: residual at its end",
            ends["L-BFGS", smallest].certificate.residual, band=(1e-4, None),
            source="theory: the optimum lies on kinks, where gradient methods stop short",
            note=f"status {ends['L-BFGS', smallest].status.name} after "
            f"{ends['L-BFGS', smallest].nit} iterations",
        ),
        Row(
            "runs of first-order methods that claim convergence above the tolerance",
            sum(
                result.status is Status.CONVERGED and result.certificate.residual > 10 * _TOL
                for result in ends.values()
            ),
            band=(0, 0), source="this library: a status that holds",
        ),
        Row(
            "L-BFGS without a cap: residual at its end", ends["L-BFGS", None].certificate.residual,
            band=(None, 1e-3), source="theory: the objective is smooth",
        ),
        *(
            Row(
                f"{label}: least missing part of the optimum, k = {smallest} over no cap",
                curves[label, smallest][1].min() / curves[label, largest][1].min(),
                band=(1.0, None), source=_ABSTRACT["smooth"],
                note=f"within {steps} iterations; less than 1e-12 counts as 1e-12",
            )
            for label in methods
        ),
        Row(
            "largest rise of the optimal value from a cap to the next larger one",
            float(np.max(np.diff([exact[k].dual_value for k in size["compared"]]))),
            band=(None, 1e-7), source="theory: the value does not increase with k",
        ),
    ]  # fmt: skip

    def plot(figure: MatplotlibFigure) -> None:
        for axes, label in zip(figure.subplots(1, 2, sharey=True), methods, strict=True):
            for k in size["compared"]:
                nit, missing = curves[label, k]
                axes.loglog(1 + nit, missing, label="no cap" if k is None else f"k = {k}")
            axes.set_title(label, fontsize=10)
            axes.set_xlabel("1 + iterations")
        figure.axes[0].set_ylabel("missing part of the optimum")
        figure.axes[0].legend(fontsize=8)

    return Section(
        "First-order methods at different caps",
        f"Two shifted Gaussian clouds of {n} points with random masses, squared distances divided "
        "by the largest, γ = 1. First-order methods maximise the semi-dual, Adam with a step of "
        f"{1.0 / n:g}, the scale of γ b. At small caps its "
        "maximum lies on kinks: the value of the objective comes close, its gradient, which is the "
        "error of the marginals, does not become small. The exact method certifies every cap.",
        rows,
        [
            Table(
                ["cap", "method", "status", "iterations", "missing part", "residual", "seconds"],
                cells,
                f"At most {steps} iterations of the first-order methods; the missing part of the "
                "optimum is relative to the optimum of the exact method",
            )
        ],
        draw(plot, "How much of the optimal value is missing, against iterations."),
        REFERENCE,
        seconds=time.perf_counter() - began,
    )  # fmt: skip


def _run(label: str, k: int | None, n: int, result: Result, missing: float) -> list[Any]:
    return [
        n if k is None else k, label, result.status.name, result.nit, missing,
        result.certificate.residual, result.time,
    ]  # fmt: skip
