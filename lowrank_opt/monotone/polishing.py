"""Feasibility polishing: a point that is optimal to a few digits becomes feasible to many."""

from __future__ import annotations

import time
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

from lowrank_opt.monotone import pdhg_engine as engine
from lowrank_opt.monotone.scaling import plain_program, scale_program

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Values = NDArray[np.float64]

__all__ = ["polish"]

MAX_ITERATIONS = 20_000
# Violations are brought below this part of the tolerance: what is left of the move is then small.
MARGIN = 0.5


def polish(
    problem: Any, x: Values, y: Values, *, tol: float = 1e-6, gap_tol: float | None = None,
    max_time: float | None = None, options: Any = None, max_iter: int = MAX_ITERATIONS,
    seed: int = 0,
) -> tuple[Values, Values, dict[str, float]]:  # fmt: skip
    """Remove what is left of the violations, moving the point as little as possible.

    Two programs without an optimum to look for: without costs, the primal half of the point goes
    to a feasible point nearby; without right-hand sides, the dual half does. Their distance to a
    solution is the distance to the feasible set, so that both converge much faster than the program
    itself [1]_. The objective gap may grow by what the
    violations had hidden.

    Parameters
    ----------
    problem : LinearProgram or QuadraticProgram
        The program; with a quadratic term only the primal half is polished.
    x, y : ndarray
        The point.
    tol : float, default=1e-6
        Relative violation to reach, as in the program's certificate.
    gap_tol : float or None, default=None
        A half that makes the relative gap larger than this is not accepted; ``None``: than the
        largest residual of the point, or `tol`.
    max_time : float or None, default=None
        Seconds for both halves together.
    options : Options or None, default=None
        How to run the iterations; ``None``: as usual.
    max_iter : int, default=20000
        Iterations of each half.
    seed : int, default=0
        Of power iterations.

    Returns
    -------
    x, y : ndarray
        The point; a half that did not become less infeasible, or with too large a gap, is
        returned as it came.
    info : dict
        ``primal_iterations``, ``dual_iterations``; ``residual_before``, and ``residual``,
        ``primal``, ``dual``, ``gap`` of what is returned.

    References
    ----------
    .. [1] D. Applegate et al., "PDLP: a practical first-order method for large-scale linear
       programming", arXiv 2501.07018, 2025.

    Examples
    --------
    >>> import numpy as np
    >>> from lowrank_opt.monotone import LinearProgram
    >>> from lowrank_opt.monotone.polishing import polish
    >>> lp = LinearProgram([1.0, 2.0], [[1.0, 1.0]], 1.0, 1.0, lower=0.0)
    >>> x, y, info = polish(lp, np.array([0.99, 0.0]), np.array([1.01]), tol=1e-8)
    >>> bool(info["primal"] <= 1e-8), bool(info["dual"] <= 1e-8)
    (True, True)
    """
    options = engine.Options() if options is None else options
    deadline = None if max_time is None else time.perf_counter() + max_time
    plain = engine.Work(plain_program(problem), engine.Options())
    x = np.clip(np.asarray(x, np.float64), problem.lower, problem.upper)
    y = np.array(y, np.float64)
    y[(y > 0) & (problem.constraint_lower == -np.inf)] = 0.0
    y[(y < 0) & (problem.constraint_upper == np.inf)] = 0.0
    before = now = engine.measure(plain, x, y)
    allowed = max(before.worst, tol) if gap_tol is None else gap_tol
    info = {"residual_before": before.worst, "primal_iterations": 0.0, "dual_iterations": 0.0}
    for half in ("primal", "dual"):
        if getattr(now, half) <= MARGIN * tol or (half == "dual" and problem.Q is not None):
            continue
        program = _without_costs(problem) if half == "primal" else _without_sides(problem)
        start = (x, np.zeros(len(y))) if half == "primal" else (np.zeros(len(x)), y)
        found, nit = _run(program, half, start, MARGIN * tol, max_iter, deadline, options, seed)
        info[half + "_iterations"] = float(nit)
        point = (np.clip(found[0], problem.lower, problem.upper), y)
        point = point if half == "primal" else (x, found[1])
        then = engine.measure(plain, *point)
        if getattr(then, half) < getattr(now, half) and then.gap <= allowed:
            (x, y), now = point, then
    info |= {"residual": now.worst, "primal": now.primal, "dual": now.dual, "gap": now.gap}
    return x, y, info


def _run(
    program: Any, half: str, start: tuple[Values, Values], tol: float, max_iter: int,
    deadline: float | None, options: Any, seed: int,
) -> tuple[tuple[Values, Values], int]:  # fmt: skip
    """Iterate until one half of the conditions is met; return the least infeasible point."""
    rng = np.random.default_rng([seed, half == "dual"])
    scaled = scale_program(program, rescale=False, rng=rng)
    work = engine.Work(scaled, replace(options, restart=True))
    run = engine.start(work, *scaled.from_user(*start), rng)
    best, point = float(getattr(run.measures, half)), (run.x_hat.copy(), run.y_hat.copy())
    while best > tol and run.nit < max_iter:
        engine.advance(work, run, min(engine.CHECK, max_iter - run.nit))
        value = float(getattr(run.measures, half))
        if run.nit % engine.CHECK == 0 and value < best:
            best, point = value, (run.x_hat.copy(), run.y_hat.copy())
        if deadline is not None and time.perf_counter() >= deadline:
            break
    x, y = scaled.to_user(*point)
    return (np.asarray(x, np.float64), np.asarray(y, np.float64)), int(run.nit)


def _without_costs(problem: Any) -> Any:
    names = ("A", "constraint_lower", "constraint_upper", "lower", "upper")
    parts = {name: getattr(problem, name) for name in names}
    return SimpleNamespace(c=np.zeros(len(problem.c)), Q=None, offset=0.0, **parts)


def _without_sides(problem: Any) -> Any:
    names = ("constraint_lower", "constraint_upper", "lower", "upper")
    parts = {
        name: np.where(np.isfinite(getattr(problem, name)), 0.0, getattr(problem, name))
        for name in names
    }
    return SimpleNamespace(c=problem.c, A=problem.A, Q=None, offset=0.0, **parts)
