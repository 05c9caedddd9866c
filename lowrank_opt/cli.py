"""The command ``lowrank-opt``.

Exit status: 0 success, 1 a row is out of its band or an experiment failed, 2 wrong usage or a
missing package, 130 interrupted.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from lowrank_opt import FAMILIES, __version__

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["main"]

# Folders of benchmarks/: one a family, and one where a family has a second kind of objective.
BENCHMARKS = (*FAMILIES, "robust_recovery")


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


def _warmup(arguments: argparse.Namespace) -> int:
    from lowrank_opt.core import warmup

    seconds = warmup(arguments.families or None)
    width = max(map(len, seconds), default=0)
    for name, value in seconds.items():
        print(f"{name:<{width}}  {value:8.3f} s")
    print(f"{'total':<{width}}  {sum(seconds.values()):8.3f} s")
    return 0
