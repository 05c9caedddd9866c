"""What every solver's answer must be: one public function per requirement."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import itertools
from typing import TYPE_CHECKING, Any

import numpy as np

from lowrank_opt.core import Backend, Status, UnsupportedBackendError
from lowrank_opt.testing._points import is_array, leaves, to_host
from lowrank_opt.testing._report import NotApplicable
from lowrank_opt.testing._runs import close, finite, require, run, stop_at
from lowrank_opt.testing.cases import SolverCase

if TYPE_CHECKING:
    from collections.abc import Iterable

    from lowrank_opt.core import Result

__all__ = [
    "check_backends",
    "check_certificate_agrees",
    "check_dtypes",
    "check_kernel_equals_reference",
    "check_monotone_or_documented",
    "check_scale_invariance",
    "check_warm_start_not_worse",
    "check_work_count",
    "check_zero_iterations_at_solution",
]


def check_certificate_agrees(case: SolverCase) -> None:
    """``CONVERGED`` is confirmed by a newly made problem: certificate within ``10 * tol``.

    Parameters
    ----------
    case : SolverCase
        The solver and its problems.

    Raises
    ------
    AssertionError
        If not; so for all checks of this module.
    """
    for seed in (0, 1) if "seed" in case.keywords else (0,):
        solver = case.new_solver()
        problem = case.problem(seed=seed)
        result = run(solver, problem)
        require(
            result.status is Status.CONVERGED and result.success,
            f"the solver must converge on problem_factory(seed={seed}); it says: {result.message}",
        )
        require(
            result.residual <= solver.tol,
            f"status CONVERGED with residual {result.residual:.3e} > tol {solver.tol:.1e}",
        )
        again = case.problem(seed=seed)
        certificate = again.certificate(result.x)
        require(
            certificate.residual <= 10.0 * solver.tol,
            f"status CONVERGED, but the problem's {certificate.kind} is "
            f"{certificate.residual:.3e}, more than 10 * tol = {10 * solver.tol:.1e}",
        )
        objective = again.objective(result.x)
        require(
            abs(result.fun - objective) <= 1e-6 * max(1.0, abs(objective)),
            f"result.fun is {result.fun!r}, problem.objective(result.x) is {objective!r}",
        )
        start = solver.point(problem, solver.init(problem))
        before = again.certificate(start).residual
        require(
            not before <= min(certificate.residual, solver.tol),
            "the certificate does not tell the starting point from the answer: "
            f"{before:.3e} and {certificate.residual:.3e}",
        )


def check_monotone_or_documented(case: SolverCase) -> None:
    """The objective never increases, or ``monotone = False`` and limits return the best point.

    Parameters
    ----------
    case : SolverCase
        The solver and its problems.
    """
    problem = case.problem()
    values: list[float] = []
    residuals: list[float] = []

    def note(intermediate_result: Result) -> None:
        residuals.append(intermediate_result.residual)
        if case.solver.monotone:
            values.append(intermediate_result.fun)

    full = run(case.new_solver(check_every=1), problem, callback=note)
    for nit, (before, after) in enumerate(itertools.pairwise(values), start=1):
        slack = 1e-10 * max(abs(values[0]), abs(before))
        require(
            after <= before + slack,
            f"the objective rises from {before!r} to {after!r} in iteration {nit}: set "
            "monotone = False and keep the best point in state.best",
        )
    if case.solver.monotone:
        return
    for nit in sorted({1, full.nit // 2, full.nit - 1}):
        stopped = run(case.new_solver(check_every=1), problem, callback=stop_at(nit))
        best = min(residuals[: nit + 1])
        require(
            stopped.residual <= best,
            f"stopped after {nit} iterations with residual {stopped.residual:.3e}, but "
            f"{best:.3e} had been reached: keep the best point in state.best",
        )


def check_zero_iterations_at_solution(case: SolverCase) -> None:
    """A start at the answer converges with ``nit == 0``.

    Parameters
    ----------
    case : SolverCase
        The solver and its problems.
    """
    result = case.answer()
    again = run(case.new_solver(), case.problem(), x0=result.x)
    require(
        again.success and again.nit == 0,
        f"a start at the answer takes {again.nit} iterations ({again.message}): compute the "
        "residual in init",
    )
    close(case, again.x, result.x, "the answer of a start at the answer")


def check_warm_start_not_worse(case: SolverCase) -> None:
    """A start near the answer converges in no more iterations than a cold one.

    Parameters
    ----------
    case : SolverCase
        The solver and its problems.
    """
    result = case.answer()
    for seed in range(2):
        x0 = case.perturb(result.x, np.random.default_rng(seed))
        warm = run(case.new_solver(check_every=1), case.problem(), x0=x0)
        require(warm.success, f"a start near the answer does not converge: {warm.message}")
        require(
            warm.nit <= result.nit,
            f"a start near the answer takes {warm.nit} iterations, a cold start {result.nit}",
        )


def check_dtypes(case: SolverCase) -> None:
    """Float32 problems give float32 answers close to those in float64.

    Parameters
    ----------
    case : SolverCase
        The solver and its problems; ``float32_tol`` and ``float32_accuracy`` matter here.
    """
    if "dtype" not in case.keywords:
        raise NotApplicable("problem_factory has no dtype keyword")
    answers = {}
    for dtype in (np.float64, np.float32):
        solver = case.new_solver()
        solver.tol = max(solver.tol, case.float32_tol)
        name = np.dtype(dtype).name
        result = run(solver, case.problem(dtype=dtype))
        require(result.status in (Status.CONVERGED, Status.STALLED), f"{name}: {result.message}")
        for path, leaf in leaves(result.x):
            ours = path not in case.own_dtype and is_array(leaf)
            if ours and to_host(leaf).dtype.kind in "fc":
                found = to_host(leaf).dtype
                require(
                    found in (dtype, np.result_type(dtype, np.complex64)),
                    f"{name} in, {found} out: result.x{path}",
                )
        answers[name] = result.x
    close(
        case, answers["float32"], answers["float64"], "float32 against float64",
        case.float32_accuracy,
    )  # fmt: skip


def check_backends(case: SolverCase, namespaces: Iterable[Any] | None = None) -> None:
    """Each array library gives the same answer in its own arrays, or is refused.

    Refused means :class:`UnsupportedBackendError`, when the problem is made or solved.

    Parameters
    ----------
    case : SolverCase
        The solver and its problems; ``problem_factory`` needs the keyword ``xp``.
    namespaces : iterable of module or None, default=None
        Array-API namespaces; ``None``: all that can be imported here.
    """
    if "xp" not in case.keywords:
        raise NotApplicable("problem_factory has no xp keyword")
    expected = case.answer().x
    for xp in _installed_namespaces() if namespaces is None else namespaces:
        library = Backend.of(xp.asarray(0.0)).name
        try:
            result = run(case.new_solver(), case.problem(xp=xp))
        except UnsupportedBackendError:
            require(library != "numpy", "numpy arrays are refused")
            continue
        require(result.success, f"{library}: {result.message}")
        homes = {Backend.of(leaf).name for _, leaf in leaves(result.x) if is_array(leaf)}
        require(homes == {library}, f"{library} in, {' and '.join(sorted(homes)) or 'none'} out")
        close(case, result.x, expected, f"{library} against numpy")


def _installed_namespaces() -> list[Any]:
    found = [np]
    if importlib.util.find_spec("array_api_strict"):
        found.append(importlib.import_module("array_api_strict"))
    if importlib.util.find_spec("torch"):
        found.append(importlib.import_module("array_api_compat.torch"))
    if importlib.util.find_spec("cupy"):
        cupy = importlib.import_module("array_api_compat.cupy")
        with contextlib.suppress(Exception):  # no device: nothing to test
            cupy.asarray(0.0)
            found.append(cupy)
    return found


def check_kernel_equals_reference(case: SolverCase) -> None:
    """The answer agrees with that of ``case.reference``, on usual and on degenerate problems.

    Parameters
    ----------
    case : SolverCase
        The solver and its problems; needs the hook ``reference``.
    """
    if case.reference is None:
        raise NotApplicable("no reference= was given")
    problems = {f"seed {seed}": case.problem(seed=seed) for seed in (0, 1, 2)}
    problems.update({f"degenerate {i}": make() for i, make in enumerate(case.degenerate)})
    for name, problem in problems.items():
        solver = case.new_solver()
        result = run(solver, problem)
        finite(result.x, f"{name}: result.x")
        close(case, result.x, case.reference(problem, solver), f"{name}: reference")


def check_scale_invariance(case: SolverCase) -> None:
    """Permuting or rescaling the data moves the answer as it must.

    Parameters
    ----------
    case : SolverCase
        The solver and its problems; needs the hook ``transforms``.
    """
    if not case.transforms:
        raise NotApplicable("no transforms= were given")
    problem, full = case.problem(), case.answer()
    for name, transform in case.transforms.items():
        other, move = transform(problem, np.random.default_rng(0))
        require(other is not problem, f"transform {name!r} must return another problem")
        result = run(case.new_solver(), other)
        require(result.success, f"{name}: {result.message}")
        close(case, result.x, move(full.x), f"transform {name!r}")


def check_work_count(case: SolverCase) -> None:
    """``result.counts`` holds non-negative integers that equal the documented formula.

    Parameters
    ----------
    case : SolverCase
        The solver and its problems; the formula is the hook ``work``.
    """
    full = case.answer()
    for name, value in full.counts.items():
        require(
            type(name) is str and type(value) is int and value >= 0,
            f"counts[{name!r}] is {value!r}, expected an integer >= 0",
        )
    if case.work is None:
        raise NotApplicable("no work= formula was given")
    for nit in sorted({0, 1, full.nit // 2, full.nit}):
        solver, problem = case.new_solver(max_iter=nit), case.problem()
        result = run(solver, problem)
        expected = dict(case.work(problem, solver, nit))
        found = {name: result.counts.get(name, 0) for name in expected}
        require(
            found == expected,
            f"counts after {nit} iterations are {found}, the formula says {expected}",
        )
