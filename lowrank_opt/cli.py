"""The command ``lowrank-opt``.

Exit status: 0 success, 1 a row is out of its band or an experiment failed, 2 wrong usage, a file
that cannot be used or a missing package, 130 interrupted; of ``solve`` also 3 infeasible,
4 unbounded, 5 a limit of time or iterations, 6 no answer within the tolerance (stalled, diverged
or a numerical error).
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lowrank_opt import FAMILIES, __version__

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["main"]

# Folders of benchmarks/: one a family, and one where a family has a second kind of objective.
BENCHMARKS = (*FAMILIES, "robust_recovery")

# Exit status of ``solve`` by the name of the result's status.
_SOLVE_CODES = {
    "CONVERGED": 0,
    "INFEASIBLE": 3,
    "UNBOUNDED": 4,
    "TIME_LIMIT": 5,
    "ITERATION_LIMIT": 5,
    "INTERRUPTED": 130,
}
_NO_ANSWER = 6


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    argv : sequence of str or None, default=None
        Arguments without the program's name; ``None`` takes those of the process.

    Returns
    -------
    int
        Exit status.
    """
    for stream in (sys.stdout, sys.stderr):
        # A terminal without Unicode shows a question mark rather than a traceback.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    arguments = _parser().parse_args(argv)
    from lowrank_opt.core.errors import LowRankOptError

    try:
        return arguments.command(arguments)
    except LowRankOptError as error:
        print(f"lowrank-opt: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("lowrank-opt: interrupted", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lowrank-opt", description="Published optimisation algorithms, certified and fast."
    )
    parser.add_argument("--version", action="version", version=f"lowrank_opt {__version__}")
    commands = parser.add_subparsers(required=True, metavar="command")

    command = commands.add_parser("list", help="solvers of every family, and reproductions")
    command.set_defaults(command=_list)

    command = commands.add_parser("info", help="versions, processor, threads, BLAS")
    command.set_defaults(command=_info)

    command = commands.add_parser("reproduce", help="re-run the experiments of the papers")
    command.add_argument("name", help="a name that `lowrank-opt list` shows, or all")
    command.add_argument(
        "--scale", choices=("smoke", "medium", "paper"), default="smoke", help="default: smoke"
    )
    command.add_argument(
        "--out", type=Path, default=Path("reports"), metavar="DIR", help="default: reports"
    )
    command.add_argument("--seed", type=int, default=0, help="default: 0")
    command.set_defaults(command=_reproduce)

    command = commands.add_parser("bench", help="benchmark a family against its peers")
    command.add_argument("family", choices=BENCHMARKS)
    command.add_argument(
        "arguments", nargs=argparse.REMAINDER, help="passed on to benchmarks/FAMILY/run.py"
    )
    command.set_defaults(command=_bench)

    command = commands.add_parser(
        "solve",
        help="solve a linear or convex quadratic program from an MPS file",
        description="Solve a linear or convex quadratic program from an MPS file. Exit status: "
        "0 solved, 2 the file cannot be used, 3 infeasible, 4 unbounded, 5 a limit, 6 no answer "
        "within the tolerance, 130 interrupted.",
    )
    command.add_argument("file", type=Path, help=".mps or .mps.gz, fixed or free format")
    command.add_argument("--tol", type=float, default=1e-6, help="relative; default: 1e-6")
    command.add_argument(
        "--method",
        choices=("auto", "halpern", "highs", "highs-ds", "highs-ipm"),
        default="auto",
        help="default: auto, as linprog chooses",
    )
    command.add_argument("--max-time", type=float, metavar="SECONDS", help="default: no limit")
    command.add_argument("--max-iter", type=int, metavar="N", help="default: the method's own")
    command.add_argument(
        "--threads", type=int, metavar="N", help="of Halpern PDHG; default: all that pay"
    )
    command.add_argument(
        "--solution", type=Path, metavar="FILE", help="write the answer: .sol, .json, .csv, .npz"
    )
    command.add_argument(
        "--log",
        type=int,
        nargs="?",
        const=1000,
        metavar="N",
        help="a line about every N iterations of Halpern PDHG, on standard error; default: 1000",
    )
    command.set_defaults(command=_solve)

    command = commands.add_parser("warmup", help="compile the kernels into numba's cache")
    command.add_argument("families", nargs="*", metavar="FAMILY", help="default: all")
    command.set_defaults(command=_warmup)
    return parser


def _list(arguments: argparse.Namespace) -> int:
    from lowrank_opt.core import registered_solvers
    from lowrank_opt.papers import REPRODUCTIONS

    by_family: dict[str, list[tuple[str, str]]] = {}
    for name, solver in registered_solvers().items():
        family = solver.__module__.split(".")[1]
        summary = (solver.__doc__ or "").strip().partition("\n")[0]
        by_family.setdefault(family, []).append((name, summary))
    blocks = [*by_family.items()]
    blocks.append(("reproductions", [(name, p.title) for name, p in REPRODUCTIONS.items()]))
    width = max(len(name) for _, entries in blocks for name, _ in entries)
    for title, entries in blocks:
        print(title)
        for name, text in entries:
            print(f"  {name:<{width}}  {text}")
    return 0


def _info(arguments: argparse.Namespace) -> int:
    from lowrank_opt.core.environment import show_versions

    print(show_versions())
    return 0


def _reproduce(arguments: argparse.Namespace) -> int:
    from lowrank_opt.papers import Section, reproduce
    from lowrank_opt.papers.report import format_seconds

    def progress(section: Section) -> None:
        outcome = "done" if section.ok else "FAILED" if section.error else "out of band"
        seconds = format_seconds(section.seconds)
        print(f"{outcome:>12}  {section.title}  {seconds}".rstrip(), file=sys.stderr, flush=True)

    report = reproduce(
        arguments.name, arguments.scale, random_state=arguments.seed, progress=progress
    )
    stem = "report" if arguments.name == "all" else arguments.name
    page, data = report.write(arguments.out, stem)
    print(report.to_terminal())
    print(f"{page}\n{data}")
    return 0 if report.ok else 1


def _bench(arguments: argparse.Namespace) -> int:
    from lowrank_opt.core.errors import ParameterError

    # An installed package has no benchmarks: look where the command runs, then in the checkout.
    roots = (Path.cwd(), Path(__file__).resolve().parents[1])
    scripts = [root / "benchmarks" / arguments.family / "run.py" for root in roots]
    script = next((path for path in scripts if path.exists()), None)
    if script is None:
        raise ParameterError(
            f"benchmarks/{arguments.family}/run.py was not found in {Path.cwd()}: "
            "run the command in a checkout of the repository"
        )
    command = [sys.executable, str(script), *arguments.arguments]
    return subprocess.run(command, check=False).returncode


def _solve(arguments: argparse.Namespace) -> int:
    from lowrank_opt.core.errors import ParameterError
    from lowrank_opt.core.params import validate_parameters
    from lowrank_opt.monotone.front import PARAMETERS, solve_program
    from lowrank_opt.monotone.mps import read_mps
    from lowrank_opt.monotone.solution_file import check_suffix, write_solution

    names = ("method", "tol", "max_iter", "max_time")
    given = {name: getattr(arguments, name) for name in names}
    validate_parameters("solve", given, PARAMETERS)
    if arguments.solution is not None:
        check_suffix(arguments.solution)
        if not arguments.solution.parent.is_dir():
            raise ParameterError(f"the folder {arguments.solution.parent} does not exist")
    begin = time.perf_counter()
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            problem = read_mps(arguments.file)
    except OSError as error:
        raise ParameterError(f"{arguments.file} cannot be read: {error.strerror}") from error
    reading = time.perf_counter() - begin
    for warning in caught:
        print(f"lowrank-opt: warning: {warning.message}", file=sys.stderr)
    defaults: dict[str, Any] = {"n_threads": arguments.threads}
    if arguments.log is not None:
        defaults |= {"log": arguments.log, "callback": _LogLines()}
    result = solve_program(problem, **given, defaults=defaults)
    for name, text in _answer(problem, result, reading):
        print(f"{name:<16}  {text}".rstrip())
    if arguments.solution is not None:
        print(f"{'solution':<16}  {write_solution(problem, result, arguments.solution)}")
    return _SOLVE_CODES.get(result.status.name, _NO_ANSWER)


class _LogLines:
    """Callback that prints the rows of the iteration log as they come."""

    def __init__(self) -> None:
        self.printed = 0

    def __call__(self, intermediate_result: Any) -> None:
        log = intermediate_result.state.log
        if log and not self.printed:
            heads = ("iteration", "primal", "dual", "gap", "primal objective", "dual objective")
            print(f"{heads[0]:>10}", *(f"{s:>16}" for s in heads[1:]), file=sys.stderr)
        for row in log[self.printed :]:
            numbers = (f"{v:16.3e}" for v in row[1:4])
            values = (f"{v:16.8g}" for v in row[4:6])
            print(f"{row[0]:10d}", *numbers, *values, file=sys.stderr, flush=True)
        self.printed = len(log)


def _answer(problem: Any, result: Any, reading: float) -> list[tuple[str, str]]:
    """Return the rows of the table that ``solve`` prints."""
    m, n = problem.shape
    rows = [
        ("problem", problem.name),
        ("rows", f"{m}"),
        ("columns", f"{n}"),
        ("nonzeros", f"{problem.nnz}"),
        ("sense", "maximize" if problem.maximize else "minimize"),
        ("solver", str(result.solver)),
        ("status", result.status.name),
        ("message", result.message),
        ("iterations", f"{result.nit}"),
    ]
    if problem.Q is not None:
        rows.insert(4, ("quadratic terms", f"{problem.Q.nnz}"))
    no_point = result.status.name in ("INFEASIBLE", "UNBOUNDED") or result.x is None
    if not no_point and result.certificate is not None:
        certificate = result.certificate
        sign = -1.0 if problem.maximize else 1.0
        rows.append(("objective", f"{sign * certificate.objective:.12g}"))
        rows += [
            (name.replace("_", " "), f"{certificate.details[name]:.3e}")
            for name in ("primal_residual", "dual_residual", "relative_gap")
        ]
        rows.append(("residual", f"{certificate.residual:.3e}"))
    return [*rows, ("reading", f"{reading:.3f} s"), ("time", f"{result.time:.3f} s")]


def _warmup(arguments: argparse.Namespace) -> int:
    from lowrank_opt.core import warmup

    seconds = warmup(arguments.families or None)
    width = max(map(len, seconds), default=0)
    for name, value in seconds.items():
        print(f"{name:<{width}}  {value:8.3f} s")
    print(f"{'total':<{width}}  {sum(seconds.values()):8.3f} s")
    return 0
