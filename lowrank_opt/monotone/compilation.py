"""Compile the usual kernel signatures of this family."""

from __future__ import annotations

import time
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

from lowrank_opt.monotone import pdhg_engine as engine
from lowrank_opt.monotone.batch import solve_batch
from lowrank_opt.monotone.halpern_pdhg import HalpernPDHG
from lowrank_opt.monotone.inexact import InexactHalpern
from lowrank_opt.monotone.linear_program import LinearProgram
from lowrank_opt.monotone.matrix_game import MatrixGame
from lowrank_opt.monotone.quadratic_program import QuadraticProgram
from lowrank_opt.monotone.scaling import scale_program
from lowrank_opt.monotone.variance_reduced import (
    VarianceReducedExtraGradient,
    VarianceReducedHalpern,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["compile_kernels"]


def compile_kernels() -> dict[str, float]:
    """Run the methods on tiny problems.

    Returns
    -------
    dict of str to float
        Seconds per kind of problem; little when the disk cache has them.
    """
    seconds: dict[str, float] = {}
    for name, run in _runs():
        start = time.perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            run()
        seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - start
    return seconds


def _runs() -> Iterator[tuple[str, Callable[[], Any]]]:
    rng = np.random.default_rng(0)
    m, n = 12, 20
    A = sp.csr_array(rng.standard_normal((m, n)) * (rng.random((m, n)) < 0.5))
    x = np.maximum(rng.standard_normal(n), 0.0)
    cost = A.T @ rng.standard_normal(m) + rng.random(n) * (x == 0)
    program = LinearProgram(cost, A, A @ x, A @ x, 0.0, None)
    yield "linear programs", lambda: HalpernPDHG(max_iter=500).solve(program)
    yield "linear programs, threads", lambda: _in_threads(program)
    single = HalpernPDHG(max_iter=500, first_phase="float32", presolve=False)
    yield "linear programs, float32", lambda: single.solve(program)
    quadratic = QuadraticProgram(np.eye(n), cost, A, A @ x, A @ x, 0.0, None)
    yield "quadratic programs", lambda: HalpernPDHG(max_iter=500).solve(quadratic)
    sides = np.stack([A @ x, 2.0 * (A @ x)])
    yield (
        "batches",
        lambda: solve_batch(program, constraint_lower=sides, constraint_upper=sides, max_iter=500),
    )
    solvers = (
        VarianceReducedHalpern(eta=0.1, max_iter=3),
        VarianceReducedExtraGradient(max_iter=3),
        InexactHalpern(max_iter=3),
    )
    for game in (MatrixGame(rng.random((m, n))), MatrixGame(A)):
        for solver in solvers:
            yield "games", lambda s=solver, g=game: s.solve(g)  # type: ignore[misc]


def _in_threads(program: LinearProgram) -> None:
    """Iterate in threads, which runs do with large programs only."""
    work = engine.Work(scale_program(program), engine.Options(n_threads=2))
    work.pace = engine.Pace()  # tries both ways at first
    m, n = program.A.shape
    state = engine.start(work, np.zeros(n), np.zeros(m), np.random.default_rng(0))
    engine.advance(work, state, engine.CHECK)
