"""Linear programs by restarted Halpern PDHG: a table of generated programs, and Netlib's.

The published tables are about MIPLIB relaxations and Mittelmann's programs on graphics cards. The
kinds of programs on which first-order methods are used are generated here, with optima that are
known by construction or from HiGHS; Netlib's programs are solved when they lie in the data folder.
Which part of the method is worth how many iterations is measured, and judged where the papers say
which way it goes.
"""

from __future__ import annotations

import json
import math
import time
from typing import TYPE_CHECKING, Any

import numpy as np

from lowrank_opt.datasets import (
    data_home,
    find_data,
    make_basis_pursuit_lp,
    make_infeasible_lp,
    make_l1_regression_lp,
    make_markov_decision_lp,
    make_multicommodity_lp,
    make_pagerank_lp,
    make_planted_lp,
    make_transport_lp,
    make_unbounded_lp,
)
from lowrank_opt.monotone import HalpernPDHG, LinearProgram, read_mps
from lowrank_opt.papers.report import Row, Section, Table, draw

if TYPE_CHECKING:
    from matplotlib.figure import Figure as MatplotlibFigure

    from lowrank_opt.datasets import LinearProgramData

__all__ = ["REFERENCE", "highs_optimum", "programs", "relative_error", "reproduce"]

REFERENCE = (
    "H. Lu, J. Yang, Restarted Halpern PDHG for Linear Programming, arXiv:2407.16144; H. Lu, Z. "
    "Peng, J. Yang, cuPDLPx: A Further Enhanced GPU-Based First-Order Solver for Linear "
    "Programming, arXiv:2507.14051; K. Chen, D. Sun, Y. Yuan, G. Zhang, X. Zhao, HPR-LP, "
    "arXiv:2408.12179"
)
_SCALES: dict[str, dict[str, Any]] = {
    "smoke": {
        "planted": (300, 600), "transport": 50, "pagerank": 3000, "flow": (30, 120, 8),
        "markov": (200, 5), "l1": (300, 10), "pursuit": (60, 150), "parts": (200, 400, 40),
        "netlib": ("afiro", "adlittle", "blend", "kb2", "sc105", "share2b", "sc50a", "scagr7"),
        "seconds": 2.0, "iterations": 20_000,
    },
    "medium": {
        "planted": (2000, 4000), "transport": 150, "pagerank": 20_000, "flow": (60, 300, 20),
        "markov": (1000, 5), "l1": (2000, 20), "pursuit": (200, 600), "parts": (1000, 2000, 100),
        "netlib": None, "seconds": 10.0,
        "iterations": 50_000,
    },
    "paper": {
        "planted": (20_000, 40_000), "transport": 300, "pagerank": 100_000,
        "flow": (200, 1200, 60), "markov": (10_000, 5), "l1": (10_000, 50),
        "pursuit": (500, 2000), "parts": (2000, 4000, 300), "netlib": None,
        "seconds": 60.0, "iterations": 100_000,
    },
}  # fmt: skip
_TOL = 1e-6
# Of the objective, where the residual is claimed to be 1e-6.
_OBJECTIVE = 1e-5
_PARTS = {
    "without reflection": "arXiv:2407.16144: reflected steps are longer, and faster",
    "one epoch": "arXiv:2407.16144: restarts make convergence linear",
}


def reproduce(scale: str, *, random_state: int = 0) -> list[Section]:
    """Solve generated programs, ones without a solution, and Netlib's; switch parts off.

    Parameters
    ----------
    scale : {"smoke", "medium", "paper"}
        Sizes of the programs, number of Netlib's, and the limit for each.
    random_state : int, default=0
        Seed of the generated programs.

    Returns
    -------
    list of Section
        Generated programs, programs without a solution, parts of the method, Netlib.
    """
    size = _SCALES[scale]
    return [
        _generated(size, random_state),
        _without_solution(random_state),
        _parts(size, random_state),
        _netlib(size),
    ]


def programs(size: dict[str, Any], seed: int) -> dict[str, LinearProgramData]:
    """Generate one program of every kind.

    Parameters
    ----------
    size : dict
        Entry of the table of scales.
    seed : int
        Seed.

    Returns
    -------
    dict of str to LinearProgramData
        By kind.
    """
    return {
        "planted": make_planted_lp(*size["planted"], random_state=seed),
        "transport, uniform": make_transport_lp(size["transport"], random_state=seed),
        "transport, line": make_transport_lp(size["transport"], cost="line", random_state=seed),
        "assignment": make_transport_lp(size["transport"], assignment=True, random_state=seed),
        "PageRank": make_pagerank_lp(size["pagerank"], random_state=seed),
        "multicommodity": make_multicommodity_lp(*size["flow"], random_state=seed),
        "Markov decisions": make_markov_decision_lp(*size["markov"], random_state=seed),
        "L1 regression": make_l1_regression_lp(*size["l1"], random_state=seed),
        "basis pursuit": make_basis_pursuit_lp(*size["pursuit"], random_state=seed),
    }


def highs_optimum(problem: LinearProgram) -> tuple[float, float]:
    """Solve a program by SciPy's HiGHS.

    Parameters
    ----------
    problem : LinearProgram
        The program.

    Returns
    -------
    value : float
        Optimal value; NaN if HiGHS has none.
    seconds : float
        Wall time.
    """
    from scipy.optimize import Bounds, LinearConstraint, milp

    began = time.perf_counter()
    rows = LinearConstraint(problem.A, problem.constraint_lower, problem.constraint_upper)
    found = milp(problem.c, constraints=rows, bounds=Bounds(problem.lower, problem.upper))
    value = math.nan if found.fun is None else float(found.fun) + problem.offset
    return value, time.perf_counter() - began


def relative_error(value: float, optimum: float) -> float:
    """Distance of an objective to the optimum over one plus its size."""
    return abs(value - optimum) / (1.0 + abs(optimum))


# -- generated programs ---------------------------------------------------------------------------


def _generated(size: dict[str, Any], seed: int) -> Section:
    began = time.perf_counter()
    rows, cells, unsolved = [], [], 0
    for kind, data in programs(size, seed).items():
        problem = data.problem
        optimum, source, seconds = data.optimum, "known by construction", None
        known = optimum is not None
        if optimum is None:
            optimum, seconds = highs_optimum(problem)
            source = "HiGHS by SciPy"
        result = HalpernPDHG(tol=_TOL, max_time=10 * size["seconds"]).solve(problem)
        unsolved += not (result.success and result.certificate.residual <= _TOL)
        room = _OBJECTIVE * (1.0 + abs(optimum))
        rows.append(
            Row(
                f"{kind}: objective", result.fun, peer=None if known else optimum,
                band=(optimum - room, optimum + room), certificate=result.certificate.residual,
                seconds=result.time, source=f"{source}; within {_OBJECTIVE:g} of 1 + its size",
            )
        )  # fmt: skip
        m, n = problem.shape
        cells.append(
            [
                kind, m, n, problem.nnz, result.nit, result.certificate.residual,
                relative_error(result.fun, optimum), result.time, seconds,
            ]
        )  # fmt: skip
        if kind == "PageRank" and data.x is not None:  # its objective is 0 everywhere
            off = float(np.abs(result.x.x - data.x).max() / data.x.max())
            rows.append(
                Row("PageRank: largest error of a rank over the largest rank", off,
                    source="by 200 and more iterations of the random walk")
            )  # fmt: skip
    rows.append(
        Row(
            f"programs whose certified residual is above {_TOL:g}", unsolved, band=(0, 0),
            source="target: all are solved",
        )
    )  # fmt: skip
    head = ["program", "constraints", "variables", "nonzeros", "iterations", "residual",
            "error of the objective", "seconds", "HiGHS, seconds"]  # fmt: skip
    return Section(
        "Linear programs: generated ones",
        "One program of each kind for which first-order methods are used, to a relative residual "
        "of 1e-6, which is the largest of primal and dual infeasibility, gap, and a hundredth of "
        "the largest backward error of a row or column, recomputed from the data. HiGHS solves "
        "those whose optimum is not known; where it does, at these sizes it is the faster one.",
        rows,
        [Table(head, cells, "Default parameters; wall time, kernels compiled")],
        [],
        REFERENCE,
        seconds=time.perf_counter() - began,
    )


def _without_solution(seed: int) -> Section:
    began = time.perf_counter()
    rows = []
    for kind, make, status in (
        ("infeasible", make_infeasible_lp, "INFEASIBLE"),
        ("unbounded", make_unbounded_lp, "UNBOUNDED"),
    ):
        wrong, worst = 0, 0.0
        for k in range(3):
            problem = make(40, 60, random_state=[seed, k]).problem
            result = HalpernPDHG(max_iter=100_000).solve(problem)
            if result.status.name != status or result.ray is None:
                wrong += 1
                continue
            ray = (problem.farkas if kind == "infeasible" else problem.recession)(result.ray)
            worst = max(worst, ray.ratio)
        rows += [
            Row(
                f"{kind} programs, of 3, that are not called so", wrong, band=(0, 0),
                source="by construction",
            ),
            Row(
                f"{kind}: largest violation of a ray over its value", worst, band=(0.0, 1e-8),
                source="checked on the data by the program",
            ),
        ]  # fmt: skip
    # A feasible program in awkward units must not be called infeasible.
    called = 0
    for power in (-8, 8):
        data = make_planted_lp(40, 80, random_state=seed)
        scale = 10.0**power
        problem = LinearProgram(
            data.c, data.A, scale * data.constraint_lower, scale * data.constraint_upper,
            data.lower, data.upper,
        )  # fmt: skip
        result = HalpernPDHG(max_iter=20_000).solve(problem)
        called += result.status.name in ("INFEASIBLE", "UNBOUNDED")
    rows.append(
        Row(
            "feasible programs, right-hand sides times 1e-8 and 1e8, called infeasible or "
            "unbounded", called, band=(0, 0), source="by construction",
        )
    )  # fmt: skip
    return Section(
        "Linear programs without a solution",
        "Random programs that are infeasible or unbounded by construction. The status is given "
        "only with a ray whose violation, computed from the data, is at most 1e-8 of its value.",
        rows,
        [],
        [],
        REFERENCE,
        seconds=time.perf_counter() - began,
    )


# -- parts of the method --------------------------------------------------------------------------


def _parts(size: dict[str, Any], seed: int) -> Section:
    began = time.perf_counter()
    m, n, side = size["parts"]
    cases = {
        f"planted {m}x{n}": make_planted_lp(m, n, random_state=seed).problem,
        f"transport {side}x{side}": make_transport_lp(side, random_state=seed).problem,
        "Markov decisions": make_markov_decision_lp(*size["markov"], random_state=seed).problem,
        "basis pursuit": make_basis_pursuit_lp(*size["pursuit"], random_state=seed).problem,
    }
    base: dict[str, Any] = {"finish": False, "presolve": False, "check_every": 64}
    variants: dict[str, dict[str, Any]] = {
        "default": {},
        "without reflection": {"reflect": 0.5},
        "constant step": {"step_size": "constant"},
        "one epoch": {"restart": None, "step_size": "constant", "weight": "fixed"},
        "weight fixed": {"weight": "fixed"},
        "weight by the controller": {"weight": "pid"},
        "without scaling": {"ruiz_sweeps": 0, "pock_chambolle": False, "rescale": False},
    }
    limit = size["iterations"]
    nit: dict[str, dict[str, float]] = {}
    cells = []
    for name, changes in variants.items():
        nit[name] = {}
        for case, problem in cases.items():
            result = HalpernPDHG(tol=_TOL, max_iter=limit, **base, **changes).solve(problem)
            nit[name][case] = result.nit if result.success else math.inf
        cells.append([name, *(v if math.isfinite(v) else None for v in nit[name].values())])
    rows = []
    for name, source in _PARTS.items():
        # A run that was cut off counts as the limit, so that its ratio is a lower bound.
        ratios = [min(nit[name][case], limit) / nit["default"][case] for case in cases]
        cut = sum(math.isinf(v) for v in nit[name].values())
        rows.append(
            Row(
                f"iterations, {name}, over the default's, geometric mean",
                float(np.exp(np.mean(np.log(ratios)))), band=(1.0, None), source=source,
                note=f"{cut} of {len(cases)} were cut off at {limit} iterations" if cut else "",
            )
        )  # fmt: skip

    curves = {}
    case, problem = next(iter(cases.items()))
    for name in ("default", "without reflection", "one epoch"):
        result = HalpernPDHG(tol=_TOL, max_iter=4000, log=64, **base, **variants[name]).solve(
            problem
        )
        curves[name] = np.array([[row[0], max(row[1:4])] for row in result.log])

    def plot(figure: MatplotlibFigure) -> None:
        axes = figure.subplots()
        for name, curve in curves.items():
            axes.semilogy(curve[:, 0], curve[:, 1], label=name)
        axes.set_xlabel("iteration")
        axes.set_ylabel("relative residual")
        axes.legend(fontsize=8)

    return Section(
        "Linear programs: parts of the method",
        "Iterations to 1e-6 with one part changed, without presolve and without the active-set "
        "finish. Judged are reflection and restarts, which the papers say to help. Without "
        "restarts there are no updates of weight and step either, since both come at restarts.",
        rows,
        [
            Table(
                ["variant", *cases], cells,
                f"Iterations; no number: more than {limit}",
            )
        ],
        draw(plot, f"Largest relative residual along the iterations, {case}.", size=(6, 2.8)),
        REFERENCE,
        seconds=time.perf_counter() - began,
    )  # fmt: skip


# -- Netlib ---------------------------------------------------------------------------------------


def _netlib(size: dict[str, Any]) -> Section:
    began = time.perf_counter()
    optima_file = find_data("netlib/optima.json")
    title = "Linear programs: Netlib"
    if optima_file is None:
        return Section(
            title,
            "Netlib's programs do not come with this package.",
            [
                Row(
                    "Netlib programs whose certified residual is above 1e-6", None,
                    note=f"{data_home() / 'netlib'} has no optima.json and no MPS files; set "
                    "LOWRANK_OPT_DATA to a folder that has them in netlib/",
                )
            ],
            [],
            [],
            REFERENCE,
            seconds=time.perf_counter() - began,
        )  # fmt: skip
    optima = json.loads(optima_file.read_text(encoding="utf-8"))
    names = list(optima) if size["netlib"] is None else size["netlib"]
    cells, seconds, unsolved, claimed_wrong, missing = [], [], [], [], []
    for name in names:
        path = find_data(f"netlib/{name}.mps.gz") or find_data(f"netlib/{name}.mps")
        if path is None or name not in optima:
            missing.append(name)
            continue
        problem = read_mps(path)
        optimum = float(optima[name]["objective"])
        result = HalpernPDHG(tol=_TOL, max_time=size["seconds"]).solve(problem)
        residual = result.certificate.residual
        error = relative_error(result.fun, optimum)
        if residual <= _TOL:
            seconds.append(result.time)
            if error > _OBJECTIVE:
                claimed_wrong.append(name)
        else:
            unsolved.append(name)
        m, n = problem.shape
        cells.append([name, m, n, problem.nnz, result.nit, residual, error, result.time])
    tried = len(cells)
    rows = [
        Row(
            f"programs, of {tried}, solved to a certified 1e-6", tried - len(unsolved),
            # Every program of the small scale, and what is known to be in reach of the others.
            band=(tried if size["netlib"] else 0.85 * tried, None),
            source="target: not fewer than OR-tools PDLP; see the benchmark",
            note=f"limit {size['seconds']:g} s each; not solved: {', '.join(unsolved) or 'none'}",
        ),
        Row(
            "programs claimed at 1e-6 whose objective is off by more than 1e-5",
            len(claimed_wrong), band=(0, 0), source="optima.json, by HiGHS",
            note=", ".join(claimed_wrong),
        ),
        Row(
            "geometric mean of the solved ones", float(np.exp(np.mean(np.log(seconds)))),
            unit="s",
            note="of one run; beside peers in the benchmark",
        ),
    ]  # fmt: skip
    if missing:
        rows.append(
            Row(
                f"{len(missing)} programs that are not in the folder", None,
                note=", ".join(missing),
            )
        )  # fmt: skip
    head = ["program", "constraints", "variables", "nonzeros", "iterations", "residual",
            "error of the objective", "seconds"]  # fmt: skip
    return Section(
        title,
        "Programs from practice, small and ill-conditioned: the home ground of simplex methods. "
        "Residual 1e-6, recomputed from the data.",
        rows,
        [Table(head, cells, "Default parameters")],
        [],
        REFERENCE,
        seconds=time.perf_counter() - began,
    )
